"""The core by itself, in one process: appending, taking in, editing a text, reading the digest."""

import random
import time
from pathlib import Path

from bench.harness import SEED, entry, exchange, say, sentence, workspace
from transport.session import Session

SINGLE, BULK, EDITS = 300, 5_000, 300


def run(place: Path) -> None:
    print(f"  input: entries of about 80 characters over 50 documents; {EDITS} edits of a word in 1,000 lines of text")
    chance = random.Random(SEED)
    one, other = workspace(place, "one", "other")

    began = time.perf_counter()
    for n in range(SINGLE):
        one.edit_entries(f"{n % 50}-buffer.md", "union", [(1, entry(chance, n))])
    say("append, a transaction and a flush each", rate(SINGLE, began))

    began = time.perf_counter()
    with one.transaction():
        for n in range(BULK):
            one.edit_entries(f"{n % 50}-buffer.md", "union", [(1, entry(chance, SINGLE + n))])
    say("append, all in one transaction", rate(BULK, began))

    began = time.perf_counter()
    exchange(Session(one, other.identity.id), Session(other, one.identity.id))
    say("send, check, take in, compare digests", rate(SINGLE + BULK, began))
    assert one.digest() == other.digest()

    text = "".join(sentence(chance) + "\n" for _ in range(1_000))
    one.edit_text("notes.md", new=text)
    began = time.perf_counter()
    for _ in range(EDITS):
        words = one.text("notes.md").split(" ")
        words[chance.randrange(len(words))] = chance.choice(("ebb", "flood", "slack", "大潮"))
        one.edit_text("notes.md", new=" ".join(words))
    say("edit a text: compare, append, commit", rate(EDITS, began))

    began = time.perf_counter()
    exchange(Session(one, other.identity.id), Session(other, one.identity.id))
    say("take in text edits", rate(EDITS, began))
    assert one.text("notes.md") == other.text("notes.md")
    one.close(), other.close()


def rate(count: int, began: float) -> str:
    seconds = time.perf_counter() - began
    return f"{count / seconds:,.0f} per second ({1000 * seconds / count:.3f} ms each, n={count})"
