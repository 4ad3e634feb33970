"""Recall: how often the right memory is found, and what the index costs."""

import os
import random
import re
import time
from pathlib import Path

from bench.harness import SEED, WORDS, entry, say, spread, workspace
from replica.changes import Add
from replica.cloud.embed import Embedder, embedder
from replica.cloud.index import Index
from replica.errors import ReplicaError

ENTRIES, DOCUMENTS, QUERIES, EMBEDDED = 10_000, 50, 50, 500

# Memories as agents write them, each with a question in other words. Small, ours, and only an indication.
PAIRS = [
    ("Never ship on a Friday afternoon; two weekends were lost to rollbacks", "which day is bad for releases?"),
    ("The cache must be warmed before traffic is let in", "why is the service slow right after a restart?"),
    ("Ask a person before dropping a table", "may the agent erase data by itself?"),
    ("Tests that sleep are flaky: wait for the event instead", "how do we make the test suite reliable?"),
    ("Prices are kept as integers of cents, since floats lost money in rounding", "how do we store amounts of money?"),
    ("The gauge in the harbour sends in UTC; the dashboard shows local time", "time zone of the water level sensor"),
    ("Customers in Brazil drop out when the form asks for a postcode first", "why do sign-ups from Brazil fail?"),
    ("Retry with jitter: all clients came back in the same second and felled the login", "thundering herd at login"),
    ("Subject lines with a question had 18 % more opens", "what makes people read our emails?"),
    ("We chose PostgreSQL over MongoDB because reports need joins", "which database do we use, and why?"),
    ("The staging certificate expires on 3 March; renewing takes a day", "when does TLS on staging run out?"),
    ("Images are scaled on upload, since scaling on request cost 40 % of the CPU", "where do thumbnails get made?"),
    (
        "Write the migration so that the old version still runs on the new schema",
        "how to change tables without downtime",
    ),
    ("Anna approves spending above 500 euros", "who signs off large purchases?"),
    ("The model invents citations; check each one against the source", "can we trust references the LLM gives?"),
    ("Dark mode was asked for by 61 of 200 interviewed", "how many users want a black theme?"),
    ("Secrets go in the vault and never in environment files that are committed", "where do passwords belong?"),
    ("Pagination by offset skips rows when others insert; use a cursor", "lists miss items while data is being added"),
    ("The Berlin office is closed from Christmas to New Year", "is anybody at work in Germany in late December?"),
    ("Logs older than 30 days are deleted for privacy law", "how long do we retain log files?"),
    ("Compile with frame pointers, else the profiler shows nothing", "flame graph is empty"),
    ("Small pull requests are reviewed in an hour, large ones in a week", "how to get code merged faster"),
    ("The import takes 4 GB of memory per worker; run at most two", "out of memory while loading the data"),
    ("Video ads under 15 seconds cost half as much per visit", "ideal length of a commercial clip"),
]


def run(place: Path) -> None:
    print(f"  input: {len(PAIRS)} memories with a paraphrase each; {ENTRIES:,} entries of about 80 characters")
    kinds = {"words only": None, "hash": embedder("hash", env={})}
    try:
        kinds["minilm"] = embedder("minilm", env=os.environ)
    except ReplicaError as error:
        print(f"  minilm is left out: {error}")
    quality(place / "toy", kinds)
    for name, kind in kinds.items():
        cost(place / name.replace(" ", "-"), name, kind)


def quality(place: Path, kinds: dict[str, Embedder | None]) -> None:
    (clone,) = workspace(place, "clone")
    clone.edit_entries(
        "a-buffer.md", "union", [(1, Add("entry", f"- {text}", 1, "", None, (), {})) for text, _ in PAIRS]
    )
    for name, kind in kinds.items():
        with Index.open(clone) as index:
            index.update(kind)
            ways = {"words": ("words",)} if kind is None else {"meaning": ("meaning",), "fused": ("words", "meaning")}
            for way, only in ways.items():
                shown = []
                for what, asked in (("paraphrased", PAIRS), ("misspelt", misspelt())):
                    ranks = [rank(index, kind, question, text, only) for text, question in asked]
                    shares = [f"@{n} {sum(r <= n for r in ranks) / len(ranks):.2f}" for n in (1, 3, 5)]
                    shown.append(f"{what} {' '.join(shares)}")
                say(f"right one among the first: {name}, {way}", ", ".join(shown))
    clone.close()


def misspelt() -> list[tuple[str, str]]:
    """The memories, each with its four longest words, in each of which two letters have changed places."""
    chance = random.Random(SEED)
    found = []
    for text, _ in PAIRS:
        chosen = sorted(set(re.findall(r"[A-Za-z]{4,}", text)), key=lambda word: (-len(word), word))[:4]
        for at in range(4):
            word, place = chosen[at], chance.randrange(1, len(chosen[at]) - 2)
            chosen[at] = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        found.append((text, " ".join(chosen)))
    return found


def rank(index: Index, kind: Embedder | None, question: str, text: str, only: tuple[str, ...]) -> int:
    """The place of the right memory. `only`: by these orders alone."""
    found = index.answer(question, len(PAIRS), kind, only=only).found
    return next((at for at, hit in enumerate(found, 1) if hit.text.endswith(text)), 99)


def cost(place: Path, name: str, kind: Embedder | None) -> None:
    """Of an embedder that takes long for so many, the cost of a part."""
    count = EMBEDDED if name == "minilm" else ENTRIES
    chance = random.Random(SEED)
    (clone,) = workspace(place, "clone")
    for document in range(DOCUMENTS):
        ops = [(1, entry(chance, n)) for n in range(document, count, DOCUMENTS)]
        clone.edit_entries(f"{document}-buffer.md", "union", ops)
    with Index.open(clone) as index:
        began = time.perf_counter()
        index.update(kind)
        taken = time.perf_counter() - began
        say(f"{name}: index of {count:,} entries", f"{taken:.2f} s ({count / taken:,.0f} per second)")
        clone.edit_entries("0-buffer.md", "union", [(1, entry(chance, count))])
        began = time.perf_counter()
        index.update(kind)
        say(f"{name}: one entry more", f"{1000 * (time.perf_counter() - began):.1f} ms")
        asked = [" ".join(chance.choice(WORDS) for _ in range(5)) for _ in range(QUERIES)]
        times = []
        for question in asked:
            began = time.perf_counter()
            index.answer(question, 10, kind)
            times.append(time.perf_counter() - began)
        say(f"{name}: first question (reads the vectors)", f"{1000 * times[0]:.1f} ms")
        say(f"{name}: further questions", spread(times[1:]))
    size = index.path.stat().st_size
    say(f"{name}: on the disk", f"{size / 1e6:.1f} MB, {size / count:.0f} bytes an entry")
    clone.close()
