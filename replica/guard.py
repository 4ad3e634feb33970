"""What looks like an accident is held back: many entries gone at once, files vanished, a past rewritten.

Pure judgements; the bridge asks them, and replica/files/holds.py keeps what is held.
"""

from typing import NamedTuple

from replica.config import Guard

# Files here that one other clone wrote last, before new ones of it wait for a person. Not in replica.toml: that file is
# shared, so whoever makes a million documents could raise it for everyone. The largest memory we know of has 1,200.
ARRIVALS = 10_000
LIKENESS = "likeness"  # the reason of lines that are withheld (replica/withheld.py)
QUOTED = 100  # characters of a line that are shown of it


class Hold(NamedTuple):
    """Why a file waits for `replica accept` or `replica reject`."""

    reason: str  # one word, for scripts: removal, vanished, past, branch, level, likeness, arrivals, markers, copy
    what: str  # one sentence, for people


def judge_removal(gone: int, before: int, limits: Guard, what: str) -> Hold | None:
    """Whether losing `gone` of `before` entries or lines in one save looks like an accident."""
    if gone > limits.entries and gone > before * limits.share:
        return Hold("removal", f"{gone} of {before} {what} are gone at once")
    return None


def judge_vanished(gone: int, before: int, limits: Guard) -> Hold | None:
    """Whether `gone` of `before` files missing at once looks like an accident."""
    if gone > limits.files or (gone > 1 and gone >= before):
        return Hold("vanished", f"{gone} of {before} files are gone at once")
    return None


def judge_past(policy: str, past: bool) -> Hold | None:
    """A log only grows."""
    if policy == "log" and past:
        return Hold("past", "lines of a log were changed or removed; a log only grows")
    return None


def judge_branch(switched: bool, removes: bool) -> Hold | None:
    """Entries that go together with a switch of git branches were not removed by a person."""
    if switched and removes:
        return Hold("branch", "entries are gone since git switched to another branch")
    return None


def judge_sharing(private: int, policy: str) -> Hold | None:
    """A change of policy must not share what is of level 0: entries keep their level only where they are."""
    if private:
        entries = "1 entry of level 0 stands" if private == 1 else f"{private} entries of level 0 stand"
        return Hold("level", f"{entries} in a file that is to be of policy {policy} now, which would share them")
    return None


def judge_likeness(text: str, id: str) -> Hold:
    """What may be a line of level 0 in other words is not shared, though its file is.

    With its `id`, so that no two lines are told alike, nor one and what it is edited to.
    """
    line = text if len(text) <= QUOTED else f"{text[:QUOTED]}…"
    return Hold(
        LIKENESS, f"a line stays on this clone (level 0), since it may be such a line in other words: {line!r} ({id})"
    )


def judge_arrivals(there: int, here: int, allowed: int, name: str) -> Hold | None:
    """Whether one clone sends more documents than a person may want as files: `there` are, `here` are files."""
    if there > allowed and there > here:
        return Hold("arrivals", f"{name} has written {there:,} documents; {here:,} are files here, the others wait")
    return None
