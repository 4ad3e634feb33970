"""Two clones that hold the same meet again, with nothing new: what it costs, and that documents do not count."""

import random
import statistics
import time
from pathlib import Path

from bench.harness import SEED, entry, exchange, node, say, workspace
from bench.wiretap import Wiretap
from transport.session import Session

SIZES = (100, 10_000)


def run(place: Path) -> None:
    print("  input: documents of one entry each, two clones with equal logs")
    for size in SIZES:
        measure(place / str(size), size)


def measure(place: Path, size: int) -> None:
    chance = random.Random(SEED)
    one, other = workspace(place, "one", "other")
    with one.transaction():
        for n in range(size):
            one.edit_entries(f"notes/{n // 100}/{n}-buffer.md", "union", [(1, entry(chance, n))])
    exchange(Session(one, other.identity.id), Session(other, one.identity.id))
    assert one.digest() == other.digest()
    taken, total = [], 0
    for _ in range(20):
        sessions = Session(one, other.identity.id), Session(other, one.identity.id)
        began = time.perf_counter()
        total = exchange(*sessions)
        taken.append(time.perf_counter() - began)
        assert all(session.in_step for session in sessions)
    one.close(), other.close()
    say(f"{size} documents: session", f"{total} bytes both ways, {statistics.median(taken) * 1000:.2f} ms of work",
        "< 1 KB", total < 1024)  # fmt: skip
    with (
        node(one.root, "--no-files") as listening,
        Wiretap(listening.port) as tap,
        node(other.root, "--no-files", "--peer", str(tap.port)) as calling,
    ):
        connected = calling.event("connected")["at"]
        in_step = calling.event("in_step")
        say("  two nodes", f"in step {1000 * (in_step['at'] - connected):.0f} ms after the handshake; "
            f"{tap.total} bytes with the TLS and websocket handshakes")  # fmt: skip
