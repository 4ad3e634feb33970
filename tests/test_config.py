"""`replica.toml` says what it means, and every mistake in it is named with its line."""

import re
import subprocess
import sys
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.config import DEFAULT, Guard, Harvest, Limits, Recall, load
from replica.errors import ConfigError
from replica.layouts import recognise


def rule_of(glob):
    return load(f"exclude = []\n[[documents]]\nglob = '{glob}'\n").rules[0]


# --- values


def test_an_empty_file_means_the_default():
    assert load("") == load(DEFAULT)
    assert load("").limits == Limits() == Limits(1_000_000)
    assert load("").recall == Recall("auto")
    assert load("").guard == Guard() == Guard(entries=10, files=5, share=0.5)


def test_every_key_is_read():
    config = load("""
        exclude = ["old/**"]
        [workspace]
        name = "team"
        [limits]
        document = "2.5MiB"
        [guard]
        entries = 3
        files = 0
        share = 1
        [[documents]]
        glob = "a.md"
        policy = "latest"
        cadence = "weekly"
        level = 0
        harvest = { lines = 20, entries = 3, bytes = "4kB", into = "Docs/", owner = "laptop" }
        [recall]
        embedder = "openai:bge-m3:latest@http://localhost:11434/v1"
        [sinks.cloud]
        type = "qdrant"
        [sinks.cloud.more]
        free = [1, 2]
    """)
    assert (config.name, config.exclude) == ("team", ("old/**",))
    assert config.limits.document == 2_621_440
    assert config.guard == Guard(3, 0, 1.0)
    assert config.rules[0].harvest == Harvest("Docs/", 20, 3, 4000, "laptop")
    assert (config.rules[0].policy, config.rules[0].cadence, config.rules[0].level) == ("latest", "weekly", 0)
    assert config.recall == Recall("openai:bge-m3:latest@http://localhost:11434/v1")
    assert config.sinks == {"cloud": {"type": "qdrant", "more": {"free": [1, 2]}}}


def test_the_first_rule_that_fits_wins_and_what_is_excluded_has_none():
    config = load("""
        exclude = ["x/old/**"]
        [[documents]]
        glob = "x/*.md"
        policy = "log"
        [[documents]]
        glob = "x/**"
    """)
    assert config.rule("x/a.md").policy == "log"
    assert config.rule("x/y/a.md").policy == "text"
    assert config.rule("x/old/a.md") is None and config.rule("a.md") is None


def test_the_default_knows_the_well_known_names_in_any_folder():
    config = load(DEFAULT)
    for folder in ("", "memory-bank/", "a/b/"):
        assert config.rule(f"{folder}activeContext.md").policy == "latest"
        assert config.rule(f"{folder}patterns-buffer.md").harvest == Harvest("Docs/03-Reference/Patterns.md", lines=20)
        assert config.rule(f"{folder}lessons-buffer.md").harvest == Harvest("Docs/06-PostMortems/", lines=15)
        assert config.rule(f"{folder}decisions-inbox.md").harvest == Harvest("Docs/03-Reference/ADR/", entries=5)
        assert config.rule(f"{folder}other-buffer.md").policy == "union"
        assert config.rule(f"{folder}SESSION_LOG.md").policy == "log"
        assert config.rule(f"{folder}README.md").policy == "text"
    assert config.rule("activecontext.md").policy == "text"
    for path in (".venv/README.md", "a/node_modules/b/README.md", "notes.txt", "replica.toml"):
        assert config.rule(path) is None


# --- globs


@pytest.mark.parametrize(
    ("glob", "fits", "not_"),
    [
        ("a.md", ["a.md"], ["x/a.md", "A.md", "aXmd", "a.md\n"]),
        ("*.md", ["a.md", ".md", ".a.md"], ["x/a.md", "a.mdx"]),
        ("**/a.md", ["a.md", "x/a.md", "x/y/a.md"], ["xa.md", "x/ba.md"]),
        ("x/**", ["x/a", "x/y/a"], ["x", "y/x/a", "xa/b"]),
        ("x/", ["x/a", "x/y/a"], ["x", "y/x/a"]),
        ("**/x/**", ["x/a", "y/x/a", "y/x/z/a"], ["x", "y/x", "yx/a"]),
        ("**/x/", ["x/a", "y/x/a"], ["y/x"]),
        ("x/**/a.md", ["x/a.md", "x/y/a.md", "x/y/z/a.md"], ["a.md", "xy/a.md"]),
        ("**", ["a", "x/y"], []),
        ("**/**", ["a", "x/y"], []),
        ("**/x/**/x/*.md", ["x/x/a.md", "x/x/x/a.md", "b/x/c/x/a.md"], ["x/a.md", "x/x/y/a.md"]),
        ("a*b*c", ["abc", "aXbYc", "abbcc"], ["ab", "a/bc", "acb"]),
        ("????-??-??.md", ["2026-01-31.md"], ["2026-1-31.md"]),
        ("[draft] (x).md", ["[draft] (x).md"], ["d (x).md"]),
        ("*", ["a"], ["a/b"]),
        ("é*.md", ["éa.md"], ["e.md"]),
    ],
)
def test_a_glob_fits_what_it_says(glob, fits, not_):
    rule = rule_of(glob)
    assert [path for path in fits + not_ if rule.fits(path)] == fits


@given(st.text("ab*?", min_size=1, max_size=8), st.text("ab", min_size=1, max_size=8))
def test_within_one_name_a_glob_means_what_a_shell_means(glob, name):
    glob = re.sub(r"\*+", "*", glob)
    assert rule_of(glob).fits(name) == fnmatchcase(name, glob)


def slow_fit(glob, path):
    if not glob or not path:
        return not glob and not path
    if glob[0] == "**":
        return (len(glob) == 1) or slow_fit(glob[1:], path) or slow_fit(glob, path[1:])
    return fnmatchcase(path[0], glob[0]) and slow_fit(glob[1:], path[1:])


@given(
    st.lists(st.sampled_from(["**", "a", "b", "*", "a*", "*a*b"]), min_size=1, max_size=6),
    st.lists(st.sampled_from(["a", "b", "ab", "aab"]), min_size=1, max_size=6),
)
def test_across_folders_a_glob_means_what_trying_every_way_finds(glob, path):
    assert rule_of("/".join(glob)).fits("/".join(path)) == slow_fit(glob, path)


def test_no_glob_takes_long():
    started = time.perf_counter()
    rule_of("*a" * 100 + "b").fits("a" * 200)
    rule_of("**/a/" * 50 + "b").fits("a/" * 99 + "a")
    rule_of("**/*a*/" * 40 + "b").fits("aa/" * 66 + "a")
    assert time.perf_counter() - started < 1


# --- errors

ERRORS = [
    (3, "policy", "union", "[[documents]]\nglob = 'a'\npolicy = 'unoin'"),
    (
        6,
        "policy",
        "latest",
        "[[documents]]\nglob = 'a'\nlevel = 1 # policy\n[[documents]] # policy = 1\nglob='b'\n policy='lastest'",
    ),
    (2, "documents.polcy", "policy", "[[documents]]\npolcy = 'text'\nglob = 'a'"),
    (1, "documents", "`glob` is missing", "[[documents]]\npolicy = 'text'"),
    (3, "cadence", "weekly", "[[documents]]\nglob = 'a'\ncadence = 'weakly'"),
    (3, "level", "0 (this clone)", "[[documents]]\nglob = 'a'\nlevel = true"),
    (3, "harvest.lines", "1 or more", "[[documents]]\nglob = 'a'\nharvest = { into = 'x.md', lines = '20' }"),
    (5, "harvest.lnes", "lines", "[[documents]]\nglob = 'a'\n\n[documents.harvest]\nlnes = 3\ninto = 'x'"),
    (3, "harvest", "when is it due", "[[documents]]\nglob = 'a'\nharvest = { into = 'x.md' }"),
    (3, "harvest.into", "'..'", "[[documents]]\nglob = 'a'\nharvest = { into = '../x.md', lines = 1 }"),
    (4, "guard.entries", "whole number", "# entries = 1\n[guard]\n# entries = 2\nentries = 1.5"),
    (1, "guard.share", "0 to 1", "guard.share = nan"),
    (2, "limits.document", "size", "[limits]\ndocument = '1 mega'"),
    (2, "sessions.timezone", "Europe/Berln", "[sessions]\ntimezone = 'Europe/Berln'"),
    (2, "sessions.timezone", "Europe/Berlin", "[sessions]\ntimezone = '../../etc/passwd'"),
    (2, "sessions.timezone", "Europe/Berlin", "[sessions]\ntimezone = 'Europe'"),
    (2, "sessions.timezone", "Europe/Berlin", "[sessions]\ntimezone = 2"),
    (1, "gaurd", "guard", "[gaurd]\nentries = 1"),
    (4, "exclude", "no ..", "exclude = [\n  'a', # ]\n  'b,]',\n  '../x',\n]"),
    (1, "exclude", "list", "exclude = 'x'"),
    (3, "documents.glob", "stands alone", "[[documents]]\n\nglob = 'a**'"),
    (2, "documents.glob", "relative", "[[documents]]\nglob = '/a'"),
    (2, "sinks.q", "table", "[sinks]\nq = 1"),
    (6, "guard.files", "whole", 'workspace.name = """\n[guard]\nfiles = -1\n"""\n[guard]\nfiles = -1'),
    (2, "recall.embedder", "did you mean 'minilm'", "[recall]\nembedder = 'minlm'"),
    (3, "recall.embedder", "url", "[recall]\n\nembedder = 'openai:m@http://'"),
    (1, "recall.embedder", "text", "recall.embedder = 5"),
    (2, "recall.embeder", "did you mean 'embedder'", "[recall]\nembeder = 'auto'"),
    (2, "documents.policy", "log", "documents = [ {glob = 'a'},\n { glob = 'b', 'policy' = 'lgo' } ]"),
    (2, "workspace.name", "text", "[workspace]\nname = 3"),
]


@pytest.mark.parametrize(("line", "key", "says", "text"), ERRORS, ids=[f"{key}-{line}" for line, key, _, _ in ERRORS])
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_a_wrong_value_is_named_with_its_line_and_key(line, key, says, text, eol):
    with pytest.raises(ConfigError) as error:
        load(text.replace("\n", eol))
    message = str(error.value)
    assert message.startswith(f"replica.toml, line {line}: ") and f"{key}`" in message and says in message


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (2, "[guard]\nentries = = 1"),
        (3, "[guard]\nentries = 1\nentries = 2"),
        (2, "a = 1\nb = [1,"),
        (1, "a = " + "1" * 5000),
        (1, "a = " + "[" * 9000),
        (1, "\ufeff= 1"),
    ],
    ids=range(6),
)
def test_text_that_is_no_toml_is_named_with_its_line(line, text):
    with pytest.raises(ConfigError, match=f"^replica.toml, line {line}: "):
        load(text)


pieces = st.sampled_from(
    [
        "[",
        "]",
        "[[documents]]\n",
        "glob = 'a'\n",
        "policy",
        "=",
        "{",
        "}",
        ",",
        "'",
        '"',
        '"""',
        "\n",
        "#",
        " ",
        "a.b",
        "1.5",
        "\\",
        "[guard]\n",
    ]
)


@given(st.one_of(st.lists(pieces, max_size=15).map("".join), st.text()))
def test_any_text_is_a_config_or_a_config_error(text):
    try:
        load(text)
    except ConfigError as error:
        assert re.match(r"replica\.toml, line \d+: ", str(error))


def test_importing_the_configuration_loads_neither_a_toml_parser_nor_a_differ():
    code = "import sys, replica.layouts, replica.blocks, replica.filetext; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tomllib", "difflib", "asyncio"} & set(loaded)


# --- layouts


@pytest.mark.parametrize(
    ("files", "name", "path", "policy"),
    [
        (["memory-bank/activeContext.md"], "memory bank", "memory-bank/activeContext.md", "latest"),
        (["SESSION_LOG.md"], "memory bank", "SESSION_LOG.md", "log"),
        (["memory/2026-01-31.md", "MEMORY.md"], "OpenClaw memory", "memory/2026-01-31.md", "text"),
        (["memory/2026-01-31.md"], "OpenClaw memory", "MEMORY.md", "union"),
        (["MEMORY.md", "debugging.md"], "Claude Code memory", "debugging.md", "text"),
        (["notes/a.md"], "markdown", "notes/a.md", "text"),
        ([], "markdown", "sub/lessons-buffer.md", "union"),
    ],
)
def test_a_layout_is_recognised_by_its_names_and_its_text_is_valid(tmp_path, files, name, path, policy):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("x")
    layout = recognise(tmp_path)
    assert layout.name == name
    assert load(layout.text).rule(path).policy == policy
    assert layout.text.count("#") > 5
