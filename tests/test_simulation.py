"""The whole stack under faults, many seeds: what the clones hold in the end is the same, and nothing is lost or leaked.

`REPLICA_SEEDS=2000` runs so many, `REPLICA_SEED=17` that one alone. What makes up a run is told in tests/simulation.
That the simulation would notice is shown here too: with a promise broken on purpose it fails.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from replica import filetext, folder, textdiff
from replica.clone import Clone
from replica.files.delivery import Delivery
from replica.log import Log
from tests.simulation import backups
from tests.simulation.world import Simulation
from transport.session import Session

SEEDS = int(os.environ.get("REPLICA_SEEDS", "200"))
CHUNK = 10  # seeds in one test: enough to keep all workers busy
CHUNKS = (
    [range(int(os.environ["REPLICA_SEED"]), int(os.environ["REPLICA_SEED"]) + 1)]
    if "REPLICA_SEED" in os.environ
    else [range(at, min(at + CHUNK, SEEDS)) for at in range(0, SEEDS, CHUNK)]
)


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_whatever_fails_nothing_is_lost_or_leaked_and_all_agree(seeds):
    failed = {}
    for seed in seeds:
        try:
            Simulation(seed).run()
        except Exception as error:
            failed[seed] = error
    for seed, error in failed.items():
        print(f"make simulate SEED={seed}   # {type(error).__name__}: {error}")
    if failed:
        raise next(iter(failed.values()))


def test_a_seed_repeats_exactly_in_another_process_too():
    """Down to every byte on the wire and every durable step, whatever order sets of that process have."""
    hashes = set()
    for hash_seed in ("1", "2"):
        code = "from tests.simulation.world import Simulation; print([Simulation(seed).run() for seed in (2, 3, 4, 6)])"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parent.parent, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        hashes.add(done.stdout)
    assert len(hashes) == 1
    assert Simulation(2).run() == Simulation(2).run() != Simulation(3).run()


@pytest.mark.parametrize("copied", ["twin", "backup"])
def test_a_disk_is_copied_when_every_editor_has_ended(tmp_path, copied):
    """A half-written file of a copy is never finished: to its clone, somebody has taken the rest away."""
    simulation = Simulation(1)
    simulation.folder = tmp_path
    with simulation.hardware:
        simulation._make("alice")
        simulation.people.rules, machine = {}, simulation.machines["alice"]
        simulation.people.saving = [(machine, f"{name}.md", name.encode()) for name in ("one", "two")]
        if copied == "twin":
            simulation._twin()
            root = simulation.machines["alice-twin"].root
        else:
            root = backups.take(simulation, simulation.processes["alice"]).place
        for process in simulation.processes.values():
            process.clone.on_change = None
            process.clone.close()
    assert {(root / f"{name}.md").read_text() for name in ("one", "two")} == {"one", "two"}


# --- the simulation notices


def first_failure(most: int) -> str | None:
    """What the first failing seed of so many says."""
    for seed in range(most):
        try:
            Simulation(seed).run()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None


def leaky_batch(log: Log, vector, after: int):
    """Sends everything, the private chain too."""
    for author in log._authors.values():
        author.private = False
    return BATCH(log, vector, after)


def careless_edit(one: Clone, path: str, policy: str, ops):
    """Shares what is of level 0."""
    return EDIT(one, path, policy, [(max(level, 1), op) for level, op in ops])


def forgetful_batch(session: Session):
    """Leaves one change of a longer batch out."""
    batch = NEXT_BATCH(session)
    return batch[1:] if len(batch) > 2 else batch


def flattened_past(log: Log, author: int, seq: int, other: int) -> int:
    """Takes everything for seen: nothing is concurrent."""
    return log._by_n[other].seq


def plain_rebase(ops, base: str, current: str):
    """Writes the file's text over what others wrote meanwhile."""
    return [(0, len(current), textdiff.apply_ops(base, ops))]


def hasty_prepare(delivery: Delivery, path: str, policy: str, trace, report):
    """Writes a file without a look at what was saved there meanwhile."""
    file = delivery.root / path
    if trace is not None and file.is_file():
        data = file.read_bytes()
        text = filetext.decode(data).text
        canonical = text if policy == "text" else filetext.canonical(text)
        delivery.store.execute("UPDATE files SET base=?, canonical=? WHERE path=?", (data, canonical, path))
    return PREPARED(delivery, path, policy, trace, report)


def early_answer(one: Clone, batch):
    """Says that changes are stored, and stores all but the last of them."""
    return INGEST(one, batch[:-1] if len(batch) > 1 else batch)


BATCH, NEXT_BATCH, PREPARED = Log.batch, Session._next_batch, Delivery._prepared
INGEST, EDIT = Clone.ingest, Clone.edit_entries


@pytest.mark.parametrize(
    ("where", "name", "broken"),
    [
        (Log, "batch", leaky_batch),
        (Session, "_next_batch", forgetful_batch),
        (Log, "past", flattened_past),
        (textdiff, "rebase", plain_rebase),
        (Delivery, "_prepared", hasty_prepare),
        (folder, "flush_folder", lambda place: None),
        (Clone, "ingest", early_answer),
        (Clone, "edit_entries", careless_edit),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_simulation_notices(where, name, broken):
    with mock.patch.object(where, name, broken):
        assert first_failure(100) is not None
