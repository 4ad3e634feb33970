"""Where in a text two clones changed the same place, and how each of them had it.

A region conflict is a set of concurrent changes (replica/materialise.py marks the pairs). Its versions are the
merged lines as they stand now, and the same lines as each side had them, replayed from the log.
"""

from typing import TYPE_CHECKING

from replica import yjs
from replica.changes import Kind
from replica.errors import CorruptUpdate
from replica.materialise import apply_text, update_of

if TYPE_CHECKING:
    from replica.documents import Document, Documents


def region_versions(documents: "Documents", document: "Document", changes: list[tuple[int, int]]) -> tuple:
    """The merged lines as version `merged`, then `v1`, `v2`, … one for each author among `changes`."""
    from replica.documents import Version

    updates = {change: _update(documents, *change) for change in changes}
    items = [item for update in updates.values() for item in yjs.touched(update)]
    log = documents.log
    last = {author: seq for author, seq in sorted(changes)}
    engine = documents.materialiser.engine(document.shared)
    newest = max(_time(documents, author, seq) for author, seq in last.items())
    versions: list[Version] = [Version("merged", _lines(engine, items)[2], b"", newest)]
    for at, (author, seq) in enumerate(sorted(last.items(), key=lambda one: log.author_n(one[0]).id), 1):
        try:
            side = _as_seen(documents, document.shared, author, seq)
        except CorruptUpdate:
            # Its author built on changes that it does not own to: how it had the text cannot be known.
            side = engine
        versions.append(
            Version(f"v{at}", _lines(side, items)[2], log.author_n(author).id, _time(documents, author, seq))
        )
    return tuple(versions)


def region_span(documents: "Documents", document: "Document", pairs) -> tuple[int, int]:
    """Where the merged lines of a conflict stand in the current text, in code points."""
    changes = {pair[:2] for pair in pairs} | {pair[2:] for pair in pairs}
    items = [item for change in changes for item in yjs.touched(_update(documents, *change))]
    return _lines(documents.materialiser.engine(document.shared), items)[:2]


def _update(documents: "Documents", author: int, seq: int):
    kind, body = documents.store.row("SELECT kind, body FROM changes WHERE author=? AND seq=?", (author, seq))
    return update_of(Kind(kind), body)


def _time(documents: "Documents", author: int, seq: int) -> int:
    return documents.store.value("SELECT time FROM changes WHERE author=? AND seq=?", (author, seq))


def _as_seen(documents: "Documents", doc: int, author: int, seq: int):
    """The text as the author had it right after change `seq`."""
    side, log = documents.materialiser.folded_text(doc), documents.log
    seen: dict[int, int] = {author: seq}
    for stored in log.changes_of(doc):
        if stored.author.n not in seen:
            seen[stored.author.n] = log.past(author, seq, stored.author.n)
        if stored.change.seq <= seen[stored.author.n]:
            apply_text(side, stored)
    return side


def _lines(engine, items) -> tuple[int, int, str]:
    """The whole lines around these items: start, end, text."""
    text = engine.text
    places = [
        place
        for client, clock, length in items
        for place in (engine.locate(client, clock), engine.locate(client, clock + length - 1))
        if place is not None
    ]
    if not places:
        return 0, 0, ""
    start = text.rfind("\n", 0, min(places)) + 1
    end = text.find("\n", max(places))
    end = len(text) if end < 0 else end + 1
    return start, end, text[start:end]
