"""Pull: what was written, changed or taken away in a service comes here, and no difference is settled by itself.

What we exported is known again by our id, by its id there, or by its words, and is nothing new. What changed there
alone becomes an edit here. What changed on both sides waits as a conflict, and what was taken away there waits as well.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
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
from replica.errors import ReplicaError

OVERLAP = 5 * 60_000  # milliseconds: services' clocks and indexes lag
SWEPT_ALWAYS = 10_000  # up to so many items each pull looks for what was taken away; of more, one a day does
DAY = 24 * 60 * 60_000
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
        self.by_hash: dict[bytes, UUID] = {}
        for local in everything(clone):
            self.here[local.item.id] = local
            self.by_hash.setdefault(bytes.fromhex(local.item.hash), local.item.id)
        self.rows = ledger.all(n)
        self.by_remote = {row.remote: row for row in self.rows.values() if row.remote}
        self.seen: set[str] = set()

    def result(self) -> Pulled:
        newest = cursor = self.ledger.fact(self.n, "cursor")
        for remote in self.sink.changes(None if cursor is None else cursor - OVERLAP):
            self.seen.add(remote.remote_id)
            if remote.updated is not None:
                newest = max(newest or 0, remote.updated)
            self._one(remote)
        if newest != cursor:
            self.ledger.note(self.n, "cursor", newest)
        self._sweep()
        self.ledger.note(self.n, "pulled", self.now)
        return self.pulled

    # --- one memory

    def _one(self, remote: Remote) -> None:
        row = self._row_of(remote)
        if remote.deleted:
            if row is not None:
                self._taken_away(row)
            return
        id = row.id if row is not None else remote.item
        if row is None and remote.origin and remote.origin != self.clone.workspace.hex():
            self.pulled.skips.append((preview(remote.text), "it is of another workspace"))
            return
        local = self.here.get(id) if id is not None else None
        if row is None and local is None and id is None:
            same = self.by_hash.get(_hash(remote.text))
            if same is not None and (same not in self.rows or self.rows[same].remote is None):
                self._adopt(remote, self.here[same], _hash(remote.text))
                return
        if row is None and local is None:
            if remote.origin:  # ours, and not here (yet, or any more): whoever exported it looks after it
                self.pulled.skips.append((preview(remote.text), "it is of this workspace, and not here"))
            else:
                self._add(remote)
            return
        self._compare(remote, row, local, id)

    def _row_of(self, remote: Remote) -> Row | None:
        row = self.rows.get(remote.item) if remote.item is not None else None
        return row or self.by_remote.get(remote.remote_id)

    def _compare(self, remote: Remote, row: Row | None, local: Local | None, id: UUID) -> None:
        there = _hash(remote.text)
        base = row.there if row is not None else bytes.fromhex(remote.hash) if remote.hash else None
        if there == base:
            self.pulled.unchanged += 1
            self._settled(id, "edit")
            if row is None and local is not None:
                self._adopt(remote, local, there)
        elif local is not None and bytes.fromhex(local.item.hash) == there:
            self.pulled.unchanged += 1
            self._settled(id, "edit")
            self._adopt(remote, local, there)
        elif local is None:
            self._open(row, id, remote, there)  # edited there, and gone here
        elif row is not None and bytes.fromhex(local.item.hash) == row.hash and not self._waits(local):
            self._edit(remote, local, there)
        else:
            self._open(row, id, remote, there)

    def _waits(self, local: Local) -> bool:
        """Whether the document has a conflict of its own: a foreign edit would settle it by the way."""
        return bool(self.clone.documents.conflicts(local.source.document))

    def _open(self, row: Row | None, id: UUID, remote: Remote, there: bytes) -> None:
        document = row.document if row is not None else self.here[id].source.document.path
        known = {(one.id, one.there) for one in self.ledger.proposals(self.n)}
        if (id, there) not in known:
            self.ledger.propose(
                self.n, Proposal(self.n, id, "edit", document, remote.text, there, remote.remote_id, self.now)
            )
        self.pulled.conflicts.append((document, preview(remote.text)))

    def _settled(self, id: UUID, kind: str) -> None:
        """The service has again what we have: nothing waits any more."""
        if any(one.id == id and one.kind == kind for one in self.ledger.proposals(self.n)):
            self.ledger.withdraw(self.n, [id])

    def _adopt(self, remote: Remote, local: Local, there: bytes) -> None:
        """Both have the same: from now on they are known as one."""
        self.ledger.put(self.n, [self._row(local.item, remote, there)])

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
        try:
            added = writing.add(
                self.clone, self.into, remote.text, type=_type(remote.type),
                tags=_tags((export.pulled_tag(self.sink.type, remote.remote_id), *remote.tags)),
            )  # fmt: skip
        except ReplicaError as error:
            self.pulled.skips.append((preview(remote.text), str(error)))
            return
        item = self._item_of(self.into, added.id)
        if item is not None:
            self.here[item.id] = Local(item, self._source(self.into))
            self.ledger.put(self.n, [self._row(item, remote, _hash(remote.text))])
        self.pulled.added.append((self.into, preview(remote.text)))

    def _item_of(self, path: str, entry: bytes) -> Item | None:
        return self._items_of(path).get(read.entry_id(self.clone, path, entry))

    def _items_of(self, path: str) -> dict[UUID, Item]:
        source = self._source(path)
        if source is None:
            return {}
        scope = export.scopes_of(self.clone)(path)
        return {item.id: item for item in read.of(self.clone, source, 1, scope).items}

    def _source(self, path: str) -> Source | None:
        return next((one for one in read.sources(self.clone) if one.document.path == path), None)

    def _edit(self, remote: Remote, local: Local, there: bytes) -> None:
        """It changed there alone: the same edit here, and both are one again."""
        try:
            done = write(self.clone, local, remote.text)
        except ReplicaError as error:
            self.pulled.skips.append((preview(remote.text), str(error)))
            return
        if not done:
            self._open(self.rows.get(local.item.id), local.item.id, remote, there)
            return
        item = self._items_of(local.item.document).get(local.item.id)
        if item is not None:
            self.ledger.put(self.n, [self._row(item, remote, there)])
        self.pulled.edited.append((local.item.document, preview(remote.text)))

    # --- what is gone there

    def _sweep(self) -> None:
        """What the service does not have any more, of all that it has acknowledged."""
        stored = [row for row in self.rows.values() if row.state == "stored" and row.remote]
        last = self.ledger.fact(self.n, "swept") or 0
        if not stored or (len(stored) > SWEPT_ALWAYS and self.now - last < DAY):
            return
        present = self.sink.present() | self.seen
        for row in stored:
            if row.remote not in present:
                self._taken_away(row)
            else:
                self._settled(row.id, "delete")
        self.ledger.note(self.n, "swept", self.now)

    def _taken_away(self, row: Row) -> None:
        local = self.here.get(row.id)
        if local is None:  # gone here as well
            self.ledger.drop(self.n, [row.id])
            self.ledger.withdraw(self.n, [row.id])
            return
        kind = "delete"
        if not any(one.id == row.id and one.kind == kind for one in self.ledger.proposals(self.n)):
            self.ledger.propose(
                self.n, Proposal(self.n, row.id, kind, row.document, local.item.text, None, row.remote, self.now)
            )
        self.pulled.deletions.append((row.document, preview(local.item.text)))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _type(type: str | None) -> str | None:
    return type if type and type.strip() and type.isprintable() and len(type) <= changes.MAX_META else None


def _tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    fine = (tag for tag in tags if tag.strip() and tag.isprintable() and len(tag) <= changes.MAX_META)
    return tuple(dict.fromkeys(fine))[: changes.MAX_TAGS]


# --- writing in the place of an item


def write(clone: Clone, local: Local, text: str) -> bool:
    """Put other words in the place of an item, as an edit of ours. False: it is not there as it was read."""
    document = local.source.document
    if document.policy in ("text", "latest"):
        return _write_section(clone, local, text)
    with clone.transaction():
        for entry in clone.documents.entries(clone.documents.find(document.path, document.policy)):
            if not entry.private and read.bare(entry.text) == local.item.text and is_item(clone, entry, local.item):
                return _replace(clone, local, entry, text)
    return False


def is_item(clone: Clone, entry: Entry, item: Item) -> bool:
    """Whether this entry, or one that it took the place of, is the item."""
    names = {read.entry_id(clone, item.document, root) for root in (entry.id, *entry.roots)}
    return item.id in names


def _replace(clone: Clone, local: Local, entry: Entry, text: str) -> bool:
    document = local.source.document
    words = read.dressed(text, entry.text)
    if not writing.stands_alone(words, document.policy):
        words = writing.compose(text, document.policy)
    occurrence = writing.free_occurrence(clone, document, entry.role, words)
    add = Add(entry.role, words, occurrence, entry.lead, entry.place, entry.dots, entry.meta)
    clone.edit_entries(document.path, document.policy, [(1, add)])
    return True


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


def everything(clone: Clone) -> Iterator[Local]:
    """All items of a clone, with where they are."""
    scope_of = export.scopes_of(clone)
    for source in read.sources(clone):
        for item in read.of(clone, source, 1, scope_of(source.document.path)).items:
            yield Local(item, source)
