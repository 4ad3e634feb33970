"""How long a short command takes, from the start of the process to its end, on a warm disk."""

import sys
from pathlib import Path

from bench.harness import percentile, replica, say, spread, timed, workspace

RUNS = 25


def run(place: Path) -> None:
    (clone,) = workspace(place, "clone")
    clone.close()
    folder = str(clone.root)
    print(f"  input: an empty clone, no node; {RUNS} runs each, after one to warm up")
    say("the interpreter alone (python -c pass)", spread(times(lambda n: [sys.executable, "-c", "pass"])))
    taken = times(lambda n: replica("--help"))
    say("replica --help", spread(taken), "p50 <= 150 ms", percentile(taken, 0.5) <= 0.150)
    taken = times(lambda n: replica("add", "--dir", folder, "lessons-buffer.md", f"lesson {n}"))
    say("replica add", spread(taken), "p50 <= 250 ms", percentile(taken, 0.5) <= 0.250)
    taken = times(lambda n: replica("status", "--dir", folder, "--json"))
    say("replica status --json", spread(taken))


def times(command) -> list[float]:
    return [timed(command(number)) for number in range(RUNS + 1)][1:]
