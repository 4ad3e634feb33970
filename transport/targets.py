"""Whom to call, and when again: addresses with a growing pause after each failure. Pure; the clock comes in."""

import random
from dataclasses import dataclass, field

Address = tuple[str, int]

FIRST_PAUSE = 0.5  # seconds after the first failure
LONGEST_PAUSE = 30.0  # seconds; a peer that wakes up calls us, or is announced, long before
MOST_HEARD = 256  # addresses that were only heard of
FORGET_AFTER = 20  # failures in a row of an address that was only heard of


@dataclass
class Target:
    address: Address
    fixed: bool  # given by a person, never forgotten
    due: float = 0.0
    failures: int = 0
    peer: bytes | None = None  # who answered there last
    busy: bool = field(default=False, compare=False)
    last_error: str = ""


class Targets:
    """The addresses to call. Times are seconds of one steady clock."""

    def __init__(self, jitter=random.random):
        self._targets: dict[Address, Target] = {}
        self._jitter = jitter

    def add(self, address: Address, now: float, *, fixed: bool = False, peer: bytes | None = None) -> Target:
        """An address was heard of: call it now."""
        if address not in self._targets:
            self._make_room()
        target = self._targets.setdefault(address, Target(address, fixed))
        target.fixed = target.fixed or fixed
        target.peer = peer or target.peer
        target.due, target.failures = now, 0
        return target

    def _make_room(self) -> None:
        """Anyone can announce addresses. Of those where nobody of ours has answered, the oldest goes."""
        heard = [t.address for t in self._targets.values() if not t.fixed and t.peer is None]
        if len(heard) >= MOST_HEARD:
            del self._targets[heard[0]]

    def due(self, now: float, connected: set[bytes]) -> list[Target]:
        """Those to call now; who is connected already is left alone."""
        return [
            t for t in self._targets.values()
            if not t.busy and t.due <= now and (t.peer is None or t.peer not in connected)
        ]  # fmt: skip

    def next_due(self, connected: set[bytes]) -> float | None:
        waiting = [t.due for t in self._targets.values() if not t.busy and (t.peer is None or t.peer not in connected)]
        return min(waiting, default=None)

    def failed(self, target: Target, now: float, why: str, *, pause: float = 0.0) -> None:
        """Call again after a pause that grows with each failure, and is not shorter than `pause` seconds."""
        target.failures += 1
        target.last_error = why
        if target.failures >= FORGET_AFTER and not target.fixed and target.peer is None:
            self._targets.pop(target.address, None)
            return
        pause = max(pause, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(target.failures - 1, 10)))
        target.due = now + pause * (0.75 + self._jitter() / 2)

    def succeeded(self, target: Target, now: float, peer: bytes) -> None:
        """`peer` answered; should it go, it is called again at once."""
        target.failures, target.peer, target.last_error = 0, peer, ""
        target.due = now + FIRST_PAUSE * (0.5 + self._jitter())

    def hurry(self, now: float) -> None:
        """The network or the machine has woken up: forget the pauses."""
        for target in self._targets.values():
            target.due, target.failures = now, 0

    def all(self) -> list[Target]:
        return list(self._targets.values())
