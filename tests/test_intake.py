"""A saved file becomes the smallest change: what the person did, and nothing of what others did meanwhile."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import intake
from replica.blocks import parse, render
from replica.changes import Add, Remove
from replica.filetext import canonical
from tests.helpers import Network, add

POLICIES = ("union", "log", "latest")
few = settings(max_examples=60, deadline=None)

lines = st.sampled_from(["- one", "- two", "- two", "- drei é", "- 🧠", "# Head", "## Sub", "prose", "", "", "  more"])
files = st.lists(lines, max_size=10).map(lambda picked: "".join(f"{line}\n" for line in picked))


def save(clone, path: str, policy: str, base: str, base_ids, seen: int, new: str):
    documents = clone.documents
    document = documents.find(path, policy)
    live = documents.versions(document) if policy == "latest" else documents.entries(document)
    known = {id for (id,) in clone.store.rows("SELECT DISTINCT id FROM adds")}
    saved = intake.save(parse(base, policy), base_ids, new, policy, live, known, seen, 1)
    if saved.ops:
        clone.edit_entries(path, policy, saved.ops)
    return saved


def first(clone, path: str, policy: str, text: str):
    live = clone.documents.entries(clone.documents.find(path, policy))
    known = {id for (id,) in clone.store.rows("SELECT DISTINCT id FROM adds")}
    ops = intake.first_sight(text, policy, live, known, 1).ops
    if ops:
        clone.edit_entries(path, policy, ops)
    return ops


def ids_of(clone, policy: str) -> list[bytes]:
    """The entries that the blocks of the file are, when the file is the document."""
    return [e.id for e in clone.documents.entries(clone.documents.find("x", policy))]


def shown(clone, path: str, policy: str) -> str:
    return clone.documents.text(clone.documents.find(path, policy))


@pytest.mark.parametrize("policy", POLICIES)
@few
@given(files)
def test_a_file_that_is_seen_first_is_the_document(policy, text):
    with Network("alice") as network:
        first(network["alice"], "x", policy, text)
        assert shown(network["alice"], "x", policy) == canonical(text)


@pytest.mark.parametrize("policy", POLICIES)
@few
@given(files)
def test_a_file_that_holds_what_the_document_holds_changes_nothing(policy, text):
    """FAILURES 23, 24: it is the content that counts, and it is never taken in twice."""
    with Network("alice") as network:
        alice = network["alice"]
        first(alice, "x", policy, text)
        assert not first(alice, "x", policy, text)
        ids = ids_of(alice, policy)
        saved = save(alice, "x", policy, canonical(text), ids, alice.log.last_row(), text)
        assert not saved.ops and not saved.removed and not saved.past


@pytest.mark.parametrize("policy", ["union", "latest"])
@few
@given(files, files)
def test_after_a_save_the_document_is_the_file(policy, old, new):
    with Network("alice") as network:
        alice = network["alice"]
        first(alice, "x", policy, old)
        ids = ids_of(alice, policy)
        save(alice, "x", policy, canonical(old), ids, alice.log.last_row(), new)
        assert shown(alice, "x", policy) == canonical(new)


@few
@given(files, files, st.lists(st.sampled_from(["- from bob", "- his", "- two"]), min_size=1, max_size=3, unique=True))
def test_a_save_takes_nothing_away_that_came_after_the_file_was_written(old, new, others):
    """FAILURES 23: the base is what we last wrote there, not the document of now."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        first(alice, "x", "union", old)
        seen = alice.log.last_row()
        ids = ids_of(alice, "union")
        network.sync("alice", "bob")
        add(bob, "x", *others)
        network.sync("alice", "bob")
        save(alice, "x", "union", canonical(old), ids, seen, new)
        assert set(others) <= {e.text for e in alice.documents.entries(alice.documents.find("x", "union"))}


@few
@given(files, st.lists(st.sampled_from(["- late", "- two", "- 🧠"]), min_size=1, max_size=4))
def test_lines_put_behind_a_log_do_not_touch_its_past(old, more):
    with Network("alice") as network:
        alice = network["alice"]
        old = "# Log\n\n- start\n" + old + "- end\n"
        first(alice, "x", "log", old)
        ids = ids_of(alice, "log")
        new = canonical(old) + "".join(f"{line}\n" for line in more)
        saved = save(alice, "x", "log", canonical(old), ids, alice.log.last_row(), new)
        assert not saved.past and not saved.removed
        assert shown(alice, "x", "log") == new


@pytest.mark.parametrize(
    ("new", "past"),
    [
        ("- one\n- two\n- three\n", False), ("- one\n", True), ("- one\n- 2\n", True), ("- two\n- one\n", True),
        ("", True), ("- zero\n- one\n- two\n", False),
    ],
)  # fmt: skip
def test_an_edit_of_the_past_of_a_log_is_told_from_a_new_line(new, past):
    base = parse("- one\n- two\n", "log")
    with Network("alice") as network:
        alice = network["alice"]
        first(alice, "x", "log", "- one\n- two\n")
        ids = ids_of(alice, "log")
        live = alice.documents.entries(alice.documents.find("x", "log"))
        saved = intake.save(base, ids, new, "log", live, set(ids), alice.log.last_row(), 1)
        assert saved.past == past


def test_a_line_said_twice_in_a_log_is_two_entries():
    with Network("alice") as network:
        first(network["alice"], "x", "log", "- again\n- again\n")
        assert shown(network["alice"], "x", "log") == "- again\n- again\n"


def test_an_edited_line_takes_the_place_of_the_old_and_a_new_one_takes_nothing():
    with Network("alice") as network:
        alice = network["alice"]
        first(alice, "x", "union", "- the first lesson\n- second\n")
        ids = ids_of(alice, "union")
        old = alice.entries("x")[0]
        new = "- the first lesson, told better\n- second\n- third\n"
        saved = save(alice, "x", "union", "- the first lesson\n- second\n", ids, alice.log.last_row(), new)
        ops = {op.text: op for _, op in saved.ops}
        assert ops["- the first lesson, told better"].kills == old.dots
        assert ops["- third"].kills == () and len(ops) == 2


def test_what_replaces_a_private_line_stays_private():
    """Level 0 in other words is level 0 still: nothing leaks by an edit."""
    with Network("alice") as network:
        alice = network["alice"]
        add(alice, "x", "- open")
        place = alice.entries("x")[0].place
        alice.edit_entries("x", "union", [(0, Add("entry", "- secret plan", 1, "", place, (), {}))])
        base = "- open\n- secret plan\n"
        for new in ("- open\n- secret plan B\n", "- open\n- altogether different\n"):
            entries = alice.entries("x")
            live = alice.documents.entries(alice.documents.find("x", "union"))
            ids = [e.id for e in entries]
            known = set(ids)
            saved = intake.save(parse(base, "union"), ids, new, "union", live, known, alice.log.last_row(), 1)
            assert saved.ops and all(level == 0 for level, _ in saved.ops)


@few
@given(st.permutations(["- one", "- two and more", "- three", "- four of them"]), st.randoms(use_true_random=False))
def test_an_edit_of_a_private_line_is_shared_in_no_order(order, random):
    """Whatever else is added, edited, taken away or moved in the same save."""
    with Network("alice") as network:
        alice = network["alice"]
        add(alice, "x", "- one", "- two and more", "- three", "- four of them")
        place = random.choice([None, *(entry.place for entry in alice.entries("x"))])
        alice.edit_entries("x", "union", [(0, Add("entry", "- the secret plan", 1, "", place, (), {}))])
        entries = alice.entries("x")
        base, ids = "".join(f"{entry.text}\n" for entry in entries), [entry.id for entry in entries]
        new = [line for line in order if random.random() < 0.7]
        new = [line + random.choice(("", "", " edited")) for line in new] + random.sample(["- new", "- newer"], k=1)
        edited = random.choice(("- the secret plan B", "- now: the secret plan", "- the secrets plan", "- secret plan"))
        new.insert(random.randrange(len(new) + 1), edited)
        text = "".join(f"{line}\n" for line in new)
        live = alice.documents.entries(alice.documents.find("x", "union"))
        saved = intake.save(parse(base, "union"), ids, text, "union", live, set(ids), alice.log.last_row(), 1)
        assert any(isinstance(op, Add) and op.text == edited for _, op in saved.ops)
        for level, op in saved.ops:
            assert level == 0 or not isinstance(op, Add) or "secret" not in op.text


def test_a_line_deleted_elsewhere_and_edited_here_is_kept_as_edited():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        first(alice, "x", "union", "- one lesson\n")
        network.sync("alice", "bob")
        seen = alice.log.last_row()
        ids = [alice.entries("x")[0].id]
        bob.edit_entries("x", "union", [(1, Remove(bob.entries("x")[0].dots))])
        network.sync("alice", "bob")
        save(alice, "x", "union", "- one lesson\n", ids, seen, "- one lesson, edited\n")
        assert shown(alice, "x", "union") == "- one lesson, edited\n"


@few
@given(files)
def test_rendering_what_was_parsed_gives_the_file(text):
    for policy in POLICIES:
        assert render(parse(canonical(text), policy)) == canonical(text)
