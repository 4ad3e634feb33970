"""Whoever guesses, replays, relays, crowds or stops the process: over real sockets, each gets nothing, or it is said.

The machines without sockets are in tests/test_pairing.py.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from cli import main as cli_main
from cli import peers
from replica.clone import Clone
from replica.errors import CodeExpired, ProtocolError, ReplicaError, TooManyGuesses, WrongCode
from replica.store import Store
from tests.test_node import founder, running
from tests.test_pairing import BAD, GOOD, HOST, INVITER, JOINER, STRANGER, Listener, joiner, run
from transport import control, guesses, pairing
from transport.codes import parse
from transport.frames import decode, encode
from transport.guesses import MOST, PERIOD, Guesses, elapsing
from transport.inviting import invite
from transport.pairing import MAX_CONNECTIONS, SUBPROTOCOL, VERSION, Invitation, Inviter, Joiner, State, join
from transport.tls import pairing_client_context, pairing_server_context, write_pem

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
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(HOST, old["port"])
                second = invite(a, 60)
                new = await anext(second)
                assert new["code"] != old["code"]
                with pytest.raises(WrongCode):
                    await guess(new["port"], old["code"])
                await second.aclose()
            assert len(alice.members()) == 1

    asyncio.run(story())


def test_an_invitation_of_a_running_node_is_over_when_the_command_that_waits_for_it_is_stopped(tmp_path):
    """It says that Ctrl-C takes the code back; the node must notice that nobody waits any more."""

    async def story():
        with founder(tmp_path) as alice:
            async with running(alice, serve=True):
                events = control.stream(alice.root, "invite", expires=60, timeout=20)
                code = await asyncio.to_thread(next, events)
                events.close()
                until = time.monotonic() + 10
                with pytest.raises((OSError, InvalidHandshake)):
                    while time.monotonic() < until:
                        _, writer = await asyncio.open_connection(HOST, code["port"])
                        writer.close()
                        await asyncio.sleep(0.01)
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


# --- somebody in between


@contextlib.asynccontextmanager
async def listening(folder, **options):
    """An invitation with a real budget; what was refused is in `refused`."""
    store = Store.create(folder / "guesses.db")
    refused: list[ReplicaError] = []
    try:
        async with Listener(folder, guesses=Guesses(store), refused=refused.append, **options) as listener:
            listener.refused, listener.budget = refused, Guesses(store)
            yield listener
    finally:
        store.close()


def spent(listener) -> int:
    return 3 - listener.invitation.tries


class Proxy:
    """Ends TLS on both sides with keys of its own; `change(message, to_inviter)` is what it makes of each message."""

    def __init__(self, folder, target: int, change=lambda message, to_inviter: message):
        self.pem, self.target, self.change = folder / "proxy.pem", target, change
        write_pem(self.pem, bytes([3]) * 32, STRANGER)
        self.said: list[bytes] = []

    async def __aenter__(self) -> int:
        options = {"ssl": pairing_server_context(self.pem), "subprotocols": [SUBPROTOCOL]}
        self.server = await serve(self.relay, HOST, 0, **options)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    async def relay(self, joining):
        options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
        async with connect(f"wss://{HOST}:{self.target}/", proxy=None, **options) as inviting:
            await asyncio.gather(self.pump(joining, inviting, True), self.pump(inviting, joining, False))

    async def pump(self, source, target, to_inviter):
        async for message in source:
            self.said.append(message)
            with contextlib.suppress(ConnectionClosed):
                await target.send(self.change(message, to_inviter))
        await target.close()


def own_certificate(message, to_inviter):
    kind, *fields = decode(message)
    return encode(kind, fields[0], STRANGER, *fields[2:]) if kind == "hi" else message


def own_name(message, to_inviter):
    kind, *fields = decode(message)
    return encode(kind, *fields[:2], "somebody else", fields[3]) if kind == "hi" else message


def refusal_hidden(message, to_inviter):
    return encode("welcome", b"come in", bytes(32)) if decode(message)[0] == "refused" else message


@pytest.mark.parametrize("change", [None, own_certificate, own_name, refusal_hidden], ids=lambda c: c and c.__name__)
def test_a_proxy_that_does_not_know_the_code_is_refused_on_both_sides_and_costs_one_try(tmp_path, change):
    async def scene():
        async with listening(tmp_path) as listener:
            proxy = Proxy(tmp_path, listener.port, *([change] if change else []))
            async with proxy as port:
                with pytest.raises(WrongCode, match="wrong, or someone interfered"):
                    await listener.joining(port=port)
            assert [type(error) for error in listener.refused] == [WrongCode]
            assert not listener.admitted and spent(listener) == 1
            # The right joiner, without the proxy, still gets in.
            assert (await listener.joining()).welcome == b"welcome"

    run(scene())


def test_a_proxy_that_plays_both_parts_with_a_guessed_code_is_refused_on_both_sides(tmp_path):
    """He is an inviter for the joiner and a joiner for the inviter: one guess on each side."""
    pem = tmp_path / "proxy.pem"
    write_pem(pem, bytes([3]) * 32, STRANGER)

    async def scene():
        async with listening(tmp_path) as listener:

            async def play(socket):
                inviter = Inviter(Invitation(BAD, 1e12), STRANGER, lambda *_: b"come in", lambda: 0.0, listener.budget)
                with contextlib.suppress(ConnectionClosed):
                    while inviter.state not in (State.OVER, State.FAILED):
                        for reply in inviter.receive(await socket.recv()):
                            await socket.send(reply)

            async with serve(play, HOST, 0, ssl=pairing_server_context(pem), subprotocols=[SUBPROTOCOL]) as server:
                with pytest.raises(WrongCode, match="someone interfered"):
                    await listener.joining(port=server.sockets[0].getsockname()[1])
            with pytest.raises(WrongCode):
                await guess(listener.port, BAD, certificate=STRANGER)
            assert not listener.admitted and [type(error) for error in listener.refused] == [WrongCode]

    run(scene())


# --- what was recorded


def test_a_recorded_pairing_gives_nothing_at_any_invitation(tmp_path):
    """Message for message, at the one it was recorded at and at another one of the same code."""

    async def scene():
        async with listening(tmp_path) as listener:
            proxy = Proxy(tmp_path, listener.port)
            async with proxy as port:
                with pytest.raises(WrongCode):  # the recorder is in between
                    await listener.joining(port=port)
            said = proxy.said
            assert [decode(message)[0] for message in said] == ["hi", "answer", "confirm", "refused"]
            for messages in (said, said[:1] + said[2:], said[2:], said[::-1]):
                heard = await say(listener.port, messages)
                assert {decode(message)[0] for message in heard} <= {"answer", "refused"}
            assert not listener.admitted
        other = tmp_path / "other"
        other.mkdir()
        async with listening(other) as listener:
            joining, inviter = joiner(), Inviter(Invitation(GOOD, 1e12), INVITER, lambda *_: b"", lambda: 0.0,
                                                 listener.budget)  # fmt: skip
            hi = joining.open()
            [confirm] = joining.receive(inviter.receive(hi)[0])
            assert decode(inviter.receive(confirm)[0])[0] == "welcome"  # a pairing that succeeded
            heard = await say(listener.port, [hi, confirm])
            assert [decode(message)[0] for message in heard] == ["answer", "refused"]
            assert not listener.admitted and spent(listener) == 1

    run(scene())


async def say(port: int, messages: list[bytes]) -> list[bytes]:
    """Send these whatever comes; what came."""
    heard: list[bytes] = []
    options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
    async with connect(f"wss://{HOST}:{port}/", proxy=None, **options) as socket:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                await socket.send(message)
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            while True:
                heard.append(await asyncio.wait_for(socket.recv(), 1))
    return heard


def test_recorded_bytes_of_a_connection_give_nothing(tmp_path):
    """What somebody on the cable has: the TLS records of a pairing that succeeded, sent again to an open invitation."""

    async def scene():
        async with listening(tmp_path) as listener:
            sent = bytearray()

            async def copy(reader, writer):
                onward_reader, onward = await asyncio.open_connection(HOST, listener.port)

                async def back():
                    while data := await onward_reader.read(65536):
                        writer.write(data)
                    writer.close()

                returning = asyncio.ensure_future(back())
                while data := await reader.read(65536):
                    sent.extend(data)
                    onward.write(data)
                onward.close()
                await returning

            async with await asyncio.start_server(copy, HOST, 0) as server:
                result = await listener.joining(port=server.sockets[0].getsockname()[1])
                assert result.welcome == b"welcome"  # a cable changes nothing
            assert len(sent) > 1000
        again = tmp_path / "again"
        again.mkdir()
        async with listening(again) as listener:
            reader, writer = await asyncio.open_connection(HOST, listener.port)
            writer.write(bytes(sent))
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            assert not listener.admitted and spent(listener) == 0 and not listener.refused

    run(scene())


# --- at the same moment, in the wrong part, too many


def test_of_several_that_know_the_code_and_come_at_once_exactly_one_is_let_in(tmp_path):
    async def scene():
        async with listening(tmp_path) as listener:
            came = await asyncio.gather(*(listener.joining() for _ in range(6)), return_exceptions=True)
            assert sum(not isinstance(result, Exception) for result in came) == 1
            assert all(isinstance(e, ReplicaError) for e in came if isinstance(e, Exception)), came
            assert len(listener.admitted) == 1 and await listener.task == "used"
            assert listener.budget.pause() == 0.0

    run(scene())


@pytest.mark.parametrize("part", ["answer", "welcome", "refused", "confirm", "hi twice", "its own answer"])
def test_who_plays_the_wrong_part_or_reflects_what_he_hears_gets_nothing(tmp_path, part):
    async def scene():
        async with listening(tmp_path) as listener:
            first = joiner().open()
            point = decode(first)[4]
            messages = {
                "answer": [encode("answer", point)], "welcome": [encode("welcome", b"", bytes(32))],
                "refused": [encode("refused", "code")], "confirm": [encode("confirm", bytes(32))],
                "hi twice": [first, first],
            }.get(part)  # fmt: skip
            if messages is None:  # the inviter's own point, given back to it as a joiner's
                [answer] = await say(listener.port, [first])
                messages = [encode("hi", VERSION, JOINER, "laptop-b", decode(answer)[1]), encode("confirm", bytes(32))]
            heard = await say(listener.port, messages)
            assert {decode(message)[0] for message in heard} <= {"answer", "refused"}
            assert not listener.admitted and spent(listener) == 0
            assert (await listener.joining()).welcome == b"welcome"

    run(scene())


def test_an_inviter_that_gives_back_what_it_hears_cannot_welcome(tmp_path):
    pem = tmp_path / "proxy.pem"
    write_pem(pem, bytes([3]) * 32, STRANGER)

    async def mirror(socket):
        with contextlib.suppress(ConnectionClosed):
            hi = decode(await socket.recv())
            await socket.send(encode("answer", b"B" + hi[4][1:]))  # the same point, as if from the other side
            confirm = decode(await socket.recv())
            await socket.send(encode("welcome", b"come in", confirm[1]))
            await socket.wait_closed()

    async def scene():
        async with serve(mirror, HOST, 0, ssl=pairing_server_context(pem), subprotocols=[SUBPROTOCOL]) as server:
            with pytest.raises((WrongCode, ProtocolError)):
                await join([(HOST, server.sockets[0].getsockname()[1])], GOOD, JOINER, "laptop-b")

    run(scene())


FIRST = joiner().open()  # one for all: the crowd is to cost the listener something, not this test


async def silent(port: int, depth: str, source: str, stack: contextlib.AsyncExitStack) -> None:
    """A connection that goes this far and then says nothing more."""
    if depth in ("nothing", "half a handshake"):
        _, writer = await asyncio.open_connection(HOST, port, local_addr=(source, 0))
        stack.callback(writer.close)
        if depth != "nothing":
            writer.write(b"\x16\x03\x01\x02\x00\x01")
    elif depth == "half a request":
        context = pairing_client_context()
        _, writer = await asyncio.open_connection(HOST, port, ssl=context, server_hostname="x", local_addr=(source, 0))
        stack.callback(writer.close)
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
    else:
        options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
        socket = await connect(f"wss://{HOST}:{port}/", proxy=None, local_addr=(source, 0), **options)
        stack.push_async_callback(socket.close)
        if depth == "after the first message":
            await socket.send(FIRST)


@pytest.mark.parametrize("depth", ["nothing", "half a handshake", "half a request", "no message",
                                   "after the first message"])  # fmt: skip
def test_a_crowd_that_is_silent_anywhere_holds_up_nobody(tmp_path, depth):
    """More than may be there at once, from one address; the right joiner comes from another."""

    async def scene():
        async with contextlib.AsyncExitStack() as stack, listening(tmp_path) as listener:
            for _ in range(MAX_CONNECTIONS + 8):
                await silent(listener.port, depth, "127.0.0.2", stack)
            began = time.monotonic()
            assert (await listener.joining()).welcome == b"welcome"
            assert time.monotonic() - began < pairing.RUN_SECONDS / 2
            assert len(listener.admitted) == 1

    run(scene())


def test_a_stream_of_joiners_that_keep_the_listener_at_work_does_not_starve_the_right_one(tmp_path):
    async def scene():
        async with listening(tmp_path) as listener:
            came = 0

            async def flood():
                nonlocal came
                while True:
                    with contextlib.suppress(ConnectionClosed, OSError, InvalidHandshake):
                        async with contextlib.AsyncExitStack() as stack:
                            await silent(listener.port, "after the first message", "127.0.0.2", stack)
                            came += 1
                            await asyncio.sleep(0.05)

            crowd = [asyncio.ensure_future(flood()) for _ in range(MAX_CONNECTIONS)]
            try:
                while came < MAX_CONNECTIONS:
                    await asyncio.sleep(0.01)
                assert (await listener.joining()).welcome == b"welcome"
            finally:
                for task in crowd:
                    task.cancel()
                await asyncio.gather(*crowd, return_exceptions=True)
            assert spent(listener) == 1 and listener.budget.pause() == 0.0  # the right code alone was judged

    run(scene())


def test_a_joiner_from_elsewhere_waits_for_one_turn_of_a_crowd_and_none_of_those_that_have_gone():
    async def scene():
        turns, done = pairing._Turns(), []

        def work(who: bytes) -> list[bytes]:
            done.append(who)
            return []

        crowd = [asyncio.ensure_future(turns.of("crowd")(work, b"crowd", lambda: False)) for _ in range(20)]
        left = asyncio.ensure_future(turns.of("crowd")(work, b"gone", lambda: True))
        await asyncio.sleep(0)
        await turns.of("elsewhere")(work, b"elsewhere", lambda: False)
        assert done.count(b"crowd") <= 2 and done[-1] == b"elsewhere"
        await asyncio.gather(*crowd, left)
        assert done.count(b"crowd") == 20 and b"gone" not in done

    run(scene())


def test_who_spends_the_tries_closes_the_invitation_and_lets_nobody_in(tmp_path):
    """A denial of service, and no more: it is counted, said, and the next code works."""

    async def scene():
        async with listening(tmp_path) as listener:
            for source in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
                with pytest.raises(WrongCode):
                    await guess(listener.port, BAD, source)
            assert await listener.task == "exhausted" and len(listener.refused) == 3
            with pytest.raises(ReplicaError):
                await listener.joining()
            assert not listener.admitted

    run(scene())


def test_an_unfinished_tls_handshake_is_cut_off(tmp_path, monkeypatch):
    """Else a crowd of them holds the process's file handles for a minute each."""
    monkeypatch.setattr(pairing, "HANDSHAKE_SECONDS", 0.2)

    async def scene():
        async with listening(tmp_path) as listener:
            reader, writer = await asyncio.open_connection(HOST, listener.port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    run(scene())
