"""Strangers that flood a port, members that lie: memory, connections, latency meanwhile, time until a liar is named."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness import SEED, node, percentile, say, spread, until, workspace

STRANGER, MEMBER = "127.0.0.2", "127.0.0.1"
COUNT, PACE = 200, 0.02
CONNECTIONS = 5_000
HELLO = bytes.fromhex("160301020001000201fc0303")  # a client's first words in TLS, and then nothing
LIARS = 8  # of each kind
DOCUMENTS = 20_000


def run(place: Path) -> None:
    if not Path("/proc/self/status").exists():
        print("  skipped: there is no /proc here")
        return
    print(
        f"  input: {COUNT} honest entries, {PACE * 1000:.0f} ms apart; strangers with 2 x {CONNECTIONS:,} connections"
    )
    calm = strangers(place / "calm", "no flood", None)
    for name, attack in ATTACKS.items():
        held = strangers(place / name, name, attack)
        say("  p50 against no flood", f"{held / calm:.1f} times")
    liars(place / "liars")
    documents(place / "documents")


def figure(pid: int, what: str) -> float:
    """MB from /proc: VmRSS now, VmHWM the most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what))) * 1024 / 1e6


def sockets(pid: int) -> int:
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(entry).startswith("socket:")
    return found


# --- strangers


def connect(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(STRANGER, 0))
    one.setblocking(False)
    return one


def silent(port: int, over: threading.Event, first: bytes = b"") -> int:
    """Connections that are opened as fast as it goes and kept; those that were closed are opened again."""
    kept: list[socket.socket] = []
    made = 0
    while not over.is_set():
        if made < CONNECTIONS:
            with contextlib.suppress(OSError):
                kept.append(connect(port))
                made += 1
                kept[-1].send(first) if first else None
        else:
            over.wait(0.5)
        if len(kept) > 800 or made >= CONNECTIONS:
            for one in kept:
                with contextlib.suppress(OSError):
                    one.send(b"\x01") if first else None
            for one in kept[:400]:
                one.close()
            del kept[:400]
    for one in kept:
        one.close()
    return made


def slow(port: int, over: threading.Event) -> int:
    """As `silent`, in the middle of a handshake."""
    return silent(port, over, HELLO)


def garbage(port: int, over: threading.Event) -> int:
    made = 0
    while not over.is_set() and made < CONNECTIONS:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5, (STRANGER, 0)) as one:
            made += 1
            one.sendall(os.urandom(4096))
    return made


def handshakes(port: int, over: threading.Event) -> int:
    """Whole handshakes, with nobody's certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    made = 0
    while not over.is_set() and made < CONNECTIONS:
        made += 1
        with (
            contextlib.suppress(OSError, ssl.SSLError),
            socket.create_connection(("127.0.0.1", port), 5, (STRANGER, 0)) as one,
            context.wrap_socket(one, server_hostname="replica") as secure,
        ):
            secure.read(1)
    return made


ATTACKS = {"silent": silent, "slow": slow, "garbage": garbage, "handshakes": handshakes}


@contextmanager
def flood(attack: Callable | None, pid: int, port: int) -> Iterator[dict]:
    """Two threads of strangers; counts connections made, and the most sockets that the node had."""
    over, seen = threading.Event(), {"made": 0, "sockets": 0}

    def strike() -> None:
        seen["made"] += attack(port, over)

    def look() -> None:
        while not over.wait(0.02):
            seen["sockets"] = max(seen["sockets"], sockets(pid))

    threads = [threading.Thread(target=strike, daemon=True) for _ in range(2 if attack else 0)]
    threads.append(threading.Thread(target=look, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


def strangers(place: Path, what: str, attack: Callable | None) -> float:
    """Honest latency and the cost of a flood; returns the latency's p50."""
    writer, reader = workspace(place, "writer", "reader")
    writer.close(), reader.close()
    with node(reader.root, "--no-files") as listening:
        pid = listening.popen.pid
        before, sockets_before = figure(pid, "VmHWM"), sockets(pid)
        # The flood stands before the honest one comes: it has to get in as well.
        with flood(attack, pid, listening.port) as seen:
            if attack:
                until(lambda: sockets(pid) > sockets_before or seen["made"])
            began = time.perf_counter()
            options = ["--peer", str(listening.port), "--append", str(COUNT), "--pace", str(PACE), "--seed", str(SEED)]
            with node(writer.root, "--no-files", *options) as appending:
                entered = appending.event("in_step")["at"] - began
                appended = appending.event("appended", 120)
                starts = {int(seq): start for seq, (start, _) in appended["starts"].items()}
                arrivals: dict[int, float] = {}
                while max(starts) not in arrivals:
                    received = listening.event("received")
                    for seq in starts:
                        if seq <= received["held"].get(appended["author"], 0):
                            arrivals.setdefault(seq, received["at"])
        most = figure(pid, "VmHWM")
    taken = [arrivals[seq] - start for seq, start in starts.items()]
    say(f"{what}: an honest entry arrives after", spread(taken))
    say("  an honest clone starts, calls and is in step in", f"{entered:.2f} s")
    say("  largest memory of the node", f"{most:.1f} MB, {most - before:+.1f} MB", "<= +64 MB", most - before <= 64)
    if attack:
        say("  connections made; most sockets at once", f"{seen['made']:,}; {seen['sockets']}")
    return percentile(taken, 0.5)


# --- members that lie


def liars(place: Path) -> None:
    from replica.changes import Kind, Signed, encode
    from transport import session
    from transport.session import Changes, Digest, Hello

    names = [f"liar-{n}" for n in range(4 * LIARS)]
    honest, *members = workspace(place, "honest", *names)

    def torn(liar):
        known = honest.log.author(liar.identity.id)
        change = encode(liar.identity.id, known.seq + 1, known.head, honest.log.now_ms() << 16, [], Kind.TEXT,
                        ("notes.md", "text"), b"\x80\x80\x80\x80\x01")  # fmt: skip
        return [Changes((Signed(change.body, liar.identity.sign(change.hash)),))]

    def forged(liar):
        me = honest.log.author(honest.identity.id)
        change = encode(me.id, me.seq + 1, me.head, honest.log.now_ms() << 16, [], Kind.DELETE,
                        ("notes.md", "text"), [])  # fmt: skip
        return [Changes((Signed(change.body, liar.identity.sign(change.hash)),))]

    def huge(liar):
        return [Changes((Signed(b"\xdd\xff\xff\xff\xff" + b"x" * 1_000_000, None),) * 3)]

    def endless(liar):
        return [Digest(honest.vector(), bytes(32))] * 1_000

    lies = {"torn update": torn, "forged author": forged, "frames of 3 MB": huge, "digests without end": endless}
    said: dict[bytes, float] = {}
    hello = session._RECEIVE[Hello]
    lie_of = {m.identity.id: list(lies.values())[at % len(lies)] for at, m in enumerate(members)}

    def lying(self, message):
        replies = hello(self, message)
        said[self._clone.identity.id] = time.perf_counter()
        return replies + lie_of[self._clone.identity.id](self._clone)

    session._RECEIVE[Hello] = lying
    try:
        with node(honest.root, "--no-files") as listening:
            pid = listening.popen.pid
            before = figure(pid, "VmHWM")
            taken: dict[str, list[float]] = {name: [] for name in lies}
            for at, member in enumerate(members):
                asyncio.run(_meet(member, listening.port))
                refused = listening.event("refused", 20)
                assert refused["clone"] == member.name
                taken[list(lies)[at % len(lies)]].append(refused["at"] - said[member.identity.id])
            most = figure(pid, "VmHWM")
    finally:
        session._RECEIVE[Hello] = hello
        for clone in (honest, *members):
            clone.close()
    for name, seconds in taken.items():
        say(f"{name}: refused, named and stored after", spread(seconds))
    say("  largest memory of the node", f"{most:.1f} MB, {most - before:+.1f} MB")


async def _meet(clone, port: int) -> None:
    """One conversation, until the other side has ended it."""
    from transport.node import Node, Options

    ended = asyncio.Event()
    options = Options(listen=("127.0.0.1", 0), peers=[(MEMBER, port)], mdns=False, files=False, serve=False)
    lying = Node(clone, options, lambda event: ended.set() if event["event"] in ("ended", "disconnected") else None)
    running = asyncio.ensure_future(lying.run())
    await asyncio.wait_for(ended.wait(), 20)
    lying.stop()
    await running


# --- a member that makes documents without end


def documents(place: Path) -> None:
    from bench.harness import exchange
    from replica.bridge import Bridge
    from replica.changes import Add, Kind, entries_payload
    from transport.session import Session

    chance = random.Random(SEED)
    honest, flooding = workspace(place, "honest", "flooding")
    exchange(Session(honest, flooding.identity.id), Session(flooding, honest.identity.id))
    payload = entries_payload([Add("entry", "- x", 1, "", None, (), {})])
    with flooding.transaction():
        for n in range(DOCUMENTS):
            flooding.append(Kind.ENTRIES, (f"spam/{n % 100}/{n}-{chance.randrange(10**6)}-buffer.md", "union"), payload)
    began = time.perf_counter()
    exchange(Session(honest, flooding.identity.id), Session(flooding, honest.identity.id))
    taken_in = time.perf_counter() - began
    bridge = Bridge(honest)
    began = time.perf_counter()
    report = bridge.run(every=True)
    wrote = time.perf_counter() - began
    began = time.perf_counter()
    again = bridge.run(every=True)
    rest = time.perf_counter() - began
    say(f"{DOCUMENTS:,} documents of one member: taken in", f"{taken_in:.1f} s")
    say("  files written, the others held", f"{len(report.written):,} in {wrote:.1f} s; {list(report.held.values())}")
    say("  a later look at the whole folder", f"{rest:.2f} s, {len(again.written)} files more")
    honest.close(), flooding.close()
