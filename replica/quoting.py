"""Words of others on a page of ours: shown so that they can neither leave their quotation nor hide in it.

Every line of a quotation begins with a mark that no line of ours begins with. In markdown it also stands in a code
fence longer than any it holds, so that neither HTML nor a fence in it means anything.
"""

import re

MARK = "> "
# Nobody sees these, and they can spell a whole text: Unicode's tags and its many variation selectors.
_HIDDEN = re.compile("[\U000e0000-\U000e0fff]")
_JOINERS = frozenset("\u200c\u200d")  # scripts and emoji need them
_FENCE = re.compile(r"[`~]+")


def visible(text: str) -> str:
    """`text` with what steers a terminal, breaks a line by stealth or hides made visible; "\\n" and tab stay."""
    text = text.replace("\r\n", "\n")
    if text.isprintable() and not _HIDDEN.search(text):
        return text
    return "".join(c if _plain(c) else _escaped(c) for c in text)


def _plain(char: str) -> bool:
    if char in "\n\t" or char in _JOINERS:
        return True
    if char.isspace() and char != " ":
        return char >= "\xa0" and len(f"-{char}-".splitlines()) == 1
    return char.isprintable() and not _HIDDEN.match(char)


def _escaped(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def label(text: str, most: int = 120) -> str:
    """A name that somebody gave, within a line of ours: one line, no backticks, at most `most` characters."""
    text = visible(text).replace("\n", "\\n").replace("\t", "\\t").replace("`", "'")
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(text: str, indent: str = "") -> str:
    """Each line behind the mark. Ends with a newline."""
    lines = visible(text).strip("\n").split("\n")
    return "".join(f"{indent}{MARK}{line}".rstrip(" ") + "\n" for line in lines)


def fenced(text: str, indent: str = "") -> str:
    """As `quoted`, within a fence: for a page that is rendered as markdown."""
    text = visible(text).strip("\n")
    fence = "`" * max([3, *(len(run) + 1 for run in _FENCE.findall(text))])
    return quoted(f"{fence}text\n{text}\n{fence}", indent)
