"""The commands of cloud memory, as a person or a script uses them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from random import Random

import pytest

from replica.disk import alone
from tests.test_cli_memory import HERE, fresh, replica  # noqa: F401 - fixtures

# ruff: noqa: F811


@pytest.fixture
def filed(replica):
    """A clone with a sink that is a file."""
    replica("sinks", "add", "file", "--type", "jsonl", "--set", "path=out.jsonl")
    return replica


def lines(terminal) -> list[dict]:
    return [json.loads(line) for line in terminal.read("out.jsonl").splitlines()]


def test_a_dry_run_says_what_would_go_and_does_nothing(filed):
    said = filed.json("export", "--dry-run")
    (sink,) = said["sinks"]
    assert (sink["new"], sink["unchanged"], said["dry_run"]) == (5, 0, True)
    assert {item["action"] for item in sink["items"]} == {"new"}
    assert not (filed.root / "out.jsonl").exists()
    assert filed.json("export")["sinks"][0]["new"] == 5


def test_export_stores_each_item_once_and_reports_it(filed):
    said = filed.json("export")
    assert {"sinks", "version", "converged", "next_sync"} <= set(said) and said["converged"] is True
    (sink,) = said["sinks"]
    assert {
        "name", "type", "new", "modified", "unchanged", "skipped", "failed", "deleted", "items", "skips", "failures",
        "layers", "capacity", "checkpoint",
    } <= set(sink)  # fmt: skip
    assert all({"id", "hash", "type", "tags", "preview", "remote_id", "action"} <= set(item) for item in sink["items"])
    assert sink["capacity"] == {"items": 5, "limit": "unknown", "percent": "unknown", "warning": None}
    assert sink["layers"][0]["kind"] == "file"
    assert sink["checkpoint"]["before"] is None and sink["checkpoint"]["after"]["items"] == 5
    assert [line["id"] for line in lines(filed)] == sorted(line["id"] for line in lines(filed))
    fields = ["id", "text", "hash", "type", "tags", "level", "document", "author", "time", "revision"]
    assert all(list(line) == fields for line in lines(filed))
    again = filed.json("export")["sinks"][0]
    assert (again["new"], again["unchanged"], again["checkpoint"]["before"]) == (0, 5, sink["checkpoint"]["after"])


def test_what_is_level_0_is_in_no_file_and_no_report(filed):
    filed("add", "a-buffer.md", "the secret", "--level", "0")
    assert "secret" not in filed("export", "--json")
    assert "secret" not in filed.read("out.jsonl")
    filed("export")
    assert "secret" not in filed.out + filed.err


def test_level_2_alone_where_a_sink_wants_it(replica):
    replica("sinks", "add", "file", "--type", "jsonl", "--set", "path=out.jsonl", "--set", "level=2")
    replica("add", "a-buffer.md", "for the cloud", "--level", "2")
    (sink,) = replica.json("export")["sinks"]
    assert [item["preview"] for item in sink["items"]] == ["for the cloud"]
    assert all("level 1" in skip["reason"] for skip in sink["skips"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--scope", "../x"], "glob"),
        (["export", "--type", ""], "type or tag"),
        (["export", "--limit", "0"], "limit"),
        (["sinks", "add", "x", "--type", "reddis"], "no type of sink"),
        (["sinks", "add", "x", "--type", "jsonl", "--set", "path"], "no setting"),
        (["pull", "file"], "cannot be read back"),
    ],
)
def test_wrong_usage_says_what_is_right(filed, arguments, words):
    filed(*arguments, code=2)
    assert words in filed.err


def test_a_sink_that_is_not_there_is_named(filed):
    filed("export", "files", code=1)
    assert "no sink 'files'" in filed.err and "there are file" in filed.err


def test_keys_do_not_go_into_replica_toml(replica):
    replica("sinks", "add", "team", "--type", "jsonl", "--set", "path=x", "--set", "api_key=sk-secret-1", code=1)
    assert "sk-secret-1" not in replica.err and "sk-secret-1" not in replica.read("replica.toml")


def test_sinks_are_listed_tested_and_removed(filed):
    assert [sink["name"] for sink in filed.json("sinks")["sinks"]] == ["file"]
    assert "0 items" in filed("sinks", "test", "file")
    filed("export")
    filed("sinks", "remove", "file")
    assert filed.json("sinks")["sinks"][0]["default"] is True
    assert len(lines(filed)) == 5  # what was stored there stays


def test_a_sink_out_of_reach_is_a_failure_with_a_way_out(replica):
    (replica.root / "blocked").write_text("a file, where a folder should be")
    replica("sinks", "add", "file", "--type", "jsonl", "--set", "path=blocked/out.jsonl")
    replica("export", code=1)
    assert "hint" in replica.err and "wait" in replica.err
    (replica.root / "blocked").unlink()
    assert replica.json("export")["sinks"][0]["new"] == 5


def test_a_sink_that_fails_is_no_other_ones_trouble(filed):
    filed.save("replica.toml", filed.read("replica.toml") + '[sinks.a-team]\ntype = "mem0"\nkey_env = "NOT_THERE"\n')
    filed("export", code=1)
    assert "set NOT_THERE, then: replica sinks test a-team" in filed.err and len(lines(filed)) == 5


def test_a_scope_that_fits_nothing_is_told_with_the_one_that_was_meant(filed):
    filed("export", "--dry-run", "--scope", "insight", "--exclude", "activeContext.mdd")
    assert "'insight' fits no document; did you mean 'insights'?" in filed.err and "--exclude" in filed.err
    filed("export", "--dry-run", "--scope", "*.md", "--exclude", "decision")
    assert "fits no document" not in filed.err


def test_an_answer_of_an_unknown_shape_is_no_other_sinks_trouble(filed, monkeypatch):
    from replica.cloud.sinks.jsonl import Jsonl

    store = Jsonl.store
    monkeypatch.setattr(
        Jsonl, "store", lambda sink, batch: {}["id"] if sink.settings.name == "a" else store(sink, batch)
    )
    monkeypatch.setattr("replica.cloud.export.PAUSES", ())
    filed("sinks", "add", "a", "--type", "jsonl", "--set", "path=a.jsonl")
    filed("export", code=1)
    assert "was not understood (KeyError: 'id')" in filed.err and len(lines(filed)) == 5


def test_the_status_says_what_waits_each_way(filed):
    filed("export")
    filed("add", "a-buffer.md", "three")
    (row,) = filed.json("cloud", "--status")["sinks"]
    assert row["stored"] == 5 and row["out"] == {"new": 1, "modified": 0, "deleted": 0}
    assert row["last_export"] and row["last_pull"] is None
    filed("cloud", "--status")


def test_one_export_at_a_time(filed):
    fcntl = pytest.importorskip("fcntl")
    with open(filed.root / ".replica" / "cloud.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        filed("export", code=1)
    assert "another command" in filed.err
    filed("export")


ITEMS, KILLS = 2_000, 12


def test_an_export_that_is_killed_anywhere_goes_on_without_a_copy(filed):
    """Real processes; `make test-sinks` does it 50 times with 5,000 items."""
    items = int(os.environ.get("REPLICA_EXPORT_ITEMS", ITEMS))
    kills = int(os.environ.get("REPLICA_EXPORT_KILLS", KILLS))
    filed.save("many-buffer.md", "".join(f"- lesson number {n} of the many\n" for n in range(items)))
    filed("ls")
    filed("sync")
    random = Random(7)
    program = (
        "import sys; from replica.cloud.sinks.jsonl import Jsonl; Jsonl.batch = 100;"
        " from cli.main import main; sys.exit(main(['export', '--json']))"
    )
    environment = {**os.environ, "PYTHONPATH": HERE}
    killed = 0
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=filed.root, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(random.uniform(0.15, 0.9))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    filed("export")
    count = Counter(line["text"] for line in lines(filed) if line["document"] == "many-buffer.md")
    assert len(count) == items and set(count.values()) == {1}
    assert killed


def test_two_clones_on_one_machine_write_the_same_file(filed, tmp_path):
    filed("export")
    first = (filed.root / "out.jsonl").read_bytes()
    for file in (filed.root / ".replica").glob("cloud.db*"):
        file.unlink()
    (filed.root / "out.jsonl").unlink()
    filed("export")
    assert (filed.root / "out.jsonl").read_bytes() == first


def test_a_part_of_it_is_no_checkpoint(filed):
    (sink,) = filed.json("export", "--scope", "decisions")["sinks"]
    assert sink["checkpoint"]["after"] is None and filed.json("export")["sinks"][0]["checkpoint"]["after"]


def test_the_status_is_told_while_another_process_exports(filed):
    filed("export")
    with alone(filed.root / ".replica" / "cloud.lock") as ours:
        assert ours
        assert filed.json("cloud", "--status")["sinks"][0]["stored"] == 5
        assert filed.json("sinks", "add", "more", "--type", "jsonl", "--set", "path=more.jsonl")["name"] == "more"
        filed("export", code=1)
        assert "another command" in filed.err


def test_a_pull_without_anything_to_pull_from_says_so(filed):
    filed("pull")
    assert "no sink can be read back" in filed.err


def test_the_report_for_people_has_what_a_script_gets(filed):
    filed("export")
    assert "holds 5 items of unknown" in filed.out and "(before: none)" in filed.out
