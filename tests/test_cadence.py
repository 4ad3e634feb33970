"""When files and documents meet: nothing is lost while they are apart, and both ways wait alike."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica import cadence
from replica.config import CADENCES
from tests.helpers import Network, add, assert_same, read, save

DAY = 86_400_000
POLICIES = {"b-buffer.md": "union", "SESSION_LOG.md": "log", "note.md": "text"}


def rules(cadence: str) -> str:
    return "\n".join(
        f'[[documents]]\nglob = "{glob}"\npolicy = "{policy}"\ncadence = "{cadence}"\n'
        for glob, policy in {"live*.md": "union", "now.md": "latest", **POLICIES}.items()
    ).replace(f'policy = "union"\ncadence = "{cadence}"', 'policy = "union"\ncadence = "live"', 1)


def begun(network: Network, cadence: str) -> None:
    """A workspace in which every document but live*.md has this cadence, all of them met just now."""
    first, *_ = network.clones
    save(network[first], "replica.toml", rules(cadence))
    network.share()
    meet(network, every=True)


def meet(network: Network, **when) -> None:
    for _ in range(3):
        for name in network.clones:
            network.run(name, **when)
        network.sync_all()


@pytest.fixture(params=["session", "daily", "weekly"])
def apart(request):
    """Two clones whose documents are not live."""
    with Network("alice", "bob") as network:
        begun(network, request.param)
        yield network


@pytest.mark.parametrize("path", POLICIES)
def test_a_saved_file_waits_and_so_does_what_others_write(apart, path):
    alice, bob = apart["alice"], apart["bob"]
    save(alice, path, "- from alice\n")
    meet(apart)
    assert not alice.documents.find(path, POLICIES[path]).alive
    meet(apart, every=True)
    assert read(bob, path) == "- from alice\n"
    save(alice, path, "- from alice\n- more\n")
    apart.run("alice", every=True), apart.sync("alice", "bob")
    meet(apart)
    assert "more" in bob.text(path), "the log is live"
    assert "more" not in read(bob, path), "the file is not"
    meet(apart, every=True)
    assert read(bob, path) == "- from alice\n- more\n"


@pytest.mark.parametrize("path", POLICIES)
def test_what_both_sides_did_meanwhile_merges_when_they_meet(apart, path):
    alice, bob = apart["alice"], apart["bob"]
    save(alice, path, "- one\n- two\n- three\n- four\n")
    meet(apart, every=True)
    save(alice, path, "- one\n- two\n- three\n- four\n- alice\n")
    save(bob, path, "- one\n- two\n- three\n- four\n- bob\n")
    apart.run("bob", every=True), apart.sync("alice", "bob")
    meet(apart)
    assert "bob" not in read(alice, path)
    meet(apart, every=True)
    assert sorted(read(alice, path).split()) == sorted(f"{path} one two three four alice bob".split()[1:] + ["-"] * 6)
    assert read(bob, path) == read(alice, path)
    assert_same(alice, bob)


def test_a_document_deleted_elsewhere_keeps_its_file_until_they_meet(apart):
    alice, bob = apart["alice"], apart["bob"]
    save(alice, "note.md", "words\n"), save(alice, "live.md", "- words\n")
    meet(apart, every=True)
    (bob.root / "note.md").unlink(), (bob.root / "live.md").unlink()
    apart.run("bob", every=True, force=["note.md", "live.md"]), apart.sync("alice", "bob")
    apart.run("alice")
    assert (alice.root / "note.md").exists() and not (alice.root / "live.md").exists()
    save(alice, "note.md", "words\nand mine\n")
    meet(apart, every=True)
    assert "and mine" in read(alice, "note.md") and "and mine" in read(bob, "note.md")


@pytest.mark.parametrize(("name", "days"), [("daily", 1), ("weekly", 7)])
def test_a_day_or_a_week_after_the_last_meeting_the_next_one_is_due(name, days):
    with Network("alice", "bob") as network:
        begun(network, name)
        save(network["alice"], "note.md", "words\n")
        network.now += days * DAY - 1000
        meet(network)
        assert not network["alice"].documents.find("note.md", "text").alive
        network.now += 2000
        assert network.run("alice").taken == ["note.md"]
        network.sync("alice", "bob")
        assert network.run("bob").written == ["note.md"]


def test_the_beginning_of_a_session_is_for_documents_of_that_cadence():
    for name, here in {"session": True, "daily": False, "weekly": False, "live": True}.items():
        with Network("alice") as network:
            begun(network, name)
            save(network["alice"], "note.md", "words\n")
            assert network.run("alice", session=True).taken == (["note.md"] if here else [])


def test_a_document_that_is_named_meets_its_file_alone(apart):
    alice, bob = apart["alice"], apart["bob"]
    save(alice, "note.md", "words\n"), save(alice, "b-buffer.md", "- entry\n")
    assert apart.run("alice", documents=["note.md"]).taken == ["note.md"]
    apart.sync("alice", "bob")
    assert apart.run("bob", documents=["note.md"]).written == ["note.md"]
    save(alice, "note.md", "words\nmore\n")
    assert apart.run("alice").quiet, "to be named once is no change of cadence"
    assert bob.documents.find("b-buffer.md", "union").alive is False


def test_an_entry_added_by_command_is_in_the_log_at_once(apart):
    add(apart["alice"], "b-buffer.md", "- by command")
    apart.sync("alice", "bob")
    assert apart["bob"].text("b-buffer.md") == "- by command\n"
    meet(apart)
    assert not (apart["bob"].root / "b-buffer.md").exists()
    meet(apart, every=True)
    assert read(apart["bob"], "b-buffer.md") == "- by command\n"


def test_a_change_of_cadence_to_live_brings_everything_at_once(apart):
    alice, bob = apart["alice"], apart["bob"]
    save(alice, "note.md", "words\n")
    meet(apart)
    save(alice, "replica.toml", rules("live"))
    apart.share()
    assert read(bob, "note.md") == "words\n"


def test_the_wipe_of_a_file_that_was_apart_is_held_when_it_is_met(apart):
    alice = apart["alice"]
    save(alice, "b-buffer.md", "".join(f"- {n}\n" for n in range(30)))
    meet(apart, every=True)
    save(alice, "b-buffer.md", "- 1\n")
    assert not apart.run("alice").held
    assert "b-buffer.md" in apart.run("alice", every=True).held
    assert apart.bridge("alice").reject(["b-buffer.md"]) == ["b-buffer.md"]
    assert len(read(alice, "b-buffer.md").splitlines()) == 30


def test_accept_is_for_the_named_file_and_no_other_that_waits(apart):
    alice = apart["alice"]
    save(alice, "b-buffer.md", "".join(f"- {n}\n" for n in range(30)))
    meet(apart, every=True)
    save(alice, "b-buffer.md", "- 1\n")
    apart.run("alice", every=True)
    save(alice, "note.md", "words\n")
    assert apart.bridge("alice").accept(["b-buffer.md"]).taken == ["b-buffer.md"]
    assert not alice.documents.find("note.md", "text").alive


# --- branches


def head(clone, branch: str) -> None:
    (clone.root / ".git").mkdir(exist_ok=True)
    (clone.root / ".git" / "HEAD").write_text(f"ref: refs/heads/{branch}\n")


@pytest.mark.parametrize("early", [True, False], ids=["git from the first", "git later"])
def test_a_branch_switched_while_they_were_apart_is_noticed_when_they_meet(early):
    with Network("alice") as network:
        alice = network["alice"]
        if early:
            head(alice, "main")
        begun(network, "session")
        save(alice, "b-buffer.md", "- one\n- two\n"), save(alice, "live.md", "- one\n- two\n")
        network.run("alice", every=True)
        head(alice, "main")
        network.run("alice")
        head(alice, "old")
        save(alice, "b-buffer.md", "- one\n")
        assert not network.run("alice").held
        assert "branch" in network.run("alice", every=True).held["b-buffer.md"]
        save(alice, "live.md", "- one\n")
        assert not network.run("alice").held, "these files were looked at since"
        network.bridge("alice").accept([])
        assert alice.text("b-buffer.md") == "- one\n"
        save(alice, "b-buffer.md", "- one\n- two\n- three\n"), network.run("alice", every=True)
        save(alice, "b-buffer.md", "- one\n- three\n")
        assert not network.run("alice", every=True).held, "the branch was accepted"


@pytest.mark.parametrize("decide", ["accept", "reject"])
def test_a_decision_on_one_of_several_files_of_a_branch_lets_no_other_through(decide):
    with Network("alice") as network:
        alice = network["alice"]
        head(alice, "main")
        save(alice, "a-buffer.md", "- one\n- two\n"), save(alice, "b-buffer.md", "- one\n- two\n")
        network.run("alice")
        head(alice, "old")
        save(alice, "a-buffer.md", "- one\n"), save(alice, "b-buffer.md", "- one\n")
        assert set(network.run("alice").held) == {"a-buffer.md", "b-buffer.md"}
        getattr(network.bridge("alice"), decide)(["a-buffer.md"])
        network.run("alice")
        assert [row["path"] for row in network.bridge("alice").held()] == ["b-buffer.md"]
        assert alice.text("b-buffer.md") == "- one\n- two\n"
        getattr(network.bridge("alice"), decide)([])
        assert network.run("alice").quiet and not network.bridge("alice").held()


# --- the law: whoever meets whenever, in the end all have what anybody wrote

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["save", "add", "run", "session", "every", "sync", "day", "week"]),
        st.sampled_from(["alice", "bob"]),
        st.sampled_from(sorted(POLICIES)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS, st.sampled_from(CADENCES))
def test_nothing_is_lost_whenever_they_meet(steps, name):
    with Network("alice", "bob") as network:
        begun(network, name)
        written = {path: set() for path in POLICIES}
        for number, (step, who, path) in enumerate(steps):
            clone = network[who]
            network.now += 60_000
            if step == "save":
                old = read(clone, path) if (clone.root / path).exists() else ""
                save(clone, path, f"{old}- {number} by {who}\n")
                written[path].add(f"- {number} by {who}")
            elif step == "add" and POLICIES[path] != "text":
                add(clone, path, f"- {number} of {who}", policy=POLICIES[path])
                written[path].add(f"- {number} of {who}")
            elif step in ("run", "session", "every"):
                network.run(who, **({} if step == "run" else {step: True}))
            elif step == "sync":
                network.sync("alice", "bob")
            else:
                network.now += DAY if step == "day" else 7 * DAY
        meet(network, every=True)
        for path, lines in written.items():
            for clone in network.clones.values():
                assert not lines or lines == set(read(clone, path).splitlines())
        assert_same(*network.clones.values())


def test_every_cadence_is_either_periodic_or_met_by_an_occasion():
    assert set(CADENCES) == {"live", "session", *cadence.PERIODS}
