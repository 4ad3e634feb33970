"""Makes the golden files: `python -m tests.golden.make`. A file that is there is never written again.

Everything follows from fixed keys and a fixed clock. In the JSON files bytes are in hexadecimal; docs/protocol.md says
which fields are bytes. To let a format change, give it another version, say so in docs/protocol.md, and remove the
files that are to be made anew. Stores of older schemas (`store-*.sql`) stay: the program of their time wrote them, out
of the same changes.
"""

import hashlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import msgpack
import spake2

from replica import baselines, bundle, changes, compact, store
from replica.blocks import block_id
from replica.changes import Add, Change, Dot, Kind, Remove, Signed
from replica.clock import COUNTER_BITS
from replica.clone import Clone
from replica.keys import Identity
from replica.log import succession
from replica.materialise import place_of
from replica.text import Text, client_id, import_update
from transport import codes, discovery, inviting, pairing, tls, wire
from transport.guesses import Guesses
from transport.pairing import Inviter, Joiner
from transport.session import (
    HEAD,
    Ack,
    Baseline,
    Bye,
    Changes,
    Digest,
    DocumentDigests,
    Hello,
    Message,
    Restart,
)

FOLDER = Path(__file__).parent
START = 1_750_000_000_000  # milliseconds since 1970
LATER = START + 10 * 365 * 86_400_000  # when all of the history may be folded
HALFWAY = START + 30 * 86_400_000 + 12_500  # when about half of it is older than the history that is kept
CODE = "37-harbor-violet-onion"
DOCUMENTS = (
    ("a-buffer.md", "union"), ("old.md", "union"), ("activeContext.md", "latest"), ("SESSION_LOG.md", "log"),
    ("notes.md", "text"), ("todo.md", "text"),
)  # fmt: skip
NAMES = ("desk", "laptop", "phone", "laptop-copy")


def plain(value: Any) -> Any:
    """A value as JSON can hold it: bytes in hexadecimal, tuples as lists, enums as numbers."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, Kind) else value


def identity(name: str) -> Identity:
    """A key that everybody knows, for tests alone."""
    return Identity.new(Random(f"memory-replica golden {name}").randbytes)


# --- identities


def identities() -> list[dict]:
    made = {name: identity(name) for name in (*NAMES, "private")}
    return [
        {"name": name, "private": one.private, "public": one.public, "id": one.id,
         "certificate": tls.make_certificate(one.private)}
        for name, one in made.items()
    ]  # fmt: skip


# --- a workspace, change by change


class Author:
    """Writes one chain."""

    def __init__(self, history: "History", name: str):
        self.history, self.identity, self.seq = history, identity(name), 0
        self.head = history.workspace
        self.name = name

    def write(self, what: str, kind: Kind, document: tuple | None, payload: Any, *deps: "Author") -> Change:
        seen = [(author.identity.id, author.seq) for author in deps]
        return self.write_after(what, kind, document, payload, seen)

    def write_after(self, what: str, kind: Kind, document: tuple | None, payload: Any, deps: list) -> Change:
        history = self.history
        history.time += 1_000 << COUNTER_BITS
        self.seq += 1
        change = changes.encode(self.identity.id, self.seq, self.head, history.time, deps, kind, document, payload)
        self.head = change.hash
        history.written.append((what, change, self.identity.sign(change.hash)))
        return change


class History:
    """Every kind of change, in an order in which they can be taken in."""

    def __init__(self):
        self.time, self.workspace = START << COUNTER_BITS, bytes(16)
        self.written: list[tuple[str, Change, bytes]] = []
        desk = Author(self, "desk")
        genesis = desk.write(
            "the workspace and its first member", Kind.GENESIS, None,
            member("desk", nonce=Random(0).randbytes(16), workspace="team"),
        )  # fmt: skip
        self.workspace = genesis.hash[:16]
        laptop, phone, copy = (Author(self, name) for name in NAMES[1:])
        desk.write("a member is let in", Kind.ADMIT, None, member("laptop"))
        desk.write("another", Kind.ADMIT, None, member("phone"))
        self.entries(desk, laptop)
        self.texts(desk, laptop, phone)
        proof = laptop.identity.sign(succession(self.workspace, copy.identity.public))
        copy.write(
            "a copied clone goes on under a new identity", Kind.SUCCEED, None,
            member("laptop-copy", old=laptop.identity.id, why="copy", proof=proof), desk, laptop, phone,
        )  # fmt: skip
        desk.write("a member's access ends", Kind.REMOVE, None, {"member": phone.identity.id}, copy)
        self.document_lines(copy)

    def entries(self, desk: Author, laptop: Author) -> None:
        buffer, context = DOCUMENTS[0], DOCUMENTS[2]
        heading = Add("heading", "# Lessons", 1, "", None, (), {})
        first = Add(
            "entry", "- Retries need jitter.", 1, "\n", block_id("heading", "# Lessons", 1), (),
            {"type": "lesson", "tags": ["network", "größe"], "level": 2},
        )  # fmt: skip
        second = Add("entry", "- Grüße 👋", 1, "", block_id("entry", first.text, 1), (), {})
        here = desk.write("entries", Kind.ENTRIES, buffer, changes.entries_payload([heading, first, second]))
        again = Add("entry", "- Retries need jitter, always.", 1, "\n", first.after, (dot(here, 1),), {})
        laptop.write(
            "an entry takes the place of another, and one is removed", Kind.ENTRIES, buffer,
            changes.entries_payload([again, Remove((dot(here, 2),))]), desk,
        )  # fmt: skip
        other = Add("entry", "- Retries need backoff.", 1, "\n", first.after, (dot(here, 1),), {})
        desk.write(
            "unknown to the laptop's edit: two wait for a decision", Kind.ENTRIES, buffer,
            changes.entries_payload([other]),
        )  # fmt: skip
        gone = desk.write(
            "a document", Kind.ENTRIES, DOCUMENTS[1],
            changes.entries_payload([Add("entry", "- gone soon", 1, "", None, (), {})]), laptop,
        )  # fmt: skip
        desk.write("and its deletion", Kind.DELETE, DOCUMENTS[1], [list(dot(gone, 0))])
        moved = Add("heading", heading.text, 1, "\n", None, (dot(here, 0),), {})
        desk.write("a heading moves", Kind.ENTRIES, buffer, changes.entries_payload([moved]))
        for author, focus in ((desk, "release"), (laptop, "tests")):
            add = Add("entry", f"# Focus\n\nthe {focus}", 1, "", None, (), {})
            author.write("one of two versions", Kind.ENTRIES, context, changes.entries_payload([add]))

    def texts(self, desk: Author, laptop: Author, phone: Author) -> None:
        notes, todo = DOCUMENTS[4], DOCUMENTS[5]
        content = "Zwei Wörter 👋\n"
        laptop.write("the first content of a text", Kind.IMPORT, notes, content, desk)
        one = desk.write("an edit", Kind.TEXT, notes, edit(desk, notes[0], content, "Drei Wörter 👋\n"), laptop)
        base = [(desk.identity.id, one.seq - 1), (laptop.identity.id, laptop.seq)]
        other = phone.write_after(
            "a concurrent edit of the same word", Kind.TEXT, notes,
            edit(phone, notes[0], content, "Vier Wörter 👋\n"), base,
        )  # fmt: skip
        pair = sorted([[one.author, one.seq], [other.author, other.seq]])
        desk.write("and a person's look at both", Kind.REVIEW, notes, [[*pair[0], *pair[1]]], phone)
        desk.write("another text", Kind.IMPORT, todo, "a b c\n")
        laptop.write("an edit of it", Kind.TEXT, todo, edit(laptop, todo[0], "a b c\n", "a x c\n"), desk, phone)
        desk.write("another edit of it, unseen", Kind.TEXT, todo, edit(desk, todo[0], "a b c\n", "a y c\n"))

    def document_lines(self, copy: Author) -> None:
        occurrence = 2**62 + 1
        lines = [Add("entry", f"- 12:0{n} started", occurrence + n, "", None, (), {}) for n in range(2)]
        copy.write("lines of a log", Kind.ENTRIES, DOCUMENTS[3], changes.entries_payload(lines))

    @property
    def signed(self) -> list[Signed]:
        return [Signed(change.body, signature) for _, change, signature in self.written]


def member(name: str, **more: Any) -> dict:
    key = identity(name)
    return changes.member_payload(key.public, tls.make_certificate(key.private), name, **more)


def dot(change: Change, index: int) -> Dot:
    return Dot(change.author, change.seq, index)


def edit(author: Author, path: str, old: str, new: str) -> bytes:
    client = client_id(author.identity.id, path)
    text = Text.new(client)
    text.apply_import(old)
    (update,) = text.edit(client, new)
    return update


def history() -> dict:
    made = History()
    with holding(made, "desk") as clone:
        documents = {path: digest for path, _, digest in clone.documents.document_digests()}
        shown = [
            {"path": path, "policy": policy, "digest": documents.get(path, b""),
             "content": clone.documents.text(clone.documents.find(path, policy)) if path in documents else None,
             "conflicts": [c.id for c in clone.documents.conflicts(clone.documents.find(path, policy))]}
            for path, policy in DOCUMENTS
        ]  # fmt: skip
        return {
            "workspace": made.workspace,
            "changes": [
                {"what": what, "fields": fields(change), "body": change.body, "hash": change.hash,
                 "signature": signature}
                for what, change, signature in made.written
            ],
            "proof": {"signed": succession(made.workspace, identity("laptop-copy").public),
                      "signature": identity("laptop").sign(
                          succession(made.workspace, identity("laptop-copy").public))},
            "vector": clone.vector(), "digest": clone.digest(), "documents": shown,
        }  # fmt: skip


def fields(change: Change) -> list:
    """A change as it was read: the nine fields of its body, the payload's as this program names them."""
    payload: Any = change.payload
    if change.kind is Kind.ENTRIES:
        payload = [dict(zip(op._fields, op, strict=True)) for op in payload]
    return [changes.FORMAT, *change[:5], change.kind, change.document, payload]


class holding:
    """An open clone, by name, that has taken in a history; without its level-0 entry it holds nothing else."""

    def __init__(self, made: History, name: str, *, private: str = ""):
        self.made, self.name, self.private = made, name, private

    def __enter__(self) -> Clone:
        self.folder = tempfile.TemporaryDirectory(prefix="replica-golden-")
        root, key, private = Path(self.folder.name), identity(self.name), identity("private")
        with mock.patch.object(Identity, "new", lambda: private):
            self.clone = Clone.adopt(root, key, self.made.workspace, self.name, now_ms=lambda: START)
        if self.made.written:
            self.clone.ingest(self.made.signed)
        if self.private:
            op = Add("entry", self.private, 1, "", None, (), {})
            self.clone.edit_entries("a-buffer.md", "union", [(0, op)])
        return self.clone

    def __exit__(self, *_: object) -> None:
        self.clone.close()
        self.folder.cleanup()


# --- names that are computed


def names() -> dict:
    desk = identity("desk").id
    blocks = [
        ("entry", "- Retries need jitter.", 1), ("entry", "- Retries need jitter.", 2), ("heading", "# Lessons", 1),
        ("prose", "---", 1), ("entry", "- Grüße 👋\n  zweite Zeile", 2**62),
    ]  # fmt: skip
    moved = [Dot(desk, 4, 0), Dot(desk, 3, 2)]
    texts = ["", "a", "Zwei Wörter 👋\n"]
    id = block_id(*blocks[2])
    return {
        "blocks": [{"role": r, "text": t, "occurrence": n, "id": block_id(r, t, n)} for r, t, n in blocks],
        "places": [{"id": id, "moved": dots, "place": place_of(id, dots)} for dots in ([], moved[:1], moved)],
        "clients": [
            {"author": desk, "path": path, "client": client_id(desk, path)} for path in ("notes.md", "größe.md")
        ],
        "imports": [
            {"text": text, "client": import_update(text)[0], "update": import_update(text)[1]} for text in texts
        ],
        "tags": [
            {"workspace": History().workspace, "instance": "abcdefghijklmnop",
             "tag": discovery.tag(History().workspace, "abcdefghijklmnop")}
        ],
        "words": hashlib.sha256(" ".join(codes.words()).encode()).digest(),
    }  # fmt: skip


# --- messages


def messages() -> list[tuple[Message, str]]:
    """Every message of a session, with a word on it."""
    made = History()
    vector = {author: max(c.seq for _, c, _ in made.written if c.author == author)
              for author in sorted({c.author for _, c, _ in made.written})}  # fmt: skip
    heads = b"".join(
        next(c.hash for _, c, _ in made.written if (c.author, c.seq) == item)[:HEAD] for item in vector.items()
    )
    desk = identity("desk").id
    run = [signed for signed, (_, change, _) in zip(made.signed, made.written, strict=True) if change.author == desk]
    covered = tuple(Signed(signed.body, None) for signed in run[:2]) + (run[2],)
    digests = (("a-buffer.md", "union", hashlib.sha256(b"a").digest()), ("größe.md", "text", bytes(32)))
    return [
        (Hello((1,), made.workspace, vector, heads, desk), "hello"),
        (Hello((1, 2), made.workspace, {}, b"", identity("phone").id), "hello of one that holds nothing"),
        (Changes(covered), "a run of three: one signature covers it"),
        (Ack(vector), "ack"),
        (Ack({}), "ack of nothing"),
        (Digest(vector, hashlib.sha256(b"golden").digest()), "digest"),
        (DocumentDigests(vector, digests), "documents"),
        (Baseline("join", b"", 0, 2, b"\x78\x01piece"), "first of two pieces of a bundle"),
        (Baseline("fork", desk, 1, 2, b""), "the last one, since chains differ"),
        (Restart(), "restart"),
        (Bye("was removed from the workspace by desk"), "bye"),
    ]


def frames() -> list[dict]:
    return [
        {"what": what, "message": type(message).__name__, "fields": [getattr(message, f) for f in message.__slots__],
         "frame": wire.encode(message)}
        for message, what in messages()
    ]  # fmt: skip


# --- a pairing


class _Budget(Guesses):
    """No store: a right code costs nothing."""

    def __init__(self) -> None:
        pass

    def spend(self) -> None:
        pass

    def give_back(self) -> None:
        pass

    def pause(self) -> float:
        return 0.0


def pair_up() -> dict:
    """One run with both sides' randomness fixed: 64 bytes each, of which the library makes a scalar."""
    desk, laptop = (tls.make_certificate(identity(name).private) for name in ("desk", "laptop"))
    random = {"A": Random(1).randbytes(64), "B": Random(2).randbytes(64)}
    sides = {name: partial(getattr(spake2, name), entropy_f=lambda n, s=name[-1]: random[s]) for name in
             ("SPAKE2_A", "SPAKE2_B")}  # fmt: skip
    welcome = msgpack.packb(
        {"workspace": History().workspace, "workspace_name": "team", "name": "laptop", "port": 41234}
    )
    with mock.patch.multiple(spake2, **sides):
        joiner = Joiner(codes.parse(CODE)[1], laptop, "laptop", desk)
        inviter = Inviter(
            pairing.Invitation(CODE, 600.0), desk, lambda certificate, name: welcome, lambda: 0.0, _Budget()
        )
        hi = joiner.open()
        (answer,) = inviter.receive(hi)
        (confirm,) = joiner.receive(answer)
        (final,) = inviter.receive(confirm)
        joiner.receive(final)
    order = 2**252 + 27742317777372353535851937790883648493
    assert joiner.welcome == welcome and inviting._read_welcome(welcome)
    return {
        "code": CODE, "password": codes.parse(CODE)[1], "joiner": laptop, "inviter": desk,
        "scalars": {side: (int.from_bytes(made, "big") % order).to_bytes(32, "little")
                    for side, made in random.items()},
        "X": joiner._exchange.message, "Y": answer[-33:], "key": joiner._keys.key,
        "hi": hi, "answer": answer, "confirm": confirm, "welcome": final, "payload": welcome,
        "refused": pairing.encode("refused", "code"),
    }  # fmt: skip


# --- what is folded, and the store


def fold(clone: Clone, now_ms: int) -> None:
    """Fold what is old then; everybody has said that they have all of it."""
    vector = msgpack.packb(clone.vector())
    with clone.transaction():
        for name in NAMES[1:]:
            clone.store.execute("INSERT INTO peers(id, seen, vector) VALUES(?,?,?)", (identity(name).id, START, vector))
    assert compact.compact(clone, now_ms).documents


def zlib_of(data: bytes) -> bytes:
    """Deflated anew: what the bytes of the files were before."""
    return zlib.compress(data, 1)


def folded() -> dict:
    """A bundle and its baselines, inflated: what deflates them may differ."""
    made = History()
    with holding(made, "desk", private="- mine alone") as clone:
        fold(clone, LATER)
        packed = bundle.make(clone.store, clone.log)
        read = bundle.read(packed)
        return {
            "bundle": baselines.inflate(packed, bundle.MAX_SIZE),
            "fields": [*read[:-1], [[path, policy, time] for path, policy, time, _ in read.documents]],
            "baselines": [
                {"path": path, "bytes": baselines.inflate(data, baselines.MAX_SIZE),
                 "alive": baselines.unpack(data).alive, "text": baselines.unpack(data).text,
                 "adds": [row._asdict() for row in baselines.unpack(data).adds]}
                for path, _, _, data in read.documents
            ],
            "vector": clone.vector(), "digest": clone.digest(),
        }  # fmt: skip


def schema() -> str:
    """The tables and indexes of a new store, as SQLite keeps them."""
    empty = store.Store.scratch()
    try:
        rows = empty.rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name")
        return pragmas(empty) + "".join(f"{sql};\n" for (sql,) in rows)
    finally:
        empty.close()


def dump(clone: Clone) -> str:
    """A store as SQL. Its place is that of the clone that is made of it."""
    with clone.transaction():
        clone.store.set_meta("place", "")
    return pragmas(clone.store) + "\n".join(clone.store._db.iterdump()) + "\n"


def pragmas(of: store.Store) -> str:
    """What tells a store of ours, and its version."""
    numbers = {name: of.value(f"PRAGMA {name}") for name in ("application_id", "user_version")}
    return "".join(f"PRAGMA {name}={number};\n" for name, number in numbers.items())


def stored() -> str:
    """A store with a part of its log folded, and the rest behind it."""
    with holding(History(), "desk", private="- mine alone") as clone:
        clone.digest()
        fold(clone, HALFWAY)
        return dump(clone)


def as_json(value: Any) -> str:
    return json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n"


CODECS: dict[str, Callable[[], Any]] = {
    "identities.json": identities,
    "history.json": history,
    "names.json": names,
    "messages.json": frames,
    "pairing.json": pair_up,
    "folded.json": folded,
}
FILES: dict[str, Callable[[], str]] = {
    **{name: lambda make=make: as_json(make()) for name, make in CODECS.items()},
    f"schema-{store.SCHEMA_VERSION}.sql": schema,
    f"store-{store.SCHEMA_VERSION}.sql": stored,
}


def main() -> int:
    for name, make in FILES.items():
        path = FOLDER / name
        if path.exists():
            print(f"{name} is there and stays as it is")
        else:
            path.write_text(make(), "utf-8")
            print(f"{name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
