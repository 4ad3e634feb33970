"""Session messages as frames and back. One frame is one message, of at most `frames.MAX_FRAME` bytes."""

from replica.changes import ID_SIZE, MAX_BODY, MAX_DEPS, MAX_PATH, POLICIES, SIGNATURE_SIZE, Signed
from replica.errors import ProtocolError
from replica.log import BATCH_CHANGES, Vector
from transport import frames
from transport.session import (
    DIGESTS_PER_MESSAGE,
    HEAD,
    MAX_PIECES,
    PIECE,
    REASONS,
    Ack,
    Baseline,
    Bye,
    Changes,
    Digest,
    DocumentDigests,
    Hello,
    Message,
    Restart,
)

# A batch may go past its aim to end where signatures are; see Log.batch.
MAX_BATCH = 4 * BATCH_CHANGES
MAX_VECTOR = MAX_DEPS


def encode(message: Message) -> bytes:
    match message:
        case Hello(versions, workspace, vector, heads, id):
            return frames.encode("hello", list(versions), workspace, vector, heads, id)
        case Changes(batch):
            return frames.encode("changes", [[signed.body, signed.signature] for signed in batch])
        case Ack(vector):
            return frames.encode("ack", vector)
        case Digest(vector, digest):
            return frames.encode("digest", vector, digest)
        case DocumentDigests(vector, documents):
            return frames.encode("documents", vector, [list(document) for document in documents])
        case Baseline(why, about, number, count, piece):
            return frames.encode("baseline", why, about, number, count, piece)
        case Restart():
            return frames.encode("restart")
        case Bye(reason):
            return frames.encode("bye", reason)
    raise TypeError(f"{type(message).__name__} is not a message")


def decode(data: bytes) -> Message:
    """Read a peer's frame. Raises ProtocolError: it is not a message; nothing of it was used."""
    kind, *fields = frames.decode(data)
    reader = _READERS.get(kind)
    if reader is None:
        raise ProtocolError("a message of an unknown kind")
    try:
        return reader(*fields)
    except (TypeError, ValueError, KeyError, IndexError):
        raise ProtocolError(f"a malformed message of kind {kind}") from None


def _hello(versions, workspace, vector, heads, id) -> Hello:
    _require(isinstance(versions, list) and 0 < len(versions) <= 64 and all(type(v) is int for v in versions))
    _require(type(workspace) is bytes and len(workspace) == ID_SIZE)
    _require(type(heads) is bytes and len(heads) in (0, HEAD * len(vector)))
    _require(type(id) is bytes and len(id) == ID_SIZE)
    return Hello(tuple(versions), workspace, _vector(vector), heads, id)


def _changes(batch) -> Changes:
    _require(isinstance(batch, list) and 0 < len(batch) <= MAX_BATCH)
    for body, signature in batch:
        _require(type(body) is bytes and len(body) <= MAX_BODY)
        _require(signature is None or (type(signature) is bytes and len(signature) == SIGNATURE_SIZE))
    return Changes(tuple(Signed(body, signature) for body, signature in batch))


def _ack(vector) -> Ack:
    return Ack(_vector(vector))


def _digest(vector, digest) -> Digest:
    _require(type(digest) is bytes and len(digest) == 32)
    return Digest(_vector(vector), digest)


def _documents(vector, documents) -> DocumentDigests:
    _require(isinstance(documents, list) and len(documents) <= DIGESTS_PER_MESSAGE)
    for path, policy, digest in documents:
        _require(type(path) is str and len(path) <= MAX_PATH and policy in POLICIES)
        _require(type(digest) is bytes and len(digest) == 32)
    return DocumentDigests(_vector(vector), tuple((path, policy, digest) for path, policy, digest in documents))


def _baseline(why, about, number, count, piece) -> Baseline:
    _require(why in REASONS and type(about) is bytes and len(about) in (0, ID_SIZE))
    _require(type(number) is int and type(count) is int and 0 <= number < count <= MAX_PIECES)
    _require(type(piece) is bytes and len(piece) <= PIECE)
    return Baseline(why, about, number, count, piece)


def _bye(reason) -> Bye:
    _require(type(reason) is str and len(reason) <= 1_000)
    return Bye(reason)


def _vector(vector) -> Vector:
    _require(isinstance(vector, dict) and len(vector) <= MAX_VECTOR)
    for author, seq in vector.items():
        _require(type(author) is bytes and len(author) == ID_SIZE and type(seq) is int and 0 < seq < 2**53)
    return vector


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


_READERS = {
    "hello": _hello, "changes": _changes, "ack": _ack, "digest": _digest, "documents": _documents,
    "baseline": _baseline, "restart": Restart, "bye": _bye,
}  # fmt: skip
