"""From a saved file to operations: what a person changed since we last wrote the file, and nothing else.

Pure: blocks and texts in, operations out. The base is always what *we last wrote there*, never
the document as it is now; others' changes since then are not ours to undo.
"""

from bisect import bisect
from collections.abc import Callable, Collection, Container
from functools import cached_property
from typing import NamedTuple

from replica.blocks import COMPARED_IN_ALL, SIMILAR, Block, Edits, LetterPairs, block_id, pair, parse
from replica.changes import Add, Dot, Remove
from replica.documents import Entry
from replica.filetext import ascending
from replica.materialise import place_of

Levelled = tuple[int, Add | Remove]  # the level that the operation is written at

OVERLAPPING = 0.6  # share of the shorter text from which a new block may repeat a level-0 entry that changed
UNKNOWN = bytes(16)  # stands in a base for a block that no entry is known for

# Roles and texts of blocks.
Words = Callable[[], Collection[tuple[str, str]]]


class Past(NamedTuple):
    """What was in the document before, by level. Asked only where a block is new or edited."""

    private: Callable[[], Container[tuple[str, str]]] = tuple  # what was ever of level 0, and never shared
    shared: Words = tuple  # what was ever shared
    private_gone: Words = tuple  # of level 0, and taken out here a short time ago
    shared_gone: Words = tuple  # shared, and taken out here a short time ago


NOTHING = Past()


class Save(NamedTuple):
    """What one save of a file did to a document of entries."""

    ops: list[Levelled]
    removed: int  # entries that are gone
    past: bool  # something that was there was edited, removed or moved


def first_sight(
    text: str, policy: str, live: list[Entry], known: set[bytes], level: int, past: Past = NOTHING
) -> list[Levelled]:
    """A file that we never wrote: what of it the document lacks is added; nothing is taken away."""
    names, levels = _Names(known, grouped(live)), _Levels(level, past, live)
    ops: list[Levelled] = []
    after = None
    for block in parse(text, policy):
        same = names.live_twin(block)
        if same is not None:
            after = after if same.private and level else same.place
            continue
        occurrence, its = names.free(block), levels.of(block)
        ops.append((its, Add(block.role, block.text, occurrence, block.lead, after, (), {})))
        if its or not level:  # what is shared never names the place of what is not
            after = block_id(block.role, block.text, occurrence)
    return ops


def save(
    base: list[Block], base_ids: list[bytes], text: str, policy: str, live: list[Entry], known: set[bytes],
    seen: int, level: int, past: Past = NOTHING,
) -> Save:  # fmt: skip
    """A file that we last wrote as `base`, whose blocks were the entries `base_ids`, and that now holds `text`.

    `live` are the entries of the document now, `known` the ids of all it ever had, `seen` the row of the log up to
    which `base` showed the document: only what was seen is taken away. What of level 0 went and comes back (an undo, a
    half-written save, a file that was away) stays at level 0, also in other words: an editor may empty a file first.
    What was shared, or is like what was and like nothing of level 0, is no edit of what is of level 0.
    """
    in_base = set(base_ids)
    levels = _Levels(level, past, [entry for entry in live if entry.id not in in_base])
    return _Saving(base, base_ids, parse(text, policy), live, known, seen, level, levels).result()


class _Saving:
    def __init__(
        self, base, base_ids, new: list[Block], live: list[Entry], known: set[bytes], seen: int, level: int,
        levels: "_Levels",
    ):  # fmt: skip
        self.levels = levels
        self.base, self.base_ids, self.new, self.seen, self.level = base, base_ids, new, seen, level
        self.by_id = {entry.id: entry for entry in live}
        self.edits, self.like_private = self._private_first(pair(base, new))
        self._part_from_private()
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
        return Save(self.ops, removed, self.past)

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
            return twin.place, twin.private
        occurrence = self.names.free(block)
        after = entry.place
        if j in self.moved:
            after = any_after if entry.private else shared_after
        self._write(entry, Add(block.role, block.text, occurrence, block.lead, after, kills, entry.meta))
        return block_id(block.role, block.text, occurrence), entry.private

    def _add(self, j: int, block: Block, any_after, shared_after, beside_private: bool) -> tuple[bytes, bool]:
        twin = self.names.live_twin(block)
        if twin is not None:
            return twin.place, twin.private
        occurrence = self.names.free(block)
        # Where level-0 entries went from, what came in their place may be the same in other words: it stays here.
        may_be_private = (beside_private or j in self.like_private) and not self.levels.is_shared(block, self.parted)
        level = 0 if may_be_private else self.levels.of(block)
        after = any_after if level == 0 else shared_after
        self.ops.append((level, Add(block.role, block.text, occurrence, block.lead, after, (), {})))
        return block_id(block.role, block.text, occurrence), level == 0

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

    def _private_first(self, edits: Edits) -> tuple[Edits, set[int]]:
        """A level-0 entry that left its place is looked for in the whole file: what is most like it, is it.

        Places tell little when an editor writes blocks in an order of its own. Also returns which new blocks are less
        alike, yet enough not to be shared.
        """
        gone = {i for i in edits.removed if self._private(i)}
        changed = {i for i, _ in edits.replaced if self._private(i)}
        shared = {j: i for i, j in edits.replaced if i not in changed}
        come = [*edits.added, *shared]
        if not (gone or changed) or not come:
            return edits, set()
        if len(gone | changed) * len(come) > COMPARED_IN_ALL:
            alike, like = [], set(edits.added)  # too many to compare: nothing new is shared
        else:
            alike, like = self._alike(gone, changed, come, shared)
        found: dict[int, int] = {}
        for _, i, j in sorted(alike):
            if i not in found and j not in found.values():
                found[i] = j
        like |= {j for _, _, j in alike} - set(found.values())
        apart = like | set(found.values())  # they are no edits of what is shared
        replaced = [(i, j) for i, j in edits.replaced if j not in apart]
        removed = {*edits.removed, *(i for i, j in edits.replaced if j in apart)} - found.keys()
        added = sorted({*edits.added, *(like & shared.keys())} - set(found.values()))
        return Edits(edits.kept, sorted([*replaced, *found.items()]), sorted(removed), added), like

    def _part_from_private(self) -> None:
        """What was shared is no edit of a level-0 entry, nor what was of level 0 one of a shared entry."""
        edits, levels = self.edits, self.levels
        apart = {
            (i, j) for i, j in edits.replaced
            if (levels.is_shared(self.new[j], [LetterPairs(self.base[i].text)]) if self._private(i)
                else levels.is_private(self.new[j], self.base[i]))
        }  # fmt: skip
        if apart:
            self.edits = Edits(
                edits.kept,
                [pair for pair in edits.replaced if pair not in apart],
                sorted([*edits.removed, *(i for i, _ in apart)]),
                sorted([*edits.added, *(j for _, j in apart)]),
            )

    def _alike(
        self, gone: set[int], changed: set[int], come: list[int], shared: dict[int, int]
    ) -> tuple[list[tuple[float, int, int]], set[int]]:
        """Which of `come` may be one of `gone` (with the negative likeness), and which are too like either to share."""
        alike, like = [], set()
        pairs = {i: LetterPairs(self.base[i].text) for i in gone | changed | set(shared.values())}
        for j in come:
            its = LetterPairs(self.new[j].text)
            likeness, overlap = 0.0, 0.0
            if j in shared:
                likeness, overlap = its.likeness(pairs[shared[j]]), its.overlap(pairs[shared[j]])
            for i in sorted(gone | changed):
                if self.base[i].role != self.new[j].role:
                    continue
                score = its.likeness(pairs[i])
                if i in gone and score >= SIMILAR and score > likeness:
                    alike.append((-score, i, j))
                elif its.overlap(pairs[i]) >= max(OVERLAPPING, overlap):
                    like.add(j)
        return alike, like

    def _private(self, i: int) -> bool:
        entry = self._entry(i)
        return entry is not None and entry.private

    @cached_property
    def parted(self) -> list[LetterPairs]:
        """The level-0 entries that do not stand as they did."""
        changed = {*self.edits.removed, *(i for i, _ in self.edits.replaced)}
        return [LetterPairs(self.base[i].text) for i in sorted(changed) if self._private(i)]

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


class _Levels:
    """Gives each new block its level, by what was there before."""

    def __init__(self, level: int, past: Past, unseen: list[Entry]):
        """`unseen`: what the base does not show; the file may have held it, where a crash came between the two."""
        self._level, self._past, self._unseen = level, past, unseen
        self._left = COMPARED_IN_ALL

    def of(self, block: Block) -> int:
        return 0 if not self._level or self._is_known(block) or self._came_back(block) else self._level

    def is_private(self, block: Block, before: Block) -> bool:
        """Whether it came back from level 0, rather than be an edit of `before`."""
        return bool(self._level) and (
            self._is_known(block) or self._came_back(block, LetterPairs(block.text).likeness(LetterPairs(before.text)))
        )

    def _is_known(self, block: Block) -> bool:
        return (block.role, block.text) in self._private

    def is_shared(self, block: Block, private: list[LetterPairs]) -> bool:
        """Whether others have it: in these words, or in such that it is an edit of them and of none of `private`.

        Never where the document is of level 0 as a whole.
        """
        return bool(self._level) and (self._was_shared(block) or self._is_edit_of_shared(block, private))

    def _was_shared(self, block: Block) -> bool:
        return (block.role, block.text) in self._shared

    def _is_edit_of_shared(self, block: Block, private: list[LetterPairs]) -> bool:
        its = LetterPairs(block.text)
        shared = [pairs for role, pairs in self._shared_gone if role == block.role]
        if not self._may_compare(len(shared) + len(private)):
            return False
        alike = [its.overlap(pairs) for pairs in shared if its.likeness(pairs) >= SIMILAR]
        return bool(alike) and all(
            its.likeness(pairs) < SIMILAR and its.overlap(pairs) < max(OVERLAPPING, *alike) for pairs in private
        )

    def _came_back(self, block: Block, likeness: float = 0.0) -> bool:
        """Whether it is like something of level 0 that went just now, or is not known to be in the file.

        More than `likeness`; and it was never shared.
        """
        if not self._private_gone or self._was_shared(block):
            return False
        if not self._may_compare(len(self._private_gone)):
            return True  # nothing new is shared
        # Not by the share of the shorter one, too: this is remembered for long, and short lines have that by chance.
        its = LetterPairs(block.text)
        return any(
            role == block.role and its.likeness(pairs) >= SIMILAR and its.likeness(pairs) > likeness
            for role, pairs in self._private_gone
        )

    def _may_compare(self, count: int) -> bool:
        """Whether that many comparisons are left."""
        self._left -= count
        return self._left >= 0

    @cached_property
    def _private(self) -> Container[tuple[str, str]]:
        return self._past.private()

    @cached_property
    def _shared(self) -> Collection[tuple[str, str]]:
        return self._past.shared()

    @cached_property
    def _private_gone(self) -> list[tuple[str, LetterPairs]]:
        unseen = {(entry.role, entry.text) for entry in self._unseen if entry.private}
        return [(role, LetterPairs(text)) for role, text in unseen.union(self._past.private_gone())]

    @cached_property
    def _shared_gone(self) -> list[tuple[str, LetterPairs]]:
        return [(role, LetterPairs(text)) for role, text in self._past.shared_gone()]


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
