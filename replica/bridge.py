"""Keeps files and documents one: saved files become changes, others' changes become files.

`run` is the whole of it, and safe to call at any time from any process: look at the folder, take in what people saved,
then write what the log has brought. The base of every comparison is what we last wrote to the file
(table `files`); a file that changed meanwhile is taken in before it is written.
"""

import errno
import itertools
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from replica import cadence, filetext, folder, guard, intake, markers, paths
from replica.blocks import parse, render, spaced, stand_alone
from replica.changes import Add, Dot, Remove
from replica.clone import Clone
from replica.decisions import settled_by_hand
from replica.documents import Document
from replica.errors import (
    ConfigError,
    DamagedRecord,
    DiskFull,
    DocumentNotFound,
    InvalidChange,
    StoreError,
    TooLarge,
    UnsafePath,
)
from replica.places import CONFIG, FOLDER
from replica.rejoin import under_way

# A file that is gone, or suddenly empty, is looked at again after this many milliseconds before it is believed: editors
# save by delete-then-create and by truncate-then-write.
SECOND_LOOK = 300
BEHIND = b"behind"  # an intent that says: the file lacks something of its document
GROUP = 64  # files written with two transactions between them


DEFLATED, FOLLOWS = 1, 2  # forms in which a file's base and canonical text are kept (replica/store.py)


@dataclass
class Report:
    """What one run did, by document path."""

    taken: list[str] = field(default_factory=list)  # file -> document
    written: list[str] = field(default_factory=list)  # document -> file
    deleted: list[str] = field(default_factory=list)  # a file went, and with it the document
    removed: list[str] = field(default_factory=list)  # a document went, and with it the file
    held: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    replaced: str = ""  # a newcomer's replica.toml that gave way; it is kept under .replica/rejected/
    look_again: bool = False  # something is to be believed at a second look only

    @property
    def quiet(self) -> bool:
        return not (self.taken or self.written or self.deleted or self.removed)


class Row(NamedTuple):
    """What is remembered of a file."""

    path: str
    policy: str
    base: bytes
    canonical: str
    ids: bytes
    change: int
    stamp: str | None
    missing: int | None  # since when it is gone, milliseconds since 1970
    intent: bytes | None

    @property
    def id_list(self) -> list[bytes]:
        return [self.ids[at : at + 16] for at in range(0, len(self.ids), 16)]


class Pending(NamedTuple):
    """A file about to be written, and the row of the log up to which that is the document."""

    path: str
    policy: str
    data: bytes
    canonical: str
    ids: bytes
    change: int
    seen: str | None  # the stamp of what it replaces


class Trace(NamedTuple):
    """A `Row` without its contents: what a look at an unchanged file needs."""

    path: str
    policy: str
    change: int
    stamp: str | None
    missing: int | None
    intended: bool


class Bridge:
    """The bridge of one clone. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, clone: Clone, now_ms=None):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.now_ms = now_ms or (lambda: int(time.time() * 1000))
        self._rules: str | None = None  # replica.toml at the last look at the whole folder
        self._delivered = 0  # the row of the log up to which files are written
        self._turns = 0

    # --- the whole

    def run(
        self, *, every: bool = False, session: bool = False, documents: Iterable[str] = (), force: Iterable[str] = (),
        wait: bool = False,
    ) -> Report:  # fmt: skip
        """Take files in, then write files.

        Of documents that are due; `every`, `session`, `documents`: see `cadence.due`. `force`: paths whose hold is
        lifted. `wait`: take the second look at missing files at once, instead of asking to be called again.
        """
        due = cadence.due(self.store, self.now_ms(), every=every, session=session, paths=documents)
        with self._turn():
            report = self._once(due, set(force))
        if wait and report.look_again:
            time.sleep(SECOND_LOOK / 1000)
            with self._turn():
                again = self._once(due, set(force))
            for name in ("taken", "written", "deleted", "removed"):
                setattr(again, name, getattr(report, name) + getattr(again, name))
            return again
        return report

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One bridge of a clone at a time, of whatever process: two would take each other's files for saves."""
        self._check_root()
        if self._turns:
            yield
            return
        with folder.turn(self.root):
            self._turns += 1
            try:
                yield
            finally:
                self._turns -= 1

    def at_rest(self):
        """A context in which no other process reads or writes the files: what moves there meanwhile is no edit."""
        return self._turn()

    def _once(self, due: cadence.Due, force: set[str]) -> Report:
        report = Report()
        if under_way(self.store) or not self._has_workspace():
            return report  # files rest until the documents are whole
        self._take_config(report, force)
        found = self._look()
        rows = self._traces()
        self._head = folder.git_head(self.root)
        for path, file in found.files.items():
            if path != CONFIG and self._is_due(path, due):
                self._visit(path, file, rows.get(path), self._switched(path), path in force, report)
        self._missing(rows, found, due, force, report)
        report.skipped.update(found.skipped)
        reached = self.clone.log.last_row()  # before the writing: what others commit meanwhile is for the next time
        self._write_all(due, report)
        self._delivered = reached
        self._remember(report, due)
        return report

    def _has_other_rules(self) -> bool:
        """Whether replica.toml is another than at the last look at the folder: other documents, policies, levels."""
        return self.store.meta("config") != self._rules

    def _has_workspace(self) -> bool:
        """Whether anything can be taken in yet: a join may have ended before the first sync, which comes first then."""
        self.clone.log.refresh()
        return self.clone.log.author(self.clone.identity.id) is not None

    def _check_root(self) -> None:
        if not (self.root / FOLDER).is_dir():
            raise StoreError(f"{self.root} is gone or not mounted", hint="bring the folder back; nothing was changed")

    def _look(self) -> folder.Found:
        config = self.clone.config
        found = folder.look(self.root, lambda path: self.clone.rule(path) is not None, config.excluded)
        self._sweep(found)
        return found

    def _sweep(self, found: folder.Found) -> None:
        """Remove what a process that was killed had half written: it is our turn, so nobody else is writing now."""
        for leftover in found.leftovers:
            with suppress(OSError):
                leftover.unlink()

    def _traces(self, of: Iterable[str] | None = None) -> dict[str, Trace]:
        """What is remembered of these paths, or of all: a live change costs nothing for each file there is."""
        sql = "SELECT path, policy, change, stamp, missing, intent IS NOT NULL FROM files"
        if of is None:
            return {row[0]: Trace(*row) for row in self.store.rows(sql)}
        found = (self.store.row(f"{sql} WHERE path=?", (path,)) for path in of)
        return {row[0]: Trace(*row) for row in found if row is not None}

    def row(self, path: str) -> Row | None:
        found = self.store.row(
            "SELECT path, policy, base, canonical, ids, change, stamp, missing, intent, form FROM files WHERE path=?",
            (path,),
        )
        if found is None:
            return None
        *fields, form = found
        row = Row(*fields)
        try:
            if form & DEFLATED:
                row = row._replace(base=zlib.decompress(row.base))
            follows = _canonical(row.base, row.policy) if form & FOLLOWS or not row.canonical else ""
            if form not in range(4) or (follows and not form & FOLLOWS):  # else all of the file would look new
                raise ValueError("an unknown form")
            if form & FOLLOWS:
                row = row._replace(canonical=follows)
        except (zlib.error, TypeError, ValueError):
            raise DamagedRecord(f"what the store remembers of the file {path!r} is damaged") from None
        return row

    def deliver(self) -> Report:
        """Write what the log has brought since the last time, without a look at the rest of the folder."""
        with self._turn():
            report = Report()
            if under_way(self.store):
                return report
            reached = self.clone.log.last_row()
            if self._delivered == 0 or self._has_other_rules():
                return self.run()
            self._write_all(cadence.LIVE, report, self._delivered)
            self._delivered = reached
            return report

    def collect(self, changed: Iterable[str]) -> Report:
        """Take in the files of these document paths, which a watch has named; the rest of the folder waits.

        Anything but a plain save of known documents (a path that is gone, a folder, replica.toml, a branch that git
        has switched) is for `run`.
        """
        with self._turn():
            return self._collect(set(changed))

    def _collect(self, names: set[str]) -> Report:
        if under_way(self.store):
            return Report()
        self._head = folder.git_head(self.root)
        plain = CONFIG not in names and not self._switched(CONFIG) and self._has_workspace()
        plain = plain and not self._has_other_rules()
        files = {path: self.root / path for path in names if self.clone.rule(path) is not None}
        if not plain or any(file.is_symlink() or not file.is_file() for file in files.values()):
            return self.run()
        if any(self._is_folder(path) for path in names - files.keys()):
            return self.run()  # a new one: of what was written into it before it was watched, nobody tells
        report = Report()
        found = folder.check(self.root, files, self.clone.config.excluded)
        rows = self._traces(found.files)
        for path, file in found.files.items():
            if self._is_due(path, cadence.LIVE):
                self._visit(path, file, rows.get(path), False, False, report)
        traces = self._traces(report.taken)
        # A save may have met a document that had moved on: the file gets what it lacks.
        self._write(
            [(path, traces[path].policy, traces[path]) for path in report.taken if traces[path].intended], report
        )
        return report

    def _is_folder(self, path: str) -> bool:
        """Whether it is a folder in which documents may be."""
        excluded = self.clone.config.excluded
        return not excluded(path) and not excluded(f"{path}/") and (self.root / path).is_dir()

    # --- when

    def _is_due(self, path: str, due: cadence.Due) -> bool:
        return due.has(path, self.clone.rule(path))

    def _switched(self, path: str) -> bool:
        """Whether git has another branch checked out than when we last looked at such files."""
        return cadence.switched(self.store, self.clone.rule(path).cadence, self._head)

    def _remember(self, report: Report, due: cadence.Due) -> None:
        with self.clone.transaction():
            if not report.held:
                cadence.looked(self.store, due.cadences, self._head)
            if report.look_again:
                return
            cadence.met(self.store, due, self.now_ms())
            known = dict(self.store.rows("SELECT path, reason FROM skipped"))
            if known != report.skipped:
                self.store.execute("DELETE FROM skipped")
                self.store.many("INSERT INTO skipped VALUES(?,?)", list(report.skipped.items()))

    # --- replica.toml

    def _take_config(self, report: Report, force: set[str]) -> None:
        """Take in our own replica.toml if it is valid, then follow the document, whoever changed it."""
        from replica import config

        file = self.root / CONFIG
        row = self._traces([CONFIG]).get(CONFIG)
        if file.is_file() and not file.is_symlink():
            try:
                data = file.read_bytes()
                config.load(filetext.decode(data).text)
            except (ConfigError, ValueError) as error:
                report.skipped[CONFIG] = str(error)
            except OSError as error:
                report.skipped[CONFIG] = f"cannot be read: {error.strerror}"
            else:
                if row is None and self.clone.documents.find(CONFIG, "latest").alive:
                    self._yield_config(data, report)
                else:
                    self._visit(CONFIG, file, row, False, CONFIG in force, report)
        self.clone.follow_config()
        self._rules = self.store.meta("config")

    def _yield_config(self, data: bytes, report: Report) -> None:
        """A newcomer's replica.toml must not change everybody's rules: the workspace's takes its place, it is kept."""
        text = self.clone.text(CONFIG)
        if filetext.canonical(filetext.decode(data).text) != text:
            self._set_aside(CONFIG, data)
            report.replaced = CONFIG
        stamp = folder.write(self.root, CONFIG, text.encode())
        self._set_base(CONFIG, "latest", text.encode(), text, stamp)

    # --- file -> document

    def _visit(
        self, path: str, file: Path, row: Trace | None, switched: bool, force: bool, report: Report, *,
        apart: bool = False,
    ) -> None:  # fmt: skip
        """`apart`: if the policy has changed, what is of level 0 stays with the old one and the rest moves on."""
        try:
            info = file.stat()
            rule = self.clone.rule(path)
            same_policy = row is not None and row.policy == rule.policy
            if same_policy and row.stamp == folder.stamp(info) and row.missing is None and not force:
                self._still_held(path, report)
                return
            limit = self.clone.config.limits.document
            if info.st_size > limit:
                report.skipped[path] = f"{info.st_size:,} bytes are over the limit of {limit:,} (limits.document)"
                return
            data = file.read_bytes()
        except OSError as error:
            report.skipped[path] = f"cannot be read: {error.strerror}"
            return
        try:
            text = filetext.decode(data).text
        except ValueError as error:
            report.skipped[path] = f"not UTF-8 text: {error}"
            return
        try:
            if row is not None and not same_policy:
                data = self._show_all(self.row(path), rule, data, text, info, force, apart, report)
                if data is None:
                    return
                text, info = filetext.decode(data).text, file.stat()
            with self.clone.transaction():
                if row is not None and not same_policy:
                    if not self._leave(self.row(path), apart):
                        report.look_again = True
                        return
                    row, force = None, True  # it was taken in before, whatever it holds
                full = self.row(path) if row is not None else None
                self.take(path, data, text, folder.settled(info), full, switched, force, report)
        except (InvalidChange, TooLarge, DamagedRecord) as error:
            report.skipped[path] = f"cannot be taken in: {error}"
        except OSError as error:
            report.skipped[path] = f"cannot be read or written: {error.strerror}"

    def _show_all(
        self, row: Row, rule, data: bytes, text: str, info: os.stat_result, force: bool, apart: bool, report: Report
    ) -> bytes | None:
        """The policy of a path changed: the file is to show all of the old document before it becomes one of the new.

        With `apart`, all that others may have of it.

        Returns what the file holds then: what others had written and the file did not show yet moves along. Written
        as every file is, with a durable intent: after a crash in between, those lines are not the person's. None: the
        file is held, since what is of level 0 in it would not stay so.
        """
        old = replace(rule, policy=row.policy)
        with self.clone.transaction():
            self.take(row.path, data, text, folder.settled(info), row, False, True, Report(), old)
            document, row = self.clone.documents.find(row.path, row.policy), self.row(row.path)
            hold = guard.judge_sharing(self._private_entries(document) if rule.level else 0, rule.policy)
            if hold is not None and not force and not apart:
                self._hold(row.path, hold)
                report.held[row.path] = hold.what
                return None
            if apart:
                document = document._replace(private=None)
            if not document.alive:
                return data
            canonical, ids = self._whole(document)
            new = filetext.patch(row.base, row.canonical, canonical, exact=row.policy == "text")
            change = self._last_change(document)
            pending = Pending(row.path, row.policy, new, canonical, ids, change, folder.stamp(info))
            if new == row.base:
                self._put(*pending[:6], folder.settled(info), None)
                return data
            self._intend(pending)
        done = Report()
        self._write_group([pending], done)
        if not done.written:
            raise OSError(errno.EBUSY, done.skipped.get(row.path, "it was saved meanwhile"), row.path)
        return new

    def _leave(self, row: Row, apart: bool) -> bool:
        """End the document of the old policy; False if it has moved on since the file showed all of it."""
        document = self.clone.documents.find(row.path, row.policy)
        if apart:
            document = document._replace(private=None)
        if document.alive and self._last_change(document) != row.change:
            return False
        self.clone.delete(document)
        self.store.execute("DELETE FROM files WHERE path=?", (row.path,))
        return True

    def _private_entries(self, document: Document) -> int:
        """How many entries of level 0 stand in a document of entries."""
        return self.store.value("SELECT count(DISTINCT id) FROM adds WHERE doc=? AND dead=0", (document.private,))

    def take(
        self, path: str, data: bytes, text: str, stamp: str, row: Row | None, switched: bool, force: bool,
        report: Report, rule=None,
    ) -> None:  # fmt: skip
        """Make the document what the file says, as far as a person did. `rule`: another than the one in force."""
        if row is not None and row.intent is not None:
            row = self._finish(row, data, stamp)
        if row is not None and data == row.base:
            self._release(path)
            self.store.execute("UPDATE files SET stamp=?, missing=NULL WHERE path=?", (stamp, path))
            return
        if row is not None and not force and self._wiped(row, text) and not self._second_look(row):
            report.look_again = True
            return
        with self.clone.transaction():
            rule = rule or self.clone.rule(path)
            taken = self._take_text if rule.policy == "text" else self._take_entries
            hold = None if force else self._left_by_tools(path, text, row, rule.policy)
            hold = hold or taken(path, text, row, rule, switched, force)
            if hold is not None:
                self._hold(path, hold)
                report.held[path] = hold.what
                return
            self._set_base(path, rule.policy, data, text, stamp)
            self._release(path)
        report.taken.append(path)

    def put(self, path: str, text: str) -> guard.Hold | None:
        """Make a document `text`, as the save of a file that showed all of it would. Why not, if the guard says so.

        Nothing is held then, and nothing written. The file follows with the next `run`.
        """
        with self.clone.transaction():
            rule = self.clone.rule(path)
            document, row = self.clone.documents.find(path, rule.policy), None
            if document.alive:
                canonical, ids = self._content(document)
                change = self._last_change(document)
                row = Row(path, rule.policy, canonical.encode(), canonical, ids, change, None, None, None)
            taken = self._take_text if rule.policy == "text" else self._take_entries
            hold = self._left_by_tools(path, text, row, rule.policy)
            return hold or taken(path, text, row, rule, False, False)

    def _left_by_tools(self, path: str, text: str, row: Row | None, policy: str) -> guard.Hold | None:
        """What another tool could not merge waits here, and is not spread."""
        if row is not None:
            return markers.judge_text(row.canonical, text)
        document = self.clone.documents.find(path, policy)
        if document.alive:
            return markers.judge_text(self.clone.documents.text(document), text)
        return markers.judge_name(path, lambda first: (self.root / first).is_file()) or markers.judge_text("", text)

    def _wiped(self, row: Row, text: str) -> bool:
        return bool(row.canonical.strip()) and not text.strip()

    def _second_look(self, row: Row | Trace) -> bool:
        """Whether what we see was so some time ago as well; else remember that it is so now."""
        now = self.now_ms()
        if row.missing is None or now < row.missing:  # never before, or the clock was set back since: wait anew
            self.store.execute("UPDATE files SET missing=? WHERE path=?", (now, row.path))
            return False
        return now - row.missing >= SECOND_LOOK

    def _take_text(self, path: str, text: str, row: Row | None, rule, switched: bool, force: bool) -> guard.Hold | None:
        from replica import textdiff

        document = self.clone.documents.find(path, "text")
        shown = self.clone.documents.shown_text(document)
        doc = document.private if rule.level == 0 else document.shared
        current = self.clone.documents.raw_text(shown)
        if document.alive and doc != shown:
            return self._change_level(path, text, document, rule)
        if row is None:
            new = textdiff.merge_additive(current, text) if document.alive and current != text else text
            if not document.alive or new != current:
                self.clone.edit_text(path, new=new, level=rule.level)
            return None
        if text == current:
            return None
        ops = textdiff.diff(row.canonical, text)
        gone = sum(row.canonical.count("\n", start, end) for start, end, _ in ops) - sum(
            new.count("\n") for *_, new in ops
        )
        hold = self._judge(path, gone, row.canonical.count("\n"), "lines", switched, gone > 0)
        if hold is not None and not force:
            return hold
        if not document.alive:
            # It was deleted elsewhere while it was edited here: the edit brings it back.
            self.clone.edit_text(path, new=text, level=rule.level)
        else:
            self.clone.edit_text(path, textdiff.rebase(ops, row.canonical, current), level=rule.level)
        return None

    def _change_level(self, path: str, text: str, document: Document, rule) -> None:
        self.clone.move_text(document, text, rule.level)

    def _take_entries(
        self, path: str, text: str, row: Row | None, rule, switched: bool, force: bool
    ) -> guard.Hold | None:
        document = self.clone.documents.find(path, rule.policy)
        documents = self.clone.documents
        live = documents.versions(document) if rule.policy == "latest" else documents.entries(document)
        known = {
            id for (id,) in self.store.rows(
                "SELECT DISTINCT id FROM adds WHERE doc IN (?,?)", (document.shared, document.private)
            )
        }  # fmt: skip
        if row is None:
            ops = intake.first_sight(text, rule.policy, live, known, rule.level, self._was_private)
            if not ops and not document.alive:
                self._exist(path, rule)
        else:
            base = parse(row.canonical, rule.policy)
            saved = intake.save(
                base, row.id_list, text, rule.policy, live, known, row.change, rule.level, self._was_private,
                lambda: set(self.store.rows("SELECT role, text FROM adds WHERE doc=?", (document.shared,))),
            )  # fmt: skip
            before = sum(block.role == "entry" for block in base)
            hold = guard.judge_past(rule.policy, saved.past)
            if rule.policy != "latest":
                hold = hold or self._judge(path, saved.removed, before, "entries", switched, saved.removed > 0)
            if hold is not None and not force:
                return hold
            ops = settled_by_hand(self.clone, document, saved.ops)
        if ops:
            self.clone.edit_entries(path, rule.policy, ops)
        return None

    def _was_private(self) -> set[tuple[str, str]]:
        """Roles and texts of the blocks that were ever of level 0 here amid a shared document, and nobody shared.

        Not those of documents that are of level 0 as a whole: to copy a line from there is to share it.
        """
        rows = self.store.rows(
            "SELECT path, role, text FROM adds JOIN documents d ON d.n=doc WHERE private=1 AND (role, text) NOT IN"
            " (SELECT role, text FROM adds JOIN documents d ON d.n=doc WHERE private=0)"
        )
        rules = {path: self.clone.rule(path) for path, *_ in rows}
        return {(role, text) for path, role, text in rows if rules[path] is None or rules[path].level}

    def _exist(self, path: str, rule) -> None:
        """An empty file is a document without entries: one that comes and goes makes it known."""
        with self.clone.transaction():
            op = Add("prose", "", 1, "", None, (), {})
            written = self.clone.edit_entries(path, rule.policy, [(rule.level, op)])[0]
            dot = Dot(written.change.author, written.change.seq, 0)
            self.clone.edit_entries(path, rule.policy, [(rule.level, Remove((dot,)))])

    def _judge(self, path: str, gone: int, before: int, what: str, switched: bool, removes: bool) -> guard.Hold | None:
        if path == CONFIG:
            return None
        limits = self.clone.config.guard
        return guard.judge_branch(switched, removes) or guard.judge_removal(gone, before, limits, what)

    # --- files that are gone

    def _missing(
        self, rows: dict[str, Trace], found: folder.Found, due: cadence.Due, force: set[str], report: Report
    ) -> None:
        for row in rows.values():
            if row.stamp is None and row.path not in found.files:
                self._forget(row.path)  # we meant to write it and did not get that far
        for path, reason in self.store.rows("SELECT path, reason FROM held"):
            never_taken = reason in (markers.MARKERS, markers.COPY) and path not in rows
            if never_taken and path not in found.files and not self._hidden(path, found):
                self._release(path)  # it was put away
        tracked = [row for row in rows.values() if row.stamp is not None and self._is_due(row.path, due)]
        gone = [row for row in tracked if row.path not in found.files and not self._hidden(row.path, found)]
        limits = self.clone.config.guard
        documents = [row for row in tracked if row.path != CONFIG]  # `rm *.md` leaves that one
        hold = guard.judge_vanished(len(gone), len(documents), limits)
        for row in gone:
            if hold is not None and row.path not in force:
                with self.clone.transaction():
                    self._hold(row.path, hold)
                report.held[row.path] = hold.what
            elif row.path in force or self._second_look(row):
                self._deleted(row, report)
            else:
                report.look_again = True

    def _hidden(self, path: str, found: folder.Found) -> bool:
        """Whether we merely cannot see the file: it, or a folder on the way, was passed over."""
        return any(path == skipped or path.startswith(skipped + "/") for skipped in found.skipped)

    def _deleted(self, row: Trace, report: Report) -> None:
        """A person deleted the file: the document goes, unless others changed it since we wrote it."""
        with self.clone.transaction():
            document = self.clone.documents.find(row.path, row.policy)
            news = document.alive and (self._last_change(document) > row.change or row.intended)
            self._forget(row.path)
            if document.alive and not news and not self._drop_shown(document, report):
                self.clone.delete(document)
                report.deleted.append(row.path)

    def _drop_shown(self, document: Document, report: Report) -> bool:
        """Of several versions a file shows one, and that one goes with it; what waits comes in its place.

        Returns False, and does nothing, where the file showed all of its document.
        """
        shown = self.clone.documents.entries(document) if document.policy == "latest" else []
        if not shown or len(self.clone.documents.versions(document)) == len(shown):
            return False
        ops = [(0 if entry.private else 1, Remove(entry.dots)) for entry in shown]
        self.clone.edit_entries(document.path, document.policy, ops)
        report.taken.append(document.path)
        return True

    # --- document -> file

    def _write_all(self, due: cadence.Due, report: Report, since: int = 0) -> None:
        """Write what changed in the log; `since`: only the documents with changes behind that row."""
        self.clone.log.refresh()
        held = {path for (path,) in self.store.rows("SELECT path FROM held")}
        alive, gone = self.clone.documents.latest_changes(since), self.clone.documents.dead(since)
        rows = self._traces({path for path, _ in (*alive, *gone)} if since else None)
        claimed: dict[str, str] | None = None
        behind = []
        for path, policy in alive:
            self._bring_along(path, policy, rows.get(path), held, report)
        barred = set() if since else self._barred(report)
        for (path, policy), last in alive.items():
            if (path, policy) in barred:
                continue
            if path not in report.skipped and self._is_behind(path, policy, last, rows.get(path), due, held):
                if path not in rows and claimed is None:  # only a new name can clash
                    known = self.store.rows("SELECT path FROM files")
                    claimed = {paths.clash_key(name): name for (name,) in known}
                if path not in rows and (other := claimed.setdefault(paths.clash_key(path), path)) != path:
                    report.skipped[path] = f"its name differs from {other} in case only"
                else:
                    behind.append((path, policy, rows.get(path)))
        self._write(self._welcome(behind, report), report)
        for row in rows.values():
            waits = self.clone.rule(row.path) is not None and not self._is_due(row.path, due)
            if (row.path, row.policy) in gone and row.path not in held and row.missing is None and not waits:
                self._remove(row, report)

    def _bring_along(self, path: str, policy: str, row: Trace | None, held: set[str], report: Report) -> None:
        """What was written here under a policy that is no longer the path's, and was in no file yet, moves on as well.

        Only what is ours to bring: other authors bring theirs. What is of level 0 is not shared by this.
        """
        rule = self.clone.rule(path)
        if rule is None or rule.policy == policy or path in held or (row is not None and row.policy == policy):
            return
        document = self.clone.documents.find(path, policy)
        private = self._private_entries(document) if rule.level else 0
        if private:
            document = document._replace(private=None)  # it stays where it is, for whom it is
            report.skipped[f"{path} as {policy}"] = guard.judge_sharing(private, rule.policy).what
        if not self._is_ours(document):
            return
        with self.clone.transaction():
            text, _ = self._whole(document)
            taken = self._take_text if rule.policy == "text" else self._take_entries
            taken(path, text, None, rule, False, True)
            self.clone.delete(document)
        report.look_again = True

    def _is_ours(self, document: Document) -> bool:
        """Whether the document is alive by something that this clone wrote, or nobody else is there to speak for it.

        For authors who do not belong any more, or go on as somebody else, one member does: the first by its id.
        """
        me = self.clone.identity.id
        rows = self.store.rows(
            "SELECT id FROM alive JOIN authors a ON a.n=author WHERE doc IN (?,?)", (document.shared, document.private)
        )
        writers = {id for (id,) in rows}
        if writers & {me, self.clone.private.id}:
            return True
        members = self.clone.trusted().keys() | {me}
        return bool(writers) and not writers & members and not self.clone.removed and me == min(members)

    def _welcome(self, behind: list[tuple[str, str, Trace | None]], report: Report) -> list:
        """Without the new files of a clone that sends more of them than a person may want: those are held."""
        new = sum(trace is None for *_, trace in behind)
        files = self.store.value("SELECT count(*) FROM files") if new else 0
        if files + new <= guard.ARRIVALS:
            return behind
        here = dict(
            self.store.rows(
                "SELECT d.changed_by, count(*) FROM files f JOIN documents d ON d.path=f.path AND d.policy=f.policy"
                " AND d.private=0 GROUP BY 1"
            )
        )
        chosen, over = [], set()
        for path, policy, trace in behind:
            author = None if trace is not None else self.store.value(
                "SELECT changed_by FROM documents WHERE path=? AND policy=? AND private=0", (path, policy)
            )  # fmt: skip
            if author is not None and here.get(author, 0) >= self._allowed(author):
                over.add(author)
                continue
            if author is not None:
                here[author] = here.get(author, 0) + 1
            chosen.append((path, policy, trace))
        with self.clone.transaction():
            for author in over:
                self._hold_arrivals(author, here.get(author, 0), report)
        return chosen

    def _barred(self, report: Report) -> set[tuple[str, str]]:
        """The documents that wait for a person already: a million of them must cost each look as little as may be."""
        found: set[tuple[str, str]] = set()
        for author in self.clone.log.authors():
            what = self.store.value(
                "SELECT what FROM held WHERE path=? AND reason='arrivals'", (_arrivals(author.name),)
            )
            if what is not None:
                report.held[_arrivals(author.name)] = what
            if what is not None or self.store.meta(f"unwanted:{author.id.hex()}"):
                found.update(self.store.rows(
                    "SELECT path, policy FROM documents WHERE changed_by=? AND private=0"
                    " AND path NOT IN (SELECT path FROM files)", (author.n,),
                ))  # fmt: skip
        return found

    def _hold_arrivals(self, author: int, here: int, report: Report) -> None:
        who = self.clone.log.author_n(author)
        there = self.store.value("SELECT count(*) FROM documents WHERE changed_by=? AND private=0", (author,))
        hold = guard.judge_arrivals(there, here, self._allowed(author), who.name)
        if hold is not None and not self.store.meta(f"unwanted:{who.id.hex()}"):
            self._hold(_arrivals(who.name), hold)
            report.held[_arrivals(who.name)] = hold.what

    def _allowed(self, author: int) -> int:
        """How many files of one clone may be here: more once a person has said so; of our own as many as there are."""
        who = self.clone.log.author_n(author).id
        if who == self.clone.identity.id:
            return 2**62
        return self.store.meta(f"arrivals:{who.hex()}", guard.ARRIVALS)

    def _decide_arrivals(self, chosen: set[str], *, wanted: bool) -> None:
        """Whether a person wants the new files of these clones: all there are, and as many again as anyone may send."""
        with self.clone.transaction():
            for author in self.clone.log.authors():
                if (hold := _arrivals(author.name)) in chosen:
                    there = self.store.value("SELECT count(*) FROM documents WHERE changed_by=?", (author.n,))
                    if wanted:
                        self.store.set_meta(f"arrivals:{author.id.hex()}", there + guard.ARRIVALS)
                    self.store.set_meta(f"unwanted:{author.id.hex()}", not wanted)
                    self._release(hold)

    def _is_behind(
        self, path: str, policy: str, last: int, row: Trace | None, due: cadence.Due, held: set[str]
    ) -> bool:
        """Whether the file is to be written now."""
        rule = self.clone.rule(path)
        if rule is None or rule.policy != policy or not due.has(path, rule) or path in held:
            return False
        return row is None or (row.missing is None and (row.change < last or row.intended))

    def _write(self, behind: list[tuple[str, str, Trace | None]], report: Report) -> None:
        """Write these documents (path, policy, trace) to their files, in groups that share their flushes."""
        for at in range(0, len(behind), GROUP):
            group = [self._prepare(*one, report) for one in behind[at : at + GROUP]]
            self._write_group([pending for pending in group if pending is not None], report)

    def _write_group(self, group: list["Pending"], report: Report) -> None:
        if not group:
            return
        with self.clone.transaction():
            for one in group:
                self._intend(one)
        done = folder.write_all(self.root, [folder.Write(one.path, one.data, one.seen) for one in group])
        with self.clone.transaction():
            for one, stamp in zip(group, done, strict=True):
                if isinstance(stamp, Exception):
                    self._not_intended(one.path)
                    self._not_written(one.path, stamp, report)
                else:
                    self._put(one.path, one.policy, one.data, one.canonical, one.ids, one.change, stamp, None)
                    report.written.append(one.path)
        full = next((e for e in done if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)), None)
        if full is not None:
            raise DiskFull(f"the disk of {self.root} is full; {full.filename or 'a file'} was not written")

    def _not_written(self, path: str, error: Exception, report: Report) -> None:
        if isinstance(error, folder.FileChanged):
            report.look_again = True
        elif isinstance(error, UnsafePath):
            report.skipped[path] = f"{error}; {self._writer(path)} wrote it"
        elif isinstance(error, OSError):
            report.skipped[path] = f"cannot be written: {error.strerror}"
        else:
            report.skipped[path] = str(error)

    def _writer(self, path: str) -> str:
        author = self.store.value("SELECT changed_by FROM documents WHERE path=? ORDER BY private LIMIT 1", (path,))
        return "nobody" if author is None else self.clone.author_name(self.clone.log.author_n(author).id)

    def _prepare(self, path: str, policy: str, trace: Trace | None, report: Report) -> "Pending | None":
        """What a document's file is to hold; a file that was saved meanwhile is taken in first."""
        try:
            return self._prepared(path, policy, trace, report)
        except (UnsafePath, OSError, DamagedRecord) as error:
            self._not_written(path, error, report)
            return None

    def _prepared(self, path: str, policy: str, trace: Trace | None, report: Report) -> "Pending | None":
        row = self.row(path) if trace is not None else None
        target = paths.resolve(self.root, paths.normal(path))
        if target.is_dir():
            report.skipped[path] = "a folder stands where a document should be"
            return None
        seen = folder.stamp(target.stat()) if target.exists() else None
        old = target.read_bytes() if seen is not None else None
        if old is not None and (row is None or old != row.base):
            self._visit(path, target, trace, False, False, report)
            row = self.row(path)
            if row is None or path in report.held or path in report.skipped or row.base != old:
                report.look_again = True
                return None
        document = self.clone.documents.find(path, policy)
        change = self._last_change(document)
        canonical, ids = self._content(document)
        data = filetext.patch(old, row.canonical if row and old is not None else "", canonical, exact=policy == "text")
        if data == old:
            with self.clone.transaction():
                self._put(path, policy, data, canonical, ids, change, seen, None)
            return None
        return Pending(path, policy, data, canonical, ids, change, seen)

    def _remove(self, row: Trace, report: Report) -> None:
        """The document was deleted elsewhere: the file goes, unless it was changed meanwhile."""
        try:
            target = paths.resolve(self.root, row.path)
            full = self.row(row.path)
            if full is not None and target.is_file() and target.read_bytes() != full.base:
                self._visit(row.path, target, row, False, False, report)
                return
            folder.remove(self.root, row.path)
        except (UnsafePath, OSError, DamagedRecord) as error:
            report.skipped[row.path] = f"cannot be deleted: {error}"
            return
        self._forget(row.path)
        report.removed.append(row.path)

    def _content(self, document: Document) -> tuple[str, bytes]:
        """A document's canonical text and the entry ids of its blocks, as `parse` will find them in it."""
        if document.policy == "text":
            return self.clone.documents.text(document), b""
        entries = self.clone.documents.entries(document)
        rendered = render(spaced((entry.block for entry in entries), document.policy))
        text = filetext.canonical(rendered)  # a block without words, which no file has, stands for nothing
        if text == rendered and document.policy != "latest" and stand_alone(entry.text for entry in entries):
            return text, b"".join(entry.id for entry in entries)
        blocks = parse(text, document.policy)
        if [b.text for b in blocks] == [e.text for e in entries]:
            return text, b"".join(entry.id for entry in entries)
        return text, self._ids_for(text, document.policy, document)

    def _whole(self, document: Document) -> tuple[str, bytes]:
        """As `_content`, with the versions that wait behind the shown one: another policy knows no versions."""
        versions = self.clone.documents.versions(document) if document.policy == "latest" else []
        if len(versions) < 2:
            return self._content(document)
        text = filetext.canonical("\n\n".join(entry.text for entry in reversed(versions)))
        return text, self._ids_for(text, document.policy, document)

    # --- what is remembered

    def _last_change(self, document: Document) -> int:
        return (
            self.store.value("SELECT max(changed) FROM documents WHERE n IN (?,?)", (document.shared, document.private))
            or 0
        )

    def _set_base(self, path: str, policy: str, data: bytes, text: str, stamp: str, ids: bytes | None = None) -> None:
        """Remember that the file holds `data`, and that this is the document as of now.

        After an intake (`ids` is None) the document may hold more than the file: then it is older than the document's
        last change, and will be written.
        """
        with self.clone.transaction():
            document = self.clone.documents.find(path, policy)
            last = self._last_change(document)
            if ids is None:
                canonical = text if policy == "text" else filetext.canonical(text)
                now, ids = self._content(document)
                if now != canonical:
                    ids = self._ids_for(canonical, policy, document)
                    self._put(path, policy, data, canonical, ids, last, stamp, BEHIND)
                    return
                text = canonical
            self._put(path, policy, data, text, ids, last, stamp, None)

    def _ids_for(self, canonical: str, policy: str, document: Document) -> bytes:
        """Which entries the blocks of a file are, when the document holds others beside them."""
        if policy == "text":
            return b""
        entries = self.clone.documents.versions(document)
        groups = intake.grouped(sorted(entries, key=lambda entry: entry.key, reverse=True))
        ids = []
        for block in parse(canonical, policy):
            twins = groups.get((block.role, block.text))
            ids.append(twins.pop().id if twins else intake.UNKNOWN)
        return b"".join(ids)

    def _put(self, path, policy, data, canonical, ids, change, stamp, intent) -> None:
        form = 0
        if canonical == _canonical(data, policy):
            canonical, form = "", FOLLOWS
        if len(packed := zlib.compress(data, 1)) < len(data):
            data, form = packed, form | DEFLATED
        self.store.execute(
            "INSERT OR REPLACE INTO files(path, policy, base, canonical, ids, change, stamp, missing, intent, form)"
            " VALUES(?,?,?,?,?,?,?,NULL,?,?)",
            (path, policy, data, canonical, ids, change, stamp, intent, form),
        )

    def _intend(self, pending: "Pending") -> None:
        """Durably say what the file will hold, before it does."""
        done = self.store.execute("UPDATE files SET intent=? WHERE path=?", (pending.data, pending.path))
        if done.rowcount == 0:
            self._put(pending.path, pending.policy, b"", "", b"", 0, None, pending.data)

    def _not_intended(self, path: str) -> None:
        """The file was not written, and we know it: what it holds is judged by what it held before."""
        self.store.execute("DELETE FROM files WHERE path=? AND stamp IS NULL", (path,))
        self.store.execute("UPDATE files SET intent=? WHERE path=?", (BEHIND, path))

    def _finish(self, row: Row, data: bytes, stamp: str) -> Row | None:
        """After a crash: a file that holds what we were about to write was written by us.

        If it was edited before we look, it holds neither that nor the base. Whichever it is nearer to was edited.
        """
        if row.intent != BEHIND and _nearer(row.intent, row.base, data):
            canonical = _canonical(row.intent, row.policy)
            document = self.clone.documents.find(row.path, row.policy)
            with self.clone.transaction():
                ids = self._ids_for(canonical, row.policy, document)
                self._put(row.path, row.policy, row.intent, canonical, ids, self._last_change(document), stamp, BEHIND)
        elif row.intent != BEHIND and row.stamp is None:
            self._forget(row.path)
        return self.row(row.path)

    def _forget(self, path: str) -> None:
        with self.clone.transaction():
            self.store.execute("DELETE FROM files WHERE path=?", (path,))
            self._release(path)

    # --- what is held

    def _hold(self, path: str, hold: guard.Hold) -> None:
        self.store.execute(
            "INSERT INTO held VALUES(?,?,?,?)"
            " ON CONFLICT(path) DO UPDATE SET reason=excluded.reason, what=excluded.what",
            (path, hold.reason, hold.what, self.now_ms()),
        )

    def _release(self, path: str) -> None:
        if self.store.value("SELECT 1 FROM held WHERE path=?", (path,)):
            self.store.execute("DELETE FROM held WHERE path=?", (path,))

    def _still_held(self, path: str, report: Report) -> None:
        what = self.store.value("SELECT what FROM held WHERE path=?", (path,))
        if what is not None:
            self._release(path)

    def held(self) -> list[dict]:
        """What waits for `accept` or `reject`: path, reason, what, since (milliseconds since 1970)."""
        rows = self.store.rows("SELECT path, reason, what, since FROM held ORDER BY path")
        return [dict(zip(("path", "reason", "what", "since"), row, strict=True)) for row in rows]

    def accept(self, chosen: list[str]) -> Report:
        """Let through what is held: what the files say becomes the documents."""
        force = self._chosen(chosen)
        self._decide_arrivals(force, wanted=True)
        report = self.run(documents=force, force=force, wait=True)
        self._decided(force)
        return report

    def _decided(self, paths: set[str]) -> None:
        """When no file is held on account of a branch any more, the branch that is checked out is the usual one."""
        rules = [rule for path in paths if (rule := self.clone.rule(path)) is not None]
        with self.clone.transaction():
            if not self.store.value("SELECT 1 FROM held WHERE reason='branch'"):
                cadence.looked(self.store, {rule.cadence for rule in rules}, folder.git_head(self.root))

    def reject(self, chosen: list[str]) -> list[str]:
        """Undo what is held: the files become the documents again. What they held is kept beside the store.

        Of a file whose new policy would share what is of level 0, that stays here, in no file, until the policy is the
        old one again; the rest moves on.
        """
        with self._turn():
            return self._reject(chosen)

    def _reject(self, chosen: list[str]) -> list[str]:
        done, rejected = [], self._chosen(chosen)
        reasons = {row["path"]: row["reason"] for row in self.held()}
        self._decide_arrivals(rejected, wanted=False)
        for path in sorted(rejected):
            target = paths.resolve(self.root, path)
            row = self.row(path)
            if target.is_file():
                self._set_aside(path, target.read_bytes())
            if row is not None:
                stamp = folder.write(self.root, path, row.base)
                with self.clone.transaction():
                    self.store.execute("UPDATE files SET stamp=?, missing=NULL WHERE path=?", (stamp, path))
            elif target.is_file():  # never taken in: there is nothing that it could become again
                folder.remove(self.root, path)
            with self.clone.transaction():
                self._release(path)
            if reasons[path] == "level":
                self._settle_policy(path, target)
            done.append(path)
        self.run(documents=rejected)
        self._decided(rejected)
        return done

    def _settle_policy(self, path: str, target: Path) -> None:
        """Else the file is held again at once; and a private entry that no file shows, nobody can take out."""
        trace = self._traces([path]).get(path)
        if trace is not None and self.clone.rule(path) is not None and target.is_file():
            self._visit(path, target, trace, False, False, Report(), apart=True)

    def _set_aside(self, path: str, data: bytes) -> None:
        kept = self.root / FOLDER / "rejected"
        kept.mkdir(exist_ok=True)
        name = f"{self.now_ms()}-{path.replace('/', '-')}".encode()[-200:].decode(errors="ignore")
        names = itertools.chain([name], (f"{again}-{name}" for again in itertools.count(2)))
        with open(next(kept / name for name in names if not (kept / name).exists()), "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _chosen(self, chosen: list[str]) -> set[str]:
        held = {row["path"] for row in self.held()}
        for path in chosen:
            if path not in held:
                raise DocumentNotFound(f"{path!r} is not held back", hint="see what is held with `replica status`")
        return set(chosen) or held


def _canonical(data: bytes, policy: str) -> str:
    """The canonical text of what a file holds."""
    text = filetext.decode(data).text
    return text if policy == "text" else filetext.canonical(text)


def _nearer(intent: bytes, base: bytes, data: bytes) -> bool:
    """Whether `data` is an edit of `intent` rather than of `base`. In doubt of `base`: better twice than lost."""
    return data == intent or (
        data != base and _shows(intent, base, data) and _distance(intent, data) < _distance(base, data)
    )


def _shows(intent: bytes, base: bytes, data: bytes) -> bool:
    """Whether `data` has a line that `intent` brings, or none of those that it takes away.

    Without that, what the intent brings was hardly ever there to be edited, however alike the new words are.
    """
    to, was, now = (_lines(content) for content in (intent, base, data))
    taken = was - to
    return bool((to - was) & now) or bool(taken and not taken & now)


def _lines(data: bytes) -> set[str]:
    return {line for line in filetext.decode(data).text.split("\n") if line.strip()}


def _distance(one: bytes, other: bytes) -> int:
    """How many characters it takes to get from one content of a file to the other."""
    from replica import textdiff

    old, new = filetext.decode(one).text, filetext.decode(other).text
    return sum(end - start + len(put) for start, end, put in textdiff.diff(old, new))


def _arrivals(name: str) -> str:
    """What the new files of a clone are held as."""
    return f"new files of {name}"
