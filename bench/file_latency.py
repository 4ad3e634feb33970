"""A file saved on one clone, until the file is updated on the other; both nodes running."""

import os
import random
import time
from pathlib import Path

from bench.harness import SEED, node, percentile, say, sentence, spread, until, workspace

SAVES, LINES, PAUSE = 40, 100, 0.1


def run(place: Path) -> None:
    print(f"  input: files of {LINES} lines (about 8 kB); {SAVES} saves of each, a line more or a line changed")
    chance = random.Random(SEED)
    one, other = workspace(place, "one", "other")
    documents = {
        "lessons-buffer.md": "union",
        "notes.md": "text",
        "SESSION_LOG.md": "log",
        "activeContext.md": "latest",
    }
    for name in documents:
        (one.root / name).write_text("".join(f"- {n}: {sentence(chance)}\n" for n in range(LINES)), "utf-8")
    one.close(), other.close()
    with node(one.root) as listening, node(other.root, "--peer", str(listening.port)):
        for name in documents:
            until(lambda name=name: (other.root / name).is_file() and (other.root / name).stat().st_size > 0)
        everything = []
        for name, policy in documents.items():
            taken = [save(one.root / name, other.root / name, policy, number, chance) for number in range(SAVES)]
            say(f"policy {policy} ({name})", spread(taken))
            everything += taken
    say("all", spread(everything), "p50 <= 150 ms", percentile(everything, 0.5) <= 0.150)


def save(source: Path, target: Path, policy: str, number: int, chance: random.Random) -> float:
    """Seconds from just before the rename until the marker stands in the other file."""
    time.sleep(PAUSE * chance.uniform(0.5, 1.5))
    text, marker = source.read_text("utf-8"), f"save {number}: {sentence(chance, 5)}"
    if policy == "text":
        lines = text.splitlines(keepends=True)
        lines[chance.randrange(len(lines))] = f"- {marker}\n"
        text = "".join(lines)
    else:
        text += f"- {marker}\n"
    beside = source.with_name(f".{source.name}.swp")
    beside.write_text(text, "utf-8")
    began = time.perf_counter()
    os.replace(beside, source)
    until(lambda: marker in target.read_text("utf-8"))
    return time.perf_counter() - began
