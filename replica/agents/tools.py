"""What the tools of replica/agents/toolbox.py do: arguments in, an answer out, never an exception. No protocol here.

Each call opens the clone for itself: nothing is held between calls, so a clone that was restored, has come back under a
new identity or lies elsewhere by now is met as it is, and several servers share it as any processes do.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any

from replica import clock, decisions, folder, history, markers, page, paths, status, writing
from replica.agents import toolbox
from replica.agents.answers import (
    MARGIN,
    Answer,
    Row,
    excerpt,
    failure,
    iso,
    listing,
    origin,
    passage,
    shown_range,
    size,
)
from replica.agents.toolbox import BY_AGENT, BY_NAME, USUAL, Desk
from replica.blocks import ENTRY, render, spaced
from replica.bridge import Bridge
from replica.clone import Clone
from replica.documents import Document, Entry
from replica.errors import DocumentNotFound, NotFound, ReplicaError, UsageError, WrongPolicy
from replica.places import CONFIG
from replica.quoting import label, quoted, visible

log = logging.getLogger("replica.mcp")

EXCERPT = 400  # characters of what was found
SHORT = 12  # hex digits that name an entry
FILTERED = 1_000  # hits that are looked through for those below a folder
EVERY = 1_000_000  # documents that are looked through for a list
NAMED = 20  # held files, buffers or peers in a status


class Refused(ReplicaError):
    """Nothing was written. `fields`: what to know for the next try."""

    def __init__(self, message: str, *, hint: str, **fields: Any):
        super().__init__(message, hint=hint)
        self.fields = fields


def call(desk: Desk, name: str, arguments: Any) -> Answer:
    """What a tool answers. Whatever goes wrong is an answer too."""
    try:
        tool = BY_NAME[name]
        given = toolbox.checked(tool, arguments)
        if tool.changes and desk.read_only:
            raise Refused("this server only reads (--read-only)", hint="a person can start it without that option")
        with desk.open() as clone:
            clone.log.refresh()
            return _bounded(_FUNCTIONS[name](desk, clone, given), given.get("max_chars", USUAL))
    except Refused as error:
        return failure(str(error), _hint(error), **error.fields)
    except ReplicaError as error:
        return failure(str(error), _hint(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return failure(f"{where}{error.strerror or error}", "check that the clone's folder is there and can be written")
    except Exception as error:  # the agent must not wait for ever, nor the server end; the fault goes to stderr
        log.exception("%s failed", name)
        return failure(f"unforeseen: {type(error).__name__}: {error}", "a fault of the program; its stderr says where")


def _bounded(answer: Answer, most: int) -> Answer:
    return answer if len(answer.text) <= most else answer._replace(text=answer.text[: most - 2] + "…\n")


_TOOL_FOR = {
    "`replica ls`": "memory_list", "`replica conflicts`": "memory_conflicts", "`replica status`": "memory_status",
    "or - to read it from stdin": "nothing else", "edit the file and save; the newest one counts": "use memory_write",
    "--keep v1, or --text TEXT": "keep or text",
}  # fmt: skip


def _hint(error: ReplicaError) -> str:
    """The way out, as an agent can go it."""
    hint = error.hint
    for command, tool in _TOOL_FOR.items():
        hint = hint.replace(command, tool)
    return hint


# --- which document, which entry


def _path(clone: Clone, given: str) -> str:
    """The path of a document: below the clone's folder, or the whole path of its file. Raises UnsafePath."""
    if os.path.isabs(given):
        place = os.path.normpath(given)
        for top in (os.path.normpath(clone.root), os.path.realpath(clone.root)):
            if place.startswith(top + os.sep):
                given = place[len(top) + 1 :].replace(os.sep, "/")
                break
    return paths.normal(given.removeprefix("./"))


def _document(clone: Clone, path: str) -> Document:
    """The live document. Raises DocumentNotFound, with the nearest name."""
    try:
        return clone.document(path)
    except DocumentNotFound as error:
        error.hint = history.near(clone, path) or "memory_list shows what there is"
        raise


def _take_in(desk: Desk, clone: Clone, path: str) -> None:
    """What was saved in the file, and the rules for it, come first: where no node runs, nobody has taken them in."""
    if desk.read_only or not (_is_saved(clone, CONFIG) or _is_saved(clone, path)):
        return
    known = clone.store.value("SELECT 1 FROM documents WHERE path=?", (path,))
    Bridge(clone).run(documents=() if known else [path])  # what was never looked at, whatever its cadence


def _is_saved(clone: Clone, path: str) -> bool:
    """Whether the file may hold what nobody has looked at."""
    try:
        seen = folder.stamp(os.lstat(clone.root / path))
    except OSError:
        return False
    return clone.store.value("SELECT stamp FROM files WHERE path=?", (path,)) != seen


def _entry(clone: Clone, document: Document, id: str) -> Entry:
    """The entry that is meant. Raises NotFound: it is not there (any more), or several are meant."""
    if document.policy == "text":
        raise NotFound(f"{document.path!r} is one text and has no entries", hint="leave out entry")
    found = [entry for entry in clone.documents.entries(document) if entry.id.hex().startswith(id.lower())]
    if len(found) != 1:
        what = f"{len(found)} entries of {document.path!r} begin with" if found else f"{document.path!r} has no entry"
        hint = "give more of its id" if found else "it was edited or taken out meanwhile: read the document again"
        raise NotFound(f"{what} {id!r}", hint=hint)
    return found[0]


def version(text: str) -> str:
    """Names what a document holds: another text, another version, on every clone."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


# --- finding and reading


def _search(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    query, start, most = given["query"], given["offset"], given["max_chars"]
    hits = _hits(clone, query, FILTERED if given["under"] else min(start + given["limit"] + 1, FILTERED))
    if given["under"]:
        hits = [hit for hit in hits if hit["document"].startswith(given["under"])]
    rows = [_hit_row(clone, hit, query, most) for hit in hits[start : start + given["limit"]]]
    if not rows:
        return Answer("nothing found; try other words", {"query": query, "hits": []})
    return listing(
        f"found for {label(query)!r}:", {"query": query}, "hits", rows, start, len(hits), most, counted=False
    )


def _hits(clone: Clone, query: str, most: int) -> list[dict[str, Any]]:
    """The best first; where no word is found as a word, what holds all of them literally, the newest first."""
    from replica.cloud.index import Index
    from replica.search import search

    with Index.open(clone) as index:
        found = index.answer(query, most).found
    hits = [
        {
            "document": hit.document, "entry": hit.id, "text": hit.text, "clone": hit.author, "time": hit.time,
            "private": hit.level == 0,
        }
        for hit in found
    ]  # fmt: skip
    return hits or [
        {
            "document": hit.document, "entry": hit.id.hex() if hit.id else None, "text": hit.text,
            "clone": clone.author_name(hit.author), "time": hit.time, "private": hit.private,
        }
        for hit in search(clone, query.split())[:most]
    ]  # fmt: skip


def _hit_row(clone: Clone, hit: dict[str, Any], query: str, most: int) -> Row:
    shown, cut = excerpt(hit["text"], query.split(), min(EXCERPT, most // 8))
    where: dict[str, Any] = {"entry": hit["entry"] and hit["entry"][:SHORT]}
    rule = clone.rule(hit["document"])
    document = clone.documents.find(hit["document"], rule.policy if rule is not None else "text")
    if document.policy in ("text", "latest"):  # of these a section was found
        where = {"offset": _place(clone.documents.text(document), hit["text"])}
    data = {
        "document": hit["document"], **where, "text": shown, "cut": cut, "clone": hit["clone"],
        "time": iso(hit["time"]), "private": hit["private"],
    }  # fmt: skip
    named = f"entry {where['entry']}" if "entry" in where else f"offset {where['offset']}"
    more = f"; {cut:,} characters more" if cut else ""
    by = origin(hit["clone"], hit["time"], hit["private"])
    return Row(f"- {label(hit['document'])}, {named}, {by}{more}:\n{quoted(shown, '  ')}", data)


def _place(text: str, section: str) -> int:
    """Where a section begins in its text: what was found may have its headings above it."""
    for piece in (section, section.partition("\n")[2]):
        if piece.strip() and (at := text.find(piece.strip("\n"))) >= 0:
            return at
    return 0


def _read(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    path = _path(clone, given["document"])
    _take_in(desk, clone, path)
    document = _document(clone, path)
    if given["entry"] is not None:
        return _read_entry(clone, document, given)
    if document.policy in ("union", "log") and not given["whole"]:
        return _read_entries(clone, document, given)
    text = clone.documents.text(document)
    fields = _about(clone, document, text)

    def head(start: int, end: int, total: int) -> str:
        return _head(fields, shown_range(start, end, total))

    return passage(text, given["offset"], given["max_chars"], head, fields)


def _about(clone: Clone, document: Document, text: str) -> dict[str, Any]:
    """What is said of a document above its content."""
    changed, by = clone.store.row(
        "SELECT max(changed_at), changed_by FROM documents WHERE n IN (?,?)", (document.shared, document.private)
    )
    waiting = len(clone.documents.conflicts(document)) if _may_wait(clone, document) else 0
    rule = clone.rule(document.path)
    return {
        "document": document.path, "policy": document.policy, "version": version(text),
        "clone": clone.author_name(clone.log.author_n(by).id) if by is not None else "?", "time": iso(changed),
        "private": document.shared is None or (rule is not None and rule.level == 0), "conflicts": waiting,
    }  # fmt: skip


def _may_wait(clone: Clone, document: Document) -> bool:
    return (document.path, document.policy) in clone.documents.disputed()


def _head(fields: dict[str, Any], range: str) -> str:
    private = ", private" if fields["private"] else ""
    waits = f"\n{fields['conflicts']} wait for a decision: memory_conflicts" if fields["conflicts"] else ""
    return (
        f"{label(fields['document'])} ({fields['policy']}{private}), version {fields['version']}, {range}\n"
        f"last changed by {label(fields['clone'], 64)}, {fields['time'] or '?'}{waits}"
    )


def _read_entry(clone: Clone, document: Document, given: dict[str, Any]) -> Answer:
    entry = _entry(clone, document, given["entry"])
    fields = {"document": document.path, **_entry_fields(clone, entry)}

    def head(start: int, end: int, total: int) -> str:
        by = origin(fields["clone"], entry.time, entry.private)
        about = "".join(f", {name} {label(str(fields[name]), 400)}" for name in ("type", "tags") if name in fields)
        name = f"{label(document.path)}, entry {fields['entry']}"
        return f"{name}, {by}{about}, {shown_range(start, end, total)}"

    return passage(entry.text, given["offset"], given["max_chars"], head, fields)


def _entry_fields(clone: Clone, entry: Entry) -> dict[str, Any]:
    meta = {name: entry.meta[name] for name in ("type", "tags") if name in entry.meta}
    if isinstance(meta.get("tags"), list):
        meta["tags"] = meta["tags"][:10]
    return {
        "entry": entry.id.hex()[:SHORT], "clone": clone.author_name(entry.author), "time": iso(entry.time), **meta,
        "private": entry.private,
    }  # fmt: skip


def _read_entries(clone: Clone, document: Document, given: dict[str, Any]) -> Answer:
    entries = clone.documents.entries(document)
    text = render(
        spaced((entry.block for entry in entries), document.policy)
    )  # as Documents.text, which reads them anew
    fields = _about(clone, document, text)
    start, most = given["offset"], given["max_chars"]
    start = max(0, len(entries) + start) if start < 0 else start
    rows: list[Row] = []
    room = most
    for entry in entries[start:]:
        rows.append(_entry_row(clone, entry, most))
        room -= size(rows[-1].data)
        if room < 0:
            break
    head = _head(fields, f"{len(entries):,} entries and headings" + (f", from {start:,} on" if start else ""))
    return listing(head, fields, "entries", rows, start, max(len(entries), start), most)


def _entry_row(clone: Clone, entry: Entry, most: int) -> Row:
    shown, cut = excerpt(entry.text, [], most // 4)
    if entry.role != ENTRY:
        return Row(quoted(shown).rstrip("\n"), {"role": entry.role, "text": shown})
    fields = _entry_fields(clone, entry)
    more = f"; {cut:,} characters more" if cut else ""
    marks = [str(fields["type"])] if "type" in fields else []
    marks += [str(tag) for tag in fields.get("tags", ())]
    tags = f" [{label(', '.join(marks))}]" if marks else ""
    text = f"{fields['entry']} {origin(fields['clone'], entry.time, entry.private)}{tags}{more}:\n{quoted(shown)}"
    return Row(text.rstrip("\n"), {**fields, "text": shown, "cut": cut})


def _list(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    start = given["offset"]
    found = [one for one in page.documents(clone, EVERY) if one["path"].startswith(given["under"] or "")]
    disputed = {path for path, _ in clone.documents.disputed()}
    rows = [_listed(one, one["path"] in disputed) for one in found[start : start + given["limit"]]]
    if not found:
        return Answer("no documents", {"documents": [], "left_out": 0})
    return listing(f"{len(found):,} documents", {}, "documents", rows, start, len(found), given["max_chars"])


def _listed(one: dict[str, Any], disputed: bool) -> Row:
    time = clock.from_ms(one["changed"])
    entries = f", {one['entries']:,} entries" if one["entries"] is not None else ""
    waits = ", a decision may wait" if disputed else ""
    text = f"- {label(one['path'], 220)} ({one['policy']}{entries}), {origin(one['by'], time, one['private'])}{waits}"
    data = {
        "document": one["path"], "policy": one["policy"], "entries": one["entries"], "clone": one["by"],
        "time": iso(time), "private": one["private"],
    }  # fmt: skip
    return Row(text, data)


# --- writing


def _append(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    path = _path(clone, given["document"])
    _take_in(desk, clone, path)
    text, redacted = redacted_text(given["text"])
    rule = clone.rule(path)
    document = writing.writable(clone, path, rule)
    tags = tuple(given["tags"] or ())
    if document.policy in ("union", "log"):  # the paragraphs of a text have none
        tags = tuple(dict.fromkeys([*tags, BY_AGENT]))
    level = 0 if given["private"] and (rule is None or rule.level) else None
    added = writing.add(clone, path, text, type=given["type"], tags=tags, level=level)
    said = f"added to {path}" if added.new else f"{path} has it already"
    fields: dict[str, Any] = {"document": path, "new": added.new}
    if document.policy in ("union", "log"):
        fields["entry"] = added.id.hex()[:SHORT]
        said += f" as entry {fields['entry']}"
    return _published(desk, clone, path, said, fields, redacted)


def _write(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    path = _path(clone, given["document"])
    if path == CONFIG:
        raise Refused(f"{CONFIG} says what is shared with whom: it is for people", hint="ask the person to edit it")
    _take_in(desk, clone, path)
    if given["entry"] is not None:
        return _write_entry(desk, clone, path, given)
    with clone.transaction():
        said, fields, redacted = _write_whole(clone, path, given["text"], given["version"])
    return _published(desk, clone, path, said, fields, redacted)


def _write_whole(clone: Clone, path: str, text: str, wanted: str | None) -> tuple[str, dict[str, Any], int]:
    """Returns what was done, in words and as fields, and how many secrets were replaced. In a transaction."""
    rule = clone.rule(path)
    document = writing.writable(clone, path, rule)
    old = clone.documents.text(document) if document.alive else ""
    text = text.replace("\r\n", "\n")
    new, redacted = redacted_lines(old, as_it_was(old, text if text.endswith("\n") else f"{text}\n"))
    fields = {"document": path, "version": version(old)}
    if document.alive and new == old:
        return f"{path} holds that already; version {fields['version']}", {**fields, "changed": False}, redacted
    _check_version(document, old, wanted)
    _check_whole(clone, document, rule, new)
    hold = Bridge(clone).put(path, new)
    if hold is not None:
        raise Refused(
            f"{path}: {hold.what}", version=version(old),
            hint="that looks like an accident: write less at once, or let the person edit the file and accept it",
        )  # fmt: skip
    now = version(clone.documents.text(clone.document(path)))
    did = "written" if document.alive else "made"
    return f"{path} is {did}; version {now}", {**fields, "version": now, "changed": now != version(old)}, redacted


def _check_version(document: Document, old: str, wanted: str | None) -> None:
    now = version(old)
    if not document.alive and wanted is not None:
        raise Refused(f"{document.path} is not there (any more)", hint="leave out version to make it")
    if document.alive and wanted is None:
        raise Refused(
            f"{document.path} is there already",
            hint="read it, then give its version; or use memory_append",
            version=now,
        )
    if document.alive and wanted != now:
        raise Refused(
            f"{document.path} has changed since version {wanted}", version=now,
            hint="nothing was written: read it again, and make your change to what it holds now",
        )  # fmt: skip


def _check_whole(clone: Clone, document: Document, rule, new: str) -> None:
    if not new.strip():
        raise Refused(f"{document.path} would be empty", hint="take out entries one by one, or ask the person")
    if rule is None or (document.alive and document.policy != rule.policy):
        raise WrongPolicy(f"the rule of {document.path!r} has changed", hint="let the node or `replica sync` run first")
    limit = clone.config.limits.document
    if len(new.encode()) > limit:
        raise Refused(f"{document.path} would be over the limit of {limit:,} bytes", hint="split it")


def _write_entry(desk: Desk, clone: Clone, path: str, given: dict[str, Any]) -> Answer:
    with clone.transaction():
        document = _document(clone, path)
        if given["version"] is not None:
            _check_version(document, clone.documents.text(document), given["version"])
        entry = _entry(clone, document, given["entry"])
        if entry.role != ENTRY:
            raise UsageError(f"{given['entry']} is no entry but a {entry.role}", hint="write the whole document")
        text, redacted = redacted_text(as_it_was(entry.text, given["text"]))
        if markers.lines_of(text):
            raise Refused("the text has merge markers, as git leaves them", hint="take them out, with what goes")
        done = writing.edit(clone, document, entry, text, (BY_AGENT,))
        now = version(clone.documents.text(document))
    fields = {"document": path, "entry": done.id.hex()[:SHORT], "version": now, "changed": done.new}
    said = f"{path}: entry {fields['entry']} " + ("is written" if done.new else "says that already")
    if not text.strip():
        said = f"{path}: entry {fields['entry']} is taken out; the history has it"
    return _published(desk, clone, path, said, fields, redacted)


def _published(
    desk: Desk, clone: Clone, path: str, said: str, fields: dict[str, Any], redacted: int = 0
) -> Answer:  # fmt: skip
    """The answer to a change, after it has been brought to files and peers. It is stored, whatever comes of that."""
    lines, fields = [said], {**fields, "redacted": redacted}
    if redacted:
        lines.append(f"{redacted} that looked like secrets were replaced before it was stored")
    try:
        desk.publish(clone, path)
    except (ReplicaError, OSError) as error:
        log.warning("%s is stored, but its file is not written yet: %s", path, error)
        fields["note"] = f"stored; the file follows later: {label(str(error), 300)}"
        lines.append(fields["note"])
    return Answer("\n".join(lines), fields)


def as_it_was(old: str, new: str) -> str:
    """`new` with the lines of `old` that were shown with their hidden characters made visible as they were."""
    lines = set(old.split("\n"))
    hidden = {shown: line for line in lines if (shown := visible(line)) != line and shown not in lines}
    return "\n".join(hidden.get(line, line) for line in new.split("\n")) if hidden else new


def redacted_text(text: str) -> tuple[str, int]:
    """A text without its secrets, and how many those were: what is replicated cannot be called back."""
    from replica.sessions.secrets import redact

    text, kinds = redact(text)
    return text, sum(kinds.values())


def redacted_lines(old: str, new: str) -> tuple[str, int]:
    """`new` without the secrets that its new lines hold; the others were there before."""
    known = set(old.split("\n"))
    done: list[str] = []
    run: list[str] = []
    count = 0
    for line in [*new.split("\n"), None]:
        if line is not None and line not in known:
            run.append(line)
            continue
        if run:
            text, found = redacted_text("\n".join(run))
            done, run, count = [*done, *text.split("\n")], [], count + found
        if line is not None:
            done.append(line)
    return "\n".join(done), count


# --- the past, and what waits


def _history(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    path = _path(clone, given["document"]) if given["document"] is not None else None
    if given["at"] is not None:
        return _then(clone, path, given)
    start = given["offset"]
    found = history.log(clone, path, start + given["limit"] + 1)
    rows = [_change(row) for row in found[start : start + given["limit"]]]
    if not rows:
        return Answer("no (more) changes", {"document": path, "changes": []})
    head = f"changes of {label(path)}, the newest first" if path else "changes, the newest first"
    return listing(head, {"document": path}, "changes", rows, start, len(found), given["max_chars"], counted=False)


def _change(row: history.Row) -> Row:
    summary = label(row.summary, 200)
    where = f" {label(row.document, 220)}" if row.document else ""
    data = {
        "document": row.document, "kind": row.kind, "what": summary, "clone": row.clone, "time": iso(row.time),
        "private": row.private,
    }  # fmt: skip
    return Row(f"- {row.kind}{where}: {summary}, {origin(row.clone, row.time, row.private)}", data)


def _then(clone: Clone, path: str | None, given: dict[str, Any]) -> Answer:
    if path is None:
        raise UsageError("at needs a document", hint="name the document that is to be shown as it was")
    past = history.at(clone, path, history.moment_of(given["at"], clone.log.now_ms()))
    fields = {"document": path, "at": given["at"], "policy": past.document.policy}

    def head(start: int, end: int, total: int) -> str:
        return f"{label(path)} as it was at {label(given['at'])}, {shown_range(start, end, total)}"

    return passage(past.text, given["offset"], given["max_chars"], head, fields)


def _conflicts(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    waiting, start, most = page.conflicts(clone), given["offset"], given["max_chars"]
    if given["id"] is not None:
        waiting = [one for one in waiting if one["id"].startswith(given["id"].lower())]
        if not waiting:
            raise NotFound(f"no open conflict {given['id']!r}", hint="memory_conflicts lists what waits")
    if not waiting:
        return Answer("nothing waits for a decision", {"conflicts": [], "left_out": 0})
    share = (most - MARGIN) // 4 if given["id"] is None else (most - MARGIN) // 2
    rows = [_waiting(one, share) for one in waiting[start : start + given["limit"]]]
    head = f"{len(waiting):,} wait for a decision; ask the person, then memory_resolve"
    return listing(head, {}, "conflicts", rows, start, len(waiting), most)


def _waiting(one: dict[str, Any], most: int) -> Row:
    """A conflict, its versions in `most` characters: of each the part where they begin to differ."""
    versions = one["versions"][:20]  # of more there is none that a person wrote
    same = _same_start([visible(one["text"]) for one in versions])
    each = max(40, most // max(1, len(versions)) - 120)
    lines = [f"- {one['id']} {label(one['document'])} ({one['kind']})"]
    data = []
    for version in versions:
        text = visible(version["text"])
        start = 0 if same < each // 2 else text.rfind("\n", 0, same) + 1
        shown = text[start : start + each]
        time = clock.from_ms(version["time"]) if version["time"] is not None else None
        cut = len(text) - len(shown)
        more = f"; {cut:,} characters more" if cut else ""
        lines.append(f"  {version['version']} {origin(version['by'], time)}{more}:\n{quoted(shown, '    ')}".rstrip())
        data.append({
            "version": version["version"], "text": shown, "cut": cut, "clone": version["by"], "time": iso(time),
        })  # fmt: skip
    fields = {"id": one["id"], "document": one["document"], "kind": one["kind"], "versions": data}
    return Row("\n".join(lines), fields)


def _same_start(texts: list[str]) -> int:
    """How many characters all of them begin with."""
    if len(texts) < 2:
        return 0
    ends = (at for at, chars in enumerate(zip(*texts, strict=False)) if len(set(chars)) > 1)
    return next(ends, min(map(len, texts)))


def _resolve(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    from replica.cloud import decide

    id, keep, text = given["id"], given["keep"], given["text"]
    if (keep is None) == (text is None):
        raise UsageError("say either which version to keep, or the text", hint="give keep (v1), or text")
    redacted = 0
    if text is not None:
        text, redacted = redacted_text(text)
    cloud = decide.find(clone, id)
    conflict = cloud.conflict if cloud is not None else decisions.find(clone, id)
    if conflict.path == CONFIG:
        raise Refused(f"{CONFIG} says what is shared with whom: it is for people", hint="ask the person to settle it")
    if cloud is not None:
        decide.resolve(clone, cloud, keep=keep, text=text)
    else:
        decisions.resolve(clone, conflict.id, keep=keep, text=text)
    left = len(page.conflicts(clone))
    fields = {"id": conflict.id, "document": conflict.path, "left": left}
    said = f"{conflict.path}: settled; {left:,} left"
    return _published(desk, clone, conflict.path, said, fields, redacted)


def _status(desk: Desk, clone: Clone, given: dict[str, Any]) -> Answer:
    found = status.status(clone, desk.node())
    peers = [
        {name: peer[name] for name in ("name", "online", "behind", "ahead")}
        | {"last_seen": iso(clock.from_ms(peer["last_seen"])) if peer["last_seen"] is not None else None}
        for peer in found["peers"]
    ]  # fmt: skip
    held = [{"document": row["path"], "what": label(row["what"], 200)} for row in found["held"]]
    harvest = [
        {name: row[name] for name in ("document", "measure", "value", "threshold")} for row in found["harvest"]
    ]  # fmt: skip
    data = {
        "workspace": found["workspace"], "clone": found["clone"]["name"], "node": found["node"],
        "read_only": desk.read_only, "documents": found["documents"], "entries": found["entries"],
        "private": found["private"], "conflicts": found["conflicts"], "removed": found["removed"],
        "rejoining": found["rejoining"], "skipped": len(found["skipped"]), "held": held[:NAMED],
        "harvest": harvest[:NAMED], "peers": peers[:NAMED],
        "left_out": sum(max(0, len(rows) - NAMED) for rows in (held, harvest, peers)),
    }  # fmt: skip
    while size(data) > given["max_chars"] and (
        longest := max(("held", "harvest", "peers"), key=lambda n: size(data[n]))
    ):
        if not data[longest]:
            break
        data[longest].pop()
        data["left_out"] += 1
    return Answer("\n".join(_status_lines(data)), data)


def _status_lines(data: dict[str, Any]) -> list[str]:
    lines = [
        f"clone {label(data['clone'], 64)} of workspace {label(data['workspace'], 64)}, node {data['node']}",
        f"{data['documents']:,} documents, {data['entries']:,} entries, {data['private']:,} of them private",
        f"{data['conflicts']:,} conflicts wait for a decision",
    ]
    if data["removed"]:
        lines.append("this clone was removed from the workspace: what is written here reaches nobody")
    if data["rejoining"]:
        lines.append("this clone is being brought back into its workspace and cannot be written to yet")
    lines += [f"held: {label(row['document'], 220)}: {row['what']} (the person decides)" for row in data["held"]]
    lines += [
        f"full: {label(row['document'], 220)} has {row['value']} of {row['threshold']} {row['measure']}"
        for row in data["harvest"]
    ]
    for peer in data["peers"]:
        waits = f"{peer['behind']:,} changes to go there, {peer['ahead']:,} to come"
        seen = "in reach" if peer["online"] else f"last seen {peer['last_seen'] or 'never'}"
        lines.append(f"peer {label(peer['name'], 64)}: {seen}, {waits}")
    return lines + ([f"[{data['left_out']:,} more: `replica status`]"] if data["left_out"] else [])


_FUNCTIONS: dict[str, Callable[[Desk, Clone, dict[str, Any]], Answer]] = {
    "memory_search": _search, "memory_read": _read, "memory_list": _list, "memory_write": _write,
    "memory_append": _append, "memory_history": _history, "memory_conflicts": _conflicts, "memory_resolve": _resolve,
    "memory_status": _status,
}  # fmt: skip
