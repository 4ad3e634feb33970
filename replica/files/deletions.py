"""Files that are gone: the document goes with its file, once that is believed and unless others changed it."""

from replica import cadence, folder, guard, markers
from replica.changes import Remove
from replica.clone import Clone
from replica.documents import Document
from replica.files.bases import Bases, Trace
from replica.files.holds import Holds
from replica.files.report import Report
from replica.places import CONFIG


class Deletions:
    """Takes in the deletions of one clone's files."""

    def __init__(self, clone: Clone, bases: Bases, holds: Holds):
        self.clone, self.store = clone, clone.store
        self.bases, self.holds = bases, holds

    def take(
        self, rows: dict[str, Trace], found: folder.Found, due: cadence.Due, force: set[str], report: Report
    ) -> None:
        """Of the files that we know (`rows`) and a look did not find: those that are due."""
        for row in rows.values():
            if row.stamp is None and row.path not in found.files:
                self.bases.forget(row.path)  # we meant to write it and did not get that far
        for path, reason in self.store.rows("SELECT path, reason FROM held"):
            never_taken = reason in (markers.MARKERS, markers.COPY) and path not in rows
            if never_taken and path not in found.files and not self._hidden(path, found):
                self.holds.release(path)  # it was put away
        tracked = [
            row for row in rows.values() if row.stamp is not None and due.has(row.path, self.clone.rule(row.path))
        ]
        gone = [row for row in tracked if row.path not in found.files and not self._hidden(row.path, found)]
        limits = self.clone.config.guard
        documents = [row for row in tracked if row.path != CONFIG]  # `rm *.md` leaves that one
        hold = guard.judge_vanished(len(gone), len(documents), limits)
        for row in gone:
            if hold is not None and row.path not in force:
                with self.clone.transaction():
                    self.holds.hold(row.path, hold)
                report.held[row.path] = hold.what
            elif row.path in force or self.bases.second_look(row):
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
            news = document.alive and (self.bases.last_change(document) > row.change or row.intended)
            self.bases.forget(row.path)
            if document.alive and not news and not self._drop_shown(document, report):
                self.clone.delete(document)
                report.deleted.append(row.path)

    def _drop_shown(self, document: Document, report: Report) -> bool:
        """Of several versions a file shows one, and that one goes with it; what waits comes in its place.

        So it is with a text that went on at level 0: what others have is theirs, and comes back into view. Returns
        False, and does nothing, where the file showed all of its document.
        """
        alive = "SELECT 1 FROM alive WHERE doc=?"
        both = all(doc is not None and self.store.value(alive, (doc,)) for doc in (document.shared, document.private))
        documents = self.clone.documents
        if both and (
            documents.shown_text(document) == document.private if document.policy == "text"
            else document.policy == "latest" and any(entry.private for entry in documents.entries(document))
        ):  # fmt: skip
            self.clone.delete(document._replace(shared=None))
            report.taken.append(document.path)
            return True
        shown = self.clone.documents.entries(document) if document.policy == "latest" else []
        if not shown or len(self.clone.documents.versions(document)) == len(shown):
            return False
        ops = [(0 if entry.private else 1, Remove(entry.dots)) for entry in shown]
        self.clone.edit_entries(document.path, document.policy, ops)
        report.taken.append(document.path)
        return True
