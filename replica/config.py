"""`replica.toml`: which files are documents, how each merges, and the limits. Text in, frozen values out, no disk.

The file is written by people and shared by all clones, so every error names its line, its key and what would be right.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from replica.errors import ConfigError, UnsafePath
from replica.paths import normal

FILE = "replica.toml"
POLICIES = ("latest", "union", "log", "text")
CADENCES = ("live", "session", "daily", "weekly")
# The file comes from any member, so it is bounded before anything is made of it.
MAX_TEXT = 100_000  # characters of the file
MAX_PARTS = 32  # parts of a key: a.b.c has three
MAX_LISTED = 500  # globs or [[documents]]: each is asked of every file
MAX_GLOB = 300  # characters
MAX_SHOWN = 100  # characters of a value that an error repeats
LEVELS = (0, 1, 2)  # this clone, the workspace, the workspace and the cloud

HEAD = """\
# Which files are shared, and how each merges. This file is shared too: an edit here reaches every clone.
# The first [[documents]] whose glob fits a file is the one that counts. docs/configuration.md explains every key.

# Files that are no documents although a glob fits them. ** crosses folders, * stays within one.
exclude = ["**/.*/**", "**/node_modules/**"]

[limits]
document = "1MB"   # larger files are left alone, and listed

[guard]            # what looks like an accident waits for `replica accept`
entries = 10       # more entries than this gone at once ...
share = 0.5        # ... and more than this share of the document
files = 5          # more files than this gone at once

[history]
days = 30          # what everybody has is kept change by change for so long; older changes are folded together
away = 90          # a member not heard of for so many days does not hold that up; it catches up when it is back
"""

WELL_KNOWN = """\
# What is going on now: one text. The newest version is shown; of versions written at the same time all are kept.
[[documents]]
glob = "**/activeContext.md"
policy = "latest"

# Buffers: all entries of all clones, each once. When a buffer is full, `replica harvest` moves it into its document.
[[documents]]
glob = "**/patterns-buffer.md"
policy = "union"
harvest = { lines = 20, into = "Docs/03-Reference/Patterns.md" }

[[documents]]
glob = "**/lessons-buffer.md"
policy = "union"
harvest = { lines = 15, into = "Docs/06-PostMortems/" }

[[documents]]
glob = "**/decisions-inbox.md"
policy = "union"
harvest = { entries = 5, into = "Docs/03-Reference/ADR/" }

[[documents]]
glob = "**/*-buffer.md"
policy = "union"

# What buffers are harvested into, entry by entry: two clones that harvest the same one write it once.
[[documents]]
glob = "**/Docs/03-Reference/Patterns.md"
policy = "union"

# The log: lines are added and never changed.
[[documents]]
glob = "**/SESSION_LOG.md"
policy = "log"
"""

REST = """\
# All other markdown: merged character by character.
[[documents]]
glob = "**/*.md"
policy = "text"
"""

DEFAULT = f"{HEAD}\n{WELL_KNOWN}\n{REST}"


@dataclass(frozen=True, slots=True)
class Limits:
    """`document`: the most bytes that a document may have."""

    document: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Guard:
    """Held: removals of more than `entries` that are more than `share` (0 to 1) of a document, or of more `files`."""

    entries: int = 10
    files: int = 5
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class History:
    """`days`: how long changes are kept one by one. `away`: days after which a silent member is not waited for."""

    days: int = 30
    away: int = 90


@dataclass(frozen=True, slots=True)
class Recall:
    """`embedder`: what `replica recall` finds meaning by (replica/cloud/embed)."""

    embedder: str = "auto"


@dataclass(frozen=True, slots=True)
class Sessions:
    """`timezone`: where a day of the session logs ends, as `Europe/Berlin`; None: as on each clone's host."""

    timezone: str | None = None


@dataclass(frozen=True, slots=True)
class Harvest:
    """Due at any of its thresholds. `into`: a file, or a folder (ends in "/"). `owner`: a clone or persona."""

    into: str
    lines: int | None = None
    entries: int | None = None
    bytes: int | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """How the files that `glob` fits are shared."""

    glob: str
    policy: str = "text"
    cadence: str = "live"
    level: int = 1
    harvest: Harvest | None = None
    pattern: re.Pattern = field(default=re.compile(""), compare=False, repr=False)

    def fits(self, path: str) -> bool:
        return self.pattern.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Scope:
    """Documents that are kept apart in a service: by tags, and in a namespace of their own there."""

    documents: tuple[str, ...]
    tags: tuple[str, ...] = ()
    namespace: str | None = None
    patterns: tuple[re.Pattern, ...] = field(default=(), compare=False, repr=False)

    def fits(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self.patterns)


@dataclass(frozen=True)
class Config:
    """A valid `replica.toml`. `sinks`: name to its keys, as they were written. `scopes`: by name, in their order."""

    name: str | None
    limits: Limits
    guard: Guard
    history: History
    exclude: tuple[str, ...]
    rules: tuple[Rule, ...]
    sinks: dict[str, dict[str, Any]]
    scopes: dict[str, Scope]
    recall: Recall = Recall()
    sessions: Sessions = Sessions()

    @cached_property
    def _excluded(self) -> tuple[re.Pattern, ...]:
        return tuple(re.compile(glob_pattern(glob)) for glob in self.exclude)

    def excluded(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self._excluded)

    def rule(self, path: str) -> Rule | None:
        """The first rule that fits `path` (relative, "/", NFC); None: it is excluded, or no rule fits."""
        if self.excluded(path):
            return None
        return next((rule for rule in self.rules if rule.fits(path)), None)


def load(text: str) -> Config:
    """Read `replica.toml`. What it does not say has the values of `DEFAULT`.

    Raises ConfigError: the message names the line and the key.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{FILE} has {len(text):,} characters; the limit is {MAX_TEXT:,}")
    try:
        text = text.removeprefix("\ufeff")
        _bound_keys(text)
        data = _parsed(text)
        return _config(data, text)
    except RecursionError:
        raise ConfigError(f"{FILE}, line 1: nested too deeply") from None


def _bound_keys(text: str) -> None:
    """Raise where a key has many parts: the parser's time and memory grow with their square, without a bound."""
    dots, line = 0, 1
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "mark":
            dots = dots + 1 if found[0] == "." else 0
        elif found.lastgroup == "newline":
            dots = 0
        if dots >= MAX_PARTS:
            raise ConfigError(f"{FILE}, line {line}: a key of more than {MAX_PARTS} parts")
        line += found[0].count("\n")


def _parsed(text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except ValueError as error:  # not only TOMLDecodeError: a number of 5,000 digits is a plain ValueError
        found = re.fullmatch(r"(.*?)(?: \(at (?:line (\d+), column \d+|end of document)\))?", str(error), re.DOTALL)
        line = found[2] or (text.rstrip().count("\n") + 1 if "end of document" in str(error) else 1)
        raise ConfigError(f"{FILE}, line {line}: {found[1][:1].lower()}{found[1][1:MAX_SHOWN]}") from None


# --- checking values: each check returns the value to use, or raises _Wrong


class _Wrong(Exception):
    """What is wrong with a value, and under which key of it (a path from the value inwards)."""

    def __init__(self, what: str, *path: str | int):
        super().__init__(what)
        self.what, self.path = what, path


Check = Callable[[Any], Any]


def _config(data: dict[str, Any], text: str) -> Config:
    try:
        found = _table(
            {
                "workspace": _record(dict, {"name": _text}),
                "limits": _record(Limits, {"document": _size}),
                "guard": _record(Guard, {"entries": _count, "files": _count, "share": _share}),
                "history": _record(History, {"days": _days, "away": _days}),
                "exclude": _list(_glob),
                "documents": _list(_rule),
                "sinks": _sinks,
                "scopes": _scopes,
                "recall": _record(Recall, {"embedder": _embedder}),
                "sessions": _record(Sessions, {"timezone": _timezone}),
            }
        )(data)
    except _Wrong as error:
        key = ".".join(part[:MAX_SHOWN] for part in error.path if isinstance(part, str))
        raise ConfigError(f"{FILE}, line {_line_of(text, error.path)}: `{key}`: {error.what}") from None
    default = load(DEFAULT) if "documents" not in found or "exclude" not in found else None
    return Config(
        name=found.get("workspace", {}).get("name"),
        limits=found.get("limits", Limits()),
        guard=found.get("guard", Guard()),
        history=found.get("history", History()),
        exclude=tuple(found["exclude"]) if "exclude" in found else default.exclude,
        rules=tuple(found["documents"]) if "documents" in found else default.rules,
        sinks=found.get("sinks", {}),
        scopes=found.get("scopes", {}),
        recall=found.get("recall", Recall()),
        sessions=found.get("sessions", Sessions()),
    )


def _table(checks: dict[str, Check]) -> Check:
    def check(value: Any) -> dict[str, Any]:
        _expect(isinstance(value, dict), "must be a table")
        found = {}
        for key, inner in value.items():
            if key not in checks:
                raise _Wrong(f"no such key{_nearest(key, checks)}", key)
            found[key] = _inside(key, checks[key], inner)
        return found

    return check


def _record(kind: Callable, checks: dict[str, Check], required: str = "") -> Check:
    def check(value: Any) -> Any:
        found = _table(checks)(value)
        _expect(not required or required in found, f"`{required}` is missing")
        return kind(**found)

    return check


def _list(check_one: Check) -> Check:
    def check(value: Any) -> list[Any]:
        _expect(isinstance(value, list), "must be a list")
        _expect(len(value) <= MAX_LISTED, f"has {len(value):,} parts; the limit is {MAX_LISTED}")
        return [_inside(index, check_one, inner) for index, inner in enumerate(value)]

    return check


def _inside(key: str | int, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except _Wrong as error:
        raise _Wrong(error.what, key, *error.path) from None


def _expect(right: bool, what: str) -> None:
    if not right:
        raise _Wrong(what)


def _text(value: Any) -> str:
    _expect(isinstance(value, str) and bool(value.strip()), "must be a text in quotes, not empty")
    return value


def _count(value: Any) -> int:
    _expect(type(value) is int and value >= 0, "must be a whole number, 0 or more")
    return value


def _days(value: Any) -> int:
    _expect(type(value) is int and 0 <= value <= 36_500, "must be a whole number of days, 0 to 36500")
    return value


def _threshold(value: Any) -> int:
    _expect(type(value) is int and value >= 1, "must be a whole number, 1 or more")
    return value


def _share(value: Any) -> float:
    _expect(type(value) in (int, float) and 0 <= value <= 1, "must be a number from 0 to 1")
    return float(value)


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def _size(value: Any) -> int:
    text = _shown(value).lower() if type(value) in (int, str) else ""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?) ?([a-z]*)", text)
    _expect(found is not None and found[2] in _UNITS, 'must be a size such as 500000, "500kB" or "1MB"')
    size = int(float(found[1]) * _UNITS[found[2]])
    _expect(size > 0, "must be more than nothing")
    return size


def _one_of(choices: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        shown = repr(_shown(value)) if isinstance(value, str) else f"{_shown(value)} is no text;"
        known = ", ".join(choices)
        _expect(isinstance(value, str) and value in choices, f"{shown} is not one of {known}{_nearest(value, choices)}")
        return value

    return check


def _level(value: Any) -> int:
    _expect(type(value) is int and value in LEVELS, "must be 0 (this clone), 1 (the workspace) or 2 (and the cloud)")
    return value


def _place(value: Any) -> str:
    """A path below the root; one that ends in "/" is a folder."""
    _text(value)
    try:
        return normal(value.removesuffix("/")) + "/" * value.endswith("/")
    except UnsafePath as error:
        raise _Wrong(str(error)) from None


def _harvest(value: Any) -> Harvest:
    thresholds = {"lines": _threshold, "entries": _threshold, "bytes": _size}
    harvest = _record(Harvest, {**thresholds, "into": _place, "owner": _text}, required="into")(value)
    _expect(any(key in value for key in thresholds), "needs one of lines, entries, bytes: when is it due?")
    return harvest


def _glob(value: Any) -> str:
    _text(value)
    _expect(len(value) <= MAX_GLOB, f"is longer than {MAX_GLOB} characters")  # before it is composed: see paths.normal
    value = unicodedata.normalize("NFC", value)
    parts = value.removesuffix("/").split("/")
    _expect("\\" not in value, "separate folders by /")
    _expect(not value.startswith("/"), "a glob is relative to the clone's folder: leave out the / at its start")
    _expect(not {"", ".", ".."} & set(parts), "a glob has no empty part, no . and no ..")
    _expect(all(part == "**" or "**" not in part for part in parts), "** stands alone between slashes: **/*.md")
    return value


def _rule(value: Any) -> Rule:
    checks = {
        "glob": _glob,
        "policy": _one_of(POLICIES),
        "cadence": _one_of(CADENCES),
        "level": _level,
        "harvest": _harvest,
    }
    found = _record(dict, checks, required="glob")(value)
    return Rule(**found, pattern=re.compile(glob_pattern(found["glob"]), re.DOTALL))


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _name(value: Any) -> str:
    right = isinstance(value, str) and NAME.fullmatch(value) is not None
    _expect(right, "must be a name: up to 64 letters, digits, and . _ - between them")
    return value


def _scopes(value: Any) -> dict[str, Scope]:
    _expect(isinstance(value, dict), "must be a table of tables: [scopes.NAME]")
    checks = {"documents": _list(_glob), "tags": _list(_text), "namespace": _name}
    found = {}
    for name, keys in value.items():
        given = _inside(name, _record(dict, checks, required="documents"), keys)
        _inside(name, _name, name)
        patterns = tuple(re.compile(glob_pattern(glob), re.DOTALL) for glob in given["documents"])
        found[name] = Scope(tuple(given["documents"]), tuple(given.get("tags", ())), given.get("namespace"), patterns)
    return found


def _sinks(value: Any) -> dict[str, dict[str, Any]]:
    _expect(isinstance(value, dict), "must be a table")
    for name, keys in value.items():
        if not isinstance(keys, dict):
            raise _Wrong("must be a table: [sinks.NAME]", name)
    return value


def _embedder(value: Any) -> str:
    from replica.cloud.embed import fault_in

    wrong = fault_in(_text(value))
    _expect(not wrong, wrong)
    return value


_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")


def _timezone(value: Any) -> str:
    """A zone's name. Where the host has no list of zones it is taken by its form: another host knows it."""
    from zoneinfo import ZoneInfo

    def is_known(name: str) -> bool:
        try:
            return bool(ZoneInfo(name))
        except (KeyError, ValueError, OSError):
            return False

    formed = isinstance(value, str) and _ZONE.fullmatch(value) is not None
    known = formed and (is_known(value) or not is_known("Europe/London"))
    _expect(known, f'no time zone is called {_shown(value)!r}; name one as "Europe/Berlin" or "UTC"')
    return value


def _nearest(word: Any, known) -> str:
    from difflib import get_close_matches

    near = get_close_matches(_shown(word).lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _shown(value: Any) -> str:
    """A value for a message, or the beginning of it."""
    # Python refuses to write large numbers in decimal digits.
    text = hex(value) if type(value) is int and value.bit_length() > 64 else str(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


# --- globs


def glob_pattern(glob: str) -> str:
    """The regular expression of a glob, for `fullmatch`.

    The file comes from any member, so no glob may take more than quadratic time: what follows a star is taken at its
    first place and not tried again (atomic groups), which is right for all but the last star of a row.
    """
    parts = (glob + "**" if glob.endswith("/") else glob).split("/")
    groups: list[list[str]] = [[]]  # the parts between one ** and the next
    for part in parts:
        if part == "**":
            groups.append([])
        else:
            groups[-1].append(_part_pattern(part))
    first, *rest = groups
    if not rest:
        return "/".join(first)
    middle, last = [group for group in rest[:-1] if group], rest[-1]
    start = "".join(part + "/" for part in first)
    jumps = "".join(f"(?>(?:[^/]+/)*?{''.join(part + '/' for part in group)})" for group in middle)
    return start + jumps + (f"(?:[^/]+/)*{'/'.join(last)}" if last else ".+")


def _part_pattern(part: str) -> str:
    """`*` any characters within a folder's or file's name, `?` one, all else itself."""
    first, *rest = [
        "".join("[^/]" if char == "?" else re.escape(char) for char in fixed)
        for fixed in re.sub(r"\*+", "*", part).split("*")
    ]
    if not rest:
        return first
    return first + "".join(f"(?>[^/]*?{fixed})" for fixed in rest[:-1] if fixed) + f"[^/]*{rest[-1]}"


# --- which line is it

_TOKEN = re.compile(
    r"""(?P<skip>[ \t\r]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<string>\"\"\"(?:\\.|[^\\])*?\"{3,5}|'''.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    |(?P<mark>[\[\]{}=,.])
    |(?P<word>[^\s\[\]{}=,."'\#]+)""",
    re.VERBOSE | re.DOTALL,
)


def _line_of(text: str, path: tuple[str | int, ...]) -> int:
    """The line (from 1) of the key at `path`, or of the nearest table around it."""
    lines = dict(reversed(list(_Lines(text).keys())))  # of a table made in several places, the first
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Lines:
    """Finds the line of each key in a text that is known to be valid TOML (so little has to be checked)."""

    def __init__(self, text: str):
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for found in _TOKEN.finditer(text):
            if found.lastgroup != "skip":
                self._tokens.append((found.lastgroup or "", found[0], line))
            line += found[0].count("\n")
        self._tokens.append(("end", "", line))
        self._at = 0
        self._tables: dict[tuple, int] = {}  # [[tables]] by path: how many so far

    def keys(self) -> Iterator[tuple[tuple, int]]:
        """(path, line) of every key and table, in the order of the text."""
        table: tuple = ()
        while self._kind() != "end":
            if self._kind() == "newline":
                self._at += 1
            elif self._text() == "[":
                line = self._line()
                table = self._header()
                yield table, line
            else:
                yield from self._assignment(table)

    def _header(self) -> tuple:
        self._at += 1
        many = self._text() == "["
        self._at += many
        path = self._key()
        self._at += 1 + many
        # A step through [[tables]] means the last of them so far.
        table: tuple = ()
        for depth, part in enumerate(path, 1):
            table += (part,)
            if many and depth == len(path):
                self._tables[table] = self._tables.get(table, -1) + 1
            if table in self._tables:
                table += (self._tables[table],)
        return table

    def _assignment(self, table: tuple) -> Iterator[tuple[tuple, int]]:
        line = self._line()
        key = self._key()
        path = table + key
        for length in range(len(table) + 1, len(path) + 1):
            yield path[:length], line
        self._at += 1  # =
        yield from self._value(path)

    def _value(self, path: tuple) -> Iterator[tuple[tuple, int]]:
        if self._text() == "{" and self._kind() == "mark":
            yield from self._items(path, "}", lambda _: self._assignment(path))
        elif self._text() == "[" and self._kind() == "mark":
            yield from self._items(path, "]", lambda index: self._element((*path, index)))
        else:  # a plain value is what stands up to the next of these; 1.5 and dates are several tokens
            while self._kind() not in ("newline", "end") and self._text() not in (",", "]", "}"):
                self._at += 1

    def _element(self, path: tuple) -> Iterator[tuple[tuple, int]]:
        yield path, self._line()
        yield from self._value(path)

    def _items(self, path: tuple, close: str, item: Callable[[int], Iterator]) -> Iterator[tuple[tuple, int]]:
        self._at += 1
        index = 0
        while self._kind() != "end" and self._text() != close:
            if self._kind() == "newline" or self._text() == ",":
                self._at += 1
            else:
                yield from item(index)
                index += 1
        self._at += 1

    def _key(self) -> tuple:
        parts = [self._name()]
        while self._text() == ".":
            self._at += 1
            parts.append(self._name())
        return tuple(parts)

    def _name(self) -> str:
        kind, text, _ = self._tokens[self._at]
        self._at += 1
        if kind != "string":
            return text
        import tomllib

        return tomllib.loads(f"key = {text}")["key"]

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _text(self) -> str:
        return self._tokens[self._at][1]

    def _line(self) -> int:
        return self._tokens[self._at][2]
