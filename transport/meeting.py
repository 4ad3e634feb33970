"""Meeting whoever can be met, once: exchange until in step, and know when to stop waiting."""

import asyncio
import time
from typing import NamedTuple

from replica.log import lacking
from transport.node import Node
from transport.peer import Peer
from transport.session import State


class Patience(NamedTuple):
    """How long to wait, in seconds.

    `quiet`: nothing new for so long, and everybody who came is in step: the others are not there. `alone`: as long as
    nobody has come at all. `calls`: whether to wait for calls under way that nobody has answered. `give`: until others
    have what is here, and not only we what is there.
    """

    quiet: float = 0.6
    alone: float = 1.2  # announcements reach a newcomer within 0.13 s
    calls: bool = True
    give: bool = True


USUAL = Patience()


async def meet(node: Node, timeout: float, patience: Patience = USUAL) -> dict:
    """Wait until in step with every member, or with those who came; at most `timeout` seconds.

    Returns `peers` (as Node.peer_states), `in_step` (names), `missing` (names of members out of reach), `problems`
    (message and hint of what went wrong meanwhile), `seconds`.
    """
    began = last = time.monotonic()
    seen = None
    node.problems.clear()
    while True:
        node.moved.clear()
        for peer in list(node.peers.values()):
            peer.changed()
        now, state = time.monotonic(), _state(node)
        if state != seen:
            seen, last = state, now
        if now - began >= timeout or _done(node, now - last, patience):
            break
        try:
            await asyncio.wait_for(node.moved.wait(), 0.03)
        except TimeoutError:
            pass
    peers = node.peer_states()
    return {
        "peers": peers,
        "in_step": [p["name"] for p in peers if p["in_step"]],
        "problems": list(node.problems),
        "missing": [p["name"] for p in peers if not p["online"]],
        "seconds": round(time.monotonic() - began, 3),
    }


def _state(node: Node) -> tuple:
    return (node.clone.log.last_row(), *sorted((id, peer.session.in_step) for id, peer in node.peers.items()))


def _met(node: Node, peer: Peer, patience: Patience) -> bool:
    session = peer.session
    if session.in_step or patience.give:
        return session.in_step
    return session.state is State.SYNCING and not lacking(node.clone.log.vector(), session.peer_vector)


def _done(node: Node, still: float, patience: Patience) -> bool:
    others = node.peer_states()
    if node.peers and all(_met(node, peer, patience) for peer in node.peers.values()):
        return (all(p["online"] for p in others) and bool(others)) or still >= patience.quiet
    if not node.peers:
        alone = not others and not node.targets.all()
        calling = patience.calls and any(target.busy for target in node.targets.all())
        return alone or (still >= patience.alone and not calling)
    return False
