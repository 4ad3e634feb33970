"""A code admits who knows it, once, and nobody who listens, relays, guesses or is silent. (FAILURES 28, 32)"""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from replica.errors import (
    CodeExpired,
    PairingError,
    ProtocolError,
    ReplicaError,
    TooManyGuesses,
    Unreachable,
    WrongCode,
)
from replica.keys import Identity
from transport.codes import distance, new_code, parse, words
from transport.frames import decode, encode
from transport.pairing import (
    MAX_MESSAGE,
    SUBPROTOCOL,
    VERSION,
    Invitation,
    Inviter,
    Joiner,
    State,
    join,
    serve_pairing,
)
from transport.tls import make_certificate, pairing_client_context, pairing_server_context, write_pem

HOST = "127.0.0.1"
GOOD, BAD = "37-acorn-zebra-tulip", "37-acorn-zebra-tiger"
INVITER, JOINER, STRANGER = (make_certificate(bytes([seed]) * 32) for seed in (1, 2, 3))


# --- codes


def test_the_list_has_256_distinct_plain_words_that_are_hard_to_confuse():
    known = words()
    assert len(set(known)) == len(known) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 9 for word in known)
    for one in known:
        for other in known:
            assert one == other or (distance(one, other) >= 2 and not one.startswith(other))


@given(st.randoms(use_true_random=False), st.sampled_from(["-", " ", "_", "--", " - "]), st.booleans())
def test_a_code_is_read_however_it_is_typed(random, between, upper):
    code = new_code(random.randrange)
    typed = code.replace("-", between)
    assert parse(f" {typed.upper() if upper else typed} ") == (int(code.split("-")[0]), code.split("-", 1)[1])


def test_a_mistyped_word_is_met_with_the_one_that_was_meant():
    with pytest.raises(WrongCode, match="'zebrs'") as caught:
        parse("37-acorn-zebrs-tulip")
    assert "'zebra'" in caught.value.hint


NO_CODES = ["", "37", "0-acorn-zebra-tulip", "1000-acorn-zebra-tulip", "x-acorn-zebra-tulip", "²-acorn-zebra-tulip"]
NO_CODES += ["37-acorn-zebra", "37-acorn-zebra-tulip-tulip", "a " * 60]


@pytest.mark.parametrize("text", NO_CODES)
def test_what_cannot_be_a_code_is_a_wrong_code(text):
    with pytest.raises(WrongCode):
        parse(text)


@given(st.text(max_size=120))
def test_any_text_is_a_code_or_a_wrong_code(text):
    try:
        parse(text)
    except WrongCode:
        pass


# --- the machines


class Budget:
    """Stands for the clone's durable budget of guesses (tests/test_pairing_attacks.py has the real one)."""

    def __init__(self, left: int = 10):
        self.left = left

    def spend(self) -> None:
        if not self.left:
            raise TooManyGuesses("enough")
        self.left -= 1

    def give_back(self) -> None:
        self.left += 1

    def pause(self) -> float:
        return 0.0 if self.left else 60.0


class Run:
    """An invitation, one inviter for each run, and what was admitted and saved."""

    def __init__(self, **given):
        self.invitation = Invitation(GOOD, expires_at=100.0, **given)
        self.admitted, self.guesses, self.now = [], Budget(), 0.0

    def inviter(self) -> Inviter:
        return Inviter(self.invitation, INVITER, self.admit, lambda: self.now, self.guesses)

    def admit(self, certificate: bytes, name: str) -> bytes:
        assert self.invitation.used, "whoever is admitted has used the invitation up before"
        self.admitted.append((certificate, name))
        return b"welcome"


def joiner(code: str = GOOD, seen: bytes = INVITER) -> Joiner:
    return Joiner(parse(code)[1], JOINER, "laptop-b", seen)


def converse(inviter: Inviter, joining: Joiner) -> list[bytes]:
    """Carry messages until neither side has one; all that was said."""
    said, to_inviter = [], [joining.open()]
    while to_inviter:
        said += to_inviter
        replies = [reply for message in to_inviter for reply in inviter.receive(message)]
        said += replies
        to_inviter = [message for reply in replies for message in joining.receive(reply)]
    return said


def test_the_right_code_admits_the_joiner_and_brings_the_welcome():
    run, joining = Run(), joiner()
    inviter = run.inviter()
    converse(inviter, joining)
    assert inviter.state is joining.state is State.OVER
    assert joining.welcome == b"welcome"
    assert run.admitted == [(JOINER, "laptop-b")]


def test_a_code_admits_once():
    run = Run()
    converse(run.inviter(), joiner())
    with pytest.raises(CodeExpired):
        converse(run.inviter(), joiner())
    assert len(run.admitted) == 1


def test_of_two_joiners_at_once_only_one_is_admitted():
    run, first, second = Run(), joiner(), joiner()
    one, two = run.inviter(), run.inviter()
    confirms = [first.receive(one.receive(first.open())[0])[0], second.receive(two.receive(second.open())[0])[0]]
    first.receive(one.receive(confirms[0])[0])
    with pytest.raises(CodeExpired):
        second.receive(two.receive(confirms[1])[0])
    assert len(run.admitted) == 1


def test_after_three_wrong_codes_the_right_one_is_too_late():
    run = Run()
    for _ in range(3):
        with pytest.raises(WrongCode):
            converse(run.inviter(), joiner(BAD))
    with pytest.raises(CodeExpired):
        converse(run.inviter(), joiner())
    assert run.invitation.state(0.0) == "exhausted" and not run.admitted and run.guesses.left == 7


def test_when_the_clones_budget_is_spent_not_even_the_right_code_is_judged():
    run, joining = Run(), joiner()
    run.guesses.left = 1
    late = run.inviter()
    [confirm] = joining.receive(late.receive(joining.open())[0])
    with pytest.raises(WrongCode):
        converse(run.inviter(), joiner(BAD))
    with pytest.raises(CodeExpired):
        joining.receive(late.receive(confirm)[0])
    with pytest.raises(CodeExpired):
        converse(run.inviter(), joiner())
    assert not run.admitted


def test_a_right_code_costs_nothing_of_the_clones_budget():
    run = Run()
    converse(run.inviter(), joiner())
    assert run.guesses.left == 10


def test_an_invitation_expires_even_between_two_messages():
    run, joining = Run(), joiner()
    inviter = run.inviter()
    [answer] = inviter.receive(joining.open())
    [confirm] = joining.receive(answer)
    run.now = 100.0
    with pytest.raises(CodeExpired):
        joining.receive(inviter.receive(confirm)[0])
    with pytest.raises(CodeExpired):
        converse(run.inviter(), joiner())
    assert not run.admitted


def test_the_man_in_the_middle_who_relays_untouched_is_refused():
    """The joiner saw another certificate than the inviter's: the keys differ though the code is right."""
    run = Run()
    with pytest.raises(WrongCode):
        converse(run.inviter(), joiner(seen=STRANGER))
    assert not run.admitted and run.invitation.tries == 2


def test_a_certificate_put_in_place_of_the_joiners_is_refused():
    run, joining = Run(), joiner()
    kind, version, _, name, point = decode(joining.open())
    inviter = run.inviter()
    [answer] = inviter.receive(encode(kind, version, STRANGER, name, point))
    [confirm] = joining.receive(answer)
    assert decode(inviter.receive(confirm)[0]) == ["refused", "code"]
    assert not run.admitted


def test_a_changed_name_is_refused():
    run, joining = Run(), joiner()
    inviter = run.inviter()
    [answer] = inviter.receive(encode("hi", VERSION, JOINER, "laptop-c", decode(joining.open())[4]))
    assert decode(inviter.receive(joining.receive(answer)[0])[0]) == ["refused", "code"]


def test_an_inviter_that_does_not_know_the_code_cannot_welcome():
    joining, false = joiner(), Inviter(Invitation(BAD, 100.0), INVITER, lambda *_: b"", lambda: 0.0, Budget())
    joining.receive(false.receive(joining.open())[0])
    with pytest.raises(WrongCode):
        joining.receive(encode("welcome", b"come in", bytes(32)))
    assert joining.welcome == b""


def test_a_changed_welcome_is_refused():
    joining, inviter = joiner(), Run().inviter()
    [confirm] = joining.receive(inviter.receive(joining.open())[0])
    _, payload, tag = decode(inviter.receive(confirm)[0])
    with pytest.raises(WrongCode):
        joining.receive(encode("welcome", payload + b"!", tag))


def test_messages_of_an_earlier_run_are_worth_nothing():
    run = Run()
    said = converse(run.inviter(), joiner())
    run.invitation = Invitation(GOOD, 100.0)
    inviter = run.inviter()
    inviter.receive(said[0])
    assert decode(inviter.receive(said[2])[0]) == ["refused", "code"]
    joining = joiner()
    joining.open()
    joining.receive(said[1])
    with pytest.raises(WrongCode):
        joining.receive(said[3])


def test_the_inviters_own_messages_cannot_be_reflected():
    joining = joiner()
    with pytest.raises(ProtocolError):
        joining.receive(encode("answer", decode(joining.open())[4]))


def test_before_the_joiner_has_confirmed_the_inviter_says_nothing_that_depends_on_equal_keys():
    run = Run()
    right, wrong = run.inviter().receive(joiner().open()), run.inviter().receive(joiner(BAD).open())
    assert [decode(reply)[0] for reply in right + wrong] == ["answer", "answer"]
    assert run.guesses.left == 10 and run.invitation.tries == 3


def test_a_try_is_kept_before_the_tag_is_looked_at():
    run, joining = Run(), joiner()
    inviter = run.inviter()
    [confirm] = joining.receive(inviter.receive(joining.open())[0])
    run.guesses.spend = lambda: (_ for _ in ()).throw(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        inviter.receive(confirm)
    assert inviter.state is State.FAILED and run.admitted == []


def test_another_version_is_told_so():
    run, joining = Run(), joiner()
    kind, _, *rest = decode(joining.open())
    [reply] = run.inviter().receive(encode(kind, 2, *rest))
    with pytest.raises(ProtocolError, match="version"):
        joining.receive(reply)


def test_a_machine_that_is_finished_takes_nothing_more():
    run, joining = Run(), joiner()
    inviter = run.inviter()
    said = converse(inviter, joining)
    assert inviter.receive(said[2]) == [] and isinstance(inviter.error, ProtocolError)
    with pytest.raises(ProtocolError):
        joining.receive(said[3])
    assert len(run.admitted) == 1


garbage = st.one_of(
    st.binary(max_size=60),
    st.just(bytes(MAX_MESSAGE + 1)),
    st.builds(
        encode,
        st.sampled_from(["hi", "answer", "confirm", "welcome", "refused", "?"]),
        st.sampled_from([VERSION, b"", b"A" + bytes(32), b"B" + b"\xff" * 32, bytes(32), "x", None]),
        st.sampled_from([JOINER, b"garbage", bytes(32)]),
    ),
    st.builds(lambda cert, point: encode("hi", VERSION, cert, "n", point), st.sampled_from([JOINER, b"x"]),
              st.binary(min_size=33, max_size=33) | st.binary(min_size=32, max_size=32).map(lambda raw: b"A" + raw)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(garbage, st.booleans())
def test_garbage_ends_the_run_and_nothing_else(data, later):
    run, joining = Run(), joiner()
    inviter = run.inviter()
    answer = inviter.receive(joining.open())[0] if later else None
    replies = inviter.receive(data)
    if inviter.state is State.FAILED:
        assert inviter.error is not None
    assert not run.admitted and all(decode(reply)[0] in {"answer", "refused"} for reply in replies)
    if later:
        joining.receive(answer)
    try:
        joining.receive(data)
    except ReplicaError:
        pass
    assert joining.state is not State.OVER


# --- over real sockets, on loopback


class Listener:
    """`serve_pairing` as a task."""

    def __init__(self, folder, invitation=None, **options):
        self.identity = Identity(bytes([1]) * 32)
        self.pem = folder / "inviter.pem"
        write_pem(self.pem, self.identity.private, INVITER)
        self.invitation = invitation or Invitation(GOOD, expires_at=1e12)
        self.admitted, self.options = [], {"admit": self.admit, "guesses": Budget(), "now": lambda: 0.0, **options}

    def admit(self, certificate, name):
        self.admitted.append((certificate, name))
        return b"welcome"

    async def __aenter__(self):
        port = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(
            serve_pairing(self.invitation, self.pem, INVITER, host=HOST, listening=port.set_result, **self.options)
        )
        self.port = await port
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def joining(self, code=GOOD, port=None):
        return join([(HOST, port or self.port)], code, JOINER, "laptop-b")


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_two_clones_pair_over_a_real_connection(tmp_path):
    async def scene():
        async with Listener(tmp_path) as listener:
            result = await listener.joining("37 ACORN zebra_tulip")
            assert (result.certificate, result.welcome) == (INVITER, b"welcome")
            assert result.address == (HOST, listener.port)
            assert await listener.task == "used"
            assert listener.admitted == [(JOINER, "laptop-b")]
            with pytest.raises(Unreachable):
                await listener.joining()

    run(scene())


def test_three_wrong_codes_end_the_invitation_over_a_real_connection(tmp_path):
    async def scene():
        async with Listener(tmp_path) as listener:
            for _ in range(3):
                with pytest.raises(WrongCode):
                    await listener.joining(BAD)
            assert await listener.task == "exhausted"
            with pytest.raises((CodeExpired, Unreachable)):
                await listener.joining()
            assert not listener.admitted

    run(scene())


def test_a_typing_error_costs_one_try_however_many_addresses_the_inviter_has(tmp_path):
    async def scene():
        async with Listener(tmp_path) as listener:
            with pytest.raises(WrongCode):
                await join([(HOST, listener.port)] * 3, BAD, JOINER, "laptop-b")
            assert listener.invitation.tries == 2

    run(scene())


def test_an_address_where_nobody_answers_does_not_keep_from_the_next(tmp_path):
    async def scene():
        async with Listener(tmp_path) as listener:
            result = await join([(HOST, 1), (HOST, listener.port)], GOOD, JOINER, "laptop-b")
            assert result.welcome == b"welcome"

    run(scene())


def test_an_invitation_that_expires_while_listening_ends_it(tmp_path):
    now = [0.0]

    async def scene():
        async with Listener(tmp_path, Invitation(GOOD, 1e9), now=lambda: now[0]) as listener:
            now[0] = 1e9
            with pytest.raises(CodeExpired):
                await listener.joining()
            assert await listener.task == "expired"

    run(scene())


def test_an_invitation_that_is_over_is_not_listened_for(tmp_path):
    async def scene():
        async with Listener(tmp_path, Invitation(GOOD, 1e12, tries=0)) as listener:
            assert await listener.task == "exhausted"

    run(scene())


def test_silent_joiners_do_not_hold_up_the_next(tmp_path):
    async def scene():
        async with Listener(tmp_path) as listener:
            options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
            silent = [await connect(f"wss://{HOST}:{listener.port}/", proxy=None, **options) for _ in range(3)]
            await silent[0].send(joiner().open())
            assert (await listener.joining()).welcome == b"welcome"
            await asyncio.gather(*(socket.close() for socket in silent))

    run(scene())


def test_garbage_over_a_real_connection_ends_that_connection_only(tmp_path):
    async def scene():
        rng = random.Random(5)
        async with Listener(tmp_path) as listener:
            options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
            for message in ("text", b"", rng.randbytes(100), bytes(MAX_MESSAGE + 1), bytes(100_000)):
                async with connect(f"wss://{HOST}:{listener.port}/", proxy=None, **options) as socket:
                    await socket.send(message)
                    await socket.wait_closed()
            assert (await listener.joining()).welcome == b"welcome"

    run(scene())


def test_the_man_in_the_middle_on_real_connections_is_refused_on_both_sides(tmp_path):
    """He ends TLS with his own certificate and relays every message as it is."""

    async def scene():
        pem = tmp_path / "stranger.pem"
        write_pem(pem, bytes([3]) * 32, STRANGER)
        async with Listener(tmp_path) as listener:

            async def relay(socket):
                options = {"ssl": pairing_client_context(), "server_hostname": "x", "subprotocols": [SUBPROTOCOL]}
                async with connect(f"wss://{HOST}:{listener.port}/", proxy=None, **options) as onward:
                    back = asyncio.ensure_future(pump(onward, socket))
                    await pump(socket, onward)
                    await back

            async def pump(source, target):
                async for message in source:
                    await target.send(message)
                await target.close()

            options = {"ssl": pairing_server_context(pem), "subprotocols": [SUBPROTOCOL]}
            async with serve(relay, HOST, 0, **options) as server:
                with pytest.raises(WrongCode):
                    await listener.joining(port=server.sockets[0].getsockname()[1])
            assert not listener.admitted and listener.invitation.tries == 2

    run(scene())


def test_an_error_while_admitting_reaches_the_inviting_person_and_the_joiner(tmp_path):
    def broken(certificate, name):
        raise OSError("disk full")

    async def scene():
        async with Listener(tmp_path, admit=broken) as listener:
            with pytest.raises(PairingError, match="could not admit"):
                await listener.joining()
            with pytest.raises(OSError, match="disk full"):
                await listener.task

    run(scene())


def test_nothing_listening_is_unreachable_and_another_protocol_is_told_apart():
    async def scene():
        async def plain(reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(plain, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(ProtocolError, match=f"{HOST}:{port}"):
                await join([(HOST, port)], GOOD, JOINER, "laptop-b")
        with pytest.raises(Unreachable, match=f"{HOST}:{port}"):
            await join([(HOST, port)], GOOD, JOINER, "laptop-b")
        with pytest.raises(Unreachable, match="no address"):
            await join([], GOOD, JOINER, "laptop-b")

    run(scene())


def test_a_name_with_control_characters_is_not_sent():
    with pytest.raises(PairingError, match="printable"):
        Joiner("x", JOINER, "a\x1b[2J", INVITER)
