"""The fake Pinecone, driven by the official client; and what the adapter wrote, read by it."""

import pytest

pinecone = pytest.importorskip("pinecone")

from replica.cloud.base import Settings  # noqa: E402
from replica.cloud.sinks.pinecone import Pinecone  # noqa: E402
from tests.cloud.acceptance import WORKSPACE, item, stored  # noqa: E402
from tests.cloud.fakes.pinecone import FakePinecone  # noqa: E402
from tests.cloud.fakes.server import Fault  # noqa: E402


@pytest.fixture
def fake():
    with FakePinecone() as fake:
        yield fake


@pytest.fixture
def client(fake):
    return pinecone.Pinecone(api_key=fake.key, host=fake.url)


@pytest.fixture
def index(fake, client):
    return client.index(host=fake.url)


def records(*names: str) -> list[dict]:
    return [{"id": name, "values": [0.5] * 8, "metadata": {"text": name, "rev": 3}} for name in names]


def test_an_index_is_found_by_its_name(fake, client):
    client.index(name="memory").upsert(vectors=records("a"), namespace="team")
    assert set(fake.namespaces["team"].records) == {"a"}
    with pytest.raises(pinecone.NotFoundError):
        client.index(name="another")


def test_upsert_fetch_update_delete(index):
    assert index.upsert(vectors=records("a", "b"), namespace="team").upserted_count == 2
    assert set(index.fetch(ids=["a", "b", "c"], namespace="team").vectors) == {"a", "b"}
    index.update(id="a", set_metadata={"text": "told better"}, namespace="team")
    found = index.fetch(ids=["a"], namespace="team").vectors["a"]
    assert found.metadata == {"text": "told better", "rev": 3.0} and len(found.values) == 8
    index.delete(ids=["a", "never"], namespace="team")
    assert set(index.fetch(ids=["a", "b"], namespace="team").vectors) == {"b"}
    with pytest.raises(pinecone.NotFoundError):
        index.delete(ids=["a"], namespace="nowhere")


def test_pages_of_ids_and_of_what_a_filter_finds(index):
    index.upsert(vectors=records(*(f"{n:03}" for n in range(230))), namespace="team")
    pages = list(index.list(namespace="team"))
    assert [len(list(page)) for page in pages] == [100, 100, 30]
    page = index.fetch_by_metadata(filter={"rev": {"$eq": 3}}, namespace="team", limit=200)
    rest = index.fetch_by_metadata(
        filter={"rev": {"$eq": 3}}, namespace="team", limit=200, pagination_token=page.pagination.next
    )
    assert (len(page.vectors), len(rest.vectors)) == (200, 30)


def test_stats_and_query(index):
    index.upsert(vectors=records("a"), namespace="team")
    stats = index.describe_index_stats()
    assert (stats.dimension, stats.total_vector_count, stats.namespaces["team"].vector_count) == (8, 1, 1)
    (match,) = index.query(vector=[1.0] * 8, top_k=3, namespace="team", include_metadata=True).matches
    assert (match.id, match.metadata["text"]) == ("a", "a")


def test_reads_are_behind_and_say_so(fake, index):
    fake.lag = 2
    target = index.upsert(vectors=records("a"), namespace="team").response_info.lsn_committed
    seen = [index.query(vector=[1.0] * 8, top_k=1, namespace="team") for _ in range(3)]
    assert [one.response_info.is_reconciled(target) for one in seen] == [False, False, True]
    assert [len(one.matches) for one in seen] == [0, 0, 1]
    assert index.fetch(ids=["a"], namespace="team").response_info.lsn_reconciled is None


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "ApiError"), (401, "UnauthorizedError"), (402, "PaymentRequiredError"), (403, "ForbiddenError"),
     (413, "PayloadTooLargeError"), (429, "RateLimitError"), (500, "ServiceError")],
)  # fmt: skip
def test_faults_are_the_client_s_errors(fake, client, status, name):
    fake.faults.append(Fault(status, {"code": 1, "message": "no", "details": []}, {"Retry-After": "0"}, times=9))
    with pytest.raises(pinecone.PineconeError) as caught:
        client.index(host=fake.url).upsert(vectors=records("a"), namespace="team")
    assert name in [kind.__name__ for kind in type(caught.value).__mro__]


@pytest.mark.parametrize(
    "record",
    [{"id": "a", "values": [0.0] * 8}, {"id": "a", "values": [1.0] * 7},
     {"id": "a", "values": [1.0] * 8, "metadata": {"text": "x" * 41_000}},
     {"id": "a", "values": [1.0] * 8, "metadata": {"nested": {"no": 1}}}],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused(index, record):
    with pytest.raises((pinecone.ApiError, pinecone.PineconeTypeError)):
        index.upsert(vectors=[record], namespace="team")


def test_the_client_reads_what_the_adapter_wrote(fake, index, tmp_path):
    values = {"url": fake.url, "namespace": "team"}
    sink = Pinecone(Settings("pine", values, tmp_path, tmp_path, WORKSPACE, "team", fake.key, dimension=8))
    one = item("a", "- ümläuts 🧠")
    remote = stored(sink, one)[one.id]
    metadata = index.fetch(ids=[remote], namespace="team").vectors[remote].metadata
    assert (metadata["text"], metadata["hash"], metadata["tags"]) == (one.text, one.hash, list(one.tags))
