"""Machines that fail: clocks that jump, disks that fill, processes that die between any two durable steps.

The program is not changed for this. While a `Hardware` is entered, the functions of `os` that change files, SQLite's
connections, randomness and the clocks of the file bridge go through it; what runs `on` a machine meets that
machine's troubles, and everything else passes.
"""

import concurrent.futures
import errno
import os
import sqlite3
import stat
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest import mock

from replica import bridge, folder, store
from replica.copies import NEXT
from replica.places import FOLDER, STORE

TICK = 4_000_000  # nanoseconds: file systems stamp by a clock that ticks
SPARED = ("PRAGMA", "SELECT", "ROLLBACK")


class Died(BaseException):
    """The process has just been killed. No `except Exception` on its way out may see it."""


class Unflushed(NamedTuple):
    """A rename or a removal in a folder that was not flushed since."""

    path: Path
    before: bytes | None  # what the file held
    at: int  # milliseconds
    source: Path | None = None  # what was renamed to it, where somebody knows it by its name: a rename is undone as one


WRITTEN_BACK = 30_000  # milliseconds after which a system has flushed by itself


class Machine:
    """One machine with one clone on it. `now_ms` is its wall clock, which is not everybody's."""

    def __init__(self, name: str, root: Path, hardware: "Hardware"):
        self.name, self.root, self._hardware = name, root, hardware
        self.skew = 0  # milliseconds that its clock is ahead
        self.full = False  # the disk takes nothing more, or little
        self.was_full = False  # during this operation
        self.fuse: int | None = None  # durable steps until `spark`
        self.spark: Callable[[str], None] | None = None
        self.gone = False  # the process is dead: what still runs is its unwinding, and changes nothing
        self.starts = 0
        self.connections: list[Connection] = []
        self.unflushed: list[Unflushed] = []  # renames and removals that a power cut may undo
        self.torn: tuple[int, int] | None = None  # a commit was cut: the log's size before it and behind it

    def now_ms(self) -> int:
        return max(0, self._hardware.now + self.skew)

    def time_ns(self) -> int:
        return self.now_ms() * 1_000_000

    def stamp(self, file: str | Path | int) -> None:
        """The file was written now, by this machine's clock."""
        now = self.time_ns() // TICK * TICK
        os.utime(file, ns=(now, now))

    @property
    def calm(self) -> bool:
        return self.fuse is None and not self.full and not self.gone

    def step(self, what: str) -> None:
        """A durable step is about to be made."""
        if self.gone:
            raise Died
        self._hardware.trace(f"{self.name} {what}")
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0 and not (what == "replace" and self.spark is not None):
                self.fuse = None
                if self.spark is not None:
                    self.spark(what)
                else:
                    self.die()

    def has_room(self) -> bool:
        if self.full:
            self.was_full = True
            return self._hardware.random.random() < 0.3
        return True

    def die(self) -> None:
        self.gone = True
        raise Died

    def bury(self, power_cut: bool, since: int = 0) -> None:
        """Leave the disk as the kill (or the cut of power) found it: nothing is committed, flushed or folded back.

        `since`: only the connections from that one on belong to the dead process.
        """
        dead, self.connections = self.connections[since:], self.connections[:since]
        files = [self.root / FOLDER / (STORE + suffix) for suffix in ("", "-wal")]
        kept = {file: file.read_bytes() for file in files if file.exists()}
        for connection in dead:
            connection.really_close()
        if not self.connections:  # closing the last one has folded the log back, which a dead process does not
            if self.torn is not None:
                before, after = self.torn
                log = kept.get(files[1], b"")
                if before < after == len(log):
                    kept[files[1]] = log[: self._hardware.random.randrange(before, after)]
            for file, data in kept.items():
                file.write_bytes(data)
        if power_cut:
            self._forget_unflushed()
        self.unflushed.clear()
        self.torn, self.gone, self.fuse, self.spark = None, False, None, None

    def _forget_unflushed(self) -> None:
        """The folders were not flushed since: some of the last renames and removals never were."""
        lost = [one for one in self.unflushed if self._hardware.now - one.at < WRITTEN_BACK]
        for path, before, _, source in reversed(lost[len(lost) - self._hardware.random.randrange(len(lost) + 1) :]):
            if source is not None and path.is_file() and source.parent.is_dir():
                source.write_bytes(path.read_bytes())
                self.stamp(source)
            if before is None:
                path.unlink(missing_ok=True)
            elif path.parent.is_dir():
                path.write_bytes(before)
                self.stamp(path)

    def saved(self, path: Path) -> None:
        """Somebody has saved this file, and his editor has flushed it."""
        self.stamp(path)
        self.unflushed = [one for one in self.unflushed if one.path != path]

    def will_forget(self, path: Path, source: Path | None = None) -> None:
        self.unflushed.append(Unflushed(path, _bytes(path), self._hardware.now, source))


class Connection(sqlite3.Connection):
    """SQLite's, on a machine: a commit may die before it, behind it or inside of it."""

    machine: Machine | None = None

    def execute(self, sql, parameters=()):
        machine = self.machine
        if sql == "PRAGMA synchronous=FULL":
            sql = "PRAGMA synchronous=OFF"  # a power cut is simulated: nothing here waits for a disk
        if machine is None or (machine.calm and sql != "COMMIT"):
            return super().execute(sql, parameters)
        verb = sql[:8].split(" ", 1)[0]
        if verb in SPARED:
            if machine.gone:
                raise Died
            return super().execute(sql, parameters)
        if verb == "COMMIT":
            return self._commit(machine)
        machine.step(verb)
        self._room(machine)
        return super().execute(sql, parameters)

    def executemany(self, sql, rows):
        if self.machine is not None:
            self.machine.step("many")
            self._room(self.machine)
        return super().executemany(sql, rows)

    def _room(self, machine: Machine) -> None:
        if not machine.has_room():
            raise sqlite3.OperationalError("database or disk is full")

    def _commit(self, machine: Machine):
        log = machine.root / FOLDER / (STORE + "-wal")
        before = log.stat().st_size if log.exists() else 0
        machine.step("COMMIT")
        self._room(machine)
        done = super().execute("COMMIT")
        try:
            machine.step("committed")
        except Died:
            if machine._hardware.random.random() < 0.5:
                machine.torn = (before, log.stat().st_size)
            raise
        return done

    def close(self):
        if self.machine is not None and self in self.machine.connections:
            self.machine.connections.remove(self)
        super().close()

    def really_close(self):
        super().close()


class _Paper:
    """A file that is being written."""

    def __init__(self, file, machine: Machine):
        self._file, self._machine = file, machine

    def write(self, data: bytes) -> int:
        try:
            self._machine.step("write")
            if not self._machine.has_room():
                raise OSError(errno.ENOSPC, "No space left on device")
        except (Died, OSError):
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.flush()
        self._machine.stamp(self._file.fileno())
        self._file.close()


class _OneAfterTheOther:
    """Stands in for a pool of threads, whose order no seed decides."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


class Hardware:
    """All machines of one simulation. A context: while it is entered, the program runs on them."""

    def __init__(self, random: Random, now: int, trace: Callable[[str], None]):
        self.random, self.now, self.trace = random, now, trace
        self.machines: dict[Path, Machine] = {}
        self.current: Machine | None = None
        self._entropy = Random(random.getrandbits(64))  # keys and nonces: apart, so that they change no schedule
        self._real = {name: getattr(os, name) for name in ("open", "fdopen", "fsync", "replace", "unlink", "rmdir",
                                                           "mkdir")}  # fmt: skip
        self._connect = sqlite3.connect

    def __enter__(self) -> "Hardware":
        clocks = types.SimpleNamespace(
            time_ns=lambda: self.current.time_ns() if self.current else self.now * 1_000_000,
            time=lambda: self.now / 1000, monotonic=lambda: self.now / 1000, sleep=self._sleep,
        )  # fmt: skip
        self._patches = [
            mock.patch.object(store.sqlite3, "connect", self._open_store),
            mock.patch.object(folder, "time", clocks),
            mock.patch.object(bridge, "time", clocks),
            mock.patch.object(os, "urandom", self._entropy.randbytes),
            mock.patch.object(os, "getpid", lambda: self.current.starts if self.current else 0),
            mock.patch.object(concurrent.futures, "ThreadPoolExecutor", _OneAfterTheOther),
            *(mock.patch.object(os, name, getattr(self, f"_{name}")) for name in self._real),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()
        for machine in self.machines.values():
            for connection in machine.connections:
                connection.really_close()

    def machine(self, name: str, root: Path) -> Machine:
        self.machines[root] = machine = Machine(name, root, self)
        return machine

    @contextmanager
    def on(self, machine: Machine) -> Iterator[None]:
        self.current = machine
        try:
            yield
        finally:
            self.current = None

    def _sleep(self, seconds: float) -> None:
        self.now += int(seconds * 1000) + 1

    # --- SQLite

    def _open_store(self, path, **options):
        connection = self._connect(path, **options, factory=Connection)
        machine = self.current
        if machine is not None and Path(path).name == STORE:
            if machine.gone:
                connection.close()
                raise Died
            connection.machine = machine
            machine.connections.append(connection)
        return connection

    # --- files

    def _open(self, path, flags, *more, **options):
        if self.current is not None and flags & os.O_CREAT:
            self.current.step("create")
        return self._real["open"](path, flags, *more, **options)

    def _fdopen(self, handle, *mode, **options):
        file = self._real["fdopen"](handle, *mode, **options)
        return _Paper(file, self.current) if self.current is not None else file

    def _fsync(self, handle):
        machine = self.current
        if machine is None:
            return
        machine.step("fsync")
        info = os.fstat(handle)
        if stat.S_ISDIR(info.st_mode):
            machine.unflushed = [one for one in machine.unflushed if not _is(one.path.parent, info)]

    def _replace(self, source, target, **options):
        machine = self.current
        if machine is not None:
            is_aside = Path(target).name.startswith(folder.TEMPORARY)
            machine.step("set aside" if is_aside else "replace")
            if is_aside:
                machine.will_forget(Path(source))
            known = Path(source).name == NEXT
            machine.will_forget(Path(target), Path(source) if known else None)
        self._real["replace"](source, target, **options)
        if machine is not None:
            machine.step("replaced")

    def _unlink(self, path, **options):
        if self.current is not None and os.path.lexists(path):
            self.current.step("unlink")
            if not Path(path).name.startswith(folder.TEMPORARY):
                self.current.will_forget(Path(path))
        self._real["unlink"](path, **options)

    def _rmdir(self, path, **options):
        if self.current is not None:
            self.current.step("rmdir")
        self._real["rmdir"](path, **options)

    def _mkdir(self, path, *mode, **options):
        if self.current is not None and not os.path.isdir(path):
            self.current.step("mkdir")
        self._real["mkdir"](path, *mode, **options)


def _bytes(path) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _is(folder: Path, info: os.stat_result) -> bool:
    try:
        found = folder.stat()
    except OSError:
        return True
    return (found.st_ino, found.st_dev) == (info.st_ino, info.st_dev)
