"""What was said in the agents' sessions, as far as this clone knows: `.replica/sessions.db`.

It is filled from the logs (replica/sessions/scan.py) and outlives them: what an agent has deleted is still here. An
event is in it once, by its key, however many logs tell of it. Everything in it has been through
replica/sessions/secrets.py; it is on this clone only, and no part of what replicates.

SQLite in WAL mode: several processes may read and write; what a transaction has stored is whole, whenever one of them
is killed.
"""

import json
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, NamedTuple

from replica.errors import UnknownSchema
from replica.places import FOLDER
from replica.sessions.base import Aside, Event, Kind, LogFile
from replica.store import BUSY_TIMEOUT, translated

if TYPE_CHECKING:
    from replica.sessions.scan import Scanned

FILE = "sessions.db"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x5250_4C53  # "RPLS"
MINUTE, DAY = 60_000, 86_400_000  # milliseconds

SCHEMA = """
-- How far each log was read. `size`, `modified`: of the file when all of it was read; -1 while that is not so.
-- `folders`: where the log says that its sessions worked, until the first event says which session that is.
CREATE TABLE logs(
    n INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, agent TEXT NOT NULL, format TEXT NOT NULL,
    size INTEGER NOT NULL, modified INTEGER NOT NULL, offset INTEGER NOT NULL, line INTEGER NOT NULL,
    head BLOB NOT NULL, state BLOB NOT NULL, folders TEXT NOT NULL);
CREATE TABLE damages(log INTEGER, line INTEGER, reason TEXT, PRIMARY KEY(log, line, reason)) WITHOUT ROWID;

-- `files`: a list in JSON. `aside`: as Aside has it. `redacted`: what was taken out, kinds and how many, in JSON.
CREATE TABLE events(
    n INTEGER PRIMARY KEY, agent TEXT NOT NULL, key TEXT NOT NULL, session TEXT NOT NULL, at INTEGER NOT NULL,
    ord INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, name TEXT NOT NULL, model TEXT NOT NULL,
    command TEXT NOT NULL, files TEXT NOT NULL, failed INTEGER NOT NULL, aside INTEGER NOT NULL,
    redacted TEXT NOT NULL, UNIQUE(agent, key));
CREATE INDEX events_by_time ON events(at);
CREATE INDEX events_of_session ON events(session);

-- Where a session worked, and which logs tell of it.
CREATE TABLE folders(agent TEXT, session TEXT, folder TEXT, PRIMARY KEY(agent, session, folder)) WITHOUT ROWID;
CREATE TABLE told(agent TEXT, session TEXT, log INTEGER, PRIMARY KEY(agent, session, log)) WITHOUT ROWID;
"""

_EVENT = "kind, agent, session, key, at, ord, text, name, model, command, files, failed, aside"
_MESSAGE = f"kind IN ('{Kind.PROMPT}', '{Kind.REPLY}') AND aside<>{Aside.SUBAGENT:d}"  # as Event.is_message


@dataclass(frozen=True, slots=True)
class Select:
    """Which sessions are meant. `agents`: of these. `root`: whose folder is it or below. `under`: that logs below it
    tell of. None: all."""

    agents: frozenset[str] | None = None
    root: Path | None = None
    under: Path | None = None


EVERYTHING = Select()


class DayCount(NamedTuple):
    """A day of the zone: its messages (prompts and replies, but subagents'), and in how many sessions they are."""

    date: date
    messages: int
    sessions: int


def file_of(root: Path) -> Path:
    """Where the clone at `root` keeps its index."""
    return root / FOLDER / FILE


def project_of(root: Path) -> Path:
    """The folder whose sessions belong to the clone at `root`: the git work tree that it lies in, or itself.

    A work tree that is a whole home folder says nothing about what belongs together.
    """
    home = Path.home()
    for folder in (root, *root.parents):
        if folder in (home, Path(folder.anchor)):
            break
        if (folder / ".git").exists():
            return folder
    return root


class Index:
    """The index of one clone. Not shared between threads. Raises StoreError, DiskFull where SQLite fails."""

    def __init__(self, path: Path, db: sqlite3.Connection):
        self.path = path
        self.db = db

    @classmethod
    def open(cls, path: Path) -> "Index":
        """The index at `path`, made if it is not there. Raises UnknownSchema: a newer program has written it."""
        with translated(path):
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as error:
                raise sqlite3.OperationalError(f"unable to open database file: {error.strerror}") from error
            db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
            try:
                _prepare(db, path)
            except BaseException:
                db.close()
                raise
        return cls(path, db)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scan(self, logs: Iterable[LogFile], tell: Callable[[int, int], None] | None = None) -> "Scanned":
        """Read what the logs hold that is not known yet. `tell(done, of)`: bytes, now and then."""
        from replica.sessions.scan import scan

        return scan(self, list(logs), tell)

    # --- days

    def days(self, zone: tzinfo, select: Select = EVERYTHING) -> list[DayCount]:
        """The days that have messages, oldest first."""
        messages: Counter[date] = Counter()
        sessions: dict[date, set[tuple[str, str]]] = defaultdict(set)
        with self._chosen(select) as join:
            rows = self.rows(
                f"SELECT e.at/{MINUTE}, agent, session, count(*) FROM events e {join} WHERE {_MESSAGE} GROUP BY 1, 2, 3"
            )
            for minute, agent, session, count in rows:
                day = day_of(minute * MINUTE, zone)
                messages[day] += count
                sessions[day].add((agent, session))
        return [DayCount(day, messages[day], len(sessions[day])) for day in sorted(messages)]

    def events(self, day: date, zone: tzinfo, select: Select = EVERYTHING) -> list[Event]:
        """All of one day, by time."""
        with self._chosen(select) as join:
            rows = self.rows(f"SELECT {_EVENT} FROM events e {join} WHERE e.at >= ? AND e.at < ?", _around(day))
            return sorted((_event(row) for row in rows if day_of(row[4], zone) == day), key=by_time)

    def session(self, id: str) -> list[Event]:
        """All of one session, by time; empty: there is none of this id."""
        rows = self.rows(f"SELECT {_EVENT} FROM events WHERE session=?", (id,))
        return sorted(map(_event, rows), key=by_time)

    def redacted(self, day: date, zone: tzinfo, select: Select = EVERYTHING) -> Counter:
        """How many secrets of which kind were taken out of what is kept of the day."""
        counts: Counter = Counter()
        with self._chosen(select) as join:
            rows = self.rows(
                f"SELECT e.at, redacted FROM events e {join} WHERE e.at >= ? AND e.at < ? AND redacted<>''",
                _around(day),
            )
            for at, found in rows:
                if day_of(at, zone) == day:
                    counts.update(json.loads(found))
        return counts

    def folders(self) -> dict[str, tuple[str, ...]]:
        """Where each session worked, as its logs say it."""
        found: dict[str, list[str]] = defaultdict(list)
        for session, folder in self.rows("SELECT session, folder FROM folders ORDER BY 1, 2"):
            found[session].append(folder)
        return {session: tuple(folders) for session, folders in found.items()}

    def left_out(self, select: Select) -> int:
        """How many sessions that have messages are not taken because they worked in other folders than `root`."""
        with self._chosen(Select(select.agents, None, select.under)) as join:
            rows = self.rows(f"SELECT DISTINCT agent, session FROM events e {join} WHERE {_MESSAGE}")
            return len(set(rows) - set(self._sessions(select))) if select.root else 0

    # --- which sessions

    @contextmanager
    def _chosen(self, select: Select) -> Iterator[str]:
        """What joins the sessions meant to `events e`."""
        if select == EVERYTHING:
            yield ""
            return
        with translated(self.path):
            self.db.execute("CREATE TEMP TABLE IF NOT EXISTS chosen(a TEXT, s TEXT, PRIMARY KEY(a, s)) WITHOUT ROWID")
            self.db.execute("DELETE FROM chosen")
            self.db.executemany("INSERT OR IGNORE INTO chosen VALUES(?,?)", self._sessions(select))
        yield "JOIN chosen ON a=agent AND s=session"

    def _sessions(self, select: Select) -> list[tuple[str, str]]:
        """(agent, id) of the sessions meant."""
        known = {(row[0], row[1]) for row in self.rows("SELECT DISTINCT agent, session FROM told")}
        if select.agents is not None:
            known = {one for one in known if one[0] in select.agents}
        if select.root is not None:
            inside = _inside(select.root)
            rows = self.rows("SELECT agent, session, folder FROM folders")
            known &= {(agent, session) for agent, session, folder in rows if inside(folder)}
        if select.under is not None:
            inside = _inside(select.under)
            logs = {n for n, path in self.rows("SELECT n, path FROM logs") if inside(path)}
            rows = self.rows("SELECT agent, session, log FROM told")
            known &= {(agent, session) for agent, session, log in rows if log in logs}
        return sorted(known)

    def rows(self, sql: str, values: tuple = ()) -> list[tuple]:
        with translated(self.path):
            return self.db.execute(sql, values).fetchall()


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    for tries_left in range(100, -1, -1):  # SQLite does not wait here as it does elsewhere
        try:
            db.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if not tries_left:
                raise
            sleep(0.05)
    db.execute("PRAGMA synchronous=NORMAL")  # what a power cut takes of the last transactions is read again
    db.execute("PRAGMA cache_size=-16000")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was quicker
            for statement in SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    elif version != SCHEMA_VERSION:
        raise UnknownSchema(f"the index {path} has schema {version}, this program knows {SCHEMA_VERSION}")


def by_time(event: Event) -> tuple:
    return event.at, event.session, event.order, event.key


def _event(row: tuple) -> Event:
    kind, agent, session, key, at, order, text, name, model, command, files, failed, aside = row
    return Event(
        Kind(kind), agent, session, key, at, order, text, name, model, command,
        tuple(json.loads(files)) if files else (), bool(failed), Aside(aside),
    )  # fmt: skip


def day_of(at: int, zone: tzinfo) -> date:
    """The day of a moment (milliseconds since 1970) in a zone."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(zone).date()
    except OverflowError:  # year 1 or 9999, near the end of what there is
        return date.min if at < 0 else date.max


def _around(day: date) -> tuple[int, int]:
    """Moments between which the whole day lies in every zone."""
    middle = datetime.combine(day, time(12), UTC)
    start = round((middle - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
    return start - 2 * DAY, start + 2 * DAY


def _inside(folder: Path) -> Callable[[str], bool]:
    """Whether a path is `folder` or below it, under any of the names that it has."""
    roots = {os.path.normcase(os.path.abspath(folder)), os.path.normcase(os.path.realpath(folder))}
    beginnings = tuple(os.path.join(root, "") for root in roots)

    def inside(path: str) -> bool:
        given = os.path.normcase(os.path.normpath(path)) if path else ""
        return given in roots or given.startswith(beginnings)

    return inside
