"""Blocks lose nothing, are named alike everywhere, stand in one order, and tell what a save did."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.blocks import Block, Node, block_id, order, pair, parse, render, spaced, with_ids
from replica.filetext import canonical

LINES = [
    "",
    "",
    "  ",
    "\t",
    "- a",
    "- b",
    "* c",
    " - d",
    "  - e",
    "+",
    "-",
    "1. x",
    "2) y",
    "10. z",
    "# T",
    "## S",
    "###",
    "#tag",
    "text",
    "more text",
    "    code",
    "  two",
    "> q",
    "---",
    "===",
    "***",
    "- - -",
    "```",
    "```py",
    "  ```",
    "~~~~",
    "- ```",
    "<!-- c -->",
    "<!-- open",
    "-->",
    "| a | b |",
    "|---|",
    "...",
    "\r",
    "\x0c",
    "- 日本 🧠",
    "\u2028",
    "\u00a0",
]
markdown = st.lists(st.sampled_from(LINES), max_size=25).map("\n".join)
any_text = st.one_of(markdown, st.text().map(lambda text: text.replace("\r\n", "\n")))
policies = st.sampled_from(["latest", "union", "log"])


def shape(text, policy="union"):
    return [(block.role, block.text) for block in parse(text, policy)]


# --- parse and render


@given(any_text, policies)
def test_rendering_what_was_parsed_gives_the_same_text(text, policy):
    assert render(parse(text, policy)) == canonical(text)


@given(any_text, policies)
def test_a_block_neither_begins_nor_ends_with_a_blank_line_and_its_lead_is_nothing_else(text, policy):
    for block in parse(text, policy):
        lines = block.text.split("\n")
        assert lines[0].strip(" \t") and lines[-1].strip(" \t")
        assert not block.lead.strip(" \t\n") and (not block.lead or block.lead.endswith("\n"))


@given(any_text, policies)
def test_blocks_that_were_parsed_together_need_no_space_between_them(text, policy):
    blocks = parse(text, policy)
    assert spaced(blocks, policy) == blocks


# Blocks that end wherever they are put: no open fence or comment, no front matter, nothing indented at the start.
whole = st.sampled_from(
    [
        "- a",
        "- b\n  more",
        "- c\nlazy",
        "1. x",
        "7. y",
        "-",
        "# T",
        "## S",
        "para",
        "two\nlines",
        "> q",
        "T\n===",
        "```\nx\n```",
    ]
)


@given(st.lists(whole, max_size=8))
def test_blocks_that_met_in_a_merge_are_the_same_blocks_when_the_file_is_read(texts):
    met = spaced([Block("entry", text, "") for text in ["# Title", *texts]], "union")
    assert [block.text for block in parse(render(met), "union")] == ["# Title", *texts]


def test_latest_is_one_entry_and_an_empty_file_has_none():
    assert parse("\n \n# A\n\n- b\n\n\n", "latest") == [Block("entry", "# A\n\n- b", "\n \n")]
    assert parse(" \n\t\n", "latest") == []


def test_union_knows_structure_from_entries():
    text = "---\na: 1\n---\n# Buffer\n\nRead me.\n\n<!-- keep\n\nthis -->\n\n"
    text += "- one\n- two\n  - nested\n\n  still two\nlazy\n\nA thought."
    assert shape(text) == [
        ("prose", "---\na: 1\n---"),
        ("heading", "# Buffer"),
        ("prose", "Read me."),
        ("prose", "<!-- keep\n\nthis -->"),
        ("entry", "- one"),
        ("entry", "- two\n  - nested\n\n  still two\nlazy"),
        ("entry", "A thought."),
    ]


def test_paragraphs_below_a_section_heading_are_entries_one_by_one():
    assert shape(
        "# Decisions\n\nWhy.\n\n## Decision 1: x\n\nWe do x.\nTwo lines.\n\nSo there.\n\nDecision 2\n---\nNo."
    ) == [
        ("heading", "# Decisions"),
        ("prose", "Why."),
        ("heading", "## Decision 1: x"),
        ("entry", "We do x.\nTwo lines."),
        ("entry", "So there."),
        ("heading", "Decision 2\n---"),
        ("entry", "No."),
    ]


def test_a_fence_is_never_divided():
    fenced = "```py\n# no heading\n\n- no item\n```"
    assert shape(f"## A\n{fenced}\n- b") == [("heading", "## A"), ("entry", fenced), ("entry", "- b")]
    inside = "- a\n  ```\n  x\n\n  - y\n  ```"
    assert shape(f"{inside}\n- b") == [("entry", inside), ("entry", "- b")]
    careless = "- a\n  ```\n  x\n```"
    assert shape(f"{careless}\n- b") == [("entry", careless), ("entry", "- b")]
    assert shape(f"{fenced}\n\n~~~\n- open\n\n# end", "log") == [("entry", fenced), ("entry", "~~~\n- open\n\n# end")]


def test_a_fence_that_an_item_leaves_open_ends_with_the_item():
    assert shape("- a\n  ```\n  x\n- b") == [("entry", "- a\n  ```\n  x"), ("entry", "- b")]


def test_a_rule_is_no_item_and_no_entry():
    assert shape("- a\n\n* * *\n- b\n---\n- c") == [
        ("entry", "- a"), ("prose", "* * *"), ("entry", "- b"), ("prose", "---"), ("entry", "- c"),
    ]  # fmt: skip


def test_every_line_of_a_log_is_an_entry_with_what_is_indented_below_it():
    assert shape("# Log\n10:00 began\n10:05 found\n  a detail\n\n  another\n- done\n", "log") == [
        ("entry", "# Log"),
        ("entry", "10:00 began"),
        ("entry", "10:05 found\n  a detail\n\n  another"),
        ("entry", "- done"),
    ]


@given(markdown, st.data())
def test_another_bullet_in_a_list_changes_no_other_block(text, data):
    blocks = parse(f"# T\n\n- first\n\n## S\n\n{text}", "union")
    again = parse(f"# T\n\n- first\n- added\n\n## S\n\n{text}", "union")
    assert [block for block in again if block.text != "- added"] == blocks


def test_policy_text_has_no_blocks():
    with pytest.raises(ValueError, match="text"):
        parse("a", "text")


def test_a_long_file_is_parsed_in_linear_time():
    text = (
        "# T\n"
        + "".join(f"- entry {n}\n  and more\n\n" for n in range(20_000))
        + "- ```\n" * 5_000
        + "x <!-- \n" * 5_000
    )
    started = time.perf_counter()
    assert len(parse(text, "union")) > 25_000
    assert time.perf_counter() - started < 3


# --- names


@given(any_text, policies)
def test_the_same_file_has_the_same_ids_and_no_id_twice(text, policy):
    ids = [id for id, _ in with_ids(parse(text, policy))]
    assert ids == [id for id, _ in with_ids(parse(text, policy))]
    assert len(set(ids)) == len(ids) and all(len(id) == 16 for id in ids)


def test_the_same_line_twice_has_two_ids_and_another_block_between_does_not_matter():
    a, b = Block("entry", "- a", ""), Block("entry", "- b", "\n")
    first, second = (id for id, _ in with_ids([a, a]))
    assert first != second
    assert [id for id, block in with_ids([a, b, a]) if block is a] == [first, second]


def test_ids_stay_as_they_are_in_stores_that_exist():
    assert block_id("entry", "- lesson é", 0).hex() == "9867941af95ae707a92abe3d8b9d5455"


@given(st.tuples(st.sampled_from(["entry", "heading"]), st.text(), st.integers(0, 12)), st.data())
def test_ids_tell_role_text_and_occurrence_apart(one, data):
    role, text, occurrence = one
    others = {block_id(role, text, occurrence + 1), block_id("prose", text, occurrence)}
    assert len({block_id(role, text, occurrence), block_id(role, f"1\0{text}", occurrence)} | others) == 4


# --- order

ids = st.integers(0, 9).map(lambda n: bytes([n]))
node_sets = st.lists(
    st.builds(Node, ids, st.one_of(st.none(), ids, st.just(b"unknown")), st.tuples(st.integers(0, 5))),
    unique_by=lambda node: node.id,
)


@given(node_sets, st.randoms(use_true_random=False))
def test_nodes_stand_in_one_order_whatever_the_order_they_come_in(nodes, random):
    shuffled = list(nodes)
    random.shuffle(shuffled)
    placed = order(nodes)
    assert order(shuffled) == placed
    assert sorted(placed) == sorted(node.id for node in nodes)


@given(st.lists(st.integers(0, 100), max_size=30))
def test_a_node_written_behind_another_stands_behind_it_and_before_its_older_siblings(draws):
    nodes = [Node(b"%d" % n, b"%d" % (draw % n) if n else None, (n,)) for n, draw in enumerate(draws)]
    placed, reference = order(nodes), []
    for node in nodes:
        reference.insert(reference.index(node.after) + 1 if node.after else 0, node.id)
    assert placed == reference


def test_unknown_anchors_and_circles_go_to_the_end():
    nodes = [
        Node(b"lost", b"unknown", (1,)), Node(b"x", b"y", (3,)), Node(b"y", b"x", (2,)), Node(b"behind x", b"x", (9,)),
        Node(b"self", b"self", (4,)), Node(b"a", None, (5,)),
    ]  # fmt: skip
    assert order(nodes) == [b"a", b"lost", b"y", b"x", b"behind x", b"self"]


def test_twenty_thousand_nodes_in_one_chain_or_behind_one_anchor_are_placed_quickly():
    chain = [Node(b"%d" % n, b"%d" % (n - 1) if n else None, (-n,)) for n in range(20_000)]
    circle = [Node(b"%d" % n, b"%d" % ((n + 1) % 20_000), (n,)) for n in range(20_000)]
    siblings = [Node(b"%d" % n, None, (n,)) for n in range(20_000)]
    started = time.perf_counter()
    assert order(chain) == [node.id for node in chain]
    assert order(siblings) == [node.id for node in reversed(siblings)]
    assert order(circle)[0] == b"0"
    assert time.perf_counter() - started < 2


# --- pair

few_blocks = st.lists(
    st.builds(
        Block,
        st.sampled_from(["entry", "heading"]),
        st.sampled_from(["- a", "- ab", "- abc", "- other", "# x"]),
        st.just(""),
    ),
    max_size=10,
)


@given(few_blocks, few_blocks)
def test_pairing_accounts_for_every_block_of_both_lists_once(base, new):
    edits = pair(base, new)
    pairs = edits.kept + edits.replaced
    assert sorted([i for i, _ in pairs] + edits.removed) == list(range(len(base)))
    assert sorted([j for _, j in pairs] + edits.added) == list(range(len(new)))
    assert all((base[i].role, base[i].text) == (new[j].role, new[j].text) for i, j in edits.kept)
    assert all(base[i].role == new[j].role and base[i].text != new[j].text for i, j in edits.replaced)


@given(few_blocks)
def test_a_save_that_changed_nothing_keeps_all(blocks):
    edits = pair(blocks, blocks)
    assert edits.kept == [(n, n) for n in range(len(blocks))]


@given(few_blocks, st.randoms(use_true_random=False))
def test_blocks_that_only_moved_are_kept(blocks, random):
    moved = list(blocks)
    random.shuffle(moved)
    assert len(pair(blocks, moved).kept) == len(blocks)


def entries(*texts):
    return [Block("entry", text, "") for text in texts]


def test_an_edited_entry_is_replaced_by_what_it_became():
    base = entries("- keep", "- the store is locked by another process", "- keys rotate weekly", "- end")
    new = entries(
        "- keep", "- wholly new", "- keys rotate each week", "- the store was locked by another process", "- end"
    )
    edits = pair(base, new)
    assert edits.replaced == [(1, 3), (2, 2)]
    assert (edits.removed, edits.added) == ([], [1])


def test_the_only_block_in_a_place_is_an_edit_of_the_one_that_was_there():
    assert pair(entries("- a", "- b", "- c"), entries("- a", "- zzz", "- c")).replaced == [(1, 1)]


def test_a_block_of_another_role_is_no_edit():
    edits = pair(entries("- a"), [Block("heading", "# a", "")])
    assert (edits.replaced, edits.removed, edits.added) == ([], [0], [0])


def test_of_equal_lines_the_one_that_stayed_in_place_is_kept():
    base = entries("- x", "- p", "- x", "- q", "- x")
    edits = pair(base, entries("- x", "- p", "- q", "- x"))
    assert edits.removed == [2]


def test_ten_thousand_blocks_are_paired_quickly_with_few_changes_and_with_all_changed():
    base = entries(*(f"- lesson {n} about the thing {n * 7}" for n in range(10_000)))
    few = list(base)
    del few[5000]
    few[100:100] = entries("- new")
    few[9000] = entries("- lesson that was edited")[0]
    shuffled = list(base)
    random.Random(1).shuffle(shuffled)
    other = entries(*(f"- quite another {n}" for n in range(10_000)))
    same = entries(*["- same"] * 10_000)
    started = time.perf_counter()
    edits = pair(base, few)
    assert (edits.removed, edits.added, edits.replaced) == ([5000], [100], [(9000, 9000)])
    assert len(pair(base, shuffled).kept) == 10_000
    assert pair(base, other).replaced == []
    assert len(pair(same, same[:5000] + base).kept) == 5000
    assert time.perf_counter() - started < 3


def test_a_hunk_of_long_dissimilar_blocks_is_bounded():
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=3000)) for _ in range(200)]
    started = time.process_time()
    pair(entries(*words[:100]), entries(*words[100:]))
    assert time.process_time() - started < 5


def test_kept_pairs_ascend_where_nothing_moved():
    base = entries("- a", "- b", "- a", "- c", "- a")
    kept = pair(base, entries("- a", "- a", "- c", "- new", "- a")).kept
    assert all(one[1] < two[1] for one, two in pairwise(kept))


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["# T", "## a b", "- one", "* two", "- ", "- - x", "1. n", "---", "p", "-"]),
            st.text(max_size=8),
        ),
        max_size=8,
    ),
    st.sampled_from(["union", "log"]),
)
def test_blocks_that_stand_alone_are_found_again_as_they_were(texts, policy):
    from replica.blocks import stand_alone

    if stand_alone(texts):
        blocks = [Block("entry", text, "") for text in texts]
        assert [block.text for block in parse(render(blocks), policy)] == texts
