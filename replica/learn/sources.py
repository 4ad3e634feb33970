"""Insights and campaigns that other tools write: `insights.json`, and a folder `campaigns/` of JSON or markdown.

Each item of them has a name: its own, or one that is made of its words. With the file's name it says where an entry
came from, alike on every clone.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from replica.cloud.sections import parts, without_front_matter
from replica.errors import ReplicaError, UsageError
from replica.learn import given
from replica.learn.entry import Item, Learning, checked, one_line, words_of
from replica.learn.given import Secrets, Usual
from replica.learn.markdown import front_matter, listed
from replica.origin import slug

INSIGHTS = "insights.json"
CAMPAIGNS = "campaigns"
MOST_FILES = 1_000
SCOPES = ("all", "insights", "campaigns")
INSIGHT, CAMPAIGN = "performance-insight", "campaign-learning"
_LISTS = ("insights", "items", "data", "findings", "learnings", "results")
_LEARNED = ("learnings", "lessons", "insights", "takeaways", "lessons_learned", "key_learnings")
_RESULTS = ("results", "metrics", "result", "outcome", "outcomes", "performance")


class File(NamedTuple):
    """A file to take in. `label`: its name as all clones know it."""

    path: Path
    label: str
    kind: str  # "insights" or "campaign"


class Taken(NamedTuple):
    """What was read. `empty`: (where, why) of what holds no learning. `broken`: those of them that cannot be read."""

    items: list[Item]
    empty: list[tuple[str, str]]
    broken: set[str]


# --- which files


def found_in(folder: Path, scope: str, inside: str = "") -> list[File]:
    """The files of a folder that a scope means: `insights.json`, and what is below `campaigns/`."""
    files = []
    if scope in ("all", "insights") and (folder / INSIGHTS).is_file():
        files.append(File(folder / INSIGHTS, inside + INSIGHTS, "insights"))
    if scope in ("all", "campaigns") and (folder / CAMPAIGNS).is_dir():
        files += campaigns_in(folder / CAMPAIGNS, f"{inside}{CAMPAIGNS}/")
    return files


def campaigns_in(folder: Path, inside: str) -> list[File]:
    """Raises UsageError: too many."""
    files = sorted(
        path for path in folder.rglob("*")
        if path.suffix.lower() in (".json", ".md") and path.is_file() and not path.is_symlink()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )  # fmt: skip
    if len(files) > MOST_FILES:
        raise UsageError(f"{folder} holds {len(files):,} files; the limit is {MOST_FILES:,}", hint="give it in parts")
    return [File(path, inside + path.relative_to(folder).as_posix(), "campaign") for path in files]


def label_of(path: Path, root: Path, known: dict[str, str], usual: str) -> str:
    """A file's name as all clones know it: below the clone's folder from there, elsewhere the usual one.

    `known`: label → file, of what this clone has taken in before: another file of the same name gets its folder's too.
    """
    place = path.resolve()
    if place.is_relative_to(root.resolve()):
        return place.relative_to(root.resolve()).as_posix()
    names = place.parts[1:]
    for count in range(usual.count("/") + 1, len(names) + 1):
        label = "/".join(names[-count:])
        if known.get(label) in (None, "", str(place)) or not Path(known[label]).exists():
            return label
    return place.as_posix()


# --- reading


def text_of(path: Path, name: str = "") -> str:
    """Raises UsageError: too large, or no UTF-8."""
    if path.stat().st_size > given.MOST_BYTES:
        raise UsageError(f"{name or path} has more than {given.MOST_BYTES:,} bytes", hint="give it in parts")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{name or path} is not UTF-8", hint="convert it first, for example with iconv") from None


def read(files: list[File], usual: Usual, secrets: Secrets) -> Taken:
    """All items of these files. Of several, one that cannot be read is passed over and named.

    Raises UsageError: none can be read; it names the file, the item and the field.
    """
    taken, first = Taken([], [], set()), None
    for file in files:
        try:
            taken.items.extend(_items(file, usual, secrets))
        except _Empty as error:
            taken.empty.append((file.label, str(error)))
        except (UsageError, OSError) as error:
            first = first or error
            reason = str(error).removeprefix(f"{file.label}: ") if isinstance(error, UsageError) else error.strerror
            taken.empty.append((file.label, f"cannot be taken in: {reason}"))
            taken.broken.add(file.label)
    if first is not None and len(taken.broken) == len(files):
        raise first
    return taken


def _items(file: File, usual: Usual, secrets: Secrets) -> list[Item]:
    """Raises UsageError, OSError, _Empty."""
    text = text_of(file.path, file.label)
    if file.kind == "insights":
        return insights(secrets.out_of(given.values(text, file.label)), file.label, usual)
    stem = file.path.stem
    if file.path.suffix.lower() == ".md":
        one = [_campaign_of(secrets.out(text), file.label, stem, usual)]
    else:
        values = secrets.out_of(given.values(text, file.label))
        one = [campaign(value, file.label, at, stem, usual, len(values)) for at, value in enumerate(values, 1)]
    return given.unique([item for items in one for item in items], file.label)


class _Empty(ReplicaError):
    """A file that holds nothing to learn."""


def insights(found: list[Any], label: str, usual: Usual) -> list[Item]:
    """Raises UsageError."""
    if len(found) == 1 and isinstance(found[0], dict):
        found = _within(found[0])
    items = []
    for at, value in enumerate(found, 1):
        item, name = given.loose(value, f"{label}, item {at}", INSIGHT, usual)
        items.append(given.named(item, label, name))
    return given.unique(_named_once(items, label), label)


def _named_once(items: list[Item], label: str) -> list[Item]:
    """Two items of one title are not one: what was named by its title is named by its words then."""
    seen: dict[Any, int] = {}
    for item in items:
        seen[item.source] = seen.get(item.source, 0) + 1
    return [
        given.named(item, label, "") if seen[item.source] > 1 and _by_title(item) else item for item in items
    ]  # fmt: skip


def _by_title(item: Item) -> bool:
    title = item.learning.text.split("\n")[0]
    return item.source is not None and item.source.item == slug(title)


def _within(whole: dict[str, Any]) -> list[Any]:
    """The items of an object: a list in it, objects by their names, or itself."""
    for key in _LISTS:
        if isinstance(whole.get(key), list):
            return whole[key]
    for key in _LISTS:
        if isinstance(whole.get(key), dict) and all(isinstance(one, dict) for one in whole[key].values()):
            return [{"id": name, **one} for name, one in whole[key].items()]
    if whole and all(isinstance(one, dict) for one in whole.values()):
        return [{"id": name, **one} for name, one in whole.items()]
    return [whole]


# --- campaigns


def campaign(value: Any, label: str, at: int, stem: str, usual: Usual, of: int) -> list[Item]:
    """A campaign's results as one item, and each of its learnings. Raises UsageError."""
    where = label if of == 1 else f"{label}, item {at}"
    fields = given.an_object(value, where)
    name = one_line(next((given.a_text(fields, k, where) for k in ("name", "title", "campaign") if fields.get(k)), ""))
    id = next((given.an_id(fields, key, where) for key in given.IDS if fields.get(key) is not None), "")
    id = id or (slug(name) if name and of > 1 else stem)
    name = name or id
    items = list(_learned(fields, where, label, id, name, usual))
    results = next((given.shown(fields[k], f"{where}: `{k}`") for k in _RESULTS if fields.get(k)), "")
    said = results or next((given.a_text(fields, k, where) for k in ("summary", "description") if fields.get(k)), "")
    if said:
        items.insert(0, _result(name, said, fields, where, label, id, usual))
    if not items:
        raise _Empty(f"{where}: no results and no learnings")
    return items


def _result(name: str, said: str, fields: dict[str, Any], where: str, label: str, id: str, usual: Usual) -> Item:
    tags = tuple(dict.fromkeys((*given.tags_in(fields, where), *usual.tags)))
    made = Learning(
        CAMPAIGN, words_of(f"{name}: {said}"), tags, given.a_short(fields, "status", where) or usual.status,
        given.a_short(fields, "category", where), links=given.links_in(fields, "links", where),
    )  # fmt: skip
    whole = {"name": name, "said": said, "tags": list(tags), "status": made.status, "category": made.category}
    item = Item(checked(made, where), f"{where}: results", None, given.hash_of(whole))
    return given.named(item, label, "results", id)


def _learned(fields: dict[str, Any], where: str, label: str, id: str, name: str, usual: Usual) -> Iterator[Item]:
    at = 0
    for key in _LEARNED:
        value = fields.get(key)
        if value in (None, "", [], {}):
            continue
        if not isinstance(value, str | list):
            raise UsageError(f"{where}: `{key}` must be a list of learnings, and is {given.kind_of(value)}",
                             hint='such as "learnings": ["Short subject lines win"]')  # fmt: skip
        for one in [value] if isinstance(value, str) else value:
            at += 1
            item, own = given.loose(one, f"{where}, learning {at}", CAMPAIGN, usual)
            tags = tuple(dict.fromkeys((*item.learning.tags, *given.tags_in(fields, where))))[: given.MOST_TAGS]
            learning = replace(item.learning, type=CAMPAIGN, tags=tags, more=(("campaign", name), *item.learning.more))
            yield given.named(replace(item, learning=learning), label, own, id)


_IS_RESULT = re.compile(r"\b(?:results?|metrics|outcomes?|performance|numbers)\b", re.IGNORECASE)
_IS_LEARNED = re.compile(r"\b(?:learn\w*|lessons?|insights?|take-?aways?|what (?:worked|did))\b", re.IGNORECASE)


def _campaign_of(text: str, label: str, stem: str, usual: Usual) -> list[Item]:
    """A campaign in markdown: its front matter, and what stands under headings such as Results and Learnings."""
    fields: dict[str, Any] = dict(front_matter(text, label))
    results, learned, title = [], [], ""
    for part in parts(without_front_matter(text)):
        title = title or (part.heading[0] if part.heading and part.line.startswith("# ") else "")
        if any(_IS_LEARNED.search(heading) for heading in part.heading[-2:]):
            learned += listed(part.body)
        elif any(_IS_RESULT.search(heading) for heading in part.heading[-2:]):
            results += [" ".join(one.split()) for one in listed(part.body)]
    if title and not any(fields.get(key) for key in ("name", "title", "campaign")):
        fields["name"] = re.sub(r"^campaign\s*[:–-]\s*", "", title, flags=re.IGNORECASE)
    if learned:
        fields["learnings"] = learned
    if results:
        fields["results"] = results
    if not any(fields.get(key) for key in (*_LEARNED, *_RESULTS)):
        raise _Empty(f"{label}: no heading such as Results or Learnings")
    return campaign(fields, label, 1, stem, usual, 1)
