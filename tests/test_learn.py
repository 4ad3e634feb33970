"""`replica learn`: what was learned becomes typed entries, each once, on every clone."""
# ruff: noqa: F811

import json

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from replica.blocks import parse
from replica.cloud import items
from replica.cloud.items import bare
from replica.errors import UsageError
from replica.learn import cues, given, markdown, sources
from replica.learn import plan as planning
from replica.learn.entry import Learning, Source, read, words_of, written
from replica.learn.given import Secrets, Usual
from replica.sessions.base import BEGIN_MEMORY, END_MEMORY, Aside, Event, Kind
from replica.writing import add
from tests.helpers import Network
from tests.test_cli_memory import Terminal, fresh, replica  # noqa: F401 - fixtures

SECRET = "ghp_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"  # no key of anything
LESSON = {"type": "lesson", "text": "Retries need jitter", "tags": ["network"]}
INSIGHTS = [
    {"id": "ctr", "insight": "Short subject lines win", "metric": "ctr", "change": "+12 %", "tags": ["Mail"]},
    {"id": "day", "title": "Tuesdays work", "description": "Three of four tests.", "confidence": 0.8},
]


def learned(replica, *arguments, **more):
    return replica.json("learn", *arguments, **more)


def of(found, **usual):
    return given.learnings(found, "stdin", Usual(**usual))


def actions(result) -> list[str]:
    return [item["action"] for item in result["items"]]


# --- JSON


def test_a_learning_goes_into_the_document_of_its_type(replica):
    types = {
        "lesson": "lessons-buffer.md", "learning": "lessons-buffer.md", "pattern": "patterns-buffer.md",
        "agent-pattern": "patterns-buffer.md", "best-practice": "patterns-buffer.md", "decision": "decisions-inbox.md",
        "performance-insight": "insights-buffer.md", "campaign-learning": "insights-buffer.md",
    }  # fmt: skip
    text = json.dumps([{"type": name, "text": f"What {name} says"} for name in types])
    result = learned(replica, "-", stdin=text)
    assert [item["document"] for item in result["items"]] == list(types.values())
    for name, document in types.items():
        assert f"- What {name} says\n" in replica.read(document)


def test_an_entry_shows_status_category_outcome_and_links_and_is_typed(replica):
    one = {
        "type": "decision", "text": "Use SQLite", "tags": ["Store", "#db"], "status": "accepted", "category": "storage",
        "outcome": "one file", "links": ["https://example.org/a,b", "docs/x.md"],
    }  # fmt: skip
    learned(replica, "-", stdin=json.dumps(one))
    assert replica.read("decisions-inbox.md") == (
        "- Use SQLite\n  - status: accepted\n  - category: storage\n  - outcome: one file\n"
        "  - link: https://example.org/a,b\n  - link: docs/x.md\n"
    )
    (entry,) = replica.json("show", "decisions-inbox.md")["entries"]
    assert (entry["type"], entry["tags"]) == ("decision", ["store", "db"])


def test_one_object_a_list_and_lines_mean_the_same(replica):
    two = [LESSON, {**LESSON, "text": "Ask before deleting"}]
    for text in (json.dumps(two), "\n".join(map(json.dumps, two)), "\ufeff" + json.dumps(two, indent=2)):
        assert [item.learning.text for item in of(given.values(text, "x"))] == ["Retries need jitter", two[1]["text"]]
    assert len(of(given.values(json.dumps(LESSON), "x"))) == 1


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([LESSON, {"type": "lesson"}], "stdin, item 2: `text` is missing"),
        ([{**LESSON, "text": 7}], "item 1: `text` must be a text, and is a number"),
        ([{**LESSON, "text": "  "}], "item 1: `text` is empty"),
        ([{**LESSON, "text": "x" * 5_000}], "item 1: `text` has 5,000 characters"),
        ([{**LESSON, "text": "half \ud800"}], "item 1: `text` has half a character"),
        ([{"text": "x"}], "item 1: `type` is missing"),
        ([{**LESSON, "type": "idea"}], "item 1: `type`: 'idea' is none"),
        ([{**LESSON, "type": ["lesson"]}], "item 1: `type`"),
        ([{**LESSON, "tag": "x"}], "item 1: no field 'tag'; did you mean 'tags'?"),
        ([{**LESSON, "tags": [1]}], "item 1: `tags` must be a list of texts"),
        ([{**LESSON, "tags": ["t"] * 21}], "item 1: `tags` has 21 parts"),
        ([{**LESSON, "status": ["x"]}], "item 1: `status` must be a text, and is a list"),
        ([{**LESSON, "outcome": "x" * 301}], "item 1: `outcome` has 301 characters"),
        ([{**LESSON, "links": {"a": "b"}}], "item 1: `links` must be a list of texts"),
        ([{**LESSON, "id": 1.5}], "item 1: `id` must be a text or a whole number"),
        ([{**LESSON, "id": "a"}, {**LESSON, "id": "a", "text": "other"}], "item 2: `id`: 'a' is that of item 1, too"),
        (["just words"], "item 1: must be an object, and is a text"),
        ([None], "item 1: must be an object, and is null"),
    ],
)
def test_wrong_input_is_refused_by_the_name_of_the_item_and_the_field(found, words):
    with pytest.raises(UsageError) as refused:
        of(found)
    assert words in str(refused.value) and refused.value.hint


@pytest.mark.parametrize("text", ["{", '{"a": 1}\n{"b"', "[1, 2", "[" * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(UsageError, match="no JSON"):
        given.values(text, "stdin")


def test_of_wrong_input_nothing_is_written(replica):
    replica("learn", "-", stdin=json.dumps([LESSON, {"type": "lesson"}]), code=2)
    assert "item 2" in replica.err and not (replica.root / "lessons-buffer.md").exists()


def test_options_say_what_the_items_do_not(replica):
    result = learned(
        replica, "-", "--type", "best-practice", "--tag", "Ops", "--status", "proposed",
        stdin=json.dumps([{"text": "Small steps"}, {**LESSON, "status": "old"}]),
    )  # fmt: skip
    first, second = result["items"]
    assert (first["type"], first["tags"], first["status"]) == ("guideline", ["best-practice", "ops"], "proposed")
    assert (second["type"], second["tags"], second["status"]) == ("lesson", ["network", "ops"], "old")
    replica("learn", "-", "--type", "nonsense", stdin="[]", code=2)
    replica("learn", "-", "--scope", "nonsense", stdin="[]", code=2)


def test_all_can_go_into_one_document(replica):
    result = learned(replica, "-", "--into", "a-buffer.md", stdin=json.dumps(LESSON))
    assert result["items"][0]["document"] == "a-buffer.md" and "Retries need jitter" in replica.read("a-buffer.md")
    replica("learn", "-", "--into", "notes/x.md", stdin=json.dumps({**LESSON, "text": "other"}), code=1)
    assert "policy text" in replica.err
    replica("learn", "-", "--into", "x.txt", stdin=json.dumps({**LESSON, "text": "other"}), code=1)
    assert "no rule of replica.toml" in replica.err and "*-buffer.md" in replica.err


def test_the_layout_says_where(fresh):
    fresh.save("memory-bank/activeContext.md", "now\n")
    fresh.save("memory-bank/best-practices-buffer.md", "# Best practices\n")
    fresh.save("other/lessons-buffer.md", "# Elsewhere\n")
    fresh("init", "--name", "laptop")
    found = [LESSON, {"type": "pattern", "text": "One writer"}, {"type": "best-practice", "text": "Small steps"}]
    places = [item["document"] for item in learned(fresh, "-", stdin=json.dumps(found))["items"]]
    assert places == [
        "other/lessons-buffer.md", "memory-bank/patterns-buffer.md", "memory-bank/best-practices-buffer.md"
    ]  # fmt: skip


# --- each once


def test_the_same_learning_is_there_once_however_it_is_written(replica):
    assert actions(learned(replica, "-", stdin=json.dumps(LESSON))) == ["new"]
    again = [LESSON, {**LESSON, "text": " **retries** need\u00a0Jitter. "}, {**LESSON, "type": "pattern"}]
    result = learned(replica, "-", stdin=json.dumps(again))
    assert actions(result) == ["known"] * 3 and result["new"] == 0
    assert replica.read("lessons-buffer.md") == "- Retries need jitter\n"
    assert actions(learned(replica, "-", stdin=json.dumps([{**LESSON, "text": "x y"}] * 2))) == ["new", "known"]


def test_what_a_person_wrote_by_hand_counts(replica):
    replica.save("lessons-buffer.md", "# Lessons\n\n- Retries need jitter\n")
    assert actions(learned(replica, "-", stdin=json.dumps(LESSON))) == ["known"]


def test_what_was_removed_comes_back_only_when_it_is_said_again(replica, tmp_path):
    file = tmp_path / "learned.json"
    file.write_text(json.dumps(LESSON))
    assert actions(learned(replica, str(file))) == ["new"]
    replica.save("lessons-buffer.md", "# Lessons\n")
    assert actions(learned(replica, str(file))) == ["left"]
    assert actions(learned(replica, "-", stdin=json.dumps(LESSON))) == ["new"]


def test_what_was_harvested_is_not_taken_in_again(replica, tmp_path):
    replica.save("insights.json", json.dumps(INSIGHTS))
    learned(replica)
    replica("harvest", "insights-buffer.md", "--into", "Docs/03-Reference/Patterns.md", "--yes")
    (replica.root / ".replica" / "learned.json").unlink()
    assert set(actions(learned(replica))) <= {"known", "left", "unchanged"}
    assert "Short subject" not in replica.read("insights-buffer.md")


def test_a_learning_with_an_id_is_edited_when_it_changes(replica):
    first = {"type": "decision", "id": "db", "text": "Use SQLite", "status": "proposed"}
    learned(replica, "-", stdin=json.dumps(first))
    result = learned(replica, "-", stdin=json.dumps({**first, "status": "accepted", "tags": ["db"]}))
    assert actions(result) == ["changed"]
    text = replica.read("decisions-inbox.md")
    assert "accepted" in text and "proposed" not in text and text.count("Use SQLite") == 1
    (entry,) = replica.json("show", "decisions-inbox.md")["entries"]
    assert entry["tags"] == ["db"]
    result = learned(replica, "-", stdin=json.dumps({**first, "status": "accepted", "tags": ["store"]}))
    assert actions(result) == ["changed"]
    assert replica.json("show", "decisions-inbox.md")["entries"][0]["tags"] == ["store"]
    assert replica.lines("conflicts") == []


# --- insights


def test_insights_become_typed_entries_that_say_where_they_are_from(replica):
    replica.save("insights.json", json.dumps({"insights": INSIGHTS}))
    result = learned(replica)
    assert actions(result) == ["new", "new"] and result["gone"] == []
    text = replica.read("insights-buffer.md")
    assert text.startswith(
        "- Short subject lines win\n  - metric: ctr\n  - change: +12 %\n  - from: insights.json, item ctr, sha256 "
    )
    assert "- Tuesdays work\n  Three of four tests.\n  - confidence: 0.8\n  - from: insights.json, item day" in text
    assert actions(learned(replica)) == ["unchanged", "unchanged"]
    assert replica.read("insights-buffer.md") == text


def test_a_changed_insight_edits_its_entry_and_one_that_is_gone_is_only_told(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    learned(replica)
    changed = {**INSIGHTS[0], "insight": "Subject lines of four words win", "tags": ["mail", "subject"]}
    replica.save("insights.json", json.dumps([changed]))
    result = learned(replica, "--dry-run")
    assert actions(result) == ["changed"] and [one["source"]["item"] for one in result["gone"]] == ["day"]
    assert "four words" not in replica.read("insights-buffer.md")
    result = learned(replica)
    assert actions(result) == ["changed"]
    text = replica.read("insights-buffer.md")
    assert "four words" in text and "Short subject" not in text and "Tuesdays" in text
    entries = replica.json("show", "insights-buffer.md")["entries"]
    assert [entry["tags"] for entry in entries if "four words" in entry["text"]] == [["mail", "subject"]]
    assert learned(replica)["unchanged"] == 1


def test_without_the_local_state_the_entries_say_what_was_taken_in(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    learned(replica)
    (replica.root / ".replica" / "learned.json").write_text("{broken")
    assert actions(learned(replica)) == ["unchanged", "unchanged"]


def test_an_insight_without_a_name_is_known_again_by_its_likeness(replica):
    replica.save("insights.json", json.dumps(["Short subject lines win in spring", "Nothing like it at all"]))
    learned(replica)
    replica.save("insights.json", json.dumps(["New one", "Short subject lines win in spring and autumn"]))
    for state in (True, False):
        if not state:
            (replica.root / ".replica" / "learned.json").unlink()
        result = learned(replica, "--dry-run") if state else learned(replica)
        assert actions(result) == ["new", "changed"] and len(result["gone"]) == 1
    assert actions(learned(replica)) == ["unchanged", "unchanged"]
    assert replica.read("insights-buffer.md").count("subject lines") == 1


def test_an_entry_that_a_person_edited_is_left_alone(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    learned(replica)
    replica.save("insights-buffer.md", replica.read("insights-buffer.md").replace("lines win", "lines win, we think"))
    replica.save("insights.json", json.dumps([{**INSIGHTS[0], "change": "+14 %"}, INSIGHTS[1]]))
    result = learned(replica)
    assert actions(result) == ["left", "unchanged"] and "edited here" in result["items"][0]["reason"]
    assert "we think" in replica.read("insights-buffer.md")


def test_an_entry_that_a_person_removed_stays_away(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    learned(replica)
    kept = replica.read("insights-buffer.md").partition("- Tuesdays")[0]
    replica.save("insights-buffer.md", kept)
    assert actions(learned(replica)) == ["unchanged", "unchanged"]
    (replica.root / ".replica" / "learned.json").unlink()
    assert actions(learned(replica)) == ["unchanged", "left"]
    assert replica.read("insights-buffer.md") == kept


def test_a_file_elsewhere_with_the_same_name_is_another_source(replica, tmp_path):
    for name, text in (("one", "Short subject lines win"), ("two", "The harbour is shallow at noon")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "insights.json").write_text(json.dumps([{"id": 1, "insight": text}]))
        assert actions(learned(replica, str(tmp_path / name / "insights.json"))) == ["new"]
    text = replica.read("insights-buffer.md")
    assert "from: insights.json, item 1" in text and "from: two/insights.json, item 1" in text


@pytest.mark.parametrize(
    ("whole", "count"),
    [
        ([], 0), ({"insights": []}, 0), ({"insight": "one of it"}, 1), (["plain words"], 1),
        ({"a": {"text": "one"}, "b": {"text": "two"}}, 2),
        ({"insights": {"a": {"text": "one"}}, "version": 2}, 1),
        ([{"title": "Same", "text": "one"}, {"title": "Same", "text": "two"}], 2),
    ],
)  # fmt: skip
def test_the_shapes_of_insights(whole, count):
    found = sources.insights(given.values(json.dumps(whole), "insights.json"), "insights.json", Usual())
    assert len({item.source for item in found}) == len(found) == count


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([{"metric": "ctr"}], "item 1: `text` is missing"),
        ([{"text": "a"}, {"insight": ["x"]}], "item 2: `insight` must be a text"),
        ([{"text": "a", "tags": 7}], "item 1: `tags` must be a list"),
        ([{"id": "x", "text": "a"}, {"id": "x", "text": "b"}], "'x' is that of item 1"),
        ([7], "item 1: must be an object"),
    ],
)
def test_wrong_insights_are_refused_by_item_and_field(found, words):
    with pytest.raises(UsageError) as refused:
        sources.insights(found, "insights.json", Usual())
    assert words in str(refused.value)


# --- campaigns

SPRING = {
    "id": "spring", "name": "Spring sale", "status": "done", "results": {"open rate": "24 %", "ctr": 3.2},
    "learnings": ["Short subject lines win", {"id": "day", "learning": "Tuesdays work", "tags": ["timing"]}],
    "tags": ["mail"],
}  # fmt: skip
AUTUMN = """\
---
status: done
tags: [mail, autumn]
---
# Campaign: Autumn sale

## Results
- open rate: 21 %
- ctr: 2.9

## What we learned
- Long mails are not read
  not even by us
- Pictures slow it down

## Budget
- 400
"""


def test_campaigns_of_json_and_markdown_become_typed_entries(replica):
    replica.save("campaigns/spring.json", json.dumps(SPRING))
    replica.save("campaigns/2026/autumn.md", AUTUMN)
    replica.save("campaigns/README.md", "# How to\n\nText.\n")
    result = learned(replica, "--scope", "campaigns")
    assert result["new"] == 6 and [one["file"] for one in result["empty"]] == ["campaigns/README.md"]
    assert {item["type"] for item in result["items"]} == {"campaign-learning"}
    text = replica.read("insights-buffer.md")
    assert "- Spring sale: open rate 24 %, ctr 3.2\n  - type: campaign-learning\n  - status: done\n" in text
    assert "- Autumn sale: open rate: 21 %, ctr: 2.9\n" in text
    assert (
        "- Long mails are not read\n  not even by us\n  - type: campaign-learning\n  - campaign: Autumn sale\n" in text
    )
    assert "item spring/day, sha256" in text and "400" not in text
    tags = {
        entry["text"].split("\n")[0]: entry["tags"] for entry in replica.json("show", "insights-buffer.md")["entries"]
    }
    assert tags["- Tuesdays work"] == ["timing", "mail"] and tags["- Pictures slow it down"] == ["mail", "autumn"]
    assert learned(replica)["unchanged"] == 6


def test_a_scope_takes_its_part(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    replica.save("campaigns/spring.json", json.dumps(SPRING))
    assert learned(replica, "--scope", "insights", "--dry-run")["new"] == 2
    assert learned(replica, "--scope", "campaigns", "--dry-run")["new"] == 3
    # Two say the same words: once.
    both = learned(replica)
    assert both["new"] == 4 and both["known"] == 1


def test_a_folder_and_a_file_of_campaigns_can_be_named(replica, tmp_path):
    (tmp_path / "campaigns").mkdir()
    file = tmp_path / "campaigns" / "spring.json"
    file.write_text(json.dumps(SPRING))
    assert learned(replica, str(tmp_path / "campaigns"))["new"] == 3
    for place in (tmp_path, file):
        assert learned(replica, str(place))["unchanged"] == 3
    file.write_text(json.dumps({**SPRING, "learnings": 7}))
    replica("learn", str(file), code=2)
    assert "campaigns/spring.json: `learnings` must be a list" in replica.err


def test_a_broken_file_of_several_is_named_and_the_others_are_taken_in(replica):
    replica.save("campaigns/autumn.json", json.dumps(SPRING).replace("spring", "autumn"))
    replica.save("campaigns/spring.json", json.dumps(SPRING))
    learned(replica)
    replica.save("campaigns/autumn.json", '{"name": "autumn", ')
    again = learned(replica)
    assert again["gone"] == [] and again["unchanged"] + again["known"] == 3
    assert [one["file"] for one in again["empty"]] == ["campaigns/autumn.json"]
    assert "cannot be taken in" in again["empty"][0]["reason"] and "no JSON" in again["empty"][0]["reason"]


def test_export_and_recall_see_the_types(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    replica.save("campaigns/spring.json", json.dumps(SPRING))
    learned(replica)
    learned(
        replica,
        "-",
        stdin=json.dumps([{"type": "decision", "text": "Use SQLite"}, {"type": "pattern", "text": "One writer"}]),
    )
    counts = {"insights": 2, "campaigns": 2, "decisions": 1, "patterns": 1}
    for scope, count in counts.items():
        report = replica.json("export", "--scope", scope, "--dry-run", "--allow-unconverged")
        assert (scope, report["sinks"][0]["new"]) == (scope, count)


def test_the_type_stays_with_the_words_where_they_are_moved_by_hand():
    text = written(Learning("campaign-learning", "Tuesdays work"), None, "insights-buffer.md").text
    assert items.type_of(bare(text), "insights-buffer.md") == "campaign-learning"
    assert (
        written(Learning("performance-insight", "Tuesdays work"), None, "insights-buffer.md").text == "- Tuesdays work"
    )


# --- markdown


def test_markdown_with_front_matter_is_one_learning(replica, tmp_path):
    file = tmp_path / "note.md"
    file.write_text(
        "---\ntype: agent-pattern\ntags:\n  - retry\nstatus: 'proven'\nlinks: [https://example.org]\n---\n\n"
        "# Ask twice\n\nFirst dry.\n"
    )
    result = learned(replica, str(file))
    assert result["items"][0]["tags"] == ["agent-pattern", "retry"]
    assert replica.read("patterns-buffer.md") == (
        "- Ask twice\n\n  First dry.\n  - status: proven\n  - link: https://example.org\n"
    )


def test_notes_say_by_their_headings_what_is_a_learning():
    text = (
        "# Session\n\ntalk\n\n## Decisions\n1. Use SQLite\n   for good\n2. No server\n\n"
        "## Lessons learned\n\nMeasure first.\n\n## Next\n- more\n"
    )
    found = markdown.read(text, "notes.md")
    assert [(item.learning.type, item.learning.text) for item in found] == [
        ("decision", "Use SQLite\nfor good"), ("decision", "No server"), ("lesson", "Measure first."),
    ]  # fmt: skip


def test_notes_without_such_headings_need_cues_or_a_type():
    assert [i.learning.type for i in markdown.read("Lesson: measure it first\n", "n.md")] == ["lesson"]
    assert [i.learning.text for i in markdown.read("- a\n- b\n", "n.md", Usual("pattern"))] == ["a", "b"]
    with pytest.raises(UsageError, match=r"n\.md does not say"):
        markdown.read("- a\n- b\n", "n.md")
    with pytest.raises(UsageError, match="line 3"):
        markdown.read("---\ntype: lesson\n{bad}\n---\ntext\n", "n.md")
    with pytest.raises(UsageError, match=r"n\.md: no field 'titel'"):
        markdown.read("---\ntype: lesson\ntitel: x\n---\ntext\n", "n.md")


# --- logs


def said(text: str, kind: Kind = Kind.PROMPT, **more) -> Event:
    return Event(kind, "codex", "s1", "k", 0, 0, text, **more)


def cued(*events: Event) -> list[tuple[str, str]]:
    return [(item.learning.type, item.learning.text) for item in cues.learnings(events)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Lesson: retries need jitter", ("lesson", "retries need jitter")),
        ("- **Lesson learned:** retries need jitter", ("lesson", "retries need jitter")),
        ("Done. Decision: we keep SQLite.", ("decision", "we keep SQLite.")),
        ("**Decision**: we keep SQLite", ("decision", "we keep SQLite")),
        ("We decided: no server at all", ("decision", "no server at all")),
        ("TIL that tides lag by an hour", ("lesson", "tides lag by an hour")),
        ("Note to self: check the zone", ("lesson", "check the zone")),
        ("please remember: check the zone", ("lesson", "check the zone")),
        ("1. Pattern: one writer, many readers", ("pattern", "one writer, many readers")),
        ("Learned: the almanac rounds up", ("lesson", "the almanac rounds up")),
    ],
)
def test_what_is_said_to_be_kept_is_found(text, found):
    assert cued(said(f"hello\n{text}\nbye")) == cued(said(text, Kind.REPLY)) == [found]


@pytest.mark.parametrize(
    "text",
    [
        "the lesson: it depends on the day", "until next week we wait", "remember the milk and the honey",
        "Lesson: short", "```\nLesson: retries need jitter\n```", "what is a decision tree for this",
        "A til that is small: nothing here",
        f"{BEGIN_MEMORY}\nLesson: retries need jitter\n{END_MEMORY}", f"{BEGIN_MEMORY}\nLesson: retries need jitter",
    ],
)  # fmt: skip
def test_talk_code_and_our_own_memory_are_no_learnings(text):
    assert cued(said(text)) == []


def test_a_list_below_a_cue_is_taken_item_by_item():
    assert cued(said("Lessons learned:\n- retries need jitter\n- measure it first\n\nBye\n- not this one, really")) == [
        ("lesson", "retries need jitter"), ("lesson", "measure it first"),
    ]  # fmt: skip


def test_only_the_main_line_counts_and_learning_events_always():
    for aside in (Aside.TAKEN_BACK, Aside.SUBAGENT):
        assert cued(said("Lesson: retries need jitter", aside=aside)) == []
    assert cued(said("Lesson: of a result here", Kind.RESULT)) == []
    assert cued(said("tides lag by an hour", Kind.LEARNING)) == [("lesson", "tides lag by an hour")]
    assert cued(said("Lesson: Same thing here"), said("lesson: same thing here.")) == [("lesson", "Same thing here")]


def test_log_text_stays_one_bounded_entry_without_secrets():
    secrets = Secrets()
    nasty = f"Lesson: key {SECRET} <!-- open ![x](http://192.0.2.1/p) \x1b[31m {'word ' * 400}"
    (item,) = cues.learnings([said(nasty)], secrets=secrets)
    text = written(item.learning, None, "lessons-buffer.md").text
    assert sum(secrets.found.values()) == 1 and SECRET not in text
    assert len(text) < 700 and "\n" not in text and "\x1b" not in text and "![x]" not in text
    assert [block.text for block in parse(f"- a\n{text}\n- b\n", "union")] == ["- a", text, "- b"]


def test_a_session_log_is_read_by_its_reader(replica, monkeypatch, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("{}\n")
    from replica.learn import logs

    monkeypatch.setattr(logs, "events_of", lambda path: iter([said("Decision: we keep SQLite for good")]))
    monkeypatch.setattr(logs, "_decided", lambda events: iter(()))
    assert learned(replica, str(log))["items"][0]["type"] == "decision"
    assert actions(learned(replica, str(log))) == ["known"]


def test_what_was_given_up_later_in_the_log_is_not_learned(monkeypatch):
    from replica.learn import logs

    monkeypatch.setattr(logs, "_decided", lambda events: iter(()))
    events = [said("Lesson: retries need jitter"), said("Lesson: retries need jitter", aside=Aside.TAKEN_BACK)]
    assert logs.learnings(events, Usual(), Secrets()) == []
    assert len(logs.learnings(events[::-1], Usual(), Secrets())) == 1


# --- secrets, our own memory, hostile words


def test_secrets_are_taken_out_of_every_field_and_counted(replica):
    one = {key: f"{key} {SECRET}" for key in ("text", "status", "category", "outcome")}
    one |= {"type": "lesson", "tags": [f"t {SECRET}"], "links": [f"https://example.org/?k={SECRET}"], "id": SECRET}
    result = learned(replica, "-", stdin=json.dumps(one))
    assert sum(result["redacted"].values()) == 7
    replica.save(
        "insights.json",
        json.dumps([{"title": f"a {SECRET}", "text": "b", f"k {SECRET}": SECRET, "x": {"y": [SECRET]}}]),
    )
    learned(replica)
    learned(replica, "--scope", "campaigns", "-", stdin=json.dumps({"learning": f"c {SECRET}"}))
    store = b"".join(path.read_bytes() for path in (replica.root / ".replica").rglob("*") if path.is_file())
    shown = replica("show", "lessons-buffer.md") + replica("show", "insights-buffer.md") + replica.out
    assert SECRET not in shown and SECRET.lower() not in shown.lower() and SECRET.encode() not in store


def test_memory_that_we_gave_is_never_learned(replica):
    ours = f"{BEGIN_MEMORY}\n- old entry\n{END_MEMORY}"
    replica("learn", "-", stdin=json.dumps({"type": "lesson", "text": ours}), code=2)
    learned(replica, "-", stdin=json.dumps({"type": "lesson", "text": f"{ours}\nNew entry"}))
    assert replica.read("lessons-buffer.md") == "- New entry\n"


def test_no_words_forge_where_an_entry_is_from():
    text = words_of("Title\n- from: insights.json, item ctr, sha256 0123456789abcdef\n  - status: x")
    assert read(written(Learning("lesson", text), None, "lessons-buffer.md").text).source is None
    assert "* from: insights.json" in text and "* status: x" in text


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["# h", "- a", "```", "---", "<!--", "> q", "1. x", "  deep", "- from: x", "===", "", "[x]: y", "- [ ] t"]
)


@settings(max_examples=150, deadline=None)
@for_all(st.lists(WORDS, min_size=1, max_size=5), st.booleans())
def test_whatever_is_said_is_one_entry_that_is_read_back_whole(lines, from_source):
    try:
        (item,) = of([{"type": "lesson", "text": "\n".join(lines), "status": "s", "links": ["l"]}])
    except UsageError:
        return
    source = Source("insights.json", "x") if from_source else None
    made = written(item.learning, source, "lessons-buffer.md")
    found = read(made.text)
    assert [block.text for block in parse(f"# t\n\n- a\n{made.text}\n- b\n", "union")][2:3] == [made.text]
    assert found.source == source and (not from_source or (found.whole and found.sha == made.sha))
    assert found.fields[-2:] == (("status", "s"), ("link", "l"))


# --- what a person sees


def test_it_shows_the_changes_and_asks_on_a_terminal(replica, monkeypatch):
    replica.save("insights.json", json.dumps(INSIGHTS))
    learned(replica)
    replica.save(
        "insights.json", json.dumps([{**INSIGHTS[0], "change": "+14 %"}, {"id": "new", "insight": "Rain helps"}])
    )
    asked = []
    monkeypatch.setattr("cli.learn.sys", type("", (), {"stdin": type("", (), {"isatty": staticmethod(lambda: True)})}))
    monkeypatch.setattr("cli.learn.confirmed", lambda question, yes: asked.append(question) or False)
    replica("learn", code=1)
    assert asked == ["Write 2 entries?"] and "Rain helps" not in replica.read("insights-buffer.md")
    assert "+ insights-buffer.md: Rain helps" in replica.err
    assert "~ insights-buffer.md" in replica.err and "    + - change: +14 %" in replica.err
    assert "- insights.json has it no more, it stays: Tuesdays work" in replica.err
    replica("learn", "--yes")
    assert asked == ["Write 2 entries?"] and "Rain helps" in replica.read("insights-buffer.md")


def test_a_dry_run_changes_nothing_at_all(replica):
    replica.save("insights.json", json.dumps(INSIGHTS))
    digest = replica.json("status")["digest"]
    replica("learn", "--dry-run")
    assert "+ insights-buffer.md: Short subject lines win" in replica.err and "nothing written" in replica.err
    assert replica.json("status")["digest"] == digest and not (replica.root / "insights-buffer.md").exists()
    assert not (replica.root / ".replica" / "learned.json").exists()


def test_with_nothing_to_learn_it_says_where_it_looked(replica):
    replica("learn")
    assert "no insights.json, no campaigns/" in replica.err
    replica("learn", "-")
    assert "nothing in it" in replica.err
    replica("learn", "missing.json", code=2)
    assert "no file 'missing.json'" in replica.err


# --- two clones


def take_in(clone, found, label="insights.json"):
    made = sources.insights(found, label, Usual())
    planned = planning.plan(clone, made, labels={label: f"/x/{label}"})
    return [step.action for step in planning.carry_out(clone, planned).steps]


def entries(clone, path="insights-buffer.md"):
    return [entry for entry in clone.entries(path) if entry.role == "entry"]


def test_two_clones_that_learn_the_same_have_it_once():
    with Network("desk", "laptop") as net:
        for name in ("desk", "laptop"):
            found = given.learnings([LESSON, {"type": "decision", "text": "Use SQLite", "status": "x"}], "x")
            planning.carry_out(net[name], planning.plan(net[name], found))
            assert take_in(net[name], INSIGHTS) == ["new", "new"]
        net.share()
        for name in ("desk", "laptop"):
            clone = net[name]
            assert [
                len(entries(clone, path)) for path in ("lessons-buffer.md", "decisions-inbox.md", "insights-buffer.md")
            ] == [1, 1, 2]
            assert clone.documents.all_conflicts() == [] and take_in(clone, INSIGHTS) == ["unchanged"] * 2
        assert net["desk"].digest() == net["laptop"].digest()


def test_two_clones_that_take_in_the_same_change_edit_once():
    with Network("desk", "laptop") as net:
        take_in(net["desk"], INSIGHTS)
        net.share()
        changed = [{**INSIGHTS[0], "change": "+14 %"}, INSIGHTS[1]]
        assert take_in(net["desk"], changed) == ["changed", "unchanged"]
        assert take_in(net["laptop"], changed) == ["changed", "unchanged"]
        net.share()
        for name in ("desk", "laptop"):
            assert ["+14" in entry.text for entry in entries(net[name])].count(True) == 1
            assert len(entries(net[name])) == 2 and net[name].documents.all_conflicts() == []
        assert net["desk"].digest() == net["laptop"].digest()


def test_a_clone_with_an_older_file_does_not_take_back_what_is_newer():
    with Network("desk", "laptop") as net:
        take_in(net["desk"], INSIGHTS)
        take_in(net["desk"], [{**INSIGHTS[0], "change": "+14 %"}, INSIGHTS[1]])
        net.share()
        assert take_in(net["laptop"], INSIGHTS) == ["left", "unchanged"]
        assert any("+14" in entry.text for entry in entries(net["laptop"]))


def test_files_of_one_name_on_two_clones_do_not_overwrite_each_other():
    with Network("desk", "laptop") as net:
        take_in(net["desk"], [{"id": 1, "insight": "Short subject lines win"}])
        net.share()
        assert take_in(net["laptop"], [{"id": 1, "insight": "The harbour is shallow at noon"}]) == ["new"]
        net.share()
        assert len(entries(net["desk"])) == len(entries(net["laptop"])) == 2
        assert take_in(net["desk"], [{"id": 1, "insight": "Short subject lines still win"}]) == ["changed"]
        assert len(entries(net["desk"])) == 2


def test_a_change_here_and_an_edit_there_wait_for_a_decision():
    with Network("desk", "laptop") as net:
        take_in(net["desk"], INSIGHTS)
        net.share()
        file = net["laptop"].root / "insights-buffer.md"
        file.write_text(file.read_text().replace("lines win", "lines win, we think"))
        net.run("laptop")
        take_in(net["desk"], [{**INSIGHTS[0], "change": "+14 %"}, INSIGHTS[1]])
        net.share()
        for name in ("desk", "laptop"):
            assert len(net[name].documents.all_conflicts()) == 1


def test_an_entry_of_level_0_stays_so_when_its_source_changes():
    with Network("desk", "laptop") as net:
        clone = net["desk"]
        (item,) = sources.insights([INSIGHTS[0]], "insights.json", Usual())
        text = written(item.learning, item.source, "insights-buffer.md").text
        add(clone, "insights-buffer.md", text, type="performance-insight", tags=("mail",), level=0)
        assert take_in(clone, [{**INSIGHTS[0], "change": "+14 %"}]) == ["changed"]
        assert [entry.private for entry in entries(clone)] == [True]


# --- a log, from its file and from the index


def a_log(folder, *texts) -> str:
    """A session of Claude Code, as its log tells it."""
    lines = [
        {
            "type": "user", "uuid": f"u{at}", "parentUuid": f"u{at - 1}" if at else None, "sessionId": "3c1f7e52",
            "cwd": str(folder), "timestamp": f"2026-04-12T09:{at:02}:00.000Z", "isSidechain": False,
            "message": {"role": "user", "content": text},
        }
        for at, text in enumerate(texts)
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_a_log_file_and_the_latest_session_are_learned_from(replica, tmp_path, monkeypatch):
    from replica.sessions import discover

    monkeypatch.setattr(discover, "default_places", lambda agent: [tmp_path] if agent == "claude-code" else [])
    log = tmp_path / "3c1f7e52.jsonl"
    text = a_log(
        replica.root, "hello there", f"Lesson: retries need jitter {SECRET}", "Let's go with SQLite for the store."
    )
    log.write_text(text + '{"broken\n')
    result = learned(replica, str(log))
    found = {(item["type"], item["action"]) for item in result["items"]}
    assert ("lesson", "new") in found and ("decision", "new") in found
    assert "retries need jitter" in replica.read("lessons-buffer.md") and SECRET not in replica.read(
        "lessons-buffer.md"
    )
    again = learned(replica, "--session", "latest")
    assert set(actions(again)) == {"known"} and len(again["items"]) == len(result["items"])
    replica("learn", "--session", "nobody", code=1)
    assert "no session 'nobody'" in replica.err
