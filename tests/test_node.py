"""Running nodes over real sockets on loopback: few, and only what two objects and a list cannot show."""

import asyncio
import contextlib
import json
import os
import time
from dataclasses import replace

import pytest

from replica.bridge import Bridge
from replica.clone import Clone
from replica.errors import AlreadyAClone, CannotListen, CodeExpired, StoreError, Unreachable, WrongCode
from replica.keys import Identity
from transport import control, tls
from transport.inviting import invite, join
from transport.meeting import meet
from transport.node import OPEN_TIMEOUT, Node, Options
from transport.peer import Peer
from transport.session import Session

HERE = ("127.0.0.1", 0)


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


def founder(tmp_path, name="alice"):
    return Clone.create(tmp_path / name, name, "garden", tls.make_certificate)


def admitted(tmp_path, inviter, name):
    """A new member as pairing leaves it: admitted there, adopted here."""
    identity = Identity.new()
    given = inviter.admit(identity.public, tls.make_certificate(identity.private), name)
    trusted = tls.make_certificate(inviter.identity.private)
    return Clone.adopt(tmp_path / given, identity, inviter.workspace, given, inviter=trusted)


@contextlib.asynccontextmanager
async def running(clone, peers=(), events=None, **options):
    """A node for the length of the block, without mDNS unless asked."""
    options = {"mdns": False, "files": False, "serve": False, "listen": HERE, **options}
    node = Node(clone, Options(peers=list(peers), **options), (events if events is not None else []).append)
    task = asyncio.ensure_future(node.run())
    started = asyncio.ensure_future(node.started.wait())
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    if task.done():
        task.result()
    try:
        yield node
    finally:
        node.stop()
        await asyncio.wait_for(task, 10)


async def until(holds, node, seconds=10.0):
    """Wait until `holds()`; woken by the node's events."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that in time"
        node.moved.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(node.moved.wait(), 0.05)


def at(node):
    return ("127.0.0.1", node.port)


def write(clone, path, text):
    file = clone.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def test_a_saved_file_reaches_the_other_clones_file(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice, files=True) as a, running(bob, [at(a)], files=True) as b:
                await until(lambda: b.peers and b.in_step, b)
                write(alice, "notes/é.md", "über 😀\n")
                there = bob.root / "notes/é.md"
                await until(lambda: there.exists() and there.read_text("utf-8") == "über 😀\n", b)
            assert alice.digest() == bob.digest()

    asyncio.run(story())


def test_a_change_reaches_a_clone_that_its_author_never_meets(tmp_path):
    async def story():
        with (
            founder(tmp_path) as alice,
            admitted(tmp_path, alice, "bob") as bob,
            admitted(tmp_path, alice, "carol") as carol,
        ):
            async with running(bob, files=False) as middle:
                async with running(alice, [at(middle)]) as a:
                    alice.edit_text("n.md", new="from alice")
                    await until(lambda: bob.vector() == alice.vector(), a)
                carol.store.set_meta("inviter", tls.make_certificate(bob.identity.private))
                async with running(carol, [at(middle)]) as c:
                    await until(lambda: c.peers and c.in_step, c)
            assert carol.text("n.md") == "from alice"
            assert carol.digest() == alice.digest()

    asyncio.run(story())


def test_clones_find_each_other_by_mdns(tmp_path):
    """FAILURES 31: several nodes on one host, each with its own identity and port."""

    async def story():
        with (
            founder(tmp_path) as alice,
            admitted(tmp_path, alice, "bob") as bob,
            admitted(tmp_path, alice, "carol") as carol,
        ):
            async with running(alice, mdns=True) as a, running(bob, mdns=True) as b, running(carol, mdns=True) as c:
                nodes = (a, b, c)
                await until(lambda: all(len(n.peers) == 2 and n.in_step for n in nodes), a)

    asyncio.run(story())


def test_two_that_call_each_other_at_once_keep_one_connection(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob) as b:
                a.call(at(b))
                b.call(at(a))
                await until(lambda: a.peers and b.peers and a.in_step and b.in_step, a)
                bob.edit_text("n.md", new="x")
                await until(lambda: a.in_step and alice.vector() == bob.vector(), a)
                lower = min(a, b, key=lambda node: node.clone.identity.id)
                other = b if lower is a else a
                assert lower.peers[other.clone.identity.id].dialled in (True, False)
                assert len(a.peers) == len(b.peers) == 1

    asyncio.run(story())


def test_a_peer_that_calls_again_has_lost_the_old_connection(tmp_path, monkeypatch):
    """A moved machine calls while its old connection looks alive here; two calls that cross are another thing."""

    def calls_again(node, peer, *, after: float) -> bool:
        """Whether the node takes a call of a peer that it had called itself, so many seconds later."""
        old = node.peers[peer]
        with monkeypatch.context() as later:
            later.setattr(old, "since", old.since - after)
            later.setattr(old, "close", lambda reason: None)
            return node._prefer(
                Peer(node.clone, peer, None, own=node.clone.identity.id, dialled=False, address=None, tell=print)
            )

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            lower, higher = sorted((alice, bob), key=lambda clone: clone.identity.id)
            if lower is bob:
                bob.store.set_meta("inviter", tls.make_certificate(alice.identity.private))
            async with running(higher) as h, running(lower, [at(h)]) as node:
                await until(lambda: node.peers and node.in_step, node)
                assert not calls_again(node, higher.identity.id, after=0)
                assert calls_again(node, higher.identity.id, after=OPEN_TIMEOUT + 1)

    asyncio.run(story())


def test_a_connection_from_an_address_that_has_gone_is_made_anew_at_once(tmp_path, monkeypatch):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
                old = b.peers[alice.identity.id]
                await b._network_changed({"10.1.1.1", "127.0.0.1"})  # loopback does not go
                assert b.peers[alice.identity.id] is old
                monkeypatch.setattr(type(old), "local_address", "10.1.1.1")
                await b._network_changed({"10.1.1.1"})
                await until(lambda: b.peers.get(alice.identity.id) not in (None, old) and b.in_step, b, 5)

    asyncio.run(story())


def test_a_removed_clone_is_told_so_and_gets_nothing_more(tmp_path):
    async def story():
        heard = []
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)], heard) as b:
                await until(lambda: b.peers and b.in_step, b)
                alice.remove("bob")
                alice.edit_text("later.md", new="not for bob")
                await until(lambda: any(e["event"] == "ended" for e in heard), b)
                await until(lambda: not a.peers, a)
            assert any("removed" in e.get("reason", "") for e in heard)
            assert bob.documents.find("later.md", "text").alive is False

    asyncio.run(story())


def test_a_stranger_gets_nothing_before_authentication(tmp_path):
    async def story():
        with founder(tmp_path) as alice, founder(tmp_path, "mallory") as mallory:
            heard = []
            async with running(alice) as a, running(mallory, [at(a)], heard) as m:
                await until(lambda: any(e["event"] == "unreachable" for e in heard), m)
            assert not a.peers and not m.peers

    asyncio.run(story())


def test_an_address_that_speaks_something_else_is_named(tmp_path):
    async def story():
        async def talk(reader, writer):
            writer.write(b"220 mail ready\r\n")
            writer.close()

        heard = []
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        place = server.sockets[0].getsockname()
        with founder(tmp_path) as alice:
            async with running(alice, [place], heard) as a:
                await until(lambda: any(e["event"] == "unreachable" for e in heard), a)
        server.close()
        message = next(e for e in heard if e["event"] == "unreachable")
        assert f":{place[1]}" in message["message"] and message["hint"]

    asyncio.run(story())


def test_a_peer_that_goes_and_comes_back_is_met_again(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a:
                place = at(a)
                async with running(bob, [place]) as b:
                    await until(lambda: b.peers and b.in_step, b)
                assert alice.store.value("SELECT count(*) FROM peers") == 1
                bob.edit_text("away.md", new="written offline")
                async with running(bob) as b:  # no address given: it remembers where alice was
                    await until(lambda: b.peers and b.in_step, b)
            assert alice.text("away.md") == "written offline"

    asyncio.run(story())


def test_pairing_over_the_network_brings_everything(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            write(alice, "lessons-buffer.md", "# L\n\n- one\n- two\n")
            Bridge(alice).run(wait=True)
            events = []
            async with running(alice, mdns=True) as a:
                invitation = invite(a, 60)
                code = await anext(invitation)
                rest = asyncio.ensure_future(_collect(invitation, events))
                bob = await join(code["code"], tmp_path / "bob", "bob", [])
                await rest
            with bob:
                assert events == [{"event": "joined", "clone": "bob"}]
                assert bob.digest() == alice.digest()
                assert [e.text for e in bob.entries("lessons-buffer.md")] == ["# L", "- one", "- two"]

    asyncio.run(story())


async def _collect(events, into):
    async for event in events:
        into.append(event)


def test_a_wrong_code_leaves_everything_as_it_was(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            async with running(alice) as a:
                invitation = invite(a, 60)
                code = await anext(invitation)
                words = code["code"].split("-")
                wrong = "-".join([words[0], words[2], words[1], words[3]])
                if wrong == code["code"]:
                    wrong = "-".join([words[0], words[1], words[3], words[2]])
                with pytest.raises(WrongCode):
                    await join(wrong, tmp_path / "bob", "bob", [("127.0.0.1", code["port"])])
                await invitation.aclose()
            assert not (tmp_path / "bob").exists()
            assert len(alice.members()) == 1

    asyncio.run(story())


def test_an_invitation_that_expires_says_so(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            async with running(alice) as a:
                invitation = invite(a, 0.2)
                await anext(invitation)
                with pytest.raises(CodeExpired):
                    await anext(invitation)

    asyncio.run(story())


def test_joining_where_nobody_invites_leaves_no_clone(tmp_path):
    async def story():
        with pytest.raises(Unreachable):
            await join("1-oxygen-spinach-lotus", tmp_path / "bob", "bob", [("127.0.0.1", 9)])

    asyncio.run(story())
    assert not (tmp_path / "bob" / ".replica").exists()


def test_a_clone_cannot_join_a_second_workspace(tmp_path):
    with founder(tmp_path), pytest.raises(AlreadyAClone):
        asyncio.run(join("1-oxygen-spinach-lotus", tmp_path / "alice", "x", []))


def test_one_node_at_a_time_runs_on_a_clone(tmp_path):
    async def story():
        with founder(tmp_path) as alice, Clone.open(tmp_path / "alice") as again:
            async with running(alice, serve=True):
                with pytest.raises(StoreError):
                    async with running(again, serve=True):
                        pass

    asyncio.run(story())


def test_a_port_in_use_is_named(tmp_path):
    async def story():
        with founder(tmp_path) as alice, founder(tmp_path, "other") as other:
            async with running(alice) as a:
                with pytest.raises(CannotListen, match=str(a.port)):
                    async with running(other, listen=at(a)):
                        pass

    asyncio.run(story())


def test_a_running_node_answers_other_processes_and_only_those_who_may_read_the_folder(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            async with running(alice, serve=True):
                status = await asyncio.to_thread(control.ask, alice.root, "status")
                assert status["pid"] == os.getpid()
                place = control.read(alice.root)
                control.publish(alice.root, {**place, "token": "guessed"})
                assert await asyncio.to_thread(control.ask, alice.root, "status", timeout=2.0) is None
            assert control.ask(alice.root, "status") is None

    asyncio.run(story())


def test_what_another_process_adds_is_sent_on_at_once(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice, serve=True) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
                with Clone.open(alice.root) as hook:
                    hook.edit_text("hook.md", new="from a hook")
                await asyncio.to_thread(control.poke, alice.root)
                await until(lambda: bob.vector() == hook_vector(alice), b)
            assert bob.text("hook.md") == "from a hook"

    def hook_vector(clone):
        return clone.vector()

    asyncio.run(story())


def test_meeting_ends_soon_when_everybody_is_in_step(tmp_path):
    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)]) as b:
                met = await meet(b, 10)
            assert met["in_step"] == ["alice"] and met["missing"] == []
            assert met["seconds"] < 5

    asyncio.run(story())


def test_events_can_be_printed_as_json(tmp_path):
    async def story():
        heard = []
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice, events=heard, files=True) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
        assert {"listening", "connected", "in_step"} <= {json.loads(json.dumps(e))["event"] for e in heard}

    asyncio.run(story())


def test_a_sync_says_why_a_given_address_was_not_met(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            async with running(alice, [("127.0.0.1", 9)]) as a:
                met = await meet(a, 1)
        assert "127.0.0.1:9" in met["problems"][0]["message"] and met["problems"][0]["hint"]

    asyncio.run(story())


def test_a_peer_of_a_newer_protocol_is_refused_with_both_versions_named(tmp_path, monkeypatch):
    async def story():
        heard = []
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a:
                opened = Session.open
                monkeypatch.setattr(Session, "open", lambda self: [
                    replace(m, versions=(99,)) if self._clone is bob else m for m in opened(self)
                ])  # fmt: skip
                async with running(bob, [at(a)], heard) as b:
                    await until(lambda: any(e["event"] == "ended" for e in heard), b)
        reason = next(e["reason"] for e in heard if e["event"] == "ended")
        assert "99" in reason and "1" in reason

    asyncio.run(story())


def test_a_removed_clone_hears_once_who_removed_it_and_does_not_keep_calling(tmp_path):
    async def story():
        heard = []
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a:
                async with running(bob, [at(a)]) as b:
                    await until(lambda: b.peers and b.in_step, b)
                alice.remove("bob")
                async with running(bob, [at(a)], heard) as b:
                    met = await meet(b, 1.5)
        (problem,) = [p["message"] for p in met["problems"]]
        assert problem.startswith("alice: bob was removed from the workspace by alice on 2")
        assert sum(e["event"] == "connected" for e in heard) == 1

    asyncio.run(story())


def test_a_fault_in_one_conversation_ends_neither_the_node_nor_the_others(tmp_path, monkeypatch):
    async def story():
        heard = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        with (
            founder(tmp_path) as alice,
            admitted(tmp_path, alice, "bob") as bob,
            admitted(tmp_path, alice, "carol") as carol,
        ):
            async with running(alice, events=heard) as a, running(carol, [at(a)]) as c:
                await until(lambda: c.peers and c.in_step, c)
                opened = Session.open
                monkeypatch.setattr(Session, "open", lambda self: 1 / 0 if self._clone is alice else opened(self))
                async with running(bob, [at(a)]):
                    await until(lambda: any(e["event"] == "error" for e in heard), a)
                carol.edit_text("n.md", new="still here")
                await until(lambda: alice.vector() == carol.vector(), a)

    asyncio.run(story())


def test_a_day_that_two_clones_told_while_apart_is_made_one_by_their_nodes(tmp_path, monkeypatch):
    from replica.sessions.backfill import Documents
    from tests.sessions.test_backfill import HAND, PATH, fill, rendered

    monkeypatch.setattr("transport.node.DAYS_AFTER", 0.1)

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            write(alice, PATH, HAND)
            async with running(alice, files=True) as one, running(bob, [at(one)], files=True) as two:
                await until(lambda: (bob.root / PATH).exists(), two)
            for clone in (alice, bob):
                fill(Documents(clone, "memory"), preserve=True)
                Bridge(clone).run()
            async with running(alice, files=True) as one, running(bob, [at(one)], files=True) as two:
                await until(lambda: alice.vector() == bob.vector(), two)
                once = f"{rendered()}\n{HAND}"
                await until(lambda: {(clone.root / PATH).read_text("utf-8") for clone in (alice, bob)} == {once}, two)
                document = alice.documents.find(PATH, "text")
                await until(lambda: not list(alice.documents.conflicts(document)), two)

    asyncio.run(story())
