"""Logs that hold a JSON object a line: where a line ends, what of it is good, and from where to go on.

A log may be written while it is read. What stands behind the last line end is told as far as it is whole, but a `Place`
is never behind it: the next run reads that line once more.
"""

import json
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from replica.sessions.base import Damage, Event, LogFile, Place, Progress

LONGEST = 32 << 20  # bytes of a line; a longer one is told as damage, so that a file without line ends does no harm
STEP = 8 << 20  # bytes between two `Progress`
_HEAD, _TAIL = 1024, 256  # bytes that tell whether a file is still the one that was read
_BLANK = b" \t\r\n\x00"
_BOM = b"\xef\xbb\xbf"


class BadRecord(ValueError):
    """Not a JSON object. The message says why."""


def record(data: bytes) -> dict[str, Any]:
    """The object of a line. Raises BadRecord."""
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 from byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadRecord(f"not to be read: {error}") from None
    except RecursionError:
        raise BadRecord("nested too deep") from None
    if not isinstance(value, dict):
        raise BadRecord("not a JSON object")
    return value


class Line(NamedTuple):
    """A line that is not blank. `ended`: its line end is there. `data` is empty where it is longer than LONGEST."""

    number: int
    data: bytes
    ended: bool


class Unreadable(Exception):
    """The file cannot be read, or not from here on. The message says why."""


class Opened:
    """A file of lines, plain or packed (.zst). Offsets count unpacked bytes.

    Only what was there when it was opened is read: two passes see the same lines. `offset`, `line`: behind the last
    line that had its end.
    """

    def __init__(self, path: Path):
        self.packed = path.name.endswith(".zst")
        try:
            self._file = _unpacking(path) if self.packed else path.open("rb", buffering=1 << 20)
            self._limit = 1 << 62 if self.packed else os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
        self._first = self._recent = b""
        self.offset = self.line = 0

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def go(self, place: Place) -> bool:
        """Go to `place`, if this is still the file that was read up to there; else stay at the beginning."""
        try:
            self._file.seek(0)
            self._first = self._file.read(_HEAD)
            if 0 < place.offset <= self._limit:
                self._file.seek(max(0, place.offset - _TAIL))
                self._recent = self._file.read(min(_TAIL, place.offset))
                self.offset, self.line = place.offset, place.line
                if len(self._recent) == min(_TAIL, place.offset) and self._head() == place.head:
                    return True
            self._file.seek(0)
        except _faults(self.packed) as error:
            raise Unreadable(f"cannot be unpacked: {error}" if self.packed else str(error)) from None
        self._recent, self.offset, self.line = b"", 0, 0
        return not place.offset

    def place(self, state: bytes) -> Place:
        return Place(self.offset, self.line, self._head(), state)

    def _head(self) -> bytes:
        first = self._first[: min(_HEAD, self.offset)]
        return blake2b(first + b"\n" + self._recent, digest_size=16).digest()

    def lines(self) -> Iterator[Line]:
        """The lines from here on. Raises Unreadable, behind those that could be read."""
        file, longest = self._file, LONGEST
        try:
            while data := file.readline(min(longest, self._limit - self.offset)):
                size, long = len(data), len(data) == longest and not data.endswith(b"\n")
                recent = data
                while long and (more := file.readline(min(longest, self._limit - self.offset - size))):
                    size, recent = size + len(more), recent[-_TAIL:] + more
                    if more.endswith(b"\n"):
                        break
                if not recent.endswith(b"\n"):
                    kept = b"" if long else data.strip(_BLANK)
                    if kept or long:
                        yield Line(self.line + 1, kept, False)
                    return
                if self.offset == 0 and data.startswith(_BOM):
                    data = data[len(_BOM) :]
                self.offset += size
                self.line += 1
                self._recent = recent[-_TAIL:] if len(recent) >= _TAIL else (self._recent + recent)[-_TAIL:]
                if long:
                    yield Line(self.line, b"", True)
                elif kept := data.strip(_BLANK):
                    yield Line(self.line, kept, True)
        except _faults(self.packed) as error:
            raise Unreadable(f"cannot be read on: {error}") from None


def _unpacking(path: Path) -> Any:
    return zstd().open(path, "rb")


def _faults(packed: bool) -> tuple[type[BaseException], ...]:
    return (OSError, EOFError, zstd().ZstdError) if packed else (OSError,)


def zstd() -> Any:
    """The zstd module, of Python itself from 3.14 on."""
    try:
        from compression import zstd as module  # type: ignore[import-not-found]
    except ImportError:
        from backports import zstd as module
    return module


class Adapter(Protocol):
    """What one format means. One object reads one log, in order."""

    folders: set[str]
    waits: bool  # what was read can be told only when more has come: the next run begins again

    def survey(self, opened: Opened) -> bool:
        """Look over the lines from here on for what earlier ones depend on (branches given up, turns rolled back).

        False: lines before these are concerned, so all must be read again from the beginning.
        """

    def wanted(self, data: bytes) -> bool:
        """Whether the line has to be decoded at all. Wrong only towards True."""

    def events(self, record: dict[str, Any], line: int) -> Iterator[Event]: ...

    def state(self) -> bytes: ...


def follow(log: LogFile, place: Place, adapter: Any) -> Iterator[Event | Damage | Progress]:
    """Read a log of lines. `adapter(log, state)` makes the Adapter; `state` is b"" at the beginning of a log."""
    file = str(log.path)
    try:
        with Opened(log.path) as opened:
            made = _surveyed(opened, log, place, adapter)
            yield from _told(opened, file, made)
    except Unreadable as error:
        yield Damage(file, 0, str(error))
        yield Progress(place)


def _surveyed(opened: Opened, log: LogFile, place: Place, adapter: Any) -> Adapter:
    """The adapter, having looked ahead, and `opened` where the reading begins."""
    if opened.go(place):
        try:
            made = adapter(log, place.state)
        except (ValueError, TypeError, AttributeError):  # a state that another version wrote
            pass
        else:
            if _looks_ahead(made, opened):
                opened.go(place)
                return made
    opened.go(Place())
    made = adapter(log, b"")
    _looks_ahead(made, opened)
    opened.go(Place())
    return made


def _looks_ahead(made: Adapter, opened: Opened) -> bool:
    try:
        return made.survey(opened)
    except Unreadable:  # told when the reading comes to it
        return True


def _told(opened: Opened, file: str, made: Adapter) -> Iterator[Event | Damage | Progress]:
    place, last = opened.place(made.state()), opened.offset
    try:
        for line in opened.lines():
            if not line.ended:  # told, but not passed over: the next run reads it again, when it has its end
                place = opened.place(made.state())
            yield from _of_line(line, file, made)
            if not line.ended:
                yield Progress(Place() if made.waits else place, frozenset(made.folders))
                return
            if opened.offset - last >= STEP:
                last = opened.offset
                yield Progress(opened.place(made.state()), frozenset(made.folders))
    except Unreadable as error:
        yield Damage(file, opened.line + 1, str(error))
    yield Progress(Place() if made.waits else opened.place(made.state()), frozenset(made.folders))


def _of_line(line: Line, file: str, made: Adapter) -> Iterator[Event | Damage]:
    if not line.data:
        yield Damage(file, line.number, f"longer than {LONGEST >> 20} MB")
    elif made.wanted(line.data) or not line.data.endswith(b"}"):
        try:
            yield from list(made.events(record(line.data), line.number))
        except BadRecord as error:
            yield Damage(file, line.number, str(error) if line.ended else f"cut off: {error}")
        # A shape that nobody foresaw costs this record alone, and is told.
        except Exception as error:
            yield Damage(file, line.number, f"not of a known form: {type(error).__name__}: {error}")
