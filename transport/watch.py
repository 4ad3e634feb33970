"""Watches the clone's folder and names the document paths that may have changed. Says nothing about what they hold."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from replica.folder import TEMPORARY
from replica.places import FOLDER

# Milliseconds. A step is one look at the kernel's queue: short steps cost processor time in an idle node.
STEP = 40
DEBOUNCE = 40
POLL_AGAIN = 2.0  # seconds between looks where the system gives us no watch


async def watch(
    root: Path,
    stop: asyncio.Event,
    changed: Callable[[set[str] | None], None],
    unwatched: Callable[[str], None] = lambda why: None,
) -> None:
    """Call `changed` with relative paths, or None for "look at everything", until `stop` is set.

    `unwatched` hears why the system gives no watch; from then on everything is looked at every POLL_AGAIN seconds.
    """
    from watchfiles import Change, awatch
    from watchfiles._rust_notify import WatchfilesRustInternalError

    logging.getLogger("watchfiles").setLevel(logging.ERROR)
    real = root.resolve()
    own = str(real / FOLDER)

    def relevant(_change: Change, path: str) -> bool:
        return not (path.startswith(own) or "/.git/" in path or TEMPORARY in path)

    try:
        async for batch in awatch(
            real, watch_filter=relevant, step=STEP, debounce=DEBOUNCE, stop_event=stop, rust_timeout=2000,
            yield_on_timeout=False,
        ):  # fmt: skip
            changed({Path(path).relative_to(real).as_posix() for _, path in batch})
    except (OSError, WatchfilesRustInternalError) as error:
        # The limit of watches is reached, or the file system has none: look at everything now and then.
        unwatched(str(error))
        while not stop.is_set():
            changed(None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_AGAIN)
