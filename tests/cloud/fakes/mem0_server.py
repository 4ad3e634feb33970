"""Mem0's self-hosted server, as far as an export and a pull go.

What it keeps and merges is what Mem0's own library does (oracle/test_mem0_library.py holds both against one suite).
"""

import hashlib
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from tests.cloud.fakes.server import Fake, Reply, Request

ENTITIES = ("user_id", "agent_id", "run_id")
OWN = {*ENTITIES, "data", "hash", "created_at", "updated_at", "actor_id", "role", "expiration_date", "text_lemmatized"}
MOST = 1000
SCANNED = 10_000


class FakeMem0Server(Fake):
    """`key`: None for a server that asks for none. `old`: without `/entities`, and its lists end at 100."""

    def __init__(self, key: str | None = "test-key"):
        super().__init__()
        self.key, self.old, self.scanned = key, False, SCANNED
        self.rows: dict[str, dict] = {}  # id -> payload, as in the vector store

    def put(self, text: str, metadata: dict | None = None, role: str = "user", **scope) -> str:
        id = str(uuid4())
        fields = {name: value for name, value in (metadata or {}).items() if name not in ENTITIES}
        payload = {**fields, **{name: value for name, value in scope.items() if value}, "role": role, "data": text}
        payload["hash"] = hashlib.md5(text.encode()).hexdigest()
        payload.setdefault("created_at", datetime.now(UTC).isoformat())
        payload["updated_at"] = payload["created_at"]
        self.rows[id] = payload
        return id

    def edit(self, id: str, text: str | None = None, metadata: dict | None = None) -> None:
        row = self.rows[id]
        created = row["created_at"]
        row.update({name: value for name, value in (metadata or {}).items() if name not in ENTITIES})
        text = row["data"] if text is None else text
        row.update(
            data=text, created_at=created, updated_at=datetime.now(UTC).isoformat(),
            hash=hashlib.md5(text.encode()).hexdigest(),
        )  # fmt: skip

    def listed(self, scope: dict, top_k: int = 20) -> list[dict]:
        rows = [
            _shown(id, row)
            for id, row in sorted(self.rows.items())
            if all(row.get(name) == value for name, value in scope.items())
        ]
        return rows[:top_k]

    def answer(self, request: Request) -> Any:
        if self.key and request.headers.get("x-api-key") != self.key:
            raise Reply(401, {"detail": "Invalid or missing API key"})
        parts = request.path.split("/")[1:]
        match (request.method, *parts):
            case ("GET", "auth", "setup-status"):
                return {"needsSetup": False}
            case ("POST", "memories"):
                return self._add(request.body)
            case ("GET", "memories"):
                return self._list(request.query)
            case ("POST", "search"):
                return self._search(request.body)
            case ("GET", "entities") if not self.old:
                return self._entities()
            case ("GET" | "PUT" | "DELETE", "memories", id) if id:
                return self._one(request, id)
        raise Reply(404, {"detail": "Not Found"})

    def _add(self, body: dict) -> dict:
        scope = {name: body[name] for name in ENTITIES if body.get(name)}
        if not scope:
            raise Reply(400, {"detail": "At least one identifier (user_id, agent_id, run_id) is required."})
        results = []
        for message in body["messages"]:
            if message["role"] == "system":
                continue
            text = message["content"] if body.get("infer") is False else "in other words: " + message["content"]
            id = self.put(text, body.get("metadata"), message["role"], **scope)
            results.append({"id": id, "memory": text, "event": "ADD", "actor_id": None, "role": message["role"]})
        return {"results": results}

    def _list(self, query: dict) -> dict:
        scope = {name: query[name] for name in ENTITIES if query.get(name)}
        if unknown := set(query) - {*ENTITIES, "top_k", "show_expired"}:
            raise Reply(422, {"detail": f"unknown: {unknown}"})
        top_k = int(query.get("top_k", 20))
        if top_k > MOST:
            raise Reply(422, {"detail": [{"msg": "Input should be less than or equal to 1000"}]})
        return {"results": self.listed(scope, 100 if self.old else top_k)}

    def _search(self, body: dict) -> dict:
        filters = body.get("filters") or {}
        if not any(filters.get(name) for name in ENTITIES) or not body["query"].strip():
            raise Reply(400, {"detail": "filters must contain at least one of: user_id, agent_id, run_id"})
        rows = self.listed(filters, body.get("top_k", 20))
        return {"results": [row | {"score": 0.5} for row in rows if body.get("threshold", 0.1) <= 0.5]}

    def _one(self, request: Request, id: str) -> Any:
        try:
            UUID(id)
        except ValueError:
            raise Reply(502, {"detail": "An upstream error", "code": "unknown", "request_id": "r"}) from None
        if id not in self.rows:
            if request.method == "GET":
                return None
            raise Reply(404, {"detail": f"Memory with id {id} not found"})
        if request.method == "PUT":
            if not set(request.body) & {"text", "metadata", "expiration_date"}:
                raise Reply(400, {"detail": "nothing to update"})
            self.edit(id, request.body.get("text"), request.body.get("metadata"))
            return {"message": "Memory updated successfully!"}
        if request.method == "DELETE":
            del self.rows[id]
            return {"message": "Memory deleted successfully"}
        return _shown(id, self.rows[id])

    def _entities(self) -> list[dict]:
        counts: dict[tuple, int] = {}
        for row in list(self.rows.values())[: self.scanned]:
            for name in ENTITIES:
                if row.get(name):
                    counts[name, row[name]] = counts.get((name, row[name]), 0) + 1
        return [
            {"id": id, "type": name.removesuffix("_id"), "total_memories": count}
            for (name, id), count in sorted(counts.items())
        ]


def _shown(id: str, row: dict) -> dict:
    shown = {name: row[name] for name in (*ENTITIES, "role", "hash", "created_at", "updated_at") if name in row}
    fields = {name: value for name, value in row.items() if name not in OWN}
    return {"id": id, "memory": row["data"], **shown, "metadata": fields or None}
