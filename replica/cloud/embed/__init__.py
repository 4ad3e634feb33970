"""What makes vectors of texts. An embedder has an id, which is recorded with each vector: another id, other vectors.

Which one is meant stands in replica.toml (`embedder = "…"`), as docs/sinks/embedders.md lists them. Light: what a kind
needs is loaded when it is used.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

KINDS = ("auto", "minilm", "hash", "openai:MODEL", "openai:MODEL@URL", "none")
# A model's name may hold colons, slashes and @ itself.
_OPENAI = re.compile(r"openai:(?P<model>(?:(?!@https?://)\S)+)(?:@(?P<url>https?://\S*))?")


class Embedder(Protocol):
    """`id`: names the model and how it is used; equal ids give vectors that can be compared. `dimension`: of each."""

    id: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector a text, each of length 1. Raises SinkError: the embedder cannot be reached, or refuses."""
        ...

    def close(self) -> None: ...


def embedder(spec: str, *, env: Mapping[str, str] = os.environ) -> Embedder | None:
    """The embedder that `spec` names; None for "none". Nothing is sent or computed yet.

    `env`: where keys and the place of a model are looked up.

    Raises:
        UsageError: there is no such kind.
        SinkError: it cannot be had on this machine.
    """
    from replica.errors import UsageError

    wrong = fault_in(spec)
    if wrong:
        raise UsageError(wrong, hint=f"there are {', '.join(KINDS)}; docs/sinks/embedders.md explains them")
    if spec == "none":
        return None
    if found := _OPENAI.fullmatch(spec):
        from replica.cloud.embed.openai import OpenAI

        return OpenAI(found["model"], found["url"], env)
    if spec != "hash":
        from replica.cloud.embed import minilm

        if spec == "minilm" or minilm.at_hand(env):
            return minilm.MiniLM(minilm.folder(env))
    from replica.cloud.embed.hashed import Hashed

    return Hashed()


def fault_in(spec: str) -> str:
    """What is wrong with the name of an embedder, for an error; "" where nothing is."""
    from urllib.parse import urlsplit

    if spec in KINDS and ":" not in spec:
        return ""
    found = _OPENAI.fullmatch(spec)
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(spec[:50], ("auto", "minilm", "hash", "none", "openai:"), n=1, cutoff=0.5)
        return f"{spec[:100]!r} is no embedder" + (f"; did you mean {near[0]!r}?" if near else "")
    try:
        url = urlsplit(found["url"] or "https://localhost")
        sound = bool(url.hostname) and not (url.username or url.password or url.query or url.fragment)
        url.port  # noqa: B018 - raises where it is no number
    except ValueError:
        sound = False
    return "" if sound else "the url of the embedder is none, or holds more than host, port and path"


def stays_here(embedder: Embedder) -> bool:
    """Whether no text leaves this machine by it. Where that is not certain, level 0 must not be given to it."""
    return getattr(embedder, "local", False) is True


def one_thread_numpy():
    """numpy with one BLAS thread, or None where it is not installed.

    Short texts are small matrices: on few or busy cores, threads make the same work up to 50 times slower.
    """
    if "numpy" not in sys.modules:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
            os.environ.setdefault(name, "1")  # read by the libraries while they are loaded
    try:
        import numpy
    except ImportError:
        return None
    return numpy
