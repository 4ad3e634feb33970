"""With the network off, nothing but loopback is ever tried: no telemetry, no look at versions, no download.

In a network namespace whose only way out is a device that counts what is sent to it. Needs root; skipped without.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.test_cli_memory import HERE

SCRIPT = """
set -e
ip link set lo up
ip link add out type veth peer name far
for device in out far; do echo 1 > /proc/sys/net/ipv6/conf/$device/disable_ipv6; done
ip link set out arp off
ip link set far up
ip addr add 10.99.0.2/24 dev out
ip link set out up
ip route add default via 10.99.0.1
replica() { "$PYTHON" -m cli.main "$@"; }
sent() { sed -n 's/^ *out: *//p' /proc/net/dev | awk '{print $10}'; }
before=$(sent)
"""
END = """
echo "sent $(( $(sent) - before ))"
"""


def sent(folder, commands: str) -> str:
    """What was printed by commands in such a namespace; the last line says how many packets tried to leave."""
    environment = {
        **os.environ, "PYTHONPATH": HERE, "PYTHON": sys.executable, "REPLICA_INTERFACES": "127.0.0.1",
        "HOME": str(folder),
    }  # fmt: skip
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", SCRIPT + commands + END], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture
def folder(tmp_path):
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs root, unshare and ip")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("this machine gives no network namespaces")
    (tmp_path / "lessons-buffer.md").write_text("- retries need jitter\n- one thread for BLAS\n")
    (tmp_path / "notes.md").write_text("# Plan\nsome words\n")
    return tmp_path


def test_what_leaves_is_counted(folder):
    program = "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(bytes(1), ('10.99.0.9', 9))"
    assert sent(folder, f'"$PYTHON" -c "{program}"\n') == "sent 1"


def test_nothing_but_loopback_is_tried(folder):
    pytest.importorskip("qdrant_edge")
    commands = """
replica init --name here
replica export
replica sinks add file --type jsonl --set path=out.jsonl
replica export
replica sinks test file
replica cloud --status
replica recall "how long to wait"
replica status
"""
    assert sent(folder, commands) == "sent 0"
