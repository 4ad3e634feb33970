"""Backups put back over what has gone on since, and disks that run twice.

What a restore may lose is what it overwrites and nobody else has: those marks are expected no longer. Everything that
is in the backup, or has reached another clone, or is done afterwards, stays expected.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from replica.keys import Identity
from replica.places import CONFIG, FOLDER, IDENTITY
from tests.simulation.hardware import Machine
from tests.simulation.people import PRIVATE, SECRET, live_marks, marks_in

if TYPE_CHECKING:
    from tests.simulation.world import Process, Simulation


class Backup(NamedTuple):
    place: Path
    id: bytes  # of the clone then
    marks: frozenset[str]  # that its store and its files held
    stored: frozenset[str]  # that its store held


def take(simulation: "Simulation", process: "Process") -> Backup:
    """A copy of a clone's folder while its node runs and no transaction is open."""
    simulation.people.mend_rules(next(iter(simulation.machines.values())))
    simulation.people.finish_saving(process.machine)
    place = simulation.folder / ".backups" / process.name
    shutil.rmtree(place, ignore_errors=True)
    _copy(process.machine.root, place)
    stored = _held(simulation, process)
    return Backup(place, process.clone.identity.id, frozenset(stored | in_files(place)), frozenset(stored))


def folder(simulation: "Simulation", name: str) -> None:
    """Files and store, yesterday's in the place of today's."""
    machine, backup = simulation.machines[name], simulation.backups[name]
    _clear(machine.root)
    _copy(backup.place, machine.root)
    _drop_saving(simulation, machine)
    _overwritten(simulation, name, backup.marks)


def store(simulation: "Simulation", name: str) -> None:
    """Only what the program keeps; the files are today's. Which of their lines is secret, today's store alone knows."""
    machine, backup = simulation.machines[name], simulation.backups[name]
    saving = {path: data.decode(errors="replace") for by, path, data in simulation.people.saving if by is machine}
    now = in_files(machine.root).union(*map(marks_in, saving.values()))
    half = "".join(text for path, text in saving.items() if path not in PRIVATE)
    if any(
        SECRET in mark and mark not in backup.stored and (mark in half or _is_shared(machine, mark)) for mark in now
    ):
        return
    _clear(machine.root, only=FOLDER)
    shutil.copytree(backup.place / FOLDER, machine.root / FOLDER)
    _overwritten(simulation, name, backup.marks | now)


def files(simulation: "Simulation", name: str) -> None:
    """Only the files: to the store, a person who has saved them all."""
    machine, backup = simulation.machines[name], simulation.backups[name]
    _drop_saving(simulation, machine)
    for file in sorted(backup.place.rglob("*.md")):
        path = file.relative_to(backup.place).as_posix()
        target = machine.root / path
        if not path.startswith(FOLDER) and not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            simulation.people._replace(machine, path, file.read_bytes())


def split(simulation: "Simulation", name: str, other: str) -> Machine:
    """The disk of a clone twice, at two new places; returns the machine of the second."""
    machine = simulation.machines[name]
    root = simulation.folder / other
    _copy(machine.root, root)
    moved = machine.root.with_name(f"{name}-moved")
    os.replace(machine.root, moved)
    del simulation.hardware.machines[machine.root]
    machine.root = moved
    simulation.hardware.machines[moved] = machine
    machine.unflushed.clear()
    twin = simulation.hardware.machine(other, root)
    twin.skew = machine.skew
    if (backup := simulation.backups.get(name)) is not None:  # it would be opened at its old place
        shutil.rmtree(backup.place)
        del simulation.backups[name]
    return twin


def in_files(root: Path) -> set[str]:
    """Every mark in the documents of a folder."""
    found = set()
    for file in root.rglob("*.md"):
        if FOLDER not in file.relative_to(root).parts and file.is_file():
            found |= marks_in(file.read_bytes().decode(errors="replace"))
    return found | marks_in((root / CONFIG).read_text(errors="replace") if (root / CONFIG).is_file() else "")


def _is_shared(machine: Machine, mark: str) -> bool:
    """Whether this secret stands in a file that others have as well."""
    return any(
        mark in file.read_text(errors="replace")
        for file in machine.root.rglob("*.md")
        if FOLDER not in file.relative_to(machine.root).parts and file.name not in PRIVATE
    )


def _overwritten(simulation: "Simulation", name: str, kept: frozenset[str] | set[str]) -> None:
    """Nothing more is expected of what only the overwritten folder held."""
    people = simulation.people
    simulation.restored.add(name)
    simulation.forked = simulation.forgets = True
    there = {one.name: _held(simulation, one) for one in simulation._running(member=True) if one.name != name}
    for mark, known in people.marks.items():
        if known.owner not in simulation.restored:
            continue
        own = (
            kept
            if known.owner == name
            else there.get(known.owner, set()) | in_files(simulation.machines[known.owner].root)
        )
        if mark not in own:
            if had := {one for one, held in there.items() if mark in held}:
                simulation.overwritten[mark] = had
            else:
                known.expected = known.live = False


def stranded(simulation: "Simulation") -> None:
    """Of what was overwritten nothing is expected either that only clones had which do not belong any more."""
    for mark, had in simulation.overwritten.items():
        if had <= simulation.removed:
            known = simulation.people.marks[mark]
            known.expected = known.live = False


def _held(simulation: "Simulation", process: "Process") -> set[str]:
    """Every mark in the log or the documents of a clone."""
    bodies = b"\0".join(body for (body,) in process.clone.store.rows("SELECT body FROM changes ORDER BY n"))
    logged = {mark for mark in simulation.people.marks if mark[1:-1].encode() in bodies}
    return logged | live_marks(process.clone)


def _drop_saving(simulation: "Simulation", machine: Machine) -> None:
    """Whoever was about to save something there gives it up."""
    people = simulation.people
    for one in [one for one in people.saving if one[0] is machine]:
        people.saving.remove(one)
        people.gone(marks_in(one[2].decode()))


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("store.db-shm"))


def _clear(root: Path, only: str | None = None) -> None:
    for found in sorted(root.iterdir()):
        if only is None or found.name == only:
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def identity_of(machine: Machine) -> bytes:
    return Identity.load(machine.root / FOLDER / IDENTITY).id
