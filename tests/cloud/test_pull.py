"""Pull: what services have changed comes here, and no difference is settled by itself."""

import unicodedata

import pytest

from replica import decisions
from replica.cloud import decide
from replica.cloud import items as read
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


def test_an_export_writes_over_nobodys_edit(network, shelf):
    """Also where nobody has pulled since."""
    alice = network["alice"]
    shelf.edit(there(shelf, "two"), "two, as they say")
    del shelf.things[there(shelf, "three")]
    for text in ("- one\n- two, as we say\n- three\n", "- one\n- two, as we say\n- three, as we say\n"):
        save(alice, BUFFER, text)
        network.run("alice")
    report = export(alice, shelf)
    assert counts(report) == {"unchanged": 3}
    assert "two, as they say" in shelf.texts() and "three, as we say" not in shelf.texts()
    (waiting,) = decide.conflicts(alice)
    assert [version.text for version in waiting.conflict.versions] == ["two, as we say", "two, as they say"]
    assert [held["path"] for held in decide.held(alice)] == [BUFFER]
    decide.resolve(alice, waiting, keep="here", text=None)
    decide.settle(alice, [], accept=False)
    assert counts(export(alice, shelf)) == {"new": 1, "modified": 1, "unchanged": 3}
    assert {"two, as we say", "three, as we say"} <= set(shelf.texts()) and len(shelf.things) == 5


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


# --- several clones, one service


def test_an_edit_here_before_the_first_pull_goes_there(network, shelf):
    bob = network["bob"]  # who has never exported, and learns from the pull what alice has
    save(bob, BUFFER, "- one\n- two, told better\n- three\n")
    network.run("bob")
    pull(bob, shelf)
    assert counts(export(bob, shelf)) == {"modified": 1, "unchanged": 4}
    assert "two, told better" in shelf.texts() and len(shelf.things) == 5


def test_what_another_of_our_clones_exported_comes_from_it_and_not_twice(network, shelf):
    alice, bob = network["alice"], network["bob"]
    network.run("bob")
    save(bob, "notes.md", "# Plan\nfirst, and more\n\n# Later\nsecond\n")
    network.run("bob")
    export(bob, shelf)
    assert pull(alice, shelf).edited == []
    network.share()
    assert shown(network, path="notes.md") == "# Plan\nfirst, and more\n\n# Later\nsecond\n"


def test_an_older_version_of_another_of_our_clones_takes_nothing_back(network, shelf):
    alice, bob = network["alice"], network["bob"]
    save(alice, BUFFER, "- one\n- two, told better\n- three\n")
    network.run("alice")
    export(alice, shelf)
    export(bob, shelf)  # bob has not met alice since
    assert "two" in shelf.texts()
    pulled = pull(alice, shelf)
    assert (pulled.edited, pulled.conflicts) == ([], []) and "two, told better" in shown(network)
    export(alice, shelf)
    assert "two, told better" in shelf.texts() and len(shelf.things) == 5


def test_an_item_that_another_clone_has_moved_there_is_not_taken_away(network, shelf):
    id = there(shelf, "two")
    shelf.things["moved"] = shelf.things.pop(id)
    shelf.times["moved"] = next(shelf.clock)
    pulled = pull(network["alice"], shelf)
    assert (pulled.deletions, pulled.added, pulled.unchanged) == ([], [], 5)


# --- the same words, and nearly the same


def test_words_that_are_there_twice_are_here_once(network, shelf):
    alice = network["alice"]
    for text in ("same", "same", "one"):  # the last is one of ours
        shelf.foreign(text)
    assert len(pull(alice, shelf).added) == 1
    for _ in range(2):
        assert pull(alice, shelf).added == []
    assert shown(network, path=INTO) == "- same\n"
    network.share()
    assert pull(network["bob"], shelf).added == []


@pytest.mark.parametrize("made", [
    str.strip, lambda text: f"{text}\n", lambda text: text.replace("\n", "\r\n"),
    lambda text: unicodedata.normalize("NFC", text), lambda text: unicodedata.normalize("NFD", text),
], ids=["trimmed", "ended", "CRLF", "NFC", "NFD"])  # fmt: skip
def test_a_service_that_writes_texts_in_its_own_way_has_edited_nothing(network, shelf, made):
    alice = network["alice"]
    save(alice, "x.md", "   indented \u00e9\nline e\u0301\n\n\nend\n")
    network.run("alice")
    export(alice, shelf)
    before = alice.log.last_row()
    for id, (text, _) in list(shelf.things.items()):
        shelf.edit(id, made(text))
    pulled = pull(alice, shelf)
    assert (pulled.edited, pulled.conflicts) == ([], []) and alice.log.last_row() == before
    save(alice, BUFFER, "- one\n- two\n- three, and more\n")
    network.run("alice")
    assert pull(alice, shelf).conflicts == []
    assert counts(export(alice, shelf))["modified"] == 1


def test_half_a_character_there_stops_no_pull(network, shelf):
    for text in ("bad \ud800 words", "fine words"):
        shelf.foreign(text, rev=float("inf"))
    assert len(pull(network["alice"], shelf).added) == 2
    assert pull(network["alice"], shelf).added == []


# --- what cannot be taken in


@pytest.mark.parametrize("rule", [f'glob = "{INTO}"\npolicy = "union"\nlevel = 0', f'glob = "{INTO}"\npolicy = "text"',
                                  'glob = "nothing"\npolicy = "text"'], ids=["level 0", "text", "no rule"])  # fmt: skip
def test_what_has_no_document_to_go_to_waits_there(network, shelf, rule):
    alice = network["alice"]
    buffers = '[[documents]]\nglob = "**/{}-buffer.md"\npolicy = "union"\n'
    save(alice, "replica.toml", f"[[documents]]\n{rule}\n" + buffers.format("lessons"))
    network.run("alice")
    shelf.foreign("told first")
    shelf.foreign("told later")
    assert [text for text, _ in pull(alice, shelf).skips] == ["told first", "told later"]
    save(alice, "replica.toml", buffers.format("*"))
    network.run("alice")
    assert len(pull(alice, shelf).added) == 2 and pull(alice, shelf).added == []


def test_what_was_pulled_is_of_the_level_of_its_service(network, shelf):
    """Else the next export would take it away there."""
    shelf.settings.values["level"] = 2
    shelf.foreign("told by a person")
    pull(network["alice"], shelf)
    (entry,) = network["alice"].entries(INTO)
    assert entry.meta["level"] == 2


def test_what_is_in_conflict_here_is_not_gone(network, shelf):
    alice, bob = network["alice"], network["bob"]
    save(alice, BUFFER, "- one\n- two, says alice\n- three\n")
    save(bob, BUFFER, "- one\n- two, says bob\n- three\n")
    network.run("alice")
    network.run("bob")
    network.share()
    (conflict,) = alice.documents.all_conflicts()
    shelf.edit(there(shelf, "two"), "two, says a person there")
    pulled = pull(alice, shelf)
    assert pulled.conflicts == [] and pulled.skips == [("two, says a person there", pulling.IN_CONFLICT)]
    decisions.resolve(alice, conflict.id, keep="v1", text=None)
    assert len(pull(alice, shelf).conflicts) == 1


def test_what_is_in_conflict_here_and_taken_away_there_is_asked_about_later(network, shelf):
    alice, bob = network["alice"], network["bob"]
    save(alice, BUFFER, "- one\n- two, says alice\n- three\n")
    save(bob, BUFFER, "- one\n- two, says bob\n- three\n")
    network.run("alice")
    network.run("bob")
    network.share()
    del shelf.things[there(shelf, "two")]
    assert pull(alice, shelf).deletions == []
    decisions.resolve(alice, alice.documents.all_conflicts()[0].id, keep="v1", text=None)
    assert len(pull(alice, shelf).deletions) == 1


def test_a_clock_there_that_is_far_ahead_hides_nothing(network, shelf):
    alice = network["alice"]
    shelf.times[shelf.foreign("from the future")] = 10**15
    pull(alice, shelf)
    shelf.foreign("told now")
    assert len(pull(alice, shelf).added) == 1


def test_what_a_person_keeps_is_stored_there_though_the_document_is_as_it_was(network, shelf):
    alice = network["alice"]
    save(alice, "twice.md", "# A\nsame\n\n# B\nx\n\n# C\n# A\nsame\n")
    network.run("alice")
    export(alice, shelf)
    shelf.edit(there(shelf, "# A\nsame"), "# A\nother")
    pull(alice, shelf)
    decide.resolve(alice, decide.conflicts(alice)[0], keep="v1", text=None)
    assert counts(export(alice, shelf))["modified"] == 1 and "# A\nother" not in shelf.texts()


def test_many_are_taken_in_at_once(network, shelf, monkeypatch):
    """The documents are read as often for many as for few."""
    reads = []
    monkeypatch.setattr(read, "of", lambda *args, of=read.of, **more: (reads.append(1), of(*args, **more))[1])
    for n in range(3):
        shelf.foreign(f"told {n}")
    pull(network["alice"], shelf)
    few = len(reads)
    for n in range(40):
        shelf.foreign(f"told again {n}")
    pull(network["alice"], shelf)
    assert len(reads) - few <= few + 1


def test_many_edits_there_are_made_here_together(network, shelf, monkeypatch):
    alice = network["alice"]
    save(alice, BUFFER, "".join(f"- lesson {n}\n" for n in range(30)))
    network.run("alice")
    export(alice, shelf)
    for n in range(20):
        shelf.edit(there(shelf, f"lesson {n}"), "the same" if n in (3, 4) else f"lesson {n}, told better")
    shelf.edit(there(shelf, "lesson 20"), "  ")
    before = alice.log.last_row()
    pulled = pull(alice, shelf)
    assert len(pulled.edited) == 20 and len(pulled.conflicts) == 1 and alice.log.last_row() == before + 1
    text = shown(network)
    assert text.count("told better") == 18 and text.count("the same") == 2 and len(text.splitlines()) == 30
    assert pull(alice, shelf).edited == [] and counts(export(alice, shelf)) == {"unchanged": 31}


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
