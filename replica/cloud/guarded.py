"""A sink, and whatever its service answers: what the adapter cannot read ends this sink's run and no other's."""

import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from replica.cloud.base import Sink, SinkError, Trouble

# What reading JSON of a shape that nobody foresaw raises. Anything else is no answer's fault.
_NOT_UNDERSTOOD = (LookupError, TypeError, AttributeError, ValueError, RecursionError)


class Guarded:
    """Stands for a sink, and raises SinkError where that would raise for an answer of an unknown shape."""

    def __init__(self, sink: Sink):
        self._sink = sink

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sink, name)
        return self._guarded(found) if callable(found) else found

    def _guarded(self, call: Callable) -> Callable:
        @wraps(call)
        def guarded(*args, **kwargs):
            try:
                answer = call(*args, **kwargs)
            except _NOT_UNDERSTOOD as error:
                raise self._not_understood(error) from error
            return self._each(answer) if isinstance(answer, Iterator) else answer

        return guarded

    def _each(self, answers: Iterator) -> Iterator:
        try:
            yield from answers
        except _NOT_UNDERSTOOD as error:
            raise self._not_understood(error) from error

    def _not_understood(self, error: Exception) -> Exception:
        if os.environ.get("REPLICA_TRACEBACK"):
            return error
        return SinkError(
            Trouble.UNREACHABLE,
            f"the answer of {self._sink.type} was not understood ({type(error).__name__}: {str(error)[:200]})",
            hint="run it again; if that stays, it is a fault of the program: with REPLICA_TRACEBACK=1 it shows where",
        )
