"""The command line, as a person or a script uses it: what is printed where, and with which exit code."""

import io
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import main as cli_main
from cli.common import harmless
from replica.blocks import parse
from replica.clone import Clone
from replica.errors import UsageError
from replica.writing import compose

HERE = cli_main.__file__.rpartition("/cli/")[0]


class Terminal:
    """Runs commands in this process; keeps what the last one printed."""

    def __init__(self, capsys, monkeypatch, root):
        self._capsys, self._monkeypatch, self.root = capsys, monkeypatch, root
        self.out = self.err = ""

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """The stdout of a command that must end with `code`."""
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        self._capsys.readouterr()
        got = cli_main.main(arguments)
        self.out, self.err = self._capsys.readouterr()
        assert got == code, self.err
        return self.out

    def json(self, *arguments: str, **more) -> dict:
        return json.loads(self(*arguments, "--json", **more))

    def lines(self, *arguments: str, **more) -> list[dict]:
        return [json.loads(line) for line in self(*arguments, "--json", **more).splitlines()]

    def save(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()


@pytest.fixture
def fresh(tmp_path, capsys, monkeypatch):
    """A terminal in an empty folder that is no clone."""
    root = tmp_path / "memory"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("REPLICA_DIR", raising=False)
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")
    return Terminal(capsys, monkeypatch, root)


@pytest.fixture
def replica(fresh):
    """A terminal in a clone with a file of every policy."""
    fresh.save("a-buffer.md", "# A\n\n- one\n- two\n")
    fresh.save("activeContext.md", "now\n")
    fresh.save("SESSION_LOG.md", "- begun\n")
    fresh.save("notes/x.md", "hello\n")
    fresh("init", "--name", "laptop", "--workspace", "team")
    return fresh


# --- every command


@pytest.mark.parametrize("command", cli_main.MODULES)
def test_every_command_explains_itself_with_an_example(fresh, command):
    page = fresh(command, "--help")
    assert f"replica {command}" in page.partition("Example:")[2]
    assert "--dir" in page


def test_every_command_has_its_place_in_the_documentation():
    with open(f"{HERE}/docs/commands.md", encoding="utf-8") as file:
        page = file.read()
    assert [name for name in cli_main.MODULES if f"\n### `replica {name}" not in page] == []


def test_the_help_lists_every_command_under_its_section(fresh):
    page = fresh("--help")
    assert fresh() == page
    assert all(f"\n  {name} " in page for name in cli_main.MODULES)
    assert all(f"\n{title}:" in page for title in cli_main.SECTIONS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "no such command 'nonsense'"),
        (["add"], "missing argument 'DOCUMENT'"),
        (["ls", "--nope"], "no such option: --nope"),
        (["add", "a-buffer.md", "x", "--level", "7"], "--level"),
        (["show", "a-buffer.md", "--at", "soon"], "'soon' is no time"),
        (["resolve", "abcd"], "which version"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(replica, arguments, words):
    assert replica(*arguments, code=2) == ""
    error, hint = replica.err.splitlines()
    assert error.startswith("replica: error: ") and words in error
    assert hint.startswith("replica: hint: ")


@pytest.mark.parametrize("command", ["status", "ls", "members", "doctor", "conflicts", "log", "accept"])
def test_outside_of_a_clone_a_command_says_how_to_make_one(fresh, command):
    fresh(command, code=1)
    assert "replica: error: " in fresh.err and "replica init" in fresh.err
    assert "Traceback" not in fresh.err


def test_a_clone_is_found_from_below_by_option_and_by_environment(replica, monkeypatch, tmp_path):
    expected = replica.json("status")["clone"]
    monkeypatch.chdir(replica.root / "notes")
    assert replica.json("status")["clone"] == expected
    assert replica("show", "x.md") == replica("show", "notes/x.md") == "hello\n"
    monkeypatch.chdir(tmp_path)
    replica("status", code=1)
    assert replica.json("status", "--dir", str(replica.root))["clone"] == expected
    monkeypatch.setenv("REPLICA_DIR", str(replica.root))
    assert replica.json("status")["clone"] == expected
    replica("status", "--dir", str(tmp_path), code=1)


# --- init


def test_init_takes_in_what_is_there_and_says_so(fresh):
    fresh.save("memory-bank/activeContext.md", "now\n")
    made = fresh.json("init", "--name", "laptop", "--workspace", "team")
    assert made["clone"]["name"] == "laptop" and made["workspace"] == "team"
    assert made["layout"] == "memory bank"
    assert made["documents"] == ["memory-bank/activeContext.md", "replica.toml"]
    assert fresh.read("memory-bank/activeContext.md") == "now\n"


def test_a_second_init_changes_nothing(replica):
    before = sorted((f, f.stat().st_mtime_ns) for f in replica.root.glob("**/*.md"))
    digest = replica.json("status")["digest"]
    replica("init", code=1)
    assert "already a clone" in replica.err
    replica("init", str(replica.root / "notes"), code=1)
    assert "lies inside" in replica.err and not (replica.root / "notes/.replica").exists()
    assert replica.json("status")["digest"] == digest
    assert sorted((f, f.stat().st_mtime_ns) for f in replica.root.glob("**/*.md")) == before


def test_an_init_that_fails_leaves_the_folder_as_it_was(fresh, monkeypatch):
    fresh.save("replica.toml", '[[documents]]\nglob = "*.md"\npolicy = "onion"\n')
    fresh("init", code=1)
    assert "line 3" in fresh.err
    assert os.listdir(fresh.root) == ["replica.toml"]
    monkeypatch.setattr("replica.bridge.Bridge.run", lambda *_, **__: 1 / 0)
    fresh("init", str(fresh.root / "new/one"), code=1)
    assert "unforeseen: ZeroDivisionError" in fresh.err and "Traceback" not in fresh.err
    assert os.listdir(fresh.root) == ["replica.toml"]
    fresh("init", str(fresh.root / "replica.toml"), code=1)
    assert "is a file, not a folder" in fresh.err


def test_init_makes_the_folder_and_names_what_was_not_named(fresh):
    made = fresh.json("init", str(fresh.root / "deep/work"))
    assert made["workspace"] == "work" and made["clone"]["name"].endswith("-work")
    with Clone.open(fresh.root / "deep/work") as clone:
        assert clone.members()[0]["cert"]


# --- looking


def test_status_holds_what_scripts_rely_on(replica):
    found = replica.json("status")
    assert {
        "workspace",
        "clone",
        "node",
        "digest",
        "version",
        "documents",
        "entries",
        "conflicts",
        "held",
        "peers",
    } <= {*found}
    assert found["node"] == "stopped" and found["documents"] == 5 and found["conflicts"] == 0
    assert list(found["version"]) == [found["clone"]["id"]]
    assert replica("status").startswith("clone       laptop of workspace team\n")


def test_a_member_that_was_never_met_lacks_everything(replica):
    with Clone.open(replica.root) as clone:
        clone.admit(b"k" * 32, b"certificate", "desk")
        count = clone.log.last_row()
    (peer,) = replica.json("status")["peers"]
    assert (peer["name"], peer["behind"], peer["ahead"], peer["online"], peer["last_seen"]) == (
        "desk", count, 0, False, None,
    )  # fmt: skip
    assert "never met" in replica("status")
    assert [member["name"] for member in replica.lines("members")] == ["laptop", "desk"]


def test_a_removed_member_is_out_and_one_cannot_remove_oneself(replica):
    with Clone.open(replica.root) as clone:
        clone.admit(b"k" * 32, b"certificate", "desk")
    assert replica.json("remove", "desk")["removed"] is True
    assert replica.json("remove", "desk")["removed"] is False
    assert replica.json("status")["peers"] == []
    assert replica.lines("members")[1]["removed_by"] == "laptop"
    replica("remove", "laptop", code=2)
    replica("remove", "nobody", code=1)


def test_buffers_that_are_nearly_full_are_named(replica):
    replica.save("replica.toml", '[[documents]]\nglob = "a-buffer.md"\npolicy = "union"\n'
                 'harvest = { entries = 4, into = "Docs/" }\n')  # fmt: skip
    replica("add", "a-buffer.md", "three")
    assert replica.json("status")["harvest"] == []
    replica("add", "a-buffer.md", "four")
    (due,) = replica.json("status")["harvest"]
    assert (due["document"], due["measure"], due["value"], due["share"]) == ("a-buffer.md", "entries", 4, 1.0)


def test_ls_and_show_print_what_is_there(replica):
    rows = {row["path"]: row for row in replica.lines("ls")}
    assert [rows[path]["policy"] for path in sorted(rows)] == ["log", "union", "latest", "text", "latest"]
    assert rows["a-buffer.md"]["entries"] == 2 and rows["a-buffer.md"]["by"] == "laptop"
    assert replica("show", "a-buffer.md") == "# A\n\n- one\n- two\n"
    shown = replica.json("show", "a-buffer.md")
    assert [entry["text"] for entry in shown["entries"]] == ["- one", "- two"]
    replica("show", "b-buffer.md", code=1)
    assert "did you mean 'a-buffer.md'?" in replica.err


def test_search_finds_entries_that_hold_every_word_in_any_case(replica):
    replica("add", "a-buffer.md", "Straße frei, ONE way")
    replica("add", "a-buffer.md", "for me alone: one way", "--level", "0")
    hits = replica.lines("search", "STRASSE", "one")
    assert [hit["text"] for hit in hits] == ["- Straße frei, ONE way"]
    assert [hit["document"] for hit in replica.lines("search", "hello")] == ["notes/x.md"]
    assert len(replica.lines("search", "one", "-n", "2")) == 2
    assert replica("search", "nowhere") == "" and "nothing found" in replica.err


def test_doctor_finds_nothing_in_a_healthy_clone_and_names_every_trouble(replica):
    assert {row["state"] for row in replica.lines("doctor")} == {"ok", "note"}
    (replica.root / ".replica/identity").chmod(0o644)
    replica.save("replica.toml", "nonsense = 1\n")
    (replica.root / "a-buffer.md").unlink()
    (replica.root / "a-buffer.md").symlink_to("/etc/passwd")
    rows = {row["check"]: row for row in replica.lines("doctor", code=1) if row["state"] == "problem"}
    assert set(rows) == {"keys", "config", "files"}
    assert "line 1" in rows["config"]["what"] and "a link" in rows["files"]["what"]
    assert all(row["hint"] for row in rows.values())


def test_doctor_speaks_of_a_store_that_cannot_be_read(replica):
    (replica.root / ".replica/store.db").write_bytes(b"not a store" * 100)
    for file in (replica.root / ".replica").glob("store.db-*"):
        file.unlink()
    (row,) = replica.lines("doctor", code=1)
    assert row["check"] == "store" and row["state"] == "problem"


# --- adding


def test_an_entry_is_added_once_and_reaches_the_file(replica):
    id = replica("add", "a-buffer.md", "three").strip()
    assert len(bytes.fromhex(id)) == 16
    assert replica("add", "a-buffer.md", "- three").strip() == id
    assert replica.read("a-buffer.md") == "# A\n\n- one\n- two\n- three\n"


def test_the_same_line_said_twice_in_a_log_is_two_entries(replica):
    first, second = (replica("add", "SESSION_LOG.md", "tests pass") for _ in range(2))
    assert first != second
    assert replica.read("SESSION_LOG.md") == "- begun\n- tests pass\n- tests pass\n"


def test_an_entry_that_was_removed_can_be_added_again(replica):
    first = replica("add", "a-buffer.md", "three")
    replica.save("a-buffer.md", "# A\n\n- one\n- two\n")
    replica("add", "a-buffer.md", "four")
    assert replica("add", "a-buffer.md", "three") != first
    assert replica.read("a-buffer.md") == "# A\n\n- one\n- two\n- four\n- three\n"


def test_a_document_is_made_by_its_first_entry_where_a_rule_fits(replica):
    replica("add", "ideas-buffer.md", "-", stdin="first line\nsecond line\n\nafter a gap\n")
    assert replica.read("ideas-buffer.md") == "- first line\n  second line\n\n  after a gap\n"
    replica("add", "picture.png", "x", code=1)
    assert "no rule" in replica.err and not (replica.root / "picture.png").exists()
    replica("add", "../out.md", "x", code=1)
    replica("add", "A-Buffer.md", "x", code=1)
    assert "did you mean 'a-buffer.md'?" in replica.err


def test_a_file_nobody_looked_at_yet_comes_before_what_is_added_to_it(replica):
    replica.save("new-buffer.md", "# New\n\n- old\n")
    replica("add", "new-buffer.md", "young")
    assert replica.read("new-buffer.md") == "# New\n\n- old\n- young\n"


def test_a_paragraph_is_added_to_a_text_and_nothing_to_what_is_replaced_as_a_whole(replica):
    replica("add", "notes/x.md", "goodbye")
    assert replica.read("notes/x.md") == "hello\n\ngoodbye\n"
    replica("add", "notes/new.md", "hello")
    assert replica.read("notes/new.md") == "hello\n"
    for path in ("activeContext.md", "replica.toml"):
        replica("add", path, "x", code=1)
        assert "hint" in replica.err
    replica("add", "notes/x.md", "x", "--tag", "t", code=1)
    replica("add", "notes/x.md", "x", "--level", "0", code=1)


def test_level_0_stays_here_and_nothing_shared_names_it(replica):
    secret = replica("add", "a-buffer.md", "secret", "--level", "0").strip()
    replica("add", "a-buffer.md", "open")
    found = replica.json("status")
    assert found["private"] == 1
    with Clone.open(replica.root) as clone:
        bodies = clone.store.rows("SELECT body FROM changes JOIN authors a ON a.n=author WHERE a.private=0")
    assert not any(bytes.fromhex(secret) in body or b"secret" in body for (body,) in bodies)
    assert replica.read("a-buffer.md").splitlines()[-2:] in (["- secret", "- open"], ["- open", "- secret"])
    replica("add", "a-buffer.md", "secret")
    assert replica.json("status")["private"] == 0
    assert replica.read("a-buffer.md").count("secret") == 1


def test_fields_are_kept_and_checked(replica):
    replica("add", "a-buffer.md", "x", "--type", "lesson", "--tag", "b", "--tag", "a", "--tag", "b", "--level", "2")
    entry = replica.json("show", "a-buffer.md")["entries"][-1]
    assert (entry["type"], entry["tags"], entry["level"]) == ("lesson", ["b", "a"], 2)
    replica("add", "a-buffer.md", "y", "--tag", " ", code=2)
    replica("add", "a-buffer.md", "  \n ", code=2)


def test_a_document_does_not_grow_over_its_limit(replica):
    replica.save("replica.toml", '[limits]\ndocument = "100B"\n')
    replica("add", "a-buffer.md", "x")
    replica("add", "a-buffer.md", "y" * 100, code=1)
    assert "over the limit of 100" in replica.err and "yyy" not in replica.read("a-buffer.md")
    replica("add", "notes/x.md", "y" * 100, code=1)


@pytest.mark.parametrize("policy", ["union", "log"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "- plain"),
        ("- a bullet", "- a bullet"),
        ("* a bullet\n  going on", "* a bullet\n  going on"),
        ("2. numbered", "2. numbered"),
        ("one\ntwo", "- one\n  two"),
        ("\n\n  one  \n\n    two\n\n", "- one\n\n      two"),
        ("- a\n- b", "- a\n  - b"),
        ("```\nnever closed", "- ```\n  never closed"),
        ("<!-- never closed", "- <!-- never closed"),
        ("# not a heading", "- # not a heading"),
        ("```\ncode\n```", "- ```\n  code\n  ```"),
        ("-no bullet", "- -no bullet"),
        ("日本語 😀", "- 日本語 😀"),
    ],
)
def test_a_text_becomes_one_bullet_that_is_read_back_as_one(policy, text, expected):
    assert compose(text, policy) == expected


def test_a_bullet_that_would_be_a_rule_is_none():
    assert compose("--", "union") == "- \\--"


@given(st.text("ab -*+#>`~<!1.\t\n\r\\日😀=|", max_size=30), st.sampled_from(["union", "log"]))
@settings(max_examples=300, deadline=None)
def test_any_text_becomes_one_entry_or_is_refused(text, policy):
    try:
        composed = compose(text, policy)
    except UsageError:
        assert not text.strip()
        return
    blocks = parse(f"# Title\n\n- before\n{composed}\n- after\n", policy)
    assert [block.text for block in blocks[-3:]] == ["- before", composed, "- after"]
    assert [block.role for block in blocks[-3:]] == ["entry"] * 3


# --- the past, and decisions


def test_the_past_can_be_listed_compared_and_brought_back(replica):
    replica("add", "a-buffer.md", "three")
    (newest, *_) = replica.lines("log", "a-buffer.md")
    assert newest["summary"] == "+1 entry" and newest["clone"] == "laptop"
    before = next(row for row in replica.lines("log") if row["document"] == "notes/x.md")["time"]
    assert replica("show", "a-buffer.md", "--at", before) == "# A\n\n- one\n- two\n"
    assert replica("diff", "a-buffer.md").endswith(" - two\n+- three\n")
    assert replica.json("diff", "a-buffer.md", "--from", before)["added"] == 1
    replica.save("a-buffer.md", "# A\n\n- one\n- two\n- three\n- saved\n")
    assert replica.json("restore", "a-buffer.md", "--at", before)["restored"] is True
    assert replica.read("a-buffer.md") == "# A\n\n- one\n- two\n"
    assert "- saved" in replica("diff", "a-buffer.md")
    replica("show", "a-buffer.md", "--at", "1w", code=1)
    assert "replica log a-buffer.md" in replica.err
    replica("restore", "SESSION_LOG.md", "--at", before)
    assert "nothing to do" in replica.err


def test_a_conflict_is_listed_and_settled(replica):
    with Clone.open(replica.root) as clone:
        from replica.changes import Add

        clone.edit_entries("activeContext.md", "latest", [(1, Add("entry", "other", 1, "", None, (), {}))])
    (conflict,) = replica.lines("conflicts")
    assert conflict["document"] == "activeContext.md" and conflict["kind"] == "document"
    assert {version["text"] for version in conflict["versions"]} == {"now", "other"}
    assert {"version", "text", "clone", "time"} == set(conflict["versions"][0])
    assert conflict["id"] in replica("conflicts")
    assert replica.json("resolve", conflict["id"], "--text", "-", stdin="both\n")["left"] == 0
    assert replica.read("activeContext.md") == "both\n"
    replica("resolve", conflict["id"], "--keep", "v1", code=1)


def test_what_the_guard_holds_is_accepted_or_rejected(replica):
    many = "".join(f"- entry {n}\n" for n in range(30))
    for path in ("b-buffer.md", "c-buffer.md"):
        replica.save(path, many)
        replica("add", path, "last")
        replica.save(path, "- entry 1\n")
    replica("add", "a-buffer.md", "something else")
    assert [row["path"] for row in replica.json("status")["held"]] == ["b-buffer.md", "c-buffer.md"]
    assert replica.json("reject", "b-buffer.md") == {"rejected": ["b-buffer.md"], "held": ["c-buffer.md"]}
    assert replica.read("b-buffer.md") == many + "- last\n"
    assert replica.json("accept") == {"accepted": ["c-buffer.md"], "held": []}
    assert replica("show", "c-buffer.md") == "- entry 1\n"
    replica("accept")
    assert "nothing is held back" in replica.err
    replica("reject", "a-buffer.md", code=1)


def test_a_line_that_may_be_of_level_0_is_shared_by_who_names_it(replica):
    for path in ("b-buffer.md", "c-buffer.md"):
        replica("add", path, "known to all")
        replica("add", path, "the code is 4711", "--level", "0")
        replica("sync", "--timeout", "0.1s")
        replica.save(path, "- known to all\n- call the plumber\n")
        replica("sync", "--timeout", "0.1s")
        assert f"held back: {path}: a line stays on this clone (level 0)" in replica.err
    one, other = replica.json("status")["held"]
    assert one["reason"] == other["reason"] == "likeness" and "call the plumber" in one["what"]
    assert f"`replica accept b-buffer.md --line {one['line'][:12]}` shares it" in replica("status")
    assert replica.json("accept") == {"accepted": [], "held": ["b-buffer.md", "c-buffer.md"]}
    replica("accept", "b-buffer.md", code=2)
    assert f"replica accept b-buffer.md --line {one['line'][:12]}" in replica.err
    replica("accept", "--line", one["line"], code=2)
    replica("accept", "b-buffer.md", "c-buffer.md", "--line", one["line"], code=2)
    replica("accept", "b-buffer.md", "--line", "ffffffff", code=1)
    accepted = replica.json("accept", "b-buffer.md", "--line", one["line"][:12])
    assert accepted == {"accepted": ["b-buffer.md"], "held": ["c-buffer.md"]}
    assert replica.json("status")["private"] == 1
    rejected = replica.json("reject", "c-buffer.md", "--line", other["line"])
    assert rejected == {"rejected": ["c-buffer.md"], "held": []}
    assert replica.json("status")["private"] == 1 and replica.read("c-buffer.md").endswith("- call the plumber\n")


# --- the terminal


def test_what_could_steer_a_terminal_is_shown_as_what_it_is():
    assert harmless("red \x1b[31m\tend\n") == "red \\x1b[31m\tend\n"
    assert harmless("日本 😀 é") == "日本 😀 é"


def command(*arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=HERE, capture_output=True, text=True, timeout=30, check=False, **more
    )


def test_quick_commands_do_not_load_what_they_do_not_need(replica):
    heavy = "{'asyncio','pycrdt','zeroconf','websockets','cryptography.x509','importlib.metadata','rich','watchfiles'}"
    for arguments in (["--help"], ["add", "a-buffer.md", "x", "--dir", str(replica.root)]):
        code = f"import sys; from cli.main import main; main({arguments!r}); print({heavy} & set(sys.modules))"
        done = command("-c", code)
        assert done.returncode == 0 and done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_a_reader_that_has_enough_is_no_error(replica):
    for n in range(3):
        replica.save(f"big{n}.md", "line\n" * 20_000)
    replica("add", "a-buffer.md", "x")
    done = subprocess.run(
        f"{sys.executable} -m cli.main show big0.md --dir {replica.root} | head -n 1",
        shell=True, cwd=HERE, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("line\n", "")
