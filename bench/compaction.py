"""A long history folded: how long it takes, what is left, how fast the clone opens."""

import os
import random
import time
from pathlib import Path

import msgpack

from bench.harness import SEED, say, sentence, workspace
from replica import compact
from replica.bridge import Bridge
from replica.changes import Add, Dot, Remove
from replica.clone import Clone
from replica.store import PLACE

CHANGES = int(os.environ.get("BENCH_CHANGES", "100000"))
DOCUMENTS, LIVE, NOTES = 200, 40, 200  # buffers, and entries in each; texts of 60 lines
WINDOW = 2_000  # of the changes, the last ones, are younger than the history window
TEXT_SHARE = 0.1  # of the changes edit a text
DAY = 86_400_000


def run(place: Path) -> None:
    one, other = workspace(place, "one", "other")
    now = [time.time_ns() // 1_000_000]
    one.log.now_ms = lambda: now[0]
    began = time.perf_counter()
    _live_through(one, CHANGES - WINDOW)
    now[0] += 95 * DAY
    _live_through(one, WINDOW)
    now[0] += 5 * DAY
    say(f"write {CHANGES:,} changes", f"{time.perf_counter() - began:.0f} s")
    Bridge(one, one.log.now_ms).run(every=True)
    live = sum(len(one.documents.text(document).encode()) for document in one.documents.all())
    window = one.store.value("SELECT sum(length(body) + 200) FROM (SELECT body FROM changes ORDER BY n DESC LIMIT ?)",
                             (WINDOW,))  # fmt: skip
    one.store.checkpoint()
    before, digest = compact.size(one.store), one.digest()
    with one.transaction():  # the other one holds it all
        one.store.execute("INSERT OR REPLACE INTO peers(id, seen, vector) VALUES(?,?,?)",
                          (other.identity.id, now[0], msgpack.packb(one.vector())))  # fmt: skip
    began = time.perf_counter()
    result = compact.compact(one)
    say("fold", f"{result.folded:,} changes in {time.perf_counter() - began:.1f} s")
    assert one.digest() == digest
    after = compact.size(one.store)
    say("live text", f"{live:,} bytes")
    say("store before", f"{before:,} bytes")
    share = (after - window) / live
    say("store after", f"{after:,} bytes: {share:.2f} x the live text, and {window:,} for the last {WINDOW:,} changes")
    root = one.root
    one.close()
    began = time.perf_counter()
    again = Clone.open(root)
    again.vector(), again.documents.all()
    say("open, with the list of documents", f"{1000 * (time.perf_counter() - began):.1f} ms")
    again.close(), other.close()


def _live_through(clone: Clone, changes: int) -> None:
    """Buffers whose entries come, are edited and are harvested; texts of which lines are rewritten."""
    chance = random.Random(SEED + changes)
    live: dict[int, list[tuple[Dot, bytes]]] = {}
    count = 0
    while count < changes:
        with clone.transaction():
            for _ in range(min(1_000, changes - count)):
                count += 1
                (_rewrite if chance.random() < TEXT_SHARE else _work)(clone, chance, live, count)


def _work(clone: Clone, chance: random.Random, live: dict, count: int) -> None:
    number = chance.randrange(DOCUMENTS)
    path, entries = f"{number}-buffer.md", live.setdefault(number, [])
    if not entries and count:
        document = clone.documents.find(path, "union")
        entries += [(entry.dots[0], entry.place) for entry in clone.documents.entries(document)]
    after = entries[-1][1] if entries else None
    text = f"- {sentence(chance)} {sentence(chance)} {clone.log.last_row()}"
    if len(entries) >= LIVE:
        dot, _ = entries.pop(chance.randrange(len(entries)))
        op = Remove((dot,)) if chance.random() < 0.5 else Add("entry", text, 1, "", after, (dot,), {})
    else:
        op = Add("entry", text, 1, "", after, (), {})
    (stored,) = clone.edit_entries(path, "union", [(1, op)])
    if isinstance(op, Add):
        place = clone.store.value(
            f"SELECT {PLACE} FROM adds WHERE author=? AND seq=?", (stored.author.n, stored.change.seq)
        )
        entries.append((Dot(stored.change.author, stored.change.seq, 0), place))


def _rewrite(clone: Clone, chance: random.Random, live: dict, count: int) -> None:
    path = f"notes-{chance.randrange(NOTES)}.md"
    document = clone.documents.find(path, "text")
    if document.shared is None:
        clone.edit_text(path, new="".join(sentence(chance) + "\n" for _ in range(60)))
        return
    text = clone.materialiser.engine(document.shared).text
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    start = sum(len(line) for line in lines[:at])
    clone.edit_text(path, [(start, start + len(lines[at]), sentence(chance) + "\n")])
