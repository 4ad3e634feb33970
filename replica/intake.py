"""From a saved file to operations: what a person changed since we last wrote the file, and nothing else.

Pure: blocks and texts in, operations out. The base is always what *we last wrote there*, never
the document as it is now; others' changes since then are not ours to undo.
"""

from bisect import bisect
from functools import cached_property
from typing import NamedTuple

from replica.blocks import Block, Edits, block_id, pair, parse
from replica.changes import Add, Dot, Remove
from replica.documents import Entry
from replica.filetext import ascending
from replica.levels import NOTHING, Levels, Past, Verdict
from replica.likeness import OF_NEAR, Texts, normal, runs, share
from replica.materialise import place_of

Levelled = tuple[int, Add | Remove]  # the level that the operation is written at

CARRIED = 0.5  # share of a shared entry that went from which a block of level 0 has it in it
FOUND = 0.7  # share of an entry of level 0 from which a block at another place is that entry, edited
UNKNOWN = bytes(16)  # stands in a base for a block that no entry is known for


class Save(NamedTuple):
    """What one save of a file did to a document of entries."""

    ops: list[Levelled]
    removed: int  # entries that are gone
    past: bool  # something that was there was edited, removed or moved
    doubted: list[Add]  # operations of level 0 that a person has to decide on


def first_sight(text: str, policy: str, live: list[Entry], known: set[bytes], level: int, past: Past = NOTHING) -> Save:
    """A file that we never wrote: what of it the document lacks is added; nothing is taken away."""
    names, levels = _Names(known, grouped(live)), Levels(level, past, live)
    ops: list[Levelled] = []
    doubted: list[Add] = []
    after = None
    for block in parse(text, policy):
        same = names.live_twin(block)
        if same is not None:
            after = after if same.private and level else same.place
            continue
        occurrence, verdict = names.free(block), levels.judge(block)
        add = Add(block.role, block.text, occurrence, block.lead, after, (), {})
        ops.append((verdict.level, add))
        if verdict.in_doubt:
            doubted.append(add)
        if verdict.level or not level:  # what is shared never names the place of what is not
            after = block_id(block.role, block.text, occurrence)
    return Save(ops, 0, False, doubted)


def save(
    base: list[Block], base_ids: list[bytes], text: str, policy: str, live: list[Entry], known: set[bytes],
    seen: int, level: int, past: Past = NOTHING,
) -> Save:  # fmt: skip
    """A file that we last wrote as `base`, whose blocks were the entries `base_ids`, and that now holds `text`.

    `live` are the entries of the document now, `known` the ids of all it ever had, `seen` the row of the log up to
    which `base` showed the document: only what was seen is taken away. What of level 0 went and comes back (an undo, a
    half-written save, a file that was away) stays at level 0, also in other words: an editor may empty a file first.
    """
    levels = Levels(level, past, live, set(base_ids))
    return _Saving(base, base_ids, parse(text, policy), live, known, seen, level, levels, policy == "latest").result()


class _Saving:
    def __init__(
        self, base, base_ids, new: list[Block], live: list[Entry], known: set[bytes], seen: int, level: int,
        levels: Levels, one_text: bool,
    ):  # fmt: skip
        self.one_text = one_text  # what is in its place has the level of the rule, whatever that was of
        self.levels = levels
        self.base, self.base_ids, self.new, self.seen, self.level = base, base_ids, new, seen, level
        self.by_id = {entry.id: entry for entry in live}
        self.from_shared: set[int] = set()  # new blocks that stand where shared ones stood, and are no edits of them
        self.found: set[int] = set()  # new blocks that are edits of entries of level 0 by their words alone
        self.edits = self._with_levels(pair(base, new))
        in_base = set(base_ids)
        arrived = [entry for entry in live if entry.id not in in_base]
        # A line that others added meanwhile and that stands in the file too is that same line.
        self.names = _Names(known, grouped(arrived))
        self.kept = {j: i for i, j in self.edits.kept}
        self.replaced = {j: i for i, j in self.edits.replaced}
        still = {i for i, _ in ascending(sorted(self.edits.kept))}
        self.moved = {j for i, j in self.edits.kept if i not in still}
        self.moved |= _out_of_order(self.edits.replaced, sorted(pair for pair in self.edits.kept if pair[0] in still))
        self.ops: list[Levelled] = []
        self.doubted: list[Add] = []
        self.past = bool(self.edits.removed or self.edits.replaced or self.moved)

    def result(self) -> Save:
        private_gaps = self._private_gaps()
        any_after: bytes | None = None
        shared_after: bytes | None = None  # what others may hear of: never the place of a level-0 entry
        gap = -1
        for j, block in enumerate(self.new):
            if j in self.kept:
                place, private = self._keep(j, block, any_after, shared_after)
                gap = j
            elif j in self.replaced:
                place, private = self._replace(j, block, any_after, shared_after)
                gap = j
            else:
                place, private = self._add(j, block, any_after, shared_after, gap in private_gaps)
            if place is not None:
                any_after = place
                if not private:
                    shared_after = place
        removed = self._remove()
        return Save(self.ops, removed, self.past, self.doubted)

    def _entry(self, i: int) -> Entry | None:
        return self.by_id.get(self.base_ids[i])

    def _seen(self, entry: Entry) -> tuple[Dot, ...]:
        return tuple(dot for dot, row in zip(entry.dots, entry.rows, strict=True) if row <= self.seen)

    def _keep(self, j: int, block: Block, any_after, shared_after) -> tuple[bytes | None, bool]:
        entry = self._entry(self.kept[j])
        if entry is None:
            return None, False
        lead_changed = self.base[self.kept[j]].lead != block.lead
        kills = self._seen(entry)
        if (j not in self.moved and not lead_changed) or not kills:
            return entry.place, entry.private
        after = (any_after if entry.private else shared_after) if j in self.moved else entry.place
        lead = block.lead if lead_changed else entry.lead
        self._write(entry, Add(entry.role, entry.text, entry.occurrence, lead, after, kills, entry.meta))
        return place_of(entry.id, list(kills)), entry.private

    def _replace(self, j: int, block: Block, any_after, shared_after) -> tuple[bytes | None, bool]:
        entry = self._entry(self.replaced[j])
        kills = self._seen(entry) if entry is not None else ()
        if entry is None or not kills:
            # It went meanwhile; the edit of it is kept as an entry of its own.
            return self._add(j, block, None, None, False)
        twin = self.names.live_twin(block)
        if twin is not None:
            self._write(entry, Remove(kills))
            self._doubt_twin(twin, not entry.private)
            return twin.place, twin.private
        occurrence = self.names.free(block)
        if self.one_text:
            return self._follow(entry, Add(block.role, block.text, occurrence, block.lead, None, kills, entry.meta))
        after = entry.place
        if j in self.moved:
            after = any_after if entry.private else shared_after
        is_it = not entry.private or not self.level or _is_edit(entry.text, block.text, sure=j not in self.found)
        new = Add(block.role, block.text, occurrence, block.lead, after, kills, entry.meta if is_it else {})
        self._write(entry, new)
        if entry.private and self.level and not (is_it and not self._has_shared(block)):
            self.doubted.append(new)
        return block_id(block.role, block.text, occurrence), entry.private

    def _follow(self, entry: Entry, new: Add) -> tuple[bytes, bool]:
        """What was shared stays shared where a text goes on at level 0, in the place of that."""
        if not self.level:
            new = new._replace(kills=new.kills if entry.private else (), after=entry.place)
        self.ops.append((self.level, new))
        return block_id(new.role, new.text, new.occurrence), not self.level

    def _add(self, j: int, block: Block, any_after, shared_after, beside_private: bool) -> tuple[bytes, bool]:
        twin = self.names.live_twin(block)
        if twin is not None:
            self._doubt_twin(twin, j in self.from_shared)
            return twin.place, twin.private
        occurrence, verdict = self.names.free(block), self.levels.judge(block)
        if verdict.level and beside_private and not self.levels.is_shared(block):
            verdict = Verdict(0, True)  # it may be what stood there, in other words
        after = shared_after if verdict.level else any_after
        new = Add(block.role, block.text, occurrence, block.lead, after, (), {})
        self.ops.append((verdict.level, new))
        if verdict.in_doubt or (not verdict.level and self.level and j in self.from_shared):
            self.doubted.append(new)
        return block_id(block.role, block.text, occurrence), not verdict.level

    def _doubt_twin(self, twin: Entry, was_shared: bool) -> None:
        """A shared entry goes, and what stands in its place others do not hear of: that is said."""
        if twin.private and was_shared and self.level:
            self.doubted.append(Add(twin.role, twin.text, twin.occurrence, twin.lead, None, (), {}))

    def _remove(self) -> int:
        count = 0
        for i in self.edits.removed:
            entry = self._entry(i)
            kills = self._seen(entry) if entry is not None else ()
            if entry is not None and kills:
                self._write(entry, Remove(kills))
                count += self.base[i].role == "entry"
        return count

    def _write(self, entry: Entry, op: Add | Remove) -> None:
        self.ops.append((0 if entry.private else max(self.level, 1), op))

    def _with_levels(self, edits: Edits) -> Edits:
        """What goes from one level to the other is no edit; an entry of level 0 is looked for in the whole file.

        Places tell little when an editor writes blocks in an order of its own.
        """
        if self.one_text:
            return edits
        if not self.level:  # nothing that is written now is for others, also in the place of what they have
            return _parted(edits, {(i, j) for i, j in edits.replaced if not self._private(i)}, {})
        changed = [*edits.removed, *(i for i, _ in edits.replaced)]
        self.levels.parted(self.base[i].text for i in changed if self._private(i))
        apart = {
            (i, j) for i, j in edits.replaced
            if (self.levels.is_shared(self.new[j]) if self._private(i) else not self.levels.judge(self.new[j]).level)
        }  # fmt: skip
        self.from_shared = {j for i, j in apart if not self._private(i)}
        gone = {self.base[i].text: i for i in edits.removed if self._private(i)}
        come = {self.new[j].text: j for j in edits.added if gone and not self.levels.judge(self.new[j]).level}
        found = _found(gone, come)
        self.found = set(found.values())
        return _parted(edits, apart, found)

    def _has_shared(self, block: Block) -> bool:
        """Whether a shared entry that goes with this save lives on in a block of level 0."""
        gone = self._shared_gone
        common = gone.common(runs(normal(block.text)))
        return any(many >= CARRIED * len(gone.runs[n]) for n, many in common.items())

    @cached_property
    def _shared_gone(self) -> Texts:
        return Texts(self.base[i].text for i in self.edits.removed if not self._private(i))

    def _private(self, i: int) -> bool:
        entry = self._entry(i)
        return entry is not None and entry.private

    def _private_gaps(self) -> set[int]:
        """Behind which new blocks level-0 entries stood that are gone."""
        gaps, last = set(), -1
        stays = {i: j for j, i in (*self.kept.items(), *self.replaced.items())}
        for i in range(len(self.base)):
            if i in stays:
                last = stays[i]
            elif self._private(i):
                gaps.add(last)
        return gaps


def _out_of_order(replaced: list[tuple[int, int]], stay: list[tuple[int, int]]) -> set[int]:
    """Which new blocks stand elsewhere among those that `stay` (ascending) than what they replace did."""
    moved = set()
    for i, j in replaced:
        at = bisect(stay, (i, j))
        if (at > 0 and stay[at - 1][1] > j) or (at < len(stay) and stay[at][1] < j):
            moved.add(j)
        else:
            stay.insert(at, (i, j))
    return moved


def _parted(edits: Edits, apart: set[tuple[int, int]], found: dict[int, int]) -> Edits:
    """Without the edits that are `apart`, and with those that were `found`."""
    return Edits(
        edits.kept, sorted([*(pair for pair in edits.replaced if pair not in apart), *found.items()]),
        sorted({*edits.removed, *(i for i, _ in apart)} - found.keys()),
        sorted({*edits.added, *(j for _, j in apart)} - set(found.values())),
    )  # fmt: skip


def _is_edit(before: str, after: str, *, sure: bool) -> bool:
    """Whether one text is the other one edited, or half written, and not just another.

    `sure`: it stands in its place; else it takes more for it.
    """
    return share(before, after) >= (OF_NEAR if sure else FOUND) or normal(before).startswith(normal(after))


def _found(gone: dict[str, int], come: dict[str, int]) -> dict[int, int]:
    """Which of the blocks that went is which of those that came; the likest first."""
    by_text = {normal(text): i for text, i in gone.items()}
    texts = Texts(gone)
    alike = []
    for text, j in come.items() if gone else ():
        for n, many in texts.common(runs(normal(text))).items():
            score = many / len(texts.runs[n])
            if score >= OF_NEAR:
                alike.append((-score, by_text[texts.all[n]], j))
    found: dict[int, int] = {}
    for _, i, j in sorted(alike):
        if i not in found and j not in found.values():
            found[i] = j
    return found


class _Names:
    """Gives each new block an occurrence that no other block of its words ever had."""

    def __init__(self, known: set[bytes], arrived: dict[tuple[str, str], list[Entry]]):
        self._known = set(known)
        self._arrived = {words: twins[::-1] for words, twins in arrived.items()}  # the first comes last
        self._next: dict[tuple[str, str], int] = {}  # all occurrences below it are taken

    def live_twin(self, block: Block) -> Entry | None:
        twins = self._arrived.get((block.role, block.text))
        return twins.pop() if twins else None

    def free(self, block: Block) -> int:
        # On from the last one: a file of 250,000 equal lines would else take hours.
        occurrence = self._next.get((block.role, block.text), 1)
        while (id := block_id(block.role, block.text, occurrence)) in self._known:
            occurrence += 1
        self._known.add(id)
        self._next[block.role, block.text] = occurrence + 1
        return occurrence


def grouped(entries: list[Entry]) -> dict[tuple[str, str], list[Entry]]:
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.role, entry.text), []).append(entry)
    return groups
