"""What the scenarios stand on (clones in a folder, lines in their files), and what must hold after each crash."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

from replica.bridge import Bridge, Report
from replica.clone import Clone
from replica.keys import Identity
from replica.places import FOLDER, STORE
from tests.helpers import assert_same, shared_content, stored_bytes, sync
from transport.tls import make_certificate

Told = Callable[[str, str, str], None]  # there or gone, path, line: what the program has acknowledged
# Not identity.pem.new and node.json.new: the next node writes them anew under the same name.
LEFTOVERS = (".replica-new-*", "store.new*", "identity*.next*", "identity.joining*", "identity.new", "*.private.new")


class Expect:
    """Lines by document: `must` be there, `may` be there (under way, not acknowledged), each once. Nothing else may.

    `secret`: words of level 0 that no other clone may hold.
    """

    def __init__(self, must=None, may=None, secret=()):
        self.must: dict[str, set[str]] = {path: set(lines) for path, lines in (must or {}).items()}
        self.may: dict[str, set[str]] = {path: set(lines) for path, lines in (may or {}).items()}
        self.secret = list(secret)

    def told(self, what: str, path: str, line: str) -> None:
        """The program has said that `line` is there now, or gone."""
        self.may.setdefault(path, set()).discard(line)
        self.must.setdefault(path, set()).discard(line)
        if what == "there":
            self.must[path].add(line)

    def to_json(self) -> str:
        plain = lambda lines: {path: sorted(those) for path, those in lines.items()}  # noqa: E731
        return json.dumps({"must": plain(self.must), "may": plain(self.may), "secret": self.secret})

    @classmethod
    def from_json(cls, text: str) -> "Expect":
        return cls(**json.loads(text))


# --- making


def founder(root: Path, name: str = "alice") -> Clone:
    return Clone.create(root / name, name, "garden", make_certificate)


def newcomer(root: Path, by: Clone, name: str) -> Clone:
    """A new member as pairing leaves it."""
    identity = Identity.new()
    given = by.admit(identity.public, make_certificate(identity.private), name)
    inviter = make_certificate(by.identity.private)
    return Clone.adopt(root / name, identity, by.workspace, given, inviter=inviter)


def opened(root: Path, name: str) -> Clone:
    return Clone.open(root / name, certify=make_certificate)


def numbered(word: str, count: int) -> list[str]:
    return [f"- {word} {n} ü" for n in range(count)]


def text_of(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def save(root: Path, path: str, lines: list[str]) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text_of(lines), "utf-8")


def bridged(clone: Clone) -> Report:
    return Bridge(clone, Clock()).run(every=True)


class Clock:
    """The time of day, a second later at each look: a second look at a file comes late enough."""

    def __init__(self):
        self._ahead = itertools.count(0, 1_000)

    def __call__(self) -> int:
        return int(time.time() * 1000) + next(self._ahead)


def meet(*clones: Clone) -> None:
    """Everyone with everyone and the files of each, once round."""
    for clone in clones:
        bridged(clone)
    for _ in range(2):
        for one, other in itertools.combinations(clones, 2):
            sync(one, other)
    for clone in clones:
        bridged(clone)


# --- after a crash


def is_clone(root: Path) -> bool:
    return (root / FOLDER / STORE).is_file()


def recovered(root: Path, expect: Expect) -> None:
    """The oracle: open what is there, let the clones meet, and look at everything that was promised."""
    with contextlib.ExitStack() as stack:
        clones = [
            stack.enter_context(opened(root, place.name))
            for place in sorted(root.iterdir())
            if place.is_dir() and is_clone(place)
        ]
        for clone in clones:
            assert clone.store.value("PRAGMA integrity_check") == "ok", f"{clone.name}: the store is damaged"
        active = [clone for clone in clones if not clone.removed]
        _come_to_rest(active)
        _lines_are_right(active, expect)
        for clone in active:
            _files_are_the_documents(clone)
        assert_same(*active)
        _nothing_leaked(clones, expect)
        for clone in clones:
            _log_gives_the_tables(clone)
        _lines_are_right(active, expect)
    _nothing_is_left_behind(root)


def _come_to_rest(clones: list[Clone]) -> None:
    for _ in range(6):
        reports = [_looked_twice(clone) for clone in clones]
        vectors = [clone.vector() for clone in clones]
        if all(report.quiet for report in reports) and all(vector == vectors[0] for vector in vectors):
            for clone, report in zip(clones, reports, strict=True):
                assert not report.held, f"{clone.name} holds back {report.held}"
                assert not report.skipped, f"{clone.name} passes over {report.skipped}"
            return
        for one, other in itertools.combinations(clones, 2):
            sync(one, other)
    raise AssertionError(f"the bridges do not come to rest: {reports}")


def _looked_twice(clone: Clone) -> Report:
    """A run, and the second look at what is only believed then."""
    bridge = Bridge(clone, Clock())
    report = bridge.run(every=True)
    if not report.look_again:
        return report
    again = bridge.run(every=True)
    for part in ("taken", "written", "deleted", "removed"):
        setattr(again, part, getattr(report, part) + getattr(again, part))
    return again


def _files_are_the_documents(clone: Clone) -> None:
    alive = {document.path for document in clone.documents.all() if document.alive and clone.rule(document.path)}
    for path in alive:
        file = clone.root / path
        assert file.is_file(), f"{clone.name}: {path} is a document and no file"
        assert file.read_text("utf-8") == clone.text(path), f"{clone.name}: {path} is not what its document says"
    there = {
        file.relative_to(clone.root).as_posix()
        for file in clone.root.rglob("*.md")
        if FOLDER not in file.relative_to(clone.root).parts
    }
    assert there <= alive, f"{clone.name}: files and no documents: {sorted(there - alive)}"


def _lines_are_right(clones: list[Clone], expect: Expect) -> None:
    for clone in clones:
        for path in expect.must.keys() | expect.may.keys():
            must, may = expect.must.get(path, set()), expect.may.get(path, set())
            file = clone.root / path
            lines = [line for line in file.read_text("utf-8").split("\n") if line] if file.is_file() else []
            if clone.name != "alice":
                must, may = ({line for line in lines if not _secret(line, expect)} for lines in (must, may))
            where = f"{clone.name}: {path}"
            assert not (missing := must - set(lines)), f"{where} has lost {sorted(missing)[:5]}"
            assert len(lines) == len(set(lines)), (
                f"{where} has twice {sorted({x for x in lines if lines.count(x) > 1})}"
            )
            assert not (odd := set(lines) - must - may), f"{where} should not have {sorted(odd)[:5]}"


def _secret(line: str, expect: Expect) -> bool:
    return any(word in line for word in expect.secret)


def _nothing_leaked(clones: list[Clone], expect: Expect) -> None:
    for clone in clones:
        if clone.name != "alice":
            held = stored_bytes(clone)
            assert not any(word.encode() in held for word in expect.secret), f"{clone.name} holds words of level 0"


def _log_gives_the_tables(clone: Clone) -> None:
    before, digest = shared_content(clone), clone.digest()
    with clone.transaction():
        for (doc,) in clone.store.rows("SELECT n FROM documents"):
            clone.materialiser.rebuild(doc)
            clone.store.execute("UPDATE documents SET digest=NULL WHERE n=?", (doc,))
    assert shared_content(clone) == before, f"{clone.name}: the log gives other tables"
    assert clone.digest() == digest, f"{clone.name}: the log gives another digest"


def _nothing_is_left_behind(root: Path) -> None:
    left = [str(file.relative_to(root)) for pattern in LEFTOVERS for file in root.rglob(pattern)]
    assert not left, f"left behind: {left}"


def members(clone: Clone) -> list[str]:
    return sorted(member["name"] for member in clone.members() if member["removed_by"] is None)


def rules(**policies: str) -> list[str]:
    """The lines of a replica.toml; the policy by name of file, without .md."""
    return [
        line for stem, policy in policies.items()
        for line in ("[[documents]]", f'glob = "{stem}.md"', f'policy = "{policy}"')
    ]  # fmt: skip
