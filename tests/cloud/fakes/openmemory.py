"""A local OpenMemory, as far as an export and a pull go: a database, and vectors that may say something else."""

import io
import json
import zipfile
from datetime import UTC, datetime
from email import message_from_bytes
from typing import Any
from uuid import UUID, uuid4

from tests.cloud.fakes.server import Fake, Reply, Request

COLLECTIONS = {"/api/v1/memories", "/api/v1/stats", "/api/v1/apps"}


class FakeOpenMemory(Fake):
    """`rows`: the database; `vectors`: the text that a search finds, by id."""

    key = None

    def __init__(self):
        super().__init__()
        self.users = {"alice": str(uuid4()), "bob": str(uuid4())}
        self.apps: dict[str, str] = {}
        self.rows: dict[str, dict] = {}
        self.vectors: dict[str, str] = {}

    # --- what tests do behind the client's back

    def put(self, text: str, app: str = "cursor", user: str = "alice") -> str:
        id = str(uuid4())
        self._row(id, user, text, {}, app)
        self.vectors[id] = text
        return id

    def edit(self, id: str, text: str) -> None:
        """As its PUT does: in the database alone."""
        self.rows[id].update(content=text, updated_at=_now())

    def take(self, id: str) -> None:
        self.rows[id].update(state="deleted", deleted_at=_now(), updated_at=_now())
        self.vectors.pop(id, None)

    def texts(self, user: str = "alice") -> dict[str, str]:
        return {
            id: row["content"]
            for id, row in self.rows.items()
            if row["state"] != "deleted" and row["user_id"] == self.users[user]
        }

    # --- the service

    def answer(self, request: Request) -> Any:
        if request.path in COLLECTIONS:
            raise Reply(307, None, {"Location": request.path + "/"})
        parts = request.path.split("/")[3:]
        match (request.method, *parts):
            case ("GET", "stats", ""):
                user = self._user(request.query.get("user_id"))
                mine = [row for row in self.rows.values() if row["user_id"] == user and row["state"] != "deleted"]
                return {"total_memories": len(mine), "total_apps": len(self.apps), "apps": []}
            case ("POST", "backup", "export"):
                return self._export(request.body)
            case ("POST", "backup", "import"):
                return self._import(request)
            case ("DELETE", "memories", ""):
                return self._delete(request.body)
            case ("GET", "memories", id):
                return self._shown(id)
            case ("PUT", "memories", id):
                self._shown(id)
                self.edit(id, request.body["memory_content"])
                return self._shown(id)
        raise Reply(404, {"detail": "Not Found"})

    def _user(self, name: str | None) -> str:
        if name not in self.users:
            raise Reply(404, {"detail": "User not found"})
        return self.users[name]

    def _shown(self, id: str) -> dict:
        try:
            UUID(id)
        except ValueError:
            raise Reply(422, {"detail": [{"msg": "Input should be a valid UUID"}]}) from None
        if id not in self.rows:
            raise Reply(404, {"detail": "Memory not found"})
        row = self.rows[id]
        return {"id": id, "text": row["content"], "state": row["state"], "metadata_": row["metadata"], "categories": []}

    def _delete(self, body: dict) -> dict:
        user = self._user(body["user_id"])
        for id in body["memory_ids"]:
            if id not in self.rows or self.rows[id]["user_id"] != user:
                raise Reply(404, {"detail": "Memory not found"})
            self.take(id)
        return {"message": f"Successfully deleted {len(body['memory_ids'])} memories"}

    def _export(self, body: dict) -> dict:
        user = self._user(body["user_id"])
        mine = [row for row in self.rows.values() if row["user_id"] == user]
        apps = [{"id": id, "name": name} for name, id in self.apps.items()]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            file.writestr("memories.json", json.dumps({"apps": apps, "memories": mine}))
            file.writestr("memories.jsonl.gz", b"")
        raise Reply(200, packed.getvalue(), {"content-type": "application/zip"})

    def _import(self, request: Request) -> dict:
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        form = {
            part.get_param("name", header="content-disposition"): part
            for part in message_from_bytes(head + request.raw).get_payload()
        }
        if not (form["file"].get_filename() or "").endswith(".zip"):
            raise Reply(400, {"detail": "Expected a zip file."})
        if request.query.get("mode", "overwrite") not in ("overwrite", "skip"):
            raise Reply(400, {"detail": "Invalid mode. Must be 'skip' or 'overwrite'."})
        name = form["user_id"].get_payload(decode=True).decode()
        user = self._user(name)
        try:
            with zipfile.ZipFile(io.BytesIO(form["file"].get_payload(decode=True))) as packed:
                records = json.loads(packed.read("memories.json"))["memories"]
        except (zipfile.BadZipFile, KeyError, ValueError):
            raise Reply(400, {"detail": "Invalid zip file"}) from None
        for record in records:
            id = str(UUID(record["id"]))
            if id in self.rows and self.rows[id]["user_id"] != user:
                id = str(uuid4())  # another user's: it is imported as a new one
            self._row(id, name, record["content"], record.get("metadata") or {}, "openmemory", record)
            self.vectors[id] = record["content"]
        return {"message": f'Import completed into user "{name}"'}

    def _row(self, id: str, user: str, text: str, metadata: dict, app: str, record: dict | None = None) -> None:
        record = record or {}
        self.rows[id] = {
            "id": id, "user_id": self._user(user), "app_id": self.apps.setdefault(app, str(uuid4())), "content": text,
            "metadata": metadata, "state": record.get("state", "active"),
            "created_at": record.get("created_at") or _now(), "updated_at": record.get("updated_at") or _now(),
            "archived_at": None, "deleted_at": None, "category_ids": [],
        }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat()
