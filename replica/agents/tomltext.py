"""Changes to a TOML text that leave every other character where it is: a table put at its end, a table taken out.

Only whole tables with a header of their own. Where it begins and ends is guessed by lines, and each guess is checked
against what the text should mean then: a line that only looks like a header, in a long string, cannot deceive.
"""

import json
import re
import tomllib
from typing import Any

from replica.errors import ForeignFile

_HEADER = re.compile(r"[ \t]*\[")


def loads(text: str, file: str) -> dict[str, Any]:
    """What the text means. Raises ForeignFile: it is no TOML."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise ForeignFile(f"{file}: no TOML ({error})") from None


def put(text: str, path: tuple[str, str], values: dict[str, Any], file: str) -> str:
    """The text with a table of strings and lists of strings at its end. Raises ForeignFile: there is no place."""
    before = loads(text, file)
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text else newline if text.endswith("\n") else newline * 2
    changed = text + gap + table(path, values).replace("\n", newline)
    parent = before.get(path[0], {})
    expected = {**before, path[0]: {**parent, path[1]: values}} if isinstance(parent, dict) else None
    return _checked(changed, expected, file, path)


def table(path: tuple[str, str], values: dict[str, Any]) -> str:
    """The lines of a table. JSON's strings and lists are TOML's, but for DEL, which no path of ours has."""
    lines = [f"[{'.'.join(map(_key, path))}]", *(f"{_key(k)} = {json.dumps(v)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def take(text: str, path: tuple[str, str], file: str) -> str:
    """The text without that table and the tables in it. Raises ForeignFile: it cannot be taken out as a whole."""
    before = loads(text, file)
    rest = {name: value for name, value in before[path[0]].items() if name != path[1]}
    expected = {**before, path[0]: rest}
    # A table that was made by the header of its only part is gone with it.
    bare = {name: value for name, value in before.items() if name != path[0]}
    wanted = [expected, bare] if not rest else [expected]
    lines = text.splitlines(keepends=True)
    headers = [at for at, line in enumerate(lines) if _HEADER.match(line)]
    for begin in reversed(headers):  # the table itself comes before any larger part that has it
        for end in [*(at for at in headers if at > begin), len(lines)]:
            kept = end  # remarks before the next header are that header's
            while kept > begin + 1 and (not lines[kept - 1].strip() or lines[kept - 1].lstrip().startswith("#")):
                kept -= 1
            first = begin - 1 if begin and not lines[begin - 1].strip() else begin
            changed = "".join(lines[:first] + lines[kept:])
            if _means(changed, wanted):
                return changed
    raise ForeignFile(f"{file}: {'.'.join(path)} cannot be taken out without touching other entries")


def _means(text: str, wanted: list[dict]) -> bool:
    try:
        found = loads(text, "")
    except ForeignFile:
        return False
    return any(repr(found) == repr(one) for one in wanted)


def _checked(text: str, expected: dict | None, file: str, path: tuple[str, str]) -> str:
    if expected is None or not _means(text, [expected]):
        raise ForeignFile(f"{file}: there is no place for {'.'.join(path)}")
    return text
