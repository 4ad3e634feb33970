"""The page of a clone, served on loopback: who may ask, what is answered, and the wait for what comes next.

Everything runs on one event loop, and each request opens the clone for itself: the store is shared with the node and
other commands as among any processes. The rules of who may ask are in docs/web.md.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from replica import measures, page
from replica.clone import Clone
from replica.errors import CannotListen, DocumentNotFound, NotFound, ReplicaError
from replica.places import FOLDER, STORE
from replica.store import Store
from transport import control, http1
from transport.http1 import Answer, Refused, Request, as_json

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "data" / "page.html"
MAX_CONNECTIONS = 64
READ_TIMEOUT = 10.0  # seconds for a request to arrive, and for its answer to leave
WAIT = 25.0  # seconds that an answer of /api/wait may take: below what anything between would cut
LOOK = 0.25  # seconds between looks at the store while somebody waits
MAX_WORDS = 16  # of a search


class Site:
    """Serves the page of the clone at `root`. `serve` begins, `close` ends it."""

    def __init__(self, root: Path, port: int = 0):
        self.root, self.port = root, port
        self.token = secrets.token_urlsafe(16)
        self._page = PAGE.read_bytes()
        self._always = headers(self._page.decode())
        self._watch = Watch(root)
        self._open: set[asyncio.Task] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/?token={self.token}"

    async def serve(self) -> None:
        """Raises CannotListen: the port is taken."""
        try:
            self._server = await asyncio.start_server(self._called, HOST, self.port, limit=http1.MAX_HEAD)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise CannotListen(f"cannot listen on {HOST}:{self.port}: {why}", hint="leave out --port") from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._watch.close()

    # --- a connection

    async def _called(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # whoever asked has gone or says nothing, or we end
        finally:
            self._open.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = False
        try:
            request = await asyncio.wait_for(read(reader), READ_TIMEOUT)
            whole = True
            answer = await self._unless_gone(self._answer(request), reader)
        except Refused as refused:
            answer = as_json({"error": str(refused)}, refused.status)
            answer.headers.update(refused.headers)
        writer.write(http1.encode(answer, self._always))
        await asyncio.wait_for(writer.drain(), READ_TIMEOUT)
        if not whole:  # who is cut off while sending would not read why
            writer.write_eof()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_discard(reader), 0.5)

    async def _unless_gone(self, answering: Awaitable[Answer], reader: asyncio.StreamReader) -> Answer:
        """The answer; a page that has been closed waits for none. Raises ConnectionError: it has."""
        answer, gone = asyncio.ensure_future(answering), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionError("nobody waits for the answer")
            return answer.result()
        finally:
            answer.cancel()
            gone.cancel()

    # --- who may ask what

    async def _answer(self, request: Request) -> Answer:
        """Raises Refused."""
        refuse_foreign(request, self.port)
        methods = ROUTES.get(request.path)
        if methods is None:
            raise Refused(404, "there is nothing here")
        handler = methods.get(request.method)
        if handler is None:
            raise Refused(405, f"{request.method} is not for {request.path}", Allow=", ".join(methods))
        if not self._knows_token(request):
            raise Refused(403, "the token is missing or wrong: use the whole address that `replica web` has printed")
        if request.method == "POST":
            refuse_doubtful(request)
        try:
            return await handler(self, request)
        except (NotFound, DocumentNotFound) as error:
            return as_json({"error": str(error), "hint": error.hint}, 404)
        except (ReplicaError, OSError) as error:
            return as_json({"error": str(error), "hint": getattr(error, "hint", "")}, 409)
        except Refused:
            raise
        except Exception as error:
            # The page must not wait for ever; the fault itself goes to our own output.
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": f"{request.path} failed", "exception": error})
            return as_json(
                {"error": f"the program failed: {type(error).__name__}", "hint": "its output says where"}, 500
            )

    def _knows_token(self, request: Request) -> bool:
        """The page itself is asked for by its address alone, everything else by the page."""
        if request.path == "/":
            given = parameters(request).get("token", "")
        else:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return secrets.compare_digest(given.encode(), self.token.encode())

    # --- answers

    async def _page_itself(self, _request: Request) -> Answer:
        return Answer(200, self._page, "text/html")

    async def _view(self, _request: Request) -> Answer:
        moment = self._watch.look()  # before the rest is read: what comes meanwhile is news
        node = await asyncio.to_thread(_node, self.root)
        with Clone.open(self.root) as clone:
            return as_json({**page.view(clone, node), "moment": moment})

    async def _document(self, request: Request) -> Answer:
        with Clone.open(self.root) as clone:
            return as_json(page.document(clone, parameters(request).get("path", "")))

    async def _search(self, request: Request) -> Answer:
        with Clone.open(self.root) as clone:
            return as_json(page.search(clone, parameters(request).get("words", "").split()[:MAX_WORDS]))

    async def _stats(self, _request: Request) -> Answer:
        with Clone.open(self.root) as clone:
            return as_json(measures.stats(clone))

    async def _wait(self, request: Request) -> Answer:
        """Until there is something after the moment `since`, or for a while."""
        since = parameters(request).get("since", "")
        loop = asyncio.get_running_loop()
        end = loop.time() + WAIT
        while str(moment := self._watch.look()) == since and loop.time() < end:
            await asyncio.sleep(LOOK)
        return as_json({"moment": moment})

    async def _settle(self, request: Request) -> Answer:
        id, keep = strings(request, "id", "keep")
        return self._done(lambda clone: page.settle(clone, id, keep))

    async def _settle_by_text(self, request: Request) -> Answer:
        id, text = strings(request, "id", "text")
        if not text.strip():
            raise Refused(400, "there are no words to put in place of the versions")
        return self._done(lambda clone: page.settle(clone, id, text=text))

    async def _accept(self, request: Request) -> Answer:
        path, what = strings(request, "path", "what")
        return self._done(lambda clone: page.release(clone, path, what, accept=True))

    async def _reject(self, request: Request) -> Answer:
        path, what = strings(request, "path", "what")
        return self._done(lambda clone: page.release(clone, path, what, accept=False))

    def _done(self, work: Callable[[Clone], Any]) -> Answer:
        with Clone.open(self.root) as clone:
            work(clone)
            if not control.poke(self.root):
                from replica.bridge import Bridge

                Bridge(clone).run()
        return as_json({"ok": True})


Handler = Callable[[Site, Request], Awaitable[Answer]]
ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"GET": Site._page_itself},
    "/api/view": {"GET": Site._view},
    "/api/document": {"GET": Site._document},
    "/api/search": {"GET": Site._search},
    "/api/stats": {"GET": Site._stats},
    "/api/wait": {"GET": Site._wait},
    "/api/settle": {"POST": Site._settle},
    "/api/settle/text": {"POST": Site._settle_by_text},
    "/api/accept": {"POST": Site._accept},
    "/api/reject": {"POST": Site._reject},
}


class Watch:
    """Tells whether anything has happened to a clone: a number that grows when it has."""

    def __init__(self, root: Path):
        self._root, self._number, self._seen = root, 1, ()
        self._store: Store | None = None
        self._file: int | None = None

    def look(self) -> int:
        seen = (self._version(), _stamp(self._root / FOLDER / control.FILE))
        if seen != self._seen:
            self._seen, self._number = seen, self._number + 1
        return self._number

    def _version(self) -> tuple:
        """Of the store that is there now: it may be another file than before."""
        file = self._root / FOLDER / STORE
        try:
            inode = file.stat().st_ino
            if self._store is None or inode != self._file:
                self.close()
                self._store, self._file = Store.open(file), inode
            return inode, self._store.version()
        except (ReplicaError, OSError) as error:
            self.close()
            return (str(error),)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None


def _stamp(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def _node(root: Path) -> dict | None:
    """What the running node says of itself; one that does not answer runs, and that is all we know."""
    try:
        return control.ask(root, "status", timeout=2.0)
    except control.NodeError:
        return {}


# --- requests


async def read(reader: asyncio.StreamReader) -> Request:
    """One request, whole. Raises Refused, IncompleteReadError."""
    try:
        request = http1.head(await reader.readuntil(http1.END))
    except asyncio.LimitOverrunError:
        raise Refused(431, f"a request of more than {http1.MAX_HEAD:,} bytes") from None
    size = http1.body_size(request)
    body = await reader.readexactly(size) if size else b""
    return Request(request.method, request.path, request.query, request.headers, body)


async def _discard(reader: asyncio.StreamReader, most: int = 1 << 20) -> None:
    while most > 0 and (data := await reader.read(65_536)):
        most -= len(data)


def refuse_foreign(request: Request, port: int) -> None:
    """Raises Refused: a foreign name was made to lead here, or a page of somebody else asks."""
    host = request.headers.get("host", "")
    names = (HOST, "localhost")
    if host not in [f"{name}:{port}" for name in names] and not (port == 80 and host in names):
        raise Refused(403, "this is not the host that you are looking for")
    if request.headers.get("origin", f"http://{host}") != f"http://{host}":
        raise Refused(403, "another page may not ask here")
    if request.path != "/" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Refused(403, "another page may not ask here")


def refuse_doubtful(request: Request) -> None:
    """Raises Refused: it would change something, and does not say that it comes from our page, or in another form."""
    if "origin" not in request.headers:
        raise Refused(403, "what changes something says where it comes from (Origin)")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "the body is JSON, and says so")


def parameters(request: Request) -> dict[str, str]:
    """Of the query, each once. Raises Refused."""
    try:
        found = parse_qs(request.query, keep_blank_values=True, errors="strict", max_num_fields=8)
    except ValueError:
        raise Refused(400, "a query that cannot be read") from None
    if any(len(values) > 1 for values in found.values()):
        raise Refused(400, "a parameter that is there twice")
    return {name: values[0] for name, values in found.items()}


def strings(request: Request, *names: str) -> list[str]:
    """These strings of the body, and nothing else. Raises Refused."""
    try:
        given = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    if type(given) is not dict or given.keys() != set(names) or any(type(v) is not str for v in given.values()):
        raise Refused(400, f"the body is to have {' and '.join(names)}")
    return [given[name] for name in names]


# --- the page


def headers(text: str) -> dict[str, str]:
    """What every answer says. Only the script and style that stand in the page may run, by their hashes."""
    scripts, styles = (_hashes(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "Content-Security-Policy": policy, "Cache-Control": "no-store", "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    }  # fmt: skip


def _hashes(text: str, tag: str) -> str:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in found)
