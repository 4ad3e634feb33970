"""What services have changed or taken away, and what a person says to it: `conflicts`, `accept` and `reject`."""

import hashlib
from collections import defaultdict
from typing import NamedTuple
from uuid import UUID

from replica import clock, writing
from replica.changes import Add
from replica.clone import Clone
from replica.cloud import export, pull
from replica.cloud.items import bare
from replica.cloud.ledger import Ledger, Proposal, Row
from replica.cloud.pull import Local
from replica.decisions import SHORTEST
from replica.documents import Conflict, Version
from replica.errors import NotFound, UsageError

KIND = "cloud"
HELD = "cloud"  # the reason of what is held
HERE, THERE = "v1", "v2"


class Open(NamedTuple):
    """An edit in a service against another one here. `local` None: it is gone here."""

    conflict: Conflict
    proposal: Proposal
    local: Local | None
    sink: str


def conflicts(clone: Clone) -> list[Open]:
    """The edits that wait. Of versions, the first is what is here, and the second what is there."""
    if not Ledger.exists(clone.root):
        return []
    with Ledger(clone.root) as ledger:
        waiting = [one for one in ledger.proposals() if one.kind == "edit"]
        if not waiting:
            return []
        here = _here(clone, waiting)
        names = ledger.sink_names()
        return [_open(clone, one, here.get(one.id), names[one.sink]) for one in waiting]


def _here(clone: Clone, waiting: list[Proposal]) -> dict[UUID, Local]:
    """The items of the documents that are concerned."""
    return {local.item.id: local for local in pull.everything(clone, {one.document for one in waiting})}


def _in_conflict(clone: Clone, proposal: Proposal) -> bool:
    """Whether the item is here and in a conflict of its own, so that nothing can be put in its place."""
    kept: set[UUID] = set()
    for _ in pull.everything(clone, {proposal.document}, kept):
        pass
    return proposal.id in kept


def _open(clone: Clone, proposal: Proposal, local: Local | None, sink: str) -> Open:
    id = hashlib.sha256(f"{sink}\n{proposal.id}\n".encode() + (proposal.there or b"")).hexdigest()[:10]
    ours = local.item.text if local is not None else ""
    author = next((a.id for a in clone.log.authors() if local is not None and a.name == local.item.author), b"")
    versions = (
        Version(HERE, ours, author, clock.from_ms(local.item.time) if local is not None else 0),
        Version(THERE, proposal.text, b"", clock.from_ms(proposal.time)),
    )
    policy = local.source.document.policy if local is not None else ""
    return Open(Conflict(id, proposal.document, policy, KIND, versions), proposal, local, sink)


def find(clone: Clone, id: str) -> Open | None:
    """The edit that waits under this id, or whose id begins so. None: it is none of these."""
    if len(id) < SHORTEST:
        return None
    found = [one for one in conflicts(clone) if one.conflict.id.startswith(id.lower())]
    return found[0] if len(found) == 1 else None


def count(clone: Clone) -> int:
    """How many edits wait; quick where there are none."""
    if not Ledger.exists(clone.root):
        return 0
    with Ledger(clone.root) as ledger:
        return sum(one.kind == "edit" for one in ledger.proposals())


def resolve(clone: Clone, found: Open, *, keep: str | None, text: str | None) -> str:
    """Settle it: `keep` what is here (v1, here) or there (v2, the sink's name), or `text`. What stands there now.

    What is kept here goes to the service with the next export. Raises NotFound: no such version.
    """
    if (keep is None) == (text is None):
        raise UsageError("say either which version to keep, or the text", hint="--keep v1, or --text TEXT")
    if keep in (HERE, "here", clone.name):
        choice = None
    elif keep in (THERE, "there", found.sink):
        choice = found.proposal.text
    elif keep is not None:
        raise NotFound(
            f"no version {keep!r} in that conflict", hint=f"there are {HERE} (here) and {THERE} (in {found.sink})"
        )
    else:
        choice = text
    if choice is not None and found.local is None and _in_conflict(clone, found.proposal):
        raise UsageError(
            f"it is in conflict here, too: {found.proposal.document!r}", hint="settle that first: replica conflicts"
        )
    with Ledger(clone.root) as ledger:
        n, proposal = found.proposal.sink, found.proposal
        row = ledger.item(n, proposal.id)
        if choice is not None:
            _put(clone, ledger, found, row, choice)
        else:
            _say_again(clone, found.local)
            if row is not None:
                ledger.put(n, [row._replace(there=proposal.there, digest=b"", state="stored")])
        ledger.withdraw(n, [proposal.id])
        ledger.set_mark(n, proposal.document, None)
    return choice if choice is not None else found.conflict.versions[0].text


def _say_again(clone: Clone, local: Local | None) -> None:
    """What stays as it is here is written once more, as itself.

    Another clone may be settling the same edit in favour of the service just now. Then both wait again, as for any two
    edits of one entry; a decision that leaves no trace in the log would be overwritten silently. A section of a text
    cannot be written again without being there twice.
    """
    if local is None or local.source.document.policy == "text":
        return
    with clone.transaction():
        document = clone.documents.find(local.item.document, local.source.document.policy)
        for entry in clone.documents.entries(document):
            same = bare(entry.text) == local.item.text and pull.is_item(clone, entry, local.item)
            if not entry.private and (same or document.policy == "latest"):
                add = Add(entry.role, entry.text, entry.occurrence, entry.lead, entry.place, entry.dots, entry.meta)
                clone.edit_entries(document.path, document.policy, [(1, add)])
                return


def _put(clone: Clone, ledger: Ledger, found: Open, row: Row | None, text: str) -> None:
    """Write `text` in its place; where that is gone, as an entry of its document."""
    n, proposal, local = found.proposal.sink, found.proposal, found.local
    if local is None or not pull.write(clone, local, text):
        added = writing.add(clone, proposal.document, text)
        after = pull.items_of(clone, proposal.document)
        item = next((one for one in after.values() if text.strip() in (one.text, added.text)), None)
        ledger.drop(n, [proposal.id])
    else:
        item = pull.items_of(clone, proposal.document).get(proposal.id)
    if item is None:
        return
    same = export.digest(item) if text == proposal.text else b""
    ledger.put(n, [Row(
        item.id, item.document, "stored", same, bytes.fromhex(item.hash), proposal.there, proposal.remote,
        item.namespace, row.embedder if row else None, None, None, None, 0, 0, proposal.time,
    )])  # fmt: skip


# --- what was taken away there


def held(clone: Clone) -> list[dict]:
    """The documents of which services have lost items that are here: as rows of what is held."""
    if not Ledger.exists(clone.root):
        return []
    with Ledger(clone.root) as ledger:
        names = ledger.sink_names()
        found: dict[str, list[Proposal]] = defaultdict(list)
        for one in ledger.proposals():
            if one.kind == "delete":
                found[one.document].append(one)
    return [
        {
            "path": path, "reason": HELD, "since": min(one.time for one in of),
            "what": f"{len(of)} {'was' if len(of) == 1 else 'were'} taken away in "
            + ", ".join(sorted({names[one.sink] for one in of})),
        }
        for path, of in sorted(found.items())
    ]  # fmt: skip


def settle(clone: Clone, paths: list[str], *, accept: bool) -> list[str]:
    """Take away here what was taken away there (`accept`), or store it there again. Without `paths`: everything."""
    if not Ledger.exists(clone.root):
        return []
    with Ledger(clone.root) as ledger:
        waiting = [
            one for one in ledger.proposals() if one.kind == "delete" and (not paths or one.document in paths)
        ]  # fmt: skip
        here = _here(clone, waiting) if waiting else {}
        done = set()
        for one in waiting:
            local = here.get(one.id)
            if accept and (_in_conflict(clone, one) if local is None else not pull.gone(clone, local)):
                continue
            ledger.drop(one.sink, [one.id])
            ledger.withdraw(one.sink, [one.id])
            ledger.set_mark(one.sink, one.document, None)
            done.add(one.document)
    return sorted(done)
