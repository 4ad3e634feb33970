"""The sync protocol between two clones, without any I/O: messages in, messages out.

Each side says what it holds (Hello, a version vector), sends what the other lacks in causal order, and
acknowledges what it has made durable. When both hold the same, each says the digest of its content: only
equal digests for equal vectors mean "in step". Live changes take the same way as old ones.

A link may lose everything at any time: the next session starts from the vectors again, and what
comes twice is passed over.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from replica import bundle, changes, clock, faults, rejoin, sieve
from replica.bundle import MAX_PACKED
from replica.changes import Signed
from replica.clone import Clone
from replica.errors import (
    DamagedRecord,
    FoldedTooSoon,
    Fork,
    IncompatiblePeer,
    InvalidChange,
    MissingDependency,
    PeerError,
    ProtocolError,
)
from replica.keys import ID_SIZE
from replica.log import Stored, Vector, covers, lacking
from replica.members import REMOVED

PROTOCOL = 1
# Batches on their way that the peer has not acknowledged: enough to hide a round trip, bounded memory.
WINDOW = 4
# Document digests in one message; a differing workspace of more is compared in parts.
DIGESTS_PER_MESSAGE = 5_000
HEAD = 8  # bytes of a hash: chains that differ by accident or by a restored backup are told apart
PIECE = 512 * 1024  # bytes of a bundle in one message
MAX_PIECES = MAX_PACKED // PIECE
REASONS = ("join", "restored", "fork", "ended", "away")  # why a bundle is given
# Digests of one vector that a peer may say: each makes us look at every document. Twice is enough to heal.
MAX_DIGESTS = 4
# Messages in a row that bring nothing new, before the peer is taken for one that wants to keep us busy.
MAX_EMPTY = 2_000
NOBODY = bytes(ID_SIZE)  # in Hello: the sender is being brought back, and has yet to write as anybody


@dataclass(frozen=True, slots=True)
class Hello:
    """The sender's protocol versions, workspace, and what it holds.

    `heads`: the first HEAD bytes of the hash of each chain's last change, in the order of the authors' ids.
    `id`: whom the sender writes as. It differs from whom the channel knows it by while it introduces a new identity,
    and is NOBODY while it is being brought back: it goes on from what has come so far.
    """

    versions: tuple[int, ...]
    workspace: bytes
    vector: Vector
    heads: bytes = b""
    id: bytes = b""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes in causal order; the last of each author is signed."""

    batch: tuple[Signed, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """What the sender holds durably."""

    vector: Vector


@dataclass(frozen=True, slots=True)
class Digest:
    """The hash of the sender's content at exactly this vector."""

    vector: Vector
    digest: bytes


@dataclass(frozen=True, slots=True)
class DocumentDigests:
    """Where digests differ: each document's own, as (path, policy, digest)."""

    vector: Vector
    documents: tuple[tuple[str, str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """Piece `number` of `count` of a bundle (replica/bundle.py): what is below the sender's floor.

    `why` it is given: "join" to one that holds nothing; else to one that cannot go on from what it holds
    (replica/rejoin.py): "restored", "away", or since the chains of the member `about` differ: "fork", and "ended" if
    that member has said itself which of them it has ended with.
    """

    why: str
    about: bytes
    number: int
    count: int
    piece: bytes


@dataclass(frozen=True, slots=True)
class Restart:
    """The sender cannot go on from what it holds: it asks for a bundle and the log behind it."""


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender ends the session. `reason` is for people."""

    reason: str


Message = Hello | Changes | Ack | Digest | DocumentDigests | Baseline | Restart | Bye


class State(Enum):
    OPENING = auto()
    SYNCING = auto()
    CLOSED = auto()


# What a peer may say in each state. The table is the protocol: all else is the peer's error.
ACCEPTS: dict[State, set[type]] = {
    State.OPENING: {Hello, Bye},
    State.SYNCING: {Changes, Ack, Digest, DocumentDigests, Baseline, Restart, Bye},
    State.CLOSED: {Bye},  # both said goodbye at once
}


# --- what a session tells its owner


@dataclass(frozen=True, slots=True)
class Took:
    """New changes were stored, in this order."""

    changes: tuple[Stored, ...]


@dataclass(frozen=True, slots=True)
class InStep:
    """Both sides hold the same changes and the same content."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Diverged:
    """Equal changes, unequal content: these documents were rebuilt from the log. `healed`: no longer unequal."""

    paths: tuple[str, ...]
    healed: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; `reason` says why, from whose side."""

    reason: str
    by_peer: bool


@dataclass(frozen=True, slots=True)
class Blamed:
    """A member is proven to have done `what`; `hint` says the way out. It need not be this peer."""

    member: bytes
    what: str
    hint: str


Event = Took | InStep | Diverged | Blamed | Ended


class Session:
    """One conversation with the clone `peer` (its id, which the channel has authenticated).

    Send what `open`, `receive`, `changed` and `settle` return, in order. Events go to `tell`.
    """

    def __init__(self, clone: Clone, peer: bytes, tell: Callable[[Event], None] = lambda event: None):
        self._clone, self._peer, self._tell = clone, peer, tell
        self.state = State.OPENING
        self.peer_vector: Vector = {}  # what the peer has said that it holds
        self._sent: Vector = {}  # what it holds once everything on its way has arrived
        self._cursor: int | None = None  # our row up to which `_sent` is complete; None: find out anew
        self._unacknowledged = 0
        self._said_digest: Vector | None = None
        self._rebuilt_at: Vector | None = None
        self._giving: list[Baseline] = []  # pieces of a bundle that wait to be sent, the next one last
        self._unheard = 0  # pieces it has not acknowledged: until then, what it sends is not what it will go on from
        self._why = ""  # we are giving it one
        self._asked = False  # we wait for a bundle
        self._folded = False  # since we have folded what it still weighs
        self._taken: list[bytes] = []  # the pieces that have come so far
        self._sieve = sieve.Sieve(clone, peer, self._blame)
        self._digests = self._parts = 0  # that the peer has said of our vector as it is, which is
        self._counted: Vector = {}
        self._empty = 0  # messages in a row that brought nothing
        self._begun = rejoin.begun(clone.store)  # what we know of the peer holds for this beginning of our store
        self._peer_is_whole = True
        self._opened: Vector = {}  # what we have said in our hello
        self._compared: Vector = {}  # up to where each chain is known to be one here and there
        self._ranks: list[tuple] = [(), ()]  # ours and the peer's: if both give a bundle, the lower gives way
        self.in_step = False

    # --- what the owner calls

    def open(self) -> list[Message]:
        refusal = self._refusal()
        if refusal:
            return self._end(refusal)
        vector = self._clone.vector()
        heads = b"".join(self._clone.log.author(id).head[:HEAD] for id in sorted(vector))
        id = NOBODY if rejoin.under_way(self._clone.store) else self._clone.identity.id
        hello = Hello((PROTOCOL,), self._clone.workspace, vector, heads, id)
        self._ranks[0] = _rank(hello)
        self._opened = vector
        return [hello]

    def receive(self, message: Message) -> list[Message]:
        """Take one message; return the replies, oldest first.

        Raises:
            ProtocolError: the peer may not say this now.
            IncompatiblePeer: no common protocol version, or another workspace.
            InvalidChange, MissingDependency: what it sent was refused; the store is as it was.
        """
        if type(message) not in ACCEPTS[self.state]:
            raise ProtocolError(f"{type(message).__name__} is not allowed while {self.state.name.lower()}")
        if isinstance(message, Bye):
            self.state = State.CLOSED
            self._tell(Ended(message.reason, by_peer=True))
            return []
        if self._is_past():
            return self._end("")
        refusal = self._refusal()
        if refusal:
            return self._end(refusal)
        self._empty += 1
        if self._empty > MAX_EMPTY:
            raise ProtocolError(f"{MAX_EMPTY:,} messages in a row brought nothing new")
        return _RECEIVE[type(message)](self, message)

    def changed(self) -> list[Message]:
        """The store has grown: send what the peer lacks of it."""
        if self.state is not State.SYNCING:
            return []
        if self._is_past():
            return self._end("")
        self._clone.log.refresh()
        refusal = self._refusal()
        return self._proof() + self._end(refusal) if refusal else self._send_missing()

    def settle(self) -> list[Message]:
        """Nothing has moved for a moment: if both hold the same, say the digest, once for each vector."""
        if self.state is not State.SYNCING or self._is_past():
            return []
        mine = self._clone.vector()
        if mine != self.peer_vector or self._said_digest == mine:
            return []
        digest = self._clone.digest()  # written to the store: where the disk is full nothing was said
        self._said_digest = mine
        return [Digest(mine, digest)]

    def look_back(self) -> None:
        """If we are being brought back, see whether this peer, in step, will do in the place of who has begun that."""
        if self.in_step and self._peer_is_whole and self._coming_back():
            rejoin.met(self._clone)

    def fail(self, error: PeerError) -> list[Message]:
        """The peer broke the rules: say so, remember it and end."""
        self.state = State.CLOSED
        reason = str(error)
        if isinstance(error, LIES) and not (error.proven and error.change.author != self._peer):
            reason = f"{self._clone.author_name(self._peer)} {self._blame(self._peer, error)}"
        self._tell(Ended(reason, by_peer=False))
        return [Bye(reason[:500])]

    def _blame(self, member: bytes, error: PeerError) -> str:
        """Remember what a member did, and say it; returns it in words."""
        kind, what, seq, hash = sieve.describe(error)
        hint = faults.way_out(kind, self._clone.author_name(member))
        faults.record(self._clone, member, kind, what, hint, seq=seq, hash=hash)
        self._tell(Blamed(member, what, hint))
        return what

    @property
    def behind(self) -> int:
        """Changes of ours that the peer has not acknowledged."""
        return lacking(self.peer_vector, self._clone.log.vector())

    @property
    def ahead(self) -> int:
        """Changes that the peer holds and we lack."""
        return lacking(self._clone.log.vector(), self.peer_vector)

    # --- one function for each message

    def _hello(self, message: Hello) -> list[Message]:
        if PROTOCOL not in message.versions:
            theirs = ", ".join(map(str, message.versions)) or "none"
            raise IncompatiblePeer(
                f"the peer speaks protocol {theirs}, this program {PROTOCOL}",
                hint="update memory-replica on the older side",
            )
        if message.workspace != self._clone.workspace:
            raise IncompatiblePeer("the peer is of another workspace", hint="join its workspace in another folder")
        self.state = State.SYNCING
        self.peer_vector, self._sent = dict(message.vector), dict(message.vector)
        # Of each chain, whoever holds as much as the other has compared it up to there (`_forks`).
        self._compared = {author: min(seq, self._opened.get(author, 0)) for author, seq in message.vector.items()}
        self._peer_is_whole = message.id != NOBODY
        self._ranks[1] = _rank(message)
        if self._allowed():
            forks = self._forks(message)
            why, about = self._cannot_go_on(message, forks)
            if why:
                self._give(why, about)
            elif forks or (not self._coming_back() and self._clone.log.may_return(self._clone.identity.id)):
                self._asked = True
                return [Restart()]
        return self._send_missing() or self.settle()

    # --- one of both cannot go on from what it holds (replica/rejoin.py)

    def _coming_back(self) -> bool:
        return rejoin.under_way(self._clone.store) is not None

    def _is_past(self) -> bool:
        """Whether our store was begun again in another conversation: what this one has agreed on does not hold.

        It ends without a reason, which is to say: call again.
        """
        return rejoin.begun(self._clone.store) != self._begun

    def _cannot_go_on(self, message: Hello, forks: dict[bytes, bool]) -> tuple[str, bytes]:
        """Why the peer needs what we hold from the start on, if it does; and whose chains differ."""
        log = self._clone.log
        if not message.vector:
            return ("join" if log.floor() else ""), b""
        if log.may_return(message.id):
            return ("ended" if log.has_ended(message.id) else "away"), message.id
        if not covers(message.vector, log.floor()):
            return "restored", b""
        if not forks or self._clone.identity.id in forks:
            return "", b""
        about = message.id if message.id in forks else min(forks)
        if log.has_ended(about):
            return "ended", about
        return ("fork" if about == message.id or forks[about] else ""), about

    def _forks(self, message: Hello) -> dict[bytes, bool]:
        """Whose chain differs here and there, as far as it can be seen from here, and whether ours is the one to keep.

        Whoever holds as much of a chain as the other or more can see it. Of the chains of somebody else the smaller
        hash is kept: both sides judge alike.
        """
        found = {}
        for at, (author, seq) in enumerate(sorted(message.vector.items())):
            theirs = message.heads[at * HEAD : (at + 1) * HEAD]
            ours = self._clone.log.hash_at(author, seq)
            if theirs and ours is not None and ours[:HEAD] != theirs:
                found[author] = ours[:HEAD] < theirs
        return found

    def _give(self, why: str, about: bytes = b"") -> None:
        """Hand over what is folded here, then the log behind that."""
        log = self._clone.log
        with self._clone.store.transaction():  # one moment of the store, whoever writes meanwhile
            packed, floor = bundle.make(self._clone.store, log), log.floor()
        pieces = [packed[at : at + PIECE] for at in range(0, len(packed), PIECE)]
        self._giving = [Baseline(why, about, at, len(pieces), piece) for at, piece in enumerate(pieces)][::-1]
        self._unheard, self._why = len(pieces), why
        self._sent, self._cursor, self._unacknowledged = floor, None, 0

    def _restart(self, message: Restart) -> list[Message]:
        if not self._allowed() or self._unheard:
            return []
        self._give("fork")
        return self._send_missing()

    def _baseline(self, message: Baseline) -> list[Message]:
        if message.why == "fork" and self._clone.log.has_ended(message.about) and not self._unheard:
            self._give("ended", message.about)
            return self._send_missing()
        if self._unheard:  # both think that the other must begin anew
            if (self._why == "ended", self._ranks[0]) > (message.why == "ended", self._ranks[1]):
                self._asked = False  # it gives way, and begins anew from what we hold
                return []
            self._giving, self._unheard = [], 0
        if message.why == "join" and self._clone.log.vector():  # others were met at the same time, and were quicker
            return self._end("")
        if message.number != len(self._taken) or not 0 < message.count <= MAX_PIECES:
            raise ProtocolError("a bundle whose pieces are not in order")
        self._empty = 0  # their number is bounded by itself
        self._taken.append(message.piece)
        if len(self._taken) == message.count:
            packed, self._taken = b"".join(self._taken), []
            self._take_bundle(bundle.read(packed), message.why)
        return [Ack(self._clone.log.vector())]

    def _take_bundle(self, taken: bundle.Bundle, why: str) -> None:
        if not self._clone.log.vector():
            if taken.floor:
                self._clone.take_bundle(taken, dict(self.peer_vector))
        else:
            rejoin.begin(self._clone, taken, "folded" if self._folded else why, dict(self.peer_vector))
            self._begun = rejoin.begun(self._clone.store)
            self._sieve = sieve.Sieve(self._clone, self._peer, self._blame)
        self._asked = self.in_step = False
        self._compared = dict(self._clone.log.vector())
        self._sent, self._cursor, self._unacknowledged = dict(self.peer_vector), None, 0
        self._said_digest = None
        self._tell(Took(()))

    # --- what goes on

    def _changes(self, message: Changes) -> list[Message]:
        if self._unheard or self._asked:
            return []
        try:
            sifted = self._sieve.take(message.batch)
        except FoldedTooSoon:  # the peer holds what it has to be weighed against, or has weighed it
            if self._folded:  # it has folded since its hello: the next conversation says what it holds now
                return self._end("")
            self._asked = self._folded = True
            return [Restart()]
        except MissingDependency:
            # One of us has begun anew, or has heard of a split: the next conversation starts from what is.
            if self._introduces(message) or self._is_beside(message):
                return self._end("")
            raise
        for author, seq in sifted.reaches.items():  # the peer holds what it has just sent: never send that back
            self._sent[author] = max(seq, self._sent.get(author, 0))
            self.peer_vector[author] = max(seq, self.peer_vector.get(author, 0))
            self._compared[author] = max(seq, self._compared.get(author, 0))
        if sifted.stored:
            self.in_step, self._empty, self._digests, self._parts = False, 0, 0, 0
            self._tell(Took(tuple(sifted.stored)))
        if sifted.fault is not None:
            raise sifted.fault
        return [Ack(self._clone.log.vector()), *self.changed()]

    def _introduces(self, message: Changes) -> bool:
        """Whether somebody who has come back under a new identity is among these, and is not known here."""
        read = (changes.decode(signed.body) for signed in message.batch)
        return any(c.kind is changes.Kind.SUCCEED and self._clone.log.author(c.author) is None for c in read)

    def _is_beside(self, message: Changes) -> bool:
        """Whether one who is nobody here builds on numbers that came here and there by other ways since the hellos.

        They may be two changes each: then the admission of that member is on the other side of a split, and the peer,
        which cannot see it, takes it for held here. Heads show it when we meet again.
        """
        held = self._clone.log.vector()
        read = [changes.decode(signed.body) for signed in message.batch]
        return any(
            self._compared.get(author, 0) < seq <= held.get(author, 0)
            for change in read
            if self._clone.log.author(change.author) is None
            for author, seq in change.deps
        )

    def _ack(self, message: Ack) -> list[Message]:
        self.peer_vector = dict(message.vector)
        self._unacknowledged = max(0, self._unacknowledged - 1)
        self._unheard = max(0, self._unheard - 1)
        if not covers(self._sent, message.vector):
            self._sent = {a: max(self._sent.get(a, 0), s) for a, s in {**self._sent, **message.vector}.items()}
        return self._send_missing()

    def _digest(self, message: Digest) -> list[Message]:
        self.peer_vector = dict(message.vector)
        mine = self._clone.vector()
        if message.vector != mine:
            return self._send_missing()
        if self._counted != mine:  # what is new may have come by others
            self._counted, self._digests, self._parts = mine, 0, 0
        self._digests += 1
        if self._digests > MAX_DIGESTS:
            raise ProtocolError(f"says its digest more than {MAX_DIGESTS} times without anything new")
        if message.digest == self._clone.digest():
            replies = self.settle()
            healed, self._rebuilt_at = self._rebuilt_at is not None, None
            if healed:
                self._tell(Diverged((), healed=True))
            self.in_step = True
            faults.settled(self._clone, self._peer)
            self.look_back()
            self._tell(InStep(message.digest))
            return replies
        self.in_step = False
        return self._compare(mine)

    def _compare(self, mine: Vector) -> list[Message]:
        digests = self._clone.documents.document_digests()
        parts = range(0, max(len(digests), 1), DIGESTS_PER_MESSAGE)
        said = [] if self._said_digest == mine else self.settle()
        return said + [DocumentDigests(mine, tuple(digests[at : at + DIGESTS_PER_MESSAGE])) for at in parts]

    def _document_digests(self, message: DocumentDigests) -> list[Message]:
        mine = self._clone.vector()
        if message.vector != mine:
            return []
        ours = {(path, policy): digest for path, policy, digest in self._clone.documents.document_digests()}
        self._parts += 1
        if self._parts > MAX_DIGESTS * (2 + len(ours) // DIGESTS_PER_MESSAGE):
            raise ProtocolError("says the digests of its documents again and again without anything new")
        theirs = {(path, policy): digest for path, policy, digest in message.documents}
        first, last = min(theirs, default=("", "")), max(theirs, default=("", ""))
        whole = len(theirs) < DIGESTS_PER_MESSAGE
        in_part = {key for key in ours if whole or first <= key <= last} | set(theirs)
        unequal = sorted(key for key in in_part if ours.get(key) != theirs.get(key))
        if not unequal or self._rebuilt_at == mine:
            if unequal:
                self._tell(Diverged(tuple(path for path, _ in unequal), healed=False))
            return []
        self._rebuilt_at = dict(mine)
        for path, policy in unequal:
            document = self._clone.documents.find(path, policy)
            # One that is damaged here stays as it is; the others of the workspace go on.
            with contextlib.suppress(DamagedRecord), self._clone.transaction():
                if document.shared is not None:
                    self._clone.materialiser.rebuild_if_doubtful(document.shared)
        self._tell(Diverged(tuple(path for path, _ in unequal), healed=False))
        self._said_digest = None
        return self.settle()

    # --- sending

    def _send_missing(self) -> list[Message]:
        """The next batches the peer lacks, as far as the window allows."""
        self._clone.log.refresh()
        if not covers(self._sent, self._clone.log.floor()) and self._allowed() and not self._asked:
            return self._end("")  # folded meanwhile, and not yet sent: the next conversation begins with a bundle
        messages: list[Message] = []
        while self._unacknowledged < WINDOW and self._giving:
            self._unacknowledged += 1
            self._empty = 0
            messages.append(self._giving.pop())
        while self._unacknowledged < WINDOW:
            batch = self._next_batch()
            if not batch:
                break
            self._unacknowledged += 1
            self.in_step, self._empty, self._digests, self._parts = False, 0, 0, 0
            messages.append(Changes(tuple(batch)))
        return messages

    def _next_batch(self) -> list[Signed]:
        log = self._clone.log
        if not self._allowed():
            return []
        if self._cursor is None:
            first = log.first_missing(self._sent)
            if first is None:
                self._cursor = log.last_row()
                return []
            self._cursor = first - 1
        while True:
            batch, reached, self._sent = log.batch(self._sent, self._cursor)
            if reached == self._cursor or batch:
                self._cursor = reached
                return batch
            self._cursor = reached

    def _proof(self) -> list[Message]:
        """The removal itself, for who was removed and lacks nothing else of it. Nothing beside it goes there."""
        clone = self._clone
        for body, signature in clone.store.rows(
            "SELECT body, signature FROM removals r JOIN changes c ON c.author=r.author AND c.seq=r.seq"
            " WHERE member=? AND signature IS NOT NULL ORDER BY c.n", (self._peer,),
        ):  # fmt: skip
            change = changes.decode(body)
            before = {**dict(change.deps), change.author: change.seq - 1}
            if covers(self._sent, before):
                return [Changes((Signed(body, signature),))]
        return []

    # --- who may listen: asked for every message, not once a connection

    def _allowed(self) -> bool:
        return self._clone.log.author(self._peer) is not None

    def _refusal(self) -> str | None:
        """Why this peer gets nothing more, or None."""
        log = self._clone.log
        peer = log.author(self._peer)
        if self._clone.removed:
            return f"{self._clone.name} {REMOVED} {self._removal(self._clone.identity.id)}"
        if peer is not None and peer.removed and not log.may_return(peer.id):
            return f"{peer.name} {REMOVED} {self._removal(peer.id)}"
        # Until our own admission has come, who let us in may not have come either: the channel answers for it.
        known = peer is not None or log.author(self._clone.identity.id) is None
        if not known and self._peer not in rejoin.acquaintances(self._clone.store):
            return "not a member of the workspace"
        return None

    def _removal(self, member: bytes) -> str:
        by, at = self._clone.store.row("SELECT removed_by, removed_at FROM authors WHERE id=?", (member,))
        return f"by {self._clone.author_name(by)} on {clock.to_text(at)}"

    def _end(self, reason: str) -> list[Message]:
        self.state = State.CLOSED
        self._tell(Ended(reason, by_peer=False))
        return [Bye(reason)]


def _rank(hello: Hello) -> tuple:
    """By what both sides have said, and not by whom they know: a new identity is known to its own side alone.

    Who is being brought back gives way to who is whole. Two such do not hold the same, or there was nothing to give.
    """
    return hello.id, sorted(hello.vector.items()), hello.heads


_RECEIVE = {
    Hello: Session._hello,
    Changes: Session._changes,
    Ack: Session._ack,
    Digest: Session._digest,
    DocumentDigests: Session._document_digests,
    Baseline: Session._baseline,
    Restart: Session._restart,
}

# What is remembered against the peer. Another version or workspace is none of it.
LIES = (ProtocolError, InvalidChange, MissingDependency)

# What `receive` may raise that is the peer's fault: the owner calls `fail` with it.
FAULTS = (ProtocolError, IncompatiblePeer, InvalidChange, MissingDependency, Fork)
