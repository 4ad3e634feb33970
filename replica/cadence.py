"""When a document and its file meet: the cadences `live`, `session`, `daily` and `weekly` of replica.toml.

A cadence delays that meeting, both ways, and nothing else: what is written by a command is in the log at once, and
others get it. A file and its document that were apart merge when they meet, as after any absence.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from replica.config import CADENCES
from replica.store import Store

if TYPE_CHECKING:
    from replica.config import Rule

PERIODS = {"daily": 86_400_000, "weekly": 7 * 86_400_000}  # milliseconds between two meetings


class Due(NamedTuple):
    """What meets now: all documents of these cadences, and `paths` whatever their cadence."""

    cadences: frozenset[str]
    paths: frozenset[str] = frozenset()

    def has(self, path: str, rule: "Rule | None") -> bool:
        return rule is not None and (rule.cadence in self.cadences or path in self.paths)


LIVE = Due(frozenset({"live"}))


def due(
    store: Store, now_ms: int, *, every: bool = False, session: bool = False, paths: Iterable[str] = ()
) -> Due:  # fmt: skip
    """`every`: all there are. `session`: a stretch of work begins. `paths`: documents that a person has named."""
    if every:
        return Due(frozenset(CADENCES))
    # A last time that is still to come: the clock was set back, and nobody waits until it is there again.
    periodic = {
        name for name, period in PERIODS.items() if not 0 <= now_ms - (store.meta(f"met:{name}") or 0) < period
    }  # fmt: skip
    return Due(frozenset({"live", *({"session"} if session else ()), *periodic}), frozenset(paths))


def met(store: Store, due: Due, now_ms: int) -> None:
    """All documents of these cadences have met their files."""
    for name in PERIODS.keys() & due.cadences:
        store.set_meta(f"met:{name}", now_ms)


# --- branches of git: each cadence looks at its files at its own time, so each remembers what was checked out then


def switched(store: Store, cadence: str, head: str | None) -> bool:
    """Whether git has another branch checked out than when the files of this cadence were last looked at."""
    known = store.meta(_head(cadence)) or store.meta(_head("live"))
    return known is not None and head != known


def looked(store: Store, cadences: Iterable[str], head: str | None) -> None:
    """The files of these cadences were looked at, and nothing waits on account of a branch."""
    before, chosen = store.meta(_head("live")), set(cadences)
    for name in CADENCES:
        known = store.meta(_head(name))
        now = head if name in chosen else known or before
        if now != known:
            store.set_meta(_head(name), now)


def _head(cadence: str) -> str:
    return "git_head" if cadence == "live" else f"git_head:{cadence}"
