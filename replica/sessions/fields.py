"""Fields of foreign JSON: whatever stands there, what comes out has the type that was asked for and can be encoded."""

import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from replica.sessions.base import without_ours

RESULT, COMMAND, FILES = 2_000, 4_000, 32  # characters of a failure, of a command; files named by one call
_LATEST = 253_402_300_800_000  # the year 10000
_PATH_FIELDS = (
    "file_path", "path", "notebook_path", "filePath", "filename", "file", "absolute_path", "file_paths", "paths",
)  # fmt: skip
_SHELLS = re.compile(r"bash|shell|exec|terminal|run_command", re.IGNORECASE)
_PATCHED = re.compile(r"^\*\*\* (?:Add|Update|Delete) File: (.+)$", re.MULTILINE)
_OURS = re.compile(r"mcp_+[\w.-]*replica[\w.-]*_\w|[\w.-]*replica[\w.-]*__\w", re.IGNORECASE)


def text(value: Any) -> str:
    """A string that UTF-8 can hold: half of a surrogate pair becomes U+FFFD, and so does NUL."""
    if not isinstance(value, str) or value.isascii():
        return value.replace("\x00", "\ufffd") if isinstance(value, str) else ""
    try:
        value.encode()
    except UnicodeEncodeError:
        value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value.replace("\x00", "\ufffd")


def table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def blocks(content: Any, *kinds: str) -> Iterator[dict[str, Any]]:
    """The blocks of these kinds; a plain string is one of text."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for block in items(content):
        if isinstance(block, dict) and block.get("type") in kinds:
            yield block


def said(content: Any, *kinds: str) -> str:
    """The text of a message, without what was put into it by us."""
    return without_ours("\n".join(text(block.get("text")) for block in blocks(content, *(kinds or ("text",)))))


def milliseconds(value: Any) -> int | None:
    """Since 1970, of an ISO time or a number of seconds or milliseconds. None: it is no time."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            at = round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            at = round(value if abs(value) > 1e11 else value * 1000)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return at if 0 <= at < _LATEST else None


def digest(*parts: Any) -> str:
    """A short name for what has none."""
    return blake2b("\0".join(map(str, parts)).encode("utf-8", "replace"), digest_size=9).hexdigest()


def ours(tool: str) -> bool:
    """Whether a tool is one of our own MCP server: what it was asked and gave is memory already."""
    return _OURS.match(tool) is not None


def command(tool: str, arguments: Any) -> str:
    """What a tool that runs commands was to run."""
    if isinstance(arguments, str):
        return ""
    given = table(arguments)
    line = given.get("cmd") or given.get("command")
    if not (line and _SHELLS.search(tool)):
        return ""
    return shell_line(line)[:COMMAND]


def shell_line(line: Any) -> str:
    """A command line of a string, or of a list of words: `bash -lc LINE` is LINE."""
    if isinstance(line, str):
        return text(line)
    words = [text(word) for word in items(line) if isinstance(word, str)]
    if len(words) == 3 and words[1] in ("-c", "-lc") and words[0].endswith("sh"):
        return words[2]
    return shlex.join(words)


def files(arguments: Any) -> tuple[str, ...]:
    """The files that the arguments of a call name, in order."""
    found: dict[str, None] = {}
    given = arguments if isinstance(arguments, str) else table(arguments).get("input") or table(arguments).get("patch")
    if isinstance(given, str) and "*** " in given:
        found.update(dict.fromkeys(map(str.strip, _PATCHED.findall(text(given)))))
    for name in _PATH_FIELDS:
        value = table(arguments).get(name)
        for one in [value] if isinstance(value, str) else items(value):
            path = text(one).strip()
            if 0 < len(path) <= 1024 and "\n" not in path:
                found.setdefault(path)
    return tuple(found)[:FILES]
