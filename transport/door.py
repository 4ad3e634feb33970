"""Where callers come in: nothing is spent on one of them before limits allow it, nothing said before it is known.

A connection is counted when TCP has accepted it, before TLS allocates anything for it. TLS lets only members through;
what speaks HTTP and websockets comes after that. So a stranger sees a TLS handshake that fails, and nothing else.
"""

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Callable

from websockets.asyncio.server import ServerConnection

from transport import limits, tls


class Guard:
    """Counts the callers of one listener. `now` is a steady clock in seconds."""

    def __init__(self, trust: tls.Trust, now: Callable[[], float] = time.monotonic):
        self.trust, self.now = trust, now
        self.door = limits.Door()
        self.inside: Counter[bytes] = Counter()  # connections of each member
        self.members = limits.Rate(limits.MEMBER_BURST, limits.MEMBER_RATE)
        self.refused = 0  # connections that were not gone on with
        self._closed = False

    def connection(self, *args, **options) -> "Caller":
        return Caller(self, *args, **options)

    def close(self) -> None:
        """Nobody more comes in; who stands at the door goes."""
        self._closed = True
        for caller in self.door.all():
            caller.drop()

    def enter(self, caller: "Caller", place: str) -> bool:
        allowed, out = self.door.enter(place, caller, self.now())
        if out is not None:
            out.drop()
        return allowed and not self._closed

    def welcome(self, member: bytes | None) -> bool:
        """Whether this is a member, and one that leaves room for the others."""
        return (
            member is not None
            and self.inside[member] < limits.MOST_OF_ONE_MEMBER
            and self.members.spend(member, self.now())
        )


class Caller(ServerConnection):
    """A websocket's server side that goes through TLS first, and gives way to limits."""

    def __init__(self, guard: Guard, *args, **options):
        super().__init__(*args, **options)
        self._guard = guard
        self._member: bytes | None = None
        self._known = False  # whether websockets knows of the connection
        self._early: list[bytes] = []  # what came with the end of the handshake
        self._handshake: asyncio.Task | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        guard = self._guard
        transport.pause_reading()  # nothing is lost before TLS takes over
        peer = transport.get_extra_info("peername")
        self._place = limits.place(peer[0]) if peer else ""
        self._plain = transport
        if not guard.enter(self, self._place):
            guard.refused += 1
            transport.abort()
            return
        self._handshake = self.loop.create_task(self._identify())

    async def _identify(self) -> None:
        guard = self._guard
        try:
            secure = await self.loop.start_tls(
                self._plain, self, guard.trust.server, server_side=True,
                ssl_handshake_timeout=limits.HANDSHAKE_TIMEOUT, ssl_shutdown_timeout=2.0,
            )  # fmt: skip
        except (OSError, ssl.SSLError):  # a stranger, or gone; what it did wrong is for nobody to know
            self._plain.abort()
            return
        finally:
            guard.door.leave(self._place, self)
        if secure is None or secure.is_closing():
            self._plain.abort()
            return
        member = guard.trust.peer_id(secure.get_extra_info("ssl_object"))
        if not guard.welcome(member):
            guard.refused += 1
            secure.abort()
            return
        self._member = member
        guard.inside[member] += 1
        self._known = True
        super().connection_made(secure)
        for data in self._early:
            super().data_received(data)
        self._early.clear()

    def drop(self) -> None:
        """Make room for another."""
        self._guard.refused += 1
        if self._handshake is not None:
            self._handshake.cancel()
        self._plain.abort()

    def data_received(self, data: bytes) -> None:
        if self._known:
            super().data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> None:
        if self._known:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.door.leave(self._place, self)
        if self._handshake is not None and not self._known:
            self._handshake.cancel()
        if self._member is not None:
            self._guard.inside[self._member] -= 1
            if not self._guard.inside[self._member]:
                del self._guard.inside[self._member]
            self._member = None
        if self._known:
            with contextlib.suppress(asyncio.InvalidStateError):
                super().connection_lost(exc)
