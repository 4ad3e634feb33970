"""What has a structure is made with that structure: values that fit and values that nearly do."""

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica import blocks, changes, config, filetext, textdiff
from replica.changes import Kind
from replica.errors import ConfigError, InvalidChange, ProtocolError
from tests.fuzz import worlds
from tests.fuzz.targets import TARGETS
from transport import frames, wire


@pytest.fixture(scope="module", autouse=True)
def _world():
    yield
    worlds.close()


ids = st.binary(min_size=16, max_size=16) | st.just(b"a" * 16)
numbers = st.integers(-1, 2**64 - 1) | st.sampled_from([0, 1, 2, 2**53, 2**63, 20_000])
texts = st.text(max_size=20) | st.sampled_from(["", "- a", "\x1b[2J", "\u202e", "a\nb", "../x"])
leaves = (
    st.none() | st.booleans() | numbers.filter(lambda n: n >= -(2**63)) | st.floats() | texts | st.binary(max_size=40)
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
dots = st.lists(st.tuples(ids, numbers, numbers) | anything, max_size=4)
meta = st.dictionaries(st.sampled_from(["type", "tags", "level", "else"]), anything, max_size=3)
adds = st.tuples(st.integers(-1, 4), texts, numbers, texts, st.none() | ids, dots, meta)
members = st.fixed_dictionaries(
    {"key": st.binary(min_size=32, max_size=32) | anything, "cert": st.binary(max_size=9) | anything,
     "name": texts | anything},
    optional={"nonce": ids, "workspace": texts, "old": ids, "proof": st.binary(min_size=64, max_size=64),
              "why": st.sampled_from(["fork", "copy", "else"]), "member": ids},
)  # fmt: skip
payloads = st.one_of(
    st.lists(adds | st.tuples(dots) | anything, max_size=4), dots, members, texts, st.binary(max_size=60), anything,
    st.lists(st.tuples(ids, numbers, ids, numbers), max_size=3),
)  # fmt: skip
documents = st.none() | st.tuples(texts, st.sampled_from([*changes.POLICIES, "else"])) | anything
deps = st.lists(st.tuples(ids, numbers) | anything, max_size=3)
kinds = st.sampled_from([*map(int, Kind), 9, -1, None])


@given(ids, numbers, ids | st.binary(min_size=32, max_size=32), numbers, deps, kinds, documents, payloads)
def test_a_change_of_any_fields_is_a_change_or_invalid(author, seq, prev, time, deps, kind, document, payload):
    body = msgpack.packb([1, author, seq, prev, time, deps, kind, document, payload])
    try:
        change = changes.decode(body)
    except InvalidChange as error:
        assert len(str(error)) < 1_000
        return
    assert (change.author, change.seq, change.kind, change.body) == (author, seq, kind, body)
    assert (change.document is None) == (kind not in changes.DOCUMENT_KINDS)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1), kinds, documents, payloads, st.just([]) | deps)
def test_a_signed_change_of_any_fields_is_taken_or_leaves_the_store_as_it_was(who, kind, document, payload, deps):
    worlds.ingest(who, [kind, document, payload, deps])


KINDS = ["hello", "changes", "ack", "digest", "documents", "baseline", "restart", "bye", "else"]
vectors = st.dictionaries(ids, numbers, max_size=3) | anything
fields = st.lists(
    vectors | anything | st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=64)), max_size=3), max_size=4
)


@given(st.sampled_from(KINDS), fields)
def test_a_message_of_any_fields_is_a_message_or_a_protocol_error(kind, fields):
    try:
        read = wire.decode(frames.encode(kind, *fields))
    except ProtocolError as error:
        assert len(str(error)) < 1_000
        return
    assert wire.decode(wire.encode(read)) == read


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 5), st.lists(st.tuples(st.sampled_from(KINDS), fields), min_size=1, max_size=4))
def test_a_session_takes_any_messages_in_any_state(state, talk):
    worlds.session(bytes([state]), [frames.encode(kind, *fields) for kind, fields in talk])


lines = st.sampled_from([
    "", " ", "\t", "- a", "- b", "  deeper", "    - x", "# T", "## H", "---", "===", "***", "```", "~~~~", "> q",
    "<!--", "-->", "1. n", "2) m", "text", "\ufeff", "a\r", "\x0c", "\x00", "\u2028", "2026-03-01 did", "...", "-",
])  # fmt: skip
files = st.lists(lines | st.text(max_size=6), max_size=12).map("\n".join)
endings = st.sampled_from(["\n", "\r\n", "\r", "\n\r"])


@settings(max_examples=300)
@given(files, st.lists(endings, min_size=1, max_size=3), st.booleans())
def test_any_file_is_rendered_as_it_was_read(text, ends, bom):
    mixed = "".join(line + ends[at % len(ends)] for at, line in enumerate(text.split("\n")))
    TARGETS["file"].run((b"\xef\xbb\xbf" if bom else b"") + mixed.encode())


@settings(max_examples=200)
@given(files, files)
def test_any_save_over_any_file_is_understood(old, new):
    TARGETS["save"].run(old.encode() + b"\xc1\xc1" + new.encode())


@given(st.text(), st.text())
def test_a_patch_gives_back_the_text_that_was_asked_for(old, new):
    was, now = (filetext.canonical(filetext.decode(text.encode()).text) for text in (old, new))
    data = filetext.patch(filetext.patch(None, "", was), was, now)
    assert filetext.canonical(filetext.decode(data).text) == now


keys = st.sampled_from(
    ["glob", "policy", "document", "entries", "exclude", "limits", "guard", "documents", "sinks", "x"]
)
plain = st.text(st.characters(codec="utf-8", exclude_characters="'\n\r", exclude_categories=["Cc"]))
values = st.recursive(
    st.integers().map(str) | st.integers(0).map(hex) | st.sampled_from(["true", "1.5", "nan", "1979-05-27", '"text"'])
    | plain.map(lambda text: f"'{text}'"),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]")
    | st.lists(st.tuples(keys, inner), max_size=2, unique_by=lambda kv: kv[0]).map(
        lambda kvs: "{" + ", ".join(f"{k} = {v}" for k, v in kvs) + "}"),
    max_leaves=6,
)  # fmt: skip
tables = st.sampled_from(["[limits]", "[guard]", "[[documents]]", "[workspace]", "[sinks.a]", "[x]", ""])


@given(st.lists(st.tuples(tables, st.lists(st.tuples(keys, values), max_size=3)), max_size=4))
def test_any_toml_is_a_configuration_or_a_config_error(parts):
    text = "\n".join(f"{table}\n" + "\n".join(f"{k} = {v}" for k, v in kvs) for table, kvs in parts)
    try:
        read = config.load(text)
    except ConfigError as error:
        assert "replica.toml" in str(error) and len(str(error)) < 2_000
        return
    assert read.limits.document > 0


globs = st.lists(st.sampled_from(["**", "*", "a", "*a*", "?", "a*b", "[", "(", "+", "**a"]), min_size=1, max_size=60)


@pytest.mark.parametrize("path", ["a" * 100, "/".join("ab" * 50), "aa/" * 60 + "b", "a.md"])
@given(globs.map("/".join) | globs.map("".join))
def test_no_glob_explodes(path, glob):
    TARGETS["replica_toml"].run(f"[[documents]]\nglob = '{glob}'\n".encode())
    try:
        rule = config.load(f"exclude = ['{glob}']\n[[documents]]\nglob = '{glob}'\n")
    except ConfigError:
        return
    rule.rules[0].fits(path)


@given(files, files, files)
def test_a_rebase_onto_anything_stays_inside_it(base, mine, current):
    ops = textdiff.rebase(textdiff.diff(base, mine), base, current)
    textdiff.check_ops(current, ops)


@given(st.lists(st.tuples(lines, st.sampled_from([blocks.ENTRY, blocks.HEADING, blocks.PROSE])), max_size=8))
def test_blocks_that_met_in_a_merge_do_not_flow_together(parts):
    merged = [blocks.Block(role, text, "") for text, role in parts if text.strip()]
    merged = [block for block in merged if [b.text for b in blocks.parse(block.text, "union")] == [block.text]]
    spaced = blocks.spaced(merged, "union")
    assert [b.text for b in spaced] == [b.text for b in merged]
    assert blocks.spaced(spaced, "union") == spaced
