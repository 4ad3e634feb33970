"""The index of sessions: each event once, whatever becomes of the logs and of whoever reads them."""

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica.errors import StoreError, UnknownSchema
from replica.sessions import scan as scanning
from replica.sessions.base import BEGIN_MEMORY, END_MEMORY, Aside, Damage, Event, Kind, Progress
from replica.sessions.discover import discover
from replica.sessions.index import Index, Select, file_of, project_of
from tests.sessions.plain import Plain, line, scan

ROOT = Path(__file__).parents[2]
SAMPLES = Path(__file__).parent / "samples"
LISBON, NEW_YORK, KIRITIMATI = (ZoneInfo(name) for name in ("Europe/Lisbon", "America/New_York", "Pacific/Kiritimati"))
SECRET = "sk-ant-EXAMPLE-not-a-real-key-" + "0" * 18


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.fixture
def index(tmp_path):
    with Index.open(tmp_path / "sessions.db") as opened:
        yield opened


@pytest.fixture
def logs(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def everything(index: Index) -> list[Event]:
    return [
        event for (id,) in index.rows("SELECT DISTINCT session FROM events ORDER BY 1") for event in index.session(id)
    ]


# --- what is kept


def test_what_was_said_and_done_is_kept_as_it_was_told(index, logs):
    told = [
        line(key="1", at=1, text="Please."),
        line(Kind.REPLY, key="2", at=2, text="Done.", model="m-1"),
        line(Kind.CALL, key="3", at=3, name="bash", command="make test", files=["a.py", "b c.py"]),
        line(Kind.RESULT, key="4", at=4, text="Traceback\nValueError", failed=True),
        line(Kind.MODEL, key="5", at=5, model="m-2"),
        line(Kind.COMPACTION, key="6", at=6, text="what was before"),
        line(Kind.TITLE, key="7", at=7, text="Tides"),
        line(Kind.LEARNING, key="8", at=8, text="Water rises.", aside=True),
    ]
    (logs / "a.log").write_text("".join(told))
    assert scan(index, logs).new == 8
    assert index.session("s") == [
        Event(Kind.PROMPT, "plain", "s", "1", 1, 1, "Please."),
        Event(Kind.REPLY, "plain", "s", "2", 2, 2, "Done.", model="m-1"),
        Event(Kind.CALL, "plain", "s", "3", 3, 3, name="bash", command="make test", files=("a.py", "b c.py")),
        Event(Kind.RESULT, "plain", "s", "4", 4, 4, "Traceback\nValueError", failed=True),
        Event(Kind.MODEL, "plain", "s", "5", 5, 5, model="m-2"),
        Event(Kind.COMPACTION, "plain", "s", "6", 6, 6, "what was before"),
        Event(Kind.TITLE, "plain", "s", "7", 7, 7, "Tides"),
        Event(Kind.LEARNING, "plain", "s", "8", 8, 8, "Water rises.", aside=True),
    ]


def test_results_that_did_not_fail_and_our_own_words_are_not_kept(index, logs):
    ours = f"{BEGIN_MEMORY}\nall of it\n{END_MEMORY}"
    told = [line(Kind.RESULT, key="1", text="x"), line(key="2", text=ours), line(key="3", text=f"Go on.{ours}")]
    (logs / "a.log").write_text("".join(told))
    assert scan(index, logs).new == 1
    assert [event.text for event in index.session("s")] == ["Go on."]


def test_what_is_long_is_cut_and_says_so(index, logs):
    told = [
        line(key="1", at=1, text="é" * 30_000),
        line(Kind.CALL, key="2", at=2, command="x" * 9_000, files=[f"{n}.py" for n in range(99)]),
        line(Kind.RESULT, key="3", at=3, text="\n".join(map(str, range(100))), failed=True),
        line(Kind.REPLY, key="4", at=4, text="y" * 900_000),
    ]
    (logs / "a.log").write_text("".join(told))
    scan(index, logs)
    prompt, call, result, reply = index.session("s")
    assert prompt.text == "é" * 20_000 + " […10000 more characters]"
    assert len(call.command) < 2_100 and "more characters" in call.command and len(call.files) == 50
    assert result.text.startswith("0\n1\n2") and result.text.count("\n") < 10 and "more characters" in result.text
    assert reply.text == "y" * 20_000 + " […880000 more characters]"


@given(st.integers(19_900, 20_060))
def test_no_half_of_a_secret_stays_where_a_text_is_cut(place):
    text = "." * place + " " + SECRET + " and so on" * 100
    row = scanning.kept(Event(Kind.PROMPT, "plain", "s", "k", 0, 0, text))
    assert "sk-ant" not in row[6] and "[REDACTED-A" not in row[6].replace("[REDACTED-ANTHROPIC-KEY]", "")
    assert "more characters]" in row[6]


def test_where_nearly_all_is_secret_no_half_of_one_stays_at_the_end_of_what_is_looked_at():
    text = ("sk-ant-" + "ab4" * 1_007 + "c ") * 100  # 3,030 characters each; 100,000 are looked at
    row = scanning.kept(Event(Kind.PROMPT, "plain", "s", "k", 0, 0, text))
    assert "sk-ant" not in row[6] and "[REDACTED-ANTHROPIC-KEY] [RE" in row[6]
    assert "more characters]" in row[6]


def test_a_secret_is_in_no_byte_of_the_index_and_is_counted_on_its_day(index, logs, tmp_path):
    told = [
        line(key="1", at=at("2026-04-14T23:40:00+00:00"), text=f"The key is {SECRET}."),
        line(
            Kind.CALL,
            key="2",
            at=at("2026-04-15T12:00:00+00:00"),
            name=SECRET,
            command=f"curl -H 'x-api-key: {SECRET}'",
        ),
        line(
            Kind.TITLE, key="3", at=at("2026-04-15T12:00:00+00:00"), text=SECRET, files=[f"/x/{SECRET}"], model=SECRET
        ),
    ]
    (logs / "a.log").write_text("".join(told))
    assert scan(index, logs).redacted == Counter({"ANTHROPIC-KEY": 6})
    for file in tmp_path.glob("sessions.db*"):
        assert SECRET.encode() not in file.read_bytes()
    assert index.redacted(date(2026, 4, 14), ZoneInfo("UTC")) == Counter({"ANTHROPIC-KEY": 1})
    assert index.redacted(date(2026, 4, 15), ZoneInfo("UTC")) == Counter({"ANTHROPIC-KEY": 5})
    assert index.redacted(date(2026, 4, 15), LISBON) == Counter({"ANTHROPIC-KEY": 6})
    assert scan(index, logs).redacted == Counter()


def test_only_the_owner_can_read_it(index, logs, tmp_path):
    (logs / "a.log").write_text(line(text="x"))
    scan(index, logs)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("sessions.db*")} == {0o600}


def test_what_no_file_can_hold_is_stored_all_the_same(index, logs):
    told = line(key="a\ud800", session="s\udfff", text="half a pair: \ud83d, and NUL: \x00.", at=1)
    far = line(key="2", at=10**17) + line(key="3", at=-5)
    (logs / "a.log").write_text(told + far)
    assert scan(index, logs).new == 1
    assert index.session("s?")[0].text == "half a pair: ?, and NUL: \x00."


# --- once, and no more than what is new


def test_unchanged_logs_are_not_opened(index, logs):
    (logs / "a.log").write_text(line(text="x") + "broken\n")
    reader = Plain()
    first = scan(index, logs, reader)
    assert (first.read, first.new, reader.readings) == ((logs / "a.log").stat().st_size, 1, 1)
    second = scan(index, logs, reader)
    assert (second.read, second.new, reader.readings) == (0, 0, 1)
    assert second.damaged == first.damaged == [Damage(str(logs / "a.log"), 2, "not JSON")]


def test_of_a_log_that_grew_only_the_rest_is_read(index, logs):
    file = logs / "a.log"
    file.write_text(line(key="1", text="one"))
    scan(index, logs)
    more = line(key="2", text="two")
    with file.open("a") as opened:
        opened.write(more)
    assert scan(index, logs)[:2] == (len(more), 1)


def test_a_line_that_was_cut_off_is_no_damage_when_it_has_come(index, logs):
    file, whole = logs / "a.log", line(key="2", text="two")
    file.write_text("broken\n" + line(key="1", text="one") + whole[:20])
    assert [one.line for one in scan(index, logs).damaged] == [1, 3]
    with file.open("a") as opened:
        opened.write(whole[20:])
    last = scan(index, logs)
    assert (last.new, [one.line for one in last.damaged]) == (1, [1])


def test_a_log_that_was_replaced_is_read_anew_and_nothing_is_doubled(index, logs):
    file = logs / "a.log"
    file.write_text("broken\n" + line(key="1", text="one"))
    scan(index, logs)
    file.write_text(line(key="0", text="zero") + line(key="1", text="one") + line(key="2", text="two") * 2)
    last = scan(index, logs)
    assert (last.new, last.damaged) == (2, [])
    assert Counter(event.key for event in index.session("s")) == Counter("012")


def test_what_is_gone_from_the_logs_stays(index, logs):
    (logs / "a.log").write_text(line(text="x"))
    scan(index, logs)
    (logs / "a.log").unlink()
    assert scan(index, logs) == scanning.Scanned(0, 0, [], Counter())
    assert [event.text for event in index.session("s")] == ["x"]


def test_an_archive_and_what_follows_it_are_one_session(index, logs):
    file = logs / "s.log"
    file.write_text(line(key="1", at=1, text="one"))
    scan(index, logs)
    file.rename(logs / "s.log.reset.2026-04-14")
    file.write_text(line(key="1", at=1, text="one") + line(key="2", at=2, text="two"))
    assert scan(index, logs).new == 1
    assert [event.text for event in index.session("s")] == ["one", "two"]


def test_a_log_that_cannot_be_read_is_told_and_tried_again(index, logs):
    class Shut(Plain):
        def read(self, log, place):
            raise PermissionError(13, "Permission denied")
            yield

    (logs / "a.log").write_text(line(text="x"))
    told = scanning.Scanned(0, 0, [Damage(str(logs / "a.log"), 0, "Permission denied")], Counter())
    assert [scan(index, logs, Shut()), scan(index, logs, Shut())] == [told, told]
    assert scan(index, logs) == scanning.Scanned(len(line(text="x")), 1, [], Counter())


def test_damage_that_is_stored_in_pieces_is_all_there(index, logs, monkeypatch):
    class Mixed(Plain):
        """Whose sessions lie mixed: until all are read the place is the old one, as in a store."""

        def read(self, log, place):
            told = list(super().read(log, place))
            for one in told[:-1]:
                yield one
                yield Progress(place)
            yield told[-1]

    monkeypatch.setattr(scanning, "BATCH", 1)
    (logs / "a.log").write_text("".join("broken\n" + line(key=str(n), text="x") for n in range(4)))
    first = scan(index, logs, Mixed())
    assert (first.new, [one.line for one in first.damaged]) == (4, [1, 3, 5, 7])
    assert scan(index, logs, Mixed()) == (0, 0, first.damaged, Counter())


def test_who_gave_up_a_branch_is_heard_and_a_fork_that_keeps_it_prevails(index, logs):
    (logs / "b.log").write_text(line(session="b", key="1", text="one"))
    scan(index, logs)
    with (logs / "b.log").open("a") as opened:
        opened.write(line(session="b", key="1", text="one", aside=True))
    scan(index, logs)
    assert [(event.session, event.aside) for event in everything(index)] == [("b", True)]
    (logs / "c.log").write_text(line(session="c", key="1", text="one"))
    scan(index, logs)
    assert [(event.session, event.aside) for event in everything(index)] == [("c", False)]


def test_progress_is_told_up_to_the_end(index, logs):
    (logs / "a.log").write_text("".join(line(key=str(n), text="x") for n in range(1_200)))
    (logs / "b.log").write_text(line(key="b", text="x"))
    told = []
    scan(index, logs, tell=lambda done, of: told.append((done, of)))
    whole = sum(file.stat().st_size for file in logs.iterdir())
    assert told == sorted(told) and told[-1] == (whole, whole) and len(told) > 3


keys = st.integers(0, 12)
entries = st.builds(
    lambda session, n, aside: line(Kind.REPLY, session, str(n), n * 1_000, text=f"text {n}", aside=aside),
    st.sampled_from("abc"), keys, st.booleans(),
)  # fmt: skip
streams = st.lists(st.lists(entries, max_size=8), min_size=1, max_size=4)


def once(sets: list[list[str]], order: list[int], pieces: int, folder: Path) -> list[Event]:
    """The index of these logs, scanned in this order, each in so many pieces, with batches of one event."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with Index.open(folder / "sessions.db") as index:
        for n in order:
            data = "".join(sets[n]).encode()
            for piece in range(1, pieces + 1):
                (folder / f"{n}.log").write_bytes(data[: len(data) * piece // pieces])
                scan(index, folder)
        assert scan(index, folder).read == 0
        return everything(index)


@settings(max_examples=25, deadline=None)
@given(streams, st.integers(1, 5), st.randoms(use_true_random=False))
def test_each_event_is_there_once_in_any_order_of_logs_and_any_pieces(tmp_path_factory, sets, pieces, chance):
    # Of one session no two logs tell differently; of two sessions they may.
    sets = [[entry for entry in told if f'"{session}"' in entry] for told in sets for session in "abc"]
    folder = tmp_path_factory.getbasetemp() / "orders"
    ordered = list(range(len(sets)))
    whole = once(sets, ordered, 1, folder)
    assert (
        len({event.key for event in whole})
        == len(whole)
        == len({e.split('"key": "')[1].split('"')[0] for s in sets for e in s})
    )
    chance.shuffle(ordered)
    # `order` and `aside` are those of whoever told last, within one session.
    plain = [(event.key, event.text) for event in sorted(whole, key=lambda event: event.key)]
    other = once(sets, ordered, pieces, folder)
    assert [(event.key, event.text) for event in sorted(other, key=lambda event: event.key)] == plain


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), keys, st.booleans()), max_size=20, unique_by=lambda one: one[:2]),
    st.randoms(use_true_random=False),
)
def test_it_makes_no_difference_which_of_two_logs_is_read_first(tmp_path_factory, told, chance):
    sets = [
        [line(Kind.REPLY, s, str(n), n * 1_000, text=f"text {n}", aside=a) for s, n, a in told if s == session]
        for session in "abc"
    ]
    folder = tmp_path_factory.getbasetemp() / "orders"
    first = once(sets, [0, 1, 2], 1, folder)
    ordered = [0, 1, 2]
    chance.shuffle(ordered)
    assert once(sets, ordered, 1, folder) == first


# --- days


def day_lines(*moments: str, kind=Kind.PROMPT, session="s", **more) -> str:
    return "".join(line(kind, session, f"{session}{moment}{kind}", at(moment), text="x", **more) for moment in moments)


def test_a_day_ends_where_the_zone_says(index, logs):
    (logs / "a.log").write_text(day_lines("2026-04-14T23:40:00+00:00", "2026-04-15T00:12:00+00:00"))
    scan(index, logs)
    for zone, days in {
        UTC: [(14, 1), (15, 1)], LISBON: [(15, 2)], NEW_YORK: [(14, 2)], KIRITIMATI: [(15, 2)],
    }.items():  # fmt: skip
        assert [(one.date.day, one.messages) for one in index.days(zone)] == days
        assert [len(index.events(date(2026, 4, day), zone)) for day, _ in days] == [count for _, count in days]


def test_days_of_23_and_25_hours(index, logs):
    (logs / "a.log").write_text(
        day_lines(*(f"2026-{d}T{h:02}:30:00+00:00" for d in ("03-29", "10-25") for h in range(24)))
    )
    scan(index, logs)
    berlin = ZoneInfo("Europe/Berlin")
    assert [one.messages for one in index.days(berlin)] == [22, 2, 22 + 1, 1]
    assert sum(len(index.events(one.date, berlin)) for one in index.days(berlin)) == 48


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 4_000_000_000_000), min_size=1, max_size=20),
    st.sampled_from(["UTC", "America/St_Johns", "Asia/Kathmandu", "Africa/Cairo", "Pacific/Apia", "America/Santiago"]),
)
def test_each_event_is_on_one_day_and_days_count_what_they_hold(tmp_path_factory, moments, zone):
    folder = tmp_path_factory.getbasetemp() / "zones"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "a.log").write_text("".join(line(key=str(n), at=one, text="x") for n, one in enumerate(moments)))
    with Index.open(folder / "sessions.db") as index:
        scan(index, folder)
        days = index.days(ZoneInfo(zone))
        held = {one.date: index.events(one.date, ZoneInfo(zone)) for one in days}
        assert {one.date: one.messages for one in days} == {day: len(events) for day, events in held.items()}
        assert sorted(event.at for events in held.values() for event in events) == sorted(moments)


def test_messages_are_what_was_said_and_a_subagents_words_are_none(index, logs):
    moment = "2026-04-14T12:00:00+00:00"
    told = day_lines(moment) + day_lines(moment, kind=Kind.REPLY, session="t")
    told += day_lines(moment, kind=Kind.CALL) + day_lines(moment, kind=Kind.REPLY, aside=Aside.SUBAGENT, session="u")
    (logs / "a.log").write_text(told + day_lines("2026-04-16T12:00:00+00:00", kind=Kind.CALL))
    scan(index, logs)
    assert index.days(UTC) == [(date(2026, 4, 14), 2, 2)]
    (logs / "b.log").write_text(day_lines("2026-04-18T12:00:00+00:00", aside=Aside.TAKEN_BACK))
    scan(index, logs)
    assert index.days(UTC) == [(date(2026, 4, 14), 2, 2), (date(2026, 4, 18), 1, 1)]
    assert [event.session for event in index.events(date(2026, 4, 14), UTC)] == ["s", "s", "t", "u"]


# --- which sessions


def test_sessions_are_chosen_by_where_they_worked(index, logs, tmp_path):
    mine, moment = tmp_path / "mine", "2026-04-14T12:00:00+00:00"
    for name, folder in {"a": mine, "b": mine / "sub", "c": tmp_path / "mine-too", "d": tmp_path, "e": None}.items():
        cwd = "" if folder is None else f'{{"cwd": "{folder}"}}\n'
        (logs / f"{name}.log").write_text(cwd + day_lines(moment, session=name))
    (logs / "f.log").write_text(f'{{"cwd": "{mine}"}}\n')  # nothing is said in it yet
    scan(index, logs)
    (logs / "f.log").open("a").write(day_lines(moment, session="f"))
    (logs / "a.log").open("a").write(day_lines("2026-04-14T12:00:01+00:00", session="a"))
    scan(index, logs)
    (day,) = index.days(UTC, Select(root=mine))
    assert (day.messages, day.sessions) == (4, 3)
    assert [event.session for event in index.events(day.date, UTC, Select(root=mine))] == ["a", "b", "f", "a"]
    assert index.left_out(Select(root=mine)) == 3
    assert index.left_out(Select(root=tmp_path)) == 1
    assert index.left_out(Select()) == 0


def test_a_folder_has_the_names_that_lead_to_it(index, logs, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (logs / "a.log").write_text(f'{{"cwd": "{tmp_path}/real"}}\n{line(session="a", key="1", text="x")}')
    (logs / "b.log").write_text(f'{{"cwd": "{tmp_path}/link/sub"}}\n{line(session="b", key="2", text="x")}')
    scan(index, logs)
    assert index.days(UTC, Select(root=tmp_path / "link"))[0].sessions == 2


def test_sessions_are_chosen_by_where_their_logs_are_and_by_agent(index, logs, monkeypatch):
    for name in ("one", "two"):
        (logs / name).mkdir()
        (logs / name / "x.log").write_text(line(session=name, key=name, text="x"))
    (logs / "two" / "copy.log").write_text(line(session="one", key="one", text="x"))
    monkeypatch.chdir(logs)
    scan(index, Path())
    assert index.days(UTC, Select(under=logs / "one"))[0].sessions == 1
    assert index.days(UTC, Select(under=Path("one")))[0].sessions == 1
    assert index.days(UTC, Select(under=logs / "two"))[0].sessions == 2
    assert index.days(UTC, Select(agents=frozenset({"plain"})))[0].sessions == 2
    assert index.days(UTC, Select(agents=frozenset({"codex"}))) == []
    assert index.left_out(Select(root=logs, under=logs / "one")) == 1


def test_a_clones_project_is_the_work_tree_around_it(tmp_path, monkeypatch):
    clone = tmp_path / "home/work/project/memory"
    clone.mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert project_of(clone) == clone
    (tmp_path / "home/.git").mkdir()
    assert project_of(clone) == clone  # a home folder under git is no project
    (clone.parent / ".git").write_text("gitdir: elsewhere")
    assert project_of(clone) == clone.parent
    assert file_of(clone) == clone / ".replica" / "sessions.db"


# --- the file


def test_an_index_of_a_newer_program_is_not_touched(tmp_path):
    path = tmp_path / "sessions.db"
    Index.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(UnknownSchema, match="schema 99"):
        Index.open(path)


def test_what_is_no_index_is_told_and_kept(tmp_path):
    path = tmp_path / "sessions.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="damaged"):
        Index.open(path)
    assert path.read_bytes() == b"not a database" * 100
    with pytest.raises(StoreError, match="cannot be written"):
        Index.open(tmp_path / "missing" / "sessions.db")


def many(folder: Path, logs: int, lines: int) -> int:
    """Logs that repeat one another; returns how many events there are in all."""
    for n in range(logs):
        told = [f'{{"cwd": "/work/{n}"}}\n', "broken\n"]
        told += [
            line(key=f"{i}" if i % 5 == 0 else f"{n}.{i}", session=f"s{n}", at=i * 1_000, text=f"{i} and {SECRET}")
            for i in range(lines)
        ]
        (folder / f"{n:03}.log").write_text("".join(told))
    shared = len(range(0, lines, 5))
    return shared + logs * (lines - shared)


def scanning_process(index: Path, folder: Path, batch: int = 50) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.sessions.plain", str(index), str(folder), str(batch)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def content(index: Index) -> tuple:
    """All there is, other than the numbers of rows."""
    logs = dict(index.rows("SELECT n, path FROM logs"))
    told = [(agent, session, logs[n]) for agent, session, n in index.rows("SELECT * FROM told")]
    return (
        everything(index), sorted(index.rows("SELECT * FROM folders")), sorted(told),
        index.rows("SELECT path, size, modified, offset, line, head FROM logs ORDER BY path"),
        sorted(index.rows("SELECT key, redacted FROM events")), scanning._damaged(index, {}),
    )  # fmt: skip


def test_two_processes_that_scan_at_once_double_nothing(tmp_path, logs):
    count = many(logs, 6, 300)
    processes = [scanning_process(tmp_path / "sessions.db", logs) for _ in range(3)]
    new = [int(process.communicate(timeout=120)[0].split()[1]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(new) == count
    with Index.open(tmp_path / "sessions.db") as index, Index.open(tmp_path / "alone.db") as alone:
        assert scan(index, logs)[:2] == (0, 0)
        scan(alone, logs)
        assert content(index) == content(alone)


def test_who_is_killed_anywhere_leaves_it_whole_and_the_next_goes_on(tmp_path, logs):
    count, chance, path = many(logs, 5, 1_000), random.Random(6), tmp_path / "sessions.db"
    seen = [0]
    for _ in range(10):
        process = scanning_process(path, logs, 10)
        assert process.stdout.readline() == "begun\n"
        time.sleep(chance.random() * 0.12)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        with Index.open(path) as index:
            assert index.rows("PRAGMA integrity_check") == [("ok",)]
            ((there,),) = index.rows("SELECT count(*) FROM events")
            assert seen[-1] <= there <= count
            seen.append(there)
    assert any(0 < there < count for there in seen), "none was killed on the way"
    with Index.open(path) as index, Index.open(tmp_path / "alone.db") as alone:
        scan(index, logs)
        scan(alone, logs)
        assert content(index) == content(alone) and len(everything(index)) == count


# --- with the readers of real formats


def test_the_samples_are_each_there_once_and_again_read_nothing(index):
    first = index.scan(discover(None, SAMPLES))
    assert first.read > 1_000_000 and first.redacted == Counter({"ANTHROPIC-KEY": 1})
    assert len(first.damaged) == 11 and all(one.line for one in first.damaged)
    assert index.scan(discover(None, SAMPLES)) == (0, 0, first.damaged, Counter())
    days = {one.date.isoformat(): one.messages for one in index.days(UTC)}
    assert {"2026-04-10", "2026-04-14", "2026-04-15"} <= set(days)
    project = Select(root=Path("/home/mira/work/saltmarsh"))
    assert 0 < sum(one.messages for one in index.days(UTC, project)) < sum(days.values())
    assert index.left_out(project) > 0


def test_an_archived_copy_of_a_sample_adds_nothing(index, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(SAMPLES / "openclaw", copy)
    index.scan(discover(None, copy))
    before = everything(index)
    for file in list(copy.rglob("sessions/*.jsonl")):
        shutil.copy(file, file.with_name(file.name + ".reset.2026-04-20T07-02-11.402Z"))
    again = index.scan(discover(None, copy))
    assert (again.read > 0, again.new) == (True, 0)
    assert everything(index) == before


def test_a_stores_sessions_have_each_their_own_folder(index, tmp_path):
    store = tmp_path / "openclaw-agent.sqlite"
    shutil.copy(next(SAMPLES.rglob("openclaw-agent.sqlite")), store)
    with closing(sqlite3.connect(store)) as db:
        rows = db.execute("SELECT * FROM transcript_events ORDER BY rowid").fetchall()
        names = [row[1] for row in db.execute("PRAGMA table_info(transcript_events)")]
        session = rows[0][names.index("session_id")]
        for row in rows:
            one = dict(zip(names, row, strict=True))
            if isinstance(one["event_json"], str) and one["event_json"]:
                one["event_json"] = (
                    one["event_json"].replace(session, "other").replace("/home/mira/.openclaw/workspace", "/elsewhere")
                )
                one["event_json"] = one["event_json"].replace("2026-10-0", "2026-11-0")
                one["session_id"] = "other"
                marks = ",".join("?" * len(names))
                db.execute(f"INSERT INTO transcript_events VALUES({marks})", tuple(one.values()))
        db.commit()
    index.scan(discover(None, store))
    folders = {row[1]: row[2] for row in index.rows("SELECT * FROM folders")}
    assert folders == {session: "/home/mira/.openclaw/workspace", "other": "/elsewhere"}
