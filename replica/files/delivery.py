"""Document -> file: what the log has brought is written, after what was saved meanwhile is taken in."""

from replica import cadence, filetext, folder, paths
from replica.clone import Clone
from replica.errors import DamagedRecord, UnsafePath
from replica.files.arrivals import Arrivals
from replica.files.bases import Bases, Trace
from replica.files.intents import Intents, Pending
from replica.files.report import Report
from replica.files.saves import Saves

GROUP = 64  # files written with two transactions between them


class Delivery:
    """Brings the documents of one clone into their files."""

    def __init__(self, clone: Clone, bases: Bases, arrivals: Arrivals, intents: Intents, saves: Saves):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.bases, self.arrivals, self.intents, self.saves = bases, arrivals, intents, saves

    def write_all(self, due: cadence.Due, report: Report, since: int = 0) -> None:
        """Write what changed in the log; `since`: only the documents with changes behind that row."""
        self.clone.log.refresh()
        held = {path for (path,) in self.store.rows("SELECT path FROM held")}
        alive, gone = self.clone.documents.latest_changes(since), self.clone.documents.dead(since)
        rows = self.bases.traces({path for path, _ in (*alive, *gone)} if since else None)
        claimed: dict[str, str] | None = None
        behind = []
        for path, policy in alive:
            self.saves.bring_along(path, policy, rows.get(path), held, report)
        barred = set() if since else self.arrivals.barred(report)
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
        self.write(self.arrivals.welcome(behind, report), report)
        for row in rows.values():
            rule = self.clone.rule(row.path)
            waits = rule is not None and not due.has(row.path, rule)
            if (row.path, row.policy) in gone and row.path not in held and row.missing is None and not waits:
                self._remove(row, report)

    def _is_behind(
        self, path: str, policy: str, last: int, row: Trace | None, due: cadence.Due, held: set[str]
    ) -> bool:
        """Whether the file is to be written now."""
        rule = self.clone.rule(path)
        if rule is None or rule.policy != policy or not due.has(path, rule) or path in held:
            return False
        return row is None or (row.missing is None and (row.change < last or row.intended))

    def write(self, behind: list[tuple[str, str, Trace | None]], report: Report) -> None:
        """Write these documents (path, policy, trace) to their files, in groups that share their flushes."""
        for at in range(0, len(behind), GROUP):
            group = [self._prepare(*one, report) for one in behind[at : at + GROUP]]
            self.intents.write([pending for pending in group if pending is not None], report)

    def _prepare(self, path: str, policy: str, trace: Trace | None, report: Report) -> Pending | None:
        """What a document's file is to hold; a file that was saved meanwhile is taken in first."""
        try:
            return self._prepared(path, policy, trace, report)
        except (UnsafePath, OSError, DamagedRecord) as error:
            self.intents.not_written(path, error, report)
            return None

    def _prepared(self, path: str, policy: str, trace: Trace | None, report: Report) -> Pending | None:
        row = self.bases.row(path) if trace is not None else None
        target = paths.resolve(self.root, paths.normal(path))
        if target.is_dir():
            report.skipped[path] = "a folder stands where a document should be"
            return None
        seen = folder.stamp(target.stat()) if target.exists() else None
        old = target.read_bytes() if seen is not None else None
        if old is not None and (row is None or old != row.base):
            self.saves.visit(path, target, trace, False, False, report)
            row = self.bases.row(path)
            if row is None or path in report.held or path in report.skipped or row.base != old:
                report.look_again = True
                return None
        document = self.clone.documents.find(path, policy)
        change = self.bases.last_change(document)
        canonical, ids = self.bases.content(document)
        data = filetext.patch(old, row.canonical if row and old is not None else "", canonical, exact=policy == "text")
        if data == old:
            with self.clone.transaction():
                self.bases.put(path, policy, data, canonical, ids, change, seen, None)
            return None
        return Pending(path, policy, data, canonical, ids, change, seen)

    def _remove(self, row: Trace, report: Report) -> None:
        """The document was deleted elsewhere: the file goes, unless it was changed meanwhile."""
        try:
            target = paths.resolve(self.root, row.path)
            full = self.bases.row(row.path)
            if full is not None and target.is_file() and target.read_bytes() != full.base:
                self.saves.visit(row.path, target, row, False, False, report)
                return
            folder.remove(self.root, row.path, full.base if full is not None else None)
        except folder.FileChanged:
            report.look_again = True
            return
        except (UnsafePath, OSError, DamagedRecord) as error:
            report.skipped[row.path] = f"cannot be deleted: {error}"
            return
        self.bases.forget(row.path)
        report.removed.append(row.path)
