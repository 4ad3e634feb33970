"""Harvest: from full buffers into documents, each entry once, whatever clones did while apart."""

import itertools
import json
import sqlite3
import sys
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.harvest import numbers_in
from replica import adr, harvest, origin, tidy, writing
from replica.blocks import ENTRY, Block, block_id, parse
from replica.changes import Add
from replica.clone import Clone
from replica.config import DEFAULT
from replica.errors import DocumentNotFound, TooLarge, UsageError, WrongPolicy
from replica.store import Store
from tests.helpers import Network, add, assert_same, read, save
from tests.test_cli_memory import Terminal, fresh  # noqa: F401
from tests.test_crash import crashes

PATTERNS, LESSONS, INBOX = "patterns-buffer.md", "lessons-buffer.md", "decisions-inbox.md"
INTO = "Docs/03-Reference/Patterns.md"
MORTEMS, ADRS = "Docs/06-PostMortems/", "Docs/03-Reference/ADR/"


def reap(clone: Clone, path: str, into: str | None = None):
    """Harvest all of a buffer."""
    (done,), tidied = harvest.harvest(clone, harvest.plan(clone, path, into))
    return done, tidied


def paths(clone: Clone, folder: str) -> list[str]:
    return [d.path.removeprefix(folder) for d in clone.documents.all() if d.path.startswith(folder)]


def text(clone: Clone, path: str) -> str:
    return clone.text(path)


def short(entry: str, occurrence: int = 1) -> str:
    return block_id(ENTRY, entry, occurrence).hex()[:12]


@pytest.fixture
def two():
    with Network("alice", "bob") as net:
        yield net


def meet(net: Network) -> None:
    """Changes round, and everyone puts right what is there twice, until nobody has anything to do."""
    for _ in range(8):
        net.sync_all()
        if not any([tidy.tidy(clone).changed for clone in net.clones.values()]):
            net.sync_all()
            return assert_same(*net.clones.values())
    raise AssertionError("tidying does not come to rest")


# --- the origin


def test_an_entry_is_written_with_author_date_and_id(two):
    add(two["alice"], PATTERNS, "- Close the file first.")
    done, _ = reap(two["alice"], PATTERNS)
    name = short("- Close the file first.")
    assert text(two["alice"], INTO) == f"# Patterns\n\n- Close the file first.\n  *— alice, 2025-06-15, entry {name}*\n"
    assert (done.count, done.remaining, done.written[0].document) == (1, 0, INTO)
    assert text(two["alice"], PATTERNS) == ""


ENTRIES = [
    "- one", "* star\n  more", "1. first\n   deeper", "- a\n  - b\n\n  c", "A paragraph\nof two lines", "> a quote",
    "```\ncode\n```", "| a | b |\n|---|---|", "- ```\n  open in an item", "  - indented",
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_kind_of_entry_stays_one_block_with_its_origin(entry):
    of = origin.origin_of("al*ice", 1_750_000_000_000 << 16, [block_id(ENTRY, entry, 1)], exact=False)
    written = origin.signed(entry, of, "union")
    blocks = parse(f"# T\n\n- before\n\n{written}\n\n- after\n", "union")
    assert [block.text for block in blocks] == ["# T", "- before", written, "- after"]
    *lines, last = written.split("\n")
    assert origin.read_line(last) == of
    assert origin.unsigned(lines, of.ids) and not origin.unsigned([*lines[:-1], lines[-1] + "!"], of.ids)


def test_what_is_written_hangs_on_the_entry_and_not_on_who_harvests_or_when(two):
    add(two["alice"], PATTERNS, "- one")
    two.sync_all()
    texts = set()
    for name in ("alice", "bob"):
        two.now += 5_000_000_000
        reap(two[name], PATTERNS)
        texts.add(text(two[name], INTO))
    assert len(texts) == 1


def test_a_date_that_no_calendar_has_is_no_obstacle():
    assert origin.origin_of("a", 2**66, [bytes(16)], exact=True).date == "1970-01-01"


# --- what is harvested


def test_entries_in_conflict_and_of_level_0_stay_and_that_is_said(two):
    save(two["alice"], PATTERNS, "- agreed\n- disputed\n")
    two.share()
    for name in ("alice", "bob"):
        save(two[name], PATTERNS, f"- agreed\n- disputed by {name}\n")
    two.share()
    add(two["alice"], PATTERNS, "- for me alone", level=0)
    done, _ = reap(two["alice"], PATTERNS)
    assert [one.unit.title for one in done.written] == ["agreed"]
    reasons = {left.text: left.reason for left in done.buffer.left}
    assert "in conflict" in reasons["- disputed by alice"] and "level 0" in reasons["- for me alone"]
    assert done.remaining == 3 and "for me alone" not in text(two["alice"], INTO)


def test_a_concurrent_edit_wins_over_the_harvest_of_the_entry(two):
    add(two["alice"], PATTERNS, "- it is so", "- other")
    two.share()
    reap(two["alice"], PATTERNS)
    save(two["bob"], PATTERNS, "- it is so, mostly\n- other\n")
    two.run("bob")
    meet(two)
    assert text(two["alice"], PATTERNS) == "- it is so, mostly\n"
    assert text(two["alice"], INTO).count("it is so") == 1


def test_without_a_document_only_full_buffers_are_harvested(two):
    alice = two["alice"]
    add(alice, LESSONS, *(f"- lesson {n}" for n in range(15)))
    add(alice, PATTERNS, *(f"- pattern {n}" for n in range(19)))
    assert [(b.path, b.full.share) for b in harvest.plan(alice)] == [(LESSONS, 1.0)]
    assert [b.path for b in harvest.plan(alice, PATTERNS)] == [PATTERNS]


def test_a_choice_leaves_the_others_where_they_are(two):
    add(two["alice"], PATTERNS, "- one", "- two", "- three")
    (buffer,) = harvest.plan(two["alice"], PATTERNS)
    buffer.units = [unit for unit in buffer.units if unit.title == "two"]
    harvest.harvest(two["alice"], [buffer])
    assert [e.text for e in two["alice"].entries(PATTERNS)] in (["- one", "- three"], ["- three", "- one"])


def test_what_changed_since_the_plan_is_not_harvested(two):
    alice = two["alice"]
    add(alice, PATTERNS, "- one", "- two")
    two.share()
    planned = harvest.plan(alice, PATTERNS)
    save(alice, PATTERNS, read(alice, PATTERNS).replace("- one", "- one, edited since"))
    two.run("alice")
    (done,), _ = harvest.harvest(alice, planned)
    assert [one.unit.title for one in done.written] == ["two"]


def test_tags_come_along_and_a_level_of_its_own_is_kept(two):
    alice = two["alice"]
    writing.add(alice, PATTERNS, "for the cloud too", tags=("net",), level=2)
    reap(alice, PATTERNS)
    (entry,) = [e for e in alice.entries(INTO) if e.role == ENTRY]
    assert entry.meta == {"tags": ["net"], "level": 2}


def test_what_is_not_for_the_cloud_does_not_go_there_by_way_of_a_text(two):
    alice = two["alice"]
    config = (
        '[[documents]]\nglob = "*-buffer.md"\npolicy = "union"\nlevel = 2\n[[documents]]\nglob = "*.md"\nlevel = 2\n'
    )
    alice.set_config(config)
    writing.add(alice, PATTERNS, "for everyone")
    writing.add(alice, PATTERNS, "for the workspace", level=1)
    done, _ = reap(alice, PATTERNS, "notes.md")
    assert "for everyone" in text(alice, "notes.md") and "the workspace" not in text(alice, "notes.md")
    assert [left.text for left in done.buffer.left] == ["- for the workspace"]


REFUSED = {
    "itself": (PATTERNS, UsageError, "into itself"),
    "no rule": ("x.txt", DocumentNotFound, "no rule"),
    "replaced as a whole": ("activeContext.md", WrongPolicy, "latest"),
    "leaves the folder": ("../x.md", UsageError, "unsafe"),
    "level 0": ("private.md", WrongPolicy, "level 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_target_that_cannot_be_is_refused_with_the_way_out(two, what):
    add(two["alice"], PATTERNS, "- one")
    rule = '[[documents]]\nglob = "private.md"\nlevel = 0\n'
    two["alice"].set_config(DEFAULT.replace("# What is going on now", f"{rule}\n# What is going on now"))
    into, error, words = REFUSED[what]
    with pytest.raises(error, match=words) as raised:
        reap(two["alice"], PATTERNS, into)
    assert raised.value.hint
    assert two["alice"].text(PATTERNS) == "- one\n"


def test_a_target_over_its_limit_is_refused_and_nothing_is_changed(two):
    alice = two["alice"]
    add(alice, PATTERNS, "- " + "long " * 100)
    alice.set_config(DEFAULT.replace('"1MB"', '"400B"'))
    before = alice.digest()
    with pytest.raises(TooLarge):
        reap(alice, PATTERNS)
    assert alice.digest() == before


def test_a_full_buffer_that_is_set_up_wrongly_keeps_no_other_from_its_harvest(two):
    alice = two["alice"]
    add(alice, LESSONS, *(f"- lesson {n}" for n in range(15)))
    add(alice, PATTERNS, *(f"- pattern {n}" for n in range(20)))
    alice.set_config(DEFAULT.replace(MORTEMS, "nowhere/x.txt"))
    (one, other), _ = harvest.harvest(alice, harvest.plan(alice))
    assert (one.buffer.path, one.count, one.remaining) == (LESSONS, 0, 0)
    assert "no rule" in one.buffer.left[0].reason
    assert (other.buffer.path, other.count) == (PATTERNS, 20)


def test_a_clone_that_is_being_brought_back_is_left_alone(two):
    add(two["alice"], INBOX, "- one")
    add(two["bob"], INBOX, "- other")
    for name in ("alice", "bob"):
        reap(two[name], INBOX)
    two.sync_all()
    with two["alice"].transaction():
        two["alice"].store.set_meta("rejoin", "away")
    assert not tidy.tidy(two["alice"]).changed
    with two["alice"].transaction():
        two["alice"].store.set_meta("rejoin", None)
    assert tidy.tidy(two["alice"]).renumbered


def test_a_log_and_a_text_are_no_buffers(two):
    add(two["alice"], "SESSION_LOG.md", "- begun", policy="log")
    with pytest.raises(WrongPolicy, match="only grows"):
        reap(two["alice"], "SESSION_LOG.md", "x-buffer.md")


# --- into blocks


def test_headings_are_drawers_that_stay_and_are_made_in_the_target(two):
    alice = two["alice"]
    save(alice, PATTERNS, "# Patterns\n\n## Code\n- a\n- b\n\n## Tests\n- c\n")
    two.share()
    reap(alice, PATTERNS)
    assert text(alice, PATTERNS) == "# Patterns\n\n## Code\n\n## Tests\n"
    lines = [line for line in text(alice, INTO).split("\n") if line and "*—" not in line]
    assert lines == ["# Patterns", "## Code", "- a", "- b", "## Tests", "- c"]
    writing.add(alice, PATTERNS, "d")  # below the last heading
    reap(alice, PATTERNS)
    assert [line for line in text(alice, INTO).split("\n") if line[:1] in "#-" and line][-1] == "- d"
    assert text(alice, INTO).count("## Tests") == 1


def test_sections_go_under_their_headings_once_and_files_agree(two):
    save(
        two["alice"],
        PATTERNS,
        "# P\n\n## Retry\nWith jitter.\n\nAlways.\n\n### Why\n> storms\n\n## Cache\nLess.\n- a\n",
    )
    two.share()
    for name in ("alice", "bob"):
        reap(two[name], PATTERNS)
    meet(two)
    lines = [line for line in text(two["bob"], INTO).split("\n") if line and "*—" not in line]
    assert lines == [
        "# Patterns",
        "## Retry",
        "With jitter.",
        "Always.",
        "### Why",
        "> storms",
        "## Cache",
        "Less.",
        "- a",
    ]
    assert text(two["bob"], PATTERNS) == "# P\n"
    digest = two["alice"].digest()
    two.share()
    assert two["alice"].digest() == digest and read(two["bob"], INTO) == text(two["alice"], INTO)
    save(two["bob"], INTO, read(two["bob"], INTO).replace("Always.", "Nearly always."))
    two.share()
    assert "Nearly always." in read(two["alice"], INTO) and text(two["alice"], INTO).count("Always.") == 0


RULED = "# Inbox\n\n" + "\n---\n\n".join(f"## {name}\n\nWe {name}.\n" for name in ("build", "paint", "ship"))


@pytest.mark.parametrize(
    ("titles", "left"),
    [
        ({"build"}, "# Inbox\n\n## paint\n\nWe paint.\n\n---\n\n## ship\n\nWe ship.\n"),
        ({"paint"}, "# Inbox\n\n## build\n\nWe build.\n\n---\n\n## ship\n\nWe ship.\n"),
        ({"ship"}, "# Inbox\n\n## build\n\nWe build.\n\n---\n\n## paint\n\nWe paint.\n"),
        ({"build", "paint", "ship"}, "# Inbox\n"),
    ],
    ids=lambda one: "+".join(sorted(one)) if isinstance(one, set) else "",
)
def test_the_rule_that_parts_a_section_from_the_next_goes_with_it(two, titles, left):
    save(two["alice"], INBOX, RULED), two.run("alice")
    (buffer,) = harvest.plan(two["alice"], INBOX)
    units = [unit for unit in buffer.units if unit.title in titles]
    harvest.harvest(two["alice"], [replace(buffer, units=units)])
    assert text(two["alice"], INBOX) == left
    two.run("alice")
    assert read(two["alice"], INBOX) == left


def test_a_rule_between_lists_and_below_a_title_stays(two):
    save(two["alice"], "patterns-buffer.md", "# P\n\n---\n\n- one\n\n---\n\n- two\n"), two.run("alice")
    reap(two["alice"], "patterns-buffer.md")
    assert text(two["alice"], "patterns-buffer.md") == "# P\n\n---\n\n---\n"


def test_a_log_takes_entries_too(two):
    add(two["alice"], PATTERNS, "- one", "- two\n  more")
    two.sync_all()
    for name in ("alice", "bob"):
        reap(two[name], PATTERNS, "SESSION_LOG.md")
    meet(two)
    lines = text(two["bob"], "SESSION_LOG.md").split("\n")
    assert [line for line in lines if line.startswith("- ")] in (["- one", "- two"], ["- two", "- one"])
    assert sum("*—" in line for line in lines) == 2


def test_an_entry_that_the_target_holds_already_only_leaves_the_buffer(two):
    alice = two["alice"]
    add(alice, PATTERNS, "- one")
    reap(alice, PATTERNS)
    before = text(alice, INTO)
    with alice.transaction():  # somebody else added it while it was harvested: the same name is alive again
        add(alice, PATTERNS, "- one")
    done, _ = reap(alice, PATTERNS)
    assert text(alice, INTO) == before and done.remaining == 0


# --- into a text


def test_two_harvests_into_a_text_leave_each_entry_once(two):
    add(two["alice"], PATTERNS, "- one", "- two\n\n  with more", "> three")
    two.sync_all()
    for name in ("alice", "bob"):
        reap(two[name], PATTERNS, "notes.md")
    once = text(two["alice"], "notes.md")
    two.sync_all()
    assert text(two["alice"], "notes.md").count("- one") == 2
    for name in ("alice", "bob"):  # both at once: they take out the same characters
        assert tidy.tidy(two[name]).once == {"notes.md": 3}
    two.sync_all()
    meet(two)
    assert text(two["alice"], "notes.md") == once
    assert two["alice"].documents.all_conflicts() == [], "nobody need look at what both had alike"


def test_what_a_person_edited_in_a_text_stays_and_the_other_copy_goes(two):
    add(two["alice"], PATTERNS, "- one")
    two.sync_all()
    for name in ("alice", "bob"):
        reap(two[name], PATTERNS, "notes.md")
    alice = two["alice"]
    alice.edit_text("notes.md", new=text(alice, "notes.md").replace("- one", "- one, by hand"))
    meet(two)
    assert text(two["bob"], "notes.md").count("*—") == 1 and "- one, by hand" in text(two["bob"], "notes.md")


def test_paragraphs_of_a_person_are_never_taken_for_a_copy():
    of = origin.origin_of("a", 0, [block_id(ENTRY, "- x", 1)], exact=False)
    block = f"- x\n  {of.line}\n"
    assert origin.twice_in_text(f"mine\n\n{block}\nmine\n\n{block}") == [
        (len(f"mine\n\n{block}\nmine\n"), len(f"mine\n\n{block}\nmine\n\n{block}"))
    ]
    assert origin.twice_in_text(f"mine\n{of.line}\n\nmine\n{of.line}\n") == []


# --- one file each


def test_lessons_become_one_file_each_and_two_clones_write_the_same(two):
    add(two["alice"], LESSONS, "- Read the error.", "- A long lesson, with a second line\n  that says more.")
    two.sync_all()
    for name in ("alice", "bob"):
        reap(two[name], LESSONS)
    meet(two)
    names = paths(two["bob"], MORTEMS)
    assert len(names) == 2 and all(tidy.DATED.fullmatch(name) for name in names)
    one = next(text(two["bob"], MORTEMS + name) for name in names if "read" in name)
    assert one == f"# Read the error.\n\n*— alice, 2025-06-15 15:06:40 UTC, entry {short('- Read the error.')}*\n"
    assert two["bob"].documents.all_conflicts() == []
    two.share()
    assert read(two["bob"], MORTEMS + names[0]) == text(two["alice"], MORTEMS + names[0])


def test_one_entry_known_with_two_authors_ends_as_one_file(two):
    """Both added the same lesson, and each harvested it before they met: author and time differ."""
    for name in ("alice", "bob"):
        two.now += 86_400_000
        add(two[name], LESSONS, "- Read the error.")
        reap(two[name], LESSONS)
    meet(two)
    assert len(paths(two["alice"], MORTEMS)) == 1


@pytest.mark.parametrize("into", [INTO, "notes.md"])
def test_one_entry_known_with_two_authors_ends_as_one_block(two, into):
    for name in ("alice", "bob"):
        two.now += 86_400_000
        add(two[name], PATTERNS, "- one")
        reap(two[name], PATTERNS, into)
    meet(two)
    assert text(two["alice"], into).count("- one") == 1


# --- decisions


def test_a_decision_becomes_a_numbered_record_in_the_form_of_madr(two):
    alice = two["alice"]
    save(
        alice,
        INBOX,
        "# Decisions\n\n## Use SQLite\nOne file, no server.\n\n- and tests are quick\n\n## Ask later\nNo.\n",
    )
    two.share()
    done, _ = reap(alice, INBOX)
    assert [one.document for one in done.written] == [f"{ADRS}ADR-001-use-sqlite.md", f"{ADRS}ADR-002-ask-later.md"]
    record = text(alice, f"{ADRS}ADR-001-use-sqlite.md")
    assert record.startswith(
        "# ADR-001: Use SQLite\n\n- Status: accepted\n- Date: 2025-06-15\n- Decision-makers: alice\n"
    )
    assert "## Decision Outcome\n\nOne file, no server.\n\n- and tests are quick\n" in record
    assert text(alice, INBOX) == "# Decisions\n" and done.count == 3


def test_a_template_in_the_folder_takes_the_place_of_ours(two):
    alice = two["alice"]
    save(
        alice,
        f"{ADRS}template.md",
        "---\nid: {number}\n---\n# {number} {title} {unknown}\n\n{text}\n\nfrom {document}, {tags}\n",
    )
    writing.add(alice, INBOX, "Use SQLite", tags=("store",))
    two.share()
    reap(alice, INBOX)
    made = text(alice, f"{ADRS}ADR-001-use-sqlite.md")
    assert made.startswith(
        "---\nid: 001\n---\n# 001 Use SQLite {unknown}\n\nUse SQLite\n\nfrom decisions-inbox.md, store\n\n*—"
    )
    assert adr.renumbered(made, 1, 7).split("\n")[3] == "# 007 Use SQLite {unknown}"


def test_the_next_free_number_follows_the_records_that_are_there(two):
    alice = two["alice"]
    save(alice, f"{ADRS}ADR-041-by-hand.md", "# By hand\n")
    add(alice, INBOX, "- Use SQLite")
    two.share()
    reap(alice, INBOX)
    assert f"{ADRS}ADR-042-use-sqlite.md" in paths(alice, "")


def test_two_records_of_one_number_are_renumbered_alike_by_whoever_sees_them(two):
    add(two["alice"], INBOX, "- the older")
    two.now += 1_000
    add(two["bob"], INBOX, "- the younger")
    for name in ("bob", "alice"):
        reap(two[name], INBOX)
    two.sync_all()
    done = [tidy.tidy(two[name]).renumbered for name in ("alice", "bob")]
    assert done[0] == done[1] == [
        (f"{ADRS}ADR-001-the-younger.md", f"{ADRS}ADR-002-the-younger.md", f"{ADRS}ADR-001-the-older.md", ())
    ]  # fmt: skip
    meet(two)
    assert paths(two["alice"], ADRS) == ["ADR-001-the-older.md", "ADR-002-the-younger.md"]
    assert text(two["bob"], f"{ADRS}ADR-002-the-younger.md").startswith("# ADR-002: the younger\n")
    assert two["alice"].documents.all_conflicts() == []


def test_documents_that_name_a_renumbered_record_are_told(two):
    add(two["alice"], INBOX, "- the older")
    two.now += 1_000
    add(two["bob"], INBOX, "- the younger")
    for name in ("bob", "alice"):
        reap(two[name], INBOX)
    save(two["bob"], "activeContext.md", "See ADR-001-the-younger.md.\n")
    save(two["bob"], "plan.md", "As [decided](Docs/03-Reference/ADR/ADR-001-the-younger.md).\n")
    save(two["bob"], "other.md", "See ADR-001-the-older.md.\n")
    two.run("bob"), two.sync_all()
    (moved,) = tidy.tidy(two["alice"]).renumbered
    assert moved.links == ("activeContext.md", "plan.md")
    assert "ADR-002-the-younger.md now; still named so in activeContext.md, plan.md: ADR-001-the-older.md is older" in (
        moved.line
    )


def test_what_a_person_wrote_keeps_its_number(two):
    add(two["alice"], INBOX, "- harvested")
    reap(two["alice"], INBOX)
    save(two["bob"], f"{ADRS}ADR-001-written.md", "# ADR-001: written\n")
    two.run("bob")
    meet(two)
    assert paths(two["alice"], ADRS) == ["ADR-001-written.md", "ADR-002-harvested.md"]


def test_one_decision_under_two_numbers_ends_as_the_lower(two):
    add(two["alice"], INBOX, "- both know")
    two.sync_all()
    add(two["bob"], INBOX, "- only bob knows")
    for name in ("alice", "bob"):
        reap(two[name], INBOX)
    meet(two)
    records = [one.partition("-")[2].partition("-") for one in paths(two["alice"], ADRS)]
    assert sorted(rest for *_, rest in records) == ["both-know.md", "only-bob-knows.md"]
    assert len({number for number, *_ in records}) == 2


def test_one_decision_of_which_a_person_edited_one_record_is_kept_twice_and_said(two):
    alice, bob = two["alice"], two["bob"]
    add(alice, INBOX, "- both know")
    two.sync_all()
    save(bob, f"{ADRS}ADR-001-other.md", "# Other\n")
    two.run("bob")
    reap(alice, INBOX), reap(bob, INBOX)
    path = f"{ADRS}ADR-001-both-know.md"
    alice.edit_text(path, new=text(alice, path).replace("## Considered Options\n", "## Considered Options\n\n- none\n"))
    two.sync_all()
    notes = tidy.tidy(alice).notes
    assert len(notes) == 1 and "differ" in notes[0]
    assert tidy.tidy(alice).notes == notes, "it is said until it is settled"
    meet(two)
    assert sum("both-know" in path for path in paths(bob, ADRS)) == 2


def test_two_decisions_of_one_title_and_one_number_are_parted(two):
    for name in ("alice", "bob"):
        two.now += 1_000
        save(two[name], INBOX, f"# Decisions\n\n## Use SQLite\nBecause {name} says so.\n")
        two.run(name)
        reap(two[name], INBOX)
    meet(two)
    assert paths(two["alice"], ADRS) == ["ADR-001-use-sqlite.md", "ADR-002-use-sqlite.md"]
    texts = [text(two["bob"], f"{ADRS}ADR-00{n}-use-sqlite.md") for n in (1, 2)]
    assert [one.count("# ADR-00") for one in texts] == [1, 1]
    assert "alice says" in texts[0] and "bob says" in texts[1] and texts[1].startswith("# ADR-002: ")
    assert two["alice"].documents.all_conflicts() == []


def test_two_decisions_that_a_person_made_one_are_left_so(two):
    alice = two["alice"]
    add(alice, INBOX, "- one", "- two")
    reap(alice, INBOX)
    one, other = (f"{ADRS}{name}" for name in paths(alice, ADRS))
    alice.edit_text(one, new=text(alice, one) + "\n".join(text(alice, other).split("\n")[1:]))
    alice.delete(alice.document(other))
    assert tidy.tidy(alice) == tidy.Tidied()


@pytest.mark.parametrize(
    ("entry", "title", "slug"),
    [
        ("- Use it", "Use it", "use-it"),
        ("- **Parse at the edge.** Then all is plain.", "Parse at the edge", "parse-at-the-edge"),
        ("1. `x` and __y__ more", "x and y more", "x-and-y-more"),
        ("- Ein Pegel, naß 🏷️", "Ein Pegel, naß 🏷️", "ein-pegel-naß"),
        ("- 🏷️", "🏷️", "entry"),
        ("- " + "word " * 40, "word " * 14 + "word…", "word-" * 11 + "word"),
    ],
)
def test_titles_and_names_of_files_come_from_the_first_line(entry, title, slug):
    found = origin.title_of(origin.plain(entry))
    assert (found, origin.slug(found)) == (title, slug)


# --- everything once


WORDS = ["alpha", "beta", "gamma", "delta", "epsilon"]
KINDS = ["- {0}", "- {0}", "* {0}\n  and more of {0}", "1. {0}\n\n   a part", "- **{0}.** So.\n  ```\n  - code\n  ```"]


def everything_once(net: Network, must: set[str], may: set[str], targets: dict[str, str]) -> None:
    """Every entry in its buffer or in its target, once, on every clone; in both only while it is in conflict."""
    for clone in net.clones.values():
        found: list[str] = []
        rivals: set[str] = set()
        for buffer, target in targets.items():
            document = clone.documents.find(buffer, "union")
            conflicts = clone.documents.conflicts(document)
            rivals |= {f"{buffer} {origin.short(entry.id)}" for conflict in conflicts for entry in conflict.entries}
            shown = [f"{buffer} {origin.short(e.id)}" for e in clone.documents.entries(document) if e.role == ENTRY]
            found += [name for name in shown if name not in rivals]
            found += [f"{buffer} {id}" for id in tidy.harvested_ids(clone, target)]
            texts = [clone.documents.text(d) for d in clone.documents.all() if d.path.startswith(target)]
            said = [id for one in texts for of in origin.origins(one) for id in of.ids]
            assert len(said) == len(set(said)), f"{clone.name}: twice in {target}"
        assert len(found) == len(set(found)), f"{clone.name}: in a buffer and in its target"
        assert must <= set(found) | rivals <= must | may, clone.name


def random_history(net: Network, random: Random, targets: dict[str, str], steps: int) -> tuple[set[str], set[str]]:
    """Entries added, edited, moved and harvested on clones that meet now and then; what must and what may be there."""
    names, must, may = list(net.clones), set(), set()
    for _ in range(steps):
        clone, buffer = net[random.choice(names)], random.choice(list(targets))
        document = clone.documents.find(buffer, "union")
        entries = [entry for entry in clone.documents.entries(document) if entry.role == ENTRY]
        net.now += random.randrange(5_000)
        what = random.random()
        if what < 0.45:  # often the same words on several clones, which are one entry
            own = f" of {clone.name} {net.now}" if random.random() < 0.5 else ""
            words = random.choice(KINDS).format(f"{random.choice(WORDS)} {random.randrange(4)}{own}")
            add(clone, buffer, words)
            must.add(f"{buffer} {short(words)}")
        elif what < 0.55 and entries:
            old, words = random.choice(entries), f"- edited {net.now} by {clone.name}"
            new = Add(ENTRY, words, 1, "", old.place, old.dots, {})
            clone.edit_entries(buffer, "union", [(1, new)])
            must.add(f"{buffer} {short(words)}")
            may.add(f"{buffer} {origin.short(old.id)}")
        elif what < 0.6 and entries:
            old = random.choice(entries)
            clone.edit_entries(buffer, "union", [(1, Add(ENTRY, old.text, old.occurrence, "", None, old.dots, {}))])
        elif what < 0.85 and document.alive:
            (planned,) = harvest.plan(clone, buffer)
            planned.units = [unit for unit in planned.units if random.random() < 0.7]
            harvest.harvest(clone, [planned])
        elif what < 0.9:
            tidy.tidy(clone)
        else:
            net.sync(*random.sample(names, 2))
    return must - may, may


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 3]), st.booleans())
def test_every_entry_is_there_once_whatever_was_harvested_while_apart(seed, count, is_text):
    random = Random(seed)
    targets = {PATTERNS: "notes.md" if is_text else INTO, LESSONS: MORTEMS, INBOX: ADRS}
    with Network(*("alice", "bob", "carol")[:count], seed=seed) as net:
        for clone in net.clones.values():
            clone.set_config(DEFAULT.replace(INTO, targets[PATTERNS], 1))
        must, may = random_history(net, random, targets, random.randrange(10, 40))
        meet(net)
        everything_once(net, must, may, targets)
        digest = net["alice"].digest()
        for name in net.clones:
            assert not net.run(name).taken, "the files say what the documents say"
        assert net["alice"].digest() == digest
        for clone in net.clones.values():
            numbers = [adr.number_of(path) for path in paths(clone, ADRS)]
            assert len(numbers) == len(set(numbers)), "two records of one number"


def test_clones_that_tidy_in_different_states_end_alike():
    """Each meets only one other before it puts right what it sees."""
    with Network("alice", "bob", "carol") as net:
        for name in net.clones:
            net.now += 1_000
            add(net[name], INBOX, f"- by {name}")
            reap(net[name], INBOX)
        for one, other in (("alice", "bob"), ("bob", "carol"), ("carol", "alice")):
            net.sync(one, other)
            tidy.tidy(net[one]), tidy.tidy(net[other])
        meet(net)
        names = paths(net["bob"], ADRS)
        assert sorted(name[8:] for name in names) == ["by-alice.md", "by-bob.md", "by-carol.md"]
        assert len({name[:7] for name in names}) == 3


# --- crashes


def test_a_fault_anywhere_in_a_harvest_leaves_it_not_begun(two, monkeypatch):
    alice = two["alice"]
    add(alice, PATTERNS, "- one", "- two")
    add(alice, INBOX, "- decided")
    before, real = alice.digest(), Store.execute
    for fail_at in itertools.count(1):
        calls = itertools.count(1)

        def failing(store, sql, *parameters):
            is_write = sql.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE")
            if is_write and next(calls) == fail_at:  # noqa: B023
                raise sqlite3.OperationalError("the disk failed")
            return real(store, sql, *parameters)

        monkeypatch.setattr(Store, "execute", failing)
        try:
            planned = harvest.plan(alice, PATTERNS) + harvest.plan(alice, INBOX)
            harvest.harvest(alice, planned)
            break
        except sqlite3.OperationalError:
            monkeypatch.setattr(Store, "execute", real)
            assert alice.digest() == before, f"split at write {fail_at}"
    monkeypatch.setattr(Store, "execute", real)
    assert fail_at > 20 and alice.text(PATTERNS) == alice.text(INBOX) == ""
    two.sync_all()
    assert_same(alice, two["bob"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")
def test_a_harvest_that_is_killed_is_done_or_not_begun():
    done = crashes("--only", "harvest", "--kills", "12", "--seed", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " kills, 0 failed" in done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")
def test_a_harvest_in_two_transactions_would_be_found_out():
    broken = (
        "import replica.harvest as harvest, replica.tidy as tidy\n"
        "harvest.harvest = lambda clone, buffers: ([harvest._harvest(clone, one) for one in buffers], tidy.Tidied())"
    )
    done = crashes("--only", "harvest", "--kills", "40", broken=broken)
    assert done.returncode == 1 and " harvested" in done.stdout, done.stdout + done.stderr


# --- the command


class Person(Terminal):
    """Types on a terminal."""

    def types(self, answers: str, *arguments: str, code: int = 0) -> str:
        import io

        from cli import main as cli_main

        stdin = io.TextIOWrapper(io.BytesIO(answers.encode()))
        stdin.isatty = lambda: True
        self._monkeypatch.setattr(sys, "stdin", stdin)
        self._capsys.readouterr()
        got = cli_main.main(arguments)
        self.out, self.err = self._capsys.readouterr()
        assert got == code, self.err
        return self.out


@pytest.fixture
def desk(fresh):  # noqa: F811
    fresh.save(PATTERNS, "# Patterns\n\n- one\n- two\n- three\n")
    fresh.save(INBOX, "# Decisions\n\n- use SQLite\n- ask later\n")
    fresh("init", "--name", "desk", "--workspace", "team")
    return Person(fresh._capsys, fresh._monkeypatch, fresh.root)


def test_harvest_without_a_terminal_takes_all_and_says_so_in_json(desk):
    (said,) = desk.json("harvest", PATTERNS)["documents"]
    assert {key: said[key] for key in ("document", "entries", "threshold", "target", "harvested", "remaining")} == {
        "document": PATTERNS, "entries": 3, "threshold": 20, "target": INTO, "harvested": 3, "remaining": 0,
    }  # fmt: skip
    assert desk.read(PATTERNS) == "# Patterns\n"
    assert desk.read(INTO).count("*— desk, ") == 3
    assert [item["new"] for item in said["items"]] == [True] * 3


def test_a_dry_run_changes_nothing(desk):
    before = desk.json("status")["digest"]
    (said,) = desk.json("harvest", PATTERNS, "--dry-run")["documents"]
    assert (said["harvested"], said["remaining"]) == (3, 0)
    assert desk.json("status")["digest"] == before and not (desk.root / "Docs").exists()
    desk("harvest", PATTERNS, "--dry-run")
    assert "would be harvested" in desk.err and "one → " in desk.out


def test_nothing_is_due_and_that_is_said(desk):
    assert desk.json("harvest")["documents"] == []
    desk("harvest")
    assert "no buffer is full" in desk.err


def test_a_person_chooses_by_number(desk):
    desk.types("nonsense\n1 3\n", "harvest", PATTERNS)
    assert "   2  two" in desk.err and "please say all" in desk.err
    assert desk.read(PATTERNS) == "# Patterns\n- two\n"
    desk.types("none\n", "harvest", PATTERNS)
    assert desk.read(PATTERNS) == "# Patterns\n- two\n"
    desk.types("", "harvest", PATTERNS, "--yes")
    assert desk.read(PATTERNS) == "# Patterns\n"


def test_a_person_is_asked_for_each_decision(desk):
    desk.types("\ny\n", "harvest", INBOX)
    assert "Create ADR for decision #1? (y/N)" in desk.err and "Create ADR for decision #2? (y/N)" in desk.err
    assert desk.read(INBOX) == "# Decisions\n\n- use SQLite\n"
    assert desk.read(f"{ADRS}ADR-001-ask-later.md").startswith("# ADR-001: ask later\n")


def test_a_person_who_goes_away_has_changed_nothing(desk):
    before = desk.json("status")["digest"]
    desk.types("y\n", "harvest", INBOX, code=1)
    assert desk.json("status")["digest"] == before


def test_into_overrides_the_target(desk):
    desk("harvest", PATTERNS, "--into", "notes.md")
    assert desk.read("notes.md").startswith("# notes\n\n- one\n  *— desk")
    (desk.root / "Later").mkdir()
    desk.save("x-buffer.md", "- alone\n")
    assert desk.json("harvest", "x-buffer.md", "--into", "Later")["documents"][0]["target"] == "Later/"
    assert desk("harvest", "activeContext.md", code=1) == ""
    assert "no document" in desk.err
    desk.save("y-buffer.md", "- alone\n")
    desk("harvest", "y-buffer.md", code=2)
    assert "--into FILE" in desk.err


def test_others_than_the_owner_are_told_and_not_stopped(desk):
    rules = desk.read("replica.toml").replace("lines = 20,", 'lines = 20, owner = "alice",')
    desk.save("replica.toml", rules)
    assert desk.json("harvest", PATTERNS)["documents"][0]["owner"] == "alice"
    assert "alice harvests this buffer: patterns-buffer.md" in desk.err
    assert desk.read(PATTERNS) == "# Patterns\n"


def test_an_owner_is_a_clone_or_the_persona_that_works_there_whatever_the_case(desk):
    rules = desk.read("replica.toml").replace("lines = 20,", 'lines = 20, owner = "Ledger",')
    desk.save("replica.toml", rules)
    desk.save(PATTERNS, "# Patterns\n\n" + "".join(f"- number {n}\n" for n in range(20)))
    assert "due, for Ledger" in desk("start")
    desk("harvest", "--dry-run")
    assert "Ledger harvests this buffer" in desk.err
    assert "due, yours" in desk("start", "--persona", "ledger")
    desk("harvest", "--dry-run")
    assert "harvests this buffer" not in desk.err
    desk.save("replica.toml", rules.replace('"Ledger"', '"DESK"'))
    assert "due, yours" in desk("start", "--persona", "")
    desk("harvest")
    assert "harvests this buffer" not in desk.err and desk.read(PATTERNS) == "# Patterns\n"


def test_status_names_a_buffer_until_it_is_harvested(desk):
    desk.save(PATTERNS, "# Patterns\n" + "".join(f"- p{n}\n" for n in range(19)))
    desk("harvest", "--dry-run")  # takes in what was saved
    assert [row["document"] for row in desk.json("status")["harvest"]] == [PATTERNS]
    assert [one["document"] for one in desk.json("harvest")["documents"]] == [PATTERNS]
    assert desk.json("status")["harvest"] == []


@pytest.mark.parametrize(
    ("said", "numbers"),
    [("all", [1, 2, 3]), ("none", []), ("2", [2]), ("1-2, 3", [1, 2, 3]), ("3 1", [1, 3]), ("4", None), ("0", None),
     ("x", None), ("2-1", None), ("1-", [1]), ("²", None)],
)  # fmt: skip
def test_numbers_are_read_as_a_person_writes_them(said, numbers):
    assert numbers_in(said, 3) == numbers


def test_the_json_is_one_object(desk):
    desk("harvest", "--json")
    assert len(desk.out.splitlines()) == 1 and json.loads(desk.out)["dry_run"] is False


# --- units


def test_a_list_below_a_paragraph_of_a_section_belongs_to_it():
    with Network("alice") as net:
        save(net["alice"], INBOX, "# D\n\n- loose\n\n## One\nWhy:\n- a\n\n### Deeper\n- b\n\n---\n\n## Two\n- c\n- d\n")
        net.share()
        units = harvest.divided(net["alice"].entries(INBOX))
        assert [(unit.title, [e.text for e in unit.entries]) for unit in units] == [
            ("loose", ["- loose"]), ("One", ["Why:", "- a", "- b"]), ("Two", ["- c", "- d"]),
        ]  # fmt: skip
        reap(net["alice"], INBOX)
        assert text(net["alice"], INBOX) == "# D\n"


def test_of_one_entry_in_blocks_what_a_person_edited_stays():
    of = origin.origin_of("a", 0, [block_id(ENTRY, "- x", 1)], exact=False)
    later = of._replace(date="1999-01-01")
    first, second, edited = (
        Block(ENTRY, f"{t}\n  {o.line}", "") for t, o in (("- x", of), ("- x", later), ("- y", of))
    )
    assert origin.twice_in_blocks([second, first]) == [0]
    assert origin.twice_in_blocks([first, second, edited]) == [0, 1]
    assert origin.twice_in_blocks([edited, edited]) == []
