"""`hash`: a vector of hashed words and parts of words. Needs nothing, and knows no meaning.

It finds what full-text search does not: other forms of a word, misspellings, parts of names. The same everywhere and
for ever under one id, so it also serves tests.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from zlib import crc32

from replica.cloud.words import BIGRAM_RUN, STOP, WORD

DIMENSION = 512
MOST_TEXT = 20_000  # characters of a text that are looked at
MOST_WORD = 40  # characters of a word
PARTS = (2, 3)  # characters; longer ones break at each misspelling
SPREAD = 2654435761  # Knuth, TAOCP 3, 6.4: makes the upper bits depend on all of them


class Hashed:
    id = f"hash-{DIMENSION}-1"
    dimension = DIMENSION
    local = True

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [_vector(text) for text in texts]

    def close(self) -> None:
        pass


def _vector(text: str) -> list[float]:
    found = Counter(word[:MOST_WORD] for word in WORD.findall(_plain(text[:MOST_TEXT])))
    vector = [0.0] * DIMENSION
    for word, count in found.items():
        weight = (0.1 if word in STOP else 1.0) * (1.0 + math.log(count))
        for place, share in _features(word):
            vector[place] += weight * share
    length = math.hypot(*vector)
    if not length:
        return [1.0] + [0.0] * (DIMENSION - 1)  # no words: something of length 1 all the same
    return [value / length for value in vector]


def _plain(text: str) -> str:
    """Without case and accents."""
    text = text.casefold()
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


@lru_cache(maxsize=20_000)
def _features(word: str) -> tuple[tuple[int, float], ...]:
    """Places in the vector and what a word adds there: half of it the word, half its parts."""
    parts = list(_parts(word))
    share = 1.0 / math.sqrt(max(1, len(parts)))
    return tuple([_place(word, 1.0)] + [_place(part, share) for part in parts])


def _parts(word: str) -> Iterator[str]:
    if BIGRAM_RUN.fullmatch(word):
        yield from word
        yield from (word[at : at + 2] for at in range(len(word) - 1))
        return
    edged = f"<{word}>"
    for length in PARTS:
        yield from (edged[at : at + length] for at in range(len(edged) - length + 1))


def _place(feature: str, weight: float) -> tuple[int, float]:
    hashed = crc32(feature.encode("utf-8", "replace")) * SPREAD & 0xFFFFFFFF
    return hashed >> 23, weight if hashed & 0x400000 else -weight
