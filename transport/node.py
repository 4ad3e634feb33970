"""A running clone: listens, finds and calls peers, spreads changes, keeps files and documents one.

Everything runs on one event loop and touches the store from there only. What happens is told as events
(plain dictionaries with an "event" key) to whoever started the node.
"""

import asyncio
import contextlib
import os
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from replica import copies, faults, rejoin
from replica.bridge import Bridge, Report
from replica.clone import Clone
from replica.errors import CannotListen, ReplicaError, StoreError
from replica.keys import Identity, clone_id
from replica.log import Vector, lacking
from replica.measures import Record
from replica.paths import DAILY
from replica.places import FOLDER
from transport import addresses, control, frames, limits, tls, wire
from transport.peer import Peer, Reached
from transport.session import Blamed, Bye, Diverged, Ended, Event, InStep, State, Took
from transport.targets import Address, Target, Targets

SUBPROTOCOL = "replica.1"
MAX_CONNECTIONS = 128
STORE_POLL = 0.25  # seconds; other processes of the clone also poke us
HOUSEKEEPING = 5.0  # seconds between looks at addresses, the clock and the files' second looks
RESCAN = 60.0  # seconds between whole looks at the folder: a watch may miss what happened while we slept
REBROWSE = 45.0  # seconds; mDNS by itself finds a healed network after up to an hour
SLEPT = 10.0  # seconds that the wall clock ran ahead of ours: the machine was asleep
OPEN_TIMEOUT = 5.0
REFUSED_PAUSE = 60.0  # seconds before a peer that has ended the session with a reason is called again
DELIVER_AFTER = 0.01  # seconds: a burst of changes is written to its files once …
DELIVER_SHARE = 9  # … and while it lasts, writing files takes a tenth of the time at most
DAYS_AFTER = 2.0  # seconds: what clones wrote of one day while apart is made one, once it has come in
COMPACT_FIRST, COMPACT_EVERY = 300.0, 6 * 3600.0  # seconds: old changes are folded now and then
INSTANCE = "Replica-Instance"  # header: tells a call to ourselves from one by another clone with our identity
SHORT = 1.0  # seconds: a conversation that we end sooner ourselves was no meeting
TOUCH = 30.0  # seconds between notes of what peers hold, for `status` when nothing runs


def certify(private: bytes, _name: str) -> bytes:
    """The certificate of a new identity; a certificate carries no name."""
    return tls.make_certificate(private)


@dataclass
class Options:
    """How to run. `listen`: None for a free port on all interfaces; `files`: keep the folder in step."""

    listen: Address | None = None
    peers: list[Address] = field(default_factory=list)
    mdns: bool = True
    files: bool = True
    serve: bool = True  # answer other processes, and be the one node of this clone
    announce: bool = True  # be found by mDNS, and not only find; to take that back takes 0.3 s


class Node:
    """The node of one clone. `tell` gets every event; `stop` ends `run`."""

    def __init__(self, clone: Clone, options: Options, tell: Callable[[dict], None] = lambda event: None):
        self.clone, self.options, self._tell = clone, options, tell
        self.bridge = Bridge(clone)
        self.peers: dict[bytes, Peer] = {}
        self.targets = Targets()
        self.seen: dict[bytes, float] = {}  # when a peer was last in step or sent something, wall clock
        self.port = 0
        self.discovery: Any = None
        self.started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._wake_dialler = asyncio.Event()
        self.moved = asyncio.Event()  # set at every event, for whoever waits for something to happen
        self._trusted: dict[bytes, bytes] | None = None
        self.problems: deque[dict[str, str]] = deque(maxlen=50)  # what went wrong lately, for who asks for a sync
        self._deliver_soon: asyncio.TimerHandle | None = None
        self._days: set[str] = set()  # daily memory files that others have changed
        self._deliver_rested = 0.0  # when files may be written again
        self._tasks: set[asyncio.Task] = set()
        self._calls: dict[Address, asyncio.Task] = {}  # the last call to each
        self._lock = control.Lock(clone.root)
        self._refused: dict[bytes, str] = {}
        self._instance = os.urandom(16).hex()
        self.pauses = limits.Pauses()  # members that are not listened to for a while
        self.record = Record(clone.root)
        self._known: dict[bytes, int] = {}  # how many of our own changes a peer was last known to hold

    # --- life

    async def run(self) -> None:
        """Run until `stop`. Raises CannotListen, StoreError: it could not start, and nothing is left running."""
        if self.options.serve and not self._lock.take():
            raise StoreError(
                "a node is already running on this clone",
                hint="see it with `replica status`, end it with `replica down`",
            )
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._lock.give_back)
            self.record.begin(self.clone)
            stack.callback(self.record.flush, self.clone)
            await self._start(stack)
            self.started.set()
            await self._stopping.wait()
            self._note_peers()

    def stop(self) -> None:
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        if self.options.files:
            self._told_files(self.bridge.run())
        await self._listen(stack)
        stack.push_async_callback(self._end_tasks)
        self.clone.on_change = self._changed
        stack.callback(lambda: setattr(self.clone, "on_change", None))
        if self.options.serve:
            from transport.service import serve

            await serve(self, stack)
        if self.options.mdns:
            await self._discover(stack)
        self._call_known()
        self._finish_soon()  # all may have come before the last end
        self._poll_store(self.clone.store.version())
        for loop in (self._dial_loop, self._house_loop):
            self.spawn(loop())
        if self.options.files:
            from transport.watch import watch

            self.spawn(watch(self.clone.root, self._stopping, self._saved, self._unwatched))

    def spawn(self, work) -> asyncio.Task:
        """Run beside everything else until the node ends; an error ends the node."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            hint = error.hint if isinstance(error, ReplicaError) else ""
            self.tell("error", message=str(error) or type(error).__name__, hint=hint)
            if not isinstance(error, ReplicaError):
                asyncio.get_running_loop().call_exception_handler({"message": "node task failed", "exception": error})
                self.stop()

    async def _end_tasks(self) -> None:
        for peer in list(self.peers.values()):
            peer.close("going away")
        for target in self.targets.all():
            if target.busy and target.address in self._calls:  # nobody has answered; it would be waited for
                self._calls[target.address].cancel()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        _, late = await asyncio.wait(tasks, timeout=1.0) if tasks else (set(), set())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def tell(self, event: str, **facts: Any) -> None:
        self._tell({"event": event, **facts})
        if event in ("unreachable", "error", "refused") or (event == "ended" and facts["reason"]):
            said = facts.get("message") or f"{facts['clone']}: {facts['reason']}"
            problem = {"message": said, "hint": facts.get("hint", "")}
            if problem not in self.problems:
                self.problems.append(problem)
        self.moved.set()

    # --- being called

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        from websockets.asyncio.server import serve

        from transport.door import Guard

        self.trust = tls.Trust(self._pem(), self._certificates())
        self._show_former()
        self.guard = Guard(self.trust)
        hosts, port = self._where()
        listening = dict(
            create_connection=self.guard.connection, subprotocols=[SUBPROTOCOL], compression=None,
            max_size=frames.MAX_FRAME, max_queue=16, write_limit=65536, ping_interval=10, ping_timeout=10,
            open_timeout=OPEN_TIMEOUT, close_timeout=2, origins=[None], server_header=None,
            process_request=self._admit_connection, process_response=self._say_instance,
        )  # fmt: skip
        try:
            server = await serve(self._called, hosts, port or addresses.free_port(hosts[0]), **listening)
        except OSError as error:
            if self.options.listen is not None:
                why = os.strerror(error.errno) if error.errno else str(error)
                raise CannotListen(f"cannot listen on {hosts[0]}:{port}: {why}") from None
            server = await serve(self._called, hosts, addresses.free_port(hosts[0]), **listening)
        stack.push_async_callback(self._close_server, server)
        self.port = server.sockets[0].getsockname()[1]
        if self.options.serve and self.options.listen is None:
            with self.clone.transaction():
                self.clone.store.set_meta("port", self.port)
        self.tell("listening", host=hosts[0], port=self.port)

    def _pem(self) -> Path:
        """The file with this clone's key and certificate, made if it is not there."""
        pem = self.clone.root / FOLDER / "identity.pem"
        if not pem.is_file():
            tls.write_pem(pem, self.clone.identity.private, tls.make_certificate(self.clone.identity.private))
        return pem

    async def _close_server(self, server) -> None:
        """The callers' conversations end before the store is closed under them."""
        server.close()
        self.guard.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)

    def _where(self) -> tuple[list[str], int]:
        if self.options.listen is not None:
            return [self.options.listen[0]], self.options.listen[1]
        wanted = os.environ.get("REPLICA_INTERFACES")
        hosts = addresses.interfaces() if wanted else ["0.0.0.0"]
        # The same port as last time, so that peers find us where we were; one-shot nodes take any.
        return hosts, int(self.clone.store.meta("port", 0)) if self.options.serve else 0

    def _certificates(self) -> dict[bytes, bytes]:
        """Removed members too: they are let in far enough to be told so (Session refuses them)."""
        members = {m["id"]: m["cert"] for m in self.clone.members()}
        inviter = self.clone.store.meta("inviter")
        if inviter and self.clone.identity.id not in members:  # our admission has not come yet: trust who let us in
            members[clone_id(tls.check_certificate(inviter))] = inviter
        return rejoin.acquaintances(self.clone.store) | members

    def _admit_connection(self, connection, request):
        if len(self.peers) >= MAX_CONNECTIONS:
            return connection.respond(503, "too many connections\n")
        return None

    def _say_instance(self, _connection, _request, response) -> None:
        response.headers[INSTANCE] = self._instance

    async def _called(self, socket) -> None:
        from websockets.exceptions import ConnectionClosed

        ssl_object = socket.transport.get_extra_info("ssl_object")
        id = self.trust.peer_id(ssl_object)
        if id is None or not tls.alpn(ssl_object):
            await socket.close(1008, "not a member")
            return
        if id == self.clone.identity.id and socket.request.headers.get(INSTANCE) == self._instance:
            await socket.close(1008, "this clone itself")
            return
        if self.pauses.left(id, time.monotonic()) > 0:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(wire.encode(Bye(self.pauses.why(id)[:500])))
            await socket.close(1008, "not now")
            return
        own = self.trust.shown(ssl_object) or self.clone.identity.id
        await self._converse(id, socket, dialled=False, address=None, own=own)

    # --- calling

    async def _dial_loop(self) -> None:
        while not self.stopping:
            self._wake_dialler.clear()
            now = time.monotonic()
            for target in self.targets.due(now, self.peers.keys() | self.pauses.paused(now)):
                target.busy = True
                self._calls[target.address] = self.spawn(self._dial(target))
            due = self.targets.next_due(self.peers.keys() | self.pauses.paused(now))
            pause = None if due is None else max(0.01, due - time.monotonic())
            await self._wait_any(self._wake_dialler, pause)

    async def _wait_any(self, event: asyncio.Event, timeout: float | None) -> None:
        """Until `event`, the end of the node, or `timeout` seconds."""
        waits = [asyncio.ensure_future(e.wait()) for e in (event, self._stopping)]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _dial(self, target: Target) -> None:
        host, port = target.address
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        from websockets.exceptions import InvalidHandshake

        try:
            socket, own = await self._connect_as_known(host, port)
        except (OSError, InvalidHandshake, EOFError) as error:
            why = tls.explain(error, where)
            self.targets.failed(target, time.monotonic(), str(why))
            if target.fixed and target.failures == 1:
                self.tell("unreachable", address=where, message=str(why), hint=why.hint)
            return
        finally:
            target.busy = False
            self._wake_dialler.set()
        ssl_object = socket.transport.get_extra_info("ssl_object")
        id = self.trust.peer_id(ssl_object)
        twin = id == self.clone.identity.id and socket.response.headers.get(INSTANCE) != self._instance
        if twin and own == id and tls.alpn(ssl_object):
            await socket.close()
            self._part_from_twin(where)
            self.targets.failed(target, time.monotonic(), "this clone had the same identity", pause=0.0)
            return
        refused = "" if twin else self._unfit(id, tls.alpn(ssl_object), where)
        if refused:
            self.targets.failed(target, time.monotonic(), refused)
            if target.fixed:
                self.tell("unreachable", address=where, message=refused, hint="")
            await socket.close()
            return
        self.targets.succeeded(target, time.monotonic(), id)
        self._learn_address(id, target.address)
        await self._converse(id, socket, dialled=True, address=target.address, own=own)
        if own != self.clone.identity.id:  # it knew us as who we were before; now it has heard
            self._refused.pop(id, None)
            self.targets.failed(target, time.monotonic(), "introduced", pause=0.0)
        if id in self._refused:  # it will not change its mind soon: call again as one calls who does not answer
            pause = max(REFUSED_PAUSE, self.pauses.left(id, time.monotonic()))
            self.targets.failed(target, time.monotonic(), self._refused[id], pause=pause)
        self._wake_dialler.set()

    def _unfit(self, id: bytes | None, speaks: bool, where: str) -> str:
        """Why whoever answered is no peer, or nothing."""
        if not speaks:
            return f"{where} speaks another version of the protocol; update memory-replica on the older side"
        if id is None:
            return f"{where} is not a member of this workspace"
        return f"{where} is this clone itself" if id == self.clone.identity.id else ""

    async def _connect_as_known(self, host: str, port: int):
        """A connection, and which of our identities it was made with: the newest that the other end knows.

        The other end may have a new identity as well, which has not come to us: then it is asked for one it had before.
        """
        from websockets.exceptions import InvalidHandshake

        identities, unknown = copies.identities(self.clone), None
        at = asked = 0  # which of ours we show, and which of its own it is asked for; 0 is the newest
        while True:
            context = self.trust.client if at == 0 else self._former_context(identities[at])
            name = tls.FORMER_NAME.format(asked) if asked else tls.NAME
            try:
                return await self._connect(host, port, context, name), identities[at].id
            except (OSError, InvalidHandshake, EOFError) as error:
                if isinstance(error, ssl.SSLCertVerificationError) and asked < tls.MOST_FORMER:
                    asked, unknown = asked + 1, unknown or error
                elif tls.is_unknown(error) and at + 1 < len(identities):
                    at += 1
                elif unknown is not None and isinstance(error, OSError):
                    raise unknown from None  # it has no earlier one that we know
                else:
                    raise

    def _former_context(self, identity: Identity):
        return tls.Trust(self._former_pem(identity), self._certificates()).client

    def _former_pem(self, identity: Identity) -> Path:
        pem = self.clone.root / FOLDER / copies.FORMER / f"{identity.id.hex()}.pem"
        if not pem.is_file():
            tls.write_pem(pem, identity.private, tls.make_certificate(identity.private))
        return pem

    def _show_former(self) -> None:
        former = copies.identities(self.clone)[1 : 1 + tls.MOST_FORMER]
        self.trust.also_show([(identity.id, self._former_pem(identity)) for identity in former])

    def _part_from_twin(self, where: str) -> None:
        """Another running clone has our identity (a disk image that runs twice): we go on under a new one."""
        copies.part(self.clone, certify)
        self._renewed()
        self.tell("error", message=f"the clone at {where} has the same identity as this one: it runs from a copy",
                  hint="this one goes on under a new identity, and nothing is lost")  # fmt: skip

    def _finish_rejoin(self) -> None:
        """Everything has come that was missing: our own edits are written once more."""
        if not rejoin.ready(self.clone):
            return  # done already
        try:
            again = rejoin.finish(self.clone, certify)
        except (ReplicaError, OSError) as error:
            self.tell("error", message=f"this clone cannot come back yet: {error}", hint=getattr(error, "hint", ""))
            return
        self._renewed()
        written = "nothing of it was missing" if not again else f"{again} of its changes were written again as edits"
        self.tell(
            "rejoined", changes=again, name=self.clone.name,
            message=f"this clone was restored from a copy or away for long: it has a new identity now, and {written}",
            hint=f"what it held is kept in {FOLDER}/{rejoin.ASIDE}/",
        )  # fmt: skip
        self._spread()
        self._deliver_later()

    def _renewed(self) -> None:
        """This clone has a new identity: the next handshakes show its certificate."""
        self._known.clear()
        self._pem()
        self._trusted = None
        self.trust_changed()

    async def _connect(self, host: str, port: int, context, name: str = tls.NAME):
        from websockets.asyncio.client import connect

        return await connect(
            f"wss://{f'[{host}]' if ':' in host else host}:{port}/", ssl=context, server_hostname=name,
            subprotocols=[SUBPROTOCOL], compression=None, proxy=None, max_size=frames.MAX_FRAME, max_queue=16,
            write_limit=65536, ping_interval=10, ping_timeout=10, open_timeout=OPEN_TIMEOUT, close_timeout=2,
            user_agent_header=None, additional_headers={INSTANCE: self._instance},
        )  # fmt: skip

    def call(self, address: Address, *, fixed: bool = False, peer: bytes | None = None) -> None:
        """Somebody may be at this address: call soon."""
        if address[1] == self.port and self._is_own(address[0]):
            return
        self.targets.add(address, time.monotonic(), fixed=fixed, peer=peer)
        self._wake_dialler.set()

    def _is_own(self, host: str) -> bool:
        return host in addresses.interfaces() or host == "127.0.0.1"

    def _call_known(self) -> None:
        """Fixed peers, and where others were last."""
        import json

        for address in self.options.peers:
            self.call(address, fixed=True)
        for id, known in self.clone.store.rows("SELECT id, addresses FROM peers WHERE addresses IS NOT NULL"):
            for host, port in json.loads(known):
                self.call((host, port), peer=id)

    def _learn_address(self, id: bytes, address: Address) -> None:
        import json

        with self.clone.transaction():
            self.clone.store.execute(
                "INSERT INTO peers(id, addresses) VALUES(?,?)"
                " ON CONFLICT(id) DO UPDATE SET addresses=excluded.addresses",
                (id, json.dumps([list(address)])),
            )

    def hurry(self) -> None:
        """Call everybody now whom we know of and who is not here."""
        self.targets.hurry(time.monotonic())
        self._wake_dialler.set()

    # --- a connection

    async def _converse(self, id: bytes, socket, *, dialled: bool, address: Address | None, own: bytes) -> None:
        self._refused.pop(id, None)
        peer = Peer(self.clone, id, socket, dialled=dialled, address=address, tell=self._heard, own=own)
        if not self._prefer(peer):
            await socket.close(1000, "another connection is used")
            return
        name, is_new = self.clone.author_name(id), id not in self.peers
        self.peers[id] = peer
        if is_new:
            self.tell("connected", clone=name, id=id.hex())
        try:
            await peer.run()
        except Exception as error:
            # A fault of ours in one conversation must not end the others; it is told, and not passed over.
            self.tell("error", message=f"the conversation with {name} failed: {error!r}", hint="")
            asyncio.get_running_loop().call_exception_handler({"message": "conversation failed", "exception": error})
        finally:
            if self.peers.get(id) is peer:
                del self.peers[id]
                self.seen[id] = time.time()
                self._note_peer(id, peer.session.peer_vector)
                self._note_meeting(peer)
                self.tell("disconnected", clone=name, id=id.hex(), reason=str(peer.error or ""))
            self._wake_dialler.set()

    def _note_meeting(self, peer: Peer) -> None:
        """A conversation is over. One that both began anew, or that we ended at once, is no meeting that failed."""
        fault = peer.error is not None or peer.id in self._refused
        lasted = time.monotonic() - peer.since
        cut_short = peer.session.state is State.CLOSED or (self.stopping and lasted < SHORT)
        if fault or not (peer.was_in_step or cut_short):
            self._met(peer, ok=False)

    def _met(self, peer: Peer, *, ok: bool) -> None:
        lasted = int(1000 * (time.monotonic() - peer.since))
        self.record.met(peer.id, int(time.time() * 1000) - lasted, lasted, ok=ok)

    def _note_reached(self, peer: bytes, seq: int) -> None:
        """How long that took is worked out when the record is written, so that nobody waits for it here."""
        own = self.clone.identity.id
        if peer not in self._known:
            self._known[peer] = known_vector(self.clone, peer).get(own, 0)
        if seq > self._known[peer]:
            self.record.reached(own, peer, self._known[peer], seq, int(time.time() * 1000))
            self._known[peer] = seq

    def _prefer(self, new: Peer) -> bool:
        """Two clones that call each other at once keep the connection that the lower id made, both alike.

        Later the new one counts: nobody calls whom he is connected to, so the old connection is dead on the other side,
        which has moved or slept. Here that would show only when its pings have long gone unanswered.
        """
        old = self.peers.get(new.id)
        if old is None:
            return True
        crossed = new.since - old.since < OPEN_TIMEOUT
        we_should_dial = self.clone.identity.id < new.id
        if crossed and new.dialled != old.dialled and old.dialled == we_should_dial:
            return False
        old.close("another connection is used")
        return True

    def _heard(self, peer: Peer, event: Event | Reached) -> None:
        """What a session tells."""
        name = self.clone.author_name(peer.id)
        self.seen[peer.id] = time.time()
        match event:
            case Reached(seq):
                self._note_reached(peer.id, seq)
            case Took(changes):
                self.record.took()
                self._spread(but=peer)
                self._after_intake(changes)
                self.tell("received", clone=name, changes=len(changes), documents=sorted(
                    {stored.change.document[0] for stored in changes if stored.change.document}
                ))  # fmt: skip
            case InStep(digest):
                if not peer.was_in_step:
                    peer.was_in_step = True
                    self._met(peer, ok=True)
                self.tell("in_step", clone=name, id=peer.id.hex(), digest=digest.hex())
                self._note_peer(peer.id, peer.session.peer_vector)
                self._forget_note(peer.id)
                self._finish_soon()
                if peer.own != self.clone.identity.id:  # it has our new identity now: meet again under that
                    peer.close("introduced")
                    self.hurry()
            case Diverged(paths, healed):
                if not healed:
                    what = "has other content with equal changes in " + ", ".join(paths[:5])
                    faults.record(self.clone, peer.id, faults.CONTENT, what, faults.way_out(faults.CONTENT, name))
                self.tell("healed" if healed else "diverged", clone=name, documents=list(paths))
            case Blamed(member, what, hint):
                who = self.clone.author_name(member)
                if member == peer.id:
                    self.pauses.refuse(member, time.monotonic(), what)
                self.tell("refused", clone=who, id=member.hex(), message=f"{who}: {what}", hint=hint)
            case Ended(reason, by_peer):
                if reason:  # else it is to be called again at once
                    self._refused[peer.id] = reason
                if by_peer and reason:
                    self._note(peer.id, reason)  # for `status`, also after this node has ended
                self.tell("ended", clone=name, reason=reason, by_peer=by_peer)

    def _after_intake(self, changes) -> None:
        self._finish_soon()
        if any(stored.change.document is None for stored in changes):
            self.trust_changed()
        self._deliver_later()

    def _finish_soon(self) -> None:
        if rejoin.ready(self.clone):
            asyncio.get_running_loop().call_soon(self._finish_rejoin)

    def _deliver_later(self) -> None:
        """Write files soon, once for a burst of changes, and after the peers have had their answers."""
        if self.options.files and self._deliver_soon is None:
            pause = max(DELIVER_AFTER, self._deliver_rested - time.monotonic())
            self._deliver_soon = asyncio.get_running_loop().call_later(pause, self._deliver)

    def _changed(self) -> None:
        """A transaction of this process added to the log."""
        self._spread()
        self._deliver_later()

    def _spread(self, but: Peer | None = None) -> None:
        for peer in list(self.peers.values()):
            if peer is not but:
                peer.changed()

    # --- files

    def _deliver(self) -> None:
        self._deliver_soon = None
        began = time.monotonic()
        self._safely(self.bridge.deliver)
        ended = time.monotonic()
        self._deliver_rested = ended + min(1.0, DELIVER_SHARE * (ended - began))

    def _saved(self, paths: set[str] | None) -> None:
        """The watch saw these document paths change; None: look at everything."""
        self._safely(self.bridge.run if paths is None else lambda: self.bridge.collect(paths))

    def _unwatched(self, why: str) -> None:
        """The watch gave up; see transport/watch.py."""
        self.tell(
            "error", message=f"saved files are noticed only every two seconds, as the folder cannot be watched: {why}",
            hint="on Linux, raise fs.inotify.max_user_watches and fs.inotify.max_user_instances, then restart the node",
        )  # fmt: skip

    def _safely(self, work: Callable[[], Report]) -> None:
        """Files in trouble (a full disk, an unmounted folder) must not take the node down."""
        try:
            report = work()
        except (ReplicaError, OSError) as error:
            self.tell("error", message=str(error), hint=getattr(error, "hint", ""))
            return
        self._told_files(report)
        if report.look_again and not self.stopping:
            asyncio.get_running_loop().call_later(0.35, lambda: self.stopping or self._safely(self.bridge.run))

    def _told_files(self, report: Report) -> None:
        days = {path for path in report.written if DAILY.search(path)}
        if days and not self._days:
            asyncio.get_running_loop().call_later(DAYS_AFTER, self._tidy_days)
        self._days |= days
        if not report.quiet or report.held:
            self.tell(
                "files", taken=report.taken, written=report.written, deleted=report.deleted, removed=report.removed,
                held=report.held,
            )  # fmt: skip

    def _tidy_days(self) -> None:
        """Two clones that told one day while apart: it is there once, without waiting for somebody's next command."""
        from replica import tidy

        days, self._days = self._days, set()
        if self.stopping:
            return
        try:
            tidy.days(self.clone, days)
        except (ReplicaError, OSError) as error:
            self.tell("error", message=str(error), hint=getattr(error, "hint", ""))

    # --- what else goes on

    def _poll_store(self, version: int) -> None:
        """Notice what other processes of this clone have committed. A timer: a task would cost an idle node more."""
        if self.stopping:
            return
        now = self.clone.store.version()
        asyncio.get_running_loop().call_later(STORE_POLL, self._poll_store, now)
        if now != version:
            self.store_grown()

    def store_grown(self) -> None:
        """Another process of this clone has committed something."""
        self.clone.log.refresh()
        self.trust_changed()
        self._spread()
        if self.options.files:
            self._deliver()

    def trust_changed(self) -> None:
        certificates = self._certificates()
        if certificates != self._trusted:
            self._trusted = certificates
            self.trust.update(certificates)
            self._show_former()

    async def _house_loop(self) -> None:
        places, rescan, rebrowse, touch = addresses.current(), 0.0, 0.0, 0.0
        compact_at = time.monotonic() + COMPACT_FIRST
        wall, steady = time.time(), time.monotonic()
        never = asyncio.Event()
        while not self.stopping:
            await self._wait_any(never, HOUSEKEEPING)
            if self.stopping:
                return
            now = time.monotonic()
            slept = (time.time() - wall) - (now - steady) > SLEPT or now - steady > 3 * HOUSEKEEPING
            wall, steady = time.time(), now
            current = addresses.current()
            for peer in self.peers.values():
                peer.session.look_back()
            self._finish_soon()
            self.record.flush(self.clone)
            if slept or current != places:
                gone, places = set(places) - set(current), current
                await self._network_changed(gone)
            if now - rebrowse > REBROWSE and self._misses_somebody():
                rebrowse = now
                if self.discovery is not None:
                    await self.discovery.refresh()
            if self.options.files and now - rescan > RESCAN:
                rescan = now
                self._safely(self.bridge.run)
            if now - touch > TOUCH:
                touch = now
                self._note_peers()
            if self.options.serve and now > compact_at:
                compact_at = now + COMPACT_EVERY
                await asyncio.to_thread(self._compact)

    def _compact(self) -> None:
        """Fold old changes, in a thread with a connection of its own, if it is worth it."""
        from replica import compact

        try:
            with Clone.open(self.clone.root) as clone:
                if compact.plan(clone).changes >= compact.WORTH_IT:
                    compact.compact(clone)
        except (ReplicaError, OSError) as error:
            self.tell("error", message=f"old changes could not be folded: {error}", hint=getattr(error, "hint", ""))

    async def _network_changed(self, gone: set[str]) -> None:
        """`gone`: addresses that were ours. Connections from there are dead, and no one will tell."""
        self.tell("network_changed", addresses=list(addresses.interfaces()))
        for peer in list(self.peers.values()):
            if peer.local_address in gone - {addresses.LOOPBACK}:
                peer.abort()
        if self.discovery is not None:
            await self.discovery.network_changed()
        self.hurry()

    def _misses_somebody(self) -> bool:
        others = [m for m in self.clone.members() if m["removed_by"] is None and m["id"] != self.clone.identity.id]
        return any(m["id"] not in self.peers for m in others)

    async def _discover(self, stack: contextlib.AsyncExitStack) -> None:
        from transport.discovery import Discovery

        self.discovery = Discovery(self.clone.workspace)
        self.discovery.on_found(self._found)
        stack.push_async_callback(self.discovery.close)
        await self.discovery.start()
        if self.options.announce:
            await self.discovery.announce(self.port)

    def _found(self, places: list[Address], instance: str) -> None:
        for place in places:
            self.call(place)

    # --- what is remembered of peers

    def _note_peer(self, id: bytes, vector: Vector) -> None:
        import msgpack

        with self.clone.transaction():
            self.clone.store.execute(
                "INSERT INTO peers(id, seen, vector) VALUES(?,?,?) ON CONFLICT(id)"
                " DO UPDATE SET seen=excluded.seen, vector=excluded.vector",
                (id, int(time.time() * 1000), msgpack.packb(vector)),
            )

    def _note(self, id: bytes, note: str) -> None:
        with self.clone.transaction():
            self.clone.store.execute(
                "INSERT INTO peers(id, note) VALUES(?,?) ON CONFLICT(id) DO UPDATE SET note=excluded.note", (id, note)
            )

    def _forget_note(self, id: bytes) -> None:
        if self.clone.store.value("SELECT note FROM peers WHERE id=?", (id,)):
            self._note(id, "")

    def _note_peers(self) -> None:
        for id, peer in self.peers.items():
            self._note_peer(id, peer.session.peer_vector)

    # --- asked by others

    def peer_states(self) -> list[dict]:
        """Every other member: name, id, online, in_step, behind, ahead (changes), address, last_seen (ISO or None)."""
        return [self._peer_state(m) for m in self.clone.members() if m["id"] != self.clone.identity.id
                and m["removed_by"] is None]  # fmt: skip

    def _peer_state(self, member: dict) -> dict:
        peer = self.peers.get(member["id"])
        vector = peer.session.peer_vector if peer else known_vector(self.clone, member["id"])
        mine = self.clone.log.vector()
        return {
            "name": member["name"], "id": member["id"].hex(), "online": peer is not None,
            "in_step": peer is not None and peer.session.in_step, "behind": lacking(vector, mine),
            "ahead": lacking(mine, vector),
            "address": "{}:{}".format(*peer.address) if peer and peer.address else None,
            "refused": self._refused.get(member["id"], ""),
        }  # fmt: skip

    @property
    def in_step(self) -> bool:
        return all(peer.session.in_step for peer in self.peers.values())


def known_vector(clone: Clone, id: bytes) -> Vector:
    """What a peer held when we last heard of it."""
    import msgpack

    packed = clone.store.value("SELECT vector FROM peers WHERE id=?", (id,))
    return msgpack.unpackb(packed, strict_map_key=False) if packed else {}
