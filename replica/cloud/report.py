"""What an export has to say, as plain data for scripts, a page or an agent. cli/cloud.py makes words of it."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from replica.cloud.base import Capacity, Trouble
from replica.cloud.export import Cut, Report
from replica.cloud.items import WAITS, preview
from replica.log import Vector

NEAR = 0.9  # of a service's limit: from here on a person is warned


def of_sink(report: Report) -> dict[str, Any]:
    """One sink of `export --json`. Of a dry run `items` are what would be done."""
    todo = report.planned
    done = [(change, None) for change in todo.changes] if report.dry else report.done
    return {
        "name": report.name, "type": report.type, "where": report.where,
        "new": report.count("new"), "modified": report.count("modified"), "deleted": report.count("deleted"),
        "unchanged": todo.unchanged, "skipped": len(todo.skips), "failed": len(report.failures),
        "pending": 0 if report.dry else report.pending, "over_limit": todo.later,
        "skipped_by_reason": dict(Counter(skip.reason for skip in todo.skips).most_common()),
        "items": [
            {
                "id": str(change.id), "hash": change.item.hash if change.item else _hex(change.row.hash),
                "type": change.item.type if change.item else None,
                "tags": list(change.item.tags) if change.item else [],
                "document": change.document, "preview": preview(change.item.text) if change.item else "",
                "remote_id": stored.remote_id if stored else change.row.remote if change.row else None,
                "action": change.action, "note": stored.note if stored else "",
            }
            for change, stored in done
        ],
        "skips": [
            {"id": str(skip.id) if skip.id else None, "document": skip.document, "preview": skip.preview,
             "reason": skip.reason}
            for skip in todo.skips
        ],
        "failures": [
            {"id": str(one.id), "document": one.document, "preview": one.preview, "hash": one.hash,
             "class": one.trouble, "error": one.error, "remedy": one.remedy, "tries": one.tries}
            for one in report.failures
        ],
        "error": None if report.ended is None else {
            "class": report.ended.trouble.value, "error": str(report.ended), "remedy": report.ended.hint,
            "retry_after": report.ended.retry_after,
        },
        "layers": [layer._asdict() for layer in report.layers],
        "capacity": capacity(report.capacity),
        "embedder": report.embedder or None,
        "checkpoint": {"before": report.before, "after": report.after},
    }  # fmt: skip


def _hex(hash: bytes | None) -> str | None:
    return hash.hex() if hash else None


def capacity(known: Capacity) -> dict[str, Any]:
    share = None if known.items is None or not known.limit else known.items / known.limit
    warning = None
    if share is not None and share >= NEAR:
        warning = f"{share:.0%} of what the service holds is used: {known.items:,} of {known.limit:,}"
    return {
        "items": "unknown" if known.items is None else known.items,
        "limit": "unknown" if known.limit is None else known.limit,
        "percent": "unknown" if share is None else round(100 * share, 1), "warning": warning,
    }  # fmt: skip


def whole(reports: list[Report], cut: Cut, vector: Vector, now_ms: int, *, dry_run: bool) -> dict[str, Any]:
    """All of `export --json`. `vector`: the log that was exported from."""
    return {
        "sinks": [of_sink(report) for report in reports],
        "version": {author.hex(): seq for author, seq in sorted((cut.vector or vector).items())},
        "converged": cut.converged, "waiting_for": list(cut.waiting), "dry_run": dry_run,
        "next_sync": next_sync(reports, cut, now_ms),
    }  # fmt: skip


def next_sync(reports: list[Report], cut: Cut, now_ms: int) -> dict[str, Any]:
    """When to export again, and why: the first reason there is. `in`: seconds; None: when something has changed."""
    for report in reports:
        ended = report.ended
        if ended is not None and ended.trouble is Trouble.THROTTLE:
            return _at(now_ms, ended.retry_after or 60.0, f"{report.name} asked to wait")
        if ended is not None and ended.trouble is Trouble.UNREACHABLE:
            return _at(now_ms, 300.0, f"{report.name} could not be reached; what is queued stays queued")
        if ended is not None:
            return _at(now_ms, None, f"{report.name}: {ended.hint}")
    for report in reports:
        if report.failures:
            return _at(now_ms, 60.0, f"{len(report.failures)} failed in {report.name}")
        if report.planned.later:
            return _at(now_ms, 0.0, f"{report.planned.later} are over the limit of this run")
    if (cut.vector is not None and not cut.converged) or any(
        skip.reason == WAITS for report in reports for skip in report.planned.skips
    ):
        return _at(now_ms, 60.0, "not all members in reach have everything yet")
    return _at(now_ms, None, "everything is exported; again when something has changed")


def _at(now_ms: int, seconds: float | None, why: str) -> dict[str, Any]:
    when = None
    if seconds is not None:
        when = datetime.fromtimestamp(now_ms / 1000 + seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"in": seconds, "at": when, "why": why}
