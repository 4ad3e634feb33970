"""Backfill and compare: what the logs hold of a day, what memory has of it, and writing what is missing.

A memory folder is a clone's (documents, written as changes) or any other (plain files, replaced whole). What a person
wrote is never lost by any of it: it stands above or below the generated part, and only that is written anew.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, tzinfo
from pathlib import Path
from typing import Protocol

from replica.clone import Clone
from replica.errors import DamagedRecord, DiskFull, DocumentNotFound, ReplicaError, TooLarge
from replica.sessions import daily
from replica.sessions.base import Event, Kind
from replica.sessions.daily import Page, Part, Summary

FOLDER = "memory"  # where daily files are kept, if no folder holds some already
NOTE = re.compile(r"(\d{4}-\d\d-\d\d)\.md")


TRIES = 5  # to write a day that others write at the same time


class Meanwhile(Exception):
    """Somebody else has written the file since it was read; nothing is written."""


class Memory(Protocol):
    """A folder of daily files. `read`: None where there is no file. `write` raises Meanwhile: it is not `old` now."""

    def read(self, day: str) -> str | None: ...
    def path(self, day: str) -> str: ...
    def blocked(self, day: str) -> str: ...
    def write(self, day: str, old: str | None, new: str) -> None: ...
    def days(self) -> list[str]: ...


# --- a clone's folder


class Documents:
    """Daily files that are documents of a clone. What was saved and not taken in yet is to be taken in before."""

    def __init__(self, clone: Clone, folder: str | None = None, held: Mapping[str, str] | None = None):
        self.clone, self._held = clone, held or {}
        self.folder = notes_folder(clone) if folder is None else folder

    def path(self, day: str) -> str:
        return f"{self.folder}/{day}.md" if self.folder else f"{day}.md"

    def read(self, day: str) -> str | None:
        path = self.path(day)
        if self.clone.rule(path) is None:
            return Files(self.clone.root / self.folder).read(day)
        try:
            return self.clone.text(path)
        except DocumentNotFound:
            return None

    def days(self) -> list[str]:
        known = [path for path, _ in self.clone.documents.latest_changes()]
        begin = f"{self.folder}/" if self.folder else ""
        names = [path.removeprefix(begin) for path in known if path.startswith(begin)]
        return sorted({name[:10] for name in names if NOTE.fullmatch(name)})

    def blocked(self, day: str) -> str:
        """Why the file of a day cannot be written to; "" if it can."""
        path = self.path(day)
        rule = self.clone.rule(path)
        if path in self._held:
            return self._held[path]
        if rule is None:
            return Files(self.clone.root / self.folder).blocked(day)
        try:
            self.read(day)
        except DamagedRecord as error:
            return str(error)
        if rule.policy == "log":
            return "its policy is log, and a log only grows: give daily files the policy text in replica.toml"
        return ""

    def write(self, day: str, old: str | None, new: str) -> None:
        """Raises TooLarge: the file would be over its limit; Meanwhile."""
        from replica import tidy

        path = self.path(day)
        if self.clone.rule(path) is None:
            Files(self.clone.root / self.folder).write(day, old, new)
            return
        limit = self.clone.config.limits.document
        if (size := len(new.encode())) > limit:
            raise TooLarge(f"{path} would have {size:,} bytes, over the limit of {limit:,} (limits.document)")
        with self.clone.transaction():
            if self.read(day) != old:
                raise Meanwhile
            tidy.edit_file(self.clone, path, new)

    @property
    def shared(self) -> bool:
        """Whether daily files here are documents at all."""
        return self.clone.rule(self.path("2026-01-01")) is not None


def notes_folder(clone: Clone) -> str:
    """The folder that holds most of the daily notes; `memory` where there are none."""
    count: dict[str, int] = {}
    for path, _ in clone.documents.latest_changes():
        folder, _, name = path.rpartition("/")
        if NOTE.fullmatch(name):
            count[folder] = count.get(folder, 0) + 1
    for folder in ("", FOLDER):
        with suppress(OSError):
            names = os.listdir(clone.root / folder)
            count[folder] = max(count.get(folder, 0), sum(NOTE.fullmatch(name) is not None for name in names))
    best = max(count.items(), key=lambda one: (one[1], one[0] == FOLDER, -len(one[0])), default=(FOLDER, 0))
    return best[0] if best[1] else FOLDER


# --- any other folder


class Files:
    """Daily files in a folder that is no clone's."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, day: str) -> str:
        return str(self.folder / f"{day}.md")

    def read(self, day: str) -> str | None:
        try:
            return (self.folder / f"{day}.md").read_bytes().decode()
        except FileNotFoundError:
            return None

    def days(self) -> list[str]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return sorted(name[:10] for name in names if NOTE.fullmatch(name))

    def blocked(self, day: str) -> str:
        place = self.folder / f"{day}.md"
        if place.is_symlink() or (place.exists() and not place.is_file()):
            return "it is no plain file"
        try:
            self.read(day)
        except UnicodeDecodeError:
            return "it is not UTF-8 text"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        return ""

    def write(self, day: str, old: str | None, new: str) -> None:
        """Beside, and then in its place: a crash leaves the one or the other. Raises OSError, Meanwhile."""
        from replica import folder

        self.folder.mkdir(parents=True, exist_ok=True)
        if self.read(day) != old:
            raise Meanwhile
        folder.write(self.folder.resolve(), f"{day}.md", new.encode())


# --- one day


@dataclass(frozen=True)
class Options:
    """`force`: also where a person edited the generated part, and also what is complete. `preserve`: also above a
    file that a person wrote by hand. `summarise`: (day, events, what stands there) -> markdown."""

    force: bool = False
    preserve: bool = False
    summarise: Callable[[str, list[Event], str], str] | None = None


@dataclass(frozen=True)
class Day:
    """What became of one day. `action`: "created", "updated", "unchanged" or "skipped" (`reason` says why)."""

    date: str
    action: str
    path: str
    messages: int = 0
    models: tuple[str, ...] = ()
    reason: str = ""
    old: str = ""
    new: str = ""


def backfill(
    memory: Memory, day: date, events: list[Event], zone: tzinfo, folders: Mapping[str, Iterable[str]],
    options: Options = Options(), *, dry_run: bool = False,
) -> Day:  # fmt: skip
    """Write one day's file, or find out what would be written; on what others write there meanwhile."""
    if options.summarise is not None:
        options = replace(options, summarise=_asking_once(options.summarise))
    for _ in range(TRIES):
        with suppress(Meanwhile):
            return _filled(memory, day, events, zone, folders, options, dry_run)
    reason = "others are writing it at this moment: run this again"
    return Day(day.isoformat(), "skipped", memory.path(day.isoformat()), reason=reason)


def _asking_once(summarise: Callable[[str, list[Event], str], str]) -> Callable[[str, list[Event], str], str]:
    """For one day: asked again about the same, it says what it said."""
    said: dict[str, str] = {}

    def asked(day: str, events: list[Event], existing: str) -> str:
        if existing not in said:
            said[existing] = summarise(day, events, existing)
        return said[existing]

    return asked


def _filled(
    memory: Memory, day: date, events: list[Event], zone: tzinfo, folders: Mapping[str, Iterable[str]],
    options: Options, dry_run: bool,
) -> Day:  # fmt: skip
    """Raises Meanwhile."""
    name = day.isoformat()
    known = daily.measures(events)
    messages = sum(count for count, _ in known.values())
    done = Day(name, "skipped", memory.path(name), messages, models(events))
    if not known:
        return replace(done, reason="the logs hold no messages of that day")
    if reason := memory.blocked(name):
        return replace(done, reason=reason)
    text = memory.read(name)
    page = daily.parse(text or "")
    if reason := _kept_from(page, text, options):
        return replace(done, reason=reason)
    asked = options.force or options.summarise is not None
    if page.whole and not asked and page.part.date == name and daily.adds_nothing(page.part, known):
        return replace(done, action="unchanged")
    mine = daily.generate(name, events, zone, folders)
    part = _wanted(page, mine, options)
    if options.summarise is not None:
        part = _summarised(part, name, events, options)
    if page.whole and part == page.part:
        return replace(done, action="unchanged")
    if _is_other_tools(page) and page.claimed >= mine.messages and not options.force:
        return replace(done, action="unchanged")
    new = daily.put(text or "", part)
    if new == text:
        return replace(done, action="unchanged")
    done = replace(done, action="updated" if (text or "").strip() else "created", old=text or "", new=new)
    if not dry_run:
        try:
            memory.write(name, text, new)
        except TooLarge as error:
            return replace(done, action="skipped", reason=str(error))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull(f"the disk is full; {done.path} was not written") from None
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return replace(done, action="skipped", reason=f"it cannot be written: {error.strerror}")
    return done


def _kept_from(page: Page, text: str | None, options: Options) -> str:
    """Why a file is left as it is without being asked twice; "" if nothing speaks against writing."""
    if options.force:
        return ""
    if page.claimed is None and (text or "").strip() and not options.preserve:
        return "it is written by hand; --preserve puts the generated part above it"
    if page.edited:
        return f"its generated part was edited ({page.edited}); --force makes it anew, what is below its footer stays"
    return ""


def _is_other_tools(page: Page) -> bool:
    return page.claimed is not None and page.part is None


def _wanted(page: Page, mine: Part, options: Options) -> Part:
    return mine if page.part is None else daily.unite(page.part, mine, afresh=options.force)


def _summarised(part: Part, day: str, events: list[Event], options: Options) -> Part:
    there = part.summary
    if there is not None and there.messages >= part.messages and not options.force:
        return part
    text = options.summarise(day, events, "\n\n".join(there.lines) if there is not None else "")
    made: Summary | None = daily.summarised(text, part.messages)
    return part if made is None else replace(part, summary=made)


def models(events: Iterable[Event]) -> tuple[str, ...]:
    """The models of the day, in the order in which they come up."""
    named = (event.model.rpartition("/")[2] for event in events if event.kind in (Kind.MODEL, Kind.REPLY))
    return tuple(dict.fromkeys(name for name in named if name and not name.startswith("<")))


# --- compare


class Logs(Protocol):
    """What `compare` asks the index of sessions."""

    def days(self) -> list[tuple[date, int, int]]: ...
    def events(self, day: date) -> list[Event]: ...


@dataclass(frozen=True)
class Compared:
    """A day in the logs and in memory. `memory`: "missing", "sparse", "complete" or "hand-written"."""

    date: str
    messages: int
    sessions: int
    memory: str
    path: str
    today: bool = False

    @property
    def is_gap(self) -> bool:
        """Whether memory lacks something of the logs that a day that is over should have."""
        return self.memory != "complete" and self.messages > 0 and not self.today


def compare(logs: Logs, memory: Memory, today: date, since: date | None = None) -> list[Compared]:
    """Every day of the logs, and of the memory folder; gaps first, then by date, the newest first."""
    found = []
    in_logs = {day: (messages, sessions) for day, messages, sessions in logs.days()}
    named = {date.fromisoformat(name) for name in memory.days() if daily.is_day(name)}
    for day in sorted(in_logs.keys() | named):
        if since is not None and day < since:
            continue
        messages, sessions = in_logs.get(day, (0, 0))
        name = day.isoformat()
        state = _state(logs, memory, day, messages, sessions)
        found.append(Compared(name, messages, sessions, state, memory.path(name), day == today))
    order = {"missing": 0, "sparse": 1, "hand-written": 2}
    return sorted(reversed(found), key=lambda one: order[one.memory] if one.is_gap else len(order))


def _state(logs: Logs, memory: Memory, day: date, messages: int, sessions: int) -> str:
    try:
        text = memory.read(day.isoformat())
    except (OSError, UnicodeDecodeError, ReplicaError):
        return "hand-written"  # it is there, and not ours
    if text is None:
        return "missing"
    page = daily.parse(text)
    if page.claimed is None:
        return "hand-written" if _says_something(text) else "sparse"
    if page.part is None:
        return "complete" if page.claimed >= messages else "sparse"
    if page.part.messages < messages or len(page.part.sessions) < sessions:
        return "sparse"
    if page.part.messages == messages and len(page.part.sessions) == sessions:
        return "complete"
    counts: dict[str, int] = {}
    for event in logs.events(day):
        if event.is_message:
            tag = daily.tag_of(event.agent, event.session)
            counts[tag] = counts.get(tag, 0) + 1
    return "complete" if daily.covers(page.part, counts) else "sparse"


def _says_something(text: str) -> bool:
    """Whether there is more than a title."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return any(not line.startswith("#") and line.strip("-=*_ \ufeff") for line in lines)
