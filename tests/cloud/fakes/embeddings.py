"""What speaks OpenAI's `/v1/embeddings`. Its vectors are those of `hash`, without being of length 1."""

import base64
from array import array
from typing import Any

from replica.cloud.embed.hashed import Hashed
from tests.cloud.fakes.server import Fake, Reply, Request


class Embeddings(Fake):
    model = "small"
    most_bytes = 8_192  # of a text; a stand-in for the tokens that a model takes

    def answer(self, request: Request) -> Any:
        if (request.method, request.path) != ("POST", "/v1/embeddings"):
            raise Reply(404, {"error": {"message": f"Invalid URL ({request.method} {request.path})"}})
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            raise Reply(401, _error("Incorrect API key provided", "invalid_request_error", "invalid_api_key"))
        body = request.body or {}
        if body.get("model") != self.model:
            raise Reply(404, _error(f"The model `{body.get('model')}` does not exist", code="model_not_found"))
        texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
        if not texts or not all(isinstance(text, str) and text for text in texts) or len(texts) > 2048:
            raise Reply(400, _error("'$.input' is invalid"))
        if any(len(text.encode()) > self.most_bytes for text in texts):
            raise Reply(400, _error("This model's maximum context length is 8192 tokens"))
        vectors = [[2 * number for number in vector] for vector in Hashed().embed(texts)]
        if body.get("encoding_format") == "base64":
            vectors = [base64.b64encode(array("f", vector).tobytes()).decode() for vector in vectors]
        rows = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        used = sum(map(len, texts))
        return {
            "object": "list", "data": self.arranged(rows), "model": self.model,
            "usage": {"prompt_tokens": used, "total_tokens": used},
        }  # fmt: skip

    def arranged(self, rows: list[dict]) -> list[dict]:
        """Tests give the rows in another order, or others."""
        return rows


def _error(message: str, type: str = "invalid_request_error", code: str | None = None) -> dict:
    return {"error": {"message": message, "type": type, "param": None, "code": code}}
