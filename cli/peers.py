"""`invite`, `join`, `up`, `down`, `sync`, `peers`: how a clone meets others."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.common import Dir, Folder, Json, counted, data, emit, opened, root_of, words
from replica.errors import StoreError, UsageError
from transport import control

Peer = Annotated[
    list[str] | None, typer.Option("--peer", metavar="HOST:PORT", help="Call this address too; may be given again.")
]


def invite(
    expires: Annotated[str, typer.Option(help="How long the code is good: 90s, 10m, 1h.")] = "10m",
    directory: Dir = None,
    json: Json = False,
) -> None:
    """Print a short code that lets one other clone in, and wait until it is used.

    Example: replica invite --expires 10m
    """
    root = root_of(directory)
    seconds = duration(expires, "--expires")
    told = False
    for event in control.stream(root, "invite", expires=seconds, timeout=seconds + 30):
        told = True
        _tell_invitation(event, json)
    if not told:
        import asyncio

        asyncio.run(_invite_without_node(directory, seconds, json))


def _tell_invitation(event: dict, json: bool) -> None:
    if json:
        emit(event)
    elif event["event"] == "code":
        data(event["code"])
        words(f"On the other machine: replica join {event['code']} DIR")
        words(f"If it does not find this one: add --peer HOST:{event['port']}, with an address of this machine.")
        words(f"Good until {event['expires']}, for one clone. Waiting; Ctrl-C takes it back.")
    elif event["event"] == "wrong_code":
        left = "that was the last try" if not event["tries"] else f"{counted(event['tries'], 'try', 'tries')} left"
        words(f"A wrong code was typed, or someone in the network guesses or interferes: {left}.")
    elif event["event"] == "joined":
        words(f"{event['clone']} has joined.")


async def _invite_without_node(directory: Path | None, seconds: float, json: bool) -> None:
    """No node runs: be one for as long as the invitation lasts, and until the newcomer has everything."""
    import asyncio

    from transport.inviting import invite as inviting
    from transport.meeting import meet
    from transport.node import Node, Options

    with opened(directory) as clone:
        node = Node(clone, Options(files=False))
        running = await started(node)
        try:
            async for event in inviting(node, seconds):
                _tell_invitation(event, json)
            await asyncio.sleep(0.1)
            await meet(node, 60)
        finally:
            node.stop()
            await running


async def started(node):
    """Start a node and return its task once it listens. Raises what kept it from starting."""
    import asyncio

    running = asyncio.ensure_future(node.run())
    waiting = asyncio.ensure_future(node.started.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
    return running


def join(
    code: Annotated[str, typer.Argument(help="The code that `replica invite` printed.")],
    folder: Folder = None,
    name: Annotated[
        str | None, typer.Option(help="What this clone is called; the host's and folder's name if left out.")
    ] = None,
    peer: Peer = None,
    directory: Dir = None,
    json: Json = False,
) -> None:
    """Make DIR a clone of the inviter's workspace and fetch everything.

    Files that are in DIR already are merged, never overwritten.

    Example: replica join 37-harbor-violet-onion ~/notes
    """
    import asyncio

    from replica.bridge import Bridge
    from replica.errors import DiskFull
    from transport import codes
    from transport.inviting import join as joining

    codes.parse(code)  # a slip of the finger is found before anything else is done
    root = (folder or directory or Path.cwd()).expanduser().absolute()
    made = _make(root)
    began = time.monotonic()
    try:
        clone = asyncio.run(
            joining(code, root, name or _default_name(root), _addresses(peer), tell=_progress(quiet=json))
        )
        with clone:
            report = Bridge(clone).run(every=True, wait=True)
            facts = _facts(clone, root, report, time.monotonic() - began)
    except BaseException as error:
        _take_back(made)  # a clone that has come to be keeps its folder
        if isinstance(error, DiskFull):
            error.hint = _after_full_disk(root)
        raise
    if json:
        emit(facts)
        return
    documents, merged = counted(facts["documents"], "document"), counted(facts["merged"], "file")
    words(f"{facts['clone']} is now a clone of {facts['workspace']}, with {documents} in {root}.")
    if facts["merged"]:
        words(f"Merged with it: {merged} found here; `replica conflicts` shows what differs.")
    if report.replaced:
        words("The workspace's replica.toml has replaced the one that was here, which is kept in .replica/rejected/.")
    words("Keep it in step with `replica up`, or meet once with `replica sync`.")


def _facts(clone, root: Path, report, seconds: float) -> dict:
    return {
        "clone": clone.name, "id": clone.identity.id.hex(), "workspace": clone.workspace_name, "dir": str(root),
        "documents": len(clone.documents.all()), "written": len(report.written), "merged": len(report.taken),
        "held": report.held, "replaced": report.replaced, "skipped": report.skipped, "seconds": round(seconds, 3),
    }  # fmt: skip


def _make(root: Path) -> list[Path]:
    """Make the folder; returns what was made, innermost first."""
    from replica.clone import unwritable

    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file, not a folder")
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error) from None
    return made


def _after_full_disk(root: Path) -> str:
    from replica.places import FOLDER, STORE

    if (root / FOLDER / STORE).is_file():
        return "this folder is a clone now: make room on the disk, then `replica sync` here fetches the rest"
    return "make room on the disk, then join with a new code from `replica invite`; this one is used up"


def _default_name(root: Path) -> str:
    import socket

    return f"{socket.gethostname().split('.')[0]}-{root.name}"


def _progress(*, quiet: bool):
    """Takes a node's events and counts what has arrived, on a terminal."""
    arrived = 0

    def tell(event: dict) -> None:
        nonlocal arrived
        if event["event"] == "received":
            arrived += event["changes"]
            sys.stderr.write(f"\rfetched {arrived:,} changes")
        elif event["event"] == "in_step" and arrived:
            sys.stderr.write("\n")
        sys.stderr.flush()

    return tell if sys.stderr.isatty() and not quiet else lambda event: None


def _take_back(made: list[Path]) -> None:
    """Remove the folders that were made for a clone that did not come to be."""
    for folder in made:
        try:
            folder.rmdir()
        except OSError:
            return


def _addresses(given: list[str] | None):
    from transport.addresses import parse_address

    return [parse_address(address) for address in given or []]


def up(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 for a free one.")
    ] = None,
    peer: Peer = None,
    mdns: Annotated[bool, typer.Option("--mdns/--no-mdns", help="Find others on the LAN and be found.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; `replica down` ends it.")] = False,
    directory: Dir = None,
    json: Json = False,
) -> None:
    """Run the node: find peers, exchange changes, keep files and documents one, until Ctrl-C.

    Example: replica up --peer 192.168.1.20:7000
    """
    root = root_of(directory)
    where = _listen_address(listen)
    _addresses(peer)
    if detach:
        _detach(root, listen, peer, mdns, json)
        return
    import asyncio

    from cli.live import View
    from transport.node import Node, Options

    with opened(directory) as clone:
        node = Node(clone, Options(listen=where, peers=_addresses(peer), mdns=mdns))
        view = View(node, json=json)
        node._tell = view.tell
        asyncio.run(_run(node, view))


async def _run(node, view) -> None:
    import asyncio
    import contextlib
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, node.stop)
    drawing = asyncio.ensure_future(view.draw())
    try:
        await node.run()
    finally:
        drawing.cancel()
        view.close()


def _listen_address(listen: str | None):
    from transport.addresses import parse_address

    if listen is None:
        return None
    host, _, port = listen.rpartition(":")
    return (host, 0) if port == "0" and host else parse_address(listen)


def _detach(root: Path, listen: str | None, peer: list[str] | None, mdns: bool, json: bool) -> None:
    """Start a node that outlives this terminal, and wait until it answers."""
    import os
    import subprocess

    if control.ask(root, "status") is not None:
        raise StoreError("a node is already running on this clone", hint="end it with `replica down`")
    command = [sys.executable, "-m", "cli.main", "up", "--json", "--dir", str(root)]
    command += ["--listen", listen] if listen else []
    command += [word for address in peer or [] for word in ("--peer", address)]
    command += [] if mdns else ["--no-mdns"]
    log = root / ".replica" / "node.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            cwd=os.sep, env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip
    for _ in range(200):
        status = control.ask(root, "status")
        if status is not None:
            facts = {"event": "listening", "pid": status["pid"], "port": status["port"], "log": str(log)}
            emit(facts) if json else words(f"The node runs in the background (process {status['pid']}).")
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    said = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    last = next((line for line in said if "error:" in line), said[-1] if said else "the node ended at once")
    hint = f"everything it said is in {log}" if said else "`replica up` without --detach shows why"
    raise StoreError(last.removeprefix("replica: error: "), hint=hint)


def down(directory: Dir = None, json: Json = False) -> None:
    """End this clone's running node.

    Example: replica down
    """
    root = root_of(directory)
    answer = control.ask(root, "down")
    if answer is not None:
        for _ in range(200):
            if control.read(root) is None:
                break
            time.sleep(0.025)
    facts = {"was": "running" if answer else "stopped"}
    if json:
        emit(facts)
    else:
        words("The node has ended." if answer else "No node was running.")


def sync(
    timeout: Annotated[str, typer.Option(help="The longest to wait for peers: 3s, 1m.")] = "3s",
    peer: Peer = None,
    directory: Dir = None,
    json: Json = False,
) -> None:
    """Once: take in the files, meet the peers that can be met, exchange until in step, write the files.

    Example: replica sync --timeout 5s
    """
    root = root_of(directory)
    seconds = duration(timeout, "--timeout")
    addresses = _addresses(peer)
    report = control.ask(root, "sync", timeout=seconds + 60, peers=addresses, **{"seconds": seconds})
    if report is None:
        import asyncio

        report = asyncio.run(_sync_once(directory, seconds, addresses))
    if json:
        emit(report)
    else:
        _say_sync(report)


async def _sync_once(directory: Path | None, seconds: float, addresses: list) -> dict:
    from replica.bridge import Bridge
    from replica.tidy import tidy
    from transport.meeting import meet
    from transport.node import Node, Options

    with opened(directory) as clone:
        taken = Bridge(clone).run(every=True, wait=True)
        node = Node(clone, Options(peers=addresses, files=False, serve=False))
        running = await started(node)
        try:
            met = await meet(node, seconds)
            tidied = tidy(clone)
            if tidied.changed:
                met = await meet(node, seconds)
        finally:
            node.stop()
            await running
        written = Bridge(clone).run(every=True)
        return {
            "taken": taken.taken, "deleted": taken.deleted, "written": taken.written + written.written,
            "removed": taken.removed + written.removed, "held": {**taken.held, **written.held},
            "skipped": {**taken.skipped, **written.skipped}, "tidied": tidied.lines(), **met,
        }  # fmt: skip


def _say_sync(report: dict) -> None:
    def listed(title: str, what) -> None:
        if what:
            data(f"{title}: {', '.join(what)}")

    listed("taken in", report["taken"])
    listed("written", report["written"])
    listed("deleted here, and so everywhere", report["deleted"])
    listed("deleted elsewhere, and so here", report["removed"])
    for path, what in report["held"].items():
        words(f"held back: {path}: {what}")
    if report["held"]:
        words("`replica status` lists what is held; `replica accept` and `replica reject` decide on it")
    for path, why in report["skipped"].items():
        words(f"passed over: {path}: {why}")
    for line in report["tidied"]:
        words(line)
    for problem in report["problems"]:
        words(problem["message"] + (f" ({problem['hint']})" if problem["hint"] else ""))
    if report["in_step"]:
        data(f"in step with {', '.join(report['in_step'])} after {report['seconds']:.1f} s")
    behind = [p for p in report["peers"] if p["online"] and not p["in_step"]]
    for p in behind:
        data(f"not yet in step with {p['name']}: {p['behind']} changes to send, {p['ahead']} to get")
    if not report["in_step"] and not behind:
        data("no peer in reach; what is new here waits for the next time")
    elif report["missing"]:
        data(f"out of reach: {', '.join(report['missing'])}")


def peers(directory: Dir = None, json: Json = False) -> None:
    """Who is in reach, and how far each is behind or ahead.

    Example: replica peers
    """
    from cli.common import iso_ms
    from replica import status as look

    root = root_of(directory)
    node = control.ask(root, "status", timeout=5.0)
    with opened(directory) as clone:
        rows = look.status(clone, node)["peers"]
    for row in rows:
        row["last_seen"] = iso_ms(row["last_seen"])
        for fault in row["faults"]:
            fault["since"], fault["last"] = iso_ms(fault["since"]), iso_ms(fault["last"])
    for row in rows:
        if json:
            emit(row)
        else:
            state = "in reach" if row["online"] else f"last seen {row['last_seen'] or 'never'}"
            data(f"{row['name']:24} {state:36} behind {row['behind']:<6} ahead {row['ahead']}")
    if not rows and not json:
        words("Nobody else belongs to this workspace yet: `replica invite` lets a clone in.")


def duration(text: str, option: str) -> float:
    """Seconds of a word such as 90s, 10m, 1h, or a plain number of seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text and text[-1] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1
    if not 0 < seconds <= 7 * 86400:
        raise UsageError(f"{option} {text!r} is not a time", hint="write 90s, 10m or 1h")
    return seconds
