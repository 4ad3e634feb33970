"""The command recall: what the memory holds on a question."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from cli.common import Dir, Json, counted, data, emit, iso, local, one_line, opened, words

if TYPE_CHECKING:
    from replica.clone import Clone
    from replica.cloud.embed import Embedder
    from replica.cloud.index import Answer

PATIENCE = 10.0  # seconds that vectors of new entries may take before the answer


def recall(
    question: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="In your own words.")],
    limit: Annotated[int, typer.Option("-n", metavar="N", min=1, help="At most so many.")] = 10,
    agree: Annotated[
        bool, typer.Option("--agree", help="Questions and memory may go to the embedder that another clone has named.")
    ] = False,
    folder: Dir = None,
    json: Json = False,
) -> None:
    """Find what the memory holds on a question, by words and by meaning.

    The best come first. Nothing needs to occur literally, as it must for `replica search`.

    Example: replica recall "when may we deploy?"
    """
    from replica.errors import UsageError

    asked = " ".join(question)
    if not asked.strip():
        raise UsageError("the question is empty", hint='such as: replica recall "when may we deploy?"')
    with opened(folder) as clone:
        answer, embedder = _answered(clone, asked, limit, agree)
    for hit in answer.found:
        if json:
            emit({
                "document": hit.document, "id": hit.id, "text": hit.text, "clone": hit.author, "time": iso(hit.time),
                "level": hit.level, "score": round(hit.score, 5), "by": hit.by, "embedder": embedder,
            })  # fmt: skip
        else:
            data(f"{hit.document}: {one_line(hit.text)}  ({hit.author}, {local(hit.time)})")
    if not answer.found and not json:
        words("nothing found")
    if answer.waiting:
        words(f"{counted(answer.waiting, 'entry', 'entries')} found by words only as yet; the next recall goes on")


def _answered(clone: "Clone", question: str, limit: int, agree: bool) -> "tuple[Answer, str | None]":
    """The answer, and the id of the embedder that had a part in it. Without it, there are still the words."""
    from replica.cloud.base import SinkError
    from replica.cloud.configured import NotApproved
    from replica.cloud.embed.agreement import embedder_for_recall
    from replica.cloud.index import Index

    chosen: Embedder | None = None
    with Index.open(clone) as index:
        try:
            chosen = embedder_for_recall(clone, os.environ, agree=agree)
            return index.answer(question, limit, chosen, PATIENCE), chosen.id if chosen else None
        except (SinkError, NotApproved) as error:
            words(f"by words only: {error}; {error.hint}")
            return index.answer(question, limit), None
        finally:
            if chosen is not None:
                chosen.close()
