"""What the file system is asked for: names that outlast a power cut, and a lock that ends with its process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk. Where folders cannot be flushed (Windows), nothing is done.

    Raises OSError: the disk failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the lock `path`; others are not waited for. Given back when the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
