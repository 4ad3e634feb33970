"""What people and agents do to the files of a clone and by commands, and what they may expect of it afterwards.

Every edit carries a mark, a word that stands nowhere else. A mark may only vanish from what is live when somebody took
it away where he saw it; from the history never. A secret is a mark that belongs to one clone alone.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replica import decisions, history, writing
from replica.bridge import Bridge
from replica.clone import Clone
from replica.config import CADENCES
from replica.errors import NotFound, ReplicaError, UsageError, WrongPolicy
from replica.places import CONFIG

if TYPE_CHECKING:
    from tests.simulation.hardware import Machine
    from tests.simulation.world import Simulation

SECRET = "s3cr3t"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MARK = re.compile(rf"([0-9a-z]{{2}})(?:zq|{SECRET})\1")
WORDS = (
    "lesson",
    "日本",
    "🧠",
    "naïve",
    "עברית",
    "e\u0301",
    "👩\u200d💻",
    "a\tb",
    "𝄞",
    "retries need jitter,",
    "**bold**",
)

UNION, LOG, LATEST, TEXT = "union", "log", "latest", "text"
DOCUMENTS = {
    "lessons-buffer.md": UNION, "ideas-buffer.md": UNION, "SESSION_LOG.md": LOG, "activeContext.md": LATEST,
    "notes.md": TEXT, "docs/plan.md": TEXT, "private-diary.md": TEXT, "private-buffer.md": UNION,
}  # fmt: skip
PRIVATE = ("private-diary.md", "private-buffer.md")
WITH_ENTRIES = ("lessons-buffer.md", "ideas-buffer.md", "SESSION_LOG.md")
LEVEL_OF = {"docs/plan.md": "plan_level", "activeContext.md": "now_level"}  # the rules of the workspace that set it
NEWLINE = "\n"
WITH_CADENCE = ("docs/plan.md", "activeContext.md", "ideas-buffer.md", "SESSION_LOG.md")


def replica_toml(
    plan_level: int = 1, ideas: str = UNION, comment: str = "", history: str = "", cadences: tuple[str, ...] = (),
    now_level: int = 1,
) -> str:  # fmt: skip
    """The rules of the workspace. Its founder changes them now and then. `cadences`: of WITH_CADENCE."""
    plan, now, later, log = (f'\ncadence = "{name}"' for name in cadences) if cadences else ("",) * len(WITH_CADENCE)
    return f"""# Shared by all. {comment}
{history}
[[documents]]
glob = "private-*buffer.md"
policy = "union"
level = 0

[[documents]]
glob = "private-*.md"
level = 0

[[documents]]
glob = "docs/plan.md"{plan}
level = {plan_level}

[[documents]]
glob = "activeContext.md"{now}
policy = "latest"{"" if now_level else NEWLINE + "level = 0"}

[[documents]]
glob = "ideas-buffer.md"{later}
policy = "{ideas}"

[[documents]]
glob = "*-buffer.md"
policy = "union"

[[documents]]
glob = "SESSION_LOG.md"{log}
policy = "log"

[[documents]]
glob = "**/*.md"
"""


@dataclass
class Mark:
    """`owner`: the clone where it was written. `secret`: for that clone alone."""

    owner: str
    path: str
    secret: bool
    taken: bool = False  # somebody was told that it is stored
    expected: bool = False  # in the history, after all
    live: bool = True  # and in what is shown, or waits for a decision


def marks_in(text: str) -> set[str]:
    return {found[0] for found in _MARK.finditer(text)}


class People:
    """Everybody who works on some clone."""

    def __init__(self, simulation: "Simulation"):
        self.simulation, self.random = simulation, simulation.random
        self.marks: dict[str, Mark] = {}
        self.saving: list[tuple[Machine, str, bytes]] = []  # what an editor has still to write
        self.rules: dict[str, object] = {}
        self.broken_rules = False
        self.moves = 0
        self.put_back: set[str] = set()  # what an editor took away with its file, to write it again

    # --- marks

    def mark(self, machine: "Machine", path: str, secret: bool = False) -> str:
        # Two marks share at most one character at either end: a diff that trims what two words share leaves the core.
        number = len(self.marks)
        digits = _DIGITS[number % 36] + _DIGITS[number // 36]
        mark = f"{digits}{SECRET if secret else 'zq'}{digits}"
        self.marks[mark] = Mark(machine.name, path, secret)
        return mark

    def gone(self, marks: Iterable[str]) -> None:
        """Somebody took these away where he saw them."""
        for mark in marks:
            known = self.marks[mark]
            known.live = False
            known.expected = known.expected and known.taken

    def told(self, marks: Iterable[str]) -> None:
        for mark in marks:
            self.marks[mark].taken = True

    # --- files

    def save(self, machine: "Machine") -> None:
        """One edit of one file, in one of the ways in which editors write."""
        if machine.full:
            return
        self._save(machine, self._choose(machine))

    def save_beside_secrets(self, machine: "Machine") -> None:
        """An edit at the place of an entry of level 0."""
        paths = [path for path in WITH_ENTRIES if self._may_hold_secrets(machine, path)]
        if not paths or machine.full:
            return
        path = self.random.choice(paths)
        lines = _text(_read(machine.root / path)).removesuffix("\n").split("\n")
        secret = self.random.choice([at for at, line in enumerate(lines) if SECRET in line])
        what = self.random.choice(("edit", "drop", "replace", "edit another", "rewrite"))
        if what == "edit":
            lines[secret] += f" {self.mark(machine, path, True)}"
        elif what == "drop":
            del lines[secret]
        elif what == "replace":
            lines[secret] = self._line(machine, path, self._policy(path), False, lines)
        elif what == "edit another":
            self._inside(machine, path, self._policy(path), lines, False)
        else:
            self._rewrite(machine, path, self._policy(path), lines, False)
        self._write(machine, path, "".join(f"{line}\n" for line in lines).encode())

    def _save(self, machine: "Machine", path: str) -> None:
        old = _read(machine.root / path)
        if old is None and self.random.random() < 0.3:
            return
        if old is not None and self.random.random() < 0.06:
            self._leave(machine, path)
            return
        new = self._edited(machine, path, old or b"")
        if new is not None and new != old:
            self._write(machine, path, new)

    def _choose(self, machine: "Machine") -> str:
        if self.random.random() < 0.1:
            others = sorted(file.relative_to(machine.root).as_posix() for file in machine.root.glob("docs/[!.]*.md"))
            if others:
                return self.random.choice(others)
        return self.random.choice(tuple(DOCUMENTS))

    def _policy(self, path: str) -> str:
        return str(self.rules.get("ideas", UNION)) if path == "ideas-buffer.md" else DOCUMENTS.get(path, TEXT)

    def _write(self, machine: "Machine", path: str, data: bytes) -> None:
        file = machine.root / path
        if file.is_dir() or (file.parent.exists() and not file.parent.is_dir()):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        how = self.random.choices(("rename", "place", "truncate", "delete", "half"), (40, 35, 10, 8, 7))[0]
        if how in ("truncate", "delete", "half") and not file.exists():
            how = "place"
        self.simulation.trace(f"{machine.name} saves {path} by {how}")
        if how == "truncate":
            self._replace(machine, path, b"", put_off=data)
        elif how == "half":
            self._replace(machine, path, _half(data), put_off=data)
        elif how == "delete":
            self._remove(machine, path, put_off=data)
        else:
            self._replace(machine, path, data, beside=how == "rename")

    def _replace(
        self, machine: "Machine", path: str, data: bytes, *, beside: bool = False, put_off: bytes | None = None
    ) -> None:
        """The file holds this now. `put_off`: what the editor is going to write there."""
        file = machine.root / path
        before = marks_in(_text(_read(file)))
        # Who saves over what another editor has half written takes the other half away, for all that a program sees.
        before |= {mark for one in self.saving if one[:2] == (machine, path) for mark in marks_in(_text(one[2]))}
        after = marks_in(_text(data if put_off is None else put_off))
        if beside:
            other = file.with_name(f".{file.name}.swp~")
            other.write_bytes(data)
            os.replace(other, file)
        else:
            file.write_bytes(data)
        machine.saved(file)
        self.gone(before - after)
        for mark in after - before:
            if self.marks[mark].owner == machine.name:
                self.marks[mark].expected = True
                self.simulation.overwritten.pop(mark, None)  # if it was: it is there again
        if put_off is not None:
            self.saving.append((machine, path, put_off))

    def _remove(self, machine: "Machine", path: str, *, put_off: bytes | None = None) -> None:
        file = machine.root / path
        before = marks_in(_text(_read(file)))
        file.unlink(missing_ok=True)
        machine.unflushed = [one for one in machine.unflushed if one.path != file]
        self.gone(before - marks_in(_text(put_off)))
        if put_off is not None:
            self.put_back |= before
            self.saving.append((machine, path, put_off))

    def finish_saving(self, machine: "Machine | None" = None, most: int | None = None) -> None:
        """Editors write what they had begun to; whatever was written there meanwhile, they do not see."""
        ready = [one for one in self.saving if machine in (None, one[0]) and not one[0].full]
        for one in ready[:most]:
            self.saving.remove(one)
            self.simulation.trace(f"{one[0].name} finishes {one[1]}")
            if (one[0].root / one[1]).parent.is_dir():
                self._replace(*one)
            else:
                self.gone(marks_in(_text(one[2])))

    def _leave(self, machine: "Machine", path: str) -> None:
        """A file is deleted, or renamed."""
        if any((machine, path) == one[:2] for one in self.saving):
            return
        if self.random.random() < 0.5 or path in PRIVATE or self._may_hold_secrets(machine, path):
            self.simulation.trace(f"{machine.name} deletes {path}")
            self._remove(machine, path)
            return
        self.moves += 1  # never onto another file: that would be a person's loss
        to = f"docs/{self.moves}-moved.md"
        self.simulation.trace(f"{machine.name} renames {path} to {to}")
        (machine.root / to).parent.mkdir(exist_ok=True)
        os.replace(machine.root / path, machine.root / to)
        machine.unflushed = [one for one in machine.unflushed if one.path != machine.root / path]

    # --- contents

    def _may_hold_secrets(self, machine: "Machine", path: str) -> bool:
        return SECRET in _text(_read(machine.root / path))

    def _edited(self, machine: "Machine", path: str, old: bytes) -> bytes | None:
        text = _text(old)
        bom, crlf = text.startswith("\ufeff"), "\r\n" in text
        lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        ended = lines[-1] == ""
        if ended:
            lines.pop()
        policy, secret = self._policy(path), path in PRIVATE or self._is_private(machine, path)
        edit = self.random.choices(
            (self._append, self._insert, self._inside, self._drop, self._move, self._rewrite, self._merge, self._style),
            (30, 15, 22, 9, 7, 4, 5, 3) if policy != LOG else (80, 4, 3, 3, 2, 1, 5, 2),
        )[0]
        style = edit(machine, path, policy, lines, secret)
        if style is not None:
            bom, crlf, ended = bom ^ (style == "bom"), crlf ^ (style == "crlf"), ended ^ (style == "newline")
        new = "\n".join(lines) + ("\n" if ended and lines else "")
        if policy == LOG and marks_in(text) - marks_in(new) and self.random.random() < 0.7:
            return None
        return (("\ufeff" if bom else "") + (new.replace("\n", "\r\n") if crlf else new)).encode()

    def _is_private(self, machine: "Machine", path: str) -> bool:
        """Whether what is written here goes to level 0, for all that this clone knows."""
        process = self.simulation.processes.get(machine.name)
        if process is None or self.rules.get(LEVEL_OF.get(path, "")) != 0:
            return False
        with self.simulation.hardware.on(machine):
            rule = process.clone.rule(path)
        return rule is not None and rule.level == 0

    def _line(self, machine: "Machine", path: str, policy: str, secret: bool, lines: list[str]) -> str:
        mark = self.mark(machine, path, secret)
        words = f"{self.random.choice(WORDS)} {mark} {self.random.choice(WORDS)}"
        if policy == LATEST:
            return words
        if policy == TEXT:
            return self.random.choice(("", "- ", "## ")) + words
        if self.random.random() < 0.1 and policy == UNION:
            return f"## {words}"
        return f"- {words}"

    def _append(self, machine, path, policy, lines, secret):
        for _ in range(self.random.choice((1, 1, 1, 3))):
            lines.append(self._line(machine, path, policy, secret, lines))

    def _insert(self, machine, path, policy, lines, secret):
        lines.insert(self.random.randrange(len(lines) + 1), self._line(machine, path, policy, secret, lines))

    def _inside(self, machine, path, policy, lines, secret):
        """A word more in a line, somewhere between its words."""
        full = [at for at, line in enumerate(lines) if " " in line]
        if not full:
            return self._append(machine, path, policy, lines, secret)
        at = self.random.choice(full)
        head, *words = lines[at].split(" ")
        private = secret or (SECRET in lines[at])
        words.insert(self.random.randrange(len(words) + 1), self.mark(machine, path, private))
        lines[at] = " ".join([head, *words])
        return None

    def _drop(self, machine, path, policy, lines, secret):
        at = self.random.randrange(len(lines) + 1)
        del lines[at : at + self.random.choice((1, 1, 2, 30))]

    def _move(self, machine, path, policy, lines, secret):
        if len(lines) > 1:
            line = lines.pop(self.random.randrange(len(lines)))
            lines.insert(self.random.randrange(len(lines) + 1), line)

    def _rewrite(self, machine, path, policy, lines, secret):
        lines[:] = [self._line(machine, path, policy, secret, lines) for _ in range(self.random.randrange(1, 4))]

    def _merge(self, machine, path, policy, lines, secret):
        """A merge by hand: what stands in another clone's file, and is no secret of that clone, is copied in."""
        others = [other for name, other in self.simulation.machines.items() if name != machine.name]
        if not others or secret or path in PRIVATE:
            return
        other = self.random.choice(others)
        if other.name in self.simulation.removed or machine.name in self.simulation.removed:
            return
        theirs = _text(_read(other.root / path)).removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
        lines += [line for line in theirs if line and line not in lines and SECRET not in line]

    def _style(self, machine, path, policy, lines, secret):
        """What is the file's own: no content changes."""
        if path == "activeContext.md" or policy == TEXT:
            return None
        return self.random.choice(("bom", "crlf", "newline"))

    # --- replica.toml

    def change_rules(self, machine: "Machine") -> None:
        """The founder alone does this: of two concurrent versions, the newer one could take a level 0 back."""
        if machine.full or _read(machine.root / CONFIG) is None:
            return
        self.rules["comment"] = self.mark(machine, CONFIG)
        what = self.random.choice(("comment", "level", "policy", "broken"))
        if what == "level":
            self.rules["plan_level"] = 0
            if len(self.marks) % 2:
                self.rules["now_level"] = 0
        elif what == "policy":
            self.rules["ideas"] = TEXT if self.rules.get("ideas", UNION) == UNION else UNION
        elif what == "comment" and self.rules.get("cadences"):
            self.rules["cadences"] = tuple(self.random.choices(CADENCES, k=len(WITH_CADENCE)))
        self.broken_rules = what == "broken"
        text = replica_toml(**self.rules) + ("[[documents\n" if self.broken_rules else "")
        self._replace(machine, CONFIG, text.encode(), beside=self.random.random() < 0.5)

    def mend_rules(self, machine: "Machine") -> None:
        if self.broken_rules:
            self.broken_rules = False
            self._replace(machine, CONFIG, replica_toml(**self.rules).encode())

    # --- commands

    def add(self, machine: "Machine", clone: Clone) -> None:
        path = self.random.choice(tuple(DOCUMENTS))
        secret = path in PRIVATE or (self.random.random() < 0.25 and self._policy(path) in (UNION, LOG))
        self._add(machine, clone, path, secret)

    def whisper(self, machine: "Machine", clone: Clone) -> None:
        """An entry of level 0 amid others that everybody has."""
        self._add(machine, clone, self.random.choice(WITH_ENTRIES), True)

    def _add(self, machine: "Machine", clone: Clone, path: str, secret: bool) -> None:
        rule = clone.rule(path)
        secret = secret or (rule is not None and rule.level == 0)
        mark = self.mark(machine, path, secret)
        try:
            writing.add(clone, path, f"{self.random.choice(WORDS)} {mark}", level=0 if secret else None)
        except (WrongPolicy, UsageError):
            self.marks[mark].live = False
            return
        except BaseException:
            self.marks[mark].live = False
            raise
        self.marks[mark].expected = self.marks[mark].taken = True

    def delete(self, machine: "Machine", clone: Clone) -> None:
        if documents := [d for d in clone.documents.all() if d.path != CONFIG]:
            document = self.random.choice(documents)
            self._taking_away(clone, lambda: clone.delete(document))

    def restore(self, machine: "Machine", clone: Clone) -> None:
        if documents := [d for d in clone.documents.all() if d.path != CONFIG]:
            path = self.random.choice(documents).path
            try:
                self._taking_away(clone, lambda: history.restore(clone, path, history.before_last(clone, path)))
            except (NotFound, WrongPolicy):
                pass

    def resolve(self, machine: "Machine", clone: Clone) -> None:
        waiting = [c for c in clone.documents.all_conflicts() if c.path != CONFIG]
        if not waiting:
            return
        conflict = self.random.choice(waiting)
        keep = self.random.choice(conflict.versions).version
        try:
            self._taking_away(clone, lambda: decisions.resolve(clone, conflict.id, keep=keep))
        except WrongPolicy:
            pass

    def _taking_away(self, clone: Clone, work) -> None:
        before, in_texts = live_marks(clone), marks_in_texts(clone)
        try:
            work()
        except ReplicaError:
            raise
        except BaseException:
            self.gone(before)  # it may have happened, or not
            raise
        # What was taken out of a text may still be shown beside it, as a side of a conflict: that is no more than the
        # past, and ends when somebody who has not heard of this settles the conflict.
        self.gone((before - live_marks(clone)) | (in_texts - marks_in_texts(clone)))

    def decide_held(self, machine: "Machine", clone: Clone) -> None:
        """What the guard holds is let through, or undone."""
        bridge = Bridge(clone, machine.now_ms)
        withheld = bridge.withheld.rows()
        if withheld:
            path, line = (row := self.random.choice(withheld))["path"], row["line"]
            with suppress(NotFound):  # somebody saves in between, and it is another
                if SECRET in bridge.withheld.find(path, line).text:
                    bridge.reject_lines(path, [line])
                else:
                    self.heard(clone, bridge.accept_lines(path, [line]))
            return
        if not bridge.held():
            return
        levels = [held["path"] for held in bridge.held() if held["reason"] == "level"]
        if levels and self.random.random() < 0.5:  # what must not be shared is taken out of the file
            lines = _text(_read(machine.root / levels[0])).splitlines(keepends=True)
            kept = [line for line in lines if SECRET not in line]
            self._replace(machine, levels[0], "".join(kept).encode())
        elif levels:
            self._reject(machine, bridge, levels)
        elif self.random.random() < 0.5:
            report = bridge.accept([])
            self.heard(clone, report)
        else:
            self._reject(machine, bridge, [held["path"] for held in bridge.held()])

    def _reject(self, machine: "Machine", bridge: Bridge, paths: list[str]) -> None:
        for path in paths:
            row = bridge.row(path)
            kept = marks_in(_text(row.base)) if row else set()
            self.gone(marks_in(_text(_read(machine.root / path))) - kept)
            for saving in [one for one in self.saving if one[:2] == (machine, path)]:
                self.gone(marks_in(_text(saving[2])) - kept)
        bridge.reject(paths)

    def heard(self, clone: Clone, report) -> None:
        """The bridge has said what it took in."""
        for path in report.taken:
            row = clone.store.row("SELECT base FROM files WHERE path=?", (path,))
            if row:
                self.told(marks_in(_text(row[0])))


def live_marks(clone: Clone) -> set[str]:
    """Every mark in what is live on this clone: shown, or a version that waits for a decision."""
    found = set()
    for document in clone.documents.all():
        if document.policy == TEXT:
            for doc in (document.shared, document.private):
                if doc is not None and clone.store.value("SELECT 1 FROM alive WHERE doc=?", (doc,)):
                    found |= marks_in(clone.documents.raw_text(doc))
            for conflict in clone.documents.conflicts(document):
                found |= marks_in("\n".join(version.text for version in conflict.versions))
        else:
            for entry in clone.documents.versions(document):
                found |= marks_in(entry.text)
    return found


def marks_in_texts(clone: Clone) -> set[str]:
    """Every mark in the texts of this clone as they are now."""
    texts = [clone.documents.text(one) for one in clone.documents.all() if one.policy == TEXT]
    return {mark for text in texts for mark in marks_in(text)}


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def _half(data: bytes) -> bytes:
    """The beginning of `data`, up to some word or line in its middle."""
    text = data.decode()
    ends = [found.end() for found in re.finditer(r"\s", text)]
    return text[: ends[len(ends) // 2]].encode() if ends else b""
