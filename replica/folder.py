"""The clone's folder as the bridge sees it: which files there are, what they hold, and safe writing."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from replica import paths
from replica.clone import unwritable
from replica.disk import flush_folder
from replica.errors import StoreError, UnsafePath
from replica.places import FOLDER

TEMPORARY = ".replica-new-"  # our own half-written files, beside the one they become
TURN = "bridge.lock"
TURN_TIMEOUT = 15.0  # seconds to wait for another process, as long as for its transactions


@contextmanager
def turn(root: Path) -> Iterator[None]:
    """One process of a clone at a time reads and writes its files: what one has written is no edit for another.

    Given back by the system when the process ends, however it ends. Raises StoreError: it is busy for too long.
    """
    try:
        import fcntl
    except ImportError:  # Windows; it locks files only
        import msvcrt

        place, how = root / FOLDER / TURN, os.O_RDWR | os.O_CREAT

        def lock(handle: int) -> None:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    else:
        place, how = root / FOLDER, os.O_RDONLY

        def lock(handle: int) -> None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    try:
        handle = os.open(place, how, 0o600)
    except OSError as error:
        raise unwritable(root, error) from None
    try:
        _wait_for(lambda: lock(handle), root)
        yield
    finally:
        os.close(handle)


def _wait_for(lock: Callable[[], None], root: Path) -> None:
    until = time.monotonic() + TURN_TIMEOUT
    while True:
        try:
            return lock()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return None  # a file system without locks: go on as if alone
        if time.monotonic() > until:
            raise StoreError(
                f"the files of {root} are busy", hint="another replica command is at work on them; try again"
            )
        time.sleep(0.003)


class Found(NamedTuple):
    """A look at the folder: document paths with their files, and what was passed over with the reason.

    `leftovers`: our own half-written files, of a process that was killed.
    """

    files: dict[str, Path]
    skipped: dict[str, str]
    leftovers: list[Path]


def look(root: Path, is_document, excluded) -> Found:
    """Every file below `root` that is a document.

    `is_document(path)` and `excluded(path)` judge normalised relative paths; links are never followed.
    """
    found = Found({}, {}, [])
    claimed: dict[str, str] = {}
    for folder, names, files in os.walk(root, onerror=lambda error: _unreadable(root, error, found)):
        relative = Path(folder).relative_to(root)
        names[:] = sorted(n for n in names if _enter(relative, n, Path(folder), excluded, is_document, found))
        for name in sorted(files):
            if name.startswith(TEMPORARY):
                found.leftovers.append(Path(folder, name))
            else:
                _consider(relative, name, Path(folder), is_document, excluded, found, claimed)
    return found


def check(root: Path, files: dict[str, Path], excluded) -> Found:
    """The same judgement for single files, by document path."""
    found = Found({}, {}, [])
    claimed: dict[str, str] = {}
    for path, file in files.items():
        inside = [parent.as_posix() for parent in Path(path).parents if parent != Path(".")]
        if not any(excluded(parent) or excluded(parent + "/") for parent in inside):
            _consider(Path(path).parent, file.name, file.parent, lambda _: True, excluded, found, claimed)
    return found


def _unreadable(root: Path, error: OSError, found: Found) -> None:
    if error.filename:
        found.skipped[os.path.relpath(error.filename, root)] = f"the folder cannot be read: {error.strerror}"


def _enter(relative: Path, name: str, folder: Path, excluded, is_document, found: Found) -> bool:
    if (relative == Path(".") and name == FOLDER) or name.casefold() == ".git":
        return False
    path = (relative / name).as_posix()
    if (folder / name).is_symlink():
        return False
    if is_document(path):
        found.skipped[path] = "a folder stands where a document should be"
    # A clone inside a clone has its own workspace.
    return not excluded(path) and not excluded(path + "/") and not (folder / name / FOLDER).is_dir()


def _consider(relative: Path, name: str, folder: Path, is_document, excluded, found: Found, claimed) -> None:
    raw = (relative / name).as_posix()
    try:
        raw.encode()
        path = paths.normal(raw)
    except UnsafePath as error:
        if is_document(raw):
            found.skipped[raw] = str(error)
        return
    except UnicodeEncodeError:
        found.skipped[raw.encode(errors="replace").decode()] = "its name is not UTF-8"
        return
    if excluded(path) or not is_document(path):
        return
    file = folder / name
    if file.is_symlink():
        found.skipped[path] = "a link; links are not followed"
    elif not file.is_file():
        found.skipped[path] = "not a regular file"
    elif (other := claimed.setdefault(paths.clash_key(path), path)) != path:
        found.skipped[path] = f"its name differs from {other} in case only"
    else:
        found.files[path] = file


def stamp(info: os.stat_result) -> str:
    """Tells whether a file may have changed: inode, size, time of change. Equal content decides, not this."""
    return f"{info.st_ino}:{info.st_size}:{info.st_mtime_ns}"


TICK = 20_000_000  # nanoseconds; file systems stamp by a clock that ticks every 10 ms or faster
# Nanoseconds by which our files are older than they are: who saves one in the same tick leaves another stamp. Coarse
# enough for file systems that count in 100 ns.
APART = 1_000


def settled(info: os.stat_result) -> str:
    """The stamp to remember of a file that was read after `info`.

    One saved this very moment may be saved again with the same stamp: it gets none that a file can have.
    """
    return stamp(info) + ("?" if abs(time.time_ns() - info.st_mtime_ns) < TICK else "")


class Write(NamedTuple):
    """A file to be replaced. `seen`: the stamp of what it is to replace, None for a file that is not there."""

    path: str
    data: bytes
    seen: str | None


def write_all(root: Path, writes: list[Write]) -> list[str | Exception]:
    """Replace files, each in one step; returns each one's new stamp, or why it is as it was.

    Errors are UnsafePath (the path leads out of the folder), OSError, and FileChanged (somebody saved it meanwhile).
    Folders are made as needed, links never followed. All data is on the disk before the first file is replaced, so a
    power cut leaves no file empty; the flushes of many files run side by side. The names are on the disk at the end:
    a caller that notes the files as written is right after a power cut too.
    """
    from concurrent.futures import ThreadPoolExecutor

    named = _folders(root, writes)
    prepared = [_attempt(_beside, root, write) for write in writes]
    if len(writes) > 1:
        with ThreadPoolExecutor(FLUSHES) as pool:
            flushed = list(pool.map(lambda one: one if isinstance(one, Exception) else _attempt(_flush, one), prepared))
    else:
        flushed = [one if isinstance(one, Exception) else _attempt(_flush, one) for one in prepared]
    done = [
        one if isinstance(one, Exception) else _attempt(_replace, root, write, one)
        for write, one in zip(writes, flushed, strict=True)
    ]
    for folder in named:
        flush_folder(folder)
    return done


def _folders(root: Path, writes: list[Write]) -> list[Path]:
    """Whose names will change: the folder of each file, and what holds a folder that is not there yet."""
    found: dict[Path, None] = {}
    for write in writes:
        place = Path(root, write.path).parent
        found[place] = None
        while place != root and not place.exists():
            place = place.parent
            found[place] = None
    return list(found)


def write(root: Path, path: str, data: bytes) -> str:
    """Replace one file, whatever it holds; raises what `write_all` returns."""
    target = paths.resolve(root, path)
    seen = stamp(target.stat()) if target.exists() else None
    (done,) = write_all(root, [Write(path, data, seen)])
    if isinstance(done, Exception):
        raise done
    return done


class FileChanged(OSError):
    """The file is not the one that was to be replaced."""


FLUSHES = 8  # files flushed at once: the disk joins them into few waits


def _attempt(step, *arguments):
    try:
        return step(*arguments)
    except (OSError, UnsafePath) as error:
        return error


def _beside(root: Path, write: Write) -> Path:
    """Write the data into a file beside the one that it will become."""
    target = paths.resolve(root, write.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}"[:200])
    beside.unlink(missing_ok=True)  # half written by a process of our number that was killed
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(write.data)
        if target.exists():
            os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
        written = beside.stat()
        os.utime(beside, ns=(written.st_atime_ns, written.st_mtime_ns - APART))
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return beside


def _flush(beside: Path) -> Path:
    handle = os.open(beside, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return beside


def _replace(root: Path, write: Write, beside: Path) -> str:
    try:
        target = paths.resolve(root, write.path)
        if (stamp(target.stat()) if target.exists() else None) != write.seen:
            raise FileChanged(errno.EBUSY, "it was saved meanwhile", write.path)
        info = beside.stat()
        os.replace(beside, target)
    except (OSError, UnsafePath):
        beside.unlink(missing_ok=True)
        raise
    return stamp(info)


def remove(root: Path, path: str, data: bytes | None = None) -> None:
    """Delete a file, and the folders that are empty without it. `data`: what it must hold.

    Raises FileChanged: it holds something else, and stays; whoever saves it at this very moment loses nothing.
    """
    target = paths.resolve(root, path)
    try:
        if data is None:
            target.unlink(missing_ok=True)
        else:
            _remove_if(target, data, path)
        flush_folder(target.parent)
        for folder in target.relative_to(root).parents:
            if folder != Path("."):
                (root / folder).rmdir()
    except FileChanged:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            raise unwritable(root, error) from None
    # Before anyone notes that it is gone: a power cut would bring it back as a new file.
    flush_folder(next(folder for folder in target.parents if folder.is_dir()))


def _remove_if(target: Path, data: bytes, path: str) -> None:
    """Out of everybody's reach first, so that nobody saves it between the look at it and its end."""
    aside = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name}"[:200])
    try:
        os.replace(target, aside)
    except FileNotFoundError:
        return
    if aside.read_bytes() != data:
        if target.exists():  # saved again since, and that stays
            aside.unlink()
        else:
            os.replace(aside, target)
        raise FileChanged(errno.EBUSY, "it was saved meanwhile", path)
    aside.unlink()


def git_head(root: Path) -> str | None:
    """What git has checked out in this folder or above it, or None."""
    for folder in (root, *root.parents):
        try:
            return (folder / ".git" / "HEAD").read_text("utf-8", "replace")[:200]
        except OSError:
            continue
    return None
