"""Every target on up to two thousand mutated samples, the same ones each time. More of them: `make fuzz SECONDS=60`."""

import os
from random import Random

import pytest

from tests.fuzz import driver
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

QUICK, SLOW = 2_000, 250  # inputs of a target in this suite
SECONDS = 30.0  # a machine that is this slow tries fewer


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_samples_are_values_or_documented_errors(name, tmp_path):
    count = SLOW if TARGETS[name].slow else QUICK
    outcome = driver.run(name, count=count, seed=1, seconds=SECONDS, folder=tmp_path)
    assert not outcome.failure, f"{outcome.failure}\ninput: {outcome.input[:2_000].hex()}"
    assert outcome.inputs == count or outcome.seconds >= SECONDS


def test_a_seed_repeats_a_run():
    sample, other = b"[[documents]]\nglob = 'a'\n", b"\x93\x01\xa1a\xc0"
    runs = [
        [mutated(sample, other, random, 10_000) for _ in range(300)] for random in (Random(3), Random(3), Random(4))
    ]
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) > 200


# --- the driver itself: what would be a finding is one


def boom(data: bytes) -> None:
    raise KeyError(data)


def spin(data: bytes) -> None:
    total = 0
    while True:
        total += 1


def grow(data: bytes) -> None:
    bytearray(driver.MEMORY + (64 << 20))


def die(data: bytes) -> None:
    os.abort()


@pytest.mark.parametrize(
    ("run", "words"), [(boom, "KeyError"), (spin, "Hang"), (grow, "MemoryError"), (die, "ended with -6")]
)
def test_an_exception_a_hang_memory_and_an_end_are_failures(run, words, tmp_path):
    code = (
        "import sys; from tests.fuzz import driver, targets, test_mutations as here\n"
        "driver.HANG = 0.3\n"
        f"calls = []\n"
        f"run = lambda data: here.{run.__name__}(data) if calls else None\n"
        "targets.TARGETS['made'] = targets.Target(run, lambda: [b'sample'])\n"
        "driver.ready, ready = (lambda: (ready(), calls.append(1))), driver.ready\n"
        "sys.argv = ['fuzz', *sys.argv[1:]]\n"
        "from tests.fuzz.__main__ import main; main()\n"
    )
    outcome = driver.run("made", count=5, seconds=20, folder=tmp_path, start=("-c", code))
    assert words in outcome.failure, outcome.failure
    assert outcome.input == b"sample"
