"""Counts what this process does to the disk, and ends it by SIGKILL at a chosen step.

`install` replaces the few calls through which everything durable goes (SQLite statements that write, files opened for
writing and written, flush, rename, exchange, delete, new folders) by ones that count first. Only the process that
installs it is changed; the program knows nothing of it.

It also keeps the books that a power cut would settle: what was written and not flushed, which names were changed in a
folder that was not flushed. `cut` settles them that way before the process dies; `faults` names what was trusted too
early, whether or not anything died.
"""

import builtins
import io
import os
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from replica.places import FOLDER

WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "REPLACE", "DROP", "ALTER")
POINTS = ("PRAGMA journal_mode", "PRAGMA wal_checkpoint", "VACUUM", "PRAGMA incremental_vacuum")


class Steps:
    """The steps of one process below `root`. `kill_at`: the step that it does not survive, 0 for none."""

    def __init__(self, root: Path, kill_at: int = 0, *, cut: bool = False):
        self.root, self.kill_at, self.cut = str(root), kill_at, cut
        self.labels: list[str] = []
        self.faults: list[str] = []
        self._lock = threading.RLock()
        self._handles: dict[int, str] = {}  # files open for writing
        self._dirty: dict[tuple[int, int], str] = {}  # written and not flushed: (device, inode) -> path
        self._undo: list[tuple[str, Callable[[], None]]] = []  # names that are not flushed yet: folder, what undoes it

    def step(self, label: str) -> None:
        """One more; the last if it is the chosen one."""
        with self._lock:
            self.labels.append(label)
            if len(self.labels) == self.kill_at:
                self.die()

    def die(self) -> None:
        if self.cut:
            self._settle()
        os.kill(os.getpid(), signal.SIGKILL)

    # --- the books

    def _settle(self) -> None:
        """What a power cut leaves: names as they were when their folder was flushed, no data that was not flushed."""
        real, self._undo = self._undo, []
        for path in self._dirty.values():
            if os.path.exists(path):
                _REAL["truncate"](path, 0)
        for _, undo in reversed(real):
            undo()

    def wrote(self, path: str) -> None:
        with self._lock:
            info = os.stat(path)
            self._dirty[info.st_dev, info.st_ino] = path

    def flushed(self, handle: int) -> None:
        with self._lock:
            info = os.fstat(handle)
            if stat.S_ISDIR(info.st_mode):
                folder = os.readlink(f"/proc/self/fd/{handle}")
                self._undo = [one for one in self._undo if one[0] != folder]
            self._dirty.pop((info.st_dev, info.st_ino), None)

    def names(self, path: str, undo: Callable[[], None]) -> None:
        with self._lock:
            self._undo.append((os.path.dirname(os.path.realpath(path)), undo))

    def folder_went(self, folder: str) -> None:
        """With its folder a name is gone; that waits for the folder above."""
        with self._lock:
            above = os.path.dirname(folder)
            self._undo = [(above if at == folder else at, undo) for at, undo in self._undo]

    def put_in_place(self, source: str) -> None:
        """A file gets the name under which it will be believed."""
        info = os.stat(source)
        if (info.st_dev, info.st_ino) in self._dirty:
            self.faults.append(f"{self.short(source)} is renamed before its data is flushed")

    def committed(self) -> None:
        """The store says from now on what the files are. SQLite flushes its own folder itself."""
        for folder in {folder for folder, _ in self._undo if FOLDER not in folder.split(os.sep)}:
            self.faults.append(f"a commit relies on names in {self.short(folder)} that are not flushed")

    # --- what is ours

    def ours(self, path) -> str | None:
        """The path as text if it lies in our folder."""
        if isinstance(path, int):
            return self._handles.get(path)
        path = os.path.abspath(os.fspath(path))
        return path if path.startswith(self.root + os.sep) else None

    def short(self, path) -> str:
        return os.path.relpath(os.fspath(path), self.root)

    def opened(self, handle: int, path: str) -> None:
        self._handles[handle] = path

    def closed(self, handle: int) -> None:
        self._handles.pop(handle, None)


class _Writer:
    """A file that writes in two halves, with a step before each."""

    def __init__(self, file, path: str, steps: Steps):
        self._file, self._path, self._steps = file, path, steps

    def write(self, data):
        half = len(data) // 2
        self._steps.step(f"write {self._steps.short(self._path)}")
        self._file.write(data[:half])
        self._file.flush()
        self._steps.wrote(self._path)
        self._steps.step(f"half {self._steps.short(self._path)}")
        self._file.write(data[half:])
        self._file.flush()
        return len(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)


_REAL = {name: getattr(os, name) for name in (
    "open", "close", "write", "fsync", "replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir", "truncate"
)}  # fmt: skip


def install(steps: Steps) -> None:
    """From now on this process counts; there is no way back."""
    _files(steps)
    _names(steps)
    _sqlite(steps)


def _files(steps: Steps) -> None:
    real_open = io.open

    def opening(file, mode="r", *arguments, **options):
        opened = real_open(file, mode, *arguments, **options)
        path = steps.ours(file) if set(mode) & set("wxa+") else None
        return opened if path is None else _Writer(opened, path, steps)

    def os_open(path, flags, mode=0o777, *, dir_fd=None):
        mine = steps.ours(path) if dir_fd is None and flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) else None
        if mine is not None and flags & os.O_CREAT and not os.path.exists(mine):
            steps.step(f"create {steps.short(mine)}")
        handle = _REAL["open"](path, flags, mode, dir_fd=dir_fd)
        if mine is not None:
            steps.opened(handle, mine)
        return handle

    def os_write(handle, data):
        path = steps.ours(handle)
        if path is None:
            return _REAL["write"](handle, data)
        half = len(data) // 2
        steps.step(f"write {steps.short(path)}")
        _REAL["write"](handle, data[:half])
        steps.wrote(path)
        steps.step(f"half {steps.short(path)}")
        return half + _REAL["write"](handle, data[half:])

    def os_close(handle):
        steps.closed(handle)
        return _REAL["close"](handle)

    def fsync(handle):
        handle = handle if isinstance(handle, int) else handle.fileno()
        steps.step("flush")
        _REAL["fsync"](handle)
        steps.flushed(handle)

    io.open = builtins.open = opening
    os.open, os.write, os.close, os.fsync = os_open, os_write, os_close, fsync


def _names(steps: Steps) -> None:
    def moving(name):
        def move(source, target, **options):
            mine = steps.ours(target)
            if mine is None:
                return _REAL[name](source, target, **options)
            steps.step(f"{name} {steps.short(mine)}")
            steps.put_in_place(source)
            old, new, source = _content(mine), _content(source), os.path.abspath(source)
            _REAL[name](source, target, **options)

            def undo() -> None:
                _put_back(mine, old)
                _put_back(source, new)

            steps.names(mine, undo)
            return None

        return move

    def removing(name):
        def remove(path, *, dir_fd=None):
            mine = steps.ours(path) if dir_fd is None else None
            if mine is None:
                return _REAL[name](path, dir_fd=dir_fd)
            if os.path.lexists(mine):
                steps.step(f"{name} {steps.short(mine)}")
            old = _content(mine)
            _REAL[name](path)
            if name == "rmdir":
                steps.folder_went(mine)
            elif not _temporary(mine):
                steps.names(mine, lambda: _put_back(mine, old))
            return None

        return remove

    def mkdir(path, mode=0o777, *, dir_fd=None):
        mine = steps.ours(path) if dir_fd is None else None
        if mine is not None and not os.path.exists(mine):
            steps.step(f"mkdir {steps.short(mine)}")
        return _REAL["mkdir"](path, mode, dir_fd=dir_fd)

    os.replace, os.rename, os.link = moving("replace"), moving("rename"), moving("link")
    os.unlink, os.remove, os.rmdir = removing("unlink"), removing("remove"), removing("rmdir")
    os.mkdir = mkdir


def _temporary(path: str) -> bool:
    return os.path.basename(path).startswith(".replica-new-")


def _content(path: str) -> bytes | None:
    if not os.path.isfile(path):
        return None
    handle = _REAL["open"](path, os.O_RDONLY)
    try:
        return os.read(handle, 1 << 26)
    finally:
        _REAL["close"](handle)


def _put_back(path: str, old: bytes | None) -> None:
    if old is None:
        if os.path.isfile(path):
            _REAL["unlink"](path)
        return
    missing = [str(folder) for folder in Path(path).parents if not folder.exists()]
    for folder in reversed(missing):
        _REAL["mkdir"](folder)
    handle = _REAL["open"](path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    _REAL["write"](handle, old)
    _REAL["close"](handle)


def _sqlite(steps: Steps) -> None:
    real = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql, *parameters):
            word = sql.lstrip().split(None, 1)[0].upper() if sql.strip() else ""
            if word == "COMMIT":
                steps.step("before commit")
                steps.committed()
                done = super().execute(sql, *parameters)
                steps.step("after commit")
                return done
            if word in WRITES or sql.startswith(POINTS):
                steps.step("within" if self.in_transaction else f"sql {word.lower()}")
            return super().execute(sql, *parameters)

        def executemany(self, sql, rows):
            steps.step("within" if self.in_transaction else "sql many")
            return super().executemany(sql, rows)

    def connect(path, *arguments, **options):
        mine = steps.ours(path) if not str(path).startswith(":") else None
        return real(path, *arguments, **(options if mine is None else {**options, "factory": Connection}))

    sqlite3.connect = connect
