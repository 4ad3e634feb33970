"""Runs targets on mutated samples, without any fuzzer installed: seeded, bounded in count, time and memory.

Each target runs in a process of its own, under a limit on its memory, and what it is given is written down before: an
input that ends the process (a panic that aborts, a limit) is known afterwards.
"""

import faulthandler
import gc
import json
import mmap
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

MEMORY = 512 << 20  # bytes that one target may take beyond what its process had in the beginning
SLOW = 1.0  # seconds of processor time that one input may take
HANG = 20.0  # seconds of processor time after which an input is given up
STUCK = 120.0  # seconds after which a process that no signal reaches ends itself
ROOT = Path(__file__).resolve().parents[2]


class Hang(BaseException):
    """An input took too long. No `Exception`, so that nobody takes it for his own."""


class Last:
    """The input that is being tried, in memory that is a file: it is still there when the process is not."""

    def __init__(self, file: Path, most: int):
        file.write_bytes(bytes(most + 8))
        with file.open("r+b") as handle:
            self._memory = mmap.mmap(handle.fileno(), most + 8)

    def note(self, data: bytes) -> None:
        self._memory[: 8 + len(data)] = len(data).to_bytes(8) + data

    @staticmethod
    def read(file: Path) -> bytes:
        raw = file.read_bytes() if file.exists() else bytes(8)
        return raw[8 : 8 + int.from_bytes(raw[:8])]


class Outcome(NamedTuple):
    """`failure` is empty when all went well; `input` is what it was for."""

    target: str
    inputs: int
    seconds: float
    slowest: float  # seconds of processor time of one input
    memory: int  # bytes at the peak
    failure: str
    input: bytes


def guarded(run, data: bytes) -> float:
    """One input under a watch; returns the seconds of processor time that it took. Raises Hang, and what `run` does."""
    before = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        run(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = time.process_time() - before
    if taken > SLOW:
        # A machine at work on other things may have slowed it, or the collector: the same input has to be slow again.
        gc.collect()
        before = time.process_time()
        run(data)
        taken = min(taken, time.process_time() - before)
        if taken > SLOW:
            raise Hang(f"{len(data)} bytes take {taken:.1f} s")
    return taken


def ready() -> None:
    """Set the limits of this process."""

    def hang(*_: object) -> None:
        raise Hang(f"more than {HANG:.0f} s")

    signal.signal(signal.SIGPROF, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def work(name: str, count: int, seed: int, seconds: float, last: Path) -> Outcome:
    """Give a target its samples and then mutated ones: `count` in all, or for so many seconds."""
    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import LONGEST, TARGETS

    random = Random(f"{name} {seed}")
    run, samples = TARGETS[name].run, TARGETS[name].seeds()
    for sample in samples[:3]:
        run(sample)  # imports, caches and worlds, before memory is counted
    noted = Last(last, LONGEST)
    ready()
    began, inputs, slowest = time.monotonic(), 0, 0.0
    failure, data = "", b""
    while not failure and inputs < count and time.monotonic() - began < seconds:
        if inputs % 2_000 == 0:
            faulthandler.dump_traceback_later(STUCK, exit=True)
        sample = samples[inputs] if inputs < len(samples) else random.choice(samples)
        data = sample if inputs < len(samples) else mutated(sample, random.choice(samples), random, LONGEST)
        noted.note(data)
        try:
            slowest = max(slowest, guarded(run, data))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # panics of the engine are no Exceptions
            failure = _told(error)
        inputs += 1
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(name, inputs, time.monotonic() - began, slowest, peak, failure, data if failure else b"")


def _told(error: BaseException) -> str:
    import traceback

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lines = traceback.format_exception(error)
    return "".join(lines[-12:])[-3_000:]


def run(
    name: str, *, count: int = 2**62, seed: int = 0, seconds: float = 3600.0, folder: Path, start=("-m", "tests.fuzz")
) -> Outcome:
    """A target in a process of its own, which Python begins with the arguments `start`."""
    last = folder / f"{name}.last"
    command = [sys.executable, *start, "--worker", name, str(count), str(seed), str(seconds), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=seconds + 2 * STUCK + 60)
    try:
        said = json.loads(done.stdout.splitlines()[-1])
        return Outcome(**{**said, "input": bytes.fromhex(said["input"])})
    except (ValueError, IndexError, TypeError):
        why = f"the process ended with {done.returncode}\n{done.stderr[-3_000:]}"
        return Outcome(name, 0, 0.0, 0.0, 0, why, Last.read(last))
