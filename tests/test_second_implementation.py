"""docs/protocol.md is enough: the golden files are understood here by what the page says, without a module of ours."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pycrdt import Doc
from pycrdt import Text as Root
from spake2.ed25519_group import Ed25519Group as group

GOLDEN = {path.stem: json.loads(path.read_text("utf-8")) for path in (Path(__file__).parent / "golden").glob("*.json")}
GENESIS, ADMIT, REMOVE, ENTRIES, TEXT, IMPORT, DELETE, REVIEW, SUCCEED = range(9)
ROLES = ("entry", "heading", "prose")


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def block_id(role: str, text: str, occurrence: int) -> bytes:
    named = f"{role}\0{occurrence}\0{text}".encode()
    return hashlib.blake2b(named, digest_size=16, person=b"replica block").digest()


def place_of(id: bytes, dots: list) -> bytes:
    if not dots:
        return id
    named = b"".join(author + seq.to_bytes(8, "big") + index.to_bytes(4, "big") for author, seq, index in sorted(dots))
    return hashlib.blake2b(id + named, digest_size=16).digest()


def client(*parts: bytes) -> int:
    named = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return int.from_bytes(sha(b"memory-replica/client\0" + named)[:8], "big") >> 11 or 1


def number(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + number(value >> 7)


def import_update(text: str) -> tuple[int, bytes]:
    data = text.encode()
    by = client(b"import", data)
    if not data:
        return by, b"\0\0"
    return by, b"\1\1" + number(by) + b"\0\4\1\1t" + number(len(data)) + data + b"\0"


class Workspace:
    """What the changes mean, in a causal order."""

    def __init__(self):
        self.id = b""
        self.keys: dict[bytes, bytes] = {}
        self.heads: dict[bytes, tuple[int, bytes]] = {}
        self.past: dict[tuple[bytes, int], dict[bytes, int]] = {}  # what a change's author had seen
        self.adds: dict[tuple, dict] = {}  # by dot
        self.alive: dict[tuple, dict[bytes, int]] = {}
        self.texts: dict[str, Doc] = {}
        self.edits: dict[str, list[tuple[bytes, int]]] = {}
        self.reviewed: list[list] = []

    def take(self, body: bytes, signature: bytes) -> None:
        fields = msgpack.unpackb(body, strict_map_key=False, use_list=True)
        format, author, seq, prev, time, deps, kind, document, payload = fields
        digest = sha(b"memory-replica change 1\0" + body)
        assert format == 1
        if kind == GENESIS:
            assert prev == bytes(16)
            self.id = digest[:16]
        if kind in (GENESIS, ADMIT, SUCCEED):
            self.keys[sha(payload["key"])[:16]] = payload["key"]
        if kind == SUCCEED:
            signed = b"memory-replica successor 1\0" + self.id + payload["key"]
            Ed25519PublicKey.from_public_bytes(self.keys[payload["old"]]).verify(payload["proof"], signed)
        Ed25519PublicKey.from_public_bytes(self.keys[author]).verify(signature, digest)
        held, head = self.heads.get(author, (0, self.id))
        assert seq == held + 1 and (kind == GENESIS or prev == head)
        assert all(self.heads.get(dep, (0,))[0] >= at for dep, at in deps)
        self.heads[author] = (seq, digest)
        self.past[author, seq] = {**self.past.get((author, seq - 1), {}), author: seq - 1, **dict(deps)}
        if document:
            self.mean(author, seq, time, kind, tuple(document), payload)

    def mean(self, author: bytes, seq: int, time: int, kind: int, document: tuple, payload) -> None:
        seen = self.past[author, seq]
        living = self.alive.setdefault(document, {})
        if kind in (ENTRIES, TEXT, IMPORT):
            living[author] = seq
        if kind == ENTRIES:
            for index, op in enumerate(payload):
                self.operate((author, seq, index), time, document, op)
        elif kind == DELETE:
            for dot in payload:
                self.adds[tuple(dot)]["dead"] = True
            for other in [other for other, at in living.items() if at <= seen.get(other, 0)]:
                del living[other]
        elif kind == REVIEW:
            self.reviewed += payload
        else:
            update = payload if kind == TEXT else import_update(payload)[1]
            self.texts.setdefault(document[0], Doc()).apply_update(update)
            self.edits.setdefault(document[0], []).append((author, seq))

    def operate(self, dot: tuple, time: int, document: tuple, op: list) -> None:
        killed = [self.adds[tuple(kill)] for kill in op[-2 if len(op) == 7 else 0]]
        for add in killed:
            add["dead"] = True
        if len(op) == 1:
            return
        role, text, occurrence, lead, after, _, meta = op
        id = block_id(ROLES[role], text, occurrence)
        itself = [add for add in killed if add["id"] == id]
        key = (time, *dot)
        ranks = [add["rank"] for add in itself] if document[1] == "log" else []
        roots = set().union(*(add["roots"] or {add["id"]} for add in killed)) - {id}
        shown = [id, ROLES[role], text, lead, sorted(meta.items())]
        self.adds[dot] = {
            "id": id, "document": document, "shown": shown, "after": after, "dot": dot, "key": key, "roots": roots,
            "place": place_of(id, [add["dot"] for add in itself]), "rank": min(ranks, default=key), "dead": False,
        }  # fmt: skip

    # --- documents

    def digest(self) -> bytes:
        return sha(b"".join(sorted(self.digest_of(document) for document, living in self.alive.items() if living)))

    def digest_of(self, document: tuple) -> bytes:
        content, waiting = self.text(document[0]) if document[1] == "text" else self.entries(document)
        return sha(b"memory-replica document 1\0" + msgpack.packb([*document, content, waiting]))

    def text(self, path: str) -> tuple[list, list]:
        # Which edits touch one place is not judged here: in the golden files all that are concurrent do.
        edits = sorted(self.edits[path])
        pairs = [[*one, *other] for one in edits for other in edits if one < other and self.concurrent(one, other)]
        return [str(self.texts[path].get("t", type=Root))], [pair for pair in pairs if pair not in self.reviewed]

    def concurrent(self, one: tuple, other: tuple) -> bool:
        return self.past[one].get(other[0], 0) < other[1] and self.past[other].get(one[0], 0) < one[1]

    def entries(self, document: tuple) -> tuple[list, list]:
        adds = [add for add in self.adds.values() if add["document"] == document]
        by_id: dict[bytes, list] = {}
        for add in adds:
            if not add["dead"]:
                by_id.setdefault(add["id"], []).append(add)
        live = []
        for id, same in by_id.items():
            first = min(same, key=lambda add: add["key"])
            roots = set().union(*(add["roots"] or {id} for add in same))
            order = min(add["rank" if document[1] == "log" else "key"] for add in same)
            live.append({**first, "roots": roots, "order": order})
        if document[1] == "union":
            places = self.ordered(adds)
            live.sort(key=lambda entry: places.index(entry["place"]))
        else:
            live.sort(key=lambda entry: entry["order"])
        waiting = self.conflicts(document, live) if any(e["roots"] != {e["id"]} for e in live) else []
        return [entry["shown"] for entry in live], waiting

    def ordered(self, adds: list) -> list[bytes]:
        nodes: dict[bytes, dict] = {}
        for add in sorted(adds, key=lambda add: (add["dead"], add["rank"])):
            nodes.setdefault(add["place"], add)

        def behind(anchor: bytes | None) -> list[bytes]:
            found = sorted((p for p in nodes if nodes[p]["after"] == anchor), key=lambda p: nodes[p]["rank"])
            return [place for follower in reversed(found) for place in (follower, *behind(follower))]

        return behind(None)

    def conflicts(self, document: tuple, live: list) -> list[str]:
        if document[1] == "latest":
            groups = {tuple(sorted(entry["id"] for entry in live))} if len(live) > 1 else set()
        else:
            groups = set()
            for root in set().union(*(entry["roots"] for entry in live)):
                sharing = [entry for entry in live if root in entry["roots"]]
                rivals = [e["id"] for e in sharing if any(self.concurrent(e["dot"][:2], o["dot"][:2]) for o in sharing)]
                groups |= {tuple(sorted(rivals))} if len(rivals) > 1 else set()
        return [sha(msgpack.packb([*document, *ids])).hex()[:10] for ids in sorted(groups)]


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    made = Workspace()
    for one in GOLDEN["history"]["changes"]:
        made.take(bytes.fromhex(one["body"]), bytes.fromhex(one["signature"]))
    return made


def test_every_document_has_the_digest_that_the_page_describes(workspace):
    for one in GOLDEN["history"]["documents"]:
        document = (one["path"], one["policy"])
        assert bool(workspace.alive[document]) == bool(one["digest"])
        if one["digest"]:
            assert workspace.digest_of(document).hex() == one["digest"], one["path"]
        if one["conflicts"] and one["policy"] == "union":
            assert workspace.entries(document)[1] == one["conflicts"]


def test_the_workspace_has_the_digest_that_the_page_describes(workspace):
    assert workspace.id.hex() == GOLDEN["history"]["workspace"]
    assert workspace.digest().hex() == GOLDEN["history"]["digest"]
    assert {id.hex(): seq for id, (seq, _) in workspace.heads.items()} == GOLDEN["history"]["vector"]


def test_conflicts_have_the_ids_that_the_page_describes(workspace):
    by_path = {one["path"]: one["conflicts"] for one in GOLDEN["history"]["documents"]}
    context = ("activeContext.md", "latest")
    live = [add for add in workspace.adds.values() if add["document"] == context and not add["dead"]]
    assert workspace.conflicts(context, live) == by_path["activeContext.md"]
    _, [pair] = workspace.text("todo.md")
    named = [author + seq.to_bytes(8, "big") for author, seq in (pair[:2], pair[2:])]
    assert [sha(msgpack.packb(["todo.md", "text", *named])).hex()[:10]] == by_path["todo.md"]


def test_names_are_those_that_the_page_describes():
    names = GOLDEN["names"]
    for one in names["blocks"]:
        assert block_id(one["role"], one["text"], one["occurrence"]).hex() == one["id"]
    for one in names["places"]:
        dots = [(bytes.fromhex(author), seq, index) for author, seq, index in one["moved"]]
        assert place_of(bytes.fromhex(one["id"]), dots).hex() == one["place"]
    for one in names["clients"]:
        assert client(b"author", bytes.fromhex(one["author"]), one["path"].encode()) == one["client"]
    for one in names["imports"]:
        assert (one["client"], bytes.fromhex(one["update"])) == import_update(one["text"])
    for one in names["tags"]:
        key = bytes.fromhex(one["workspace"])
        tag = hashlib.blake2b(one["instance"].encode(), key=key, digest_size=10, person=b"replica-mdns").digest()
        assert base64.b32encode(tag).decode().lower() == one["tag"]
    for one in GOLDEN["identities"]:
        public = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(one["private"])).public_key().public_bytes_raw()
        assert (public.hex(), sha(public)[:16].hex()) == (one["public"], one["id"])


def test_a_bundle_and_its_baselines_are_what_the_page_describes(workspace):
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN["folded"]["bundle"]), strict_map_key=False)
    format, id, name, floor, members, admissions, removals, successions, _, kept, documents = fields
    assert (format, id, name) == (1, workspace.id, "team")
    assert {author: tuple(end) for author, end in floor.items()} == workspace.heads
    assert {member[0]: member[1] for member in members} == workspace.keys
    assert (len(admissions), len(removals), len(successions)) == (3, 1, 1)
    assert all(body.hex() in [one["body"] for one in GOLDEN["history"]["changes"]] for body in kept)
    assert [document[0] for document in documents] == [one["path"] for one in GOLDEN["folded"]["baselines"]]
    for one in GOLDEN["folded"]["baselines"]:
        _, ids, alive, adds, text, state = msgpack.unpackb(bytes.fromhex(one["bytes"]), strict_map_key=False)
        document = next(document for document in workspace.alive if document[0] == one["path"])
        assert {ids[author]: seq for author, seq in alive} == workspace.alive[document]
        places: list[bytes] = []
        for id, author, seq, index, time, role, content, occurrence, lead, place, *_ in adds:
            id = id or block_id(ROLES[role], content, occurrence)
            add = workspace.adds[ids[author], seq, index]
            places.append(place or id)
            assert (id, places[-1], time) == (add["id"], add["place"], add["key"][0])
            assert add["dead"] or [content, lead] == add["shown"][2:4]
        for add in adds:
            after = places[add[10]] if type(add[10]) is int else add[10]
            assert after == workspace.adds[ids[add[1]], add[2], add[3]]["after"]
        if document[1] == "text":
            doc = Doc()
            doc.apply_update(state)
            assert [str(doc.get("t", type=Root))] == [text] == workspace.text(one["path"])[0]


def test_a_pairing_agrees_on_the_key_that_the_page_describes():
    one = {name: bytes.fromhex(value) for name, value in GOLDEN["pairing"].items()
           if isinstance(value, str) and name not in ("code", "password")}  # fmt: skip
    password = GOLDEN["pairing"]["password"].encode()
    stretched = HKDF(SHA256(), 48, b"", b"SPAKE2 pw").derive(password)
    secret = int.from_bytes(stretched, "big") % group.order()
    x, y = (int.from_bytes(bytes.fromhex(GOLDEN["pairing"]["scalars"][side]), "little") for side in "AB")
    m, n = (group.arbitrary_element(seed) for seed in (b"M", b"N"))
    public_x = group.Base.scalarmult(x).add(m.scalarmult(secret)).to_bytes()
    public_y = group.Base.scalarmult(y).add(n.scalarmult(secret)).to_bytes()
    assert (one["X"], one["Y"]) == (b"A" + public_x, b"B" + public_y)
    shared = group.Base.scalarmult(x * y).to_bytes()
    ids = b"replica joiner" + sha(one["joiner"]), b"replica inviter" + sha(one["inviter"])
    key = sha(sha(password) + sha(ids[0]) + sha(ids[1]) + public_x + public_y + shared)
    assert key == one["key"]
    transcript = sha(one["hi"]) + sha(one["answer"])
    assert msgpack.unpackb(one["confirm"])[1] == hmac.digest(key, b"replica joiner confirms" + transcript, "sha256")
    sealed = b"replica inviter welcomes" + sha(one["payload"]) + transcript
    assert msgpack.unpackb(one["welcome"]) == ["welcome", one["payload"], hmac.digest(key, sealed, "sha256")]
