"""How many wrong codes a clone lets be tried: over all its invitations, over restarts, whatever the clocks do.

An invitation allows three guesses. Who makes a person invite again and again would have three more each time, so the
clone has a budget of its own: ten in an hour, from whichever address, then a pause. It lies in the store and not in a
file beside it: a guess is committed under the write lock before it is judged, so neither a kill nor a second process
that invites gives one for free, and the folder is moved or restored with all that it knows.

A clock can be set. What has passed is read from the clock that runs since the machine was started, and from the wall
clock only over a restart of the machine, which that clock does not survive. Whatever they show, a guess is forgotten
neither before its hour by a clock set back, nor kept for longer than one more hour of a running machine.
"""

import json
import time
from collections.abc import Callable

from replica.errors import TooManyGuesses
from replica.store import Store

MOST = 10  # wrong guesses in PERIOD: 10 in 2^24
PERIOD = 3600.0  # seconds after which a guess is forgotten
KEY = "guesses"  # in the store's `meta`


def since_boot() -> float:
    """Seconds since the machine was started; where the system tells, those asleep as well."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def elapsing(wall: Callable[[], float] = time.time, steady: Callable[[], float] = since_boot) -> Callable[[], float]:
    """A clock for what must end: seconds from now by the faster of two clocks, and never back."""
    began, shown = (wall(), steady()), 0.0

    def elapsed() -> float:
        nonlocal shown
        shown = max(shown, wall() - began[0], steady() - began[1])
        return shown

    return elapsed


class Guesses:
    """The budget of one clone, kept in its `store`. Any number may be open on one store."""

    def __init__(
        self, store: Store, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = since_boot
    ):
        self._store, self._wall, self._steady = store, wall, steady

    def spend(self) -> None:
        """Count one guess, durably. Raises TooManyGuesses: none is left, and nothing may be judged."""
        with self._store.transaction():
            ages = self._ages()
            if len(ages) >= MOST:
                raise too_many(PERIOD - max(ages))
            self._keep([*ages, 0.0])

    def give_back(self) -> None:
        """The last one was no wrong guess: the code was right."""
        with self._store.transaction():
            self._keep(sorted(self._ages())[1:])

    def pause(self) -> float:
        """Seconds until a guess may be made; 0.0 when one may be made now."""
        if self._store.meta(KEY) is None:
            return 0.0  # the usual case needs no lock
        with self._store.transaction():
            ages = self._ages()
        return PERIOD - max(ages) if len(ages) >= MOST else 0.0

    def check(self) -> None:
        """Raises TooManyGuesses while there is a pause."""
        if pause := self.pause():
            raise too_many(pause)

    def _ages(self) -> list[float]:
        """How long ago each guess was that still counts, in seconds."""
        kept = self._store.meta(KEY)
        if kept is None:
            return []
        wall, steady = self._wall(), self._steady()
        try:
            ages, wall_then, steady_then = _read(kept)
        except ValueError:  # what cannot be read counts as spent, from now on: it ends as every pause does
            ages, wall_then, steady_then = [0.0] * MOST, wall, steady
            self._keep(ages)
        restarted = steady < steady_then
        passed = max(0.0, wall - wall_then) if restarted else steady - steady_then
        ages = [age + passed for age in ages if age + passed < PERIOD]
        if restarted:
            self._keep(ages)  # from here on by the clock of this start
        return ages

    def _keep(self, ages: list[float]) -> None:
        self._store.set_meta(KEY, json.dumps([ages, self._wall(), self._steady()]))


def _read(kept) -> tuple[list[float], float, float]:
    """Raises ValueError: it is not what was written."""
    try:
        ages, wall, steady = json.loads(kept)
        numbers = [float(number) for number in (*ages, wall, steady)]
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError("not a record of guesses") from None
    if len(ages) > MOST or not all(number == number and abs(number) < 1e15 for number in numbers) or min(numbers) < 0:
        raise ValueError("not a record of guesses")
    return numbers[:-2], numbers[-2], numbers[-1]


def too_many(pause: float) -> TooManyGuesses:
    minutes = max(1, -int(-pause // 60))
    return TooManyGuesses(
        f"{MOST} wrong codes were tried at this clone within an hour; it lets nobody in for {minutes} more minutes",
        hint="if it was not you, somebody in this network is guessing; another clone of the workspace can invite now",
    )
