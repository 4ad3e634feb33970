"""Commands for session logs: compare, backfill."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    Dir,
    Json,
    counted,
    data,
    emit,
    folder_name,
    one_line,
    opened,
    progress,
    publish,
    root_of,
    table,
    words,
)
from replica.errors import NotAClone, ReplicaError, UsageError

if TYPE_CHECKING:
    from replica.bridge import Report
    from replica.clone import Clone
    from replica.sessions.backfill import Compared, Day, Documents, Files
    from replica.sessions.base import Damage, Event
    from replica.sessions.days import Zone
    from replica.sessions.index import Index, Select

Agent = Annotated[
    list[str] | None, typer.Option("--agent", metavar="A", help="Logs of this agent only; may be given several times.")
]
SessionsDir = Annotated[
    Path | None,
    typer.Option(
        "--sessions-dir",
        metavar="D",
        parser=folder_name,
        help="All logs below this folder, in place of the usual ones.",
    ),
]
MemoryDir = Annotated[
    Path | None,
    typer.Option(
        "--memory-dir",
        metavar="D",
        parser=folder_name,
        help="The folder of the daily files; it need not be in a clone.",
    ),
]
Timezone = Annotated[
    str | None,
    typer.Option(metavar="Z", help="Where days end, such as Europe/Berlin; by default as replica.toml says, or here."),
]
Everywhere = Annotated[
    bool, typer.Option("--everywhere", help="Also sessions that worked in other folders than this project's.")
]
SHOWN = 10  # damaged lines that a person sees


def compare(
    sessions_dir: SessionsDir = None,
    memory_dir: MemoryDir = None,
    agent: Agent = None,
    timezone: Timezone = None,
    since: Annotated[str | None, typer.Option(metavar="DAY", help="Only this day and later ones.")] = None,
    everywhere: Everywhere = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Say what the agents' session logs hold that memory lacks, day by day, gaps first.

    missing: no file; sparse: made from fewer messages than there are; hand-written: nothing was generated there.

    Example: replica compare --since 2026-04-01
    """
    from replica.sessions import backfill as filling
    from replica.sessions import days

    with _work(folder, memory_dir, sessions_dir, agent, timezone, everywhere, json) as work:
        first = None if since is None else days.day(since, work.zone.info)
        found = filling.compare(work, work.memory, days.today(work.zone.info), first)
        if json:
            emit({
                "days": [_compared(one) for one in found], "damaged": [_damaged(one) for one in work.damaged],
                "timezone": {"name": work.zone.name, "source": work.zone.source}, "left_out": work.left_out,
            })  # fmt: skip
            return
        rows = [
            (
                one.date,
                f"{one.messages:,}",
                f"{one.sessions:,}",
                one.memory + (" (today)" if one.today else ""),
                one.path,
            )
            for one in found
        ]
        table(rows, ("day", "messages", "sessions", "memory", "file"))
        _say_totals(found)
        work.say()


def backfill(
    day: Annotated[
        str | None, typer.Argument(metavar="[DATE]", help="2026-04-14, today, yesterday, or 3d (three days ago).")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every day that the logs know.")] = False,
    since: Annotated[str | None, typer.Option(metavar="DAY", help="This day and all later ones.")] = None,
    today: Annotated[bool, typer.Option("--today", help="The day that is now.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where the generated part was edited, or is complete.")
    ] = False,
    preserve: Annotated[
        bool, typer.Option("--preserve", help="Also files written by hand: the generated part goes above them.")
    ] = False,
    summarize: Annotated[
        bool,
        typer.Option("--summarize", help="Add a summary by a language model; needs a key, and sends the day there."),
    ] = False,
    model: Annotated[str | None, typer.Option(metavar="M", help="The model that summarises.")] = None,
    agent: Agent = None,
    sessions_dir: SessionsDir = None,
    memory_dir: MemoryDir = None,
    timezone: Timezone = None,
    everywhere: Everywhere = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Write daily memory files, YYYY-MM-DD.md, out of the agents' session logs.

    What is there and incomplete is updated, line by line; what stands below the footer of a file is never touched.

    Example: replica backfill yesterday --dry-run
    """
    from replica.sessions import backfill as filling

    if sum([day is not None, all, since is not None, today]) != 1:
        raise UsageError("say which days are meant", hint="give one of DATE, --all, --since DAY, --today")
    if model is not None and not summarize:
        raise UsageError("--model names the model that summarises", hint="give --summarize, too")
    with _work(folder, memory_dir, sessions_dir, agent, timezone, everywhere, json) as work:
        wanted = _wanted(work, day, since, today)
        summarise = _summariser(work, model) if summarize else None
        # What would change is shown without sending the day anywhere.
        options = filling.Options(force, preserve, None if dry_run else summarise)
        folders = work.index.folders()
        done = [
            filling.backfill(work.memory, one, work.events(one), work.zone.info, folders, options, dry_run=dry_run)
            for one in wanted
        ]
        written = [one.path for one in done if one.action in ("created", "updated")]
        if work.clone is not None and not dry_run and (written or work.tidied):
            from replica.tidy import tidy

            tidy(work.clone)
            publish(work.clone, *written, at_once=True)
        redacted = {one.date: work.redacted(date.fromisoformat(one.date)) for one in done}
        if json:
            emit({
                "days": [_filled(one, redacted[one.date].total(), dry_run) for one in done],
                "damaged": [_damaged(one) for one in work.damaged], "dry_run": dry_run,
                "timezone": {"name": work.zone.name, "source": work.zone.source}, "left_out": work.left_out,
            })  # fmt: skip
            return
        for one in done:
            _say_day(one, dry_run)
        _say_filled(done, redacted, dry_run)
        if dry_run and summarise is not None:
            words("no model was asked: summaries are made when the days are written")
        work.say()


# --- what both need


@dataclass
class _Work:
    """The logs that are meant, read; and the memory folder that is meant."""

    clone: "Clone | None"
    memory: "Documents | Files"
    index: "Index"
    select: "Select"
    zone: "Zone"
    damaged: "list[Damage]"
    left_out: int
    tidied: list[str]
    logs: int  # how many were found
    looked_in: str

    def days(self) -> list[tuple[date, int, int]]:
        return [tuple(one) for one in self.index.days(self.zone.info, self.select)]

    def events(self, day: date) -> "list[Event]":
        return self.index.events(day, self.zone.info, self.select)

    def redacted(self, day: date) -> Counter:
        return self.index.redacted(day, self.zone.info, self.select)

    def say(self) -> None:
        """What a person should know of how it was found."""
        advice = "" if self.clone is None or self.zone.source != "this host" else "; sessions.timezone in replica.toml"
        advice += " makes it the same on all clones" if advice else ""
        words(f"days end at midnight in {self.zone.name} ({self.zone.source}{advice})")
        if not self.logs:
            words(f"no session logs were found {self.looked_in}")
        if self.left_out:
            words(
                f"{counted(self.left_out, 'session')} of other folders left out"
                " (--everywhere takes them, --sessions-dir names a folder of logs)"
            )
        for one in self.damaged[:SHOWN]:
            words(f"damaged: {one.file}{f', line {one.line}' if one.line else ''}: {one.reason}")
        if len(self.damaged) > SHOWN:
            words(f"and {counted(len(self.damaged) - SHOWN, 'damaged place')} more (--json lists them)")
        for line in self.tidied:
            words(line)


@contextmanager
def _work(
    folder: Path | None, memory_dir: Path | None, sessions_dir: Path | None, agents: list[str] | None,
    timezone: str | None, everywhere: bool, quiet: bool,
) -> Iterator[_Work]:  # fmt: skip
    """Take in the files, read what is new in the logs."""
    from replica.sessions import days, discover
    from replica.sessions.backfill import Documents, Files
    from replica.sessions.index import Index, Select, file_of, project_of

    for name in agents or []:
        if name not in discover.AGENTS:
            raise UsageError(f"no agent {name!r} is known", hint=f"it is one of {', '.join(discover.AGENTS)}")
    if memory_dir is not None and memory_dir.exists() and not memory_dir.is_dir():
        raise UsageError(
            f"{memory_dir} is no folder", hint="name the one that holds the daily files, or is to hold them"
        )
    root = _root(folder, memory_dir)
    with ExitStack() as stack:
        clone = stack.enter_context(opened(root)) if root is not None else None
        tidied: list[str] = []
        if clone is not None:
            report, tidied = _take_in(clone)
            memory = Documents(clone, _below(clone, memory_dir), {**report.held, **report.skipped})
            if not memory.shared:
                _say_unshared(memory)
        else:
            memory = Files(memory_dir.absolute())
        zone = days.zone(timezone, clone.config.sessions.timezone if clone is not None else None)
        unreadable: list[Damage] = []
        logs = discover.discover(agents, sessions_dir, unreadable)
        index = stack.enter_context(Index.open(file_of(clone.root) if clone is not None else _passing(stack)))
        with progress("session logs", quiet) as tell:
            scanned = index.scan(logs, tell)
        project = project_of(clone.root if clone is not None else _project_of_notes(memory_dir))
        select = Select(
            frozenset(agents) if agents else None,
            None if everywhere or sessions_dir is not None else project.resolve(),
            None if sessions_dir is None else sessions_dir.absolute(),
        )
        left_out = index.left_out(select)
        looked_in = "where agents keep them" if sessions_dir is None else f"in {sessions_dir}"
        damaged = unreadable + scanned.damaged
        yield _Work(clone, memory, index, select, zone, damaged, left_out, tidied, len(logs), looked_in)


def _root(folder: Path | None, memory_dir: Path | None) -> Path | None:
    """The clone that is meant; None: the memory folder is in none."""
    from replica.places import find_root

    if memory_dir is None:
        try:
            return root_of(folder)
        except NotAClone as error:
            error.hint = "make one with `replica init`, or name any folder with --memory-dir"
            raise
    try:
        return find_root(memory_dir)
    except NotAClone:
        return None


def _below(clone: "Clone", memory_dir: Path | None) -> str | None:
    if memory_dir is None:
        return None
    relative = memory_dir.resolve().relative_to(clone.root.resolve()).as_posix()
    return "" if relative == "." else relative


def _project_of_notes(memory_dir: Path) -> Path:
    """Whose daily notes a folder holds: those of the one around it."""
    return memory_dir.absolute().parent


def _passing(stack: ExitStack) -> Path:
    """An index for this time, where there is no clone to keep one."""
    import tempfile

    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replica-"))) / "sessions.db"


def _take_in(clone: "Clone") -> "tuple[Report, list[str]]":
    """What was saved and not yet taken in comes first; and what clones wrote twice becomes one."""
    from replica.bridge import Bridge
    from replica.tidy import tidy

    report = Bridge(clone).run(every=True, wait=True)
    tidied = tidy(clone)
    return report, tidied.lines() if tidied.changed else []


def _say_unshared(memory: "Documents") -> None:
    glob = f"{memory.folder}/*.md" if memory.folder else "????-??-??.md"
    if memory.clone.config.excluded(memory.path("2026-01-01")):
        words(f"replica.toml excludes {memory.path('YYYY-MM-DD')}: it stays on this clone")
        return
    words(
        f"no rule of replica.toml shares {memory.path('YYYY-MM-DD')}: it stays on this clone; to share it, add:"
        f' [[documents]] glob = "{glob}" policy = "text"'
    )


def _wanted(work: _Work, day: str | None, since: str | None, today: bool) -> list[date]:
    from replica.sessions import days

    where = work.zone.info
    if today:
        return [days.today(where)]
    if day is not None:
        return [days.day(day, where)]
    known = [found for found, _, _ in work.days()]
    first = date.min if since is None else days.day(since, where)
    return [found for found in known if found >= first]


def _summariser(work: _Work, model: str | None) -> "Callable[[str, list[Event], str], str]":
    """Raises ReplicaError: no model can be asked."""
    try:
        from replica.sessions import summarise
    except ImportError:
        raise ReplicaError("this version cannot summarise", hint="leave out --summarize") from None
    options = summarise.Options(model=model, zone=work.zone.info)
    summarise.model_of(options)
    return lambda day, events, existing: summarise.summarise(day, events, existing, options)


# --- what is said


def _compared(one: "Compared") -> dict[str, Any]:
    return {
        "date": one.date, "messages": one.messages, "sessions": one.sessions, "memory": one.memory, "path": one.path,
        "today": one.today,
    }  # fmt: skip


def _damaged(one: "Damage") -> dict[str, Any]:
    return {"file": one.file, "line": one.line, "reason": one.reason}


def _filled(one: "Day", redacted: int, dry_run: bool) -> dict[str, Any]:
    told = {
        "date": one.date, "action": one.action, "messages": one.messages, "models": list(one.models),
        "redacted": redacted, "path": one.path,
    }  # fmt: skip
    if one.reason:
        told["reason"] = one.reason
    return {**told, "diff": "".join(_diff(one))} if dry_run else told


def _say_totals(found: "list[Compared]") -> None:
    states = Counter(one.memory for one in found if one.messages and not one.today)
    listed = ", ".join(
        f"{states[state]:,} {state}" for state in ("missing", "sparse", "hand-written", "complete") if states[state]
    )
    messages = sum(one.messages for one in found)
    if not found:
        words("the logs hold no messages, and memory has no daily files")
        return
    words(f"{counted(len(found), 'day')}, {counted(messages, 'message')}{f': {listed}' if listed else ''}")
    if states["missing"] or states["sparse"]:
        words("write them with: replica backfill --all")


def _diff(one: "Day") -> Iterator[str]:
    from difflib import unified_diff

    old, new = (text.splitlines(keepends=True) for text in (one.old, one.new))
    for line in unified_diff(old, new, one.path if one.old else "/dev/null", one.path):
        yield line if line.endswith("\n") else f"{line}\n\\ no newline at the end\n"


def _say_day(one: "Day", dry_run: bool) -> None:
    if dry_run:
        for line in _diff(one):
            data(line.rstrip("\r\n"))
    verb = {"created": "would be created", "updated": "would be updated"}.get(one.action) if dry_run else None
    models = f", {one_line(', '.join(one.models), 80)}" if one.models else ""
    (words if dry_run else data)(
        f"{verb or one.action}: {one.path} ({counted(one.messages, 'message')}{models})"
        + (f": {one.reason}" if one.reason else "")
    )


def _say_filled(done: "list[Day]", redacted: dict[str, Counter], dry_run: bool) -> None:
    secrets = sum((redacted[one.date] for one in done if one.action in ("created", "updated")), Counter())
    if secrets:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(secrets.items()))
        words(f"{counted(secrets.total(), 'secret')} taken out: {kinds}")
    if not any(one.action in ("created", "updated") for one in done):
        words("nothing to do" if done else "nothing to do: the logs hold no messages of these days")
