"""What was lost between memory and disk, or by one damaged part that took the rest along."""

import sqlite3

import msgpack
import pytest

from replica import compact
from replica.bridge import Bridge
from replica.errors import DamagedRecord, UnknownSchema
from replica.places import FOLDER, STORE
from replica.store import Store
from tests.failures import PATHS
from tests.helpers import Link, Network, add, assert_same, read, save, talk
from transport.session import Ack, Diverged, Ended, InStep


def test_failure_16_an_acknowledgement_leaves_after_the_commit_and_says_no_more_than_it(monkeypatch):
    """ "Synced" was shown for what the other side held in memory only: here an acknowledgement follows the commit."""
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
def test_failure_17_a_stored_text_that_is_damaged_is_made_anew_from_the_log_and_never_taken_for_empty(damage):
    """A loader that failed left an empty document, later saved over the good one: here the log makes it anew."""
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


def test_failure_17_what_was_written_is_there_though_nothing_was_closed():
    """Nothing was flushed at shutdown: here an edit is in the store when it returns, whatever happens then."""
    with Network("alice") as network:
        alice = network["alice"]
        alice.edit_text("notes.md", new="precious\n")
        add(alice, "a-buffer.md", "- one")
        other = network.open_again("alice")  # as the next process finds it; the first has not closed
        try:
            assert (other.text("notes.md"), other.text("a-buffer.md")) == ("precious\n", "- one\n")
        finally:
            other.close()


DAMAGE = {"unreadable": b"\xff\x00", "empty": b"", "of another change": None}


@pytest.mark.parametrize("damage", DAMAGE)
def test_failure_18_a_document_with_a_damaged_change_waits_and_all_others_go_on(damage):
    """One corrupt row made the whole store useless: here its document is named and left as it is, the others go on."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "one\n"), save(alice, "other.md", "x\n"), save(alice, "a-buffer.md", "- 1\n")
        network.share()
        save(alice, "notes.md", "one\ntwo\n")
        network.share()
        rows = alice.store.rows("SELECT c.n, body FROM changes c JOIN documents d ON d.n=doc WHERE path='notes.md'")
        body = DAMAGE[damage] if DAMAGE[damage] is not None else rows[0][1]
        alice.store.execute("UPDATE changes SET body=? WHERE n=?", (body, rows[-1][0]))
        alice.store.execute("DELETE FROM texts")
        alice = network.reopen("alice")
        with pytest.raises(DamagedRecord, match=r"notes\.md"):
            alice.text("notes.md")
        save(bob, "notes.md", "one\ntwo\nthree\n"), save(bob, "other.md", "x\ny\n"), save(bob, "a-buffer.md", "- 2\n")
        save(alice, "more.md", "of alice\n"), save(alice, "notes.md", "one\ntwo\nedited here\n")
        for _ in range(2):
            for name in ("alice", "bob"):
                report = network.run(name)
            events = talk(alice, bob)
            assert not any(isinstance(event, Ended) for event in events)
        assert any(isinstance(event, Diverged) and event.paths == ("notes.md",) for event in events)
        report = network.run("alice")
        network.run("bob")
        assert "notes.md" in report.skipped and not report.deleted
        assert read(alice, "notes.md") == "one\ntwo\nedited here\n" and read(bob, "notes.md") == "one\ntwo\nthree\n"
        for clone in (alice, bob):
            assert read(clone, "other.md") == "x\ny\n" and read(clone, "more.md") == "of alice\n"
            assert read(clone, "a-buffer.md") == "- 2\n"


def test_failure_18_two_that_are_damaged_in_one_document_are_not_in_step():
    """Damage counted as content, and equal damage as equal content: here a damaged document equals nobody else's."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_text("notes.md", new="one\n"), alice.edit_text("notes.md", new="one\ntwo\n")
        network.sync("alice", "bob")
        for name in ("alice", "bob"):
            store = network[name].store
            store.execute("UPDATE changes SET body=x'ff' WHERE n=(SELECT max(n) FROM changes)")
            store.execute("DELETE FROM texts")
            store.execute("UPDATE documents SET digest=NULL")
            store.set_meta("digest", None)
            network.reopen(name)
        alice, bob = network["alice"], network["bob"]
        assert alice.vector() == bob.vector() and alice.digest() != bob.digest()
        assert not any(isinstance(event, InStep) for event in talk(alice, bob))


def test_failure_18_a_document_over_the_limit_is_listed_and_the_others_go_on():
    """One huge document took the process down at each start: here it stays a file, listed with the reason."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "huge.md", "x" * 1_000_001), save(alice, "notes.md", "small\n")
        network.share()
        assert "limit" in Bridge(alice, network.clock).run().skipped["huge.md"]
        assert read(bob, "notes.md") == "small\n" and not (bob.root / "huge.md").exists()
        assert len(read(alice, "huge.md")) == 1_000_001


def test_failure_19_what_is_stored_of_a_text_beside_the_log_can_go_at_any_time():
    """A snapshot trimmed the log of more than it held: here it is a copy, and the log has everything."""
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


def test_failure_19_a_snapshot_older_than_the_log_is_followed_by_what_came_since():
    """Edits between a snapshot and the rows that it replaced were lost: here the rows behind it always count."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_text("notes.md", new="one\n")
        network.sync("alice", "bob")
        snapshot = alice.store.row("SELECT doc, change, text, state FROM texts")
        alice.edit_text("notes.md", new="one\ntwo\n")
        bob.edit_text("notes.md", new="zero\none\n")
        network.sync("alice", "bob")
        alice.store.execute("INSERT OR REPLACE INTO texts VALUES(?,?,?,?)", snapshot)
        alice = network.reopen("alice")
        assert alice.text("notes.md") == bob.text("notes.md") == "zero\none\ntwo\n"
        alice.edit_text("notes.md", new="zero\none\ntwo\nthree\n")
        network.sync("alice", "bob")
        assert_same(alice, bob)


def known_to_all(network: Network) -> None:
    """Everybody has acknowledged everything, and nothing is too young to be folded."""
    network.sync_all()
    network.now += 1_000
    for clone in network.clones.values():
        clone.set_config("[history]\ndays = 0\n")
        for other in network.clones.values():
            clone.store.execute(
                "INSERT OR REPLACE INTO peers(id, seen, vector) VALUES(?,?,?)",
                (other.identity.id, network.now, msgpack.packb(other.vector())),
            )


@pytest.mark.parametrize("path", PATHS)
def test_failure_19_what_comes_while_old_changes_are_folded_is_not_folded_away(path, monkeypatch):
    """What came between a snapshot and its trimming was lost: here exactly what was folded goes, in one transaction."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- one\n- two\n")
        network.share()
        save(alice, path, "- one\n- two\n- three\n")
        network.share()
        known_to_all(network)
        prepared, other = compact._prepared, network.open_again("alice")

        def meanwhile(clone, cut):
            yield from prepared(clone, cut)
            save(alice, path, "- one\n- two\n- three\n- meanwhile\n")
            Bridge(other, network.clock).run()  # another process, before the folding is stored

        monkeypatch.setattr(compact, "_prepared", meanwhile)
        assert compact.compact(alice).folded > 0
        other.close()
        alice = network.reopen("alice")
        assert "- meanwhile" in alice.text(path) and "- one" in alice.text(path)
        add_by_bob = read(bob, path) + "- by bob\n"
        save(bob, path, add_by_bob)
        network.share()
        for clone in (alice, bob):
            waiting = " ".join(version.text for c in clone.documents.all_conflicts() for version in c.versions)
            shown = read(clone, path) + waiting
            assert all(f"- {words}" in shown for words in ("one", "two", "three", "meanwhile", "by bob"))
        assert_same(alice, bob)


def test_failure_19_a_folding_that_fails_leaves_every_change_where_it_was(monkeypatch):
    """A trimming cut short had removed rows that no snapshot held: here it is done as a whole, or not at all."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for n in range(4):
            alice.edit_text("notes.md", new="".join(f"line {k}\n" for k in range(n + 1)))
        known_to_all(network)
        rows = alice.store.rows("SELECT * FROM changes")
        with monkeypatch.context() as failing:
            failing.setattr(compact, "_thin_deps", lambda store: (_ for _ in ()).throw(OSError(5, "disk")))
            with pytest.raises(OSError):
                compact.compact(alice)
        assert alice.store.rows("SELECT * FROM changes") == rows
        alice = network.reopen("alice")
        assert compact.compact(alice).folded == 4 and alice.text("notes.md").count("line") == 4
        network.sync("alice", "bob")
        assert_same(alice, network["bob"])


@pytest.mark.parametrize("damage", DAMAGE)
def test_failure_19_a_damaged_change_is_not_folded_into_a_baseline(damage):
    """A snapshot of damaged rows took the place of the only good ones: here damage is found before anything goes."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        alice.edit_text("notes.md", new="one\n"), alice.edit_text("notes.md", new="one\ntwo\n")
        add(alice, "a-buffer.md", "- one")
        known_to_all(network)
        rows = alice.store.rows("SELECT c.n, body FROM changes c JOIN documents d ON d.n=doc WHERE path='notes.md'")
        body = DAMAGE[damage] if DAMAGE[damage] is not None else rows[0][1]
        alice.store.execute("UPDATE changes SET body=? WHERE n=?", (body, rows[-1][0]))
        count = alice.store.value("SELECT count(*) FROM changes")
        with pytest.raises(DamagedRecord, match=r"notes\.md"):
            compact.compact(alice)
        assert alice.store.value("SELECT count(*) FROM changes") == count


def test_failure_20_a_store_of_an_unknown_schema_is_refused_and_stays_byte_for_byte():
    """A store of an unknown version was renamed, and an empty one begun: here it is refused and not touched."""
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
