"""New lines that stay on this clone since they may be of level 0 in other words (table `withheld`).

Nothing in a file says which line is of level 0. What is in doubt (replica/levels.py) is not shared, and is listed, line
by line, until a person decides. A line is known by its id, so that nobody lets through what he has not seen.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from replica import guard
from replica.blocks import block_id
from replica.changes import Add
from replica.errors import DamagedRecord, NotFound
from replica.store import Store

if TYPE_CHECKING:
    from replica.clone import Clone
    from replica.documents import Entry
    from replica.log import Log

SHORTEST = 4  # hex digits by which a line may be named


class Withheld:
    """The lines that one clone keeps to itself. `now_ms` is the wall clock in milliseconds."""

    def __init__(self, clone: "Clone", now_ms):
        self.clone, self.store = clone, clone.store
        self.now_ms = now_ms

    def note(self, path: str, doubted: list[Add]) -> None:
        """What of a save is kept here by doubt."""
        _remember(self.store, path, doubted, self.now_ms())

    def drop(self, path: str, known: list[Add]) -> None:
        """What is of level 0 without doubt."""
        self._forget(path, {_id(op) for op in known})

    def words(self) -> set[tuple[str, str]]:
        """Roles and texts of all that nobody has decided on: cut and pasted, it comes back as a new line."""
        return _words(self.store)

    def rows(self, of: list[str] | None = None) -> list[dict[str, Any]]:
        """What waits in these documents, or in all: see `rows`."""
        return rows(self.clone, of)

    def find(self, path: str, line: str) -> "Entry":
        """An entry of level 0 of a document by its id, or how that begins.

        Raises NotFound: there is none, or more than one.
        """
        private = [entry for entry in _entries(self.clone, path) if entry.private]
        found = [entry for entry in private if len(line) >= SHORTEST and entry.id.hex().startswith(line.lower())]
        if len(found) != 1:
            hint = "`replica status` lists what waits, `replica show DOCUMENT --json` has the id of every line"
            what = "several lines" if found else "no line"
            raise NotFound(f"{what} of level 0 in {path!r} with an id that begins with {line!r}", hint=hint)
        return found[0]

    def share(self, path: str, chosen: list["Entry"]) -> None:
        """Give entries of a document, in the words that they have here, the level of all others."""
        with self.clone.transaction():
            rule, ids = self.clone.rule(path), {entry.id for entry in chosen}
            if rule is None or not rule.level:
                raise NotFound(f"{path!r} is of level 0 as a whole", hint="raise the level of its rule in replica.toml")
            ops: list[tuple[int, Add]] = []
            after = None
            for entry in _entries(self.clone, path):
                if entry.id in ids and entry.private:
                    # Its fields were given to it as an entry of level 0: they stay here.
                    add = Add(entry.role, entry.text, entry.occurrence, entry.lead, after, entry.dots, {})
                    ops.append((rule.level, add))
                    after = entry.id
                elif not entry.private:
                    after = entry.place
            self._settle(path, chosen)
            if ops:
                self.clone.edit_entries(path, rule.policy, ops)

    def keep(self, path: str, chosen: list["Entry"]) -> None:
        """Let entries of a document stay at level 0 for good."""
        with self.clone.transaction():
            self._settle(path, chosen)

    def _settle(self, path: str, decided: list["Entry"]) -> None:
        """Their words are decided on, wherever they stood before; where they still stand, that is another decision."""
        words = {(entry.role, entry.text) for entry in decided}
        for role, text, other, id, dead in _remembered(self.store):
            if dead and (role, text) in words:
                self._forget(other, {id})
        self._forget(path, {entry.id for entry in decided})

    def _forget(self, path: str, ids: set[bytes]) -> None:
        self.store.many("DELETE FROM withheld WHERE path=? AND id=?", [(path, id) for id in ids])


def follow(store: Store, log: "Log", path: str, ops: list[Add]) -> None:
    """What is written at level 0 in the place of a line that waits, or in its words, waits as well."""
    ids = {id for (id,) in store.rows("SELECT id FROM withheld WHERE path=?", (path,))}
    if not ids:
        return
    words = _words(store)
    found = [op for op in ops if (op.role, op.text) in words or any(id in ids for id in _killed(store, log, op))]
    _remember(store, path, found, log.now_ms())


def rows(clone: "Clone", of: list[str] | None = None) -> list[dict[str, Any]]:
    """What waits, a line each: path, reason, what, since (milliseconds since 1970), line (its id)."""
    noted: dict[str, dict[bytes, int]] = {}
    for path, id, since in clone.store.rows("SELECT path, id, since FROM withheld ORDER BY path"):
        if of is None or path in of:
            noted.setdefault(path, {})[id] = since
    found = []
    for path, ids in noted.items():
        rule = clone.rule(path)
        if rule is None or not rule.level:
            continue
        with suppress(DamagedRecord):  # that document is listed where its file is passed over
            for entry in _entries(clone, path):
                if entry.private and entry.id in ids:
                    hold = guard.judge_likeness(entry.text, entry.id.hex()[:12])
                    found.append({
                        "path": path, "reason": hold.reason, "what": hold.what, "since": ids[entry.id],
                        "line": entry.id.hex(),
                    })  # fmt: skip
    return found


def _entries(clone: "Clone", path: str) -> list["Entry"]:
    rule = clone.rule(path)
    if rule is None or rule.policy in ("text", "latest"):
        return []
    return clone.documents.entries(clone.documents.find(path, rule.policy))


def _id(op: Add) -> bytes:
    return block_id(op.role, op.text, op.occurrence)


def _words(store: Store) -> set[tuple[str, str]]:
    return {(role, text) for role, text, *_ in _remembered(store)}


def _remembered(store: Store) -> list[tuple[str, str, str, bytes, int]]:
    """Of all that is remembered: role and text, document, id, and whether it is dead."""
    return store.rows(
        "SELECT role, text, w.path, w.id, dead FROM withheld w JOIN documents d ON d.path=w.path AND d.private=1"
        " JOIN adds a ON a.doc=d.n AND a.id=w.id"
    )


def _killed(store: Store, log: "Log", op: Add) -> list[bytes]:
    """Ids of the entries in whose place it stands."""
    found = []
    for dot in op.kills:
        author = log.author(dot.author)
        find = "SELECT id FROM adds WHERE author=? AND seq=? AND idx=?"
        found += store.rows(find, (author.n, dot.seq, dot.index)) if author else []
    return [id for (id,) in found]


def _remember(store: Store, path: str, ops: list[Add], now_ms: int) -> None:
    store.many("INSERT OR IGNORE INTO withheld VALUES(?,?,?)", [(path, _id(op), now_ms) for op in ops])
