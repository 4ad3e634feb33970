"""A bundle: everything below a store's floor, for a clone that has less than that.

Who the members are, what the kept changes had seen, the changes that were not folded, and the baseline of every
shared document. With it a store is what it would be had it taken in every change up to the floor; the log goes on
from there. Level 0 has no part in it.

The heads of the chains in it are confirmed by every later change, which names its predecessor's hash and is signed. The
contents are the giver's word: they are checked in shape, loaded where a bad one does no harm, and compared by
digest with every other member (transport/session.py).
"""

import hashlib
import sqlite3
import sys
import zlib
from typing import Any, NamedTuple

import msgpack

from replica import baselines, changes
from replica.blocks import block_id
from replica.changes import HASH_SIZE, POLICIES, clean_name
from replica.errors import InvalidChange
from replica.keys import ID_SIZE, KEY_SIZE, clone_id
from replica.log import Log, Stored, Vector
from replica.materialise import Materialiser
from replica.store import Store

FORMAT = 1
MAX_SIZE = 1024 * 1024 * 1024  # bytes, inflated
MAX_PACKED = 256 * 1024 * 1024  # bytes as they travel
CHECK_TIMEOUT = 120  # seconds for all the texts of a bundle

MEMBER = ("id", "key", "cert", "name", "admitted_by", "admitted_at", "removed_by", "removed_at", "successor")


class Bundle(NamedTuple):
    workspace: bytes
    name: str  # of the workspace
    floor: dict[bytes, tuple[int, bytes]]  # of each chain: its last folded number, and that change's hash
    members: list[tuple]  # see MEMBER
    admissions: list[tuple[bytes, bytes, int]]  # member, author, number
    removals: list[tuple[bytes, bytes, int, bool]]  # member, author, number, away
    successions: list[tuple[bytes, bytes, str]]  # old, new, why
    deps: list[tuple[bytes, bytes, int, int]]  # author, dep, number, number of the dep
    kept: list[bytes]  # bodies of changes below the floor that were not folded, in their order
    documents: list[tuple[str, str, int, bytes]]  # path, policy, time, baseline

    @property
    def vector(self) -> Vector:
        return {author: seq for author, (seq, _) in self.floor.items()}


# --- giving


def make(store: Store, log: Log) -> bytes:
    """The bundle of a store, as bytes. Of one that has folded nothing it says only that: its log is whole."""
    name = log.author_n
    shared = "(SELECT n FROM authors WHERE private=0)"
    floor = {
        id: [seq, head] for id, seq, head in store.rows(
            "SELECT id, floor, floor_head FROM authors WHERE private=0 AND floor>0"
        )
    }  # fmt: skip
    deps = store.rows(
        "SELECT author, dep, deps.seq, dep_seq FROM deps JOIN authors a ON a.n=author WHERE deps.seq<=a.floor"
        f" AND author IN {shared} AND dep IN {shared} ORDER BY author, dep, deps.seq"
    )
    if not floor:
        return zlib.compress(msgpack.packb([FORMAT, log.workspace, "", {}, *([] for _ in range(7))]), 1)
    fields = [
        FORMAT, log.workspace, store.meta("workspace_name", ""), floor,
        store.rows(f"SELECT {', '.join(MEMBER)} FROM authors WHERE private=0 ORDER BY n"),
        [(m, name(a).id, seq) for m, a, seq in store.rows("SELECT * FROM admissions ORDER BY 1, 2, 3")],
        [(m, name(a).id, seq, bool(away)) for m, a, seq, away in store.rows("SELECT * FROM removals ORDER BY 1, 2, 3")],
        store.rows("SELECT old, new, why FROM successions ORDER BY 1, 2"),
        [(name(author).id, name(dep).id, seq, dep_seq) for author, dep, seq, dep_seq in deps],
        [body for (body,) in store.rows(
            "SELECT body FROM changes c JOIN authors a ON a.n=c.author WHERE c.seq<=a.floor AND private=0 ORDER BY c.n"
        )],
        [
            (path, policy, time, baselines.pack(baselines.of(store, log, doc)))
            for path, policy, time, doc in store.rows(
                "SELECT path, policy, time, n FROM documents JOIN baselines ON doc=n WHERE private=0 ORDER BY 1, 2"
            )
        ],
    ]  # fmt: skip
    return zlib.compress(msgpack.packb(fields), 1)


# --- taking


def read(packed: bytes) -> Bundle:
    """Read a bundle's bytes, checking the shape of everything in them.

    Raises InvalidChange: it is none.
    """
    try:
        return _read(baselines.inflate(packed, MAX_SIZE))
    except (
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        KeyError,
        RecursionError,
        msgpack.UnpackException,
    ) as error:
        raise InvalidChange(f"a malformed bundle: {type(error).__name__}") from None


def _read(data: bytes) -> Bundle:
    format, workspace, name, floor, members, admissions, removals, successions, deps, kept, documents = msgpack.unpackb(
        data, strict_map_key=True, max_ext_len=0, use_list=False
    )
    _require(format == FORMAT and _is_id(workspace) and type(name) is str and len(name) <= changes.MAX_NAME)
    for author, (seq, head) in floor.items():
        _require(_is_id(author) and _is_seq(seq) and seq > 0 and type(head) is bytes and len(head) == HASH_SIZE)
    for id, key, cert, member, by, at, gone_by, gone_at, successor in members:
        _require(len(key) == KEY_SIZE and clone_id(key) == id)
        _require(type(cert) is bytes and len(cert) <= changes.MAX_CERTIFICATE)
        _require(type(member) is str and 0 < len(member) <= 4 * changes.MAX_NAME)
        _require(_is_id(by) and _is_number(at) and (successor is None or _is_id(successor)))
        _require((gone_by is None and gone_at is None) or (_is_id(gone_by) and _is_number(gone_at)))
    known = {member[0] for member in members}
    _require(len(known) == len(members) and set(floor) <= known)
    _require(all(m in known and a in known and _is_seq(s) for m, a, s in admissions))
    _require(all(m in known and a in known and _is_seq(s) and type(away) is bool for m, a, s, away in removals))
    _require(all(old in known and new in known and type(why) is str for old, new, why in successions))
    _require(all(a in known and d in known and _is_seq(s) and _is_seq(t) for a, d, s, t in deps))
    _require(all(type(body) is bytes for body in kept))
    for path, policy, time, baseline in documents:
        _require(type(path) is str and 0 < len(path.encode()) <= changes.MAX_PATH and policy in POLICIES)
        _require(_is_number(time) and type(baseline) is bytes)
    _require(len({(path, policy) for path, policy, *_ in documents}) == len(documents))
    rest = (members, admissions, removals, successions, deps, kept, documents)
    return Bundle(workspace, name, floor, *map(list, rest))


def load(store: Store, log: Log, materialiser: Materialiser, bundle: Bundle) -> None:
    """Make an empty store hold everything up to the bundle's floor. Inside a transaction.

    "Empty" is: without a shared change. The rows of authors and documents that are there are used again.

    Raises InvalidChange: the bundle contradicts itself; the transaction must be undone.
    """
    if bundle.workspace != log.workspace:
        raise InvalidChange("a bundle of another workspace")
    contents = [baselines.unpack(packed) for *_, packed in bundle.documents]
    for (_, policy, *_), content in zip(bundle.documents, contents, strict=True):
        _check_content(content, policy)
    check_texts([content for content in contents if content.state is not None])
    try:
        _load(store, log, materialiser, bundle, contents)
    except sqlite3.IntegrityError as error:
        raise InvalidChange(f"a bundle says one thing twice: {error}") from None


def _check_content(content: baselines.Baseline, policy: str) -> None:
    """What a baseline says of a document must be what its policy has, and a block what its name says."""
    if content.adds if policy == "text" else content.state is not None or content.text:
        raise InvalidChange(f"a baseline holds what a document of policy {policy} does not have")
    for add in content.adds:
        if not add.dead and block_id(add.role, add.text, add.occurrence) != add.id:
            raise InvalidChange("a baseline holds an entry that is not what its name says")


def _load(
    store: Store, log: Log, materialiser: Materialiser, bundle: Bundle, contents: list[baselines.Baseline]
) -> None:
    store.set_meta("workspace_name", clean_name(bundle.name))
    for member in bundle.members:
        _member(store, log, dict(zip(MEMBER, member, strict=True)))
    for id, (seq, head) in bundle.floor.items():
        store.execute("UPDATE authors SET seq=?, head=?, floor=?, floor_head=? WHERE id=?", (seq, head, seq, head, id))
    log.reload()
    row = log.author
    store.many("INSERT OR IGNORE INTO admissions VALUES(?,?,?)", [(m, row(a).n, s) for m, a, s in bundle.admissions])
    store.many(
        "INSERT OR IGNORE INTO removals VALUES(?,?,?,?)", [(m, row(a).n, s, away) for m, a, s, away in bundle.removals]
    )
    store.many("INSERT OR IGNORE INTO successions VALUES(?,?,?)", bundle.successions)
    store.many("INSERT OR IGNORE INTO deps VALUES(?,?,?,?)", [(row(a).n, row(d).n, s, t) for a, d, s, t in bundle.deps])
    row_before = log.last_row()
    for (path, policy, time, _), content in zip(bundle.documents, contents, strict=True):
        doc = log.document((path, policy), private=False)
        baselines.keep(store, doc, time, content)
        baselines.write(store, log, doc, content, row_before + 1)
        # Newer than whatever a file of it was written from.
        store.execute(
            "UPDATE documents SET digest=NULL, changed_at=?, changed=? WHERE n=?", (time, row_before + 1, doc)
        )
    store.set_meta("last_row", row_before + 1)
    store.set_meta("digest", None)
    for body in bundle.kept:
        _keep(store, log, materialiser, body)
    materialiser.flush()


def _member(store: Store, log: Log, member: dict[str, Any]) -> None:
    known = log.author(member["id"])
    if known is None:
        log.add_author(member["id"], member["key"], member["cert"], member["name"])
    elif known.private:
        raise InvalidChange("a bundle names this clone's private chain as a member")
    member["name"] = clean_name(member["name"])
    store.execute(
        f"UPDATE authors SET {', '.join(f'{column}=?' for column in MEMBER[2:])} WHERE id=? AND private=0",
        (*(member[column] for column in MEMBER[2:]), member["id"]),
    )


def _keep(store: Store, log: Log, materialiser: Materialiser, body: bytes) -> None:
    """A change below the floor that stays a change."""
    change = changes.decode(body)
    author = log.author(change.author)
    if author is None or author.private or change.seq > author.floor:
        raise InvalidChange("a bundle keeps a change that is not below its floor")
    doc = log.document(change.document, private=False) if change.document else None
    n = log.last_row() + 1
    store.execute(
        "INSERT INTO changes(n, author, seq, hash, time, kind, doc, body, signature) VALUES(?,?,?,?,?,?,?,?,NULL)",
        (n, author.n, change.seq, change.hash, change.time, int(change.kind), doc, body),
    )
    if change.kind in changes.DOCUMENT_KINDS:  # what the others mean is in the table of members
        materialiser.apply(Stored(n, author, change))


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == ID_SIZE


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_seq(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


# --- texts that a peer has made


def check_texts(contents: list[baselines.Baseline]) -> None:
    """Load these engine states in a process of their own, which a bad one may bring down or keep busy.

    A whole state cannot pass the check that single updates pass (replica/yjs.py): it holds several authors' blocks.

    Raises InvalidChange: one cannot be loaded, or does not hold the text that it is said to.
    """
    import subprocess

    if not contents:
        return
    told = msgpack.packb([[content.state, hashlib.sha256(content.text.encode()).digest()] for content in contents])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "replica.textcheck"], input=told, capture_output=True, timeout=CHECK_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise InvalidChange(f"the texts of a bundle take longer than {CHECK_TIMEOUT} seconds to load") from None
    if done.returncode != 0:
        raise InvalidChange("a text of a bundle does not load, or is not what it is said to be")
