"""`openmemory`: a local OpenMemory, by its backups: the one way in that keeps ids, and embeds again what has changed.

Its PUT changes the database and leaves the old text in the vectors, and its POST asks a model for every memory. What is
imported gets an id made of ours and of the user's name: of one id that two users have, the service would make a new one
at every import.
"""

import io
import json
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar
from uuid import UUID, uuid5

from replica.cloud.base import (
    Capacity,
    Item,
    Known,
    Layer,
    Outcome,
    Outgoing,
    Remote,
    Setting,
    Sink,
    Stored,
    Trouble,
    metadata,
    remote,
)
from replica.cloud.http import Answer, Http, said_in
from replica.cloud.sinks.mem0_scopes import iso, milliseconds

URL = "http://localhost:8765"
APP = "openmemory"  # where an import puts everything
MEMBER = "memories.json"
MAX_BACKUP = 512_000_000  # bytes of what is in a backup
SLOW = 15.0  # seconds that one memory takes where the server's model for categories does not answer


class OpenMemory(Sink):
    """Each batch is a backup with the items in it, read in over what is there."""

    type = "openmemory"
    settings_of: ClassVar = {
        "url": Setting("where OpenMemory is", default=URL),
        "user_id": Setting("the user whose memories these are; the server has to know him", required=True),
        "app": Setting("pull what this app has written, and what we have; left out: what all apps have"),
    }
    reads_back = True
    batch = 20

    def _client(self, timeout: float) -> Http:
        return Http(self.settings["url"] or URL, service="OpenMemory", timeout=timeout, connections=2)

    @cached_property
    def _http(self) -> Http:
        return self._client(self.settings.timeout)

    @cached_property
    def _importer(self) -> Http:
        return self._client(max(self.settings.timeout, SLOW * self.batch))

    @property
    def user(self) -> str:
        return self.settings["user_id"]

    def _call(self, method: str, path: str, body: Any = None, *, allow: tuple[int, ...] = (), **more) -> Answer:
        return self._checked(self._http.call(method, path, body, allow=(*allow, 404), **more), allow)

    def _checked(self, answer: Answer, allow: tuple[int, ...] = ()) -> Answer:
        """OpenMemory says 200 where its vectors or its model fail, and 404 for a user whom it does not know."""
        said = answer.body if isinstance(answer.body, dict) else {}
        if answer.status == 404 and "user" in str(said.get("detail")).lower():
            raise self._http.error(
                Trouble.AUTH, f"knows no user {self.user!r}",
                hint="it makes the user named by USER when it starts, and those of its MCP clients: set user_id to one",
            )  # fmt: skip
        if answer.status == 404 and 404 not in allow:
            raise self._http.refused(answer)
        if answer.status < 300 and said.get("error"):
            raise self._http.error(Trouble.UNREACHABLE, f"answers {answer.status} and yet failed: {said_in(answer)}")
        return answer

    def test(self) -> str:
        count = self.capacity().items
        if count is None:
            raise self._http.error(Trouble.UNREACHABLE, "answers with something else", hint="check the sink's url")
        return f"OpenMemory at {self._http.base}: {count:,} memories of {self.user}"

    # --- storing

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        records = []
        for out in batch:
            state = self._state(out.remote_id) if out.remote_id else "active"
            if state in (None, "deleted"):
                gone = f"has lost a memory: {out.remote_id} is not there any more"
                outcomes.append(self._http.error(Trouble.GONE, gone))
                continue
            id = out.remote_id or self._id(out.item)
            records.append(self._record(id, out.item, state))
            outcomes.append(Stored(id))
        if records:
            self._import(records)
        return outcomes

    def _id(self, item: Item) -> str:
        return str(uuid5(item.id, self.user))

    def _state(self, id: str) -> str | None:
        """active, paused, archived or deleted; None: unknown there. An import would set it: it has to be given back."""
        state = self._row(id).get("state")
        return state if isinstance(state, str) else None

    def _row(self, id: str) -> dict[str, Any]:
        """A memory, deleted ones too; empty: there is none."""
        try:
            UUID(id)
        except ValueError:
            return {}
        answer = self._call("GET", f"/api/v1/memories/{id}", allow=(404,))
        return answer.body if answer.status < 300 and isinstance(answer.body, dict) else {}

    def _record(self, id: str, item: Item, state: str) -> dict[str, Any]:
        return {
            "id": id, "content": item.text, "metadata": metadata(item, self.settings.workspace), "state": state,
            "created_at": iso(item.time), "updated_at": iso(item.time),
        }  # fmt: skip

    def _import(self, records: list[dict]) -> None:
        form, kind = _form(self.user, _packed(records))
        answer = self._importer.call(
            "POST", "/api/v1/backup/import", raw=form, content_type=kind, query={"mode": "overwrite"}, allow=(404,)
        )  # fmt: skip
        said = self._checked(answer).body
        if not isinstance(said, dict) or not str(said.get("message", "")).startswith("Import completed"):
            raise self._http.error(Trouble.UNREACHABLE, "does not say that the import was completed")

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        if batch and not self._delete([known.remote_id for known in batch]):
            for known in batch:  # one of them was not there, and stopped the others
                self._delete([known.remote_id])
        return [Stored(known.remote_id) for known in batch]

    def _delete(self, ids: list[str]) -> bool:
        body = {"memory_ids": ids, "user_id": self.user}
        return self._call("DELETE", "/api/v1/memories/", body, allow=(404,)).status < 300

    # --- pulling

    def changes(self, since: int | None) -> Iterator[Remote]:
        """All there is, whatever `since` says: a backup is one call, and it can be narrowed by creation only."""
        backup = self._backup()
        apps = {app.get("id"): app.get("name") for app in backup.get("apps") or [] if isinstance(app, dict)}
        for row in backup["memories"]:
            try:
                id, text, fields = row["id"], row["content"], row.get("metadata")
                deleted = row.get("state") == "deleted"
                found = remote(
                    id, "" if deleted else text, fields, milliseconds(row.get("updated_at")), deleted=deleted
                )
            except (KeyError, TypeError, AttributeError):
                raise self._http.error(Trouble.UNREACHABLE, "has a memory without id or text in its backup") from None
            ours = found.origin == self.settings.workspace
            if ours or self.settings["app"] in (None, "", apps.get(row.get("app_id"))):
                yield found

    def read(self, known: Sequence[Known]) -> dict[UUID, Remote]:
        """One call each. Fields have other names there than in a backup."""
        rows = {one: self._row(one.remote_id) for one in known}
        return {
            one.id: remote(one.remote_id, self._text(row), row.get("metadata_"), None)
            for one, row in rows.items()
            if row and row.get("state") != "deleted"
        }  # fmt: skip

    def _text(self, row: dict[str, Any]) -> str:
        if not isinstance(text := row.get("text"), str):
            raise self._http.error(Trouble.UNREACHABLE, "tells of a memory that has no text")
        return text

    def _backup(self) -> dict[str, Any]:
        answer = self._call("POST", "/api/v1/backup/export", {"user_id": self.user})
        try:
            with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
                member = packed.getinfo(MEMBER)
                if member.file_size > MAX_BACKUP:
                    raise self._http.error(Trouble.UNREACHABLE, f"gave a backup of more than {MAX_BACKUP:,} bytes")
                backup = json.loads(packed.read(member))
            if isinstance(backup["memories"], list):
                return backup
        except (zipfile.BadZipFile, KeyError, TypeError, ValueError, RecursionError, NotImplementedError):
            pass
        raise self._http.error(Trouble.UNREACHABLE, "gave a backup that cannot be read")

    def capacity(self) -> Capacity:
        body = self._call("GET", "/api/v1/stats/", query={"user_id": self.user}).body
        count = body.get("total_memories") if isinstance(body, dict) else None
        return Capacity(count if isinstance(count, int) else None)

    def layers(self) -> list[Layer]:
        return [
            Layer("cross-session memory", f"user {self.user}, app {APP}"),
            Layer("vector store", f"user {self.user}", "unknown", "an import does not say whether it could embed"),
        ]

    def close(self) -> None:
        for name in ("_http", "_importer"):
            if name in self.__dict__:
                getattr(self, name).close()


def _packed(records: list[dict]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MEMBER, json.dumps({"memories": records}, ensure_ascii=False))
    return packed.getvalue()


def _form(user: str, file: bytes) -> tuple[bytes, str]:
    """`multipart/form-data` (RFC 7578) of the user and the file, and its content type."""
    border = secrets.token_hex(16)
    head = (
        f'--{border}\r\ncontent-disposition: form-data; name="user_id"\r\n\r\n{user}\r\n'
        f'--{border}\r\ncontent-disposition: form-data; name="file"; filename="replica.zip"\r\n'
        "content-type: application/zip\r\n\r\n"
    )
    return head.encode() + file + f"\r\n--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"
