"""`openai:MODEL` and `openai:MODEL@URL`: any service that speaks OpenAI's `/v1/embeddings`, on this machine or not.

A text is cut by its bytes: a token of such a model is at least one byte, so no bound of OpenAI's is passed (8,192
tokens a text, 300,000 a call). A server that takes less refuses; then the texts go one by one, and shorter.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from replica.cloud.base import SinkError, Trouble
from replica.cloud.http import Answer, Http

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY, OTHER_KEY = "OPENAI_API_KEY", "REPLICA_EMBED_KEY"
MOST_BYTES = 8_000  # of a text
SHORTER = (2_000, 500)  # bytes, where the service refuses that
BATCH_TEXTS, BATCH_BYTES = 128, 256_000
MOST_NUMBERS = 16_384  # of one vector
BLANK = "(blank)"  # stands for a text without anything in it: OpenAI refuses those
TOO_MUCH = (Trouble.BAD_ITEM, Trouble.TOO_BIG)


class OpenAI:
    """`id` and `dimension` are known after the first call; who asks for them before makes that call."""

    def __init__(self, model: str, url: str | None, env: Mapping[str, str], timeout: float = 30.0):
        self.model = model
        self._url = _base(url or OPENAI)
        parts = urlsplit(self._url)
        self.local = _is_loopback(parts.hostname or "")
        # Each key goes to where it belongs: replica.toml comes from any member, and names any url.
        self._at_openai = (parts.scheme, parts.hostname, parts.port) == ("https", "api.openai.com", None)
        self._key_name = OPENAI_KEY if self._at_openai else OTHER_KEY
        key = env.get(self._key_name, "").strip() or None
        self._has_key = key is not None
        self._http = Http(
            self._url, service=f"the embedder {model}", headers={"authorization": f"Bearer {key}"} if key else None,
            secret=key, timeout=timeout, connections=1,
        )  # fmt: skip
        self._dimension = 0

    @property
    def dimension(self) -> int:
        if not self._dimension:
            self.embed(["dimension"])
        return self._dimension

    @property
    def id(self) -> str:
        return f"openai:{self.model}-{self.dimension}"  # without the host: the id goes out with the vectors

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self._check_key()
        ready = [cut(text, MOST_BYTES) if text.strip() else BLANK for text in texts]
        return [vector for batch in _batches(ready) for vector in self._batch(batch)]

    def close(self) -> None:
        self._http.close()

    def _check_key(self) -> None:
        if self._at_openai and not self._has_key:
            raise SinkError(
                Trouble.AUTH, f"the embedder {self.model} needs a key, and there is none", hint=f"set {OPENAI_KEY}"
            )
        if self._has_key and not self.local and not self._url.startswith("https:"):
            raise SinkError(
                Trouble.AUTH, f"the embedder {self.model} would send its key without TLS",
                hint=f"use an https url, or unset {OTHER_KEY}",
            )  # fmt: skip

    def _batch(self, texts: list[str]) -> list[list[float]]:
        try:
            return self._call(texts)
        except SinkError as error:
            if error.trouble not in TOO_MUCH:
                raise
        return [self._alone(text) for text in texts]

    def _alone(self, text: str) -> list[float]:
        """A text by itself, and shorter while it is refused. What is refused in its shortest form is so for good."""
        for length in [length for length in SHORTER if length < len(text.encode())]:
            try:
                return self._call([text])[0]
            except SinkError as error:
                if error.trouble not in TOO_MUCH:
                    raise
            text = cut(text, length)
        return self._call([text])[0]

    def _call(self, texts: list[str]) -> list[list[float]]:
        try:
            answer = self._http.call("POST", "/embeddings", {"model": self.model, "input": texts})
            return self._vectors(answer, len(texts))
        except SinkError as error:
            error.hint = self._way_out(error)
            if error.trouble is Trouble.GONE:  # for an embedder: no such model, or nothing at that url
                error.trouble = Trouble.UNREACHABLE
            raise

    def _way_out(self, error: SinkError) -> str:
        if error.trouble is Trouble.AUTH:
            return f"{'check' if self._has_key else 'set'} {self._key_name}"
        if error.trouble in (Trouble.UNREACHABLE, Trouble.GONE):
            return "check the model's name and url in replica.toml, and that the server runs and has the model"
        if error.trouble in TOO_MUCH:
            return "check the model's name in replica.toml, and how long a text the model takes"
        return "see the service's plan and limits; run it again later"

    def _vectors(self, answer: Answer, expected: int) -> list[list[float]]:
        """The vectors in the order of the texts. Raises SinkError: the answer is none to what was asked."""
        rows = answer.body.get("data") if isinstance(answer.body, dict) else None
        if not isinstance(rows, list):
            raise self._wrong("no vectors" + (f": {said}" if (said := _said(answer.body)) else ""))
        if len(rows) != expected or not all(isinstance(row, dict) for row in rows):
            raise self._wrong(f"{len(rows)} vectors for {expected} texts")
        places = [row.get("index", at) for at, row in enumerate(rows)]
        if any(type(place) is not int for place in places) or sorted(places) != list(range(expected)):
            raise self._wrong("vectors whose order cannot be told")
        found: list[list[float]] = [[]] * expected
        for place, row in zip(places, rows, strict=True):
            found[place] = self._vector(row.get("embedding"))
        return found

    def _vector(self, numbers: Any) -> list[float]:
        if not isinstance(numbers, list) or not 0 < len(numbers) <= MOST_NUMBERS:
            raise self._wrong("something that is no vector")
        if self._dimension and len(numbers) != self._dimension:
            raise self._wrong(f"vectors of {len(numbers)} numbers, which were {self._dimension}")
        try:
            length = math.hypot(*numbers)
        except (TypeError, OverflowError):
            raise self._wrong("something that is no vector") from None
        if not (math.isfinite(length) and length > 0):
            raise self._wrong("a vector without a direction")
        self._dimension = len(numbers)
        return [number / length for number in numbers]

    def _wrong(self, what: str) -> SinkError:
        return self._http.error(Trouble.UNREACHABLE, f"answers with {what}")


def cut(text: str, most: int) -> str:
    """The beginning of a text, of at most so many bytes, no character broken."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _base(url: str) -> str:
    """What `/embeddings` is appended to. People write the host, with `/v1`, or the whole address."""
    url = url.rstrip("/").removesuffix("/embeddings")
    return url if urlsplit(url).path.strip("/") else f"{url}/v1"


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        length = len(text.encode())
        if batch and (len(batch) == BATCH_TEXTS or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _said(body: Any) -> str:
    """An error that came as an answer of status 200, on one line, the beginning of it."""
    error = body.get("error") if isinstance(body, dict) else None
    words = error.get("message") if isinstance(error, dict) else error
    return " ".join(words.split())[:300] if isinstance(words, str) else ""
