"""Learnings as JSON or markdown: what each field may be, and an error that names the item and the field.

One object, a list, or an object a line. What insights and campaigns say beyond our fields is kept as lines of its own.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from replica.errors import UsageError
from replica.learn.entry import (
    LONGEST_FIELD,
    MOST_LINKS,
    MOST_MORE,
    MOST_TAGS,
    TYPES,
    Item,
    Learning,
    Source,
    checked,
    named_type,
    one_line,
    sense,
    tag,
    words_of,
)
from replica.origin import slug

MOST_ITEMS = 2_000
MOST_BYTES = 10_000_000
OURS = "learned"  # the label of learnings that name themselves by an `id`
FIELDS = ("id", "type", "text", "tags", "status", "category", "outcome", "links")

# What other tools call our fields, in the order in which they count.
TITLES = ("title", "name", "headline")
TEXTS = ("insight", "learning", "lesson", "finding", "takeaway", "text", "summary", "description", "content", "message")
OUTCOMES = ("outcome", "result", "results", "impact")
LINKS = ("links", "link", "url", "urls", "evidence", "source_url")
IDS = ("id", "key", "slug")
NOT_KEPT = {*IDS, *TITLES, *TEXTS, *OUTCOMES, *LINKS, "type", "tags", "status", "category"}


@dataclass(frozen=True, slots=True)
class Usual:
    """What the command line says for all: a type and a status for items without, tags for all."""

    type: str | None = None
    status: str = ""
    tags: tuple[str, ...] = ()


# --- text to values


def values(text: str, name: str) -> list[Any]:
    """The items of a JSON text: of a list, of lines, or the one that it is. Raises UsageError."""
    if len(text.encode("utf-8", "replace")) > MOST_BYTES:
        raise UsageError(f"{name} has more than {MOST_BYTES:,} bytes", hint="give it in parts")
    try:
        whole = _loads(text.removeprefix("\ufeff"))
        found = whole if isinstance(whole, list) else [whole]
    except ValueError as error:
        lines = [(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) < 2 or not all(line.lstrip().startswith("{") for _, line in lines):
            raise UsageError(f"{name} is no JSON: {_said(error)}", hint=SHAPE) from None
        found = [_line(line, at, name) for at, line in lines]
    if len(found) > MOST_ITEMS:
        raise UsageError(f"{name} has {len(found):,} items; the limit is {MOST_ITEMS:,}", hint="give it in parts")
    return found


SHAPE = 'one object, a list of objects or an object a line, such as {"type": "lesson", "text": "Ask first", "tags": []}'


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _line(line: str, at: int, name: str) -> Any:
    try:
        return _loads(line)
    except ValueError as error:
        raise UsageError(f"{name}, line {at}: no JSON: {_said(error)}", hint=SHAPE) from None


def _said(error: ValueError) -> str:
    return one_line(str(error), 120)


# --- secrets


class Secrets:
    """Takes them out of what was read, before anything is made of it; `found` counts them by kind."""

    def __init__(self):
        self.found: Counter[str] = Counter()

    def out(self, text: str) -> str:
        from replica.sessions.secrets import redact

        text, found = redact(text)
        self.found.update(found)
        return text

    def out_of(self, value: Any) -> Any:
        """Of a JSON value: of its texts, of its keys, and of what is a secret because of its key."""
        if isinstance(value, str):
            return self.out(value)
        if isinstance(value, list):
            return [self.out_of(one) for one in value]
        if isinstance(value, dict):
            return {self.out(key): self._named(key, one) for key, one in value.items()}
        return value

    def _named(self, key: str, value: Any) -> Any:
        cleaned = self.out_of(value)
        if not isinstance(value, str) or cleaned != value:
            return cleaned
        before = sum(self.found.values())
        pair = self.out(f"{key}: {value}")
        return value if sum(self.found.values()) == before else pair.removeprefix(f"{key}: ")


# --- our own fields


def learnings(found: Iterable[Any], name: str, usual: Usual = Usual()) -> list[Item]:
    """Typed learnings, each `{type, text, tags, status, category, outcome, links, id}`. Raises UsageError."""
    return unique([learning(value, f"{name}, item {at}", usual) for at, value in enumerate(found, 1)], name)


def learning(value: Any, where: str, usual: Usual) -> Item:
    fields = an_object(value, where)
    for key in fields:
        if key not in FIELDS:
            near = get_close_matches(str(key), FIELDS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{where}: no field {one_line(str(key), 40)!r}{meant}", hint=f"use {', '.join(FIELDS)}")
    kind, more_tags = _type(fields, where, usual.type)
    made = Learning(
        kind, words_of(a_text(fields, "text", where, required=True)),
        tuple(dict.fromkeys((*more_tags, *tags_in(fields, where), *usual.tags)))[:MOST_TAGS],
        a_short(fields, "status", where) or usual.status, a_short(fields, "category", where),
        a_short(fields, "outcome", where), links_in(fields, "links", where),
    )  # fmt: skip
    id = an_id(fields, "id", where)
    return Item(checked(made, where), where, Source(OURS, id) if id else None, hash_of(value))


def _type(fields: dict[str, Any], where: str, usual: str | None) -> tuple[str, tuple[str, ...]]:
    given = fields.get("type")
    if given is None:
        given = usual
    if given is None:
        raise UsageError(f"{where}: `type` is missing", hint=f"use one of {', '.join(TYPES)}, or give --type")
    found = named_type(given) if isinstance(given, str) else None
    if found is None:
        raise UsageError(
            f"{where}: `type`: {one_line(str(given), 40)!r} is none", hint=f"use one of {', '.join(TYPES)}"
        )
    return found


# --- the fields of other tools


def loose(value: Any, where: str, kind: str, usual: Usual = Usual()) -> tuple[Item, str]:
    """An insight or a learning as any tool writes it: a text, or an object. The item, and its name ("" if none)."""
    if isinstance(value, str):
        value = {"text": value}
    fields = an_object(value, where)
    title = next((a_text(fields, key, where) for key in TITLES if fields.get(key)), "")
    key = next((key for key in TEXTS if fields.get(key)), "")
    body = a_text(fields, key, where) if key else ""
    if not (title or body):
        raise UsageError(f"{where}: `text` is missing", hint=f"say it in one of {', '.join((*TEXTS, *TITLES))}")
    text = f"{one_line(title)}\n{body}" if title and body and sense(title) != sense(body) else body or title
    given = named_type(fields["type"]) if isinstance(fields.get("type"), str) else None
    kind, more_tags = given if given is not None and usual.type is None else (kind, ())
    outcome = next((fields[key] for key in OUTCOMES if fields.get(key)), "")
    links = next((key for key in LINKS if fields.get(key)), "links")
    more = [(_key(key), shown(fields[key], f"{where}: `{key}`")) for key in fields if key not in NOT_KEPT]
    made = Learning(
        kind, words_of(text), tuple(dict.fromkeys((*more_tags, *tags_in(fields, where), *usual.tags)))[:MOST_TAGS],
        a_short(fields, "status", where) or usual.status, a_short(fields, "category", where),
        shown(outcome, f"{where}: `outcome`"), links_in(fields, links, where),
        tuple((key, said) for key, said in more if key and said)[:MOST_MORE],
    )  # fmt: skip
    id = next((an_id(fields, key, where) for key in IDS if fields.get(key) is not None), "")
    return Item(checked(made, where), where, None, hash_of(value)), id or (slug(title) if title and body else "")


def named(item: Item, label: str, name: str, above: str = "") -> Item:
    """The item of a source. `name`: "" where it has none but its words."""
    within = name or "~" + hashlib.sha256(sense(item.learning.text).encode()).hexdigest()[:12]
    return replace(item, source=Source(label, f"{above}/{within}" if above else within), named=bool(name))


def unique(items: list[Item], name: str) -> list[Item]:
    """The items, if no two have one name; of equal ones the first. Raises UsageError."""
    seen: dict[Source, Item] = {}
    kept = []
    for item in items:
        twin = seen.get(item.source) if item.source is not None else None
        if twin is None:
            kept.append(item)
            if item.source is not None:
                seen[item.source] = item
        elif twin.learning != item.learning:
            raise UsageError(
                f"{item.where}: `id`: {item.source.item!r} is that of {twin.where.removeprefix(name + ', ')}, too",
                hint="give each item an id of its own",
            )
    return kept


# --- one field


def an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: must be an object, and is {kind_of(value)}", hint=SHAPE)
    return value


def kind_of(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def a_text(fields: dict[str, Any], key: str, where: str, required: bool = False) -> str:
    value = fields.get(key)
    if value is None:
        if required:
            raise UsageError(f"{where}: `{key}` is missing", hint=SHAPE)
        return ""
    if not isinstance(value, str):
        raise UsageError(f"{where}: `{key}` must be a text, and is {kind_of(value)}", hint=SHAPE)
    return _encoded(value, where, key)


def _encoded(text: str, where: str, key: str) -> str:
    """JSON can hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{where}: `{key}` has half a character (a lone surrogate)", hint="write it as UTF-8"
        ) from None
    return text


def a_short(fields: dict[str, Any], key: str, where: str) -> str:
    text = a_text(fields, key, where)
    if len(text) > LONGEST_FIELD:
        raise UsageError(
            f"{where}: `{key}` has {len(text):,} characters; the limit is {LONGEST_FIELD}", hint="say it in `text`"
        )
    return one_line(text)


def tags_in(fields: dict[str, Any], where: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for said in _list(fields, "tags", where, MOST_TAGS) if (one := tag(said))))


def links_in(fields: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for said in _list(fields, key, where, MOST_LINKS, False) if (one := one_line(said))))


def _list(fields: dict[str, Any], key: str, where: str, most: int, commas: bool = True) -> list[str]:
    value = fields.get(key)
    if value is None:
        return []
    if isinstance(value, str):
        value = value.split(",") if commas else [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{where}: `{key}` must be a list of texts", hint=f'such as "{key}": ["one", "two"]')
    if len(value) > most:
        raise UsageError(f"{where}: `{key}` has {len(value):,} parts; the limit is {most}", hint="leave some out")
    return [_encoded(one, where, key) for one in value]


def an_id(fields: dict[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UsageError(f"{where}: `{key}` must be a text or a whole number, and is {kind_of(value)}", hint=SHAPE)
    name = "-".join(one_line(_encoded(str(value), where, key), LONGEST_FIELD).split())
    if len(name) > 100:
        raise UsageError(f"{where}: `{key}` has {len(name)} characters; the limit is 100", hint="use a shorter one")
    return name


def _key(key: str) -> str:
    """A field of another tool as the name of a line; "" where it cannot be one."""
    key = re.sub(r"[\s_]+", " ", key).strip().lower()
    taken = ("type", "status", "category", "outcome", "link", "from")
    return key if re.fullmatch(r"[a-z][\w -]{0,39}", key, re.ASCII) and key not in taken else ""


def shown(value: Any, where: str) -> str:
    """A value on one line: a text, a number, or a list or an object of these."""
    if isinstance(value, dict):
        value = [f"{key} {one_line(_scalar(one))}" for key, one in value.items() if _scalar(one)]
    if isinstance(value, list):
        value = ", ".join(one_line(_scalar(one)) for one in value if _scalar(one))
    return one_line(_encoded(_scalar(value), where, "value"))


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int | float) else ""


def hash_of(value: Any) -> str:
    """SHA-256 of an item, however its file is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
