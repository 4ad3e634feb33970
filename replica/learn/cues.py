"""What was said in so many words to be kept: `Lesson: …`, `Decision: …`, `TIL …`, `Note to self: …`.

Only where a line or a sentence begins with it: "the lesson: it depends" within a sentence is talk. What is found is one
line, of bounded length. Log text is data: nothing in it is carried out, and it can only ever become an entry.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from replica.learn.entry import TYPES, Item, Learning, checked, one_line, sense, words_of
from replica.learn.given import Secrets, Usual
from replica.sessions.base import Event, Kind, without_ours

LONGEST = 600  # characters of what was said
SHORTEST = 12
MOST = 500  # of one log
MOST_BELOW = 10  # items of a list that follows "Lessons:"


class Said(NamedTuple):
    type: str
    text: str


_CUES = [
    (
        "lesson",
        r"lessons?(?: learn(?:ed|t))?|learn(?:ed|t|ing)s?|(?:please )?remember(?: this)?|note to self|takeaways?",
    ),
    ("decision", r"decisions?|(?:we|i) (?:have )?decided|decided"),
    ("anti-pattern", r"anti-?patterns?"),
    ("agent-pattern", r"agent patterns?"),
    ("pattern", r"patterns?"),
    ("best-practice", r"best practices?"),
]
_WITH_COLON = "|".join(f"(?P<t{at}>{words})" for at, (_, words) in enumerate(_CUES))
_CUE = re.compile(
    r"(?:^|(?<=[.!?]\s))[\s>*_#`-]*(?:\d{1,3}[.)]\s+)?[*_`]*"
    rf"(?:(?:{_WITH_COLON})[*_`]*\s*:[*_`]*|(?P<til>TIL)\b[*_`]*:?(?:\s+that\b)?)[ \t]*(?P<rest>.*)",
    re.IGNORECASE,
)
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+(?P<rest>\S.*)")
_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")


def said_in(text: str) -> Iterator[Said]:
    """What a text says to keep, in its order; what stands in code is none of it."""
    kind, below, in_code = "", 0, False
    for line in without_ours(text).split("\n"):
        if _FENCE.match(line):
            in_code = not in_code
        if in_code or _FENCE.match(line):
            continue
        found = _CUE.search(line[:5_000])
        if found is not None and not (found["til"] and found["til"] != "TIL"):
            kind = "lesson" if found["til"] else next(k for at, (k, _) in enumerate(_CUES) if found[f"t{at}"])
            below = 0 if found["rest"].strip("*_ ") else MOST_BELOW
            if not below:
                yield Said(kind, found["rest"].lstrip("*_ "))
        elif below and (item := _ITEM.fullmatch(line)) is not None:
            below -= 1
            yield Said(kind, item["rest"])
        elif line.strip():
            below = 0


def learnings(events: Iterable[Event], usual: Usual = Usual(), secrets: Secrets | None = None) -> list[Item]:
    """What a session said to keep, each once: in prompts and replies of its main line, and by its agent's own tools."""
    secrets = secrets or Secrets()
    found: dict[str, Item] = {}
    for event in events:
        for said in _of(event):
            text = _one_line(secrets.out(said.text))
            if len(text) < SHORTEST or sense(text) in found or len(found) >= MOST:
                continue
            kind, tags = TYPES.get(usual.type or said.type) or (usual.type or said.type, ())
            made = Learning(kind, text, tuple(dict.fromkeys((*tags, *usual.tags))), usual.status)
            where = f"{event.agent} session {one_line(event.session, 40)}"
            found[sense(text)] = Item(checked(made, where), where)
    return list(found.values())


def _of(event: Event) -> Iterator[Said]:
    if event.aside:
        return
    if event.kind is Kind.LEARNING:
        first = next(said_in(event.text), None)
        yield first if first is not None else Said("lesson", without_ours(event.text))
    elif event.kind in (Kind.PROMPT, Kind.REPLY):
        yield from said_in(event.text)


def _one_line(text: str) -> str:
    """One line that is only words: no marks that format, and nothing that opens anything."""
    text = words_of(one_line(text, LONGEST)).replace("![", "!\\[")
    # A mark of emphasis without its other half came from what stood around.
    return text.strip("*_ ") if text.count("**") % 2 else text
