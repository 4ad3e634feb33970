"""What all commands share: which clone is meant, and how things are printed. Data to stdout, words to stderr."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from replica.clone import Clone


def folder_name(given: str) -> Path:
    """The folder that is meant, its ~ resolved.

    Raises UsageError: it is empty, as with an unset variable in a script (that does not mean the current folder), or
    nobody's home.
    """
    from replica.errors import UsageError

    if not given:
        raise UsageError("the name of the folder is empty", hint="name a folder; `.` is the one you are in")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        user = given.split("/")[0]
        raise UsageError(f"no home folder is known for {user!r}", hint="write the whole path") from None


Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", envvar="REPLICA_DIR", parser=folder_name,
        help="The clone's folder, if not this one or above.",
    ),
]  # fmt: skip
Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIR]", parser=folder_name, help="The folder; this one if left out, made if it is not there."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Document = Annotated[str, typer.Argument(metavar="DOCUMENT", help="Its path, as `replica ls` prints it.")]
Documents = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Paths; without any, all of them.")]


# --- which clone, which document


def root_of(folder: Path | None) -> Path:
    """The clone's folder: the one that was named, or the nearest upwards from here. Raises NotAClone."""
    from replica.places import find_root

    return find_root(Path.cwd()) if folder is None else folder.expanduser().absolute()


@contextmanager
def opened(folder: Path | None):
    """The clone that is meant, open for the length of the block."""
    from replica.clone import Clone

    with Clone.open(root_of(folder), certify=certify) as clone:
        if clone.copy_of is not None:
            words(f"This folder is a copy of {clone.copy_of}; it is a clone of its own from now on: {clone.name}.")
        yield clone


def certify(private: bytes, name: str) -> bytes:
    """A clone's certificate; what makes it is loaded when one is needed."""
    from transport.tls import make_certificate

    return make_certificate(private, name)


def document_path(clone: "Clone", given: str) -> str:
    """The path below the clone's root that a person means: from the root, or else from where they are.

    Raises UnsafePath: it leaves the clone, or cannot be a document's path.
    """
    from replica import paths

    place = Path(given)
    if place.is_absolute():
        given = _below(clone.root, place) or given
    elif not _known(clone, given):
        here = _below(clone.root, Path.cwd() / given)
        if here is not None and _known(clone, here):
            given = here
    return paths.normal(given.removeprefix("./"))


def _below(root: Path, place: Path) -> str | None:
    path, base = os.path.normpath(place), os.path.normpath(root)
    for top in (base, os.path.realpath(base)):
        if path.startswith(top + os.sep):
            return path[len(top) + 1 :].replace(os.sep, "/")
    return None


def _known(clone: "Clone", path: str) -> bool:
    return clone.store.value("SELECT 1 FROM documents WHERE path=?", (path.removeprefix("./"),)) is not None


def text_or_stdin(text: str) -> str:
    """`text`, or all of stdin for "-". Raises UsageError: it is not UTF-8."""
    from replica.errors import UsageError

    try:
        text = sys.stdin.buffer.read().decode() if text == "-" else text
        text.encode()
    except UnicodeError:
        raise UsageError("the text is not UTF-8", hint="convert it first, for example with iconv") from None
    return text


# --- the running node


def ask_node(root: Path, request: str, **arguments: Any) -> dict | None:
    """The running node's answer, or None when none is running."""
    from transport import control

    return control.ask(root, request, **arguments)


def publish(clone: "Clone", *documents: str, at_once: bool = False, every: bool = False) -> None:
    """Bring what was just written to the files and the peers: by the running node, or the files by ourselves.

    Whoever changes `documents` by a command expects to see it in their files, whatever their cadence. `at_once`: not
    only when the node comes to it. `every`: documents of every cadence meet their files.
    """
    from transport import control

    waiting = [path for path in documents if (rule := clone.rule(path)) is not None and rule.cadence != "live"]
    if control.poke(clone.root) and not waiting and not at_once and not every:
        return
    from replica.bridge import Bridge

    Bridge(clone).run(documents=waiting, every=every)


# --- printing


@contextmanager
def progress(label: str, quiet: bool):
    """A bar on a terminal, once there is anything to be done; the block gets `tell(done, of how many)`."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    shown: list[Any] = []

    def tell(done: int, total: int) -> None:
        if not shown and total:
            shown.append(typer.progressbar(length=total, label=label, file=sys.stderr))
            shown[0].__enter__()
        if shown:
            shown[0].update(done - shown[0].pos)

    try:
        yield tell
    finally:
        if shown:
            shown[0].__exit__(None, None, None)


def data(text: str) -> None:
    """One line of data. What could steer a terminal, or begin another line there, is shown as what it is."""
    typer.echo(cell(text) if sys.stdout.isatty() else text)


def exact(text: str) -> None:
    """A document's content, to the byte where it goes to a file."""
    typer.echo(harmless(text) if sys.stdout.isatty() else text, nl=False)


def words(text: str) -> None:
    """One line for a person."""
    typer.echo(cell(text), err=True)


def emit(value: Any) -> None:
    """One JSON object on one line."""
    typer.echo(as_json(value))


def as_json(value: Any) -> str:
    """JSON in readable letters, or in ASCII where some of them are none: JSON itself lets most controls through."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=_plain)
    return text if text.isprintable() else json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


# What turns the direction of all that follows: a name could read as another. Marks of single letters are left alone.
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def harmless(text: str) -> str:
    """Text in which nothing steers a terminal: controls made visible, newline and tab left as they are."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" or (ord(c) > 0x9F and c not in _TURNING) else _visible(c) for c in text
    )


def cell(text: str) -> str:
    """As `harmless`, and on one line: what somebody else named does not begin a line of ours."""
    return harmless(text.replace("\n", "\\n").replace("\t", "\\t"))


def _visible(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def table(rows: list[tuple], titles: tuple[str, ...]) -> None:
    """Aligned columns; titles only on a terminal, so that scripts may cut columns."""
    shown = [tuple(cell(str(value)) for value in row) for row in rows]
    if sys.stdout.isatty():
        shown.insert(0, titles)
    widths = [max((len(row[at]) for row in shown), default=0) for at in range(len(titles))]
    for row in shown:
        data("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def one_line(text: str, most: int = 100) -> str:
    """The beginning of a text, on one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def counted(number: int, what: str, many: str = "") -> str:
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def iso(time: int | None) -> str | None:
    """Hybrid time as ISO 8601 in UTC, to the millisecond, for JSON."""
    return None if time is None else iso_ms(time >> 16)


def iso_ms(ms: int | None) -> str | None:
    """Milliseconds since 1970 as ISO 8601 in UTC."""
    from datetime import UTC, datetime

    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # a clock set to a year that no calendar has
        return None


def local(time: int | None) -> str:
    """Hybrid time in this machine's zone, to the second, for people."""
    from datetime import datetime

    if time is None:
        return "-"
    try:
        return datetime.fromtimestamp((time >> 16) / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "?"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def confirmed(question: str, yes: bool) -> bool:
    """Whether to go on. Asks on a terminal only; elsewhere the command itself is the answer."""
    return yes or not sys.stdin.isatty() or typer.confirm(question, err=True)
