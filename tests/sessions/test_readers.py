"""What the readers make of the samples, which say themselves what is in them (samples/EXPECTED.json)."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress
from replica.sessions.discover import discover, read, recognised
from replica.sessions.index import Index

SAMPLES = Path(__file__).parent / "samples"
EXPECTED = json.loads((SAMPLES / "EXPECTED.json").read_text("utf-8"))
LOGS = [name for name, what in EXPECTED.items() if not what.get("decoy")]


def told(log: LogFile, place: Place = Place()) -> tuple[dict[str, Event], list[Damage], Progress]:
    """The events by their keys, each as it was told first and aside as it was told last; the damage; the end."""
    events: dict[str, Event] = {}
    damage, progress = [], None
    for one in read(log, place):
        match one:
            case Event():
                first = events.setdefault(one.key, one)
                assert (first.kind, first.text) == (one.kind, one.text)
            case Damage():
                damage.append(one)
            case Progress():
                progress = Progress(one.place, one.folders | (progress.folders if progress else frozenset()))
    assert progress is not None
    return events, damage, progress


def counted(events: dict[str, Event], agent: str) -> dict:
    # Of Claude Code's logs the subagents' words are not counted.
    main = [event for event in events.values() if agent != "claude-code" or event.aside is not Aside.SUBAGENT]
    ordered = sorted(main, key=lambda event: event.order)
    kinds = Counter(event.kind for event in ordered)
    models: list[str] = []
    for event in ordered:
        if event.model and models[-1:] != [event.model]:
            models.append(event.model)
    return {
        "prompts": [short(event.text) for event in ordered if event.kind is Kind.PROMPT],
        "replies": kinds[Kind.REPLY],
        "tool_calls": sum(event.kind is Kind.CALL and event.name != "bash" for event in ordered),
        "tool_results": kinds[Kind.RESULT],
        "models": models,
        "compactions": kinds[Kind.COMPACTION],
    }


def short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def day(event: Event) -> str:
    return datetime.fromtimestamp(event.at / 1000, UTC).date().isoformat()


@pytest.mark.parametrize("name", LOGS)
def test_a_sample_holds_what_it_says_of_itself(name):
    log = recognised(SAMPLES / name)
    assert log is not None and log.agent == name.split("/")[0]
    events, damage, _ = told(log)
    wanted = EXPECTED[name]
    found = counted(events, log.agent)
    assert found == {key: wanted[key] for key in found}
    # Days come from all that was said, a subagent's words included.
    assert sorted({day(event) for event in events.values()}) == wanted["utc_days"]
    assert [one.line for one in damage] == wanted.get("bad_lines", [])
    assert {one.file for one in damage} <= {str(SAMPLES / name)}
    assert all(one.reason for one in damage)


@pytest.mark.parametrize("name", LOGS)
def test_the_days_of_a_sample_count_all_that_was_said_in_it(name, tmp_path):
    with Index.open(tmp_path / "sessions.db") as index:
        index.scan([recognised(SAMPLES / name)])
        counted = sum(day.messages for day in index.days(UTC))
    # What was rolled back or branched off was said; a subagent's words were said to nobody.
    assert counted == len(EXPECTED[name]["prompts"]) + EXPECTED[name]["replies"]


def test_below_a_folder_all_logs_are_found_and_no_decoys():
    assert {log.path.relative_to(SAMPLES).as_posix() for log in discover(None, SAMPLES)} == set(LOGS)
    for agent in ("openclaw", "claude-code", "codex"):
        found = {log.path.relative_to(SAMPLES).as_posix() for log in discover({agent}, SAMPLES)}
        assert found == {name for name in LOGS if name.startswith(agent)}


def test_the_sqlite_store_tells_what_its_lines_tell():
    lines, _, _ = told(recognised(SAMPLES / "openclaw/edge/schema4-events.jsonl"))
    store, damage, progress = told(recognised(SAMPLES / "openclaw/agents/main/agent/openclaw-agent.sqlite"))
    titles = [event.text for event in store.values() if event.kind is Kind.TITLE]
    assert {key: event for key, event in store.items() if event.kind is not Kind.TITLE} == lines
    assert (titles, damage) == (["Nightly and release plan"], [])
    assert progress.folders == {"/home/mira/.openclaw/workspace"}
