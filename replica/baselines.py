"""Baselines: what a document was where its folded changes end, and what of it may be forgotten.

A baseline takes the place of the changes that made it. It holds what later changes can refer to: the live blocks, of
the dead ones those that hold others in their order, what is alive by whom, and a text's engine state. The tables of a
document are a function of its baseline and the log behind it (Materialiser.rebuild).
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgpack

from replica.blocks import block_id
from replica.changes import ROLES, Dot, check_meta
from replica.errors import DamagedRecord, InvalidChange
from replica.keys import ID_SIZE
from replica.log import Log, Stored
from replica.materialise import Materialiser, pack_rank, unpack_rank
from replica.store import PLACE, Store

FORMAT = 1
MAX_SIZE = 64 * 1024 * 1024  # bytes of one baseline, unpacked


class AddRow(NamedTuple):
    """One add of a block, as `adds` has it; `author` is an id, not a row."""

    id: bytes
    author: bytes
    seq: int
    idx: int
    time: int
    role: str
    text: str
    occurrence: int
    lead: str
    place: bytes
    after: bytes | None
    meta: bytes | None
    roots: bytes | None
    dead: bool
    rank: tuple | None

    @property
    def dot(self) -> Dot:
        return Dot(self.author, self.seq, self.idx)

    @property
    def standing(self) -> tuple:
        """Where it stands among the others behind one anchor."""
        return self.rank or (self.time, self.author, self.seq, self.idx)


class Baseline(NamedTuple):
    """`alive`: of each author whose changes keep the document alive, the number of the last one."""

    alive: dict[bytes, int]
    adds: list[AddRow]
    text: str
    state: bytes | None  # of the engine, of a document of policy `text` only


# --- what of a document must be kept


class Late(NamedTuple):
    """What is outside of the part that is folded and refers into it: later changes, and the private twin."""

    places: frozenset[bytes]  # that others stand at or behind
    dots: frozenset[Dot]  # that others take away, having seen them alive


def prune(adds: Iterable[AddRow], policy: str, late: Late) -> list[AddRow]:
    """Leave out the dead blocks that nothing needs: the live ones keep their order, whatever comes.

    A dead block without anything behind it goes. One with a single block behind it goes too, and that block takes
    its place among its neighbours. So at most one dead block is left for each live one, and those that `late` needs.
    """
    kept = [
        _emptied(row) if row.dead else row for row in adds if not row.dead or row.dot in late.dots or policy == "union"
    ]
    return _Pruning(kept, late).result() if policy == "union" else kept


def _emptied(row: AddRow) -> AddRow:
    """A dead block without its content: what is left names a place and what it went back to."""
    return row._replace(text="", lead="", meta=None)


class _Pruning:
    def __init__(self, rows: list[AddRow], late: Late):
        self.late = late
        self.rows: dict[Dot, AddRow] = {row.dot: row for row in rows}
        self.at: dict[bytes, set[Dot]] = defaultdict(set)  # the rows of a place
        self.behind: dict[bytes, set[Dot]] = defaultdict(set)  # the rows that name a place as their anchor
        for row in rows:
            self.at[row.place].add(row.dot)
            if row.after is not None:
                self.behind[row.after].add(row.dot)
        self.fixed = set(late.places)
        self.fixed |= {row.place for row in rows if not row.dead or row.dot in late.dots}

    def result(self) -> list[AddRow]:
        for place in [place for place in self.at if place not in self.fixed]:
            for dot in sorted(self.at[place], key=lambda dot: self.rows[dot].standing)[1:]:
                self._drop(self.rows[dot])  # only the first says where the place is
        self.circled = self._circles()
        waiting = [place for place in self.at if place not in self.fixed]
        while waiting:
            place = waiting.pop()
            if not self.at[place]:
                continue
            (row,) = (self.rows[dot] for dot in self.at[place])
            if not self.behind[place]:
                self._drop(row)
                if row.after is not None and row.after not in self.fixed:
                    waiting.append(row.after)
            elif len(self.behind[place]) == 1 and place not in self.circled:
                self._replace(row, *self.behind[place])
        return list(self.rows.values())

    def _drop(self, row: AddRow) -> None:
        del self.rows[row.dot]
        self.at[row.place].discard(row.dot)
        if row.after is not None:
            self.behind[row.after].discard(row.dot)

    def _replace(self, row: AddRow, follower: Dot) -> None:
        """`follower`, alone behind the dead `row`, stands where that stood."""
        other = self.rows[follower]
        if other.place in self.late.places or len(self.at[other.place]) != 1:
            return  # where that place is may yet be said by another add
        self._drop(row)
        self.behind[row.place].discard(follower)
        self.rows[follower] = other._replace(after=row.after, rank=row.standing)
        if row.after is not None:
            self.behind[row.after].add(follower)

    def _circles(self) -> set[bytes]:
        """Places that are behind themselves."""
        first = {place: min((self.rows[dot] for dot in dots), key=lambda row: (row.dead, row.standing))
                 for place, dots in self.at.items() if dots}  # fmt: skip
        done: dict[bytes, bytes] = {}
        circled: set[bytes] = set()
        for start in first:
            place: bytes | None = start
            while place in first and place not in done:
                done[place] = start
                place = first[place].after
            if place in first and done[place] == start:
                while place not in circled:
                    circled.add(place)
                    place = first[place].after
        return circled


# --- tables


def read(store: Store, log: Log, doc: int, policy: str, engine: Any = None) -> Baseline:
    """What the tables of a document hold now; `engine`: the Text of one of policy `text`."""
    name = log.author_n
    alive = {name(n).id: seq for n, seq in store.rows("SELECT author, seq FROM alive WHERE doc=?", (doc,))}
    if policy == "text":
        return Baseline(alive, [], engine.text, engine.state())
    return Baseline(alive, _adds(store, log, doc, "dead", "1"), "", None)


def of(store: Store, log: Log, doc: int) -> Baseline | None:
    """The baseline of a document; None: its log is whole. Raises DamagedRecord."""
    baseline = _stored(store, doc)
    return baseline and baseline._replace(adds=_adds(store, log, doc, "folded=2", "folded>0"))


def keep(store: Store, doc: int, time: int, baseline: Baseline) -> None:
    """Store a document's baseline; its adds are marked as such where they stand (`folded`)."""
    packed = pack(baseline._replace(adds=[]))
    store.execute("INSERT OR REPLACE INTO baselines VALUES(?,?,?)", (doc, time, packed))


def _adds(store: Store, log: Log, doc: int, dead: str, which: str) -> list[AddRow]:
    rows = store.rows(
        f"SELECT id, author, seq, idx, time, role, text, occurrence, lead, {PLACE}, after, meta, roots, {dead}, rank"
        f" FROM adds WHERE doc=? AND {which} ORDER BY author, seq, idx", (doc,),
    )  # fmt: skip
    return [
        AddRow(
            row[0], log.author_n(row[1]).id, *row[2:13], bool(row[13]), unpack_rank(log, row[14]) if row[14] else None
        )
        for row in rows
    ]


def write(store: Store, log: Log, doc: int, baseline: Baseline, row: int = 0) -> None:
    """Fill a document's empty tables with a baseline; `row`: where in this store's log all of it came in."""

    def n(author: bytes) -> int:
        found = log.author(author)
        if found is None:
            raise InvalidChange("a baseline names somebody who is not a member")
        return found.n

    store.many("INSERT INTO alive VALUES(?,?,?)", [(doc, n(author), seq) for author, seq in baseline.alive.items()])
    store.many(
        "INSERT INTO adds(doc, id, author, seq, idx, time, change, role, text, occurrence, lead, place, after, meta,"
        " roots, dead, rank, folded) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        [
            (doc, add.id, n(add.author), add.seq, add.idx, add.time, row, add.role, add.text, add.occurrence, add.lead,
             b"" if add.place == add.id else add.place, add.after, add.meta, add.roots, int(add.dead),
             add.rank and pack_rank(log, add.rank),
             1 + add.dead)
            for add in baseline.adds
        ],
    )  # fmt: skip
    if baseline.state is not None:
        store.execute("INSERT OR REPLACE INTO texts VALUES(?,0,?,x'')", (doc, baseline.text))


def text_state(store: Store, doc: int) -> bytes | None:
    """The engine state that the log of a text goes on from, or None where the log is whole. Raises DamagedRecord."""
    baseline = _stored(store, doc)
    return baseline and baseline.state


def _stored(store: Store, doc: int) -> Baseline | None:
    """As the row has it, without its adds."""
    packed = store.value("SELECT data FROM baselines WHERE doc=?", (doc,))
    try:
        return None if packed is None else unpack(packed)
    except InvalidChange:  # it was our disk, and not whoever's change comes next
        raise damaged(store, doc) from None


def damaged(store: Store, doc: int) -> DamagedRecord:
    path = store.value("SELECT path FROM documents WHERE n=?", (doc,))
    return DamagedRecord(f"{path}: its baseline in the store is damaged, so this document waits")


class Scratch(Materialiser):
    """Applies a selection of the log to a scratch store, where texts are held in memory alone."""

    def begin(self, doc: int, baseline: Baseline | None) -> None:
        """Start a document of the scratch store from its baseline."""
        if baseline is None:
            return
        from replica.text import Text

        write(self.store, self.log, doc, baseline)
        if baseline.state is not None:
            self.texts[doc] = (Text.load(baseline.state), 0)

    def engine(self, doc: int, before: int | None = None, client: int | None = None):
        from replica.text import Text

        held = self.texts.get(doc)
        return held[0] if held else Text.new()

    def _mark_overlaps(self, stored: Stored, update) -> None:
        """What waited for a decision then is not asked."""


# --- bytes


def pack(baseline: Baseline) -> bytes:
    """A baseline as bytes: msgpack, deflated. What follows from the rest of it is left out: hashes do not deflate."""
    used = Counter(baseline.alive.keys())
    used.update(row.author for row in baseline.adds)
    used.update(row.rank[1] for row in baseline.adds if row.rank)
    authors = sorted(used)
    number = {author: at for at, author in enumerate(authors)}
    first: dict[bytes, int] = {}  # place -> the first row that is there
    for at, row in enumerate(baseline.adds):
        first.setdefault(row.place, at)
    adds = [
        [None if row.id == _named(row) else row.id, number[row.author], row.seq, row.idx, row.time,
         ROLES.index(row.role), row.text, row.occurrence, row.lead, None if row.place == row.id else row.place,
         first.get(row.after, row.after), row.meta, row.roots, row.dead,
         row.rank and [row.rank[0], number[row.rank[1]], *row.rank[2:]]]
        for row in baseline.adds
    ]  # fmt: skip
    alive = [[number[author], seq] for author, seq in sorted(baseline.alive.items())]
    return zlib.compress(msgpack.packb([FORMAT, authors, alive, adds, baseline.text, baseline.state]), 6)


def _named(row: AddRow) -> bytes:
    return block_id(row.role, row.text, row.occurrence)


def unpack(packed: bytes) -> Baseline:
    """Read a baseline's bytes, checking the shape of everything in them.

    Raises InvalidChange: it is none. The engine state is not looked into.
    """
    try:
        return _unpacked(inflate(packed, MAX_SIZE))
    except (
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        KeyError,
        RecursionError,
        msgpack.UnpackException,
    ) as error:
        raise InvalidChange(f"a malformed baseline: {type(error).__name__}") from None


def inflate(packed: bytes, limit: int) -> bytes:
    """Raises ValueError: not deflated bytes, or more than `limit` of them."""
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(packed, limit)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof or stream.unused_data:
        raise ValueError("cut short, or too long")
    return data


def _unpacked(data: bytes) -> Baseline:
    format, authors, alive, adds, text, state = msgpack.unpackb(
        data, strict_map_key=True, max_ext_len=0, use_list=False
    )
    _require(format == FORMAT and type(text) is str and (state is None or type(state) is bytes))
    _require(all(type(author) is bytes and len(author) == ID_SIZE for author in authors))
    rows = []
    for id, author, seq, idx, time, role, content, occurrence, lead, place, after, meta, roots, dead, rank in adds:
        _require(_is_seq(seq) and all(map(_is_count, (author, idx, time, role, occurrence))))
        _require(type(content) is str and type(lead) is str and lead.strip(" \t\n") == "" and type(dead) is bool)
        id = block_id(ROLES[role], content, occurrence) if id is None else id
        _require(_is_id(id) and (place is None or _is_id(place)))
        _require(after is None or _is_id(after) or (_is_count(after) and after < len(adds)))
        if meta is not None:
            check_meta(msgpack.unpackb(meta, use_list=False))
        _require(roots is None or (type(roots) is bytes and len(roots) % 16 == 0))
        if rank is not None:
            time_then, who, *rest = rank
            _require(len(rest) == 2 and all(map(_is_count, (time_then, who, *rest))))
            rank = (time_then, authors[who], *rest)
        rows.append(AddRow(id, authors[author], seq, idx, time, ROLES[role], content, occurrence, lead,
                           id if place is None else place, after, meta, roots, dead, rank))  # fmt: skip
    rows = [row._replace(after=rows[row.after].place) if type(row.after) is int else row for row in rows]
    _require(all(_is_count(author) and _is_seq(seq) for author, seq in alive))
    return Baseline({authors[author]: seq for author, seq in alive}, rows, text, state)


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 16


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_seq(value: Any) -> bool:
    return _is_count(value) and value < 2**53
