"""A markdown memory file as an ordered list of blocks, and back again without losing a byte of text.

How a file falls into blocks depends on its policy (docs/blocks.md has the rules with examples). What stands in a block,
and the blank lines before it, are kept as they are: rendering what was parsed gives the same text. Blocks are named by
their content, so the same file read anywhere has the same names; `order` places blocks from many clones alike
everywhere; `pair` says what a person's save did to the blocks that we wrote before.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from replica.filetext import BLANK, ascending, content_lines, is_blank, match

ENTRY, HEADING, PROSE = "entry", "heading", "prose"  # roles; heading and prose are structure

Span = tuple[str, int, int]  # role, first line, line after the last


@dataclass(frozen=True, slots=True)
class Block:
    """`text`: its exact lines joined by "\\n", no final newline. `lead`: the blank lines before, with their "\\n"."""

    role: str
    text: str
    lead: str


@dataclass(frozen=True, slots=True)
class Node:
    """Where a block wants to stand: behind `after` (None: at the start). Greater keys come first among equals."""

    id: bytes
    after: bytes | None
    key: tuple


@dataclass(frozen=True, slots=True)
class Edits:
    """What happened between two block lists, as indices into the old (i) and the new one (j), each index once."""

    kept: list[tuple[int, int]]
    replaced: list[tuple[int, int]]
    removed: list[int]
    added: list[int]


# --- text to blocks, and back


def parse(text: str, policy: str) -> list[Block]:
    """The blocks of `text` ("\\n" line endings only) under policy `latest`, `union` or `log`.

    Raises ValueError: the policy does not divide a file into blocks.
    """
    if policy not in _SPLITTERS:
        raise ValueError(f"policy {policy!r} does not divide a file into blocks")
    lines = content_lines(text)
    blocks, at = [], 0
    for role, start, end in _SPLITTERS[policy](lines):
        lead = "".join(line + "\n" for line in lines[at:start])
        blocks.append(Block(role, "\n".join(lines[start:end]), lead))
        at = end
    return blocks


def render(blocks: Iterable[Block]) -> str:
    """The text of `blocks`, in one final newline; "" if there are none. `render(parse(t, p)) == canonical(t)`."""
    return "".join(f"{block.lead}{block.text}\n" for block in blocks)


def spaced(blocks: Iterable[Block], policy: str) -> list[Block]:
    """The same blocks, with a blank line put before each that would else flow into the one before it.

    Blocks that met in a merge need this before `render`; blocks that `parse` found together come back as they are.
    """
    result: list[Block] = []
    for block in blocks:
        if result and not block.lead and policy == "union" and _flows_into(result, block):
            block = Block(block.role, block.text, "\n")
        result.append(block)
    return result


def stand_alone(texts: Iterable[str]) -> bool:
    """Whether `parse` is sure to find exactly these blocks again in their `render`, so that nobody need look.

    True only for headings and list items of one line each; False says nothing.
    """
    return all("\n" not in text and _NEVER_FLOWS.match(text) for text in texts)


def _flows_into(before: list[Block], block: Block) -> bool:
    if _NEVER_FLOWS.match(block.text):
        return False
    # Below a heading, so that "---" is read as what it is anywhere but on a file's first line.
    guard = "#\n" if len(before) > 1 or before[0].lead else ""
    found = parse(f"{guard}{before[-1].text}\n{block.text}", "union")
    return found[-1].text != block.text


# --- where blocks begin and end

_HEADING = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_QUOTE = re.compile(r" {0,3}>")
_COMMENT = re.compile(r" {0,3}<!--")
_ITEM = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])(?=[ \t]|$)")
# CommonMark 0.31, "list items": what may end a paragraph is a bullet with text, or a list that starts at 1.
_ITEM_IN_PARAGRAPH = re.compile(r" {0,3}(?:[-*+]|1[.)])[ \t]+[^ \t]")
_MARKERS = re.compile(r"(?:[ \t]*(?:[-*+]|\d{1,9}[.)])(?=[ \t]))*[ \t]*")
_FENCE = re.compile(r" {0,3}(?:(`{3,})[^`]*|(~{3,}).*)$")
_INNER_FENCE = re.compile(r"(?:(`{3,})[^`]*|(~{3,}).*)$")
_NEVER_FLOWS = re.compile(r"(?:#{1,6}|[-*+][ \t]+(?![-*+ \t]))[ \t]*\w")


def _split_latest(lines: list[str]) -> Iterator[Span]:
    start = _next_content(lines, 0)
    if start < len(lines):
        yield ENTRY, start, len(lines)


def _split_log(lines: list[str]) -> Iterator[Span]:
    """Each line at the margin, with the indented lines below it."""
    start = _next_content(lines, 0)
    while start < len(lines):
        role, end = ENTRY, _after_front_matter(lines, start)
        if end:
            role = PROSE
        else:
            end = _after_fence(lines, start) or _after_comment(lines, start) or start + 1
            end = _after_continuation(lines, end, indent=0, fence=None)
        yield role, start, end
        start = _next_content(lines, end)


def _split_union(lines: list[str]) -> Iterator[Span]:
    """Headings, rules, comments, front matter: structure. List items: entries. The rest: entries from the first
    list item or heading below the title on, and prose before."""
    start = _next_content(lines, 0)
    among_entries = False
    while start < len(lines):
        kind, end = _block_at(lines, start)
        if kind == "item" or (kind == HEADING and _level(lines, start, end) > 1):
            among_entries = True
        role = {"item": ENTRY, "text": ENTRY if among_entries else PROSE}.get(kind, kind)
        yield role, start, end
        start = _next_content(lines, end)


_SPLITTERS: dict[str, Callable[[list[str]], Iterator[Span]]] = {
    "latest": _split_latest,
    "union": _split_union,
    "log": _split_log,
}


def _block_at(lines: list[str], start: int) -> tuple[str, int]:
    """(heading, prose, item or text; the line after it) of the block whose first line is `start`, under `union`."""
    line = lines[start]
    if end := _after_front_matter(lines, start) or _after_comment(lines, start):
        return PROSE, end
    if _HEADING.match(line):
        return HEADING, start + 1
    if _RULE.match(line):
        return PROSE, start + 1
    if end := _after_fence(lines, start):
        return "text", end
    if _ITEM.match(line):
        return "item", _after_item(lines, start)
    if _QUOTE.match(line):
        return "text", _after_quote(lines, start)
    return _paragraph_at(lines, start)


def _paragraph_at(lines: list[str], start: int) -> tuple[str, int]:
    end = start + 1
    while end < len(lines) and not is_blank(lines[end]):
        if _UNDERLINE.match(lines[end]):
            return HEADING, end + 1
        if _QUOTE.match(lines[end]) or _interrupts(lines[end]):
            break
        end += 1
    return "text", end


def _after_quote(lines: list[str], start: int) -> int:
    end = start + 1
    while end < len(lines) and not is_blank(lines[end]) and not _interrupts(lines[end]):
        end += 1
    return end


def _after_item(lines: list[str], start: int) -> int:
    """An item owns what is indented two columns deeper than its marker, and text that follows it without a gap."""
    indent = _indent(lines[start])
    return _after_continuation(lines, start + 1, indent, _opened_fence(lines[start]), lazy=True)


def _after_continuation(lines: list[str], end: int, indent: int, fence: str | None, lazy: bool = False) -> int:
    """The line after the block that goes on at line `end`, whose deeper lines belong to it. `fence`: open before."""
    at = end
    while at < len(lines):
        line = lines[at]
        deeper = _indent(line) >= indent + 2
        if is_blank(line):
            at += 1
            continue
        if fence is not None and _closes(line, fence):
            fence = None
        elif deeper:
            fence = fence or _opened_fence(line)
        elif fence is not None or at > end or not lazy or not _flows_on(line):
            break
        at += 1
        end = at
    return end


def _flows_on(line: str) -> bool:
    return not (_QUOTE.match(line) or _ITEM.match(line) or _interrupts(line))


def _interrupts(line: str) -> bool:
    """May this line end a paragraph above it? (A quote, too, but not another quote.)"""
    patterns = (_HEADING, _RULE, _FENCE, _COMMENT, _ITEM_IN_PARAGRAPH)
    return any(pattern.match(line) for pattern in patterns)


def _after_front_matter(lines: list[str], start: int) -> int:
    """The line after "---" ... "---" on a file's first lines; 0 if there is none."""
    if start != 0 or lines[0].rstrip(BLANK) != "---":
        return 0
    return next((at + 1 for at in range(1, len(lines)) if lines[at].rstrip(BLANK) in ("---", "...")), 0)


def _after_comment(lines: list[str], start: int) -> int:
    """The line after the HTML comment that begins on line `start`; 0 if none does. Unclosed, it runs to the end."""
    if not _COMMENT.match(lines[start]):
        return 0
    return next((at + 1 for at in range(start, len(lines)) if "-->" in lines[at]), len(lines))


def _after_fence(lines: list[str], start: int) -> int:
    """The line after the fenced code that begins on line `start`; 0 if none does. Unclosed, it runs to the end."""
    found = _FENCE.match(lines[start])
    if not found:
        return 0
    fence = found[1] or found[2]
    return next((at + 1 for at in range(start + 1, len(lines)) if _closes(lines[at], fence)), len(lines))


def _opened_fence(line: str) -> str | None:
    """The fence that a line within an item opens, behind any list markers."""
    found = _INNER_FENCE.match(line, _MARKERS.match(line).end())
    return (found[1] or found[2]) if found else None


def _closes(line: str, fence: str) -> bool:
    """Any indentation will do: people are careless there, and a fence left open swallows what follows."""
    mark = line.strip(BLANK)
    return len(mark) >= len(fence) and not mark.strip(fence[0])


def _level(lines: list[str], start: int, end: int) -> int:
    found = _HEADING.match(lines[start]) if end == start + 1 else None
    return len(found[1]) if found else 1 + ("-" in lines[end - 1])


def _indent(line: str) -> int:
    """Columns before the first character that is not blank; a tab goes to the next multiple of four."""
    rest = line.lstrip(BLANK)
    return len(line[: len(line) - len(rest)].expandtabs(4))


def _next_content(lines: list[str], at: int) -> int:
    while at < len(lines) and is_blank(lines[at]):
        at += 1
    return at


# --- names


def block_id(role: str, text: str, occurrence: int) -> bytes:
    """16 bytes that name a block by its content. `occurrence`: 0 for the first of equal blocks in a file, 1, 2, …"""
    # Neither a role nor a number holds NUL, so no two blocks are written alike.
    named = f"{role}\0{occurrence}\0{text}".encode()
    return hashlib.blake2b(named, digest_size=16, person=b"replica block").digest()


def with_ids(blocks: Iterable[Block]) -> list[tuple[bytes, Block]]:
    """Each block with its name. Equal files give equal names; the same line twice has two."""
    seen: Counter[tuple[str, str]] = Counter()
    named = []
    for block in blocks:
        named.append((block_id(block.role, block.text, seen[block.role, block.text]), block))
        seen[block.role, block.text] += 1
    return named


# --- one order everywhere


def order(nodes: Iterable[Node]) -> list[bytes]:
    """The ids of `nodes` in file order: the same for the same nodes, in whatever order they come. Ids are unique.

    Behind each node stand those that name it as their anchor, the greatest key first, each with its own followers (RGA:
    Roh et al. 2011). A node whose anchor is unknown, and the smallest of a circle of anchors, go to the end, ascending.
    """
    by_id = {node.id: node for node in sorted(nodes, key=lambda node: (node.key, node.id))}
    followers: dict[bytes | None, list[bytes]] = defaultdict(list)
    for node in by_id.values():
        followers[node.after].append(node.id)
    strays = {node.id for node in by_id.values() if node.after is not None and node.after not in by_id}
    strays |= _circle_heads(by_id)
    placed = list(_walk(followers[None], followers, strays))
    for stray in [id for id in by_id if id in strays]:
        placed += _walk([stray], followers, strays)
    return placed


def _walk(start: list[bytes], followers: dict[bytes | None, list[bytes]], strays: set[bytes]) -> Iterator[bytes]:
    """`start` (ascending keys) and all that follows, the last first, without what is placed as a stray."""
    waiting = list(start)
    while waiting:
        id = waiting.pop()
        yield id
        waiting += [follower for follower in followers.get(id, ()) if follower not in strays]


def _circle_heads(by_id: dict[bytes, Node]) -> set[bytes]:
    """Of each circle of anchors, the node with the smallest key."""
    rank = {id: number for number, id in enumerate(by_id)}
    seen_in: dict[bytes, bytes] = {}  # node: the walk that came by first
    heads = set()
    for start in by_id:
        id: bytes | None = start
        while id in by_id and id not in seen_in:
            seen_in[id] = start
            id = by_id[id].after
        if id in by_id and seen_in[id] == start:
            heads.add(min(_circle(by_id, id), key=rank.__getitem__))
    return heads


def _circle(by_id: dict[bytes, Node], member: bytes) -> list[bytes]:
    circle, id = [member], by_id[member].after
    while id != member:
        circle.append(id)
        id = by_id[id].after
    return circle


# --- what a save did

SIMILAR = 0.5  # share of common letter pairs from which a block counts as an edit of another
MOST_COMPARED = 100  # blocks on either side of a hunk that are compared with each other: 10,000 comparisons
COMPARED_IN_ALL = 50_000  # comparisons in one save; when they are used up, only blocks in equal places are compared
LONGEST_COMPARED = 2_000  # characters of a block that are looked at


def pair(base: list[Block], new: list[Block]) -> Edits:
    """What made `base` (the blocks that we last wrote) into `new` (the blocks in the file now).

    A block that only moved is kept. A block is replaced by one of the same role in the same place that is similar to
    it, or that is the only one there.
    """
    kept = match([(block.role, block.text) for block in base], [(block.role, block.text) for block in new])
    left_base = sorted(set(range(len(base))) - {i for i, _ in kept})
    left_new = sorted(set(range(len(new))) - {j for _, j in kept})
    replaced: list[tuple[int, int]] = []
    left = COMPARED_IN_ALL
    for gone, come in _hunks(ascending(kept), left_base, left_new):
        for role in sorted({base[i].role for i in gone} & {new[j].role for j in come}):
            same_base = [i for i in gone if base[i].role == role]
            same_new = [j for j in come if new[j].role == role]
            left -= len(same_base) * len(same_new)
            replaced += _replacements(base, new, same_base, same_new, each=left >= 0)
    replaced_base, replaced_new = {i for i, _ in replaced}, {j for _, j in replaced}
    removed = [i for i in left_base if i not in replaced_base]
    added = [j for j in left_new if j not in replaced_new]
    return Edits(kept, sorted(replaced), removed, added)


def _hunks(anchors, left_base: list[int], left_new: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """What is left over on both sides between the same two anchors (which ascend on both sides)."""
    gone = _by_gap([i for i, _ in anchors], left_base)
    come = _by_gap([j for _, j in anchors], left_new)
    for gap in sorted(gone.keys() & come.keys()):
        yield gone[gap], come[gap]


def _by_gap(anchors: list[int], left: list[int]) -> dict[int, list[int]]:
    gaps: dict[int, list[int]] = defaultdict(list)
    gap = 0
    for index in left:
        while gap < len(anchors) and anchors[gap] < index:
            gap += 1
        gaps[gap].append(index)
    return gaps


def _replacements(
    base: list[Block], new: list[Block], gone: list[int], come: list[int], *, each: bool
) -> list[tuple[int, int]]:
    """Which block of `come` is an edit of which of `gone`: the most similar first; of equals, those further up.

    `each`: every one is compared with every other. Else only the first with the first and so on, as many as there are.
    """
    if len(gone) == len(come) == 1:
        return [(gone[0], come[0])]
    if max(len(gone), len(come)) > MOST_COMPARED:
        return []
    grams_base = {i: LetterPairs(base[i].text) for i in gone}
    grams_new = {j: LetterPairs(new[j].text) for j in come}
    candidates = product(gone, come) if each else zip(gone, come, strict=False)
    scores = [(-grams_base[i].likeness(grams_new[j]), i, j) for i, j in candidates]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for score, i, j in sorted(scores):
        if -score >= SIMILAR and i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return list(pairs.items())


class LetterPairs:
    """The pairs of neighbouring characters of a text, which tell similar texts in scripts with and without spaces."""

    __slots__ = ("counts", "size")

    def __init__(self, text: str):
        text = text[:LONGEST_COMPARED]
        self.counts = Counter(text[at : at + 2] for at in range(len(text) - 1)) or Counter([text])
        self.size = self.counts.total()

    def likeness(self, other: "LetterPairs") -> float:
        """Twice what both have, divided by what either has (Dice 1945), up to 1; what is below `SIMILAR` may be 0."""
        if 2 * min(self.size, other.size) < SIMILAR * (self.size + other.size):
            return 0.0
        return 2 * self._common(other) / (self.size + other.size)

    def _common(self, other: "LetterPairs") -> int:
        few, many = sorted((self.counts, other.counts), key=len)
        return sum(min(count, many[gram]) for gram, count in few.items() if gram in many)
