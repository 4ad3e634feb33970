"""Takes what is right of what a peer sends, leaves out what is not, and says whose fault that is.

A batch is stored as a whole or not at all (replica/log.py). Where it is refused it is taken apart here: the author of
the change that cannot be taken is left out from there on, with everything that builds on it, and the rest is tried
again. So one member's bad change blocks nobody else's, whoever passes it on.

Who is to blame is a matter of proof. A change that its author has signed, itself or through the chain that its next
changes make, is the author's fault. Anything else (a signature that does not hold, bytes that are no change, a change
before what it builds on) is the fault of the one who sent it: an honest clone stores nothing of the kind, and so cannot
pass it on.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from replica import changes, faults
from replica.changes import Change, Kind, Signed
from replica.clone import Clone
from replica.errors import Fork, InvalidChange, MissingDependency, PeerError
from replica.keys import clone_id, verify
from replica.log import Stored, Vector

# Authors whose bad changes one conversation may bring. Each costs a batch one more try; an honest relay brings none.
MOST_AUTHORS = 8

Read = list[tuple[Change, Signed]]
Blame = Callable[[bytes, PeerError], None]  # (member, what it did)


class Sifted(NamedTuple):
    """`reaches`: how far the batch goes for each of its authors. `fault`: why the sender is not listened to further."""

    stored: list[Stored]
    reaches: Vector
    fault: PeerError | None


class Sieve:
    """One conversation with `sender`. `blame` is told of every author who is proven to have signed a bad change."""

    def __init__(self, clone: Clone, sender: bytes, blame: Blame):
        self._clone, self._sender, self._blame = clone, sender, blame
        self._withheld: Vector = {}  # of each author, the first change that was left out
        self._split: Vector = {}  # of each author, the first change that is another one here
        self._refused = faults.refused_hashes(clone)
        self._authors: set[bytes] = set()
        self._found: list[tuple[bytes, PeerError]] = []  # to be told once the rest is stored

    def take(self, batch: Iterable[Signed]) -> Sifted:
        """Store what can be stored of a batch.

        Raises:
            InvalidChange, MissingDependency: the sender's fault; nothing of the batch was kept.
        """
        batch = list(batch)
        if not self._withheld and not self._refused:
            try:
                return Sifted(*self._clone.ingest(batch), None)
            except PeerError as error:
                if error.change is None:
                    raise
        read = [(changes.decode(signed.body), signed) for signed in batch]
        reaches: Vector = {}
        for change, _ in read:
            reaches[change.author] = max(change.seq, reaches.get(change.author, 0))
        fault = self._known_bad(read)
        while True:
            rest = self._rest(read)
            try:
                stored, _ = self._clone.ingest(rest) if rest else ([], {})
                break
            except PeerError as error:
                fault = self._judge(error, read) or fault
        for found in self._found:
            self._blame(*found)
        self._found.clear()
        return Sifted(stored, reaches, fault)

    def _known_bad(self, read: Read) -> PeerError | None:
        """Leave out what was refused before; the fault, if the sender wrote it itself and so offers it again."""
        fault = None
        for change, _ in read:
            if change.hash in self._refused:
                self._leave_out(change)
                if change.author == self._sender:
                    fault = InvalidChange(f"change {self._name(change)} was refused before")
                    fault.change, fault.proven = change, True
        return fault

    def _judge(self, error: PeerError, read: Read) -> PeerError | None:
        """Blame the author and leave him out; the error, if he is the sender. Raises: it is the sender's alone."""
        change = error.change
        if change is None or isinstance(error, MissingDependency):
            raise error
        if not self._proven(change, read) or not self._continues(change, read):
            raise InvalidChange(f"change {self._name(change)} is not signed by its author as it came") from error
        error.proven = True
        if change.author == self._clone.identity.id:
            raise error  # our own past, and nobody's fault but ours: the owner of the session has to see it
        self._authors.add(change.author)
        if len(self._authors) > MOST_AUTHORS:
            raise InvalidChange(f"it passes on changes of more than {MOST_AUTHORS} members that nobody can take")
        self._refused.add(change.hash)
        self._leave_out(change)
        if change.author == self._sender:
            return error
        self._found.append((change.author, error))
        return None

    def _leave_out(self, change: Change) -> None:
        self._withheld[change.author] = min(change.seq, self._withheld.get(change.author, change.seq))
        held = self._clone.log.hash_at(change.author, change.seq)
        if held is not None and held != change.hash:
            self._split[change.author] = min(change.seq, self._split.get(change.author, change.seq))

    def _name(self, change: Change) -> str:
        return f"{self._clone.author_name(change.author)} {change.seq}"

    # --- what is left

    def _rest(self, read: Read) -> list[Signed]:
        """What does not build on anything left out, each author's part ending where it carries a signature."""
        while self._follow(read):
            pass
        return [signed for change, signed in read if not self._is_out(change)]

    def _follow(self, read: Read) -> bool:
        """Leave out what builds on what is left out; whether that was anything more."""
        before = dict(self._withheld)
        signed: dict[bytes, int] = {}  # of each author, up to where a signature covers what is taken
        first: dict[bytes, int] = {}
        for change, (_, signature) in read:
            first.setdefault(change.author, change.seq)
            if not self._is_out(change) and any(self._is_missing(*dep) for dep in change.deps):
                self._leave_out(change)
            if not self._is_out(change) and signature is not None:
                signed[change.author] = max(change.seq, signed.get(change.author, 0))
        for author, start in first.items():
            if author in self._withheld:
                end = max(signed.get(author, 0) + 1, start)
                self._withheld[author] = min(self._withheld[author], end)
        return before != self._withheld

    def _is_out(self, change: Change) -> bool:
        return change.seq >= self._withheld.get(change.author, change.seq + 1)

    def _is_missing(self, author: bytes, seq: int) -> bool:
        """Left out here, and not come by another way: what is held under its number may be another change."""
        if seq < self._withheld.get(author, seq + 1):
            return False
        if seq >= self._split.get(author, seq + 1):
            return True
        known = self._clone.log.author(author)
        return known is None or known.seq < seq

    # --- proof

    def _proven(self, change: Change, read: Read) -> bool:
        """Whether the author's signature covers this change: its own, or one further on through the chain."""
        key = self._key(change.author, read)
        head = None
        for other, (_, signature) in read:
            if other is change or other.hash == change.hash:
                head = other.hash
            elif head is None or other.author != change.author:
                continue
            elif other.prev == head:
                head = other.hash
            else:
                return False
            if key is not None and signature is not None and verify(key, signature, head):
                return True
        return False

    def _continues(self, change: Change, read: Read) -> bool:
        """Whether what stands before the change is its author's as well, and not put there by who passed it on."""
        known = self._clone.log.author(change.author)
        if known is None:
            return change.kind not in (Kind.GENESIS, Kind.SUCCEED)  # who is no member is nobody to blame
        if change.seq <= known.seq + 1:
            return True
        return any(other.author == change.author and other.hash == change.prev for other, _ in read)

    def _key(self, author: bytes, read: Read) -> bytes | None:
        """The author's key: known here, or introduced in the batch. Its id is its hash, so no word is taken for it."""
        known = self._clone.log.author(author)
        if known is not None:
            return known.key
        for change, _ in read:
            if change.kind in (Kind.GENESIS, Kind.ADMIT, Kind.SUCCEED) and clone_id(change.payload["key"]) == author:
                return change.payload["key"]
        return None


def describe(error: PeerError) -> tuple[str, str, int, bytes]:
    """Kind of fault, what the member did, and of which change."""
    change = error.change if error.proven else None
    if change is None:
        return faults.TALK, f"broke the rules of the conversation: {error}", 0, b""
    if isinstance(error, Fork):
        return faults.FORK, f"has signed two different changes number {change.seq}", change.seq, change.hash
    where = f" to {change.document[0]}" if change.document is not None else ""
    what = f"has signed a change{where} that nobody can take (number {change.seq}): {error}"
    return faults.CHANGE, what, change.seq, change.hash
