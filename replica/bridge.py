"""Keeps files and documents one: saved files become changes, others' changes become files.

`run` is the whole of it, and safe to call at any time from any process: look at the folder, take in what people saved,
then write what the log has brought. Here is when that happens and in which order; how, in replica/files/.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from replica import cadence, folder, guard, paths
from replica.clone import Clone
from replica.errors import StoreError
from replica.files.arrivals import Arrivals
from replica.files.bases import SECOND_LOOK, Bases, Row
from replica.files.deletions import Deletions
from replica.files.delivery import Delivery
from replica.files.edits import Edits
from replica.files.holds import Holds
from replica.files.intents import Intents
from replica.files.report import Report
from replica.files.rules import Rules
from replica.files.saves import Saves
from replica.places import CONFIG, FOLDER
from replica.rejoin import under_way
from replica.withheld import Withheld


class Bridge:
    """The bridge of one clone. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, clone: Clone, now_ms=None):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.now_ms = now_ms or (lambda: int(time.time() * 1000))
        self.holds = Holds(clone, self.now_ms)
        self.bases = Bases(clone, self.holds, self.now_ms)
        self.arrivals = Arrivals(clone, self.holds)
        self.intents = Intents(clone, self.bases)
        self.withheld = Withheld(clone, self.now_ms)
        self.edits = Edits(clone, self.bases, self.withheld)
        self.saves = Saves(clone, self.bases, self.holds, self.intents, self.edits)
        self.deletions = Deletions(clone, self.bases, self.holds)
        self.delivery = Delivery(clone, self.bases, self.arrivals, self.intents, self.saves)
        self.rules = Rules(clone, self.bases, self.holds, self.saves)
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
        self.rules.take(report, force)
        found = self._look()
        rows = self.bases.traces()
        self._head = folder.git_head(self.root)
        for path, file in found.files.items():
            if path != CONFIG and self._is_due(path, due):
                self.saves.visit(path, file, rows.get(path), self._switched(path), path in force, report)
        self.deletions.take(rows, found, due, force, report)
        report.skipped.update(found.skipped)
        reached = self.clone.log.last_row()  # before the writing: what others commit meanwhile is for the next time
        self.delivery.write_all(due, report)
        self._delivered = reached
        self._remember(report, due)
        self._tell_withheld(report)
        return report

    def _tell_withheld(self, report: Report) -> None:
        """Behind what is held: nothing waits for it."""
        found: dict[str, list[str]] = {}
        for row in self.withheld.rows(report.taken) if report.taken else ():
            found.setdefault(row["path"], []).append(row["what"])
        for path, lines in found.items():
            more = f", and {len(lines) - 1} more lines do" if len(lines) > 1 else ""
            report.held.setdefault(path, f"{lines[0]}{more}")

    def _has_workspace(self) -> bool:
        """Whether anything can be taken in yet: a join may have ended before the first sync, which comes first then."""
        self.clone.log.refresh()
        return self.clone.log.author(self.clone.identity.id) is not None

    def _check_root(self) -> None:
        if not (self.root / FOLDER).is_dir():
            raise StoreError(f"{self.root} is gone or not mounted", hint="bring the folder back; nothing was changed")

    def _look(self) -> folder.Found:
        config = self.clone.config
        # The rules as they are now, once: asked of the clone, each path would be a question to the store.
        found = folder.look(self.root, lambda path: path == CONFIG or config.rule(path) is not None, config.excluded)
        self._sweep(found)
        return found

    def _sweep(self, found: folder.Found) -> None:
        """Remove what a process that was killed had half written: it is our turn, so nobody else is writing now."""
        for leftover in found.leftovers:
            with suppress(OSError):
                leftover.unlink()

    def deliver(self) -> Report:
        """Write what the log has brought since the last time, without a look at the rest of the folder."""
        with self._turn():
            report = Report()
            if under_way(self.store):
                return report
            reached = self.clone.log.last_row()
            if self._delivered == 0 or self.rules.have_changed():
                return self.run()
            self.delivery.write_all(cadence.LIVE, report, self._delivered)
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
        plain = plain and not self.rules.have_changed()
        files = {path: self.root / path for path in names if self.clone.rule(path) is not None}
        if not plain or any(file.is_symlink() or not file.is_file() for file in files.values()):
            return self.run()
        if any(self._is_folder(path) for path in names - files.keys()):
            return self.run()  # a new one: of what was written into it before it was watched, nobody tells
        report = Report()
        found = folder.check(self.root, files, self.clone.config.excluded)
        rows = self.bases.traces(found.files)
        for path, file in found.files.items():
            if self._is_due(path, cadence.LIVE):
                self.saves.visit(path, file, rows.get(path), False, False, report)
        traces = self.bases.traces(report.taken)
        # A save may have met a document that had moved on: the file gets what it lacks.
        self.delivery.write(
            [(path, traces[path].policy, traces[path]) for path in report.taken if traces[path].intended], report
        )
        self._tell_withheld(report)
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

    # --- one file, and one document

    def row(self, path: str) -> Row | None:
        """What is remembered of a file."""
        return self.bases.row(path)

    def put(self, path: str, text: str) -> guard.Hold | None:
        """Make a document `text`: see `Edits.put`."""
        return self.edits.put(path, text)

    # --- what a person decides

    def held(self) -> list[dict]:
        """What waits for `accept` or `reject`: path, reason, what, since (milliseconds since 1970).

        Of lines that are withheld each has a row, with its id as `line`; those wait for `accept_lines`.
        """
        return [*self.holds.held(), *self.withheld.rows()]

    def accept(self, chosen: list[str]) -> Report:
        """Let through what the guard holds: what the files say becomes the documents."""
        force = self.holds.chosen(chosen)
        self.arrivals.decide(force, wanted=True)
        report = self.run(documents=force, force=force, wait=True)
        self._decided(force)
        return report

    def accept_lines(self, path: str, lines: list[str]) -> Report:
        """Share lines of level 0 of a document, named by the beginnings of their ids.

        Raises NotFound, and shares none: one of them is not there, in these words.
        """
        with self._turn():
            self.run(documents=[path])  # what was saved meanwhile comes first: a line may be gone, or another
            self.withheld.share(path, [self.withheld.find(path, line) for line in lines])
            return self.run(documents=[path])

    def reject_lines(self, path: str, lines: list[str]) -> None:
        """Keep lines of a document at level 0 for good; as `accept_lines`."""
        with self._turn():
            self.run(documents=[path])
            self.withheld.keep(path, [self.withheld.find(path, line) for line in lines])

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
        done, rejected = [], self.holds.chosen(chosen)
        reasons = {row["path"]: row["reason"] for row in self.holds.held()}
        self.arrivals.decide(rejected, wanted=False)
        for path in sorted(rejected):
            target = paths.resolve(self.root, path)
            row = self.bases.row(path)
            if target.is_file():
                self.holds.set_aside(path, target.read_bytes())
            if row is not None:
                stamp = folder.write(self.root, path, row.base)
                with self.clone.transaction():
                    self.bases.stamp(path, stamp)
            elif target.is_file():  # never taken in: there is nothing that it could become again
                folder.remove(self.root, path)
            with self.clone.transaction():
                self.holds.release(path)
            if reasons[path] == "level":
                self._settle_policy(path, target)
            done.append(path)
        self.run(documents=rejected)
        self._decided(rejected)
        return done

    def _settle_policy(self, path: str, target: Path) -> None:
        """Else the file is held again at once; and a private entry that no file shows, nobody can take out."""
        trace = self.bases.traces([path]).get(path)
        if trace is not None and self.clone.rule(path) is not None and target.is_file():
            self.saves.visit(path, target, trace, False, False, Report(), apart=True)
