"""One file holds a clone, checked; what comes back from it is a clone of its own, and nothing is lost or forked."""

import json
import os
import random
import sqlite3
import stat
import threading

import pytest

from replica import backup, compact, status
from replica.clone import Clone
from replica.errors import AlreadyAClone, ReplicaError, StoreError, UsageError
from tests.helpers import Network, add, assert_same, certificate, read, save
from tests.test_cli_memory import fresh, replica  # noqa: F401
from tests.test_compact import AT_ONCE, DAY, acknowledged
from tests.test_rejoin import Backups


@pytest.fixture
def network():
    with Network("alice", "bob") as network:
        save(network["alice"], "a-buffer.md", "# A\n\n- one\n- two\n")
        save(network["alice"], "notes/plan.md", "plan 🙂\n")
        add(network["alice"], "a-buffer.md", "- only here", level=0)
        network.share()
        yield network


def backed_up(network, name: str = "alice"):
    file = network.folder / f"{name}.backup"
    backup.make(network[name], file)
    return file


def restored(network, file, name: str = "restored") -> Clone:
    """The clone that comes back takes part in the network under `name`."""
    root = network.folder / name
    backup.restore(file, root, certificate, network.clock)
    network.clones[name] = Clone.open(root, certify=certificate, now_ms=network.clock)
    return network.clones[name]


def test_all_of_a_clone_is_in_one_file_that_only_its_owner_reads(network):
    alice = network["alice"]
    (alice.root / ".replica" / "rejected").mkdir()
    (alice.root / ".replica" / "rejected" / "1-a.md").write_text("rejected\n")
    (alice.root / "no-document.bin").write_bytes(b"\0")
    file = backed_up(network)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    found = backup.check(file)
    assert (found.clone, found.workspace, found.id) == ("alice", "team", alice.identity.id.hex())
    assert found.files == ["a-buffer.md", "notes/plan.md"]
    again = restored(network, file)
    assert read(again, "a-buffer.md") == read(alice, "a-buffer.md") and read(again, "notes/plan.md") == "plan 🙂\n"
    assert again.text("a-buffer.md") == alice.text("a-buffer.md")  # level 0 as well
    assert again.documents.digest() == alice.documents.digest()
    assert (again.root / ".replica" / "rejected" / "1-a.md").read_text() == "rejected\n"
    assert network.run("restored").quiet and not status.held(again)


def test_what_comes_back_is_another_clone_whose_key_the_old_one_vouches_for(network):
    alice = network["alice"]
    again = restored(network, backed_up(network))
    assert again.identity.id != alice.identity.id and again.name == "alice-restored"
    assert alice.identity.id in again.trusted()
    network.sync("restored", "bob")
    assert again.identity.id in network["bob"].trusted()
    assert {check.state for check in status.checks(again, network.now)} <= {"ok", "note"}


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_restored_while_the_original_runs_both_edit_and_meet_and_nothing_is_lost_or_forked(network, first):
    file = backed_up(network)
    save(network["alice"], "a-buffer.md", read(network["alice"], "a-buffer.md") + "- later by alice\n")
    network.share()
    restored(network, file)
    for name in ("alice", "restored"):
        network.now += 1_000
        save(network[name], "a-buffer.md", read(network[name], "a-buffer.md") + f"- new by {name}\n")
        save(network[name], "notes/plan.md", f"plan 🙂\nand of {name}\n")
        network.run(name)
    network.sync("restored", first)
    network.share()
    assert_same(*network.clones.values())
    text = read(network["bob"], "a-buffer.md")
    assert all(f"- {line}\n" in text for line in ("one", "two", "later by alice", "new by alice", "new by restored"))
    assert "of alice" in read(network["bob"], "notes/plan.md") and "of restored" in read(
        network["bob"], "notes/plan.md"
    )
    alive = [member["name"] for member in network["bob"].members() if member["removed_by"] is None]
    assert sorted(alive) == ["alice", "alice-restored", "bob"]  # no chain had to end
    assert "only here" not in text


def test_an_old_backup_of_a_clone_that_is_gone_brings_its_edits_and_gets_all_that_came_since(network):
    alice = network["alice"]
    add(alice, "a-buffer.md", "- never sent")
    file = backed_up(network)
    network.clones.pop("alice").close()
    for n in range(5):
        network.now += 86_400_000
        add(network["bob"], "a-buffer.md", f"- day {n}")
    again = restored(network, file)
    network.share()
    assert_same(*network.clones.values())
    text = read(network["bob"], "a-buffer.md")
    assert "- never sent\n" in text and "- day 4\n" in read(again, "a-buffer.md")


def test_a_backup_can_be_restored_twice(network):
    file = backed_up(network)
    for name in ("one", "two"):
        add(restored(network, file, name), "a-buffer.md", f"- by {name}")
    network.share()
    assert_same(*network.clones.values())
    assert {"- by one", "- by two"} <= set(read(network["bob"], "a-buffer.md").split("\n"))


def test_a_backup_of_an_identity_that_has_ended_since_comes_back_all_the_same():
    """The one that was backed up had to begin anew, since its disk was rolled back: its old identity is no member's."""
    with Backups("alice", "bob", "carol") as network:
        add(network["alice"], "a-buffer.md", "- old")
        network.sync_all()
        network.back_up("alice")
        add(network["alice"], "a-buffer.md", "- in the backup")
        file = backed_up(network)
        network.sync_all()
        add(network.bring_back("alice"), "a-buffer.md", "- another under that number")
        network.meet_all()
        again = restored(network, file)
        add(again, "a-buffer.md", "- by the restored")
        network.meet_all()
        assert_same(*network.clones.values())
        found = {entry.text for entry in network["carol"].entries("a-buffer.md")}
        assert found == {"- old", "- in the backup", "- another under that number", "- by the restored"}


def test_a_backup_older_than_what_the_others_have_folded_comes_back_with_its_edits():
    with Backups("alice", "bob", "carol") as network:
        for clone in network.clones.values():
            clone.set_config(AT_ONCE)
        add(network["alice"], "a-buffer.md", "- old")
        network.sync_all()
        acknowledged(network)
        add(network["alice"], "a-buffer.md", "- in the backup alone")
        file = backed_up(network)
        network.clones.pop("alice").close()
        network.now += 100 * DAY
        add(network["bob"], "a-buffer.md", "- of bob")
        for _ in range(3):
            network.sync("bob", "carol")
            acknowledged(network, "bob", "carol")
            for name in ("bob", "carol"):
                compact.compact(network[name])
        assert network["bob"].log.floor() and network["carol"].log.floor()
        restored(network, file)
        network.meet_all()
        assert_same(*network.clones.values())
        found = {entry.text for entry in network["carol"].entries("a-buffer.md")}
        assert found == {"- old", "- in the backup alone", "- of bob"}


def test_what_was_saved_and_not_taken_in_yet_comes_back_as_an_edit(network):
    save(network["alice"], "notes/plan.md", "saved a moment ago\n")
    restored(network, backed_up(network))
    network.run("restored")
    network.share()
    assert "saved a moment ago" in read(network["bob"], "notes/plan.md")


def test_on_one_machine_the_original_hears_of_it_at_once(network):
    again = restored(network, backed_up(network))
    network["alice"].log.refresh()
    assert again.identity.id in network["alice"].trusted()


# --- what is refused


def test_a_file_that_was_cut_short_anywhere_is_refused(network):
    whole = backed_up(network).read_bytes()
    file = network.folder / "cut"
    rand = random.Random(3)
    for at in [0, 1, 21, 22, 23, 24, 40, *rand.sample(range(len(whole)), 30), len(whole) - 1]:
        file.write_bytes(whole[:at])
        with pytest.raises(backup.NotABackup):
            backup.check(file)


def test_a_flipped_bit_anywhere_is_noticed_and_nothing_is_made(network):
    whole = backed_up(network).read_bytes()
    file, rand = network.folder / "flipped", random.Random(4)
    for at in [0, 22, 23, 24, len(whole) - 1, len(whole) - 33, *rand.sample(range(len(whole)), 40)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rand.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(backup.NotABackup) as caught:
            backup.restore(file, network.folder / "not-made", certificate)
        assert str(file) in str(caught.value) and caught.value.hint
        assert not (network.folder / "not-made").exists()


def forged(network, change) -> str:
    """A backup with right checksums and a table that `change` has altered."""
    import hashlib

    whole = backed_up(network).read_bytes()[:-32]
    length = int.from_bytes(whole[-8:], "big")
    table = json.loads(whole[-8 - length : -8])
    change(table)
    packed = json.dumps(table).encode()
    data = whole[: -8 - length] + packed + len(packed).to_bytes(8, "big")
    file = network.folder / "forged"
    file.write_bytes(data + hashlib.sha256(data).digest())
    return file


@pytest.mark.parametrize("name", [
    "files/../out.md", "files//etc/passwd", "files/.git/config", "files/.replica/store.db", "../out", "node.json",
    "former/../../out.key", "before/../x.db", "rejected/..", "",
])  # fmt: skip
def test_no_name_in_a_backup_leads_outside(network, name):
    def change(table):
        table["members"][0][0] = name

    with pytest.raises((backup.NotABackup, StoreError)):
        backup.restore(forged(network, change), network.folder / "a" / "b", certificate)
    assert not (network.folder / "a").exists() and not (network.folder / "out.md").exists()


@pytest.mark.parametrize("change", [
    lambda table: table.pop("members"),
    lambda table: table["members"].clear(),
    lambda table: table["members"].append(table["members"][0]),
    lambda table: table["members"][0].__setitem__(1, -1),
    lambda table: table["members"][0].__setitem__(2, 10**15),
    lambda table: table["members"][0].__setitem__(3, 1),
    lambda table: table["members"][0].__setitem__(4, "0" * 64),
    lambda table: table.__setitem__("clone", 7),
])  # fmt: skip
def test_a_table_that_is_not_right_is_refused(network, change):
    with pytest.raises(backup.NotABackup):
        backup.check(forged(network, change))


def test_foreign_files_and_other_versions_are_refused_with_words(network):
    file = network.folder / "file"
    for content in (b"", b"SQLite format 3\0" * 100, b"memory-replica backup"):
        file.write_bytes(content)
        with pytest.raises(backup.NotABackup):
            backup.check(file)
    with pytest.raises(StoreError):
        backup.check(network.folder / "not there")
    import hashlib

    later = bytearray(backed_up(network).read_bytes()[:-32])
    later[len(backup.MAGIC) + 1] = 9
    file.write_bytes(later + hashlib.sha256(later).digest())
    with pytest.raises(backup.NotABackup, match="version 9; this program reads 1"):
        backup.check(file)


def test_a_folder_that_holds_something_is_left_as_it_is(network, tmp_path):
    file = backed_up(network)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine\n")
    (tmp_path / "file").write_text("mine\n")
    for place in ("full", "file"):
        with pytest.raises(UsageError, match="holds something"):
            backup.restore(file, tmp_path / place, certificate)
    with pytest.raises(AlreadyAClone):
        backup.restore(file, network["bob"].root, certificate)
    with pytest.raises(AlreadyAClone):
        backup.restore(file, network["bob"].root / "below", certificate)
    assert os.listdir(tmp_path / "full") == ["mine.txt"] and (tmp_path / "file").read_text() == "mine\n"


def test_a_restore_that_fails_leaves_nothing(network, tmp_path, monkeypatch):
    file = backed_up(network)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(backup.copies, "part", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for place in ("empty", "new/deep"):
        with pytest.raises(StoreError):
            backup.restore(file, tmp_path / place, certificate)
    assert sorted(os.listdir(tmp_path)) == ["empty"] and not os.listdir(tmp_path / "empty")


def test_a_backup_overwrites_nothing_and_leaves_nothing_half_written(network, monkeypatch):
    file = backed_up(network)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="there already"):
        backup.make(network["alice"], file)
    assert file.read_bytes() == before
    monkeypatch.setattr(backup, "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError):
        backup.make(network["alice"], network.folder / "other")
    assert not [name for name in os.listdir(network.folder) if name.startswith("other")]
    assert not [name for name in os.listdir(network["alice"].root / ".replica") if name.startswith("backup-")]


def test_a_damaged_store_is_not_backed_up_as_if_it_were_good(network):
    alice = network["alice"]
    for n in range(50):
        add(alice, "a-buffer.md", f"- {n} " + "x" * 500)
    alice.store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = alice.store.path
    network.clones.pop("alice").close()
    data = bytearray(path.read_bytes())
    data[8 * 4096 : 20 * 4096] = os.urandom(12 * 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError):
        backup._snapshot(path, network.folder / "copy.db")


def test_the_snapshot_is_whole_while_another_process_writes(network):
    alice = network["alice"]
    stop, file = threading.Event(), network.folder / "busy"

    def write():
        connection = sqlite3.connect(alice.store.path, timeout=10)
        n = 0
        while not stop.is_set():
            n += 1
            with connection:  # two rows that belong together
                connection.execute("INSERT OR REPLACE INTO meta VALUES('left', ?)", (n,))
                connection.execute("INSERT OR REPLACE INTO meta VALUES('right', ?)", (n,))
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        backup.make(alice, file)
    finally:
        stop.set()
        thread.join()
    again = restored(network, file)
    assert again.store.meta("left") == again.store.meta("right")


def test_a_clone_that_is_not_whole_yet_is_not_backed_up(network):
    carol = network.add("carol")
    with pytest.raises(StoreError) as caught:
        backup.make(carol, network.folder / "carol.backup")
    assert "replica sync" in caught.value.hint


def test_who_was_removed_does_not_come_back_by_a_backup(network):
    """The memory does: what it holds can be read, and taken along into a clone that is joined anew."""
    file = backed_up(network)
    network["bob"].remove("alice")
    again = restored(network, file)
    network.now += 1_000
    try:
        network.sync("restored", "bob")
    except AssertionError:
        pass  # bob hangs up
    assert again.identity.id not in network["bob"].trusted()
    assert "only here" in again.text("a-buffer.md")


def test_the_commands(replica):  # noqa: F811
    replica.save("a-buffer.md", "# A\n\n- one\n- two\n- saved\n")
    target = replica.root.parent / "safe.replica-backup"
    made = replica.json("backup", str(target))
    assert made["file"] == str(target) and made["format"] == 1 and made["bytes"] == target.stat().st_size
    replica("backup", str(target), code=2)
    assert "overwrites nothing" in replica.err
    folder = replica.root.parent / "backups"
    folder.mkdir()
    named = replica("backup", str(folder)).strip()
    assert named.endswith(".replica-backup") and os.listdir(folder) == [os.path.basename(named)]
    assert "level 0" in replica.err
    assert replica.json("restore-backup", str(target), "--check")["clone"] == "laptop"
    again = replica.root.parent / "again"
    done = replica.json("restore-backup", str(target), str(again))
    assert done == {"root": str(again), "clone": "laptop-restored", "of": "laptop", "files": made["files"]}
    assert (again / "a-buffer.md").read_text().endswith("- saved\n")
    assert replica.json("status", "--dir", str(again))["clone"]["name"] == "laptop-restored"
    assert replica.json("status")["clone"]["name"] == "laptop"
    replica("restore-backup", str(target), str(again), code=1)
    target.write_bytes(target.read_bytes()[:-5])
    replica("restore-backup", str(target), str(again / "new"), code=1)
    assert "damaged or cut short" in replica.err and "hint" in replica.err


def test_every_refusal_is_one_of_ours():
    assert issubclass(backup.NotABackup, ReplicaError) and backup.NotABackup.hint
