"""Six clones on this machine, as six processes: they pair, edit, part, disagree and meet again; nothing is lost.

Run it with `make demo`. It uses the `replica` command as a person would, and the files as an editor would. Everything
happens in a temporary folder and on 127.0.0.1. It ends with 1 if the clones differ, an edit is missing, or something
takes too long. `--keep` leaves the folders where they are and says where.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

HERE = Path(__file__).resolve().parent
NAMES = ("desk", "laptop", "studio", "server", "attic", "train")
AWAY = ("attic", "train")  # offline for a while
FOREVER = 100.0  # seconds; the whole demo must be over by then
PATIENCE = 25.0  # seconds; the longest single wait


class Failed(Exception):
    """The demo's promise did not hold, or a command failed."""


class Edit(NamedTuple):
    """A piece of text that must be found in `document` on every clone."""

    document: str
    text: str


# --- the command


def replica_command() -> list[str]:
    """The installed `replica` beside this Python, or the checkout's own."""
    beside = Path(sys.executable).with_name("replica")
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "cli.main"]


REPLICA = replica_command()


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("REPLICA_DIR", "PYTHONDONTWRITEBYTECODE")}
    return kept | {
        "REPLICA_INTERFACES": "127.0.0.1",
        "REPLICA_HOME": str(home),
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        # Only for a checkout that is not installed: `python -m cli.main` finds the packages there.
        **({"PYTHONPATH": str(HERE.parent)} if len(REPLICA) > 1 else {}),
    }


class Process:
    """A running command whose standard output is one JSON object a line."""

    def __init__(self, arguments: list[str], env: dict[str, str], log: Path):
        self.arguments, self._log = arguments, log
        with log.open("ab") as errors:
            self._popen = subprocess.Popen(
                [*REPLICA, *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._popen.stdout as lines:  # type: ignore[union-attr]
            for line in lines:
                if line.startswith("{"):
                    self._events.put(json.loads(line))
        self._events.put(None)

    def event(self, kind: str) -> dict[str, Any]:
        """Wait for the next event of this kind; others are passed over."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                event = self._events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self._give_up(f"said no {kind!r} in {PATIENCE:.0f} s")
            if event is None:
                self._give_up(f"ended before it said {kind!r}")
            elif event.get("event") == kind:
                return event

    def _give_up(self, what: str) -> NoReturn:
        words = self._log.read_text("utf-8", "replace").strip()[-500:]
        raise Failed(f"`replica {' '.join(self.arguments)}` {what}. {words}")

    def wait(self) -> None:
        try:
            code = self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._give_up(f"did not end within {PATIENCE:.0f} s")
        if code:
            self._give_up(f"ended with {code}")

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def terminate(self) -> None:
        if self.running:
            self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it whatever it does; only ever this one process."""
        if self.running:
            self._popen.kill()
            self._popen.wait(5)


# --- a clone, its files and its node


class Clone:
    def __init__(self, name: str, folder: Path, env: dict[str, str], logs: Path):
        self.name, self.folder, self.env = name, folder, env
        self._logs = logs
        self.node: Process | None = None

    def run(self, *arguments: str) -> str:
        """Run a `replica` command on this clone and return what it prints. Raises Failed with its words."""
        done = subprocess.run(
            [*REPLICA, *arguments],
            cwd=self.folder if self.folder.is_dir() else None,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        if done.returncode:
            raise Failed(f"{self.name}: `replica {' '.join(arguments)}` ended with {done.returncode}. {done.stderr}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        printed = self.run(*arguments, "--json")
        try:
            return json.loads(printed)
        except json.JSONDecodeError:
            return [json.loads(line) for line in printed.splitlines() if line.strip()]

    def start(self, *arguments: str) -> Process:
        return Process([*arguments, "--dir", str(self.folder), "--json"], self.env, self._logs / f"{self.name}.log")

    def up(self) -> None:
        self.node = self.start("up")

    def text(self, document: str) -> str:
        try:
            return (self.folder / document).read_text("utf-8")
        except FileNotFoundError:
            return ""

    def save(self, document: str, text: str) -> None:
        """Write a file as editors do: beside it, then renamed."""
        target = self.folder / document
        beside = target.with_name(f".{target.name}.swp")
        beside.write_text(text, "utf-8")
        os.replace(beside, target)

    # Each of these makes one edit in a file and says what must be found everywhere.

    def append(self, document: str, line: str) -> Edit:
        self.save(document, self.text(document).rstrip("\n") + f"\n{line}\n")
        return Edit(document, line)

    def replace(self, document: str, old: str, new: str) -> Edit:
        text = self.text(document)
        if old not in text:
            raise Failed(f"{self.name}: {document} does not hold {old!r}")
        self.save(document, text.replace(old, new, 1))
        return Edit(document, new)

    def write(self, document: str, text: str) -> Edit:
        self.save(document, text)
        return Edit(document, text.strip())

    def add(self, document: str, text: str) -> Edit:
        self.run("add", document, text)
        return Edit(document, text)


# --- the six of them


class Demo:
    def __init__(self, place: Path):
        self.place = place
        env = environment(place / "home")
        (place / "home").mkdir()
        (place / "logs").mkdir()
        self.clones = {name: Clone(name, place / name, env, place / "logs") for name in NAMES}
        self.started = time.monotonic()
        self.processes: list[Process] = []
        self.edits: list[Edit] = []
        self.times: dict[str, list[float]] = {}  # what was measured: seconds

    @property
    def all(self) -> list[Clone]:
        return list(self.clones.values())

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self.started:5.1f} s  {words}", flush=True)

    def measure(self, what: str, since: float) -> float:
        seconds = time.monotonic() - since
        self.times.setdefault(what, []).append(seconds)
        return seconds

    def until(self, what: str, holds: Callable[[], Any], pause: float = 0.005) -> Any:
        """Ask until `holds` returns something true. Raises Failed: it took too long."""
        end = min(time.monotonic() + PATIENCE, self.started + FOREVER)
        while not (found := holds()):
            if time.monotonic() > end:
                raise Failed(f"gave up waiting: {what}")
            time.sleep(pause)
        return found

    def up(self, clones: Iterable[Clone]) -> None:
        clones = list(clones)
        for clone in clones:
            clone.up()
            self.processes.append(clone.node)
        for clone in clones:
            clone.node.event("listening")

    # --- what happens, in order

    def run(self) -> None:
        self.create()
        self.pair()
        self.edit_together()
        self.part()
        self.edit_apart()
        self.meet()
        self.check()

    def create(self) -> None:
        self.say("A folder of memory: active context, buffers, inbox, session log, notes.")
        desk = self.clones["desk"]
        shutil.copytree(HERE / "memory-bank", desk.folder)
        desk.run("init", str(desk.folder), "--name", "desk", "--workspace", "tidewatch")
        self.up([desk])
        self.say("`replica init`, `replica up`: desk is the first clone of a new workspace.")

    def pair(self) -> None:
        desk, *others = self.all
        for clone in others:
            since = time.monotonic()
            invitation = desk.start("invite")
            self.processes.append(invitation)
            code = invitation.event("code")["code"]
            clone.run("join", code, str(clone.folder), "--name", clone.name)
            seconds = self.measure("pair and fetch", since)
            invitation.wait()
            self.say(
                f"`replica join {code}`: {clone.name} found desk by mDNS, paired and fetched all in {seconds:.1f} s."
            )
        since = time.monotonic()
        self.up(others)
        self.in_step(self.all)
        self.measure("five nodes start, all six in step", since)
        self.say("`replica up` on each: six nodes, equal digests.")

    def edit_together(self) -> None:
        self.say("Edits in files, each timed until it stands in the files of the five others:")
        steps: list[tuple[str, Callable[[Clone], Edit]]] = [
            ("desk", lambda c: c.append("lessons-buffer.md", "- Gauges answer faster after a reset, unknown why.")),
            ("laptop", lambda c: c.append("SESSION_LOG.md", "- 2026-03-05 10:15 Summary text: first draft.")),
            ("studio", lambda c: c.replace("notes/gauges.md", "seaweed; clean monthly", "seaweed 🌿; clean weekly")),
            ("server", lambda c: c.write("notes/tides.md", "# Tides\n\nSpring tide on the 21st. 大潮に注意。\n")),
            ("attic", lambda c: c.append("patterns-buffer.md", "- **Draw the curve first.** Then believe numbers.")),
            ("train", lambda c: c.append("decisions-inbox.md", "\n## Times are shown local\nStored in UTC, always.")),
            ("desk", lambda c: c.replace("notes/glossary.md", "Good for repairs.", "Good for repairs and for tea.")),
            ("laptop", lambda c: c.append("lessons-buffer.md", "- Ein Pegel, der schweigt, ist kein Niedrigwasser.")),
            ("studio", lambda c: c.append("SESSION_LOG.md", "- 2026-03-05 10:40 Draft read by two harbour masters.")),
            ("server", lambda c: c.replace("notes/forecast-model.md", "Worth a try:", "To be tried in April:")),
            ("attic", lambda c: c.append("lessons-buffer.md", "- The cormorant is back; the north mole needs spikes.")),
            ("train", lambda c: c.append("patterns-buffer.md", "- **Name the storm** in the test that replays it.")),
        ]
        for name, edit in steps:
            clone = self.clones[name]
            since = time.monotonic()
            made = edit(clone)
            self.edits.append(made)
            self.arrived([made], [other for other in self.all if other is not clone])
            self.measure("edit to all five others", since)
        milliseconds = [1000 * t for t in self.times["edit to all five others"]]
        self.say(
            f"{len(steps)} edits: half within {statistics.median(milliseconds):.0f} ms, "
            f"the slowest {max(milliseconds):.0f} ms."
        )

    def part(self) -> None:
        attic, train = (self.clones[name] for name in AWAY)
        attic.node.terminate()
        train.run("down")
        for clone in (attic, train):
            clone.node.wait()
        self.say("attic and train go offline (SIGTERM, `replica down`).")

    def edit_apart(self) -> None:
        c = self.clones
        here = [clone for clone in self.all if clone.name not in AWAY]
        online = [
            c["desk"].append("lessons-buffer.md", "- Apart 1: the pump room has no network; plan for it."),
            c["laptop"].add("patterns-buffer.md", "**Apart 2.** Write it down before you drive there."),
            c["studio"].replace(
                "notes/release-checklist.md", "Look at the public page on a phone", "Apart 3: look at it on two phones"
            ),
            c["server"].append("SESSION_LOG.md", "- 2026-03-05 11:20 Apart 4: staging rehearsal done."),
        ]
        offline = [
            c["attic"].append("lessons-buffer.md", "- Apart 5: label the cables 🏷️, both ends."),
            c["attic"].add("SESSION_LOG.md", "2026-03-05 11:25 Apart 6: offline, sorted the old logs."),
            c["train"].replace(
                "notes/release-checklist.md", "version, time, who", "version, time, who, where (apart 7)"
            ),
            c["train"].write("notes/train.md", "# Written on the train\n\nApart 8: Ὁ χρόνος — the tunnel is long.\n"),
            c["train"].add("lessons-buffer.md", "Apart 9: the same lesson twice costs double."),
        ]
        self.edits += online + offline
        # The one thing that cannot be merged: two versions of what is going on now.
        self.contested = [
            c["desk"].write("activeContext.md", "# Active context\n\n## Now\nRelease 0.9 is moved to Friday.\n"),
            c["attic"].write("activeContext.md", "# Active context\n\n## Now\n0.9 goes out now, without alerts.\n"),
        ]
        self.arrived([*online, self.contested[0]], here)
        self.in_step(here)
        for clone in (c["attic"], c["train"]):
            for edit in online:
                if edit.text in clone.text(edit.document):
                    raise Failed(f"{clone.name} is offline and yet has {edit}")
        self.say(
            f"{len(online)} edits by the four that are online, {len(offline)} by the two that are not; "
            "desk and attic each rewrite activeContext.md."
        )

    def meet(self) -> None:
        since = time.monotonic()
        self.up(self.clones[name] for name in AWAY)
        self.arrived(self.edits, self.all)
        seconds = self.measure("heal: nodes start, every edit everywhere", since)
        self.in_step(self.all)
        self.say(f"attic and train are back: {seconds:.1f} s from their start, every edit is in every clone's files.")

    # --- looking at all of them

    def arrived(self, edits: list[Edit], clones: list[Clone]) -> None:
        """Wait until every edit stands in the file of every clone."""
        waiting = {(clone.name, edit) for clone in clones for edit in edits}

        def none_left() -> bool:
            texts = {(name, e.document): self.clones[name].text(e.document) for name, e in waiting}
            waiting.difference_update([(name, e) for name, e in waiting if e.text in texts[name, e.document]])
            return not waiting

        try:
            self.until("", none_left, pause=0.002)
        except Failed:
            lacking = "; ".join(f"{name} lacks {edit.text!r} in {edit.document}" for name, edit in sorted(waiting)[:5])
            raise Failed(f"edits did not arrive in time: {lacking}") from None

    def statuses(self, clones: list[Clone]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(clones)) as pool:
            return list(pool.map(lambda clone: clone.json("status"), clones))

    def in_step(self, clones: list[Clone]) -> None:
        last: list[dict[str, Any]] = []

        def equal() -> bool:
            last[:] = self.statuses(clones)
            return len({status["digest"] for status in last}) == 1

        try:
            self.until("", equal)
        except Failed:
            digests = ", ".join(f"{s['clone']['name']} {s['digest'][:12]}" for s in last)
            raise Failed(f"the digests stay different: {digests}") from None

    def check(self) -> None:
        """Every edit in every file and every document, and the conflict on every clone, with both versions."""
        documents = sorted({edit.document for edit in self.edits})
        with ThreadPoolExecutor(4) as pool:
            conflicts = list(pool.map(lambda clone: listed(clone.json("conflicts"), "conflicts"), self.all))
            wanted = [(clone, document) for clone in self.all for document in documents]
            shown = dict(zip(wanted, pool.map(lambda w: w[0].run("show", w[1]), wanted), strict=True))
        statuses = self.statuses(self.all)
        for clone, found, status in zip(self.all, conflicts, statuses, strict=True):
            for edit in self.edits:
                if edit.text not in clone.text(edit.document):
                    raise Failed(f"{clone.name}: the file {edit.document} lacks {edit.text!r}")
                if edit.text not in shown[clone, edit.document]:
                    raise Failed(f"{clone.name}: `replica show {edit.document}` lacks {edit.text!r}")
            versions = {v["text"].strip() for c in found if c["document"] == "activeContext.md" for v in c["versions"]}
            missing = [edit.text for edit in self.contested if edit.text not in versions]
            if missing:
                raise Failed(f"{clone.name}: the conflict on activeContext.md does not show {missing}")
            if clone.text("activeContext.md").strip() not in versions:
                raise Failed(f"{clone.name}: activeContext.md is none of the versions in conflict")
            if status["conflicts"] != len(found):
                raise Failed(f"{clone.name}: status counts {status['conflicts']} conflicts, {len(found)} are listed")
        self.table(statuses)
        if len({status["digest"] for status in statuses}) != 1:
            raise Failed("the digests differ")

    def table(self, statuses: list[dict[str, Any]]) -> None:
        print(f"\n  {'clone':<8} {'digest':<14} {'documents':>9} {'entries':>8} {'conflicts':>10} {'held':>5}")
        for s in statuses:
            print(
                f"  {s['clone']['name']:<8} {s['digest'][:12]:<14} {s['documents']:>9} {s['entries']:>8} "
                f"{s['conflicts']:>10} {len(s['held']):>5}"
            )
        print("\n  measured (on this machine, six nodes and all their files at once)")
        for what, seconds in self.times.items():
            p50, worst = statistics.median(seconds), max(seconds)
            spread = f"p50 {show(p50)}, slowest {show(worst)} of {len(seconds)}" if len(seconds) > 1 else show(p50)
            print(f"  {what:<42} {spread}")

    def end(self) -> None:
        """Stop what was started: politely, then surely."""
        for process in self.processes:
            process.terminate()
        end = time.monotonic() + 5
        while any(process.running for process in self.processes) and time.monotonic() < end:
            time.sleep(0.02)
        for process in self.processes:
            process.kill()


def listed(found: Any, key: str) -> list[dict[str, Any]]:
    """A list from what `--json` printed: the list itself, an object that holds it, or an object a line."""
    if isinstance(found, dict):
        return found.get(key) if key in found else [found]
    return found


def show(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the folders and say where they are")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    place = Path(tempfile.mkdtemp(prefix="replica-demo-"))
    demo = Demo(place)
    try:
        demo.run()
    except Failed as failure:
        print(f"\ndemo: FAILED: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped", file=sys.stderr)
        return 130
    finally:
        demo.end()
        if keep:
            print(f"\nThe clones are in {place}. Look around: `replica conflicts --dir {place / 'desk'}`")
        else:
            shutil.rmtree(place, ignore_errors=True)
    print(f"\nSix clones, one memory: {len(demo.edits)} edits on every clone, one conflict kept with both versions.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
