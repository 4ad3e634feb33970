"""The daily memory file: made from a day's events, read again, united with what another clone made. Pure.

    before   what a person wrote above the generated part
    part     from the title to the footer: lines that each belong to one session, and what is counted from them
    after    what stands below the footer: the person's, byte for byte

Each line ends with its session's tag. A comment above the footer names, for each session, how much of it was told and
a check of each of its lines: so it is known what a person has edited, and what a merge has put side by side. Equal
events give equal bytes; where two clones knew different sessions, all of them are in the united part.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, tzinfo
from difflib import SequenceMatcher
from typing import NamedTuple

from replica.sessions.base import Event

FOOTER = "*Review and edit this draft to capture what's actually important.*"
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")  # whatever the locale

# Sections in their order: code -> (headings that must stand above it, in their order).
TOPICS, FLOW, DECISIONS, COMMANDS, FILES, ERRORS, MODELS, STATISTICS, COMPACTIONS = "TFDCPEMNK"
SECTIONS: dict[str, tuple[str, ...]] = {
    TOPICS: ("## Topics Covered",),
    FLOW: ("## Session Flow",),
    DECISIONS: ("## Key Decisions",),
    COMMANDS: ("## Technical Details", "### Commands"),
    FILES: ("## Technical Details", "### Files"),
    ERRORS: ("## Technical Details", "### Errors"),
    MODELS: ("## Model Transitions",),
    STATISTICS: ("## Message Statistics",),
    COMPACTIONS: ("### Compactions",),
}
SUMMARY = "## Summary"
_HEADINGS = {heading for headings in SECTIONS.values() for heading in headings} | {SUMMARY}

_TITLE = re.compile(r"# (?P<date>\d{4}-\d\d-\d\d) \([A-Z][a-z]+day\)[ \t]*")
_MADE_FROM = re.compile(r"\*Auto-generated from (?P<count>[\d,]{1,9}) session messages?\b[^\n]{0,200}")
_OURS = re.compile(r"\*Auto-generated from \d{1,9} session messages?\*")
_TAGGED = re.compile(r"- .+ `(?P<tag>[0-9a-z]{8})`")
_TOLD = re.compile(
    r"<!-- replica (?P<tag>[0-9a-z]{8}) (?P<agent>[a-z][a-z0-9-]{0,30}) (?P<start>\d\d:\d\d)"
    r" (?P<messages>\d{1,9})/(?P<events>\d{1,9}):(?P<lines>(?: [A-Z][0-9a-f]{5}){1,1000}) -->"
)
_SUMMED = re.compile(r"<!-- replica summary (?P<messages>\d{1,9}):(?P<lines>(?: [0-9a-f]{5}){1,1000}) -->")


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of one session. `start`: "HH:MM" of its first event of the day. `lines`: (section, line)."""

    tag: str
    agent: str
    start: str
    messages: int
    events: int
    lines: tuple[tuple[str, str], ...]

    @property
    def measure(self) -> tuple[int, int]:
        """How much of the session was known to whoever told it."""
        return (self.messages, self.events)

    @property
    def order(self) -> tuple[str, str]:
        return (self.start, self.tag)

    @property
    def mark(self) -> str:
        checks = " ".join(section + check(section, line) for section, line in self.lines)
        return f"<!-- replica {self.tag} {self.agent} {self.start} {self.messages}/{self.events}: {checks} -->"


class Summary(NamedTuple):
    """A narrative, and of how many messages it was made. `lines`: without the blank ones."""

    messages: int
    lines: tuple[str, ...]

    @property
    def mark(self) -> str:
        return f"<!-- replica summary {self.messages}: {' '.join(check('S', line) for line in self.lines)} -->"


@dataclass(frozen=True)
class Part:
    """The generated part of one day."""

    date: str
    sessions: tuple[Told, ...] = ()
    summary: Summary | None = None

    @property
    def messages(self) -> int:
        return sum(told.messages for told in self.sessions)


@dataclass(frozen=True)
class Page:
    """A daily file, read. `part`: None where there is none, or another tool's.

    `claimed`: how many messages the generated part says it was made from; None: there is no generated part.
    `edited`: a person changed something inside it. `whole`: it is exactly what would be written.
    """

    before: str
    after: str
    part: Part | None = None
    claimed: int | None = None
    edited: str = ""
    whole: bool = False

    @property
    def by_hand(self) -> str:
        return self.before + self.after


def check(section: str, line: str) -> str:
    """Names a line within its session: 20 bits, against edits, not against malice."""
    return hashlib.sha256(f"{section}{line}".encode()).hexdigest()[:5]


def tag_of(agent: str, session: str) -> str:
    """The eight characters that a line names its session by: those of its id that tell it from its neighbours."""
    letters = re.sub(r"[^0-9a-z]", "", session.casefold())
    if re.fullmatch(r"[0-9a-f]{12}7[0-9a-f]{19}", letters):
        return letters[-8:]  # a UUIDv7 begins with the time: sessions of one minute begin alike
    if re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{19}", letters):
        return letters[:8]
    return hashlib.sha256(f"{agent}\n{session}".encode("utf-8", "replace")).hexdigest()[:8]


def is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


# --- events to a part


def generate(
    day: str, events: Iterable[Event], zone: tzinfo = UTC, folders: Mapping[str, Iterable[str]] | None = None,
    summary: Summary | None = None,
) -> Part:  # fmt: skip
    """The generated part of a day from all events of it. `folders`: where each session worked, for shorter paths."""
    from replica.sessions.telling import tell

    of: dict[str, list[Event]] = {}  # by tag: what no reader could tell apart is told as one
    for event in events:
        of.setdefault(tag_of(event.agent, event.session), []).append(event)
    told = [tell(some, zone, _folders(some, folders or {})) for some in of.values()]
    return Part(day, tuple(sorted((one for one in told if one.messages), key=lambda one: one.order)), summary)


def measures(events: Iterable[Event]) -> dict[str, tuple[int, int]]:
    """What `Told.measure` of each session of a day is going to be; cheap, for nothing is told."""
    messages: dict[str, int] = {}
    keys: dict[str, set[str]] = {}
    for event in events:
        tag = tag_of(event.agent, event.session)
        messages[tag] = messages.get(tag, 0) + event.is_message
        keys.setdefault(tag, set()).add(event.key)
    return {tag: (count, len(keys[tag])) for tag, count in messages.items() if count}


def _folders(events: list[Event], folders: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({folder for event in events for folder in folders.get(event.session, ())}))


# --- a part to text


def render(part: Part) -> str:
    """The generated part as it stands in the file; ends with the footer's newline."""
    weekday = _WEEKDAYS[date.fromisoformat(part.date).weekday()]
    plural = "message" if part.messages == 1 else "messages"
    blocks = [f"# {part.date} ({weekday})", f"*Auto-generated from {part.messages} session {plural}*"]
    if part.summary is not None:
        blocks += [SUMMARY, *_paragraphs(part.summary.lines)]
    above: tuple[str, ...] = ()
    for section, headings in SECTIONS.items():
        lines = [line for told in part.sessions for code, line in told.lines if code == section]
        if section == MODELS:
            lines = _transitions(part.sessions)
        if lines:
            blocks += [heading for heading in headings if heading not in above]
            above = headings
            if section == STATISTICS:
                blocks.append(_totals(part.sessions))
            blocks.append("\n".join(lines))
    marks = [told.mark for told in part.sessions]
    if part.summary is not None:
        marks.insert(0, part.summary.mark)
    blocks += ["\n".join(marks)] if marks else []
    return "\n\n".join([*blocks, "---", FOOTER]) + "\n"


def _paragraphs(lines: Sequence[str]) -> list[str]:
    """Paragraphs with a blank line between, items of one list without."""
    blocks: list[str] = []
    for line in lines:
        if blocks and _is_item(line) and _is_item(blocks[-1].rpartition("\n")[2]):
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line)
    return blocks


def _is_item(line: str) -> bool:
    return line.startswith("- ")


# What is counted from the lines of several sessions is no session's, and is made anew each time.

_MODEL = re.compile(r"(?P<model>[^ ()]+) \((?P<at>\d\d:\d\d)\)")
_BETWEEN = re.compile(
    r"- [a-z][a-z0-9-]{0,30}: \S+ → \S+, with a new session \(\d\d:\d\d\) `[0-9a-z]{8}`"
)  # fmt: skip


def _transitions(sessions: Sequence[Told]) -> list[str]:
    """The model lines in time order, and between sessions of one agent what changed from one to the next."""
    lines: list[str] = []
    signs: dict[str, list[tuple[str, str]]] = {}  # agent -> (when, model), of the sessions before
    for told in sessions:
        mine = [line for code, line in told.lines if code == MODELS]
        found = [(one["at"], one["model"]) for line in mine for one in _MODEL.finditer(line)]
        if found:
            at, model = found[0]
            earlier = [sign for sign in signs.get(told.agent, []) if sign[0] <= at]
            if earlier and (last := max(earlier, key=lambda sign: sign[0])[1]) != model:
                lines.append(f"- {told.agent}: {last} → {model}, with a new session ({at}) `{told.tag}`")
            signs[told.agent] = sorted([*signs.get(told.agent, []), *found], key=lambda sign: sign[0])
        lines += mine
    return lines


_COUNTS = ("prompt", "reply", "taken back", "tool call", "failed", "aside", "model error", "compaction")
_PLURALS = {"reply": "replies", "failed": "failed", "taken back": "taken back"}
_COUNTED = re.compile(
    r"- [a-z][a-z0-9-]{0,30} [0-9:–]{5,11}: \d+ messages?(?P<counts>(?:[(;, ]+\d+ (?:prompts?|repl(?:y|ies)|taken back"
    r"|tool calls?|failed|asides?|model errors?|compactions?)\)?)*)"
)  # fmt: skip
_TOTALS = re.compile(r"\*\*\d+ messages?\*\* in \d+ sessions?[^\n]{0,200}")


def counts(numbers: Mapping[str, int]) -> str:
    """ "(5 prompts, 7 replies), 2 tool calls, 1 failed": only what there is."""
    shown = {what: f"{numbers[what]} {_many(what, numbers[what])}" for what in _COUNTS if numbers.get(what)}
    said = ", ".join(text for what, text in shown.items() if what in ("prompt", "reply"))
    rest = [text for what, text in shown.items() if what not in ("prompt", "reply")]
    return ", ".join([*([f"({said})"] if said else []), *rest])


def _many(what: str, number: int) -> str:
    return what if number == 1 else _PLURALS.get(what, what + "s")


def _totals(sessions: Sequence[Told]) -> str:
    numbers = dict.fromkeys(_COUNTS, 0)
    for told in sessions:
        for code, line in told.lines:
            if code == STATISTICS and (found := _COUNTED.match(line)):
                for number, what in re.findall(r"(\d+) ([a-z]+(?: [a-z]+)?)", found["counts"]):
                    singular = {"replies": "reply"}.get(what, what if what == "failed" else what.removesuffix("s"))
                    numbers[singular] += int(number)
    messages = sum(told.messages for told in sessions)
    line = f"**{messages} {_many('message', messages)}** in {len(sessions)} {_many('session', len(sessions))}"
    return f"{line} {counts(numbers)}".rstrip()


# --- text to a page


def parse(text: str) -> Page:
    """Read a daily file: `text` as it stands in the file, with any line endings."""
    spans = _spans(text)
    if not spans:
        return Page("", text)
    outside, end = [], 0
    for start, stop in spans:
        outside.append(text[end:start])
        end = stop
    before, between, after = outside[0], outside[1:], text[end:]
    after = "".join(one for one in between if one.strip()) + after
    bodies = [text[start:stop].replace("\r\n", "\n") for start, stop in spans]
    ours = [body for body in bodies if _is_ours(body)]
    if not ours:
        claims = [int(_MADE_FROM.search(body)["count"].replace(",", "") or 0) for body in bodies]
        return Page(before, after, claimed=max(claims))
    day = next(filter(None, map(_TITLE.match, ours)), None)
    day = day if day and is_day(day["date"]) else None
    reading = _Reading(ours)
    part = Part(day["date"] if day else "", reading.sessions, reading.summary)
    edited = reading.edited if day else "its title is gone or names no day"
    whole = len(spans) == 1 and not edited and render(part) == ours[0]
    return Page(before, after, part, part.messages, edited, whole)


def _spans(text: str) -> list[tuple[int, int]]:
    """Where generated parts stand, and what merges have left of others."""
    parts = list(_parts(text))
    if not parts:
        return []
    gaps = zip([0, *(end for _, end in parts)], [*(start for start, _ in parts), len(text)], strict=True)
    return sorted([*parts, *(span for start, end in gaps for span in _strays(text, start, end))])


def _strays(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of lines that only this program writes, with a mark among them: what one clone put into a part while
    another one took that part out. A person may quote lines of ours, but not with the marks that nobody sees."""
    begin = stop = None
    at = start
    for line in [*_lines(text[start:end]), ""]:
        bare = line.strip("\r\n")
        if line and (not bare.strip() or is_ours(bare)):
            if bare.strip():
                begin = at if begin is None else begin
            if _TOLD.fullmatch(bare) or (stop is not None and bare.strip() and not _TAGGED.fullmatch(bare)):
                stop = at + len(line)
        else:
            if begin is not None and stop is not None:
                yield begin, stop
            begin = stop = None
        at += len(line)


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """From the title (or the line that says from how many messages) to the footer."""
    at, title, start, end = 0, None, None, 0
    for line in _lines(text):
        bare = line.strip("\r\n\ufeff")
        if at < end:
            pass
        elif start is None:
            if _TITLE.fullmatch(bare):
                title = at + line.startswith("\ufeff") if title is None else title
            elif _MADE_FROM.fullmatch(bare):
                start = at if title is None else title
            elif bare.strip():
                title = None
        elif bare.rstrip(" \t") == FOOTER:
            end = _FOOTERS.match(text, at).end()
            yield start, end
            title = start = None
        at += len(line)


_FOOTERS = re.compile(rf"(?:\s*(?:---\s*)?{re.escape(FOOTER)}[ \t]*(?:\r?\n|\Z))+")  # a merge can leave several


def _is_ours(body: str) -> bool:
    return any(_TOLD.fullmatch(line) or _SUMMED.fullmatch(line) for line in body.split("\n"))


class _Reading:
    """The lines of generated parts, sorted out by the marks: which version of each session is the fullest."""

    def __init__(self, bodies: list[str]):
        self.lines = [line for body in bodies for line in body.split("\n") if line.strip()]
        self.edited = ""
        self._by_check: dict[tuple[str, str, str], str] = {}
        self._known: set[str] = set()
        marks = [found for line in self.lines if (found := _TOLD.fullmatch(line))]
        summed = [found for line in self.lines if (found := _SUMMED.fullmatch(line))]
        self._index(marks)
        self.sessions = self._sessions(marks)
        self.summary = self._summary(summed)
        self._account()

    def _index(self, marks: list[re.Match]) -> None:
        sections: dict[tuple[str, str], set[str]] = {}
        for mark in marks:
            for one in mark["lines"].split():
                sections.setdefault((mark["tag"], one[1:]), set()).add(one[0])
        tags = {mark["tag"] for mark in marks}
        for line in self.lines:
            found = _TAGGED.fullmatch(line)
            if found is None or found["tag"] not in tags:
                continue
            for section in SECTIONS:
                one = check(section, line)
                if section in sections.get((found["tag"], one), ()):
                    self._by_check[found["tag"], section, one] = line
                    self._known.add(line)

    def _sessions(self, marks: list[re.Match]) -> tuple[Told, ...]:
        fullest: dict[str, re.Match] = {}
        for mark in sorted(marks, key=lambda mark: (int(mark["messages"]), int(mark["events"]), mark["lines"])):
            fullest[mark["tag"]] = mark
        told = []
        for tag, mark in fullest.items():
            lines = []
            for one in mark["lines"].split():
                line = self._by_check.get((tag, one[0], one[1:]))
                if line is None:
                    self.edited = self.edited or f"a line of session {tag} was changed or taken out"
                else:
                    lines.append((one[0], line))
            told.append(
                Told(tag, mark["agent"], mark["start"], int(mark["messages"]), int(mark["events"]), tuple(lines))
            )
        return tuple(sorted(told, key=lambda one: one.order))

    def _summary(self, summed: list[re.Match]) -> Summary | None:
        if not summed:
            return None
        best = max(summed, key=lambda mark: (int(mark["messages"]), mark["lines"]))
        by_check = {check("S", line): line for line in self.lines}
        wanted = {one for mark in summed for one in mark["lines"].split()}
        self._known |= {line for one, line in by_check.items() if one in wanted}
        lines = [by_check.get(one) for one in best["lines"].split()]
        if None in lines:
            self.edited = self.edited or "the summary was changed"
        return Summary(int(best["messages"]), tuple(line for line in lines if line is not None))

    def _account(self) -> None:
        for line in self.lines:
            if line in self._known or line in _HEADINGS or line in ("---", FOOTER):
                continue
            if any(pattern.fullmatch(line) for pattern in (_TITLE, _OURS, _TOLD, _SUMMED, _BETWEEN, _TOTALS)):
                continue
            self.edited = self.edited or f"this line was added or changed: {line[:60]}"


def is_ours(line: str) -> bool:
    """Whether a line is such as this program writes."""
    patterns = (_TITLE, _OURS, _TAGGED, _TOLD, _SUMMED, _BETWEEN, _TOTALS)
    return line in _HEADINGS or line in ("---", FOOTER) or any(pattern.fullmatch(line) for pattern in patterns)


def lines_by_hand(text: str) -> tuple[str, ...]:
    """The lines of a piece of a daily file that this program does not write."""
    return tuple(line for line in text.split("\n") if line.strip() and not is_ours(line))


def holds_generated(text: str) -> bool:
    """Whether a piece of a text has a line that only this program writes."""
    patterns = (_OURS, _TAGGED, _TOLD, _SUMMED, _TOTALS)
    return any(line == FOOTER or any(pattern.fullmatch(line) for pattern in patterns) for line in text.split("\n"))


# --- uniting


def unite(there: Part, mine: Part, *, afresh: bool = False) -> Part:
    """One part of both: of each session what was told by who knew more of it; of equals, what is there.

    `afresh`: what is known of a session here replaces what is there, unless that was made of more.
    """
    told = {one.tag: one for one in there.sessions}
    for one in mine.sessions:
        other = told.get(one.tag)
        if other is None or one.measure > other.measure or (afresh and one.measure == other.measure):
            told[one.tag] = one
    summary = there.summary
    if mine.summary is not None and (summary is None or mine.summary.messages >= summary.messages):
        summary = mine.summary
    return replace(
        there, date=mine.date, sessions=tuple(sorted(told.values(), key=lambda one: one.order)), summary=summary
    )


def adds_nothing(there: Part, known: Mapping[str, tuple[int, int]]) -> bool:
    """Whether `unite` with a part made from so much would be what is there."""
    told = {one.tag: one.measure for one in there.sessions}
    return all(tag in told and told[tag] >= measure for tag, measure in known.items())


def covers(there: Part, tags: Mapping[str, int]) -> bool:
    """Whether a part tells at least so many messages of each of these sessions."""
    told = {one.tag: one.messages for one in there.sessions}
    return all(told.get(tag, 0) >= count for tag, count in tags.items())


def edits(text: str, part: Part) -> list[tuple[int, int, str]]:
    """The changes (start, end, replacement) that make the generated part of a file this one, and touch nothing else.

    By whole lines, and of equal lines the first stays: clones that put one file right at once end with one text.
    """
    newline = "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"
    made = render(part).replace("\n", newline)
    spans = _spans(text)
    if not spans:
        at = len(text) - len(text.removeprefix("\ufeff"))
        return [(at, at, made + newline if text[at:].strip() else made)]
    (start, end), *others = spans
    changes = [(start + a, start + b, new) for a, b, new in line_edits(text[start:end], made)]
    for a, b in others:
        changes.append((end if not text[end:a].strip() else a, b, ""))  # with the blank line that parted them
        end = b
    return changes


def line_edits(old: str, new: str) -> list[tuple[int, int, str]]:
    """The changes of whole lines that make `new` of `old`."""
    before, after = _lines(old), _lines(new)
    first = {line: at for at, line in reversed(list(enumerate(before)))}
    kept = [at for at, line in enumerate(before) if not line.strip() or first[line] == at]
    matcher = SequenceMatcher(None, [before[at] for at in kept], after, autojunk=False)
    pairs = {kept[i + k]: j + k for i, j, size in matcher.get_matching_blocks() for k in range(size)}
    offsets = [0]
    for line in before:
        offsets.append(offsets[-1] + len(line))
    changes: list[tuple[int, int, str]] = []
    i = j = 0
    for at, to in [*sorted(pairs.items()), (len(before), len(after))]:
        if at > i or to > j:
            changes.append((offsets[i], offsets[at], "".join(after[j:to])))
        i, j = at + 1, to + 1
    return changes


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def file_edits(old: str, new: str) -> list[tuple[int, int, str]]:
    """The changes that make one file of another: of the generated part alone, if no more than that differs."""
    part = parse(new).part
    if part is not None and put(old, part) == new:
        return edits(old, part)
    from replica import textdiff

    return textdiff.diff(old, new)


def put(text: str, part: Part) -> str:
    """The whole file with this generated part; what is a person's stays as it is, below the footer."""
    for start, end, new in reversed(edits(text, part)):
        text = text[:start] + new + text[end:]
    return text


def summarised(text: str, messages: int) -> Summary | None:
    """A narrative as lines of the generated part: none of them can be taken for one of ours."""
    from replica.quoting import visible

    lines = []
    for line in visible(text[:40_000]).replace("\t", " ").split("\n"):
        bare = line.strip()
        if not bare:
            continue
        if re.match(r"[-*+] ", bare):
            bare = f"- {bare[2:].strip()}"
        elif bare.startswith("#"):
            bare = f"**{bare.lstrip('# ').rstrip('# ')}**"
        bare = re.sub(r"^(?:`{3,}|~{3,}|-{3,}|={3,}|\*{3,}|_{3,}|<|>)", lambda found: "\\" + found[0], bare)
        bare = bare.replace("<!--", "‹!--").replace("-->", "--›")
        if bare.strip("*# \\") and bare != FOOTER and not _MADE_FROM.fullmatch(bare) and not _TOTALS.fullmatch(bare):
            lines.append(bare)
    return Summary(messages, tuple(dict.fromkeys(lines))[:200]) if lines else None


def when(at: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(at / 1000, zone)
