"""Qdrant over REST: a server of one's own, or Qdrant Cloud.

Each write waits until it is applied (`wait=true`), and is guarded on the server: a point with a higher `rev` stays.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from replica.cloud.base import Outcome, Settings, SinkError, Stored, Trouble
from replica.cloud.http import Answer, Http
from replica.cloud.sinks.qdrant import INDEXES, AnyOf, Engine, Found, Page, Point, PointId, no_collection, wrong_size

GUARDED_SINCE = (1, 16)  # servers before it take `update_filter` for nothing, and write all the same
QUOTAS_SINCE = (1, 19)
MAX_BODY = 24_000_000  # bytes; a server takes 32 MB unless it is told otherwise


class Rest(Engine):
    """One collection of one server. Used by several threads."""

    batch = 256
    parallel = 3

    def __init__(self, settings: Settings):
        self.place = settings["url"].rstrip("/")
        self._collection = settings["collection"] or "memory"
        self._path = f"/collections/{quote(self._collection, safe='')}"
        self._http = Http(
            self.place, service="Qdrant", secret=settings.key, timeout=settings.timeout,
            headers={"api-key": settings.key} if settings.key else {},
            hint_for_key=f"set QDRANT_API_KEY, then: replica sinks test {settings.name}",
        )  # fmt: skip
        self._known_version: tuple[int, ...] | None = None
        self._guard_refused = False
        self._usage = ""

    def about(self) -> str:
        version = ".".join(map(str, self._version())) or "of an unknown version"
        # `/` answers without a key, so the collection is asked for, too.
        info = self._info()
        there = "not there yet" if info is None else f"{info.get('points_count') or 0:,} points"
        return f"Qdrant {version} at {self.place}: collection {self._collection}, {there}"

    def prepare(self, size: int) -> None:
        info = self._info()
        if info is None:
            vectors = {"size": size, "distance": "Cosine"}
            self._http.call("PUT", self._path, {"vectors": vectors}, allow=(409,))  # 409: another clone was faster
            info = self._info() or {}
        if (found := _size(info)) != size:
            raise wrong_size(f"collection {self._collection} of {self.place}", found, size)
        indexed = info.get("payload_schema") or {}
        for name, schema in INDEXES.items():
            if name not in indexed:
                body = {"field_name": name, "field_schema": schema}
                self._call("PUT", "/index", body, query={"wait": "true"})

    def write(self, points: Sequence[Point]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        failed: SinkError | None = None
        for part, body in _parts(points):
            if failed is None:
                try:
                    outcomes += self._write_part(part, body)
                    continue
                except SinkError as error:
                    if not outcomes:
                        raise
                    failed = error
            outcomes += [failed] * len(part)
        return outcomes

    def _write_part(self, points: Sequence[Point], body: str) -> list[Outcome]:
        if not self._guard_refused and self._version() >= GUARDED_SINCE:
            try:
                return self._put(points, f'{{"points":[{body}],"update_filter":{json.dumps(guard(points))}}}')
            except SinkError as error:
                if error.status != 400 or error.trouble is not Trouble.BAD_ITEM:
                    raise
            outcomes = self._write_what_is_newer(points)
            self._guard_refused = True  # only the guard was refused, for without it the points are taken
            return outcomes
        return self._write_what_is_newer(points)

    def _write_what_is_newer(self, points: Sequence[Point]) -> list[Outcome]:
        """Read, then write: between the two another clone may write, but this server knows no better way."""
        ids = [point.id for point in points]
        body = {"ids": ids, "with_payload": ["rev"], "with_vector": False}
        revs = {found.id: found.payload.get("rev") for found in _points(self._call("POST", "/points", body))}
        due = [p for p in points if not (isinstance(there := revs.get(p.id), int | float) and there > p.rev)]
        if due:
            self._put(due, f'{{"points":[{",".join(map(_point, due))}]}}')
        return [Stored(str(point.id)) for point in points]

    def _put(self, points: Sequence[Point], body: str) -> list[Outcome]:
        result = self._call("PUT", "/points", raw=body.encode(), query={"wait": "true"})
        status = result.get("status") if isinstance(result, dict) else None
        if not isinstance(status, str):
            raise self._http.error(Trouble.UNREACHABLE, "does not say what became of the points")
        note = "" if status == "completed" else f"{status}: it can be found a little later"
        return [Stored(str(point.id), note) for point in points]

    def delete(self, ids: Sequence[PointId]) -> None:
        self._call("POST", "/points/delete", {"points": list(ids)}, query={"wait": "true"})

    def page(self, after: PointId | None, limit: int, any_of: AnyOf, payload: bool) -> Page:
        body: dict[str, Any] = {"limit": limit, "with_payload": payload, "with_vector": False, **_filter(any_of)}
        if after is not None:
            body["offset"] = after
        result = self._call("POST", "/points/scroll", body)
        if not isinstance(result, dict) or "points" not in result:
            raise self._http.error(Trouble.UNREACHABLE, "gives a page without points")
        return _points(result["points"]), result.get("next_page_offset")

    def read(self, ids: Sequence[PointId]) -> list[Found]:
        body = {"ids": list(ids), "with_payload": True, "with_vector": False}
        return _points(self._call("POST", "/points", body))

    def count(self, any_of: AnyOf) -> int:
        result = self._call("POST", "/points/count", {"exact": True, **_filter(any_of)})
        return int(result["count"]) if isinstance(result, dict) and isinstance(result.get("count"), int) else 0

    def search(self, vector: Sequence[float], limit: int, any_of: AnyOf) -> list[tuple[PointId, float]]:
        body = {"query": {"nearest": list(vector)}, "limit": limit, "with_payload": False, **_filter(any_of)}
        result = self._call("POST", "/points/query", body)
        points = result.get("points") if isinstance(result, dict) else None
        return [(point["id"], float(point["score"])) for point in points or ()]

    def limit(self) -> int | None:
        info = self._info()
        if info is None:
            raise no_collection(f"collection {self._collection} of {self.place}")
        self._ask_usage()
        strict = (info.get("config") or {}).get("strict_mode_config") or {}
        limit = strict.get("max_points_count")
        return limit if isinstance(limit, int) and strict.get("enabled") else None

    def usage(self) -> str:
        return self._usage

    def close(self) -> None:
        self._http.close()

    def _ask_usage(self) -> None:
        """How full the server is, where it tells: newer ones do, and only to a key for the whole of it."""
        if self._version() < QUOTAS_SINCE:
            return
        answer = self._http.call("GET", "/quotas", allow=(400, 401, 403, 404, 405))
        usage = _result(answer).get("usage") if answer.status == 200 and isinstance(_result(answer), dict) else None
        if isinstance(usage, dict):
            told = {"memory": usage.get("resident_memory_percent"), "disk": usage.get("disk_usage_percent")}
            self._usage = ", ".join(f"{name} {value}% full" for name, value in told.items() if isinstance(value, int))

    def _info(self) -> dict[str, Any] | None:
        """The collection's settings and state; None: there is no such collection."""
        answer = self._http.call("GET", self._path, allow=(404,))
        if answer.status == 404:
            return None
        result = _result(answer)
        if not isinstance(result, dict):
            raise self._http.error(Trouble.UNREACHABLE, "answers something else than Qdrant would", hint=IS_IT_QDRANT)
        return result

    def _version(self) -> tuple[int, ...]:
        """Of the server; empty where it does not tell."""
        if self._known_version is None:
            answer = self._http.call("GET", "/", allow=(404, 405))
            told = answer.body.get("version") if isinstance(answer.body, dict) else None
            numbers = str(told or "").split("-")[0].split(".")
            self._known_version = tuple(int(n) for n in numbers) if all(n.isdecimal() for n in numbers) else ()
        return self._known_version

    def _call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The `result` of a call about the collection."""
        try:
            answer = self._http.call(method, self._path + path, body, **more)
        except SinkError as error:
            raise self._clearer(error) from None
        if not isinstance(answer.body, dict) or "result" not in answer.body:
            raise self._http.error(Trouble.UNREACHABLE, "answers something else than Qdrant would", hint=IS_IT_QDRANT)
        return answer.body["result"]

    def _clearer(self, error: SinkError) -> SinkError:
        """Qdrant says "bad request" of much that is not the item's fault; its words tell which."""
        if error.status == 404:
            return no_collection(f"collection {self._collection} of {self.place}")
        words = str(error).lower()
        if error.status in (400, 403, 507):
            if ("limit of" in words and "reached" in words) or "quota" in words or "no space left" in words:
                return self._again(error, Trouble.QUOTA)
            if "limit exceeded" in words:
                return self._again(error, Trouble.TOO_BIG, "the collection's strict mode allows less in one call")
            if "index required" in words:
                return self._again(error, Trouble.CONFLICT, "an index is missing: run `replica export`, which makes it")
            if "dimension" in words:
                return self._again(error, Trouble.CONFLICT, "give the sink another `collection`")
        return error

    def _again(self, error: SinkError, trouble: Trouble, hint: str | None = None) -> SinkError:
        words = str(error).removeprefix(f"{self._http.service} ")
        return self._http.error(trouble, words, status=error.status, hint=hint)


IS_IT_QDRANT = "check the sink's `url`: is it Qdrant that listens there, at its REST port (6333)?"


def guard(points: Sequence[Point]) -> dict[str, Any]:
    """The filter by which a point that is there may be replaced: none of ours is older than it.

    Each item has a revision of its own, and a call has one filter: so it names the ids of each revision. A point
    without `rev` may be replaced.
    """
    ids: dict[int, list[PointId]] = {}
    for point in points:
        ids.setdefault(point.rev, []).append(point.id)
    newer = [{"must": [{"has_id": same}, {"key": "rev", "range": {"gt": rev}}]} for rev, same in ids.items()]
    return {"must_not": newer}


def _parts(points: Sequence[Point]) -> Iterator[tuple[list[Point], str]]:
    """The points in parts whose JSON is small enough for a call, with that JSON."""
    part: list[Point] = []
    texts: list[str] = []
    size = 0
    for point in points:
        text = _point(point)
        length = len(text.encode()) + 1
        if part and size + length > MAX_BODY:
            yield part, ",".join(texts)
            part, texts, size = [], [], 0
        part.append(point)
        texts.append(text)
        size += length
    if part:
        yield part, ",".join(texts)


def _point(point: Point) -> str:
    value = {"id": point.id, "vector": list(point.vector), "payload": point.payload}
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _filter(any_of: AnyOf) -> dict[str, Any]:
    conditions = [{"key": name, "match": {"value": value}} for name, value in any_of.items()]
    return {"filter": {"should": conditions}} if conditions else {}


def _result(answer: Answer) -> Any:
    return answer.body.get("result") if isinstance(answer.body, dict) else None


def _points(result: Any) -> list[Found]:
    if not isinstance(result, list):
        raise SinkError(Trouble.UNREACHABLE, "Qdrant gives no list where points belong", hint=IS_IT_QDRANT)
    return [Found(point["id"], point.get("payload") or {}) for point in result]


def _size(info: dict[str, Any]) -> Any:
    """The size of a collection's vectors; where they have names, or there are none, words for it."""
    vectors = ((info.get("config") or {}).get("params") or {}).get("vectors")
    if isinstance(vectors, dict) and isinstance(vectors.get("size"), int):
        return vectors["size"]
    return f"the names {', '.join(map(str, vectors))}" if isinstance(vectors, dict) and vectors else "another kind"
