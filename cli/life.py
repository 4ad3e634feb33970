"""Commands for a clone's life: init, status, members, remove, doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    Dir,
    Folder,
    Json,
    confirmed,
    counted,
    data,
    emit,
    iso,
    iso_ms,
    local,
    opened,
    root_of,
    table,
    words,
)

if TYPE_CHECKING:
    from replica.bridge import Report
    from replica.clone import Clone
    from replica.status import Check


def init(
    target: Folder = None,
    name: Annotated[str | None, typer.Option(metavar="CLONE", help="What the others call this clone.")] = None,
    workspace: Annotated[str | None, typer.Option(metavar="NAME", help="What the workspace is called.")] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Make a folder the first clone of a new workspace.

    The files that are there are taken in. Known layouts of memory (a memory-bank/, OpenClaw memory/, Claude Code
    MEMORY.md) get a fitting replica.toml.

    Example: replica init ~/memory --name laptop --workspace team
    """
    from replica.clone import clean_name

    root = (target or folder or Path()).expanduser().absolute()
    name = name if name is not None else _usual_name(root)
    workspace = workspace if workspace is not None else clean_name(root.name or "memory")
    made = _Made(root)
    try:
        layout, clone, report = _make(root, name, workspace, made)
    except BaseException:
        made.undo()
        raise
    with clone:
        result = {
            "workspace": clone.workspace_name, "clone": {"name": clone.name, "id": clone.identity.id.hex()},
            "root": str(root), "layout": layout, "documents": sorted(set(report.taken)), "skipped": report.skipped,
            "held": report.held,
        }  # fmt: skip
    emit(result) if json else _tell_init(result)


def _usual_name(root: Path) -> str:
    import socket

    from replica.clone import clean_name

    return clean_name(f"{socket.gethostname().split('.')[0]}-{root.name or 'memory'}")


class _Made:
    """What `init` has put into a folder, to take it away again if it cannot finish."""

    def __init__(self, root: Path):
        from replica.places import CONFIG, FOLDER

        self.root, self.config = root, root / CONFIG
        self._clone = root / FOLDER
        self._had_clone = self._clone.exists()
        self.wrote_config = False
        self._folders = [folder for folder in (root, *root.parents) if not folder.exists()]

    def undo(self) -> None:
        import shutil

        if not self._had_clone:
            shutil.rmtree(self._clone, ignore_errors=True)
        if self.wrote_config:
            self.config.unlink(missing_ok=True)
        for folder in self._folders:
            try:
                folder.rmdir()
            except OSError:  # not there yet, or somebody put something in
                return


def _make(root: Path, name: str, workspace: str, made: _Made) -> "tuple[str | None, Clone, Report]":
    from replica import config, filetext, layouts
    from replica.bridge import Bridge
    from replica.clone import Clone, refuse_if_clone, unwritable
    from replica.errors import ConfigError, StoreError
    from replica.folder import write
    from replica.places import CONFIG
    from transport.tls import make_certificate

    if root.exists() and not root.is_dir():
        raise StoreError(f"{root} is a file, not a folder", hint="name a folder, or one that is to be made")
    refuse_if_clone(root)
    layout = None
    if made.config.is_file():
        try:
            config.load(filetext.decode(made.config.read_bytes()).text)
        except ValueError as error:
            raise ConfigError(f"{made.config} is {error}", hint="save it as UTF-8") from None
    else:
        layout = layouts.recognise(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error) from None
    if layout is not None:  # before the clone, and whole: `init` can be repeated until there is a clone
        made.wrote_config = True
        try:
            write(root, CONFIG, layout.text.encode())
        except OSError as error:
            raise unwritable(root, error) from None
    clone = Clone.create(root, name, workspace, make_certificate)
    try:
        return layout and layout.name, clone, Bridge(clone).run(every=True, wait=True)
    except BaseException:
        clone.close()
        raise


def _tell_init(result: dict[str, Any]) -> None:
    words(f"{result['root']} is now the clone {result['clone']['name']} of workspace {result['workspace']}")
    if result["layout"]:
        words(f"layout: {result['layout']}; replica.toml was written to fit it")
    else:
        words("replica.toml was there and is in force")
    imported = [path for path in result["documents"] if path != "replica.toml"]
    words(f"imported: {counted(len(imported), 'file')}")
    for path in imported[:10]:
        words(f"  {path}")
    if len(imported) > 10:
        words(f"  and {len(imported) - 10:,} more (`replica ls`)")
    for path, reason in result["skipped"].items():
        words(f"skipped: {path}: {reason}")
    for path, what in result["held"].items():
        words(f"held: {path}: {what}")
    words("next: `replica up` keeps it in step; `replica invite` lets another machine in")


# --- status


def status(folder: Dir = None, json: Json = False) -> None:
    """One look: clone, node, peers, and what waits for whom.

    Example: replica status --json
    """
    from replica import status as look

    root = root_of(folder)
    node = _node(root)
    with opened(folder) as clone:
        found = look.status(clone, node)
    if not json:
        _tell_status(found)
        return
    for row in found["held"]:
        row["since"] = iso_ms(row["since"])
    for peer in found["peers"]:
        peer["last_seen"] = iso_ms(peer["last_seen"])
        for fault in peer["faults"]:
            fault["since"], fault["last"] = iso_ms(fault["since"]), iso_ms(fault["last"])
    if found["removal"]:
        found["removal"]["at"] = iso(found["removal"]["at"])
    emit(found)


def _node(root: Path) -> dict | None:
    """What the running node says of itself; a node that does not answer runs, and that is all we know."""
    from transport import control

    try:
        return control.ask(root, "status", timeout=5.0)
    except control.NodeError as error:
        words(f"replica: {error}")
        return {}


def _tell_status(found: dict[str, Any]) -> None:
    data(f"clone       {found['clone']['name']} of workspace {found['workspace']}")
    if found["removal"]:
        gone = found["removal"]
        data(f"removed     by {gone['by']} on {local(gone['at'])}; what is written here since then reaches nobody")
        data(f"            {gone['hint']}")
    for told in found["told"] if not found["removal"] else ():
        data(f"removed     {told['by']} says: {told['said']}")
        data(f"            {told['hint']}")
    data(f"node        {found['node']}" + ("" if found["node"] == "running" else " (start it: `replica up`)"))
    private = f", {found['private']:,} of them for this clone alone" if found["private"] else ""
    data(f"documents   {found['documents']:,} with {counted(found['entries'], 'entry', 'entries')}{private}")
    if found["conflicts"]:
        data(f"conflicts   {found['conflicts']} wait for a decision (`replica conflicts`)")
    for row in found["held"]:
        if "line" in row:
            data(f"held        {row['path']}: {row['what']}")
            data(f"            `replica accept {row['path']} --line {row['line'][:12]}` shares it, `reject` keeps it")
        else:
            data(f"held        {row['path']}: {row['what']} (`replica accept` or `replica reject`)")
    for row in found["skipped"]:
        data(f"skipped     {row['path']}: {row['reason']}")
    for row in found["harvest"]:
        due = "due" if row["value"] >= row["threshold"] else "soon"
        data(f"harvest     {due}: {row['document']} has {row['value']} of {row['threshold']} {row['measure']}")
    if not found["peers"]:
        data("peers       none yet (`replica invite`)")
    for peer in found["peers"]:
        data(f"peer        {peer['name']}: {_peer_words(peer)}")
        if peer["note"] and not any(told["said"] == peer["note"] for told in found["told"]):
            data(f"            note: {peer['note']}")
        for fault in peer["faults"]:
            data(f"refused     {peer['name']} {fault['what']} ({_fault_words(fault)})")
            data(f"            {fault['hint']}")
    for row in found["unseen"]:
        data(f"look at     {row['name']}: let in by {row['admitted_by']}, who was removed at the same time")
        data(f"            if you do not know it: `replica remove {row['id'][:12]}`")


def _fault_words(fault: dict[str, Any]) -> str:
    since = local(fault["since"] << 16)
    return since if fault["times"] == 1 else f"{counted(fault['times'], 'time')} since {since}"


def _peer_words(peer: dict[str, Any]) -> str:
    met = peer["last_seen"] is not None
    seen = "in reach" if peer["online"] else f"last seen {local(peer['last_seen'] << 16)}" if met else "never met"
    waits = []
    if peer["behind"]:
        waits.append(f"{counted(peer['behind'], 'change')} to go there")
    if peer["ahead"]:
        waits.append(f"{counted(peer['ahead'], 'change')} to come from there")
    return f"{seen}, {' and '.join(waits) or 'in step'}"


# --- members


def members(folder: Dir = None, json: Json = False) -> None:
    """Who belongs to the workspace, and who did.

    Name, id, since when, and let in by whom.

    Example: replica members
    """
    from replica.members import unseen

    with opened(folder) as clone:
        to_look_at = unseen(clone)
        found = [{**_member(clone, member), "unseen": member["id"] in to_look_at} for member in clone.members()]
    if json:
        for member in found:
            emit({**member, "admitted_at": iso(member["admitted_at"]), "removed_at": iso(member["removed_at"])})
        return
    rows = []
    for m in found:
        state = f"removed by {m['removed_by']} {local(m['removed_at'])}" if m["removed_by"] else ""
        state = f"goes on as {m['successor'][:12]}" if m["successor"] else state
        state = state or ("this clone" if m["this"] else "")
        state = state or ("let in by one who was removed at the same time: look" if m["unseen"] else "")
        rows.append((m["name"], m["id"][:12], local(m["admitted_at"]), m["admitted_by"], state))
    table(rows, ("NAME", "ID", "SINCE", "LET IN BY", ""))


def _member(clone: "Clone", member: dict[str, Any]) -> dict[str, Any]:
    def name(id: bytes | None) -> str | None:
        return None if id is None else clone.author_name(id)

    return {
        "name": member["name"], "id": member["id"].hex(), "this": member["id"] == clone.identity.id,
        "admitted_at": member["admitted_at"], "admitted_by": name(member["admitted_by"]),
        "removed_at": member["removed_at"], "removed_by": name(member["removed_by"]),
        "successor": member["successor"].hex() if member["successor"] else None,
    }  # fmt: skip


def remove(
    member: Annotated[str, typer.Argument(metavar="CLONE", help="Its name, or the beginning of its id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """End a clone's access to the workspace.

    It holds everywhere it is heard of. What the clone wrote stays; what it has received stays on its machine.

    Example: replica remove old-laptop
    """
    from cli.common import publish
    from replica.errors import UsageError

    with opened(folder) as clone:
        found = clone.member(member)
        if found["id"] == clone.identity.id:
            raise UsageError(
                "that is this clone itself",
                hint="run it on another clone; or, to leave, end the node and delete .replica in this folder",
            )
        gone = found["removed_by"] is not None
        if not gone and not confirmed(f"End the access of {found['name']}?", yes):
            raise typer.Abort
        if not gone:
            clone.remove(found["id"].hex())
            publish(clone)
    if json:
        emit({"name": found["name"], "id": found["id"].hex(), "removed": not gone})
    else:
        words(f"{found['name']} was removed before" if gone else f"{found['name']} is removed; the others hear of it")


# --- doctor


def doctor(folder: Dir = None, json: Json = False) -> None:
    """Why is a peer not seen, why does a file not sync?

    One line a check: OK, note or problem, with the way out. Exit code 1 when there is a problem.

    Example: replica doctor
    """
    from replica import status as look

    root, bad = root_of(folder), False
    for check in _checks(root, look):
        bad = bad or check.state == "problem"
        if json:
            emit({"check": check.name, "state": check.state, "what": check.what, "hint": check.hint})
        else:
            data(f"{'OK' if check.state == 'ok' else check.state:8} {check.name:10} {check.what}")
            if check.hint:
                data(f"{'':19} -> {check.hint}")
    if bad:
        raise typer.Exit(1)


def _checks(root: Path, look):
    from replica.clone import Clone
    from replica.errors import NotAClone, StoreError

    try:
        clone = Clone.open(root)
    except NotAClone:
        raise
    except StoreError as error:
        yield look.Check("store", "problem", str(error), error.hint)
        return
    with clone:
        yield from look.checks(clone)
        node = _node(root)
        yield (
            look.Check("node", "ok", "running")
            if node is not None
            else look.Check(
                "node",
                "note",
                "not running; files and peers wait",
                "start it with `replica up`, or `replica sync` once",
            )
        )
        yield _interfaces(look)
        yield from _never_met(look.peers(clone, node), node, look)


def _interfaces(look) -> "Check":
    """Discovery needs an address that others can reach."""
    import os

    import ifaddr

    here = {ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4}
    wanted = [part.strip() for part in os.environ.get("REPLICA_INTERFACES", "").split(",") if part.strip()]
    if missing := [address for address in wanted if address not in here]:
        what = f"REPLICA_INTERFACES names {', '.join(missing)}, which this machine does not have"
        return look.Check("network", "problem", what, f"it has {', '.join(sorted(here))}")
    reach = sorted(wanted or (address for address in here if not address.startswith("127.")))
    if not reach:
        return look.Check("network", "problem", "no network but this machine itself", "connect it, then look again")
    return look.Check("network", "ok", f"discovery uses {', '.join(reach)}")


def _never_met(peers: list[dict], node: dict | None, look):
    strangers = [peer["name"] for peer in peers if peer["last_seen"] is None and not peer["online"]]
    if not strangers:
        yield look.Check("peers", "ok", "every member was met" if peers else "no other member yet (`replica invite`)")
    for name in strangers:
        yield look.Check(
            "peers", "problem" if node is not None else "note", f"{name} was never met from here",
            "start its node in the same network, or give its address: `replica sync --peer HOST:PORT`",
        )  # fmt: skip
