"""`replica stats`: how well the clones keep up with each other."""

import sys
from collections.abc import Sequence
from typing import Any

from cli.common import Dir, Json, ask_node, counted, data, emit, iso_ms, opened, root_of, words

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = ".:-=+*#@"  # where a terminal or a file has no blocks
NO_DATA = "unknown"


def stats(folder: Dir = None, json: Json = False) -> None:
    """How well the clones keep up: sync success, time to sync, conflicts, changes, and how old the buffers are.

    From what this clone's node has recorded in the last 30 days. What it cannot know is unknown (null), not 0.

    Example: replica stats --json
    """
    from replica import measures

    ask_node(root_of(folder), "status")  # it writes down what it has seen last
    with opened(folder) as clone:
        found = measures.stats(clone)
    if json:
        for buffer in found["buffers"]:
            buffer["oldest"] = iso_ms(buffer["oldest"])
        emit({**found, "since": iso_ms(found["since"])})
        return
    for line in lines(found, levels(sys.stdout)):
        data(line)
    if found["since"] is None:
        words("nothing is recorded yet; `replica up` and `replica sync` record what they see")


def levels(stream) -> str:
    """The letters of a plot, from low to high."""
    try:
        BLOCKS.encode(stream.encoding or "ascii")
    except (UnicodeError, LookupError):
        return PLAIN
    return BLOCKS if stream.isatty() else PLAIN


def lines(found: dict[str, Any], letters: str) -> list[str]:
    """What a person reads."""
    share, per_1000 = found["sync_success"], found["conflicts_per_1000"]
    meetings = f" of {counted(found['meetings'], 'meeting')} came in step" if share is not None else ""
    conflicts = f" per 1,000 changes ({found['conflicts']:,} in all)" if per_1000 is not None else ""
    times = [row["count"] for row in found["times"]]
    plot = f"  {bars(times, letters)}  (0.1 s … over a day)" if times else ""
    result = [
        f"sync success   {NO_DATA if share is None else f'{100 * share:.1f} %'}{meetings}",
        f"time to sync   {_percentiles(found, 'time_to_sync')}{plot}",
        f"time to all    {_percentiles(found, 'time_to_all')}",
        f"conflicts      {NO_DATA if per_1000 is None else f'{per_1000:g}'}{conflicts}",
        f"changes        {found['changes']:,}; of each day from {found['days'][0]} to {found['days'][-1]}:",
    ]
    width = max((len(row["name"]) for row in found["clones"]), default=0)
    highest = max((count or 0 for row in found["clones"] for count in row["per_day"]), default=0)
    for row in found["clones"]:
        known = [count for count in row["per_day"] if count is not None]
        per_day = f"{sum(known) / len(known):.1f} a day" if known else NO_DATA
        result.append(f"  {row['name']:{width}}  {bars(row['per_day'], letters, highest)}  {per_day}")
    for row in found["buffers"]:
        age = "" if row["age"] is None else f", the oldest {duration(row['age'])} old"
        result.append(f"buffer         {row['document']}: {counted(row['entries'], 'entry', 'entries')}{age}")
    return result


def bars(counts: Sequence[int | None], letters: str, highest: int | None = None) -> str:
    """One letter for each: blank for 0, "?" for what is not known."""
    top = max((count or 0 for count in counts), default=0) if highest is None else highest

    def letter(count: int | None) -> str:
        if not count:
            return "?" if count is None else " "
        return letters[min(len(letters) - 1, (count * len(letters) - 1) // top)]

    return "|" + "".join(map(letter, counts)) + "|"


def _percentiles(found: dict[str, Any], name: str) -> str:
    half, most, samples = (found[f"{name}_{part}"] for part in ("p50", "p95", "samples"))
    if half is None:
        return NO_DATA
    return f"p50 {duration(half)}, p95 {duration(most)} ({counted(samples, 'change')})"


def duration(seconds: float) -> str:
    """For people: two digits that matter."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, length in (("s", 60), ("min", 3600), ("h", 86_400)):
        if seconds < length:
            return f"{seconds / {'s': 1, 'min': 60, 'h': 3600}[unit]:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"
