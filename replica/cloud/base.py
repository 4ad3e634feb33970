"""What a sink is: the one seam between the export and a service. Imports no service and no network.

A sink is told what to store, and answers item by item. It keeps no state of its own: what was stored, under which
remote id, is in the ledger (replica/cloud/ledger.py). A sink never prints, never sleeps for long, and never retries by
itself: waiting and trying again are the export's (replica/cloud/export.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from replica.errors import ReplicaError

# --- what goes out


@dataclass(frozen=True, slots=True)
class Item:
    """One entry, or one section of a text, as a service gets it.

    `id`: the same from every clone. `hash`: SHA-256 of `text` in UTF-8, in hex. `time`: of the last change, in
    milliseconds since 1970. `revision`: grows with every change of the item. `namespace`: of the scope that the
    document belongs to; None: the sink's own. `author`: the name of the clone that wrote it.
    """

    id: UUID
    text: str
    hash: str
    type: str
    tags: tuple[str, ...]
    level: int
    document: str
    author: str
    time: int
    revision: int
    namespace: str | None = None


class Outgoing(NamedTuple):
    """An item to be stored. `remote_id`: where it is already, if it is. `vector`: only for sinks that want one."""

    item: Item
    remote_id: str | None = None
    vector: Sequence[float] | None = None


class Known(NamedTuple):
    """An item that a service has, by our id and by its own."""

    id: UUID
    remote_id: str
    namespace: str | None = None


# --- what comes back


class Stored(NamedTuple):
    """The service has acknowledged it. `note`: what a person should know, such as that it has yet to be indexed."""

    remote_id: str
    note: str = ""


class Trouble(StrEnum):
    """The classes of failures, by what can be done about them."""

    AUTH = "auth"  # the key is missing, wrong, or not allowed to do this: nothing more is tried
    QUOTA = "quota"  # the plan is used up: nothing more is tried
    THROTTLE = "throttle"  # too fast: the same again after a pause
    TOO_BIG = "too big"  # the call, or one item: smaller calls are tried
    BAD_ITEM = "bad item"  # the service refuses this item: the others go on
    GONE = "gone"  # what was to be changed is not there any more
    CONFLICT = "conflict"  # somebody else has changed it there
    UNREACHABLE = "unreachable"  # no connection, no answer, or trouble within the service


class SinkError(ReplicaError):
    """A call to a service failed. `retry_after`: seconds that the service asked to wait. The message names no key."""

    def __init__(
        self, trouble: Trouble, message: str, *, hint: str | None = None, retry_after: float | None = None,
        status: int | None = None,
    ):  # fmt: skip
        super().__init__(message, hint=hint)
        self.trouble, self.retry_after, self.status = trouble, retry_after, status


Outcome = Stored | SinkError


class Remote(NamedTuple):
    """A memory as the service has it.

    `item`, `hash`, `revision`, `origin`: what we wrote beside it (see `metadata`), None where it is not ours; `origin`
    is the workspace that wrote it. `updated`: by the service's clock, in milliseconds since 1970; None: not told.
    """

    remote_id: str
    text: str
    item: UUID | None = None
    hash: str | None = None
    revision: int | None = None
    origin: str | None = None
    updated: int | None = None
    type: str | None = None
    tags: tuple[str, ...] = ()
    deleted: bool = False


class Capacity(NamedTuple):
    """`items`: how many are stored there; `limit`: how many may be. None: the service does not tell."""

    items: int | None = None
    limit: int | None = None


class Layer(NamedTuple):
    """A part of a service that holds the memory in its own way.

    `kind`: "vector store", "knowledge graph", "cross-session memory", "file" or "local index".
    `where`: its namespace, collection, scope or path. `state`: "ok", "pending" or what is wrong.
    """

    kind: str
    where: str
    state: str = "ok"
    detail: str = ""


# --- what a sink is given


class Setting(NamedTuple):
    """A key of `[sinks.NAME]`. `kind`: str, int, bool or dict."""

    help: str
    kind: type = str
    default: Any = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a sink knows. `values`: its keys of replica.toml, checked, with the defaults of those left out.

    `key`: the service's key, from the environment or the system's keyring. `folder`: the clone's `.replica`, and `root`
    the clone's folder. `workspace`: its id in hex; `project`: its name. `dimension`: of the vectors that it will get, 0
    for none; `embedder`: the id of what makes them.
    """

    name: str
    values: dict[str, Any]
    root: Path
    folder: Path
    workspace: str
    project: str
    key: str | None = field(default=None, repr=False)
    dimension: int = 0
    embedder: str = ""
    timeout: float = 30.0  # seconds that one call may take

    def __getitem__(self, key: str) -> Any:
        return self.values.get(key)


class Sink(ABC):
    """One configured place. Made without any input or output; the first call connects."""

    type: ClassVar[str]
    settings_of: ClassVar[dict[str, Setting]]  # beside those that all have (replica/cloud/configured.py)
    key_name: ClassVar[str | None] = None  # the environment variable that holds the key
    key_needed: ClassVar[bool] = False
    # Storing an item twice is storing it once, for the service knows it by our id. Where not, the export asks `find`
    # for what an interrupted run may have stored.
    keeps_ids: ClassVar[bool] = True
    wants_vectors: ClassVar[bool] = False
    reads_back: ClassVar[bool] = False  # `changes` and `present` work: it can be pulled from
    # A namespace is a place of its own there: who changes its scope is in both until it is taken out of the old one.
    apart: ClassVar[bool] = False
    batch: int = 100  # the most items in one call of `store` or `delete`
    parallel: int = 1  # how many calls of `store` may run at once, in threads

    def __init__(self, settings: Settings):
        self.settings = settings

    @abstractmethod
    def test(self) -> str:
        """Reach the service and prove the key, without storing anything. Returns what answered. Raises SinkError."""

    def prepare(self) -> None:  # noqa: B027 - most have nothing to make
        """Make what has to be there before anything is stored (a collection, its indexes). May be called again."""

    @abstractmethod
    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        """Write each item in full, in the place of what is there of it. One outcome an item, in order.

        Raises SinkError: none of it is known to be stored.
        """

    @abstractmethod
    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        """Take items away. What is not there any more is deleted: `Stored`, not an error."""

    def find(self, ids: Sequence[UUID]) -> dict[UUID, str]:
        """The remote ids of those of our items that are there. Only asked where `keeps_ids` is false."""
        raise NotImplementedError

    def changes(self, since: int | None) -> Iterator[Remote]:
        """All memories in our scope that changed at or after `since`, or more. None: all there are.

        `since` is by the service's clock, in milliseconds since 1970. Only asked where `reads_back`.
        """
        raise NotImplementedError

    def present(self) -> set[str]:
        """The remote ids of everything in our scope, complete or SinkError. Only asked where `reads_back`."""
        return {remote.remote_id for remote in self.changes(None) if not remote.deleted}

    def read(self, known: Sequence[Known]) -> dict[UUID, Remote]:
        """Those of these items that are there now, by our id. Only asked where `reads_back`.

        Before the export writes over something it looks whether somebody has. This goes through all there is; a sink
        that can ask for items by their ids does.
        """
        wanted = {one.remote_id: one.id for one in known}
        return {
            wanted[found.remote_id]: found
            for found in self.changes(None) if found.remote_id in wanted and not found.deleted
        }  # fmt: skip

    def failed(self) -> dict[UUID, SinkError]:
        """Items that the service acknowledged and could not keep after all, as far as it still tells."""
        return {}

    def capacity(self) -> Capacity:
        """Unknown where the service does not tell."""
        return Capacity()

    @abstractmethod
    def layers(self) -> list[Layer]:
        """Where the items are, after a run. Without input or output if that is possible."""

    def close(self) -> None:  # noqa: B027
        """Give back connections and files."""


def metadata(item: Item, workspace: str) -> dict[str, str | int]:
    """What is written beside a memory: flat, no nulls, below 2 kB: what all services can hold.

    By it an item is known again where the ledger is lost, and an export is never pulled back as something new.
    """
    fields: dict[str, str | int] = {
        "replica_id": str(item.id), "origin": workspace, "hash": item.hash, "rev": item.revision, "type": item.type,
        "document": item.document, "author": item.author, "level": item.level, "updated_ms": item.time,
        "tags": ",".join(item.tags),
    }  # fmt: skip
    if item.namespace:
        fields["namespace"] = item.namespace
    return {name: value[:300] if isinstance(value, str) else value for name, value in fields.items()}


def remote(remote_id: str, text: str, fields: dict | None, updated: int | None, *, deleted: bool = False) -> Remote:
    """A `Remote` from what `metadata` wrote; whatever stands there instead is not ours."""
    fields = fields if isinstance(fields, dict) else {}
    try:
        item = UUID(str(fields["replica_id"]))
    except (KeyError, ValueError):
        item = None
    rev, tags = fields.get("rev"), fields.get("tags")
    tags = tags.split(",") if isinstance(tags, str) else tags if isinstance(tags, list) else []
    return Remote(
        remote_id, text, item, _hash(fields.get("hash")), int(rev) if isinstance(rev, int | float) else None,
        _text(fields.get("origin")), updated, _text(fields.get("type")),
        tuple(tag for tag in tags if isinstance(tag, str) and tag), deleted,
    )  # fmt: skip


def _hash(value: Any) -> str | None:
    right = isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")
    return value if right else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
