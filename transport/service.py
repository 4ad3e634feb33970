"""What a running node does for other processes of its clone, asked over transport/control.py."""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

from replica.errors import ReplicaError, UsageError
from transport import control
from transport.meeting import meet
from transport.node import Node


async def serve(node: Node, stack: contextlib.AsyncExitStack) -> None:
    """Answer on loopback until the node ends."""
    token = secrets.token_hex(16)
    service = _Service(node, token)
    server = await asyncio.start_server(service.answer, "127.0.0.1", 0, limit=control.MAX_LINE)
    stack.callback(server.close)
    port = server.sockets[0].getsockname()[1]
    control.publish(node.clone.root, {"pid": os.getpid(), "control": port, "token": token, "port": node.port})
    stack.callback(control.withdraw, node.clone.root)


class _Service:
    def __init__(self, node: Node, token: str):
        self._node, self._token = node, token

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await self._read(reader)
            if asked is not None and asked.get("request") in _WHILE_ASKED:
                await self._while_asked(asked, reader, writer)
            elif asked is not None:
                await self._reply(asked, writer)
        except ConnectionError:
            pass  # whoever asked has gone
        finally:
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> dict | None:
        """The request, or None where it does not come from a process that may read our folder."""
        try:
            asked = json.loads(await asyncio.wait_for(reader.readline(), 5))
        except (ValueError, TimeoutError, RecursionError):
            return None
        if not isinstance(asked, dict):
            return None
        token = str(asked.pop("token", "")).encode(errors="replace")  # as text, only ASCII can be compared
        return asked if secrets.compare_digest(token, self._token.encode()) else None

    async def _while_asked(self, asked: dict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reply for as long as whoever asked is there: a Ctrl-C over there takes the request back."""
        replying, gone = asyncio.ensure_future(self._reply(asked, writer)), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({replying, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not replying.done():
                replying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await replying

    async def _reply(self, asked: dict, writer: asyncio.StreamWriter) -> None:
        try:
            handler = _REQUESTS.get(str(asked.pop("request", "")))
            if handler is None:
                raise UsageError("the running node does not know this request", hint="restart it: `replica down`, `up`")
            async for answer in handler(self._node, **asked):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ReplicaError as error:
            said = {"error": str(error), "hint": error.hint, "usage": isinstance(error, UsageError)}
            writer.write(json.dumps(said).encode() + b"\n")
        except Exception as error:
            # Whoever asked must not wait for ever; the fault itself goes to the node's own output.
            said = f"the running node failed: {type(error).__name__}: {error}"
            writer.write(
                json.dumps({"error": said, "hint": "restart it: `replica down`, `replica up`"}).encode() + b"\n"
            )
            raise


async def _poke(node: Node) -> AsyncIterator[dict]:
    node.store_grown()
    yield {"ok": True}


async def _status(node: Node) -> AsyncIterator[dict]:
    node.record.flush(node.clone)
    yield {"port": node.port, "pid": os.getpid(), "peers": node.peer_states()}


async def _down(node: Node) -> AsyncIterator[dict]:
    yield {"ok": True, "pid": os.getpid()}
    node.stop()


async def _sync(node: Node, seconds: float = 3.0, peers: list[Any] | None = None) -> AsyncIterator[dict]:
    from replica.tidy import tidy

    taken = node.bridge.run(every=True, wait=True)
    for host, port in peers or []:
        node.call((host, port), fixed=True)
    node.hurry()
    met = await meet(node, seconds)
    tidied = tidy(node.clone)
    if tidied.changed:
        node.hurry()
        met = await meet(node, seconds)
    written = node.bridge.run(every=True)
    yield {
        "taken": taken.taken, "deleted": taken.deleted, "written": taken.written + written.written,
        "removed": taken.removed + written.removed, "held": written.held, "skipped": written.skipped,
        "tidied": tidied.lines(), **met,
    }  # fmt: skip


async def _start(node: Node, **asked: Any) -> AsyncIterator[dict]:
    from transport import workday

    yield await workday.start(node, workday.CONNECTED, **asked)


async def _save(node: Node, **asked: Any) -> AsyncIterator[dict]:
    from transport import workday

    yield await workday.save(node, workday.CONNECTED, **asked)


async def _invite(node: Node, expires: float = 600.0) -> AsyncIterator[dict]:
    from transport.inviting import invite

    async for event in invite(node, expires):
        yield event


# What ends when the process that asked for it does.
_WHILE_ASKED = frozenset({"invite"})
_REQUESTS = {
    "poke": _poke, "status": _status, "down": _down, "sync": _sync, "start": _start, "save": _save, "invite": _invite,
}  # fmt: skip
