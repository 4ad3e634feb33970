"""Pull: what services have changed comes here, and no difference is settled by itself."""

import pytest

from replica.cloud import decide
from replica.cloud import pull as pulling
from replica.cloud.base import SinkError, Trouble
from replica.cloud.ledger import Ledger
from replica.cloud.pull import Pulled
from tests.cloud.shelf import Shelf
from tests.cloud.test_export import BUFFER, counts, export
from tests.helpers import Network, save
from tests.helpers import read as file_of

INTO = "cloud-shelf-buffer.md"


@pytest.fixture
def network():
    with Network("alice", "bob") as network:
        save(network["alice"], BUFFER, "- one\n- two\n- three\n")
        save(network["alice"], "notes.md", "# Plan\nfirst\n\n# Later\nsecond\n")
        network.run("alice")
        network.share()
        yield network


@pytest.fixture(params=[True, False], ids=["our ids", "its ids"])
def shelf(network, request):
    shelf = Shelf(network["alice"], keeps_ids=request.param)
    export(network["alice"], shelf)
    return shelf


def pull(clone, shelf) -> Pulled:
    with Ledger(clone.root) as ledger:
        n = ledger.sink(shelf.settings.name, "here")
        return pulling.pull(clone, ledger, n, shelf, INTO, Pulled(shelf.settings.name, shelf.type))


def there(shelf, text: str) -> str:
    return next(id for id, (words, _) in shelf.things.items() if words == text)


def shown(network, name: str = "alice", path: str = BUFFER) -> str:
    network.run(name)
    return file_of(network[name], path)


def test_what_we_exported_is_nothing_new(network, shelf):
    before = network["alice"].log.last_row()
    pulled = pull(network["alice"], shelf)
    assert pulled == Pulled("shelf", "shelf", unchanged=5) and network["alice"].log.last_row() == before


def test_what_another_of_our_clones_exported_is_nothing_new_either(network, shelf):
    pulled = pull(network["bob"], shelf)
    assert pulled.added == [] and pulled.unchanged == 5
    assert counts(export(network["bob"], shelf)) == {"unchanged": 5}


def test_what_is_new_there_comes_here_and_goes_nowhere_again(network, shelf):
    alice = network["alice"]
    shelf.foreign("told by a person", type="lesson", tags="ops,ci")
    assert [text for _, text in pull(alice, shelf).added] == ["told by a person"]
    assert shown(network, path=INTO) == "- told by a person\n"
    (entry,) = alice.entries(INTO)
    assert entry.meta["type"] == "lesson" and {"ops", "ci"} <= set(entry.meta["tags"])
    assert counts(export(alice, shelf)) == {"unchanged": 6} and len(shelf.things) == 6
    assert pull(alice, shelf).added == []
    network.share()  # and bob, who has it from alice, takes it neither out nor in
    export(network["bob"], shelf)
    assert len(shelf.things) == 6
    assert pull(network["bob"], shelf).added == []


def test_what_was_pulled_and_edited_here_takes_its_place_there(network, shelf):
    alice = network["alice"]
    shelf.foreign("told by a person")
    pull(alice, shelf)
    save(alice, INTO, shown(network, path=INTO).replace("person", "wise person"))
    network.run("alice")
    assert counts(export(alice, shelf))["modified"] == 1
    assert "told by a wise person" in shelf.texts() and "told by a person" not in shelf.texts()
    assert pull(alice, shelf).added == []


def test_what_is_new_there_and_here_already_is_known_as_one(network, shelf):
    alice = network["alice"]
    save(alice, BUFFER, "- one\n- two\n- three\n- told twice\n")
    network.run("alice")
    shelf.foreign("told twice")
    pulled = pull(alice, shelf)
    assert pulled.added == [] and counts(export(alice, shelf)) == {"unchanged": 6}


def test_what_a_service_refused_since_it_has_it_from_somebody_else_is_adopted(network, shelf):
    alice = network["alice"]
    save(alice, BUFFER, "- one\n- two\n- three\n- told twice\n")
    network.run("alice")
    shelf.foreign("told twice")
    shelf.before = lambda batch: [SinkError(Trouble.CONFLICT, "somebody else has that") for _ in batch]
    assert counts(export(alice, shelf)) == {"failed": 1, "unchanged": 5}
    shelf.before = lambda batch: None
    assert pull(alice, shelf).added == []
    assert counts(export(alice, shelf)) == {"unchanged": 6} and len(shelf.things) == 6


def test_what_is_of_another_workspace_is_left_alone(network, shelf):
    shelf.foreign("of others", origin="ff" * 16, replica_id="6ba7b810-9dad-11d1-80b4-00c04fd430c8", hash="00" * 32)
    pulled = pull(network["alice"], shelf)
    assert pulled.added == [] and pulled.skips == [("of others", "it is of another workspace")]


def test_an_edit_there_alone_is_an_edit_here(network, shelf):
    shelf.edit(there(shelf, "two"), "two, told better")
    shelf.edit(there(shelf, "# Later\nsecond"), "# Later\nsecond, and more")
    pulled = pull(network["alice"], shelf)
    assert len(pulled.edited) == 2 and pulled.conflicts == []
    assert shown(network) == "- one\n- two, told better\n- three\n"
    assert shown(network, path="notes.md") == "# Plan\nfirst\n\n# Later\nsecond, and more\n"
    assert counts(export(network["alice"], shelf)) == {"unchanged": 5}
    assert pull(network["alice"], shelf).edited == []


@pytest.fixture
def crossed(network, shelf):
    """The second lesson was edited on both sides."""
    alice = network["alice"]
    shelf.edit(there(shelf, "two"), "two, as they say")
    save(alice, BUFFER, "- one\n- two, as we say\n- three\n")
    network.run("alice")
    assert pull(alice, shelf).conflicts == [(BUFFER, "two, as they say")]
    assert shown(network) == "- one\n- two, as we say\n- three\n"
    assert counts(export(alice, shelf)) == {"unchanged": 4} and "two, as they say" in shelf.texts()
    return decide.conflicts(alice)[0]


@pytest.mark.parametrize(("keep", "text", "kept"), [
    ("v1", None, "two, as we say"), ("here", None, "two, as we say"), ("v2", None, "two, as they say"),
    ("shelf", None, "two, as they say"), (None, "two, as all say", "two, as all say"),
])  # fmt: skip
def test_what_changed_on_both_sides_waits_for_a_person(network, shelf, crossed, keep, text, kept):
    alice = network["alice"]
    assert [version.text for version in crossed.conflict.versions] == ["two, as we say", "two, as they say"]
    pull(alice, shelf)
    assert len(decide.conflicts(alice)) == 1  # it is the same one still
    assert decide.resolve(alice, decide.find(alice, crossed.conflict.id[:6]), keep=keep, text=text) == kept
    assert decide.conflicts(alice) == []
    export(alice, shelf)
    assert shown(network) == f"- one\n- {kept}\n- three\n"
    assert kept in shelf.texts() and len(shelf.things) == 5
    pulled = pull(alice, shelf)
    assert (pulled.conflicts, pulled.edited, pulled.added) == ([], [], [])
    assert counts(export(alice, shelf)) == {"unchanged": 5}


def test_a_conflict_that_is_settled_there_waits_no_more(network, shelf, crossed):
    shelf.edit(crossed.proposal.remote, "two, as we say")
    assert pull(network["alice"], shelf).conflicts == []
    assert decide.conflicts(network["alice"]) == [] and counts(export(network["alice"], shelf)) == {"unchanged": 5}


def test_edited_there_and_gone_here_waits(network, shelf):
    alice = network["alice"]
    shelf.edit(there(shelf, "two"), "two is not dead")
    save(alice, BUFFER, "- one\n- three\n")
    network.run("alice")
    assert len(pull(alice, shelf).conflicts) == 1
    assert counts(export(alice, shelf)) == {"unchanged": 4} and "two is not dead" in shelf.texts()
    decide.resolve(alice, decide.conflicts(alice)[0], keep="there", text=None)
    assert "- two is not dead\n" in shown(network)
    export(alice, shelf)
    assert shelf.texts().count("two is not dead") == 1 and len(shelf.things) == 5


def test_gone_here_and_kept_gone_is_deleted_there(network, shelf):
    alice = network["alice"]
    shelf.edit(there(shelf, "two"), "two is not dead")
    save(alice, BUFFER, "- one\n- three\n")
    network.run("alice")
    pull(alice, shelf)
    decide.resolve(alice, decide.conflicts(alice)[0], keep="here", text=None)
    assert counts(export(alice, shelf)) == {"deleted": 1, "unchanged": 4} and len(shelf.things) == 4


def test_what_is_taken_away_there_is_held_and_stays_here(network, shelf):
    alice = network["alice"]
    del shelf.things[there(shelf, "two")]
    assert pull(alice, shelf).deletions == [(BUFFER, "two")]
    assert shown(network) == "- one\n- two\n- three\n"
    (held,) = decide.held(alice)
    assert (held["path"], held["reason"], held["what"]) == (BUFFER, "cloud", "1 was taken away in shelf")
    assert counts(export(alice, shelf)) == {"unchanged": 5} and len(shelf.things) == 4
    assert decide.settle(alice, [], accept=True) == [BUFFER]
    assert shown(network) == "- one\n- three\n" and decide.held(alice) == []
    assert counts(export(alice, shelf)) == {"unchanged": 4}


def test_what_is_taken_away_there_and_kept_here_is_stored_again(network, shelf):
    alice = network["alice"]
    del shelf.things[there(shelf, "two")]
    pull(alice, shelf)
    assert decide.settle(alice, [BUFFER], accept=False) == [BUFFER]
    assert counts(export(alice, shelf)) == {"new": 1, "unchanged": 4} and "two" in shelf.texts()


def test_what_comes_back_there_is_held_no_more(network, shelf):
    id = there(shelf, "two")
    thing = shelf.things.pop(id)
    pull(network["alice"], shelf)
    shelf.things[id] = thing
    assert pull(network["alice"], shelf).deletions == [] and decide.held(network["alice"]) == []


def test_hostile_words_there_are_one_entry_here(network, shelf):
    words = [
        "\n- a\n- b\n",
        "# Head\n\n- x",
        "```\nnever closed",
        "\x1b[2J\x00 bell",
        "<!-- open",
        "x" * 300_000,
        "  \n ",
    ]
    for text in words:
        shelf.foreign(text, tags="a,\x1b[0m", type="x\ny")
    pulled = pull(network["alice"], shelf)
    assert len(pulled.added) + len(pulled.skips) == len(words)
    assert len([e for e in network["alice"].entries(INTO) if e.role == "entry"]) == len(pulled.added)
    assert pull(network["alice"], shelf).added == []


@pytest.mark.parametrize(("one", "other"), [("here", "there"), ("there", "here")])
def test_two_clones_that_settle_it_differently_are_asked_again(network, shelf, crossed, one, other):
    alice, bob = network["alice"], network["bob"]
    network.share()
    pull(bob, shelf)
    for clone, keep in ((alice, one), (bob, other)):
        decide.resolve(clone, decide.conflicts(clone)[0], keep=keep, text=None)
    network.share()
    for clone in (alice, bob):
        (again,) = clone.documents.all_conflicts()
        assert {version.text for version in again.versions} == {"- two, as we say", "- two, as they say"}


def test_two_clones_that_keep_what_is_here_agree(network, shelf, crossed):
    alice, bob = network["alice"], network["bob"]
    network.share()
    pull(bob, shelf)
    for clone in (alice, bob):
        decide.resolve(clone, decide.conflicts(clone)[0], keep="here", text=None)
    network.share()
    assert not alice.documents.all_conflicts() and not bob.documents.all_conflicts()
    assert shown(network, "bob") == "- one\n- two, as we say\n- three\n" == shown(network)
