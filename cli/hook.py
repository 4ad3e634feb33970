"""What an agent's hooks run: `replica hook`. It must never keep an agent waiting, nor end in its way.

Light on purpose: nothing of ours is imported here before it is needed. At a session's start a child makes the page, and
what is not there within a second is not waited for. At its end we are gone within milliseconds: what has to be done is
done by a process that is no child of the agent any more.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

EVENTS = ("session-start", "pre-compact", "session-end")

# Seconds.
PATIENCE = 0.88  # from the process's beginning to the memory's last line; what is left of the second is for its end
BEGUN = 0.05  # how long a process has been there at our first line, where the system does not say
PEERS = 0.2  # to wait for peers at the start of a session; less where the machine is slow, or the folder large
WRITING = 0.25  # what the page itself takes at least
SETTLE = 1.0  # in which an agent writes the last of its log: some do it while they end
INPUT = 0.5  # to wait for what an agent tells us
LEAVE = 20  # after which a child that cannot end by itself is ended
STEP = 900.0  # for one command of the detached process

PAGE = 9_300  # characters of the page; with the lines around it, below the 10,000 that Claude Code takes
ROOM = 9_500  # UTF-16 units of it all, which is what agents count
INPUT_MOST = 1 << 20  # bytes
LOG_MOST = 256 << 10  # bytes

LOCK, LOG, WAITING = "hooks.lock", "hooks.log", "hooks"  # below .replica/

# A session that ends so goes on as another, here and now: the stretch of work is not over.
GOES_ON = frozenset({"clear", "resume"})


def main(arguments: list[str] | None = None) -> int:
    """Do what a hook is for. Always 0, and no output but an answer: nobody could act on anything else."""
    began = time.monotonic() - _age()
    with contextlib.suppress(Exception):
        asked = _asked(sys.argv[1:] if arguments is None else arguments)
        if asked is not None:
            event, agent, root = asked
            if event == "session-start":
                _start(root, began)
            elif "--detached" in sys.argv:
                _end(event, agent, root)
            elif (root / ".replica" / "store.db").is_file():
                detach([event, "--agent", agent, "--dir", os.fspath(root)], partial(_end, event, agent, root))
    return 0


def _age() -> float:
    """Seconds since this process was made. Linux says it, in hundredths; Python itself may have taken long to begin."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return age if 0 <= age < 60 else BEGUN
    except (OSError, ValueError, IndexError, AttributeError):
        return BEGUN


def _asked(words: list[str]) -> tuple[str, str, Path] | None:
    """Event, agent and folder. What is not understood is passed over: a newer program may have written it."""
    event = words[0] if words else ""
    named = dict(zip(words[1::2], words[2::2], strict=False))
    folder = named.get("--dir") or os.environ.get("REPLICA_DIR")
    root = Path(folder).absolute() if folder else _nearest(Path.cwd())
    agent = named.get("--agent", "")
    known = event in EVENTS and agent.replace("-", "").isalnum()
    return (event, agent, root) if known and root is not None else None


def _nearest(start: Path) -> Path | None:
    return next((folder for folder in (start, *start.parents) if (folder / ".replica/store.db").is_file()), None)


def python(module: str, *words: str) -> list[str]:
    """A module of ours by the interpreter that runs now, and only from where this one was found."""
    ours = os.fspath(Path(__file__).parents[1])
    run = f"import sys, runpy; sys.path.insert(0, {ours!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-E", "-P", "-c", run, *words]


# --- the start of a session


def _start(root: Path, began: float) -> None:
    """Print the memory, or nothing."""
    if not (root / ".replica" / "store.db").is_file():
        return
    _input(0)  # what the agent says is not needed, but one that cannot say it may take us for broken
    page = _page(root, began + PATIENCE)
    if page:
        answer = {"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": framed(page)}}
        os.write(1, json.dumps(answer).encode() + b"\n")
    # A thread that still reads would keep the interpreter from its end.
    sys.stdout.flush()
    os._exit(0)


def _page(root: Path, until: float) -> str:
    """What `replica start` prints, or nothing.

    A child makes it. One that is late is left to its work, which may be a large file that is new: otherwise no start
    would ever be in time. It ends by itself (LEAVE), wherever it hangs.
    """
    child = subprocess.Popen(
        python("cli.hook", "page", os.fspath(root), str(until)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, cwd=root,
    )  # fmt: skip
    out = bytearray()
    reading = threading.Thread(target=_until_end, args=(child.stdout.fileno(), out), daemon=True)
    reading.start()
    import replica.sessions.base  # noqa: F401 - needed next, and there is time now

    reading.join(max(0.0, until - time.monotonic()))
    if reading.is_alive():
        if not hasattr(signal, "alarm"):  # Windows: it cannot be trusted to end
            child.kill()
        return ""
    return str(_object(bytes(out)).get("page", ""))


def _until_end(handle: int, out: bytearray) -> None:
    with contextlib.suppress(OSError):
        while piece := os.read(handle, 65536):
            out.extend(piece)


def page(root: Path, until: float) -> None:
    """Print the page of `replica start`, by the running node or without it. Then take leave of peers, unwaited for.

    `until`: when somebody loses patience, by the monotonic clock.
    """
    if hasattr(signal, "alarm"):
        signal.alarm(LEAVE)  # the system ends it then, whatever the interpreter is at
    import transport.workday  # noqa: F401 - it takes its time, and what is left is for the peers
    from cli.workday import begin

    def tell(answer: dict) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody waits any more
            os.write(1, json.dumps(answer).encode())
        os.close(1)

    left = until - time.monotonic()
    writing = max(WRITING, PATIENCE - left)  # a machine that was slow so far will be
    begin(root, tell, format="markdown", most=PAGE, wait=PEERS, until=until - writing)


def framed(page: str) -> str:
    """The page between the lines by which it is known as ours wherever an agent writes it down."""
    from replica.sessions.base import BEGIN_MEMORY, END_MEMORY

    for mark in (BEGIN_MEMORY, END_MEMORY):  # a member could have written one, to end it early
        page = page.replace(mark, mark.replace("[", "(").replace("]", ")"))
    room = ROOM - len(BEGIN_MEMORY) - len(END_MEMORY) - 4
    while _units(page) > room:  # characters beyond the first plane count twice
        page = page[: len(page) * room // _units(page) - 1].rpartition("\n")[0] + "\n…\n"
    return f"{BEGIN_MEMORY}\n{page}{END_MEMORY}\n"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "replace")) // 2


def _input(seconds: float) -> dict:
    """What the agent tells on stdin, as far as it has come by then; {} for what is no JSON object.

    Never waits for the end of stdin: an agent may leave it open.
    """
    held = bytearray()
    over = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            while len(held) < INPUT_MOST and (piece := os.read(0, 65536)):
                held.extend(piece)
                if held.rstrip().endswith(b"}") and _object(bytes(held)):
                    break
        over.set()

    threading.Thread(target=read, daemon=True).start()
    over.wait(seconds)
    return _object(bytes(held))


def _object(held: bytes) -> dict:
    try:
        found = json.loads(held)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# --- the end of a session: a process that nobody waits for


def detach(words: list[str], work: Callable[[], None]) -> None:
    """Run `work` in a process that is not below the agent, in a session of its own, and return at once.

    Agents end what a hook leaves behind in several ways: its process group, or all that descends from it. The second
    fork makes it a child of init, setsid takes it out of the group. It has none of our files but stdin.
    """
    if not hasattr(os, "fork"):
        _detach_on_windows(python("cli.hook", *words, "--detached", "yes"))
        return
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.closerange(3, 256)
        if os.fork() == 0:
            work()
    finally:
        os._exit(0)


def _detach_on_windows(command: list[str]) -> None:
    """A process of its own, outside of the agent's job object where that allows it."""
    base = 0x00000008 | 0x00000200  # DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
    for flags in (base | 0x01000000, base):  # CREATE_BREAKAWAY_FROM_JOB
        with contextlib.suppress(OSError):
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, creationflags=flags)
            return


def _end(event: str, agent: str, root: Path) -> None:
    """Remember what has ended, and do all that waits, unless somebody is at it: then it is theirs to do."""
    folder = root / ".replica"
    _to_log(folder / LOG)
    try:
        told = _input(INPUT)
        over = event == "session-end" and told.get("reason") not in GOES_ON
        _remember(folder / WAITING, agent, over)
        time.sleep(SETTLE)
        from replica.disk import alone

        # Whoever remembers, does so before asking for the lock; whoever works, looks again after giving it back. So
        # nothing is left lying that came in between.
        done = True
        while done and _waiting(folder / WAITING):
            with alone(folder / LOCK) as ours:
                done = ours and _work(root, folder / WAITING)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)


def _to_log(log: Path) -> None:
    """What is said goes to a log that does not grow for ever."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_MOST:
            kept = log.read_bytes()[-LOG_MOST // 2 :]
            log.write_bytes(kept[kept.find(b"\n") + 1 :])
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _remember(folder: Path, agent: str, over: bool) -> None:
    """Note that a session has ended; several of one agent, until they are taken up, are one."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{agent}.{'over' if over else 'goes-on'}.json"
    if not file.exists():  # what waits there came earlier, and asks for more days
        beside = file.with_suffix(f".{os.getpid()}")
        try:
            beside.write_text(json.dumps({"agent": agent, "over": over, "time": time.time()}), "utf-8")
            beside.replace(file)
        except OSError:  # a full disk keeps nothing; what is half written would lie there for ever
            beside.unlink(missing_ok=True)
            raise


def _waiting(folder: Path) -> list[Path]:
    """What waits, and what somebody took up who did not come to the end of it."""
    return sorted([*folder.glob("*.json"), *folder.glob("*.taken")])


def _work(root: Path, folder: Path) -> bool:
    """Take in what the sessions of all that waits have left, then exchange with peers. Only for who holds the lock.

    Returns whether that was done; what failed waits for the next end of a session.
    """
    for file in folder.glob("*.json"):  # from here on, whoever ends makes a new one
        taken = file.with_suffix(".taken")
        file.unlink() if taken.exists() else file.replace(taken)  # the older of two asks for more days
    files = _waiting(folder)
    waiting = [_object(file.read_bytes()) for file in files]
    where, failed = ("--dir", os.fspath(root)), False
    for agent in sorted({str(one.get("agent", "")) for one in waiting} - {""}):
        mark = folder / f"{agent}.captured"
        if _run("backfill", "--since", _since(mark, waiting), "--agent", agent, *where):
            mark.touch()
        else:
            failed = True
    # A compaction, or `/clear`, is within a stretch of work: `save` would end it, and what others changed since it
    # began would not be told again at the start that follows.
    _run("save" if any(one.get("over") for one in waiting) else "sync", *where)
    for file in files:
        if failed:
            file.replace(file.with_suffix(".json"))
        else:
            file.unlink(missing_ok=True)
    return not failed


def _since(mark: Path, waiting: list[dict]) -> str:
    """The day before the last capture, or before what waits: a session may have begun then, here or in another zone."""
    times = [time.time(), *(one["time"] for one in waiting if isinstance(one.get("time"), int | float))]
    with contextlib.suppress(OSError):
        times.append(mark.stat().st_mtime)
    return time.strftime("%Y-%m-%d", time.localtime(max(0, min(times) - 86_400)))


def _run(*words: str) -> bool:
    """Whether one command of ours succeeds; how it went stands in the log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), "replica", " ".join(words), flush=True)
    try:
        done = subprocess.run(python("cli.main", *words), stdin=subprocess.DEVNULL, timeout=STEP, check=False)
        print("exit code", done.returncode, flush=True)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(error, flush=True)
        return False


if __name__ == "__main__":
    if sys.argv[1:2] == ["page"]:
        page(Path(sys.argv[2]), float(sys.argv[3]))
        sys.exit(0)
    sys.exit(main())
