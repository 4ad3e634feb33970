"""What a process that dies must not leave behind. Each of these was found by tests/crash; here it is in one process."""

import asyncio
import os

import pytest

from cli.main import main
from replica import folder
from replica.clone import Clone
from replica.errors import DiskFull, PairingError, WrongCode
from replica.files.bases import Bases
from replica.files.saves import Saves
from replica.keys import Identity
from replica.places import FOLDER, JOINING, STORE
from tests.helpers import Network, add, assert_same, certificate, read, save
from tests.test_node import founder, running
from transport.codes import words
from transport.inviting import invite, join


class Died(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def dies(*_arguments, **_options):
    raise Died


def written_then_dead(monkeypatch):
    """The process writes its files and dies before it can note that."""
    write_all = folder.write_all

    def writing(*arguments):
        write_all(*arguments)
        raise Died

    monkeypatch.setattr(folder, "write_all", writing)


# --- files


def test_what_a_killed_process_had_half_written_is_swept_up():
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "sub/notes.md", "one\n")
        network.run("alice")
        left = [save(alice, f"{place}.replica-new-77-notes.md", "on") for place in ("", "sub/")]
        assert network.run("alice").quiet
        assert not any(file.exists() for file in left) and read(alice, "sub/notes.md") == "one\n"


@pytest.mark.parametrize("path", ["notes.md", "a-buffer.md"])
@pytest.mark.parametrize("died", ["before the file was written", "after it"])
def test_an_edit_after_a_crash_in_the_middle_of_a_write_is_taken_in_once(monkeypatch, path, died):
    """The file holds neither what it was nor what we were about to write: it was edited since."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- one\n- two\n- three\n")
        network.share()
        save(bob, path, "- by bob\n- more by bob\n- one\n- two\n- three\n")
        network.run("bob")
        network.sync("alice", "bob")
        written_then_dead(monkeypatch) if died == "after it" else monkeypatch.setattr(folder, "write_all", dies)
        with pytest.raises(Died):
            network.run("alice")
        monkeypatch.undo()
        network.reopen("alice")
        alice = network["alice"]
        save(alice, path, read(alice, path).replace("- two\n", "") + "- by hand\n")
        network.share()
        expected = "- by bob\n- more by bob\n- one\n- three\n- by hand\n"
        assert read(alice, path) == read(bob, path) == expected


def test_a_save_that_crossed_our_write_is_judged_by_what_it_was_made_from(monkeypatch):
    """Nobody died: the write was given up, so what it would have held is no base."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "one\n")
        network.share()
        save(bob, "notes.md", "one\nby bob, and a good deal longer\n")
        network.run("bob")
        network.sync("alice", "bob")
        replacing = folder._replace

        def crossed(root, write, beside):
            save(alice, "notes.md", "one\nby alice, and a good deal longer\n")
            return replacing(root, write, beside)

        monkeypatch.setattr(folder, "_replace", crossed)
        assert network.bridge("alice").run().look_again
        monkeypatch.undo()
        network.share()
        for line in ("one", "by bob, and a good deal longer", "by alice, and a good deal longer"):
            assert read(alice, "notes.md").split("\n").count(line) == 1
        assert_same(alice, bob)


@pytest.mark.parametrize("policies", [("text", "union"), ("union", "text")])
def test_a_crash_while_a_policy_changes_doubles_nothing(monkeypatch, policies):
    def rules(policy):
        return f'[[documents]]\nglob = "notes.md"\npolicy = "{policy}"\n'

    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", rules(policies[0]))
        save(alice, "notes.md", "- one\n- two\n")
        network.share()
        save(bob, "notes.md", "- by bob\n- one\n- two\n")
        network.run("bob")
        network.sync("alice", "bob")
        save(alice, "notes.md", "- one\n- two\n- by hand\n")
        save(alice, "replica.toml", rules(policies[1]))
        written_then_dead(monkeypatch)
        with pytest.raises(Died):
            network.run("alice")
        monkeypatch.undo()
        assert read(network["alice"], "notes.md") == "- by bob\n- one\n- two\n- by hand\n"
        network.reopen("alice")
        network.share()
        assert read(network["alice"], "notes.md") == read(bob, "notes.md") == "- by bob\n- one\n- two\n- by hand\n"
        assert network["alice"].document("notes.md").policy == policies[1]


def test_the_old_document_does_not_end_while_it_has_news_that_the_file_lacks(monkeypatch):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "one\n")
        network.share()
        save(alice, "replica.toml", '[[documents]]\nglob = "notes.md"\npolicy = "union"\n')
        bob.edit_text("notes.md", new="one\nby bob\n")
        show_all = Saves._show_all

        def late(*arguments):
            shown = show_all(*arguments)
            network.sync("alice", "bob")
            return shown

        monkeypatch.setattr(Saves, "_show_all", late)
        assert network.bridge("alice").run().look_again
        monkeypatch.undo()
        network.share()
        assert "by bob" in read(alice, "notes.md") and "by bob" in read(bob, "notes.md")


def test_names_are_on_the_disk_before_the_store_says_so(monkeypatch):
    """A power cut must not bring back the old file, or one that was deleted: it would be read as a person's save."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(bob, "deep/er/new.md", "new\n")
        network.run("bob")
        network.sync("alice", "bob")
        order = []
        real = {name: getattr(os, name) for name in ("fsync", "replace")}

        def flush(handle):
            order.append(("flush", os.readlink(f"/proc/self/fd/{handle}")))
            real["fsync"](handle)

        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "replace", lambda *paths: (order.append(("replace",)), real["replace"](*paths)))
        put = Bases.put

        def noted(*arguments):
            order.append(("noted",))
            put(*arguments)

        monkeypatch.setattr(Bases, "put", noted)
        network.bridge("alice").run()
        monkeypatch.undo()
        file = order.index(("replace",))
        for place in (alice.root / "deep/er", alice.root / "deep", alice.root):
            assert file < order.index(("flush", str(place))) < order.index(("noted",), file)


# --- workspaces


def test_a_workspace_without_its_founder_does_not_come_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(Clone, "ingest", dies)
    with pytest.raises(Died):
        Clone.create(tmp_path, "alice", "garden", certificate)
    monkeypatch.undo()
    assert not (tmp_path / FOLDER / STORE).exists()
    with Clone.create(tmp_path, "alice", "garden", certificate) as clone:
        assert [member["name"] for member in clone.members()] == ["alice"]


def test_init_can_be_repeated_until_there_is_a_clone(tmp_path, monkeypatch, capsys):
    (tmp_path / "memory-bank").mkdir()
    (tmp_path / "memory-bank" / "activeContext.md").write_text("Now.\n")
    from cli.life import _Made

    monkeypatch.setattr(Clone, "create", dies)
    monkeypatch.setattr(_Made, "undo", lambda made: None)  # a killed process tidies nothing up
    with pytest.raises(Died):
        main(["init", str(tmp_path), "--name", "alice"])
    monkeypatch.undo()
    there = (tmp_path / "replica.toml").read_text()
    assert main(["init", str(tmp_path), "--name", "alice"]) == 0
    assert (tmp_path / "replica.toml").read_text() == there


def test_a_clone_that_died_before_its_first_sync_keeps_its_files_until_then():
    with Network("alice") as network:
        add(network["alice"], "a-buffer.md", "- by alice")
        bob = network.add("bob")
        save(bob, "a-buffer.md", "- was here before\n")
        assert network.run("bob").quiet and read(bob, "a-buffer.md") == "- was here before\n"
        assert network.bridge("bob").collect(["a-buffer.md"]).quiet
        network.share()
        for clone in network.clones.values():
            assert set(read(clone, "a-buffer.md").split("\n")) == {"- by alice", "- was here before", ""}


# --- joining


WRONG = "-".join(["1", *words()[:3]])  # a code that can be one, and is not


@pytest.fixture
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


async def joined(alice, root, *, code=None):
    """Invite and join once; whatever the join raises is raised. Returns the new clone's id."""
    async with running(alice) as node:
        invitation = invite(node, 60)
        told = await anext(invitation)
        coming = asyncio.ensure_future(anext(invitation))
        try:
            clone = await join(code or told["code"], root, "bob", [("127.0.0.1", told["port"])])
            clone.close()
            return clone.identity.id
        finally:
            await asyncio.wait({coming}, timeout=0.2)  # it may have an error of its own to tell
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await invitation.aclose()


def names(clone):
    return [member["name"] for member in clone.members() if member["removed_by"] is None]


def test_a_join_that_dies_after_the_proof_is_repeated_by_the_same_member(tmp_path, monkeypatch, on_loopback):
    alice, root = founder(tmp_path), tmp_path / "made" / "bob"

    def full(*_arguments, **_options):
        raise DiskFull("the disk is full")

    monkeypatch.setattr(Clone, "adopt", full)
    with pytest.raises(DiskFull):
        asyncio.run(joined(alice, root))
    monkeypatch.undo()
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")
    assert names(alice) == ["alice", "bob"] and (root / FOLDER / JOINING).is_file()
    with pytest.raises(WrongCode):  # a slip on the way says nothing of the first time
        asyncio.run(joined(alice, root, code=WRONG))
    asyncio.run(joined(alice, root))
    assert names(alice) == ["alice", "bob"] and not (root / FOLDER / JOINING).exists()


def test_a_refused_join_leaves_the_folder_as_it_was(tmp_path, on_loopback):
    alice = founder(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    for root in (here, tmp_path / "new" / "one"):
        with pytest.raises(WrongCode):
            asyncio.run(joined(alice, root, code=WRONG))
    assert list(here.iterdir()) == [] and not (tmp_path / "new").exists() and names(alice) == ["alice"]


def test_a_phantom_that_was_removed_joins_with_a_new_key(tmp_path, on_loopback):
    alice, root = founder(tmp_path), tmp_path / "bob"
    identity = Identity.new()
    (root / FOLDER).mkdir(parents=True)
    identity.save(root / FOLDER / JOINING)
    from transport import tls

    alice.admit(identity.public, tls.make_certificate(identity.private), "bob")
    alice.remove("bob")
    with pytest.raises(PairingError):
        asyncio.run(joined(alice, root))
    assert not (root / FOLDER / JOINING).exists()
    assert asyncio.run(joined(alice, root)) != identity.id
    assert len(names(alice)) == 2
