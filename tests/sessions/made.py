"""Small logs for the tests: records as each program writes them, put together in a line."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress
from replica.sessions.discover import read, recognised


def lines(path: Path, *records: dict[str, Any] | bytes, add: bool = False) -> LogFile:
    """Write the records (bytes as they are), a line each; the log that this makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if add else "wb") as file:
        for one in records:
            file.write((one if isinstance(one, bytes) else json.dumps(one, separators=(",", ":")).encode()) + b"\n")
    log = recognised(path)
    assert log is not None
    return log


class Told:
    """What was told of one or several logs. An event's text is the first that was told, its `aside` the last."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.aside: dict[str, Aside] = {}
        self.damage: list[Damage] = []
        self.place = Place()
        self.folders: set[str] = set()
        self.count = 0

    def of(self, log: LogFile, place: Place = Place()) -> "Told":
        last: Any = None
        for last in read(log, place):
            self.take(last)
        assert isinstance(last, Progress), "a reading ends with its place"
        return self

    def seen(self, *kinds: Kind) -> list[tuple[str, str]]:
        """(kind, text or command or name), in order; `-` before what was taken back, `~` before a subagent's."""
        found = sorted(self.events.values(), key=lambda event: (event.at, event.order))
        return [
            (("", "-", "~")[self.aside[one.key]] + one.kind, one.text or one.command or one.model or one.name)
            for one in found
            if not kinds or one.kind in kinds
        ]

    def same(self) -> dict[str, tuple[Any, ...]]:
        """What two readings must agree about."""
        return {
            key: (one.kind, one.session, one.at, one.order, one.text, one.name, one.model, one.command, one.files)
            + (one.failed, self.aside[key])
            for key, one in self.events.items()
        }

    def take(self, one: Event | Damage | Progress) -> None:
        match one:
            case Event():
                self.count += 1
                self.events.setdefault(one.key, one)
                self.aside[one.key] = one.aside
            case Damage():
                self.damage.append(one)
            case Progress():
                self.place = one.place
                self.folders |= one.folders


def told(*logs: LogFile) -> Told:
    made = Told()
    for log in logs:
        made.of(log)
    return made


def texts(events: Iterable[Event], kind: Kind) -> list[str]:
    return [event.text for event in events if event.kind is kind]


# --- OpenClaw


def claw_header(session: str = "5e551011-0000-4000-8000-000000000001", **more: Any) -> dict[str, Any]:
    return {
        "type": "session", "version": 3, "id": session, "timestamp": "2026-04-14T08:00:00.000Z", "cwd": "/w", **more,
    }  # fmt: skip


def claw(name: str, parent: str | None, at: str, role: str, content: Any, **more: Any) -> dict[str, Any]:
    message = {"role": role, "content": content, **({"model": "m1", "provider": "p"} if role == "assistant" else {})}
    stamp = f"2026-04-14T{at}.000Z"
    return {"type": "message", "id": name, "parentId": parent, "timestamp": stamp, "message": {**message, **more}}


# --- Claude Code


def claude(name: str, parent: str | None, at: str, role: str, content: Any, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant":
        message |= {"id": more.pop("message", f"msg_{name}"), "model": more.pop("model", "m1")}
    return {
        "parentUuid": parent, "isSidechain": False, "type": role, "message": message, "uuid": name,
        "timestamp": f"2026-04-14T{at}.000Z", "cwd": "/w", "sessionId": "c1", **more,
    }  # fmt: skip


# --- Codex


def codex(at: str, kind: str, **payload: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-04-14T{at}.000Z", "type": kind, "payload": payload}


def codex_said(at: str, role: str, words: str, **more: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return codex(at, "response_item", type="message", role=role, content=[{"type": kind, "text": words}], **more)


# --- Gemini CLI


def gemini_header(**more: Any) -> dict[str, Any]:
    begun = "2026-04-14T08:00:00.000Z"
    return {"sessionId": "g1", "projectHash": "ab", "startTime": begun, "lastUpdated": begun, "kind": "main", **more}


def gemini(name: str, at: str, kind: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"id": name, "timestamp": f"2026-04-14T{at}.000Z", "type": kind, "content": content, **more}
