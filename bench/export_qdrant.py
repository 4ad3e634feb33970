"""Storing items in the embedded Qdrant, their vectors given: new, stored again, changed; then reading and searching."""

import hashlib
import random
import time
from pathlib import Path
from uuid import UUID, uuid5

from bench.core import rate
from bench.harness import SEED, say, sentence, spread
from replica.cloud.base import Item, Outgoing, Settings, Sink
from replica.cloud.sinks.qdrant import Qdrant

ITEMS, DIMENSION, SEARCHES, TARGET = 10_000, 384, 200, 2_000
SPACE = UUID("5f0c6a3e-51e4-5b7e-9a57-3b1a9f4d2c10")


def run(place: Path) -> None:
    print(f"  input: {ITEMS:,} items of about 80 characters over 50 documents, {DIMENSION} numbers in a vector")
    chance = random.Random(SEED)
    items = [outgoing(chance, n) for n in range(ITEMS)]
    sink = opened(place)

    began = time.perf_counter()
    store(sink, items)
    speed = ITEMS / (time.perf_counter() - began)
    say("new items, flushed batch by batch", rate(ITEMS, began), f">= {TARGET:,}", speed >= TARGET)

    began = time.perf_counter()
    store(sink, items)
    say("the same again", rate(ITEMS, began))
    later = [out._replace(item=item_of(chance, n, revision=2)) for n, out in enumerate(items)]
    began = time.perf_counter()
    store(sink, later)
    say("all of them changed", rate(ITEMS, began))

    began = time.perf_counter()
    assert len(list(sink.changes(None))) == ITEMS
    say("read all back, as a pull does", rate(ITEMS, began))
    began = time.perf_counter()
    assert len(sink.present()) == ITEMS
    say("the ids alone", rate(ITEMS, began))

    times = []
    for n in range(SEARCHES):
        began = time.perf_counter()
        (nearest, *_) = sink.search(items[n].vector, 10)
        times.append(time.perf_counter() - began)
        assert nearest[0] == str(items[n].item.id)
    say("search for the nearest 10", spread(times))

    sink.close()
    began = time.perf_counter()
    assert sink.capacity().items == ITEMS
    say("open again and count", f"{1000 * (time.perf_counter() - began):.0f} ms")
    sink.close()
    size = sum(path.stat().st_blocks * 512 for path in place.rglob("*") if path.is_file())
    say("on the disk", f"{size / 1_000_000:.0f} MB, {size / ITEMS / 1000:.1f} kB an item")


def opened(place: Path) -> Qdrant:
    settings = Settings(
        "bench", {"collection": "memory"}, place, place / ".replica", "00" * 16, "bench", dimension=DIMENSION
    )
    sink = Qdrant(settings)
    sink.prepare()
    return sink


def store(sink: Sink, items: list[Outgoing]) -> None:
    for at in range(0, len(items), sink.batch):
        part = items[at : at + sink.batch]
        assert [outcome.remote_id for outcome in sink.store(part)] == [str(out.item.id) for out in part]


def outgoing(chance: random.Random, n: int) -> Outgoing:
    return Outgoing(item_of(chance, n, revision=1), None, [chance.gauss(0, 1) for _ in range(DIMENSION)])


def item_of(chance: random.Random, n: int, revision: int) -> Item:
    text = f"- {n}: {sentence(chance)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Item(
        uuid5(SPACE, str(n)), text, digest, "lesson", ("deploy", "ci"), 1, f"{n % 50}-buffer.md", "desk",
        1_760_000_000_000 + n, revision,
    )  # fmt: skip
