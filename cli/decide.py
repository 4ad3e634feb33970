"""Commands for what waits for a person: conflicts, resolve, accept, reject."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli.common import (
    Dir,
    Documents,
    Json,
    counted,
    data,
    document_path,
    emit,
    exact,
    harmless,
    iso,
    local,
    one_line,
    opened,
    publish,
    text_or_stdin,
    words,
)
from replica.errors import ReplicaError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from replica.bridge import Bridge
    from replica.clone import Clone


PATIENCE = 10.0  # seconds that vectors of new entries may take


class _Waiting(NamedTuple):
    """What waits for a decision, of whichever kind."""

    id: str
    document: str
    kind: str
    versions: list[dict[str, Any]]  # version, text, clone, time; of similar entries the document as well


def conflicts(
    similar: Annotated[
        bool, typer.Option("--similar", help="Instead: entries that say nearly the same, for a look.")
    ] = False,
    limit: Annotated[int, typer.Option("-n", metavar="N", min=1, help="At most so many pairs.")] = 20,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """The versions that wait for a decision. Nothing is lost meanwhile: all of them are kept.

    On a terminal two versions stand side by side, with what differs marked.

    Example: replica conflicts --json
    """
    with opened(folder) as clone:
        if similar:
            _list_similar(clone, limit, json)
            return
        waiting = _waiting(clone)
    for one in waiting:
        _show_conflict(one, json)
    if not waiting and not json:
        words("nothing waits for a decision")


def _waiting(clone: "Clone") -> list[_Waiting]:
    from replica.cloud import decide

    found = []
    for conflict in clone.documents.all_conflicts():
        versions = [
            {
                "version": version.version, "text": version.text,
                "clone": clone.author_name(version.clone) if version.clone else None, "time": version.time,
            }
            for version in conflict.versions
        ]  # fmt: skip
        found.append(_Waiting(conflict.id, conflict.path, conflict.kind, versions))
    for one in decide.conflicts(clone):
        here, there = one.conflict.versions
        versions = [
            {"version": here.version, "text": here.text, "clone": clone.name, "time": here.time or None},
            {"version": there.version, "text": there.text, "clone": one.sink, "time": there.time},
        ]
        found.append(_Waiting(one.conflict.id, one.conflict.path, one.conflict.kind, versions))
    return found


def _list_similar(clone: "Clone", limit: int, json: bool) -> None:
    from replica import similar

    pairs = similar.listed(clone, _near(clone))
    for pair in pairs[:limit]:
        _show_conflict(_as_waiting(clone, pair), json, {"score": pair.score, "by": pair.by})
    if len(pairs) > limit and not json:
        words(f"{len(pairs) - limit:,} more; see them with -n {len(pairs)}")
    if not pairs and not json:
        words("no two entries that nobody has looked at say nearly the same")


def _as_waiting(clone: "Clone", pair) -> _Waiting:
    versions = [
        {
            "version": f"v{at}", "text": said.entry.text, "clone": clone.author_name(said.entry.author),
            "time": said.entry.time, "document": said.document.path,
        }
        for at, said in enumerate((pair.one, pair.other), 1)
    ]  # fmt: skip
    return _Waiting(pair.id, pair.one.document.path, "similar", versions)


def _near(clone: "Clone") -> list:
    """Pairs by meaning, where an embedder is configured and may be asked."""
    from replica.cloud.base import SinkError
    from replica.cloud.configured import NotApproved
    from replica.cloud.embed.agreement import embedder_for_recall
    from replica.cloud.index import Index
    from replica.similar import MEANT

    chosen = None
    try:
        chosen = embedder_for_recall(clone, os.environ)
        if chosen is None:
            return []
        with Index.open(clone) as index:
            left = index.update(chosen, PATIENCE)
            if left:
                words(f"{counted(left, 'entry', 'entries')} compared by words only as yet; the next call goes on")
            return index.near(chosen, MEANT)
    except (SinkError, NotApproved) as error:
        words(f"by words only: {error}; {error.hint}")
        return []
    finally:
        if chosen is not None:
            chosen.close()


def _show_conflict(one: _Waiting, json: bool, more: dict[str, Any] | None = None) -> None:
    if json:
        shown = [{**version, "time": iso(version["time"])} for version in one.versions]
        emit({"id": one.id, "document": one.document, "kind": one.kind, "versions": shown, **(more or {})})
        return
    data(f"{one.id}  {one.document}  ({one.kind})")
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        _show_beside(one.versions)
    else:
        _show_below(one.versions)
    keep = "both" if one.kind == "similar" else one.versions[0]["version"]
    data(f"  settle it: replica resolve {one.id} --keep {keep}")


def _who(version: dict[str, Any]) -> str:
    who = f"{version['clone']}, {local(version['time'])}" if version["clone"] else "as it stands"
    return f"{who}, in {version['document']}" if "document" in version else who


def _show_below(versions: list[dict[str, Any]]) -> None:
    """Plain lines, below each other."""
    shown = _excerpts([version["text"] for version in versions])
    for version, lines in zip(versions, shown, strict=True):
        data(f"  {version['version']:8} {_who(version)}")
        for line in lines:
            data(f"           {one_line(line)}" if line.strip() else "")


def _show_beside(versions: list[dict[str, Any]]) -> None:
    """In two columns: the first with each of the others; what is merged of them stands by itself."""
    import shutil

    from cli.sides import compared

    width = shutil.get_terminal_size((80, 24)).columns
    titled = [(f"{version['version']}  {_who(version)}", version["text"]) for version in versions]
    whole = [one for one, version in zip(titled, versions, strict=True) if version["version"] == "merged"]
    first, *others = [one for one in titled if one not in whole]
    for other in others or whole:
        for line in compared(first, other, width):
            typer.echo(line)
    for title, text in whole if others else ():
        typer.echo(f"\x1b[1m{harmless(title)}\x1b[0m")
        exact(f"{text.rstrip()}\n")


def _excerpts(texts: list[str], most: int = 6) -> list[list[str]]:
    """Of each text the lines from where they begin to differ, at most so many; … stands for what is left out."""
    split = [text.rstrip("\n").split("\n") for text in texts]
    same = 0
    while all(len(lines) > same for lines in split) and len({lines[same] for lines in split}) == 1:
        same += 1
    start = same - 1 if same >= most else 0  # what the first lines show anyway is not skipped
    return [["…"] * (start > 0) + lines[start : start + most] + ["…"] * (len(lines) > start + most) for lines in split]


def resolve(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `replica conflicts` prints it, or its first 4 digits.")],
    keep: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Keep this one: v1, v2, merged, a clone's name; of similar ones: both."),
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Put this in its place; - reads stdin.")] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Settle a conflict, on every clone. The versions that go stay in the history.

    On a terminal, without --keep and --text, your editor ($VISUAL, $EDITOR) opens with all versions.

    Example: replica resolve 3fa8 --keep v2
    """
    chosen, file = None if text is None else text_or_stdin(text), None
    if keep is None and text is None and sys.stdin.isatty() and sys.stdout.isatty():
        chosen, file = _edited(folder, id)
        if chosen is None:
            words("nothing changed")
            return
    try:
        with opened(folder) as clone:
            id, document, now = _settle(clone, id, keep, chosen)
            publish(clone, document)
            left = len(_waiting(clone))
    except ReplicaError as error:
        if file is not None:
            error.hint = f"{error.hint or 'try again'}; what you wrote is in {file}"
        raise
    if file is not None:
        file.unlink(missing_ok=True)
    if json:
        emit({"id": id, "document": document, "text": now, "left": left})
    else:
        words(f"{document}: settled; {counted(left, 'conflict')} left")


def _settle(clone: "Clone", id: str, keep: str | None, text: str | None) -> tuple[str, str, str]:
    """Returns the whole id, the document, and what stands there now."""
    from replica import decisions, similar
    from replica.cloud import decide

    if similar.is_id(id):
        pair = similar.find(clone, id)
        return pair.id, pair.one.document.path, similar.resolve(clone, pair, keep=keep, text=text)
    one = decide.find(clone, id)
    if one is not None:
        return one.conflict.id, one.conflict.path, decide.resolve(clone, one, keep=keep, text=text)
    conflict, now = decisions.resolve(clone, id, keep=keep, text=text)
    return conflict.id, conflict.path, now


def _edited(folder, id: str) -> "tuple[str | None, Path]":
    """The text that a person makes of all versions in an editor; nothing of the clone is locked meanwhile."""
    from cli import editing
    from replica import decisions, similar
    from replica.cloud import decide

    with opened(folder) as clone:
        root = clone.root
        if similar.is_id(id):
            one = _as_waiting(clone, similar.find(clone, id))
        else:
            cloud = decide.find(clone, id)
            meant = (cloud.conflict if cloud else decisions.find(clone, id)).id
            one = next(each for each in _waiting(clone) if each.id == meant)
    versions = [editing.Shown(version["version"], _who(version), version["text"]) for version in one.versions]
    text, file = editing.settle(root, one.id, one.document, versions)
    if text is None:
        file.unlink(missing_ok=True)
    return text, file


Line = Annotated[
    list[str] | None,
    typer.Option("--line", metavar="ID", help="A line of level 0 of that file, as `replica status` lists it."),
]


def accept(files: Documents = None, line: Line = None, folder: Dir = None, json: Json = False) -> None:
    """Let through what the guard holds back.

    What the files say becomes the documents. What a cloud memory has lost is taken away here, too. A line that stays on
    this clone since it may be one of level 0 is shared where it is named.

    Example: replica accept lessons-buffer.md
    """
    _decide(files or [], line or [], folder, json, accept=True)


def reject(files: Documents = None, line: Line = None, folder: Dir = None, json: Json = False) -> None:
    """Undo what the guard holds back.

    The files become the documents again. What they held is kept in .replica/rejected. What a cloud memory has lost is
    stored there again with the next export. A line that may be one of level 0 stays on this clone where it is named.

    Example: replica reject lessons-buffer.md
    """
    _decide(files or [], line or [], folder, json, accept=False)


def _decide(files: list[str], lines: list[str], folder, json: bool, *, accept: bool) -> None:
    from replica.bridge import Bridge
    from replica.cloud import decide

    with opened(folder) as clone:
        chosen, bridge = [document_path(clone, path) for path in files], Bridge(clone)
        if lines:
            done = _decide_lines(bridge, chosen, lines, accept=accept)
        else:
            done = _decide_files(clone, bridge, chosen, accept=accept)
        files_left = [row["path"] for row in [*bridge.holds.held(), *decide.held(clone)]]
        lines_left = bridge.withheld.rows()
        publish(clone)
    _tell("accepted" if accept else "rejected", done, files_left, lines_left, json=json)


def _decide_lines(bridge: "Bridge", chosen: list[str], lines: list[str], *, accept: bool) -> list[str]:
    if len(chosen) != 1:
        raise UsageError("--line needs the one file that it is in", hint="replica accept lessons-buffer.md --line 3f9c")
    (bridge.accept_lines if accept else bridge.reject_lines)(chosen[0], lines)
    return chosen


def _decide_files(clone: "Clone", bridge: "Bridge", chosen: list[str], *, accept: bool) -> list[str]:
    from replica.cloud import decide

    waiting = {row["path"] for row in bridge.holds.held()}
    in_cloud = {row["path"] for row in decide.held(clone)}
    for path in set(chosen) - waiting - in_cloud:
        with_lines = bridge.withheld.rows([path])
        if with_lines:
            command = f"replica {'accept' if accept else 'reject'} {path} --line {with_lines[0]['line'][:12]}"
            raise UsageError(f"of {path!r} lines wait: name each that you mean", hint=f"`{command}`")
        bridge.holds.chosen([path])  # it is not held
    settled = decide.settle(clone, chosen, accept=accept)
    files = [path for path in chosen if path in waiting]
    if files or (waiting and not chosen):
        (bridge.accept if accept else bridge.reject)(files)
    left = {row["path"] for row in [*bridge.holds.held(), *decide.held(clone)]}
    return sorted((set(files or ([] if chosen else waiting)) | set(settled)) - left)


def _tell(what: str, done: list[str], files: list[str], lines: list[dict], *, json: bool) -> None:
    left = list(dict.fromkeys([*files, *(row["path"] for row in lines)]))
    if json:
        emit({what: done, "held": left})
        return
    for path in done:
        words(f"{what}: {path}")
    if not done:
        words("nothing is held back" if not left else "nothing changed")
    if files:
        words(f"still held: {', '.join(dict.fromkeys(files))}")
    for row in lines:
        words(f"{row['path']}: {row['what']}")
