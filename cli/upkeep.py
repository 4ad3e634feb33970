"""Commands that keep a clone small and safe: compact, backup, restore-backup."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import Dir, Folder, Json, certify, counted, data, emit, folder_name, iso_ms, opened, size, words


def compact(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be folded, and change nothing.")] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Fold old changes together, so that the store does not grow for ever.

    Folded is what is older than replica.toml's [history] days and known to every member. Documents stay as they are;
    what they were before that time cannot be shown any more. A running node does this by itself.

    Example: replica compact --dry-run
    """
    from replica import compact as compaction

    with opened(folder) as clone:
        if dry_run:
            plan = compaction.plan(clone)
            folded, documents, waiting, retired = plan.changes, None, plan.waiting, []
            before = after = compaction.size(clone.store)
        else:
            result = compaction.compact(clone)
            folded, documents, waiting, retired = result.folded, result.documents, result.waiting, result.retired
            before, after = result.before, result.after
    if json:
        emit({
            "folded": folded, "documents": documents, "bytes_before": before, "bytes_after": after, "dry_run": dry_run,
            "waiting": [{"name": one.name, "changes": one.lacks} for one in waiting], "retired": list(retired),
        })  # fmt: skip
        return
    for name in retired:
        words(f"{name} has been silent for too long to be waited for; it comes back by itself, with its edits")
    if dry_run:
        words(f"{counted(folded, 'change')} would be folded" if folded else "nothing can be folded now")
    elif folded:
        words(f"{counted(folded, 'change')} folded; the store went from {before:,} to {after:,} bytes")
    else:
        words("nothing to fold")
    for one in waiting:
        words(f"  {one.name} is not known to have {counted(one.lacks, 'older change')} yet")


File = Annotated[Path, typer.Argument(metavar="FILE", parser=folder_name, help="The backup.")]


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", parser=folder_name, help="Where it goes; in a folder, it gets a name.")
    ],
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Write this clone to one file: history, keys, documents' files. It is read back and checked.

    It is not encrypted. Whoever has the file has all of the memory, level 0 too, and can become a member: keep it as
    secret as the clone.

    Example: replica backup ~/backups/memory.replica-backup
    """
    from replica import backup as backups
    from replica.bridge import Bridge

    with opened(folder) as clone:
        Bridge(clone).run(every=True, wait=True)
        target = file.absolute()
        target = target / backups.usual_name(clone) if target.is_dir() else target
        made = backups.make(clone, target)
    if json:
        emit(_shown(target, made))
        return
    data(str(target))
    words(
        f"{size(made.bytes)}, checked: {made.clone} of workspace {made.workspace}, {counted(len(made.files), 'file')}"
    )
    words("not encrypted; its keys and what is of level 0 are in it: keep it where nobody else reads it")


def restore_backup(
    file: File,
    target: Folder = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the file and say what is in it.")] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Make an empty folder a clone again from a backup, under a new identity.

    The one that was backed up may be gone or still running: the two are different clones from then on, and what either
    has reaches the other.

    Example: replica restore-backup memory.replica-backup ~/memory
    """
    from replica import backup as backups

    if check:
        found = backups.check(file)
        if json:
            emit(_shown(file.absolute(), found))
        else:
            words(f"{file} is whole: {found.clone} of workspace {found.workspace}, {iso_ms(found.made)}")
        return
    root = (target or folder or Path()).absolute()
    done = backups.restore(file, root, certify)
    if json:
        emit({"root": str(done.root), "clone": done.clone, "of": done.of, "files": done.files})
        return
    words(f"{done.root} is the clone {done.clone}, with {counted(done.files, 'file')} of {done.of}")
    words(f"if {done.of} is gone for good, end its access: replica remove {done.of}")
    words("next: `replica up` brings what the others have written since")


def _shown(file: Path, made) -> dict:
    return {
        "file": str(file), "bytes": made.bytes, "made": iso_ms(made.made), "workspace": made.workspace,
        "clone": made.clone, "id": made.id, "files": len(made.files), "format": made.version,
    }  # fmt: skip
