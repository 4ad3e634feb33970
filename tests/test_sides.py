"""Two versions on a terminal: side by side, within its width, with what differs marked; and in an editor."""

import json
import os
import re
import select
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import editing, sides
from replica.clone import Clone
from replica.errors import UsageError
from tests.test_cli_memory import HERE, fresh, replica  # noqa: F401

CODE = re.compile(r"\x1b\[[0-9;]*m")


def bare(line: str) -> str:
    return CODE.sub("", line)


@given(st.text(max_size=300), st.text(max_size=300), st.integers(20, 120))
def test_no_line_is_wider_than_the_terminal_and_nothing_but_our_marks_steers_it(left, right, width):
    for line in sides.compared(("v1  laptop", left), ("v2  desk", right), width):
        assert sides.columns(bare(line)) <= width
        assert bare(line).isprintable() or all(c.isprintable() or ord(c) > 0x9F for c in bare(line))


@given(
    st.lists(st.sampled_from(["one two", "three", "four five six", ""])), st.lists(st.sampled_from(["one", "three"]))
)
def test_all_lines_of_both_versions_are_there(left, right):
    """Up to equal ones that are left out: those are counted."""
    shown = list(sides.rows("\n".join(left), "\n".join(right)))
    for at, lines in ((0, left), (1, right)):
        found = ["".join(text for text, _ in row[at]) for row in shown if row[at] is not None]
        if not any("equal lines" in line for line in found):
            assert "\n".join(found).rstrip("\n") == "\n".join(lines).rstrip("\n")


def test_the_words_that_differ_are_marked_and_no_others():
    one, other = sides.marked("ask before deleting a file", "ask before moving a file")
    assert [text for text, differs in one if differs] == ["deleting"]
    assert [text for text, differs in other if differs] == ["moving"]
    assert "".join(text for text, _ in one) == "ask before deleting a file"


def test_versions_stand_side_by_side_where_there_is_room_and_below_each_other_else():
    wide = [bare(line) for line in sides.compared(("v1", "same\nleft"), ("v2", "same\nright"), 80)]
    assert re.fullmatch(r"left +│ right", wide[-1]) and re.fullmatch(r"v1 +│ v2", wide[0])
    narrow = [bare(line) for line in sides.compared(("v1", "same\nleft"), ("v2", "same\nright"), 30)]
    assert narrow == ["v1", "same", "left", "v2", "same", "right"]


def test_a_long_equal_part_is_left_out():
    same = "\n".join(f"line {n}" for n in range(50))
    lines = [bare(line) for line in sides.compared(("v1", f"{same}\na"), ("v2", f"{same}\nb"), 80)]
    assert len(lines) == 5 and "48 equal lines" in lines[1]


def test_letters_that_take_two_columns_are_counted_so():
    assert sides.columns("水位") == 4 and sides.columns("e\u0301") == 1


# --- the editor


def test_the_text_that_is_left_when_comments_and_marks_are_gone_counts():
    shown = [editing.Shown("v1", "laptop, today", "now"), editing.Shown("v2", "desk, today", "other")]
    before = editing.composed("3fa8", "a.md", shown)
    assert "version v1, laptop, today\nnow\n" in before
    assert editing.read("3fa8", before, before) is None
    with pytest.raises(editing.NotUsable, match="still in it"):
        editing.read("3fa8", before, before.replace("now\n", "both\n"))
    kept = [line for line in before.split("\n") if not line.startswith("===")]
    assert editing.read("3fa8", before, "\n".join(kept)) == "now\nother\n"
    comments = [line for line in kept if line.startswith("###")]
    assert len(comments) == 3 and editing.read("3fa8", before, "\n".join(comments)) is None


def test_without_an_editor_the_way_out_is_said(monkeypatch):
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError) as caught:
        editing.editor()
    assert "--keep" in caught.value.hint
    monkeypatch.setenv("VISUAL", "code --wait")
    assert editing.editor() == ["code", "--wait"]


@pytest.fixture
def torn(replica):  # noqa: F811
    from replica.changes import Add

    with Clone.open(replica.root) as clone:
        clone.edit_entries("activeContext.md", "latest", [(1, Add("entry", "other", 1, "", None, (), {}))])
    return replica


def on_a_terminal(folder, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; returns its exit code and all it printed."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": HERE, "TERM": "xterm", "COLUMNS": "80", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed, end = b"", time.monotonic() + 120  # of a busy machine
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.2)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        printed += part
    code = process.wait(timeout=60)
    os.close(ours)
    return code, printed.decode()


def test_on_a_terminal_conflicts_stand_in_two_columns_and_plain_where_colour_is_not_wanted(torn):
    plain = torn("conflicts")
    code, shown = on_a_terminal(torn.root, "conflicts")
    assert code == 0 and "\x1b[1;31m" in shown and " │ " in bare(shown)
    assert re.search(r"v1  laptop, .* │ v2  laptop", bare(shown))
    code, shown = on_a_terminal(torn.root, "conflicts", NO_COLOR="1")
    assert shown.replace("\r\n", "\n") == plain and "\x1b" not in shown


EDITOR = """
import sys
lines = open(sys.argv[1]).read().split("\\n")
open(sys.argv[1] + ".seen", "w").write(oct(__import__("os").stat(sys.argv[1]).st_mode & 0o777))
if {keep!r} != "all":
    open(sys.argv[1], "w").write("\\n".join(l for l in lines if not l.startswith("===")) + {more!r})
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("keep", "more", "code", "ends", "said", "left"),
    [
        ("words", "and more\n", 0, 0, "settled; 0 conflicts left", 0),
        ("all", "", 0, 0, "nothing changed", 1),
        ("words", "=== replica {id}: end\n", 0, 1, "still in it", 1),
        ("words", "", 3, 1, "code 3; nothing was changed", 1),
    ],
)
def test_the_editor_settles_a_conflict_or_changes_nothing(torn, tmp_path, keep, more, code, ends, said, left):
    (conflict,) = torn.lines("conflicts")
    script = tmp_path / "editor.py"
    script.write_text(EDITOR.format(keep=keep, more=more.format(id=conflict["id"]), code=code))
    got, shown = on_a_terminal(torn.root, "resolve", conflict["id"][:4], EDITOR=f"{sys.executable} {script}", VISUAL="")
    assert (got, said in shown) == (ends, True), shown
    assert len(torn.lines("conflicts")) == left
    folder = torn.root / ".replica" / "editing"
    assert (folder / f"{conflict['id']}.md.seen").read_text() == "0o600"
    kept = (folder / f"{conflict['id']}.md").exists()
    assert kept == (said == "still in it")  # what was written is not thrown away where it cannot be used
    if not left:
        words = {version["text"].strip() for version in conflict["versions"]}
        assert set(torn.read("activeContext.md").split("\n")) == {*words, "and more", ""}


def test_json_is_what_it_was(torn):
    (line,) = torn("conflicts", "--json").splitlines()
    assert set(json.loads(line)) == {"id", "document", "kind", "versions"}
    assert set(json.loads(line)["versions"][0]) == {"version", "text", "clone", "time"}
