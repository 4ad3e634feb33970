"""A node as a process of its own that says when things happen, by a clock that all processes of this machine share.

python -m bench.node ROOT [--peer PORT]… [--mdns] [--no-files] [--append COUNT --pace SECONDS --seed N]
"""

import argparse
import asyncio
import json
import random
import signal
import time
from pathlib import Path

from bench.harness import entry
from replica.clone import Clone
from transport.node import Node, Options


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--peer", type=int, action="append", default=[])
    parser.add_argument("--mdns", action="store_true")
    parser.add_argument("--no-files", action="store_true")
    parser.add_argument("--append", type=int, default=0)
    parser.add_argument("--pace", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


async def run(arguments: argparse.Namespace) -> None:
    with Clone.open(arguments.root) as clone:
        node = Node(
            clone,
            Options(
                peers=[("127.0.0.1", port) for port in arguments.peer],
                mdns=arguments.mdns,
                files=not arguments.no_files,
            ),
            lambda event: heard(node, event),
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, node.stop)
        running = asyncio.ensure_future(node.run())
        if arguments.append:
            await append(clone, node, arguments)
        await running


def heard(node: Node, event: dict) -> None:
    seen = time.perf_counter()
    if event["event"] == "received":
        event["held"] = {author.hex(): seq for author, seq in node.clone.log.vector().items()}
    if event["event"] in ("in_step", "files"):
        event["bytes"] = sum(peer.bytes_received + peer.bytes_sent for peer in node.peers.values())
    if event["event"] == "files":
        event["written"], event["taken"] = len(event["written"]), len(event["taken"])
    print(json.dumps({**event, "at": seen}), flush=True)


async def append(clone: Clone, node: Node, arguments: argparse.Namespace) -> None:
    """One entry after another, each a change of its own, `pace` seconds apart."""
    chance = random.Random(arguments.seed)
    while not any(peer.session.in_step for peer in node.peers.values()):
        if node.stopping:
            return
        await asyncio.sleep(0.01)
    starts = {}
    for number in range(arguments.append):
        await asyncio.sleep(arguments.pace * chance.uniform(0.5, 1.5))
        op = entry(chance, number)
        began = time.perf_counter()
        (stored,) = clone.edit_entries("lessons-buffer.md", "union", [(1, op)])
        starts[stored.change.seq] = (began, time.perf_counter() - began)
    print(json.dumps({"event": "appended", "author": clone.identity.id.hex(), "starts": starts}), flush=True)


if __name__ == "__main__":
    main()
