"""What the measurements share: figures and how they are printed, clones made without pairing, nodes as processes."""

import json
import os
import platform
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replica.changes import Add
from replica.clone import Clone
from replica.keys import Identity

SEED = 20260305
ROOT = Path(__file__).resolve().parent.parent
WORDS = [
    *(
        "tide",
        "harbour",
        "gauge",
        "storm",
        "warning",
        "forecast",
        "reading",
        "release",
        "pattern",
        "lesson",
        "decision",
    ),
    *("retry", "cache", "index", "migration", "alert", "window", "replay", "level", "surge", "pressure", "firmware"),
    *("checksum", "queue", "timeout", "Höhe", "水位", "привет", "λόγος", "🌊"),
]


# --- figures


def percentile(values: list[float], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def spread(seconds: list[float]) -> str:
    ms = [1000 * value for value in seconds]
    return (
        f"p50 {statistics.median(ms):.2f} ms, p90 {percentile(ms, 0.9):.2f} ms, p99 {percentile(ms, 0.99):.2f} ms, "
        f"max {max(ms):.2f} ms (n={len(ms)})"
    )


def say(what: str, figure: str, target: str = "", met: bool | None = None) -> None:
    verdict = "" if met is None else "  [met]" if met else "  [MISSED]"
    print(f"  {what:<46} {figure}{f'; target {target}' if target else ''}{verdict}", flush=True)


def machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return (
        f"{os.cpu_count()} cores ({name}), {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )


@contextmanager
def place() -> Iterator[Path]:
    """An empty folder. TMPDIR chooses the disk, and with it what a flush costs."""
    folder = Path(tempfile.mkdtemp(prefix="replica-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def until(holds: Callable[[], Any], timeout: float = 30.0, pause: float = 0.0005) -> Any:
    """Ask until it holds. Raises TimeoutError."""
    end = time.perf_counter() + timeout
    while not (found := holds()):
        if time.perf_counter() > end:
            raise TimeoutError(f"waited {timeout:.0f} s in vain")
        time.sleep(pause)
    return found


# --- clones and what is in them


def workspace(folder: Path, *names: str) -> list[Clone]:
    """Clones that belong together already, without network; only the first holds anything yet."""
    from transport.tls import make_certificate

    for name in names:
        (folder / name).mkdir(parents=True)
    first = Clone.create(folder / names[0], names[0], "bench", certify)
    clones = [first]
    for name in names[1:]:
        identity = Identity.new()
        first.admit(identity.public, make_certificate(identity.private), name)
        trusted = make_certificate(first.identity.private)
        clones.append(Clone.adopt(folder / name, identity, first.workspace, name, inviter=trusted))
    return clones


def certify(private: bytes, name: str) -> bytes:
    from transport.tls import make_certificate

    return make_certificate(private)


def sentence(random, length: int = 12) -> str:
    return " ".join(random.choice(WORDS) for _ in range(length))


def entry(random, number: int) -> Add:
    """One bullet of about 80 characters; the number makes it unlike any other."""
    return Add("entry", f"- {number}: {sentence(random)}", 1, "", None, (), {})


def exchange(one, other) -> int:
    """Let two sessions speak until both are silent; return the bytes of their frames, both ways together."""
    from transport import wire

    total = 0
    here, there = [wire.encode(m) for m in one.open()], [wire.encode(m) for m in other.open()]
    while here or there:
        total += sum(map(len, here)) + sum(map(len, there))
        to_other, to_one = here, there
        here = [wire.encode(reply) for frame in to_one for reply in one.receive(wire.decode(frame))]
        there = [wire.encode(reply) for frame in to_other for reply in other.receive(wire.decode(frame))]
        if not here and not there:
            here = [wire.encode(m) for m in one.settle()]
            there = [wire.encode(m) for m in other.settle()]
    return total


# --- processes


def replica(*arguments: str) -> list[str]:
    """The command as a person starts it; without an installed one, the checkout's."""
    beside = Path(sys.executable).with_name("replica")
    return [*([str(beside)] if beside.is_file() else [sys.executable, "-m", "cli.main"]), *arguments]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("REPLICA_DIR", "PYTHONDONTWRITEBYTECODE")}
    return {**kept, "REPLICA_INTERFACES": "127.0.0.1", "PYTHONPATH": str(ROOT)}


def timed(command: list[str], longest: float = 30.0) -> float:
    """Seconds from the start of a process to its end. Raises CalledProcessError: it failed, or ran for `longest`."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # Not wait(timeout): that asks every 50 ms, and the figures would be multiples of it.
    limit = threading.Timer(longest, process.kill)
    limit.start()
    code = process.wait()
    taken = time.perf_counter() - began
    limit.cancel()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return taken


class Process:
    """A process that prints a JSON object a line."""

    def __init__(self, command: list[str]):
        self.popen = subprocess.Popen(
            command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._lines: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self.popen.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self._lines.put(json.loads(line))
        self._lines.put(None)

    def event(self, kind: str, timeout: float = 60.0) -> dict[str, Any]:
        """The next event of this kind; others are passed over. Raises RuntimeError: it ended, or did not come."""
        end = time.perf_counter() + timeout
        while True:
            try:
                found = self._lines.get(timeout=max(0.001, end - time.perf_counter()))
            except queue.Empty:
                raise RuntimeError(f"no {kind!r} within {timeout:.0f} s") from None
            if found is None:
                raise RuntimeError(f"the process ended before {kind!r}")
            if found["event"] == kind:
                return found

    def end(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait(5)


@contextmanager
def node(root: Path, *arguments: str) -> Iterator[Process]:
    """`bench.node` on this clone, listening."""
    process = Process([sys.executable, "-m", "bench.node", str(root), *arguments])
    try:
        process.port = process.event("listening")["port"]
        yield process
    finally:
        process.end()
