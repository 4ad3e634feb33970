"""Harvest: entries of a full buffer become part of a formal document, with their origin, and leave the buffer.

All of one harvest is one transaction: a crash leaves it done or not begun. What is written follows from the entries
alone (replica/origin.py), so two clones that harvest the same ones at once write them once; what still comes out twice
is put right when they have met (replica/tidy.py). docs/harvest.md has the reasons.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from replica import adr, origin, tidy
from replica.blocks import ENTRY, HEADING, PROSE, Block, block_id, render, spaced
from replica.changes import Add, Remove
from replica.clone import Clone
from replica.config import Harvest, Rule
from replica.documents import Document, Entry
from replica.errors import DamagedRecord, DocumentNotFound, TooLarge, UnsafePath, UsageError, WrongPolicy
from replica.paths import normal

INBOX = "decisions-inbox.md"


class Measure(NamedTuple):
    """How full a buffer is: `share` 1 is full, by the threshold that is nearest."""

    measure: str
    value: int
    threshold: int
    share: float


class Unit(NamedTuple):
    """What is harvested as one: an entry, or a section with all that is in it. `blocks`: in the order of the file.

    `heading`: the nearest one above, below the title; part of the unit (`is_section`), or a drawer that stays.
    """

    blocks: tuple[Entry, ...]
    heading: Entry | None
    is_section: bool

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(block for block in self.blocks if block.role == ENTRY)

    @property
    def id(self) -> str:
        return origin.short(self.entries[0].id)

    @property
    def ids(self) -> tuple[bytes, ...]:
        return tuple(block.id for block in self.blocks)

    @property
    def title(self) -> str:
        if self.is_section and self.heading is not None:
            return origin.title_of(self.heading.text)
        return origin.title_of(origin.plain(self.entries[0].text))

    @property
    def text(self) -> str:
        """The content, as it stands in a file of its own."""
        if len(self.blocks) == 1:
            return origin.plain(self.blocks[0].text)
        return render(block.block for block in self.blocks).strip("\n")


class Left(NamedTuple):
    """An entry that stays in the buffer, and why."""

    id: str
    text: str
    reason: str


@dataclass
class Buffer:
    """One buffer and what can be harvested of it. `target`: a document, or a folder (ends in "/")."""

    path: str
    target: str
    owner: str | None
    full: Measure | None
    entries: int
    units: list[Unit]
    left: list[Left]
    is_decisions: bool  # each becomes a decision record


class Written(NamedTuple):
    """Where a unit went. `new`: False where the target held it already."""

    unit: Unit
    document: str
    new: bool


@dataclass
class Harvested:
    """What one buffer gave. `remaining`: how many entries are left in it."""

    buffer: Buffer
    written: list[Written] = field(default_factory=list)
    remaining: int = 0

    @property
    def count(self) -> int:
        return sum(len(one.unit.entries) for one in self.written)


# --- how full


def fullness(clone: Clone, document: Document, rule: Harvest) -> Measure:
    """Raises DamagedRecord."""
    if document.policy == "text":
        shown, text = [], clone.documents.text(document)
    else:  # read once: to put a long buffer in order takes its time
        shown = clone.documents.entries(document)
        text = render(spaced((entry.block for entry in shown), document.policy))
    entries = sum(entry.role == ENTRY for entry in shown)
    have = {
        "lines": sum(1 for line in text.split("\n") if line.strip()),
        "entries": entries,
        "bytes": len(text.encode()),
    }
    shares = [(have[what] / most, what, most) for what in have if (most := getattr(rule, what))]
    share, what, most = max(shares)
    return Measure(what, have[what], most, share)


# --- what could be harvested


def plan(clone: Clone, path: str | None = None, into: str | None = None) -> list[Buffer]:
    """The buffers that are full, or the one that is named, with what could be harvested.

    Raises:
        DocumentNotFound: no such document, or nothing makes the target a document.
        UsageError: the document has no target.
        WrongPolicy: it has no entries to harvest, or the target takes none.
    """
    clone.log.refresh()
    if path is not None:
        return [_buffer(clone, path, into)]
    return [found for name, policy in clone.documents.latest_changes() if (found := _full(clone, name, policy, into))]


def _full(clone: Clone, path: str, policy: str, into: str | None) -> Buffer | None:
    """The buffer if it is full; one that cannot be harvested as it is set up says why, and the others go on."""
    rule = clone.rule(path)
    if rule is None or rule.harvest is None or rule.policy != policy:
        return None
    try:
        full = fullness(clone, clone.documents.find(path, policy), rule.harvest)
        return _buffer(clone, path, into) if full.share >= 1 else None
    except DamagedRecord:
        return None  # listed where its file is passed over
    except (DocumentNotFound, UsageError, WrongPolicy) as error:
        left = Left("", path, f"{error}; {error.hint}")
        return Buffer(path, into or rule.harvest.into, rule.harvest.owner, full, 0, [], [left], False)


def _buffer(clone: Clone, path: str, into: str | None) -> Buffer:
    document, rule = clone.document(path), clone.rule(path)
    if document.policy != "union":
        raise WrongPolicy(
            f"{path!r} is of policy {document.policy}: {_WHY_NOT[document.policy]}",
            hint="harvest documents of policy union: the buffers",
        )
    harvest = rule.harvest if rule is not None else None
    if into is None and harvest is None:
        raise UsageError(
            f"replica.toml does not say where {path!r} is harvested to",
            hint='give --into FILE, or add harvest = { entries = 10, into = "…" } to its rule',
        )
    target = into if into is not None else harvest.into
    is_decisions = _makes_records(path, target)
    place = _Target.of(clone, path, target)
    units, left = _units(clone, document)
    units, too_low = _with_level(units, place)
    return Buffer(
        path, target, harvest.owner if harvest else None, fullness(clone, document, harvest) if harvest else None,
        sum(entry.role == ENTRY for entry in clone.documents.entries(document)), units, left + too_low, is_decisions,
    )  # fmt: skip


_WHY_NOT = {
    "text": "one text, without entries",
    "latest": "one text that is replaced as a whole",
    "log": "a log only grows",
}


def _makes_records(path: str, target: str) -> bool:
    return target.endswith("/") and (
        target.rstrip("/").rpartition("/")[2].lower() in ("adr", "adrs") or path.rpartition("/")[2] == INBOX
    )


def _units(clone: Clone, document: Document) -> tuple[list[Unit], list[Left]]:
    """The units of a buffer in their order, and what has to stay."""
    shown = clone.documents.entries(document)
    rivals = {entry.id for conflict in clone.documents.conflicts(document) for entry in conflict.entries}
    units, left = [], []
    for unit in divided(shown):
        reasons = [_stays(block, rivals) for block in unit.blocks]
        reason = next((reason for reason in reasons if reason), "")
        if reason:
            left += [Left(origin.short(entry.id), entry.text, reason) for entry in unit.entries]
        else:
            units.append(unit)
    return units, left


def _stays(entry: Entry, rivals: set[bytes]) -> str:
    if entry.id in rivals:
        return "it is in conflict: settle that first (`replica conflicts`)"
    if entry.private:
        return "it is of level 0, for this clone alone"
    return ""


def divided(shown: list[Entry]) -> list[Unit]:
    """A file's entries as units.

    Where headings have paragraphs right below them, the file is one of sections, and each is a unit, the lists in it
    too. Else the headings are drawers, and each entry is a unit.
    """
    depths = [_depth(entry) for entry in shown]
    of_sections = min(
        (
            a
            for a, below in zip(depths, shown[1:], strict=False)
            if a > 1 and below.role == ENTRY and not _is_item(below)
        ),
        default=0,
    )
    units: list[Unit] = []
    heading, section = None, []
    for entry, depth in zip(shown, depths, strict=True):
        if depth:
            if section and depth > of_sections:
                section.append(entry)  # a heading within
                continue
            units += _section(heading, section)
            heading, section = entry if depth > 1 else None, [entry] if depth == of_sections else []
        elif section:
            section.append(entry)
        elif entry.role == ENTRY:
            units.append(Unit((entry,), heading, False))
    return units + _section(heading, section)


def _section(heading: Entry | None, section: list[Entry]) -> list[Unit]:
    blocks = tuple(block for block in section[1:] if block.role in (ENTRY, HEADING))
    return [Unit(blocks, heading, True)] if any(block.role == ENTRY for block in blocks) else []


def _depth(entry: Entry) -> int:
    """The level of a heading, 0 for what is none."""
    if entry.role != HEADING:
        return 0
    marks = len(entry.text.lstrip(" ")) - len(entry.text.lstrip(" ").lstrip("#"))
    return marks or (2 if entry.text.rstrip().endswith("-") else 1)


def _is_item(entry: Entry) -> bool:
    return origin.plain(entry.text) != entry.text


# --- where it goes


class _Target(NamedTuple):
    path: str
    rule: Rule  # of the document, or of a file in the folder

    @classmethod
    def of(cls, clone: Clone, source: str, target: str) -> "_Target":
        """Raises DocumentNotFound, UsageError, WrongPolicy: nothing can be harvested there."""
        is_folder = target.endswith("/")
        try:
            path = normal(target.removesuffix("/"))
        except UnsafePath as error:
            raise UsageError(str(error), hint="name a path below the clone's folder") from None
        if path == source:
            raise UsageError(f"{path!r} would be harvested into itself", hint="name another document with --into")
        rule = clone.rule(f"{path}/ADR-000-a.md" if is_folder else path)
        if rule is None:
            raise DocumentNotFound(
                f"no rule of replica.toml makes {target!r} a document",
                hint="add one, or name another place with --into",
            )
        if not is_folder:
            alive = [
                d.policy for d in (clone.documents.find(path, p) for p in ("latest", "union", "log", "text")) if d.alive
            ]
            if alive and rule.policy not in alive:
                raise WrongPolicy(
                    f"{path!r} is of policy {alive[0]} still, and is to be {rule.policy}",
                    hint="let the files be taken in first: `replica sync`",
                )
        if rule.policy == "latest" and not is_folder:
            raise WrongPolicy(
                f"{path!r} is replaced as a whole (policy latest)",
                hint="harvest into a document of policy union or text",
            )
        if rule.level == 0:
            raise WrongPolicy(
                f"{target!r} stays on this clone (level 0): the others would lose what is harvested",
                hint="raise the level of its rule in replica.toml, or name another place with --into",
            )
        return cls(path + "/" * is_folder, rule)


def _with_level(units: list[Unit], target: _Target) -> tuple[list[Unit], list[Left]]:
    """Those whose own level the target can keep: what is not for the cloud does not go there by way of a text."""
    if target.rule.policy in ("union", "log") and not target.path.endswith("/"):
        return units, []
    fit, left = [], []
    for unit in units:
        low = [entry for entry in unit.entries if entry.meta.get("level", target.rule.level) < target.rule.level]
        if low:
            why = f"it is of level {low[0].meta['level']}, and {target.path} of level {target.rule.level}"
            left += [Left(origin.short(entry.id), entry.text, why) for entry in unit.entries]
        else:
            fit.append(unit)
    return fit, left


# --- the harvest


def harvest(clone: Clone, buffers: Iterable[Buffer]) -> tuple[list[Harvested], tidy.Tidied]:
    """Write the units of these buffers to their targets, take them out of the buffers, and put right what is twice.

    In one transaction. What was edited, removed or came into conflict since the plan was made stays.

    Raises TooLarge: a target would be over its limit; nothing was changed.
    """
    with clone.transaction():
        tidied = tidy.tidy(clone)
        done = [_harvest(clone, buffer) for buffer in buffers]
        _join(tidied, tidy.tidy(clone))
    return done, tidied


def _join(first: tidy.Tidied, second: tidy.Tidied) -> None:
    for path, count in second.once.items():
        first.once[path] = first.once.get(path, 0) + count
    first.merged += second.merged
    first.alike += second.alike
    first.renumbered += second.renumbered
    first.notes += [note for note in second.notes if note not in first.notes]


def _harvest(clone: Clone, planned: Buffer) -> Harvested:
    if not planned.units:
        return Harvested(planned, remaining=planned.entries)
    now = _buffer(clone, planned.path, planned.target)
    done = Harvested(now)
    wanted = {unit.ids for unit in planned.units}
    chosen = [unit for unit in now.units if unit.ids in wanted]
    target = _Target.of(clone, now.path, now.target)
    document = clone.document(now.path)
    if chosen:
        if target.path.endswith("/"):
            done.written = _into_folder(clone, now, chosen, target)
        elif target.rule.policy == "text":
            done.written = _into_text(clone, chosen, target)
        else:
            done.written = _into_blocks(clone, chosen, target)
        _take_out(clone, document, done.written, headings=target.path.endswith("/") or target.rule.policy == "union")
    now.left += [
        Left(unit.id, unit.entries[0].text, "it cannot stand as one entry in the target")
        for unit in chosen
        if unit not in [one.unit for one in done.written]
    ]
    done.remaining = sum(entry.role == ENTRY for entry in clone.documents.entries(document))
    return done


def _take_out(clone: Clone, document: Document, written: list[Written], *, headings: bool) -> None:
    """Remove what was harvested, as far as it is seen here: a concurrent edit stays."""
    shown = clone.documents.entries(document)
    gone = {block.id for one in written for block in one.unit.blocks}
    sections = [one.unit.heading for one in written if one.unit.is_section and one.unit.heading is not None]
    emptied = [at for at, e in enumerate(shown) if headings and e in sections and _is_emptied(shown, at, gone)]
    out = {at for at, entry in enumerate(shown) if entry.id in gone and (headings or entry.role == ENTRY)}
    out |= {*emptied, *_idle_rules(shown, emptied)}
    clone.edit_entries(document.path, document.policy, [(1, Remove(shown[at].dots)) for at in sorted(out)])


def _idle_rules(shown: list[Entry], emptied: list[int]) -> set[int]:
    """The rules that parted these sections from what came next; where nothing does, from what came before."""
    idle: set[int] = set()
    for at in emptied:
        below = itertools.takewhile(lambda n, at=at: not 0 < _depth(shown[n]) <= _depth(shown[at]),
                                    range(at + 1, len(shown)))  # fmt: skip
        idle |= {n for n in below if _is_rule(shown[n])}
    last = len(shown)
    for at in reversed(emptied):
        if any(0 < _depth(entry) <= _depth(shown[at]) for entry in shown[at + 1 : last]):
            break
        last = at
    if 1 < last < len(shown) and _is_rule(shown[last - 1]) and shown[last - 2].role == ENTRY:
        idle.add(last - 1)
    return idle


def _is_rule(entry: Entry) -> bool:
    return entry.role == PROSE and not entry.text.strip("-*_ ")


def _is_emptied(shown: list[Entry], at: int, gone: set[bytes]) -> bool:
    """Whether nothing but a rule is left below the heading at `at`."""
    for entry in shown[at + 1 :]:
        if 0 < _depth(entry) <= _depth(shown[at]):
            return True
        if entry.id not in gone and entry.text.strip("-*_ "):
            return False
    return True


def _origin(clone: Clone, entries: tuple[Entry, ...], *, exact: bool) -> origin.Origin:
    first = min(entries, key=lambda entry: entry.key)
    return origin.origin_of(clone.author_name(first.author), first.time, (e.id for e in entries), exact=exact)


# --- into a document of entries


def _into_blocks(clone: Clone, units: list[Unit], target: _Target) -> list[Written]:
    policy = target.rule.policy
    document = clone.documents.find(target.path, policy)._replace(private=None)
    shown = clone.documents.entries(document)
    there = {id for found in origin.origins(render(e.block for e in shown)) for id in found.ids}
    outline = _Outline(shown, target.path, policy)
    written = []
    for unit in units:
        pieces = [
            (entry, origin.signed(entry.text, _origin(clone, (entry,), exact=False), policy)) for entry in unit.entries
        ]
        if any(text is None for _, text in pieces):
            continue
        new = [(entry, text) for entry, text in pieces if origin.short(entry.id) not in there]
        for entry, text in new:
            outline.put(_heading_above(unit, entry), text, entry.meta, target.rule.level)
        written.append(Written(unit, target.path, bool(new)))
    _check_size(clone, target.path, clone.documents.text(document), [op.text for op in outline.ops])
    if outline.ops:
        clone.edit_entries(target.path, policy, [(1, op) for op in outline.ops])
    return written


def _heading_above(unit: Unit, entry: Entry) -> Entry | None:
    found = unit.heading
    for block in unit.blocks[: unit.blocks.index(entry)]:
        found = block if block.role == HEADING else found
    return found


class _Outline:
    """A target of entries as it is and as it becomes: under which heading the next entry is put, and behind what."""

    def __init__(self, shown: list[Entry], path: str, policy: str):
        self.ops: list[Add] = []
        self._is_log = policy == "log"
        self._blocks: list[tuple[bytes, Block]] = [(entry.place, entry.block) for entry in shown]
        if not shown and not self._is_log:
            self._insert(0, HEADING, f"# {title_of_file(path)}", "", {})

    def put(self, heading: Entry | None, text: str, meta: dict, level: int) -> None:
        """At the end of the part under this heading, which is made where the target lacks it."""
        if meta.get("level") == level:
            meta = {key: value for key, value in meta.items() if key != "level"}
        if heading is None or self._is_log:
            return self._insert(len(self._blocks), ENTRY, text, self._lead(), meta)
        at = next((n for n, (_, b) in enumerate(self._blocks) if (b.role, b.text) == (HEADING, heading.text)), None)
        if at is None:
            at = len(self._blocks)
            self._insert(at, HEADING, heading.text, "\n", {})
        end = next(
            (n for n in range(at + 1, len(self._blocks)) if self._blocks[n][1].role == HEADING), len(self._blocks)
        )
        return self._insert(end, ENTRY, text, "\n", meta)

    def _lead(self) -> str:
        return "" if self._is_log or not self._blocks else "\n"

    def _insert(self, at: int, role: str, text: str, lead: str, meta: dict) -> None:
        """Always under its first name: what two clones write of one entry is one block."""
        after = self._blocks[at - 1][0] if at else None
        self.ops.append(Add(role, text, 1, lead, after, (), meta))
        self._blocks.insert(at, (block_id(role, text, 1), Block(role, text, lead)))


def title_of_file(path: str) -> str:
    stem = path.rpartition("/")[2].rpartition(".")[0] or path
    return stem.replace("-", " ").replace("_", " ").strip() or "Harvested"


# --- into a text


def _into_text(clone: Clone, units: list[Unit], target: _Target) -> list[Written]:
    document = clone.documents.find(target.path, "text")
    if document.alive and clone.documents.shown_text(document) != document.shared:
        raise WrongPolicy(
            f"{target.path!r} goes on for this clone alone (level 0)", hint="name another place with --into"
        )
    if not document.alive:
        # The title alone comes first: what two clones begin alike is one beginning.
        clone.edit_text(target.path, new=f"# {title_of_file(target.path)}\n")
        document = clone.documents.find(target.path, "text")
    old = clone.documents.text(document)
    there = {id for found in origin.origins(old) for id in found.ids}
    written, paragraphs = [], []
    for unit in units:
        texts = {
            entry.id: origin.signed(entry.text, _origin(clone, (entry,), exact=False), "text") for entry in unit.entries
        }
        if None in texts.values():
            continue
        new = [texts[entry.id] for entry in unit.entries if origin.short(entry.id) not in there]
        paragraphs += new
        written.append(Written(unit, target.path, bool(new)))
    _check_size(clone, target.path, old, paragraphs)
    if paragraphs:
        gap = "" if not old.strip("\n") or old.endswith("\n\n") else "\n" if old.endswith("\n") else "\n\n"
        clone.edit_text(target.path, [(len(old), len(old), gap + "\n\n".join(paragraphs) + "\n")])
    return written


def _check_size(clone: Clone, path: str, old: str, more: list[str]) -> None:
    limit = clone.config.limits.document
    size = len(old.encode()) + sum(len(text.encode()) + 2 for text in more)
    if size > limit:
        raise TooLarge(
            f"{path!r} would have {size:,} bytes, over the limit of {limit:,} (limits.document)",
            hint="harvest into another document with --into, or raise the limit in replica.toml",
        )


# --- into files of their own


def _into_folder(clone: Clone, buffer: Buffer, units: list[Unit], target: _Target) -> list[Written]:
    there: dict[str, str] = {}
    for document, text in tidy.in_folder(clone, target.path):
        there.update({id: document.path for found in origin.origins(text) for id in found.ids})
    make = _record_maker(clone, buffer, target.path) if buffer.is_decisions else _note_maker(clone, target.path)
    written = []
    for unit in units:
        ids = [origin.short(entry.id) for entry in unit.entries]
        if all(id in there for id in ids):
            written.append(Written(unit, there[ids[0]], False))
            continue
        path, text = make(unit, _origin(clone, unit.entries, exact=True))
        _check_size(clone, path, "", [text])
        tidy.write_file(clone, path, text)
        written.append(Written(unit, path, True))
    return written


Maker = Callable[[Unit, origin.Origin], tuple[str, str]]


def _note_maker(clone: Clone, folder: str) -> Maker:
    """One file each. Its name holds a hash of what is in it, so that a name never means two contents."""

    def make(unit: Unit, of: origin.Origin) -> tuple[str, str]:
        said_all = unit.text == unit.title
        text = f"# {unit.title}\n\n" + ("" if said_all else f"{unit.text}\n\n") + f"{of.line}\n"
        mark = hashlib.sha256(text.encode()).hexdigest()[:6]
        return f"{folder}{of.date}-{origin.slug(unit.title)}-{mark}.md", text

    return make


def _record_maker(clone: Clone, buffer: Buffer, folder: str) -> Maker:
    template = template_in(clone, folder)
    highest = max((one.number for one in tidy.records(clone, folder)), default=0)

    def make(unit: Unit, of: origin.Origin) -> tuple[str, str]:
        nonlocal highest
        highest += 1
        while tidy.was_there(clone, path := adr.path_for(folder, highest, unit.title)):
            highest += 1
        tags = dict.fromkeys(tag for entry in unit.entries for tag in entry.meta.get("tags", ()))
        values = {
            "number": f"{highest:03d}", "title": unit.title, "date": of.date, "author": of.author, "text": unit.text,
            "document": buffer.path, "tags": ", ".join(tags),
        }  # fmt: skip
        return path, adr.filled(template, values, of)

    return make


def template_in(clone: Clone, folder: str) -> str:
    """The template of a folder of decision records: its own, or ours."""
    try:
        return clone.text(folder + adr.TEMPLATE_FILE)
    except (DocumentNotFound, DamagedRecord):
        return adr.TEMPLATE


def foreseen(buffer: Buffer) -> Harvested:
    """What a harvest of this buffer would be; the names of new files are not known before."""
    written = [Written(unit, buffer.target, True) for unit in buffer.units]
    done = Harvested(buffer, written)
    done.remaining = buffer.entries - done.count
    return done
