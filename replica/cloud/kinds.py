"""Which kind of memory a text is, and its tags: by what a person said, by its document, and by how it begins."""

import re
from pathlib import PurePosixPath

TYPES = (
    "performance-insight", "campaign-learning", "guideline", "decision", "pattern", "lesson", "session-summary", "note",
)  # fmt: skip
# What `--scope` calls them.
SCOPES = {
    "insights": ("performance-insight",),
    "campaigns": ("campaign-learning",),
    "sessions": ("session-summary",),
    "decisions": ("decision",),
    "patterns": ("pattern",),
}
MOST_TAGS = 20

# The first label of an entry decides, then its document's name, then words in it. In this order.
_LABELS = [
    ("decision", r"decision|decided|adr(?:[- ]?\d+)?"),
    ("lesson", r"lesson(?:s)?(?: learn(?:ed|t))?|learning|post-?mortem|til"),
    ("pattern", r"(?:anti-?)?pattern"),
    ("guideline", r"guideline|rule|convention|best practice|always|never"),
    ("campaign-learning", r"campaign(?: learning)?"),
    ("performance-insight", r"(?:performance )?insight|finding"),
    ("session-summary", r"session(?: summary)?|summary"),
]
_LABEL = re.compile(
    r"[\s#>*_`\[(]*(?:"
    + "|".join(f"(?P<t{at}>{words})" for at, (_, words) in enumerate(_LABELS))
    + r")[*_`\])]*\s*[:–—]",
    re.IGNORECASE,
)
_NAMES = [
    ("campaign-learning", r"campaign"),
    ("performance-insight", r"insight|performance|metrics"),
    ("decision", r"decision|\badr\b|adr-?\d"),
    ("pattern", r"pattern"),
    ("lesson", r"lesson|post-?mortem|learning"),
    ("guideline", r"guideline|convention|best-?practice|styleguide|style-guide|^(?:agents|claude|gemini|rules)$"),
    ("session-summary", r"session|activecontext|progress|handover|^\d{4}-\d{2}-\d{2}"),
]
_NAMES = [(kind, re.compile(words, re.IGNORECASE)) for kind, words in _NAMES]
# A measure that moved, of a thing that is measured: what an insight into performance is made of.
_MOVED = re.compile(
    r"(?=.*\d(?:[.,]\d+)?\s?(?:%|x\b|percent|ms\b|pp\b))"
    r"(?=.*\b(?:ctr|conversion|click|open rate|engagement|roas|cpa|cpc|latency|throughput|p9[59]|revenue|retention)\b)",
    re.IGNORECASE | re.DOTALL,
)
# A line of an entry that says it (replica/learn/entry.py): it stays with the words where they are moved by hand.
_SAID = re.compile(r"^[ \t]*- type: (" + "|".join(TYPES) + r")$", re.MULTILINE)
_HASHTAG = re.compile(r"(?<![\w/#&])#([^\W\d_][\w/-]{1,40})", re.UNICODE)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_FRONT_TAGS = re.compile(r"\A---\n(?:.*\n)*?tags:[ \t]*(?:\[([^\]\n]*)\]|((?:\n[ \t]*-[ \t]+[^\n]+)+))", re.IGNORECASE)


def type_of(text: str, document: str, said: str | None = None) -> str:
    """`said`: the type that whoever wrote it gave; it stands, whatever it is."""
    if said:
        return said
    if "- type: " in text[:6_000] and (line := _SAID.search(text[:6_000])) is not None:
        return line[1]
    found = _LABEL.match(text[:200])
    if found:
        return next(kind for at, (kind, _) in enumerate(_LABELS) if found[f"t{at}"])
    path = PurePosixPath(document)
    heading = text.split("\n", 1)[0][:200].lstrip("# ") if text.startswith("#") else ""
    for name in (heading, path.stem, *reversed(path.parts[:-1])):
        for kind, words in _NAMES:
            if words.search(name):
                return kind
    return "performance-insight" if _MOVED.search(text[:2_000]) else "note"


def tags_of(text: str, said: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Those that were given, then the #hashtags of the text, in lower case, each once."""
    if "#" not in text:
        return tuple(dict.fromkeys(said))[:MOST_TAGS]
    found = (tag.rstrip("-/").lower() for tag in _HASHTAG.findall(_CODE.sub(" ", text[:20_000])))
    return tuple(dict.fromkeys((*said, *found)))[:MOST_TAGS]


def front_tags(text: str) -> tuple[str, ...]:
    """The `tags:` of a text's front matter, as a list on one line or below."""
    found = _FRONT_TAGS.match(text[:5_000]) if text.startswith("---\n") else None
    if not found:
        return ()
    words = found[1].split(",") if found[1] is not None else re.findall(r"-[ \t]+([^\n]+)", found[2])
    return tuple(tag for tag in (word.strip().strip("'\"#").lower() for word in words) if tag)[:MOST_TAGS]
