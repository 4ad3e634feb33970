"""Learnings out of session logs: of one log file, or of a session that the local index holds."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC
from itertools import chain
from pathlib import Path
from typing import Any

from replica.clone import Clone
from replica.errors import NotFound
from replica.learn import cues
from replica.learn.entry import Item
from replica.learn.given import Secrets, Usual
from replica.sessions.base import Event, Kind

LATEST = "latest"
_WORDS = (Kind.PROMPT, Kind.REPLY, Kind.LEARNING, Kind.COMPACTION)


def events_of(path: Path) -> Iterator[Event] | None:
    """What a log holds, as a stream; None: the file is no log of an agent that we know."""
    from replica.sessions import discover

    log = discover.recognised(path)
    return None if log is None else (one for one in discover.read(log) if isinstance(one, Event))


def session(clone: Clone, id: str) -> list[Event]:
    """The events of a session by its id, or of the latest in this clone's folder. Raises NotFound."""
    from replica.sessions import discover
    from replica.sessions.index import Index, file_of

    with Index.open(file_of(clone.root)) as index:
        index.scan(discover.discover())
        if id == LATEST:
            id = _latest(index, clone.root)
        found = index.session(id)
    if not found:
        raise NotFound(f"no session {id!r} in the logs that are known here", hint="name its log file")
    return found


def _latest(index: Any, root: Path) -> str:
    from replica.sessions.index import Select, project_of

    select = Select(root=project_of(root))
    days = index.days(UTC, select)
    if not days:
        raise NotFound("no session was in this clone's folder yet", hint="name a log file, or a session's id")
    return max(index.events(max(days).date, UTC, select), key=lambda event: (event.at, event.order)).session


def learnings(events: Iterable[Event], usual: Usual, secrets: Secrets) -> list[Item]:
    """What was said to be kept, in so many words; and what was decided, as far as it is plain."""
    told: dict[tuple[str, str], Event] = {}
    for event in events:
        if event.kind in _WORDS:
            # Told again it is the same event; whether it is on the main line, the last telling says.
            known = told.get((event.agent, event.key), event)
            told[event.agent, event.key] = known if known.aside == event.aside else replace(known, aside=event.aside)
    said = [event for event in told.values() if not event.aside]
    return cues.learnings(chain(said, _decided(said)), usual, secrets)


def _decided(events: list[Event]) -> Iterator[Event]:
    """Decisions that are told by other words, as if they had been told by ours."""
    from replica.sessions.topics import Session

    by_session: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        by_session.setdefault((event.agent, event.session), []).append(event)
    for (agent, name), said in by_session.items():
        for one in Session(said).decisions:
            label = "Decision" if one.kind == "decision" else "Lesson"
            key = f"decision {one.at}"
            yield Event(Kind.LEARNING, agent, name, key, one.at, 0, f"{label}: {' '.join(one.what.split())}")
