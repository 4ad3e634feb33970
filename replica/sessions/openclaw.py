"""OpenClaw's transcripts: lines of JSONL up to 2026.7, rows of SQLite from 2026.8 on; the same records in both.

Records form a tree. The main line leads from the last record to the root; what hangs off it was given up. Forks copy
records, and a migration may give them other ids, so an event's key is its time and what it says.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from replica.sessions import fields
from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress
from replica.sessions.lines import BadRecord, Opened, follow, record

AGENT = "openclaw"
# The beginning of a record as OpenClaw writes it; another order of fields is decoded.
_START = re.compile(
    rb'\{"type":"(\w+)",(?:"version":\d+,)?"id":"([^"\\]+)"(?:,"parentId":(?:null|"([^"\\]*)"))?,"timestamp":'
)
_KINDS = {
    b"session", b"message", b"model_change", b"compaction", b"branch_summary", b"session_info", b"custom",
}  # fmt: skip
_COMMAND = re.compile(r"/[A-Za-z][\w:-]*(?:\s|$)")
# What OpenClaw puts before a person's words in chats.
_ENVELOPE = re.compile(r"\A(?:[^\n`]{0,80}\(untrusted metadata\):\s*```json\n.*?\n```\s*)+", re.DOTALL)
_SILENT = re.compile(r"\W*(?:NO_REPLY|HEARTBEAT_OK)\W*")
_ASKED = re.compile(r"\b(?:reply|respond|answer)\s+(?:with|only|exactly)\b", re.IGNORECASE)
_FLUSH = re.compile(r"\bmemory flush\b", re.IGNORECASE)


class Tree:
    """Which records are on the main line. Knows ids alone."""

    def __init__(self, leaf: str = ""):
        self.before = leaf  # the last record of what was read earlier
        self.leaf = leaf
        self.open = False  # whether something builds on earlier records other than the last
        self._parents: dict[str, str] = {}

    def add(self, data: bytes) -> None:
        found = _START.match(data)
        if found and found[1] == b"session":
            return
        if found and found[1] != b"leaf":
            parent = (found[3] or b"").decode("utf-8", "replace")
            self._put(found[2].decode("utf-8", "replace"), parent)
            return
        try:
            given = record(data)
        except BadRecord:
            return
        if given.get("type") != "session" and (name := fields.text(given.get("id"))):
            # A leaf goes back to its target: what comes after it builds on that.
            self._put(
                name, fields.text(given.get("targetId") if given.get("type") == "leaf" else given.get("parentId"))
            )

    def _put(self, name: str, parent: str) -> None:
        if name in self._parents:
            return
        if parent and parent != self.before and parent not in self._parents:
            self.open = True
        self._parents[name] = parent
        self.leaf = name

    def given_up(self) -> set[str]:
        """The records that branch off the main line. What has no way to it, for want of a damaged line, does not."""
        path, at = {self.before}, self.leaf
        while at and at in self._parents and at not in path:
            path.add(at)
            at = self._parents[at]
        path.discard("")
        off: set[str] = set()
        for name, parent in self._parents.items():
            if name not in path and (parent in path or parent in off):
                off.add(name)
        return off


class Transcript:
    """The Adapter of the lines; for the rows of SQLite it is given them one by one."""

    def __init__(self, log: LogFile, state: bytes, sidechain: bool | None = None):
        known = json.loads(state) if state else {}
        self.session = known.get("session", "")
        self.flush = known.get("flush", False)
        self.tree = Tree(known.get("leaf", ""))
        self.last = self.tree.before  # the record that was read last
        self.folders: set[str] = set()
        self.waits = False
        self._fallback = log.path.name.split(".jsonl")[0]
        self._off: set[str] = set()
        self._log = log
        self._sidechain = sidechain

    def survey(self, opened: Opened) -> bool:
        return self.look(line.data for line in opened.lines() if line.ended)

    def look(self, records: Iterable[bytes]) -> bool:
        resumed = bool(self.tree.before)
        for data in records:
            if data:
                self.tree.add(data)
        self._off = self.tree.given_up()
        return not (resumed and self.tree.open)

    def wanted(self, data: bytes) -> bool:
        found = _START.match(data)
        if not found:
            return True
        if found[1] != b"session":
            self.last = found[2].decode("utf-8", "replace")
        if found[1] in (b"message", b"session"):
            return True
        if found[1] == b"custom":
            return b'"model-snapshot"' in data
        return found[1] in _KINDS

    def state(self) -> bytes:
        return json.dumps({"session": self.session, "flush": self.flush, "leaf": self.last}).encode()

    def events(self, given: dict[str, Any], line: int) -> Iterator[Event]:
        kind = given.get("type")
        if kind == "session":
            self.session = fields.text(given.get("id")) or self.session
            if folder := fields.text(given.get("cwd")):
                self.folders.add(folder)
            return
        self.last = fields.text(given.get("id")) or self.last
        told = _Telling(self, given, line)
        if told.at is None:
            return
        if kind == "message":
            yield from self._message(told, fields.table(given.get("message")))
        elif kind == "model_change":
            yield from told.model(given.get("modelId"))
        elif kind == "custom" and given.get("customType") == "model-snapshot":
            yield from told.model(fields.table(given.get("data")).get("modelId"))
        elif kind in ("compaction", "branch_summary"):
            name = "branch" if kind == "branch_summary" else ""
            if kind == "compaction":
                details = fields.table(given.get("details"))
                touched = [*fields.items(details.get("readFiles")), *fields.items(details.get("modifiedFiles"))]
                yield told.event(
                    Kind.COMPACTION, fields.without_ours(fields.text(given.get("summary"))), name=name,
                    files=fields.files({"paths": touched}),
                )  # fmt: skip
        elif kind == "session_info" and (name := fields.text(given.get("name"))):
            yield told.event(Kind.TITLE, name)

    def _message(self, told: "_Telling", message: dict[str, Any]) -> Iterator[Event]:
        role, content = message.get("role"), message.get("content")
        if role == "user":
            words = _ENVELOPE.sub("", fields.said(content)).strip()
            self.flush = _asks_for_notes(words)
            harness = self.flush or "HEARTBEAT_OK" in words or _COMMAND.match(words)
            if words and not harness:
                yield told.event(Kind.PROMPT, words)
        elif role == "assistant":
            yield from self._reply(told, message, fields.said(content).strip())
        elif role == "toolResult":
            tool, failed = fields.text(message.get("toolName")), message.get("isError") is True
            if not fields.ours(tool):
                call = fields.text(message.get("toolCallId"))
                shown = fields.said(content)[: fields.RESULT] if failed else ""
                yield told.event(Kind.RESULT, shown, name=tool, failed=failed, naming=call)
        elif role == "bashExecution" and (line := fields.shell_line(message.get("command"))[: fields.COMMAND]):
            code = message.get("exitCode")
            failed = message.get("cancelled") is True or (isinstance(code, int) and code != 0)
            shown = fields.without_ours(fields.text(message.get("output")))[: fields.RESULT] if failed else ""
            yield told.event(Kind.CALL, shown, name="bash", command=line, failed=failed)

    def _reply(self, told: "_Telling", message: dict[str, Any], words: str) -> Iterator[Event]:
        model = "" if message.get("provider") == "openclaw" else fields.text(message.get("model"))
        if words and not self.flush and not _SILENT.fullmatch(words):
            yield told.event(Kind.REPLY, words, model=model)
        for block in fields.blocks(message.get("content"), "toolCall"):
            tool, given = fields.text(block.get("name")), block.get("arguments")
            if not fields.ours(tool):
                yield told.event(
                    Kind.CALL, name=tool, model=model, command=fields.command(tool, given), files=fields.files(given),
                    naming=fields.text(block.get("id")),
                )  # fmt: skip
        if message.get("stopReason") in ("error", "aborted"):
            why = fields.text(message.get("errorMessage")) or str(message["stopReason"])
            yield told.event(Kind.ERROR, why[: fields.RESULT], model=model, failed=True)

    def aside(self, name: str) -> Aside:
        if self._sidechain is None:
            self._sidechain = ":subagent:" in _key_of(self._log.path.parent / "sessions.json", self.name)
        return Aside.SUBAGENT if self._sidechain else Aside.TAKEN_BACK if name in self._off else Aside.NOT

    @property
    def name(self) -> str:
        return self.session or self._fallback


def _asks_for_notes(words: str) -> bool:
    """Whether this is the program before a compaction. A person may speak of NO_REPLY, too."""
    at = words.rfind("NO_REPLY")
    if at < 0:
        return False
    asked = _ASKED.search(words[max(0, at - 60) : at]) is not None and len(words) - at < 80
    return asked or _FLUSH.search(words[:at]) is not None


class _Telling:
    """What the events of one record share."""

    def __init__(self, transcript: Transcript, given: dict[str, Any], line: int):
        at = fields.milliseconds(given.get("timestamp"))
        if at is None:
            at = fields.milliseconds(fields.table(given.get("message")).get("timestamp"))
        self.at = at
        self._transcript = transcript
        self._aside = transcript.aside(fields.text(given.get("id")))
        self._order = line << 8

    def event(self, kind: Kind, text: str = "", *, naming: str = "", **more: Any) -> Event:
        """`naming`: what tells it from others at the same time, where its text does not."""
        self._order += 1
        # Both generations and all forks tell the same of it. Ids may be other ones, so they are not in it.
        key = fields.digest(kind, self.at, text, naming, *(more.get(name, "") for name in ("name", "model", "command")))
        return Event(
            kind, AGENT, self._transcript.name, key, self.at or 0, self._order, text, aside=self._aside, **more
        )

    def model(self, name: Any) -> Iterator[Event]:
        if model := fields.text(name):
            yield self.event(Kind.MODEL, model=model)


@lru_cache(maxsize=16)
def _keys(index: Path, modified: int) -> dict[str, str]:
    """Session id → session key, of the index beside the transcripts."""
    try:
        entries = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        fields.text(fields.table(entry).get("sessionId")): fields.text(key)
        for key, entry in fields.table(entries).items()
    }


def _key_of(index: Path, session: str) -> str:
    try:
        return _keys(index, index.stat().st_mtime_ns).get(session, "")
    except OSError:
        return ""


class Lines:
    format = "openclaw-jsonl"

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        return follow(log, place, Transcript)
