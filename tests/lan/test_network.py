"""The network that the nodes are tested on does what it says: it carries multicast, and it delays, loses and cuts."""

import subprocess
import sys

import pytest

from tests.lan.network import Host, Lan, lacking

WHY_NOT = lacking()
pytestmark = [pytest.mark.lan, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

GROUP = "224.0.0.251"
ANSWER = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(sys.argv[1]) + socket.inet_aton(sys.argv[2]))
print("ready", flush=True)
while True:
    data, whom = s.recvfrom(99)
    s.sendto(data, whom)
"""
# Prints how many of so many questions were answered, and the shortest time that an answer took, in seconds.
ASK = """
import socket, sys, time
to, own, count, patience = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
s.settimeout(patience)
answered, fastest = 0, 99.0
for n in range(count):
    began = time.monotonic()
    s.sendto(str(n).encode(), (to, 5353))
    try:
        while s.recv(99) != str(n).encode():
            pass
    except TimeoutError:
        continue
    answered += 1
    fastest = min(fastest, time.monotonic() - began)
print(answered, fastest)
"""


@pytest.fixture(scope="module")
def pair():
    """A network, a host that asks, and one that answers."""
    with Lan() as lan:
        asks, answers = lan.host(), lan.host()
        command = answers.inside(sys.executable, "-c", ANSWER, GROUP, answers.address)
        server = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert server.stdout.readline() == b"ready\n"
            yield lan, asks, answers
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


def ask(host: Host, to: str, count: int = 5, patience: float = 2.0) -> tuple[int, float]:
    command = host.inside(sys.executable, "-c", ASK, to, host.address, str(count), str(patience))
    answered, fastest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(answered), float(fastest)


@pytest.mark.parametrize("to", [GROUP, "10.77.0.2"], ids=["multicast", "unicast"])
def test_frames_pass_are_delayed_and_are_cut(pair, to):
    lan, asks, answers = pair
    assert ask(asks, to)[0] == 5
    lan.impair(0.1, 0)
    answered, fastest = ask(asks, to, count=2)
    assert answered == 2 and fastest >= 0.2
    lan.split([asks], [answers])
    assert ask(asks, to, count=1, patience=0.2)[0] == 0
    lan.heal()
    assert ask(asks, to)[0] == 5


def test_frames_are_lost_as_often_as_it_says(pair):
    lan, asks, answers = pair
    lan.impair(0, 0.3)
    answered, _ = ask(asks, answers.address, count=100, patience=0.02)
    assert 25 <= answered <= 73  # 49 expected: question and answer may both be lost
    lan.heal()


def test_nothing_of_a_network_is_left():
    with Lan() as lan:
        keeper = lan.host().keeper
        assert subprocess.run(lan.hosts[0].inside("true")).returncode == 0
    assert (
        keeper.returncode == 0
        and subprocess.run(lan.hosts[0].inside("true"), stderr=subprocess.DEVNULL).returncode != 0
    )
