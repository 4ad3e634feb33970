"""The sink `supermemory`, on a fake that both official clients speak to (tests/cloud/oracle/test_supermemory.py)."""

from uuid import UUID

import pytest

from replica.cloud.base import Known, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks.supermemory import Supermemory, sanitised
from tests.cloud.acceptance import WORKSPACE, Contract, Faulty, Place, ReadBack, item, outgoing, stored
from tests.cloud.fakes.server import Fault
from tests.cloud.fakes.supermemory import Document, FakeSupermemory


@pytest.fixture
def fake():
    with FakeSupermemory() as fake:
        yield fake


@pytest.fixture
def make(fake, tmp_path):
    """A sink on the fake."""

    def make(*, key=fake.key, **values) -> Supermemory:
        values = {"url": fake.url, "namespace": "team", **values}
        return Supermemory(Settings("super", values, tmp_path, tmp_path, WORKSPACE, "proj", key))

    return make


def put(fake: FakeSupermemory, text: str, namespace: str = "team") -> str:
    document = Document("theirs", None, namespace, text, fake.now(), status="done", shown=text, updated=fake.now())
    fake.documents["theirs"] = document
    return "theirs"


class TestSupermemory(Contract, ReadBack, Faulty):
    api = "v5"
    writes = "(POST|PATCH) .*/document"

    @pytest.fixture
    def place(self, fake, make):
        def texts():
            ours = [one for one in fake.documents.values() if "replica_id" in one.metadata]
            return {UUID(one.metadata["replica_id"]): one.content for one in ours}

        def of(remote):
            return next(one for one in fake.documents.values() if remote in (one.id, one.custom))

        def edit(remote, text):
            of(remote).content = of(remote).shown = text

        def take(remote):
            del fake.documents[of(remote).id]

        return Place(lambda: make(api=self.api), texts, lambda text: put(fake, text), edit, take, fake, self.writes)

    def test_posting_what_is_there_does_not_append(self, fake, place, sink):
        stored(sink, item("a", "- one"))
        stored(sink, item("a", "- two", revision=2))  # the ledger was lost
        assert place.texts() == {item("a").id: "- two"}

    def test_what_has_disappeared_there_is_stored_anew(self, place, sink):
        remote = stored(sink, item("a"))
        place.take(remote[item("a").id])
        stored(sink, item("a", "- later", revision=2), remote=remote)
        assert place.texts() == {item("a").id: "- later"}


class TestSupermemoryWithIdsOfItsOwn(TestSupermemory):
    """The same where answers and lists name documents by the service's ids, not by ours."""

    @pytest.fixture(autouse=True)
    def own_ids(self, fake):
        fake.own_ids = True


class TestSupermemoryV3(TestSupermemory):
    api = "v3"
    writes = "(POST /v3/documents$|PATCH /v3/documents)"


class TestSupermemoryV3ThatTakesOurIdsInPaths(TestSupermemoryV3):
    @pytest.fixture(autouse=True)
    def paths(self, fake):
        fake.custom_ids_in_paths = True


both = pytest.mark.parametrize("api", ["v5", "v3"])


# --- what is written is worked up later


@both
def test_a_text_of_before_is_not_read_back_as_an_edit(fake, make, api):
    """A list has the new metadata beside the old text until the new one is worked up."""
    sink = make(api=api)
    stored(sink, item("a", "- before"))
    assert [one.text for one in sink.changes(None)] == ["- before"]
    fake.slow = 3
    remote = stored(sink, item("a", "- after", revision=2))
    assert list(sink.changes(None)) == [] and sink.present() == set(remote.values())
    seen = [one.text for _ in range(6) for one in sink.changes(None)]
    assert seen and set(seen) == {"- after"}


@both
def test_what_is_queued_is_noted_and_told_as_pending(fake, make, api):
    fake.slow = 1000
    sink = make(api=api)
    (outcome,) = sink.store(outgoing(sink, item("a")))
    assert isinstance(outcome, Stored) and "queued" in outcome.note
    (layer,) = sink.layers()
    assert (layer.where, layer.state) == ("team", "pending") and "1 document" in layer.detail


@both
def test_what_could_not_be_worked_up_is_told_and_is_no_deletion(fake, make, api):
    fake.fails = "unreadable"
    sink = make(api=api)
    remote = stored(sink, item("a"), item("bad", "- unreadable"))
    list(sink.changes(None))  # time passes
    assert sink.present() == set(remote.values())
    failed = make(api=api).failed()
    assert set(failed) == {item("bad").id}
    error = failed[item("bad").id]
    assert error.trouble is Trouble.UNREACHABLE and "lessons-buffer.md" in str(error) and "--force" in error.hint
    fake.remove_failed()
    assert sink.failed() == {}
    fake.fails = None
    stored(sink, item("bad", "- unreadable"), remote=remote)
    assert sink.present() > {remote[item("a").id]} and len(sink.present()) == 2


def test_a_document_that_is_told_as_failed_at_once_is_not_stored(fake, make):
    fake.faults.append(Fault(200, {"id": "x", "status": "failed"}, path="PATCH"))
    sink = make()
    with pytest.raises(SinkError, match="could not work it up"):
        sink.store(outgoing(sink, item("a")))


def test_a_document_at_work_is_tried_later_and_is_no_conflict(fake, make):
    fake.faults.append(Fault(409, {"error": "Document is being processed"}, path="PATCH"))
    with pytest.raises(SinkError) as caught:
        make().store(outgoing(make(), item("a")))
    assert caught.value.trouble is Trouble.THROTTLE


# --- lists


@both
def test_changes_since_a_time_stop_there(fake, make, api):
    sink = make(api=api)
    stored(sink, *(item(str(n)) for n in range(40)))
    all = {one.remote_id: one.updated for one in sink.changes(None)}
    since = sorted(all.values())[-5]
    fake.requests.clear()
    assert {one.remote_id for one in sink.changes(since)} == {id for id, at in all.items() if at >= since}
    assert len(list(sink.changes(max(all.values()) + 1))) == 0


@both
def test_a_list_that_is_cut_short_is_an_error_and_not_a_deletion(fake, make, api):
    sink = make(api=api)
    stored(sink, *(item(str(n)) for n in range(12)))
    fake.lists_at_most = 10
    for read in (sink.present, lambda: list(sink.changes(None))):
        with pytest.raises(SinkError, match="lists 10 of the 12 documents"):
            read()


@both
def test_what_is_taken_away_between_two_pages_hides_no_other(fake, make, api):
    """The pages after it move up by one: the first of the next page would be skipped."""
    sink = make(api=api)
    remote = {}
    for at in range(0, 150, 50):
        remote |= stored(sink, *(item(str(n)) for n in range(at, at + 50)))
    answer, gone = fake.answer, []

    def removes_after_a_page(request):
        told = answer(request)
        pages = (request.query.get("page"), (request.body or {}).get("page"))
        if "list" in request.path and not gone and ("1" in pages or 1 in pages) and told["pagination"]["limit"] == 100:
            gone.append(min(fake.documents))
            fake.documents.pop(gone[0])
        return told

    fake.answer = removes_after_a_page
    last = {remote[item(str(n)).id] for n in range(100, 150)}
    assert last <= sink.present() and len(gone) == 1


# --- namespaces


@both
def test_a_scope_has_its_own_namespace_and_is_read_back_by_everyone(fake, make, api):
    remote = stored(make(api=api), item("a"), item("b", namespace="Marke Süd"))
    put(fake, "of other people", "other")
    assert {one.namespace for one in fake.documents.values()} == {"team", sanitised("Marke Süd"), "other"}
    assert make(api=api).present() == set(remote.values())
    make(api=api).delete([Known(item("b").id, remote[item("b").id], "Marke Süd")])
    assert {one.namespace for one in fake.documents.values()} == {"team", "other"}


def test_a_key_that_may_not_list_namespaces_reads_its_own(fake, make):
    remote = stored(make(), item("a"))
    fake.faults.append(Fault(403, {"error": "scoped key"}, path="GET /ns$"))
    assert make().present() == set(remote.values())


@pytest.mark.parametrize(
    ("name", "clean"),
    [("team-7_a", True), ("Straße", False), ("a b", False), ("x" * 100, True), ("x" * 101, False), ("日本", False)],
)
def test_names_become_what_tags_may_have_and_stay_apart(name, clean):
    made = sanitised(name)
    assert (made == name) is clean
    assert 0 < len(made) <= 100 and all(char.isascii() and (char.isalnum() or char in "_-") for char in made)
    assert made != sanitised(name + "!") != sanitised(name + "?")


def test_the_namespace_is_the_project_s_where_none_is_set(fake, make):
    stored(make(namespace=None), item("a"))
    assert {one.namespace for one in fake.documents.values()} == {"proj"}


# --- items


@both
def test_an_item_that_is_an_address_is_not_sent_to_be_fetched(fake, make, api):
    outcomes = make(api=api).store(outgoing(make(), item("a"), item("b", " https://example.com/x \n"), item("c")))
    assert [type(one) for one in outcomes] == [Stored, SinkError, Stored]
    assert outcomes[1].trouble is Trouble.BAD_ITEM
    assert not any(b"example.com" in request.raw for request in fake.requests)


@both
def test_no_model_is_asked_to_draw_conclusions(fake, make, api):
    stored(make(api=api), item("a"))
    bodies = [request.body for request in fake.requests if "content" in (request.body or {})]
    assert len(bodies) == 2 and all(body["taskType"] == "superrag" for body in bodies)


def test_what_was_stored_before_the_service_went_away_is_told(fake, make):
    sink = make()
    stored(sink, item("a"), item("b"), item("c"))
    fake.faults.append(
        Fault(429, {"error": "slow down", "retryAfterSeconds": 9}, times=50, path=f"PATCH .*{item('b').id}")
    )
    outcomes = sink.store(outgoing(sink, item("a"), item("b"), item("c")))
    assert [type(one) for one in outcomes] == [Stored, SinkError, SinkError]
    assert (outcomes[2].trouble, outcomes[2].retry_after) == (Trouble.THROTTLE, 9)


def test_without_a_key_it_says_how_to_set_one(fake, make):
    with pytest.raises(SinkError) as caught:
        make(key=None).test()
    assert caught.value.hint == "set SUPERMEMORY_API_KEY, then: replica sinks test super" and fake.requests == []


def test_an_unknown_api_and_an_open_url_are_refused(make):
    for wrong in ({"api": "v4"}, {"url": "http://supermemory.example"}):
        with pytest.raises(SinkError):
            make(**wrong).test()
