"""`replica web`: a page to look at, on this machine."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.common import Dir, Json, data, emit, opened, words


def web(
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Where to listen; 0 for a free port.")] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Show this clone as a page in a browser, until Ctrl-C.

    Documents, who changed what, peers, conflicts and held files to settle with a click, search. Only for this machine;
    whoever has the printed address may read and decide.

    Example: replica web --no-open
    """
    import asyncio

    with opened(folder) as clone:
        root = clone.root
    asyncio.run(_serve(root, port, show=not (no_open or json) and sys.stdout.isatty(), json=json))


async def _serve(root: Path, port: int, *, show: bool, json: bool) -> None:
    import asyncio
    import signal

    from transport.web import HOST, Site

    site, ending = Site(root, port), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, ending.set)
    await site.serve()
    try:
        if json:
            emit({"event": "listening", "url": site.url, "host": HOST, "port": site.port})
        else:
            data(site.url)
            words("Ctrl-C ends it. Whoever has this address may read and decide here; do not pass it on.")
        sys.stdout.flush()
        with _shown(root, site) if show else contextlib.nullcontext():
            await ending.wait()
    finally:
        await site.close()


@contextlib.contextmanager
def _shown(root: Path, site):
    """A browser is opened by a file that leads there: other users can read the arguments of a process."""
    import webbrowser

    from replica.keys import write_private
    from replica.places import FOLDER

    file = root / FOLDER / f"web-{site.port}.html"
    write_private(file, f'<!doctype html><meta http-equiv="refresh" content="0;url={site.url}">\n'.encode())
    try:
        webbrowser.open(file.absolute().as_uri())
        yield
    finally:
        file.unlink(missing_ok=True)
