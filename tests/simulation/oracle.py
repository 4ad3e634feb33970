"""What must hold once every fault is over and everybody has met."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from replica import filetext, folder, rejoin, status
from replica.blocks import block_id
from replica.clone import Clone
from replica.places import CONFIG
from tests.helpers import conflict_ids, shared_content
from tests.simulation.people import LEVEL_OF, SECRET, live_marks, marks_in

if TYPE_CHECKING:
    from tests.simulation.world import Process, Simulation


class Oracle:
    def __init__(self, simulation: "Simulation"):
        self.simulation, self.people = simulation, simulation.people
        self.members = simulation._running(member=True)

    def check(self) -> None:
        for check in (
            self._one_each, self._in_step, self._same, self._files, self._nothing_lost, self._nothing_leaked,
            self._nothing_silent, self._rebuilt, self._at_rest, self._reopened,
        ):  # fmt: skip
            check()

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            from tests.simulation.world import Finding

            raise Finding(what)

    # --- agreement

    def _one_each(self) -> None:
        """No two folders write under one name, and everybody knows everybody by it."""
        ids = [process.clone.identity.id for process in self.members]
        self._must(len(set(ids)) == len(ids), "two folders have one identity")
        for process in self.members:
            self._must(rejoin.under_way(process.clone.store) is None, f"{process.name} has not come back")
            belong = {m["id"] for m in process.clone.members() if m["removed_by"] is None}
            missing = [other.name for other in self.members if other.clone.identity.id not in belong]
            self._must(not missing, f"{missing} do not belong, says {process.name}")

    def _in_step(self) -> None:
        names = {process.name for process in self.members}
        for link in self.simulation.links:
            ends = [end.process.name for end in link.ends]
            if set(ends) <= names:
                self._must(link.in_step, f"{' and '.join(ends)} are not in step")

    def _same(self) -> None:
        """Equal logs, content, conflicts and digests."""
        first, *others = self.members
        floors = _floors(process.clone for process in self.members)
        log = _log(first.clone, floors)
        content, waiting = shared_content(first.clone), conflict_ids(first.clone)
        for other in others:
            both = f"{first.name} and {other.name}"
            self._must(_log(other.clone, floors) == log, f"the logs of {both} differ")
            self._must(shared_content(other.clone) == content, f"the documents of {both} differ")
            self._must(conflict_ids(other.clone) == waiting, f"the conflicts of {both} differ")
            self._must(other.clone.digest() == first.clone.digest(), f"the digests of {both} differ")

    def _files(self) -> None:
        """Every file shows its document; where nothing is private and no style its own, the same bytes everywhere."""
        seen: dict[str, tuple[str, bytes]] = {}
        for process in self.members:
            clone = process.clone
            shown = set()
            for document in clone.documents.all():
                rule = clone.rule(document.path)
                if rule is None or rule.policy != document.policy:
                    continue
                shown.add(document.path)
                name = f"{document.path} of {process.name}"
                file = clone.root / document.path
                self._must(file.is_file(), f"{name} is no file")
                data, text = file.read_bytes(), clone.documents.text(document)
                decoded = filetext.decode(data)
                found = decoded.text if document.policy == "text" else filetext.canonical(decoded.text)
                self._must(found == text, f"{name} does not hold its document")
                if self._is_own(clone, document, decoded):
                    continue
                other, there = seen.setdefault(document.path, (process.name, data))
                self._must(there == data, f"{name} differs from that of {other}")
            self._strays(process, shown)

    def _is_own(self, clone: Clone, document, decoded) -> bool:
        private = document.private is not None and clone.store.value(
            "SELECT 1 FROM alive WHERE doc=?", (document.private,)
        )
        style = decoded.style
        plain = not style.bom and style.eol == "\n" and style.final_newline
        return private or not plain or (document.policy != "text" and decoded.text != filetext.canonical(decoded.text))

    def _strays(self, process: "Process", shown: set[str]) -> None:
        for file in sorted(process.clone.root.rglob("*")):
            path = file.relative_to(process.clone.root).as_posix()
            self._must(not file.name.startswith(folder.TEMPORARY), f"{process.name} kept half-written {path}")
            is_document = file.is_file() and not path.startswith(".replica") and process.clone.rule(path) is not None
            self._must(not is_document or path in shown, f"{path} of {process.name} is no document")

    # --- nothing lost

    def _nothing_lost(self) -> None:
        """Every mark that was stored, or left in a file, is in the history; and lives if nobody took it away."""
        bodies = {process.name: _bodies(process.clone) for process in self.members}
        live = {process.name: live_marks(process.clone) for process in self.members}
        edited = {process.name: _marks_in_private_edits(process.clone) for process in self.members}
        with_secrets = {known.owner for known in self.people.marks.values() if known.secret}
        if "plan_level" in self.people.rules:
            with_secrets |= {process.name for process in self.members}
        ruled = {*LEVEL_OF, *(["ideas-buffer.md"] if "ideas" in self.people.rules else [])}
        for mark, known in self.people.marks.items():
            if known.owner in self.simulation.removed:
                continue
            core, what = mark[1:-1].encode(), f"{mark} in {known.path} of {known.owner}"
            private, shared = bodies[known.owner]
            if known.expected:
                # An edit of a private entry stays private; for other words in its place, a person has decided. A save
                # is taken in under the rules of that moment, which may be later than those that it was made under.
                may_stay = known.owner in with_secrets and (
                    not known.live or known.path in ruled or mark in edited[known.owner]
                )
                if known.live or not self.simulation.forgets:
                    # What is folded lives on in a baseline; what was taken away before that is forgotten.
                    folded = self.simulation.forgets and mark in live[known.owner]
                    stays = (may_stay or known.secret) and (core in private or folded)
                    self._must(core in shared or folded or stays, f"{what} is not in the history")
                    for name, (_, theirs) in bodies.items():
                        there = core in theirs or (self.simulation.forgets and mark in live[name])
                        self._must(core in private or there or stays, f"{what} is not in the history of {name}")
                # What an editor takes away and puts back slowly was deleted; under a rule of level 0 it comes back for
                # that clone alone.
                is_back_here = mark in self.people.put_back and self.people.rules.get(LEVEL_OF.get(known.path, "")) == 0
                if known.live and not is_back_here:
                    self._must(mark in live[known.owner], f"{what} is not live, and nobody took it away")

    # --- nothing leaked

    def _nothing_leaked(self) -> None:
        owners = {mark.encode(): known.owner for mark, known in self.people.marks.items() if known.secret}
        wire = b"\0".join(self.simulation.frames)
        self._must(SECRET.encode() not in wire, "a secret went over the wire")
        stored = {name: _disk(self.simulation.machines[name].root) for name in self.simulation.machines}
        for name, data in stored.items():
            for found in _secrets(data):
                owner = owners.get(found)
                self._must(self._line(owner) == self._line(name), f"a secret of {owner} is on the disk of {name}")
        for process in self.simulation._running():
            for id in _private_ids(process.clone):
                self._must(id not in wire, f"the name of a private entry of {process.name} went over the wire")

    def _line(self, name: str | None) -> str | None:
        """Which clone this one was once."""
        return self.simulation.twins.get(name, name)

    # --- nothing silent

    def _nothing_silent(self) -> None:
        for process in self.members:
            told = status.status(process.clone, None)
            self._must(not told["held"], f"{process.name} still holds {told['held']}")
            listed = {one["path"] for one in told["skipped"]}
            left = {f"{d.path} as {d.policy}" for d in process.clone.documents.all() if d.private is not None}
            self._must(listed <= left, f"{process.name} passes over {told['skipped']}")
            for document in process.clone.documents.all():
                rule = process.clone.rule(document.path)
                self._must(
                    (rule is not None and rule.policy == document.policy)
                    or f"{document.path} as {document.policy}" in listed,
                    f"{document.path} lives on at {process.name} as {document.policy}, and no file shows it",
                )

    # --- stable

    def _rebuilt(self) -> None:
        """The tables hold what the log says, and nothing of how they came about."""
        for process in self.members:
            clone = process.clone
            before = clone.digest()
            with self.simulation.hardware.on(process.machine), clone.transaction():
                for (doc,) in clone.store.rows("SELECT n FROM documents"):
                    clone.materialiser.rebuild(doc)
            self._must(clone.digest() == before, f"{process.name} rebuilt from its log is another")

    def _at_rest(self) -> None:
        """Another run of the bridge writes nothing, to no file and to no log."""
        for process in self.members:
            vector, files = process.clone.vector(), _files(process.clone)
            with self.simulation.hardware.on(process.machine):
                report = process.bridge.run(every=True)
            self._must(report.quiet, f"the bridge of {process.name} found something to do: {report}")
            self._must(process.clone.vector() == vector, f"the bridge of {process.name} wrote to the log")
            self._must(_files(process.clone) == files, f"the bridge of {process.name} changed a file")

    def _reopened(self) -> None:
        for process in self.members:
            digest, held = process.clone.digest(), shared_content(process.clone)
            with self.simulation.hardware.on(process.machine):
                process.clone.close()
                process.clone = Clone.open(process.clone.root, now_ms=process.machine.now_ms)
                self._must(process.clone.digest() == digest, f"{process.name} reopened has another digest")
                self._must(shared_content(process.clone) == held, f"{process.name} reopened holds something else")


def _floors(clones: Iterable[Clone]) -> dict[bytes, int]:
    """Of each author how far somebody has folded."""
    floors: dict[bytes, int] = {}
    for clone in clones:
        for id, floor in clone.log.floor().items():
            floors[id] = max(floor, floors.get(id, 0))
    return floors


def _log(clone: Clone, floors: dict[bytes, int]) -> list[tuple]:
    """Every change that nobody has folded, and where each chain ends."""
    rows = clone.store.rows(
        "SELECT a.id, c.seq, c.hash FROM changes c JOIN authors a ON a.n=c.author WHERE private=0 ORDER BY 1, 2"
    )
    ends = clone.store.rows("SELECT id, seq, head FROM authors WHERE private=0 ORDER BY 1")
    return [*ends, *(row for row in rows if row[1] > floors.get(row[0], 0))]


def _bodies(clone: Clone) -> tuple[bytes, bytes]:
    """All private changes as one piece, and all shared ones."""
    rows = clone.store.rows("SELECT private, body FROM changes c JOIN authors a ON a.n=c.author ORDER BY c.n")
    return tuple(b"\0".join(body for private, body in rows if private == chosen) for chosen in (1, 0))


def _secrets(data: bytes) -> set[bytes]:
    """Every whole mark of a secret: the digits before it stand behind it again."""
    found, at = set(), -1
    while (at := data.find(SECRET.encode(), at + 1)) >= 0:
        end = at + len(SECRET)
        if at >= 2 and data[at - 2 : at] == data[end : end + 2]:
            found.add(data[at - 2 : end + 2])
    return found


def _marks_in_private_edits(clone: Clone) -> set[str]:
    """The marks in live entries of level 0 that stand where others stood."""
    found = set()
    for document in clone.documents.all():
        for entry in clone.documents.versions(document) if document.policy != "text" else ():
            if entry.private and entry.roots != {entry.id}:
                found |= marks_in(entry.text)
    return found


def _private_ids(clone: Clone) -> set[bytes]:
    """The names of blocks that only the private chain holds."""
    rows = clone.store.rows("SELECT role, text, occurrence, private FROM adds JOIN authors a ON a.n=adds.author")
    ids = {private: {block_id(*row[:3]) for row in rows if row[3] == private} for private in (0, 1)}
    return ids[1] - ids[0]


def _disk(root) -> bytes:
    return b"\0".join(file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file())


def _files(clone: Clone) -> dict[str, tuple[bytes, int]]:
    return {
        file.relative_to(clone.root).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(clone.root.rglob("*"))
        if file.is_file() and ".replica" not in file.parts and file.name != CONFIG
    }
