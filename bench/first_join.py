"""A clone that has just been admitted fetches a workspace of 1,000 documents with 10,000 entries."""

import random
import sys
import time
from pathlib import Path

from bench.harness import SEED, entry, node, say, workspace
from bench.wiretap import Wiretap
from replica.clone import Clone

DOCUMENTS, ENTRIES = 1_000, 10


def run(place: Path) -> None:
    print(f"  input: {DOCUMENTS} documents of {ENTRIES} entries of about 80 characters; times with the process start")
    measure(place / "imported", "a change for each document", one_by_one=False)
    measure(place / "written", "a change for each entry", one_by_one=True)


def measure(place: Path, what: str, *, one_by_one: bool) -> None:

    chance = random.Random(SEED)
    first, *joiners = workspace(place, "first", "joins", "counts")
    with first.transaction():
        for n in range(DOCUMENTS):
            ops = [(1, entry(chance, n * ENTRIES + k)) for k in range(ENTRIES)]
            for chunk in [[op] for op in ops] if one_by_one else [ops]:
                first.edit_entries(f"notes/{n // 100}/{n}-buffer.md", "union", chunk)
    size, count = first.store.row("SELECT sum(length(body)), count(*) FROM changes")
    digest = first.digest().hex()
    for clone in (first, *joiners):
        clone.close()
    with node(first.root) as serving:
        began = time.perf_counter()
        with node(joiners[0].root, "--peer", str(serving.port)) as joining:
            in_step = joining.event("in_step")["at"] - began
            last = 0.0
            while True:
                try:
                    last = joining.event("files", 3.0)["at"] - began
                except RuntimeError:
                    break
        verify(joiners[0].root, digest)
        with Wiretap(serving.port) as tap, node(joiners[1].root, "--peer", str(tap.port), "--no-files") as joining:
            joining.event("in_step")
            wire = tap.total
    files = sum(1 for _ in joiners[0].root.rglob("*-buffer.md"))
    done = max(last, in_step)
    say(
        f"{what} ({count} changes)",
        f"in step after {in_step:.2f} s, {files} files there after {done:.2f} s",
        "<= 5 s",
        done <= 5 and files == DOCUMENTS,
    )
    say(
        "  on the wire, with TLS, both ways",
        f"{wire / 1e6:.2f} MB = {wire / size:.2f} x the changes ({size / 1e6:.2f} MB)",
        "<= 1.3 x",
        wire <= 1.3 * size,
    )


def verify(root: Path, digest: str) -> None:
    with Clone.open(root) as clone:
        if clone.digest().hex() != digest:
            sys.exit("the joined clone holds something else")
