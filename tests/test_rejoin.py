"""Restored backups, disk images that run twice, clones that were away too long: nothing is lost, and all agree."""

import shutil

import msgpack
import pytest

from replica import bundle, compact, copies, log, rejoin, status
from replica.changes import Kind, Remove
from replica.clone import Clone
from replica.errors import DocumentNotFound, StoreError
from replica.keys import Identity
from tests.helpers import Link, Network, add, assert_same, batches, certificate, entry, read, save, sync, talk
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


def test_what_was_set_aside_is_told_once_it_is_not_needed_any_more(network):
    one = forked(network)

    def told() -> status.Check:
        (check,) = [check for check in status.checks(one) if check.name == "set aside"]
        return check

    assert told().state == "ok"
    talk(one, network["two"])
    network.meet_all()
    (aside,) = (one.root / ".replica" / rejoin.ASIDE).iterdir()
    assert told().state == "note" and "1 former store of" in told().what and aside.name in told().what
    one.store.set_meta("rejoin", msgpack.packb(["fork", aside.name, {}, 0]))  # as while it is being brought back
    assert told().state == "ok"


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


# --- what is written again


def split(network: Backups, before, today, after) -> Clone:
    """One's chain splits: `before` is known to all, then `today` to all but the restored one, which did `after`."""
    before(network["one"])
    network.sync_all()
    network.back_up("one")
    add(network["one"], "x-buffer.md", "- today")
    today(network["one"])
    network.sync_all()
    one = network.bring_back("one")
    add(one, "x-buffer.md", "- after")
    after(one)
    return one


def nothing(_clone: Clone) -> None:
    pass


def begin(one: Clone, by: Clone, **more: int) -> None:
    """One begins anew from another's bundle; the log behind it has yet to come."""
    rejoin.begin(one, bundle.read(bundle.make(by.store, by.log)), "fork", {**by.vector(), **more})


def test_a_text_that_was_deleted_and_brought_back_is_there(network):
    def after(one: Clone) -> None:
        one.delete(one.document("n.md"))
        one.edit_text("n.md", new="first\nsecond\n")

    split(network, lambda one: one.edit_text("n.md", new="first\nsecond\n"), nothing, after)
    network.meet_all()
    assert [clone.text("n.md") for clone in network.clones.values()] == ["first\nsecond\n"] * 3
    assert_same(*network.clones.values())


def test_a_text_that_was_edited_and_deleted_is_gone_unless_others_went_on_with_it(network):
    def before(one: Clone) -> None:
        for path in ("n.md", "m.md"):
            one.edit_text(path, new="first\nsecond\n")

    def today(one: Clone) -> None:
        one.edit_text("m.md", new="zeroth\nfirst\nsecond\n")

    def after(one: Clone) -> None:
        for path in ("n.md", "m.md"):
            one.edit_text(path, new="first\nsecond\nthird\n")
            one.delete(one.document(path))

    split(network, before, today, after)
    network.meet_all()
    for clone in network.clones.values():
        with pytest.raises(DocumentNotFound):
            clone.text("n.md")
        assert clone.text("m.md") == "zeroth\nfirst\nsecond\nthird\n"
    assert_same(*network.clones.values())


def test_what_others_added_in_the_words_of_what_was_taken_away_stays(network):
    dots = []

    def today(_one: Clone) -> None:
        network["two"].edit_entries("a-buffer.md", "union", [(1, Remove((dots[0],)))])
        add(network["two"], "a-buffer.md", "- e")

    def after(one: Clone) -> None:
        one.edit_entries("a-buffer.md", "union", [(1, Remove(tuple(dots)))])

    split(network, lambda one: dots.extend(add(one, "a-buffer.md", "- e", "- f")), today, after)
    network.meet_all()
    assert [texts(clone) for clone in network.clones.values()] == [{"- e"}] * 3


def test_who_was_admitted_by_a_void_change_and_removed_by_others_stays_removed(network):
    guest = Identity.new()

    def admit(clone: Clone) -> None:
        clone.admit(guest.public, certificate(b"", "guest"), "guest")

    def today(_one: Clone) -> None:
        admit(network["two"])
        network["two"].remove("guest")

    one = split(network, nothing, today, admit)
    network.meet_all()
    assert not rejoin.under_way(one.store) and guest.id not in one.trusted()
    assert "- after" in texts(network["two"], "x-buffer.md")


def test_edits_are_written_again_also_when_the_clone_has_parted_from_a_copy_meanwhile(network):
    one, two = forked(network), network["two"]
    begin(one, two)
    for batch in batches(two):
        one.ingest(batch)
    copies.part(one, certificate)
    network.meet_all()
    assert "- written after" in texts(two)
    assert_same(*network.clones.values())


def test_a_file_that_was_edited_while_the_clone_came_back(network):
    """Its base showed what the old store held; that is not new to it because it came again."""
    save(network["one"], "a-buffer.md", "- a\n- b\n- c\n- d\n")
    network.share()

    def after(one: Clone) -> None:
        save(one, "a-buffer.md", "- a\n- b\n- c\n- d\n- void\n- void too\n")
        network.run("one")

    one = split(network, nothing, lambda _: add(network["two"], "a-buffer.md", "- new"), after)
    begin(one, network["two"])
    save(one, "a-buffer.md", "- a\n- B\n- d\n- void\n")
    assert network.run("one").quiet
    network.meet_all()
    network.share()
    for name in network.clones:
        assert sorted(read(network[name], "a-buffer.md").split("\n")) == ["", "- B", "- a", "- d", "- new", "- void"]


def test_what_a_restored_clone_wrote_under_numbers_that_others_have_folded_is_written_again(network):
    """SEED=1501822."""
    one, two, three = (network[name] for name in ("one", "two", "three"))
    add(one, "a-buffer.md", "- old")
    network.sync_all()
    acknowledged(network)
    network.back_up("one")
    for text in ("- today", "- and later"):
        add(network["one"], "a-buffer.md", text)
    network.sync_all()
    acknowledged(network)
    assert compact.compact(two).folded and compact.compact(three).folded
    one = network.bring_back("one")
    after = ("- after", "- after that", "- after all")
    for text in after:
        add(one, "x-buffer.md", text)
    network.meet_all()
    for clone in network.clones.values():
        assert texts(clone) == {"- old", "- today", "- and later"} and texts(clone, "x-buffer.md") == set(after)
    assert_same(*network.clones.values())


def test_a_private_text_that_is_shared_again_keeps_what_others_wrote(network):
    """What was shared came anew with the others' baseline: how it was when the text went private is not known."""
    one, two, three = (network[name] for name in ("one", "two", "three"))
    one.edit_text("n.md", new="a\nb\n")
    network.sync_all()
    one.move_text(one.document("n.md"), "a\nb\nprivately\n", 0)
    network.back_up("one")
    add(network["one"], "x-buffer.md", "- today")
    network.sync_all()
    two.edit_text("n.md", new="a\nb\nof two\n")
    network.sync_all()
    acknowledged(network)
    assert compact.compact(two).folded and compact.compact(three).folded
    one = network.bring_back("one")
    add(one, "x-buffer.md", "- after")
    network.meet_all()
    assert one.text("n.md") == "a\nb\nprivately\n" and two.text("n.md") == "a\nb\nof two\n"
    one.move_text(one.document("n.md"), one.text("n.md"), 1)
    network.meet_all()
    assert sorted(two.text("n.md").split()) == ["a", "b", "of", "privately", "two"]
    assert_same(*network.clones.values())


# --- several at once


def test_a_conversation_from_before_ends_without_blame(network):
    one, two, three = (network[name] for name in ("one", "two", "three"))
    network.back_up("one")
    add(network["one"], "a-buffer.md", "- known to three alone")
    network.sync("one", "three")
    one = network.bring_back("one")
    add(one, "a-buffer.md", "- known to two alone")
    live = Link(one, two)
    live.run()
    begun = Link(one, three)
    while not rejoin.under_way(one.store):
        begun.deliver(begun.busy[0])
    add(two, "a-buffer.md", "- said in the conversation from before")
    live.send(1, live.sessions[1].changed())
    live.run()
    assert not live.open
    begun.run()
    network.meet_all()
    said = {"- known to three alone", "- known to two alone", "- said in the conversation from before"}
    assert [texts(clone) for clone in network.clones.values()] == [said] * 3
    assert_same(*network.clones.values())


def test_a_newcomer_that_meets_two_members_at_once_blames_neither(network):
    one, two = network["one"], network["two"]
    add(one, "a-buffer.md", "- old")
    network.sync_all()
    acknowledged(network)
    for clone in (one, two):
        assert compact.compact(clone).folded
    late = network.add("late")
    network.sync("one", "two")
    links = [Link(one, late), Link(two, late)]
    for link in links:
        link.run()
    assert links[0].in_step and not links[1].open
    sync(two, late)
    network.sync_all()
    assert_same(*network.clones.values())


def test_folding_while_a_newcomer_is_being_sent_the_log(network, monkeypatch):
    """It wrote nothing yet, so it holds back nothing that its admission had seen; some of that it has yet to get."""
    one, two, three = (network[name] for name in ("one", "two", "three"))
    monkeypatch.setattr(log, "BATCH_CHANGES", 1)
    for n in range(12):
        add(one, "a-buffer.md", f"- {n}")
    network.sync_all()
    acknowledged(network)
    late = network.add("late", by="one")
    network.sync("one", "two"), network.sync("one", "three")
    acknowledged(network, "one", "two", "three")
    link = Link(one, late)
    link.deliver(0)
    assert compact.compact(one).folded
    link.run()
    sync(one, late)
    assert late.name == "late" and len(texts(late)) == 12
    network.sync_all()
    assert_same(one, two, three, late)


def test_who_began_it_is_not_waited_for_for_ever(network):
    """It is gone, or said that it held what nobody has."""
    one, two = forked(network), network["two"]
    rejoin.begin(one, bundle.read(bundle.make(two.store, two.log)), "fork", {**two.vector(), two.identity.id: 10**9})
    network.meet_all()
    assert rejoin.under_way(one.store)
    network.now += rejoin.PATIENCE + 1
    network.meet_all()
    assert not rejoin.under_way(one.store) and "- written after" in texts(two)
    assert_same(*network.clones.values())


def test_what_has_come_so_far_counts(network):
    """A clone that was away goes on where the last conversation broke off, whatever it was called before."""
    one, three = network["one"], network["three"]
    one.append(Kind.REMOVE, None, {"member": three.identity.id, "away": True})
    begun = []
    while not three.log.vector() or not begun:
        link = Link(one, three)
        while link.busy and not (rejoin.under_way(three.store) and three.log.vector()):
            link.deliver(link.busy[0])
        begun.append(rejoin.begun(three.store))
    link = Link(one, three)
    link.run()
    assert not rejoin.under_way(three.store) and rejoin.begun(three.store) == begun[0] == 1
    network.meet_all()
    assert_same(*network.clones.values())


def test_nothing_is_folded_from_before_the_store_was_begun_again(network, monkeypatch):
    one, two = forked(network), network["two"]
    prepared = compact._prepared

    def slow(clone: Clone, cut):
        made = list(prepared(clone, cut))
        with network.open_again("one") as other:
            begin(other, two)
            for batch in batches(two):
                other.ingest(batch)
        return made

    acknowledged(network)
    one.append(Kind.REMOVE, None, {"member": network["three"].identity.id, "away": True})
    monkeypatch.setattr(compact, "_prepared", slow)
    monkeypatch.setattr(compact, "_held_by_all", lambda clone, wanted: (wanted, []))
    assert compact.compact(one).folded == 0
    one = network.reopen("one")
    network.meet_all()
    assert_same(*network.clones.values())


def test_another_process_forgets_the_texts_from_before(network):
    one, two = forked(network), network["two"]
    with network.open_again("one") as other:
        assert "written after" in other.documents.raw_text(other.documents.find("n.md", "text").shared)
        other.materialiser.engine(other.documents.find("n.md", "text").shared)
        begin(one, two)
        with other.transaction():
            for batch in batches(two):
                other.log.ingest(batch)
        shared = other.documents.find("n.md", "text").shared
        assert other.materialiser.engine(shared).text == two.text("n.md")
