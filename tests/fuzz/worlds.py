"""Clones for the targets that need a store: made once, and made anew whenever an input has changed one."""

import atexit
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from unittest import mock

import msgpack

from replica import baselines, bundle, changes, compact, rejoin
from replica.bridge import Bridge
from replica.changes import Kind, Signed
from replica.clone import Clone
from replica.errors import CorruptUpdate, InvalidChange, PeerError, ReplicaError
from replica.keys import Identity
from replica.places import FOLDER
from replica.text import Text, client_id
from tests.helpers import START, Network, add, certificate, entry, save
from transport import wire
from transport.session import (
    HEAD,
    PIECE,
    REASONS,
    Ack,
    Baseline,
    Bye,
    Changes,
    Digest,
    DocumentDigests,
    Hello,
    Restart,
    Session,
    State,
)

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
TABLES = ("authors", "admissions", "removals", "successions", "changes", "deps", "baselines", "documents", "alive",
          "adds", "texts", "overlaps", "files", "held", "skipped", "peers")  # fmt: skip


def at_exit(folder: Path) -> None:
    made_by = os.getpid()
    atexit.register(lambda: os.getpid() == made_by and shutil.rmtree(folder, ignore_errors=True))


class World:
    """Clones under test, in folders that are copied from templates, and others that only wrote.

    `desk` has met `laptop`, which has heard of `attic` since; `shed` has folded what all of them hold; `guest` was let
    in and holds nothing.
    """

    def __init__(self) -> None:
        self.network = Network("desk", "laptop", "attic", "shed", seed=7)
        self.network.__enter__()
        atexit.register(close)
        self._write()
        self.members = [self.network["laptop"], self.network["attic"]]
        shed = self.network["shed"]
        self.bundle = bundle.make(shed.store, shed.log)
        half = (len(self.bundle) + 1) // 2  # as one of more than PIECE bytes travels
        self.pieces = (self.bundle[:half], self.bundle[half:])
        assert half <= PIECE
        self.texts = {content.state: content.text for content in _contents(self.bundle) if content.state is not None}
        self._templates = self.network.folder / "templates"
        for name in ("desk", "guest"):
            self.network[name].store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.network[name].close()
            shutil.copytree(self.network[name].root, self._templates / name)
        self.fresh("guest")
        self.fresh()

    def _write(self) -> None:
        network = self.network
        desk, laptop, attic = (network[name] for name in ("desk", "laptop", "attic"))
        identity = Identity.new()
        desk.admit(identity.public, certificate(b"", "guest"), "guest")
        save(desk, "a-buffer.md", "# Buffer\n\n- one\n- two\n- three\n")
        save(desk, "notes/text.md", "# Notes\n\nSome words 😀 here.\nMore of them.\n")
        save(desk, "SESSION_LOG.md", "2026-03-01 began\n2026-03-02 went on\n")
        save(desk, "activeContext.md", "Release on Friday.\n")
        save(desk, "notes/folded.md", "# Plans\n\nOld words 😀.\n")
        network.share()
        save(laptop, "notes/folded.md", "# Plans\n\nOther words 😀.\n")
        save(laptop, "a-buffer.md", "# Buffer\n\n- one\n- 2\n- three\n- four\n")
        network.share()
        save(desk, "a-buffer.md", "# Buffer\n\n- one\n- two\n- three\n")
        for clone, word in ((desk, "desk"), (laptop, "laptop")):
            save(clone, "activeContext.md", f"Release when {word} is ready.\n")
            save(clone, "notes/text.md", f"# Notes\n\nSome {word} words 😀 here.\nMore of them.\n")
            save(clone, "a-buffer.md", f"# Buffer\n\n- one of {word}\n- two\n- three\n")
            network.run(clone.name)
        network.share()
        self._fold()
        network.clones["guest"] = Clone.adopt(
            network.folder / "guest", identity, desk.workspace, "guest", now_ms=network.clock
        )
        add(attic, "a-buffer.md", "- from the attic")
        network.sync("attic", "laptop")

    def _fold(self) -> None:
        """`shed` folds what everybody has acknowledged; the guest has nothing to acknowledge yet, but is new."""
        shed = self.network["shed"]
        self.network.now += 1_000
        with shed.transaction():
            for member in shed.members():
                shed.store.execute(
                    "INSERT OR REPLACE INTO peers(id, seen, vector) VALUES(?,?,?)",
                    (member["id"], self.network.now, msgpack.packb(shed.log.vector())),
                )
        shed.set_config("[history]\ndays = 0\n")
        assert compact.compact(shed).folded

    def fresh(self, name: str = "desk") -> Clone:
        """A clone under test as it was in the beginning."""
        clone = self.network[name]
        clone.close()
        shutil.rmtree(clone.root, ignore_errors=True)
        shutil.copytree(self._templates / name, clone.root)
        self.network.clones[name] = clone = Clone.open(clone.root, now_ms=self.network.clock)
        if name == "desk":
            self.before = self.fingerprint()
        return clone

    @property
    def desk(self) -> Clone:
        return self.network["desk"]

    def fingerprint(self, name: str = "desk") -> tuple:
        """Equal when nothing was changed: every table's size, the log's end, the content, the folder of the clone."""
        clone = self.network[name]
        store = clone.store
        counts = store.row("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES))
        ends = store.value("SELECT total(seq) FROM authors"), store.meta("time"), store.meta("rejoin")
        aside = clone.root / FOLDER / rejoin.ASIDE
        return counts, ends, clone.digest(), sorted(os.listdir(aside)) if aside.is_dir() else []


@cache
def world() -> World:
    return World()


def bodies() -> list[bytes]:
    """A real change of every kind."""
    return [body for (body,) in world().members[0].store.rows("SELECT body FROM changes ORDER BY n")]


def close() -> None:
    """Give up the world, and what it has put in the place of the clock, the disk and chance."""
    if world.cache_info().currsize:
        world().network.__exit__()
        world.cache_clear()


def folded() -> list[bytes]:
    """Baselines of real documents, as they are before they are deflated."""
    laptop = world().members[0]
    rows = laptop.store.rows("SELECT n, policy FROM documents WHERE private=0")
    packed = [
        baselines.pack(baselines.read(
            laptop.store, laptop.log, n, policy, laptop.materialiser.engine(n) if policy == "text" else None))
        for n, policy in rows
    ]  # fmt: skip
    return [baselines.inflate(one, baselines.MAX_SIZE) for one in packed]


# --- sessions

# The last two are of a clone that holds nothing yet.
STATES = ("opening", "syncing", "said", "closed", "new", "new syncing")


def sessions() -> list[tuple[int, list[bytes]]]:
    """Conversations: the state they begin in, and the frames."""
    here, laptop = world(), world().members[0]
    desk = here.desk
    lacking = laptop.log.batch(desk.vector(), 0)[0]
    hello = Hello((1,), desk.workspace, laptop.vector(), _heads(laptop), laptop.identity.id)
    parted = Hello((1,), desk.workspace, desk.vector(), bytes(len(_heads(desk))), laptop.identity.id)
    restored = [
        Baseline(why, laptop.identity.id, at, len(here.pieces), piece)
        for why in REASONS for at, piece in enumerate(here.pieces)
    ]  # fmt: skip
    behind = Changes(tuple(laptop.log.batch(here.network["shed"].log.floor(), 0)[0]))
    documents = tuple(desk.documents.document_digests())
    wrong = tuple((path, policy, bytes(32)) for path, policy, _ in documents)
    talks = [
        (0, [hello, Changes(tuple(lacking))]), (0, [hello, Ack(desk.vector()), Digest(desk.vector(), desk.digest())]),
        (1, [Changes(tuple(lacking)), Ack(laptop.vector())]), (1, [Digest(desk.vector(), bytes(32))]),
        (2, [DocumentDigests(desk.vector(), documents)]), (2, [DocumentDigests(desk.vector(), wrong)]),
        (1, [Bye("done")]), (3, [Bye("done"), hello]), (0, [Hello((2,), desk.workspace, {})]),
        (0, [parted, restored[2], restored[3], behind]), (1, [*restored[2:4], Ack(desk.vector()), behind]),
        (1, [Restart(), Ack({}), *restored[4:6]]), (2, [*restored[6:8], Restart()]), (1, [*restored[8:], behind]),
        (1, restored[:2]), (1, [restored[3]]), (4, [hello, *restored[:2], behind]), (4, [hello, *restored[4:6]]),
        (5, [*restored[:2], behind, Digest(laptop.vector(), laptop.digest())]), (5, [restored[0], behind]),
    ]  # fmt: skip
    return [(state, [wire.encode(message) for message in talk]) for state, talk in talks]


def session(start: bytes, frames: list[bytes]) -> None:
    """Frames given to a session in a state: replies, or a fault of the peer after which the store is as it was."""
    here = world()
    state = STATES[start[0] % len(STATES)] if start else "opening"
    name = "guest" if state.startswith("new") else "desk"
    clone, laptop = here.network[name], here.members[0]
    told: list = []
    talk = Session(clone, laptop.identity.id, told.append)
    talk.open()
    if state in ("syncing", "said", "new syncing"):
        held = clone if state == "said" else laptop
        talk.receive(Hello((1,), clone.workspace, held.vector(), _heads(held), laptop.identity.id))
    if state == "said":
        talk.settle()
    if state == "closed":
        talk.state = State.CLOSED
    first = before = here.fingerprint(name)
    sent = 0
    with checked_here():
        for frame in frames[:20]:
            try:
                replies = talk.receive(wire.decode(frame))
            except PeerError as error:
                assert here.fingerprint(name) == before, "a refused message changed the store"
                replies = talk.fail(error)
                assert talk.state is State.CLOSED
            sent += sum(len(wire.encode(reply)) for reply in replies)
            before = here.fingerprint(name)
    assert sent < 200_000 * len(frames)
    if before != first:
        here.fresh(name)


def _heads(clone: Clone) -> bytes:
    return b"".join(clone.log.author(id).head[:HEAD] for id in sorted(clone.vector()))


# --- bundles


def _contents(packed: bytes) -> list[baselines.Baseline]:
    return [baselines.unpack(content) for *_, content in bundle.read(packed).documents]


@contextmanager
def checked_here() -> Iterator[None]:
    """A process for each check of texts takes a second: those that are known to be good are passed over."""
    known, check = world().texts, bundle.check_texts

    def look(contents: list[baselines.Baseline]) -> None:
        check([content for content in contents if known.get(content.state) != content.text])

    with mock.patch.object(bundle, "check_texts", look):
        yield


def opened_bundle() -> bytes:
    """A real bundle without what is deflated in it: what changes one node of it reaches every baseline."""
    fields = msgpack.unpackb(baselines.inflate(world().bundle, bundle.MAX_SIZE), strict_map_key=False)
    for document in fields[-1]:
        document[3] = msgpack.unpackb(baselines.inflate(document[3], baselines.MAX_SIZE), strict_map_key=False)
    return msgpack.packb(fields)


def closed_bundle(data: bytes) -> bytes:
    """The other way round. Of what is none, whatever comes of it."""
    with suppress(Exception):
        fields = msgpack.unpackb(data, strict_map_key=False)
        for document in fields[-1]:
            with suppress(Exception):
                document[3] = zlib.compress(msgpack.packb(document[3]), 1)
        data = msgpack.packb(fields)
    return zlib.compress(data, 1)


def take_bundle(packed: bytes) -> None:
    """A bundle for a clone that holds nothing: refused and forgotten, or good for everything that comes after."""
    here = world()
    try:
        taken = bundle.read(packed)
    except InvalidChange:
        return
    before = here.fingerprint("guest")
    guest = here.network["guest"]
    try:
        with checked_here():
            guest.take_bundle(taken)
    except InvalidChange as error:
        assert len(str(error)) < 1_000
        assert here.fingerprint("guest") == before, "a refused bundle changed the store"
        return
    try:
        look_at_all(guest)
        guest.trusted()
        with suppress(CorruptUpdate):  # of a text that is as it was said to be, and still does not go on
            digest = guest.digest()
            with guest.transaction():
                for (doc,) in guest.store.rows("SELECT n FROM documents"):
                    guest.materialiser.rebuild(doc)
            assert guest.digest() == digest, "the baselines do not give what the tables hold"
        for said in Session(guest, here.members[0].identity.id).open():
            assert wire.decode(wire.encode(said)) == said
        bundle.read(bundle.make(guest.store, guest.log))
        with suppress(PeerError):
            guest.ingest(here.members[0].log.batch(guest.vector(), 0)[0])
        look_at_all(guest)
    finally:
        here.fresh("guest")


# --- changes signed by a member


def payloads() -> list[tuple[int, list]]:
    """[kind, document, payload, deps] of changes that a member could make next."""
    here = world()
    laptop = here.members[0]
    key = here.network["attic"].identity
    id, buffer = laptop.identity.id, ["a-buffer.md", "union"]
    dots = [list(row) for row in laptop.store.rows(
        "SELECT a.id, adds.seq, idx FROM adds JOIN authors a ON a.n=author WHERE private=0")]  # fmt: skip
    text = laptop.materialiser.engine(laptop.documents.find("notes/text.md", "text").shared)
    mine = Text.load(text.state(), client_id(id, "notes/text.md"))
    (update, *_) = mine.edit(mine.client, "# Notes\n\nQuite other words 😀.\n")
    member = changes.member_payload(key.public, b"certificate", "new\x1b[2J")
    ops = changes.entries_payload([entry("- new"), entry("## heading", role="heading"), entry("- b", after=bytes(16))])
    return [
        (0, [int(Kind.ENTRIES), buffer, ops, []]),
        (0, [int(Kind.ENTRIES), buffer, [[dots[:3]], [0, "- c", 1, "\n", None, dots[3:5], {"tags": ["x"]}]], []]),
        (0, [int(Kind.ENTRIES), ["activeContext.md", "latest"], ops[:1], []]),
        (0, [int(Kind.ENTRIES), ["../../etc/x\x1b.md", "log"], ops[:1], []]),
        (0, [int(Kind.TEXT), ["notes/text.md", "text"], update, []]),
        (0, [int(Kind.IMPORT), ["notes/new.md", "text"], "some\ntext 😀\n", []]),
        (0, [int(Kind.DELETE), buffer, dots[:2], []]),
        (0, [int(Kind.REVIEW), ["notes/text.md", "text"], [[id, 1, id, 2]], []]),
        (0, [int(Kind.REMOVE), None, {"member": id}, []]),
        (0, [int(Kind.ADMIT), None, {**member, "key": bytes(32)}, []]),
        (0, [int(Kind.ENTRIES), ["replica.toml", "latest"], [[0, "exclude=[]", 1, "", None, [], {}]], []]),
        (1, [int(Kind.SUCCEED), None, {**member, "old": id, "proof": bytes(64), "why": "fork"}, []]),
        (1, [int(Kind.GENESIS), None, {**member, "nonce": bytes(16), "workspace": "team"}, []]),
    ]


def ingest(who: int, fields: list) -> None:
    """The next change of laptop (0), or a first one of nobody (1), with these fields, properly signed."""
    here = world()
    desk = here.desk
    signer = here.members[0].identity if who == 0 else here.network["attic"].private
    author = desk.log.author(signer.id)
    kind, document, payload, deps = fields
    head = (author.seq + 1, author.head) if author else (1, desk.workspace)
    body = msgpack.packb([1, signer.id, *head, START << 16, deps, kind, document, payload])
    signed = Signed(body, signer.sign(changes.change_hash(body)))
    before = here.fingerprint()
    try:
        desk.ingest([signed])
    except PeerError as error:
        assert len(str(error)) < 1_000
        assert here.fingerprint() == before, "a refused change changed the store"
        return
    try:
        look_at_all(desk)
        outside = set(os.listdir(here.network.folder))
        Bridge(desk, here.network.clock).run(every=True)
        assert set(os.listdir(here.network.folder)) == outside, "a file outside of the clone"
        digest = desk.digest()
        with desk.transaction():
            for (doc,) in desk.store.rows("SELECT n FROM documents"):
                desk.materialiser.rebuild(doc)
        assert desk.digest() == digest, "the log does not give what the tables hold"
    finally:
        here.fresh()


def look_at_all(clone: Clone) -> dict[tuple[str, str], str]:
    """Every document and every conflict, as the commands read them."""
    held = {(d.path, d.policy): clone.documents.text(d) for d in clone.documents.all()}
    clone.documents.all_conflicts()
    clone.digest()
    clone.members()
    return held


# --- rows that the disk gave back wrong

FILES = ("a-buffer.md", "notes/text.md", "SESSION_LOG.md", "activeContext.md")

DAMAGED = (
    ("texts", "state"), ("texts", "text"), ("texts", "change"), ("adds", "text"), ("adds", "meta"), ("adds", "roots"),
    ("adds", "after"), ("adds", "place"), ("adds", "id"), ("adds", "role"), ("adds", "time"), ("adds", "seq"),
    ("adds", "author"), ("changes", "body"), ("changes", "hash"), ("changes", "signature"), ("overlaps", "one_seq"),
    ("overlaps", "one"), ("files", "base"), ("files", "ids"), ("files", "canonical"), ("documents", "digest"),
    ("documents", "changed_by"), ("alive", "author"), ("peers", "vector"), ("authors", "cert"), ("deps", "dep_seq"),
    ("files", "form"),
)  # fmt: skip


def damaged(data: bytes) -> None:
    """One value of a row changed behind the program's back: a documented error at most, and every file as it was."""
    here = world()
    if len(data) < 2:
        return
    table, column = DAMAGED[data[0] % len(DAMAGED)]
    store = here.desk.store
    without_rowid = table in ("overlaps", "files", "alive", "deps", "peers")
    keys = [] if without_rowid else store.rows(f"SELECT rowid FROM {table}")
    where = f"rowid={keys[data[1] % len(keys)][0]}" if keys else "1"
    files = _saved(here.desk)
    value = store.value(f"SELECT {column} FROM {table} WHERE {where}")
    try:
        with store.transaction():
            store.execute(f"UPDATE OR IGNORE {table} SET {column}=? WHERE {where}", (_hurt(value, data[2:]),))
        with Clone.open(here.desk.root, now_ms=here.network.clock) as clone:
            for document in clone.documents.all():
                for look in (clone.documents.text, clone.documents.conflicts):
                    with suppress(ReplicaError):
                        look(document)
            for ask in (clone.digest, clone.documents.all_conflicts, clone.members, Bridge(clone).run):
                with suppress(ReplicaError):
                    ask()
        assert _saved(here.desk) == files, "a file was written over because of a damaged row"
    finally:
        here.fresh()


def _saved(clone: Clone) -> dict[str, bytes]:
    return {name: (clone.root / name).read_bytes() for name in FILES if (clone.root / name).is_file()}


def _hurt(value, damage: bytes):
    if isinstance(value, bytes | str):
        raw = bytearray(value.encode() if isinstance(value, str) else value)
        for at, byte in enumerate(damage[: len(raw)]):
            raw[(at * 7 + len(damage)) % len(raw)] ^= byte
        raw = raw[: len(raw) - damage[0] % 5] if damage and damage[0] % 3 == 0 else raw
        return raw.decode("utf-8", "replace") if isinstance(value, str) else bytes(raw)
    return int.from_bytes(damage[:4], "big") if damage else None
