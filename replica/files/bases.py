"""What is remembered of each file (table `files`): its base, and up to where in the log that was the document.

The base is what we last wrote there or read from there, with the entries that its blocks were. Every comparison of a
file is with its base, never with the document as it is now.
"""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

from replica import filetext, intake
from replica.blocks import parse, render, spaced, stand_alone
from replica.clone import Clone
from replica.documents import Document
from replica.errors import DamagedRecord
from replica.files.holds import Holds

# A file that is gone, or suddenly empty, is looked at again after this many milliseconds before it is believed: editors
# save by delete-then-create and by truncate-then-write.
SECOND_LOOK = 300
BEHIND = b"behind"  # an intent that says: the file lacks something of its document
DEFLATED, FOLLOWS = 1, 2  # forms in which a file's base and canonical text are kept (replica/store.py)


class Row(NamedTuple):
    """What is remembered of a file."""

    path: str
    policy: str
    base: bytes
    canonical: str
    ids: bytes
    change: int
    stamp: str | None
    missing: int | None  # since when it is gone, milliseconds since 1970
    intent: bytes | None

    @property
    def id_list(self) -> list[bytes]:
        return [self.ids[at : at + 16] for at in range(0, len(self.ids), 16)]


class Trace(NamedTuple):
    """A `Row` without its contents: what a look at an unchanged file needs."""

    path: str
    policy: str
    change: int
    stamp: str | None
    missing: int | None
    intended: bool


class Bases:
    """The bases of one clone's files. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, clone: Clone, holds: Holds, now_ms):
        self.clone, self.store = clone, clone.store
        self.holds, self.now_ms = holds, now_ms

    def traces(self, of: Iterable[str] | None = None) -> dict[str, Trace]:
        """What is remembered of these paths, or of all: a live change costs nothing for each file there is."""
        sql = "SELECT path, policy, change, stamp, missing, intent IS NOT NULL FROM files"
        if of is None:
            return {row[0]: Trace(*row) for row in self.store.rows(sql)}
        found = (self.store.row(f"{sql} WHERE path=?", (path,)) for path in of)
        return {row[0]: Trace(*row) for row in found if row is not None}

    def row(self, path: str) -> Row | None:
        found = self.store.row(
            "SELECT path, policy, base, canonical, ids, change, stamp, missing, intent, form FROM files WHERE path=?",
            (path,),
        )
        if found is None:
            return None
        *fields, form = found
        row = Row(*fields)
        try:
            if form & DEFLATED:
                row = row._replace(base=zlib.decompress(row.base))
            follows = canonical_text(row.base, row.policy) if form & FOLLOWS or not row.canonical else ""
            if form not in range(4) or (follows and not form & FOLLOWS):  # else all of the file would look new
                raise ValueError("an unknown form")
            if form & FOLLOWS:
                row = row._replace(canonical=follows)
        except (zlib.error, TypeError, ValueError):
            raise DamagedRecord(f"what the store remembers of the file {path!r} is damaged") from None
        return row

    def remember(self, path: str, policy: str, data: bytes, text: str, stamp: str) -> None:
        """Remember that the file holds `data`, and that this is the document as of now.

        The document may hold more than the file: then the file is behind, and will be written.
        """
        with self.clone.transaction():
            document = self.clone.documents.find(path, policy)
            last = self.last_change(document)
            canonical = text if policy == "text" else filetext.canonical(text)
            now, ids = self.content(document)
            if now == canonical:
                self.put(path, policy, data, canonical, ids, last, stamp, None)
            else:
                ids = self.ids_for(canonical, policy, document)
                self.put(path, policy, data, canonical, ids, last, stamp, BEHIND)

    def put(self, path, policy, data, canonical, ids, change, stamp, intent) -> None:
        """Remember a row: deflated where that is shorter, without a canonical text that follows from the base."""
        form = 0
        if canonical == canonical_text(data, policy):
            canonical, form = "", FOLLOWS
        if len(packed := zlib.compress(data, 1)) < len(data):
            data, form = packed, form | DEFLATED
        self.store.execute(
            "INSERT OR REPLACE INTO files(path, policy, base, canonical, ids, change, stamp, missing, intent, form)"
            " VALUES(?,?,?,?,?,?,?,NULL,?,?)",
            (path, policy, data, canonical, ids, change, stamp, intent, form),
        )

    def stamp(self, path: str, stamp: str) -> None:
        """The file was seen, and holds its base."""
        self.store.execute("UPDATE files SET stamp=?, missing=NULL WHERE path=?", (stamp, path))

    def second_look(self, row: Row | Trace) -> bool:
        """Whether what we see was so some time ago as well; else remember that it is so now."""
        now = self.now_ms()
        if row.missing is None or now < row.missing:  # never before, or the clock was set back since: wait anew
            self.store.execute("UPDATE files SET missing=? WHERE path=?", (now, row.path))
            return False
        return now - row.missing >= SECOND_LOOK

    def forget(self, path: str) -> None:
        with self.clone.transaction():
            self.store.execute("DELETE FROM files WHERE path=?", (path,))
            self.holds.release(path)

    # --- what a file shows of its document

    def last_change(self, document: Document) -> int:
        return (
            self.store.value("SELECT max(changed) FROM documents WHERE n IN (?,?)", (document.shared, document.private))
            or 0
        )

    def content(self, document: Document) -> tuple[str, bytes]:
        """A document's canonical text and the entry ids of its blocks, as `parse` will find them in it."""
        if document.policy == "text":
            return self.clone.documents.text(document), b""
        entries = self.clone.documents.entries(document)
        rendered = render(spaced((entry.block for entry in entries), document.policy))
        text = filetext.canonical(rendered)  # a block without words, which no file has, stands for nothing
        if text == rendered and document.policy != "latest" and stand_alone(entry.text for entry in entries):
            return text, b"".join(entry.id for entry in entries)
        blocks = parse(text, document.policy)
        if [b.text for b in blocks] == [e.text for e in entries]:
            return text, b"".join(entry.id for entry in entries)
        return text, self.ids_for(text, document.policy, document)

    def whole(self, document: Document) -> tuple[str, bytes]:
        """As `content`, with the versions that wait behind the shown one: another policy knows no versions."""
        versions = self.clone.documents.versions(document) if document.policy == "latest" else []
        if len(versions) < 2:
            return self.content(document)
        text = filetext.canonical("\n\n".join(entry.text for entry in reversed(versions)))
        return text, self.ids_for(text, document.policy, document)

    def ids_for(self, canonical: str, policy: str, document: Document) -> bytes:
        """Which entries the blocks of a file are, when the document holds others beside them."""
        if policy == "text":
            return b""
        entries = self.clone.documents.versions(document)
        groups = intake.grouped(sorted(entries, key=lambda entry: entry.key, reverse=True))
        ids = []
        for block in parse(canonical, policy):
            twins = groups.get((block.role, block.text))
            ids.append(twins.pop().id if twins else intake.UNKNOWN)
        return b"".join(ids)


def canonical_text(data: bytes, policy: str) -> str:
    """The canonical text of what a file holds."""
    text = filetext.decode(data).text
    return text if policy == "text" else filetext.canonical(text)
