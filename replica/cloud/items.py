"""What of a clone's memory may leave it, as items. Reads the store alone; the same items from every clone.

An entry is an item, and so is each section of a text. An item keeps its id when the entry is edited, for it is named by
what the entry began as.
"""

import hashlib
import re
import unicodedata
from typing import NamedTuple
from uuid import UUID, uuid5

import msgpack

from replica import clock
from replica.blocks import ENTRY, block_id
from replica.clone import Clone
from replica.cloud.base import Item
from replica.cloud.kinds import front_tags, tags_of, type_of
from replica.cloud.sections import Section, sections
from replica.documents import Document
from replica.log import Vector
from replica.materialise import split_roots
from replica.places import CONFIG

# All ids of items follow from this one; it never changes.
SPACE = UUID("8f14e45f-ceea-5d3a-9a3e-7d1c2b6a0f31")
PREVIEW = 100


class Skip(NamedTuple):
    """Something that is not exported, and why. `preview` is empty where even that is nobody's business."""

    id: UUID | None
    document: str
    preview: str
    reason: str


class Scope(NamedTuple):
    """`[scopes.NAME]`: documents that are kept apart in a service. See replica/config.py."""

    name: str
    tags: tuple[str, ...]
    namespace: str


class Found(NamedTuple):
    """`keeps`: ids of items that exist and are skipped: what a sink has of them stays as it is."""

    items: list[Item]
    skips: list[Skip]
    keeps: set[UUID]


# --- the documents


class Source(NamedTuple):
    """A live document that is shared. `changed`: the row of its last change. `level`: that its rule gives it."""

    document: Document
    changed: int
    level: int


def sources(clone: Clone) -> list[Source]:
    """The live documents by path, those of level 0 and replica.toml left out."""
    found = []
    for (path, policy), changed in clone.documents.latest_changes().items():
        if path == CONFIG:
            continue
        rule = clone.rule(path)
        document = clone.documents.find(path, policy)
        if document.shared is not None and _alive(clone, document.shared):
            found.append(Source(document, changed, 1 if rule is None else rule.level))
    return found


def _alive(clone: Clone, doc: int | None) -> bool:
    return doc is not None and clone.store.value("SELECT 1 FROM alive WHERE doc=?", (doc,)) is not None


def of(clone: Clone, source: Source, level: int = 1, scope: Scope | None = None, cut: Vector | None = None) -> Found:
    """The items of a document that may go to a place which takes `level` and above.

    `cut`: what lies behind it waits; None: nothing does.
    """
    if source.level == 0 or (source.document.private is not None and source.document.policy == "text"
                             and _alive(clone, source.document.private)):  # fmt: skip
        return Found([], [Skip(None, source.document.path, "", PRIVATE)], set())
    read = _sections if source.document.policy in ("text", "latest") else _entries
    return read(clone, source, level, scope, cut)


# --- entries


def _entries(clone: Clone, source: Source, level: int, scope: Scope | None, cut: Vector | None) -> Found:
    document, found = source.document, Found([], [], set())
    found.skips.extend(Skip(None, document.path, "", PRIVATE) for _ in range(_private_entries(clone, document)))
    in_conflict = _in_conflict(clone, document)
    rows: dict[bytes, list[tuple]] = {}
    for row in clone.store.rows(
        "SELECT id, text, occurrence, meta, roots, author, seq, time, idx FROM adds"
        " WHERE doc=? AND dead=0 AND role=? ORDER BY time", (document.shared, ENTRY),
    ):  # fmt: skip
        rows.setdefault(row[0], []).append(row)
    names = _names({id: same[0] for id, same in rows.items()})
    for id, same in rows.items():
        first = min(same, key=lambda row: (row[7], clone.log.author_n(row[5]).id, row[6], row[8]))
        if block_id(ENTRY, first[1], first[2]) != id:
            found.skips.append(Skip(None, document.path, "", "what the store holds of it is damaged"))
            found.keeps.add(entry_id(clone, document.path, names[id]))
            continue
        item = _entry_item(clone, source, names[id], first, max(row[7] for row in same), scope)
        reason = _why_not(item, source, level)
        if id in in_conflict:
            reason = "in conflict: settle it with `replica resolve`"
        elif cut is not None and any(row[6] > cut.get(clone.log.author_n(row[5]).id, 0) for row in same):
            reason = WAITS
        if reason:
            found.skips.append(Skip(item.id, item.document, preview(item.text), reason))
            if not reason.startswith("level"):
                found.keeps.add(item.id)
        else:
            found.items.append(item)
    return found


def _private_entries(clone: Clone, document: Document) -> int:
    return clone.store.value(
        "SELECT count(DISTINCT id) FROM adds WHERE doc=? AND dead=0 AND role=?", (document.private, ENTRY)
    )


PRIVATE = "level 0 stays in its clone"
WAITS = "not all members in reach have it yet"


def _why_not(item: Item, source: Source, level: int) -> str:
    if item.level < max(1, level):
        return f"level {item.level}, and this sink takes {level}"
    return "" if item.text.strip() else "empty"


def _names(rows: dict[bytes, tuple]) -> dict[bytes, bytes]:
    """What each entry is named by: the first of what it goes back to, unless an older entry is named so."""
    names: dict[bytes, bytes] = {}
    taken: set[bytes] = set()
    for id, row in sorted(rows.items(), key=lambda one: (one[1][4] is not None, one[1][7], one[0])):
        root = min(split_roots(row[4]), default=id)
        names[id] = root if root not in taken and (root == id or root not in rows) else id
        taken.add(names[id])
    return names


def _entry_item(clone: Clone, source: Source, name: bytes, row: tuple, last: int, scope: Scope | None) -> Item:
    _, raw, _, packed, _, author, *_ = row
    meta = msgpack.unpackb(packed) if packed else {}
    text = bare(raw)
    path = source.document.path
    return _item(
        clone, entry_id(clone, path, name), text, path, type_of(text, path, meta.get("type")),
        tags_of(text, tuple(meta.get("tags", ()))), meta.get("level", source.level), author, last, scope,
    )  # fmt: skip


def entry_id(clone: Clone, path: str, name: bytes) -> UUID:
    """The id of the item of an entry, by what the entry began as."""
    return uuid5(space(clone), f"entry\n{path}\n{name.hex()}")


def _item(clone, id, text, path, type, tags, level, author, time, scope: Scope | None) -> Item:
    if scope is not None:
        tags = tuple(dict.fromkeys((*tags, *scope.tags)))
    return Item(
        id, text, hashlib.sha256(text.encode()).hexdigest(), type, tags, level, path, clone.log.author_n(author).name,
        clock.to_ms(time), revision(time), scope.namespace if scope else None,
    )  # fmt: skip


def revision(time: int) -> int:
    """A hybrid time as a number that JSON keeps (below 2^53): microseconds, of which the last three count."""
    return clock.to_ms(time) * 1000 + min(time & ((1 << clock.COUNTER_BITS) - 1), 999)


def space(clone: Clone) -> UUID:
    """The space of the ids of a workspace's items."""
    return uuid5(SPACE, clone.workspace.hex())


def _in_conflict(clone: Clone, document: Document) -> set[bytes]:
    doubtful = clone.store.value(
        "SELECT 1 FROM adds WHERE doc=? AND dead=0 AND roots IS NOT NULL LIMIT 1", (document.shared,)
    )
    if not doubtful:
        return set()
    return {entry.id for conflict in clone.documents.conflicts(document) for entry in conflict.entries}


# --- an entry's words, and its bullet

_MARKER = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+(?=\S))?(?=\S)")


def bare(text: str) -> str:
    """The words of an entry, without its bullet and the indent below it."""
    found = _MARKER.match(text)
    if not found:
        return text.strip("\n")
    width = len(found[0].split("[", 1)[0]) if "[" in found[0] else len(found[0])
    head, *rest = text[found.end() :].split("\n")
    return "\n".join([head, *(_dedented(line, width) for line in rest)]).rstrip()


def _dedented(line: str, width: int) -> str:
    blank = len(line) - len(line.lstrip(" "))
    return line[min(blank, width) :]


def dressed(words: str, old: str) -> str:
    """New words in the place of an entry's: with its bullet, if it has one."""
    found = _MARKER.match(old)
    if not found:
        return words
    width = len(found[0].split("[", 1)[0]) if "[" in found[0] else len(found[0])
    head, *rest = words.strip("\n").split("\n")
    return "\n".join([found[0] + head, *(" " * width + line if line.strip() else line for line in rest)])


def preview(text: str) -> str:
    """The first characters, on one line."""
    line = " ".join(text[: 4 * PREVIEW].split())
    return line if len(line) <= PREVIEW else line[: PREVIEW - 1] + "…"


def canonical(text: str) -> str:
    """The words of a text, whatever a service makes of its ends of lines, its blank ends and its accents."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def words_hash(text: str) -> bytes:
    """By this the words there are compared with those here: a service that trims has edited nothing."""
    return hashlib.sha256(canonical(text).encode()).digest()


# --- texts


def _sections(clone: Clone, source: Source, level: int, scope: Scope | None, cut: Vector | None) -> Found:
    document, found = source.document, Found([], [], set())
    text = shared_text(clone, document)
    author, time = _last_change(clone, document.shared)
    waits = WAITS if cut is not None and behind(clone, document.shared, cut) else ""
    if document.policy == "latest" and clone.documents.conflicts(document):
        waits = "in conflict: settle it with `replica resolve`"
    above = front_tags(text)
    for section in sections(text):
        item = _item(
            clone, section_id(clone, document.path, section), section.text, document.path,
            type_of(section.text, document.path), tags_of(section.text, above), source.level, author, time, scope,
        )  # fmt: skip
        reason = waits or _why_not(item, source, level)
        if reason:
            found.skips.append(Skip(item.id, item.document, preview(item.text), reason))
            if not reason.startswith("level"):
                found.keeps.add(item.id)
        else:
            found.items.append(item)
    return found


def shared_text(clone: Clone, document: Document) -> str:
    """What all clones have of a text: nothing of level 0."""
    if document.policy == "text":
        return clone.documents.raw_text(document.shared)
    return clone.documents.text(document._replace(private=None))


def section_id(clone: Clone, path: str, section: Section) -> UUID:
    name = "\n".join([path, *section.heading, str(section.occurrence), str(section.part)])
    return uuid5(space(clone), f"section\n{name}")


def _last_change(clone: Clone, doc: int) -> tuple[int, int]:
    """Who changed a document last, as a row of authors, and when: the latest by time, whichever came here last."""
    row = clone.store.row(
        "SELECT c.author, c.time FROM changes c JOIN authors a ON a.n=c.author WHERE doc=?"
        " ORDER BY c.time DESC, a.id LIMIT 1",
        (doc,),
    )
    return row or clone.store.row("SELECT changed_by, changed_at FROM documents WHERE n=?", (doc,))


# --- what all in reach have


def behind(clone: Clone, doc: int, cut: Vector) -> bool:
    """Whether a document has a change that is not in the cut."""
    for author in clone.log.authors():
        have = cut.get(author.id, 0)
        if not author.private and author.seq > have and clone.store.value(
            "SELECT 1 FROM changes WHERE author=? AND seq>? AND doc=? LIMIT 1", (author.n, have, doc)
        ):  # fmt: skip
            return True
    return False


def unacknowledged(clone: Clone, cut: Vector) -> set[tuple[str, str]]:
    """The documents (path, policy), live and dead, with a change that is not in the cut."""
    found: set[tuple[str, str]] = set()
    for author in clone.log.authors():
        have = cut.get(author.id, 0)
        if not author.private and author.seq > have:
            found.update(clone.store.rows(
                "SELECT DISTINCT d.path, d.policy FROM changes c JOIN documents d ON d.n=c.doc"
                " WHERE c.author=? AND c.seq>?", (author.n, have),
            ))  # fmt: skip
    return found


def may_leave(clone: Clone, item: Item, level: int) -> bool:
    """Asked when the bytes are about to leave: whether the item's document and words are shared still.

    Also of what was read long ago: a rule, a level or a document may have changed since.
    """
    rule = clone.rule(item.document)
    if (rule is not None and rule.level == 0) or item.level < max(1, level):
        return False
    docs = clone.store.rows(
        "SELECT n, private, policy FROM documents d WHERE path=? AND EXISTS(SELECT 1 FROM alive WHERE doc=d.n)",
        (item.document,),
    )
    if not any(not private for _, private, _ in docs):
        return False
    return not any(private and policy == "text" for _, private, policy in docs)
