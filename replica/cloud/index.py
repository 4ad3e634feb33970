"""`.replica/index.db`: everything that this clone holds, to be found by words and by meaning. Derived; never leaves it.

Of each document that has changed since, the entries and sections that are new are put in, and those that are gone are
taken out. Words are found by FTS5 (bm25, Porter's stems), meaning by the cosine of vectors, and the two orders are
fused by reciprocal ranks (Cormack et al. 2009). Vectors are kept by the text that they were made of, so that what only
moves is not computed again, and what an embedder had no time for is made up later.

Level 0 is in it, and so is never given to an embedder by which texts leave this machine.
"""

import hashlib
import operator
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from replica.blocks import ENTRY, HEADING
from replica.clone import Clone
from replica.cloud import words
from replica.cloud.embed import Embedder, one_thread_numpy, stays_here
from replica.cloud.sections import Part, parts, title
from replica.documents import Document
from replica.errors import DamagedRecord
from replica.places import CONFIG, FOLDER
from replica.rejoin import begun
from replica.store import BUSY_TIMEOUT, translated

FILE = "index.db"
SCHEMA_VERSION = 1
RRF = 60  # the constant of reciprocal rank fusion
DEPTH = 100  # how many of each order are fused, at least
FLOOR = 0.1  # a cosine below says nothing: most texts that have nothing to do with each other have as much
PIECE = 1_000  # characters that one vector stands for: about what the smallest embedder looks at
MOST_PIECES = 32  # of one entry; what stands behind them is found by its words
EMBED_TOGETHER = 64  # texts between two looks at the clock
MOST_NEAR = 20_000  # vectors that are compared with each other
BLOCK = 512  # of them at once
FEW = 2_000  # vectors that are compared without numpy: loading it takes longer
PAGE = 16_384  # bytes: of the usual 4,096 a vector would fill half, and waste the other

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- `changed`: the row of the document's last change that is in here.
CREATE TABLE documents(
    n INTEGER PRIMARY KEY, path TEXT NOT NULL, policy TEXT NOT NULL, changed INTEGER NOT NULL, UNIQUE(path, policy));
-- An entry, or a section of a text. `name`: a hash of all of it. `heading`: what it stands under. `time`: hybrid.
CREATE TABLE entries(
    n INTEGER PRIMARY KEY, doc INTEGER NOT NULL, name BLOB NOT NULL, id BLOB, heading TEXT NOT NULL, text TEXT NOT NULL,
    author BLOB NOT NULL, time INTEGER NOT NULL, private INTEGER NOT NULL, UNIQUE(doc, name));
CREATE VIRTUAL TABLE words USING fts5(text, tokenize="{tokenizer}");
-- What of an entry has a vector of its own, by a hash of its text.
CREATE TABLE pieces(entry INTEGER, at INTEGER, name BLOB NOT NULL, PRIMARY KEY(entry, at)) WITHOUT ROWID;
CREATE INDEX pieces_by_name ON pieces(name);
CREATE TABLE vectors(n INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
"""


class Recalled(NamedTuple):
    """An entry or a section that answers a question.

    `id`: of an entry, in hex; None: a section of a text. `author`: the name of the clone that wrote it. `time`: hybrid
    logical. `by`: "words", "meaning" or both. `score`: only of use to compare the answers to one question.
    """

    document: str
    id: str | None
    text: str
    author: str
    time: int
    level: int
    score: float
    by: tuple[str, ...]


class Answer(NamedTuple):
    """`waiting`: how many entries there was no time to make vectors of; they were found by words alone."""

    found: list[Recalled]
    waiting: int


def recall(clone: Clone, question: str, n: int, embedder: Embedder | None = None) -> list[Recalled]:
    """The `n` entries and sections that fit a question best, of all that the clone holds.

    Raises SinkError: the embedder cannot be reached.
    """
    with Index.open(clone) as index:
        return index.answer(question, n, embedder).found


# --- what there is to find


class _Found(NamedTuple):
    """As a row of `entries`."""

    id: bytes | None
    heading: str
    text: str
    author: bytes
    time: int
    private: bool
    occurrence: int = 1

    @property
    def name(self) -> bytes:
        return hashlib.sha256(repr(tuple(self)).encode("utf-8", "replace")).digest()[:16]


def _content(clone: Clone, document: Document) -> Iterator[_Found]:
    if document.policy == "text":
        doc = clone.documents.shown_text(document)
        time, author = clone.store.row("SELECT changed_at, changed_by FROM documents WHERE n=?", (doc,))
        who = clone.log.author_n(author)
        for part in _parts(clone.documents.text(document)):
            heading = " > ".join(part.heading)
            yield _Found(None, heading, part.body, who.id, time, doc == document.private, part.occurrence)
        return
    heading = ""
    for entry in clone.documents.entries(document):
        if entry.role == HEADING:
            heading = title(entry.text)[1]
        elif entry.role != ENTRY:
            continue
        elif document.policy == "latest":  # the whole file is one entry
            for part in _parts(entry.text):
                heading = " > ".join(part.heading)
                yield _Found(entry.id, heading, part.body, entry.author, entry.time, entry.private, part.occurrence)
        else:
            yield _Found(entry.id, heading, entry.text, entry.author, entry.time, entry.private)


def _parts(text: str) -> list[Part]:
    """The parts of a text that are worth finding: a heading alone may be."""
    return [part for part in parts(text) if part.heading or part.body.strip("\n")]


def pieces(text: str) -> list[str]:
    """A text in parts that one vector can stand for, broken between lines, or else between words."""
    # Outside of Latin script, the smallest embedder sees a token in nearly every character.
    most = PIECE if len(text.encode("utf-8", "replace")) < 1.5 * len(text) else PIECE // 4
    found, rest = [], text.strip()
    while len(rest) > most and len(found) < MOST_PIECES - 1:
        at = next((at for mark in "\n " if (at := rest.rfind(mark, most // 2, most)) > 0), most)
        found.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [*found, rest[:most]]


def _whole(heading: str, text: str) -> str:
    """What is searched: what an entry stands under belongs to what it means."""
    return f"{heading}\n{text}" if heading and text else heading or text


def _piece_name(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:16]


# --- the file


class Index:
    """The open index of one clone. Several processes may have it open."""

    def __init__(self, clone: Clone, path: Path, connection: sqlite3.Connection):
        self.clone, self.path, self._db = clone, path, connection
        self._held: tuple | None = None  # what the vectors were last read as

    @classmethod
    def open(cls, clone: Clone) -> "Index":
        """The index; an empty one where there is none, or one of another version. Raises StoreError, DiskFull."""
        path = clone.root / FOLDER / FILE
        with translated(path):
            return cls(clone, path, _connect(path))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, embedder: Embedder | None = None, seconds: float | None = None) -> int:
        """Take in what has changed, then make the vectors that are missing, the newest entries' first.

        `seconds`: how long vectors may be made. Returns how many entries still lack one.

        Raises SinkError: the embedder cannot be reached; what was made before that is kept.
        """

        def work() -> int:
            self._read()
            return 0 if embedder is None else self._embed(embedder, seconds)

        return self._mended(work)

    def answer(
        self, question: str, n: int, embedder: Embedder | None = None, seconds: float | None = None, *,
        only: tuple[str, ...] = ("words", "meaning"),
    ) -> Answer:  # fmt: skip
        """What fits a question best, after an `update`. `only`: by which orders.

        Raises SinkError: the embedder cannot be reached.
        """
        question = question.encode("utf-8", "replace").decode()
        # First of all: by its first call, some embedder learns what it is called.
        asked = embedder.embed([question[:PIECE]])[0] if embedder is not None and question.strip() else None
        waiting = self.update(embedder, seconds)
        depth = max(DEPTH, 2 * n)

        def work() -> list[Recalled]:
            orders: dict[str, list[int]] = {}
            if "words" in only:
                orders["words"] = self._by_words(question, depth)
            if "meaning" in only and embedder is not None and asked and self._meta("embedder") == embedder.id:
                orders["meaning"] = self._by_meaning(asked, depth)
            return self._fused(orders, n)

        return Answer(self._mended(work), waiting)

    # --- taking in

    def _read(self) -> None:
        clone = self.clone
        clone.log.refresh()
        if self._known_log() and not self._stale():
            return
        with self._transaction():
            if not self._known_log():
                self._db.execute("UPDATE documents SET changed=-1")
            gone = False
            self._set_meta("log", self._log_mark())
            for path, policy, last in self._stale():
                if last is None:
                    gone |= self._replace(path, policy, [])
                    self._db.execute("DELETE FROM documents WHERE path=? AND policy=?", (path, policy))
                    continue
                with suppress(DamagedRecord):  # it is listed elsewhere, and may be mended: what is known of it stays
                    gone |= self._replace(path, policy, _content(clone, clone.documents.find(path, policy)))
                    self._db.execute("UPDATE documents SET changed=? WHERE path=? AND policy=?", (last, path, policy))
            if gone:
                self._db.execute("DELETE FROM vectors WHERE name NOT IN (SELECT name FROM pieces)")

    def _log_mark(self) -> bytes:
        """Up to which change this is: its row, its hash, and how often the store was begun anew."""
        row = self.clone.store.row("SELECT n, hash FROM changes ORDER BY n DESC LIMIT 1")
        return msgpack.packb([begun(self.clone.store), *(row or (0, b""))])

    def _known_log(self) -> bool:
        """Whether the rows mean what they meant. Not so in a store that was restored, or begun anew.

        Where that change is folded away by now, nobody knows.
        """
        times, n, hash = msgpack.unpackb(self._meta("log", msgpack.packb([0, 0, b""])))
        row = self.clone.store.row("SELECT hash FROM changes WHERE n=?", (n,)) if n else (b"",)
        return times == begun(self.clone.store) and row == (hash,)

    def _stale(self) -> list[tuple[str, str, int | None]]:
        """The documents that have changed since, with the row of their last change; None: they are gone."""
        rows = self._db.execute("SELECT path, policy, changed FROM documents")
        known = {(path, policy): changed for path, policy, changed in rows}
        now = self.clone.documents.latest_changes()
        now = {pair: last for pair, last in now.items() if pair[0] != CONFIG}  # settings are no memory
        changed = [(*pair, last) for pair, last in now.items() if known.get(pair) != last]
        return changed + [(*pair, None) for pair in known if pair not in now]

    def _replace(self, path: str, policy: str, found: Iterable[_Found]) -> bool:
        """Make the rows of a document those of `found`; whether anything went."""
        wanted = {one.name: one for one in found}
        self._db.execute("INSERT OR IGNORE INTO documents(path, policy, changed) VALUES(?,?,-1)", (path, policy))
        [[doc]] = self._db.execute("SELECT n FROM documents WHERE path=? AND policy=?", (path, policy))
        known = dict(self._db.execute("SELECT name, n FROM entries WHERE doc=?", (doc,)))
        gone = [(n,) for name, n in known.items() if name not in wanted]
        for table, column in (("entries", "n"), ("words", "rowid"), ("pieces", "entry")):
            self._db.executemany(f"DELETE FROM {table} WHERE {column}=?", gone)
        for name, one in wanted.items():
            if name not in known:
                self._add(doc, name, one)
        return bool(gone)

    def _add(self, doc: int, name: bytes, one: _Found) -> None:
        n = self._db.execute(
            "INSERT INTO entries(doc, name, id, heading, text, author, time, private) VALUES(?,?,?,?,?,?,?,?)",
            (doc, name, one.id, one.heading, one.text, one.author, one.time, one.private),
        ).lastrowid
        self._db.execute("INSERT INTO words(rowid, text) VALUES(?,?)", (n, words.spaced(_whole(one.heading, one.text))))
        self._db.executemany(
            "INSERT INTO pieces VALUES(?,?,?)",
            [(n, at, _piece_name(piece)) for at, piece in enumerate(pieces(_whole(one.heading, one.text)))],
        )

    def _embed(self, embedder: Embedder, seconds: float | None) -> int:
        end = None if seconds is None else time.monotonic() + seconds
        id, width = embedder.id, 4 * embedder.dimension
        if self._meta("embedder") != id:
            with self._transaction():
                self._db.execute("DELETE FROM vectors")
                self._set_meta("embedder", id)
        waiting = self._without_vector(embedder)
        texts = list(dict.fromkeys(piece for _, missing in waiting for piece in missing))
        for at in range(0, len(texts), EMBED_TOGETHER):
            if end is not None and time.monotonic() >= end:
                break
            part = texts[at : at + EMBED_TOGETHER]
            rows = [
                (_piece_name(piece), array("f", vector).tobytes())
                for piece, vector in zip(part, embedder.embed(part), strict=True)
            ]
            assert all(len(row[1]) == width for row in rows), f"{id} does not give {width // 4} numbers"
            with self._transaction():
                if self._meta("embedder") != id:
                    break  # another process has begun with another one
                self._db.executemany("INSERT OR REPLACE INTO vectors(name, vector) VALUES(?,?)", rows)
        else:
            return 0
        return len(self._without_vector(embedder))

    def _without_vector(self, embedder: Embedder) -> list[tuple[int, list[str]]]:
        """Entries with the pieces of them that have no vector yet, the newest first; only what may be embedded."""
        rows = self._db.execute(
            "SELECT e.n, p.at, d.path, e.private, e.heading, e.text FROM pieces p JOIN entries e ON e.n=p.entry"
            " JOIN documents d ON d.n=e.doc WHERE NOT EXISTS(SELECT 1 FROM vectors v WHERE v.name=p.name)"
            " ORDER BY e.time DESC, e.n DESC, p.at"
        )
        may = self._may_be_given_to(embedder)
        found: dict[int, list[str]] = {}
        for n, at, path, private, heading, text in rows:
            if may(path, bool(private)):
                found.setdefault(n, []).append(pieces(_whole(heading, text))[at])
        return list(found.items())

    def _may_be_given_to(self, embedder: Embedder) -> Callable[[str, bool], bool]:
        """Level 0, and what no rule shares, never leaves this machine: asked here, just before it would."""
        if stays_here(embedder):
            return lambda path, private: True
        rules: dict[str, Any] = {}

        def may(path: str, private: bool) -> bool:
            if path not in rules:
                rules[path] = self.clone.rule(path)
            return not private and rules[path] is not None and rules[path].level > 0

        return may

    # --- finding

    def _by_words(self, question: str, depth: int) -> list[int]:
        query = words.query(question)
        if not query:
            return []
        rows = self._db.execute(
            "SELECT n, rank, time FROM (SELECT rowid, rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT ?) w"
            " JOIN entries ON n=w.rowid", (query, depth),
        ).fetchall()  # fmt: skip
        return [n for n, _, _ in sorted(rows, key=lambda row: (row[1], -row[2], -row[0]))]

    def _by_meaning(self, asked: list[float], depth: int) -> list[int]:
        """Entries by the nearest of their pieces."""
        best: dict[int, float] = {}
        for n, cosine in self._cosines(asked):
            if cosine > best.get(n, FLOOR):
                best[n] = cosine
        return sorted(best, key=lambda n: (-best[n], -n))[:depth]

    def near(self, embedder: Embedder, least: float) -> list[tuple[tuple[str, bytes], tuple[str, bytes], float]]:
        """Pairs of entries whose vectors have a cosine of at least `least`; an entry is (document, id).

        Of entries in several pieces the first one counts. Of more than `MOST_NEAR` only the newest are compared.
        """

        def work() -> list:
            width = 4 * embedder.dimension
            if self._meta("embedder") != embedder.id:
                return []
            rows = self._db.execute(
                "SELECT d.path, e.id, v.vector FROM entries e JOIN documents d ON d.n=e.doc JOIN pieces p"
                " ON p.entry=e.n AND p.at=0 JOIN vectors v ON v.name=p.name WHERE e.id IS NOT NULL AND d.policy='union'"
                " AND length(v.vector)=? ORDER BY e.time DESC, e.n LIMIT ?", (width, MOST_NEAR),
            ).fetchall()  # fmt: skip
            names = [(path, id) for path, id, _ in rows]
            pairs = _near([vector for *_, vector in rows], width // 4, least)
            return [(names[i], names[j], cosine) for i, j, cosine in pairs]

        return self._mended(work)

    def _cosines(self, asked: list[float]) -> Iterator[tuple[int, float]]:
        """Of each vector: its entry, and how near it is. All have length 1: their product is the cosine."""
        entries, blobs, numpy = self._vectors(4 * len(asked))
        if numpy is None:
            floats = (memoryview(blob).cast("f") for blob in blobs)
            cosines = [sum(map(operator.mul, asked, vector)) for vector in floats]
        else:
            matrix = numpy.frombuffer(blobs, numpy.float32).reshape(len(entries), len(asked))
            cosines = (matrix @ numpy.asarray(asked, numpy.float32)).tolist()
        return zip(entries, cosines, strict=True)

    def _vectors(self, width: int) -> tuple[list[int], Any, Any]:
        """The entry of each vector; the vectors one by one, or in one piece with the numpy that compares them."""
        state = (self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes, width)
        if self._held is None or self._held[0] != state:
            rows = self._db.execute(
                "SELECT p.entry, v.vector FROM pieces p JOIN vectors v ON p.name=v.name WHERE length(v.vector)=?",
                (width,),
            ).fetchall()
            entries, blobs = [row[0] for row in rows], [row[1] for row in rows]
            numpy = one_thread_numpy() if len(rows) > FEW else None
            self._held = (state, (entries, blobs if numpy is None else b"".join(blobs), numpy))
        return self._held[1]

    def _fused(self, orders: dict[str, list[int]], n: int) -> list[Recalled]:
        scores: dict[int, float] = {}
        by: dict[int, tuple[str, ...]] = {}
        for how, order in orders.items():
            for rank, entry in enumerate(order, 1):
                scores[entry] = scores.get(entry, 0.0) + 1 / (RRF + rank)
                by[entry] = (*by.get(entry, ()), how)
        times = self._times(scores)
        chosen = sorted(times, key=lambda entry: (-scores[entry], -times[entry], -entry))[:n]
        return [self._recalled(entry, scores[entry], by[entry]) for entry in chosen]

    def _times(self, entries) -> dict[int, int]:
        found: dict[int, int] = {}
        for entry in entries:
            row = self._db.execute("SELECT time FROM entries WHERE n=?", (entry,)).fetchone()
            if row is not None:
                found[entry] = row[0]
        return found

    def _recalled(self, entry: int, score: float, by: tuple[str, ...]) -> Recalled:
        path, policy, id, heading, text, author, time, private = self._db.execute(
            "SELECT path, policy, id, heading, text, author, time, private FROM entries e"
            " JOIN documents d ON d.n=e.doc WHERE e.n=?", (entry,),
        ).fetchone()  # fmt: skip
        rule = self.clone.rule(path)
        shown = _whole(heading, text) if policy in ("text", "latest") else text
        level = 0 if private else rule.level if rule is not None else 1
        return Recalled(path, id.hex() if id else None, shown, self.clone.author_name(author), time, level, score, by)

    # --- SQLite

    def _meta(self, key: str, default: Any = None) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return default if row is None else row[0]

    def _set_meta(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (key, value))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _mended(self, work: Callable[[], Any]) -> Any:
        """What `work` gives; where the file proves to be damaged, what it gives of one that is made anew.

        Raises StoreError, DiskFull.
        """
        with translated(self.path):
            try:
                return work()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
            self._db.close()
            _remove(self.path)
            self._db = _connect(self.path)
            self._read()
            return work()


def _near(vectors: list[bytes], dimension: int, least: float) -> Iterator[tuple[int, int, float]]:
    """Which of these vectors of length 1 are near each other: (one, a later one, cosine)."""
    numpy = one_thread_numpy() if vectors else None
    if numpy is None:
        floats = [memoryview(vector).cast("f") for vector in vectors[:FEW]]
        for j, other in enumerate(floats):
            for i in range(j):
                if (cosine := sum(map(operator.mul, floats[i], other))) >= least:
                    yield i, j, cosine
        return
    matrix = numpy.frombuffer(b"".join(vectors), numpy.float32).reshape(len(vectors), dimension)
    for at in range(0, len(vectors), BLOCK):
        block = matrix[at : at + BLOCK] @ matrix[: at + BLOCK].T
        for j, i in zip(*(side.tolist() for side in numpy.nonzero(block >= least)), strict=True):
            if i < at + j:
                yield i, at + j, float(block[j, i])


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = _opened(path)
        if connection.execute("PRAGMA user_version").fetchone()[0] in (0, SCHEMA_VERSION):
            return _with_tables(connection)
        connection.close()
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
    _remove(path)
    return _with_tables(_opened(path))


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    connection.execute(f"PRAGMA page_size={PAGE}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")  # what a power cut takes is made again
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def _with_tables(connection: sqlite3.Connection) -> sqlite3.Connection:
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # else another process was quicker
            for statement in SCHEMA.replace("{tokenizer}", words.TOKENIZER).split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    return connection


def _remove(path: Path) -> None:
    for ending in ("-wal", "-shm", ""):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Not busy, not full, not forbidden: what stands in the file is not what was written there."""
    return type(error) in (sqlite3.DatabaseError, sqlite3.IntegrityError)
