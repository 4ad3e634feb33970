"""Codex' rollouts, of both generations: `response_item` says what was said, other records tell the model and the end.

Everything else repeats it. A rollout that was forked off repeats the other's items with times of its own.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from replica.sessions import fields
from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress, without_ours
from replica.sessions.lines import BadRecord, Opened, follow, record

AGENT = "codex"
_NAMELESS = {"local_shell_call": "shell", "web_search_call": "web_search"}
_CALLS = 256  # calls whose result may still come
_HARNESS = re.compile(
    r"<(?:environment_context|user_instructions|permissions instructions|model_switch|skill|turn_aborted|INSTRUCTIONS|"
    r"user_shell_command|subagent_notification|collaboration_mode|hook|system-reminder|personality|realtime_)"
    r"|# AGENTS\.md instructions"
)
_START = re.compile(rb'\{"timestamp":"[^"\\]*",(?:"ordinal":\d+,)?"type":"(\w+)"(?:,"payload":\{(?:"type":"(\w+)")?)?')
_ITEMS = {
    b"message", b"function_call", b"function_call_output", b"custom_tool_call", b"custom_tool_call_output",
    b"local_shell_call", b"web_search_call", b"compaction", None,
}  # fmt: skip
_EVENTS = {b"turn_aborted", b"error", b"thread_name_updated", None}
_EXIT = re.compile(r"(?:exited with code|exit code:?|exit_code\"?\s*:)\s*(-?\d+)", re.IGNORECASE)


class Rollout:
    """The Adapter."""

    def __init__(self, log: LogFile, state: bytes):
        known = json.loads(state) if state else {}
        self._session = known.get("session", "")
        self._root = known.get("root", "")  # the session that the items came from first
        self._subagent = known.get("subagent", False)
        self._model = known.get("model", "")
        self._at = known.get("at")
        self._count = known.get("count", 0)
        self._last = known.get("last", "")
        self._calls: dict[str, str] = known.get("calls", {})
        self._resumed = bool(state)
        self._undone: list[tuple[int, int]] = []  # lines of turns that were taken back, in order
        self._fallback = re.sub(r"\.jsonl.*", "", log.path.name)[-36:]
        self.folders: set[str] = set()
        self.waits = False

    def survey(self, opened: Opened) -> bool:
        place = opened.place(b"")
        if not any(b'"thread_rolled_back"' in line.data for line in opened.lines() if line.ended):
            return True
        opened.go(place)
        turns: list[int] = []
        for line in opened.lines():
            if not (b'"user"' in line.data or b'"thread_rolled_back"' in line.data):
                continue
            try:
                given = record(line.data)
            except BadRecord:
                continue
            payload = fields.table(given.get("payload"))
            count = payload.get("num_turns")
            if given.get("type") == "response_item" and payload.get("role") == "user" and _prompt(payload):
                turns.append(line.number)
            elif payload.get("type") == "thread_rolled_back" and isinstance(count, int) and count > 0:
                if count > len(turns) and self._resumed:
                    return False
                back = turns[-count:]
                turns = turns[: len(turns) - len(back)]
                while back and self._undone and self._undone[-1][0] >= back[0]:
                    self._undone.pop()
                if back:
                    self._undone.append((back[0], line.number))
        return True

    def wanted(self, data: bytes) -> bool:
        found = _START.match(data)
        if not found:
            return True
        if found[1] == b"response_item":
            return found[2] in _ITEMS
        if found[1] == b"event_msg":
            return found[2] in _EVENTS
        return found[1] in (b"session_meta", b"turn_context", b"compacted")

    def state(self) -> bytes:
        return json.dumps(
            {
                "session": self._session, "root": self._root, "subagent": self._subagent, "model": self._model,
                "at": self._at, "count": self._count, "last": self._last, "calls": self._calls,
            }
        ).encode()  # fmt: skip

    def events(self, given: dict[str, Any], line: int) -> Iterator[Event]:
        kind, payload = given.get("type"), fields.table(given.get("payload"))
        at = fields.milliseconds(given.get("timestamp"))
        self._at = self._at if at is None else at
        if "payload" not in given:  # the first generation had neither times nor wrappings
            if self._begins(given) or "record_type" in given:
                return
            kind, payload = "response_item", given
        if kind == "session_meta":
            self._header(payload)
        if self._at is None:
            return
        told = _Telling(self, line)
        if kind == "turn_context":
            self._folder(payload)
            if (model := fields.text(payload.get("model"))) and model != self._model:
                self._model = model
                yield told.event(Kind.MODEL, model=model, naming=f"{self.root}:{model}:{self._count}")
        elif kind == "compacted":
            summary = without_ours(fields.text(payload.get("message")))
            window = fields.text(payload.get("window_id"))
            yield told.event(Kind.COMPACTION, summary, naming=window or self._numbered(told.at, summary))
        elif kind == "event_msg":
            yield from self._said_aside(told, payload)
        elif kind == "response_item":
            yield from self._item(told, payload)

    @property
    def session(self) -> str:
        return self._session or self._fallback

    @property
    def root(self) -> str:
        return self._root or self.session

    @property
    def at(self) -> int:
        return self._at or 0

    def aside(self, line: int) -> Aside:
        if self._subagent:
            return Aside.SUBAGENT
        before = bisect_right(self._undone, (line, 1 << 62))
        return Aside.TAKEN_BACK if before > 0 and line < self._undone[before - 1][1] else Aside.NOT

    def _header(self, payload: dict[str, Any]) -> None:
        name, forked = fields.text(payload.get("id")), fields.text(payload.get("forked_from_id"))
        if not self._session:
            self._session = name or fields.text(payload.get("session_id"))
            source = payload.get("source")
            self._subagent = payload.get("thread_source") == "subagent" or "subagent" in fields.table(source)
        if not self._count:  # a fork repeats the header of the session that it came from
            self._root = forked or name or self._root
        self._folder(payload)

    def _begins(self, given: dict[str, Any]) -> bool:
        """Whether this is the header of the first generation."""
        if "type" in given or "id" not in given:
            return False
        self._header(given)
        return True

    def _folder(self, payload: dict[str, Any]) -> None:
        if folder := fields.text(payload.get("cwd")):
            self.folders.add(folder)

    def _said_aside(self, told: "_Telling", payload: dict[str, Any]) -> Iterator[Event]:
        kind = payload.get("type")
        if kind == "turn_aborted":
            why = fields.text(payload.get("reason")) or "aborted"
            turn = fields.text(payload.get("turn_id"))
            yield told.event(Kind.ERROR, why, naming=turn or self._numbered(told.at, why), failed=True)
        elif kind == "error":
            why = fields.text(payload.get("message"))[: fields.RESULT]
            yield told.event(Kind.ERROR, why, naming=self._numbered(told.at, why), failed=True)
        elif kind == "thread_name_updated":
            title = fields.text(payload.get("thread_name")) or fields.text(payload.get("name"))
            if title:
                yield told.event(Kind.TITLE, title, naming=f"{self.session}:{fields.digest(title)}")

    def _item(self, told: "_Telling", item: dict[str, Any]) -> Iterator[Event]:
        kind = item.get("type")
        if kind == "message":
            yield from self._message(told, item)
        elif kind in ("function_call", "custom_tool_call", "local_shell_call", "web_search_call"):
            yield from self._call(told, str(kind), item)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            yield from self._result(told, item)

    def _message(self, told: "_Telling", item: dict[str, Any]) -> Iterator[Event]:
        role = item.get("role")
        if role == "user":
            kind, words = Kind.PROMPT, _prompt(item)
        elif role == "assistant":
            kind, words = Kind.REPLY, fields.said(item.get("content"), "output_text", "text").strip()
        else:
            return
        if words:
            naming = fields.text(item.get("id")) or self._numbered(told.at, words)
            yield told.event(kind, words, naming=naming, model=self._model if kind is Kind.REPLY else "")

    def _call(self, told: "_Telling", kind: str, item: dict[str, Any]) -> Iterator[Event]:
        tool = fields.text(item.get("name")) or _NAMELESS.get(kind, "")
        if space := fields.text(item.get("namespace")):
            tool = f"{space.rstrip('_')}__{tool}"
        call = fields.text(item.get("call_id"))
        if call:
            self._calls[call] = tool
            while len(self._calls) > _CALLS:
                del self._calls[next(iter(self._calls))]
        if fields.ours(tool):
            return
        asked = _asked(kind, item)
        naming = f"{self.root}:{call}" if call else fields.text(item.get("id"))
        naming = naming or self._numbered(told.at, json.dumps(item, sort_keys=True))
        line, named = fields.command(tool, asked), fields.files(asked)
        yield told.event(Kind.CALL, naming=naming, name=tool, model=self._model, command=line, files=named)

    def _result(self, told: "_Telling", item: dict[str, Any]) -> Iterator[Event]:
        call = fields.text(item.get("call_id"))
        tool = self._calls.pop(call, "")
        if fields.ours(tool):
            return
        shown, failed = _outcome(item.get("output"))
        naming = f"{self.root}:{call}" if call else self._numbered(told.at, shown)
        yield told.event(
            Kind.RESULT, without_ours(shown)[: fields.RESULT] if failed else "", name=tool, failed=failed, naming=naming
        )

    def _numbered(self, at: int, text: str) -> str:
        """A name for what has none: in a fork the same item has the same number. One that is repeated has it, too."""
        name = fields.digest(text)
        if (again := f"{at}:{name}") != self._last:
            self._count += 1
            self._last = again
        return f"{self.root}:{self._count}:{name}"


class _Telling:
    """What the events of one record share."""

    def __init__(self, rollout: Rollout, line: int):
        self._rollout = rollout
        self.at = rollout.at
        self._aside = rollout.aside(line)
        self._order = line << 8

    def event(self, kind: Kind, text: str = "", *, naming: str, **more: Any) -> Event:
        self._order += 1
        key, session = f"{kind}:{naming}", self._rollout.session
        return Event(kind, AGENT, session, key, self.at, self._order, text, aside=self._aside, **more)


def _prompt(item: dict[str, Any]) -> str:
    """What a person said in a user's message; "" where the program spoke."""
    about = fields.table(item.get("internal_chat_message_metadata_passthrough"))
    kinds = [fields.text(kind) for kind in fields.items(about.get("content_item_kinds"))]
    if kinds and not any(kind.startswith("user.") for kind in kinds):
        return ""
    said = [fields.text(block.get("text")) for block in fields.blocks(item.get("content"), "input_text", "text")]
    return without_ours("\n".join(words for words in said if not _HARNESS.match(words.lstrip()))).strip()


def _asked(kind: str, item: dict[str, Any]) -> Any:
    """The arguments of a call."""
    if kind == "local_shell_call":
        return item.get("action")
    if kind == "custom_tool_call":
        return item.get("input")
    given = item.get("arguments")
    try:
        return json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        return None


def _outcome(output: Any) -> tuple[str, bool]:
    """What a tool gave, and whether it failed: an exit code says that, or a flag."""
    given = output
    if isinstance(output, str) and output.startswith("{"):
        try:
            given = json.loads(output)
        except (ValueError, RecursionError):
            given = output
    if isinstance(given, dict):
        code = fields.table(given.get("metadata")).get("exit_code")
        shown = fields.text(given.get("output")) or fields.text(given.get("content"))
        return shown, given.get("success") is False or (isinstance(code, int) and code != 0)
    shown = fields.said(given, "input_text", "output_text", "text") if isinstance(given, list) else fields.text(given)
    found = _EXIT.search(shown[:500])
    return shown, found is not None and int(found[1]) != 0


class Lines:
    format = "codex"

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        return follow(log, place, Rollout)
