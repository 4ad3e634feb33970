"""A text in sections, by its headings: what is exported, indexed and found again of it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from replica.blocks import HEADING, parse

LONGEST = 6_000  # characters of a section; a longer one is divided between paragraphs


class Part(NamedTuple):
    """What stands between a heading and the next. `heading`: the headings above it, outermost first, its own last.

    `line`: the heading as it is written, "" before the first one. `body`: what is below it, word for word.
    `occurrence`: of parts with the same headings, the how manieth, from 1.
    """

    heading: tuple[str, ...]
    line: str
    body: str
    occurrence: int


class Section(NamedTuple):
    """A part with its heading, as one piece of the text. `part`: of a long one, from 1."""

    heading: tuple[str, ...]
    text: str
    occurrence: int = 1
    part: int = 1


def parts(text: str) -> Iterator[Part]:
    """All parts of a text in order, empty ones too; front matter is none of it."""
    above: list[tuple[int, str]] = []
    seen: dict[tuple[str, ...], int] = {}
    line, body = "", []
    heading: tuple[str, ...] = ()

    def ended() -> Part:
        seen[heading] = seen.get(heading, 0) + 1
        return Part(heading, line, "\n".join(body), seen[heading])

    for block in parse(without_front_matter(text), "union"):
        if block.role == HEADING:
            yield ended()
            level, words = title(block.text)
            above = [outer for outer in above if outer[0] < level] + [(level, words)]
            heading, line, body = tuple(words for _, words in above), block.text, []
        else:
            body.append(block.lead + block.text)
    yield ended()


def sections(text: str) -> list[Section]:
    """The sections of a text in order; what stands before the first heading is one, too. A heading alone is none."""
    found = []
    for part in parts(text):
        if part.body.strip():
            whole = (f"{part.line}\n{part.body}" if part.line else part.body).strip("\n").rstrip()
            pieces = _pieces(whole)
            found += [Section(part.heading, piece, part.occurrence, at) for at, piece in enumerate(pieces, 1)]
    return found


def title(heading: str) -> tuple[int, str]:
    """The level of a heading and its words; of one that is underlined, too."""
    line = heading.strip()
    words = line.lstrip("#")
    level = len(line) - len(words)
    if 1 <= level <= 6 and words[:1] in ("", " ", "\t"):
        words = words.strip()
        open_end = words.rstrip("#")
        closed = open_end[-1:] in ("", " ", "\t")
        return level, open_end.rstrip() if closed else words
    above, _, under = heading.rpartition("\n")
    return 1 if under.strip().startswith("=") else 2, " ".join(above.split())


def without_front_matter(text: str) -> str:
    """YAML front matter says what a text is, and is none of it."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return text
    end = next((at for at, line in enumerate(lines[1:200], 1) if line.rstrip() in ("---", "...")), None)
    return text if end is None else "\n".join(lines[end + 1 :])


def _pieces(section: str) -> list[str]:
    """A long section in parts of at most `LONGEST` characters, between paragraphs where there are any."""
    if len(section) <= LONGEST:
        return [section]
    found, piece = [], ""
    for paragraph in re.split(r"\n{2,}", section):
        if piece and len(piece) + len(paragraph) + 2 > LONGEST:
            found.append(piece)
            piece = ""
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph
        while len(piece) > LONGEST:
            cut = max(piece.rfind("\n", 0, LONGEST), piece.rfind(" ", 0, LONGEST)) + 1 or LONGEST
            found.append(piece[:cut].rstrip())
            piece = piece[cut:]
    return [one for one in [*found, piece] if one.strip()]
