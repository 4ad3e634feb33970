"""What broke between clones: strangers, stale decisions, silent networks, neighbours on one host, limits."""

import asyncio
import contextlib
import os
import socket
import ssl

import pytest

from replica import changes, log
from replica.errors import InvalidChange
from tests.helpers import Link, Network, add, assert_same, batches, save
from tests.test_node import admitted, at, founder, running, until
from transport import node as nodes
from transport.discovery import Discovery
from transport.session import Changes, Ended


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


def test_failure_28_a_stranger_costs_nothing_and_keeps_nobody_out(tmp_path):
    """What strangers sent before they were known filled the memory: here they get no further than the handshake."""

    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # has no certificate, and takes any
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE

    async def speak(node, data: bytes, **options) -> bytes:
        """Send, and return what comes back until the node closes."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(*at(node), **options)
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 10)
        return b""

    async def story():
        request = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        heard = []
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice, events=heard) as a:
                silent = [socket.create_connection(at(a)) for _ in range(60)]
                try:
                    for data in (os.urandom(200_000), request, b"\x16\x03\x01\x40\x00" + bytes(0x4000)):
                        assert len(await speak(a, data)) < 100  # a TLS alert, and nothing of ours
                    assert await speak(a, request, ssl=nobody) == b""
                    async with running(bob, [at(a)]) as b:
                        await until(lambda: b.peers and b.in_step, b)
                    assert [event["event"] for event in heard if event["event"] == "connected"] == ["connected"]
                finally:
                    for one in silent:
                        one.close()

    asyncio.run(story())


def test_failure_29_a_removal_counts_from_the_next_message_on_and_not_from_the_next_connection(monkeypatch):
    """A policy remembered for a connection sent plain text to an untrusted device: here each message is judged."""
    monkeypatch.setattr(log, "BATCH_CHANGES", 1)
    with Network("alice", "bob", "carol") as network:
        alice, carol = network["alice"], network["carol"]
        for n in range(20):
            add(alice, "a-buffer.md", f"- {n}")
        link = Link(alice, carol)
        while carol.store.value("SELECT count(*) FROM adds") < 8:  # in the middle of it
            link.deliver(link.busy[0])
        alice.remove("carol")
        sent = []
        while link.busy:
            side = link.busy[0]
            before = len(link.queues[1])
            link.deliver(side)
            if side == 0:  # alice has heard, and may have answered
                sent += [message for message in list(link.queues[1])[before:] if isinstance(message, Changes)]
        assert sent == [] and len(carol.entries("a-buffer.md")) < 20
        assert any(isinstance(event, Ended) and "removed" in event.reason for event in link.events[1])


def test_failure_29_a_document_that_becomes_private_is_held_back_on_the_open_connection():
    """A folder that was made untrusted went on over the open connection: here its next edit stays here."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        save(alice, "a-buffer.md", "- shared\n")
        network.run("alice")
        link = Link(alice, bob)
        link.run()
        save(alice, "replica.toml", '[[documents]]\nglob = "a-buffer.md"\npolicy = "union"\nlevel = 0\n')
        network.run("alice")
        link.send(0, link.sessions[0].changed())
        link.run()
        save(alice, "a-buffer.md", "- shared\n- for nobody else\n")
        network.run("alice")
        assert "for nobody else" in alice.text("a-buffer.md")
        link.send(0, link.sessions[0].changed())
        link.run()
        assert link.in_step and bob.text("a-buffer.md") == "- shared\n"
        assert not any(b"for nobody else" in body for (body,) in bob.store.rows("SELECT body FROM changes"))


def test_failure_30_every_start_has_another_name_so_no_conflict_can_come_late():
    """A name conflict that came late was not noticed: here names are random and new at each start."""
    workspace = os.urandom(16)

    async def story():
        names = []
        for _ in range(4):
            discovery = Discovery(workspace, interfaces=["127.0.0.1"])
            await discovery.announce(7001)
            names.append(discovery._member)
            await discovery.close()
        assert len(set(names)) == 4
        # Should somebody use our name all the same, he is not taken for a peer, and we keep it.
        discovery, found = Discovery(workspace, interfaces=["127.0.0.1"]), []
        discovery.on_found(lambda addresses, instance: found.append(instance))
        try:
            assert await discovery.start()
            await discovery.announce(7001)
            discovery._event(None, "", f"{discovery._member}._replica._tcp.local.", None)
            assert not discovery._lookups and not found and discovery._member in discovery._infos
        finally:
            await discovery.close()

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize("what", ["another address", "sleep"])
def test_failure_30_another_network_and_a_wake_are_noticed_and_announced(tmp_path, monkeypatch, what):
    """A changed network or a sleep went unnoticed: here the node looks, announces again and calls everybody."""

    async def story():
        heard, announced = [], []
        monkeypatch.setattr(nodes, "HOUSEKEEPING", 0.3)
        with founder(tmp_path) as alice:
            async with running(alice, [("127.0.0.1", 9)], heard, mdns=True) as node:
                await until(lambda: any(target.failures for target in node.targets.all()), node)
                publish = node.discovery._publish

                async def counted(instance):
                    announced.append(instance)
                    await publish(instance)

                monkeypatch.setattr(node.discovery, "_publish", counted)
                calls = []
                monkeypatch.setattr(node, "hurry", lambda: calls.append(1))
                if what == "sleep":
                    wall = nodes.time.time
                    monkeypatch.setattr(nodes.time, "time", lambda: wall() + 3_600)
                else:
                    monkeypatch.setattr(nodes.addresses, "current", lambda: ("127.0.0.1", "127.0.0.2"))
                await until(lambda: announced and calls, node)
                assert any(event["event"] == "network_changed" for event in heard)
                monkeypatch.undo()

    asyncio.run(story())


def test_failure_30_a_peer_that_moved_is_found_by_its_last_address_a_fixed_one_or_not_at_all_with_a_reason(
    tmp_path, monkeypatch, capsys
):
    """Without multicast nobody was found, and nothing said why: here old and given addresses are called too."""
    from cli import main as command

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a:
                async with running(bob, [at(a)]) as b:  # a given address
                    await until(lambda: b.peers and b.in_step, b)
                async with running(bob) as b:  # the last known one
                    await until(lambda: b.peers and b.in_step, b)
            admitted(tmp_path, alice, "carol").close()

    asyncio.run(story())
    assert command.main(["doctor", "--dir", str(tmp_path / "alice")]) in (0, 1)
    said = capsys.readouterr().out
    assert "carol was never met from here" in said and "--peer HOST:PORT" in said


def test_failure_31_many_nodes_on_one_host_have_their_own_ports_and_names_and_all_meet(tmp_path):
    """Several nodes on one host shared an identity or a port, and were blind to each other: here all find all."""

    async def story():
        async with contextlib.AsyncExitStack() as stack:
            alice = stack.enter_context(founder(tmp_path))
            clones = [
                alice,
                *(stack.enter_context(admitted(tmp_path, alice, name)) for name in ("bob", "carol", "dave")),
            ]
            started = [await stack.enter_async_context(running(clone, mdns=True)) for clone in clones]
            await until(lambda: all(len(node.peers) == 3 and node.in_step for node in started), started[0], 20)
            assert len({node.port for node in started}) == len({node.discovery._member for node in started}) == 4
            assert len({clone.identity.id for clone in clones}) == 4

    asyncio.run(story())


def test_failure_32_a_clone_that_believes_it_is_done_hears_that_it_is_not():
    """One side believed it was done: here both compare digests, and what differs is made anew from the log."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one", "- two")
        network.sync("alice", "bob")
        bob.store.execute("UPDATE adds SET dead=1 WHERE text='- two'")
        with bob.transaction():
            bob.store.execute("UPDATE documents SET digest=NULL")
            bob.store.set_meta("digest", None)
        assert bob.vector() == alice.vector()
        network.sync("alice", "bob")
        assert "- two" in bob.text("a-buffer.md")


def test_failure_32_delivering_everything_twice_and_late_changes_nothing():
    """Delivery is at least once: here a change that comes again, or late, is passed over."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(5):
            add(alice, "a-buffer.md", f"- {n}")
        sent = list(batches(alice, bob.vector(), size=2))
        for batch in (*sent, *sent, *reversed(sent)):
            bob.ingest(batch)
        assert_same(alice, bob)


def test_failure_33_large_documents_and_many_changes_travel_in_bounded_batches(monkeypatch):
    """A default limit of 1 MiB cut off what was larger: here batches are bounded on purpose, and everything fits."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for n in range(6):
            alice.edit_text(f"big{n}.md", new="x" * 900_000)
        for n in range(1_200):
            add(alice, "a-buffer.md", f"- {n}")
        for batch in batches(alice, network["bob"].vector()):
            assert len(batch) <= log.BATCH_CHANGES
            assert sum(len(signed.body) for signed in batch) <= log.BATCH_BYTES + changes.MAX_BODY
        network.sync("alice", "bob")
        assert len(network["bob"].entries("a-buffer.md")) == 1_200
        with pytest.raises(InvalidChange, match="over the limit"):
            add(alice, "a-buffer.md", "x" * changes.MAX_BODY)


def test_failure_33_a_message_over_one_mebibyte_passes_the_real_connection(tmp_path):
    """A library's default of 1 MiB ended the connection, again and again: here the limit is ours, and larger."""

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            with alice.transaction():
                alice.edit_text("small.md", new="s" * 200_000)
                alice.edit_text("large.md", new="l" * 999_000)
            (batch,) = [b for b in batches(alice, {}) if sum(len(signed.body) for signed in b) > 1_048_576]
            assert len(batch) > 1
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
            assert (bob.text("small.md"), bob.text("large.md")) == ("s" * 200_000, "l" * 999_000)

    asyncio.run(story())
