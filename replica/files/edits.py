"""What a file says becomes changes to its document, as far as a person did it and the guard lets it through.

Entries by replica/intake.py, texts by replica/textdiff.py. Nothing here reads or writes a file.
"""

from collections import defaultdict
from functools import cached_property

from replica import guard, intake, levels, markers
from replica.blocks import parse
from replica.changes import Add, Dot, Kind, Remove
from replica.clone import Clone
from replica.decisions import settled_by_hand
from replica.documents import Document
from replica.files.bases import Bases, Row
from replica.likeness import Texts, normal, told
from replica.places import CONFIG
from replica.withheld import Withheld

# An editor that empties a file first may write its lines back in other words: so many of the last changes that a clone
# made to a document are looked at for what they took away. Clocks jump; so this is no time.
LAST = 20
RARE = 16  # letters of a text


class Edits:
    """Edits the documents of one clone."""

    def __init__(self, clone: Clone, bases: Bases, withheld: Withheld):
        self.clone, self.store, self.root = clone, clone.store, clone.root
        self.bases, self.withheld = bases, withheld
        self._private_texts = (frozenset(), Texts(()))

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
        hold = self._left_behind(path, current if document.alive else "", text) if rule.level else None
        if hold is not None and not force:
            return hold
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

    def _left_behind(self, path: str, before: str, text: str) -> guard.Hold | None:
        """What was of level 0 here when the document had entries, an editor may put into the text that it is now."""
        rows = self.store.rows(
            "SELECT text FROM adds JOIN documents d ON d.n=doc WHERE path=? AND policy<>'text' AND private=1", (path,)
        )
        if not rows:
            return None
        private, old = Texts(text for (text,) in rows), before.split("\n")
        shared, near = Texts(old), set(private.all)
        lines = set(text.split("\n")) - set(old)
        return guard.judge_sharing(sum(bool(told(private, line, near, lambda: shared)) for line in lines), "text")

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
            saved = intake.first_sight(text, rule.policy, live, known, rule.level, past)
            ops = saved.ops
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
            if rule.policy == "latest" and rule.level:
                left = [dot for entry in documents.superseded(document) for dot in entry.dots]
                ops = [(level, op._replace(kills=(*op.kills, *left))) for level, op in ops]
        if ops:
            with self.clone.transaction():
                sure = past.sure() if rule.level else ()
                known = [op for _, op in ops if isinstance(op, Add) and (op.role, op.text) in sure]
                self.clone.edit_entries(path, rule.policy, ops)
                self.withheld.drop(path, known)
                self.withheld.note(path, saved.doubted)
        return None

    def _past(self, document: Document) -> levels.Past:
        """What levels are judged by.

        Of level 0 is what ever was so in this clone, amid documents that are shared: to copy a line from a document
        that is of level 0 as a whole is to share it.
        """
        private = _Private(self.clone)
        undecided = self.withheld.words() if private.words else set()

        def sure() -> "_But":
            mine = {words for words in private.words if document.path in private.words[words] or _is_rare(words)}
            return _But(mine - undecided, private)

        return levels.Past(
            lambda: self._texts(frozenset(private.words)), sure,
            lambda: {normal(text) for _, text in self._gone_lately(document, document.private)},
            lambda texts: texts - private.only,
            lambda: set(self.store.rows("SELECT role, text FROM adds WHERE doc=?", (document.shared,))),
            lambda: self._gone_lately(document, document.shared), self._is_shared,
            document.policy == "latest",
        )  # fmt: skip

    def _is_shared(self, words: tuple[str, str]) -> bool:
        sql = "SELECT 1 FROM adds JOIN documents d ON d.n=doc WHERE private=0 AND role=? AND text=? LIMIT 1"
        return self.store.value(sql, words) is not None

    def _texts(self, words: frozenset[tuple[str, str]]) -> Texts:
        if self._private_texts[0] != words:
            self._private_texts = (words, Texts(text for _, text in words))
        return self._private_texts[1]

    def _gone_lately(self, document: Document, doc: int | None) -> set[tuple[str, str]]:
        """Roles and texts of the blocks that this clone's last changes of a document took out of one of its chains."""
        me = self.clone.log.author(self.clone.identity.id)
        after = me and self.store.value(
            "SELECT min(n) FROM (SELECT n FROM changes WHERE doc=? OR (doc=? AND author=?) ORDER BY n DESC LIMIT ?)",
            (document.private, document.shared, me.n, LAST),
        )
        found: set[tuple[str, str]] = set()
        for stored in self.clone.log.changes_of(doc, after - 1) if after is not None else ():
            if doc == document.shared and stored.author is not me:
                continue
            if stored.change.kind is Kind.DELETE:
                found.update(self.store.rows("SELECT role, text FROM adds WHERE doc=? AND change<?", (doc, stored.n)))
            elif stored.change.kind is Kind.ENTRIES:
                for dot in (dot for op in stored.change.payload for dot in op.kills):
                    author = self.clone.log.author(dot.author)
                    find = "SELECT role, text FROM adds WHERE author=? AND seq=? AND idx=?"
                    found.update(self.store.rows(find, (author.n, dot.seq, dot.index)) if author else ())
        return found

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


class _Private:
    """The words of all entries that were ever of level 0 amid shared documents, and which of them others have too."""

    def __init__(self, clone: Clone):
        self._clone = clone

    @cached_property
    def words(self) -> dict[tuple[str, str], set[str]]:
        """Roles and texts, with the paths of their documents."""
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        rules: dict[str, int] = {}
        sql = "SELECT path, role, text FROM adds JOIN documents d ON d.n=doc WHERE private=1"
        for path, role, text in self._clone.store.rows(sql):
            if path not in rules:
                rule = self._clone.rule(path)
                rules[path] = 1 if rule is None else rule.level
            if rules[path]:
                found[role, text].add(path)
        return found

    @cached_property
    def shared(self) -> set[tuple[str, str]]:
        """This asks all documents, so it is for those saves alone in which such words come."""
        sql = "SELECT role, text FROM adds JOIN documents d ON d.n=doc WHERE private=0"
        return {words for words in self._clone.store.execute(sql) if words in self.words}

    @cached_property
    def only(self) -> set[str]:
        """The normal forms of what nobody else has."""
        return {normal(text) for role, text in self.words if (role, text) not in self.shared}


class _But:
    """Words of level 0 without those that others have."""

    def __init__(self, words: set[tuple[str, str]], private: _Private):
        self._words, self._private = words, private

    def __contains__(self, words: object) -> bool:
        return words in self._words and words not in self._private.shared


def _is_rare(words: tuple[str, str]) -> bool:
    """Whether nobody writes this by chance: in any document, it is of level 0 again."""
    return len(normal(words[1])) >= RARE
