"""Which embedder recall may use. replica.toml is shared: a service that another clone has named there gets nothing of
this one, neither memory nor key, until a person here has agreed.
"""

from collections.abc import Mapping

from replica import config
from replica.clone import Clone
from replica.cloud.configured import APPROVALS, NotApproved, own_ids
from replica.cloud.embed import Embedder, embedder
from replica.cloud.ledger import Ledger
from replica.errors import ReplicaError
from replica.places import CONFIG

FACT = "embedders"


def embedder_for_recall(clone: Clone, env: Mapping[str, str], *, agree: bool = False) -> Embedder | None:
    """The embedder that replica.toml names. `agree`: a person here has just agreed to it.

    Raises:
        NotApproved: somebody else has named a service, and nobody here has agreed.
        SinkError: it cannot be had on this machine.
    """
    spec = clone.config.recall.embedder
    if spec.startswith("openai:"):
        _require(clone, spec, agree)
    return embedder(spec, env=env)


def _require(clone: Clone, spec: str, agree: bool) -> None:
    with Ledger(clone.root) as ledger:
        known = ledger.fact(APPROVALS, FACT) or []
        if spec in known:
            return
        who = _first_written_by(clone, spec)
        if agree or who in own_ids(clone):
            ledger.note(APPROVALS, FACT, [*known, spec][-100:])
            return
    by = "another clone" if who is None else clone.author_name(who)
    raise NotApproved(
        f"the embedder {spec!r} was set by {by}, and nobody has agreed to it here",
        hint="if questions and memory of this clone may go there: replica recall --agree QUESTION",
    )


def _first_written_by(clone: Clone, spec: str) -> bytes | None:
    """Who first named this embedder in replica.toml, as far as the history goes. None: not known."""
    rows = clone.store.rows(
        "SELECT a.id, adds.text FROM adds JOIN documents d ON d.n=adds.doc JOIN authors a ON a.n=adds.author"
        " WHERE d.path=? AND d.private=0 ORDER BY adds.n", (CONFIG,),
    )  # fmt: skip
    for author, text in rows:
        try:
            if config.load(text).recall.embedder == spec:
                return author
        except ReplicaError:
            continue
    return None
