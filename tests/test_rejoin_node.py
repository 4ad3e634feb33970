"""Running nodes whose clones were restored or copied: real sockets, real certificates, the same clone twice."""

import asyncio
import shutil

import pytest

from replica import bundle, copies, rejoin
from replica.clone import Clone
from tests.helpers import Link, add, batches
from tests.test_node import admitted, at, founder, running, until
from transport.node import certify as tls_certificate


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("REPLICA_INTERFACES", "127.0.0.1")


def texts(clone: Clone) -> set[str]:
    clone.log.refresh()
    return {entry.text for entry in clone.documents.entries(clone.documents.find("a-buffer.md", "union"))}


def test_a_restored_clone_comes_back_over_a_running_node(tmp_path):
    async def story():
        with founder(tmp_path) as alice:
            with admitted(tmp_path, alice, "bob") as bob:
                async with running(alice) as a, running(bob, [at(a)]) as b:
                    await until(lambda: b.peers and b.in_step, b)
                shutil.copytree(bob.root, tmp_path / "backup")
                async with running(alice) as a, running(bob, [at(a)]) as b:
                    add(bob, "a-buffer.md", "- today")
                    await until(lambda: b.peers and b.in_step and alice.vector() == bob.vector(), b)
            shutil.rmtree(tmp_path / "bob")
            shutil.copytree(tmp_path / "backup", tmp_path / "bob")
            with Clone.open(tmp_path / "bob") as bob:
                was = bob.identity.id
                add(bob, "a-buffer.md", "- after the restore")
                events = []
                async with running(alice) as a, running(bob, [at(a)], events) as b:
                    both = {"- today", "- after the restore"}
                    await until(lambda: bob.identity.id != was and texts(alice) == both == texts(bob), b)
                    # It is called and calls by its new name from now on.
                    await until(lambda: bob.identity.id in a.peers and bob.identity.id in alice.trusted(), a)
                    await until(lambda: b.peers and b.in_step, b)
                assert [event["event"] for event in events].count("rejoined") == 1
                assert alice.digest() == bob.digest()

    asyncio.run(story())


def test_a_node_whose_clone_comes_back_is_still_found(tmp_path):
    """Its commands go on speaking to it: what it wrote of itself stays."""

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)], serve=True) as b:
                await until(lambda: b.peers and b.in_step, b)
                was = bob.identity.id
                copies.part(bob, tls_certificate)
                b._renewed()
                assert bob.identity.id != was and (bob.root / ".replica" / "node.json").is_file()
                await until(lambda: bob.identity.id in a.peers, a)

    asyncio.run(story())


def test_a_node_that_ended_before_the_last_step_takes_it_when_it_starts(tmp_path):
    """Everything has come; nothing more will, and nobody is here."""

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
            add(bob, "a-buffer.md", "- of bob")
            rejoin.begin(bob, bundle.read(bundle.make(alice.store, alice.log)), "fork", alice.vector())
            for batch in batches(alice):
                bob.ingest(batch)
            async with running(bob) as b:
                await until(lambda: not rejoin.under_way(bob.store), b)
            assert texts(bob) == {"- of bob"}

    asyncio.run(story())


def test_a_restored_clone_that_meets_two_members_at_once(tmp_path):
    """Both would bring it back. It begins with one of them, and blames neither."""

    async def story():
        with (
            founder(tmp_path) as alice,
            admitted(tmp_path, alice, "carol") as carol,
            admitted(tmp_path, alice, "bob") as bob,
        ):
            async with running(alice) as a, running(carol, [at(a)]) as c, running(bob, [at(a), at(c)]) as b:
                await until(lambda: len(b.peers) == 2 and b.in_step and c.in_step, b)
            shutil.copytree(bob.root, tmp_path / "backup")
            async with running(alice) as a, running(carol, [at(a)]) as c, running(bob, [at(a), at(c)]) as b:
                for n in range(30):
                    add(bob, "a-buffer.md", f"- today {n}")
                await until(lambda: len(b.peers) == 2 and b.in_step and len(texts(carol)) == 30, b)
            shutil.rmtree(bob.root)
            shutil.copytree(tmp_path / "backup", bob.root)
            with Clone.open(bob.root) as bob:
                add(bob, "a-buffer.md", "- after the restore")
                events = []
                async with (
                    running(alice, events=events) as a,
                    running(carol, [at(a)], events) as c,
                    running(bob, [at(a), at(c)], events) as b,
                ):
                    clones = (alice, bob, carol)
                    await until(lambda: all(len(texts(clone)) == 31 for clone in clones), b)
                    await until(lambda: len(b.peers) == 2 and b.in_step and a.in_step and c.in_step, b)
                assert alice.digest() == bob.digest() == carol.digest()
                assert [event for event in events if event["event"] in ("refused", "error")] == []

    asyncio.run(story())


def test_a_node_that_was_ended_before_its_clone_had_come_back_goes_on_with_it(tmp_path):
    """Everything has come: no other clone has to say anything more."""

    async def story():
        with founder(tmp_path) as alice:
            with admitted(tmp_path, alice, "bob") as bob:
                Link(alice, bob).run()
                shutil.copytree(bob.root, tmp_path / "backup")
                add(bob, "a-buffer.md", "- today")
                Link(alice, bob).run()
            shutil.rmtree(tmp_path / "bob")
            shutil.copytree(tmp_path / "backup", tmp_path / "bob")
            with Clone.open(tmp_path / "bob") as bob:
                was = bob.identity.id
                add(bob, "a-buffer.md", "- after the restore")
                link = Link(alice, bob)
                while link.busy:
                    link.deliver(link.busy[0])
                assert rejoin.ready(bob)
                async with running(bob) as b:
                    await until(lambda: bob.identity.id != was, b)
                assert texts(bob) == {"- today", "- after the restore"}

    asyncio.run(story())


def image(tmp_path, clone: Clone) -> list[Clone]:
    """The same disk twice: two folders, each of which takes itself for the one that was moved."""
    clone.close()
    for place in ("left", "right"):
        shutil.copytree(clone.root, tmp_path / place)
    shutil.rmtree(clone.root)
    return [Clone.open(tmp_path / place) for place in ("left", "right")]


def test_a_disk_image_that_runs_twice_becomes_two_clones(tmp_path):
    """They meet nobody but each other, and both have written."""

    async def story():
        with founder(tmp_path) as alice:
            bob = admitted(tmp_path, alice, "bob")
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
            left, right = image(tmp_path, bob)
            with left, right:
                assert left.identity.id == right.identity.id
                add(left, "a-buffer.md", "- left")
                add(right, "a-buffer.md", "- right")
                async with running(left) as x, running(right, [at(x)]) as y:
                    await until(lambda: texts(left) == {"- left", "- right"} == texts(right), y)
                    assert left.identity.id != right.identity.id
                # The third knows neither by its new name: they call, as the one that it knows.
                async with running(alice) as a, running(left, [at(a)]) as x, running(right, [at(a)]) as y:
                    await until(lambda: texts(alice) == {"- left", "- right"}, a)
                    await until(lambda: {left.identity.id, right.identity.id} == set(a.peers) and a.in_step, a)
                assert alice.digest() == left.digest() == right.digest()

    asyncio.run(story())


def test_a_disk_image_that_runs_twice_beside_a_third_clone(tmp_path):
    """The copies never meet: what the third takes of the one contradicts the other."""

    async def story():
        with founder(tmp_path) as alice:
            bob = admitted(tmp_path, alice, "bob")
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: b.peers and b.in_step, b)
            left, right = image(tmp_path, bob)
            with left, right:
                add(left, "a-buffer.md", "- left")
                add(right, "a-buffer.md", "- right", "- right again")
                async with running(alice) as a:
                    async with running(left, [at(a)]) as x:
                        await until(lambda: x.peers and x.in_step, x)
                    async with running(right, [at(a)]) as y:
                        await until(lambda: y.peers and y.in_step and texts(right) >= {"- left"}, y)
                    assert left.identity.id != right.identity.id
                    add(left, "a-buffer.md", "- left again")
                    async with running(left, [at(a)]) as x:
                        await until(lambda: x.peers and x.in_step and "- left again" in texts(alice), x)
                    async with running(right, [at(a)]) as y:
                        await until(lambda: y.peers and y.in_step and "- left again" in texts(right), y)
                expected = {"- left", "- right", "- right again", "- left again"}
                assert texts(alice) == texts(left) == texts(right) == expected
                assert alice.digest() == left.digest() == right.digest()

    asyncio.run(story())


def test_former_keys_are_kept_as_secret_as_the_key(tmp_path):
    with founder(tmp_path) as alice:
        was = alice.identity.id
        copies.part(alice, lambda _key, name: name.encode())
        assert [identity.id for identity in copies.identities(alice)] == [alice.identity.id, was]
        former = alice.root / ".replica" / copies.FORMER
        assert former.stat().st_mode & 0o077 == 0
        assert all(file.stat().st_mode & 0o077 == 0 for file in former.iterdir())


def test_two_clones_that_both_have_new_identities_still_find_each_other(tmp_path):
    """Neither has heard who the other is now, and nobody else is there to tell them."""

    async def story():
        with founder(tmp_path) as alice, admitted(tmp_path, alice, "bob") as bob:
            Link(alice, bob).run()
            for clone in (alice, bob):
                copies.part(clone, tls_certificate)
                add(clone, "a-buffer.md", f"- of {clone.name}")
            async with running(alice) as a, running(bob, [at(a)]) as b:
                await until(lambda: alice.vector() == bob.vector() and len(texts(alice)) == 2, b)
                await until(lambda: set(b.peers) == {alice.identity.id} and b.in_step, b)
                assert set(a.peers) == {bob.identity.id}

    asyncio.run(story())


def test_who_has_become_somebody_unknown_is_told_as_before_that_it_is_unknown(tmp_path):
    async def story():
        with founder(tmp_path / "one") as alice, founder(tmp_path / "other") as stranger:
            events = []
            copies.part(stranger, tls_certificate)
            async with running(stranger) as s, running(alice, [at(s)], events):
                await until(lambda: any(event["event"] == "unreachable" for event in events), s)
            assert "not a member" in next(e["message"] for e in events if e["event"] == "unreachable")

    asyncio.run(story())
