"""What a page shows of a clone, as plain data, and what is done by a click on it. Times in milliseconds since 1970."""

from typing import Any

from replica import clock, decisions, history, status
from replica.bridge import Bridge
from replica.clone import Clone
from replica.documents import Document, Version
from replica.errors import NotFound

MOST_DOCUMENTS = 1_000
MOST_HITS = 200
MOST_ROWS = 60  # of the timeline
SHOWN_HIT = 400  # characters of what was found


def view(clone: Clone, node: dict | None) -> dict[str, Any]:
    """Everything but the documents' content. `node`: what the running node says of itself, None when none runs."""
    look = status.status(clone, node)
    waiting = conflicts(clone)
    disputed = {conflict["document"] for conflict in waiting}
    listed = documents(clone)
    for document in listed:
        document["conflict"] = document["path"] in disputed
    shown = (
        "workspace", "clone", "removed", "rejoining", "node", "documents", "entries", "private", "held", "skipped",
        "harvest", "peers", "unseen",
    )  # fmt: skip
    return {
        "status": {name: look[name] for name in shown}, "conflicts": waiting, "documents": listed,
        "timeline": timeline(clone, None),
    }  # fmt: skip


def documents(clone: Clone, most: int | None = None) -> list[dict[str, Any]]:
    """The live documents, the one that was changed last first; `most` of them, or as many as a page shows."""
    counts = dict(
        ((path, policy), count)
        for path, policy, count in clone.store.rows(
            "SELECT path, policy, count(DISTINCT id) FROM adds JOIN documents d ON d.n=doc"
            " WHERE dead=0 AND role='entry' AND policy IN ('union', 'log') GROUP BY path, policy"
        )
    )
    # SQLite takes the other columns from the row that has the maximum.
    rows = clone.store.rows(
        "SELECT path, policy, max(changed_at), changed_by, min(private) FROM documents WHERE changed_at IS NOT NULL"
        " GROUP BY path, policy ORDER BY max(changed_at) DESC, path"
    )
    alive = clone.documents.latest_changes()
    found = [row for row in rows if row[:2] in alive][: most or MOST_DOCUMENTS]
    return [
        {
            "path": path, "policy": policy, "entries": counts.get((path, policy)), "changed": clock.to_ms(changed),
            "by": _author(clone, by), "private": bool(private),
        }
        for path, policy, changed, by, private in found
    ]  # fmt: skip


def _author(clone: Clone, n: int | None) -> str:
    return clone.author_name(clone.log.author_n(n).id) if n is not None else "?"


def document(clone: Clone, path: str) -> dict[str, Any]:
    """A document as it is. `blocks`: of a text, one without an author. Raises DocumentNotFound."""
    found = clone.document(path)
    changed, by = clone.store.row(
        "SELECT max(changed_at), changed_by FROM documents WHERE n IN (?,?)", (found.shared, found.private)
    )
    return {
        "path": found.path, "policy": found.policy, "changed": clock.to_ms(changed or 0), "by": _author(clone, by),
        "blocks": _blocks(clone, found), "timeline": timeline(clone, path, 20),
    }  # fmt: skip


def _blocks(clone: Clone, found: Document) -> list[dict[str, Any]]:
    if found.policy == "text":
        return [{"id": "", "role": "text", "text": clone.documents.text(found), "private": found.shared is None}]
    return [
        {
            "id": entry.id.hex(), "role": entry.role, "text": entry.text, "by": clone.author_name(entry.author),
            "time": clock.to_ms(entry.time), "private": entry.private,
        }
        for entry in clone.documents.entries(found)
    ]  # fmt: skip


def timeline(clone: Clone, path: str | None, most: int = MOST_ROWS) -> list[dict[str, Any]]:
    """Who changed what and when, the newest first: of one document, or of all."""
    return [
        {
            "time": clock.to_ms(row.time), "by": row.clone, "kind": row.kind, "document": row.document,
            "summary": row.summary, "private": row.private,
        }
        for row in history.log(clone, path, most)
    ]  # fmt: skip


def search(clone: Clone, words: list[str]) -> dict[str, Any]:
    """The newest places that hold all the words, and how many there are."""
    from replica.search import search as find

    hits = find(clone, words)
    shown = [
        {
            "document": hit.document, "id": hit.id.hex() if hit.id else "", "line": hit.line,
            "text": hit.text[:SHOWN_HIT], "by": clone.author_name(hit.author), "time": clock.to_ms(hit.time),
            "private": hit.private,
        }
        for hit in hits[:MOST_HITS]
    ]  # fmt: skip
    return {"hits": shown, "count": len(hits)}


# --- what waits for a decision


def conflicts(clone: Clone) -> list[dict[str, Any]]:
    """The open ones, between clones and with services."""
    from replica.cloud import decide

    found = []
    for conflict in clone.documents.all_conflicts():
        names = [clone.author_name(version.clone) if version.clone else None for version in conflict.versions]
        found.append(_conflict(conflict, names))
    for one in decide.conflicts(clone):
        found.append(_conflict(one.conflict, [clone.name, one.sink]))
    return found


def _conflict(conflict, names: list[str | None]) -> dict[str, Any]:
    versions = [_version(version, name) for version, name in zip(conflict.versions, names, strict=True)]
    return {"id": conflict.id, "document": conflict.path, "kind": conflict.kind, "versions": versions}


def _version(version: Version, name: str | None) -> dict[str, Any]:
    time = clock.to_ms(version.time) if version.time else None
    return {"version": version.version, "text": version.text, "by": name, "time": time}


def settle(clone: Clone, id: str, keep: str | None = None, *, text: str | None = None) -> str:
    """Keep a version of a conflict, or put a text in its place, as `replica resolve` does; the path of the document.

    Raises NotFound (it is settled, or has got another version meanwhile), and as decisions.resolve.
    """
    from replica.cloud import decide

    one = decide.find(clone, id)
    if one is not None:
        decide.resolve(clone, one, keep=keep, text=text)
        return one.conflict.path
    return decisions.resolve(clone, id, keep=keep, text=text).conflict.path


def release(clone: Clone, path: str, what: str, *, accept: bool) -> None:
    """Let through or undo what is held of a path, as `replica accept` and `reject` do.

    `what`: what was said to be held when the person decided. Raises NotFound: it is not held, or for another reason.
    """
    from replica.cloud import decide

    meant = next((row for row in status.held(clone) if (row["path"], row["what"]) == (path, what)), None)
    if meant is None:
        raise NotFound(f"{path!r} is not held back for that any more", hint="look at what is held now")
    if meant["reason"] == decide.HELD:
        decide.settle(clone, [path], accept=accept)
    else:
        bridge = Bridge(clone)
        if "line" in meant:
            bridge.accept_lines(path, [meant["line"]]) if accept else bridge.reject_lines(path, [meant["line"]])
        else:
            bridge.accept([path]) if accept else bridge.reject([path])
