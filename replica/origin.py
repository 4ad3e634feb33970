"""Where a harvested entry came from: the line that says so, what is written for an entry, and how it is found again.

Pure, and a function of the entry alone: whoever harvests it, and when, the same text comes out. So two clones that
harvest one entry write one thing, and where they could not (docs/harvest.md), both carry its name.
"""

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from replica import clock
from replica.blocks import ENTRY, Block, block_id, parse

SHORT = 6  # bytes of an entry's id that name it in a document: 12 hex digits
# A copy is recognised by its name, which is a hash of it: bounded, since any member can write what is searched.
OCCURRENCES = 4  # equal entries that one buffer has had
LONGEST = 20_000  # characters of an entry
MOST_LINES = 400  # of an entry
SLUG = 60  # bytes

MARK = "*— "  # how an origin begins

_LINE = re.compile(
    r"[ \t]*\*— (?P<author>[^\n]*), (?P<date>\d{4}-\d\d-\d\d)(?: (?P<clock>\d\d:\d\d:\d\d) UTC)?,"
    r" entr(?:y|ies) (?P<ids>[0-9a-f]{12}(?: [0-9a-f]{12})*)\*[ \t]*"
)
_ITEM = re.compile(r"( {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+)(?=[^ \t\n])")


class Origin(NamedTuple):
    """Who wrote it, when (in UTC), and the first 12 hex digits of the ids of the entries. `clock`: "" in blocks."""

    author: str
    date: str
    clock: str
    ids: tuple[str, ...]

    @property
    def line(self) -> str:
        when = f"{self.date} {self.clock} UTC" if self.clock else self.date
        return f"{MARK}{self.author}, {when}, {'entry' if len(self.ids) == 1 else 'entries'} {' '.join(self.ids)}*"

    @property
    def order(self) -> tuple:
        """By time, then by what cannot tie."""
        return (self.date, self.clock, self.ids)


def origin_of(author: str, time: int, ids: Iterable[bytes], *, exact: bool) -> Origin:
    """`time`: hybrid logical. `exact`: with the time of day."""
    try:
        moment = datetime.fromtimestamp(clock.to_ms(time) / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a clock set to a year that no calendar has
        moment = datetime.fromtimestamp(0, UTC)
    day, hour = moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M:%S")
    return Origin(" ".join(author.split()), day.zfill(10), hour if exact else "", tuple(short(id) for id in ids))


def short(id: bytes) -> str:
    return id[:SHORT].hex()


def read_line(line: str) -> Origin | None:
    """The origin that a line says, if it is one."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    return Origin(found["author"], found["date"], found["clock"] or "", tuple(found["ids"].split(" ")))


def origins(text: str) -> list[Origin]:
    """All that a text says, from its top."""
    if MARK not in text:
        return []
    return [found for line in text.split("\n") if (found := read_line(line)) is not None]


# --- an entry with its origin, as one block


def signed(text: str, origin: Origin, policy: str) -> str | None:
    """An entry's text with its origin as the last line, one block of a document of this policy; None: it cannot be."""
    found = _ITEM.match(text)
    indent = " " * len(found[1].expandtabs(4)) if found else ""
    tries = [f"{text}\n{indent}{origin.line}", f"{text}\n  {origin.line}", f"{_bullet(text)}\n  {origin.line}"]
    return next((one for one in tries if _stands_alone(one, policy)), None)


def _bullet(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([f"- {first}", *(f"  {line}" if line.strip() else line for line in rest)])


def _stands_alone(text: str, policy: str) -> bool:
    """Whether it is one block wherever it comes to stand, so that what is behind it stays another."""
    found = parse(f"- before\n\n{text}\n\n- after\n", "union" if policy == "text" else policy)
    return [block.text for block in found] == ["- before", text, "- after"]


def unsigned(lines: list[str], ids: tuple[str, ...]) -> bool:
    """Whether these lines, which stand above an origin, are its entry word for word: its name is made of them."""
    if len(ids) != 1 or not lines:
        return False
    whole = "\n".join(lines)
    if len(whole) > LONGEST:
        return False
    tries = [whole]
    if lines[0].startswith("- "):
        tries.append("\n".join([lines[0][2:], *(line.removeprefix("  ") for line in lines[1:])]))
    return any(
        block_id(ENTRY, one, occurrence)[:SHORT].hex() == ids[0]
        for one in tries
        for occurrence in range(1, OCCURRENCES + 1)
    )


# --- the same entry twice


class Span(NamedTuple):
    """An origin in a text, by lines: `start` to `end` (behind the origin). Of an edited entry the start is unknown."""

    origin: Origin
    start: int | None
    end: int


def twice_in_text(text: str) -> list[tuple[int, int]]:
    """The characters to take out so that each entry stands there once: (start, end), ascending.

    What a person has edited stays; of the others the first. The same text gives the same answer everywhere.
    """
    lines = text.split("\n")
    marks = [(at, found) for at, line in enumerate(lines) if (found := read_line(line)) is not None]
    by_ids: dict[tuple[str, ...], list[int]] = {}
    for number, (_, origin) in enumerate(marks):
        by_ids.setdefault(origin.ids, []).append(number)
    gone: list[tuple[int, int]] = []
    for ids, numbers in by_ids.items():
        if len(numbers) > 1:
            found = [_span(lines, marks, number, ids) for number in numbers]
            edited = any(span.start is None for span in found)
            whole = [span for span in found if span.start is not None]
            gone += [(span.start, span.end) for span in whole[0 if edited else 1 :]]
    offsets = [0]
    for line in lines:
        offsets.append(offsets[-1] + len(line) + 1)
    return [(offsets[start], min(offsets[end], len(text))) for start, end in sorted(gone)]


def _span(lines: list[str], marks: list[tuple[int, Origin]], number: int, ids: tuple[str, ...]) -> Span:
    at, origin = marks[number]
    first = marks[number - 1][0] + 1 if number else 0
    for start in range(at - 1, max(first, at - MOST_LINES) - 1, -1):
        if lines[start].strip() and unsigned(lines[start:at], ids):
            blank = start > 0 and not lines[start - 1].strip()  # the line that parts it from what is above goes too
            return Span(origin, start - blank, at + 1)
    return Span(origin, None, at + 1)


def twice_in_blocks(blocks: list[Block]) -> list[int]:
    """Which of these blocks are entries that stand there already: of one entry what a person edited stays, or else
    that which sorts first. The answer does not hang on their order."""
    by_ids: dict[tuple[str, ...], list[tuple[tuple, int]]] = {}
    for at, block in enumerate(blocks):
        origin = read_line(block.text.rpartition("\n")[2]) if block.role == ENTRY else None
        if origin is not None:
            by_ids.setdefault(origin.ids, []).append(((origin.order, block.text), at))
    gone = []
    for ids, twins in by_ids.items():
        if len(twins) > 1:
            whole = sorted(twin for twin in twins if unsigned(twin[0][1].split("\n")[:-1], ids))
            gone += [at for _, at in whole[0 if len(whole) < len(twins) else 1 :]]
    return sorted(gone)


# --- an entry as a file


def plain(text: str) -> str:
    """An entry without its bullet, its further lines moved out as far."""
    found = _ITEM.match(text)
    if found is None:
        return text
    width = len(found[1].expandtabs(4))
    first, *rest = text[len(found[1]) :].split("\n")
    return "\n".join([first, *(_moved_out(line, width) for line in rest)])


def _moved_out(line: str, width: int) -> str:
    blank = len(line) - len(line.lstrip(" "))
    return line[min(width, blank) :]


def title_of(text: str, most: int = 80) -> str:
    """The first line of a text, as a title: without the marks of headings and emphasis, cut between words."""
    first = next((line for line in text.split("\n") if line.strip(" \t`~#>")), "").strip(" \t#>")
    first = re.sub(r"(\*\*|__|`)", "", first).strip()
    if len(first) <= most:
        return first or "Untitled"
    cut = first[: most - 1]
    return (cut.rpartition(" ")[0] if " " in cut[most // 2 :] else cut).rstrip(" ,;:.") + "…"


def slug(title: str) -> str:
    """A part of a file's name, of letters and digits with "-" between them. Never empty."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", title).lower())
    words = "-".join(re.findall(r"[^\W_]+", folded))
    while len(words.encode()) > SLUG:
        words = words.rpartition("-")[0] if "-" in words else words[:-1]
    return words or "entry"
