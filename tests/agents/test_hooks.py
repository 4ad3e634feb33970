"""Hooks as agents run them: with their stdin, their patience, and their ways of ending what they started."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli import hook
from replica.clone import Clone
from replica.sessions.base import BEGIN_MEMORY, END_MEMORY, without_ours
from replica.workday import session
from tests.test_cli_memory import fresh, replica  # noqa: F401 - fixtures

# ruff: noqa: F811

CODE = Path(hook.__file__).parents[1]
SLACK = 3.0  # seconds that a busy machine may add to what is bounded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="as agents run them on POSIX systems")


def command(event: str, root: Path, code: Path = CODE, agent: str = "claude-code") -> list[str]:
    run = f"import sys, runpy; sys.path.insert(0, {str(code)!r}); runpy.run_module('cli.hook', run_name='__main__')"
    return [sys.executable, "-E", "-P", "-c", run, event, "--agent", agent, "--dir", str(root)]


def run(event: str, root: Path, told: object = None, **more) -> subprocess.CompletedProcess:
    given = told if isinstance(told, bytes) else json.dumps(told or {"session_id": "s", "cwd": "/elsewhere"}).encode()
    return subprocess.run(command(event, root, **more), input=given, capture_output=True, timeout=60, check=False)


@contextmanager
def timed(most: float):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < most


def wait_for(true, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def context(done: subprocess.CompletedProcess) -> str:
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout)
    assert list(answer) == ["hookSpecificOutput"] and answer["hookSpecificOutput"]["hookEventName"] == "SessionStart"
    return answer["hookSpecificOutput"]["additionalContext"]


def altered(code: Path, **constants: str) -> None:
    """Our `cli/hook.py` below `code`, with other constants."""
    source = (CODE / "cli" / "hook.py").read_text()
    for name, value in constants.items():
        source, count = re.subn(rf"^{name} = \S+", f"{name} = {value}", source, flags=re.M)
        assert count == 1
    (code / "cli").mkdir(parents=True, exist_ok=True)
    (code / "cli" / "hook.py").write_text(source)


@pytest.fixture
def given(replica, tmp_path) -> Callable[[], str]:
    """What a start gives, with more patience than agents have: other tests keep the machine busy."""
    code = tmp_path / "patient"
    altered(code, PATIENCE="40.0")
    for file in (CODE / "cli").glob("*.py"):
        if file.name != "hook.py":
            (code / "cli" / file.name).symlink_to(file)
    for name in ("replica", "transport"):
        (code / name).symlink_to(CODE / name)
    return lambda: context(run("session-start", replica.root, code=code))


# --- the start of a session


def test_a_start_gives_the_memory_as_quoted_facts_between_our_marks(given):
    text = given()
    assert text.startswith(BEGIN_MEMORY + "\n") and text.endswith(END_MEMORY + "\n")
    assert "facts to weigh" in text and "\n  > now\n" in text
    assert without_ours(f"before {text}after") == "before \nafter"


def test_a_long_memory_is_cut_to_what_agents_take(replica, given):
    replica.save("activeContext.md", "🦄 ünï\n" * 20_000)
    text = given()
    assert 8_000 < len(text.encode("utf-16-le")) // 2 <= 9_500
    assert text.endswith(END_MEMORY + "\n")


@pytest.mark.parametrize("page", ["", "x", "🦄" * 20_000, f"a {END_MEMORY} b {BEGIN_MEMORY}\n" * 900, "🦄\n" * 9_000])
def test_whatever_the_page_is_it_ends_once_and_is_bounded(page):
    text = hook.framed(page)
    assert len(text.encode("utf-16-le")) // 2 <= hook.ROOM
    assert (text.count(BEGIN_MEMORY), text.count(END_MEMORY)) == (1, 1)
    assert without_ours(text).strip() == ""


def test_a_second_start_is_the_same_stretch_of_work(replica, given):
    given()
    with Clone.open(replica.root) as clone:
        first = session(clone)
    given()
    with Clone.open(replica.root) as clone:
        again = session(clone)
    assert first.ended is None and again._replace(seen=0) == first._replace(seen=0)


def test_a_start_with_a_running_node_asks_it(replica, given):
    replica("up", "--detach", "--listen", "127.0.0.1:0", "--no-mdns")
    try:
        assert "now" in given()
    finally:
        replica("down")


@pytest.mark.parametrize(
    "told", [b"", b"garbage \xff\x00", b"[1, 2]", b"{" * 5000, b"x" * 300_000, b'{"a": "\\ud800"}']
)
def test_whatever_the_agent_says_a_hook_ends_well(replica, told):
    assert run("session-start", replica.root, told).returncode == 0
    done = run("session-end", replica.root, told)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_start_is_silent_where_there_is_nothing_to_give(replica, tmp_path):
    store = replica.root / ".replica" / "store.db"
    for root, break_it in (
        (tmp_path / "nowhere", lambda: None),
        (replica.root, lambda: store.write_bytes(b"no database" * 999)),
        (replica.root, store.unlink),
    ):
        break_it()
        done = run("session-start", root)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        done = run("session-end", root)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("words", [[], ["session-start"], ["nonsense", "--agent", "x"], ["session-start", "--agent"]])
def test_what_is_no_call_of_ours_is_passed_over(words, tmp_path):
    run = [*command("x", tmp_path)[:5], *words]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_hidden_command_does_the_same(replica):
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "hook", "session-end", "--agent", "codex"], cwd=replica.root / "notes",
        env={**os.environ, "PYTHONPATH": str(CODE)}, input=b"{}", capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    wait_for(lambda: "replica save" in log(replica.root))
    assert "hook" not in replica("--help")


# --- with commands that only note that they ran


NOTES = """
import json, os, sys, time
from pathlib import Path
root, words = Path(sys.argv[sys.argv.index("--dir") + 1]), sys.argv[1:]
conduct = json.loads((root / "conduct.json").read_text())
def note(what):
    with open(root / "notes.txt", "a") as file:
        file.write(json.dumps([what, words[:-2], time.monotonic(), os.getsid(0)]) + "\\n")
note("begin")
time.sleep(conduct.get("seconds", 0))
note("end")
sys.exit(conduct.get(words[0], 0))
"""


class Stage:
    """A clone's folder, and our code with another `cli.main`."""

    def __init__(self, folder: Path):
        self.code, self.root = folder / "code", folder / "memory"
        altered(self.code, SETTLE="0.05", LEAVE="3")
        (self.code / "replica").symlink_to(CODE / "replica")
        (self.code / "transport").mkdir()
        (self.code / "transport" / "workday.py").write_text("")
        # Without these, packages of that name that are installed would come first.
        for package in ("cli", "transport"):
            (self.code / package / "__init__.py").write_text("")
        (self.code / "cli" / "main.py").write_text(NOTES)
        (self.root / ".replica").mkdir(parents=True)
        (self.root / ".replica" / "store.db").write_bytes(b"")
        self.conduct()

    def conduct(self, **how) -> None:
        (self.root / "conduct.json").write_text(json.dumps(how))

    def page(self, source: str) -> None:
        (self.code / "cli" / "workday.py").write_text(
            "import time\ndef begin(root, tell, **asked):\n    " + source + "\n"
        )

    def run(self, event: str, told: object = None) -> subprocess.CompletedProcess:
        return run(event, self.root, told, code=self.code)

    def popen(self, event: str, **more) -> subprocess.Popen:
        return subprocess.Popen(
            command(event, self.root, self.code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            **more,
        )  # fmt: skip

    def notes(self) -> list[list]:
        file = self.root / "notes.txt"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def ran(self) -> list[str]:
        return [words[0] for what, words, *_ in self.notes() if what == "end"]

    def waiting(self) -> list[Path]:
        return hook._waiting(self.root / ".replica" / hook.WAITING)


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    # A process that nobody waits for must not outlast its folder.
    wait_for(lambda: [what for what, *_ in stage.notes()].count("begin") == len(stage.ran()))


def log(root: Path) -> str:
    file = root / ".replica" / hook.LOG
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(
    "source", ["time.sleep(60)", "raise ValueError", "import os; os._exit(3)", "tell({'page': ''})"]
)
def test_a_start_gives_up_in_silence_within_its_second(stage, source):
    stage.page(source)
    with timed(1.0 + SLACK):
        done = stage.run("session-start")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_start_that_is_late_makes_the_next_one_quick(stage):
    done = stage.root / "done"
    late = f"time.sleep(0 if __import__('os').path.exists({str(done)!r}) else 1.2); open({str(done)!r}, 'w')"
    stage.page(late + "; tell({'page': 'memory'})")
    assert stage.run("session-start").stdout == b""
    wait_for(done.exists)
    altered(stage.code, PATIENCE="20.0")
    with timed(1.2 + SLACK):
        assert context(stage.run("session-start"))


def test_a_start_does_not_wait_for_leave_to_be_taken(stage):
    stage.page("tell({'page': 'memory'}); time.sleep(1.5)")
    done = stage.run("session-start")
    assert done.stdout == b"" or "memory" in context(done)


def test_a_child_that_hangs_is_ended_by_the_system(stage):
    stage.page(f"open({str(stage.root / 'pid')!r}, 'w').write(str(__import__('os').getpid())); time.sleep(60)")
    stage.run("session-start")
    wait_for(lambda: (stage.root / "pid").exists() and (stage.root / "pid").read_text())
    pid = int((stage.root / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{pid}/cmdline").exists() if Path("/proc").is_dir() else True, 20)


@pytest.mark.parametrize("event", ["session-start", "session-end", "pre-compact"])
@pytest.mark.parametrize("told", [b"", b'{"half": ', b'{"session_id": "s"}'])
def test_a_stdin_that_is_never_closed_holds_nothing_up(stage, event, told):
    stage.page("tell({'page': 'memory'})")
    child = stage.popen(event)
    try:
        child.stdin.write(told)
        child.stdin.flush()
        with timed(1.0 + SLACK):
            assert child.wait(30) == 0
        if event != "session-start":
            wait_for(lambda: len(stage.ran()) == 2)
    finally:
        child.kill()
        child.communicate()


def test_an_end_takes_in_the_logs_and_saves_in_a_process_of_its_own(stage):
    stage.conduct(seconds=0.5)
    with timed(0.3 + SLACK):
        done = stage.run(
            "session-end", {"session_id": "s", "reason": "other", "transcript_path": "/x", "cwd": "/elsewhere"}
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    wait_for(lambda: len(stage.ran()) == 2 and not stage.waiting())
    [first, second] = [words for what, words, *_ in stage.notes() if what == "end"]
    assert first[:2] == ["backfill", "--since"] and first[3:] == ["--agent", "claude-code"] and second == ["save"]
    assert "replica save" in log(stage.root) and "exit code 0" in log(stage.root)
    assert (stage.root / ".replica" / hook.LOG).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["group", "session", "tree"])
def test_what_has_to_be_done_is_done_although_the_agent_ends_all_it_started(stage, how):
    stage.conduct(seconds=0.5)
    child = stage.popen("session-end", start_new_session=True)
    child.stdin.write(b'{"reason": "other"}')
    child.stdin.close()
    if how == "group":  # the moment it returns, as at the end of its time limit
        child.wait(30)
        kill_group(child.pid)
    elif how == "tree":
        child.wait(30)
        for pid in below(child.pid):
            os.kill(pid, signal.SIGKILL)
        kill_group(child.pid)
    else:
        wait_for(lambda: stage.notes(), 30)
        kill_group(child.pid)
        child.wait(30)
    wait_for(lambda: stage.ran() == ["backfill", "save"])
    child.stdout.close(), child.stderr.close()


def kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def below(pid: int) -> list[int]:
    """All that descends from a process, as agents find it: by parents."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat") if Path("/proc").is_dir() else ():
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one and child not in found]
    return found[1:]


def test_the_detached_process_holds_no_pipe_of_the_agents(stage):
    stage.conduct(seconds=1.6)
    child = stage.popen("session-end")
    with timed(3.0):
        out, err = child.communicate(b"{}", timeout=30)  # reads until nobody has the other end
    assert (out, err) == (b"", b"")
    wait_for(lambda: len(stage.ran()) == 2)


def test_ends_that_come_together_are_done_together_and_one_at_a_time(stage):
    stage.conduct(seconds=0.3)
    children = [stage.popen("session-end") for _ in range(6)]
    for child in children:
        child.communicate(b'{"reason": "other"}', timeout=60)
    wait_for(lambda: not stage.waiting() and stage.ran()[-1:] == ["save"])
    assert 1 <= stage.ran().count("save") <= 4, "six ends were not six runs"
    assert [what for what, *_ in stage.notes()] == ["begin", "end"] * len(stage.ran()), "no two at a time"


def test_an_end_that_comes_while_another_is_at_work_is_not_forgotten(stage):
    stage.conduct(seconds=0.6)
    stage.run("session-end")
    wait_for(lambda: stage.ran() == ["backfill"])
    stage.run("session-end")
    wait_for(lambda: stage.ran() == ["backfill", "save"] * 2 and not stage.waiting())


@pytest.mark.parametrize(
    ("event", "told", "command"),
    [
        ("pre-compact", {"trigger": "auto"}, "sync"),
        ("session-end", {"reason": "clear"}, "sync"),
        ("session-end", {"reason": "resume"}, "sync"),
        ("session-end", {"reason": "prompt_input_exit"}, "save"),
        ("session-end", b"garbage", "save"),
    ],
)
def test_only_the_end_of_a_stretch_of_work_is_saved_as_such(stage, event, told, command):
    stage.run(event, told)
    wait_for(lambda: stage.ran() == ["backfill", command] and not stage.waiting())


def test_what_failed_waits_for_the_next_end(stage):
    stage.conduct(backfill=1)
    stage.run("session-end")
    wait_for(lambda: stage.ran() == ["backfill", "save"])
    wait_for(lambda: [file.suffix for file in stage.waiting()] == [".json"])
    [waits] = stage.waiting()
    old = json.loads(waits.read_text()) | {"time": time.time() - 9 * 86_400}
    waits.write_text(json.dumps(old))
    stage.conduct()
    stage.run("session-end")
    wait_for(lambda: not stage.waiting())
    [*_, again, _] = [words for what, words, *_ in stage.notes() if what == "end"]
    assert again[2] == time.strftime("%Y-%m-%d", time.localtime(time.time() - 10 * 86_400))


def test_days_since_the_last_capture_are_taken_in(tmp_path):
    mark = tmp_path / "codex.captured"
    day = 86_400
    since = lambda times: hook._since(mark, [{"time": one} for one in times])  # noqa: E731
    form = lambda time_: time.strftime("%Y-%m-%d", time.localtime(time_))  # noqa: E731
    now = time.time()
    assert since([now]) == form(now - day)
    mark.touch()
    os.utime(mark, (now - 5 * day, now - 5 * day))
    assert since([now]) == form(now - 6 * day)
    assert since([now - 7 * day, "nonsense", None]) == form(now - 8 * day)


def test_the_log_does_not_grow_for_ever(stage):
    file = stage.root / ".replica" / hook.LOG
    file.write_bytes(b"an old line\n" * 50_000)
    stage.run("session-end")
    wait_for(lambda: stage.ran() == ["backfill", "save"] and not stage.waiting())
    assert file.stat().st_size < hook.LOG_MOST and file.read_bytes().startswith(b"an old line\n")
    assert "replica save" in log(stage.root)


def test_what_was_taken_up_by_somebody_who_died_is_done(stage):
    stage.conduct(seconds=30)
    stage.run("session-end")
    wait_for(lambda: stage.notes())
    [[*_, worker]] = stage.notes()
    os.killpg(worker, signal.SIGKILL)  # it leads a session of its own; what it ran is in there
    (stage.root / "notes.txt").unlink()
    stage.conduct()
    stage.run("pre-compact")
    wait_for(lambda: not hook._waiting(stage.root / ".replica" / hook.WAITING))
    assert stage.ran() == ["backfill", "save"], "the end of the stretch of work is not forgotten"


def test_what_waits_is_a_few_files_however_often_sessions_end(stage):
    stage.conduct(seconds=0.2, backfill=1)
    for _ in range(8):
        stage.run("session-end"), stage.run("pre-compact")
    wait_for(lambda: stage.ran()[-1:] == ["save"])
    assert len(stage.waiting()) <= 4, "one of each kind, and one of each that somebody is at"


def test_files_that_are_none_of_ours_do_no_harm(stage):
    folder = stage.root / ".replica" / hook.WAITING
    folder.mkdir()
    (folder / "a.json").write_text("no object")
    (folder / "b.json").write_text('{"agent": "x", "time": "soon", "over": 1}')
    stage.run("pre-compact")
    wait_for(lambda: stage.ran() == ["backfill", "backfill", "save"] and not hook._waiting(folder))


def test_an_end_that_cannot_be_noted_leaves_nothing_half_written(stage, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    folder = stage.root / ".replica" / hook.WAITING
    with pytest.raises(OSError, match="No space"):
        hook._remember(folder, "codex", True)
    assert list(folder.iterdir()) == []


# --- with the commands themselves


def test_an_end_takes_in_the_files_of_a_clone(replica):
    replica.save("activeContext.md", "retries have jitter\n")
    assert run("session-end", replica.root, {"reason": "other"}).returncode == 0
    wait_for(lambda: "replica save" in log(replica.root) and log(replica.root).rstrip().endswith("exit code 0"))
    assert replica("show", "activeContext.md") == "retries have jitter\n"
    assert "activeContext.md" in replica("show", "SESSION_LOG.md")


def test_no_program_that_lies_in_the_agents_folder_or_the_clone_is_run(replica, tmp_path):
    project, trace = tmp_path / "project", tmp_path / "ran"
    for folder in (project, replica.root):
        for name in ("cli", "replica", "transport", "mcp", "json", "runpy", "sitecustomize", "usercustomize"):
            (folder / name).mkdir(parents=True)
            (folder / name / "__init__.py").write_text(f"open({str(trace)!r}, 'a').write({name!r})\n")
            (folder / f"{name}.py").write_text((folder / name / "__init__.py").read_text())
    environ = {
        **os.environ,
        "PYTHONPATH": str(project),
        "PYTHONSTARTUP": str(project / "json.py"),
        "HOME": str(project),
    }
    for folder in (project, replica.root):
        for event in hook.EVENTS:
            done = subprocess.run(
                command(event, replica.root), cwd=folder, env=environ, input=b"{}", capture_output=True, timeout=60,
                check=True,
            )  # fmt: skip
            assert done.stderr == b"" and done.stdout[:1] in (b"", b"{")
    wait_for(lambda: not hook._waiting(replica.root / ".replica" / hook.WAITING))
    assert "exit code 0" in log(replica.root) and not trace.exists()


def test_what_was_said_in_a_session_is_memory_after_its_end(replica, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    common = {"sessionId": "s", "cwd": str(replica.root), "timestamp": now, "isSidechain": False, "version": "2.1.329"}
    said = [
        {"type": "user", "uuid": "1", "parentUuid": None,
         "message": {"role": "user", "content": "Add jitter to the retries"}},
        {"type": "assistant", "uuid": "2", "parentUuid": "1",
         "message": {"id": "m", "role": "assistant", "model": "a-model",
                     "content": [{"type": "text", "text": "Retries have jitter now."}]}},
    ]  # fmt: skip
    folder = tmp_path / ".claude" / "projects" / "x"
    folder.mkdir(parents=True)
    (folder / "s.jsonl").write_text("".join(json.dumps(common | one) + "\n" for one in said))
    assert run("session-end", replica.root, {"reason": "other"}).returncode == 0
    wait_for(lambda: list(replica.root.rglob("20*-*-*.md")) and "replica save" in log(replica.root))
    [day] = list(replica.root.rglob("20*-*-*.md"))
    assert "jitter" in day.read_text() and "a-model" in day.read_text()
    wait_for(lambda: not hook._waiting(replica.root / ".replica" / hook.WAITING))
