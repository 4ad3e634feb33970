"""The structural check takes every honest update and nothing that an honest author could not have made.

FAILURES 1, 4, 5, 6, 10: the engine trusts bytes; nothing unchecked may reach it.
"""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.errors import CorruptUpdate
from replica.text import Text
from replica.yjs import (
    MAX_BYTES,
    MAX_STRUCTS,
    Insert,
    Known,
    Range,
    Update,
    check,
    decode,
    decode_state,
    decode_vector,
    derived_client,
    encode_first,
    encode_uint,
    overlap,
    touched,
)

ALICE, BOB = 7, 2**53 - 1
STRING, DELETED, ARRAY = 4, 1, 7
ROOT = (1, "t")


def wire(*values: int | str | bytes) -> bytes:
    """Numbers as varints, texts with their length, bytes as they are."""
    parts = []
    for value in values:
        if isinstance(value, str):
            parts.append(encode_uint(len(value.encode())) + value.encode())
        else:
            parts.append(encode_uint(value) if isinstance(value, int) else value)
    return b"".join(parts)


def known(text: str = "hello", client: int = ALICE) -> Known:
    held = Known()
    held.take(check(encode_first(client, text), client, held))
    return held


def refused(data: bytes, held: Known | None = None, client: int = ALICE) -> str:
    """The reason for which the check refuses."""
    with pytest.raises(CorruptUpdate) as error:
        check(data, client, held or Known())
    return str(error.value)


# --- honest updates


@given(st.text(max_size=30))
def test_a_first_text_is_decoded_as_it_was_written(text):
    update = check(encode_first(ALICE, text), ALICE, Known())
    units = len(text.encode("utf-16-le")) // 2
    assert update.next_clock == units
    assert update.inserts == ((Insert(ALICE, 0, units, None, None, text),) if text else ())
    assert update.deletes == ()


def test_an_insert_in_the_middle_names_both_neighbours():
    update = check(wire(1, 1, BOB, 0, b"\xc4", ALICE, 1, ALICE, 2, "x", 0), BOB, known())
    assert update == Update((Insert(BOB, 0, 1, (ALICE, 1), (ALICE, 2), "x"),), (), 1)


def test_an_update_may_only_delete():
    assert check(wire(0, 1, ALICE, 1, 0, 5), BOB, known()) == Update((), (Range(ALICE, 0, 5),), 0)


def test_a_block_may_be_attached_to_an_earlier_block_of_the_same_update():
    check(wire(1, 2, BOB, 0, b"\x84", ALICE, 4, "x", b"\x84", BOB, 0, "y", 1, BOB, 1, 0, 1), BOB, known())


def test_text_that_was_deleted_at_once_has_a_length_and_no_text():
    update = check(wire(1, 1, BOB, 0, b"\x81", ALICE, 4, 3, 1, BOB, 1, 0, 3), BOB, known())
    assert update.inserts == (Insert(BOB, 0, 3, (ALICE, 4), None, None),)


def test_the_check_itself_changes_nothing():
    held = known("a😀")
    check(wire(1, 1, ALICE, 3, b"\x84", ALICE, 2, "😀", 0), ALICE, held)
    assert (held.vector, held.halves) == ({ALICE: 3}, {(ALICE, 1)})


def test_a_checked_update_is_decoded_again_without_what_it_rests_on():
    data = wire(1, 2, BOB, 0, b"\xc4", ALICE, 1, ALICE, 2, "x😀", b"\x81", ALICE, 4, 2, 2, ALICE, 1, 3, 1, BOB, 1, 3, 2)
    assert decode(data) == check(data, BOB, known())


# --- dishonest ones, by hand


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (wire(1, 1, BOB, 0, STRING, *ROOT, "x", 0), "blocks of client"),
        (wire(1, 1, ALICE, 6, b"\x84", ALICE, 4, "x", 0), "the next clock"),
        (wire(1, 1, ALICE, 4, b"\x84", ALICE, 3, "x", 0), "the next clock"),
        (wire(2, 1, ALICE, 5, b"\x84", ALICE, 4, "x", 1, ALICE, 5, b"\x84", ALICE, 4, "y", 0), "more than one section"),
        (wire(1, 0, ALICE, 5, 0), "without blocks"),
        (wire(1, 1, ALICE, 5, ARRAY, *ROOT, 0, 0), "of kind 0x07"),
        (wire(1, 1, ALICE, 5, ARRAY, *ROOT, 1, 0), "of kind 0x07"),
        (wire(1, 1, ALICE, 5, 0, 5, 0), "of kind 0x00"),
        (wire(1, 1, ALICE, 5, 10, 5, 0), "of kind 0x0a"),
        (wire(1, 1, ALICE, 5, 8, *ROOT, 1, b"\x7f", 0), "of kind 0x08"),
        (wire(1, 1, ALICE, 5, 0x24, *ROOT, "key", "x", 0), "of kind 0x24"),
        (wire(1, 1, ALICE, 5, STRING, 1, "other", "x", 0), "outside of the root"),
        (wire(1, 1, ALICE, 5, STRING, 0, ALICE, 0, "x", 0), "outside of the root"),
        (wire(1, 1, ALICE, 5, b"\x84", ALICE, 5, "x", 0), "which is not here"),
        (wire(1, 1, ALICE, 5, b"\x84", BOB, 0, "x", 0), "which is not here"),
        (wire(1, 1, ALICE, 5, b"\x44", BOB, 0, "x", 0), "which is not here"),
        (wire(1, 1, ALICE, 5, STRING, *ROOT, "", 0), "of length 0"),
        (wire(1, 1, ALICE, 5, DELETED, *ROOT, 0, 0), "of length 0"),
        (wire(1, 1, ALICE, 5, DELETED, *ROOT, 2**32 - 1, 0), "of length 4294967295"),
        (wire(1, 1, ALICE, 5, STRING, *ROOT, 3, b"\xed\xa0\x80", 0), "not valid UTF-8"),
        (wire(1, 1, ALICE, 5, STRING, *ROOT, 1, b"\xff", 0), "not valid UTF-8"),
        (wire(1, 1, ALICE, 5, STRING, *ROOT, 9, b"x", 0), "longer than the update"),
        (wire(1, 1, ALICE, b"\x85\x00", STRING, *ROOT, "x", 0), "shortest form"),
        (wire(1, 1, b"\xff" * 9 + b"\x01", 0), "too long"),
        (wire(1, 1, 2**53, 0, STRING, *ROOT, "x", 0), "out of range"),
        (wire(0, 1, ALICE, 1, 0, 6), "not here"),
        (wire(0, 1, BOB, 1, 0, 1), "not here"),
        (wire(0, 1, ALICE, 1, 2, 0), "out of order"),
        (wire(0, 1, ALICE, 2, 2, 1, 0, 1), "out of order"),
        (wire(0, 1, ALICE, 2, 0, 2, 1, 1), "out of order"),
        (wire(0, 2, ALICE, 1, 0, 1, ALICE, 1, 2, 1), "two lists"),
        (wire(0, 1, ALICE, 0, 0, 0), "an empty list"),
        (wire(0, 0, 0), "follow the end"),
        (b"", "ends early"),
        (b"\0", "ends early"),
        (wire(1, MAX_STRUCTS + 1, ALICE, 5, b"\0" * 20_000), "claims 5001"),
        (wire(1, 100, ALICE, 5, STRING, *ROOT, "x", 0), "claims 100"),
        (wire(0, 2**40), "claims"),
        (b"\0" * (MAX_BYTES + 1), "over the limit"),
    ],
)
def test_what_no_honest_author_makes_is_refused_with_its_reason(data, reason):
    """FAILURES 4, 5, 10."""
    assert reason in refused(data, known())


def test_the_five_bytes_that_cost_half_a_gigabyte_are_refused_at_once():
    """FAILURES 4."""
    begin = time.process_time()
    refused(bytes.fromhex("8080808001"))
    assert time.process_time() - begin < 0.1


def test_the_22_bytes_that_freeze_an_unchecked_process_are_refused():
    """FAILURES 10."""
    attack = wire(2, 1, ALICE, 0, STRING, *ROOT, "abcd", 1, ALICE, 1, b"\x84", ALICE, 0, "c", 0)
    assert len(attack) == 22
    assert "more than one section" in refused(attack)


def test_many_blocks_are_refused_when_they_are_large_too():
    """FAILURES 10: 5,000 blocks of 230 bytes, all valid, took the engine 2.8 GB and 8 seconds."""

    def appends(blocks: int, size: int) -> bytes:
        each = (wire(b"\x84", ALICE, 4 + size * i, "x" * size) for i in range(blocks))
        return wire(1, blocks, ALICE, 5, *each, 0)

    check(appends(1_000, 50), ALICE, known())
    assert "cost too much" in refused(appends(5_000, 230), known())


@pytest.mark.parametrize(
    "data",
    [
        wire(1, 1, BOB, 0, b"\x84", ALICE, 1, "x", 0),
        wire(1, 1, BOB, 0, b"\x44", ALICE, 2, "x", 0),
        wire(0, 1, ALICE, 1, 0, 2),
        wire(0, 1, ALICE, 1, 2, 1),
        wire(1, 2, BOB, 0, b"\x84", ALICE, 2, "😀", b"\x84", BOB, 0, "x", 0),
        wire(1, 1, BOB, 0, b"\x84", ALICE, 2, "😀", 1, BOB, 1, 1, 1),
    ],
    ids=["behind half", "before half", "delete up to half", "delete from half", "own half", "delete own half"],
)
def test_a_reference_into_the_middle_of_a_character_is_refused(data):
    """FAILURES 6."""
    assert "inside a character" in refused(data, known("a😀b"), BOB)


def test_halves_are_known_again_from_a_stored_state():
    text = Text.new(ALICE)
    text.edit(ALICE, "a😀日𝄞")
    held = Known.of_state(text.state())
    assert (held.vector, held.halves) == ({ALICE: 6}, {(ALICE, 1), (ALICE, 4)})


# --- dishonest ones, by chance


@given(st.binary(max_size=60), st.sampled_from([ALICE, BOB, 0]))
def test_garbage_is_taken_or_refused_and_nothing_else(data, client):
    """FAILURES 4."""
    accept_or_refuse(data, client, known("a😀b"))


@given(st.data())
def test_a_damaged_update_is_taken_or_refused_and_nothing_else(data):
    """FAILURES 1: a flipped bit may still pass, which is why updates are signed too."""
    honest = wire(1, 2, BOB, 0, b"\xc4", ALICE, 0, ALICE, 1, "x😀y", b"\x84", ALICE, 3, "zé", 1, ALICE, 2, 0, 1, 3, 1)
    check(honest, BOB, known("a😀b"))
    broken = bytearray(honest)
    for at in data.draw(st.lists(st.integers(0, len(honest) * 8 - 1), min_size=1, max_size=3)):
        broken[at // 8] ^= 1 << at % 8
    accept_or_refuse(bytes(broken[: data.draw(st.integers(0, len(broken)))]), BOB, known("a😀b"))
    accept_or_refuse(bytes(broken), BOB, known("a😀b"))


@given(st.data())
def test_an_update_cut_short_is_refused(data):
    honest = wire(1, 1, BOB, 0, b"\xc4", ALICE, 0, ALICE, 1, "x😀y", 1, ALICE, 1, 0, 1)
    check(honest, BOB, known("a😀b"))
    refused(honest[: data.draw(st.integers(0, len(honest) - 1))], known("a😀b"), BOB)


def accept_or_refuse(data: bytes, client: int, held: Known) -> None:
    try:
        check(data, client, held)
    except CorruptUpdate as error:
        assert str(error)


@pytest.mark.parametrize("decoder", [decode, decode_state, decode_vector])
@given(data=st.binary(max_size=40))
def test_what_is_not_judged_is_decoded_or_refused(decoder, data):
    try:
        decoder(data)
    except CorruptUpdate as error:
        assert str(error)


# --- client ids


@given(st.lists(st.binary(max_size=4), max_size=3), st.lists(st.binary(max_size=4), max_size=3))
def test_derived_clients_are_in_range_and_differ_when_any_part_does(a, b):
    assert 1 <= derived_client(*a) < 2**53
    assert (derived_client(*a) == derived_client(*b)) == (a == b)


# --- overlap and touched


def update(*inserts: tuple, deletes: tuple = (), client: int = ALICE) -> Update:
    blocks = tuple(Insert(client, 100 + i, 1, left, right, "x") for i, (left, right) in enumerate(inserts))
    return Update(blocks, tuple(Range(*range) for range in deletes), 100 + len(inserts))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (update(deletes=[(1, 0, 5)]), update(deletes=[(1, 4, 5)])),
        (update(deletes=[(1, 0, 2), (1, 8, 2), (2, 0, 1)]), update(deletes=[(1, 4, 2), (1, 9, 1)])),
        (update(((1, 3), None)), update(deletes=[(1, 2, 2)])),
        (update((None, (1, 3))), update(deletes=[(1, 3, 1)])),
        (update(((1, 3), (1, 4))), update(((1, 3), (9, 9)), client=BOB)),
        (update(((1, 3), (1, 4))), update(((9, 9), (1, 4)), client=BOB)),
        (update((None, None)), update((None, None), client=BOB)),
    ],
)
def test_updates_of_one_region_overlap_both_ways(a, b):
    assert overlap(a, b) and overlap(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (update(deletes=[(1, 0, 5)]), update(deletes=[(1, 5, 5)])),
        (update(deletes=[(1, 0, 5)]), update(deletes=[(2, 0, 5)])),
        (update(((1, 3), (1, 4))), update(deletes=[(1, 0, 3), (1, 5, 1)])),
        (update(((1, 3), (1, 4))), update(((1, 5), (1, 6)), client=BOB)),
        (update(((1, 3), None)), update((None, (1, 0)), client=BOB)),
        (update(), update()),
    ],
)
def test_updates_of_different_regions_do_not_overlap(a, b):
    assert not overlap(a, b) and not overlap(b, a)


def test_touched_joins_what_meets_and_sorts():
    changed = update((None, None), (None, None), deletes=[(9, 4, 2), (1, 3, 2), (1, 0, 3)])
    assert touched(changed) == ((1, 0, 5), (ALICE, 100, 2), (9, 4, 2))
