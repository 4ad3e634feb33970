"""What every sink does, whatever is behind it. A sink's tests derive from these and say how to make its place.

class TestJsonl(Contract): the fixture `place` gives a Place. A fake's place has `faults`; then `Faulty` holds, too.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID, uuid5

import pytest

from replica.cloud.base import Item, Known, Outgoing, Sink, SinkError, Stored, Trouble
from tests.cloud.fakes.server import Fake, Fault

SPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
WORKSPACE = "ab" * 16
START = 1_760_000_000_000


@dataclass
class Place:
    """A service with nothing in it. `sink`: a new adapter on it. `texts`: what is really there, by our id.

    `foreign`: somebody else puts a memory there; returns its remote id. `edit`, `take`: somebody changes, or takes
    away, what has this remote id. None where the sink cannot be read back.
    """

    sink: Callable[[], Sink]
    texts: Callable[[], dict[UUID, str]]
    foreign: Callable[[str], str] | None = None
    edit: Callable[[str, str], None] | None = None
    take: Callable[[str], None] | None = None
    fake: Fake | None = None
    writes: str = ""  # of a fake: a regular expression of the requests that store ("POST /points")


def item(name: str, text: str | None = None, *, revision: int = 1, **fields) -> Item:
    text = f"- the lesson of {name}" if text is None else text
    values = {
        "type": "lesson", "tags": ("deploy", "ci"), "level": 1, "document": "lessons-buffer.md", "author": "desk",
        "time": START + revision,
    }  # fmt: skip
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Item(uuid5(SPACE, name), text, digest, revision=revision, **{**values, **fields})


def outgoing(sink: Sink, *items: Item, remote: dict[UUID, str] | None = None) -> list[Outgoing]:
    """As the export gives them: with a vector where the sink wants one."""
    size = sink.settings.dimension
    return [
        Outgoing(one, (remote or {}).get(one.id), vector_of(one.text, size) if sink.wants_vectors else None)
        for one in items
    ]


def vector_of(text: str, size: int) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [(digest[at % 32] + 1) / 256 for at in range(size)]


def stored(sink: Sink, *items: Item, remote: dict[UUID, str] | None = None) -> dict[UUID, str]:
    """Store them; their remote ids. All must be stored."""
    outcomes = sink.store(outgoing(sink, *items, remote=remote))
    assert len(outcomes) == len(items)
    for outcome in outcomes:
        assert isinstance(outcome, Stored), outcome
    return {one.id: outcome.remote_id for one, outcome in zip(items, outcomes, strict=True)}


def known_of(remote: dict[UUID, str]) -> list[Known]:
    return [Known(id, there) for id, there in remote.items()]


class Contract:
    """The laws of a sink."""

    @pytest.fixture
    def sink(self, place):
        sink = place.sink()
        sink.prepare()
        yield sink
        sink.close()

    def test_it_says_what_answers(self, sink):
        assert sink.test()

    def test_what_is_stored_is_there_word_for_word(self, place, sink):
        items = [
            item("a"),
            item("b", '- ümläuts, 日本語, 🧠, "quotes" and \\ back\n  second line'),
            item("c", "x" * 900),
        ]
        stored(sink, *items)
        assert place.texts() == {one.id: one.text for one in items}

    def test_storing_again_is_storing_once(self, place, sink):
        items = [item("a"), item("b")]
        remote = stored(sink, *items)
        assert stored(sink, *items, remote=remote) == remote
        if sink.keeps_ids:
            assert stored(sink, *items) == remote  # the ledger was lost
        assert len(place.texts()) == 2

    def test_a_changed_item_takes_the_place_of_the_old(self, place, sink):
        remote = stored(sink, item("a"), item("b"))
        changed = item("a", "- told better", revision=2, tags=("ci",))
        again = stored(sink, changed, remote=remote)
        assert place.texts() == {changed.id: "- told better", item("b").id: item("b").text}
        assert set(again) == {changed.id}

    def test_what_is_deleted_is_gone_and_may_be_deleted_again(self, place, sink):
        remote = stored(sink, item("a"), item("b"))
        known = [Known(item("a").id, remote[item("a").id])]
        for _ in range(2):
            outcomes = sink.delete(known)
            assert len(outcomes) == 1 and isinstance(outcomes[0], Stored), outcomes
        assert set(place.texts()) == {item("b").id}

    def test_a_full_batch_goes_in_one_call(self, place, sink):
        many = [item(str(n)) for n in range(min(sink.batch, 100))]
        remote = stored(sink, *many)
        assert set(place.texts()) == {one.id for one in many} and len(set(remote.values())) == len(many)
        sink.delete([Known(id, there) for id, there in remote.items()])
        assert place.texts() == {}

    def test_a_new_sink_goes_on_where_the_old_one_was(self, place, sink):
        remote = stored(sink, item("a"))
        sink.close()
        again = place.sink()
        again.prepare()
        stored(again, item("a", "- later", revision=2), item("b"), remote=remote)
        again.close()
        assert place.texts() == {item("a").id: "- later", item("b").id: item("b").text}

    def test_what_was_stored_is_found_by_our_id(self, sink):
        remote = stored(sink, item("a"), item("b"))
        if sink.keeps_ids:
            pytest.skip("it keeps our ids: nothing has to be looked for")
        assert sink.find([item("a").id, item("b").id, item("never").id]) == remote

    def test_layers_and_capacity_can_be_told(self, sink):
        stored(sink, item("a"))
        assert sink.layers() and all(layer.kind and layer.state for layer in sink.layers())
        assert sink.capacity().items in (None, 1)


class ReadBack:
    """The laws of a sink that can be pulled from."""

    def test_what_we_stored_comes_back_known_as_ours(self, sink):
        one = item("a")
        remote = stored(sink, one, item("b"))
        mine = {found.remote_id: found for found in sink.changes(None)}
        found = mine[remote[one.id]]
        assert (found.item, found.text, found.hash, found.origin) == (one.id, one.text, one.hash, WORKSPACE)
        assert (found.revision, found.type, set(found.tags)) == (one.revision, one.type, set(one.tags))
        assert len(mine) == 2 and sink.present() == set(remote.values())

    def test_what_others_put_there_comes_back_as_not_ours(self, place, sink):
        stored(sink, item("a"))
        remote_id = place.foreign("told by somebody else")
        found = {one.remote_id: one for one in sink.changes(None) if not one.deleted}[remote_id]
        assert (found.text, found.item, found.hash) == ("told by somebody else", None, None)
        assert remote_id in sink.present()

    def test_what_somebody_edits_there_keeps_our_id(self, place, sink):
        one = item("a")
        remote = stored(sink, one)[one.id]
        place.edit(remote, "edited over there")
        found = {got.remote_id: got for got in sink.changes(None) if not got.deleted}[remote]
        assert (found.text, found.item) == ("edited over there", one.id)

    def test_what_somebody_takes_away_there_is_not_present(self, place, sink):
        remote = stored(sink, item("a"), item("b"))
        place.take(remote[item("a").id])
        assert sink.present() == {remote[item("b").id]}

    def test_more_than_a_page_comes_back_whole(self, sink):
        many = [item(str(n)) for n in range(230)]
        remote = {}
        for at in range(0, len(many), sink.batch):
            remote.update(stored(sink, *many[at : at + sink.batch]))
        assert sink.present() == set(remote.values())
        assert {one.item for one in sink.changes(None)} == {one.id for one in many}

    # What an export asks before it writes over something:

    def test_what_we_stored_is_read_by_its_ids_word_for_word(self, sink):
        """To the last blank: what a service trims or composes anew would look like somebody's edit."""
        items = [
            item("a"),
            item("b", '  ümläuts, 日本語, 🧠, "quotes" and \\ back\r\n\n\tthird line  \n'),
            item("c", "e\u0301 beside \u00e9, \u00a0 and \u2028, \ufb01, \u200b"),
            item("d", "<b>x</b> &amp; %20 + \x7f " + "y" * 900),
        ]
        remote = stored(sink, *items)
        found = sink.read(known_of(remote))
        assert {id: one.text for id, one in found.items()} == {one.id: one.text for one in items}
        assert {id: one.remote_id for id, one in found.items()} == remote
        told = {(one.item, one.hash, one.origin, one.revision, one.deleted) for one in found.values()}
        assert told == {(one.id, one.hash, WORKSPACE, 1, False) for one in items}

    def test_what_somebody_edits_there_is_read_as_edited(self, place, sink):
        remote = stored(sink, item("a"), item("b"))
        place.edit(remote[item("a").id], "edited over there")
        found = sink.read(known_of(remote))
        assert {id: one.text for id, one in found.items()} == {
            item("a").id: "edited over there", item("b").id: item("b").text,
        }  # fmt: skip

    def test_what_is_not_there_is_not_read(self, place, sink):
        remote = stored(sink, item("a"), item("b"))
        place.take(remote[item("a").id])
        never = [Known(item("never").id, str(item("never").id)), Known(item("odd").id, "no id of that service's")]
        assert set(sink.read(known_of(remote) + never)) == {item("b").id}
        assert sink.read(never) == {}

    def test_only_what_was_asked_for_is_read(self, place, sink):
        remote = stored(sink, *(item(str(n)) for n in range(5)))
        place.foreign("told by somebody else")
        asked = {item("3").id: remote[item("3").id]}
        assert {id: one.text for id, one in sink.read(known_of(asked)).items()} == {item("3").id: item("3").text}
        assert sink.read([]) == {}

    def test_reading_takes_no_more_requests_where_more_is_there(self, place, sink):
        if place.fake is None:
            pytest.skip("it makes no requests")
        asked = [*known_of(stored(sink, item("a"), item("b"))), Known(item("never").id, str(item("never").id))]

        def requests() -> int:
            before = len(place.fake.requests)
            assert set(sink.read(asked)) == {item("a").id, item("b").id}
            return len(place.fake.requests) - before

        alone = requests()
        others = [item(f"other {n}") for n in range(300)]
        for at in range(0, len(others), sink.batch):
            stored(sink, *others[at : at + sink.batch])
        assert requests() <= alone


class Faulty:
    """What services do on bad days, of a place with a fake."""

    @pytest.mark.parametrize(
        ("status", "trouble"),
        [(401, Trouble.AUTH), (402, Trouble.QUOTA), (413, Trouble.TOO_BIG), (429, Trouble.THROTTLE),
         (500, Trouble.UNREACHABLE), (503, Trouble.UNREACHABLE)],
    )  # fmt: skip
    def test_each_failure_has_its_class(self, place, sink, status, trouble):
        place.fake.faults.append(Fault(status, {"error": "no"}, {"Retry-After": "7"}, times=50, path=place.writes))
        found = self._failure(sink)
        assert found.trouble is trouble and found.hint
        assert found.retry_after == (7 if status in (429, 503) else None)
        assert place.texts() == {}

    def test_no_error_holds_the_key(self, place, sink):
        if not place.fake.key:
            pytest.skip("this service has no key")
        place.fake.faults.append(Fault(401, {"error": f"bad key {place.fake.key}"}, times=50, path=place.writes))
        found = self._failure(sink)
        assert place.fake.key not in str(found) + found.hint and place.fake.key not in repr(sink.settings)

    def test_a_broken_connection_is_unreachable_and_the_next_call_works(self, place, sink):
        place.fake.faults.append(Fault(reset=True, times=1, path=place.writes))
        assert self._failure(sink).trouble is Trouble.UNREACHABLE
        self._store_after_a_break(place, sink)

    def test_an_answer_that_is_lost_makes_no_second_copy(self, place, sink):
        place.fake.faults.append(Fault(reset=True, after=True, path=place.writes))
        assert self._failure(sink).trouble is Trouble.UNREACHABLE
        self._store_after_a_break(place, sink)

    def _store_after_a_break(self, place, sink) -> None:
        remote = {} if sink.keeps_ids else sink.find([item("a").id])
        stored(sink, item("a"), remote=remote)
        assert list(place.texts()) == [item("a").id]

    def test_an_answer_of_nonsense_is_an_error(self, place, sink):
        place.fake.faults.append(Fault(200, b"<html>hello</html>", times=50, path=place.writes))
        assert self._failure(sink).trouble in (Trouble.UNREACHABLE, Trouble.BAD_ITEM)

    def _failure(self, sink) -> SinkError:
        """Of storing one item: as an outcome, or raised."""
        try:
            (outcome,) = sink.store(outgoing(sink, item("a")))
        except SinkError as error:
            return error
        assert isinstance(outcome, SinkError), outcome
        return outcome
