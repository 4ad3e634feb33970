"""Real nodes on six hosts: they find each other, part, meet again, move, sleep and come late, and lose nothing.

The network is made by `network.py` and needs root; without it these tests are passed over with the reason. Each process
that runs tests has a network of its own, so several may run them at once. `make lan` prints the times, and also waits
longer where waiting matters, as for a cut that outlives every connection.
"""

import os
import subprocess
import time

import pytest

from tests.lan.network import Lan, lacking
from tests.lan.nodes import Desk, all_see_all, in_step, show, until

WHY_NOT = lacking()
pytestmark = [pytest.mark.lan, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]
PATIENT = bool(os.environ.get("REPLICA_LAN"))  # set by `make lan`
# Seconds of a cut: within the life of a connection, and longer than the 20 s after which one is given up.
CUTS = [2.0, 30.0, 90.0] if PATIENT else [2.0]
SLEEPS = [2.0, 30.0] if PATIENT else [2.0]
HOSTS = 6


class Office:
    """Six desks with one workspace, all running."""

    def __init__(self, lan: Lan, home):
        self.lan, self.home = lan, home
        self.times: dict[str, float] = {}
        self.desks = [Desk(lan.host(), home) for _ in range(HOSTS)]

    def open(self) -> None:
        first, *others = self.desks
        first.found({
            "lessons-buffer.md": "- lesson of the first\n", "activeContext.md": "the first context\n",
            "notes.md": "a first line\n",
        })  # fmt: skip
        self.note("join by code over mDNS, the slowest of five", max(newcomer.join(first) for newcomer in others))
        for desk in self.desks:
            desk.up()
        self.note("six see six after the last start", until(lambda: all_see_all(self.desks), self.desks, "six see six"))
        self.rest()

    def close(self) -> None:
        for desk in self.desks:
            desk.go()
        for desk in self.desks:
            desk.down()

    def note(self, what: str, seconds: float) -> None:
        self.times[what] = seconds

    def calm(self) -> None:
        """Undo what a test did to the network, so that none depends on another."""
        self.lan.heal()
        for desk in self.desks:
            if desk.host.address != f"10.77.0.{desk.host.number}":
                desk.host.renumber(f"10.77.0.{desk.host.number}")
        self.rest()

    def rest(self) -> None:
        """Write everywhere once more and wait until it is everywhere: then everyone is in step."""
        word = f"- rest {time.monotonic_ns()}"
        self.desks[0].append("lessons-buffer.md", word)
        self.arrives("lessons-buffer.md", word)
        until(lambda: all_see_all(self.desks) and in_step(self.desks), self.desks, "all in step")

    def arrives(self, path: str, *parts: str, desks=None) -> float:
        desks = desks or self.desks
        return until(lambda: show(desks, path, *parts), self.desks, f"{parts} in {path} of all")


@pytest.fixture(scope="module")
def office(tmp_path_factory, request):
    with Lan() as lan:
        office = Office(lan, tmp_path_factory.mktemp("lan"))
        try:
            office.open()
            yield office
        finally:
            office.close()
    if PATIENT:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("".join(f"\n{seconds:8.2f} s  {what}" for what, seconds in office.times.items()))


@pytest.fixture
def six(office):
    office.calm()
    return office


def test_six_hosts_find_each_other_and_an_edit_on_each_reaches_all(six):
    edits = [f"- from {desk.name}" for desk in six.desks]
    began = time.monotonic()
    for desk, edit in zip(six.desks, edits, strict=True):
        desk.append("lessons-buffer.md", edit)
    six.arrives("lessons-buffer.md", *edits)
    six.note("six edits at once, in all six files", time.monotonic() - began)
    until(lambda: in_step(six.desks), six.desks, "equal digests")
    for desk in six.desks:
        assert sorted(desk.read("lessons-buffer.md").splitlines()) == sorted(
            six.desks[0].read("lessons-buffer.md").splitlines()
        )


@pytest.mark.parametrize("seconds", CUTS)
def test_after_a_partition_both_halves_agree_and_show_their_conflict(six, seconds):
    left, right = six.desks[:3], six.desks[3:]
    six.lan.split([desk.host for desk in left], [desk.host for desk in right])
    parted = time.monotonic()
    versions = [f"the {side} half's context of {seconds}\n" for side in ("left", "right")]
    for half, version in zip((left, right), versions, strict=True):
        half[0].write("activeContext.md", version)
        half[1].append("lessons-buffer.md", f"- apart {half[1].name} {seconds}")
        six.arrives("activeContext.md", version, desks=half)
        six.arrives("lessons-buffer.md", f"- apart {half[1].name} {seconds}", desks=half)
    until(lambda: time.monotonic() - parted > seconds, six.desks, "the cut lasts", patience=seconds + 5)
    assert not any(show([desk], "activeContext.md", versions[1]) for desk in left)
    assert not any(show([desk], "activeContext.md", versions[0]) for desk in right)
    if seconds > 20:
        until(lambda: not any(d.connected & {o.name for o in right} for d in left), six.desks, "the halves give up")
    six.lan.heal()
    apart = [f"- apart {desk.name} {seconds}" for desk in (left[1], right[1])]
    six.note(f"all edits of both halves in all files, after a cut of {seconds:.0f} s",
             six.arrives("lessons-buffer.md", *apart))  # fmt: skip
    until(lambda: in_step(six.desks) and all_see_all(six.desks), six.desks, "equal digests")
    for desk in (left[2], right[2]):
        (conflict,) = desk.replica("conflicts", "--dir", str(desk.folder))
        assert {version["text"] + "\n" for version in conflict["versions"]} == set(versions)
    assert len({desk.read("activeContext.md") for desk in six.desks}) == 1
    six.desks[5].replica("resolve", conflict["id"], "--keep", "v1", "--dir", str(six.desks[5].folder))
    until(lambda: not six.desks[0].replica("conflicts", "--dir", str(six.desks[0].folder)), six.desks, "it is decided")


def test_a_host_with_a_new_address_is_found_again(six):
    moved, others = six.desks[2], six.desks[:2] + six.desks[3:]
    moved.host.renumber("10.77.0.133")
    began = time.monotonic()
    moved.append("lessons-buffer.md", "- from the new address")
    six.arrives("lessons-buffer.md", "- from the new address")
    others[0].append("lessons-buffer.md", "- to the new address")
    six.arrives("lessons-buffer.md", "- to the new address")
    six.note("edits both ways after a change of address", time.monotonic() - began)
    assert any(event["event"] == "network_changed" and "10.77.0.133" in event["addresses"] for event in moved.heard)


def test_a_late_joiner_gets_everything_though_its_inviter_has_gone(six):
    late = Desk(six.lan.host(), six.home)
    try:
        six.note("join by code, late", late.join(six.desks[3]))
        six.desks[3].host.cable.segment = "gone"
        late.up()
        six.desks[0].append("lessons-buffer.md", "- after the late one came")
        everyone = [*six.desks[:3], *six.desks[4:], late]
        began = time.monotonic()
        until(lambda: all_see_all(everyone), everyone, "the late one sees all")
        six.note("a newcomer meets five whom it never met", time.monotonic() - began)
        until(lambda: show(everyone, "lessons-buffer.md", "- after the late one came"), everyone, "the last edit")
        for path in ("activeContext.md", "notes.md", "lessons-buffer.md"):
            assert late.read(path) and late.read(path) == six.desks[0].read(path)
    finally:
        late.down()
        six.lan.heal()
        six.desks[0].replica("remove", late.name, "--dir", str(six.desks[0].folder))
        until(lambda: not any(late.name in desk.connected for desk in six.desks), six.desks, "the late one has gone")


def test_two_networks_are_bridged_by_one_clone_that_is_in_both(six):
    middle, left, right = six.desks[2], six.desks[:2], six.desks[3:]
    six.lan.split([desk.host for desk in (*left, middle)], [desk.host for desk in right])
    for desk in right:
        desk.host.renumber(f"10.78.0.{desk.host.number}")
    six.lan.plug_in(middle.host, "eth1", "10.78.0.103", "part 1")
    try:
        began = time.monotonic()
        left[0].append("lessons-buffer.md", "- from the left network")
        right[2].append("lessons-buffer.md", "- from the right network")
        left[1].append("notes.md", "left of the bridge")
        six.arrives("lessons-buffer.md", "- from the left network", "- from the right network")
        six.note("edits through one clone in two networks, once it has its second card", time.monotonic() - began)
        six.arrives("notes.md", "left of the bridge")
    finally:
        middle.host.ip("link set eth1 down", "addr flush dev eth1")


@pytest.mark.parametrize(("delay", "loss"), [(0.2, 0.1)])
def test_on_slow_cables_that_lose_frames_everything_arrives(six, delay, loss):
    lost = six.lan.switch.lost
    six.lan.impair(delay, loss)
    text = "".join(f"line {n} of what is written on a bad network\n" for n in range(2_000))
    began = time.monotonic()
    six.desks[1].write("long.md", text)
    six.desks[4].append("lessons-buffer.md", "- over bad cables")
    six.arrives("lessons-buffer.md", "- over bad cables")
    six.note(f"an edit, at {delay * 1000:.0f} ms each way and {loss:.0%} loss", time.monotonic() - began)
    until(lambda: all(desk.read("long.md") == text for desk in six.desks), six.desks, "the long text")
    six.note("and 100 kB of text", time.monotonic() - began)
    assert six.lan.switch.lost > lost
    six.lan.heal()


@pytest.mark.parametrize("seconds", SLEEPS)
def test_a_host_that_slept_catches_up(six, seconds):
    sleeper = six.desks[5]
    sleeper.freeze()
    asleep = time.monotonic()
    six.desks[0].append("lessons-buffer.md", f"- while it slept for {seconds}")
    six.arrives("lessons-buffer.md", f"- while it slept for {seconds}", desks=six.desks[:5])
    sleeper.append("lessons-buffer.md", f"- written on the sleeper at {seconds}")
    until(lambda: time.monotonic() - asleep > seconds, six.desks[:5], "it sleeps", patience=seconds + 5)
    sleeper.thaw()
    six.note(f"caught up after {seconds:.0f} s of sleep",
             six.arrives("lessons-buffer.md", f"- while it slept for {seconds}",
                         f"- written on the sleeper at {seconds}"))  # fmt: skip


def test_nothing_leads_out_of_the_network(six):
    outside = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    inside = subprocess.run(
        six.desks[0].host.inside("ip", "-br", "link"), capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in inside.splitlines()} == {"lo", "eth0"}
    assert not any(line.split()[0].startswith("tap") for line in outside.splitlines())
    routes = subprocess.run(six.desks[0].host.inside("ip", "route"), capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in routes.splitlines()] == ["10.77.0.0/24"]
