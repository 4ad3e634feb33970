"""The little of HTTP/1.1 (RFC 9112) that a page on loopback needs, without I/O: a head's bytes in, a request out.

Stricter than the RFC wherever two readers could understand a request differently. One request for each connection.
"""

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

MAX_HEAD = 16 * 1024  # bytes of the request line and the headers
MAX_HEADERS = 64
MAX_BODY = 16 * 1024  # bytes
END = b"\r\n\r\n"
# What may stand in a request once: a second one could be the one that somebody else believes.
ONCE = frozenset({"host", "origin", "content-length", "content-type", "authorization", "sec-fetch-site"})

_LINE = re.compile(r"([A-Z]{1,16}) ([!-~]{1,8192}) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*?)[ \t]*")


class Refused(Exception):
    """The request is not answered with what it asks for. `headers`: what the answer has beside the usual ones."""

    def __init__(self, status: int, why: str, **headers: str):
        super().__init__(why)
        self.status, self.headers = status, headers


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` by their names in small letters. `query` is not decoded."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def head(data: bytes) -> Request:
    """The request that begins with `data`, all of its head up to the blank line. Raises Refused."""
    lines = data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    line = _LINE.fullmatch(lines[0])
    if line is None:
        raise Refused(400, "that is no request of HTTP/1.1")
    if len(lines) - 1 > MAX_HEADERS:
        raise Refused(431, "too many headers")
    headers: dict[str, str] = {}
    for one in lines[1:]:
        found = _HEADER.fullmatch(one)
        if found is None:
            raise Refused(400, "a header that is none")
        name = found[1].lower()
        if name in ONCE and name in headers:
            raise Refused(400, f"two headers {name}")
        headers[name] = found[2]
    path, _, query = line[2].partition("?")
    return Request(line[1], path, query, headers)


def body_size(request: Request) -> int:
    """How many bytes follow the head. Raises Refused."""
    if "transfer-encoding" in request.headers:
        raise Refused(411, "a body needs a Content-Length")
    length = request.headers.get("content-length", "0")
    if not re.fullmatch(r"[0-9]{1,15}", length):
        raise Refused(400, "a Content-Length that is no number")
    if int(length) > MAX_BODY:
        raise Refused(413, f"a body of more than {MAX_BODY:,} bytes")
    return int(length)


def encode(answer: Answer, always: dict[str, str]) -> bytes:
    """The answer with the headers that every answer has; the connection ends with it."""
    phrase = HTTPStatus(answer.status).phrase
    headers = {
        "Content-Type": f"{answer.type}; charset=utf-8", "Content-Length": str(len(answer.body)), "Connection": "close",
        **always, **answer.headers,
    }  # fmt: skip
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + END + answer.body


def as_json(value: Any, status: int = 200) -> Answer:
    """In ASCII: a lone half of a surrogate pair in somebody's text is no UTF-8."""
    return Answer(status, json.dumps(value).encode())
