"""Whether a text tells what so far only texts of level 0 say.

Pure. Texts are compared by their runs of four letters, without case, spacing and marks of lists: longer runs break at
every edit, shorter ones are in any text by chance. What a text that everybody has says as well, tells nothing.
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

RUN = 4  # letters
LONGEST = 100_000  # letters of a text that are looked at
OFTEN = 20  # texts, and an eighth of all, from which on a run tells little of which is most alike
SHORTEST = 3  # letters from which a text may be the beginning of another one

# One tells the other if it has so much of what only the private text says, and so many runs of that; or if so much of
# what is new in it is of the private text. One that went just now is near: what comes then may well be of it.
LEAST, WORTH = 3, 0.2  # runs, and which share of all of the private text, from which it is looked at closely
OF_PRIVATE, OF_NEAR = 0.5, 0.35
OF_NEW, LEAST_NEW, LEAST_NEW_NEAR = 0.7, 8, 5

_MARK = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)]|#{1,6})\s+")


def normal(text: str) -> str:
    """A text as it is compared."""
    return " ".join(_MARK.sub("", text[:LONGEST], count=1).casefold().split()).rstrip(" .,;:!?")


def runs(normal_text: str) -> set[str]:
    """What a text in its normal form consists of; of one that is shorter than a run, that text."""
    if len(normal_text) <= RUN:
        return {normal_text}
    return {normal_text[at : at + RUN] for at in range(len(normal_text) - RUN + 1)}


def share(of: str, by: str) -> float:
    """How much of the text `of` the text `by` has, from 0 to 1."""
    its = runs(normal(of))
    return len(its & runs(normal(by))) / len(its)


class Texts:
    """Many texts, to be asked which of them have how much of another."""

    def __init__(self, texts: Iterable[str]):
        self.all = sorted({normal(text) for text in texts} - {""})
        self._having: dict[str, list[int]] = defaultdict(list)
        self.runs: list[set[str]] = [runs(text) for text in self.all]
        for n, its in enumerate(self.runs):
            for run in its:
                self._having[run].append(n)

    def __contains__(self, normal_text: str) -> bool:
        at = bisect_left(self.all, normal_text)
        return at < len(self.all) and self.all[at] == normal_text

    def beginning_with(self, normal_text: str) -> Iterator[str]:
        for at in range(bisect_left(self.all, normal_text), len(self.all)):
            if not self.all[at].startswith(normal_text):
                return
            yield self.all[at]

    def common(self, its: set[str]) -> Counter[int]:
        """How many of these runs each text has that has any, by its number."""
        return Counter(chain.from_iterable(self._having.get(run, ()) for run in its))

    def most_alike(self, its: set[str]) -> set[str]:
        """The runs of the text that has most of these; those in nearly all texts do not count."""
        often, having = OFTEN + len(self.all) // 8, (self._having.get(run, ()) for run in its)
        count = Counter(chain.from_iterable(numbers for numbers in having if len(numbers) <= often))
        return self.runs[max(count, key=lambda n: (count[n], -n))] if count else set()


NONE = Texts(())


def told(private: Texts, text: str, near: set[str], shared: Callable[[], Texts]) -> set[str]:
    """Which of the private texts (in their normal form) another one tells.

    `near`: those of them that are near. `shared`: what everybody has in that document; what a line of it says, is
    neither private nor new.
    """
    text = normal(text)
    found = {text} if text in private else set()
    if len(text) >= SHORTEST and any(private.beginning_with(text)) and not any(shared().beginning_with(text)):
        found.update(private.beginning_with(text))
    its = runs(text)
    known, new = None, its
    for n, many in private.common(its).items():
        other, of_other = private.all[n], private.runs[n]
        of_private, least_new = (OF_NEAR, LEAST_NEW_NEAR) if other in near else (OF_PRIVATE, LEAST_NEW)
        whole = len(other) >= LEAST_NEW and other in text  # it may be long, and of few runs
        if not whole and (many < LEAST or (many < least_new and many < WORTH * len(of_other))):
            continue
        if known is None:
            known = shared().most_alike(its)
            new = its - known
        own = of_other - known
        many = len(own & new)
        if (
            (whole and own)
            or (many >= LEAST and many >= of_private * len(own))
            or (many >= least_new and many >= OF_NEW * len(new))
        ):
            found.add(other)
    return found
