"""What is given to `replica learn`, told apart by what is in it: the items that it holds."""

from pathlib import Path

from replica.clone import Clone
from replica.errors import UsageError
from replica.learn import given, markdown, sources
from replica.learn.entry import Item
from replica.learn.given import Secrets, Usual
from replica.learn.plan import State
from replica.learn.sources import File

Read = tuple[list[Item], dict[str, str], list[tuple[str, str]]]


def from_text(text: str, name: str, scope: str, usual: Usual, secrets: Secrets) -> list[Item]:
    """Learnings of JSON or markdown that came without a file. Raises UsageError."""
    if not text.strip():
        return []
    if text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        found = secrets.out_of(given.values(text, name))
        if scope != "all":
            kind = sources.INSIGHT if scope == "insights" else sources.CAMPAIGN
            return [given.loose(value, f"{name}, item {at}", kind, usual)[0] for at, value in enumerate(found, 1)]
        return given.learnings(found, name, usual)
    return markdown.read(secrets.out(text), name, usual)


def from_place(clone: Clone, place: Path | None, scope: str, usual: Usual, secrets: Secrets) -> Read:
    """The items of a file or folder, or of what the clone's folder holds; the sources (label → file) among them.

    Raises UsageError.
    """
    if place is not None and not place.exists():
        raise UsageError(f"there is no file {str(place)!r}", hint="name one, or - to read stdin")
    files = _sources(clone, place, scope)
    if files is not None:
        taken = sources.read(files, usual, secrets)
        # What a file held that cannot be read now is not gone.
        whole = {file.label: str(file.path.resolve()) for file in files if file.label not in taken.broken}
        return taken.items, whole, taken.empty
    from replica.learn import logs

    events = logs.events_of(place)
    if events is not None:
        return logs.learnings(events, usual, secrets), {}, []
    return from_text(sources.text_of(place), place.name, "all", usual, secrets), {}, []


def _sources(clone: Clone, place: Path | None, scope: str) -> list[File] | None:
    """The files that are insights or campaigns; None: the place is something else."""
    if place is None:
        return sources.found_in(clone.root, scope)
    known = State.load(clone).files()
    if place.is_dir():
        found = sources.found_in(place, scope)
        if not found or place.name == sources.CAMPAIGNS:
            found = sources.campaigns_in(place, f"{place.name}/") if scope != "insights" else []
        return [file._replace(label=_label(clone, file, known)) for file in found]
    is_campaign = scope == "campaigns" or (scope == "all" and place.resolve().parent.name == sources.CAMPAIGNS)
    if scope == "insights" or (scope == "all" and place.name.lower() == sources.INSIGHTS):
        file = File(place, place.name, "insights")
    elif is_campaign and place.suffix.lower() in (".json", ".md"):
        file = File(place, f"{place.resolve().parent.name}/{place.name}", "campaign")
    else:
        return None
    return [file._replace(label=_label(clone, file, known))]


def _label(clone: Clone, file: File, known: dict[str, str]) -> str:
    return sources.label_of(file.path, clone.root, known, file.label)
