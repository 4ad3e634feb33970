"""Loads the text states that a peer has made, in a process that may come to harm: `python -m replica.textcheck`.

Reads `[[state, sha256 of the text], …]` as msgpack from the standard input; exits with 0 if every state loads and holds
its text. A state that kills, freezes or fills this process has done no more than that.
"""

import hashlib
import sys

MEMORY = 3 * 1024**3  # bytes of address space, where the system can bound it


def main() -> int:
    import msgpack

    from replica.errors import CorruptUpdate
    from replica.text import Text

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # no such bound on this system: the time is bounded by who started us
    for state, digest in msgpack.unpackb(sys.stdin.buffer.read()):
        try:
            text = Text.load(state).text
        except (CorruptUpdate, MemoryError):
            return 1
        if hashlib.sha256(text.encode()).digest() != digest:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
