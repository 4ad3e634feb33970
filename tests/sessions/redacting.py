"""The redaction, or a tiny stand-in where it is not there: for tests that only need one secret to be gone."""

import re
import sys
from collections import Counter
from types import ModuleType

SECRET = "ghp_A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"  # no key of anything


def install(monkeypatch) -> None:
    try:
        import replica.sessions.secrets  # noqa: F401
    except ImportError:
        stand_in = ModuleType("replica.sessions.secrets")
        stand_in.redact = _redact
        monkeypatch.setitem(sys.modules, "replica.sessions.secrets", stand_in)


def _redact(text: str) -> tuple[str, Counter]:
    text, count = re.subn(r"ghp_\w{36}", "[redacted: github token]", text)
    return text, Counter({"github token": count} if count else {})
