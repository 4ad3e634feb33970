"""The sink `mem0-server`, on a local server that speaks for Mem0's own."""

from pathlib import Path
from uuid import UUID

import pytest

from replica.cloud.base import Capacity, Known, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks import mem0_server
from replica.cloud.sinks.mem0_server import Mem0Server
from replica.errors import UsageError
from tests.cloud.acceptance import WORKSPACE, Contract, Faulty, Place, ReadBack, item, known_of, outgoing, stored
from tests.cloud.fakes.mem0_server import FakeMem0Server
from tests.cloud.fakes.server import Fault


@pytest.fixture
def fake():
    with FakeMem0Server() as fake:
        yield fake


def sink_of(fake: FakeMem0Server, **values) -> Mem0Server:
    values = {"url": fake.url, **values}
    return Mem0Server(
        Settings("server", values, Path("."), Path(".replica"), WORKSPACE, "team", fake.key, timeout=5.0)
    )  # fmt: skip


@pytest.fixture
def sink(fake):
    sink = sink_of(fake)
    yield sink
    sink.close()


def texts_of(fake: FakeMem0Server) -> dict[UUID, str]:
    ours = [row for row in fake.rows.values() if row.get("replica_id")]
    assert len({row["replica_id"] for row in ours}) == len(ours), "an item is there twice"
    return {UUID(row["replica_id"]): row["data"] for row in ours}


class TestMem0Server(Contract, ReadBack, Faulty):
    @pytest.fixture
    def place(self, fake):
        return Place(
            lambda: sink_of(fake), lambda: texts_of(fake), lambda text: fake.put(text, user_id="team-continuity"),
            fake.edit, lambda id: fake.rows.pop(id), fake, writes="POST /memories$",
        )  # fmt: skip


class TestMem0ServerWithoutAKey(Contract):
    @pytest.fixture
    def place(self):
        with FakeMem0Server(key=None) as fake:
            yield Place(lambda: sink_of(fake), lambda: texts_of(fake), fake=fake)


def fill(fake, count: int, user: str) -> None:
    for n in range(count):
        fake.put(f"noise {n}", user_id=user)


def test_the_path_has_no_slash_at_its_end_and_no_model_rewrites(fake, sink):
    stored(sink, item("a"))
    assert not [request.path for request in fake.requests if request.path.endswith("/")]
    assert [request.body["infer"] for request in fake.asked("POST /memories")] == [False]


def test_two_items_of_one_text_are_two_memories(fake, sink):
    one, twin = item("a", "- the same"), item("b", "- the same")
    remote = stored(sink, one, twin)
    sink.delete([Known(one.id, remote[one.id])])
    assert texts_of(fake) == {twin.id: "- the same"}


def test_a_memory_has_the_time_of_its_item(fake, sink):
    remote = stored(sink, item("a"))
    assert fake.rows[remote[item("a").id]]["created_at"] == "2025-10-09T08:53:20Z"
    assert [found.updated for found in sink.changes(None)] == [1_760_000_000_000]


def test_what_is_dated_back_is_told_as_a_change_all_the_same(fake, sink):
    stored(sink, item("a"))
    theirs = fake.put("imported", {"created_at": "2020-01-01T00:00:00+00:00"}, user_id="team-decisions")
    assert theirs in {found.remote_id for found in sink.changes(1_790_000_000_000)}


def test_metadata_that_is_merged_keeps_nothing_old_of_ours(fake, sink):
    scopes = {"*": "{project}-all", "note": "all"}
    sink = sink_of(fake, scopes=scopes)
    one = item("a", type="note", namespace="acme", tags=("x",))
    remote = stored(sink, one)
    stored(sink, item("a", type="note", revision=2, tags=()), remote=remote)
    row = fake.rows[remote[one.id]]
    assert (row["namespace"], row["tags"], row["rev"]) == ("", "", 2)


def test_another_type_moves_the_memory_and_leaves_no_second(fake, sink):
    remote = stored(sink, item("a"))
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    assert [row["user_id"] for row in fake.rows.values()] == ["team-decisions"] and moved != remote


def test_what_another_clone_has_moved_to_another_scope_is_not_read_as_gone(fake, sink):
    """It has a new id there, which this clone's ledger does not know."""
    remote = stored(sink, item("a"), item("b"))
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    found = sink.read(known_of(remote))
    assert {id: one.remote_id for id, one in found.items()} == {**remote, **moved}


def test_what_has_another_item_s_id_is_not_read_as_ours(fake, sink):
    remote = stored(sink, item("a"))[item("a").id]
    assert sink.read([Known(item("b").id, remote)]) == {}


def test_what_is_all_there_is_read_without_a_list(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fill(fake, 1200, "team-agents")
    fake.requests.clear()
    assert set(sink.read(known_of(remote))) == set(remote)
    assert [request.method for request in fake.requests] == ["GET", "GET"] and not fake.asked("GET /memories$")


@pytest.mark.parametrize("at", ["POST /memories", "DELETE /memories"])
@pytest.mark.parametrize("after", [False, True])
def test_a_move_that_is_cut_short_is_ended_by_the_next_run(fake, sink, at, after):
    remote = stored(sink, item("a"))
    changed = item("a", type="decision", revision=2)
    fake.faults.append(Fault(reset=True, path=at, after=after))
    with pytest.raises(SinkError):
        stored(sink, changed, remote=remote)
    assert fake.rows, "never is it nowhere"
    moved = stored(sink, changed, remote=remote)
    assert {id: row["user_id"] for id, row in fake.rows.items()} == {moved[changed.id]: "team-decisions"}


def test_deleting_the_old_id_of_what_has_moved_leaves_the_new_one(fake, sink):
    remote = stored(sink, item("a"))
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    sink.delete([Known(item("a").id, remote[item("a").id])])
    assert list(fake.rows) == list(moved.values())


def test_what_was_taken_away_there_is_gone(fake, sink):
    remote = stored(sink, item("a"))
    fake.rows.clear()
    (outcome,) = sink.store(outgoing(sink, item("a", revision=2), remote=remote))
    assert outcome.trouble is Trouble.GONE and fake.rows == {}
    (outcome,) = sink.store(outgoing(sink, item("a"), remote={item("a").id: "no uuid"}))
    assert outcome.trouble is Trouble.GONE  # and not the 502 that the server makes of it


def test_a_namespace_has_scopes_of_its_own_that_are_read_back(fake, sink):
    remote = stored(sink, item("a", namespace="acme"), item("b"))
    theirs = fake.put("of the brand", user_id="acme-agents")
    fake.put("another team's", user_id="rivals-agents")
    assert sink.present() == {*remote.values(), theirs}


def test_an_app_id_is_refused_for_the_server_knows_none(fake):
    with pytest.raises(UsageError, match="app_id"):
        sink_of(fake, scopes={"*": {"app_id": "x"}})


# --- lists that end


def test_a_scope_of_more_than_a_list_holds_is_an_error_and_not_a_part(fake, sink):
    fill(fake, 1001, "team-agents")
    for work in (sink.present, lambda: list(sink.changes(None))):
        with pytest.raises(SinkError, match="at most 1,000") as found:
            work()
        assert found.value.trouble is Trouble.TOO_BIG and "{document}" in found.value.hint


def test_a_scope_of_just_what_a_list_holds_is_whole(fake, sink):
    fill(fake, 1000, "team-agents")
    assert len(sink.present()) == 1000


def test_our_own_are_found_in_a_scope_that_is_too_long(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fill(fake, 1001, "team-agents")
    assert sink.find([item("a").id, item("b").id, item("never").id]) == remote
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    sink.delete([Known(item("a").id, moved[item("a").id]), Known(item("b").id, remote[item("b").id])])
    assert texts_of(fake) == {}


def test_an_older_server_that_ends_its_lists_early_is_noticed(fake, sink, monkeypatch):
    monkeypatch.setattr(fake, "listed", lambda scope, top_k=20: FakeMem0Server.listed(fake, scope, min(top_k, 100)))
    fill(fake, 150, "team-agents")
    with pytest.raises(SinkError, match="cannot be read whole"):
        sink.present()


def test_a_server_without_entities_can_be_written_and_read(fake, sink):
    fake.old = True
    remote = stored(sink, item("a"), item("b"))
    assert sink.present() == set(remote.values()) and sink.capacity() == Capacity()


def test_a_server_without_entities_may_have_ended_its_list(fake, sink):
    fake.old = True
    fill(fake, 150, "team-agents")
    with pytest.raises(SinkError, match="at most 100 memories"):
        sink.present()


def test_a_server_with_more_than_it_looks_at_does_not_pass_for_read(fake, sink, monkeypatch):
    monkeypatch.setattr(mem0_server, "SCANNED", 50)
    fake.scanned = 50
    remote = stored(sink, item("a"))
    fill(fake, 60, "somebody")
    with pytest.raises(SinkError, match="some may be missing"):
        sink.present()
    fill(fake, 1001, "team-agents")
    assert sink.find([item("a").id]) == remote and sink.capacity() == Capacity()


# --- its ways to fail


@pytest.mark.parametrize(
    ("code", "trouble"),
    [("provider_rate_limited", Trouble.THROTTLE), ("provider_auth_failed", Trouble.AUTH),
     ("provider_bad_request", Trouble.BAD_ITEM), ("provider_timeout", Trouble.UNREACHABLE),
     ("datastore_unavailable", Trouble.UNREACHABLE), ("unknown", Trouble.UNREACHABLE), (None, Trouble.UNREACHABLE)],
)  # fmt: skip
def test_a_502_is_what_is_behind_it(fake, sink, code, trouble):
    body = {"detail": "the provider said no", "request_id": "r"} | ({"code": code} if code else {})
    fake.faults.append(Fault(502, body, {"Retry-After": "11"}, path="POST /memories"))
    try:
        (found,) = sink.store(outgoing(sink, item("a")))
    except SinkError as error:
        found = error
    assert found.trouble is trouble and "the provider said no" in str(found) and found.hint
    assert trouble is not Trouble.THROTTLE or found.retry_after == 11


def test_an_addition_without_an_id_is_no_success(fake, sink):
    fake.faults.append(Fault(200, {"results": []}, path="POST /memories"))
    with pytest.raises(SinkError, match="without an id"):
        sink.store(outgoing(sink, item("a")))


def test_a_bad_key_is_said_with_the_way_out(fake):
    sink = sink_of(fake)
    fake.key = "another"
    with pytest.raises(SinkError) as found:
        sink.test()
    assert found.value.hint == "set MEM0_SERVER_API_KEY, then: replica sinks test server"


def test_a_failure_half_way_keeps_what_was_stored(fake, sink):
    fake.faults += [
        Fault(slow=0.001, times=2, path="POST /memories"),
        Fault(502, {"code": "provider_rate_limited"}, times=9, path="POST /memories"),
    ]
    outcomes = sink.store(outgoing(sink, *(item(str(n)) for n in range(4))))
    assert [isinstance(one, Stored) for one in outcomes] == [True, True, False, False]
