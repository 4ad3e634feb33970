"""Invitation codes such as `37-harbor-violet-onion`: a public number and three secret words.

The number only says which invitation is meant, and is announced on the LAN. The words are the password: three of 256
make 24 bits, which is plenty when every guess must be made at the inviter and it allows three (transport/pairing.py).
"""

from collections.abc import Callable
from functools import cache
from importlib import resources

from replica.errors import WrongCode

WORDS = 3  # words in a code: 8 bits each
NAMEPLATES = 999  # nameplates run from 1 to this
MAX_CODE = 100  # characters that are looked at; the longest code has 30

FORMAT_HINT = "a code is a number and three words, such as 37-harbor-violet-onion"


@cache
def words() -> tuple[str, ...]:
    """The 256 words, sorted. No word begins another, and any two differ in at least two letters."""
    return tuple(resources.files("transport").joinpath("data/words.txt").read_text("ascii").split())


def new_code(randbelow: Callable[[int], int]) -> str:
    """A new code. `randbelow(n)` must be unpredictable, as `secrets.randbelow` is."""
    chosen = [words()[randbelow(len(words()))] for _ in range(WORDS)]
    return "-".join([str(1 + randbelow(NAMEPLATES)), *chosen])


def parse(code: str) -> tuple[int, str]:
    """Split a typed code into its nameplate (1..999) and its password, in their one canonical form.

    Case, spaces, underscores and further hyphens do not matter.

    Raises:
        WrongCode: it cannot be a code; the hint names the word that was probably meant.
    """
    if len(code) > MAX_CODE:
        raise WrongCode("that is too long to be an invitation code", hint=FORMAT_HINT)
    parts = code.lower().replace("_", " ").replace("-", " ").split()
    if len(parts) != 1 + WORDS:
        raise WrongCode("that is not a whole invitation code", hint=FORMAT_HINT)
    number, *typed = parts
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= NAMEPLATES):
        raise WrongCode(f"an invitation code begins with a number from 1 to {NAMEPLATES}", hint=FORMAT_HINT)
    for word in typed:
        if word not in words():
            raise WrongCode(f"no invitation code has the word '{word}'", hint=f"did you mean '{nearest(word)}'?")
    return int(number), "-".join(typed)


def nearest(word: str) -> str:
    """The word of the list that takes the fewest single-letter changes to reach."""
    return min(words(), key=lambda known: (distance(word, known), known))


def distance(one: str, other: str) -> int:
    """How many letters to insert, delete or replace to make one word the other (Levenshtein)."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        current = [row]
        for column, against in enumerate(other, 1):
            replaced = above[column - 1] + (letter != against)
            current.append(min(above[column] + 1, current[-1] + 1, replaced))
        above = current
    return above[-1]
