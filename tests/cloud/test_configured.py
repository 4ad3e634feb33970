"""Sinks as replica.toml has them: settings, keys, and who has agreed to them."""

import pytest

from replica.cloud import configured, report
from replica.cloud.base import SinkError, Trouble
from replica.cloud.export import Cut, Report
from replica.cloud.http import LONGEST_WAIT, SHOWN, Answer, Http, retry_after
from replica.cloud.ledger import Ledger
from replica.errors import ConfigError, NotFound, UsageError
from tests.helpers import Network, save
from transport.cut import lacking


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "`type` must be one of"),
        ({"type": "redis"}, "`type` must be one of"),
        ({"type": "jsonl"}, "`path` is missing"),
        ({"type": "jsonl", "path": 3}, "must be a text"),
        ({"type": "jsonl", "path": ""}, "must be a text"),
        ({"type": "jsonl", "path": "x", "colour": "red"}, "no such key"),
        ({"type": "jsonl", "path": "x", "level": 0}, "`level` must be 1 or 2"),
        ({"type": "jsonl", "path": "x", "level": True}, "whole number"),
        ({"type": "jsonl", "path": "x", "api_key": "sk-1"}, "a key does not belong"),
        ({"type": "jsonl", "path": "x", "TOKEN": "sk-1"}, "a key does not belong"),
    ],
)
def test_settings_that_make_no_sink_are_named(keys, words):
    with pytest.raises(ConfigError, match=words) as caught:
        configured.check("team", keys)
    assert caught.value.hint and "sk-1" not in str(caught.value) + caught.value.hint


def test_a_sink_is_added_and_taken_out_and_the_rest_stays():
    text = (
        '# mine\n[limits]\ndocument = "1MB"\n\n# ours\n[sinks.old]\ntype = "jsonl"\npath = "a"\n\n[history]\ndays = 3\n'
    )
    new = configured.with_sink(text, "new-one", {"type": "jsonl", "path": 'a "b" ü'})
    assert new.startswith(text.rstrip("\n"))
    assert configured.without_sink(new, "new-one") == text
    without = configured.without_sink(new, "old")
    assert "# ours" in without and "days = 3" in without and "sinks.old" not in without
    with pytest.raises(UsageError, match="there is a sink"):
        configured.with_sink(text, "old", {"type": "jsonl", "path": "b"})
    with pytest.raises(NotFound):
        configured.without_sink(text, "other")
    with pytest.raises(UsageError, match="only a person"):
        configured.without_sink('sinks = { a = { type = "jsonl", path = "x" } }\n', "a")


def test_another_place_has_another_target_and_another_pace_has_not():
    one = configured.check("x", {"type": "jsonl", "path": "a"})
    assert one.target != configured.check("x", {"type": "jsonl", "path": "b"}).target
    assert one.target == configured.check("x", {"type": "jsonl", "path": "a", "timeout": 3, "into": "b.md"}).target


SINK = '[sinks.out]\ntype = "jsonl"\npath = "{path}"\n'


def test_a_sink_that_another_clone_has_set_gets_nothing_until_a_person_agrees():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "replica.toml", SINK.format(path="a.jsonl"))
        network.run("alice")
        network.share()
        for clone, refused in ((alice, False), (bob, True)):
            with Ledger(clone.root) as ledger:
                sink = configured.all_of(clone)["out"]
                if not refused:
                    configured.require_approval(clone, ledger, sink)
                    continue
                with pytest.raises(configured.NotApproved, match="set by alice"):
                    configured.require_approval(clone, ledger, sink)
                configured.approve(clone, ledger, sink)
                configured.require_approval(clone, ledger, sink)
        save(bob, "replica.toml", SINK.format(path="/somewhere/else"))  # bob turns it elsewhere
        network.run("bob")
        network.share()
        save(alice, "replica.toml", SINK.format(path="/somewhere/else") + "[history]\ndays = 3\n")  # alice edits on
        network.run("alice")
        with Ledger(alice.root) as ledger, pytest.raises(configured.NotApproved, match="set by bob"):
            configured.require_approval(alice, ledger, configured.all_of(alice)["out"])


class Needy:
    """Stands for a sink that needs a key."""

    key_name, key_needed = "NEEDY_KEY", True


def needy(monkeypatch, **values):
    monkeypatch.setattr(configured.Configured, "of", Needy)
    return configured.Configured("needy", "needy", {"insecure": False, **values}, "")


def test_a_key_comes_from_the_environment(monkeypatch):
    sink = needy(monkeypatch, url="https://host")
    assert configured.key_of(sink, {"NEEDY_KEY": " k1 "}) == "k1"
    assert configured.key_of(needy(monkeypatch, key_env="OTHER"), {"NEEDY_KEY": "k1", "OTHER": "k2"}) == "k2"


def test_a_key_that_is_missing_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(configured, "kind", lambda name: Needy)
    with pytest.raises(SinkError) as caught:
        configured.key_of(needy(monkeypatch), {})
    assert caught.value.trouble is Trouble.AUTH
    assert caught.value.hint == "set NEEDY_KEY, then: replica sinks test needy"


@pytest.mark.parametrize(
    ("url", "more", "fine"),
    [
        ("https://host", {}, True), ("http://127.0.0.1:1", {}, True), ("http://localhost", {}, True),
        ("http://[::1]:80", {}, True), ("http://host", {}, False), ("http://127.0.0.1.evil.example", {}, False),
        ("http://host", {"insecure": True}, True),
    ],
)  # fmt: skip
def test_a_key_does_not_go_over_a_network_in_the_clear(monkeypatch, url, more, fine):
    sink = needy(monkeypatch, url=url, **more)
    if fine:
        assert configured.key_of(sink, {"NEEDY_KEY": "k"}) == "k"
    else:
        with pytest.raises(SinkError, match="without TLS"):
            configured.key_of(sink, {"NEEDY_KEY": "k"})


def test_who_is_asked_to_agree_is_told_all_that_memory_would_go_to():
    keys = {"type": "qdrant", "embedder": "openai:m@https://elsewhere.example", "key_env": "SOME_KEY"}
    said = configured.goes_to(configured.check("store", keys))
    assert "https://elsewhere.example" in said and "SOME_KEY" in said


@pytest.mark.parametrize("said", ["inf", "nan", "1e300", "99999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_service_has_us_wait_for_ever(said):
    wait = retry_after({"retry-after": said})
    assert 0 <= wait <= LONGEST_WAIT
    ended = SinkError(Trouble.THROTTLE, "slowly", retry_after=wait)
    assert report.next_sync([Report("a", "b", "c", ended=ended)], Cut(), 1_800_000_000_000)["in"] is not None


def test_no_part_of_a_key_is_in_an_error():
    http = Http("http://127.0.0.1:1", service="it", secret="sk-very-secret-key")
    answer = Answer(400, {}, {"error": "x" * (SHOWN - 5) + "sk-very-secret-key"}, "")
    assert "sk-v" not in str(http.refused(answer))


def test_who_has_told_to_have_it_all_is_known_without_asking():
    with Network("alice", "bob") as network:
        alice = network["alice"]
        network.share()
        network.share()
        others = [member for member in alice.members() if member["id"] != alice.identity.id]
        assert lacking(alice, others) in ([], ["bob"])
        save(alice, "lessons-buffer.md", "- one\n")
        network.run("alice")
        assert lacking(alice, others) == ["bob"]
