"""Architecture decision records: their names, their template, and which number one carries. Pure.

The form is MADR's (https://adr.github.io/madr/): context, options, outcome, consequences.
"""

import re
from typing import NamedTuple

from replica.origin import Origin, origins, slug

TEMPLATE_FILE = "template.md"  # in the folder of the records; it takes the place of TEMPLATE
TEMPLATE = """\
# ADR-{number}: {title}

- Status: accepted
- Date: {date}
- Decision-makers: {author}

## Context and Problem Statement

## Considered Options

## Decision Outcome

{text}

### Consequences

{origin}
"""
PLACEHOLDERS = ("number", "title", "date", "author", "text", "document", "tags", "origin")

_NAME = re.compile(r"ADR-(\d{1,6})-(.+)\.md", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


class Record(NamedTuple):
    """A decision record that is there. `origins`: none where a person wrote it."""

    path: str
    number: int
    rest: str  # of its name: what stands behind the number
    text: str
    origins: tuple[Origin, ...]

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(id for origin in self.origins for id in origin.ids)


def number_of(path: str) -> int | None:
    """The number in the name of a record; None: it is none."""
    found = _NAME.fullmatch(path.rpartition("/")[2])
    return int(found[1]) if found else None


def record(path: str, text: str) -> Record | None:
    found = _NAME.fullmatch(path.rpartition("/")[2])
    return Record(path, int(found[1]), found[2], text, tuple(origins(text))) if found else None


def path_for(folder: str, number: int, title: str) -> str:
    return f"{folder}ADR-{number:03d}-{slug(title)}.md"


def filled(template: str, values: dict[str, str], origin: Origin) -> str:
    """A record from a template. One that has no place for the origin gets it at its end: it is found again by that."""
    text = _PLACEHOLDER.sub(lambda found: values.get(found[1], origin.line), template)
    if origin.line not in text.split("\n"):
        text = f"{text.rstrip()}\n\n{origin.line}\n"
    return text if text.endswith("\n") else text + "\n"


def renumbered(text: str, old: int, new: int) -> str:
    """The same record with another number in its title, the first heading of level 1."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if line.startswith("# "):
            pattern = (
                rf"(?i)(\bADR[- ]?)0*{old}\b" if re.search(rf"(?i)\bADR[- ]?0*{old}\b", line) else rf"()\b0*{old}\b"
            )
            lines[at] = re.sub(pattern, lambda found: f"{found[1]}{new:03d}", line, count=1)
            break
    return "\n".join(lines)


def alike(one: Record, other: Record) -> bool:
    """Whether two records of one decision differ in nothing but their numbers, and who is named as its author and when.

    Two clones may know different people to have added the same entry. What else differs, a person has edited.
    """
    old = renumbered(one.text, one.number, 0).split("\n")
    new = renumbered(other.text, other.number, 0).split("\n")
    return len(old) == len(new) and all(
        a == b or _in_words_of(a, one.origins, other.origins) == b for a, b in zip(old, new, strict=True)
    )


def _in_words_of(line: str, origins: tuple[Origin, ...], others: tuple[Origin, ...]) -> str:
    for mine, its in zip(origins, others, strict=False):
        if line.strip() == mine.line:
            return line.replace(mine.line, its.line)
        line = line.replace(mine.date, its.date)
        line = line.replace(mine.author, its.author) if mine.author else line
    return line


def parted(text: str) -> list[str] | None:
    """The records in a file that holds several: two clones gave one name to two decisions while apart.

    None: it holds one, or they cannot be told apart.
    """
    if len(origins(text)) < 2:
        return None
    lines = text.split("\n")
    starts = [at for at, line in enumerate(lines) if re.match(r"# ADR-\d", line)]
    if not starts or starts[0] != 0:
        return None
    ends = [*starts[1:], len(lines)]
    parts = ["\n".join(lines[start:end]) for start, end in zip(starts, ends, strict=True)]
    parts = [*(part + "\n" for part in parts[:-1]), parts[-1]]
    return parts if all(len(origins(part)) == 1 for part in parts) else None


class Renumbering(NamedTuple):
    """`path` is to carry `number`, since another record that is older has its own."""

    record: Record
    number: int
    path: str


def renumberings(records: list[Record], folder: str, taken) -> list[Renumbering]:
    """Of records with one number the oldest keeps it, by its entry's time, then by its id; what a person wrote comes
    before. The others get the next free ones. `taken(path)`: whether there ever was a document of that path.

    Equal records give equal answers, whoever asks.
    """
    by_number: dict[int, list[Record]] = {}
    for one in records:
        by_number.setdefault(one.number, []).append(one)
    movers = []
    for number in sorted(by_number):
        movers += [one for one in sorted(by_number[number], key=_seniority)[1:] if one.origins]
    highest, found = max(by_number, default=0), []
    for one in movers:
        highest += 1
        while taken(path := f"{folder}ADR-{highest:03d}-{one.rest}.md"):
            highest += 1
        found.append(Renumbering(one, highest, path))
    return found


def _seniority(one: Record) -> tuple:
    return (bool(one.origins), min((origin.order for origin in one.origins), default=()), one.path)
