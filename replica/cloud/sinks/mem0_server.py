"""`mem0-server`: Mem0's own server, run by oneself, word for word (`infer: false`).

It drops no twins, merges metadata instead of replacing it, and lists at most a thousand memories of a scope, without a
second page.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import UUID

from replica.cloud.base import Capacity, Item, Setting, Settings, SinkError, Stored, Trouble
from replica.cloud.http import Answer, Http, retry_after
from replica.cloud.sinks.mem0_scopes import SCOPES, Record, Scope, ScopedSink, fields_of, iso, record_of

MOST = 1000  # rows of one list; there is no second page
OLD_MOST = 100  # of a server without /entities, whatever is asked for
SCANNED = 10_000  # memories that the server looks at to count those of each scope

# What stands in a 502: the trouble of what is behind the server.
CODES = {
    "provider_auth_failed": (
        Trouble.AUTH,
        "the server's own key for its embedder is refused: see the server's settings",
    ),
    "provider_rate_limited": (Trouble.THROTTLE, None),
    "provider_bad_request": (Trouble.BAD_ITEM, None),
}

Counts = dict[tuple[str, str], int | None]  # (entity, name) -> memories; None: not known


class Mem0Server(ScopedSink):
    """One call an item, for all there is: the server knows no batches."""

    type = "mem0-server"
    settings_of: ClassVar = {
        "url": Setting("where the server is, such as http://localhost:8888", required=True),
        "scopes": SCOPES,
    }
    key_name = "MEM0_SERVER_API_KEY"
    batch = 20
    parallel = 2

    def __init__(self, settings: Settings):
        super().__init__(settings, ("user_id", "agent_id", "run_id"))

    @cached_property
    def _http(self) -> Http:
        key = self.settings.key
        return Http(
            self.settings["url"], service="the Mem0 server", secret=key, timeout=self.settings.timeout,
            headers={"x-api-key": key} if key else {},
            hint_for_key=f"set {self.key_name}, then: replica sinks test {self.settings.name}",
        )  # fmt: skip

    def _call(self, method: str, path: str, body: Any = None, *, allow: tuple[int, ...] = (), **more) -> Answer:
        answer = self._http.call(method, path, body, allow=(*allow, 502), **more)
        if answer.status == 502:
            raise self._behind(answer)
        return answer

    def _behind(self, answer: Answer) -> SinkError:
        """A throttled provider, too, comes as a 502."""
        code = answer.body.get("code") if isinstance(answer.body, dict) else None
        trouble, hint = CODES.get(str(code), (Trouble.UNREACHABLE, None))
        said = answer.body.get("detail") if isinstance(answer.body, dict) else None
        return self._error(
            trouble, f"answers 502 ({code or 'no code'}): {str(said or 'no reason given')[:300]}", hint=hint,
            status=502, retry_after=retry_after(answer.headers, answer.body),
        )  # fmt: skip

    def _error(self, trouble: Trouble, words: str, **more) -> SinkError:
        return self._http.error(trouble, words, **more)

    def test(self) -> str:
        self._rows(self.scopes.named()[0] if self.scopes.named() else (("user_id", self.settings.project),), 1)
        return f"Mem0 server at {self._http.base}"

    # --- storing

    def _add(self, item: Item, scope: Scope) -> Stored:
        body = self._call("POST", "/memories", {
            "messages": [{"role": "user", "content": item.text}], **dict(scope), "infer": False,
            # It dates the memory, and `updated_at` with it.
            "metadata": fields_of(item, self.settings.workspace) | {"created_at": iso(item.time)},
        }).body  # fmt: skip
        results = body.get("results") if isinstance(body, dict) else None
        made = [one["id"] for one in results or [] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        if not made:
            raise self._error(Trouble.UNREACHABLE, "answers to an addition without an id")
        return Stored(made[0])

    def _put(self, id: str, item: Item) -> None:
        # Keys are merged: one that the item has no more can only be emptied.
        fields = {"namespace": "", **fields_of(item, self.settings.workspace)}
        self._call("PUT", f"/memories/{quote(id, safe='')}", {"text": item.text, "metadata": fields})

    def _remove(self, id: str) -> None:
        self._call("DELETE", f"/memories/{quote(id, safe='')}", allow=(404,))

    # --- looking

    def _read(self, ids: Sequence[str]) -> dict[str, Record]:
        found = {}
        for id in ids:
            if not _is_uuid(id):
                continue  # the server's answer would be a 502
            answer = self._call("GET", f"/memories/{quote(id, safe='')}", allow=(404,))
            if answer.status < 300 and answer.body is not None:
                found[id] = self._record(answer.body)
        return found

    def _mine(self, ids: Sequence[UUID]) -> list[Record]:
        """From the lists, and by a search an item in scopes that are too long for a list."""
        if not ids:
            return []
        wanted = {str(id) for id in ids}
        counts = self._counts()
        found: list[Record] = []
        for scope in self.scopes.named() + self.scopes.like(counts):
            try:
                found += self._complete(scope, counts)
            except SinkError as error:
                if error.trouble is not Trouble.TOO_BIG:
                    raise
                for id in sorted(wanted):
                    found += self._search(scope, {"replica_id": id})
        mine = {
            record.id: record
            for record in found
            if record.item in wanted and record.fields.get("origin") == self.settings.workspace
        }
        return list(mine.values())

    def _search(self, scope: Scope, fields: dict[str, str], most: int = 20) -> list[Record]:
        body = {"query": "memory", "filters": dict(scope) | fields, "top_k": most, "threshold": 0.0}
        return self._records(self._call("POST", "/search", body).body)

    def _list(self, scope: Scope, since: int | None = None) -> Iterator[Record]:
        # All of it, whatever `since` says: an addition may be dated back, and many stores cannot compare times.
        return iter(self._complete(scope, self._counts()))

    def _complete(self, scope: Scope, counts: Counts) -> list[Record]:
        """Raises SinkError where the list is cut short, or may be."""
        records = self._rows(scope, MOST)
        count = counts.get(scope[0]) if len(scope) == 1 else None
        most = MOST if counts else OLD_MOST
        if (len(records) < most and (count or 0) <= len(records)) or count == len(records):
            return records
        where = " ".join(f"{entity}={name}" for entity, name in scope)
        raise self._error(
            Trouble.TOO_BIG,
            f"lists at most {most:,} memories of a scope, and {where} has more: it cannot be read whole",
            hint='split the scope: scopes = { "*" = "{project}-{document}" } in replica.toml',
        )  # fmt: skip

    def _rows(self, scope: Scope, most: int) -> list[Record]:
        query = {**dict(scope), "top_k": most, "show_expired": "true"}
        return self._records(self._call("GET", "/memories", query=query).body)

    def _records(self, body: Any) -> list[Record]:
        rows = body.get("results") if isinstance(body, dict) else body
        if not isinstance(rows, list):
            raise self._error(Trouble.UNREACHABLE, "answers to a list with something else")
        return [self._record(row) for row in rows]

    def _record(self, row: Any) -> Record:
        try:
            return record_of(row)
        except (KeyError, TypeError, AttributeError):
            raise self._error(Trouble.UNREACHABLE, "tells of a memory that has no id or no text") from None

    def _counts(self) -> Counts:
        """How many memories each id has. An older server does not say; one with more than it looks at does not know."""
        answer = self._call("GET", "/entities", allow=(403, 404))
        rows = answer.body if answer.status < 300 and isinstance(answer.body, list) else []
        counts: Counts = {
            (f"{row.get('type')}_id", str(row.get("id"))): row.get("total_memories")
            for row in rows
            if isinstance(row, dict)
        }
        scanned = sum(count or 0 for (entity, _), count in counts.items() if entity == "user_id")
        return counts if scanned < SCANNED else dict.fromkeys(counts)

    def _names(self) -> list[tuple[str, str]]:
        counts = self._counts()
        if counts and not any(counts.values()):
            raise self._error(
                Trouble.TOO_BIG, f"looks at {SCANNED:,} memories to tell its scopes, and has more: some may be missing",
                hint="give this workspace a server of its own; export works as before",
            )  # fmt: skip
        return list(counts)

    def _holds_ours(self, scope: Scope) -> bool:
        return bool(self._search(scope, {"origin": self.settings.workspace}, 1))

    def capacity(self) -> Capacity:
        """Of the scopes of this project."""
        counts = self._counts()
        if not any(counts.values()):
            return Capacity()
        return Capacity(sum(counts.get(scope[0]) or 0 for scope in self.scopes.named() if len(scope) == 1))

    def close(self) -> None:
        if "_http" in self.__dict__:
            self._http.close()


def _is_uuid(id: str) -> bool:
    try:
        return str(UUID(id)) == id.lower()
    except ValueError:
        return False
