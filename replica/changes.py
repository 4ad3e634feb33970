"""A change: what one clone did to one document at one time, as signed bytes.

The body is a msgpack array; its SHA-256 is the change's hash, which the author signs and which the
author's next change names. The layout is fixed (docs/protocol.md): another version of it is
another first field.

    [1, author, seq, prev, time, deps, kind, document, payload]
"""

import hashlib
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from replica import clock
from replica.errors import InvalidChange
from replica.keys import ID_SIZE, KEY_SIZE, SIGNATURE_SIZE

FORMAT = 1
MAX_BODY = 1_300_000  # bytes: a document of 1 MB with what stands around it
MAX_DEPS = 10_000  # members of one workspace
MAX_PATH = 400  # bytes
MAX_OPS = 20_000  # entry operations in one change
MAX_CERTIFICATE = 2_000  # bytes
MAX_NAME = 64  # characters of a clone's or workspace's name
MAX_TAGS = 64
MAX_META = 200  # characters of a type or a tag
MAX_REASON = 200  # characters of a refusal: what was refused may stand in it
HASH_SIZE = 32
DOMAIN = b"memory-replica change 1\0"

POLICIES = ("latest", "union", "log", "text")
ROLES = ("entry", "heading", "prose")


class Kind(IntEnum):
    GENESIS = 0  # a workspace and its first member
    ADMIT = 1  # a member vouches for a new one
    REMOVE = 2  # a member's access ends
    ENTRIES = 3  # entries added, superseded, removed
    TEXT = 4  # one Yjs update of a text
    IMPORT = 5  # the first content of a text, as text
    DELETE = 6  # a document is gone, as far as the author has seen it
    REVIEW = 7  # regions that two clones changed were looked at
    SUCCEED = 8  # a rolled-back or copied clone goes on under a new identity


DOCUMENT_KINDS = frozenset({Kind.ENTRIES, Kind.TEXT, Kind.IMPORT, Kind.DELETE, Kind.REVIEW})


class Dot(NamedTuple):
    """Names one operation for ever: the `index`-th of change `seq` of `author`."""

    author: bytes
    seq: int
    index: int


class Add(NamedTuple):
    """An entry, a heading or prose, put behind the block `after` (None: at the start).

    `occurrence` tells equal blocks of one document apart; `kills` are the dots it takes the place of.
    """

    role: str
    text: str
    occurrence: int
    lead: str
    after: bytes | None
    kills: tuple[Dot, ...]
    meta: dict[str, Any]


class Remove(NamedTuple):
    """Takes away what its author had seen: these dots, nothing concurrent."""

    kills: tuple[Dot, ...]


class Change(NamedTuple):
    author: bytes  # 16 bytes
    seq: int  # 1, 2, 3 … without a gap
    prev: bytes  # hash of the author's previous change; the workspace id before the first
    time: int  # hybrid logical (replica/clock.py)
    deps: tuple[tuple[bytes, int], ...]  # what the author held of others, where new since its last change
    kind: Kind
    document: tuple[str, str] | None  # path, policy
    payload: Any
    body: bytes
    hash: bytes


class Signed(NamedTuple):
    """A change's bytes as they travel; the signature may be missing inside a run (see Log.ingest)."""

    body: bytes
    signature: bytes | None


def change_hash(body: bytes) -> bytes:
    return hashlib.sha256(DOMAIN + body).digest()


def encode(
    author: bytes, seq: int, prev: bytes, time: int, deps: list, kind: Kind, document: tuple | None, payload: Any
) -> Change:
    """Make a change's bytes. `payload` is in wire form (see the `*_payload` functions)."""
    body = msgpack.packb([FORMAT, author, seq, prev, time, deps, int(kind), document, payload])
    if len(body) > MAX_BODY:
        raise InvalidChange(f"a change of {len(body)} bytes is over the limit of {MAX_BODY}")
    return decode(body)


def decode(body: bytes) -> Change:
    """Read a change's bytes, checking the shape of everything in them.

    Raises:
        InvalidChange: not a change of this format; nothing about signatures or order is checked here.
    """
    if len(body) > MAX_BODY:
        raise InvalidChange(f"a change of {len(body)} bytes is over the limit of {MAX_BODY}")
    try:
        fields = msgpack.unpackb(
            body, strict_map_key=True, max_ext_len=0, max_array_len=100_000, max_map_len=64, use_list=False
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise InvalidChange(f"not a change: {type(error).__name__}") from None
    try:
        return _checked(fields, body)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidChange(f"malformed change: {str(error)[:MAX_REASON]}") from None


def _checked(fields: tuple, body: bytes) -> Change:
    _require(type(fields) is tuple and len(fields) >= 1, "not an array")
    _require(type(fields[0]) is int, "no format")
    _require(fields[0] == FORMAT, f"format {fields[0]} is not known to this version")
    _require(len(fields) == 9, f"{len(fields)} fields")
    _, author, seq, prev, time, deps, kind, document, payload = fields
    _bytes(author, ID_SIZE, "author")
    _count(seq, 2**53, "sequence number", least=1)
    _require(type(prev) is bytes and len(prev) in (ID_SIZE, HASH_SIZE), "previous hash")
    _count(time, clock.LIMIT, "time")
    _require(type(deps) is tuple and len(deps) <= MAX_DEPS, "deps")
    for dep in deps:
        _bytes(dep[0], ID_SIZE, "dep author")
        _count(dep[1], 2**53, "dep", least=1)
        _require(len(dep) == 2 and dep[0] != author, "dep on itself")
    _require(type(kind) is int, "kind")
    kind = Kind(kind)
    _require((document is not None) == (kind in DOCUMENT_KINDS), "document")
    if document is not None:
        path, policy = document
        _text(path, MAX_PATH, "path")
        _require(policy in POLICIES, "policy")
    return Change(author, seq, prev, time, deps, kind, document, _PAYLOADS[kind](payload), body, change_hash(body))


# --- payloads: what each kind carries, as it is written and as it is read


def member_payload(key: bytes, certificate: bytes, name: str, **more: Any) -> dict:
    return {"key": key, "cert": certificate, "name": name, **more}


def entries_payload(ops: list[Add | Remove]) -> list:
    """Wire form of entry operations."""
    return [_pack_add(op) if isinstance(op, Add) else [[list(dot) for dot in op.kills]] for op in ops]


def _pack_add(op: Add) -> list:
    kills = [list(dot) for dot in op.kills]
    return [ROLES.index(op.role), op.text, op.occurrence, op.lead, op.after, kills, op.meta]


def _read_member(payload: dict) -> dict:
    _bytes(payload["key"], KEY_SIZE, "key")
    _require(type(payload["cert"]) is bytes and len(payload["cert"]) <= MAX_CERTIFICATE, "certificate")
    _text(payload["name"], MAX_NAME * 4, "name")
    return payload


def _read_genesis(payload: dict) -> dict:
    _bytes(payload["nonce"], ID_SIZE, "nonce")
    _text(payload["workspace"], MAX_NAME * 4, "workspace name")
    return _read_member(payload)


def _read_succeed(payload: dict) -> dict:
    _bytes(payload["old"], ID_SIZE, "old id")
    _bytes(payload["proof"], SIGNATURE_SIZE, "proof")
    _require(payload["why"] in ("fork", "copy", "away"), "reason")
    return _read_member(payload)


def _read_remove(payload: dict) -> dict:
    _bytes(payload["member"], ID_SIZE, "member")
    _require(type(payload.get("away", False)) is bool, "away")
    return payload


def _read_entries(payload: tuple) -> tuple[Add | Remove, ...]:
    _require(type(payload) is tuple and 1 <= len(payload) <= MAX_OPS, "number of operations")
    return tuple(_read_op(op) for op in payload)


def _read_op(op: tuple) -> Add | Remove:
    if len(op) == 1:
        kills = _read_dots(op[0])
        _require(len(kills) > 0, "empty removal")
        return Remove(kills)
    role, text, occurrence, lead, after, kills, meta = op
    _require(type(role) is int and 0 <= role < len(ROLES), "role")
    _text(text, MAX_BODY, "text")
    _count(occurrence, 2**63 - 1, "occurrence", least=1)
    _text(lead, 10_000, "lead")
    _require(lead.strip(" \t\n") == "", "lead is not blank")
    if after is not None:
        _bytes(after, ID_SIZE, "anchor")
    return Add(ROLES[role], text, occurrence, lead, after, _read_dots(kills), check_meta(meta))


def _read_dots(dots: tuple) -> tuple[Dot, ...]:
    _require(type(dots) is tuple and len(dots) <= MAX_OPS, "dots")
    for author, seq, index in dots:
        _bytes(author, ID_SIZE, "dot author")
        _count(seq, 2**53, "dot", least=1)
        _count(index, MAX_OPS, "dot index")
    return tuple(Dot(*dot) for dot in dots)


def check_meta(meta: Any) -> dict:
    """The fields of an entry. Raises ValueError: they are none."""
    _require(type(meta) is dict and set(meta) <= {"type", "tags", "level"}, "entry fields")
    if "type" in meta:
        _text(meta["type"], MAX_META * 4, "type")
    if "level" in meta:
        _require(meta["level"] in (0, 1, 2) and type(meta["level"]) is int, "level")
    tags = meta.get("tags", ())
    _require(type(tags) is tuple and len(tags) <= MAX_TAGS, "tags")
    for tag in tags:
        _text(tag, MAX_META * 4, "tag")
    return meta


def _read_update(payload: bytes) -> bytes:
    _require(type(payload) is bytes, "update")
    return payload


def _read_import(payload: str) -> str:
    _text(payload, MAX_BODY, "text")
    return payload


def _read_delete(payload: tuple) -> tuple[Dot, ...]:
    return _read_dots(payload)


def _read_review(payload: tuple) -> tuple:
    _require(type(payload) is tuple and 1 <= len(payload) <= MAX_OPS, "reviewed pairs")
    for one, one_seq, other, other_seq in payload:
        _bytes(one, ID_SIZE, "reviewed author")
        _bytes(other, ID_SIZE, "reviewed author")
        _count(one_seq, 2**53, "reviewed")
        _count(other_seq, 2**53, "reviewed")
    return payload


_PAYLOADS = {
    Kind.GENESIS: _read_genesis,
    Kind.ADMIT: _read_member,
    Kind.REMOVE: _read_remove,
    Kind.ENTRIES: _read_entries,
    Kind.TEXT: _read_update,
    Kind.IMPORT: _read_import,
    Kind.DELETE: _read_delete,
    Kind.REVIEW: _read_review,
    Kind.SUCCEED: _read_succeed,
}


def clean_name(name: str) -> str:
    """A name made printable and short enough. A peer's is shown to people, so it is cleaned where it is stored."""
    printable = "".join(c if c.isprintable() else " " for c in name)
    return " ".join(printable.split())[:MAX_NAME] or "clone"


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _bytes(value: Any, size: int, what: str) -> None:
    _require(type(value) is bytes and len(value) == size, what)


def _count(value: Any, limit: int, what: str, least: int = 0) -> None:
    _require(type(value) is int and least <= value <= limit, what)


def _text(value: Any, limit: int, what: str) -> None:
    _require(type(value) is str and len(value.encode("utf-8")) <= limit, what)
