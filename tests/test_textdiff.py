"""What changed between two texts: any two round-trip, edits move over, nothing of either side is lost."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.textdiff import MAX_OPS, apply_ops, diff, merge_additive, rebase

# Few symbols, so that texts share much; of every kind that has ever broken a diff.
texts = st.text("ab \n.é日😀\u0301ש\0\r\u2028", max_size=40)
lines = st.lists(st.text("abc ", max_size=8), max_size=12).map("\n".join)
prose = st.lists(st.sampled_from(["one", "two", " ", " ", "\n", "three.", "日本", "é"]), max_size=60).map("".join)
pairs = st.one_of(st.tuples(texts, texts), st.tuples(lines, lines), st.tuples(prose, prose))


@given(pairs)
def test_the_operations_make_the_old_text_into_the_new(pair):
    old, new = pair
    assert apply_ops(old, diff(old, new)) == new


@given(pairs)
def test_operations_are_ascending_disjoint_and_each_does_something(pair):
    old, new = pair
    at = 0
    for start, end, replacement in diff(old, new):
        assert at <= start <= end <= len(old)
        assert old[start:end] != replacement
        at = end


def test_equal_texts_need_no_operation():
    assert diff("same\n", "same\n") == []


def test_one_changed_word_is_one_operation_on_that_word():
    assert diff("x\nthe quick fox\ny\n", "x\nthe brown fox\ny\n") == [(6, 11, "brown")]


def test_a_word_that_grew_keeps_its_letters():
    assert diff("see cat here", "see cats here") == [(7, 7, "s")]


def test_a_line_that_grew_keeps_its_text():
    assert diff("a\nb\n", "a and much that is new\nb\n") == [(1, 1, " and much that is new")]


def test_changes_with_one_space_between_them_are_one():
    assert diff("keep red apple and so on", "keep green pear and so on") == [(5, 14, "green pear")]


def test_a_line_that_shares_too_little_is_replaced_whole():
    old, new = "one two three four five\n", "six seven three eight nine\n"
    assert diff("top\n" + old + "end\n", "top\n" + new + "end\n") == [(4, 4 + len(old), new)]


def test_words_of_scripts_without_spaces_are_compared_by_character():
    assert diff("これは古い文書です\n", "これは新しい文書です\n") == [(3, 4, "新し")]


def test_an_appended_line_touches_nothing_before_it():
    assert diff("a\nb", "a\nb\nc") == [(3, 3, "\nc")]


def test_too_many_operations_become_whole_lines():
    """FAILURES 8."""
    old = "".join(f"w{i} same{i} v{i} other{i} u{i} more{i}\n" for i in range(MAX_OPS))
    new = "".join(f"x{i} same{i} y{i} other{i} z{i} more{i}\n" if i % 2 else f"c{i}\n" for i in range(MAX_OPS))
    ops = diff(old, new)
    assert len(ops) <= MAX_OPS
    assert apply_ops(old, ops) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n" * 200_000, "a\n\n" * 100_000),
        ("a b " * 100_000, "b a c " * 70_000),
        ("".join("ab"[i * i % 7 % 2] + "\n" for i in range(100_000)), "b\na\nb\n" * 40_000),
        ("".join(f"{i} " for i in range(100_000)), "".join(f"{i} " for i in range(100_000, 0, -1))),
        ("x" * 1_000_000, "y" * 1_000_000),
    ],
    ids=["blank lines", "two words", "two lines", "reversed numbers", "one long word"],
)
def test_the_worst_texts_are_compared_in_bounded_time(old, new):
    begin = time.process_time()
    ops = diff(old, new)
    assert time.process_time() - begin < 5
    assert apply_ops(old, ops) == new


@pytest.mark.parametrize("ops", [[(2, 1, "")], [(0, 9, "")], [(1, 2, ""), (0, 1, "")], [(0, 2, ""), (1, 3, "")]])
def test_operations_that_do_not_fit_are_refused(ops):
    with pytest.raises(ValueError):
        apply_ops("abc", ops)


# --- rebase


@given(pairs)
def test_rebasing_onto_an_unchanged_text_changes_nothing(pair):
    base, mine = pair
    ops = diff(base, mine)
    assert rebase(ops, base, base) == ops


@given(pairs, st.one_of(texts, lines, prose))
def test_every_replacement_survives_a_rebase_in_order(pair, current):
    base, mine = pair
    ops = diff(base, mine)
    result = apply_ops(current, rebase(ops, base, current))
    assert_in_order(result, [replacement for _, _, replacement in ops])


@given(pairs, st.one_of(texts, lines, prose))
def test_a_rebase_deletes_nothing_that_the_others_wrote(pair, current):
    base, mine = pair
    result = apply_ops(current, rebase(diff(base, mine), base, current))
    assert_in_order(result, [replacement for _, _, replacement in diff(base, current)])


def assert_in_order(text: str, parts: list[str]) -> None:
    at = 0
    for part in parts:
        at = text.find(part, at)
        assert at >= 0
        at += len(part)


@given(
    st.lists(st.sampled_from(["keep", "mine", "theirs"]), max_size=12),
    st.sampled_from(["", "changed", "two words", "日本😀"]),
    st.sampled_from(["", "other", "é more words"]),
)
def test_changes_of_different_lines_are_both_there_after_a_rebase(owners, mine, theirs):
    def written(changed: set[str]) -> str:
        # A line that stays lies between any two, so that the changes do not touch.
        new = {"mine": mine, "theirs": theirs}
        parts = []
        for i, owner in enumerate(owners):
            parts.append(f"{new[owner]} {i} end\n" if owner in changed else f"first {i} end\n")
            parts.append(f"stays as it is, number {i}\n")
        return "".join(parts)

    base, current = written(set()), written({"theirs"})
    ops = diff(base, written({"mine"}))
    assert apply_ops(current, rebase(ops, base, current)) == written({"mine", "theirs"})


def test_two_appended_lines_are_both_there_theirs_first():
    base = "a\n"
    ops = diff(base, "a\nmine\n")
    assert apply_ops("a\ntheirs\n", rebase(ops, base, "a\ntheirs\n")) == "a\ntheirs\nmine\n"


def test_a_word_that_both_replaced_is_there_in_both_versions():
    base = "the old word\n"
    ops = diff(base, "the my word\n")
    assert apply_ops("the their word\n", rebase(ops, base, "the their word\n")) == "the theirmy word\n"


# --- merge_additive


@given(st.one_of(st.tuples(lines, lines), st.tuples(texts, texts)))
def test_a_merge_without_a_base_keeps_every_line_of_both_in_order(pair):
    theirs, mine = pair
    merged = merge_additive(theirs, mine).split("\n")
    for side in (theirs, mine):
        rest = iter(merged)
        assert all(line in rest for line in side.removesuffix("\n").split("\n") if side)


@given(st.one_of(lines, texts))
def test_a_text_merged_with_itself_or_with_nothing_stays_as_it_is(text):
    assert merge_additive(text, text) == text
    assert merge_additive(text, "") == text
    assert merge_additive("", text) == text


def test_lines_that_differ_stand_theirs_before_mine_and_equal_ones_once():
    assert merge_additive("# T\na\nc\nend\n", "# T\nb\nc\nend") == "# T\na\nb\nc\nend\n"
