"""The fake of Mem0's platform, driven by Mem0's own client: what it sends is understood, what it gets it can read."""

import os
import tempfile

import pytest

from tests.cloud.fakes.mem0 import FakeMem0
from tests.cloud.fakes.server import Fault

pytest.importorskip("httpx")
# Before the client is imported, for it writes to its folder then.
FOLDER = tempfile.TemporaryDirectory(prefix="mem0-")
os.environ["MEM0_DIR"], os.environ["MEM0_TELEMETRY"] = FOLDER.name, "False"
pytest.importorskip("mem0")


@pytest.fixture
def fake():
    with FakeMem0() as fake:
        yield fake


@pytest.fixture
def client(fake):
    from mem0 import MemoryClient

    return MemoryClient(api_key=fake.key, host=fake.url)


def add(client, text, user="team", **more):
    return client.add(text, user_id=user, infer=False, **more)["results"][0]["id"]


def test_the_key_is_proven_before_anything_else(fake):
    from mem0 import MemoryClient

    with pytest.raises(ValueError, match="Invalid API key"):
        MemoryClient(api_key="wrong", host=fake.url)


def test_an_addition_is_read_back_word_for_word(client):
    id = add(client, "- ümläuts, 日本語", metadata={"replica_id": "x", "rev": 3}, timestamp=1_700_000_000)
    got = client.get(id)
    assert (got["memory"], got["user_id"], got["metadata"]) == (
        "- ümläuts, 日本語",
        "team",
        {"replica_id": "x", "rev": 3},
    )
    assert got["created_at"].startswith("2023-11-14")


def test_without_infer_false_it_is_queued_and_not_word_for_word(client, fake):
    answer = client.add("told", user_id="team")
    assert answer["status"] == "PENDING" and "results" not in answer
    assert [row["memory"] for row in fake.rows.values()] == ["in other words: told"]


def test_a_text_is_kept_once_in_a_scope(client):
    add(client, "the same")
    assert client.add("the same", user_id="team", infer=False)["results"] == []
    assert add(client, "the same", user="other")
    assert client.get_all(filters={"user_id": "team"})["count"] == 1


def test_lists_have_pages_and_filters(client):
    ids = [add(client, f"number {n}", metadata={"replica_id": str(n)}) for n in range(25)]
    add(client, "elsewhere", user="other")
    pages = [client.get_all(filters={"AND": [{"user_id": "team"}]}, page=page, page_size=10) for page in (1, 2, 3)]
    assert {row["id"] for page in pages for row in page["results"]} == set(ids)
    assert [bool(page["next"]) for page in pages] == [True, True, False] and pages[0]["count"] == 25
    either = [{"metadata": {"replica_id": "3"}}, {"metadata": {"replica_id": "4"}}]
    found = client.get_all(filters={"AND": [{"OR": [{"user_id": "*"}]}, {"OR": either}]})
    assert {row["id"] for row in found["results"]} == {ids[3], ids[4]}
    assert client.get_all(filters={"AND": [{"memory_ids": ids[:2]}]})["count"] == 2


def test_entity_ids_beside_the_filters_are_refused_by_the_client_and_by_the_service(client, fake):
    with pytest.raises(ValueError, match="Top-level entity"):
        client.get_all(user_id="team")
    assert client.client.post("/v3/memories/", json={"filters": {"user_id": "a"}, "user_id": "a"}).status_code == 400


def test_updates_replace_and_deletes_are_in_the_history(client):
    id = add(client, "old", metadata={"rev": 1, "gone": "x"})
    client.update(id, text="new", metadata={"rev": 2})
    assert (client.get(id)["memory"], client.get(id)["metadata"]) == ("new", {"rev": 2})
    client.delete(id)
    assert {(row["event"], row["old_memory"], row["new_memory"]) for row in client.history(id)} == {
        ("ADD", None, "old"), ("UPDATE", "old", "new"), ("DELETE", "new", None),
    }  # fmt: skip


def test_batches_answer_with_words_only(client, fake):
    ids = [add(client, f"number {n}") for n in range(3)]
    many = [{"memory_id": id, "text": f"new {id}", "metadata": {"rev": 2}} for id in ids]
    assert set(client.batch_update(many)) == {"message"}
    assert client.get(ids[1])["memory"] == f"new {ids[1]}"
    assert set(client.batch_delete([{"memory_id": id} for id in ids])) == {"message"} and fake.rows == {}


def test_users_are_told(client):
    add(client, "a")
    add(client, "b", agent_id="arch")
    assert {(one["type"], one["name"], one["total_memories"]) for one in client.users()["results"]} == {
        ("user", "team", 2), ("agent", "arch", 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "ValidationError"), (401, "AuthenticationError"), (402, "MemoryError"), (403, "AuthenticationError"),
     (404, "MemoryNotFoundError"), (413, "MemoryQuotaExceededError"), (429, "RateLimitError"), (503, "NetworkError")],
)  # fmt: skip
def test_failures_are_what_the_client_knows_them_as(client, fake, status, error):
    fake.faults.append(Fault(status, {"error": "no"}, {"Retry-After": "7"}))
    with pytest.raises(Exception, match="no") as found:
        client.get_all(filters={"user_id": "team"})
    assert type(found.value).__name__ == error
    if status == 429:
        assert found.value.debug_info["retry_after"] == 7


def test_what_the_sink_writes_the_client_reads(client, fake, tmp_path):
    """And the other way round: one service, two clients."""
    from tests.cloud.acceptance import item, stored
    from tests.cloud.test_mem0 import sink_of

    sink = sink_of(fake)
    remote = stored(sink, item("a"), item("b", type="decision"))
    found = client.get_all(filters={"user_id": "team-decisions"})["results"]
    assert [(row["id"], row["memory"]) for row in found] == [(remote[item("b").id], item("b").text)]
    theirs = add(client, "told by the client", user="team-continuity")
    client.update(remote[item("a").id], text="edited by the client")
    told = {found.remote_id: found.text for found in sink.changes(None)}
    assert told[theirs] == "told by the client" and told[remote[item("a").id]] == "edited by the client"
