"""Two versions side by side, for a terminal: pure text in, lines out.

Lines that are equal stand once on either side; long equal parts are left out. Of lines that differ, the words that
differ are marked, by weight as well as by colour.
"""

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest

from cli.common import harmless

BETWEEN = " │ "
NARROWEST = 24  # columns of one side; on a narrower terminal the versions stand below each other
CONTEXT = 2  # equal lines that are shown on either side of a difference
MOST_COMPARED = 2_000  # words of a pair of lines; longer ones are marked whole

LEFT, RIGHT, FAINT, STRONG, PLAIN = "\x1b[1;31m", "\x1b[1;32m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
_WORD = re.compile(r"\w+|\s+|.", re.DOTALL)

Piece = tuple[str, bool]  # text, whether it differs


def compared(left: tuple[str, str], right: tuple[str, str], width: int) -> Iterator[str]:
    """Lines of at most `width` columns that show two versions, each given as (title, text)."""
    side = (width - len(BETWEEN)) // 2
    if side < NARROWEST:
        yield from _below(left, right, width)
        return
    heads = [list(_wrapped([(harmless(title), False)], side, "")) for title, _ in (left, right)]
    for one, other in zip_longest(*heads, fillvalue=("", 0)):
        yield _row(one, other, side, STRONG)
    for one, other in rows(left[1], right[1]):
        if one is None or other is None or one != other or any(differs for _, differs in one):
            ones = [("", 0)] if one is None else list(_wrapped(one, side, LEFT))
            others = [("", 0)] if other is None else list(_wrapped(other, side, RIGHT))
        else:
            ones = others = list(_wrapped(one, side, ""))
        for a, b in zip_longest(ones, others, fillvalue=("", 0)):
            yield _row(a, b, side)


def _below(left: tuple[str, str], right: tuple[str, str], width: int) -> Iterator[str]:
    sides = list(rows(left[1], right[1]))
    for title, at, colour in ((left[0], 0, LEFT), (right[0], 1, RIGHT)):
        for line, _ in _wrapped([(harmless(title), False)], width, ""):
            yield f"{STRONG}{line}{PLAIN}"
        for row in sides:
            if row[at] is not None:
                yield from (line for line, _ in _wrapped(row[at], width, colour))


def _row(one: tuple[str, int], other: tuple[str, int], side: int, style: str = "") -> str:
    """`one`, `other`: a line and the columns that it takes."""
    end = PLAIN if style else ""
    return f"{style}{one[0]}{end}{' ' * (side - one[1])}{FAINT}{BETWEEN}{PLAIN}{style}{other[0]}{end}".rstrip()


# --- what differs


def rows(left: str, right: str) -> Iterator[tuple[list[Piece] | None, list[Piece] | None]]:
    """The lines of both, those that belong together side by side; None: the other side has no such line."""
    a, b = (harmless(text).expandtabs(4).rstrip("\n").split("\n") if text else [] for text in (left, right))
    parts = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    for at, (what, i, i_end, j, j_end) in enumerate(parts):
        if what == "equal":
            first, last = at == 0, at == len(parts) - 1
            yield from ((row, row) for row in _shortened(a[i:i_end], first, last))
            continue
        for one, other in zip_longest(a[i:i_end], b[j:j_end]):
            if one is None or other is None:
                yield (None, [(other, True)]) if one is None else ([(one, True)], None)
            else:
                yield marked(one, other)


def _shortened(lines: list[str], first: bool, last: bool) -> Iterator[list[Piece]]:
    """Equal lines: those beside a difference, and how many are left out."""
    head, tail = 0 if first else CONTEXT, 0 if last else CONTEXT
    if len(lines) <= head + tail + 1:
        shown = [*lines]
    else:
        left_out = len(lines) - head - tail
        shown = [*lines[:head], f"… {left_out} equal lines …", *lines[len(lines) - tail :]]
    yield from ([(line, False)] for line in shown)


def marked(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Two lines in pieces, word by word; True: the other line has no such piece there."""
    a, b = _WORD.findall(one), _WORD.findall(other)
    if max(len(a), len(b)) > MOST_COMPARED:
        return [(one, True)], [(other, True)]
    mine: list[Piece] = []
    theirs: list[Piece] = []
    for what, i, i_end, j, j_end in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for pieces, words in ((mine, a[i:i_end]), (theirs, b[j:j_end])):
            if words:
                pieces.append(("".join(words), what != "equal"))
    return mine, theirs


# --- columns


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: letters of East Asia take two, marks above letters none."""
    if text.isascii():
        return len(text)
    return sum(_columns_of(char) for char in text)


def _columns_of(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _wrapped(pieces: list[Piece], width: int, colour: str) -> Iterator[tuple[str, int]]:
    """Lines of at most `width` columns, broken between words where that is possible; each with its columns."""
    line, used, on = "", 0, False
    for text, differs in pieces:
        for word in _fitting(text, width):
            wide = columns(word)
            if used + wide > width and used:
                yield (line + PLAIN if on else line), used
                line, used, on = "", 0, False
                if word.isspace():
                    continue
            if colour and differs != on:
                line, on = line + (colour if differs else PLAIN), differs
            line, used = line + word, used + wide
    yield (line + PLAIN if on else line), used


def _fitting(text: str, width: int) -> Iterator[str]:
    """The words of a text, those that are wider than a line in parts."""
    for word in re.findall(r"\s+|\S+", text):
        part, used = "", 0
        for char in word:
            wide = _columns_of(char)
            if used + wide > width:
                yield part
                part, used = "", 0
            part, used = part + char, used + wide
        yield part
