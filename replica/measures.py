"""How well a clone keeps up with the others: a small record of its own meetings, and the measures that a team watches.

The record is `.replica/stats.db`: which meetings came in step, when each of this clone's own changes was acknowledged
by whom, and which conflicts came up. It serves `replica stats` and nothing else, so it is bounded, is not flushed to
the disk, and begins anew where it is missing or damaged. What it does not know is None, and never 0.
"""

import contextlib
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

from replica import clock
from replica.clone import Clone
from replica.documents import connected
from replica.errors import DamagedRecord, ReplicaError
from replica.places import FOLDER

FILE = "stats.db"
SCHEMA_VERSION = 1
BUSY = 0.2  # seconds: what cannot be written soon waits for the next time
DAY = 86_400_000  # milliseconds
WINDOW = 30 * DAY  # how far back the measures look
SHOWN_DAYS = 14  # of changes per clone and day
SAMPLES = 64  # of the changes that one message acknowledges, at most about so many are recorded
MOST_MEETINGS, MOST_ARRIVALS, MOST_CONFLICTS = 5_000, 20_000, 5_000  # rows that are kept
MOST_WAITING = 10_000  # in memory, should the file not be writable

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- Conversations with a peer: begun `at`, in step (`ok`) or ended without that after `ms`.
CREATE TABLE meetings(n INTEGER PRIMARY KEY, at INTEGER, peer BLOB, ok INTEGER, ms INTEGER);
-- Our own change `seq`, `made` then, was known to be held by `peer` after `ms`.
CREATE TABLE arrivals(
    author BLOB, peer BLOB, seq INTEGER, made INTEGER, ms INTEGER, PRIMARY KEY(author, peer, seq)) WITHOUT ROWID;
-- Each conflict once. `at`: when it was first seen; 0: it was open before this record began.
CREATE TABLE conflicts(id TEXT PRIMARY KEY, at INTEGER) WITHOUT ROWID;
"""


class Reached(NamedTuple):
    """`peer` was seen `at` (milliseconds since 1970) to hold `author`'s changes behind `before` up to `held`."""

    author: bytes
    peer: bytes
    before: int
    held: int
    at: int


class Record:
    """What a running node notes. Noting is an append to a list; `flush`, now and then, does the rest."""

    def __init__(self, root: Path):
        self._path = root / FOLDER / FILE
        self._meetings: list[tuple] = []
        self._reached: list[Reached] = []
        self._look = False  # changes have come that may have brought conflicts

    def met(self, peer: bytes, at: int, ms: int, *, ok: bool) -> None:
        if len(self._meetings) < MOST_WAITING:
            self._meetings.append((at, peer, ok, ms))

    def reached(self, author: bytes, peer: bytes, before: int, held: int, at: int) -> None:
        if len(self._reached) < MOST_WAITING:
            self._reached.append(Reached(author, peer, before, held, at))

    def took(self) -> None:
        """Changes of others have come."""
        self._look = True

    def begin(self, clone: Clone) -> None:
        """Make sure that there is a record, before anything is met."""
        self._write(clone, lambda db: None)

    def flush(self, clone: Clone) -> None:
        """Write what was noted. A record that cannot be written is no trouble: it is tried again, then forgotten."""
        if not (self._meetings or self._reached or self._look):
            return
        meetings, reached, look = self._meetings, self._reached, self._look

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT INTO meetings(at, peer, ok, ms) VALUES(?,?,?,?)", meetings)
            db.executemany("INSERT OR IGNORE INTO arrivals VALUES(?,?,?,?,?)", arrivals(clone, reached))
            if look:
                now = clone.log.now_ms()
                db.executemany("INSERT OR IGNORE INTO conflicts VALUES(?,?)", [(id, now) for id in open_ids(clone)])
            _prune(db)

        if self._write(clone, write):
            self._meetings, self._reached, self._look = [], [], False

    def _write(self, clone: Clone, work) -> bool:
        for _ in range(2):
            try:
                with contextlib.closing(_open(self._path, clone)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    work(db)
                    db.execute("COMMIT")
                return True
            except sqlite3.OperationalError:
                return False  # busy, full, or read-only
            except sqlite3.DatabaseError:
                with contextlib.suppress(OSError):
                    self._path.unlink()  # damaged: the next try begins anew
            except (ReplicaError, OSError):
                return False
        return False


def _open(path: Path, clone: Clone) -> sqlite3.Connection:
    """The record, made if it is not there. Raises sqlite3.DatabaseError: it is damaged, or of another version."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=OFF")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError("of another version")
        if version == 0:
            _make(db, clone)
    except BaseException:
        db.close()
        raise
    return db


def _make(db: sqlite3.Connection, clone: Clone) -> None:
    db.execute("BEGIN IMMEDIATE")
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was quicker
        for statement in SCHEMA.split(";\n"):
            db.execute(statement)
        # Who has met nobody yet has had no conflicts either: all that there is counts.
        met = clone.store.value("SELECT 1 FROM peers WHERE seen IS NOT NULL")
        db.execute("INSERT INTO meta VALUES('since', ?)", (clone.log.now_ms(),))
        db.execute("INSERT INTO meta VALUES('changes', ?)", (count_changes(clone) if met else 0,))
        if met:
            db.executemany("INSERT INTO conflicts VALUES(?,0)", [(id,) for id in open_ids(clone)])
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.execute("COMMIT")


def _prune(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM meetings WHERE n<=(SELECT max(n) FROM meetings)-?", (MOST_MEETINGS,))
    for table, by, most in (("arrivals", "made", MOST_ARRIVALS), ("conflicts", "at", MOST_CONFLICTS)):
        if db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > most:
            oldest = db.execute(f"SELECT {by} FROM {table} ORDER BY {by} DESC LIMIT 1 OFFSET ?", (most * 3 // 4,))
            db.execute(f"DELETE FROM {table} WHERE {by}<=?", oldest.fetchone())


def count_changes(clone: Clone) -> int:
    """All changes of the workspace that this clone holds, folded ones too."""
    return sum(clone.vector().values())


def arrivals(clone: Clone, reached: Iterable[Reached]) -> Iterator[tuple[bytes, bytes, int, int, int]]:
    """Rows of the record. Of many changes at once a few: every 2nd, 4th, 8th …, the same ones for every peer.

    What was written before a peer was let in is no measure of how quickly it gets things.
    """
    if clock.to_ms(clone.store.meta("time", 0)) > clone.log.now_ms():
        return  # somebody's clock is ahead and has drawn ours along: when our changes were made is not known
    for one in reached:
        step, count = 1, one.held - one.before
        while count > step * SAMPLES:
            step *= 2
        rows = clone.store.rows(
            "SELECT seq, time FROM changes WHERE author=(SELECT n FROM authors WHERE id=?) AND seq>? AND seq<=?"
            " AND seq%?=0 AND doc IS NOT NULL AND time>ifnull((SELECT admitted_at FROM authors WHERE id=?), 0)",
            (one.author, one.before, one.held, step, one.peer),
        )
        for seq, made in rows:
            ms = one.at - clock.to_ms(made)
            if ms >= 0:
                yield one.author, one.peer, seq, clock.to_ms(made), ms


def open_ids(clone: Clone) -> Iterator[str]:
    """A name for each open conflict, without replaying the texts as `all_conflicts` does. With a new version it is
    another one."""
    documents = clone.documents
    for doc, pairs in _overlaps(clone).items():
        for group in connected(pairs):
            yield f"{doc}:" + ",".join(f"{a}.{b}-{c}.{d}" for a, b, c, d in group)
    for path, policy in documents.disputed():
        if policy != "text":
            with contextlib.suppress(DamagedRecord):
                yield from (conflict.id for conflict in documents.conflicts(documents.find(path, policy)))


def _overlaps(clone: Clone) -> dict[int, list[tuple[int, int, int, int]]]:
    found = defaultdict(list)
    rows = "SELECT doc, one, one_seq, other, other_seq FROM overlaps WHERE reviewed=0"
    for doc, *pair in clone.store.rows(rows):
        found[doc].append(tuple(pair))
    return found


# --- the measures


class Kept(NamedTuple):
    """What the record holds of the window; times in milliseconds."""

    since: int
    changes: int  # that were there when it began
    meetings: list[tuple[int, bytes, int, int]]
    arrivals: list[tuple[bytes, bytes, int, int, int]]
    conflicts: int  # that have come up since


def read(root: Path, now: int) -> Kept | None:
    """The record, or None where there is none that can be read."""
    path = root / FOLDER / FILE
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            meta = dict(db.execute("SELECT key, value FROM meta WHERE typeof(value)='integer'"))
            return Kept(
                meta["since"], meta["changes"],
                db.execute(
                    "SELECT at, peer, ok, ms FROM meetings WHERE at>?"
                    " AND typeof(at)||typeof(ok)||typeof(ms)='integerintegerinteger'", (now - WINDOW,),
                ).fetchall(),
                db.execute(
                    "SELECT author, peer, seq, made, ms FROM arrivals WHERE made>?"
                    " AND typeof(seq)||typeof(made)||typeof(ms)='integerintegerinteger'", (now - WINDOW,),
                ).fetchall(),
                db.execute("SELECT count(*) FROM conflicts WHERE at>0").fetchone()[0],
            )  # fmt: skip
    except (sqlite3.Error, OSError, KeyError):
        return None


def stats(clone: Clone, zone: tzinfo | None = None) -> dict[str, Any]:
    """What `replica stats --json` prints. Durations in seconds, moments in milliseconds since 1970.

    `zone`: in which days begin, by default this machine's.
    """
    now = clone.log.now_ms()
    kept = read(clone.root, now)
    active = {member["id"] for member in clone.members() if member["removed_by"] is None}
    rows = [row for row in kept.arrivals if row[1] in active] if kept else []
    meetings = [row for row in kept.meetings if row[1] in active] if kept else []
    to_one = [ms for *_, ms in rows]
    to_all = list(_to_all(clone, rows))
    changes = count_changes(clone)
    observed = changes - kept.changes if kept else 0
    return {
        "since": kept.since if kept else None,
        "sync_success": round(sum(ok for _, _, ok, _ in meetings) / len(meetings), 4) if meetings else None,
        "meetings": len(meetings),
        "conflicts_per_1000": round(1000 * kept.conflicts / observed, 2) if kept and observed > 0 else None,
        "conflicts": kept.conflicts if kept else None,
        "time_to_sync_p50": seconds(to_one, 50), "time_to_sync_p95": seconds(to_one, 95),
        "time_to_sync_samples": len(to_one),
        "time_to_all_p50": seconds(to_all, 50), "time_to_all_p95": seconds(to_all, 95),
        "time_to_all_samples": len(to_all),
        "times": spread(to_one),
        "changes": changes,
        **per_day(clone, now, zone),
        "buffers": list(buffers(clone, now)),
    }  # fmt: skip


def seconds(ms: list[int], percent: int) -> float | None:
    """The nearest-rank percentile, in seconds; None of nothing."""
    if not ms:
        return None
    return sorted(ms)[max(0, -(-len(ms) * percent // 100) - 1)] / 1000


BOUNDS = (0.1, 0.3, 1, 3, 10, 60, 600, 3600, 86_400)  # seconds: the classes of `spread`


def spread(ms: list[int]) -> list[dict[str, Any]]:
    """How many took how long: classes up to (and with) so many seconds; the last, None, is what took longer."""
    counts = Counter(next((bound for bound in BOUNDS if one <= bound * 1000), None) for one in ms)
    return [{"up_to": bound, "count": counts[bound]} for bound in (*BOUNDS, None)] if ms else []


def _to_all(clone: Clone, rows: list[tuple]) -> Iterator[int]:
    """Of each recorded change that every member holds which belonged when it was made: how long that took."""
    others = [m for m in clone.members() if m["removed_by"] is None and m["id"] != clone.identity.id]
    by_change: dict[tuple, dict[bytes, int]] = defaultdict(dict)
    for author, peer, seq, made, ms in rows:
        by_change[author, seq, made][peer] = ms
    for (_, _, made), times in by_change.items():
        due = {m["id"] for m in others if clock.to_ms(m["admitted_at"] or 0) < made}
        if due and due <= times.keys():
            yield max(times[id] for id in due)


def per_day(clone: Clone, now: int, zone: tzinfo | None = None) -> dict[str, Any]:
    """`days`, oldest first, and of each clone its changes on them; None where changes of that day may be folded."""
    today = datetime.fromtimestamp(now / 1000, zone).date()
    days = [(today - timedelta(days=back)).isoformat() for back in range(SHOWN_DAYS - 1, -1, -1)]
    rows = clone.store.rows(
        "SELECT a.id, time FROM changes c JOIN authors a ON a.n=c.author WHERE private=0 AND time>?",
        (clock.from_ms(max(0, now - (SHOWN_DAYS + 1) * DAY)),),
    )
    count = Counter((id, _day(clock.to_ms(moment), zone)) for id, moment in rows)
    vector, result = clone.vector(), []
    for member in clone.members():
        known_from = _known_from(clone, member["id"], zone)
        counts = [count[member["id"], day] if day >= known_from else None for day in days]
        active = member["removed_by"] is None
        if active or any(counts):
            result.append({
                "name": member["name"], "id": member["id"].hex(), "changes": vector.get(member["id"], 0),
                "per_day": counts,
            })  # fmt: skip
    return {"days": days, "clones": result}


def _day(ms: int, zone: tzinfo | None) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, zone).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a clock set to a year that no calendar has
        return ""


def _known_from(clone: Clone, id: bytes, zone: tzinfo | None) -> str:
    """Sorts before the days of which all changes of an author are there one by one. What is folded is older."""
    n, floor = clone.store.row("SELECT n, floor FROM authors WHERE id=?", (id,))
    if not floor:
        return ""
    first = clone.store.value("SELECT min(time) FROM changes WHERE author=?", (n,))
    folded = clone.store.value("SELECT max(time) FROM baselines")
    ends = [time for time in (first, folded) if time is not None]
    return _day(clock.to_ms(min(ends)), zone) + "~" if ends else ""  # behind that day: of it, part may be folded


def buffers(clone: Clone, now: int) -> Iterator[dict[str, Any]]:
    """The documents that are to be harvested: how many entries wait there, and since when the oldest does."""
    for document in clone.documents.all():
        rule = clone.rule(document.path)
        if rule is None or rule.harvest is None or document.policy == "text":
            continue
        try:
            times = [entry.time for entry in clone.documents.entries(document) if entry.role == "entry"]
        except DamagedRecord:
            continue  # listed among the files that are passed over
        oldest = clock.to_ms(min(times)) if times else None
        yield {
            "document": document.path, "entries": len(times), "oldest": oldest,
            "age": None if oldest is None else max(0, now - oldest) // 1000,
        }  # fmt: skip
