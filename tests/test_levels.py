"""Which new lines of a shared document stay at level 0, and which of them a person is asked about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica import similar, writing
from replica.changes import Add
from replica.decisions import resolve
from replica.history import before_last, restore
from replica.likeness import NONE, Texts, normal, told
from replica.status import status
from tests.helpers import Network, read, save, stored_bytes

CONFIG = '[[documents]]\nglob = "*.md"\npolicy = "union"\n'
SHARED = "- tides are told in minutes\n"
SECRET = "the office's s3cr3t is 47k11"
LONG = (
    "the plan for the coming months is to move all of the servers from the old room into the new one, then to hand the "
    "keys over to the people who run the building, and to tell nobody before the contract is signed by everyone in the "
    "team and the money has been paid to the account that was named, and to wait for the word of the board that meets "
    "on the third of the month in the house by the river where the others have been since spring"
)


def began(network: Network, *private: str, shared: str = SHARED):
    alice, bob = network["alice"], network["bob"]
    save(alice, "replica.toml", CONFIG)
    save(alice, "notes.md", shared)
    network.run("alice")
    network.share()
    for text in private:
        writing.add(alice, "notes.md", text, level=0)
    network.run("alice")
    network.share()
    return alice, bob


def saved(network: Network, *texts: str, path: str = "notes.md") -> None:
    for text in texts:
        save(network["alice"], path, text)
        network.run("alice")
        network.share()


def listed(clone) -> list[str]:
    return [row["what"] for row in status(clone, None)["held"]]


# --- leaks


def test_half_of_a_private_line_is_written_first():
    """An editor truncates, writes a part, then the rest; we look each time."""
    with Network("alice", "bob") as network:
        alice, bob = began(network, "the s3cr3t of the office is 47k11, and Eve in the harbour has the only other key")
        whole = read(alice, "notes.md")
        saved(network, "", whole[: len(SHARED) + 14], whole)
        assert b"only other key" not in stored_bytes(bob) and b"s3cr3t" not in stored_bytes(bob)


def test_a_shared_line_becomes_the_very_words_of_a_private_one_that_went():
    with Network("alice", "bob") as network:
        _, bob = began(network, SECRET, shared=SHARED + "- draft\n")
        saved(network, SHARED + "- draft\n", SHARED + f"- {SECRET}\n")
        assert b"s3cr3t" not in stored_bytes(bob)


def test_a_private_line_is_overwritten_and_then_written_again_in_other_words():
    with Network("alice", "bob") as network:
        _, bob = began(network, SECRET)
        saved(
            network,
            SHARED + "- something quite new\n",
            SHARED + "- something quite new\n- the office's s3cr3t is 47k12\n",
        )
        assert b"s3cr3t" not in stored_bytes(bob)


@pytest.mark.parametrize("goes", [True, False])
def test_a_file_is_renamed_or_copied_and_its_private_line_edited_before_we_look(goes):
    with Network("alice", "bob") as network:
        alice, bob = began(network, SECRET)
        text = read(alice, "notes.md").replace("47k11", "47k12")
        if goes:
            (alice.root / "notes.md").unlink()
        saved(network, text, path="renamed.md")
        assert b"s3cr3t" not in stored_bytes(bob)


@pytest.mark.parametrize("line", [f"- {SECRET}  ", f"* {SECRET}", f"1. {SECRET}", "- The" + SECRET[3:], f"- {SECRET}."])
def test_a_private_line_is_cut_and_pasted_into_another_document(line):
    with Network("alice", "bob") as network:
        alice, bob = began(network, SECRET)
        save(alice, "notes.md", SHARED)
        saved(network, f"- something there\n{line}\n", path="other.md")
        assert b"47k11" not in stored_bytes(bob)


@pytest.mark.parametrize("texts", [
    (SHARED, SHARED + f"\n# {SECRET}\n"),  # taken out, and then a heading
    (f"{SECRET}\n\n{SHARED}",),  # without its bullet, elsewhere
], ids=["heading", "prose"])  # fmt: skip
def test_a_private_bullet_comes_back_as_another_kind_of_block(texts):
    with Network("alice", "bob") as network:
        _, bob = began(network, SECRET, shared=SHARED)
        saved(network, *texts)
        assert b"s3cr3t" not in stored_bytes(bob)


def test_a_person_edits_a_private_line_that_a_command_has_edited_meanwhile():
    with Network("alice", "bob") as network:
        alice, bob = began(network, SECRET)
        document = alice.document("notes.md")
        (entry,) = [entry for entry in alice.documents.entries(document) if entry.private]
        writing.edit(alice, document, entry, "ask Bob for the key instead")
        saved(network, SHARED + "- the office's s3cr3t is 47k12\n")
        assert b"s3cr3t" not in stored_bytes(bob)


def test_a_part_of_a_private_line_comes_back_with_the_next_save():
    with Network("alice", "bob") as network:
        _, bob = began(network, "alarm 0815 and gate 47k11, bank account 1234 pin 9999, mail password hunter2")
        saved(network, SHARED, SHARED + "- mail password hunter2\n")
        assert b"hunter2" not in stored_bytes(bob)


@pytest.mark.parametrize("text", [
    "- tides are told in minutes (office's s3cr3t is 47k11)\n", "- tides are told in minutes\n  Office s3cr3t: 47k11\n",
])  # fmt: skip
def test_a_private_line_is_joined_to_a_shared_one(text):
    with Network("alice", "bob") as network:
        _, bob = began(network, SECRET)
        saved(network, text)
        assert b"s3cr3t" not in stored_bytes(bob)


def test_the_end_of_a_long_private_entry_is_moved():
    with Network("alice", "bob") as network:
        begin = " ".join(f"word{n}" for n in range(300))
        _, bob = began(network, f"{begin} s3cr3t " + " ".join(f"zz{n * 7919}qq" for n in range(40)))
        end = "s3cr3t " + " ".join(f"zz{n * 7919}qq" for n in range(40))
        saved(network, f"- {end}\n{SHARED}- {begin}\n")
        assert b"s3cr3t" not in stored_bytes(bob)


@pytest.mark.parametrize("back", [False, True])
def test_a_private_line_is_mixed_with_a_shared_one_that_went(back):
    """The more so as it is more like the shared one than like the private one."""
    with Network("alice", "bob") as network:
        seen = "- door code: see the blue safe\n"
        alice, bob = began(
            network,
            "door code: 47k11, and the alarm is 0815, ask Eve for it, or call the people at the harbour",
            shared=SHARED + seen,
        )
        saved(network, read(alice, "notes.md").replace(seen, ""))
        if back:
            saved(network, "")
        saved(network, SHARED + "- door code: 47k11, see the blue safe\n")
        assert b"47k11" not in stored_bytes(bob)


# --- kept back, and not said


@pytest.mark.parametrize("line", ["the tests run on two cores", "buy milk and bread"])
def test_a_new_line_in_the_place_of_a_long_private_one_is_listed(line):
    with Network("alice", "bob") as network:
        alice, bob = began(network, LONG)
        saved(network, SHARED + f"- {line}\n")
        assert line in read(bob, "notes.md") or any(line in what for what in listed(alice))


@pytest.mark.parametrize("text", [
    SHARED + f"- {SECRET}\n  - harbours close at night\n", f"- harbours close at night\n  - {SECRET}\n{SHARED}",
], ids=["shared below private", "private below shared"])  # fmt: skip
def test_a_shared_line_that_is_indented_is_not_lost_to_the_others_in_silence(text):
    with Network("alice", "bob") as network:
        alice, bob = began(network, SECRET, shared=SHARED + "- harbours close at night\n")
        saved(network, SHARED + f"- {SECRET}\n- harbours close at night\n", text)
        assert "harbours" in read(bob, "notes.md") or any("harbours" in what for what in listed(alice))


def test_a_shared_line_that_is_edited_to_what_a_private_one_said_is_not_lost_in_silence():
    with Network("alice", "bob") as network:
        alice, bob = began(network, "review is on tuesday", shared=SHARED + "- review on monday\n")
        saved(network, SHARED + "- review on tuesday\n")
        assert "review" in read(bob, "notes.md") or any("review" in what for what in listed(alice))


def test_a_withheld_line_that_is_restored_is_listed():
    with Network("alice", "bob") as network:
        alice, _bob = began(network, SECRET)
        saved(network, SHARED + "- something quite new\n")
        network.now += 60_000
        saved(network, SHARED)
        network.now += 60_000
        restore(alice, "notes.md", before_last(alice, "notes.md"))
        network.run("alice")
        assert "quite new" in read(alice, "notes.md") and len(listed(alice)) == 1


def test_two_withheld_lines_that_are_settled_as_one_are_listed():
    with Network("alice", "bob") as network:
        alice, _bob = began(network, SECRET)
        saved(network, SHARED + "- something quite new about boats\n- something quite new about boots\n")
        (pair,) = similar.listed(alice)
        similar.resolve(alice, pair, text="something quite new about boats and boots")
        network.run("alice")
        assert len(listed(alice)) == 1


def test_words_that_were_private_in_another_document_are_listed_where_a_person_writes_them():
    with Network("alice", "bob") as network:
        alice, bob = began(network)
        writing.add(alice, "ideas.md", "TODO", level=0)
        network.run("alice")
        saved(network, SHARED + "- TODO\n")
        assert "TODO" in read(bob, "notes.md") or any("TODO" in what for what in listed(alice))


# --- too much is kept back


def test_a_shared_line_edited_beside_a_long_private_one_is_not_taken_from_the_others():
    with Network("alice", "bob") as network:
        alice, bob = began(network, LONG, shared=SHARED + "- harbours close at night\n")
        text = read(alice, "notes.md").replace("coming months", "coming weeks")
        saved(network, text.replace("harbours close at night", "the harbours are closed in winter"))
        assert "harbours" in read(bob, "notes.md")


def test_an_innocent_line_beside_an_edit_of_a_long_private_one_is_shared():
    with Network("alice", "bob") as network:
        alice, bob = began(network, LONG)
        text = read(alice, "notes.md").replace("coming months", "coming weeks")
        saved(network, "- the tests run on two cores\n" + text)
        assert "two cores" in read(bob, "notes.md")


def test_a_private_line_that_went_long_ago_keeps_nothing_back():
    with Network("alice", "bob") as network:
        alice, bob = began(network, "2025-06-01 met Anna about the budget")
        saved(network, SHARED)
        for day in range(60):
            network.now += 86_400_000
            saved(network, SHARED + "".join(f"- note number {n}\n" for n in range(day)))
        saved(network, read(alice, "notes.md") + "- 2025-08-01 met Zoe about the garden\n")
        assert "Zoe" in read(bob, "notes.md")


def test_of_many_new_lines_none_is_kept_back_for_their_number():
    with Network("alice", "bob") as network:
        alice, _bob = began(network)
        for n in range(100):
            writing.add(alice, "notes.md", f"{n:064b}"[::-1] + f" {n}", level=0)
        network.run("alice")
        saved(network, SHARED)
        network.bridge("alice").accept(["notes.md"])
        saved(network, SHARED + "".join(f"- garden bed {chr(97 + n % 26) * 3} has plant {n}\n" for n in range(700)))
        assert listed(alice) == []


# --- the level of a rule

RULE = '[[documents]]\nglob = "now.md"\npolicy = "{}"\nlevel = {}\n'


@pytest.mark.parametrize("policy", ["latest", "union", "log", "text"])
def test_what_is_written_after_the_level_became_0_stays_here_also_where_shared_words_stood(policy):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format(policy, 1))
        network.run("alice")
        saved(network, "- one thing\n- two things\n", path="now.md")
        save(alice, "replica.toml", RULE.format(policy, 0))
        network.share()
        texts = ["- one thing\n- two things\n- s3cr3t\n", "- one s3cr3t\n- two things\n- s3cr3t\n"]
        for text in texts[: 1 if policy == "log" else 2]:
            saved(network, text, path="now.md")
            assert read(alice, "now.md") == text and b"s3cr3t" not in stored_bytes(bob)
        assert "- two things" in read(bob, "now.md") and listed(alice) == []


def test_a_latest_document_that_went_on_at_level_0_shows_what_others_write_as_a_conflict():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format("latest", 1))
        network.run("alice")
        saved(network, "- one thing\n", path="now.md")
        save(alice, "replica.toml", RULE.format("latest", 0))
        network.share()
        for text in ("- s3cr3t\n", "- s3cr3t, edited\n"):
            saved(network, text, path="now.md")
            assert not alice.documents.all_conflicts() and read(alice, "now.md") == text
        bob.edit_entries("now.md", "latest", [(1, bob_version(bob))])
        network.share()
        (conflict,) = alice.documents.all_conflicts()
        assert {version.text for version in conflict.versions} == {"- s3cr3t, edited", "- by bob"}
        assert not bob.documents.all_conflicts() and b"s3cr3t" not in stored_bytes(bob)
        assert alice.digest() == bob.digest()
        resolve(alice, conflict.id, keep="bob")
        network.share()
        assert read(alice, "now.md") == read(bob, "now.md") == "- by bob\n"
        saved(network, "- another s3cr3t\n", path="now.md")
        assert read(alice, "now.md") == "- another s3cr3t\n" and b"s3cr3t" not in stored_bytes(bob)
        save(alice, "replica.toml", RULE.format("latest", 1))
        network.share()
        saved(network, "- no longer of level 0\n", path="now.md")
        assert read(alice, "now.md") == read(bob, "now.md") == "- no longer of level 0\n"
        assert not alice.documents.all_conflicts() and not bob.documents.all_conflicts()


def bob_version(bob) -> Add:
    (entry,) = bob.documents.entries(bob.document("now.md"))
    return Add("entry", "- by bob", 1, "", entry.place, entry.dots, {})


@pytest.mark.parametrize("policy", ["latest", "union", "log", "text"])
def test_what_is_written_after_the_level_became_1_is_shared(policy):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format(policy, 0))
        network.run("alice")
        saved(network, "- the first words of all\n", path="now.md")
        save(alice, "replica.toml", RULE.format(policy, 1))
        network.share()
        assert not (bob.root / "now.md").exists()
        saved(network, "- the first words of all\n- tides\n", path="now.md")
        assert "- tides" in read(bob, "now.md") and "- tides" in read(alice, "now.md")
        assert ("first words" in read(bob, "now.md")) == (policy in ("latest", "text"))  # one text has one level


# --- likeness

ANY = st.text(max_size=60)


@given(ANY, ANY)
def test_a_text_tells_itself_and_what_is_a_part_of_it_whatever_it_is(one, other):
    texts = Texts([one, other])
    for text in filter(None, map(normal, (one, other))):
        assert text in told(texts, f"  - {text}  .", set(), lambda: NONE)
        if len(text) >= 24 and normal(text) == text:
            assert text in told(texts, f"before it, {text} and behind it", set(), lambda: NONE)
            assert text in told(texts, text[: len(text) // 2], set(), lambda: NONE)


@given(ANY)
def test_what_a_line_that_everybody_has_says_tells_nothing_new(text):
    private = Texts(["the alarm of the office is told to nobody 47k11"])
    shared = Texts(["the alarm of the office is told to everybody"])
    line = "the alarm of the office is told to somebody"
    assert told(private, line, set(), lambda: NONE) and not told(private, line, set(), lambda: shared)
    assert told(private, f"{line} 47k11", set(private.all), lambda: shared)
