"""What learnings would change in a clone's memory, and the change: each is an entry of the document where it belongs.

`plan` compares with what is there and writes nothing; `carry_out` writes, in one transaction. What was taken in from a
source is known again by the line that says so (replica/learn/entry.py), on every clone; what this clone has taken in it
also remembers itself, so that an entry which a person has removed, harvested or edited since is left alone.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

from replica import origin, writing
from replica.blocks import ENTRY, block_id
from replica.changes import Add
from replica.clone import Clone
from replica.documents import Document, Entry
from replica.errors import DamagedRecord, DocumentNotFound, ReplicaError, WrongPolicy
from replica.layouts import MEMORY_BANK
from replica.learn import entry as entries
from replica.learn.entry import Found, Item, Source, sense
from replica.places import FOLDER
from replica.writing import Wanted, free_occurrence

STATE = "learned.json"
ALIKE = 0.5  # share of common letters from which an item's new words are those of its entry, edited
LOOKED_AT = 1_000  # characters that are compared for that
MOST_COMPARED = 100  # items without names of their own, on either side: up to 10,000 comparisons

# The documents for each type, in the order in which one that is there is taken; the first is made where none is.
PLACES = {
    "lesson": ("lessons-buffer.md",),
    "pattern": ("patterns-buffer.md",),
    "decision": ("decisions-inbox.md",),
    "guideline": ("patterns-buffer.md", "best-practices-buffer.md", "best-practices.md"),
    "performance-insight": ("insights-buffer.md", "insights.md"),
    "campaign-learning": ("insights-buffer.md", "insights.md"),
}
PREFERRED = {"guideline": ("best-practices-buffer.md", "best-practices.md", "patterns-buffer.md")}

NEW, CHANGED, UNCHANGED, KNOWN, LEFT, GONE = "new", "changed", "unchanged", "known", "left", "gone"


@dataclass
class Step:
    """What becomes of one learning. `reason`: why it is left, or where it is known from. `id`: of the entry."""

    action: str
    item: Item
    document: str
    text: str = ""
    reason: str = ""
    id: bytes = b""
    old: Entry | None = None


class Gone(NamedTuple):
    """An entry whose source does not have it any more; it stays."""

    document: str
    source: Source
    text: str


@dataclass
class Plan:
    steps: list[Step] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)  # of the sources: label → file

    def count(self, action: str) -> int:
        return sum(step.action == action for step in self.steps)

    @property
    def writes(self) -> int:
        return self.count(NEW) + self.count(CHANGED)


# --- where it belongs


def destination(clone: Clone, type: str, into: str | None = None) -> str:
    """The document for learnings of a type. Raises DocumentNotFound, WrongPolicy: it cannot hold them."""
    path = into if into is not None else _there(clone, type) or _base(clone) + PLACES[type][0]
    rule = clone.rule(path)
    try:
        policy = clone.document(path).policy
    except DocumentNotFound:
        if rule is None:
            raise DocumentNotFound(
                f"no rule of replica.toml makes {path!r} a document, and a {type} goes there",
                hint='add `[[documents]]` with `glob = "**/*-buffer.md"` and `policy = "union"`, or give --into',
            ) from None
        policy = rule.policy
    if policy != "union":
        raise WrongPolicy(
            f"{path!r} is of policy {policy}: learnings are entries",
            hint='give it `policy = "union"` in replica.toml, or name another document with --into',
        )
    return path


def _there(clone: Clone, type: str) -> str | None:
    by_name: dict[str, list[str]] = {}
    for document in clone.documents.all():
        if document.policy == "union":
            by_name.setdefault(document.path.rpartition("/")[2], []).append(document.path)
    for name in PREFERRED.get(type, PLACES[type]):
        if name in by_name:
            return min(by_name[name], key=lambda path: ("memory-bank/" not in f"/{path}", path.count("/"), path))
    return None


def _base(clone: Clone) -> str:
    """Where the workspace keeps its buffers: beside those that are there, in memory-bank/, or at the root."""
    folders = Counter(
        document.path.rpartition("/")[0] for document in clone.documents.all()
        if document.path.rpartition("/")[2] in MEMORY_BANK
    )  # fmt: skip
    if folders:
        folder = min(folders, key=lambda one: (-folders[one], one.count("/"), one))
        return f"{folder}/" if folder else ""
    return "memory-bank/" if (clone.root / "memory-bank").is_dir() else ""


# --- what is there


_DAY = re.compile(r"(?:^|/)\d{4}-\d\d-\d\d[^/]*$")  # a day's notes tell what was learned; they do not keep it


class _Here(NamedTuple):
    """An entry, read."""

    document: str
    entry: Entry
    read: Found


class _Memory:
    """What this clone's memory says, as far as learnings are compared with it."""

    def __init__(self, clone: Clone):
        self._clone = clone
        self.by_sense: dict[str, _Here] = {}
        self.by_source: dict[Source, list[_Here]] = {}
        self._was: dict[str, tuple[set[str], set[tuple[Source, str]]]] = {}
        for document in clone.documents.all():
            if document.policy == "union" and not _DAY.search(document.path):
                for one in _read(clone, document):
                    self.by_sense.setdefault(sense(one.read.words), one)
                    # What was harvested is settled: a newer state of it is a new entry of the buffer.
                    if one.read.source is not None and origin.read_line(one.entry.text.rpartition("\n")[2]) is None:
                        self.by_source.setdefault(one.read.source, []).append(one)

    def was(self, path: str) -> tuple[set[str], set[tuple[Source, str]]]:
        """What a document said once and does not any more: the words, and the states of items of sources."""
        if path not in self._was:
            words, states = set(), set()
            for (text,) in self._clone.store.rows(
                "SELECT DISTINCT a.text FROM adds a JOIN documents d ON d.n=a.doc WHERE d.path=? AND a.role=?"
                " AND NOT EXISTS(SELECT 1 FROM adds b WHERE b.doc=a.doc AND b.id=a.id AND b.dead=0)", (path, ENTRY),
            ):  # fmt: skip
                found = entries.read(text)
                words.add(sense(found.words))
                if found.source is not None:
                    states.add((found.source, found.sha))
            self._was[path] = (words, states)
        return self._was[path]


def _read(clone: Clone, document: Document) -> list[_Here]:
    try:
        found = clone.documents.entries(document)
    except DamagedRecord:
        return []
    return [_Here(document.path, entry, entries.read(entry.text)) for entry in found if entry.role == ENTRY]


# --- the plan


def plan(
    clone: Clone, items: Iterable[Item], *, into: str | None = None, labels: dict[str, str] | None = None,
    said_now: bool = False,
) -> Plan:  # fmt: skip
    """What would become of these items. `labels`: the sources that are given whole, with their files.

    `said_now`: somebody says it at this moment, so what was removed once is meant again.

    Raises DocumentNotFound, WrongPolicy: a type has no document to go to.
    """
    clone.log.refresh()
    return _Planning(clone, list(items), into, labels or {}, said_now).result()


class _Planning:
    def __init__(self, clone: Clone, items: list[Item], into: str | None, labels: dict[str, str], said_now: bool):
        self.clone, self.into, self.said_now = clone, into, said_now
        self.memory = _Memory(clone)
        self.state = State.load(clone)
        self.places = {type: destination(clone, type, into) for type in {item.learning.type for item in items}}
        self.items = items
        self.plan = Plan(labels=labels)
        self.said: dict[str, str] = {}  # what this plan says already: sense → document
        self.claimed: set[bytes] = set()  # entries that an item of this plan has

    def result(self) -> Plan:
        self._name_by_likeness()
        for item in self.items:
            step = self._step(item)
            self.plan.steps.append(step)
            if step.action in (NEW, CHANGED):
                self.said[sense(item.learning.text)] = step.document
        self.plan.gone = list(self._gone())
        return self.plan

    def _step(self, item: Item) -> Step:
        path = self.places[item.learning.type]
        new = entries.written(item.learning, item.source, path)
        step = Step(NEW, item, path, new.text)
        if item.source is not None:
            if self.state.has(item.source, item.hash):
                return replace(step, action=UNCHANGED)
            known = self._known(item)
            if known is not None:
                return self._compared(step, known)
        key = sense(item.learning.text)
        same = self.memory.by_sense.get(key)
        if same is not None or key in self.said:
            where = same.document if same is not None else self.said[key]
            id = same.entry.id if same is not None else b""
            return replace(step, action=KNOWN, document=where, reason=f"{where} says it already", id=id)
        words, states = self.memory.was(path)
        if (key in words and not self.said_now) or (item.source, new.sha) in states:
            return replace(step, action=LEFT, reason="it was here, and was removed, harvested or edited since")
        return step

    def _known(self, item: Item) -> _Here | None:
        """The entry of an item: with these words, with those that this clone took in last, or with similar ones.

        Another file may have the same name elsewhere, and its items the same names.
        """
        there = [one for one in self.memory.by_source.get(item.source, []) if one.entry.id not in self.claimed]
        last = self.state.sha(item.source)
        found = next((one for one in there if one.read.sha == _sha(item, one.document)), None)
        found = found or next((one for one in there if last and one.read.sha == last), None)
        found = found or max(
            (one for one in there if _alike(one.read.words, item.learning.text) >= ALIKE),
            key=lambda one: _alike(one.read.words, item.learning.text), default=None,
        )  # fmt: skip
        if found is not None:
            self.claimed.add(found.entry.id)
        return found

    def _compared(self, step: Step, known: _Here) -> Step:
        entry, new = known.entry, entries.written(step.item.learning, step.item.source, known.document)
        step = replace(step, document=known.document, text=new.text, old=entry, id=entry.id)
        if known.read.sha == new.sha:
            meta = (entry.meta.get("type"), tuple(entry.meta.get("tags", ())))
            same = meta == (step.item.learning.type, step.item.learning.tags)
            return replace(step, action=UNCHANGED if same or not known.read.whole else CHANGED)
        if not known.read.whole:
            reason = "its entry was edited here since; take out that entry's line `from:`, and it is added anew"
            return replace(step, action=LEFT, reason=reason)
        behind = (step.item.source, new.sha) in self.memory.was(known.document)[1]
        if behind and self.state.sha(step.item.source) is None:
            return replace(step, action=LEFT, reason="an older state of it: a newer one was taken in already")
        return replace(step, action=CHANGED)

    def _name_by_likeness(self) -> None:
        """An item without a name of its own whose words changed is the one that was there, by its likeness."""
        present = {item.source for item in self.items}
        loose: dict[tuple[str, str], list[_Here]] = {}
        for source, found in self.memory.by_source.items():
            if source.label in self.plan.labels and source not in present and _is_loose(source.item):
                loose.setdefault((source.label, source.item.rpartition("/")[0]), []).extend(found)
        changed = [
            (at, item) for at, item in enumerate(self.items)
            if not item.named and item.source is not None and item.source not in self.memory.by_source
            and not self.state.has(item.source, item.hash)
        ]  # fmt: skip
        for at, item in changed[: MOST_COMPARED if loose else 0]:
            key = (item.source.label, item.source.item.rpartition("/")[0])
            rivals = loose.get(key, [])[:MOST_COMPARED]
            best = max(rivals, key=lambda one: _alike(one.read.words, item.learning.text), default=None)
            if best is not None and _alike(best.read.words, item.learning.text) >= ALIKE:
                # It goes on under the name that its entry has, so that every clone finds it.
                self.items[at] = replace(item, source=best.read.source)
                loose[key].remove(best)

    def _gone(self) -> Iterable[Gone]:
        present = {item.source for item in self.items}
        for source, found in sorted(self.memory.by_source.items()):
            if source.label in self.plan.labels and source not in present:
                for one in found:
                    yield Gone(one.document, source, one.entry.text)


def _sha(item: Item, path: str) -> str:
    return entries.written(item.learning, item.source, path).sha


def _is_loose(item: str) -> bool:
    return item.rpartition("/")[2].startswith("~")


def _alike(one: str, other: str) -> float:
    one, other = sense(one)[:LOOKED_AT], sense(other)[:LOOKED_AT]
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    return matcher.ratio() if min(matcher.real_quick_ratio(), matcher.quick_ratio()) >= ALIKE else 0.0


# --- writing it


def carry_out(clone: Clone, planned: Plan) -> Plan:
    """Write it, in one transaction; what cannot be written is left, with the reason.

    What another process wrote between plan and now is seen: an entry that was there then and is not now stays gone.
    """
    with clone.transaction():
        for path in dict.fromkeys(step.document for step in planned.steps if step.action in (NEW, CHANGED)):
            steps = [step for step in planned.steps if step.document == path]
            _edit(clone, path, [step for step in steps if step.action == CHANGED])
            _add(clone, path, [step for step in steps if step.action == NEW])
    State.load(clone).note(planned).save()
    return planned


def _add(clone: Clone, path: str, steps: list[Step]) -> None:
    if not steps:
        return
    wanted = [Wanted(step.text, step.item.learning.type, step.item.learning.tags) for step in steps]
    for step, done in zip(steps, writing.add_all(clone, path, wanted), strict=True):
        if isinstance(done, ReplicaError):
            step.action, step.reason = LEFT, str(done)
        elif not done.new:
            step.action, step.reason, step.id = KNOWN, f"{path} says it already", done.id
        else:
            step.id = done.id


def _edit(clone: Clone, path: str, steps: list[Step]) -> None:
    """Each entry gives way to its new state, in its place; of an edit that came between, nothing is lost."""
    if not steps:
        return
    document = clone.document(path)
    now = {entry.id: entry for entry in clone.documents.entries(document)}
    twins = {entry.text for entry in now.values() if entry.role == ENTRY}
    ops: list[tuple[int, Any]] = []
    for step in steps:
        old, one = now.get(step.old.id), step.item.learning
        if old is None or (step.text in twins and step.text != old.text):
            step.action, step.reason = LEFT, "it was changed meanwhile"
            continue
        meta = {**old.meta, "type": one.type, "tags": list(one.tags)}
        meta = {key: value for key, value in meta.items() if value}
        occurrence = old.occurrence
        if step.text != old.text:
            occurrence = free_occurrence(clone, document, ENTRY, step.text)
        level = 0 if old.private else 1
        ops.append((level, Add(ENTRY, step.text, occurrence, old.lead, old.place, old.dots, meta)))
        step.id = block_id(ENTRY, step.text, occurrence)
        twins.add(step.text)
    if ops:
        clone.edit_entries(document.path, document.policy, ops)


# --- what this clone has taken in


class State:
    """`.replica/learned.json`: of each source its file, and of each item the hash of it and of the entry it became."""

    def __init__(self, path: Path, sources: dict[str, dict[str, Any]]):
        self._path, self._sources = path, sources

    @classmethod
    def load(cls, clone: Clone) -> "State":
        """What cannot be read is forgotten: the entries themselves say what was taken in."""
        path = clone.root / FOLDER / STATE
        try:
            found = json.loads(path.read_text("utf-8"))["sources"]
            sources = {label: {"file": str(one["file"]), "items": _pairs(one["items"])} for label, one in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            sources = {}
        return cls(path, sources)

    def files(self) -> dict[str, str]:
        return {label: one["file"] for label, one in self._sources.items()}

    def has(self, source: Source, hash: str) -> bool:
        return bool(hash) and self._item(source)[0] == hash

    def sha(self, source: Source) -> str | None:
        """What the last line of its entry said when this clone took it in."""
        return self._item(source)[1] or None

    def _item(self, source: Source) -> list[str]:
        return self._sources.get(source.label, {}).get("items", {}).get(source.item, ["", ""])

    def note(self, planned: Plan) -> "State":
        for step in planned.steps:
            source = step.item.source
            if source is not None and step.action in (NEW, CHANGED, UNCHANGED):
                one = self._sources.setdefault(source.label, {"file": "", "items": {}})
                one["file"] = planned.labels.get(source.label, one["file"])
                sha = entries.read(step.text).sha
                one["items"][source.item] = [step.item.hash, sha or self._item(source)[1]]
        for label in planned.labels:
            present = {step.item.source.item for step in planned.steps if step.item.source is not None}
            items = self._sources.get(label, {}).get("items", {})
            for item in [item for item in items if item not in present]:
                del items[item]
        return self

    def save(self) -> None:
        text = json.dumps({"sources": self._sources}, ensure_ascii=False, indent=1, sort_keys=True)
        beside = self._path.with_suffix(".new")
        beside.write_text(text, "utf-8")
        os.chmod(beside, 0o600)
        os.replace(beside, self._path)


def _pairs(items: dict[str, list[str]]) -> dict[str, list[str]]:
    return {item: [str(hash), str(sha)] for item, (hash, sha) in items.items()}
