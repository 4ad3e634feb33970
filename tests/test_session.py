"""The protocol of two clones, as two objects and a list: what may be said, who may listen, when both are in step."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import clock, log
from replica.changes import Kind, Signed, member_payload
from replica.clone import Clone
from replica.errors import IncompatiblePeer, InvalidChange, MissingDependency, ProtocolError
from replica.keys import Identity
from replica.log import succession
from tests.helpers import START, Link, Network, add, assert_same, forged, history, read, save, sync, talk
from transport import session as protocol
from transport.session import (
    ACCEPTS,
    Ack,
    Baseline,
    Bye,
    Changes,
    Digest,
    Diverged,
    DocumentDigests,
    Ended,
    Hello,
    InStep,
    Restart,
    Session,
    State,
    Took,
)  # fmt: skip

MESSAGES = {
    Changes: Changes(()), Ack: Ack({}), Digest: Digest({}, bytes(32)), DocumentDigests: DocumentDigests({}, ()),
    Baseline: Baseline("join", b"", 0, 1, b""), Restart: Restart(),
    Bye: Bye("enough"), Hello: Hello((1,), bytes(16), {}),
}  # fmt: skip


def reasons(events) -> list[str]:
    return [event.reason for event in events if isinstance(event, Ended)]


# --- the table


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", MESSAGES)
def test_what_a_peer_may_not_say_now_is_refused_and_changes_nothing(state, kind):
    with Network("alice", "bob") as network:
        session = Session(network["alice"], network["bob"].identity.id)
        session.state = state
        if kind in ACCEPTS[state]:
            return
        with pytest.raises(ProtocolError, match=kind.__name__):
            session.receive(MESSAGES[kind])
        assert session.state is state


def test_the_table_names_every_message_in_some_state():
    assert set().union(*ACCEPTS.values()) == set(MESSAGES)


def test_a_joiner_listens_to_who_let_it_in_before_it_knows_that_one(monkeypatch):
    """The inviter was admitted late in a long log: the first batches come from somebody that the joiner cannot know."""
    from replica import log

    monkeypatch.setattr(log, "BATCH_CHANGES", 1)
    with Network("alice") as network:
        for n in range(5):
            add(network["alice"], "a-buffer.md", f"- {n}")
        network.add("bob")
        network.sync("alice", "bob")
        network.add("carol", by="bob")
        network.sync("bob", "carol")
        assert_same(network["bob"], network["carol"])


def test_a_peer_of_another_workspace_or_protocol_is_refused():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        session = Session(alice, bob.identity.id)
        with pytest.raises(IncompatiblePeer, match="workspace"):
            session.receive(Hello((protocol.PROTOCOL,), bytes(16), {}))
        for versions in ((), (0,), (protocol.PROTOCOL + 1, protocol.PROTOCOL + 2)):
            with pytest.raises(IncompatiblePeer, match="protocol"):
                session.receive(Hello(versions, alice.workspace, {}))
        session.receive(Hello((7, protocol.PROTOCOL), alice.workspace, {}))


# --- in step


def test_a_session_ends_in_step_on_both_sides_with_equal_digests():
    """FAILURES 1, 32: only equal digests of content for equal vectors mean that both hold the same."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one")
        bob.edit_text("notes.md", new="two\n")
        events = network.sync("alice", "bob")
        assert [event.digest for event in events if isinstance(event, InStep)] == [alice.digest()] * 2
        assert_same(alice, bob)


def test_nobody_is_in_step_before_the_digests_were_said():
    with Network("alice", "bob") as network:
        add(network["alice"], "a-buffer.md", "- one")
        link = Link(network["alice"], network["bob"])
        while link.busy:
            link.deliver(link.busy[0])
            assert link.sessions[0].in_step is False or link.sessions[1].peer_vector == network["alice"].vector()
        link.run()
        assert link.in_step
        add(network["bob"], "a-buffer.md", "- two")
        link.send(1, link.sessions[1].changed())
        assert not link.sessions[1].in_step
        link.run()
        assert link.in_step


def test_content_that_differs_at_equal_vectors_is_found_named_and_rebuilt():
    """FAILURES 1: whatever damaged a table, the log heals it."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one", "- two")
        alice.edit_text("notes.md", new="text\n")
        network.sync("alice", "bob")
        right = alice.digest()
        for table in ("UPDATE adds SET lead=char(10) WHERE text='- one'", "UPDATE texts SET text='changed'"):
            bob.store.execute(table)
            with bob.transaction():
                bob.store.execute("UPDATE documents SET digest=NULL")
                bob.store.set_meta("digest", None)
            assert bob.digest() != right
            events = sync(alice, bob)
            assert any(isinstance(event, Diverged) and event.paths for event in events)
            assert alice.digest() == bob.digest() == right


def test_divergence_that_cannot_be_healed_is_told_and_does_not_go_round_for_ever(monkeypatch):
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one")
        network.sync("alice", "bob")
        monkeypatch.setattr(bob.documents, "_document_digest", lambda document: b"another program's idea")
        with bob.transaction():
            bob.store.execute("UPDATE documents SET digest=NULL")
            bob.store.set_meta("digest", None)
        link = Link(alice, bob)
        link.run()
        assert not link.in_step
        assert any(isinstance(e, Diverged) and not e.healed for e in link.events[0] + link.events[1])


def test_what_is_new_during_a_session_goes_over_at_once():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        near, far = Link(alice, bob), Link(bob, carol)
        near.run(), far.run()
        alice.on_change = lambda: near.send(0, near.sessions[0].changed())
        bob.on_change = lambda: far.send(0, far.sessions[0].changed())
        add(alice, "a-buffer.md", "- live")
        near.run(), far.run()
        assert carol.text("a-buffer.md") == "- live\n"
        assert near.in_step and far.in_step


def test_the_waiting_changes_are_counted_until_they_are_acknowledged():
    """FAILURES 16: held elsewhere means acknowledged from there."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        link = Link(alice, network["bob"])
        link.run()
        for n in range(3):
            add(alice, "a-buffer.md", f"- {n}")
        link.send(0, link.sessions[0].changed())
        assert link.sessions[0].behind == 3
        link.deliver(1)
        assert link.sessions[0].behind == 3
        link.run()
        assert link.sessions[0].behind == link.sessions[0].ahead == 0


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_link_that_breaks_again_and_again_loses_nothing_and_ends(seed, scale):
    random = Random(seed)
    with Network("alice", "bob", seed=seed) as network, pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "BATCH_CHANGES", scale)
        alice, bob = network["alice"], network["bob"]
        for n in range(30):
            add((alice, bob)[random.randrange(2)], "a-buffer.md", f"- {n}")
        for _ in range(6):
            link = Link(alice, bob)
            for _ in range(random.randrange(12)):
                if link.busy:
                    link.deliver(random.choice(link.busy))
        network.sync("alice", "bob")
        assert_same(alice, bob)
        assert len(alice.entries("a-buffer.md")) == 30


def test_no_more_is_on_its_way_than_the_window_allows(monkeypatch):
    """Memory is bounded by acknowledgements, not by what there is to send (FAILURES 11, 28)."""
    monkeypatch.setattr(log, "BATCH_CHANGES", 1)
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for n in range(20):
            add(alice, "a-buffer.md", f"- {n}")
        link = Link(alice, network["bob"])
        most = 0
        while link.busy:
            link.deliver(link.busy[0])
            most = max(most, sum(isinstance(message, Changes) for message in link.queues[1]))
        link.run()
        assert 0 < most <= protocol.WINDOW and link.in_step


def test_two_sessions_at_once_store_everything_once():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(10):
            add(alice, "a-buffer.md", f"- {n}")
        first, second = Link(alice, bob), Link(bob, alice)
        while first.busy or second.busy:
            for link in (first, second):
                if link.busy:
                    link.deliver(link.busy[-1])
        first.run(), second.run()
        took = [stored for e in first.events[1] + second.events[0] if isinstance(e, Took) for stored in e.changes]
        assert len(took) == 10 and first.in_step and second.in_step


# --- a peer that breaks the rules


def test_a_bad_change_ends_the_session_with_a_reason_and_stores_nothing():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        good = forged(bob.identity, alice)
        before = alice.vector()
        for bad, error in (
            (Signed(good.body, bytes(64)), InvalidChange),
            (forged(Identity.new(), alice), MissingDependency),
            (Signed(b"\xff", None), InvalidChange),
        ):
            session = Session(alice, bob.identity.id)
            session.receive(Hello((1,), alice.workspace, bob.vector()))
            with pytest.raises(error) as caught:
                session.receive(Changes((bad,)))
            (bye,) = session.fail(caught.value)
            assert isinstance(bye, Bye) and bye.reason and session.state is State.CLOSED
        assert alice.vector() == before


def test_a_peer_that_claims_to_hold_what_it_does_not_gets_no_false_step():
    """FAILURES 32: its vector alone convinces nobody."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one")
        session = Session(alice, bob.identity.id)
        session.receive(Hello((1,), alice.workspace, alice.vector()))
        session.receive(Digest(alice.vector(), bytes(32)))
        assert not session.in_step


# --- membership

REMOVED = f"{{}} was removed from the workspace by alice on {clock.to_text(clock.from_ms(START))}"


def test_a_removed_member_is_told_and_gets_nothing_more():
    """FAILURES 15, 29: asked for every message, not once a connection."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        link = Link(alice, carol)
        link.run()
        alice.remove("carol")
        link.send(0, link.sessions[0].changed())
        while link.busy:
            link.deliver(link.busy[0])
        assert carol.removed and "removed" in reasons(link.events[1])[0]
        add(alice, "a-buffer.md", "- after")
        assert REMOVED.format("carol") in reasons(talk(alice, carol))
        assert carol.documents.all() == []
        # Who has not heard of it yet hears of it from the others, and then closes too.
        network.sync("alice", "bob")
        add(carol, "a-buffer.md", "- from carol")
        assert REMOVED.format("carol") in reasons(talk(bob, carol))
        assert bob.text("a-buffer.md") == "- after\n"


def test_a_clone_that_was_removed_while_it_was_away_is_told_by_the_first_it_meets():
    with Network("alice", "bob") as network:
        network["alice"].remove("bob")
        assert reasons(talk(network["bob"], network["alice"])) == [REMOVED.format("bob")] * 2
        assert not network["bob"].removed  # told, not proven: it has seen no change that says so


def test_a_stranger_gets_nothing():
    with Network("alice") as network:
        alice = network["alice"]
        add(alice, "a-buffer.md", "- ours")
        stranger = Clone.adopt(network.folder / "eve", Identity.new(), alice.workspace, "eve")
        network.clones["eve"] = stranger
        assert "not a member of the workspace" in reasons(talk(alice, stranger))
        assert stranger.vector() == {} and stranger.log.last_row() == 0


def test_a_removed_member_comes_back_through_nobody():
    """FAILURES 15: a removal is itself replicated; what a third clone relays does not undo it."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        alice.remove("carol")
        add(carol, "a-buffer.md", "- written before carol knew")
        network.sync("bob", "carol")  # bob does not know yet
        network.sync("alice", "bob")
        for clone in (alice, bob):
            assert carol.identity.id not in clone.trusted()
            assert "- written before carol knew" in clone.text("a-buffer.md")
            assert REMOVED.format("carol") in reasons(talk(clone, carol))


def test_a_newcomer_gets_everything_from_any_member():
    with Network("alice", "bob") as network:
        add(network["alice"], "a-buffer.md", "- old")
        carol = network.add("carol")
        network.sync("alice", "bob")
        network.sync("bob", "carol")
        assert carol.text("a-buffer.md") == "- old\n" and carol.workspace_name == "team"
        assert {m["name"] for m in carol.members()} == {"alice", "bob", "carol"}


def test_relayed_changes_keep_signatures_that_the_last_in_line_can_check(monkeypatch):
    monkeypatch.setattr(log, "BATCH_CHANGES", 3)
    names = ("alice", "bob", "carol", "dave", "erin")
    with Network(*names) as network:
        for n in range(20):
            add(network["alice"], "a-buffer.md", f"- {n}")
            if n % 7 == 3:
                network.sync("alice", "bob")
        for one, other in pairwise(names):
            network.sync(one, other)
        assert len(network["erin"].entries("a-buffer.md")) == 20
        assert sum(signed.signature is None for signed in history(network["erin"])) > 0


@pytest.mark.parametrize("path", ["a-buffer.md", "activeContext.md", "SESSION_LOG.md", "notes.md"])
def test_the_same_file_on_two_clones_is_there_once(path):
    """FAILURES 7."""
    content = "# Head\n\n- one 🧠\n- two\n\nprose\n"
    with Network("alice", "bob", "carol") as network:
        for clone in network.clones.values():
            save(clone, path, content)
        network.share()
        for clone in network.clones.values():
            assert read(clone, path) == content and clone.text(path) == content
        assert network["alice"].documents.all_conflicts() == []
        assert_same(*network.clones.values())


def test_a_removal_beside_a_succession_of_the_same_member_leaves_the_others_able_to_sync():
    """FAILURES 15: whoever hears of which first, the removal outranks and nobody is cut off from the rest."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        new = Identity.new()
        proof = bob.identity.sign(succession(alice.workspace, new.public))
        payload = member_payload(new.public, b"", "bob-2", old=bob.identity.id, proof=proof, why="fork")
        carol.ingest([forged(new, carol, Kind.SUCCEED, None, payload)])
        alice.remove("bob")
        network.sync("alice", "carol")
        assert_same(alice, carol)
        assert alice.trusted().keys() - {carol.identity.id} == carol.trusted().keys() - {alice.identity.id} == set()
