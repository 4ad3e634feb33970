"""compare and backfill as a person or a script runs them, over the samples."""

import json
from pathlib import Path

import pytest

from replica.sessions.daily import FOOTER
from tests.test_cli_memory import Terminal, fresh  # noqa: F401 - fixtures

SAMPLES = Path(__file__).parent / "samples"
LOGS = ("--sessions-dir", str(SAMPLES / "openclaw" / "agents"), "--timezone", "Europe/Lisbon")
DAY = "memory/2026-04-14.md"


@pytest.fixture
def replica(fresh: Terminal, monkeypatch) -> Terminal:  # noqa: F811
    for name in ("2026-04-12.md", "2026-04-13.md"):
        fresh.save(f"memory/{name}", (SAMPLES / "openclaw/workspace/memory" / name).read_text())
    monkeypatch.setenv("HOME", str(fresh.root.parent / "home"))
    fresh("init", "--name", "laptop", "--workspace", "team")
    return fresh


def actions(answer: dict) -> dict[str, str]:
    return {day["date"]: day["action"] for day in answer["days"]}


def test_what_compare_calls_missing_backfill_writes(replica):
    before = replica.json("compare", *LOGS)
    assert [(day["date"], day["memory"], day["path"]) for day in before["days"]] == [
        ("2026-10-05", "missing", "memory/2026-10-05.md"),
        ("2026-04-15", "missing", "memory/2026-04-15.md"),
        ("2026-04-14", "missing", DAY),
        ("2026-04-13", "hand-written", "memory/2026-04-13.md"),
        ("2026-04-12", "complete", "memory/2026-04-12.md"),
    ]
    assert before["timezone"] == {"name": "Europe/Lisbon", "source": "--timezone"}
    done = replica.json("backfill", "--all", *LOGS)
    assert set(actions(done).values()) == {"created"} and len(done["days"]) == 3
    (day,) = [day for day in done["days"] if day["date"] == "2026-04-14"]
    assert day["redacted"] == 1 and day["models"] == ["claude-opus-4-6", "gpt-5.4", "gemini-3-pro"]
    text = replica.read(DAY)
    assert f"*Auto-generated from {day['messages']} session messages*" in text
    assert "sk-ant" not in text and "[REDACTED-" in text
    assert "deploys are frozen" not in text  # what a hook had injected
    after = replica.json("compare", *LOGS)
    assert {day["memory"] for day in after["days"] if day["messages"]} == {"complete"}
    assert [day["messages"] for day in after["days"]] == [9, 4, day["messages"], 0, 0]


def test_a_second_run_has_nothing_to_do_and_says_so(replica):
    replica("backfill", "--all", *LOGS)
    written = {path: path.read_bytes() for path in (replica.root / "memory").iterdir()}
    assert set(actions(replica.json("backfill", "--all", *LOGS)).values()) == {"unchanged"}
    replica("backfill", "--all", *LOGS)
    assert "nothing to do" in replica.err
    assert {path: path.read_bytes() for path in (replica.root / "memory").iterdir()} == written


def test_a_dry_run_shows_a_diff_and_changes_nothing(replica):
    shown = replica("backfill", "2026-04-14", "--dry-run", *LOGS)
    assert shown.startswith(f"--- /dev/null\n+++ {DAY}\n@@ -0,0 ")
    assert "+# 2026-04-14 (Tuesday)\n" in shown and "would be created" in replica.err
    assert not (replica.root / DAY).exists()
    told = replica.json("backfill", "2026-04-14", "--dry-run", *LOGS)
    assert told["dry_run"] and "+# 2026-04-14" in told["days"][0]["diff"]


@pytest.mark.parametrize("options", [("--preserve",), ("--force",), ("--preserve", "--force")])
def test_what_is_written_by_hand_stays_below_the_footer(replica, options):
    hand = "# My Tuesday\n\nCalled the harbour office. 🌊\n"
    replica.save(DAY, hand)
    assert "--preserve" in replica("backfill", "2026-04-14", *LOGS)
    assert replica.read(DAY) == hand
    replica("backfill", "2026-04-14", *LOGS, *options)
    assert replica.read(DAY).endswith(f"{FOOTER}\n\n{hand}")
    replica.save(DAY, replica.read(DAY) + "\nAnd more.\n")
    replica("backfill", "2026-04-14", *LOGS, *options, "--agent", "openclaw")
    assert replica.read(DAY).endswith(f"{FOOTER}\n\n{hand}\nAnd more.\n")


def test_the_zone_of_the_workspace_counts_and_is_said(replica):
    rules = replica.read("replica.toml")
    replica.save("replica.toml", rules + '\n[sessions]\ntimezone = "Europe/Lisbon"\n')
    assert replica.json("compare", *LOGS[:2])["timezone"] == {"name": "Europe/Lisbon", "source": "replica.toml"}
    replica("compare", *LOGS[:2])
    assert "days end at midnight in Europe/Lisbon (replica.toml)" in replica.err
    days = {day["date"]: day["messages"] for day in replica.json("compare", *LOGS[:2], "--timezone", "UTC")["days"]}
    assert days["2026-04-15"] == 2  # at 23:40Z and 00:12Z: one day in Lisbon, two in UTC


def test_only_sessions_of_this_project_are_taken_unless_all_are_asked_for(replica, monkeypatch):
    home = replica.root.parent / "home"
    place = home / ".codex/sessions/2026/04/14"
    place.mkdir(parents=True)
    for number, folder in enumerate((replica.root / "sub", "/somewhere/else")):
        log = next((SAMPLES / "codex/sessions/2026/04/14").glob("*.jsonl")).read_text()
        name = f"019d8bdc-da00-7c3e-8ef2-c5ce4c830be{number}"
        log = log.replace('"msg_', f'"msg_{number}')
        log = log.replace("019d8bdc-da00-7c3e-8ef2-c5ce4c830be6", name).replace(
            "/home/mira/work/saltmarsh", str(folder)
        )
        (place / f"rollout-2026-04-14T12-00-00-{name}.jsonl").write_text(log)
    monkeypatch.delenv("CODEX_HOME", raising=False)
    mine = replica.json("compare")
    assert [day["sessions"] for day in mine["days"] if day["messages"]] == [1] and mine["left_out"] == 1
    everything = replica.json("compare", "--everywhere")
    assert [day["sessions"] for day in everything["days"] if day["messages"]] == [2]
    assert actions(replica.json("backfill", "--since", "2026-04-01")) == {"2026-04-14": "created"}
    assert str(replica.root) not in replica.read(DAY)


def test_a_folder_that_is_no_clones_can_be_filled(fresh, tmp_path):  # noqa: F811
    days = tmp_path / "days"
    fresh("backfill", "--all", "--memory-dir", str(days), *LOGS)
    assert sorted(path.name for path in days.iterdir()) == ["2026-04-14.md", "2026-04-15.md", "2026-10-05.md"]
    found = fresh.json("compare", "--memory-dir", str(days), *LOGS)
    assert {day["memory"] for day in found["days"]} == {"complete"}
    assert all(Path(day["path"]).parent == days for day in found["days"])


def test_a_log_that_cannot_be_opened_is_listed(replica, tmp_path):
    (tmp_path / "round.jsonl").symlink_to("round.jsonl")  # whoever runs this, it cannot be opened
    (tmp_path / "gone.jsonl").symlink_to("nowhere.jsonl")
    (damage,) = replica.json("compare", "--sessions-dir", str(tmp_path))["damaged"]
    assert damage["file"].endswith("round.jsonl") and "cannot be read" in damage["reason"]
    replica("compare", "--sessions-dir", str(tmp_path))
    assert "round.jsonl: cannot be read: " in replica.err


def test_damaged_lines_are_listed_and_the_others_read(fresh, tmp_path):  # noqa: F811
    edge = ("--sessions-dir", str(SAMPLES / "openclaw/edge"), "--memory-dir", str(tmp_path / "days"))
    found = fresh.json("compare", *edge)
    lines = [one["line"] for one in found["damaged"] if one["file"].endswith("malformed-lines.jsonl")]
    assert (
        lines == json.loads((SAMPLES / "EXPECTED.json").read_text())["openclaw/edge/malformed-lines.jsonl"]["bad_lines"]
    )
    fresh("compare", *edge)
    assert "damaged:" in fresh.err and found["days"]


def test_a_place_that_no_rule_shares_is_said_with_the_rule_to_add(replica):
    replica.save("replica.toml", '[[documents]]\nglob = "notes/*.md"\npolicy = "text"\n')
    replica("backfill", "2026-04-14", *LOGS)
    assert 'glob = "memory/*.md"' in replica.err
    assert replica.read(DAY).startswith("# 2026-04-14")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "say which days"),
        (("2026-04-14", "--all"), "say which days"),
        (("2026-02-30",), "'2026-02-30' is no day"),
        (("--since", "last week"), "is no day"),
        (("--today", "--agent", "cursor"), "no agent 'cursor'"),
        (("--today", "--timezone", "Europe/Berln"), "no time zone"),
        (("--today", "--model", "x"), "--model"),
    ],
)
def test_wrong_usage_says_the_way_out(replica, arguments, what):
    replica("backfill", *arguments, code=2)
    assert what in replica.err and "hint:" in replica.err


def test_without_a_clone_and_a_folder_the_way_out_is_said(fresh):  # noqa: F811
    fresh("compare", code=1)
    assert "--memory-dir" in fresh.err


def test_a_memory_folder_that_is_a_file_is_told_before_anything_is_read(replica):
    replica.save("notes.txt", "mine")
    replica("backfill", "--all", "--memory-dir", str(replica.root / "notes.txt"), *LOGS, code=2)
    assert "is no folder" in replica.err


def test_what_is_not_shared_and_where_no_logs_are_is_told(replica, tmp_path):
    rules = replica.read("replica.toml")
    replica.save("replica.toml", rules.replace('exclude = ["', 'exclude = ["private/**", "'))
    replica("backfill", "2026-04-14", "--memory-dir", str(replica.root / "private"), *LOGS)
    assert "excludes private/YYYY-MM-DD.md" in replica.err and "to share it" not in replica.err
    empty = tmp_path / "empty"
    empty.mkdir()
    replica("compare", "--sessions-dir", str(empty))
    assert f"no session logs were found in {empty}" in replica.err
