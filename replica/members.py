"""What a person should know about who belongs: newcomers that nobody who stayed has looked at, and one's own removal.

A member that was removed may have let others in before it heard of that. They stay, since taking them out would be a
decision that nobody made; but the one who removed could not know of them, so they are named until somebody looks.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from replica.clone import Clone

COME_BACK = "to come back, delete .replica here, then `replica join` with a new code; the files are merged"
START_ANEW = (
    "every clone was removed, by others or by each other: delete .replica in one folder and `replica init` it, "
    "then `replica join` it from the others; the files are merged"
)


CROSSED = (
    "these two removed each other: agree on which workspace goes on; in the other folder delete .replica, "
    "then `replica join` with a new code; the files are merged"
)

REMOVED = "was removed from the workspace"  # in what members say to whom they refuse


class Removal(NamedTuple):
    """`by` a member's name, `at` a hybrid time."""

    by: str
    at: int


def removal(clone: "Clone") -> Removal | None:
    """Who removed this clone, as far as the log here knows."""
    row = clone.store.row("SELECT removed_by, removed_at FROM authors WHERE id=?", (clone.identity.id,))
    return Removal(clone.author_name(row[0]), row[1]) if row and row[0] is not None else None


class Told(NamedTuple):
    """A member's last words, that this clone was removed. Told, not proven: the log here may not say so."""

    by: str
    said: str
    hint: str


def told_removed(clone: "Clone") -> list[Told]:
    """Who refused this clone since it was removed, as far as they said so since the last time they were in step."""
    notes = dict(clone.store.rows("SELECT id, note FROM peers WHERE note IS NOT NULL"))
    return [
        Told(member["name"], note, COME_BACK if member["removed_by"] is None else CROSSED)
        for member in clone.members()
        if (note := notes.get(member["id"], "")).startswith(f"{clone.name} {REMOVED}")
    ]


def nobody_left(clone: "Clone") -> bool:
    """Whether members that removed each other have left a workspace without any."""
    members = clone.members()
    return bool(members) and all(member["removed_by"] is not None for member in members)


def unseen(clone: "Clone") -> dict[bytes, bytes]:
    """Members that only somebody let in who was being removed at the same time: member id -> who let it in.

    At the same time: neither had the remover seen the admission, nor the admitting one the removal.
    """
    admissions: dict[bytes, list[tuple[int, int]]] = {}
    for member, author, seq in clone.store.rows("SELECT member, author, seq FROM admissions"):
        admissions.setdefault(member, []).append((author, seq))
    found: dict[bytes, bytes] = {}
    grown = True
    while grown:  # guests of guests: usually one round, and a second that finds nothing more
        grown = False
        for member in admissions.keys() - found.keys():
            if all(_in_doubt(clone, author, seq, found) for author, seq in admissions[member]):
                found[member] = min(clone.log.author_n(author).id for author, _ in admissions[member])
                grown = True
    return {member["id"]: found[member["id"]] for member in clone.members()
            if member["id"] in found and member["removed_by"] is None}  # fmt: skip


def _in_doubt(clone: "Clone", author: int, seq: int, guests: dict[bytes, bytes]) -> bool:
    by = clone.log.author_n(author)
    removals = clone.store.rows("SELECT author, seq FROM removals WHERE member=? AND away=0", (by.id,))
    if not removals:
        return by.id in guests
    return any(clone.log.past(remover, at, author) < seq for remover, at in removals)
