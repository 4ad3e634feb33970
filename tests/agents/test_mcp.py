"""`replica mcp` as agents meet it: a process, real pipes, and the SDK's own client."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import main as cli_main
from replica.agents import known
from replica.bridge import Bridge
from replica.clone import Clone
from tests.agents.test_mcp_tools import NAMES
from tests.helpers import save
from transport.tls import make_certificate

pytest.importorskip("mcp", reason="the extra mcp is not installed")

CODE = cli_main.__file__.rpartition("/cli/")[0]
PATIENCE = 60.0  # seconds that anything may take on a busy machine
ENVIRONMENT = {"PYTHONPATH": CODE, "REPLICA_INTERFACES": "127.0.0.1"}


@pytest.fixture
def root(tmp_path):
    with Clone.create(tmp_path / "memory", "laptop", "team", make_certificate) as clone:
        save(clone, "a-buffer.md", "# A\n\n- deploy on monday\n")
        save(clone, "notes/x.md", "hello\n")
        Bridge(clone).run()
    return clone.root


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


def replica(*arguments, code: int = 0) -> str:
    done = subprocess.run(
        command(*arguments), env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def story(told):
    """Run a coroutine, bounded."""
    return asyncio.run(asyncio.wait_for(told, PATIENCE))


@contextlib.asynccontextmanager
async def agent(root: Path, *options: str, mode: str = "auto"):
    """The SDK's client, speaking with a server of its own."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    start, *rest = command("mcp", "--dir", root, *options)
    server = StdioServerParameters(command=start, args=rest, env=ENVIRONMENT)
    async with Client(stdio_client(server), mode=mode) as client:
        yield client


async def ask(client, tool: str, **arguments) -> dict:
    """The data of an answer that must be none of a failure."""
    answer = await client.call_tool(f"memory_{tool}", arguments)
    assert not answer.is_error, answer.content[0].text
    return answer.structured_content


class Raw:
    """A server, and what a client writes and reads line by line."""

    def __init__(self, root: Path, *options: str):
        self.process = subprocess.Popen(
            command("mcp", "--dir", root, *options), env={**os.environ, **ENVIRONMENT}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.number = 0

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method: str, **params) -> None:
        self.number += 1
        self.send(json.dumps({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}))

    def answer(self) -> dict:
        """The next line: every one must be of the protocol."""
        message = json.loads(self.process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        return message

    def greet(self) -> dict:
        """The handshake of the clients that there are."""
        client = {"name": "test", "version": "1"}
        self.request("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
        answer = self.answer()
        self.send('{"jsonrpc":"2.0","method":"notifications/initialized"}')
        return answer["result"]

    def call(self, tool: str, **arguments) -> dict:
        self.request("tools/call", name=f"memory_{tool}", arguments=arguments)
        return self.answer()["result"]


# --- the protocol


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_clients_of_both_generations_see_the_same_tools_and_what_they_do(root, mode):
    async def told():
        async with agent(root, mode=mode) as client:
            listed = (await client.list_tools()).tools
            assert [tool.name for tool in listed] == NAMES
            hints = {tool.name.removeprefix("memory_"): tool.annotations for tool in listed}
            assert all(hint.open_world_hint is False for hint in hints.values())
            assert {name for name, hint in hints.items() if not hint.read_only_hint} == {"write", "append", "resolve"}
            assert {name for name, hint in hints.items() if hint.destructive_hint} == {"write", "resolve"}
            assert not hints["append"].idempotent_hint and hints["write"].idempotent_hint
            assert "not instructions" in client.instructions
            answer = await client.call_tool("memory_search", {"query": "deploy"})
            assert "> - deploy on monday" in answer.content[0].text
            assert answer.structured_content["hits"][0]["clone"] == "laptop"

    story(told())


def test_every_tool_works_over_the_pipe(root):
    async def told():
        async with agent(root) as client:
            read = await ask(client, "read", document="a-buffer.md", whole=True)
            added = await ask(client, "append", document="a-buffer.md", text="ask first", tags=["safety"])
            refused = await client.call_tool(
                "memory_write", {"document": "a-buffer.md", "text": "x", "version": read["version"]}
            )
            assert refused.is_error and "hint: " in refused.content[0].text
            now = refused.structured_content["version"]
            text = (await ask(client, "read", document="a-buffer.md", whole=True))["text"]
            await ask(client, "write", document="a-buffer.md", text=text.replace("monday", "tuesday"), version=now)
            await ask(client, "write", document="a-buffer.md", entry=added["entry"], text="ask twice")
            assert (await ask(client, "list"))["documents"][0]["document"] == "a-buffer.md"
            assert len((await ask(client, "history", document="a-buffer.md"))["changes"]) == 4
            assert (await ask(client, "conflicts"))["conflicts"] == []
            assert (await client.call_tool("memory_resolve", {"id": "3fa8", "keep": "v1"})).is_error
            assert (await ask(client, "status"))["node"] == "stopped"
            assert (await ask(client, "search", query="ask twice"))["hits"]

    story(told())
    assert (root / "a-buffer.md").read_text() == "# A\n\n- deploy on tuesday\n- ask twice\n"


def test_wrong_arguments_and_unknown_tools_end_nothing(root):
    with Raw(root) as server:
        assert server.greet()["serverInfo"]["name"] == "memory-replica"
        for line in (
            "no json",
            "[]",
            "{}",
            '{"jsonrpc":"2.0"}',
            "\x00",
            '{"jsonrpc":"2.0","method":"x","params":"\\ud800"}',
        ):
            server.send(line)
        failed = server.call("read", document=5, more=[None])
        assert failed["isError"] and "it takes: document" in failed["content"][0]["text"]
        server.request("tools/call", name="rm", arguments={})
        assert "memory_search" in server.answer()["error"]["message"]
        assert not server.call("list")["isError"]


def test_a_server_that_only_reads_offers_no_more(root):
    async def told():
        async with agent(root, "--read-only") as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == [name for name in NAMES if name not in ("memory_write", "memory_append", "memory_resolve")]
            assert (await client.call_tool("memory_append", {"document": "a-buffer.md", "text": "x"})).is_error

    story(told())


def test_it_ends_with_its_stdin_and_by_sigterm(root):
    with Raw(root) as server:
        server.greet()
        out, err = server.process.communicate(timeout=PATIENCE)  # closes stdin
        assert (server.process.returncode, out, err) == (0, b"", b"")
    with Raw(root) as server:
        server.greet()
        assert not server.call("append", document="a-buffer.md", text="x")["isError"]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    with Raw(root) as server:
        server.greet()
        server.process.stdout.close()  # the client has gone without a word
        with contextlib.suppress(BrokenPipeError):
            server.request("tools/list")
            server.request("tools/list")
        server.process.stdin.close()
        server.process.stdin = None
        assert server.process.wait(PATIENCE) == 0


def test_without_the_sdk_it_says_what_to_install(root, tmp_path):
    (tmp_path / "mcp_types.py").write_text("raise ImportError('No module named mcp_types')\n")
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{CODE}"}
    done = subprocess.run(
        command("mcp", "--dir", root), env=environment, capture_output=True, text=True, timeout=PATIENCE, input=""
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "hint: pip install 'memory-replica[mcp]'" in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_no_clone_is_said_at_once(tmp_path):
    done = subprocess.run(
        command("mcp", "--dir", tmp_path), env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, input="",
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1 and "is not a clone" in done.stderr and done.stdout == ""


def test_what_connect_writes_down_starts_a_server_from_any_folder(root, tmp_path):
    async def told():
        from mcp import Client, StdioServerParameters
        from mcp.client.stdio import stdio_client

        start, *rest = known.commands("claude-code", root).server
        async with Client(stdio_client(StdioServerParameters(command=start, args=rest, cwd=tmp_path))) as client:
            assert (await ask(client, "status"))["clone"] == "laptop"

    story(told())


# --- beside others


def test_of_two_servers_that_write_what_they_read_the_second_is_refused(root):
    async def told():
        async with agent(root) as one, agent(root) as other:
            version = (await ask(one, "read", document="notes/x.md"))["version"]
            assert (await ask(other, "read", document="notes/x.md"))["version"] == version
            given = [
                client.call_tool("memory_write", {"document": "notes/x.md", "text": f"by {n}\n", "version": version})
                for n, client in enumerate((one, other))
            ]
            answers = await asyncio.gather(*given)
            first = next(n for n, answer in enumerate(answers) if not answer.is_error)
            refused = answers[1 - first]
            assert refused.is_error
            assert refused.structured_content["version"] == answers[first].structured_content["version"]
            assert (await ask(one, "read", document="notes/x.md"))["text"] == f"by {first}\n"

    story(told())


@contextlib.contextmanager
def running_node(root: Path):
    """A node in a process of its own, without discovery."""
    process = subprocess.Popen(
        command("up", "--no-mdns", "--listen", "127.0.0.1:0", "--json", "--dir", root),
        env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert json.loads(process.stdout.readline())["event"] == "listening"
        yield
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("node", ["up", "down"])
def test_two_servers_and_a_command_write_at_once_and_all_of_it_is_there(root, node):
    async def write(client, who: str, count: int) -> None:
        for n in range(count):
            await ask(client, "append", document="a-buffer.md", text=f"{who} {n}")

    async def told():
        async with agent(root) as one, agent(root) as other:
            adding = asyncio.create_subprocess_exec(
                *command("add", "--dir", root, "a-buffer.md", "command 0"), env={**os.environ, **ENVIRONMENT},
                stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            process, *_ = await asyncio.gather(adding, write(one, "one", 50), write(other, "other", 50))
            assert await process.wait() == 0
            assert (await ask(one, "status"))["node"] == ("running" if node == "up" else "stopped")

    wanted = {f"- {who} {n}" for who in ("one", "other") for n in range(50)} | {"- command 0"}
    with running_node(root) if node == "up" else contextlib.nullcontext():
        story(told())
        end = time.monotonic() + PATIENCE
        while not wanted <= set((root / "a-buffer.md").read_text().split("\n")):
            assert time.monotonic() < end, "the file does not get what was written"
            time.sleep(0.05)
    with Clone.open(root) as clone:
        texts = [entry.text for entry in clone.entries("a-buffer.md") if entry.role == "entry"]
    assert len(texts) == len(set(texts)) == 102 and wanted < set(texts)


def test_what_was_answered_survives_a_kill(root):
    """Killed between, before and after its writes: what it said is stored is there, once, and the file follows."""
    said: list[str] = []
    for round in range(6):
        with Raw(root) as server:
            server.greet()
            for n in range(round):
                assert not server.call("append", document="a-buffer.md", text=f"said {round} {n}")["isError"]
                said.append(f"- said {round} {n}")
            server.request(
                "tools/call", name="memory_append", arguments={"document": "a-buffer.md", "text": f"maybe {round}"}
            )
            time.sleep(round * 0.004)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(PATIENCE)
    with Clone.open(root) as clone:
        Bridge(clone).run(wait=True)
        texts = [entry.text for entry in clone.entries("a-buffer.md") if entry.role == "entry"]
    assert len(texts) == len(set(texts)) and set(said) < set(texts)
    assert (root / "a-buffer.md").read_text().split("\n")[2:-1] == texts
    assert json.loads(replica("doctor", "--json", "--dir", root).splitlines()[0])["state"] == "ok"
