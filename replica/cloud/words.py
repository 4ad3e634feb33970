"""The words of a text and of a question, for full-text search and for hashed vectors. Pure."""

import re
from collections.abc import Iterator

# Scripts that are written without blanks between words, and Hangul, whose words change at their ends: FTS5 would take a
# whole sentence for one word. Such a run is cut into overlapping pairs of characters, as search engines do.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\uac00-\ud7af\uff66-\uff9f"  # Hangul, Kana
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
BIGRAM_RUN = re.compile(f"[{_UNSPACED}]+")

# Marks that belong to a word and are no letters: accents, points of Hebrew and Arabic, and the scripts of India, in
# which vowels are marks. By blocks: a sign too many makes a phrase of two words, one too few a word that is not found.
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0711\u0730-\u074a"
    "\u07a6-\u07b0\u07eb-\u07f3\u07fd\u0816-\u082d\u0859-\u085b\u0898-\u0963\u0966-\u0dff\u0f18-\u0f39\u0f3e-\u0fc6"
    "\u135d-\u135f\u1712-\u1773\u180b-\u18a9\u1920-\u193b\u1a17-\u1cf9\u1dc0-\u1dff\u20d0-\u20f0\u2cef-\u2cf1\u2d7f"
    "\u2de0-\u2dff\u302a-\u302f\ua66f-\ua6f1\ua802-\uabed\ufb1e\ufe00-\ufe0f\ufe20-\ufe2f"
)
WORD = re.compile(rf"[\w{_MARKS}{_UNSPACED}]+")
_BETWEEN = re.compile(rf"[^\w{_MARKS}{_UNSPACED}]+")
TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* Co Mn Mc'"  # of FTS5, to the same ends

# Words that say nothing of what is meant. Where a question has no others, they count all the same.
_STOP = """
    a an and any are as at be been but by can could did do does for from had has have how i if in into is it its me my
    of on or our shall should so than that the their them then there these they this to us was we were what when where
    which who whom whose why will with would you your
"""
STOP = frozenset(_STOP.split())

MOST_QUERY = 5_000  # characters of a question that are looked at
MOST_TERMS = 64  # FTS5 bounds the depth of an expression


def spaced(text: str) -> str:
    """The words of a text as the full-text index gets them: `水位警報` is `水位 位警 警報 報`, any other as it is.

    What is in no word is left out: to SQLite, signs that are younger than its tables are letters.
    """
    return BIGRAM_RUN.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", _BETWEEN.sub(" ", text))


def _pairs(run: str) -> list[str]:
    """Pairs, and the last character by itself: so that each character is the beginning of something."""
    return [run[at : at + 2] for at in range(len(run))]


def query(question: str) -> str:
    """An FTS5 expression for texts that hold any of the words; "" where there are none.

    Each word stands in quotes, and a word holds no quote: nothing of a question is an operator.
    """
    terms: dict[str, str] = {}  # by what they are without case; FTS5 folds it in its own way
    for word in WORD.findall(question[:MOST_QUERY]):
        for part in filter(None, _parts(word)):
            terms.setdefault(part.lower(), part)
    telling = [part for folded, part in terms.items() if folded not in STOP]
    # A single character of a run is found where a pair begins with it.
    return " OR ".join(
        f'"{part}"*' if len(part) == 1 and BIGRAM_RUN.match(part) else f'"{part}"'
        for part in (telling or list(terms.values()))[:MOST_TERMS]
    )


def _parts(word: str) -> Iterator[str]:
    """What a word is searched by: the pairs of its runs, and what stands between them."""
    at = 0
    for run in BIGRAM_RUN.finditer(word):
        yield word[at : run.start()]
        yield from _pairs(run[0])[:-1] or [run[0]]
        at = run.end()
    yield word[at:]
