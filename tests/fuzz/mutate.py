"""Valid samples made wrong: bytes flipped, cut, joined and repeated, numbers replaced, msgpack changed at one node.

All of it follows from the `Random` that is given, so a seed repeats a run.
"""

from contextlib import suppress
from random import Random

import msgpack

INTERESTING = (
    0, 1, 2, 7, 15, 16, 31, 32, 64, 127, 128, 255, 256, 999, 65_535, 65_536, 2**31, 2**32 - 1, 2**53, 2**63, -1,
)  # fmt: skip
PIECES = (
    b"\x00", b"\xff", b"\xc1\xc1", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\x1b[2J", b"\r\n", b"\r",
    b"\n", b"\x1b[2J", b"\n\n", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\x00\x10\x00\x00", b"\x80\x80\x80\x80\x01", b"[", b"[[", b"{", b"a.", b"**/", b"*", b"../", b"/", b"- ",
    b"# ", b"```", b"<!--", b"-->", b"---\n", b"> ", b"\t", b"=\n", "\u0301\u0323".encode(), "😀".encode(),
    "ﷺ".encode(), "İ".encode(), b"0x" + b"f" * 40, b"9" * 30, b'"""', b"'''", b"\\", b"\x91", b"\x81\xa1a", b"\xc0",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
)  # fmt: skip


def mutated(sample: bytes, other: bytes, random: Random, most: int) -> bytes:
    """`sample` with one to five things wrong, at most `most` bytes; `other` is what it may be joined with."""
    data = sample
    if random.random() < 0.4:
        data = _tree(data, random)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 5))):
        data = random.choice(_CHANGES)(data, other, random)
    return data[:most]


def _flip(data: bytes, _other: bytes, random: Random) -> bytes:
    if not data:
        return b"\x80"
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _put(data: bytes, _other: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    piece = random.choice(PIECES) if random.random() < 0.7 else random.randbytes(random.choice((1, 2, 4, 9)))
    return data[:at] + piece + data[at + random.choice((0, 0, len(piece))) :]


def _cut(data: bytes, _other: bytes, random: Random) -> bytes:
    start, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
    return random.choice((data[:start], data[:start] + data[end:], data[start:end], data[:-1]))


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _repeat(data: bytes, _other: bytes, random: Random) -> bytes:
    """A part many times over: what costs more than it has bytes shows here."""
    start = random.randint(0, len(data))
    part = data[start : start + random.choice((1, 2, 3, 8, 40))]
    most = random.choice((4, 40, 400)) if random.random() < 0.97 else 20_000
    return data[:start] + part * random.randint(2, most) + data[start:]


def _number(data: bytes, _other: bytes, random: Random) -> bytes:
    """Bytes replaced by a number that often stands at a border."""
    value, size = random.choice(INTERESTING), random.choice((1, 2, 4, 8))
    at = random.randint(0, max(0, len(data) - size))
    written = (value % 256**size).to_bytes(size, random.choice(("big", "little")))
    digits = random.random() < 0.2
    return data[:at] + (str(value).encode() if digits else written) + data[at + size :]


_CHANGES = (_flip, _put, _cut, _splice, _repeat, _number)


# --- msgpack: the same, where the value stays well formed


def _tree(data: bytes, random: Random) -> bytes:
    """One node of a msgpack value changed; a first byte before the value is left alone. What is none comes back."""
    for skip in (0, 1):
        with suppress(Exception):  # not msgpack, or nothing that can be packed again
            value = msgpack.unpackb(data[skip:], strict_map_key=False)
            if isinstance(value, list | dict):
                return data[:skip] + msgpack.packb(_node(value, random))
    return data


def _node(value, random: Random):
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not inner or random.random() < 0.25:
        return _replaced(value, random)
    key, chosen = random.choice(inner)
    changed = value.copy()
    changed[key] = _node(chosen, random)
    return changed


def _replaced(value, random: Random):
    kinds = [
        None,
        True,
        1.5,
        float("nan"),
        "",
        b"",
        [],
        {},
        [value],
        {"a": value},
        "x" * 300,
        b"y" * 16,
        "e\u0301\x1b\n",
    ]
    if random.random() < 0.4:
        return random.choice([*kinds, *INTERESTING[:-1]])
    match value:
        case bool() | None | float():
            return random.choice(kinds)
        case int():
            return random.choice([value + 1, value - 1, -value - 1, *INTERESTING]) % 2**64
        case bytes():
            return _flip(value, b"", random) if random.random() < 0.7 else value[:-1]
        case str():
            return (
                value * random.choice((0, 2, 50)) if random.random() < 0.5 else value + random.choice("\0\n\u202e/.é")
            )
        case list():
            more = random.choice(value) if value else None
            return random.choice([value * random.choice((2, 30, 2000)), value[:-1], value[::-1], [*value, more]])[
                :30_000
            ]
        case dict():
            return {k: v for k, v in value.items() if random.random() < 0.7} | {"more": 1} | {random.choice("ab"): []}
    return None
