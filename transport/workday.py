"""`replica start` and `replica save` on a node: a running one, or one that is there for the length of the command."""

import time
from dataclasses import replace
from typing import Any

from replica import briefing, clock, members, rejoin, tidy, workday
from replica.bridge import Report
from replica.clone import Clone
from replica.errors import ReplicaError, UsageError
from transport.meeting import USUAL, Patience, meet
from transport.node import Node

# A running node has called everybody long ago: whoever is in reach is connected, or answers at once.
CONNECTED = Patience(quiet=0.05, alone=0.05, calls=False)
# A person who begins to work waits for at most a second, and less where nobody answers.
BRIEF = Patience(quiet=0.3, alone=0.4, calls=False)
THOROUGH = USUAL._replace(calls=False)  # who has not answered after `alone` is not there
START_WAIT, SAVE_WAIT = 1.0, 5.0  # seconds
NAMED = 3  # members on one line
MANY = 5  # members in JSON


async def start(
    node: Node, patience: Patience, *, persona: str | None = None, format: str = "text",
    most: int = 10_000, wait: float = START_WAIT, until: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Begin a session: meet peers, for `wait` seconds at most, bring files up to date; `page` is what to print.

    `until`: when to wait for peers no more, by the monotonic clock, which all processes of a machine share. Files come
    first, and in a large folder they take what there is.

    Raises UsageError: no such format, or too little room.
    """
    if format not in briefing.FORMATS:
        raise UsageError(f"{format!r} is no format", hint=f"it is one of {', '.join(briefing.FORMATS)}")
    if most < briefing.SHORTEST:
        raise UsageError(f"{most} characters are too few", hint=f"give it {briefing.SHORTEST:,} or more")
    clone, bridge = node.clone, node.bridge
    who = workday.persona(clone, persona)
    clone.log.refresh()
    current = workday.begin(clone, _now())
    taken = bridge.run(session=True)
    row = clone.log.last_row()
    node.hurry()
    wait = wait if until is None else min(wait, max(0.0, until - time.monotonic()))
    met = await meet(node, wait, patience._replace(give=False))
    tidied = tidy.tidy(clone)
    written = bridge.run(session=True) if clone.log.last_row() != row or taken.look_again else Report()
    clone.log.refresh()
    current = current._replace(seen=clone.log.last_row())
    brief = _brief(clone, current, who, node, met, taken, written, most)
    told = [briefing.label(line, 200) for line in tidied.lines()[:NAMED]]
    brief = replace(brief, head={**brief.head, "tidied": told}, lines=(*brief.lines, *told))
    page = briefing.page(brief, format, most)
    workday.keep(clone, current)
    return {"page": page}


def _now() -> int:
    return int(time.time() * 1000)


def _brief(
    clone: Clone, current: workday.Session, who: str, node: Node, met: dict, taken: Report, written: Report, most: int
) -> workday.Brief:
    before = None if current.first else current.before
    head = {
        "workspace": clone.workspace_name, "clone": clone.name, "persona": who or None, "time": _iso(_now()),
        "node": "running" if node.options.serve else "stopped", "reached": _reached(met)[:MANY],
        "missing": met["missing"][:MANY],
        "offline": bool(met["peers"]) and not any(peer["online"] for peer in met["peers"]), "since": _iso(before),
        "files": {"taken": len(taken.taken), "written": len(taken.written) + len(written.written)},
    }  # fmt: skip
    name = briefing.label
    as_whom = f", as {name(who, 64)}" if who else ""
    now = clock.to_text(clock.from_ms(_now()))
    first = f"{name(clone.name, 64)} of workspace {name(clone.workspace_name, 64)}{as_whom}; {now}"
    lines = (first, _reach(met), *_trouble(clone))
    return workday.Brief(head, lines, workday.sections(clone, current, who, most))


def _reached(met: dict) -> list[str]:
    """The members whose changes are all here now."""
    return [peer["name"] for peer in met["peers"] if peer["online"] and not peer["ahead"]]


def _reach(met: dict) -> str:
    """Whose changes are here, and whose may not be."""
    if not met["peers"]:
        return "nobody else belongs to this workspace yet (replica invite)"
    online, reached = [peer for peer in met["peers"] if peer["online"]], _reached(met)
    if not online:
        return f"offline: none of {len(met['peers'])} members is in reach ({_names(met['missing'])})"
    behind = [peer["name"] for peer in online if peer["ahead"]]
    parts = [f"up to date with {_names(reached)}"] if reached else []
    parts += [f"not yet with {_names(behind)}"] if behind else []
    parts += [f"out of reach: {_names(met['missing'])}"] if met["missing"] else []
    return "; ".join(parts)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(briefing.label(name, 40) for name in names[:NAMED]) + more


def _trouble(clone: Clone) -> list[str]:
    if (removal := members.removal(clone)) is not None:
        by = briefing.label(removal.by, 40)
        return [f"removed from the workspace by {by}; what is written here reaches nobody (replica status)"]
    if rejoin.under_way(clone.store):
        return ["this clone is being brought back: files rest until all has arrived (replica doctor)"]
    return []


def _iso(ms: int | None) -> str | None:
    from datetime import UTC, datetime

    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")[:19] + "Z"


async def save(node: Node, patience: Patience, *, message: str | None = None) -> dict[str, Any]:
    """End a session: take in all files, note it in the log, exchange with who is in reach, write what has come."""
    clone, bridge = node.clone, node.bridge
    clone.log.refresh()
    last = workday.session(clone) or workday.Session(0, 0, 0, _now())
    since = last.opened if last.ended is None else last.seen
    taken = bridge.run(every=True, wait=True)
    tidied = tidy.tidy(clone)
    line, failed = _note(clone, message, since)
    written = bridge.run(every=True) if line or tidied.changed or taken.look_again else Report()
    seen = clone.log.last_row()
    waited = {peer["id"]: peer["behind"] for peer in node.peer_states()}
    node.hurry()
    met = await meet(node, SAVE_WAIT, patience)
    came = bridge.run(every=True) if clone.log.last_row() != seen else Report()
    with clone.transaction():
        workday.keep(clone, last._replace(opened=seen, seen=seen, ended=_now(), first=False))
    return {
        "document": line and line.document, "line": line and line.line, "log": workday.log_path(clone),
        "taken": sorted({*taken.taken} - {line.document if line else ""}), "deleted": taken.deleted,
        "written": sorted({*taken.written, *written.written, *came.written} - {line.document if line else ""}),
        "removed": [*taken.removed, *came.removed], "held": {**taken.held, **came.held},
        "skipped": {**taken.skipped, **came.skipped},
        "peers": [
            {"name": peer["name"], "id": peer["id"], "online": peer["online"], "in_step": peer["in_step"],
             "sent": max(0, waited.get(peer["id"], 0) - peer["behind"]), "waiting": peer["behind"]}
            for peer in met["peers"]
        ],
        "tidied": tidied.lines(), "problems": met["problems"], "seconds": met["seconds"], "failed": failed,
        "resting": _rests(clone),
    }  # fmt: skip


def _rests(clone: Clone) -> bool:
    """Nothing can be written yet: it has to meet a member first."""
    return rejoin.under_way(clone.store) is not None or clone.log.author(clone.identity.id) is None


def _note(clone: Clone, message: str | None, since: int) -> tuple[workday.Logged | None, dict[str, str] | None]:
    """The line in the log. That it cannot be written must not keep the rest from the others."""
    if _rests(clone):
        return None, None
    try:
        return workday.log_line(clone, message, since, _now()), None
    except ReplicaError as error:
        return None, {"error": f"no line was added to the session log: {error}", "hint": error.hint}
