"""`python -m tests.crash`: kill processes at what they do to the disk, restart them, check. See docs/reliability.md."""

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.crash import runner
from tests.crash.runner import Job, Result
from tests.crash.scenarios import SCENARIOS


def main() -> int:
    os.environ["REPLICA_INTERFACES"] = "127.0.0.1"
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="about so many, the same share of every scenario; or all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=list(SCENARIOS), help="this scenario alone")
    parser.add_argument("--role", default="", help="with --only: which of its processes")
    parser.add_argument("--at", type=int, help="with --only: this step alone (or milliseconds), as a failure names it")
    parser.add_argument("--mode", default="kill", choices=["kill", "cut", "time"])
    parser.add_argument("--then", type=int, default=0)
    parser.add_argument("--steps", action="store_true", help="print the steps and end")
    chosen = parser.parse_args()
    _warm()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="replica-crash-", dir=memory if memory.is_dir() else None) as folder:
        return _run(chosen, Path(folder).resolve())


def _warm() -> None:
    """Import once what every process needs: a kill then costs a fork."""
    for package in ("replica", "transport", "cli"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    for name in ("spake2", "watchfiles", "websockets.asyncio.client", "websockets.asyncio.server"):
        importlib.import_module(name)


def _run(chosen, folder: Path) -> int:
    began = time.monotonic()
    random = Random(chosen.seed)
    if chosen.at:
        result = runner.Worker(folder).run(Job(chosen.only, chosen.role, chosen.mode, chosen.at, chosen.then))
        print(result.error or f"survived {result.kills}")
        return 1 if result.error else 0
    names = [chosen.only] if chosen.only else list(SCENARIOS)
    pairs = [(name, role) for name in names for role in runner.roles(name)]
    counted = dict(_counted(pairs, chosen.workers, folder))
    if chosen.steps:
        for (name, role), (labels, faults, seconds) in counted.items():
            print(f"{name} {role}: {len(labels)} steps, {seconds:.2f} s", *labels, *faults, sep="\n  ")
        return 0
    jobs = runner.jobs(counted, random)
    if chosen.kills:
        jobs = runner.sample(jobs, chosen.kills, random)
    said = runner.spread(jobs, chosen.workers, folder, lambda worker, job: worker.run(job).to_json())
    return _report(counted, [Result.from_json(line) for line in said], time.monotonic() - began)


def _counted(pairs: list, workers: int, folder: Path):
    said = runner.spread(
        pairs, workers, folder, lambda worker, pair: json.dumps([pair, worker.count(*pair)])
    )  # fmt: skip
    found = {tuple(pair): tuple(count) for pair, count in map(json.loads, said)}
    return [(pair, found[pair]) for pair in pairs]


def _report(counted: dict, results: list[Result], seconds: float) -> int:
    faults = {fault for _, faults, _ in counted.values() for fault in faults}
    print(f"{'scenario':24} {'steps':>6} {'kills':>6} {'failed':>7}")
    for (name, role), (labels, _, _) in counted.items():
        mine = [result for result in results if (result.job.scenario, result.job.role) == (name, role)]
        kills, failed = sum(result.kills for result in mine), sum(bool(result.error) for result in mine)
        print(f"{f'{name} {role}'.strip():24} {len(labels):6} {kills:6} {failed:7}")
    kills, failed = sum(result.kills for result in results), [result for result in results if result.error]
    print(f"{kills} kills, {len(failed)} failed, {seconds:.0f} s")
    for result in failed:
        print(f"\npython -m tests.crash {result.job}\n{result.error.strip()}")
    for fault in sorted(faults):
        print(f"trusted too early: {fault}")
    return 1 if failed or faults else 0


if __name__ == "__main__":
    sys.exit(main())
