"""Coming back into a workspace that has gone on without this clone, or with another copy of it.

A clone whose store was rolled back (a restored backup, a disk image) may have written a second change under a number
that others know another one by; a clone that was away for very long may lack what others have folded away. Neither can
go on from what it holds. Nor can one that has folded what a restored clone had forgotten and then wrote beside
(FoldedTooSoon). It keeps its store aside, takes what a peer holds, takes in again what of its own still fits
on that, and writes the rest of its own once more, as edits, under a new identity that the old one vouches for. Where
it had only folded too soon and nothing is left to write, it remains who it is.

    begin    one transaction: the store is set aside, emptied of what is shared, and begun from the peer's bundle
    …        the peer's log comes by the session, as for a newcomer; files rest meanwhile
    finish   one transaction: the new identity, and the edits

A crash in between leaves a clone that goes on with it at the next session. What is of level 0 stays as it is.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgpack

from replica import bundle as bundles
from replica import changes, copies, faults
from replica.changes import Add, Dot, Kind, Remove, Signed
from replica.errors import CorruptUpdate, InvalidChange, MissingDependency, NotFound, PairingError, TooLarge
from replica.keys import Identity
from replica.log import Log, Stored, Vector, covers
from replica.materialise import Materialiser, apply_text
from replica.places import FOLDER
from replica.store import PLACE, Store

if TYPE_CHECKING:
    from replica.bundle import Bundle
    from replica.clone import Certify, Clone

TEXT_KINDS = (Kind.TEXT, Kind.IMPORT, Kind.DELETE)
PATIENCE = 60_000  # milliseconds that who has begun it is waited for, where another member is in step
ASIDE = "before"  # the folder of stores that were set aside, in `.replica`


class Rejoining(NamedTuple):
    """`why`: "restored", "fork", "away" or "folded"; `aside`: the old store; `target`: what must be held to finish.

    `since`: when it was begun last, milliseconds since 1970.
    """

    why: str
    aside: str
    target: Vector
    since: int = 0


def under_way(store: Store) -> Rejoining | None:
    packed = store.meta("rejoin")
    return Rejoining(*msgpack.unpackb(packed, strict_map_key=False)) if packed else None


def ready(clone: "Clone") -> bool:
    """Whether everything has come that `finish` needs."""
    state = under_way(clone.store)
    return state is not None and covers(clone.log.vector(), state.target)


def begun(store: Store) -> int:
    """How often this store was emptied and begun again: what was known of its log before then does not hold now."""
    return store.meta("begun", 0)


def acquaintances(store: Store) -> dict[bytes, bytes]:
    """Whom a clone that is being brought back knew as members before: their certificates, by id.

    Until the members have come again, these may bring it back, and are sent nothing. With only the peer that has begun
    it the clone would be stranded when that one is gone: a founder's first change names nobody else.
    """
    packed = store.meta("acquaintances")
    return dict(msgpack.unpackb(packed, strict_map_key=False)) if packed else {}


def _remember_members(clone: "Clone") -> None:
    """Those known from before this was begun, too: it may be begun twice, before any member has come again."""
    known = acquaintances(clone.store)
    for member in clone.members():
        if member["removed_by"] is None or clone.log.may_return(member["id"]):
            known[member["id"]] = member["cert"]
        else:
            known.pop(member["id"], None)
    clone.store.set_meta("acquaintances", msgpack.packb(known))


def met(clone: "Clone") -> None:
    """A member holds what this clone holds now, and no more: whoever began this need not be waited for.

    It may be gone for good, or have said that it holds what nobody has. While it may still be at it, it is.
    """
    with clone.transaction():
        state = under_way(clone.store)
        if state is not None and abs(clone.log.now_ms() - state.since) > PATIENCE:
            clone.store.set_meta("rejoin", msgpack.packb(state._replace(target=clone.log.vector())))


# --- begin


def begin(clone: "Clone", bundle: "Bundle", why: str, target: Vector) -> None:
    """Set the store aside and start again from a peer's bundle; `target`: what that peer holds.

    Raises InvalidChange: the bundle cannot be used, and nothing has changed.
    """
    store = clone.store
    with clone.transaction():
        known = under_way(store)  # begun before, and now with another peer: what was set aside then is what counts
        aside = known.aside if known else _set_aside(clone, why)
        try:
            _remember_members(clone)
            _empty(clone)
            faults.judge_anew(clone)
            if bundle.floor:
                bundles.load(store, clone.log, clone.materialiser, bundle)
                clone.follow_config()
            clone.log.set_weighed(target)
        except BaseException:
            if not known:  # a peer whose bundles are refused must not fill the disk with copies
                (clone.root / FOLDER / ASIDE / aside).unlink()
            raise
        store.set_meta("rejoin", msgpack.packb([known.why if known else why, aside, target, clone.log.now_ms()]))
        store.set_meta("begun", begun(store) + 1)
        store.set_meta("begun_row", clone.log.last_row())
    clone.forget_config()


def _set_aside(clone: "Clone", why: str) -> str:
    """A copy of the store as it is; nobody else can write meanwhile, since we hold the write lock."""
    folder = clone.root / FOLDER / ASIDE
    folder.mkdir(exist_ok=True, mode=0o700)
    name = f"{clone.log.now_ms()}-{why}.db"
    (folder / name).unlink(missing_ok=True)
    copy = sqlite3.connect(clone.store.path)
    try:
        copy.execute("VACUUM INTO ?", (str(folder / name),))
    finally:
        copy.close()
    for path in (folder / name, folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return name


def _empty(clone: "Clone") -> None:
    """Take out everything that is shared. Rows of documents stay: files and the private twins name them."""
    store = clone.store
    store.set_meta("last_row", clone.log.last_row())
    private = "(SELECT n FROM authors WHERE private=1)"
    for table in ("changes", "deps"):
        store.execute(f"DELETE FROM {table} WHERE author NOT IN {private}")
    store.execute(f"DELETE FROM deps WHERE dep NOT IN {private}")  # put back by `finish`
    for table in ("adds", "alive", "texts", "overlaps", "baselines"):
        store.execute(f"DELETE FROM {table} WHERE doc IN (SELECT n FROM documents WHERE private=0)")
    for table in ("admissions", "removals", "successions"):
        store.execute(f"DELETE FROM {table}")
    store.execute("DELETE FROM authors WHERE private=0")
    store.execute("UPDATE documents SET digest=NULL, changed_by=NULL WHERE private=0")
    store.set_meta("digest", None)
    clone.materialiser.forget()
    clone.log.reload()


# --- finish


def finish(clone: "Clone", certify: "Certify") -> int:
    """Write again what is only ours, under a new identity; returns how many of our changes that was."""
    state = under_way(clone.store)
    assert state is not None and ready(clone)
    was = clone.identity
    old = _Old(clone.root / FOLDER / ASIDE / state.aside, clone.workspace)
    try:
        with clone.transaction():
            clone.store.set_meta("rejoin", None)
            clone.store.set_meta("acquaintances", None)
            held = clone.log.vector()
            left = _carry(clone, old)
            if any(seq > held.get(author, 0) for author, seq in clone.log.vector().items() if author != was.id):
                # A peer may hold another side of that chain: conversations begin anew, and compare their heads.
                clone.store.set_meta("begun", begun(clone.store) + 1)
            # By whom the old store was written: meanwhile this clone may have parted from a copy of itself. What it
            # wrote before it came back an earlier time is as much its own, where that does not fit now.
            me = old.store.meta("clone")
            mine = {me, *old.log.line(me), *(identity.id for identity in copies.identities(clone))}
            ours = mine | _split(clone, old, left)
            own = [
                stored for stored in old.changes()
                if stored.author.id in ours and _is_void(stored, left)
                and (stored.author.id in mine or stored.change.kind in (Kind.ENTRIES, *TEXT_KINDS))
            ]  # fmt: skip
            if own or not _is_whole(clone, old, state.why):
                clone.identity = _succeed(clone, state.why, certify)
            _put_back_deps(clone, old)
            again = _Again(clone, old, left, ours)
            again.write(own)
            again.remember_rows()
        copies.finish(clone.root / FOLDER, clone.store)
    except BaseException:
        clone.identity = was if clone.store.meta("clone") == was.id else clone.identity
        raise
    finally:
        old.close()
    return len(own)


class _Old:
    """The store that was set aside. Read only."""

    def __init__(self, path: Path, workspace: bytes):
        self.store = Store.open(path)
        self.materialiser = Materialiser(self.store)
        self.log = Log(self.store, workspace, self.materialiser.apply)
        self.materialiser.log = self.log
        self.log.refresh()

    def close(self) -> None:
        self.store.close()

    def documents_row(self, path: str, policy: str) -> int | None:
        return self.store.value("SELECT n FROM documents WHERE path=? AND policy=? AND private=0", (path, policy))

    def changes(self) -> Iterable[Stored]:
        for n, author, body in self.store.rows("SELECT n, author, body FROM changes ORDER BY n"):
            yield Stored(n, self.log.author_n(author), changes.decode(body))


Limits = dict[bytes, int]  # of each author, the last change of the old store that the new one holds too


def _split(clone: "Clone", old: "_Old", limits: Limits) -> set[bytes]:
    """Members of whom the others keep another history than this clone had.

    What only this one had of theirs their author may have lost by a restore: it is written again like our own.
    """
    return {
        author.id for author in old.log.authors()
        if not author.private and author.seq > limits.get(author.id, 0)
        and (new := clone.log.author(author.id)) is not None and new.seq > limits.get(author.id, 0)
    }  # fmt: skip


def _is_void(stored: Stored, limits: Limits) -> bool:
    return not stored.author.private and stored.change.seq > limits.get(stored.author.id, 0)


def _is_whole(clone: "Clone", old: "_Old", why: str) -> bool:
    """Whether our own chain is what it was: who has only taken back what it had folded remains who it is."""
    was, now = old.log.author(clone.identity.id), clone.log.author(clone.identity.id)
    return (
        why == "folded" and was is not None and now is not None and not now.removed
        and (was.seq, was.head) == (now.seq, now.head)
    )  # fmt: skip


def _carry(clone: "Clone", old: _Old) -> Limits:
    """Take in again what still continues a chain and had seen what is folded; return how far both stores agree."""
    limits = {author.id: _agree(clone.log, old.log, author.id) for author in old.log.authors() if not author.private}
    mine = clone.identity.id
    if mine in limits:
        limits[mine] = min(limits[mine], _spread(clone.log, old, mine))
    while True:
        batch, reached = _fitting(clone, old, limits)
        # Inside a run only the last change is signed: what is cut off behind that cannot be shown to anyone.
        trimmed = {
            author: seq for author, seq in reached.items()
            if not old.store.value(
                "SELECT signature FROM changes c JOIN authors a ON a.n=author WHERE a.id=? AND c.seq=?", (author, seq)
            )
        }  # fmt: skip
        if not trimmed:
            break
        for author in trimmed:
            old.log.author(author).seq -= 1  # of this object alone: its chain ends a change earlier
    if not batch:
        return limits
    clone.store.execute("SAVEPOINT carry")
    try:
        clone.log.ingest(batch)
        clone.materialiser.flush()
    except (InvalidChange, MissingDependency, CorruptUpdate, TooLarge):
        # Others have it, or it stays in the store that was set aside.
        clone.store.execute("ROLLBACK TO carry")
        clone.materialiser.forget()
        clone.log.reload()
        return limits
    finally:
        clone.store.execute("RELEASE carry")
    return {**limits, **reached}


def _agree(new: Log, old: Log, id: bytes) -> int:
    """The last number up to which both stores hold the same chain of an author."""
    if new.author(id) is None:
        return 0
    low, high = 0, min(new.author(id).seq, old.author(id).seq)
    if high == 0 or new.hash_at(id, high) == old.hash_at(id, high):
        return high
    while low < high:
        middle = (low + high + 1) // 2
        one, other = new.hash_at(id, middle), old.hash_at(id, middle)
        # What is folded on one side was acknowledged by all: it is not where they part.
        low, high = (middle, high) if one is None or other is None or one == other else (low, middle - 1)
    return low


def _spread(new: Log, old: "_Old", id: bytes) -> int:
    """Up to which number our own changes can be those that are folded there.

    What is folded was acknowledged by all, but in our name by a twin, where the folder was copied: then it need not be
    ours. Where the chains differ at its end, only what a peer has had of us is the same for sure.
    """
    there, here = new.author(id), old.log.author(id)
    ends = (there and new.hash_at(id, there.floor), here and there and old.log.hash_at(id, there.floor))
    vectors = [msgpack.unpackb(packed, strict_map_key=False) for (packed,) in old.store.rows(
        "SELECT vector FROM peers WHERE vector IS NOT NULL"
    )]  # fmt: skip
    if None in ends or ends[0] == ends[1] or not vectors:
        return here.seq if here else 0
    return max(here.floor, *(vector.get(id, 0) for vector in vectors))


def _fitting(clone: "Clone", old: _Old, limits: Limits) -> tuple[list[Signed], Limits]:
    """The old changes that the new log can take, in causal order, and how far they reach."""
    held = {author.id: author.seq for author in clone.log.authors() if not author.private}
    floor = clone.log.floor()
    good = dict(limits)
    batch, reached = [], {}
    for stored in old.changes():
        author, change = stored.author, stored.change
        if author.private or change.seq <= held.get(author.id, 0) or change.seq > author.seq:
            continue
        continues = author.id in held and change.seq == good[author.id] + 1 and good[author.id] >= held[author.id]
        if not continues or any(seq > good.get(dep, 0) for dep, seq in change.deps):
            continue
        if not all(_seen(old.log, author, change.seq, other) >= seq for other, seq in floor.items()):
            continue
        signature = old.store.value("SELECT signature FROM changes WHERE n=?", (stored.n,))
        batch.append(Signed(change.body, signature))
        good[author.id] = reached[author.id] = change.seq
    return batch, reached


def _seen(log: Log, author, seq: int, other: bytes) -> int:
    if other == author.id:
        return seq
    known = log.author(other)
    return log.past(author.n, seq, known.n) if known else 0


def _succeed(clone: "Clone", why: str, certify: "Certify") -> Identity:
    """A new identity, vouched for by one that the others know, which ends. All keys are kept (copies.identities)."""
    new = Identity.new()
    new.save(clone.root / FOLDER / copies.NEXT)
    voucher = copies.voucher(clone)
    copies.introduce(clone, voucher, new, clone.store.meta("name"), "away" if why == "away" else "fork", certify)
    return new


def _put_back_deps(clone: "Clone", old: _Old) -> None:
    """What this clone's private changes had seen of the others."""
    rows = old.store.rows(
        "SELECT author, dep, deps.seq, dep_seq FROM deps JOIN authors a ON a.n=author WHERE private=1"
    )
    for author, dep, seq, dep_seq in rows:
        mine, other = clone.log.author(old.log.author_n(author).id), clone.log.author(old.log.author_n(dep).id)
        if mine and other:
            clone.store.execute("INSERT OR IGNORE INTO deps VALUES(?,?,?,?)", (mine.n, other.n, seq, dep_seq))


# --- our own edits, once more


class _Again:
    """Writes what our changes did as new changes, on top of what others have done since."""

    def __init__(self, clone: "Clone", old: _Old, limits: Limits, ours: set[bytes]):
        self.clone, self.old, self.limits, self.ours = clone, old, limits, ours
        self.texts: set[str] = set()
        self.now: dict[Dot, tuple[Dot, ...]] = {}  # an add of ours that is void, and the one that stands for it

    def write(self, own: list[Stored]) -> None:
        # Of a text, only what became of it is written: whether it was deleted in the end.
        last = {stored.change.document: stored.change.kind for stored in own if stored.change.kind in TEXT_KINDS}
        for stored in own:
            kind = stored.change.kind
            if kind is Kind.ENTRIES:
                self._entries(stored)
            elif kind in TEXT_KINDS and stored.change.document[1] == "text":
                path = stored.change.document[0]
                if path not in self.texts:
                    self.texts.add(path)
                    self._text(path, deleted=last[stored.change.document] is Kind.DELETE)
            elif kind is Kind.DELETE:
                self._delete(stored)
            elif kind is Kind.ADMIT:
                payload = stored.change.payload
                with suppress(PairingError):  # others have removed this key since: that outranks
                    self.clone.admit(payload["key"], payload["cert"], payload["name"])
            elif kind is Kind.REMOVE and not stored.change.payload.get("away"):
                self._remove_member(stored.change.payload["member"])

    def _entries(self, stored: Stored) -> None:
        path, policy = stored.change.document
        ops, made = [], []
        for index, op in enumerate(stored.change.payload):
            kills = tuple(dot for killed in op.kills for dot in self._live(path, policy, killed))
            if isinstance(op, Add):
                ops.append(op._replace(kills=kills, after=self._anchor(path, policy, op.after)))
                made.append(Dot(stored.change.author, stored.change.seq, index))
            elif kills:
                ops.append(Remove(kills))
        if not ops:
            return
        written = self.clone.edit_entries(path, policy, [(1, op) for op in ops])
        dots = [
            Dot(one.change.author, one.change.seq, index)
            for one in written for index, op in enumerate(one.change.payload) if isinstance(op, Add)
        ]  # fmt: skip
        self.now.update({was: (dot,) for was, dot in zip(made, dots, strict=True)})

    def _live(self, path: str, policy: str, killed: Dot) -> tuple[Dot, ...]:
        """What of the add `killed` is live now. What others added since in the same words was not seen, and stays."""
        if killed in self.now:
            return self.now[killed]
        if killed.seq <= self.limits.get(killed.author, 0):
            there = self.clone.store.value(
                "SELECT 1 FROM adds WHERE author=? AND seq=? AND idx=? AND dead=0",
                (self.clone.log.author(killed.author).n, killed.seq, killed.index),
            )
            return (killed,) if there else ()
        # An add of somebody else that is void as well: whoever added that block anew stands for it.
        author = self.old.log.author(killed.author)
        id = author and self.old.store.value(
            "SELECT id FROM adds WHERE author=? AND seq=? AND idx=?", (author.n, killed.seq, killed.index)
        )
        document = self.clone.documents.find(path, policy)
        rows = self.clone.store.rows(
            "SELECT a.id, adds.seq, idx FROM adds JOIN authors a ON a.n=author WHERE doc=? AND adds.id=? AND dead=0",
            (document.shared, id),
        )
        return tuple(Dot(*row) for row in rows)

    def _anchor(self, path: str, policy: str, place: bytes | None) -> bytes | None:
        """The nearest anchor before `place` that there is."""
        here = self.clone.documents.find(path, policy).shared
        there = self.old.documents_row(path, policy)
        seen = set()
        while place is not None and place not in seen:
            seen.add(place)
            if self.clone.store.value(f"SELECT 1 FROM adds WHERE doc=? AND {PLACE}=?", (here, place)):
                return place
            place = self.old.store.value(f"SELECT after FROM adds WHERE doc=? AND {PLACE}=?", (there, place))
        return None

    def _text(self, path: str, deleted: bool) -> None:
        """The difference that we made. A text that we deleted goes, unless others went on with it."""
        from replica import textdiff

        base, mine = self._versions(path)
        document = self.clone.documents.find(path, "text")._replace(private=None)
        there = self.clone.store.value("SELECT 1 FROM alive WHERE doc=?", (document.shared,))
        now = self.clone.documents.raw_text(document.shared) if there else ""
        if deleted and not there:
            return
        if deleted and now == base and not self._went_on(path):
            self.clone.delete(document)
            return
        ops = textdiff.diff(base, mine)
        if not there:  # also where nothing differs: we had brought it back as it was
            self.clone.edit_text(path, new=mine)
        elif ops:
            self.clone.edit_text(path, textdiff.rebase(ops, base, now))

    def _went_on(self, path: str) -> bool:
        """Whether a text was alive again in the old store: somebody had written to it who did not know that it went."""
        doc = self.old.documents_row(path, "text")
        return bool(self.old.store.value("SELECT 1 FROM alive WHERE doc=?", (doc,)))

    def _versions(self, path: str) -> tuple[str, str]:
        """A text of the old store without our void changes, and with them."""
        doc = self.old.documents_row(path, "text")
        base, mine = (self.old.materialiser.folded_text(doc) for _ in range(2))
        try:
            for stored in self.old.log.changes_of(doc):
                void = _is_void(stored, self.limits)
                if not void:
                    apply_text(base, stored)
                if not void or stored.author.id in self.ours:
                    apply_text(mine, stored)
        except CorruptUpdate:  # ours build on others' that are void as well: with those, then
            mine = self.old.materialiser.folded_text(doc)
            for stored in self.old.log.changes_of(doc):
                apply_text(mine, stored)
        return base.text, mine.text

    def _delete(self, stored: Stored) -> None:
        """Take away what we had seen; a document that others went on with stays."""
        path, policy = stored.change.document
        document = self.clone.documents.find(path, policy)
        if not document.alive:
            return
        document = document._replace(private=None)
        kills = tuple(dot for killed in stored.change.payload for dot in self._live(path, policy, killed))
        if {dot for entry in self.clone.documents.versions(document) for dot in entry.dots} <= set(kills):
            self.clone.delete(document)
        elif kills:
            self.clone.edit_entries(path, policy, [(1, Remove(kills))])

    def _remove_member(self, id: bytes) -> None:
        try:
            self.clone.remove(id.hex())
        except NotFound:
            pass  # somebody we had admitted ourselves, and nobody else knows

    def remember_rows(self) -> None:
        """What came into the old store at some row came in then: a file that showed it may still take it away."""
        moved = []
        for author, seq, index, row in self.old.store.rows(
            "SELECT a.id, adds.seq, idx, change FROM adds JOIN authors a ON a.n=author WHERE a.private=0"
        ):
            dot = Dot(author, seq, index)
            now = (dot,) if seq <= self.limits.get(author, 0) else self.now.get(dot, ())
            moved += [(row, self.clone.log.author(one.author).n, one.seq, one.index) for one in now]
        self.clone.store.many("UPDATE adds SET change=? WHERE author=? AND seq=? AND idx=?", moved)
