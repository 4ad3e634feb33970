"""How much of us others may take up: strangers at the door, and members that misbehave. Pure; the clock comes in.

Times are seconds of one steady clock.
"""

from collections import OrderedDict
from collections.abc import Hashable

# Connections that have not shown yet who they are. An honest one is through in 20 ms; 48 cost 12 MB at most.
MOST_AT_THE_DOOR = 48
MOST_FROM_ONE = 16
HANDSHAKE_TIMEOUT = 5.0  # seconds

# TLS handshakes that one address may begin: so many at once, and so many a second from then on. A handshake costs us
# about a millisecond; all clones behind one address together need a few a minute.
BURST = 120.0
RATE = 20.0
MOST_ADDRESSES = 4_096  # of which this is remembered

# Connections that one member may begin: a clone that is started again and again stays below.
MEMBER_BURST = 60.0
MEMBER_RATE = 1.0
MOST_OF_ONE_MEMBER = 4  # at once; two are usual when both call

FIRST_PAUSE = 60.0  # seconds that a member is not listened to after a fault; twice that after the next
LONGEST_PAUSE = 3_600.0


class Rate:
    """A budget for each of many: `burst` at once, refilled by `rate` a second. Remembers the `most` latest."""

    def __init__(self, burst: float, rate: float, most: int = MOST_ADDRESSES):
        self._burst, self._rate, self._most = burst, rate, most
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # what is left, and as of when

    def spend(self, who: Hashable, now: float) -> bool:
        """Whether `who` may once more."""
        left, then = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + self._rate * (now - then))
        allowed = left >= 1
        self._left[who] = (left - 1 if allowed else left, now)
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return allowed

    def __len__(self) -> int:
        return len(self._left)


class Door:
    """Connections that have not shown who they are: few at a time.

    Where there is no room, the oldest of the address with the most gives way: one that is slow on purpose loses its
    place, one that is honest is through before its turn comes, and an address crowds out nobody but itself.
    """

    def __init__(self, most: int = MOST_AT_THE_DOOR, most_from_one: int = MOST_FROM_ONE):
        self._most, self._most_from_one = most, most_from_one
        self._waiting: dict[str, OrderedDict[Hashable, None]] = {}  # address -> its connections, oldest first
        self._rate = Rate(BURST, RATE)

    def enter(self, address: str, connection: Hashable, now: float) -> tuple[bool, Hashable | None]:
        """Somebody has come: whether to go on with it, and who has to go for it."""
        if not self._rate.spend(address, now):
            return False, None
        out = None
        mine = self._waiting.setdefault(address, OrderedDict())
        if len(mine) >= self._most_from_one:
            out, _ = mine.popitem(last=False)
        elif len(self) >= self._most:
            crowd = max(self._waiting.values(), key=len)
            out, _ = crowd.popitem(last=False)
        mine[connection] = None
        self._waiting = {a: c for a, c in self._waiting.items() if c}
        return True, out

    def leave(self, address: str, connection: Hashable) -> None:
        """It has shown who it is, or it is gone."""
        mine = self._waiting.get(address)
        if mine is not None:
            mine.pop(connection, None)
            if not mine:
                del self._waiting[address]

    def all(self) -> list[Hashable]:
        return [connection for mine in self._waiting.values() for connection in mine]

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))


class Pauses:
    """Who is not listened to for a while. The pause doubles with each fault, and begins anew after good conduct."""

    def __init__(self) -> None:
        self._until: dict[bytes, tuple[float, int, str]] = {}  # until when, which in a row, why

    def refuse(self, who: bytes, now: float, why: str) -> float:
        """A fault of `who`; returns the seconds of the pause that begins."""
        until, before, _ = self._until.get(who, (0.0, 0, ""))
        times = before + 1 if now - until < LONGEST_PAUSE else 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(times - 1, 10))
        self._until[who] = (now + pause, times, why)
        return pause

    def left(self, who: bytes, now: float) -> float:
        """Seconds until `who` is listened to again, 0 or less if he is."""
        return self._until[who][0] - now if who in self._until else 0.0

    def why(self, who: bytes) -> str:
        return self._until[who][2] if who in self._until else ""

    def paused(self, now: float) -> set[bytes]:
        return {who for who, (until, _, _) in self._until.items() if until > now}


def place(address: str) -> str:
    """Whose an address is: of IPv6 a whole network of 64 bits, since everybody there has as many as he likes."""
    if ":" not in address:
        return address
    import ipaddress

    found = ipaddress.ip_address(address.partition("%")[0])
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
