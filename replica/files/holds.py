"""What the guard holds back (table `held`): a file and its document kept apart until a person decides."""

import itertools
import os

from replica import guard
from replica.clone import Clone
from replica.errors import DocumentNotFound
from replica.places import FOLDER


class Holds:
    """The holds of one clone. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, clone: Clone, now_ms):
        self.store, self.root = clone.store, clone.root
        self.now_ms = now_ms

    def hold(self, path: str, hold: guard.Hold) -> None:
        self.store.execute(
            "INSERT INTO held VALUES(?,?,?,?)"
            " ON CONFLICT(path) DO UPDATE SET reason=excluded.reason, what=excluded.what",
            (path, hold.reason, hold.what, self.now_ms()),
        )

    def release(self, path: str) -> None:
        if self.store.value("SELECT 1 FROM held WHERE path=?", (path,)):
            self.store.execute("DELETE FROM held WHERE path=?", (path,))

    def held(self) -> list[dict]:
        """What waits for `accept` or `reject`: path, reason, what, since (milliseconds since 1970)."""
        rows = self.store.rows("SELECT path, reason, what, since FROM held ORDER BY path")
        return [dict(zip(("path", "reason", "what", "since"), row, strict=True)) for row in rows]

    def chosen(self, chosen: list[str]) -> set[str]:
        held = {row["path"] for row in self.held()}
        for path in chosen:
            if path not in held:
                raise DocumentNotFound(f"{path!r} is not held back", hint="see what is held with `replica status`")
        return set(chosen) or held

    def set_aside(self, path: str, data: bytes) -> None:
        kept = self.root / FOLDER / "rejected"
        kept.mkdir(exist_ok=True)
        name = f"{self.now_ms()}-{path.replace('/', '-')}".encode()[-200:].decode(errors="ignore")
        names = itertools.chain([name], (f"{again}-{name}" for again in itertools.count(2)))
        with open(next(kept / name for name in names if not (kept / name).exists()), "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
