"""Frames: one message is one msgpack array `[kind, field, ...]`, decoded only within limits.

The bytes may come from a stranger. Before anything is built the whole frame is walked without building (`skip`), which
proves that every claimed count is really there; then strings, arrays, maps and their number are bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from replica.errors import ProtocolError

MAX_FRAME = 4 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What a frame may hold. Sizes are bytes, counts are items."""

    frame: int = MAX_FRAME
    binary: int = MAX_FRAME
    string: int = 65_536
    array: int = 65_536
    map: int = 4_096
    containers: int = 200_000  # an empty array is one byte on the wire and 56 in memory
    depth: int = 8


LIMITS = Limits()


def encode(kind: str, *fields: Any) -> bytes:
    """The frame of a message. Its size is the caller's to bound."""
    return msgpack.packb([kind, *fields], use_bin_type=True)


def decode(data: bytes, limits: Limits = LIMITS) -> list:
    """The message `[kind, field, ...]` of a frame; `kind` is a str, and arrays are lists.

    Raises:
        ProtocolError: it is anything else, or over a limit. Nothing large was allocated.
    """
    if not isinstance(data, bytes):
        raise ProtocolError("a frame is binary, not text")
    if len(data) > limits.frame:
        raise ProtocolError(f"a frame of {len(data)} bytes; the limit is {limits.frame}")
    try:
        _walk(data)
        message = _build(data, limits)
    except ProtocolError:
        raise
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        # ValueError covers extra data, limits, bad UTF-8, map keys; OutOfData is an UnpackException.
        raise ProtocolError(f"a frame that cannot be decoded: {str(error) or type(error).__name__}") from None
    if type(message) is not list or not message or type(message[0]) is not str:
        raise ProtocolError("a frame is an array that begins with the kind of message")
    _bound_depth(message, limits.depth)
    return message


def _walk(data: bytes) -> None:
    """Raise unless `data` is exactly one complete value. Builds nothing, so it cannot be made to allocate."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data) or 1)
    unpacker.feed(data)
    unpacker.skip()
    if unpacker.tell() != len(data):
        raise ProtocolError("a frame with something after its message")


def _build(data: bytes, limits: Limits) -> Any:
    left = limits.containers

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ProtocolError(f"a frame of more than {limits.containers} arrays and maps")

    def on_list(items: list) -> list:
        count()
        return items

    def on_map(pairs: list[tuple]) -> dict:
        count()
        made = dict(pairs)
        if len(made) != len(pairs):
            raise ProtocolError("a map with one key twice")
        return made

    return msgpack.unpackb(
        data,
        raw=False,
        strict_map_key=True,
        list_hook=on_list,
        object_pairs_hook=on_map,
        ext_hook=_no_extension,
        max_bin_len=limits.binary,
        max_str_len=limits.string,
        max_array_len=limits.array,
        max_map_len=limits.map,
        max_ext_len=0,
    )


def _no_extension(code: int, data: bytes) -> None:
    raise ProtocolError(f"extension type {code} has no meaning here")


def _bound_depth(message: list, depth: int) -> None:
    level: list = [message]
    for _ in range(depth):
        inner = [item for box in level for item in (box.values() if type(box) is dict else box)]
        level = [item for item in inner if type(item) is list or type(item) is dict]
        if not level:
            return
    raise ProtocolError(f"a frame nested deeper than {depth}")


# --- shapes

# A shape says what a value must look like: a type (exactly that one, so True is no int), a tuple (a list of just
# these), a one-item list (a list of any length of these), a one-item dict (keys and values), or a function of the
# value.
Shape = type | tuple | list | dict | Callable[[Any], bool]


def check(value: Any, shape: Shape) -> bool:
    """Whether a decoded value has the shape.

    >>> check([3, b"x", ["a"]], (int, sized(bytes, 1, 8), [str]))
    True
    """
    if isinstance(shape, type):
        return type(value) is shape
    if isinstance(shape, tuple):
        return type(value) is list and len(value) == len(shape) and all(map(check, value, shape))
    if isinstance(shape, list):
        return type(value) is list and all(check(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        [(key, of)] = shape.items()
        return type(value) is dict and all(check(k, key) and check(v, of) for k, v in value.items())
    return shape(value)


def sized(kind: type, least: int, most: int | None = None) -> Callable[[Any], bool]:
    """A shape: str, bytes, list or dict of `least` to `most` items; of exactly `least` without `most`."""
    top = least if most is None else most
    return lambda value: type(value) is kind and least <= len(value) <= top


def whole(least: int, most: int) -> Callable[[Any], bool]:
    """A shape: an int from `least` to `most`."""
    return lambda value: type(value) is int and least <= value <= most
