"""What other tools leave where they could not merge: markers in a text, and second files beside a first.

Both are somebody's unfinished business. Taken in, they would be memory on every clone. So they are held, here, until a
person has mended them or said that they are meant. Pure judgements; replica/files/edits.py asks them.
"""

import re

from replica.guard import Hold

MARKERS, COPY = "markers", "copy"  # the reasons

# As git, Mercurial and diff3 write them: seven characters at the beginning of a line, then nothing or a blank and a
# name. Of "=======" alone nothing can be said: it underlines headings.
_OURS = re.compile(r"<{7}(?: .*)?")
_BASE = re.compile(r"\|{7}(?: .*)?")
_HALF = re.compile(r"={7}")
_THEIRS = re.compile(r">{7}(?: .*)?")

# Names of second files: {} is what the first one is called. Those that people write by hand as well count only where
# the first file stands beside.
_COPIES = (
    (re.compile(r"(?P<stem>.+)\.sync-conflict-\d{8}-\d{6}(?:-[A-Z0-9]{7})?(?P<end>\.[^.]*)?"), "Syncthing"),
    (re.compile(r"(?P<stem>.+) \((?:.+['’]s )?conflicted copy(?: [^)]*)?\)(?P<end>\.[^.]*)?", re.I), "Dropbox"),
    (re.compile(r"(?P<stem>.+)_conflict-\d{8}-\d{6}(?P<end>\.[^.]*)?"), "ownCloud"),
    (re.compile(r"(?P<stem>.+)_(?:BACKUP|BASE|LOCAL|REMOTE)_\d+(?P<end>\.[^.]*)?"), "git mergetool"),
)  # fmt: skip
_NUMBERED = re.compile(r"(?P<stem>.+) \(\d{1,2}\)(?P<end>\.[^.]*)?")


def lines_of(text: str) -> list[int]:
    """The numbers (from 1) of the lines where merge markers begin or end a conflict."""
    found: list[int] = []
    half = False  # whether a "=======" came that no end has followed yet
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if _OURS.fullmatch(line) or _BASE.fullmatch(line):
            found.append(number)
        elif _HALF.fullmatch(line):
            half = True
        elif _THEIRS.fullmatch(line) and half:
            found.append(number)
            half = False
    return found


def judge_text(before: str, text: str) -> Hold | None:
    """Whether a save brings merge markers into a document, or more than it has."""
    there = lines_of(text)
    if len(there) <= len(lines_of(before)):
        return None
    return Hold(MARKERS, f"merge markers, as git leaves them, begin in line {there[0]}")


def judge_name(path: str, has_first) -> Hold | None:
    """Whether a new file is what another tool has put beside one that it could not merge.

    `has_first(path)`: whether there is a file of that path.
    """
    folder, slash, name = path.rpartition("/")
    for pattern, tool in _COPIES:
        if found := pattern.fullmatch(name):
            return _hold(folder + slash + _first(found), f"{tool} has left it")
    if (found := _NUMBERED.fullmatch(name)) and has_first(folder + slash + _first(found)):
        return _hold(folder + slash + _first(found), "it looks like a second copy")
    return None


def _first(found: re.Match) -> str:
    return found["stem"] + (found["end"] or "")


def _hold(first: str, why: str) -> Hold:
    return Hold(COPY, f"{why} beside {first}; put what is worth it into that file, and delete this one")
