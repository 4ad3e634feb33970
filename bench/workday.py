"""`replica start` and `replica save` on a 70 kB memory bank, from the start of the process to its end."""

import json
import random
import socket
from contextlib import ExitStack
from pathlib import Path

from bench.harness import SEED, node, percentile, replica, say, sentence, spread, timed, workspace
from bench.sync_command import bank
from replica.clone import Clone

RUNS, PEERS = 15, 5
SESSION = '\n[[documents]]\nglob = "notes/*.md"\npolicy = "text"\ncadence = "session"\n'


def run(place: Path) -> None:
    chance = random.Random(SEED)
    first, *others = workspace(place, *(f"clone-{n}" for n in range(PEERS + 1)))
    size = bank(first.root, chance)
    roots = [clone.root for clone in (first, *others)]
    for clone in (first, *others):
        clone.close()
    print(
        f"  input: {size / 1000:.0f} kB in 15 files; {PEERS} members; {RUNS} runs each; before each, one entry more in"
        " a file, and one note of cadence session is saved"
    )
    ruled(roots[0])
    with ExitStack() as stack:
        peers = [stack.enter_context(node(root, "--mdns")) for root in roots[1:3]]
        stack.enter_context(node(roots[0], *(f"--peer={peer.port}" for peer in peers)))
        timed(replica("start", "--dir", str(roots[0])))  # the node loads what it needs for it
        starts, saves = day(roots[0], chance)
        say("start, running node, 2 of 5 peers up", spread(starts), "p90 <= 0.3 s", percentile(starts, 0.9) <= 0.3)
        say("save, the same", spread(saves), "p90 <= 0.5 s", percentile(saves, 0.9) <= 0.5)
    silent = socket.create_server(("127.0.0.1", 0))  # takes calls, and never says a word
    with silent:
        unreachable(roots[0], silent.getsockname()[1])
        starts, saves = day(roots[0], chance)
    say("start, no node, every peer unreachable", spread(starts), "p90 <= 1.2 s", percentile(starts, 0.9) <= 1.2)
    say("save, the same", spread(saves))


def ruled(root: Path) -> None:
    """The notes are of cadence session."""
    timed(replica("sync", "--dir", str(root), "--timeout", "0.1"))
    file = root / "replica.toml"
    before = file.read_text("utf-8") if file.is_file() else ""
    file.write_text(before.replace("\n[[documents]]", f"{SESSION}\n[[documents]]", 1) or SESSION.lstrip(), "utf-8")
    timed(replica("sync", "--dir", str(root), "--timeout", "0.1"))


def day(root: Path, chance: random.Random) -> tuple[list[float], list[float]]:
    starts, saves = [], []
    for number in range(RUNS):
        with (root / "lessons-buffer.md").open("a", encoding="utf-8") as file:
            file.write(f"- {number}: {sentence(chance)}\n")
        (root / "notes" / "note-1.md").write_text(sentence(chance, 200) + "\n", "utf-8")
        starts.append(timed(replica("start", "--dir", str(root))))
        (root / "notes" / "note-2.md").write_text(sentence(chance, 200) + "\n", "utf-8")
        saves.append(timed(replica("save", "--dir", str(root))))
    return starts, saves


def unreachable(root: Path, silent: int) -> None:
    """Every member was last seen where nobody answers: by turns a closed port, and one that takes calls in silence."""
    with Clone.open(root) as clone, clone.transaction():
        members = [member["id"] for member in clone.members() if member["id"] != clone.identity.id]
        for number, id in enumerate(members):
            place = json.dumps([["127.0.0.1", 9 if number % 2 else silent]])
            clone.store.execute(
                "INSERT INTO peers(id, addresses) VALUES(?,?)"
                " ON CONFLICT(id) DO UPDATE SET addresses=excluded.addresses",
                (id, place),
            )
