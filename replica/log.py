"""The log: every author's chain of changes, stored in causal order, and what it takes to add to it.

A change is stored only if its author is a member, its signature and its chain are right, and everything in
its `deps` is held. So the store is causally complete at every moment, and what a peer lacks is
a scan in row order minus the peer's version vector.

What a change *means* is not known here: `apply` (replica/materialise.py) is called for each one,
inside the same transaction.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgpack

from replica import changes, clock
from replica.changes import Change, Kind, Signed
from replica.errors import (
    DamagedRecord,
    FoldedTooSoon,
    Fork,
    InvalidChange,
    MissingDependency,
    PeerError,
    StoreError,
)
from replica.keys import Identity, clone_id, verify
from replica.store import Store

Vector = dict[bytes, int]  # author id -> how many of that author's changes are held

# A batch on the wire and in a transaction: enough to make one flush cheap, little enough to stay responsive.
BATCH_CHANGES = 500
BATCH_BYTES = 256 * 1024


class Author:
    """One chain: its key, its last number and hash. `n` is its row in this store, never on the wire.

    `floor`: up to which number its changes are folded into baselines (replica/compact.py).
    """

    __slots__ = ("floor", "head", "id", "key", "n", "name", "private", "removed", "seq")

    def __init__(
        self, n: int, id: bytes, key: bytes, name: str, private: bool, seq: int, head: bytes, removed: bool, floor: int
    ):
        self.n, self.id, self.key, self.name = n, id, key, name
        self.private, self.seq, self.head, self.removed, self.floor = private, seq, head, removed, floor


class Stored(NamedTuple):
    """A change with its place in this store."""

    n: int
    author: Author
    change: Change


class Log:
    """All chains of one clone's store.

    `now_ms` gives the wall clock in milliseconds; `apply(stored)` is called for every change that
    is stored, in its transaction.
    """

    def __init__(
        self,
        store: Store,
        workspace: bytes,
        apply: Callable[[Stored], None],
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ):
        self.store, self.workspace, self.now_ms = store, workspace, now_ms
        self._apply = apply
        self._authors: dict[bytes, Author] = {}
        self._by_n: dict[int, Author] = {}
        self._seen_version: int | None = None
        self._weighed: Vector | None = None
        self._saw_floor: set[int] = set()  # rows of authors who have seen all that is folded here

    # --- authors

    def refresh(self) -> None:
        """Read the authors anew if another process has committed since."""
        version = self.store.version()
        if version != self._seen_version:
            self.reload()
            self._seen_version = version

    def reload(self) -> None:
        rows = self.store.rows(
            "SELECT n, id, key, name, private, seq, head, removed_by IS NOT NULL, floor FROM authors"
        )
        self._authors = {row[1]: Author(*row[:4], bool(row[4]), *row[5:7], bool(row[7]), row[8]) for row in rows}
        self._by_n = {author.n: author for author in self._authors.values()}
        self._weighed = None
        self._saw_floor.clear()

    def author(self, id: bytes) -> Author | None:
        return self._authors.get(id)

    def author_n(self, n: int) -> Author:
        return self._by_n[n]

    def authors(self) -> list[Author]:
        return list(self._authors.values())

    def add_author(
        self, id: bytes, key: bytes, cert: bytes, name: str, *, private: bool = False, **more: Any
    ) -> Author:
        """Let someone write. `more`: `admitted_by`, `admitted_at`."""
        self.store.execute(
            "INSERT INTO authors(id, key, cert, name, private, head, admitted_by, admitted_at) VALUES(?,?,?,?,?,?,?,?)",
            (id, key, cert, changes.clean_name(name), private, self.workspace,
             more.get("admitted_by"), more.get("admitted_at")),
        )  # fmt: skip
        self.reload()
        return self._authors[id]

    def hash_at(self, id: bytes, seq: int) -> bytes | None:
        """The hash of an author's change, or None where it is not held, or folded away."""
        author = self._authors.get(id)
        if author is None or not 0 < seq <= author.seq:
            return None
        if seq == author.seq:
            return author.head
        found = self.store.value("SELECT hash FROM changes WHERE author=? AND seq=?", (author.n, seq))
        if found is None and seq == author.floor:
            found = self.store.value("SELECT floor_head FROM authors WHERE n=?", (author.n,))
        return found

    def has_ended(self, id: bytes) -> bool:
        """Whether a member has gone on as somebody new since its chain had split, and said so."""
        return bool(self.store.value("SELECT 1 FROM authors WHERE id=? AND successor IS NOT NULL", (id,)))

    def line(self, id: bytes) -> list[bytes]:
        """A member, and whom it was before it came back as that. Not whom it was copied from: that one goes on."""
        return [one for (one,) in self.store.rows(
            "WITH RECURSIVE line(id) AS (VALUES(?)"
            " UNION SELECT old FROM successions JOIN line ON new=line.id WHERE why<>'copy') SELECT id FROM line", (id,),
        )]  # fmt: skip

    def may_return(self, id: bytes) -> bool:
        """Whether a member has ended for nothing but its silence or a split of its chain: it may come back as new."""
        author = self._authors.get(id)
        return author is not None and author.removed and not self._removals(id)

    def _removals(self, id: bytes) -> list[tuple[int, int]]:
        """The changes (author's row, number) that removed a member, or one that it has become by coming back."""
        return self.store.rows(
            "WITH RECURSIVE line(id) AS (VALUES(?)"
            " UNION SELECT new FROM successions JOIN line ON old=line.id WHERE why<>'copy')"
            " SELECT author, seq FROM removals JOIN line ON member=line.id WHERE away=0", (id,),
        )  # fmt: skip

    # --- versions

    def vector(self) -> Vector:
        """What this store holds of each author, the private chain left out."""
        return {a.id: a.seq for a in self._authors.values() if a.seq and not a.private}

    def past(self, author: int, seq: int, other: int) -> int:
        """How many changes of `other` (an author's row) the change (author, seq) had seen."""
        if author == other:
            return seq - 1
        return (
            self.store.value("SELECT max(dep_seq) FROM deps WHERE author=? AND dep=? AND seq<=?", (author, other, seq))
            or 0
        )

    def floor(self) -> Vector:
        """Up to which change of each author this store has folded its log: a peer below it needs the baselines."""
        return {a.id: a.floor for a in self._authors.values() if a.floor and not a.private}

    def set_weighed(self, vector: Vector) -> None:
        """Of what the giver of our baselines held then, it has folded nothing but what goes with the rest."""
        self.store.set_meta("weighed", msgpack.packb(vector))
        self._weighed = None

    def floors(self) -> dict[int, int]:
        """The same by the authors' rows, of all chains, as it is stored now."""
        return dict(self.store.rows("SELECT n, floor FROM authors"))

    def last_row(self) -> int:
        """The number of the row that was stored last; it only grows, whatever is folded."""
        return self.store.value(
            "SELECT max(ifnull((SELECT max(n) FROM changes), 0),"
            " ifnull((SELECT value FROM meta WHERE key='last_row'), 0))"
        )

    # --- writing

    def append(self, identity: Identity, kind: Kind, document: tuple[str, str] | None, payload: Any) -> Stored:
        """Sign and store a change of our own. Inside a transaction only."""
        assert self.store.in_transaction, "append needs the write lock"
        author = self._authors.get(identity.id)
        if author is None:
            raise StoreError(
                "this clone has not received its workspace yet, so it cannot write to it",
                hint="let it meet a member first: `replica sync`",
            )
        floor = max(self.store.meta("time", 0), 0)
        moment = clock.tick(floor, self.now_ms())
        change = changes.encode(
            author.id, author.seq + 1, author.head, moment, self._news_for(author), kind, document, payload
        )
        stored = self._store(author, change, identity.sign(change.hash))
        # Our own time never steps back, not even behind a clock that was set back by days (see clock.observe).
        self.store.set_meta("time", moment)
        return stored

    def _news_for(self, author: Author) -> list[tuple[bytes, int]]:
        """What is held of other authors and was not yet in the author's earlier deps."""
        told = dict(self.store.rows("SELECT dep, max(dep_seq) FROM deps WHERE author=? GROUP BY dep", (author.n,)))
        return [
            (other.id, other.seq)
            for other in self._authors.values()
            # A shared change never names the private chain, not even its length.
            if other is not author and not other.private and other.seq > told.get(other.n, 0)
        ]

    def ingest(self, batch: Iterable[Signed]) -> tuple[list[Stored], Vector]:
        """Store what is new of a batch in causal order: all of it, or nothing.

        The signature of an author's highest change in the batch covers his earlier ones through the hash
        chain, so only that one is needed and checked. What is held already is passed over.
        Returns what was stored, and how far the batch reaches for each of its authors.

        Raises:
            InvalidChange: signature, chain, size or content is not right (Fork: a second change of one number).
            MissingDependency: something it builds on is not held.
        """
        self.refresh()
        read = [(changes.decode(signed.body), signed.signature) for signed in batch]
        last: dict[bytes, int] = {}  # of each author, where the highest number stands: not what merely comes last
        for at, (change, _) in enumerate(read):
            if change.author not in last or change.seq > read[last[change.author]][0].seq:
                last[change.author] = at
        stored = []
        with self.store.transaction():
            self.refresh()
            try:
                for at, (change, signature) in enumerate(read):
                    is_last = last[change.author] == at
                    taken = self._take(change, signature, is_last)
                    if taken:
                        stored.append(taken)
            except BaseException as error:
                self._seen_version = None  # the rollback takes back what the cached authors have moved on by
                if isinstance(error, PeerError):
                    error.change = change  # whose fault it is: see replica/sieve.py
                raise
        return stored, {author: read[at][0].seq for author, at in last.items()}

    def _take(self, change: Change, signature: bytes | None, is_last: bool) -> Stored | None:
        author = self._authors.get(change.author)
        if author is not None and change.seq <= author.seq:
            self._known(author, change)
            return None
        if author is None or change.kind in (Kind.GENESIS, Kind.SUCCEED):
            author = self._newcomer(change)
        name = f"{author.name} {change.seq}"
        if author.private:
            raise InvalidChange(f"change {name} pretends to be of this clone's private chain")
        if change.seq != author.seq + 1:
            raise MissingDependency(f"change {name} came before {author.seq + 1}")
        if change.prev != author.head:
            if author.seq:  # it continues another one than ours: of that number there are two
                raise two_of(author.name, author.seq)
            raise InvalidChange(f"change {name} does not begin its author's chain")
        if author.removed and self._knew_of_removal(author, change):
            raise InvalidChange(f"change {name} was written after its author's removal was known there")
        for dep, seq in change.deps:
            held = self._authors.get(dep)
            if held is None or held.private or held.seq < seq:
                raise MissingDependency(f"change {name} builds on changes that are not held")
        if is_last and not (signature and verify(author.key, signature, change.hash)):
            raise InvalidChange(f"change {name} is not signed by its author")
        if not self._goes_with_floor(author, change):
            raise FoldedTooSoon(f"change {name} was written by somebody who had not seen what is folded here")
        return self._store(author, change, signature if is_last else None)

    def _goes_with_floor(self, author: Author, change: Change) -> bool:
        """Whether the author had seen all that is folded here, or whoever folded it held this change then.

        Everybody had acknowledged what is folded. But who puts back a backup forgets that, and what it writes then is
        concurrent with changes whose traces may be gone: dead entries, regions, what entries went back to.
        """
        if author.n in self._saw_floor:
            return True
        news = dict(change.deps)
        if all(
            news.get(id, 0) >= seq or self.past(author.n, change.seq, self._authors[id].n) >= seq
            for id, seq in self.floor().items()
            if id != author.id
        ):
            self._saw_floor.add(author.n)
            return True
        if self._weighed is None:
            packed = self.store.meta("weighed")
            self._weighed = msgpack.unpackb(packed, strict_map_key=False) if packed else {}
        return change.seq <= self._weighed.get(author.id, 0)

    def _newcomer(self, change: Change) -> Author:
        """The author of a first change that introduces itself: a workspace's founder, or a successor."""
        started = any(a.seq and not a.private for a in self._authors.values())
        if change.seq == 1 and change.kind is Kind.GENESIS and not started:
            if changes.change_hash(change.body)[:16] != self.workspace:
                raise InvalidChange("the first change is not that of this workspace")
            return self._introduce(change)
        if change.seq == 1 and change.kind is Kind.SUCCEED:
            old = self._authors.get(change.payload["old"])
            if old is None or old.private:
                raise MissingDependency("a clone's successor came before the clone itself")
            if old.id == change.author:
                raise InvalidChange(f"{old.name} names itself as its successor")
            if self._saw_removal(change, old.id):
                raise InvalidChange(f"{old.name} was removed; it cannot name a successor")
            if not verify(old.key, change.payload["proof"], succession(self.workspace, change.payload["key"])):
                raise InvalidChange(f"a successor of {old.name} is not vouched for by it")
            return self._introduce(change)
        if change.author in self._authors:
            raise InvalidChange(f"a {change.kind.name.lower()} by somebody who is a member already")
        raise MissingDependency("the author of a change is not a member")

    def _saw_removal(self, first: Change, member: bytes) -> bool:
        """Whether the author of this first change knew that `member` was removed. By causality, so all judge alike."""
        seen = dict(first.deps)
        return any(seen.get(self._by_n[author].id, 0) >= seq for author, seq in self._removals(member))

    def _knew_of_removal(self, author: Author, change: Change) -> bool:
        """Whether a member wrote this after it had heard of its own removal. By causality, so all judge alike."""
        news = dict(change.deps)
        removals = self.store.rows("SELECT author, seq FROM removals WHERE member=? AND away=0", (author.id,))
        return any(
            max(news.get(self._by_n[by].id, 0), self.past(author.n, change.seq, by)) >= seq for by, seq in removals
        )

    def _introduce(self, change: Change) -> Author:
        if clone_id(change.payload["key"]) != change.author:
            raise InvalidChange("a change introduces another key than its author's")
        if (known := self._authors.get(change.author)) is not None:  # admitted meanwhile, by somebody else
            return known
        author = self.add_author(
            change.author,
            change.payload["key"],
            change.payload["cert"],
            change.payload["name"],
            admitted_at=change.time,
            admitted_by=change.payload.get("old", change.author),
        )
        if change.kind is Kind.GENESIS:
            author.head = changes_start()
        return author

    def _known(self, author: Author, change: Change) -> None:
        held = self.store.value("SELECT hash FROM changes WHERE author=? AND seq=?", (author.n, change.seq))
        if held is not None and held != change.hash:
            raise two_of(author.name, change.seq)

    def _store(self, author: Author, change: Change, signature: bytes | None) -> Stored:
        doc = None
        if change.document is not None:
            doc = self.document(change.document, private=author.private)
        row = self.last_row() + 1
        self.store.execute(
            "INSERT INTO changes(n, author, seq, hash, time, kind, doc, body, signature) VALUES(?,?,?,?,?,?,?,?,?)",
            (row, author.n, change.seq, change.hash, change.time, int(change.kind), doc, change.body, signature),
        )
        if change.deps:
            self.store.many(
                "INSERT INTO deps VALUES(?,?,?,?)",
                [(author.n, self._authors[dep].n, change.seq, seq) for dep, seq in change.deps],
            )
        author.seq, author.head = change.seq, change.hash
        self.store.execute("UPDATE authors SET seq=?, head=? WHERE n=?", (change.seq, change.hash, author.n))
        floor = self.store.meta("time", 0)
        self.store.set_meta("time", clock.observe(floor, change.time, self.now_ms()))
        stored = Stored(row, author, change)
        self._apply(stored)
        return stored

    def document(self, document: tuple[str, str], *, private: bool) -> int:
        """The row of a document, made if it is new."""
        key = (*document, int(private))
        n = self.store.value("SELECT n FROM documents WHERE path=? AND policy=? AND private=?", key)
        if n is not None:
            return n
        return self.store.execute("INSERT INTO documents(path, policy, private) VALUES(?,?,?)", key).lastrowid

    # --- reading

    def first_missing(self, vector: Vector) -> int | None:
        """The first row that a peer with `vector` lacks, or None. Costs a look-up per author, not per change."""
        firsts = [
            self.store.value("SELECT n FROM changes WHERE author=? AND seq=?", (a.n, vector.get(a.id, 0) + 1))
            for a in self._authors.values()
            if not a.private and a.seq > vector.get(a.id, 0)
        ]
        return min((n for n in firsts if n is not None), default=None)

    def batch(self, vector: Vector, after: int) -> tuple[list[Signed], int, Vector]:
        """The next changes behind row `after` that a holder of `vector` lacks, in causal order.

        Returns the batch, the row it reaches to, and the peer's vector once it holds the batch. The batch
        ends where the last change of each author in it carries a signature, so that it can be
        checked; a change of level 0 is in no batch.
        """
        vector = dict(vector)
        found: list[tuple[Author, int, bytes, bytes | None]] = []
        size, reached = 0, after
        unsigned: set[int] = set()  # authors whose last change so far has no signature
        closed = (0, after)  # how much of `found` may be sent as it stands, and the row behind it
        cursor = self.store.execute(
            "SELECT n, author, seq, body, signature FROM changes WHERE n>? ORDER BY n", (after,)
        )
        for n, author_n, seq, body, signature in cursor:
            author = self._by_n[author_n]
            reached = n
            if not author.private and seq > vector.get(author.id, 0):
                found.append((author, seq, body, signature))
                size += len(body)
                (unsigned.discard if signature else unsigned.add)(author_n)
            if not unsigned:
                closed = (len(found), reached)
            if closed[0] and (size >= BATCH_BYTES or len(found) >= BATCH_CHANGES):
                break
        cursor.close()
        found = found[: closed[0]]
        for author, seq, _, _ in found:
            vector[author.id] = seq
        ends = {author.n: at for at, (author, *_) in enumerate(found)}
        batch = [Signed(body, sig if ends[a.n] == at else None) for at, (a, _, body, sig) in enumerate(found)]
        return batch, closed[1], vector

    def changes_of(self, doc: int, after: int = 0, before: int = 2**62) -> Iterable[Stored]:
        """The changes of one document between the rows `after` and `before`, in causal order."""
        for n, author, digest, body in self.store.rows(
            "SELECT n, author, hash, body FROM changes WHERE doc=? AND n>? AND n<? ORDER BY n", (doc, after, before)
        ):
            try:
                change = changes.decode(body)
            except (InvalidChange, TypeError):
                change = None
            if change is None or change.hash != digest or author not in self._by_n:
                path = self.store.value("SELECT path FROM documents WHERE n=?", (doc,))
                raise DamagedRecord(f"{path}: change {n} in the store is damaged, so this document waits")
            yield Stored(n, self._by_n[author], change)


def two_of(author: str, seq: int) -> Fork:
    """What is wrong with a change under whose number another one is held, or that continues such a one."""
    return Fork(
        f"{author} wrote two different changes number {seq}",
        hint="its store was restored from a copy, or runs twice: it comes back by itself when the two meet",
    )


def succession(workspace: bytes, new_key: bytes) -> bytes:
    """What an old identity signs to vouch for the key that goes on in its place."""
    return b"memory-replica successor 1\0" + workspace + new_key


def changes_start() -> bytes:
    """The previous hash of a workspace's very first change: there is no workspace id to name yet."""
    return bytes(16)


def covers(one: Vector, other: Vector) -> bool:
    """Whether a holder of `one` lacks nothing of `other`."""
    return all(one.get(author, 0) >= seq for author, seq in other.items())


def lacking(holder: Vector, other: Vector) -> int:
    """How many of `other`'s changes a holder of `holder` lacks."""
    return sum(max(0, seq - holder.get(author, 0)) for author, seq in other.items())
