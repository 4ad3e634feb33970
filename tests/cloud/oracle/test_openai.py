"""The fake of OpenAI's embeddings, driven by OpenAI's own client."""

import pytest

from replica.cloud.embed.hashed import Hashed
from tests.cloud.fakes.embeddings import Embeddings
from tests.cloud.fakes.server import Fault

openai = pytest.importorskip("openai")

TEXTS = ["Ask before deleting", "水位警報", "a"]


@pytest.fixture
def fake():
    with Embeddings() as fake:
        yield fake


@pytest.fixture
def client(fake):
    with openai.OpenAI(api_key=fake.key, base_url=f"{fake.url}/v1", max_retries=0, timeout=5) as client:
        yield client


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_the_client_reads_the_vectors_of_the_fake(client, options):
    answer = client.embeddings.create(model="small", input=TEXTS, **options)
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model) == ("list", "small") and answer.usage.total_tokens > 0
    if options != {"encoding_format": "base64"}:  # which the client gives as it came
        for row, vector in zip(answer.data, Hashed().embed(TEXTS), strict=True):
            assert row.embedding == pytest.approx([2 * number for number in vector], abs=1e-6)


def test_one_text_may_come_without_a_list(client):
    assert len(client.embeddings.create(model="small", input="a").data) == 1


def test_the_client_knows_the_errors_of_the_fake(fake, client):
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="large", input=TEXTS)
    assert error.value.code == "model_not_found"
    for wrong in ([], [""], ["x" * 9_000]):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="small", input=wrong)
    with pytest.raises(openai.AuthenticationError) as error:
        client.with_options(api_key="wrong").embeddings.create(model="small", input=TEXTS)
    assert error.value.code == "invalid_api_key"
    fake.faults.append(Fault(429, {"error": {"message": "slow down"}}, {"retry-after": "1"}))
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="small", input=TEXTS)
