"""A change's bytes: what is written is read back, and whatever else comes is refused with one kind of error."""

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import changes, clock
from replica.changes import Add, Dot, Kind, Remove
from replica.errors import InvalidChange

ID = bytes(range(16))
PREV = bytes(32)
DOCUMENT = ("a-buffer.md", "union")

ids = st.binary(min_size=16, max_size=16)
words = st.text(max_size=20)
counts = st.integers(1, 2**53)
dots = st.builds(Dot, ids, counts, st.integers(0, changes.MAX_OPS))
metas = st.fixed_dictionaries(
    {}, optional={"type": words, "level": st.integers(0, 2), "tags": st.lists(words, max_size=3).map(tuple)}
)
leads = st.text(" \t\n", max_size=5)
adds = st.builds(
    Add, st.sampled_from(changes.ROLES), words, st.integers(1, 2**63 - 1), leads, st.none() | ids,
    st.lists(dots, max_size=3).map(tuple), metas,
)  # fmt: skip
removes = st.builds(Remove, st.lists(dots, min_size=1, max_size=3).map(tuple))

# What msgpack can say, of any shape.
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | words | st.binary(max_size=40)
anything = st.recursive(
    scalars | st.sampled_from([1, ID, PREV, 3, DOCUMENT]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(words | st.integers(0, 9), inner, max_size=3),
    max_leaves=12,
)


def packed(**other) -> bytes:
    """The bytes of a valid change, with some fields replaced."""
    fields = {
        "format": 1, "author": ID, "seq": 1, "prev": PREV, "time": 1, "deps": [], "kind": 3, "document": DOCUMENT,
        "payload": changes.entries_payload([Add("entry", "- x", 1, "", None, (), {})]),
    }  # fmt: skip
    return msgpack.packb([*{**fields, **other}.values()])


@given(ids, counts, st.lists(adds | removes, min_size=1, max_size=5), st.lists(st.tuples(ids, counts), max_size=3))
def test_what_is_encoded_is_read_back(author, seq, ops, deps):
    deps = [dep for dep in deps if dep[0] != author]
    change = changes.encode(
        author, seq, PREV, 5, deps, Kind.ENTRIES, ("日本/a-buffer.md", "union"), changes.entries_payload(ops)
    )
    assert (change.author, change.seq, change.prev, change.time, change.kind) == (author, seq, PREV, 5, Kind.ENTRIES)
    assert change.document == ("日本/a-buffer.md", "union") and change.deps == tuple(deps)
    assert change.payload == tuple(ops)
    assert changes.decode(change.body) == change


@given(st.binary(max_size=300))
def test_any_bytes_are_a_change_or_refused_as_one(garbage):
    """FAILURES 4: nothing but InvalidChange comes out, whatever came in."""
    try:
        changes.decode(garbage)
    except InvalidChange:
        pass


@given(anything)
@settings(max_examples=300)
def test_any_value_is_a_change_or_refused_as_one(value):
    try:
        changes.decode(msgpack.packb(value))
    except InvalidChange:
        pass


@given(st.sampled_from(list(Kind)), st.data())
@settings(max_examples=400)
def test_any_value_in_any_field_is_refused_or_read(kind, data):
    name = data.draw(st.sampled_from(["author", "seq", "prev", "time", "deps", "kind", "document", "payload"]))
    fields = {"kind": int(kind), "document": DOCUMENT if kind in changes.DOCUMENT_KINDS else None}
    payload = st.lists(anything, max_size=8) | st.fixed_dictionaries(
        dict.fromkeys(["key", "cert", "name", "nonce", "workspace", "member", "old", "proof", "why"], anything)
    )
    fields[name] = data.draw(payload if name == "payload" else anything)
    try:
        changes.decode(packed(**fields))
    except InvalidChange:
        pass


@given(st.data())
def test_a_cut_or_lengthened_change_is_refused(data):
    body = packed()
    cut = data.draw(st.integers(0, len(body) - 1))
    for broken in (body[:cut], body + data.draw(st.binary(min_size=1, max_size=5))):
        with pytest.raises(InvalidChange):
            changes.decode(broken)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2), ("format", True), ("author", bytes(15)), ("author", "x" * 16), ("seq", 0), ("seq", 2**53 + 1),
        ("seq", 1.0), ("seq", True), ("prev", bytes(31)), ("time", -1), ("time", clock.LIMIT + 1), ("deps", None),
        ("deps", [[ID, 1]]), ("deps", [[bytes(16), 0]]), ("deps", [[bytes(16), 1, 1]]), ("kind", 99), ("kind", True),
        ("document", None), ("document", ["x.md"]), ("document", ["x.md", "newest"]), ("document", [b"x.md", "union"]),
        ("document", ["x" * 401, "union"]), ("payload", []), ("payload", None), ("payload", [[]]), ("payload", [[[]]]),
        ("payload", [[0, "x", 1, "word", None, [], {}]]), ("payload", [[3, "x", 1, "", None, [], {}]]),
        ("payload", [[0, b"x", 1, "", None, [], {}]]), ("payload", [[0, "x", 0, "", None, [], {}]]),
        ("payload", [[0, "x", 1, "", b"short", [], {}]]), ("payload", [[0, "x", 1, "", None, [], {"level": 3}]]),
        ("payload", [[0, "x", 1, "", None, [], {"color": "red"}]]), ("payload", [[0, "x", 1, "", None, [],
        {"tags": ["x"] * 65}]]),
    ],
)  # fmt: skip
def test_a_field_of_a_wrong_shape_is_refused(field, value):
    changes.decode(packed())
    with pytest.raises(InvalidChange):
        changes.decode(packed(**{field: value}))


def test_a_half_character_is_refused_and_not_stored():
    body = packed(payload=[[0, "AAA", 1, "", None, [], {}]]).replace(b"AAA", b"\xed\xa0\x80")
    with pytest.raises(InvalidChange):
        changes.decode(body)


def test_a_change_over_the_limit_is_neither_made_nor_read():
    """FAILURES 33: every bound is there on purpose."""
    with pytest.raises(InvalidChange, match="over the limit"):
        changes.encode(ID, 1, PREV, 1, [], Kind.IMPORT, ("a.md", "text"), "x" * changes.MAX_BODY)
    with pytest.raises(InvalidChange, match="over the limit"):
        changes.decode(bytes(changes.MAX_BODY + 1))


def test_nesting_without_end_is_refused():
    for depth in (50, 5_000, 500_000):
        with pytest.raises(InvalidChange):
            changes.decode(b"\x91" * depth + b"\xc0")


def test_a_claimed_length_beyond_the_bytes_reserves_nothing():
    """FAILURES 4: five bytes once took half a gigabyte."""
    for claim in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x00",
    ):
        with pytest.raises(InvalidChange):
            changes.decode(claim)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_different_bodies_have_different_hashes(one, other):
    assert (changes.change_hash(one) == changes.change_hash(other)) == (one == other)
