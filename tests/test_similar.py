"""Entries that say nearly the same are listed for a look, and nothing becomes of them but what a person says."""

import random
import time

import pytest

from replica import similar
from replica.cloud.index import _near
from replica.errors import NotFound, UsageError, WrongPolicy
from tests.helpers import Network, assert_same, read, save
from tests.test_cli_memory import fresh, replica  # noqa: F401

LESSONS = """# Lessons

- always ask before deleting files
- Ask first, before files are deleted
- deploy on Monday, never on Friday
- the cache must be warm before a benchmark
- 削除する前に必ず確認すること
- ファイルを削除する前に確認する
"""
EXPECTED = [
    {"- always ask before deleting files", "- Ask first, before files are deleted"},
    {"- 削除する前に必ず確認すること", "- ファイルを削除する前に確認する"},
]


@pytest.fixture
def network():
    with Network("alice", "bob") as network:
        save(network["alice"], "lessons-buffer.md", LESSONS)
        network.share()
        yield network


def pairs(clone) -> list[set[str]]:
    return [{one.one.entry.text, one.other.entry.text} for one in similar.listed(clone)]


def asked(clone) -> similar.Pair:
    return next(one for one in similar.listed(clone) if "ask" in one.one.entry.text.lower())


def test_the_same_lesson_in_other_words_is_listed_and_others_are_not(network):
    found = pairs(network["alice"])
    assert all(pair in found for pair in EXPECTED) and len(found) == 2


def test_what_a_person_has_looked_at_is_not_shown_again_here_until_it_is_edited(network):
    alice = network["alice"]
    before = alice.digest()
    similar.resolve(alice, similar.find(alice, asked(alice).id[:5]), keep="both")
    assert pairs(alice) == EXPECTED[1:] and alice.digest() == before
    assert len(pairs(network.reopen("alice"))) == 1
    assert len(pairs(network["bob"])) == 2  # he has not looked
    text = read(network["alice"], "lessons-buffer.md").replace("always ask", "you should always ask")
    save(network["alice"], "lessons-buffer.md", text)
    network.run("alice")
    assert len(pairs(network["alice"])) == 2


@pytest.mark.parametrize("choice", [{"keep": "v1"}, {"keep": "v2"}, {"text": "ask, then delete"}])
def test_one_can_take_the_place_of_both_on_every_clone(network, choice):
    alice = network["alice"]
    pair = asked(alice)
    both = [pair.one.entry.text, pair.other.entry.text]
    kept = {"v1": both[0], "v2": both[1]}.get(choice.get("keep"), "- ask, then delete")
    assert similar.resolve(alice, pair, **choice) == kept
    network.share()
    assert_same(*network.clones.values())
    lines = read(network["bob"], "lessons-buffer.md").split("\n")
    assert kept in lines and not any(line in lines for line in both if line != kept)
    assert not alice.documents.all_conflicts()


def test_two_clones_that_keep_one_each_lose_neither_and_are_asked(network):
    for name, keep in (("alice", "v1"), ("bob", "v2")):
        similar.resolve(network[name], asked(network[name]), keep=keep)
    network.share()
    assert_same(*network.clones.values())
    for clone in network.clones.values():
        assert EXPECTED[0] in pairs(clone)


def test_the_same_in_two_documents_is_found_and_can_be_one(network):
    alice = network["alice"]
    save(alice, "patterns-buffer.md", "- never deploy on a Friday, deploy on Monday\n")
    network.share()
    pair = next(one for one in similar.listed(alice) if one.one.document.path != one.other.document.path)
    similar.resolve(alice, pair, keep="v1")
    network.share()
    assert read(network["bob"], "lessons-buffer.md") == LESSONS
    assert read(network["bob"], "patterns-buffer.md") == ""


def test_equal_words_in_two_documents_are_a_pair(network):
    alice = network["alice"]
    save(alice, "patterns-buffer.md", "- deploy on Monday, never on Friday\n")
    network.share()
    pair = next(one for one in similar.listed(alice) if one.one.document.path != one.other.document.path)
    similar.resolve(alice, similar.find(alice, pair.id), keep="both")
    assert pair.id not in [one.id for one in similar.listed(alice)]


def test_level_0_is_compared_and_not_shared_by_it(network):
    from replica import writing

    alice = network["alice"]
    private = writing.add(alice, "lessons-buffer.md", "never deploy on Friday but on Monday", level=0)
    pair = next(one for one in similar.listed(alice) if private.id in (one.one.entry.id, one.other.entry.id))
    with pytest.raises(WrongPolicy):
        similar.resolve(alice, pair, text="one text of both")
    which = "v1" if pair.one.entry.private else "v2"
    similar.resolve(alice, pair, keep=which)
    network.share()
    assert "Friday" not in read(network["bob"], "lessons-buffer.md") and "Friday" in read(alice, "lessons-buffer.md")
    assert all(
        b"never deploy on Friday but" not in body for (body,) in network["bob"].store.rows("SELECT body FROM changes")
    )


def test_what_is_not_there_is_named_with_the_way_out(network):
    alice = network["alice"]
    pair = asked(alice)
    for wrong in ("s0000", "sffffffff"):
        with pytest.raises(NotFound) as caught:
            similar.find(alice, wrong)
        assert "--similar" in caught.value.hint
    with pytest.raises(NotFound):
        similar.resolve(alice, pair, keep="v3")
    with pytest.raises(UsageError):
        similar.resolve(alice, pair)
    save(alice, "lessons-buffer.md", LESSONS.replace("- always ask before deleting files\n", ""))
    network.run("alice")
    with pytest.raises(NotFound):
        similar.find(alice, pair.id)


def test_every_pair_over_the_bound_is_found_and_none_below():
    """The short cut leaves nothing out that comparing each with each would find."""
    rand = random.Random(5)
    vocabulary = [f"w{n}x" for n in range(40)]
    texts = [" ".join(rand.choices(vocabulary, k=rand.randint(2, 9))) for _ in range(60)]
    stems = [similar._stems(text) for text in texts]
    frequency = similar.Counter(stem for one in stems for stem in one)
    weight = similar._weights(frequency, len(texts))
    vectors = [similar._normal(one, weight) for one in stems]
    scores = {(i, j): similar._cosine(vectors[i], vectors[j]) for j in range(60) for i in range(j)}
    assert similar.by_words(texts) == {pair: score for pair, score in scores.items() if score >= similar.ALIKE}


def test_ten_thousand_entries_are_compared_in_seconds_also_if_all_are_alike():
    rand = random.Random(1)
    vocabulary = ["".join(rand.choices("bcdfgklmnprstaeiou", k=6)) for _ in range(5000)]
    weights = [1 / (n + 1) for n in range(5000)]
    texts = [" ".join(rand.choices(vocabulary, weights, k=rand.randint(6, 25))) for _ in range(9000)]
    texts += [" ".join(text.split()[::-1][:-1]) for text in texts[:1000]]
    began = time.process_time()
    found = similar.by_words(texts)
    assert sum((n, 9000 + n) in found for n in range(1000)) == 1000
    similar.by_words(["the very same words again"] * 10_000)
    assert time.process_time() - began < 20


def test_vectors_that_are_near_are_pairs():
    from array import array

    vectors = [array("f", one).tobytes() for one in ([1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6])]
    found = {(i, j): round(cosine, 2) for i, j, cosine in _near(vectors, 2, 0.8)}
    assert found == {(0, 3): 0.8, (1, 2): 0.8, (2, 3): 0.96}


def test_pairs_by_meaning_come_from_the_embedder_that_is_configured(replica):  # noqa: F811
    replica.save("lessons-buffer.md", LESSONS)
    replica.save("replica.toml", replica.read("replica.toml") + '\n[recall]\nembedder = "hash"\n')
    replica("sync")
    found = replica.lines("conflicts", "--similar")
    assert {one["by"] for one in found} <= {"words", "meaning"} and len(found) >= 2


def test_pairs_are_listed_and_settled_from_the_command_line(replica):  # noqa: F811
    replica.save("lessons-buffer.md", LESSONS)
    replica("sync")
    (first, *_) = replica.lines("conflicts", "--similar")
    assert first["kind"] == "similar" and first["versions"][0]["document"] == "lessons-buffer.md"
    assert "--keep both" in replica("conflicts", "--similar")
    assert replica("conflicts") == ""  # they are no conflicts
    replica("resolve", first["id"], "--keep", "both")
    assert first["id"] not in [one["id"] for one in replica.lines("conflicts", "--similar")]
