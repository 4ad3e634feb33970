"""What has broken systems like ours: one test or more for every line of docs/failures.md, with its number.

The laws behind them are in the tests of their modules; here they are told as what happens to a person.
"""

import shutil

from replica.clone import Clone
from replica.places import FOLDER
from tests.helpers import Network

PATHS = ("a-buffer.md", "activeContext.md", "SESSION_LOG.md", "notes.md")


def back_up(clone: Clone) -> None:
    """Copy the store aside, as a backup or a disk image does."""
    clone.store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copytree(clone.root / FOLDER, clone.root.with_name("backup"))


def roll_back(network: Network, name: str) -> Clone:
    """Put the copy in the place of the store."""
    network[name].close()
    shutil.rmtree(network[name].root / FOLDER)
    shutil.copytree(network[name].root.with_name("backup"), network[name].root / FOLDER)
    network.clones[name] = Clone.open(network[name].root, now_ms=network.clock)
    return network[name]
