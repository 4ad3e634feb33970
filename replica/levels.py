"""Which level a new block of a saved file gets: what is of level 0, nothing in the file says.

Pure. A document that is shared may hold entries of level 0. What comes back is one of them again; what tells what only
such entries say is kept with them, in doubt, and a person decides (replica/withheld.py).
"""

from collections.abc import Callable, Collection, Container, Iterable
from functools import cached_property
from typing import NamedTuple

from replica.blocks import SIMILAR, Block, LetterPairs
from replica.documents import Entry
from replica.likeness import NONE, Texts, normal, told

Words = Callable[[], Collection[tuple[str, str]]]  # roles and texts of blocks

MOST_SHARED = 300_000  # letters of what everybody has that are looked at


class Past(NamedTuple):
    """What was there before, by level. Asked only where a block is new or edited."""

    private: Callable[[], Texts] = lambda: NONE  # all that was ever of level 0 amid shared documents
    sure: Callable[[], Container[tuple[str, str]]] = tuple  # words that are of level 0 whenever they come
    near: Callable[[], set[str]] = set  # normal forms of what was of level 0 here and went lately
    known: Callable[[set[str]], set[str]] = lambda texts: set()  # which of these private texts were shared elsewhere
    shared: Words = tuple  # what was ever shared in this document
    shared_gone: Words = tuple  # what of it went lately
    elsewhere: Callable[[tuple[str, str]], bool] = lambda words: False  # whether any document that is shared has them
    one_text: bool = False  # of which nothing can be kept apart


NOTHING = Past()


class Verdict(NamedTuple):
    level: int
    in_doubt: bool = False


class Levels:
    """Judges the new blocks of a document whose rule says `level`. `shown`: the live entries that the base shows."""

    def __init__(self, level: int, past: Past, live: list[Entry], shown: Container[bytes] = ()):
        self._level, self._past = level, past
        self._live = live
        # A crash may have come between the file and the base: the file may have shown these as well.
        self._near = {normal(entry.text) for entry in live if entry.private and entry.id not in shown}
        self._parted: list[str] = []

    def parted(self, texts: Iterable[str]) -> None:
        """These entries of level 0 do not stand as they did."""
        self._parted = [normal(text) for text in texts]
        self._near.update(self._parted)

    def judge(self, block: Block) -> Verdict:
        """The level of a block that is new, or edited, and whether that is in doubt."""
        if not self._level or self._past.one_text:
            return Verdict(self._level)
        if (block.role, block.text) in self._sure:
            return Verdict(0)
        return Verdict(0, True) if self._tells(block) else Verdict(self._level)

    def is_shared(self, block: Block) -> bool:
        """Whether others have it, in these words or in others, and it tells nothing of level 0.

        Never where the document is of level 0 as a whole.
        """
        if not self._level or self.judge(block).level == 0:
            return False
        if (block.role, block.text) in self._shared:
            return True
        its = LetterPairs(block.text)
        return any(
            role == block.role and its.likeness(LetterPairs(text)) >= SIMILAR for role, text in self._shared_gone
        )

    def _tells(self, block: Block) -> bool:
        words = (block.role, block.text)
        if not self._private.all or words in self._shared:
            return False
        found = told(self._private, block.text, self._all_near, lambda: self._shared_texts)
        if not found and (text := normal(block.text)):
            found = {other for other in self._parted if text in other}  # a line that was parted in two
        return bool(found) and not found <= self._past.known(found) and not self._past.elsewhere(words)

    @cached_property
    def _private(self) -> Texts:
        texts = self._past.private()
        more = [entry.text for entry in self._live if entry.private and normal(entry.text) not in texts]
        return Texts([*texts.all, *more]) if more else texts

    @cached_property
    def _sure(self) -> Container[tuple[str, str]]:
        return self._past.sure()

    @cached_property
    def _shared(self) -> Collection[tuple[str, str]]:
        return self._past.shared()

    @cached_property
    def _shared_gone(self) -> Collection[tuple[str, str]]:
        return self._past.shared_gone()

    @cached_property
    def _all_near(self) -> set[str]:
        return self._near | self._past.near()

    @cached_property
    def _shared_texts(self) -> Texts:
        left, texts = MOST_SHARED, []
        live = (entry.text for entry in reversed(self._live) if not entry.private)  # people write at the end
        for text in [*(text for _, text in self._shared_gone), *live]:
            left -= len(text)
            if left < 0:
                break
            texts.append(text)
        return Texts(texts)
