"""Whoever guesses, replays, relays, crowds or stops the process: over real sockets, each gets nothing, or it is said.

The machines without sockets are in tests/test_pairing.py.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cli import main as cli_main
from cli import peers
from replica.clone import Clone
from replica.errors import CodeExpired, TooManyGuesses, WrongCode
from replica.store import Store
from tests.test_node import founder, running
from tests.test_pairing import BAD, HOST, INVITER, JOINER
from transport import guesses
from transport.codes import parse
from transport.guesses import MOST, PERIOD, Guesses, elapsing
from transport.inviting import invite
from transport.pairing import SUBPROTOCOL, Joiner, State
from transport.tls import pairing_client_context, write_pem

HERE = cli_main.__file__.rpartition("/cli/")[0]


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


class Machine:
    """True time, a wall clock that anybody may set, and a clock since the last start."""

    def __init__(self, store: Store):
        self.store, self.true, self.wall_off, self.started = store, 1e9, 0.0, 1e9 - 5e5

    def guesses(self) -> Guesses:
        """As a new process has it."""
        return Guesses(self.store, wall=lambda: self.true + self.wall_off, steady=lambda: self.true - self.started)


@pytest.fixture
def machine(tmp_path):
    store = Store.create(tmp_path / "store.db")
    yield Machine(store)
    store.close()


def spend_all(budget: Guesses) -> None:
    for _ in range(MOST):
        budget.spend()


# --- the clone's budget


def test_the_budget_is_spent_over_all_processes_and_comes_back_after_its_hour(machine):
    for _ in range(MOST):
        machine.guesses().spend()
        machine.true += 60
    with pytest.raises(TooManyGuesses, match=r"10 wrong codes .* nobody in for 50 more minutes") as refused:
        machine.guesses().spend()
    assert "another clone of the workspace" in refused.value.hint
    machine.true += PERIOD - MOST * 60 - 1
    assert machine.guesses().pause() == pytest.approx(1)
    machine.true += 1
    machine.guesses().spend()
    with pytest.raises(TooManyGuesses):
        machine.guesses().spend()


@pytest.mark.parametrize("jump", [-400 * 86_400, -PERIOD, PERIOD, 400 * 86_400])
def test_a_wall_clock_that_is_set_neither_unlocks_nor_locks(machine, jump):
    spend_all(machine.guesses())
    machine.wall_off += jump
    assert machine.guesses().pause() == pytest.approx(PERIOD)
    machine.true += PERIOD - 1
    assert machine.guesses().pause() == pytest.approx(1)
    machine.true += 2
    machine.guesses().spend()


@pytest.mark.parametrize("set_back", [0, 3 * 86_400])
def test_a_restart_of_the_machine_does_not_unlock_and_locks_no_longer_than_an_hour(machine, set_back):
    machine.true += 90 * 86_400  # up for months: the clock of the new start will not come near for long
    spend_all(machine.guesses())
    machine.true += 600
    machine.started, machine.wall_off = machine.true - 20, -set_back
    assert machine.guesses().pause() == pytest.approx(PERIOD if set_back else PERIOD - 600)
    machine.true += PERIOD
    assert machine.guesses().pause() == 0.0


steps = st.lists(
    st.one_of(
        st.just(("spend", 0.0)),
        st.tuples(st.just("wait"), st.floats(0, PERIOD / 2)),
        st.tuples(st.just("set"), st.floats(-1e7, 1e7)),
        st.just(("look", 0.0)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_in_no_hour_more_than_ten_whatever_is_done_to_the_clock(steps):
    store = Memory()
    machine, spent = Machine(store), []
    for what, amount in steps:
        if what == "spend":
            with contextlib.suppress(TooManyGuesses):
                for _ in range(4):
                    machine.guesses().spend()
                    spent.append(machine.true)
        elif what == "wait":
            machine.true += amount
        elif what == "set":
            machine.wall_off += amount
        else:
            machine.guesses().pause()
        assert len(store.kept or "") < 500  # bounded
    for at in spent:
        assert sum(at <= other < at + PERIOD - 0.01 for other in spent) <= MOST
    machine.true += PERIOD + 1
    assert machine.guesses().pause() == 0.0


class Memory:
    """A store of one value: quick."""

    kept = None

    def transaction(self):
        return contextlib.nullcontext()

    def meta(self, key, default=None):
        return default if self.kept is None else self.kept

    def set_meta(self, key, value):
        self.kept = value


@pytest.mark.parametrize("kept", ["", "[]", "[[1], 2]", '["x", 1, 1]', b"\xff", 7, "[[NaN], 1, 1]", "[[-1e9], 1, 1]",
                                  f"[{[1] * 11}, 1, 1]", "[[1], 1e999, 1]"])  # fmt: skip
def test_a_record_that_cannot_be_read_counts_as_spent_and_ends_as_every_pause(machine, kept):
    machine.store.set_meta(guesses.KEY, kept)
    with pytest.raises(TooManyGuesses):
        machine.guesses().check()
    machine.true += PERIOD + 1
    machine.guesses().check()
    machine.guesses().spend()


def test_an_invitation_ends_by_the_faster_of_two_clocks_and_a_clock_set_back_does_not_prolong_it():
    wall, steady = [1000.0], [50.0]
    elapsed = elapsing(lambda: wall[0], lambda: steady[0])
    assert elapsed() == 0.0
    wall[0] -= 500
    steady[0] += 5
    assert elapsed() == 5.0
    wall[0] += 560  # the machine slept, or the clock was put right
    assert elapsed() == 60.0
    wall[0] -= 560
    assert elapsed() == 60.0


# --- invitations of a clone, one after the other


async def guess(port: int, code: str, source: str = HOST, certificate: bytes = JOINER) -> bytes:
    """One run of a joiner that calls from `source`. Raises as `Joiner`; ConnectionClosed: it was hung up on."""
    options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
    async with connect(
        f"wss://{HOST}:{port}/", proxy=None, local_addr=(source, 0), compression=None, **options
    ) as socket:
        seen = socket.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        joining = Joiner(parse(code)[1], certificate, "guesser", seen)
        await socket.send(joining.open())
        while joining.state is not State.OVER:
            for reply in joining.receive(await socket.recv()):
                await socket.send(reply)
        return joining.welcome


def wrong(code: str) -> str:
    """Another code of the same number."""
    number, *words = code.split("-")
    return "-".join([number, "acorn" if words[0] != "acorn" else "zebra", *words[1:]])


def test_wrong_codes_from_any_address_over_any_invitation_and_restart_end_in_a_pause_that_is_said(tmp_path):
    async def story():
        tried, heard = 0, []
        founder(tmp_path).close()
        with pytest.raises(TooManyGuesses, match=r"10 wrong codes .* 60 more minutes"):
            while tried < 50:
                with Clone.open(tmp_path / "alice") as alice:  # each time as after a restart
                    async with running(alice) as a:
                        invitation = invite(a, 60)
                        code = await anext(invitation)
                        rest = asyncio.ensure_future(collect(invitation, heard))
                        for _ in range(3):
                            with contextlib.suppress(WrongCode, CodeExpired, OSError, InvalidHandshake):
                                tried += 1
                                await guess(code["port"], wrong(code["code"]), f"127.0.0.{tried + 1}")
                        with contextlib.suppress(CodeExpired):
                            await rest
        assert tried in (10, 11, 12)
        assert sum(event["event"] == "wrong_code" for event in heard) == MOST
        with Clone.open(tmp_path / "alice") as alice:
            assert len(alice.members()) == 1
            async with running(alice) as a:
                with pytest.raises(TooManyGuesses):
                    await anext(invite(a, 60))

    asyncio.run(story())


async def collect(events, into: list) -> None:
    async for event in events:
        into.append(event)


def test_the_inviting_person_is_told_of_a_wrong_code_while_the_invitation_is_open(tmp_path, capsys):
    async def story():
        with founder(tmp_path) as alice:
            async with running(alice) as a:
                invitation = invite(a, 60)
                code = await anext(invitation)
                with pytest.raises(WrongCode):
                    await guess(code["port"], wrong(code["code"]))
                event = await asyncio.wait_for(anext(invitation), 5)
                assert event == {"event": "wrong_code", "tries": 2}
                peers._tell_invitation(event, json=False)
                await invitation.aclose()

    asyncio.run(story())
    out, err = capsys.readouterr()
    assert out == "" and "2 tries left" in err and "someone in the network" in err


def test_the_code_of_an_invitation_that_was_taken_back_opens_no_later_one(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            async with running(alice) as a:
                first = invite(a, 60)
                old = await anext(first)
                await first.aclose()
                with pytest.raises((OSError, InvalidHandshake)):
                    await guess(old["port"], old["code"])
                second = invite(a, 60)
                new = await anext(second)
                assert new["code"] != old["code"]
                with pytest.raises(WrongCode):
                    await guess(new["port"], old["code"])
                await second.aclose()
            assert len(alice.members()) == 1

    asyncio.run(story())


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from replica.store import Store
from tests.test_pairing import GOOD, INVITER
from transport import pairing
from transport.guesses import Guesses

pairing.hmac.compare_digest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # at the moment of judging
store = Store.open(Path(sys.argv[1]))
asyncio.run(pairing.serve_pairing(
    pairing.Invitation(GOOD, 1e12), Path(sys.argv[2]), INVITER, lambda *_: b"", guesses=Guesses(store),
    now=lambda: 0.0, host="127.0.0.1", listening=lambda port: print(port, flush=True)))
"""


def test_a_process_killed_while_it_judges_a_guess_has_counted_it(tmp_path, machine):
    write_pem(tmp_path / "inviter.pem", bytes([1]) * 32, INVITER)
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, machine.store.path, tmp_path / "inviter.pem"],
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": HERE}, text=True,
        )  # fmt: skip
        with child:
            with pytest.raises((ConnectionClosed, OSError)):
                asyncio.run(guess(int(child.stdout.readline()), BAD))
            assert child.wait(10) == -signal.SIGKILL
    left = 0
    budget = Guesses(machine.store)
    with pytest.raises(TooManyGuesses):
        while True:
            budget.spend()
            left += 1
    assert left == MOST - 2
