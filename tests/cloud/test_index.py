"""The local index: what the clone holds is found, what it does not hold any more is not, and level 0 stays here."""

import sqlite3
import subprocess
import sys
import threading
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replica import compact
from replica.cloud import index as index_module
from replica.cloud import words
from replica.cloud.base import SinkError, Trouble
from replica.cloud.embed.hashed import Hashed
from replica.cloud.index import FILE, Index, pieces, recall
from replica.errors import StoreError
from tests.helpers import Network, add, save


@pytest.fixture
def network():
    with Network("alice") as network:
        yield network


@pytest.fixture
def clone(network):
    return network["alice"]


class Counting(Hashed):
    """Counts what it is given. `local` as told."""

    def __init__(self, id: str = "counting-512", local: bool = True):
        self.id, self.local, self.given = id, local, []

    def embed(self, texts):
        self.given += texts
        return super().embed(texts)


class Broken(Hashed):
    def embed(self, texts):
        raise SinkError(Trouble.UNREACHABLE, "the embedder is away")


def texts(clone, question, n=10, embedder=None) -> list[str]:
    return [hit.text for hit in recall(clone, question, n, embedder)]


def path_of(clone):
    return clone.root / ".replica" / FILE


# --- what is found


def test_an_entry_is_found_by_any_of_its_words_in_any_form(clone):
    add(clone, "a-buffer.md", "- Deployments on Fridays are forbidden", "- The gauge sends in UTC")
    assert texts(clone, "may I deploy on a friday?") == ["- Deployments on Fridays are forbidden"]
    assert texts(clone, "gauges") == ["- The gauge sends in UTC"]
    assert texts(clone, "nothing like it") == []


def test_what_is_found_says_where_it_is_from(network, clone):
    add(clone, "a-buffer.md", "- one two")
    save(clone, "notes.md", "# Top\n\n## Ports\nThe gauge listens on 4711.\n")
    network.run("alice")
    [hit] = recall(clone, "two", 5)
    assert (hit.document, hit.text, hit.author, hit.level, hit.by) == (
        "a-buffer.md",
        "- one two",
        "alice",
        1,
        ("words",),
    )
    assert bytes.fromhex(hit.id) == clone.entries("a-buffer.md")[0].id
    assert hit.time == clone.entries("a-buffer.md")[0].time
    [hit] = recall(clone, "4711", 5)
    assert (hit.document, hit.id, hit.text) == ("notes.md", None, "Top > Ports\nThe gauge listens on 4711.")
    assert hit.author == "alice" and hit.time > 0


def test_an_entry_is_found_by_the_heading_that_it_stands_under(network, clone):
    save(clone, "a-buffer.md", "# Lessons\n\n## Deploying\n- never on Fridays\n\n## Data\n- ask first\n")
    network.run("alice")
    assert texts(clone, "deploying") == ["- never on Fridays"]


def test_a_document_of_policy_latest_is_found_by_sections(network, clone):
    save(clone, "activeContext.md", "# Now\nmending the gauge\n\n# Next\nwrite to Anna\n")
    network.run("alice")
    [hit] = recall(clone, "anna", 5)
    assert hit.text == "Next\nwrite to Anna" and hit.id is not None


def test_settings_are_no_memory(network, clone):
    save(clone, "replica.toml", "[workspace]\nname = 'zebra'\n")
    network.run("alice")
    assert clone.text("replica.toml")
    assert texts(clone, "zebra") == []


def test_the_newest_of_equals_comes_first(network, clone):
    for n in range(5):
        network.now += 60_000
        add(clone, f"{n}-buffer.md", "- the same words")
    assert [hit.document[0] for hit in recall(clone, "same words", 5)] == ["4", "3", "2", "1", "0"]
    assert [hit.document[0] for hit in recall(clone, "same words", 2)] == ["4", "3"]


@pytest.mark.parametrize(
    "script", ["水位警報は毎朝確認する", "수위경보를매일확인", "ระดับน้ำทะเลสูง"], ids=["ja", "ko", "th"]
)
def test_a_word_within_a_run_without_blanks_is_found(clone, script):
    add(clone, "a-buffer.md", f"- {script}", "- something else 無関係")
    for start in range(len(script)):
        for end in range(start + 1, min(start + 5, len(script) + 1)):
            assert texts(clone, script[start:end])[:1] == [f"- {script}"], script[start:end]


def test_accents_and_case_do_not_count(clone):
    add(clone, "a-buffer.md", "- Crème BRÛLÉE", "- Ångström", "- ПРИВЕТ мир")
    assert texts(clone, "creme brulee") == ["- Crème BRÛLÉE"]
    assert texts(clone, "ÅNGSTRÖM") == ["- Ångström"]
    assert texts(clone, "привет") == ["- ПРИВЕТ мир"]
    add(clone, "a-buffer.md", "- ΛΌΓΟΣ", "- Straße")
    assert texts(clone, "ΛΌΓΟΣ") == ["- ΛΌΓΟΣ"]
    assert texts(clone, "straße") == ["- Straße"]


def test_vowels_that_are_marks_belong_to_their_word(clone):
    add(clone, "a-buffer.md", "- हिन्दी में", "- हवा")
    assert texts(clone, "हिन्दी") == ["- हिन्दी में"]


def test_common_words_count_only_where_there_are_no_others(clone):
    add(clone, "a-buffer.md", "- the who", "- what is the gauge doing")
    assert texts(clone, "what is the gauge") == ["- what is the gauge doing"]
    assert texts(clone, "who") == ["- the who"]


ODD = [
    *(
        '"',
        '""',
        "'",
        "*",
        "a*",
        "NEAR(a b)",
        "a AND",
        "OR",
        "NOT a",
        "text:a",
        "^a",
        "a-b",
        "(",
        "{a}:",
        "+",
        "--",
        "%",
    ),
    *("\0", "a\0b", ";DROP TABLE entries", "\ud800", "a\udcffb", "__", "_", "水*", '"水', "\u0301", "ﬁ", "\\", "🌊"),
]


@pytest.fixture(scope="module")
def held():
    """An index for questions that change nothing."""
    with Network("alice") as network:
        add(network["alice"], "a-buffer.md", "- a b", "- 水位", '- "quoted" NEAR AND')
        with Index.open(network["alice"]) as index:
            yield index


@pytest.mark.parametrize("question", ODD, ids=range(len(ODD)))
def test_no_question_is_an_error_or_an_order_to_the_database(held, question):
    held.answer(question, 5, Hashed())
    assert held.answer("quoted", 5).found


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(ODD), max_size=6).map(" ".join))
def test_any_question_has_an_answer(held, question):
    held.answer(question, 3)


@given(st.text(st.characters(codec="utf-8", max_codepoint=0xFFFF, exclude_categories=["Cn", "Co"]), max_size=30))
@example("a\u1dc0")
@example("a\u2b5a")
def test_a_text_is_found_by_any_of_its_words(text):
    with sqlite3.connect(":memory:") as database:
        database.execute(f'CREATE VIRTUAL TABLE w USING fts5(t, tokenize="{words.TOKENIZER}")')
        database.execute("INSERT INTO w VALUES(?)", (words.spaced(text),))
        query = words.query(text)
        if any("a" <= char <= "z" or "\u4e00" <= char <= "\u9fff" for char in text):
            assert database.execute("SELECT count(*) FROM w WHERE w MATCH ?", (query,)).fetchone()[0] == 1


def test_a_huge_question_is_answered_by_its_beginning(clone):
    add(clone, "a-buffer.md", "- tide")
    assert texts(clone, "tide " + "word1 word2 " * 100_000) == ["- tide"]
    assert texts(clone, " ".join(f"w{n}" for n in range(5_000))) == []


# --- meaning


def test_meaning_finds_what_words_do_not_and_both_are_named(clone):
    add(clone, "a-buffer.md", "- the deployment failed", "- mail subject lines")
    assert texts(clone, "deplyoment") == []
    [hit] = recall(clone, "deplyoment", 1, Hashed())
    assert (hit.text, hit.by) == ("- the deployment failed", ("meaning",))
    assert recall(clone, "deployment", 1, Hashed())[0].by == ("words", "meaning")


def test_orders_are_fused_by_reciprocal_ranks(clone):
    add(clone, "a-buffer.md", "- alpha", "- beta")
    with Index.open(clone) as index:
        index.update()
        one, other = [n for (n,) in index._db.execute("SELECT n FROM entries ORDER BY text")]
        fused = index._fused({"words": [one, other], "meaning": [other]}, 5)
        assert [hit.text for hit in fused] == ["- beta", "- alpha"]
        assert [hit.score for hit in fused] == [pytest.approx(1 / 62 + 1 / 61), pytest.approx(1 / 61)]


def test_the_end_of_a_long_entry_is_found_by_meaning_too(clone):
    add(clone, "a-buffer.md", "- " + "mail subject lines. " * 300 + "deployment of gauges", "- mail")
    [hit] = recall(clone, "deplyoment of guages", 1, Hashed())
    assert hit.text.endswith("deployment of gauges")


@pytest.mark.parametrize("many", [True, False])
def test_with_numpy_and_without_the_answers_are_the_same(clone, monkeypatch, many):
    if many:
        pytest.importorskip("numpy")
    add(clone, "a-buffer.md", *(f"- memory number {n} of the gauge" for n in range(60)))
    expected = texts(clone, "guage nubmer 17", 5, Hashed())
    monkeypatch.setattr(index_module, "FEW", 0 if many else 10**9)
    assert texts(clone, "guage nubmer 17", 5, Hashed()) == expected
    assert expected[0] == "- memory number 17 of the gauge"


def test_an_embedder_that_is_away_is_an_error_and_words_go_on(clone):
    add(clone, "a-buffer.md", "- tide")
    with pytest.raises(SinkError, match="away"):
        recall(clone, "tide", 5, Broken())
    assert texts(clone, "tide") == ["- tide"]


# --- keeping up


def test_only_what_is_new_is_embedded(network, clone):
    counting = Counting()
    add(clone, "a-buffer.md", *(f"- memory {n}" for n in range(20)))
    with Index.open(clone) as index:
        assert index.update(counting) == 0
        assert Counter(counting.given) == Counter(f"- memory {n}" for n in range(20))
        counting.given.clear()
        assert index.update(counting) == 0 and counting.given == []
        add(clone, "a-buffer.md", "- one more")
        add(clone, "b-buffer.md", "- memory 3")  # the same text elsewhere
        assert index.update(counting) == 0 and counting.given == ["- one more"]


def test_what_is_unchanged_is_not_read_again(clone, monkeypatch):
    add(clone, "a-buffer.md", "- one")
    add(clone, "b-buffer.md", "- two")
    read = []
    content = index_module._content
    monkeypatch.setattr(
        index_module, "_content", lambda clone, document: read.append(document.path) or content(clone, document)
    )
    for changed, expected in [(None, ["a-buffer.md", "b-buffer.md"]), (None, []), ("b-buffer.md", ["b-buffer.md"])]:
        if changed:
            add(clone, changed, "- more")
        read.clear()
        texts(clone, "one")
        assert read == expected


def test_another_embedder_makes_all_vectors_anew(clone):
    add(clone, "a-buffer.md", "- one", "- two")
    first, second = Counting("first-512"), Counting("second-512")
    with Index.open(clone) as index:
        index.update(first), index.update(second), index.update(second)
        assert (sorted(first.given), sorted(second.given)) == (["- one", "- two"],) * 2
        assert index._db.execute("SELECT count(*) FROM vectors").fetchone() == (2,)


def test_what_was_removed_edited_or_deleted_is_found_no_more(network, clone):
    save(clone, "a-buffer.md", "# A\n\n- alpha\n- beta\n")
    save(clone, "notes.md", "gamma\n")
    save(clone, "b-buffer.md", "- delta\n")
    network.run("alice")
    assert [len(texts(clone, word, 5, Hashed())) > 0 for word in ("alpha", "beta", "gamma", "delta")] == [True] * 4
    save(clone, "a-buffer.md", "# A\n\n- alpha\n- epsilon\n")
    save(clone, "notes.md", "zeta\n")
    network.run("alice")
    clone.delete(clone.document("b-buffer.md"))
    assert [texts(clone, word) for word in ("alpha", "epsilon", "zeta")] == [["- alpha"], ["- epsilon"], ["zeta"]]
    assert [texts(clone, word) for word in ("beta", "gamma", "delta")] == [[], [], []]
    recall(clone, "alpha", 1, Hashed())
    with Index.open(clone) as index:  # nothing is left behind
        count = {table: index._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                 for table in ("entries", "words", "pieces", "vectors", "documents")}  # fmt: skip
    assert count == {"entries": 3, "words": 3, "pieces": 3, "vectors": 3, "documents": 2}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "drop", "recall"]), st.integers(0, 4)),
                max_size=14))  # fmt: skip
def test_step_by_step_the_index_is_what_it_would_be_at_once(steps):
    with Network("alice") as network:
        clone = network["alice"]
        for name, what, number in steps:
            path = f"{name}-buffer.md"
            if what == "add":
                add(clone, path, f"- memory {number}")
            elif what == "drop" and clone.documents.find(path, "union").alive:
                clone.delete(clone.document(path))
            elif what == "recall":
                recall(clone, "memory", 99, Hashed())
        gradually = [hit._replace(score=0) for hit in recall(clone, "memory", 99)]
        path_of(clone).unlink()
        assert sorted(gradually) == sorted(hit._replace(score=0) for hit in recall(clone, "memory", 99))


def test_vectors_that_there_was_no_time_for_are_made_later_the_newest_first(network, clone, monkeypatch):
    monkeypatch.setattr(index_module, "EMBED_TOGETHER", 2)
    ticks = iter(range(1_000))
    monkeypatch.setattr(index_module.time, "monotonic", lambda: next(ticks))
    for n in range(6):
        network.now += 60_000
        add(clone, "a-buffer.md", f"- memory {n}")
    counting = Counting()
    with Index.open(clone) as index:
        assert index.update(counting, 3) == 6 - len(counting.given)
        assert 0 < len(counting.given) < 6 and counting.given[0] == "- memory 5"
        assert len(index.answer("memory", 9, counting, 0).found) == 6  # by their words
        assert index.update(counting) == 0
    assert [f"- memory {n}" for n in reversed(range(6))] == [text for text in counting.given if text.startswith("- ")]


def test_a_store_that_was_begun_anew_is_read_anew(clone):
    add(clone, "a-buffer.md", "- one")
    texts(clone, "one")
    with Index.open(clone) as index:  # as if its rows had meant something else before
        index._db.execute("UPDATE entries SET text='- stale', name=x'00'")
    clone.store.set_meta("begun", 1)
    assert texts(clone, "one") == ["- one"]


def test_a_store_that_was_restored_is_read_anew(network, clone):
    add(clone, "a-buffer.md", "- one")
    clone.store.checkpoint()
    backup = clone.store.path.read_bytes()
    add(clone, "a-buffer.md", "- lost")
    assert texts(clone, "lost") == ["- lost"]
    clone.close()
    for file in clone.store.path.parent.glob("store.db*"):
        file.unlink()
    clone.store.path.write_bytes(backup)
    network.now += 60_000
    again = network.reopen("alice")
    add(again, "a-buffer.md", "- written since")  # in the row that the lost one had
    assert texts(again, "lost") == []
    assert texts(again, "since") == ["- written since"]


def test_after_old_changes_were_folded_nothing_is_embedded_again(network, clone):
    add(clone, "a-buffer.md", "- one", "- two")
    counting = Counting()
    recall(clone, "x", 5, counting)
    network.now += 400 * 86_400_000
    add(clone, "b-buffer.md", "- three")
    assert compact.compact(clone).folded
    assert sorted(hit.text for hit in recall(clone, "one two three", 5, counting)) == ["- one", "- three", "- two"]
    assert sorted(text for text in counting.given if text[0] == "-") == ["- one", "- three", "- two"]


def test_a_damaged_document_does_not_keep_the_others_from_being_found(clone):
    add(clone, "a-buffer.md", "- one")
    add(clone, "b-buffer.md", "- two")
    clone.store.execute("UPDATE adds SET text='- other' WHERE text='- one'")
    clone.store.execute("UPDATE changes SET body=x'00' WHERE doc=(SELECT n FROM documents WHERE path='a-buffer.md')")
    assert texts(clone, "two") == ["- two"]


# --- level 0


def test_level_0_is_found_here(clone):
    add(clone, "a-buffer.md", "- my secret", level=0)
    [hit] = recall(clone, "secret", 5, Hashed())
    assert (hit.level, hit.by, hit.author) == (0, ("words", "meaning"), "alice")


def test_level_0_is_never_given_to_an_embedder_elsewhere(network, clone):
    clone.set_config("[[documents]]\nglob='open*'\npolicy='union'\n[[documents]]\nglob='own*'\npolicy='text'\nlevel=0\n"
                     "[[documents]]\nglob='late*'\npolicy='union'\n")  # fmt: skip
    add(clone, "open.md", "- my secret", level=0)
    add(clone, "open.md", "- known to all")
    clone.edit_text("own.md", new="mine alone\n", level=0)
    add(clone, "late.md", "- of level 0 from now on")
    add(clone, "unlisted.md", "- no rule shares it")
    clone.set_config(clone.store.meta("config") + "level=0\n")
    away = Counting(local=False)
    with Index.open(clone) as index:
        assert index.update(away) == 0
        assert away.given == ["- known to all"]
        assert [hit.level for hit in index.answer("secret", 5, away).found] == [0]
        here = Counting("here-512")
        index.update(here)
        assert len(here.given) == 5


def test_what_rises_above_level_0_is_embedded_then(clone):
    away = Counting(local=False)
    clone.set_config("[[documents]]\nglob='a*'\npolicy='union'\nlevel=0\n")
    add(clone, "a.md", "- one")
    recall(clone, "x", 5, away)
    clone.set_config("[[documents]]\nglob='a*'\npolicy='union'\nlevel=1\n")
    recall(clone, "y", 5, away)
    assert away.given == ["x", "y", "- one"]


# --- the file


def test_the_index_may_be_deleted_at_any_time(clone):
    add(clone, "a-buffer.md", "- tide")
    assert texts(clone, "tide") == ["- tide"]
    for file in path_of(clone).parent.glob(f"{FILE}*"):
        file.unlink()
    assert texts(clone, "tide") == ["- tide"]


def _overwrite(path):
    path.write_bytes(b"not a database at all" * 1_000)


def _cut(path):
    path.write_bytes(path.read_bytes()[:20_000])


def _blank_pages(path):
    content = bytearray(path.read_bytes())
    content[16_384:] = bytes(len(content) - 16_384)
    path.write_bytes(content)


def _other_version(path):
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE entries")
        database.execute("PRAGMA user_version=999")
    database.close()


def _break_words(path):
    with sqlite3.connect(path) as database:
        database.execute("UPDATE words_data SET block=x'00ff00ff'")
    database.close()


@pytest.mark.parametrize("damage", [_overwrite, _cut, _blank_pages, _other_version, _break_words])
def test_a_damaged_index_is_made_anew(clone, damage):
    add(clone, "a-buffer.md", "- tide", *(f"- memory {n} {'x' * 200}" for n in range(300)))
    assert texts(clone, "tide", 5, Hashed())
    damage(path_of(clone))
    assert texts(clone, "tide", 1, Hashed()) == ["- tide"]
    add(clone, "a-buffer.md", "- surge")
    assert texts(clone, "surge") == ["- surge"]


def test_an_index_that_another_process_holds_is_an_error_with_a_way_out(clone, monkeypatch):
    add(clone, "a-buffer.md", "- tide")
    monkeypatch.setattr(index_module, "BUSY_TIMEOUT", 0.05)
    with Index.open(clone) as index, Index.open(clone) as other:
        other._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="busy"):
            index.update()
        other._db.execute("ROLLBACK")
        index.update()


def test_several_may_ask_at_once(network, clone):
    add(clone, "a-buffer.md", *(f"- memory {n}" for n in range(200)))
    found, failed = [], []

    def ask():
        try:
            with network.open_again("alice") as again:
                found.append(len(recall(again, "memory", 500, Hashed())))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failed, found) == ([], [200] * 4)


def test_words_alone_load_no_numpy():
    code = "import sys, replica.cloud.index; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "urllib3"} & set(loaded)


# --- pieces and sections


@given(st.text(max_size=5_000) | st.text(st.sampled_from("ab \n水"), max_size=8_000))
def test_pieces_are_short_and_lose_nothing_but_blanks(text):
    parts = pieces(text)
    assert all(len(part) <= 1_000 for part in parts)
    assert len(parts) == 1 or all(parts)
    assert len(parts) <= 32
    if len(parts) < 32:
        assert "".join("".join(parts).split()) == "".join(text.split())
