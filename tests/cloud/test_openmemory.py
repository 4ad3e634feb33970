"""The sink `openmemory`, on a local server that speaks for it."""

import zipfile
from pathlib import Path
from uuid import UUID

import pytest

from replica.cloud.base import Known, Settings, SinkError, Stored, Trouble
from replica.cloud.sinks.openmemory import OpenMemory
from tests.cloud.acceptance import WORKSPACE, Contract, Faulty, Place, ReadBack, item, known_of, outgoing, stored
from tests.cloud.fakes.openmemory import FakeOpenMemory
from tests.cloud.fakes.server import Fault


@pytest.fixture
def fake():
    with FakeOpenMemory() as fake:
        yield fake


def sink_of(fake: FakeOpenMemory, user: str = "alice", **values) -> OpenMemory:
    values = {"url": fake.url, "user_id": user, **values}
    return OpenMemory(Settings("local", values, Path("."), Path(".replica"), WORKSPACE, "team", timeout=5.0))


@pytest.fixture
def sink(fake):
    sink = sink_of(fake)
    yield sink
    sink.close()


def texts_of(fake: FakeOpenMemory) -> dict[UUID, str]:
    return {
        UUID(fake.rows[id]["metadata"]["replica_id"]): text
        for id, text in fake.texts().items()
        if fake.rows[id]["metadata"]
    }


class TestOpenMemory(Contract, ReadBack, Faulty):
    @pytest.fixture
    def place(self, fake):
        return Place(
            lambda: sink_of(fake), lambda: texts_of(fake), fake.put, fake.edit, fake.take, fake,
            writes="POST /api/v1/backup/import",
        )  # fmt: skip


def test_a_search_finds_what_was_stored_and_not_the_text_before(fake, sink):
    remote = stored(sink, item("a"))
    stored(sink, item("a", "- told better", revision=2), remote=remote)
    assert fake.vectors == {remote[item("a").id]: "- told better"}
    assert not fake.asked("PUT ")  # it would change the database alone


def test_two_users_export_one_workspace_without_copies(fake):
    for _ in range(2):
        remote = [stored(sink_of(fake, user), item("a"))[item("a").id] for user in ("alice", "bob")]
    assert set(fake.rows) == set(remote) and len(set(remote)) == 2


def test_what_was_taken_away_there_does_not_come_back_by_an_update(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fake.take(remote[item("a").id])
    gone, kept = sink.store(outgoing(sink, item("a", revision=2), item("b", revision=2), remote=remote))
    assert gone.trouble is Trouble.GONE and isinstance(kept, Stored)
    assert texts_of(fake) == {item("b").id: item("b").text}
    for strange in ("no uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"):
        (outcome,) = sink.store(outgoing(sink, item("a"), remote={item("a").id: strange}))
        assert outcome.trouble is Trouble.GONE


def test_what_was_deleted_there_can_still_be_asked_for_and_is_not_read(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    fake.take(remote[item("a").id])
    fake.rows[remote[item("b").id]]["state"] = "archived"
    fake.requests.clear()
    assert set(sink.read(known_of(remote))) == {item("b").id}
    assert [request.method for request in fake.requests] == ["GET", "GET"]  # and no backup of all there is


def test_what_was_archived_there_stays_archived(fake, sink):
    remote = stored(sink, item("a"))[item("a").id]
    fake.rows[remote]["state"] = "archived"
    stored(sink, item("a", "- told better", revision=2), remote={item("a").id: remote})
    assert (fake.rows[remote]["state"], fake.rows[remote]["content"]) == ("archived", "- told better")
    assert sink.present() == {remote}


def test_a_memory_of_somebody_else_that_became_ours_keeps_its_id(fake, sink):
    theirs = fake.put("- the lesson of a")
    assert stored(sink, item("a", revision=2), remote={item("a").id: theirs}) == {item("a").id: theirs}
    assert list(fake.rows) == [theirs]


def test_deletions_there_are_told_without_their_text(fake, sink):
    remote = stored(sink, item("a"))[item("a").id]
    fake.take(remote)
    (found,) = sink.changes(0)
    assert (found.remote_id, found.item, found.text, found.deleted) == (remote, item("a").id, "", True)


def test_one_that_was_never_there_does_not_stop_a_batch_of_deletes(fake, sink):
    remote = stored(sink, item("a"), item("b"))
    batch = [Known(item("x").id, "6ba7b810-9dad-11d1-80b4-00c04fd430c8")]
    outcomes = sink.delete(batch + [Known(id, there) for id, there in remote.items()])
    assert all(isinstance(one, Stored) for one in outcomes) and fake.texts() == {}


def test_the_memories_of_other_users_are_not_read(fake, sink):
    fake.put("bob's own", user="bob")
    assert sink.present() == set()


def test_an_app_narrows_what_is_pulled_to_it_and_to_our_own(fake):
    sink = sink_of(fake, app="cursor")
    remote = stored(sink, item("a"))[item("a").id]
    theirs = fake.put("told to cursor")
    fake.put("told to another", app="claude")
    assert sink.present() == {remote, theirs}


def test_a_user_that_the_server_does_not_know_is_said_with_the_way_out(fake):
    sink = sink_of(fake, "carol")
    for work in (sink.test, sink.present, lambda: sink.store(outgoing(sink, item("a")))):
        with pytest.raises(SinkError, match="knows no user 'carol'") as found:
            work()
        assert found.value.trouble is Trouble.AUTH and "user_id" in found.value.hint


def test_a_200_with_an_error_is_an_error(fake, sink):
    fake.faults.append(Fault(200, {"error": "no vectors"}, path="import"))
    with pytest.raises(SinkError, match="yet failed: no vectors"):
        sink.store(outgoing(sink, item("a")))
    fake.faults.append(Fault(200, None, path="import"))
    with pytest.raises(SinkError, match="does not say"):
        sink.store(outgoing(sink, item("a")))


@pytest.mark.parametrize("body", [b"PK but no zip", b"", b"[]", {"memories": []}])
def test_a_backup_that_cannot_be_read_is_an_error_and_not_an_empty_one(fake, sink, body):
    stored(sink, item("a"))
    headers = {"content-type": "application/zip"}
    fake.faults.append(Fault(200, body, headers, path="export"))
    with pytest.raises(SinkError, match="cannot be read"):
        sink.present()


def test_a_backup_that_swells_is_not_unpacked(fake, sink, monkeypatch):
    stored(sink, item("a"))
    monkeypatch.setattr("replica.cloud.sinks.openmemory.MAX_BACKUP", 100)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(SinkError, match="more than 100 bytes"):
        sink.present()


def test_a_slow_server_has_the_time_that_a_batch_needs(fake):
    sink = sink_of(fake)
    assert sink._importer._pool.connection_pool_kw["timeout"].read_timeout >= 14 * sink.batch
