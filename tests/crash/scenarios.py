"""What is going on when a process dies: one entry each in `SCENARIOS`.

`prepare(root)` makes the clones and says which lines must be there. `act(root, told)` is what the victim does; it calls
`told` after the program has said that something is done. `meanwhile(root)` is what a person does to the files before
anything runs again; `again(root)` is what a person does afterwards, by the words
of the README (the command again). Then come the checks of tests/crash/world.py, and `check(root)` with what
only this scenario promises. A scenario with `roles` runs them as processes that speak with each other over `link`,
and each of them is the victim in turn.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from replica import compact, decisions, history, writing
from replica.bridge import Bridge
from replica.clone import Clone
from replica.places import CONFIG, FOLDER
from tests.crash import world
from tests.crash.world import Clock, Expect, Told, bridged, meet, numbered, opened, save, text_of
from tests.helpers import sync, talk

BUFFER, LOG, NOTES, ACTIVE = "a-buffer.md", "SESSION_LOG.md", "notes.md", "activeContext.md"
ALL = (BUFFER, LOG, NOTES)


@dataclass
class Scenario:
    prepare: Callable[[Path], Expect]
    act: Callable[[Path, Told], None] | None = None
    meanwhile: Callable[[Path], None] = lambda root: None
    again: Callable[[Path], None] = lambda root: None
    check: Callable[[Path], None] = lambda root: None
    roles: dict[str, Callable] = field(default_factory=dict)  # name -> (root, told, link)


# --- a pair of clones in step, each with its files


def pair(root: Path, **more: list[str]) -> Expect:
    lines = {path: numbered(f"first {path[0]}", 6) for path in ALL}
    with world.founder(root) as alice:
        for path, content in lines.items():
            save(alice.root, path, content)
        save(alice.root, ACTIVE, ["Now: the first plan."])
        bridged(alice)
        with world.newcomer(root, alice, "bob") as bob:
            sync(alice, bob)
            meet(alice, bob)
    return Expect({**lines, ACTIVE: ["Now: the first plan."]})


# --- appends by the API


def adding(root: Path) -> Expect:
    expect = pair(root)
    for path in ALL:
        expect.may[path] = {f"- added {n}" for n in range(4)}
    expect.may[BUFFER] |= {"- hidden 1", "- hidden 2"}
    expect.secret = ["hidden"]
    return expect


def add(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        for n in range(4):
            for path in ALL:
                writing.add(alice, path, f"- added {n}")
                told("there", path, f"- added {n}")
            if n in (1, 2):
                writing.add(alice, BUFFER, f"- hidden {n}", level=0)
                told("there", BUFFER, f"- hidden {n}")
            bridged(alice)


def editing(root: Path) -> Expect:
    expect = pair(root)
    for path in ALL:
        expect.may[path] = {f"- second {path[0]} {n}" for n in range(3)}
    return expect


def edit(root: Path, told: Told) -> None:
    """Entries replaced and removed, a text changed, a document deleted and brought back."""
    from replica.changes import Add, Remove

    with opened(root, "alice") as alice:
        for n in range(3):
            old, gone = [
                next(e for e in alice.entries(BUFFER) if e.text == f"- first a {at} ü") for at in (2 * n, 2 * n + 1)
            ]
            alice.edit_entries(BUFFER, "union", [
                (1, Add("entry", f"- second a {n}", 1, "", old.place, old.dots, {})), (1, Remove(gone.dots)),
            ])  # fmt: skip
            told("there", BUFFER, f"- second a {n}")
            told("gone", BUFFER, old.text), told("gone", BUFFER, gone.text)
            text = alice.text(NOTES)
            first, rest = text.split("\n", 1)
            alice.edit_text(NOTES, new=f"{rest}- second n {n}\n")
            told("gone", NOTES, first), told("there", NOTES, f"- second n {n}")
            writing.add(alice, LOG, f"- second S {n}")
            told("there", LOG, f"- second S {n}")
            bridged(alice)


def may_go(expect: Expect, path: str, lines) -> Expect:
    """These lines of `path` are to be removed: before that is acknowledged they may be there."""
    expect.must[path] -= set(lines)
    expect.may.setdefault(path, set()).update(lines)
    return expect


def edit_prepared(root: Path) -> Expect:
    expect = editing(root)
    may_go(expect, NOTES, numbered("first n", 3))
    return may_go(expect, BUFFER, [*numbered("first a", 6)])


def deleting(root: Path) -> Expect:
    expect = pair(root)
    return may_go(may_go(expect, BUFFER, expect.must[BUFFER].copy()), NOTES, expect.must[NOTES].copy())


def delete(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        for path, letter in ((BUFFER, "a"), (NOTES, "n")):
            alice.delete(alice.document(path))
            for line in numbered(f"first {letter}", 6):
                told("gone", path, line)
            bridged(alice)


# --- files


def saved(root: Path) -> Expect:
    """Files were saved while nothing ran: each is taken in with one edit, and new ones are there."""
    expect = pair(root)
    for path in ALL:
        lines = [*numbered(f"first {path[0]}", 6), f"- saved in {path}"]
        if path != LOG:
            lines = ["- saved at the top", *lines[2:]]
            expect.must[path] -= set(numbered(f"first {path[0]}", 2))
        save(root / "alice", path, lines)
        expect.must[path] = set(lines)
    save(root / "alice", ACTIVE, ["Now: the second plan."])
    expect.must[ACTIVE] = {"Now: the second plan."}
    for n in range(3):
        save(root / "alice", f"sub/new-{n}.md", numbered("new", 5))
        expect.must[f"sub/new-{n}.md"] = set(numbered("new", 5))
    return expect


def take_in(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        bridged(alice)
        bridged(alice)


def incoming(root: Path) -> Expect:
    """The peer has news for every file, new files and deleted ones; one file was saved here meanwhile."""
    expect = pair(root)
    with opened(root, "bob") as bob:
        for n in range(8):
            save(bob.root, f"gone/old-{n}.md", numbered("old", 2))
        with opened(root, "alice") as alice:
            meet(alice, bob)
            for n in range(8):
                bob.delete(bob.document(f"gone/old-{n}.md"))
            for path in ALL:
                for n in range(3):
                    writing.add(bob, path, f"- bob says {n}")
                expect.must[path] |= {f"- bob says {n}" for n in range(3)}
            for n in range(4):
                save(bob.root, f"sub/deep/new-{n}.md", numbered("new", 5))
                expect.must[f"sub/deep/new-{n}.md"] = set(numbered("new", 5))
            bridged(bob)
    for path in (NOTES, BUFFER):
        with (root / "alice" / path).open("a", encoding="utf-8") as file:
            file.write("- saved meanwhile\n")
        expect.must[path].add("- saved meanwhile")
    return expect


def ingest(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        sync(alice, bob)
        bridged(alice)


def edited_after(root: Path) -> None:
    """The person goes on in the file before anything is started again."""
    for path in (NOTES, BUFFER):
        file = root / "alice" / path
        file.write_text(file.read_text("utf-8") + "- saved after the crash\n", "utf-8")


def incoming_and_edited(root: Path) -> Expect:
    expect = incoming(root)
    for path in (NOTES, BUFFER):
        expect.must[path].add("- saved after the crash")
    return expect


# --- texts and their kept state


def long_text(root: Path) -> Expect:
    expect = pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for n in range(60):
            alice.edit_text(NOTES, new=alice.text(NOTES) + f"- long {n}\n")
        expect.must[NOTES] |= {f"- long {n}" for n in range(60)}
        meet(alice, bob)
    expect.may[NOTES] = {f"- more {n}" for n in range(12)} | {f"- elsewhere {n}" for n in range(12)}
    return expect


def snapshot(root: Path, told: Told) -> None:
    """Edits on both sides and conversations between: the kept state of the text is written many times."""
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for n in range(12):
            alice.edit_text(NOTES, new=alice.text(NOTES) + f"- more {n}\n")
            told("there", NOTES, f"- more {n}")
            bob.edit_text(NOTES, new=f"- elsewhere {n}\n" + bob.text(NOTES))
            told("there", NOTES, f"- elsewhere {n}")
            if n % 3 == 0:
                sync(alice, bob)
                bridged(alice)


# --- workspaces and members


def before_init(root: Path) -> Expect:
    folder = root / "alice" / "memory-bank"
    folder.mkdir(parents=True)
    save(root / "alice", "memory-bank/activeContext.md", ["Now: begin."])
    save(root / "alice", "memory-bank/lessons-buffer.md", numbered("lesson", 4))
    return Expect({
        "memory-bank/activeContext.md": ["Now: begin."], "memory-bank/lessons-buffer.md": numbered("lesson", 4)
    })  # fmt: skip


def init(root: Path, told: Told) -> None:
    """The command itself."""
    from cli.main import main

    assert main(["init", str(root / "alice"), "--name", "alice", "--workspace", "garden", "--json"]) == 0


def init_again(root: Path) -> None:
    """The command again where there is no clone yet; a clone that is there must be able to write."""
    if not world.is_clone(root / "alice"):
        init(root, lambda *said: None)
    with opened(root, "alice") as alice:
        assert world.members(alice) == ["alice"], "a workspace without its founder"
        writing.add(alice, "memory-bank/lessons-buffer.md", "- lesson 0 ü")


def init_check(root: Path) -> None:
    assert (root / "alice" / CONFIG).is_file(), "the layout's replica.toml is missing"
    with opened(root, "alice") as alice:
        assert alice.document("memory-bank/lessons-buffer.md").policy == "union"


def admitting(root: Path) -> Expect:
    return pair(root)


def admit_and_remove(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        with world.newcomer(root, alice, "carol") as carol:
            sync(alice, carol)
            bridged(carol)
        alice.remove("carol")
        (root / "removed").touch()


def removed_again(root: Path) -> None:
    """A clone that died before it had anything is a phantom: it is removed, as the README says."""
    with opened(root, "alice") as alice:
        if "carol" in world.members(alice):
            alice.remove("carol")
    if (root / "carol").exists():
        shutil.rmtree(root / "carol")


def removed_check(root: Path) -> None:
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        assert world.members(alice) == world.members(bob) == ["alice", "bob"]


# --- rules


def reconfiguring(root: Path) -> Expect:
    expect = pair(root)
    lines = world.rules(**{"a-buffer": "union", "SESSION_LOG": "log", "notes": "text", "activeContext": "latest"})
    lines += world.rules(other="union")
    save(root / "alice", CONFIG, lines)
    save(root / "alice", "other.md", numbered("other", 4))
    expect.must["other.md"] = set(numbered("other", 4))
    return expect


def changing_policy(root: Path) -> Expect:
    """Both files change their policy while the peer has news for them that the files do not show yet."""
    expect = pair(root)
    lines = world.rules(**{"a-buffer": "text", "notes": "union", "SESSION_LOG": "log", "activeContext": "latest"})
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for path in (BUFFER, NOTES):
            for n in range(3):
                writing.add(bob, path, f"- bob says {n}")
            expect.must[path] |= {f"- bob says {n}" for n in range(3)}
        sync(alice, bob)
    for path in (BUFFER, NOTES):
        with (root / "alice" / path).open("a", encoding="utf-8") as file:
            file.write("- saved meanwhile\n")
        expect.must[path].add("- saved meanwhile")
    save(root / "alice", CONFIG, lines)
    return expect


# --- what is held


def holding(root: Path) -> Expect:
    """Most of a buffer and of a text went at once, and that waits for a decision."""
    expect = pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for path in (BUFFER, NOTES):
            save(alice.root, path, [*numbered(f"first {path[0]}", 6), *numbered("held", 24)])
        meet(alice, bob)
        for path in (BUFFER, NOTES):
            save(alice.root, path, [*numbered(f"first {path[0]}", 6), "- kept by hand"])
        assert set(bridged(alice).held) == {BUFFER, NOTES}
    return expect


def accepting(root: Path) -> Expect:
    expect = holding(root)
    for path in (BUFFER, NOTES):
        expect.must[path].add("- kept by hand")
    return expect


def accept(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        Bridge(alice, Clock()).accept([])


def rejecting(root: Path) -> Expect:
    expect = holding(root)
    for path in (BUFFER, NOTES):
        expect.must[path] |= set(numbered("held", 24))
    return expect


def reject(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        Bridge(alice, Clock()).reject([])


def rejected_check(root: Path) -> None:
    """What was rejected is kept, whole."""
    kept = [file.read_text("utf-8") for file in (root / "alice" / FOLDER / "rejected").iterdir()]
    for letter in "an":
        whole = text_of([*numbered(f"first {letter}", 6), "- kept by hand"])
        assert whole in kept, "what was rejected is not kept whole"


def while_held(command: Callable[[Path, Told], None]) -> Callable[[Path], None]:
    def again(root: Path) -> None:
        with opened(root, "alice") as alice:
            bridged(alice)
            waiting = Bridge(alice).held()
        if waiting:
            command(root, lambda *said: None)

    return again


# --- decisions and the past


def disagreeing(root: Path) -> Expect:
    expect = pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        save(alice.root, ACTIVE, ["Now: by alice."])
        save(bob.root, ACTIVE, ["Now: by bob."])
        meet(alice, bob)
    expect.must[ACTIVE] = set()
    expect.may[ACTIVE] = {"Now: by alice.", "Now: by bob.", "Now: settled."}
    return expect


def settle(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        (conflict,) = alice.documents.all_conflicts()
        decisions.resolve(alice, conflict.id, text="Now: settled.")
        told("there", ACTIVE, "Now: settled.")
        told("gone", ACTIVE, "Now: by alice."), told("gone", ACTIVE, "Now: by bob.")
        bridged(alice)


PATTERNS, INBOX = "Docs/03-Reference/Patterns.md", "decisions-inbox.md"


def full_buffers(root: Path) -> Expect:
    """A buffer and an inbox; every entry of them may be where it was, or where it is harvested to."""
    expect = pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        save(alice.root, INBOX, numbered("decided", 3))
        meet(alice, bob)
    expect.must[INBOX] = set(numbered("decided", 3))
    return may_go(may_go(expect, INBOX, numbered("decided", 3)), BUFFER, numbered("first a", 6))


def reap(root: Path, told: Told) -> None:
    from replica import harvest

    with opened(root, "alice") as alice:
        for path, into, word in ((BUFFER, PATTERNS, "first a"), (INBOX, None, "decided")):
            harvest.harvest(alice, harvest.plan(alice, path, into))
            for line in numbered(word, 6 if path == BUFFER else 3):
                told("gone", path, line)
            bridged(alice)


def reaped_check(root: Path) -> None:
    """All of a harvest or nothing of it."""
    for name in ("alice", "bob"):
        with opened(root, name) as clone:
            targets = {
                BUFFER: [d.path for d in clone.documents.all() if d.path == PATTERNS],
                INBOX: [d.path for d in clone.documents.all() if d.path.startswith("Docs/03-Reference/ADR/")],
            }
            for path, count in ((BUFFER, 6), (INBOX, 3)):
                left = sum(entry.role == "entry" for entry in clone.entries(path))
                origins = sum(clone.text(target).count("*— alice, ") for target in targets[path])
                assert (left, origins) in ((count, 0), (0, count)), (
                    f"{name}: {left} of {path} left, {origins} harvested"
                )


def restoring(root: Path) -> Expect:
    expect = pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for path in (BUFFER, NOTES):
            save(alice.root, path, [*numbered(f"first {path[0]}", 6)[:3], "- later"])
        meet(alice, bob)
    for path in (BUFFER, NOTES):
        may_go(expect, path, ["- later"]) if "- later" in expect.must[path] else expect.may.setdefault(path, set()).add(
            "- later"
        )
        may_go(expect, path, numbered(f"first {path[0]}", 6)[3:])
    return expect


def restore(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        for path in (BUFFER, NOTES):
            history.restore(alice, path, history.before_last(alice, path))
            for line in numbered(f"first {path[0]}", 6):
                told("there", path, line)
            told("gone", path, "- later")
            bridged(alice)


# --- copies and backups


def copied(root: Path) -> Expect:
    expect = pair(root)
    shutil.copytree(root / "alice", root / "alice2")
    save(root / "alice2", NOTES, [*numbered("first n", 6), "- written in the copy"])
    expect.must[NOTES].add("- written in the copy")
    return expect


def open_copy(root: Path, told: Told) -> None:
    with opened(root, "alice2") as copy:
        bridged(copy)


def copy_check(root: Path) -> None:
    with opened(root, "alice") as alice, opened(root, "alice2") as copy:
        assert alice.identity.id != copy.identity.id, "two clones with one identity"
        assert world.members(alice) == ["alice", "alice-copy", "bob"]


def back_from_backup(root: Path) -> Expect:
    """A backup of the whole folder was put back; what it lacks of its own past is with the peer."""
    expect = pair(root)
    shutil.copytree(root / "alice", root / "backup")
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for path in ALL:
            writing.add(alice, path, "- after the backup")
            expect.must[path].add("- after the backup")
        meet(alice, bob)
    shutil.rmtree(root / "alice")
    (root / "backup").rename(root / "alice")
    return expect


def forked(root: Path) -> Expect:
    """The same, and it was written in before it met anyone: two changes have one number."""
    expect = back_from_backup(root)
    with opened(root, "alice") as alice:
        for path in ALL:
            writing.add(alice, path, "- after the restore")
            expect.must[path].add("- after the restore")
        bridged(alice)
    return expect


def heal(root: Path, told: Told) -> None:
    """It comes back under a new identity, with what it wrote."""
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for _ in range(2):
            talk(alice, bob)
        bridged(alice)


def healed_again(root: Path) -> None:
    heal(root, lambda *said: None)


# --- compaction


def foldable(root: Path) -> Expect:
    """Long histories that both are known to hold: all of it may be folded. A third is admitted and has nothing yet."""
    import msgpack

    expect = pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for clone in (alice, bob):
            clone.set_config("[history]\ndays = 0\n")
        for n in range(20):
            for path in ALL:
                writing.add(alice, path, f"- old {n}")
                expect.must[path].add(f"- old {n}")
        meet(alice, bob)
        meet(alice, bob)
        with alice.transaction():
            alice.store.execute("DELETE FROM peers")
            alice.store.execute(
                "INSERT INTO peers(id, seen, vector) VALUES(?,?,?)",
                (bob.identity.id, int(time.time() * 1000), msgpack.packb(bob.vector())),
            )
    for path in ALL:
        expect.may[path] = {"- after the fold"}
    return expect


def fold(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice:
        assert compact.compact(alice, int(time.time() * 1000) + 2_000).folded
        for path in ALL:
            writing.add(alice, path, "- after the fold")
            told("there", path, "- after the fold")
        bridged(alice)


def folded(root: Path) -> Expect:
    """One has folded its history; a newcomer is admitted and holds nothing."""
    expect = foldable(root)
    fold(root, expect.told)
    with opened(root, "alice") as alice:
        world.newcomer(root, alice, "carol").close()
    return expect


def take_baselines(root: Path, told: Told) -> None:
    with opened(root, "alice") as alice, opened(root, "carol") as carol:
        sync(alice, carol)
        bridged(carol)


# --- over sockets


def alone(root: Path) -> Expect:
    lines = {path: numbered(f"first {path[0]}", 6) for path in ALL}
    with world.founder(root) as alice:
        for path, content in lines.items():
            save(alice.root, path, content)
        bridged(alice)
    save(root / "bob", BUFFER, ["- was here before"])
    lines[BUFFER] = [*lines[BUFFER], "- was here before"]
    return Expect(lines)


async def until(task: asyncio.Task, holds: Callable[[], bool], node) -> None:
    """Until `holds`, or the node has ended."""
    while not holds() and not task.done():
        node.moved.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(node.moved.wait(), 0.05)


@contextlib.asynccontextmanager
async def running(clone: Clone, **options):
    from transport.node import Node, Options

    node = Node(clone, Options(mdns=False, listen=("127.0.0.1", 0), **options))
    task = asyncio.ensure_future(node.run())
    started = asyncio.ensure_future(node.started.wait())
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    started.cancel()
    try:
        if task.done():
            task.result()
        yield node, task
    finally:
        node.stop()
        await asyncio.wait_for(task, 10)


def inviter(root: Path, told: Told, link) -> None:
    async def serve() -> None:
        from transport.inviting import invite

        with opened(root, "alice") as alice:
            async with running(alice) as (node, task):
                async for event in invite(node, 60):
                    if event["event"] == "code":
                        link.say({"code": event["code"], "port": event["port"]})
                await until(task, lambda: link.over, node)

    asyncio.run(serve())


def joiner(root: Path, told: Told, link) -> None:
    from transport.inviting import join

    where = link.hear()
    (root / "bob").mkdir(exist_ok=True)
    clone = asyncio.run(join(where["code"], root / "bob", "bob", [("127.0.0.1", where["port"])]))
    with clone:
        Bridge(clone, Clock()).run(every=True)
    told("there", BUFFER, "- was here before")
    link.end()


def join_again(root: Path) -> None:
    """`replica join` with a new code where there is no clone yet; a clone that has come to be goes on by itself."""
    if world.is_clone(root / "bob"):
        return

    async def both() -> None:
        from transport.inviting import invite, join

        with opened(root, "alice") as alice:
            async with running(alice) as (node, _):
                invitation = invite(node, 60)
                code = await anext(invitation)
                came = asyncio.ensure_future(anext(invitation))
                clone = await join(code["code"], root / "bob", "bob", [("127.0.0.1", code["port"])])
                clone.close()
                await came
                await invitation.aclose()

    asyncio.run(both())


def join_check(root: Path) -> None:
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        assert world.members(alice) == world.members(bob) == ["alice", "bob"], f"phantoms: {world.members(alice)}"


# --- an old layout


OLD = {
    "lessons.md": "lessons-buffer.md",
    "API.md": "Docs/03-Reference/API.md",
    "roadmap.md": "Docs/01-Product/roadmap.md",
}
OLD |= {f"api-{n}.md": f"Docs/03-Reference/api-{n}.md" for n in range(5)}  # more than the guard lets go at once


def old_bank(root: Path) -> Expect:
    pair(root)
    with opened(root, "alice") as alice, opened(root, "bob") as bob:
        for path in OLD:
            save(alice.root, path, numbered(path, 2))
        meet(alice, bob)
    return Expect()


def migrate(root: Path, told: Told) -> None:
    from replica import migrate as migrating

    with opened(root, "alice") as alice:
        migrating.carry_out(alice, migrating.plan(alice, ""))


def migrate_again(root: Path) -> None:
    """The command again."""
    from replica import migrate as migrating

    with opened(root, "alice") as alice:
        planned = migrating.plan(alice, "")
        if planned.moves:
            migrating.carry_out(alice, planned)


def migrated_check(root: Path) -> None:
    for name in ("alice", "bob"):
        for old, new in OLD.items():
            assert not (root / name / old).exists(), f"{name}: {old} is there still"
            assert (root / name / new).read_text("utf-8") == text_of(numbered(old, 2)), f"{name}: {new}"


def talking(root: Path) -> Expect:
    expect = pair(root)
    for path in ALL:
        expect.may[path] = {f"- live {name} {n}" for name in ("alice", "bob") for n in range(6)}
    return expect


def talker(name: str) -> Callable:
    """A running node on a clone whose files are saved and added to; it ends when it has the other's last words."""

    def live(root: Path, told: Told, link) -> None:
        async def run() -> None:
            with opened(root, name) as clone:
                peers = [] if name == "alice" else [("127.0.0.1", link.hear()["port"])]
                async with running(clone, peers=peers) as (node, task):
                    if name == "alice":
                        link.say({"port": node.port})
                    await until(task, lambda: bool(node.peers) or link.over, node)
                    for n in range(6):
                        for path in ALL:
                            writing.add(clone, path, f"- live {name} {n}")
                            told("there", path, f"- live {name} {n}")
                        await asyncio.sleep(0.01)
                    other = "bob" if name == "alice" else "alice"
                    await until(task, lambda: link.over or all(
                        f"- live {other} 5" in (root / name / path).read_text("utf-8") for path in ALL
                    ), node)  # fmt: skip

        asyncio.run(run())

    return live


SCENARIOS: dict[str, Scenario] = {
    "add": Scenario(adding, add),
    "edit": Scenario(edit_prepared, edit),
    "delete": Scenario(deleting, delete),
    "take-in": Scenario(saved, take_in),
    "ingest": Scenario(incoming, ingest),
    "ingest-then-edit": Scenario(incoming_and_edited, ingest, meanwhile=edited_after),
    "snapshot": Scenario(long_text, snapshot),
    "init": Scenario(before_init, init, again=init_again, check=init_check),
    "admit-remove": Scenario(admitting, admit_and_remove, again=removed_again, check=removed_check),
    "config": Scenario(reconfiguring, take_in),
    "policy": Scenario(changing_policy, take_in),
    "accept": Scenario(accepting, accept, again=while_held(accept)),
    "reject": Scenario(rejecting, reject, again=while_held(reject), check=rejected_check),
    "resolve": Scenario(disagreeing, settle),
    "restore": Scenario(restoring, restore),
    "harvest": Scenario(full_buffers, reap, check=reaped_check),
    "migrate": Scenario(old_bank, migrate, again=migrate_again, check=migrated_check),
    "copy": Scenario(copied, open_copy, check=copy_check),
    "backup": Scenario(back_from_backup, ingest),
    "fork": Scenario(forked, heal, again=healed_again),
    "compact": Scenario(foldable, fold),
    "baselines": Scenario(folded, take_baselines),
    "join": Scenario(alone, again=join_again, check=join_check, roles={"inviter": inviter, "joiner": joiner}),
    "live": Scenario(talking, roles={"alice": talker("alice"), "bob": talker("bob")}),
}
