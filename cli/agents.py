"""Commands that wire agents to this clone: connect, disconnect; and `hook`, which agents run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import Dir, Json, cell, emit, opened, root_of, table, words
from replica.errors import ForeignFile, ReplicaError, UsageError

if TYPE_CHECKING:
    from replica.agents.known import Agent, Place
    from replica.agents.wiring import Change

WIDEST = 160  # characters of a line that is not ours: some programs keep all of a file on one

Name = Annotated[
    str | None, typer.Argument(metavar="[AGENT]", help="claude-code, codex, openclaw or gemini; without it, a list.")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


def connect(
    agent: Name = None,
    dry_run: Dry = False,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="SCOPE",
            help="project: where this clone's working tree is open; user: wherever you work. OpenClaw: user.",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say which agents there are, and which are connected.")] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Give an agent this clone's memory when it starts, keep its sessions when they end, and add the MCP server.

    Its configuration keeps all other entries; what is changed is shown, and kept beside the file. A second time
    changes nothing.

    Example: replica connect claude-code --dry-run
    """
    from replica.agents import known, wiring

    root = _clone(folder)
    if agent is None or list_:
        _list(root, json)
        return
    wired = known.named(agent)
    if scope not in (None, "project", "user"):
        raise UsageError(f"{scope!r} is no scope", hint="it is project or user")
    place = _place(root)._replace(scope=scope or wiring.usual_scope(wired, root))
    changes = wiring.connecting(wired, place)
    _refuse_documents(root, changes)
    refused = [change for change in changes if change.action == "refused"]
    backups = [] if dry_run else wiring.connect(wired, place, changes)
    by_hand = [change for change in changes if change.action in ("refused", "absent")]
    written = [change.file for change in changes if change.action not in ("absent", "refused")]
    told = [*known.to_do(wired, place), *_to_ignore(place, [*written, *wiring.backups(wired, root)])]
    if json:
        emit({
            **_report(wired, place, changes, dry_run), "backups": [os.fspath(file) for file in backups],
            "approve": told, "by_hand": {os.fspath(c.file): known.snippet(c.target) for c in by_hand},
        })  # fmt: skip
    else:
        _tell(changes, dry_run)
        for change in by_hand:
            words(f"{_left_alone(change)}; by hand, put into it:")
            typer.echo(known.snippet(change.target), nl=False)
        for file in backups:
            words(f"what it was before is in {file}")
        if not any(change.to_do for change in changes) and not refused:
            words(f"{wired.title} is connected already: nothing to change")
        else:
            how = "in part, " if refused else ""
            words(f"{wired.title} would be connected" if dry_run else f"{wired.title} is connected {how}to {root}")
        for line in told:
            words(f"to do: {line}")
    if refused:
        raise ForeignFile(f"{len(refused)} of {len(changes)} files could not be changed safely")


def disconnect(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="claude-code, codex, openclaw or gemini.")],
    dry_run: Dry = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Take out of an agent's configuration what `connect` has put in.

    A file that nobody has edited since is as it was, to the byte; in others only our entries go.

    Example: replica disconnect claude-code
    """
    from replica.agents import known, wiring

    root = _clone(folder)
    wired, place = known.named(agent), _place(root)
    changes = wiring.disconnecting(wired, place)
    stay = [] if dry_run else wiring.disconnect(wired, place, changes)
    if json:
        emit({**_report(wired, place, changes, dry_run), "backups": [os.fspath(file) for file in stay]})
    else:
        _tell(changes, dry_run)
        for file in stay:
            words(f"it was edited since; what it was before is still in {file}")
        if not any(change.to_do for change in changes):
            words(f"{wired.title} is not connected: nothing to change")
    if refused := [change for change in changes if change.action == "refused"]:
        for change in refused:
            words(_left_alone(change))
        raise ForeignFile(f"{len(refused)} files could not be changed safely")


def hook(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="session-start, pre-compact or session-end.")],
    agent: Annotated[str, typer.Option(metavar="AGENT", help="Which agent runs this.")] = "",
    folder: Dir = None,
) -> None:
    """What an agent's hooks run: never fails, and prints nothing but an answer to the agent.

    Example: replica hook session-start --agent claude-code
    """
    from cli.hook import main

    main([event, "--agent", agent, *(() if folder is None else ("--dir", os.fspath(folder)))])


# --- what is told


def _clone(folder: Path | None) -> Path:
    """The clone's folder; the command lines that we write name it. Raises NotAClone."""
    from replica.places import find_root

    root = find_root(root_of(folder))
    try:
        os.fspath(root).encode()
    except UnicodeEncodeError:
        raise ReplicaError(
            f"the name of the folder {os.fsencode(root)!r} is not UTF-8", hint="an agent's configuration is: rename it"
        ) from None
    return root


def _place(root: Path) -> "Place":
    from replica.agents.known import Place, project_of

    try:
        home = Path.home()
    except RuntimeError:
        raise ReplicaError("your home folder is not known", hint="set HOME") from None
    return Place(root, project_of(root, home), "project", home, os.environ)


def _refuse_documents(root: Path, changes: list["Change"]) -> None:
    """Raises ReplicaError: what would be written is shared, and holds paths of this machine."""
    from replica.agents import wiring

    if not any(change.to_do and change.file.is_relative_to(root) for change in changes):
        return
    with opened(root) as clone:
        found = wiring.documents(changes, root, lambda path: clone.rule(path) is not None)
    if found:
        folder = found[0].parent.relative_to(root).as_posix()
        raise ReplicaError(
            f"{found[0]} would be shared with all clones, and it holds paths of this machine; nothing was changed",
            hint=f'add "{folder}/**" to exclude in replica.toml, or take another --scope',
        )


def _to_ignore(place: "Place", files: list[Path]) -> list[str]:
    """What to keep from being committed: paths of this machine are no business of a team's."""
    from replica.agents.ignored import committable

    found = committable(place.project, files)
    if not found:
        return []
    return [f"keep from being committed (a line each in .git/info/exclude, or .gitignore): {', '.join(found)}"]


def _list(root: Path, json: bool) -> None:
    from replica.agents import known, wiring

    place, rows = _place(root), []
    for agent in known.AGENTS.values():
        state, scope = wiring.state(agent, place)
        rows.append({"agent": agent.name, "found": known.found(agent, place), "state": state, "scope": scope or None})
    if json:
        emit({"agents": rows})
        return
    shown = {"connected": "connected", "partly": "partly connected", "old": "connect it again", "no": "not connected"}
    table(
        [
            (row["agent"], "found" if row["found"] else "not found", shown[row["state"]], row["scope"] or "-")
            for row in rows
        ],
        ("agent", "here", "state", "scope"),
    )


def _report(agent: "Agent", place: "Place", changes: list["Change"], dry_run: bool) -> dict:
    return {
        "agent": agent.name, "scope": place.scope, "project": os.fspath(place.project), "dry_run": dry_run,
        "files": [
            {"path": os.fspath(change.file), "action": change.action, **({"why": change.why} if change.why else {})}
            for change in changes
        ],
    }  # fmt: skip


def _tell(changes: list["Change"], dry_run: bool) -> None:
    """The differences, on stdout as a `diff -u` is; then what became of each file."""
    for change in changes:
        for line in _difference(change) if change.to_do else ():
            typer.echo(line)
    for change in changes:
        if change.to_do:
            words(f"{change.file}: {'would be ' if dry_run else ''}{change.action}")


def _left_alone(change: "Change") -> str:
    why = (change.why or "it is not there").removeprefix(os.fspath(change.file)).lstrip(",: ")
    return f"{change.file}: left alone: {why}"


def _difference(change: "Change") -> list[str]:
    """Little around our lines: what else stands in the file may be secret."""
    import difflib

    before, after = ((held or b"").decode(errors="replace").splitlines() for held in (change.before, change.after))
    names = [os.devnull if held is None else os.fspath(change.file) for held in (change.before, change.after)]
    lines = difflib.unified_diff(before, after, *names, lineterm="", n=1)
    return [cell(line) if len(line) <= WIDEST or line[0] == "+" else cell(line[: WIDEST - 1]) + "…" for line in lines]
