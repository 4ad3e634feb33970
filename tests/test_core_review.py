"""Faults that a review of the core has found, each by name."""

import os
import shutil
import subprocess
import sys
import threading
from unittest import mock

import pytest

from replica import copies, folder, history, paths, writing
from replica.bridge import Bridge
from replica.clone import Clone
from replica.errors import WrongPolicy
from tests.helpers import Network, add, certificate, read, save


def in_another_process(network, name, work) -> threading.Thread:
    """Do `work(clone)` on a second `Clone` of the same folder, as another process would; it may have to wait."""

    def run():
        clone = network.open_again(name)
        try:
            work(clone)
        finally:
            clone.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_two_bridges_of_one_clone_take_turns(monkeypatch):
    """A node and a command run the bridge at once: what one has written is no edit for the other."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "one\n")
        network.share()
        writing.add(bob, "notes.md", "two")
        network.sync_all()
        write_all, others = folder.write_all, []

        def meanwhile(root, writes):
            done = write_all(root, writes)
            if not others:
                others.append(in_another_process(network, "alice", add_and_write))
                others[0].join(0.5)
            return done

        def add_and_write(clone):
            writing.add(clone, "notes.md", "three")
            Bridge(clone, network.clock).run()

        monkeypatch.setattr(folder, "write_all", meanwhile)
        network.bridge("alice").run()
        writing.add(alice, "notes.md", "four")
        others[0].join()
        network.share()
        assert [read(alice, "notes.md").count(word) for word in ("one", "two", "three", "four")] == [1, 1, 1, 1]


def test_processes_of_one_clone_write_each_thing_once(tmp_path):
    """As above with real processes: bridges without a pause, adds, and a person who saves."""
    script = """
import sys, time
from pathlib import Path
from replica import writing
from replica.bridge import Bridge
from replica.clone import Clone
root, who, until = Path(sys.argv[1]), sys.argv[2], time.monotonic() + 2
with Clone.open(root) as clone:
    bridge, n = Bridge(clone), 0
    while time.monotonic() < until:
        n += 1
        if n % 3 == 0:
            writing.add(clone, "notes.md", f"{who}-{n}.")
            writing.add(clone, "a-buffer.md", f"{who}-{n}.")
        bridge.run() if n % 2 else bridge.deliver()
    print(n)
"""
    root = tmp_path / "one"
    with Clone.create(root, "one", "garden", certificate) as clone:
        save(clone, "notes.md", "start\n"), save(clone, "a-buffer.md", "- start\n")
        Bridge(clone).run()
        runs = [subprocess.Popen([sys.executable, "-c", script, root, who], stdout=subprocess.PIPE) for who in "abc"]
        counts = [int(run.communicate(timeout=30)[0]) for run in runs]
        Bridge(clone).run(wait=True)
        for path in ("notes.md", "a-buffer.md"):
            words = read(clone, path).split()
            for who, count in zip("abc", counts, strict=True):
                for n in range(3, count + 1, 3):
                    assert words.count(f"{who}-{n}.") == 1, (path, who, n)


@pytest.mark.parametrize("there", [0, 1])
def test_what_is_added_to_a_text_whose_level_has_changed_stands_there(there):
    """`replica add` before the next save: the twin of the new level did not exist, and the words were gone."""
    rule = '[[documents]]\nglob = "notes.md"\npolicy = "text"\nlevel = {}\n'
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", rule.format(1 - there))
        save(alice, "notes.md", "one\n")
        network.share()
        save(alice, "replica.toml", rule.format(there))
        network.run("alice")
        writing.add(alice, "notes.md", "two")
        network.share()
        assert read(alice, "notes.md") == "one\n\ntwo\n"
        assert alice.text("notes.md") == "one\n\ntwo\n"
        if there == 1:
            assert bob.text("notes.md") == "one\n\ntwo\n"
        else:
            assert "two" not in bob.text("notes.md")


def test_a_text_that_is_shared_again_takes_nothing_from_the_others():
    """Level 1, then 0, then 1: what others wrote in between was never seen here, and is not ours to remove."""
    rule = '[[documents]]\nglob = "notes.md"\npolicy = "text"\nlevel = {}\n'
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", rule.format(1))
        save(alice, "notes.md", "one\n")
        network.share()
        save(alice, "replica.toml", rule.format(0))
        network.run("alice")
        save(alice, "notes.md", "one\nmine\n")
        network.run("alice")
        bob.edit_text("notes.md", new="one\nbob's\n")
        network.sync_all()
        save(alice, "replica.toml", rule.format(1))
        network.run("alice")
        save(alice, "notes.md", "one\nmine\nmore\n")
        network.run("alice")
        network.share()
        assert "bob's" in bob.text("notes.md") and "more" in bob.text("notes.md")
        assert alice.digest() == bob.digest()


def test_a_deletion_takes_away_only_what_the_file_has_shown(monkeypatch):
    """A file that could not be written lacks what others added: to delete it is not to delete that."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", "- one\n")
        network.share()
        add(bob, "a-buffer.md", "- two")
        network.sync_all()

        def full(root, writes):
            return [PermissionError(13, "no") for _ in writes]

        monkeypatch.setattr(folder, "write_all", full)
        save(alice, "a-buffer.md", "- one\n- three\n")
        network.run("alice")
        monkeypatch.undo()
        (alice.root / "a-buffer.md").unlink()
        network.run("alice")
        network.share()
        assert "two" in read(bob, "a-buffer.md")


def test_a_change_of_policy_heard_of_by_a_running_node_is_no_crash():
    rule = '[[documents]]\nglob = "notes.md"\npolicy = "{}"\n'
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", rule.format("union"))
        save(alice, "notes.md", "- one\n")
        network.share()
        save(bob, "notes.md", "- one\n\n\n")
        network.share()
        running = network.bridge("bob")
        running.run()
        save(alice, "replica.toml", rule.format("text"))
        network.run("alice")
        save(alice, "notes.md", "- one\n- two\n")
        network.run("alice")
        network.sync_all()
        running.deliver()
        network.share()
        assert "two" in read(bob, "notes.md")
        assert alice.digest() == bob.digest()


def test_what_arrives_while_the_bridge_writes_is_not_forgotten(monkeypatch):
    """Another process commits during a run; the node's next `deliver` must write it."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        save(alice, "a-buffer.md", "- one\n")
        network.share()
        running = network.bridge("alice")
        write_all = running.delivery.write_all

        def then_another(due, report, since=0):
            write_all(due, report, since)
            if since == 0:
                with network.open_again("alice") as other:
                    writing.add(other, "a-buffer.md", "two")

        monkeypatch.setattr(running.delivery, "write_all", then_another)
        running.run()
        running.deliver()
        assert "two" in read(alice, "a-buffer.md")


def test_a_save_within_the_clocks_tick_is_seen():
    """Two saves of one size in one tick of the file system's clock look alike from outside."""
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "a-buffer.md", "- one\n")
        network.run("alice")
        with mock.patch.object(folder, "TICK", 3_600 * 10**9):  # however long this test is kept waiting
            save(alice, "a-buffer.md", "- two\n")
            info = (alice.root / "a-buffer.md").stat()
            network.run("alice")
        with open(alice.root / "a-buffer.md", "r+b") as file:
            file.write(b"- six\n")
        os.utime(alice.root / "a-buffer.md", ns=(info.st_atime_ns, info.st_mtime_ns))
        network.run("alice")
        assert [e.text for e in alice.entries("a-buffer.md")] == ["- six"]


def test_what_is_rejected_at_once_is_kept_apiece():
    with Network("alice") as network:
        alice, bridge = network["alice"], network.bridge("alice")
        (alice.root / ".replica" / "rejected").mkdir()
        bridge.holds.set_aside("a/b.md", b"one")
        bridge.holds.set_aside("a-b.md", b"two")
        bridge.holds.set_aside("x" * 300 + ".md", b"three")
        kept = sorted(file.read_bytes() for file in (alice.root / ".replica" / "rejected").iterdir())
        assert kept == [b"one", b"three", b"two"]


def test_a_text_of_level_0_is_not_published_by_restoring_it():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        rule = '[[documents]]\nglob = "notes.md"\npolicy = "text"\nlevel = {}\n'
        save(alice, "replica.toml", rule.format(1))
        save(alice, "notes.md", "one\n")
        network.share()
        save(alice, "replica.toml", rule.format(0))
        for content in ("one\nsecret\n", "one\nother\n"):
            network.now += 1_000
            save(alice, "notes.md", content)
            network.share()
        network.now += 1_000
        assert history.restore(alice, "notes.md", history.before_last(alice, "notes.md"))
        network.share()
        assert alice.text("notes.md") == "one\nsecret\n"
        assert bob.text("notes.md") == "one\n"
        past = history.before_last(alice, "notes.md")
        save(alice, "replica.toml", rule.format(1))
        network.run("alice")
        save(alice, "notes.md", "one\npublic\n")
        network.share()
        assert bob.text("notes.md") == "one\npublic\n"
        with pytest.raises(WrongPolicy):
            history.restore(alice, "notes.md", past)


def test_a_copy_that_two_processes_open_at_once_gets_one_identity(tmp_path, monkeypatch):
    with Clone.create(tmp_path / "one", "one", "garden", certificate) as clone:
        clone.edit_text("n.md", new="shared\n")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    branch_off = copies._branch_off

    def both(clone, original, certify):
        monkeypatch.setattr(copies, "_branch_off", branch_off)
        Clone.open(clone.root, certify=certify).close()
        return branch_off(clone, original, certify)

    monkeypatch.setattr(copies, "_branch_off", both)
    with Clone.open(tmp_path / "two", certify=certificate) as copy:
        id = copy.identity.id
        copy.edit_text("n.md", new="shared\nmore\n")
    with Clone.open(tmp_path / "two") as again:
        assert again.identity.id == id and again.name == "one-copy" and again.vector()[id] == 2


def test_a_live_change_asks_nothing_of_the_other_files(monkeypatch):
    """With 10,000 documents a change to one must not read what is remembered of all."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(20):
            save(alice, f"n{n}-buffer.md", "- one\n")
        network.share()
        running = network.bridge("bob")
        running.run()
        folded = []
        fold = paths.clash_key
        monkeypatch.setattr(paths, "clash_key", lambda path: folded.append(path) or fold(path))
        add(alice, "n3-buffer.md", "- two")
        network.sync_all()
        statements = []
        bob.store._db.set_trace_callback(statements.append)
        assert running.deliver().written == ["n3-buffer.md"]
        save(bob, "n3-buffer.md", "- one\n- two\n- three\n")
        assert running.collect({"n3-buffer.md"}).taken == ["n3-buffer.md"]
        bob.store._db.set_trace_callback(None)
        whole = [sql for sql in statements if "FROM files" in sql and "WHERE path=" not in sql]
        assert whole == [] and set(folded) <= {"n3-buffer.md"}
