"""Finding entries by words, over all documents of a clone."""

from collections.abc import Iterator
from typing import NamedTuple

from replica.clone import Clone
from replica.documents import Document


class Hit(NamedTuple):
    """An entry, or a line of a text, that holds all the words. `id` is None for a line; `time` is hybrid logical."""

    document: str
    id: bytes | None
    line: int | None
    text: str
    author: bytes
    time: int
    private: bool


def search(clone: Clone, words: list[str]) -> list[Hit]:
    """What holds every word, whatever its case, the newest first. A word may be part of a longer one, or a phrase."""
    wanted = [word.casefold() for word in words if word.strip()]
    if not wanted:
        return []
    clone.log.refresh()
    hits = [*_entries(clone, wanted)]
    for document in clone.documents.all():
        if document.policy == "text":
            hits += _lines(clone, document, wanted)
    return sorted(hits, key=lambda hit: (-hit.time, hit.document, hit.line or 0, hit.id or b""))


def _holds(text: str, wanted: list[str]) -> bool:
    folded = text.casefold()
    return all(word in folded for word in wanted)


def _entries(clone: Clone, wanted: list[str]) -> Iterator[Hit]:
    """Read from the table itself: no order and no conflicts are needed here."""
    rows = clone.store.rows(
        "SELECT path, id, text, author, min(time), min(d.private) FROM adds JOIN documents d ON d.n=doc"
        " WHERE dead=0 AND role='entry' AND EXISTS(SELECT 1 FROM alive WHERE alive.doc=d.n) GROUP BY path, id"
    )
    for path, id, text, author, time, private in rows:
        if _holds(text, wanted):
            yield Hit(path, id, None, text, clone.log.author_n(author).id, time, bool(private))


def _lines(clone: Clone, document: Document, wanted: list[str]) -> Iterator[Hit]:
    doc = document.shared if document.shared is not None else document.private
    time, author = clone.store.row("SELECT changed_at, changed_by FROM documents WHERE n=?", (doc,))
    for number, line in enumerate(clone.documents.text(document).split("\n"), 1):
        if _holds(line, wanted):
            yield Hit(
                document.path, None, number, line, clone.log.author_n(author).id, time, document.shared is None
            )  # fmt: skip
