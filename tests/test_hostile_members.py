"""A member that lies: refused with a reason, left out, named until it is resolved; everybody else goes on.

Each lie is told by a real member with a valid key. The breadth is told session to session without a network; the last
tests have real nodes on loopback.
"""

import asyncio
import json
import os
import subprocess
import sys
import time

import msgpack
import pytest

from replica import changes, faults, guard, sieve, status
from replica.changes import Add, Dot, Kind, Remove, Signed, change_hash, entries_payload
from replica.clone import Clone
from replica.errors import InvalidChange, PeerError, ProtocolError
from replica.keys import Identity
from replica.log import Log
from replica.text import client_id, import_update
from tests.helpers import Link, Network, add, assert_same, entry, forged, save, sync
from tests.test_node import admitted, at, founder, running, until
from transport import session, wire
from transport.peer import Peer
from transport.session import Ack, Blamed, Changes, Digest, DocumentDigests, Ended, Hello, Session, State

TEXT = ("notes.md", "text")


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


@pytest.fixture
def network():
    """alice and bob are honest, carol relays, mallory lies; each has written something."""
    with Network("alice", "bob", "carol", "mallory") as network:
        for name in network.clones:
            add(network[name], "a-buffer.md", f"- by {name}")
            network[name].edit_text(f"{name}.md", new=f"text of {name}\n")
        network.sync_all()
        yield network


def tell_alice(network, batch, by="mallory") -> tuple[list, str]:
    """`by` sends this batch to alice in a conversation of its own; the events, and her answer if she ended it."""
    alice, events = network["alice"], []
    talk = Session(alice, network[by].identity.id, events.append)
    talk.open()
    talk.receive(Hello((session.PROTOCOL,), alice.workspace, alice.vector()))
    try:
        talk.receive(Changes(tuple(batch)))
    except session.FAULTS as error:
        (bye,) = talk.fail(error)
        assert talk.state is State.CLOSED
        return events, bye.reason
    return events, ""


def known_of(clone, name: str) -> list[dict]:
    """What `status --json` says against a member."""
    return next(peer["faults"] for peer in status.status(clone, None)["peers"] if peer["name"] == name)


def honest_ones_go_on(network) -> None:
    alice, bob = network["alice"], network["bob"]
    add(bob, "a-buffer.md", "- bob goes on")
    alice.edit_text("later.md", new="and alice\n")
    sync(alice, bob)
    assert "- bob goes on" in alice.text("a-buffer.md") and bob.text("later.md") == "and alice\n"
    assert_same(alice, bob)


def deps_of(clone) -> list[tuple[bytes, int]]:
    return sorted(clone.vector().items())


# --- lies that mallory signs: every clone refuses them alike, whoever brings them


def signed_by(identity, fields) -> Signed:
    body = msgpack.packb(fields)
    return Signed(body, identity.sign(change_hash(body)))


def next_of(network, kind, document, payload, **more) -> Signed:
    mallory, alice = network["mallory"], network["alice"]
    deps = [dep for dep in deps_of(alice) if dep[0] != mallory.identity.id]
    return forged(mallory.identity, alice, kind, document, payload, deps=deps, **more)


def a_torn_update(network):
    return next_of(network, Kind.TEXT, TEXT, b"\x80\x80\x80\x80\x01")


def an_update_as_another(network):
    """It claims operations of bob's client id."""
    _, update = import_update("stolen")
    return next_of(network, Kind.TEXT, ("bob.md", "text"), update)


def an_update_of_nothing_known(network):
    _, update = import_update("x" * 10)
    client = client_id(network["mallory"].identity.id, "new.md")
    from replica.yjs import encode_first

    assert update
    return next_of(network, Kind.TEXT, ("new.md", "text"), encode_first(client, "ab")[:-3])


def an_import_over_the_limit(network):
    return next_of(network, Kind.IMPORT, ("new.md", "text"), "x" * 1_250_000)


def entries_on_a_text(network):
    return next_of(network, Kind.ENTRIES, ("bob.md", "text"), entries_payload([entry("- x")]))


def a_kill_of_what_is_not_there(network):
    mallory = network["mallory"].identity.id
    return next_of(network, Kind.ENTRIES, ("a-buffer.md", "union"), entries_payload([Remove((Dot(mallory, 1, 7),))]))


def a_kill_in_another_document(network):
    bob = network["bob"].identity.id
    dot = Dot(bob, network["alice"].log.author(bob).seq, 0)
    return next_of(network, Kind.ENTRIES, ("other-buffer.md", "union"), entries_payload([Remove((dot,))]))


def a_kill_of_what_it_had_not_seen(network):
    """The dot is there, at alice; a clone without it would decide otherwise."""
    (dot,) = add(network["alice"], "a-buffer.md", "- mallory has not seen this")
    payload = entries_payload([Remove((dot,))])
    return forged(network["mallory"].identity, network["alice"], Kind.ENTRIES, ("a-buffer.md", "union"), payload)


def a_review_of_what_it_had_not_seen(network):
    pairs = [[network["alice"].identity.id, 2**40, network["bob"].identity.id, 2**40]]
    return next_of(network, Kind.REVIEW, ("alice.md", "text"), pairs)


def a_second_genesis(network):
    identity = network["mallory"].identity
    payload = changes.member_payload(identity.public, b"", "mallory", nonce=bytes(16), workspace="mine")
    return next_of(network, Kind.GENESIS, None, payload)


def a_second_history(network):
    return next_of(network, Kind.ENTRIES, ("a-buffer.md", "union"), None, prev=bytes(32))


def a_fork(network):
    identity, alice = network["mallory"].identity, network["alice"]
    return forged(identity, alice, seq=alice.log.author(identity.id).seq, prev=bytes(32))


SIGNED_LIES = [
    a_torn_update, an_update_as_another, an_update_of_nothing_known, an_import_over_the_limit, entries_on_a_text,
    a_kill_of_what_is_not_there, a_kill_in_another_document, a_kill_of_what_it_had_not_seen,
    a_review_of_what_it_had_not_seen, a_second_genesis, a_second_history, a_fork,
]  # fmt: skip


@pytest.mark.parametrize("lie", SIGNED_LIES)
def test_a_lie_that_a_member_signs_is_refused_named_and_kept_in_mind(network, lie):
    alice = network["alice"]
    bad = lie(network)
    before = alice.vector()
    events, reason = tell_alice(network, [bad])
    assert reason.startswith("mallory has signed ")
    assert alice.vector() == before
    (fault,) = known_of(alice, "mallory")
    assert fault["kind"] in (faults.CHANGE, faults.FORK) and "change" in fault["what"]
    assert "replica remove mallory" in fault["hint"]
    assert [e.member for e in events if isinstance(e, Blamed)] == [network["mallory"].identity.id]
    assert known_of(network.reopen("alice"), "mallory") == [fault]
    (check,) = [check for check in status.checks(network["alice"]) if check.name == "conduct"]
    assert check.state == "problem" and check.what.startswith("mallory ") and check.hint
    honest_ones_go_on(network)


@pytest.mark.parametrize("lie", SIGNED_LIES)
def test_a_lie_that_another_passes_on_is_its_authors_and_takes_nothing_else_along(network, lie):
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    bad = lie(network)
    good = forged(bob.identity, alice, payload=entries_payload([entry("- good, in the same batch")]))
    events, reason = tell_alice(network, [bad, good], by="carol")
    assert reason == "" and "- good, in the same batch" in alice.text("a-buffer.md")
    assert [e.member for e in events if isinstance(e, Blamed)] == [mallory.identity.id]
    assert known_of(alice, "mallory") and not known_of(alice, "carol") and not known_of(alice, "bob")


def test_all_clones_refuse_the_same_change_so_the_liars_chain_ends_at_one_place(network):
    alice, bob, carol, mallory = (network[name] for name in ("alice", "bob", "carol", "mallory"))
    bad = a_torn_update(network)
    ends = set()
    for clone in (alice, bob, carol):
        with pytest.raises(InvalidChange):
            clone.ingest([bad])
        ends.add(clone.vector()[mallory.identity.id])
    assert len(ends) == 1
    # Nobody stored it, so nobody passes it on.
    assert all(bad.body not in [s.body for s in clone.log.batch({}, 0)[0]] for clone in (alice, bob, carol))


def test_what_builds_on_a_refused_change_waits_and_the_rest_is_taken(network):
    alice, bob, carol, mallory = (network[name] for name in ("alice", "bob", "carol", "mallory"))
    bad = a_torn_update(network)
    at_bad = alice.log.author(mallory.identity.id).seq + 1
    builds = forged(bob.identity, alice, deps=[(mallory.identity.id, at_bad)])
    free = forged(carol.identity, alice, payload=entries_payload([entry("- free")]))
    _, reason = tell_alice(network, [bad, builds, free], by="carol")
    assert reason == "" and "- free" in alice.text("a-buffer.md")
    assert alice.vector()[bob.identity.id] == bob.vector()[bob.identity.id]
    assert not known_of(alice, "bob") and not known_of(alice, "carol")


def test_the_good_part_of_a_liars_own_batch_is_stored_before_the_door_closes(network):
    alice, bob = network["alice"], network["bob"]
    good = forged(bob.identity, alice, payload=entries_payload([entry("- relayed by the liar")]))
    _, reason = tell_alice(network, [a_torn_update(network), good])
    assert reason and "- relayed by the liar" in alice.text("a-buffer.md")


def test_a_change_refused_before_is_not_tried_again(network, monkeypatch):
    alice = network["alice"]
    bad = a_torn_update(network)
    tell_alice(network, [bad])
    tried = []
    store = Log._store
    monkeypatch.setattr(Log, "_store", lambda self, *rest: tried.append(rest) or store(self, *rest))
    _, reason = tell_alice(network, [bad])
    assert "before" in reason and not tried
    assert known_of(alice, "mallory")[0]["times"] == 2


def test_a_chain_that_goes_on_with_another_change_is_taken_and_the_fault_is_over(network):
    """Or a liar could part the honest: a bad change for one of them, a good one of the same number for the other."""
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    tell_alice(network, [a_torn_update(network)])
    bob.ingest([forged(mallory.identity, bob, payload=entries_payload([entry("- the good one")]))])
    sync(alice, bob)
    assert_same(alice, bob)
    assert "- the good one" in alice.text("a-buffer.md") and known_of(alice, "mallory") == []


def test_a_removed_liar_is_named_no_more(network):
    alice = network["alice"]
    tell_alice(network, [a_torn_update(network)])
    alice.remove("mallory")
    assert all(peer["name"] != "mallory" for peer in status.status(alice, None)["peers"])
    assert all(check.state == "ok" for check in status.checks(alice) if check.name == "conduct")


# --- lies that nobody's signature proves: the one who brings them is to blame


def test_a_forged_author_is_the_fault_of_who_brings_it(network):
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    for bad in (
        forged(bob.identity, alice, signer=mallory.identity),
        forged(bob.identity, alice)._replace(signature=bytes(64)),
        forged(bob.identity, alice)._replace(signature=None),
        forged(bob.identity, alice, seq=1, prev=bytes(32), signer=mallory.identity),  # a "fork" of bob's making
    ):
        before = alice.vector()
        _, reason = tell_alice(network, [bad])
        assert "bob" in reason and alice.vector() == before
        assert known_of(alice, "bob") == [] and known_of(alice, "mallory")[0]["kind"] == faults.TALK
    honest_ones_go_on(network)


def test_a_change_altered_on_the_way_is_not_held_against_its_author(network):
    """The signature of an author's last change covers the run, so an altered one before it breaks the chain."""
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    start = alice.vector()
    add(bob, "a-buffer.md", "- one"), add(bob, "a-buffer.md", "- two"), add(bob, "a-buffer.md", "- three")
    run, _, _ = bob.log.batch(start, 0)
    first = changes.decode(run[0].body)
    fields = list(msgpack.unpackb(run[0].body))
    fields[8] = entries_payload([entry("- ONE")])
    run[0] = Signed(msgpack.packb(fields), None)
    assert changes.decode(run[0].body).hash != first.hash
    _, reason = tell_alice(network, run)
    assert "bob" in reason and known_of(alice, "bob") == [] and known_of(alice, "mallory")
    assert alice.vector() == start
    sync(alice, bob)
    assert_same(alice, bob)
    assert mallory.identity.id in alice.trusted()  # a person decides about that


def test_who_brings_us_our_own_other_past_is_not_to_blame_for_it(network):
    """This clone was restored from a copy, and the others hold what it wrote after that."""
    alice = network["alice"]
    ours = alice.log.author(alice.identity.id)
    _, reason = tell_alice(network, [forged(alice.identity, alice, seq=ours.seq, prev=bytes(32))], by="bob")
    assert reason and known_of(alice, "bob") == []


@pytest.mark.parametrize("seq", [3, 2**53])
def test_a_gap_is_the_fault_of_who_brings_it(network, seq):
    alice, bob = network["alice"], network["bob"]
    held = alice.log.author(bob.identity.id).seq
    _, reason = tell_alice(network, [forged(bob.identity, alice, seq=min(held + seq, 2**53))])
    assert "bob" in reason and known_of(alice, "bob") == []
    assert known_of(alice, "mallory")[0]["kind"] == faults.TALK
    honest_ones_go_on(network)


def test_a_removal_of_somebody_unknown_convinces_nobody_and_proves_nothing(network):
    bad = next_of(network, Kind.REMOVE, None, {"member": bytes(16)})
    _, reason = tell_alice(network, [bad])
    assert "not known here" in reason and known_of(network["alice"], "mallory")[0]["kind"] == faults.TALK
    honest_ones_go_on(network)


def test_a_stranger_does_not_vouch_for_himself(network):
    stranger = Identity.new()
    payload = changes.member_payload(
        stranger.public, b"", "eve", old=network["bob"].identity.id, proof=bytes(64), why="copy"
    )
    bad = forged(stranger, network["alice"], Kind.SUCCEED, None, payload)
    before = network["alice"].members()
    _, reason = tell_alice(network, [bad])
    assert reason and network["alice"].members() == before and known_of(network["alice"], "mallory")
    honest_ones_go_on(network)


def test_a_relay_that_brings_bad_changes_of_many_is_to_blame_in_the_end():
    names = [f"liar-{n}" for n in range(sieve.MOST_AUTHORS + 1)]
    with Network("alice", "mallory", *names) as network:
        alice = network["alice"]
        bad = [forged(network[name].identity, alice, Kind.TEXT, TEXT, b"torn") for name in names]
        _, reason = tell_alice(network, bad)
        assert reason.startswith("mallory") and "more than 8 members" in reason
        events, reason = tell_alice(network, bad[: sieve.MOST_AUTHORS], by=names[-1])
        assert reason == "" and len({e.member for e in events if isinstance(e, Blamed)}) == sieve.MOST_AUTHORS


def test_what_only_a_conversation_showed_is_forgiven_after_a_while_in_step(network):
    alice, mallory = network["alice"], network["mallory"]
    tell_alice(network, [forged(network["bob"].identity, alice, signer=mallory.identity)])
    sync(alice, mallory)
    assert known_of(alice, "mallory")  # at once would be too soon: it would flicker
    network.now += faults.FORGIVEN_AFTER
    sync(alice, mallory)
    assert known_of(alice, "mallory") == []


def test_status_and_doctor_show_who_is_refused_what_and_the_way_out(tmp_path):
    with founder(tmp_path) as alice, admitted(tmp_path, alice, "mallory") as mallory:
        faults.record(alice, mallory.identity.id, faults.CHANGE, "has signed nonsense", "remove it", seq=9)
        shown = replica("status", alice.root)
        assert "refused     mallory has signed nonsense" in shown.stdout and "remove it" in shown.stdout
        shown = replica("doctor", alice.root)
        assert "conduct    mallory has signed nonsense" in shown.stdout and shown.returncode == 1


def replica(name: str, root, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cli.main", name, "--dir", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ)


# --- counts and sizes that cannot be


def counts(network):
    identity, alice = network["mallory"].identity, network["alice"]
    author = alice.log.author(identity.id)
    now = alice.log.now_ms() << 16

    def change(deps=(), kind=Kind.ENTRIES, document=("a-buffer.md", "union"), payload=None, time=now):
        payload = entries_payload([entry("- x")]) if payload is None else payload
        return signed_by(
            identity, [1, author.id, author.seq + 1, author.head, time, deps, int(kind), document, payload]
        )

    yield change(deps=[(n.to_bytes(16, "big"), 1) for n in range(1, 10_002)])
    yield change(deps=[(bytes(16), 2**63)])
    yield change(payload=entries_payload([entry("x")] * 20_001))
    yield change(payload=[[0, "- x", 2**63, "", None, [], {}]])  # one more than a column holds
    yield change(payload=[[0, "- x", 1, "", None, [], {"tags": ["t"] * 65}]])
    yield change(payload=[[0, "- x", 1, "x", None, [], {}]])
    yield change(payload=[])
    yield change(document=("a/" * 201 + "b.md", "union"))
    yield change(time=2**63)
    yield change(time=-1)
    yield change(kind=99)
    yield Signed(b"\xdd\xff\xff\xff\xff", None)  # four thousand million items in five bytes
    yield Signed(b"\x91" * 100_000, None)
    yield Signed(b"", None)
    yield Signed(b"x" * (changes.MAX_BODY + 1), None)


def test_counts_and_sizes_that_cannot_be_are_refused_and_named(network):
    alice = network["alice"]
    for number, bad in enumerate(counts(network), 1):
        before = alice.vector()
        _, reason = tell_alice(network, [bad])
        assert reason, f"case {number} was taken"
        assert alice.vector() == before
        assert known_of(alice, "mallory")[-1]["times"] == number
    honest_ones_go_on(network)


def test_the_largest_numbers_that_may_be_are_taken_everywhere(network):
    alice, mallory = network["alice"], network["mallory"]
    op = Add("entry", "- x", 2**63 - 1, "", None, (), {})
    tell_alice(network, [forged(mallory.identity, alice, payload=entries_payload([op]), time=2**63 - 1)])
    assert "- x" in alice.text("a-buffer.md") and [f["kind"] for f in known_of(alice, "mallory")] == ["clock"]
    honest_ones_go_on(network)


def test_a_frame_that_claims_more_than_it_holds_is_refused():
    for data in (
        msgpack.packb(["changes"])[:1] + b"\xdd\xff\xff\xff\xff",
        msgpack.packb(["ack", {bytes(16): 2**60}]),
        msgpack.packb(["ack", {bytes(16): 0}]),
        msgpack.packb(["changes", [[b"x", None]] * (wire.MAX_BATCH + 1)]),
        msgpack.packb(["bye", "x" * 10_000]),
        msgpack.packb(["hello", [1] * 100, bytes(16), {}]),
    ):
        with pytest.raises(ProtocolError):
            wire.decode(data)


# --- a clock years ahead


def test_a_clock_years_ahead_wins_nothing_it_has_seen_drags_nobody_along_and_is_named(network):
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    far = (network.now + 50 * 365 * 86_400_000) << 16
    payload = entries_payload([entry("the future", role="entry")])
    document = ("activeContext.md", "latest")
    tell_alice(network, [forged(mallory.identity, alice, Kind.ENTRIES, document, payload, time=far)])
    save(alice, "activeContext.md", "the present\n")
    network.run("alice")  # what was there is an open conflict or replaced, but never lost
    live = [e.text for e in alice.documents.versions(alice.documents.find(*document))]
    assert "the present" in live
    mine = alice.store.value("SELECT max(time) FROM changes WHERE author=?", (alice.log.author(alice.identity.id).n,))
    assert mine < far
    assert "50 years ahead" in known_of(alice, "mallory")[0]["what"]
    sync(alice, bob)
    assert_same(alice, bob)
    assert known_of(bob, "mallory")


# --- a member that floods a conversation


def in_step_with(network, name="mallory") -> tuple[Session, list]:
    """A conversation of alice with `name`, played by hand from here on."""
    alice, events = network["alice"], []
    talk = Session(alice, network[name].identity.id, events.append)
    talk.open()
    talk.receive(Hello((session.PROTOCOL,), alice.workspace, alice.vector()))
    return talk, events


def until_refused(talk: Session, messages) -> tuple[int, str]:
    """How many messages were listened to, and why no more were."""
    for count, message in enumerate(messages):
        try:
            talk.receive(message)
        except PeerError as error:
            talk.fail(error)
            return count, str(error)
    raise AssertionError("all of them were listened to")


@pytest.mark.parametrize(
    ("most", "message"),
    [
        (session.MAX_EMPTY, lambda alice: Ack(alice.vector())),
        (0, lambda alice: Hello((1,), alice.workspace, {})),
        (session.MAX_DIGESTS, lambda alice: Digest(alice.vector(), bytes(32))),
        (session.MAX_EMPTY, lambda alice: Digest({}, bytes(32))),
        (session.MAX_EMPTY, lambda alice: DocumentDigests({}, ())),
        (2 * session.MAX_DIGESTS, lambda alice: DocumentDigests(alice.vector(), ())),
        (session.MAX_EMPTY, lambda alice: Changes(tuple(alice.log.batch({}, 0)[0]))),
    ],
    ids=["acks", "hellos", "digests", "old digests", "old documents", "documents", "old changes"],
)
def test_a_flood_of_messages_that_bring_nothing_ends(network, most, message):
    alice = network["alice"]
    talk, events = in_step_with(network)
    one = message(alice)
    listened, reason = until_refused(talk, (one for _ in range(session.MAX_EMPTY + 10)))
    assert listened <= most and reason
    assert known_of(alice, "mallory")[0]["kind"] == faults.TALK
    assert any(isinstance(event, Ended) for event in events)
    honest_ones_go_on(network)


def test_wrong_digests_make_us_look_at_our_documents_once_for_each_state(network, monkeypatch):
    alice = network["alice"]
    rebuilt = []
    rebuild = alice.materialiser.rebuild
    monkeypatch.setattr(alice.materialiser, "rebuild", lambda doc: rebuilt.append(doc) or rebuild(doc))
    lies = tuple((path, policy, bytes(32)) for path, policy, _ in alice.documents.document_digests())
    for _ in range(5):
        talk, _ = in_step_with(network)
        for _ in range(2 * session.MAX_DIGESTS):
            talk.receive(DocumentDigests(alice.vector(), lies))
    assert len(rebuilt) <= len(lies)
    honest_ones_go_on(network)


def test_a_vector_that_cannot_be_says_something_of_its_sender_only(network):
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    talk, _ = in_step_with(network)
    impossible = {**dict.fromkeys((n.to_bytes(16, "big") for n in range(50)), 1), bob.identity.id: 2**53 - 1}
    talk.state, talk._unacknowledged = State.SYNCING, 1
    talk.receive(Ack({**alice.vector(), **impossible}))
    assert not talk.in_step and talk.settle() == []
    with alice.transaction():
        packed = msgpack.packb(talk.peer_vector)
        alice.store.execute("INSERT OR REPLACE INTO peers(id, vector) VALUES(?,?)", (mallory.identity.id, packed))
    rows = {peer["name"]: peer for peer in status.status(alice, None)["peers"]}
    assert rows["mallory"]["ahead"] > 0 and rows["bob"]["ahead"] == 0
    link = Link(alice, bob)
    link.run()
    assert link.in_step


def test_what_waits_for_a_peer_that_reads_nothing_is_bounded_in_bytes(network, monkeypatch):
    class Deaf:
        closed = False

        async def close(self, code, reason):
            self.closed = True

    async def story():
        socket = Deaf()
        peer = Peer(network["alice"], network["bob"].identity.id, socket, dialled=False, address=None,
                    own=network["alice"].identity.id, tell=lambda peer, event: None)  # fmt: skip
        batch = Changes((Signed(b"x" * 1_000_000, None),))
        for _ in range(200):
            peer.send([batch])
        await asyncio.sleep(0)
        assert socket.closed and sum(len(frame) for frame in peer._waiting._queue) < 64_000_000
        if peer._settling is not None:
            peer._settling.cancel()

    asyncio.run(story())


# --- files


PATHS = ["../outside.md", "/tmp/outside.md", "a/../../outside.md", ".git/hooks.md", ".replica/x.md", "con.md",
         "a\\b.md", "dots./x.md", "nul\x00.md", "bell\x07.md", "C:/x.md"]  # fmt: skip


def test_path_tricks_write_nothing_outside_and_their_writer_is_named(network):
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    for path in PATHS:
        mallory.edit_text(path, new="out\n")
    sync(alice, mallory)
    sync(alice, bob)
    before = sorted(p for p in network.folder.iterdir())
    report = network.run("alice")
    assert sorted(p for p in network.folder.iterdir()) == before
    inside = {str(p.relative_to(alice.root)) for p in alice.root.rglob("*") if p.is_file()}
    assert {name for name in inside if not name.startswith(".replica/")} == {
        "a-buffer.md", *(f"{name}.md" for name in network.clones)
    }  # fmt: skip
    told = {path: reason for path, reason in report.skipped.items() if path in PATHS}
    assert told and all("mallory wrote it" in reason for reason in told.values())
    assert {row["path"] for row in status.status(alice, None)["skipped"]} >= set(told)
    assert_same(alice, bob)


def test_a_flood_of_documents_waits_for_a_person_and_names_who_sent_them(network, monkeypatch):
    monkeypatch.setattr(guard, "ARRIVALS", 20)
    alice, bob, mallory = network["alice"], network["bob"], network["mallory"]
    for n in range(60):
        mallory.edit_text(f"spam/{n}.md", new="spam\n")
    sync(alice, mallory)
    sync(alice, bob)
    report = network.run("alice")
    spam = lambda: len(list((alice.root / "spam").glob("*.md")))  # noqa: E731
    assert 0 < spam() <= 20
    assert "mallory" in report.held["new files of mallory"] and "replica" not in report.held["new files of mallory"]
    (held,) = status.status(alice, None)["held"]
    assert held["reason"] == "arrivals" and "mallory" in held["what"]
    add(bob, "b-buffer.md", "- bob's new file is written")
    sync(alice, bob)
    network.run("alice")
    assert (alice.root / "b-buffer.md").exists() and spam() <= 20
    assert_same(alice, bob)  # the log is the same everywhere: only files wait
    network.bridge("alice").reject([])
    network.run("alice")
    assert spam() <= 20 and status.status(alice, None)["held"] == []
    bridge = network.bridge("bob")
    bridge.run()
    bridge.accept([])
    assert len(list((bob.root / "spam").glob("*.md"))) == 60


# --- over real sockets


def hand_written(monkeypatch, liar: Clone, lie) -> None:
    """Whatever session `liar` opens, it sends `lie()` after its Hello."""
    hello = Session._hello

    def lying(self, message):
        replies = hello(self, message)
        return replies + lie(self) if self._clone is liar else replies

    monkeypatch.setitem(session._RECEIVE, Hello, lying)


LIES_ON_THE_WIRE = {
    "a torn update": lambda alice, liar: [
        Changes((forged(liar.identity, alice, Kind.TEXT, TEXT, b"\x80\x80\x80\x80\x01"),))
    ],
    "a forged author": lambda alice, liar: [Changes((forged(alice.identity, alice, signer=liar.identity),))],
    "digests without end": lambda alice, liar: [Digest(alice.vector(), bytes(32))] * 50,
    "a hello twice": lambda alice, liar: [Hello((session.PROTOCOL,), alice.workspace, {})],
}


@pytest.mark.parametrize("lie", LIES_ON_THE_WIRE)
def test_a_lying_node_is_cut_off_paused_and_named_while_the_honest_go_on(tmp_path, monkeypatch, lie):
    async def story():
        heard = []
        with (
            founder(tmp_path) as alice,
            admitted(tmp_path, alice, "bob") as bob,
            admitted(tmp_path, alice, "mallory") as mallory,
        ):
            async with running(alice, events=heard) as a, running(bob, [at(a)]):
                async with running(mallory, [at(a)]) as m:
                    await until(lambda: m.peers and m.in_step, m)
                hand_written(monkeypatch, mallory, lambda session: LIES_ON_THE_WIRE[lie](alice, mallory))
                began = time.monotonic()
                async with running(mallory, [at(a)]) as m:
                    await until(lambda: any(e["event"] == "refused" for e in heard), a)
                    took = time.monotonic() - began
                    await until(lambda: mallory.identity.id not in a.peers, a)
                    for _ in range(5):  # it calls again and again
                        m.hurry()
                        m.call(at(a))
                        await until(lambda: not any(t.busy for t in m.targets.all()), m)
                    assert mallory.identity.id not in a.peers
                    bob.edit_text("n.md", new="honest")
                    await until(lambda: alice.vector() == bob.vector(), a)
                assert a.pauses.left(mallory.identity.id, time.monotonic()) > 30
                said = [e for e in heard if e["event"] == "refused"]
                assert all(e["clone"] == "mallory" and e["hint"] for e in said) and len(said) == 1
                assert took < 5
                # Another process sees it too, and so does whoever looks after the node has ended.
                assert in_another_process(alice.root) == ["mallory"]
        assert in_another_process(tmp_path / "alice") == ["mallory"]

    asyncio.run(story())


def in_another_process(root) -> list[str]:
    shown = replica("status", root, "--json")
    return [peer["name"] for peer in json.loads(shown.stdout)["peers"] if peer["faults"]]
