"""How other processes of this machine speak with a running node: one line of JSON each way, over loopback.

The node writes `.replica/node.json` (readable by its owner only) with a port and a token; whoever can read the
clone's folder can ask. Light on purpose: quick commands import this, and no asyncio.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replica.errors import ReplicaError, UsageError
from replica.places import FOLDER

FILE = "node.json"
LOCK = "node.lock"
CONNECT_TIMEOUT = 1.0  # seconds: it is the same machine
MAX_LINE = 1 << 20  # bytes of one request


class NodeError(ReplicaError):
    """The running node answered with an error; message and hint are its own."""


def ask(root: Path, request: str, *, timeout: float = 30.0, **arguments: Any) -> dict | None:
    """The answer of the clone's running node, or None when none is running.

    Raises:
        NodeError: the node says that it failed.
        UsageError: it says that what it was asked is not right.
    """
    for answer in stream(root, request, timeout=timeout, **arguments):
        return answer
    return None


def stream(root: Path, request: str, *, timeout: float = 30.0, **arguments: Any) -> Iterator[dict]:
    """All answers of the node, as they come; none when no node is running. `timeout` in seconds, for each answer."""
    place = read(root)
    if place is None:
        return
    line = json.dumps({"token": place["token"], "request": request, **arguments})
    try:
        connection = socket.create_connection(("127.0.0.1", place["control"]), CONNECT_TIMEOUT)
    except OSError:
        return  # left behind by a node that was killed
    with connection:
        connection.settimeout(timeout)
        try:
            connection.sendall(line.encode() + b"\n")
            yield from _answers(connection)
        except TimeoutError:
            raise NodeError(
                "the running node does not answer", hint="end it with `replica down`, then start it again"
            ) from None
        except (ConnectionError, ValueError):
            return


def _answers(connection: socket.socket) -> Iterator[dict]:
    with connection.makefile("rb") as lines:
        for line in lines:
            try:
                answer = json.loads(line)
            except RecursionError:
                answer = None
            if type(answer) is not dict:
                raise ValueError("no answer of a node: another program has its port now")
            if "error" in answer:
                kind = UsageError if answer.get("usage") is True else NodeError
                raise kind(str(answer["error"]), hint=str(answer.get("hint", "")))
            yield answer


def poke(root: Path) -> bool:
    """Tell a running node that the store has grown, so that it need not find out; whether there is one."""
    try:
        return ask(root, "poke", timeout=2.0) is not None
    except (NodeError, UsageError):
        return False


def read(root: Path) -> dict | None:
    """What the node wrote about itself, or None."""
    try:
        place = json.loads((root / FOLDER / FILE).read_text("utf-8"))
        right = type(place["control"]) is int and 0 < place["control"] < 65536 and type(place["token"]) is str
        return place if right else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def publish(root: Path, place: dict) -> None:
    from replica.keys import write_private

    write_private(root / FOLDER / FILE, json.dumps(place).encode())


def withdraw(root: Path) -> None:
    (root / FOLDER / FILE).unlink(missing_ok=True)


class Lock:
    """At most one node on one clone; given back by the system when the process ends, however it ends."""

    def __init__(self, root: Path):
        self._path = root / FOLDER / LOCK
        self._handle: int | None = None

    def take(self) -> bool:
        """Whether the lock is ours now."""
        try:
            import fcntl
        except ImportError:  # Windows: the control port is asked instead
            return ask(self._path.parent.parent, "poke", timeout=2.0) is None
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def give_back(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
