"""Two weeks in which three clones keep one memory bank: each day begins and ends as `replica start` and `save` do it.

Who is away, and what is done, is drawn from a seed; the clock is the network's. What must hold in the end is what a
person expects of a memory: what was captured is there once, where it belongs, and nothing is decided by a guess.
"""

import asyncio
import json
import re
from collections import Counter
from types import SimpleNamespace

import pytest

from replica import adr, backup, decisions, harvest, history, origin, tidy, workday, writing
from replica.briefing import SHORTEST
from replica.clone import Clone
from replica.config import DEFAULT
from tests.helpers import Network, assert_same, certificate, read, save
from transport import workday as at_work

DAY = 86_400_000
LESSONS, PATTERNS, INBOX = "lessons-buffer.md", "patterns-buffer.md", "decisions-inbox.md"
INTO = {LESSONS: "Docs/06-PostMortems/", PATTERNS: "Docs/03-Reference/Patterns.md", INBOX: "Docs/03-Reference/ADR/"}
CONTEXT, PLAN, LOG, REVIEW = "activeContext.md", "notes/plan.md", "SESSION_LOG.md", "notes/review.md"
CADENCES = """
[[documents]]
glob = "notes/review.md"
cadence = "weekly"

[[documents]]
glob = "notes/*"
cadence = "session"

[[documents]]"""
RULES = DEFAULT.replace("\n[[documents]]", CADENCES, 1).replace("lines = 20,", 'lines = 20, owner = "ledger",')


class Team(Network):
    """The working day on each clone: the code of `start` and `save`, and a network that is a list."""

    def __init__(self, *names: str, seed: int = 0):
        super().__init__(*names, seed=seed)
        self.away: set[str] = set()

    def __enter__(self) -> "Team":
        super().__enter__()
        self._now, at_work._now = at_work._now, self.clock
        self._meet, at_work.meet = at_work.meet, self._at_once
        return self

    def __exit__(self, *error: object) -> None:
        at_work._now, at_work.meet = self._now, self._meet
        super().__exit__(*error)

    def start(self, name: str, persona: str | None = None, most: int = 10_000) -> dict:
        page = self._ask(at_work.start, name, persona=persona, format="json", most=most)["page"]
        assert len(page) <= most
        return json.loads(page)

    def save(self, name: str, message: str | None = None) -> dict:
        return self._ask(at_work.save, name, message=message)

    def _ask(self, work, name: str, **asked) -> dict:
        self.now += 60_000
        node = SimpleNamespace(
            name=name, clone=self[name], bridge=self.bridge(name), hurry=lambda: None, peer_states=lambda: [],
            options=SimpleNamespace(serve=False),
        )  # fmt: skip
        return asyncio.run(work(node, at_work.BRIEF, **asked))

    async def _at_once(self, node, *_: object) -> dict:
        """Takes the place of a meeting over the network: with whoever is not away."""
        others = [other for other in self.clones if other != node.name]
        here = [other for other in others if not {other, node.name} & self.away]
        for other in here:
            self.sync(node.name, other)
        peers = [
            {"name": other, "id": "", "online": other in here, "in_step": other in here, "ahead": 0, "behind": 0}
            for other in others
        ]
        return {"peers": peers, "missing": [o for o in others if o not in here], "problems": [], "seconds": 0.0}

    def everybody(self) -> None:
        """All are there, and begin and end until nobody has anything left to do."""
        self.away.clear()
        for _ in range(6):
            before = [clone.digest() for clone in self.clones.values()]
            for name in self.clones:
                self.start(name), self.save(name, "")
            if before == [clone.digest() for clone in self.clones.values()]:
                return assert_same(*self.clones.values())
        raise AssertionError("the clones do not come to rest")


def append(clone: Clone, path: str, line: str) -> None:
    file = clone.root / path
    text = file.read_text() if file.is_file() else f"# {path}\n\n"
    save(clone, path, text + line)


def reap(clone: Clone, path: str) -> list[harvest.Harvested]:
    return harvest.harvest(clone, harvest.plan(clone, path))[0]


# --- two weeks of anybody's making


class Days:
    """What people do on one of those days. `said`: each thing that was captured, by a word of its own."""

    def __init__(self, team: Team):
        self.team, self.random = team, team.random
        self.said: dict[str, str] = {}  # word -> the buffer that it was captured in
        self.noted = 0

    def work(self, name: str) -> None:
        clone, acts = self.team[name], (self.capture, self.capture, self.write, self.plan, self.context, self.harvest)
        for _ in range(self.random.randrange(1, 5)):
            self.team.now += 600_000
            self.random.choice((*acts, self.settle))(clone)

    def _word(self, path: str) -> str:
        word = f"word{len(self.said):03d}"
        self.said[word] = path
        return word

    def capture(self, clone: Clone) -> None:
        path = self.random.choice((LESSONS, PATTERNS, INBOX))
        writing.add(clone, path, f"We know {self._word(path)} by {clone.name}.")

    def write(self, clone: Clone) -> None:
        """By an editor, which has seen what the file held at the last look."""
        path = self.random.choice((LESSONS, PATTERNS, INBOX))
        self.team.run(clone.root.name, every=True)
        append(clone, path, f"- Seen {self._word(path)} at {clone.name}.\n")
        self.team.run(clone.root.name, every=True)

    def plan(self, clone: Clone) -> None:
        append(clone, PLAN, f"A line of {clone.name} at {self.team.now}.\n")

    def context(self, clone: Clone) -> None:
        save(clone, CONTEXT, f"{clone.name} goes on at {self.team.now}.\n")

    def harvest(self, clone: Clone) -> None:
        for path in (LESSONS, PATTERNS, INBOX):
            if clone.documents.find(path, "union").alive:
                reap(clone, path)

    def settle(self, clone: Clone) -> None:
        for conflict in clone.documents.all_conflicts()[:1]:
            decisions.resolve(clone, conflict.id, keep=self.random.choice(conflict.versions).version)


@pytest.mark.parametrize("seed", range(2))
def test_after_two_weeks_everything_that_was_captured_is_there_once(seed):
    with Team("desk", "laptop", "attic", seed=seed) as team:
        save(team["desk"], "replica.toml", RULES), save(team["desk"], LOG, "# Log\n\n- begun\n")
        assert not team.run("desk", every=True).skipped
        team.everybody()
        days, random = Days(team), team.random
        for _ in range(14):
            team.now += DAY
            team.away = {name for name in team.clones if random.random() < 0.4}
            for name in random.sample(sorted(team.clones), 3):
                if random.random() < 0.2:
                    continue  # nobody works there today
                page = team.start(name, random.choice((None, "ledger")), most=random.choice((SHORTEST, 10_000)))
                assert page["offline"] == (name in team.away or len(team.away - {name}) == 2)
                days.work(name)
                days.noted += bool(team.save(name, f"day of {name}")["line"])
        team.everybody()
        for clone in team.clones.values():
            for conflict in clone.documents.all_conflicts():
                decisions.resolve(clone, conflict.id, keep=conflict.versions[-1].version)
            team.sync_all()
        team.everybody()
        check(team, days)


def check(team: Team, days: Days) -> None:
    desk = team["desk"]
    texts = {document.path: desk.documents.text(document) for document in desk.documents.all()}
    for path, text in texts.items():
        for clone in team.clones.values():
            assert read(clone, path).rstrip("\n") == text.rstrip("\n"), f"{path} of {clone.name}"
    found = Counter(word for text in texts.values() for word in re.findall(r"(?:know|Seen) (word\d+)", text))
    twice = Counter(word for path, text in texts.items() if "/ADR/" in path for word in _titles(text))
    assert {word: n - twice[word] for word, n in found.items()} == dict.fromkeys(days.said, 1)
    for path, text in texts.items():
        for entry in origin.origins(text):
            assert any(path.startswith(into) for into in INTO.values()), entry
    records = [path for path in texts if adr.number_of(path) is not None]
    assert len({adr.number_of(path) for path in records}) == len(records)
    assert texts[LOG].count(": day of ") == days.noted
    assert desk.documents.all_conflicts() == []


def _titles(text: str) -> list[str]:
    """The words that a record's title repeats."""
    return [word for line in text.split("\n") if line.startswith("# ") for word in re.findall(r"word\d+", line)]


# --- what must happen on which day


def test_the_days_of_a_team(tmp_path):
    with Team("desk", "laptop", "attic") as team:
        desk, laptop, attic = team.clones.values()
        save(desk, "replica.toml", RULES)
        save(desk, LOG, "# Log\n\n- begun\n"), save(desk, CONTEXT, "Sensor 3 waits.\n")
        save(desk, PLAN, "above\n\nThe mast stands at the lock.\n\nbelow\n"), save(desk, REVIEW, "one\n")
        assert not team.run("desk", every=True).skipped
        team.everybody()

        # 1: what desk captures, laptop reads in the morning; a full buffer is told to its owner as theirs
        team.now += DAY
        team.start("desk")
        for n in range(20):
            writing.add(desk, PATTERNS, f"Pattern {n}")
        saved = team.save("desk", "patterns")
        assert saved["line"].endswith("Z desk: patterns") and all(peer["online"] for peer in saved["peers"])
        page = team.start("laptop", "ledger")
        assert page["context"][0]["quotes"][0]["text"] == "Sensor 3 waits.\n"
        assert {item["document"] for item in page["changes"]} == {PATTERNS, LOG}
        assert [(item["document"], item["yours"]) for item in page["buffers"]] == [(PATTERNS, True)]
        assert [item["yours"] for item in team.start("attic")["buffers"]] == [False]

        # 2: two who are apart harvest the same entries, and write the context
        team.now, team.away = team.now + DAY, {"attic"}
        for name in ("laptop", "attic"):
            team.start(name), reap(team[name], PATTERNS), save(team[name], CONTEXT, f"{name} goes on.\n")
            assert team.save(name)["line"]
        team.away.clear()
        page = team.start("desk")
        assert [item["kind"] for item in page["conflicts"]] == ["document"]
        assert desk.text(INTO[PATTERNS]).count("*— desk") == 20 and "Pattern" not in desk.text(PATTERNS)

        # 3: both settle it, each in a way of their own: that is asked again; then one does
        team.now, team.away = team.now + DAY, {"attic"}
        team.start("laptop"), decisions.resolve(laptop, page["conflicts"][0]["id"], keep="laptop")
        team.start("attic"), decisions.resolve(attic, page["conflicts"][0]["id"], keep="attic")
        team.save("laptop"), team.save("attic")
        team.away.clear()
        (again,) = team.start("desk")["conflicts"]
        assert {quote["text"] for quote in again["quotes"]} == {"laptop goes on.", "attic goes on."}
        decisions.resolve(desk, again["id"], text="Both go on.\n"), team.save("desk")
        assert team.start("attic")["conflicts"] == [] and read(attic, CONTEXT) == "Both go on.\n"

        # 4: one place of a text; what both put there in the same words is there once
        team.save("attic"), team.everybody()
        team.now, team.away = team.now + DAY, {"attic"}
        for name, words in (("desk", "at the new lock"), ("attic", "beside the old lock")):
            team.start(name), save(team[name], PLAN, read(team[name], PLAN).replace("at the lock", words))
            team.save(name)
        team.everybody()
        (region,) = desk.documents.all_conflicts()
        for clone in (desk, attic):
            decisions.resolve(clone, region.id, text="The mast stands at the weir.")
        assert any("same words" in line for line in team.start("laptop")["tidied"])
        team.save("laptop"), team.everybody()
        assert (
            read(attic, PLAN) == "above\n\nThe mast stands at the weir.\n\nbelow\n"
            and not desk.documents.all_conflicts()
        )

        # 5: decisions that were numbered apart
        team.now, team.away = team.now + DAY, {"attic"}
        for name, what in (("desk", "paint"), ("attic", "ship")):
            team.start(name), writing.add(team[name], INBOX, what), reap(team[name], INBOX), team.save(name)
            team.now += 60_000
        team.away.clear()
        assert any("ADR-002-ship.md now" in line for line in team.start("laptop")["tidied"])
        assert laptop.text(f"{INTO[INBOX]}ADR-002-ship.md").startswith("# ADR-002: ship\n")

        # 6: a weekly document waits for its week, one of the session for the next start
        save(desk, REVIEW, "two\n"), save(desk, PLAN, "to the end\n"), team.save("desk")
        team.start("attic")
        assert (read(attic, PLAN), read(attic, REVIEW)) == ("to the end\n", "one\n")
        team.now += 7 * DAY
        team.start("attic")
        assert read(attic, REVIEW) == "two\n"

        # 13: a merge that went wrong stays here; the day before comes back, and a backup as another clone
        save(desk, PLAN, "<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> theirs\n")
        assert list(team.save("desk")["held"]) == [PLAN] and [i["document"] for i in team.start("desk")["held"]] == [
            PLAN
        ]
        team.bridge("desk").reject([PLAN])
        history.restore(desk, CONTEXT, history.moment_of("12d", team.now)), team.save("desk")
        assert read(desk, CONTEXT) == "Sensor 3 waits.\n"
        (
            backup.make(laptop, tmp_path / "b"),
            backup.restore(tmp_path / "b", team.folder / "spare", certificate, team.clock),
        )
        team.clones["spare"] = Clone.open(team.folder / "spare", certify=certificate, now_ms=team.clock)
        writing.add(team["spare"], LESSONS, "Backups work."), team.everybody()
        assert "Backups work." in read(desk, LESSONS)
        assert not any(tidy.tidy(clone).changed for clone in team.clones.values())
        assert workday.persona(team["spare"]) == "ledger"
