"""Export: a run that finds nothing new in 100,000 items, and how fast new ones are compared and written."""

import time
from pathlib import Path

from bench.harness import entry, percentile, replica, say, spread, timed, workspace
from replica.places import CONFIG

DOCUMENTS, ENTRIES = 500, 200
RUNS = 5


def run(place: Path) -> None:
    from random import Random

    from bench.harness import SEED

    (clone,) = workspace(place, "clone")
    random = Random(SEED)
    for number in range(DOCUMENTS):
        ops = [(1, entry(random, number * ENTRIES + at)) for at in range(ENTRIES)]
        clone.edit_entries(f"n{number}-buffer.md", "union", ops)
    with open(clone.root / CONFIG, "a", encoding="utf-8") as file:
        file.write('\n[sinks.file]\ntype = "jsonl"\npath = "../out.jsonl"\n')
    clone.close()
    folder = str(clone.root)
    items = DOCUMENTS * ENTRIES
    print(f"  input: {items:,} entries in {DOCUMENTS} documents, a sink of type jsonl; the whole command each time")
    timed(replica("sync", "--dir", folder), 600)  # writes the files
    began = time.perf_counter()
    timed(replica("export", "--dir", folder), 600)
    taken = time.perf_counter() - began
    say("the first export", f"{taken:.1f} s, {items / taken:,.0f} items/s")
    times = [timed(replica("export", "--dir", folder), 600) for _ in range(RUNS)]
    say("nothing new", spread(times), "p50 <= 2 s", percentile(times, 0.5) <= 2.0)
