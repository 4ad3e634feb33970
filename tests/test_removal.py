"""A removal holds wherever it is heard of, whoever hears what first; what was written before it stays. (FAILURES 15)

Clones here are objects and meetings are lists, so that every order can be had; a few real nodes at the end.
"""

import asyncio
import itertools
import json
import shutil
import time
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from cli import main as cli_main
from replica import changes, clock, members, status
from replica.bridge import Bridge
from replica.changes import Kind, Signed
from replica.clone import Clone
from replica.errors import InvalidChange, PairingError, PeerError
from replica.keys import Identity, clone_id
from replica.log import succession
from tests.helpers import Link, Network, add, forged, history, shared_content, talk
from tests.test_log import fresh, shuffled
from tests.test_node import admitted, at, founder, running, until
from transport import tls, wire
from transport.inviting import invite, join
from transport.node import REFUSED_PAUSE, SUBPROTOCOL, Node
from transport.session import Ended, Session, State

pytestmark = pytest.mark.usefixtures("on_loopback")

NAMES = ("alice", "bob", "carol", "dave")
seeds = st.integers(0, 2**32)
few = settings(max_examples=15, deadline=None)


@pytest.fixture
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


def people(clone: Clone) -> list[tuple]:
    """What a clone holds of its members, all that is shown of it."""
    columns = ("id", "name", "admitted_by", "admitted_at", "removed_by", "removed_at", "successor")
    return [tuple(member[column] for column in columns) for member in clone.members()]


def active(clone: Clone) -> set[str]:
    return {member["name"] for member in clone.members() if member["removed_by"] is None}


def reasons(events) -> list[str]:
    return [event.reason for event in events if isinstance(event, Ended)]


def trusts(one: Clone, other: Clone) -> bool:
    """Whether both count as members for both."""
    return all(
        (author := side.log.author(who.identity.id)) is not None and not author.removed
        for side in (one, other)
        for who in (one, other)
    )


def meet_all(clones: list[Clone], random: Random) -> None:
    """Everyone with everyone in any order, until nothing moves."""
    while True:
        before = [(clone.vector(), people(clone)) for clone in clones]
        for one, other in random.sample(pairs := list(itertools.combinations(clones, 2)), len(pairs)):
            talk(one, other)
        if before == [(clone.vector(), people(clone)) for clone in clones]:
            return


# --- in any order


def some_history(network: Network, random: Random) -> None:
    """Members write, let others in, remove each other and meet, at random."""
    for step in range(random.randint(10, 25)):
        network.now += random.choice((0, 0, 1, 1_000))
        writer = network[random.choice(list(network.clones))]
        writer.log.refresh()
        if writer.log.author(writer.identity.id) is None:
            continue
        what = random.randrange(8)
        others = sorted(active(writer) - {writer.name})
        if what == 0 and others and not writer.removed:
            writer.remove(random.choice(others))
        elif what == 1 and len(network.clones) < 7 and not writer.removed:
            network.add(f"new{step}", by=next(name for name, clone in network.clones.items() if clone is writer))
        elif what == 2 and not writer.removed:  # a key that another may let in as well, under another name
            key = Identity(bytes([random.randrange(2) + 1]) * 32).public
            if writer.log.author(clone_id(key)) is None:
                writer.admit(key, b"certificate", f"guest of {writer.name}")
        elif what < 5:
            add(writer, "a-buffer.md", f"- {step} by {writer.name}")
        else:
            talk(*random.sample(list(network.clones.values()), 2))


@few
@given(seeds)
def test_whoever_still_trusts_each_other_agrees_in_the_end_whatever_order_they_met_in(seed):
    random = Random(seed)
    with Network(*NAMES, seed=seed) as network:
        some_history(network, random)
        clones = list(network.clones.values())
        meet_all(clones, random)
        for one, other in itertools.combinations(clones, 2):
            if trusts(one, other):
                assert one.vector() == other.vector()
                assert one.digest() == other.digest()
                assert people(one) == people(other)
                assert members.unseen(one) == members.unseen(other)


@few
@given(seeds)
def test_the_same_changes_in_any_causal_order_make_the_same_members(seed):
    """Including what no clone was sent: both sides of crossing removals, and the work of those removed."""
    random = Random(seed)
    with Network(*NAMES, seed=seed) as network:
        some_history(network, random)
        everything = {}
        for clone in list(network.clones.values()):
            for signed in history(clone):
                if signed.signature:
                    everything.setdefault(signed.body, signed)
        full = list(everything.values())
        seen = []
        for _ in range(3):
            clone, refused = fresh(network), set()
            for signed in causal(full, random):
                try:
                    clone.ingest([signed])
                except PeerError:
                    refused.add(signed.body)
            seen.append((people(clone), members.unseen(clone), clone.digest(), clone.vector(), refused))
        assert seen[0] == seen[1] == seen[2]


def causal(full: list[Signed], random: Random) -> list[Signed]:
    return shuffled(sorted(full, key=lambda signed: changes.decode(signed.body).kind is not Kind.GENESIS), random)


def orders(said: list[Signed], network: Network, base: list[Signed]) -> list[Clone]:
    """Clones that got `base`, then `said` in each order that is causal."""
    made = []
    for order in itertools.permutations(said):
        clone = fresh(network)
        clone.ingest(base)
        try:
            for signed in order:
                clone.ingest([signed])
        except PeerError:
            continue
        made.append(clone)
    return made


# --- crossing removals


def test_two_that_remove_each_other_are_both_out_whoever_hears_what_first():
    with Network(*NAMES) as network:
        alice, bob, carol, dave = network.clones.values()
        alice.remove("bob")
        network.now += 1_000
        bob.remove("alice")
        talk(alice, carol)
        talk(bob, dave)
        assert active(carol) == {"alice", "carol", "dave"} and active(dave) == {"bob", "carol", "dave"}
        talk(carol, dave)
        for clone in (carol, dave):
            assert active(clone) == {"carol", "dave"}
        assert people(carol) == people(dave)
        for one, other in itertools.product((carol, dave), (alice, bob)):
            assert f"{other.name} was removed from the workspace" in " ".join(reasons(talk(one, other)))
        add(carol, "a-buffer.md", "- it goes on")
        talk(carol, dave)
        assert dave.text("a-buffer.md") == "- it goes on\n" and shared_content(alice) == shared_content(bob) == {}


def test_of_several_removals_of_one_member_the_earliest_is_shown_everywhere():
    with Network(*NAMES) as network:
        alice, bob, carol, _ = network.clones.values()
        carol.remove("dave")
        network.now += 60_000
        alice.remove("dave")
        network.sync("alice", "bob")
        network.sync("bob", "carol")
        for clone in (alice, bob, carol):
            network.sync("alice", "carol")
            (gone,) = [member for member in clone.members() if member["name"] == "dave"]
            assert gone["removed_by"] == carol.identity.id and clock.to_ms(gone["removed_at"]) == network.now - 60_000


def test_two_that_removed_each_other_and_meet_are_each_told_so(tmp_path):
    """With nobody else, neither holds the other's removal: both go on alone, and both must know why."""

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
            alice.remove("bob")
            bob.remove("alice")
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: all(status.status(clone, None)["told"] for clone in (alice, bob)), b)
            for clone, other in ((alice, bob), (bob, alice)):
                (told,) = status.status(clone, None)["told"]
                assert told["by"] == other.name and told["hint"] == members.CROSSED
                assert told["said"].startswith(f"{clone.name} was removed from the workspace by {other.name} on ")
                (check,) = [check for check in status.checks(clone) if check.name == "member"]
                assert (check.state, check.hint) == ("problem", members.CROSSED)

    asyncio.run(story())


def test_a_workspace_that_its_members_have_emptied_says_how_to_begin_anew():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        base, removals = history(alice), []
        for clone, other in ((alice, "bob"), (bob, "carol"), (carol, "alice")):
            clone.remove(other)
            removals.append(history(clone)[-1])
        for clone in orders(removals, network, base):
            assert active(clone) == set() and members.nobody_left(clone)
        alice.ingest([signed for signed in removals if changes.decode(signed.body).author != alice.identity.id])
        found = status.status(alice, None)
        assert found["removed"] and found["removal"]["by"] == "carol" and found["removal"]["hint"] == members.START_ANEW


# --- what came with a removal, and what came after it


def test_a_relay_gives_the_removed_one_nothing_that_came_with_the_removal():
    """Removal and later words arrive in one batch: whoever is told of the one must not get the others along."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        link = Link(bob, carol)
        link.run()
        alice.edit_text("before.md", new="written before, unknown to carol")
        alice.remove("carol")
        alice.edit_text("after.md", new="not for carol")
        network.sync("alice", "bob")
        link.send(0, link.sessions[0].changed())
        while link.busy:
            link.deliver(link.busy[0])
        assert carol.documents.all() == [] and not link.open
        assert reasons(link.events[1])[0].startswith("carol was removed from the workspace by alice on ")


def test_the_removed_one_gets_the_removal_itself_when_it_lacks_nothing_else():
    with Network("alice", "bob") as network:
        alice, bob = network.clones.values()
        link = Link(alice, bob)
        link.run()
        alice.remove("bob")
        alice.edit_text("after.md", new="not for bob")
        link.send(0, link.sessions[0].changed())
        while link.busy:
            link.deliver(link.busy[0])
        assert bob.removed and members.removal(bob).by == "alice" and bob.documents.all() == []


def test_what_the_removed_one_wrote_before_others_heard_stays_with_all_and_nothing_else_does():
    """Through a relay that has not heard of it; then the relay meets one that has."""
    with Network(*NAMES) as network:
        alice, bob, carol, dave = network.clones.values()
        alice.remove("dave")
        add(dave, "a-buffer.md", "- taken in good faith")
        talk(dave, bob)
        add(dave, "a-buffer.md", "- too late")
        network.sync("alice", "carol")
        for one, other in ((bob, carol), (bob, alice), (carol, alice)):
            talk(one, other)
        for clone in (alice, bob, carol):
            assert "dave was removed" in " ".join(reasons(talk(dave, clone)))
            assert clone.text("a-buffer.md") == "- taken in good faith\n"
            assert clone.digest() == alice.digest() and people(clone) == people(alice)


def test_what_a_member_wrote_after_it_knew_of_its_removal_is_taken_by_nobody():
    """A program that does not keep to the rules sends it to one that has not heard: with the removal, or without."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        alice.remove("carol")
        removal = history(alice)[-1]
        carol.ingest([removal])
        add(carol, "a-buffer.md", "- out of spite")
        late = history(carol)[-1]
        before = people(bob), bob.vector()
        with pytest.raises(PeerError):
            bob.ingest([late])
        with pytest.raises(InvalidChange, match="after its author's removal"):
            bob.ingest([removal, late])
        assert (people(bob), bob.vector()) == before
        guest = Identity.new()
        carol.append(Kind.ADMIT, None, changes.member_payload(guest.public, b"", "guest"))
        network.sync("alice", "bob")
        with pytest.raises(InvalidChange, match="after its author's removal"):
            bob.ingest([late, history(carol)[-1]])
        assert bob.log.author(guest.id) is None


def test_a_removed_clone_keeps_its_files_and_goes_on_by_itself():
    with Network("alice", "bob") as network:
        alice, bob = network.clones.values()
        (bob.root / "notes.md").write_text("mine\n")
        network.share()
        alice.remove("bob")
        bob.ingest([history(alice)[-1]])
        (bob.root / "notes.md").write_text("mine\nand more\n")
        network.run("bob")
        assert bob.removed and bob.text("notes.md") == (bob.root / "notes.md").read_text() == "mine\nand more\n"
        talk(alice, bob)
        assert alice.text("notes.md") == "mine\n"


def test_a_removed_key_is_not_let_in_again():
    with Network("alice", "bob") as network:
        alice, bob = network.clones.values()
        alice.remove("bob")
        with pytest.raises(PairingError, match="was removed") as refused:
            alice.admit(bob.identity.public, b"", "bob")
        assert "join with a new code" in refused.value.hint


# --- who was let in by whom


def test_a_guest_of_one_who_was_removed_at_the_same_time_stays_and_is_named_for_a_look():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        bob.admit(Identity(b"g" * 32).public, b"", "guest")
        guest = Identity(b"g" * 32).id
        alice.remove("bob")
        network.sync("bob", "carol")
        assert members.unseen(carol) == {}
        network.sync("alice", "carol")
        for clone in (alice, carol):
            assert active(clone) == {"alice", "carol", "guest"}
            assert members.unseen(clone) == {guest: bob.identity.id}
            assert status.status(clone, None)["unseen"] == [{"name": "guest", "id": guest.hex(), "admitted_by": "bob"}]
            assert [check.hint for check in status.checks(clone) if check.name == "newcomers"] == [
                f"if you do not know it: `replica remove {guest.hex()[:12]}`"
            ]
        carol.remove("guest")
        assert members.unseen(carol) == {}


def test_a_guest_that_the_remover_knew_of_is_not_named():
    with Network("alice", "bob") as network:
        alice, bob = network.clones.values()
        bob.admit(Identity(b"g" * 32).public, b"", "guest")
        network.sync("alice", "bob")
        alice.remove("bob")
        assert members.unseen(alice) == {} and active(alice) == {"alice", "guest"}


def test_a_guest_whom_somebody_else_let_in_too_is_not_named_and_a_guests_guest_is():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        both = Identity(b"b" * 32)
        bob.admit(both.public, b"", "both")
        carol.admit(both.public, b"", "both")
        guest = network.add("guest", by="bob")
        network.sync("bob", "guest")
        guest.admit(Identity(b"h" * 32).public, b"", "guest of guest")
        network.sync("bob", "guest")
        network.sync("bob", "carol")
        alice.remove("bob")
        network.sync("alice", "carol")
        assert members.unseen(alice) == members.unseen(carol) == {
            guest.identity.id: bob.identity.id, Identity(b"h" * 32).id: guest.identity.id,
        }  # fmt: skip


def test_one_key_that_two_let_in_under_two_names_has_the_earlier_one_everywhere():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        key = Identity(b"k" * 32)
        network.now += 1_000
        bob.admit(key.public, b"", "zoe")
        network.now += 1_000
        alice.admit(key.public, b"", "anna")
        network.sync_all()
        for clone in [alice, bob, carol]:
            assert clone.log.author(key.id).name == "zoe"
        assert len({str(people(clone)) for clone in (alice, bob, carol)}) == 1


def test_at_the_same_time_the_lower_id_names():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        key = Identity(b"k" * 32)
        now = clock.from_ms(network.now + 5)
        said = []
        for clone in (alice, bob):
            payload = changes.member_payload(key.public, b"", f"guest of {clone.name}")
            said.append(forged(clone.identity, carol, Kind.ADMIT, None, payload, time=now))
        lower = min((alice, bob), key=lambda clone: clone.identity.id)
        for clone in orders(said, network, history(carol)):
            assert clone.log.author(key.id).name == f"guest of {lower.name}"


def test_who_knew_of_a_member_or_of_the_founder_cannot_rename_it():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        before = people(alice)
        for target in (carol, alice):
            payload = changes.member_payload(target.identity.public, b"", "mallory")
            known = list(bob.vector().items())
            deps = [dep for dep in known if dep[0] != bob.identity.id] if target is carol else []
            alice.ingest([forged(bob.identity, alice, Kind.ADMIT, None, payload, time=0, deps=deps)])
        assert people(alice) == before


def test_a_store_from_before_knows_who_was_let_in_once_it_is_opened():
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        before = sorted(alice.store.rows("SELECT * FROM admissions"))
        alice.store.execute("DROP TABLE admissions")
        for table, column in (("authors", "floor"), ("authors", "floor_head"), ("removals", "away"), ("adds", "rank"),
                              ("successions", "why"), ("adds", "folded"), ("files", "form")):  # fmt: skip
            alice.store.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        alice.store.execute("DROP INDEX documents_changed")
        alice.store.execute("ALTER TABLE documents DROP COLUMN changed")
        for table in ("baselines", "withheld"):
            alice.store.execute(f"DROP TABLE {table}")
        alice.store.execute("PRAGMA user_version=1")
        alice = network.reopen("alice")
        assert sorted(alice.store.rows("SELECT * FROM admissions")) == before and len(before) == 2
        assert people(alice) == people(bob) == people(carol)


# --- copies of who was removed


def test_a_removal_holds_for_all_who_go_on_for_the_removed_in_any_order():
    """Copies of copies, one of which was removed by itself as well."""
    with Network("alice", "bob", "carol") as network:
        alice, bob, _ = network.clones.values()
        first, second = Identity(b"1" * 32), Identity(b"2" * 32)
        made = [
            successor(alice, bob.identity, first, []),
            successor(alice, first, second, [(first.id, 1)]),
            forged(alice.identity, alice, Kind.REMOVE, None, {"member": bob.identity.id}),
            forged(network["carol"].identity, alice, Kind.REMOVE, None, {"member": first.id},
                   deps=[(first.id, 1), (second.id, 1)]),
        ]  # fmt: skip
        clones = orders(made, network, history(alice))
        assert len(clones) == 4  # of 24 orders, those in which nobody comes before what he had seen
        assert len({str(people(clone)) for clone in clones}) == 1
        for clone in clones:
            assert active(clone) == {"alice", "carol"}


def successor(reader: Clone, old: Identity, new: Identity, deps: list) -> Signed:
    proof = old.sign(succession(reader.workspace, new.public))
    name = f"bob-{chr(new.private[0])}"
    payload = changes.member_payload(new.public, b"", name, old=old.id, proof=proof, why="copy")
    return forged(new, reader, Kind.SUCCEED, None, payload, deps=deps)


def test_status_members_and_doctor_say_who_removed_this_clone_when_and_the_way_back(capsys):
    with Network("alice", "bob", "carol") as network:
        alice, bob, carol = network.clones.values()
        bob.admit(Identity(b"g" * 32).public, b"", "guest")
        alice.remove("bob")
        for reader, writer in ((bob, alice), (carol, alice), (carol, bob)):
            reader.ingest(history(writer))
        for clone in (bob, carol):
            clone.store.execute("INSERT OR REPLACE INTO meta VALUES('place', ?)", (str(clone.root.resolve()),))

        def said(clone: Clone, *command: str) -> str:
            cli_main.main([*command, "--dir", str(clone.root)])
            return capsys.readouterr().out

        assert "removed     by alice on 20" in said(bob, "status") and members.COME_BACK in said(bob, "status")
        assert f"-> {members.COME_BACK}" in said(bob, "doctor")
        assert "look at     guest: let in by bob, who was removed at the same time" in said(carol, "status")
        assert "look" in next(line for line in said(carol, "members").splitlines() if line.startswith("guest"))
        assert f"`replica remove {Identity(b'g' * 32).id.hex()[:12]}`" in said(carol, "doctor")
        found = json.loads(said(bob, "status", "--json"))
        assert found["removed"] and found["removal"]["by"] == "alice" and found["removal"]["at"].startswith("20")


def test_a_removed_clone_decides_nothing_about_who_belongs():
    with Network("alice", "bob") as network:
        alice, bob = network.clones.values()
        alice.remove("bob")
        bob.ingest([history(alice)[-1]])
        before = bob.vector()
        for decision in (lambda: bob.remove("alice"), lambda: bob.admit(Identity(b"g" * 32).public, b"", "guest")):
            with pytest.raises(PairingError, match="nobody takes its word"):
                decision()
        assert bob.vector() == before


def test_who_was_told_of_its_removal_by_a_member_invites_nobody_and_a_removed_ones_word_stops_nobody():
    async def first_event(clone):
        return await anext(invite(SimpleNamespace(clone=clone), 5.0))

    with Network("alice", "bob") as network:
        alice, bob = network.clones.values()
        for clone, other in ((alice, bob), (bob, alice)):
            note = f"{clone.name} was removed from the workspace by {other.name} on 2026-03-01 12:00 UTC"
            clone.store.execute("INSERT INTO peers(id, note) VALUES(?,?)", (other.identity.id, note))
        with pytest.raises(PairingError, match="alice says so"):
            asyncio.run(first_event(bob))
        alice.remove("bob")
        with pytest.raises(AttributeError):  # it goes on as far as the node, which is not there
            asyncio.run(first_event(alice))


# --- real nodes


async def hang_on(clone: Clone, node: Node):
    """A member's connection that greets, listens and stays, whatever it is told: its program may be another."""
    pem, member = clone.root / ".replica" / "identity.pem", node.clone.identity
    certificate = tls.make_certificate(clone.identity.private)
    tls.write_pem(pem, clone.identity.private, certificate)
    trust = tls.Trust(pem, {member.id: tls.make_certificate(member.private)})
    socket = await connect(
        f"wss://127.0.0.1:{node.port}/", ssl=trust.client, server_hostname="replica", subprotocols=[SUBPROTOCOL],
        compression=None, proxy=None,
    )  # fmt: skip
    for message in Session(clone, member.id).open():
        await socket.send(wire.encode(message))
    return socket


def test_a_live_connection_is_cut_within_a_second_even_if_the_other_side_hangs_on(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a:
                socket = await hang_on(bob, a)
                await until(lambda: a.peers and a.peers[bob.identity.id].session.state is State.SYNCING, a)
                alice.remove("bob")
                began = time.monotonic()
                await asyncio.wait_for(socket.wait_closed(), 5)
                assert time.monotonic() - began < 1.5  # half of a second, and a slow machine
                await until(lambda: not a.peers, a)

    asyncio.run(story())


def test_the_removal_cuts_the_connection_of_another_clone_that_hears_of_it(tmp_path):
    async def story():
        with (
            founder(tmp_path) as alice,
            admitted(tmp_path, alice, "bob") as bob,
            admitted(tmp_path, alice, "carol") as carol,
        ):
            heard = []
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
                trust_in(carol, bob)
                async with running(carol, [at(b)], heard) as c:
                    await until(lambda: c.peers and c.in_step, c)
                    alice.remove("carol")
                    began = time.monotonic()
                    await until(lambda: not c.peers and carol.identity.id not in b.peers, b)
                    assert time.monotonic() - began < 1.5
                    # Whether it was proven or only told, it says so, and calls again after a long pause.
                    found = status.status(carol, None)
                    assert (found["removal"] or found["told"][0])["by"] in ("alice", "bob")
                    (target,) = c.targets.all()
                    await until(lambda: target.failures, c)
                    assert target.due - time.monotonic() > REFUSED_PAUSE / 2
            assert sum(event["event"] == "connected" for event in heard) == 1

    asyncio.run(story())


def trust_in(clone: Clone, other: Clone) -> None:
    """As if `other` had let it in: whom it believes until it has met somebody."""
    with clone.transaction():
        clone.store.set_meta("inviter", tls.make_certificate(other.identity.private))


def test_a_clone_removed_while_away_is_told_by_whom_and_when_and_status_keeps_it(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a:
                async with running(bob, [at(a)]) as b:
                    await until(lambda: b.peers and b.in_step, b)
                alice.remove("bob")
                alice.edit_text("later.md", new="not for bob")
                async with running(bob, [at(a)]) as b:
                    await until(lambda: members.told_removed(bob), b)
        with Clone.open(tmp_path / "bob") as bob:
            (told,) = status.status(bob, None)["told"]
            assert told["by"] == "alice" and told["said"].startswith(
                "bob was removed from the workspace by alice on 20"
            )
            (check,) = [check for check in status.checks(bob) if check.name == "member"]
            assert check.state == "problem" and "delete .replica" in check.hint
            assert bob.documents.all() == []

    asyncio.run(story())


def test_a_removed_clone_comes_back_as_its_words_say(tmp_path):
    """Delete .replica, join with a new code: its files are merged, what it wrote in between included."""

    async def story():
        with founder(tmp_path) as alice:
            (alice.root / "notes.md").write_text("shared\n")
            with admitted(tmp_path, alice, "bob") as bob:
                async with running(alice, files=True) as a, running(bob, [at(a)], files=True) as b:
                    await until(lambda: b.peers and b.in_step and (bob.root / "notes.md").exists(), b)
                alice.remove("bob")
            (tmp_path / "bob" / "notes.md").write_text("shared\nwritten while out\n")
            shutil.rmtree(tmp_path / "bob" / ".replica")
            async with running(alice, files=True) as a:
                invitation = invite(a, 60)
                code = await anext(invitation)
                rest = asyncio.ensure_future(anext(invitation))
                bob = await join(code["code"], tmp_path / "bob", "bob", [("127.0.0.1", code["port"])])
                assert (await rest)["clone"] == bob.name
                await invitation.aclose()
                with bob:
                    Bridge(bob).run(every=True, wait=True)
                    async with running(bob, [at(a)]) as b:
                        await until(lambda: alice.vector() == bob.vector(), b)
                    assert "written while out" in alice.text("notes.md")
                    assert not bob.removed and members.told_removed(bob) == []
            assert [member["removed_by"] is not None for member in alice.members()] == [False, True, False]

    asyncio.run(story())
