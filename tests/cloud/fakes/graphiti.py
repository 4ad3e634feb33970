"""Graphiti's REST service, as far as the adapter must and must not use it. There is no client of its vendor's."""

from typing import Any

from tests.cloud.fakes.server import Fake, Reply, Request


class FakeGraphiti(Fake):
    key = None

    def __init__(self):
        super().__init__()
        self.nodes: dict[str, dict] = {}
        self.works = True  # the one worker for messages is alive

    def answer(self, request: Request) -> Any:
        body = request.body if isinstance(request.body, dict) else {}
        match f"{request.method} {request.path}":
            case "GET /healthcheck":
                return {"status": "healthy"}
            case "POST /entity-node":
                if not all(isinstance(body.get(name), str) for name in ("uuid", "group_id", "name")):
                    raise Reply(422, {"detail": [{"loc": ["body"], "msg": "Field required"}]})
                # The same uuid again replaces the node.
                self.nodes[body["uuid"]] = {"summary": "", **body}
                node = {**self.nodes[body["uuid"]], "labels": [], "attributes": {}, "name_embedding": None}
                raise Reply(201, node)
            case "POST /messages":
                self.works = self.works and not any(one.get("uuid") for one in body.get("messages", []))
                raise Reply(202, {"message": "Messages added to processing queue", "success": True})
        raise Reply(404, {"detail": "Not Found"})
