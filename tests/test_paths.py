"""A path from a peer stays inside the clone's folder, and means one file on every file system."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.errors import UnsafePath
from replica.paths import clash_key, normal, resolve

UNSAFE = [
    "",
    "/etc/passwd",
    "../x.md",
    "a/../x.md",
    "a/..",
    "./a.md",
    "a//b.md",
    "a/",
    "a\\b.md",
    "C:/x.md",
    "c:x",
    "a\0b",
    "a\nb.md",
    "a\x7f.md",
    "a\u2028b",
    "x\u202egpj.md",
    "con",
    "CON.md",
    "a/nul.tar.md",
    "Com1.md",
    "com¹.md",
    "LPT9",
    "aux .md",
    "a./b.md",
    "a.md.",
    "a.md ",
    "a /b.md",
    "a\u00a0",
    "what?.md",
    "a*b",
    'say "x".md',
    "<a>",
    "a|b",
    ".git/config",
    ".GIT/hooks/x",
    "sub/.git/x",
    ".git",
    ".replica/store.db",
    ".Replica",
    "GIT~1/config",
    "replic~1/x",
    ".g\u200cit/config",
    ".ｇit/x",
    "x" * 201,
    "ü" * 51,
    "a/" + "b" * 101,
    "\ud800.md",
]


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
def test_a_path_that_could_leave_the_folder_or_clash_with_a_system_is_refused(path):  # FAILURES 26
    with pytest.raises(UnsafePath) as error:
        normal(path)
    assert ": it " in str(error.value) or "' " in str(error.value)
    str(error.value).encode()  # a message can always be printed


@pytest.mark.parametrize(
    "path",
    [
        "a.md",
        "Docs/03-Reference/ADR/x.md",
        ".hidden/notes.md",
        "日本/🧠.md",
        ".gitignore",
        "a b.md",
        "console.md",
        "..a",
    ],
)
def test_ordinary_paths_are_taken_as_they_are(path):
    assert normal(path) == path


@given(st.text(max_size=30))
def test_what_is_normal_stays_as_it_is_and_has_one_spelling(path):
    try:
        once = normal(path)
    except UnsafePath:
        return
    assert normal(once) == once == normal(unicodedata.normalize("NFD", path))
    assert ".." not in once.split("/") and not once.startswith("/")


@given(st.text(max_size=20))
def test_case_and_composition_make_no_new_clash_key(path):
    key = clash_key(path)
    assert clash_key(unicodedata.normalize("NFD", path)) == key == clash_key(path.casefold())


@pytest.mark.parametrize(
    ("one", "other"),
    [("README.md", "readme.md"), ("Ünïcode.md", "u\u0308nïcode.MD"), ("ﬁle.md", "file.md"), ("Straße", "STRASSE")],
)
def test_names_that_differ_in_case_or_composition_only_clash(one, other):  # FAILURES 25, 26
    assert clash_key(one) == clash_key(other)
    assert clash_key(one) != clash_key("x" + other)


def test_resolving_joins_below_the_root_whether_the_file_is_there_or_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.md").write_text("x")
    assert resolve(tmp_path, "a/b.md") == tmp_path / "a" / "b.md"
    assert resolve(tmp_path, "new/deep/c.md") == tmp_path / "new" / "deep" / "c.md"


def test_a_link_on_the_way_or_at_the_end_is_refused(tmp_path):  # FAILURES 26
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(outside)
    (root / "file.md").symlink_to(outside / "x.md")  # dangling: it would be created outside
    (root / "self").symlink_to(".")
    for path in ("out/x.md", "file.md", "self/x.md"):
        with pytest.raises(UnsafePath, match="is a link"):
            resolve(root, path)


def test_the_root_itself_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert resolve(tmp_path / "root", "a.md") == tmp_path / "root" / "a.md"


def test_a_file_in_place_of_a_folder_and_a_pipe_in_place_of_a_file_are_refused(tmp_path):
    (tmp_path / "a").write_text("x")
    os.mkfifo(tmp_path / "pipe.md")
    with pytest.raises(UnsafePath, match="not a folder"):
        resolve(tmp_path, "a/b.md")
    with pytest.raises(UnsafePath, match="regular"):
        resolve(tmp_path, "pipe.md")
