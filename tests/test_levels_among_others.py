"""Levels where others have the same words, where lines are much alike, and where the level of a rule changes."""

from contextlib import suppress

import pytest

from replica import page, writing
from replica.errors import NotFound
from replica.status import status
from tests.helpers import Network, read, save, stored_bytes
from tests.test_levels import RULE, SHARED, began, listed, saved


def shared_places(clone):
    return {
        after for (after,) in clone.store.rows("SELECT after FROM adds JOIN documents d ON d.n=doc WHERE d.private=0")
    }


# --- leaks


@pytest.mark.parametrize("secret", ["47k11", "hunter2"])
def test_a_private_line_is_parted_in_two(secret):
    """Enter, pressed in the middle of a bullet."""
    with Network("alice", "bob") as network:
        _alice, bob = began(network, f"the code of the office alarm is {secret}")
        saved(network, SHARED + f"- the code of the office alarm is\n- {secret}\n")
        assert secret not in read(bob, "notes.md")


def test_the_fields_of_a_private_entry_are_not_shared_with_an_edit_of_what_another_clone_wrote_in_the_same_words():
    with Network("alice", "bob") as network:
        alice, bob = began(network)
        writing.add(alice, "notes.md", "ask Eve for the key", level=0, tags=("s3cr3t-project",))
        network.run("alice")
        network.now += 1000
        save(bob, "notes.md", SHARED + "- ask Eve for the key\n")
        network.run("bob")
        network.share()
        text = read(alice, "notes.md")
        saved(network, text.replace("Eve for the key", "Eve for the key of the harbour"))
        assert b"s3cr3t-project" not in stored_bytes(bob)


def test_the_place_of_a_private_entry_is_not_named_behind_what_another_clone_wrote_in_the_same_words():
    with Network("alice", "bob") as network:
        alice, bob = began(network, "ask Eve for the key", shared=SHARED + "- harbours close at night\n")
        saved(network, "- ask Eve for the key\n" + SHARED + "- harbours close at night\n")  # moved: a place of its own
        network.now += 1000
        save(bob, "notes.md", SHARED + "- harbours close at night\n- ask Eve for the key\n")
        network.run("bob")
        network.share()
        text = read(alice, "notes.md")
        saved(network, text.replace("- ask Eve for the key\n", "- ask Eve for the key\n- boats are blue in spring\n"))
        assert "boats" in read(bob, "notes.md")
        known = {place for (place,) in bob.store.rows("SELECT id FROM adds")} | {None}
        entries = bob.documents.entries(bob.document("notes.md"))
        assert shared_places(bob) <= known | {entry.place for entry in entries}
        assert [e.text for e in entries] == [e.text for e in alice.documents.entries(alice.document("notes.md"))]


def test_a_page_lets_through_only_what_it_showed_also_of_a_long_line():
    with Network("alice", "bob") as network:
        alice, bob = began(network, "the office's s3cr3t")
        long = "- something quite new that " + "goes on and on " * 8
        saved(network, SHARED + long + "and ends\n")
        (row,) = status(alice, None)["held"]
        saved(network, SHARED + long + "and the hidden code is 47k11\n")
        assert b"47k11" not in stored_bytes(bob)
        with suppress(NotFound):
            page.release(alice, "notes.md", row["what"], accept=True)
        network.share()
        assert b"47k11" not in stored_bytes(bob)


def test_of_two_lines_that_begin_alike_the_page_lets_through_none_that_was_not_chosen():
    with Network("alice", "bob") as network:
        alice, _bob = began(network, "the office's s3cr3t")
        long = "something quite new that " + "goes on and on " * 8
        saved(network, SHARED + f"- {long}and ends\n- {long}and the hidden code is 47k11\n")
        rows = status(alice, None)["held"]
        assert len(rows) == 2 and len({row["what"] for row in rows}) == 2


# --- kept back, and not said


def test_a_new_line_that_has_a_phrase_of_a_private_one_that_goes_is_not_kept_back_in_silence():
    """Elsewhere in the file, in the same save."""
    with Network("alice", "bob") as network:
        days = "".join(f"- 2025-06-0{n} met Olga about the boats\n" for n in range(1, 6))
        alice, bob = began(network, "2025-06-07 met Anna about the budget", shared=days)
        saved(network, "- 2025-06-08 met Zoe about the garden\n" + days)
        assert "Zoe" in read(bob, "notes.md") or any("Zoe" in what for what in listed(alice))


def test_a_shared_line_that_comes_back_elsewhere_as_a_private_one_goes_is_not_kept_back_in_silence():
    with Network("alice", "bob") as network:
        line = "- review of the plans is on monday\n"
        alice, bob = began(network, "review of the plans is on tuesday", shared=line + SHARED + "- harbours\n")
        private = "- review of the plans is on tuesday\n"
        saved(network, SHARED + "- harbours\n" + private, line + SHARED + "- harbours\n")
        assert "monday" in read(bob, "notes.md") or any("monday" in what for what in listed(alice))


def test_a_shared_line_that_becomes_a_private_one_which_the_file_does_not_show_yet_is_not_lost_in_silence():
    with Network("alice", "bob") as network:
        alice, bob = began(network, shared=SHARED + "- review on monday\n")
        writing.add(alice, "notes.md", "review on tuesday", level=0)
        saved(network, SHARED + "- review on tuesday\n")
        assert "review" in read(bob, "notes.md") or any("review" in what for what in listed(alice))


def test_a_shared_line_that_becomes_a_second_one_of_a_private_one_is_not_lost_in_silence():
    with Network("alice", "bob") as network:
        alice, bob = began(network, "review on tuesday", shared="- review on monday\n" + SHARED)
        saved(network, "- review on tuesday\n" + SHARED + "- review on tuesday\n")
        assert "review" in read(bob, "notes.md") or any("review" in what for what in listed(alice))


# --- too much is kept back


def test_a_line_that_is_typed_slowly_is_not_kept_back_for_its_first_letters():
    with Network("alice", "bob") as network:
        days = "".join(f"- 2025-06-0{n} met Olga about the boats\n" for n in range(1, 6))
        alice, bob = began(network, "2025-06-07 met Anna about the budget", shared=days)
        text = read(alice, "notes.md")
        saved(network, text + "- 2025-06-\n", text + "- 2025-06-08 we all went to the garden\n")
        assert "garden" in read(bob, "notes.md")


def test_in_a_large_document_what_its_last_lines_say_counts_too():
    with Network("alice", "bob") as network:
        before = "".join(f"- {n:05} {'lorem ipsum dolor sit amet ' * 3}{n * 7919}\n" for n in range(4000))
        days = "".join(f"- 2025-06-0{n} met Olga of the office about the boats\n" for n in range(1, 6))
        alice, bob = began(network, "2025-06-07 met Anna of the office about the budget", shared=before + days)
        saved(network, read(alice, "notes.md") + "- 2025-06-08 met Zoe of the office about the garden\n")
        assert "garden" in read(bob, "notes.md")


# --- the level of a rule


@pytest.mark.parametrize("policy", ["latest", "text", "union"])
def test_a_document_that_was_of_level_0_for_a_while_has_no_conflict_with_itself(policy):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format(policy, 1))
        network.run("alice")
        saved(network, "- one thing\n", path="now.md")
        save(alice, "replica.toml", RULE.format(policy, 0))
        network.share()
        saved(network, "- one thing, privately\n", path="now.md")
        save(alice, "replica.toml", RULE.format(policy, 1))
        network.share()
        saved(network, "- one thing, for all\n", path="now.md")
        assert alice.documents.all_conflicts() == [] and read(bob, "now.md") == read(alice, "now.md")


@pytest.mark.parametrize("policy", ["latest", "text"])
def test_who_deletes_what_went_on_at_level_0_does_not_delete_what_others_wrote_and_nobody_here_has_seen(policy):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format(policy, 1))
        network.run("alice")
        saved(network, "- one thing\n", path="now.md")
        save(alice, "replica.toml", RULE.format(policy, 0))
        network.run("alice")
        save(alice, "now.md", "- one thing, privately\n")
        network.run("alice")
        save(bob, "now.md", "- one thing, and what bob has found out\n")
        network.run("bob")  # the rule has not come yet
        network.share()
        assert "found out" in read(bob, "now.md")
        (alice.root / "now.md").unlink()
        network.run("alice")
        network.share()
        found = [c.root / "now.md" for c in (alice, bob)]
        assert any(file.exists() and "found out" in file.read_text() for file in found)


def test_a_latest_document_that_comes_back_in_words_that_were_of_level_0_is_shared_or_listed():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format("latest", 0))
        network.run("alice")
        saved(network, "- the first words of all\n", path="now.md")
        save(alice, "replica.toml", RULE.format("latest", 1))
        network.share()
        saved(network, "- the second words of all\n", path="now.md")
        (alice.root / "now.md").unlink()
        network.run("alice")
        network.share()
        assert not (bob.root / "now.md").exists()
        saved(network, "- the first words of all\n", path="now.md")
        assert (bob.root / "now.md").exists() or listed(alice)


def test_a_conflict_in_a_deleted_text_is_not_listed_where_it_lives_on_at_level_0():
    """Else it waits for ever: `resolve` refuses it here, and nobody else has the text."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format("text", 1))
        network.run("alice")
        saved(network, "one thing and more\n", path="now.md")
        save(alice, "now.md", "one big thing and more\n")
        save(bob, "now.md", "one small thing and more\n")
        network.run("alice"), network.run("bob")
        network.share()
        save(alice, "replica.toml", RULE.format("text", 0))
        network.share()
        saved(network, read(alice, "now.md") + "for me\n", path="now.md")
        (bob.root / "now.md").unlink()
        network.run("bob")
        network.share()
        assert alice.documents.all_conflicts() == bob.documents.all_conflicts() == []


def test_to_restore_what_a_latest_document_was_at_level_0_does_not_take_it_from_the_others():
    """A text refuses it: it was for this clone alone then, and is shared now."""
    from replica.errors import WrongPolicy
    from replica.history import before_last, restore

    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format("latest", 0))
        network.run("alice")
        network.now += 60_000
        saved(network, "- the first words of all\n", path="now.md")
        save(alice, "replica.toml", RULE.format("latest", 1))
        network.share()
        network.now += 60_000
        saved(network, "- the second words of all\n", path="now.md")
        assert "second" in read(bob, "now.md")
        network.now += 60_000
        with suppress(WrongPolicy):
            restore(alice, "now.md", before_last(alice, "now.md"))
        network.share()
        assert "second" in read(bob, "now.md")


def test_to_restore_what_a_latest_document_was_before_its_time_at_level_0_makes_no_conflict_with_itself():
    from replica.history import restore

    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", RULE.format("latest", 1))
        network.run("alice")
        saved(network, "- one thing\n", path="now.md")
        network.now += 60_000
        moment = (network.now - 1) << 16
        save(alice, "replica.toml", RULE.format("latest", 0))
        network.share()
        saved(network, "- one thing, privately\n", path="now.md")
        save(alice, "replica.toml", RULE.format("latest", 1))
        network.share()
        network.now += 60_000
        restore(alice, "now.md", moment)
        network.share()
        assert read(alice, "now.md") == read(bob, "now.md") == "- one thing\n"
        assert alice.documents.all_conflicts() == bob.documents.all_conflicts() == []


PAIR = ("the code of the office alarm is 47k11", "- office alarm: the code is 47k11, says Eve\n")


@pytest.mark.parametrize("way", ["edited", "renamed", "copied", "restored"])
def test_a_line_that_was_accepted_is_not_asked_about_again(way):
    from replica.history import before_last, restore

    private, line = PAIR
    with Network("alice", "bob") as network:
        alice, bob = began(network, private)
        saved(network, read(alice, "notes.md") + line)
        (row,) = status(alice, None)["held"]
        network.bridge("alice").accept_lines("notes.md", [row["line"]])
        network.share()
        assert "says Eve" in read(bob, "notes.md")
        network.now += 60_000
        if way == "edited":
            saved(network, read(alice, "notes.md").replace("says Eve", "says Eve, and Bob"))
        elif way == "renamed":
            (alice.root / "notes.md").rename(alice.root / "renamed.md")
            network.run("alice")
        elif way == "copied":
            saved(network, "# Other\n\n" + line, path="other.md")
        else:
            saved(network, read(alice, "notes.md").replace(line, ""))
            network.now += 60_000
            restore(alice, "notes.md", before_last(alice, "notes.md"))
        network.share()
        name = {"renamed": "renamed.md", "copied": "other.md"}.get(way, "notes.md")
        assert listed(alice) == [] and "says Eve" in read(bob, name)
