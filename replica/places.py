"""The names of a clone's own files, and how to find the clone that a folder is in. Light: every command needs it."""

from pathlib import Path

from replica.errors import NotAClone

FOLDER = ".replica"
STORE = "store.db"
IDENTITY = "identity"  # the private key, in hex
JOINING = "identity.joining"  # the key that a newcomer has shown to an inviter, until the folder is a clone
PRIVATE = "identity.private"  # the key of the level-0 chain; it never leaves this folder
CONFIG = "replica.toml"


def find_root(start: Path) -> Path:
    """The nearest folder from `start` upwards that holds a clone. Raises NotAClone."""
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / FOLDER / STORE).is_file():
            return folder
    raise NotAClone(f"{start} is not inside a clone")
