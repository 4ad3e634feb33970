"""The fake Qdrant server proven by Qdrant's own client: over REST, and beside that client's emulation of a server."""

import random
from uuid import UUID, uuid5

import pytest

from replica.cloud.base import Settings
from replica.cloud.sinks.qdrant import Qdrant
from replica.cloud.sinks.qdrant_rest import guard
from tests.cloud.acceptance import SPACE, WORKSPACE, item, outgoing, stored
from tests.cloud.fakes.qdrant import FakeQdrant
from tests.cloud.fakes.server import Fault

qdrant_client = pytest.importorskip("qdrant_client", reason="the official client is not installed: qdrant-client")
from qdrant_client import models as m  # noqa: E402
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse  # noqa: E402

SIZE = 8
INDEXES = {"rev": m.PayloadSchemaType.INTEGER, "namespace": m.PayloadSchemaType.KEYWORD}


@pytest.fixture
def fake():
    with FakeQdrant() as fake:
        yield fake


@pytest.fixture
def client(fake):
    """The REST client. Its look at the server's version runs in a thread that outlives the fake: off."""
    client = qdrant_client.QdrantClient(url=fake.url, api_key=fake.key, timeout=5, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def local():
    client = qdrant_client.QdrantClient(":memory:")
    yield client
    client.close()


def prepared(client):
    client.create_collection("c", vectors_config=m.VectorParams(size=SIZE, distance=m.Distance.COSINE))
    for name, type in INDEXES.items():
        client.create_payload_index("c", name, type)
    return client


@pytest.fixture(params=["fake", "local"])
def either(request):
    """The same calls, the same answers: of the fake over REST, and of the client's emulation."""
    return prepared(request.getfixturevalue("client" if request.param == "fake" else "local"))


def id_of(n: int) -> str:
    return str(uuid5(SPACE, str(n)))


def point(n: int, rev: int = 1, **payload) -> m.PointStruct:
    chance = random.Random(n)
    vector = [chance.uniform(-1, 1) for _ in range(SIZE)]
    return m.PointStruct(id=id_of(n), vector=vector, payload={"rev": rev, "text": f"text {n} r{rev}", **payload})


def below(rev: int) -> m.Filter:
    return m.Filter(must=[m.FieldCondition(key="rev", range=m.Range(lt=rev))])


def content(client) -> dict[str, dict]:
    points, following = client.scroll("c", limit=1_000)
    assert following is None
    return {str(one.id): one.payload for one in points}


def revs(client) -> dict[str, int]:
    return {id: payload.get("rev") for id, payload in content(client).items()}


# --- the fake and the emulation agree


def test_a_point_comes_back_as_it_was_stored(either):
    payload = {"tags": ["a", "ü"], "text": "日本 🧠", "big": 2**53 - 1, "deep": {"x": [1, None, True]}}
    update = either.upsert("c", [point(1, **payload)], wait=True)
    assert update.status == m.UpdateStatus.COMPLETED
    (found,) = either.retrieve("c", [id_of(1)], with_vectors=False)
    assert found.id == id_of(1) and found.payload == {"rev": 1, **payload}


def test_an_upsert_replaces_the_whole_payload_and_set_payload_merges(either):
    either.upsert("c", [point(1, namespace="n")])
    either.set_payload("c", {"text": "edited"}, [id_of(1)])
    assert content(either) == {id_of(1): {"rev": 1, "namespace": "n", "text": "edited"}}
    either.upsert("c", [point(1, rev=2)])
    assert content(either) == {id_of(1): {"rev": 2, "text": "text 1 r2"}}


def test_an_update_filter_holds_for_points_that_are_there_and_lets_new_ones_in(either):
    either.upsert("c", [point(1, rev=3), point(2, rev=7)])
    either.upsert("c", [point(n, rev=5) for n in (1, 2, 3)], update_filter=below(5))
    assert revs(either) == {id_of(1): 5, id_of(2): 7, id_of(3): 5}


def test_our_guard_is_right_for_every_revision_of_a_batch(either):
    """Of each pair (there, ours), the higher one stays; what has no revision is replaced."""
    chance, there, ours = random.Random(7), {}, {}
    for n in range(60):
        there[n], ours[n] = chance.randrange(5), chance.randrange(5)
    either.upsert("c", [point(n, rev) for n, rev in there.items() if n % 3])
    either.upsert("c", [m.PointStruct(id=id_of(60), vector=[1.0] * SIZE, payload={})])
    ours[60] = 1
    written = [point(n, rev, by="us") for n, rev in ours.items()]
    filter = m.Filter.model_validate(guard([Written(one) for one in written]))
    either.upsert("c", written, update_filter=filter)
    expected = {id_of(n): max(rev, there.get(n, 0)) if n % 3 else rev for n, rev in ours.items()}
    assert revs(either) == expected
    assert {id for id, payload in content(either).items() if payload.get("by") == "us"} == {
        id_of(n) for n, rev in ours.items() if not n % 3 or rev >= there[n]
    }


class Written:
    """A point of the client as our guard wants it."""

    def __init__(self, point):
        self.id, self.rev = point.id, point.payload["rev"]


def test_pages_come_in_the_order_of_ids_with_the_next_id_as_the_cursor(either):
    ids = [*(id_of(n) for n in range(10)), 5, 3]
    either.upsert("c", [m.PointStruct(id=id, vector=[1.0] * SIZE, payload={"rev": 1}) for id in ids])
    seen, after = [], None
    while True:
        points, after = either.scroll("c", limit=5, offset=after, with_payload=False)
        assert all(not one.payload for one in points)
        seen += [one.id for one in points]
        if after is None:
            break
    assert sorted(map(str, seen)) == sorted(map(str, ids)) and len(seen) == len(ids)


def test_scroll_and_count_take_the_filters_that_we_use(either):
    either.upsert("c", [point(1, namespace="a"), point(2, namespace="b"), point(3, rev=9)])
    scope = m.Filter(should=[
        m.FieldCondition(key="namespace", match=m.MatchValue(value="a")),
        m.FieldCondition(key="rev", range=m.Range(gte=9)),
    ])  # fmt: skip
    points, _ = either.scroll("c", scroll_filter=scope, with_payload=["rev"])
    assert {one.id: one.payload for one in points} == {id_of(1): {"rev": 1}, id_of(3): {"rev": 9}}
    assert either.count("c", count_filter=scope, exact=True).count == 2


def test_the_nearest_come_first_with_their_cosine(either):
    either.upsert("c", [point(n, namespace="a" if n % 2 else "b") for n in range(20)])
    wanted = point(7).vector
    found = either.query_points("c", query=wanted, limit=3).points
    assert found[0].id == id_of(7) and found[0].score == pytest.approx(1, abs=1e-5)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    only = m.Filter(must=[m.FieldCondition(key="namespace", match=m.MatchValue(value="b"))])
    there = {one.id for one in either.query_points("c", query=wanted, query_filter=only, limit=20).points}
    assert there == {id_of(n) for n in range(0, 20, 2)}


def test_deleting_twice_is_deleting_once(either):
    either.upsert("c", [point(1), point(2)])
    for _ in range(2):
        either.delete("c", m.PointIdsList(points=[id_of(1)]))
    assert set(content(either)) == {id_of(2)}


def test_the_same_random_history_ends_the_same_in_both(client, local):
    chance = random.Random(11)
    both = [prepared(client), prepared(local)]
    for _ in range(60):
        ids = chance.sample(range(12), chance.randrange(1, 5))
        rev, kind = chance.randrange(6), chance.choice(("upsert", "guarded", "guarded", "delete", "payload"))
        for one in both:
            if kind == "delete":
                one.delete("c", m.PointIdsList(points=[id_of(n) for n in ids]))
            elif kind == "payload":
                there = [id_of(n) for n in ids if id_of(n) in content(one)]
                if there:
                    one.set_payload("c", {"text": "edited"}, there)
            else:
                points = [point(n, rev) for n in ids]
                filter = m.Filter.model_validate(guard([Written(p) for p in points])) if kind == "guarded" else None
                one.upsert("c", points, update_filter=filter)
        assert content(both[0]) == content(both[1])


# --- what the real client makes of the fake's answers


def test_the_server_tells_its_version(fake, client):
    assert client.info().version == fake.version


def test_collections_are_made_once_and_tell_of_themselves(client):
    prepared(client)
    assert client.collection_exists("c") and not client.collection_exists("other")
    with pytest.raises(UnexpectedResponse) as caught:
        client.create_collection("c", vectors_config=m.VectorParams(size=SIZE, distance=m.Distance.COSINE))
    assert caught.value.status_code == 409
    with pytest.raises(UnexpectedResponse) as caught:
        client.get_collection("other")
    assert caught.value.status_code == 404
    info = client.get_collection("c")
    assert info.config.params.vectors == m.VectorParams(size=SIZE, distance=m.Distance.COSINE)
    assert set(info.payload_schema) == set(INDEXES) and info.config.strict_mode_config.enabled
    client.delete_collection("c")
    assert not client.collection_exists("c")


def test_strict_mode_refuses_fields_without_an_index_in_reads_and_in_guards(client):
    prepared(client)
    colour = m.Filter(must=[m.FieldCondition(key="colour", match=m.MatchValue(value="red"))])
    nested = m.Filter(must_not=[m.Filter(must=[m.HasIdCondition(has_id=[1]), *colour.must])])
    for work in (
        lambda: client.scroll("c", scroll_filter=colour), lambda: client.count("c", count_filter=nested),
        lambda: client.query_points("c", query=[1.0] * SIZE, query_filter=colour),
        lambda: client.upsert("c", [point(1)], update_filter=nested),
    ):  # fmt: skip
        with pytest.raises(UnexpectedResponse, match="Index required") as caught:
            work()
        assert caught.value.status_code == 400
    client.create_payload_index("c", "colour", m.PayloadSchemaType.KEYWORD)
    assert client.count("c", count_filter=nested).count == 0


@pytest.mark.parametrize("id", ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "free text", -1])
def test_an_id_that_is_none_is_refused(client, id):
    prepared(client)
    with pytest.raises(UnexpectedResponse) as caught:
        client.upsert("c", [m.PointStruct(id=id, vector=[1.0] * SIZE)])
    assert caught.value.status_code == 400


def test_a_vector_of_another_size_is_refused(either):
    with pytest.raises((UnexpectedResponse, ValueError), match=r"(?i)dim|size"):
        either.upsert("c", [m.PointStruct(id=1, vector=[1.0])])


def test_a_wrong_key_and_faults_are_what_the_client_expects_of_a_server(fake, client):
    other = qdrant_client.QdrantClient(url=fake.url, api_key="wrong", check_compatibility=False)
    with pytest.raises(UnexpectedResponse) as caught:
        other.get_collection("c")
    assert caught.value.status_code == 401
    other.close()
    prepared(client)
    fake.faults.append(Fault(200, b"<html></html>", path="PUT .*/points"))
    with pytest.raises((ResponseHandlingException, ValueError)):
        client.upsert("c", [point(1)])
    fake.faults.append(Fault(429, {"status": {"error": "slow"}}, {"Retry-After": "3"}, path="PUT .*/points"))
    with pytest.raises(Exception) as slow:
        client.upsert("c", [point(1)])
    assert getattr(slow.value, "retry_after_s", None) == 3


def test_without_wait_an_upsert_is_only_acknowledged(client):
    prepared(client)
    assert client.upsert("c", [point(1)], wait=False).status == m.UpdateStatus.ACKNOWLEDGED


def test_quotas_are_told_in_the_form_that_the_client_reads(fake, client):
    fake.quotas = {"resident_memory_percent": 41, "disk_usage_percent": 12}
    status = client.http.quotas_api.get_quotas().result
    assert (status.usage.resident_memory_percent, status.usage.disk_usage_percent) == (41, 12)


# --- our adapter and the real client on one server


def test_the_client_reads_what_our_adapter_wrote_and_the_other_way_round(fake, client, tmp_path):
    settings = Settings(
        "memory", {"url": fake.url, "collection": "c"}, tmp_path, tmp_path, WORKSPACE, "team", fake.key, SIZE, "hash"
    )
    sink = Qdrant(settings)
    sink.prepare()
    one = item("a", "- ümläuts, 日本語 🧠", tags=("x", "y"))
    stored(sink, one)
    (found,), _ = client.scroll("c", with_vectors=True)
    assert UUID(found.id) == one.id and found.payload["text"] == one.text and found.payload["tags"] == ["x", "y"]
    assert found.vector == pytest.approx(outgoing(sink, one)[0].vector)
    client.set_payload("c", {"text": "edited"}, [found.id])
    client.upsert("c", [m.PointStruct(id=7, vector=[1.0] * SIZE, payload={"text": "foreign"})])
    assert {remote.remote_id: (remote.text, remote.item) for remote in sink.changes(None)} == {
        found.id: ("edited", one.id), "7": ("foreign", None),
    }  # fmt: skip
    client.delete("c", m.PointIdsList(points=[7]))
    assert sink.present() == {found.id}
    sink.close()
