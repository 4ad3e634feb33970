"""Settling a conflict in an editor: one file with all versions, of which a person makes the text that is to stand.

The file lies in `.replica/`, since what it holds may be of level 0, and goes when it is done with. Where what was
written cannot be used, it stays, and is named.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from replica.errors import ReplicaError, UsageError
from replica.keys import write_private
from replica.places import FOLDER

EDITORS = ("sensible-editor", "nano", "vim", "vi")  # where neither $VISUAL nor $EDITOR says which


class NotUsable(ReplicaError):
    """What the editor left cannot be the text that is to stand."""


class Shown(NamedTuple):
    """A version as the file shows it; `who`: by whom and when."""

    version: str
    who: str
    text: str


def mark(id: str) -> str:
    """How the lines begin that stand between the versions. No text has them: they hold the conflict's id."""
    return f"=== replica {id}:"


def comment(id: str) -> str:
    return f"### replica {id}:"


def composed(id: str, document: str, versions: list[Shown]) -> str:
    """The file that the editor opens."""
    note = comment(id)
    lines = [
        f"{note} a conflict in {' '.join(document.split())}. Make of what follows the text that is to stand.",
        f"{note} Take out the lines that begin with '===' and what you do not want; save, and close the editor.",
        f"{note} Lines like this one are left out. Nothing changes if you do not save, or leave nothing.",
    ]
    for shown in versions:
        lines += [f"{mark(id)} version {shown.version}, {' '.join(shown.who.split())}", shown.text.rstrip("\n")]
    return "\n".join([*lines, f"{mark(id)} end", ""])


def read(id: str, before: str, after: str) -> str | None:
    """The text that a person made of the file; None: nothing is to change. Raises NotUsable: marks are left in it."""
    if after == before:
        return None
    lines = after.replace("\r\n", "\n").split("\n")
    if any(line.lstrip().startswith(mark(id)) for line in lines):
        raise NotUsable("the lines that begin with '===' are still in it", hint="take them out, with what goes")
    text = "\n".join(line for line in lines if not line.startswith(comment(id))).strip("\n")
    return f"{text}\n" if text.strip() else None


def settle(root: Path, id: str, document: str, versions: list[Shown]) -> "tuple[str | None, Path]":
    """Let a person edit; returns the text, None where nothing is to change, and the file, which is there still.

    Raises UsageError: there is no editor. NotUsable: it failed, or what it left cannot be used; the file stays.
    """
    command = editor()
    folder = root / FOLDER / "editing"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{id}.md"
    before = composed(id, document, versions)
    write_private(file, before.encode())
    try:
        code = subprocess.call([*command, str(file)])
    except OSError as error:
        file.unlink()
        raise UsageError(
            f"the editor {command[0]!r} cannot be started: {error.strerror}", hint="set EDITOR, or use --keep or --text"
        ) from None
    try:
        after = file.read_bytes().decode()
        if code:
            raise NotUsable(f"the editor ended with code {code}; nothing was changed", hint="try again, or use --keep")
        return read(id, before, after), file
    except (UnicodeDecodeError, FileNotFoundError):
        raise NotUsable("the editor left no UTF-8 text; nothing was changed", hint="use --keep or --text") from None
    except NotUsable as error:
        if code == 0:
            error.hint = f"{error.hint}; what you wrote is in {file}"
        else:
            file.unlink(missing_ok=True)
        raise


def editor() -> list[str]:
    """The command that opens an editor. Raises UsageError: none is known."""
    for name in ("VISUAL", "EDITOR"):
        try:
            if words := shlex.split(os.environ.get(name, "")):
                return words
        except ValueError:
            raise UsageError(f"{name} cannot be read as a command", hint="such as EDITOR=nano") from None
    for name in EDITORS:
        if found := shutil.which(name):
            return [found]
    raise UsageError("no editor is known", hint="set EDITOR, or say which version to keep: --keep v1, or --text TEXT")
