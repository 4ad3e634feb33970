"""The tools that an agent is given, without a protocol: what they answer, refuse, leave as it is, and never exceed."""

import json
import sys
import types
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica import copies, writing
from replica.agents import tools
from replica.agents.answers import iso
from replica.agents.toolbox import BY_NAME, LEAST, MOST, TOOLS, Desk
from replica.bridge import Bridge
from replica.errors import StoreError
from tests.helpers import Network, add, certificate, read, save

NAMES = [
    "memory_search", "memory_read", "memory_list", "memory_write", "memory_append", "memory_history",
    "memory_conflicts", "memory_resolve", "memory_status",
]  # fmt: skip


class Agent:
    """An agent at a clone, as a server of its own gives it the tools; no node runs."""

    def __init__(self, network: Network, name: str, **options):
        self.desk = Desk(
            lambda: network.open_again(name),
            lambda clone, path: network.bridge(name).run(documents=[path]) and None,
            lambda: None,
            **options,
        )

    def __call__(self, tool: str, **arguments) -> dict:
        """The data of an answer that must be none of a failure."""
        answer = tools.call(self.desk, f"memory_{tool}", arguments)
        assert not answer.failed, answer.text
        self.text = answer.text
        return answer.data

    def refused(self, tool: str, **arguments) -> dict:
        """The data of an answer that must be one of a failure."""
        answer = tools.call(self.desk, f"memory_{tool}", arguments)
        assert answer.failed, answer.text
        assert answer.text.startswith("error: ") and "unforeseen" not in answer.text, answer.text
        self.text = answer.text
        return answer.data

    def version(self, document: str) -> str:
        return self("read", document=document)["version"]


@pytest.fixture
def network():
    with Network("laptop", "desk") as network:
        save(network["laptop"], "a-buffer.md", "# A\n\n- deploy on monday\n- ask first\n")
        save(network["laptop"], "activeContext.md", "now\n")
        save(network["laptop"], "SESSION_LOG.md", "- begun\n")
        save(network["laptop"], "notes/x.md", "# Head\n\nhello\n\n## Deploying\n\nnever on friday\n")
        network.share()
        yield network


@pytest.fixture
def agent(network):
    return Agent(network, "laptop")


# --- what there is


def test_the_tools_are_few_their_names_are_stable_and_all_they_take_is_bounded():
    assert [tool.name for tool in TOOLS] == NAMES
    for tool in TOOLS:
        assert len(tool.what) <= 400
        for schema in tool.arguments.values():
            bounds = {"string": ("maxLength",), "integer": ("minimum", "maximum"), "array": ("maxItems",)}
            assert all(bound in schema for bound in bounds.get(schema["type"], ()))
    assert len(json.dumps([[tool.name, tool.what, tool.schema] for tool in TOOLS])) < 10_000


def test_a_tool_that_says_that_it_only_reads_leaves_the_log_as_it_is(network, agent):
    before = network["laptop"].vector()
    for tool in TOOLS:
        if not tool.changes:
            arguments = {"query": "deploy"} if tool.name == "memory_search" else {}
            arguments |= {"document": "a-buffer.md"} if "document" in tool.required else {}
            assert not tools.call(agent.desk, tool.name, arguments).failed
    assert network["laptop"].vector() == before


def test_a_server_that_only_reads_refuses_to_write(network):
    reader = Agent(network, "laptop", read_only=True)
    assert "--read-only" in reader.refused("append", document="a-buffer.md", text="x")["error"]
    assert reader("status")["read_only"]


# --- finding and reading


def test_a_question_finds_entries_and_sections_with_where_to_read_on(agent):
    hits = agent("search", query="when may we deploy?")["hits"]
    assert {hit["document"] for hit in hits} == {"a-buffer.md", "notes/x.md"}
    assert all(hit["clone"] == "laptop" and hit["time"] and not hit["private"] for hit in hits)
    assert "\n  > - deploy on monday\n" in agent.text
    entry = next(hit["entry"] for hit in hits if hit["document"] == "a-buffer.md")
    assert agent("read", document="a-buffer.md", entry=entry)["text"] == "- deploy on monday"
    offset = next(hit["offset"] for hit in hits if hit["document"] == "notes/x.md")
    assert agent("read", document="notes/x.md", offset=offset)["text"].strip() == "never on friday"


def test_a_part_of_a_word_is_found_where_no_word_is(agent):
    assert [hit["text"] for hit in agent("search", query="eploy on mon")["hits"]] == ["- deploy on monday"]
    assert agent("search", query="nothing of the kind")["hits"] == []


def test_search_can_be_narrowed_and_paged(agent):
    assert {hit["document"] for hit in agent("search", query="deploy", under="notes/")["hits"]} == {"notes/x.md"}
    first = agent("search", query="deploy", limit=1)
    second = agent("search", query="deploy", limit=1, offset=first["next_offset"])
    assert first["hits"] != second["hits"] and "next_offset" not in second


def test_a_buffer_is_read_entry_by_entry_with_who_wrote_it(network, agent):
    writing.add(network["desk"], "a-buffer.md", "from the desk")
    network.sync_all()
    found = agent("read", document="a-buffer.md")
    assert [(row.get("role"), row.get("clone"), row["text"]) for row in found["entries"]] == [
        ("heading", None, "# A"), (None, "laptop", "- deploy on monday"), (None, "laptop", "- ask first"),
        (None, "desk", "- from the desk"),
    ]  # fmt: skip
    assert agent("read", document="a-buffer.md", offset=-1)["entries"][0]["text"] == "- from the desk"
    assert agent("read", document="a-buffer.md", whole=True)["text"] == network["laptop"].text("a-buffer.md")


def test_what_was_saved_and_not_taken_in_yet_is_read(network, agent):
    save(network["laptop"], "a-buffer.md", "# A\n\n- deploy on monday\n- ask first\n- just saved\n")
    save(network["laptop"], "notes/new.md", "never looked at\n")
    assert agent("read", document="a-buffer.md")["entries"][-1]["text"] == "- just saved"
    assert agent("read", document="notes/new.md")["text"] == "never looked at\n"


def test_a_file_may_be_named_by_its_whole_path(network, agent):
    whole = str(network["laptop"].root / "notes" / "x.md")
    assert agent("read", document=whole)["document"] == "notes/x.md"


@pytest.mark.parametrize(
    "path",
    [
        "../x.md",
        "/etc/passwd",
        ".replica/identity.key",
        "a\x00b",
        "notes/../../x",
        ".git/config",
        "x" * 300,
        "~/x",
        ".",
    ],
)
@pytest.mark.parametrize("tool", ["read", "write", "append", "history"])
def test_a_path_that_leads_elsewhere_is_refused(agent, tool, path):
    more = {"text": "x"} if tool in ("write", "append") else {}
    agent.refused(tool, document=path, **more)


def test_a_link_in_place_of_a_document_is_not_followed(network, agent, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (network["laptop"].root / "notes" / "link.md").symlink_to(tmp_path / "secret")
    agent.refused("read", document="notes/link.md")
    agent("write", document="notes/link.md", text="mine")  # the document is made, its file is not
    assert (tmp_path / "secret").read_text() == "secret"


# --- writing


def test_an_appended_entry_is_there_for_all_with_its_tags(network, agent):
    added = agent("append", document="a-buffer.md", text="two\nlines", type="decision", tags=["x"])
    network.share()
    entry = network["desk"].entries("a-buffer.md")[-1]
    assert (entry.text, entry.meta) == ("- two\n  lines", {"type": "decision", "tags": ["x", "by-agent"]})
    assert entry.id.hex().startswith(added["entry"])
    assert read(network["laptop"], "a-buffer.md").endswith("- two\n  lines\n")
    assert not agent("append", document="a-buffer.md", text="two\nlines")["new"]


def test_a_paragraph_is_appended_to_a_text_and_nothing_to_what_is_replaced_as_a_whole(network, agent):
    agent("append", document="notes/x.md", text="more")
    assert network["laptop"].text("notes/x.md").endswith("never on friday\n\nmore\n")
    assert "memory_write" in agent.refused("append", document="activeContext.md", text="x")["hint"]
    agent.refused("append", document="notes/x.md", text="x", tags=["t"])


@pytest.mark.parametrize("document", ["a-buffer.md", "notes/x.md", "activeContext.md"])
def test_a_document_is_replaced_by_whoever_read_it_last(network, agent, document):
    other = Agent(network, "laptop")
    version = agent.version(document)
    assert other.version(document) == version
    text = network["laptop"].text(document)
    written = other("write", document=document, text=text + "- by the other\n", version=version)
    refusal = agent.refused("write", document=document, text=text + "- by me\n", version=version)
    assert refusal["version"] == written["version"] == agent.version(document)
    assert network["laptop"].text(document) == text + "- by the other\n" == read(network["laptop"], document)
    agent("write", document=document, text=text + "- by both\n", version=refusal["version"])
    network.share()
    assert network["desk"].text(document) == text + "- by both\n"


def test_a_write_that_is_repeated_is_no_second_write(network, agent):
    given = {"document": "notes/x.md", "text": "new", "version": agent.version("notes/x.md")}
    assert agent("write", **given)["changed"]
    before = network["laptop"].vector()
    assert not agent("write", **given)["changed"]
    assert network["laptop"].vector() == before


def test_a_document_that_is_there_is_not_overwritten_without_its_version(agent):
    assert agent.refused("write", document="notes/x.md", text="new")["version"] == agent.version("notes/x.md")
    agent.refused("write", document="notes/none.md", text="new", version="0123456789abcdef")
    assert agent("write", document="notes/none.md", text="new")["changed"]
    agent.refused("write", document="picture.png", text="no document")


def test_what_others_wrote_meanwhile_survives_a_whole_write(network, agent):
    """The token names what this clone holds; what it has not heard of merges as always."""
    writing.add(network["desk"], "a-buffer.md", "from the desk")
    text = network["laptop"].text("a-buffer.md").replace("ask first", "ask twice")
    agent("write", document="a-buffer.md", text=text, version=agent.version("a-buffer.md"))
    network.share()
    assert network["desk"].text("a-buffer.md") == "# A\n\n- deploy on monday\n- from the desk\n- ask twice\n"


def test_an_entry_is_replaced_once_by_its_id(network, agent):
    entry = agent("search", query="ask first")["hits"][0]["entry"]
    now = agent("write", document="a-buffer.md", entry=entry, text="ask twice")
    network.share()
    assert network["desk"].text("a-buffer.md") == "# A\n\n- deploy on monday\n- ask twice\n"
    assert "read the document again" in agent.refused("write", document="a-buffer.md", entry=entry, text="x")["hint"]
    assert agent("read", document="a-buffer.md", entry=now["entry"])["tags"] == ["by-agent"]
    agent("write", document="a-buffer.md", entry=now["entry"], text="")
    network.share()
    assert network["desk"].text("a-buffer.md") == "# A\n\n- deploy on monday\n"


def test_two_who_replace_one_entry_on_two_clones_leave_a_conflict_and_not_a_loss(network, agent):
    entry = agent("search", query="ask first")["hits"][0]["entry"]
    agent("write", document="a-buffer.md", entry=entry, text="ask twice")
    Agent(network, "desk")("write", document="a-buffer.md", entry=entry, text="ask thrice")
    network.sync_all()
    [conflict] = agent("conflicts")["conflicts"]
    assert sorted(version["text"] for version in conflict["versions"]) == ["- ask thrice", "- ask twice"]
    assert sorted(version["clone"] for version in conflict["versions"]) == ["desk", "laptop"]


def test_a_log_only_grows(network, agent):
    text = network["laptop"].text("SESSION_LOG.md")
    version = agent.version("SESSION_LOG.md")
    agent.refused("write", document="SESSION_LOG.md", text="- another\n", version=version)
    entry = agent("search", query="begun")["hits"][0]["entry"]
    agent.refused("write", document="SESSION_LOG.md", entry=entry, text="another")
    assert network["laptop"].text("SESSION_LOG.md") == text
    agent("write", document="SESSION_LOG.md", text=text + "- gone on\n", version=version)
    assert network["laptop"].text("SESSION_LOG.md") == text + "- gone on\n"


def test_what_looks_like_an_accident_is_refused_and_nothing_held(network, agent):
    clone = network["laptop"]
    add(clone, "a-buffer.md", *(f"- lesson {n}" for n in range(40)))
    text, version = clone.text("a-buffer.md"), agent.version("a-buffer.md")
    for new in ("# A\n", "", "  \n", "<<<<<<< a\n=======\n>>>>>>> b\n" + text, "x" * 1_000_000):
        agent.refused("write", document="a-buffer.md", text=new, version=version)
    agent.refused("write", document="replica.toml", text="[limits]\n")
    network.run("laptop")
    assert clone.text("a-buffer.md") == text and not network.bridge("laptop").held()


def test_what_cannot_be_brought_to_its_file_is_stored_and_said(network):
    def fails(clone, path):
        raise StoreError("the disk is away")

    agent = Agent(network, "laptop")
    agent.desk = agent.desk._replace(publish=fails)
    assert "the disk is away" in agent("append", document="a-buffer.md", text="x")["note"]
    assert network["laptop"].entries("a-buffer.md")[-1].text == "- x"


# --- what stays here, and what must not get out


def test_level_0_is_read_here_marked_and_stays_here(network, agent):
    agent("append", document="a-buffer.md", text="between us", private=True)
    row = agent("read", document="a-buffer.md")["entries"][-1]
    assert row["private"] and "private" in agent.text
    assert agent("search", query="between us")["hits"][0]["private"]
    agent("write", document="a-buffer.md", entry=row["entry"], text="between us two")
    text = network["laptop"].text("a-buffer.md")
    agent("write", document="a-buffer.md", text=text + "- for all\n", version=agent.version("a-buffer.md"))
    network.share()
    assert "between us two" in network["laptop"].text("a-buffer.md")
    assert network["desk"].text("a-buffer.md") == "# A\n\n- deploy on monday\n- ask first\n- for all\n"


def test_rules_that_were_just_saved_hold_for_what_is_written_next(network, agent):
    save(network["laptop"], "replica.toml", '[[documents]]\nglob = "**/*.md"\npolicy = "union"\nlevel = 0\n')
    agent("append", document="own-buffer.md", text="mine alone")
    network.sync_all()
    assert "own-buffer.md" in [document.path for document in network["laptop"].documents.all()]
    assert "own-buffer.md" not in [document.path for document in network["desk"].documents.all()]


lines = st.lists(st.sampled_from(["- a", "- b", "- c", "# H", "", "prose", "  more", "- a b c"]), max_size=8)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["w-buffer.md", "activeContext.md", "notes/w.md"]), lines)
def test_what_is_written_as_a_whole_is_what_is_read(garbage, document, new):
    agent, _ = garbage
    known = tools.call(agent.desk, "memory_read", {"document": document, "whole": True})
    version = None if known.failed else known.data["version"]
    text = "\n".join(new) + "\n"
    answer = tools.call(agent.desk, "memory_write", {"document": document, "text": text, "version": version})
    if not text.strip():
        assert answer.failed
        return
    assert not answer.failed, answer.text
    read = tools.call(agent.desk, "memory_read", {"document": document, "whole": True}).data
    assert read["version"] == answer.data["version"]
    # Of a document of entries the blank lines between them are its own.
    shown = [line for line in read["text"].split("\n") if line.strip() or document == "notes/w.md"]
    assert shown == [line for line in text.split("\n") if line.strip() or document == "notes/w.md"]


@pytest.fixture
def detector(monkeypatch):
    """Stands for the detector of secrets: HUSH is one."""
    module = types.ModuleType("replica.sessions.secrets")
    module.redact = lambda text: (text.replace("HUSH", "[REDACTED]"), Counter(hush=text.count("HUSH")))
    monkeypatch.setitem(sys.modules, "replica.sessions.secrets", module)


def test_secrets_are_replaced_before_anything_is_stored(network, agent, detector):
    assert agent("append", document="a-buffer.md", text="the key is HUSH")["redacted"] == 1
    assert network["laptop"].entries("a-buffer.md")[-1].text == "- the key is [REDACTED]"
    assert "HUSH" not in agent.text and "1 that looked like" in agent.text
    entry = agent("search", query="ask first")["hits"][0]["entry"]
    assert agent("write", document="a-buffer.md", entry=entry, text="HUSH HUSH")["redacted"] == 2


def test_what_the_detector_of_session_logs_knows_is_no_memory_either(network, agent):
    token = "ghp_" + "a1B2" * 9
    assert agent("append", document="a-buffer.md", text=f"push with {token}")["redacted"] == 1
    agent("write", document="notes/key.md", text=f"# Key\n\n{token}\n")
    assert not any(token in network["laptop"].text(path) for path in ("a-buffer.md", "notes/key.md"))


def test_only_what_is_new_in_a_document_is_searched_for_secrets(network, agent, detector):
    save(network["laptop"], "notes/x.md", "an example: HUSH\nend\n")
    version = agent.version("notes/x.md")
    done = agent("write", document="notes/x.md", text="an example: HUSH\nnew: HUSH\nend\n", version=version)
    assert done["redacted"] == 1
    assert network["laptop"].text("notes/x.md") == "an example: HUSH\nnew: [REDACTED]\nend\n"


def test_memory_cannot_leave_its_quotation_nor_hide_and_is_written_back_as_it_was(network, agent):
    hidden = "".join(chr(0xE0000 + ord(char)) for char in "obey")
    save(network["laptop"], "notes/x.md", f"first\n\x1b[31mred\u202e{hidden}\nlast\n")
    data = agent("read", document="notes/x.md")
    assert hidden not in agent.text + data["text"] and "\x1b" not in agent.text + data["text"]
    _, _, quotation = agent.text.partition("\n>")
    assert all(line.startswith(">") for line in (">" + quotation).rstrip("\n").split("\n"))
    agent("write", document="notes/x.md", text=data["text"] + "more\n", version=data["version"])
    assert network["laptop"].text("notes/x.md") == f"first\n\x1b[31mred\u202e{hidden}\nlast\nmore\n"


# --- the past, conflicts, status


def test_history_says_who_and_shows_a_document_as_it_was(network, agent):
    then = network.now
    network.now += 60_000
    agent("append", document="a-buffer.md", text="later")
    changes = agent("history", document="a-buffer.md")["changes"]
    assert (changes[0]["clone"], changes[0]["what"]) == ("laptop", "+1 entry")
    assert len(agent("history", limit=1)["changes"]) == 1 and "next_offset" in agent("history", limit=1)
    was = agent("history", document="a-buffer.md", at=iso(then << 16))
    assert was["text"] == "# A\n\n- deploy on monday\n- ask first\n"
    agent.refused("history", at="yesterday")
    agent.refused("history", document="a-buffer.md", at="no time")


def test_a_conflict_is_shown_with_its_versions_and_settled_for_all(network, agent):
    save(network["laptop"], "activeContext.md", "laptop's\n")
    save(network["desk"], "activeContext.md", "desk's\n")
    network.share()
    [conflict] = agent("conflicts")["conflicts"]
    assert {version["clone"]: version["text"] for version in conflict["versions"]} == {
        "laptop": "laptop's", "desk": "desk's",
    }  # fmt: skip
    assert agent("read", document="activeContext.md")["conflicts"] == 1
    assert agent("conflicts", id=conflict["id"][:6])["conflicts"] == [conflict]
    keep = next(version["version"] for version in conflict["versions"] if version["clone"] == "desk")
    agent.refused("resolve", id=conflict["id"])
    agent.refused("resolve", id=conflict["id"], keep="v9")
    assert agent("resolve", id=conflict["id"], keep=keep)["left"] == 0
    agent.refused("resolve", id=conflict["id"], keep=keep)
    network.share()
    assert read(network["laptop"], "activeContext.md") == read(network["desk"], "activeContext.md") == "desk's\n"


def test_a_conflict_is_settled_by_a_text(network, agent):
    save(network["laptop"], "activeContext.md", "laptop's\n")
    save(network["desk"], "activeContext.md", "desk's\n")
    network.share()
    agent("resolve", id=agent("conflicts")["conflicts"][0]["id"], text="both\n")
    network.share()
    assert network["desk"].text("activeContext.md") == "both\n"


def test_a_status_says_what_waits(network, agent):
    add(network["laptop"], "a-buffer.md", "- not there yet")
    found = agent("status")
    assert (found["clone"], found["workspace"], found["node"]) == ("laptop", "team", "stopped")
    assert found["peers"][0]["name"] == "desk" and found["peers"][0]["behind"] >= 1


def test_a_clone_that_has_a_new_identity_is_met_as_it_is(network, agent):
    agent("append", document="a-buffer.md", text="before")
    with network.open_again("laptop") as clone:
        copies.part(clone, certificate)
    agent("append", document="a-buffer.md", text="after")
    with network.open_again("laptop") as clone:
        assert clone.entries("a-buffer.md")[-1].author == clone.identity.id
    assert agent("status")["clone"] == "laptop-copy"


# --- bounds


@pytest.mark.parametrize("most", [LEAST, 8_000, MOST])
def test_no_answer_is_longer_than_was_asked_for_and_all_of_it_can_be_had(network, agent, most):
    clone = network["laptop"]
    lines = [f'line {n} \N{SNOWMAN} \\ " \t deploy' + "\n" * (n % 5) for n in range(1_200)]
    save(clone, "notes/big.md", "\n".join(lines) + "\n")
    add(clone, "b-buffer.md", *(f"- deploy {n} {'word ' * (n % 300)}" for n in range(150)))
    for path in ("notes/big.md", "b-buffer.md"):
        whole, offset = "", 0
        while offset is not None:
            data = agent("read", document=path, whole=True, offset=offset, max_chars=most)
            assert len(agent.text) <= most and len(json.dumps(data, ensure_ascii=False)) <= most
            whole, offset = whole + data["text"], data.get("next_offset")
        assert whole == clone.text(path)
    entries, offset = [], 0
    while offset is not None:
        data = agent("read", document="b-buffer.md", offset=offset, max_chars=most)
        assert len(agent.text) <= most and len(json.dumps(data, ensure_ascii=False)) <= most
        entries, offset = entries + [row["entry"] for row in data["entries"]], data.get("next_offset")
    assert entries == [entry.id.hex()[:12] for entry in clone.entries("b-buffer.md")]
    for tool, more in (("search", {"query": "deploy", "limit": 50}), ("list", {}), ("history", {"limit": 200}),
                       ("conflicts", {}), ("status", {})):  # fmt: skip
        data = agent(tool, max_chars=most, **more)
        assert len(agent.text) <= most and len(json.dumps(data, ensure_ascii=False)) <= most


def test_the_longest_conflict_fits_as_well(network, agent):
    for name in ("laptop", "desk"):
        save(network[name], "activeContext.md", f"{'same ' * 5_000}\n{name} {'word ' * 5_000}\n")
    network.share()
    for which in ({}, {"id": agent("conflicts")["conflicts"][0]["id"]}):
        data = agent("conflicts", max_chars=LEAST, **which)
        assert len(agent.text) <= LEAST and len(json.dumps(data)) <= LEAST
        assert {version["text"].split()[0] for version in data["conflicts"][0]["versions"]} == {"laptop", "desk"}


# --- whatever comes

words = st.text(max_size=20) | st.sampled_from(
    ["a-buffer.md", "notes/x.md", "SESSION_LOG.md", "deploy", "../x", "\ud800", "v1", "yesterday", "", "0" * 32]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
argument_names = sorted({name for tool in TOOLS for name in tool.arguments})
arguments = anything | st.dictionaries(st.sampled_from(argument_names) | words, anything, max_size=6)


@pytest.fixture(scope="module")
def garbage():
    with Network("laptop") as network:
        save(network["laptop"], "a-buffer.md", "- deploy\n")
        save(network["laptop"], "notes/x.md", "hello\n")
        network.run("laptop")
        yield Agent(network, "laptop"), Bridge(network["laptop"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(NAMES), arguments)
def test_whatever_comes_is_answered(garbage, name, arguments):
    agent, _ = garbage
    answer = tools.call(agent.desk, name, arguments)
    assert "unforeseen" not in answer.text
    assert len(answer.text) <= MOST and answer.text.encode() and json.dumps(answer.data).encode()
    assert answer.failed == ("error" in answer.data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_arguments_of_the_right_types_are_answered(garbage, data):
    agent, _ = garbage
    tool = BY_NAME[data.draw(st.sampled_from(NAMES))]
    given = data.draw(
        st.fixed_dictionaries(
            {name: _fitting(tool.arguments[name]) for name in tool.required},
            optional={name: _fitting(schema) for name, schema in tool.arguments.items() if name not in tool.required},
        )
    )
    answer = tools.call(agent.desk, tool.name, given)
    assert "unforeseen" not in answer.text, (answer.text, given)
    assert len(answer.text) <= given.get("max_chars", 8_000)


def _fitting(schema):
    if schema["type"] == "string":
        return words.filter(lambda text: schema["minLength"] <= len(text) <= schema["maxLength"]) | st.text(
            "ab\n- #>\x00\u202e", min_size=schema["minLength"], max_size=min(60, schema["maxLength"])
        )
    if schema["type"] == "integer":
        return st.integers(schema["minimum"], schema["maximum"]) | st.integers(
            max(schema["minimum"], -3), max(schema["minimum"], 3)
        )
    return st.booleans() if schema["type"] == "boolean" else st.lists(words, max_size=3)
