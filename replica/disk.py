"""What a rename or a removal still needs to outlive a power cut: its folder, flushed.

Flushing the file alone is not enough everywhere, and neither is a later flush of another file: ext4 writes its folders
along, btrfs does not (fsync(2): "an explicit fsync() on a file descriptor for the directory is also needed").
"""

import os
from pathlib import Path


def flush_folder(folder: Path) -> None:
    """Make durable which files are in this folder. Where folders cannot be opened (Windows), the system sees to it."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
