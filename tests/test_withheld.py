"""What may be of level 0 in other words stays on its clone, is listed, and waits for a person."""

import pytest

from replica import page, writing
from replica.bridge import Bridge
from replica.clone import Clone
from replica.errors import DocumentNotFound, NotFound
from replica.guard import LIKENESS
from replica.status import status
from tests.helpers import Network, read, save, stored_bytes

CONFIG = '[[documents]]\nglob = "*.md"\npolicy = "union"\n'
SHARED = "- tides are told in minutes\n"
DOUBTED = "- something quite new\n"


@pytest.fixture
def network():
    """A line of level 0 went, and in its place stands another: nobody can tell whether that is the same."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        save(alice, "replica.toml", CONFIG)
        save(alice, "notes.md", SHARED)
        network.run("alice")
        network.share()
        writing.add(alice, "notes.md", "the office's s3cr3t", level=0)
        network.run("alice")
        save(alice, "notes.md", SHARED + DOUBTED)
        network.run("alice")
        network.share()
        yield network


def listed(clone: Clone) -> list[tuple[str, str]]:
    return [(row["path"], row["reason"]) for row in status(clone, None)["held"]]


def line(clone: Clone, words: str) -> str:
    """The id of the line that waits and has these words."""
    (row,) = [row for row in Bridge(clone).withheld.rows() if words in row["what"]]
    return row["line"][:8]


def at_rest(network: Network) -> None:
    network.share()
    assert network.run("alice").quiet and network.run("bob").quiet


def test_it_stays_here_and_is_listed(network):
    alice, bob = network["alice"], network["bob"]
    assert read(bob, "notes.md") == SHARED and b"quite new" not in stored_bytes(bob)
    assert read(alice, "notes.md") == SHARED + DOUBTED
    (row,) = status(alice, None)["held"]
    assert (row["path"], row["reason"]) == ("notes.md", LIKENESS) and "something quite new" in row["what"]
    (entry,) = [entry for entry in alice.documents.entries(alice.document("notes.md")) if entry.private]
    assert row["since"] == network.now and row["line"] == entry.id.hex()
    save(alice, "notes.md", SHARED + DOUBTED + "- and more\n")
    assert "something quite new" in network.run("alice").held["notes.md"]  # told again with each save of the file
    assert network.run("alice").held == {}


def test_who_names_it_shares_it(network):
    alice, bob = network["alice"], network["bob"]
    save(alice, "notes.md", SHARED + DOUBTED + "- and more\n")
    network.run("alice")
    assert network.bridge("alice").accept([]).held == {} and listed(alice) == [("notes.md", LIKENESS)]
    with pytest.raises(DocumentNotFound):
        network.bridge("alice").accept(["notes.md"])
    network.bridge("alice").accept_lines("notes.md", [line(alice, "quite new")])
    network.share()
    after = SHARED + "- and more\n" + DOUBTED  # behind what was shared there before
    assert read(bob, "notes.md") == read(alice, "notes.md") == after
    assert listed(alice) == [] and b"s3cr3t" not in stored_bytes(bob)
    at_rest(network)
    save(alice, "notes.md", after.replace("quite", "no longer"))
    network.run("alice")
    network.share()
    assert read(bob, "notes.md") == read(alice, "notes.md") == after.replace("quite", "no longer")
    assert not alice.documents.conflicts(alice.document("notes.md"))


def test_who_rejects_it_keeps_it_here_for_good(network):
    alice, bob = network["alice"], network["bob"]
    network.bridge("alice").reject([])
    assert listed(alice) == [("notes.md", LIKENESS)]
    network.bridge("alice").reject_lines("notes.md", [line(alice, "quite new")])
    assert listed(alice) == [] and read(alice, "notes.md") == SHARED + DOUBTED
    for text in (SHARED, SHARED + DOUBTED, SHARED + "- something quite new, edited\n"):
        save(alice, "notes.md", text)
        network.run("alice")
        network.share()
        assert listed(alice) == [] and read(bob, "notes.md") == SHARED
    at_rest(network)


def test_it_is_listed_as_it_is_now_however_it_was_edited_moved_or_renamed(network):
    alice, bob = network["alice"], network["bob"]
    for text in ("- something quite new, edited\n" + SHARED, SHARED, SHARED + "- something quite new, edited\n"):
        save(alice, "notes.md", text)
        network.run("alice")
        assert listed(alice) == [("notes.md", LIKENESS)] * ("edited" in text)
    (alice.root / "notes.md").rename(alice.root / "renamed.md")
    network.run("alice")
    assert listed(alice) == [("renamed.md", LIKENESS)]
    network.bridge("alice").accept_lines("renamed.md", [line(alice, "edited")])
    network.share()
    assert read(bob, "renamed.md") == SHARED + "- something quite new, edited\n"
    assert listed(alice) == [] and b"s3cr3t" not in stored_bytes(bob)


@pytest.mark.parametrize("node", [True, False])
def test_what_was_saved_after_the_person_looked_is_not_shared(network, node):
    """Whether a node has taken it in meanwhile, or not."""
    alice, bob = network["alice"], network["bob"]
    seen = line(alice, "quite new")
    writing.add(alice, "notes.md", "another s3cr3t", level=0)
    network.run("alice")
    save(alice, "notes.md", SHARED + DOUBTED + "- what comes in its place\n")
    if node:
        network.run("alice")
    network.bridge("alice").accept_lines("notes.md", [seen])
    network.share()
    assert read(bob, "notes.md") == SHARED + DOUBTED and read(alice, "notes.md").endswith("- what comes in its place\n")
    (row,) = status(alice, None)["held"]
    assert "what comes in its place" in row["what"]


@pytest.mark.parametrize("text", [SHARED, SHARED + "- something quite new, and the s3cr3t\n"])
def test_what_was_taken_out_or_edited_after_the_person_looked_is_not_shared(network, text):
    alice, bob = network["alice"], network["bob"]
    seen = line(alice, "quite new")
    save(alice, "notes.md", text)
    with pytest.raises(NotFound, match="no line of level 0"):
        network.bridge("alice").accept_lines("notes.md", [seen])
    network.share()
    assert read(alice, "notes.md") == text and b"quite new" not in stored_bytes(bob)


def test_nothing_is_shared_when_one_of_the_lines_is_not_there(network):
    alice, bob = network["alice"], network["bob"]
    for wrong in ("ffffffff", "", "zz", line(alice, "quite new")[:3]):
        with pytest.raises(NotFound):
            network.bridge("alice").accept_lines("notes.md", [line(alice, "quite new"), wrong])
    network.share()
    assert read(bob, "notes.md") == SHARED


def test_a_line_that_was_rejected_can_be_shared_all_the_same(network):
    alice, bob = network["alice"], network["bob"]
    seen = line(alice, "quite new")
    network.bridge("alice").reject_lines("notes.md", [seen])
    network.bridge("alice").accept_lines("notes.md", [seen])
    network.share()
    assert read(bob, "notes.md") == SHARED + DOUBTED


def test_the_fields_of_the_private_entry_are_not_shared_with_the_line_in_its_place(network):
    alice, bob = network["alice"], network["bob"]
    network.bridge("alice").reject_lines("notes.md", [line(alice, "quite new")])
    writing.add(alice, "notes.md", "the key is 47k11", level=0, tags=("s3cr3t-project",))
    network.run("alice")
    save(alice, "notes.md", SHARED + DOUBTED + "- buy milk\n")
    network.run("alice")
    network.bridge("alice").accept_lines("notes.md", [line(alice, "milk")])
    network.share()
    assert read(bob, "notes.md") == SHARED + "- buy milk\n" and b"s3cr3t-project" not in stored_bytes(bob)


def test_to_let_a_removal_through_neither_brings_back_nor_shares_what_was_removed(network):
    alice, bob = network["alice"], network["bob"]
    many = "".join(f"- line {n} of many\n" for n in range(30))
    writing.add(alice, "notes.md", "another s3cr3t", level=0)
    network.run("alice")
    save(alice, "notes.md", SHARED + DOUBTED + many)
    network.run("alice")
    save(alice, "notes.md", SHARED + DOUBTED)
    network.run("alice")
    assert ("notes.md", "removal") in listed(alice)
    network.bridge("alice").accept(["notes.md"])
    network.share()
    assert read(alice, "notes.md") == SHARED + DOUBTED and listed(alice) == [("notes.md", LIKENESS)]
    assert b"of many" not in stored_bytes(bob) and read(bob, "notes.md") == SHARED


def test_to_let_the_deletion_of_files_through_does_not_share_what_was_withheld_in_them(network):
    alice, bob = network["alice"], network["bob"]
    save(alice, "other.md", "- x\n")
    network.run("alice")
    for name in ("notes.md", "other.md"):
        (alice.root / name).unlink()
    network.run("alice")
    assert sorted(listed(alice)) == [("notes.md", LIKENESS), ("notes.md", "vanished"), ("other.md", "vanished")]
    network.bridge("alice").accept(["notes.md"])
    network.share()
    assert not (alice.root / "notes.md").exists() and b"quite new" not in stored_bytes(bob)


def test_words_that_somebody_else_shares_are_no_longer_listed(network):
    alice, bob = network["alice"], network["bob"]
    save(bob, "notes.md", SHARED + DOUBTED)
    network.run("bob")
    network.share()
    assert listed(alice) == [] and "quite new" in read(alice, "notes.md")


def test_a_rule_of_level_0_leaves_nothing_to_decide(network):
    alice = network["alice"]
    save(alice, "replica.toml", CONFIG + "level = 0\n")
    network.run("alice")
    assert listed(alice) == []


def test_it_is_listed_in_a_store_that_was_opened_anew(network):
    alice = network["alice"]
    with Clone.open(alice.root, now_ms=lambda: network.now) as again:
        assert listed(again) == [("notes.md", LIKENESS)]


def test_a_page_lets_through_only_what_it_showed(network):
    """A file is held and has such lines as well: who lets the one through has not spoken of the other."""
    alice, bob = network["alice"], network["bob"]
    many = "".join(f"- line {n} of many\n" for n in range(30))
    save(alice, "notes.md", SHARED + DOUBTED + many)
    network.run("alice")
    save(alice, "notes.md", SHARED + DOUBTED)
    network.run("alice")
    network.share()
    assert sorted(listed(alice)) == [("notes.md", LIKENESS), ("notes.md", "removal")]
    what = {row["reason"]: row["what"] for row in status(alice, None)["held"]}
    with pytest.raises(NotFound, match="not held back for that"):
        page.release(alice, "notes.md", "something else", accept=True)
    page.release(alice, "notes.md", what["removal"], accept=True)
    network.share()
    assert listed(alice) == [("notes.md", LIKENESS)] and read(bob, "notes.md") == SHARED
    save(alice, "notes.md", SHARED + "- something quite s3cr3t\n")
    network.run("alice")
    with pytest.raises(NotFound, match="not held back for that"):
        page.release(alice, "notes.md", what[LIKENESS], accept=True)
    save(alice, "notes.md", SHARED + DOUBTED)
    network.run("alice")
    (row,) = status(alice, None)["held"]
    page.release(alice, "notes.md", row["what"], accept=True)
    network.share()
    assert listed(alice) == [] and read(bob, "notes.md") == SHARED + DOUBTED


def test_a_line_that_is_of_level_0_for_sure_is_not_listed(network):
    alice = network["alice"]
    network.bridge("alice").reject_lines("notes.md", [line(alice, "quite new")])
    writing.add(alice, "notes.md", "for me alone", level=0)
    network.run("alice")
    text = read(alice, "notes.md")
    for saved in (text.replace("alone", "and nobody else"), SHARED, text):
        save(alice, "notes.md", saved)
        network.run("alice")
        assert listed(alice) == []


def test_an_edit_by_a_command_waits_too(network):
    alice, bob = network["alice"], network["bob"]
    (entry,) = [entry for entry in alice.documents.entries(alice.document("notes.md")) if entry.private]
    writing.edit(alice, alice.document("notes.md"), entry, "something quite other")
    network.share()
    assert "quite other" in status(alice, None)["held"][0]["what"] and read(bob, "notes.md") == SHARED
    network.bridge("alice").accept_lines("notes.md", [line(alice, "quite other")])
    network.share()
    assert read(bob, "notes.md") == SHARED + "- something quite other\n" and listed(alice) == []


def test_a_line_that_comes_where_more_than_one_went_waits_too(network):
    alice = network["alice"]
    network.bridge("alice").reject_lines("notes.md", [line(alice, "quite new")])
    for text in ("one s3cr3t", "and two"):
        writing.add(alice, "notes.md", text, level=0)
    network.run("alice")
    save(alice, "notes.md", SHARED + "- quite another\n")
    network.run("alice")
    assert "quite another" in status(alice, None)["held"][0]["what"]


def test_each_line_is_told_by_itself_and_a_save_names_one_and_counts_the_others(network):
    alice, bob = network["alice"], network["bob"]
    writing.add(alice, "notes.md", "another s3cr3t", level=0)
    network.run("alice")
    save(alice, "notes.md", SHARED + DOUBTED + "- what comes in its place\n")
    told = network.run("alice").held["notes.md"]
    assert "quite new" in told and "and 1 more" in told
    assert len(Bridge(alice).held()) == 2
    network.bridge("alice").accept_lines("notes.md", [line(alice, "comes in its place")])
    network.share()
    assert read(bob, "notes.md") == SHARED + "- what comes in its place\n"
    assert listed(alice) == [("notes.md", LIKENESS)]
