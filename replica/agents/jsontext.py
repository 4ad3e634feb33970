"""Changes to a JSON text that leave every other character where it is: members put in, members taken out.

The text belongs to somebody else. It is never written anew from what it means: that would lose the order of keys that
are there twice, the form of numbers, and how it is laid out. Each change is checked against what it should mean.
"""

import json
import re
from collections.abc import Iterable, Sequence
from json.decoder import scanstring
from typing import Any, NamedTuple

from replica.errors import ForeignFile

Path = tuple[str | int, ...]  # keys of objects and numbers of elements, from the top
END = -1  # in the last place of a path: behind the last element of an array

_BLANK = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r"[^\s,\]}]+")


class Node(NamedTuple):
    """A value and where it stands: text[start:end]. `parts` of an object or array: key or number, start, value."""

    start: int
    end: int
    parts: tuple["Part", ...] | None = None


class Part(NamedTuple):
    name: str | int
    start: int  # of the key in an object, of the value in an array
    node: Node


def loads(text: str, file: str) -> Any:
    """What the text means. Raises ForeignFile: it is no plain JSON; comments are none."""
    try:
        return json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ForeignFile(f"{file}, line {error.lineno}: no plain JSON ({error.msg}); comments, perhaps") from None
    except (ValueError, RecursionError) as error:
        raise ForeignFile(f"{file}: cannot be read: {error}") from None


def put(text: str, path: Path, value: Any, file: str) -> str:
    """The text with `value` at `path`, which is not there yet; objects and arrays on the way are made.

    Raises ForeignFile: it is no plain JSON, or something else stands on the way.
    """
    before = loads(text, file)
    if not isinstance(before, dict):
        raise ForeignFile(f"{file}: holds no object")
    node, here = _scan(text), before
    for depth, name in enumerate(path):
        there = isinstance(here, dict) and name in here
        if not there:
            value = _nested(path[depth + 1 :], value)
            changed = _insert(text, node, None if name == END else name, value)
            expected = _with(before, path[: depth + 1], value)
            return _checked(changed, expected, file)
        here = here[name]
        node = next(part.node for part in reversed(node.parts) if part.name == name)
        if node.parts is None or isinstance(here, list) != (path[depth + 1] == END):
            raise ForeignFile(f"{file}: {'.'.join(map(str, path[: depth + 1]))} is not what it should be")
    raise AssertionError("there already")


def _nested(path: Path, value: Any) -> Any:
    for name in reversed(path):
        value = [value] if name == END else {name: value}
    return value


def _with(data: Any, path: Path, value: Any) -> Any:
    """A copy of `data` with `value` at `path`."""
    name, rest = path[0], path[1:]
    if name == END:
        return [*data, value]
    return {**data, name: _with(data[name], rest, value) if rest else value}


def take(text: str, paths: Iterable[Path], file: str) -> str:
    """The text without what stands at `paths`. Raises ForeignFile: it cannot be changed safely."""
    for path in sorted(paths, key=_depth_first, reverse=True):
        expected = _without(loads(text, file), path)
        node = _scan(text)
        for name in path[:-1]:
            node = next(part.node for part in reversed(node.parts) if part.name == name)
        at = max(at for at, part in enumerate(node.parts) if part.name == path[-1])
        text = _checked(_cut(text, node, at), expected, file)
    return text


def _depth_first(path: Path) -> tuple:
    return tuple((isinstance(name, str), name) for name in path)


def _without(data: Any, path: Path) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(data, list):
        kept = [(number, one) for number, one in enumerate(data) if rest or number != name]
        return [_without(one, rest) if number == name else one for number, one in kept]
    return {key: _without(one, rest) if key == name else one for key, one in data.items() if rest or key != name}


def at(data: Any, path: Sequence[str | int]) -> Any:
    """What stands at `path`, or None."""
    for name in path:
        if isinstance(data, dict) or (isinstance(data, list) and isinstance(name, int) and name < len(data)):
            data = data.get(name) if isinstance(data, dict) else data[name]
        else:
            return None
    return data


def _checked(text: str, expected: Any, file: str) -> str:
    """Raises ForeignFile: the text does not mean what it should. Two equal keys are such a case."""
    if json.dumps(loads(text, file)) != json.dumps(expected):
        raise ForeignFile(f"{file}: cannot be changed without touching other entries")
    return text


# --- where things stand


def _scan(text: str) -> Node:
    """The text's value. It is valid JSON: that was seen to."""
    start = 1 if text.startswith("\ufeff") else 0
    return _value(text, _BLANK.match(text, start).end())


def _value(text: str, at: int) -> Node:
    first = text[at]
    if first == '"':
        return Node(at, scanstring(text, at + 1)[1])
    if first not in "{[":
        return Node(at, _SCALAR.match(text, at).end())
    parts, start, close = [], at, "}" if first == "{" else "]"
    at = _BLANK.match(text, at + 1).end()
    while text[at] != close:
        begin, name = at, len(parts)
        if first == "{":
            name, at = scanstring(text, at + 1)
            at = _BLANK.match(text, _BLANK.match(text, at).end() + 1).end()
        node = _value(text, at)
        parts.append(Part(name, begin, node))
        at = _BLANK.match(text, node.end).end()
        if text[at] == ",":
            at = _BLANK.match(text, at + 1).end()
    return Node(start, at + 1, tuple(parts))


# --- what is written


def _insert(text: str, node: Node, name: str | None, value: Any) -> str:
    """A new last part of an object, or of an array for the name None, laid out as the text is."""
    newline, unit = _layout(text)
    if node.parts:
        last = node.parts[-1]
        lead = _lead(text, last.start)
        laid_out = lead is not None and unit is not None
        part = _part(name, value, unit if laid_out else None, newline + lead if laid_out else "")
        glue = "," + newline + lead if laid_out else ", "
        return text[: last.node.end] + glue + part + text[last.node.end :]
    base = re.match(r"[ \t]*", text[text.rfind("\n", 0, node.start) + 1 :])[0]
    inside = newline + base + (unit or "")
    part = _part(name, value, unit, inside)
    body = part if unit is None else inside + part + newline + base
    return text[: node.start + 1] + body + text[node.end - 1 :]


def _part(name: str | None, value: Any, unit: str | None, newline: str) -> str:
    written = json.dumps(value, ensure_ascii=False, indent=unit).replace("\n", newline)
    return written if name is None else f"{json.dumps(name, ensure_ascii=False)}: {written}"


def _layout(text: str) -> tuple[str, str | None]:
    """How lines end, and by how much one level is indented; None where all is on one line."""
    newline = "\r\n" if "\r\n" in text else "\n"
    if found := re.search(r"[{\[][ \t]*\r?\n([ \t]*)[^\s}\]]", text):
        return newline, found[1]
    flat = re.search(r"[{\[]\s*[^\s}\]]", text)
    return newline, None if flat else "  "


def _lead(text: str, at: int) -> str | None:
    """The blanks before `at` where it is the first on its line."""
    lead = text[text.rfind("\n", 0, at) + 1 : at]
    return lead if "\n" in text[:at] and not lead.strip(" \t") else None


def _cut(text: str, node: Node, at: int) -> str:
    """The text without one part: with the comma before it, or of the first one the comma behind it."""
    parts = node.parts
    if at:
        return text[: parts[at - 1].node.end] + text[parts[at].node.end :]
    if len(parts) > 1:
        return text[: parts[0].start] + text[parts[1].start :]
    return text[: node.start + 1] + text[node.end - 1 :]
