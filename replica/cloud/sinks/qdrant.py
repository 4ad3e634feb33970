"""`qdrant`: a collection of Qdrant, of a server or of Qdrant Cloud (`url`), or embedded: in this process, in a folder.

A point is an item: its id is ours, its vector the export's, its payload the item with its text. Which of the two it is,
is an `Engine`; this module knows what is written and what is in scope, and no engine knows that.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from replica.cloud.base import (
    Capacity,
    Item,
    Known,
    Layer,
    Outcome,
    Outgoing,
    Remote,
    Setting,
    Settings,
    Sink,
    SinkError,
    Stored,
    Trouble,
    metadata,
    remote,
)

PointId = int | str  # an unsigned number, or a UUID in its canonical form: Qdrant has no others
AnyOf = Mapping[str, str]  # payload fields of which one has to have its value; empty: any point fits

# Strict mode, which Qdrant Cloud turns on, refuses to filter by a field without an index.
INDEXES = {
    "replica_id": "keyword", "origin": "keyword", "namespace": "keyword", "document": "keyword", "type": "keyword",
    "rev": "integer", "updated_ms": "integer",
}  # fmt: skip
# Where other programs keep the text of a memory, beside `text`. `document` is the path of the document in ours.
TEXTS = ("text", "page_content", "content", "data", "memory", "document")
PAGE = 256  # points with their payload in one answer
PAGE_OF_IDS = 1_000


class Point(NamedTuple):
    """A point on its way out."""

    id: PointId
    vector: Sequence[float]
    payload: dict[str, Any]

    @property
    def rev(self) -> int:
        return self.payload["rev"]


class Found(NamedTuple):
    """A point that is there."""

    id: PointId
    payload: dict[str, Any]


Page = tuple[list[Found], PointId | None]  # some points, and where the next page begins; None: there is none


class Engine(ABC):
    """What holds the points. All methods raise SinkError; what has no collection yet raises it as GONE."""

    place: str  # where it is, for a person
    batch: int
    parallel: int = 1

    @abstractmethod
    def about(self) -> str:
        """Reach it and prove the key; say what it is. The collection need not be there."""

    @abstractmethod
    def prepare(self, size: int) -> None:
        """Make the collection with its indexes, or complete it. Raises SinkError: it has vectors of another size."""

    @abstractmethod
    def write(self, points: Sequence[Point]) -> list[Outcome]:
        """Put points in, and on the disk, but never over one with a higher `rev`: that one counts as stored."""

    @abstractmethod
    def delete(self, ids: Sequence[PointId]) -> None: ...

    @abstractmethod
    def page(self, after: PointId | None, limit: int, any_of: AnyOf, payload: bool) -> Page:
        """The points from `after` on (None: from the first), in the order of ids."""

    @abstractmethod
    def read(self, ids: Sequence[PointId]) -> list[Found]:
        """Those of these points that are there, in any order."""

    @abstractmethod
    def count(self, any_of: AnyOf) -> int: ...

    @abstractmethod
    def search(self, vector: Sequence[float], limit: int, any_of: AnyOf) -> list[tuple[PointId, float]]: ...

    def limit(self) -> int | None:
        """How many points there may be. None: as many as the machine takes."""
        return None

    def usage(self) -> str:
        """How full the service says that it is, as far as it has been asked."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Give back connections and files; the next call opens them again."""


class Qdrant(Sink):
    """Storing again is storing once, for the ids are ours; an older revision never takes the place of a newer one."""

    type = "qdrant"
    settings_of: ClassVar = {
        "url": Setting("the server, such as http://localhost:6333; without it the engine runs embedded, in a folder"),
        "path": Setting("the folder of the embedded engine, below the clone's folder or absolute"),
        "collection": Setting("the collection", default="memory"),
        "namespace": Setting("a field of each point, by which several memories live apart in one collection"),
    }
    key_name = "QDRANT_API_KEY"
    place = "embedded, in .replica/qdrant"  # where it is by default
    wants_vectors = True
    reads_back = True

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._engine = _engine(settings)
        self.batch, self.parallel = self._engine.batch, self._engine.parallel

    @property
    def namespace(self) -> str | None:
        return self.settings["namespace"] or None

    def test(self) -> str:
        return self._engine.about()

    def prepare(self) -> None:
        if self.settings.dimension <= 0:
            raise SinkError(
                Trouble.BAD_ITEM, f"the sink {self.settings.name} needs vectors, and nothing makes any",
                hint=f"set `embedder` in [sinks.{self.settings.name}]",
            )  # fmt: skip
        self._engine.prepare(self.settings.dimension)

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [_unfit(out, self.settings.dimension) for out in batch]
        fit = [at for at, outcome in enumerate(outcomes) if outcome is None]
        points = [self._point(batch[at]) for at in fit]
        for at, outcome in zip(fit, self._engine.write(points) if points else [], strict=True):
            outcomes[at] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        try:
            self._engine.delete([point_id(known.remote_id, known.id) for known in batch])
        except SinkError as error:
            if error.trouble is not Trouble.GONE:  # with the collection went all that was in it
                raise
        return [Stored(known.remote_id) for known in batch]

    def changes(self, since: int | None) -> Iterator[Remote]:
        """All that is in scope, whatever `since` is.

        Qdrant has no clock: somebody's edit leaves `updated_ms` as we wrote it, so only the text itself tells. And what
        another clone exports late has an early time. A point is about 1 kB, read in pages; the caller compares hashes.
        """
        for found in self._all(payload=True):
            if (told := _remote(found)) is not None:
                yield told

    def read(self, known: Sequence[Known]) -> dict[UUID, Remote]:
        wanted = {point_id(one.remote_id, one.id): one.id for one in known}
        ids = list(wanted)
        pages = (self._engine.read(ids[at : at + PAGE]) for at in range(0, len(ids), PAGE))
        told = {wanted[found.id]: _remote(found) for page in pages for found in page if found.id in wanted}
        return {id: one for id, one in told.items() if one is not None}

    def present(self) -> set[str]:
        return {str(found.id) for found in self._all(payload=False)}

    def search(self, vector: Sequence[float], limit: int, namespace: str | None = None) -> list[tuple[str, float]]:
        """Remote ids of what lies nearest, nearest first, with the cosine. `namespace`: only there; None: in scope."""
        any_of = {"namespace": namespace} if namespace else self._scope
        return [(str(id), score) for id, score in self._engine.search(vector, limit, any_of)]

    def capacity(self) -> Capacity:
        limit = self._engine.limit()
        # The limit is the collection's, so what is compared with it is all that is there.
        return Capacity(self._engine.count(self._scope if limit is None else {}), limit)

    def layers(self) -> list[Layer]:
        where = f"{self._engine.place}, collection {self.settings['collection']}"
        if self.namespace:
            where += f", namespace {self.namespace}"
        return [Layer("vector store", where, detail=self._engine.usage())]

    def close(self) -> None:
        self._engine.close()

    @property
    def _scope(self) -> AnyOf:
        """Without a namespace the whole collection; else what has it, and all of ours: an item may have its own."""
        return {"namespace": self.namespace, "origin": self.settings.workspace} if self.namespace else {}

    def _point(self, out: Outgoing) -> Point:
        return Point(point_id(out.remote_id, out.item.id), out.vector or (), self._payload(out.item))

    def _payload(self, item: Item) -> dict[str, Any]:
        payload = {**metadata(item, self.settings.workspace), "text": item.text, "tags": list(item.tags)}
        if self.namespace:
            payload.setdefault("namespace", self.namespace)
        return payload

    def _all(self, *, payload: bool) -> Iterator[Found]:
        after, seen = None, set()
        while True:
            points, after = self._engine.page(after, PAGE if payload else PAGE_OF_IDS, self._scope, payload)
            yield from points
            if after is None:
                return
            if after in seen:
                raise SinkError(
                    Trouble.UNREACHABLE, f"{self._engine.place} gives the same page of points again and again",
                    hint="nothing was concluded from it; try again, or see the service's own log",
                )  # fmt: skip
            seen.add(after)


def point_id(remote_id: str | None, id: UUID) -> PointId:
    """Where an item is, or will be. What was pulled from there may have a number as its id."""
    if remote_id and remote_id.isascii() and remote_id.isdecimal():
        return int(remote_id)
    try:
        return str(UUID(remote_id)) if remote_id else str(id)
    except ValueError:
        return str(id)


def _engine(settings: Settings) -> Engine:
    if settings["url"]:
        from replica.cloud.sinks.qdrant_rest import Rest

        return Rest(settings)
    from replica.cloud.sinks.qdrant_embedded import Embedded

    return Embedded(_folder(settings))


def _folder(settings: Settings) -> Path:
    if settings["path"]:
        return settings.root / Path(settings["path"]).expanduser()
    name = settings["collection"] or "memory"
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name):  # replica.toml is shared: no way out of the folder
        raise SinkError(
            Trouble.CONFLICT, f"{name!r} is no name for the folder of a collection",
            hint="use letters, digits, and . _ - between them, or set `path`",
        )  # fmt: skip
    # Vectors of another size come from another embedder: they get a folder of their own, and nobody has to choose one.
    return settings.folder / "qdrant" / f"{name}-{settings.dimension}"


def _unfit(out: Outgoing, size: int) -> SinkError | None:
    """Why an item cannot be a point: one such would have the whole batch refused."""
    if out.vector is None or len(out.vector) != size:
        has = "no vector" if out.vector is None else f"a vector of {len(out.vector)} numbers"
        why = f"has {has}; the collection takes {size}"
    elif not all(map(math.isfinite, out.vector)):
        why = "has a vector with something in it that is no number"
    else:
        return None
    return SinkError(Trouble.BAD_ITEM, f"{out.item.id} {why}", hint="check the sink's `embedder`, then try again")


def _remote(found: Found) -> Remote | None:
    """None: it is no memory, for it has no text."""
    text = _text(found.payload)
    return remote(str(found.id), text, found.payload, None) if text else None


def _text(payload: Mapping[str, Any]) -> str:
    ours = "replica_id" in payload
    for name in TEXTS[:1] if ours else TEXTS:
        if isinstance(value := payload.get(name), str) and value.strip():
            return value
    return ""


def wrong_size(where: str, found: object, size: int) -> SinkError:
    """A collection keeps the size that it was made with."""
    return SinkError(
        Trouble.CONFLICT, f"{where} holds vectors of {found}, and the embedder makes {size}; it was not touched",
        hint="give the sink another `collection`, which the next export fills, or the `embedder` of this collection",
    )  # fmt: skip


def no_collection(where: str) -> SinkError:
    return SinkError(Trouble.GONE, f"{where} is not there (yet)", hint="run `replica export`, which makes and fills it")
