"""Fuzz the decoders: `python -m tests.fuzz --seconds 60` (all targets, atheris), `--target NAME`, `--plain`, `--list`.

Ends with 1 when a target fails; the input is kept in the folder that is named, and `--replay FILE` runs it again.
"""

import argparse
import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.fuzz import driver

NO_ATHERIS = """\
fuzz: atheris is not installed, so nothing can be guided by coverage. It has wheels for Python 3.11 to 3.13 on Linux
fuzz: (x86-64): pip install '.[fuzz]'. Going on with plain mutation (--plain says so at once)."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", metavar="NAME", help="only this one; may be given again")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target")
    parser.add_argument("--count", type=int, default=2**62, help="inputs for each target, plain mutation only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="mutate samples, without atheris")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one target on this input")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--guided", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        return _worker(*asked.worker)
    if asked.guided:
        return _guided(*asked.guided)
    from tests.fuzz.targets import TARGETS

    names = asked.target or list(TARGETS)
    if asked.list:
        print("\n".join(TARGETS))
        return 0
    if asked.replay:
        print(f"{driver.guarded(TARGETS[names[0]].run, asked.replay.read_bytes()):.3f} s")
        return 0
    return _all(names, asked)


def _all(names: list[str], asked) -> int:
    plain = asked.plain
    if not plain and not _has_atheris():
        print(NO_ATHERIS, file=sys.stderr)
        plain = True
    kept = Path(tempfile.mkdtemp(prefix="replica-fuzz-"))
    failed = 0
    for name in names:
        if plain:
            outcome = driver.run(name, count=asked.count, seed=asked.seed, seconds=asked.seconds, folder=kept)
        else:
            outcome = _with_atheris(name, asked.seconds, asked.seed, kept)
        print(
            f"{name:14} {outcome.inputs:>9,} inputs {outcome.seconds:6.1f} s  slowest {outcome.slowest * 1000:6.0f} ms"
            f"  peak {outcome.memory >> 20:4} MB", flush=True,
        )  # fmt: skip
        if outcome.failure:
            failed += 1
            file = kept / f"{name}.failed"
            file.write_bytes(outcome.input)
            print(f"{outcome.failure}\nfuzz: {name} failed; again with: --target {name} --replay {file}", flush=True)
    print(f"fuzz: {failed} of {len(names)} targets failed" if failed else f"fuzz: {len(names)} targets, none failed")
    return 1 if failed else 0


def _has_atheris() -> bool:
    from importlib.util import find_spec

    return find_spec("atheris") is not None


def _worker(name: str, count: str, seed: str, seconds: str, last: str) -> int:
    outcome = driver.work(name, int(count), int(seed), float(seconds), Path(last))
    print(json.dumps({**outcome._asdict(), "input": outcome.input.hex()}))
    return 0


def _with_atheris(name: str, seconds: float, seed: int, kept: Path) -> driver.Outcome:
    """A target under atheris in a process of its own; the fuzzer ends that process itself."""
    told = kept / f"{name}.told"
    command = [sys.executable, "-m", "tests.fuzz", "--guided", name, str(seconds), str(seed), str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=driver.ROOT, env={**os.environ})
    said = json.loads(told.read_text()) if told.exists() else {}
    failure = "" if done.returncode == 0 else said.get("failure") or done.stderr[-3_000:]
    last = kept / f"{name}.last"
    return driver.Outcome(
        name, said.get("inputs", 0), said.get("seconds", 0.0), said.get("slowest", 0.0), said.get("memory", 0), failure,
        driver.Last.read(last) if failure else b"",
    )  # fmt: skip


def _guided(name: str, seconds: str, seed: str, folder: str) -> int:
    import resource
    import time

    import atheris

    with atheris.instrument_imports(include=["replica", "transport", "cli", "msgpack"]):
        from tests.fuzz import targets
    from tests.fuzz.mutate import mutated

    kept, chosen = Path(folder), targets.TARGETS[name]
    samples = chosen.seeds()
    corpus = kept / f"{name}.corpus"
    corpus.mkdir(exist_ok=True)
    for at, sample in enumerate(samples):
        (corpus / f"{at:03}").write_bytes(sample)
    for sample in samples[:3]:
        chosen.run(sample)
    noted = driver.Last(kept / f"{name}.last", targets.LONGEST)
    driver.ready()
    began = time.monotonic()
    told = {"inputs": 0, "seconds": 0.0, "slowest": 0.0, "memory": 0, "failure": ""}

    def tell() -> None:
        told["seconds"] = time.monotonic() - began
        told["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (kept / f"{name}.told").write_text(json.dumps(told))

    def end(code: int) -> None:
        atexit._run_exitfuncs()  # the folders that were made; the fuzzer does not let Python end by itself
        os._exit(code)

    def one(data: bytes) -> None:
        noted.note(data)
        told["inputs"] += 1
        try:
            told["slowest"] = max(told["slowest"], driver.guarded(chosen.run, data))
        except BaseException as error:
            told["failure"] = driver._told(error)
            tell()
            end(77)
        if time.monotonic() - began > float(seconds):  # the fuzzer's own limit counts from when it has read the corpus
            tell()
            end(0)

    def change(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.5:
            return atheris.Mutate(data, most)
        return mutated(data, random.choice(samples), random, most)

    options = [
        f"-seed={int(seed) + 1}",
        "-max_len=20000",
        "-rss_limit_mb=0",
        "-timeout=120",
        "-verbosity=0",
        "-detect_leaks=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
