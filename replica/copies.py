"""A copied folder (`cp -r`, a work tree) must not go on as the clone it was copied from: two would write one chain.

Each store remembers its place. Opened elsewhere while the old place still holds the same identity, it is a copy: it
takes a new identity, vouched for by the old one, and tells the original of it, which tells the others. Opened elsewhere
otherwise, the folder was moved.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from replica import changes
from replica.changes import Kind, Signed
from replica.disk import flush_folder
from replica.errors import ReplicaError, StoreError
from replica.keys import Identity, write_private
from replica.places import FOLDER, IDENTITY, STORE

if TYPE_CHECKING:
    from replica.clone import Certify, Clone
    from replica.store import Store

NEXT = "identity.next"  # the new key, until the store knows of it
FORMER = "former"  # the folder of the keys that this clone had before: they vouch for it where the new one is not known


def place_of(root: Path) -> str:
    """Where a clone is."""
    return str(root.resolve())


def settle(clone: "Clone", certify: "Certify | None") -> "Clone":
    """Return the clone itself if it is where it was or was moved; one with a new identity if it is a copy."""
    here, recorded = place_of(clone.root), clone.store.meta("place")
    try:
        if here != recorded:
            original = Path(recorded)
            if _is_copied(clone, original) and clone.log.author(clone.identity.id) is not None:
                return _branch_off(clone, original, certify) or _opened_again(clone, certify)
            with clone.transaction():
                clone.store.set_meta("place", here)
        elif clone.store.meta("introduce"):
            _introduce(clone)
    except BaseException:
        clone.close()
        raise
    return clone


def _is_copied(clone: "Clone", place: Path) -> bool:
    """Whether another folder, at `place`, holds the same identity.

    Two names may be of one folder: mounted twice, or spelled otherwise where upper and lower case are one.
    """
    try:
        there = (place / FOLDER / STORE).is_file() and not place.samefile(clone.root)
        return there and Identity.load(place / FOLDER / IDENTITY).id == clone.identity.id
    except (ReplicaError, OSError):
        return False


def _opened_again(clone: "Clone", certify: "Certify | None") -> "Clone":
    clone.close()
    return type(clone).open(clone.root, certify=certify, now_ms=clone.log.now_ms)


def _branch_off(clone: "Clone", original: Path, certify: "Certify | None") -> "Clone | None":
    if certify is None:
        raise StoreError(f"{clone.root} is a copy of the clone {original}", hint="run `replica status` in it once")
    new = Identity.new()
    with clone.transaction():
        if clone.store.meta("clone") != clone.identity.id:
            return None  # another process has just done it
        new.save(clone.root / FOLDER / NEXT)
        introduce(clone, clone.identity, new, _copy_name(clone), "copy", certify)
        for key, value in {"place": place_of(clone.root), "introduce": str(original)}.items():
            clone.store.set_meta(key, value)
    finish(clone.root / FOLDER, clone.store)
    clone.identity = new
    clone.copy_of = original
    _introduce(clone)
    return clone


def part(clone: "Clone", certify: "Certify", what: str = "copy") -> None:
    """Go on under a new identity: another clone has, or may have, the one of this clone as well.

    `what`: what the new name ends in.
    """
    new = Identity.new()
    with clone.transaction():
        new.save(clone.root / FOLDER / NEXT)
        introduce(clone, clone.identity, new, _copy_name(clone, what), "copy", certify)
    finish(clone.root / FOLDER, clone.store)
    clone.identity = new


def original_of(clone: "Clone") -> Path | None:
    """The folder that a store was copied from, if it is on this machine and holds the same identity still."""
    place = Path(clone.store.meta("place"))
    return place if _is_copied(clone, place) else None


def _copy_name(clone: "Clone", what: str = "copy") -> str:
    taken = {member["name"] for member in clone.members()}
    names = (f"{clone.name}-{what}", *(f"{clone.name}-{what}-{k}" for k in range(2, 10_000)))
    return next(name for name in names if name not in taken)


def introduce(clone: "Clone", was: Identity, new: Identity, name: str, why: str, certify: "Certify") -> None:
    """Write the first change of `new`, in which `was` vouches for it: the store is the new one's. In a transaction."""
    from replica.log import succession

    payload = changes.member_payload(
        new.public, certify(new.private, name), name, old=was.id, why=why,
        proof=was.sign(succession(clone.workspace, new.public)),
    )  # fmt: skip
    moment = clone.store.meta("time") + 1
    deps = list(clone.log.vector().items())
    first = changes.encode(new.id, 1, clone.workspace, moment, deps, Kind.SUCCEED, None, payload)
    clone.log.ingest([Signed(first.body, new.sign(first.hash))])
    clone.store.set_meta("clone", new.id)
    clone.store.execute("DELETE FROM meta WHERE key='port'")


def identities(clone: "Clone") -> list[Identity]:
    """This clone's identity and those it had before, the newest first: who knows none but an old one takes that."""
    former = clone.root / FOLDER / FORMER
    files = sorted(former.glob("*.key"), reverse=True) if former.is_dir() else []
    return [clone.identity, *map(Identity.load, files)]


def voucher(clone: "Clone") -> Identity:
    """The newest of this clone's identities that is a member by its log."""
    for identity in identities(clone):
        if clone.log.author(identity.id) is not None:
            return identity
    raise StoreError("no member knows any identity of this clone", hint="join again in a new folder, with these files")


def finish(folder: Path, store: "Store") -> None:
    """Put the new key in the old one's place once the store belongs to it; a crash before that undoes it."""
    following = folder / NEXT
    if not following.is_file():
        return
    with store.transaction():  # another process may be about to say that the store belongs to it
        if not following.is_file():
            return
        if Identity.load(following).id == store.meta("clone"):
            (folder / "identity.pem").unlink(missing_ok=True)
            if store.meta("introduce"):  # a copied folder: this leads to the node of the original
                (folder / "node.json").unlink(missing_ok=True)
            _keep_former(folder)
            os.replace(following, folder / IDENTITY)
            flush_folder(folder)
        else:
            following.unlink()


def _keep_former(folder: Path) -> None:
    """Copy the key that goes. A copy is on the disk before the original is overwritten; a rename might be neither."""
    former, key = folder / FORMER, folder / IDENTITY
    if not key.is_file():
        return
    former.mkdir(mode=0o700, exist_ok=True)
    flush_folder(folder)
    kept = sorted(former.glob("*.key"))
    if not kept or kept[-1].read_bytes() != key.read_bytes():  # else a crash came between this and what follows
        write_private(former / f"{len(kept):06}.key", key.read_bytes())


def _introduce(clone: "Clone") -> None:
    """Hand our first change to the original, whose node spreads it: others trust our new key from then on."""
    from replica.clone import Clone

    original = Path(clone.store.meta("introduce"))
    first = clone.store.row(
        "SELECT body, signature FROM changes JOIN authors a ON a.n=author WHERE a.id=? AND changes.seq=1",
        (clone.identity.id,),
    )
    try:
        with Clone.open(original) as other:
            other.ingest([Signed(*first)])
    except ReplicaError:
        return  # it is away or busy; the next opening tries again
    with clone.transaction():
        clone.store.set_meta("introduce", None)
