"""Backfill and compare: a file, a folder, and clones that write the same day while apart."""

from datetime import UTC, date
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replica import tidy
from replica.errors import UsageError
from replica.sessions import backfill as filling
from replica.sessions import daily, days
from replica.sessions.backfill import Documents, Files, Options
from replica.sessions.base import Event
from replica.sessions.daily import FOOTER
from tests.helpers import Network, assert_same, read, save
from tests.sessions import bakery

DAY = date(2026, 5, 6)
PATH = "memory/2026-05-06.md"
HAND = "# Wednesday\n\nInês called about the mill.\n\n- todo\n- todo\n"


def events(only: str = "") -> list[Event]:
    return bakery.day(only)[0]


def rendered(only: str = "") -> str:
    return daily.render(daily.generate(bakery.DAY, events(only), bakery.ZONE, bakery.day()[1]))


def fill(memory, some: list[Event] | None = None, *, dry_run: bool = False, **options) -> filling.Day:
    some = events() if some is None else some
    return filling.backfill(memory, DAY, some, bakery.ZONE, bakery.day()[1], Options(**options), dry_run=dry_run)


# --- a folder that is no clone's


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path / "memory")


def text_of(files: Files) -> str:
    return Path(files.path("2026-05-06")).read_bytes().decode()


def test_a_missing_day_is_created_and_then_unchanged(files):
    assert fill(files).action == "created"
    assert text_of(files) == rendered()
    assert fill(files).action == fill(files, force=True).action == "unchanged"


def test_a_day_that_is_complete_is_not_told_again(files, monkeypatch):
    fill(files)
    monkeypatch.setattr(daily, "generate", None)
    assert fill(files).action == fill(files, events("claude")).action == "unchanged"


def test_an_incomplete_day_is_updated_without_being_asked_twice(files):
    fill(files, events("claude"))
    save_below = text_of(files) + HAND
    Path(files.path("2026-05-06")).write_bytes(save_below.encode())
    done = fill(files)
    assert (done.action, done.messages) == ("updated", 60)
    assert done.models == ("gpt-5.4", "claude-opus-4-6", "claude-haiku-4-5", "gemini-3-pro")
    assert text_of(files) == rendered() + HAND


def test_nothing_is_written_in_a_dry_run(files):
    done = fill(files, dry_run=True)
    assert (done.action, done.old, done.new) == ("created", "", rendered())
    assert not files.folder.exists()


@pytest.mark.parametrize("options", [{"preserve": True}, {"force": True}, {"preserve": True, "force": True}])
def test_what_a_person_wrote_survives_every_combination(files, options):
    files.folder.mkdir()
    hand = "﻿# Mine\r\n\r\n- 🌊 one\r\nno end".encode()
    Path(files.path("2026-05-06")).write_bytes(hand)
    done = fill(files)
    assert done.action == "skipped" and "--preserve" in done.reason
    assert Path(files.path("2026-05-06")).read_bytes() == hand
    assert fill(files, **options).action == "updated"
    assert text_of(files).endswith("# Mine\r\n\r\n- 🌊 one\r\nno end")
    again = text_of(files)
    fill(files, **options)
    assert text_of(files) == again


def test_an_edited_part_is_skipped_with_a_reason_until_force(files):
    fill(files, events("claude"))
    edited = text_of(files).replace("## Key Decisions", "## Key Decisions\n\n- And we sell the car.") + HAND
    Path(files.path("2026-05-06")).write_bytes(edited.encode())
    done = fill(files, preserve=True)
    assert done.action == "skipped" and "sell the car" in done.reason and "--force" in done.reason
    assert text_of(files) == edited
    assert fill(files, force=True).action == "updated"
    assert text_of(files) == rendered() + HAND


def test_a_day_of_which_the_logs_hold_less_than_memory_keeps_it(files):
    fill(files)
    assert fill(files, events("claude")).action == "unchanged"
    assert fill(files, events("claude"), force=True).action == "unchanged"
    assert text_of(files) == rendered()


def test_a_file_that_cannot_be_read_is_skipped(files):
    files.folder.mkdir()
    Path(files.path("2026-05-06")).write_bytes(b"\xff\xfe")
    assert fill(files, force=True).reason == "it is not UTF-8 text"


def test_a_summary_is_made_of_the_day_kept_and_made_anew_of_more(files):
    asked = []

    def summarise(day: str, some: list[Event], existing: str) -> str:
        asked.append((day, len(some), existing))
        return f"Summary {len(asked)}.\n\n- a point"

    fill(files, events("claude"), summarise=summarise)
    assert "## Summary\n\nSummary 1.\n\n- a point\n\n## Topics" in text_of(files)
    assert fill(files, events("claude"), summarise=summarise).action == "unchanged"
    assert fill(files).action == "updated" and "Summary 1." in text_of(files)
    fill(files, summarise=summarise)
    assert "Summary 2." in text_of(files) and "Summary 1." not in text_of(files)
    assert asked[1] == ("2026-05-06", len(events()), "Summary 1.\n\n- a point")


# --- compare


class Logs:
    def __init__(self, of: dict[date, list[Event]]):
        self.of = of

    def days(self):
        for day, some in self.of.items():
            spoken = [event for event in some if event.is_message]
            yield day, len(spoken), len({event.session for event in spoken})

    def events(self, day):
        return self.of.get(day, [])


def test_gaps_come_first_and_today_is_none(files):
    names = ["missing", "sparse", "empty", "hand", "complete", "today", "older tool", "older tool, sparse"]
    of = {date(2026, 6, at + 1): events() for at in range(len(names))}
    files.folder.mkdir()

    def write(at: int, text: str) -> None:
        (files.folder / f"2026-06-{at + 1:02}.md").write_text(text)

    def part(at: int, only: str = "") -> str:
        return daily.render(daily.generate(f"2026-06-{at + 1:02}", events(only), bakery.ZONE))

    older = "# 2026-06-07 (Sunday)\n\n*Auto-generated from {} session messages*\n\n---\n\n" + FOOTER + "\n"
    write(1, part(1, "claude"))
    write(2, "# A title\n\n---\n")
    write(3, "Something by hand.\n")
    write(4, part(4))
    write(6, older.format(60))
    write(7, older.format(59))
    (files.folder / "2026-01-01.md").write_text("Old and by hand.\n")
    found = filling.compare(Logs(of), files, date(2026, 6, 6))
    states = {one.date: one.memory for one in found}
    assert [states[f"2026-06-{at:02}"] for at in range(1, 9)] == [
        "missing", "sparse", "sparse", "hand-written", "complete", "missing", "complete", "sparse"
    ]  # fmt: skip
    assert [one.date[5:] for one in found] == [
        "06-01", "06-08", "06-03", "06-02", "06-04", "06-07", "06-06", "06-05", "01-01"
    ]  # fmt: skip
    assert [one.date for one in found if one.today] == ["2026-06-06"]
    assert [one.date for one in filling.compare(Logs(of), files, date(2026, 6, 6), date(2026, 6, 7))] == [
        "2026-06-08", "2026-06-07"
    ]  # fmt: skip


def test_a_part_that_tells_more_of_other_sessions_is_sparse_where_one_is_missing(files):
    fill(files, events("claude"))
    logs = Logs({DAY: events("gemini")})
    assert filling.compare(logs, files, date(2026, 6, 1))[0].memory == "sparse"
    fill(files)
    assert filling.compare(logs, files, date(2026, 6, 1))[0].memory == "complete"


# --- which day


def test_a_day_may_be_named_as_people_do():
    now = 1_778_111_000_000  # 2026-05-06T23:43:20Z
    lisbon = days.named("Europe/Lisbon")
    assert days.day("today", UTC, now) == date(2026, 5, 6)
    assert days.day("today", lisbon, now) == date(2026, 5, 7)
    assert days.day("Yesterday", UTC, now) == date(2026, 5, 5)
    assert days.day("3d", UTC, now) == date(2026, 5, 3)
    assert days.day("2026-04-14", UTC, now) == date(2026, 4, 14)
    for wrong in ("2026-13-01", "14.4.2026", "", "20260414", "2026-W01-1", "-1d"):
        with pytest.raises(UsageError):
            days.day(wrong, UTC, now)


def test_the_zone_is_what_was_given_then_what_is_configured_then_the_hosts(monkeypatch):
    assert days.zone("Asia/Tokyo", "Europe/Berlin")[1:] == ("Asia/Tokyo", "--timezone")
    assert days.zone(None, "Europe/Berlin")[1:] == ("Europe/Berlin", "replica.toml")
    monkeypatch.setenv("TZ", "America/New_York")
    assert days.zone(None, None)[1:] == ("America/New_York", "this host")
    for wrong in ("Europe/Berln", "../etc/passwd", "Europe", ""):
        with pytest.raises(UsageError):
            days.zone(wrong, None)


# --- clones


@pytest.fixture(params=["text", "union"])
def network(request):
    with Network("a", "b") as network:
        rules = f'[[documents]]\nglob = "**/????-??-??.md"\npolicy = "{request.param}"\n'
        save(network["a"], "replica.toml", rules + '[[documents]]\nglob = "**/*.md"\npolicy = "text"\n')
        network.share()
        network.policy = request.param
        yield network


def on(network, name: str, only: str = "", **options) -> filling.Day:
    """What the command does, on one clone."""
    network.run(name)
    tidy.tidy(network[name])
    done = fill(Documents(network[name], "memory"), events(only), **options)
    network.run(name)
    return done


def meet(network) -> None:
    """Everyone meets, and each puts right what it sees, as start and save do, until nobody has anything to do."""
    for _ in range(6):
        network.share()
        if not any([tidy.tidy(clone).changed for clone in network.clones.values()]):
            break
    else:
        raise AssertionError("tidying does not come to rest")
    network.share()
    assert_same(*network.clones.values())
    assert read(network["a"], PATH) == read(network["b"], PATH)


def conflicts(network) -> list:
    return network["a"].documents.conflicts(network["a"].document(PATH))


def test_clones_with_the_same_logs_that_write_the_same_day_have_it_once(network):
    assert on(network, "a").action == on(network, "b").action == "created"
    meet(network)
    assert read(network["a"], PATH) == rendered()
    assert conflicts(network) == []
    assert on(network, "a").action == "unchanged"


def test_above_a_file_written_by_hand_it_stands_once(network):
    save(network["a"], PATH, HAND)
    network.share()
    assert on(network, "a").action == "skipped"
    assert on(network, "a", preserve=True).action == on(network, "b", preserve=True).action == "updated"
    meet(network)
    assert read(network["a"], PATH) == rendered() + "\n" + HAND
    assert conflicts(network) == []
    assert on(network, "b").action == "unchanged"


def test_clones_with_different_logs_have_the_lines_of_both(network):
    on(network, "a", "claude")
    on(network, "b", "gemini")
    meet(network)
    both = daily.parse(read(network["a"], PATH))
    assert {told.agent for told in both.part.sessions} == {"claude-code", "gemini"}
    assert not both.edited
    on(network, "a", "claude")
    meet(network)
    text = read(network["b"], PATH)
    assert "*Auto-generated from 42 session messages*" in text
    assert daily.parse(text).whole
    assert conflicts(network) == []


def test_clones_that_each_learn_of_another_session_end_with_both(network):
    on(network, "a", "claude")
    meet(network)
    claude = events("claude")
    fill(Documents(network["a"], "memory"), claude + events("gemini"))
    fill(Documents(network["b"], "memory"), claude + events("openclaw"))
    meet(network)
    on(network, "b", "claude")
    meet(network)
    assert read(network["a"], PATH) == rendered()


def test_hand_written_parts_of_both_clones_merge_and_the_generated_part_stays(network):
    on(network, "a")
    meet(network)
    save(network["a"], PATH, read(network["a"], PATH) + "\n- from a\n")
    network.run("a")
    save(network["b"], PATH, read(network["b"], PATH) + "\n- from b\n")
    network.run("b")
    on(network, "a", "claude"), on(network, "b", "gemini")
    meet(network)
    text = read(network["a"], PATH)
    assert text.startswith(rendered())
    assert sorted(line for line in text[len(rendered()) :].splitlines() if line) == ["- from a", "- from b"]


def test_a_day_written_by_hand_while_another_clone_generates_it_keeps_both(network):
    on(network, "a")
    save(network["b"], PATH, HAND)
    network.run("b")
    meet(network)
    text = read(network["a"], PATH)
    assert all(line in text for line in HAND.splitlines())
    on(network, "b", preserve=True)
    meet(network)
    text = read(network["a"], PATH)
    assert all(line in text for line in HAND.splitlines())
    assert text.count("*Auto-generated") == 1


def test_a_save_that_was_not_taken_in_yet_is_taken_in_first(network):
    on(network, "a", "claude")
    save(network["a"], PATH, read(network["a"], PATH) + "\nmine\n")
    on(network, "a")
    assert read(network["a"], PATH) == rendered() + "\nmine\n"


def test_an_update_changes_lines_of_the_generated_part_only():
    with Network("a") as network:
        on(network, "a", "claude")
        clone = network["a"]
        before = clone.text(PATH)
        on(network, "a")
        after = clone.text(PATH)
        kept = sum(len(line) for line in before.splitlines(keepends=True) if line in after)
        changes = daily.file_edits(before, after)
        assert sum(end - start for start, end, _ in changes) <= len(before) - kept
        assert all(text == "" or text.endswith("\n") for *_, text in changes)


def test_three_clones_that_tidy_what_they_see_at_different_times_end_alike():
    with Network("a", "b", "c") as network:
        save(network["a"], PATH, HAND)
        network.share()
        for name, only in (("a", ""), ("b", "claude"), ("c", "gemini")):
            on(network, name, only, preserve=True)
        network.sync("a", "b")
        for name in "ab":
            network.run(name), tidy.tidy(network[name])
        network.sync("b", "c")
        network.run("c"), tidy.tidy(network["c"])
        meet(network)
        text = read(network["c"], PATH)
        assert text.startswith(rendered()) and text[len(rendered()) :].strip() + "\n" == HAND
        assert conflicts(network) == []


def test_an_edit_inside_the_generated_part_survives_an_update_made_elsewhere(network):
    on(network, "a", "claude")
    meet(network)
    text = read(network["b"], PATH)
    save(network["b"], PATH, text.replace("## Key Decisions\n", "## Key Decisions\n\n- We sell the car.\n"))
    network.run("b")
    on(network, "a")
    meet(network)
    assert "- We sell the car.\n" in read(network["a"], PATH)
    done = on(network, "a")
    assert done.action == "skipped" and "sell the car" in done.reason


def random_days(network: Network, random: Random, steps: int) -> tuple[daily.Part, set[str]]:
    """Clones with different logs, that grow, write one day and meet now and then; all that they told of it, and wrote
    below it by hand."""
    agents = ["claude", "gemini", "openclaw"]
    logs = {name: random.sample(agents, random.randrange(1, 3)) for name in network.clones}
    whole, hand = daily.Part(bakery.DAY), set()
    for step in range(steps):
        name, what = random.choice(list(network.clones)), random.random()
        if what < 0.5 or not step:
            known = [event for only in logs[name] for event in events(only)]
            if random.random() < 0.4:  # the log goes on later
                end = random.choice(known[len(known) // 3 :]).at
                known = [event for event in known if event.at <= end]
            network.run(name), tidy.tidy(network[name])
            fill(Documents(network[name], "memory"), known)
            whole = daily.unite(whole, daily.generate(bakery.DAY, known, bakery.ZONE, bakery.day()[1]))
            network.run(name), tidy.tidy(network[name])
        elif what < 0.6:
            tidy.tidy(network[name])
        elif what < 0.7 and network[name].documents.find(PATH, "text").alive:
            network.run(name)
            hand.add(f"- {len(hand)} by {name}")
            save(network[name], PATH, f"{read(network[name], PATH)}\n- {len(hand) - 1} by {name}\n")
            network.run(name)
        else:
            network.sync(*random.sample(list(network.clones), 2))
    return whole, hand


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 3]))
@example(2373, 2)
def test_whatever_clones_with_different_logs_do_at_once_each_line_is_there_once(seed, count):
    random = Random(seed)
    with Network(*"abc"[:count], seed=seed) as network:
        whole, hand = random_days(network, random, random.randrange(5, 25))
        meet(network)
        text = read(network["a"], PATH)
        page = daily.parse(text)
        assert text.startswith(daily.render(whole)) and page.whole
        assert sorted(line for line in page.by_hand.splitlines() if line) == sorted(hand)
        # A person is asked where several have written by hand at one place, or one has where the other took away.
        for conflict in conflicts(network):
            sides = [version.text for version in conflict.versions[1:]]
            assert "" in sides or len({daily.lines_by_hand(side) for side in sides} - {()}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_who_has_not_heard_of_a_review_yet_keeps_the_same_lines_as_who_has(seed, monkeypatch):
    with Network("a", "b", seed=seed) as network:
        for name, only in (("a", "claude"), ("b", "gemini")):
            network.run(name)
            fill(Documents(network[name], "memory"), events(only))
        network.share()
        for name in "ab":  # both put right the same, so that it stands there twice
            tidy.tidy(network[name])
        network.sync("a", "b")
        tidy.tidy(network["a"])
        with monkeypatch.context() as late:
            late.setattr("replica.regions._is_decision", lambda *_: False)
            tidy.tidy(network["b"])
        meet(network)
        part = daily.generate(bakery.DAY, events("claude") + events("gemini"), bakery.ZONE, bakery.day()[1])
        assert read(network["a"], PATH) == daily.render(part)


def test_what_comes_in_while_a_day_is_made_is_kept(network):
    on(network, "a", "claude")
    memory, meanwhile = Documents(network["a"], "memory"), []

    def summarise(*_) -> str:  # takes its time
        if not meanwhile:
            meanwhile.append(1)
            save(network["a"], PATH, read(network["a"], PATH) + "\nwritten meanwhile\n")
            network.run("a")
        return "A summary."

    assert fill(memory, summarise=summarise).action == "updated"
    text = network["a"].text(PATH)
    assert text.endswith("\nwritten meanwhile\n") and "A summary." in text and daily.parse(text).whole
