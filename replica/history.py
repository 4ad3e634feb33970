"""The past of documents: who changed what and when, a document as it was, what changed between, and bringing it back.

The past is replayed from the log into a scratch store in memory, by the code that keeps the present.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import NamedTuple

from replica import baselines, clock, intake
from replica.blocks import render, spaced
from replica.changes import Add, Change, Kind, Remove
from replica.clone import Clone
from replica.documents import Document, Documents, Entry
from replica.errors import DocumentNotFound, HistoryFolded, NotFound, UsageError, WrongPolicy
from replica.intake import Levelled
from replica.log import Stored
from replica.store import Store

# --- moments

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}  # seconds
_RELATIVE = re.compile(r"(\d{1,9})\s*([smhdw])(?:\s+ago)?")
_TO_THE_SECOND = re.compile(r".*:\d\d:\d\d(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE)


def parse_time(text: str, now_ms: int, zone: tzinfo | None = None) -> int:
    """The moment that a person means, in milliseconds since 1970.

    ISO 8601 (in `zone`, by default this machine's, where it names none), `10m`, `2h`, `3d`, `1w` (so long ago),
    `now`, `today` (since midnight), `yesterday` (a day ago). A time to the second means the end of that second, since
    it was likely read off a list that shows no more.

    Raises UsageError: none of these.
    """
    word = text.strip().lower()
    if found := _RELATIVE.fullmatch(word):
        return max(0, now_ms - int(found[1]) * _UNITS[found[2]] * 1000)
    if word == "now":
        return now_ms
    if word == "yesterday":
        return now_ms - 86_400_000
    try:
        if word == "today":
            moment = _zoned(datetime.fromtimestamp(now_ms / 1000, zone), zone)
            return round(moment.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
        moment = _zoned(datetime.fromisoformat(text.strip()), zone)
        past_epoch = (moment - datetime.fromtimestamp(0, moment.tzinfo)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is no time", hint="write it as 2026-03-01, 2026-03-01T14:30, 10m, 2h, 3d, 1w, today or yesterday"
        ) from None
    return max(0, past_epoch + (999 if _TO_THE_SECOND.fullmatch(text.strip()) else 0))


def _zoned(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is not None:
        return moment
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)


# --- the log, for people


class Row(NamedTuple):
    """One change, as `replica log` shows it. `time` is hybrid logical."""

    time: int
    author: bytes
    seq: int
    clone: str
    kind: str
    document: str | None
    summary: str
    added: int  # entries, or code units of a text
    removed: int
    private: bool


def log(clone: Clone, path: str | None = None, limit: int | None = 20) -> list[Row]:
    """The newest changes first: of one document, whatever its policies were, or of all.

    Raises DocumentNotFound: nothing was ever written to a document of this path.
    """
    where, parameters = "", []
    if path is not None:
        numbers = _numbers(clone, path)
        where, parameters = f"WHERE doc IN ({','.join('?' * len(numbers))})", numbers
    rows = clone.store.rows(
        f"SELECT n, author, body FROM changes {where} ORDER BY time DESC, n DESC LIMIT ?", (*parameters, limit or -1)
    )
    return [_row(clone, n, author, body) for n, author, body in rows]


def _numbers(clone: Clone, path: str) -> list[int]:
    numbers = [n for (n,) in clone.store.rows("SELECT n FROM documents WHERE path=?", (path,))]
    if not numbers:
        raise DocumentNotFound(f"no document {path!r} in this clone, now or ever", hint=near(clone, path))
    return numbers


def near(clone: Clone, path: str) -> str | None:
    """A hint that names the document which was likely meant, or None."""
    from difflib import get_close_matches

    known = [document.path for document in clone.documents.all()]
    same_name = [other for other in known if other.rpartition("/")[2] == path.rpartition("/")[2]]
    close = same_name or get_close_matches(path, known, n=1)
    return f"did you mean {close[0]!r}? `replica ls` lists the documents" if close else None


def _row(clone: Clone, n: int, author: int, body: bytes) -> Row:
    return opened(clone, n, author, body)[0]


def opened(clone: Clone, n: int, author: int, body: bytes) -> tuple[Row, Change]:
    """A row of the log's table, for people, and the change that it is."""
    from replica import changes

    change, who = changes.decode(body), clone.log.author_n(author)
    summary, added, removed = _SUMMARIES[change.kind](clone, change)
    return Row(
        change.time, who.id, change.seq, clone.author_name(who.id), _WORDS[change.kind],
        change.document[0] if change.document else None, summary, added, removed, who.private,
    ), change  # fmt: skip


def _entries_summary(_clone: Clone, change: Change) -> tuple[str, int, int]:
    count: Counter[str] = Counter()
    for op in change.payload:
        if isinstance(op, Add):
            part = "entries" if op.role == "entry" else "structure"
            count["edited" if op.kills else "added", part] += 1
        else:
            count["removed", "entries"] += 1
    added, edited, removed = (count[what, "entries"] for what in ("added", "edited", "removed"))
    parts = [f"{sign}{number}" for sign, number in (("+", added), ("−", removed), ("~", edited)) if number]
    if not parts:
        return "headings or prose", 0, 0
    return f"{' '.join(parts)} {'entry' if added + edited + removed == 1 else 'entries'}", added, removed


def _text_summary(_clone: Clone, change: Change) -> tuple[str, int, int]:
    from replica import yjs

    update = yjs.decode(change.payload)
    added = sum(insert.length for insert in update.inserts if insert.text is not None)
    removed = sum(gone.length for gone in update.deletes)
    return f"+{added} −{removed} characters", added, removed


def _import_summary(_clone: Clone, change: Change) -> tuple[str, int, int]:
    return f"+{len(change.payload)} characters, the first content", len(change.payload), 0


def _member_summary(clone: Clone, change: Change) -> tuple[str, int, int]:
    payload = change.payload
    if change.kind is Kind.GENESIS:
        return f"workspace {payload['workspace']} begins", 0, 0
    if change.kind is Kind.REMOVE:
        return f"{clone.author_name(payload['member'])} is out", 0, 0
    if change.kind is Kind.SUCCEED:
        return f"goes on for {clone.author_name(payload['old'])} ({payload['why']})", 0, 0
    return f"{payload['name']} is in", 0, 0


_WORDS = {
    Kind.GENESIS: "workspace", Kind.ADMIT: "admit", Kind.REMOVE: "remove", Kind.ENTRIES: "entries", Kind.TEXT: "text",
    Kind.IMPORT: "import", Kind.DELETE: "delete", Kind.REVIEW: "review", Kind.SUCCEED: "succeed",
}  # fmt: skip
_SUMMARIES = {
    Kind.GENESIS: _member_summary,
    Kind.ADMIT: _member_summary,
    Kind.REMOVE: _member_summary,
    Kind.SUCCEED: _member_summary,
    Kind.ENTRIES: _entries_summary,
    Kind.TEXT: _text_summary,
    Kind.IMPORT: _import_summary,
    Kind.DELETE: lambda _clone, change: ("deleted", 0, len(change.payload)),
    Kind.REVIEW: lambda _clone, change: (f"{len(change.payload)} looked at", 0, 0),
}


# --- a document as it was


class Past(NamedTuple):
    """A document as it was at one moment."""

    document: Document
    text: str
    entries: tuple[Entry, ...]
    private: bool = False  # a text that was of level 0 then


def at(clone: Clone, path: str, moment: int) -> Past:
    """The document of this path after all changes whose hybrid time is at most `moment`.

    Raises DocumentNotFound: there never was one. NotFound: there was none at that time.
    """
    numbers = _numbers(clone, path)
    _check_kept(clone, path, numbers, moment)
    store = Store.scratch()
    try:
        past = _replayed(clone, path, numbers, moment, store)
    finally:
        store.close()
    if past is None:
        raise NotFound(
            f"there was no document {path!r} at that time", hint=f"see its history with `replica log {path}`"
        )
    return past


def _check_kept(clone: Clone, path: str, numbers: list[int], moment: int) -> None:
    """Raises HistoryFolded: of that time nothing is kept."""
    kept_since = clone.store.value(
        f"SELECT max(time) FROM baselines WHERE doc IN ({','.join('?' * len(numbers))})", numbers
    )
    if kept_since is not None and moment < kept_since:
        when = datetime.fromtimestamp(clock.to_ms(kept_since) / 1000).strftime("%Y-%m-%d %H:%M")
        raise HistoryFolded(
            f"the history of {path!r} before {when} was folded away",
            hint="how long history is kept is said in replica.toml: [history] days",
        )


def _replayed(clone: Clone, path: str, numbers: list[int], moment: int, store: Store) -> Past | None:
    replay = baselines.Scratch(store)
    replay.log = clone.log  # who wrote, and what each change had seen
    documents = Documents(store, clone.log, replay)
    rows = clone.store.rows("SELECT n, path, policy, private FROM documents WHERE path=?", (path,))
    store.many("INSERT INTO documents(n, path, policy, private) VALUES(?,?,?,?)", rows)
    for doc in numbers:
        replay.begin(doc, baselines.of(clone.store, clone.log, doc))
    for stored in _until(clone, numbers, moment):
        replay.apply(stored)
    for document in documents.all():
        entries = () if document.policy == "text" else tuple(documents.entries(document))
        private = document.policy == "text" and documents.shown_text(document) != document.shared
        return Past(document, documents.text(document), entries, private)
    return None


def _until(clone: Clone, numbers: list[int], moment: int) -> Iterator[Stored]:
    """The changes of documents up to `moment`, without any that builds on one that is later."""
    from replica import changes

    rows = clone.store.rows(
        f"SELECT n, author, body FROM changes WHERE doc IN ({','.join('?' * len(numbers))}) ORDER BY n", numbers
    )
    left_out: dict[int, int] = {}  # author's row: the first of its changes that is too late
    for n, author, body in rows:
        stored = Stored(n, clone.log.author_n(author), changes.decode(body))
        seq = stored.change.seq
        # A clock that ran far ahead is not followed by the others (replica/clock.py): what builds on it has an
        # earlier time, and still cannot be had without it.
        builds_on = any(author == a or clone.log.past(author, seq, a) >= first for a, first in left_out.items())
        if stored.change.time > moment or builds_on:
            left_out.setdefault(author, seq)
        else:
            yield stored


def text_at(clone: Clone, path: str, moment: int) -> str:
    """A document's content after all changes up to the hybrid time `moment`. Raises as `at`."""
    return at(clone, path, moment).text


def before_last(clone: Clone, path: str) -> int:
    """The hybrid time just before the newest change to a document. Raises DocumentNotFound."""
    numbers = _numbers(clone, path)
    where = f"doc IN ({','.join('?' * len(numbers))})"
    newest = clone.store.value(f"SELECT max(time) FROM changes WHERE {where}", numbers)
    if newest is None:
        newest = clone.store.value(f"SELECT max(time) FROM baselines WHERE {where}", numbers)
    return newest - 1


# --- what changed between


class Difference(NamedTuple):
    """`lines`: a unified diff, each line with its newline. `added` and `removed` count lines."""

    lines: tuple[str, ...]
    added: int
    removed: int


def diff(clone: Clone, path: str, since: int, until: int, names: tuple[str, str] = ("before", "after")) -> Difference:
    """What changed in a document between two hybrid times; where there was none, it counts as empty.

    Raises DocumentNotFound: there never was one.
    """
    from difflib import unified_diff

    old, new = (_text_or_none(clone, path, moment) for moment in (since, until))
    lines = list(
        unified_diff(old.splitlines(True), new.splitlines(True), f"{path} ({names[0]})", f"{path} ({names[1]})")
    )
    body = lines[2:]
    whole = tuple(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return Difference(whole, sum(x[0] == "+" for x in body), sum(x[0] == "-" for x in body))


def _text_or_none(clone: Clone, path: str, moment: int) -> str:
    try:
        return text_at(clone, path, moment)
    except (DocumentNotFound, HistoryFolded):
        raise
    except NotFound:
        return ""


# --- bringing it back


def restore(clone: Clone, path: str, moment: int) -> bool:
    """Make a document what it was at `moment`, as a new change; whether there was anything to do.

    Raises:
        DocumentNotFound, NotFound: as `at`.
        WrongPolicy: a log only grows, what is shared now was of level 0 then, or it was a text and is entries now;
            nothing was changed.
    """
    with clone.transaction():
        past = at(clone, path, moment)
        document = _now(clone, past)
        if document.alive and clone.documents.text(document) == past.text:
            return False
        if document.policy == "log" and document.alive:
            raise WrongPolicy(
                f"{path!r} is a log, and a log only grows",
                hint=f"read it as it was with `replica show {path} --at TIME`",
            )
        if document.policy != past.document.policy:
            _refuse_what_does_not_fit(document, past)
        if document.policy == "text":
            _restore_text(clone, document, past)
            return True
        ops = (
            _restoring_one(clone, document, past) if document.policy == "latest" else _restoring(clone, document, past)
        )
        if ops:
            clone.edit_entries(path, document.policy, ops)
        return bool(ops)


def _refuse_what_does_not_fit(document: Document, past: Past) -> None:
    """A text has no entries of level 0, so they would be shared in it; and of a text no entries are known."""
    if document.policy == "text" and not any(entry.private for entry in past.entries):
        return
    then = past.document.policy + (" with entries of level 0" if any(entry.private for entry in past.entries) else "")
    raise WrongPolicy(
        f"{document.path!r} was of policy {then} then, and is of policy {document.policy} now",
        hint=f"see it with `replica show {document.path} --at TIME`, and save what may be shared",
    )


def _restore_text(clone: Clone, document: Document, past: Past) -> None:
    is_private = clone.documents.shown_text(document) != document.shared
    level = _level_of_one(clone, document, past.private, is_private)
    clone.edit_text(document.path, new=past.text, level=level)


def _restoring_one(clone: Clone, document: Document, past: Past) -> list[Levelled]:
    """The operations that bring back one version of a document of policy `latest`."""
    shown, live = clone.documents.entries(document), clone.documents.versions(document)
    was_private, is_private = (any(entry.private for entry in entries) for entries in (past.entries, live))
    level = _level_of_one(clone, document, was_private, is_private)
    text = render(spaced((entry.block for entry in past.entries), "latest"))
    blocks, ids = spaced((entry.block for entry in shown), "latest"), [entry.id for entry in shown]
    known, seen = known_ids(clone, document), clone.log.last_row()
    return intake.save(blocks, ids, text, "latest", live, known, seen, level).ops


def _level_of_one(clone: Clone, document: Document, was_private: bool, is_private: bool) -> int:
    """Nothing that was or is of level 0 comes to the others by bringing it back, nor goes what they have."""
    if was_private and document.alive and not is_private:
        raise WrongPolicy(
            f"{document.path!r} was for this clone alone then (level 0), and is shared now",
            hint=f"see it with `replica show {document.path} --at TIME`, and save what may be shared",
        )
    rule = clone.rule(document.path)
    return 0 if was_private or is_private or (rule is not None and rule.level == 0) else rule.level if rule else 1


def _now(clone: Clone, past: Past) -> Document:
    """The document to write to: the live one of that path, or the one that was deleted."""
    try:
        return clone.document(past.document.path)
    except DocumentNotFound:
        return clone.documents.find(past.document.path, past.document.policy)


def _restoring(clone: Clone, document: Document, past: Past) -> list[Levelled]:
    """The operations that a person would make by saving the old text, each entry at the level it had."""
    documents = clone.documents
    rule = clone.rule(document.path)
    level = rule.level if rule else 1
    shown = documents.entries(document)
    known, seen = known_ids(clone, document), clone.log.last_row()

    def saved(keep: Callable[[Entry], bool], level: int) -> list[Levelled]:
        base = [entry for entry in shown if keep(entry)]
        text = render(spaced((e.block for e in past.entries if keep(e)), document.policy))
        blocks, ids = spaced((e.block for e in base), document.policy), [e.id for e in base]
        of_them = [entry for entry in shown if keep(entry)]
        return intake.save(blocks, ids, text, document.policy, of_them, known, seen, level).ops

    secret = {(entry.role, entry.text) for entry in past.entries if entry.private}
    if level == 0 or not (secret or any(entry.private for entry in shown)):
        return saved(lambda entry: True, level)
    shared = saved(lambda entry: not entry.private, level)
    return shared + _private_part(saved(lambda entry: True, 0), secret)


def _private_part(ops: list[Levelled], secret: set[tuple[str, str]]) -> list[Levelled]:
    """Of a whole save, what it does to entries of level 0, and the adding of those that were of level 0 then."""
    result: list[Levelled] = []
    for level, op in ops:
        kills = op.kills if level == 0 else ()  # what is shared goes by a shared operation
        if isinstance(op, Add) and (op.role, op.text) in secret:
            result.append((0, op._replace(kills=kills)))
        elif kills:
            result.append((0, Remove(kills)))
    return result


def known_ids(clone: Clone, document: Document) -> set[bytes]:
    """The ids of all blocks that a document ever had, its private ones too."""
    rows = clone.store.rows("SELECT DISTINCT id FROM adds WHERE doc IN (?,?)", (document.shared, document.private))
    return {id for (id,) in rows}


def moment_of(text: str, now_ms: int) -> int:
    """The last hybrid time of the moment that a person wrote. Raises UsageError."""
    return clock.from_ms(parse_time(text, now_ms), last=True)
