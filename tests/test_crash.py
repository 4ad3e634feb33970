"""A sample of the crash points (tests/crash): processes killed by SIGKILL. `make crash` runs them by the hundred."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")


def crashes(*arguments: str, broken: str = "") -> subprocess.CompletedProcess:
    """Run tests/crash in a process of its own. `broken`: Python that spoils the program first."""
    program = f"{broken}\nfrom tests.crash.__main__ import main\nraise SystemExit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_clones_come_back_whole_wherever_a_process_was_killed():
    done = crashes("--kills", "30", "--seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    kills = int(done.stdout.rsplit(" kills, 0 failed", 1)[0].split()[-1])
    assert kills >= 25


def test_a_failure_can_be_repeated_by_its_step():
    done = crashes("--only", "take-in", "--at", "9")
    assert (done.returncode, done.stdout.strip()) == (0, "survived 1"), done.stdout + done.stderr


# What the checks are worth: each of these takes away one thing that makes the program safe, and must be found out.
BROKEN = {
    "no flush of folders": (
        "import replica.folder; replica.folder.flush_folder = lambda folder: None",
        ["--only", "ingest", "--kills", "1"], "trusted too early",
    ),
    "no flush of data": (
        "import replica.folder; replica.folder._flush = lambda beside: beside",
        ["--only", "ingest", "--kills", "1"], "renamed before its data is flushed",
    ),
    "no sweeping": (
        "from replica.bridge import Bridge; Bridge._sweep = lambda bridge, found: None",
        ["--only", "resolve", "--kills", "60"], ".replica-new-",
    ),
    "files written in place": (
        "import replica.folder as folder\n"
        "def write_all(root, writes):\n"
        "    for write in writes:\n"
        "        with open(root / write.path, 'wb') as file:\n"
        "            file.write(write.data)\n"
        "    return [folder.stamp((root / write.path).stat()) for write in writes]\n"
        "folder.write_all = write_all",
        ["--only", "add", "--kills", "40"], "AssertionError: alice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_the_checks_find_a_program_that_is_not_safe(what):
    broken, arguments, words = BROKEN[what]
    done = crashes(*arguments, broken=broken)
    assert done.returncode == 1 and words in done.stdout + done.stderr, done.stdout + done.stderr
