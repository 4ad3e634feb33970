"""Supermemory, of both generations of its API, as far as the adapter and the official clients use it.

Posting an id that is there appends. What is written is worked up `slow` reads of its list later; until then a list
has the text of before. Proven against the clients `supermemory` 5 and 3 (tests/cloud/oracle/test_supermemory.py).
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from tests.cloud.fakes.server import Fake, Reply, Request

START = datetime(2026, 1, 1, tzinfo=UTC)
TAG = re.compile(r"[A-Za-z0-9_:-]{1,100}")
ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass
class Document:
    id: str
    custom: str | None
    namespace: str
    content: str
    created: datetime
    metadata: dict = field(default_factory=dict)
    status: str = "queued"
    shown: str | None = None  # the text that was worked up last
    updated: datetime = START
    waits: int = 0


class FakeSupermemory(Fake):
    def __init__(self):
        super().__init__()
        self.documents: dict[str, Document] = {}
        self.slow = 0  # reads of a list until a document is worked up
        self.fails: str | None = None  # what holds this text cannot be worked up
        self.own_ids = False  # v5: answers have the service's own ids, paths take both
        self.custom_ids_in_paths = False  # v3
        self.lists_at_most: int | None = None  # cut short in silence
        self._numbers = count(1)

    def now(self) -> datetime:
        return START + timedelta(seconds=next(self._numbers))

    def answer(self, request: Request) -> Any:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            raise Reply(401, {"error": "Unauthorized", "details": "invalid key"})
        parts = request.path.strip("/").split("/")
        body = request.body if isinstance(request.body, dict) else {}
        if parts[0] == "ns":
            return self._v5(request.method, parts[1:], request.query, body)
        if parts[:2] == ["v3", "settings"] and request.method == "GET":
            return {"chunkSize": 512}
        if parts[:2] == ["v3", "documents"]:
            return self._v3(request.method, parts[2:], body)
        raise Reply(404, {"error": "Not found"})

    # --- v5

    def _v5(self, method: str, parts: list[str], query: dict, body: dict) -> Any:
        match method, parts:
            case "GET", []:
                return self._namespaces(query)
            case "POST", [namespace, "document"]:
                return self._add(namespace, body, "id", self._ref5)
            case "GET", [namespace, "document", id]:
                return self._told5(self._of(namespace, id), True)
            case "PATCH", [namespace, "document", id]:
                return self._change(self._of(namespace, id), body, self._ref5)
            case "DELETE", [namespace, "document"]:
                return self._delete(namespace, body.get("ids") or [])
            case "POST", [namespace, "list", "documents"]:
                found = [one for one in self.documents.values() if one.namespace == namespace]
                found = [one for one in found if _fits5(one.metadata, body.get("filter"))]
                page, pagination = self._page(found, {**query, "limit": query.get("limit", 10)})
                content = (body.get("include") or {}).get("content", False)
                documents = [self._told5(one, content) for one in page]
                return {"documents": documents, "chunks": [], "memories": [], "pagination": pagination}
        raise Reply(404, {"error": "Not found"})

    def _namespaces(self, query: dict) -> dict:
        names = sorted({one.namespace for one in self.documents.values()})
        page, pagination = _cut(names, query)
        return {
            "namespaces": [
                {"id": f"ns_{name}", "namespace": name, "description": None, "memoryCount": 0,
                 "documentCount": sum(one.namespace == name for one in self.documents.values()),
                 "system": {"createdAt": _iso(START), "updatedAt": _iso(START)}}
                for name in page
            ],
            "pagination": pagination,
        }  # fmt: skip

    def _ref5(self, one: Document) -> dict:
        return {"id": self._id5(one), "status": one.status}

    def _id5(self, one: Document) -> str:
        return one.id if self.own_ids or not one.custom else one.custom

    def _told5(self, one: Document, content: bool) -> dict:
        return {
            "id": self._id5(one), "title": None, "type": "text", "summary": None, "metadata": one.metadata, "url": None,
            "system": {"status": one.status, "dreamingStatus": "done", "createdAt": _iso(one.created),
                       "updatedAt": _iso(one.updated), "filepath": None},
            **({"content": one.shown} if content else {}),
        }  # fmt: skip

    def _of(self, namespace: str, id: str) -> Document:
        for one in self.documents.values():
            if one.namespace == namespace and id in (one.id, one.custom):
                return one
        raise Reply(404, {"error": "Document not found"})

    def _delete(self, namespace: str, ids: list[str]) -> dict:
        gone, errors = 0, []
        for id in ids:
            try:
                del self.documents[self._of(namespace, id).id]
                gone += 1
            except Reply:
                errors.append({"id": id, "error": "could not be found"})
        return {"count": gone, "errors": errors}

    # --- v3

    def _v3(self, method: str, parts: list[str], body: dict) -> Any:
        match method, parts:
            case "POST", []:
                return self._add(body.get("containerTag") or "default", body, "customId", self._ref3)
            case "POST", ["list"]:
                tags = body.get("containerTags")
                found = [one for one in self.documents.values() if not tags or one.namespace in tags]
                found = [one for one in found if _fits3(one.metadata, body.get("filters"))]
                page, pagination = self._page(found, body)
                told = [self._told3(one, body.get("includeContent", False)) for one in page]
                return {"memories": told, "pagination": pagination}
            case "GET", [id]:
                one = self._of3(id, True)
                return {**self._told3(one, True), "latestRevision": 1, "raw": None, "taskType": "superrag",
                        "dreamingStatus": "done"}  # fmt: skip
            case "PATCH", [id]:
                return self._change(self._of3(id, self.custom_ids_in_paths), body, self._ref3)
            case "DELETE", [id]:
                del self.documents[self._of3(id, True).id]
                raise Reply(204)
        raise Reply(404, {"error": "Not found"})

    def _ref3(self, one: Document) -> dict:
        return {"id": one.id, "status": one.status}

    def _told3(self, one: Document, content: bool) -> dict:
        return {
            "id": one.id, "customId": one.custom, "connectionId": None, "createdAt": _iso(one.created), "type": "text",
            "updatedAt": _iso(one.updated), "metadata": one.metadata, "status": one.status, "summary": None,
            "title": None, "containerTags": [one.namespace], **({"content": one.shown} if content else {}),
        }  # fmt: skip

    def _of3(self, id: str, custom: bool) -> Document:
        for one in self.documents.values():
            if id == one.id or (custom and id == one.custom):
                return one
        raise Reply(404, {"error": "Document not found"})

    # --- both

    def _add(self, namespace: str, body: dict, key: str, told: Any) -> dict:
        id, content = body.get(key), body.get("content")
        if not content or not TAG.fullmatch(namespace) or (id is not None and not ID.fullmatch(id)):
            raise Reply(400, {"error": "Invalid request", "details": "content, namespace or id"})
        self._check(body)
        for one in self.documents.values():
            if id is not None and one.namespace == namespace and one.custom == id:
                if one.content != content:
                    one.content += "\n" + content
                    one.metadata.update(body.get("metadata") or {})
                    self._written(one)
                return told(one)
        one = Document(f"doc{next(self._numbers):06}", id, namespace, content, self.now(), dict(body["metadata"]))
        self.documents[one.id] = one
        self._written(one)
        return told(one)

    def _change(self, one: Document, body: dict, told: Any) -> dict:
        self._check(body)
        one.metadata.update(body.get("metadata") or {})
        if body.get("content") not in (None, one.content):
            one.content = body["content"]
            self._written(one)
        else:
            one.updated = self.now()
        return told(one)

    def _check(self, body: dict) -> None:
        if body.get("taskType", "memory") not in ("memory", "superrag"):
            raise Reply(400, {"success": False, "error": [{"path": ["taskType"], "message": "Invalid"}]})
        body.setdefault("metadata", {})
        for value in body["metadata"].values():
            texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
            if not texts and not isinstance(value, str | int | float | bool):
                raise Reply(400, {"success": False, "error": [{"path": ["metadata"], "message": "Expected a scalar"}]})

    def _written(self, one: Document) -> None:
        one.status, one.waits, one.updated = "queued", self.slow, self.now()

    def _work(self) -> None:
        """What happens to documents over time; here with each read of a list."""
        for one in self.documents.values():
            if one.status not in ("done", "failed"):
                if one.waits > 0:
                    one.waits -= 1
                elif self.fails and self.fails in one.content:
                    one.status = "failed"
                else:
                    one.status, one.shown = "done", one.content

    def remove_failed(self) -> None:
        """Two minutes later."""
        self.documents = {id: one for id, one in self.documents.items() if one.status != "failed"}

    def _page(self, found: list[Document], asked: dict) -> tuple[list[Document], dict]:
        self._work()
        by = (lambda one: one.updated) if asked.get("sort") == "updatedAt" else (lambda one: one.created)
        found = sorted(found, key=by, reverse=asked.get("order", "desc") == "desc")
        page, pagination = _cut(found[: self.lists_at_most], asked)
        return page, {**pagination, "totalItems": len(found)}


def _cut(found: list, asked: dict) -> tuple[list, dict]:
    page, limit = int(asked.get("page", 1)), int(asked.get("limit", 10))
    if page < 1 or not 1 <= limit <= 1100:
        raise Reply(400, {"error": "Invalid request", "details": "page or limit"})
    pages = -(-len(found) // limit)
    pagination = {"currentPage": page, "limit": limit, "totalItems": len(found), "totalPages": pages}
    return found[(page - 1) * limit : page * limit], pagination


def _fits5(metadata: dict, filter: dict | None) -> bool:
    if not filter:
        return True
    if filter["operator"] in ("and", "or"):
        return (all if filter["operator"] == "and" else any)(_fits5(metadata, one) for one in filter["operands"])
    if filter["operator"] != "eq":
        raise Reply(400, {"error": "this fake knows eq alone"})
    return metadata.get(filter["field"]) == filter["value"]


def _fits3(metadata: dict, filters: dict | None) -> bool:
    if not filters:
        return True
    if "AND" in filters or "OR" in filters:
        every = all if "AND" in filters else any
        return every(_fits3(metadata, one) for one in filters.get("AND") or filters["OR"])
    return str(metadata.get(filters["key"])) == filters["value"]


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
