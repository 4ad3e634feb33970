"""What was learned, taken into memory: learn."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    Dir,
    Json,
    confirmed,
    counted,
    data,
    document_path,
    emit,
    folder_name,
    one_line,
    opened,
    publish,
    text_or_stdin,
    words,
)

if TYPE_CHECKING:
    from replica.clone import Clone
    from replica.learn.entry import Item
    from replica.learn.given import Secrets, Usual
    from replica.learn.plan import Plan


def learn(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="JSON, markdown, a session log, insights.json or a folder of campaigns; - reads stdin. Without it,"
            " insights.json and campaigns/ of the clone's folder.",
        ),
    ] = None,
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="all, insights or campaigns: what to look for, or what FILE is.")
    ] = "all",
    session: Annotated[
        str | None, typer.Option(metavar="ID|latest", help="This session of the logs, or the latest of this folder.")
    ] = None,
    type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="For what says none: lesson, decision, pattern, …")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="For all of them; may be given again.")] = None,
    status: Annotated[str, typer.Option(metavar="STATUS", help="For what says none, such as proposed.")] = "",
    into: Annotated[str | None, typer.Option(metavar="DOCUMENT", help="All of them there, not by their types.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is new and changed, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Take in what was learned: lessons, decisions, patterns, insights, campaigns, each as an entry where it belongs.

    What is there already is not added again; what changed in its source changes its entry; what is gone there stays
    here. Secrets are taken out first. On a terminal it shows the changes and asks.

    Example: replica learn insights.json --dry-run
    """
    from replica.bridge import Bridge
    from replica.learn import plan as planning
    from replica.learn.given import Secrets

    usual = _usual(type, tag, status)
    _check(scope, file, session)
    with opened(folder) as clone:
        secrets = Secrets()
        Bridge(clone).run(every=True, wait=True)
        items, labels, empty = _read(clone, file, scope, session, usual, secrets)
        target = into and document_path(clone, into)
        planned = planning.plan(clone, items, into=target, labels=labels, said_now=file == "-")
        asks = not (dry_run or yes or file == "-") and sys.stdin.isatty() and planned.writes > 0
        if asks or (dry_run and not json):
            _show(planned)
        if asks and not confirmed(f"Write {counted(planned.writes, 'entry', 'entries')}?", yes):
            raise typer.Abort
        if not dry_run:
            planning.carry_out(clone, planned)
            if planned.writes:
                publish(clone, *{step.document for step in planned.steps if step.action in ("new", "changed")})
    if json:
        emit(_as_json(planned, secrets, empty, dry_run))
        return
    _report(planned, secrets, empty, dry_run, shown=asks)
    if not items and not planned.gone and not empty:
        words(_nothing(file, session, scope))


def _usual(type: str | None, tags: list[str] | None, status: str) -> "Usual":
    from replica.errors import UsageError
    from replica.learn.entry import TYPES, named_type, one_line
    from replica.learn.entry import tag as as_tag
    from replica.learn.given import Usual

    if type is not None and named_type(type) is None:
        raise UsageError(f"--type: {type!r} is none", hint=f"use one of {', '.join(TYPES)}")
    clean = tuple(dict.fromkeys(one for given in tags or () if (one := as_tag(given))))
    return Usual(type, one_line(status), clean)


def _check(scope: str, file: str | None, session: str | None) -> None:
    from replica.errors import UsageError
    from replica.learn.sources import SCOPES

    if scope not in SCOPES:
        raise UsageError(f"--scope: {scope!r} is none", hint=f"use one of {', '.join(SCOPES)}")
    if file is not None and session is not None:
        raise UsageError("either a file or --session", hint="leave one of them out")


def _read(
    clone: "Clone", file: str | None, scope: str, session: str | None, usual: "Usual", secrets: "Secrets"
) -> tuple[list["Item"], dict[str, str], list[tuple[str, str]]]:
    """The items, the sources that are given whole (label → file), and what held nothing."""
    from replica.learn import intake

    if session is not None:
        from replica.learn import logs

        return logs.learnings(logs.session(clone, session), usual, secrets), {}, []
    if file == "-":
        return intake.from_text(text_or_stdin("-"), "stdin", scope, usual, secrets), {}, []
    return intake.from_place(clone, folder_name(file) if file is not None else None, scope, usual, secrets)


# --- what is said of it


_SIGNS = {"new": "+", "changed": "~", "left": "!", "known": "=", "unchanged": "="}


def _show(planned: "Plan") -> None:
    """The changes, before they are made."""
    for step in planned.steps:
        if step.action == "new":
            words(f"+ {step.document}: {one_line(step.text.lstrip('- '), 90)}")
        elif step.action == "changed" and step.old is not None:
            words(f"~ {step.document}: {one_line(step.item.learning.text, 90)}")
            for line in _difference(step.old.text, step.text):
                words(f"    {line}")
    for gone in planned.gone:
        words(
            f"- {gone.source.label} has it no more, it stays: {one_line(gone.text.lstrip('- '), 60)} ({gone.document})"
        )


def _difference(old: str, new: str) -> list[str]:
    from difflib import ndiff

    lines = [line for line in ndiff(old.split("\n"), new.split("\n")) if line[0] in "+-"]
    return [one_line(line, 100) for line in lines if " - from: " not in line][:12]


def _report(planned: "Plan", secrets: "Secrets", empty, dry_run: bool, shown: bool) -> None:
    for step in planned.steps:
        if step.action in ("new", "changed") and not dry_run:
            data(
                f"{step.document}: {one_line(step.item.learning.text, 80)}  ({step.item.learning.type}, {step.action})"
            )
        elif step.action == "left":
            words(f"left: {one_line(step.item.learning.text, 60)}: {step.reason}")
    for where, reason in empty:
        words(f"nothing in {where}: {reason}")
    counts = [f"{planned.count(action)} {action}" for action in ("new", "changed", "unchanged", "known", "left")]
    if planned.steps or planned.gone:
        words(f"{', '.join(counts)}, {len(planned.gone)} gone from their source" + ("; nothing written" * dry_run))
    if planned.gone and not (dry_run or shown):
        words("what is gone there stays here; --dry-run lists it")
    if found := sum(secrets.found.values()):
        words(f"{counted(found, 'secret')} taken out")


def _nothing(file: str | None, session: str | None, scope: str) -> str:
    if file is None and session is None:
        looked = {"insights": "no insights.json", "campaigns": "no campaigns/"}.get(
            scope, "no insights.json, no campaigns/"
        )
        return f"{looked} in the clone's folder; name a file, or - for stdin, or --session latest"
    return "nothing in it says that it is to be kept"


def _as_json(planned: "Plan", secrets: "Secrets", empty, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "items": [
            {
                "action": step.action, "document": step.document, "id": step.id.hex() or None,
                "type": step.item.learning.type, "tags": list(step.item.learning.tags), "text": step.item.learning.text,
                "status": step.item.learning.status, "category": step.item.learning.category,
                "outcome": step.item.learning.outcome, "links": list(step.item.learning.links),
                "source": step.item.source and step.item.source._asdict(), "reason": step.reason,
            }
            for step in planned.steps
        ],
        **{action: planned.count(action) for action in ("new", "changed", "unchanged", "known", "left")},
        "gone": [
            {"document": one.document, "source": one.source._asdict(), "text": one.text} for one in planned.gone
        ],
        "empty": [{"file": where, "reason": reason} for where, reason in empty],
        "redacted": dict(secrets.found),
    }  # fmt: skip
