"""What a running node costs when nothing happens: memory and processor time. Linux only: it reads /proc."""

import os
import random
import time
from contextlib import ExitStack
from pathlib import Path

from bench.harness import SEED, Process, replica, say, workspace
from bench.sync_command import bank

SETTLE, WATCH = 5.0, 20.0


def run(place: Path) -> None:
    if not Path("/proc/self/stat").exists():
        print("  skipped: there is no /proc here")
        return
    print(f"  input: `replica up` twice, found by mDNS, a 70 kB bank; {WATCH:.0f} s, after {SETTLE:.0f} s of rest")
    one, other = workspace(place, "one", "other")
    bank(one.root, random.Random(SEED))
    one.close(), other.close()
    with ExitStack() as stack:
        nodes = []
        for root in (one.root, other.root):
            process = Process(replica("up", "--json", "--dir", str(root)))
            stack.callback(process.end)
            process.event("listening")
            nodes.append(process)
        nodes[1].event("in_step")
        time.sleep(SETTLE)
        before = [cpu(process.popen.pid) for process in nodes]
        time.sleep(WATCH)
        for name, process, start in zip(("first", "second"), nodes, before, strict=True):
            share = 100 * (cpu(process.popen.pid) - start) / WATCH
            resident = memory(process.popen.pid)
            say(f"{name} node: resident", f"{resident:.1f} MB", "<= 60 MB", resident <= 60)
            say(f"{name} node: processor", f"{share:.2f} % of one core", "<= 0.5 %", share <= 0.5)


def cpu(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024 / 1e6
