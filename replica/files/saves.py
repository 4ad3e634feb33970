"""File -> document: a file that differs from its base was saved, and the document becomes what it says.

A file whose policy changed shows all of its old document first, and then begins one of the new policy.
"""

import errno
import os
from dataclasses import replace
from pathlib import Path

from replica import filetext, folder, guard
from replica.clone import Clone
from replica.documents import Document
from replica.errors import DamagedRecord, InvalidChange, TooLarge
from replica.files.bases import Bases, Row, Trace
from replica.files.edits import Edits
from replica.files.holds import Holds
from replica.files.intents import Intents, Pending
from replica.files.report import Report


class Saves:
    """Takes in the files of one clone."""

    def __init__(self, clone: Clone, bases: Bases, holds: Holds, intents: Intents, edits: Edits):
        self.clone, self.store = clone, clone.store
        self.bases, self.holds, self.intents, self.edits = bases, holds, intents, edits

    def visit(
        self, path: str, file: Path, row: Trace | None, switched: bool, force: bool, report: Report, *,
        apart: bool = False,
    ) -> None:  # fmt: skip
        """`apart`: if the policy has changed, what is of level 0 stays with the old one and the rest moves on."""
        try:
            info = file.stat()
            rule = self.clone.rule(path)
            same_policy = row is not None and row.policy == rule.policy
            if same_policy and row.stamp == folder.stamp(info) and row.missing is None and not force:
                self.holds.release(path)
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
                data = self._show_all(self.bases.row(path), rule, data, text, info, force, apart, report)
                if data is None:
                    return
                text, info = filetext.decode(data).text, file.stat()
            with self.clone.transaction():
                if row is not None and not same_policy:
                    if not self._leave(self.bases.row(path), apart):
                        report.look_again = True
                        return
                    row, force = None, True  # it was taken in before, whatever it holds
                full = self.bases.row(path) if row is not None else None
                self.take(path, data, text, folder.settled(info), full, switched, force, report)
        except (InvalidChange, TooLarge, DamagedRecord) as error:
            report.skipped[path] = f"cannot be taken in: {error}"
        except OSError as error:
            report.skipped[path] = f"cannot be read or written: {error.strerror}"

    def take(
        self, path: str, data: bytes, text: str, stamp: str, row: Row | None, switched: bool, force: bool,
        report: Report, rule=None,
    ) -> None:  # fmt: skip
        """Make the document what the file says, as far as a person did. `rule`: another than the one in force."""
        if row is not None and row.intent is not None:
            row = self.intents.finish(row, data, stamp)
        if row is not None and data == row.base:
            self.holds.release(path)
            self.bases.stamp(path, stamp)
            return
        if row is not None and not force and self._wiped(row, text) and not self.bases.second_look(row):
            report.look_again = True
            return
        with self.clone.transaction():
            rule = rule or self.clone.rule(path)
            hold = None if force else self.edits.left_by_tools(path, text, row, rule.policy)
            hold = hold or self.edits.make(path, text, row, rule, switched, force)
            if hold is not None:
                self.holds.hold(path, hold)
                report.held[path] = hold.what
                return
            self.bases.remember(path, rule.policy, data, text, stamp)
            self.holds.release(path)
        report.taken.append(path)

    def _wiped(self, row: Row, text: str) -> bool:
        return bool(row.canonical.strip()) and not text.strip()

    # --- a path whose policy changed

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
            document, row = self.clone.documents.find(row.path, row.policy), self.bases.row(row.path)
            hold = guard.judge_sharing(self._private_entries(document) if rule.level else 0, rule.policy)
            if hold is not None and not force and not apart:
                self.holds.hold(row.path, hold)
                report.held[row.path] = hold.what
                return None
            if apart:
                document = document._replace(private=None)
            if not document.alive:
                return data
            canonical, ids = self.bases.whole(document)
            new = filetext.patch(row.base, row.canonical, canonical, exact=row.policy == "text")
            change = self.bases.last_change(document)
            pending = Pending(row.path, row.policy, new, canonical, ids, change, folder.stamp(info))
            if new == row.base:
                self.bases.put(*pending[:6], folder.settled(info), None)
                return data
            self.intents.intend(pending)
        done = Report()
        self.intents.write([pending], done)
        if not done.written:
            raise OSError(errno.EBUSY, done.skipped.get(row.path, "it was saved meanwhile"), row.path)
        return new

    def _leave(self, row: Row, apart: bool) -> bool:
        """End the document of the old policy; False if it has moved on since the file showed all of it."""
        document = self.clone.documents.find(row.path, row.policy)
        if apart:
            document = document._replace(private=None)
        if document.alive and self.bases.last_change(document) != row.change:
            return False
        self.clone.delete(document)
        self.store.execute("DELETE FROM files WHERE path=?", (row.path,))
        return True

    def _private_entries(self, document: Document) -> int:
        """How many entries of level 0 stand in a document of entries."""
        return self.store.value("SELECT count(DISTINCT id) FROM adds WHERE doc=? AND dead=0", (document.private,))

    def bring_along(self, path: str, policy: str, row: Trace | None, held: set[str], report: Report) -> None:
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
            text, _ = self.bases.whole(document)
            self.edits.make(path, text, None, rule, False, True)
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
