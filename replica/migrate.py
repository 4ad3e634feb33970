"""Reorganise an existing memory bank: reference documents out to `Docs/`, captures renamed to the buffer pattern.

A plan first, then files are moved on the disk and documents follow as after any save. What was moved is kept in a
record under .replica/, written before the first move: a migration that was cut short goes on, and one that is done can
be undone.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from replica import filetext, paths
from replica.blocks import ENTRY, parse
from replica.bridge import Bridge
from replica.clone import Clone
from replica.disk import flush_folder
from replica.errors import NotFound, StoreError, UnsafePath
from replica.places import CONFIG, FOLDER

RECORDS = "migrations"  # in .replica/: one file a migration, the last is the one that is undone
SHORT = 60  # lines with words, up to which a list of bullets reads as a buffer
LONG_FORM = 40  # the same, from which a file of patterns reads as reference

# The first that fits the name of a file (lower case, without .md and whatever parts its words) counts.
# A target that ends in "/" is a folder, any other a name beside the file; "": it is in order where it is.
RULES: tuple[tuple[str, str], ...] = (
    (r"readme|index|claude|agents|gemini|memory|template|progress", ""),
    (r"activecontext|currentcontext|currentstate|currentfocus", "activeContext.md"),
    (r"sessionlog|sessionslog|worklog", "SESSION_LOG.md"),
    (r"decisionsinbox|decisions|decisionlog|decisionslog|pendingdecisions", "decisions-inbox.md"),
    (r"lessons|lessonslearned|learnings|lessonsbuffer", "lessons-buffer.md"),
    (r"systempatterns|designpatterns", "Docs/03-Reference/"),
    (r"patterns|codepatterns|patternsbuffer", "patterns-buffer.md"),
    (r"adr\d+.*", "Docs/03-Reference/ADR/"),
    (r"postmortem.*|incident.*|.*postmortem", "Docs/06-PostMortems/"),
    (r"projectbrief|productcontext|product|vision|roadmap|requirements|prd|goals|scope", "Docs/01-Product/"),
    (r"(system|software)?architecture.*|techcontext|techstack|stack|design|systemdesign|database.*|schema.*"
     r"|datamodel|infrastructure|integrations?", "Docs/02-Architecture/"),
    (r"api.*|.*api|reference|glossary|conventions|codingstandards|styleguide|security|testing|configuration|cli",
     "Docs/03-Reference/"),
    (r"guide.*|.*guide|howto.*|setup|install(ation)?|onboarding|deploy(ment|ing)?|runbooks?|release.*|.*checklist",
     "Docs/04-Guides/"),
    (r"research.*|.*research|benchmarks?|investigation.*|analysis", "Docs/05-Research/"),
)  # fmt: skip


class Move(NamedTuple):
    """`why`: the kind of thing it is taken for."""

    path: str
    to: str
    why: str


class Left(NamedTuple):
    path: str
    reason: str


class Migration(NamedTuple):
    moves: list[Move]
    left: list[Left]


# --- the plan


def plan(clone: Clone, bank: str | None = None) -> Migration:
    """What would be moved of the documents in the folder `bank` ("" for the clone's own), and what stays and why.

    None: `memory-bank/` if there is one. An unfinished migration is the plan.

    Raises NotFound: there is no such folder.
    """
    if (unfinished := _unfinished(clone)) is not None:
        return Migration([Move(*move[:3]) for move in unfinished["moves"]], [])
    if bank is None:
        bank = "memory-bank" if (clone.root / "memory-bank").is_dir() else ""
    if bank and not (clone.root / bank).is_dir():
        raise NotFound(f"no folder {bank!r} in this clone", hint="name a folder below the clone's, or leave it out")
    moves, left = [], []
    taken = {paths.clash_key(path): path for path in _there(clone)}
    for document in clone.documents.all():
        if not _is_in(document.path, bank) or document.path == CONFIG:
            continue
        to, why = destination(document.path, clone.documents.text(document), bank)
        if not to:
            if why:
                left.append(Left(document.path, why))
            continue
        reason = _obstacle(clone, document, to, taken)
        if reason:
            left.append(Left(document.path, reason))
        else:
            taken[paths.clash_key(to)] = to
            moves.append(Move(document.path, to, why))
    return Migration(moves, left)


def _is_in(path: str, bank: str) -> bool:
    """Whether a path is of the bank: in its folder or below, and not among what is in order already."""
    inside = path.startswith(bank + "/") if bank else True
    return inside and "Docs" not in path.split("/")[:-1]


def destination(path: str, text: str, bank: str = "") -> tuple[str, str]:
    """Where a file in the folder `bank` belongs by its name and content, and what it is taken for.

    "" and a reason: it stays. Without a reason: it is where it belongs.
    """
    parent, slash, name = path.rpartition("/")
    stem = re.sub(r"[^a-z0-9]", "", name.removesuffix(".md").lower())
    target = next((target for pattern, target in RULES if re.fullmatch(pattern, stem)), None)
    if target == "" or name == target or name.endswith("-buffer.md"):
        return "", ""
    if target == "patterns-buffer.md" and _is_long_form(text):
        return "Docs/03-Reference/Patterns.md", "reference"
    if target is not None and target.endswith("/"):
        return target + name, "reference"
    if target is not None:
        return parent + slash + target, "buffer" if target.endswith("-buffer.md") else "well-known name"
    if parent == bank and _is_list(text):
        return f"{parent}{slash}{name.removesuffix('.md')}-buffer.md", "buffer"
    return "", "neither a known name nor a short list; move it yourself if it belongs elsewhere"


def _words(text: str) -> int:
    return sum(1 for line in text.split("\n") if line.strip())


def _is_long_form(text: str) -> bool:
    return _words(text) > LONG_FORM and not _is_list(text)


def _is_list(text: str) -> bool:
    """Whether it is mostly bullets, and short."""
    entries = [block for block in parse(filetext.canonical(text), "union") if block.role == ENTRY]
    bullets = [block for block in entries if re.match(r" {0,3}[-*+][ \t]", block.text)]
    return bool(bullets) and 2 * len(bullets) > len(entries) and _words(text) <= SHORT


def _there(clone: Clone) -> Iterator[str]:
    yield from (document.path for document in clone.documents.all())
    yield from (path for (path,) in clone.store.rows("SELECT path FROM files"))


def _obstacle(clone: Clone, document, to: str, taken: dict[str, str]) -> str:
    """Why a document cannot be moved there, or ""."""
    old, new = clone.rule(document.path), clone.rule(to)
    try:
        place, file = paths.resolve(clone.root, to), paths.resolve(clone.root, document.path)
    except UnsafePath as error:
        return str(error)
    if (other := taken.get(paths.clash_key(to), document.path)) != document.path:
        return f"{other} is there already"
    if _is_there(file, place):
        return f"a file {to} is there already"
    if not file.is_file():
        return "it is no file here yet"
    if new is None:
        return f"no rule of replica.toml makes {to} a document: it would not be shared any more"
    if old is None or new.level != old.level:
        return f"{to} is of level {new.level}, and it is not"
    private = document.private is not None and clone.store.value("SELECT 1 FROM alive WHERE doc=?", (document.private,))
    if private and new.level:
        return "it holds what is of level 0, which a move would share"
    if clone.store.value("SELECT 1 FROM held WHERE path=?", (document.path,)):
        return "it is held back: decide that first (`replica status`)"
    return ""


# --- carrying it out


def carry_out(clone: Clone, planned: Migration) -> Migration:
    """Move the files and let the documents follow. Repeated after a crash, it goes on where it stopped.

    Returns what was moved, and what was not since the plan was made.
    """
    bridge = Bridge(clone)
    with bridge.at_rest():
        record = _unfinished(clone) or _begin(clone, planned.moves)
        moved, left = [], list(planned.left)
        for path, to, why, digest in record["moves"]:
            reason = _move(clone.root, path, to)
            if reason:
                left.append(Left(path, reason))
            else:
                moved.append([path, to, why, digest])
        _follow(bridge, [path for path, *_ in moved])
        record.update(moves=moved, done=True)
        _write(clone, record) if moved else _forget(clone, record)
    return Migration([Move(path, to, why) for path, to, why, _ in moved], left)


def _follow(bridge: Bridge, gone: list[str]) -> None:
    """Take in what was moved: that so many files went at once is no accident here."""
    bridge.run(every=True, force=gone, wait=True)


def _move(root: Path, path: str, to: str) -> str:
    """Rename a file without overwriting another; why not, or "". A move that was done before is done."""
    try:
        source, target = paths.resolve(root, path), paths.resolve(root, to)
        if _is_respelled(source, target):
            return _respell(source, target)
        if target.is_file() and (not source.exists() or os.path.samefile(source, target)):
            source.unlink(missing_ok=True)  # it died between the two names
            return ""
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        _rename(source, target)
        for place in {source.parent, target.parent, *(parent.parent for parent in made)}:
            flush_folder(place)
    except UnsafePath as error:
        return str(error)
    except FileExistsError:
        return f"a file {to} is there already"
    except OSError as error:
        return f"it cannot be moved: {error.strerror}"
    return ""


def _is_respelled(source: Path, target: Path) -> bool:
    """Whether two names differ in case alone: to some file systems they are one."""
    return paths.clash_key(source.name) == paths.clash_key(target.name) and source.parent == target.parent


def _is_there(source: Path, target: Path) -> bool:
    """Whether something else than `source` has the name of `target`."""
    return target.name in os.listdir(target.parent) if _is_respelled(source, target) else target.exists()


def _respell(source: Path, target: Path) -> str:
    """As `_move`. What the folder lists counts: where case does not, both names lead to the one file there is."""
    names = os.listdir(source.parent)
    if source.name in names:
        if target.name in names:
            return f"a file {target.name} is there already"
        os.rename(source, target)
        flush_folder(source.parent)
    return "" if target.name in names or source.name in names else "it is not there any more"


def _rename(source: Path, target: Path) -> None:
    """Raises FileExistsError: by way of a second name, since a rename would replace what came there meanwhile."""
    try:
        os.link(source, target, follow_symlinks=False)
        source.unlink()
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without hard links
        if target.exists():
            raise FileExistsError(errno.EEXIST, "it is there", str(target)) from None
        os.rename(source, target)


# --- undo


def undo(clone: Clone, *, dry_run: bool = False) -> Migration:
    """Put back what the last migration moved: byte for byte where nothing was edited since; the rest is named.

    Moves are given as they go now, from where a file is to where it was.
    """
    record = _last(clone)
    if record is None:
        return Migration([], [])
    bridge = Bridge(clone)
    moved, left, stay = [], [], []
    bridge.run(every=True, wait=True)
    with bridge.at_rest():
        for path, to, why, digest in reversed(record["moves"]):
            reason = _edited(clone, to, path, digest)
            if not reason and not dry_run:
                reason = _move(clone.root, to, path)
            if reason:
                left.append(Left(to, reason))
                stay.append([path, to, why, digest])
            else:
                moved.append(Move(to, path, why))
        if not dry_run:
            for move in moved:
                _tidy_folders(clone.root, move.path)
            _follow(bridge, [move.path for move in moved])
            record["moves"] = stay[::-1]
            _write(clone, record) if stay else _forget(clone, record)
    return Migration(moved, left)


def _edited(clone: Clone, now: str, before: str, digest: str) -> str:
    """Why a file is not put back, or ""."""
    try:
        file, target = paths.resolve(clone.root, now), paths.resolve(clone.root, before)
    except UnsafePath as error:
        return str(error)
    if not file.is_file():
        return "" if target.is_file() and _digest(target) == digest else "it is not there any more"
    if _digest(file) != digest:
        return f"it was edited since; it was {before}"
    if _is_there(file, target):
        return f"a file {before} is there now"
    return ""


def _tidy_folders(root: Path, path: str) -> None:
    """Remove the folders that are empty without this file."""
    for parent in Path(path).parents:
        if parent == Path("."):
            return
        try:
            (root / parent).rmdir()
        except OSError:
            return


# --- the record


def _records(clone: Clone) -> list[Path]:
    return sorted((clone.root / FOLDER / RECORDS).glob("*.json"))


def _last(clone: Clone) -> dict[str, Any] | None:
    files = _records(clone)
    if not files:
        return None
    try:
        return {**json.loads(files[-1].read_text("utf-8")), "file": files[-1].name}
    except (ValueError, OSError) as error:
        raise StoreError(
            f"the record of the last migration cannot be read ({type(error).__name__})",
            hint=f"move the files by hand, then delete {FOLDER}/{RECORDS}/{files[-1].name}",
        ) from None


def _unfinished(clone: Clone) -> dict[str, Any] | None:
    record = _last(clone)
    return record if record is not None and not record["done"] else None


def _begin(clone: Clone, moves: list[Move]) -> dict[str, Any]:
    number = int(_records(clone)[-1].stem) + 1 if _records(clone) else 1
    digests = [_digest(clone.root / move.path) for move in moves]
    record = {
        "file": f"{number:04d}.json", "done": False,
        "moves": [[*move, digest] for move, digest in zip(moves, digests, strict=True)],
    }  # fmt: skip
    _write(clone, record)
    return record


def _write(clone: Clone, record: dict[str, Any]) -> None:
    """Durable before anything relies on it."""
    place = clone.root / FOLDER / RECORDS
    place.mkdir(exist_ok=True)
    flush_folder(place.parent)
    beside = place / f"{record['file']}.new"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump({key: value for key, value in record.items() if key != "file"}, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, place / record["file"])
    flush_folder(place)


def _forget(clone: Clone, record: dict[str, Any]) -> None:
    place = clone.root / FOLDER / RECORDS
    (place / record["file"]).unlink(missing_ok=True)
    flush_folder(place)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
