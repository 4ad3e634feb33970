"""Restored backups, disk images that run twice, clones that were away too long: nothing is lost, and all agree."""

import shutil

import pytest

from replica import compact, rejoin
from replica.clone import Clone
from replica.errors import StoreError
from tests.helpers import Network, add, assert_same, entry, read, save, talk
from tests.test_compact import AT_ONCE, DAY, acknowledged


class Backups(Network):
    def back_up(self, name: str) -> None:
        self[name].close()
        shutil.copytree(self[name].root, self.folder / "backups" / name, dirs_exist_ok=True)
        self.clones[name] = self.open_again(name)

    def bring_back(self, name: str) -> Clone:
        """Yesterday's folder in the place of today's."""
        self[name].close()
        shutil.rmtree(self[name].root)
        shutil.copytree(self.folder / "backups" / name, self[name].root)
        self.clones[name] = self.open_again(name)
        return self[name]

    def meet_all(self) -> None:
        """Everybody with everybody until all is quiet. Conversations that end with a word are started again."""
        for _ in range(4):
            for one in list(self.clones):
                for other in list(self.clones):
                    if one < other:
                        talk(self[one], self[other])
        self.sync_all()


@pytest.fixture
def network():
    with Backups("one", "two", "three") as made:
        for clone in made.clones.values():
            clone.set_config(AT_ONCE)
        yield made


def texts(clone: Clone, path: str = "a-buffer.md") -> set[str]:
    return {entry.text for entry in clone.entries(path)}


def test_a_restored_clone_that_has_written_nothing_gets_its_own_changes_back(network):
    network.back_up("one")
    add(network["one"], "a-buffer.md", "- today")
    network.sync_all()
    id = network["one"].identity.id
    one = network.bring_back("one")
    network.sync_all()
    assert texts(one) == {"- today"} and one.identity.id == id
    assert_same(*network.clones.values())


def forked(network: Backups) -> Clone:
    """One's backup is restored and written in, where the others know other changes of the same numbers."""
    one, two = network["one"], network["two"]
    dots = add(one, "a-buffer.md", "- old", "- edited")
    one.edit_text("n.md", new="first\nsecond\nthird\n")
    network.sync_all()
    network.back_up("one")
    add(network["one"], "a-buffer.md", "- today one")
    network["one"].edit_text("n.md", new="first\nsecond\nthird\ntoday one\n")
    network.sync_all()
    two.edit_text("n.md", new="TWO\nfirst\nsecond\nthird\ntoday one\n")
    one = network.bring_back("one")
    add(one, "a-buffer.md", "- written after")
    one.edit_entries("a-buffer.md", "union", [(1, entry("- EDITED", kills=[dots[1]]))])
    one.edit_text("n.md", new="first\nthird\nwritten after\n")
    one.edit_entries("a-buffer.md", "union", [(0, entry("- secret"))])
    return one


@pytest.mark.parametrize("first", ["two", "three"])
def test_a_restored_clone_that_has_written_goes_on_under_a_new_identity(network, first):
    """FAILURES 3, 13: the store says yesterday, the others know today, and work was done in between."""
    one = forked(network)
    was = one.identity.id
    talk(one, network[first])
    network.meet_all()
    assert one.identity.id != was and one.name == "one"
    for clone in network.clones.values():
        assert texts(clone) - {"- secret"} == {"- old", "- EDITED", "- today one", "- written after"}
        assert set(clone.text("n.md").split()) == {"TWO", "first", "third", "today", "one", "written", "after"}
    assert "- secret" in texts(one)
    assert_same(*network.clones.values())
    assert [m["name"] for m in network["two"].members() if m["removed_by"] is None] == ["two", "three", "one"]
    assert not rejoin.under_way(one.store)


def test_what_was_set_aside_is_kept(network):
    one = forked(network)
    talk(one, network["two"])
    (aside,) = (one.root / ".replica" / rejoin.ASIDE).iterdir()
    assert b"written after" in aside.read_bytes()


def test_a_fork_that_has_spread_is_healed_everywhere(network):
    """Two hears one branch from the restored clone before it hears the other."""
    one, two, three = (network[name] for name in ("one", "two", "three"))
    add(one, "a-buffer.md", "- old")
    network.sync_all()
    network.back_up("one")
    add(network["one"], "a-buffer.md", "- known to three alone")
    network.sync("one", "three")
    one = network.bring_back("one")
    add(one, "a-buffer.md", "- known to two alone")
    network.sync("one", "two")
    add(two, "a-buffer.md", "- of two, on top of that")
    add(three, "a-buffer.md", "- of three, on top of that")
    network.meet_all()
    expected = {
        "- old",
        "- known to three alone",
        "- known to two alone",
        "- of two, on top of that",
        "- of three, on top of that",
    }
    for clone in network.clones.values():
        assert texts(clone) == expected
    assert_same(*network.clones.values())


def test_a_clone_that_was_away_for_longer_than_history_is_kept(network):
    """It comes back with its own edits; the others have folded what it never saw."""
    one, two, three = (network[name] for name in ("one", "two", "three"))
    add(one, "a-buffer.md", "- old", "- harvested")
    one.edit_text("n.md", new="a\nb\nc\n")
    network.sync_all()
    acknowledged(network)
    add(three, "a-buffer.md", "- written while away")
    three.edit_text("n.md", new="a\nb\nc\naway\n")
    was = three.identity.id
    network.now += 100 * DAY
    harvested = next(e for e in one.entries("a-buffer.md") if e.text == "- harvested")
    one.edit_entries("a-buffer.md", "union", [(1, entry("- edited", kills=harvested.dots))])
    two.edit_text("n.md", new="a\nc\n")
    for _ in range(3):
        network.sync("one", "two")
        acknowledged(network, "one", "two")
        for clone in (one, two):
            compact.compact(clone)
    assert one.log.floor() and two.log.floor()
    network.meet_all()
    assert three.identity.id != was
    for clone in network.clones.values():
        assert texts(clone) == {"- old", "- edited", "- written while away"}
        assert clone.text("n.md") == "a\nc\naway\n"
    assert_same(*network.clones.values())


def test_a_store_from_before_the_floor_is_brought_up_to_it(network):
    one = network["one"]
    network.back_up("three")
    for n in range(5):
        add(one, "a-buffer.md", f"- {n}")
    network.sync_all()
    acknowledged(network)
    compact.compact(one)
    compact.compact(network["two"])
    three = network.bring_back("three")
    network.meet_all()
    assert texts(three) == {f"- {n}" for n in range(5)}
    assert_same(*network.clones.values())


def test_files_are_what_the_documents_are_afterwards(network):
    one, two = network["one"], network["two"]
    save(one, "notes.md", "first\nsecond\n")
    network.run("one")
    network.sync_all()
    network.back_up("one")
    save(network["one"], "notes.md", "first\nsecond\ntoday\n")
    network.run("one")
    network.sync_all()
    one = network.bring_back("one")
    save(one, "notes.md", "first\nsecond\nafter\n")
    network.run("one")
    save(one, "notes.md", "zeroth\nfirst\nsecond\nafter\n")
    network.meet_all()
    network.share()
    assert sorted(read(one, "notes.md").split()) == ["after", "first", "second", "today", "zeroth"]
    assert read(one, "notes.md") == read(two, "notes.md")


def test_a_clone_cannot_be_written_to_while_it_comes_back(network):
    one = forked(network)
    from replica import bundle

    two = network["two"]
    taken = bundle.read(bundle.make(two.store, two.log))
    rejoin.begin(one, taken, "fork", two.vector())
    with pytest.raises(StoreError, match="brought back"):
        add(one, "a-buffer.md", "- too early")
    assert network.run("one").quiet
    one = network.reopen("one")
    network.meet_all()
    assert "- written after" in texts(two)
    assert_same(*network.clones.values())
