"""The past: a document is at every moment what it was, and comes back without anything of its history going."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from replica import clock, history
from replica.changes import Kind
from replica.errors import DocumentNotFound, NotFound, UsageError, WrongPolicy
from tests.helpers import Network, assert_same, read, save, shared_content

NOW = 1_772_366_400_000  # 2026-03-01T12:00:00Z
BERLIN = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("10m", NOW - 600_000),
        ("2h ago", NOW - 7_200_000),
        ("3 d", NOW - 3 * 86_400_000),
        ("1w", NOW - 7 * 86_400_000),
        ("yesterday", NOW - 86_400_000),
        ("today", NOW - 13 * 3_600_000),
        ("2026-03-01T12:00Z", NOW),
        ("2026-03-01T13:00", NOW),
        ("2026-03-01 13:00", NOW),
        ("2026-03-01T12:00:00.250Z", NOW + 250),
        ("2026-03-01T12:00:00Z", NOW + 999),
        ("2026-03-01T12:00:00+00:00", NOW + 999),
        ("2026-03-01", NOW - 13 * 3_600_000),
        ("1901-01-01", 0),
    ],
)
def test_a_time_is_what_a_person_means_by_it(text, expected):
    assert history.parse_time(text, NOW, BERLIN) == expected


@pytest.mark.parametrize("text", ["", "soon", "10", "10y", "-5m", "2026-13-01", "2026-03-01T25:00", "9" * 40 + "d"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(UsageError) as caught:
        history.parse_time(text, NOW)
    assert "2026-03-01" in caught.value.hint


def test_a_time_without_a_zone_is_of_this_machine():
    moment = datetime.fromtimestamp(NOW / 1000).replace(microsecond=0)
    assert history.parse_time(moment.isoformat(timespec="minutes"), NOW) == NOW
    assert history.parse_time(datetime.fromtimestamp(NOW / 1000, UTC).isoformat(timespec="minutes"), NOW) == NOW


CONTENTS = {
    "a-buffer.md": ["# A\n\n- one\n- two\n", "# A\n\n- one\n- two, mended\n- three\n", "# A\n\n- three\n- one\n"],
    "activeContext.md": ["first\n", "second\n\nmore 😀\n", "third\n"],
    "SESSION_LOG.md": ["- a\n", "- a\n- b\n", "- a\n- b\n- c\n"],
    "notes.md": ["hello\nworld\n", "hello, 日本\nworld 😀\n", "new\n"],
}


@pytest.fixture
def told():
    """A clone, and for each document the (hybrid time, text) of its versions."""
    with Network("alice") as network:
        moments = []
        for at in range(3):
            for path, texts in CONTENTS.items():
                save(network["alice"], path, texts[at])
            network.run("alice", every=True)
            moments.append(clock.from_ms(network.now, last=True))
            network.now += 60_000
        yield network, network["alice"], moments


@pytest.mark.parametrize("path", CONTENTS)
def test_a_document_is_shown_as_it_was_at_each_moment(told, path):
    _, alice, moments = told
    for moment, text in zip(moments, CONTENTS[path], strict=True):
        assert history.text_at(alice, path, moment) == text
    assert history.text_at(alice, path, clock.LIMIT) == alice.text(path)


def test_before_its_first_change_a_document_is_not_there(told):
    _, alice, moments = told
    with pytest.raises(NotFound):
        history.text_at(alice, "notes.md", moments[0] - (120_000 << clock.COUNTER_BITS))
    with pytest.raises(DocumentNotFound) as caught:
        history.text_at(alice, "note.md", moments[0])
    assert "'notes.md'" in caught.value.hint


@pytest.mark.parametrize("path", [path for path in CONTENTS if path != "SESSION_LOG.md"])
def test_restoring_brings_an_earlier_text_back_and_keeps_the_history(told, path):
    network, alice, moments = told
    before = alice.log.last_row()
    assert history.restore(alice, path, moments[0])
    network.run("alice", every=True)
    assert alice.text(path) == read(alice, path) == CONTENTS[path][0]
    assert alice.log.last_row() > before
    for moment, text in zip(moments, CONTENTS[path], strict=True):
        assert history.text_at(alice, path, moment) == text
    assert not history.restore(alice, path, moments[0])


@pytest.mark.parametrize("path", CONTENTS)
def test_a_deleted_document_can_be_restored(told, path):
    network, alice, moments = told
    alice.delete(alice.document(path))
    with pytest.raises(NotFound):
        history.text_at(alice, path, clock.LIMIT)
    assert history.restore(alice, path, moments[1])
    network.run("alice", every=True)
    assert alice.text(path) == read(alice, path) == CONTENTS[path][1]


def test_a_log_is_not_taken_back(told):
    _, alice, moments = told
    with pytest.raises(WrongPolicy, match="only grows"):
        history.restore(alice, "SESSION_LOG.md", moments[0])
    assert alice.text("SESSION_LOG.md") == CONTENTS["SESSION_LOG.md"][2]


def test_a_restored_document_agrees_everywhere():
    with Network("alice", "bob") as network:
        for texts in zip(*CONTENTS.values(), strict=True):
            for path, text in zip(CONTENTS, texts, strict=True):
                save(network["alice"], path, text)
            network.share()
            network.now += 60_000
        moment = clock.from_ms(network.now - 180_000, last=True)
        for path in ("a-buffer.md", "activeContext.md", "notes.md"):
            assert history.restore(network["bob"], path, moment)
        network.share()
        assert_same(*network.clones.values())
        assert read(network["alice"], "a-buffer.md") == CONTENTS["a-buffer.md"][0]
        assert read(network["alice"], "notes.md") == CONTENTS["notes.md"][0]


def test_what_was_level_0_comes_back_as_level_0():
    from replica import writing

    with Network("alice", "bob") as network:
        alice = network["alice"]
        save(alice, "a-buffer.md", "- one\n- two\n")
        network.share()
        writing.add(alice, "a-buffer.md", "the secret", level=0)
        writing.add(alice, "a-buffer.md", "three")
        moment = alice.store.meta("time")
        network.run("alice")
        network.now += 1_000
        save(alice, "a-buffer.md", "- nine\n")
        network.run("alice")
        assert history.restore(alice, "a-buffer.md", moment)
        network.share()
        assert "the secret" in alice.text("a-buffer.md")
        assert sorted(read(network["bob"], "a-buffer.md").split("\n")) == ["", "- one", "- three", "- two"]
        assert "secret" not in str(shared_content(network["bob"]))
        assert_same(*network.clones.values())


def test_an_entry_of_level_0_that_another_clone_shares_too_can_be_removed():
    from replica import writing

    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", "- one\n")
        network.share()
        writing.add(alice, "a-buffer.md", "same", level=0)
        writing.add(bob, "a-buffer.md", "same")
        network.share()
        save(alice, "a-buffer.md", "- one\n")
        assert network.run("alice").skipped == {}
        network.share()
        assert read(alice, "a-buffer.md") == read(bob, "a-buffer.md") == "- one\n"
        assert_same(alice, bob)


def test_a_clock_far_ahead_does_not_break_the_past():
    """What builds on a change of next year is left out of today's past together with it."""
    with Network("alice", "bob") as network:
        ahead = network.now + 400 * 86_400_000
        save(network["alice"], "notes.md", "one\n")
        network.share()
        first = network["alice"].store.meta("time")
        network["bob"].log.now_ms = lambda: ahead
        network["bob"].edit_text("notes.md", new="one\nfrom the future\n")
        network.sync("alice", "bob")
        network["alice"].edit_text("notes.md", new="one\nfrom the future, and more\n")
        now = clock.from_ms(network.now, last=True)
        assert history.text_at(network["alice"], "notes.md", now) == "one\n"
        assert history.text_at(network["alice"], "notes.md", first) == "one\n"
        assert history.text_at(network["alice"], "notes.md", clock.LIMIT) == "one\nfrom the future, and more\n"


def test_the_log_says_who_changed_what_newest_first(told):
    _, alice, _ = told
    rows = history.log(alice, limit=None)
    assert [row.time for row in rows] == sorted((row.time for row in rows), reverse=True)
    assert len(rows) == alice.log.last_row()
    assert rows[-1].kind == "workspace" and rows[-1].clone == "alice"
    ours = history.log(alice, "a-buffer.md")
    assert [row.summary for row in ours][-1] == "+2 entries"
    assert all(row.document == "a-buffer.md" for row in ours)
    assert len(history.log(alice, limit=2)) == 2
    assert history.log(alice, "notes.md")[-1].summary.startswith("+12 characters")


def test_every_kind_of_change_has_its_words():
    assert set(history._WORDS) == set(history._SUMMARIES) == set(Kind)


def test_a_difference_is_a_unified_diff(told):
    _, alice, moments = told
    found = history.diff(alice, "activeContext.md", moments[0], moments[1])
    assert "".join(found.lines).endswith("@@ -1 +1,3 @@\n-first\n+second\n+\n+more 😀\n")
    assert (found.added, found.removed) == (3, 1)
    assert history.diff(alice, "notes.md", 0, moments[0]).added == 2
    assert history.diff(alice, "notes.md", moments[2], clock.LIMIT).lines == ()


def test_a_difference_says_where_the_last_newline_is_missing():
    with Network("alice") as network:
        network["alice"].edit_text("notes.md", new="one")
        first = network["alice"].store.meta("time")
        network["alice"].edit_text("notes.md", new="two")
        found = history.diff(network["alice"], "notes.md", first, clock.LIMIT)
        assert "".join(found.lines).endswith("-one\n\\ No newline at end of file\n+two\n\\ No newline at end of file\n")
