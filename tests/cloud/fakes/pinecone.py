"""Pinecone's vectors API, 2026-07, as far as the adapter and the official client use it; and its control plane.

Reads are behind writes for `lag` reads of a namespace after each write, as eventual consistency would have it.
Proven against the client `pinecone` (tests/cloud/oracle/test_pinecone.py).
"""

from typing import Any

from tests.cloud.fakes.server import Fake, Reply, Request


class Namespace:
    def __init__(self):
        self.records: dict[str, dict] = {}  # as written
        self.shown: dict[str, dict] = {}  # as read
        self.lsn = self.shown_lsn = self.behind = 0

    def wrote(self, lag: int) -> int:
        self.lsn += 1
        self.behind = lag
        return self.lsn

    def read(self) -> dict[str, dict]:
        if self.behind > 0:
            self.behind -= 1
        elif self.shown_lsn < self.lsn:
            self.shown, self.shown_lsn = {id: dict(one) for id, one in self.records.items()}, self.lsn
        return self.shown


class FakePinecone(Fake):
    """One index. Its `name` can be looked up at the same address."""

    def __init__(self, dimension: int = 8, name: str = "memory"):
        super().__init__()
        self.dimension, self.name = dimension, name
        self.namespaces: dict[str, Namespace] = {}
        self.lag = 0  # reads of a namespace that stay stale after a write
        self.tells = ("query",)  # the reads that say how far they have seen
        self.writes_tell = True
        self.lists_at_most: int | None = None  # cut short in silence

    def answer(self, request: Request) -> Any:
        if request.headers.get("api-key") != self.key:
            raise Reply(401, {"error": {"code": "UNAUTHENTICATED", "message": "Invalid API Key."}, "status": 401})
        if "x-pinecone-api-version" not in request.headers:
            raise _refused("no api version")
        if request.path.startswith("/indexes/"):
            return self._described(request.path.removeprefix("/indexes/"))
        asked = request.body if isinstance(request.body, dict) else {}
        name = asked.get("namespace") or request.query.get("namespace") or "__default__"
        match f"{request.method} {request.path}":
            case "POST /vectors/upsert":
                return self._upsert(name, asked, request.raw)
            case "POST /vectors/update":
                return self._update(name, asked)
            case "POST /vectors/delete":
                return self._delete(name, asked)
            case "GET /vectors/fetch":
                return self._fetch(name, request.lists.get("ids", []))
            case "POST /vectors/fetch_by_metadata":
                return self._fetch_by_metadata(name, asked)
            case "GET /vectors/list":
                return self._list(name, request.query)
            case "POST /query":
                return self._query(name, asked)
            case "POST /describe_index_stats":
                return self._stats()
        raise Reply(404, {"code": 5, "message": "Not Found", "details": []})

    def _described(self, name: str) -> dict:
        if name != self.name:
            raise Reply(404, {"error": {"code": "NOT_FOUND", "message": f"Resource {name} not found"}, "status": 404})
        return {
            "name": name, "host": self.url, "deletion_protection": "disabled",
            "deployment": {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"},
            "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}},
            "schema": {"fields": {"_values": {
                "type": "dense_vector", "dimension": self.dimension, "metric": "cosine",
            }}},
            "status": {"ready": True, "state": "Ready"},
        }  # fmt: skip

    # --- writes

    def _upsert(self, name: str, asked: dict, raw: bytes) -> Any:
        vectors = asked.get("vectors")
        if not isinstance(vectors, list) or not vectors:
            raise _refused("No vectors provided for upsert")
        if len(vectors) > 1000:
            raise _refused(f"Request size of {len(vectors)} records exceeds the limit of 1000 records")
        if len(raw) > 2 * 1024 * 1024:
            raise _refused(f"Request size {len(raw)} bytes exceeds the maximum supported size of 2097152 bytes")
        for vector in vectors:
            self._check(vector)
        space = self.namespaces.setdefault(name, Namespace())
        for vector in vectors:
            space.records[vector["id"]] = {
                "id": vector["id"], "values": vector["values"], "metadata": _stored(vector.get("metadata") or {})
            }  # fmt: skip
        return self._written(space, {"upsertedCount": len(vectors)})

    def _check(self, vector: dict) -> None:
        import json

        if not isinstance(vector.get("id"), str) or not 0 < len(vector["id"]) <= 512:
            raise _refused("Invalid vector id")
        values = vector.get("values") or []
        if len(values) != self.dimension:
            raise _refused(f"Vector dimension {len(values)} does not match the dimension of the index {self.dimension}")
        if not any(values):
            raise _refused("Dense vectors must contain at least one non-zero value.")
        for field, value in (vector.get("metadata") or {}).items():
            is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
            if not is_list and not isinstance(value, str | int | float | bool):
                raise _refused(f"Metadata value must be a string, number, boolean or list of strings: {field}")
        size = len(json.dumps(vector.get("metadata") or {}, ensure_ascii=False, separators=(",", ":")).encode())
        if size > 40_960:
            raise _refused(f"Metadata size is {size} bytes, which exceeds the limit of 40960 bytes per vector")

    def _update(self, name: str, asked: dict) -> Any:
        space = self._space(name)
        if asked.get("id") in space.records:
            space.records[asked["id"]]["metadata"].update(_stored(asked.get("setMetadata") or {}))
        return self._written(space, {})

    def _delete(self, name: str, asked: dict) -> Any:
        space = self._space(name)
        if asked.get("deleteAll"):
            space.records.clear()
        if len(asked.get("ids") or []) > 1000:
            raise _refused("Too many ids: the limit is 1000")
        for id in asked.get("ids") or []:
            space.records.pop(id, None)
        return self._written(space, {})

    def _space(self, name: str) -> Namespace:
        if name not in self.namespaces:
            raise Reply(404, {"code": 5, "message": "Namespace not found", "details": []})
        return self.namespaces[name]

    def _written(self, space: Namespace, body: dict) -> Any:
        lsn = space.wrote(self.lag)
        raise Reply(200, body, {"x-pinecone-request-lsn": str(lsn)} if self.writes_tell else {})

    # --- reads

    def _shown(self, name: str) -> Namespace:
        space = self.namespaces.get(name) or Namespace()
        space.read()
        return space

    def _fetch(self, name: str, ids: list[str]) -> Any:
        if not 0 < len(ids) <= 1000:
            raise _refused("fetch takes 1 to 1000 ids")
        space = self._shown(name)
        found = {id: space.shown[id] for id in ids if id in space.shown}
        return self._told("fetch", space, {"vectors": found, "namespace": name, "usage": {"readUnits": 1}})

    def _fetch_by_metadata(self, name: str, asked: dict) -> Any:
        if not asked.get("filter") or not 0 < asked.get("limit", 100) <= 10_000:
            raise _refused("fetch_by_metadata takes a filter, and a limit of 1 to 10000")
        space = self._shown(name)
        fits = sorted(id for id, one in space.shown.items() if _fits(one["metadata"], asked["filter"]))
        ids, then = _page(fits, asked.get("limit", 100), asked.get("paginationToken"))
        body = {"vectors": {id: space.shown[id] for id in ids}, "namespace": name, "usage": {"readUnits": 1}, **then}
        return self._told("fetch", space, body)

    def _list(self, name: str, query: dict[str, str]) -> Any:
        limit = int(query.get("limit", "100"))
        if not 0 < limit <= 100:
            raise _refused("limit must be from 1 to 100")
        space = self._shown(name)
        fits = sorted(id for id in space.shown if id.startswith(query.get("prefix", "")))[: self.lists_at_most]
        ids, then = _page(fits, limit, query.get("paginationToken"))
        body = {"vectors": [{"id": id} for id in ids], "namespace": name, "usage": {"readUnits": 1}, **then}
        return self._told("list", space, body)

    def _query(self, name: str, asked: dict) -> Any:
        if len(asked.get("vector") or []) != self.dimension or not 0 < asked.get("topK", 0) <= 10_000:
            raise _refused("query takes a vector of the index's dimension and a topK of 1 to 10000")
        space = self._shown(name)

        def score(one: dict) -> float:
            return sum(a * b for a, b in zip(one["values"], asked["vector"], strict=True))

        fits = [one for one in space.shown.values() if _fits(one["metadata"], asked.get("filter") or {})]
        best = sorted(fits, key=score, reverse=True)[: asked["topK"]]
        matches = [
            {"id": one["id"], "score": score(one), "values": [],
             **({"metadata": one["metadata"]} if asked.get("includeMetadata") else {})}
            for one in best
        ]  # fmt: skip
        return self._told("query", space, {"matches": matches, "namespace": name, "usage": {"readUnits": 1}})

    def _stats(self) -> dict:
        counts = {name: len(space.shown) for name, space in self.namespaces.items() if space.read() or space.records}
        return {
            "namespaces": {name: {"vectorCount": count} for name, count in counts.items()}, "indexFullness": 0,
            "dimension": self.dimension, "metric": "cosine", "vectorType": "dense",
            "totalVectorCount": sum(counts.values()),
        }  # fmt: skip

    def _told(self, read: str, space: Namespace, body: dict) -> Any:
        raise Reply(200, body, {"x-pinecone-max-indexed-lsn": str(space.shown_lsn)} if read in self.tells else {})


def _refused(message: str) -> Reply:
    return Reply(400, {"code": 3, "message": message, "details": []})


def _stored(metadata: dict) -> dict:
    """Numbers are kept as floats."""
    return {name: float(v) if type(v) is int else v for name, v in metadata.items()}


def _page(ids: list[str], limit: int, token: str | None) -> tuple[list[str], dict]:
    rest = [id for id in ids if token is None or id > token]
    page = rest[:limit]
    return page, {"pagination": {"next": page[-1]}} if len(rest) > limit else {}


def _fits(metadata: dict, filter: dict) -> bool:
    return all(
        metadata.get(field) == (want["$eq"] if isinstance(want, dict) else want) for field, want in filter.items()
    )
