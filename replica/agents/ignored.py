"""Which files of a working tree git would commit: what `connect` writes holds paths of one machine."""

import os
import shutil
import subprocess
from pathlib import Path

PATIENCE = 5.0  # seconds


def committable(project: Path, files: list[Path]) -> list[str]:
    """Those of `files`, relative to the working tree `project`, that git does not ignore; all where nobody can say."""
    inside = sorted({file.relative_to(project).as_posix() for file in files if file.is_relative_to(project)})
    if not inside or not (project / ".git").exists():
        return []
    ignored = _ignored(project, inside)
    return [path for path in inside if path not in ignored]


def _ignored(project: Path, paths: list[str]) -> set[str]:
    git = shutil.which("git")
    if git is None:
        return set()
    # A project's own settings must run nothing here. Where a hook of git's started us, its variables name another tree.
    command = [git, "-c", "core.fsmonitor=false", "-C", os.fspath(project), "check-ignore", "-z", "--stdin"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, input="\0".join(paths).encode("utf-8", "surrogateescape"), env=environ, capture_output=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return set(done.stdout.decode("utf-8", "surrogateescape").split("\0"))
