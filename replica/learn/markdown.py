"""Learnings in markdown: a file with front matter is one; of notes, what stands under a heading that says so."""

import re
from typing import Any

from replica.cloud.sections import parts, without_front_matter
from replica.errors import UsageError
from replica.learn.cues import said_in
from replica.learn.entry import Item, one_line
from replica.learn.given import Usual, learning, unique

# A heading's words → the type of what is listed below it.
HEADINGS = [
    (re.compile(r"\b(?:anti-?patterns?)\b", re.I), "anti-pattern"),
    (re.compile(r"\bagent patterns?\b", re.I), "agent-pattern"),
    (re.compile(r"\bpatterns?\b", re.I), "pattern"),
    (re.compile(r"\bdecisions?\b|\bdecided\b", re.I), "decision"),
    (re.compile(r"\bbest practices?\b|\bguidelines?\b|\bconventions?\b", re.I), "best-practice"),
    (re.compile(r"\blessons?\b|\blearnings?\b|\blearned\b|\blearnt\b|\btil\b", re.I), "lesson"),
    (re.compile(r"\binsights?\b|\bfindings?\b", re.I), "insight"),
]
_TOP_ITEM = re.compile(r" {0,1}(?:[-*+]|\d{1,9}[.)])[ \t]+(?=\S)")


def read(text: str, name: str, usual: Usual = Usual()) -> list[Item]:
    """Raises UsageError: it says nowhere what of it is a learning."""
    front = front_matter(text, name)
    if front:
        body = without_front_matter(text).strip()
        return [learning({**front, **({"text": body} if body else {})}, name, usual)]
    found = [
        (kind, one)
        for part in parts(text)
        for kind in [_kind_of(part.heading)]
        if kind is not None
        for one in listed(part.body)
    ]
    if not found:
        found = [(said.type, said.text) for said in said_in(text)]
    if not found and usual.type is not None:
        found = [(usual.type, one) for part in parts(text) for one in listed(part.body)]
    if not found:
        raise UsageError(
            f"{name} does not say what is a learning in it",
            hint="put a heading such as `## Lessons` above, begin lines with `Lesson:` or `Decision:`, or give --type",
        )
    items = [
        learning({"type": usual.type or kind, "text": one}, f"{name}, item {at}", usual)
        for at, (kind, one) in enumerate(found, 1)
    ]
    return unique(items, name)


def _kind_of(headings: tuple[str, ...]) -> str | None:
    """By the nearest heading that says one."""
    for heading in reversed(headings):
        for words, kind in HEADINGS:
            if words.search(heading):
                return kind
    return None


def listed(body: str) -> list[str]:
    """The items of a list, each with what is indented below it; without a list, the paragraphs."""
    lines = body.strip("\n").split("\n")
    starts = [at for at, line in enumerate(lines) if _TOP_ITEM.match(line)]
    if not starts:
        return [one.strip() for one in re.split(r"\n{2,}", body) if one.strip()]
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        width = len(_TOP_ITEM.match(lines[start])[0])
        rest = [line[min(width, len(line) - len(line.lstrip(" "))) :] for line in lines[start + 1 : end]]
        ends = next((at for at, line in enumerate(lines[start + 1 : end]) if line and not line.startswith(" ")), None)
        found.append("\n".join([lines[start][width:], *rest[:ends]]).strip())
    return [one for one in found if one]


# --- front matter: `key: value`, `key: [a, b]`, and a list below `key:`; no other YAML

_KEY = re.compile(r"(?P<key>[A-Za-z_][\w -]*?)[ \t]*:(?:[ \t]+(?P<value>.*))?")
_ITEM = re.compile(r"[ \t]*-[ \t]+(?P<value>.*)")


def front_matter(text: str, name: str) -> dict[str, Any]:
    """What stands between the "---" at the top; {} without any. Raises UsageError, which names the line."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    end = next((at for at, line in enumerate(lines[1:200], 1) if line.rstrip() in ("---", "...")), None)
    if lines[0].rstrip() != "---" or end is None:
        return {}
    found: dict[str, Any] = {}
    open_list: list[str] | None = None
    for at, line in enumerate(lines[1:end], 2):
        item, pair = _ITEM.fullmatch(line), _KEY.fullmatch(line.rstrip())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if item is not None and open_list is not None:
            open_list.append(_scalar(item["value"]))
        elif pair is not None:
            key, value = pair["key"].strip().lower(), (pair["value"] or "").strip()
            open_list = found[key] = [] if not value else None
            if value:
                found[key] = _value(value)
        else:
            raise UsageError(
                f"{name}, line {at}: {one_line(line, 60)!r} is no `key: value`",
                hint="front matter holds `key: value`, `key: [a, b]`, or a list of `- value` below `key:`",
            )
    return {key: value for key, value in found.items() if value not in ([], "")}


def _value(value: str) -> Any:
    if value.startswith("[") and value.endswith("]"):
        return [one for part in value[1:-1].split(",") if (one := _scalar(part))]
    return _scalar(value)


def _scalar(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
