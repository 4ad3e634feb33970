"""Who wrote what stands there, and when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import blame as blaming
from replica import compact, decisions
from replica.blame import blame
from tests.helpers import Network, save
from tests.test_cli_memory import fresh, replica  # noqa: F401

FIRST = "alpha\n\nbeta\ngamma 🙂 delta\n"


@pytest.fixture
def network():
    with Network("alice", "bob") as network:
        yield network


def edit(network, name: str, path: str, text: str) -> None:
    network.now += 60_000
    save(network[name], path, text)
    network.run(name)
    network.share()


def shown(clone, path: str, times: bool = False) -> list[tuple]:
    rows = blame(clone, clone.document(path))
    return [
        (
            row.text,
            row.origin.author and clone.author_name(row.origin.author),
            *((row.origin.time >> 16, row.origin.before) if times else ()),
        )
        for row in rows
    ]


@pytest.mark.parametrize("path", ["notes.md", "activeContext.md"])
def test_each_line_is_of_whoever_wrote_to_it_last(network, path):
    edit(network, "alice", path, FIRST)
    began = network.now
    edit(network, "bob", path, FIRST.replace("beta", "beta and more"))
    later = network.now
    edit(network, "alice", path, FIRST.replace("beta", "beta and more") + "end\n")
    for clone in network.clones.values():
        assert shown(clone, path) == [
            ("alpha", "alice"), ("", "alice"), ("beta and more", "bob"), ("gamma 🙂 delta", "alice"), ("end", "alice"),
        ]  # fmt: skip
        times = [row[2] for row in shown(clone, path, times=True)]
        assert times[:4] == [began, began, later, began] and times[4] > later


def test_who_else_wrote_part_of_a_line_is_named(network):
    edit(network, "alice", "notes.md", FIRST)
    edit(network, "bob", "notes.md", FIRST.replace("beta", "beta and more"))
    row = blame(network["alice"], network["alice"].document("notes.md"))[2]
    assert row.others == (network["alice"].identity.id,) and row.line == 3


def test_a_file_that_two_imported_is_of_the_earlier_one(network):
    save(network["alice"], "notes.md", FIRST)
    network.run("alice")
    network.now += 60_000
    save(network["bob"], "notes.md", FIRST)
    network.run("bob")
    network.share()
    for clone in network.clones.values():
        assert {who for _, who in shown(clone, "notes.md")} == {"alice"}


@pytest.mark.parametrize(("path", "lines"), [("a-buffer.md", [3, 4, 6]), ("SESSION_LOG.md", [3, 4, 6])])
def test_each_entry_is_of_its_author_with_its_line(network, path, lines):
    edit(network, "alice", path, "# A\n\n- one\n- two\n  more\n")
    edit(network, "bob", path, "# A\n\n- one\n- two\n  more\n- three\n")
    alice = network["alice"]
    rows = [row for row in blame(alice, alice.document(path)) if row.text.startswith("- ")]
    assert [(row.text, row.line) for row in rows] == list(
        zip(["- one", "- two\n  more", "- three"], lines, strict=True)
    )
    assert [alice.author_name(row.origin.author) for row in rows] == ["alice", "alice", "bob"]


def test_lines_of_versions_that_were_settled_keep_their_authors(network):
    path = "activeContext.md"
    edit(network, "alice", path, "top\nmiddle\nend\n")
    for name in ("alice", "bob"):
        network.now += 60_000
        save(network[name], path, f"top\nmiddle by {name}\nend\n")
        network.run(name)
    network.share()
    (found,) = network["alice"].documents.all_conflicts()
    decisions.resolve(network["alice"], found.id, text="top\nmiddle by bob\nand by alice\nend\n")
    network.share()
    names = [who for _, who in shown(network["bob"], path)]
    assert names == ["alice", "bob", "alice", "alice"]


@pytest.mark.parametrize("path", ["notes.md", "activeContext.md"])
def test_of_what_is_folded_it_is_said_that_it_was_before(network, path):
    edit(network, "alice", path, FIRST)
    edit(network, "bob", path, FIRST.replace("beta", "by bob"))
    for _ in range(3):
        network.now += 200 * 86_400_000
        network.share()
        for name in network.clones:
            save(network[name], f"{name}-buffer.md", f"- {network.now}\n")
        network.share()
        for clone in network.clones.values():
            compact.compact(clone)
    assert network["alice"].store.value(
        "SELECT count(*) FROM baselines b JOIN documents d ON d.n=b.doc WHERE path=?", (path,)
    )
    edit(network, "alice", path, FIRST.replace("beta", "by bob") + "new\n")
    rows = shown(network["bob"], path, times=True)
    assert rows[2][:2] == ("by bob", "bob") and rows[2][3] is True
    assert rows[-1][0] == "new" and rows[-1][1] == "alice" and rows[-1][3] is False
    assert all(before for *_, before in rows[:-1])


def test_what_is_of_level_0_is_of_this_clone(network):
    alice = network["alice"]
    alice.edit_text("notes.md", new="mine\n", level=0)
    assert shown(alice, "notes.md") == [("mine", "alice")]


LINES = st.lists(st.sampled_from(["a", "bé", "🙂c", ""]), max_size=5)
EDITS = st.lists(st.tuples(st.sampled_from(["alice", "bob"]), LINES), min_size=1, max_size=6)


@settings(max_examples=15, deadline=None)
@given(EDITS)
def test_all_lines_are_there_as_the_document_has_them_and_alike_on_both(edits):
    with Network("alice", "bob") as network:
        network["alice"].edit_text("notes.md", new="start\n")
        network.sync_all()
        for name, lines in edits:
            network.now += 1_000
            network[name].edit_text("notes.md", new="\n".join(lines))
        network.sync_all()
        text = network["alice"].text("notes.md")
        rows = shown(network["alice"], "notes.md", times=True)
        assert "\n".join(row[0] for row in rows) == text.removesuffix("\n")
        assert rows == shown(network["bob"], "notes.md", times=True) and all(row[1] for row in rows)


def test_a_long_history_is_blamed_in_reasonable_time(network):
    import time

    alice = network["alice"]
    alice.edit_text("notes.md", new="".join(f"line {n}\n" for n in range(1000)))
    for n in range(300):
        text = alice.text("notes.md").split("\n")
        text[n * 3] += f" edited {n}"
        alice.edit_text("notes.md", new="\n".join(text))
    began = time.process_time()
    assert len(blaming.blame(alice, alice.document("notes.md"))) == 1000
    assert time.process_time() - began < 3


def test_the_command_says_who_when_and_which_line(replica):  # noqa: F811
    rows = replica.lines("blame", "notes/x.md")
    assert rows == [{"line": 1, "text": "hello", "clone": "laptop", "time": rows[0]["time"], "before": False,
                     "others": [], "id": None}]  # fmt: skip
    (line,) = replica("blame", "notes/x.md").splitlines()
    assert line.startswith("laptop  ") and line.endswith("  1  hello")
    ids = [row["id"] for row in replica.lines("blame", "a-buffer.md")]
    assert ids == [entry["id"] for entry in replica.json("show", "a-buffer.md")["entries"]]
    replica("blame", "nothing.md", code=1)
    assert "replica ls" in replica.err
