"""The sink `mem0`, on a local server that speaks for the platform."""

from uuid import UUID

import pytest

from replica.cloud.base import Known, Outgoing, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks.mem0 import Mem0
from replica.cloud.sinks.mem0_scopes import Scopes
from replica.errors import UsageError
from tests.cloud.acceptance import WORKSPACE, Contract, Faulty, Place, ReadBack, item, known_of, outgoing, stored
from tests.cloud.fakes.mem0 import FakeMem0
from tests.cloud.fakes.server import Fault

AGENTS = "team-agents"  # where lessons go


@pytest.fixture
def fake():
    with FakeMem0() as fake:
        yield fake


def settings(url: str, key: str | None = "test-key", **values) -> Settings:
    from pathlib import Path

    return Settings("mem0", {"url": url, **values}, Path("."), Path(".replica"), WORKSPACE, "team", key, timeout=5.0)


def sink_of(fake: FakeMem0, **values) -> Mem0:
    sink = Mem0(settings(fake.url, **values))
    sink.polls = (0.0, 0.0, 0.0)
    return sink


def texts_of(fake: FakeMem0) -> dict[UUID, str]:
    return {UUID(row["metadata"]["replica_id"]): row["memory"] for row in fake.rows.values() if row["metadata"]}


@pytest.fixture
def sink(fake):
    sink = sink_of(fake)
    yield sink
    sink.close()


class TestMem0(Contract, ReadBack, Faulty):
    @pytest.fixture
    def place(self, fake):
        return Place(
            lambda: sink_of(fake), lambda: texts_of(fake), lambda text: fake.put(text, user_id="team-continuity"),
            fake.edit, fake.take, fake, writes="POST /v3/memories/add/",
        )  # fmt: skip


def scope_of(fake, id):
    return {name: fake.rows[id][name] for name in ("user_id", "agent_id", "app_id", "run_id") if fake.rows[id][name]}


# --- scopes


def test_each_type_goes_to_its_scope(fake, sink):
    types = {
        "note": "team-continuity", "session-summary": "team-continuity", "something-new": "team-continuity",
        "decision": "team-decisions", "pattern": AGENTS, "performance-insight": AGENTS, "guideline": "best-practices",
    }  # fmt: skip
    remote = stored(sink, *(item(type, type=type) for type in types))
    assert {type: scope_of(fake, remote[item(type).id]) for type in types} == {
        type: {"user_id": user} for type, user in types.items()
    }


def test_scopes_can_be_set_with_tables_and_places(fake):
    scopes = {
        "decision": {"user_id": "{project}", "agent_id": "arch", "run_id": "{document}"},
        "*": "{project}/{namespace}",
    }
    sink = sink_of(fake, scopes=scopes)
    remote = stored(
        sink, item("a", type="decision", document="my notes.md"), item("b"), item("c", namespace="acme"),
        item("d", namespace="acme", type="decision"),
    )  # fmt: skip
    got = [scope_of(fake, remote[item(name).id]) for name in "abcd"]
    assert got == [
        {"user_id": "team", "agent_id": "arch", "run_id": "my-notes.md"},
        {"user_id": "team/default"},
        {"user_id": "team/acme"},
        {"user_id": "acme", "agent_id": "arch", "run_id": "lessons-buffer.md"},
    ]
    assert sink.present() == set(remote.values())
    assert {found.item for found in sink.changes(None)} == {item(name).id for name in "abcd"}


@pytest.mark.parametrize(
    "scopes",
    [{"*": "{brand}-x"}, {"*": ""}, {"*": "*"}, {"*": 7}, {"*": {}}, {"note": {"user": "x"}}, {"*": "{project"}],
)
def test_a_wrong_scope_is_refused_before_anything_is_sent(scopes):
    with pytest.raises(UsageError, match="scopes:") as found:
        Scopes(scopes, "team")
    assert found.value.hint


def test_a_namespace_takes_the_place_of_the_project_and_is_read_back(fake, sink):
    remote = stored(sink, item("a", namespace="acme"), item("b"))
    assert scope_of(fake, remote[item("a").id]) == {"user_id": "acme-agents"}
    theirs = fake.put("somebody else's of the brand", user_id="acme-agents")
    assert sink.present() == {*remote.values(), theirs}
    now = max(found.updated for found in sink.changes(None))
    assert theirs in {found.remote_id for found in sink.changes(now)}


def test_a_scope_that_only_looks_like_ours_is_not_read(fake, sink):
    stored(sink, item("a"))
    fake.put("another team's", user_id="rivals-decisions")
    fake.put(
        "another team's, by a replica", {"origin": "cd" * 16, "replica_id": str(item("z").id)}, user_id="rivals-agents"
    )
    assert [found.item for found in sink.changes(None)] == [item("a").id]


def test_another_type_moves_the_memory_to_its_scope_and_leaves_no_second(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    assert len(fake.rows) == 2 and scope_of(fake, moved[item("a").id]) == {"user_id": "team-decisions"}
    assert sink.find([item("a").id]) == moved


def test_what_another_clone_has_moved_to_another_scope_is_not_read_as_gone(fake, sink):
    """It has a new id there, which this clone's ledger does not know."""
    remote = stored(sink, item("a"), item("b"))
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    found = sink.read(known_of(remote))
    assert {id: one.remote_id for id, one in found.items()} == {**remote, **moved}


def test_what_has_another_item_s_id_is_not_read_as_ours(fake, sink):
    remote = stored(sink, item("a"))[item("a").id]
    assert sink.read([Known(item("b").id, remote)]) == {}


def test_what_a_late_list_lacks_is_read_by_itself_and_is_not_gone(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fake.rows[remote[item("b").id]]["merged_into"] = "x"
    fake.faults.append(Fault(200, {"count": 0, "next": None, "results": []}, path="POST /v3/memories/$"))
    assert set(sink.read(known_of(remote))) == set(remote)


@pytest.mark.parametrize("at", ["POST /v3/memories/add/", "DELETE /v1/memories/"])
@pytest.mark.parametrize("after", [False, True])
def test_a_move_that_is_cut_short_is_ended_by_the_next_run(fake, sink, at, after):
    remote = stored(sink, item("a"))
    changed = item("a", type="decision", revision=2)
    fake.faults.append(Fault(reset=True, path=at, after=after))
    with pytest.raises(SinkError):
        stored(sink, changed, remote=remote)
    assert fake.rows, "never is it nowhere"
    moved = stored(sink, changed, remote=remote)
    assert {id: scope_of(fake, id) for id in fake.rows} == {moved[changed.id]: {"user_id": "team-decisions"}}


def test_a_move_that_is_cut_short_is_ended_with_the_ledger_lost(fake, sink):
    remote = stored(sink, item("a"))
    changed = item("a", type="decision", revision=2)
    fake.faults.append(Fault(500, path="DELETE /v1/memories/"))
    with pytest.raises(SinkError):
        stored(sink, changed, remote=remote)
    assert len(fake.rows) == 2
    assert sink.find([changed.id]) == remote  # the older: storing to it ends the move
    stored(sink, changed, remote=sink.find([changed.id]))
    assert [row["user_id"] for row in fake.rows.values()] == ["team-decisions"]


def test_deleting_the_old_id_of_what_has_moved_leaves_the_new_one(fake, sink):
    """The export says so where a remote id has changed."""
    remote = stored(sink, item("a"))
    moved = stored(sink, item("a", type="decision", revision=2), remote=remote)
    sink.delete([Known(item("a").id, remote[item("a").id])])
    assert list(fake.rows) == list(moved.values())


def test_deleting_one_of_two_copies_leaves_the_other(fake, sink):
    remote = stored(sink, item("a"))
    fake.faults.append(Fault(500, path="DELETE /v1/memories/"))
    with pytest.raises(SinkError):
        stored(sink, item("a", type="decision", revision=2), remote=remote)
    sink.delete([Known(item("a").id, remote[item("a").id])])
    assert [row["user_id"] for row in fake.rows.values()] == ["team-decisions"]


def test_many_items_are_looked_for_in_few_calls(fake, sink):
    many = [item(str(n)) for n in range(300)]
    before = len(fake.requests)
    assert sink.find([one.id for one in many]) == {}  # the first export
    assert len(fake.requests) - before == 2
    remote = {}
    for at in range(0, 300, 50):
        remote.update(stored(sink, *many[at : at + 50]))
    before = len(fake.requests)
    assert sink.find([one.id for one in many]) == remote
    assert len(fake.requests) - before == 3
    for n in range(600):
        fake.put(f"more {n}", {"origin": WORKSPACE, "replica_id": str(item(f"more {n}").id)}, user_id=AGENTS)
    before = len(fake.requests)
    assert set(sink.find([one.id for one in many[:60]])) == {one.id for one in many[:60]}
    assert len(fake.requests) - before == 3  # a count, and two lists by id


# --- words, twins, queues


def test_it_is_stored_word_for_word_and_never_by_a_model(fake, sink):
    stored(sink, item("a"))
    assert [request.body["infer"] for request in fake.asked("POST /v3/memories/add/")] == [False]
    assert fake.asked("POST /v3/memories/add/")[0].body["messages"][0]["role"] == "user"


@pytest.mark.parametrize("on_twin", ["empty", "none", "list"])
def test_an_item_that_is_there_already_is_found_and_brought_up_to_date(fake, sink, on_twin):
    fake.on_twin = on_twin
    remote = stored(sink, item("a"))
    assert stored(sink, item("a", revision=5, tags=("new",))) == remote
    (row,) = fake.rows.values()
    assert (row["metadata"]["rev"], row["metadata"]["tags"]) == (5, "new")


@pytest.mark.parametrize("on_twin", ["empty", "none", "list"])
def test_two_items_of_one_text_never_share_a_memory(fake, sink, on_twin):
    fake.on_twin = on_twin
    one, twin = item("a", "- the same"), item("b", "- the same", document="other.md")
    first, second = sink.store(outgoing(sink, one, twin))
    assert isinstance(first, Stored) and second.trouble is Trouble.BAD_ITEM
    assert "lessons-buffer.md" in str(second) and "{document}" in second.hint
    sink.delete([Known(twin.id, first.remote_id)])  # a ledger that is wrong about it
    assert texts_of(fake) == {one.id: "- the same"}


def test_documents_with_scopes_of_their_own_may_hold_one_text(fake):
    sink = sink_of(fake, scopes={"*": "{project}-{document}"})
    one, twin = item("a", "- the same", document="one.md"), item("b", "- the same", document="other.md")
    remote = stored(sink, one, twin)
    assert len(set(remote.values())) == 2 and sink.present() == set(remote.values())


def test_a_text_of_somebody_else_is_a_conflict_that_a_pull_settles(fake, sink):
    fake.put("- the lesson of a", user_id=AGENTS)
    (outcome,) = sink.store(outgoing(sink, item("a")))
    assert outcome.trouble is Trouble.CONFLICT and "replica pull" in outcome.hint
    theirs = next(iter(fake.rows))
    adopted = stored(sink, item("a"), remote={item("a").id: theirs})  # matched by its text
    assert adopted == {item("a").id: theirs} and texts_of(fake) == {item("a").id: "- the lesson of a"}


def test_a_remote_id_that_is_another_items_is_not_written_over(fake, sink):
    remote = stored(sink, item("a"))[item("a").id]
    (outcome,) = sink.store([Outgoing(item("b"), remote)])
    assert outcome.trouble is Trouble.GONE and texts_of(fake) == {item("a").id: item("a").text}


def test_a_memory_of_another_workspace_that_says_our_id_is_not_ours(fake, sink):
    liar = fake.put("not ours", {"replica_id": str(item("a").id), "origin": "cd" * 16}, user_id=AGENTS)
    assert sink.find([item("a").id]) == {}
    sink.delete([Known(item("a").id, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")])
    assert list(fake.rows) == [liar]


def test_what_was_taken_away_there_is_gone_and_not_made_again(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fake.take(remote[item("a").id])
    gone, kept = sink.store(outgoing(sink, item("a", "- new", revision=2), item("b", revision=2), remote=remote))
    assert gone.trouble is Trouble.GONE and isinstance(kept, Stored) and len(fake.rows) == 1


def test_an_addition_that_is_queued_is_waited_for(fake, sink):
    fake.queued = 2
    remote = stored(sink, item("a"))
    assert list(remote.values()) == list(fake.rows)


def test_an_addition_that_stays_queued_is_tried_later_and_not_doubled(fake, sink):
    fake.queued = 99
    with pytest.raises(SinkError, match="not stored it yet") as found:
        sink.store(outgoing(sink, item("a")))
    assert found.value.trouble is Trouble.THROTTLE and found.value.retry_after == 30
    fake.queued = 0
    stored(sink, item("a"), remote=sink.find([item("a").id]))
    assert len(fake.rows) == 1


# --- its ways to fail


@pytest.mark.parametrize("body", [{"error": "out of order"}, {"status": "FAILED", "error": "no model", "results": []}])
def test_a_200_with_an_error_is_an_error(fake, sink, body):
    fake.faults.append(Fault(200, body, path="POST /v3/memories/add/"))
    with pytest.raises(SinkError, match=r"and yet failed: (out of order|no model)") as found:
        sink.store(outgoing(sink, item("a")))
    assert found.value.trouble is Trouble.UNREACHABLE


def test_one_403_may_mean_too_many_attempts_and_two_do_not(fake, sink):
    fake.faults.append(Fault(403, {"detail": "Forbidden"}, times=2, path="POST /v3/memories/add/"))
    troubles = []
    for sink.patience in (5.0, 0.0):  # the second is long after the first
        with pytest.raises(SinkError) as found:
            sink.store(outgoing(sink, item("a")))
        troubles.append((found.value.trouble, found.value.retry_after))
    assert troubles == [(Trouble.THROTTLE, 60.0), (Trouble.AUTH, None)]
    assert "MEM0_API_KEY" in found.value.hint


def test_many_403_at_once_are_one(fake, sink):
    fake.faults.append(Fault(403, {"detail": "Forbidden"}, times=4, path="POST /v3/memories/add/"))
    for _ in range(4):
        with pytest.raises(SinkError) as found:
            sink.store(outgoing(sink, item("a")))
        assert found.value.trouble is Trouble.THROTTLE
    stored(sink, item("a"))


def test_a_403_in_so_many_words_is_a_throttle_each_time(fake, sink):
    fake.faults.append(Fault(403, {"detail": "Too many attempts"}, {"Retry-After": "9"}, times=3, path="add|ping"))
    for _ in range(2):
        with pytest.raises(SinkError) as found:
            sink.store(outgoing(sink, item("a")))
        assert found.value.trouble is Trouble.THROTTLE
    with pytest.raises(SinkError) as found:
        sink.test()
    assert found.value.trouble is Trouble.THROTTLE


def test_a_bad_key_is_said_at_once_with_the_way_out(fake):
    for sink in (Mem0(settings(fake.url, key="wrong")), Mem0(settings(fake.url, key=None))):
        with pytest.raises(SinkError) as found:
            sink.test()
        assert found.value.trouble is Trouble.AUTH
        assert found.value.hint == "set MEM0_API_KEY, then: replica sinks test mem0"


def test_a_failure_half_way_keeps_what_was_stored(fake, sink):
    fake.faults.append(Fault(429, {"error": "slow"}, {"Retry-After": "3"}, times=9, path="POST /v3/memories/add/"))
    fake.faults.insert(0, Fault(slow=0.001, times=2, path="POST /v3/memories/add/"))
    outcomes = sink.store(outgoing(sink, *(item(str(n)) for n in range(5))))
    assert [isinstance(one, Stored) for one in outcomes] == [True, True, False, False, False]
    assert {one.trouble for one in outcomes[2:]} == {Trouble.THROTTLE} and outcomes[4].retry_after == 3
    assert len(fake.asked("POST /v3/memories/add/")) == 3  # the rest would have failed alike


def test_an_item_that_is_refused_does_not_stop_the_others(fake, sink):
    fake.faults.append(Fault(400, {"error": "no"}, path="POST /v3/memories/add/"))
    bad, good = sink.store(outgoing(sink, item("a"), item("b")))
    assert bad.trouble is Trouble.BAD_ITEM and isinstance(good, Stored)


# --- many at once


def test_many_updates_go_in_one_call_and_are_looked_at(fake, sink):
    many = [item(str(n)) for n in range(40)]
    remote = stored(sink, *many)
    before = len(fake.requests)
    assert stored(sink, *(item(str(n), f"- new {n}", revision=2) for n in range(40)), remote=remote) == remote
    assert len(fake.requests) - before <= 3 and len(fake.asked("PUT /v1/batch/")) == 1
    assert texts_of(fake)[item("7").id] == "- new 7"


def test_many_deletes_go_in_one_call_and_are_looked_at(fake, sink):
    remote = stored(sink, *(item(str(n)) for n in range(40)))
    known = [Known(id, there) for id, there in remote.items()]
    fake.faults.append(Fault(200, {"message": "Successfully handled 40 memories"}, path="DELETE /v1/batch/"))
    sink.delete(known[:20])
    assert len(fake.rows) == 20 and len(fake.asked("DELETE /v1/memories/")) == 20  # the batch was not carried out
    sink.delete(known[20:])
    assert fake.rows == {} and len(fake.asked("DELETE /v1/memories/")) == 20


def test_an_update_that_the_batch_swallowed_is_sent_by_itself(fake, sink):
    many = [item(str(n)) for n in range(30)]
    remote = stored(sink, *many)
    fake.faults.append(Fault(200, {"message": "Successfully handled 30 memories"}, path="PUT /v1/batch/"))
    stored(sink, *(item(str(n), f"- new {n}", revision=2) for n in range(30)), remote=remote)
    assert len(fake.asked("PUT /v1/memories/")) == 30 and texts_of(fake)[item("7").id] == "- new 7"


def test_one_that_is_gone_does_not_stop_a_batch_of_updates_or_deletes(fake, sink):
    many = [item(str(n)) for n in range(30)]
    remote = stored(sink, *many)
    fake.take(remote[item("3").id])
    outcomes = sink.store(outgoing(sink, *(item(str(n), revision=2) for n in range(30)), remote=remote))
    assert [at for at, one in enumerate(outcomes) if not isinstance(one, Stored)] == [3]
    assert all(isinstance(one, Stored) for one in sink.delete([Known(id, there) for id, there in remote.items()]))
    assert fake.rows == {}


def test_metadata_is_whole_whether_the_service_merges_or_replaces_it(fake, sink):
    remote = stored(sink, item("a"))
    for fake.merges in (False, True):
        stored(sink, item("a", revision=3, tags=()), remote=remote)
        (row,) = fake.rows.values()
        assert (row["metadata"]["rev"], row["metadata"]["tags"], row["metadata"]["origin"]) == (3, "", WORKSPACE)


# --- pulling


def test_only_what_changed_since_is_asked_for(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    last = max(found.updated for found in sink.changes(None))
    fake.edit(remote[item("b").id], "edited there")
    assert [found.text for found in sink.changes(last + 1000)] == ["edited there"]


def test_what_was_deleted_there_is_told_by_the_feed_of_many_pages(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    for n in range(120):
        fake.put(f"noise {n}", user_id="somebody")
    start = max(found.updated for found in sink.changes(None))
    fake.take(remote[item("a").id])
    deleted = [found for found in sink.changes(start) if found.deleted]
    assert [(found.remote_id, found.item, found.text) for found in deleted] == [
        (remote[item("a").id], item("a").id, ""),
    ]
    assert not any(found.deleted for found in sink.changes(None))


def test_a_list_that_is_cut_short_is_an_error_and_not_a_deletion(fake, sink):
    remote = stored(sink, *(item(str(n)) for n in range(5)))
    fake.hidden.add(remote[item("2").id])
    with pytest.raises(SinkError, match="list is not complete") as found:
        sink.present()
    assert found.value.trouble is Trouble.UNREACHABLE


def test_what_a_list_hides_is_asked_for_before_it_is_called_gone(fake, sink):
    remote = stored(sink, item("a"))
    page = {"count": 0, "next": None, "results": []}
    fake.faults.append(Fault(200, page, times=2, path="POST /v3/memories/$"))
    assert stored(sink, item("a", "- new", revision=2), remote=remote) == remote


def test_merged_and_expired_memories_are_still_there_and_made_up_ones_are_not_pulled(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fake.rows[remote[item("a").id]]["merged_into"] = "x"
    fake.rows[remote[item("b").id]]["expiration_date"] = "2026-01-01"
    made_up = fake.put("a summary by the service", user_id=AGENTS)
    fake.rows[made_up]["synthesized"] = True
    assert sink.present() == {*remote.values(), made_up}
    assert {found.remote_id for found in sink.changes(None)} == set(remote.values())


def test_entities_may_come_as_a_bare_list(fake, sink):
    remote = stored(sink, item("a", namespace="acme"))
    rows = fake._entities()["results"]
    fake.faults.append(Fault(200, rows, path="GET /v1/entities/"))
    assert sink.present() == set(remote.values())
