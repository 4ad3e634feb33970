"""Logs in a form of our own, for tests of what comes after the readers: a JSON object a line, and its reader.

As a program: `python -m tests.sessions.plain INDEX FOLDER [BATCH]` scans them, until it is done or killed.
"""

import json
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from replica.sessions import scan as scanning
from replica.sessions.base import Aside, Damage, Event, Kind, LogFile, Place, Progress
from replica.sessions.index import Index

STEP = 500  # lines between two Progress


class Plain:
    """Obeys the seam's rules: it goes on behind the last whole line, and starts over where the file is another."""

    format = "plain"
    readings = 0

    def read(self, log: LogFile, place: Place = Place()) -> Iterator[Event | Damage | Progress]:
        self.readings += 1
        data = log.path.read_bytes()
        if place.offset > len(data) or _head(data, place.offset) != place.head:
            place = Place()
        offset, line, folders = place.offset, place.line, set()
        for raw in data[offset:].splitlines(keepends=True):
            whole = raw.endswith(b"\n")
            offset, line = offset + len(raw) * whole, line + 1
            try:
                given = json.loads(raw)
                if "cwd" in given:
                    folders.add(given["cwd"])
                else:
                    yield Event(
                        Kind(given.pop("kind")),
                        "plain",
                        order=line,
                        **{**given, "files": tuple(given.get("files", ())), "aside": Aside(given.get("aside", 0))},
                    )
            except ValueError:
                yield Damage(str(log.path), line, "not JSON" if whole else "cut off")
            if not whole:
                line -= 1
            elif line % STEP == 0:
                yield Progress(Place(offset, line, _head(data, offset)), frozenset(folders))
        yield Progress(Place(offset, line, _head(data, offset)), frozenset(folders))


def _head(data: bytes, offset: int) -> bytes:
    return blake2b(data[: min(offset, 256)], digest_size=16).digest() if offset else b""


def line(kind: Kind = Kind.PROMPT, session: str = "s", key: str = "k", at: int = 0, **more) -> str:
    return json.dumps({"kind": kind, "session": session, "key": key, "at": at, **more}) + "\n"


def logs_in(folder: Path) -> list[LogFile]:
    found = []
    for path in sorted(folder.rglob("*.log*")):
        status = path.stat()
        found.append(LogFile(path, "plain", "plain", status.st_size, status.st_mtime_ns))
    return found


def scan(index: Index, folder: Path, reader: Plain | None = None, tell=None) -> scanning.Scanned:
    return scanning.scan(index, logs_in(folder), tell, {"plain": reader or Plain()})


if __name__ == "__main__":
    scanning.BATCH = int(sys.argv[3]) if len(sys.argv) > 3 else scanning.BATCH
    with Index.open(Path(sys.argv[1])) as opened:
        print("begun", flush=True)
        print(scan(opened, Path(sys.argv[2])).new)
