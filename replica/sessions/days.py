"""Which day it is where, and which day a person means."""

import os
import time
from datetime import date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import NamedTuple

from replica.errors import UsageError


class Zone(NamedTuple):
    """A time zone, its name, and who says so: "--timezone", "replica.toml", or "this host"."""

    info: tzinfo
    name: str
    source: str


def zone(given: str | None, configured: str | None) -> Zone:
    """The zone in which days end. Raises UsageError: `given` is none."""
    if given is not None:
        return Zone(named(given), given, "--timezone")
    if configured is not None:
        try:
            return Zone(named(configured), configured, "replica.toml")
        except UsageError as error:  # it is known on another clone's host
            error.hint = "give --timezone, or correct [sessions] timezone in replica.toml"
            raise
    return _host()


def named(name: str) -> tzinfo:
    """Raises UsageError: nobody knows a zone of this name."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise UsageError(
            f"no time zone is called {name!r}", hint="name one as Europe/Berlin or America/New_York"
        ) from None


def _host() -> Zone:
    """The host's own zone, with its summer times where its name can be found."""
    for name in (os.environ.get("TZ", "").lstrip(":"), _linked()):
        if name:
            try:
                return Zone(named(name), name, "this host")
            except UsageError:
                continue
    info = datetime.now().astimezone().tzinfo or timezone(timedelta(0))
    return Zone(info, time.strftime("%Z") or "UTC", "this host")


def _linked() -> str:
    try:
        target = os.readlink("/etc/localtime")
    except OSError:
        try:
            return Path("/etc/timezone").read_text("utf-8").strip()[:60]
        except (OSError, ValueError):
            return ""
    return target.partition("zoneinfo/")[2]


def today(where: tzinfo, now_ms: int | None = None) -> date:
    return datetime.fromtimestamp(time.time() if now_ms is None else now_ms / 1000, where).date()


def day(text: str, where: tzinfo, now_ms: int | None = None) -> date:
    """The day that a person means: 2026-04-14, today, yesterday, or 3d (so many days ago). Raises UsageError."""
    word, now = text.strip().lower(), today(where, now_ms)
    if word in ("today", "yesterday"):
        return now - timedelta(days=word == "yesterday")
    number = word.removesuffix("d")
    if word.endswith("d") and number.isdecimal() and len(number) <= 5:
        return now - timedelta(days=int(number))
    try:
        if len(word) == 10:
            return date.fromisoformat(word)
    except ValueError:
        pass
    raise UsageError(f"{text!r} is no day", hint="write it as 2026-04-14, today, yesterday, or 3d (three days ago)")
