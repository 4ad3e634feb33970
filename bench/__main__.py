"""`python -m bench [NAME…]`: run the measurements, or those whose names begin so."""

import importlib
import os
import signal
import sys
import time

from bench.harness import SEED, machine, place

BENCHES = (
    "core",
    "compaction",
    "append_latency",
    "file_latency",
    "sync_command",
    "first_join",
    "reconnect",
    "startup",
    "idle",
    "flood",
    "export",
    "export_qdrant",
    "recall",
    "workday",
    "mcp",
    "sessions",
    "sessions_scan",
)


def main() -> int:
    os.environ["REPLICA_INTERFACES"] = "127.0.0.1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the nodes of a measurement end with it
    wanted = sys.argv[1:]
    chosen = [name for name in BENCHES if not wanted or any(name.startswith(word) for word in wanted)]
    if not chosen:
        print(f"bench: none is called {' or '.join(wanted)}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    print(f"machine: {machine()}\nseed: {SEED}")
    failed = []
    for name in chosen:
        module = importlib.import_module(f"bench.{name}")
        print(f"\n{name}: {module.__doc__.splitlines()[0]}", flush=True)
        began = time.perf_counter()
        try:
            with place() as folder:
                module.run(folder)
        # One that fails must not hide the figures of the others; what failed is said, and the exit code shows it.
        except Exception as error:
            failed.append(name)
            print(f"  FAILED: {type(error).__name__}: {error}", flush=True)
        print(f"  ({time.perf_counter() - began:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
