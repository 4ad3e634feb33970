"""Members find each other on the LAN, strangers learn nothing and break nothing. (FAILURES 27, 30, 31)

Everything here stays on loopback.
"""

import asyncio
import os
import re
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica.errors import UsageError
from transport import addresses
from transport.addresses import NOT_LAN, current, interfaces, parse_address
from transport.discovery import MAX_LOOKUPS, MAX_PAIRINGS, SERVICE, VERSION, Discovery, tag

LOCAL = ["127.0.0.1"]
# Loopback is shared with whatever else is tested on this machine at the same time.
OURS, THEIRS = os.urandom(16), os.urandom(16)
NUMBER = 1 + os.getpid() % 330 * 3  # and the two after it


class Finder(Discovery):
    """A Discovery on loopback that remembers whom it found."""

    def __init__(self, workspace=OURS):
        super().__init__(workspace, interfaces=LOCAL)
        self.found: asyncio.Queue = asyncio.Queue()
        self.on_found(lambda addresses, instance: self.found.put_nowait((addresses, instance)))

    async def __aenter__(self):
        assert await self.start(), self.problem
        return self

    async def __aexit__(self, *_):
        await self.close()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_clones_of_one_workspace_on_one_host_find_each_other_and_nobody_else():
    async def scene():
        async with Finder() as one, Finder() as two, Finder(THEIRS) as other:
            await other.announce(7003)
            await one.announce(7001)
            await two.announce(7002)
            (at_one, _), (at_two, _) = await one.found.get(), await two.found.get()
            assert (at_one, at_two) == ([("127.0.0.1", 7002)], [("127.0.0.1", 7001)])
            assert one.found.empty() and two.found.empty() and other.found.empty()

    run(scene())


def test_a_refresh_reports_who_is_there_again():
    async def scene():
        async with Finder() as one, Finder() as two:
            await two.announce(7002)
            first = await one.found.get()
            assert await one.refresh()
            assert await one.found.get() == first

    run(scene())


def test_a_changed_port_is_reported_and_a_changed_network_announces_again():
    async def scene():
        async with Finder() as one, Finder() as two:
            await two.announce(7002)
            await one.found.get()
            await two.announce(7009)
            while (await one.found.get())[0] != [("127.0.0.1", 7009)]:
                pass
            assert await two.network_changed()

    run(scene())


def test_a_joiner_without_a_workspace_finds_the_inviter_by_its_number():
    async def scene():
        async with Finder() as inviter, Finder(None) as joiner:
            await inviter.announce_pairing(NUMBER + 1, 7036)
            await inviter.announce(7001)
            async with Finder(THEIRS) as second:
                await second.announce_pairing(NUMBER, 7037)
                async for found in joiner.find_pairing(NUMBER, 10):
                    assert found == [("127.0.0.1", 7037)]
                    break
            assert [at async for at in joiner.find_pairing(NUMBER + 2, 0.01)] == []
            assert joiner.found.empty()

    run(scene())


def test_a_withdrawn_invitation_is_forgotten():
    async def scene():
        async with Finder() as inviter, Finder(None) as joiner:
            await inviter.announce_pairing(NUMBER, 7037)
            async for _ in joiner.find_pairing(NUMBER, 10):
                break
            gone = asyncio.Event()
            joiner._invitations = _Telling(joiner._invitations, gone)
            await inviter.withdraw()
            await gone.wait()
            assert NUMBER not in [number for number, _ in joiner._invitations.values()]

    run(scene())


class _Telling(dict):
    def __init__(self, items, gone):
        super().__init__(items)
        self._gone = gone

    def pop(self, *args):
        self._gone.set()
        return super().pop(*args)


def test_without_a_network_start_reports_and_a_refresh_begins(monkeypatch):
    import zeroconf.asyncio

    real = zeroconf.asyncio.AsyncZeroconf

    def no_route(**_):
        raise OSError(19, "No such device")

    async def scene():
        finder = Finder()
        monkeypatch.setattr(zeroconf.asyncio, "AsyncZeroconf", no_route)
        assert not await finder.start()
        assert "No such device" in finder.problem
        await finder.announce(7001)  # remembered
        assert not await finder.network_changed()
        monkeypatch.setattr(zeroconf.asyncio, "AsyncZeroconf", real)
        assert await finder.refresh() and finder.problem == ""
        async with Finder() as other:
            assert (await other.found.get())[0] == [("127.0.0.1", 7001)]
        await finder.close()

    run(scene())


def test_closing_takes_less_than_a_second_and_may_be_repeated():
    async def scene():
        finder = Finder()
        await finder.close()
        await finder.start()
        await finder.announce(7001)
        began = asyncio.get_running_loop().time()
        await finder.close()
        assert asyncio.get_running_loop().time() - began < 1.0
        await finder.close()

    run(scene())


def test_an_announcement_says_nothing_about_the_clone_or_its_workspace():
    async def scene():
        async with Finder() as one:
            await one.announce(7001)
            [(instance, info)] = one._infos.items()
            assert re.fullmatch("[a-z2-7]{16}", instance) and info.server == f"{instance}.local."
            assert info.properties == {b"v": b"1", b"t": tag(OURS, instance).encode()}
            await one.announce_pairing(NUMBER, 7002)
            other = one._infos[one._pairing]
            assert other.properties == {b"v": b"1", b"p": str(NUMBER).encode()} and instance not in other.server

    run(scene())


def test_a_tag_is_recognised_by_members_only_and_differs_at_every_start():
    assert tag(OURS, "a") == tag(OURS, "a") != tag(THEIRS, "a")
    assert tag(OURS, "a") != tag(OURS, "b")
    assert re.fullmatch("[a-z2-7]{16}", tag(OURS, "a"))


values = st.none() | st.sampled_from([VERSION, b"37"]) | st.binary(max_size=300)
texts = st.dictionaries(st.sampled_from([b"v", b"t", b"p", b"\xff"]), values)


@given(texts, st.text(max_size=20))
def test_no_announcement_of_a_stranger_is_an_error_or_is_taken_for_ours(text, instance):
    async def scene():
        finder = Finder()
        finder._judge(instance, text, [("127.0.0.1", 1)])
        assert finder.found.empty()
        assert all(1 <= number <= 999 for number, _ in finder._invitations.values())

    asyncio.run(scene())


@given(st.text(max_size=100))
def test_no_name_of_a_stranger_is_an_error(name):
    finder = Discovery(OURS, interfaces=LOCAL)
    finder._event(zeroconf=None, service_type=SERVICE, name=name, state_change=None)
    assert not finder._lookups


def test_a_flood_of_names_and_invitations_is_bounded():
    async def scene():
        finder = Finder()
        for number in range(200):
            instance = f"{number:016}".translate(str.maketrans("0189", "abcd"))
            finder._event(zeroconf=None, service_type=SERVICE, name=f"{instance}.{SERVICE}", state_change=None)
            finder._judge(instance, {b"v": VERSION, b"p": b"7"}, [("127.0.0.1", 1)])
        assert len(finder._lookups) <= MAX_LOOKUPS and len(finder._invitations) <= MAX_PAIRINGS
        await finder.close()

    run(scene())


# --- addresses


def test_the_environment_names_the_interfaces(monkeypatch):
    monkeypatch.setenv(addresses.ENVIRONMENT, "127.0.0.1, 10.0.0.5,")
    assert interfaces() == ["127.0.0.1", "10.0.0.5"] and current() == ("127.0.0.1", "10.0.0.5")
    monkeypatch.setenv(addresses.ENVIRONMENT, "eth0")
    with pytest.raises(UsageError, match="'eth0'"):
        interfaces()


def test_inner_networks_are_left_out_and_without_a_lan_loopback_is_used(monkeypatch):
    import ifaddr

    def adapter(name, *ips):
        return types.SimpleNamespace(name=name, ips=[types.SimpleNamespace(ip=ip, is_IPv4="." in ip) for ip in ips])

    monkeypatch.delenv(addresses.ENVIRONMENT, raising=False)
    lan = [adapter("lo", "127.0.0.1"), adapter("docker0", "172.17.0.1"), adapter("eth0", "192.168.1.5", "fe80::1")]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: lan)
    assert interfaces() == ["192.168.1.5"]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: lan[:2])
    assert interfaces() == ["127.0.0.1"]


def test_names_of_real_cards_are_not_taken_for_inner_networks():
    assert not any(map(NOT_LAN.match, ["eth0", "enp3s0", "wlan0", "wlp2s0", "en0", "br0", "bond0", "usb0", "Ethernet"]))
    assert all(map(NOT_LAN.match, ["lo", "docker0", "br-1a2b", "veth12", "virbr0", "tun0", "wg0", "bridge100"]))


@pytest.mark.parametrize(
    ("text", "address"),
    [("host:7000", ("host", 7000)), ("10.0.0.1:1", ("10.0.0.1", 1)), ("[fd00::2]:7", ("fd00::2", 7))],
)
def test_an_address_is_host_and_port(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":70", "host:x", "host:0", "h:65536", "fd00::2:7", "[x]:7", "a b:7", "h:٣"]
)
def test_what_is_no_address_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_address(text)
