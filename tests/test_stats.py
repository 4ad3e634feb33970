"""The measures: what a node records of its meetings, what is made of it, and that it is no trouble to anything else."""

import asyncio
import io
import sqlite3
import stat
from datetime import UTC

import msgpack
import pytest

from cli import stats as cli_stats
from replica import compact, decisions, measures
from replica.measures import FILE, Record
from replica.places import FOLDER
from tests.helpers import START, Network, add, entry
from tests.test_cli_memory import fresh, replica  # noqa: F401 - fixtures
from tests.test_node import admitted, at, founder, on_loopback, running, until  # noqa: F401 - a fixture


@pytest.fixture
def pair():
    with Network("alice", "bob") as network:
        yield network


def recorded(clone, *, meetings=(), reached=()) -> Record:
    """A record in which a node has noted this."""
    record = Record(clone.root)
    record.begin(clone)
    for peer, ms, ok in meetings:
        record.met(peer.identity.id, clone.log.now_ms() - ms, ms, ok=ok)
    for peer, before, held, when in reached:
        record.reached(clone.identity.id, peer.identity.id, before, held, when)
    record.flush(clone)
    return record


def rows(clone, sql):
    with sqlite3.connect(clone.root / FOLDER / FILE) as db:
        return db.execute(sql).fetchall()


# --- what is not known is not 0


def test_a_clone_that_recorded_nothing_knows_nothing(pair):
    found = measures.stats(pair["alice"])
    unknown = (
        "since", "sync_success", "conflicts_per_1000", "conflicts", "time_to_sync_p50", "time_to_sync_p95",
        "time_to_all_p50", "time_to_all_p95",
    )  # fmt: skip
    assert {name: found[name] for name in unknown} == dict.fromkeys(unknown)
    assert found["changes"] == sum(pair["alice"].vector().values()) > 0


def test_no_conflict_among_changes_that_were_seen_is_0(pair):
    recorded(pair["alice"])
    assert measures.stats(pair["alice"])["conflicts_per_1000"] == 0


def test_success_is_the_share_of_the_meetings_that_came_in_step(pair):
    alice, bob = pair["alice"], pair["bob"]
    recorded(alice, meetings=[(bob, 100, True), (bob, 100, True), (bob, 3_000, False), (bob, 5, True)])
    found = measures.stats(alice)
    assert (found["sync_success"], found["meetings"]) == (0.75, 4)


def test_meetings_with_who_does_not_belong_any_more_do_not_count(pair):
    alice, bob = pair["alice"], pair["bob"]
    recorded(alice, meetings=[(bob, 100, False)])
    alice.remove("bob")
    assert measures.stats(alice)["sync_success"] is None


def test_what_is_older_than_the_window_does_not_count(pair):
    alice, bob = pair["alice"], pair["bob"]
    recorded(alice, meetings=[(bob, 100, False)])
    pair.now += measures.WINDOW + 1_000
    assert measures.stats(alice)["meetings"] == 0


# --- how long an edit takes


def test_the_time_to_sync_is_from_an_edit_until_the_peer_is_known_to_hold_it(pair):
    alice, bob = pair["alice"], pair["bob"]
    before = alice.vector()[alice.identity.id]
    times = (50, 100, 900, 20_000)
    for at_, ms in enumerate(times):
        pair.now += 60_000
        add(alice, "a-buffer.md", f"- {at_}")
        made, pair.now = pair.now, pair.now + ms
        recorded(alice, reached=[(bob, before + at_, before + at_ + 1, made + ms)])
    found = measures.stats(alice)
    assert (found["time_to_sync_p50"], found["time_to_sync_p95"]) == (0.1, 20.0)
    assert [row["count"] for row in found["times"]][:5] == [2, 0, 1, 0, 0]


def test_to_all_counts_when_the_last_has_it_and_not_before():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        before = alice.vector()[alice.identity.id]
        network.now += 1_000
        add(alice, "a-buffer.md", "- x")
        made, network.now = network.now, network.now + 9_000
        recorded(alice, reached=[(bob, before, before + 1, made + 40)])
        assert measures.stats(alice)["time_to_all_p50"] is None
        recorded(alice, reached=[(carol, before, before + 1, made + 7_000)])
        assert measures.stats(alice)["time_to_all_p50"] == 7.0
        assert measures.stats(alice)["time_to_sync_p50"] == 0.04


def test_what_was_written_before_a_member_came_measures_nothing(pair):
    alice = pair["alice"]
    add(alice, "a-buffer.md", "- old")
    pair.now += 86_400_000
    carol = pair.add("carol")
    held = alice.vector()[alice.identity.id]
    recorded(alice, reached=[(carol, 0, held, pair.now + 10)])
    assert measures.stats(alice)["time_to_sync_p50"] is None


def test_a_clock_that_is_ahead_makes_the_times_unknown_and_not_short(pair):
    alice, bob = pair["alice"], pair["bob"]
    now, pair.now = pair.now, pair.now + 3_600_000
    add(bob, "a-buffer.md", "- from an hour ahead")
    pair.now = now
    pair.sync_all()
    before = alice.vector()[alice.identity.id]
    add(alice, "a-buffer.md", "- x")
    recorded(alice, reached=[(bob, before, before + 1, now + 3_700_000)])
    assert measures.stats(alice)["time_to_sync_samples"] == 0


def test_a_clock_that_was_set_back_makes_the_times_unknown(pair):
    alice, bob = pair["alice"], pair["bob"]
    before = alice.vector()[alice.identity.id]
    pair.now += 1_000
    add(alice, "a-buffer.md", "- x")
    recorded(alice, reached=[(bob, before, before + 1, pair.now - 500)])
    assert measures.stats(alice)["time_to_sync_samples"] == 0


def test_of_many_changes_at_once_a_few_are_recorded_the_same_for_every_peer():
    with Network("alice", "bob", "carol") as network:
        alice = network["alice"]
        before = alice.vector()[alice.identity.id]
        network.now += 1_000
        for at_ in range(500):
            add(alice, "a-buffer.md", f"- {at_}")
        held, now = before + 500, network.now + 100
        recorded(alice, reached=[(network["bob"], before, held, now), (network["carol"], before + 250, held, now)])
        found = measures.stats(alice)
        assert 20 <= found["time_to_all_samples"] <= found["time_to_sync_samples"] <= 3 * measures.SAMPLES


def test_a_peer_that_claims_to_hold_what_is_not_there_costs_nothing(pair):
    alice, bob = pair["alice"], pair["bob"]
    recorded(alice, reached=[(bob, 0, 2**62, pair.now + 5)])
    assert len(rows(alice, "SELECT * FROM arrivals")) <= measures.SAMPLES


# --- conflicts


def test_each_conflict_counts_once_also_when_it_is_settled(pair):
    alice, bob = pair["alice"], pair["bob"]
    record = recorded(alice)
    for at_ in range(3):
        for clone in (alice, bob):
            old = clone.entries("activeContext.md") if at_ else []
            dots = [dot for entry in old for dot in entry.dots]
            clone.edit_entries("activeContext.md", "latest", [(1, entry(f"{clone.name} {at_}", kills=dots))])
        pair.sync_all()
        for _ in range(2):
            record.took()
            record.flush(alice)
        decisions.resolve(alice, alice.documents.all_conflicts()[0].id, keep="v1")
        pair.sync_all()
    found = measures.stats(alice)
    assert found["conflicts"] == 3
    assert found["conflicts_per_1000"] == round(3_000 / found["changes"], 2)


def test_regions_of_a_text_count_as_conflicts(pair):
    alice, bob = pair["alice"], pair["bob"]
    alice.edit_text("n.md", new="one line\n")
    pair.sync_all()
    record = recorded(alice)
    alice.edit_text("n.md", new="one red line\n")
    bob.edit_text("n.md", new="one blue line\n")
    pair.sync_all()
    record.took()
    record.flush(alice)
    assert len(alice.documents.all_conflicts()) == measures.stats(alice)["conflicts"] == 1


# --- days and buffers


def test_changes_are_counted_for_each_clone_and_day(pair):
    alice, bob = pair["alice"], pair["bob"]
    before = measures.per_day(alice, pair.now, UTC)["clones"]
    for clone, many in ((alice, 3), (bob, 2)):
        for at_ in range(many):
            add(clone, "a-buffer.md", f"- {clone.name} {at_}")
    pair.now += measures.DAY
    add(bob, "a-buffer.md", "- later")
    pair.sync_all()
    found = measures.per_day(alice, pair.now, UTC)
    assert found["days"][-1] == "2025-06-16" and len(found["days"]) == measures.SHOWN_DAYS
    was = {row["name"]: row["per_day"][-1] for row in before}
    now = {row["name"]: row["per_day"][-2:] for row in found["clones"]}
    assert now == {"alice": [was["alice"] + 3, 0], "bob": [was["bob"] + 2, 1]}


def test_days_whose_changes_are_folded_are_unknown(pair):
    alice, bob = pair["alice"], pair["bob"]
    alice.set_config('[history]\ndays = 1\n[[documents]]\nglob = "*.md"\n')
    for day in range(4):
        for clone in (alice, bob):
            add(clone, "a-buffer.md", f"- {clone.name} {day}")
        pair.now += measures.DAY
        pair.sync_all()
    with alice.transaction():
        held = (bob.identity.id, pair.now, msgpack.packb(bob.vector()))
        alice.store.execute("INSERT INTO peers(id, seen, vector) VALUES(?,?,?)", held)
    assert compact.compact(alice).folded > 0
    found = measures.per_day(alice, pair.now, UTC)["clones"]
    assert all(None in row["per_day"] and row["per_day"][-1] is not None for row in found)


def test_level_0_is_in_no_figure(pair):
    alice = pair["alice"]
    before = measures.stats(alice)
    add(alice, "private.md", "- mine", level=0)
    after = measures.stats(alice)
    assert (after["changes"], after["clones"]) == (before["changes"], before["clones"])


def test_a_buffer_says_how_many_wait_and_since_when(replica):  # noqa: F811
    replica("add", "lessons-buffer.md", "first")
    (buffer,) = (row for row in replica.json("stats")["buffers"] if row["document"] == "lessons-buffer.md")
    assert buffer["entries"] == 1 and 0 <= buffer["age"] < 60 and buffer["oldest"].startswith("20")


# --- the file


@pytest.mark.parametrize("content", [b"", b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 4_000])
def test_a_damaged_record_begins_anew_and_is_no_trouble(pair, content):
    alice, bob = pair["alice"], pair["bob"]
    recorded(alice, meetings=[(bob, 1, True)])
    (alice.root / FOLDER / FILE).write_bytes(content)
    assert measures.stats(alice)["sync_success"] is None
    recorded(alice, meetings=[(bob, 1, False)])
    assert measures.stats(alice)["sync_success"] == 0.0


def test_a_record_that_cannot_be_written_is_no_trouble_and_holds_up_nobody(pair, monkeypatch):
    alice, bob = pair["alice"], pair["bob"]
    (alice.root / FOLDER / FILE).mkdir()
    record = recorded(alice, meetings=[(bob, 1, True)])
    monkeypatch.setattr(measures, "MOST_WAITING", 3)
    for _ in range(10):
        record.met(bob.identity.id, START, 1, ok=True)
        record.flush(alice)
    assert len(record._meetings) == 3
    assert measures.stats(alice)["sync_success"] is None


def test_rows_with_something_else_in_them_are_passed_over(pair):
    alice, bob = pair["alice"], pair["bob"]
    recorded(alice, meetings=[(bob, 1, True)])
    with sqlite3.connect(alice.root / FOLDER / FILE) as db:
        db.execute("INSERT INTO meetings(at, peer, ok, ms) VALUES('x', 7, x'00', NULL)")
        db.execute("INSERT INTO arrivals VALUES('x', 7, 'y', 2e18, 'z')")
    assert measures.stats(alice)["sync_success"] == 1.0


def test_the_record_is_bounded_and_keeps_the_newest(pair, monkeypatch):
    alice, bob = pair["alice"], pair["bob"]
    monkeypatch.setattr(measures, "MOST_MEETINGS", 20)
    monkeypatch.setattr(measures, "MOST_ARRIVALS", 20)
    for at_ in range(60):
        pair.now += 1_000
        before = alice.vector()[alice.identity.id]
        add(alice, "a-buffer.md", f"- {at_}")
        recorded(alice, meetings=[(bob, 1, True)], reached=[(bob, before, before + 1, pair.now + 5)])
    assert len(rows(alice, "SELECT * FROM meetings")) == 20
    kept = [made for (made,) in rows(alice, "SELECT made FROM arrivals ORDER BY made")]
    assert 10 <= len(kept) <= 20 and kept[-1] == pair.now


def test_nobody_else_may_read_the_record(pair):
    recorded(pair["alice"])
    assert stat.S_IMODE((pair["alice"].root / FOLDER / FILE).stat().st_mode) == 0o600


# --- what a node notes


def test_nodes_that_meet_record_it_and_how_long_an_edit_took(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: a.peers and b.peers and a.in_step and b.in_step, b)
                alice.edit_text("n.md", new="x")
                await until(lambda: bob.vector() == alice.vector() and a.in_step, a)
            found = measures.stats(alice)
            assert (found["sync_success"], found["meetings"], found["time_to_sync_samples"]) == (1.0, 1, 1)
            assert 0 <= found["time_to_sync_p50"] == found["time_to_all_p50"] < 10
            there = measures.stats(bob)
            assert (there["sync_success"], there["time_to_sync_p50"]) == (1.0, None)

    asyncio.run(story())


def test_a_meeting_that_ends_with_a_reason_has_failed(tmp_path):
    async def story():
        heard = []
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)], heard) as b:
                await until(lambda: b.peers and b.in_step, b)
                alice.remove("bob")
                await until(lambda: any(e["event"] == "disconnected" for e in heard), b)
            found = measures.stats(bob)
            assert found["meetings"] >= 2 and found["sync_success"] < 1

    asyncio.run(story())


# --- what a person sees


def test_stats_on_a_terminal_has_a_line_for_every_measure(replica):  # noqa: F811
    out = replica("stats")
    for title in ("sync success", "time to sync", "time to all", "conflicts", "changes", "laptop"):
        assert title in out
    assert out.count("unknown") >= 4 and out.isascii()
    assert "nothing is recorded yet" in replica.err


def test_a_plot_is_of_blocks_where_they_can_be_shown_and_of_ascii_elsewhere():
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    utf8, latin = (Terminal(io.BytesIO(), encoding=encoding) for encoding in ("utf-8", "latin-1"))
    assert cli_stats.levels(utf8) == cli_stats.BLOCKS
    assert cli_stats.levels(latin) == cli_stats.levels(io.TextIOWrapper(io.BytesIO(), "utf-8")) == cli_stats.PLAIN


def test_bars_are_higher_for_more_and_tell_nothing_from_unknown():
    assert cli_stats.bars([0, 1, 4, 8, None], cli_stats.BLOCKS) == "| ▁▄█?|"
    assert cli_stats.bars([], cli_stats.PLAIN) == "||"
    assert cli_stats.bars([0, 0], cli_stats.PLAIN) == "|  |"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "40 ms"), (1.3, "1.3 s"), (90, "1.5 min"), (7200, "2.0 h"), (200_000, "2.3 days")]
)
def test_durations_are_said_in_a_fitting_unit(seconds, words):
    assert cli_stats.duration(seconds) == words
