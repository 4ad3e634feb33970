"""Two clones settle one conflict differently at the same time: it is shown again on both, and no decision is lost."""

import itertools

import pytest

from replica import decisions, tidy
from tests.helpers import assert_same, read, save
from tests.test_decisions import ALICE, BOB, conflict, torn  # noqa: F401

CHOICES = {
    "alice": {"keep": "alice"},
    "bob": {"keep": "bob"},
    "merged": {"keep": "merged"},
    "own": {"text": "own words"},
}


def decide(network, path, **choices):
    """Each clone decides by itself, then they meet."""
    ids = {name: conflict(network[name], path).id for name in choices}
    for name, choice in choices.items():
        decisions.resolve(network[name], ids[name], **CHOICES[choice])
    network.share()
    assert_same(*network.clones.values())


def waiting(clone, path):
    return [found for found in clone.documents.all_conflicts() if found.path == path]


@pytest.mark.parametrize("path", ["activeContext.md", "a-buffer.md"])
@pytest.mark.parametrize(("one", "other"), [("alice", "bob"), ("bob", "alice"), ("own", "alice"), ("bob", "own")])
def test_a_text_or_an_entry_that_is_settled_in_two_ways_waits_again(torn, path, one, other):  # noqa: F811
    before = conflict(torn["alice"], path)
    words = {version.clone: version.text for version in before.versions}
    words = {torn["alice"].author_name(id): text for id, text in words.items()} | {"own": "own words"}
    decide(torn, path, alice=one, bob=other)
    for clone in torn.clones.values():
        (again,) = waiting(clone, path)
        shown = {version.text.removeprefix("- ") for version in again.versions}
        assert shown == {words[one].removeprefix("- "), words[other].removeprefix("- ")}
    decisions.resolve(torn["bob"], conflict(torn["bob"], path).id, keep="v2")
    torn.share()
    assert not waiting(torn["alice"], path) and not waiting(torn["bob"], path)


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(CHOICES, 2)))
def test_a_region_that_is_settled_in_two_ways_waits_again(torn, one, other):  # noqa: F811
    alice = torn["alice"]
    versions = conflict(alice, "notes.md").versions
    words = {alice.author_name(v.clone) if v.clone else v.version: v.text.strip() for v in versions}
    words["own"] = "own words"
    decide(torn, "notes.md", alice=one, bob=other)
    for clone in torn.clones.values():
        (again,) = waiting(clone, "notes.md")
        shown = {clone.author_name(version.clone): version.text.strip() for version in again.versions if version.clone}
        assert shown == {"alice": words[one], "bob": words[other]}
    found = conflict(torn["bob"], "notes.md")
    decisions.resolve(torn["bob"], found.id, keep="alice")
    torn.share()
    assert_same(*torn.clones.values())
    assert not waiting(alice, "notes.md")
    assert read(torn["bob"], "notes.md") == f"above\n\n{words[one]}\n\nbelow\n"


@pytest.mark.parametrize("choice", CHOICES)
def test_a_region_that_is_settled_alike_is_settled_and_there_once(torn, choice):  # noqa: F811
    name = {"alice": ALICE, "bob": BOB}.get(choice)
    decide(torn, "notes.md", alice=choice, bob=choice)
    if choice == "own":  # words that both wrote anew are there twice, until somebody begins, saves or harvests
        assert waiting(torn["alice"], "notes.md")
        assert tidy.tidy(torn["bob"]).alike == ["notes.md"]
        torn.share()
        assert read(torn["alice"], "notes.md") == "above\n\nown words\n\nbelow\n"
    assert not waiting(torn["alice"], "notes.md") and not waiting(torn["bob"], "notes.md")
    if name:
        assert read(torn["alice"], "notes.md") == name["notes.md"]


def test_words_that_two_chose_alike_are_made_one_by_both_at_once(torn):  # noqa: F811
    ids = {name: conflict(torn[name], "notes.md").id for name in torn.clones}
    for name, id in ids.items():
        decisions.resolve(torn[name], id, text="the centre, says 🌊 alice\nand bob")
    torn.sync_all()
    for clone in torn.clones.values():
        assert tidy.tidy(clone).alike == ["notes.md"]
    torn.share()
    assert_same(*torn.clones.values())
    assert read(torn["bob"], "notes.md") == "above\n\nthe centre, says 🌊 alice\nand bob\n\nbelow\n"
    assert not waiting(torn["alice"], "notes.md")
    assert not any(tidy.tidy(clone).changed for clone in torn.clones.values())


def test_words_that_two_wrote_alike_without_deciding_wait(torn):  # noqa: F811
    """Each may have meant a second one: that is not guessed."""
    decisions.resolve(torn["alice"], conflict(torn["alice"], "notes.md").id, keep="alice")
    torn.share()
    for name in torn.clones:
        save(torn[name], "notes.md", ALICE["notes.md"].replace("centre", "the very centre"))
        torn.run(name)
    torn.share()
    assert not tidy.tidy(torn["bob"]).changed and waiting(torn["bob"], "notes.md")


def test_versions_that_are_taken_out_of_the_files_by_hand_are_a_decision(torn):  # noqa: F811
    both = read(torn["alice"], "a-buffer.md")
    save(torn["alice"], "a-buffer.md", both.replace("- two by bob\n", ""))
    torn.share()
    assert_same(*torn.clones.values())
    assert read(torn["bob"], "a-buffer.md") == ALICE["a-buffer.md"] and not waiting(torn["bob"], "a-buffer.md")


@pytest.mark.parametrize("more", ["", ", and more"])
def test_two_that_take_each_others_version_out_of_the_file_lose_neither(torn, more):  # noqa: F811
    both = read(torn["alice"], "a-buffer.md")
    save(torn["alice"], "a-buffer.md", both.replace("- two by bob\n", "").replace("by alice", f"by alice{more}"))
    save(torn["bob"], "a-buffer.md", both.replace("- two by alice\n", ""))
    torn.share()
    assert_same(*torn.clones.values())
    for clone in torn.clones.values():
        (again,) = waiting(clone, "a-buffer.md")
        assert {version.text for version in again.versions} == {f"- two by alice{more}", "- two by bob"}


def test_one_that_takes_out_all_versions_removes_them(torn):  # noqa: F811
    both = read(torn["alice"], "a-buffer.md")
    save(torn["alice"], "a-buffer.md", both.replace("- two by bob\n", "").replace("- two by alice\n", ""))
    torn.share()
    assert read(torn["bob"], "a-buffer.md") == "# A\n\n- one\n- three\n"
    assert not waiting(torn["bob"], "a-buffer.md")
