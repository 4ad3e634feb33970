"""`pinecone`: an index of the vectors API, in the cloud.

A record has our id, so storing twice is storing once. Writes are acknowledged before reads show them: what is read
back waits behind a fence (`_fence`), or says that it cannot be told yet. Sources: docs.pinecone.io, API 2026-07.
"""

import json
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar
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
from replica.cloud.http import Answer, Http, safe_url, said_in

API = "2026-07"
CONTROLLER = "https://api.pinecone.io"
MAX_CALL = 2_000_000  # bytes of one upsert
MAX_RECORDS = 1000  # of one upsert or delete
MAX_METADATA = 40_000  # bytes beside one vector
PAGE = 100  # ids that one list gives
MAX_HALVINGS = 24  # of the calls of one `store` that the service refused for one of their records

# Where a write stands in the log of its namespace, and how far a read has seen it; the older names after the newer.
WRITTEN = ("x-pinecone-request-lsn", "x-pinecone-lsn-committed")
SEEN = ("x-pinecone-max-indexed-lsn", "x-pinecone-lsn-reconciled")
FENCE = "replica-fence"  # the id of a record that never was: taking it away is a write that changes nothing
NOTE = "searches there see it some seconds later"

# How a plan that is used up, and a call that is too big, are told apart from their statuses' other uses.
USED_UP = re.compile(r"month|quota|storage|upgrade|plan", re.I)
OVERSIZED = re.compile(r"request size|message length|too large|exceeds the (limit|maximum)", re.I)


class Pinecone(Sink):
    """Records of one index; a scope's namespace is a namespace there."""

    type = "pinecone"
    apart = True
    settings_of: ClassVar = {
        "url": Setting("the index's host, https://…; or set index"),
        "index": Setting("the index's name, of which Pinecone is asked where it is"),
        "namespace": Setting("the namespace; the project's name where it is not set"),
        "controller": Setting("where indexes are asked for", default=CONTROLLER),
    }
    key_name = "PINECONE_API_KEY"
    key_needed = True
    wants_vectors = True
    reads_back = True
    batch = MAX_RECORDS
    parallel = 4
    pauses: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0)  # seconds between looks at what is still stale

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._lock = threading.Lock()
        self._written: dict[str, int] = {}  # namespace -> the last write of this process
        self._seen: dict[str, int] = {}

    @property
    def namespace(self) -> str:
        return (self.settings["namespace"] or self.settings.project or f"replica-{self.settings.workspace[:8]}")[:512]

    @cached_property
    def _http(self) -> Http:
        """Calls to the index. Asks where it is, if only its name is known."""
        if not self.settings.key:
            raise SinkError(
                Trouble.AUTH, "there is no key for Pinecone",
                hint=f"set {self.key_name}, then: replica sinks test {self.settings.name}",
            )  # fmt: skip
        if self.settings["url"]:
            return self._to(self.settings["url"])
        name = self.settings["index"]
        if not name:
            raise SinkError(
                Trouble.GONE, f"the sink {self.settings.name} names no index of Pinecone",
                hint="set its url (the index's host) or index (its name)",
            )  # fmt: skip
        asked = self._to(self.settings["controller"] or CONTROLLER)
        try:
            answer = asked.call("GET", f"/indexes/{name}", allow=(404,))
            host = answer.body.get("host") if isinstance(answer.body, dict) else None
            if answer.status == 404:
                raise asked.error(
                    Trouble.GONE,
                    f"has no index {name!r}",
                    status=404,
                    hint=f"make one {self._fitting()}, or correct it",
                )
            if not isinstance(host, str) or not host:
                raise asked.error(Trouble.UNREACHABLE, f"does not say where the index {name!r} is; it may still start")
        finally:
            asked.close()
        return self._to(host)

    def _to(self, url: str) -> Http:
        key = self.settings.key
        return Http(
            safe_url(url, "Pinecone"), service="Pinecone", secret=key, timeout=self.settings.timeout,
            headers={"api-key": key or "", "x-pinecone-api-version": API},
            hint_for_key=f"check {self.key_name}, then: replica sinks test {self.settings.name}",
        )  # fmt: skip

    def _fitting(self) -> str:
        size = self.settings.dimension
        return "for dense vectors" + (f" of dimension {size}, metric cosine" if size else "")

    # --- what all sinks do

    def test(self) -> str:
        stats = self._stats()
        self._check(stats)
        count = _counts(stats).get(self.namespace, 0)
        return f"Pinecone, {self._http.base}: {count:,} records in the namespace {self.namespace}"

    def prepare(self) -> None:
        self._check(self._stats())

    def _check(self, stats: dict) -> None:
        """Raises SinkError: the index cannot hold our vectors."""
        there, ours = stats.get("dimension"), self.settings.dimension
        if stats.get("vectorType") == "sparse" or (ours and isinstance(there, int) and there != ours):
            what = "sparse vectors" if stats.get("vectorType") == "sparse" else f"vectors of dimension {there}"
            raise self._http.error(
                Trouble.CONFLICT, f"has an index of {what}; the embedder {self.settings.embedder} makes {ours}",
                hint=f"use an index {self._fitting()}, or the embedder that this one was made for",
            )  # fmt: skip

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        outcomes: dict[UUID, Outcome] = {}
        records: dict[str, list[tuple[UUID, bytes]]] = {}
        for out in batch:
            made = self._record(out)
            if isinstance(made, SinkError):
                outcomes[out.item.id] = made
            else:
                records.setdefault(out.item.namespace or self.namespace, []).append((out.item.id, made))
        calls = [(namespace, some) for namespace, all in records.items() for some in _in_calls(all)]
        self._store_calls(calls, outcomes)
        return [outcomes[out.item.id] for out in batch]

    def _store_calls(self, calls: list[tuple[str, list[tuple[UUID, bytes]]]], outcomes: dict[UUID, Outcome]) -> None:
        """Fill in what became of each. Raises SinkError: the first call failed in a way that all would."""
        halvings, calls = 0, calls[::-1]
        while calls:
            namespace, some = calls.pop()
            try:
                self._upsert(namespace, [record for _, record in some])
                outcomes.update((id, Stored(str(id), NOTE)) for id, _ in some)
            except SinkError as error:
                if error.trouble not in (Trouble.BAD_ITEM, Trouble.TOO_BIG):
                    if not any(isinstance(one, Stored) for one in outcomes.values()):
                        raise
                    outcomes.update((id, error) for _, rest in [(namespace, some), *calls] for id, _ in rest)
                    return
                if len(some) == 1:
                    outcomes[some[0][0]] = error
                elif halvings < MAX_HALVINGS:
                    # One record makes the whole call fail, and is found by halves.
                    halvings, half = halvings + 1, len(some) // 2
                    calls += [(namespace, some[half:]), (namespace, some[:half])]
                else:
                    outcomes.update((id, self._left(error)) for id, _ in some)

    def _left(self, error: SinkError) -> SinkError:
        """It was refused along with others, and may be without fault."""
        return self._http.error(Trouble.THROTTLE, f"refused too many records at once; the first: {error}")

    def _record(self, out: Outgoing) -> bytes | SinkError:
        """As it goes onto the wire, or why it cannot: what Pinecone would refuse the whole call for."""
        item, vector = out.item, out.vector
        if not vector or not all(map(math.isfinite, vector)) or not any(vector):
            return SinkError(
                Trouble.BAD_ITEM, f"{item.document}: Pinecone needs a vector that is not zero",
                hint="see `replica sinks` for the embedder; an item without words has no vector",
            )  # fmt: skip
        if self.settings.dimension and len(vector) != self.settings.dimension:
            return SinkError(
                Trouble.BAD_ITEM, f"{item.document}: a vector of {len(vector)} numbers, not {self.settings.dimension}",
                hint="export again: vectors of another embedder are made anew",
            )  # fmt: skip
        beside = _json(self._beside(item))
        if len(beside) > MAX_METADATA:
            return SinkError(
                Trouble.TOO_BIG, f"{item.document}: {len(beside):,} bytes; a record at Pinecone holds {MAX_METADATA:,}",
                hint="split the entry or the section",
            )  # fmt: skip
        # 9 digits are a float of 32 bits, which is what it keeps.
        values = ",".join([f"{value:.9g}" for value in vector])
        return b'{"id":"%s","values":[%s],"metadata":%s}' % (str(item.id).encode(), values.encode(), beside)

    def _beside(self, item: Item) -> dict[str, Any]:
        """Tags as a list, so that they can be filtered by; an empty one is left out."""
        fields: dict[str, Any] = dict(metadata(item, self.settings.workspace), text=item.text)
        fields["tags"] = [tag[:100] for tag in item.tags[:50]]
        return {name: value for name, value in fields.items() if value not in ("", [])}

    def _upsert(self, namespace: str, records: list[bytes]) -> None:
        raw = b'{"namespace":%s,"vectors":[%s]}' % (_json(namespace), b",".join(records))
        answer = self._call("POST", "/vectors/upsert", raw=raw)
        count = answer.body.get("upsertedCount") if isinstance(answer.body, dict) else None
        if count != len(records):
            raise self._http.error(Trouble.UNREACHABLE, f"says that it stored {count} of {len(records)} records")
        self._wrote(namespace, answer)

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        by_namespace: dict[str, list[str]] = {}
        for known in batch:
            by_namespace.setdefault(known.namespace or self.namespace, []).append(known.remote_id)
        for namespace, ids in by_namespace.items():
            for at in range(0, len(ids), MAX_RECORDS):
                self._wrote(namespace, self._take(namespace, ids[at : at + MAX_RECORDS]))
        return [Stored(known.remote_id) for known in batch]

    def _take(self, namespace: str, ids: list[str]) -> Answer:
        """404: there is no such namespace, and nothing to take away."""
        return self._call("POST", "/vectors/delete", {"ids": ids, "namespace": namespace}, allow=(404,))

    def capacity(self) -> Capacity:
        """Of the whole index, for that is what fills up. A limit is told by indexes on pods alone."""
        stats = self._stats()
        items, full = stats.get("totalVectorCount"), stats.get("indexFullness")
        if not isinstance(items, int):
            return Capacity()
        limit = round(items / full) if isinstance(full, int | float) and full > 0 else None
        return Capacity(items, limit)

    def layers(self) -> list[Layer]:
        with self._lock:
            written, seen = dict(self._written), dict(self._seen)
        names = sorted(written) or [self.namespace]
        return [
            Layer("vector store", name, "pending", NOTE)
            if written.get(name, 0) > seen.get(name, 0)
            else Layer("vector store", name)
            for name in names
        ]

    def close(self) -> None:
        if "_http" in self.__dict__:
            self._http.close()

    # --- reading back

    def changes(self, since: int | None) -> Iterator[Remote]:
        """All, whatever `since` is: Pinecone keeps no time, and an edit there need not change ours."""
        for namespace in self._namespaces():
            ids, mark = self._ids(namespace)
            for at in range(0, len(ids), PAGE):
                query = [("ids", id) for id in ids[at : at + PAGE]] + [("namespace", namespace)]
                answer = self._read(namespace, mark, "GET", "/vectors/fetch", query=query)
                for id, record in _dict(_dict(answer.body).get("vectors")).items():
                    fields = _dict(_dict(record).get("metadata"))
                    if isinstance(text := fields.get("text"), str):
                        yield remote(id, text, fields, None)

    def present(self) -> set[str]:
        return {id for namespace in self._namespaces() for id in self._ids(namespace)[0]}

    def _namespaces(self) -> list[str]:
        """Ours, those written to by now, and all that hold something of this workspace: those of its scopes."""
        with self._lock:
            known = {self.namespace, *self._written}
        others = [name for name in _counts(self._stats()) if name not in known]
        return sorted(known) + [name for name in others if self._holds_ours(name)]

    def _holds_ours(self, namespace: str) -> bool:
        body = {"namespace": namespace, "filter": {"origin": {"$eq": self.settings.workspace}}, "limit": 1}
        return bool(_dict(self._call("POST", "/vectors/fetch_by_metadata", body).body).get("vectors"))

    def _ids(self, namespace: str) -> tuple[list[str], int | None]:
        """All ids of a namespace, and the mark of what reads have to have seen. Raises SinkError: not all are told.

        That they are all is known from the count of the index. It may be older, or newer, than the list: then both are
        asked again.
        """
        mark, ids, count = self._fence(namespace), [], 0
        for pause in (*self.pauses, None):
            ids = self._list(namespace, mark)
            count = _counts(self._stats()).get(namespace, 0)
            if len(ids) >= count:
                return ids, mark
            if pause is not None:
                time.sleep(pause)
        raise self._http.error(
            Trouble.UNREACHABLE, f"lists {len(ids):,} of the {count:,} records in the namespace {namespace}",
            hint="its list and its count are some seconds behind after changes: pull again in a minute",
        )  # fmt: skip

    def _list(self, namespace: str, mark: int | None) -> list[str]:
        ids: dict[str, None] = {}
        tokens: set[str | None] = set()
        token = None
        while token not in tokens:
            tokens.add(token)
            query = {"namespace": namespace, "limit": PAGE, **({"paginationToken": token} if token else {})}
            body = _dict(self._read(namespace, mark, "GET", "/vectors/list", query=query).body)
            ids.update((one["id"], None) for one in body.get("vectors") or [] if isinstance(_dict(one).get("id"), str))
            token = _dict(body.get("pagination")).get("next")
            if not token:
                return list(ids)
        raise self._http.error(Trouble.UNREACHABLE, "gives the same page of its list again and again")

    def _fence(self, namespace: str) -> int | None:
        """Wait until searches show whatever was acknowledged before now, to anybody. Its mark; None: there is none.

        Taking away a record that never was gets the next number of the namespace's log; what has seen that number has
        seen all before it, whoever wrote it. A list and a fetch do not always tell how far they have seen, a search
        does. Raises SinkError: it takes too long.
        """
        answer = self._take(namespace, [FENCE])
        mark = _number(answer, WRITTEN)
        size = self._stats().get("dimension") or self.settings.dimension
        if answer.status == 404 or mark is None or not size:
            return None
        body = {"namespace": namespace, "topK": 1, "vector": [1.0] + [0.0] * (size - 1)}
        self._read(namespace, mark, "POST", "/query", body)
        return mark

    def _read(self, namespace: str, mark: int | None, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """An answer that is not older than the mark, as far as it tells."""
        for pause in (*self.pauses, None):
            answer = self._call(method, path, body, **more)
            seen = _number(answer, SEEN)
            if seen is not None:
                with self._lock:
                    self._seen[namespace] = max(seen, self._seen.get(namespace, 0))
            if mark is None or seen is None or seen >= mark:
                return answer
            if pause is not None:
                time.sleep(pause)
        raise self._http.error(
            Trouble.UNREACHABLE, f"does not yet show what was written last in the namespace {namespace}",
            hint="pull again in a minute; nothing is decided on what is stale",
        )  # fmt: skip

    # --- calls

    def _wrote(self, namespace: str, answer: Answer) -> None:
        number = _number(answer, WRITTEN) or 0
        with self._lock:
            self._written[namespace] = max(number, self._written.get(namespace, 0))

    def _stats(self) -> dict:
        body = self._call("POST", "/describe_index_stats", {}).body
        if not isinstance(body, dict) or not isinstance(body.get("namespaces", {}), dict):
            raise self._http.error(Trouble.UNREACHABLE, "gave something else than the numbers of an index")
        return body

    def _call(self, method: str, path: str, body: Any = None, *, allow: tuple[int, ...] = (), **more: Any) -> Answer:
        http = self._http
        answer = http.call(method, path, body, allow=(400, 403, 404, 429, *allow), **more)
        if answer.status < 300 or answer.status in allow:
            return answer
        trouble, said = None, said_in(answer)
        if answer.status == 400 and OVERSIZED.search(said):
            trouble = Trouble.TOO_BIG
        elif answer.status in (403, 429) and USED_UP.search(said):
            trouble = Trouble.QUOTA
        if trouble is None:
            raise http.refused(answer)
        raise http.error(trouble, f"answers {answer.status}: {said}", status=answer.status)


def _in_calls(records: list[tuple[UUID, bytes]]) -> Iterator[list[tuple[UUID, bytes]]]:
    """As many as go into one call, by number and by bytes."""
    call: list[tuple[UUID, bytes]] = []
    size = room = MAX_CALL - 2_000  # for the namespace and what is around
    for id, record in records:
        if call and (len(call) == MAX_RECORDS or size < len(record) + 1):
            yield call
            call, size = [], room
        call.append((id, record))
        size -= len(record) + 1
    if call:
        yield call


def _counts(stats: dict) -> dict[str, int]:
    """Records by namespace. The default one has no name in some answers."""
    counts = {name: _dict(one).get("vectorCount", 0) for name, one in _dict(stats.get("namespaces")).items()}
    return {name or "__default__": count if isinstance(count, int) else 0 for name, count in counts.items()}


def _number(answer: Answer, names: tuple[str, ...]) -> int | None:
    for name in names:
        if answer.headers.get(name, "").isdigit():
            return int(answer.headers[name])
    return None


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
