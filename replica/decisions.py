"""Settling what waits for a decision: one version of a conflict is kept, everywhere, and the others become history."""

from typing import NamedTuple

from replica import config, regions, textdiff
from replica.blocks import ENTRY, parse
from replica.changes import Add, Dot, Kind, Remove
from replica.clone import Clone
from replica.documents import Conflict, Document, Entry, Version
from replica.errors import NotFound, UsageError, WrongPolicy
from replica.intake import Levelled
from replica.places import CONFIG
from replica.writing import compose, free_occurrence

SHORTEST = 4  # characters of an id that are enough, if they are unique


class Settled(NamedTuple):
    """`text`: what stands there now."""

    conflict: Conflict
    text: str


def find(clone: Clone, id: str) -> Conflict:
    """The open conflict whose id this is, or begins so. Raises NotFound."""
    found = [conflict for conflict in clone.documents.all_conflicts() if conflict.id.startswith(id.lower())]
    exact = [conflict for conflict in found if conflict.id == id.lower()]
    if len(id) < SHORTEST or not found:
        raise NotFound(f"no open conflict {id!r}", hint="list what waits with `replica conflicts`")
    if len(exact or found) > 1:
        raise NotFound(f"{len(found)} conflicts begin with {id!r}", hint="give more of its id")
    return (exact or found)[0]


def resolve(clone: Clone, id: str, *, keep: str | None = None, text: str | None = None) -> Settled:
    """Settle a conflict: keep one of its versions (`v1`, `merged`, or the name of the clone that wrote it), or `text`.

    Raises:
        NotFound: no such conflict or version.
        UsageError: neither or both of `keep` and `text`, or a text that does not fit there.
        ConfigError: the text is to be replica.toml, and is not valid.
        WrongPolicy: what is kept is for this clone alone, and the others are not.
    """
    if (keep is None) == (text is None):
        raise UsageError("say either which version to keep, or the text", hint="--keep v1, or --text TEXT")
    with clone.transaction():
        conflict = find(clone, id)
        document = clone.documents.find(conflict.path, conflict.policy)
        if text is not None and conflict.path == CONFIG:
            config.load(text)
        if conflict.kind == "region":
            return _settle_region(clone, document, conflict, keep, text)
        return _settle_entries(clone, document, conflict, keep, text)


def _version(clone: Clone, conflict: Conflict, keep: str) -> int:
    """The index of the version that is meant."""
    names = [version.version for version in conflict.versions]
    if keep in names:
        return names.index(keep)
    by_clone = [at for at, v in enumerate(conflict.versions) if v.clone and clone.author_name(v.clone) == keep]
    if len(by_clone) == 1:
        return by_clone[0]
    raise NotFound(f"conflict {conflict.id} has no version {keep!r}", hint=f"it has {', '.join(names)}")


# --- entries


def _settle_entries(
    clone: Clone, document: Document, conflict: Conflict, keep: str | None, text: str | None
) -> Settled:
    entries = conflict.entries
    shared = [dot for entry in entries for dot in entry.dots if not _is_private(clone, dot)]
    private = [dot for entry in entries for dot in entry.dots if _is_private(clone, dot)]
    chosen = entries[_version(clone, conflict, keep)] if keep is not None else None
    if chosen is not None and chosen.private and shared:
        raise WrongPolicy(
            f"version {keep} is for this clone alone (level 0), and the others are not",
            hint="give its text with --text to share it, or keep another version",
        )
    new = _kept(chosen, entries[0]) if chosen else _written(clone, document, entries, text or "")
    ops: list[tuple[int, Add | Remove]] = []
    mine, level = (shared, 1) if shared else (private, 0)
    ops.append((level, new._replace(kills=tuple(mine)) if new else Remove(tuple(mine))))
    if shared and private:
        ops.append((0, Remove(tuple(private))))
    clone.edit_entries(document.path, document.policy, ops)
    return Settled(conflict, new.text if new else "")


def _is_private(clone: Clone, dot: Dot) -> bool:
    author = clone.log.author(dot.author)
    return author is not None and author.private


def _kept(chosen: Entry, first: Entry) -> Add:
    """The same entry again, under its own name: two clones that keep the same one agree."""
    after = _place(first)
    return Add(chosen.role, chosen.text, chosen.occurrence, chosen.lead, after, (), chosen.meta)


def _written(clone: Clone, document: Document, entries: tuple[Entry, ...], text: str) -> Add | None:
    """A text in place of all versions; None when it is empty, which ends them all."""
    first = entries[0]
    text = text.replace("\r\n", "\n")
    if document.policy == "latest":
        blocks = parse(text, "latest")
        if not blocks:
            return None
        role, text, lead = ENTRY, blocks[0].text, blocks[0].lead
    else:
        role, lead = first.role, first.lead
        text = compose(text, document.policy) if role == ENTRY else text.strip("\n")
    same = next((entry for entry in entries if (entry.role, entry.text) == (role, text)), None)
    if same is not None:
        return _kept(same, first)
    occurrence = free_occurrence(clone, document, role, text)
    return Add(role, text, occurrence, lead, _place(first), (), first.meta)


def _place(first: Entry) -> bytes | None:
    """Behind the first version; a shared entry never names one of level 0."""
    return None if first.private else first.place


def settled_by_hand(clone: Clone, document: Document, ops: list[Levelled]) -> list[Levelled]:
    """The operations of a save that took versions of a conflict out of a file and left one: that is a decision.

    Said as one (what stays takes the place of what goes) it is shown again where another clone has decided otherwise;
    as mere removals, two decisions that differ would take away both versions.
    """
    gone = {dot for _, op in ops if isinstance(op, Remove) for dot in op.kills}
    asked = "SELECT 1 FROM adds WHERE doc=? AND dead=0 AND roots IS NOT NULL"
    if not gone or document.policy == "latest" or not clone.store.value(asked, (document.shared,)):
        return ops
    for conflict in clone.documents.conflicts(document):
        left = [entry for entry in conflict.entries if not gone.issuperset(entry.dots)]
        taken = {dot for entry in conflict.entries if entry not in left for dot in entry.dots}
        if taken and len(left) == 1 and not any(entry.private for entry in conflict.entries):
            ops = [*_without(ops, taken, left[0].dots), *_in_place(ops, left[0], taken)]
    return ops


def _without(ops: list[Levelled], taken: set[Dot], kept: tuple[Dot, ...]) -> list[Levelled]:
    """Without the removals of `taken`, and without what is done to `kept`."""
    result: list[Levelled] = []
    for level, op in ops:
        if isinstance(op, Add) and set(op.kills) & set(kept):
            continue
        if isinstance(op, Remove) and set(op.kills) & taken:
            op = Remove(tuple(dot for dot in op.kills if dot not in taken))
            if not op.kills:
                continue
        result.append((level, op))
    return result


def _in_place(ops: list[Levelled], left: Entry, taken: set[Dot]) -> list[Levelled]:
    """What was made of the entry that stays, or that entry again, now in the place of those that go as well."""
    made = [(level, op) for level, op in ops if isinstance(op, Add) and set(op.kills) & set(left.dots)]
    if not made:
        made = [(1, _kept(left, left)._replace(kills=left.dots))]
    (level, first), rest = made[0], made[1:]
    return [(level, first._replace(kills=(*first.kills, *sorted(taken - set(first.kills))))), *rest]


# --- regions of a text


def _settle_region(clone: Clone, document: Document, conflict: Conflict, keep: str | None, text: str | None) -> Settled:
    if clone.documents.shown_text(document) != document.shared:
        # The regions are those of the text that is shared; what is shown and would be edited is another, and private.
        raise WrongPolicy(
            f"{document.path} goes on for this clone alone (level 0); what waits is in the text that was shared",
            hint="settle it on a clone that still shares it, or raise the level in replica.toml first",
        )
    version: Version | None = None
    if keep is not None:
        version = conflict.versions[_version(clone, conflict, keep)]
        text = version.text
    new = (text or "").replace("\r\n", "\n")
    start, end = regions.region_span(clone.documents, document, conflict.pairs)
    old = clone.documents.text(document)[start:end]
    if new and old.endswith("\n") and not new.endswith("\n"):
        new += "\n"
    if new != old and not (version and version.version == "merged"):
        # Only what differs: two clones that choose the same version take away the same, and write nothing twice.
        clone.edit_text(document.path, [(start + a, start + b, put) for a, b, put in textdiff.diff(old, new)])
    name = clone.log.author_n
    pairs = [[name(a).id, a_seq, name(b).id, b_seq] for a, a_seq, b, b_seq in conflict.pairs]
    clone.append(Kind.REVIEW, (document.path, document.policy), pairs)
    return Settled(conflict, new)
