"""A learning, and the entry that it becomes: words first, then a line for each thing that meta cannot hold.

    - Short subject lines win
      Three of four tests.
      - type: campaign-learning
      - status: confirmed
      - link: https://example.org/report
      - from: campaigns/spring.json, item spring/subject, sha256 0123456789abcdef

The type and the tags are in the entry's meta; a line says the type where words and document would say another. The last
line is there for what was taken in from a source: by it, every clone knows it again. Pure; the same learning makes the
same bytes everywhere.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from replica.cloud.items import bare
from replica.cloud.kinds import type_of
from replica.errors import UsageError
from replica.origin import read_line
from replica.quoting import visible
from replica.sessions.base import BEGIN_MEMORY, END_MEMORY, without_ours
from replica.writing import compose

LONGEST = 4_000  # characters of the words
MOST_LINES = 60  # of the words
LONGEST_FIELD = 300
LONGEST_TAG = 60
MOST_TAGS, MOST_LINKS, MOST_MORE = 20, 20, 12
SHA = 16  # hex digits of a hash in an entry

# What people call a type → the type as everything else knows it (replica/cloud/kinds.py), and tags that keep the rest.
TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lesson": ("lesson", ()), "learning": ("lesson", ()), "lesson-learned": ("lesson", ()), "til": ("lesson", ()),
    "decision": ("decision", ()), "adr": ("decision", ()),
    "pattern": ("pattern", ()), "agent-pattern": ("pattern", ("agent-pattern",)),
    "anti-pattern": ("pattern", ("anti-pattern",)),
    "best-practice": ("guideline", ("best-practice",)), "guideline": ("guideline", ()), "rule": ("guideline", ()),
    "performance-insight": ("performance-insight", ()), "insight": ("performance-insight", ()),
    "campaign-learning": ("campaign-learning", ()), "campaign": ("campaign-learning", ()),
}  # fmt: skip


def named_type(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The type and the tags that a name of a type means; None: it is none."""
    return TYPES.get(re.sub(r"[\s_]+", "-", name.strip().lower()))


@dataclass(frozen=True, slots=True)
class Learning:
    """`text`: the words, the first line their title. `more`: further things that a source says, in its order."""

    type: str
    text: str
    tags: tuple[str, ...] = ()
    status: str = ""
    category: str = ""
    outcome: str = ""
    links: tuple[str, ...] = ()
    more: tuple[tuple[str, str], ...] = ()


class Source(NamedTuple):
    """Where a learning was taken in from: `label` is a file as all clones name it, `item` names it within."""

    label: str
    item: str


@dataclass(frozen=True, slots=True)
class Item:
    """A learning as it was read. `where`: for messages. `hash`: SHA-256 of what it was read from, in hex."""

    learning: Learning
    where: str
    source: Source | None = None
    hash: str = ""
    named: bool = True  # False: the item's name was made of its words, and changes with them


# --- words that somebody else wrote


def plain(text: str) -> str:
    """Without what `replica` itself gave the agent, without what hides or steers, without comments that could open."""
    text = without_ours(text).replace(BEGIN_MEMORY, "").replace(END_MEMORY, "")
    text = visible(text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.replace("<!--", "\\<!--").replace("-->", "--\\>")


def one_line(text: str, most: int = LONGEST_FIELD) -> str:
    line = " ".join(plain(text).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def tag(text: str) -> str:
    return one_line(text, LONGEST_TAG).strip("#, ").lower()


_MARKS = re.compile(r"\A\s*(?:#{1,6}\s+|[-*+]\s+(?:\[[ xX]\]\s+)?|\d{1,9}[.)]\s+|>\s*)+")


def words_of(text: str) -> str:
    """Words as they stand in an entry: a title without the marks of a list or a heading, and what is below it."""
    lines = [line.rstrip() for line in plain(text).strip("\n").split("\n")]
    lines[0] = _MARKS.sub("", lines[0], count=1).strip()
    while lines and not lines[0]:
        lines = lines[1:]
        if lines:
            lines[0] = _MARKS.sub("", lines[0], count=1).strip()
    # What looks like one of our lines is the words' own list.
    return "\n".join(_closed(lines[:1] + [_FIELD_START.sub(r"\1* ", line) for line in lines[1:]]))


_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})([^`]*)")


def _closed(lines: list[str]) -> list[str]:
    """With the end of a fence that was left open: our own lines would stand in it."""
    fence = ""
    for line in lines:
        found = _FENCE.fullmatch(line)
        if found is None:
            continue
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return [*lines, fence] if fence else lines


# --- the entry

_FIELD_START = re.compile(r"^(\s*)- (?=(?:type|status|category|outcome|link|from|[a-z][\w -]{0,39}): )")
_FIELD = re.compile(r"- (?P<key>[a-z][\w -]{0,39}): (?P<value>\S.*)")
_FROM = re.compile(rf"(?P<label>\S.*), item (?P<item>\S+), sha256 (?P<sha>[0-9a-f]{{{SHA}}})")


class Written(NamedTuple):
    """`text`: the entry, as it stands in a file. `sha`: of all of it but its last line, that says where it is from."""

    text: str
    sha: str


def written(learning: Learning, source: Source | None, path: str, policy: str = "union") -> Written:
    """The entry of a learning in a document. Raises UsageError: its words cannot stand as one entry."""
    lines = [("status", learning.status), ("category", learning.category), ("outcome", learning.outcome)]
    lines += [*learning.more, *(("link", link) for link in learning.links)]
    said = [f"- {key}: {value}" for key, value in lines if value]
    body = "\n".join([learning.text, *said])
    if type_of(body, path) != learning.type:
        body = "\n".join([learning.text, f"- type: {learning.type}", *said])
    text = compose(body, policy)
    sha = hashlib.sha256(bare(text).encode()).hexdigest()[:SHA]
    if source is not None:
        text = compose(f"{body}\n- from: {source.label}, item {source.item}, sha256 {sha}", policy)
    return Written(text, sha)


class Found(NamedTuple):
    """An entry of a document, read back. `sha`: that its last line says; `whole`: it is still as it was written."""

    words: str
    fields: tuple[tuple[str, str], ...]
    source: Source | None = None
    sha: str = ""
    whole: bool = False


def read(text: str) -> Found:
    """What an entry says, whoever wrote it."""
    lines = bare(text).split("\n")
    while lines and (not lines[-1].strip() or read_line(lines[-1]) is not None):
        lines.pop()  # a harvest has written below it where it came from
    above, fields = lines, []
    while len(above) > 1 and (found := _FIELD.fullmatch(above[-1].strip())):
        fields.insert(0, (found["key"], found["value"]))
        above = above[:-1]
    words = "\n".join(above)
    origin = _FROM.fullmatch(fields[-1][1]) if fields and fields[-1][0] == "from" else None
    if origin is None:
        return Found(words, tuple(fields))
    sha = hashlib.sha256("\n".join(lines[:-1]).encode()).hexdigest()[:SHA]
    source = Source(origin["label"], origin["item"])
    return Found(words, tuple(fields[:-1]), source, origin["sha"], sha == origin["sha"])


def sense(words: str) -> str:
    """What is compared of words: equal learnings that are written a little differently are one."""
    return re.sub(r"[*_`]", "", " ".join(words.split())).casefold().rstrip(".!… ")


def checked(learning: Learning, where: str) -> Learning:
    """The learning, if it can be an entry. Raises UsageError, which names the item and the field."""
    if not learning.text.strip():
        raise UsageError(f"{where}: `text` is empty", hint="say what was learned, in `text`")
    if len(learning.text) > LONGEST or learning.text.count("\n") >= MOST_LINES:
        raise UsageError(
            f"{where}: `text` has {len(learning.text):,} characters in {learning.text.count(chr(10)) + 1} lines;"
            f" the limit is {LONGEST:,} in {MOST_LINES}",
            hint="say it shorter, or save it as a file and link to it",
        )
    try:
        written(learning, None, "")
    except UsageError as error:
        raise UsageError(f"{where}: `text`: {error}", hint=error.hint) from None
    return learning
