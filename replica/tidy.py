"""Puts right what harvests on several clones made twice while apart. Any clone may do it, and several at once.

Every step follows from the shared documents alone, takes away only what it has seen, and leaves what a person has
edited: so clones in one state do the same, and clones in different states end alike once they have met and tidied.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from replica import adr, intake, origin, regions
from replica.blocks import ENTRY
from replica.changes import Kind, Remove
from replica.clone import Clone
from replica.documents import Conflict, Document
from replica.errors import DamagedRecord, DocumentNotFound
from replica.paths import DAILY
from replica.places import CONFIG

NAMED = 3  # documents on one line
DONE = "tidied"  # the row of the log up to which there is nothing to put right


class Renumbered(NamedTuple):
    document: str
    now: str
    why: str  # the record that has the number
    links: tuple[str, ...] = ()  # documents that name the old file

    @property
    def line(self) -> str:
        now, why = self.now.rpartition("/")[2], self.why.rpartition("/")[2]
        more = f" and {len(self.links) - NAMED} more" if len(self.links) > NAMED else ""
        still = f"; still named so in {', '.join(self.links[:NAMED])}{more}" if self.links else ""
        return f"{self.document} is {now} now{still}: {why} is older and keeps the number"


@dataclass
class Tidied:
    """What was put right, and what a person has to look at."""

    once: dict[str, int] = field(default_factory=dict)  # document -> how many entries stood there twice
    merged: list[tuple[str, str]] = field(default_factory=list)  # a file that went, and the one that holds the same
    renumbered: list[Renumbered] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)  # texts of which two clones settled a conflict with the same words
    days: list[str] = field(default_factory=list)  # daily files whose generated parts became one

    @property
    def changed(self) -> bool:
        return bool(self.once or self.merged or self.renumbered or self.alike or self.days)

    def lines(self) -> list[str]:
        """What to tell a person, a line each."""
        entries = {path: f"{count:,} {'entry' if count == 1 else 'entries'}" for path, count in self.once.items()}
        return [
            *(f"{path}: {what} stood there twice, harvested on two clones; now once" for path, what in entries.items()),
            *(f"{gone} was the same as {kept}, which is kept" for gone, kept in self.merged),
            *(one.line for one in self.renumbered),
            *(f"{path}: two clones have settled a conflict with the same words; now once" for path in self.alike),
            *(f"{path}: two clones wrote this day while apart; its generated part is one now" for path in self.days),
            *self.notes,
        ]


def tidy(clone: Clone) -> Tidied:
    """Put right what is there twice, in one transaction. Only what has changed since the last time is looked at."""
    done = Tidied()
    clone.log.refresh()
    since = clone.store.meta(DONE) or 0
    if since > clone.log.last_row():  # the store was begun anew (replica/rejoin.py)
        since = 0
    if not _is_writable(clone) or clone.log.last_row() == since:
        return done
    with clone.transaction():
        changed = {path for path, _ in clone.documents.latest_changes(since)}
        if CONFIG in changed:  # other rules, other targets
            changed = {path for path, _ in clone.documents.latest_changes()}
        marked = {doc for (doc,) in clone.store.rows(_MARKED, (origin.MARK,))}
        folders = set()
        for document in _documents(clone, changed):
            is_looked_at = document.policy == "text" or document.shared in marked or DAILY.search(document.path)
            if is_looked_at and (shown := _shown(clone, document)):
                _once(clone, *shown, done)
                _settled_alike(clone, document, done)
                _agreed(clone, *shown)
                _day(clone, document, done)
                if "/" in document.path and is_file_of_its_own(document.path) and origin.origins(shown[1]):
                    folders.add(document.path.rpartition("/")[0] + "/")
        for folder in sorted(folders):
            _files(clone, folder, done)
            _records(clone, folder, done)
        _buffers(clone, changed, done)
        # A note is said each time, until it is settled: only then there is nothing left to do.
        clone.store.set_meta(DONE, None if done.notes else clone.log.last_row())
    return done


def days(clone: Clone, paths: Iterable[str]) -> Tidied:
    """As `tidy`, of these daily memory files alone, and of nothing that a person should be told of each time."""
    done = Tidied()
    clone.log.refresh()
    if not _is_writable(clone):
        return done
    with clone.transaction():
        for document in _documents(clone, {path for path in paths if DAILY.search(path)}):
            _day(clone, document, done)
    return done


def _is_writable(clone: Clone) -> bool:
    return clone.store.meta("rejoin") is None and clone.log.author(clone.identity.id) is not None


def _documents(clone: Clone, paths: set[str]) -> list[Document]:
    return [clone.documents.find(*pair) for pair in clone.documents.latest_changes() if pair[0] in paths]


# Documents of entries in which an origin may stand: the others need not be put in order.
_MARKED = "SELECT DISTINCT doc FROM adds WHERE dead=0 AND instr(text, ?)>0"


def _shown(clone: Clone, document: Document) -> tuple[Document, str] | None:
    """The shared twin of a document and its text; None where it is no place for harvests, or is not what is shown."""
    if document.shared is None or document.policy == "latest" or clone.rule(document.path) is None:
        return None
    if not clone.store.value("SELECT 1 FROM alive WHERE doc=?", (document.shared,)):
        return None
    try:
        if document.policy != "text":
            return document._replace(private=None), clone.documents.text(document._replace(private=None))
        if clone.documents.shown_text(document) != document.shared:
            return None
        return document, clone.documents.text(document)
    except DamagedRecord:
        return None  # listed where its file is passed over


def _once(clone: Clone, document: Document, text: str, done: Tidied) -> None:
    """Take out what stands twice within one document."""
    if len({ids for found in origin.origins(text) for ids in found.ids}) == len(origin.origins(text)):
        return
    if document.policy == "text":
        spans = origin.twice_in_text(text)
        if spans:
            clone.edit_text(document.path, [(start, end, "") for start, end in spans])
            done.once[document.path] = len(spans)
        return
    entries = clone.documents.entries(document)
    gone = origin.twice_in_blocks([entry.block for entry in entries])
    if gone:
        ops = [(1, Remove(entries[at].dots)) for at in gone]
        clone.edit_entries(document.path, document.policy, ops)
        done.once[document.path] = len(gone)


def _agreed(clone: Clone, document: Document, text: str) -> None:
    """Regions of a target that two clones changed alike: nobody need look at what all sides have the same."""
    if document.policy != "text" or not origin.origins(text):
        return
    for conflict in clone.documents.conflicts(document):
        if len({version.text for version in conflict.versions}) == 1:
            _review(clone, conflict)


def _settled_alike(clone: Clone, document: Document, done: Tidied) -> None:
    """Words that two clones have put in the place of one conflict, unknown to each other, stand there once."""
    if document.policy != "text":
        return
    for conflict in clone.documents.conflicts(document):
        if DAILY.search(document.path) and _is_of_a_day(conflict):
            continue  # two rules for what stays of one text could, on two clones, take out both copies
        spans = regions.chosen_twice(clone.documents, document, conflict)
        if spans:
            clone.edit_text(document.path, [(start, end, "") for start, end in spans])
            _review(clone, conflict)
            done.alike.append(document.path)
            return _settled_alike(clone, document, done)  # positions have moved


def _review(clone: Clone, conflict: Conflict) -> None:
    name = clone.log.author_n
    pairs = [[name(a).id, a_seq, name(b).id, b_seq] for a, a_seq, b, b_seq in conflict.pairs]
    clone.append(Kind.REVIEW, (conflict.path, conflict.policy), pairs)


# --- files of their own


def is_file_of_its_own(path: str) -> bool:
    """Whether a document's name is one that a harvest gives to what it writes into a folder."""
    name = path.rpartition("/")[2]
    return adr.number_of(path) is not None or DATED.fullmatch(name) is not None


DATED = re.compile(r"\d{4}-\d\d-\d\d-.+-[0-9a-f]{6}\.md")


def in_folder(clone: Clone, folder: str) -> Iterator[tuple[Document, str]]:
    """The shared documents right in a folder (ends in "/"), and their texts."""
    for path, policy in list(clone.documents.latest_changes()):
        is_in = path.startswith(folder) and "/" not in path[len(folder) :]
        if is_in and (shown := _shown(clone, clone.documents.find(path, policy))):
            yield shown


def _files(clone: Clone, folder: str, done: Tidied) -> None:
    """Dated files of one entry: their names differ where two clones knew different dates or authors of it."""
    found: dict[tuple[str, ...], list[tuple[str, str, Document]]] = {}
    for document, text in in_folder(clone, folder):
        said = origin.origins(text)
        if DATED.fullmatch(document.path.rpartition("/")[2]) and len(said) == 1:
            found.setdefault(said[0].ids, []).append((document.path, text, document))
    for twins in found.values():
        twins.sort(key=lambda twin: twin[0])
        for path, text, document in twins[1:]:
            first = twins[0]
            if _body(first[1]) == _body(text):
                clone.delete(document)
                done.merged.append((path, first[0]))
            else:
                done.notes.append(f"{first[0]} and {path} are of one entry, and differ: keep one of them")


def _body(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if origin.read_line(line) is None).strip()


# --- decision records


def records(clone: Clone, folder: str) -> list[adr.Record]:
    return [one for document, text in in_folder(clone, folder) if (one := adr.record(document.path, text))]


def _records(clone: Clone, folder: str, done: Tidied) -> None:
    for one in records(clone, folder):
        _part(clone, folder, one, done)
    _one_decision_once(clone, records(clone, folder), done)
    there = records(clone, folder)
    moves = adr.renumberings(there, folder, lambda path: was_there(clone, path))
    moving = {move.record.path for move in moves}
    links = _links(clone, moving)
    for move in moves:
        text = adr.renumbered(move.record.text, move.record.number, move.number)
        clone.delete(clone.document(move.record.path))
        write_file(clone, move.path, text)
        older = next(one.path for one in there if one.number == move.record.number and one.path not in moving)
        done.renumbered.append(Renumbered(move.record.path, move.path, older, tuple(links[move.record.path])))
    for first, *others in _of_one_decision(records(clone, folder) if moves else there):
        names = " and ".join(one.path for one in (first, *others))
        done.notes.append(f"{names} are of one decision, and differ: keep one of them")


def _links(clone: Clone, moving: set[str]) -> dict[str, list[str]]:
    """The documents that name these files. They are told and not edited: two clones would both write the new number."""
    found: dict[str, list[str]] = {path: [] for path in moving}
    for path, policy in list(clone.documents.latest_changes()) if moving else ():
        with suppress(DamagedRecord):  # listed where its file is passed over
            text = clone.documents.text(clone.documents.find(path, policy))
            for moved in moving - {path}:
                if moved.rpartition("/")[2] in text:
                    found[moved].append(path)
    return {moved: sorted(paths) for moved, paths in found.items()}


def was_there(clone: Clone, path: str) -> bool:
    return clone.store.value("SELECT 1 FROM documents WHERE path=? AND private=0", (path,)) is not None


def _part(clone: Clone, folder: str, one: adr.Record, done: Tidied) -> None:
    """Two clones gave one name to two decisions: the older keeps the file, the other gets one of its own."""
    if len(one.origins) < 2:
        return
    parts = adr.parted(one.text)
    if parts is None or clone.document(one.path).policy != "text":
        if adr.titles(one.text) > 1:  # else a person has made one record of several
            done.notes.append(f"{one.path} holds {len(one.origins)} decisions: move each to a file of its own")
        return
    split = sorted((one._replace(text=part, origins=tuple(origin.origins(part))) for part in parts), key=_age)
    kept, written = split[0], {split[0].ids}
    highest = max(other.number for other in records(clone, folder))
    for other in split[1:]:
        if other.ids in written and adr.alike(other, kept):
            continue
        written.add(other.ids)
        highest += 1
        while was_there(clone, path := f"{folder}ADR-{highest:03d}-{other.rest}.md"):
            highest += 1
        write_file(clone, path, adr.renumbered(other.text, one.number, highest))
        done.renumbered.append(Renumbered(one.path, path, one.path))
    begin = one.text.index(kept.text)
    apart = [
        conflict for conflict in clone.documents.conflicts(clone.document(one.path)) if _of_imports(clone, conflict)
    ]
    clone.edit_text(
        one.path,
        [(a, b, "") for a, b in ((0, begin), (begin + len(kept.text), len(one.text))) if a < b],
    )
    for conflict in apart:  # that two texts met here is settled by this
        _review(clone, conflict)


def _of_imports(clone: Clone, conflict: Conflict) -> bool:
    changes = {pair[:2] for pair in conflict.pairs} | {pair[2:] for pair in conflict.pairs}
    kinds = {clone.store.value("SELECT kind FROM changes WHERE author=? AND seq=?", change) for change in changes}
    return kinds == {Kind.IMPORT}


def _age(one: adr.Record) -> tuple:
    return (*(found.order for found in one.origins), one.text)


def _one_decision_once(clone: Clone, there: list[adr.Record], done: Tidied) -> None:
    """One decision under two numbers: the lower one is kept, unless a person has edited one of them."""
    for twins in _of_one_decision(there):
        for one in twins[1:]:
            if adr.alike(one, twins[0]):
                clone.delete(clone.document(one.path))
                done.merged.append((one.path, twins[0].path))


def _of_one_decision(there: list[adr.Record]) -> list[list[adr.Record]]:
    """Records that hold the same entries, by number; only where there are several."""
    found: dict[frozenset[str], list[adr.Record]] = {}
    for one in there:
        if one.origins:
            found.setdefault(one.ids, []).append(one)
    return [sorted(twins, key=lambda one: (one.number, one.path)) for twins in found.values() if len(twins) > 1]


# --- buffers


def _buffers(clone: Clone, changed: set[str], done: Tidied) -> None:
    """What somebody added to a buffer or moved in it while another clone harvested that same entry is there already."""
    harvested: dict[str, set[str]] = {}
    for path, policy in list(clone.documents.latest_changes()):
        rule = clone.rule(path)
        if rule is None or rule.harvest is None or policy != "union" or rule.policy != "union":
            continue
        into = rule.harvest.into
        if path not in changed and not any(other == into or other.startswith(_as_folder(into)) for other in changed):
            continue
        if into not in harvested:
            harvested[into] = harvested_ids(clone, into)
        if not harvested[into]:
            continue
        document = clone.documents.find(path, policy)._replace(private=None)
        waiting = {entry.id for conflict in clone.documents.conflicts(document) for entry in conflict.entries}
        again = [
            entry for entry in clone.documents.entries(document)
            if entry.role == ENTRY and entry.id not in waiting and origin.short(entry.id) in harvested[into]
        ]  # fmt: skip
        if again:
            clone.edit_entries(path, policy, [(1, Remove(entry.dots)) for entry in again])
            done.once[path] = len(again)


def _as_folder(into: str) -> str:
    return into if into.endswith("/") else into + "/"


def harvested_ids(clone: Clone, into: str) -> set[str]:
    """The short ids of the entries that a target holds."""
    if into.endswith("/"):
        texts = [text for _, text in in_folder(clone, into)]
    else:
        rule = clone.rule(into)
        shown = _shown(clone, clone.documents.find(into, rule.policy)) if rule else None
        texts = [shown[1]] if shown else []
    return {id for text in texts for found in origin.origins(text) for id in found.ids}


# --- daily memory files


def _day(clone: Clone, document: Document, done: Tidied) -> None:
    """Two clones wrote one day while apart: their generated parts become one. What a person edited is left alone."""
    from replica.sessions import daily

    if not daily.is_day(document.path.rpartition("/")[2].removesuffix(".md")):
        return
    shown = _shown(clone, document)  # what was put right before may have moved it
    if shown is None:
        return
    document, text = shown
    page = daily.parse(text)
    if page.part is not None and page.part.date and not page.edited and not page.whole:
        edit_file(clone, document.path, daily.put(text, page.part))
        done.days.append(document.path)
    if document.policy == "text":
        for conflict in clone.documents.conflicts(document):
            words = [version.text for version in conflict.versions]
            if len(set(words)) == 1 or (_is_of_a_day(conflict) and _keeps_all_by_hand(words)):
                _review(clone, conflict)


def _is_of_a_day(conflict: Conflict) -> bool:
    from replica.sessions import daily

    return any(daily.holds_generated(version.text) for version in conflict.versions)


def _keeps_all_by_hand(words: list[str]) -> bool:
    """Whether at most one side has lines of a person, and they stand in what was merged."""
    from replica.sessions import daily

    merged, *sides = [daily.lines_by_hand(text) for text in words]
    by_hand = {side for side in sides if side}
    return len(by_hand) <= 1 and not any(Counter(side) - Counter(merged) for side in by_hand)


# --- writing a file


def edit_file(clone: Clone, path: str, text: str) -> None:
    """Make a document what `text` says, by whole lines and by no more of them than it takes; made if it is not there.

    Raises DocumentNotFound: no rule makes that path a document.
    """
    from replica.sessions import daily

    rule = clone.rule(path)
    if rule is None:
        raise DocumentNotFound(f"no rule of replica.toml makes {path!r} a document", hint="add one")
    with clone.transaction():
        document = clone.documents.find(path, rule.policy)
        if rule.policy == "text":
            if document.alive:
                old = clone.documents.text(document)
                clone.edit_text(path, daily.file_edits(old, text), level=rule.level)
            else:
                clone.edit_text(path, new=text, level=rule.level)
            return
        documents = clone.documents
        live = documents.versions(document) if rule.policy == "latest" else documents.entries(document)
        twins = (document.shared, document.private)
        known = {id for (id,) in clone.store.rows("SELECT DISTINCT id FROM adds WHERE doc IN (?,?)", twins)}
        base, ids = [entry.block for entry in live], [entry.id for entry in live]
        row = clone.log.last_row()
        ops = intake.save(base, ids, text, rule.policy, live, known, row, rule.level).ops
        if ops:
            clone.edit_entries(path, rule.policy, ops)


def write_file(clone: Clone, path: str, text: str) -> None:
    """Make a shared document of this content; the same content written by another clone at once is the same text.

    Raises DocumentNotFound: no rule shares that path.
    """
    rule = clone.rule(path)
    if rule is None or rule.level == 0:
        raise DocumentNotFound(
            f"no rule of replica.toml makes {path!r} a document that is shared", hint="add one, of level 1 or 2"
        )
    document = clone.documents.find(path, rule.policy)
    if rule.policy == "text":
        clone.edit_text(path, new=text)
        return
    documents = clone.documents
    live = documents.versions(document) if rule.policy == "latest" else documents.entries(document)
    known = {
        id for (id,) in clone.store.rows("SELECT DISTINCT id FROM adds WHERE doc=?", (document.shared,))
    }  # fmt: skip
    ops = intake.first_sight(text, rule.policy, live, known, 1).ops
    if ops:
        clone.edit_entries(path, rule.policy, ops)
