"""Documents as people see them: which blocks stand in which order, what is alive, what is in conflict.

Reads the tables that replica/materialise.py keeps. A document is a path with a policy; entries of
level 0 live in a private twin of it, whose blocks are woven in here and nowhere else.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgpack

from replica.blocks import Block, Node, block_id, order, render, spaced
from replica.changes import Dot
from replica.errors import DamagedRecord, PeerError
from replica.log import Log
from replica.materialise import Materialiser, split_roots, unpack_rank
from replica.store import PLACE, Store


class Entry(NamedTuple):
    """One block of a document, with who wrote it and when."""

    id: bytes
    role: str
    text: str
    occurrence: int
    lead: str
    place: bytes  # what `after` of the next block names
    meta: dict[str, Any]
    dots: tuple[Dot, ...]  # the live ones: what a removal has to name
    rows: tuple[int, ...]  # of each dot, the row of its change in this store
    author: bytes
    time: int
    private: bool
    roots: frozenset[bytes]
    origin: tuple[int, int]  # author row and number of the shown dot
    key: tuple  # its place among others: time, then what cannot tie

    @property
    def block(self) -> Block:
        return Block(self.role, self.text, self.lead)


class Document(NamedTuple):
    """A row of `documents`, with its private twin if it has one."""

    path: str
    policy: str
    shared: int | None
    private: int | None
    alive: bool


class Version(NamedTuple):
    version: str
    text: str
    clone: bytes
    time: int


class Conflict(NamedTuple):
    """Versions of one thing that wait for a decision. `id` is stable as long as the versions are."""

    id: str
    path: str
    policy: str
    kind: str  # "document", "entry" or "region"
    versions: tuple[Version, ...]
    entries: tuple[Entry, ...] = ()
    pairs: tuple[tuple[int, int, int, int], ...] = ()


# Of a row `d` of `documents`: whether it or its twin is alive. What is shared may be deleted, and level 0 live on here.
_LIVES = (
    "EXISTS(SELECT 1 FROM documents twin JOIN alive ON alive.doc=twin.n"
    " WHERE twin.path=d.path AND twin.policy=d.policy)"
)


class Documents:
    def __init__(self, store: Store, log: Log, materialiser: Materialiser):
        self.store, self.log, self.materialiser = store, log, materialiser

    # --- which there are

    def find(self, path: str, policy: str) -> Document:
        rows = {
            private: (n, alive)
            for n, private, alive in self.store.rows(
                "SELECT n, private, EXISTS(SELECT 1 FROM alive WHERE doc=n) FROM documents WHERE path=? AND policy=?",
                (path, policy),
            )
        }
        alive = any(row[1] for row in rows.values())
        return Document(path, policy, rows.get(0, (None,))[0], rows.get(1, (None,))[0], alive)

    def all(self) -> list[Document]:
        """The live documents, by path."""
        pairs = self.store.rows(
            "SELECT DISTINCT path, policy FROM documents WHERE EXISTS(SELECT 1 FROM alive WHERE doc=n) ORDER BY 1, 2"
        )
        return [self.find(*pair) for pair in pairs]

    def latest_changes(self, since: int = 0) -> dict[tuple[str, str], int]:
        """The live documents as (path, policy), with the row of the last change to each, to either of its twins.

        `since`: only those with a change behind that row.
        """
        rows = self.store.rows(
            f"SELECT path, policy, max(changed) FROM documents d WHERE {_LIVES}"
            + (" AND changed>?" if since else "")
            + " GROUP BY path, policy ORDER BY path, policy",
            (since,) if since else (),
        )
        return {(path, policy): last for path, policy, last in rows}

    def dead(self, since: int = 0) -> set[tuple[str, str]]:
        """The deleted documents as (path, policy); `since` as above."""
        return set(
            self.store.rows(
                f"SELECT DISTINCT path, policy FROM documents d WHERE NOT {_LIVES}"
                + (" AND changed>?" if since else ""),
                (since,) if since else (),
            )
        )

    # --- what they hold

    def text(self, document: Document) -> str:
        """The content as the file shows it, with "\\n" line endings."""
        if document.policy == "text":
            return self.raw_text(self.shown_text(document))
        return render(self.shown(document))

    def shown_text(self, document: Document) -> int | None:
        """Which twin of a text is shown: the private one while it lives, since it went on from the other."""
        private = document.private
        if private is not None and self.store.value("SELECT 1 FROM alive WHERE doc=?", (private,)):
            return private
        return document.shared if document.shared is not None else private

    def raw_text(self, doc: int | None) -> str:
        if doc is None:
            return ""
        row = self.store.row(
            "SELECT text FROM texts WHERE doc=?"
            " AND change>=ifnull((SELECT max(n) FROM changes WHERE doc=? AND kind IN (4,5)), 0)",
            (doc, doc),
        )
        if row and type(row[0]) is str:
            return row[0]
        try:
            return self.materialiser.engine(doc).text
        except _UNREADABLE as error:
            raise DamagedRecord(f"what the store holds of a text is damaged: {error}") from None

    def shown(self, document: Document) -> list[Block]:
        """The blocks in the order and spacing of the file."""
        return spaced((entry.block for entry in self.entries(document)), document.policy)

    def entries(self, document: Document) -> list[Entry]:
        """The visible blocks in order. Of policy `latest` only the newest version."""
        nodes, live = self._read(document)
        if document.policy == "latest":
            return self.versions(document)[-1:]
        if document.policy == "log":
            return sorted(live.values(), key=_newest)
        by_place = {entry.place: entry for entry in live.values()}
        return [by_place[place] for place in order(nodes) if place in by_place]

    def versions(self, document: Document) -> list[Entry]:
        """All live blocks, newest last; of policy `latest` the shown one and those that wait."""
        return self._versions(document)[0]

    def superseded(self, document: Document) -> list[Entry]:
        """The shared versions of a `latest` document that went on at level 0 in their place: others show them still."""
        return self._versions(document)[1]

    def _versions(self, document: Document) -> tuple[list[Entry], list[Entry]]:
        nodes, live = self._read(document)
        entries = sorted(live.values(), key=_newest)
        private = [entry.place for entry in entries if entry.private] if document.policy == "latest" else []
        before, left = {node.id: node.after for node in nodes} if private else {}, set()
        for place in private:  # each names what it took the place of, which may have been of level 0 itself
            while (place := before.get(place)) is not None and place not in left:
                left.add(place)
        superseded = [entry for entry in entries if not entry.private and entry.place in left]
        return [entry for entry in entries if entry not in superseded], superseded

    def _read(self, document: Document) -> tuple[list[Node], dict[bytes, Entry]]:
        """Every place there ever was, to be ordered, and the live blocks. Raises DamagedRecord."""
        return self._sound(document, self._assembled)

    def _sound(self, document: Document, read: Callable[[Document], Any]) -> Any:
        """What `read` makes of the tables; where it cannot, of tables that are made anew from the log.

        Raises DamagedRecord: not even of those.
        """
        try:
            return read(document)
        except _UNREADABLE:
            self._mend(document)
        try:
            return read(document)
        except _UNREADABLE:
            raise DamagedRecord(f"what the store holds of {document.path!r} is damaged") from None

    def _mend(self, document: Document) -> None:
        """Make the tables of a document anew from the log, or leave them as they are."""
        with self.store.transaction():
            self.store.execute("SAVEPOINT mend")
            try:
                for doc in (document.shared, document.private):
                    if doc is not None:
                        self.materialiser.rebuild(doc)
            except BaseException as error:
                self.store.execute("ROLLBACK TO mend")
                self.materialiser.forget()
                if isinstance(error, _UNREADABLE):
                    raise DamagedRecord(f"what the store holds of {document.path!r} is damaged") from None
                raise

    def _assembled(self, document: Document) -> tuple[list[Node], dict[bytes, Entry]]:
        rows = self.store.rows(
            f"SELECT id, author, seq, idx, time, role, text, lead, after, meta, roots, dead, {PLACE}, change,"
            " occurrence, rank FROM adds WHERE doc IN (?,?)",
            (document.shared, document.private),
        )
        by_id: dict[bytes, list[tuple]] = {}
        places: dict[bytes, tuple] = {}
        for row in rows:
            # A block without text only makes an empty document known (Edits._exist). It goes at once, but who
            # does not hear of that must not show an empty line for ever.
            if not row[11] and row[6]:
                by_id.setdefault(row[0], []).append(row)
            known = places.get(row[12])
            # A dead add says where the place is only while no live one does: the dead may be folded away.
            if known is None or (row[11], self._rank(row)) < (known[11], self._rank(known)):
                places[row[12]] = row
        live = {}
        is_log = document.policy == "log"
        for id, alive in by_id.items():
            if len(alive) == 1 and alive[0][15] is None:
                live[id] = self._single(alive[0])
            else:
                key = min(map(self._rank if is_log else self._key, alive))
                # What others have as well is what they have: nothing that it has here alone may go out with an edit.
                shared = [row for row in alive if not self.log.author_n(row[1]).private]
                live[id] = self._entry(min(shared or alive, key=self._key), alive, key)
        return [Node(place, row[8], self._rank(row)) for place, row in places.items()], live

    def _key(self, row: tuple) -> tuple:
        """Where a block stands among others: by time, then by what cannot tie."""
        return (row[4], self.log.author_n(row[1]).id, row[2], row[3])

    def _rank(self, row: tuple) -> tuple:
        """The same, where a block stands for an older one (see `rank` in replica/materialise.py)."""
        return self._key(row) if row[15] is None else unpack_rank(self.log, row[15])

    def _single(self, row: tuple) -> Entry:
        """As `_entry`, for the block that was added once: nearly all are."""
        id, author, seq, idx, time, role, text, lead, _, meta, roots, _, place, change, occurrence, _ = row
        _check_name(id, role, text, occurrence)
        who = self.log.author_n(author)
        return Entry(
            id, role, text, occurrence, lead, place, _meta(meta), (Dot(who.id, seq, idx),), (change,), who.id, time,
            who.private, frozenset(split_roots(roots) or (id,)), (author, seq), (time, who.id, seq, idx),
        )  # fmt: skip

    def _entry(self, first: tuple, alive: list[tuple], key: tuple) -> Entry:
        id, author, seq, _, _, role, text, lead, _, meta, _, _, place, _, occurrence, _ = first
        _check_name(id, role, text, occurrence)
        dots = tuple(Dot(self.log.author_n(row[1]).id, row[2], row[3]) for row in alive)
        roots = frozenset().union(*(split_roots(row[10]) or {id} for row in alive))
        who = self.log.author_n(author)
        return Entry(
            id, role, text, occurrence, lead, place, _meta(meta), dots, tuple(row[13] for row in alive), who.id, key[0],
            all(self.log.author_n(row[1]).private for row in alive), roots, (author, seq), key,
        )  # fmt: skip

    def count_entries(self) -> int:
        """Live entries of all documents, headings and prose left out; a text counts as one."""
        blocks = self.store.value("SELECT count(DISTINCT doc || hex(id)) FROM adds WHERE dead=0 AND role='entry'")
        texts = self.store.value(
            "SELECT count(*) FROM documents WHERE policy='text' AND EXISTS(SELECT 1 FROM alive WHERE doc=n)"
        )
        return blocks + texts

    # --- conflicts

    def conflicts(self, document: Document) -> list[Conflict]:
        if not document.alive:
            return []
        if document.policy == "text":
            return self._sound(document, self._region_conflicts)
        if document.policy == "latest":
            versions = self.versions(document)
            return [self._conflict(document, "document", versions)] if len(versions) > 1 else []
        return [self._conflict(document, "entry", group) for group in self._successors(document)]

    def disputed(self) -> list[tuple[str, str]]:
        """The documents that may have conflicts, as (path, policy): quick, and never too few."""
        return self.store.rows(
            "SELECT DISTINCT path, policy FROM documents WHERE"
            " (policy='text' AND n IN (SELECT doc FROM overlaps WHERE reviewed=0))"
            " OR n IN (SELECT doc FROM adds WHERE dead=0 AND roots IS NOT NULL)"
            " OR (policy='latest' AND path IN (SELECT path FROM adds JOIN documents d ON d.n=doc"
            "     WHERE dead=0 AND d.policy='latest' GROUP BY path HAVING count(DISTINCT id)>1)) ORDER BY 1, 2"
        )

    def all_conflicts(self) -> list[Conflict]:
        found = []
        for pair in self.disputed():
            with suppress(DamagedRecord):  # that document is listed where its file is passed over
                found += self.conflicts(self.find(*pair))
        return found

    def _successors(self, document: Document) -> list[list[Entry]]:
        """Groups of live entries that concurrently took the place of the same one."""
        _, live = self._read(document)
        by_root: dict[bytes, list[Entry]] = {}
        for entry in live.values():
            for root in entry.roots:
                by_root.setdefault(root, []).append(entry)
        groups: dict[tuple, list[Entry]] = {}
        for entries in by_root.values():
            rivals = [e for e in entries if any(self._concurrent(e, other) for other in entries if other is not e)]
            if len(rivals) > 1:
                rivals.sort(key=lambda entry: entry.id)
                groups[tuple(entry.id for entry in rivals)] = rivals
        return [groups[key] for key in sorted(groups)]

    def _concurrent(self, one: Entry, other: Entry) -> bool:
        (a, a_seq), (b, b_seq) = one.origin, other.origin
        if (a, a_seq) == (b, b_seq):
            return False
        return self.log.past(a, a_seq, b) < b_seq and self.log.past(b, b_seq, a) < a_seq

    def _conflict(self, document: Document, kind: str, entries: list[Entry]) -> Conflict:
        entries = sorted(entries, key=lambda entry: entry.id)
        id = _short(document, *(entry.id for entry in entries))
        versions = tuple(Version(f"v{at}", entry.text, entry.author, entry.time) for at, entry in enumerate(entries, 1))
        return Conflict(id, document.path, document.policy, kind, versions, tuple(entries))

    def _region_conflicts(self, document: Document) -> list[Conflict]:
        if not self.store.value("SELECT 1 FROM alive WHERE doc=?", (document.shared,)):
            return []  # it lives on at level 0, where nobody else changes it
        pairs = self.store.rows(
            "SELECT one, one_seq, other, other_seq FROM overlaps WHERE doc=? AND reviewed=0",
            (document.shared,),
        )
        return [self._region(document, group) for group in connected(pairs)]

    def _region(self, document: Document, pairs: list[tuple[int, int, int, int]]) -> Conflict:
        from replica.regions import region_versions

        changes = sorted({pair[:2] for pair in pairs} | {pair[2:] for pair in pairs})
        names = sorted((self.log.author_n(author).id, seq) for author, seq in changes)
        id = _short(document, *(author + seq.to_bytes(8, "big") for author, seq in names))
        versions = region_versions(self, document, changes)
        return Conflict(id, document.path, document.policy, "region", versions, (), tuple(pairs))

    # --- the digest

    def digest(self) -> bytes:
        """Hash of all replicated content: equal on two clones exactly when their documents are equal.

        Only documents that changed since the last call are read again. Level 0 has no part in it.
        """
        known = self.store.meta("digest")
        if known is not None:
            return known
        with self.store.transaction():
            stale = self.store.rows("SELECT n, path, policy FROM documents WHERE digest IS NULL AND private=0")
            self.store.many(
                "UPDATE documents SET digest=? WHERE n=?",
                [(self._digest_or_damage(Document(path, policy, n, None, True)), n) for n, path, policy in stale],
            )
            total = hashlib.sha256()
            for (digest,) in self.store.rows(
                "SELECT digest FROM documents WHERE private=0 AND digest<>x'' ORDER BY digest"
            ):
                total.update(digest)
            self.store.set_meta("digest", total.digest())
        return total.digest()

    def document_digests(self) -> list[tuple[str, str, bytes]]:
        """Path, policy and digest of each live replicated document, by path: to name where two clones differ."""
        self.digest()
        return self.store.rows(
            "SELECT path, policy, digest FROM documents WHERE private=0 AND digest<>x'' ORDER BY path, policy"
        )

    def _digest_or_damage(self, document: Document) -> bytes:
        """A damaged document has the digest of nobody else's, so that it is named and never taken for equal."""
        try:
            return self._document_digest(document)
        except DamagedRecord:
            return hashlib.sha256(b"memory-replica damaged 1\0" + self.store.meta("clone")).digest()

    def _document_digest(self, document: Document) -> bytes:
        """b"" for a document that is deleted: as if it had never been."""
        if not self.store.value("SELECT 1 FROM alive WHERE doc=?", (document.shared,)):
            return b""
        if document.policy == "text":
            content: list = [self.raw_text(document.shared)]
            waiting = self._waiting_pairs(document.shared)
        else:
            live = self.versions(document) if document.policy == "latest" else self.entries(document)
            content = [(e.id, e.role, e.text, e.lead, sorted(e.meta.items())) for e in live]
            waiting = [c.id for c in self.conflicts(document)] if any(e.roots != {e.id} for e in live) else []
        packed = msgpack.packb([document.path, document.policy, content, waiting])
        return hashlib.sha256(b"memory-replica document 1\0" + packed).digest()

    def _waiting_pairs(self, doc: int) -> list:
        rows = self.store.rows("SELECT one, one_seq, other, other_seq FROM overlaps WHERE doc=? AND reviewed=0", (doc,))
        name = self.log.author_n
        return sorted([name(a).id, a_seq, name(b).id, b_seq] for a, a_seq, b, b_seq in rows)


# What reading a row raises that holds something else than was written. A change was good when it came.
_UNREADABLE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, msgpack.UnpackException, PeerError,
)  # fmt: skip


def _newest(entry: Entry) -> tuple:
    return entry.key


def _check_name(id: bytes, role: str, text: str, occurrence: int) -> None:
    """A block is named by its content: other content is damage, which must not reach a file."""
    if block_id(role, text, occurrence) != id:
        raise ValueError("an entry does not hold what its name says")


def _meta(packed: bytes | None) -> dict[str, Any]:
    meta = msgpack.unpackb(packed) if packed else {}
    if type(meta) is not dict:
        raise ValueError("no fields of an entry")
    return meta


def _short(document: Document, *parts: bytes) -> str:
    """A conflict's id: 10 hex digits, the same on every clone."""
    digest = hashlib.sha256(msgpack.packb([document.path, document.policy, *parts]))
    return digest.hexdigest()[:10]


def connected(pairs: list[tuple[int, int, int, int]]) -> list[list[tuple[int, int, int, int]]]:
    """Pairs of changes that share a change belong to one conflict."""
    groups: list[tuple[set, list]] = []
    for pair in sorted(pairs):
        ends = {pair[:2], pair[2:]}
        joined = [group for group in groups if group[0] & ends]
        groups = [group for group in groups if not group[0] & ends]
        groups.append((set().union(ends, *(g[0] for g in joined)), [p for g in joined for p in g[1]] + [pair]))
    return [members for _, members in groups]
