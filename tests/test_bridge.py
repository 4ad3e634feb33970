"""Files and documents stay one: saves of every kind become changes once, changes become files, accidents are held."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import changes, folder
from replica.bridge import SECOND_LOOK
from replica.changes import Kind
from replica.errors import DocumentNotFound, StoreError
from replica.filetext import canonical, decode
from tests.helpers import Network, add, assert_same, entry, forged, read, save, shared_content

PATHS = ("a-buffer.md", "activeContext.md", "SESSION_LOG.md", "notes.md")
BULLETS = "".join(f"- lesson number {n}\n" for n in range(30))

LINES = '\n[[documents]]\nglob = "**/*.md"\npolicy = "text"\n'
UNION = '[[documents]]\nglob = "notes.md"\npolicy = "union"\n' + LINES


def files(clone) -> dict[str, bytes]:
    """Every file that a person sees."""
    return {
        file.relative_to(clone.root).as_posix(): file.read_bytes()
        for file in sorted(clone.root.rglob("*"))
        if file.is_file() and ".replica" not in file.relative_to(clone.root).parts
    }


def rows(clone) -> int:
    return clone.log.last_row()


# --- bytes


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content",
    [b"# H\r\n\r\n- one\r\n- two\r\n", b"\xef\xbb\xbf# H\n\n- one\n", b"- one\n- two", b"", b" \n\n\t\n",
    b"\r\n", b"\xef\xbb\xbf",
     "- \U0001f9e0 e\u0301 \u05d0\u202e x\0y\rz\n".encode(), b"- one\n\n\n\n", b"\n\n- one\n",
     b"- one\r\n- two\n- three\r\n"],
)  # fmt: skip
def test_bytes_that_nobody_changed_stay_and_come_to_others_as_text(path, content):
    """FAILURES 25: marks, line endings and final newlines belong to the file; nothing goes round in circles."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, content)
        network.share()
        assert (alice.root / path).read_bytes() == content
        text = decode(content).text
        assert read(bob, path) == (text if path == "notes.md" else canonical(text))
        before = rows(alice)
        assert network.run("alice").quiet and network.run("bob").quiet and rows(alice) == before


@pytest.mark.parametrize("path", PATHS)
def test_what_others_add_leaves_every_other_byte_of_the_file_alone(path):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, b"\xef\xbb\xbf- one\r\n- two  \r\n- three\n")
        network.share()
        save(bob, path, read(bob, path) + "- bob\n")
        network.share()
        assert (alice.root / path).read_bytes() == b"\xef\xbb\xbf- one\r\n- two  \r\n- three\n- bob\r\n"


any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.lists(
    st.sampled_from(
        ["- a\n", "- b\r\n", "\r", "\0", "🧠", "e\u0301", "\u0301", "א\u202e", "# H\n", "\n", " ", "\ufeff", "- a"]
    )
).map("".join)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(PATHS), any_text, st.booleans()), max_size=12))
@settings(max_examples=60, deadline=None)
def test_random_saves_on_three_clones_end_in_equal_files(edits):
    """FAILURES 22, 23: any text in any file, synced now and then; in the end every file is its document."""
    with Network("alice", "bob", "carol") as network:
        names = list(network.clones)
        for who, path, text, meet in edits:
            clone = network[names[who]]
            old = (clone.root / path).read_bytes().decode() if (clone.root / path).exists() else ""
            grows = path == "SESSION_LOG.md"
            save(clone, path, old + text if grows else text)
            network.run(clone.name)
            if meet:
                network.sync(names[who], names[(who + 1) % 3])
                network.run(names[(who + 1) % 3])
        for _ in range(4):  # what is held (a log's past, rewritten by words that flow together) is let through
            network.share()
            for name in names:
                if network.bridge(name).held():
                    network.now += SECOND_LOOK
                    network.run(name, force=[held["path"] for held in network.bridge(name).held()], every=True)
        network.share()
        assert_same(*network.clones.values())
        for clone in network.clones.values():
            for document in clone.documents.all():
                shown = decode((clone.root / document.path).read_bytes()).text
                text = clone.documents.text(document)
                assert (shown if document.policy == "text" else canonical(shown)) == text
            assert network.run(clone.name).quiet


def test_blocks_of_two_clones_that_flow_together_are_still_known_by_name():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.edit_entries("a-buffer.md", "union", [(1, entry("prose of alice", role="prose"))])
        bob.edit_entries("a-buffer.md", "union", [(1, entry("prose of bob", role="prose")), (1, entry("- bullet"))])
        network.share()
        shown = read(alice, "a-buffer.md")
        assert "- bullet" in shown
        save(alice, "a-buffer.md", shown.replace("- bullet\n", ""))
        network.share()
        assert "- bullet" not in read(bob, "a-buffer.md")
        assert files(alice) == files(bob)


# --- ways to save


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_is_gone_is_believed_at_the_second_look_only(path):
    """FAILURES 21, 22."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- one\n")
        save(alice, "other.md", "x\n")
        network.share()
        (alice.root / path).unlink()
        bridge = network.bridge("alice")
        assert bridge.run().look_again and alice.text(path) == "- one\n"
        network.now += SECOND_LOOK - 1
        assert bridge.run().look_again and alice.text(path) == "- one\n"
        network.now += 1
        assert bridge.run().deleted == [path]
        network.share()
        assert not (bob.root / path).exists() and (bob.root / "other.md").exists()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("way", ["delete then create", "truncate then write", "rename over"])
def test_a_save_in_two_steps_is_one_edit(path, way):
    """FAILURES 22: editors delete, truncate or rename; a look in between sees no deletion."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- one\n- two\n")
        save(alice, "other.md", "x\n")
        network.share()
        file, before = alice.root / path, rows(alice)
        if way == "delete then create":
            file.unlink()
        elif way == "truncate then write":
            file.write_bytes(b"")
        else:
            (alice.root / "swap").write_bytes(b"- one\n- two\n- three\n")
        between = network.bridge("alice").run()
        assert not between.deleted and rows(alice) == before
        network.now += 100
        if way == "rename over":
            os.replace(alice.root / "swap", file)
        else:
            file.write_bytes(b"- one\n- two\n- three\n")
        network.share()
        assert read(bob, path) == read(alice, path) == "- one\n- two\n- three\n"
        assert not network.bridge("alice").held()


def test_truncating_replica_toml_on_the_way_to_a_save_puts_no_empty_rules_in_force():
    """FAILURES 22: the file of the rules is saved like any other."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        save(alice, "replica.toml", UNION)
        save(alice, "notes.md", "- one\n")
        network.share()
        assert alice.document("notes.md").policy == "union"
        (alice.root / "replica.toml").write_bytes(b"")
        network.bridge("alice").run()
        assert alice.rule("notes.md").policy == "union" and alice.document("notes.md").policy == "union"
        save(alice, "replica.toml", UNION + "# more\n")
        network.share()
        assert alice.document("notes.md").policy == "union"


def test_a_touched_file_is_no_edit():
    """FAILURES 24: content counts, not the time of change."""
    with Network("alice") as network:
        alice = network["alice"]
        for path in PATHS:
            save(alice, path, "- one\n")
        network.run("alice")
        before = rows(alice)
        for path in PATHS:
            os.utime(alice.root / path, (1, 1))
        assert network.run("alice").quiet and rows(alice) == before


def test_a_renamed_file_is_a_deletion_and_a_new_document():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for path in ("one.md", "two.md"):
            save(alice, path, f"{path}\n")
        network.share()
        os.rename(alice.root / "one.md", alice.root / "three.md")
        network.share()
        assert set(files(bob)) == {"two.md", "three.md"} and read(bob, "three.md") == "one.md\n"


def test_a_folder_in_the_place_of_a_file_is_no_deletion():
    """FAILURES 21."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "kept\n"), save(alice, "other.md", "x\n")
        network.share()
        (alice.root / "notes.md").unlink()
        (alice.root / "notes.md").mkdir()
        for _ in range(3):
            network.now += SECOND_LOOK
            report = network.bridge("alice").run()
            assert "folder" in report.skipped["notes.md"] and not report.deleted
        save(bob, "notes.md", "kept, and more\n")
        network.share()
        (alice.root / "notes.md").rmdir()
        network.share()
        assert alice.text("notes.md") == "kept, and more\n"


def test_a_file_that_cannot_be_read_is_listed_and_no_deletion(monkeypatch):
    """FAILURES 21: a failed read is not a person's decision."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        save(alice, "notes.md", "kept\n")
        network.share()
        save(alice, "notes.md", "changed\n")
        real = Path.read_bytes

        def denied(self):
            if self.name == "notes.md":
                raise PermissionError(13, "Permission denied")
            return real(self)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", denied)
            for _ in range(3):
                network.now += SECOND_LOOK
                report = network.bridge("alice").run()
                assert "Permission denied" in report.skipped["notes.md"]
        assert alice.text("notes.md") == "kept\n"
        network.share()
        assert network["bob"].text("notes.md") == "changed\n"


def test_a_root_that_is_gone_is_an_error_and_no_deletion():
    """FAILURES 21: an unmounted folder."""
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "notes.md", "kept\n")
        network.run("alice")
        os.rename(alice.root, alice.root.with_name("elsewhere"))
        with pytest.raises(StoreError, match="gone"):
            network.bridge("alice").run()
        os.rename(alice.root.with_name("elsewhere"), alice.root)
        assert network.run("alice").quiet and alice.text("notes.md") == "kept\n"


@pytest.mark.parametrize(("content", "reason"), [(b"\xff\xfe", "not UTF-8"), (b"x" * 1_000_001, "over the limit")])
@pytest.mark.parametrize("path", ["notes.md", "a-buffer.md"])
def test_a_file_that_is_no_text_or_too_large_is_listed_and_stays_as_it_is(path, content, reason):
    """FAILURES 18: one bad document leaves the others alone."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- before\n")
        network.share()
        save(alice, path, content), save(alice, "good.md", "good\n")
        report = network.run("alice")
        assert reason in report.skipped[path] and report.taken == ["good.md"]
        assert alice.store.value("SELECT reason FROM skipped WHERE path=?", (path,))
        add(bob, "a-buffer.md", "- from bob")
        network.share()
        assert (alice.root / path).read_bytes() == content and read(bob, "good.md") == "good\n"


@pytest.mark.parametrize("path", ["notes.md", "a-buffer.md", "activeContext.md", "SESSION_LOG.md"])
def test_a_document_that_no_change_can_hold_is_listed_and_the_others_go_on(path):
    """FAILURES 18: whatever the limit in replica.toml says."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", '[limits]\ndocument = "9MB"\n')
        save(alice, path, "- " + "x" * 2_000_000 + "\n"), save(alice, "z.md", "good\n")
        report = network.run("alice")
        assert path in report.skipped
        network.share()
        assert read(bob, "z.md") == "good\n"


# --- edits that meet


@pytest.mark.parametrize("path", PATHS)
def test_an_edit_of_the_file_while_a_change_arrives_keeps_both(path):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- one\n- two\n")
        network.share()
        save(bob, path, read(bob, path) + "- bob\n")
        network.run("bob")
        network.sync("alice", "bob")
        save(alice, path, "- one\n- two\n- alice\n")
        network.share()
        everything = "".join(v.text for d in (alice,) for c in d.documents.all_conflicts() for v in c.versions)
        for clone in (alice, bob):
            for line in ("- alice", "- bob"):
                assert line in read(clone, path) or (path == "activeContext.md" and line in everything)
        assert files(alice) == files(bob)


def test_a_save_between_the_look_and_the_write_is_taken_in_before_it_is_written_over(monkeypatch):
    """FAILURES 22, 23."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "notes.md", "one\n")
        network.share()
        save(bob, "notes.md", "one\nbob\n")
        network.run("bob"), network.sync("alice", "bob")
        bridge = network.bridge("alice")
        look = bridge._look

        def look_then_save():
            found = look()
            save(alice, "notes.md", "alice\none\n")
            return found

        monkeypatch.setattr(bridge, "_look", look_then_save)
        bridge.run()
        monkeypatch.undo()
        network.share()
        assert read(alice, "notes.md") == read(bob, "notes.md") == "alice\none\nbob\n"


def test_a_document_deleted_elsewhere_and_edited_here_comes_back_with_the_edit():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for path in (*PATHS, "other.md"):
            save(alice, path, "- one\n")
        network.share()
        for path in PATHS:
            bob.delete(bob.document(path))
        network.run("bob"), network.sync("alice", "bob")
        for path in PATHS:
            save(alice, path, "- one\n- edited\n")
        network.share()
        for path in PATHS:
            assert "- edited" in read(bob, path) and read(alice, path) == read(bob, path)


def test_a_document_deleted_elsewhere_takes_the_file_and_its_empty_folder_along():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "deep/er/notes.md", "x\n"), save(alice, "other.md", "y\n")
        network.share()
        bob.delete(bob.document("deep/er/notes.md"))
        network.share()
        assert set(files(alice)) == {"other.md"} and not (alice.root / "deep").exists()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("when", ["before the store knows", "before the file is there"])
def test_a_crash_between_the_file_and_the_store_doubles_nothing(path, when, monkeypatch):
    """FAILURES 19, 23: what we were about to write is recognised as ours."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, path, "- one\n- two\n")
        network.share()
        save(bob, path, "- one\n- two\n- three\n")
        network.run("bob"), network.sync("alice", "bob")
        write = folder.write_all

        def cut(*arguments):
            if when == "before the store knows":
                write(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(folder, "write_all", cut)
            with pytest.raises(KeyboardInterrupt):
                network.bridge("alice").run()
        alice = network.reopen("alice")
        before = rows(alice)
        network.share()
        assert rows(alice) == before, "a crash looked like an edit"
        assert read(alice, path) == read(bob, path) == "- one\n- two\n- three\n"


def test_a_crash_before_a_new_file_is_there_does_not_delete_its_document(monkeypatch):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(bob, "notes.md", "new\n")
        network.run("bob"), network.sync("alice", "bob")
        with monkeypatch.context() as patch:
            patch.setattr(folder, "write_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                network.bridge("alice").run()
        for _ in range(2):
            network.now += SECOND_LOOK
            network.share()
        assert read(alice, "notes.md") == read(bob, "notes.md") == "new\n"


def test_a_half_written_file_of_an_earlier_crash_does_not_stand_in_the_way():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        (alice.root / f"{folder.TEMPORARY}{os.getpid()}-notes.md").write_bytes(b"half")
        save(bob, "notes.md", "new\n")
        network.share()
        assert read(alice, "notes.md") == "new\n"
        assert set(files(alice)) == {"notes.md"}


# --- the guard


def test_many_entries_gone_at_once_are_held_until_accepted():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", BULLETS), save(alice, "notes.md", BULLETS)
        network.share()
        for path in ("a-buffer.md", "notes.md"):
            save(alice, path, "- lesson number 1\n")
        report = network.run("alice")
        assert set(report.held) == {"a-buffer.md", "notes.md"} and "29 of 30" in report.held["a-buffer.md"]
        network.share()
        assert read(bob, "a-buffer.md") == BULLETS and read(alice, "a-buffer.md") == "- lesson number 1\n"
        assert [row["reason"] for row in network.bridge("alice").held()] == ["removal", "removal"]
        network.bridge("alice").accept(["a-buffer.md"])
        network.share()
        assert read(bob, "a-buffer.md") == "- lesson number 1\n" and read(bob, "notes.md") == BULLETS


def test_what_is_rejected_is_undone_and_kept_beside_the_store():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", BULLETS)
        network.share()
        save(alice, "a-buffer.md", "- lesson number 1\n- new one\n")
        network.run("alice")
        add(bob, "a-buffer.md", "- from bob")
        network.sync("alice", "bob")
        assert network.bridge("alice").reject([]) == ["a-buffer.md"]
        network.share()
        assert "- from bob" in read(alice, "a-buffer.md") and "- lesson number 29" in read(alice, "a-buffer.md")
        (kept,) = (alice.root / ".replica" / "rejected").iterdir()
        assert kept.read_text() == "- lesson number 1\n- new one\n"
        with pytest.raises(DocumentNotFound):
            network.bridge("alice").reject(["a-buffer.md"])


def test_files_that_vanish_together_are_held_and_come_back_with_reject():
    """FAILURES 12, 21."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(8):
            save(alice, f"n{n}.md", f"{n}\n")
        network.share()
        for n in range(6):
            (alice.root / f"n{n}.md").unlink()
        report = network.run("alice")
        assert len(report.held) == 6 and not report.deleted
        network.share()
        assert len(files(bob)) == 8
        network.bridge("alice").reject([])
        assert len(files(alice)) == 8
        for n in range(6):
            (alice.root / f"n{n}.md").unlink()
        network.run("alice")
        network.bridge("alice").accept([])
        network.share()
        assert len(files(bob)) == 2


def test_all_documents_that_vanish_are_held_however_few():
    """The store without its files: replica.toml is none of the documents, and may be there still."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", "")
        save(alice, "one.md", "1\n")
        save(alice, "two.md", "2\n")
        network.share()
        for name in ("one.md", "two.md"):
            (alice.root / name).unlink()
        assert set(network.run("alice").held) == {"one.md", "two.md"}
        network.share()
        assert read(bob, "one.md") == "1\n"


def test_entries_that_go_with_a_switch_of_branches_are_held():
    with Network("alice", "bob") as network:
        alice = network["alice"]
        (alice.root / ".git").mkdir()
        (alice.root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        save(alice, "a-buffer.md", "- one\n- two\n")
        network.share()
        (alice.root / ".git" / "HEAD").write_text("ref: refs/heads/old\n")
        save(alice, "a-buffer.md", "- one\n")
        assert "branch" in network.run("alice").held["a-buffer.md"]
        network.share()
        assert read(network["bob"], "a-buffer.md") == "- one\n- two\n"
        (alice.root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        save(alice, "a-buffer.md", "- one\n- two\n")
        assert not network.run("alice").held and not network.bridge("alice").held()


def test_an_edit_of_a_logs_past_is_held_with_the_reason():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "SESSION_LOG.md", "# Log\n\n- 10:00 one\n- 10:05 two\n")
        network.share()
        save(alice, "SESSION_LOG.md", "# Log\n\n- 10:00 one, rewritten\n- 10:05 two\n")
        assert "only grows" in network.run("alice").held["SESSION_LOG.md"]
        add(bob, "SESSION_LOG.md", "- 10:10 three", policy="log")
        network.share()
        assert "rewritten" not in read(bob, "SESSION_LOG.md")
        network.bridge("alice").reject([])
        network.share()
        assert read(alice, "SESSION_LOG.md") == "# Log\n\n- 10:00 one\n- 10:05 two\n- 10:10 three\n"


# --- names


@pytest.mark.parametrize(
    "path",
    ["../x.md", "/tmp/x.md", ".git/hooks/x.md", ".replica/x.md", "a/../../x.md", "CON.md", "aux/x.md",
    "a\\..\\x.md", "x.md.",
     "x\0.md", "a//x.md", "./x.md", "C:x.md", "\u202ex.md", "GIT~1/x.md", ".GIT/x.md", "x.md\n", " /x.md",
     "x" * 150 + ".md"],
)  # fmt: skip
def test_an_unsafe_path_from_a_peer_is_never_written_and_is_listed(path):
    """FAILURES 26."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", '[[documents]]\nglob = "**"\npolicy = "text"\n')
        network.share()
        before = {file for file in network.folder.rglob("*") if ".db" not in file.name}
        alice.ingest([forged(bob.identity, alice, Kind.IMPORT, (path, "text"), "pwned\n")])
        report = network.run("alice")
        assert {file for file in network.folder.rglob("*") if ".db" not in file.name} == before
        assert not report.written and (path in report.skipped or alice.rule(path) is None)
        save(alice, "good.md", "good\n")
        assert network.run("alice").taken == ["good.md"]


def test_a_link_on_the_way_is_not_followed_to_read_or_to_write(tmp_path):
    """FAILURES 26."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        (tmp_path / "outside.md").write_text("outside\n")
        (alice.root / "linked").symlink_to(tmp_path)
        (alice.root / "link.md").symlink_to(tmp_path / "outside.md")
        assert network.run("alice").quiet
        save(bob, "linked/notes.md", "x\n"), save(bob, "link.md", "y\n")
        network.run("bob"), network.sync("alice", "bob")
        report = network.run("alice")
        assert "link" in report.skipped["linked/notes.md"] and "link" in report.skipped["link.md"]
        assert [file.name for file in tmp_path.iterdir()] == ["outside.md"]
        assert (tmp_path / "outside.md").read_text() == "outside\n"
        network.now += SECOND_LOOK
        assert not network.run("alice").deleted
        assert set(files(bob)) == {"linked/notes.md", "link.md"}


def test_names_that_differ_in_case_only_are_not_both_written():
    """FAILURES 25: where one file holds both, the second would delete the first."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        save(alice, "Notes.md", "upper\n"), save(bob, "notes.md", "lower\n")
        for name in ("alice", "bob"):
            network.run(name)
        network.sync_all()
        report = network.run("carol")
        assert len(report.written) == 1 and "case" in next(iter(report.skipped.values()))
        for name in ("alice", "bob"):
            report = network.run(name)
            assert not report.written and not report.removed and "case" in next(iter(report.skipped.values()))
        network.now += SECOND_LOOK
        network.sync_all(), network.run("carol"), network.sync_all()
        assert {path for path, _ in shared_content(carol)} == {"Notes.md", "notes.md"}
        assert read(alice, "Notes.md") == "upper\n" and read(bob, "notes.md") == "lower\n"


def test_a_name_composed_in_another_way_is_the_same_document():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, unicodedata.normalize("NFD", "café.md"), "x\n")
        network.share()
        assert set(files(bob)) == {unicodedata.normalize("NFC", "café.md")}
        assert network.run("alice").quiet


def test_a_clone_inside_the_clone_and_hidden_folders_are_not_ours():
    with Network("alice") as network:
        alice = network["alice"]
        (alice.root / "inner" / ".replica").mkdir(parents=True)
        save(alice, "inner/notes.md", "x\n"), save(alice, ".git/notes.md", "x\n"), save(alice, "ours.md", "x\n")
        assert network.run("alice").taken == ["ours.md"]


# --- replica.toml


def test_a_mistake_in_replica_toml_is_named_with_its_line_and_the_last_valid_one_stays():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION), save(alice, "notes.md", "- one\n")
        network.share()
        for broken in (
            '# fine\n\n[[documents]]\nglob = "x"\npolicy = "onion"\n',
            "\n\n\n\n[[documents",
            "\n\n\n\n\xff",
        ):
            save(alice, "replica.toml", broken.encode("latin-1"))
            report = network.run("alice")
            assert "line 5" in report.skipped["replica.toml"] or "byte 4" in report.skipped["replica.toml"]
            assert alice.rule("notes.md").policy == "union"
        save(alice, "notes.md", "- one\n- two\n")
        network.share()
        assert read(bob, "notes.md") == "- one\n- two\n" and read(bob, "replica.toml") == UNION
        assert (alice.root / "replica.toml").read_bytes() == b"\n\n\n\n\xff"


def test_an_invalid_replica_toml_from_a_peer_is_not_put_in_force():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION)
        network.share()
        seen = bob.entries("replica.toml")[0].dots
        bob.edit_entries("replica.toml", "latest", [(1, entry("[[documents", kills=seen))])
        network.sync("alice", "bob")
        network.run("alice")
        assert alice.rule("notes.md").policy == "union"
        alice = network.reopen("alice")
        assert alice.rule("notes.md").policy == "union"


@pytest.mark.parametrize("policy", ["union", "latest", "log"])
def test_a_change_of_rules_holds_on_every_clone_and_moves_the_content_along(policy):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", LINES), save(alice, "notes.md", "# H\n\n- one\n- two\n")
        network.share()
        assert bob.document("notes.md").policy == "text"
        save(alice, "replica.toml", UNION.replace("union", policy))
        network.share()
        for clone in (alice, bob):
            assert clone.document("notes.md").policy == policy and read(clone, "notes.md") == "# H\n\n- one\n- two\n"
        assert_same(alice, bob)
        assert [d.policy for d in bob.documents.all() if d.path == "notes.md"] == [policy]


def test_what_was_not_yet_in_the_file_moves_along_when_the_rules_change():
    """Nothing is lost between two policies."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", UNION), save(alice, "notes.md", "- one\n")
        network.share()
        add(bob, "notes.md", "- by command, not in the file yet")
        save(alice, "replica.toml", LINES)
        network.run("alice"), network.sync("alice", "bob")
        network.share()
        for clone in (alice, bob):
            assert "- by command" in read(clone, "notes.md")
        assert_same(alice, bob)


def test_documents_that_are_not_live_wait_for_their_time():
    weekly = '[[documents]]\nglob = "**/*.md"\npolicy = "union"\ncadence = "weekly"\n'
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "replica.toml", weekly)
        network.run("alice")
        save(alice, "notes.md", "- one\n")
        assert network.run("alice").quiet
        assert network.run("alice", every=True).taken == ["notes.md"]
        save(alice, "notes.md", "- one\n- two\n")
        network.now += 8 * 86_400_000
        assert network.run("alice").taken == ["notes.md"]


def test_level_zero_files_stay_here():
    private = '[[documents]]\nglob = "private/**"\npolicy = "text"\nlevel = 0\n' + LINES
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", private)
        save(alice, "private/x.md", "secret\n"), save(alice, "open.md", "open\n")
        network.share()
        assert "private/x.md" not in files(bob) and read(bob, "open.md") == "open\n"
        assert alice.text("private/x.md") == "secret\n"
        assert all(b"secret" not in signed for (signed,) in bob.store.rows("SELECT body FROM changes"))


def test_every_policy_has_its_test_here():
    assert len(PATHS) == len(changes.POLICIES)


def test_a_new_folder_that_the_watch_names_is_looked_into():
    """Of files that were written into it before it was watched itself, the watch says nothing."""
    with Network("alice") as network:
        alice = network["alice"]
        save(alice, "replica.toml", 'exclude = ["build/**"]\n' + LINES)
        bridge = network.bridge("alice")
        bridge.run()
        save(alice, "personas/ledger/now.md", "here\n"), save(alice, "build/out/now.md", "made\n")
        assert bridge.collect({"build/out"}).quiet
        assert bridge.collect({"personas"}).taken == ["personas/ledger/now.md"]
