"""Claude Code's transcripts: a file a session, and one a subagent; older versions keep both in one file.

An assistant's message is one record a content block; they share `message.id`. Records build on each other by
`parentUuid`. That is a tree for other reasons, too (tools that run side by side), so a branch counts as given up only
from a prompt on.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from replica.sessions import fields
from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress, without_ours
from replica.sessions.lines import BadRecord, Opened, follow, record

AGENT = "claude-code"
_REMEMBERED, _PARTS, _CALLS = 8, 100, 256  # messages whose texts are counted, those; calls that may have a result yet

# What the program says in the user's place.
_HARNESS = re.compile(
    r"<(?:command-|local-command-|bash-(?:stdout|stderr)|system-reminder|user-prompt-submit-hook|task-|teammate-|"
    r"ide_|session-|new-diagnostics|fork-|environment_context|user_instructions|model_switch|permissions instructions)"
    r"|Caveat: The messages below were generated|\[Request interrupted|# AGENTS\.md instructions"
)
_REMINDER = re.compile(r"<system-reminder>.*?(?:</system-reminder>|\Z)", re.DOTALL)
_TYPED = re.compile(r"\s*<(bash-input|user-memory-input)>(.*?)</\1>", re.DOTALL)
# The kinds that say something, as the program writes them: without spaces.
_WANTED = (
    b'"type":"user"', b'"type":"assistant"', b'"subtype":"compact_boundary"', b'"type":"summary"',
    b'"type":"ai-title"', b'"type":"custom-title"', b'"attachment":{"type":"model"',
)  # fmt: skip
_UUID = re.compile(rb'"uuid":"([^"\\]*)"')
_PARENT = re.compile(rb'"(?:logicalParentUuid|parentUuid)":"([^"\\]*)"')


class Tree:
    """Which records hang off the main line from a prompt on. Knows ids alone."""

    def __init__(self, leaf: str = ""):
        self.before = leaf
        self.leaf = leaf
        self.open = False  # whether something builds on earlier records other than the last
        self._records: dict[str, tuple[str, bool]] = {}  # id → (parent, is it a prompt)

    def add(self, data: bytes) -> None:
        if b'"uuid"' not in data or b'"isSidechain":true' in data:
            return
        names, parents = _UUID.findall(data), _PARENT.findall(data)
        plain = len(names) == 1 and len(parents) <= 1 and b'"uuid": ' not in data
        if plain:
            prompt = b'"type":"user"' in data and b'"tool_result"' not in data and b'"isMeta":true' not in data
            self._put(names[0].decode("utf-8", "replace"), (parents or [b""])[0].decode("utf-8", "replace"), prompt)
            return
        try:
            given = record(data)
        except BadRecord:
            return
        if given.get("isSidechain") is not True and (name := fields.text(given.get("uuid"))):
            parent = fields.text(given.get("parentUuid")) or fields.text(given.get("logicalParentUuid"))
            prompt = given.get("type") == "user" and given.get("isMeta") is not True
            prompt = prompt and not any(fields.blocks(fields.table(given.get("message")).get("content"), "tool_result"))
            self._put(name, parent, prompt)

    def _put(self, name: str, parent: str, prompt: bool) -> None:
        if name in self._records:
            return
        if parent and parent != self.before and parent not in self._records:
            self.open = True
        self._records[name] = (parent, prompt)
        self.leaf = name

    def given_up(self) -> set[str]:
        path, at = {self.before}, self.leaf
        while at in self._records and at not in path:
            path.add(at)
            at = self._records[at][0]
        path.discard("")
        hanging, off = set(), set()  # off the main line; and behind a prompt there
        for name, (parent, prompt) in self._records.items():
            if name not in path and (parent in path or parent in hanging):
                hanging.add(name)
                if prompt or parent in off:
                    off.add(name)
        return off


class Transcript:
    """The Adapter."""

    def __init__(self, log: LogFile, state: bytes):
        known = json.loads(state) if state else {}
        self._session = known.get("session", "")
        self._at = known.get("at")  # of the last record that said its time
        self._last = known.get("leaf", "")
        self._calls: dict[str, str] = known.get("calls", {})
        self._blocks: dict[str, dict[str, int]] = known.get("blocks", {})  # message → its texts so far, as digests
        self._boundary = known.get("boundary")  # a compaction whose summary has not come yet: its id and time
        self._tree = Tree(self._last)
        self._off: set[str] = set()
        self._fallback = log.path.name.split(".jsonl")[0]
        self._subagent = log.path.parent.name == "subagents"
        self.folders: set[str] = set()
        self.waits = False

    def survey(self, opened: Opened) -> bool:
        resumed = bool(self._last)
        for line in opened.lines():
            if line.ended:
                if self._at is None:
                    self._at = _first_time(line.data)
                self._tree.add(line.data)
        self._off = self._tree.given_up()
        return not (resumed and self._tree.open)

    def wanted(self, data: bytes) -> bool:
        return any(kind in data for kind in _WANTED) or b'"type":"' not in data

    def state(self) -> bytes:
        return json.dumps(
            {
                "session": self._session, "at": self._at, "leaf": self._last, "calls": self._calls,
                "blocks": self._blocks, "boundary": self._boundary,
            }
        ).encode()  # fmt: skip

    def events(self, given: dict[str, Any], line: int) -> Iterator[Event]:
        at = fields.milliseconds(given.get("timestamp"))
        self._at = self._at if at is None else at
        self._session = fields.text(given.get("sessionId")) or self._session
        if folder := fields.text(given.get("cwd")):
            self.folders.add(folder)
        told = _Telling(self, given, line)
        if given.get("isSidechain") is not True and told.name:
            self._last = told.name
        kind = given.get("type")
        message = fields.table(given.get("message"))
        if self._boundary and not given.get("isCompactSummary") and kind in ("user", "assistant"):
            yield from self._compacted(told, "")
        if kind == "user" and self._at is not None:
            yield from self._user(told, given, message)
        elif kind == "assistant" and self._at is not None:
            yield from self._assistant(told, given, message)
        elif kind == "system" and given.get("subtype") == "compact_boundary":
            self._boundary = [told.name, self._at]
        elif kind == "attachment":
            identity = fields.table(fields.table(given.get("attachment")).get("identity"))
            if model := fields.text(identity.get("modelId")):
                yield told.event(Kind.MODEL, "model", model=model)
        elif kind in ("summary", "ai-title", "custom-title"):
            # A title has no time of its own: that of the record before it, and of the first one for those at the top.
            self.waits = self._at is None
            name = given.get({"summary": "summary", "ai-title": "aiTitle"}.get(kind, "customTitle"))
            if (title := fields.text(name)) and not self.waits:
                yield told.event(Kind.TITLE, fields.digest(self.session, title), title, shared=True)

    @property
    def session(self) -> str:
        return self._session or self._fallback

    def aside(self, given: dict[str, Any]) -> Aside:
        if self._subagent or given.get("isSidechain") is True:
            return Aside.SUBAGENT
        return Aside.TAKEN_BACK if fields.text(given.get("uuid")) in self._off else Aside.NOT

    def time(self) -> int:
        return self._at or 0

    # --- the user's records

    def _user(self, told: "_Telling", given: dict[str, Any], message: dict[str, Any]) -> Iterator[Event]:
        content = message.get("content")
        if given.get("isCompactSummary") is True:
            if given.get("repeatsCompactSummary") is not True:
                yield from self._compacted(told, without_ours(fields.said(content)))
            return
        for block in fields.blocks(content, "tool_result"):
            yield from self._result(told, block)
        if given.get("isMeta") is True:
            return
        whole = fields.said(content)
        if whole.startswith("[Request interrupted"):
            yield told.event(Kind.ERROR, "interrupted", "interrupted", failed=True)
        typed = _TYPED.match(whole)
        if typed and typed[1] == "bash-input":
            yield told.event(Kind.CALL, "bash", name="Bash", command=typed[2].strip()[: fields.COMMAND])
        elif typed:
            yield told.event(Kind.LEARNING, "memory", typed[2].strip())
        elif words := _prompt(content):
            yield told.event(Kind.PROMPT, "", words)

    def _result(self, told: "_Telling", block: dict[str, Any]) -> Iterator[Event]:
        call, failed = fields.text(block.get("tool_use_id")), block.get("is_error") is True
        tool = self._calls.pop(call, "")
        if fields.ours(tool):
            return
        shown = fields.said(block.get("content"))[: fields.RESULT] if failed else ""
        yield told.event(Kind.RESULT, call, shown, name=tool, failed=failed)

    def _compacted(self, told: "_Telling", summary: str) -> Iterator[Event]:
        """A compaction: its boundary, and the summary behind it."""
        name, at = self._boundary or (told.name, None)
        self._boundary = None
        if summary or name != told.name:
            yield told.event(Kind.COMPACTION, name, summary, shared=True, at=at)

    # --- the assistant's records

    def _assistant(self, told: "_Telling", given: dict[str, Any], message: dict[str, Any]) -> Iterator[Event]:
        model = fields.text(message.get("model"))
        model = "" if model.startswith("<") else model
        name = fields.text(message.get("id")) or told.name
        content = message.get("content")
        if given.get("isApiErrorMessage") is True:
            yield told.event(Kind.ERROR, "api", fields.said(content)[: fields.RESULT], failed=True)
            return
        for block in fields.blocks(content, "text"):
            if words := without_ours(fields.text(block.get("text"))).strip():
                yield told.event(Kind.REPLY, f"{name}:{self._part(name, words)}", words, model=model, shared=True)
        for block in fields.blocks(content, "tool_use"):
            tool, call, asked = fields.text(block.get("name")), fields.text(block.get("id")), block.get("input")
            self._calls[call] = tool
            while len(self._calls) > _CALLS:
                del self._calls[next(iter(self._calls))]
            if not fields.ours(tool):
                yield told.event(
                    Kind.CALL, f"{name}:{call}", name=tool, model=model, command=fields.command(tool, asked),
                    files=fields.files(asked), shared=bool(call),
                )  # fmt: skip

    def _part(self, message: str, words: str) -> int | str:
        """Which text of its message this is, from 0; told again, it is the same."""
        parts = self._blocks.setdefault(message, {})
        while len(self._blocks) > _REMEMBERED:
            del self._blocks[next(iter(self._blocks))]
        name = fields.digest(words)
        return parts.setdefault(name, len(parts)) if name in parts or len(parts) < _PARTS else name


class _Telling:
    """What the events of one record share."""

    def __init__(self, transcript: Transcript, given: dict[str, Any], line: int):
        self.name = fields.text(given.get("uuid"))
        # A branch of its own copies records and says of which one each is a copy.
        source = fields.text(fields.table(given.get("forkedFrom")).get("messageUuid"))
        self._key = source or self.name or f"{transcript.session}:{line}"
        self._aside = transcript.aside(given)
        self._transcript = transcript
        self._order = line << 8

    def event(
        self, kind: Kind, naming: str, text: str = "", *, shared: bool = False, at: int | None = None, **more: Any
    ) -> Event:
        """`naming`: what tells it from other events of the record; `shared`: it says that by itself, in every file."""
        self._order += 1
        made = self._transcript
        key = f"{kind}:{naming}" if shared else f"{kind}:{self._key}:{naming}"
        return Event(
            kind, AGENT, made.session, key, made.time() if at is None else at, self._order, text, aside=self._aside,
            **more,
        )  # fmt: skip


def _prompt(content: Any) -> str:
    """What a person said in a user's record; "" where the program spoke."""
    said = [fields.text(block.get("text")) for block in fields.blocks(content, "text")]
    kept = [_REMINDER.sub("", words).strip() for words in said]
    kept = [words for words in kept if words and not _HARNESS.match(words)]
    return without_ours("\n".join(kept)).strip()


def _first_time(data: bytes) -> int | None:
    found = re.search(rb'"timestamp":"([0-9][^"\\]*)"', data)
    return fields.milliseconds(found[1].decode("utf-8", "replace")) if found else None


class Lines:
    format = "claude-code"

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        return follow(log, place, Transcript)
