"""`replica mcp` on a 70 kB memory bank: the start of the server to its first answer, and a call, over the pipe."""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import SEED, percentile, replica, say, sentence, spread, workspace
from bench.sync_command import bank
from replica.bridge import Bridge

STARTS, CALLS = 10, 100


def run(place: Path) -> None:
    chance = random.Random(SEED)
    (clone,) = workspace(place, "clone")
    size = bank(clone.root, chance)
    Bridge(clone).run()
    clone.close()
    print(f"  input: {size / 1000:.0f} kB in 15 files, no node; {STARTS} starts, {CALLS} calls a tool; one to warm up")
    starts = [_start(clone.root) for _ in range(STARTS + 1)][1:]
    say("start, to the answer to initialize", spread(starts), "p50 <= 1 s", percentile(starts, 0.5) <= 1.0)
    calls: dict[str, Any] = {
        "memory_search": lambda: {"query": sentence(chance, 3)},
        "memory_read": lambda: {"document": "lessons-buffer.md"},
        "memory_append": lambda: {"document": "lessons-buffer.md", "text": sentence(chance)},
        "memory_status": lambda: {},
    }
    with _server(clone.root) as ask:
        for name, arguments in calls.items():
            taken = [_timed(ask, name, arguments()) for _ in range(CALLS + 1)][1:]
            say(name, spread(taken))


def _start(root: Path) -> float:
    began = time.perf_counter()
    with _server(root):
        return time.perf_counter() - began


def _timed(ask, name: str, arguments: dict) -> float:
    began = time.perf_counter()
    answer = ask("tools/call", {"name": name, "arguments": arguments})
    assert not answer["result"]["isError"], answer
    return time.perf_counter() - began


@contextmanager
def _server(root: Path) -> Iterator[Any]:
    """A server that has greeted; yields what asks it."""
    command = replica("mcp", "--dir", str(root))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def tell(message: dict) -> None:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()

        def ask(method: str, params: dict) -> dict:
            tell({"id": 1, "method": method, "params": params})
            return json.loads(process.stdout.readline())

        client = {"name": "bench", "version": "1"}
        ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client})
        tell({"method": "notifications/initialized"})
        yield ask
        process.stdin.close()
