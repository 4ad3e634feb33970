"""What is on the wire and on the disk stays as docs/protocol.md says, to the byte: today's code against golden files.

A failure here means that older clones, older stores or other programs may no longer understand this one. If that is
meant, the format needs another version: see tests/golden/make.py.
"""

import hashlib
import hmac
import importlib
import json
import re
import shutil
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import msgpack
import pytest

from replica import baselines, bundle, changes, keys, store
from replica.blocks import block_id
from replica.changes import Dot, Kind, Signed
from replica.clone import Clone
from replica.errors import IncompatiblePeer, InvalidChange, ProtocolError, UnknownSchema
from replica.keys import Identity, clone_id, verify
from replica.materialise import place_of
from replica.store import SCHEMA_VERSION, Store
from replica.text import Text, client_id, import_update
from tests.golden import make
from tests.helpers import Network
from transport import codes, discovery, frames, pairing, tls, wire
from transport.session import Hello, Session

DOC = (make.FOLDER.parent.parent / "docs" / "protocol.md").read_text("utf-8")
# Made again and compared byte by byte. What is folded is not: which dead blocks are kept may change, how they are
# written may not.
AGAIN = sorted(set(make.CODECS) - {"folded.json"})
STORES = sorted(make.FOLDER.glob("store-*.sql"))


@cache
def golden(name: str) -> Any:
    return json.loads((make.FOLDER / name).read_text("utf-8"))


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


@cache
def key_of() -> dict[bytes, bytes]:
    """Public keys by clone id."""
    return {raw(one["id"]): raw(one["public"]) for one in golden("identities.json")}


def signed_history() -> list[Signed]:
    return [Signed(raw(one["body"]), raw(one["signature"])) for one in golden("history.json")["changes"]]


class _Golden(make.History):
    """The workspace as the files have it, and nothing made anew."""

    def __init__(self, batch: list[Signed]):
        self.workspace, self.batch = raw(golden("history.json")["workspace"]), batch
        self.written = batch

    @property
    def signed(self) -> list[Signed]:
        return self.batch


def taken_in(batch: list[Signed]) -> make.holding:
    """A clone that has taken in these changes, as a context."""
    return make.holding(_Golden(batch), "laptop-copy")


# --- what is written today is what was written then


@pytest.mark.parametrize("name", AGAIN)
def test_what_is_encoded_today_is_what_was_encoded_then(name):
    assert make.as_json(make.CODECS[name]()) == (make.FOLDER / name).read_text("utf-8"), (
        f"{name} would be written otherwise today: older clones may not understand it (tests/golden/make.py)"
    )


CHANGED = [
    ("replica.changes", "FORMAT", 2, "history.json"),
    ("replica.changes", "DOMAIN", b"memory-replica change 2\0", "history.json"),
    ("replica.changes", "ROLES", ("heading", "entry", "prose"), "history.json"),
    ("replica.keys", "ID_SIZE", 15, "identities.json"),
    ("replica.text", "derived_client", lambda *parts: 7, "names.json"),
    ("replica.store", "SCHEMA", store.SCHEMA.replace("note TEXT", "said TEXT"), f"schema-{SCHEMA_VERSION}.sql"),
    ("replica.store", "APPLICATION_ID", 1, f"schema-{SCHEMA_VERSION}.sql"),
    ("transport.pairing", "VERSION", 2, "pairing.json"),
    ("transport.tls", "FOREVER", (tls.FOREVER[0], tls.FOREVER[0]), "identities.json"),
    ("transport.codes", "words", lambda: ("violet", "onion", "harbor"), "names.json"),
]


@pytest.mark.parametrize(("module", "name", "value", "file"), CHANGED, ids=[f"{c[0]}.{c[1]}" for c in CHANGED])
def test_a_changed_constant_is_noticed(module, name, value, file):
    with mock.patch.object(importlib.import_module(module), name, value):
        made = make.FILES[file]()
    assert made != (make.FOLDER / file).read_text("utf-8")


# --- what was written then is understood today


def test_a_key_makes_the_id_and_the_certificate_that_it_made():
    for one in golden("identities.json"):
        assert Identity(raw(one["private"])).public == raw(one["public"])
        assert clone_id(raw(one["public"])) == raw(one["id"])
        assert tls.check_certificate(raw(one["certificate"])) == raw(one["public"])


def test_every_kind_of_change_is_in_the_history():
    assert {one["fields"][6] for one in golden("history.json")["changes"]} == {int(kind) for kind in Kind}


@pytest.mark.parametrize("at", range(len(golden("history.json")["changes"])))
def test_a_change_is_read_as_it_was_written(at):
    one = golden("history.json")["changes"][at]
    change = changes.decode(raw(one["body"]))
    assert make.plain(make.fields(change)) == one["fields"]
    assert change.hash == raw(one["hash"]) == hashlib.sha256(b"memory-replica change 1\0" + raw(one["body"])).digest()
    assert verify(key_of()[change.author], raw(one["signature"]), change.hash)


def test_the_proof_of_a_succession_is_the_old_keys_signature():
    proof = golden("history.json")["proof"]
    [payload] = [one["fields"][8] for one in golden("history.json")["changes"] if one["fields"][6] == Kind.SUCCEED]
    workspace = raw(golden("history.json")["workspace"])
    assert raw(proof["signed"]) == b"memory-replica successor 1\0" + workspace + raw(payload["key"])
    assert payload["proof"] == proof["signature"]
    assert verify(key_of()[raw(payload["old"])], raw(proof["signature"]), raw(proof["signed"]))


def check_content(clone: Clone) -> None:
    """The documents, their digests and conflicts are those of the files."""
    expected = golden("history.json")
    assert make.plain(clone.vector()) == expected["vector"]
    assert clone.digest() == raw(expected["digest"])
    digests = {path: digest.hex() for path, _, digest in clone.documents.document_digests()}
    assert digests == {one["path"]: one["digest"] for one in expected["documents"] if one["digest"]}
    for one in expected["documents"]:
        document = clone.documents.find(one["path"], one["policy"])._replace(private=None)
        assert [conflict.id for conflict in clone.documents.conflicts(document)] == one["conflicts"]
        if one["content"] is not None:
            assert clone.documents.text(document) == one["content"]


def test_a_workspace_has_the_content_and_the_digests_that_it_had():
    with taken_in(signed_history()) as clone:
        check_content(clone)


def test_one_signature_covers_a_run():
    history = signed_history()
    last = {changes.decode(signed.body).author: at for at, signed in enumerate(history)}
    run = [signed if at in last.values() else Signed(signed.body, None) for at, signed in enumerate(history)]
    with taken_in(run) as clone:
        check_content(clone)
    uncovered = [Signed(signed.body, None) if at == max(last.values()) else signed for at, signed in enumerate(history)]
    with pytest.raises(InvalidChange, match="not signed"), taken_in(uncovered):
        pass


def test_computed_names_are_what_they_were():
    names = golden("names.json")
    for one in names["blocks"]:
        assert block_id(one["role"], one["text"], one["occurrence"]) == raw(one["id"])
    for one in names["places"]:
        assert place_of(raw(one["id"]), [Dot(raw(a), s, i) for a, s, i in one["moved"]]) == raw(one["place"])
    for one in names["clients"]:
        assert client_id(raw(one["author"]), one["path"]) == one["client"]
    for one in names["tags"]:
        assert discovery.tag(raw(one["workspace"]), one["instance"]) == one["tag"]
    assert hashlib.sha256(" ".join(codes.words()).encode()).hexdigest() == names["words"]


def test_an_import_is_the_update_that_it_was_and_the_engine_takes_it():
    for one in golden("names.json")["imports"]:
        assert import_update(one["text"]) == (one["client"], raw(one["update"]))
        text = Text.new()
        text.apply(raw(one["update"]), one["client"])
        assert text.text == one["text"]


@pytest.mark.parametrize("at", range(len(golden("messages.json"))))
def test_a_message_is_read_as_it_was_written(at):
    one = golden("messages.json")[at]
    message = wire.decode(raw(one["frame"]))
    assert type(message).__name__ == one["message"]
    assert make.plain([getattr(message, name) for name in message.__slots__]) == one["fields"]
    assert wire.encode(message) == raw(one["frame"])


def test_every_message_of_a_session_has_a_frame():
    kinds = {frames.decode(raw(one["frame"]))[0] for one in golden("messages.json")}
    assert kinds == set(wire._READERS)


def test_the_run_in_a_message_can_be_taken_in():
    [one] = [one for one in golden("messages.json") if one["message"] == "Changes"]
    batch = list(wire.decode(raw(one["frame"])).batch)
    assert [signed.signature is None for signed in batch] == [True, True, False]
    with taken_in(batch) as clone:
        assert len(clone.members()) == 3


def test_a_pairing_confirms_with_the_tags_that_the_page_describes():
    one = golden("pairing.json")
    transcript = hashlib.sha256(raw(one["hi"])).digest() + hashlib.sha256(raw(one["answer"])).digest()

    def tag(label: bytes) -> bytes:
        return hmac.digest(raw(one["key"]), label + transcript, "sha256")

    payload = raw(one["payload"])
    assert frames.decode(raw(one["hi"])) == ["hi", 1, raw(one["joiner"]), "laptop", raw(one["X"])]
    assert frames.decode(raw(one["answer"])) == ["answer", raw(one["Y"])]
    assert frames.decode(raw(one["confirm"])) == ["confirm", tag(b"replica joiner confirms")]
    sealed = tag(b"replica inviter welcomes" + hashlib.sha256(payload).digest())
    assert frames.decode(raw(one["welcome"])) == ["welcome", payload, sealed]
    assert codes.parse(one["code"]) == (37, one["password"])


def test_a_bundle_of_then_begins_a_clone_today_and_is_given_on_as_it_was():
    one = golden("folded.json")
    read = bundle.read(make.zlib_of(raw(one["bundle"])))
    shown = [*read[:-1], [[path, policy, time] for path, policy, time, _ in read.documents]]
    assert make.plain(shown) == one["fields"]
    with taken_in([]) as clone:
        clone.take_bundle(read)
        assert make.plain(clone.vector()) == one["vector"]
        assert clone.digest() == raw(one["digest"]) == raw(golden("history.json")["digest"])
        again = bundle.make(clone.store, clone.log)
    assert baselines.inflate(again, bundle.MAX_SIZE) == raw(one["bundle"])


def test_a_baseline_is_read_and_written_as_it_was():
    for one in golden("folded.json")["baselines"]:
        read = baselines.unpack(make.zlib_of(raw(one["bytes"])))
        assert make.plain([row._asdict() for row in read.adds]) == one["adds"]
        assert (make.plain(read.alive), read.text) == (one["alive"], one["text"])
        assert baselines.inflate(baselines.pack(read), baselines.MAX_SIZE) == raw(one["bytes"])
        if read.state is not None:
            assert Text.load(read.state).text == read.text


def test_a_baseline_that_spells_out_what_follows_is_the_same():
    for one in golden("folded.json")["baselines"]:
        fields = msgpack.unpackb(raw(one["bytes"]), strict_map_key=False)
        for add, row in zip(fields[3], one["adds"], strict=True):
            add[0], add[9], add[10] = raw(row["id"]), raw(row["place"]), row["after"] and raw(row["after"])
        spelled = baselines.unpack(make.zlib_of(msgpack.packb(fields)))
        assert make.plain([row._asdict() for row in spelled.adds]) == one["adds"]


# --- stores


def test_the_schema_is_the_one_of_its_version():
    assert make.schema() == (make.FOLDER / f"schema-{SCHEMA_VERSION}.sql").read_text("utf-8"), (
        "another schema needs another SCHEMA_VERSION and a migration from the one before"
    )


def test_there_is_a_store_of_every_version_that_is_read():
    versions = {int(path.stem.removeprefix("store-")) for path in STORES}
    assert versions == {*store.MIGRATIONS, SCHEMA_VERSION}


def put(dump: Path, root: Path) -> None:
    """Make a clone's folder of a store that was written as SQL."""
    folder = root / ".replica"
    folder.mkdir()
    one = {one["name"]: one for one in golden("identities.json")}
    for name, file in (("desk", "identity"), ("private", "identity.private")):
        Identity(raw(one[name]["private"])).save(folder / file)
    made = sqlite3.connect(folder / "store.db")
    made.executescript(dump.read_text("utf-8"))
    made.close()


@pytest.mark.parametrize("dump", STORES, ids=lambda path: path.stem)
def test_a_store_of_every_version_opens_with_all_that_it_held(dump, tmp_path):
    put(dump, tmp_path)
    with Clone.open(tmp_path, now_ms=lambda: make.START) as clone:
        check_content(clone)
        assert "- mine alone" in clone.text("a-buffer.md")
        with clone.transaction():
            for (doc,) in clone.store.rows("SELECT n FROM documents"):
                clone.materialiser.rebuild(doc)
        check_content(clone)
        dots = {row for row in clone.store.rows("SELECT member, seq FROM admissions")}
        assert len(dots) == 3  # who let in whom, a migration fills in


@pytest.mark.parametrize("dump", STORES, ids=lambda path: path.stem)
def test_a_store_of_every_version_has_the_tables_of_a_new_one(dump, tmp_path):
    put(dump, tmp_path)
    Clone.open(tmp_path, now_ms=lambda: make.START).close()
    fresh = Store.scratch()
    old = Store.open(tmp_path / ".replica" / "store.db")
    try:
        assert shape(old) == shape(fresh)
    finally:
        fresh.close(), old.close()


def shape(of: Store) -> dict[str, set]:
    """Each table's columns, and the indexes."""
    tables = [name for (name,) in of.rows("SELECT name FROM sqlite_master WHERE type='table'")]
    found = {table: set(of.rows(f"SELECT name, type, \"notnull\", pk FROM pragma_table_info('{table}')"))
             for table in tables}  # fmt: skip
    return {**found, "": set(of.rows("SELECT name, tbl_name FROM sqlite_master WHERE type='index'"))}


# --- what is of another version is refused, and nothing is guessed


def test_a_change_of_another_format_or_kind_is_refused():
    whole = msgpack.unpackb(signed_history()[0].body)
    with pytest.raises(InvalidChange, match="format 2 is not known"):
        changes.decode(msgpack.packb([2, *whole[1:]]))
    with pytest.raises(InvalidChange, match="9 is not a valid Kind"):
        changes.decode(msgpack.packb([*whole[:6], 9, *whole[7:]]))
    with pytest.raises(InvalidChange, match="10 fields"):
        changes.decode(msgpack.packb([*whole, 0]))


@pytest.mark.parametrize(("what", "read"), [("bundle", bundle.read), ("baseline", baselines.unpack)])
def test_a_bundle_and_a_baseline_of_another_format_are_refused(what, read):
    one = golden("folded.json")
    data = raw(one["bundle"] if what == "bundle" else one["baselines"][0]["bytes"])
    fields = msgpack.unpackb(data, strict_map_key=False)
    read(make.zlib_of(msgpack.packb(fields)))
    with pytest.raises(InvalidChange, match=f"malformed {what}"):
        read(make.zlib_of(msgpack.packb([2, *fields[1:]])))


def test_a_message_of_an_unknown_kind_is_refused():
    with pytest.raises(ProtocolError, match="unknown kind"):
        wire.decode(frames.encode("hello2", 1))


def test_a_peer_of_another_protocol_is_refused_with_both_versions():
    with Network("one") as network:
        one = network["one"]
        session = Session(one, one.identity.id)
        session.open()
        with pytest.raises(IncompatiblePeer, match="speaks protocol 2, this program 1"):
            session.receive(Hello((2,), one.workspace, {}, b"", bytes(16)))


def test_a_pairing_of_another_version_is_refused():
    desk = tls.make_certificate(make.identity("desk").private)
    inviter = pairing.Inviter(pairing.Invitation(make.CODE, 600.0), desk, lambda *_: b"", lambda: 0.0, make._Budget())
    kind, _, *rest = frames.decode(raw(golden("pairing.json")["hi"]))
    assert inviter.receive(frames.encode(kind, 2, *rest)) == [frames.encode("refused", "version")]


def test_an_announcement_of_another_version_is_passed_over():
    [one] = golden("names.json")["tags"]
    found = []
    looking = discovery.Discovery(raw(one["workspace"]))
    looking.on_found(lambda addresses, instance: found.append(instance))
    for version in (b"2", b"1"):
        text = {b"v": version, b"t": one["tag"].encode()}
        looking._judge(one["instance"], text, [("192.0.2.1", 1)])
        assert found == ([one["instance"]] if version == b"1" else [])


def test_a_store_of_a_later_schema_is_refused_and_stays_as_it_is(tmp_path):
    put(STORES[-1], tmp_path)
    file = tmp_path / ".replica" / "store.db"
    later = sqlite3.connect(file)
    later.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    later.close()
    shutil.copy(file, tmp_path / "before")
    with pytest.raises(UnknownSchema, match=f"version {SCHEMA_VERSION + 1}; this program reads {SCHEMA_VERSION}"):
        Clone.open(tmp_path)
    assert file.read_bytes() == (tmp_path / "before").read_bytes()


# --- the page


def test_the_vectors_that_the_page_shows_are_those_of_the_files():
    shown = re.findall(r"^ {4}([a-z]+\.json)((?: [\w-]+)+) = (\S.*)$", DOC, re.M)
    assert len(shown) >= 10
    for file, way, value in shown:
        found = golden(file)
        for step in way.split():
            found = found[int(step) if isinstance(found, list) else step]
        assert value == (found if isinstance(found, str) else json.dumps(found)), f"{file}{way}"


def test_the_page_names_every_golden_file():
    for path in make.FOLDER.iterdir():
        if path.suffix in (".json", ".sql"):
            assert f"`{path.name}`" in DOC or f"`{path.name.rstrip('.sql0123456789')}N.sql`" in DOC, path.name


def test_the_limits_that_the_page_shows_are_those_of_the_code():
    shown = re.findall(r"^\| `([a-z_.]+)\.([A-Z_]+)` \| ([\d,]+) ", DOC, re.M)
    assert len(shown) >= 20
    for module, name, value in shown:
        assert getattr(importlib.import_module(module), name) == int(value.replace(",", "")), f"{module}.{name}"


def test_the_page_names_every_kind_with_its_number():
    for kind in Kind:
        assert re.search(rf"^\| {int(kind)} \| `{kind.name}` \|", DOC, re.M), kind.name
    for name in wire._READERS:
        assert re.search(rf"^\| `{name}` \|", DOC, re.M), name
    assert keys.ID_SIZE == 16
