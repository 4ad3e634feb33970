"""What the sinks of Mem0's platform and of its server share: scopes, and one order of storing, moving and deleting.

Mem0 keeps memories apart by scopes: a `user_id`, `agent_id`, `app_id` or `run_id`, or several of them. Here the type of
an item says which. A memory cannot change its scope, so an item whose type has changed is added to the new scope and
then taken out of the old one, in this order: cut short in between it is there twice, and the next run ends it.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from string import Formatter
from typing import Any
from uuid import UUID

from replica.cloud.base import (
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
    whole,
)
from replica.errors import UsageError

ENTITIES = ("user_id", "agent_id", "app_id", "run_id")
PLACES = ("project", "namespace", "document")
ELSE = "*"  # the scope of the types that are not named
DEFAULT = {
    "decision": "{project}-decisions",
    "pattern": "{project}-agents",
    "lesson": "{project}-agents",
    "performance-insight": "{project}-agents",
    "campaign-learning": "{project}-agents",
    "guideline": "best-practices",  # of all projects
    ELSE: "{project}-continuity",
}
SCOPES = Setting(
    "the scope of each type of items: a user_id, or a table of user_id, agent_id, app_id, run_id; they may hold "
    '{project}, {namespace} and {document}; "*" is for all other types',
    dict, DEFAULT,
)  # fmt: skip

# After these the rest of a batch would fail alike.
STOPS = {Trouble.AUTH, Trouble.QUOTA, Trouble.THROTTLE, Trouble.UNREACHABLE}

Scope = tuple[tuple[str, str], ...]  # (("user_id", "team-continuity"),), in the order of ENTITIES


# --- which scope


class Scopes:
    """The mapping from an item to its scope.

    `{project}` is the project's name, or the namespace of the item's document where it has one, so that two brands in
    one workspace stay apart; where a template names `{namespace}`, too, `{project}` is always the project's name.
    """

    def __init__(self, values: dict[str, Any] | None, project: str, entities: Sequence[str] = ENTITIES):
        self.project, self.entities = project, entities
        values = values or DEFAULT
        self._templates = {type: self._template(type, value) for type, value in values.items()}
        self._templates.setdefault(ELSE, self._template(ELSE, DEFAULT[ELSE]))

    def of(self, item: Item) -> Scope:
        template = self._templates.get(item.type, self._templates[ELSE])
        return self._fill(template, item.namespace, item.document)

    def named(self) -> list[Scope]:
        """The scopes that can be named without an item: of no namespace, by their ids without a document."""
        known = {"project": self.project, "namespace": "default"}
        return self._filled((template, known) for template in self._templates.values())

    def like(self, names: Iterable[tuple[str, str]]) -> list[Scope]:
        """The scopes that items of other namespaces or documents would have, among existing (entity, name)s."""
        fits = (
            (template, {"project": self.project} | fit.groupdict())
            for entity, name in names
            for template in self._templates.values()
            if template[0][0] == entity and (fit := _pattern(template[0][1]).fullmatch(name)) and fit.groupdict()
        )
        named = set(self.named())
        return [scope for scope in self._filled(fits) if scope not in named]

    def _filled(self, pairs: Iterable[tuple[Scope, dict[str, str]]]) -> list[Scope]:
        """Each template by those of its ids whose places are known: what is not named does not narrow a list."""
        scopes = (
            tuple((entity, _clean(one.format(**known))) for entity, one in template if _places_of(one) <= set(known))
            for template, known in pairs
        )
        return list(dict.fromkeys(scope for scope in scopes if scope))

    def shown(self) -> list[str]:
        """Each scope in words, for a report."""
        texts = [
            " ".join(f"{entity}={self._put(pattern, template, None, '{document}')}" for entity, pattern in template)
            for template in self._templates.values()
        ]
        return list(dict.fromkeys(texts))

    def _fill(self, template: Scope, namespace: str | None, document: str) -> Scope:
        return tuple((entity, _clean(self._put(one, template, namespace, document))) for entity, one in template)

    def _put(self, pattern: str, template: Scope, namespace: str | None, document: str) -> str:
        project = self.project if "namespace" in _places(template) else namespace or self.project
        return pattern.format(project=project, namespace=namespace or "default", document=document)

    def _template(self, type: str, value: Any) -> Scope:
        table = {"user_id": value} if isinstance(value, str) else value
        wrong = f"scopes: {type!r} is {value!r}"
        if not isinstance(table, dict) or not table or not all(isinstance(one, str) for one in table.values()):
            raise UsageError(wrong, hint='give a user_id, such as "{project}-notes", or a table of ids')
        if unknown := set(table) - set(self.entities):
            raise UsageError(
                f"{wrong}: there is no {sorted(unknown)[0]!r}", hint=f"there are {', '.join(self.entities)}"
            )
        scope = tuple((entity, table[entity]) for entity in self.entities if entity in table)
        for _, pattern in scope:
            if not pattern.strip() or pattern.strip() == "*":
                raise UsageError(wrong, hint="an id may not be empty, and not *")
            try:
                places = _places_of(pattern)
            except ValueError:
                places = {"?"}
            if places - set(PLACES):
                raise UsageError(wrong, hint="it may hold {project}, {namespace} and {document}")
        return scope


def _places(template: Scope) -> set[str]:
    return set().union(*(_places_of(pattern) for _, pattern in template))


def _places_of(pattern: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(pattern) if name is not None}


def _pattern(template: str) -> re.Pattern:
    """What ids made from a template look like."""
    parts, seen = "", set()
    for words, name, _, _ in Formatter().parse(template):
        parts += re.escape(words)
        if name:
            parts += f"(?P={name})" if name in seen else f"(?P<{name}>.+)"
            seen.add(name)
    return re.compile(parts)


def _clean(name: str) -> str:
    """Mem0 refuses ids with white space in them."""
    return re.sub(r"\s+", "-", name.strip())


# --- a memory as Mem0 tells it


@dataclass(frozen=True, slots=True)
class Record:
    id: str
    text: str
    scope: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)
    updated: int | None = None  # ms
    synthesized: bool = False  # made by the service out of others

    @property
    def item(self) -> str:
        return str(self.fields.get("replica_id") or "")

    def within(self, scope: Scope) -> bool:
        return all(self.scope.get(entity) == name for entity, name in scope)

    def as_remote(self) -> Remote:
        return remote(self.id, self.text, self.fields, self.updated)


def fields_of(item: Item, workspace: str) -> dict[str, str | int]:
    """What is written beside a memory. Mem0's library has a `hash` of its own, which takes the place of ours."""
    fields = metadata(item, workspace)
    return {"sha256" if name == "hash" else name: value for name, value in fields.items()}


def record_of(row: Any) -> Record:
    """A row of a list, or the answer to a GET. Raises KeyError, TypeError: it is none."""
    fields, run = row.get("metadata"), row.get("run_id") or row.get("session_id")
    scope = {entity: str(row[entity]) for entity in ENTITIES if row.get(entity)} | ({"run_id": str(run)} if run else {})
    text, id = row["memory"], row["id"]
    if not isinstance(text, str) or not isinstance(id, str):
        raise TypeError
    return Record(
        id, text, scope, fields | {"hash": fields.get("sha256")} if isinstance(fields, dict) else {},
        milliseconds(row.get("updated_at") or row.get("created_at")), bool(row.get("synthesized")),
    )  # fmt: skip


def milliseconds(time: Any) -> int | None:
    """Of an ISO 8601 time, in milliseconds since 1970; a time without a zone is UTC."""
    try:
        when = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def iso(time: int) -> str:
    """A time in milliseconds, as ISO 8601 in UTC, cut to the second."""
    return datetime.fromtimestamp(time // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- storing, moving, deleting


class ScopedSink(Sink):
    """Items in Mem0's scopes, under ids that the service makes; ours are in the metadata."""

    keeps_ids = False
    reads_back = True

    def __init__(self, settings: Settings, entities: Sequence[str] = ENTITIES):
        super().__init__(settings)
        self.scopes = Scopes(settings["scopes"], settings.project, entities)

    # What a service has to answer:

    @abstractmethod
    def _read(self, ids: Sequence[str]) -> dict[str, Record]:
        """The memories of these remote ids, those that are there."""

    @abstractmethod
    def _mine(self, ids: Sequence[UUID]) -> list[Record]:
        """All memories that we have written for these items, in whatever scope."""

    @abstractmethod
    def _add(self, item: Item, scope: Scope) -> Stored:
        """Raises SinkError."""

    @abstractmethod
    def _put(self, id: str, item: Item) -> None:
        """Write text and metadata over a memory. Raises SinkError."""

    @abstractmethod
    def _remove(self, id: str) -> None:
        """Delete a memory, or find it gone. Raises SinkError."""

    @abstractmethod
    def _list(self, scope: Scope, since: int | None = None) -> Iterator[Record]:
        """All of a scope that changed at or after `since`, or more; complete or SinkError."""

    @abstractmethod
    def _names(self) -> list[tuple[str, str]]:
        """The (entity, name)s that the service has."""

    # What follows from that:

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        there = self._read([out.remote_id for out in batch if out.remote_id])
        done = self._put_many(
            [(out, there[out.remote_id]) for out in batch if out.remote_id and self._in_place(out, there)]
        )
        outcomes: list[Outcome] = []
        for out in batch:
            try:
                outcomes.append(done.get(out.item.id) or self._store(out, there))
            except SinkError as error:
                if error.trouble in STOPS and not any(isinstance(one, Stored) for one in [*outcomes, *done.values()]):
                    raise
                outcomes.append(error)
                if error.trouble in STOPS:
                    rest = batch[len(outcomes) :]
                    return outcomes + [done.get(out.item.id, error) for out in rest]
        return outcomes

    def _put_many(self, pairs: Sequence[tuple[Outgoing, Record]]) -> dict[UUID, Stored]:
        """What a service can write in one call, and has. The others are stored one by one."""
        return {}

    def _in_place(self, out: Outgoing, there: dict[str, Record]) -> bool:
        record = there.get(out.remote_id or "")
        return record is not None and self._is_of(record, out.item.id) and record.within(self.scopes.of(out.item))

    def _store(self, out: Outgoing, there: dict[str, Record]) -> Stored:
        item, scope = out.item, self.scopes.of(out.item)
        if not out.remote_id:
            return self._add(item, scope)
        record = there.get(out.remote_id)
        if record is None or not self._is_of(record, item.id):
            copies = self._mine([item.id])  # one: a move was cut short, or only its answer was lost
            if not copies:
                what = "is another item's now" if record else "is not there any more"
                raise self._error(Trouble.GONE, f"has lost a memory: what was stored as {out.remote_id} {what}")
            return self._move(copies[0], item, scope)
        if not record.within(scope):
            return self._move(record, item, scope)
        self._put(record.id, item)
        return Stored(record.id)

    def _move(self, old: Record, item: Item, scope: Scope) -> Stored:
        copies = self._mine([item.id])
        arrived = next((copy for copy in copies if copy.within(scope)), None)  # by a run that was cut short
        if arrived:
            self._put(arrived.id, item)
        new = Stored(arrived.id) if arrived else self._add(item, scope)
        for id in {old.id, *(copy.id for copy in copies)} - {new.remote_id}:
            self._remove(id)
        return Stored(new.remote_id, f"moved to {' '.join(f'{entity}={name}' for entity, name in scope)}")

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        """Exactly what is named, and where it is still ours: never a copy under another id, which may be the new."""
        there = self._read([known.remote_id for known in batch])
        ours = {known.remote_id for known in batch if self._is_of(there.get(known.remote_id), known.id)}
        left = self._remove_many(sorted(ours))
        outcomes: list[Outcome] = []
        for known in batch:
            try:
                if known.remote_id in left:
                    self._remove(known.remote_id)
            except SinkError as error:
                if error.trouble in STOPS:
                    return outcomes + [error] * (len(batch) - len(outcomes))
                outcomes.append(error)
                continue
            other = known.remote_id in there and known.remote_id not in ours
            note = "another item's memory has this id now: it was left" if other else ""
            outcomes.append(Stored(known.remote_id, note))
        return outcomes

    def _is_of(self, record: Record | None, item: UUID) -> bool:
        """It is there, and was not written for another item. What was pulled has no item yet."""
        return record is not None and record.item in ("", str(item))

    def _remove_many(self, ids: Sequence[str]) -> set[str]:
        """Delete what a service can delete in one call; returns what is left, to be deleted one by one."""
        return set(ids)

    def find(self, ids: Sequence[UUID]) -> dict[UUID, str]:
        """Where a move was cut short there are two: the older one is told, for storing to it ends the move."""
        wanted = {str(id): id for id in ids}
        found: dict[UUID, str] = {}
        copies = sorted(self._mine(ids), key=lambda copy: (_rev(copy), copy.updated or 0, copy.id))
        for copy in copies:
            if copy.item in wanted:
                found.setdefault(wanted[copy.item], copy.id)
        return found

    def changes(self, since: int | None) -> Iterator[Remote]:
        for record in self._all(since):
            if not record.synthesized:
                yield record.as_remote()

    def read(self, known: Sequence[Known]) -> dict[UUID, Remote]:
        """Where another clone has moved an item to another scope, it has another id there: it is not gone."""
        there = self._read([one.remote_id for one in known])
        found = {
            one.id: there[one.remote_id].as_remote()
            for one in known
            if self._is_of(there.get(one.remote_id), one.id)
        }  # fmt: skip
        if moved := [one.id for one in known if one.id not in found]:
            found.update((UUID(copy.item), copy.as_remote()) for copy in self._mine(moved))
        return found

    def present(self) -> set[str]:
        return {record.id for record in self._all(None)}

    def _all(self, since: int | None) -> Iterator[Record]:
        """Of every scope in use, each memory once."""
        seen: set[str] = set()
        for scope in self.scopes_in_use():
            for record in self._list(scope, since):
                if record.id not in seen:
                    seen.add(record.id)
                    yield record

    def scopes_in_use(self) -> list[Scope]:
        """Those that can be named, and those of other namespaces and documents that hold something of this workspace.

        What only looks like ours may be another workspace's: it is not read.
        """
        return self.scopes.named() + [scope for scope in self.scopes.like(self._names()) if self._holds_ours(scope)]

    @abstractmethod
    def _holds_ours(self, scope: Scope) -> bool:
        """There is a memory of this workspace in it."""

    def layers(self) -> list[Layer]:
        return [Layer("cross-session memory", scope) for scope in self.scopes.shown()]

    @abstractmethod
    def _error(self, trouble: Trouble, words: str, **more) -> SinkError:
        """An error that names the service."""


def _rev(copy: Record) -> int:
    return whole(copy.fields.get("rev")) or 0
