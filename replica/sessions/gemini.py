"""Gemini CLI's chats: a log of messages that are written again when they grow, and the older single JSON document.

`$set` patches the header, or the list of messages as a whole; `$rewindTo` takes back a message and all behind it.
"""

import json
import re
from collections.abc import Iterator
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from replica.sessions import fields
from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress, without_ours
from replica.sessions.lines import LONGEST, BadRecord, Opened, follow, record

AGENT = "gemini"
_HOOK = re.compile(r"<hook_context>.*?(?:</hook_context>|\Z)", re.DOTALL)
_HARNESS = re.compile(r"This is the Gemini CLI\. We are setting up|<(?:session_context|system_|environment_|state_)")
_COMMAND = re.compile(r"[/?][A-Za-z]*(?:\s|$)")
_DONE = ("success", "error", "cancelled")


class Chat:
    """The Adapter of the lines. The older document is given to it in pieces."""

    def __init__(self, log: LogFile, state: bytes):
        known = json.loads(state) if state else {}
        self._session = known.get("session", "")
        self._subagent = known.get("subagent", False)
        self._at = known.get("at")
        self._resumed = bool(state)
        self._off: set[str] = set()
        self._log = log
        self.waits = False
        self.folders: set[str] = set()

    def survey(self, opened: Opened) -> bool:
        place = opened.place(b"")
        if not any(b'"$rewindTo"' in line.data for line in opened.lines() if line.ended):
            return True
        opened.go(place)
        kept: dict[str, None] = {}
        for line in opened.lines():
            try:
                given = record(line.data)
            except BadRecord:
                continue
            back = given.get("$rewindTo")
            if isinstance(back, str):
                if self._resumed:
                    return False
                found, name = fields.text(back) in kept, ""
                while kept and not (found and name == fields.text(back)):
                    name, _ = kept.popitem()
                    self._off.add(name)
                continue
            for message in _messages(given):
                if name := fields.text(message.get("id")):
                    kept[name] = None
                    self._off.discard(name)
        return True

    def wanted(self, data: bytes) -> bool:
        return True

    def state(self) -> bytes:
        return json.dumps({"session": self._session, "subagent": self._subagent, "at": self._at}).encode()

    def events(self, given: dict[str, Any], line: int) -> Iterator[Event]:
        self.header(given)
        patch = fields.table(given.get("$set"))
        self.header(patch)
        for number, message in enumerate(_messages(given)):
            yield from self.message(message, (line << 20) + (min(number, 4095) << 8))
        if (title := fields.text(patch.get("summary"))) and self._at is not None:
            yield self._event(
                Kind.TITLE, f"title:{self.session}:{fields.digest(title)}", line << 20, title, aside=Aside.NOT
            )

    def header(self, given: dict[str, Any]) -> None:
        if "id" in given:
            return
        self._session = fields.text(given.get("sessionId")) or self._session
        self._subagent = self._subagent or given.get("kind") == "subagent"
        if self._at is None:
            self._at = fields.milliseconds(given.get("startTime"))
        for folder in fields.items(given.get("directories")):
            if fields.text(folder):
                self.folders.add(fields.text(folder))
        if project := fields.text(given.get("projectHash")):
            self.folders |= _project(self._log.path, project)

    def message(self, message: dict[str, Any], order: int) -> Iterator[Event]:
        name, kind = fields.text(message.get("id")), message.get("type")
        at = fields.milliseconds(message.get("timestamp"))
        self._at = self._at if at is None else at
        if self._at is None:
            return
        aside = Aside.TAKEN_BACK if name in self._off else Aside.NOT
        name = name or fields.digest(self.session, self._at, kind, json.dumps(message, sort_keys=True)[:10_000])
        whole = _said(message.get("content"))
        if kind == "user" and whole.lstrip().startswith("<state_snapshot"):
            yield self._event(Kind.COMPACTION, name, order, whole.strip(), aside=aside)
        elif kind == "user":
            words = _HOOK.sub("", _said(message.get("displayContent")) or whole).strip()
            if words and not (_HARNESS.match(words) or _COMMAND.match(words)):
                yield self._event(Kind.PROMPT, name, order, words, aside=aside)
        elif kind == "gemini":
            model = fields.text(message.get("model"))
            if whole.strip():
                yield self._event(Kind.REPLY, name, order, whole.strip(), aside=aside, model=model)
            yield from self._calls(message, name, order, model, aside)
        elif kind == "error" and whole.strip():
            yield self._event(Kind.ERROR, name, order, whole.strip()[: fields.RESULT], aside=aside, failed=True)

    def _calls(self, message: dict[str, Any], name: str, order: int, model: str, aside: Aside) -> Iterator[Event]:
        for number, call in enumerate(fields.items(message.get("toolCalls"))[:100], 1):
            given = fields.table(call)
            tool, asked, status = fields.text(given.get("name")), given.get("args"), given.get("status")
            key, at = f"{name}:{fields.text(given.get('id')) or number}", fields.milliseconds(given.get("timestamp"))
            if not tool or fields.ours(tool):
                continue
            yield self._event(
                Kind.CALL, key, order + 2 * number, name=tool, model=model, command=fields.command(tool, asked),
                files=fields.files(asked), aside=aside, at=at,
            )  # fmt: skip
            fact = fields.text(fields.table(asked).get("fact"))
            if tool == "save_memory" and fact:
                yield self._event(Kind.LEARNING, key, order + 2 * number, fact, name=tool, aside=aside, at=at)
            if status in _DONE:
                failed = status != "success"
                shown = _given(given.get("result"))[: fields.RESULT] if failed else ""
                yield self._event(
                    Kind.RESULT, key, order + 2 * number + 1, shown, name=tool, failed=failed, aside=aside, at=at
                )

    @property
    def session(self) -> str:
        return self._session or self._log.path.name.split(".json")[0]

    def _event(
        self, kind: Kind, key: str, order: int, text: str = "", *, aside: Aside, at: int | None = None, **more: Any
    ) -> Event:
        aside = Aside.SUBAGENT if self._subagent else aside
        when = (self._at or 0) if at is None else at
        return Event(kind, AGENT, self.session, f"{kind}:{key}", when, order, text, aside=aside, **more)


def _messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a record: itself, or those that a patch or a header brings."""
    if "id" in given and "$set" not in given:
        return [given]
    found = fields.items(given.get("messages")) + fields.items(fields.table(given.get("$set")).get("messages"))
    return [message for message in found if isinstance(message, dict)]


def _said(content: Any) -> str:
    """Of a string, a part, or a list of them."""
    parts = content if isinstance(content, list) else [content]
    told = [part if isinstance(part, str) else fields.table(part).get("text") for part in parts]
    return without_ours("\n".join(words for words in map(fields.text, told) if words))


def _given(result: Any) -> str:
    """What a tool answered."""
    found = []
    for part in fields.items(result) or [result]:
        answer = fields.table(fields.table(fields.table(part).get("functionResponse")).get("response"))
        found.append(fields.text(answer.get("error")) or fields.text(answer.get("output")) or _said(part))
    return without_ours("\n".join(filter(None, found)))


def _project(chat: Path, project: str) -> set[str]:
    """The folder of a project, which the log names by its hash alone: the program keeps a list beside."""
    found = []
    for folder in list(chat.parents)[1:4]:
        try:
            found.append((folder / ".project_root").read_text("utf-8", "replace").strip()[:4096])
        except OSError:
            continue
    for folder in list(chat.parents)[2:6]:
        try:
            with (folder / "projects.json").open("rb") as file:
                found += list(fields.table(fields.table(json.loads(file.read(1 << 20))).get("projects")))
        except (OSError, ValueError, RecursionError):
            continue
    return {place for place in map(fields.text, found) if sha256(place.encode()).hexdigest() == project}


class Lines:
    format = "gemini"

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        return follow(log, place, Chat)


class Document:
    """The older form: one JSON document, written anew each time. What is whole of a damaged one is told."""

    format = "gemini-json"

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        file = str(log.path)
        try:
            with log.path.open("rb") as opened:
                data = opened.read(LONGEST + 1)
        except OSError as error:
            yield Damage(file, 0, error.strerror or str(error))
            yield Progress(place)
            return
        now = Place(len(data), data.count(b"\n"), blake2b(data, digest_size=16).digest(), b"read")
        if now == place:
            yield Progress(place)
            return
        chat = Chat(log, b"")
        if len(data) > LONGEST:
            yield Damage(file, 1, f"longer than {LONGEST >> 20} MB")
        else:
            yield from _document(chat, data, file)
        yield Progress(now, frozenset(chat.folders))


def _document(chat: Chat, data: bytes, file: str) -> Iterator[Event | Damage]:
    whole = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    try:
        given, reason = json.loads(whole), ""
    except (ValueError, RecursionError) as error:
        given, reason = _rescued(whole), str(error) or "nested too deep"
    try:
        told = list(chat.events(given, 1)) if isinstance(given, dict) else []
        yield from told
    # A shape that nobody foresaw costs this document alone, and is told.
    except Exception as error:
        yield Damage(file, 1, f"not of a known form: {type(error).__name__}: {error}")
    if reason or not isinstance(given, dict):
        line = whole.count("\n", 0, _end_of_good(reason)) + 1
        yield Damage(file, line, f"not JSON: {reason}" if reason else "not a JSON object")


def _end_of_good(reason: str) -> int:
    found = re.search(r"\(char (\d+)\)", reason)
    return int(found[1]) if found else 0


def _rescued(whole: str) -> dict[str, Any]:
    """The header's fields and the whole messages of a document that is broken further on."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r'"(sessionId|projectHash|startTime|kind)"\s*:\s*"([^"\\]*)"', whole[:4096]):
        found.setdefault(name, value)
    begin = re.search(r'"messages"\s*:\s*\[', whole)
    messages: list[Any] = []
    decoder, at = json.JSONDecoder(), begin.end() if begin else len(whole)
    try:
        while True:
            while at < len(whole) and whole[at] in " \t\r\n,":
                at += 1
            value, at = decoder.raw_decode(whole, at)
            messages.append(value)
    except (ValueError, RecursionError, IndexError):
        pass
    return {**found, "messages": messages}
