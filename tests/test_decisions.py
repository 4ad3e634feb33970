"""Settling conflicts: one version stays, on every clone, and the same conflict is never asked again."""

import pytest

from replica import decisions
from replica.errors import NotFound, UsageError, WrongPolicy
from tests.helpers import Network, assert_same, conflict_ids, read, save

START = {
    "activeContext.md": "start\n",
    "a-buffer.md": "# A\n\n- one\n- two\n- three\n",
    "notes.md": "above\n\nmiddle\n\nbelow\n",
}
ALICE = {
    "activeContext.md": "by alice\n",
    "a-buffer.md": "# A\n\n- one\n- two by alice\n- three\n",
    "notes.md": "above\n\ncentre, says alice\n\nbelow\n",
}
BOB = {
    "activeContext.md": "by bob\n",
    "a-buffer.md": "# A\n\n- one\n- two by bob\n- three\n",
    "notes.md": "above\n\nthe heart by bob\n\nbelow\n",
}


@pytest.fixture
def torn():
    """Two clones that have changed the same places of every kind of document, and have met since."""
    with Network("alice", "bob") as network:
        for path, text in START.items():
            save(network["alice"], path, text)
        network.share()
        network.now += 1_000
        for name, texts in (("alice", ALICE), ("bob", BOB)):
            for path, text in texts.items():
                save(network[name], path, text)
            network.run(name)
        network.share()
        assert len(conflict_ids(network["alice"])) == 3
        yield network


def conflict(clone, path):
    return next(found for found in clone.documents.all_conflicts() if found.path == path)


@pytest.mark.parametrize("path", ["activeContext.md", "a-buffer.md"])
@pytest.mark.parametrize("keeper", ["alice", "bob"])
def test_the_version_that_is_kept_stands_alone_everywhere(torn, path, keeper):
    bob = torn["bob"]
    decisions.resolve(bob, conflict(bob, path).id[:4], keep=keeper)
    torn.share()
    assert_same(*torn.clones.values())
    assert path not in [found.path for found in torn["alice"].documents.all_conflicts()]
    assert read(torn["alice"], path) == {"alice": ALICE, "bob": BOB}[keeper][path]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("activeContext.md", "both of us", "both of us\n"),
        ("activeContext.md", "", ""),
        ("a-buffer.md", "two by both\nin two lines", "# A\n\n- one\n- two by both\n  in two lines\n- three\n"),
        ("notes.md", "middle of both", "above\n\nmiddle of both\n\nbelow\n"),
    ],
)
def test_a_text_can_take_the_place_of_all_versions(torn, path, text, expected):
    alice = torn["alice"]
    decisions.resolve(alice, conflict(alice, path).id, text=text)
    torn.share()
    assert_same(*torn.clones.values())
    assert read(torn["bob"], path) == expected
    assert len(conflict_ids(alice)) == 2


@pytest.mark.parametrize("keep", ["merged", "alice", "bob"])
def test_a_region_is_settled_as_it_stands_or_as_one_side_had_it(torn, keep):
    alice = torn["alice"]
    merged = alice.text("notes.md")
    decisions.resolve(alice, conflict(alice, "notes.md").id, keep=keep)
    torn.share()
    assert_same(*torn.clones.values())
    assert len(conflict_ids(torn["bob"])) == 2
    expected = {"merged": merged, "alice": ALICE["notes.md"], "bob": BOB["notes.md"]}[keep]
    assert read(torn["bob"], "notes.md") == expected


def test_two_clones_that_keep_the_same_version_agree(torn):
    for name in ("alice", "bob"):
        decisions.resolve(torn[name], conflict(torn[name], "a-buffer.md").id, keep="alice")
    torn.share()
    assert_same(*torn.clones.values())
    assert read(torn["bob"], "a-buffer.md") == ALICE["a-buffer.md"]
    assert len(conflict_ids(torn["bob"])) == 2


def test_two_clones_that_decide_differently_are_asked_again(torn):
    for name in ("alice", "bob"):
        decisions.resolve(torn[name], conflict(torn[name], "activeContext.md").id, keep=name)
    torn.share()
    assert_same(*torn.clones.values())
    again = conflict(torn["bob"], "activeContext.md")
    assert sorted(version.text for version in again.versions) == ["by alice", "by bob"]
    decisions.resolve(torn["bob"], again.id, keep="bob")
    torn.share()
    assert read(torn["alice"], "activeContext.md") == "by bob\n"


def test_what_is_not_there_is_named_with_the_way_out(torn):
    alice = torn["alice"]
    found = conflict(alice, "activeContext.md")
    for id in ("zzzz", found.id[:3], ""):
        with pytest.raises(NotFound) as caught:
            decisions.resolve(alice, id, keep="v1")
        assert "replica conflicts" in caught.value.hint
    with pytest.raises(NotFound) as caught:
        decisions.resolve(alice, found.id, keep="v9")
    assert "v1, v2" in caught.value.hint
    for choice in ({}, {"keep": "v1", "text": "x"}):
        with pytest.raises(UsageError):
            decisions.resolve(alice, found.id, **choice)
    assert len(conflict_ids(alice)) == 3


def test_a_version_of_this_clone_alone_is_not_shared_by_keeping_it():
    from replica.changes import Add

    with Network("alice", "bob") as network:
        alice = network["alice"]
        alice.edit_entries("activeContext.md", "latest", [(1, Add("entry", "shared", 1, "", None, (), {}))])
        alice.edit_entries("activeContext.md", "latest", [(0, Add("entry", "mine", 1, "", None, (), {}))])
        found = conflict(alice, "activeContext.md")
        private = next(v.version for v in found.versions if v.text == "mine")
        with pytest.raises(WrongPolicy):
            decisions.resolve(alice, found.id, keep=private)
        decisions.resolve(alice, found.id, text="open now")
        network.sync_all()
        assert network["bob"].text("activeContext.md") == alice.text("activeContext.md") == "open now\n"
        assert not conflict_ids(alice)


def test_a_region_of_a_text_that_went_on_in_private_is_not_settled_with_private_words(torn):
    """What is shown is of level 0 by now: a decision about the shared text must not publish it."""
    alice = torn["alice"]
    waiting = conflict(alice, "notes.md").id
    alice.edit_text("notes.md", new="only for me\n", level=0)
    with pytest.raises(WrongPolicy):
        decisions.resolve(alice, waiting, text="private words")
    assert all(b"private words" not in body for (body,) in alice.store.rows("SELECT body FROM changes"))
