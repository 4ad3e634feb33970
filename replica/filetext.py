"""The bytes of a memory file, and the text in them that clones share.

Clones share lines that end in "\\n". What is the file's own stays with the file: its byte-order mark, the ending of
each line, a missing final newline, blank lines at the end. `decode` takes the text out; `patch` puts a new text back
and leaves the bytes of every line that nobody changed as they were.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

BOM = "\ufeff"
BLANK = " \t"  # a line of nothing else is blank; anything else, a form feed too, is content


@dataclass(frozen=True, slots=True)
class Style:
    """What a file's bytes have beyond its text. `eol` is the more frequent line ending, "\\n" where they are even."""

    bom: bool
    eol: str
    final_newline: bool


@dataclass(frozen=True, slots=True)
class FileText:
    """A decoded file: `text` has "\\n" line endings only and no byte-order mark."""

    text: str
    style: Style


def decode(data: bytes) -> FileText:
    """Take the text out of a file's bytes. CRLF becomes LF; a lone CR is content.

    Raises ValueError: not UTF-8; the message names the offset in bytes, from 0.
    """
    raw, bom = _unwrap(data)
    crlf = raw.count("\r\n")
    eol = "\r\n" if crlf > raw.count("\n") - crlf else "\n"
    return FileText(raw.replace("\r\n", "\n"), Style(bom, eol, raw.endswith("\n")))


def canonical(text: str) -> str:
    """`text` without the blank lines at its end, and with a final newline; "" if nothing else is in it."""
    lines = content_lines(text)
    return "\n".join(lines) + "\n" if lines else ""


def content_lines(text: str) -> list[str]:
    """The lines of `text` up to the last that is not blank, without their newlines."""
    lines = text.split("\n")
    while lines and is_blank(lines[-1]):
        lines.pop()
    return lines


def is_blank(line: str) -> bool:
    return not line.strip(BLANK)


def patch(old: bytes | None, old_canonical: str, new_canonical: str, *, exact: bool = False) -> bytes:
    """The file's new bytes: `new_canonical` where it differs, and `old` byte for byte where it does not.

    `old_canonical` is the canonical text of `old` (None: there is no file yet). New lines end like most lines of the
    file. With `exact` the texts are whole: the final newline and blank lines at the end are theirs, not the file's.

    Raises ValueError: `old` is not UTF-8, or holds another text than `old_canonical` (it was changed meanwhile).
    """
    if old is None:
        return _wrap(_joined(_with_endings([], _split(new_canonical, exact), "\n"), exact, new_canonical), bom=False)
    decoded = decode(old)
    if (decoded.text if exact else canonical(decoded.text)) != old_canonical:
        raise ValueError("the file does not hold the text that this change was made for")
    if old_canonical == new_canonical:
        return old
    raw, bom = _unwrap(old)
    had = _lines_with_endings(raw)
    body = had if exact else had[: len(_split(old_canonical, exact))]
    lines = _with_endings(body, _split(new_canonical, exact), decoded.style.eol)
    if exact:
        return _wrap(_joined(lines, exact, new_canonical), bom)
    tail = "".join(content + eol for content, eol in had[len(body) :])
    if lines and body and body[-1][1] == "":  # the file's last line had no newline, and the new last line has none
        lines[-1] = (lines[-1][0], "")
    return _wrap("".join(content + eol for content, eol in lines) + tail, bom)


def match(old: Sequence[Hashable], new: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pair every item of `old` with an equal one of `new` while there are any: (index in old, index in new), ascending.

    Items that stayed in place are paired with each other first; what was moved finds its twin afterwards. Linear time,
    apart from one sort, whatever the input.
    """
    start, pairs = _shared_ends(old, new, 0, len(old), 0, len(new))
    end_old, end_new = len(old) - (len(pairs) - start), len(new) - (len(pairs) - start)
    unique = _unique_pairs(old, new, start, end_old, end_new)
    from_old, from_new = start, start
    for i, j in [*ascending(unique), (end_old, end_new)]:
        pairs += _gap_pairs(old, new, from_old, i, from_new, j)
        if i < end_old:
            pairs.append((i, j))
        from_old, from_new = i + 1, j + 1
    paired_old, paired_new = {i for i, _ in pairs}, {j for _, j in pairs}
    left_old = [i for i in range(start, end_old) if i not in paired_old]
    left_new = [j for j in range(start, end_new) if j not in paired_new]
    return sorted(pairs + _twins(old, new, left_old, left_new))


def ascending(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest selection of `pairs` (ascending in the first number) that ascends in the second number as well."""
    tails: list[int] = []  # tails[k]: the smallest second number that a selection of k + 1 pairs can end in
    ends: list[int] = []  # the pair that ends it
    before: list[int] = []
    for index, (_, j) in enumerate(pairs):
        at = bisect_left(tails, j)
        before.append(ends[at - 1] if at else -1)
        tails[at : at + 1] = [j]
        ends[at : at + 1] = [index]
    chosen, index = [], ends[-1] if ends else -1
    while index >= 0:
        chosen.append(pairs[index])
        index = before[index]
    return chosen[::-1]


def _shared_ends(old, new, from_old, to_old, from_new, to_new) -> tuple[int, list[tuple[int, int]]]:
    """The equal items at the start and at the end of two ranges: how many at the start, and all the pairs."""
    most = min(to_old - from_old, to_new - from_new)
    head = 0
    while head < most and old[from_old + head] == new[from_new + head]:
        head += 1
    tail = 0
    while tail < most - head and old[to_old - tail - 1] == new[to_new - tail - 1]:
        tail += 1
    pairs = [(from_old + k, from_new + k) for k in range(head)]
    return head, pairs + [(to_old - k, to_new - k) for k in range(1, tail + 1)]


def _unique_pairs(old, new, start: int, end_old: int, end_new: int) -> list[tuple[int, int]]:
    """Pairs of items that stand exactly once in either range (the anchors of a patience diff)."""
    count_old, count_new = Counter(old[start:end_old]), Counter(new[start:end_new])
    place = {new[j]: j for j in range(start, end_new) if count_new[new[j]] == 1}
    return [(i, place[old[i]]) for i in range(start, end_old) if count_old[old[i]] == 1 and old[i] in place]


def _gap_pairs(old, new, from_old: int, to_old: int, from_new: int, to_new: int) -> list[tuple[int, int]]:
    """Pairs within one gap between anchors: first at both ends of it, then anywhere in it."""
    if from_old >= to_old or from_new >= to_new:
        return []
    head, pairs = _shared_ends(old, new, from_old, to_old, from_new, to_new)
    tail = len(pairs) - head
    inner_old, inner_new = range(from_old + head, to_old - tail), range(from_new + head, to_new - tail)
    return pairs + _twins(old, new, inner_old, inner_new)


def _twins(old, new, left_old, left_new) -> list[tuple[int, int]]:
    """The k-th of equal items here with the k-th of them there."""
    places = defaultdict(list)
    for j in reversed(left_new):
        places[new[j]].append(j)
    return [(i, places[old[i]].pop()) for i in left_old if places.get(old[i])]


def _unwrap(data: bytes) -> tuple[str, bool]:
    try:
        raw = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: byte {error.start} ({data[error.start]:#04x})") from None
    return (raw[1:], True) if raw.startswith(BOM) else (raw, False)


def _wrap(raw: str, bom: bool) -> bytes:
    # A text that itself begins with the mark would lose it when read again: such a file needs two.
    return ((BOM if bom or raw.startswith(BOM) else "") + raw).encode("utf-8")


def _split(text: str, exact: bool) -> list[str]:
    """The lines of a text. Only an exact one may lack its final newline."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines if exact else content_lines(text)


def _lines_with_endings(raw: str) -> list[tuple[str, str]]:
    """(content, ending) of each line; joined they are `raw` again."""
    *ended, last = raw.split("\n")
    lines = [(line[:-1], "\r\n") if line.endswith("\r") else (line, "\n") for line in ended]
    return [*lines, (last, "")] if last else lines


def _with_endings(had: list[tuple[str, str]], lines: list[str], eol: str) -> list[tuple[str, str]]:
    """Give each line the ending that it has in the file, and new lines the file's usual one."""
    # A line whose content ends in CR is read back right only if CRLF follows: "x\r" + "\n" would be the line "x".
    endings = ["\r\n" if line.endswith("\r") else eol for line in lines]
    if {ending for _, ending in had} - {eol, ""}:  # only a file of mixed endings needs to know which line is which
        for i, j in match([content for content, _ in had], lines):
            endings[j] = had[i][1] or endings[j]
    return list(zip(lines, endings, strict=True))


def _joined(lines: list[tuple[str, str]], exact: bool, text: str) -> str:
    if exact and lines and not text.endswith("\n"):
        lines[-1] = (lines[-1][0], "")
    return "".join(content + eol for content, eol in lines)
