"""Answers to an agent: a text to read and the same as data, neither longer than was asked for.

What members wrote stands in quotations (replica/quoting.py) in the text, and in fields of its own in the data.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from replica import clock
from replica.quoting import MARK, label, quoted, visible

MARGIN = 400  # characters that are kept for what is said around the rows
SLACK = 120  # for where a piece begins and ends


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
    total = len(text)
    offset = max(0, total + offset) if offset < 0 else min(offset, total)
    frame = max(len(head(offset, total - 1, total)), size(fields)) + SLACK
    end = _fitting(text, offset, most - frame)
    if end < total:  # a piece that ends with a line is easier to read; never so short that it would take for ever
        line = text.rfind("\n", offset, end) + 1
        end = line if line > (offset + end) // 2 else end
    piece = visible(text[offset:end])
    data = {**fields, "text": piece, "offset": offset, "total_chars": total}
    if end < total:
        data["next_offset"] = end
    return Answer(f"{head(offset, end, total)}\n{quoted(piece) if piece else ''}", data)


def _fitting(text: str, offset: int, room: int) -> int:
    """The end of the longest piece from `offset` on, at least a character, that takes `room` quoted and as data."""
    costs: dict[str, int] = {}
    farthest = min(len(text), offset + max(1, room))  # a character takes one at least
    for at, char in enumerate(text[offset:farthest], offset):
        if char not in costs:
            shown = visible(char)
            costs[char] = max(len(shown) + (len(MARK) if char == "\n" else 0), size(shown) - 2)
        room -= costs[char]
        if room < 0:
            return max(at, offset + 1)
    return farthest


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
    text = text.strip("\n")
    if len(text) <= most:
        shown = visible(text)
        return shown[:most], max(0, len(shown) - most)
    folded = text.casefold()
    found = [at for word in words if (at := folded.find(word.casefold())) >= 0]
    start = max(0, min(min(found, default=0) - most // 4, len(text) - most))
    return visible(text[start : start + most])[:most], len(text) - most


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
