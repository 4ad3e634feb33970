"""A clone: one folder with its identity, its store and everything that can be asked of them.

The one way in for the command line, the node and tests. Several `Clone` objects, in several processes, may be open
on one folder at once; each change is made under the store's write lock.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replica import changes, clock, copies, withheld
from replica.changes import Add, Kind, Remove, Signed, clean_name
from replica.disk import flush_folder
from replica.documents import Document, Documents, Entry
from replica.errors import (
    AlreadyAClone,
    ConfigError,
    DiskFull,
    DocumentNotFound,
    NotAClone,
    NotFound,
    PairingError,
    StoreError,
    UsageError,
)
from replica.keys import Identity, clone_id
from replica.log import Log, Stored, Vector, changes_start
from replica.materialise import Materialiser
from replica.places import CONFIG, FOLDER, IDENTITY, JOINING, PRIVATE, STORE, find_root
from replica.store import Store

if TYPE_CHECKING:
    from replica.bundle import Bundle
    from replica.config import Config, Rule

Certify = Callable[[bytes, str], bytes]  # (private key, name) -> a self-signed certificate, DER


class Clone:
    """An open clone. `root` is the folder of the files; `now_ms` the wall clock in milliseconds."""

    def __init__(self, root: Path, store: Store, identity: Identity, private: Identity, now_ms=None):
        self.root, self.store = root, store
        self.identity, self.private = identity, private
        self.materialiser = Materialiser(store)
        clock_ms = now_ms or (lambda: int(time.time() * 1000))
        self.log = Log(store, store.meta("workspace"), self.materialiser.apply, clock_ms)
        self.materialiser.log = self.log
        self.documents = Documents(store, self.log, self.materialiser)
        self._config: tuple[int, str, Config] | None = None  # store version, text, what it says
        self.copy_of: Path | None = None  # set when opening found that this folder is a copy of another clone's
        # Called after a transaction that added to the log; the node sends what is new.
        self.on_change: Callable[[], None] | None = None
        self.log.refresh()

    # --- life

    @classmethod
    def create(cls, root: Path, name: str, workspace: str, certify: Certify, *, now_ms=None) -> "Clone":
        """Make `root` the first clone of a new workspace.

        Raises:
            AlreadyAClone: it is one, or lies inside one; nothing was changed.
        """
        check_name(name, "clone"), check_name(workspace, "workspace")
        identity = Identity.new()
        payload = changes.member_payload(
            identity.public, certify(identity.private, name), name, nonce=os.urandom(16), workspace=workspace
        )
        moment = clock.tick(0, (now_ms or (lambda: int(time.time() * 1000)))())
        first = changes.encode(identity.id, 1, changes_start(), moment, [], Kind.GENESIS, None, payload)
        genesis = Signed(first.body, identity.sign(first.hash))
        return cls._make(root, identity, first.hash[:16], name, now_ms, lambda clone: clone.ingest([genesis]))

    @classmethod
    def adopt(
        cls, root: Path, identity: Identity, workspace: bytes, name: str, *, inviter: bytes | None = None,
        workspace_name: str = "", now_ms=None,
    ) -> "Clone":  # fmt: skip
        """Make `root` a clone of a workspace that has admitted `identity`. Its changes come by sync.

        `inviter`: the certificate of the member to trust until the members are known.
        """

        def begin(clone: "Clone") -> None:
            with clone.transaction():
                clone.store.set_meta("inviter", inviter)
                if workspace_name:
                    clone.store.set_meta("workspace_name", workspace_name)

        return cls._make(root, identity, workspace, name, now_ms, begin)

    @classmethod
    def _make(
        cls, root: Path, identity: Identity, workspace: bytes, name: str, now_ms, begin: Callable[["Clone"], object]
    ) -> "Clone":
        refuse_if_clone(root)
        folder = root / FOLDER
        was_there = folder.exists()
        try:
            cls._fill(folder, root, identity, workspace, name, now_ms, begin)
        except BaseException as error:
            if not was_there:
                shutil.rmtree(folder, ignore_errors=True)
            for leftover in folder.glob("store.new*"):
                leftover.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise unwritable(root, error) from None
            raise
        return cls.open(root, now_ms=now_ms)

    @classmethod
    def _fill(cls, folder: Path, root: Path, identity: Identity, workspace: bytes, name: str, now_ms, begin) -> None:
        """Write the keys and the store of a new clone; `begin` puts in what it must never be without."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        private = Identity.new()
        identity.save(folder / IDENTITY)
        private.save(folder / PRIVATE)
        (folder / ".gitignore").write_text("*\n", "utf-8")
        # The store comes last and under another name first: a folder is a clone when its store is whole.
        beside = folder / "store.new"
        for leftover in folder.glob("store.new*"):
            leftover.unlink()
        store = Store.create(beside)
        with store.transaction():
            for key, value in {
                "workspace": workspace, "name": name, "clone": identity.id, "place": copies.place_of(root), "time": 0,
            }.items():  # fmt: skip
                store.set_meta(key, value)
            store.execute(
                "INSERT INTO authors(id, key, cert, name, private, head) VALUES(?,?,?,?,1,?)",
                (private.id, private.public, b"", name, workspace),
            )
        try:
            begin(cls(root, store, identity, private, now_ms))
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            store.close()
        os.replace(beside, folder / STORE)
        flush_folder(folder), flush_folder(root)
        (folder / JOINING).unlink(missing_ok=True)

    @classmethod
    def open(cls, root: Path, *, certify: Certify | None = None, now_ms=None) -> "Clone":
        """Open the clone whose files are in `root`.

        A folder that was copied gets an identity of its own here (replica/copies.py), for which `certify` is needed.

        Raises:
            NotAClone, UnknownSchema: nothing was touched.
            StoreError: key and store do not fit, or a copy was found and there is no `certify`.
        """
        folder = root / FOLDER
        if not (folder / STORE).is_file():
            raise NotAClone(f"{root} is not a clone")
        store = Store.open(folder / STORE)
        try:
            (folder / JOINING).unlink(missing_ok=True)  # left by a join that was killed in its last moment
            copies.finish(folder, store)
            identity, private = Identity.load(folder / IDENTITY), Identity.load(folder / PRIVATE)
            if store.meta("clone") != identity.id:
                raise StoreError(
                    f"the key and the store in {folder} belong to different clones",
                    hint="put back the files of one backup together, or join again in a new folder",
                )
            clone = cls(root, store, identity, private, now_ms)
        except BaseException:
            store.close()
            raise
        return copies.settle(clone, certify)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> "Clone":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- who we are

    @property
    def name(self) -> str:
        author = self.log.author(self.identity.id)
        return author.name if author else self.store.meta("name")

    @property
    def workspace(self) -> bytes:
        return self.log.workspace

    @property
    def workspace_name(self) -> str:
        return self.store.meta("workspace_name", "")

    def author_name(self, id: bytes) -> str:
        author = self.log.author(id)
        return "?" if author is None else self.name if author.private else author.name

    def members(self) -> list[dict[str, Any]]:
        """Everyone who belongs or belonged: id, key, cert, name, admitted_at, admitted_by, removed_at, removed_by."""
        columns = ("id", "key", "cert", "name", "admitted_at", "admitted_by", "removed_at", "removed_by", "successor")
        rows = self.store.rows(f"SELECT {', '.join(columns)} FROM authors WHERE private=0 ORDER BY admitted_at, id")
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def trusted(self) -> dict[bytes, bytes]:
        """Who may connect: the certificates of the members that were not removed, by clone id."""
        return {m["id"]: m["cert"] for m in self.members() if m["removed_by"] is None and m["id"] != self.identity.id}

    @property
    def removed(self) -> bool:
        """Whether others have ended its membership; one that was only away too long comes back by itself."""
        author = self.log.author(self.identity.id)
        return author is not None and author.removed and not self.log.may_return(author.id)

    def member(self, name: str) -> dict[str, Any]:
        """The member of that name, or whose id begins so. Raises NotFound."""
        found = [m for m in self.members() if m["name"] == name or m["id"].hex() == name]
        found = found or [m for m in self.members() if len(name) >= 4 and m["id"].hex().startswith(name)]
        active = [m for m in found if m["removed_by"] is None] or found
        if not active:
            raise NotFound(f"no member {name!r}", hint="see who belongs with `replica members`")
        if len(active) > 1:
            raise NotFound(f"{len(active)} members are called {name!r}", hint="give the id, from `replica members`")
        return active[0]

    # --- transactions

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or none: the log, the documents and what this clone remembers of files and peers."""
        if self.store.in_transaction:
            yield
            return
        before = self.log.last_row()
        try:
            with self.store.transaction():
                self.log.refresh()
                yield
                self.materialiser.flush()
        except BaseException:
            self.materialiser.forget()
            self.log.reload()
            self.forget_config()
            raise
        if self.on_change is not None and self.log.last_row() != before:
            self.on_change()

    def append(self, kind: Kind, document: tuple[str, str] | None, payload: Any, *, level: int = 1) -> Stored:
        """Write a change of our own; level 0 goes to the private chain."""
        if level == 0 and kind not in changes.DOCUMENT_KINDS:
            raise ValueError("only a document's change can be private")
        with self.transaction():
            self._check_may_write()
            written = self.log.append(self.private if level == 0 else self.identity, kind, document, payload)
            if document is not None and document[0] == CONFIG:
                self.follow_config()
            return written

    def _check_may_write(self) -> None:
        if self.store.meta("rejoin") is not None:
            raise StoreError(
                "this clone is being brought back into its workspace (docs/recovery.md) and cannot be written to yet",
                hint="let it meet a member: `replica sync`; saved files are taken in afterwards",
            )
        if self.store.meta("clone") != self.identity.id:
            raise StoreError("this clone has got a new identity meanwhile", hint="run the command again")

    def ingest(self, batch: list[Signed]) -> tuple[list[Stored], Vector]:
        """Store what a peer sent; raises as Log.ingest, and then nothing of the batch is kept."""
        with self.transaction():
            stored, vector = self.log.ingest(batch)
            if any(one.change.document is not None and one.change.document[0] == CONFIG for one in stored):
                self.follow_config()
            return stored, vector

    def take_bundle(self, bundle: "Bundle", held: Vector | None = None) -> None:
        """Begin from what another member has folded. Only for a clone that holds nothing yet.

        `held`: what that member holds besides.

        Raises InvalidChange: the bundle cannot be used, and nothing of it was kept.
        """
        from replica import bundle as bundles

        with self.transaction():
            assert not self.log.vector(), "a bundle is for a clone that holds nothing"
            bundles.load(self.store, self.log, self.materialiser, bundle)
            self.log.set_weighed(held or {})
            self.follow_config()

    def forget_config(self) -> None:
        self._config = None

    # --- members

    def admit(self, key: bytes, certificate: bytes, name: str) -> str:
        """Let a new clone in; returns the name it got (ours to choose where it is taken). Idempotent.

        Raises:
            PairingError: this key was removed before, or this clone was.
        """
        with self.transaction():
            self._refuse_if_removed()
            id = clone_id(key)
            known = self.log.author(id)
            if known is not None and known.removed:
                raise PairingError(
                    f"{known.name} was removed from the workspace, and its key with it",
                    hint="delete .replica in its folder, then join with a new code; the files are merged",
                )
            if known is not None:
                return known.name
            taken = {m["name"] for m in self.members()}
            name = clean_name(name)
            unique = next(n for n in (name, *(f"{name}-{k}" for k in range(2, 10_000))) if n not in taken)
            self.append(Kind.ADMIT, None, changes.member_payload(key, certificate, unique))
            return unique

    def remove(self, name: str) -> dict[str, Any]:
        """End a member's access, everywhere it is heard of.

        Raises:
            PairingError: this clone was removed itself.
        """
        with self.transaction():
            self._refuse_if_removed()
            member = self.member(name)
            if member["removed_by"] is None:
                self.append(Kind.REMOVE, None, {"member": member["id"]})
        return member

    def _refuse_if_removed(self) -> None:
        if self.removed:
            raise PairingError(
                "this clone was removed from the workspace: nobody takes its word on who belongs",
                hint="do it on a clone that belongs: `replica members`",
            )

    # --- configuration

    @property
    def config(self) -> "Config":
        """The last valid replica.toml that was taken in; the defaults before there is one."""
        from replica import config

        version = self.store.version()
        if self._config is None or self._config[0] != version:
            text = self.store.meta("config", "")
            if self._config is not None and self._config[1] == text:
                self._config = (version, *self._config[1:])
            else:
                self._config = (version, text, config.load(text))
        return self._config[2]

    def set_config(self, text: str) -> None:
        """Put a valid replica.toml in force."""
        with self.transaction():
            self.store.set_meta("config", text)
        self._config = None

    def follow_config(self) -> None:
        """Put the replicated replica.toml in force if it is valid.

        In the transaction that brings it: what is private by it must not be taken in by the rules of before.
        """
        from replica import config

        document = self.documents.find(CONFIG, "latest")
        if not document.alive:
            return
        text = self.documents.text(document)
        if text == self.store.meta("config"):
            return
        try:
            config.load(text)
        except ConfigError:
            return  # the last valid rules go on
        self.set_config(text)

    def rule(self, path: str) -> "Rule | None":
        """Policy, cadence and level of a path, or None where it is not a document."""
        if path == CONFIG:
            from replica.config import Rule

            return Rule(glob=CONFIG, policy="latest", cadence="live", level=1)
        return self.config.rule(path)

    # --- documents

    def document(self, path: str) -> Document:
        """The live document of this path. Raises DocumentNotFound."""
        rule = self.rule(path)
        policies = [rule.policy] if rule else []
        for policy in dict.fromkeys([*policies, *changes.POLICIES]):
            document = self.documents.find(path, policy)
            if document.alive:
                return document
        raise DocumentNotFound(f"no document {path!r} in this clone")

    def edit_entries(self, path: str, policy: str, ops: list[tuple[int, Add | Remove]]) -> list[Stored]:
        """Append entry operations, each with its level: level 0 in the private chain, the others in the shared one."""
        written = []
        with self.transaction():
            hidden = [op for level, op in ops if level == 0 and isinstance(op, Add)]
            if hidden:
                withheld.follow(self.store, self.log, path, hidden)
            split = [part for level, op in ops for part in self._by_chain(level, op)]
            for private in (False, True):
                chosen = [op for level, op in split if (level == 0) == private]
                for at in range(0, len(chosen), 5_000):
                    payload = changes.entries_payload(chosen[at : at + 5_000])
                    written.append(self.append(Kind.ENTRIES, (path, policy), payload, level=0 if private else 1))
        return written

    def _by_chain(self, level: int, op: Add | Remove) -> Iterator[tuple[int, Add | Remove]]:
        """The operation, and what it takes away of the other chain as an operation of that one.

        An entry can be in both: written at level 0 here, and in the same words by somebody else.
        """
        if not op.kills:
            yield level, op
            return
        hidden = {author.id for author in self.log.authors() if author.private}
        ours = tuple(dot for dot in op.kills if (dot.author in hidden) == (level == 0))
        others = tuple(dot for dot in op.kills if (dot.author in hidden) != (level == 0))
        if ours or isinstance(op, Add):
            yield level, op._replace(kills=ours)
        if others:
            yield (1 if level == 0 else 0), Remove(others)

    def edit_text(self, path: str, ops: list | None = None, *, new: str | None = None, level: int = 1) -> list[Stored]:
        """Change a text by operations (start, end, replacement) or to a whole new content."""
        from replica.text import client_id

        who = self.private if level == 0 else self.identity
        with self.transaction():
            document = self.documents.find(path, "text")
            doc = document.private if level == 0 else document.shared
            assert new is not None or doc is not None, "operations on a text that is not there"
            if doc is None or not self._has_begun(doc):
                return [self.append(Kind.IMPORT, (path, "text"), new or "", level=level)]
            client = client_id(who.id, path)
            engine = self.materialiser.engine(doc, client=client)
            updates = engine.edit(client, new) if new is not None else engine.edit_ops(client, ops or [])
            if not updates and not document.alive:
                # Brought back as it was: the text needs no change, the document does.
                return [self.append(Kind.IMPORT, (path, "text"), engine.text, level=level)]
            self.materialiser.made_here = True
            try:
                return [self.append(Kind.TEXT, (path, "text"), update, level=level) for update in updates]
            finally:
                self.materialiser.made_here = False

    def _has_begun(self, doc: int) -> bool:
        """Whether a text has a first content. It may be in its baseline, and not in the log."""
        return bool(
            self.store.value("SELECT 1 FROM changes WHERE doc=? AND kind IN (4,5)", (doc,))
            or self.store.value("SELECT 1 FROM texts WHERE doc=?", (doc,))
        )

    def move_text(self, document: Document, text: str, level: int) -> list[Stored]:
        """The level of a text has changed: it goes on as `text` in the other twin. What was shared stays shared.

        Shared again, it keeps what others wrote while it went on privately here: that was never seen.
        """
        from replica import textdiff

        with self.transaction():
            shared = document.shared
            if level > 0 and self.store.value("SELECT 1 FROM alive WHERE doc=?", (shared,)):
                then, now = self._text_at_parting(document), self.documents.raw_text(shared)
                if then:
                    text = textdiff.apply_ops(now, textdiff.rebase(textdiff.diff(then, text), then, now))
                else:
                    text = textdiff.merge_additive(now, text)
            written = self.edit_text(document.path, new=text, level=level)
            if level > 0:
                self.delete(document._replace(shared=None))
            return written

    def _text_at_parting(self, document: Document) -> str:
        """What the shared twin of a text held here when the private one began or began again; "" if not known."""
        from replica.materialise import apply_text

        private, engine = document.private, self.materialiser.folded_text(document.shared)
        began = self.store.value(
            "SELECT min(n) FROM changes WHERE doc=? AND n>"
            "(SELECT ifnull(max(n), 0) FROM changes WHERE doc=? AND kind=?)", (private, private, int(Kind.DELETE)),
        )  # fmt: skip
        if began is not None and began <= self.store.meta("begun_row", 0):
            return ""  # what is shared came anew since (replica/rejoin.py), with what others wrote later
        for stored in self.log.changes_of(document.shared, 0, began or 0):
            apply_text(engine, stored)
        return engine.text

    def delete(self, document: Document) -> None:
        """Delete a document as far as it is seen here."""
        with self.transaction():
            for doc, level in ((document.shared, 1), (document.private, 0)):
                if doc is None or not self.store.value("SELECT 1 FROM alive WHERE doc=?", (doc,)):
                    continue
                dots = [
                    list(row) for row in self.store.rows(
                        "SELECT a.id, adds.seq, adds.idx FROM adds JOIN authors a ON a.n=adds.author"
                        " WHERE doc=? AND dead=0", (doc,),
                    )
                ]  # fmt: skip
                for at in range(0, max(len(dots), 1), changes.MAX_OPS):
                    part = dots[at : at + changes.MAX_OPS]
                    self.append(Kind.DELETE, (document.path, document.policy), part, level=level)

    def entries(self, path: str) -> list[Entry]:
        return self.documents.entries(self.document(path))

    def text(self, path: str) -> str:
        return self.documents.text(self.document(path))

    def digest(self) -> bytes:
        self.log.refresh()
        return self.documents.digest()

    def vector(self) -> Vector:
        self.log.refresh()
        return self.log.vector()


def refuse_if_clone(root: Path) -> None:
    try:
        existing = find_root(root)
    except NotAClone:
        return
    where = "is already a clone" if existing == root.absolute() else f"lies inside the clone {existing}"
    raise AlreadyAClone(f"{root} {where}")


def check_name(name: str, what: str) -> None:
    if clean_name(name) != name or not name:
        raise UsageError(
            f"{name!r} is no name for a {what}",
            hint=f"use up to {changes.MAX_NAME} printable characters, no line breaks",
        )


def unwritable(root: Path, error: OSError) -> StoreError:
    import errno

    if error.errno == errno.ENOSPC:
        return DiskFull(f"the disk of {root} is full")
    return StoreError(f"cannot write in {root}: {error.strerror}", hint="check that the folder exists and is yours")
