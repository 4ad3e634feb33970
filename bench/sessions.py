"""Session logs: how fast each format is read (in processor time), and in how much memory."""

import json
import random
import resource
import sqlite3
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from bench.harness import SEED, environment, say, sentence
from replica.sessions.base import Damage, Event, Progress
from replica.sessions.discover import discover, read

TOTAL, PART = 158_000_000, 4_000_000  # bytes of all formats together; of one log
SPEED, MEMORY = 40, 150  # MB/s on one core; MB resident


def run(place: Path) -> None:
    print(f"  input: {TOTAL / 1e6:.0f} MB in logs of about {PART / 1e6:.0f} MB, a quarter each format;")
    print(
        "  prompts and replies of some 100 to 900 bytes, results of tools of up to 60 kB, attachments, one 500 kB line"
    )
    kinds: dict[str, Callable[[random.Random, int], Iterator[dict]]] = {
        "claude-code": claude_code, "openclaw": openclaw, "codex": codex, "openclaw-sqlite": openclaw,
    }  # fmt: skip
    for name, records in kinds.items():
        write(place / name, name, records, TOTAL // len(kinds))
    for name in kinds:
        one = measured(place / name)
        rate = one["bytes"] / 1e6 / one["seconds"]
        say(f"{name}: {one['bytes'] / 1e6:.0f} MB", f"{rate:.0f} MB/s of one core", f"≥ {SPEED} MB/s", rate >= SPEED)
    whole = measured(place)
    rate, memory = whole["bytes"] / 1e6 / whole["seconds"], whole["memory"] / 1e6
    say(f"all: {whole['bytes'] / 1e6:.0f} MB", f"{rate:.0f} MB/s of one core", f"≥ {SPEED} MB/s", rate >= SPEED)
    say("all: memory, at most", f"{memory:.0f} MB", f"≤ {MEMORY} MB", memory <= MEMORY)
    say("all: events", f"{whole['events']:,} of {whole['logs']} logs, {whole['damaged']} damaged parts")


def measured(folder: Path) -> dict:
    """In a process of its own, so that its memory is that of the reading."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.sessions", str(folder)], env=environment(), check=True, capture_output=True
    )
    return json.loads(done.stdout)


def child(folder: Path) -> dict:
    logs = discover(None, folder)
    events = damaged = 0
    began = time.process_time()
    for log in logs:
        for one in read(log):
            events += isinstance(one, Event)
            damaged += isinstance(one, Damage)
            assert isinstance(one, Event | Damage | Progress)
    return {
        "logs": len(logs), "bytes": sum(log.size for log in logs), "events": events, "damaged": damaged,
        "seconds": time.process_time() - began, "memory": peak(),
    }  # fmt: skip


def peak() -> int:
    """Bytes. What getrusage says includes, on Linux, the process that this one was made from."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- what is read


def write(folder: Path, name: str, records: Callable[[random.Random, int], Iterator[dict]], size: int) -> None:
    folder.mkdir(parents=True)
    chance = random.Random(f"{SEED} {name}")
    parts = max(1, round(size / PART))
    if name == "openclaw-sqlite":
        store(folder / "openclaw-agent.sqlite", [list(records(chance, PART)) for _ in range(parts)])
        return
    for part in range(parts):
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            for record in records(chance, PART):
                file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")


def store(path: Path, sessions: list[list[dict]]) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute(
            "CREATE TABLE transcript_events(session_id TEXT NOT NULL, seq INTEGER NOT NULL, event_json TEXT,"
            " created_at INTEGER NOT NULL, event_zstd BLOB, PRIMARY KEY(session_id, seq))"
        )
        for records in sessions:
            rows = [(records[0]["id"], seq, json.dumps(one), 0, None) for seq, one in enumerate(records)]
            opened.executemany("INSERT INTO transcript_events VALUES(?, ?, ?, ?, ?)", rows)


class Pen:
    """Times, ids, and texts of sizes as they occur."""

    def __init__(self, chance: random.Random, size: int):
        self.chance = chance
        self.left = size
        self.now = datetime(2026, 4, 14, 8, tzinfo=UTC) + timedelta(days=chance.randrange(90))

    def time(self) -> str:
        self.now += timedelta(milliseconds=self.chance.randrange(50, 9_000))
        return self.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def name(self) -> str:
        return str(UUID(int=self.chance.getrandbits(128)))

    def words(self, least: int, most: int) -> str:
        return sentence(self.chance, self.chance.randrange(least, most))

    def code(self) -> str:
        """What a tool gave: mostly short, sometimes a whole file; one in some hundreds is very long."""
        lines = min(int(self.chance.paretovariate(0.9) * 8), 900) if self.chance.random() < 0.995 else 7_000
        some = [f"{number}\t    return {sentence(self.chance, 6)}  # {number:x}" for number in range(min(lines, 60))]
        return "\n".join(some[number % len(some)] for number in range(lines))

    def blob(self, size: int) -> str:
        return "".join(self.chance.choices(string.ascii_letters + string.digits, k=min(size, 256))) * (size // 256 + 1)

    def sized(self, record: dict) -> dict:
        self.left -= len(json.dumps(record))
        return record


def claude_code(chance: random.Random, size: int) -> Iterator[dict]:
    pen = Pen(chance, size)
    session, last, model = pen.name(), None, "claude-opus-4-6"

    def chained(kind: str, **more: object) -> dict:
        nonlocal last
        made = {"parentUuid": last, "isSidechain": False, **more, "type": kind, "uuid": pen.name()}
        last = made["uuid"]
        about = {
            "userType": "external", "entrypoint": "cli", "cwd": "/home/mira/work/saltmarsh", "sessionId": session,
            "version": "2.1.329", "gitBranch": "main",
        }  # fmt: skip
        return pen.sized({**made, "timestamp": pen.time(), **about})

    def said(message: str, block: dict) -> dict:
        usage = {
            "input_tokens": 12,
            "output_tokens": 240,
            "cache_read_input_tokens": 51_000,
            "service_tier": "standard",
        }
        return chained("assistant", message={
            "id": message, "type": "message", "role": "assistant", "model": model, "content": [block],
            "stop_reason": "tool_use", "usage": usage,
        })  # fmt: skip

    yield chained("attachment", attachment={"type": "prompt_snapshot", "content": pen.words(9_000, 9_001)})
    while pen.left > 0:
        yield chained("attachment", attachment={"type": "file", "content": pen.code()})
        yield chained("user", message={"role": "user", "content": pen.words(10, 120)}, permissionMode="default")
        yield pen.sized({"type": "file-history-snapshot", "messageId": last, "snapshot": {"text": pen.words(50, 300)}})
        for _ in range(chance.randrange(1, 9)):
            message, call = f"msg_{pen.name()}", f"toolu_{pen.name()}"
            yield said(message, {"type": "thinking", "thinking": pen.words(5, 90), "signature": pen.blob(900)})
            yield said(message, {"type": "text", "text": pen.words(10, 130)})
            asked = {"command": pen.words(4, 12)} if chance.random() < 0.5 else {"file_path": "/home/mira/work/a.py"}
            name = "Bash" if "command" in asked else "Read"
            yield said(message, {"type": "tool_use", "id": call, "name": name, "input": asked})
            given, failed = pen.code(), chance.random() < 0.05
            result = {"type": "tool_result", "tool_use_id": call, "content": given, "is_error": failed}
            yield chained("user", message={"role": "user", "content": [result]}, toolUseResult={"stdout": given})
            yield pen.sized({"type": "tools-used", "tools": [name], "sessionId": session})
        yield said(f"msg_{pen.name()}", {"type": "text", "text": pen.words(30, 180)})
        yield chained("system", subtype="turn_duration", durationMs=9_120, isMeta=False)


def openclaw(chance: random.Random, size: int) -> Iterator[dict]:
    pen = Pen(chance, size)
    last = None

    def entry(kind: str, **more: object) -> dict:
        nonlocal last
        made = {"type": kind, "id": pen.name()[:8], "parentId": last, "timestamp": pen.time(), **more}
        last = made["id"]
        return pen.sized(made)

    def said(*blocks: dict) -> dict:
        cost = {"input": 0.01, "output": 0.02, "cacheRead": 0, "cacheWrite": 0, "total": 0.03}
        usage = {"input": 1200, "output": 90, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 1290, "cost": cost}
        return entry("message", message={
            "role": "assistant", "content": list(blocks), "api": "anthropic-messages", "provider": "anthropic",
            "model": "claude-opus-4-6", "usage": usage, "stopReason": "toolUse", "timestamp": 1776148891140,
        })  # fmt: skip

    folder = "/home/mira/.openclaw/workspace"
    yield {"type": "session", "version": 3, "id": pen.name(), "timestamp": pen.time(), "cwd": folder}
    yield entry("model_change", provider="anthropic", modelId="claude-opus-4-6")
    while pen.left > 0:
        yield entry("custom", customType="openclaw:bootstrap-context:full", data={"text": pen.words(300, 900)})
        yield entry("message", message={"role": "user", "content": pen.words(10, 120), "timestamp": 1776148891140})
        for _ in range(chance.randrange(1, 9)):
            call = f"toolu_{pen.name()}"
            thought = {"type": "thinking", "thinking": pen.words(5, 90), "thinkingSignature": pen.blob(900)}
            asked = {"type": "toolCall", "id": call, "name": "exec", "arguments": {"command": pen.words(4, 12)}}
            yield said(thought, {"type": "text", "text": pen.words(10, 130)}, asked)
            given = [{"type": "text", "text": pen.code()}]
            yield entry("message", message={
                "role": "toolResult", "toolCallId": call, "toolName": "exec", "content": given,
                "isError": chance.random() < 0.05, "timestamp": 1776148891140,
            })  # fmt: skip
        yield said({"type": "text", "text": pen.words(30, 180)})


def codex(chance: random.Random, size: int) -> Iterator[dict]:
    pen = Pen(chance, size)
    number = 0

    def line(kind: str, **payload: object) -> dict:
        nonlocal number
        number += 1
        return pen.sized({"timestamp": pen.time(), "ordinal": number, "type": kind, "payload": payload})

    def message(role: str, kind: str, words: str) -> dict:
        content = [{"type": kind, "text": words}]
        return line("response_item", type="message", id=f"msg_{pen.name()}", role=role, content=content)

    def event(item: dict) -> dict:
        return line("event_msg", type="item_completed", thread_id=pen.name(), item=item)

    folder = "/home/mira/work/saltmarsh"
    yield line("session_meta", id=pen.name(), cwd=folder, base_instructions={"text": pen.words(2_000, 2_001)})
    while pen.left > 0:
        yield line("turn_context", turn_id=pen.name(), cwd=folder, model="gpt-5.4-codex", effort="medium")
        yield line("world_state", full=True, state={"text": pen.words(20, 400)})
        words = pen.words(10, 120)
        yield message("user", "input_text", words)
        yield event({"type": "UserMessage", "content": [{"type": "text", "text": words}]})
        for _ in range(chance.randrange(1, 9)):
            yield line("response_item", type="reasoning", id="rs", summary=[], encrypted_content=pen.blob(2_500))
            call, asked = f"call_{pen.name()}", json.dumps({"cmd": pen.words(4, 12)})
            yield line("response_item", type="function_call", name="exec_command", arguments=asked, call_id=call)
            given = f"Process exited with code {int(chance.random() < 0.05)}\nOutput:\n{pen.code()}"
            yield event({"type": "CommandExecution", "id": call, "aggregated_output": given})
            yield line("response_item", type="function_call_output", call_id=call, output=given)
            yield line("event_msg", type="token_count", info={"total_token_usage": {"input_tokens": 200}})
        words = pen.words(30, 180)
        yield message("assistant", "output_text", words)
        yield event({"type": "AgentMessage", "content": [{"type": "Text", "text": words}]})


if __name__ == "__main__":
    print(json.dumps(child(Path(sys.argv[1]))))
