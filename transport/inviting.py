"""Inviting and joining: what pairing (transport/pairing.py) proves, turned into membership and a first sync."""

import asyncio
import contextlib
import datetime
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgpack

from replica import changes, members
from replica.clone import Clone, clean_name, refuse_if_clone, unwritable
from replica.errors import CodeExpired, PairingError, ReplicaError, Unreachable, WrongCode
from replica.keys import ID_SIZE, Identity, clone_id
from replica.places import FOLDER, JOINING
from transport import addresses, codes, tls
from transport.frames import check, sized, whole
from transport.guesses import Guesses, elapsing
from transport.node import Node, Options
from transport.targets import Address

FIND_TIMEOUT = 8.0  # seconds to wait for the inviter's announcement
SAME_NUMBER = 0.5  # seconds to look for another inviter of that number after one has refused
MOST_INVITERS = 3

OVER = {
    "expired": "the time of the invitation is over",
    "exhausted": "too many wrong codes were tried, or someone interfered; that code is over",
}
FIRST_SYNC = 120.0  # seconds for everything to arrive


async def invite(node: Node, expires: float) -> AsyncIterator[dict]:
    """Let one clone in: yields `code`, `wrong_code` for each that was tried, then `joined` when somebody came.

    The code lives as long as this iteration: another invitation has another code, and this one is dead then.

    Raises:
        CodeExpired: nobody came in time, or too many wrong codes.
        TooManyGuesses: wrong codes enough for an hour were tried, here or at earlier invitations of this clone.
        PairingError: this clone was removed, so nobody would take its word.
    """
    from transport.pairing import Invitation, serve_pairing

    told = [told for told in members.told_removed(node.clone) if told.hint == members.COME_BACK]
    if node.clone.removed or told:
        says = f" ({told[0].by} says so)" if not node.clone.removed else ""
        raise PairingError(
            f"this clone was removed from the workspace{says}, and cannot let others in",
            hint="invite from a clone that belongs: `replica members`",
        )
    guesses = Guesses(node.clone.store)
    guesses.check()
    code = codes.new_code(secrets.randbelow)
    nameplate, _ = codes.parse(code)
    clock = elapsing()
    invitation = Invitation(code, clock() + expires)
    pem = node.clone.root / FOLDER / "identity.pem"
    certificate = tls.make_certificate(node.clone.identity.private)
    joined: list[str] = []

    def admit(der: bytes, name: str) -> bytes:
        known = node.clone.log.author(clone_id(tls.check_certificate(der)))
        if known is not None and known.removed:
            raise ReplicaError(  # no PairingError: the newcomer is to be told
                f"{known.name} came again with a key that was removed from the workspace",
                hint="it has forgotten that key now: invite once more, and let it join with the new code",
            )
        given = node.clone.admit(tls.check_certificate(der), der, name)
        node.trust_changed()
        joined.append(given)
        return _welcome(node, given)

    news: asyncio.Queue[dict] = asyncio.Queue()

    def refused(error: ReplicaError) -> None:
        if isinstance(error, WrongCode):
            news.put_nowait({"event": "wrong_code", "tries": invitation.tries})

    listening = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve_pairing(
            invitation, pem, certificate, admit, host=addresses.interfaces(), port=addresses.free_port(
                addresses.interfaces()[0]), listening=listening.set_result, guesses=guesses, now=clock,
            refused=refused,
        )
    )  # fmt: skip
    discovery = node.discovery
    try:
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            await serving  # raises why it could not listen
        port = listening.result()
        if discovery is not None:
            await discovery.announce_pairing(nameplate, port)
        until = datetime.datetime.fromtimestamp(time.time() + expires, datetime.UTC)
        yield {"event": "code", "code": code, "expires": until.isoformat(timespec="seconds"), "port": port}
        serving.add_done_callback(lambda _: news.put_nowait({}))
        while event := await news.get():
            yield event
        how = await serving
        if not joined:
            guesses.check()
            raise CodeExpired(f"nobody joined: {OVER.get(how, how)}", hint="make a new one with `replica invite`")
        yield {"event": "joined", "clone": joined[-1]}
    finally:
        serving.cancel()
        await asyncio.wait({serving})  # taken back means that nobody answers at that port any more
        if discovery is not None:
            await discovery.withdraw_pairing()


def _welcome(node: Node, name: str) -> bytes:
    return msgpack.packb(
        {
            "workspace": node.clone.workspace, "workspace_name": node.clone.workspace_name, "name": name,
            "port": node.port,
        }
    )  # fmt: skip


async def join(code: str, root: Path, name: str, peers: list[Address], *, tell=lambda event: None) -> Clone:
    """Make `root` a clone of the inviter's workspace and fetch everything; the caller closes the clone.

    Raises:
        WrongCode, CodeExpired, Unreachable, PairingError: `root` is no clone. Only where the connection ended while
            the inviter may have admitted us, a key stays in `.replica` for the next try.
    """
    from transport import pairing

    refuse_if_clone(root)
    key = _Key(root)
    certificate = tls.make_certificate(key.identity.private)
    nameplate, _ = codes.parse(code)

    async def pair(places: list[Address]):
        return await pairing.join(
            places, code, certificate, clean_name(name), proving=key.keep, refused=key.refused
        )  # fmt: skip

    result = await (pair(peers) if peers else _find_and_pair(nameplate, pair))
    welcome = _read_welcome(result.welcome)
    clone = Clone.adopt(
        root, key.identity, welcome["workspace"], clean_name(welcome["name"]), inviter=result.certificate,
        workspace_name=clean_name(welcome["workspace_name"]),
    )  # fmt: skip
    inviter = clone_id(tls.check_certificate(result.certificate))
    await _fetch(clone, (result.address[0], welcome["port"]), inviter, tell)
    return clone


class _Key:
    """A newcomer's key. It is on the disk before the code is proved, and stays there until the folder is a clone.

    A join that dies in between is repeated with the same key, and whoever has admitted it knows it again: nobody is
    left among the members who never came.
    """

    def __init__(self, root: Path):
        self._file = root / FOLDER / JOINING
        self._again = self._file.is_file()  # of an earlier join, which may have been admitted
        self._made: list[Path] = []
        self.identity = Identity.load(self._file) if self._again else Identity.new()

    def keep(self) -> None:
        """From now on the inviter may admit it."""
        if not self._file.is_file():
            folder = self._file.parent
            self._made = [place for place in (folder, *folder.parents) if not place.exists()]
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.identity.save(self._file)
            except OSError as error:
                raise unwritable(folder.parent, error) from None

    def refused(self, error: ReplicaError) -> None:
        """The inviter did not admit it. A wrong or old code says nothing of an earlier join."""
        if self._again and isinstance(error, WrongCode | CodeExpired):
            return
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody has put something there
            for folder in self._made or [self._file.parent]:
                folder.rmdir()


async def _find_and_pair(nameplate: int, pair: Callable[[list[Address]], Awaitable]):
    """Pair with whoever announces this number; the first who proves the code wins."""
    from transport.discovery import Discovery

    discovery = Discovery()
    last: ReplicaError | None = None
    tried: set[tuple] = set()
    try:
        await discovery.start()
        # A neighbour may show the same number by chance: whoever proves the code is the one.
        for patience in (FIND_TIMEOUT, *[SAME_NUMBER] * (MOST_INVITERS - 1)):
            async for places in discovery.find_pairing(nameplate, patience):
                if tuple(places) not in tried:
                    tried.add(tuple(places))
                    break
            else:
                break
            try:
                return await pair(places)
            except ReplicaError as error:
                last = last or error
    finally:
        await discovery.close()
    raise last or Unreachable(
        f"no invitation {nameplate} is announced in this network",
        hint="is `replica invite` still open there? Across networks, name its address with --peer HOST:PORT",
    )


_WELCOME = {
    "workspace": sized(bytes, ID_SIZE), "workspace_name": sized(str, 0, changes.MAX_NAME), "name": sized(str, 0, 1_000),
    "port": whole(1, 65535),
}  # fmt: skip


def _read_welcome(data: bytes) -> dict:
    try:
        welcome = msgpack.unpackb(data)
        right = all(check(welcome[key], shape) for key, shape in _WELCOME.items())
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        right = False
    if not right:
        raise PairingError("the inviter's welcome cannot be read", hint="update memory-replica on the older side")
    return welcome


async def _fetch(clone: Clone, place: Address, inviter: bytes, tell) -> None:
    """The first sync, with the inviter alone; what is missing then comes with the next."""
    node = Node(clone, Options(peers=[place], mdns=False, files=False, serve=False), tell)
    running = asyncio.ensure_future(node.run())
    try:
        began = time.monotonic()
        while time.monotonic() - began < FIRST_SYNC and not running.done():
            node.moved.clear()
            peer = node.peers.get(inviter)
            if peer is not None and peer.session.in_step:
                return
            try:
                await asyncio.wait_for(node.moved.wait(), 0.1)
            except TimeoutError:
                pass
    finally:
        node.stop()
        await running
