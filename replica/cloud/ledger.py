"""What each sink has: one row an item, written when the service has acknowledged it. `.replica/cloud.db`.

A file of its own, so that an export never waits for the store's write lock nor anybody for an export's, and so that it
outlives a store that is set aside (docs/recovery.md). Lost, it is learnt again: services that keep our ids are written
to again without a copy, the others are asked for them.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from replica.errors import UnknownSchema
from replica.places import FOLDER
from replica.store import translated

FILE = "cloud.db"
LOCK = "cloud.lock"  # held while something goes to a sink or comes from one
VERSION = 1

SCHEMA = """
-- A place that items go to. `target`: a hash of what makes it that place; another target is another place.
CREATE TABLE sinks(n INTEGER PRIMARY KEY, name TEXT NOT NULL, target TEXT NOT NULL, UNIQUE(name, target));

-- `digest`: of all that was sent; `hash`: SHA-256 of the item's text as it was then; `there`: of the text there.
-- `state`: "sending" before a call whose outcome may get lost, "stored" when acknowledged, "failed" with its error.
CREATE TABLE items(
    sink INTEGER NOT NULL, id BLOB NOT NULL, document TEXT NOT NULL, state TEXT NOT NULL, digest BLOB NOT NULL,
    hash BLOB, there BLOB, remote TEXT, namespace TEXT, embedder TEXT, trouble TEXT, error TEXT, hint TEXT,
    tries INTEGER NOT NULL DEFAULT 0, again INTEGER NOT NULL DEFAULT 0, time INTEGER NOT NULL,
    PRIMARY KEY(sink, id)) WITHOUT ROWID;
CREATE INDEX items_of_document ON items(sink, document);
CREATE INDEX items_by_remote ON items(sink, remote);
CREATE INDEX items_failed ON items(sink, state) WHERE state<>'stored';

-- `mark`: of the state of a document, and of what was asked for, in which all its items were stored.
CREATE TABLE documents(sink INTEGER, path TEXT, mark BLOB NOT NULL, PRIMARY KEY(sink, path)) WITHOUT ROWID;

-- What a service has changed or taken away, and a person has to look at. `kind`: "edit" or "delete".
CREATE TABLE proposals(
    sink INTEGER NOT NULL, id BLOB NOT NULL, kind TEXT NOT NULL, document TEXT NOT NULL, text TEXT NOT NULL,
    there BLOB, remote TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY(sink, id)) WITHOUT ROWID;

CREATE TABLE facts(sink INTEGER, key TEXT, value TEXT, PRIMARY KEY(sink, key)) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """A row of `items`."""

    id: UUID
    document: str
    state: str
    digest: bytes
    hash: bytes | None
    there: bytes | None
    remote: str | None
    namespace: str | None
    embedder: str | None
    trouble: str | None
    error: str | None
    hint: str | None
    tries: int
    again: int
    time: int


class Proposal(NamedTuple):
    sink: int
    id: UUID
    kind: str
    document: str
    text: str
    there: bytes | None
    remote: str
    time: int


_COLUMNS = ", ".join(Row._fields)


class Ledger:
    """The ledger of one clone. Times are milliseconds since 1970. Not shared between threads."""

    def __init__(self, root: Path):
        self.path = root / FOLDER / FILE
        new = not self.path.exists()
        with translated(self.path):
            self._db = sqlite3.connect(self.path, timeout=15.0, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
        if new:
            os.chmod(self.path, 0o600)
        self._prepare()

    def _prepare(self) -> None:
        with self.transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={VERSION}")
            elif version != VERSION:
                raise UnknownSchema(f"the ledger {self.path} has version {version}; this program reads {VERSION}")

    @staticmethod
    def exists(root: Path) -> bool:
        return (root / FOLDER / FILE).is_file()

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with translated(self.path):
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, sql: str, parameters: tuple = ()) -> list[tuple]:
        with translated(self.path):
            return self._db.execute(sql, parameters).fetchall()

    # --- sinks

    def sink(self, name: str, target: str) -> int:
        """The number of a place; a new one for a target that was never used under this name."""
        with self.transaction():
            self._db.execute("INSERT OR IGNORE INTO sinks(name, target) VALUES(?,?)", (name, target))
            return self._rows("SELECT n FROM sinks WHERE name=? AND target=?", (name, target))[0][0]

    def known_sink(self, name: str, target: str) -> int | None:
        rows = self._rows("SELECT n FROM sinks WHERE name=? AND target=?", (name, target))
        return rows[0][0] if rows else None

    def sink_names(self) -> dict[int, str]:
        return dict(self._rows("SELECT n, name FROM sinks"))

    def fact(self, sink: int, key: str) -> Any:
        """Something remembered of a sink; None when nothing is."""
        rows = self._rows("SELECT value FROM facts WHERE sink=? AND key=?", (sink, key))
        return json.loads(rows[0][0]) if rows else None

    def note(self, sink: int, key: str, value: Any) -> None:
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES(?,?,?)", (sink, key, json.dumps(value)))

    # --- items

    def of_document(self, sink: int, document: str) -> dict[UUID, Row]:
        return self._read("document=?", sink, document)

    def all(self, sink: int) -> dict[UUID, Row]:
        return self._read("1=?", sink, 1)

    def _read(self, where: str, sink: int, value) -> dict[UUID, Row]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM items WHERE sink=? AND {where}", (sink, value))
        return {UUID(bytes=row[0]): Row(UUID(bytes=row[0]), *row[1:]) for row in rows}

    def item(self, sink: int, id: UUID) -> Row | None:
        return self._read("id=?", sink, id.bytes).get(id)

    def by_remote(self, sink: int, remote: str) -> Row | None:
        return next(iter(self._read("remote=?", sink, remote).values()), None)

    def documents(self, sink: int) -> dict[str, int]:
        """The documents of which the sink has items, with how many are stored."""
        return dict(
            self._rows("SELECT document, sum(state='stored') FROM items WHERE sink=? GROUP BY document", (sink,))
        )

    def stored(self, sink: int) -> int:
        return self._rows("SELECT count(*) FROM items WHERE sink=? AND state='stored'", (sink,))[0][0]

    def failed(self, sink: int) -> list[Row]:
        return [row for row in self._read("state<>?", sink, "stored").values() if row.state == "failed"]

    def marks(self, sink: int) -> dict[str, bytes]:
        return dict(self._rows("SELECT path, mark FROM documents WHERE sink=?", (sink,)))

    def set_mark(self, sink: int, path: str, mark: bytes | None) -> None:
        with self.transaction():
            if mark is None:
                self._db.execute("DELETE FROM documents WHERE sink=? AND path=?", (sink, path))
            else:
                self._db.execute("INSERT OR REPLACE INTO documents VALUES(?,?,?)", (sink, path, mark))

    def forget_marks(self, sink: int) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM documents WHERE sink=?", (sink,))

    def put(self, sink: int, rows: Iterable[Row]) -> None:
        marks = ",".join("?" * (len(Row._fields) + 1))
        with self.transaction():
            self._db.executemany(
                f"INSERT OR REPLACE INTO items(sink, {_COLUMNS}) VALUES({marks})",
                [(sink, row.id.bytes, *row[1:]) for row in rows],
            )

    def drop(self, sink: int, ids: Iterable[UUID]) -> None:
        with self.transaction():
            self._db.executemany("DELETE FROM items WHERE sink=? AND id=?", [(sink, id.bytes) for id in ids])

    # --- proposals

    def propose(self, sink: int, proposal: Proposal) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO proposals VALUES(?,?,?,?,?,?,?,?)",
                (sink, proposal.id.bytes, *proposal[2:]),
            )

    def proposals(self, sink: int | None = None) -> list[Proposal]:
        where, values = ("", ()) if sink is None else (" WHERE sink=?", (sink,))
        rows = self._rows(
            f"SELECT sink, id, kind, document, text, there, remote, time FROM proposals{where} ORDER BY time, id",
            values,
        )
        return [Proposal(row[0], UUID(bytes=row[1]), *row[2:]) for row in rows]

    def withdraw(self, sink: int, ids: Iterable[UUID]) -> None:
        with self.transaction():
            self._db.executemany("DELETE FROM proposals WHERE sink=? AND id=?", [(sink, id.bytes) for id in ids])
