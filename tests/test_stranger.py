"""A stranger on the network gets nothing before it has shown who it is, and takes little of us. Real sockets.

The stranger comes from 127.0.0.2, the members from 127.0.0.1: where two addresses of one machine cannot be had, the
tests that need them are skipped.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replica.clone import Clone
from replica.keys import Identity
from tests.test_node import admitted, at, founder, running, until
from transport import limits, tls
from transport.discovery import SERVICE, Discovery, tag
from transport.inviting import invite
from transport.node import SUBPROTOCOL
from transport.targets import MOST_HEARD, Targets

STRANGER = "127.0.0.2"
UPGRADE = (
    "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
).encode()


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


def has_second_address() -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((STRANGER, 0))
        except OSError:
            return False
    return True


two_addresses = pytest.mark.skipif(not has_second_address(), reason="this system has one loopback address only")


def secrets_of(*clones: Clone) -> list[bytes]:
    """What nobody may read from outside: names of the workspace, of members and of documents, the workspace's id."""
    found = [b"garden", b"alicia", b"robert", b"private-plan", b"replica.toml"]  # long enough to be no accident
    for clone in clones:
        found += [clone.workspace, clone.workspace.hex().encode()]
    return found


def assert_tells_nothing(said: bytes, *clones: Clone) -> None:
    for secret in secrets_of(*clones):
        assert secret not in said, f"{secret!r} was told to a stranger"


# --- what a stranger can say, and what is answered


async def plain(port: int, data: bytes, seconds: float = 1.0) -> bytes:
    """Everything that comes back on a plain connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(STRANGER, 0))
    said = b""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                said += part
    writer.close()
    return said


def handshake_bytes(port: int, context: ssl.SSLContext, then: bytes = b"") -> tuple[bytes, bytes]:
    """The bytes on the wire from the server, and what they are when they are deciphered."""
    clear = bytearray()

    def message(_connection, direction, _version, _content, _kind, data):
        if direction == "read":
            clear.extend(data)

    context._msg_callback = message  # the handshake as OpenSSL reads it, certificates included
    incoming, outgoing, wire = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=3, source_address=(STRANGER, 0)) as raw:
        secure = context.wrap_bio(incoming, outgoing, server_hostname="replica")
        steps = [secure.do_handshake, lambda: secure.write(then) if then else None, lambda: clear.extend(secure.read())]
        with contextlib.suppress(OSError, ssl.SSLError):
            while steps:
                try:
                    steps[0]()
                    steps.pop(0)
                except ssl.SSLWantReadError:
                    pass
                if sent := outgoing.read():
                    raw.sendall(sent)
                if steps and incoming.pending == 0:
                    if not (part := raw.recv(65536)):
                        break
                    wire.extend(part)
                    incoming.write(part)
    return bytes(wire), bytes(clear)


def client_context(identity: Identity | None = None, folder: Path | None = None, **versions) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([tls.ALPN])
    for name, value in versions.items():
        setattr(context, name, value)
    if identity is not None:
        pem = folder / "stranger.pem"
        tls.write_pem(pem, identity.private, tls.make_certificate(identity.private))
        context.load_cert_chain(pem)
    return context


@two_addresses
def test_nothing_that_a_stranger_sends_is_answered_with_anything_of_ours(tmp_path):
    async def story():
        with founder(tmp_path, "alicia") as alice, admitted(tmp_path, alice, "robert") as bob:
            alice.edit_text("notes/private-plan.md", new="private-plan\n")
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
                for data in (b"\0" * 4096, os.urandom(4096), b"GET / HTTP/1.1\r\n\r\n", UPGRADE, b"\x16\x03\x01" * 99):
                    assert_tells_nothing(await plain(a.port, data), alice)
                contexts = {
                    "without a certificate": client_context(),
                    "with an unknown one": client_context(Identity.new(), tmp_path),
                    "of TLS 1.2": client_context(maximum_version=ssl.TLSVersion.TLSv1_2),
                }
                for how, context in contexts.items():
                    wire, clear = await asyncio.to_thread(handshake_bytes, a.port, context, UPGRADE)
                    assert_tells_nothing(wire + clear, alice)
                    if how == "of TLS 1.2":
                        assert len(wire) < 64  # an alert, and that is all
                    else:
                        assert tls.make_certificate(alice.identity.private) in clear  # we did look inside
                        assert bob.identity.id.hex().encode() not in clear and b"HTTP" not in clear
                assert len(a.peers) == 1 and b.in_step

    asyncio.run(story())


def test_a_certificate_says_a_number_and_no_name():
    identity = Identity.new()
    der = tls.make_certificate(identity.private, "the name of a person")
    assert b"person" not in der and identity.id.hex().encode() in der


def test_who_calls_a_stranger_shows_it_nothing(tmp_path):
    """Anyone can announce an address on the LAN: what calls there must not give itself away."""

    async def story():
        heard = bytearray()

        async def listen(reader, writer):
            heard.extend(await reader.read(65536))
            writer.close()

        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        with founder(tmp_path, "alicia") as alice, admitted(tmp_path, alice, "robert"):
            async with running(alice, [server.sockets[0].getsockname()]) as a:
                await until(lambda: heard, a)
            assert_tells_nothing(bytes(heard), alice)
            assert alice.identity.id.hex().encode() not in heard
        server.close()

    asyncio.run(story())


def test_who_calls_a_stranger_with_a_certificate_does_not_show_its_own(tmp_path):
    identity, stranger = Identity.new(), Identity.new()
    pem, other = tmp_path / "own.pem", tmp_path / "other.pem"
    der = tls.make_certificate(identity.private)
    tls.write_pem(pem, identity.private, der)
    tls.write_pem(other, stranger.private, tls.make_certificate(stranger.private))
    trust = tls.Trust(pem, {})
    shown = bytearray()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(other)
    server._msg_callback = lambda _c, direction, _v, _t, _k, data: direction == "read" and shown.extend(data)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server.wrap_bio(to_server, to_client, server_side=True)
    there = trust.client.wrap_bio(to_client, to_server, server_hostname="replica")
    with pytest.raises(ssl.SSLCertVerificationError):
        for step in (there.do_handshake, here.do_handshake, there.do_handshake):
            with contextlib.suppress(ssl.SSLWantReadError):
                step()
    with contextlib.suppress(ssl.SSLError):
        here.do_handshake()
    assert shown and der not in shown and identity.id.hex().encode() not in shown


def test_an_announcement_on_the_lan_holds_no_name_and_no_id(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "gretas-notebook")

    async def story():
        with founder(tmp_path, "alicia") as alice:
            discovery = Discovery(alice.workspace, interfaces=["127.0.0.1"])
            try:
                await discovery.start()
                await discovery.announce(4711)
                await discovery.announce_pairing(7, 4712)
                said = b"".join(
                    repr((i.name, i.server, i.properties, i.text, i.port, i.parsed_addresses())).encode() + i.text
                    for i in discovery._infos.values()
                )
                assert SERVICE.encode() in said and b"4711" in said and b"4712" in said
                assert_tells_nothing(said, alice)
                assert alice.identity.id.hex().encode() not in said
                assert b"gretas" not in said
            finally:
                await discovery.close()
            assert tag(alice.workspace, "one") != tag(alice.workspace, "other")  # nor can two starts be told to be one

    asyncio.run(story())


@two_addresses
def test_the_port_of_an_invitation_tells_a_stranger_nothing(tmp_path):
    async def story():
        with founder(tmp_path, "alicia") as alice:
            alice.edit_text("notes/private-plan.md", new="x\n")
            async with running(alice) as a:
                invitation = invite(a, 60)
                code = await anext(invitation)
                for data in (b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", UPGRADE):
                    assert_tells_nothing(await plain(code["port"], data), alice)
                for then in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", UPGRADE, UPGRADE + b"\x82\x85\0\0\0\0hello"):
                    wire, clear = await asyncio.to_thread(handshake_bytes, code["port"], client_context(), then)
                    assert_tells_nothing(wire + clear, alice)
                await invitation.aclose()

    asyncio.run(story())


# --- how much of us a stranger may take


def test_the_oldest_of_the_address_with_the_most_gives_way():
    door = limits.Door(most=4, most_from_one=3)
    assert [door.enter("mob", n, 0.0) for n in range(3)] == [(True, None)] * 3
    assert door.enter("mob", 3, 0.0) == (True, 0)
    assert door.enter("honest", "a", 0.0) == (True, None)
    assert door.enter("other", "b", 0.0) == (True, 1)  # full: the mob makes room
    door.leave("honest", "a")
    assert len(door) == 3


def test_an_address_that_comes_too_often_is_not_answered_and_others_are():
    door = limits.Door()
    let_in = sum(door.enter("mob", n, 0.0)[0] for n in range(1_000))
    assert let_in == limits.BURST
    assert door.enter("honest", "a", 0.0)[0]
    assert not door.enter("mob", "again", 0.01)[0] and door.enter("mob", "later", 10.0)[0]


def test_what_is_remembered_of_addresses_is_bounded():
    rate = limits.Rate(1, 1, most=10)
    for n in range(1_000):
        rate.spend(n, 0.0)
    assert len(rate) == 10
    assert limits.place("fe80::1%eth0") == limits.place("fe80::2") and limits.place("10.0.0.1") != "10.0.0.2"
    assert limits.place("::ffff:10.0.0.1") == "10.0.0.1"


def test_a_pause_doubles_up_to_an_hour_and_ends():
    pauses = limits.Pauses()
    now, lengths = 0.0, []
    for _ in range(9):
        lengths.append(pauses.refuse(b"m", now, "why"))
        assert pauses.paused(now) == {b"m"} and pauses.left(b"m", now) == lengths[-1]
        now += lengths[-1]
    assert lengths[:3] == [60, 120, 240] and lengths[-1] == 3600
    assert pauses.left(b"m", now) <= 0 and pauses.paused(now) == set() and pauses.left(b"other", now) <= 0
    assert pauses.refuse(b"m", now + 3_601, "why") == 60


def test_addresses_that_anyone_can_announce_are_bounded_and_those_of_members_stay():
    targets = Targets(jitter=lambda: 0.5)
    targets.add(("10.0.0.1", 1), 0.0, fixed=True)
    targets.add(("10.0.0.2", 1), 0.0, peer=b"robert")
    for n in range(5_000):
        targets.add((f"10.1.{n // 250}.{n % 250}", 1), 0.0)
    kept = [t.address for t in targets.all()]
    assert len(kept) == MOST_HEARD + 2 and kept[:2] == [("10.0.0.1", 1), ("10.0.0.2", 1)]
    assert kept[-1] == ("10.1.19.249", 1)


NODE = """
import asyncio, json, sys
from pathlib import Path
from replica.clone import Clone
from transport.node import Node, Options

async def main():
    with Clone.open(Path(sys.argv[1])) as clone:
        peers = [("127.0.0.1", int(port)) for port in sys.argv[2:]]
        node = Node(clone, Options(listen=("127.0.0.1", 0), peers=peers, mdns=False, files=False, serve=False))
        running = asyncio.ensure_future(node.run())
        await node.started.wait()
        print(json.dumps({"port": node.port}), flush=True)
        await running

asyncio.run(main())
"""


@contextlib.contextmanager
def node_process(root: Path, *peers: int):
    """A node in a process of its own, so that its memory can be told from ours; yields the process and its port."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, str(root), *map(str, peers)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process, json.loads(process.stdout.readline())["port"]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def memory_of(pid: int, what: str) -> int:
    """kB from /proc: VmRSS now, VmHWM at most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what)))


def open_sockets(pid: int) -> int:
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(entry).startswith("socket:")
    return found


class Crowd:
    """Connections of a stranger that are kept open as long as the other side lets them."""

    def __init__(self, port: int, first: bytes):
        self._port, self._first = port, first
        self.made = 0
        self._open: list[socket.socket] = []

    def add(self, count: int) -> None:
        for _ in range(count):
            one = socket.socket()
            one.bind((STRANGER, 0))
            one.settimeout(2)
            one.connect(("127.0.0.1", self._port))
            with contextlib.suppress(OSError):
                one.sendall(self._first)
            one.setblocking(False)
            self._open.append(one)
            self.made += 1

    def drip(self, byte: bytes = b"\x01") -> None:
        """One byte more on each: a slow one never ends."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.send(byte)

    def alive(self) -> int:
        """How many the other side has not closed."""
        found = 0
        for one in self._open:
            try:
                found += one.recv(1) != b""
            except BlockingIOError:
                found += 1
            except OSError:
                pass
        return found

    def close(self) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):  # reset at once: nothing lingers
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()


CLIENT_HELLO = bytes.fromhex("160301020001000201fc0303")  # and then nothing, or one byte at a time


@two_addresses
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_two_thousand_connections_cost_little_and_members_still_get_in(tmp_path):
    """Half of them silent, half of them slow in the middle of a handshake."""
    with founder(tmp_path, "alicia") as alice:
        bob, carol = admitted(tmp_path, alice, "robert"), admitted(tmp_path, alice, "carol")
        root = alice.root
    with bob, carol, node_process(root) as (process, port):
        asyncio.run(meets(bob, port))
        before, sockets = memory_of(process.pid, "VmHWM"), open_sockets(process.pid)
        crowds = [Crowd(port, b""), Crowd(port, CLIENT_HELLO)]
        try:
            most = 0
            for _ in range(10):
                for crowd in crowds:
                    crowd.add(100)
                    crowd.drip()
                most = max(most, open_sockets(process.pid) - sockets)
            assert sum(crowd.made for crowd in crowds) == 2_000
            began = time.monotonic()
            bob.edit_text("during.md", new="written during the flood\n")
            asyncio.run(meets(bob, port))
            asyncio.run(meets(carol, port))  # one that has never been here
            assert time.monotonic() - began < 10
            assert carol.text("during.md") == "written during the flood\n"
            # Of 2,000 no more than the door has room for, and what is accepted and closed in a few turns of the loop.
            assert most <= limits.MOST_AT_THE_DOOR + 400
            settle(lambda: open_sockets(process.pid) - sockets <= limits.MOST_FROM_ONE)
            assert memory_of(process.pid, "VmHWM") - before < 64_000
            # The slow ones lose their place by time, whatever they send.
            settle(
                lambda: crowds[1].drip() or sum(crowd.alive() for crowd in crowds) == 0, 3 * limits.HANDSHAKE_TIMEOUT
            )
        finally:
            for crowd in crowds:
                crowd.close()


def settle(holds, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.02)


async def meets(clone: Clone, port: int) -> None:
    """The clone meets the node at the port, and they end in step."""
    async with running(clone, [("127.0.0.1", port)]) as node:
        await until(lambda: node.peers and node.in_step, node)


@two_addresses
def test_a_member_that_never_finishes_its_upgrade_or_sends_endless_headers_is_let_go(tmp_path, monkeypatch):
    """Only members come so far: TLS is behind them."""
    monkeypatch.setattr("transport.node.OPEN_TIMEOUT", 0.5)

    async def story():
        with founder(tmp_path, "alicia") as alice, admitted(tmp_path, alice, "robert") as bob:
            pem = tmp_path / "bob.pem"
            tls.write_pem(pem, bob.identity.private, tls.make_certificate(bob.identity.private))
            context = client_context()
            context.load_cert_chain(pem)
            async with running(alice) as a:
                headers = b"A: b\r\n" * 100_000
                for data in (b"GET / HTTP/1.1\r\nHost", b"GET /" + b"x" * 1_000_000, b"GET / HTTP/1.1\r\n" + headers):
                    reader, writer = await asyncio.open_connection("127.0.0.1", a.port, ssl=context)
                    writer.write(data)
                    with contextlib.suppress(OSError):
                        said = await asyncio.wait_for(reader.read(), 5)
                        assert_tells_nothing(said, alice)
                    writer.close()
                many = [await asyncio.open_connection("127.0.0.1", a.port, ssl=context) for _ in range(12)]
                await asyncio.sleep(0)
                assert max(a.guard.inside.values()) <= limits.MOST_OF_ONE_MEMBER
                for _, writer in many:
                    writer.close()
                async with running(bob, [at(a)]) as b:
                    await until(lambda: b.peers and b.in_step, b, 20)

    asyncio.run(story())


@two_addresses
def test_an_honest_pair_converges_during_a_flood_of_handshakes(tmp_path):
    async def story():
        with founder(tmp_path, "alicia") as alice, admitted(tmp_path, alice, "robert") as bob:
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
                over = asyncio.Event()
                context = client_context(Identity.new(), tmp_path)

                async def knock() -> None:
                    while not over.is_set():
                        with contextlib.suppress(OSError, ssl.SSLError):
                            _, writer = await asyncio.open_connection(
                                "127.0.0.1", a.port, ssl=context, local_addr=(STRANGER, 0)
                            )
                            writer.transport.abort()

                knocking = [asyncio.ensure_future(knock()) for _ in range(8)]
                for n in range(20):
                    bob.edit_text("n.md", new=f"{n}\n")
                    await until(lambda: alice.vector() == bob.vector(), a)
                await until(lambda: a.guard.refused > 0, a, 30)  # more than its budget came
                bob.edit_text("n.md", new="and still\n")
                await until(lambda: alice.vector() == bob.vector(), a)
                over.set()
                await asyncio.gather(*knocking)
                await until(lambda: a.in_step and b.in_step, a)

    asyncio.run(story())
