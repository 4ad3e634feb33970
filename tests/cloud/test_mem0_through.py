"""Mem0's sinks under the commands: export, edits on both sides, a move, a deletion, and back."""

import json

import pytest

from tests.cloud.fakes.mem0 import FakeMem0
from tests.cloud.fakes.mem0_server import FakeMem0Server
from tests.cloud.fakes.openmemory import FakeOpenMemory
from tests.test_cli_memory import HERE, fresh, replica  # noqa: F401 - fixtures

# ruff: noqa: F811


def mem0_texts(fake):
    return sorted(row["memory"] for row in fake.rows.values())


def server_texts(fake):
    return sorted(row["data"] for row in fake.rows.values())


def local_texts(fake):
    return sorted(fake.texts().values())


KINDS = {
    "mem0": (FakeMem0, mem0_texts, lambda fake, text: fake.put(text, user_id="best-practices"), []),
    "mem0-server": (FakeMem0Server, server_texts, lambda fake, text: fake.put(text, user_id="best-practices"), []),
    "openmemory": (FakeOpenMemory, local_texts, lambda fake, text: fake.put(text), ["--set", "user_id=alice"]),
}


@pytest.fixture(params=KINDS)
def cloud(request, replica, monkeypatch):
    make, texts, foreign, more = KINDS[request.param]
    with make() as fake:
        monkeypatch.setenv("MEM0_API_KEY", "test-key")
        monkeypatch.setenv("MEM0_SERVER_API_KEY", "test-key")
        replica("sinks", "add", "cloud", "--type", request.param, "--set", f"url={fake.url}", *more)
        yield replica, fake, lambda: texts(fake), lambda text: foreign(fake, text)


def export(replica, **counts):
    (sink,) = replica.json("export")["sinks"]
    assert sink["failures"] == [] and {name: sink[name] for name in counts} == counts
    return sink


def test_there_and_back(cloud):
    replica, _, texts, foreign = cloud
    replica("add", "a-buffer.md", "told here")
    stored = export(replica, new=6)
    before = texts()
    assert len(before) == 6 and "told here" in json.dumps(before)
    export(replica, new=0, unchanged=6)
    foreign("told over there")
    replica("pull")
    assert "told over there" in replica("search", "over there")
    export(replica, new=0, unchanged=7)
    replica("pull")
    assert texts() == sorted([*before, "told over there"])
    assert all(item["remote_id"] for item in stored["items"])


def test_another_type_and_a_deletion(cloud):
    replica, _, texts, _ = cloud
    replica("add", "a-buffer.md", "decision: use one queue")
    export(replica, new=6)
    before = texts()
    (sink,) = replica.json("export", "--type", "guideline", "--force")["sinks"]
    assert sink["failures"] == [] and texts() == before
    assert {item["type"] for item in sink["items"]} == {"guideline"} and len(sink["items"]) == 6
    export(replica, unchanged=6)
    text = replica.read("a-buffer.md")
    replica.save("a-buffer.md", "".join(f"{line}\n" for line in text.splitlines() if "one queue" not in line))
    replica("sync")
    export(replica, deleted=1)
    assert len(texts()) == 5 and "one queue" not in json.dumps(texts())
