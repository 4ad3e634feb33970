"""What fuzzing has found, each once, in the smallest form: it stays found."""

import asyncio
import io
import json

import msgpack
import pytest

from cli import live
from cli.common import as_json, cell, harmless
from cli.main import _fail
from replica import blocks, bundle, changes, config, intake, paths, rejoin, status, textdiff, yjs
from replica.bridge import Bridge
from replica.changes import Kind, Signed
from replica.clone import Clone
from replica.errors import (
    ConfigError,
    CorruptUpdate,
    DamagedRecord,
    InvalidChange,
    PairingError,
    ProtocolError,
    StoreError,
    UnsafePath,
)
from replica.keys import Identity
from replica.log import succession
from replica.places import FOLDER
from replica.text import Text, client_id
from tests.fuzz import worlds
from tests.fuzz.driver import guarded
from tests.helpers import Network, add, forged, read, save
from transport import control, guesses, inviting, service, wire
from transport.session import MAX_DIGESTS, Digest, DocumentDigests, Hello, Session
from transport.targets import MOST_HEARD, Targets


def quick(call):
    """The call takes less than a second of processor time; what it returns or raises."""
    results = []
    guarded(lambda _: results.append(call()), b"")
    return results[-1]


# --- replica.toml, which any member can change for all


@pytest.mark.parametrize("text", ["a." * 5_000 + "a = 1", '"a" . ' * 5_000 + "a = 1", f"[{'a.' * 5_000}a]"])
def test_a_key_of_thousands_of_parts_costs_nothing(text):
    # The parser keeps every beginning of a key: 5,000 parts took 0.4 GB, and 50,000 no machine has memory for.
    with pytest.raises(ConfigError, match="line 1: a key of more than 32 parts"):
        quick(lambda: config.load(text))


def test_numbers_with_points_are_no_long_keys():
    config.load("[sinks.a]\nb = [" + "1.5, " * 100 + "]\n" + "c = 1.5\n" + "".join(f"d{i} = 0.5\n" for i in range(100)))


@pytest.mark.parametrize("text", ["[limits]\ndocument = ", "[[documents]]\nglob = 'a'\npolicy = "])
def test_a_number_that_python_does_not_write_is_a_config_error(text):
    with pytest.raises(ConfigError, match=r"0xf|such as"):
        config.load(text + "0x" + "f" * 5_000)


def test_a_configuration_is_bounded_in_size_and_globs():
    with pytest.raises(ConfigError, match="the limit is 100,000"):
        config.load("#" * 200_000)
    with pytest.raises(ConfigError, match="`exclude`: has 501 parts"):
        config.load(f"exclude = {['a'] * 501}")


def test_a_mistake_is_named_in_a_sentence_however_long_it_is():
    for text in ("x" * 90_000 + " = 1", "[[documents]]\nglob = 'a'\npolicy = '" + "x" * 90_000 + "'"):
        with pytest.raises(ConfigError) as error:
            config.load(text)
        assert len(str(error.value)) < 1_000


MARKS = "a" + "\u0301\u0323" * 45_000  # to compose them takes quadratic time: 6 s


def test_marks_without_end_are_refused_before_they_are_composed():
    with pytest.raises(UnsafePath, match="longer than"):
        quick(lambda: paths.normal(MARKS))
    for text in (f"exclude = ['{MARKS}']", f"[[documents]]\nglob = 'a'\nharvest = {{lines = 1, into = '{MARKS}'}}"):
        with pytest.raises(ConfigError, match="longer than"):
            quick(lambda text=text: config.load(text))


def test_a_decomposed_path_may_be_longer_than_the_limit_before_it_is_composed():
    assert paths.normal("e\u0301" * 45 + "/" + "e\u0301" * 45) == "é" * 45 + "/" + "é" * 45


# --- changes and messages


def test_a_nested_format_is_an_invalid_change():
    with pytest.raises(InvalidChange):
        changes.decode(b"\x91" * 1_000 + b"\xc0")


def test_a_refusal_does_not_repeat_all_of_what_was_refused():
    huge = "x" * 1_000_000
    for fields in ([huge], [1, b"a" * 16, 1, b"w" * 16, 1, [], 3, ["a.md", huge], [[0, "x", 1, "", None, [], {}]]]):
        with pytest.raises(InvalidChange) as error:
            changes.decode(msgpack.packb(fields))
        assert len(str(error.value)) < 400


@pytest.mark.parametrize("bad", [("x" * 500, "text", bytes(32)), ("a", "x" * 99, bytes(32)), ("a", "text", b"")])
def test_a_digest_of_no_possible_document_is_a_protocol_error(bad):
    wire.decode(wire.encode(DocumentDigests({}, (("a.md", "text", bytes(32)),))))
    with pytest.raises(ProtocolError):
        wire.decode(wire.encode(DocumentDigests({}, (bad,))))


def test_a_digest_that_differs_is_not_answered_without_end():
    # Some sixty bytes are answered with the digests of all documents: 2,000 of them were a gigabyte on its way.
    with Network("desk", "laptop") as network:
        desk, laptop = network["desk"], network["laptop"]
        add(desk, "a-buffer.md", "- one")
        network.sync_all()
        talk = Session(desk, laptop.identity.id)
        talk.open()
        talk.receive(Hello((1,), desk.workspace, laptop.vector()))
        with pytest.raises(ProtocolError, match="digest more than"):
            for _ in range(MAX_DIGESTS + 1):
                talk.receive(Digest(laptop.vector(), bytes(32)))


GOOD = {"workspace": b"w" * 16, "workspace_name": "team", "name": "desk", "port": 7000}


@pytest.mark.parametrize("bad", [{"workspace": "w" * 16}, {"workspace": [0] * 16}, {"port": True}, {"port": 7.5}])
def test_a_welcome_of_the_wrong_types_is_a_pairing_error(bad):
    assert inviting._read_welcome(msgpack.packb(GOOD)) == GOOD
    with pytest.raises(PairingError):
        inviting._read_welcome(msgpack.packb({**GOOD, **bad}))


def test_announced_addresses_do_not_pile_up():
    targets = Targets(jitter=lambda: 0.5)
    fixed = targets.add(("10.0.0.1", 1), 0.0, fixed=True)
    member = targets.add(("10.0.0.2", 1), 0.0, peer=b"m" * 16)
    for port in range(1, 3_000):
        targets.add(("10.0.0.3", port), 0.0)
    assert len(targets.all()) == MOST_HEARD + 2
    assert fixed in targets.all() and member in targets.all()
    assert targets.all()[-1].address == ("10.0.0.3", 2_999)


# --- between processes


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"control": 99999999999, "token": "x"}',
        '{"control": true, "token": "x"}',
        "[]",
        '{"control": 0}',
    ],
)
def test_a_damaged_note_of_a_node_means_that_none_runs(tmp_path, text):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / control.FILE).write_text(text)
    assert control.read(tmp_path) is None
    assert control.ask(tmp_path, "poke") is None


class Said:
    """A connection over which these bytes come."""

    def __init__(self, data: bytes):
        self._data = data

    def makefile(self, _mode):
        return io.BytesIO(self._data)


@pytest.mark.parametrize("line", [b"7\n", b"[]\n", b"null\n", b"[" * 100_000 + b"\n", b"HTTP/1.1 400\n"])
def test_another_program_on_the_port_of_a_node_is_no_node(line):
    with pytest.raises(ValueError):
        list(control._answers(Said(line)))


@pytest.mark.parametrize("token", ["é", "\ud800", 7, None, ["secret"]])
def test_a_wrong_token_of_any_kind_gets_no_answer(token):
    async def asked(line: bytes):
        reader = asyncio.StreamReader()
        reader.feed_data(line)
        reader.feed_eof()
        return await service._Service(None, "secret")._read(reader)

    assert asyncio.run(asked(json.dumps({"token": token}).encode() + b"\n")) is None
    assert asyncio.run(asked(b"[" * 50_000 + b"\n")) is None
    assert asyncio.run(asked(b'{"token": "secret", "request": "poke"}\n')) == {"request": "poke"}


@pytest.mark.parametrize("text", ["", "00", "11" * 31, "11" * 33])
def test_a_key_of_the_wrong_length_is_named(tmp_path, text):
    (tmp_path / "identity").write_text(text)
    with pytest.raises(StoreError, match="cannot be read"):
        Identity.load(tmp_path / "identity")


# --- files


def test_a_file_of_equal_lines_is_taken_in_at_once():
    ops = quick(lambda: intake.first_sight("- a\n" * 20_000, "union", [], set(), 1).ops)
    assert [op.occurrence for _, op in ops] == list(range(1, 20_001))


def test_an_edit_of_every_second_line_is_found_at_once():
    old = "".join(f"same {i}\nold {i}\n" for i in range(9_000))
    new = old.replace("old", "new")
    ops = quick(lambda: textdiff.diff(old, new))
    assert textdiff.apply_ops(old, ops) == new
    assert sum(end - start for start, end, _ in ops) < len(old) / 2, "what stayed was not replaced"


def test_a_word_changed_in_every_entry_is_understood_at_once():
    old = "".join(f"- old item number {i} of the list\n" if i % 50 else f"## part {i}\n" for i in range(10_000))
    one, other = blocks.parse(old, "union"), blocks.parse(old.replace("old", "new"), "union")
    edits = quick(lambda: blocks.pair(one, other))
    assert edits.replaced == [(i, i) for i in range(10_000) if i % 50]


def test_two_rules_below_a_blank_line_stay_together():
    assert blocks.spaced(found := blocks.parse("\n---\n---\n", "union"), "union") == found
    assert blocks.render(found) == "\n---\n---\n"


# --- a member who lies


def test_a_block_on_both_sides_of_one_character_is_corrupt():
    # The engine took it in, and showed another text once the document was loaded from its state.
    known = yjs.Known({7: 5})
    good = bytes([1, 1, 9, 0, 0xC4, 7, 1, 7, 2, 1]) + b"x\0"
    assert yjs.check(good, 9, known).next_clock == 1
    with pytest.raises(CorruptUpdate, match="both sides"):
        yjs.check(good.replace(bytes([7, 1, 7, 2]), bytes([7, 2, 7, 2])), 9, known)


def test_a_text_change_that_hides_what_it_builds_on_does_not_end_the_list_of_conflicts():
    with Network("desk", "laptop", "attic") as network:
        desk, laptop, attic = (network[name] for name in ("desk", "laptop", "attic"))
        desk.edit_text("a.md", new="one two three\n")
        network.sync_all()
        laptop.edit_text("a.md", new="one TWO three\n")
        network.sync("desk", "laptop")
        # By attic: deletes what laptop wrote, and says that it has seen nothing of laptop.
        held = desk.materialiser.engine(desk.documents.find("a.md", "text").shared)
        mine = Text.load(held.state(), client_id(attic.identity.id, "a.md"))
        (update,) = mine.edit(mine.client, "three\n")
        author = desk.log.author(attic.identity.id)
        deps = [(desk.identity.id, desk.vector()[desk.identity.id])]
        lie = changes.encode(
            attic.identity.id, author.seq + 1, author.head or desk.workspace, network.now << 16, deps, Kind.TEXT,
            ("a.md", "text"), update,
        )  # fmt: skip
        desk.ingest([Signed(lie.body, attic.identity.sign(lie.hash))])
        (conflict,) = desk.documents.all_conflicts()
        assert {version.text for version in conflict.versions} >= {"one TWO three\n", "three\n"}


NASTY = "desk\x1b[2J\n\u202etxt.\x9b31m"


def test_what_a_member_calls_itself_is_cleaned_where_it_is_stored():
    with Network("desk") as network:
        other = Identity.new()
        network["desk"].append(Kind.ADMIT, None, changes.member_payload(other.public, b"certificate", NASTY))
        assert [member["name"] for member in network["desk"].members()] == ["desk", "desk [2J txt. 31m"]


def test_nothing_that_was_named_elsewhere_steers_the_terminal(capsys):
    assert harmless(NASTY) == "desk\\x1b[2J\n\\u202etxt.\\x9b31m"
    assert cell(NASTY) == "desk\\x1b[2J\\n\\u202etxt.\\x9b31m"
    assert harmless("مرحبا 👩\u200d🔬 שלום") == "مرحبا 👩\u200d🔬 שלום"
    assert _fail(NASTY, NASTY, 1) == 1
    assert json.loads(as_json({"name": NASTY})) == {"name": NASTY} and as_json({"name": NASTY}).isprintable()
    shown = live.View(None, json=False)
    shown.tell({"event": "received", "clone": NASTY, "changes": 1, "documents": [NASTY]})
    shown.tell({"event": "error", "message": NASTY})
    out, err = capsys.readouterr()
    assert err.count("\n") == 2 and out.count("\n") == 2
    assert all(char.isprintable() or char == "\n" for char in out + err)


# --- rows that the disk gave back wrong


def test_a_damaged_entry_is_made_anew_from_the_log_before_anyone_reads_it():
    with Network("desk") as network:
        desk = network["desk"]
        add(desk, "a-buffer.md", "- one", "- two")
        digest, text = desk.digest(), desk.text("a-buffer.md")
        for column, value in (("text", "- oNe"), ("meta", b"\xc1"), ("meta", 7), ("author", 99), ("id", b"x" * 16)):
            desk.store.execute(f"UPDATE adds SET {column}=? WHERE idx=0", (value,))
            desk.store.execute("UPDATE documents SET digest=NULL")
            desk.store.set_meta("digest", None)
            assert desk.text("a-buffer.md") == text
            assert desk.digest() == digest


def test_a_document_whose_log_is_damaged_keeps_its_file_and_the_others_go_on():
    with Network("desk", "laptop") as network:
        desk, laptop = network["desk"], network["laptop"]
        for name in ("a", "b"):
            save(desk, f"{name}.md", f"{name} one\n")
        network.share()
        for name in ("a", "b"):
            save(laptop, f"{name}.md", f"{name} one\n{name} two\n")
        network.run("laptop")
        network.sync_all()
        doc = desk.documents.find("a.md", "text").shared
        desk.store.execute("UPDATE texts SET text=x'00', state=x'00' WHERE doc=?", (doc,))
        desk.store.execute("UPDATE changes SET body=substr(body, 1, 40) WHERE doc=?", (doc,))
        desk.close()
        network.clones["desk"] = desk = Clone.open(desk.root, now_ms=network.clock)
        with pytest.raises(DamagedRecord):
            desk.text("a.md")
        report = Bridge(desk, network.clock).run(every=True)
        assert "damaged" in report.skipped["a.md"]
        assert read(desk, "a.md") == "a one\n"
        assert read(desk, "b.md") == "b one\nb two\n"
        assert desk.documents.all_conflicts() == []
        (store,) = [check for check in status.checks(desk) if check.name == "store"]
        assert (store.state, bool(store.hint)) == ("problem", True) and "changes are damaged" in store.what
        assert status.status(desk, None)["skipped"], "the damaged document is listed"
        desk.store.execute("UPDATE documents SET digest=NULL")
        desk.store.set_meta("digest", None)
        assert desk.digest() != laptop.digest(), "equal digests would say that nothing is wrong"


# --- bundles, which any member may hand to a clone that joins or comes back


@pytest.fixture
def here():
    """The world of the targets; `guest` holds nothing yet."""
    yield worlds.world()
    worlds.close()


def handed(change) -> bundle.Bundle:
    """A real bundle after `change` was called with its fields, in which the baselines lie open."""
    opened = msgpack.unpackb(worlds.opened_bundle(), strict_map_key=False)
    fields = dict(zip(bundle.Bundle._fields, opened[1:], strict=True))
    change(fields)
    return bundle.read(worlds.closed_bundle(msgpack.packb([bundle.FORMAT, *fields.values()])))


def taken(here, change) -> Clone:
    guest = here.network["guest"]
    with worlds.checked_here():
        guest.take_bundle(handed(change))
    return guest


def adds(fields: dict) -> list:
    """The entries of a-buffer.md."""
    return next(document[3][3] for document in fields["documents"] if document[0] == "a-buffer.md")


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["documents"].append(fields["documents"][0]),
        lambda fields: fields["documents"].append(["other.md", *fields["documents"][1][1:]]),
        lambda fields: adds(fields).append(adds(fields)[0]),
        lambda fields: fields["kept"].append(fields["kept"][-1]),
    ],
    ids=["document", "entries", "entry", "change"],
)
def test_a_bundle_that_says_one_thing_twice_is_refused(here, change):
    before = here.fingerprint("guest")
    with pytest.raises(InvalidChange):
        taken(here, change)
    assert here.fingerprint("guest") == before
    assert taken(here, lambda fields: None).text("a-buffer.md") == here.network["shed"].text("a-buffer.md")


def first(fields: dict) -> bytes:
    return next(iter(fields["floor"]))


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields["members"][1].__setitem__(6, fields["members"][0][0]),  # removed, but never
        lambda fields: fields["members"][1].__setitem__(5, None),  # let in, but never
        lambda fields: fields["floor"][first(fields)].__setitem__(0, 2**53),  # no message can say this number
        lambda fields: fields["floor"][first(fields)].__setitem__(0, 2**63 - 1),
        lambda fields: fields.update(name="x" * 100_000),
    ],
    ids=["no removal", "no admission", "2**53", "2**63", "name"],
)
def test_a_bundle_with_what_no_clone_could_hold_is_refused(here, change):
    with pytest.raises(InvalidChange):
        taken(here, change)


def living(fields: dict) -> list:
    return next(add for add in adds(fields) if not add[13])


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"n" * 16),
        (11, msgpack.packb({"a": 1, b"b": 2})),
        (11, msgpack.packb({"tags": [[]]})),
        (2, 2**53),
    ],
    ids=["name", "fields", "tags", "number"],
)
def test_an_entry_of_a_bundle_is_what_its_name_says(here, at, value):
    with pytest.raises(InvalidChange):
        taken(here, lambda fields: living(fields).__setitem__(at, value))


@pytest.mark.parametrize(("policy", "at", "value"), [("text", 3, "adds"), ("log", 4, "words"), ("log", 5, b"state")])
def test_a_baseline_of_a_bundle_holds_what_its_policy_has(here, policy, at, value):
    def change(fields):
        document = next(document for document in fields["documents"] if document[1] == policy)
        document[3][at] = adds(fields) if value == "adds" else value
        fields["documents"] = [document]

    with pytest.raises(InvalidChange, match="does not have"):
        taken(here, change)


def test_names_in_a_bundle_are_cleaned_where_they_are_stored(here):
    def change(fields):
        fields["name"] = "te\x1b[2Jam"
        fields["members"][1][3] = "lap\x1b[2J\ntop"

    guest = taken(here, change)
    assert guest.workspace_name == "te [2Jam" and "lap [2J top" in [member["name"] for member in guest.members()]


def test_a_bundle_that_is_refused_leaves_no_copy_of_the_store(here):
    # Each is begun by setting the store aside: a peer that goes on with bad ones filled the disk.
    desk = here.desk
    bad = handed(lambda fields: fields["kept"].append(fields["kept"][-1]))
    for _ in range(2):
        with worlds.checked_here(), pytest.raises(InvalidChange):
            rejoin.begin(desk, bad, "away", {})
    assert list((desk.root / FOLDER / rejoin.ASIDE).iterdir()) == []
    with worlds.checked_here():
        rejoin.begin(desk, handed(lambda fields: None), "away", {})
        with pytest.raises(InvalidChange):  # the copy that counts stays
            rejoin.begin(desk, bad, "away", {})
    assert len(list((desk.root / FOLDER / rejoin.ASIDE).iterdir())) == 1


def test_a_removal_that_a_bundle_names_ahead_of_its_change_ends_nobody_yet(here):
    # Its time was unknown, and stayed so: whoever asked when the successor was removed got another exception.
    laptop, desk = here.members[0], here.desk
    away = (laptop.identity.id, desk.identity.id, 2**50, False)
    guest = taken(here, lambda fields: fields["removals"].append(away))
    guest.ingest([succeeded(guest, laptop.identity, Identity.new(), deps=guest.log.floor().items())])
    assert all((m["removed_by"] is None) == (m["removed_at"] is None) for m in guest.members())


# --- members


def succeeded(of: Clone, old: Identity, new: Identity, why: str = "copy", deps=()) -> Signed:
    """The first change of `new`, which goes on for `old`."""
    proof = old.sign(succession(of.workspace, new.public))
    payload = changes.member_payload(new.public, b"certificate", "new", old=old.id, proof=proof, why=why)
    return forged(new, of, Kind.SUCCEED, None, payload, deps=deps)


def test_nobody_succeeds_himself():
    # Taken in, it was followed from one to the next without end, on every clone that it reached.
    with Network("desk", "laptop") as network:
        desk, one = network["desk"], Identity.new()
        desk.admit(one.public, b"certificate", "one")
        with pytest.raises(InvalidChange, match="names itself"):
            quick(lambda: desk.ingest([succeeded(desk, one, one)]))


@pytest.mark.parametrize("removed_first", [False, True])
def test_two_that_succeed_each_other_come_to_an_end(removed_first):
    with Network("desk", "laptop") as network:
        desk, laptop = network["desk"], network["laptop"]
        one, other = Identity.new(), Identity.new()
        for identity, name in ((one, "one"), (other, "other")):
            desk.admit(identity.public, b"certificate", name)
        network.sync_all()
        circle = [succeeded(desk, other, one), succeeded(desk, one, other)]
        if removed_first:  # unknown to both
            laptop.remove(one.id.hex())
        for clone in (desk, laptop):
            quick(lambda clone=clone: clone.ingest(circle))
        if not removed_first:
            quick(lambda: laptop.remove(one.id.hex()))
        network.sync_all()
        for clone in (desk, laptop):
            gone = {member["id"] for member in clone.members() if member["removed_by"]}
            assert gone == ({one.id, other.id} if removed_first else {one.id})


def test_a_second_name_of_a_member_is_cleaned_too():
    # Longer than a name may be, it also made every bundle of that clone one that nobody took.
    with Network("desk", "laptop") as network:
        desk, laptop, one = network["desk"], network["laptop"], Identity.new()
        payload = changes.member_payload(one.public, b"certificate", "one\x1b[2J" + "x" * 200)
        early = forged(laptop.identity, laptop, Kind.ADMIT, None, payload, time=1)
        desk.admit(one.public, b"certificate", "one")
        desk.ingest([early])
        assert desk.log.author(one.id).name == changes.clean_name(payload["name"])


# --- what a disk gave back wrong


@pytest.mark.parametrize("kept", ["[[], 1" + "0" * 400 + ", 1]", "[" * 100_000], ids=["number", "nested"])
def test_a_record_of_guesses_that_cannot_be_read_counts_as_spent(kept):
    with Network("desk") as network:
        desk = network["desk"]
        with desk.transaction():
            desk.store.set_meta(guesses.KEY, kept)
        assert 0 < guesses.Guesses(desk.store).pause() <= guesses.PERIOD


@pytest.mark.parametrize(
    ("column", "value"), [("base", b"x"), ("base", bytes(60)), ("form", "?"), ("form", 128), ("form", 0)]
)
def test_a_damaged_memory_of_a_file_ends_that_file_alone(column, value):
    with Network("desk") as network:
        desk = network["desk"]
        for name in ("one.md", "other.md"):
            save(desk, name, "# Title\n\n" + "- words\n" * 40)
        network.run("desk")
        with desk.transaction():
            desk.store.execute(f"UPDATE files SET {column}=? WHERE path='one.md'", (value,))
        for name in ("one.md", "other.md"):
            save(desk, name, "# Title\n\n" + "- words\n" * 41)
        report = network.run("desk")
        assert report.taken == ["other.md"] and "damaged" in report.skipped["one.md"]
        assert read(desk, "one.md").count("words") == 41
