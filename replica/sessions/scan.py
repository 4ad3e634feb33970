"""Logs into the index: what is new in them, without secrets, bounded, each event once.

Events and how far the log was read are stored in one transaction: whoever is killed goes on there the next time. Many
small logs share a transaction, a large one has many. Two processes that read the same logs store the same.
"""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from replica.sessions.base import Damage, Event, Kind, LogFile, Place, Progress, Reader, without_ours
from replica.sessions.secrets import redact
from replica.store import translated

if TYPE_CHECKING:
    from replica.sessions.index import Index

MOST_TEXT = 20_000  # characters of a prompt, a reply, a summary
MOST_COMMAND = 2_000
MOST_TITLE = 300
MOST_FAILURE, FAILURE_LINES = 1_000, 8
MOST_FILES, MOST_PATH = 50, 500
MOST_NAME = 200
MOST_WORD = 4_000  # characters
LATEST = 253_402_300_800_000  # the year 10,000, which no calendar of Python's has
MOST_DAMAGES = 200  # of one log, the first ones
BATCH, BATCH_TEXT = 4_000, 4_000_000  # events, characters of them: so much waits for one transaction

_LONG = {Kind.PROMPT, Kind.REPLY, Kind.COMPACTION, Kind.LEARNING}
_FAILURES = {Kind.RESULT, Kind.ERROR}


class Scanned(NamedTuple):
    """`read`: bytes; 0: no log has changed. `new`: events. `damaged`: of the given logs, also what was found earlier.
    `redacted`: in the new events."""

    read: int
    new: int
    damaged: list[Damage]
    redacted: Counter


# --- what is kept of an event


def kept(event: Event) -> tuple | None:
    """The row that the index keeps of it; None: nothing. Secrets go before what is too long: no half of one stays."""
    kind, counts = event.kind, Counter()
    if (kind is Kind.RESULT and not event.failed) or not 0 <= event.at < LATEST:
        return None
    text = ""
    if kind in _LONG:
        text = clean(without_ours(event.text), MOST_TEXT, counts)
        if event.text and not text.strip():
            return None  # nothing in it but what we had put there
    elif kind in _FAILURES:
        text = clean(without_ours(event.text), MOST_FAILURE, counts, FAILURE_LINES)
    elif kind is Kind.TITLE:
        text = clean(event.text, MOST_TITLE, counts)
    files = ""
    if event.files:
        paths = clean("\n".join(event.files[:MOST_FILES]), MOST_FILES * MOST_PATH, counts).split("\n")
        files = json.dumps([cut(path, MOST_PATH) for path in paths], ensure_ascii=False)
    return (
        event.agent, storable(event.key), storable(event.session), event.at, event.order, kind.value, text,
        clean(event.name, MOST_NAME, counts), clean(event.model, MOST_NAME, counts),
        clean(event.command, MOST_COMMAND, counts), files, int(event.failed), int(event.aside),
        json.dumps(counts, sort_keys=True) if counts else "",
    )  # fmt: skip


def clean(text: str, most: int, counts: Counter, lines: int = 0) -> str:
    """`text` without secrets, which are counted; at most so long, of so many lines, which is said."""
    if len(text) < 8:
        return storable(text)
    looked_at = text[: 4 * most + 20_000]
    beyond = len(text) - len(looked_at)
    made, found = redact(storable(looked_at))
    if found:
        counts.update(found)
    if beyond:
        # What was looked at may end in half a secret, and be short now: its last word goes.
        end = max(made.rfind(" "), made.rfind("\n"), len(made) - MOST_WORD, 0)
        beyond, made = beyond + len(made) - end, made[:end]
    if lines and (short := "\n".join(made.strip().split("\n", lines)[:lines])) != made.strip():
        beyond, made = beyond + len(made) - len(short), short
    return cut(made, most, beyond)


def cut(text: str, most: int, beyond: int = 0) -> str:
    """`text`, at most so long, and said where there was more: `beyond` was left out before."""
    if len(text) <= most:
        return f"{text} […{beyond} more characters]" if beyond else text
    end = most
    mark = text.rfind("[REDACTED-", max(0, most - 40), most)
    if mark >= 0 and text.find("]", mark) >= most:
        end = mark
    return f"{text[:end].rstrip()} […{len(text) - end + beyond} more characters]"


def storable(text: str) -> str:
    """Without halves of surrogate pairs, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


# --- reading


@dataclass
class _Log:
    """One log, as far as it was read."""

    file: LogFile
    start: Place  # of the first reading that is in this batch
    place: Place
    folders: set[str] = field(default_factory=set)  # said, and not given to a session yet
    sessions: set[str] = field(default_factory=set)  # of the events since the last Progress
    told: set[str] = field(default_factory=set)
    damages: list[Damage] = field(default_factory=list)
    again: bool = False  # lines were told that were read before: it is read from its beginning
    done: bool = False
    begun: bool = False  # part of this reading is stored

    def stored(self) -> None:
        self.start, self.damages, self.told, self.again, self.begun = self.place, [], set(), False, True


class _Batch:
    """What waits to be stored."""

    def __init__(self, index: "Index"):
        self._index = index
        self._events: list[tuple] = []
        self._folders: list[tuple[str, str, str]] = []
        self._logs: dict[str, _Log] = {}
        self._characters = 0
        self.new = 0
        self.redacted: Counter = Counter()

    def add(self, event: Event) -> None:
        row = kept(event)
        if row is not None:
            self._events.append(row)
            self._characters += len(row[6]) + len(row[9]) + 300

    def reached(self, log: _Log, folders: frozenset[str]) -> None:
        """All events of the log up to `log.place` are in the batch."""
        self._logs[name_of(log.file)] = log
        log.folders |= {storable(folder) for folder in folders if folder}
        if log.sessions:
            self._folders += [(log.file.agent, session, folder) for session in log.sessions for folder in log.folders]
            log.told |= log.sessions
            log.folders, log.sessions = set(), set()

    @property
    def full(self) -> bool:
        return len(self._events) >= BATCH or self._characters >= BATCH_TEXT

    def store(self) -> None:
        """One transaction. Raises StoreError, DiskFull: nothing of the batch is stored."""
        if not self._events and not self._logs:
            return
        db = self._index.db
        with translated(self._index.path):
            db.execute("BEGIN IMMEDIATE")
            try:
                last = db.execute("SELECT ifnull(max(n), 0) FROM events").fetchone()[0]
                db.executemany(_PUT, self._events)
                added = db.execute("SELECT redacted FROM events WHERE n>?", (last,)).fetchall()
                db.executemany("INSERT OR IGNORE INTO folders VALUES(?,?,?)", self._folders)
                for log in self._logs.values():
                    _put_log(db, log)
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        self.new += len(added)
        for (found,) in added:
            if found:
                self.redacted.update(json.loads(found))
        for log in self._logs.values():
            log.stored()
        self._events, self._folders, self._logs, self._characters = [], [], {}, 0


# An event that is known is told again: by its own log, where a branch was given up; or by another, as forks do. Which
# log came first must make no difference: of two sessions the event is the one's that has it on its main line, else of
# the lesser name.
_PUT = """
INSERT INTO events(agent, key, session, at, ord, kind, text, name, model, command, files, failed, aside, redacted)
    VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)
ON CONFLICT(agent, key) DO UPDATE SET session=excluded.session, at=excluded.at, ord=excluded.ord, aside=excluded.aside
    WHERE (excluded.session = session AND excluded.aside <> aside)
       OR (excluded.session <> session AND (excluded.aside, excluded.session) < (aside, session))
"""


def _put_log(db: sqlite3.Connection, log: _Log) -> None:
    file, place = log.file, log.place
    size, modified = (file.size, file.modified) if log.done else (-1, -1)
    (n,) = db.execute(
        "INSERT INTO logs(path, agent, format, size, modified, offset, line, head, state, folders)"
        " VALUES(?,?,?,?,?,?,?,?,?,?) ON CONFLICT(path) DO UPDATE SET agent=excluded.agent, format=excluded.format,"
        " size=excluded.size, modified=excluded.modified, offset=excluded.offset, line=excluded.line,"
        " head=excluded.head, state=excluded.state, folders=excluded.folders RETURNING n",
        (
            name_of(file), file.agent, file.format, size, modified, place.offset, place.line, place.head,
            place.state, json.dumps(sorted(log.folders)),
        ),
    ).fetchone()  # fmt: skip
    # Damage behind what was passed over is found again when it is still there.
    if not log.begun:
        border = 0 if log.again else _border(log.start)
        db.execute("DELETE FROM damages WHERE log=? AND (line>? OR line=0)", (n, border))
    room = MOST_DAMAGES - db.execute("SELECT count(*) FROM damages WHERE log=?", (n,)).fetchone()[0]
    db.executemany(
        "INSERT OR IGNORE INTO damages VALUES(?,?,?)",
        [(n, damage.line, storable(damage.reason)[:300]) for damage in log.damages[: max(0, room)]],
    )
    db.executemany("INSERT OR IGNORE INTO told VALUES(?,?,?)", [(file.agent, session, n) for session in log.told])


def _border(place: Place) -> int:
    """The last line, or row, that will not be read again."""
    return place.line or place.offset


def scan(
    index: "Index",
    logs: list[LogFile],
    tell: Callable[[int, int], None] | None = None,
    readers: Mapping[str, Reader] | None = None,
) -> Scanned:
    """Bring the index up to what the logs hold. A log that cannot be read is told, and the others go on."""
    if readers is None:
        from replica.sessions.discover import READERS as readers
    paths = {name_of(log): log for log in logs}
    known = {row[0]: row[1:] for row in index.rows(
        "SELECT path, size, modified, format, folders, offset, line, head, state FROM logs"
    )}  # fmt: skip
    changed = [(log, known.get(path)) for path, log in paths.items()]
    changed = [(log, row) for log, row in changed if not row or (log.size, log.modified, log.format) != row[:3]]
    batch, read, done, total = _Batch(index), 0, 0, sum(log.size for log, _ in changed)
    for log, row in changed:
        same = row is not None and row[2] == log.format
        place = Place(*row[4:]) if same else Place()
        passed, restarted = min(place.offset, log.size), False
        one = _Log(log, place, place, set(json.loads(row[3])) if same else set())
        for item in _reading(readers[log.format], log, place):
            _take(item, one, batch)
            restarted = restarted or one.again
            if batch.full:
                batch.store()
            if tell and isinstance(item, Progress):
                tell(done + min(one.place.offset, log.size), total)
        one.done = not any(damage.line == 0 for damage in one.damages)  # else it is tried again, for it may come right
        batch.reached(one, frozenset())
        if one.done or one.place != place:
            read += log.size if restarted or passed == log.size else log.size - passed
        done += log.size
        if tell:
            tell(done, total)
    batch.store()
    return Scanned(read, batch.new, _damaged(index, paths), batch.redacted)


def _reading(reader: Reader, log: LogFile, place: Place) -> Iterator[Event | Damage | Progress]:
    try:
        yield from reader.read(log, place)
    except OSError as error:
        yield Damage(str(log.path), 0, error.strerror or str(error))


def _take(item: Event | Damage | Progress, log: _Log, batch: _Batch) -> None:
    if isinstance(item, Event):
        log.again = log.again or item.order <= log.start.line
        log.sessions.add(storable(item.session))
        batch.add(item)
    elif isinstance(item, Progress):
        log.again = log.again or item.place.offset < log.start.offset
        log.place = item.place
        batch.reached(log, item.folders)
    elif len(log.damages) < MOST_DAMAGES:
        log.again = log.again or 0 < item.line <= _border(log.start)
        log.damages.append(item)


def _damaged(index: "Index", logs: dict[str, LogFile]) -> list[Damage]:
    rows = index.rows("SELECT l.path, d.line, d.reason FROM damages d JOIN logs l ON d.log=l.n ORDER BY 1, 2, 3")
    return [Damage(str(logs[path].path), line, reason) for path, line, reason in rows if path in logs]


def name_of(log: LogFile) -> str:
    """Its absolute path, as the index has it."""
    return storable(os.path.abspath(log.path))
