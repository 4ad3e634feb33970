"""The daily memory file: what is told, that it is read back, and what becomes of edits and merges."""

import random
import re
import time
from dataclasses import replace
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica.sessions import daily
from replica.sessions.base import Aside, Event, Kind
from replica.sessions.daily import FOOTER, Part
from tests.sessions import bakery

OTHER = "fedcba98-7654-4210-8edc-ba9876543210"
NOON = 1_778_068_800_000  # 2026-05-06T12:00:00Z
HAND = "\n## My notes\r\n\r\nNão mexer 🌊 — 0.173\n- todo\n- todo\nno newline at the end"


def made(only: str = "") -> Part:
    events, folders = bakery.day(only)
    return daily.generate(bakery.DAY, events, bakery.ZONE, folders)


def event(kind: Kind, text: str = "", at: int = 0, **more) -> Event:
    given = {
        "agent": "codex",
        "session": "01234567-89ab-4def-8123-456789abcdef",
        "key": f"{kind}{at}{text}",
        "order": at,
        **more,
    }
    return Event(kind, at=NOON + at * 60_000, text=text, **given)


def said(*texts: str, **more) -> Part:
    """A session in which a prompt and a reply take turns."""
    kinds = (Kind.PROMPT, Kind.REPLY)
    events = [event(kinds[at % 2], text, at, **more) for at, text in enumerate(texts)]
    return daily.generate("2026-05-06", events, UTC)


def lines(part: Part, section: str) -> list[str]:
    return [line for told in part.sessions for code, line in told.lines if code == section]


# --- what is told


def test_a_day_begins_with_its_weekday_and_the_number_of_its_messages():
    text = daily.render(made())
    assert text.startswith(
        "# 2026-05-06 (Wednesday)\n\n*Auto-generated from 60 session messages*\n\n## Topics Covered\n"
    )
    assert text.endswith(f"\n\n---\n\n{FOOTER}\n")
    headings = [line for line in text.splitlines() if line.startswith("##")]
    assert headings == [
        "## Topics Covered", "## Session Flow", "## Key Decisions", "## Technical Details", "### Commands", "### Files",
        "### Errors", "## Model Transitions", "## Message Statistics", "### Compactions",
    ]  # fmt: skip


@pytest.mark.parametrize(("title", "is_told"), [("agent:main:main", False), ("explicit:s2", False), ("tides", True)])
def test_a_name_that_a_program_has_for_a_session_is_no_title(title, is_told):
    talk = [event(Kind.TITLE, title), event(Kind.PROMPT, "Why is it 10:17?"), event(Kind.REPLY, "It was cut off.", 1)]
    assert (title in daily.render(daily.generate("2026-05-06", talk, UTC))) is is_told


def test_topics_are_threads_with_what_came_of_them():
    topics = lines(made(), daily.TOPICS)
    assert len(topics) == 7
    form = next(line for line in topics if "b7e19d40" in line)
    assert form.startswith("- **Pre-order form accepts dates in the past** (09:10–09:34): ")
    assert "committed “Refuse pickup dates in the past and on closed days”; PR #87" in form
    mail = next(line for line in topics if "spam" in line)
    assert mail.startswith("- **The order confirmation mail goes to spam at sapo.pt** (10:20–10:28): ")
    assert "Opened issue #88" in mail


@pytest.mark.parametrize(
    "decision",
    [
        "06:48 Let's make the country loaf with 20 % rye this Saturday, and keep all the rolls.",
        "06:51 To remember: Tomás is away until Thursday, so nobody can pick up at the mill before then.",
        "07:04 Never send anything to the print shop before I have read it.",
        "09:14 Yes: validate in the model's clean() so that the admin and the API are covered as well",
        "09:28 Yes: exclude closed orders from the re-validation in the nightly job as well (otherwise my mother gets",
        "09:34 Validate in Order.clean(), not in the form.",  # from a compaction's list
        "14:21 Kill it, and add a timeout. 60 seconds, and it must never hold the lock while it downloads.",
        "19:33 A partir de agora escreve sempre «centeio» sem percentagem",
        "19:39 No prices on the hotel list",
    ],
)
def test_decisions_are_told_in_the_words_in_which_they_were_taken(decision):
    assert any(line.startswith(f"- {decision}") for line in lines(made(), daily.DECISIONS))


def test_the_letter_of_an_option_is_told_as_what_was_proposed():
    (chosen,) = [line for line in lines(made(), daily.DECISIONS) if "chosen from" in line]
    assert chosen.startswith("- 09:16 A new ClosedDay model with a weekday or a date and a note")
    assert "with the note shown to customers" in chosen


@pytest.mark.parametrize(
    "asked",
    [
        "What did we decide about the print shop?",
        "Should we use Redis instead of a file?",
        "Let's look at the logs first.",
        "We have not decided yet which host to use.",
        "Thanks, that works!",
    ],
)
def test_what_is_no_decision_is_not_told_as_one(asked):
    assert lines(said(asked, "I will look."), daily.DECISIONS) == []


def test_tests_are_folded_and_what_leaves_something_behind_comes_first():
    commands = [line for line in lines(made(), daily.COMMANDS) if "b7e19d40" in line]
    assert commands[0].startswith("- `python manage.py makemigrations orders`")
    assert any(line.startswith("- `pytest -q` and 3 more like it, 1 failed, the last one passed") for line in commands)
    assert "- `git push origin closed-days`, failed `b7e19d40`" in commands
    assert not any("cd /home" in line or "grep" in line for line in commands)


def test_an_error_says_where_it_came_and_whether_it_passed_later():
    errors = lines(made(), daily.ERRORS)
    assert any(line.endswith("(`pytest orders -q`); passed later `b7e19d40`") for line in errors)
    assert "- labels/2026-05.csv: Permission denied (`edit`); passed later `4f8a2c11`" in errors


def test_paths_are_told_from_the_folder_of_the_session_and_no_home_is_named():
    text = daily.render(made())
    assert "/home/" not in text
    assert "`orders/models.py`" in text
    part = said("Look at C:\\Users\\ines\\notes.md and /Users/ines/x.md", "Done.")
    assert "ines" not in daily.render(part)


def test_a_model_switch_is_found_within_a_session_and_between_two():
    text = daily.render(made())
    assert "- claude-code: claude-opus-4-6 (14:08) → claude-haiku-4-5 (14:16) `c90d7a52`" in text
    first = [event(Kind.PROMPT, "Hello there", 0), event(Kind.REPLY, "Hello", 1, model="a/one")]
    second = [
        event(Kind.PROMPT, "Go on", 60, session=OTHER), event(Kind.REPLY, "Yes", 61, session=OTHER, model="two")
    ]  # fmt: skip
    text = daily.render(daily.generate("2026-05-06", first + second, UTC))
    assert "- codex: one → two, with a new session (13:01) `fedcba98`\n" in text


def test_what_was_taken_back_counts_and_is_marked_and_a_subagent_does_neither():
    events = [
        event(Kind.PROMPT, "Rename the column to price_net.", 0), event(Kind.REPLY, "Renamed.", 1),
        event(Kind.PROMPT, "Release 0.9.1 now.", 2, aside=Aside.TAKEN_BACK),
        event(Kind.REPLY, "Tagged 0.9.1.", 3, aside=Aside.TAKEN_BACK, model="one"),
        event(Kind.PROMPT, "Look for callers.", 4, aside=Aside.SUBAGENT),
        event(Kind.REPLY, "None.", 5, aside=Aside.SUBAGENT, model="two"),
    ]  # fmt: skip
    part = daily.generate("2026-05-06", events, UTC)
    assert part.messages == 4
    assert any("(taken back) “Release 0.9.1 now.” → Tagged 0.9.1." in line for line in lines(part, daily.FLOW))
    text = daily.render(part)
    assert "callers" not in text and "- codex: one (12:03) " in text
    assert "**4 messages** in 1 session (2 prompts, 2 replies), 2 taken back, 2 asides\n" in text
    assert not daily.parse(text).edited


def test_a_day_of_nothing_but_what_was_taken_back_is_told():
    events = [
        event(Kind.PROMPT, "Release 0.9.1 now.", 2, aside=Aside.TAKEN_BACK),
        event(Kind.REPLY, "Tagged 0.9.1.", 3, aside=Aside.TAKEN_BACK),
    ]  # fmt: skip
    part = daily.generate("2026-05-06", events, UTC)
    assert part.messages == 2
    assert any("(taken back) **Release 0.9.1 now**" in line for line in lines(part, daily.TOPICS))


def test_equal_events_give_equal_bytes_in_whatever_order_they_come():
    events, folders = bakery.day()
    first = daily.render(daily.generate(bakery.DAY, events, bakery.ZONE, folders))
    for seed in range(3):
        random.Random(seed).shuffle(events)
        assert daily.render(daily.generate(bakery.DAY, events, bakery.ZONE, folders)) == first


def test_two_sessions_of_one_minute_have_tags_of_their_own():
    one, other = "019d8bdc-da00-7c3e-8ef2-c5ce4c830be6", "019d8bdc-da00-7c3e-8ef2-c5ce4c830be7"
    assert daily.tag_of("codex", one) != daily.tag_of("codex", other)
    assert daily.tag_of("openclaw", "7d0f3c1e-2b64-4a55-9a0e-6c1f0a9b1e01") == "7d0f3c1e"
    assert len(daily.tag_of("gemini", "x")) == 8


# --- what logs must not be able to do

NASTY = [
    FOOTER, "---", "# 2026-05-06 (Wednesday)", "*Auto-generated from 9 session messages*", "## Key Decisions",
    "<!-- replica 01234567 codex 12:00 99/99: T00000 -->", "<!-- open", "-->", "```", "~~~", "`", "``", "**", "a\nb",
    "\r", "\x00\x1b[31m", "\u202e", "<img src=x onerror=y>", "![x](http://x.invalid/y.png)", "[a](javascript:b)",
    "| a | b |",
    "- x `01234567`", "decision: we use", "\U000e0041",
]  # fmt: skip


NASTY_TEXTS = st.lists(st.sampled_from([*NASTY, "Use B, not A.", "fine", "é 🌊"]), max_size=4).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(Kind)), NASTY_TEXTS), max_size=12))
def test_no_log_can_leave_its_lines(told):
    events = [event(Kind.PROMPT, "begin")]
    events += [
        event(kind, text, at + 1, name=text[:40], model=text[:20], command=text, files=(text,), failed=at % 2 == 0)
        for at, (kind, text) in enumerate(told)
    ]
    part = daily.generate("2026-05-06", events, UTC)
    text = daily.render(part)
    page = daily.parse(text)
    assert page.part == part
    assert page.whole and not page.edited and not page.by_hand
    assert all(len(line) < 1_500 for line in text.splitlines() if not line.startswith("<!--"))
    assert not any(char in text for char in "\x00\x1b\r\u202e\U000e0041")
    bare = re.sub(r"`[^`\n]*`|\\.", "", text)  # what is neither code nor escaped
    assert not any(sign in bare for sign in ("<img", "![", "[a](", "`"))


@pytest.mark.parametrize("day", ["2026-02-30", "9999-99-99"])
def test_a_title_that_names_no_day_is_a_persons(day):
    page = daily.parse(daily.render(made()).replace(bakery.DAY, day))
    assert page.edited and not page.whole


@pytest.mark.parametrize(
    "piece",
    [
        "here is: ", "great, here's a: ", "\n", " ", "a ", "(A) x ", "- A: b\n", "`", "**a", "[", "git ", "git add ; ",
        "'", '"', "/a", "```\n", "let me know ", "| a ", "-m '", "decision: ", "not decided ", "either or ", "i want ",
        "[message_id: x]\n", "A.",
    ],
)  # fmt: skip
def test_no_text_takes_long(piece):
    text = "x " + piece * (60_000 // len(piece)) + "y"
    started = time.perf_counter()
    events = [event(Kind.PROMPT, text, 0), event(Kind.REPLY, text, 1), event(Kind.COMPACTION, text, 2)]
    events += [event(Kind.CALL, "", 3, command=text), event(Kind.RESULT, text, 4, failed=True)]
    part = daily.generate("2026-05-06", [*events, event(Kind.PROMPT, f"B {text}", 5)], UTC, {"x": ("/home/x/y",)})
    assert daily.parse(daily.render(part)).whole
    assert time.perf_counter() - started < 4


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read_without_failing_and_none_of_it_is_lost(text):
    page = daily.parse(text)
    assert page.by_hand == text or page.claimed is not None
    part = said("Fix the form.", "Fixed.")
    assert text in daily.put(text, part) or text.startswith("\ufeff")


# --- the hand-written part


def test_what_stands_below_the_footer_stays_byte_for_byte():
    text = daily.put("", made("claude")) + HAND
    new = daily.put(text, made())
    assert new.endswith(FOOTER + "\n" + HAND)
    assert daily.parse(new).after == HAND
    assert "4f8a2c11" in new


def test_a_file_written_by_hand_goes_below_the_footer_whole():
    new = daily.put(HAND, made())
    assert new == daily.render(made()) + "\n" + HAND
    assert daily.put(new, made()) == new


def test_a_file_with_carriage_returns_keeps_them_and_is_read_as_well():
    text = daily.render(made("claude")).replace("\n", "\r\n") + "mine\r\n"
    page = daily.parse(text)
    assert page.whole and page.after == "mine\r\n"
    new = daily.put(text, made())
    assert new == daily.render(made()).replace("\n", "\r\n") + "mine\r\n"


def test_a_file_of_the_older_tool_is_recognised_and_its_hand_written_part_kept():
    old = (
        "# 2026-05-06 (Wednesday)\n\n*Auto-generated from 4 session messages*\n\n"
        "## Topics Covered\n- Gauge calibration\n"
        f"\n---\n\n{FOOTER}\n\n## My Notes\n\nHand-written: não mexer.\n"
    )
    page = daily.parse(old)
    assert (page.claimed, page.part, page.after) == (4, None, "\n## My Notes\n\nHand-written: não mexer.\n")
    assert daily.put(old, made()) == daily.render(made()) + page.after


def test_a_part_whose_footer_is_gone_is_the_persons():
    text = daily.render(made()).replace(FOOTER, "")
    assert daily.parse(text).claimed is None
    assert text in daily.put(text, made())


@pytest.mark.parametrize("edit", ["change", "take out", "add", "heading"])
def test_an_edit_inside_the_generated_part_is_noticed(edit):
    rows = daily.render(made()).splitlines(keepends=True)
    at = next(n for n, row in enumerate(rows) if "ClosedDay model" in row)
    if edit == "change":
        rows[at] = rows[at].replace("ClosedDay", "Holiday")
    elif edit == "take out":
        del rows[at]
    elif edit == "add":
        rows.insert(at, "- And this I want to keep.\n")
    else:
        rows[rows.index("## Key Decisions\n")] = "## What we decided\n"
    assert daily.parse("".join(rows)).edited


# --- uniting


def test_sessions_of_another_clone_stay_and_the_numbers_are_made_anew():
    claude, gemini = made("claude"), made("gemini")
    one, other = daily.unite(claude, gemini), daily.unite(gemini, claude)
    assert one == other == made("claude") or daily.render(one) == daily.render(other)
    assert one.messages == claude.messages + gemini.messages
    both = bakery.day("claude")[0] + bakery.day("gemini")[0]
    assert daily.render(one) == daily.render(daily.generate(bakery.DAY, both, bakery.ZONE, bakery.day()[1]))


def test_of_a_session_the_fuller_telling_counts():
    events, folders = bakery.day("claude")
    short = daily.generate(bakery.DAY, events[: len(events) // 2], bakery.ZONE, folders)
    full = daily.generate(bakery.DAY, events, bakery.ZONE, folders)
    assert daily.unite(short, full) == daily.unite(full, short) == full
    assert daily.unite(full, short, afresh=True) == full


def parts():
    events, folders = bakery.day()
    third = len(events) // 3
    cuts = [events, events[:third], events[third:], events[: 2 * third], events[::-1][:third]]
    return [daily.generate(bakery.DAY, cut, bakery.ZONE, folders) for cut in cuts]


PARTS = parts()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(PARTS) - 1), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_parts_that_stand_in_one_file_are_read_as_one(chosen, order):
    """However a merge has laid their lines: one after the other, or line by line among each other."""
    wanted = PARTS[chosen[0]]
    for at in chosen[1:]:
        wanted = daily.unite(wanted, PARTS[at])
    apart = "".join(daily.render(PARTS[at]) for at in chosen) + HAND
    page = daily.parse(apart)
    assert (page.part, page.edited, page.after) == (wanted, "", HAND)
    assert daily.put(apart, page.part) == daily.render(wanted) + HAND
    rows = [row for at in chosen for row in daily.render(PARTS[at]).splitlines(keepends=True)]
    inside = [row for row in rows if row.strip() not in (FOOTER, "---", f"# {bakery.DAY} (Wednesday)")]
    inside.sort(key=lambda _: order.random())
    made_from = next(row for row in inside if row.startswith("*Auto"))
    mixed = "".join([f"# {bakery.DAY} (Wednesday)\n\n", made_from, *inside, "---\n\n", FOOTER, "\n", HAND])
    page = daily.parse(mixed)
    assert page.part == wanted and not page.edited
    assert daily.parse(daily.put(mixed, page.part)).whole


def test_a_part_that_stands_twice_is_put_right_by_deletions_alone():
    text = daily.render(made()) * 2 + HAND
    assert all(new == "" for _, _, new in daily.edits(text, daily.parse(text).part))
    doubled = "".join(row * 2 for row in daily.render(made()).splitlines(keepends=True)) + HAND
    changes = daily.edits(doubled, daily.parse(doubled).part)
    assert all(new == "" for _, _, new in changes)
    assert daily.put(doubled, daily.parse(doubled).part) == daily.render(made()) + HAND


# --- a summary


def test_a_summary_is_kept_and_gives_way_to_one_of_more_messages():
    part = replace(made(), summary=daily.summarised("A quiet day.\n\nWe chose rye.\n\n- one\n- two\n", 40))
    text = daily.render(part)
    assert "## Summary\n\nA quiet day.\n\nWe chose rye.\n\n- one\n- two\n\n## Topics Covered" in text
    assert daily.parse(text).part == part and daily.parse(text).whole
    assert daily.unite(part, made()).summary == part.summary
    more = replace(made(), summary=daily.summarised("A day.", 60))
    assert daily.unite(part, more).summary == daily.unite(more, part).summary == more.summary


@pytest.mark.parametrize("nasty", NASTY)
def test_no_summary_can_leave_its_section(nasty):
    summary = daily.summarised(f"Fine.\n\n{nasty}\n{nasty} and more", 40)
    part = replace(made(), summary=summary)
    page = daily.parse(daily.render(part))
    assert page.part == part and page.whole


# --- days


def test_a_day_ends_at_midnight_of_the_zone():
    late = [event(Kind.PROMPT, "Good night, and thanks for the table.", 0)]
    assert "12:00" in daily.render(daily.generate("2026-05-06", late, UTC))
    assert "21:00" in daily.render(daily.generate("2026-05-06", late, ZoneInfo("Asia/Tokyo")))


def test_what_a_merge_left_of_another_part_is_found_and_what_a_person_quotes_is_not():
    part = made()
    text = daily.render(part)
    *_, last = part.sessions
    stray = "\n".join([*(line for _, line in last.lines), last.mark, "*Auto-generated from 3 session messages*"])
    quoted = f"I keep this:\n{last.lines[0][1]}\n"
    page = daily.parse(f"{text}\n{stray}\n\n{quoted}")
    assert page.part == part and not page.edited and not page.whole
    assert page.by_hand.strip("\n") + "\n" == quoted
    assert daily.put(f"{text}\n{stray}\n\n{quoted}", part) == f"{text}\n{quoted}"
    assert daily.parse(f"{text}\n{quoted}").whole


def test_the_measures_of_a_day_are_those_of_its_parts():
    some, folders = bakery.day()
    some += [event(Kind.PROMPT, "aside", 0, session="only a helper", aside=Aside.SUBAGENT)]
    part = daily.generate(bakery.DAY, some, bakery.ZONE, folders)
    assert daily.measures(some) == {told.tag: told.measure for told in part.sessions}
    assert daily.adds_nothing(part, daily.measures(some[: len(some) // 2]))
    less = daily.generate(bakery.DAY, some[:-3], bakery.ZONE, folders)
    assert not daily.adds_nothing(less, daily.measures(bakery.day()[0]))


def test_a_day_of_thousands_of_failures_takes_no_longer_for_each():
    def spent(count: int) -> float:
        some = []
        for at in range(count):
            some.append(event(Kind.CALL, "", at, name="shell", command=f"cd /x && pytest -k case_{at} | tail -5"))
            some.append(event(Kind.RESULT, f"E assert {at} == 0", at, name="shell", failed=True))
        begin = time.process_time()
        daily.generate("2026-05-06", [event(Kind.PROMPT, "Test all of it.", 0), *some], UTC)
        return time.process_time() - begin

    spent(10)
    assert spent(1_600) < 8 * 4 * max(spent(200), 0.01)  # eight times as much; it was sixty times as long
