"""Compaction: old changes that every member has are folded into baselines, so that a store does not grow for ever.

What may be folded is a *cut*: of each author the changes up to a number, closed under what they had seen. A change
is in it when it is older than the history window and every member that is not long away is known to hold it, by its
own word (the vectors peers acknowledge) or by what its changes had seen. Whatever comes later from such a member was
written by somebody who had seen the cut. So no later change is concurrent with a folded one, and each clone may fold
by itself, when it likes, without asking: the documents, their order and their digests stay what they are.

A clone that was away for longer, and one that joins, is handed the baselines (replica/bundle.py).

What stays as it is: changes about members; documents with a region that waits for a person's look, whose versions are
replayed from the log; texts that went private here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgpack

from replica import baselines, changes
from replica.baselines import Baseline, Late, Scratch
from replica.changes import Add, Dot, Kind
from replica.clock import MAX_LEAD, from_ms, to_ms
from replica.clone import Clone
from replica.log import Log, Stored, Vector
from replica.rejoin import begun, under_way
from replica.store import PLACE, Store

DAY = 86_400_000  # milliseconds
AT_ONCE = 200  # documents that are prepared in one scratch store
REPLAYED = 32  # changes of a text behind its baseline that are applied again rather than its state kept twice
WORTH_IT = 1_000  # changes to fold before a node does so by itself
FREE_SHARE = 0.25  # of the file's pages: with more than this empty, the file is written anew

Cut = dict[int, int]  # author's row -> the last number that is folded


class Waiting(NamedTuple):
    """A member that holds a cut back: it is not known to have these changes."""

    name: str
    lacks: int  # changes that are old enough


class Plan(NamedTuple):
    cut: Cut
    changes: int  # that would be folded now
    waiting: tuple[Waiting, ...]


class Result(NamedTuple):
    folded: int  # changes
    documents: int
    before: int  # bytes of the store
    after: int
    waiting: tuple[Waiting, ...]
    retired: tuple[str, ...]  # members that are not waited for any longer


def plan(clone: Clone, now_ms: int | None = None) -> Plan:
    """What could be folded now, and who holds back more."""
    log, store = clone.log, clone.store
    log.refresh()
    wanted = _old_enough(log, log.now_ms() if now_ms is None else now_ms, clone.config.history.days)
    held, waiting = _held_by_all(clone, wanted)
    cut = _closed(store, {n: min(seq, held[n]) for n, seq in wanted.items()})
    cut = {n: max(seq, log.author_n(n).floor) for n, seq in cut.items()}
    count = sum(
        store.value(f"SELECT count(*) FROM changes WHERE author=? AND seq<=? AND {_foldable(store)}", (n, seq))
        for n, seq in cut.items()
    )
    return Plan(cut, count, tuple(waiting))


def compact(clone: Clone, now_ms: int | None = None) -> Result:
    """Fold what can be folded. A crash at any point leaves the store as it was before, or as it is after."""
    store = clone.store
    before = size(store)
    if under_way(store):  # what it holds is not whole yet
        return Result(0, 0, before, before, (), ())
    retired = retire(clone)
    found = plan(clone, now_ms)
    documents = 0
    if found.changes:
        state = begun(store), clone.log.floors()
        prepared = list(_prepared(clone, found.cut))
        with clone.transaction():
            # Else another process has folded meanwhile, or the store was begun again from another member's.
            if (begun(store), clone.log.floors()) == state:
                documents = _fold(clone, found.cut, prepared)
        _shrink(store)
    return Result(found.changes if documents else 0, documents, before, size(store), found.waiting, tuple(retired))


# --- what may be folded


def _old_enough(log: Log, now: int, days: int) -> Cut:
    """Of each author the changes before the history window. A time that lies ahead says nothing, and keeps nothing."""
    since, ahead = from_ms(max(0, now - days * DAY)), from_ms(now + MAX_LEAD)
    wanted = {}
    for author in log.authors():
        first_kept = log.store.value(
            "SELECT min(seq) FROM changes WHERE author=? AND seq>? AND time>=? AND time<=?",
            (author.n, author.floor, since, ahead),
        )
        wanted[author.n] = author.seq if first_kept is None else first_kept - 1
    return wanted


def _held_by_all(clone: Clone, wanted: Cut) -> tuple[Cut, list[Waiting]]:
    """How far every member is known to hold each chain, and who holds `wanted` back."""
    log = clone.log
    held = {author.n: author.seq for author in log.authors()}
    waiting = []
    for member in clone.members():
        if member["id"] == clone.identity.id or member["removed_by"] is not None:
            continue
        has = _known_to_hold(clone, member["id"])
        shared = [author for author in log.authors() if not author.private]
        lacks = sum(max(0, wanted[author.n] - max(has.get(author.n, 0), author.floor)) for author in shared)
        if lacks:
            waiting.append(Waiting(member["name"], lacks))
        held.update({author.n: min(held[author.n], has.get(author.n, 0)) for author in shared})
    by_active = dict(held)
    for member in clone.members():
        # Until everybody has heard of a removal, somebody may still take changes of who was removed. And those may
        # have been written without having seen what the others hold.
        if member["removed_by"] is not None and not _removal_is_known(log, member["id"], by_active):
            has = _known_to_hold(clone, member["id"])
            held.update({n: min(held[n], has.get(n, 0)) for n in held if not log.author_n(n).private})
            held[log.author(member["id"]).n] = 0
    return held, waiting


def retire(clone: Clone) -> list[str]:
    """Do not wait any longer for members who have been silent for `[history] away` days; returns their names.

    Told to all as a change. Who was away comes back by itself, as a successor of what it was (replica/rejoin.py).
    "Silent" is measured by what others wrote since, never by our clock alone, which may have jumped.
    """
    away = clone.config.history.away * DAY
    names = []
    with clone.transaction():
        if clone.removed or clone.log.author(clone.identity.id) is None:
            return []
        active = [m for m in clone.members() if m["removed_by"] is None and m["id"] != clone.identity.id]
        heard = {member["id"]: _heard_of(clone, member) for member in active}
        for member in active:
            others = [_wrote(clone, other["id"]) for other in active if other is not member]
            if min(max(others, default=0), clone.log.now_ms()) - heard[member["id"]] > away > 0:
                clone.append(Kind.REMOVE, None, {"member": member["id"], "away": True})
                names.append(member["name"])
    return names


def _heard_of(clone: Clone, member: dict) -> int:
    """When a member was last heard of, here or through others, milliseconds since 1970."""
    seen = clone.store.value("SELECT seen FROM peers WHERE id=?", (member["id"],)) or 0
    return max(seen, _wrote(clone, member["id"]), to_ms(member["admitted_at"] or 0))


def _wrote(clone: Clone, id: bytes) -> int:
    author = clone.log.author(id)
    found = clone.store.value("SELECT max(time) FROM changes WHERE author=?", (author.n,))
    folded = clone.store.value("SELECT max(changed_at) FROM documents WHERE changed_by=?", (author.n,))
    return to_ms(max(found or 0, folded or 0))


def _known_to_hold(clone: Clone, id: bytes) -> Cut:
    """What a member holds for certain: what it had seen when it wrote last, and what it has told us itself.

    Its word counts only while we hold all that it names: what we lack of it may be concurrent with the rest.
    """
    log, store = clone.log, clone.store
    author = log.author(id)
    has = dict(store.rows("SELECT dep, max(dep_seq) FROM deps WHERE author=? GROUP BY dep", (author.n,)))
    has[author.n] = author.seq
    if author.seq == 0:
        has = _at_admission(log, id)
    packed = store.value("SELECT vector FROM peers WHERE id=?", (id,))
    told: Vector = msgpack.unpackb(packed, strict_map_key=False) if packed else {}
    mine = log.vector()
    if all(mine.get(a, 0) >= seq for a, seq in told.items()):
        for a, seq in told.items():
            n = log.author(a).n
            has[n] = max(has.get(n, 0), seq)
    return has


def _at_admission(log: Log, id: bytes) -> Cut:
    """A member that has not written yet will have seen its own admission, and what that had seen, when it does."""
    for author, seq, body in log.store.rows("SELECT author, seq, body FROM changes WHERE kind=?", (Kind.ADMIT,)):
        from replica.keys import clone_id

        if clone_id(changes.decode(body).payload["key"]) == id:
            past = {other.n: log.past(author, seq, other.n) for other in log.authors() if not other.private}
            return {**past, author: seq}
    return {}


def _removal_is_known(log: Log, id: bytes, held: Cut) -> bool:
    rows = log.store.rows("SELECT author, seq FROM removals WHERE member=?", (id,))
    # One that was ended by its successor has no removal: the successor's first change says it.
    rows = rows or [
        (log.author(new).n, 1) for (new,) in log.store.rows("SELECT new FROM successions WHERE old=?", (id,))
    ]
    return any(held.get(author, 0) >= seq for author, seq in rows)


def _closed(store: Store, cut: Cut) -> Cut:
    """The largest part of `cut` that holds everything its changes had seen."""
    cut = dict(cut)
    waiting = set(cut)
    while waiting:
        other = waiting.pop()
        for author, first in store.rows(
            "SELECT author, min(seq) FROM deps WHERE dep=? AND dep_seq>? GROUP BY author", (other, cut.get(other, 0))
        ):
            if author in cut and cut[author] >= first:
                cut[author] = first - 1
                waiting.add(author)
    return cut


def _foldable(store: Store) -> str:
    """Which rows of `changes` may go, as SQL."""
    kept = _kept_documents(store)
    return "doc IS NOT NULL" + (f" AND doc NOT IN ({','.join(map(str, kept))})" if kept else "")


def _kept_documents(store: Store) -> list[int]:
    """Documents whose changes stay, one by one."""
    return [
        doc for (doc,) in store.rows(
            "SELECT doc FROM overlaps WHERE reviewed=0"
            " UNION SELECT d.n FROM documents d JOIN documents p ON p.path=d.path AND p.policy=d.policy AND p.n<>d.n"
            " WHERE d.policy='text' AND EXISTS(SELECT 1 FROM alive JOIN documents o ON o.n=doc"
            "     WHERE o.path=d.path AND o.policy='text' AND o.private=1)"
        )
    ]  # fmt: skip


# --- folding


class _Folded(NamedTuple):
    doc: int
    time: int
    baseline: Baseline  # without its adds
    kept: list[tuple]  # its adds: 1, or 2 if dead; text, lead, meta; author's row, number, index
    gone: list[tuple[int, int, int]]  # adds that nothing needs: author's row, number, index
    moved: list[tuple]  # adds that stand where a folded one stood: after, rank, author's row, number, index


def _prepared(clone: Clone, cut: Cut) -> Iterator[_Folded]:
    """The new baseline of every document that has changes in the cut. Reads only, and takes no lock."""
    store, foldable = clone.store, _foldable(clone.store)
    docs = {
        doc for n, seq in cut.items()
        for (doc,) in store.rows(f"SELECT DISTINCT doc FROM changes WHERE author=? AND seq<=? AND {foldable}", (n, seq))
    }  # fmt: skip
    ordered = sorted(docs)
    for at in range(0, len(ordered), AT_ONCE):
        scratch = Store.scratch()
        try:
            for doc in ordered[at : at + AT_ONCE]:
                yield _folded(clone, scratch, doc, cut)
        finally:
            scratch.close()


def _folded(clone: Clone, scratch: Store, doc: int, cut: Cut) -> _Folded:
    store, log = clone.store, clone.log
    path, policy, private = store.row("SELECT path, policy, private FROM documents WHERE n=?", (doc,))
    scratch.execute(
        "INSERT INTO documents(n, path, policy, private) VALUES(?,?,?,?)", (doc, path, policy, private)
    )  # fmt: skip
    replay = Scratch(scratch)
    replay.log = log
    replay.begin(doc, baselines.of(store, log, doc))
    time, later = store.value("SELECT time FROM baselines WHERE doc=?", (doc,), 0), []
    for stored in log.changes_of(doc):
        if stored.change.seq <= cut[stored.author.n]:
            replay.apply(stored)
            time = max(time, stored.change.time)
        else:
            later.append(stored)
    engine = replay.engine(doc) if policy == "text" else None
    whole = baselines.read(scratch, log, doc, policy, engine)
    # A private line that comes back is known by the dead one (Bridge): of level 0 nothing is forgotten.
    adds = whole.adds if private else baselines.prune(whole.adds, policy, _late(clone, path, policy, doc, later))
    left = {row.dot: row for row in adds}
    gone = [_key(log, row.dot) for row in whole.adds if row.dot not in left]
    moved = [
        (row.after, row.rank and baselines.pack_rank(log, row.rank), *_key(log, row.dot))
        for was in whole.adds if (row := left.get(was.dot)) and (row.after, row.rank) != (was.after, was.rank)
    ]  # fmt: skip
    kept = [(1 + row.dead, row.text, row.lead, row.meta, *_key(log, row.dot)) for row in adds]
    return _Folded(doc, time, whole._replace(adds=[]), kept, gone, moved)


def _key(log: Log, dot: Dot) -> tuple[int, int, int]:
    return log.author(dot.author).n, dot.seq, dot.index


def _late(clone: Clone, path: str, policy: str, doc: int, later: list[Stored]) -> Late:
    """What the later changes of a document, and its twin's, refer to."""
    places, dots = set(), set()
    for stored in later:
        if stored.change.kind is Kind.ENTRIES:
            for op in stored.change.payload:
                dots.update(op.kills)
                if isinstance(op, Add) and op.after is not None:
                    places.add(op.after)
        elif stored.change.kind is Kind.DELETE:
            dots.update(stored.change.payload)
    if later:
        names = {stored.author.n for stored in later}
        first = {n: min(s.change.seq for s in later if s.author.n == n) for n in names}
        for n, seq in first.items():
            places.update(
                place for (place,) in clone.store.rows(
                    f"SELECT {PLACE} FROM adds WHERE doc=? AND author=? AND seq>=?", (doc, n, seq)
                )
            )  # fmt: skip
    for place, after in clone.store.rows(
        f"SELECT {PLACE}, after FROM adds JOIN documents d ON d.n=doc WHERE path=? AND policy=? AND doc<>?",
        (path, policy, doc),
    ):
        places.update({place, after} - {None})
    return Late(frozenset(places), frozenset(dots))


def _fold(clone: Clone, cut: Cut, prepared: list[_Folded]) -> int:
    """Put the baselines in the place of the changes. Inside a transaction."""
    store, log = clone.store, clone.log
    store.set_meta("last_row", log.last_row())
    store.set_meta("folds", store.meta("folds", 0) + 1)
    for n, seq in cut.items():
        head = store.value("SELECT hash FROM changes WHERE author=? AND seq=?", (n, seq))
        if head is not None:
            store.execute("UPDATE authors SET floor=?, floor_head=? WHERE n=?", (seq, head, n))
    kept, foldable = set(_kept_documents(store)), _foldable(store)  # one more may have come since
    ready = [one for one in prepared if one.doc not in kept]
    for one in ready:
        baselines.keep(store, one.doc, one.time, one.baseline)
        store.many("UPDATE adds SET folded=?, text=?, lead=?, meta=? WHERE author=? AND seq=? AND idx=?", one.kept)
        store.many("DELETE FROM adds WHERE author=? AND seq=? AND idx=?", one.gone)
        store.many("UPDATE adds SET after=?, rank=? WHERE author=? AND seq=? AND idx=?", one.moved)
    for n, seq in cut.items():
        store.execute(f"DELETE FROM changes WHERE author=? AND seq<=? AND {foldable}", (n, seq))
    store.many(
        "UPDATE texts SET state=x'' WHERE doc=? AND (SELECT count(*) FROM changes WHERE changes.doc=texts.doc)<=?",
        [(one.doc, REPLAYED) for one in ready],
    )
    store.execute(
        "DELETE FROM overlaps WHERE reviewed=1 AND one_seq<=(SELECT floor FROM authors WHERE n=one)"
        " AND other_seq<=(SELECT floor FROM authors WHERE n=other)"
    )
    _thin_deps(store)
    log.reload()
    return len(ready)


def _thin_deps(store: Store) -> None:
    """Keep what the folded changes had seen only where it is still asked for.

    That is: for what lives in a conflict, for changes that are kept, and where each chain's log goes on.
    """
    asked: dict[int, set[int]] = {}
    for author, seq in store.rows(
        "SELECT author, seq FROM adds WHERE roots IS NOT NULL AND dead=0"
        " UNION SELECT c.author, c.seq FROM changes c JOIN authors a ON a.n=c.author WHERE c.seq<=a.floor"
        " UNION SELECT n, floor FROM authors WHERE floor>0"
    ):
        asked.setdefault(author, set()).add(seq)
    for author, floor in store.rows("SELECT n, floor FROM authors WHERE floor>0"):
        wanted = sorted(seq for seq in asked.get(author, ()) if seq <= floor)
        gone: list[tuple[int, int, int]] = []
        run: list[tuple[int, int]] = []  # of one dep, ascending
        rows = store.rows("SELECT dep, seq FROM deps WHERE author=? AND seq<=? ORDER BY dep, seq", (author, floor))
        for at, (dep, seq) in enumerate(rows):
            run.append((dep, seq))
            if at + 1 == len(rows) or rows[at + 1][0] != dep:
                gone += _unasked(author, run, wanted)
                run = []
        store.many("DELETE FROM deps WHERE author=? AND dep=? AND seq=?", gone)


def _unasked(author: int, run: list[tuple[int, int]], wanted: list[int]) -> list[tuple[int, int, int]]:
    """Of one author's rows about one other, those that are the last before none of the `wanted` numbers."""
    gone, at = [], 0
    for position, (dep, seq) in enumerate(run):
        following = run[position + 1][1] if position + 1 < len(run) else 2**62
        while at < len(wanted) and wanted[at] < seq:
            at += 1
        if at == len(wanted) or wanted[at] >= following:
            gone.append((author, dep, seq))
    return gone


def size(store: Store) -> int:
    """Bytes of the database file, without what waits to be folded into it."""
    return store.value("PRAGMA page_count") * store.value("PRAGMA page_size")


def _shrink(store: Store) -> None:
    """Give the disk back what is empty, if that is much. Best effort: a full disk or a busy store leave it as it is."""
    from replica.errors import StoreError

    if store.value("PRAGMA freelist_count") < FREE_SHARE * store.value("PRAGMA page_count"):
        return
    try:
        store.execute("VACUUM")
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except StoreError:
        pass
