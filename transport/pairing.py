"""Pairing: two clones that have never met, and a short code that a person carried from one to the other.

    joiner                                inviter
    hi(version, certificate, name, X) →
                                        ← answer(Y)
    confirm(tag) →                        one try is spent and kept, then the tag is verified
                                        ← welcome(payload, tag)

X and Y are SPAKE2 over the words of the code, bound to both certificates: the joiner's own, and the inviter's as the
joiner saw it on this very connection. Who sits in between with a certificate of his own therefore fails, even when he
relays everything untouched. The joiner confirms first, so an inviter answers nothing that a guess could be tested on
before the guess was counted. `Inviter` and `Joiner` have no I/O; `serve_pairing` and `join` are the shells around them.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from weakref import WeakValueDictionary

from replica.errors import (
    CodeExpired,
    PairingError,
    ProtocolError,
    ReplicaError,
    TooManyGuesses,
    Unreachable,
    WrongCode,
)
from transport.codes import parse
from transport.frames import Limits, check, decode, encode, sized
from transport.guesses import Guesses
from transport.tls import MAX_CERTIFICATE, check_certificate, explain, pairing_client_context, pairing_server_context

VERSION = 1
SUBPROTOCOL = "replica-pair.1"
TRIES = 3  # guesses an invitation allows: 3 in 2^24
RUN_SECONDS = 10.0  # for one run, from the connection to the welcome
HANDSHAKE_SECONDS = 5.0  # for TLS, which comes before a run
MAX_MESSAGE = 8 * 1024  # bytes of a message
MAX_NAME = 100  # characters of the joiner's name
MAX_CONNECTIONS = 16  # at one time; when there are more, one of the address with the most of them goes
MAX_REST = 0.1  # seconds between two steps of the key exchange
MAX_INVITERS = 3  # different certificates that one `join` lets guess at its code
LOOK_SECONDS = 5.0  # between looks at the clock: a laptop that slept must not keep an old invitation open

LIMITS = Limits(frame=MAX_MESSAGE, binary=MAX_MESSAGE, string=4 * MAX_NAME, array=8, map=0, containers=8, depth=2)

# What each message looks like after its kind. A name is for people to read: no control characters.
SHAPES = {
    "hi": (int, sized(bytes, 1, MAX_CERTIFICATE), lambda name: _is_name(name), sized(bytes, 33)),
    "answer": (sized(bytes, 33),),
    "confirm": (sized(bytes, 32),),
    "welcome": (sized(bytes, 0, MAX_MESSAGE), sized(bytes, 32)),
    "refused": (sized(str, 1, 20),),
}

REFUSALS = {
    "code": lambda: WrongCode("the code is wrong, or someone interfered"),
    "gone": lambda: CodeExpired("that invitation is over: used, expired, or tried too often"),
    "version": lambda: ProtocolError("the other side speaks another version of pairing"),
    "failed": lambda: PairingError("the other side could not admit this clone", hint="see the message over there"),
}

_log = logging.getLogger("memory_replica.pairing")
_log.addHandler(logging.NullHandler())  # else a stranger's failed handshake is printed on the terminal


# --- the invitation


@dataclass
class Invitation:
    """A code and what is left of it. It lives in memory only: with the process the code dies, for good."""

    code: str
    expires_at: float  # seconds, on the caller's clock
    tries: int = TRIES
    used: bool = False

    def state(self, now: float) -> str:
        """`open`, `used`, `exhausted` or `expired`."""
        if self.used:
            return "used"
        if self.tries <= 0:
            return "exhausted"
        return "open" if now < self.expires_at else "expired"

    def spend(self, now: float) -> None:
        """Count one try. Raises CodeExpired: none is left."""
        state = self.state(now)
        if state != "open":
            raise CodeExpired(f"the invitation is {state}")
        self.tries -= 1


# --- the machines


class State(Enum):
    """Where one run is. OVER has succeeded, FAILED has not; neither takes a further message."""

    WAITING = auto()  # for the other side's first message
    PROVING = auto()  # keys are agreed on, whether equal is not yet known
    OVER = auto()
    FAILED = auto()


# The kinds of message each side takes in each state. All else is the other side's error.
INVITER_TAKES = {State.WAITING: {"hi"}, State.PROVING: {"confirm"}}
JOINER_TAKES = {State.WAITING: {"answer", "refused"}, State.PROVING: {"welcome", "refused"}}


class Inviter:
    """One run at the inviter. Send what `receive` returns; hang up when `state` is OVER or FAILED.

    `admit(certificate, name)` is called once the joiner has proved the code, and returns the payload of the welcome.
    `guesses` counts a guess durably before it is judged, over all invitations of the clone.
    """

    def __init__(
        self,
        invitation: Invitation,
        certificate: bytes,
        admit: Callable[[bytes, str], bytes],
        now: Callable[[], float],
        guesses: Guesses,
    ):
        self.state = State.WAITING
        self.error: ReplicaError | None = None  # why it FAILED
        self._invitation, self._certificate, self._admit = invitation, certificate, admit
        self._now, self._guesses = now, guesses

    def receive(self, data: bytes) -> list[bytes]:
        """Take one message; return our replies.

        What the other side does wrong ends the run and is told in `error`. Errors of `admit` and the store are raised.
        """
        was, self.state = self.state, State.FAILED  # until this message is found good
        try:
            kind, *fields = _take(data, INVITER_TAKES.get(was, set()))
            return self._hi(data, *fields) if kind == "hi" else self._confirm(*fields)
        except _Refused as refused:
            self.error = REFUSALS[refused.reason]()
            return [encode("refused", refused.reason)]
        except (ProtocolError, PairingError) as error:
            self.error = error
            return []

    def _hi(self, data: bytes, version: int, certificate: bytes, name: str, theirs: bytes) -> list[bytes]:
        if version != VERSION:
            raise _Refused("version")
        if self._invitation.state(self._now()) != "open" or self._guesses.pause():
            raise _Refused("gone")
        check_certificate(certificate)
        self._joiner = (certificate, name)
        exchange = _Exchange("B", parse(self._invitation.code)[1], certificate, self._certificate)
        answer = encode("answer", exchange.message)
        self._keys = exchange.finish(theirs, data, answer)
        self.state = State.PROVING
        return [answer]

    def _confirm(self, tag: bytes) -> list[bytes]:
        try:
            self._invitation.spend(self._now())
            self._guesses.spend()  # before it is looked at: a crash is no free guess
        except (CodeExpired, TooManyGuesses):
            raise _Refused("gone") from None
        if not hmac.compare_digest(tag, self._keys.joiner_tag()):
            raise _Refused("code")
        self._invitation.used = True
        self._guesses.give_back()
        payload = self._admit(*self._joiner)
        welcome = encode("welcome", payload, self._keys.inviter_tag(payload))
        if len(welcome) > MAX_MESSAGE:
            raise ValueError(f"a welcome of {len(welcome)} bytes; the limit is {MAX_MESSAGE}")
        self.state = State.OVER
        return [welcome]


class Joiner:
    """One run at the joiner. Send `open()`, then what `receive` returns, until `state` is OVER; then `welcome` is set.

    `seen` is the certificate that the inviter showed on this connection.
    """

    def __init__(self, password: str, certificate: bytes, name: str, seen: bytes):
        check_certificate(seen)
        if not _is_name(name):
            raise PairingError(f"a name has 1 to {MAX_NAME} printable characters")
        self.state = State.WAITING
        self.welcome = b""
        self._exchange = _Exchange("A", password, certificate, seen)
        self._hi = encode("hi", VERSION, certificate, name, self._exchange.message)

    def open(self) -> bytes:
        """The first message of the run."""
        return self._hi

    def receive(self, data: bytes) -> list[bytes]:
        """Take one message; return our replies.

        Raises:
            WrongCode: refused, or the inviter does not know the code itself.
            CodeExpired: the invitation is over.
            ProtocolError: it may not say this now, or not like this.
        """
        was, self.state = self.state, State.FAILED  # until this message is found good
        kind, *fields = _take(data, JOINER_TAKES.get(was, set()))
        if kind == "refused":
            raise REFUSALS.get(fields[0], REFUSALS["failed"])()
        if kind == "answer":
            self._keys = self._exchange.finish(fields[0], self._hi, data)
            self.state = State.PROVING
            return [encode("confirm", self._keys.joiner_tag())]
        payload, tag = fields
        if not hmac.compare_digest(tag, self._keys.inviter_tag(payload)):
            raise REFUSALS["code"]()
        self.welcome = payload
        self.state = State.OVER
        return []


class _Refused(Exception):
    """Ends a run at the inviter; the joiner is told the reason."""

    def __init__(self, reason: str):
        self.reason = reason


def _take(data: bytes, kinds: set[str]) -> list:
    message = decode(data, LIMITS)
    if message[0] not in kinds:
        raise ProtocolError("that message may not come now in a pairing")
    if not check(message[1:], SHAPES[message[0]]):
        raise ProtocolError(f"the pairing message '{message[0]}' is malformed")
    return message


def _is_name(name) -> bool:
    return type(name) is str and 1 <= len(name) <= MAX_NAME and name.isprintable()


# --- the key exchange. The only part that knows the library.


class _Exchange:
    """SPAKE2 over the password; the joiner is side A, the inviter side B."""

    def __init__(self, side: str, password: str, joiner: bytes, inviter: bytes):
        import spake2

        make = spake2.SPAKE2_A if side == "A" else spake2.SPAKE2_B
        ids = {"idA": b"replica joiner" + _hash(joiner), "idB": b"replica inviter" + _hash(inviter)}
        self._spake = make(password.encode("ascii"), **ids)
        self.message: bytes = self._spake.start()

    def finish(self, theirs: bytes, hi: bytes, answer: bytes) -> "_Keys":
        """The keys of this run, which cover its first two messages as well. Raises ProtocolError: not a point."""
        from spake2 import SPAKEError
        from spake2.ed25519_basic import NotOnCurve

        try:
            key = self._spake.finish(theirs)
        except (
            SPAKEError,
            NotOnCurve,
            ValueError,
            AssertionError,
        ) as error:  # it asserts on some input
            raise ProtocolError(f"not a key exchange message: {type(error).__name__}") from None
        return _Keys(key, _hash(hi) + _hash(answer))


@dataclass(frozen=True, slots=True)
class _Keys:
    key: bytes = field(repr=False)
    transcript: bytes

    def joiner_tag(self) -> bytes:
        return self._tag(b"replica joiner confirms")

    def inviter_tag(self, payload: bytes) -> bytes:
        """Confirms the key and protects the payload at once."""
        return self._tag(b"replica inviter welcomes" + _hash(payload))

    def _tag(self, label: bytes) -> bytes:
        return hmac.digest(self.key, label + self.transcript, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# --- the shells


async def serve_pairing(
    invitation: Invitation,
    pem: Path,
    certificate: bytes,
    admit: Callable[[bytes, str], bytes],
    *,
    host: str | list[str],
    port: int = 0,
    guesses: Guesses,
    now: Callable[[], float],
    listening: Callable[[int], None] = lambda port: None,
    refused: Callable[[ReplicaError], None] = lambda error: None,
    run_seconds: float = RUN_SECONDS,
) -> str:
    """Listen until the invitation is over, and return how: `used`, `exhausted`, `expired`, or `paused` (see `guesses`).

    `listening(port)` is called once joiners can come, `refused(error)` after each run that failed. With several hosts
    give a port: 0 would be another one on each. Several runs may be under way, so that a silent one holds up nobody;
    the number of guesses is limited by the invitation and by `guesses`. Cancel it to stop listening.

    Raises:
        OSError: the port cannot be had.
        Whatever `admit` or `guesses` raised; the joiner was told that it failed.
    """
    from websockets.asyncio.server import ServerConnection, serve

    over: asyncio.Future = asyncio.get_running_loop().create_future()
    turns = _Turns()
    runs: dict[ServerConnection, str] = {}  # and the address that each comes from; the oldest first

    def state() -> str:
        how = invitation.state(now())
        return "paused" if how == "open" and guesses.pause() else how

    async def run(socket: ServerConnection) -> None:
        address = runs[socket] = str(socket.remote_address[0])
        if len(runs) > MAX_CONNECTIONS:
            _drop_one(runs)
        try:
            inviter = Inviter(invitation, certificate, admit, now, guesses)
            await _invite(socket, inviter, run_seconds, turns.of(address))
            if inviter.error:
                refused(inviter.error)
            if state() != "open" and not over.done():
                over.set_result(None)
        except Exception as error:  # of admit or the store: the caller's own, who is waiting in serve_pairing
            if not over.done():
                over.set_exception(error)
        finally:
            runs.pop(socket, None)

    options = dict(
        ssl=pairing_server_context(pem),
        subprotocols=[SUBPROTOCOL],
        origins=[None],
        compression=None,
        max_size=2 * MAX_MESSAGE,
        max_queue=2,
        open_timeout=5,
        close_timeout=1,
        ping_interval=None,
        server_header=None,
        ssl_handshake_timeout=HANDSHAKE_SECONDS,
        ssl_shutdown_timeout=1,
        logger=_log,
    )
    async with serve(run, host, port, **options) as server:
        listening(server.sockets[0].getsockname()[1])
        while not over.done() and (left := invitation.expires_at - now()) > 0 and state() == "open":
            await asyncio.wait([over], timeout=min(left, LOOK_SECONDS))
    if over.done():
        over.result()
    return state()


def _drop_one(runs: dict) -> None:
    """Hang up on the oldest run of the address that has the most: a crowd from one place holds up nobody else's."""
    crowded, _ = Counter(runs.values()).most_common(1)[0]
    oldest = next(socket for socket, address in runs.items() if address == crowded)
    del runs[oldest]
    oldest.transport.abort()


async def _invite(socket, inviter: Inviter, seconds: float, turn: "_Turn") -> None:
    from websockets.exceptions import ConnectionClosed

    with suppress(ConnectionClosed, TimeoutError):
        async with asyncio.timeout(seconds):
            try:
                while inviter.state not in (State.OVER, State.FAILED):
                    data = await socket.recv()
                    costs = inviter.state is State.WAITING
                    if costs:
                        replies = await turn(inviter.receive, data, socket.transport.is_closing)
                    else:
                        replies = inviter.receive(data)
                    for reply in replies:
                        await socket.send(reply)
            except (ConnectionClosed, TimeoutError, asyncio.CancelledError):
                raise
            except Exception:
                await socket.send(encode("refused", "failed"))
                raise
    if inviter.error:
        _log.info("a pairing was refused: %s", inviter.error)


class _Turns:
    """Key exchanges, each 25 ms of work, one at a time and with as long a rest: a node stays at work beside them.

    The addresses take turns, and the runs of one address: a crowd from one place costs a joiner from another one turn.
    """

    def __init__(self):
        self._all = asyncio.Lock()
        self._of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, address: str) -> "_Turn":
        return _Turn(self._of.setdefault(address, asyncio.Lock()), self._all)


@dataclass(frozen=True, slots=True)
class _Turn:
    mine: asyncio.Lock  # of one address
    all: asyncio.Lock

    async def __call__(self, work: Callable, data: bytes, gone: Callable[[], bool]) -> list[bytes]:
        """What `work(data)` returns, or nothing if who asked for it has `gone` meanwhile."""
        async with self.mine, self.all:
            if gone():
                return []
            began = time.monotonic()
            replies = work(data)
            await asyncio.sleep(min(MAX_REST, time.monotonic() - began))
        return replies


@dataclass(frozen=True, slots=True)
class JoinResult:
    """What the inviter proved and said."""

    certificate: bytes  # the inviter's, DER
    welcome: bytes
    address: tuple[str, int]


async def join(
    addresses: Iterable[tuple[str, int]],
    code: str,
    certificate: bytes,
    name: str,
    *,
    run_seconds: float = RUN_SECONDS,
    proving: Callable[[], None] = lambda: None,
    refused: Callable[[ReplicaError], None] = lambda error: None,
) -> JoinResult:
    """Pair with whoever knows the code at one of the addresses (host, port), tried in turn.

    A certificate that was asked is not asked again at another of its addresses: one typing error costs one try.
    `proving` is called before the proof leaves: from then on the other side may have admitted us. `refused` is called
    when it has answered that it did not.

    Raises:
        WrongCode: the code is wrong or cannot be one, or someone interfered.
        CodeExpired: the invitation is over.
        ProtocolError: something else than an inviter answers there.
        Unreachable: nobody answers.
    """
    _nameplate, password = parse(code)
    asked: set[bytes] = set()
    errors: list[ReplicaError] = []
    for address in addresses:
        if len(asked) >= MAX_INVITERS:
            break
        try:
            result = await _join_at(address, password, certificate, name, asked, run_seconds, proving, refused)
        except ReplicaError as error:
            errors.append(error)
        else:
            if result:
                return result
    # The most telling of what went wrong.
    for kind in (WrongCode, CodeExpired, PairingError, ProtocolError):
        for error in errors:
            if isinstance(error, kind):
                raise error
    raise errors[-1] if errors else Unreachable("there is no address to try", hint="is `replica invite` still running?")


async def _join_at(
    address: tuple[str, int], password: str, certificate: bytes, name: str, asked: set[bytes], seconds: float,
    proving: Callable[[], None], refused: Callable[[ReplicaError], None],
) -> JoinResult | None:  # fmt: skip
    """One run; None when that certificate was asked before."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake

    host, port = address
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        async with (
            asyncio.timeout(seconds),
            connect(
                f"wss://{where}/",
                ssl=pairing_client_context(),
                server_hostname="replica",
                subprotocols=[SUBPROTOCOL],
                compression=None,
                proxy=None,
                max_size=2 * MAX_MESSAGE,
                max_queue=2,
                open_timeout=5,
                close_timeout=1,
                ping_interval=None,
                user_agent_header=None,
                logger=_log,
            ) as socket,
        ):
            seen = socket.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
            if socket.subprotocol != SUBPROTOCOL or not seen:
                raise ProtocolError(f"what answers at {where} does not pair")
            if seen in asked:
                return None
            joiner = Joiner(password, certificate, name, seen)
            asked.add(seen)
            return await _run_join(socket, joiner, seen, address, proving, refused)
    except ConnectionClosed:
        raise PairingError(f"{where} ended the pairing", hint="see the message over there, or try again") from None
    except (OSError, InvalidHandshake, TimeoutError) as error:
        raise _pairing_failure(error, where) from None


async def _run_join(
    socket, joiner: Joiner, seen: bytes, address: tuple[str, int], proving: Callable, refused: Callable
) -> JoinResult:
    await socket.send(joiner.open())
    while joiner.state is not State.OVER:
        message = await socket.recv()
        try:
            replies = joiner.receive(message)
        except ReplicaError as error:
            refused(error)
            raise
        for reply in replies:
            proving()
            await socket.send(reply)
    return JoinResult(seen, joiner.welcome, address)


def _pairing_failure(error: BaseException, where: str) -> ReplicaError:
    """As `explain`, but nobody is a member here: a connection that just ends is another protocol."""
    from websockets.exceptions import InvalidHandshake

    if isinstance(error, InvalidHandshake | ConnectionResetError):
        return ProtocolError(
            f"what answers at {where} does not pair", hint="check the port that `replica invite` printed"
        )
    return explain(error, where)
