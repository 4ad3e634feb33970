"""A LAN on one machine: hosts in network namespaces, and a switch that can cut, delay and lose frames.

A host is a namespace of its own, with its own loopback, host name and `eth0`. `eth0` is a TAP device whose other end
this process holds: the switch is a thread that reads a frame from one host and writes it to the others. So the network
leads nowhere else, needs no bridge, packet filter or queueing discipline, and is gone when this process is, however it
ends: namespaces have no names, and a device lives as long as its file is open.

Needs Linux, root, /dev/net/tun, iproute2 and util-linux; `lacking` says what is not there.
"""

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TUN = "/dev/net/tun"
TOOLS = ("ip", "unshare", "nsenter", "setpriv")
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
CLONE_NEWNET = 0x40000000
LARGEST = 65536  # bytes of a frame that is read at once; the devices carry 1,514
BACKLOG = 4_000  # frames on their way; more are lost, as in a real switch
WORST = 0.5  # the part of the frames that one cable may lose: more would be a cut


def lacking() -> str:
    """Why there can be no such network here, or nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are of Linux"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (packages iproute2 and util-linux)"
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        return f"cannot open {TUN}: {error.strerror}"
    tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"no network namespace may be made: {tried.stderr.strip()}"


@dataclass(eq=False)
class Port:
    """One cable: the frames of a host's device. Ports of one segment hear each other."""

    fd: int
    segment: str = "lan"
    delay: float = 0.0  # seconds, each way
    loss: float = 0.0  # the part of the frames that is lost, each way


class Switch:
    """Passes frames between ports. What is set on a port counts for the next frame."""

    def __init__(self, seed: int = 1):
        self.ports: list[Port] = []
        self.passed = self.lost = 0
        self._random = random.Random(seed)
        self._homes: dict[bytes, Port] = {}  # where a hardware address was seen last
        self._waiting: list[tuple[float, int, Port, bytes]] = []
        self._serial = itertools.count()
        self._end, self._ending = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.write(self._ending, b"x")
        self._thread.join()
        for fd in (self._end, self._ending, *(port.fd for port in self.ports)):
            os.close(fd)

    def add(self, fd: int, segment: str) -> Port:
        port = Port(fd, segment)
        self.ports = [*self.ports, port]
        os.write(self._ending, b"+")  # have it listened to now
        return port

    def _run(self) -> None:
        while True:
            ports = {port.fd: port for port in self.ports}
            pause = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready, _, _ = select.select([self._end, *ports], [], [], pause)
            for fd in ready:
                if fd != self._end:
                    self._take(ports[fd])
                elif os.read(fd, 1) == b"x":
                    return
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, port, frame = heapq.heappop(self._waiting)
                self._give(port, frame)

    def _take(self, port: Port) -> None:
        with suppress(BlockingIOError):
            for _ in range(64):
                try:
                    frame = os.read(port.fd, LARGEST)
                except BlockingIOError:
                    raise
                except OSError:  # the device is down just now
                    return
                self._homes[frame[6:12]] = port
                self._forward(port, frame)

    def _forward(self, source: Port, frame: bytes) -> None:
        home = None if frame[0] & 1 else self._homes.get(frame[:6])
        for port in self.ports if home is None else (home,):
            if port is source or port.segment != source.segment:
                continue
            if self._random.random() < source.loss or self._random.random() < port.loss:
                self.lost += 1
                continue
            delay = source.delay + port.delay
            if not delay:
                self._give(port, frame)
            elif len(self._waiting) < BACKLOG:
                heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._serial), port, frame))

    def _give(self, port: Port, frame: bytes) -> None:
        with suppress(OSError):  # full, or down: lost, as on a wire
            os.write(port.fd, frame)
            self.passed += 1


@dataclass(eq=False)
class Host:
    """A machine on the network. `start` and `run` are what happens on it."""

    number: int
    address: str
    keeper: subprocess.Popen  # holds the namespaces open until its standard input ends
    cables: dict[str, Port] = field(default_factory=dict)

    @property
    def cable(self) -> Port:
        return self.cables["eth0"]

    def inside(self, *command: str) -> list[str]:
        """`command` as it is run on this host. It ends with us, should we be killed."""
        spaces = (f"--{kind}=/proc/{self.keeper.pid}/ns/{kind}" for kind in ("net", "uts"))
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", *spaces, "--", *command]

    def ip(self, *lines: str) -> None:
        """Commands of `ip`, one a line."""
        subprocess.run(self.inside("ip", "-batch", "-"), input="\n".join(lines), text=True, check=True)

    def renumber(self, address: str, device: str = "eth0") -> None:
        """Take another address, as when DHCP gives one."""
        self.ip(f"addr flush dev {device}", f"addr add {address}/24 brd + dev {device}")
        self.address = address


class Lan:
    """Hosts on one switch. A context: nothing is left of it."""

    def __enter__(self) -> "Lan":
        self.switch, self.hosts = Switch(), []
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.keeper.stdin.close()
            host.keeper.wait(10)
        self.switch.close()

    def host(self, segment: str = "lan") -> Host:
        """One more machine, on the segment."""
        number = len(self.hosts) + 1
        script = f"ip link set lo up && echo host-{number} >/proc/sys/kernel/hostname && echo ready && exec cat"
        keeper = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        host = Host(number, f"10.77.0.{number}", keeper)
        self.hosts.append(host)
        if keeper.stdout.readline() != b"ready\n":
            raise RuntimeError(f"host {number} could not be made")
        self.plug_in(host, "eth0", host.address, segment)
        return host

    def plug_in(self, host: Host, device: str, address: str, segment: str) -> None:
        """A network card for the host, with a cable to the segment."""
        host.cables[device] = self.switch.add(_tap(Path(f"/proc/{host.keeper.pid}/ns/net"), device), segment)
        host.ip(
            f"link set {device} addrgenmode none", f"addr add {address}/24 brd + dev {device}", f"link set {device} up"
        )

    def split(self, *groups: list[Host]) -> None:
        """Cut the network into groups that do not hear each other. No host sees its link go down."""
        for name, group in enumerate(groups):
            for host in group:
                host.cable.segment = f"part {name}"

    def heal(self) -> None:
        """One network again, on good cables."""
        for host in self.hosts:
            host.cable.segment, host.cable.delay, host.cable.loss = "lan", 0.0, 0.0

    def impair(self, delay: float, loss: float) -> None:
        """Bad cables for all: a frame between two hosts needs `delay` seconds and is lost with this chance."""
        if not 0 <= loss <= WORST:
            raise ValueError(f"a loss of {loss}")
        for host in self.hosts:
            host.cable.delay, host.cable.loss = delay / 2, 1 - (1 - loss) ** 0.5


def _tap(namespace: Path, device: str) -> int:
    """Our end of a new device in that namespace. A thread goes there, since a device is born where its maker is."""
    made: list[int | OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with namespace.open() as space:
            if libc.setns(space.fileno(), CLONE_NEWNET) != 0:
                made.append(OSError(ctypes.get_errno(), "setns"))
                return
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
        except OSError as error:
            os.close(fd)
            made.append(error)
        else:
            made.append(fd)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
