"""The sink `qdrant`: over REST to a fake server, and embedded with the real engine."""

import json
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from uuid import UUID, uuid4, uuid5

import pytest

from replica.cloud.base import Known, Outgoing, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks.qdrant import PAGE, Qdrant, point_id
from tests.cloud.acceptance import (
    SPACE,
    WORKSPACE,
    Contract,
    Faulty,
    Place,
    ReadBack,
    item,
    outgoing,
    stored,
    vector_of,
)
from tests.cloud.fakes.qdrant import FakeQdrant
from tests.cloud.fakes.server import Fault, Reply

DIMENSION = 8
KEY = "test-key"


def settings(folder, *, dimension=DIMENSION, workspace=WORKSPACE, key=KEY, **values) -> Settings:
    values = {"collection": "memory", **values}
    return Settings("memory", values, folder, folder / ".replica", workspace, "team", key, dimension, "hash", 5.0)


def over(fake, tmp_path, **values) -> Qdrant:
    sink = Qdrant(settings(tmp_path, url=fake.url, **values))
    sink.prepare()
    return sink


class TestRest(Contract, ReadBack, Faulty):
    @pytest.fixture
    def place(self, tmp_path):
        with FakeQdrant() as fake:
            made = []

            def sink():
                made.append(Qdrant(settings(tmp_path, url=fake.url)))
                return made[-1]

            def points():
                return fake.collections["memory"].points if "memory" in fake.collections else {}

            def texts():
                return {UUID(id): point["payload"]["text"] for id, point in points().items()}

            def foreign(text):
                id = str(uuid4())
                points()[id] = {"id": id, "vector": vector_of(text, DIMENSION), "payload": {"text": text}}
                return id

            def edit(id, text):
                points()[id]["payload"]["text"] = text

            yield Place(sink, texts, foreign, edit, lambda id: points().pop(id), fake,
                        "PUT /collections/memory/points")  # fmt: skip
            for one in made:
                one.close()


class TestEmbedded(Contract, ReadBack):
    """The engine is real. The test looks at the same folder by the engine alone, while the sink is closed."""

    @pytest.fixture
    def place(self, tmp_path):
        q = pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
        made = []
        folder = tmp_path / ".replica" / "qdrant" / f"memory-{DIMENSION}"

        def sink():
            made.append(Qdrant(settings(tmp_path)))
            return made[-1]

        def engine(work):
            for one in made:
                one.close()  # it opens again by itself
            shard = q.EdgeShard.load(str(folder))
            try:
                return work(shard)
            finally:
                shard.flush()
                shard.close()

        def texts():
            points = engine(lambda shard: shard.scroll(q.ScrollRequest(limit=10_000, with_payload=True))[0])
            return {point.id: point.payload["text"] for point in points}

        def update(operation):
            engine(lambda shard: shard.update(operation))

        def foreign(text):
            id = str(uuid4())
            update(q.UpdateOperation.upsert_points([q.Point(id, vector_of(text, DIMENSION), {"text": text})]))
            return id

        yield Place(
            sink, texts, foreign, lambda id, text: update(q.UpdateOperation.set_payload([id], {"text": text})),
            lambda id: update(q.UpdateOperation.delete_points([id])),
        )  # fmt: skip
        for one in made:
            one.close()


@pytest.fixture(params=["1.19.1", "1.12.4"])
def fake(request):
    """A server of today, and one that ignores `update_filter`."""
    with FakeQdrant(request.param) as fake:
        yield fake


@pytest.fixture
def embedded(tmp_path):
    pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    sink = Qdrant(settings(tmp_path))
    sink.prepare()
    yield sink
    sink.close()


@pytest.fixture(params=["rest", "old rest", "embedded"])
def either(request, tmp_path):
    if request.param == "embedded":
        yield request.getfixturevalue("embedded")
        return
    with FakeQdrant("1.12.4" if request.param == "old rest" else "1.19.1") as fake:
        sink = over(fake, tmp_path)
        yield sink
        sink.close()


def texts_of(sink) -> dict[str, str]:
    return {one.remote_id: one.text for one in sink.changes(None)}


def near(found, expected) -> bool:
    return [id for id, _ in found] == expected


# --- both


def test_an_older_revision_never_takes_the_place_of_a_newer_one(either):
    stored(either, item("a", "old", revision=5), item("b", "old", revision=5), item("c", "old", revision=5))
    outcomes = either.store(outgoing(
        either, item("a", "stale", revision=4), item("b", "the same revision", revision=5),
        item("c", "newer", revision=6), item("d", "new", revision=1),
    ))  # fmt: skip
    assert all(isinstance(outcome, Stored) for outcome in outcomes)  # a stale one is ignored, and no failure
    ids = {name: str(item(name).id) for name in "abcd"}
    assert texts_of(either) == {
        ids["a"]: "old", ids["b"]: "the same revision", ids["c"]: "newer", ids["d"]: "new",
    }  # fmt: skip


def test_revisions_are_compared_to_the_last_digit(either):
    """They are microseconds, close to the 2^53 below which floats are exact."""
    last = 2**53 - 2
    stored(either, item("a", "now", revision=last, time=1))
    stored(either, item("a", "before", revision=last - 1, time=1))
    assert list(texts_of(either).values()) == ["now"]
    stored(either, item("a", "later", revision=last + 1, time=1))
    assert list(texts_of(either).values()) == ["later"]


def test_the_nearest_are_found_with_the_nearest_first(either):
    vectors = {"a": [1, 0, 0, 0, 0, 0, 0, 0], "b": [0.9, 0.1, 0, 0, 0, 0, 0, 0], "c": [0, 1, 0, 0, 0, 0, 0, 0]}
    either.store([Outgoing(item(name), None, vector) for name, vector in vectors.items()])
    found = either.search([1, 0, 0, 0, 0, 0, 0, 0], 2)
    assert near(found, [str(item("a").id), str(item("b").id)])
    assert found[0][1] == pytest.approx(1.0, abs=1e-5) and found[1][1] < found[0][1]


def test_a_vector_of_another_size_is_the_items_fault_alone(either):
    fit, short, bare, odd = item("fit"), item("short"), item("bare"), item("odd")
    outcomes = either.store([
        Outgoing(short, None, [0.5]), Outgoing(fit, None, [0.5] * DIMENSION), Outgoing(bare),
        Outgoing(odd, None, [float("nan")] * DIMENSION),
    ])  # fmt: skip
    assert [outcome.trouble if isinstance(outcome, SinkError) else "stored" for outcome in outcomes] == [
        Trouble.BAD_ITEM, "stored", Trouble.BAD_ITEM, Trouble.BAD_ITEM,
    ]  # fmt: skip
    assert list(texts_of(either)) == [str(fit.id)]


def test_what_was_pulled_from_there_is_changed_where_it_is(either):
    """Somebody else's point has an id of its own, which may be a number."""
    stored(either, item("a"), remote={item("a").id: "17"})
    stored(either, item("a", "told better", revision=2), remote={item("a").id: "17"})
    assert texts_of(either) == {"17": "told better"}
    either.delete([Known(item("a").id, "17")])
    assert texts_of(either) == {}


def test_points_of_many_pages_and_with_numbers_as_ids_are_read(either):
    many = [item(str(n)) for n in range(PAGE + 3)]
    for at in range(0, len(many), either.batch):
        stored(either, *many[at : at + either.batch])
    numbered = item("pulled")
    (outcome,) = either.store(outgoing(either, numbered, remote={numbered.id: "17"}))
    found = either.read([Known(numbered.id, outcome.remote_id), *(Known(one.id, str(one.id)) for one in many)])
    assert {id: one.text for id, one in found.items()} == {one.id: one.text for one in [numbered, *many]}
    assert found[numbered.id].remote_id == "17"


def test_all_pages_come_even_with_numbers_and_uuids_as_ids(either):
    many = [item(str(n)) for n in range(2 * PAGE + 3)]
    remote = {one.id: str(n) for n, one in enumerate(many) if n % 3 == 0}
    for at in range(0, len(many), 200):
        stored(either, *many[at : at + 200], remote=remote)
    expected = {remote.get(one.id, str(one.id)) for one in many}
    assert set(texts_of(either)) == either.present() == expected
    assert either.capacity().items == len(many)


@pytest.mark.parametrize("flavour", ["rest", "embedded"])
def test_namespaces_live_apart_and_all_of_ours_are_in_scope(tmp_path, flavour):
    """In scope is what has the namespace, and what this workspace wrote: an item may have a namespace of its own."""
    if flavour == "embedded":
        pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    with FakeQdrant() as fake:
        url = {"url": fake.url} if flavour == "rest" else {}
        others = Qdrant(settings(tmp_path, workspace="cd" * 16, namespace="theirs", **url))
        others.prepare()
        stored(others, item("x"), item("y", namespace="ours"))
        others.close()
        sink = Qdrant(settings(tmp_path, namespace="ours", **url))
        sink.prepare()
        stored(sink, item("a"), item("b", namespace="brand"))
        a, b, x, y = (str(item(name).id) for name in "abxy")
        assert sink.present() == set(texts_of(sink)) == {a, b, y}
        assert sink.capacity().items == 3
        found = {name: {id for id, _ in sink.search([1.0] * DIMENSION, 9, name)} for name in (None, "ours", "brand")}
        assert found == {None: {a, b, y}, "ours": {a, y}, "brand": {b}}
        assert {id for id, _ in sink.search([1.0] * DIMENSION, 9, "theirs")} == {x}
        sink.close()


@pytest.mark.parametrize("flavour", ["rest", "embedded"])
def test_a_collection_with_vectors_of_another_size_is_not_touched(tmp_path, flavour):
    if flavour == "embedded":
        pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    with FakeQdrant() as fake:
        url = {"url": fake.url} if flavour == "rest" else {"path": "here"}
        first = Qdrant(settings(tmp_path, **url))
        first.prepare()
        stored(first, item("a"))
        first.close()
        other = Qdrant(settings(tmp_path, dimension=4, **url))
        with pytest.raises(SinkError, match="vectors of 8, and the embedder makes 4") as caught:
            other.prepare()
        assert caught.value.trouble is Trouble.CONFLICT and "another `collection`" in caught.value.hint
        other.close()
        assert list(texts_of(first).values()) == [item("a").text]
        url = url if flavour == "rest" else {"path": "there"}
        elsewhere = Qdrant(settings(tmp_path, dimension=4, collection="other", **url))
        elsewhere.prepare()
        stored(elsewhere, item("a"))
        elsewhere.close()
        first.close()


def test_another_embedder_begins_a_folder_of_its_own(tmp_path):
    pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    for dimension in (DIMENSION, 4):
        sink = Qdrant(settings(tmp_path, dimension=dimension))
        sink.prepare()
        stored(sink, item("a"))
        sink.close()
    assert {folder.name for folder in (tmp_path / ".replica" / "qdrant").iterdir()} >= {
        f"memory-{DIMENSION}",
        "memory-4",
    }


@pytest.mark.parametrize("flavour", ["rest", "embedded"])
def test_what_is_not_there_is_told_and_never_taken_for_empty(tmp_path, flavour):
    """An empty answer of `present` would propose to delete everything here."""
    with FakeQdrant() as fake:
        sink = Qdrant(settings(tmp_path, **({"url": fake.url} if flavour == "rest" else {})))
        for work in (sink.present, lambda: list(sink.changes(None)), sink.capacity):
            with pytest.raises(SinkError, match="not there") as caught:
                work()
            assert caught.value.trouble is Trouble.GONE and "replica export" in caught.value.hint
        assert sink.delete([Known(item("a").id, str(item("a").id))]) == [Stored(str(item("a").id))]


def test_no_vectors_no_collection(tmp_path):
    with pytest.raises(SinkError, match="needs vectors") as caught:
        Qdrant(settings(tmp_path, dimension=0)).prepare()
    assert "embedder" in caught.value.hint


def test_the_text_of_others_is_found_where_they_keep_it(fake, tmp_path):
    sink = over(fake, tmp_path)
    payloads = [{"page_content": "one"}, {"document": "two"}, {"data": "three", "hash": "x"}, {"colour": "red"}]
    for payload in payloads:
        id = str(uuid4())
        fake.collections["memory"].points[id] = {"id": id, "vector": [1.0] * DIMENSION, "payload": payload}
    assert {one.text for one in sink.changes(None)} == {"one", "two", "three"}
    assert all(one.item is None and one.origin is None for one in sink.changes(None))
    assert len(sink.present()) == 4


def test_ids_are_those_that_qdrant_takes():
    id = uuid5(SPACE, "a")
    assert point_id(None, id) == point_id("", id) == point_id("no uuid", id) == point_id("²", id) == str(id)
    assert point_id("17", id) == 17
    assert point_id(str(id).upper(), id) == str(id)


# --- over REST


def test_a_point_holds_the_item_with_its_text_and_its_tags(fake, tmp_path):
    one = item("a", tags=("deploy", "ci, cd"))
    stored(over(fake, tmp_path, namespace="team"), one)
    (point,) = fake.collections["memory"].points.values()
    assert point["id"] == point["payload"]["replica_id"] == str(one.id)
    assert point["payload"]["text"] == one.text and point["payload"]["tags"] == ["deploy", "ci, cd"]
    assert point["payload"]["namespace"] == "team" and point["payload"]["rev"] == one.revision
    assert fake.collections["memory"].vectors == {"size": DIMENSION, "distance": "Cosine"}


def test_strict_mode_finds_an_index_for_every_filter(fake, tmp_path):
    """The fake refuses what Qdrant Cloud does; the indexes are made at once, and again where some are missing."""
    sink = over(fake, tmp_path, namespace="team")
    fake.collections["memory"].indexes.clear()
    with pytest.raises(SinkError, match="Index required") as caught:
        sink.present()
    assert caught.value.trouble is Trouble.CONFLICT and "replica export" in caught.value.hint
    sink.prepare()
    assert sink.present() == set() and fake.collections["memory"].indexes["rev"] == "integer"
    before = len(fake.asked("PUT"))
    sink.prepare()
    assert len(fake.asked("PUT")) == before


@pytest.mark.parametrize(
    ("version", "guarded"), [("1.19.1", True), ("1.16.0-dev", True), ("1.15.5", False), ("", False)]
)
def test_a_new_server_is_asked_to_guard_and_an_old_one_is_read_first(tmp_path, version, guarded):
    with FakeQdrant(version) as fake:
        stored(over(fake, tmp_path), item("a"))
        (write,) = fake.asked("PUT /collections/memory/points")
        assert ("update_filter" in write.body) is guarded
        assert bool(fake.asked("POST /collections/memory/points$")) is not guarded
        assert write.query == {"wait": "true"}


def test_a_server_that_refuses_the_guard_is_written_to_without(tmp_path):
    """A strict mode may allow fewer conditions than a batch has items."""
    with FakeQdrant() as fake:
        sink = over(fake, tmp_path)
        fake.faults.append(Fault(400, {"status": {"error": "Bad request: too many conditions"}}, path="PUT .*/points"))
        stored(sink, item("a", "old", revision=5))
        stored(sink, item("a", "stale", revision=4))
        assert list(texts_of(sink).values()) == ["old"]
        assert ["update_filter" in put.body for put in fake.asked("PUT .*/points")] == [True, False]


def test_a_batch_that_is_refused_for_its_own_sake_does_not_give_up_the_guard(tmp_path):
    with FakeQdrant() as fake:
        sink = over(fake, tmp_path)
        fake.faults.append(Fault(400, {"status": {"error": "Wrong input: something"}}, times=2, path="PUT .*/points"))
        with pytest.raises(SinkError) as caught:
            sink.store(outgoing(sink, item("a")))
        assert caught.value.trouble is Trouble.BAD_ITEM and "something" in str(caught.value)
        stored(sink, item("a"))
        assert "update_filter" in fake.asked("PUT .*/points")[-1].body


def test_limits_of_the_collection_are_no_fault_of_an_item(tmp_path):
    with FakeQdrant(upsert_max_batchsize=2) as fake:
        sink = over(fake, tmp_path)
        with pytest.raises(SinkError) as caught:
            sink.store(outgoing(sink, item("a"), item("b"), item("c")))
        assert caught.value.trouble is Trouble.TOO_BIG
        stored(sink, item("a"), item("b"))
    with FakeQdrant(max_points_count=2) as fake:
        sink = over(fake, tmp_path)
        stored(sink, item("a"), item("b"))
        assert sink.capacity() == (2, 2)
        with pytest.raises(SinkError) as caught:
            sink.store(outgoing(sink, item("c")))
        assert caught.value.trouble is Trouble.QUOTA


def test_how_full_the_server_is_stands_in_its_layer(tmp_path):
    with FakeQdrant() as fake:
        fake.quotas = {"resident_memory_percent": 41, "disk_usage_percent": 12}
        sink = over(fake, tmp_path, namespace="team")
        assert sink.capacity() == (0, None)
        (layer,) = sink.layers()
        assert layer.detail == "memory 41% full, disk 12% full"
        assert layer.where == f"{fake.url}, collection memory, namespace team"


def test_a_big_batch_goes_in_calls_that_a_server_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("replica.cloud.sinks.qdrant_rest.MAX_BODY", 4_000)
    with FakeQdrant() as fake:
        sink = over(fake, tmp_path)
        many = [item(str(n), "ü" * 300) for n in range(20)]
        stored(sink, *many)
        puts = fake.asked("PUT .*/points")
        assert len(puts) > 3 and set(texts_of(sink)) == {str(one.id) for one in many}
        assert max(len(json.dumps(put.body["points"], ensure_ascii=False).encode()) for put in puts) < 5_000
        # The second call fails: what the first one stored is stored, the rest is told apart.
        fake.collections["memory"].points.clear()
        answer, calls = fake.answer, len(fake.requests)

        def failing(request):
            if len(fake.requests) > calls + 1:
                raise Reply(500, {"status": {"error": "no"}})
            return answer(request)

        monkeypatch.setattr(fake, "answer", failing)
        outcomes = sink.store(outgoing(sink, *many))
        there = {UUID(id) for id in fake.collections["memory"].points}
        assert there == {one.id for one, outcome in zip(many, outcomes, strict=True) if isinstance(outcome, Stored)}
        assert 0 < len(there) < len(many)


def test_a_page_that_comes_again_and_again_ends(fake, tmp_path):
    sink = over(fake, tmp_path)
    loop = {"result": {"points": [{"id": 1, "payload": {}}], "next_page_offset": 1}, "status": "ok"}
    fake.faults.append(Fault(200, loop, times=50, path="scroll"))
    with pytest.raises(SinkError, match="again and again"):
        sink.present()


@pytest.mark.parametrize("body", [{"status": "ok"}, {"result": None}, {"result": {"points": "x"}}, [], "ok"])
def test_a_list_that_is_none_is_an_error_and_not_an_empty_place(fake, tmp_path, body):
    sink = over(fake, tmp_path)
    fake.faults.append(Fault(200, body, times=9, path="scroll"))
    with pytest.raises(SinkError) as caught:
        sink.present()
    assert caught.value.trouble is Trouble.UNREACHABLE


def test_the_key_is_proven_though_the_first_page_is_open_to_all(fake, tmp_path):
    right, wrong, none = (Qdrant(settings(tmp_path, url=fake.url, key=key)) for key in (KEY, "wrong", None))
    assert fake.version in right.test() and "not there yet" in right.test()
    for sink in (wrong, none):
        with pytest.raises(SinkError) as caught:
            sink.test()
        assert caught.value.trouble is Trouble.AUTH
        assert caught.value.hint == "set QDRANT_API_KEY, then: replica sinks test memory"


def test_two_clones_may_prepare_at_once(fake, tmp_path):
    """Both see no collection; the slower one gets a 409, and goes on."""
    fake.faults.append(Fault(404, {"status": {"error": "Not found"}}, path="GET /collections/memory$"))
    over(fake, tmp_path / "one")
    fake.faults.append(Fault(404, {"status": {"error": "Not found"}}, path="GET /collections/memory$"))
    stored(over(fake, tmp_path / "two"), item("a"))
    assert len(fake.collections["memory"].points) == 1


def test_several_threads_may_store(fake, tmp_path):
    sink = over(fake, tmp_path)
    batches = [[item(f"{thread} {n}") for n in range(20)] for thread in range(sink.parallel)]
    threads = [threading.Thread(target=stored, args=(sink, *batch)) for batch in batches]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sink.present() == {str(one.id) for batch in batches for one in batch}


# --- embedded


def test_it_needs_no_setting_at_all_and_is_below_the_clones_folder(tmp_path, embedded):
    stored(embedded, item("a"))
    assert (tmp_path / ".replica" / "qdrant" / f"memory-{DIMENSION}" / "segments").is_dir()
    assert "1 items" in embedded.test() and str(tmp_path) in embedded.layers()[0].where


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", "x" * 200])
def test_the_name_of_a_collection_leads_out_of_no_folder(tmp_path, name):
    if name == "":
        assert Qdrant(settings(tmp_path, collection=name)).layers()
        return
    with pytest.raises(SinkError, match="is no name"):
        Qdrant(settings(tmp_path, collection=name))


def test_a_folder_with_something_else_is_not_touched(tmp_path):
    pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    sink = Qdrant(settings(tmp_path, path="mine"))
    with pytest.raises(SinkError, match="no collection") as caught:
        sink.prepare()
    sink.close()
    assert caught.value.trouble is Trouble.CONFLICT
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_empty_folder_and_a_half_made_one_are_no_hindrance(tmp_path):
    pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.making" / "segments").mkdir(parents=True)
    sink = Qdrant(settings(tmp_path, path="mine"))
    sink.prepare()
    stored(sink, item("a"))
    sink.close()
    assert not (tmp_path / "mine.making").exists()


def test_a_damaged_folder_is_told_with_the_way_out(tmp_path, embedded):
    stored(embedded, item("a"))
    embedded.close()
    (tmp_path / ".replica" / "qdrant" / f"memory-{DIMENSION}" / "edge_config.json").write_text("{")
    with pytest.raises(SinkError) as caught:
        embedded.present()
    assert caught.value.trouble is Trouble.UNREACHABLE and "move that folder away" in caught.value.hint


def test_a_full_disk_is_refused_before_the_engine_dies_of_it(embedded, monkeypatch):
    """It writes by memory maps: where no room is left, the system would end this process."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1_000_000))
    with pytest.raises(SinkError, match="are free on the disk") as caught:
        embedded.store(outgoing(embedded, item("a")))
    assert caught.value.trouble is Trouble.UNREACHABLE
    monkeypatch.undo()
    stored(embedded, item("a"))


def test_a_batch_is_flushed_before_it_is_acknowledged(embedded):
    """A kill would not show it: what is only in memory maps outlives the process, but no power cut."""
    shard, calls = embedded._engine._shard, []

    class Watched:
        def __getattr__(self, name):
            calls.append(name)
            return getattr(shard, name)

    embedded._engine._shard = Watched()
    remote = stored(embedded, item("a"))
    embedded.delete([Known(id, there) for id, there in remote.items()])
    assert calls == ["retrieve", "update", "flush", "update", "flush"]


def test_without_the_engine_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_edge", None)
    with pytest.raises(SinkError, match="not installed") as caught:
        Qdrant(settings(tmp_path)).prepare()
    assert "pip install qdrant-edge-py" in caught.value.hint


WRITER = """
import sys
from pathlib import Path
from replica.cloud.base import Settings
from replica.cloud.sinks.qdrant import Qdrant
from tests.cloud.acceptance import item, outgoing, WORKSPACE
root = Path(sys.argv[1])
sink = Qdrant(Settings("memory", {"collection": "memory"}, root, root / ".replica", WORKSPACE, "team", None, 8, "hash"))
print("begun", flush=True)
sink.prepare()
turn, size = int(sys.argv[2]), int(sys.argv[3])
for batch in range(10_000):
    items = [item(f"{turn} {batch} {n}") for n in range(size)]
    # One that is there from the first turn on is written again by each batch.
    items.append(item("same", f"{turn} {batch}", revision=turn * 10_000 + batch + 1))
    sink.store(outgoing(sink, *items))
    print(batch, flush=True)
"""


class Writer:
    """A process that stores batch after batch, and says of each that it is acknowledged."""

    def __init__(self, folder: Path, turn: int, size: int):
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(turn), str(size)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def wait_for(self, line: str, seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while line not in self.lines:
            assert time.monotonic() < until and self._process.poll() is None, self._process.stderr.read()
            time.sleep(0.001)

    def kill(self) -> int:
        """With -9. How many batches it had acknowledged."""
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        self._process.stdout.close(), self._process.stderr.close()
        return sum(line.isdecimal() for line in self.lines)


def test_what_was_acknowledged_is_there_after_a_kill_at_any_point(tmp_path):
    """While the folder is made, within a batch, and within a flush: the delays step through all of them."""
    pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    size, expected, same = 40, set(), None
    for turn, (line, delay) in enumerate(
        [("begun", 0.0), ("begun", 0.02), ("begun", 0.06), ("0", 0.004), ("1", 0.011), ("2", 0.023), ("0", 0.037),
         ("3", 0.001)]
    ):  # fmt: skip
        writer = Writer(tmp_path, turn, size)
        writer.wait_for(line)
        time.sleep(delay)
        batches = writer.kill()
        expected |= {str(item(f"{turn} {batch} {n}").id) for batch in range(batches) for n in range(size)}
        sink = Qdrant(settings(tmp_path))
        sink.prepare()
        found = {one.remote_id: one for one in sink.changes(None)}
        sink.close()
        assert expected <= found.keys(), f"lost {len(expected - found.keys())} after turn {turn}"
        if batches:
            same = turn * 10_000 + batches
        if same:
            now = found[str(item("same").id)]
            assert now.revision >= same and now.text.startswith(f"{(now.revision - 1) // 10_000} ")
    assert len(expected) > size


def test_a_second_process_is_told_that_it_is_busy_and_gets_it_when_the_first_is_dead(tmp_path):
    pytest.importorskip("qdrant_edge", reason="the embedded engine is not installed: qdrant-edge-py")
    writer = Writer(tmp_path, 0, 1)
    sink = Qdrant(settings(tmp_path))
    try:
        writer.wait_for("0")
        for work in (sink.prepare, sink.present, lambda: sink.store(outgoing(sink, item("a")))):
            with pytest.raises(SinkError, match="busy") as caught:
                work()
            assert caught.value.trouble is Trouble.THROTTLE and "try again" in caught.value.hint
    finally:
        writer.kill()
    sink.prepare()
    stored(sink, item("a"))
    sink.close()
