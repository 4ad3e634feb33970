"""What other tools could not merge is noticed, held with a reason, and not spread."""

import pytest

from replica import markers, status
from replica.clone import Clone
from tests.helpers import Network, read, save

GIT = "# A\n\n- one\n<<<<<<< HEAD\n- mine\n=======\n- theirs\n>>>>>>> feature/x\n- two\n"
DIFF3 = GIT.replace("=======\n", "||||||| 1a2b3c4\n- before\n=======\n")
CLEAN = "# A\n\n- one\n- mine\n- theirs\n- two\n"


@pytest.mark.parametrize(("text", "lines"), [
    (GIT, [4, 8]),
    (DIFF3, [4, 6, 10]),
    (GIT.replace("\n", "\r\n"), [4, 8]),
    ("<<<<<<<\na\n=======\nb\n>>>>>>>\n", [1, 5]),
    ("a\n=======\nb\n>>>>>>> theirs\n", [4]),  # the beginning was taken out by hand
    (CLEAN, []),
    ("Title\n=======\n\ntext\n", []),  # a heading
    ("> > > > quoted\n>>>>>>> a mail of seven levels\n", []),
    ("  <<<<<<< indented\n", []),
    ("<<<<<<<< eight\n========\n>>>>>>>> eight\n", []),
    ("say `<<<<<<< HEAD` to it\n", []),
])  # fmt: skip
def test_markers_are_known_as_tools_write_them_and_nothing_else_is(text, lines):
    assert markers.lines_of(text) == lines


@pytest.mark.parametrize(("name", "first"), [
    ("a.sync-conflict-20260301-142233-ABCDEF7.md", "a.md"),
    ("notes/a.sync-conflict-20260301-142233.md", "notes/a.md"),
    ("a (conflicted copy 2026-03-01).md", "a.md"),
    ("a (Alice's conflicted copy 2026-03-01).md", "a.md"),
    ("a (Case Conflict).md", None),
    ("a (conflicted copy 2026-03-01 142233).md", "a.md"),
    ("a_conflict-20260301-142233.md", "a.md"),
    ("a_REMOTE_4711.md", "a.md"),
    ("a (1).md", "a.md"),
    ("b (1).md", None),  # there is no b.md
    ("a (2026).md", None),
    ("sync-conflict.md", None), ("a-conflict.md", None), ("a_BASE.md", None), ("how to solve a conflict.md", None),
])  # fmt: skip
def test_second_files_are_known_by_their_names(name, first):
    hold = markers.judge_name(name, lambda path: path in ("a.md", "notes/a.md"))
    assert (hold is None) == (first is None)
    assert first is None or (hold.reason == "copy" and f"beside {first};" in hold.what)


@pytest.fixture
def network():
    with Network("alice", "bob") as network:
        save(network["alice"], "a-buffer.md", "# A\n\n- one\n- two\n")
        network.share()
        yield network


@pytest.mark.parametrize("text", [GIT, DIFF3])
@pytest.mark.parametrize("path", ["a-buffer.md", "new-buffer.md", "notes.md"])
def test_a_file_with_markers_waits_and_reaches_nobody(network, path, text):
    alice, bob = network["alice"], network["bob"]
    save(alice, path, text)
    report = network.run("alice")
    assert "line 4" in report.held[path] and path not in report.taken
    network.share()
    assert not (bob.root / path).exists() or "<<<<" not in read(bob, path)
    (row,) = status.status(alice, None)["held"]
    assert (row["path"], row["reason"]) == (path, "markers")
    check = next(check for check in status.checks(alice, network.now) if check.name == "held")
    assert check.state == "problem" and path in check.what
    save(alice, path, CLEAN)  # mended: it goes on by itself
    network.share()
    assert read(bob, path) == CLEAN and not network.bridge("alice").held()


def test_accept_lets_markers_through_and_they_are_asked_for_once(network):
    alice, bob = network["alice"], network["bob"]
    save(alice, "notes.md", GIT)
    network.run("alice")
    network.bridge("alice").accept([])
    network.share()
    assert read(bob, "notes.md") == GIT
    save(alice, "notes.md", GIT + "- three\n")
    network.share()
    assert read(bob, "notes.md") == GIT + "- three\n"
    save(alice, "notes.md", GIT + GIT)  # more of them
    assert "notes.md" in network.run("alice").held
    check = next(check for check in status.checks(bob, network.now) if check.name == "markers")
    assert check.state == "note" and "notes.md has them in line 4" in check.what


def test_reject_brings_the_document_back_and_keeps_what_was_there(network):
    alice = network["alice"]
    save(alice, "a-buffer.md", GIT)
    save(alice, "new.md", GIT)
    network.run("alice")
    assert network.bridge("alice").reject([]) == ["a-buffer.md", "new.md"]
    assert read(alice, "a-buffer.md") == "# A\n\n- one\n- two\n" and not (alice.root / "new.md").exists()
    assert [file.read_text() for file in (alice.root / ".replica" / "rejected").iterdir()] == [GIT, GIT]
    assert not network.bridge("alice").held() and network.run("alice").quiet


@pytest.mark.parametrize("name", ["a-buffer.sync-conflict-20260301-142233-ABCDEF7.md", "a-buffer (1).md"])
def test_a_second_file_of_another_tool_waits_until_it_is_accepted_or_gone(network, name):
    alice, bob = network["alice"], network["bob"]
    save(alice, name, "# A\n\n- one\n- two\n- three\n")
    assert "beside a-buffer.md" in network.run("alice").held[name]
    network.share()
    assert not (bob.root / name).exists()
    (alice.root / name).unlink()
    assert network.run("alice").quiet and not network.bridge("alice").held()
    save(alice, name, "- three\n")
    network.run("alice")
    network.bridge("alice").accept([name])
    network.share()
    assert read(bob, name) == "- three\n" and network.run("bob").quiet and not network.bridge("bob").held()


def test_a_policy_that_changes_asks_not_again_for_what_was_let_through(network):
    alice, bob = network["alice"], network["bob"]
    save(alice, "notes.md", GIT)
    network.run("alice")
    network.bridge("alice").accept([])
    save(alice, "replica.toml", '[[documents]]\nglob = "notes.md"\npolicy = "union"\n')
    network.share()
    assert not network.bridge("alice").held() and "<<<<<<< HEAD" in read(bob, "notes.md")


def test_markers_in_the_files_of_a_folder_that_becomes_a_clone_wait_too():
    with Network("alice") as network:
        save(network["alice"], "a.md", GIT)
        save(network["alice"], "b.md", "fine\n")
        report = network.run("alice")
        assert set(report.held) == {"a.md"} and "b.md" in report.taken
        again = network.open_again("alice")
        assert isinstance(again, Clone) and [row["path"] for row in status.held(again)] == ["a.md"]
        again.close()
