"""Runs scenarios in processes of their own and kills these: fork from a warm parent, die at a step, restart, check.

One kill costs a fork and not a start of Python. Each worker has a folder of its own; a scenario is prepared there once,
at the very place where it is used, since a clone knows where it lives.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tests.crash import world
from tests.crash.scenarios import SCENARIOS
from tests.crash.steps import Steps, install
from tests.crash.world import Expect

PATIENCE = 60.0  # seconds that a process may take before it counts as hung
AFTERLIFE = 0.5  # seconds that a survivor has to notice that the other has died


@dataclass(frozen=True)
class Job:
    """One kill. `at`: the step, or with `mode` time the milliseconds. `then`: a step of the restart, killed as well.

    `mode`: kill (SIGKILL before the step), cut (what was not flushed goes too), time (SIGKILL from outside).
    """

    scenario: str
    role: str
    mode: str
    at: int
    then: int = 0

    def __str__(self) -> str:
        again = f" --then {self.then}" if self.then else ""
        role = f" --role {self.role}" if self.role else ""
        return f"--only {self.scenario}{role} --mode {self.mode} --at {self.at}{again}"


@dataclass
class Result:
    job: Job
    kills: int = 0
    where: str = ""  # the step that it died before
    error: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Result":
        read = json.loads(text)
        return cls(**{**read, "job": Job(**read["job"])})


class Link:
    """How the processes of one scenario tell each other where to meet: files in a folder that is nobody's clone."""

    def __init__(self, folder: Path):
        self._said, self._over = folder / "said", folder / "over"

    def say(self, what: dict) -> None:
        beside = self._said.with_suffix(".part")
        beside.write_text(json.dumps(what))
        beside.rename(self._said)

    def hear(self) -> dict:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not self.over:
            if self._said.exists():
                return json.loads(self._said.read_text())
            time.sleep(0.002)
        raise TimeoutError("the other process never said where it is")

    @property
    def over(self) -> bool:
        return self._over.exists()

    def end(self) -> None:
        self._over.touch()


class Process:
    """A forked child and what it has told us through a pipe, line by line."""

    def __init__(self, work: Callable[[Callable[[dict], None]], None], log: Path):
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            self._be(work, write, log)
        os.close(write)
        self._read, self.status, self.said = read, None, []

    @staticmethod
    def _be(work, write: int, log: Path) -> None:
        plain_write = os.write  # the child may count its writes later; these are not the program's
        code = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            work(lambda fact: plain_write(write, json.dumps(fact).encode() + b"\n"))
            code = 0
        except BaseException:
            plain_write(write, json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        finally:
            os._exit(code)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended by then."""
        until, pause = time.monotonic() + seconds, 0.0005
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                self._hear()
            elif time.monotonic() > until:
                return False
            else:
                time.sleep(pause)
                pause = min(0.01, pause * 1.5)
        return True

    def _hear(self) -> None:
        with os.fdopen(self._read, "rb") as pipe:
            self.said = [json.loads(line) for line in pipe.read().split(b"\n") if line]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait(PATIENCE)

    @property
    def killed(self) -> bool:
        return self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def error(self) -> str:
        return next((fact["error"] for fact in self.said if "error" in fact), "")

    def of(self, kind: str) -> list:
        return [fact[kind] for fact in self.said if kind in fact]


class Worker:
    """Runs jobs one after the other below `base`."""

    def __init__(self, base: Path):
        self.base = base
        self.root, self.aside, self.log = base / "work", base / "aside", base / "log"
        self._expect: dict[str, str] = {}

    def run(self, job: Job) -> Result:
        result = Result(job)
        try:
            self._run(job, result)
        except AssertionError as error:
            result.error = str(error)
        return result

    def count(self, scenario: str, role: str) -> tuple[list[str], list[str], float]:
        """What the scenario does when nobody dies: its steps, what was trusted before it was flushed, its seconds."""
        expect = self._begin(scenario)
        began = time.monotonic()
        victim = self._play(Job(scenario, role, "kill", 0), expect)
        seconds = time.monotonic() - began
        SCENARIOS[scenario].meanwhile(self.root)
        assert not victim.error, f"{scenario} fails by itself:\n{victim.error}"
        self._check(scenario, expect)
        (labels,), (faults,) = victim.of("labels"), victim.of("faults")
        return labels, faults, seconds

    def _run(self, job: Job, result: Result) -> None:
        expect = self._begin(job.scenario)
        victim = self._play(job, expect)
        result.kills += victim.killed
        SCENARIOS[job.scenario].meanwhile(self.root)
        assert victim.killed or not victim.error, f"failed before it died:\n{victim.error}"
        if job.then:
            second = self._restart(job, expect)
            result.kills += second.killed
        self._check(job.scenario, expect)

    # --- the parts

    def _begin(self, scenario: str) -> Expect:
        template = self.base / f"template-{scenario}"
        for folder in (self.root, self.aside):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        if scenario not in self._expect:
            work = lambda say: say({"expect": SCENARIOS[scenario].prepare(self.root).to_json()})  # noqa: E731
            made = self._finished(Process(work, self.log), f"{scenario} cannot be prepared")
            self._expect[scenario] = made.of("expect")[0]
            self.root.rename(template)
        else:
            self.root.rmdir()
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(template, self.root)
        return Expect.from_json(self._expect[scenario])

    def _finished(self, process: Process, what: str) -> Process:
        if not process.wait(PATIENCE):
            process.kill()
            raise AssertionError(f"{what}: it hangs\n{self.log.read_text(errors='replace')[-2000:]}")
        assert process.status == 0, f"{what}:\n{process.error or self.log.read_text(errors='replace')[-2000:]}"
        return process

    def _play(self, job: Job, expect: Expect) -> Process:
        """Run the scenario until its victim has ended; what was acknowledged goes into `expect`."""
        scenario = SCENARIOS[job.scenario]
        link = Link(self.aside)
        actors = {
            role: Process(self._actor(job, role, link), self.base / f"log-{role or 'victim'}")
            for role in (scenario.roles or {"": None})
        }
        victim = actors.pop(job.role)
        if job.mode == "time":
            if not victim.wait(job.at / 1000):
                victim.kill()
        elif not victim.wait(PATIENCE):
            victim.kill()
            raise AssertionError("it hangs")
        link.end()
        for other in actors.values():
            if not other.wait(AFTERLIFE if victim.killed else PATIENCE):
                other.kill()
        for actor in (victim, *actors.values()):
            for what, path, line in actor.of("told"):
                expect.told(what, path, line)
        return victim

    def _actor(self, job: Job, role: str, link: Link) -> Callable:
        scenario = SCENARIOS[job.scenario]

        def work(say) -> None:
            chosen = role == job.role
            steps = Steps(self.root, job.at if chosen and job.mode != "time" else 0, cut=job.mode == "cut")
            if chosen:
                install(steps)

            def told(*fact: str) -> None:
                steps.step("acknowledged")
                say({"told": fact})

            scenario.roles[role](self.root, told, link) if scenario.roles else scenario.act(self.root, told)
            steps.step("end")
            say({"labels": steps.labels}), say({"faults": sorted(set(steps.faults))})

        return work

    def _restart(self, job: Job, expect: Expect) -> Process:
        """What happens after the first death, up to the second."""
        scenario = SCENARIOS[job.scenario]

        def work(say) -> None:
            install(Steps(self.root, job.then))
            scenario.again(self.root)
            for place in sorted(self.root.iterdir()):
                if world.is_clone(place):
                    with world.opened(self.root, place.name) as clone:
                        world.bridged(clone)

        process = Process(work, self.log)
        if not process.wait(PATIENCE):
            process.kill()
            raise AssertionError("the restart hangs")
        assert process.killed or not process.error, f"the restart fails:\n{process.error}"
        return process

    def _check(self, name: str, expect: Expect) -> None:
        scenario = SCENARIOS[name]

        def work(say) -> None:
            scenario.again(self.root)
            world.recovered(self.root, expect)
            scenario.check(self.root)

        self._finished(Process(work, self.log), "after the restart")


# --- which kills


def roles(scenario: str) -> list[str]:
    return list(SCENARIOS[scenario].roles) or [""]


def jobs(counted: dict[tuple[str, str], tuple[list[str], list[str], float]], random: Random) -> list[Job]:
    """Every step that is not merely one more statement of an open transaction, and a few of those; some twice over,
    some as a power cut, some by the clock."""
    found = []
    for (scenario, role), (labels, _, seconds) in counted.items():
        networked = bool(role)
        chosen = [n for n, label in enumerate(labels, 1) if label != "within" or random.random() < 0.05]
        if networked:
            chosen = [n for n in chosen if random.random() < 0.5]
        for n in chosen:
            found.append(Job(scenario, role, "kill", n, random.randrange(1, 12) if random.random() < 0.2 else 0))
        for n in chosen if not networked else ():
            if random.random() < 0.5:
                found.append(Job(scenario, role, "cut", n))
        for _ in range(4):
            found.append(Job(scenario, role, "time", random.randrange(1, max(2, int(seconds * 1000)))))
    return found


def sample(found: list[Job], kills: int, random: Random) -> list[Job]:
    """So many of them, every scenario in turn."""
    by_scenario: dict[tuple[str, str], list[Job]] = {}
    for job in random.sample(found, len(found)):
        by_scenario.setdefault((job.scenario, job.role), []).append(job)
    chosen: list[Job] = []
    while len(chosen) < kills and any(by_scenario.values()):
        for waiting in by_scenario.values():
            if waiting and len(chosen) < kills:
                chosen.append(waiting.pop())
    return chosen


# --- several workers


def spread(work: list, workers: int, base: Path, do: Callable[[Worker, object], str]) -> list[str]:
    """`do` each piece of work in one of several processes; returns what each said, in no order."""
    processes = []
    for number in range(workers):
        folder = Path(tempfile.mkdtemp(dir=base))
        mine = work[number::workers]

        def be(say, folder=folder, mine=mine) -> None:
            worker = Worker(folder)
            for piece in mine:
                say(do(worker, piece))

        processes.append(_Stream(be))
    return [line for process in processes for line in process.lines()]


class _Stream:
    def __init__(self, work):
        read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(read)
            code = 1
            try:
                with os.fdopen(write, "w") as out:
                    work(lambda line: (out.write(line + "\n"), out.flush()))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write)
        self._read = read

    def lines(self) -> list[str]:
        with os.fdopen(self._read) as pipe:
            lines = pipe.read().splitlines()
        _, status = os.waitpid(self._pid, 0)
        if status:
            raise RuntimeError("a worker has failed; what it said stands above")
        return lines
