"""Export: what is converged is compared with the ledger, and what differs goes to the sink, item by item acknowledged.

It can stop at any point, and go on. What a call without an answer may have stored is noted before the call, and asked
for afterwards where the service does not know our ids.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from uuid import UUID

from replica import config
from replica.clone import Clone
from replica.cloud import items as read
from replica.cloud.base import Capacity, Item, Known, Layer, Outcome, Outgoing, Remote, Sink, SinkError, Stored, Trouble
from replica.cloud.embed import Embedder
from replica.cloud.items import WAITS, Scope, Skip, Source, preview
from replica.cloud.kinds import SCOPES
from replica.cloud.ledger import Ledger, Proposal, Row
from replica.errors import UsageError
from replica.log import Vector

# What a run waits for in all, in seconds, when a service asks for pauses or does not answer.
PATIENCE = 30.0
PAUSES = (0.5, 2.0)  # seconds before a call that got no answer is tried again
MINUTE = 60_000
LONGEST_WAIT = 24 * 60 * MINUTE
# After these nothing more is sent in this run.
ENDING = {Trouble.AUTH, Trouble.QUOTA, Trouble.UNREACHABLE, Trouble.THROTTLE}


class Options(NamedTuple):
    """What a person asked for. `scope`: all, a word of kinds.SCOPES, a name of `[scopes]`, or a glob of documents."""

    scope: str = "all"
    type: str | None = None
    tags: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    force: bool = False


class Cut(NamedTuple):
    """What every member in reach has acknowledged. `vector` None: all that is here. `waiting`: who lacks something."""

    vector: Vector | None = None
    converged: bool = True
    waiting: tuple[str, ...] = ()


class Change(NamedTuple):
    """What is to be done with an item. `action`: "new", "modified" or "deleted". `row`: what the ledger has of it.

    `digest`: of the item as the documents have it, whatever type and tags a person gives it for this run.
    """

    action: str
    id: UUID
    document: str
    item: Item | None
    row: Row | None
    digest: bytes = b""


class Failure(NamedTuple):
    id: UUID
    document: str
    preview: str
    hash: str
    trouble: str
    error: str
    remedy: str
    tries: int


@dataclass
class Plan:
    """The difference between a cut and a ledger. `marks`: of documents, for when all of it is stored."""

    changes: list[Change] = field(default_factory=list)
    unchanged: int = 0
    skips: list[Skip] = field(default_factory=list)
    marks: dict[str, bytes] = field(default_factory=dict)
    # What seems to be there, for another clone has pulled it: a row, and what is to be done if it is not there.
    known: list[tuple[Row, Change]] = field(default_factory=list)
    later: int = 0  # over the limit that was asked for

    def count(self, action: str) -> int:
        return sum(change.action == action for change in self.changes)


@dataclass
class Report:
    """What became of one sink's run. `done`: the changes that the service has acknowledged, with the remote id."""

    name: str
    type: str
    where: str
    planned: Plan = field(default_factory=Plan)
    done: list[tuple[Change, Stored]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    pending: int = 0  # not tried, since the run ended before
    ended: SinkError | None = None
    layers: list[Layer] = field(default_factory=list)
    capacity: Capacity = field(default_factory=Capacity)
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    embedder: str = ""
    dry: bool = False

    def count(self, action: str) -> int:
        if self.dry:
            return self.planned.count(action)
        return sum(change.action == action for change, _ in self.done)


# --- what is to be done


def plan(
    clone: Clone, ledger: Ledger, n: int, type: str, level: int, options: Options, cut: Cut, embedder: str = ""
) -> Plan:
    """Compare the cut with the ledger of place `n`, a sink of `type`. Nothing is written, nothing is sent."""
    return _Planning(clone, ledger, n, type, level, options, cut, embedder).result()


class _Planning:
    def __init__(self, clone, ledger, n, type: str, level, options: Options, cut: Cut, embedder: str):
        self.clone, self.ledger, self.n, self.level = clone, ledger, n, level
        self.prefix = pulled_tag(type, "")
        self.options, self.cut, self.embedder = options, cut, embedder
        self.plan = Plan()
        self.wanted = _Wanted(clone, options)
        self.proposed = {proposal.id for proposal in ledger.proposals(n)}
        self.now = int(time.time() * 1000)

    def result(self) -> Plan:
        self.clone.log.refresh()
        marks, stored = self.ledger.marks(self.n), self.ledger.documents(self.n)
        sources = read.sources(self.clone)
        for source in sources:
            path = source.document.path
            if not self.wanted.document(path):
                self._leave_out(path, stored.get(path, 0))
                continue
            mark = self._mark(source)
            if marks.get(path) == mark and not self.options.force:
                self.plan.unchanged += stored.get(path, 0)
            else:
                self._compare(source, mark)
        self._vanished({source.document.path for source in sources}, stored)
        self._limit()
        return self.plan

    def _leave_out(self, path: str, stored: int) -> None:
        if self.wanted.excluded(path):
            self.plan.skips.append(Skip(None, path, "", "excluded"))

    def _mark(self, source: Source) -> bytes:
        """Of all that decides what the items of a document are, and where they go."""
        row = self.clone.store.row(
            "SELECT changed, changed_at, changed_by FROM documents WHERE n=?", (source.document.shared,)
        )
        scope = self.wanted.scope_of(source.document.path)
        what = [
            MEANING, self.clone.identity.id.hex(), source.changed, *row, source.level, self.level, scope, self.embedder,
            self.options._replace(limit=None, force=False, type=None, tags=()),
        ]  # fmt: skip
        return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).digest()

    def _compare(self, source: Source, mark: bytes) -> None:
        path = source.document.path
        found = read.of(self.clone, source, self.level, self.wanted.scope_of(path), self.cut.vector)
        rows = self.ledger.of_document(self.n, path)
        here = set(found.keeps)
        whole = not found.skips
        for item in found.items:
            here.add(item.id)
            if not self.wanted.item(item):
                whole = False
                if item.type in self.options.exclude:
                    self.plan.skips.append(Skip(item.id, path, preview(item.text), "excluded"))
                continue
            whole &= self._compare_item(item, rows.get(item.id))
        self.plan.skips += found.skips
        if self.wanted.everything:
            behind = self.cut.vector is not None and read.behind(self.clone, source.document.shared, self.cut.vector)
            whole &= not behind
            self._gone((row for id, row in rows.items() if id not in here), behind)
        if whole:
            self.plan.marks[path] = mark

    def _compare_item(self, item: Item, row: Row | None) -> bool:
        """Whether nothing stands in the way of it."""
        its = digest(item)
        if item.id in self.proposed:
            self.plan.skips.append(Skip(item.id, item.document, preview(item.text), DIFFERS))
            return False
        if row is None and (came := self._came_as(item, its)) is not None:
            new = Change("new", item.id, item.document, self.wanted.dressed(item), None, its)
            self.plan.known.append((came, new))
            self.plan.unchanged += 1
            return True
        if row is None or (row.state != "stored" and row.hash is None):
            action = "new"
        elif row.state == "stored" and row.digest == its and row.embedder in (None, self.embedder):
            action = "modified" if self.options.force else ""
        else:
            action = "modified"
        if not action:
            self.plan.unchanged += 1
            return True
        if row is not None and row.state == "failed" and row.digest == its and not self.options.force:
            wait_ms = row.again - self.now
            if wait_ms > 0:
                why = f"failed {row.tries} times ({row.trouble}); tried again in {minutes(wait_ms)}, or with --force"
                self.plan.skips.append(Skip(item.id, item.document, preview(item.text), why))
                return False
        self.plan.changes.append(Change(action, item.id, item.document, self.wanted.dressed(item), row, its))
        return True

    def _came_as(self, item: Item, its: bytes) -> Row | None:
        """A row for what another clone has pulled from such a service: it may be there already, under that id."""
        remote = next((tag[len(self.prefix) :] for tag in item.tags if tag.startswith(self.prefix)), None)
        if not remote:
            return None
        hash = bytes.fromhex(item.hash)
        return Row(
            item.id, item.document, "stored", its, hash, read.words_hash(item.text), remote, item.namespace,
            self.embedder or None,
            None, None, None, 0, 0, self.now,
        )  # fmt: skip

    def _vanished(self, alive: set[str], stored: dict[str, int]) -> None:
        """Documents that are gone, or are not shared any more: so are their items."""
        waits = read.unacknowledged(self.clone, self.cut.vector) if self.cut.vector is not None else set()
        paths = {path for path, _ in waits}
        for path in sorted(stored.keys() - alive):
            if self.wanted.everything and self.wanted.document(path):
                self._gone(self.ledger.of_document(self.n, path).values(), path in paths)

    def _gone(self, rows: Iterable[Row], behind: bool) -> None:
        for row in rows:
            if behind or row.id in self.proposed:
                self.plan.skips.append(Skip(row.id, row.document, "", WAITS if behind else DIFFERS))
            else:
                self.plan.changes.append(Change("deleted", row.id, row.document, None, row))

    def _limit(self) -> None:
        most = self.options.limit
        if most is None or len(self.plan.changes) <= most:
            return
        self.plan.later = len(self.plan.changes) - most
        left_out = {change.document for change in self.plan.changes[most:]}
        self.plan.changes = self.plan.changes[:most]
        self.plan.marks = {path: mark for path, mark in self.plan.marks.items() if path not in left_out}


DIFFERS = "the service has something else: settle it with `replica conflicts`, or `replica accept` and `reject`"
AT_WORK = "the service is still at work on what was written last: it goes with the next export"
MEANING = 1  # raised when items are made otherwise than before, so that no mark of then counts


class _Wanted:
    """Which documents and items a person asked for."""

    def __init__(self, clone: Clone, options: Options):
        self._options, self._scopes = options, clone.config.scopes
        self._types = SCOPES.get(options.scope)
        self._profile = self._scopes.get(options.scope)
        self._glob = None
        if options.scope != "all" and self._types is None and self._profile is None:
            self._glob = _pattern(options.scope, "scope", [*SCOPES, *self._scopes])
        self._excluded = [_pattern(part, "exclude", []) for part in options.exclude]
        # Only of a run that looks at every item of a document does a missing one mean that it is gone.
        self.everything = self._types is None
        self._of: dict[str, Scope | None] = {}

    def document(self, path: str) -> bool:
        if self.excluded(path):
            return False
        if self._profile is not None:
            return self._profile.fits(path)
        return self._glob is None or self._glob.fullmatch(path) is not None

    @property
    def is_glob(self) -> bool:
        return self._glob is not None

    def excluded(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self._excluded)

    def item(self, item: Item) -> bool:
        return (self._types is None or item.type in self._types) and item.type not in self._options.exclude

    def dressed(self, item: Item) -> Item:
        """With the type and the tags that were asked for."""
        tags = tuple(dict.fromkeys((*item.tags, *self._options.tags)))
        return replace(item, type=self._options.type or item.type, tags=tags)

    def scope_of(self, path: str) -> Scope | None:
        """The first scope that a document belongs to."""
        if path not in self._of:
            found = next(((name, scope) for name, scope in self._scopes.items() if scope.fits(path)), None)
            self._of[path] = found and Scope(found[0], found[1].tags, found[1].namespace or found[0])
        return self._of[path]


def scopes_of(clone: Clone) -> Callable[[str], Scope | None]:
    """Which scope a document belongs to."""
    return _Wanted(clone, Options()).scope_of


def fitting_nothing(clone: Clone, options: Options) -> list[str]:
    """What to tell of a scope or an exclusion that fits no document and no type: most often it is a slip."""
    from difflib import get_close_matches

    paths = [source.document.path for source in read.sources(clone)]
    types = {type for types in SCOPES.values() if types for type in types}
    wanted = _Wanted(clone, options._replace(exclude=()))
    told = []
    if wanted.is_glob and not any(wanted.document(path) for path in paths):
        near = get_close_matches(options.scope, ["all", *SCOPES, *clone.config.scopes, *paths], 1)
        told.append(f"--scope {options.scope!r} fits no document" + (f"; did you mean {near[0]!r}?" if near else ""))
    for part in options.exclude:
        fits = _pattern(part, "exclude", []).fullmatch
        if part not in types and not any(fits(path) for path in paths):
            near = get_close_matches(part, [*types, *paths], 1)
            told.append(f"--exclude {part!r} fits no document" + (f"; did you mean {near[0]!r}?" if near else ""))
    return told


def _pattern(glob: str, option: str, words: list[str]):
    import re

    try:
        config._glob(glob)
    except config._Wrong as error:
        known = f"one of all, {', '.join(words)}, or " if words else ""
        raise UsageError(f"--{option} {glob!r}: {error.what}", hint=f"give {known}a glob of documents") from None
    return re.compile(config.glob_pattern(glob), re.DOTALL)


def digest(item: Item) -> bytes:
    """Of all that a service gets of an item, save who wrote it and when: those alone are no reason to send it again."""
    what = [item.text, item.type, item.tags, item.document, item.level, item.namespace]
    return hashlib.sha256(json.dumps(what, ensure_ascii=False).encode()).digest()


def by_us(there: Remote | None, clone: Clone) -> bool:
    """One of our clones wrote it, and nobody has changed it since: beside it stands the hash of just these words."""
    ours = there is not None and there.origin == clone.workspace.hex()
    return ours and there.hash in (_sha(there.text), _sha(read.canonical(there.text)))


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def pulled_tag(type: str, remote_id: str) -> str:
    """The tag of an entry that was pulled: by it other clones know that its service has it already."""
    return f"{type}:{remote_id}"


def minutes(ms: int) -> str:
    return f"{max(1, round(ms / MINUTE))} min" if ms < 120 * MINUTE else f"{round(ms / 60 / MINUTE)} h"


# --- doing it

Progress = Callable[[int, int], None]  # (done, of how many)


def run(
    clone: Clone, ledger: Ledger, n: int, sink: Sink, todo: Plan, report: Report, *, level: int,
    embedder: Embedder | None = None, progress: Progress = lambda done, total: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:  # fmt: skip
    """Do what the plan says, as far as the service allows; what it says of each item is in the report."""
    _Run(clone, ledger, n, sink, todo, report, level, embedder, progress, sleep).all()
    return report


class _Run:
    def __init__(self, clone, ledger, n, sink, todo: Plan, report: Report, level, embedder, progress, sleep):
        self.clone, self.ledger, self.n, self.sink, self.plan, self.report = clone, ledger, n, sink, todo, report
        self.level, self.embedder, self.progress, self._sleep = level, embedder, progress, sleep
        self.patience = PATIENCE
        self.finished = 0
        self.unsound: set[str] = set()  # documents of which something failed or was not tried
        self.withheld: set[UUID] = set()  # items that are not sent after all: not shared any more, or changed there

    def all(self) -> None:
        todo, known = self.plan.changes, self.plan.known
        try:
            if todo or known:
                self.sink.prepare()
            if known:
                todo += self._not_there(known)
            self._unmark({change.document for change in todo})
            store = [change for change in todo if change.action != "deleted"]
            delete = [change for change in todo if change.action == "deleted"]
            self._store(self._with_remote_ids(store))
            self._delete(delete)
            if store and self.report.ended is None:
                self._late()
        except SinkError as error:
            self._end(error)
        finished = {change.id for change, _ in self.report.done}
        told = finished | {failure.id for failure in self.report.failures} | self.withheld
        self.report.pending = sum(change.id not in told for change in todo)
        self.unsound |= {change.document for change in todo if change.id not in finished}
        for path, mark in self.plan.marks.items():
            if path not in self.unsound:
                self.ledger.set_mark(self.n, path, mark)
        self._look()

    def _not_there(self, known: list[tuple[Row, Change]]) -> list[Change]:
        """What the service does not have after all: the pull was from another place of that type."""
        there = self._patiently(self.sink.present) if self.sink.reads_back else set()
        self.ledger.put(self.n, [row for row, _ in known if row.remote in there])
        missing = [change for row, change in known if row.remote not in there]
        self.plan.unchanged -= len(missing)
        return missing

    def _unmark(self, documents: set[str]) -> None:
        """From here on it is not known that all of them is there, however this run ends."""
        with self.ledger.transaction():
            for path in documents & self.ledger.marks(self.n).keys():
                self.ledger.set_mark(self.n, path, None)

    def _late(self) -> None:
        """What the service had acknowledged, and could not keep after all."""
        for row in note_failed(self.ledger, self.n, self.sink.failed()):
            self.unsound.add(row.document)
            self.report.done = [one for one in self.report.done if one[0].id != row.id]
            self.report.failures.append(Failure(
                row.id, row.document, "", (row.hash or b"").hex(), row.trouble, row.error, row.hint, row.tries
            ))  # fmt: skip

    def _look(self) -> None:
        """Where the items are now. A service that was out of reach is not asked again."""
        ended = self.report.ended
        try:
            self.report.layers = self.sink.layers()
            if ended is None:
                self.report.capacity = self.sink.capacity()
        except SinkError as error:
            ended = error
        if ended is not None:
            layers = self.report.layers or [Layer("service", self.report.where)]
            self.report.layers = [layer._replace(state=f"not known: {ended.trouble.value}") for layer in layers]

    def _end(self, error: SinkError) -> None:
        if self.report.ended is None:
            self.report.ended = error

    # --- storing

    def _with_remote_ids(self, store: list[Change]) -> list[Change]:
        """What may be there all the same is looked for, so that it is not there twice.

        Another clone may have stored it, or an earlier run that got no answer.
        """
        if self.sink.keeps_ids:
            return store
        doubtful = [one.id for one in store if one.row is None or one.row.state == "sending" or not one.row.remote]
        if not doubtful:
            return store
        found = self._patiently(lambda: self.sink.find(doubtful))
        now = _now()
        return [
            change._replace(row=(change.row or _row(change, "sending", now))._replace(remote=found[change.id]))
            if change.id in found else change
            for change in store
        ]  # fmt: skip

    def _store(self, store: list[Change]) -> None:
        batches = (store[at : at + self.sink.batch] for at in range(0, len(store), self.sink.batch))
        with ThreadPoolExecutor(max_workers=max(1, self.sink.parallel)) as pool:
            running: dict[Future, list[Change]] = {}
            for batch in batches:
                if len(running) >= max(1, self.sink.parallel):
                    self._collect(running)
                if self.report.ended is not None:
                    break
                try:
                    batch = self._untouched(self._open_still(batch))
                except SinkError as error:  # what is on its way is still to be heard of
                    self._end(error)
                    break
                if not batch:
                    continue
                self._note_sending(batch)
                running[pool.submit(self._send, batch)] = batch
            while running:
                self._collect(running)

    def _open_still(self, batch: list[Change]) -> list[Change]:
        """The last look before the bytes leave: whatever the plan said, level 0 does not."""
        self.clone.log.refresh()
        kept = []
        for change in batch:
            if read.may_leave(self.clone, change.item, self.level):
                kept.append(change)
            else:
                self.unsound.add(change.document)
                self.withheld.add(change.id)
                self.plan.skips.append(Skip(change.id, change.document, "", "it is not shared any more"))
        return kept

    def _untouched(self, batch: list[Change]) -> list[Change]:
        """Without what somebody has changed or taken away there since: that waits for a person, as in a pull."""
        over = [
            Known(one.id, one.row.remote, one.row.namespace) for one in batch
            if one.row is not None and one.row.remote and one.row.there is not None
        ]  # fmt: skip
        if not over or not self.sink.reads_back:
            return batch
        found = self._patiently(lambda: self.sink.read(over))
        asked = {one.id for one in over}
        kept = []
        for change in batch:
            row, there = change.row, found.get(change.id)
            hash = read.words_hash(there.text) if there is not None else None
            known = change.id not in asked or hash in (row.there, read.words_hash(change.item.text))
            if there is not None and not there.settled:
                self._hold(change, AT_WORK)
                continue
            if known or by_us(there, self.clone):
                kept.append(change)
                continue
            self._hold(change, DIFFERS)
            self.ledger.propose(self.n, Proposal(
                self.n, change.id, "delete" if there is None else "edit", change.document,
                change.item.text if there is None else there.text, hash, row.remote, _now(),
            ))  # fmt: skip
        return kept

    def _hold(self, change: Change, why: str) -> None:
        self.unsound.add(change.document)
        self.withheld.add(change.id)
        self.plan.skips.append(Skip(change.id, change.document, preview(change.item.text), why))

    def _note_sending(self, batch: list[Change]) -> None:
        now = _now()
        self.ledger.put(self.n, [
            (change.row or _row(change, "sending", now))._replace(
                state="sending", document=change.document, digest=b"", time=now,
            ) for change in batch
        ])  # fmt: skip

    def _send(self, batch: list[Change]) -> list[Outcome] | SinkError:
        """In a thread. The outcomes, or why there are none."""
        try:
            return self._outcomes(batch)
        except SinkError as error:
            return error

    def _outcomes(self, batch: list[Change]) -> list[Outcome]:
        outgoing = self._outgoing(batch)
        try:
            return self._patiently(lambda: self.sink.store(outgoing), lambda: self._ask_again(outgoing))
        except SinkError as error:
            if error.trouble not in (Trouble.TOO_BIG, Trouble.BAD_ITEM, Trouble.CONFLICT, Trouble.GONE):
                raise
            if len(batch) == 1:
                return [error]
        half = len(batch) // 2
        return self._outcomes(batch[:half]) + self._outcomes(batch[half:])

    def _outgoing(self, batch: list[Change]) -> list[Outgoing]:
        vectors: Sequence[Sequence[float] | None] = [None] * len(batch)
        if self.sink.wants_vectors and self.embedder is not None:
            vectors = self.embedder.embed([change.item.text for change in batch])
        return [
            Outgoing(change.item, change.row.remote if change.row else None, vector)
            for change, vector in zip(batch, vectors, strict=True)
        ]

    def _ask_again(self, outgoing: list[Outgoing]) -> None:
        """A call got no answer: what of it is there all the same?"""
        if self.sink.keeps_ids:
            return
        found = self.sink.find([out.item.id for out in outgoing])
        outgoing[:] = [out._replace(remote_id=found.get(out.item.id, out.remote_id)) for out in outgoing]

    def _patiently(self, work: Callable[[], Any], between: Callable[[], None] = lambda: None) -> Any:
        """Do it; wait and do it again where the service asks for that or does not answer, for a while in all."""
        pauses = list(PAUSES)
        while True:
            try:
                return work()
            except SinkError as error:
                if error.trouble is Trouble.THROTTLE:
                    pause = error.retry_after if error.retry_after is not None else 2.0
                elif error.trouble is Trouble.UNREACHABLE and pauses:
                    pause = max(pauses.pop(0), error.retry_after or 0.0)
                else:
                    raise
                if pause > self.patience:
                    raise
                self.patience -= max(pause, 0.1)
                self._sleep(pause)
            between()

    def _collect(self, running: dict[Future, list[Change]]) -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            batch, result = running.pop(future), future.result()
            if isinstance(result, SinkError):
                self._end(result)
                result = [result] * len(batch)
            self._take(batch, result)

    def _take(self, batch: list[Change], outcomes: Sequence[Outcome]) -> None:
        now = _now()
        rows, moved = [], []
        for change, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Stored):
                rows.append(self._stored(change, outcome, now))
                old = change.row
                if old is not None and old.remote and self._has_moved(change, outcome):
                    moved.append(Known(change.id, old.remote, old.namespace))
            else:
                rows.append(self._failed(change, outcome, now))
                if outcome.trouble in (Trouble.AUTH, Trouble.QUOTA):
                    self._end(outcome)
        self.ledger.put(self.n, rows)
        if moved:
            self._patiently(lambda: self.sink.delete(moved))
        self.finished += len(batch)
        self.progress(self.finished, len(self.plan.changes))

    def _has_moved(self, change: Change, outcome: Stored) -> bool:
        """Whether it is still where it was, too: under an id that somebody else gave it, or in its former namespace."""
        return change.row.remote != outcome.remote_id or (
            self.sink.apart and change.row.namespace != change.item.namespace and change.row.hash is not None
        )

    def _stored(self, change: Change, outcome: Stored, now: int) -> Row:
        self.report.done.append((change, outcome))
        return _row(change, "stored", now)._replace(
            remote=outcome.remote_id, embedder=self.embedder.id if self.sink.wants_vectors and self.embedder else None
        )

    def _failed(self, change: Change, error: SinkError, now: int) -> Row:
        old = change.row
        tries = (old.tries if old is not None else 0) + 1
        self.report.failures.append(Failure(
            change.id, change.document, preview(change.item.text) if change.item else "",
            change.item.hash if change.item else (old.hash or b"").hex(), error.trouble.value, str(error), error.hint,
            tries,
        ))  # fmt: skip
        # What is no fault of the item is tried with the next run; what is, later and later.
        its_own = error.trouble not in ENDING
        pause = min(MINUTE * 2 ** min(tries - 1, 20), LONGEST_WAIT) if its_own and tries > 1 else 0
        # Without an answer the service may have it: that is still to be found out.
        state = "sending" if error.trouble is Trouble.UNREACHABLE and not self.sink.keeps_ids else "failed"
        return _row(change, state, now)._replace(
            remote=old.remote if old else None, hash=old.hash if old else None, there=old.there if old else None,
            trouble=error.trouble.value, error=str(error), hint=error.hint, tries=tries, again=now + pause,
        )  # fmt: skip

    # --- deleting

    def _delete(self, delete: list[Change]) -> None:
        for batch in _batches(delete, self.sink.batch):
            if self.report.ended is not None:
                return
            known = [Known(one.id, one.row.remote or str(one.id), one.row.namespace) for one in batch]
            lost = [one.id for one in known if self._lost(one, batch)]
            found = self._patiently(lambda lost=lost: self.sink.find(lost)) if lost else {}
            known = [one._replace(remote_id=found.get(one.id, one.remote_id)) for one in known]
            there = [one for one in known if one.id not in lost or one.id in found]
            try:
                outcomes = self._patiently(lambda there=there: self.sink.delete(there)) if there else []
            except SinkError as error:
                outcomes = [error] * len(there)
                self._end(error)
            result: dict[UUID, Outcome] = {one.id: Stored(one.remote_id) for one in known}
            result.update({one.id: outcome for one, outcome in zip(there, outcomes, strict=True)})
            self._deleted(batch, result)

    def _lost(self, known: Known, batch: list[Change]) -> bool:
        """Whether it is not known under which id the service has it, if it has."""
        row = next(change.row for change in batch if change.id == known.id)
        return not self.sink.keeps_ids and row.remote is None

    def _deleted(self, batch: list[Change], result: dict[UUID, Outcome]) -> None:
        now, gone = _now(), []
        for change in batch:
            outcome = result[change.id]
            if isinstance(outcome, Stored):
                self.report.done.append((change, outcome))
                gone.append(change.id)
            else:
                failed = self._failed(change, outcome, now)
                self.ledger.put(self.n, [failed._replace(state=change.row.state, digest=change.row.digest)])
        self.ledger.drop(self.n, gone)
        self.ledger.withdraw(self.n, gone)
        self.finished += len(batch)
        self.progress(self.finished, len(self.plan.changes))


def note_failed(ledger: Ledger, n: int, failed: dict[UUID, SinkError]) -> list[Row]:
    """Have the ledger say that these were not kept. Returns the rows of those that it had as stored.

    Nothing of them is there to be looked at before they are sent again: that they are gone is nobody's deletion.
    """
    rows = []
    for id, error in failed.items():
        row = ledger.item(n, id)
        if row is not None and row.state == "stored":
            rows.append(row._replace(
                state="failed", there=None, trouble=error.trouble.value, error=str(error), hint=error.hint,
                tries=row.tries + 1, again=0, time=_now(),
            ))  # fmt: skip
            ledger.set_mark(n, row.document, None)
    ledger.put(n, rows)
    return rows


def _batches(changes: list[Change], size: int) -> Iterator[list[Change]]:
    return (changes[at : at + size] for at in range(0, len(changes), size))


def _row(change: Change, state: str, now: int) -> Row:
    item, old = change.item, change.row
    stored = item is not None and state == "stored"
    return Row(
        change.id, change.document, state, change.digest if item else old.digest,
        bytes.fromhex(item.hash) if stored else None, read.words_hash(item.text) if stored else None,
        old.remote if old else None, item.namespace if item else old.namespace, None, None, None, None, 0, 0, now,
    )  # fmt: skip


def _now() -> int:
    return int(time.time() * 1000)
