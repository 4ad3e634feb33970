"""Commands on the memory itself: ls, show, add, search, log, diff, restore."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import (
    Dir,
    Document,
    Json,
    data,
    document_path,
    emit,
    exact,
    iso,
    local,
    one_line,
    opened,
    publish,
    size,
    table,
    text_or_stdin,
    words,
)

if TYPE_CHECKING:
    from replica.clone import Clone

TIME_HELP = "ISO 8601, or 10m, 2h, 3d, 1w, today, yesterday."


def _moment(text: str) -> int:
    from replica import history

    return history.moment_of(text, int(time.time() * 1000))


def _document(clone: "Clone", given: str):
    """The live document that is meant. Raises DocumentNotFound with the nearest name."""
    from replica import history
    from replica.errors import DocumentNotFound

    path = document_path(clone, given)
    try:
        return clone.document(path)
    except DocumentNotFound as error:
        error.hint = history.near(clone, path) or error.hint
        if clone.store.value("SELECT 1 FROM documents WHERE path=?", (path,)):
            error.hint = (
                f"it was deleted; see `replica log {path}`, bring it back with `replica restore {path} --at TIME`"
            )
        raise


def ls(folder: Dir = None, json: Json = False) -> None:
    """List the documents.

    Path, policy, cadence, level, entries, size, last change and by whom.

    Example: replica ls
    """
    with opened(folder) as clone:
        rows = [_listed(clone, document) for document in clone.documents.all()]
    if json:
        for row in rows:
            emit({**row, "changed": iso(row["changed"])})
        return
    if not rows:
        words("no documents yet; save a file here, or `replica add FILE TEXT`")
        return
    shown = [
        (
            r["path"], r["policy"], r["cadence"] or "-", "-" if r["level"] is None else r["level"],
            "-" if r["entries"] is None else r["entries"], size(r["bytes"]), local(r["changed"]), r["by"],
        )
        for r in rows
    ]  # fmt: skip
    table(shown, ("PATH", "POLICY", "CADENCE", "LEVEL", "ENTRIES", "SIZE", "CHANGED", "BY"))


def _listed(clone: "Clone", document) -> dict[str, Any]:
    rule = clone.rule(document.path)
    documents = clone.documents
    entries = None
    if document.policy != "text":
        entries = sum(entry.role == "entry" for entry in documents.entries(document))
    changed, by = clone.store.row(
        "SELECT max(changed_at), changed_by FROM documents WHERE n IN (?,?)", (document.shared, document.private)
    )
    return {
        "path": document.path, "policy": document.policy, "cadence": rule.cadence if rule else None,
        "level": rule.level if rule else None, "entries": entries,
        "bytes": len(documents.text(document).encode()), "changed": changed,
        "by": clone.author_name(clone.log.author_n(by).id) if by is not None else "?",
    }  # fmt: skip


def show(
    document: Document,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=f"As it was then: {TIME_HELP}")] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Print a document as it is, or was. With --json, its entries too.

    Example: replica show lessons-buffer.md --at 2d
    """
    with opened(folder) as clone:
        if at is None:
            found = _document(clone, document)
            text = clone.documents.text(found)
            entries = clone.documents.entries(found) if json and found.policy != "text" else ()
        else:
            from replica import history

            past = history.at(clone, document_path(clone, document), _moment(at))
            found, text, entries = past.document, past.text, past.entries
        if not json:
            exact(text)
            return
        shown = [_entry(clone, entry) for entry in entries if entry.role == "entry"]
        emit({"document": found.path, "policy": found.policy, "text": text, "entries": shown})


def _entry(clone: "Clone", entry) -> dict[str, Any]:
    return {
        "id": entry.id.hex(), "text": entry.text, **entry.meta, **({"level": 0} if entry.private else {}),
        "clone": clone.author_name(entry.author), "time": iso(entry.time),
    }  # fmt: skip


def add(
    document: Document,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="The entry; - reads it from stdin.")],
    type: Annotated[str | None, typer.Option(metavar="TYPE", help="What it is: decision, learning, …")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="A tag; may be given again.")] = None,
    level: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=2, help="0 this clone, 1 the workspace, 2 the cloud too.")
    ] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Add an entry to a document; prints its id. The same entry twice in a buffer is one entry.

    Example: replica add lessons-buffer.md "Ask before deleting" --tag safety
    """
    from replica import writing

    with opened(folder) as clone:
        content = text_or_stdin(text)
        path = document_path(clone, document)
        _take_in_first(clone, path)
        added = writing.add(clone, path, content, type=type, tags=tuple(tag or ()), level=level)
        publish(clone, path)
    if json:
        emit({"id": added.id.hex(), "document": added.document, "text": added.text, "new": added.new})
        return
    if not added.new:
        words(f"{added.document} has it already")
    data(added.id.hex())


def _take_in_first(clone: "Clone", path: str) -> None:
    """A file that was never looked at comes before what is added to it."""
    from replica.errors import DocumentNotFound

    try:
        clone.document(path)
    except DocumentNotFound:
        if (clone.root / path).is_file():
            from replica.bridge import Bridge

            Bridge(clone).run(documents=[path])


def search(
    terms: Annotated[list[str], typer.Argument(metavar="WORDS...", help="All of them must occur, in any case.")],
    limit: Annotated[int, typer.Option("-n", metavar="N", min=1, help="At most so many.")] = 50,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Find entries and lines by words, over all documents.

    The newest come first.

    Example: replica search deploy friday
    """
    from replica.search import search as find

    with opened(folder) as clone:
        hits = find(clone, terms)
        for hit in hits[:limit]:
            who = clone.author_name(hit.author)
            if json:
                emit({
                    "document": hit.document, "id": hit.id.hex() if hit.id else None, "line": hit.line,
                    "text": hit.text, "clone": who, "time": iso(hit.time),
                })  # fmt: skip
            else:
                where = hit.document if hit.line is None else f"{hit.document}:{hit.line}"
                data(f"{where}: {_around(hit.text, terms[0])}  ({who}, {local(hit.time)})")
    if len(hits) > limit and not json:
        words(f"{len(hits) - limit:,} more; see them with -n {len(hits)}")
    if not hits and not json:
        words("nothing found")


def _around(text: str, word: str) -> str:
    """The line of a long entry that holds the word."""
    lines = [line for line in text.split("\n") if word.casefold() in line.casefold()]
    return one_line(lines[0] if lines else text)


def log(
    document: Annotated[str | None, typer.Argument(metavar="[DOCUMENT]", help="Only of this document.")] = None,
    limit: Annotated[int, typer.Option("-n", metavar="N", min=1, help="At most so many.")] = 20,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Who changed what, when; the newest first.

    Example: replica log lessons-buffer.md -n 5
    """
    from replica import history

    with opened(folder) as clone:
        rows = history.log(clone, document and document_path(clone, document), limit)
    if json:
        for row in rows:
            emit({
                "time": iso(row.time), "clone": row.clone, "author": row.author.hex(), "seq": row.seq,
                "kind": row.kind, "document": row.document, "summary": row.summary, "added": row.added,
                "removed": row.removed, "private": row.private,
            })  # fmt: skip
        return
    shown = [
        (local(row.time), row.clone, row.kind, row.document or "-", row.summary + (" (level 0)" if row.private else ""))
        for row in rows
    ]
    table(shown, ("TIME", "CLONE", "KIND", "DOCUMENT", "CHANGE"))


def diff(
    document: Document,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help=f"{TIME_HELP} By default before the last change.")
    ] = None,
    until: Annotated[str, typer.Option("--to", metavar="TIME", help=TIME_HELP)] = "now",
    folder: Dir = None,
    json: Json = False,
) -> None:
    """What changed in a document between two times.

    Example: replica diff lessons-buffer.md --from 3d
    """
    from replica import clock, history

    with opened(folder) as clone:
        path = document_path(clone, document)
        start = history.before_last(clone, path) if since is None else _moment(since)
        # Now is whatever is there, even from a clone whose clock is ahead.
        end = clock.LIMIT if until == "now" else _moment(until)
        found = history.diff(clone, path, start, end, (since or "before the last change", until))
    if json:
        emit({
            "document": path, "from": iso(start), "to": None if end == clock.LIMIT else iso(end),
            "diff": "".join(found.lines), "added": found.added, "removed": found.removed,
        })  # fmt: skip
        return
    exact("".join(found.lines))
    if not found.lines:
        words("no difference")


def blame(document: Document, folder: Dir = None, json: Json = False) -> None:
    """Who wrote what stands in a document, and when: by line, of a buffer or a log by entry.

    A line is of whoever wrote to it last. "before": of what came before that time, the history is folded.

    Example: replica blame notes/plan.md
    """
    from replica import blame as blaming

    with opened(folder) as clone:
        found = _document(clone, document)
        rows = [
            {
                "line": one.line, "text": one.text, "clone": _author(clone, one.origin.author),
                "time": one.origin.time, "before": one.origin.before,
                "others": [_author(clone, other) for other in one.others], "id": one.id.hex() if one.id else None,
            }
            for one in blaming.blame(clone, found)
        ]  # fmt: skip
    if json:
        for row in rows:
            emit({**row, "time": iso(row["time"])})
        return
    shown = [
        (
            " +".join([row["clone"] or "?", *map(str, row["others"])]),
            ("before " if row["before"] else "") + local(row["time"]), row["line"], one_line(row["text"]),
        )
        for row in rows
    ]  # fmt: skip
    table(shown, ("CLONE", "TIME", "LINE", "TEXT"))


def _author(clone: "Clone", id: bytes | None) -> str | None:
    return None if id is None else clone.author_name(id)


def restore(
    document: Document,
    at: Annotated[str, typer.Option(metavar="TIME", help=f"As it was then: {TIME_HELP}")],
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Bring back an earlier text of a document.

    It is a new change: nothing of the history goes.

    Example: replica restore lessons-buffer.md --at yesterday
    """
    from replica import history
    from replica.bridge import Bridge

    with opened(folder) as clone:
        path = document_path(clone, document)
        moment = _moment(at)
        Bridge(clone).run(documents=[path])  # what was saved and not yet taken in stays in the history, too
        done = history.restore(clone, path, moment)
        publish(clone, path, at_once=True)
        kept = clone.store.value("SELECT what FROM held WHERE path=?", (path,))
    if json:
        emit({"document": path, "at": iso(moment), "restored": done})
        return
    words(f"{path} is as it was at {local(moment)}" if done else f"{path} is as it was then; nothing to do")
    if kept:
        words(f"its file is held back ({kept}); see `replica status`")
