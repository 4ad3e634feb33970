"""The sink `pinecone`, on a fake that the official client speaks to as well (tests/cloud/oracle/test_pinecone.py)."""

import struct
from uuid import UUID

import pytest

from replica.cloud.base import Known, Outgoing, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks.pinecone import Pinecone
from tests.cloud.acceptance import WORKSPACE, Contract, Faulty, Place, ReadBack, item, outgoing, stored
from tests.cloud.fakes.pinecone import FakePinecone, Namespace
from tests.cloud.fakes.server import Fault, Reply


@pytest.fixture
def fake():
    with FakePinecone() as fake:
        yield fake


@pytest.fixture
def make(fake, tmp_path):
    """A sink on the fake."""

    def make(*, key=fake.key, dimension=8, workspace=WORKSPACE, **values) -> Pinecone:
        values = {"url": fake.url, "namespace": "team", **values}
        sink = Pinecone(Settings("pine", values, tmp_path, tmp_path, workspace, "proj", key, dimension, "test"))
        sink.pauses = (0.01, 0.01, 0.01)
        return sink

    return make


def put(fake: FakePinecone, id: str, text: str, namespace: str = "team") -> str:
    space = fake.namespaces.setdefault(namespace, Namespace())
    space.records[id] = {"id": id, "values": [0.5] * 8, "metadata": {"text": text}}
    space.wrote(fake.lag)
    return id


class TestPinecone(Contract, ReadBack, Faulty):
    @pytest.fixture
    def place(self, fake, make):
        def texts():
            records = [one for space in fake.namespaces.values() for one in space.records.values()]
            ours = [one["metadata"] for one in records if "replica_id" in one["metadata"]]
            return {UUID(one["replica_id"]): one["text"] for one in ours}

        def edit(remote, text):
            fake.namespaces["team"].records[remote]["metadata"]["text"] = text
            fake.namespaces["team"].wrote(fake.lag)

        def take(remote):
            del fake.namespaces["team"].records[remote]
            fake.namespaces["team"].wrote(fake.lag)

        return Place(
            make, texts, lambda text: put(fake, "theirs", text), edit, take, fake, writes="POST /vectors/upsert"
        )


class TestPineconeThatIsBehind(TestPinecone):
    """The same laws where each read is stale for a while after each write."""

    @pytest.fixture(autouse=True)
    def behind(self, fake):
        fake.lag = 2

    def test_layers_and_capacity_can_be_told(self, sink):
        """The count of a service that is behind is that of before."""
        stored(sink, item("a"))
        assert sink.capacity().items in (0, 1) and sink.layers()[0].state == "pending"


# --- what is written is not at once what is read


def test_what_another_process_has_just_written_is_not_told_as_gone(fake, make):
    """The other clone's write is not known here: only the fence shows that reads have passed it."""
    remote = stored(make(), item("a"))
    make().present()
    fake.lag = 3
    remote |= stored(make(), item("b"))
    assert make().present() == set(remote.values())


def test_a_read_that_never_catches_up_is_an_error_and_not_an_answer(fake, make):
    fake.lag = 1000
    stored(make(), item("a"))
    for read in (lambda sink: sink.present(), lambda sink: list(sink.changes(None))):
        with pytest.raises(SinkError, match="does not yet show") as caught:
            read(make())
        assert caught.value.trouble is Trouble.UNREACHABLE and "again" in caught.value.hint


def test_an_old_version_is_not_read_back_after_a_new_one_was_stored(fake, make):
    sink = make()
    stored(sink, item("a", "- before"))
    assert [one.text for one in sink.changes(None)] == ["- before"]
    fake.lag = 2
    stored(sink, item("a", "- after", revision=2))
    assert [(one.text, one.revision) for one in sink.changes(None)] == [("- after", 2)]


def test_a_list_that_says_how_far_it_has_seen_is_believed_over_the_search(fake, make):
    fake.tells = ("list", "fetch")
    fake.lag = 2
    remote = stored(make(), item("a"))
    assert make().present() == set(remote.values())


def test_the_fence_writes_nothing(fake, make):
    sink = make()
    stored(sink, item("a"))
    before = dict(fake.namespaces["team"].records)
    sink.present()
    assert fake.namespaces["team"].records == before


def test_a_list_that_is_cut_short_is_an_error_and_not_a_deletion(fake, make):
    sink = make()
    stored(sink, *(item(str(n)) for n in range(120)))
    fake.lists_at_most = 110
    with pytest.raises(SinkError, match="lists 110 of the 120 records"):
        sink.present()


def test_a_list_without_an_end_is_an_error(fake, make):
    sink = make()
    stored(sink, item("a"))
    body = {"vectors": [{"id": "x"}], "pagination": {"next": "again"}}
    fake.faults.append(Fault(200, body, times=50, path="GET /vectors/list"))
    with pytest.raises(SinkError, match="again and again"):
        sink.present()


def test_a_service_that_tells_no_numbers_is_taken_at_its_word(fake, make):
    fake.writes_tell, fake.tells = False, ()
    remote = stored(make(), item("a"))
    assert make().present() == set(remote.values())


def test_the_vector_that_arrives_is_the_vector_in_32_bits(fake, make):
    vector = [0.1, -1 / 3, 1e-7, 12345.678, 0.0, 1.0, 2.5, 1e20]
    make().store([Outgoing(item("a"), None, vector)])
    arrived = fake.namespaces["team"].records[str(item("a").id)]["values"]
    assert struct.pack("8f", *arrived) == struct.pack("8f", *vector)


# --- namespaces


def test_a_scope_has_its_own_namespace_and_is_read_back_by_everyone(fake, make):
    remote = stored(make(), item("a"), item("b", namespace="brand"))
    put(fake, "stranger", "of other people", "other")
    assert {name: len(space.records) for name, space in fake.namespaces.items()} == {"team": 1, "brand": 1, "other": 1}
    assert make().present() == set(remote.values())
    make().delete([Known(item("b").id, remote[item("b").id], "brand")])
    assert fake.namespaces["brand"].records == {}


def test_the_namespace_is_the_project_s_where_none_is_set(fake, make):
    stored(make(namespace=None), item("a"))
    assert list(fake.namespaces) == ["proj"]


def test_an_empty_namespace_reads_as_empty(make):
    assert make().present() == set() and list(make().changes(None)) == []


# --- limits


def test_a_call_has_at_most_two_megabytes(fake, make):
    many = [item(str(n), f"{n} " + "x" * 30_000) for n in range(150)]
    stored(make(), *many)
    calls = fake.asked("POST /vectors/upsert")
    assert len(calls) == 3 and all(len(call.raw) <= 2_000_000 for call in calls)


def test_a_call_has_at_most_a_thousand_records(fake, make):
    sink = make()
    stored(sink, *(item(str(n)) for n in range(1001)))
    assert [len(call.body["vectors"]) for call in fake.asked("POST /vectors/upsert")] == [1000, 1]


def test_an_item_over_40_kb_is_too_big_and_the_others_go(make):
    outcomes = make().store(outgoing(make(), item("a"), item("big", "ü" * 20_000), item("b")))
    assert [type(one) for one in outcomes] == [Stored, SinkError, Stored]
    assert outcomes[1].trouble is Trouble.TOO_BIG and "split" in outcomes[1].hint


@pytest.mark.parametrize("vector", [None, [0.0] * 8, [float("nan")] * 8, [1.0] * 7])
def test_a_vector_that_cannot_be_stored_is_that_item_s_trouble_alone(make, vector):
    bad = Outgoing(item("bad"), None, vector)
    outcomes = make().store([*outgoing(make(), item("a")), bad])
    assert isinstance(outcomes[0], Stored) and outcomes[1].trouble is Trouble.BAD_ITEM


def test_one_record_that_the_service_refuses_is_found_and_the_others_are_stored(fake, make):
    answer = fake.answer

    def refuses(request):
        if request.path == "/vectors/upsert" and any(
            "poison" in v["metadata"]["text"] for v in request.body["vectors"]
        ):
            raise Reply(400, {"code": 3, "message": "one of these cannot be", "details": []})
        return answer(request)

    fake.answer = refuses
    items = [item(str(n)) for n in range(40)] + [item("bad", "poison")]
    outcomes = make().store(outgoing(make(), *items))
    assert [isinstance(one, Stored) for one in outcomes] == [True] * 40 + [False]
    assert outcomes[-1].trouble is Trouble.BAD_ITEM


def test_a_service_that_refuses_all_is_not_asked_a_thousand_times(fake, make):
    fake.faults.append(Fault(400, {"code": 3, "message": "no", "details": []}, times=5000, path="upsert"))
    outcomes = make().store(outgoing(make(), *(item(str(n)) for n in range(200))))
    assert len(fake.asked("upsert")) <= 60
    assert {one.trouble for one in outcomes} == {Trouble.BAD_ITEM, Trouble.THROTTLE}


def test_what_was_stored_before_a_call_failed_is_told_as_stored(make):
    many = [item(str(n), f"{n} " + "x" * 30_000) for n in range(100)]
    sink, sent = make(), []
    upsert = sink._upsert
    sink._upsert = lambda *args: sent.append(1) or (upsert(*args) if len(sent) == 1 else fails())

    def fails():
        raise SinkError(Trouble.UNREACHABLE, "gone")

    outcomes = sink.store(outgoing(sink, *many))
    assert 0 < sum(isinstance(one, Stored) for one in outcomes) < 100 and len(outcomes) == 100


def test_fewer_stored_than_sent_is_an_error(fake, make):
    fake.faults.append(Fault(200, {"upsertedCount": 1}, path="upsert"))
    with pytest.raises(SinkError, match="stored 1 of 2"):
        make().store(outgoing(make(), item("a"), item("b")))


@pytest.mark.parametrize(
    ("status", "words", "trouble"),
    [(429, "You've reached your write unit limit for the current month", Trouble.QUOTA),
     (429, "Too many requests", Trouble.THROTTLE), (403, "You've reached the max storage allowed", Trouble.QUOTA),
     (403, "Forbidden", Trouble.AUTH), (400, "message length too large: found 5000000", Trouble.TOO_BIG)],
)  # fmt: skip
def test_a_status_with_two_uses_is_told_by_its_words(fake, make, status, words, trouble):
    fake.faults.append(Fault(status, {"code": 8, "message": words, "details": []}, times=9, path="upsert"))
    sink = make()
    try:
        (found,) = sink.store(outgoing(sink, item("a")))
    except SinkError as error:
        found = error
    assert found.trouble is trouble


# --- where the index is


def test_an_index_is_looked_up_by_its_name(fake, make):
    sink = make(url=None, index="memory", controller=fake.url)
    stored(sink, item("a"))
    assert len(fake.asked("GET /indexes/memory")) == 1
    with pytest.raises(SinkError, match="no index 'other'") as caught:
        make(url=None, index="other", controller=fake.url).test()
    assert "dimension 8" in caught.value.hint


def test_an_index_of_another_dimension_is_told_before_anything_is_stored(make):
    for work in (make(dimension=384).prepare, make(dimension=384).test):
        with pytest.raises(SinkError, match="dimension 8; the embedder test makes 384"):
            work()


def test_without_a_key_it_says_how_to_set_one(fake, make):
    with pytest.raises(SinkError) as caught:
        make(key=None).test()
    assert caught.value.hint == "set PINECONE_API_KEY, then: replica sinks test pine"
    assert fake.requests == []


@pytest.mark.parametrize("url", ["http://index.example", "http://10.0.0.1", "https://", "ftp://x", "https://a:b@c"])
def test_the_key_goes_nowhere_in_the_clear(make, url):
    with pytest.raises(SinkError) as caught:
        make(url=url).test()
    assert caught.value.trouble is Trouble.AUTH
