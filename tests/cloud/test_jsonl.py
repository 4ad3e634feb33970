"""The sink `jsonl`."""

import json
from uuid import UUID

import pytest

from replica.cloud.base import Settings, SinkError
from replica.cloud.sinks.jsonl import Jsonl
from tests.cloud.acceptance import WORKSPACE, Contract, Place, item, stored


def settings(folder, **values) -> Settings:
    return Settings("file", values, folder, folder / ".replica", WORKSPACE, "team")


class TestJsonl(Contract):
    @pytest.fixture
    def place(self, tmp_path):
        path = tmp_path / "out" / "memory.jsonl"

        def texts():
            lines = path.read_text("utf-8").splitlines() if path.exists() else []
            return {UUID(line["id"]): line["text"] for line in map(json.loads, lines)}

        return Place(lambda: Jsonl(settings(tmp_path, path="out/memory.jsonl")), texts)


def test_equal_items_give_equal_files_in_any_order(tmp_path):
    one, other = Jsonl(settings(tmp_path, path="one")), Jsonl(settings(tmp_path, path="other"))
    stored(one, item("a"), item("b"), item("c"))
    stored(other, item("c"))
    stored(other, item("b"), item("a"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    ids = [json.loads(line)["id"] for line in (tmp_path / "one").read_text().splitlines()]
    assert ids == sorted(ids)


def test_a_file_that_is_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "notes").write_text("my notes\n")
    sink = Jsonl(settings(tmp_path, path="notes"))
    for work in (sink.test, lambda: sink.store([])):
        with pytest.raises(SinkError, match="not a file of exported items"):
            work()
    assert (tmp_path / "notes").read_text() == "my notes\n"
