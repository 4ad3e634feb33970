"""What every reader of session logs gives: events. One adapter a format makes them; nothing else knows the formats.

An event is one thing that was said or done. Logs repeat themselves, within a file and between files (forks,
checkpoints, archives), so an event has a key that is equal wherever the same thing is told again.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol


class Kind(StrEnum):
    PROMPT = "prompt"  # a person's words
    REPLY = "reply"  # the agent's words
    CALL = "call"  # a tool is called, or a command run; `name` says which
    RESULT = "result"  # what the tool gave; `text` only where it failed
    MODEL = "model"  # the model in use is said, other than by a reply
    COMPACTION = "compaction"  # what was said before gave way to a summary: `text`
    ERROR = "error"  # the model's service failed, or a turn was broken off
    TITLE = "title"  # a name for the session
    LEARNING = "learning"  # what an agent's own tools said to remember


class Aside(IntEnum):
    """Where an event stands to the main line of its session."""

    NOT = 0  # on it
    TAKEN_BACK = 1  # it was, and was given up: a branch, turns that were rolled back, a rewind
    SUBAGENT = 2  # it never was: what an agent and a helper of its own say to each other


@dataclass(frozen=True, slots=True)
class Event:
    """One thing of a session.

    `at`: milliseconds since 1970, UTC. `key`: names it within its agent, across files. `order`: of two events at the
    same time in one file the one that came first. `command` and `files`: of a call, what it ran and which files it
    named.
    """

    kind: Kind
    agent: str  # "openclaw", "claude-code", "codex", "gemini"
    session: str
    key: str
    at: int
    order: int
    text: str = ""
    name: str = ""
    model: str = ""
    command: str = ""
    files: tuple[str, ...] = ()
    failed: bool = False
    aside: Aside = Aside.NOT

    @property
    def is_message(self) -> bool:
        """Whether people would say that it was said: what was taken back was, a subagent's was not."""
        return self.kind in (Kind.PROMPT, Kind.REPLY) and self.aside is not Aside.SUBAGENT


class Damage(NamedTuple):
    """A part of a log that could not be read; `line` from 1, or the row of a database."""

    file: str
    line: int
    reason: str


class Place(NamedTuple):
    """How far a log was read: what to go on from. `head`: a hash of what was read, so that another file is noticed."""

    offset: int = 0
    line: int = 0
    head: bytes = b""
    state: bytes = b""  # what the adapter must know of what came before, in its own form


@dataclass(frozen=True, slots=True)
class LogFile:
    """One log of one format. `size` and `modified` of a database include its write-ahead log."""

    path: Path
    agent: str
    format: str  # names the adapter: "openclaw-jsonl", "openclaw-sqlite", "claude-code", "codex", "gemini"
    size: int
    modified: int  # nanoseconds since 1970


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the reading is. Whoever has stored all events before it may store `place`, and go on there.

    `folders`: where the sessions of the events since the last Progress worked, as far as it was said. A log of several
    sessions has a Progress between them.
    """

    place: Place
    folders: frozenset[str] = field(default_factory=frozenset)


class Reader(Protocol):
    """One adapter. Streams: never more than one record in memory, and never fails on a record.

    What was read before is told again where the log has become another one, and where it shows what was said before in
    another light (a branch was given up, turns were taken back). An event whose key was told already is that one: its
    text stays, and its `aside` is what was told last.
    """

    format: str

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        """What the log holds behind `place`; a `Progress` now and then, and always at the end."""


# --- our own words in others' logs

# What `replica` gives an agent at its start stands between these, so that it is never taken for what was said.
BEGIN_MEMORY = "[memory from replica: begin]"
END_MEMORY = "[memory from replica: end]"
_OURS = re.compile(re.escape(BEGIN_MEMORY) + r".*?(?:" + re.escape(END_MEMORY) + r"|\Z)", re.DOTALL)


def without_ours(text: str) -> str:
    """`text` without what `replica` itself put into it; text that was cut off in the middle of that ends there."""
    return _OURS.sub("", text) if BEGIN_MEMORY in text else text
