"""Commands that move memory to where it belongs: harvest, migrate."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import Dir, Json, confirmed, counted, data, document_path, emit, local, one_line, opened, publish, words

if TYPE_CHECKING:
    from replica.clone import Clone
    from replica.harvest import Buffer, Harvested, Unit
    from replica.tidy import Tidied

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: all of them.")]


def harvest(
    document: Annotated[
        str | None, typer.Argument(metavar="[DOCUMENT]", help="This buffer, full or not; without it, all full ones.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be harvested, and change nothing.")
    ] = False,
    yes: Yes = False,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="To this document, or one file each to this folder (FOLDER/), for this time."
        ),
    ] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Move entries of full buffers into formal documents.

    Each is written with its origin (who, when, which entry) and leaves the buffer, in one step. Decisions become
    records, ADR-NNN-….md. On a terminal it asks which.

    Example: replica harvest lessons-buffer.md --dry-run
    """
    from replica import harvest as harvesting
    from replica.bridge import Bridge
    from replica.tidy import Tidied

    with opened(folder) as clone:
        Bridge(clone).run(every=True, wait=True)
        path = document and document_path(clone, document)
        buffers = harvesting.plan(clone, path, _target(clone, into))
        for buffer in buffers:
            _tell_owner(clone, buffer)
            if dry_run or _asks(yes):
                _show(clone, buffer)
        if dry_run:
            done, tidied = [harvesting.foreseen(buffer) for buffer in buffers], Tidied()
        else:
            chosen = [buffer if not _asks(yes) else replace(buffer, units=_chosen(buffer)) for buffer in buffers]
            done, tidied = harvesting.harvest(clone, chosen)
            publish(clone, every=True)
        if json:
            emit({
                "documents": [_as_json(clone, one) for one in done], **_tidied(tidied), "dry_run": dry_run
            })  # fmt: skip
            return
    _report(done, tidied, dry_run)
    if not buffers:
        words("no buffer is full; name one to harvest it all the same, such as: replica harvest lessons-buffer.md")


def _target(clone: "Clone", into: str | None) -> str | None:
    if into is None:
        return None
    is_folder = into.endswith("/") or (clone.root / into).is_dir()
    return document_path(clone, into.rstrip("/")) + "/" * is_folder


def _asks(yes: bool) -> bool:
    return not yes and sys.stdin.isatty()


def _tell_owner(clone: "Clone", buffer: "Buffer") -> None:
    from replica.workday import persona

    names = {clone.name.casefold(), persona(clone).casefold()}
    if buffer.owner is not None and buffer.owner.casefold() not in names:
        words(f"{buffer.owner} harvests this buffer: {buffer.path}")


def _show(clone: "Clone", buffer: "Buffer") -> None:
    full = f", {buffer.full.value:,} of {buffer.full.threshold:,} {buffer.full.measure}" if buffer.full else ""
    words(f"{buffer.path}: {counted(buffer.entries, 'entry', 'entries')}{full} → {buffer.target}")
    for number, unit in enumerate(buffer.units, 1):
        words(f"{number:4}  {_described(clone, unit)}")


def _described(clone: "Clone", unit: "Unit") -> str:
    first = unit.entries[0]
    more = f", {counted(len(unit.entries), 'entry', 'entries')}" if len(unit.entries) > 1 else ""
    return f"{one_line(unit.title, 80)}  ({clone.author_name(first.author)}, {local(first.time)[:10]}{more})"


def _chosen(buffer: "Buffer") -> list["Unit"]:
    if not buffer.units:
        return []
    if buffer.is_decisions:
        return [unit for number, unit in enumerate(buffer.units, 1) if _wants_record(number)]
    while True:
        answer = typer.prompt(
            f"Harvest which of {buffer.path}? (all, none, or numbers: 1 3-5)", default="all", err=True
        )
        numbers = numbers_in(answer, len(buffer.units))
        if numbers is not None:
            return [buffer.units[number - 1] for number in numbers]
        words(f"please say all, none, or numbers from 1 to {len(buffer.units)}")


def _wants_record(number: int) -> bool:
    question = f"Create ADR for decision #{number}? (y/N)"
    answer = typer.prompt(question, default="n", show_default=False, err=True)
    return answer.strip().lower() in ("y", "yes")


def numbers_in(answer: str, most: int) -> list[int] | None:
    """The numbers that a person means, ascending; None: it is not clear."""
    said = answer.strip().lower()
    if said in ("all", "a"):
        return list(range(1, most + 1))
    if said in ("none", "no", "n", ""):
        return []
    found: set[int] = set()
    for part in said.replace(",", " ").split():
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or len(part) > 20:
            return None
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= most:
            return None
        found.update(range(low, high + 1))
    return sorted(found)


def _report(done: list["Harvested"], tidied: "Tidied", dry_run: bool) -> None:
    for one in done:
        for written in one.written:
            data(f"{one.buffer.path}: {one_line(written.unit.title, 60)} → {written.document}")
        verb = "would be harvested" if dry_run else "harvested"
        words(f"{one.buffer.path}: {counted(one.count, 'entry', 'entries')} {verb}, {one.remaining} left")
        for left in one.buffer.left:
            words(f"  left: {one_line(left.text, 60)}: {left.reason}")
    for line in tidied.lines():
        words(line)


def _as_json(clone: "Clone", one: "Harvested") -> dict[str, Any]:
    buffer, full = one.buffer, one.buffer.full
    return {
        "document": buffer.path, "entries": buffer.entries, "threshold": full.threshold if full else None,
        "measure": full.measure if full else None, "value": full.value if full else None, "target": buffer.target,
        "owner": buffer.owner, "harvested": one.count, "remaining": one.remaining,
        "items": [
            {
                "ids": [entry.id.hex() for entry in written.unit.entries], "title": written.unit.title,
                "text": written.unit.text, "clone": clone.author_name(written.unit.entries[0].author),
                "document": written.document, "new": written.new,
            }
            for written in one.written
        ],
        "left": [left._asdict() for left in buffer.left],
    }  # fmt: skip


def _tidied(tidied: "Tidied") -> dict[str, Any]:
    return {
        "renumbered": [moved._asdict() for moved in tidied.renumbered],
        "merged": [{"document": gone, "kept": kept} for gone, kept in tidied.merged],
        "once": [{"document": path, "entries": count} for path, count in tidied.once.items()],
        "alike": tidied.alike,
        "notes": tidied.notes,
    }


def migrate(
    place: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="The folder of the memory bank, in this clone.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Put back what the last migration moved.")] = False,
    yes: Yes = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Reorganise a memory bank: reference documents out to Docs/, captures renamed to the buffer pattern.

    Files are moved and documents follow; nothing is overwritten. What was edited since stays where it is at an undo.

    Example: replica migrate memory-bank --dry-run
    """
    from replica import migrate as migrating
    from replica.bridge import Bridge
    from replica.errors import UsageError

    if undo and place is not None:
        raise UsageError(
            f"--undo takes back the last migration, whatever its folder; {place!r} would not be heeded",
            hint="see what it would put back with: replica migrate --undo --dry-run",
        )
    with opened(folder) as clone:
        if undo:
            done = migrating.undo(clone, dry_run=dry_run)
        else:
            Bridge(clone).run(every=True, wait=True)
            done = migrating.plan(clone, _bank(clone, place))
            if not dry_run and done.moves:
                if _asks(yes):
                    _show_moves(done.moves, "→")
                if not confirmed(f"Move {counted(len(done.moves), 'file')}?", yes):
                    raise typer.Abort
                done = migrating.carry_out(clone, done)
        if not dry_run:
            publish(clone)
    if json:
        emit({
            "moves": [move._asdict() for move in done.moves], "left": [left._asdict() for left in done.left],
            "undo": undo, "dry_run": dry_run,
        })  # fmt: skip
        return
    _show_moves(done.moves, "→", out=data)
    for left in done.left:
        words(f"left: {left.path}: {left.reason}")
    what = counted(len(done.moves), "file")
    if dry_run:
        words(f"{what} would be {'put back' if undo else 'moved'}")
    elif undo:
        words(f"{what} put back" if done.moves or done.left else "nothing was migrated here")
    else:
        words(f"{what} moved; take it back with: replica migrate --undo" if done.moves else "nothing to move")


def _show_moves(moves, arrow: str, out=words) -> None:
    for move in moves:
        out(f"{move.path} {arrow} {move.to}")


def _bank(clone: "Clone", place: str | None) -> str | None:
    """The folder that is meant, relative to the clone's, "" for that itself; None: not said.

    Raises UnsafePath: it is outside.
    """
    if place is None:
        return None
    here = Path.cwd() / place
    if here.is_dir() and here.resolve().is_relative_to(clone.root.resolve()):
        return here.resolve().relative_to(clone.root.resolve()).as_posix().removeprefix(".")
    return document_path(clone, place.rstrip("/"))
