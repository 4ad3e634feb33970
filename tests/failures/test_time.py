"""What clocks broke that were fast, wrong, or stepped back."""

from itertools import pairwise

from replica import changes, clock
from replica.bridge import Bridge
from tests.helpers import START, Network, add, entry, history, save


def test_failure_34_no_clock_is_refused_and_none_wins_against_what_it_has_not_seen():
    """A fast clock was refused everywhere, or won always: here no clock is refused, and causality comes before time."""
    year = 365 * 86_400_000
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        bob.log.now_ms = lambda: START + 70 * year
        add(bob, "activeContext.md", "from 2095", policy="latest")
        network.sync("alice", "bob")
        seen = alice.entries("activeContext.md")[0].dots
        stored = alice.edit_entries("activeContext.md", "latest", [(1, entry("after it", kills=seen))])[0]
        assert clock.to_ms(stored.change.time) == network.now  # not dragged along
        network.sync("alice", "bob")
        assert alice.text("activeContext.md") == bob.text("activeContext.md") == "after it\n"
        # What loses among concurrent ones is kept.
        add(alice, "activeContext.md", "today", policy="latest"), add(bob, "activeContext.md", "2095", policy="latest")
        network.sync("alice", "bob")
        (conflict,) = alice.documents.all_conflicts()
        assert {"today", "2095"} <= {version.text for version in conflict.versions}


def test_failure_34_a_clock_that_steps_back_by_years_loses_nothing_and_keeps_the_order():
    """A clock that stepped back lost writes: here every line stays, and an author's changes keep their order."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n, now in enumerate((START, START - 10**11, START - 10**12, START - 2 * 10**11)):
            network.now = now
            save(alice, "SESSION_LOG.md", "".join(f"- line {k}\n" for k in range(n + 1)))
            Bridge(alice, network.clock).run()
        network.sync("alice", "bob")
        assert bob.text("SESSION_LOG.md") == "".join(f"- line {k}\n" for k in range(4))
        times = [changes.decode(signed.body).time for signed in history(alice)]
        assert all(one < two for one, two in pairwise(times))
