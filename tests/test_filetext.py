"""What is the file's own stays with the file: bytes that nobody changed are the same after a patch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.filetext import FileText, Style, ascending, canonical, decode, match, patch

# Line endings of every kind, blank lines, a mark in the middle, scripts: what makes bytes hard to keep.
raw_text = st.lists(
    st.sampled_from(["\n", "\r\n", "\r", "a", "b", "# é", "  ", "\t", "\ufeff", "日本", "🧠", "- x"])
).map("".join)
any_text = st.one_of(raw_text, st.text())
clean_text = any_text.map(lambda text: text.replace("\r\n", "\n"))


@given(any_text)
def test_a_patch_that_changes_nothing_gives_every_byte_back(raw):
    old = raw.encode()
    text = decode(old).text
    assert patch(old, canonical(text), canonical(text)) == old
    assert patch(old, text, text, exact=True) == old


@given(any_text, clean_text)
def test_a_patched_file_holds_the_new_canonical_text(raw, new):
    old = raw.encode()
    patched = patch(old, canonical(decode(old).text), canonical(new))
    assert canonical(decode(patched).text) == canonical(new)


@given(any_text, clean_text)
def test_an_exact_patch_holds_the_new_text_to_the_last_character(raw, new):
    old = raw.encode()
    assert decode(patch(old, decode(old).text, new, exact=True)).text == new


@given(clean_text)
def test_a_new_file_holds_the_text(new):
    assert decode(patch(None, "", new, exact=True)).text == new
    assert decode(patch(None, "", canonical(new))).text == canonical(new)


endings = st.sampled_from(["\n", "\r\n"])
numbered = st.lists(endings, max_size=12).map(lambda ends: [(f"line {n}", end) for n, end in enumerate(ends)])


@given(numbered, st.data())
def test_lines_that_nobody_changed_keep_their_bytes_in_a_file_of_mixed_endings(lines, data):
    old = "".join(content + end for content, end in lines).encode()
    keep = [line for line in lines if data.draw(st.booleans())]
    at = data.draw(st.integers(0, len(keep)))
    contents = [content for content, _ in keep]
    new = "".join(f"{content}\n" for content in [*contents[:at], "new", *contents[at:]])
    for exact in (False, True):
        patched = patch(old, decode(old).text, new, exact=exact).decode()
        before = "".join(content + end for content, end in keep[:at])
        after = "".join(content + end for content, end in keep[at:])
        assert patched in (f"{before}new\n{after}", f"{before}new\r\n{after}")


@given(any_text)
def test_decoding_gives_no_crlf_but_what_stood_behind_another_cr(raw):
    found = decode(raw.encode())
    assert found.text.count("\n") == raw.count("\n")
    assert found.text.count("\r\n") == raw.count("\r\r\n")


def test_decoding_tells_the_style_of_a_file():
    assert decode(b"\xef\xbb\xbfa\r\nb\r\nc\n") == FileText("a\nb\nc\n", Style(True, "\r\n", True))
    assert decode(b"a\r\nb\nc") == FileText("a\nb\nc", Style(False, "\n", False))
    assert decode(b"") == FileText("", Style(False, "\n", False))


def test_a_byte_order_mark_survives_a_patch_and_is_not_doubled():  # FAILURES 25
    old = b"\xef\xbb\xbf- a\r\n- b\r\n"
    once = patch(old, "- a\n- b\n", "- a\n- b\n- c\n")
    assert once == b"\xef\xbb\xbf- a\r\n- b\r\n- c\r\n"
    assert patch(once, "- a\n- b\n- c\n", "- a\n- b\n") == old


def test_a_missing_final_newline_stays_missing_and_blank_lines_at_the_end_stay():
    assert patch(b"a\r\nb", "a\nb\n", "a\nb\nc\n") == b"a\r\nb\r\nc"
    assert patch(b"a\nb\n\n  \n", "a\nb\n", "a\nb\nc\n") == b"a\nb\nc\n\n  \n"


def test_new_lines_take_the_ending_that_most_lines_have():
    assert patch(b"a\r\nb\r\nc\n", "a\nb\nc\n", "a\nb\nx\nc\n") == b"a\r\nb\r\nx\r\nc\n"


def test_bytes_that_are_not_utf8_are_refused_with_their_offset():
    with pytest.raises(ValueError, match="byte 6"):
        decode(b"\xef\xbb\xbfabc\xff")


def test_a_file_that_holds_another_text_than_was_said_is_not_patched():
    with pytest.raises(ValueError, match="does not hold"):
        patch(b"typed meanwhile\n", "a\n", "b\n")


items = st.lists(st.integers(0, 6), max_size=20)


@given(items, items)
def test_matching_pairs_equal_items_once_until_one_side_has_no_more(old, new):
    pairs = match(old, new)
    assert all(old[i] == new[j] for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert len(pairs) == sum(min(old.count(item), new.count(item)) for item in set(old))


@given(st.permutations(range(8)))
def test_the_longest_ascending_selection_is_ascending_and_none_is_longer(order):
    pairs = list(enumerate(order))
    chosen = ascending(pairs)
    assert chosen == sorted(chosen) and [j for _, j in chosen] == sorted(j for _, j in chosen)
    longest = [1] * len(order)
    for j in range(len(order)):
        longest[j] = 1 + max((longest[i] for i in range(j) if order[i] < order[j]), default=0)
    assert len(chosen) == max(longest)
