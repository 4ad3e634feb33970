"""Laws of all readers: a log read in parts is the log read at once, and nothing in a log can stop its reading."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica.sessions import lines as lines_module
from replica.sessions.base import Kind, Place, Progress
from replica.sessions.discover import default_places, discover, read, recognised
from tests.sessions.made import Told, claude, claw, claw_header, gemini, gemini_header, lines, told
from tests.sessions.test_readers import LOGS, SAMPLES

SMALL = [name for name in LOGS if ".sqlite" not in name and "huge" not in name]
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

GEMINI = [
    gemini_header(), gemini("a", "08:00:01", "user", "one"), gemini("b", "08:00:02", "gemini", "r", model="m"),
    {"$set": {"lastUpdated": "2026-04-14T08:00:03Z"}}, gemini("c", "08:00:04", "user", "two"), {"$rewindTo": "c"},
    {"$set": {"summary": "Tides", "messages": [gemini("a", "08:00:01", "user", "one")]}},
    gemini("d", "08:00:05", "user", "three"),
]  # fmt: skip


def gemini_log(folder: Path) -> Path:
    return lines(folder / "session.jsonl", *GEMINI).path


def in_parts(path: Path, data: bytes, cuts: list[int]) -> Told:
    made = Told()
    for end in [*sorted(cuts), len(data)]:
        path.write_bytes(data[:end])
        log = recognised(path)
        if log is not None:
            made.of(log, made.place)
    return made


# --- in parts


@pytest.mark.parametrize("name", [*SMALL, "gemini"])
def test_a_log_that_is_read_line_by_line_tells_what_it_tells_at_once(name, tmp_path):
    source = gemini_log(tmp_path / "whole") if name == "gemini" else SAMPLES / name
    data = source.read_bytes()
    at_once = told(recognised(source))
    cuts = [at + 1 for at, byte in enumerate(data) if byte == 10]
    made = in_parts(tmp_path / source.name, data, cuts)
    assert made.same() == at_once.same()
    assert made.place == at_once.place
    assert [one[1:] for one in dict.fromkeys(made.damage)] == [one[1:] for one in at_once.damage]


@quick
@given(name=st.sampled_from(SMALL), seed=st.integers(0, 2**32))
def test_a_log_that_is_read_while_it_is_written_tells_what_it_tells_at_once(name, seed, tmp_path):
    data = (SAMPLES / name).read_bytes()
    chance = random.Random(seed)
    cuts = [chance.randrange(len(data)) for _ in range(chance.randrange(1, 6))]
    at_once = told(recognised(SAMPLES / name))
    made = in_parts(tmp_path / Path(name).name, data, cuts)
    assert made.same() == at_once.same()
    assert made.place == at_once.place
    assert {one.line for one in at_once.damage} <= {one.line for one in made.damage}


def test_a_line_without_its_end_is_told_and_read_again_when_it_is_whole(tmp_path):
    path = tmp_path / "s.jsonl"
    log = lines(path, claw_header(), claw("a", None, "08:00:01", "user", "one"))
    whole = json.dumps(claw("b", "a", "08:00:02", "user", "zwei 🌊"), ensure_ascii=False).encode()
    with path.open("ab") as file:
        file.write(whole[: whole.index(b"\xf0\x9f") + 2])
    made = Told().of(log)
    assert [(one.line, one.reason[:7]) for one in made.damage] == [(3, "cut off")]
    with path.open("ab") as file:
        file.write(whole[whole.index(b"\xf0\x9f") + 2 :])
    made.of(recognised(path), made.place)
    before = made.place
    assert made.seen() == [("prompt", "one"), ("prompt", "zwei 🌊")] and before.line == 2
    with path.open("ab") as file:
        file.write(b"\n")
    made.of(recognised(path), made.place)
    assert (len(made.events), made.place.line, made.place.offset) == (2, 3, path.stat().st_size)


@pytest.mark.parametrize("change", ["shorter", "other head", "other tail", "replaced"])
def test_a_log_that_became_another_one_is_read_from_its_beginning(change, tmp_path):
    path = tmp_path / "s.jsonl"
    said = [claw(f"a{n}", None, f"08:00:{n:02}", "user", f"word {n}") for n in range(30)]
    place = Told().of(lines(path, claw_header(), *said)).place
    match change:
        case "shorter":
            lines(path, claw_header(), *said[:4])
        case "other head":
            lines(path, claw_header(version=4), *said)
        case "other tail":
            lines(path, claw_header(), *said[:-1], claw("z", None, "08:00:29", "user", "WORD 29"))
        case "replaced":
            lines(path, claw_header("5e55-2"), *said, *said)
    made = Told().of(recognised(path), place)
    assert made.seen()[0] == ("prompt", "word 0")


@pytest.mark.parametrize("name", [*SMALL, "gemini"])
def test_from_every_place_on_the_way_the_reading_goes_on(name, tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "STEP", 400)
    source = gemini_log(tmp_path) if name == "gemini" else SAMPLES / name
    log = recognised(source)
    at_once, so_far, ways = told(log), [], 0
    for one in read(log):
        so_far.append(one)
        if isinstance(one, Progress):
            made = Told()
            for event in so_far:
                made.take(event)
            assert made.of(log, one.place).same() == at_once.same()
            ways += 1
    assert ways > 1


def test_a_place_whose_state_another_version_wrote_is_left(tmp_path):
    log = lines(tmp_path / "s.jsonl", claw_header(), claw("a", None, "08:00:01", "user", "one"))
    log_place = told(log).place
    for state in (b"\x00", b"[1]", b'"x"'):
        assert Told().of(log, log_place._replace(state=state)).seen() == [("prompt", "one")]


def test_an_unchanged_log_tells_nothing_the_second_time():
    for name in LOGS:
        log = recognised(SAMPLES / name)
        assert Told().of(log, told(log).place).count == 0


# --- damage


anything = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([
        b"[" * 100_000, b'{"a":' * 50_000, b"{" + b'"x":' + b"9" * 6000 + b"}", b"\xff\xfe{\x00}\x00", b"NaN", b"[]",
        b"{}", b'{"type":"message"}', b'{"type":["message"],"payload":7}', b"\x00" * 99,
        b'{"uuid":{},"type":"user","message":[[]]}',
        b'{"type":"message","id":"q","parentId":"nowhere","timestamp":"2026-04-14T08:00:00Z","message":{"role":5}}',
        b'{"timestamp":1e999,"type":"response_item","payload":{"type":"message","role":"user","content":[7]}}',
    ]),
).map(lambda data: data.replace(b"\n", b" "))  # fmt: skip


@quick
@given(name=st.sampled_from(SMALL), garbage=st.lists(anything, min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_lines_of_garbage_cost_no_good_line(name, garbage, seed, tmp_path):
    chance = random.Random(seed)
    good = (SAMPLES / name).read_bytes().split(b"\n")
    for one in garbage:
        good.insert(chance.randrange(1, len(good)), one)
    path = tmp_path / Path(name).name
    path.write_bytes(b"\n".join(good))
    before, made = told(recognised(SAMPLES / name)), told(recognised(path))
    kept = {key: event.text for key, event in made.events.items()}
    assert {key: event.text for key, event in before.events.items()}.items() <= kept.items()
    assert all(one.reason for one in made.damage)


hostile = st.sampled_from([
    None, True, False, 0, -1, 10**400, 1e308, float("inf"), float("nan"), "", "x", "\ud800", "\x00", [], {}, [[]],
    [None], {"type": []}, [{"type": "text", "text": []}], [{"type": "tool_use", "id": {}, "name": 3, "input": [1]}],
    [{"type": "toolCall", "arguments": "x"}], {"a": {"b": {"c": [1]}}}, "9999-99-99", "0001-01-01T00:00:00+23:59",
])  # fmt: skip


def spoiled(value, chance: random.Random, bad):
    """The value with something in it replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(sorted(value))
        return {**value, key: spoiled(value[key], chance, bad)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], spoiled(value[at], chance, bad), *value[at + 1 :]]
    return bad


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([*SMALL, "gemini"]), bad=st.lists(hostile, min_size=1, max_size=30), seed=st.integers(0, 2**32)
)
def test_no_value_at_any_place_of_a_record_is_of_a_form_that_was_not_thought_of(name, bad, seed, tmp_path):
    chance = random.Random(seed)
    source = gemini_log(tmp_path / "whole") if name == "gemini" else SAMPLES / name
    kept = []
    for line in source.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        for one in bad:
            kept.append(json.dumps(spoiled(record, chance, one)).encode())
        kept.append(line)
    path = tmp_path / source.name
    path.write_bytes(b"\n".join(kept) + b"\n")
    log = recognised(source)
    made = told(type(log)(path, log.agent, log.format, path.stat().st_size, 0))
    assert [one.reason for one in made.damage if "known form" in one.reason] == []
    for event in made.events.values():
        for words in (event.text, event.key, event.session, event.name, event.model, event.command, *event.files):
            assert isinstance(words, str) and words.encode() is not None and "\x00" not in words
        assert isinstance(event.at, int) and 0 <= event.at < 253_402_300_800_000
        assert isinstance(event.order, int) and isinstance(event.kind, Kind)


def test_a_line_beyond_all_measure_is_told_and_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "LONGEST", 1000)
    long = claw("b", "a", "08:00:02", "user", "x" * 5000)
    log = lines(
        tmp_path / "s.jsonl", claw_header(), claw("a", None, "08:00:01", "user", "one"), long,
        claw("c", "a", "08:00:03", "user", "two"), b"y" * 3000,
    )  # fmt: skip
    made = told(log)
    assert made.seen() == [("prompt", "one"), ("prompt", "two")]
    assert [one.line for one in made.damage] == [3, 5]
    assert made.place.offset == log.size and Told().of(log, made.place).count == 0


def test_a_log_that_vanished_or_is_a_folder_is_damage(tmp_path):
    log = lines(tmp_path / "s.jsonl", claw_header())
    log.path.unlink()
    made = Told().of(log, Place(5, 1))
    assert len(made.damage) == 1 and made.place == Place(5, 1)
    log.path.mkdir()
    assert len(told(log).damage) == 1


def test_a_log_of_which_nothing_is_whole_is_a_log_nevertheless(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(
        json.dumps(claude("a", None, "08:00:01", "user", "lost"), separators=(",", ":")).encode()[:-9]
    )
    (found,) = discover(None, tmp_path)
    assert (found.agent, len(told(found).damage)) == ("claude-code", 1)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be changed here")
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns"])
def test_times_do_not_depend_on_the_zone_of_the_machine(zone, monkeypatch):
    before = told(*discover(None, SAMPLES)).same()
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert told(*discover(None, SAMPLES)).same() == before
    finally:
        monkeypatch.undo()
        time.tzset()


# --- where logs are


def test_each_agent_is_found_in_its_own_places(tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(SAMPLES / "openclaw" / "agents", home / ".clawdbot" / "agents")
    shutil.copytree(SAMPLES / "claude-code" / "projects", home / ".claude" / "projects")
    shutil.copytree(SAMPLES / "codex" / "sessions", home / ".codex" / "sessions")
    lines(home / ".gemini" / "tmp" / "p" / "chats" / "session-1.jsonl", *GEMINI)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "OPENCLAW_STATE_DIR", "OPENCLAW_HOME", "GEMINI_CLI_HOME"):
        monkeypatch.delenv(name, raising=False)
    found = {agent: len(discover({agent})) for agent in ("openclaw", "claude-code", "codex", "gemini")}
    assert found == {"openclaw": 4, "claude-code": 3, "codex": 2, "gemini": 1}
    assert len(discover()) == 10
    shutil.copytree(home / ".claude", tmp_path / "elsewhere")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "elsewhere"))
    assert {log.path.parts[len(tmp_path.parts)] for log in discover({"claude-code"})} == {"elsewhere"}


def test_the_environment_moves_the_places():
    env = {"CLAUDE_CONFIG_DIR": "/c", "CODEX_HOME": "/x", "OPENCLAW_STATE_DIR": "/o", "GEMINI_CLI_HOME": "/g"}
    places = [
        str(place) for agent in ("claude-code", "codex", "openclaw", "gemini") for place in default_places(agent, env)
    ]
    assert [Path(place).as_posix() for place in places] == [
        "/c/projects", "/x/sessions", "/x/archived_sessions", "/o/agents", "/g/.gemini/tmp",
    ]  # fmt: skip


def test_a_folder_of_another_name_hides_no_log_and_makes_none(tmp_path):
    for number, name in enumerate(LOGS):
        shutil.copy(SAMPLES / name, tmp_path / f"{number}{'.sqlite' if 'sqlite' in name else '.jsonl'}")
    for name in ("package.json", "notes.jsonl", "empty.jsonl"):
        (tmp_path / name).write_text({"notes.jsonl": '{"display":"x"}\n{"a":1}\n'}.get(name, ""))
    shutil.copy(SAMPLES / "claude-code" / "history.jsonl", tmp_path / "history.jsonl")
    found = {log.path.stem: log.agent for log in discover(None, tmp_path)}
    assert found == {str(number): name.split("/")[0] for number, name in enumerate(LOGS)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_opened_and_a_link_is_not_read_twice(tmp_path):
    log = lines(tmp_path / "s.jsonl", claw_header())
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "again.jsonl").symlink_to(log.path)
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert len(discover(None, tmp_path)) == 1
