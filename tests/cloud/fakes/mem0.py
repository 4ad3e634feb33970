"""Mem0's platform, API v3, as far as an export and a pull go; proven with its own client (oracle/test_mem0.py)."""

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from tests.cloud.fakes.server import Fake, Reply, Request

ENTITIES = ("user_id", "agent_id", "app_id", "run_id")
FIELDS = {*ENTITIES, "created_at", "updated_at", "timestamp", "expiration_date", "text", "categories", "metadata",
          "keywords", "memory_ids"}  # fmt: skip
TIMES = {"gt", "gte", "lt", "lte", "ne", "in"}


class FakeMem0(Fake):
    """`queued`: how often an addition's event says PENDING. `on_twin`: what an addition answers that the service drops:
    "empty", "none" (event NONE with the id of what is there), or "list" (a bare list, as older versions).
    `merges`: PUT merges metadata instead of replacing it. `hidden`: ids that a list leaves out.
    """

    def __init__(self):
        super().__init__()
        self.rows: dict[str, dict] = {}
        self.history: list[dict] = []
        self.events: dict[str, dict] = {}
        self.queued, self.on_twin, self.merges = 0, "empty", False
        self.hidden: set[str] = set()
        self._now = 1_780_000_000

    # --- what tests do behind the client's back

    def put(self, text: str, metadata: dict | None = None, **scope) -> str:
        """Somebody else adds a memory."""
        id = str(uuid4())
        now = self._tick()
        self.rows[id] = {
            "id": id, "memory": text, **{entity: scope.get(entity) for entity in ENTITIES}, "metadata": metadata,
            "categories": [], "created_at": now, "updated_at": now, "expiration_date": None,
        }  # fmt: skip
        self._log(id, "ADD", None, text)
        return id

    def edit(self, id: str, text: str) -> None:
        row = self.rows[id]
        self._log(id, "UPDATE", row["memory"], text)
        row.update(memory=text, updated_at=self._tick())

    def take(self, id: str) -> None:
        self._log(id, "DELETE", self.rows[id]["memory"], None)
        del self.rows[id]

    # --- the service

    def answer(self, request: Request) -> Any:
        if request.headers.get("authorization") != f"Token {self.key}":
            raise Reply(401, {"detail": "Invalid API key."})
        if not request.path.endswith("/"):
            raise Reply(404, {"detail": "Not found."})
        parts = request.path.strip("/").split("/")
        match (request.method, *parts):
            case ("GET", "v1", "ping"):
                return {"status": "ok", "org_id": "org", "project_id": "prj", "user_email": "someone@example.com"}
            case ("POST", "v3", "memories", "add"):
                return self._add(request.body)
            case ("POST", "v3", "memories"):
                return self._page(request)
            case ("GET", "v1", "event", id):
                return self._event(id)
            case ("PUT" | "DELETE", "v1", "batch"):
                return self._batch(request)
            case ("GET", "v1", "memories", "events"):
                page, limit = int(request.query.get("page", 1)), min(int(request.query.get("limit", 100)), 100)
                return self.history[(page - 1) * limit : page * limit]
            case ("GET", "v1", "memories", id, "history"):
                return [row for row in self.history if row["memory_id"] == id]
            case ("GET" | "PUT" | "DELETE", "v1", "memories", id):
                return self._one(request, id)
            case ("GET", "v1", "entities"):
                return self._entities()
            case ("GET", "v1", "stats"):
                return {"total_memories": len(self.rows), "total_add_events": len(self.history)}
        raise Reply(404, {"detail": "Not found."})

    def _add(self, body: dict) -> Any:
        scope = {entity: body.get(entity) for entity in ENTITIES}
        if not any(scope.values()):
            raise Reply(400, {"error": "at least one of the entity ids is required"})
        made, found = [], []
        for message in body["messages"]:
            if message["role"] == "system":
                continue
            # A model would tell it in its own words.
            text = message["content"] if body.get("infer") is False else "in other words: " + message["content"]
            digest = hashlib.md5(text.encode()).hexdigest()
            twin = next(
                (id for id, row in self.rows.items() if self._digest(row) == digest and self._fits(row, scope)), None
            )
            if twin:
                found.append({"id": twin, "data": {"memory": text}, "event": "NONE"})
                continue
            id = self.put(text, body.get("metadata"), **scope)
            if body.get("timestamp"):
                self.rows[id]["created_at"] = _iso(body["timestamp"])
            made.append({"id": id, "data": {"memory": text}, "event": "ADD"})
        event = str(uuid4())
        results = made + (found if self.on_twin == "none" else [])
        done = {"message": "stored", "status": "SUCCEEDED", "event_id": event, "results": results}
        self.events[event] = {"left": self.queued, "id": event, **done}
        if self.queued or body.get("infer") is not False:
            return {"message": "queued", "status": "PENDING", "event_id": event}
        return made if self.on_twin == "list" and not made else done

    def _digest(self, row: dict) -> str:
        return hashlib.md5(row["memory"].encode()).hexdigest()

    def _fits(self, row: dict, scope: dict) -> bool:
        return all(row[entity] == scope[entity] for entity in ENTITIES)

    def _event(self, id: str) -> dict:
        if id not in self.events:
            raise Reply(404, {"error": "Event not found"})
        event = self.events[id]
        event["left"] -= 1
        if event["left"] >= 0:
            return {"id": id, "status": "PENDING", "results": []}
        return {name: value for name, value in event.items() if name != "left"}

    def _page(self, request: Request) -> dict:
        page, size = int(request.query.get("page", 1)), int(request.query.get("page_size", 100))
        body = request.body or {}
        if size > 200 or set(body) & set(ENTITIES):
            raise Reply(400, {"error": "entity ids belong into filters; page_size is at most 200"})
        if not body.get("filters"):
            raise Reply(400, {"error": "filters are required"})
        rows = [
            row
            for _, row in sorted(self.rows.items())
            if _holds(body["filters"], row)
            and (body.get("include_merged") or not row.get("merged_into"))
            and (body.get("show_expired") or not row.get("expiration_date"))
        ]
        start = (page - 1) * size
        if page > 1 and start >= len(rows):
            raise Reply(404, {"detail": "Invalid page."})
        return {
            "count": len(rows), "next": f"?page={page + 1}" if start + size < len(rows) else None,
            "previous": f"?page={page - 1}" if page > 1 else None,
            "results": [_shown(row) for row in rows[start : start + size] if row["id"] not in self.hidden],
        }  # fmt: skip

    def _one(self, request: Request, id: str) -> Any:
        try:
            UUID(id)
        except ValueError:
            raise Reply(400, {"error": "Invalid memory id"}) from None
        if id not in self.rows:
            raise Reply(404, {"error": "Memory not found!"})
        if request.method == "DELETE":
            self.take(id)
            return {"message": "Memory deleted successfully!"}
        if request.method == "PUT":
            self._update(id, request.body)
        return _shown(self.rows[id])

    def _update(self, id: str, body: dict) -> None:
        self.edit(id, body.get("text") or self.rows[id]["memory"])
        if "metadata" in body:
            self.rows[id]["metadata"] = {**(self.rows[id]["metadata"] or {} if self.merges else {}), **body["metadata"]}

    def _batch(self, request: Request) -> dict:
        many = request.body["memories"]
        if len(many) > 1000:
            raise Reply(400, {"error": "at most 1000 memories"})
        if missing := [one["memory_id"] for one in many if one["memory_id"] not in self.rows]:
            raise Reply(404, {"error": f"Memory not found: {missing[0]}"})
        for one in many:
            if request.method == "DELETE":
                self.take(one["memory_id"])
            else:
                self._update(one["memory_id"], one)
        return {"message": f"Successfully handled {len(many)} memories"}

    def _entities(self) -> dict:
        names: dict[tuple, int] = {}
        for row in self.rows.values():
            for entity in ENTITIES:
                if row[entity]:
                    names[entity, row[entity]] = names.get((entity, row[entity]), 0) + 1
        rows = [
            {"id": str(at), "name": name, "type": entity.removesuffix("_id"), "total_memories": count}
            for at, ((entity, name), count) in enumerate(names.items())
        ]
        return {"count": len(rows), "next": None, "previous": None, "results": rows}

    def _log(self, id: str, event: str, old: str | None, new: str | None) -> None:
        self.history.insert(len(self.history) // 2, {  # in no order
            "id": str(uuid4()), "memory_id": id, "event": event, "old_memory": old, "new_memory": new,
            "created_at": self._tick(), "metadata": self.rows[id]["metadata"],
        })  # fmt: skip

    def _tick(self) -> str:
        self._now += 1
        return _iso(self._now)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _shown(row: dict) -> dict:
    shown = {name: value for name, value in row.items() if name != "run_id"}
    return shown | {"session_id": row["run_id"], "synthesized": bool(row.get("synthesized"))}


def _holds(filters: Any, row: dict) -> bool:
    """An AND beside an OR leaves the OR out, as the service does."""
    if not isinstance(filters, dict):
        raise Reply(400, {"error": "a filter is an object"})
    if "AND" in filters:
        return all(_holds(one, row) for one in filters["AND"])
    if "OR" in filters:
        return any(_holds(one, row) for one in filters["OR"])
    if "NOT" in filters:
        return not any(_holds(one, row) for one in filters["NOT"])
    if unknown := set(filters) - FIELDS:
        raise Reply(400, {"error": f"Unknown filter field: {sorted(unknown)[0]}"})
    return all(_one_holds(name, value, row) for name, value in filters.items())


def _one_holds(name: str, value: Any, row: dict) -> bool:
    if name == "memory_ids":
        return row["id"] in value
    if name == "metadata":
        if any(isinstance(one, dict | list) for one in value.values()):
            raise Reply(400, {"error": "metadata holds plain values"})
        return all((row["metadata"] or {}).get(key) == one for key, one in value.items())
    have = row.get(name)
    if value == "*":
        return have is not None
    if not isinstance(value, dict):
        return have == value
    if set(value) - TIMES:
        raise Reply(400, {"error": f"Unsupported operator: {sorted(set(value) - TIMES)[0]}"})
    if name in ("created_at", "updated_at"):
        have = datetime.fromisoformat(have)
        value = {sign: datetime.fromisoformat(one) for sign, one in value.items()}
    signs = {
        "gt": lambda one: have > one, "gte": lambda one: have >= one, "lt": lambda one: have < one,
        "lte": lambda one: have <= one, "ne": lambda one: have != one, "in": lambda one: have in one,
    }  # fmt: skip
    return all(signs[sign](one) for sign, one in value.items())
