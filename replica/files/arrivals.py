"""New files of a clone that sends more of them than a person may want: they wait, in one hold for all of them."""

from replica import guard
from replica.clone import Clone
from replica.files.bases import Trace
from replica.files.holds import Holds
from replica.files.report import Report


class Arrivals:
    """What other clones' new documents may become here."""

    def __init__(self, clone: Clone, holds: Holds):
        self.clone, self.store = clone, clone.store
        self.holds = holds

    def welcome(self, behind: list[tuple[str, str, Trace | None]], report: Report) -> list:
        """Without the new files of a clone that sends more of them than a person may want: those are held."""
        new = sum(trace is None for *_, trace in behind)
        files = self.store.value("SELECT count(*) FROM files") if new else 0
        if files + new <= guard.ARRIVALS:
            return behind
        here = dict(
            self.store.rows(
                "SELECT d.changed_by, count(*) FROM files f JOIN documents d ON d.path=f.path AND d.policy=f.policy"
                " AND d.private=0 GROUP BY 1"
            )
        )
        chosen, over = [], set()
        for path, policy, trace in behind:
            author = None if trace is not None else self.store.value(
                "SELECT changed_by FROM documents WHERE path=? AND policy=? AND private=0", (path, policy)
            )  # fmt: skip
            if author is not None and here.get(author, 0) >= self._allowed(author):
                over.add(author)
                continue
            if author is not None:
                here[author] = here.get(author, 0) + 1
            chosen.append((path, policy, trace))
        with self.clone.transaction():
            for author in over:
                self._hold_arrivals(author, here.get(author, 0), report)
        return chosen

    def barred(self, report: Report) -> set[tuple[str, str]]:
        """The documents that wait for a person already: a million of them must cost each look as little as may be."""
        found: set[tuple[str, str]] = set()
        for author in self.clone.log.authors():
            what = self.store.value(
                "SELECT what FROM held WHERE path=? AND reason='arrivals'", (_arrivals(author.name),)
            )
            if what is not None:
                report.held[_arrivals(author.name)] = what
            if what is not None or self.store.meta(f"unwanted:{author.id.hex()}"):
                found.update(self.store.rows(
                    "SELECT path, policy FROM documents WHERE changed_by=? AND private=0"
                    " AND path NOT IN (SELECT path FROM files)", (author.n,),
                ))  # fmt: skip
        return found

    def _hold_arrivals(self, author: int, here: int, report: Report) -> None:
        who = self.clone.log.author_n(author)
        there = self.store.value("SELECT count(*) FROM documents WHERE changed_by=? AND private=0", (author,))
        hold = guard.judge_arrivals(there, here, self._allowed(author), who.name)
        if hold is not None and not self.store.meta(f"unwanted:{who.id.hex()}"):
            self.holds.hold(_arrivals(who.name), hold)
            report.held[_arrivals(who.name)] = hold.what

    def _allowed(self, author: int) -> int:
        """How many files of one clone may be here: more once a person has said so; of our own as many as there are."""
        who = self.clone.log.author_n(author).id
        if who == self.clone.identity.id:
            return 2**62
        return self.store.meta(f"arrivals:{who.hex()}", guard.ARRIVALS)

    def decide(self, chosen: set[str], *, wanted: bool) -> None:
        """Whether a person wants the new files of these clones: all there are, and as many again as anyone may send."""
        with self.clone.transaction():
            for author in self.clone.log.authors():
                if (hold := _arrivals(author.name)) in chosen:
                    there = self.store.value("SELECT count(*) FROM documents WHERE changed_by=?", (author.n,))
                    if wanted:
                        self.store.set_meta(f"arrivals:{author.id.hex()}", there + guard.ARRIVALS)
                    self.store.set_meta(f"unwanted:{author.id.hex()}", not wanted)
                    self.holds.release(hold)


def _arrivals(name: str) -> str:
    """What the new files of a clone are held as."""
    return f"new files of {name}"
