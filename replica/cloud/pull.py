"""Pull: what was written, changed or taken away in a service comes here, and no difference is settled by itself.

What we exported is known again by our id, by its id there, or by its words, and is nothing new. What changed there
alone becomes an edit here. What changed on both sides waits as a conflict, and what was taken away there waits as well.
"""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from replica import changes, textdiff, writing
from replica.changes import Add, Remove
from replica.clone import Clone
from replica.cloud import export
from replica.cloud import items as read
from replica.cloud.base import Item, Remote, Sink, SinkError
from replica.cloud.items import Source, preview
from replica.cloud.ledger import Ledger, Proposal, Row
from replica.documents import Entry
from replica.errors import ReplicaError, UsageError

OVERLAP = 5 * 60_000  # milliseconds: services' clocks and indexes lag
SWEPT_ALWAYS = 10_000  # up to so many items each pull looks for what was taken away; of more, one a day does
DAY = 24 * 60 * 60_000
TOGETHER = 500  # entries that are added or edited in one change
LONGEST = 100_000  # characters of a memory that is taken in


@dataclass
class Pulled:
    """What a pull did. Each part: (document, first words)."""

    name: str
    type: str
    added: list[tuple[str, str]] = field(default_factory=list)
    edited: list[tuple[str, str]] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    deletions: list[tuple[str, str]] = field(default_factory=list)
    unchanged: int = 0
    skips: list[tuple[str, str]] = field(default_factory=list)  # (first words, why)
    ended: SinkError | None = None


class Local(NamedTuple):
    """An item as it is here now, with the document it is in."""

    item: Item
    source: Source


def pull(
    clone: Clone, ledger: Ledger, n: int, sink: Sink, into: str, pulled: Pulled,
    now: Callable[[], int] = lambda: int(time.time() * 1000),
) -> Pulled:  # fmt: skip
    """Take in what is different there, and say so in `pulled`.

    Raises SinkError: it cannot be asked; what was taken in until then stays.
    """
    return _Pull(clone, ledger, n, sink, into, pulled, now()).result()


class _Pull:
    def __init__(self, clone: Clone, ledger: Ledger, n: int, sink: Sink, into: str, pulled: Pulled, now: int):
        self.clone, self.ledger, self.n, self.sink, self.into, self.now = clone, ledger, n, sink, into, now
        self.pulled = pulled
        self.here: dict[UUID, Local] = {}
        self.kept: set[UUID] = set()  # items that are here, and for now are none: such as those in conflict
        self.by_words: dict[bytes, list[UUID]] = {}
        self.by_tag: dict[str, UUID] = {}  # what a clone of ours has pulled from there, by the id there
        for local in everything(clone, kept=self.kept):
            self._note_here(local)
        self.rows = ledger.all(n)
        self.by_remote = {row.remote: row for row in self.rows.values() if row.remote}
        self.proposals = {one.id: one for one in ledger.proposals(n)}
        self.seen: set[str] = set()
        self.newest: int | None = None
        self.oldest_left: int | None = None  # of what was not taken in, and may be next time
        # What is to be noted in the ledger, for all together is quicker.
        self.fresh: dict[UUID, Row] = {}
        self.stale: set[str] = set()
        self.written: list[tuple[str, UUID, Remote, bytes]] = []
        self.edits: dict[str, list[tuple[Remote, Local, bytes]]] = {}
        self.editing: set[UUID] = set()
        self.adding: dict[bytes, Remote] = {}  # by their words
        self.doubtful: dict[str, bool] = {}

    def _note_here(self, local: Local) -> None:
        item, prefix = local.item, export.pulled_tag(self.sink.type, "")
        self.here[item.id] = local
        self.by_words.setdefault(read.words_hash(item.text), []).append(item.id)
        self.by_tag.update({tag.removeprefix(prefix): item.id for tag in item.tags if tag.startswith(prefix)})

    def result(self) -> Pulled:
        cursor = self.ledger.fact(self.n, "cursor")
        try:
            for remote in self.sink.changes(None if cursor is None else cursor - OVERLAP):
                self._one(remote._replace(text=_storable(remote.text)))
                self.seen.add(remote.remote_id)
                # A clock that is far ahead would have all that follows be old.
                if remote.updated is not None and remote.updated <= self.now + DAY:
                    self.newest = max(self.newest or 0, remote.updated)
        finally:
            self._flush()
        known = [at for at in (cursor, self.newest) if at is not None]
        newest = min([max(known), *([self.oldest_left] if self.oldest_left is not None else [])]) if known else None
        if newest != cursor:
            self.ledger.note(self.n, "cursor", newest)
        self._sweep()
        self.ledger.note(self.n, "pulled", self.now)
        return self.pulled

    def _flush(self) -> None:
        """Make what is new and the edits, and have the ledger know what was done."""
        self._make_adds()
        for path in list(self.edits):
            self._make_edits(path)
        items: dict[str, dict[UUID, Item]] = {}
        for path, id, remote, there in self.written:
            if path not in items:
                items[path] = items_of(self.clone, path)
            item = items[path].get(id)
            if item is not None:
                self.fresh[id] = self._row(item, remote, there)
        self.written.clear()
        with self.ledger.transaction():
            self.ledger.put(self.n, self.fresh.values())
            for path in self.stale:
                self.ledger.set_mark(self.n, path, None)
        self.fresh.clear()

    # --- one memory

    def _one(self, remote: Remote) -> None:
        row = self._row_of(remote)
        if remote.deleted:
            # What we have moved to another place there is not gone.
            if row is not None and row.remote in (None, remote.remote_id):
                self._taken_away(row)
            return
        if row is None and remote.origin and remote.origin != self.clone.workspace.hex():
            self.pulled.skips.append((preview(remote.text), "it is of another workspace"))
            return
        id = row.id if row is not None else remote.item
        if row is None and remote.item is None:
            id = self._same(remote)
            if id is not None and id in self.rows and self.rows[id].remote not in (None, remote.remote_id):
                self.pulled.unchanged += 1  # said twice there; one of the two is known already
                return
        local = self.here.get(id) if id is not None else None
        if row is None and local is None:
            if id in self.kept:
                self._leave(remote, IN_CONFLICT)
            elif remote.origin:  # ours, and not here (yet, or any more): whoever exported it looks after it
                self.pulled.skips.append((preview(remote.text), "it is of this workspace, and not here"))
            else:
                self._add(remote)
            return
        self._compare(remote, row, local, id)

    def _row_of(self, remote: Remote) -> Row | None:
        row = self.rows.get(remote.item) if remote.item is not None else None
        return row or self.by_remote.get(remote.remote_id)

    def _same(self, remote: Remote) -> UUID | None:
        """What is here already of a memory that somebody else wrote there: by who pulled it, or by its words."""
        came = self.by_tag.get(remote.remote_id)
        if came is not None:
            return came
        same = self.by_words.get(read.words_hash(remote.text), [])
        free = (id for id in same if id not in self.rows or self.rows[id].remote is None)
        return next(free, same[0] if same else None)

    def _compare(self, remote: Remote, row: Row | None, local: Local | None, id: UUID) -> None:
        there = read.words_hash(remote.text)
        if local is not None and self._alike(remote.text, there, local):
            self.pulled.unchanged += 1
            self._settled(id, "edit")
            if row is None or row.state != "stored" or row.there != there or row.remote != remote.remote_id:
                self._adopt(remote, local, there)
        elif row is not None and there == row.there:
            self.pulled.unchanged += 1
            self._settled(id, "edit")
            if row.remote != remote.remote_id:  # another clone has moved it there
                self._put(row._replace(remote=remote.remote_id))
        elif self._as_exported(remote):
            self._of_ours(remote, row, local, there)
        elif local is None and id in self.kept:
            self._leave(remote, IN_CONFLICT)
        elif local is None:
            self._open(row, id, remote, there)  # edited there, and gone here
        elif len(remote.text) > LONGEST:
            self.pulled.skips.append((preview(remote.text), "too long"))
        elif not remote.text.strip():
            self._open(row, id, remote, there)  # emptied, or lost by the service: a person should see that
        elif row is not None and bytes.fromhex(local.item.hash) == row.hash and not self._waits(local):
            self._edit(remote, local, there)
        else:
            self._open(row, id, remote, there)

    def _alike(self, text: str, there: bytes, local: Local) -> bool:
        """Whether both have the same words, but for how an entry has to be written to stand alone."""
        if read.words_hash(local.item.text) == there:
            return True
        policy = local.source.document.policy
        if policy in ("text", "latest") or len(text) > LONGEST:
            return False
        try:
            return read.bare(writing.compose(text, policy)) == local.item.text
        except ReplicaError:
            return False

    def _as_exported(self, remote: Remote) -> bool:
        """Whether nobody has changed it since a clone of ours stored it: its words are what we wrote beside them."""
        return export.by_us(remote, self.clone)

    def _of_ours(self, remote: Remote, row: Row | None, local: Local | None, there: bytes) -> None:
        """Another clone has stored another version: a newer one comes from there, an older one is replaced there."""
        self.pulled.unchanged += 1
        if local is None or (remote.revision or 0) > local.item.revision:
            return
        old = bytes.fromhex(remote.hash) if remote.hash else None
        self._put(self._row(local.item, remote, there)._replace(digest=b"", hash=old))
        self.stale.add(local.item.document)

    def _waits(self, local: Local) -> bool:
        """Whether the document has a conflict of its own: a foreign edit would settle it by the way."""
        document = local.source.document
        if document.path not in self.doubtful:
            self.doubtful[document.path] = bool(self.clone.documents.conflicts(document))
        return self.doubtful[document.path]

    def _leave(self, remote: Remote, why: str) -> None:
        """It is not taken in now; the next pull asks for it again."""
        self.pulled.skips.append((preview(remote.text), why))
        if remote.updated is not None:
            self.oldest_left = min(self.oldest_left or remote.updated, remote.updated)

    def _open(self, row: Row | None, id: UUID, remote: Remote, there: bytes) -> None:
        document = row.document if row is not None else self.here[id].source.document.path
        known = self.proposals.get(id)
        if known is None or (known.kind, known.there) != ("edit", there):
            self._propose(Proposal(self.n, id, "edit", document, remote.text, there, remote.remote_id, self.now))
        self.pulled.conflicts.append((document, preview(remote.text)))

    def _propose(self, proposal: Proposal) -> None:
        self.proposals[proposal.id] = proposal
        self.ledger.propose(self.n, proposal)

    def _settled(self, id: UUID, kind: str) -> None:
        """The service has again what we have: nothing waits any more."""
        if id in self.proposals and self.proposals[id].kind == kind:
            del self.proposals[id]
            self.ledger.withdraw(self.n, [id])

    def _adopt(self, remote: Remote, local: Local, there: bytes) -> None:
        """Both have the same: from now on they are known as one."""
        self._put(self._row(local.item, remote, there))

    def _put(self, row: Row) -> None:
        self.fresh[row.id] = self.rows[row.id] = row
        if row.remote:
            self.by_remote[row.remote] = row

    def _row(self, item: Item, remote: Remote, there: bytes) -> Row:
        return Row(
            item.id, item.document, "stored", export.digest(item), bytes.fromhex(item.hash), there, remote.remote_id,
            item.namespace, self.sink.settings.embedder or None, None, None, None, 0, 0, self.now,
        )  # fmt: skip

    # --- taking in

    def _add(self, remote: Remote) -> None:
        """A memory that somebody else wrote there."""
        if not remote.text.strip() or len(remote.text) > LONGEST:
            self.pulled.skips.append((preview(remote.text), "empty" if not remote.text.strip() else "too long"))
            return
        there = read.words_hash(remote.text)
        if there in self.adding:
            self.pulled.unchanged += 1  # said twice there
            return
        self.adding[there] = remote

    def _make_adds(self) -> None:
        new, self.adding = list(self.adding.items()), {}
        rule, level = self.clone.rule(self.into), self.sink.settings.values.get("level") or 1
        if rule is not None and rule.level == 0:
            for _, remote in new:
                self._leave(remote, f"{self.into} is of level 0: have the sink's `into` name another document")
            return
        # Else the next export would take it away there: below the sink's level is not for that place.
        above = level if rule is not None and level > rule.level else None
        for at in range(0, len(new), TOGETHER):
            part = new[at : at + TOGETHER]
            wanted = [
                writing.Wanted(
                    remote.text, _type(remote.type),
                    _tags((export.pulled_tag(self.sink.type, remote.remote_id), *remote.tags)),
                ) for _, remote in part
            ]  # fmt: skip
            try:
                done = writing.add_all(self.clone, self.into, wanted, level=above)
            except ReplicaError as error:
                done = [error] * len(part)
            for (there, remote), added in zip(part, done, strict=True):
                self._added(remote, there, added)

    def _added(self, remote: Remote, there: bytes, added: writing.Added | ReplicaError) -> None:
        if isinstance(added, UsageError):
            self.pulled.skips.append((preview(remote.text), str(added)))
        elif isinstance(added, ReplicaError):
            self._leave(remote, f"{added}; {added.hint}" if added.hint else str(added))
        else:
            self.written.append((self.into, read.entry_id(self.clone, self.into, added.id), remote, there))
            self.pulled.added.append((self.into, preview(remote.text)))

    def _edit(self, remote: Remote, local: Local, there: bytes) -> None:
        """It changed there alone: the same edit here, and both are one again. Those of a document are made together."""
        if local.item.id in self.editing:
            self._open(self.rows.get(local.item.id), local.item.id, remote, there)
            return
        self.editing.add(local.item.id)
        self.edits.setdefault(local.item.document, []).append((remote, local, there))

    def _make_edits(self, path: str) -> None:
        edits = self.edits.pop(path)
        for at in range(0, len(edits), TOGETHER):
            part = edits[at : at + TOGETHER]
            made = write_all(self.clone, [(local, remote.text) for remote, local, _ in part])
            for remote, local, there in part:
                done = made[local.item.id]
                if isinstance(done, ReplicaError):
                    self._leave(remote, str(done))
                elif not done:
                    self._open(self.rows.get(local.item.id), local.item.id, remote, there)
                else:
                    self.written.append((path, local.item.id, remote, there))
                    self.pulled.edited.append((path, preview(remote.text)))

    # --- what is gone there

    def _sweep(self) -> None:
        """What the service does not have any more, of all that it has acknowledged."""
        stored = [row for row in self.rows.values() if row.state == "stored" and row.remote]
        last = self.ledger.fact(self.n, "swept") or 0
        if not stored or (len(stored) > SWEPT_ALWAYS and self.now - last < DAY):
            return
        late = {row.id for row in export.note_failed(self.ledger, self.n, self.sink.failed())}
        present = self.sink.present() | self.seen
        for row in stored:
            if row.id in late:
                continue  # the service could not keep it: nobody has taken it away
            if row.remote not in present:
                self._taken_away(row)
            else:
                self._settled(row.id, "delete")
        self.ledger.note(self.n, "swept", self.now)

    def _taken_away(self, row: Row) -> None:
        local = self.here.get(row.id)
        if local is None and row.id in self.kept:
            return  # in conflict here: once that is settled, it is looked for again
        if local is None:  # gone here as well
            self.ledger.drop(self.n, [row.id])
            self.ledger.withdraw(self.n, [row.id])
            return
        if row.id not in self.proposals or self.proposals[row.id].kind != "delete":
            self._propose(Proposal(self.n, row.id, "delete", row.document, local.item.text, None, row.remote, self.now))
        self.pulled.deletions.append((row.document, preview(local.item.text)))


IN_CONFLICT = "it is in conflict here, too: settle that first"


def _storable(text: str) -> str:
    """JSON can hold halves of characters, and no UTF-8 can."""
    return text.encode("utf-8", "replace").decode()


def _type(type: str | None) -> str | None:
    return type if type and type.strip() and type.isprintable() and len(type) <= changes.MAX_META else None


def _tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    fine = (tag for tag in tags if tag.strip() and tag.isprintable() and len(tag) <= changes.MAX_META)
    return tuple(dict.fromkeys(fine))[: changes.MAX_TAGS]


# --- writing in the place of an item


def write(clone: Clone, local: Local, text: str) -> bool:
    """Put other words in the place of an item, as an edit of ours. False: it is not there as it was read."""
    done = write_all(clone, [(local, text)])[local.item.id]
    if isinstance(done, ReplicaError):
        raise done
    return done


def write_all(clone: Clone, edits: list[tuple[Local, str]]) -> dict[UUID, bool | ReplicaError]:
    """As `write`, for items of one document."""
    made: dict[UUID, bool | ReplicaError] = {}
    if edits[0][0].source.document.policy not in ("text", "latest"):
        try:
            return _write_entries(clone, edits)
        except ReplicaError as error:
            if len(edits) == 1:
                return {edits[0][0].item.id: error}
        half = len(edits) // 2
        return write_all(clone, edits[:half]) | write_all(clone, edits[half:])
    for local, text in edits:
        try:
            made[local.item.id] = _write_section(clone, local, text)
        except ReplicaError as error:
            made[local.item.id] = error
    return made


def _write_entries(clone: Clone, edits: list[tuple[Local, str]]) -> dict[UUID, bool | ReplicaError]:
    document = edits[0][0].source.document
    waiting: dict[str, list[tuple[Local, str]]] = {}
    for local, text in edits:
        waiting.setdefault(local.item.text, []).append((local, text))
    made: dict[UUID, bool | ReplicaError] = {local.item.id: False for local, _ in edits}
    adds: list[tuple[int, Add | Remove]] = []
    taken: set[tuple[str, int]] = set()
    with clone.transaction():
        for entry in clone.documents.entries(clone.documents.find(document.path, document.policy)):
            meant = [] if entry.private else waiting.get(read.bare(entry.text), [])
            local, text = next((one for one in meant if is_item(clone, entry, one[0].item)), (None, ""))
            if local is None or made[local.item.id]:
                continue
            try:
                words = _words(entry, text, document.policy)
            except UsageError as error:
                made[local.item.id] = error
                continue
            occurrence = writing.free_occurrence(clone, document, entry.role, words)
            while (words, occurrence) in taken:
                occurrence += 1
            taken.add((words, occurrence))
            adds.append((1, Add(entry.role, words, occurrence, entry.lead, entry.place, entry.dots, entry.meta)))
            made[local.item.id] = True
        if adds:
            clone.edit_entries(document.path, document.policy, adds)
    return made


def _words(entry: Entry, text: str, policy: str) -> str:
    """New words as the entry is written. Raises UsageError: they cannot stand as one entry."""
    words = read.dressed(text, entry.text)
    return words if writing.stands_alone(words, policy) else writing.compose(text, policy)


def is_item(clone: Clone, entry: Entry, item: Item) -> bool:
    """Whether this entry, or one that it took the place of, is the item."""
    names = {read.entry_id(clone, item.document, root) for root in (entry.id, *entry.roots)}
    return item.id in names


def _write_section(clone: Clone, local: Local, text: str) -> bool:
    document = local.source.document
    whole = read.shared_text(clone, document)
    start = whole.find(local.item.text)
    if start < 0 or whole.find(local.item.text, start + 1) >= 0:
        return False  # not there, or there twice: a person has to say which one
    new = whole[:start] + text.strip("\n") + whole[start + len(local.item.text) :]
    if document.policy == "text":
        clone.edit_text(document.path, textdiff.diff(whole, new))
        return True
    entries = clone.documents.entries(document)
    if len(entries) != 1 or entries[0].private:
        return False
    old = entries[0]
    occurrence = writing.free_occurrence(clone, document, old.role, new.rstrip("\n"))
    add = Add(old.role, new.strip("\n"), occurrence, old.lead, None, old.dots, old.meta)
    clone.edit_entries(document.path, document.policy, [(1, add)])
    return True


def gone(clone: Clone, local: Local) -> bool:
    """Take an item away here, as its service did. False: it is not there as it was read."""
    document = local.source.document
    if document.policy in ("text", "latest"):
        return _write_section(clone, local, "")
    with clone.transaction():
        for entry in clone.documents.entries(clone.documents.find(document.path, document.policy)):
            if not entry.private and read.bare(entry.text) == local.item.text and is_item(clone, entry, local.item):
                clone.edit_entries(document.path, document.policy, [(1, Remove(entry.dots))])
                return True
    return False


def everything(clone: Clone, only: Collection[str] | None = None, kept: set[UUID] | None = None) -> Iterator[Local]:
    """All items of a clone, or of some documents, with where they are.

    `kept`: gets the ids of what is here and is no item for now, such as what is in conflict.
    """
    scope_of = export.scopes_of(clone)
    for source in read.sources(clone):
        if only is None or source.document.path in only:
            found = read.of(clone, source, 1, scope_of(source.document.path))
            if kept is not None:
                kept |= found.keeps
            for item in found.items:
                yield Local(item, source)


def items_of(clone: Clone, path: str) -> dict[UUID, Item]:
    """The items of one document."""
    return {local.item.id: local.item for local in everything(clone, {path})}
