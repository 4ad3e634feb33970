"""Clones and their running nodes on the hosts of a LAN, driven by the command line and the files as people do it."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.lan.network import Host

CHECKOUT = Path(__file__).resolve().parents[2]
REPLICA = [sys.executable, "-m", "cli.main"]
PATIENCE = 40.0  # seconds; the longest wait for anything


def environment() -> dict[str, str]:
    """What is set outside must not bound discovery inside: there, `eth0` is the network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICA_")}
    return kept | {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


class Process:
    """A running command on a host; each line of its output is an event, kept with the time it came."""

    def __init__(self, host: Host, *arguments: str, log: Path):
        self._log, self.arguments = log, arguments
        self.events: queue.SimpleQueue[dict | None] = queue.SimpleQueue()
        with log.open("ab") as errors:
            self.popen = subprocess.Popen(
                host.inside(*REPLICA, *arguments), cwd=log.parent, env=environment(), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.popen.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    self.events.put({**json.loads(line), "at": time.monotonic()})
        self.events.put(None)

    def event(self, kind: str) -> dict:
        """Wait for the next event of this kind."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                event = self.events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                event = None
            assert event is not None, f"{self.arguments} did not say {kind!r}: {self.said()}"
            if event.get("event") == kind:
                return event

    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:]

    def terminate(self) -> None:
        """Ask it to end, also if it is frozen."""
        self.popen.send_signal(signal.SIGCONT)
        self.popen.terminate()

    def end(self) -> None:
        self.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._reader.join(5)


class Desk:
    """A clone's folder on a host, and its node while one runs."""

    def __init__(self, host: Host, home: Path):
        self.host, self.name = host, f"desk{host.number}"
        self.home, self.folder = home, home / f"desk{host.number}"
        self.connected: set[str] = set()
        self.digest = ""
        self.digest_at = 0.0
        self.heard: list[dict] = []
        self._node: Process | None = None

    def replica(self, *arguments: str) -> list[dict]:
        """Run a command to its end; what it printed."""
        command = self.host.inside(*REPLICA, *arguments, "--json")
        done = subprocess.run(
            command, cwd=self.home, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def found(self, files: dict[str, str]) -> None:
        """Make the workspace, of a folder that has these files."""
        self.folder.mkdir()
        for path, text in files.items():
            self.write(path, text)
        self.replica("init", str(self.folder), "--name", self.name)

    def join(self, inviter: "Desk") -> float:
        """Become a clone by a code that `inviter` shows; returns the seconds that joining took by its own account."""
        invitation = Process(
            inviter.host, "invite", "--dir", str(inviter.folder), "--json", log=self.home / "invite.log"
        )
        try:
            code = invitation.event("code")["code"]
            (joined,) = self.replica("join", code, str(self.folder), "--name", self.name)
            invitation.event("joined")
        finally:
            invitation.end()
        return joined["seconds"]

    def up(self) -> None:
        self._node = Process(self.host, "up", "--dir", str(self.folder), "--json", log=self.home / f"{self.name}.log")
        self._node.event("listening")

    def go(self) -> None:
        """Ask the node to end; `down` waits for it."""
        if self._node is not None:
            self._node.terminate()

    def down(self) -> None:
        if self._node is not None:
            self._node.end()
            self._node = None

    def freeze(self) -> None:
        """As a machine that sleeps: nothing runs, and nobody is told."""
        self._node.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._node.popen.send_signal(signal.SIGCONT)

    def listen(self) -> None:
        """Take note of what the node has said until now."""
        while not self._node.events.empty():
            event = self._node.events.get()
            assert event is not None, f"{self.name} ended: {self._node.said()}"
            self.heard.append(event)
            match event["event"]:
                case "connected":
                    self.connected.add(event["clone"])
                case "disconnected":
                    self.connected.discard(event["clone"])
                case "in_step":
                    self.digest, self.digest_at = event["digest"], event["at"]

    def read(self, path: str) -> str:
        file = self.folder / path
        return file.read_text("utf-8") if file.exists() else ""

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text, "utf-8")

    def append(self, path: str, line: str) -> None:
        with (self.folder / path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def until(holds: Callable[[], bool], desks: Iterable[Desk], what: str, patience: float = PATIENCE) -> float:
    """Wait until `holds()`; returns the seconds that it took."""
    desks = list(desks)
    began = time.monotonic()
    while True:
        for desk in desks:
            desk.listen()
        if holds():
            return time.monotonic() - began
        if time.monotonic() - began > patience:
            states = "; ".join(f"{desk.name} sees {sorted(desk.connected)}" for desk in desks)
            raise AssertionError(f"not in {patience:.0f} s: {what}. {states}")
        time.sleep(0.01)  # between looks; what is waited for is the condition


def all_see_all(desks: Iterable[Desk]) -> bool:
    desks = list(desks)
    names = {desk.name for desk in desks}
    return all(desk.connected >= names - {desk.name} for desk in desks)


def in_step(desks: Iterable[Desk]) -> bool:
    """All have compared digests, and theirs are one."""
    return len({desk.digest for desk in desks}) == 1


def show(desks: Iterable[Desk], path: str, *parts: str) -> bool:
    """The file of every one holds these parts."""
    return all(part in desk.read(path) for desk in desks for part in parts)
