"""Clones for the targets that need a store: made once, and made anew whenever an input has changed one."""

import atexit
import os
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgpack

from replica import baselines, changes
from replica.bridge import Bridge
from replica.changes import Kind, Signed
from replica.clone import Clone
from replica.errors import PeerError, ReplicaError
from replica.text import Text, client_id
from tests.helpers import START, Network, add, entry, save
from transport import wire
from transport.session import Ack, Bye, Changes, Digest, DocumentDigests, Hello, Session, State

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
TABLES = ("authors", "removals", "successions", "changes", "deps", "documents", "alive", "adds", "texts", "overlaps",
          "files", "held", "skipped", "peers")  # fmt: skip


def at_exit(folder: Path) -> None:
    made_by = os.getpid()
    atexit.register(lambda: os.getpid() == made_by and shutil.rmtree(folder, ignore_errors=True))


class World:
    """`desk`, the clone under test, in a folder that is copied from a template; `laptop` and `attic` only wrote."""

    def __init__(self) -> None:
        self.network = Network("desk", "laptop", "attic", seed=7)
        self.network.__enter__()
        atexit.register(close)
        self._write()
        self.members = [self.network["laptop"], self.network["attic"]]
        self._template = self.network.folder / "template"
        self.network["desk"].store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.network["desk"].close()
        shutil.copytree(self.network["desk"].root, self._template)
        self.fresh()

    def _write(self) -> None:
        network = self.network
        desk, laptop, attic = (network[name] for name in ("desk", "laptop", "attic"))
        save(desk, "a-buffer.md", "# Buffer\n\n- one\n- two\n- three\n")
        save(desk, "notes/text.md", "# Notes\n\nSome words 😀 here.\nMore of them.\n")
        save(desk, "SESSION_LOG.md", "2026-03-01 began\n2026-03-02 went on\n")
        save(desk, "activeContext.md", "Release on Friday.\n")
        network.share()
        for clone, word in ((desk, "desk"), (laptop, "laptop")):
            save(clone, "activeContext.md", f"Release when {word} is ready.\n")
            save(clone, "notes/text.md", f"# Notes\n\nSome {word} words 😀 here.\nMore of them.\n")
            save(clone, "a-buffer.md", f"# Buffer\n\n- one of {word}\n- two\n- three\n")
            network.run(clone.name)
        network.share()
        add(attic, "a-buffer.md", "- from the attic")
        network.sync("attic", "laptop")

    def fresh(self) -> Clone:
        """`desk` as it was in the beginning."""
        desk = self.network["desk"]
        desk.close()
        shutil.rmtree(desk.root, ignore_errors=True)
        shutil.copytree(self._template, desk.root)
        self.network.clones["desk"] = Clone.open(desk.root, now_ms=self.network.clock)
        self.before = self.fingerprint()
        return self.desk

    @property
    def desk(self) -> Clone:
        return self.network["desk"]

    def fingerprint(self) -> tuple:
        """Equal when nothing was changed: every table's size, the log's end, the content."""
        store = self.desk.store
        counts = store.row("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES))
        return counts, store.value("SELECT total(seq) FROM authors"), self.desk.digest(), store.meta("time")


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

STATES = ("opening", "syncing", "said", "closed")


def sessions() -> list[tuple[int, list[bytes]]]:
    """Conversations: the state they begin in, and the frames."""
    here, laptop = world(), world().members[0]
    desk = here.desk
    lacking = laptop.log.batch(desk.vector(), 0)[0]
    hello = Hello((1,), desk.workspace, laptop.vector())
    documents = tuple(desk.documents.document_digests())
    wrong = tuple((path, policy, bytes(32)) for path, policy, _ in documents)
    talks = [
        (0, [hello, Changes(tuple(lacking))]), (0, [hello, Ack(desk.vector()), Digest(desk.vector(), desk.digest())]),
        (1, [Changes(tuple(lacking)), Ack(laptop.vector())]), (1, [Digest(desk.vector(), bytes(32))]),
        (2, [DocumentDigests(desk.vector(), documents)]), (2, [DocumentDigests(desk.vector(), wrong)]),
        (1, [Bye("done")]), (3, [Bye("done"), hello]), (0, [Hello((2,), desk.workspace, {})]),
    ]  # fmt: skip
    return [(state, [wire.encode(message) for message in talk]) for state, talk in talks]


def session(start: bytes, frames: list[bytes]) -> None:
    """Frames given to a session in a state: replies, or a fault of the peer after which the store is as it was."""
    here = world()
    desk, laptop = here.desk, here.members[0]
    told: list = []
    talk = Session(desk, laptop.identity.id, told.append)
    talk.open()
    state = STATES[start[0] % len(STATES)] if start else "opening"
    if state in ("syncing", "said"):
        talk.receive(Hello((1,), desk.workspace, desk.vector() if state == "said" else laptop.vector()))
    if state == "said":
        talk.settle()
    if state == "closed":
        talk.state = State.CLOSED
    before, sent = here.fingerprint(), 0
    for frame in frames[:20]:
        try:
            replies = talk.receive(wire.decode(frame))
        except PeerError as error:
            assert here.fingerprint() == before, "a refused message changed the store"
            replies = talk.fail(error)
            assert talk.state is State.CLOSED
        sent += sum(len(wire.encode(reply)) for reply in replies)
        before = here.fingerprint()
    assert sent < 200_000 * len(frames)
    if before != here.before:
        here.fresh()


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
