"""Run many seeds: `python -m tests.simulation --seeds 2000`. Lists those that fail; ends with 1 if there are any.

--seeds N     how many; --first F: from which on; --workers W: in so many processes
--seed S      that one alone, with everything that happens
"""

import argparse
import os
import sys
import time
import traceback
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import Finding, Simulation

CHUNK = 25


def outcome(seed: int) -> tuple[int, str, str]:
    """The seed, why it failed (nothing if it did not), and where."""
    try:
        Simulation(seed).run()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return seed, _reason(error), f"{where.filename.rsplit('/', 1)[-1]}:{where.lineno}"
    return seed, "", ""


def _reason(error: Exception) -> str:
    words = str(error).replace("\n", " ")[:300]
    return words if isinstance(error, Finding) else f"{type(error).__name__}: {words}"


def _chunk(seeds: range) -> list[tuple[int, str, str]]:
    return [outcome(seed) for seed in seeds]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    if chosen.seed is not None:
        simulation = Simulation(chosen.seed)
        simulation._verbose = True
        print(simulation.run())
        return 0
    return _many(chosen.first, chosen.seeds, chosen.workers)


def _many(first: int, count: int, workers: int) -> int:
    began, done = time.monotonic(), 0
    failed: dict[str, list[tuple[int, str]]] = defaultdict(list)
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        for results in pool.map(_chunk, chunks):
            for seed, reason, where in results:
                if reason:
                    failed[where].append((seed, reason))
                    print(f"failed: make simulate SEED={seed}   {reason}", flush=True)
            done += len(results)
            if done % 500 < CHUNK:
                bad = sum(map(len, failed.values()))
                print(f"{done:>7} of {count} seeds, {bad} failed, {time.monotonic() - began:.0f} s", flush=True)
    seconds = time.monotonic() - began
    for where, seeds in sorted(failed.items(), key=lambda one: -len(one[1])):
        print(f"\n{len(seeds)} at {where}")
        for seed, reason in seeds[:8]:
            print(f"  make simulate SEED={seed}   {reason}")
    bad = sum(map(len, failed.values()))
    print(
        f"\n{count} seeds from {first}: {count - bad} hold, {bad} fail; {seconds:.0f} s, {seconds / count:.3f} s each"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
