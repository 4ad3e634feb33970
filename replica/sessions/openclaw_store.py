"""OpenClaw's SQLite store (2026.8 and later): the same records as in the lines of JSONL, a row each.

It is opened read-only, which works beside a running OpenClaw. A `Place` holds the highest rowid that was read and a
hash of that row: where rows were written anew, as a migration or a repair does, all is read again.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

from replica.sessions import fields
from replica.sessions.base import Damage, Event, Kind, LogFile, Place, Progress
from replica.sessions.lines import LONGEST, BadRecord, record, zstd
from replica.sessions.openclaw import AGENT, Transcript

# What a damaged store raises: a message that quotes damaged bytes cannot even be decoded.
FAULTS = (sqlite3.Error, UnicodeError)
_ROWS = "transcript_events"
_ARCHIVES = ("session_transcript_archives", "session_transcript_cold_archives")


def connect(path: Path) -> sqlite3.Connection:
    """Raises FAULTS."""
    address = path.resolve().as_uri()
    store = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=5.0)
    try:
        store.execute("SELECT 1 FROM sqlite_master").fetchone()
    except FAULTS:
        store.close()
        # In a folder that cannot be written, a store in WAL mode opens only as one that nobody changes.
        if path.with_name(path.name + "-wal").exists():
            raise
        store = sqlite3.connect(f"{address}?immutable=1", uri=True)
    store.text_factory = lambda data: data.decode("utf-8", "replace")
    return store


class Store:
    format = "openclaw-sqlite"

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        file = str(log.path)
        try:
            with closing(connect(log.path)) as store:
                yield from _Reading(store, log, place).all()
        except FAULTS as error:
            yield Damage(file, 0, f"cannot be read: {error}")
            yield Progress(place)


class _Reading:
    def __init__(self, store: sqlite3.Connection, log: LogFile, place: Place):
        self._store, self._log, self._file, self._place = store, log, str(log.path), place
        self._columns = {table: _columns(store, table) for table in (_ROWS, "session_windows", "session_nodes")}
        self._state = {"flush": [], "archives": {}}
        self._from, self._started = 0, Place()
        if place.offset and self._mark(place.offset) == place.head:
            try:
                known = json.loads(place.state)
                self._state = {name: known[name] for name in self._state}
                self._from, self._started = place.offset, place
            except (ValueError, TypeError, KeyError):  # a state that another version wrote
                pass
        self._folders: set[str] = set()

    def all(self) -> Iterator[Event | Damage | Progress]:
        # What comes in while this is read is left to the next run.
        (last,) = self._store.execute(f"SELECT max(rowid) FROM {_ROWS}").fetchone()
        last = last or 0
        sessions = self._store.execute(
            f"SELECT session_id, min(rowid) FROM {_ROWS} WHERE rowid > ? AND rowid <= ? GROUP BY session_id ORDER BY 2",
            (self._from, last),
        ).fetchall()
        whole = True
        for session, _ in sessions:
            try:
                yield from self._session(session, last)
            except FAULTS as error:
                whole = False
                yield Damage(self._file, 0, f"session {fields.text(session)} cannot be read on: {error}")
            yield self._told()
        for table in _ARCHIVES:
            yield from self._archived(table)
        place = Place(last, 0, self._mark(last), json.dumps(self._state).encode())
        # What a page of the store kept from us may be there when it is mended: the next run tries again.
        yield Progress(place if whole else self._place, frozenset(self._folders))

    def _told(self) -> Progress:
        """Between two sessions: the folders are those of the one. Their rows lie mixed, so the place is the old one."""
        folders, self._folders = frozenset(self._folders), set()
        return Progress(self._started, folders)

    def _mark(self, rowid: int) -> bytes:
        row = self._store.execute(
            f"SELECT session_id, seq, created_at FROM {_ROWS} WHERE rowid = ?", (rowid,)
        ).fetchone()
        return blake2b(repr(row).encode(), digest_size=16).digest()

    # --- one session

    def _session(self, session: str, last: int) -> Iterator[Event | Damage]:
        known = self._window(session)
        made = self._transcript(session, known)
        fresh = self._from
        if fresh:
            before = self._before(session)
            made = self._transcript(session, known, before)
        if not made.look(data for _, _, data in self._rows(session, fresh, last) if isinstance(data, bytes)):
            fresh, made = 0, self._transcript(session, known)
            made.look(data for _, _, data in self._rows(session, 0, last) if isinstance(data, bytes))
        if fresh:
            self._header(session, made)
        if title := known.get("title"):
            yield _title(made, known, title)
        for rowid, seq, data in self._rows(session, fresh, last):
            if isinstance(data, str):
                yield Damage(self._file, rowid, data)
                continue
            if data and (made.wanted(data) or not data.endswith(b"}")):
                try:
                    yield from list(made.events(record(data), seq + 1))
                except BadRecord as error:
                    yield Damage(self._file, rowid, str(error))
                # A shape that nobody foresaw costs this record alone, and is told.
                except Exception as error:
                    yield Damage(self._file, rowid, f"not of a known form: {type(error).__name__}: {error}")
        self._folders |= made.folders
        name = fields.text(session)
        flushing = set(self._state["flush"]) - {name} | ({name} if made.flush else set())
        self._state["flush"] = sorted(flushing)

    def _transcript(self, session: str, known: dict[str, Any], before: str = "") -> Transcript:
        state = {"session": fields.text(session), "leaf": before, "flush": fields.text(session) in self._state["flush"]}
        if not before:
            state["flush"] = False
        return Transcript(self._log, json.dumps(state).encode(), sidechain=":subagent:" in known.get("key", ""))

    def _rows(self, session: str, above: int, last: int) -> Iterator[tuple[int, int, bytes | str]]:
        """(rowid, seq, record, or why there is none) in their order."""
        packed = "event_zstd" if "event_zstd" in self._columns[_ROWS] else "NULL"
        found = self._store.execute(
            f"SELECT rowid, seq, CASE WHEN length(event_json) <= {LONGEST} THEN event_json END, {packed}"
            f" FROM {_ROWS} WHERE session_id = ? AND rowid > ? AND rowid <= ? ORDER BY seq",
            (session, above, last),
        )
        for rowid, seq, plain, blob in found:
            yield rowid, seq if isinstance(seq, int) else 0, _content(plain, blob)

    def _before(self, session: str) -> str:
        """The id of the last record that was read of this session."""
        packed = "event_zstd" if "event_zstd" in self._columns[_ROWS] else "NULL"
        row = self._store.execute(
            f"SELECT event_json, {packed} FROM {_ROWS} WHERE session_id = ? AND rowid <= ? ORDER BY seq DESC LIMIT 1",
            (session, self._from),
        ).fetchone()
        try:
            data = _content(*row) if row else b""
            return fields.text(record(data).get("id")) if isinstance(data, bytes) and data else ""
        except BadRecord:
            return ""

    def _header(self, session: str, made: Transcript) -> None:
        for _, seq, data in self._rows(session, 0, self._from):
            if isinstance(data, bytes) and data.startswith(b'{"type":"session"'):
                list(made.events(record(data), seq + 1))
            return

    def _window(self, session: str) -> dict[str, Any]:
        """Its key, and the name that it was given."""
        if not {"session_id", "session_key", "created_at"} <= self._columns["session_windows"]:
            return {}
        names = [name for name in ("label", "display_name") if name in self._columns["session_nodes"]]
        title = f"coalesce({', '.join(f'n.{name}' for name in names)}, '')" if names else "''"
        join = "LEFT JOIN session_nodes n ON n.session_key = w.session_key" if names else ""
        row = self._store.execute(
            f"SELECT w.session_key, w.created_at, {title} FROM session_windows w {join} WHERE w.session_id = ?",
            (session,),
        ).fetchone()
        if not row:
            return {}
        return {"key": fields.text(row[0]), "at": fields.milliseconds(row[1]), "title": fields.text(row[2])}

    # --- what was archived

    def _archived(self, table: str) -> Iterator[Event | Damage | Progress]:
        """Sessions that the store keeps packed, beside their rows."""
        columns = _columns(self._store, table)
        if not {"session_id", "archive_blob"} <= columns:
            return
        done = self._state["archives"].get(table, 0)
        rows = self._store.execute(
            f"SELECT rowid, session_id FROM {table} WHERE rowid > ? AND archive_blob IS NOT NULL ORDER BY rowid",
            (done,),
        ).fetchall()
        for rowid, session in rows:
            try:
                (blob,) = self._store.execute(f"SELECT archive_blob FROM {table} WHERE rowid = ?", (rowid,)).fetchone()
                data = _unpacked(blob, 2 * LONGEST)
            except (*FAULTS, BadRecord, TypeError) as error:
                yield Damage(self._file, rowid, f"{table}: {error}")
                continue
            yield from self._lines(table, rowid, session, data)
            yield self._told()
            self._state["archives"][table] = rowid

    def _lines(self, table: str, rowid: int, session: Any, data: bytes) -> Iterator[Event | Damage]:
        known = self._window(session)
        made = self._transcript(session, known)
        lines = [line.strip() for line in data.split(b"\n")]
        made.look(lines)
        for number, line in enumerate(lines, 1):
            if line and made.wanted(line):
                try:
                    yield from list(made.events(record(line), number))
                except BadRecord as error:
                    yield Damage(self._file, rowid, f"{table}, line {number}: {error}")
                # A shape that nobody foresaw costs this record alone, and is told.
                except Exception as error:
                    yield Damage(self._file, rowid, f"{table}, line {number}: {type(error).__name__}: {error}")
        self._folders |= made.folders


def _columns(store: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in store.execute(f"PRAGMA table_info({table})")}


def _content(plain: Any, blob: Any) -> bytes | str:
    """The record's bytes, or why there are none."""
    if isinstance(plain, str):
        return plain.encode("utf-8", "replace").strip()
    try:
        return _unpacked(blob if blob is not None else plain, LONGEST).strip()
    except BadRecord as error:
        return str(error)


def _unpacked(blob: Any, most: int) -> bytes:
    """Raises BadRecord."""
    if not isinstance(blob, bytes):
        raise BadRecord("the row holds no record")
    if not blob.startswith(b"\x28\xb5\x2f\xfd"):
        return blob
    try:
        unpacking = zstd().ZstdDecompressor()
        data = unpacking.decompress(blob, most + 1)
    except zstd().ZstdError as error:
        raise BadRecord(f"cannot be unpacked: {error}") from None
    if len(data) > most:
        raise BadRecord(f"longer than {most >> 20} MB")
    if not unpacking.eof:
        raise BadRecord("cannot be unpacked: it is cut off")
    return data


def _title(made: Transcript, known: dict[str, Any], title: str) -> Event:
    key = fields.digest(Kind.TITLE, "node", made.name, title)
    return Event(Kind.TITLE, AGENT, made.name, key, known.get("at") or 0, 0, title)
