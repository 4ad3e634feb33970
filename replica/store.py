"""The SQLite file of one clone: schema, transactions, and the translation of SQLite's errors.

WAL, `synchronous=FULL`: what a transaction has committed is durable before anyone hears of it.
Several processes of one clone share the file; every change is made under SQLite's write lock.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replica.errors import DiskFull, StoreError, UnknownSchema

SCHEMA_VERSION = 3
APPLICATION_ID = 0x5250_4C43  # "RPLC": tells our files from other SQLite files
BUSY_TIMEOUT = 15.0  # seconds to wait for another process's transaction

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Whoever has written a change, or may. `private`: this clone's own chain of level-0 changes.
-- `floor`: the chain's changes up to this one are folded into baselines (replica/compact.py); `floor_head`: its hash.
CREATE TABLE authors(
    n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, key BLOB NOT NULL, cert BLOB NOT NULL, name TEXT NOT NULL,
    private INTEGER NOT NULL DEFAULT 0, seq INTEGER NOT NULL DEFAULT 0, head BLOB NOT NULL,
    admitted_by BLOB, admitted_at INTEGER, removed_by BLOB, removed_at INTEGER, successor BLOB,
    floor INTEGER NOT NULL DEFAULT 0, floor_head BLOB);

-- Who let in whom, who removed whom, who goes on for whom: as changes, since what they had seen of each other decides.
-- Of several that let one key in, those stand in `admissions` that had seen none of the others.
-- `away`: not removed for good: too long away to be waited for, and to come back under a successor.
CREATE TABLE admissions(member BLOB, author INTEGER, seq INTEGER, PRIMARY KEY(member, author, seq)) WITHOUT ROWID;
CREATE TABLE removals(
    member BLOB, author INTEGER, seq INTEGER, away INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(member, author, seq)) WITHOUT ROWID;
CREATE TABLE successions(old BLOB, new BLOB, why TEXT NOT NULL, PRIMARY KEY(old, new)) WITHOUT ROWID;

-- The log. Row order is arrival order, and so a causal order.
CREATE TABLE changes(
    n INTEGER PRIMARY KEY, author INTEGER NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, time INTEGER NOT NULL,
    kind INTEGER NOT NULL, doc INTEGER, body BLOB NOT NULL, signature BLOB, UNIQUE(author, seq));
CREATE INDEX changes_of_document ON changes(doc, n) WHERE doc IS NOT NULL;
CREATE TABLE deps(author INTEGER, dep INTEGER, seq INTEGER, dep_seq INTEGER, PRIMARY KEY(author, dep, seq))
    WITHOUT ROWID;

-- What a document was where its folded changes end: the log of it begins behind that. `time`: of the last of them.
-- Its adds are those of `adds` that are `folded`.
CREATE TABLE baselines(doc INTEGER PRIMARY KEY, time INTEGER NOT NULL, data BLOB NOT NULL);

-- `place`: empty where it is the id, as nearly always; see PLACE. `rank`: see replica/materialise.py.
-- `folded`: 1 for an add of the document's baseline, 2 for one that was dead there.
-- Everything below follows from the baselines and the log.
-- `changed`: the row of the document's last change.
CREATE TABLE documents(
    n INTEGER PRIMARY KEY, path TEXT NOT NULL, policy TEXT NOT NULL, private INTEGER NOT NULL,
    digest BLOB, changed_at INTEGER, changed_by INTEGER, changed INTEGER NOT NULL DEFAULT 0,
    UNIQUE(path, policy, private));
CREATE INDEX documents_unread ON documents(n) WHERE digest IS NULL;
CREATE INDEX documents_changed ON documents(changed);
CREATE TABLE alive(doc INTEGER, author INTEGER, seq INTEGER, PRIMARY KEY(doc, author)) WITHOUT ROWID;
CREATE TABLE adds(
    n INTEGER PRIMARY KEY, doc INTEGER NOT NULL, id BLOB NOT NULL, author INTEGER NOT NULL, seq INTEGER NOT NULL,
    idx INTEGER NOT NULL, time INTEGER NOT NULL, change INTEGER NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
    occurrence INTEGER NOT NULL, lead TEXT NOT NULL,
    place BLOB NOT NULL, after BLOB, meta BLOB, roots BLOB, dead INTEGER NOT NULL DEFAULT 0, rank BLOB,
    folded INTEGER NOT NULL DEFAULT 0, UNIQUE(author, seq, idx));
CREATE INDEX adds_of_document ON adds(doc);
-- A cache; `state` is deflated, and empty where the baseline and few changes behind it give it.
CREATE TABLE texts(doc INTEGER PRIMARY KEY, change INTEGER NOT NULL, text TEXT NOT NULL, state BLOB NOT NULL);
CREATE TABLE overlaps(
    doc INTEGER, one INTEGER, one_seq INTEGER, other INTEGER, other_seq INTEGER, reviewed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(doc, one, one_seq, other, other_seq)) WITHOUT ROWID;

-- This clone alone.
-- `base`: what we last wrote to the file or read from it, and up to which row of the log that was the document.
-- `form`: with 1 in it, `base` is deflated; with 2, `canonical` is empty since it follows from the base.
-- `intent`: what we are about to write; a crash between the file and the store must not look like an edit.
CREATE TABLE files(
    path TEXT NOT NULL PRIMARY KEY, policy TEXT NOT NULL, base BLOB NOT NULL, canonical TEXT NOT NULL,
    ids BLOB NOT NULL, change INTEGER NOT NULL, stamp TEXT, missing INTEGER, intent BLOB,
    form INTEGER NOT NULL DEFAULT 0);
CREATE TABLE held(path TEXT PRIMARY KEY, reason TEXT NOT NULL, what TEXT NOT NULL, since INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE TABLE withheld(path TEXT, id BLOB, since INTEGER NOT NULL, PRIMARY KEY(path, id)) WITHOUT ROWID;
CREATE TABLE skipped(path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE peers(id BLOB PRIMARY KEY, addresses TEXT, seen INTEGER, vector BLOB, note TEXT) WITHOUT ROWID;
"""

PLACE = "iif(length(place)=0, id, place)"  # of a row of `adds`, in SQL

# From an older schema to the next, statement by statement. `rank` is the time of a log line since it was first written.
MIGRATIONS = {
    1: """
ALTER TABLE authors ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE authors ADD COLUMN floor_head BLOB;
ALTER TABLE documents ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
UPDATE documents SET changed=ifnull((SELECT max(c.n) FROM changes c WHERE c.doc=documents.n), 0);
CREATE INDEX documents_changed ON documents(changed);
DROP INDEX adds_of_document;
CREATE INDEX adds_of_document ON adds(doc);
ALTER TABLE adds ADD COLUMN rank BLOB;
ALTER TABLE adds ADD COLUMN folded INTEGER NOT NULL DEFAULT 0;
CREATE TABLE baselines(doc INTEGER PRIMARY KEY, time INTEGER NOT NULL, data BLOB NOT NULL);
ALTER TABLE files RENAME TO files_1;
CREATE TABLE files(
    path TEXT NOT NULL PRIMARY KEY, policy TEXT NOT NULL, base BLOB NOT NULL, canonical TEXT NOT NULL,
    ids BLOB NOT NULL, change INTEGER NOT NULL, stamp TEXT, missing INTEGER, intent BLOB,
    form INTEGER NOT NULL DEFAULT 0);
INSERT INTO files SELECT path, policy, base, canonical, ids, change, stamp, missing, intent, 0 FROM files_1;
DROP TABLE files_1;
DELETE FROM texts;
ALTER TABLE removals ADD COLUMN away INTEGER NOT NULL DEFAULT 0;
ALTER TABLE successions ADD COLUMN why TEXT NOT NULL DEFAULT 'copy';
CREATE TABLE admissions(member BLOB, author INTEGER, seq INTEGER, PRIMARY KEY(member, author, seq)) WITHOUT ROWID;
INSERT INTO admissions SELECT a.id, c.author, c.seq FROM authors a JOIN authors b ON b.id=a.admitted_by
    JOIN changes c ON c.author=b.n AND c.time=a.admitted_at AND c.kind=1 WHERE a.id<>b.id;
INSERT OR IGNORE INTO admissions SELECT s.new, a.n, 1 FROM successions s JOIN authors a ON a.id=s.new;
""",
    2: """
CREATE TABLE withheld(path TEXT, id BLOB, since INTEGER NOT NULL, PRIMARY KEY(path, id)) WITHOUT ROWID;
""",
}


class Store:
    """One clone's database. Not shared between threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path = path
        self._db = connection
        self._depth = 0

    @classmethod
    def create(cls, path: Path) -> "Store":
        """Make a new, empty store; `path` must not exist."""
        store = cls(path, _connect(path))
        with translated(path):
            store._db.execute("PRAGMA journal_mode=WAL")
            store._db.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";\n"):
                store._db.execute(statement)
            store._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            store._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            store._db.execute("COMMIT")
        return store

    @classmethod
    def scratch(cls) -> "Store":
        """An empty store in memory, to replay something in."""
        return cls.create(Path(":memory:"))

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open an existing store.

        Raises:
            UnknownSchema: it is not ours, or of another version; nothing was touched.
        """
        if not path.is_file():
            raise StoreError(f"the store {path} is missing", hint="restore it, or join the workspace in a new folder")
        connection = _connect(path)
        with translated(path):
            ours = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if ours != APPLICATION_ID or not (version == SCHEMA_VERSION or version in MIGRATIONS):
            connection.close()
            raise UnknownSchema(f"the store {path} has version {version}; this program reads {SCHEMA_VERSION}")
        store = cls(path, connection)
        if version != SCHEMA_VERSION:
            store._migrate()
        return store

    def _migrate(self) -> None:
        """Bring an older schema to this one, all at once. Another process may have done it meanwhile."""
        with self.transaction():
            while (version := self.value("PRAGMA user_version")) != SCHEMA_VERSION:
                for statement in MIGRATIONS[version].strip().split(";\n"):
                    self.execute(statement)
                self.execute(f"PRAGMA user_version={version + 1}")

    def close(self) -> None:
        self._db.close()

    @property
    def in_transaction(self) -> bool:
        return self._depth > 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or none, under the write lock. Nested uses join the outer one."""
        if self._depth:
            yield
            return
        with translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
        self._depth = 1
        try:
            yield
            with translated(self.path):
                self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0

    def execute(self, sql: str, parameters=()) -> sqlite3.Cursor:
        with translated(self.path):
            return self._db.execute(sql, parameters)

    def many(self, sql: str, rows) -> None:
        with translated(self.path):
            self._db.executemany(sql, rows)

    def rows(self, sql: str, parameters=()) -> list[tuple]:
        with translated(self.path):
            return self._db.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters=()) -> tuple | None:
        with translated(self.path):
            return self._db.execute(sql, parameters).fetchone()

    def value(self, sql: str, parameters=(), default=None):
        row = self.row(sql, parameters)
        return default if row is None else row[0]

    def meta(self, key: str, default=None):
        return self.value("SELECT value FROM meta WHERE key=?", (key,), default)

    def set_meta(self, key: str, value) -> None:
        self.execute("INSERT INTO meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value", (key, value))

    def version(self) -> int:
        """A number that differs after another process (not this one) has committed."""
        return self.value("PRAGMA data_version")

    def checkpoint(self) -> None:
        """Fold the write-ahead log back, so that it does not grow without end."""
        self.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _connect(path: Path) -> sqlite3.Connection:
    with translated(path):
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, cached_statements=256)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-8000")
        connection.execute("PRAGMA temp_store=MEMORY")
    return connection


class translated:
    """Turns SQLite's errors into ours, naming the file. A class: it stands on every statement's way."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type, error, _traceback) -> None:
        if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            return
        words = str(error)
        if "full" in words or "disk I/O" in words:
            raise DiskFull(f"the disk of {self._path} takes no more: {words}") from error
        if "locked" in words or "busy" in words:
            raise StoreError(
                f"the store {self._path} is busy", hint="another replica command is at work on it; try again"
            ) from error
        if "readonly" in words or "unable to open" in words:
            raise StoreError(
                f"the store {self._path} cannot be written: {words}", hint="check the folder's permissions"
            ) from error
        raise StoreError(
            f"the store {self._path} is damaged or not a store: {words}", hint="keep a copy, then restore a backup"
        ) from error
