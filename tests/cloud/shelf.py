"""A sink in memory, for tests of what is above the sinks: it keeps what it is given, and fails when told to."""

import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar
from uuid import UUID

from replica.cloud.base import (
    Known,
    Layer,
    Outcome,
    Outgoing,
    Settings,
    Sink,
    SinkError,
    Stored,
    Trouble,
    metadata,
    remote,
)


class Shelf(Sink):
    """`things`: by remote id, the text and the metadata. `before`: called with each batch; may raise."""

    type = "shelf"
    settings_of: ClassVar = {}
    reads_back = True
    batch = 5

    def __init__(self, clone, *, keeps_ids: bool = True, name: str = "shelf"):
        super().__init__(Settings(name, {}, clone.root, clone.root, clone.workspace.hex(), "team"))
        self.keeps_ids = keeps_ids
        self.things: dict[str, tuple[str, dict]] = {}
        self.calls: list[str] = []
        self.before: Callable[[Sequence[Outgoing]], list[Outcome] | None] = lambda batch: None
        self.after: Callable[[Sequence[Outgoing]], None] = lambda batch: None
        self.clock = itertools.count(1_760_000_000_000, 1_000_000)
        self.times: dict[str, int] = {}
        self._next = itertools.count(1)
        self.dropped: dict[UUID, SinkError] = {}

    def failed(self) -> dict[UUID, SinkError]:
        return self.dropped

    def test(self) -> str:
        return "a shelf"

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        self.calls.append("store")
        said = self.before(batch)
        outcomes = said or [self._put(out) for out in batch]
        self.after(batch)
        return outcomes

    def _put(self, out: Outgoing) -> Outcome:
        id = str(out.item.id) if self.keeps_ids else out.remote_id or f"r{next(self._next)}"
        if not self.keeps_ids and out.remote_id and out.remote_id not in self.things:
            return SinkError(Trouble.GONE, "it is not here")
        self.things[id] = (out.item.text, metadata(out.item, self.settings.workspace))
        self.times[id] = next(self.clock)
        return Stored(id)

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        self.calls.append("delete")
        for known in batch:
            if not self.apart or self.things.get(known.remote_id, ("", {}))[1].get("namespace") == known.namespace:
                self.things.pop(known.remote_id, None)
        return [Stored(known.remote_id) for known in batch]

    def find(self, ids: Sequence[UUID]) -> dict[UUID, str]:
        self.calls.append("find")
        by_id = {fields.get("replica_id"): there for there, (_, fields) in self.things.items()}
        return {id: by_id[str(id)] for id in ids if str(id) in by_id}

    def changes(self, since: int | None):
        for id, (text, fields) in list(self.things.items()):
            if since is None or self.times[id] >= since:
                yield remote(id, text, fields, self.times[id])

    def layers(self) -> list[Layer]:
        return [Layer("file", "memory")]

    # --- what other people do there

    def foreign(self, text: str, **fields) -> str:
        id = f"f{next(self._next)}"
        self.things[id] = (text, fields)
        self.times[id] = next(self.clock)
        return id

    def edit(self, id: str, text: str) -> None:
        self.things[id] = (text, self.things[id][1])
        self.times[id] = next(self.clock)

    def texts(self) -> list[str]:
        return sorted(text for text, _ in self.things.values())
