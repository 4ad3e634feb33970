"""A connection between two running clones: two sessions, and two streams of bytes that may be cut anywhere.

Frames are what the codec makes of messages. A stream keeps its order, as TCP does; several connections at once, of one
pair too, overtake and repeat each other. What a cut leaves of a frame is never a message.
"""

from collections.abc import Callable

from replica.errors import PeerError
from transport import wire
from transport.session import Event, Message, Session, State

LENGTH = 4  # bytes before a frame that say how long it is


class End:
    """One side of a connection."""

    def __init__(self, process, peer: bytes, own: bytes):
        self.process = process
        self.own = own  # whom the other side knows it as
        self.events: list[Event] = []
        self.session = Session(process.clone, peer, self.events.append)
        self.sent = bytearray()  # on the way to the other side
        self.received = bytearray()  # arrived, and no whole frame yet
        self.owed = False  # the store has grown, and the session was not told


class Link:
    """`wiretap` sees every frame that leaves. A side is 0 or 1. `own` and `there`: what they know each other as."""

    def __init__(self, one, other, own: bytes, there: bytes, wiretap: Callable[[str, bytes], None]):
        self.ends = (End(one, there, own), End(other, own, there))
        self._wiretap = wiretap
        self.is_open = True
        self.blamed: PeerError | None = None  # what one side held against the other

    def between(self, *names: str) -> bool:
        return {end.process.name for end in self.ends} == set(names)

    def touches(self, name: str) -> bool:
        return any(end.process.name == name for end in self.ends)

    def open(self, side: int) -> None:
        self.send(side, self.ends[side].session.open())

    def send(self, side: int, messages: list[Message]) -> None:
        end = self.ends[side]
        for message in messages:
            frame = wire.encode(message)
            self._wiretap(end.process.name, frame)
            end.sent += len(frame).to_bytes(LENGTH, "big") + frame

    @property
    def busy(self) -> list[int]:
        """The sides that bytes are on their way to."""
        return [side for side in (0, 1) if self.ends[1 - side].sent] if self.is_open else []

    @property
    def in_step(self) -> bool:
        return all(end.session.in_step for end in self.ends)

    def deliver(self, side: int, size: int | None = None) -> None:
        """The next bytes arrive at `side`: `size` of them, or all. Raises what is no fault of the peer."""
        sender, receiver = self.ends[1 - side], self.ends[side]
        size = len(sender.sent) if size is None else min(size, len(sender.sent))
        receiver.received += sender.sent[:size]
        del sender.sent[:size]
        while receiver.session.state is not State.CLOSED and (frame := self._next_frame(receiver)) is not None:
            self._take(side, frame)

    def _next_frame(self, end: End) -> bytes | None:
        size = int.from_bytes(end.received[:LENGTH], "big")
        if len(end.received) < LENGTH + size or len(end.received) < LENGTH:
            return None
        frame = bytes(end.received[LENGTH : LENGTH + size])
        del end.received[: LENGTH + size]
        return frame

    def _take(self, side: int, frame: bytes) -> None:
        session = self.ends[side].session
        try:
            self.send(side, session.receive(wire.decode(frame)))
        except PeerError as error:
            self.blamed = error
            self.send(side, session.fail(error))
        except BaseException:
            self.is_open = False  # a full disk or a dead process: the connection ends with it
            raise

    @property
    def is_over(self) -> bool:
        """Cut, or hung up and every last word has arrived."""
        hung_up = any(end.session.state is State.CLOSED for end in self.ends)
        return not self.is_open or (hung_up and not self.busy)

    def cut(self) -> None:
        """What has not arrived is lost, a begun frame too."""
        self.is_open = False

    def tell(self, side: int) -> None:
        """A session whose store has grown sends what is new."""
        self.ends[side].owed = False
        self.send(side, self.ends[side].session.changed())

    def settle(self, side: int) -> None:
        self.send(side, self.ends[side].session.settle())
