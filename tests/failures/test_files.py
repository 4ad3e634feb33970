"""What broke between plain files and documents: absence, saves in steps, names, watches."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import pytest

from replica.bridge import SECOND_LOOK
from replica.changes import Kind
from replica.errors import ReplicaError
from tests.failures import PATHS
from tests.helpers import Network, assert_same, forged, read, save, shared_content
from transport.watch import watch


def test_failure_21_what_we_did_not_write_or_cannot_see_is_not_deleted():
    """What could not be written or seen counted as deleted: here only what we wrote can be missed, and twice."""
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


def test_failure_21_a_root_without_its_marker_is_an_unmounted_disk_and_no_deletion():
    """An unmounted folder was taken for a person who deletes everything: here nothing is done without `.replica/`."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for path in PATHS:
            save(alice, path, "- one\n")
        network.share()
        os.rename(alice.root, network.folder / "unmounted")
        alice.root.mkdir()  # the empty mount point
        for _ in range(3):
            network.now += SECOND_LOOK
            with pytest.raises(ReplicaError, match="gone or not mounted"):
                network.bridge("alice").run()
        assert os.listdir(alice.root) == []
        alice.root.rmdir()
        os.rename(network.folder / "unmounted", alice.root)
        network.share()
        assert all(read(bob, path) == "- one\n" for path in PATHS)


def test_failure_21_a_write_that_fails_is_no_deletion_by_a_person(monkeypatch):
    """A file that could not be written was missed later, and deleted everywhere: here it was never ours to miss."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(bob, "notes.md", "x\n")
        network.run("bob"), network.sync("alice", "bob")
        with monkeypatch.context() as failing:
            failing.setattr(os, "replace", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            assert "notes.md" in network.bridge("alice").run().skipped
        for _ in range(3):
            network.now += SECOND_LOOK
            assert not network.bridge("alice").run().deleted
        network.share()
        assert read(alice, "notes.md") == read(bob, "notes.md") == "x\n"


@pytest.mark.parametrize("path", PATHS)
def test_failure_22_every_way_of_saving_is_one_edit(path):
    """Editors delete, truncate or rename to save, and a look in between saw nothing: here all are one edit."""
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
def test_failure_23_a_store_that_forgot_the_files_takes_them_for_what_they_are(path):
    """A document rebuilt from its file doubled or lost text: here a forgotten file is compared, not added."""
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


def test_failure_24_an_equal_file_with_a_new_date_is_not_read_into_the_log():
    """A new date on an equal file was taken for a change: here content counts."""
    with Network("alice") as network:
        alice = network["alice"]
        for path in PATHS:
            save(alice, path, "- one\n")
        network.run("alice")
        rows = alice.log.last_row()
        for path in PATHS:
            file = save(alice, path, "- one\n")  # the same again
            os.utime(file, (1, 1))  # and as old as can be
        assert network.run("alice").quiet and alice.log.last_row() == rows


def test_failure_25_names_that_differ_in_case_delete_nothing_and_a_mark_does_not_loop():
    """Names that differ in case deleted each other, a byte-order mark went in circles: here nothing does."""
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
def test_failure_26_a_name_from_a_peer_leads_nowhere_outside(path):
    """A name from a peer wrote outside of the folder: here it is passed over and nothing is written."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        before = sorted(p for p in network.folder.rglob("*") if ".db" not in p.name)
        alice.ingest([forged(bob.identity, alice, Kind.IMPORT, (path, "text"), "pwned\n")])
        network.run("alice")
        assert sorted(p for p in network.folder.rglob("*") if ".db" not in p.name) == before
        network.sync("alice", "bob")


def test_failure_26_a_link_on_the_way_leads_nowhere_outside():
    """A link in the folder led a peer's file out of it: here nothing is written or read through a link."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        outside = network.folder / "outside"
        outside.mkdir()
        (alice.root / "out").symlink_to(outside)
        (alice.root / "file.md").symlink_to(outside / "made.md")
        save(bob, "out/made.md", "of bob\n"), save(bob, "file.md", "of bob\n")
        network.run("bob"), network.sync("alice", "bob")
        assert set(network.run("alice").skipped) == {"out/made.md", "file.md"}
        assert os.listdir(outside) == [] and (alice.root / "out").is_symlink() and (alice.root / "file.md").is_symlink()


@pytest.fixture
def in_memory():
    """A folder where ten thousand files are quick to make."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="replica-test-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def watches() -> int:
    """How many places inotify watches for this process."""
    count = 0
    for file in Path("/proc/self/fdinfo").iterdir():
        try:
            count += file.read_text().count("inotify wd:")
        except OSError:  # closed since
            continue
    return count


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts inotify's watches in /proc")
def test_failure_27_ten_thousand_files_need_a_watch_for_each_folder_only(in_memory):
    """The system's limit of watches ran out: here folders are watched, not files."""
    for folder in range(100):
        (in_memory / f"folder{folder}").mkdir()
        for file in range(100):
            (in_memory / f"folder{folder}" / f"{file}.md").touch()

    async def story():
        stop, heard, before = asyncio.Event(), asyncio.Event(), watches()
        seen: set[str] = set()

        def changed(paths):
            seen.update(paths)
            heard.set()

        watching = asyncio.ensure_future(watch(in_memory, stop, changed, pytest.fail))
        for n in range(200):  # the watch begins in a thread of its own; until it has, nothing is heard
            (in_memory / "folder99" / "99.md").write_text(str(n))
            try:
                await asyncio.wait_for(heard.wait(), 0.1)
                break
            except TimeoutError:
                continue
        used = watches() - before
        stop.set()
        await watching
        assert seen == {"folder99/99.md"} and 1 <= used <= 101

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["watches", "instances"])
def test_failure_27_where_the_limit_of_watches_is_reached_it_is_said_and_the_folder_still_seen(
    tmp_path, monkeypatch, kind
):
    """Without a watch, edits went unnoticed: here that is said with the way out, and the folder is looked at."""
    import watchfiles
    from watchfiles._rust_notify import WatchfilesRustInternalError

    async def none_left(*_, **__):
        raise {
            "watches": OSError("OS file watch limit reached. about [...]"),
            "instances": WatchfilesRustInternalError("Error creating recommended watcher: Too many open files"),
        }[kind]
        yield

    monkeypatch.setattr(watchfiles, "awatch", none_left)
    monkeypatch.setattr("transport.watch.POLL_AGAIN", 0.01)

    async def story():
        stop, looks, said = asyncio.Event(), [], []

        def look(paths):
            looks.append(paths)
            if len(looks) == 3:
                stop.set()

        await asyncio.wait_for(watch(tmp_path, stop, look, said.append), 10)
        assert looks == [None] * 3  # look at everything
        (why,) = said
        assert "limit" in why or "Too many" in why

    asyncio.run(story())
