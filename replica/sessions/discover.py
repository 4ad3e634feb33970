"""Which logs there are: in the places where agents keep them, or anywhere below a folder, told by what is in them.

A name excludes what repeats other logs (traces, checkpoints, backups); it never makes a file a log.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from replica.errors import ReplicaError
from replica.sessions import claude_code, codex, gemini, openclaw, openclaw_store
from replica.sessions.base import Damage, Event, LogFile, Place, Progress, Reader
from replica.sessions.lines import BadRecord, Opened, Unreadable, record

AGENTS = ("openclaw", "claude-code", "codex", "gemini")
READERS: dict[str, Reader] = {
    reader.format: reader
    for reader in (
        openclaw.Lines(), openclaw_store.Store(), claude_code.Lines(), codex.Lines(), gemini.Lines(), gemini.Document(),
    )
}  # fmt: skip
_AGENT_OF = {
    "openclaw-jsonl": "openclaw", "openclaw-sqlite": "openclaw", "claude-code": "claude-code", "codex": "codex",
    "gemini": "gemini", "gemini-json": "gemini",
}  # fmt: skip
_LOOKED_AT = 20  # records, until one says what wrote it
_NAME = re.compile(r"\.jsonl(?:\.(?:reset|deleted)\.[^/]+?)?(?:\.zst)?\Z|\.sqlite\Z|\.json\Z")
_DECOY = re.compile(r"\.trajectory\.jsonl|\.checkpoint\.[^/]*\.jsonl|\.bak\.|\.lock\Z")
_CLAUDE_KINDS = {
    "summary", "ai-title", "custom-title", "file-history-snapshot", "mode", "permission-mode", "queue-operation",
    "last-prompt",
}  # fmt: skip
_BEGINNINGS = (
    (re.compile(rb'\{"type":"\w+","(?:version|id)":'), "openclaw-jsonl"),
    (re.compile(rb'\{"timestamp":"[^"]*",(?:"ordinal":\d+,)?"type":"\w+","payload":'), "codex"),
    (re.compile(rb'\{"(?:parentUuid|leafUuid)":'), "claude-code"),
    (re.compile(rb'\{"sessionId":"[^"]*","projectHash":'), "gemini"),
)


def read(log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
    """What the log holds behind `place`."""
    return READERS[log.format].read(log, place)


def discover(
    agents: Collection[str] | None = None, sessions_dir: Path | None = None, unreadable: list[Damage] | None = None
) -> list[LogFile]:
    """The logs of these agents (None or none: of all), by path. Raises ReplicaError: there is no such folder.

    `sessions_dir`: everything below it (or it alone, a file), in place of the agents' own places. `unreadable` gets the
    files and folders that may hold logs and cannot be opened.
    """
    lost = [] if unreadable is None else unreadable
    wanted = set(agents or AGENTS)
    if sessions_dir is not None:
        if not sessions_dir.exists():
            raise ReplicaError(f"there is no folder {sessions_dir}", hint="name the one that holds the session logs")
        places = [sessions_dir]
    else:
        places = [place for agent in AGENTS if agent in wanted for place in default_places(agent)]
    found = {}
    for path in (path for place in places for path in _candidates(place, lost)):
        try:
            log = _recognised(path)
        except FileNotFoundError:  # gone meanwhile
            continue
        except (OSError, Unreadable) as error:
            lost.append(_unopened(path, error))
            continue
        if log is not None and log.agent in wanted:
            found.setdefault(os.path.realpath(path), log)
    return sorted(found.values(), key=lambda log: log.path)


def default_places(agent: str, env: Any = None, home: Path | None = None) -> list[Path]:
    """Where an agent keeps its logs, current and older versions of it."""
    env = os.environ if env is None else env
    home = home or Path.home()
    match agent:
        case "openclaw":
            own = [env[name] for name in ("OPENCLAW_STATE_DIR", "CLAWDBOT_STATE_DIR") if env.get(name)]
            base = Path(env["OPENCLAW_HOME"]) if env.get("OPENCLAW_HOME") else home
            homes = [Path(place) for place in own] or [base / name for name in (".openclaw", ".clawdbot", ".moltbot")]
            return [place / "agents" for place in homes]
        case "claude-code":
            own = env.get("CLAUDE_CONFIG_DIR")
            homes = [Path(own)] if own else [home / ".claude", home / ".config/claude"]
            return [place / "projects" for place in homes]
        case "codex":
            base = Path(env.get("CODEX_HOME") or home / ".codex")
            return [base / "sessions", base / "archived_sessions"]
        case "gemini":
            return [Path(env.get("GEMINI_CLI_HOME") or home) / ".gemini" / "tmp"]
    return []


def _unopened(path: str | Path, error: OSError | Unreadable) -> Damage:
    return Damage(os.fspath(path), 0, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _candidates(place: Path, lost: list[Damage]) -> Iterator[Path]:
    if place.is_file():
        yield place

    def closed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            lost.append(_unopened(error.filename, error))

    for folder, folders, names in os.walk(place, onerror=closed):
        folders.sort()
        for name in sorted(names):
            if _NAME.search(name) and not _DECOY.search(name):
                yield Path(folder, name)


def recognised(path: Path) -> LogFile | None:
    """The log that a file is; None: it is none, or cannot be read."""
    try:
        return _recognised(path)
    except (OSError, Unreadable):
        return None


def _recognised(path: Path) -> LogFile | None:
    """Raises OSError, Unreadable."""
    status = path.stat()
    format = _format(path)
    if format is None:
        return None
    size, modified = status.st_size, status.st_mtime_ns
    if format == "openclaw-sqlite":
        try:
            beside = path.with_name(path.name + "-wal").stat()
            size, modified = size + beside.st_size, max(modified, beside.st_mtime_ns)
        except OSError:
            pass
    return LogFile(path, _AGENT_OF[format], format, size, modified)


def _format(path: Path) -> str | None:
    """Raises OSError, Unreadable."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"SQLite format 3\x00"):
        return "openclaw-sqlite" if _is_store(path) else None
    if path.name.endswith(".json"):
        head = head.lstrip(b"\xef\xbb\xbf \r\n\t")
        found = head.startswith(b"{") and b'"sessionId"' in head and b'"projectHash"' in head
        return "gemini-json" if found else None
    with Opened(path) as opened:
        opened.go(Place())
        looked, guess = 0, None
        for line in opened.lines():
            try:
                found = _kind(record(line.data))
            except BadRecord:
                guess = guess or _guess(line.data)
                continue
            looked += 1
            if found or looked >= _LOOKED_AT:
                return found
    # Where nothing is whole, it is a log nevertheless: what is lost has to be told.
    return None if looked else guess


def _is_store(path: Path) -> bool:
    try:
        with closing(openclaw_store.connect(path)) as store:
            names = {row[1] for row in store.execute("PRAGMA table_info(transcript_events)")}
    except openclaw_store.FAULTS:
        return False
    return {"session_id", "seq", "event_json"} <= names


def _guess(data: bytes) -> str | None:
    """Which program began to write this line."""
    return next((format for begin, format in _BEGINNINGS if begin.match(data)), None)


def _kind(given: dict[str, Any]) -> str | None:
    """Which program writes records like this one."""
    kind = given.get("type")
    kind = kind if isinstance(kind, str) else None
    if "traceSchema" in given:
        return None
    if kind == "session" and "id" in given and ("version" in given or "cwd" in given):
        return "openclaw-jsonl"
    if "parentId" in given and "id" in given and kind:
        return "openclaw-jsonl"
    if "payload" in given and "timestamp" in given and kind:
        return "codex"
    if "record_type" in given or ("instructions" in given and "timestamp" in given and "id" in given):
        return "codex"
    if "sessionId" in given and "projectHash" in given:
        return "gemini"
    if "$set" in given or "$rewindTo" in given:
        return "gemini"
    if kind and ("parentUuid" in given or "leafUuid" in given):
        return "claude-code"
    if kind in _CLAUDE_KINDS and ("sessionId" in given or "messageId" in given):
        return "claude-code"
    return None


def agents_named(text: str) -> frozenset[str]:
    """The agents of `--agent A[,B]`. Raises ReplicaError."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if unknown := names - set(AGENTS):
        raise ReplicaError(f"no agent is called {', '.join(sorted(unknown))}", hint=f"there are: {', '.join(AGENTS)}")
    return names
