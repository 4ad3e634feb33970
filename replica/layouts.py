"""Which way of keeping memory a folder follows already, and the `replica.toml` that fits it."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from replica.config import DEFAULT, HEAD, REST, WELL_KNOWN

MEMORY_BANK = {
    "activeContext.md", "patterns-buffer.md", "lessons-buffer.md", "decisions-inbox.md", "SESSION_LOG.md"
}  # fmt: skip
_DAILY_NOTE = re.compile(r"\d{4}-\d{2}-\d{2}\.md")

_LONG_TERM = """\
# Long-term memory: all entries of all clones, each once.
[[documents]]
glob = "**/MEMORY.md"
policy = "union"
"""

_DAILY = """\
# Daily notes, one file a day: what several clones write by hand is merged as text.
[[documents]]
glob = "**/????-??-??.md"
policy = "text"
"""


class Layout(NamedTuple):
    """`name`: for a message to people. `text`: a whole `replica.toml`."""

    name: str
    text: str


def recognise(root: Path) -> Layout:
    """The layout of what is in `root` now: its names are looked at, one folder deep, and no file is opened."""
    top, bank, memory = _names(root), _names(root / "memory-bank"), _names(root / "memory")
    if bank or top & MEMORY_BANK:
        return Layout("memory bank", _text("memory bank", ""))
    if any(_DAILY_NOTE.fullmatch(name) for name in top | memory):
        return Layout("OpenClaw memory", _text("OpenClaw memory", f"{_DAILY}\n{_LONG_TERM}\n"))
    if "MEMORY.md" in top | memory:
        return Layout("Claude Code memory", _text("Claude Code memory", f"{_LONG_TERM}\n"))
    return Layout("markdown", DEFAULT)


def _text(name: str, rules: str) -> str:
    return f"# Made for what was found here: {name}.\n{HEAD}\n{rules}{WELL_KNOWN}\n{REST}"


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:  # not there, not a folder, not ours to read: then nothing is recognised by it
        return set()
