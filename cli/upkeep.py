"""Commands that keep a clone small and safe: compact."""

from typing import Annotated

import typer

from cli.common import Dir, Json, counted, emit, opened, words


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
