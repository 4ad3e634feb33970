"""What broke in and around CRDT engines. The engine here gets whole, signed, checked changes in causal order only."""

import ast
import subprocess
import sys
import tomllib
import zlib
from collections import deque
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random

import pytest

from replica import changes, log, text, yjs
from replica.changes import Kind, Signed
from replica.errors import CorruptUpdate, Fork, MissingDependency, PeerError
from replica.text import Text, client_id
from tests.failures import PATHS, back_up, roll_back
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
    talk,
)  # fmt: skip
from transport.session import Changes, Ended, InStep

CHECKOUT = Path(__file__).resolve().parents[2]
HOSTILE_BYTES = bytes.fromhex("8080808001")  # claims 2**28 sections of blocks


def test_failure_01_a_flipped_bit_never_enters_a_store():
    """An engine took most updates with a flipped bit and differed for good: here any flipped bit is refused."""
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


def test_failure_01_a_bit_that_flips_on_the_disk_does_not_spread():
    """Nothing noticed what a disk had changed: here the others check the signature, and refuse with a reason."""
    with Network("alice", "bob", "carol") as network:
        alice, _bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        alice.edit_text("notes.md", new="some words\n")
        network.sync("alice", "bob")
        body = alice.store.value("SELECT body FROM changes ORDER BY n DESC LIMIT 1")
        damaged = body.replace(b"some words", b"some wards")
        assert damaged != body
        alice.store.execute("UPDATE changes SET body=? WHERE body=?", (damaged, body))
        assert any(isinstance(event, Ended) and "signed" in event.reason for event in talk(alice, carol))
        assert carol.documents.all() == []
        network.sync("bob", "carol")
        assert carol.text("notes.md") == "some words\n"


def test_failure_02_equal_is_said_of_content_and_a_deletion_counts():
    """A state vector does not see deletions: here a deletion has a number, and the digest is of content."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_text("notes.md", new="keep delete keep\n")
        network.sync("alice", "bob")
        alice.edit_text("notes.md", [(4, 11, "")])
        assert alice.vector() != bob.vector() and alice.digest() != bob.digest()
        network.sync("alice", "bob")
        assert bob.text("notes.md") == "keep keep\n"


@pytest.mark.parametrize("path", ["notes.md", "a-buffer.md"])
def test_failure_03_a_restored_backup_that_writes_on_is_found_out_and_both_its_lives_are_kept(path):
    """A restored backup that wrote on diverged in silence: here the fork is named, and goes on as another author."""
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
        assert "second life" not in bob.text(path)
        forked = alice.identity.id
        for _ in range(3):
            talk(alice, bob)
            talk(bob, carol)
        assert alice.identity.id != forked
        for clone in (alice, bob, carol):
            assert "first life" in clone.text(path) and "second life" in clone.text(path)
        assert_same(alice, bob, carol)


def test_failure_03_a_restored_backup_that_meets_a_peer_first_gets_its_own_past_back():
    """A restored backup forgot what its author had written since: here the others give it back before it goes on."""
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


def test_failure_04_a_hostile_update_by_a_member_is_refused_and_never_a_panic():
    """Some malformed updates made the engine panic past every handler: here a member's bytes are checked first."""
    with Network("alice", "bob", "carol") as network:
        alice, bob = network["alice"], network["bob"]
        bob.edit_text("notes.md", new="words 🧠 of bob\n")
        network.sync("alice", "bob")
        honest = Text.load(
            zlib.decompress(alice.store.value("SELECT state FROM texts")), client_id(bob.identity.id, "notes.md")
        )
        (update,) = honest.edit(honest.client, "words 🧠 and more of bob\n")
        random, refused = Random(4), 0
        for _ in range(1_500):
            mutated = bytearray(update)
            for _ in range(random.randint(1, 3)):
                mutated[random.randrange(len(mutated))] = random.randrange(256)
            if random.random() < 0.3:
                del mutated[random.randrange(len(mutated)) :]
            before = alice.log.last_row()
            try:
                alice.ingest([forged(bob.identity, alice, Kind.TEXT, ("notes.md", "text"), bytes(mutated))])
            except PeerError as error:  # a panic is none, and would end this test
                assert "engine failed" not in str(error)  # it never came that far
                refused += 1
                assert alice.log.last_row() == before
        assert refused > 1_000
        alice = network.reopen("alice")
        alice.edit_text("notes.md", new=alice.text("notes.md") + "alice goes on\n")
        network.sync("alice", "carol")
        assert_same(alice, network["carol"])


def test_failure_04_five_bytes_that_claim_half_a_gigabyte_get_none():
    """Five bytes took half a gigabyte before they were refused: here they are refused before anything is built."""
    script = f"""
import resource
from replica import yjs
from replica.errors import CorruptUpdate
from replica.text import Text
text = Text.new(7)
text.edit(7, "ready")  # everything is loaded
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, used + 20_000_000))
try:
    text.apply({HOSTILE_BYTES!r}, 8)
except CorruptUpdate as error:
    print("refused:", error)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc/self/statm and RLIMIT_AS")
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.startswith("refused:"), done.stderr


def test_failure_05_a_change_with_a_gap_before_it_is_refused_and_comes_whole_later():
    """Updates behind a gap waited unseen, and snapshots lost them: here nothing with a gap is stored at all."""
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


def test_failure_06_edits_inside_and_around_every_kind_of_character_reach_all():
    """An insert counted in bytes fell inside a character, and showed on its author's side only: here it cannot."""
    characters = "aé日🧠👩‍👩‍👧e\u0301𝄞\u202e\0"
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_text("notes.md", new=characters)
        network.sync("alice", "bob")
        random = Random(6)
        for _ in range(60):
            clone = random.choice((alice, bob))
            shown = clone.text("notes.md")
            start = random.randrange(len(shown) + 1)
            end = min(len(shown), start + random.randrange(3))
            piece = "".join(random.choices(characters, k=random.randrange(4)))
            clone.edit_text("notes.md", [(start, end, piece)])
            assert clone.text("notes.md") == shown[:start] + piece + shown[end:]
            if random.random() < 0.5:
                network.sync("alice", "bob")
                assert alice.text("notes.md") == bob.text("notes.md")
        network.sync("alice", "bob")
        assert_same(alice, bob)


def test_failure_06_a_member_that_writes_inside_a_character_is_refused():
    """A delete inside a character made engines panic on the other side: here it does not come that far."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        bob.edit_text("notes.md", new="a🧠b")
        network.sync("alice", "bob")
        state = yjs.decode_state(zlib.decompress(alice.store.value("SELECT state FROM texts")))
        ((client, (block,)),) = state.items()  # one block: a, the two halves of the brain, b
        half = yjs.encode_uint(client) + yjs.encode_uint(1) + yjs.encode_uint(block.clock + 2) + yjs.encode_uint(1)
        inside = yjs.encode_uint(0) + yjs.encode_uint(1) + half  # no blocks, one deletion
        with pytest.raises(CorruptUpdate, match="inside a character"):
            alice.ingest([forged(bob.identity, alice, Kind.TEXT, ("notes.md", "text"), inside)])
        assert alice.text("notes.md") == "a🧠b"


@pytest.mark.parametrize("path", PATHS)
def test_failure_07_the_same_file_imported_everywhere_is_there_once(path):
    """The same file imported on two clones was there twice: here equal imports are one."""
    with Network("alice", "bob", "carol") as network:
        for clone in network.clones.values():
            save(clone, path, "# Head\n\n- one 🧠\n- one 🧠\n- two\n")
        network.share()
        for clone in network.clones.values():
            assert read(clone, path) == "# Head\n\n- one 🧠\n- one 🧠\n- two\n"
            assert clone.documents.all_conflicts() == []


def test_failure_07_an_edit_beside_a_deletion_of_the_document_survives():
    """A deletion took along what was written into the deleted at the same time: here the edit wins."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- old")
        network.sync("alice", "bob")
        alice.delete(alice.document("a-buffer.md"))
        add(bob, "a-buffer.md", "- concurrent")
        network.sync("alice", "bob")
        assert alice.text("a-buffer.md") == bob.text("a-buffer.md") == "- concurrent\n"


@pytest.mark.parametrize("path", PATHS)
def test_failure_07_two_that_make_the_same_document_at_once_lose_neither_content(path):
    """Of two clones that made one key at once, one lost its whole subtree: here both contents are there or shown."""
    with Network("alice", "bob", "carol") as network:
        save(network["alice"], path, "- only of alice\n"), save(network["bob"], path, "- only of bob\n")
        network.share()
        for clone in network.clones.values():
            shown = read(clone, path)
            waiting = " ".join(version.text for c in clone.documents.all_conflicts() for version in c.versions)
            assert all(words in shown + waiting for words in ("only of alice", "only of bob"))
        assert_same(*network.clones.values())


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_failure_07_the_later_write_is_shown_whoever_has_the_larger_id(first):
    """The larger client id won a key, not the later write: here the later one is shown, and the other is kept."""
    second = {"alice": "bob", "bob": "alice"}[first]
    with Network("alice", "bob") as network:
        add(network[first], "activeContext.md", "written first", policy="latest")
        network.now += 60_000
        add(network[second], "activeContext.md", "written later", policy="latest")
        network.sync("alice", "bob")
        for clone in network.clones.values():
            assert clone.text("activeContext.md") == "written later\n"
            (conflict,) = clone.documents.all_conflicts()
            assert {version.text for version in conflict.versions} == {"written first", "written later"}


def test_failure_08_a_save_that_changes_every_word_is_cut_into_updates_that_stay_cheap():
    """260,000 operations in one transaction took 91 seconds: here an edit is cut into updates of a few hundred."""
    words = [f"word{n}" for n in range(20_000)]
    before, after = " ".join(words), " ".join(w if n % 2 else w + "!" for n, w in enumerate(words))
    ends = [end for n, end in enumerate(accumulate(len(word) + 1 for word in words)) if n % 2 == 0]
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_text("notes.md", new=before)
        written = alice.edit_text("notes.md", [(end - 1, end - 1, "!") for end in ends])
        operations = [len(yjs.decode(stored.change.payload).inserts) for stored in written]
        assert sum(operations) == 10_000 and max(operations) <= text.OPS_PER_UPDATE
        network.sync("alice", "bob")
        assert bob.text("notes.md") == after


def test_failure_09_a_clone_writes_under_one_client_id_however_often_it_starts():
    """A new client id at each start made vectors grow without end: here a clone has one for each document, for ever."""
    with Network("alice", "bob") as network:
        for n in range(12):
            clone = network.reopen("alice")
            clone.edit_text("notes.md", new="x\n" if n == 0 else clone.text("notes.md") + f"{n}\n")
        network.sync("alice", "bob")
        doc = network["bob"].documents.find("notes.md", "text").shared
        clients = set(network["bob"].materialiser.engine(doc).vector())
        assert client_id(network["alice"].identity.id, "notes.md") in clients
        assert len(clients) == 2  # and that of the first import


@pytest.mark.parametrize("seed", range(6))
def test_failure_10_batches_in_any_order_end_in_one_content(seed):
    """In random order an engine lost content in most runs: here what comes too early is refused, and comes again."""
    random = Random(seed)
    with Network("alice", "bob", "carol", "dave", seed=seed) as network:
        *writers, dave = network.clones.values()
        for n in range(24):
            clone = random.choice(writers)
            shown = clone.text("notes.md") if clone.documents.find("notes.md", "text").alive else ""
            at = random.randrange(len(shown) + 1)
            clone.edit_text("notes.md", new=shown[:at] + f"«{n}🧠»" + shown[at + random.randrange(3) :])
            if random.random() < 0.3:
                talk(*random.sample(writers, 2))
        for one, other in pairwise([*writers, *writers]):
            talk(one, other)
        waiting = deque(batches(writers[0], dave.vector(), size=1))
        while waiting:
            random.shuffle(waiting)
            batch = waiting.popleft()
            try:
                dave.ingest(batch)
            except MissingDependency:
                waiting.append(batch)
        assert_same(*writers, dave)


def test_failure_10_the_22_bytes_that_freeze_an_engine_are_refused_from_a_member():
    """A crafted update of 22 bytes froze or killed the process: here the log refuses it with a reason."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        client = client_id(bob.identity.id, "notes.md")
        number, root = yjs.encode_uint(client), b"\x01\x01t"
        one = b"\x01" + number + b"\x00\x04" + root + b"\x04abcd"
        two = b"\x01" + number + b"\x01\x84" + number + b"\x00\x01c"  # the same clocks once more
        with pytest.raises(CorruptUpdate, match="more than one section"):
            alice.ingest([forged(bob.identity, alice, Kind.TEXT, ("notes.md", "text"), b"\x02" + one + two + b"\x00")])
        assert alice.documents.all() == []


def test_failure_10_thousands_of_small_edits_reach_the_engine_one_by_one(monkeypatch):
    """10,000 one-line appends applied as one update took gigabytes: here no update is ever merged with another."""
    sizes: list[int] = []
    apply = Text.apply

    def counted(self, update, client):
        sizes.append(len(update))
        return apply(self, update, client)

    monkeypatch.setattr(Text, "apply", counted)
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        with alice.transaction():
            for n in range(1_500):
                alice.edit_text("notes.md", new="".join(f"line {k}\n" for k in range(n + 1)))
        sizes.clear()
        network.sync("alice", "bob")
        assert len(sizes) == 1_500 and max(sizes) < 100
        assert bob.text("notes.md") == "".join(f"line {n}\n" for n in range(1_500))


def test_failure_11_neither_pycrdt_store_nor_pycrdt_websocket_is_used():
    """One emptied documents and lost the tail after a clock step, the other dropped updates: here neither is there."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [*project["dependencies"], *(d for more in project["optional-dependencies"].values() for d in more)]
    assert needed and not [n for n in needed if n.replace("_", "-").lower().startswith(("pycrdt-store", "pycrdt-web"))]
    imported = set()
    for folder in ("replica", "transport", "cli"):
        for file in (CHECKOUT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                imported.update(names or [getattr(node, "module", None) or ""])
    assert "pycrdt" in imported
    assert not [name for name in imported if name.startswith(("pycrdt_", "pycrdt.store", "ypy_"))]


@pytest.mark.slow
def test_failure_11_a_peer_that_reads_late_gets_all_of_70_000_updates():
    """Past 65,536 waiting updates a queue dropped the rest in silence: here nothing is queued that the log holds."""
    count = 70_000
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        link = Link(alice, bob)
        link.run()
        for at in range(0, count, 7_000):
            with alice.transaction():
                for n in range(at, at + 7_000):
                    alice.append(Kind.ENTRIES, ("SESSION_LOG.md", "log"), changes.entries_payload([entry(f"- {n}")]))
            link.send(0, link.sessions[0].changed())  # bob reads nothing
        waiting = [message for message in link.queues[1] if isinstance(message, Changes)]
        assert sum(len(message.batch) for message in waiting) < 10 * log.BATCH_CHANGES
        link.run()
        assert link.in_step and isinstance(link.events[1][-1], InStep)
        assert bob.store.value("SELECT count(*) FROM changes") == alice.store.value("SELECT count(*) FROM changes")
        assert bob.store.value("SELECT count(DISTINCT text) FROM adds WHERE dead=0") == count


def test_failure_11_no_wall_clock_decides_what_is_newer():
    """A store kept its order by the wall clock, and lost the tail when that stepped back: here order is of the log."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n, now in enumerate((START, START - 10**10, START - 10**9, START - 10**11)):
            network.now = now
            alice.edit_text("notes.md", new="".join(f"line {k}\n" for k in range(n + 1)))
            add(alice, "activeContext.md", f"context {n}", policy="latest")
            network.sync("alice", "bob")
        alice.store.execute("DELETE FROM texts")
        alice = network.reopen("alice")
        for clone in (alice, bob):
            assert clone.text("notes.md") == "line 0\nline 1\nline 2\nline 3\n"
        assert_same(alice, bob)
