"""Session logs into the index: how fast, secrets included, in how much memory; and redaction alone."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from bench import sessions
from bench.harness import SEED, environment, say, sentence
from replica.sessions.discover import discover
from replica.sessions.index import Index
from replica.sessions.secrets import redact

TOTAL = sessions.TOTAL
SPEED, MEMORY = 40, 150  # MB/s on one core; MB resident
AGAIN = 0.2  # seconds for logs that have not changed
MEASURED = 4_000_000  # characters for redaction


def run(place: Path) -> None:
    print(f"  input: the {TOTAL / 1e6:.0f} MB of the measurement `sessions`")
    kinds = {
        "claude-code": sessions.claude_code, "openclaw": sessions.openclaw, "codex": sessions.codex,
        "openclaw-sqlite": sessions.openclaw,
    }  # fmt: skip
    for name, records in kinds.items():
        sessions.write(place / "logs" / name, name, records, TOTAL // len(kinds))
    first, again = (measured(place / "logs", place / "sessions.db") for _ in range(2))
    rate, memory = first["bytes"] / 1e6 / first["seconds"], first["memory"] / 1e6
    say(f"first scan: {first['bytes'] / 1e6:.0f} MB", f"{rate:.0f} MB/s", f"≥ {SPEED} MB/s", rate >= SPEED)
    say("first scan: memory, at most", f"{memory:.0f} MB", f"≤ {MEMORY} MB", memory <= MEMORY)
    size = (place / "sessions.db").stat().st_size / 1e6
    say("first scan: events", f"{first['new']:,} in {size:.0f} MB")
    took = again["seconds"]
    say("again, unchanged", f"{took * 1e3:.0f} ms, {again['read']} bytes", f"≤ {AGAIN * 1e3:.0f} ms", took <= AGAIN)
    chance = random.Random(SEED)
    plain = [sentence(chance, chance.randrange(10, 180)) for _ in range(MEASURED // 600)]
    named = [text.replace(" a ", " the token of the password ", 1) + " See https://x.example/a_b-c." for text in plain]
    found = [text + " ghp_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8" for text in plain]
    redact(found[0])  # imports the detector
    for what, texts in {"nothing": plain, "what could be": named, "a token each": found}.items():
        began = time.process_time()
        for text in texts:
            redact(text)
        rate = sum(map(len, texts)) / 1e6 / (time.process_time() - began)
        say(f"redaction of texts with {what}", f"{rate:.0f} MB/s")


def measured(folder: Path, index: Path) -> dict:
    """In a process of its own, so that its memory is that of the scan."""
    command = [sys.executable, "-m", "bench.sessions_scan", str(folder), str(index)]
    return json.loads(subprocess.run(command, env=environment(), check=True, capture_output=True).stdout)


def child(folder: Path, path: Path) -> dict:
    logs = discover(None, folder)
    began = time.process_time()
    with Index.open(path) as index:
        scanned = index.scan(logs)
    return {
        "bytes": sum(log.size for log in logs), "new": scanned.new, "read": scanned.read,
        "seconds": time.process_time() - began, "memory": sessions.peak(),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(child(Path(sys.argv[1]), Path(sys.argv[2]))))
