"""What is known against a member, kept in the store until it is resolved: for `status`, `doctor`, and the next start.

A fault has one of four kinds, and a member at most one of each:

    change    it has signed a change that no clone can take; its chain ends before it, everywhere alike
    fork      it has signed two different changes of one number, or two histories
    talk      it broke the rules of a conversation: nobody else's signature proves that
    content   it holds the same changes and different content

The first two are proven by the member's own signature, whoever passed the change on. They end when the chain has gone
on past that number. The third is forgiven after a while of good conduct, the fourth once contents are equal again.
"""

import json
from typing import Any, NamedTuple

from replica import __version__
from replica.clone import Clone

CHANGE, FORK, TALK, CONTENT = "change", "fork", "talk", "content"
FORGIVEN_AFTER = 10 * 60_000  # milliseconds in step without another fault
MAX_WHAT = 400  # characters


class Fault(NamedTuple):
    """`since`, `last`: milliseconds since 1970. `seq`, `hash`: of the change that proves it."""

    kind: str
    what: str
    hint: str
    since: int
    last: int
    times: int
    seq: int = 0
    hash: str = ""
    program: str = ""


def record(clone: Clone, member: bytes, kind: str, what: str, hint: str, *, seq: int = 0, hash: bytes = b"") -> None:
    """Remember a fault of `member`; the same again is counted."""
    now = clone.log.now_ms()
    with clone.transaction():
        known = _read(clone, member)
        old = known.get(kind)
        since, times = (old.since, old.times + 1) if old else (now, 1)
        known[kind] = Fault(kind, what[:MAX_WHAT], hint, since, now, times, seq, hash.hex(), __version__)
        _write(clone, member, known)


def settled(clone: Clone, member: bytes) -> None:
    """The member is in step: what only a conversation showed is over, or forgiven when it was long ago."""
    known = _read(clone, member)
    now = clone.log.now_ms()
    kept = {
        kind: fault
        for kind, fault in known.items()
        if kind in (CHANGE, FORK) or (kind == TALK and now - fault.last < FORGIVEN_AFTER)
    }
    if kept != known:
        with clone.transaction():
            _write(clone, member, kept)


def judge_anew(clone: Clone) -> None:
    """The log begins anew, maybe with the other side of a fork: what could not be taken may be what counts now."""
    rows = clone.store.rows("SELECT key, value FROM meta WHERE key>='faults:' AND key<'faults;'")
    with clone.transaction():
        for key, packed in rows:
            kept = {kind: fault for kind, fault in _decode(packed).items() if kind not in (CHANGE, FORK)}
            _write(clone, bytes.fromhex(key.removeprefix("faults:")), kept)


def of(clone: Clone, member: bytes) -> list[Fault]:
    """What is known against a member and not resolved."""
    author = clone.log.author(member)
    if author is None or author.removed:
        return []
    return [f for f in _read(clone, member).values() if not (f.kind == CHANGE and author.seq >= f.seq)]


def refused_hashes(clone: Clone) -> set[bytes]:
    """The changes that need not be tried again. By another version of this program they are judged anew."""
    found = clone.store.rows("SELECT value FROM meta WHERE key>='faults:' AND key<'faults;'")
    known = [fault for (packed,) in found for fault in _decode(packed).values()]
    return {bytes.fromhex(f.hash) for f in known if f.hash and f.program == __version__}


def facts(clone: Clone, member: bytes) -> list[dict[str, Any]]:
    """`of` as plain data."""
    return [
        {"kind": f.kind, "what": f.what, "hint": f.hint, "since": f.since, "last": f.last, "times": f.times}
        for f in of(clone, member)
    ]


def way_out(kind: str, name: str) -> str:
    """The hint that goes with a fault."""
    if kind == FORK:
        return (
            f"a clone that was restored from a copy comes back by itself under a new identity; if {name} is not to be"
            f" trusted: `replica remove {name}`"
        )
    if kind == CONTENT:
        return f"update memory-replica here and on {name}; what each of you holds is kept"
    return f"update memory-replica on {name} and join it again; if it is not to be trusted: `replica remove {name}`"


def _read(clone: Clone, member: bytes) -> dict[str, Fault]:
    return _decode(clone.store.meta(_key(member)))


def _key(member: bytes) -> str:
    return f"faults:{member.hex()}"


def _decode(packed: str | None) -> dict[str, Fault]:
    return {kind: Fault(kind, **rest) for kind, rest in json.loads(packed or "{}").items()}


def _write(clone: Clone, member: bytes, known: dict[str, Fault]) -> None:
    plain = {kind: {k: v for k, v in fault._asdict().items() if k != "kind"} for kind, fault in known.items()}
    clone.store.set_meta(_key(member), json.dumps(plain))
