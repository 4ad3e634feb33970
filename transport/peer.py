"""One live connection to one peer: a websocket around a session, and nothing decided here."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from replica.clone import Clone
from replica.errors import DiskFull, PeerError, ProtocolError, StoreError
from transport import wire
from transport.session import Bye, Event, Message, Session, State

# Frames waiting to be sent. A peer that reads nothing while it makes us answer is cut off at this.
MAX_WAITING = 2_000
# Bytes of them: more than a full window of batches and the digests of 100,000 documents.
MAX_WAITING_BYTES = 32 * 1024 * 1024
# How long nothing must have moved before the digests are compared, in seconds.
SETTLE_AFTER = 0.03
# How long a peer may take to say why it ends as well, once we have ended the session, in seconds.
LAST_WORDS = 0.5


@dataclass(frozen=True, slots=True)
class Reached:
    """The peer holds our own changes up to number `seq` now."""

    seq: int


class Peer:
    """A connected peer. `id` is its clone id, proven by the channel; `dialled` whether we called it.

    `run` lives as long as the connection. Everything else is called on the same event loop.
    """

    def __init__(self, clone: Clone, id: bytes, socket, *, dialled: bool, address: tuple[str, int] | None,
                 tell: Callable[["Peer", Event | Reached], None], own: bytes):  # fmt: skip
        self.id, self.dialled, self.address = id, dialled, address
        self.own = own  # whom the other end knows us as, by the channel
        self._socket = socket
        self.session = Session(clone, id, lambda event: tell(self, event))
        self._clone, self._tell, self._reached = clone, tell, 0
        self.was_in_step = False
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
        self._bytes_waiting = 0
        self._settling: asyncio.TimerHandle | None = None
        self._hanging_up: asyncio.TimerHandle | None = None
        self.bytes_sent = self.bytes_received = 0
        self.since = time.monotonic()
        self.error: Exception | None = None

    async def run(self) -> None:
        """Speak until either side ends. A fault of the peer ends the session with a word to it; see `error`."""
        from websockets.exceptions import ConnectionClosed

        writer = asyncio.create_task(self._write())
        try:
            self.send(self.session.open())
            async for frame in self._socket:
                if isinstance(frame, str):
                    raise ProtocolError("a text frame")
                self.bytes_received += len(frame)
                message = wire.decode(frame)
                ended = self.session.state is State.CLOSED
                if ended and not isinstance(message, Bye):
                    continue  # on its way before our last words were read
                self.send(self.session.receive(message))
                self._look()
                if isinstance(message, Bye) or (self.session.state is State.CLOSED and not ended):
                    break
        except PeerError as error:
            self.error = error
            self.send(self.session.fail(error))
        except (DiskFull, StoreError) as error:
            # Not the peer's fault: it may try again when there is room.
            self.error = error
        except ConnectionClosed:
            pass
        finally:
            for timer in (self._settling, self._hanging_up):
                if timer is not None:
                    timer.cancel()
            await self._finish(writer)

    def _look(self) -> None:
        """What of ours the peer has just said that it holds."""
        seq = self.session.peer_vector.get(self._clone.identity.id, 0)
        if seq > self._reached:
            self._reached = seq
            self._tell(self, Reached(seq))

    def send(self, messages: list[Message]) -> None:
        """Queue messages, in order; nothing waits for the network here."""
        for message in messages:
            frame = wire.encode(message)
            if self._waiting.full() or self._bytes_waiting > MAX_WAITING_BYTES:
                self.close("does not read what it is sent")
                return
            self._waiting.put_nowait(frame)
            self._bytes_waiting += len(frame)
        if self.session.state is State.CLOSED and self._hanging_up is None:
            # Ours was the last word, perhaps with no message of the peer's at hand: it does not depend on the peer.
            self._hanging_up = asyncio.get_running_loop().call_later(LAST_WORDS, self.close)
        self._settle_soon()

    def changed(self) -> None:
        """The store has grown."""
        self.send(self.session.changed())

    def close(self, reason: str = "") -> None:
        """End the connection soon, without waiting for it."""
        self._closing = asyncio.ensure_future(self._socket.close(1000, reason[:100]))

    @property
    def local_address(self) -> str:
        """Our own address on this connection."""
        return self._socket.local_address[0]

    def abort(self) -> None:
        """Drop the connection without a word: nothing that is sent on it arrives any more."""
        self._socket.transport.abort()

    def _settle_soon(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(SETTLE_AFTER, self._settle)

    def _settle(self) -> None:
        self._settling = None
        messages = self.session.settle()
        if messages:
            self.send(messages)

    async def _write(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while (frame := await self._waiting.get()) is not None:
                self._bytes_waiting -= len(frame)
                self.bytes_sent += len(frame)
                await self._socket.send(frame)
        except ConnectionClosed:
            pass

    async def _finish(self, writer: asyncio.Task) -> None:
        """Let the last words out, then close."""
        try:
            self._waiting.put_nowait(None)
            await asyncio.wait_for(writer, 2)
        except (asyncio.QueueFull, TimeoutError):
            writer.cancel()
        await self._socket.close()
