"""The sink `graphiti` on a fake of the REST service. On the real library: tests/cloud/oracle/test_graphiti.py."""

from uuid import UUID

import pytest

from replica.cloud.base import Known, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks.graphiti import Graphiti
from tests.cloud.acceptance import WORKSPACE, Contract, Faulty, Place, item, outgoing, stored
from tests.cloud.fakes.graphiti import FakeGraphiti
from tests.cloud.fakes.server import Reply


@pytest.fixture
def fake():
    with FakeGraphiti() as fake:
        yield fake


@pytest.fixture
def make(fake, tmp_path):
    def make(**values) -> Graphiti:
        return Graphiti(Settings("graph", {"url": fake.url, **values}, tmp_path, tmp_path, WORKSPACE, "team"))

    return make


class TestGraphitiService(Contract, Faulty):
    @pytest.fixture
    def place(self, fake, make):
        def texts():
            """A node without words is one that was deleted: the service can take none away."""
            return {UUID(id): node["summary"] for id, node in fake.nodes.items() if node["summary"]}

        return Place(make, texts, fake=fake, writes="POST /entity-node")


def test_no_word_stays_of_what_is_deleted(fake, make):
    remote = stored(make(), item("a", "- the secret of a"))
    make().delete([Known(item("a").id, remote[item("a").id])])
    assert "secret" not in str(fake.nodes)


def test_nothing_goes_through_the_messages_which_stop_the_worker(fake, make):
    stored(make(), item("a"))
    assert fake.works and not fake.asked("/messages")


def test_a_scope_is_a_group_and_groups_have_no_hyphens(fake, make):
    stored(make(namespace="team_7"), item("a"), item("b", namespace="brand"), item("c", namespace="team-7"))
    groups = {node["group_id"] for node in fake.nodes.values()}
    assert groups > {"team_7", "brand"} and len(groups) == 3 and not any("-" in group for group in groups)


def test_what_was_stored_before_the_service_went_away_is_told(fake, make):
    sink, answer, count = make(), fake.answer, []

    def breaks(request):
        count.append(1)
        if len(count) > 2:
            raise Reply(500, {"detail": "gone"})
        return answer(request)

    fake.answer = breaks
    outcomes = sink.store(outgoing(sink, *(item(str(n)) for n in range(4))))
    assert [type(one) for one in outcomes] == [Stored, Stored, SinkError, SinkError] and len(count) == 3


@pytest.mark.parametrize("values", [{"url": None}, {"url": None, "backend": "kuzu"}, {"url": "http://graph.example"}])
def test_a_sink_that_cannot_be_is_told(make, values):
    with pytest.raises(SinkError) as caught:
        make(**values).test()
    assert caught.value.hint


def test_without_the_library_it_says_how_to_install_it(make, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "graphiti_core", None)
    with pytest.raises(SinkError, match="not installed") as caught:
        make(url=None, path="graph/memory.rdb").test()
    assert "memory-replica[graphiti]" in caught.value.hint and caught.value.trouble is Trouble.AUTH
