"""Qdrant's engine within this process (qdrant-edge): one shard in one folder, used by one process at a time.

The folder is made beside its place and renamed into it, so that half of one is never taken for one. A batch is flushed
to the disk before it is acknowledged. The lock is a file beside the folder, given back by the system however the
process ends.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from replica.cloud.base import Outcome, SinkError, Stored, Trouble
from replica.cloud.sinks.qdrant import AnyOf, Engine, Found, Page, Point, PointId, no_collection, wrong_size
from replica.disk import flush_folder

# The other fields are never filtered by here, and each index costs a fifth of the speed of writing: its own files are
# flushed with every batch.
INDEXES = ("namespace", "origin")
# The engine writes by memory maps: on a full disk the system ends the process (SIGBUS). So there has to be room before.
RESERVE = 160_000_000
CONFIG = "edge_config.json"  # the engine's; with it a folder is a shard


class Embedded(Engine):
    """A shard, opened by the first call that needs it and kept open until `close`."""

    batch = 2_000  # a flush takes as long for ten points as for thousands

    def __init__(self, folder: Path):
        self.folder, self.place = folder, str(folder)
        self._shard: Any = None
        self._lock: int | None = None

    def about(self) -> str:
        from importlib.metadata import version

        _library()
        there = f"{self.count({}):,} items" if self._exists() else "nothing there yet"
        if not os.access(self._nearest(), os.W_OK):
            raise SinkError(
                Trouble.AUTH, f"{self.folder} cannot be written", hint="choose another `path`, or change whose it is"
            )
        return f"Qdrant embedded (qdrant-edge {version('qdrant-edge-py')}) in {self.folder}: {there}"

    def prepare(self, size: int) -> None:
        with self._translated():
            self._take_lock()
            if not self._exists():
                self._require_room()
                self._make(size)
            self._open()
        found = self._size()
        if found != size:
            self.close()
            raise wrong_size(str(self.folder), found, size)

    def write(self, points: Sequence[Point]) -> list[Outcome]:
        q = _library()
        shard = self._opened()
        with self._translated():
            self._require_room()
            # Nobody else writes while we have the lock, so reading first is as good as a condition, and faster.
            there = shard.retrieve([point.id for point in points], ["rev"], False)
            newer = {str(found.id): (found.payload or {}).get("rev") for found in there}
            due = [point for point in points if not _is_newer(newer.get(str(point.id)), point.rev)]
            shard.update(q.UpdateOperation.upsert_points([q.Point(p.id, list(p.vector), p.payload) for p in due]))
            shard.flush()
        return [Stored(str(point.id)) for point in points]

    def delete(self, ids: Sequence[PointId]) -> None:
        q = _library()
        shard = self._opened()
        with self._translated():
            shard.update(q.UpdateOperation.delete_points(list(ids)))
            shard.flush()

    def page(self, after: PointId | None, limit: int, any_of: AnyOf, payload: bool) -> Page:
        q = _library()
        shard = self._opened()
        with self._translated():
            points, following = shard.scroll(
                q.ScrollRequest(offset=after, limit=limit, filter=_filter(any_of), with_payload=payload)
            )
        return [Found(_plain(point.id), point.payload or {}) for point in points], _plain(following)

    def read(self, ids: Sequence[PointId]) -> list[Found]:
        shard = self._opened()
        with self._translated():
            points = shard.retrieve(list(ids), True, False)
        return [Found(_plain(point.id), point.payload or {}) for point in points]

    def count(self, any_of: AnyOf) -> int:
        q = _library()
        shard = self._opened()
        with self._translated():
            return shard.count(q.CountRequest(exact=True, filter=_filter(any_of)))

    def search(self, vector: Sequence[float], limit: int, any_of: AnyOf) -> list[tuple[PointId, float]]:
        q = _library()
        shard = self._opened()
        with self._translated():
            request = q.QueryRequest(limit=limit, query=q.Query.Nearest(list(vector)), filter=_filter(any_of))
            return [(_plain(point.id), point.score) for point in shard.query(request)]

    def close(self) -> None:
        shard, self._shard = self._shard, None
        try:
            if shard is not None:
                with self._translated():
                    shard.close()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)

    # --- the folder

    def _exists(self) -> bool:
        return (self.folder / CONFIG).exists()

    def _nearest(self) -> Path:
        """The folder, or the nearest above it that is there."""
        return next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())

    def _opened(self) -> Any:
        if self._shard is None:
            if not self._exists():
                raise no_collection(f"the collection in {self.folder}")
            with self._translated():
                self._take_lock()
                self._open()
        return self._shard

    def _open(self) -> None:
        if self._shard is None:
            self._shard = _library().EdgeShard.load(str(self.folder))

    def _make(self, size: int) -> None:
        """An empty shard with its indexes, in one step for whoever looks."""
        q = _library()
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise SinkError(
                Trouble.CONFLICT, f"{self.folder} holds something that is no collection; it was not touched",
                hint="choose another `path` for the sink, or move that folder away",
            )  # fmt: skip
        making = self.folder.with_name(self.folder.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        vectors = q.EdgeVectorParams(size=size, distance=q.Distance.Cosine)
        shard = q.EdgeShard.create(str(making), q.EdgeConfig(vectors=vectors))
        try:
            for name in INDEXES:
                shard.update(q.UpdateOperation.create_field_index(name, q.PayloadSchemaType.Keyword))
            shard.flush()
        finally:
            shard.close()
        if self.folder.is_dir():
            self.folder.rmdir()
        os.replace(making, self.folder)
        flush_folder(self.folder.parent)

    def _size(self) -> object:
        """Of the vectors, as the engine has written it down."""
        try:
            vectors = json.loads((self.folder / CONFIG).read_text("utf-8"))["vectors"]
            return vectors[""]["size"]
        except (OSError, ValueError, KeyError, TypeError):
            return "another kind"

    def _require_room(self) -> None:
        if shutil.disk_usage(self._nearest()).free < RESERVE:
            raise SinkError(
                Trouble.UNREACHABLE, f"less than {RESERVE // 1_000_000} MB are free on the disk of {self.folder}",
                hint="make room on the disk, or set `path` to another; what is queued stays queued",
            )  # fmt: skip

    def _take_lock(self) -> None:
        """Raises SinkError: another process has it."""
        if self._lock is not None:
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder.with_name(self.folder.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock_or_raise(handle)
        except OSError:
            os.close(handle)
            raise SinkError(
                Trouble.THROTTLE, f"{self.folder} is busy: another process has it open",
                hint="try again when that export, pull or search is done", retry_after=1.0,
            ) from None  # fmt: skip
        self._lock = handle

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """The engine raises bare Exceptions with words, and panics that are none; both are trouble of this place."""
        try:
            yield
        except SinkError:
            raise
        except OSError as error:
            raise self._failed(error.strerror or str(error), "check the folder, its permissions and its disk") from None
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise self._failed(" ".join(str(error).split())[:500], REMAKE) from None

    def _failed(self, words: str, hint: str) -> SinkError:
        return SinkError(Trouble.UNREACHABLE, f"the embedded Qdrant in {self.folder} failed: {words}", hint=hint)


REMAKE = "if it stays so: move that folder away; `replica export --force` fills a new one from the clone"


def _library() -> Any:
    try:
        import qdrant_edge
    except ImportError:
        raise SinkError(
            Trouble.UNREACHABLE, "the embedded Qdrant is not installed, or not made for this machine",
            hint="pip install qdrant-edge-py==0.9.0, or set the `url` of a Qdrant server",
        ) from None  # fmt: skip
    return qdrant_edge


def _filter(any_of: AnyOf) -> Any:
    q = _library()
    conditions = [q.FieldCondition(name, match=q.MatchValue(value)) for name, value in any_of.items()]
    return q.Filter(should=conditions) if conditions else None


def _is_newer(there: Any, rev: int) -> bool:
    return isinstance(there, int) and there > rev


def _plain(id: Any) -> Any:
    return str(id) if isinstance(id, UUID) else id


def _lock_or_raise(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
