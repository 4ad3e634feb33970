"""The fake of Mem0's server and Mem0's own library, which the server is a shell around, held against one suite.

Offline: no model is called where nothing is inferred, and vectors are made of the letters of a text.
"""

import hashlib
import os
import tempfile
import time

import pytest

from tests.cloud.fakes.mem0_server import FakeMem0Server
from tests.cloud.fakes.server import Reply, Request

pytest.importorskip("qdrant_client")
# Before the library is imported, for it writes to its folder then.
FOLDER = tempfile.TemporaryDirectory(prefix="mem0-")
os.environ["MEM0_DIR"], os.environ["MEM0_TELEMETRY"] = FOLDER.name, "False"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
pytest.importorskip("mem0")


SIZE = 16


class Letters:
    """Vectors without a model."""

    def embed(self, text, memory_action=None):
        return [(byte + 1) / 256 for byte in hashlib.sha256(text.encode()).digest()[:SIZE]]

    def embed_batch(self, texts, memory_action=None):
        return [self.embed(text) for text in texts]


class Library:
    """The calls of the server, on the library."""

    def __init__(self, folder):
        from mem0 import Memory

        self.memory = Memory.from_config(
            {
                "vector_store": {
                    "provider": "qdrant",
                    "config": {"path": str(folder / "store"), "embedding_model_dims": SIZE, "on_disk": True},
                },
                "embedder": {"provider": "openai", "config": {"api_key": "none", "embedding_dims": SIZE}},
                "llm": {"provider": "openai", "config": {"api_key": "none"}},
                "history_db_path": str(folder / "history.db"),
            }
        )
        self.memory.embedding_model = Letters()

    def add(self, text, metadata=None, **scope):
        return self.memory.add([{"role": "user", "content": text}], infer=False, metadata=metadata, **scope)["results"]

    def get(self, id):
        return self.memory.get(id)

    def update(self, id, **what):
        self.memory.update(id, **what)

    def delete(self, id):
        self.memory.delete(id)

    def list(self, top_k=None, **scope):
        return self.memory.get_all(filters=scope, **({"top_k": top_k} if top_k else {}))["results"]

    def search(self, **filters):
        return self.memory.search("memory", filters=filters, top_k=20, threshold=0.0)["results"]


class Faked:
    """The same calls, of the fake."""

    def __init__(self):
        self.fake = FakeMem0Server(key=None)

    def _ask(self, method, path, body=None, query=None):
        return self.fake.answer(Request(method, path, query or {}, {}, body, b""))

    def add(self, text, metadata=None, **scope):
        body = {"messages": [{"role": "user", "content": text}], "infer": False, "metadata": metadata, **scope}
        return self._ask("POST", "/memories", body)["results"]

    def get(self, id):
        return self._ask("GET", f"/memories/{id}")

    def update(self, id, **what):
        self._ask("PUT", f"/memories/{id}", what)

    def delete(self, id):
        self._ask("DELETE", f"/memories/{id}")

    def list(self, top_k=None, **scope):
        query = {**scope, **({"top_k": str(top_k)} if top_k else {})}
        return self._ask("GET", "/memories", query=query)["results"]

    def search(self, **filters):
        return self._ask("POST", "/search", {"query": "memory", "filters": filters, "threshold": 0.0})["results"]


@pytest.fixture(params=["fake", "library"])
def mem0(request, tmp_path):
    if request.param == "fake":
        yield Faked()
        return
    library = Library(tmp_path)
    yield library
    library.memory.vector_store.client.close()


def test_an_addition_answers_with_its_id_and_is_kept_word_for_word(mem0):
    (made,) = mem0.add("- ümläuts, 日本語", {"replica_id": "x", "rev": 3}, user_id="team")
    assert (made["memory"], made["event"], made["role"]) == ("- ümläuts, 日本語", "ADD", "user")
    got = mem0.get(made["id"])
    assert (got["memory"], got["user_id"]) == ("- ümläuts, 日本語", "team")
    assert got["metadata"] == {"replica_id": "x", "rev": 3}


@pytest.mark.parametrize(
    "text",
    ['  ümläuts, "quotes" and \\ back\r\n\n\tthird line  \n', "e\u0301 beside \u00e9, \u00a0 and \u2028, \u200b"],
)
def test_a_text_is_told_by_its_id_to_the_last_blank(mem0, text):
    """After an addition and after an update: what differed would look like somebody's edit."""
    (made,) = mem0.add(text, user_id="team")
    assert mem0.get(made["id"])["memory"] == text
    mem0.update(made["id"], text=text[::-1])
    assert mem0.get(made["id"])["memory"] == text[::-1]


def test_nothing_is_deduplicated(mem0):
    assert len({mem0.add("the same", user_id="team")[0]["id"] for _ in range(3)}) == 3
    assert len(mem0.list(user_id="team")) == 3


def test_a_hash_in_the_metadata_is_lost_to_its_own(mem0):
    (made,) = mem0.add("text", {"hash": "ours", "sha256": "ours"}, user_id="team")
    got = mem0.get(made["id"])
    assert got["metadata"] == {"sha256": "ours"} and got["hash"] == hashlib.md5(b"text").hexdigest()


def test_created_at_in_the_metadata_dates_the_memory(mem0):
    (made,) = mem0.add("text", {"created_at": "2020-01-01T00:00:00Z"}, user_id="team")
    got = mem0.get(made["id"])
    assert (got["created_at"], got["updated_at"]) == ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z")
    assert got["metadata"] is None


def test_an_update_merges_metadata_and_moves_updated_at_alone(mem0):
    (made,) = mem0.add("old", {"created_at": "2020-01-01T00:00:00Z", "a": 1, "b": 2}, user_id="team")
    mem0.update(made["id"], text="new", metadata={"b": 3, "user_id": "other", "created_at": "1999-01-01T00:00:00Z"})
    got = mem0.get(made["id"])
    assert (got["memory"], got["metadata"], got["user_id"]) == ("new", {"a": 1, "b": 3}, "team")
    assert got["created_at"] == "2020-01-01T00:00:00Z" and got["updated_at"] > time.strftime("%Y")


def test_a_list_ends_at_twenty_unless_it_is_told(mem0):
    for n in range(25):
        mem0.add(f"number {n}", user_id="team")
    mem0.add("elsewhere", user_id="other")
    mem0.add("narrower", user_id="team", agent_id="arch")
    assert len(mem0.list(user_id="team")) == 20
    assert len(mem0.list(user_id="team", top_k=1000)) == 26
    assert [row["memory"] for row in mem0.list(user_id="team", agent_id="arch")] == ["narrower"]


def test_a_search_with_our_id_finds_just_that(mem0):
    for n in range(30):
        mem0.add(f"number {n}", {"replica_id": f"id-{n}"}, user_id="team")
    assert [row["memory"] for row in mem0.search(user_id="team", replica_id="id-7")] == ["number 7"]
    assert mem0.search(user_id="other", replica_id="id-7") == []


def test_a_memory_that_is_not_there_is_none_to_read_and_an_error_to_delete(mem0):
    missing = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    assert mem0.get(missing) is None
    for work in (lambda: mem0.delete(missing), lambda: mem0.update(missing, text="x")):
        with pytest.raises((ValueError, Reply)):
            work()


def test_what_is_deleted_is_gone(mem0):
    (made,) = mem0.add("text", user_id="team")
    mem0.delete(made["id"])
    assert mem0.get(made["id"]) is None and mem0.list(user_id="team") == []


def test_what_the_sink_asks_of_the_server_the_library_can_do(tmp_path):
    """The sink on the library itself: the fake's own doing is put aside."""
    from tests.cloud.acceptance import WORKSPACE, item, stored
    from tests.cloud.test_mem0_server import sink_of

    library = Library(tmp_path)

    class Shell(FakeMem0Server):
        def _add(self, body):
            scope = {name: body[name] for name in ("user_id", "agent_id", "run_id") if body.get(name)}
            return library.memory.add(body["messages"], infer=body["infer"], metadata=body["metadata"], **scope)

        def _list(self, query):
            scope = {name: query[name] for name in ("user_id", "agent_id", "run_id") if query.get(name)}
            return library.memory.get_all(filters=scope, top_k=int(query["top_k"]))

        def _search(self, body):
            return library.memory.search(body["query"], **{k: body[k] for k in ("filters", "top_k", "threshold")})

        def _entities(self):
            rows = library.memory.vector_store.list(top_k=10_000)[0]
            users = [row.payload["user_id"] for row in rows]
            return [{"id": user, "type": "user", "total_memories": users.count(user)} for user in sorted(set(users))]

        def _one(self, request, id):
            if request.method == "GET":
                return library.memory.get(id)
            if request.method == "PUT":
                return library.memory.update(id, text=request.body["text"], metadata=request.body["metadata"])
            return library.memory.delete(id)

    with Shell() as shell:
        sink = sink_of(shell)
        remote = stored(sink, item("a"), item("b", namespace="acme"), item("c", type="decision"))
        assert sink.find([item(name).id for name in "abc"]) == remote
        found = {found.item: found for found in sink.changes(None)}
        assert (found[item("a").id].hash, found[item("a").id].origin) == (item("a").hash, WORKSPACE)
        assert sink.present() == set(remote.values())
        moved = stored(sink, item("a", "- told better", type="decision", revision=2), remote=remote)
        assert {one.text for one in sink.changes(None)} == {"- told better", item("b").text, item("c").text}
        assert sink.present() == set((remote | moved).values())
        sink.close()
    library.memory.vector_store.client.close()
