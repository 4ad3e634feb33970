"""Every error a person or a caller can meet, in one tree. Imports nothing of ours.

A message says what went wrong and which thing it was about; `hint` says the way out. Only
`cli.main` prints them; code below raises and never prints.
"""

from typing import Any


class ReplicaError(Exception):
    """Something this program foresaw. `hint`, when set, is the way out in one sentence."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None):
        super().__init__(message)
        if hint is not None:
            self.hint = hint


# --- the clone and its store


class NotAClone(ReplicaError):
    """No `.replica/` here or in any folder above."""

    hint = "make one with `replica init`, or join a workspace with `replica join CODE`"


class AlreadyAClone(ReplicaError):
    """This folder already belongs to a workspace; nothing was changed."""

    hint = "see it with `replica status`; use another folder for another workspace"


class StoreError(ReplicaError):
    """The store cannot be read or written as it is."""


class UnknownSchema(StoreError):
    """The store was written by another version of this program; it was not touched."""

    hint = "use the version of memory-replica that wrote it, or a newer one"


class DamagedRecord(StoreError):
    """A row of the store is not what was written there. Its document stays as it is; the others go on."""

    hint = "keep a copy of this folder, then join the workspace again in a new one and bring the files along"


class DiskFull(StoreError):
    """The disk took no more; what was being written was undone."""

    hint = "make room on the disk, then repeat the command; nothing was half written"


# --- documents and their content


class DocumentNotFound(ReplicaError):
    """No document of this path."""

    hint = "list the documents with `replica ls`"


class NotFound(ReplicaError):
    """No conflict, version, member or moment of this name."""


class HistoryFolded(NotFound):
    """The history of that time is not kept any more."""


class TooLarge(ReplicaError):
    """Over a limit; it was not taken in."""

    hint = "split it, or exclude it in replica.toml"


class WrongPolicy(ReplicaError):
    """The document's policy does not allow this."""


class UnsafePath(ReplicaError):
    """A path that could leave the clone's folder, or that some file system cannot hold."""

    hint = "use a relative path without `..`, links, or reserved names"


class ConfigError(ReplicaError):
    """`replica.toml` is not valid. The message names the line; the last valid one stays in force."""

    hint = "mend replica.toml at that line; `replica doctor` checks it again"


# --- what a peer sent


class PeerError(ReplicaError):
    """The fault of the other side. Nothing of what it sent was kept.

    `change`: the one that was refused (changes.Change), where it is known. `proven`: its author has signed it, so
    that the fault is the author's, whoever passed it on.
    """

    change: Any = None
    proven: bool = False


class InvalidChange(PeerError):
    """A change whose signature, chain, size or content is not right."""


class MissingDependency(PeerError):
    """A change came before one that it builds on."""


class FoldedTooSoon(MissingDependency):
    """A change whose author had not seen what is folded here, and that has to be weighed against it."""


class CorruptUpdate(InvalidChange):
    """A text update that does not pass the structural check; the document is unchanged."""


class Fork(InvalidChange):
    """Two different changes carry one author and number: that author's store was rolled back or copied."""


class ProtocolError(PeerError):
    """The peer may not say this now, or not like this."""


class IncompatiblePeer(PeerError):
    """The peer speaks a protocol version that we do not, or is of another workspace."""


# --- pairing and reaching


class PairingError(ReplicaError):
    """Pairing did not succeed; nothing was changed on this side."""


class WrongCode(PairingError):
    """The code is wrong, or someone interfered."""

    hint = "ask for a new code (`replica invite` on the other machine) and type it exactly"


class CodeExpired(PairingError):
    """The invitation is over: used, expired, or too many wrong codes."""

    hint = "ask for a new code: `replica invite` on the other machine"


class TooManyGuesses(PairingError):
    """So many wrong codes were tried at this clone that it takes none for a while."""


class Unreachable(ReplicaError):
    """Nobody answers there."""


class CannotListen(ReplicaError):
    """The address to listen on is in use or not ours."""

    hint = "choose another address or port with --listen HOST:PORT"


class ForeignFile(ReplicaError):
    """A file of another program, which cannot be changed without a risk to what else is in it; it was left alone."""

    hint = "put in what `replica connect` shows by hand, or take it out"


class UsageError(ReplicaError):
    """The command line is not right; exit code 2."""
