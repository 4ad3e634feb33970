"""Clones in one process: files where they are quick to write, a clock that tests move, a network that is a list."""

import itertools
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from unittest import mock

from replica import changes, clone, copies, log, rejoin, store
from replica.bridge import Bridge
from replica.changes import Add, Dot, Kind, Signed
from replica.clone import Clone
from replica.keys import Identity
from transport.session import FAULTS, InStep, Session, State

NEW_IDENTITY = Identity.new
START = 1_750_000_000_000  # milliseconds since 1970: the clock of a new network


def certificate(_private: bytes, name: str) -> bytes:
    """Stands for a certificate: the log carries it and never looks inside."""
    return f"certificate of {name}".encode()


class Network:
    """Clones of one workspace. A context: the folder goes with it.

    Everything random comes from `seed`, so a run can be repeated exactly.
    """

    def __init__(self, *names: str, seed: int = 0):
        self.random = Random(seed)
        self.now = START
        self.clones: dict[str, Clone] = {}
        self._names = names

    def __enter__(self) -> "Network":
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="replica-test-", dir=memory if memory.is_dir() else None))
        connect = store._connect

        def quick(path: Path):
            connection = connect(path)
            connection.execute("PRAGMA synchronous=OFF")  # no test here cuts the power
            return connection

        self._patches = [
            mock.patch.object(store, "_connect", quick),
            mock.patch.object(Identity, "new", lambda: NEW_IDENTITY(self.random.randbytes)),
            mock.patch.object(clone.os, "urandom", self.random.randbytes),
        ]
        for patch in self._patches:
            patch.start()
        try:
            for name in self._names:
                self.add(name)
            self.sync_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for open_clone in self.clones.values():
            open_clone.close()
        for patch in self._patches:
            patch.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __getitem__(self, name: str) -> Clone:
        return self.clones[name]

    def clock(self) -> int:
        return self.now

    def add(self, name: str, now_ms: Callable[[], int] | None = None, by: str | None = None) -> Clone:
        """A new clone: the founder, or one that `by` (the first clone) admits; it has not met anyone yet."""
        now_ms = now_ms or self.clock
        root = self.folder / name
        if not self.clones:
            self.clones[name] = Clone.create(root, name, "team", certificate, now_ms=now_ms)
        else:
            founder = self.clones[by] if by else next(iter(self.clones.values()))
            identity = Identity.new()
            founder.admit(identity.public, certificate(b"", name), name)
            self.clones[name] = Clone.adopt(root, identity, founder.workspace, name, now_ms=now_ms)
        return self.clones[name]

    def open_again(self, name: str) -> Clone:
        """A second `Clone` object on the same folder, as another process has it. Close it yourself."""
        return Clone.open(self[name].root, now_ms=self.clock)

    def reopen(self, name: str) -> Clone:
        """Close a clone and open it again."""
        self[name].close()
        self.clones[name] = self.open_again(name)
        return self[name]

    def bridge(self, name: str) -> Bridge:
        return Bridge(self[name], self.clock)

    def run(self, name: str, **options):
        """A run of the bridge, and the second look if it asks for one."""
        bridge = self.bridge(name)
        report = bridge.run(**options)
        if report.look_again:
            self.now += 1_000
            again = bridge.run(**options)
            for part in ("taken", "written", "deleted", "removed"):
                setattr(again, part, getattr(report, part) + getattr(again, part))
            return again
        return report

    def sync(self, one: str, other: str) -> list:
        return sync(self[one], self[other])

    def sync_all(self) -> None:
        """Everyone with everyone, until nobody lacks anything."""
        names = list(self.clones)
        for _ in range(2):
            for one, other in itertools.combinations(names, 2):
                self.sync(one, other)

    def share(self) -> None:
        """Files in, changes round, files out, until it is quiet."""
        for _ in range(6):
            reports = [self.run(name) for name in self.clones]
            vectors = [clone.vector() for clone in self.clones.values()]
            if all(report.quiet for report in reports) and all(vector == vectors[0] for vector in vectors):
                return
            self.sync_all()
        raise AssertionError("the bridges do not come to rest")


class Link:
    """Two sessions and what is on its way between them, each direction in order."""

    def __init__(self, one: Clone, other: Clone):
        self.events: tuple[list, list] = ([], [])
        self.sessions = (
            Session(one, known_as(other, one), self.events[0].append),
            Session(other, known_as(one, other), self.events[1].append),
        )
        self.queues: tuple[deque, deque] = (deque(), deque())  # messages to each session
        for side in (0, 1):
            self.send(side, self.sessions[side].open())

    def send(self, side: int, messages: list) -> None:
        """`messages` leave from `side`."""
        self.queues[1 - side].extend(messages)

    @property
    def busy(self) -> list[int]:
        """The sides that a message is on its way to."""
        return [side for side in (0, 1) if self.queues[side]]

    @property
    def open(self) -> bool:
        return all(session.state is not State.CLOSED for session in self.sessions)

    @property
    def in_step(self) -> bool:
        return all(session.in_step for session in self.sessions)

    def deliver(self, side: int) -> None:
        """The next message to `side`. Raises what the session raises."""
        message = self.queues[side].popleft()
        session = self.sessions[side]
        if session.state is not State.CLOSED:
            self.send(side, session.receive(message))

    def run(self) -> None:
        """Deliver until nothing moves, digests too."""
        while True:
            while self.busy:
                self.deliver(self.busy[0])
            self.rest()
            if not self.busy:
                return

    def rest(self) -> None:
        """What the owners of sessions do when nothing moves."""
        for side, session in enumerate(self.sessions):
            if rejoin.ready(session._clone):
                rejoin.finish(session._clone, certificate)
                self.send(side, session.changed())
            self.send(side, session.settle())


def known_as(clone: Clone, to: Clone) -> bytes:
    """The id under which `to` lets this clone in."""
    ids = [identity.id for identity in copies.identities(clone)]
    return next((id for id in ids if to.log.author(id) is not None), ids[0])


def sync(one: Clone, other: Clone) -> list:
    """One whole conversation; both sides end in step. Returns the events of both sides."""
    link = Link(one, other)
    link.run()
    assert link.in_step, link.events
    assert isinstance(link.events[0][-1], InStep)
    return link.events[0] + link.events[1]


def talk(one: Clone, other: Clone) -> list:
    """A conversation that may end early; the side that is wronged says so. Returns all events."""
    link = Link(one, other)
    while True:
        while link.busy:
            side = link.busy[0]
            try:
                link.deliver(side)
            except FAULTS as error:
                link.send(side, link.sessions[side].fail(error))
        link.rest()
        if not link.busy:
            return link.events[0] + link.events[1]


# --- writing


def entry(
    text: str, *, after: bytes | None = None, kills=(), role: str = "entry", occurrence: int = 1, meta=None
) -> Add:
    return Add(role, text, occurrence, "", after, tuple(kills), meta or {})


def add(clone: Clone, path: str, *texts: str, policy: str = "union", level: int = 1) -> list[Dot]:
    """Add entries in one change; returns their dots."""
    stored = clone.edit_entries(path, policy, [(level, entry(text)) for text in texts])[0]
    return [Dot(stored.change.author, stored.change.seq, index) for index in range(len(texts))]


def save(clone: Clone, path: str, content: str | bytes) -> Path:
    """What a person's editor does: the file holds this now."""
    file = clone.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def read(clone: Clone, path: str) -> str:
    return (clone.root / path).read_bytes().decode()


def forged(identity: Identity, of: Clone, kind: Kind = Kind.ENTRIES, document=("a-buffer.md", "union"), payload=None,
           *, seq: int | None = None, prev: bytes | None = None, time: int | None = None, deps=(),
           signer: Identity | None = None) -> Signed:  # fmt: skip
    """A change of `identity` made by hand as it could come by the wire; by default the next that `of` would take."""
    author = of.log.author(identity.id)
    if payload is None:
        payload = changes.entries_payload([entry("- by hand")])
    change = changes.encode(
        identity.id,
        (author.seq if author else 0) + 1 if seq is None else seq,
        (author.head if author else of.workspace) if prev is None else prev,
        of.log.now_ms() << 16 if time is None else time,
        list(deps), kind, document, payload,
    )  # fmt: skip
    return Signed(change.body, (signer or identity).sign(change.hash))


# --- reading


def history(clone: Clone) -> list[Signed]:
    """Every shared change of a clone in its order, each with its own signature where the store has one."""
    rows = clone.store.rows(
        "SELECT body, signature FROM changes c JOIN authors ON authors.n=c.author WHERE private=0 ORDER BY c.n"
    )
    return [Signed(*row) for row in rows]


def batches(clone: Clone, vector=None, size: int | None = None) -> Iterator[list[Signed]]:
    """What a holder of `vector` lacks, in the batches that would travel."""
    sent, cursor = dict(vector or {}), 0
    with mock.patch.object(log, "BATCH_CHANGES", size or log.BATCH_CHANGES):
        while True:
            batch, reached, sent = clone.log.batch(sent, cursor)
            if batch:
                yield batch
            if reached == cursor:
                return
            cursor = reached


def shared_content(clone: Clone) -> dict[tuple[str, str], object]:
    """Every live document as the others must have it too: level 0 left out."""
    content: dict[tuple[str, str], object] = {}
    documents = clone.documents
    clone.log.refresh()
    for document in documents.all():
        if not clone.store.value("SELECT 1 FROM alive WHERE doc=?", (document.shared,)):
            continue
        key = (document.path, document.policy)
        if document.policy == "text":
            content[key] = documents.raw_text(document.shared)
        else:
            alone = document._replace(private=None)
            content[key] = (documents.text(alone), [(e.id, e.text) for e in documents.versions(alone)])
    return content


def conflict_ids(clone: Clone) -> list[str]:
    """The open conflicts among what is shared."""
    documents = [document._replace(private=None) for document in clone.documents.all() if document.shared is not None]
    return sorted(conflict.id for document in documents for conflict in clone.documents.conflicts(document))


def assert_same(*clones: Clone) -> None:
    """Equal vectors, digests, content and open conflicts."""
    first = clones[0]
    for other in clones[1:]:
        assert other.vector() == first.vector()
        assert shared_content(other) == shared_content(first)
        assert other.digest() == first.digest()
        assert conflict_ids(other) == conflict_ids(first)


def stored_bytes(clone: Clone) -> bytes:
    """All that the clone's store has on disk."""
    folder = clone.store.path.parent
    return b"".join(file.read_bytes() for file in sorted(folder.glob("store.db*")))
