"""An intent is what we are about to write to a file: durable before the file is, and so a crash is no edit."""

import errno
from typing import NamedTuple

from replica import filetext, folder
from replica.clone import Clone
from replica.errors import DiskFull, UnsafePath
from replica.files.bases import BEHIND, Bases, Row, canonical_text
from replica.files.report import Report


class Pending(NamedTuple):
    """A file about to be written, and the row of the log up to which that is the document."""

    path: str
    policy: str
    data: bytes
    canonical: str
    ids: bytes
    change: int
    seen: str | None  # the stamp of what it replaces


class Intents:
    """Writes the files of one clone."""

    def __init__(self, clone: Clone, bases: Bases):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.bases = bases

    def write(self, group: list[Pending], report: Report) -> None:
        """Make these files hold what they should, with the flushes that they can share."""
        if not group:
            return
        with self.clone.transaction():
            for one in group:
                self.intend(one)
        done = folder.write_all(self.root, [folder.Write(one.path, one.data, one.seen) for one in group])
        with self.clone.transaction():
            for one, stamp in zip(group, done, strict=True):
                if isinstance(stamp, Exception):
                    self._not_intended(one.path)
                    self.not_written(one.path, stamp, report)
                else:
                    self.bases.put(one.path, one.policy, one.data, one.canonical, one.ids, one.change, stamp, None)
                    report.written.append(one.path)
        full = next((e for e in done if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)), None)
        if full is not None:
            raise DiskFull(f"the disk of {self.root} is full; {full.filename or 'a file'} was not written")

    def intend(self, pending: Pending) -> None:
        """Durably say what the file will hold, before it does."""
        done = self.store.execute("UPDATE files SET intent=? WHERE path=?", (pending.data, pending.path))
        if done.rowcount == 0:
            self.bases.put(pending.path, pending.policy, b"", "", b"", 0, None, pending.data)

    def _not_intended(self, path: str) -> None:
        """The file was not written, and we know it: what it holds is judged by what it held before."""
        self.store.execute("DELETE FROM files WHERE path=? AND stamp IS NULL", (path,))
        self.store.execute("UPDATE files SET intent=? WHERE path=?", (BEHIND, path))

    def not_written(self, path: str, error: Exception, report: Report) -> None:
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

    def finish(self, row: Row, data: bytes, stamp: str) -> Row | None:
        """After a crash: a file that holds what we were about to write was written by us.

        If it was edited before we look, it holds neither that nor the base. Whichever it is nearer to was edited.
        """
        if row.intent != BEHIND and _nearer(row.intent, row.base, data):
            canonical = canonical_text(row.intent, row.policy)
            document = self.clone.documents.find(row.path, row.policy)
            with self.clone.transaction():
                ids = self.bases.ids_for(canonical, row.policy, document)
                change = self.bases.last_change(document)
                if data != row.intent:
                    stamp += "?"  # the file is not this base: it is to be looked at until it has been taken in
                self.bases.put(row.path, row.policy, row.intent, canonical, ids, change, stamp, BEHIND)
        elif row.intent != BEHIND and row.stamp is None:
            self.bases.forget(row.path)
        return self.bases.row(row.path)


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
