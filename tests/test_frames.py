"""Any bytes are a message within its limits, or a ProtocolError. (FAILURES 28, 33)"""

import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.errors import ProtocolError
from transport.frames import MAX_FRAME, Limits, check, decode, encode, sized, whole

leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=20
)


@given(st.text(), st.lists(leaves | st.lists(leaves) | st.dictionaries(st.binary(), leaves)))
def test_what_is_encoded_is_decoded_alike(kind, fields):
    assert decode(encode(kind, *fields)) == [kind, *fields]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(data):
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert type(message[0]) is str


@given(values, st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_damaged_message_is_a_message_or_a_protocol_error(value, at, damage):
    data = encode("kind", value)
    at %= len(data)
    for broken in (data[:at] + damage + data[at:], data[:at], data[:at] + damage + data[at + len(damage) :]):
        try:
            decode(broken)
        except ProtocolError:
            pass


@given(values, st.binary(min_size=1, max_size=4))
def test_nothing_may_follow_the_message(value, more):
    with pytest.raises(ProtocolError):
        decode(encode("kind", value) + more)


@pytest.mark.parametrize("depth", [9, 500, 1_000, 2_000, 100_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
def test_a_nesting_bomb_is_a_protocol_error(opening, depth):
    with pytest.raises(ProtocolError):
        decode(b"\x92\xa1k" + opening * depth + b"\xc0")


@pytest.mark.parametrize(
    "head", [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"], ids=["array", "map", "bin", "str", "ext"]
)
@pytest.mark.parametrize("claimed", [60_000, 4_000_000, 2**32 - 1])
def test_a_claimed_count_allocates_nothing(head, claimed):
    one = head + struct.pack(">I", claimed)
    tracemalloc.start()
    try:
        for data in (one, b"\x92\xa1k" + one, b"\x92\xa1k" + one * 900):
            with pytest.raises(ProtocolError):
                decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (b"12345", Limits(binary=4)),
        ("12345", Limits(string=4)),
        ([1] * 5, Limits(array=4)),
        ({str(n): n for n in range(5)}, Limits(map=4)),
        ([[]] * 5, Limits(containers=4)),
        ([[[[]]]], Limits(depth=4)),
        (b"12345", Limits(frame=8)),
    ],
)
def test_each_limit_holds_and_one_more_would_do(value, limits):
    data = encode("k", value)
    with pytest.raises(ProtocolError):
        decode(data, limits)
    decode(data)


def test_the_largest_frame_passes_and_one_byte_more_does_not():
    body = bytes(MAX_FRAME - 8)
    frame = encode("k", body)
    assert len(frame) == MAX_FRAME
    assert decode(frame) == ["k", body]
    with pytest.raises(ProtocolError):
        decode(encode("k", body + b"x"))


@pytest.mark.parametrize("value", [msgpack.ExtType(5, b""), msgpack.ExtType(5, b"x"), msgpack.Timestamp(1)])
def test_extension_types_are_refused(value):
    with pytest.raises(ProtocolError):
        decode(encode("k", value))


@pytest.mark.parametrize(
    "data", [b"\x90", b"\xc0", b"\x91\x01", b"\x81\xa1k\x01", b"\x91\xa1\xff", b"\x92\xa1k\x81\x01\x01"]
)
def test_what_does_not_begin_with_a_kind_or_has_odd_text_or_keys_is_refused(data):
    with pytest.raises(ProtocolError):
        decode(data)


def test_a_map_may_not_hold_one_key_twice():
    with pytest.raises(ProtocolError, match="twice"):
        decode(b"\x92\xa1k\x82\xa1a\x01\xa1a\x02")


def test_text_instead_of_bytes_is_refused():
    with pytest.raises(ProtocolError, match="binary"):
        decode("text")


def test_a_shape_admits_just_what_it_describes():
    shape = (int, sized(bytes, 2), [sized(str, 1, 3)], {str: whole(0, 9)})
    good = [1, b"xy", ["a", "abc"], {"k": 9}]
    assert check(good, shape)
    bad = [True, b"x", ["a", ""], {"k": 10}]
    for at, value in enumerate(bad):
        assert not check(good[:at] + [value] + good[at + 1 :], shape)
    assert not check(good[:3], shape) and not check([*good, 1], shape) and not check({}, shape)
