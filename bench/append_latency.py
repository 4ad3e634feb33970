"""An append through the API on one clone, until it is durable and applied on a connected clone of the same host."""

from pathlib import Path

from bench.harness import SEED, node, percentile, say, spread, workspace

COUNT, PACE = 500, 0.02


def run(place: Path) -> None:
    print(f"  input: {COUNT} entries of about 80 characters into one document, about {PACE * 1000:.0f} ms apart")
    measure(place / "nodes", "two nodes, files kept in step", [])
    measure(place / "log", "two nodes, without files", ["--no-files"])


def measure(place: Path, what: str, options: list[str]) -> None:
    writer, reader = workspace(place, "writer", "reader")
    writer.close(), reader.close()
    with (
        node(reader.root, *options) as listening,
        node(
            writer.root, "--peer", str(listening.port), "--append", str(COUNT), "--pace", str(PACE),
            "--seed", str(SEED), *options,
        ) as appending,
    ):  # fmt: skip
        appended = appending.event("appended", COUNT * PACE * 3 + 30)
        starts = {int(seq): start for seq, start in appended["starts"].items()}
        arrivals: dict[int, float] = {}
        while max(starts) not in arrivals:
            received = listening.event("received")
            held = received["held"].get(appended["author"], 0)
            for seq in starts:
                if seq <= held:
                    arrivals.setdefault(seq, received["at"])
    taken = [arrivals[seq] - began for seq, (began, _) in starts.items()]
    met = percentile(taken, 0.5) <= 0.005 and percentile(taken, 0.99) <= 0.025
    say(what, spread(taken), "p50 <= 5 ms, p99 <= 25 ms", met)
    say("  of which the append itself (sign, commit)", spread([own for _, own in starts.values()]))
