"""`mem0`: Mem0's platform, API v3, word for word (`infer: false`: no model rewrites what is stored).

The service drops a text that its scope has already. So an addition that answers with nothing is looked up by our id,
and where another memory is in the way, that is said: two items never share one memory, for who deletes or edits one of
them would take the other along.
"""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import UUID

from replica.cloud.base import (
    Capacity,
    Item,
    Outgoing,
    Remote,
    Setting,
    Settings,
    SinkError,
    Stored,
    Trouble,
    remote,
)
from replica.cloud.http import Answer, Http, said_in
from replica.cloud.sinks.mem0_scopes import (
    SCOPES,
    Record,
    Scope,
    ScopedSink,
    fields_of,
    iso,
    milliseconds,
    record_of,
)

PAGE = 200  # the most that a list gives
FEED_PAGE = 100
ASKED = 50  # ids in one filter
MANY = 20  # from here on one call for all, which answers for all, and a look at what came of it
PAGES = 5_000  # of one list; more is a service that never ends


class Mem0(ScopedSink):
    """One call an item to add (a call's metadata is for all its messages), one call for many to update and delete."""

    type = "mem0"
    settings_of: ClassVar = {
        "url": Setting("where the service is", default="https://api.mem0.ai"),
        "scopes": SCOPES,
    }
    key_name = "MEM0_API_KEY"
    key_needed = True
    batch = 50
    parallel = 4

    patience = 5.0  # seconds
    polls: ClassVar = (0.1, 0.2, 0.4, 0.8, 1.5)  # seconds before each look at an addition that was queued

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._forbidden: float | None = None  # when the first of the last answers was, if they were all 403

    # --- one call

    @cached_property
    def _http(self) -> Http:
        key = self.settings.key
        hint = f"set {self.key_name}, then: replica sinks test {self.settings.name}"
        if not key:
            raise SinkError(Trouble.AUTH, "Mem0 needs a key", hint=hint)
        return Http(
            self.settings["url"] or "https://api.mem0.ai", service="Mem0", secret=key,
            headers={"authorization": f"Token {key}"}, timeout=self.settings.timeout, hint_for_key=hint,
        )  # fmt: skip

    def _call(self, method: str, path: str, body: Any = None, *, allow: tuple[int, ...] = (), **more) -> Answer:
        try:
            answer = self._http.call(method, path, body, allow=allow, **more)
        except SinkError as error:
            if error.status == 403:
                raise self._too_often(error) from None
            raise
        self._forbidden = None
        said = answer.body if isinstance(answer.body, dict) and answer.status < 300 else {}
        if said.get("error") or said.get("status") == "FAILED":
            raise self._error(Trouble.UNREACHABLE, f"answers {answer.status} and yet failed: {said_in(answer)}")
        return answer

    def _too_often(self, error: SinkError) -> SinkError:
        """Mem0 says 403 for too many attempts, too: the first one is no proof against the key."""
        words = str(error).lower()
        now = time.monotonic()
        if self._forbidden is None:
            self._forbidden = now
        # Of several calls at once each may be the first.
        first = now - self._forbidden < self.patience
        if not first and not any(word in words for word in ("too many", "attempts", "rate limit", "throttl")):
            return error
        return SinkError(
            Trouble.THROTTLE, f"{error} (which can mean too many attempts)", status=403,
            hint="run it again in a minute; if it says so again, check the key",
            retry_after=error.retry_after or 60.0,
        )  # fmt: skip

    def _error(self, trouble: Trouble, words: str, **more) -> SinkError:
        return self._http.error(trouble, words, **more)

    def test(self) -> str:
        try:
            body = self._http.call("GET", "/v1/ping/").body
        except SinkError as error:
            raise (
                self._too_often(error) if error.status == 403 and "too many" in str(error).lower() else error
            ) from None
        if not isinstance(body, dict) or body.get("status") not in (None, "ok", "OK"):
            raise self._error(Trouble.UNREACHABLE, "answers to a ping with something else", hint="check the sink's url")
        return f"Mem0 at {self._http.base}, project {body.get('project_id') or 'of the key'}"

    # --- storing

    def _add(self, item: Item, scope: Scope) -> Stored:
        body = self._call("POST", "/v3/memories/add/", {
            "messages": [{"role": "user", "content": item.text}], **dict(scope),
            "metadata": fields_of(item, self.settings.workspace), "infer": False, "timestamp": item.time // 1000,
        }).body  # fmt: skip
        results = self._settled(body)
        made = next((one["id"] for one in results if _is_new(one)), None)
        return Stored(made) if made else self._already(item, scope)

    def _settled(self, body: Any) -> list:
        """The results of an addition, after a while where it was queued."""
        for pause in (*self.polls, None):
            if isinstance(body, list):
                return body
            if not isinstance(body, dict):
                raise self._error(Trouble.UNREACHABLE, "answers to an addition with something else")
            if body.get("status") not in ("PENDING", "RUNNING"):
                return body["results"] if isinstance(body.get("results"), list) else []
            event = body.get("event_id") or body.get("id")
            if pause is None or not isinstance(event, str):
                break
            time.sleep(pause)
            body = self._call("GET", f"/v1/event/{quote(event, safe='')}/").body
        raise self._error(
            Trouble.THROTTLE, "has taken it and has not stored it yet", retry_after=30.0,
            hint="run it again later; it is looked for before it is sent again",
        )  # fmt: skip

    def _already(self, item: Item, scope: Scope) -> Stored:
        """Why nothing was added. Ours, of an earlier run: it is brought up to date. Anything else stays as it is."""
        for record in self._listed(_within(scope, {"metadata": {"replica_id": str(item.id)}})):
            if record.item == str(item.id):
                self._put(record.id, item)
                return Stored(record.id)
        where = " ".join(f"{entity}={name}" for entity, name in scope)
        for record in self._listed(_within(scope, {"metadata": {"sha256": item.hash}})):
            twin = record.fields.get("document") or "another workspace"
            raise self._error(
                Trouble.BAD_ITEM, f"keeps a text once in a scope, and {where} has this one already, from {twin}",
                hint='give the documents scopes of their own (scopes = { "*" = "{project}-{document}" }), or take one '
                "of the two out; then export with --force",
            )  # fmt: skip
        raise self._error(
            Trouble.CONFLICT, f"stored nothing: somebody else's memory in {where} has the same text, it seems",
            hint="run `replica pull`, then export again",
        )  # fmt: skip

    def _put(self, id: str, item: Item) -> None:
        self._call("PUT", f"/v1/memories/{quote(id, safe='')}/", self._content(item))

    def _content(self, item: Item) -> dict[str, Any]:
        # Whether the service merges metadata or replaces it is not documented: it gets all of it.
        return {"text": item.text, "metadata": fields_of(item, self.settings.workspace)}

    def _put_many(self, pairs: Sequence[tuple[Outgoing, Record]]) -> dict[UUID, Stored]:
        if len(pairs) < MANY:
            return {}
        body = {"memories": [{"memory_id": record.id, **self._content(out.item)} for out, record in pairs]}
        if not self._many("PUT", body):
            return {}
        now = self._read([record.id for _, record in pairs])
        return {
            out.item.id: Stored(record.id)
            for out, record in pairs
            if (got := now.get(record.id)) and (got.text, got.fields.get("hash")) == (out.item.text, out.item.hash)
        }

    def _many(self, method: str, body: Any) -> bool:
        """One call for many memories. False: the service refuses them all for one of them."""
        try:
            self._call(method, "/v1/batch/", body)
        except SinkError as error:
            if error.trouble in (Trouble.BAD_ITEM, Trouble.GONE, Trouble.CONFLICT, Trouble.TOO_BIG):
                return False
            raise
        return True

    def _remove(self, id: str) -> None:
        self._call("DELETE", f"/v1/memories/{quote(id, safe='')}/", allow=(404,))

    def _remove_many(self, ids: Sequence[str]) -> set[str]:
        if len(ids) < MANY or not self._many("DELETE", {"memories": [{"memory_id": id} for id in ids]}):
            return set(ids)
        return set(self._by_ids(ids))

    # --- looking

    def _read(self, ids: Sequence[str]) -> dict[str, Record]:
        found = self._by_ids(ids)
        # A list may be late, or hide what the service has merged: none is gone before it was asked for by itself.
        for id in ids:
            if id not in found:
                answer = self._call("GET", f"/v1/memories/{quote(id, safe='')}/", allow=(400, 404))
                if answer.status < 300:
                    found[id] = self._record(answer.body)
        return found

    def _by_ids(self, ids: Sequence[str]) -> dict[str, Record]:
        lists = (self._listed({"AND": [{"memory_ids": list(some)}]}) for some in _chunks(ids))
        return {record.id: record for records in lists for record in records}

    def _mine(self, ids: Sequence[UUID]) -> list[Record]:
        wanted = {str(id) for id in ids}
        return [
            record
            for condition in self._conditions(ids)
            for record in self._listed({"AND": [self._anywhere, condition]})
            if record.item in wanted and record.fields.get("origin") == self.settings.workspace
        ]

    def _conditions(self, ids: Sequence[UUID]) -> Iterator[dict]:
        """Filters that find these items: of all of the workspace, or by their ids, whichever takes fewer pages."""
        ours = {"metadata": {"origin": self.settings.workspace}}
        if len(ids) > ASKED and self._page({"AND": [self._anywhere, ours]}, 1, 1)[1] / PAGE <= len(ids) / ASKED:
            yield ours
            return
        for some in _chunks(ids):
            yield {"OR": [{"metadata": {"replica_id": str(id)}} for id in some]}

    @property
    def _anywhere(self) -> dict:
        entities = sorted({scope[0][0] for scope in self.scopes.named()} | {"user_id"}, reverse=True)
        return {"OR": [{entity: "*"} for entity in entities]}

    def _list(self, scope: Scope, since: int | None = None) -> Iterator[Record]:
        return self._listed(_within(scope, *([] if since is None else [{"updated_at": {"gte": iso(since)}}])))

    def _holds_ours(self, scope: Scope) -> bool:
        mine = _within(scope, {"metadata": {"origin": self.settings.workspace}})
        return bool(self._page(mine, 1, 1)[0])

    def _listed(self, filters: dict) -> Iterator[Record]:
        """All that a filter finds. Raises SinkError where the service counts more than it gives, twice."""
        for _ in range(2):
            records: dict[str, Record] = {}
            count = 0
            for page in range(1, PAGES):
                rows, count, more = self._page(filters, page, PAGE)
                records.update((record.id, record) for record in rows)
                if not more:
                    break
            # What is added or deleted meanwhile can move a memory from one page to another.
            if len(records) >= count:
                return iter(records.values())
        raise self._error(
            Trouble.UNREACHABLE, f"counts {count:,} memories and lists {len(records):,}: the list is not complete",
            hint="run it again later; nothing was concluded from the part",
        )  # fmt: skip

    def _page(self, filters: dict, page: int, size: int) -> tuple[list[Record], int, bool]:
        # Expired and merged memories are hidden, not deleted: they are listed, so that none is taken for deleted.
        answer = self._call(
            "POST", "/v3/memories/", {"filters": filters, "show_expired": True, "include_merged": True},
            query={"page": page, "page_size": size}, allow=(404,) if page > 1 else (),
        )  # fmt: skip
        if answer.status == 404:
            return [], 0, False
        body = answer.body
        if not isinstance(body, dict) or not isinstance(body.get("results"), list):
            raise self._error(Trouble.UNREACHABLE, "answers to a list with something else")
        count = body.get("count")
        return (
            [self._record(row) for row in body["results"]],
            count if isinstance(count, int) else 0,
            bool(body.get("next")),
        )

    def _record(self, row: Any) -> Record:
        try:
            return record_of(row)
        except (KeyError, TypeError, AttributeError):
            raise self._error(Trouble.UNREACHABLE, "tells of a memory that has no id or no text") from None

    def _names(self) -> list[tuple[str, str]]:
        names = []
        for page in range(1, PAGES):
            body = self._call("GET", "/v1/entities/", query={"page": page}).body
            rows = body.get("results") if isinstance(body, dict) else body
            if not isinstance(rows, list):
                raise self._error(Trouble.UNREACHABLE, "answers to a list of its users with something else")
            names += [
                (f"{row.get('type') or 'user'}_id", str(row["name"]))
                for row in rows
                if isinstance(row, dict) and row.get("name")
            ]
            if not (isinstance(body, dict) and body.get("next")):
                break
        return names

    # --- pulling

    def changes(self, since: int | None) -> Iterator[Remote]:
        yield from super().changes(since)
        if since is not None:
            yield from self._deleted(since)

    def _deleted(self, since: int) -> Iterator[Remote]:
        """From the feed of the whole project: the only word of what was deleted. It names no scope and has no order."""
        seen: set[str] = set()
        for page in range(1, PAGES):
            answer = self._call("GET", "/v1/memories/events/", query={"page": page, "limit": FEED_PAGE}, allow=(404,))
            body = answer.body if answer.status < 300 else []
            rows = body.get("results") if isinstance(body, dict) else body
            if not isinstance(rows, list):
                raise self._error(Trouble.UNREACHABLE, "answers to a list of changes with something else")
            new = {str(row.get("id") or row) for row in rows if isinstance(row, dict)} - seen
            if not new:
                break
            seen |= new
            for row in rows:
                if not isinstance(row, dict) or row.get("event") != "DELETE" or not row.get("memory_id"):
                    continue
                at = milliseconds(row.get("created_at"))
                if at is None or at >= since:
                    yield remote(str(row["memory_id"]), "", row.get("metadata"), at, deleted=True)

    def capacity(self) -> Capacity:
        """Of the whole project: the service does not count scopes, and tells no limit."""
        body = self._call("GET", "/v1/stats/").body
        total = body.get("total_memories") if isinstance(body, dict) else None
        return Capacity(total if isinstance(total, int) else None)

    def close(self) -> None:
        if "_http" in self.__dict__:
            self._http.close()


def _is_new(result: Any) -> bool:
    return (
        isinstance(result, dict) and isinstance(result.get("id"), str) and bool(result["id"])
        and result.get("event", "ADD") == "ADD"
    )  # fmt: skip


def _within(scope: Scope, *conditions: dict) -> dict:
    return {"AND": [{entity: name} for entity, name in scope] + list(conditions)}


def _chunks(ids: Sequence) -> Iterator[Sequence]:
    return (ids[at : at + ASKED] for at in range(0, len(ids), ASKED))
