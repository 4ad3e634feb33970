"""Hybrid logical time: wall-clock milliseconds that never step back, with a counter in the low bits.

Time here never decides what wins against something it has seen (causality does that, replica/log.py).
It orders what is concurrent, and it is shown to people. So no limit makes a change invalid
because of its time; a peer whose clock is far ahead only fails to drag ours along.
"""

COUNTER_BITS = 16
# How far ahead of our own clock another clone's time may pull ours, in milliseconds.
MAX_LEAD = 24 * 3600 * 1000
# Largest time a change may carry: fits a signed 64-bit column.
LIMIT = 2**63 - 1


def tick(floor: int, now_ms: int) -> int:
    """Return the next time: after `floor`, and not before the wall clock (`now_ms`, since 1970)."""
    return max(now_ms << COUNTER_BITS, floor + 1)


def observe(floor: int, remote: int, now_ms: int) -> int:
    """Return the floor after having seen a change of time `remote`.

    A time more than a day ahead of the wall clock is not followed: one clock set to the year
    2099 would otherwise date everyone's memory 2099 for good.
    """
    if remote >> COUNTER_BITS > now_ms + MAX_LEAD:
        return floor
    return max(floor, remote)


def to_ms(time: int) -> int:
    """The wall-clock part, in milliseconds since 1970."""
    return time >> COUNTER_BITS


def to_text(time: int) -> str:
    """For a person on another machine: to the minute, in UTC. A time that no calendar has is said as it is."""
    from datetime import UTC, datetime

    try:
        return datetime.fromtimestamp(to_ms(time) / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{to_ms(time)} ms"


def from_ms(ms: int, *, last: bool = False) -> int:
    """The first hybrid time of that millisecond, or the last."""
    return (ms << COUNTER_BITS) + ((1 << COUNTER_BITS) - 1 if last else 0)
