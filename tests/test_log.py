"""The log takes what is signed, chained and complete, in any causal order, once, all of it or nothing."""

from itertools import pairwise
from random import Random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import changes, clock, log
from replica.changes import Kind, Signed
from replica.clone import Clone
from replica.errors import Fork, InvalidChange, MissingDependency, PeerError
from replica.keys import Identity, verify
from replica.log import succession
from tests.helpers import (
    START,
    Network,
    add,
    assert_same,
    batches,
    entry,
    forged,
    history,
    shared_content,
    stored_bytes,
)

DAY = 86_400_000
seeds = st.integers(0, 2**32)
few = settings(max_examples=15, deadline=None)


def write_something(network: Network, random: Random, steps: int = 25) -> None:
    """Three clones write on all policies and meet now and then."""
    names = list(network.clones)
    for step in range(steps):
        clone = network[random.choice(names)]
        network.now += random.choice((0, 1, 1_000))
        clone.log.refresh()
        what = random.randrange(7)
        if what == 0:
            network.sync(*random.sample(names, 2))
        elif what == 1:
            text = clone.documents.raw_text(clone.documents.find("notes.md", "text").shared)
            at = random.randrange(len(text) + 1)
            clone.edit_text("notes.md", new=text[:at] + f"{step}🧠" + text[at + random.randrange(4) :])
        elif what == 2:
            there = clone.documents.entries(clone.documents.find("a-buffer.md", "union"))
            old = random.choice(there) if there else None
            op = entry(f"- edit {step}", after=old and old.place, kills=old.dots if old else ())
            clone.edit_entries("a-buffer.md", "union", [(1, op)])
        elif what == 3:
            there = clone.documents.entries(clone.documents.find("activeContext.md", "latest"))
            op = entry(f"now {step}", kills=[dot for e in there for dot in e.dots])
            clone.edit_entries("activeContext.md", "latest", [(1, op)])
        elif what == 4:
            add(clone, "SESSION_LOG.md", f"- line {step}", policy="log")
        elif what == 5 and (there := clone.documents.all()):
            clone.delete(random.choice(there))
        else:
            add(clone, "a-buffer.md", f"- {step}", "- known to all")


def fresh(network: Network) -> Clone:
    """A member that has heard nothing: its store is empty."""
    name = f"fresh {len(network.clones)}"
    clone = Clone.adopt(network.folder / name, Identity.new(), network["alice"].workspace, name, now_ms=network.clock)
    network.clones[name] = clone
    return clone


def shuffled(full: list[Signed], random: Random) -> list[Signed]:
    """The same changes in another order that respects what each had seen."""
    waiting = [(signed, changes.decode(signed.body)) for signed in full]
    founder = waiting[0][1].author
    held: dict[bytes, int] = {}
    known = {founder}
    ordered = []
    while waiting:
        ready = [
            at
            for at, (_, change) in enumerate(waiting)
            if change.author in known
            and held.get(change.author, 0) == change.seq - 1
            and all(held.get(author, 0) >= seq for author, seq in change.deps)
        ]
        signed, change = waiting.pop(random.choice(ready))
        held[change.author] = change.seq
        if change.kind is Kind.ADMIT:
            known.add(log.clone_id(change.payload["key"]))
        ordered.append(signed)
    return ordered


def all_signed(network: Network, receiver: Clone) -> list[Signed]:
    """A history with a signature on every change: gathered from the stores of the authors."""
    own = {}
    for clone in network.clones.values():
        for signed in history(clone):
            if signed.signature:
                own[signed.body] = signed
    return [own[signed.body] for signed in history(receiver)]


# --- order, repetition, wholeness


@few
@given(seeds)
def test_any_causal_order_and_any_size_of_batches_give_the_same_content(seed):
    """FAILURES 10: the order of arrival decides nothing."""
    random = Random(seed)
    with Network("alice", "bob", "carol", seed=seed) as network:
        write_something(network, random)
        network.sync_all()
        full = all_signed(network, network["alice"])
        for _ in range(3):
            clone = fresh(network)
            rest = shuffled(full, random)
            while rest:
                size = random.choice((1, 2, 7, 100))
                clone.ingest(rest[:size])
                del rest[:size]
            assert_same(clone, network["alice"], network["bob"])


@few
@given(seeds)
def test_what_arrives_twice_changes_nothing(seed):
    """Delivery is at least once (FAILURES 32)."""
    random = Random(seed)
    with Network("alice", "bob", seed=seed) as network:
        write_something(network, random)
        network.sync_all()
        alice = network["alice"]
        full, before, content = all_signed(network, alice), alice.log.last_row(), shared_content(alice)
        for again in (full, full[-3:], shuffled(full, random)):
            stored, _ = alice.ingest(again)
            assert not stored
        assert alice.log.last_row() == before and shared_content(alice) == content


@few
@given(seeds, st.data())
def test_a_batch_with_one_bad_change_leaves_the_store_as_it_was(seed, data):
    random = Random(seed)
    with Network("alice", "bob", seed=seed) as network:
        write_something(network, random)
        network.sync_all()
        clone = fresh(network)
        full = all_signed(network, network["alice"])
        cut = data.draw(st.integers(1, len(full) - 1))
        clone.ingest(full[:cut])
        digest, vector, row = clone.digest(), clone.vector(), clone.log.last_row()
        bad = data.draw(st.integers(cut, len(full) - 1))
        body = bytearray(full[bad].body)
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] ^= 1 << data.draw(st.integers(0, 7))
        with pytest.raises(PeerError):
            clone.ingest([*full[cut:bad], Signed(bytes(body), full[bad].signature), *full[bad + 1 :]])
        assert (clone.digest(), clone.vector(), clone.log.last_row()) == (digest, vector, row)
        clone.ingest(full[cut:])
        assert_same(clone, network["alice"])


@few
@given(seeds)
def test_every_document_rebuilt_from_the_log_has_the_digest_that_it_had(seed):
    with Network("alice", "bob", seed=seed) as network:
        write_something(network, Random(seed), 40)
        network.sync_all()
        for clone in network.clones.values():
            before, content = clone.digest(), shared_content(clone)
            with clone.transaction():
                for (doc,) in clone.store.rows("SELECT n FROM documents"):
                    clone.materialiser.rebuild(doc)
            assert clone.digest() == before and shared_content(clone) == content


# --- forgery


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_in_body_or_signature_is_refused(data):
    """FAILURES 1: an update carries no checksum of its own, a change does."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        bob.edit_text("notes.md", new="words 🧠\n")
        body, signature = history(bob)[-1]
        flipped = bytearray(body + signature)
        flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        before = alice.vector()
        with pytest.raises(PeerError):
            alice.ingest([Signed(bytes(flipped[: len(body)]), bytes(flipped[len(body) :]))])
        assert alice.vector() == before


def test_a_change_without_a_signature_or_with_that_of_another_is_refused():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        good = forged(bob.identity, alice)
        for signature in (None, b"", bytes(64), carol.identity.sign(changes.change_hash(good.body))):
            with pytest.raises(InvalidChange, match="not signed"):
                alice.ingest([Signed(good.body, signature)])
        alice.ingest([good])


def test_a_known_change_behind_a_forged_one_does_not_stand_in_for_its_signature():
    """The last change of an author in a batch covers those before it: last in his chain, not in the batch."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(bob, "a-buffer.md", "- mine")
        network.sync("alice", "bob")
        known = history(bob)[-1]
        fake = forged(bob.identity, alice, signer=Identity.new())
        for batch in ([Signed(fake.body, None), known], [fake, known], [known, Signed(fake.body, None), known]):
            with pytest.raises(InvalidChange):
                alice.ingest(batch)
        assert "- by hand" not in alice.text("a-buffer.md")


def test_one_number_twice_in_a_batch_is_refused_even_when_one_of_them_is_signed():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        right = forged(bob.identity, alice)
        wrong = forged(bob.identity, alice, payload=changes.entries_payload([entry("- another")]))
        for batch in ([Signed(wrong.body, None), right], [right, Signed(wrong.body, None)]):
            with pytest.raises(InvalidChange):
                alice.ingest(batch)
        assert bob.vector() == alice.vector()


def test_a_change_by_somebody_who_was_never_admitted_is_refused():
    with Network("alice") as network, pytest.raises(MissingDependency, match="not a member"):
        network["alice"].ingest([forged(Identity.new(), network["alice"])])


def test_a_change_that_does_not_continue_its_chain_is_refused():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(bob, "a-buffer.md", "- one")
        network.sync("alice", "bob")
        with pytest.raises(InvalidChange, match="two different changes number 1"):
            alice.ingest([forged(bob.identity, alice, prev=bytes(32))])
        with pytest.raises(InvalidChange, match="two different changes number 1"):
            alice.ingest([forged(bob.identity, alice, prev=alice.workspace)])


def test_a_gap_is_refused_and_nothing_waits_in_the_store():
    """FAILURES 5: the engine never gets an update whose predecessors are not there."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        for n in range(3):
            bob.edit_text("notes.md", new=f"{n}\n")
        first, second, third = history(bob)[-3:]
        before = stored_bytes(alice)
        with pytest.raises(MissingDependency):
            alice.ingest([second])
        with pytest.raises(MissingDependency):
            alice.ingest([first, third])
        network.sync("bob", "carol")
        carol.edit_text("notes.md", new="carol\n")
        with pytest.raises(MissingDependency, match="builds on"):
            alice.ingest([history(carol)[-1]])
        assert stored_bytes(alice) == before
        alice.ingest([first, second, third, history(carol)[-1]])
        assert alice.text("notes.md") == "carol\n"


def test_a_peer_cannot_write_into_our_private_chain_nor_name_it():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- secret", level=0)
        with pytest.raises(InvalidChange, match="private"):
            alice.ingest([forged(alice.private, alice, signer=bob.identity)])
        with pytest.raises(MissingDependency):
            alice.ingest([forged(bob.identity, alice, deps=[(alice.private.id, 1)])])
        dot = alice.entries("a-buffer.md")[0].dots[0]
        kill = changes.entries_payload([changes.Remove((dot,))])
        with pytest.raises(InvalidChange):
            alice.ingest([forged(bob.identity, alice, payload=kill)])
        assert [e.text for e in alice.entries("a-buffer.md")] == ["- secret"]


def test_a_second_change_of_one_number_is_a_fork_and_overwrites_nothing():
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        seq, prev = bob.vector().get(bob.identity.id, 0) + 1, bob.log.author(bob.identity.id).head
        add(bob, "a-buffer.md", "- first")
        network.sync("alice", "bob")
        with pytest.raises(Fork, match="bob wrote two different changes"):
            alice.ingest([forged(bob.identity, alice, seq=seq, prev=prev)])
        assert [e.text for e in alice.entries("a-buffer.md")] == ["- first"]


@pytest.mark.parametrize(
    ("kind", "document", "payload"),
    [
        (Kind.ENTRIES, ("notes.md", "text"), changes.entries_payload([entry("- x")])),
        (Kind.TEXT, ("a-buffer.md", "union"), b"\0\0"),
        (Kind.IMPORT, ("a-buffer.md", "union"), "text"),
        (Kind.TEXT, ("notes.md", "text"), b"\x80\x80\x80\x80\x01"),
        (Kind.TEXT, ("notes.md", "text"), b""),
        (Kind.REMOVE, None, {"member": bytes(16)}),
        (Kind.ENTRIES, ("a-buffer.md", "union"), [[[[bytes(16), 1, 0]]]]),
        (Kind.DELETE, ("a-buffer.md", "union"), [[bytes(16), 1, 0]]),
        (Kind.GENESIS, None, changes.member_payload(bytes(32), b"", "x", nonce=bytes(16), workspace="x")),
        (Kind.SUCCEED, None, changes.member_payload(bytes(32), b"", "x", old=bytes(16), proof=bytes(64), why="fork")),
    ],
)
def test_a_signed_change_whose_content_cannot_be_applied_is_refused_whole(kind, document, payload):
    """FAILURES 4: a member's bytes are hostile too; the store stays as it was."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        before, digest = alice.vector(), alice.digest()
        with pytest.raises(PeerError):
            alice.ingest([forged(bob.identity, alice, kind, document, payload)])
        assert (alice.vector(), alice.digest()) == (before, digest)
        network.sync("alice", "bob")


def test_the_first_change_of_another_workspace_is_refused():
    with Network("alice") as network, Network("mallory", seed=9) as other:
        lone = fresh(network)
        with pytest.raises(InvalidChange, match="not that of this workspace"):
            lone.ingest(history(other["mallory"])[:1])
        assert lone.vector() == {}


def test_a_successor_that_the_old_identity_did_not_sign_for_is_refused():
    with Network("alice", "bob") as network:
        alice, bob, new = network["alice"], network["bob"], Identity.new()
        right = bob.identity.sign(succession(alice.workspace, new.public))
        for proof in (bytes(64), new.sign(succession(alice.workspace, new.public)), right):
            payload = changes.member_payload(new.public, b"", "bob-2", old=bob.identity.id, proof=proof, why="copy")
            change = forged(new, alice, Kind.SUCCEED, None, payload)
            if proof != right:
                with pytest.raises(InvalidChange, match="vouched"):
                    alice.ingest([change])
                assert alice.log.author(new.id) is None
        alice.ingest([change])
        assert alice.log.author(new.id).name == "bob-2"


# --- time


def test_a_clock_far_ahead_is_accepted_and_does_not_drag_ours_along():
    """FAILURES 34: no time makes a change invalid, and none sets our clock."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        alice.ingest([forged(bob.identity, alice, time=clock.from_ms(START + 80 * 365 * DAY))])
        alice.ingest([forged(bob.identity, alice, time=clock.LIMIT)])
        stored = alice.edit_entries("a-buffer.md", "union", [(1, entry("- after"))])[0]
        assert clock.to_ms(stored.change.time) == network.now
        alice.ingest([forged(bob.identity, alice, time=clock.from_ms(network.now + DAY // 2))])
        stored = alice.edit_entries("a-buffer.md", "union", [(1, entry("- later"))])[0]
        assert clock.to_ms(stored.change.time) == network.now + DAY // 2


def test_our_own_changes_are_in_order_of_time_though_the_clock_steps_back():
    with Network("alice") as network:
        alice = network["alice"]
        for jump in (0, -5_000, 10, -DAY * 3000, 0):
            network.now += jump
            add(alice, "SESSION_LOG.md", f"- {network.now}", policy="log")
        times = [changes.decode(signed.body).time for signed in history(alice)]
        assert all(one < two for one, two in pairwise(times))


# --- batches


@few
@given(seeds, st.integers(1, 6))
def test_every_batch_can_be_checked_by_itself_after_any_number_of_hops(seed, size):
    """A relay holds one signature for a run of changes; it cuts batches where a signature stands."""
    random = Random(seed)
    with Network("alice", "bob", "carol", seed=seed) as network:
        write_something(network, random, 30)
        network.sync_all()
        source = network["alice"]
        for _ in range(4):
            receiver = fresh(network)
            with mock.patch.object(log, "BATCH_CHANGES", random.randint(1, size)):
                for batch in batches(source):
                    ends = {changes.decode(signed.body).author: signed for signed in batch}
                    for author, signed in ends.items():
                        key = source.log.author(author).key
                        assert verify(key, signed.signature, changes.change_hash(signed.body))
                    receiver.ingest(batch)
            assert_same(source, receiver)
            source = receiver


def test_a_batch_takes_no_more_signatures_than_it_has_authors():
    with Network("alice", "bob") as network:
        for n in range(20):
            add(network["bob"], "a-buffer.md", f"- {n}")
        (batch,) = batches(network["bob"], network["alice"].vector())
        assert [signed.signature is not None for signed in batch] == [False] * 19 + [True]


def test_level_zero_is_in_no_batch_and_in_no_others_vector_or_deps():
    with Network("alice", "bob") as network:
        alice = network["alice"]
        add(alice, "a-buffer.md", "- open")
        add(alice, "a-buffer.md", "- SECRET", level=0)
        add(alice, "a-buffer.md", "- open too")
        sent = b"".join(signed.body for batch in batches(alice) for signed in batch)
        assert b"- open too" in sent and b"SECRET" not in sent and alice.private.id not in sent
        network.sync("alice", "bob")
        assert alice.private.id not in alice.vector()
        assert b"SECRET" not in stored_bytes(network["bob"]) and b"SECRET" in stored_bytes(alice)


# --- two processes


def test_two_processes_of_one_clone_write_one_unbroken_chain():
    with Network("alice", "bob") as network:
        alice = network["alice"]
        other = network.open_again("alice")
        for n in range(6):
            writer = (alice, other)[n % 2]
            add(writer, "a-buffer.md", f"- {n}")
            writer.edit_text("notes.md", new=writer.text("notes.md") + f"{n}🧠\n" if n else "0🧠\n")
        for clone in (alice, other):
            assert clone.text("notes.md") == "".join(f"{n}🧠\n" for n in range(6))
            assert {e.text for e in clone.entries("a-buffer.md")} == {f"- {n}" for n in range(6)}
        assert alice.digest() == other.digest() and alice.vector() == other.vector()
        other.close()
        network.sync("alice", "bob")
        assert_same(alice, network["bob"])


def test_a_process_sees_the_members_that_another_one_let_in():
    with Network("alice", "bob") as network:
        alice, other = network["alice"], network.open_again("alice")
        carol = Identity.new()
        other.admit(carol.public, b"", "carol")
        alice.ingest([forged(carol, other)])
        assert other.text("a-buffer.md") == "- by hand\n"
        other.close()


def test_a_clone_that_wrote_level_zero_before_it_met_anyone_can_still_receive_its_workspace():
    with Network("alice", "bob") as network:
        add(network["alice"], "a-buffer.md", "- open")
        carol = network.add("carol")
        add(carol, "a-buffer.md", "- secret", level=0)
        network.sync("alice", "carol")
        assert {e.text for e in carol.entries("a-buffer.md")} == {"- open", "- secret"}


def test_a_member_cannot_end_another_by_calling_itself_his_successor():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = (network[name] for name in ("alice", "bob", "carol"))
        payload = changes.member_payload(
            bob.identity.public, b"", "bob", old=carol.identity.id, proof=bytes(64), why="fork"
        )
        for seq in (1, 2):
            with pytest.raises(InvalidChange):
                alice.ingest([forged(bob.identity, alice, Kind.SUCCEED, None, payload, seq=seq)])
            add(bob, "a-buffer.md", "- one")
            network.sync("alice", "bob")
        assert not alice.log.author(carol.identity.id).removed


def test_a_document_of_more_entries_than_one_change_may_name_can_be_deleted(monkeypatch):
    monkeypatch.setattr(changes, "MAX_OPS", 5)
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for n in range(13):
            add(alice, "a-buffer.md", f"- {n}")
        alice.delete(alice.document("a-buffer.md"))
        network.sync("alice", "bob")
        assert shared_content(alice) == shared_content(network["bob"]) == {}
