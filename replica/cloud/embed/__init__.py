"""What makes vectors of texts. An embedder has an id, which is recorded with each vector: another id, other vectors."""

from collections.abc import Sequence
from typing import Protocol


class Embedder(Protocol):
    """`id`: names the model and how it is used; equal ids give vectors that can be compared. `dimension`: of each."""

    id: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector a text, each of length 1. Raises SinkError: the embedder cannot be reached, or refuses."""
        ...

    def close(self) -> None: ...
