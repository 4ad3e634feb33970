"""`jsonl`: a file with one item a line, for anything else that is to read it.

Ordered by id and without times of its own: equal cuts give equal files, whoever exports them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from replica.cloud.base import (
    Capacity,
    Item,
    Known,
    Layer,
    Outcome,
    Outgoing,
    Setting,
    Sink,
    SinkError,
    Stored,
    Trouble,
)
from replica.disk import flush_folder

FIELDS = ("id", "text", "hash", "type", "tags", "level", "document", "author", "time", "revision")


class Jsonl(Sink):
    """The file is written anew beside the old one and renamed into its place: a reader never sees half of it."""

    type = "jsonl"
    settings_of: ClassVar = {"path": Setting("the file, below the clone's folder or absolute", required=True)}
    batch = 50_000  # each batch writes the whole file

    @property
    def path(self) -> Path:
        return self.settings.root / Path(self.settings["path"]).expanduser()

    def test(self) -> str:
        lines = self._read()
        if not os.access(next(p for p in self.path.absolute().parents if p.exists()), os.W_OK):
            raise SinkError(
                Trouble.AUTH, f"{self.path} cannot be written", hint="choose another path, or change whose it is"
            )
        return f"{self.path}: {len(lines):,} items"

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        lines = self._read()
        lines.update({str(out.item.id): _line(out.item) for out in batch})
        self._write(lines)
        return [Stored(str(out.item.id)) for out in batch]

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        lines = self._read()
        for known in batch:
            lines.pop(str(known.id), None)
        self._write(lines)
        return [Stored(known.remote_id) for known in batch]

    def capacity(self) -> Capacity:
        try:
            with open(self.path, "rb") as file:
                return Capacity(sum(1 for _ in file))
        except FileNotFoundError:
            return Capacity(0)
        except OSError as error:
            raise self._failed(error) from None

    def layers(self) -> list[Layer]:
        return [Layer("file", str(self.path), "ok" if self.path.exists() else "not there yet")]

    def _read(self) -> dict[str, str]:
        """The lines by id. Raises SinkError where the file holds anything else: nothing else is overwritten."""
        try:
            with open(self.path, encoding="utf-8") as file:
                return {str(UUID(json.loads(line)["id"])): line.rstrip("\n") for line in file if line.strip()}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SinkError(
                Trouble.CONFLICT, f"{self.path} is not a file of exported items; it was not touched",
                hint="choose another path for the sink, or move that file away",
            ) from None  # fmt: skip
        except OSError as error:
            raise self._failed(error) from None

    def _write(self, lines: dict[str, str]) -> None:
        beside = self.path.with_name(self.path.name + ".replica-new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{lines[id]}\n" for id in sorted(lines))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
            flush_folder(self.path.parent)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(
            Trouble.UNREACHABLE,
            f"{self.path}: {error.strerror or error}",
            hint="check the folder, its permissions and its disk",
        )


def _line(item: Item) -> str:
    values: dict[str, Any] = {name: getattr(item, name) for name in FIELDS}
    values["id"], values["tags"] = str(item.id), list(item.tags)
    if item.namespace:
        values["namespace"] = item.namespace
    return json.dumps(values, ensure_ascii=False, sort_keys=False)
