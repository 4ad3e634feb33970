"""What has broken systems like ours, one named test for each line that needs no socket to be shown.

The numbers are those of the list of failures that this program was designed against; the laws behind them are in
the tests of their modules, here they are told as what happens to a person.
"""

import os
import shutil
import sqlite3
from itertools import pairwise

import pytest

from replica import changes, clock, log
from replica.bridge import SECOND_LOOK, Bridge
from replica.changes import Kind, Signed
from replica.clone import Clone
from replica.errors import Fork, InvalidChange, MissingDependency, PeerError, UnknownSchema
from replica.places import FOLDER, STORE
from replica.store import Store
from replica.text import client_id
from tests.helpers import (
    START,
    Link,
    Network,
    add,
    assert_same,
    batches,
    entry,
    forged,
    history,
    read,
    save,
    shared_content,
    talk,
)  # fmt: skip
from transport.session import Ack, Ended

PATHS = ("a-buffer.md", "activeContext.md", "SESSION_LOG.md", "notes.md")


def back_up(clone: Clone) -> None:
    """Copy the store aside, as a backup or a disk image does."""
    clone.store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(clone.root / FOLDER, clone.root.with_name("backup"))


def roll_back(network: Network, name: str) -> Clone:
    network[name].close()
    shutil.rmtree(network[name].root / FOLDER)
    shutil.copytree(network[name].root.with_name("backup"), network[name].root / FOLDER)
    network.clones[name] = Clone.open(network[name].root, now_ms=network.clock)
    return network[name]


# --- the CRDT engine


def test_01_a_flipped_bit_never_enters_a_store():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        bob.edit_text("notes.md", new="some words 🧠\n")
        body, signature = history(bob)[-1]
        for at in range(len(body) * 8):
            flipped = bytearray(body)
            flipped[at // 8] ^= 1 << at % 8
            with pytest.raises(PeerError):
                alice.ingest([Signed(bytes(flipped), signature)])
        assert alice.documents.all() == []
        network.sync("alice", "bob")
        assert_same(alice, bob)


def test_02_equal_is_said_of_content_and_a_deletion_counts():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_text("notes.md", new="keep delete keep\n")
        network.sync("alice", "bob")
        alice.edit_text("notes.md", [(4, 11, "")])
        assert alice.vector() != bob.vector() and alice.digest() != bob.digest()
        network.sync("alice", "bob")
        assert bob.text("notes.md") == "keep keep\n"


@pytest.mark.parametrize("path", ["notes.md", "a-buffer.md"])
def test_03_a_restored_backup_that_writes_on_is_found_out_and_overwrites_nothing(path):
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))

        def write(clone, text):
            if path == "notes.md":
                clone.edit_text(path, new=text)
            else:
                add(clone, path, f"- {text}")

        back_up(alice)
        write(alice, "first life\n")
        network.sync("alice", "bob")
        alice = roll_back(network, "alice")
        write(alice, "second life\n")
        with pytest.raises(Fork, match="alice wrote two different changes"):
            bob.ingest(next(batches(alice)))
        before = shared_content(bob)
        talk(alice, bob)
        assert shared_content(bob) == before and "first life" in bob.text(path)
        assert "second life" in alice.text(path)
        network.sync("bob", "carol")
        assert_same(bob, carol)


def test_03_a_restored_backup_that_meets_a_peer_first_gets_its_own_past_back():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        back_up(alice)
        alice.edit_text("notes.md", new="first life\n")
        network.sync("alice", "bob")
        alice = roll_back(network, "alice")
        network.sync("alice", "bob")
        assert alice.text("notes.md") == "first life\n"
        alice.edit_text("notes.md", new="first life\nand on\n")
        network.sync("alice", "bob")
        assert_same(alice, bob)


def test_05_a_change_with_a_gap_before_it_is_refused_and_comes_whole_later():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(4):
            bob.edit_text("notes.md", new="".join(f"{k} 🧠\n" for k in range(n + 1)))
        *_, third, fourth = history(bob)
        for batch in ([fourth], [fourth, third], [third]):
            with pytest.raises(MissingDependency):
                alice.ingest(batch)
        assert alice.log.last_row() == 2  # who founded the workspace, and who came to it
        network.sync("alice", "bob")
        assert alice.text("notes.md") == bob.text("notes.md")


@pytest.mark.parametrize("path", PATHS)
def test_07_the_same_file_imported_everywhere_is_there_once(path):
    with Network("alice", "bob", "carol") as network:
        for clone in network.clones.values():
            save(clone, path, "# Head\n\n- one 🧠\n- one 🧠\n- two\n")
        network.share()
        for clone in network.clones.values():
            assert read(clone, path) == "# Head\n\n- one 🧠\n- one 🧠\n- two\n"
            assert clone.documents.all_conflicts() == []


def test_07_an_edit_beside_a_deletion_of_the_document_survives():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- old")
        network.sync("alice", "bob")
        alice.delete(alice.document("a-buffer.md"))
        add(bob, "a-buffer.md", "- concurrent")
        network.sync("alice", "bob")
        assert alice.text("a-buffer.md") == bob.text("a-buffer.md") == "- concurrent\n"


def test_09_a_clone_writes_under_one_client_id_however_often_it_starts():
    with Network("alice", "bob") as network:
        for n in range(12):
            clone = network.reopen("alice")
            clone.edit_text("notes.md", new="x\n" if n == 0 else clone.text("notes.md") + f"{n}\n")
        network.sync("alice", "bob")
        doc = network["bob"].documents.find("notes.md", "text").shared
        clients = set(network["bob"].materialiser.engine(doc).vector())
        assert client_id(network["alice"].identity.id, "notes.md") in clients
        assert len(clients) == 2  # and that of the first import


# --- identity, backups, copies


def test_12_a_store_without_its_files_is_no_mass_deletion():
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


def test_12_files_without_their_store_join_again_and_double_nothing():
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


def test_13_a_clone_without_its_history_cannot_write():
    with Network("alice") as network:
        carol = network.add("carol")
        with pytest.raises(Exception, match="has not received its workspace"):
            add(carol, "a-buffer.md", "- too early")
        network.sync("alice", "carol")
        add(carol, "a-buffer.md", "- in time")
        network.sync("alice", "carol")


def test_15_a_removed_member_does_not_come_back_through_a_third():
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


# --- durability


def test_16_an_acknowledgement_leaves_after_the_commit_and_says_no_more_than_it(monkeypatch):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        link = Link(alice, bob)
        link.run()
        add(alice, "a-buffer.md", "- one")
        link.send(0, link.sessions[0].changed())
        link.deliver(1)
        (ack,) = [message for message in link.queues[0] if isinstance(message, Ack)]
        other = sqlite3.connect(bob.store.path)  # sees what is committed only
        held = other.execute("SELECT seq FROM authors WHERE id=?", (alice.identity.id,)).fetchone()[0]
        other.close()
        assert ack.vector[alice.identity.id] == held == alice.vector()[alice.identity.id]
        link.run()
        add(alice, "a-buffer.md", "- two")
        link.send(0, link.sessions[0].changed())
        monkeypatch.setattr(type(bob.materialiser), "flush", lambda self: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError):
            link.deliver(1)
        assert link.sessions[0].behind == 1 and not link.queues[0]


@pytest.mark.parametrize("damage", [b"\xff", b"", b"\0\0", b"\x80\x80\x80\x80\x01"])
def test_17_a_stored_text_that_is_damaged_is_made_anew_from_the_log_and_never_taken_for_empty(damage):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "precious\n"), save(alice, "other.md", "x\n")
        network.share()
        alice.edit_text("notes.md", new="precious\nmore\n")
        alice.store.execute("UPDATE texts SET state=?, change=change-1", (damage,))
        alice = network.reopen("alice")
        assert alice.text("notes.md") == "precious\nmore\n"
        alice = network.reopen("alice")
        alice.edit_text("notes.md", new="precious\nmore\nstill\n")
        bob.edit_text("other.md", new="x\ny\n")
        network.share()
        assert read(alice, "notes.md") == read(bob, "notes.md") == "precious\nmore\nstill\n"
        assert_same(alice, bob)


def test_19_what_is_stored_of_a_text_beside_the_log_can_go_at_any_time():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(6):
            alice.edit_text("notes.md", new="".join(f"line {k}\n" for k in range(n + 1)))
            if n % 2:
                alice.store.execute("DELETE FROM texts")
                alice = network.reopen("alice")
        assert alice.text("notes.md") == "".join(f"line {k}\n" for k in range(6))
        network.sync("alice", "bob")
        assert_same(alice, bob)


def test_20_a_store_of_an_unknown_schema_is_refused_and_stays_byte_for_byte():
    with Network("alice") as network:
        alice = network["alice"]
        add(alice, "a-buffer.md", "- one")
        alice.close()
        file = alice.root / FOLDER / STORE
        with sqlite3.connect(file) as other:
            other.execute("PRAGMA user_version=7")
        other.close()
        before = file.read_bytes()
        with pytest.raises(UnknownSchema, match="7"):
            Store.open(file)
        assert file.read_bytes() == before and not list(file.parent.glob("*.bak*"))


# --- files


def test_21_what_we_did_not_write_or_cannot_see_is_not_deleted():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(bob, "deep/notes.md", "x\n"), save(bob, "other.md", "y\n")
        network.run("bob"), network.sync("alice", "bob")
        # Never written here: absence says nothing.
        (alice.root / "deep").write_text("a file in the way")
        for _ in range(3):
            network.now += SECOND_LOOK
            assert not network.bridge("alice").run().deleted
        (alice.root / "deep").unlink()
        network.share()
        assert read(alice, "deep/notes.md") == "x\n"
        # Written here, gone for one look only.
        os.rename(alice.root / "deep", alice.root / "away")
        assert not network.bridge("alice").run().deleted
        os.rename(alice.root / "away", alice.root / "deep")
        network.share()
        assert read(bob, "deep/notes.md") == "x\n"


@pytest.mark.parametrize("path", PATHS)
def test_22_every_way_of_saving_is_one_edit(path):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- 0\n"), save(alice, "other.md", "x\n")
        network.share()
        content = "- 0\n"
        for n, way in enumerate(("unlink", "truncate", "rename"), 1):
            file, content = alice.root / path, content + f"- {n}\n"
            if way == "unlink":
                file.unlink()
            elif way == "truncate":
                file.write_bytes(b"")
            else:
                os.rename(file, file.with_suffix(".bak"))
            assert network.bridge("alice").run().look_again
            network.now += 50
            save(alice, path, content)
            network.share()
            assert read(bob, path) == content and not network.bridge("alice").held()


@pytest.mark.parametrize("path", PATHS)
def test_23_a_store_that_forgot_the_files_takes_them_for_what_they_are(path):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "# H\n\n- one\n- two\n")
        network.share()
        alice.store.execute("DELETE FROM files")
        save(bob, path, read(bob, path) + "- bob\n")
        network.run("bob"), network.sync("alice", "bob")
        network.share()
        for clone in (alice, bob):
            lines = read(clone, path).splitlines()
            assert lines.count("- one") == lines.count("# H") == 1
        assert_same(alice, bob)


def test_24_an_equal_file_with_a_new_date_is_not_read_into_the_log():
    with Network("alice") as network:
        alice = network["alice"]
        for path in PATHS:
            save(alice, path, "- one\n")
        network.run("alice")
        rows = alice.log.last_row()
        for path in PATHS:
            save(alice, path, "- one\n")  # the same again
        assert network.run("alice").quiet and alice.log.last_row() == rows


def test_25_names_that_differ_in_case_delete_nothing_and_a_mark_does_not_loop():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "Case.md", b"\xef\xbb\xbfupper\r\n"), save(bob, "case.md", "lower\n")
        network.run("alice"), network.run("bob")
        for _ in range(4):
            network.now += SECOND_LOOK
            network.sync("alice", "bob")
            reports = [network.run("alice"), network.run("bob")]
            assert all(report.quiet and "case" in str(report.skipped) for report in reports)
        assert (alice.root / "Case.md").read_bytes() == b"\xef\xbb\xbfupper\r\n" and read(bob, "case.md") == "lower\n"
        assert len(shared_content(alice)) == 2


@pytest.mark.parametrize(
    "path", ["../up.md", "/abs.md", ".git/hooks/pre-commit.md", "nul.md", "dot..md/x.md.", "a/../b.md"]
)
def test_26_a_name_from_a_peer_leads_nowhere_outside(path):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        before = sorted(p for p in network.folder.rglob("*") if ".db" not in p.name)
        alice.ingest([forged(bob.identity, alice, Kind.IMPORT, (path, "text"), "pwned\n")])
        network.run("alice")
        assert sorted(p for p in network.folder.rglob("*") if ".db" not in p.name) == before
        network.sync("alice", "bob")


# --- network


def test_32_a_clone_that_believes_it_is_done_hears_that_it_is_not():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one", "- two")
        network.sync("alice", "bob")
        bob.store.execute("UPDATE adds SET dead=1 WHERE text='- two'")
        with bob.transaction():
            bob.store.execute("UPDATE documents SET digest=NULL")
            bob.store.set_meta("digest", None)
        assert bob.vector() == alice.vector()
        network.sync("alice", "bob")
        assert "- two" in bob.text("a-buffer.md")


def test_32_delivering_everything_twice_and_late_changes_nothing():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(5):
            add(alice, "a-buffer.md", f"- {n}")
        sent = list(batches(alice, bob.vector(), size=2))
        for batch in (*sent, *sent, *reversed(sent)):
            bob.ingest(batch)
        assert_same(alice, bob)


def test_33_large_documents_and_many_changes_travel_in_bounded_batches(monkeypatch):
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for n in range(6):
            alice.edit_text(f"big{n}.md", new="x" * 900_000)
        for n in range(1_200):
            add(alice, "a-buffer.md", f"- {n}")
        for batch in batches(alice, network["bob"].vector()):
            assert len(batch) <= log.BATCH_CHANGES
            assert sum(len(signed.body) for signed in batch) <= log.BATCH_BYTES + changes.MAX_BODY
        network.sync("alice", "bob")
        assert len(network["bob"].entries("a-buffer.md")) == 1_200
        with pytest.raises(InvalidChange, match="over the limit"):
            add(alice, "a-buffer.md", "x" * changes.MAX_BODY)


# --- time


def test_34_no_clock_is_refused_and_none_wins_against_what_it_has_not_seen():
    year = 365 * 86_400_000
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        bob.log.now_ms = lambda: START + 70 * year
        add(bob, "activeContext.md", "from 2095", policy="latest")
        network.sync("alice", "bob")
        seen = alice.entries("activeContext.md")[0].dots
        stored = alice.edit_entries("activeContext.md", "latest", [(1, entry("after it", kills=seen))])[0]
        assert clock.to_ms(stored.change.time) == network.now  # not dragged along
        network.sync("alice", "bob")
        assert alice.text("activeContext.md") == bob.text("activeContext.md") == "after it\n"
        # What loses among concurrent ones is kept.
        add(alice, "activeContext.md", "today", policy="latest"), add(bob, "activeContext.md", "2095", policy="latest")
        network.sync("alice", "bob")
        (conflict,) = alice.documents.all_conflicts()
        assert {"today", "2095"} <= {version.text for version in conflict.versions}


def test_34_a_clock_that_steps_back_by_years_loses_nothing_and_keeps_the_order():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n, now in enumerate((START, START - 10**11, START - 10**12, START - 2 * 10**11)):
            network.now = now
            save(alice, "SESSION_LOG.md", "".join(f"- line {k}\n" for k in range(n + 1)))
            Bridge(alice, network.clock).run()
        network.sync("alice", "bob")
        assert bob.text("SESSION_LOG.md") == "".join(f"- line {k}\n" for k in range(4))
        times = [changes.decode(signed.body).time for signed in history(alice)]
        assert all(one < two for one, two in pairwise(times))
