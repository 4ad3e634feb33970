"""Names that outlast a power cut: what was made, renamed or deleted is so on the disk once its folder is flushed."""

import os
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
