"""Commands for a stretch of work: start, save."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import Dir, Json, counted, data, emit, opened, root_of, words
from replica.errors import ReplicaError
from transport import control

if TYPE_CHECKING:
    from pathlib import Path

# A running node meets for a second or five, and looks at the files twice; a large folder takes its time.
ANSWER = 60.0  # seconds


def start(
    persona: Annotated[
        str | None,
        typer.Option(metavar="NAME", help='In which role you work here; remembered. "" forgets it.'),
    ] = None,
    format: Annotated[str, typer.Option(metavar="FORMAT", help="text, markdown, or json.")] = "text",
    max_chars: Annotated[
        int, typer.Option("--max-chars", metavar="N", help="The longest that the page may be, in characters.")
    ] = 10_000,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Begin to work: take in what peers have, and print what you need to go on.

    The active context, what others changed since the last session, open conflicts, buffers to harvest, decisions that
    wait. Waits for peers for a second at most. What members wrote is quoted, with its origin.

    Example: replica start --persona ledger
    """
    asked = {"persona": persona, "format": "json" if json else format, "most": max_chars}
    _ask(folder, "start", asked, lambda answer: typer.echo(answer["page"], nl=False))


def save(
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", metavar="MESSAGE", help="What was done; by default a summary of the changes."),
    ] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """End a stretch of work: take in the files, note it in the session log, exchange with who is in reach.

    Example: replica save -m "Retries have jitter now"
    """
    from cli.common import text_or_stdin

    said = None if message is None else text_or_stdin(message)
    _ask(folder, "save", {"message": said}, emit if json else _tell_save)


def _ask(folder: "Path | None", request: str, asked: dict[str, Any], tell: Callable[[dict], None]) -> None:
    """Tell what the running node answers, or a node of our own for as long as it takes."""
    answer = control.ask(root_of(folder), request, timeout=ANSWER, **asked)
    if answer is not None:
        tell(answer)
    else:
        import asyncio

        answer = asyncio.run(_alone(folder, request, asked, tell))
    if failed := answer.get("failed"):
        error = ReplicaError(failed["error"])
        error.hint = failed["hint"]
        raise error


def begin(root: "Path", tell: Callable[[dict], None], **asked: Any) -> None:
    """As `start`, for a program: `tell` gets the answer as soon as it is there. Raises ReplicaError."""
    _ask(root, "start", asked, tell)


async def _alone(folder: "Path | None", request: str, asked: dict[str, Any], tell: Callable[[dict], None]) -> dict:
    """`tell` comes before the goodbyes of our node, which take a quarter of a second."""
    from cli.peers import started
    from transport import workday
    from transport.node import Node, Options

    work, patience = {"start": (workday.start, workday.BRIEF), "save": (workday.save, workday.THOROUGH)}[request]
    with opened(folder) as clone:
        node = Node(clone, Options(files=False, serve=False, announce=request != "start"))
        running = await started(node)
        try:
            answer = await work(node, patience, **asked)
            tell(answer)
            return answer
        finally:
            node.stop()
            await running


def _tell_save(report: dict[str, Any]) -> None:
    def listed(title: str, paths: list[str]) -> None:
        if paths:
            data(f"{title}: {', '.join(paths)}")

    listed("taken in", report["taken"])
    listed("written", report["written"])
    listed("deleted here, and so everywhere", report["deleted"])
    listed("deleted elsewhere, and so here", report["removed"])
    if report["line"]:
        data(f"{report['document']}: {report['line']}")
    elif report["failed"]:
        pass  # it is told at the end
    elif report["resting"]:
        words("no line was noted: nothing can be written here until this clone has met a member")
    elif report["log"] is None:
        words("no line was noted: no rule of replica.toml makes SESSION_LOG.md a log")
    else:
        words("no line was noted: nothing has changed since the session began, and there is no message")
    for path, what in report["held"].items():
        words(f"held back: {path}: {what}")
    if report["held"]:
        words("`replica status` lists what is held; `replica accept` and `replica reject` decide on it")
    for path, why in report["skipped"].items():
        words(f"passed over: {path}: {why}")
    for line in report["tidied"]:
        words(line)
    for problem in report["problems"]:
        words(problem["message"] + (f" ({problem['hint']})" if problem["hint"] else ""))
    for peer in report["peers"]:
        data(f"{peer['name']}: {_reached(peer)}")
    if not report["peers"]:
        words("nobody else belongs to this workspace yet (`replica invite`)")


def _reached(peer: dict[str, Any]) -> str:
    sent = f"got {counted(peer['sent'], 'change')}" if peer["sent"] else "got nothing new"
    if peer["in_step"]:
        return f"{sent} and has everything" if peer["sent"] else "has everything"
    waits = f"{counted(peer['waiting'], 'change')} wait" + ("s" if peer["waiting"] == 1 else "")
    if peer["online"]:
        return f"{sent}, not yet in step; {waits}"
    return f"out of reach; {waits}" if peer["waiting"] else "out of reach; nothing waits"
