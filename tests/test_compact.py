"""Folding old changes changes nothing that anyone can see, and the store stops growing."""

from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import baselines, bundle, compact, history
from replica.baselines import AddRow, Late
from replica.blocks import Node, order
from replica.changes import Dot, Kind, Remove
from replica.clone import Clone
from replica.errors import DamagedRecord, HistoryFolded, InvalidChange
from tests.helpers import Network, add, assert_same, entry, save, shared_content

AT_ONCE = "[history]\ndays = 0\n"
DAY = 86_400_000


def acknowledged(network: Network, *names: str) -> None:
    """These, or all, have heard from one another what they hold, as nodes note it, and a second goes by."""
    network.now += 1_000
    clones = [clone for name, clone in network.clones.items() if name in names or not names]
    for clone in clones:
        with clone.transaction():
            for other in clones:
                clone.store.execute(
                    "INSERT INTO peers(id, seen, vector) VALUES(?,?,?) ON CONFLICT(id)"
                    " DO UPDATE SET seen=excluded.seen, vector=excluded.vector",
                    (other.identity.id, network.now, msgpack.packb(other.vector())),
                )


@pytest.fixture
def network() -> Iterator[Network]:
    with Network("one", "two", "three") as made:
        for clone in made.clones.values():
            clone.set_config(AT_ONCE)
        yield made


def written(network: Network) -> None:
    """A bit of everything, known to all."""
    one, two = network["one"], network["two"]
    dots = add(one, "a-buffer.md", "- a", "- b", "- c")
    network.sync_all()
    two.edit_entries("a-buffer.md", "union", [(1, entry("- B", kills=[dots[1]]))])
    one.edit_entries("a-buffer.md", "union", [(1, entry("- b!", kills=[dots[1]]))])
    for n in range(20):
        one.edit_text("n.md", new=f"line\n{'x' * n}\n")
        add(two, "SESSION_LOG.md", f"- {n}", policy="log")
        one.edit_text("private.md", new=f"mine {n}\n", level=0)
    network.sync_all()
    acknowledged(network)


def test_folded_documents_are_what_they_were(network):
    written(network)
    one = network["one"]
    before, digest, texts = shared_content(one), one.digest(), [one.text(d.path) for d in one.documents.all()]
    conflicts = [(conflict.id, conflict.versions) for conflict in one.documents.all_conflicts()]
    result = compact.compact(one)
    assert result.folded > 40 and not result.waiting
    with one.transaction():
        for doc in [d for (d,) in one.store.rows("SELECT n FROM documents")]:
            one.materialiser.rebuild(doc)
    assert shared_content(one) == before and one.digest() == digest
    assert [one.text(d.path) for d in one.documents.all()] == texts
    assert [(conflict.id, conflict.versions) for conflict in one.documents.all_conflicts()] == conflicts != []
    assert one.store.value("SELECT count(*) FROM changes WHERE doc IS NOT NULL") == 0


def test_a_folded_clone_and_one_that_is_not_go_on_alike(network):
    written(network)
    one, two, three = (network[name] for name in ("one", "two", "three"))
    compact.compact(one)
    kept = one.entries("a-buffer.md")
    two.edit_entries(
        "a-buffer.md", "union", [(1, entry("- d", after=kept[0].place)), (1, entry("- a", kills=kept[0].dots))]
    )
    three.edit_text("n.md", new="line\nand more\n")
    one.edit_text("n.md", new="first\nline\n")
    network.sync_all()
    assert_same(one, two, three)


@pytest.mark.parametrize("behind", [0, 3, 32, 33])
def test_a_text_with_little_behind_its_baseline_is_not_held_twice_and_goes_on(network, behind):
    written(network)
    one = network["one"]
    one.set_config("[history]\ndays = 10\n")
    network.sync_all()
    network.now += 11 * DAY
    for n in range(behind):
        one.edit_text("n.md", new=f"later {n}\nline\n")
    network.sync_all()
    acknowledged(network)
    text, digest = one.text("n.md"), one.digest()
    compact.compact(one)
    doc = one.document("n.md").shared
    assert one.store.value("SELECT count(*) FROM changes WHERE doc=?", (doc,)) == behind
    assert (one.store.value("SELECT state FROM texts WHERE doc=?", (doc,)) == b"") == (behind <= compact.REPLAYED)
    one.materialiser.forget()
    assert one.materialiser.engine(doc).text == text
    one.store.execute("UPDATE documents SET digest=NULL")
    one.store.set_meta("digest", None)
    assert one.text("n.md") == text and one.digest() == digest
    network["two"].edit_text("n.md", new=f"from two\n{text}")
    one.edit_text("n.md", new=f"{text}from one\n")
    network.sync_all()
    assert one.text("n.md") == f"from two\n{text}from one\n"
    assert_same(*network.clones.values())


def test_a_change_to_a_text_whose_baseline_is_damaged_here_is_not_its_senders_fault(network):
    written(network)
    one, two = network["one"], network["two"]
    compact.compact(one)
    doc = one.document("n.md").shared
    one.store.execute("UPDATE baselines SET data=x'00' WHERE doc=?", (doc,))
    one.materialiser.forget()
    two.edit_text("n.md", new="first\n" + two.text("n.md"))
    add(two, "a-buffer.md", "- after it")
    one.ingest(two.log.batch(one.vector(), 0)[0])
    assert one.vector() == two.vector() and "- after it" in one.text("a-buffer.md")
    for ask in (lambda: one.text("n.md"), lambda: one.materialiser.rebuild(doc)):
        with pytest.raises(DamagedRecord, match=r"n\.md"), one.transaction():
            ask()


def test_a_late_joiner_gets_the_baselines_and_is_the_same(network):
    written(network)
    compact.compact(network["one"])
    add(network["one"], "a-buffer.md", "- later")
    late = network.add("late")
    network.sync("one", "late")
    assert late.log.floor() == network["one"].log.floor()
    network.sync_all()
    assert_same(*network.clones.values())
    add(late, "a-buffer.md", "- from the late one")
    network.sync_all()
    assert_same(*network.clones.values())


def test_nothing_is_folded_that_somebody_may_lack(network):
    one = network["one"]
    add(one, "a-buffer.md", "- a")
    network.sync("one", "two")
    network.now += 1_000
    result = compact.compact(one)
    assert result.folded == 0 and {waiting.name for waiting in result.waiting} == {"two", "three"}


def test_a_young_change_is_kept(network):
    one = network["one"]
    one.set_config("[history]\ndays = 10\n")
    add(one, "a-buffer.md", "- old")
    network.now += 11 * DAY
    add(one, "a-buffer.md", "- young")
    network.sync_all()
    acknowledged(network)
    assert compact.compact(one).folded == 1
    assert history.text_at(one, "a-buffer.md", one.store.meta("time")) == one.text("a-buffer.md")
    with pytest.raises(HistoryFolded, match="folded away"):
        history.text_at(one, "a-buffer.md", one.store.value("SELECT time FROM baselines") - 1)


def test_a_document_whose_regions_wait_keeps_its_changes(network):
    one, two = network["one"], network["two"]
    one.edit_text("n.md", new="word\n")
    network.sync_all()
    one.edit_text("n.md", new="wordy\n")
    two.edit_text("n.md", new="words\n")
    network.sync_all()
    acknowledged(network)
    (conflict,) = one.documents.all_conflicts()
    compact.compact(one)
    assert one.documents.all_conflicts() == [conflict]
    late = network.add("late")
    network.sync("one", "late")
    assert late.documents.all_conflicts() == [conflict]


def test_a_private_line_that_comes_back_after_folding_is_private_still(network):
    one = network["one"]
    save(one, "a-buffer.md", "# Buffer\n\n- shared\n")
    network.run("one")
    (there,) = [e for e in one.entries("a-buffer.md") if e.role == "entry"]
    secret = entry("- secret", after=there.place)
    (stored,) = one.edit_entries("a-buffer.md", "union", [(0, secret)])
    dot = Dot(stored.change.author, stored.change.seq, 0)
    one.edit_entries("a-buffer.md", "union", [(0, Remove((dot,)))])
    network.run("one")
    network.sync_all()
    acknowledged(network)
    assert compact.compact(one).folded
    save(one, "a-buffer.md", "# Buffer\n\n- shared\n- secret\n")
    network.run("one")
    assert [e.private for e in one.entries("a-buffer.md") if e.text == "- secret"] == [True]


def test_the_row_numbers_of_a_store_only_grow(network):
    written(network)
    one = network["one"]
    last = one.log.last_row()
    compact.compact(one)
    assert one.log.last_row() == last
    add(one, "a-buffer.md", "- more")
    assert one.log.last_row() == last + 1


def test_folding_twice_does_nothing_the_second_time(network):
    written(network)
    one = network["one"]
    compact.compact(one)
    rows = one.store.rows("SELECT * FROM adds")
    assert compact.compact(one).folded == 0
    assert one.store.rows("SELECT * FROM adds") == rows


def test_a_silent_member_is_retired_by_what_others_wrote_since(network):
    one, two = network["one"], network["two"]
    acknowledged(network)
    network.now += 91 * DAY
    assert compact.retire(one) == []  # our clock alone says nothing
    add(two, "a-buffer.md", "- still here")
    network.sync("one", "two")
    assert compact.retire(one) == ["three"]
    assert compact.retire(one) == []


# --- what is pruned


def rows_of(draw) -> list[AddRow]:
    count = draw(st.integers(1, 24))
    rows = []
    for n in range(count):
        id = bytes([draw(st.integers(0, 9 if draw(st.booleans()) else 200))]) * 16
        after = draw(st.sampled_from([None, *[row.place for row in rows], b"?" * 16]))
        rows.append(AddRow(id, bytes(16), n + 1, 0, draw(st.integers(0, 5)), "entry", f"- {n}", 1, "", id, after, None,
                           None, draw(st.booleans()), None))  # fmt: skip
    return rows


def shown(rows: list[AddRow]) -> list[bytes]:
    """The live places in order, as Documents has them."""
    first: dict[bytes, AddRow] = {}
    for row in sorted(rows, key=lambda row: (row.dead, row.standing)):
        first.setdefault(row.place, row)
    live = {row.place for row in rows if not row.dead}
    return [place for place in order(Node(p, row.after, row.standing) for p, row in first.items()) if place in live]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_pruning_keeps_the_order_of_what_lives_whatever_comes_behind_it(data):
    rows = rows_of(data.draw)
    late = data.draw(st.sets(st.sampled_from([row.place for row in rows])))
    kept = baselines.prune(rows, "union", Late(frozenset(late), frozenset()))
    assert shown(kept) == shown(rows)
    # What comes later names a live place, or one that was known to be needed.
    anchors = [None, *sorted(late | {row.place for row in rows if not row.dead})]
    for n in range(3):
        id = bytes([210 + n]) * 16
        new = AddRow(id, b"\1" * 16, n + 1, 0, data.draw(st.integers(0, 9)), "entry", "- new", 1, "", id,
                     data.draw(st.sampled_from(anchors)), None, None, False, None)  # fmt: skip
        rows, kept = [*rows, new], [*kept, new]
        assert shown(kept) == shown(rows)
    # Somebody takes a live block away.
    live = [row for row in rows if not row.dead]
    if live:
        gone = data.draw(st.sampled_from(live)).dot
        rows, kept = ([row._replace(dead=row.dead or row.dot == gone) for row in of] for of in (rows, kept))
        assert shown(kept) == shown(rows)


def test_a_queue_of_a_thousand_entries_leaves_what_lives():
    """Each entry is written behind the one before, and the first is taken away: the chain of the dead folds up."""
    rows = [
        AddRow(n.to_bytes(16, "big"), bytes(16), n, 0, n, "entry", f"- {n}", 1, "", n.to_bytes(16, "big"),
               (n - 1).to_bytes(16, "big") if n > 1 else None, None, None, n < 990, None)
        for n in range(1, 1001)
    ]  # fmt: skip
    kept = baselines.prune(rows, "union", Late(frozenset(), frozenset()))
    assert len(kept) == 11 and shown(kept) == shown(rows)


def test_what_a_later_change_takes_away_is_kept():
    row = AddRow(b"a" * 16, bytes(16), 1, 0, 1, "entry", "- a", 1, "", b"a" * 16, None, None, None, True, None)
    late = Late(frozenset(), frozenset({Dot(bytes(16), 1, 0)}))
    for policy in ("latest", "log", "union"):
        assert baselines.prune([row], policy, late) == [row._replace(text="")]
        assert baselines.prune([row], policy, Late(frozenset(), frozenset())) == []


@pytest.mark.parametrize("away", [True, False])
def test_a_removal_counts_once_everybody_has_heard_of_it(network, away):
    """Two has not, and takes what three wrote without having seen what one would have folded."""
    one, two, three = (network[name] for name in ("one", "two", "three"))
    (dot,) = add(one, "a-buffer.md", "- e")
    network.sync_all()
    one.edit_entries("a-buffer.md", "union", [(1, entry("- e by one", kills=[dot]))])
    network.sync("one", "two")
    acknowledged(network, "one", "two")
    one.append(Kind.REMOVE, None, {"member": three.identity.id, **({"away": True} if away else {})})
    compact.compact(one)
    three.edit_entries("a-buffer.md", "union", [(1, entry("- e by three", kills=[dot]))])
    network.sync("two", "three")
    network.sync("one", "two")
    assert_same(one, two)
    assert len(one.documents.all_conflicts()) == 1
    acknowledged(network, "one", "two")
    assert compact.compact(one).folded >= 3


# --- bytes


@given(st.binary(max_size=200))
def test_garbage_is_no_baseline_and_no_bundle(data):
    for read in (baselines.unpack, bundle.read):
        with pytest.raises(InvalidChange):
            read(data)


def test_a_bundle_with_a_text_that_does_not_load_is_refused():
    bad = baselines.Baseline({}, [], "text", b"\x80\x80\x80\x80\x01")
    with pytest.raises(InvalidChange, match="does not load"):
        bundle.check_texts([bad])


def test_a_bundle_holds_nothing_of_level_0(network):
    one = network["one"]
    written(network)
    one.edit_text("secret.md", new="the-secret-words\n", level=0)
    one.edit_entries("a-buffer.md", "union", [(0, entry("- another-secret"))])
    compact.compact(one)
    packed = bundle.make(one.store, one.log)
    plain = baselines.inflate(packed, 2**30)
    assert b"secret" not in plain and one.private.id not in plain
    assert all(b"secret" not in baselines.inflate(blob, 2**30) for *_, blob in bundle.read(packed).documents)
    assert isinstance(one, Clone)
