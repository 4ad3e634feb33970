"""What changes mean: the tables that follow from the log, kept up to date change by change.

Everything here is a function of the changes in any causal order. It runs inside the transaction
that stores the change, so the tables are never ahead of the log nor behind it.
"""

import hashlib
import zlib
from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple

import msgpack

from replica.blocks import block_id
from replica.changes import POLICIES, Add, Dot, Kind, clean_name
from replica.errors import CorruptUpdate, DamagedRecord, InvalidChange, MissingDependency, TooLarge
from replica.keys import clone_id
from replica.log import Log, Stored
from replica.store import Store

# Texts held ready in memory; the least recently used one goes first and is loaded from its stored state.
TEXTS_IN_MEMORY = 64


class Materialiser:
    """Applies changes to the tables of one store. `log` is set once both exist."""

    def __init__(self, store: Store):
        self.store = store
        self.log: Log
        self.texts: OrderedDict[int, tuple] = OrderedDict()  # doc -> (Text, row of the last change in it, dirty)
        self._dirty: set[int] = set()
        self._log_of = (0, 0)  # of which beginning of the store `texts` are (replica/rejoin.py), after how many folds
        self._rebuilt: dict[int, tuple] = {}  # doc -> its last change and its digest when it was last made anew
        # True while a change of our own is stored: the engine that made its update contains it already.
        self.made_here = False

    def apply(self, stored: Stored) -> None:
        """Take one stored change in.

        Raises:
            InvalidChange: its content cannot be applied; the transaction must be undone.
        """
        _APPLY[stored.change.kind](self, stored)
        if stored.change.document is not None:
            self._touched(stored)

    def _touched(self, stored: Stored) -> None:
        change, doc = stored.change, self.doc_of(stored)
        self.store.execute(
            "UPDATE documents SET digest=NULL, changed_at=?, changed_by=?, changed=? WHERE n=?",
            (change.time, stored.author.n, stored.n, doc),
        )
        self.store.set_meta("digest", None)
        if change.kind not in (Kind.DELETE, Kind.REVIEW):
            self.store.execute("INSERT OR REPLACE INTO alive VALUES(?,?,?)", (doc, stored.author.n, change.seq))

    def doc_of(self, stored: Stored) -> int:
        path, policy = stored.change.document
        return self.store.value(
            "SELECT n FROM documents WHERE path=? AND policy=? AND private=?", (path, policy, stored.author.private)
        )

    # --- members
    #
    # What holds of a member follows from the changes and what their authors had seen, whichever arrived first here.
    # Where several say the same unknown to each other (let in, removed), the earliest is shown: by time, then by its
    # author's id.

    def genesis(self, stored: Stored) -> None:
        self.store.set_meta("workspace_name", clean_name(stored.change.payload["workspace"]))

    def admit(self, stored: Stored) -> None:
        payload, change = stored.change.payload, stored.change
        id = clone_id(payload["key"])
        if self.log.author(id) is None:
            self.log.add_author(
                id, payload["key"], payload["cert"], payload["name"], admitted_by=change.author, admitted_at=change.time
            )
        self._let_in(stored, id, change.author)

    def _let_in(self, stored: Stored, member: bytes, by: bytes) -> None:
        """Name a member. Its certificate stays the first that came: equal keys make equal certificates."""
        known, change = self.log.author(member), stored.change
        founded = self.store.value("SELECT 1 FROM authors WHERE id=? AND admitted_by=id", (member,))
        if known.private or founded or self._saw_admission(stored, member):
            return
        self.store.execute("INSERT OR IGNORE INTO admissions VALUES(?,?,?)", (member, stored.author.n, change.seq))
        self.store.execute(
            "UPDATE authors SET name=?, admitted_by=?, admitted_at=? WHERE id=? AND (admitted_at, admitted_by) > (?,?)",
            (clean_name(change.payload["name"]), by, change.time, member, change.time, by),
        )
        self.log.reload()

    def _saw_admission(self, stored: Stored, member: bytes) -> bool:
        earlier = self.store.rows("SELECT author, seq FROM admissions WHERE member=?", (member,))
        return any(self.log.past(stored.author.n, stored.change.seq, author) >= seq for author, seq in earlier)

    def remove(self, stored: Stored) -> None:
        """End a member's access, and that of whoever goes on for it unknown to the remover."""
        member, change = stored.change.payload["member"], stored.change
        target = self.log.author(member)
        if target is None or target.private:
            # Others may know of him already, so this is no proof against who says it.
            raise MissingDependency("a removal names somebody who is not known here as a member")
        away = change.payload.get("away", False)
        self.store.execute(
            "INSERT OR IGNORE INTO removals VALUES(?,?,?,?)", (member, stored.author.n, change.seq, away)
        )
        if away:  # who goes on for one that was away has come back
            self._mark_ended(member, change.time, change.author)
        else:
            self._end(member, stored.author.n, change.seq)

    def succeed(self, stored: Stored) -> None:
        """A copied clone's old identity goes on living in the original; a rolled-back one's ends here.

        A removal that the successor had not heard of outranks: it is for the one that goes on as well.
        """
        payload, change = stored.change.payload, stored.change
        self.store.execute(
            "INSERT OR IGNORE INTO successions VALUES(?,?,?)", (payload["old"], change.author, payload["why"])
        )
        self._let_in(stored, change.author, payload["old"])
        if payload["why"] == "fork":
            self._mark_ended(payload["old"], change.time, change.author)
            self.store.execute(
                "UPDATE authors SET successor=?1 WHERE id=?2 AND (successor IS NULL OR successor > ?1)",
                (change.author, payload["old"]),
            )
        old: bytes | None = payload["old"]
        seen = set()
        while old is not None and old not in seen:  # two keys of one hand may each name the other as the one before
            seen.add(old)
            for author, seq in self.store.rows("SELECT author, seq FROM removals WHERE member=? AND away=0", (old,)):
                self._end(old, author, seq)
            old = self.store.value("SELECT old FROM successions WHERE new=?", (old,))

    def _end(self, member: bytes, remover: int, seq: int) -> None:
        """Let a removal (a change of the author in row `remover`) hold for `member` and who goes on for it."""
        time = self.store.value("SELECT time FROM changes WHERE author=? AND seq=?", (remover, seq))
        if time is None:  # named by a bundle; the change is behind its floor, and will find whoever goes on
            return
        waiting, seen = [member], set()
        while waiting:
            ended = waiting.pop()
            if ended in seen:
                continue
            seen.add(ended)
            self._mark_ended(ended, time, self.log.author_n(remover).id)
            for (new,) in self.store.rows("SELECT new FROM successions WHERE old=?", (ended,)):
                if self.log.past(remover, seq, self.log.author(new).n) < 1:
                    waiting.append(new)

    def _mark_ended(self, member: bytes, time: int, by: bytes) -> None:
        self.store.execute(
            "UPDATE authors SET removed_by=?1, removed_at=?2"
            " WHERE id=?3 AND (removed_by IS NULL OR (removed_at, removed_by) > (?2, ?1))",
            (by, time, member),
        )
        self.log.author(member).removed = True

    # --- entries

    def entries(self, stored: Stored) -> None:
        if stored.change.document[1] == "text":
            raise InvalidChange("entry operations on a text document")
        doc = self.doc_of(stored)
        self._had_seen(stored, [(dot.author, dot.seq) for op in stored.change.payload for dot in op.kills])
        for index, op in enumerate(stored.change.payload):
            killed = self._kill(doc, op.kills)
            if isinstance(op, Add):
                self._add(doc, stored, index, op, killed)

    def _add(self, doc: int, stored: Stored, index: int, op: Add, killed: list["Killed"]) -> None:
        id = block_id(op.role, op.text, op.occurrence)
        itself = [one for one in killed if one.id == id]
        place = place_of(id, [one.dot for one in itself])
        roots = set().union(*(one.roots for one in killed)) - {id}
        meta = msgpack.packb(op.meta) if op.meta else None
        change = stored.change
        # A log goes by the time when a line was first written, whatever was done to it since.
        rank = min((one.rank for one in itself), default=None) if change.document[1] == "log" else None
        self.store.execute(
            "INSERT INTO adds(doc, id, author, seq, idx, time, change, role, text, occurrence, lead, place, after,"
            " meta, roots, rank) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (doc, id, stored.author.n, change.seq, index, change.time, stored.n, op.role, op.text, op.occurrence,
             op.lead, b"" if place == id else place, op.after, meta, b"".join(sorted(roots)) or None,
             rank and pack_rank(self.log, rank)),
        )  # fmt: skip

    def _had_seen(self, stored: Stored, named: list[tuple[bytes, int]]) -> None:
        """Refuse a change that names others which are not in its past.

        Whether those happen to be here says nothing: a clone that has them would take the change, one that has not
        would refuse it, and the two would differ for good.
        """
        reach: dict[bytes, int] = {}
        for author, seq in named:
            reach[author] = max(seq, reach.get(author, 0))
        for id, seq in reach.items():
            author = self.log.author(id)
            own = author is not None and author.n == stored.author.n
            if author is None or seq > (stored.change.seq if own else self.log.past(
                stored.author.n, stored.change.seq, author.n
            )):  # fmt: skip
                raise InvalidChange("it names changes that its author had not seen")

    def _kill(self, doc: int, kills: tuple[Dot, ...]) -> list["Killed"]:
        """Mark what these dots added as dead.

        What was dead in what everybody has seen may be folded away: nobody who has seen that takes it away again.
        """
        killed = []
        for dot in kills:
            author = self.log.author(dot.author)
            row = author and self.store.row(
                "SELECT n, id, roots, time, rank FROM adds WHERE author=? AND seq=? AND idx=? AND doc=?",
                (author.n, dot.seq, dot.index, doc),
            )
            if row:
                n, id, roots, time, rank = row
                self.store.execute("UPDATE adds SET dead=1 WHERE n=?", (n,))
                own = (time, dot.author, dot.seq, dot.index)
                killed.append(Killed(dot, id, split_roots(roots) or {id}, unpack_rank(self.log, rank) if rank else own))
            elif author is None or dot.seq > author.floor:
                raise InvalidChange("a change takes away an entry that is not there")
        return killed

    # --- texts

    def text(self, stored: Stored) -> None:
        from replica import yjs
        from replica.text import client_id

        try:
            engine = self.engine_for(stored)
        except DamagedRecord:
            return  # the log goes on; whoever asks for this document is told
        path = stored.change.document[0]
        if self.made_here:
            update = yjs.decode(stored.change.payload)
        else:
            update = engine.apply(stored.change.payload, client_id(stored.author.id, path))
        self._mark_overlaps(stored, update)

    def import_(self, stored: Stored) -> None:
        try:
            engine = self.engine_for(stored)
        except DamagedRecord:
            return
        try:
            engine.apply_import(stored.change.payload)
        except TooLarge as error:
            raise InvalidChange(str(error)) from None
        self._mark_overlaps(stored, update_of(Kind.IMPORT, stored.change.body))

    def engine_for(self, stored: Stored):
        """The text that a change belongs to, holding everything before the change."""
        if stored.change.document[1] != "text":
            raise InvalidChange(f"a text change on a document of policy {stored.change.document[1]}")
        doc = self.doc_of(stored)
        engine = self.engine(doc, before=stored.n)
        self.texts[doc] = (engine, stored.n)
        self._dirty.add(doc)
        return engine

    def engine(self, doc: int, before: int | None = None, client: int | None = None):
        """The text of a document with all of its stored changes (those below row `before`).

        `client`: the id to edit under; a text held for another id is loaded again.
        """
        limit = before if before is not None else 2**62
        log_of = (self.store.meta("begun", 0), self.store.meta("folds", 0))
        if log_of != self._log_of:  # the changes that a text here still lacks may be in the log no more
            self.forget()
            self._log_of = log_of
        held = self.texts.get(doc)
        if held is None or held[1] >= limit or (client is not None and held[0].client != client):
            held = self._load(doc, limit, client)
        engine, upto = held
        for change in self.log.changes_of(doc, upto, limit):
            apply_text(engine, change)
            upto = change.n
        self.texts[doc] = (engine, upto)
        self.texts.move_to_end(doc)
        while len(self.texts) > TEXTS_IN_MEMORY:
            oldest = next(iter(self.texts))
            self.flush_text(oldest)
            del self.texts[oldest]
        return engine

    def _load(self, doc: int, limit: int, client: int | None) -> tuple:
        """A document's stored text and up to which row it goes. A damaged one is passed over: the log has it all."""
        from replica.text import Text

        row = self.store.row("SELECT change, state, text FROM texts WHERE doc=? AND state<>x''", (doc,))
        if row is not None and row[0] < limit:
            try:
                text = Text.load(zlib.decompress(row[1]), client)
                if text.text == row[2]:
                    return text, row[0]
            except (CorruptUpdate, zlib.error):
                pass
        return self.folded_text(doc, client), 0

    def folded_text(self, doc: int, client: int | None = None):
        """The text that the log of a document goes on from. Raises DamagedRecord."""
        from replica import baselines
        from replica.text import Text

        state = baselines.text_state(self.store, doc)
        try:
            return Text.new(client) if state is None else Text.load(state, client)
        except CorruptUpdate:
            raise baselines.damaged(self.store, doc) from None

    def flush(self) -> None:
        """Store the state of the texts that have changed: once a transaction, not once a change."""
        for doc in list(self._dirty):
            self.flush_text(doc)

    def flush_text(self, doc: int) -> None:
        if doc not in self._dirty:
            return
        engine, n = self.texts[doc]
        self.store.execute(
            "INSERT OR REPLACE INTO texts VALUES(?,?,?,?)", (doc, n, engine.text, zlib.compress(engine.state(), 1))
        )
        self._dirty.discard(doc)

    def forget(self) -> None:
        """Drop what memory holds: after a rollback it is ahead of the store."""
        self.texts.clear()
        self._dirty.clear()

    def _mark_overlaps(self, stored: Stored, update) -> None:
        """Record which concurrent changes touched the same region: those wait for a person's look."""
        from replica import yjs

        log, me, seq = self.log, stored.author, stored.change.seq
        doc = self.doc_of(stored)
        for other in [author.n for author in log.authors() if author is not me and author.private == me.private]:
            unseen = self.store.rows(
                "SELECT seq, kind, body FROM changes WHERE author=? AND seq>? AND doc=? AND n<? AND kind IN (?,?)",
                (other, log.past(me.n, seq, other), doc, stored.n, Kind.TEXT, Kind.IMPORT),
            )
            for other_seq, kind, body in unseen:
                try:
                    theirs = update_of(kind, body)
                except InvalidChange:
                    continue  # damaged on this disk, which is not the sender's fault; the digests tell that we differ
                if kind == Kind.IMPORT and stored.change.kind is Kind.IMPORT and theirs == update:
                    continue  # both imported the same file: one text, nothing to look at
                if yjs.overlap(update, theirs) and not yjs.alike(update, theirs):
                    self._let_wait(doc, (me.n, seq), (other, other_seq))

    def _let_wait(self, doc: int, one: tuple[int, int], other: tuple[int, int]) -> None:
        """Two changes, as (author's row, number), wait for a person's look; the one with the lower id comes first."""
        pair = sorted((one, other), key=lambda change: self.log.author_n(change[0]).id)
        self.store.execute(
            "INSERT INTO overlaps(doc, one, one_seq, other, other_seq) VALUES(?,?,?,?,?) ON CONFLICT DO NOTHING",
            (doc, *pair[0], *pair[1]),
        )

    def review(self, stored: Stored) -> None:
        doc = self.doc_of(stored)
        pairs = stored.change.payload
        self._had_seen(stored, [pair[:2] for pair in pairs] + [pair[2:] for pair in pairs])
        for one, one_seq, other, other_seq in pairs:
            a, b = self.log.author(one), self.log.author(other)
            if a and b:
                self.store.execute(
                    "UPDATE overlaps SET reviewed=1 WHERE doc=? AND one=? AND one_seq=? AND other=? AND other_seq=?",
                    (doc, a.n, one_seq, b.n, other_seq),
                )
        self._compare_decisions(stored, doc)

    def _compare_decisions(self, stored: Stored, doc: int) -> None:
        """What two clones have settled unknown to each other, and differently, waits again: neither is guessed away.

        Of a decision its edit waits, or the review itself where it left the text as it was.
        """
        log, me, seq = self.log, stored.author, stored.change.seq
        for other in [author.n for author in log.authors() if author is not me and author.private == me.private]:
            seen = log.past(me.n, seq, other)
            rows = self.store.rows(
                "SELECT seq, body FROM changes WHERE author=? AND seq>? AND doc=? AND n<? AND kind=?",
                (other, seen, doc, stored.n, Kind.REVIEW),
            )
            for other_seq, body in rows:
                if not set(stored.change.payload) & set(_reviewed(body)):
                    continue
                mine = self._edits_before(doc, me.n, seq, log.past(other, other_seq, me.n))
                theirs = self._edits_before(doc, other, other_seq, seen)
                if not self._agree(mine, theirs):
                    one, two = (max(edits, default=at) for edits, at in ((mine, seq), (theirs, other_seq)))
                    self._let_wait(doc, (me.n, one), (other, two))

    def _edits_before(self, doc: int, author: int, seq: int, seen: int) -> dict[int, bytes]:
        """The edits of a text that stand right before its review in their author's chain, behind number `seen`."""
        edits: dict[int, bytes] = {}
        for at in range(seq - 1, seen, -1):
            body = self.store.value(
                "SELECT body FROM changes WHERE author=? AND seq=? AND doc=? AND kind=?", (author, at, doc, Kind.TEXT)
            )
            if body is None:
                break
            edits[at] = body
        return edits

    def _agree(self, mine: dict[int, bytes], theirs: dict[int, bytes]) -> bool:
        from replica import yjs

        if len(mine) != len(theirs):
            return False
        pairs = zip(sorted(mine.items()), sorted(theirs.items()), strict=True)
        try:
            return all(yjs.alike(update_of(Kind.TEXT, a), update_of(Kind.TEXT, b)) for (_, a), (_, b) in pairs)
        except InvalidChange:
            return False  # damaged on this disk

    # --- documents

    def delete(self, stored: Stored) -> None:
        """Everything that the deleting author had seen goes; what was written concurrently stays alive."""
        doc = self.doc_of(stored)
        self._had_seen(stored, [(dot.author, dot.seq) for dot in stored.change.payload])
        self._kill(doc, stored.change.payload)
        me = stored.author
        for author, seq in self.store.rows("SELECT author, seq FROM alive WHERE doc=?", (doc,)):
            if author == me.n or seq <= self.log.past(me.n, stored.change.seq, author):
                self.store.execute("DELETE FROM alive WHERE doc=? AND author=?", (doc, author))

    def rebuild(self, doc: int) -> None:
        """Make a document's tables anew from its baseline and the log alone. Inside a transaction."""
        from replica import baselines

        baseline = baselines.of(self.store, self.log, doc)
        for table in ("adds", "alive", "texts", "overlaps"):
            self.store.execute(f"DELETE FROM {table} WHERE doc=?", (doc,))
        self.texts.pop(doc, None)
        self._dirty.discard(doc)
        if baseline is not None:
            baselines.write(self.store, self.log, doc, baseline)
        self.store.execute("UPDATE documents SET digest=NULL WHERE n=?", (doc,))
        self.store.set_meta("digest", None)
        for stored in list(self.log.changes_of(doc)):
            self.apply(stored)
        self.flush()

    def rebuild_if_doubtful(self, doc: int) -> None:
        """As `rebuild`, but not twice where nothing is different since: then it is right here, whoever says not."""
        last = self.store.value("SELECT max(n) FROM changes WHERE doc=?", (doc,))
        digest = self.store.value("SELECT digest FROM documents WHERE n=?", (doc,))
        if digest is not None and self._rebuilt.get(doc) == (last, digest):
            return
        self.rebuild(doc)
        self._rebuilt[doc] = (last, digest)


_APPLY = {
    Kind.GENESIS: Materialiser.genesis,
    Kind.ADMIT: Materialiser.admit,
    Kind.REMOVE: Materialiser.remove,
    Kind.ENTRIES: Materialiser.entries,
    Kind.TEXT: Materialiser.text,
    Kind.IMPORT: Materialiser.import_,
    Kind.DELETE: Materialiser.delete,
    Kind.REVIEW: Materialiser.review,
    Kind.SUCCEED: Materialiser.succeed,
}
assert set(POLICIES) == {"latest", "union", "log", "text"}


def place_of(id: bytes, moved: list[Dot]) -> bytes:
    """The place that an add takes, as others name it in `after`.

    A block has the place of its id, the same for everyone who adds it. When it is moved (it takes the place of
    itself) it gets another, so that what was written behind its old place stays there.
    """
    if not moved:
        return id
    digest = hashlib.blake2b(id, digest_size=16)
    for dot in sorted(moved):
        digest.update(dot.author + dot.seq.to_bytes(8, "big") + dot.index.to_bytes(4, "big"))
    return digest.digest()


class Killed(NamedTuple):
    """An add that was taken away: its block, what that goes back to, and where it stood among others."""

    dot: Dot
    id: bytes
    roots: set[bytes]
    rank: tuple


# The `rank` of an add, where it is not its own time, author, number and index: a log line goes by the time of its
# first writing, and a block whose folded anchor left it alone in that place stands where the anchor stood.


def pack_rank(log: Log, rank: tuple) -> bytes:
    """As it is stored: the author by its row."""
    time, author, seq, index = rank
    return msgpack.packb([time, log.author(author).n, seq, index])


def unpack_rank(log: Log, packed: bytes) -> tuple:
    time, author, seq, index = msgpack.unpackb(packed)
    return time, log.author_n(author).id, seq, index


def split_roots(roots: bytes | None) -> set[bytes]:
    return {roots[at : at + 16] for at in range(0, len(roots), 16)} if roots else set()


def apply_text(engine, stored: Stored) -> None:
    """Apply a text's change to an engine that holds everything before it."""
    from replica.text import client_id

    change = stored.change
    if change.kind is Kind.TEXT:
        engine.apply(change.payload, client_id(stored.author.id, change.document[0]))
    elif change.kind is Kind.IMPORT:
        engine.apply_import(change.payload)


def _reviewed(body: bytes) -> tuple:
    """The pairs that a stored review names; none where it is damaged on this disk."""
    from replica import changes

    try:
        return changes.decode(body).payload
    except InvalidChange:
        return ()


SMALL = 4096  # bytes of a change whose decoded update is worth keeping


def update_of(kind: int, body: bytes):
    """The decoded Yjs update of a stored text change. Each of many is compared with each of many others."""
    return _kept_update(kind, body) if len(body) <= SMALL else _update_of(kind, body)


@lru_cache(maxsize=2048)
def _kept_update(kind: int, body: bytes):
    return _update_of(kind, body)


def _update_of(kind: int, body: bytes):
    from replica import changes, yjs
    from replica.text import import_update

    payload = changes.decode(body).payload
    if kind == Kind.TEXT:
        return yjs.decode(payload)
    return yjs.decode(import_update(payload)[1])
