"""`replica sync` on a 70 kB memory bank with five peers up, from the start of the process to its end."""

import random
import time
from contextlib import ExitStack
from pathlib import Path

from bench.harness import SEED, node, replica, say, sentence, spread, timed, until, workspace

RUNS, PEERS = 10, 5
BUFFERS = ("patterns-buffer.md", "lessons-buffer.md", "decisions-inbox.md", "SESSION_LOG.md")


def run(place: Path) -> None:
    chance = random.Random(SEED)
    first, *others = workspace(place, *(f"clone-{n}" for n in range(PEERS + 1)))
    size = bank(first.root, chance)
    roots = [clone.root for clone in (first, *others)]
    for clone in (first, *others):
        clone.close()
    print(f"  input: {size / 1000:.0f} kB in {len(BUFFERS) + 11} files; {PEERS} nodes found by mDNS; {RUNS} runs each")
    with ExitStack() as stack:
        for root in roots[1:]:
            stack.enter_context(node(root, "--mdns"))
        first_time = sync(roots[0])
        for root in roots[1:]:
            until(lambda root=root: (root / "lessons-buffer.md").is_file(), 30)
        say("the first, which sends everything", f"{first_time:.2f} s")
        say("nothing new", spread([sync(roots[0]) for _ in range(RUNS)]))
        taken = []
        for number in range(RUNS):
            with (roots[0] / "lessons-buffer.md").open("a", encoding="utf-8") as file:
                file.write(f"- run {number}: {sentence(chance)}\n")
            taken.append(sync(roots[0]))
            time.sleep(0.2)
        say("one entry more in a file", spread(taken), "every run <= 1.0 s", max(taken) <= 1.0)
        until(lambda: all(f"run {RUNS - 1}:" in (root / "lessons-buffer.md").read_text("utf-8") for root in roots), 10)


def sync(root: Path) -> float:
    return timed(replica("sync", "--dir", str(root)))


def bank(root: Path, chance: random.Random) -> int:
    """Four buffers, active context and ten notes; returns their bytes."""
    (root / "notes").mkdir()
    for name in BUFFERS:
        (root / name).write_text(f"# {name}\n\n" + "".join(f"- {n}: {sentence(chance)}\n" for n in range(100)), "utf-8")
    (root / "activeContext.md").write_text("# Now\n\n" + sentence(chance, 200) + "\n", "utf-8")
    for n in range(10):
        text = f"# Note {n}\n\n" + "".join(sentence(chance) + "\n" for _ in range(30))
        (root / "notes" / f"note-{n}.md").write_text(text, "utf-8")
    return sum(file.stat().st_size for file in root.rglob("*.md"))
