"""What broke where identities, backups and copies of a clone were taken for something else than they are."""

import shutil

import pytest

from replica.bridge import SECOND_LOOK
from replica.clone import Clone
from replica.errors import StoreError
from replica.places import FOLDER
from tests.failures import PATHS, back_up, roll_back
from tests.helpers import Network, add, assert_same, batches, certificate, read, save, shared_content, talk
from transport.session import Bye, Changes, Ended, Session, State


def test_failure_12_a_store_without_its_files_is_no_mass_deletion():
    """A database restored without its files deleted them everywhere: here they wait for a person."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for path in PATHS:
            save(alice, path, "- one\n")
        network.share()
        for path in PATHS:
            (alice.root / path).unlink()
        for _ in range(3):
            network.now += SECOND_LOOK
            report = network.bridge("alice").run()
            assert set(report.held) == set(PATHS) and not report.deleted
        network.share()
        assert len(shared_content(bob)) == 4 and read(bob, "notes.md") == "- one\n"
        network.bridge("alice").reject([])
        assert read(alice, "notes.md") == "- one\n"


def test_failure_12_files_without_their_store_join_again_and_double_nothing():
    """Files restored without their database came as new ones, or as deletions: here joining again finds them equal."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for path in PATHS:
            save(alice, path, "# H\n\n- one\n- two\n")
        network.share()
        carol = network.add("carol")
        for path in PATHS:
            save(carol, path, read(bob, path))
        network.sync("alice", "carol")
        network.share()
        for path in PATHS:
            assert read(alice, path) == read(carol, path) == "# H\n\n- one\n- two\n"
        assert_same(alice, bob, carol)


def test_failure_12_a_backup_of_the_whole_folder_brings_old_files_back_as_no_edit():
    """Old files beside an old database went out as new edits: here both are one past, and get the rest."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for path in PATHS:
            save(alice, path, "- one\n")
        network.share()
        alice.store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copytree(alice.root, network.folder / "image")
        for path in PATHS:
            save(alice, path, "- one\n- two\n")
        network.share()
        alice.close()
        shutil.rmtree(alice.root)
        shutil.move(network.folder / "image", alice.root)
        network.clones["alice"] = Clone.open(alice.root, now_ms=network.clock)
        network.sync("alice", "bob")
        network.share()
        for clone in network.clones.values():
            assert all(read(clone, path) == "- one\n- two\n" for path in PATHS)
        assert_same(*network.clones.values())


def test_failure_13_a_clone_without_its_history_cannot_write():
    """Writing before one's own history was there forked an identity for good: here nothing can be written."""
    with Network("alice") as network:
        carol = network.add("carol")
        with pytest.raises(Exception, match="has not received its workspace"):
            add(carol, "a-buffer.md", "- too early")
        network.sync("alice", "carol")
        add(carol, "a-buffer.md", "- in time")
        network.sync("alice", "carol")


def test_failure_13_a_restored_clone_goes_on_behind_all_that_it_had_said():
    """A feed went on before its own newest part was back, and was split for good: here its numbers go on from there."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        back_up(alice)
        for n in range(5):
            add(alice, "a-buffer.md", f"- {n}")
        network.sync("alice", "bob")
        said = alice.vector()[alice.identity.id]
        alice = roll_back(network, "alice")
        assert alice.vector()[alice.identity.id] == said - 5
        network.sync("alice", "bob")
        (stored,) = alice.edit_text("notes.md", new="after the restore\n")
        assert stored.change.seq == said + 1
        network.sync("alice", "bob")
        assert_same(alice, network["bob"])


def test_failure_14_a_copied_folder_is_another_clone_from_its_first_start_on():
    """People copy folders, and two machines went on as one identity: here the copy takes an identity of its own."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "one\n"), save(alice, "a-buffer.md", "- one\n")
        network.share()
        copied = network.folder / "copied"
        shutil.copytree(alice.root, copied)
        with pytest.raises(StoreError, match="copy"):
            Clone.open(copied)  # by whom cannot give it an identity
        copy = network.clones["copy"] = Clone.open(copied, certify=certificate, now_ms=network.clock)
        assert copy.copy_of == alice.root and copy.identity.id != alice.identity.id
        alice.log.refresh()
        save(copy, "a-buffer.md", "- one\n- on the copy\n"), save(alice, "a-buffer.md", "- one\n- on the original\n")
        network.share()
        for clone in (alice, bob, copy):
            assert sorted(read(clone, "a-buffer.md").splitlines()) == ["- on the copy", "- on the original", "- one"]
        assert_same(alice, bob, copy)


def test_failure_14_a_clone_in_a_git_work_tree_is_not_carried_along_by_git():
    """A work tree carried a clone's database along: here the folder with it tells git to leave it alone."""
    with Network("alice") as network:
        assert (network["alice"].root / FOLDER / ".gitignore").read_text() == "*\n"


def test_failure_15_a_removed_member_does_not_come_back_through_a_third():
    """Removed devices came back through a third that had not heard of it: here the removal travels, and outranks."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        alice.remove("carol")
        add(carol, "a-buffer.md", "- by carol")
        network.sync("bob", "carol")
        network.sync("alice", "bob")
        for clone in (alice, bob):
            assert carol.identity.id not in clone.trusted()
            assert any(isinstance(event, Ended) and "removed" in event.reason for event in talk(clone, carol))
        before = bob.vector()
        add(carol, "a-buffer.md", "- later")
        talk(bob, carol)
        assert bob.vector() == before


def test_failure_15_a_removed_member_that_does_not_obey_is_not_listened_to():
    """A removed device simply went on: here who removed it takes nothing from it, whatever it believes."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        hello = Session(bob, alice.identity.id).open()
        alice.remove("bob")
        add(bob, "a-buffer.md", "- by one who goes on")
        session, before = Session(alice, bob.identity.id), alice.vector()
        assert all(isinstance(message, Bye) for message in session.open())
        live = Session(alice, bob.identity.id)  # the connection was there before
        for message in (*hello, Changes(tuple(next(batches(bob, alice.vector()))))):
            if live.state is not State.CLOSED:
                assert all(isinstance(reply, Bye) for reply in live.receive(message))
        assert live.state is State.CLOSED and alice.vector() == before
