"""The SQLite file: all of a transaction or nothing, errors that name the file, and what is not ours left alone."""

import hashlib
import os
import sqlite3

import pytest

from replica import changes, store
from replica.clone import Clone
from replica.errors import DiskFull, NotAClone, StoreError, UnknownSchema
from replica.places import FOLDER, STORE
from replica.store import Store
from tests.helpers import Network, add, assert_same, certificate, read, save


def hashes(folder) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.is_file()}


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    made = Store.create(tmp_path / "store.db")
    with pytest.raises(RuntimeError), made.transaction():
        made.set_meta("one", 1)
        with made.transaction():
            made.set_meta("two", 2)
        raise RuntimeError
    assert made.meta("one") is None and made.meta("two") is None
    with made.transaction():
        made.set_meta("one", 1)
    made.close()
    again = Store.open(tmp_path / "store.db")
    assert again.meta("one") == 1
    again.close()


def test_what_is_committed_was_flushed(tmp_path):
    """FAILURES 16: a write-ahead log alone is not enough; `synchronous=FULL` makes a commit durable."""
    made = Store.create(tmp_path / "store.db")
    assert made.value("PRAGMA synchronous") == 2 and made.value("PRAGMA journal_mode") == "wal"
    made.close()


@pytest.mark.parametrize("version", [0, store.SCHEMA_VERSION + 1, 99])
def test_a_store_of_another_schema_is_refused_and_not_touched(version):
    """FAILURES 20."""
    with Network("alice") as network:
        alice = network["alice"]
        add(alice, "a-buffer.md", "- kept")
        alice.close()
        folder = alice.root / FOLDER
        with sqlite3.connect(folder / STORE) as other:
            other.execute(f"PRAGMA user_version={version}")
        other.close()
        before = hashes(folder)
        with pytest.raises(UnknownSchema, match=f"version {version}"):
            Clone.open(alice.root)
        assert hashes(folder) == before


def test_a_file_that_is_no_store_is_refused_and_not_touched(tmp_path):
    file = tmp_path / "store.db"
    for content in (b"not a database at all, but long enough to be looked at by SQLite", bytes(4096)):
        file.write_bytes(content)
        with pytest.raises(StoreError):
            Store.open(file)
        assert file.read_bytes() == content


def test_a_folder_without_a_store_is_no_clone(tmp_path):
    with pytest.raises(NotAClone):
        Clone.open(tmp_path)
    with pytest.raises(StoreError, match="missing"):
        Store.open(tmp_path / "store.db")
    assert not list(tmp_path.iterdir())


def test_a_clone_whose_making_was_cut_short_can_be_made_again(tmp_path, monkeypatch):
    root = tmp_path / "clone"
    replace = os.replace

    def cut_before_the_last_step(source, target):
        if target.name == STORE:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("replica.clone.os.replace", cut_before_the_last_step)
        with pytest.raises(KeyboardInterrupt):
            Clone.create(root, "alice", "team", certificate)
    with pytest.raises(NotAClone):
        Clone.open(root)
    Clone.create(root, "alice", "team", certificate).close()


def test_a_key_and_a_store_of_different_clones_do_not_open_together():
    """A backup put back in parts would write on under a wrong name (FAILURES 3)."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        (alice.root / FOLDER / "identity").write_bytes((bob.root / FOLDER / "identity").read_bytes())
        with pytest.raises(StoreError, match="different clones"):
            Clone.open(alice.root)


def test_a_full_disk_undoes_the_whole_change_and_says_so():
    with Network("alice", "bob") as network:
        alice = network["alice"]
        add(alice, "a-buffer.md", "- before")
        digest, vector = alice.digest(), alice.vector()
        pages = alice.store.value("PRAGMA page_count")
        alice.store.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(DiskFull):
            alice.edit_text("notes.md", new="x" * 500_000)
        alice.store.execute("PRAGMA max_page_count=1000000")
        assert (alice.digest(), alice.vector()) == (digest, vector)
        alice.edit_text("notes.md", new="now there is room\n")
        network.sync("alice", "bob")
        assert_same(alice, network["bob"])


def test_a_write_that_fails_half_way_through_a_batch_keeps_nothing_in_memory_either(monkeypatch):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        bob.edit_text("notes.md", new="one\n")
        bob.edit_text("notes.md", new="one\ntwo 🧠\n")
        add(bob, "a-buffer.md", "- three")
        with monkeypatch.context() as patch:
            patch.setattr(type(alice.materialiser), "flush", lambda self: (_ for _ in ()).throw(DiskFull("full")))
            with pytest.raises(DiskFull):
                network.sync("alice", "bob")
        assert alice.documents.all() == []
        network.sync("alice", "bob")
        assert alice.text("notes.md") == "one\ntwo 🧠\n"
        assert_same(alice, bob)


def test_stored_texts_are_a_cache_and_deleting_them_loses_nothing():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(5):
            alice.edit_text("notes.md", new=f"{n} 🧠\n" * (n + 1))
            network.sync("alice", "bob")
            bob.edit_text("notes.md", new=bob.text("notes.md") + f"bob {n}\n")
            network.sync("alice", "bob")
        digest, text = alice.digest(), alice.text("notes.md")
        alice.store.execute("DELETE FROM texts")
        alice = network.reopen("alice")
        with alice.transaction():
            alice.store.execute("UPDATE documents SET digest=NULL")
            alice.store.set_meta("digest", None)
        assert alice.text("notes.md") == text and alice.digest() == digest
        alice.edit_text("notes.md", new=text + "on\n")
        network.sync("alice", "bob")
        assert_same(alice, bob)


def test_a_store_that_another_process_holds_is_called_busy(monkeypatch):
    monkeypatch.setattr(store, "BUSY_TIMEOUT", 0.0)
    with Network("alice") as network:
        other = network.open_again("alice")
        alice = network.reopen("alice")
        with other.transaction(), pytest.raises(StoreError, match="busy"):
            add(alice, "a-buffer.md", "- x")
        add(alice, "a-buffer.md", "- x")
        other.close()


def test_a_private_key_is_readable_by_its_owner_only():
    with Network("alice") as network:
        folder = network["alice"].root / FOLDER
        assert folder.stat().st_mode & 0o077 == 0
        for name in ("identity", "identity.private"):
            assert (folder / name).stat().st_mode & 0o077 == 0


def test_limits_of_a_change_hold_for_our_own_too():
    with Network("alice") as network, pytest.raises(changes.InvalidChange):
        add(network["alice"], "a-buffer.md", "x" * changes.MAX_BODY)


def test_the_folder_of_a_clone_tells_git_to_leave_it_alone():
    with Network("alice") as network:
        assert read(network["alice"], ".replica/.gitignore") == "*\n"
        save(network["alice"], "notes.md", "x\n")
        network.run("alice")
