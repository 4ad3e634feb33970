"""Entries that say nearly the same: found for a person to look at, never merged by themselves. Nothing leaves here.

Two entries are alike by their words: the cosine of the stems that they have, each weighted by how rare it is among all
entries (Salton, Buckley 1988). To compare each with each would be 50 million comparisons for 10,000 entries, so only
those are compared that share one of their rarest stems: without it no pair can reach the bound (Bayardo et al. 2007).
Where the vectors of an embedder are at hand, entries are alike by what they mean as well.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgpack

from replica.blocks import ENTRY
from replica.changes import Add, Remove
from replica.clone import Clone
from replica.cloud.words import BIGRAM_RUN, STOP, WORD
from replica.documents import Document, Entry
from replica.errors import DamagedRecord, NotFound, UsageError, WrongPolicy
from replica.writing import compose, free_occurrence

ALIKE = 0.5  # cosine by words from which a pair is shown
MEANT = 0.8  # cosine of vectors from which a pair is shown
FEW = 1_000  # entries: in fewer, that a stem occurs twice does not make it a common one
MOST_AT_ONE = 100  # entries that are compared for one stem, the nearest before it: where all are alike, some will do
MOST_PARTNERS = 20  # of one entry among those before it
LOOKED_AT = 2_000  # characters of an entry
DISMISSED = "similar:"  # begins the keys of `meta` that remember pairs which a person wants to stay two
LISTED = "similar"  # the key of `meta` that remembers what the last list showed
KEEP_BOTH = "both"

_ENDING = re.compile(r"(?<=\w{3})(?:ings?|ed|e?s|ly|ers?|en|e)$")
STEM = 6  # letters


class Said(NamedTuple):
    """One entry, and where it stands."""

    document: Document
    entry: Entry

    @property
    def name(self) -> bytes:
        """What it says, as a hash: a pair is known again where it was moved, and is another once one was edited."""
        return hashlib.sha256(self.entry.text.strip().encode("utf-8", "replace")).digest()[:16]


class Pair(NamedTuple):
    """Two entries that are alike: the older one first. `by`: "words" or "meaning"; `score` up to 1."""

    id: str
    one: Said
    other: Said
    score: float
    by: str


def listed(clone: Clone, near: Iterable[tuple[tuple[str, bytes], tuple[str, bytes], float]] = ()) -> list[Pair]:
    """The pairs that nobody has looked at, the most alike first; remembered by their ids for `resolve`.

    `near`: pairs by meaning, each entry as (document's path, entry's id), with the cosine.
    """
    all_said = said(clone)
    places = {(one.document.path, one.entry.id): at for at, one in enumerate(all_said)}
    found = {pair: (score, "words") for pair, score in by_words([one.entry.text for one in all_said]).items()}
    for a, b, score in near:
        pair = tuple(sorted((places.get(a, -1), places.get(b, -1))))
        if pair[0] >= 0 and pair[0] != pair[1] and score >= MEANT and score > found.get(pair, (0.0,))[0]:
            found[pair] = (score, "meaning")
    dismissed = _dismissed(clone)
    pairs = [_pair(all_said[i], all_said[j], *how) for (i, j), how in found.items()]
    pairs = sorted((one for one in pairs if one.id not in dismissed), key=lambda one: (-one.score, one.id))
    with clone.transaction():
        clone.store.set_meta(LISTED, msgpack.packb([[one.id, one.one.name, one.other.name] for one in pairs[:10_000]]))
    return pairs


def said(clone: Clone) -> list[Said]:
    """The entries of all buffers. A log tells what happened, and things happen again."""
    found = []
    for document in clone.documents.all():
        if document.policy == "union":
            try:
                entries = clone.documents.entries(document)
            except DamagedRecord:
                continue  # listed where its file is passed over
            found += [Said(document, entry) for entry in entries if entry.role == ENTRY]
    return found


def _pair(one: Said, other: Said, score: float, by: str) -> Pair:
    older, newer = sorted((one, other), key=lambda said: (said.entry.time, said.document.path, said.entry.id))
    digest = hashlib.sha256(b"".join(sorted((older.name, newer.name)))).hexdigest()
    return Pair(f"s{digest[:10]}", older, newer, round(min(score, 1.0), 3), by)


# --- the measure


def by_words(texts: list[str]) -> dict[tuple[int, int], float]:
    """Which of these texts are alike by their words: positions, the lower one first, with the cosine."""
    stems = [_stems(text) for text in texts]
    frequency = Counter(stem for one in stems for stem in one)
    weight = _weights(frequency, len(texts))
    vectors = [_normal(one, weight) for one in stems]
    at: dict[str, list[int]] = defaultdict(list)  # stem -> the texts of which it is one of the rarest
    found: dict[tuple[int, int], float] = {}
    for j, vector in enumerate(vectors):
        telling = _telling(vector, frequency)
        partners = 0
        for i in {i for stem in telling for i in at[stem][-MOST_AT_ONE:]}:
            score = _cosine(vectors[i], vector)
            if score >= ALIKE:
                found[i, j] = score
                partners += 1
                if partners == MOST_PARTNERS:
                    break
        for stem in telling:
            at[stem].append(j)
    return found


def _stems(text: str) -> frozenset[str]:
    found = set()
    for word in WORD.findall(text[:LOOKED_AT].casefold()):
        rest = BIGRAM_RUN.sub(" ", word).split()
        found.update(part for part in rest if part not in STOP)
        for run in BIGRAM_RUN.findall(word):  # scripts without blanks between words
            found.update(f"{run[k : k + 2]}" for k in range(max(1, len(run) - 1)))
    return frozenset(_ENDING.sub("", stem)[:STEM] for stem in found)


def _weights(frequency: Counter[str], texts: int) -> dict[str, float]:
    return {stem: math.log(1 + max(texts, FEW) / count) for stem, count in frequency.items()}


def _normal(stems: Iterable[str], weight: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(weight[stem] ** 2 for stem in stems)) or 1.0
    return {stem: weight[stem] / length for stem in stems}


def _telling(vector: dict[str, float], frequency: Counter[str]) -> list[str]:
    """The rarest stems, so many that the others alone cannot reach the bound."""
    order = sorted(vector, key=lambda stem: (frequency[stem], stem))
    left = 1.0
    for count, stem in enumerate(order):
        if left < ALIKE**2:
            return order[:count]
        left -= vector[stem] ** 2
    return order


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    few, many = (one, other) if len(one) < len(other) else (other, one)
    return sum(value * many[stem] for stem, value in few.items() if stem in many)


# --- what a person says to a pair


def is_id(id: str) -> bool:
    """Whether this is the id of a pair, or its beginning: those of conflicts have no such letter."""
    return id[:1].lower() == "s" and len(id) > 4


def find(clone: Clone, id: str) -> Pair:
    """A pair of the last list, by its id or the beginning of it. Raises NotFound."""
    rows = msgpack.unpackb(clone.store.meta(LISTED) or msgpack.packb([]))
    found = [row for row in rows if row[0].startswith(id.lower())]
    if len(found) > 1:
        raise NotFound(f"{len(found)} pairs begin with {id!r}", hint="give more of its id")
    entries = {one.name: one for one in reversed(said(clone))} if found else {}
    if not found or not {found[0][1], found[0][2]} <= entries.keys():
        raise NotFound(f"no pair of entries {id!r}", hint="list them with `replica conflicts --similar`")
    _, one, other = found[0]
    if one == other:  # the same words in two places
        twins = [each for each in said(clone) if each.name == one]
        if len(twins) < 2:
            raise NotFound(f"of the pair {id!r} one entry is gone", hint="list them with `replica conflicts --similar`")
        return _pair(twins[0], twins[1], 1.0, "words")
    return _pair(entries[one], entries[other], 0.0, "words")


def resolve(clone: Clone, pair: Pair, *, keep: str | None = None, text: str | None = None) -> str:
    """Settle a pair: `both` stay and are not shown again, one (`v1`, `v2`) or `text` takes the place of both.

    Returns what stands there now. Raises UsageError, NotFound, WrongPolicy.
    """
    if (keep is None) == (text is None):
        raise UsageError("say either which entry to keep, or the text", hint="--keep both, --keep v1, or --text TEXT")
    with clone.transaction():
        if keep == KEEP_BOTH:
            clone.store.set_meta(f"{DISMISSED}{pair.id}", True)
            return pair.one.entry.text
        if keep is not None and keep not in ("v1", "v2"):
            raise NotFound(f"pair {pair.id} has no entry {keep!r}", hint="it has v1 and v2, and there is both")
        kept, gone = (pair.other, pair.one) if keep == "v2" else (pair.one, pair.other)
        new = _again(kept.entry) if text is None else _written(clone, kept, gone, text)
        _put(clone, kept, gone, new)
        return new.text


def _again(entry: Entry) -> Add:
    """The same entry, under its own name. Written anew, it is there still when another clone has kept the other one."""
    return Add(entry.role, entry.text, entry.occurrence, entry.lead, entry.place, entry.dots, entry.meta)


def _written(clone: Clone, kept: Said, gone: Said, text: str) -> Add:
    if kept.entry.private != gone.entry.private:
        raise WrongPolicy("one of the two is for this clone alone (level 0)", hint="keep one of them: --keep v1 or v2")
    words = compose(text, kept.document.policy)
    if words == kept.entry.text:
        return _again(kept.entry)
    occurrence = free_occurrence(clone, kept.document, kept.entry.role, words)
    return _again(kept.entry)._replace(text=words, occurrence=occurrence)


def _put(clone: Clone, kept: Said, gone: Said, new: Add) -> None:
    level, other_level = (0 if said.entry.private else 1 for said in (kept, gone))
    here, there = kept.document, gone.document
    if (here.path, here.policy) == (there.path, there.policy):
        # In one document it is said as what it is. Two clones that keep one each have both still, and the pair again.
        new = new._replace(kills=(*new.kills, *gone.entry.dots))
    else:
        clone.edit_entries(there.path, there.policy, [(other_level, Remove(gone.entry.dots))])
    clone.edit_entries(here.path, here.policy, [(level, new)])


def _dismissed(clone: Clone) -> set[str]:
    end = DISMISSED[:-1] + chr(ord(DISMISSED[-1]) + 1)
    rows = clone.store.rows("SELECT key FROM meta WHERE key>=? AND key<?", (DISMISSED, end))
    return {key.removeprefix(DISMISSED) for (key,) in rows}
