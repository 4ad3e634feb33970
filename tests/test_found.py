"""What the simulation has found (docs/reliability.md), each told once more by itself."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest

from replica import bundle, compact, copies, folder, log, rejoin, writing
from replica.blocks import ENTRY
from replica.bridge import SECOND_LOOK, Bridge
from replica.changes import Add
from replica.clone import Clone
from replica.errors import DiskFull, Fork, WrongPolicy
from replica.history import before_last, restore
from replica.keys import Identity
from replica.status import status
from tests.helpers import (
    Link,
    Network,
    add,
    assert_same,
    batches,
    certificate,
    conflict_ids,
    entry,
    history,
    read,
    save,
    shared_content,
    stored_bytes,
    sync,
    talk,
)
from tests.test_compact import AT_ONCE, acknowledged
from tests.test_rejoin import Backups, texts
from transport.node import Node, Options
from transport.session import Blamed, State

LINES = '\n[[documents]]\nglob = "**/*.md"\npolicy = "text"\n'
UNION = '[[documents]]\nglob = "notes.md"\npolicy = "union"\n' + LINES


class Killed(BaseException):
    pass


@contextmanager
def dying_after(steps: int) -> Iterator[list]:
    """The process ends after so many commits and file replacements; the list is empty if it has come to its end."""
    transaction, replace, done, died = Clone.transaction, folder._replace, [], []

    def step() -> None:
        if len(done) == steps:
            died.append(steps)
            raise Killed
        done.append(None)

    @contextmanager
    def counted(clone: Clone) -> Iterator[None]:
        if not clone.store.in_transaction:
            step()
        with transaction(clone):
            yield

    def replaced(*arguments):
        step()
        stamp = replace(*arguments)
        step()
        return stamp

    patches = mock.patch.object(Clone, "transaction", counted), mock.patch.object(folder, "_replace", replaced)
    with patches[0], patches[1], suppress(Killed):
        yield died


def built_on_one_side(network: Backups) -> Clone:
    """Three has heard of one what it wrote after a restore, and goes on with that. Two knows what it wrote before."""
    add(network["one"], "a-buffer.md", "- old")
    network.sync_all()
    network.back_up("one")
    add(network["one"], "a-buffer.md", "- today")
    network.sync("one", "two")
    add(network.bring_back("one"), "a-buffer.md", "- after")
    network.sync("one", "three")
    three = network["three"]
    after = next(one for one in three.entries("a-buffer.md") if one.text == "- after")
    three.edit_entries("a-buffer.md", "union", [(1, entry("- AFTER", kills=after.dots))])
    return three


def begin_back(clone: Clone, by: Clone) -> None:
    """All has come that it needs to be brought back."""
    rejoin.begin(clone, bundle.read(bundle.make(by.store, by.log)), "fork", by.vector())
    for batch in batches(by):
        clone.ingest(batch)


def bring_back(clone: Clone, by: Clone) -> None:
    begin_back(clone, by)
    rejoin.finish(clone, certificate)


def begun(network: Network) -> tuple[Clone, Clone]:
    """A newcomer that bob, who is not the founder, let in, and whose first sync broke off after the first change."""
    assert log.BATCH_CHANGES == 1
    bob, identity = network["bob"], Identity.new()
    bob.admit(identity.public, certificate(b"", "carol"), "carol")
    carol = Clone.adopt(network.folder / "carol", identity, bob.workspace, "carol", now_ms=network.clock)
    network.clones["carol"] = carol
    link = Link(bob, carol)
    link.deliver(0)
    for _ in range(2):
        link.deliver(1)
    assert len(carol.vector()) == 1 and carol.log.author(bob.identity.id) is None
    return bob, carol


def test_a_newcomer_whose_first_sync_broke_off_goes_on_with_who_let_it_in():
    with mock.patch.object(log, "BATCH_CHANGES", 1), Network("alice", "bob") as network:
        bob, carol = begun(network)
        sync(bob, carol)
        assert carol.digest() == bob.digest()
        stranger = network.add("dave")
        assert any("not a member" in getattr(event, "reason", "") for event in talk(carol, stranger))


def test_a_newcomer_whose_first_sync_broke_off_still_trusts_the_certificate_of_who_let_it_in():
    with mock.patch.object(log, "BATCH_CHANGES", 1), Network("alice", "bob") as network:
        bob, carol = begun(network)
        with carol.transaction():
            carol.store.set_meta("inviter", b"certificate of the inviter")
        with mock.patch("transport.node.tls.check_certificate", lambda _: bob.identity.public):
            assert Node(carol, Options())._certificates()[bob.identity.id] == b"certificate of the inviter"
            sync(bob, carol)
            assert Node(carol, Options())._certificates()[bob.identity.id] == b"certificate of bob"


def test_a_rename_is_flushed_with_its_folder_before_the_store_believes_it():
    """A file that a power cut takes back behind what the store says was written would read as a person's edit."""
    with Network("alice") as network:
        alice, done = network["alice"], []
        replace, fsync = os.replace, os.fsync

        def flushed(handle):
            info = os.fstat(handle)
            done.append(("flush", info.st_ino) if stat.S_ISDIR(info.st_mode) else ("file", 0))
            fsync(handle)

        with (
            mock.patch.object(os, "replace", lambda *paths: (done.append(("rename", 0)), replace(*paths))),
            mock.patch.object(os, "fsync", flushed),
        ):
            folder.write(alice.root, "notes/plan.md", b"words\n")
            inode = (alice.root / "notes").stat().st_ino
            assert ("flush", inode) in done[done.index(("rename", 0)) :]
            done.clear()
            folder.remove(alice.root, "notes/plan.md")
        assert ("flush", inode) in done


def test_what_a_killed_process_left_half_written_goes():
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "docs/plan.md", "words\n")
        left = save(alice, f"docs/{folder.TEMPORARY}47k11-plan.md", "wor")
        network.run("alice")
        assert not left.exists() and read(alice, "docs/plan.md") == "words\n"


def test_a_file_that_is_gone_is_believed_although_the_clock_was_set_back():
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "notes.md", "words\n")
        network.run("alice")
        (alice.root / "notes.md").unlink()
        assert network.bridge("alice").run().look_again
        network.now -= 400 * 86_400_000
        assert network.bridge("alice").run().look_again
        network.now += SECOND_LOOK
        assert network.bridge("alice").run().deleted == ["notes.md"]


def test_daily_documents_are_met_although_the_clock_was_set_back():
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "replica.toml", '[[documents]]\nglob = "*.md"\ncadence = "daily"\n')
        network.run("alice")
        network.now -= 400 * 86_400_000
        save(alice, "notes.md", "words\n")
        assert network.run("alice").taken == ["notes.md"]


def test_half_of_the_making_of_an_empty_document_is_no_stumbling_block():
    """An empty file is told by two changes; a batch may end between them."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "activeContext.md", "")
        network.run("alice")
        bob.ingest([history(alice)[-2]])
        network.run("bob")
        network.share()
        assert read(bob, "activeContext.md") == ""


def test_a_private_line_that_comes_back_is_private():
    """By an undo, a half-written save, or a file that was away: what was of level 0 does not go out by that."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", "- one\n- two\n")
        network.run("alice")
        writing.add(alice, "a-buffer.md", "the secret", level=0)
        network.share()
        whole = read(alice, "a-buffer.md")
        for partly in ("- one\n", ""):
            save(alice, "a-buffer.md", partly)
            network.run("alice")
            save(alice, "a-buffer.md", whole)
            network.run("alice")
        (alice.root / "a-buffer.md").unlink()
        network.run("alice")
        save(alice, "a-buffer.md", whole)
        save(alice, "other-buffer.md", whole)  # a file renamed is a new document
        network.share()
        assert read(bob, "a-buffer.md") == read(bob, "other-buffer.md") == "- one\n- two\n"
        assert read(alice, "a-buffer.md") == whole and b"the secret" not in stored_bytes(bob)


def test_a_private_line_edited_by_an_editor_with_an_older_order_is_private():
    """Neither its place nor its gap tells what it is: only its words do."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        with_a_secret(network)
        saves = [
            "- more\n- one\n- the secret\n- void\n",
            "- more\n- one, edited\n- secret 2\n- void\n",
            "- more\n- secret 3\n- void\n",
            "- secret 3 and much more to say of it\n- void\n- xyz\n- more\n",
            "- other\n- xyz\n- the secret 3 and much more to say of it all\n- void\n- more\n",
        ]
        for text in saves:
            save(alice, "notes.md", text)
            network.run("alice")
        network.share()
        assert "secret" not in read(bob, "notes.md") and b"secret" not in stored_bytes(bob)
        assert "- the secret 3 and much more to say of it all" in read(alice, "notes.md").splitlines()


def test_a_line_copied_out_of_a_private_document_is_shared():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", '[[documents]]\nglob = "mine.md"\npolicy = "union"\nlevel = 0\n' + UNION)
        network.share()
        save(alice, "mine.md", "- one\n- two\n")
        network.run("alice")
        save(alice, "notes.md", "- one\n")
        network.share()
        assert read(bob, "notes.md") == "- one\n" and b"- two" not in stored_bytes(bob)


def with_a_secret(network: Network) -> str:
    """Alice's notes.md, a union, has a line of level 0. Returns the file."""
    alice = network["alice"]
    save(alice, "replica.toml", UNION)
    save(alice, "notes.md", "- one\n")
    network.share()
    writing.add(alice, "notes.md", "the secret", level=0)
    network.share()
    return read(alice, "notes.md")


def test_a_change_of_policy_does_not_share_what_is_private():
    with Network("alice", "bob") as network:
        whole = with_a_secret(network)
        alice, bob = network["alice"], network["bob"]
        save(bob, "replica.toml", LINES)
        network.share()
        assert "level 0" in status(alice, None)["held"][0]["what"] and read(alice, "notes.md") == whole
        assert b"the secret" not in stored_bytes(bob)
        save(alice, "notes.md", "- one\n")
        network.share()
        assert not status(alice, None)["held"] and alice.text("notes.md") == bob.text("notes.md") == "- one\n"
        assert b"the secret" not in stored_bytes(bob)


def test_a_change_of_policy_shares_what_is_private_when_told_to():
    with Network("alice", "bob") as network:
        with_a_secret(network)
        alice, bob = network["alice"], network["bob"]
        save(bob, "replica.toml", LINES)
        network.share()
        with mock.patch("replica.bridge.time.sleep"):
            network.bridge("alice").accept(["notes.md"])
        network.share()
        assert "the secret" in bob.text("notes.md") == alice.text("notes.md") == read(bob, "notes.md")


def test_a_document_deleted_elsewhere_leaves_its_private_lines_and_nothing_else():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one", "- two")
        add(alice, "a-buffer.md", "- the secret", level=0)
        network.share()
        for deliver in (True, False):
            bob.delete(bob.document("a-buffer.md"))
            bridge = network.bridge("alice")
            bridge.run()
            sync(alice, bob)
            if deliver:
                assert bridge.deliver().written == ["a-buffer.md"]
            network.share()
            assert read(alice, "a-buffer.md") == "- the secret\n" and not (bob.root / "a-buffer.md").exists()
            add(bob, "a-buffer.md", "- three")
            network.share()
        assert read(alice, "a-buffer.md").count("secret") == 1


def test_what_was_added_before_a_change_of_policy_and_is_in_no_file_yet_moves_on():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        network.share()
        writing.add(alice, "notes.md", "of alice")
        writing.add(alice, "notes.md", "the secret", level=0)
        writing.add(bob, "notes.md", "of bob")
        save(bob, "replica.toml", LINES)
        network.run("bob")
        sync(alice, bob)
        network.share()
        network.share()
        assert sorted(read(alice, "notes.md").split("\n")) == ["", "- of alice", "- of bob"]
        assert read(alice, "notes.md") == read(bob, "notes.md") and shared_content(alice) == shared_content(bob)
        assert b"the secret" not in stored_bytes(bob)
        assert [one["path"] for one in status(alice, None)["skipped"]] == ["notes.md as union"]
        save(alice, "replica.toml", UNION)
        network.share()
        assert "- the secret\n" in read(alice, "notes.md")


def test_a_conversation_ends_when_another_one_made_the_store_begin_anew():
    """What three believes that one holds is not there any more: that is nobody's fault."""
    with Backups("one", "two", "three") as network:
        add(network["one"], "a-buffer.md", "- old")
        network.sync_all()
        network.back_up("one")
        add(network["one"], "a-buffer.md", "- today")
        network.sync("one", "two")
        one = network.bring_back("one")
        add(one, "a-buffer.md", "- after")
        beside = Link(one, network["three"])
        beside.run()
        add(network["three"], "a-buffer.md", "- of three")
        talk(one, network["two"])
        beside.send(1, beside.sessions[1].changed())
        while beside.busy:
            beside.deliver(beside.busy[0])
        assert beside.sessions[0].state is State.CLOSED is beside.sessions[1].state
        network.meet_all()
        for clone in network.clones.values():
            assert texts(clone) == {"- old", "- today", "- after", "- of three"}
        assert_same(*network.clones.values())


def test_a_side_of_a_fork_that_was_refused_can_be_the_one_that_counts():
    """Two and three each refuse what the other holds; one of them has to take it in the end."""
    with Backups("one", "two", "three") as network:
        add(network["one"], "a-buffer.md", "- old")
        network.sync_all()
        network.back_up("one")
        link = Link(network["two"], network["three"])
        link.run()
        add(network["one"], "a-buffer.md", "- today")
        network.sync("one", "two")
        one = network.bring_back("one")
        add(one, "a-buffer.md", "- after")
        network.sync("one", "three")
        for side in (0, 1):
            link.send(side, link.sessions[side].changed())
        link.run()
        assert all(any(isinstance(event, Blamed) for event in events) for events in link.events)
        network.meet_all()
        for clone in network.clones.values():
            assert texts(clone) == {"- old", "- today", "- after"}
        assert_same(*network.clones.values())


def test_who_is_being_brought_back_knows_the_others_still():
    """Who began it is gone after a first change, which says who the founder is and nobody else: the rest must do."""
    with Backups("one", "two", "three", "four") as network:
        one, two, three, four = network.clones.values()
        add(one, "a-buffer.md", "- old")
        network.sync_all()
        one.remove("two")  # nobody has heard of that yet
        first = next(batches(one, size=1))
        rejoin.begin(one, bundle.read(bundle.make(three.store, three.log)), "fork", three.vector())
        one.ingest(first)
        assert [member["name"] for member in one.members()] == ["one"]
        assert Node(one, Options())._certificates().keys() == {clone.identity.id for clone in (one, three, four)}
        assert any("not a member" in getattr(event, "reason", "") for event in talk(one, two))
        sync(one, four)
        assert not rejoin.under_way(one.store) and not rejoin.acquaintances(one.store)
        assert texts(four) == texts(one) == {"- old"}
        assert [member["name"] for member in four.members() if member["removed_by"] is not None] == ["one", "two"]


def test_of_two_that_both_think_that_the_other_must_begin_anew_one_does():
    """Also where one has a new identity, by which only itself knows it yet: both must judge by the same names."""
    with Network("one", "two") as network:
        one, two = network["one"], network["two"]
        add(one, "a-buffer.md", "- old")
        network.sync_all()
        former = one.identity.id
        while (one.identity.id < two.identity.id) == (former < two.identity.id):
            copies.part(one, certificate)
        link = Link(one, two)
        for side in (0, 1):
            link.deliver(side)
        for side in (0, 1):
            link.queues[side].clear()
        for side, session in enumerate(link.sessions):
            session._give("ended", former)
            link.send(side, session._send_missing())
        link.run()
        assert rejoin.begun(one.store) + rejoin.begun(two.store) == 1
        sync(one, two)
        assert_same(one, two)


def test_what_was_added_before_a_change_of_policy_moves_on_although_its_author_has_come_back_as_somebody_new():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        network.share()
        writing.add(bob, "notes.md", "of bob")
        sync(alice, bob)
        was = bob.identity.id
        rejoin.begin(bob, bundle.read(bundle.make(alice.store, alice.log)), "fork", alice.vector())
        sync(alice, bob)
        assert bob.identity.id != was and not rejoin.under_way(bob.store)
        save(alice, "replica.toml", LINES)
        network.run("alice")
        sync(alice, bob)
        network.share()
        assert read(alice, "notes.md") == read(bob, "notes.md") == "- of bob\n"


@pytest.mark.parametrize("in_file", [True, False])
def test_a_file_whose_new_policy_would_share_a_private_line_is_settled_by_a_rejection(in_file):
    """Also where the line is in no file, so that nobody can take it out: what is private stays, the rest moves on."""
    with Network("alice", "bob") as network:
        alice, bridge = network["alice"], network.bridge("alice")
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- one\n")
        network.share()
        writing.add(alice, "notes.md", "the secret", level=0)
        if in_file:
            network.share()
        save(network["bob"], "replica.toml", LINES)
        network.run("bob")
        sync(alice, network["bob"])
        bridge.run()
        assert [held["reason"] for held in bridge.held()] == ["level"]
        assert bridge.reject([]) == ["notes.md"]
        network.share()
        assert not bridge.held() and bridge.run(every=True).quiet
        assert read(alice, "notes.md") == read(network["bob"], "notes.md") == "- one\n"
        assert [one["path"] for one in status(alice, None)["skipped"]] == ["notes.md as union"]
        assert b"the secret" not in stored_bytes(network["bob"])
        kept = [file.read_text() for file in (alice.root / ".replica" / "rejected").iterdir()]
        assert kept == ["- one\n- the secret\n" if in_file else "- one\n"]
        save(alice, "replica.toml", UNION)  # and there it is again
        network.share()
        assert read(alice, "notes.md") == "- one\n- the secret\n" and read(network["bob"], "notes.md") == "- one\n"


def test_a_private_line_alone_in_a_file_whose_policy_changes_stays_here_after_a_rejection():
    with Network("alice", "bob") as network:
        alice, bridge = network["alice"], network.bridge("alice")
        save(alice, "replica.toml", UNION)
        network.share()
        writing.add(alice, "notes.md", "the secret", level=0)
        network.share()
        save(alice, "replica.toml", LINES)
        network.run("alice")
        assert [held["reason"] for held in bridge.held()] == ["level"]
        assert bridge.reject(["notes.md"]) == ["notes.md"]
        network.share()
        assert not bridge.held() and bridge.run(every=True).quiet and read(alice, "notes.md") == ""
        assert b"the secret" not in stored_bytes(network["bob"])
        save(alice, "replica.toml", UNION)
        network.share()
        assert read(alice, "notes.md") == "- the secret\n"


def test_a_rejection_that_is_killed_on_its_way_shares_no_private_line():
    """Whatever it has come to, the next run finds a file that is held or one without the line."""
    for steps in range(30):
        with Network("alice") as network:
            alice = network["alice"]
            save(alice, "replica.toml", UNION)
            save(alice, "notes.md", "- one\n")
            network.share()
            writing.add(alice, "notes.md", "the secret", level=0)
            network.share()
            save(alice, "replica.toml", LINES)
            network.run("alice")
            with dying_after(steps) as died:
                network.bridge("alice").reject([])
            again = network.reopen("alice")
            network.run("alice")
            if network.bridge("alice").held():
                network.bridge("alice").reject([])
            network.share()
            assert read(again, "notes.md") == "- one\n"
            assert "secret" not in str(shared_content(again))
            left = again.documents.entries(again.documents.find("notes.md", "union"))
            assert [entry.text for entry in left] == ["- the secret"]
            if not died:
                return
    raise AssertionError("it never ended")


def test_who_comes_back_a_second_time_writes_again_what_it_wrote_as_whom_it_was_before():
    """Three's first identity has built on a side of a split that does not count. Nobody else has met it since."""
    with Backups("one", "two", "three", "four") as network:
        three = built_on_one_side(network)
        bring_back(three, network["four"])
        assert "- AFTER" in texts(three)
        bring_back(three, network["two"])
        assert texts(three) == {"- old", "- today", "- AFTER"}
        network.meet_all()
        for clone in network.clones.values():
            assert {"- old", "- today", "- AFTER"} <= texts(clone)
        assert_same(*network.clones.values())


def test_to_restore_a_text_to_when_it_was_entries_shares_none_of_level_0():
    with Network("alice", "bob") as network:
        alice = network["alice"]
        save(alice, "replica.toml", UNION)
        network.share()
        writing.add(alice, "notes.md", "the secret", level=0)
        save(alice, "replica.toml", LINES)
        save(alice, "notes.md", "a text\n")
        network.share()
        with pytest.raises(WrongPolicy):
            restore(alice, "notes.md", before_last(alice, "notes.md"))
        network.share()
        assert read(alice, "notes.md") == "a text\n" and b"the secret" not in stored_bytes(network["bob"])


def test_to_restore_entries_to_when_they_were_a_text_takes_none_away():
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "replica.toml", LINES)
        save(alice, "notes.md", "- a text\n")
        network.share()
        then = alice.store.meta("time")
        save(alice, "replica.toml", UNION)
        network.share()
        writing.add(alice, "notes.md", "more")
        with pytest.raises(WrongPolicy):
            restore(alice, "notes.md", then)
        assert texts(alice, "notes.md") == {"- a text", "- more"}


def test_what_a_clone_takes_in_again_is_compared_with_what_its_peers_hold_before_more_is_said():
    """Three takes in again the side of a split that it knows, and what it built on that: two knows the other side."""
    with Backups("one", "two", "three", "four") as network:
        three, two = built_on_one_side(network), network["two"]
        begin_back(three, network["four"])
        link = Link(three, two)
        link.deliver(0), link.deliver(1)
        link.queues[0].clear(), link.queues[1].clear()  # what two sends is still on its way
        rejoin.finish(three, certificate)
        link.send(0, link.sessions[0].changed())
        link.run()
        assert not any(isinstance(event, Blamed) for events in link.events for event in events)
        network.meet_all()
        for clone in network.clones.values():
            assert {"- old", "- today", "- AFTER"} <= texts(clone)
        assert_same(*network.clones.values())


def test_a_text_that_a_clone_had_deleted_and_others_went_on_with_stays_when_it_comes_back():
    """Their edit had reached it after the deletion: it was there before the clone came back, and was not seen."""
    with Backups("one", "two", "three") as network:
        network["one"].edit_text("n.md", new="first\n")
        network.sync_all()
        network.back_up("one")
        add(network["one"], "a-buffer.md", "- today")
        network.sync("one", "three")
        one = network.bring_back("one")
        one.delete(one.document("n.md"))
        network["two"].edit_text("n.md", new="first\nof two\n")
        network.sync("one", "two")
        assert one.text("n.md") == "first\nof two\n"
        network.meet_all()
        for clone in network.clones.values():
            assert clone.text("n.md") == "first\nof two\n"
        assert_same(*network.clones.values())


def test_a_version_that_waits_outlives_the_file_that_did_not_show_it():
    """Of two versions the file has one. Who deletes the file takes away that one: nobody decided on the other."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(bob, "activeContext.md", "of bob\n")
        network.run("bob")
        save(alice, "activeContext.md", "of alice\n")
        network.run("alice")
        network.share()
        shown = read(alice, "activeContext.md")
        assert read(bob, "activeContext.md") == shown
        (alice.root / "activeContext.md").unlink()
        network.share()
        left = ({"of alice\n", "of bob\n"} - {shown}).pop()
        assert read(alice, "activeContext.md") == read(bob, "activeContext.md") == left
        (alice.root / "activeContext.md").unlink()
        network.share()
        assert not (alice.root / "activeContext.md").exists() and not (bob.root / "activeContext.md").exists()


def test_a_shared_line_put_back_where_a_private_one_stood_is_shared_again():
    """What took the place of a level-0 entry stays at level 0, unless everybody knows those words already."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", "- one\n- two\n")
        network.share()
        save(bob, "a-buffer.md", "")  # an editor that takes long between the two halves of a save
        network.run("bob")
        writing.add(bob, "a-buffer.md", "the secret", level=0)
        network.share()
        save(bob, "a-buffer.md", "- one\n")  # in its place
        network.share()
        assert read(alice, "a-buffer.md") == read(bob, "a-buffer.md") == "- one\n"
        writing.add(bob, "a-buffer.md", "the secret", level=0)
        network.share()
        save(bob, "a-buffer.md", "- one\n- two\n- the secrets\n- three\n")
        network.share()
        save(bob, "a-buffer.md", "- one\n- two\n- four, which may be what it says in other words\n")
        network.share()
        assert "- two" in read(alice, "a-buffer.md") and b"secret" not in stored_bytes(alice)
        assert "- four" not in read(alice, "a-buffer.md")


def test_who_passes_on_what_builds_on_the_other_side_of_a_fork_is_not_blamed():
    """On its side the member let somebody in, under a number that here is another change: so that guest is not here."""
    with Backups("one", "two", "three") as network:
        network.back_up("one")
        link = Link(network["two"], network["three"])
        link.run()
        network.add("four", by="one")
        network.sync("one", "four")
        network.sync("one", "two")
        one = network.bring_back("one")
        add(one, "a-buffer.md", "- after")
        network.sync("one", "three")
        link.send(0, link.sessions[0].changed())
        link.run()
        add(network["four"], "a-buffer.md", "- of four")
        network.sync("four", "two")
        add(network["two"], "a-buffer.md", "- of two")
        link.send(0, link.sessions[0].changed())
        link.run()
        blamed = {event.member for events in link.events for event in events if isinstance(event, Blamed)}
        assert blamed == {one.identity.id} and network["three"].log.author(network["four"].identity.id) is None
        network.meet_all()
        for clone in network.clones.values():
            assert texts(clone) == {"- after", "- of four", "- of two"}
        assert_same(*network.clones.values())


def test_a_new_key_is_on_the_disk_with_its_folder_and_the_old_one_before_it():
    """After a power cut one of the two would be gone: the clone's own key, or the one that vouches for it."""
    with Network("alice") as network:
        alice, done = network["alice"], []
        was, place = alice.identity, alice.root / ".replica"
        replace, fsync = os.replace, os.fsync

        def flushed(handle):
            info = os.fstat(handle)
            done.append((stat.S_ISDIR(info.st_mode) and info.st_ino, ""))
            fsync(handle)

        def renamed(source, target):
            assert (place / "identity").is_file() and Path(source).name != "identity"
            replace(source, target)
            done.append((Path(target).parent.stat().st_ino, Path(target).name))

        with mock.patch.object(os, "replace", renamed), mock.patch.object(os, "fsync", flushed):
            copies.part(alice, certificate)
        former, own = (one.stat().st_ino for one in (place / "former", place))
        kept, put = done.index((former, "000000.key")), done.index((own, "identity"))
        assert kept < done.index((former, ""), kept) < put < done.index((own, ""), put)
        assert done[:kept].count((own, "")) == 2  # once for the key to come, once for the new folder of former keys
        assert [one.id for one in copies.identities(network.reopen("alice"))] == [alice.identity.id, was.id]


def test_a_key_is_kept_once_although_the_process_died_before_the_new_one_took_its_place():
    with Network("alice") as network:
        alice, replace = network["alice"], os.replace

        def dies(source, target):
            if Path(target).name == "identity":
                raise KeyboardInterrupt
            replace(source, target)

        with mock.patch.object(os, "replace", dies), pytest.raises(KeyboardInterrupt):
            copies.part(alice, certificate)
        assert len(copies.identities(network.reopen("alice"))) == 2


def test_a_save_that_holds_nothing_of_what_a_killed_process_was_to_write_takes_none_of_it_away():
    """Counted in characters it may be nearer to that by chance, since what people write is alike."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", "- one\n")
        network.share()
        save(bob, "a-buffer.md", "- one\n- a lesson about the retries, by bob\n")
        network.run("bob")
        network.sync("alice", "bob")
        with mock.patch.object(folder, "write_all", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            network.run("alice")
        alice = network.reopen("alice")
        save(alice, "a-buffer.md", "- one\n- a lesson about the retries, by alice\n")
        network.share()
        for who in ("alice", "bob"):
            assert f"- a lesson about the retries, by {who}" in read(bob, "a-buffer.md").split("\n")
        assert_same(alice, bob)


@pytest.mark.parametrize("policy", ["text", "union", "log"])
def test_a_version_that_waits_moves_on_when_the_policy_changes(policy):
    """The new policy knows no versions: the file shows them all, the newest first."""
    rules = '[[documents]]\nglob = "notes.md"\npolicy = "{}"\n'
    with Network("alice", "bob", "carol") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", rules.format("latest"))
        network.share()
        save(alice, "notes.md", "- of alice\n"), save(bob, "notes.md", "- of bob\n")
        network.run("alice"), network.run("bob")
        network.share()
        save(alice, "replica.toml", rules.format(policy))
        network.share()
        network.share()
        for clone in network.clones.values():
            lines = [line for line in read(clone, "notes.md").split("\n") if line]
            assert sorted(lines) == ["- of alice", "- of bob"]
            assert [document.policy for document in clone.documents.all() if document.path == "notes.md"] == [policy]


@pytest.mark.parametrize("how", ["was removed", "came back under a new identity"])
def test_what_somebody_wrote_before_a_change_of_policy_moves_on_without_its_author(how):
    """Its author would bring it along, and is not there any more to do so."""
    with Backups("alice", "bob", "carol") as network:
        save(network["alice"], "replica.toml", UNION)
        network.share()
        save(network["alice"], "replica.toml", LINES)
        network.run("alice"), network.sync("alice", "bob"), network.run("bob")
        writing.add(network["carol"], "notes.md", "of carol")  # she has not heard of it
        network.sync("carol", "bob")
        if how == "was removed":
            network["alice"].remove("carol")
            network.clones.pop("carol").close()
        else:
            network.back_up("carol")
            add(network["carol"], "a-buffer.md", "- today")
            network.sync("carol", "bob")
            add(network.bring_back("carol"), "a-buffer.md", "- after")
            network.meet_all()
        network.share()
        network.share()
        for clone in network.clones.values():
            assert read(clone, "notes.md") == "- of carol\n"
            assert [document.policy for document in clone.documents.all() if document.path == "notes.md"] == ["text"]


def begun_again(clone: Clone, peer: Clone) -> None:
    """`clone` starts again from what `peer` holds, and comes back."""
    rejoin.begin(clone, bundle.read(bundle.make(peer.store, peer.log)), "fork", peer.vector())
    for batch in batches(peer):
        clone.ingest(batch)
    rejoin.finish(clone, certificate)


def test_a_clone_that_comes_back_twice_keeps_what_it_wrote_before_the_first_time():
    """That is of a former identity, and builds on a side of a fork that does not count any more."""
    with Backups("one", "two", "three") as network:
        network.back_up("one")
        add(network["one"], "a-buffer.md", "- today")
        network.sync("one", "two")
        two, was = network["two"], network["two"].identity.id
        add(two, "a-buffer.md", "- of two")
        begun_again(two, network["one"])
        assert two.identity.id != was and two.log.author(was).seq == 1 and texts(two) == {"- today", "- of two"}
        one = network.bring_back("one")
        add(one, "a-buffer.md", "- after")
        network.sync("one", "three")
        begun_again(two, network["three"])
        assert texts(two) == {"- today", "- of two", "- after"}
        network.meet_all()
        for clone in network.clones.values():
            assert texts(clone) == {"- today", "- of two", "- after"}
        assert_same(*network.clones.values())


def test_a_digest_that_could_not_be_stored_is_said_later():
    """A full disk: what was not said must not count as said, or both wait for it for good."""
    with Network("alice", "bob") as network:
        link = Link(network["alice"], network["bob"])
        link.run()
        add(network["alice"], "a-buffer.md", "- one")
        link.send(0, link.sessions[0].changed())
        while link.busy:
            link.deliver(link.busy[0])
        with mock.patch.object(Clone, "digest", side_effect=DiskFull("full")), pytest.raises(DiskFull):
            link.rest()
        link.run()
        assert link.in_step


@pytest.mark.parametrize("folds", ["this process", "another one"])
def test_a_text_in_memory_does_not_miss_what_another_process_wrote_before_it_was_folded(folds):
    """The change is not in the log any more, and not in the text that this process holds."""
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "replica.toml", "[history]\ndays = 0\n")
        network.run("alice")
        for text in ("on\n", "one\n"):  # the second time it is held under the id that it is edited by
            alice.edit_text("n.md", new=text)
        with network.open_again("alice") as command:
            command.edit_text("n.md", new="one\nby a command\n")
            network.now += 1_000
            assert compact.compact(command if folds == "another one" else alice).folded
        alice.log.refresh()
        alice.edit_text("n.md", [(0, 0, "zero\n")])
        assert alice.text("n.md") == network.reopen("alice").text("n.md") == "zero\none\nby a command\n"


def test_who_goes_on_from_another_change_than_ours_is_split_and_no_liar():
    """The fork came by a third clone after the two had compared heads: the next change stands on what is not here."""
    with Backups("one", "two", "three") as network:
        one, two = network["one"], network["two"]
        network.back_up("three")
        add(network["three"], "a-buffer.md", "- before the restore")
        sync(network["three"], one)
        three = network.bring_back("three")
        add(three, "a-buffer.md", "- after it")
        add(three, "a-buffer.md", "- and on")
        sync(one, two)
        second = history(three)[-1:]
        with pytest.raises(Fork, match="three wrote two different changes"):
            two.ingest(second)


def test_half_of_the_making_of_an_empty_document_by_a_member_that_is_removed_shows_nothing():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(bob, "SESSION_LOG.md", "")
        network.run("bob")
        alice.ingest(history(bob)[:-1])
        alice.remove("bob")
        network.run("alice")
        assert alice.text("SESSION_LOG.md") == read(alice, "SESSION_LOG.md") == ""


def _reworded(clone: Clone, policy: str, word: str) -> None:
    if policy == "text":
        clone.edit_text("n.md", new=f"a\n{word}\nc\n")
    else:
        old = next(one for one in clone.entries("n.md") if one.text == "- b")
        clone.edit_entries("n.md", policy, [(1, entry(f"- {word}", after=old.place, kills=old.dots))])


@pytest.mark.parametrize("policy", ["text", "union"])
def test_what_a_restored_clone_wrote_beside_a_folded_change_is_weighed_against_it(policy):
    """It had acknowledged that change, and was folded on its word; a backup from before that knows nothing of it."""
    with Backups("one", "two", "three") as network:
        one, two, three = (network[name] for name in ("one", "two", "three"))
        for clone in network.clones.values():
            clone.set_config(AT_ONCE)
        if policy == "text":
            one.edit_text("n.md", new="a\nb\nc\n")
        else:
            add(one, "n.md", "- a", "- b", "- c")
        network.sync_all()
        network.back_up("one")
        _reworded(three, policy, "of three")
        network.sync_all()
        acknowledged(network)
        assert compact.compact(two).folded
        one, was = network.bring_back("one"), two.identity.id
        _reworded(one, policy, "of one")
        network.sync("one", "three")  # who has not folded
        assert conflict_ids(three)
        assert conflict_ids(one) == conflict_ids(three)
        network.meet_all()
        assert_same(*network.clones.values())
        assert conflict_ids(two) == conflict_ids(three) != []
        assert two.identity.id == was  # of its own there was nothing to write again


def test_what_was_weighed_when_it_was_folded_makes_no_newcomer_begin_anew():
    """A change that is held while one beside it is folded goes with what is left: also where a bundle came first."""
    with Network("one", "two", "three") as network:
        one, two, three = network.clones.values()
        two.set_config(AT_ONCE)
        add(two, "n.md", "- a", "- b", "- c")
        network.sync_all()
        _reworded(one, "union", "of one")
        _reworded(three, "union", "of three")
        network.sync("two", "three")
        acknowledged(network, "two", "three")
        network.sync("one", "two")
        acknowledged(network, "one", "two")
        assert compact.compact(two).folded
        floor, held = two.log.floor(), two.vector()
        assert floor[three.identity.id] == held[three.identity.id] and floor[one.identity.id] < held[one.identity.id]
        network.add("four", by="two")
        network.sync("two", "four")
        four = network["four"]
        assert four.log.floor() and rejoin.begun(four.store) == 0
        assert conflict_ids(four) == conflict_ids(two) != []


def test_two_that_have_both_folded_too_soon_come_in_step():
    """Each holds what was written beside that which the other alone has folded."""
    with Backups("one", "two", "three", "four") as network:
        one, two, three, _ = network.clones.values()
        one.set_config(AT_ONCE)
        add(one, "n.md", "- a", "- b", "- c")
        network.sync_all()
        for source, other in ((two, "four"), (three, "one")):
            _reworded(source, "union", f"of {source.name}")
            network.sync(source.name, other)
            network.back_up(other)
        network.sync_all()
        acknowledged(network)
        for source, other in ((two, three), (three, two)):
            cut = {source.log.author(id).n: seq for id, seq in source.vector().items() if id != other.identity.id}
            with mock.patch.object(compact, "_old_enough", lambda log, now, days, cut=cut: {
                author.n: cut.get(author.n, 0) for author in log.authors()
            }):  # fmt: skip
                assert compact.compact(source).folded
        for name, source in (("four", "two"), ("one", "three")):
            add(network.bring_back(name), "n.md", f"- of {name}")
            network.sync(name, source)
        link = Link(two, three)
        link.run()
        for side, source in enumerate((two, three)):  # neither still waits to begin anew
            add(source, "n.md", f"- {source.name} goes on")
            link.send(side, link.sessions[side].changed())
            link.run()
        assert link.in_step and two.vector() == three.vector()
        network.meet_all()
        assert_same(*network.clones.values())
        assert {f"- of {name}" for name in network.clones} <= texts(two, "n.md")


@pytest.mark.parametrize("listens", ["two", "one"])
def test_who_passes_on_a_split_that_was_heard_of_meanwhile_is_not_blamed(listens):
    """Heads are compared at the hello. What comes to one side later may be another change under a number of the other.

    It is taken for held there and not sent, nor is who was let in by it known; what that newcomer has written is sent.
    """
    with Backups("one", "two", "three", "relay") as network:
        network.sync_all()
        network.back_up("two")
        four = network.add("four", by="two")
        network.sync("relay", "two")
        network.sync("relay", "four")
        add(four, "a-buffer.md", "- of four")
        network.sync("relay", "four")
        two, three, listener = network.bring_back("two"), network["three"], network[listens]
        add(two, "a-buffer.md", "- of two")
        link = Link(listener, three)
        for side in (0, 1):
            link.deliver(side)  # the hellos
        link.queues[1].clear()  # what two has written is still on its way
        if listens == "two":
            network.sync("three", "relay")
            link.send(1, link.sessions[1].changed())
        else:  # the listener, too, hears of it after its hello, and says so before it passes it on
            network.sync("one", "two")
            add(three, "a-buffer.md", "- of three")
            link.send(1, link.sessions[1].changed())
            link.deliver(0)
            said = link.queues[1].popleft()
            link.queues[1].clear()
            network.sync("three", "relay")
            link.send(1, link.sessions[1].receive(said))
        link.run()
        assert [session.state for session in link.sessions] == [State.CLOSED] * 2
        blamed = {event.member for events in link.events for event in events if isinstance(event, Blamed)}
        assert not blamed & {three.identity.id, network["one"].identity.id}
        talk(two, network["relay"])  # it comes back, with the admission
        network.meet_all()
        assert {"- of four", "- of two"} <= texts(listener)
        assert_same(*network.clones.values())


PRIVATE_RULES = '[[documents]]\nglob = "private-*.md"\npolicy = "union"\nlevel = 0\n\n[[documents]]\nglob = "**/*.md"\n'


@pytest.mark.parametrize("how", ["a save", "a command"])
def test_rules_that_came_hold_before_anything_is_taken_in_by_the_old_ones(how):
    """What a watch names, or a command adds, before the folder was looked at with them: it was shared."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        network.run("bob")
        bridge = Bridge(bob)
        bridge.run()
        save(alice, "replica.toml", PRIVATE_RULES)
        network.run("alice")
        network.sync("alice", "bob")
        if how == "a save":
            save(bob, "private-notes.md", "- s3cr3t\n")
            bridge.collect(["private-notes.md"])
        else:
            writing.add(bob, "private-notes.md", "s3cr3t")
        network.share()
        assert bob.documents.find("private-notes.md", "union").private is not None
        assert b"s3cr3t" not in stored_bytes(alice)


def test_rules_that_were_taken_back_with_their_transaction_are_not_in_force():
    with Network("alice") as network:
        alice = network["alice"]
        before = alice.config
        with suppress(RuntimeError), alice.transaction():
            entry = Add(ENTRY, PRIVATE_RULES, 1, "", None, (), {})
            alice.edit_entries("replica.toml", "latest", [(1, entry)])
            assert alice.rule("private-x.md").level == 0
            raise RuntimeError
        assert alice.config == before


@pytest.mark.parametrize("file_goes", [False, True])
def test_a_private_line_that_an_editor_takes_out_and_writes_back_in_other_words_stays_private(file_goes):
    """It empties the file, or removes it, writes slowly, and we look in between (SEED=701627)."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        network.run("alice")
        writing.add(alice, "notes.md", "日本 s3cr3t words", level=0)
        network.run("alice")
        if file_goes:
            (alice.root / "notes.md").unlink()
            network.run("alice")
            network.now += 2 * SECOND_LOOK
            network.run("alice")
        else:
            save(alice, "notes.md", "")
            network.run("alice")
        assert alice.documents.entries(alice.documents.find("notes.md", "union")) == []
        network.now += 10 * 24 * 3_600_000
        save(alice, "notes.md", "- 30 日本 s3cr3t words, mended\n- quite another thing\n")
        network.run("alice")
        network.share()
        assert b"s3cr3t" not in stored_bytes(bob) and read(bob, "notes.md") == "- quite another thing\n"
        assert "s3cr3t" in read(alice, "notes.md")


def test_a_line_that_has_little_of_a_private_one_that_went_is_shared():
    """Nor is one kept back that is like what was private and was then shared on purpose."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        network.run("alice")
        writing.add(alice, "notes.md", "the bank code is 47k11 for the office", level=0)
        writing.add(alice, "notes.md", "tides are told in minutes", level=0)
        network.run("alice")
        writing.add(alice, "notes.md", "tides are told in minutes", level=1)
        network.run("alice")
        save(alice, "notes.md", "- tides are told in minutes\n")
        network.run("alice")
        save(alice, "notes.md", "- tides are told in minutes\n- call the office\n- ok\n- tides are told in seconds\n")
        network.run("alice")
        network.share()
        assert read(bob, "notes.md") == read(alice, "notes.md")
        assert b"47k11" not in stored_bytes(bob)


def test_a_private_line_that_went_is_known_in_other_words_when_its_changes_are_folded():
    """SEED=1217104."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", AT_ONCE + UNION)
        save(alice, "notes.md", "- tides are told in minutes\n")
        network.run("alice")
        writing.add(alice, "notes.md", "日本 s3cr3t words", level=0)
        network.share()
        save(alice, "notes.md", "- tides are told in minutes\n")
        network.share()
        acknowledged(network)
        assert compact.compact(alice).folded
        save(alice, "notes.md", "- tides are told in minutes\n- 日本 s3cr3t words, mended\n")
        network.share()
        assert b"s3cr3t" not in stored_bytes(bob) and "s3cr3t words, mended" in read(alice, "notes.md")


@pytest.mark.parametrize("private", ["", "- of s3cr3t things\n"])
def test_a_shared_line_that_is_put_back_in_other_words_beside_a_private_one_stays_shared(private):
    """An editor empties a file, a private line comes into it, and the editor writes on (SEED=900390)."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- retries need jitter\n- tides are told in minutes\n")
        network.run("alice")
        network.share()
        save(alice, "notes.md", "")
        network.run("alice")
        network.now += 2 * SECOND_LOOK
        network.run("alice")
        writing.add(alice, "notes.md", "the office's s3cr3t", level=0)
        network.run("alice")
        save(alice, "notes.md", "- retries always need jitter\n- tides are told in minutes\n" + private)
        network.run("alice")
        network.share()
        assert read(bob, "notes.md") == "- retries always need jitter\n- tides are told in minutes\n"
        assert private in read(alice, "notes.md") and b"s3cr3t" not in stored_bytes(bob)


@pytest.mark.parametrize("had_file", [True, False])
def test_an_edit_of_a_private_line_that_the_base_does_not_show_stays_private(had_file):
    """The file was written, the process died, and a person edited the line before the next start (SEED=1202509)."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        shared = "- tides are told in minutes\n" if had_file else ""
        if had_file:
            save(alice, "notes.md", shared)
        network.run("alice")
        network.share()
        writing.add(alice, "notes.md", "日本 s3cr3t words", level=0)
        save(alice, "notes.md", shared + "- 日本 s3cr3t words, mended\n- quite another thing\n")
        network.run("alice")
        network.share()
        assert b"s3cr3t" not in stored_bytes(bob) and read(bob, "notes.md") == shared + "- quite another thing\n"
        assert "- 日本 s3cr3t words, mended\n" in read(alice, "notes.md")
        assert [row["reason"] for row in status(alice, None)["held"]] == ["likeness"]


def test_a_save_in_the_tick_in_which_we_wrote_the_file_is_noticed():
    """Of the same size, in place: until the clock of the file system ticks, it had the stamp of ours (SEED=1214076)."""
    tick, fdopen = 1_700_000_000_000_000_000, os.fdopen

    @contextmanager
    def stamped(*arguments):
        with fdopen(*arguments) as file:
            yield file
            file.flush()
            os.utime(file.fileno(), ns=(tick, tick))

    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- one\n- two\n")
        network.share()
        save(bob, "notes.md", "- one\n- 2\n- three\n")
        network.run("bob")
        network.sync("alice", "bob")
        with mock.patch.object(folder.os, "fdopen", stamped):
            assert network.run("alice").written == ["notes.md"]
        file = save(alice, "notes.md", "- ONE\n- 2\n- three\n")
        os.utime(file, ns=(tick, tick))
        assert network.run("alice").taken == ["notes.md"]
        network.share()
        assert read(bob, "notes.md") == "- ONE\n- 2\n- three\n"


@pytest.mark.parametrize("again", ["- 日本 s3cr3t words", "- 日本 s3cr3t words, mended"])
def test_a_private_line_that_comes_back_where_a_shared_one_stood_is_no_edit_of_that(again):
    """SEED=1222494."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        network.run("alice")
        writing.add(alice, "notes.md", "日本 s3cr3t words", level=0)
        network.run("alice")
        save(alice, "notes.md", "")
        network.run("alice")
        network.now += 2 * SECOND_LOOK
        network.run("alice")
        save(alice, "notes.md", "- tides are told in minutes\n- and 日本\n")
        network.share()
        save(alice, "notes.md", f"- tides are told in hours\n{again}\n")
        network.share()
        assert b"s3cr3t" not in stored_bytes(bob) and read(bob, "notes.md") == "- tides are told in hours\n"
        assert again in read(alice, "notes.md")


@pytest.mark.parametrize("again", [
    "- first 日本 s3cr3t words, then much more that came to mind on the way, in three edits",
    "- 日本 and s3cr3t words, with something put in between, and then some more of it all",
    "- 日本 s3cr3t wo", "## 日本 s3cr3t words", "日本 s3cr3t words",
])  # fmt: skip
def test_a_private_line_that_comes_back_longer_shorter_or_as_a_heading_stays_private(again):
    """SEED=1224464."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- tides are told in minutes\n")
        network.run("alice")
        writing.add(alice, "notes.md", "日本 s3cr3t words", level=0)
        network.run("alice")
        save(alice, "notes.md", "- tides are told in minutes\n")
        network.share()
        save(alice, "notes.md", f"- tides are told in minutes\n- s\n\n{again}\n")
        network.share()
        assert b"s3cr3t" not in stored_bytes(bob) and read(bob, "notes.md") == "- tides are told in minutes\n- s\n"
        assert again in read(alice, "notes.md")


def test_a_peer_that_says_its_digest_after_news_from_others_is_not_blamed():
    """Each had it from a third clone, so nothing new came from the peer itself (SEED=1206020)."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network["alice"], network["bob"], network["carol"]
        network.share()
        link = Link(alice, bob)
        link.run()
        for number in range(8):
            add(carol, "a-buffer.md", f"- {number}")
            network.sync("carol", "bob")
            network.sync("carol", "alice")
            link.send(0, link.sessions[0].changed())
            link.run()
        assert link.open and link.in_step


@pytest.mark.parametrize("again", [False, True])
def test_a_save_at_the_moment_in_which_we_delete_the_file_is_kept(again):
    """The document was deleted elsewhere; the edit brings it back (SEED=1404262)."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- one\n- two\n")
        network.share()
        (bob.root / "notes.md").unlink()
        network.run("bob")
        network.sync("alice", "bob")
        replace, file = os.replace, alice.root / "notes.md"

        def saved(source, target):
            if Path(source) == file:
                file.write_text("- one\n- two\n- three\n")
            replace(source, target)
            if Path(source) == file and again:
                file.write_text("- one\n- two\n- three and more\n")

        with mock.patch.object(folder.os, "replace", saved):
            assert network.bridge("alice").run().look_again
        assert "- three" in file.read_text()
        network.share()
        assert read(bob, "notes.md") == read(alice, "notes.md")
        assert ("- three and more" if again else "- three") in read(bob, "notes.md").splitlines()
        assert not list(alice.root.glob(f"{folder.TEMPORARY}*"))


def test_a_private_line_that_an_editor_saves_into_what_is_a_text_by_now_is_held():
    """It had the line since before the policy changed; the line stays with the old policy meanwhile (SEED=1408085)."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- tides are told in minutes\n")
        network.run("alice")
        writing.add(alice, "notes.md", "日本 s3cr3t words", level=0)
        network.share()
        save(alice, "replica.toml", LINES)
        network.run("alice")
        network.bridge("alice").reject(["notes.md"])
        network.share()
        assert read(alice, "notes.md") == read(bob, "notes.md") == "- tides are told in minutes\n"
        save(alice, "notes.md", "- tides are told in hours\n- 日本 s3cr3t words, mended\n")
        assert "level 0" in network.run("alice").held["notes.md"]
        network.share()
        assert b"s3cr3t" not in stored_bytes(bob)
        save(alice, "notes.md", "- tides are told in hours\n")
        network.share()
        assert read(bob, "notes.md") == "- tides are told in hours\n" and not network.bridge("alice").held()


def test_an_edit_that_is_held_after_a_crash_stays_held():
    """The process died in the middle of a write, and a person changed the past of a log (SEED=1233773)."""
    met = 0
    for steps in range(1, 16):
        with Network("alice", "bob") as network:
            alice, bob = network["alice"], network["bob"]
            save(alice, "replica.toml", '[[documents]]\nglob = "notes.md"\npolicy = "log"\n')
            save(alice, "notes.md", "- one\n")
            network.share()
            save(bob, "notes.md", "- one\n- two and some more\n")
            network.run("bob")
            network.sync("alice", "bob")
            with suppress(Killed), dying_after(steps):
                network.run("alice")
            alice = network.reopen("alice")
            if "two" not in read(alice, "notes.md"):
                continue
            os.utime(save(alice, "notes.md", "- ONE\n- two and some more\n"), ns=(10**18, 10**18))
            for _ in range(3):
                assert "a log only grows" in network.run("alice").held["notes.md"]
            met += 1
    assert met > 1
