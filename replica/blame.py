"""Who wrote what stands in a document, and when: by line or by entry.

Of a text the log knows of each character who inserted it. Of a document that is replaced as a whole, each version is
compared with the one that it took the place of. Of entries, each names its author. Of what is folded
(docs/compaction.md), entries have both still; of a text the author is known where the id that he writes under is his,
and of the time only that it was before the folding.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import islice
from typing import NamedTuple

from replica import changes, yjs
from replica.blocks import ENTRY, spaced
from replica.changes import Dot, Kind
from replica.clone import Clone
from replica.documents import Document, Entry
from replica.errors import CorruptUpdate, DamagedRecord, InvalidChange
from replica.materialise import update_of
from replica.text import client_id


class Origin(NamedTuple):
    """Who wrote something, and when (hybrid time). `author` None: not known. `before`: only that it was not later."""

    author: bytes | None
    time: int
    before: bool = False


class Blamed(NamedTuple):
    """A line, or an entry with all of its lines. `line`: of the first one, from 1; 0 where an entry is in no file.

    `others`: who else wrote part of it, the one with most of it first.
    """

    line: int
    text: str
    origin: Origin
    others: tuple[bytes, ...] = ()
    id: bytes | None = None


def blame(clone: Clone, document: Document) -> list[Blamed]:
    """By line for a text and for a document of which the newest version counts; else by entry.

    Raises DamagedRecord: what the store holds of it cannot be read.
    """
    if document.policy == "text":
        return _text(clone, document)
    if document.policy == "latest":
        return [line for entry in clone.documents.entries(document) for line in _versions(clone, entry)]
    return list(_entries(clone, document))


# --- texts


def _text(clone: Clone, document: Document) -> list[Blamed]:
    doc = clone.documents.shown_text(document)
    if doc is None:
        return []
    try:
        runs = _Runs(clone, doc, document.path)
        blocks = clone.materialiser.engine(doc).blocks()
    except (CorruptUpdate, InvalidChange) as error:
        raise DamagedRecord(f"what the store holds of {document.path!r} is damaged: {error}") from None
    lines: list[Blamed] = []
    here: list[tuple[str, Origin]] = []  # the parts of the line that is being read
    for _, block in blocks:
        for text, origin in runs.of(block):
            *whole, rest = text.split("\n")
            for part in whole:
                # A line end counts where there is nothing else: it says who made an empty line.
                here.append((part, origin))
                lines.append(_line(len(lines) + 1, here))
                here = []
            if rest:
                here.append((rest, origin))
    return [*lines, _line(len(lines) + 1, here)] if here else lines


def _line(number: int, parts: list[tuple[str, Origin]]) -> Blamed:
    """A line is of whoever wrote to it last, as a person who looks for the last change expects."""
    written = [(text, origin) for text, origin in parts if text] or parts[-1:]
    last = max((origin for _, origin in written), key=lambda origin: (not origin.before, origin.time))
    share: Counter[bytes] = Counter()
    for text, origin in written:
        if origin.author is not None and origin.author != last.author:
            share[origin.author] += len(text)
    return Blamed(number, "".join(text for text, _ in parts), last, tuple(who for who, _ in share.most_common()))


class _Runs:
    """By which changes the characters of a text came: client -> (first clock, end, origin), ascending."""

    def __init__(self, clone: Clone, doc: int, path: str):
        self._runs: dict[int, list[tuple[int, int, Origin]]] = defaultdict(list)
        for author, time, kind, body in clone.store.rows(
            "SELECT author, time, kind, body FROM changes WHERE doc=? AND kind IN (?,?) ORDER BY n",
            (doc, Kind.TEXT, Kind.IMPORT),
        ):
            origin = Origin(clone.log.author_n(author).id, time)
            for insert in update_of(kind, body).inserts:
                self._note(insert, origin, kind == Kind.IMPORT)
        for runs in self._runs.values():
            runs.sort(key=lambda run: run[:2])
        folded = clone.store.value("SELECT time FROM baselines WHERE doc=?", (doc,), 0)
        clients = {client_id(author.id, path): author.id for author in clone.log.authors()}
        self._folded = lambda client: Origin(clients.get(client), folded, True)

    def _note(self, insert: yjs.Insert, origin: Origin, imported: bool) -> None:
        """Several may have imported the same file, which is one text then: it is of the earliest."""
        runs = self._runs[insert.client]
        if imported and runs:
            origin = min(runs.pop()[2], origin, key=lambda one: (one.time, one.author))
        runs.append((insert.clock, insert.clock + insert.length, origin))

    def of(self, block: yjs.Insert) -> Iterator[tuple[str, Origin]]:
        """The parts of a block, each with its origin. Clocks count UTF-16 code units."""
        units, at, end = block.text.encode("utf-16-le"), block.clock, block.clock + block.length

        def part(start: int, stop: int) -> str:
            return units[2 * (start - block.clock) : 2 * (stop - block.clock)].decode("utf-16-le", "replace")

        runs = self._runs.get(block.client, [])
        nearest = max(0, bisect_right(runs, at, key=lambda run: run[0]) - 1)
        for first, last, origin in islice(runs, nearest, None):
            if first >= end:
                break
            if last <= at:
                continue
            if first > at:
                yield part(at, first), self._folded(block.client)
            start, at = max(at, first), min(last, end)
            yield part(start, at), origin
        if at < end:
            yield part(at, end), self._folded(block.client)


# --- documents that are replaced as a whole


def _versions(clone: Clone, entry: Entry) -> list[Blamed]:
    """The lines of the newest version, each as old as the first version in an unbroken row that had it."""
    lines = entry.text.split("\n")
    origins: list[Origin | None] = [None] * len(lines)
    place = {at: at for at in range(len(lines))}  # of lines without an origin: where each is in the version looked at
    version: _Version | None = _version(clone, entry.dots[0])
    seen: set[Dot] = set()
    while version is not None and place:
        seen.add(version.dot)
        now = Origin(version.dot.author, version.time)
        befores = [older for dot in version.kills if dot not in seen and (older := _version(clone, dot)) is not None]
        older = max(befores, key=lambda one: one.time, default=None)
        kept = _kept(version.text, older.text) if older is not None else {}
        for line, at in list(place.items()):
            if at in kept:
                place[line] = kept[at]
            else:
                origins[line] = now._replace(before=version.folded)
                del place[line]
        version = older
    whole = Origin(entry.author, entry.time)
    return [
        Blamed(number, line, origin or whole, (), entry.id)
        for number, (line, origin) in enumerate(zip(lines, origins, strict=True), 1)
    ]


class _Version(NamedTuple):
    dot: Dot
    time: int
    text: str
    kills: tuple[Dot, ...]
    folded: bool  # what came before it is not known


def _version(clone: Clone, dot: Dot) -> _Version | None:
    """A version that was written, with those that it took the place of; None where nothing is kept of it."""
    author = clone.log.author(dot.author)
    if author is None:
        return None
    body = clone.store.value("SELECT body FROM changes WHERE author=? AND seq=?", (author.n, dot.seq))
    if body is not None:
        change = changes.decode(body)
        op = change.payload[dot.index]
        return _Version(dot, change.time, op.text, op.kills, False)
    row = clone.store.row(
        "SELECT time, text, dead FROM adds WHERE author=? AND seq=? AND idx=?", (author.n, dot.seq, dot.index)
    )
    return None if row is None or (row[2] and not row[1]) else _Version(dot, row[0], row[1], (), True)


def _kept(new: str, old: str) -> dict[int, int]:
    """Of the lines of `new` that were in `old`: where they were."""
    a, b = new.split("\n"), old.split("\n")
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return {i + k: j + k for i, j, size in blocks for k in range(size)}


# --- entries


def _entries(clone: Clone, document: Document) -> Iterator[Blamed]:
    entries = clone.documents.entries(document)
    number = 1
    for entry, block in zip(entries, spaced((one.block for one in entries), document.policy), strict=True):
        number += block.lead.count("\n")
        if entry.role == ENTRY:
            yield Blamed(number, entry.text, Origin(entry.author, entry.time), (), entry.id)
        number += entry.text.count("\n") + 1
