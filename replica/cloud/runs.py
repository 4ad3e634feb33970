"""Runs over sinks: each is opened, asked, told and closed, and what goes wrong with one is no other's trouble."""

import time
from collections.abc import Callable

from replica.clone import Clone
from replica.cloud import configured, export
from replica.cloud.base import Layer, Sink, SinkError, Trouble
from replica.cloud.configured import Configured, NotApproved
from replica.cloud.embed import Embedder
from replica.cloud.export import Cut, Options, Plan, Progress, Report
from replica.cloud.ledger import Ledger
from replica.cloud.pull import Pulled, pull
from replica.errors import ConfigError, ReplicaError, UsageError
from replica.log import Vector
from replica.places import FOLDER


def export_to(
    clone: Clone, ledger: Ledger, sink: Configured, options: Options, cut: Cut, *, dry_run: bool = False,
    progress: Progress = lambda done, total: None, sleep: Callable[[float], None] = time.sleep,
) -> Report:  # fmt: skip
    """Export to one sink. Whatever is wrong with it is in the report.

    Raises UsageError: the options are wrong.
    """
    report = Report(sink.name, sink.type, sink.where, dry=dry_run)
    with_vectors = None
    try:
        configured.require_approval(clone, ledger, sink)
        n = ledger.sink(sink.name, sink.target)
        report.before = ledger.fact(n, "checkpoint")
        if sink.of.wants_vectors:
            with_vectors = embedder_of(sink)
            report.embedder = with_vectors.id
            if not dry_run:
                ledger.note(n, "embedder", report.embedder)
        level, vector = sink.values["level"], clone.vector()
        report.planned = export.plan(clone, ledger, n, sink.type, level, options, cut, report.embedder)
        report.after = report.before
        if dry_run:
            return report
        place = opened(clone, sink, with_vectors)
        try:
            export.run(
                clone, ledger, n, place, report.planned, report, level=level, embedder=with_vectors, progress=progress,
                sleep=sleep,
            )  # fmt: skip
        finally:
            place.close()
        report.layers.append(_local_index(clone))
        report.after = _checkpoint(ledger, n, report, options, cut, vector)
    except (SinkError, NotApproved, ConfigError) as error:
        report.ended = as_trouble(error)
        report.pending = 0 if dry_run else len(report.planned.changes)
        _note_error(ledger, sink, error)
    finally:
        if with_vectors is not None:
            with_vectors.close()
    return report


def _local_index(clone: Clone) -> Layer:
    """What `replica recall` searches; it follows by itself when it is asked."""
    from replica.cloud.index import FILE

    there = (clone.root / FOLDER / FILE).exists()
    return Layer("local index", f"{FOLDER}/{FILE}", "ok" if there else "not there yet: `replica recall` makes it")


def as_trouble(error: ReplicaError) -> SinkError:
    """What is wrong with a sink here, as what is wrong with it there: the other sinks go on."""
    return error if isinstance(error, SinkError) else SinkError(Trouble.AUTH, str(error), hint=error.hint)


def embedder_of(sink: Configured) -> Embedder:
    """What makes the sink's vectors. Raises SinkError, ConfigError."""
    from replica.cloud.embed import embedder

    spec = sink.values["embedder"]
    found = embedder(spec)
    if found is None:
        raise ConfigError(
            f"[sinks.{sink.name}]: {sink.type} stores vectors, and `embedder` is {spec!r}",
            hint="choose auto, hash, minilm, or openai:MODEL@URL",
        )  # fmt: skip
    return found


def opened(clone: Clone, sink: Configured, with_vectors: Embedder | None) -> Sink:
    if with_vectors is None:
        return configured.opened(clone, sink)
    return configured.opened(clone, sink, dimension=with_vectors.dimension, embedder=with_vectors.id)


def _checkpoint(
    ledger: Ledger, n: int, report: Report, options: Options, cut: Cut, vector: Vector
) -> dict | None:  # fmt: skip
    """How far this sink is: only a run that was asked for all of it, and left nothing undone, moves it on.

    What was exported without asking the members does not, so that the next run asks them.

    `vector`: the log as it was before the run. What has come since is not in it.
    """
    now = int(time.time() * 1000)
    asked_for_all = options.scope == "all" and not options.exclude and (cut.converged or cut.vector is not None)
    whole = (
        asked_for_all
        and report.ended is None
        and not report.failures
        and not report.pending
        and not report.planned.later
    )
    ledger.note(n, "ran", now)
    ledger.note(n, "error", None if report.ended is None else str(report.ended))
    if not whole:
        return report.before
    after = {
        "time": now, "version": {author.hex(): seq for author, seq in sorted((cut.vector or vector).items())},
        "items": ledger.stored(n),
    }  # fmt: skip
    ledger.note(n, "checkpoint", after)
    return after


def pull_from(clone: Clone, ledger: Ledger, sink: Configured) -> Pulled:
    """Pull from one sink. Whatever is wrong with it is in what comes back.

    Raises UsageError: it cannot be read back.
    """
    if not sink.of.reads_back:
        raise UsageError(f"what is in {sink.name} ({sink.type}) cannot be read back", hint="it takes exports alone")
    result = Pulled(sink.name, sink.type)
    try:
        configured.require_approval(clone, ledger, sink)
        n = ledger.sink(sink.name, sink.target)
        with_vectors = embedder_of(sink) if sink.of.wants_vectors else None
        place = opened(clone, sink, with_vectors)
        try:
            place.prepare()
            return pull(clone, ledger, n, place, configured.into(sink), result)
        finally:
            place.close()
            if with_vectors is not None:
                with_vectors.close()
    except (SinkError, NotApproved, ConfigError) as error:
        result.ended = as_trouble(error)
        _note_error(ledger, sink, error)
    return result


def _note_error(ledger: Ledger, sink: Configured, error: ReplicaError) -> None:
    n = ledger.known_sink(sink.name, sink.target)
    if n is not None:
        ledger.note(n, "error", str(error))


def waiting(clone: Clone, ledger: Ledger, sink: Configured) -> Plan:
    """What an export would do now, without asking anybody."""
    n = ledger.sink(sink.name, sink.target)
    embedder = ledger.fact(n, "embedder") or ""  # to ask an embedder for its id may be a call
    return export.plan(clone, ledger, n, sink.type, sink.values["level"], Options(), Cut(), embedder)
