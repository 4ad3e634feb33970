"""The kinds of sinks, each loaded when one is used."""

from importlib import import_module

from replica.cloud.base import Sink
from replica.errors import UsageError

# Type -> module and class.
KINDS = {
    "qdrant": ("qdrant", "Qdrant"),
    "pinecone": ("pinecone", "Pinecone"),
    "mem0": ("mem0", "Mem0"),
    "mem0-server": ("mem0_server", "Mem0Server"),
    "openmemory": ("openmemory", "OpenMemory"),
    "supermemory": ("supermemory", "Supermemory"),
    "graphiti": ("graphiti", "Graphiti"),
    "jsonl": ("jsonl", "Jsonl"),
}


def kind(name: str) -> type[Sink]:
    """The class of a type of sinks. Raises UsageError: there is no such type."""
    if name not in KINDS:
        from difflib import get_close_matches

        near = get_close_matches(name, KINDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"{name!r} is no type of sink", hint=f"{hint}there are {', '.join(KINDS)}")
    module, class_name = KINDS[name]
    return getattr(import_module(f"replica.cloud.sinks.{module}"), class_name)
