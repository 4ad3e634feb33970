"""Adding one entry to a document from a command, an agent or a page: `add`.

Needs the store alone where the document is a set of entries, so that it is quick.
"""

import os
import re
from typing import Any, NamedTuple

from replica import changes, paths
from replica.blocks import ENTRY, Block, block_id, parse
from replica.changes import Add, Remove
from replica.clone import Clone
from replica.documents import Document, Entry
from replica.errors import DocumentNotFound, ReplicaError, TooLarge, UsageError, WrongPolicy
from replica.history import near
from replica.places import CONFIG


class Added(NamedTuple):
    """`id`: of the entry; for a text, of the change. `new`: False when the same entry stood there already."""

    id: bytes
    document: str
    text: str
    new: bool


def add(
    clone: Clone, path: str, text: str, *, type: str | None = None, tags: tuple[str, ...] = (), level: int | None = None
) -> Added:
    """Put an entry at the end of a document, which is made if a rule of replica.toml fits its path.

    `level`: 0 this clone, 1 the workspace, 2 the cloud too; by default that of the rule.

    Raises:
        DocumentNotFound: no document, and no rule for one.
        WrongPolicy: the document is one text of which the newest counts, or cannot hold that level.
        TooLarge: the document would be over its limit.
        UsageError: the text cannot be one entry, or a field is not right.
    """
    rule = clone.rule(path)
    with clone.transaction():
        document = writable(clone, path, rule)
        level = _level(document, rule.level if rule else 1, level)
        if document.policy == "latest":
            raise _one_text(path)
        if document.policy == "text":
            return _append(clone, document, text, level, bool(type or tags))
        meta = _meta(type, tags, level, rule.level if rule else 1)
        entries = _Entries(clone, document)
        added = entries.add(compose(text, document.policy), meta, level)
        entries.write()
        return added


def writable(clone: Clone, path: str, rule) -> Document:
    """The document of this path, or the one that it would be. Raises DocumentNotFound: it cannot be one."""
    try:
        return clone.document(path)
    except DocumentNotFound:
        if rule is None:
            hint = near(clone, path) or "list the documents with `replica ls`, or add a rule for it to replica.toml"
            raise DocumentNotFound(
                f"no document {path!r}, and no rule of replica.toml makes it one", hint=hint
            ) from None
    taken = {paths.clash_key(other.path): other.path for other in clone.documents.all()}
    other = taken.get(paths.clash_key(path), path)
    if other != path:
        raise DocumentNotFound(f"no document {path!r} in this clone", hint=f"did you mean {other!r}?")
    return clone.documents.find(path, rule.policy)


def _level(document: Document, usual: int, level: int | None) -> int:
    if level is None or level == usual:
        return usual
    if level not in (0, 1, 2):
        raise UsageError(f"{level} is no level", hint="0 this clone, 1 the workspace, 2 the workspace and the cloud")
    if usual == 0:
        raise WrongPolicy(
            f"{document.path!r} stays on this clone (level 0)", hint="raise the level of its rule in replica.toml"
        )
    if document.policy == "text" and level == 0:
        raise WrongPolicy(
            f"{document.path!r} is one text: a part of it cannot stay on this clone",
            hint="put it into a document of its own, or of policy union",
        )
    return level


def _one_text(path: str) -> WrongPolicy:
    how = "edit it and save; every clone follows" if path == CONFIG else "edit the file and save; the newest one counts"
    return WrongPolicy(f"{path!r} is one text that is replaced as a whole, so nothing can be added to it", hint=how)


def _meta(type: str | None, tags: tuple[str, ...], level: int, usual: int) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    for value in (*([type] if type is not None else []), *tags):
        if not value.strip() or not value.isprintable() or len(value) > changes.MAX_META:
            raise UsageError(f"{value!r} is no type or tag", hint=f"use up to {changes.MAX_META} printable characters")
    if len(set(tags)) > changes.MAX_TAGS:
        raise UsageError(f"{len(tags)} tags are too many", hint=f"use up to {changes.MAX_TAGS}")
    if type is not None:
        meta["type"] = type
    if tags:
        meta["tags"] = list(dict.fromkeys(tags))
    if level and level != usual:
        meta["level"] = level
    return meta


# --- entries


class Wanted(NamedTuple):
    """An entry for `add_all`, as `add` takes it."""

    text: str
    type: str | None = None
    tags: tuple[str, ...] = ()


def add_all(
    clone: Clone, path: str, wanted: list[Wanted], *, level: int | None = None
) -> list[Added | ReplicaError]:  # fmt: skip
    """As `add`, of many to one document, in one change. What became of each, in order.

    Raises DocumentNotFound, WrongPolicy: as `add`.
    """
    rule = clone.rule(path)
    with clone.transaction():
        document = writable(clone, path, rule)
        if document.policy in ("text", "latest"):
            return [add(clone, path, one.text, type=one.type, tags=one.tags, level=level) for one in wanted]
        usual = rule.level if rule else 1
        level = _level(document, usual, level)
        entries, done = _Entries(clone, document), []
        for one in wanted:
            try:
                text = compose(one.text, document.policy)
                done.append(entries.add(text, _meta(one.type, one.tags, level, usual), level))
            except (TooLarge, UsageError) as error:
                done.append(error)
        entries.write()
    return done


class _Entries:
    """The entries of a document, with those that come behind them."""

    def __init__(self, clone: Clone, document: Document):
        self._clone, self._document = clone, document
        self._entries = clone.documents.entries(document)
        self._size = sum(len(f"{e.lead}{e.text}\n".encode()) for e in self._entries)
        self._twins: dict[str, Entry] = {}
        for entry in self._entries:
            if entry.role == ENTRY:
                self._twins.setdefault(entry.text, entry)
        self._taken: set[bytes] = set()
        self._ops: list[tuple[int, Add | Remove]] = []

    def add(self, text: str, meta: dict[str, Any], level: int) -> Added:
        clone, document = self._clone, self._document
        twin = self._twins.get(text) if document.policy == "union" else None
        if twin is not None and (level == 0 or not twin.private):
            return Added(twin.id, document.path, text, False)
        _check_size(clone, document, self._size, text)
        if twin is not None:
            self._ops.append((0, Remove(twin.dots)))  # it was for this clone alone, and now is for all
            self._entries.remove(twin)
        occurrence = self._occurrence(text)
        id, lead = block_id(ENTRY, text, occurrence), _lead(self._entries)
        self._ops.append((level, Add(ENTRY, text, occurrence, lead, _after(self._entries, level), (), meta)))
        new = Entry(id, ENTRY, text, occurrence, lead, id, meta, (), (), b"", 0, level == 0, frozenset(), (0, 0), ())
        self._entries.append(new)
        self._twins[text] = new
        self._taken.add(id)
        self._size += len(f"{lead}{text}\n".encode())
        return Added(id, document.path, text, True)

    def _occurrence(self, text: str) -> int:
        if self._document.policy == "log":
            return max(1, int.from_bytes(os.urandom(8)) >> 2)  # the same line said twice is two entries
        occurrence = free_occurrence(self._clone, self._document, ENTRY, text)
        while block_id(ENTRY, text, occurrence) in self._taken:
            occurrence += 1
        return occurrence

    def write(self) -> None:
        if self._ops:
            self._clone.edit_entries(self._document.path, self._document.policy, self._ops)


def free_occurrence(clone: Clone, document: Document, role: str, text: str) -> int:
    """The first that no block of these words ever had: what was removed once is not meant by what is added now."""
    occurrence, twins = 1, (document.shared, document.private)
    while clone.store.value(
        "SELECT 1 FROM adds WHERE doc IN (?,?) AND id=?", (*twins, block_id(role, text, occurrence))
    ):
        occurrence += 1
    return occurrence


def _after(entries: list[Entry], level: int) -> bytes | None:
    """The last block; a shared entry never names one of level 0."""
    return next((entry.place for entry in reversed(entries) if level == 0 or not entry.private), None)


def _lead(entries: list[Entry]) -> str:
    """Spaced as the entries before it are: a blank line below a heading, none in a tight list."""
    if not entries:
        return ""
    if entries[-1].role != ENTRY:
        return "\n"
    is_spaced = len(entries) > 1 and entries[-2].role == ENTRY
    # A log's title is one of its entries: what parts the first line from it is no example.
    return entries[-1].lead if is_spaced and not entries[-2].text.startswith("#") else ""


def _check_size(clone: Clone, document: Document, size: int, more: str) -> None:
    """`size`: the bytes that the document has."""
    limit = clone.config.limits.document
    size += len(more.encode()) + 2
    if size > limit:
        raise TooLarge(
            f"{document.path!r} would have {size:,} bytes, over the limit of {limit:,} (limits.document)",
            hint="harvest or split it, or raise the limit in replica.toml",
        )


def edit(clone: Clone, document: Document, entry: Entry, text: str, tags: tuple[str, ...] = ()) -> Added:
    """Put `text` in the place of an entry, or nothing: then it goes. `tags` are added to those that it has.

    The level stays as it is. `new`: False when the same entry stood there already.

    Raises:
        WrongPolicy: a log only grows, or the document has no entries.
        TooLarge, UsageError: as `add`.
    """
    if document.policy == "log":
        raise WrongPolicy(f"{document.path!r} is a log, and a log only grows", hint="add a line that puts it right")
    if document.policy != "union":
        raise WrongPolicy(f"{document.path!r} is one text and has no entries", hint="write it as a whole")
    with clone.transaction():
        level = 0 if entry.private else 1
        if not text.strip():
            clone.edit_entries(document.path, document.policy, [(level, Remove(entry.dots))])
            return Added(entry.id, document.path, "", True)
        text = compose(text, document.policy)
        if text == entry.text:
            return Added(entry.id, document.path, text, False)
        others = clone.documents.entries(document)
        _check_size(clone, document, sum(len(f"{e.lead}{e.text}\n".encode()) for e in others), text)
        twin = next((e for e in others if (e.role, e.text) == (ENTRY, text) and (entry.private or not e.private)), None)
        if twin is not None:
            clone.edit_entries(document.path, document.policy, [(level, Remove(entry.dots))])
            return Added(twin.id, document.path, text, False)
        occurrence = free_occurrence(clone, document, ENTRY, text)
        meta = {**entry.meta, **({"tags": _more_tags(entry, tags)} if tags else {})}
        new = Add(ENTRY, text, occurrence, entry.lead, entry.place, entry.dots, meta)
        clone.edit_entries(document.path, document.policy, [(level, new)])
        return Added(block_id(ENTRY, text, occurrence), document.path, text, True)


def _more_tags(entry: Entry, tags: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([*entry.meta.get("tags", ()), *tags]))[: changes.MAX_TAGS]


# --- one entry, as a block that is read back as just that

_FIRST_LINE = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+[^ \t\n]")


def compose(text: str, policy: str) -> str:
    """`text` as one block of a document of this policy: a bullet, unless it is one already.

    Raises UsageError: nothing is in it, or what stands behind it in a file would be drawn into it.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").strip("\n").rstrip().split("\n")
    lines[0] = lines[0].strip(" \t")
    if not any(line.strip() for line in lines):
        raise UsageError("the text is empty", hint="write what to add, or - to read it from stdin")
    body = "".join(f"\n  {line}" if line.strip() else "\n" for line in lines[1:])
    whole = "\n".join(lines)
    tries = [whole, lines[0] + body] if _FIRST_LINE.match(lines[0]) else []
    for candidate in (*tries, f"- {lines[0]}{body}", f"- \\{lines[0]}{body}"):
        if stands_alone(candidate, policy):
            return candidate
    raise UsageError(
        "the text cannot stand as one entry", hint="close what it opens (a code fence, a comment), or save it in a file"
    )


def stands_alone(text: str, policy: str) -> bool:
    """Whether it is read back as it is between other entries."""
    blocks = parse(f"- before\n{text}\n- after\n", policy)
    return [block for block in blocks[1:2] if len(blocks) == 3] == [Block(ENTRY, text, "")] and (
        blocks[2].text == "- after" and parse(text, policy) == [Block(ENTRY, text, "")]
    )


# --- texts


def _append(clone: Clone, document: Document, text: str, level: int, fields: bool) -> Added:
    """A new paragraph at the end of a text."""
    if fields:
        raise WrongPolicy(
            f"{document.path!r} is one text, and its paragraphs have no type and no tags",
            hint="leave them out, or add to a document of policy union",
        )
    paragraph = text.replace("\r\n", "\n").strip("\n").rstrip()
    if not paragraph.strip():
        raise UsageError("the text is empty", hint="write what to add, or - to read it from stdin")
    old = clone.documents.text(document)
    _check_size(clone, document, len(old.encode()), paragraph)
    gap = "" if not old.strip("\n") or old.endswith("\n\n") else "\n" if old.endswith("\n") else "\n\n"
    written = f"{gap}{paragraph}\n"
    twin = document.private if level == 0 else document.shared
    if document.alive and twin != clone.documents.shown_text(document):
        stored = clone.move_text(document, old + written, level)
    elif document.alive:
        stored = clone.edit_text(document.path, [(len(old), len(old), written)], level=level)
    else:
        stored = clone.edit_text(document.path, new=written.lstrip("\n"), level=level)
    return Added(stored[-1].change.hash[:16], document.path, paragraph, True)
