"""`supermemory`: documents of a namespace (API v5) or of a container tag (API v3).

Posting an id that is there appends to the document. So a document is replaced by PATCH, and posted only where there is
none. What is written is queued and worked up later; what cannot be disappears after two minutes (`failed`).
Sources: supermemory.ai/docs, API v5 and v3.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote
from uuid import UUID

from replica.cloud.base import (
    Capacity,
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
from replica.cloud.http import Answer, Http, safe_url

URL = "https://api.supermemory.ai"
PAGE = 100
TRIES = 4  # to read a list that changes meanwhile
TASK = "superrag"  # kept as it is and searched; no model draws conclusions from it
LATE = 10 * 60_000  # milliseconds: a failure is older news, for what failed is removed after two minutes
NOTE = "queued there; searches find it when it is worked up"
T = TypeVar("T")
STOPS = (Trouble.AUTH, Trouble.QUOTA, Trouble.THROTTLE, Trouble.UNREACHABLE)  # the next item would fare no better


class Supermemory(Sink):
    """A scope's namespace is a namespace (v5) or container tag (v3) there."""

    type = "supermemory"
    apart = True
    settings_of: ClassVar = {
        "url": Setting("where it is", default=URL),
        "api": Setting("the generation of the API: v5 or v3", default="v5"),
        "namespace": Setting("the namespace or container tag; from the project's name where it is not set"),
    }
    key_name = "SUPERMEMORY_API_KEY"
    key_needed = True
    reads_back = True
    batch = 50  # a call or two for each
    parallel = 4

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._lock = threading.Lock()
        self._queued: dict[str, int] = {}  # namespace -> how many this process has put there

    @property
    def namespace(self) -> str:
        return self._name(None)

    def _name(self, namespace: str | None) -> str:
        wanted = namespace or self.settings["namespace"] or self.settings.project
        return sanitised(wanted or f"replica-{self.settings.workspace[:8]}")

    @cached_property
    def _api(self) -> "_V5 | _V3":
        settings = self.settings
        if not settings.key:
            raise SinkError(
                Trouble.AUTH, "there is no key for Supermemory",
                hint=f"set {self.key_name}, then: replica sinks test {settings.name}",
            )  # fmt: skip
        http = Http(
            safe_url(settings["url"] or URL, "Supermemory"), service="Supermemory", secret=settings.key,
            headers={"authorization": f"Bearer {settings.key}"}, timeout=settings.timeout,
            hint_for_key=f"check {self.key_name}, then: replica sinks test {settings.name}",
        )  # fmt: skip
        wanted = settings["api"] or "v5"
        if wanted not in ("v5", "v3"):
            raise SinkError(Trouble.AUTH, f"Supermemory has no API {wanted!r}", hint="set api to v5 or v3")
        return (_V5 if wanted == "v5" else _V3)(http)

    # --- what all sinks do

    def test(self) -> str:
        self._api.reach()
        return f"Supermemory, {self._api.http.base}: {self._count(self.namespace):,} documents in {self.namespace}"

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        return _each(batch, self._store)

    def _store(self, out: Outgoing) -> Outcome:
        item, name = out.item, self._name(out.item.namespace)
        if re.fullmatch(r"\s*(\w+://\S+)?\s*", item.text):
            return SinkError(
                Trouble.BAD_ITEM, f"{item.document}: nothing but an address; Supermemory would fetch what is there",
                hint="write a word beside it",
            )  # fmt: skip
        fields = {
            "content": item.text, "metadata": metadata(item, self.settings.workspace), "taskType": TASK,
            self._api.date: _iso(item.time),
        }  # fmt: skip
        answer = self._replace(name, out, fields) or self._api.add(name, str(item.id), fields)
        body = _dict(answer.body)
        id, status = body.get("id"), body.get("status")
        if not isinstance(id, str) or not id:
            raise self._api.http.error(Trouble.UNREACHABLE, "does not say under which id it stored a document")
        if status == "failed":
            raise self._failure(item.document)
        if status != "done":
            with self._lock:
                self._queued[name] = self._queued.get(name, 0) + 1
        return Stored(id, "" if status == "done" else NOTE)

    def _replace(self, name: str, out: Outgoing, fields: dict) -> Answer | None:
        """Of the document that is there. None: there is none."""
        for id in dict.fromkeys((out.remote_id or str(out.item.id), str(out.item.id))):
            answer = self._api.change(name, id, fields)
            if answer.status != 404:
                return answer
        if found := self._api.find(name, out.item.id):
            answer = self._api.change(name, found, fields)
            return None if answer.status == 404 else answer
        return None

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        def take(known: Known) -> Outcome:
            self._api.take(self._name(known.namespace), known.remote_id)
            return Stored(known.remote_id)

        return _each(batch, take)

    def capacity(self) -> Capacity:
        """It bills by tokens, and tells no limit."""
        return Capacity(self._count(self.namespace))

    def layers(self) -> list[Layer]:
        with self._lock:
            queued = dict(self._queued)
        return [
            Layer("cross-session memory", name, "pending", f"{queued[name]:,} documents were queued there")
            if queued.get(name)
            else Layer("cross-session memory", name)
            for name in sorted(queued) or [self.namespace]
        ]

    def close(self) -> None:
        if "_api" in self.__dict__:
            self._api.http.close()

    # --- what became of it

    def failed(self) -> dict[UUID, SinkError]:
        """Our items that were acknowledged and then could not be worked up, as far as they are still listed.

        They are removed two minutes later; so only the latest changes are looked at.
        """
        found: dict[UUID, SinkError] = {}
        for name in self._names():
            newest = None
            for document in self._documents(name, content=False, newest_first=True):
                updated = document.updated or 0
                newest = updated if newest is None else newest
                if updated < newest - LATE:
                    break
                told = remote(document.id, "", document.metadata, updated)
                if document.status == "failed" and told.item and told.origin == self.settings.workspace:
                    found[told.item] = self._failure(str(document.metadata.get("document", told.item)))
        return found

    def _failure(self, what: str) -> SinkError:
        return self._api.http.error(
            Trouble.UNREACHABLE, f"took {what} and could not work it up; it removes it after two minutes",
            hint="export it again with --force",
        )  # fmt: skip

    # --- reading back

    def changes(self, since: int | None) -> Iterator[Remote]:
        """Of what is worked up: until then the text is not there, or it is the one of before."""
        for name in self._names():
            for document in self._documents(name, content=True, newest_first=since is not None):
                if since is not None and document.updated is not None and document.updated < since:
                    break
                if document.status in ("done", "unknown") and isinstance(document.content, str):
                    yield remote(document.id, document.content, document.metadata, document.updated)

    def present(self) -> set[str]:
        """With those that wait, and those that failed and are about to go: nobody has deleted them."""
        return {
            document.id
            for name in self._names()
            for document in self._documents(name, content=False, newest_first=False)
        }

    def _names(self) -> list[str]:
        """Ours, those written to by now, and all that hold something of this workspace: those of its scopes."""
        with self._lock:
            known = {self.namespace, *self._queued}
        try:
            others = self._api.names(self.settings.workspace)
        except SinkError as error:
            if error.status != 403:  # a key for one namespace: it has written to no other
                raise
            others = []
        return sorted(known.union(others))

    def _documents(self, name: str, *, content: bool, newest_first: bool) -> "Iterator[_Document]":
        """All of a namespace, each once. Raises SinkError: not all are told.

        Pages are counted from the beginning: what is added or taken away while they are read moves the others. Then
        they are read again.
        """
        seen: set[str] = set()
        for _ in range(TRIES):
            totals, ids, page = set(), set(), 1
            while True:
                documents, total = self._api.page(name, page, content, newest_first)
                totals.add(total)
                ids.update(document.id for document in documents)
                yield from (document for document in documents if document.id not in seen)
                seen.update(document.id for document in documents)
                if len(ids) >= total or not documents or len(totals) > 1:
                    break
                page += 1
            if len(totals) == 1 and len(ids) >= max(totals):
                return
        raise self._api.http.error(
            Trouble.UNREACHABLE, f"lists {len(ids):,} of the {max(totals):,} documents in {name}",
            hint="pull again in a minute; nothing is decided on half a list",
        )  # fmt: skip

    def _count(self, name: str) -> int:
        return self._api.page(name, 1, False, False, limit=1)[1]


class _Document:
    """One of a list, of either generation."""

    def __init__(self, id: str, fields: dict, system: dict):
        self.id, self.metadata, self.content = id, _dict(fields.get("metadata")), fields.get("content")
        self.status, self.updated = system.get("status"), _milliseconds(system.get("updatedAt"))


class _Api:
    """What the two generations have in common: `date` is the name of the field for the time of a text."""

    date: ClassVar[str]

    def __init__(self, http: Http):
        self.http = http

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        try:
            return self.http.call(method, path, body, **more)
        except SinkError as error:
            if error.status != 409:
                raise
            # Not somebody else's change: it is at work on this document.
            raise self.http.error(Trouble.THROTTLE, f"is at work on it: {error}", status=409) from None

    def listed(self, answer: Answer, key: str) -> tuple[list[dict], int]:
        body = _dict(answer.body)
        found, total = body.get(key), _dict(body.get("pagination")).get("totalItems")
        if not isinstance(found, list) or not isinstance(total, int | float):
            raise self.http.error(Trouble.UNREACHABLE, "gave something else than a list of documents")
        return [one for one in found if isinstance(_dict(one).get("id"), str)], int(total)


class _V5(_Api):
    date = "date"

    def reach(self) -> None:
        self.call("GET", "/ns", query={"limit": 1})

    def add(self, name: str, id: str, fields: dict) -> Answer:
        return self.call("POST", f"/ns/{name}/document", {"id": id, **fields})

    def change(self, name: str, id: str, fields: dict) -> Answer:
        return self.call("PATCH", f"/ns/{name}/document/{quote(id, safe='')}", fields, allow=(404,))

    def find(self, name: str, id: UUID) -> str | None:
        """Nothing to look for: a path takes our id as well as its own."""
        return None

    def take(self, name: str, id: str) -> None:
        answer = self.call("DELETE", f"/ns/{name}/document", {"ids": [id]}, allow=(404,))
        errors = _dict(answer.body).get("errors")
        if answer.status == 404 or not errors:
            return
        # Why is told in words alone: so it is asked whether there is anything left.
        if self.call("GET", f"/ns/{name}/document/{quote(id, safe='')}", allow=(404,)).status != 404:
            raise self.http.error(Trouble.UNREACHABLE, f"has not deleted a document: {_dict(errors[0]).get('error')}")

    def page(
        self, name: str, page: int, content: bool, newest_first: bool, limit: int = PAGE, filter: dict | None = None
    ) -> tuple[list[_Document], int]:
        query = {"page": page, "limit": limit, **_order(newest_first)}
        body = {"include": {"content": content}, **({"filter": filter} if filter else {})}
        answer = self.call("POST", f"/ns/{name}/list/documents", body, query=query, allow=(404,))
        if answer.status == 404:
            return [], 0
        found, total = self.listed(answer, "documents")
        return [_Document(one["id"], one, _dict(one.get("system"))) for one in found], total

    def names(self, origin: str) -> list[str]:
        filter = {"operator": "and", "operands": [{"field": "origin", "operator": "eq", "value": origin}]}
        names: list[str] = []
        for page in range(1, 1000):
            body = _dict(self.call("GET", "/ns", query={"page": page, "limit": PAGE}).body)
            found = body.get("namespaces") or []
            names += [one["namespace"] for one in found if _dict(one).get("documentCount")]
            if not found or page >= _dict(body.get("pagination")).get("totalPages", 1):
                break
        return [name for name in names if self.page(quote(name, safe=""), 1, False, False, 1, filter)[1]]


class _V3(_Api):
    date = "documentDate"

    def reach(self) -> None:
        self.call("GET", "/v3/settings")

    def add(self, name: str, id: str, fields: dict) -> Answer:
        return self.call("POST", "/v3/documents", {"customId": id, "containerTag": name, **fields})

    def change(self, name: str, id: str, fields: dict) -> Answer:
        return self.call("PATCH", f"/v3/documents/{quote(id, safe='')}", {"containerTag": name, **fields}, allow=(404,))

    def find(self, name: str, id: UUID) -> str | None:
        """By what we wrote beside it: that a path takes our id is not documented for each call."""
        filters = {"AND": [{"key": "replica_id", "value": str(id), "filterType": "metadata"}]}
        documents, _ = self.page(name, 1, False, False, 1, filters)
        return documents[0].id if documents else None

    def take(self, name: str, id: str) -> None:
        self.call("DELETE", f"/v3/documents/{quote(id, safe='')}", allow=(404,))

    def page(
        self, name: str | None, page: int, content: bool, newest_first: bool, limit: int = PAGE,
        filters: dict | None = None,
    ) -> tuple[list[_Document], int]:  # fmt: skip
        found, total = self._list(name, page, content, newest_first, limit, filters)
        return [_Document(one["id"], one, one) for one in found], total

    def _list(
        self, name: str | None, page: int, content: bool, newest_first: bool, limit: int, filters: dict | None
    ) -> tuple[list[dict], int]:
        body = {
            "page": page, "limit": limit, "includeContent": content, **_order(newest_first),
            **({"containerTags": [name]} if name else {}), **({"filters": filters} if filters else {}),
        }  # fmt: skip
        return self.listed(self.call("POST", "/v3/documents/list", body), "memories")

    def names(self, origin: str) -> list[str]:
        """There is no list of tags: those of all documents that this workspace wrote."""
        filters = {"AND": [{"key": "origin", "value": origin, "filterType": "metadata"}]}
        names: set[str] = set()
        read, page = 0, 1
        while True:
            found, total = self._list(None, page, False, False, PAGE, filters)
            names.update(tag for one in found for tag in one.get("containerTags") or [] if isinstance(tag, str))
            read, page = read + len(found), page + 1
            if not found or read >= total:
                return sorted(names)


def sanitised(name: str) -> str:
    """A name of at most 100 of the characters that tags may have; two names never become the same."""
    clean = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    if clean == name and len(name) <= 100:
        return name
    return f"{clean[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".strip("-")


def _each(batch: Sequence[T], work: Callable[[T], Outcome]) -> list[Outcome]:
    """One call after another, until one fails in a way that all would. Raises SinkError: the first did."""
    outcomes: list[Outcome] = []
    for one in batch:
        try:
            outcomes.append(work(one))
        except SinkError as error:
            if error.trouble in STOPS:
                if not any(isinstance(outcome, Stored) for outcome in outcomes):
                    raise
                return outcomes + [error] * (len(batch) - len(outcomes))
            outcomes.append(error)
    return outcomes


def _order(newest_first: bool) -> dict[str, str]:
    """By the time of the change to stop at a cursor; by that of the making to read all, for that one never moves."""
    return {"sort": "updatedAt", "order": "desc"} if newest_first else {"sort": "createdAt", "order": "asc"}


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _milliseconds(value: Any) -> int | None:
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except (TypeError, ValueError):
        return None


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}
