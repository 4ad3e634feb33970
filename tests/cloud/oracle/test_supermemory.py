"""The fake Supermemory, driven by the official clients: of 5 for API v5, of 3 for API v3; each in its environment."""

import importlib.metadata

import pytest

supermemory = pytest.importorskip("supermemory")

from replica.cloud.base import Settings  # noqa: E402
from replica.cloud.sinks.supermemory import Supermemory  # noqa: E402
from tests.cloud.acceptance import WORKSPACE, item, stored  # noqa: E402
from tests.cloud.fakes.server import Fault  # noqa: E402
from tests.cloud.fakes.supermemory import FakeSupermemory  # noqa: E402

GENERATION = int(importlib.metadata.version("supermemory").split(".")[0])
v5 = pytest.mark.skipif(GENERATION < 5, reason="this is the client of API v3")
v3 = pytest.mark.skipif(GENERATION >= 5, reason="this is the client of API v5")


@pytest.fixture
def fake():
    with FakeSupermemory() as fake:
        yield fake


@pytest.fixture
def client(fake):
    return supermemory.Supermemory(api_key=fake.key, base_url=fake.url, max_retries=0)


def sink(fake, tmp_path, api: str) -> Supermemory:
    values = {"url": fake.url, "namespace": "team", "api": api}
    return Supermemory(Settings("super", values, tmp_path, tmp_path, WORKSPACE, "team", fake.key))


@v5
def test_a_document_is_added_appended_to_replaced_and_deleted(client):
    assert client.add("team", id="a", content="one", metadata={"rev": 1}, task_type="superrag").status == "queued"
    assert client.add("team", id="a", content="two").id == "a"

    def read():
        client.list("team", "documents")
        return client.documents.get("team", "a")

    assert (read().content, read().system.status) == ("one\ntwo", "done")
    client.documents.update("team", "a", content="three", metadata={"rev": 2})
    assert (read().content, read().metadata) == ("three", {"rev": 2})
    result = client.documents.delete("team", ids=["a", "never"])
    assert (result.count, [error.id for error in result.errors]) == (1, ["never"])
    with pytest.raises(supermemory.NotFoundError):
        client.documents.update("team", "a", content="four")


@v5
def test_lists_have_pages_an_order_filters_and_the_text_of_before(fake, client):
    for n in range(7):
        client.add("team", id=f"d{n}", content=f"text {n}", metadata={"odd": n % 2})
    first = client.list("team", "documents", page=1, limit=5, sort="createdAt", order="asc", include={"content": True})
    rest = client.list("team", "documents", page=2, limit=5, sort="createdAt", order="asc")
    assert [one.content for one in first.documents] == [f"text {n}" for n in range(5)]
    assert ([one.id for one in rest.documents], rest.documents[0].content) == (["d5", "d6"], None)
    assert (rest.pagination.total_items, rest.pagination.total_pages) == (7, 2)
    filter = {"operator": "and", "operands": [{"field": "odd", "operator": "eq", "value": 1}]}
    assert client.list("team", "documents", filter=filter).pagination.total_items == 3
    fake.slow = 1
    client.documents.update("team", "d0", content="new")
    newest = client.list("team", "documents", sort="updatedAt", order="desc", include={"content": True}).documents[0]
    assert (newest.id, newest.content, newest.system.status) == ("d0", "text 0", "queued")


@v5
def test_namespaces_are_listed(client):
    client.add("team", content="one")
    client.add("brand", content="two")
    found = client.namespaces.list().namespaces
    assert {one.namespace: one.document_count for one in found} == {"team": 1, "brand": 1}


@v5
@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "BadRequestError"), (401, "UnauthorizedError"), (402, "PaymentRequiredError"), (403, "ForbiddenError"),
     (404, "NotFoundError"), (409, "ConflictError"), (500, "InternalServerError")],
)  # fmt: skip
def test_faults_are_the_client_s_errors(fake, client, status, name):
    fake.faults.append(Fault(status, {"error": "no", "details": "x"}, times=9))
    with pytest.raises(getattr(supermemory, name)):
        client.documents.update("team", "a", content="x")


@v5
def test_the_client_reads_what_the_adapter_wrote(fake, client, tmp_path):
    one = item("a", "- ümläuts 🧠")
    remote = stored(sink(fake, tmp_path, "v5"), one)[one.id]
    client.list("team", "documents")
    found = client.documents.get("team", remote)
    assert (found.content, found.metadata["hash"], found.id) == (one.text, one.hash, str(one.id))


@v3
def test_v3_a_document_is_added_appended_to_replaced_and_deleted(client):
    added = client.documents.add(content="one", container_tag="team", custom_id="a", task_type="superrag")
    assert (client.documents.add(content="two", container_tag="team", custom_id="a").id, added.status) == (
        added.id, "queued",
    )  # fmt: skip

    def read():
        client.documents.list(container_tags=["team"])
        return client.documents.get(added.id)

    assert (read().content, read().custom_id, read().status) == ("one\ntwo", "a", "done")
    client.documents.update(added.id, content="three", metadata={"rev": 2})
    assert (read().content, read().metadata) == ("three", {"rev": 2})
    client.documents.delete("a")
    with pytest.raises(supermemory.NotFoundError):
        client.documents.update(added.id, content="four")


@v3
def test_v3_lists_have_pages_an_order_and_filters(client):
    for n in range(7):
        client.documents.add(content=f"text {n}", container_tag="team", custom_id=f"d{n}", metadata={"odd": str(n % 2)})
    asked = {"container_tags": ["team"], "limit": 5, "sort": "createdAt", "order": "asc"}
    first = client.documents.list(page=1, include_content=True, **asked)
    rest = client.documents.list(page=2, **asked)
    assert [one.content for one in first.memories] == [f"text {n}" for n in range(5)]
    assert [(one.custom_id, one.container_tags) for one in rest.memories] == [("d5", ["team"]), ("d6", ["team"])]
    assert rest.pagination.total_items == 7
    filters = {"AND": [{"key": "odd", "value": "1", "filterType": "metadata"}]}
    assert client.documents.list(filters=filters).pagination.total_items == 3
    assert client.settings.get().chunk_size


@v3
@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "BadRequestError"), (401, "AuthenticationError"), (402, "APIStatusError"), (403, "PermissionDeniedError"),
     (404, "NotFoundError"), (409, "ConflictError"), (429, "RateLimitError"), (500, "InternalServerError")],
)  # fmt: skip
def test_v3_faults_are_the_client_s_errors(fake, client, status, name):
    fake.faults.append(Fault(status, {"error": "no", "details": "x"}, times=9))
    with pytest.raises(getattr(supermemory, name)):
        client.documents.update("a", content="x")


@v3
def test_v3_the_client_reads_what_the_adapter_wrote(fake, client, tmp_path):
    one = item("a", "- ümläuts 🧠")
    remote = stored(sink(fake, tmp_path, "v3"), one)[one.id]
    client.documents.list(container_tags=["team"])
    found = client.documents.get(remote)
    assert (found.content, found.metadata["hash"], found.custom_id) == (one.text, one.hash, str(one.id))
