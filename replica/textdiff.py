"""Find what changed between two texts, and carry such changes over to a text that moved on.

An operation is `(start, end, replacement)`: code points `start` to `end` of the old text become
`replacement`. Operations come ascending and disjoint. Whole lines first, then words inside changed
lines: a diff by characters turns rewritten prose into shards that merge into letter salad.

Pure functions, with a bound on their time: where the exact answer costs too much, a larger piece is
replaced whole, which is always correct.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

Op = tuple[int, int, str]
Match = tuple[int, int, int]  # a[i : i + n] == b[j : j + n]

MAX_OPS = 2_000  # more word operations than this, and whole lines are replaced instead
SMALL = 20_000  # equal pairs of tokens up to which all is left to difflib
STEPS = 1_000_000  # of tokens times runs, likewise
BUDGET = 1_000_000  # equal pairs of tokens that one diff may look at, at roughly 50 to 500 ns each

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"  # scripts without spaces: each character is a word
_WORD = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]")
_TOKEN = re.compile(rf"{_WORD.pattern}|\s+|[\w\W]")


def diff(old: str, new: str) -> list[Op]:
    """The operations that make `old` into `new`."""
    if old == new:
        return []
    head, tail = _common_lines(old, new)
    budget = _Budget(BUDGET)
    hunks = _hunks(_LINE.findall(old[head : len(old) - tail]), _LINE.findall(new[head : len(new) - tail]), budget)
    words = [op for hunk in hunks for op in _refine(hunk, budget)]
    ops = words if len(words) <= MAX_OPS else [(start, start + len(gone), text) for start, gone, text in hunks]
    return [_trim(start, old[start + head : end + head], text, head) for start, end, text in ops]


def apply_ops(text: str, ops: Sequence[Op]) -> str:
    """`text` after `ops`. Raises ValueError: not ascending, not disjoint, or outside of the text."""
    check_ops(text, ops)
    parts, at = [], 0
    for start, end, replacement in ops:
        parts += text[at:start], replacement
        at = end
    return "".join([*parts, text[at:]])


def check_ops(text: str, ops: Sequence[Op]) -> None:
    """Raises ValueError: an operation is out of order, overlaps the one before, or leaves the text."""
    at = 0
    for start, end, _ in ops:
        if not at <= start <= end <= len(text):
            raise ValueError(f"operation {start}:{end} is out of order or outside of 0:{len(text)}")
        at = end


def rebase(ops: Sequence[Op], base: str, current: str) -> list[Op]:
    """The operations on `current` that do what `ops` did to `base`, while others made `base` into `current`.

    As in the CRDT: only what is still there is deleted, and every replacement is kept, at the place
    that has become of its own. Text of others that stands at the same place comes first.
    """
    check_ops(base, ops)
    kept = _kept(diff(base, current), len(base))
    return [moved for op in ops for moved in _moved(op, kept)]


def merge_additive(theirs: str, mine: str) -> str:
    """One text with every line of both, for two that have no common past.

    Lines that match stand once; where the texts differ, their lines come before mine.
    """
    a, b = _bare_lines(theirs), _bare_lines(mine)
    lines: list[str] = []
    i = j = 0
    for at, bt, n in _matches(a, b, _Budget(BUDGET)):
        lines += a[i:at] + b[j:bt] + a[at : at + n]
        i, j = at + n, bt + n
    lines += a[i:] + b[j:]
    end = "\n" if theirs.endswith("\n") or mine.endswith("\n") else ""
    return "\n".join(lines) + end


# --- from lines to words


def _common_lines(old: str, new: str) -> tuple[int, int]:
    """Lengths of the beginning and of the end that both texts share, in whole lines."""
    head = _common_prefix(old, new)
    head = old.rfind("\n", 0, head) + 1
    a, b = old[head:], new[head:]
    tail = _common_prefix(a[::-1], b[::-1])
    # Only what is behind a line end in both texts: the rest may be part of a changed line.
    newline = a.find("\n", len(a) - tail)
    return head, len(a) - newline - 1 if newline >= 0 else 0


def _common_prefix(a: str, b: str) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


Hunk = tuple[int, str, str]  # where it begins in the old text, what stood there, what stands there now


def _hunks(a: list[str], b: list[str], budget: "_Budget") -> list[Hunk]:
    """The changed runs between two lists of tokens; the position counts code points."""
    hunks: list[Hunk] = []
    i = j = at = 0
    for i2, j2, n in [*_matches(a, b, budget), (len(a), len(b), 0)]:
        gone, come = "".join(a[i:i2]), "".join(b[j:j2])
        if gone or come:
            hunks.append((at, gone, come))
        at += len(gone) + sum(map(len, a[i2 : i2 + n]))
        i, j = i2 + n, j2 + n
    return hunks


def _refine(hunk: Hunk, budget: "_Budget") -> list[Op]:
    """The operations inside one changed run of lines, word by word unless too little of it is left."""
    at, gone, come = hunk
    whole = [(at, at + len(gone), come)]
    if not gone or not come:
        return whole
    hunks = _hunks(_TOKEN.findall(gone), _TOKEN.findall(come), budget)
    words = _words(gone)
    if (words - sum(_words(part) for _, part, _ in hunks)) * 3 < words:
        return whole
    return [(at + start, at + start + len(part), text) for start, part, text in _joined(hunks, gone)]


def _words(text: str) -> int:
    return len(_WORD.findall(text))


def _joined(hunks: list[Hunk], text: str) -> list[Hunk]:
    """Changes with a single space between them made one, so that a changed phrase stays together."""
    joined: list[Hunk] = []
    for start, gone, come in hunks:
        if joined:
            first, before, instead = joined[-1]
            between = text[first + len(before) : start]
            if between == " ":
                joined[-1] = (first, before + between + gone, instead + between + come)
                continue
        joined.append((start, gone, come))
    return joined


def _trim(start: int, gone: str, come: str, offset: int) -> Op:
    """The operation without what it would delete and write again, if then only one of the two is left.

    A word that only grew or shrank keeps its letters; one that was changed inside is replaced whole.
    """
    short = min(len(gone), len(come))
    head = _common_prefix(gone, come)
    tail = min(_common_prefix(gone[::-1], come[::-1]), short - head)
    if head + tail < short:
        head = tail = 0
    start += offset
    return start + head, start + len(gone) - tail, come[head : len(come) - tail]


# --- matching


class _Budget:
    """How many pairs of equal tokens may still be compared; what does not fit is not compared at all."""

    def __init__(self, pairs: int):
        self.left = pairs

    def spend(self, pairs: int) -> bool:
        if pairs > self.left:
            return False
        self.left -= pairs
        return True


def _matches(a: list[str], b: list[str], budget: _Budget) -> list[Match]:
    """Runs that two lists of tokens share, ascending in both. Not all, if that would cost too much."""
    pairs = _pairs(a, b)
    if pairs <= SMALL and _steps(a, b, pairs) <= STEPS:
        return _exact(a, b, budget)
    matches: list[Match] = []
    for (i, j), (i2, j2) in pairwise([(-1, -1), *_anchors(a, b), (len(a), len(b))]):
        for x, y, n in _exact(a[i + 1 : i2], b[j + 1 : j2], budget):
            matches.append((i + 1 + x, j + 1 + y, n))
        if i2 < len(a):
            matches.append((i2, j2, 1))
    return matches


def _exact(a: list[str], b: list[str], budget: _Budget) -> list[Match]:
    if not a or not b:
        return []
    pairs = _pairs(a, b)
    if not budget.spend(max(pairs, _steps(a, b, pairs) // 4)):
        return []
    # autojunk=False: it drops frequent tokens, and with them half of the matches.
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    return [(match.a, match.b, match.size) for match in blocks if match.size]


def _pairs(a: list[str], b: list[str]) -> int:
    """What difflib's time grows with: how many pairs of a token of `a` and one of `b` are equal."""
    counts = Counter(b)
    return sum(counts[token] for token in a)


def _steps(a: list[str], b: list[str], pairs: int) -> int:
    """What its time grows with as well: it goes through what is left of `a` once for every run that it finds."""
    return len(a) * min(pairs, len(a), len(b))


def _anchors(a: list[str], b: list[str]) -> list[tuple[int, int]]:
    """The longest ascending run of tokens that are unique in both (patience diff, by Bram Cohen)."""
    in_a, in_b = Counter(a), Counter(b)
    place = {token: j for j, token in enumerate(b) if in_b[token] == 1}
    candidates = [(i, place[token]) for i, token in enumerate(a) if in_a[token] == 1 and token in place]
    ends: list[int] = []  # ends[k]: the smallest j that a run of k + 1 candidates can end with
    last: list[int] = []  # the candidate of ends[k]
    before: list[int] = []  # for each candidate, the one before it in its run
    for index, (_, j) in enumerate(candidates):
        length = bisect_left(ends, j)
        before.append(last[length - 1] if length else -1)
        if length == len(ends):
            ends.append(j)
            last.append(index)
        else:
            ends[length], last[length] = j, index
    run, index = [], last[-1] if last else -1
    while index >= 0:
        run.append(candidates[index])
        index = before[index]
    return run[::-1]


# --- rebasing

Kept = tuple[int, int, int]  # base[start:end] is still there, as current[start + shift : end + shift]


def _kept(changes: list[Op], length: int) -> list[Kept]:
    """What `changes` left of a text of that length: the run before each change, and the one after the last."""
    kept: list[Kept] = []
    at = shift = 0
    for start, end, replacement in changes:
        kept.append((at, start, shift))
        at = end
        shift += len(replacement) - (end - start)
    return [*kept, (at, length, shift)]


def _moved(op: Op, kept: list[Kept]) -> list[Op]:
    start, end, replacement = op
    survivors = [(a + shift, b + shift, b) for a, b, shift in _within(start, end, kept)]
    last_survives = survivors and survivors[-1][2] == end
    # Right behind the last character that it replaces, while that is there.
    at = survivors[-1][1] if last_survives else _place(end, kept)
    moved = [(a, b, "") for a, b, _ in survivors]
    if moved and moved[-1][1] == at:
        moved[-1] = (*moved[-1][:2], replacement)
    elif replacement:
        moved.append((at, at, replacement))
    return moved


def _within(start: int, end: int, kept: list[Kept]) -> Iterator[Kept]:
    """The parts of base[start:end] that were kept."""
    for index in range(_last_from(start, kept), len(kept)):
        a, b, shift = kept[index]
        if a >= end:
            return
        if max(a, start) < min(b, end):
            yield max(a, start), min(b, end), shift


def _place(at: int, kept: list[Kept]) -> int:
    """Where text belongs that was written at `at`: behind what others wrote there, or instead of it."""
    index = _last_from(at, kept)
    _, end, shift = kept[index]
    if at <= end:
        return at + shift
    start, _, shift = kept[index + 1]  # inside what others replaced
    return start + shift


def _last_from(at: int, kept: list[Kept]) -> int:
    """The index of the last kept run that begins at or before `at`."""
    return bisect_right(kept, at, key=lambda run: run[0]) - 1


def _bare_lines(text: str) -> list[str]:
    """Lines without their ends; a last line end begins no further line."""
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines
