"""New lines that stay on this clone since they may be of level 0 in other words (table `withheld`).

An editor that empties a file first writes back what it held, and a person may have changed it meanwhile: nothing in the
file says which line was which (replica/intake.py). What is in doubt is not shared, and listed until a person decides.
"""

from collections import defaultdict
from contextlib import suppress
from typing import Any

from replica import guard
from replica.blocks import SIMILAR, LetterPairs, block_id
from replica.changes import Add
from replica.clone import Clone
from replica.documents import Entry
from replica.errors import DamagedRecord
from replica.intake import OVERLAPPING, Levelled, Words


class Withheld:
    """The lines that one clone keeps to itself. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, clone: Clone, now_ms):
        self.clone, self.store = clone, clone.store
        self.now_ms = now_ms

    def note(self, path: str, ops: list[Levelled], private: Words) -> None:
        """Remember what of a save is kept here by doubt.

        `ops` are those of a document that is shared, and not stored yet; `private`: what is of level 0 for sure.
        """
        new = [op for level, op in ops if level == 0 and isinstance(op, Add)]
        if not new:
            return
        follow(self.clone, path, new, self.now_ms())
        known = {words for words, *_ in self._remembered()}  # cut and pasted, it comes back as a new line
        sure = private() if any(not op.kills for op in new) else ()
        doubted = [
            op for op in new
            if (op.role, op.text) in known or not (self._is_edit(op) if op.kills else (op.role, op.text) in sure)
        ]  # fmt: skip
        _remember(self.clone, path, doubted, self.now_ms())

    def _is_edit(self, op: Add) -> bool:
        """Whether it is like what it stands for: it may be there for its place alone."""
        its = LetterPairs(op.text)
        for _, before in killed(self.clone, op):
            if before != op.text:
                was = LetterPairs(before)
                return its.likeness(was) >= SIMILAR or its.overlap(was) >= OVERLAPPING
        return True

    def _remembered(self) -> list[tuple[tuple[str, str], str, bytes, int]]:
        """Of all that is remembered: role and text, document, id, and whether it is dead."""
        rows = self.store.rows(
            "SELECT role, text, w.path, w.id, dead FROM withheld w JOIN documents d ON d.path=w.path AND d.private=1"
            " JOIN adds a ON a.doc=d.n AND a.id=w.id"
        )
        return [((role, text), path, id, dead) for role, text, path, id, dead in rows]

    def rows(self) -> list[dict[str, Any]]:
        """What waits: see `rows`."""
        return rows(self.clone)

    def ids(self, path: str) -> set[bytes]:
        """What is remembered of a document, for `share` and `keep`."""
        return {id for (id,) in self.store.rows("SELECT id FROM withheld WHERE path=?", (path,))}

    def share(self, path: str, ids: set[bytes]) -> None:
        """Give these lines of a document, as they are now, the level of all others."""
        with self.clone.transaction():
            rule, found = self.clone.rule(path), entries(self.clone, path, ids)
            chosen = {entry.id for entry in found}
            ops: list[Levelled] = []
            after = None
            for entry in self.clone.documents.entries(self.clone.documents.find(path, rule.policy)) if found else ():
                if entry.id in chosen:
                    add = Add(entry.role, entry.text, entry.occurrence, entry.lead, after, entry.dots, entry.meta)
                    ops.append((rule.level, add))
                    after = entry.id
                elif not entry.private:
                    after = entry.place
            if ops:
                self.clone.edit_entries(path, rule.policy, ops)
            self._forget(path, ids, found)

    def keep(self, path: str, ids: set[bytes]) -> None:
        """Let these lines of a document stay at level 0 for good."""
        with self.clone.transaction():
            self._forget(path, ids, entries(self.clone, path, ids))

    def _forget(self, path: str, ids: set[bytes], decided: list[Entry]) -> None:
        """Their words are decided on, wherever they stood before; where they still stand, that is another decision."""
        words = {(entry.role, entry.text) for entry in decided}
        elsewhere = [(other, id) for its, other, id, dead in self._remembered() if dead and its in words]
        self.store.many("DELETE FROM withheld WHERE path=? AND id=?", [*elsewhere, *((path, id) for id in ids)])


def follow(clone: Clone, path: str, ops: list[Add], now_ms: int) -> None:
    """An edit of a line that waits for a decision waits, too."""
    ids = {id for (id,) in clone.store.rows("SELECT id FROM withheld WHERE path=?", (path,))}
    if ids:
        edits = [op for op in ops if any(id in ids for id, _ in killed(clone, op))]
        _remember(clone, path, edits, now_ms)


def killed(clone: Clone, op: Add) -> list[tuple[bytes, str]]:
    """Ids and texts of the entries in whose place it stands."""
    found = []
    for dot in op.kills:
        author = clone.log.author(dot.author)
        find = "SELECT id, text FROM adds WHERE author=? AND seq=? AND idx=?"
        found += clone.store.rows(find, (author.n, dot.seq, dot.index)) if author else []
    return found


def _remember(clone: Clone, path: str, ops: list[Add], now_ms: int) -> None:
    rows = [(path, block_id(op.role, op.text, op.occurrence), now_ms) for op in ops]
    clone.store.many("INSERT OR IGNORE INTO withheld VALUES(?,?,?)", rows)


def entries(clone: Clone, path: str, ids: set[bytes]) -> list[Entry]:
    """Those of a document that are among `ids` and wait for a decision."""
    rule = clone.rule(path)
    if not ids or rule is None or not rule.level or rule.policy in ("text", "latest"):
        return []
    live = clone.documents.entries(clone.documents.find(path, rule.policy))
    return [entry for entry in live if entry.private and entry.id in ids]


def rows(clone: Clone) -> list[dict[str, Any]]:
    """What waits, a document each: path, reason, what, since (milliseconds since 1970)."""
    noted: dict[str, dict[bytes, int]] = defaultdict(dict)
    for path, id, since in clone.store.rows("SELECT path, id, since FROM withheld ORDER BY path"):
        noted[path][id] = since
    found = []
    for path, ids in noted.items():
        with suppress(DamagedRecord):  # that document is listed where its file is passed over
            waiting = entries(clone, path, set(ids))
            if waiting:
                hold = guard.judge_likeness([entry.text for entry in waiting])
                found.append({"path": path, "reason": hold.reason, "what": hold.what, "since": min(ids.values())})
    return found
