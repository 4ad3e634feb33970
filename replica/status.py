"""One look at a clone, and the checks of `replica doctor`. Plain data for a terminal, a page or an agent to show."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from replica import clock, faults, folder, markers, members, paths, rejoin, withheld
from replica.changes import change_hash
from replica.clone import Clone
from replica.copies import place_of
from replica.errors import ConfigError, DamagedRecord
from replica.log import Vector, lacking
from replica.places import CONFIG, FOLDER, IDENTITY, PRIVATE

WARN_FROM = 0.8  # of a harvest threshold
# A clock that is this far behind what others wrote is worth a word, in milliseconds.
SUSPICIOUS = 5 * 60_000
EARLIEST = 1_700_000_000_000  # milliseconds since 1970: this program is younger


def status(clone: Clone, node: dict | None) -> dict[str, Any]:
    """What `replica status --json` prints. `node`: what the running node says of itself, None when none runs."""
    from replica.cloud import decide

    clone.log.refresh()
    store = clone.store
    return {
        "workspace": clone.workspace_name,
        "clone": {"name": clone.name, "id": clone.identity.id.hex()},
        "removed": clone.removed,
        "removal": _removal(clone),
        "told": [told._asdict() for told in members.told_removed(clone)],
        "unseen": unseen(clone),
        "rejoining": state.why if (state := rejoin.under_way(store)) else None,
        "node": "stopped" if node is None else "running",
        "digest": clone.digest().hex(),
        "version": {author.hex(): seq for author, seq in clone.vector().items()},
        "documents": len(clone.documents.latest_changes()),
        "entries": clone.documents.count_entries(),
        "private": private_entries(clone),
        "conflicts": len(clone.documents.all_conflicts()) + decide.count(clone),
        "held": held(clone),
        "skipped": [{"path": p, "reason": r} for p, r in store.rows("SELECT path, reason FROM skipped ORDER BY path")],
        "harvest": harvest(clone),
        "peers": peers(clone, node),
    }


def _removal(clone: Clone) -> dict[str, Any] | None:
    """Who removed this clone and when (hybrid time), and what is left to do; None while it belongs."""
    found = members.removal(clone)
    if found is None:
        return None
    hint = members.START_ANEW if members.nobody_left(clone) else members.COME_BACK
    return {"by": found.by, "at": found.at, "hint": hint}


def unseen(clone: Clone) -> list[dict[str, Any]]:
    """Members that only somebody let in who was being removed at the same time: they stay until a person has looked."""
    names = {member["id"]: member["name"] for member in clone.members()}
    return [{"name": names[id], "id": id.hex(), "admitted_by": names[by]} for id, by in members.unseen(clone).items()]


def held(clone: Clone) -> list[dict[str, Any]]:
    """What waits for `accept` or `reject`; `since` in milliseconds since 1970."""
    from replica.cloud import decide

    rows = clone.store.rows("SELECT path, reason, what, since FROM held ORDER BY path")
    files = [dict(zip(("path", "reason", "what", "since"), row, strict=True)) for row in rows]
    return [*files, *withheld.rows(clone), *decide.held(clone)]


def private_entries(clone: Clone) -> int:
    """How many live entries are of level 0."""
    return clone.store.value(
        "SELECT count(DISTINCT doc || hex(id)) FROM adds JOIN documents d ON d.n=doc"
        " WHERE d.private=1 AND dead=0 AND role='entry'"
    )


def peers(clone: Clone, node: dict | None) -> list[dict[str, Any]]:
    """The other members: who is connected, and how many changes they (`behind`) or we (`ahead`) still lack.

    `last_seen` in milliseconds since 1970. Of a member that was never met, everything is lacking there.
    """
    import msgpack

    ours = clone.vector()
    told = {row.get("id"): row for row in (node or {}).get("peers", [])}
    met = {id: row for id, *row in clone.store.rows("SELECT id, seen, vector, note FROM peers")}
    result = []
    for member in clone.members():
        if member["id"] == clone.identity.id or member["removed_by"] is not None:
            continue
        seen, packed, note = met.get(member["id"], (None, None, None))
        theirs: Vector = msgpack.unpackb(packed, strict_map_key=False) if packed else {}
        result.append({
            "name": member["name"], "id": member["id"].hex(),
            "online": bool(told.get(member["id"].hex(), {}).get("online")), "last_seen": seen,
            "behind": lacking(theirs, ours), "ahead": lacking(ours, theirs), "note": note or "",
            "faults": faults.facts(clone, member["id"]) + _ahead_of_time(clone, member["id"]),
        })  # fmt: skip
    return result


def _ahead_of_time(clone: Clone, member: bytes) -> list[dict[str, Any]]:
    """A member whose last change is dated more than a day ahead. It is taken, and drags no clock along; a person should
    know, since it is shown as the newest of what was written at the same time."""
    author, now = clone.log.author(member), clone.log.now_ms()
    last = clone.store.value("SELECT time FROM changes WHERE author=? AND seq=?", (author.n, author.seq))
    ahead = clock.to_ms(last or 0) - now
    if ahead <= clock.MAX_LEAD:
        return []
    years, days = divmod(ahead // 86_400_000, 365)
    far = f"{years} years" if years else f"{days} days"
    return [{
        "kind": "clock", "what": f"dates what it writes {far} ahead", "since": now, "last": now, "times": 1,
        "hint": f"set the clock of {author.name}; other clones do not follow it",
    }]  # fmt: skip


def harvest(clone: Clone) -> list[dict[str, Any]]:
    """The buffers that are full or nearly so: `share` of the threshold that is nearest, from 0.8 on."""
    from replica.harvest import fullness

    result = []
    for path, policy in clone.documents.latest_changes():
        rule = clone.rule(path)
        if rule is None or rule.harvest is None or rule.policy != policy:
            continue
        try:
            full = fullness(clone, clone.documents.find(path, policy), rule.harvest)
        except DamagedRecord:
            continue  # listed among the files that are passed over
        if full.share >= WARN_FROM:
            result.append({
                "document": path, "measure": full.measure, "value": full.value, "threshold": full.threshold,
                "share": round(full.share, 2), "into": rule.harvest.into,
            })  # fmt: skip
    return result


# --- doctor


class Check(NamedTuple):
    """`state`: "ok", "note" (worth knowing) or "problem". `hint`: the way out."""

    name: str
    state: str
    what: str
    hint: str = ""


def checks(clone: Clone, now_ms: int | None = None) -> Iterator[Check]:
    """Everything that can be checked without a network, one after the other."""
    yield _store(clone)
    yield _membership(clone)
    yield _newcomers(clone)
    yield _keys(clone)
    yield _place(clone)
    yield _config(clone)
    yield _clock(clone, int(time.time() * 1000) if now_ms is None else now_ms)
    yield from _files(clone)
    yield _names(clone)
    yield _held(clone)
    yield _markers(clone)
    yield _conflicts(clone)
    yield _set_aside(clone)
    yield from _faults(clone)


def _store(clone: Clone) -> Check:
    found = [row[0] for row in clone.store.rows("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        return Check("store", "problem", f"damaged: {found[0]}", "restore a backup, or join again in a new folder")
    count = damaged = 0
    for digest, body in clone.store.execute("SELECT hash, body FROM changes"):
        count += 1
        damaged += type(body) is not bytes or change_hash(body) != digest
    if damaged:
        return Check("store", "problem", f"{damaged:,} of {count:,} changes are damaged", DamagedRecord.hint)
    return Check("store", "ok", f"readable, {count:,} changes")


def _membership(clone: Clone) -> Check:
    if clone.log.author(clone.identity.id) is None:
        return Check("member", "problem", "the workspace has not arrived here yet", "meet a member: `replica sync`")
    if (coming_back := rejoin.under_way(clone.store)) is not None:
        what = f"this clone is being brought back ({coming_back.why}); files rest until all has arrived"
        return Check("member", "problem", what, "let it meet a member: `replica sync`")
    removal = _removal(clone)
    if removal is not None:
        what = f"this clone was removed from the workspace by {removal['by']} on {clock.to_text(removal['at'])}"
        return Check("member", "problem", what, removal["hint"])
    for told in members.told_removed(clone):
        return Check("member", "problem", f"{told.by} says: {told.said}", told.hint)
    return Check("member", "ok", f"{clone.name} of workspace {clone.workspace_name}")


def _newcomers(clone: Clone) -> Check:
    for row in unseen(clone):
        what = f"{row['name']} was let in by {row['admitted_by']}, who was removed at the same time"
        return Check("newcomers", "note", what, f"if you do not know it: `replica remove {row['id'][:12]}`")
    return Check("newcomers", "ok", "every member was let in by one who stayed, or whose guests were known")


def _keys(clone: Clone) -> Check:
    """POSIX only: elsewhere the folder's own protection counts."""
    place = clone.root / FOLDER
    if os.name != "posix":
        return Check("keys", "ok", "readable")
    open_to_others = [f.name for f in (place / IDENTITY, place / PRIVATE) if f.stat().st_mode & 0o077]
    if open_to_others:
        names = " and ".join(open_to_others)
        fix = " ".join(f"{FOLDER}/{name}" for name in open_to_others)
        return Check("keys", "problem", f"others on this machine may read {names}", f"chmod 600 {fix}")
    return Check("keys", "ok", "readable by you alone")


def _place(clone: Clone) -> Check:
    recorded = clone.store.meta("place", "")
    if recorded and recorded != place_of(clone.root) and os.path.exists(os.path.join(recorded, FOLDER, IDENTITY)):
        return Check(
            "place", "problem", f"this folder looks like a copy of {recorded}",
            "two folders must not share one key: delete .replica in one of them and join again",
        )  # fmt: skip
    return Check("place", "ok", str(clone.root))


def _config(clone: Clone) -> Check:
    from replica import config, filetext

    file = clone.root / CONFIG
    try:
        if file.is_file():
            config.load(filetext.decode(file.read_bytes()).text)
    except (ConfigError, ValueError) as error:
        hint = error.hint if isinstance(error, ConfigError) else "save it as UTF-8"
        return Check("config", "problem", f"{error}; the last valid one is in force", hint)
    return Check("config", "ok", f"{CONFIG} is valid" if file.is_file() else f"no {CONFIG}; the defaults are in force")


def _clock(clone: Clone, now_ms: int) -> Check:
    ahead = clock.to_ms(clone.store.meta("time", 0)) - now_ms
    if now_ms < EARLIEST:
        return Check("clock", "problem", "this machine's clock is years behind", "set it, or let NTP do it")
    if ahead > SUSPICIOUS:
        return Check(
            "clock", "problem", f"the newest change is {ahead // 60_000:,} minutes ahead of this machine's clock",
            "set the clock here, or on the clone that wrote it (`replica log -n 1`)",
        )  # fmt: skip
    return Check("clock", "ok", "in line with what was written")


def _files(clone: Clone) -> Iterator[Check]:
    """What is passed over, as of the last run and as of now."""
    skipped = dict(clone.store.rows("SELECT path, reason FROM skipped"))
    seen = folder.look(clone.root, lambda path: clone.rule(path) is not None, clone.config.excluded)
    skipped.update(seen.skipped)
    skipped.pop(CONFIG, None)  # `config` says that better
    if not skipped:
        yield Check("files", "ok", f"none of {len(seen.files)} is passed over")
    for path, reason in sorted(skipped.items()):
        yield Check("files", "problem", f"{path}: {reason}", "mend it, or exclude it in replica.toml")


def _names(clone: Clone) -> Check:
    """Two documents that one file system may not tell apart cannot both be files; only a person can rename one."""
    seen: dict[str, str] = {}
    for document in clone.documents.all():
        other = seen.setdefault(paths.clash_key(document.path), document.path)
        if other != document.path:
            what = f"{document.path} and {other} differ in case only; not every machine can hold both"
            return Check("names", "problem", what, "rename one of the two files")
    return Check("names", "ok", "every document can be a file on every system")


def _held(clone: Clone) -> Check:
    waiting = held(clone)
    if not waiting:
        return Check("held", "ok", "nothing is held back")
    first = waiting[0]
    more = f", and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    return Check("held", "problem", f"{first['path']}: {first['what']}{more}", "`replica accept` or `replica reject`")


def _markers(clone: Clone) -> Check:
    """Merge markers that are in documents: let through here, or taken in by a clone that knew no better."""
    found = []
    for document in clone.documents.all():
        with suppress(DamagedRecord):  # listed among the files that are passed over
            if lines := markers.lines_of(clone.documents.text(document)):
                found.append(f"{document.path} has them in line {lines[0]}")
    if not found:
        return Check("markers", "ok", "no document has merge markers")
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Check("markers", "note", f"merge markers: {found[0]}{more}", "edit the file: keep what is right")


def _conflicts(clone: Clone) -> Check:
    count = len(clone.documents.all_conflicts())
    if count:
        words = "1 waits" if count == 1 else f"{count} wait"
        return Check("conflicts", "note", f"{words} for a decision", "see `replica conflicts`")
    return Check("conflicts", "ok", "none is open")


def _set_aside(clone: Clone) -> Check:
    """Each time the clone is brought back, its whole store is kept: nobody but a person can tell until when."""
    needed = state.aside if (state := rejoin.under_way(clone.store)) else None
    kept = sorted(file for file in (clone.root / FOLDER / rejoin.ASIDE).glob("*.db") if file.name != needed)
    if not kept:
        return Check("set aside", "ok", "no former store is kept")
    size = sum(file.stat().st_size for file in kept) / 1e6
    stores = "1 former store" if len(kept) == 1 else f"{len(kept)} former stores"
    what = f"{stores} of {size:,.1f} MB in {FOLDER}/{rejoin.ASIDE}, the oldest of them {kept[0].name}"
    return Check("set aside", "note", what, "delete those that you do not need any more")


def _faults(clone: Clone) -> Iterator[Check]:
    """What members are refused for."""
    found = [(peer["name"], fault) for peer in peers(clone, None) for fault in peer["faults"]]
    if not found:
        yield Check("conduct", "ok", "no member is refused anything")
    for name, fault in found:
        yield Check("conduct", "problem", f"{name} {fault['what']}", fault["hint"])
