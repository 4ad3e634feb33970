"""Which of this machine's addresses face a LAN, and how a person writes an address."""

import ipaddress
import os
import re
import socket

from replica.errors import UsageError

ENVIRONMENT = "REPLICA_INTERFACES"  # addresses, separated by commas; used as they are
LOOPBACK = "127.0.0.1"

# Networks that exist inside this machine only, and tunnels, over which multicast finds nobody or strangers.
NOT_LAN = re.compile(r"(lo\d*|docker|br-|bridge\d|veth|virbr|vnet|vmnet|vboxnet|cni|cali|flannel|lxc|tun|tap|utun|wg)")


def interfaces() -> list[str]:
    """The IPv4 addresses to be found at, sorted; loopback when there is no LAN, so that clones on one host still meet.

    Raises:
        UsageError: REPLICA_INTERFACES holds something that is not an address.
    """
    named = os.environ.get(ENVIRONMENT, "")
    if named.strip():
        return [_address(part) for part in named.split(",") if part.strip()]
    return _lan_addresses() or [LOOPBACK]


def current() -> tuple[str, ...]:
    """A snapshot to compare with a later one: it differs when addresses came or went. Takes about 1 ms."""
    return tuple(interfaces())


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` as (host, port); an IPv6 address stands in brackets, as in `[fd00::2]:7000`.

    Raises:
        UsageError: it is not of this form.
    """
    hint = "write HOST:PORT, such as 192.168.1.20:7000 or [fd00::2]:7000"
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host:
        raise UsageError(f"the address '{text}' has no port", hint=hint)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise UsageError(f"'{host}' in '{text}' is not an IPv6 address", hint=hint) from None
    elif ":" in host:
        raise UsageError(f"the IPv6 address in '{text}' needs brackets", hint=hint)
    elif not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", host):
        raise UsageError(f"'{host}' in '{text}' is not a host", hint=hint)
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise UsageError(f"the port in '{text}' is not a number from 1 to 65535", hint=hint)
    return host, int(port)


def free_port(host: str) -> int:
    """A port that nothing listens on now: several addresses are to be listened on at one and the same port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text.strip()))
    except ValueError:
        raise UsageError(
            f"{ENVIRONMENT} holds '{text.strip()}', which is not an IPv4 address", hint=f"set it as {LOOPBACK}"
        ) from None


def _lan_addresses() -> list[str]:
    import ifaddr

    return sorted(
        ip.ip
        for adapter in ifaddr.get_adapters()
        if not NOT_LAN.match(adapter.name)
        for ip in adapter.ips
        if ip.is_IPv4 and not ipaddress.IPv4Address(ip.ip).is_loopback
    )
