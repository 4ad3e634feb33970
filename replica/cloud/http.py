"""JSON over HTTP to one service: connections kept, answers bounded, and every failure one of `Trouble`.

The key goes into a header and nowhere else: no error, no log and no URL has it. Redirects are not followed, for they
would take the key along.
"""

import json
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from replica.cloud.base import SinkError, Trouble

MAX_ANSWER = 64_000_000  # bytes of one answer
SHORTEST_KEY = 6  # characters; a shorter word stands in other words by chance
LONGEST_WAIT = 31 * 24 * 3600.0  # seconds, of what a service may ask for
SHOWN = 500  # characters of a service's own words in an error

# What a status means where the service has no other use for it.
TROUBLES = {
    400: Trouble.BAD_ITEM, 401: Trouble.AUTH, 402: Trouble.QUOTA, 403: Trouble.AUTH, 404: Trouble.GONE,
    408: Trouble.THROTTLE, 409: Trouble.CONFLICT, 410: Trouble.GONE, 413: Trouble.TOO_BIG, 415: Trouble.BAD_ITEM,
    422: Trouble.BAD_ITEM, 425: Trouble.THROTTLE, 429: Trouble.THROTTLE,
}  # fmt: skip


class Answer:
    """What a service said: `status`, `headers` (lower case), `body` (of JSON; None where there is none), `content`."""

    def __init__(self, status: int, headers: dict[str, str], body: Any, text: str, content: bytes = b""):
        self.status, self.headers, self.body, self.text, self.content = status, headers, body, text, content


class Http:
    """Calls to one service. May be used by several threads."""

    def __init__(
        self, base: str, *, service: str, headers: dict[str, str] | None = None, secret: str | None = None,
        timeout: float = 30.0, connections: int = 8, hint_for_key: str = "",
    ):  # fmt: skip
        """`service`: its name in errors. `secret`: what is taken out of any words that are shown."""
        import urllib3

        self.base, self.service, self._secret, self._hint = base.rstrip("/"), service, secret, hint_for_key
        self._headers = {"accept": "application/json", "user-agent": "memory-replica", **(headers or {})}
        self._pool = urllib3.PoolManager(
            maxsize=connections, retries=False,
            timeout=urllib3.Timeout(connect=min(10.0, timeout), read=timeout),
        )  # fmt: skip

    def call(
        self, method: str, path: str, body: Any = None, *, query: dict[str, Any] | list[tuple[str, Any]] | None = None,
        raw: bytes | None = None, content_type: str = "application/json", allow: tuple[int, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """One call. `raw`: bytes to send instead of JSON. `allow`: statuses above 299 that are an answer all the same.

        Raises SinkError.
        """
        url = self.base + path + (f"?{urlencode(query)}" if query else "")
        data = raw if raw is not None else None if body is None else json.dumps(body, ensure_ascii=False).encode()
        sent = dict(self._headers, **(headers or {}))
        if data is not None:
            sent["content-type"] = content_type
        status, got, content = self._send(method, url, data, sent)
        text = content.decode("utf-8", "replace")
        try:
            parsed = json.loads(text) if text.strip() else None
        except (ValueError, RecursionError):
            parsed = None
            if 200 <= status < 300 and "json" in got.get("content-type", "json"):
                raise self.error(Trouble.UNREACHABLE, "gave an answer that is no JSON", status=status) from None
        answer = Answer(status, got, parsed, text, content)
        if 200 <= status < 300 or status in allow:
            return answer
        raise self.refused(answer)

    def _send(self, method: str, url: str, data: bytes | None, headers: dict) -> tuple[int, dict[str, str], bytes]:
        import urllib3

        try:
            response = self._pool.request(
                method, url, body=data, headers=headers, redirect=False, preload_content=False
            )
            try:
                content = response.read(MAX_ANSWER + 1)
            finally:
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self.error(Trouble.UNREACHABLE, f"cannot be reached: {_why(error)}") from None
        if len(content) > MAX_ANSWER:
            raise self.error(Trouble.UNREACHABLE, f"answers with more than {MAX_ANSWER:,} bytes")
        return response.status, {name.lower(): value for name, value in response.headers.items()}, content

    def refused(self, answer: Answer) -> SinkError:
        """The error that an answer is."""
        status = answer.status
        trouble = TROUBLES.get(status, Trouble.UNREACHABLE if status >= 500 or status < 400 else Trouble.BAD_ITEM)
        said = said_in(answer, self._secret)
        return self.error(
            trouble, f"answers {status}" + (f": {said}" if said else ""), status=status,
            retry_after=retry_after(answer.headers, answer.body) if status in (408, 425, 429, 503) else None,
        )  # fmt: skip

    def error(
        self, trouble: Trouble, words: str, *, status: int | None = None, retry_after: float | None = None,
        hint: str | None = None,
    ) -> SinkError:  # fmt: skip
        """An error that names the service and never the key."""
        message = f"{self.service} {words}"
        if self._secret and len(self._secret) >= SHORTEST_KEY:
            message = message.replace(self._secret, "…")
        return SinkError(
            trouble, message, hint=hint or (self._hint if trouble is Trouble.AUTH else None) or REMEDIES[trouble],
            retry_after=retry_after, status=status,
        )  # fmt: skip

    def close(self) -> None:
        self._pool.clear()


REMEDIES = {
    Trouble.AUTH: "check the key and what it may do, then try `replica sinks test NAME`",
    Trouble.QUOTA: "see the service's plan and usage; what is left waits, and the next export goes on with it",
    Trouble.THROTTLE: "run it again later; what is left waits",
    Trouble.TOO_BIG: "split the entry or the section",
    Trouble.BAD_ITEM: "see what the service says of it; it is tried again when it has changed, or with --force",
    Trouble.GONE: "it was taken away there; `replica pull` asks what is to be done",
    Trouble.CONFLICT: "run `replica pull`, then export again",
    Trouble.UNREACHABLE: "check the network and the sink's url; what is queued stays queued",
}


def safe_url(url: str, service: str) -> str:
    """The address of a service, if what goes there cannot be read on the way. Raises SinkError.

    Without a scheme it is https. http goes no further than this machine: it would show the key and the memory.
    """
    from urllib.parse import urlsplit

    url = url.strip()
    url = (url if "://" in url else f"https://{url}").rstrip("/")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - raises ValueError where it is no number
    except ValueError:
        parts, host = urlsplit(""), ""
    if host and not (parts.username or parts.query or parts.fragment):
        if parts.scheme == "https" or (parts.scheme == "http" and is_here(host)):
            return url
        if parts.scheme == "http":
            raise SinkError(
                Trouble.AUTH, f"the url of {service} is http: everybody on the way could read along",
                hint="write https://…; http is for this machine only (a tunnel to the service ends here, too)",
            )  # fmt: skip
    raise SinkError(
        Trouble.AUTH, f"the url of {service} is no address of a service",
        hint="write https://HOST, with a path if it has one; the key goes into the environment",
    )  # fmt: skip


def is_here(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def said_in(answer: Answer, secret: str | None = None) -> str:
    """The service's own words about what is wrong, on one line, the beginning of them."""
    body: Any = answer.body
    for key in ("error", "detail", "message", "details", "status"):
        if isinstance(body, dict) and body.get(key):
            body = body[key]
            if isinstance(body, str):
                break
    words = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False) if body else answer.text
    words = " ".join("".join(char if char.isprintable() else " " for char in words).split())
    if secret and len(secret) >= SHORTEST_KEY:
        words = words.replace(secret, "…")  # before it is cut: the beginning of a key would be left
    return words if len(words) <= SHOWN else words[:SHOWN] + "…"


def retry_after(headers: dict[str, str], body: Any = None, now: float | None = None) -> float | None:
    """The seconds that a service asks to wait, of any of the ways in which services say so; never negative."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            return _bounded(float(value) * unit)
        except ValueError:
            try:
                when = parsedate_to_datetime(value)
                when = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
            except (ValueError, TypeError, OverflowError):
                continue
            return _bounded(when - (time.time() if now is None else now))
    return _in_body(body)


def _in_body(body: Any) -> float | None:
    value = body.get("retryAfterSeconds") if isinstance(body, dict) else None
    return _bounded(value) if isinstance(value, int | float) else None


def _bounded(seconds: float) -> float:
    """No service may have us wait for ever, nor for no number at all."""
    return float(min(seconds, LONGEST_WAIT)) if seconds > 0 else 0.0


def _why(error: Exception) -> str:
    """The innermost words of an error of the network: without the url, which may hold names of our own."""
    reason = getattr(error, "reason", None) or error.__cause__ or error
    words = str(getattr(reason, "strerror", None) or reason).split(": ")[-1]
    return words if words and len(words) < 200 else type(error).__name__
