"""What a file says becomes changes to its document, as far as a person did it and the guard lets it through.

Entries by replica/intake.py, texts by replica/textdiff.py. Nothing here reads or writes a file.
"""

from functools import cached_property

from replica import guard, intake, markers
from replica.blocks import parse
from replica.changes import Add, Dot, Kind, Remove
from replica.clone import Clone
from replica.decisions import settled_by_hand
from replica.documents import Document
from replica.files.bases import Bases, Row
from replica.files.withheld import Withheld
from replica.log import Author
from replica.places import CONFIG
from replica.store import Store

# An editor that empties a file first may write its lines back in other words: so many of the last changes of a document
# at level 0 are looked at for what they took away. Clocks jump; so this is no time.
LAST = 20


class Edits:
    """Edits the documents of one clone."""

    def __init__(self, clone: Clone, bases: Bases, withheld: Withheld):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.bases, self.withheld = bases, withheld

    def put(self, path: str, text: str) -> guard.Hold | None:
        """Make a document `text`, as the save of a file that showed all of it would. Why not, if the guard says so.

        Nothing is held then, and nothing written. The file follows with the next `run`.
        """
        with self.clone.transaction():
            rule = self.clone.rule(path)
            document, row = self.clone.documents.find(path, rule.policy), None
            if document.alive:
                canonical, ids = self.bases.content(document)
                change = self.bases.last_change(document)
                row = Row(path, rule.policy, canonical.encode(), canonical, ids, change, None, None, None)
            hold = self.left_by_tools(path, text, row, rule.policy)
            return hold or self.make(path, text, row, rule, False, False)

    def make(self, path: str, text: str, row: Row | None, rule, switched: bool, force: bool) -> guard.Hold | None:
        """Make what differs between a file's base (`row`; None: it has none) and its text. Why not, if held."""
        taken = self._take_text if rule.policy == "text" else self._take_entries
        return taken(path, text, row, rule, switched, force)

    def left_by_tools(self, path: str, text: str, row: Row | None, policy: str) -> guard.Hold | None:
        """What another tool could not merge waits here, and is not spread."""
        if row is not None:
            return markers.judge_text(row.canonical, text)
        document = self.clone.documents.find(path, policy)
        if document.alive:
            return markers.judge_text(self.clone.documents.text(document), text)
        return markers.judge_name(path, lambda first: (self.root / first).is_file()) or markers.judge_text("", text)

    def _take_text(self, path: str, text: str, row: Row | None, rule, switched: bool, force: bool) -> guard.Hold | None:
        from replica import textdiff

        document = self.clone.documents.find(path, "text")
        shown = self.clone.documents.shown_text(document)
        doc = document.private if rule.level == 0 else document.shared
        current = self.clone.documents.raw_text(shown)
        if document.alive and doc != shown:
            return self._change_level(path, text, document, rule)
        if row is None:
            new = textdiff.merge_additive(current, text) if document.alive and current != text else text
            if not document.alive or new != current:
                self.clone.edit_text(path, new=new, level=rule.level)
            return None
        if text == current:
            return None
        ops = textdiff.diff(row.canonical, text)
        gone = sum(row.canonical.count("\n", start, end) for start, end, _ in ops) - sum(
            new.count("\n") for *_, new in ops
        )
        hold = self._judge(path, gone, row.canonical.count("\n"), "lines", switched, gone > 0)
        if hold is not None and not force:
            return hold
        if not document.alive:
            # It was deleted elsewhere while it was edited here: the edit brings it back.
            self.clone.edit_text(path, new=text, level=rule.level)
        else:
            self.clone.edit_text(path, textdiff.rebase(ops, row.canonical, current), level=rule.level)
        return None

    def _change_level(self, path: str, text: str, document: Document, rule) -> None:
        self.clone.move_text(document, text, rule.level)

    def _take_entries(
        self, path: str, text: str, row: Row | None, rule, switched: bool, force: bool
    ) -> guard.Hold | None:
        document = self.clone.documents.find(path, rule.policy)
        documents = self.clone.documents
        live = documents.versions(document) if rule.policy == "latest" else documents.entries(document)
        known = {
            id for (id,) in self.store.rows(
                "SELECT DISTINCT id FROM adds WHERE doc IN (?,?)", (document.shared, document.private)
            )
        }  # fmt: skip
        past = self._past(document)
        if row is None:
            ops = intake.first_sight(text, rule.policy, live, known, rule.level, past)
            if not ops and not document.alive:
                self._exist(path, rule)
        else:
            base = parse(row.canonical, rule.policy)
            saved = intake.save(base, row.id_list, text, rule.policy, live, known, row.change, rule.level, past)
            before = sum(block.role == "entry" for block in base)
            hold = guard.judge_past(rule.policy, saved.past)
            if rule.policy != "latest":
                hold = hold or self._judge(path, saved.removed, before, "entries", switched, saved.removed > 0)
            if hold is not None and not force:
                return hold
            ops = settled_by_hand(self.clone, document, saved.ops)
        if ops:
            with self.clone.transaction():
                if rule.level:
                    self.withheld.note(path, ops, past.private)
                self.clone.edit_entries(path, rule.policy, ops)
        return None

    def _was_private(self) -> "_OnlyPrivate":
        """Roles and texts of the blocks that were ever of level 0 here amid a shared document, and nobody shared.

        Not those of documents that are of level 0 as a whole: to copy a line from there is to share it.
        """
        rows = self.store.rows("SELECT path, role, text FROM adds JOIN documents d ON d.n=doc WHERE private=1")
        rules = {path: self.clone.rule(path) for path in {path for path, *_ in rows}}
        words = {(role, text) for path, role, text in rows if rules[path] is None or rules[path].level}
        return _OnlyPrivate(self.store, words)

    def _past(self, document: Document) -> intake.Past:
        def shared() -> set[tuple[str, str]]:
            return set(self.store.rows("SELECT role, text FROM adds WHERE doc=?", (document.shared,)))

        def private_gone() -> set[tuple[str, str]]:
            gone = self._gone_lately(document.private) if document.private is not None else set()
            return gone and gone - shared()

        return intake.Past(
            self._was_private, shared, private_gone,
            lambda: self._gone_lately(document.shared, self.clone.log.author(self.clone.identity.id)),
        )  # fmt: skip

    def _gone_lately(self, doc: int | None, by: Author | None = None) -> set[tuple[str, str]]:
        """Roles and texts of the blocks that the last changes of a document took out: of all, or `by` one author.

        When those went that are folded away, the log says no more: of these the youngest count.
        """
        who, all_of_it = ("AND author=?", (doc, by.n, LAST)) if by else ("", (doc, LAST))
        after = self.store.value(
            f"SELECT min(n) FROM (SELECT n FROM changes WHERE doc=? {who} ORDER BY n DESC LIMIT ?)", all_of_it
        )
        gone, deleted = set(), 0
        for stored in self.clone.log.changes_of(doc, after - 1, by=by) if after is not None else ():
            if stored.change.kind is Kind.DELETE:
                deleted = stored.n
            elif stored.change.kind is Kind.ENTRIES:
                gone.update(dot for op in stored.change.payload if isinstance(op, Remove) for dot in op.kills)
        name = self.clone.log.author_n
        folded = self.store.rows("SELECT role, text FROM adds WHERE doc=? AND folded=2 ORDER BY n DESC", (doc,))[:LAST]
        return set(folded).union(
            (role, text) for author, seq, idx, change, role, text in self.store.rows(
                "SELECT author, seq, idx, change, role, text FROM adds WHERE doc=?", (doc,)
            ) if change < deleted or Dot(name(author).id, seq, idx) in gone
        )  # fmt: skip

    def _exist(self, path: str, rule) -> None:
        """An empty file is a document without entries: one that comes and goes makes it known."""
        with self.clone.transaction():
            op = Add("prose", "", 1, "", None, (), {})
            written = self.clone.edit_entries(path, rule.policy, [(rule.level, op)])[0]
            dot = Dot(written.change.author, written.change.seq, 0)
            self.clone.edit_entries(path, rule.policy, [(rule.level, Remove((dot,)))])

    def _judge(self, path: str, gone: int, before: int, what: str, switched: bool, removes: bool) -> guard.Hold | None:
        if path == CONFIG:
            return None
        limits = self.clone.config.guard
        return guard.judge_branch(switched, removes) or guard.judge_removal(gone, before, limits, what)


class _OnlyPrivate:
    """Words that were of level 0, without those that were shared as well: asked of all documents, so only on a hit."""

    def __init__(self, store: Store, words: set[tuple[str, str]]):
        self._store, self._words = store, words

    def __contains__(self, words: tuple[str, str]) -> bool:
        return words in self._words and words not in self._shared

    @cached_property
    def _shared(self) -> set[tuple[str, str]]:
        rows = self._store.execute("SELECT role, text FROM adds JOIN documents d ON d.n=doc WHERE private=0")
        return {row for row in rows if row in self._words}
