"""Where in a text two clones changed the same place, and how each of them had it.

A region conflict is a set of concurrent changes (replica/materialise.py marks the pairs): edits, and reviews that left
the text as it was while another clone decided otherwise. Its versions are the
merged lines as they stand now, and the same lines as each side had them, replayed from the log.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from replica import yjs
from replica.changes import Kind, decode
from replica.errors import CorruptUpdate
from replica.materialise import apply_text, update_of

if TYPE_CHECKING:
    from replica.documents import Conflict, Document, Documents


def region_versions(documents: "Documents", document: "Document", changes: list[tuple[int, int]]) -> tuple:
    """The merged lines as version `merged`, then `v1`, `v2`, … one for each author among `changes`."""
    from replica.documents import Version

    items, log = _items(documents, changes), documents.log
    last = {author: seq for author, seq in sorted(changes)}
    engine = documents.materialiser.engine(document.shared)
    newest = max(_time(documents, author, seq) for author, seq in last.items())
    start, end, merged = _lines(engine, items)
    borders = _Borders(engine, start, end)
    versions: list[Version] = [Version("merged", merged, b"", newest)]
    for at, (author, seq) in enumerate(sorted(last.items(), key=lambda one: log.author_n(one[0]).id), 1):
        try:
            side = _as_seen(documents, document.shared, author, seq)
        except CorruptUpdate:
            # Its author built on changes that it does not own to: how it had the text cannot be known.
            side = engine
        versions.append(Version(f"v{at}", borders.cut(side), log.author_n(author).id, _time(documents, author, seq)))
    return tuple(versions)


def region_span(documents: "Documents", document: "Document", pairs) -> tuple[int, int]:
    """Where the merged lines of a conflict stand in the current text, in code points."""
    changes = {pair[:2] for pair in pairs} | {pair[2:] for pair in pairs}
    return _lines(documents.materialiser.engine(document.shared), _items(documents, changes))[:2]


def chosen_twice(documents: "Documents", document: "Document", conflict: "Conflict") -> list[tuple[int, int]]:
    """What to take out of the text, in code points and ascending, where each side has settled this region with the
    same words, so that they stand there more than once. The words of the first side stay: they are the same everywhere,
    and what two clones take out at the same time they take out once.

    Empty: it is something else, which a person has to look at.
    """
    merged, *sides = conflict.versions
    if len({side.text for side in sides}) != 1 or merged.text == sides[0].text:
        return []
    last = dict(sorted(change for pair in conflict.pairs for change in (pair[:2], pair[2:])))
    if not all(_is_decision(documents, document.shared, *change) for change in last.items()):
        return []
    first = min(last, key=lambda author: documents.log.author_n(author).id)
    try:
        side = _as_seen(documents, document.shared, first, last[first])
    except CorruptUpdate:
        return []
    engine = documents.materialiser.engine(document.shared)
    start, end = region_span(documents, document, conflict.pairs)
    stays = [side.shows(client, clock) for client, clock in _characters(engine, start, end)]
    if "".join(char for char, is_kept in zip(engine.text[start:end], stays, strict=True) if is_kept) != sides[0].text:
        return []
    return [
        (start + run[0], start + run[-1] + 1)
        for is_kept, group in itertools.groupby(range(len(stays)), stays.__getitem__)
        if not is_kept and (run := list(group))
    ]


def _is_decision(documents: "Documents", doc: int, author: int, seq: int) -> bool:
    """Whether an edit was made in settling a conflict: its author's next change says that the region was looked at."""
    asked = "SELECT kind FROM changes WHERE author=? AND seq=? AND doc=?"
    return Kind.REVIEW in (documents.store.value(asked, (author, at, doc)) for at in (seq, seq + 1))


def _characters(engine, start: int, end: int) -> Iterator[yjs.Id]:
    """The items of the characters from `start` to `end`."""
    for at, block in engine.blocks():
        clock = block.clock
        for place, char in enumerate(block.text, at):
            if start <= place < end:
                yield block.client, clock
            clock += _units(char)


def _items(documents: "Documents", changes: Iterable[tuple[int, int]]) -> list[yjs.Range]:
    """The items that these changes touched; of a review, those of the changes that it was about."""
    items: list[yjs.Range] = []
    waiting, seen = list(changes), set()
    while waiting:
        change = waiting.pop()
        row = documents.store.row("SELECT kind, body FROM changes WHERE author=? AND seq=?", change)
        if change in seen or row is None:  # what was settled before may be folded
            continue
        seen.add(change)
        kind, body = row
        if kind in (Kind.TEXT, Kind.IMPORT):
            items += yjs.touched(update_of(kind, body))
        elif kind == Kind.REVIEW:
            for one, one_seq, other, other_seq in decode(body).payload:
                named = [(documents.log.author(one), one_seq), (documents.log.author(other), other_seq)]
                waiting += [(author.n, seq) for author, seq in named if author is not None]
    return items


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


class _Borders:
    """The characters around a part of the merged text, by which the same part is found in how a side had it.

    What one side took away, and where it stood, does not say how much of the next line was meant.
    """

    def __init__(self, engine, start: int, end: int):
        self._before: list[yjs.Id] = []  # from the nearest on
        self._behind: list[yjs.Id] = []
        for at, block in engine.blocks():
            if at < start:
                self._before.append((block.client, block.clock + _units(block.text[: start - at]) - 1))
            if at + len(block.text) > end:
                self._behind.append((block.client, block.clock + _units(block.text[: max(0, end - at)])))
        self._before.reverse()

    def cut(self, side) -> str:
        text = side.text
        start, end = 0, len(text)
        for id in self._before:
            if (place := side.locate(*id)) is not None:
                start = place + side.shows(*id)
                break
        for id in self._behind:
            if (place := side.locate(*id)) is not None:
                end = place
                break
        return text[start:end]


def _units(text: str) -> int:
    """Clocks count UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


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
