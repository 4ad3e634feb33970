"""The stdio server of the Model Context Protocol: the SDK on one side, replica/agents/tools.py on the other.

Calls are served one after the other on a thread of their own, so that a store that is busy delays no ping. Nothing but
the protocol is written to stdout: the SDK keeps the real one to itself.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from replica.agents.toolbox import BY_NAME, INSTRUCTIONS, TOOLS, Desk, Tool
from replica.errors import ReplicaError

NAME = "memory-replica"


class NoSdk(ReplicaError):
    """The SDK of the protocol is not installed."""

    hint = "pip install 'memory-replica[mcp]'"


def serve(desk: Desk, version: str) -> None:
    """Serve stdin and stdout until stdin ends or SIGTERM comes. Raises NoSdk."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="replica mcp: %(levelname)s: %(message)s")
    worker = ThreadPoolExecutor(1, "tools")
    with _no_collection():
        server = _server(desk, version, worker)
    worker.submit(_tools)  # while the client says its first words
    with _ended_by_signals(worker):
        try:
            asyncio.run(_served(server))
        except BaseExceptionGroup as group:
            _, other = group.split((BrokenPipeError, ConnectionError))  # the client has gone: that is the end
            if other is not None:
                raise other from None
        finally:
            worker.shutdown(wait=True, cancel_futures=True)  # a call that has begun is brought to its end


async def _served(server: Any) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def _server(desk: Desk, version: str, worker: ThreadPoolExecutor) -> Any:
    try:
        import mcp_types as types
        from mcp.server.lowlevel import Server
        from mcp.shared.exceptions import MCPError
    except ImportError as error:
        raise NoSdk(f"the MCP server needs the SDK of the protocol, version 2.3 or newer ({error})") from None
    listed = [_described(types, tool) for tool in TOOLS if not (desk.read_only and tool.changes)]

    async def list_tools(_context: Any, _params: Any) -> Any:
        return types.ListToolsResult(tools=listed)

    async def call_tool(_context: Any, params: Any) -> Any:
        if params.name not in BY_NAME:
            known = ", ".join(tool.name for tool in listed)
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name[:100]!r}; there are {known}")
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(worker, lambda: _tools().call(desk, params.name, params.arguments))
        text = types.TextContent(type="text", text=answer.text)
        return types.CallToolResult(content=[text], structured_content=answer.data, is_error=answer.failed)

    server = Server(
        NAME, version=version, title="Replicated memory", instructions=INSTRUCTIONS, on_list_tools=list_tools,
        on_call_tool=call_tool,
    )  # fmt: skip
    server.middleware.clear()  # traces for an exporter, which nobody here has asked for
    return server


def _tools() -> Any:
    """What does the work; it is not needed to begin."""
    from replica.agents import tools

    return tools


@contextmanager
def _no_collection() -> Iterator[None]:
    """The SDK makes a great many classes when it is loaded, and looking for garbage among them takes a tenth of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _described(types: Any, tool: Tool) -> Any:
    hints = types.ToolAnnotations(
        title=tool.title, read_only_hint=not tool.changes, destructive_hint=tool.replaces,
        idempotent_hint=tool.again, open_world_hint=False,
    )  # fmt: skip
    return types.Tool(
        name=tool.name, title=tool.title, description=tool.what, input_schema=tool.schema, annotations=hints
    )


@contextmanager
def _ended_by_signals(worker: ThreadPoolExecutor) -> Iterator[None]:
    """SIGTERM and SIGINT end the process when the call that has begun is done.

    The thread that reads stdin cannot be woken, so nothing is left to an orderly end of the loop.
    """

    def finish() -> None:
        worker.shutdown(wait=True, cancel_futures=True)
        os._exit(0)

    def end(_number: int, _frame: Any) -> None:
        threading.Thread(target=finish, daemon=True).start()

    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError):  # only the main thread may: elsewhere, whoever runs us ends us
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
