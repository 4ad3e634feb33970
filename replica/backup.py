"""A clone in one file: its store, its keys and its documents' files, with checksums; and back from there.

    memory-replica backup\\n | version (2) | members, each deflated … | table (JSON) | length of the table (8) | SHA-256

The last 32 bytes are of all that comes before, so a file that was cut short or changed anywhere is refused before
anything of it is used. Numbers are big-endian. The store is a snapshot by SQLite's own means, while others may write.

What comes back is a clone of its own: it takes a new identity that the old one vouches for (replica/copies.py), before
anybody can open it. So it does not matter whether the one that was backed up is alive, and how far it has come since.
For that the keys are in the file, and level 0 as well: it is as secret as the clone itself.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from replica import clock, copies, folder, paths, rejoin
from replica.clone import Clone, refuse_if_clone, unwritable
from replica.disk import flush_folder
from replica.errors import ReplicaError, StoreError, UsageError
from replica.keys import Identity
from replica.places import FOLDER, IDENTITY, PRIVATE, STORE
from replica.store import Store, translated

if TYPE_CHECKING:
    from replica.clone import Certify

MAGIC = b"memory-replica backup\n"
VERSION = 1
DIGEST = 32  # bytes of SHA-256
PIECE = 1 << 20  # bytes that are held in memory at once
MOST_TABLE = 64 << 20  # bytes; a million files have a table of about this size
ENDING = ".replica-backup"

FILES = "files/"  # what a member's name begins with that is a document's file; the others lie in `.replica`
LEDGER = "cloud.db"  # replica/cloud/ledger.py
DATABASES = (STORE, LEDGER)
_KEPT = ("former/*.key", "before/*.db", "rejected/*")  # beside databases and keys; the rest is made again
_OURS = re.compile(
    r"store\.db|cloud\.db|identity|identity\.private|former/\d{6}\.key|before/[\w.-]+\.db|rejected/[^/]+"
)
_RESTORING = "store.new"


class NotABackup(ReplicaError):
    """The file is none, or is damaged; nothing was made of it."""

    hint = "take another copy of it, or an older backup"


class Member(NamedTuple):
    name: str
    start: int  # in the file
    packed: int  # bytes in the file
    size: int  # bytes in all
    sha256: str


class Backup(NamedTuple):
    """What a backup says of itself. `made`: milliseconds since 1970; `id`: of the clone, in hex."""

    version: int
    made: int
    workspace: str
    clone: str
    id: str
    members: tuple[Member, ...]
    bytes: int

    @property
    def files(self) -> list[str]:
        return [member.name.removeprefix(FILES) for member in self.members if member.name.startswith(FILES)]


class Restored(NamedTuple):
    """`clone`: what the new clone is called. `of`: the one that was backed up."""

    root: Path
    clone: str
    of: str
    files: int


# --- making one


def make(clone: Clone, file: Path) -> Backup:
    """Write the clone to `file`, which must not exist, readable by its owner alone; it is read back and checked.

    Raises UsageError: there is such a file. StoreError: the clone is not whole, or the store damaged, or the disk full.
    """
    if file.exists():
        raise UsageError(f"{file} is there already", hint="name another file: a backup overwrites nothing")
    if clone.log.author(clone.identity.id) is None or rejoin.under_way(clone.store) is not None:
        raise StoreError("this clone has not got its workspace whole", hint="let it meet a member: `replica sync`")
    beside = file.with_name(f"{file.name}.part")
    try:
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise unwritable(file.parent, error) from None
    try:
        with os.fdopen(handle, "wb") as out:
            _write(clone, _Writer(out))
            out.flush()
            os.fsync(out.fileno())
        made = check(beside)
        os.replace(beside, file)
        flush_folder(file.parent)
    except OSError as error:
        raise unwritable(file.parent, error) from None
    finally:
        beside.unlink(missing_ok=True)
    return made


def _write(clone: Clone, writer: "_Writer") -> None:
    place = clone.root / FOLDER
    with tempfile.TemporaryDirectory(prefix="backup-", dir=place) as scratch:
        with folder.turn(clone.root):  # the bridge of another process writes no file between these
            databases = [name for name in DATABASES if (place / name).is_file()]
            snapshots = {name: _snapshot(place / name, Path(scratch, name)) for name in databases}
            look = folder.look(clone.root, lambda path: clone.rule(path) is not None, clone.config.excluded)
            for path, source in sorted(look.files.items()):
                with open(source, "rb") as data:
                    writer.add(FILES + path, data)
        kept = [found for pattern in _KEPT for found in sorted(place.glob(pattern)) if found.is_file()]
        for name, source in [
            *snapshots.items(), (IDENTITY, place / IDENTITY), (PRIVATE, place / PRIVATE),
            *((found.relative_to(place).as_posix(), found) for found in kept),
        ]:  # fmt: skip
            with open(source, "rb") as data:
                writer.add(name, data)
    writer.end({
        "made": clone.log.now_ms(), "workspace": clone.workspace_name, "clone": clone.name,
        "id": clone.identity.id.hex(),
    })  # fmt: skip


def _snapshot(source: Path, target: Path) -> Path:
    """A consistent copy of a database that others may be writing to. Raises StoreError: it is damaged."""
    with translated(source):
        original, copy = sqlite3.connect(source, timeout=15.0), sqlite3.connect(target)
        try:
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, and not one with a log beside it
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            original.close(), copy.close()
    if found != "ok":
        raise StoreError(f"{source} is damaged: {found}", hint="see `replica doctor`; older backups are still good")
    return target


class _Writer:
    """Writes the parts of a backup one after the other, and their checksums at the end."""

    def __init__(self, out: IO[bytes]):
        self._out, self._all, self._at = out, hashlib.sha256(), 0
        self._members: list[Member] = []
        self._put(MAGIC + VERSION.to_bytes(2, "big"))

    def _put(self, data: bytes) -> None:
        self._out.write(data)
        self._all.update(data)
        self._at += len(data)

    def add(self, name: str, data: IO[bytes]) -> None:
        start, size, digest, pack = self._at, 0, hashlib.sha256(), zlib.compressobj(6)
        while piece := data.read(PIECE):
            size += len(piece)
            digest.update(piece)
            self._put(pack.compress(piece))
        self._put(pack.flush())
        self._members.append(Member(name, start, self._at - start, size, digest.hexdigest()))

    def end(self, facts: dict[str, Any]) -> None:
        table = json.dumps({**facts, "members": self._members}).encode()
        self._put(table + len(table).to_bytes(8, "big"))
        self._out.write(self._all.digest())


# --- looking at one


def check(file: Path) -> Backup:
    """What a backup holds, after every byte of it was checked. Raises NotABackup, StoreError."""
    try:
        with open(file, "rb") as data:
            found = _table(data, file)
            for member in found.members:
                digest = hashlib.sha256()
                for piece in _unpacked(data, member, file):
                    digest.update(piece)
                if digest.hexdigest() != member.sha256:
                    raise _damaged(file)
            return found
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}", hint="check its name and permissions") from None


def _table(data: IO[bytes], file: Path) -> Backup:
    size = os.fstat(data.fileno()).st_size
    if data.read(len(MAGIC)) != MAGIC:
        raise NotABackup(f"{file} is no backup of memory-replica", hint="name a file that `replica backup` has made")
    version = int.from_bytes(data.read(2), "big")
    least = len(MAGIC) + 2 + 8 + DIGEST
    if size < least or _digest(data, size - DIGEST) != data.read(DIGEST):
        raise _damaged(file)
    if version != VERSION:
        raise NotABackup(
            f"{file} is a backup of version {version}; this program reads {VERSION}", hint="use a newer memory-replica"
        )
    data.seek(size - DIGEST - 8)
    length = int.from_bytes(data.read(8), "big")
    start = size - DIGEST - 8 - length
    if length > MOST_TABLE or start < len(MAGIC) + 2:
        raise _damaged(file)
    data.seek(start)
    try:
        table = json.loads(data.read(length))
        members = tuple(Member(*one) for one in table["members"])
        found = Backup(version, table["made"], table["workspace"], table["clone"], table["id"], members, size)
        _judge(found, start)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _damaged(file) from None
    return found


def _digest(data: IO[bytes], end: int) -> bytes:
    digest = hashlib.sha256()
    data.seek(0)
    while end > 0 and (piece := data.read(min(PIECE, end))):
        digest.update(piece)
        end -= len(piece)
    return digest.digest()


def _judge(found: Backup, end: int) -> None:
    """Raises ValueError: it is not as `make` writes it. Checksums say that nothing was changed, not who made it."""
    names = [member.name for member in found.members]
    facts = (found.workspace, found.clone, found.id)
    fine = (
        type(found.made) is int and all(type(fact) is str for fact in facts)
        and all(type(name) is str for name in names) and len(set(names)) == len(names)
        and {STORE, IDENTITY, PRIVATE} <= set(names)
        and all(type(n) is int and n >= 0 for m in found.members for n in (m.start, m.packed, m.size))
        and all(m.start + m.packed <= end for m in found.members)
        and all(_OURS.fullmatch(name) or _is_file(name) for name in names)
    )  # fmt: skip
    if not fine:
        raise ValueError


def _is_file(name: str) -> bool:
    try:
        return name.startswith(FILES) and paths.normal(name.removeprefix(FILES)) == name.removeprefix(FILES)
    except ReplicaError:
        return False


def _unpacked(data: IO[bytes], member: Member, file: Path) -> Iterator[bytes]:
    """A member in pieces, and no more of it than its size: a few bytes may claim to be all the disk."""
    data.seek(member.start)
    unpack, left, size = zlib.decompressobj(), member.packed, 0
    try:
        while not unpack.eof:
            packed = unpack.unconsumed_tail or data.read(min(PIECE, left))
            if not unpack.unconsumed_tail:
                left -= len(packed)
            if not packed:
                raise _damaged(file)
            piece = unpack.decompress(packed, PIECE)
            size += len(piece)
            if size > member.size:
                raise _damaged(file)
            yield piece
    except zlib.error:
        raise _damaged(file) from None
    if size != member.size:
        raise _damaged(file)


def _damaged(file: Path) -> NotABackup:
    return NotABackup(f"the backup {file} is damaged or cut short")


# --- bringing one back


def restore(file: Path, root: Path, certify: "Certify", now_ms: Callable[[], int] | None = None) -> Restored:
    """Make `root`, which must be empty or not there, a clone that holds what the backup holds, under a new identity.

    Raises:
        NotABackup: the file is none, or is damaged.
        AlreadyAClone, UsageError: the folder is a clone, lies in one, or holds something.
    In each case nothing is left of what was begun.
    """
    found = check(file)
    refuse_if_clone(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} holds something already", hint="name an empty folder, or one that is to be made")
    new = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        (root / FOLDER).mkdir(mode=0o700, parents=True)
        _unpack(file, found, root)
        name = _begin(root, certify, now_ms)
    except BaseException as error:
        _undo(root, new)
        if isinstance(error, OSError):
            raise unwritable(root, error) from None
        raise
    return Restored(root, name, found.clone, len(found.files))


def _unpack(file: Path, found: Backup, root: Path) -> None:
    with open(file, "rb") as data:
        for member in found.members:
            target = _target(root, member.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = 0o666 if member.name.startswith(FILES) else 0o600
            digest = hashlib.sha256()
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                for piece in _unpacked(data, member, file):
                    digest.update(piece)
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            if digest.hexdigest() != member.sha256:  # it was changed since it was checked
                raise _damaged(file)
    for path in {_target(root, member.name).parent for member in found.members}:
        flush_folder(path)
    (root / FOLDER / ".gitignore").write_text("*\n", "utf-8")


def _target(root: Path, name: str) -> Path:
    if name.startswith(FILES):
        return paths.resolve(root, name.removeprefix(FILES))
    return root / FOLDER / (_RESTORING if name == STORE else name)


def _begin(root: Path, certify: "Certify", now_ms) -> str:
    """Give what was unpacked an identity of its own; only then its store takes the name that makes this a clone."""
    place = root / FOLDER
    identity, private = Identity.load(place / IDENTITY), Identity.load(place / PRIVATE)
    store = Store.open(place / _RESTORING)
    try:
        if store.meta("clone") != identity.id:
            raise NotABackup("the key and the store in the backup belong to different clones")
        clone = Clone(root, store, identity, private, now_ms)
        original = copies.original_of(clone)
        copies.part(clone, certify, "restored")
        with clone.transaction():
            store.set_meta("place", copies.place_of(root))
            store.set_meta("introduce", None if original is None else str(original))
            store.execute("DELETE FROM meta WHERE key='git_head'")
        _forget_local_sinks(clone)
        name = clone.name
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        store.close()
    os.replace(place / _RESTORING, place / STORE)
    flush_folder(place), flush_folder(root)
    return name


def _forget_local_sinks(clone: Clone) -> None:
    """What was stored beside the clone is not in the backup, and is stored again."""
    from replica.cloud.configured import all_of
    from replica.cloud.ledger import Ledger

    if not Ledger.exists(clone.root):
        return
    with Ledger(clone.root) as ledger:
        for sink in all_of(clone).values():
            n = ledger.known_sink(sink.name, sink.target)
            if n is not None and not sink.values.get("url"):
                ledger.drop(n, list(ledger.all(n)))
                ledger.forget_marks(n)


def _undo(root: Path, new: list[Path]) -> None:
    """Take away what was made: the folder was empty, or was not there."""
    if root.is_dir():
        for entry in list(root.iterdir()):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    for folder_ in new:
        try:
            folder_.rmdir()
        except OSError:  # not there yet, or somebody put something in
            return


def usual_name(clone: Clone, moment: int | None = None) -> str:
    """What a backup is called where a person names a folder only."""
    ms = clock.to_ms(moment) if moment is not None else int(time.time() * 1000)
    day = time.strftime("%Y-%m-%d-%H%M%S", time.localtime(ms / 1000))
    return re.sub(r"[^\w.-]+", "-", f"{clone.workspace_name}-{clone.name}-{day}") + ENDING
