"""Answers to an agent: a text to read and the same as data, neither longer than was asked for.

What members wrote stands in quotations (replica/quoting.py) in the text, and in fields of its own in the data.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from replica import clock
from replica.quoting import label, quoted, visible

MARGIN = 400  # characters that are kept for what is said around the rows


class Answer(NamedTuple):
    """`text` for whoever reads; `data` the same for programs. `failed`: it says what went wrong."""

    text: str
    data: dict[str, Any]
    failed: bool = False


class Row(NamedTuple):
    """One of several things in an answer: lines of text, and the fields of it."""

    text: str
    data: dict[str, Any]


def size(data: Any) -> int:
    """How long data are when they are sent."""
    return len(json.dumps(data, ensure_ascii=False))


def listing(
    head: str, fields: dict[str, Any], key: str, rows: list[Row], start: int, total: int, most: int, *,
    counted: bool = True,
) -> Answer:  # fmt: skip
    """As many of `rows` as fit into `most` characters, both ways, and how to get the others.

    The rows are those from `start` on of `total`, which may be more than were made. `counted`: there are no others.
    """
    text_left, data_left = most - len(head) - MARGIN, most - size(fields) - MARGIN
    shown: list[Row] = []
    for row in rows:
        text_left, data_left = text_left - len(row.text) - 1, data_left - size(row.data) - 2
        if text_left < 0 or data_left < 0:
            break
        shown.append(row)
    reached = start + len(shown)
    left = total - reached
    data = {**fields, key: [row.data for row in shown]}
    lines = [head, *(row.text for row in shown)]
    if left > 0:
        data["next_offset"] = reached
        number = f"{left:,} more" if counted else "more"
        way = f"offset={reached}, or a larger max_chars" if shown else "a larger max_chars: the next one is too long"
        lines.append(f"[{number}: call again with {way}]")
    if counted:
        data["left_out"] = max(0, left)
    return Answer("\n".join(lines), data)


def passage(
    text: str, offset: int, most: int, head: Callable[[int, int, int], str], fields: dict[str, Any]
) -> Answer:  # fmt: skip
    """The longest piece of a text from `offset` on that fits, quoted, and where to go on.

    `head` makes the lines above it from where it begins, where it ends, and how long the whole is.
    """
    offset = max(0, len(text) + offset) if offset < 0 else min(offset, len(text))

    def made(end: int) -> Answer:
        piece = text[offset:end]
        data = {**fields, "text": piece, "offset": offset, "total_chars": len(text)}
        if end < len(text):
            data["next_offset"] = end
        return Answer(f"{head(offset, end, len(text))}\n{quoted(piece) if piece else ''}", data)

    def fits(end: int) -> bool:
        answer = made(end)
        return len(answer.text) <= most and size(answer.data) <= most

    low, high = offset, min(len(text), offset + most)
    if fits(high):
        return made(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    # A piece that ends with a line is easier to read; never so short that reading on would take for ever.
    line = text.rfind("\n", offset, low) + 1
    return made(line if line > offset + (low - offset) // 2 else low)


def shown_range(start: int, end: int, total: int, what: str = "characters") -> str:
    """Which part of something an answer shows, and how to get the rest."""
    if start == 0 and end == total:
        return f"{total:,} {what}"
    rest = f"; the rest: offset={end}" if end < total else ""
    return f"{what} {start:,} to {end:,} of {total:,}{rest}"


def failure(message: str, hint: str = "", **fields: Any) -> Answer:
    """An error as an answer. Words of others may stand in a message: on one line, and bounded."""
    message, hint = label(message, 1_000), label(hint, 600)
    text = f"error: {message}" + (f"\nhint: {hint}" if hint else "")
    for name, value in fields.items():
        text += f"\n{name}: {value}"
    return Answer(text, {"error": message, "hint": hint, **fields}, failed=True)


def excerpt(text: str, words: list[str], most: int) -> tuple[str, int]:
    """The part of a text around the first of `words`, at most `most` characters, and how many were left out."""
    text = visible(text).strip("\n")
    if len(text) <= most:
        return text, 0
    folded = text.casefold()
    found = [at for word in words if (at := folded.find(word.casefold())) >= 0]
    start = max(0, min(min(found, default=0) - most // 4, len(text) - most))
    return text[start : start + most], len(text) - most


def origin(clone: str | None, time: int | None, private: bool = False) -> str:
    """Who wrote it and when, for a line of text. `time`: hybrid logical."""
    who = f"by {label(clone, 64)}" if clone else "as it stands"
    when = f", {clock.to_text(time)}" if time else ""
    return f"{who}{when}" + (", private" if private else "")


def iso(time: int | None) -> str | None:
    """Hybrid time as ISO 8601 in UTC, for data."""
    from datetime import UTC, datetime

    if time is None:
        return None
    try:
        moment = datetime.fromtimestamp(clock.to_ms(time) / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a clock set to a year that no calendar has
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
