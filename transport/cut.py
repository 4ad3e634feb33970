"""Meeting who is in reach, to learn what all of them have: what an export may call converged."""

import asyncio
from typing import Any

import msgpack

from replica.clone import Clone
from replica.log import Vector

SECONDS = 3.0  # that members in reach get to acknowledge


def agree(clone: Clone) -> tuple[Vector, list[str]]:
    """Exchange with who is in reach. What they all have of our log, and the names of those who lack something of it.

    Members out of reach count for nothing: nobody can wait for them.
    """
    from transport import control

    report = control.ask(clone.root, "sync", timeout=SECONDS + 60, peers=[], seconds=SECONDS)
    if report is None:
        report = asyncio.run(_met(clone))
    clone.log.refresh()
    return common(clone, report["peers"])


async def _met(clone: Clone) -> dict[str, Any]:
    from transport.meeting import meet
    from transport.node import Node, Options

    node = Node(clone, Options(peers=[], files=False, serve=False))
    running = asyncio.create_task(node.run())
    try:
        return await meet(node, SECONDS)
    finally:
        node.stop()
        await running


def common(clone: Clone, peers: list[dict[str, Any]]) -> tuple[Vector, list[str]]:
    """The part of our log that every member in reach has, by what they have told."""
    ours = clone.vector()
    cut, waiting = dict(ours), []
    for peer in peers:
        if not peer["online"] and not peer["in_step"]:
            continue
        theirs = ours if peer["in_step"] else _told(clone, peer["id"])
        if any(theirs.get(author, 0) < seq for author, seq in ours.items()):
            waiting.append(peer["name"])
        cut = {author: min(seq, theirs.get(author, 0)) for author, seq in cut.items()}
    return cut, waiting


def lacking(clone: Clone, members: list[dict[str, Any]]) -> list[str]:
    """The names of those who have not told yet that they have all of our log. Nobody is asked."""
    ours, names = clone.vector(), []
    for member in members:
        theirs = _told(clone, member["id"].hex())
        if any(theirs.get(author, 0) < seq for author, seq in ours.items()):
            names.append(member["name"])
    return names


def _told(clone: Clone, id: str) -> Vector:
    packed = clone.store.value("SELECT vector FROM peers WHERE id=?", (bytes.fromhex(id),))
    return msgpack.unpackb(packed, strict_map_key=False) if packed else {}
