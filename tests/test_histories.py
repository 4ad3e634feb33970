"""Six clones on a bad network, many histories: whatever happened, they agree in the end and nothing is lost.

The clones, logs and sessions are the real ones; the network is lists, the clocks are numbers. A history
follows from its seed, which is the test's name: `REPLICA_SEED=17` runs that one alone,
`REPLICA_HISTORIES=1000` runs so many.
"""

import os
from itertools import combinations
from random import Random

import msgpack
import pytest

from replica import compact, log, materialise
from replica.changes import Dot, Remove
from replica.clone import Clone
from tests.helpers import Link, Network, assert_same, entry, stored_bytes

HISTORIES = int(os.environ.get("REPLICA_HISTORIES", "150"))
SEEDS = [int(os.environ["REPLICA_SEED"])] if "REPLICA_SEED" in os.environ else range(HISTORIES)

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank")
WORDS = ("lesson", "日本", "🧠", "naïve", "עברית", "e\u0301", "👩\u200d💻", "x\ty", "𝄞")
UNIONS = ("a-buffer.md", "b-buffer.md")
STEPS = 70


class History:
    """One run. `kept` are the adds that somebody was told are stored, `killed` those that an operation took away."""

    def __init__(self, seed: int, network: Network, *, folding: bool = False):
        self.folding = folding
        self.random = Random(seed)
        self.network = network
        self.skew = dict.fromkeys(NAMES, 0)
        self.now = network.now
        # Three let others in, so no two clones got to know everyone in one order.
        for name, by in zip(NAMES, (None, "alice", "alice", "bob", "carol", "carol"), strict=True):
            network.add(name, lambda name=name: max(0, self.now + self.skew[name]), by)
            if by:
                network.sync(by, name)
        for one, other in (("alice", "bob"), ("bob", "carol")):
            network.sync(one, other)
        network.sync_all()
        self.folders = self.random.sample(NAMES, self.random.choice((1, 3, 6)))
        for clone in network.clones.values() if folding else ():
            clone.set_config("[history]\ndays = 0\n")
        self.roads = self._roads()
        self.links: list[tuple[str, str, Link]] = []
        self.count = self.folded = 0
        self.kept: dict[Dot, str] = {}
        self.killed: set[Dot] = set()
        self.marks: dict[str, tuple[str, str]] = {}  # piece of a text -> where it is, while nobody took it away
        self.deleted: set[str] = set()
        self.secrets: dict[str, str] = {}
        self.pace = self.random.choice(((0,), (0, 1, 50, 5_000)))  # clocks that stand still: many equal times
        self.scale = self.random.choice((1, 3, 500))  # changes in a batch: small ones cut runs into pieces

    def _roads(self) -> list[tuple[str, str]]:
        """Who can meet whom: connected, but most pairs know each other through others only."""
        order = self.random.sample(NAMES, len(NAMES))
        tree = [(name, self.random.choice(order[:at])) for at, name in enumerate(order) if at]
        more = [pair for pair in combinations(NAMES, 2) if self.random.random() < 0.15]
        return tree + more

    # --- the network

    def step(self) -> None:
        self.now += self.random.choice(self.pace)
        act = self.random.choices(
            (self.edit, self.deliver, self.meet, self.cut, self.jump, self.settle, self.fold),
            (30, 50, 8, 4, 2, 6, 6 if self.folding else 0),
        )[0]
        act()

    def meet(self) -> None:
        """A session more; now and then a second one beside the first."""
        one, other = self.random.choice(self.roads)
        if sum({one, other} == {a, b} for a, b, _ in self.links) < 2:
            self.links.append((one, other, Link(self.network[one], self.network[other])))

    def cut(self) -> None:
        """A link breaks: what is on its way is lost, on one side or both, and the next session starts anew."""
        if self.links:
            *_, link = self.links.pop(self.random.randrange(len(self.links)))
            for side in (0, 1):
                for _ in range(self.random.randrange(3)):
                    if link.queues[side]:
                        link.deliver(side)

    def deliver(self) -> None:
        for _ in range(self.random.randrange(1, 8)):
            busy = [(link, side) for _, _, link in self.links for side in link.busy]
            if not busy:
                return
            link, side = self.random.choice(busy)
            link.deliver(side)
            if self.random.random() < 0.7:
                self.hear()

    def hear(self) -> None:
        """The sessions of a clone whose store has grown are told; some of them late."""
        for _, _, link in self.links:
            for side in (0, 1):
                if self.random.random() < 0.8:
                    link.send(side, link.sessions[side].changed())

    def settle(self) -> None:
        for _, _, link in self.links:
            for side in (0, 1):
                link.send(side, link.sessions[side].settle())

    def jump(self) -> None:
        """A clock is set: forward or back, by a little or by years."""
        self.skew[self.random.choice(NAMES)] = self.random.choice((-1, 1)) * self.random.choice(
            (0, 500, 86_400_000, 10**12)
        )

    def fold(self) -> None:
        """A clone has heard from peers what they hold, and folds what it may. Some never do."""
        name = self.random.choice(self.folders)
        clone = self.network[name]
        self.skew[name] = max(0, self.skew[name])  # what was written just now is not older than now
        self.now += 1_000
        with clone.transaction():
            for peer in [other for other in self.network.clones.values() if self.random.random() < 0.8]:
                clone.store.execute(
                    "INSERT OR REPLACE INTO peers(id, vector) VALUES(?,?)",
                    (peer.identity.id, msgpack.packb(peer.vector())),
                )
        self.folded += compact.compact(clone).folded

    def heal(self) -> None:
        """Every road works, until nothing is new anywhere."""
        self.links = [(one, other, Link(self.network[one], self.network[other])) for one, other in self.roads]
        for _ in range(10 * len(NAMES)):
            for *_, link in self.links:
                link.run()
            moved = [
                (link, side, messages)
                for *_, link in self.links
                for side in (0, 1)
                if (messages := link.sessions[side].changed())
            ]
            for link, side, messages in moved:
                link.send(side, messages)
            if not moved:
                break
        for one, other, link in self.links:
            link.run()
            assert link.in_step, (one, other, link.events)

    # --- what people do

    def edit(self) -> None:
        self.count += 1
        clone = self.network[self.random.choice(NAMES)]
        self.random.choices(
            (self.add, self.change, self.remove, self.move, self.overwrite, self.append, self.write, self.delete,
             self.keep_private, self.restart),
            (25, 12, 6, 6, 8, 10, 25, 2, 5, 2),
        )[0](clone)  # fmt: skip
        if self.random.random() < 0.8:
            self.hear()

    def words(self) -> str:
        return f"{self.random.choice(WORDS)} {self.count}"

    def wrote(self, stored, ops) -> None:
        """It was said to be stored: from now on it may not be missing."""
        change = stored.change
        for index, op in enumerate(ops):
            self.killed.update(op.kills)
            if not isinstance(op, Remove):
                self.kept[Dot(change.author, change.seq, index)] = op.text

    def operate(self, clone: Clone, path: str, policy: str, *ops) -> None:
        self.wrote(clone.edit_entries(path, policy, [(1, op) for op in ops])[0], ops)

    def entries(self, clone: Clone, path: str, policy: str = "union") -> list:
        clone.log.refresh()
        document = clone.documents.find(path, policy)._replace(private=None)
        return clone.documents.versions(document) if policy == "latest" else clone.documents.entries(document)

    def add(self, clone: Clone) -> None:
        path = self.random.choice(UNIONS)
        there = self.entries(clone, path)
        after = self.random.choice(there).place if there and self.random.random() < 0.7 else None
        same = self.random.random() < 0.3  # the same lesson in several clones is one
        texts = [
            f"- known to all {self.random.randrange(5)}" if same else f"- {self.words()} {k}"
            for k in range(self.random.choice((1, 1, 4)))
        ]
        self.operate(clone, path, "union", *(entry(text, after=after) for text in dict.fromkeys(texts)))

    def change(self, clone: Clone) -> None:
        path = self.random.choice(UNIONS)
        if there := self.entries(clone, path):
            old = self.random.choice(there)
            self.operate(clone, path, "union", entry(f"- {self.words()}", after=old.place, kills=old.dots))

    def remove(self, clone: Clone) -> None:
        path = self.random.choice(UNIONS)
        if there := self.entries(clone, path):
            self.operate(clone, path, "union", Remove(self.random.choice(there).dots))

    def move(self, clone: Clone) -> None:
        path = self.random.choice(UNIONS)
        there = self.entries(clone, path)
        if len(there) > 1:
            old, to = self.random.sample(there, 2)
            self.operate(clone, path, "union", entry(old.text, after=to.place, kills=old.dots))

    def overwrite(self, clone: Clone) -> None:
        there = self.entries(clone, "activeContext.md", "latest")
        seen = there if self.random.random() < 0.3 else there[-1:]  # a person who decides replaces them all
        kills = [dot for version in seen for dot in version.dots]
        self.operate(clone, "activeContext.md", "latest", entry(f"working on {self.words()}", kills=kills))

    def append(self, clone: Clone) -> None:
        self.operate(clone, "SESSION_LOG.md", "log", entry(f"- {self.words()}"))

    def write(self, clone: Clone) -> None:
        path = self.random.choice(("notes.md", "plan.md"))
        clone.log.refresh()
        document = clone.documents.find(path, "text")
        text = clone.documents.raw_text(document.shared)
        mark = f"⟦{self.words()}⟧\n"
        if document.shared is None or not text:
            clone.edit_text(path, new=text + mark)
            self.marks[mark] = (clone.name, path)
            return
        ends = [0] + [at + 1 for at, char in enumerate(text) if char == "\n"]
        at = self.random.choice(ends)
        ops = [(at, at, mark)]
        if self.random.random() < 0.4:
            start = self.random.randrange(len(text) + 1)
            end = min(len(text), start + self.random.randrange(12))
            if start >= at or end <= at:
                ops = sorted([*ops, (start, end, self.random.choice(("", "🙂", "é\n")))])
                self.touch(text, start, end)
        clone.edit_text(path, ops)
        self.marks[mark] = (clone.name, path)

    def touch(self, text: str, start: int, end: int) -> None:
        """What is deleted, or written into, need not be there whole any more."""
        for mark in list(self.marks):
            at = text.find(mark)
            if at >= 0 and at < max(end, start + 1) and start < at + len(mark):
                del self.marks[mark]

    def delete(self, clone: Clone) -> None:
        clone.log.refresh()
        if documents := clone.documents.all():
            document = self.random.choice(documents)
            self.deleted.add(document.path)
            for version in clone.documents.versions(document) if document.policy != "text" else []:
                self.killed.update(version.dots)
            clone.delete(document)

    def keep_private(self, clone: Clone) -> None:
        secret = f"SECRET-{self.count:04}"
        self.secrets[secret] = clone.name
        there = clone.documents.entries(clone.documents.find(UNIONS[0], "union"))
        after = self.random.choice(there).place if there else None
        kind = self.random.choice(("union", "text", "latest"))
        if kind == "text":
            clone.edit_text(f"private-{clone.name}.md", new=f"{secret} 🔒\n", level=0)
        elif kind == "latest":
            clone.edit_entries("activeContext.md", "latest", [(0, entry(secret))])
        else:
            clone.edit_entries(UNIONS[0], "union", [(0, entry(f"- {secret}", after=after)), (1, entry("- beside it"))])

    def restart(self, clone: Clone) -> None:
        """The process ends; its sessions end with it."""
        name = next(name for name, known in self.network.clones.items() if known is clone)
        self.links = [link for link in self.links if name not in link[:2]]
        clock = clone.log.now_ms
        clone.close()
        self.network.clones[name] = Clone.open(clone.root, now_ms=clock)

    # --- what must hold

    def check(self) -> None:
        clones = list(self.network.clones.values())
        assert_same(*clones)
        for clone in clones:
            self.check_kept(clone)
            self.check_texts(clone)
            self.check_rebuilt(clone)
        self.check_private(clones)

    def check_kept(self, clone: Clone) -> None:
        """Every add is in the log; it lives exactly if no operation took it away."""
        found = {
            Dot(*row[:3]): row[3:]
            for row in clone.store.rows(
                "SELECT authors.id, adds.seq, idx, text, dead FROM adds"
                " JOIN authors ON authors.n=author WHERE NOT private"
            )
        }
        shown = {e.text for d in clone.documents.all() if d.policy != "text" for e in clone.documents.versions(d)}
        for dot, text in self.kept.items():
            if self.folding and dot in self.killed and found.get(dot, ("", 1)) == ("", 1):
                continue  # it was seen dead by all, and is folded away
            assert dot in found, f"{clone.name} lacks {text!r}"
            assert found[dot] == (text, int(dot in self.killed)), f"{clone.name}: {text!r}"
            assert dot in self.killed or text in shown, f"{clone.name} does not show {text!r}"

    def check_texts(self, clone: Clone) -> None:
        for mark, (_, path) in self.marks.items():
            if path not in self.deleted:
                assert mark in clone.text(path), f"{clone.name} lost {mark!r}"

    def check_rebuilt(self, clone: Clone) -> None:
        """The tables hold what the log says, and nothing of how they came about."""
        digest = clone.digest()
        with clone.transaction():
            for (doc,) in clone.store.rows("SELECT n FROM documents"):
                clone.materialiser.rebuild(doc)
        assert clone.digest() == digest

    def check_private(self, clones: list[Clone]) -> None:
        for clone in clones:
            stored = stored_bytes(clone)
            for secret, owner in self.secrets.items():
                assert owner == clone.name or secret.encode() not in stored, f"{secret} of {owner} is at {clone.name}"


@pytest.mark.parametrize("seed", SEEDS)
def test_six_clones_on_a_bad_network_agree_and_have_lost_nothing(seed, monkeypatch):
    """Over edits, relays, cuts, double sessions and wild clocks (FAILURES 10, 16, 32, 34)."""
    with Network(seed=seed) as network:
        history = History(seed, network)
        monkeypatch.setattr(log, "BATCH_CHANGES", history.scale)
        monkeypatch.setattr(materialise, "TEXTS_IN_MEMORY", 2)
        for _ in range(STEPS):
            history.step()
        history.heal()
        history.check()


@pytest.mark.parametrize("seed", SEEDS)
def test_six_clones_of_which_some_fold_their_past_agree_all_the_same(seed, monkeypatch):
    """As above; and one that joins in the end, from a clone that has folded, holds what the others hold."""
    with Network(seed=seed) as network:
        history = History(seed, network, folding=True)
        monkeypatch.setattr(log, "BATCH_CHANGES", history.scale)
        for part in range(3):
            for _ in range(STEPS // 3):
                history.step()
            if part == 0 or history.random.random() < 0.5:
                history.heal()
            for _ in range(3):
                history.fold()
        network.add("late", lambda: history.now, history.folders[0])
        history.roads += [("late", history.folders[0])]
        history.heal()
        history.check()
