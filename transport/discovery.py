"""Finding the other clones of a workspace on the LAN by mDNS, and the inviter of a code.

What is found is a hint to dial now, never the truth: mDNS is readable and writable by everyone in reach, so TLS
decides who is who, and the caller's own timers keep dialling. An announcement says a protocol version, a port and a
tag that only members can recognise; the instance name is new at every start, so several clones on one host never
clash, and neighbours learn nothing.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

from transport.addresses import interfaces as lan_interfaces

SERVICE = "_replica._tcp.local."
VERSION = b"1"
MAX_ADDRESSES = 8  # of one announcement that are looked at
MAX_LOOKUPS = 64  # under way at one time; a flood of made-up names is dropped above it
MAX_PAIRINGS = 64  # announcements of invitations that are remembered
LOOKUP_MS = 3000
CLOSE_SECONDS = 1.0  # a goodbye takes about 0.26 s

Address = tuple[str, int]


def tag(workspace: bytes, instance: str) -> str:
    """What members of a workspace (its id, at most 64 bytes) recognise in an instance's announcement."""
    digest = hashlib.blake2b(instance.encode(), key=workspace, digest_size=10, person=b"replica-mdns")
    return _base32(digest.digest())


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").lower()


class Discovery:
    """Announces this clone and finds others. Without a workspace it can only find and announce invitations.

    Nothing here raises because of the network: `problem` says in a sentence what is wrong, or is empty.
    """

    def __init__(
        self,
        workspace: bytes | None = None,
        *,
        interfaces: list[str] | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ):
        """`interfaces` are IPv4 addresses of this machine; without them they are looked up at every change."""
        self.problem = "not started"
        self._workspace, self._fixed, self._entropy = workspace, interfaces, entropy
        self._zeroconf = None  # zeroconf.asyncio.AsyncZeroconf while running
        self._browser = None
        self._on_found: Callable[[list[Address], str], None] | None = None
        self._wanted: dict[str, tuple[int, dict, list[str] | None]] = {}  # instance: port, TXT, addresses
        self._infos: dict[str, object] = {}  # instance: the ServiceInfo that is announced now
        self._pairing: str | None = None  # instance of our invitation
        self._member: str | None = None  # instance of our workspace's announcement
        self._invitations: dict[str, tuple[int, list[Address]]] = {}
        self._changed = asyncio.Event()  # another invitation was seen
        self._tasks: set[asyncio.Task] = set()
        self._lookups: dict[str, asyncio.Task] = {}

    # --- running

    async def start(self) -> bool:
        """Open the sockets and begin to look. False: no network now, see `problem`; `refresh` tries again."""
        if self._zeroconf is not None:
            return True
        from zeroconf import NotRunningException
        from zeroconf.asyncio import AsyncZeroconf

        # Its warnings (a card that went down, a strange packet) would land on the person's terminal.
        logging.getLogger("zeroconf").setLevel(logging.CRITICAL)
        running = None
        try:
            running = AsyncZeroconf(interfaces=self._addresses())
            await running.zeroconf.async_wait_for_start()
        except (OSError, NotRunningException) as error:  # no route, no such address, or port 5353 is not shared
            if running:
                await _closed(running)
            self.problem = f"this machine cannot announce itself on the LAN: {error}"
            return False
        self._zeroconf, self.problem = running, ""
        await self._browse()
        for instance in self._wanted:
            await self._publish(instance)
        return True

    async def close(self) -> None:
        """Say goodbye and close; takes about 0.3 s."""
        tasks = [*self._tasks, *self._lookups.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._wanted.clear()
        self._infos.clear()
        await self._stop()
        self.problem = "not started"

    async def refresh(self) -> bool:
        """Ask the LAN anew; what is known is reported again.

        Call it every 30-60 s while a member is missing: a partition that was longer than the first few questions
        is not healed by mDNS for about an hour.
        """
        if self._zeroconf is None:
            return await self.start()
        await self._browse()
        return True

    async def network_changed(self) -> bool:
        """Addresses came or went, or the machine woke: use those of now, and announce again."""
        if self._zeroconf is None:
            return await self.start()
        try:
            await self._zeroconf.async_update_interfaces(self._addresses())
        except OSError:
            await self._stop()  # begin from nothing; what was announced is announced again
            self._infos.clear()
            return await self.start()
        for instance in list(self._wanted):
            await self._publish(instance)
        await self._browse()
        return True

    # --- announcing

    async def announce(self, port: int, addresses: list[str] | None = None) -> None:
        """Be found by members at `port`, on these IPv4 addresses, or on those of the interfaces in use.

        Returns before the announcements are out. Calling it again replaces what was announced. Before `start`, or
        without a network, it is remembered.
        """
        if self._workspace is None:
            raise ValueError("only a clone of a workspace can be announced")
        self._member = self._member or self._new_instance()
        text = {b"v": VERSION, b"t": tag(self._workspace, self._member).encode()}
        self._wanted[self._member] = (port, text, addresses)
        await self._publish(self._member)

    async def announce_pairing(self, nameplate: int, port: int, addresses: list[str] | None = None) -> None:
        """Let a joiner find the invitation of this number, under an instance that nothing links to ours."""
        await self.withdraw_pairing()
        self._pairing = self._new_instance()
        self._wanted[self._pairing] = (port, {b"v": VERSION, b"p": str(nameplate).encode()}, addresses)
        await self._publish(self._pairing)

    async def withdraw(self) -> None:
        """Take back all announcements; keep looking."""
        await self.withdraw_pairing()
        instance, self._member = self._member, None
        await self._unpublish(instance)

    async def withdraw_pairing(self) -> None:
        """Take back the invitation's announcement, if there is one."""
        instance, self._pairing = self._pairing, None
        await self._unpublish(instance)

    # --- finding

    def on_found(self, callback: Callable[[list[Address], str], None]) -> None:
        """Call back with (addresses, instance) for every announcement of our workspace by others, again at a change
        and after `refresh`. Dial all the addresses; some may not lead here, or not any more."""
        self._on_found = callback

    async def find_pairing(self, nameplate: int, timeout: float) -> AsyncIterator[list[Address]]:
        """The addresses of each inviter that shows this number, as they are found, until `timeout` seconds are over."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        given: set[tuple] = set()
        while True:
            self._changed.clear()
            for number, addresses in list(self._invitations.values()):
                if number == nameplate and tuple(addresses) not in given:
                    given.add(tuple(addresses))
                    yield addresses
            try:
                await asyncio.wait_for(self._changed.wait(), max(0, deadline - clock()))
            except TimeoutError:
                return

    # --- inside

    def _addresses(self) -> list[str]:
        return self._fixed if self._fixed is not None else lan_interfaces()

    def _new_instance(self) -> str:
        return _base32(self._entropy(10))

    async def _publish(self, instance: str) -> None:
        if self._zeroconf is None:
            return
        from zeroconf import ServiceInfo

        port, text, addresses = self._wanted[instance]
        info = ServiceInfo(
            SERVICE,
            f"{instance}.{SERVICE}",
            port=port,
            properties=text,
            server=f"{instance}.local.",
            parsed_addresses=addresses or self._addresses(),
        )
        known, self._infos[instance] = instance in self._infos, info
        if known:
            sending = await self._zeroconf.async_update_service(info)
        else:
            # Names are random, so asking the LAN whether ours is taken would only cost a second.
            sending = await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._keep(sending)

    async def _unpublish(self, instance: str | None) -> None:
        self._wanted.pop(instance, None)
        info = self._infos.pop(instance, None)
        if info and self._zeroconf:
            self._keep(await self._zeroconf.async_unregister_service(info))

    def _keep(self, sending) -> None:
        """Let announcements go out by themselves; a network that went away meanwhile is no error."""

        async def finish() -> None:
            with suppress(OSError):
                await sending

        task = asyncio.ensure_future(finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _browse(self) -> None:
        from zeroconf.asyncio import AsyncServiceBrowser

        if self._browser:
            await self._browser.async_cancel()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE, handlers=[self._event])

    async def _stop(self) -> None:
        running, self._zeroconf = self._zeroconf, None
        if self._browser:
            await self._browser.async_cancel()
            self._browser = None
        if running:
            await _closed(running)

    def _event(self, zeroconf, service_type: str, name: str, state_change) -> None:
        """Called by zeroconf; the names of the parameters are its own."""
        from zeroconf import ServiceStateChange

        instance = name.removesuffix("." + SERVICE)
        if instance in self._infos or not re.fullmatch("[a-z2-7]{16}", instance):
            return
        if state_change is ServiceStateChange.Removed:
            self._invitations.pop(instance, None)
            return
        if earlier := self._lookups.pop(instance, None):
            earlier.cancel()  # it may have read what this event replaces
        if len(self._lookups) < MAX_LOOKUPS:
            task = asyncio.ensure_future(self._look_up(instance, name))
            self._lookups[instance] = task
            task.add_done_callback(lambda done: self._looked_up(instance, done))

    def _looked_up(self, instance: str, task: asyncio.Task) -> None:
        if self._lookups.get(instance) is task:
            del self._lookups[instance]

    async def _look_up(self, instance: str, name: str) -> None:
        from zeroconf import IPVersion, NotRunningException
        from zeroconf.asyncio import AsyncServiceInfo

        if self._zeroconf is None:
            return
        info = AsyncServiceInfo(SERVICE, name)
        try:
            if not await info.async_request(self._zeroconf.zeroconf, LOOKUP_MS):
                return
            text, found = info.properties, info.parsed_addresses(IPVersion.V4Only)
        except (OSError, ValueError, NotRunningException):  # what a neighbour made up, or we are closing
            return
        self._judge(instance, text, _dialable(found, info.port))

    def _judge(self, instance: str, text: dict, addresses: list[Address]) -> None:
        if text.get(b"v") != VERSION or not addresses:
            return
        theirs, number = text.get(b"t"), text.get(b"p")
        if theirs is not None:
            ours = self._workspace is not None and tag(self._workspace, instance).encode()
            if ours and self._on_found and hmac.compare_digest(theirs, ours):
                self._on_found(addresses, instance)
        elif number is not None and re.fullmatch(rb"[1-9][0-9]{0,2}", number):
            self._invitations.pop(instance, None)
            if len(self._invitations) >= MAX_PAIRINGS:
                del self._invitations[next(iter(self._invitations))]  # the oldest
            self._invitations[instance] = (int(number), addresses)
            self._changed.set()


async def _closed(running) -> None:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await running.async_close()


def _dialable(found: Iterable[str], port: int | None) -> list[Address]:
    """The addresses that can be dialled at all, newest first, as zeroconf gives them."""
    if not port or not 0 < port < 65536:
        return []
    usable = []
    for text in found:
        address = ipaddress.ip_address(text)
        if not (address.is_multicast or address.is_unspecified or address.is_reserved):
            usable.append((text, port))
    return usable[:MAX_ADDRESSES]
