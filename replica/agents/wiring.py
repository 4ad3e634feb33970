"""Connecting: what would change in an agent's files, and doing it. Disconnecting: the way back.

Each file is read, changed as text, and replaced as a whole; what it was without us stays beside it. If it is still what
we wrote when we take ourselves out, that is put back, to the byte. If somebody has edited it meanwhile, only what is
ours is taken out. What we did is kept in `.replica/agents.json`; without that, our entries name this clone.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from replica.agents import jsontext, tomltext
from replica.agents.jsontext import END
from replica.agents.known import (
    AGENTS,
    SERVER,
    Agent,
    Place,
    Target,
    Wish,
    commands,
    is_hook,
    is_server,
)
from replica.disk import flush_folder
from replica.errors import ForeignFile, ReplicaError
from replica.places import FOLDER

RECORD = "agents.json"
BESIDE = ".before-replica"  # what a file was is kept beside it, under its name and this
MOST = 64 << 20  # bytes of a configuration file
MARK = "Written by `replica connect"


@dataclass
class Kept:
    """What we did to one file. `after`: SHA-256 of what we wrote. `backup`: None where there was no file before.

    `made`: objects and lists that were not there before; `folders` likewise.
    """

    after: str
    backup: str | None
    made: list[list[str]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


@dataclass
class Connection:
    """One agent, as it is connected to this clone, which lay at `root` then."""

    scope: str
    project: str
    files: dict[str, Kept] = field(default_factory=dict)
    root: str = ""


class Change(NamedTuple):
    """What is to be done to one file, or was. `base`: the file without us; None: there is none, or will be none.

    `action`: created, changed, removed, unchanged, absent (it is not for us to begin it) or refused, with `why`.
    """

    target: Target
    action: str
    before: bytes | None = None
    after: bytes | None = None
    base: bytes | None = None
    made: tuple[tuple[str, ...], ...] = ()
    why: str = ""

    @property
    def file(self) -> Path:
        return self.target.file

    @property
    def to_do(self) -> bool:
        return self.action in ("created", "changed", "removed")


# --- what would be done


def connecting(agent: Agent, place: Place) -> list[Change]:
    """What connecting changes. Raises ReplicaError: it is connected at another scope."""
    connection = connections(place.root).get(agent.name)
    if connection and connection.files and not _is_there(connection, place):
        raise ReplicaError(
            f"{agent.name} is connected already, at scope {connection.scope} of {connection.project}",
            hint=f"first: replica disconnect {agent.name}",
        )
    return planned(agent, place)


def planned(agent: Agent, place: Place) -> list[Change]:
    """As `connecting`, whatever else is connected."""
    connection = connections(place.root).get(agent.name)
    kept = connection.files if connection else {}
    targets = agent.targets(place, commands(agent.name, place.root))
    return [_connecting(target, place.root, kept.get(os.fspath(target.file))) for target in targets]


def disconnecting(agent: Agent, place: Place) -> list[Change]:
    """What disconnecting changes: in the files that we know of, and in those where we would have written."""
    connection = connections(place.root).get(agent.name) or Connection(*_where(place))
    scopes = [place._replace(scope=scope) for scope in agent.scopes]
    scopes.append(place._replace(scope=connection.scope, project=Path(connection.project)))
    run = commands(agent.name, place.root)
    targets = {os.fspath(target.file): target for one in scopes for target in agent.targets(one, run)}
    for file in connection.files:
        form = {".json": "json", ".toml": "toml"}.get(Path(file).suffix, "text")
        targets.setdefault(file, Target(Path(file), form, ()))
    changes = [_disconnecting(target, place.root, connection.files.get(file)) for file, target in targets.items()]
    return [change for change in changes if change.action != "absent"]


def documents(changes: list[Change], root: Path, is_document: Callable[[str], bool]) -> list[Path]:
    """The files that would be begun or changed and are shared with other machines, to which ours say nothing."""
    inside = [change.file for change in changes if change.to_do and change.file.is_relative_to(root)]
    return [file for file in inside if is_document(file.relative_to(root).as_posix())]


def _where(place: Place) -> tuple[str, str]:
    return place.scope, os.fspath(place.project)


def _is_there(connection: Connection, place: Place) -> bool:
    return connection.scope == place.scope and (place.scope == "user" or connection.project == os.fspath(place.project))


def _connecting(target: Target, root: Path, kept: Kept | None) -> Change:
    before = None
    try:
        before = read(target.file)
        if before is None and not target.make:
            return Change(target, "absent", why="it is not there, and not for us to begin")
        text = _decoded(before, target.file)
        if before is not None and _satisfied(text, target, root):
            return Change(target, "unchanged", before, before)
        base = before
        if kept is not None and before is not None and _hash(before) == kept.after:
            base = _backup(kept, before, target, root)
        elif before is not None:
            base = _without(text, target, root, kept).encode()
        after, made = _with(_decoded(base, target.file), target, root)
    except ForeignFile as error:
        return Change(target, "refused", before, before, why=str(error))
    action = "unchanged" if after.encode() == before else "created" if before is None else "changed"
    return Change(target, action, before, after.encode(), base, made)


def _backup(kept: Kept, before: bytes, target: Target, root: Path) -> bytes | None:
    """What the file was before us; without the backup, the file with our entries taken out."""
    if kept.backup is None:
        return None
    saved = read(Path(kept.backup))
    return saved if saved is not None else _without(_decoded(before, target.file), target, root, kept).encode()


def _disconnecting(target: Target, root: Path, kept: Kept | None) -> Change:
    before = None
    try:
        before = read(target.file)
        if before is None:
            return Change(target, "absent")
        if kept is not None and _hash(before) == kept.after:
            after = _backup(kept, before, target, root)
        else:
            text = _decoded(before, target.file)
            rest = _without(text, target, root, kept)
            begun = target.form == "text" or (kept is not None and kept.backup is None)
            after = None if begun and rest != text and _is_empty(rest) else rest.encode()
    except ForeignFile as error:
        if before is not None and not _names(before.decode(errors="replace"), root):
            return Change(target, "absent")  # nothing in it names this clone
        return Change(target, "refused", before, before, why=str(error))
    action = "unchanged" if after == before else "removed" if after is None else "changed"
    return Change(target, action, before, after)


def _is_empty(text: str) -> bool:
    return text.strip("\ufeff \t\r\n") in ("", "{}")


# --- the three forms


def _with(text: str, target: Target, root: Path) -> tuple[str, tuple[tuple[str, ...], ...]]:
    """The text with all that we want, and which objects and lists that made. It holds nothing of ours yet."""
    name = os.fspath(target.file)
    if target.form == "text":
        if text:
            raise ForeignFile(f"{name}: somebody else's, or another clone's")
        return target.wishes[0].value, ()
    if target.form == "toml":
        for wish in target.wishes:
            text = tomltext.put(text, _free(tomltext.loads(text, name), wish).path, wish.value, name)
        return text, ()
    text = text if text.strip("\ufeff \t\r\n") else "{}\n"
    made: list[tuple[str, ...]] = []
    for wish in target.wishes:
        data = jsontext.loads(text, name)
        wish = _free(data, wish)
        steps = [wish.path[:length] for length in range(1, len(wish.path))]
        made += [step for step in steps if jsontext.at(data, step) is None]
        text = jsontext.put(text, wish.path, wish.value, name)
    return text, tuple(made)


def _free(data: Any, wish: Wish) -> Wish:
    """A server under a name that nobody else has."""
    if wish.path[-1] != SERVER:
        return wish
    others, name, number = jsontext.at(data, wish.path[:-1]) or {}, SERVER, 1
    while isinstance(others, dict) and name in others:
        number += 1
        name = f"{SERVER}-{number}"
    return wish._replace(path=(*wish.path[:-1], name))


def _without(text: str, target: Target, root: Path, kept: Kept | None) -> str:
    """The text without what is ours; the same text where nothing is."""
    name = os.fspath(target.file)
    if target.form == "text":
        return "" if MARK in text and (_names(text, root)) else text
    if target.form == "toml":
        for path, _ in _our_tables(tomltext.loads(text, name), root):
            text = tomltext.take(text, path, name)
        return text
    if not text.strip("\ufeff \t\r\n"):
        return text
    gone = [path for path, _ in _ours(jsontext.loads(text, name), root)]
    text = jsontext.take(text, gone, name)
    # Without a record, whatever our going leaves empty is taken to be ours.
    steps = {tuple(step) for step in kept.made} if kept is not None else {p[:n] for p in gone for n in range(1, len(p))}
    for step in sorted(steps, key=len, reverse=True):
        if jsontext.at(jsontext.loads(text, name), step) in ({}, []) and gone:
            text = jsontext.take(text, [step], name)
    return text


def _names(text: str, root: Path) -> bool:
    return os.fspath(root) in text or json.dumps(os.fspath(root))[1:-1] in text


def _ours(data: Any, root: Path) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Our hooks and servers in a JSON file: where each stands, and its handler or itself.

    A group of hooks in which somebody else has put one of theirs is not ours any more, only what we put there.
    """
    hooks = jsontext.at(data, ("hooks",))
    for event, groups in hooks.items() if isinstance(hooks, dict) else ():
        for number, group in enumerate(groups if isinstance(groups, list) else ()):
            handlers = jsontext.at(group, ("hooks",))
            handlers = handlers if isinstance(handlers, list) else []
            mine = [at for at, handler in enumerate(handlers) if is_hook(handler, root)]
            for at in mine:
                alone = len(mine) == len(handlers)
                if not alone or at == mine[0]:
                    where = ("hooks", event, number) if alone else ("hooks", event, number, "hooks", at)
                    yield where, handlers[at]
    projects = jsontext.at(data, ("projects",))
    places: list[tuple[str, ...]] = [("mcpServers",), ("mcp", "servers")]
    places += [("projects", name, "mcpServers") for name in projects] if isinstance(projects, dict) else []
    for place in places:
        servers = jsontext.at(data, place)
        for name, server in servers.items() if isinstance(servers, dict) else ():
            if is_server(server, root):
                yield (*place, name), server


def _our_tables(data: dict, root: Path) -> list[tuple[tuple[str, str], Any]]:
    servers = data.get("mcp_servers")
    found = servers.items() if isinstance(servers, dict) else ()
    return [(("mcp_servers", name), server) for name, server in found if is_server(server, root)]


def _satisfied(text: str, target: Target, root: Path) -> bool:
    """Whether all that we want is there, and nothing else of ours. What others added to our server may stay."""
    name = os.fspath(target.file)
    if target.form == "text":
        return text == target.wishes[0].value
    if target.form == "toml":
        found = _our_tables(tomltext.loads(text, name), root)
    else:
        found = list(_ours(jsontext.loads(text, name), root)) if text.strip("\ufeff \t\r\n") else []
    return len(found) == len(target.wishes) and all(
        any(_fulfils(where, value, wish) for where, value in found) for wish in target.wishes
    )


def _fulfils(where: tuple[str | int, ...], value: Any, wish: Wish) -> bool:
    if wish.path[-1] == END:
        return where[:2] == wish.path[:2] and wish.value["hooks"] == [value]
    return where[:-1] == wish.path[:-1] and all(value.get(key) == wanted for key, wanted in wish.value.items())


# --- files


def read(file: Path) -> bytes | None:
    """What a file holds, or None where there is none. Raises ForeignFile: it is none that we would touch."""
    try:
        with open(file, "rb") as stream:
            held = stream.read(MOST + 1)
    except FileNotFoundError:
        if file.is_symlink():
            raise ForeignFile(f"{file}: a link that leads nowhere") from None
        return None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise ForeignFile(f"{file}: {error.strerror}") from None
    if len(held) > MOST:
        raise ForeignFile(f"{file}: larger than {MOST >> 20} MB")
    return held


def _decoded(held: bytes | None, file: Path) -> str:
    try:
        return (held or b"").decode()
    except UnicodeDecodeError as error:
        raise ForeignFile(f"{file}: not UTF-8 (byte {error.start})") from None


def _hash(held: bytes) -> str:
    return hashlib.sha256(held).hexdigest()


def connect(agent: Agent, place: Place, changes: list[Change]) -> list[Path]:
    """Do what `connecting` says; returns the backups. Raises ForeignFile: a file was changed meanwhile."""
    backups = []
    for change in changes:
        if not change.to_do:
            continue
        everything = connections(place.root)
        connection = everything.setdefault(agent.name, Connection(*_where(place), root=os.fspath(place.root)))
        before = connection.files.get(os.fspath(change.file))
        kept = Kept(_hash(change.after), None, [list(step) for step in change.made], before.folders if before else [])
        kept.folders += [os.fspath(folder) for folder in _missing(change.file.parent)]
        if change.base is not None:
            kept.backup = _keep(change, before)
            backups.append(Path(kept.backup))
        replace(change.file, change.before, change.after)
        connection.files[os.fspath(change.file)] = kept
        _save(place.root, everything)
    return backups


def disconnect(agent: Agent, place: Place, changes: list[Change]) -> list[Path]:
    """Do what `disconnecting` says; returns the backups that stay, of files that were edited meanwhile."""
    stay: list[Path] = []
    folders: set[str] = set()
    for change in changes:
        if change.action == "refused":
            continue
        everything = connections(place.root)
        connection = everything.get(agent.name)
        kept = connection.files.pop(os.fspath(change.file), None) if connection else None
        replace(change.file, change.before, change.after)
        if kept and kept.backup and Path(kept.backup).exists():
            if read(Path(kept.backup)) == change.after:
                os.unlink(kept.backup)
            else:
                stay.append(Path(kept.backup))
        folders.update(kept.folders if kept else [])
        if change.target.form == "text":
            folders.add(os.fspath(change.file.parent))
        _save(place.root, everything)
    everything = connections(place.root)
    gone = everything.pop(agent.name, None)
    if gone is not None:
        left = {file: kept for file, kept in gone.files.items() if Path(file).exists()}
        if left:  # what was refused can be tried again
            everything[agent.name] = dataclasses.replace(gone, files=left)
        _save(place.root, everything)
    for folder in sorted(folders, key=len, reverse=True):
        with contextlib.suppress(OSError):  # somebody uses it, or it is gone
            os.rmdir(folder)
    return stay


def _missing(folder: Path) -> list[Path]:
    return [one for one in (folder, *folder.parents) if not one.exists()]


def _keep(change: Change, before: Kept | None) -> str:
    """Keep what the file was without us; a backup of another clone is left as it is."""
    place = Path(before.backup) if before and before.backup else None
    if place is None:
        real = Path(os.path.realpath(change.file))
        names = (f"{real.name}{BESIDE}{f'-{n}' if n > 1 else ''}" for n in range(1, 1000))
        place = next(beside for name in names if not (beside := real.with_name(name)).exists())
    if read(place) != change.base:
        _write(place, change.base, like=change.file)
    return os.fspath(place)


def replace(file: Path, before: bytes | None, after: bytes | None) -> None:
    """Make the file `after`, or remove it, if it still is `before`. Raises ForeignFile: it is not."""
    if read(file) != before:
        raise ForeignFile(f"{file}: changed while it was looked at", hint="repeat the command")
    if after == before:
        return
    if after is None:
        os.unlink(file)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(Path(os.path.realpath(file)), after, like=file)


def _write(place: Path, held: bytes, *, like: Path) -> None:
    """Whole or not at all, with the permissions that `like` has; a new file is its owner's alone."""
    try:
        status = os.stat(like)
    except FileNotFoundError:
        status = None
    beside = place.with_name(f".{place.name}.{os.getpid()}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(held)
                stream.flush()
                os.fsync(handle)
            if status is not None:
                os.chmod(beside, status.st_mode & 0o7777)
                if hasattr(os, "chown") and (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
                    os.chown(beside, status.st_uid, status.st_gid)
        except OSError:
            os.unlink(beside)
            raise
        os.replace(beside, place)
    finally:
        flush_folder(place.parent)


# --- what we did


def connections(root: Path) -> dict[str, Connection]:
    """The agents that this clone is connected to, as far as it was written down."""
    try:
        found = json.loads((root / FOLDER / RECORD).read_text("utf-8"))
        written = {
            name: Connection(**{**one, "files": {file: Kept(**kept) for file, kept in one["files"].items()}})
            for name, one in found.items()
            if name in AGENTS
        }
        return {name: _here(one, root) for name, one in written.items() if not _is_copied(one, root)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_copied(one: Connection, root: Path) -> bool:
    """Whether this folder is a copy of the clone that was connected: what was written is that one's."""
    return bool(one.root) and one.root != os.fspath(root) and os.path.isdir(os.path.join(one.root, FOLDER))


def _here(one: Connection, root: Path) -> Connection:
    """What was written for a project that lies elsewhere by now, with the clone in it: its files went with it."""
    inside = os.path.relpath(one.root or root, one.project)
    project = Path(os.path.normpath(root / os.path.relpath(".", inside)))
    if not one.root or one.root == os.fspath(root) or os.path.isdir(one.project) or project / inside != root:
        return one

    def now(file: str) -> str:
        moved = Path(file).is_relative_to(one.project)
        return os.fspath(project / Path(file).relative_to(one.project)) if moved else file

    files = {
        now(file): Kept(kept.after, kept.backup and now(kept.backup), kept.made, [now(name) for name in kept.folders])
        for file, kept in one.files.items()
    }
    return Connection(one.scope, os.fspath(project), files, os.fspath(root))


def _save(root: Path, everything: dict[str, Connection]) -> None:
    from replica.keys import write_private

    held = {name: asdict(connection) for name, connection in everything.items()}
    write_private(root / FOLDER / RECORD, json.dumps(held, indent=1).encode() + b"\n")


def state(agent: Agent, place: Place) -> tuple[str, str]:
    """Whether the agent is connected, and at which scope: connected, partly, old (connect again), or no."""
    connection = connections(place.root).get(agent.name)
    scopes = [connection.scope] if connection and connection.files else list(agent.scopes)
    for scope in scopes:
        project = Path(connection.project) if connection and connection.files else place.project
        changes = planned(agent, place._replace(scope=scope, project=project))
        actions = {change.action for change in changes}
        if actions <= {"unchanged", "absent"} and "unchanged" in actions:
            return "connected", scope
        if connection and connection.files:
            return "partly" if "unchanged" in actions else "old", scope
    return "no", ""


def backups(agent: Agent, root: Path) -> list[Path]:
    """What the files were before us, as far as it was written down where that is kept."""
    connection = connections(root).get(agent.name)
    return [Path(kept.backup) for kept in connection.files.values() if kept.backup] if connection else []


def usual_scope(agent: Agent, root: Path) -> str:
    """Where it is connected, or else where it is usually."""
    connection = connections(root).get(agent.name)
    return connection.scope if connection and connection.files else agent.scopes[0]
