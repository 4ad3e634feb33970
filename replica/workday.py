"""The working day of a clone: where a session begins and ends, what a person or agent needs to go on, the log's line.

Plain data; replica/briefing.py makes a page of it, and transport/workday.py meets the peers.
"""

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from replica import clock, copies, paths, status, withheld, writing
from replica.changes import Add, Kind
from replica.clone import Clone
from replica.documents import Document, Entry
from replica.errors import DamagedRecord, UsageError, WrongPolicy
from replica.places import CONFIG, FOLDER

UNSAVED = 12 * 3_600_000  # milliseconds after which a session that was not saved is over
LOOKED_AT = 1_000  # of the changes since the last session, the newest that are opened for what they hold
ENTRIES = 40  # of one document, the newest that are shown
OPENED = 50  # documents that others changed and whose new entries are shown; of the others it is counted
LISTED = 300  # documents that others changed
NAMED = 6  # documents in a line of the log
LOG = "SESSION_LOG.md"
CONTEXT, INBOX = "activecontext", "decisions-inbox"
MAX_PERSONA = 64


# --- a session


class Session(NamedTuple):
    """Rows of the log, and milliseconds since 1970.

    `since`: what was seen before this session. `first`: there was none before. `opened`: where its own changes begin.
    `seen`: what the person has seen or had in files by now.
    """

    since: int
    opened: int
    seen: int
    began: int
    ended: int | None = None
    before: int | None = None  # when the one before ended
    first: bool = True


def session(clone: Clone) -> Session | None:
    """The last one that was begun, if any."""
    try:
        return Session(**json.loads(clone.store.meta("session", "")))
    except (ValueError, TypeError):
        return None


def begin(clone: Clone, now_ms: int) -> Session:
    """Begin a session, or go on with one that was not saved. Call it before anything is taken in."""
    last, row = session(clone), clone.log.last_row()
    if last is not None and last.ended is None and 0 <= now_ms - last.began < UNSAVED:
        return last
    if last is None:
        return Session(0, row, row, now_ms)
    return Session(last.seen, row, row, now_ms, None, last.ended or last.began, first=False)


def keep(clone: Clone, current: Session) -> None:
    with clone.transaction():
        clone.store.set_meta("session", json.dumps(current._asdict()))


def persona(clone: Clone, given: str | None = None) -> str:
    """Who works here: `given` is remembered, "" forgets. Raises UsageError: it is no name."""
    if given is None:
        return clone.store.meta("persona", "")
    if len(given) > MAX_PERSONA or not given.isprintable() or given != given.strip() or "/" in given:
        raise UsageError(
            f"{given!r} is no name for a persona", hint=f"use up to {MAX_PERSONA} printable characters, without a slash"
        )
    if given != clone.store.meta("persona", ""):
        with clone.transaction():
            clone.store.set_meta("persona", given)
    return given


# --- what is told


class Quote(NamedTuple):
    """Words of a member. `time` is hybrid; `id` of the entry, or the name of a version. `cut`: characters left out."""

    text: str
    clone: str
    time: int
    id: str = ""
    private: bool = False
    cut: int = 0


class Item(NamedTuple):
    """One thing that a section tells. `what`: our words about it; `facts`: the same for programs."""

    document: str
    what: str = ""
    quotes: tuple[Quote, ...] = ()
    facts: Mapping[str, Any] = MappingProxyType({})


class Section(NamedTuple):
    """`more`: the command that shows all of it. `left`: items that were left out, `cut` characters of the others."""

    name: str
    title: str
    items: tuple[Item, ...]
    more: str
    left: int = 0
    cut: int = 0
    note: str = ""


@dataclass(frozen=True)
class Brief:
    """All that `replica start` prints; `head` for programs, `lines` the same for people."""

    head: dict[str, Any]
    lines: tuple[str, ...]
    sections: tuple[Section, ...] = field(default=())


def sections(clone: Clone, current: Session, who: str, most: int) -> tuple[Section, ...]:
    """`who`: the persona, or "". `most`: no text is longer than this."""
    alive = clone.documents.latest_changes()
    contexts, others_contexts = _of(clone, alive, CONTEXT, who)
    inboxes, others_inboxes = _of(clone, alive, INBOX, who)
    since = "" if current.first or current.before is None else f" ({_minute(current.before)})"
    changed = _changed(clone, current, who, {document.path for document in (*contexts, *inboxes)}, most)
    return (
        Section("context", "Active context", _contexts(clone, contexts, most), "replica show DOCUMENT",
                note=_left_out(others_contexts)),
        Section("changes", "Others' changes " + ("so far" if current.first else f"since the last session{since}"),
                tuple(changed[:LISTED]), "replica log", left=max(0, len(changed) - LISTED)),
        Section("conflicts", "Open conflicts", _conflicts(clone, most), "replica conflicts"),
        Section("buffers", "Buffers to harvest", _buffers(clone, who), "replica status"),
        Section("decisions", "Decisions that wait", _decisions(clone, inboxes, most), "replica show DOCUMENT",
                note=_left_out(others_inboxes)),
        Section("held", "Held back", _held(clone), "replica status"),
    )  # fmt: skip


def _minute(ms: int) -> str:
    return clock.to_text(clock.from_ms(ms))


def _left_out(paths: list[str]) -> str:
    if not paths:
        return ""
    return f"{len(paths)} of other personas left out" if len(paths) > 1 else "1 of another persona left out"


# --- whose a document is


def _of(
    clone: Clone, alive: Iterable[tuple[str, str]], stem: str, who: str
) -> tuple[list[Document], list[str]]:  # fmt: skip
    """The live documents of that name, the persona's own first, and the paths of those that are another's.

    `alive`: paths and policies.
    """
    named = [(p, policy) for p, policy in alive if _stem(p) == stem or _stem(p).startswith(f"{stem}-")]
    chosen = [(_standing(path, stem, who), path.count("/"), path, policy) for path, policy in named]
    return (
        [clone.documents.find(path, policy) for standing, _, path, policy in sorted(chosen) if standing < 2],
        [path for standing, _, path, _ in chosen if standing == 2],
    )


def _stem(path: str) -> str:
    name, dot, ending = posixpath.basename(path).casefold().rpartition(".")
    return name if dot and ending == "md" else ""


def _standing(path: str, stem: str, who: str) -> int:
    """0: the persona's own, 1: everybody's, 2: another's. Without a persona everything is everybody's."""
    folders = [part.casefold() for part in path.split("/")[:-1]]
    suffix = _stem(path)[len(stem) + 1 :] if _stem(path).startswith(stem) else ""
    if not who:
        return 1
    if who.casefold() in (*folders, suffix):
        return 0
    return 2 if suffix or "personas" in folders[:-1] else 1


# --- the sections


def _shown(clone: Clone, document: Document) -> list[Entry]:
    try:
        return clone.documents.entries(document)
    except DamagedRecord:
        return []  # listed among the files that are passed over


def _contexts(clone: Clone, documents: list[Document], most: int) -> tuple[Item, ...]:
    items = []
    for document in documents:
        try:
            text = clone.documents.text(document)
        except DamagedRecord:
            continue
        changed, by, private = clone.store.row(
            "SELECT changed_at, changed_by, private FROM documents WHERE n IN (?,?) ORDER BY changed DESC LIMIT 1",
            (document.shared, document.private),
        )
        if text.strip() and by is not None:
            author = clone.author_name(clone.log.author_n(by).id)
            items.append(Item(document.path, "", (_cut(text, author, changed, private=bool(private), most=most),)))
    return tuple(items)


def _cut(text: str, author: str, time: int, id: str = "", *, private: bool = False, most: int) -> Quote:
    return Quote(text[:most], author, time, id, private, max(0, len(text) - most))


def _quote(clone: Clone, entry: Entry, most: int) -> Quote:
    author = clone.author_name(entry.author)
    return _cut(entry.text, author, entry.time, entry.id.hex(), private=entry.private, most=most)


def ours(clone: Clone) -> set[bytes]:
    """The authors that this clone is, or was."""
    return {identity.id for identity in copies.identities(clone)} | {clone.private.id}


def _changed(clone: Clone, current: Session, who: str, told: set[str], most: int) -> list[Item]:
    """Per document, by whom; the persona's documents first, then the newest. `told`: documents shown elsewhere."""
    mine = {author.n for author in clone.log.authors() if author.id in ours(clone)}
    rows = clone.store.rows(
        "SELECT doc, author, count(*), max(time), max(n) FROM changes WHERE n>? GROUP BY doc, author", (current.since,)
    )
    by_doc: dict[int | None, list[tuple]] = defaultdict(list)
    for doc, author, *rest in rows:
        if author not in mine:
            by_doc[doc].append((author, *rest))
    done = _done(clone, current.since, mine)
    found = [(doc, of, *_place(clone, doc)) for doc, of in by_doc.items()]
    found.sort(key=lambda one: (_standing(one[2], "", who) if one[2] else 3, -max(row[2] for row in one[1])))
    items = []
    for doc, of, path, policy in found:
        clones = [
            {"clone": clone.author_name(clone.log.author_n(author).id), "changes": count, "time": time}
            for author, count, time, _ in sorted(of, key=lambda row: -row[2])
        ]
        apart = path in (*told, CONFIG, "") or len(items) >= OPENED
        quotes = () if apart else _news(clone, path, policy, current.since, most)
        items.append(Item(path, done(doc), quotes, {"clones": clones}))
    return items


def _place(clone: Clone, doc: int | None) -> tuple[str, str]:
    """Path and policy of a row of `documents`; empty for what concerns no document: who belongs."""
    return ("", "") if doc is None else clone.store.row("SELECT path, policy FROM documents WHERE n=?", (doc,))


def _done(clone: Clone, since: int, mine: set[int], *, own: bool = False) -> Callable[[int | None], str]:
    """What the newest changes behind a row did, by document; of others, or with `own` of this clone alone."""
    from replica import history

    summed: dict[int | None, Counter[str]] = defaultdict(Counter)
    said: dict[int | None, list[str]] = defaultdict(list)
    rows = clone.store.rows(
        "SELECT n, author, doc, body FROM changes WHERE n>? ORDER BY n DESC LIMIT ?", (since, LOOKED_AT)
    )
    for n, author, doc, body in rows:
        if (author in mine) != own:
            continue
        row, change = history.opened(clone, n, author, body)
        if change.kind is Kind.ENTRIES:
            for op in change.payload:
                if not isinstance(op, Add):
                    summed[doc]["removed"] += 1
                elif op.role == "entry":
                    summed[doc]["edited" if op.kills else "added"] += 1
        elif change.kind in (Kind.TEXT, Kind.IMPORT):
            summed[doc]["characters added"] += row.added
            summed[doc]["characters removed"] += row.removed
        elif row.summary not in said[doc]:
            said[doc].append(row.summary)

    def words(doc: int | None) -> str:
        counts = [f"{number:,} {what}" for what, number in summed[doc].items() if number]
        told = list(reversed(said[doc][:5]))
        gone = doc is not None and not clone.store.value("SELECT 1 FROM alive WHERE doc=?", (doc,))
        return ", ".join([*counts, *told] if gone else [*told, *counts])

    return words


def _news(clone: Clone, path: str, policy: str, since: int, most: int) -> tuple[Quote, ...]:
    """The entries that others wrote since, the newest first. A text has none: its diff is a command away."""
    if policy == "text":
        return ()
    mine, rule = ours(clone), clone.rule(path)
    entries = _shown(clone, clone.documents.find(path, policy)) if rule is None or rule.policy == policy else []
    new = [e for e in entries if e.role == "entry" and e.author not in mine and max(e.rows) > since]
    new.sort(key=lambda entry: entry.key, reverse=True)
    return tuple(_quote(clone, entry, most) for entry in new[:ENTRIES])


def _conflicts(clone: Clone, most: int) -> tuple[Item, ...]:
    items = []
    for conflict in clone.documents.all_conflicts():
        quotes = tuple(
            _cut(v.text, clone.author_name(v.clone) if v.clone else "", v.time, v.version, most=most)
            for v in conflict.versions
        )
        items.append(_conflict(conflict, quotes))
    if has_ledger(clone):
        from replica.cloud import decide

        for one in decide.conflicts(clone):
            here, there = one.conflict.versions
            quotes = (
                _cut(here.text, clone.name, here.time, here.version, most=most),
                _cut(there.text, one.sink, there.time, there.version, most=most),
            )
            items.append(_conflict(one.conflict, quotes))
    return tuple(items)


def _conflict(conflict, quotes: tuple[Quote, ...]) -> Item:
    kinds = {"document": "versions of one text", "entry": "edits of one entry", "region": "edits of one place",
             "cloud": "an edit in a service against one here"}  # fmt: skip
    keep = next((quote.id for quote in quotes if quote.id != "merged"), "v1")
    what = f"{kinds.get(conflict.kind, conflict.kind)}; settle: replica resolve {conflict.id} --keep {keep}"
    return Item(conflict.path, what, quotes, {"id": conflict.id, "kind": conflict.kind})


def has_ledger(clone: Clone) -> bool:
    """Whether anything was ever exported. What knows more of that is slow to load."""
    return (clone.root / FOLDER / "cloud.db").is_file()


def _buffers(clone: Clone, who: str) -> tuple[Item, ...]:
    names = {clone.name.casefold(), *([who.casefold()] if who else [])}
    found = []
    for row in status.harvest(clone):
        rule = clone.rule(row["document"])
        owner = (rule and rule.harvest and rule.harvest.owner) or None
        yours = owner is not None and owner.casefold() in names
        due = "due" if row["value"] >= row["threshold"] else "soon"
        whose = "" if owner is None else ", yours" if yours else f", for {owner}"
        what = f"{due}{whose}: {row['value']:,} of {row['threshold']:,} {row['measure']}, into {row['into']}"
        found.append((0 if yours else 1 if owner is None else 2, -row["share"],
                      Item(row["document"], what, (), {**row, "owner": owner, "yours": yours})))  # fmt: skip
    return tuple(item for *_, item in sorted(found, key=lambda one: (*one[:2], one[2].document)))


def _decisions(clone: Clone, inboxes: list[Document], most: int) -> tuple[Item, ...]:
    items = []
    for document in inboxes:
        if document.policy == "text":
            continue
        quotes = _under_headings(clone, _shown(clone, document), most)
        if quotes:
            count = "1 entry" if len(quotes) == 1 else f"{len(quotes)} entries"
            items.append(Item(document.path, count, quotes, {"entries": len(quotes)}))
    return tuple(items)


def _under_headings(clone: Clone, entries: list[Entry], most: int) -> tuple[Quote, ...]:
    """The entries in their order; the first below a heading brings it along: a decision is often titled by one."""
    quotes, heading = [], ""
    for entry in entries:
        if entry.role == "entry":
            quotes.append(_quote(clone, entry._replace(text=heading + entry.text), most))
        heading = f"{entry.text}\n\n" if entry.role == "heading" else ""
    return tuple(quotes)


def _held(clone: Clone) -> tuple[Item, ...]:
    rows = clone.store.rows("SELECT path, reason, what FROM held ORDER BY path")
    rows += [(row["path"], row["reason"], row["what"]) for row in withheld.rows(clone)]
    if has_ledger(clone):
        from replica.cloud import decide

        rows += [(row["path"], row["reason"], row["what"]) for row in decide.held(clone)]
    return tuple(
        Item(path, f"{what} (replica accept, or replica reject)", (), {"reason": reason, "what": what})
        for path, reason, what in rows
    )


# --- the session log


class Logged(NamedTuple):
    document: str
    line: str


def log_line(clone: Clone, message: str | None, since: int, now_ms: int) -> Logged | None:
    """Add a line to the session log; None: nothing to say, or nowhere to say it (`log_path`)."""
    path, said = log_path(clone), (message or "").strip() or did(clone, since)
    if path is None or not said:
        return None
    who = persona(clone)
    when = _minute(now_ms).removesuffix(" UTC") + "Z"
    line = f"- {when} {clone.name}{f' ({who})' if who else ''}: {said}"
    other = next((d.path for d in clone.documents.all() if paths.clash_key(d.path) == paths.clash_key(path)), path)
    if other != path:
        raise WrongPolicy(
            f"{other!r} has the place of {path!r}, and is no log",
            hint='`replica migrate` renames it; or make it a log in replica.toml: policy = "log"',
        )
    try:
        return Logged(path, writing.add(clone, path, line).text)
    except UsageError:  # something is left open in it, such as a code fence
        return Logged(path, writing.add(clone, path, " ".join(line.split())).text)


def log_path(clone: Clone) -> str | None:
    """The document of policy log that sessions are noted in, or where it would be made; None: no rule makes one."""
    who = persona(clone)
    alive = clone.documents.latest_changes()
    logs = [path for path, policy in alive if policy == "log" and _is_log(clone, path)]
    named = [path for path in logs if posixpath.basename(path).casefold() == LOG.casefold()]
    if named or logs:
        return min(named or logs, key=lambda path: (_standing(path, "", who), path.count("/"), path))
    contexts, _ = _of(clone, alive, CONTEXT, who)
    folders = [posixpath.dirname(document.path) for document in contexts]
    places = (posixpath.join(folder, LOG) for folder in (*folders, ""))
    return next((path for path in places if _is_log(clone, path)), None)


def _is_log(clone: Clone, path: str) -> bool:
    rule = clone.rule(path)
    return rule is not None and rule.policy == "log"


def did(clone: Clone, since: int) -> str:
    """What this clone itself changed behind that row, for a line that others read: nothing of level 0."""
    mine = {author.n for author in clone.log.authors() if author.id in ours(clone) and not author.private}
    if not mine:
        return ""
    marks = ",".join("?" * len(mine))
    rows = clone.store.rows(
        f"SELECT doc, max(n) FROM changes WHERE n>? AND doc IS NOT NULL AND author IN ({marks}) GROUP BY doc"
        " ORDER BY 2 DESC", (since, *mine),
    )  # fmt: skip
    done = _done(clone, since, mine, own=True)
    parts = [f"{path} ({words})" if (words := done(doc)) else path for doc, path in _log_free(clone, rows)]
    more = f" and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return ", ".join(parts[:NAMED]) + more


def _log_free(clone: Clone, rows: Iterable[tuple[int, int]]) -> list[tuple[int, str]]:
    """Without the session log itself."""
    log = log_path(clone)
    places = ((doc, _place(clone, doc)[0]) for doc, _ in rows)
    return [(doc, path) for doc, path in places if path != log]
