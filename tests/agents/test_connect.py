"""Agents' configurations: ours goes in, all else stays, and what was there comes back to the byte."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica.agents import jsontext, known, tomltext, wiring
from replica.agents.jsontext import END
from replica.agents.known import AGENTS, Place
from replica.errors import ForeignFile, ReplicaError
from tests.test_cli_memory import fresh, replica  # noqa: F401 - fixtures

# ruff: noqa: F811

JSON_AGENTS = ["claude-code", "codex", "gemini", "openclaw"]


@pytest.fixture
def place(tmp_path):
    return somewhere(tmp_path)


def somewhere(folder: Path, clone: str = "clone") -> Place:
    root, home = folder / clone, folder / "home"
    (root / ".replica").mkdir(parents=True)
    home.mkdir(exist_ok=True)
    return Place(root, root, "project", home, {})


@contextmanager
def in_memory():
    """A place whose files are quick to write; for many examples."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="replica-test-", dir=memory if memory.is_dir() else None))
    try:
        yield somewhere(folder)
    finally:
        shutil.rmtree(folder)


def connect(name: str, place: Place) -> list[wiring.Change]:
    changes = wiring.connecting(AGENTS[name], place)
    wiring.connect(AGENTS[name], place, changes)
    return changes


def disconnect(name: str, place: Place) -> list[Path]:
    return wiring.disconnect(AGENTS[name], place, wiring.disconnecting(AGENTS[name], place))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".replica" not in file.parts
    }


def targets(name: str, place: Place) -> list[known.Target]:
    return AGENTS[name].targets(place, known.commands(name, place.root))


def target(name: str, place: Place, ending: str) -> Path:
    return next(one.file for one in targets(name, place) if one.file.name.endswith(ending))


def put(file: Path, held: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(held.encode() if isinstance(held, str) else held)


# --- any configuration that there may be

names = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8) | st.sampled_from(
    ["hooks", "mcpServers", "replica", "SessionStart", "mcp", "servers", "projects", "env"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)
handlers = st.fixed_dictionaries(
    {"type": st.just("command"), "command": st.text(max_size=20)}, optional={"timeout": st.integers()}
)
groups = st.lists(
    st.fixed_dictionaries({"hooks": st.lists(handlers, max_size=2)}, optional={"matcher": names}), max_size=2
)
events = st.sampled_from(["SessionStart", "SessionEnd", "PreCompact", "PreCompress", "Stop", "PreToolUse"])
servers = st.dictionaries(
    names, st.fixed_dictionaries({"command": st.text(max_size=9), "args": st.lists(names)}), max_size=3
)
configurations = st.fixed_dictionaries(
    {},
    optional={
        "hooks": st.dictionaries(events, groups, max_size=3),
        "mcpServers": servers,
        "mcp": st.fixed_dictionaries({}, optional={"servers": servers, "apps": anything}),
        "theme": anything,
        "": anything,
        "é": anything,
        "permissions": anything,
    },
).flatmap(lambda held: st.permutations(list(held.items())).map(dict))
layouts = st.fixed_dictionaries({"indent": st.sampled_from([None, 0, 1, 2, 4, "\t"]), "ensure_ascii": st.booleans()})


@st.composite
def json_files(draw) -> bytes:
    text = json.dumps(draw(configurations), **draw(layouts))
    text = draw(st.sampled_from(["", "", "\n", " \n\n"])) + text + draw(st.sampled_from(["", "\n", "\n\n", " "]))
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    if draw(st.sampled_from([False, False, True])):
        text = "\ufeff" + text
    return text.encode()


TOML_LINES = [
    "# a remark", "", 'model = "x"', "[features]", "memories = true", "[mcp_servers.other]", 'command = "y"',
    'args = ["[mcp_servers.replica]"]', "[mcp_servers.other.env]", 'A = """\n[mcp_servers.replica]\nb = 1\n"""',
    "[[hooks.Stop]]", "[mcp_servers]", '[mcp_servers."replica"]', "url = 'http://x'", '[projects."/a b"]',
    "   [indented]  # so", "when = 2026-01-01T00:00:00Z", "f = nan",
]  # fmt: skip


@st.composite
def toml_files(draw) -> bytes:
    text = "\n".join(draw(st.lists(st.sampled_from(TOML_LINES), max_size=12))) + draw(
        st.sampled_from(["", "\n", "\n\n"])
    )
    return (text.replace("\n", "\r\n") if draw(st.booleans()) else text).encode()


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(JSON_AGENTS), st.sampled_from(["project", "user"]), json_files(), toml_files())
def test_what_was_connected_and_disconnected_is_as_it_was_to_the_byte(name, scope, held, toml):
    with in_memory() as place:
        place = place._replace(scope=scope)
        for one in targets(name, place):
            if one.form != "text":
                put(one.file, held if one.form == "json" else toml)
        before = files(place.root.parent)
        changes = connect(name, place)
        assert any(change.to_do for change in changes)
        disconnect(name, place)
        assert files(place.root.parent) == before


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(JSON_AGENTS), json_files(), anything, st.booleans())
def test_entries_that_somebody_edits_meanwhile_stay_and_ours_go(name, held, new, record):
    with in_memory() as place:
        file = next(one.file for one in targets(name, place) if one.form == "json")
        put(file, held)
        [change] = [change for change in connect(name, place) if change.file == file]
        if change.action == "refused":
            return
        edited = json.loads(file.read_text("utf-8-sig"))
        edited["added"] = new
        edited.pop("theme", None)
        file.write_text(json.dumps(edited, indent=3))  # as agents write them: all anew
        if not record:
            (place.root / ".replica" / wiring.RECORD).unlink()
        disconnect(name, place)
        expected = {**json.loads(held.decode("utf-8-sig")), "added": new}
        expected.pop("theme", None)
        found = json.loads(file.read_text())
        assert (found if record else bare(found)) == (expected if record else bare(expected))


def bare(data):
    """Without empty containers: whose they were is not known where there is no record."""
    if isinstance(data, dict):
        data = {key: bare(value) for key, value in data.items()}
        return {key: value for key, value in data.items() if value not in ({}, [])}
    return [bare(value) for value in data] if isinstance(data, list) else data


@settings(deadline=None, max_examples=80)
@given(json_files())
def test_every_line_of_the_file_is_still_there_while_it_is_connected(held):
    with in_memory() as place:
        file = target("gemini", place, "settings.json")
        put(file, held)
        [change] = connect("gemini", place)
        if change.action == "refused":
            return
        after = [line.rstrip(b",").strip() for line in file.read_bytes().splitlines()]
        if b"\n" in held.strip(b"\xef\xbb\xbf \r\n"):
            kept = (line.rstrip(b",").strip() for line in held.splitlines())
            # Two empty brackets open, where something of ours goes between them.
            assert all(line in after or line.endswith((b"{}", b"[]")) for line in kept)
        assert file.read_bytes().endswith(b"\n") == held.endswith(b"\n")
        assert (b"\r\n" in file.read_bytes()) == (b"\r\n" in held)
        data, before = json.loads(file.read_text("utf-8-sig")), json.loads(held.decode("utf-8-sig"))
        assert [key for key in data if key in before] == list(before)


@settings(deadline=None, max_examples=150)
@given(toml_files(), st.booleans())
def test_a_table_comes_and_goes_in_any_toml(held, more):
    text = held.decode()
    try:
        before = tomltext.loads(text, "f")
    except ForeignFile:
        return
    path = ("mcp_servers", "ours")
    try:
        put_in = tomltext.put(text, path, {"command": "/a b", "args": ["mcp", 'q"\\é']}, "f")
    except ForeignFile:
        assert not isinstance(before.get("mcp_servers", {}), dict) or "mcp_servers" in before
        return
    assert tomltext.loads(put_in, "f")["mcp_servers"]["ours"] == {"command": "/a b", "args": ["mcp", 'q"\\é']}
    if more:  # an agent keeps its own settings of the server there, and others behind it
        put_in += '[mcp_servers.ours.tools.x]\napproval = "yes"\n\n# about z\n[z]\na = 1\n'.replace(
            "\n", "\r\n" if "\r\n" in text else "\n"
        )
        if "z" in before:
            return
    taken = tomltext.take(put_in, path, "f")
    after = tomltext.loads(taken, "f")
    assert after.pop("z", {"a": 1}) == {"a": 1}
    assert repr(after) == repr(before)
    assert ("# about z" in taken) == more
    if not more:
        assert taken in (text, text + "\n", text + "\r\n")


@given(st.lists(st.sampled_from(["a", "b", "hooks"]), min_size=1, max_size=3), anything, json_files())
def test_what_is_put_into_a_json_text_can_be_taken_out(path, value, held):
    text = held.decode()
    data = json.loads(text.removeprefix("\ufeff"))
    try:
        changed = jsontext.put(text, ("new", *path), value, "f")
    except ForeignFile:
        return
    found = json.loads(changed.removeprefix("\ufeff"))
    assert jsontext.at(found, ("new", *path)) == value
    assert json.loads(jsontext.take(changed, [("new",)], "f").removeprefix("\ufeff")) == data


# --- one thing at a time


@pytest.mark.parametrize("name", AGENTS)
def test_a_second_connect_changes_nothing(name, place):
    connect(name, place)
    before = files(place.root.parent)
    assert not any(change.to_do for change in connect(name, place))
    assert files(place.root.parent) == before


@pytest.mark.parametrize("name", AGENTS)
def test_files_and_folders_that_were_not_there_go_again(name, place):
    before = sorted(place.root.parent.rglob("*"))
    connect(name, place)
    assert sorted(place.root.parent.rglob("*")) != before
    assert disconnect(name, place) == []
    assert [file for file in sorted(place.root.parent.rglob("*")) if file.name != wiring.RECORD] == before


@pytest.mark.parametrize("name", AGENTS)
def test_a_newer_version_replaces_what_an_older_one_wrote(name, place, monkeypatch):
    file = next(one.file for one in targets(name, place) if one.form == "json")
    put(file, '{"theme": "dark"}')
    connect(name, place)
    monkeypatch.setattr(known, "python", lambda module: ["/new/python", "-m", module])
    changes = connect(name, place)
    assert all(change.to_do for change in changes if change.file.name != "HOOK.md")
    held = b"".join(files(place.root.parent).values())
    assert b"/new/python" in held and os.fspath(sys.executable).encode() not in held
    disconnect(name, place)
    assert files(place.root.parent) == {os.fspath(file.relative_to(place.root.parent)): b'{"theme": "dark"}'}


def test_hooks_of_others_stay_where_they_are_and_one_that_joined_ours_stays_too(place):
    file = target("claude-code", place, "settings.local.json")
    other = {"type": "command", "command": "echo hello --agent x"}
    put(file, json.dumps({"hooks": {"SessionStart": [{"hooks": [other]}]}}, indent=2))
    connect("claude-code", place)
    held = json.loads(file.read_text())
    assert [len(group["hooks"]) for group in held["hooks"]["SessionStart"]] == [1, 1]
    assert list(held["hooks"]) == ["SessionStart", "PreCompact", "SessionEnd"]
    held["hooks"]["SessionEnd"][0]["hooks"].insert(0, other)
    file.write_text(json.dumps(held))
    assert not any(change.to_do for change in connect("claude-code", place))
    disconnect("claude-code", place)
    kept = [{"hooks": [other]}]
    assert json.loads(file.read_text()) == {"hooks": {"SessionStart": kept, "SessionEnd": kept}}


def test_two_clones_of_one_person_live_beside_each_other(tmp_path):
    one = somewhere(tmp_path, "one")._replace(scope="user")
    two = somewhere(tmp_path, "two")._replace(scope="user")
    for name in ("claude-code", "codex", "gemini"):
        connect(name, one), connect(name, two)
        assert not any(change.to_do for change in (*connect(name, one), *connect(name, two)))
    state = json.loads((tmp_path / "home/.claude.json").read_text())
    assert [server["args"][-1] for server in state["mcpServers"].values()] == [str(one.root), str(two.root)]
    table = tomllib.loads((tmp_path / "home/.codex/config.toml").read_text())["mcp_servers"]
    assert list(table) == ["replica", "replica-2"]
    for name in ("claude-code", "codex", "gemini"):
        disconnect(name, one)
        held = {file: text for file, text in files(tmp_path / "home").items() if not file.endswith(wiring.BESIDE)}
        assert str(one.root).encode() not in b"".join(
            text for file, text in held.items() if AGENTS[name].program in file
        )
        assert not any(change.to_do for change in connect(name, two))


def test_a_clone_that_was_moved_replaces_what_named_its_old_place(tmp_path):
    old = somewhere(tmp_path)._replace(scope="user")
    connect("gemini", old)
    old.root.rename(tmp_path / "moved")
    new = old._replace(root=tmp_path / "moved", project=tmp_path / "moved")
    connect("gemini", new)
    held = (tmp_path / "home/.gemini/settings.json").read_text()
    assert str(old.root) not in held.replace(str(new.root), "") and held.count(str(new.root)) == 4


@pytest.mark.parametrize("name", JSON_AGENTS)
def test_a_project_that_was_moved_is_connected_anew_and_comes_back_to_the_byte(name, tmp_path):
    project, home = tmp_path / "old", tmp_path / "home"
    (project / "memory" / ".replica").mkdir(parents=True)
    put(project / ".claude" / "settings.local.json", '{"theme": 1}\n')
    put(home / ".openclaw" / "openclaw.json", "{}")
    before = files(project)
    place = Place(project / "memory", project, "project", home, {})
    connect(name, place)
    moved = tmp_path / "new" / "place"
    moved.parent.mkdir()
    project.rename(moved)
    place = place._replace(root=moved / "memory", project=moved)
    assert wiring.state(AGENTS[name], place) == ("old", "project")
    connect(name, place)
    held = b"".join([*files(moved).values(), *files(home).values()])
    assert os.fsencode(project) not in held and os.fsencode(moved) in held
    assert wiring.state(AGENTS[name], place) == ("connected", "project")
    disconnect(name, place)
    assert files(moved) == before
    assert files(home) == {".openclaw/openclaw.json": b"{}"}


def test_what_is_written_of_a_clone_says_nothing_of_its_copy(tmp_path):
    place = somewhere(tmp_path)
    connect("claude-code", place)
    before = files(place.root)
    shutil.copytree(place.root, tmp_path / "copy")
    copy = place._replace(root=tmp_path / "copy", project=tmp_path / "copy")
    assert wiring.connections(copy.root) == {}
    disconnect("claude-code", copy)
    assert files(place.root) == before and wiring.state(AGENTS["claude-code"], place) == ("connected", "project")


def test_where_a_user_works_does_not_matter_to_what_is_connected_everywhere(place):
    connect("gemini", place._replace(scope="user"))
    assert not any(change.to_do for change in connect("gemini", place._replace(scope="user", project=place.home)))


def test_a_file_that_holds_nothing_of_ours_is_none_to_disconnect(place):
    put(target("codex", place, "hooks.json"), "{ // mine\n}")
    assert wiring.disconnecting(AGENTS["codex"], place) == []
    put(target("codex", place, "hooks.json"), f'{{ // mine\n"command": "x --dir {place.root}"}}')
    assert [change.action for change in wiring.disconnecting(AGENTS["codex"], place)] == ["refused"]


def test_a_server_of_somebody_else_keeps_its_name(place):
    file = target("claude-code", place, ".claude.json")
    where = ("projects", str(place.project), "mcpServers")
    put(file, json.dumps({"projects": {str(place.project): {"mcpServers": {"replica": {"url": "http://x"}}}}}))
    connect("claude-code", place)
    found = jsontext.at(json.loads(file.read_text()), where)
    assert found["replica"] == {"url": "http://x"} and found["replica-2"]["args"][-3:-1] == ["mcp", "--dir"]


@pytest.mark.parametrize(
    "held",
    [
        '{\n  // mine\n  "hooks": {}\n}\n', '{"a": 1,}', '{"hooks": [', "[]", '{"hooks": []}',
        '{"hooks": {"SessionStart": {}}}',
        '{"hooks": {"SessionStart": 1}}', b"\xff{}", "{'a': 1}", "[" * 9999, '{"mcpServers": 1, "hooks": {}}',
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_changed_safely_is_left_alone(held, place):
    file = target("gemini", place, "settings.json")
    put(file, held)
    before = files(place.root.parent)
    [change] = connect("gemini", place)
    assert change.action == "refused" and str(file) in change.why
    assert files(place.root.parent) == before
    disconnect("gemini", place)
    assert files(place.root.parent) == before


def test_of_two_equal_keys_the_one_that_counts_is_changed(place):
    file = target("gemini", place, "settings.json")
    held = '{"hooks": {"Stop": []}, "mcpServers": {"a": {}}, "hooks": {"SessionEnd": []}}'
    put(file, held)
    connect("gemini", place)
    assert len(json.loads(file.read_text())["hooks"]["SessionEnd"]) == 1
    assert '"hooks": {"Stop": []}' in file.read_text()
    disconnect("gemini", place)
    assert file.read_text() == held


@pytest.mark.parametrize("held", ["", "\n", " "])
def test_an_empty_file_is_empty_again(held, place):
    file = target("gemini", place, "settings.json")
    put(file, held)
    connect("gemini", place)
    assert "hooks" in json.loads(file.read_text())
    disconnect("gemini", place)
    assert file.read_text() == held


@pytest.mark.parametrize("held", ['mcp_servers = { a = { command = "x" } }\n', "a = [\n", "mcp_servers = 3\n"])
def test_a_toml_file_without_a_place_for_a_table_is_left_alone(held, place):
    file = target("codex", place, "config.toml")
    put(file, held)
    assert [change.action for change in connect("codex", place)] == ["created", "refused"]
    assert file.read_text() == held


def test_a_link_is_followed_and_permissions_stay(place):
    file = target("gemini", place, "settings.json")
    real = place.home / "dotfiles" / "gemini.json"
    put(real, "{}\n")
    real.chmod(0o640)
    file.parent.mkdir(parents=True)
    file.symlink_to(real)
    connect("gemini", place)
    assert file.is_symlink() and real.stat().st_mode & 0o777 == 0o640 and "hooks" in json.loads(real.read_text())
    [backup] = real.parent.glob("*" + wiring.BESIDE)
    assert backup.stat().st_mode & 0o777 == 0o640 and backup.read_text() == "{}\n"
    disconnect("gemini", place)
    assert file.is_symlink() and real.read_text() == "{}\n" and list(real.parent.iterdir()) == [real]


def test_a_new_file_is_its_owners_alone(place):
    connect("claude-code", place)
    assert target("claude-code", place, ".claude.json").stat().st_mode & 0o777 == 0o600


def test_a_link_that_leads_nowhere_is_left_alone(place):
    file = target("gemini", place, "settings.json")
    file.parent.mkdir(parents=True)
    file.symlink_to(place.home / "not there")
    assert [change.action for change in connect("gemini", place)] == ["refused"]


def test_an_edit_between_looking_and_writing_is_not_lost(place):
    file = target("gemini", place, "settings.json")
    put(file, "{}")
    changes = wiring.connecting(AGENTS["gemini"], place)
    put(file, '{"theme": "light"}')
    with pytest.raises(ForeignFile, match="changed while"):
        wiring.connect(AGENTS["gemini"], place, changes)
    assert file.read_text() == '{"theme": "light"}'


def test_a_backup_that_is_lost_or_somebody_elses_does_no_harm(place):
    file = target("gemini", place, "settings.json")
    put(file, '{"theme": "light"}')
    put(file.with_name(file.name + wiring.BESIDE), "precious")
    connect("gemini", place)
    assert file.with_name(file.name + wiring.BESIDE).read_text() == "precious"
    file.with_name(file.name + wiring.BESIDE + "-2").unlink()
    disconnect("gemini", place)
    assert json.loads(file.read_text()) == {"theme": "light"}


def test_folders_of_the_environment_are_honoured(tmp_path):
    place = somewhere(tmp_path)._replace(scope="user")
    names = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "OPENCLAW_STATE_DIR")
    place = place._replace(environ={name: str(tmp_path / name) for name in names})
    for name in AGENTS:
        assert all(
            tmp_path.joinpath(one.file.relative_to(tmp_path).parts[0]).name in names for one in targets(name, place)
        )
        connect(name, place)
    assert list(place.home.iterdir()) == []


def test_a_project_is_the_working_tree_and_never_the_home_folder(tmp_path):
    root = tmp_path / "home" / "work" / "memory"
    root.mkdir(parents=True)
    assert known.project_of(root, tmp_path / "home") == root
    (tmp_path / "home" / ".git").mkdir()
    assert known.project_of(root, tmp_path / "home") == root
    (tmp_path / "home" / "work" / ".git").write_text("gitdir: elsewhere")
    assert known.project_of(root, tmp_path / "home") == tmp_path / "home" / "work"


def test_claude_code_finds_the_server_in_every_working_tree_of_a_repository(terminal):
    first, second = terminal.root.parent / "first", terminal.root
    first.mkdir()
    git(first, "init", "-q")
    git(first, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    git(first, "worktree", "add", "-q", "../tree")
    shutil.copy(first.parent / "tree" / ".git", second / ".git")
    state = Path(os.environ["HOME"]) / ".claude.json"
    terminal("connect", "claude-code")
    assert list(json.loads(state.read_text())["projects"]) == [os.path.realpath(first)]
    assert terminal.json("connect")["agents"][0] | {"found": 0} == {
        "agent": "claude-code", "found": 0, "state": "connected", "scope": "project",
    }  # fmt: skip
    terminal("disconnect", "claude-code")
    assert not state.exists()


@pytest.mark.parametrize("said", ["gitdir: ../elsewhere/.git/modules/x\n", "", "\0", "gitdir: ", "gitdir: /dev/null"])
def test_a_working_tree_that_is_not_a_further_one_is_its_own_project(place, said):
    put(place.root / ".git", said)
    [wish] = targets("claude-code", place)[1].wishes
    assert wish.path[1] == place.root.resolve().as_posix()


def test_another_scope_has_to_wait_until_this_one_is_over(place):
    connect("codex", place)
    with pytest.raises(ReplicaError, match="scope project"):
        wiring.connecting(AGENTS["codex"], place._replace(scope="user"))
    disconnect("codex", place)
    connect("codex", place._replace(scope="user"))
    assert wiring.state(AGENTS["codex"], place) == ("connected", "user")


def test_what_is_taken_out_by_hand_is_seen(place):
    connect("codex", place)
    target("codex", place, "hooks.json").unlink()
    assert wiring.state(AGENTS["codex"], place) == ("partly", "project")
    target("codex", place, "config.toml").unlink()
    assert wiring.state(AGENTS["codex"], place) == ("old", "project")
    disconnect("codex", place)
    assert wiring.state(AGENTS["codex"], place) == ("no", "")


def test_a_damaged_record_is_none(place):
    connect("codex", place)
    (place.root / ".replica" / wiring.RECORD).write_text('{"codex": 3}')
    assert wiring.state(AGENTS["codex"], place) == ("connected", "project")
    disconnect("codex", place)
    assert files(place.root) == {".codex/config.toml": b"", ".codex/hooks.json": b"{}\n"}


def test_the_commands_name_an_interpreter_and_run_anywhere(place, tmp_path):
    hostile = tmp_path / "project"
    for name in ("cli", "replica", "transport"):
        put(hostile / name / "__init__.py", "raise SystemExit(7)")
    run = known.commands("codex", place.root)
    done = subprocess.run(
        run.hook("session-start"), cwd=hostile, env={"PYTHONPATH": str(hostile)}, capture_output=True,
        stdin=subprocess.DEVNULL, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.path.isabs(run.server[0])


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_openclaws_handler_gives_the_memory_once_a_session_and_is_bounded(tmp_path):
    from replica.agents import openclaw

    fake = tmp_path / "fake.py"
    fake.write_text(
        "import sys, time, pathlib\n"
        f"log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "log.open('a').write(sys.argv[1] + '\\n')\n"
        "if sys.stdin.read().count('slow'): time.sleep(30)\n"
        'print(\'{"hookSpecificOutput": {"additionalContext": "what we know"}}\')\n'
    )
    source = openclaw.handler(
        lambda event: [sys.executable, str(fake), event, "--dir", "/c"], ("start", "compact", "stop")
    )
    (tmp_path / "handler.mjs").write_text(source)
    (tmp_path / "run.mjs").write_text(
        "import hook from './handler.mjs';\n"
        "const ask = async (key, files) => {\n"
        "  const event = { type: 'agent', action: 'bootstrap', sessionKey: key, context: { bootstrapFiles: files } };\n"
        "  await hook(event); return event.context.bootstrapFiles;\n"
        "};\n"
        "const began = Date.now();\n"
        "console.log(JSON.stringify(await ask('a', [{ name: 'MEMORY.md' }])));\n"
        "console.log(JSON.stringify(await ask('a', [])));\n"
        "console.log(JSON.stringify(await ask('slow', [])));\n"
        "await hook({ type: 'command', action: 'new', sessionKey: 'a', context: {} });\n"
        "await hook({ type: 'session', action: 'compact:before', sessionKey: 'a', context: {} });\n"
        "await hook({ type: 'agent', action: 'bootstrap', context: undefined });\n"
        "console.log(Date.now() - began < 15000);\n"
    )
    done = subprocess.run(
        ["node", "run.mjs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    first, again, slow, quick = done.stdout.splitlines()
    ours = {"name": "REPLICA.md", "path": "/c/REPLICA.md", "content": "what we know", "missing": False}
    assert json.loads(first) == [{"name": "MEMORY.md"}, ours] and json.loads(again) == [ours]
    assert (slow, quick, done.stderr) == ("[]", "true", "")
    until = time.monotonic() + 10
    while len((tmp_path / "log").read_text().split()) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    assert sorted((tmp_path / "log").read_text().split()) == ["compact", "start", "start", "stop"]


# --- the commands


@pytest.fixture
def terminal(replica, monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "OPENCLAW_STATE_DIR", "OPENCLAW_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)
    return replica


@pytest.mark.parametrize("name", AGENTS)
def test_a_dry_run_shows_what_would_change_and_changes_nothing(terminal, name):
    before = files(terminal.root.parent)
    out = terminal("connect", name, "--dry-run")
    assert "+++ " in out and "would be created" in terminal.err and "would be connected" in terminal.err
    assert files(terminal.root.parent) == before
    assert terminal.json("connect")["agents"][0]["state"] == "no"


@pytest.mark.parametrize("name", AGENTS)
def test_connect_says_what_it_did_and_what_a_person_has_to_do(terminal, name):
    done = terminal.json("connect", name)
    assert {file["action"] for file in done["files"]} <= {"created", "absent"} and not done["dry_run"]
    assert all(isinstance(line, str) for line in done["approve"])
    assert {row["agent"]: row["state"] for row in terminal.json("connect", "--list")["agents"]}[name] == "connected"
    terminal("connect", name)
    assert "nothing to change" in terminal.err
    terminal("disconnect", name)
    assert ": removed" in terminal.err
    terminal("disconnect", name)
    assert "not connected" in terminal.err


def test_a_file_with_comments_gets_its_entries_shown(terminal):
    file = terminal.root / ".claude" / "settings.local.json"
    put(file, "{\n  // mine\n}\n")
    out = terminal("connect", "claude-code", code=1)
    assert str(file) in terminal.err and "comments, perhaps" in terminal.err and '"SessionStart": [' in out
    assert file.read_text() == "{\n  // mine\n}\n"
    shown = terminal.json("connect", "claude-code", code=1)
    assert json.loads(shown["by_hand"][str(file)])["hooks"].keys() == {"SessionStart", "PreCompact", "SessionEnd"}


def test_what_was_left_alone_is_named_once_and_the_rest_is_called_a_part(terminal):
    file = terminal.root / ".claude" / "settings.local.json"
    put(file, "{\n  // mine\n}\n")
    terminal("connect", "claude-code", code=1)
    assert terminal.err.count(str(file)) == 1 and f"is connected in part, to {terminal.root}" in terminal.err
    terminal("disconnect", "claude-code")
    assert str(file) not in terminal.err


def test_what_would_be_shared_is_not_written(terminal):
    before = files(terminal.root.parent)
    for options in ((), ("--dry-run",)):
        terminal("connect", "openclaw", "--scope", "project", *options, code=1)
        assert "HOOK.md would be shared with all clones" in terminal.err
        assert 'hint: add "hooks/replica/**" to exclude' in terminal.err
        assert files(terminal.root.parent) == before
    terminal.save(
        "replica.toml", terminal.read("replica.toml").replace("exclude = [", 'exclude = ["hooks/replica/**", ')
    )
    terminal("sync")
    terminal("connect", "openclaw", "--scope", "project")
    terminal("sync")
    assert "HOOK.md" not in terminal("ls")


def git(folder: Path, *words: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git here")
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def test_what_git_would_commit_is_named(terminal):
    git(terminal.root, "init", "-q")
    put(terminal.root / ".codex" / "config.toml", 'model = "x"\n')
    written = [".codex/config.toml", ".codex/config.toml.before-replica", ".codex/hooks.json"]

    def told() -> str:
        return "\n".join(terminal.json("connect", "codex")["approve"])

    first = told()
    assert all(path in first for path in written) and "info/exclude" in first and told() == first
    put(terminal.root / ".gitignore", "hooks.json\n*.before-replica\n")
    assert ".codex/config.toml" in told() and "before-replica" not in told() and "hooks.json" not in told()
    put(terminal.root / ".gitignore", ".codex/\n")
    assert "committed" not in told()
    git(terminal.root, "add", "-f", ".codex/config.toml")  # what is in the index is committed, whatever is ignored
    assert ".codex/config.toml" in told()
    terminal("disconnect", "codex")
    (terminal.root / ".git").rename(terminal.root / "no-git")
    assert "committed" not in told()


def test_an_older_sdk_is_named_as_none(place, monkeypatch):
    monkeypatch.setattr(known, "find_spec", lambda name: None if name == "mcp_types" else object())
    assert "for the MCP server: pip install 'memory-replica[mcp]'" in known.to_do(AGENTS["codex"], place)


def test_what_is_pasted_by_hand_counts_as_connected(terminal, tmp_path):
    shown = terminal.json("connect", "openclaw")
    [(file, snippet)] = shown["by_hand"].items()
    put(Path(file), snippet)
    assert terminal.json("connect", "openclaw")["files"][-1]["action"] == "unchanged"
    terminal("disconnect", "openclaw")
    assert json.loads(Path(file).read_text()) == {}


def test_wrong_agents_and_scopes_are_wrong_usage(terminal, tmp_path, monkeypatch):
    terminal("connect", "emacs", code=2)
    assert "claude-code, codex, openclaw, gemini" in terminal.err
    terminal("connect", "codex", "--scope", "world", code=2)
    terminal("disconnect", "emacs", code=2)
    monkeypatch.chdir(tmp_path)
    terminal("connect", "codex", code=1)
    assert "replica init" in terminal.err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_whose_name_is_no_text_is_told(terminal, monkeypatch):
    odd = os.fsdecode(os.fsencode(terminal.root) + b"\xff")
    os.rename(terminal.root, odd)
    monkeypatch.chdir(odd)
    terminal("connect", "codex", "--dir", odd, code=1)
    assert "not UTF-8" in terminal.err and "unforeseen" not in terminal.err


def test_no_line_of_somebody_elses_is_shown_at_length(terminal):
    put(terminal.root / ".gemini" / "settings.json", json.dumps({"a": "x" * 1000, "mcpServers": {}}))
    out = terminal("connect", "gemini")
    assert all(len(line) <= 170 or line.startswith("+") for line in out.splitlines())


def test_the_path_of_a_list_is_known_by_its_end():
    assert jsontext.put("{}", ("a", END), 1, "f") == '{\n  "a": [\n    1\n  ]\n}'
    assert jsontext.put('{"a": [0]}', ("a", END), 1, "f") == '{"a": [0, 1]}'
