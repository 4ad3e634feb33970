"""Decode and judge one author's Yjs v1 update before the engine sees it.

The engine trusts what it is given: a crafted update of 22 bytes can freeze the process, and one
flipped bit can make replicas differ for good behind equal state vectors. So nothing reaches it that
is not exactly what an honest author of a text document produces: his next blocks of text, and
deletions, all of it resting on items that this replica holds.

Pure functions over bytes. Clocks and lengths count UTF-16 code units, as Yjs does; a clock range is
(first, length). Encoding: https://github.com/yjs/yjs, src/utils/encoding.js and src/structs/Item.js.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from replica.errors import CorruptUpdate

ROOT = "t"  # name of the one root text that every document has
MAX_BYTES = 1_200_000  # per update: one insert of a whole document at its limit of 1 MB, and room for the rest
MAX_STRUCTS = 5_000  # blocks per update
# Blocks times bytes: joining neighbouring blocks copies them over and over, so that 5,000 blocks of 230 bytes
# took 2.8 GB and 8 s. At this bound it is 60 MB and 40 ms; `replica.text` stays below half of it.
MAX_SQUASH = 65_536_000
MAX_RANGES = 100_000  # deleted ranges per update; `replica.text` never makes more
MAX_CLOCK = 2**31  # the engine panics on clocks near 2**32
MAX_CLIENT = 2**53 - 1  # the largest integer that every Yjs implementation can hold

_DELETED, _STRING = 1, 4  # the kinds of content a text of ours has
_GC = 0  # appears in states only
_KIND, _LEFT, _RIGHT, _KEY = 0x1F, 0x80, 0x40, 0x20  # the parts of a block's first byte

Id = tuple[int, int]  # (client, clock)


class Insert(NamedTuple):
    """One block of new text; `text` is None where its author had deleted it again in the same update."""

    client: int
    clock: int
    length: int  # in UTF-16 code units
    origin: Id | None  # the item it was written after; None: at the beginning
    right_origin: Id | None  # the item it was written before; None: at the end
    text: str | None


class Range(NamedTuple):
    """Items `clock` to `clock + length` of one client."""

    client: int
    clock: int
    length: int


@dataclass(frozen=True, slots=True)
class Update:
    """What one author did at one time, as decoded by `check`."""

    inserts: tuple[Insert, ...]
    deletes: tuple[Range, ...]
    next_clock: int  # the clock of the author's next block; 0 when `decode` finds deletions only


@dataclass(slots=True)
class Known:
    """What a replica holds of one document, as far as an update can refer to it.

    A `half` is the id of the first of the two code units of a character beyond U+FFFF. A reference
    that splits such a pair shows different text on different replicas.
    """

    vector: dict[int, int] = field(default_factory=dict)  # client -> number of code units held of it
    halves: set[Id] = field(default_factory=set)

    @classmethod
    def of_state(cls, state: bytes) -> "Known":
        """What a document of this encoded state holds. Halves of deleted text are not in a state.

        Raises CorruptUpdate: not a state of a text document.
        """
        known = cls()
        for client, blocks in decode_state(state).items():
            known.vector[client] = blocks[-1].clock + blocks[-1].length
            for block in blocks:
                known.halves.update(_halves(block.client, block.clock, block.text))
        return known

    def take(self, update: Update) -> None:
        """Record an update that the engine has taken in."""
        for insert in update.inserts:
            self.vector[insert.client] = insert.clock + insert.length
            self.halves.update(_halves(insert.client, insert.clock, insert.text))


def check(data: bytes, client: int, known: Known) -> Update:
    """Decode the update `data` that `client` made on top of `known`, which stays as it is.

    Raises CorruptUpdate: it is not an update that this author can honestly have made now.
    """
    if len(data) > MAX_BYTES:
        raise CorruptUpdate(f"the update has {len(data)} bytes, over the limit of {MAX_BYTES}")
    return _Check(data, client, known).update()


class _Reader:
    """Reads Yjs's primitive values from bytes and refuses every encoding but the shortest."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def byte(self) -> int:
        try:
            value = self.data[self.at]
        except IndexError:
            raise CorruptUpdate("the update ends early") from None
        self.at += 1
        return value

    def uint(self) -> int:
        """An unsigned number below 2**56, seven bits a byte, the lowest first."""
        value = self.byte()
        if value < 0x80:
            return value
        value &= 0x7F
        for shift in range(7, 56, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0:
                    raise CorruptUpdate("a number is not in its shortest form")
                return value
        raise CorruptUpdate("a number is too long")

    def count(self, bytes_each: int, limit: int) -> int:
        """How many things follow, believed only as far as the bytes that are left can hold them."""
        value = self.uint()
        if value > limit or value * bytes_each > len(self.data) - self.at:
            raise CorruptUpdate(f"the update claims {value} parts, more than it can hold")
        return value

    def client(self) -> int:
        value = self.uint()
        if value > MAX_CLIENT:
            raise CorruptUpdate(f"client id {value} is out of range")
        return value

    def string(self) -> str:
        size = self.uint()
        end = self.at + size
        if end > len(self.data):
            raise CorruptUpdate("a text is longer than the update")
        try:
            text = self.data[self.at : end].decode()
        except UnicodeDecodeError:
            raise CorruptUpdate("a text is not valid UTF-8") from None
        self.at = end
        return text

    def end(self) -> None:
        if self.at != len(self.data):
            raise CorruptUpdate(f"{len(self.data) - self.at} bytes follow the end of the update")


class _Check:
    """One update on its way through the check: the bytes still to read, and what was read so far."""

    __slots__ = ("client", "clock", "halves", "known", "read")

    def __init__(self, data: bytes, client: int, known: Known):
        self.read = _Reader(data)
        self.client = client
        self.known = known
        self.clock = known.vector.get(client, 0)  # of the author's next block
        self.halves: set[Id] = set()  # of this update's own blocks

    def update(self) -> Update:
        inserts = tuple(self._section())
        deletes = tuple(self._deletes())
        self.read.end()
        return Update(inserts, deletes, self.clock)

    def _section(self) -> Iterator[Insert]:
        sections = self.read.uint()
        if sections > 1:
            raise CorruptUpdate("blocks in more than one section")
        if not sections:
            return
        structs = self.read.count(bytes_each=2, limit=MAX_STRUCTS)
        if not structs:
            raise CorruptUpdate("a section without blocks")
        client = self.read.client()
        if client != self.client:
            raise CorruptUpdate(f"blocks of client {client} in an update of client {self.client}")
        clock = self.read.uint()
        if clock != self.clock:
            raise CorruptUpdate(f"the next clock of client {client} is {self.clock}, not {clock}")
        for _ in range(structs):
            yield self._block()
        if structs * self.read.at > MAX_SQUASH:
            raise CorruptUpdate(f"{structs} blocks in {self.read.at} bytes cost too much to take in")

    def _block(self) -> Insert:
        info = self.read.byte()
        kind = info & _KIND
        if info & _KEY or kind not in (_STRING, _DELETED):
            raise CorruptUpdate(f"a block of kind {info:#04x}, which no text has")
        origin = self._origin() if info & _LEFT else None
        right_origin = self._right_origin() if info & _RIGHT else None
        if origin is not None and origin == right_origin:
            # The engine takes it, and shows another text when the document is loaded again.
            raise CorruptUpdate(f"a block is attached to both sides of item {origin[0]}:{origin[1]}")
        if not info & (_LEFT | _RIGHT):
            _root(self.read)
        text, length = _content(self.read, kind)
        clock = self.clock
        if not 1 <= length < MAX_CLOCK - clock:
            raise CorruptUpdate(f"a block of length {length} at clock {clock}")
        self.clock += length
        self.halves.update(_halves(self.client, clock, text))
        return Insert(self.client, clock, length, origin, right_origin, text)

    def _origin(self) -> Id:
        client, clock = id = self._held()
        if self._is_half(client, clock):
            raise CorruptUpdate("a block is attached inside a character")
        return id

    def _right_origin(self) -> Id:
        client, clock = id = self._held()
        if self._is_half(client, clock - 1):
            raise CorruptUpdate("a block is attached inside a character")
        return id

    def _held(self) -> Id:
        """The id of an item that must be here already: from before, or earlier in this update."""
        client, clock = self.read.client(), self.read.uint()
        if clock >= self._end(client):
            raise CorruptUpdate(f"a block is attached to item {client}:{clock}, which is not here")
        return client, clock

    def _end(self, client: int) -> int:
        return self.clock if client == self.client else self.known.vector.get(client, 0)

    def _is_half(self, client: int, clock: int) -> bool:
        return (client, clock) in self.known.halves or (client, clock) in self.halves

    def _deletes(self) -> Iterator[Range]:
        seen = set()
        left = MAX_RANGES
        for _ in range(self.read.count(bytes_each=4, limit=MAX_RANGES)):
            client = self.read.client()
            if client in seen:
                raise CorruptUpdate(f"two lists of deletions for client {client}")
            seen.add(client)
            ranges = self.read.count(bytes_each=2, limit=left)
            if not ranges:
                raise CorruptUpdate(f"an empty list of deletions for client {client}")
            left -= ranges
            yield from self._ranges(client, ranges)

    def _ranges(self, client: int, count: int) -> Iterator[Range]:
        uint, here, previous = self.read.uint, self._end(client), 0
        for _ in range(count):
            clock, length = uint(), uint()
            end = clock + length
            if length < 1 or clock < previous or end > here:
                raise CorruptUpdate(f"deletes {client}:{clock}+{length}, out of order or not here")
            if self._is_half(client, clock - 1) or self._is_half(client, end - 1):
                raise CorruptUpdate("a deletion begins or ends inside a character")
            yield Range(client, clock, length)
            previous = end


def _root(read: _Reader) -> None:
    """A block that is attached to nothing names where it belongs; there is only one such place."""
    if read.uint() != 1 or read.string() != ROOT:
        raise CorruptUpdate(f"a block outside of the root text {ROOT!r}")


def _content(read: _Reader, kind: int) -> tuple[str | None, int]:
    """The text of a block, None when deleted, and its length in UTF-16 code units."""
    if kind == _STRING:
        text = read.string()
        return text, _units(text)
    return None, read.uint()


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _halves(client: int, clock: int, text: str | None) -> Iterator[Id]:
    if text is None or text.isascii() or max(text, default="") <= "\uffff":
        return
    for character in text:
        if character > "\uffff":
            yield client, clock
            clock += 1
        clock += 1


# --- what this replica made or checked before: decoded, not judged


def decode(data: bytes) -> Update:
    """An update that passed `check` when it was taken in; what it refers to is not looked at again.

    Raises CorruptUpdate: not an update of one author of a text document.
    """
    read = _Reader(data)
    sections = _sections(read)
    if len(sections) > 1:
        raise CorruptUpdate("blocks in more than one section")
    inserts = tuple(block for blocks in sections.values() for block in blocks)
    deletes = tuple(_decoded_deletes(read))
    read.end()
    return Update(inserts, deletes, inserts[-1].clock + inserts[-1].length if inserts else 0)


def decode_state(state: bytes) -> dict[int, list[Insert]]:
    """The blocks of a document's encoded state, by client and ascending clock; deletions are not looked at.

    Raises CorruptUpdate: not a state of a text document.
    """
    return _sections(_Reader(state))


def _sections(read: _Reader) -> dict[int, list[Insert]]:
    sections: dict[int, list[Insert]] = {}
    for _ in range(read.count(bytes_each=5, limit=len(read.data))):
        structs, client, clock = read.count(bytes_each=2, limit=len(read.data)), read.client(), read.uint()
        if not structs or client in sections:
            raise CorruptUpdate(f"an empty or second section for client {client}")
        blocks = sections[client] = []
        for _ in range(structs):
            block = _decoded_block(read, client, clock)
            clock += block.length
            blocks.append(block)
    return sections


def _decoded_deletes(read: _Reader) -> Iterator[Range]:
    for _ in range(read.count(bytes_each=4, limit=MAX_RANGES)):
        client = read.client()
        for _ in range(read.count(bytes_each=2, limit=MAX_RANGES)):
            yield Range(client, read.uint(), read.uint())


def _decoded_block(read: _Reader, client: int, clock: int) -> Insert:
    info = read.byte()
    if info == _GC:
        return Insert(client, clock, read.uint(), None, None, None)
    if info & _KEY or info & _KIND not in (_STRING, _DELETED):
        raise CorruptUpdate(f"a block of kind {info:#04x}, which no text has")
    origin = (read.client(), read.uint()) if info & _LEFT else None
    right_origin = (read.client(), read.uint()) if info & _RIGHT else None
    if not info & (_LEFT | _RIGHT):
        _root(read)
    text, length = _content(read, info & _KIND)
    return Insert(client, clock, length, origin, right_origin, text)


def decode_vector(data: bytes) -> dict[int, int]:
    """A state vector: client -> next clock. Raises CorruptUpdate: not one."""
    read = _Reader(data)
    vector = {read.client(): read.uint() for _ in range(read.count(bytes_each=2, limit=len(data)))}
    read.end()
    return vector


def encode_uint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_first(client: int, text: str) -> bytes:
    """The update in which `client` writes `text` into an empty document.

    Raises ValueError: `text` has a lone surrogate.
    """
    if not text:
        return b"\0\0"
    content = text.encode()
    section = b"".join(encode_uint(n) for n in (1, 1, client, 0, _STRING, 1, len(ROOT)))
    return section + ROOT.encode() + encode_uint(len(content)) + content + b"\0"


def derived_client(*parts: bytes) -> int:
    """A client id, 1 to 2**53 - 1, that follows from `parts`; their borders count."""
    digest = sha256(b"memory-replica/client\0")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return int.from_bytes(digest.digest()[:8], "big") >> 11 or 1


# --- what two updates have to do with each other


def touched(update: Update) -> tuple[Range, ...]:
    """The items that an update wrote or deleted: sorted, joined where they meet."""
    joined: list[Range] = []
    for client, clock, length in sorted([*update.deletes, *(Range(*insert[:3]) for insert in update.inserts)]):
        if joined and joined[-1].client == client and clock <= joined[-1].clock + joined[-1].length:
            first = joined[-1].clock
            joined[-1] = Range(client, first, max(joined[-1].length, clock + length - first))
        else:
            joined.append(Range(client, clock, length))
    return tuple(joined)


def overlap(a: Update, b: Update) -> bool:
    """Did two concurrent updates change the same region, so that a person should look at the result?

    Yes when both deleted the same text, when one wrote beside or inside what the other deleted, or
    when both wrote in the same place, or on both sides of one character.
    """
    deleted_a, deleted_b = _by_client(a.deletes), _by_client(b.deletes)
    return (
        _intersect(deleted_a, deleted_b)
        or any(_covers(deleted_b, id) for id in _attachments(a))
        or any(_covers(deleted_a, id) for id in _attachments(b))
        or not _gaps(a).isdisjoint(_gaps(b))
        or not _neighbours(a).isdisjoint(_neighbours(b))
    )


def alike(a: Update, b: Update) -> bool:
    """Did two concurrent updates do the same, with one result? Not so where both wrote: that is there twice."""
    return not a.inserts and not b.inserts and touched(a) == touched(b)


Spans = Mapping[int, list[tuple[int, int]]]  # client -> (first, end) of clocks, sorted


def _by_client(ranges: Iterable[Range]) -> Spans:
    spans: dict[int, list[tuple[int, int]]] = {}
    for client, clock, length in sorted(ranges):
        spans.setdefault(client, []).append((clock, clock + length))
    return spans


def _attachments(update: Update) -> Iterator[Id]:
    for insert in update.inserts:
        if insert.origin is not None:
            yield insert.origin
        if insert.right_origin is not None:
            yield insert.right_origin


def _gaps(update: Update) -> set[tuple[str, Id | None]]:
    """Names of the places where an update wrote; two that wrote in one place share a name."""
    gaps: set[tuple[str, Id | None]] = set()
    for insert in update.inserts:
        if insert.origin is not None:
            gaps.add(("after", insert.origin))
        if insert.right_origin is not None:
            gaps.add(("before", insert.right_origin))
        if insert.origin is None and insert.right_origin is None:
            gaps.add(("empty", None))
    return gaps


def _neighbours(update: Update) -> set[Id]:
    """The items right beside what was written within a line.

    Two clones that write on both sides of one character, as of the space between two words, wrote in one place. A new
    line beside a changed one is no such thing.
    """
    within = [insert for insert in update.inserts if insert.text and "\n" not in insert.text]
    return {id for insert in within for id in (insert.origin, insert.right_origin) if id is not None}


def _covers(spans: Spans, id: Id) -> bool:
    client, clock = id
    ranges = spans.get(client)
    if not ranges:
        return False
    at = bisect_right(ranges, clock, key=lambda span: span[0])
    return at > 0 and clock < ranges[at - 1][1]


def _intersect(a: Spans, b: Spans) -> bool:
    for client in a.keys() & b.keys():
        mine, theirs = iter(a[client]), iter(b[client])
        x, y = next(mine, None), next(theirs, None)
        while x and y:
            if x[0] < y[1] and y[0] < x[1]:
                return True
            if x[1] <= y[1]:
                x = next(mine, None)
            else:
                y = next(theirs, None)
    return False
