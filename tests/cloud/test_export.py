"""Export: what goes out, once, and what is said of it."""

import pytest

from replica import writing
from replica.bridge import Bridge
from replica.cloud import export as exporting
from replica.cloud import items as read
from replica.cloud.base import SinkError, Stored, Trouble
from replica.cloud.export import Cut, Options, Report
from replica.cloud.ledger import Ledger
from tests.cloud.shelf import Shelf
from tests.helpers import Network, save
from tests.helpers import read as file_of

BUFFER = "lessons-buffer.md"


@pytest.fixture
def network():
    with Network("alice", "bob") as network:
        save(network["alice"], BUFFER, "".join(f"- lesson {n}\n" for n in range(12)))
        network.run("alice")
        network.share()
        yield network


@pytest.fixture(params=[True, False], ids=["our ids", "its ids"])
def shelf(network, request):
    return Shelf(network["alice"], keeps_ids=request.param)


def export(clone, shelf, cut=Cut(), **options) -> Report:
    with Ledger(clone.root) as ledger:
        n = ledger.sink(shelf.settings.name, "here")
        todo = exporting.plan(clone, ledger, n, shelf.type, 1, Options(**options), cut)
        report = Report(shelf.settings.name, shelf.type, "here", todo)
        return exporting.run(clone, ledger, n, shelf, todo, report, level=1, sleep=lambda seconds: None)


def counts(report: Report) -> dict[str, int]:
    found = {what: report.count(what) for what in ("new", "modified", "deleted")}
    found |= {"unchanged": report.planned.unchanged, "failed": len(report.failures), "pending": report.pending}
    return {what: count for what, count in found.items() if count}


def test_everything_goes_once_and_then_nothing(network, shelf):
    alice = network["alice"]
    assert counts(export(alice, shelf)) == {"new": 12}
    assert shelf.texts() == sorted(f"lesson {n}" for n in range(12))
    shelf.calls.clear()
    assert counts(export(alice, shelf)) == {"unchanged": 12}
    assert shelf.calls == []
    assert counts(export(alice, shelf, force=True)) == {"modified": 12} and len(shelf.things) == 12


def test_an_edit_is_modified_and_a_removal_deleted(network, shelf):
    alice = network["alice"]
    export(alice, shelf)
    save(alice, BUFFER, file_of(alice, BUFFER).replace("lesson 3\n", "lesson three\n").replace("- lesson 7\n", ""))
    network.run("alice")
    assert counts(export(alice, shelf)) == {"modified": 1, "deleted": 1, "unchanged": 10}
    assert "lesson three" in shelf.texts() and "lesson 7" not in shelf.texts() and len(shelf.things) == 11


def test_a_deleted_document_goes_there_too(network, shelf):
    alice = network["alice"]
    export(alice, shelf)
    (alice.root / BUFFER).unlink()
    network.run("alice")
    assert counts(export(alice, shelf)) == {"deleted": 12} and shelf.things == {}


def test_two_clones_name_items_alike(network, shelf):
    alice, bob = network["alice"], network["bob"]
    save(bob, BUFFER, file_of(bob, BUFFER).replace("lesson 3", "lesson three"))
    network.run("bob")
    network.share()
    found = [
        {item.id: item for source in read.sources(clone) for item in read.of(clone, source).items}
        for clone in (alice, bob)
    ]
    assert found[0] == found[1] and len(found[0]) == 12


def test_two_clones_that_export_the_same_store_each_item_once(network):
    alice, bob = network["alice"], network["bob"]
    shelf = Shelf(alice)
    export(alice, shelf)
    assert counts(export(bob, shelf)) == {"new": 12}
    assert len(shelf.things) == 12


def test_level_0_goes_nowhere(network, shelf):
    alice = network["alice"]
    writing.add(alice, BUFFER, "the secret", level=0)
    save(alice, "replica.toml", '[[documents]]\nglob = "mine.md"\npolicy = "text"\nlevel = 0\n\n'
         '[[documents]]\nglob = "**/*-buffer.md"\npolicy = "union"\n')  # fmt: skip
    save(alice, "mine.md", "# Mine\nmore secrets\n")
    network.run("alice")
    report = export(alice, shelf)
    assert len(shelf.things) == 12 and "secret" not in str(shelf.things)
    assert [skip.reason for skip in report.planned.skips if "level 0" in skip.reason] == [read.PRIVATE]
    assert "secret" not in str(report.planned.skips)


def test_what_became_private_since_the_plan_was_made_does_not_leave(network, shelf):
    alice = network["alice"]
    save(alice, "replica.toml", '[[documents]]\nglob = "**/*-buffer.md"\npolicy = "union"\n')
    network.run("alice")

    def before(batch):
        text = '[[documents]]\nglob = "**/*-buffer.md"\npolicy = "union"\nlevel = 0\n'
        save(alice, "replica.toml", text)
        with network.open_again("alice") as other:  # another process, and here another thread
            Bridge(other, network.clock).run()
        shelf.before = lambda batch: None

    shelf.before = before
    report = export(alice, shelf)
    assert len(shelf.things) == shelf.batch
    assert sum(skip.reason == "it is not shared any more" for skip in report.planned.skips) == 12 - shelf.batch


def test_what_became_private_is_taken_away_there(network, shelf):
    alice = network["alice"]
    export(alice, shelf)
    save(alice, "replica.toml", '[[documents]]\nglob = "**/*-buffer.md"\npolicy = "union"\nlevel = 0\n')
    network.run("alice")
    assert counts(export(alice, shelf)) == {"deleted": 12} and shelf.things == {}


def test_what_is_not_acknowledged_waits(network, shelf):
    alice = network["alice"]
    cut = Cut(dict(alice.vector()))
    export(alice, shelf)
    save(alice, BUFFER, file_of(alice, BUFFER).replace("- lesson 3\n", "- lesson three\n").replace("- lesson 7\n", ""))
    save(alice, "new-buffer.md", "- new\n")
    network.run("alice")
    report = export(alice, shelf, cut)
    assert counts(report) == {"unchanged": 10}
    reasons = {skip.reason for skip in report.planned.skips}
    assert reasons == {read.WAITS} and len(report.planned.skips) == 3
    assert counts(export(alice, shelf)) == {"new": 1, "modified": 1, "deleted": 1, "unchanged": 10}


def test_what_is_in_conflict_waits_as_it_was(network, shelf):
    alice, bob = network["alice"], network["bob"]
    export(alice, shelf)
    for clone, words in ((alice, "says alice"), (bob, "says bob")):
        save(clone, BUFFER, file_of(clone, BUFFER).replace("lesson 3\n", f"lesson 3 {words}\n"))
        network.run(clone.name)
    network.share()
    report = export(alice, shelf)
    assert counts(report) == {"unchanged": 11} and "lesson 3" in shelf.texts()
    assert sum("in conflict" in skip.reason for skip in report.planned.skips) == 2


# --- faults


def test_a_run_that_is_cut_goes_on_where_it_was(network, shelf):
    alice = network["alice"]

    def before(batch):
        if len(shelf.things) >= 5:
            raise SinkError(Trouble.UNREACHABLE, "no network", hint="later")

    shelf.before = before
    report = export(alice, shelf)
    assert counts(report) == {"new": 5, "failed": 5, "pending": 2} and report.ended is not None
    shelf.before = lambda batch: None
    assert counts(export(alice, shelf)) == {"new": 7, "unchanged": 5}
    assert len(shelf.things) == 12


def test_an_answer_that_is_lost_makes_no_copy(network, shelf):
    alice = network["alice"]
    lost = iter([True, False, True, True, True, True, True])

    def after(batch):
        if next(lost, False):
            raise SinkError(Trouble.UNREACHABLE, "the line broke")

    shelf.after = after
    export(alice, shelf)
    shelf.after = lambda batch: None
    export(alice, shelf)
    assert shelf.texts() == sorted(f"lesson {n}" for n in range(12))


def test_a_crash_between_the_answer_and_the_ledger_makes_no_copy(network, shelf):
    alice = network["alice"]

    class Killed(BaseException):
        pass

    def after(batch):
        raise Killed

    shelf.after = after
    with pytest.raises(Killed):
        export(alice, shelf)
    assert len(shelf.things) == 5
    shelf.after = lambda batch: None
    save(alice, BUFFER, file_of(alice, BUFFER).replace("- lesson 0\n", ""))  # and it is gone before the next run
    network.run("alice")
    assert counts(export(alice, shelf)) == {"new": 11, "deleted": 1}
    assert shelf.texts() == sorted(f"lesson {n}" for n in range(1, 12))


def test_a_bad_item_holds_up_no_other(network, shelf):
    alice = network["alice"]

    def before(batch):
        if any(out.item.text == "lesson 3" for out in batch):
            raise SinkError(Trouble.BAD_ITEM, "I do not like lesson 3", hint="mend it")

    shelf.before = before
    report = export(alice, shelf)
    assert counts(report) == {"new": 11, "failed": 1} and report.ended is None
    (failure,) = report.failures
    assert (failure.preview, failure.trouble, failure.remedy) == ("lesson 3", "bad item", "mend it")
    again = export(alice, shelf)
    assert counts(again) == {"failed": 1, "unchanged": 11} and again.failures[0].tries == 2
    report = export(alice, shelf)  # now it is left in peace for a while
    assert counts(report) == {"unchanged": 11} and "failed 2 times" in report.planned.skips[0].reason
    shelf.before = lambda batch: None
    assert counts(export(alice, shelf, force=True)) == {"new": 1, "modified": 11}


def test_what_is_too_big_goes_in_smaller_calls(network, shelf):
    def before(batch):
        if len(batch) > 1:
            raise SinkError(Trouble.TOO_BIG, "too big")

    shelf.before = before
    assert counts(export(network["alice"], shelf)) == {"new": 12}


def test_a_service_that_asks_to_wait_is_waited_for(network, shelf):
    alice, waits = network["alice"], []
    answers = iter([7.0, 2.0])

    def before(batch):
        if (pause := next(answers, None)) is not None:
            raise SinkError(Trouble.THROTTLE, "slowly", retry_after=pause)

    shelf.before = before
    with Ledger(alice.root) as ledger:
        n = ledger.sink("shelf", "here")
        todo = exporting.plan(alice, ledger, n, "shelf", 1, Options(), Cut())
        report = exporting.run(
            alice, ledger, n, shelf, todo, Report("shelf", "shelf", "here", todo), level=1, sleep=waits.append
        )
    assert counts(report) == {"new": 12} and waits == [7.0, 2.0]


def test_a_service_that_asks_for_an_hour_is_left_alone(network, shelf):
    def before(batch):
        raise SinkError(Trouble.THROTTLE, "come back later", retry_after=3600)

    shelf.before = before
    report = export(network["alice"], shelf)
    assert counts(report) == {"failed": 5, "pending": 7} and report.ended.retry_after == 3600
    assert shelf.calls.count("store") == 1


@pytest.mark.parametrize("trouble", [Trouble.AUTH, Trouble.QUOTA])
def test_a_key_that_is_refused_is_not_tried_on_every_item(network, shelf, trouble):
    shelf.before = lambda batch: [SinkError(trouble, "no")] * len(batch)
    report = export(network["alice"], shelf)
    assert counts(report) == {"failed": 5, "pending": 7} and shelf.calls.count("store") == 1


# --- what was asked for


def test_scopes_types_and_limits(network, shelf):
    alice = network["alice"]
    save(alice, "decisions-inbox.md", "- use SQLite\n- use TLS\n")
    save(alice, "notes.md", "# Plan\nsome words\n")
    network.run("alice")
    assert counts(export(alice, shelf, scope="decisions")) == {"new": 2}
    assert counts(export(alice, shelf, scope="*.md", exclude=("lesson",), limit=1)) == {"new": 1, "unchanged": 2}
    report = export(alice, shelf, exclude=("lessons-*.md",), type="guideline", tags=("q4",))
    assert counts(report) == {"unchanged": 3} or counts(report) == {"new": 1, "unchanged": 2}
    assert counts(export(alice, shelf, type="guideline", tags=("q4",))) == {"new": 12, "unchanged": 3}
    fields = [fields for text, fields in shelf.things.values() if text.startswith("lesson")]
    assert {f["type"] for f in fields} == {"guideline"} and {f["tags"] for f in fields} == {"q4"}
    assert counts(export(alice, shelf)) == {"unchanged": 15}


def test_a_scope_has_its_own_tags_and_namespace(network, shelf):
    alice = network["alice"]
    save(
        alice, "replica.toml", '[scopes.acme]\ndocuments = ["brands/acme/**"]\ntags = ["acme"]\nnamespace = "acme-1"\n'
    )
    (alice.root / "brands" / "acme").mkdir(parents=True)
    save(alice, "brands/acme/tone-buffer.md", "- be brief\n")
    network.run("alice")
    assert counts(export(alice, shelf, scope="acme")) == {"new": 1}
    ((text, fields),) = shelf.things.values()
    assert (text, fields["tags"], fields["namespace"]) == ("be brief", "acme", "acme-1")
    assert counts(export(alice, shelf)) == {"new": 12, "unchanged": 1}


def test_the_first_export_after_the_ledger_is_lost_makes_no_copies(network):
    alice = network["alice"]
    shelf = Shelf(alice)
    export(alice, shelf)
    for file in (alice.root / ".replica").glob("cloud.db*"):
        file.unlink()
    assert counts(export(alice, shelf)) == {"new": 12} and len(shelf.things) == 12
    assert all(isinstance(stored, Stored) for _, stored in export(alice, shelf, force=True).done)


def test_what_the_service_could_not_keep_is_a_failure_and_sent_again(network, shelf):
    alice = network["alice"]
    export(alice, shelf)
    save(alice, BUFFER, file_of(alice, BUFFER) + "- one more\n")
    network.run("alice")
    id = next(item.id for item in _items(alice) if item.text == "lesson 3")
    shelf.dropped = {id: SinkError(Trouble.BAD_ITEM, "it could not be read", hint="mend it")}
    report = export(alice, shelf)
    assert counts(report) == {"new": 1, "unchanged": 12, "failed": 1}
    shelf.dropped = {}
    assert counts(export(alice, shelf)) == {"modified": 1, "unchanged": 12}


def _items(clone):
    return [item for source in read.sources(clone) for item in read.of(clone, source).items]


def test_an_item_that_changes_its_scope_is_taken_out_of_the_old_one(network):
    alice = network["alice"]
    deleted = []

    class Apart(Shelf):
        apart = True

        def delete(self, batch):
            deleted.extend(batch)
            return super().delete(batch)

    shelf = Apart(alice)
    export(alice, shelf)
    save(alice, "replica.toml", f'[scopes.acme]\ndocuments = ["{BUFFER}"]\n')
    network.run("alice")
    assert counts(export(alice, shelf)) == {"modified": 12}
    assert {known.namespace for known in deleted} == {None} and len(deleted) == 12 and len(shelf.things) == 12
    deleted.clear()
    assert counts(export(alice, shelf)) == {"unchanged": 12} and not deleted
