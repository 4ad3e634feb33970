"""The REST interface of a Qdrant server with points in dicts. Proven in tests/cloud/oracle/test_qdrant.py.

As strict as Qdrant Cloud: it refuses to filter by a field without an index, and says so in the server's words.
"""

import math
import re
from typing import Any
from uuid import UUID

from tests.cloud.fakes.server import Fake, Reply, Request

UPDATE_FILTER_SINCE = (1, 16)


class FakeQdrant(Fake):
    """`strict`: limits of the collections made here. `version`: older ones know no `update_filter`, and ignore it."""

    def __init__(self, version: str = "1.19.1", **strict: int):
        super().__init__()
        self.version, self.strict = version, strict
        self.collections: dict[str, Collection] = {}
        self.quotas: dict[str, int] | None = None

    def answer(self, request: Request) -> Any:
        if request.path == "/" and request.method == "GET":  # open to everybody
            return {"title": "qdrant - vector search engine", "version": self.version, "commit": "0" * 40}
        if self.key and request.headers.get("api-key") != self.key:
            raise Reply(
                401, b"Must provide an API key or an Authorization bearer token", {"Content-Type": "text/plain"}
            )
        return {"result": self._result(request), "status": "ok", "time": 0.001}

    def _result(self, request: Request) -> Any:
        if request.path == "/quotas" and self.quotas is not None:
            return {"config": {"enabled": False}, "usage": self.quotas, "peers": None}
        parts = re.fullmatch(r"/collections/([^/]+)(/.*)?", request.path)
        if parts is None:
            raise Reply(404, b"", {"Content-Type": "text/plain"})
        name, rest = parts.group(1), parts.group(2) or ""
        if (request.method, rest) == ("PUT", ""):
            return self._create(name, request.body)
        if rest == "/exists":
            return {"exists": name in self.collections}
        if (request.method, rest) == ("DELETE", ""):
            return self.collections.pop(name, None) is not None
        collection = self.collections.get(name)
        if collection is None:
            raise failure(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._of_collection(collection, request, rest)

    def _create(self, name: str, body: Any) -> bool:
        if name in self.collections:
            raise failure(409, f"Wrong input: Collection `{name}` already exists!")
        vectors = body.get("vectors") if isinstance(body, dict) else None
        if not isinstance(vectors, dict) or not vectors:
            raise failure(400, "Format error in JSON body: missing field `vectors`")
        self.collections[name] = Collection(vectors, self.strict)
        return True

    def _of_collection(self, collection: "Collection", request: Request, rest: str) -> Any:
        body, done = request.body or {}, {"operation_id": collection.operation(), "status": self._status(request)}
        match (request.method, rest):
            case ("GET", ""):
                return collection.info()
            case ("PUT", "/index"):
                collection.indexes[body["field_name"]] = body["field_schema"]
                return done
            case ("PUT", "/points"):
                guard = body.get("update_filter") if self._number() >= UPDATE_FILTER_SINCE else None
                collection.upsert(body.get("points"), guard)
                return done
            case ("POST", "/points"):
                found = [collection.points[id] for id in map(point_id, body["ids"]) if id in collection.points]
                return [shown(point, body.get("with_payload", True), body.get("with_vector")) for point in found]
            case ("POST", "/points/delete"):
                for id in list(map(point_id, body["points"])):
                    collection.points.pop(id, None)
                return done
            case ("POST", "/points/payload"):
                for id in map(point_id, body["points"]):
                    collection.points[id]["payload"].update(body["payload"])
                return done
            case ("POST", "/points/scroll"):
                return collection.scroll(body)
            case ("POST", "/points/count"):
                return {"count": len(collection.matching(body.get("filter")))}
            case ("POST", "/points/query"):
                return {"points": collection.nearest(body)}
        raise Reply(404, b"", {"Content-Type": "text/plain"})

    def _status(self, request: Request) -> str:
        return "completed" if request.query.get("wait") == "true" else "acknowledged"

    def _number(self) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", self.version)))


class Collection:
    """Points of one vector each."""

    def __init__(self, vectors: dict, strict: dict[str, int]):
        self.vectors, self.strict = vectors, strict
        self.points: dict[int | str, dict] = {}
        self.indexes: dict[str, str] = {}
        self._operations = 0

    def operation(self) -> int:
        self._operations += 1
        return self._operations

    def info(self) -> dict:
        schema = {name: {"data_type": type, "points": len(self.points)} for name, type in self.indexes.items()}
        strict = {
            "enabled": True, "unindexed_filtering_retrieve": False, "unindexed_filtering_update": False,
            "max_payload_index_count": 100, **self.strict,
        }  # fmt: skip
        return {
            "status": "green", "optimizer_status": "ok", "points_count": len(self.points), "segments_count": 2,
            "indexed_vectors_count": 0, "payload_schema": schema, "update_queue": {"length": 0},
            "config": {
                "params": {"vectors": self.vectors, "shard_number": 1, "replication_factor": 1,
                           "write_consistency_factor": 1, "on_disk_payload": True},
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000,
                                     "default_segment_number": 0, "flush_interval_sec": 5},
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
                "strict_mode_config": strict,
            },
        }  # fmt: skip

    def upsert(self, points: Any, guard: Any) -> None:
        if not isinstance(points, list):
            raise failure(400, "Format error in JSON body: data did not match any variant of untagged enum")
        most, room = self.strict.get("upsert_max_batchsize"), self.strict.get("max_points_count")
        if most is not None and len(points) > most:
            raise failure(
                400, f'Bad request: Limit exceeded {len(points)} > {most} for "upsert limit". Help: Reduce it.'
            )
        if room is not None and len(self.points) >= room:
            raise failure(400, f"Bad request: Max points count limit of {room} reached!")
        if guard is not None:
            self._require_indexes(guard)
        new = [self._checked(point) for point in points]
        allowed = {id for id, point in self.points.items() if guard is None or fits(point, guard)}
        for point in new:
            if point["id"] not in self.points or point["id"] in allowed:
                self.points[point["id"]] = point

    def _checked(self, point: dict) -> dict:
        vector, size = point.get("vector"), self.vectors.get("size")
        if not isinstance(vector, list):
            raise failure(400, "Format error in JSON body: data did not match any variant of untagged enum")
        if len(vector) != size:
            raise failure(400, f"Wrong input: Vector dimension error: expected dim: {size}, got {len(vector)}")
        return {"id": point_id(point.get("id")), "vector": vector, "payload": dict(point.get("payload") or {})}

    def scroll(self, body: dict) -> dict:
        if body.get("order_by"):
            raise failure(400, "this fake scrolls by id alone")
        points, limit = self.matching(body.get("filter")), body.get("limit") or 10
        if (offset := body.get("offset")) is not None:
            points = [point for point in points if order(point["id"]) >= order(point_id(offset))]
        page = [shown(point, body.get("with_payload", True), body.get("with_vector")) for point in points[:limit]]
        return {"points": page, "next_page_offset": points[limit]["id"] if len(points) > limit else None}

    def matching(self, filter: Any) -> list[dict]:
        """By id, numbers before UUIDs."""
        if filter is not None:
            self._require_indexes(filter)
        points = (self.points[id] for id in sorted(self.points, key=order))
        return [point for point in points if filter is None or fits(point, filter)]

    def nearest(self, body: dict) -> list[dict]:
        wanted = body["query"]
        wanted = wanted["nearest"] if isinstance(wanted, dict) else wanted  # both are right
        if len(wanted) != self.vectors.get("size"):
            raise failure(400, f"Wrong input: Vector dimension error: expected dim: {self.vectors.get('size')}")
        scored = [(cosine(wanted, point["vector"]), point) for point in self.matching(body.get("filter"))]
        scored.sort(key=lambda pair: -pair[0])
        return [
            {**shown(point, body.get("with_payload", False), False), "version": 0, "score": score}
            for score, point in scored[: body.get("limit") or 10]
        ]

    def _require_indexes(self, filter: dict) -> None:
        for condition in conditions(filter):
            if "must" in condition or "should" in condition or "must_not" in condition:
                self._require_indexes(condition)
            elif (key := condition.get("key")) is not None:
                type = "integer" if "range" in condition else "keyword"
                if self.indexes.get(key) != type:
                    raise failure(
                        400, f'Bad request: Index required but not found for "{key}" of one of the following types: '
                        f"[{type}]. Help: Create an index for this key or use a different filter.",
                    )  # fmt: skip


def failure(status: int, words: str) -> Reply:
    return Reply(status, {"status": {"error": words}, "time": 0.001})


def point_id(value: Any) -> int | str:
    """Raises Reply: it is neither a UUID nor an unsigned number."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError):
        raise failure(
            400, f"Format error in JSON body: value {value} is not a valid point ID, valid values are either an "
            "unsigned integer or a UUID",
        ) from None  # fmt: skip


def order(id: int | str) -> tuple:
    return (0, id, "") if isinstance(id, int) else (1, 0, id)


def conditions(filter: dict) -> list[dict]:
    found = []
    for clause in ("must", "should", "must_not"):
        part = filter.get(clause) or []
        found += part if isinstance(part, list) else [part]
    return found


def fits(point: dict, filter: dict) -> bool:
    must, should, must_not = (filter.get(clause) or [] for clause in ("must", "should", "must_not"))
    return (
        all(holds(point, one) for one in must)
        and (not should or any(holds(point, one) for one in should))
        and not any(holds(point, one) for one in must_not)
    )


def holds(point: dict, condition: dict) -> bool:
    if "has_id" in condition:
        return point["id"] in {point_id(id) for id in condition["has_id"]}
    if "key" not in condition:
        return fits(point, condition)
    value = point["payload"].get(condition["key"])
    values = value if isinstance(value, list) else [value]
    if wanted := condition.get("match"):
        return wanted["value"] in values
    bounds = {
        "gt": lambda a, b: a > b,
        "gte": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "lte": lambda a, b: a <= b,
    }
    limits = {name: limit for name, limit in condition["range"].items() if limit is not None}
    return any(
        isinstance(one, int | float) and all(bounds[name](one, limit) for name, limit in limits.items())
        for one in values
    )


def shown(point: dict, payload: Any, vector: Any) -> dict:
    found = {"id": point["id"]}
    if payload:
        whole = point["payload"]
        found["payload"] = whole if payload is True else {name: whole[name] for name in payload if name in whole}
    if vector:
        found["vector"] = point["vector"]
    return found


def cosine(a: list[float], b: list[float]) -> float:
    length = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / length if length else 0.0
