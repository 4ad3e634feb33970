"""Commands for what waits for a person: conflicts, resolve, accept, reject."""

from typing import Annotated

import typer

from cli.common import (
    Dir,
    Documents,
    Json,
    counted,
    data,
    document_path,
    emit,
    iso,
    local,
    one_line,
    opened,
    publish,
    text_or_stdin,
    words,
)


def conflicts(folder: Dir = None, json: Json = False) -> None:
    """The versions that wait for a decision. Nothing is lost meanwhile: all of them are kept.

    Example: replica conflicts --json
    """
    from replica.cloud import decide

    with opened(folder) as clone:
        found = clone.documents.all_conflicts()
        for conflict in found:
            versions = [
                {
                    "version": version.version, "text": version.text,
                    "clone": clone.author_name(version.clone) if version.clone else None, "time": version.time,
                }
                for version in conflict.versions
            ]  # fmt: skip
            _show_conflict(conflict, versions, json)
        cloud = decide.conflicts(clone)
        for one in cloud:
            here, there = one.conflict.versions
            versions = [
                {"version": here.version, "text": here.text, "clone": clone.name, "time": here.time or None},
                {"version": there.version, "text": there.text, "clone": one.sink, "time": there.time},
            ]
            _show_conflict(one.conflict, versions, json)
    if not found and not cloud and not json:
        words("nothing waits for a decision")


def _show_conflict(conflict, versions: list[dict], json: bool) -> None:
    if json:
        shown = [{**version, "time": iso(version["time"])} for version in versions]
        emit({"id": conflict.id, "document": conflict.path, "kind": conflict.kind, "versions": shown})
        return
    data(f"{conflict.id}  {conflict.path}  ({conflict.kind})")
    shown = _excerpts([version["text"] for version in versions])
    for version, lines in zip(versions, shown, strict=True):
        who = f"{version['clone']}, {local(version['time'])}" if version["clone"] else "as it stands"
        data(f"  {version['version']:8} {who}")
        for line in lines:
            data(f"           {one_line(line)}" if line.strip() else "")
    data(f"  settle it: replica resolve {conflict.id} --keep {versions[0]['version']}")


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
        str | None, typer.Option(metavar="VERSION", help="Keep this version: v1, v2, merged, or a clone's name.")
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Put this in its place; - reads stdin.")] = None,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Settle a conflict, on every clone. The versions that go stay in the history.

    Example: replica resolve 3fa8 --keep v2
    """
    from replica import decisions
    from replica.cloud import decide

    with opened(folder) as clone:
        chosen = None if text is None else text_or_stdin(text)
        one = decide.find(clone, id)
        if one is not None:
            conflict, now = one.conflict, decide.resolve(clone, one, keep=keep, text=chosen)
        else:
            conflict, now = decisions.resolve(clone, id, keep=keep, text=chosen)
        publish(clone, conflict.path)
        left = len(clone.documents.all_conflicts()) + len(decide.conflicts(clone))
    if json:
        emit({"id": conflict.id, "document": conflict.path, "text": now, "left": left})
    else:
        words(f"{conflict.path}: settled; {counted(left, 'conflict')} left")


def accept(files: Documents = None, folder: Dir = None, json: Json = False) -> None:
    """Let through what the guard holds back.

    What the files say becomes the documents. What a cloud memory has lost is taken away here, too.

    Example: replica accept lessons-buffer.md
    """
    from replica.bridge import Bridge
    from replica.cloud import decide

    with opened(folder) as clone:
        chosen = [document_path(clone, path) for path in files or []]
        bridge = Bridge(clone)
        gone = decide.settle(clone, chosen, accept=True)
        waiting = {row["path"] for row in bridge.held()}
        files = [path for path in chosen if path not in gone or path in waiting]
        if (waiting and not chosen) or files:
            bridge.accept(files)
        left = [row["path"] for row in [*bridge.held(), *decide.held(clone)]]
        publish(clone)
    _tell(json, "accepted", sorted((waiting | set(gone)) - set(left)), left)


def reject(files: Documents = None, folder: Dir = None, json: Json = False) -> None:
    """Undo what the guard holds back.

    The files become the documents again. What they held is kept in .replica/rejected. What a cloud memory has lost is
    stored there again with the next export.

    Example: replica reject lessons-buffer.md
    """
    from replica.bridge import Bridge
    from replica.cloud import decide

    with opened(folder) as clone:
        chosen = [document_path(clone, path) for path in files or []]
        bridge = Bridge(clone)
        again = decide.settle(clone, chosen, accept=False)
        waiting = {row["path"] for row in bridge.held()}
        files = [path for path in chosen if path not in again or path in waiting]
        done = bridge.reject(files) if files or (waiting and not chosen) else []
        left = [row["path"] for row in [*bridge.held(), *decide.held(clone)]]
        publish(clone)
    _tell(json, "rejected", sorted({*done, *again}), left)


def _tell(json: bool, what: str, done: list[str], left: list[str]) -> None:
    if json:
        emit({what: done, "held": left})
        return
    for path in done:
        words(f"{what}: {path}")
    if not done:
        words("nothing is held back" if not left else "nothing changed")
    if left:
        words(f"still held: {', '.join(left)}")
