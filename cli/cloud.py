"""Commands for cloud memory: export, push, pull, cloud, sinks."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import Dir, Json, counted, data, emit, iso_ms, one_line, opened, progress, publish, words
from replica.errors import ReplicaError, UsageError

if TYPE_CHECKING:
    from replica.clone import Clone
    from replica.cloud.configured import Configured
    from replica.cloud.export import Cut, Options, Report
    from replica.cloud.ledger import Ledger
    from replica.cloud.pull import Pulled

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[SINK]...", help="Names of sinks; without any, all of them.")
]
Scope = Annotated[
    str,
    typer.Option(
        metavar="SCOPE", help="all, insights, campaigns, sessions, decisions, patterns, a name of [scopes], or a glob."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be stored, and ask and change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Store what is unchanged, too.")]
Type = Annotated[str | None, typer.Option("--type", metavar="T", help="Give what is stored now this type.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="T", help="Give what is stored now this tag, too.")]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="P", help="Leave out documents, or a type.")]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many items a sink.")]
Unconverged = Annotated[
    bool, typer.Option("--allow-unconverged", help="Do not wait until the members in reach have it all.")
]
NONE_READABLE = "no sink can be read back; add one with `replica sinks add`"
SHOWN = 10  # items that a person sees of each kind


def export(
    names: Names = None, scope: Scope = "all", dry_run: DryRun = False, force: Force = False, type: Type = None,
    tag: Tags = None, exclude: Exclude = None, limit: Limit = None, allow_unconverged: Unconverged = False,
    folder: Dir = None, json: Json = False,
) -> None:  # fmt: skip
    """Store what is new or changed in cloud memory and vector stores.

    Only what the members in reach agree on is stored, each item once, however often it is run. Without any sink in
    replica.toml it goes to a Qdrant inside the clone.

    Example: replica export --dry-run
    """
    from replica.cloud.export import fitting_nothing

    options = _options(scope, force, type, tag, exclude, limit)
    with opened(folder) as clone:
        _take_in(clone)
        sinks = _chosen(clone, names)
        for line in fitting_nothing(clone, options):
            words(line)
        _export(clone, sinks, options, allow_unconverged, dry_run, json, "exported")


def push(
    names: Names = None, dry_run: DryRun = False, force: Force = False, limit: Limit = None,
    allow_unconverged: Unconverged = False, folder: Dir = None, json: Json = False,
) -> None:  # fmt: skip
    """Store what is new or changed in the services that can be read back.

    Example: replica push mem0
    """
    options = _options("all", force, None, None, None, limit)
    with opened(folder) as clone:
        _take_in(clone)
        _export(clone, _readable(clone, names), options, allow_unconverged, dry_run, json, "pushed")


def pull(names: Names = None, folder: Dir = None, json: Json = False) -> None:
    """Take in what was written or changed in the services.

    What changed on both sides waits in `replica conflicts`; what was taken away there waits for `replica accept`.

    Example: replica pull mem0
    """
    with opened(folder) as clone:
        _take_in(clone)
        with _ledger(clone) as ledger:
            pulled = _pull(clone, ledger, _readable(clone, names))
        publish(clone)
    if json:
        emit({"sinks": [_pulled(one) for one in pulled]})
    else:
        _say_pulled(pulled)
    _fail_pulled(pulled)


def cloud(
    names: Names = None,
    status: Annotated[bool, typer.Option("--status", help="Say what waits each way, and exchange nothing.")] = False,
    allow_unconverged: Unconverged = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Exchange with the services that can be read back: push, then pull.

    Example: replica cloud --status
    """
    with opened(folder) as clone:
        _take_in(clone)
        if status:
            _cloud_status(clone, names, json)
            return
        sinks = _readable(clone, names)
        with _ledger(clone) as ledger:
            cut = _cut(clone, ledger, sinks, allow_unconverged)
            reports = _run(clone, ledger, sinks, _options("all", False, None, None, None, None), cut, False, json)
            pulled = _pull(clone, ledger, sinks)
        publish(clone)
        if json:
            emit({"pushed": _whole(clone, reports, cut, False), "pulled": {"sinks": [_pulled(one) for one in pulled]}})
        else:
            _say(clone, reports, cut, False)
            if pulled:
                _say_pulled(pulled)
    _fail_exported(reports, "pushed")
    _fail_pulled(pulled)


# --- the parts of a run


def _options(scope, force, type, tag, exclude, limit) -> "Options":
    from replica.changes import MAX_META
    from replica.cloud.export import Options

    for value in (*([type] if type is not None else []), *(tag or [])):
        if not value.strip() or not value.isprintable() or len(value) > MAX_META:
            raise UsageError(f"{value!r} is no type or tag", hint=f"use up to {MAX_META} printable characters")
    return Options(scope, type, tuple(tag or ()), tuple(exclude or ()), limit, force)


def _take_in(clone: "Clone") -> None:
    """What was saved and not yet taken in belongs to it, replica.toml above all."""
    from replica.bridge import Bridge

    Bridge(clone).run(every=True)


def _chosen(clone: "Clone", names: list[str] | None) -> "list[Configured]":
    from replica.cloud import configured

    return configured.chosen(clone, list(names or []))


def _readable(clone: "Clone", names: list[str] | None) -> "list[Configured]":
    sinks = _chosen(clone, names)
    readable = [sink for sink in sinks if sink.of.reads_back]
    if names and len(readable) < len(sinks):
        other = next(sink for sink in sinks if not sink.of.reads_back)
        raise UsageError(
            f"what is in {other.name} ({other.type}) cannot be read back",
            hint=f"store there with `replica export {other.name}`",
        )
    return readable


@contextmanager
def _ledger(clone: "Clone"):
    """The ledger, for this process alone: two exports of one clone would not know of each other."""
    from replica.cloud.ledger import LOCK, Ledger
    from replica.disk import alone
    from replica.places import FOLDER

    with alone(clone.root / FOLDER / LOCK) as ours:
        if not ours:
            raise ReplicaError(
                "another command exchanges with the sinks just now", hint="run it again when that has ended"
            )
        with Ledger(clone.root) as ledger:
            yield ledger


def _export(clone, sinks, options, allow_unconverged: bool, dry_run: bool, json: bool, done: str) -> None:
    with _ledger(clone) as ledger:
        cut = _cut(clone, ledger, sinks, allow_unconverged or dry_run)
        reports = _run(clone, ledger, sinks, options, cut, dry_run, json)
    if json:
        emit(_whole(clone, reports, cut, dry_run))
    else:
        _say(clone, reports, cut, dry_run)
    _fail_exported(reports, done)


def _cut(clone: "Clone", ledger: "Ledger", sinks: "list[Configured]", everything: bool) -> "Cut":
    """Meet who is in reach; what all of them have is the cut. Nobody is met where nothing is new since last time."""
    from replica.cloud.export import Cut

    others = [m for m in clone.members() if m["id"] != clone.identity.id and m["removed_by"] is None]
    if not others or (not everything and _nothing_new(clone, ledger, sinks)):
        return Cut()
    from transport.cut import agree, lacking

    if everything:
        waiting = lacking(clone, others)
        return Cut(None, not waiting, tuple(waiting))
    vector, waiting = agree(clone)
    return Cut(vector, not waiting, tuple(waiting))


def _nothing_new(clone: "Clone", ledger: "Ledger", sinks: "list[Configured]") -> bool:
    ours = {author.hex(): seq for author, seq in clone.vector().items()}
    for sink in sinks:
        n = ledger.known_sink(sink.name, sink.target)
        last = n is not None and ledger.fact(n, "checkpoint")
        if not last or last["version"] != ours:
            return False
    return True


def _run(clone, ledger, sinks, options, cut, dry_run: bool, quiet: bool) -> "list[Report]":
    from replica.cloud import runs

    reports = []
    for sink in sinks:
        with progress(sink.name, quiet or dry_run) as tell:
            reports.append(runs.export_to(clone, ledger, sink, options, cut, dry_run=dry_run, progress=tell))
    return reports


def _pull(clone: "Clone", ledger: "Ledger", sinks: "list[Configured]") -> "list[Pulled]":
    from replica.cloud import runs

    return [runs.pull_from(clone, ledger, sink) for sink in sinks]


# --- what is said of it


def _whole(clone, reports, cut, dry_run: bool) -> dict:
    import time

    from replica.cloud import report

    return report.whole(reports, cut, clone.vector(), int(time.time() * 1000), dry_run=dry_run)


def _say(clone: "Clone", reports: "list[Report]", cut: "Cut", dry_run: bool) -> None:
    said = _whole(clone, reports, cut, dry_run)
    for one in said["sinks"]:
        _say_sink(one, dry_run)
    if not said["sinks"]:
        words(NONE_READABLE)
    if cut.waiting:
        waits = "; what they lack waits" if cut.vector is not None else ""
        words(f"not everything is acknowledged by {', '.join(cut.waiting)} yet{waits}")
    if not dry_run:
        when = said["next_sync"]
        words(f"next: {when['why']}" + (f" ({when['at']})" if when["at"] else ""))


def _say_sink(one: dict, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    counts = [f"{one[what]:,} {would}{what}" for what in ("new", "modified", "deleted") if one[what]]
    counts += [f"{one[what]:,} {what}" for what in ("unchanged", "skipped", "failed", "pending") if one[what]]
    data(f"{one['name']} ({one['type']}, {one['where']}): {', '.join(counts) or 'nothing to store'}")
    for item in one["items"][:SHOWN]:
        tags = f" [{', '.join(item['tags'])}]" if item["tags"] else ""
        note = f"  ({item['note']})" if item["note"] else ""
        data(f"  {item['action']:8} {item['type'] or '':20} {item['document']}: {item['preview']}{tags}{note}")
        if item["remote_id"] and item["remote_id"] != item["id"]:
            data(f"           there: {item['remote_id']}")
    _more(len(one["items"]))
    for reason, count in one["skipped_by_reason"].items():
        data(f"  skipped  {count:,}: {reason}")
    for failure in one["failures"][:SHOWN]:
        data(f"  failed   {failure['document']}: {failure['preview']}")
        data(f"           {failure['class']}: {failure['error']} (SHA-256 {failure['hash'][:12]})")
        if failure["remedy"]:
            data(f"           {_named(failure['remedy'], one['name'])}")
    _more(len(one["failures"]))
    if one["over_limit"]:
        data(f"  {one['over_limit']:,} more are over the limit of this run")
    for layer in one["layers"]:
        data(
            f"  {layer['kind']}: {layer['where']}: {layer['state']}" + (f" ({layer['detail']})" * bool(layer["detail"]))
        )
    if not dry_run:
        _say_capacity(one)
    if one["capacity"]["warning"]:
        words(f"{one['name']}: {one['capacity']['warning']}")


def _say_capacity(one: dict) -> None:
    held = one["capacity"]
    share = f" ({held['percent']} %)" if held["percent"] != "unknown" else ""
    data(f"  holds {held['items']} items of {held['limit']}{share}")
    was, now = (f"{iso_ms(at['time'])}, {at['items']:,} items" if at else "none" for at in one["checkpoint"].values())
    data(f"  checkpoint: {now} (before: {was})")


def _more(count: int) -> None:
    if count > SHOWN:
        data(f"  … and {count - SHOWN:,} more; see all of them with --json")


def _fail_exported(reports: "list[Report]", what: str) -> None:
    """Raise where something was not stored: what, how much of it, and the way out."""
    for report in reports:
        done, failed = len(report.done), len(report.failures)
        if report.ended is not None and not done:
            left = (
                f"; {counted(report.pending + failed, 'item waits', 'items wait')}" if report.pending + failed else ""
            )
            raise ReplicaError(f"{report.ended}{left}", hint=_named(report.ended.hint, report.name))
        if failed or report.pending:
            total = done + failed + report.pending
            why = report.ended.hint if report.ended is not None else report.failures[0].remedy
            left = f"{failed} failed" + (f", {report.pending} were not tried" if report.pending else "")
            raise ReplicaError(
                f"{what} {done} of {total} to {report.name}; {left}",
                hint=f"run again to retry; {_named(why, report.name)}",
            )
        if report.ended is not None:
            raise ReplicaError(str(report.ended), hint=_named(report.ended.hint, report.name))


def _named(hint: str, name: str) -> str:
    return hint.replace("NAME", name)


def _pulled(one: "Pulled") -> dict:
    def rows(found: list[tuple[str, str]]) -> list[dict]:
        return [{"document": document, "preview": text} for document, text in found]

    return {
        "name": one.name, "type": one.type, "added": rows(one.added), "edited": rows(one.edited),
        "conflicts": rows(one.conflicts), "deletions": rows(one.deletions), "unchanged": one.unchanged,
        "skips": [{"preview": text, "reason": why} for text, why in one.skips],
        "error": None if one.ended is None else {
            "class": one.ended.trouble.value, "error": str(one.ended), "remedy": one.ended.hint,
        },
    }  # fmt: skip


def _say_pulled(pulled: "list[Pulled]") -> None:
    if not pulled:
        words(NONE_READABLE)
    for one in pulled:
        counts = [
            f"{len(found):,} {what}" for found, what in (
                (one.added, "new"), (one.edited, "edited there, and now here"), (one.conflicts, "in conflict"),
                (one.deletions, "taken away there"), (one.skips, "skipped"),
            ) if found
        ]  # fmt: skip
        data(f"{one.name} ({one.type}): {', '.join(counts) or 'nothing new'}")
        for what, found in (
            ("new", one.added),
            ("edited", one.edited),
            ("conflict", one.conflicts),
            ("gone", one.deletions),
        ):
            for document, text in found[:SHOWN]:
                data(f"  {what:8} {document}: {text}")
        for text, why in one.skips[:SHOWN]:
            data(f"  skipped  {one_line(text, 60)}: {why}")
        if one.conflicts:
            words("what changed on both sides waits: see `replica conflicts`")
        if one.deletions:
            words(
                "taken away there, still here: `replica accept` takes it away, `replica reject` stores it there again"
            )


def _fail_pulled(pulled: "list[Pulled]") -> None:
    for one in pulled:
        if one.ended is not None:
            raise ReplicaError(str(one.ended), hint=_named(one.ended.hint, one.name))


def _cloud_status(clone: "Clone", names: list[str] | None, json: bool) -> None:
    from replica.cloud import runs
    from replica.cloud.ledger import Ledger

    rows = []
    with Ledger(clone.root) as ledger:  # also while another process exports: it is only read
        for sink in _chosen(clone, names):
            todo = runs.waiting(clone, ledger, sink)
            n = ledger.sink(sink.name, sink.target)
            proposals = ledger.proposals(n)
            rows.append({
                "name": sink.name, "type": sink.type, "where": sink.where, "reads_back": sink.of.reads_back,
                "stored": ledger.stored(n),
                "out": {what: todo.count(what) for what in ("new", "modified", "deleted")},
                "skipped": len(todo.skips),
                "in": {"conflicts": sum(one.kind == "edit" for one in proposals),
                       "deletions": sum(one.kind == "delete" for one in proposals)},
                "failed": [
                    {"id": str(row.id), "document": row.document, "class": row.trouble, "error": row.error,
                     "remedy": row.hint, "tries": row.tries} for row in ledger.failed(n)
                ],
                "last_export": iso_ms(ledger.fact(n, "ran")), "last_pull": iso_ms(ledger.fact(n, "pulled")),
                "error": ledger.fact(n, "error"), "checkpoint": ledger.fact(n, "checkpoint"),
            })  # fmt: skip
    if json:
        emit({"sinks": rows})
        return
    for row in rows:
        out = ", ".join(f"{count:,} {what}" for what, count in row["out"].items() if count) or "nothing"
        data(f"{row['name']} ({row['type']}, {row['where']}): {row['stored']:,} stored; waits to go out: {out}")
        waits = ", ".join(f"{count:,} {what}" for what, count in row["in"].items() if count)
        if waits:
            data(f"  waits for you: {waits}")
        for what in ("last_export", "last_pull"):
            data(f"  {what.replace('_', ' ')}: {row[what] or 'never'}")
        for failure in row["failed"][:SHOWN]:
            data(f"  failed {failure['tries']} times: {failure['document']}: {failure['error']}")
        if row["error"]:
            data(f"  last error: {row['error']}")


# --- the sinks

sinks = typer.Typer(
    invoke_without_command=True, rich_markup_mode=None, context_settings={"help_option_names": ["--help", "-h"]},
    help="""Where converged memory goes: list them, add, test, remove.

    They stand in replica.toml, and so on every clone. Keys never do: they come from the environment or from the keyring
    of the system.

    Example: replica sinks add team --type mem0
    """,
)  # fmt: skip
Name = Annotated[str, typer.Argument(metavar="NAME", help="The sink's name.")]


@sinks.callback()
def _list(context: typer.Context, folder: Dir = None, json: Json = False) -> None:
    if context.invoked_subcommand is not None:
        return
    from replica.cloud import configured

    with opened(folder) as clone:
        _take_in(clone)
        found = configured.all_of(clone)
        default = not clone.config.sinks
        rows = [{"name": one.name, "type": one.type, "where": one.where, "settings": one.values,
                 "reads_back": one.of.reads_back, "default": default} for one in found.values()]  # fmt: skip
    if json:
        emit({"sinks": rows})
        return
    for row in rows:
        data(f"{row['name']}  {row['type']}  {row['where']}")
    if default:
        words("no sink is set up: exports go to a Qdrant inside this clone")


@sinks.command(name="add")
def add_sink(
    name: Name,
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help="qdrant, pinecone, mem0, jsonl, and others.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as url=https://host.")
    ] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Add a sink to replica.toml.

    Example: replica sinks add store --type qdrant --set url=http://localhost:6333
    """
    from replica.cloud import configured
    from replica.cloud.ledger import Ledger
    from replica.cloud.sinks import kind

    kind(type)
    keys = {"type": type, **dict(_setting(type, one) for one in settings or [])}
    with opened(folder) as clone:
        _take_in(clone)
        _write_config(clone, lambda text: configured.with_sink(text, name, keys))
        found = configured.chosen(clone, [name])[0]
        with Ledger(clone.root) as ledger:
            configured.approve(clone, ledger, found)
        variable = found.values.get("key_env") or found.of.key_name
        publish(clone)
    if json:
        emit({"name": name, "type": type, "settings": found.values})
        return
    need = f"set {variable}, then try it" if variable and found.of.key_needed else "try it"
    words(f"added; {need}: replica sinks test {name}")


def _setting(type: str, given: str) -> tuple[str, object]:
    from replica.cloud import configured
    from replica.cloud.sinks import kind

    key, equals, value = given.partition("=")
    if not equals or not key:
        raise UsageError(f"{given!r} is no setting", hint="write --set KEY=VALUE, such as --set collection=memory")
    allowed = {**configured.COMMON, **kind(type).settings_of}
    wanted = allowed[key].kind if key in allowed else str
    if wanted is int and value.lstrip("-").isdigit():
        return key, int(value)
    if wanted is bool and value in ("true", "false"):
        return key, value == "true"
    if wanted is dict:
        return key, _table(given, value)
    return key, value


def _table(given: str, value: str) -> object:
    import tomllib

    try:
        return tomllib.loads(f"table = {value}")["table"]
    except tomllib.TOMLDecodeError:
        raise UsageError(
            f"{given!r} needs a table", hint="such as --set 'scopes={ decision = \"team-decisions\" }'"
        ) from None


@sinks.command(name="test")
def test_sink(name: Name, folder: Dir = None, json: Json = False) -> None:
    """Reach a sink and prove its key, without storing anything. Also agrees to a sink that another clone has set up.

    Example: replica sinks test mem0
    """
    from replica.cloud import configured, runs
    from replica.cloud.ledger import Ledger

    with opened(folder) as clone:
        _take_in(clone)
        found = configured.chosen(clone, [name])[0]
        with Ledger(clone.root) as ledger:
            _agree(clone, ledger, found)
        with_vectors = runs.embedder_of(found) if found.of.wants_vectors else None
        place = runs.opened(clone, found, with_vectors)
        try:
            said = place.test()
        finally:
            place.close()
    if json:
        emit({"name": name, "type": found.type, "answer": said, "embedder": with_vectors.id if with_vectors else None})
    else:
        data(f"{name} ({found.type}): {said}")


def _agree(clone: "Clone", ledger: "Ledger", sink: "Configured") -> None:
    """Ask a person whether memory may go to a place that somebody else has set. Scripts agree by running this."""
    from cli.common import confirmed
    from replica.cloud import configured

    try:
        configured.require_approval(clone, ledger, sink)
    except configured.NotApproved as error:
        words(str(error))
        if not confirmed(f"May memory of this clone go to {configured.goes_to(sink)}?", False):
            raise
        configured.approve(clone, ledger, sink)


@sinks.command(name="remove")
def remove_sink(name: Name, folder: Dir = None, json: Json = False) -> None:
    """Take a sink out of replica.toml. What was stored there stays there.

    Example: replica sinks remove team
    """
    from replica.cloud import configured

    with opened(folder) as clone:
        _take_in(clone)
        _write_config(clone, lambda text: configured.without_sink(text, name))
        publish(clone)
    if json:
        emit({"removed": name})
    else:
        words(f"removed {name}; what was stored there stays there")


def _write_config(clone: "Clone", change) -> None:
    """Edit replica.toml as a person would, and take it in."""
    import os

    from replica.bridge import Bridge
    from replica.places import CONFIG

    path: Path = clone.root / CONFIG
    try:
        old = path.read_text("utf-8")
    except FileNotFoundError:
        old = ""
    beside = path.with_name(f".{CONFIG}.replica-new")
    beside.write_text(change(old), "utf-8")
    os.replace(beside, path)
    Bridge(clone).run(every=True, wait=True)
