"""Secrets are taken out of whatever stands around them, and nothing else is."""

import importlib
import pkgutil
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replica.sessions import secrets
from replica.sessions.secrets import redact

ROOT = Path(__file__).parents[2]
HEX = "0123456789abcdef"
ALNUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def made_up(length: int, letters: str = ALNUM, seed: int = 7) -> str:
    """Random, with a digit early, the same every time. Joined here: no file of ours holds what looks like a secret."""
    chars = random.Random(seed + length).choices(letters, k=length)
    chars[min(3, length - 1)] = "4"
    return "".join(chars)


def block(kind: str) -> str:
    """A key as PEM. Its dashes stand apart here, for the same reason."""
    body = "\n".join(made_up(64, ALNUM + "+/", seed) for seed in range(12))
    return "\n".join(["--" + f"---BEGIN {kind}-----", body, f"-----END {kind}-----"])


JWT = f"eyJ{made_up(20)}.eyJ{made_up(60)}.{made_up(43)}"

# Kind, what stands before it, the secret, what stands after it.
SECRETS = [
    ("ANTHROPIC-KEY", "the token is ", "sk-ant-EXAMPLE-not-a-real-key-" + "0" * 18, " (rotate it afterwards)."),
    ("ANTHROPIC-KEY", "export ANTHROPIC_API_KEY=", "sk-ant-api03-" + made_up(90), "\n"),
    ("OPENAI-KEY", "OPENAI_API_KEY=", "sk-proj-" + made_up(48), " python main.py"),
    ("OPENAI-KEY", "key: ", "sk-" + made_up(48), ""),
    ("OPENROUTER-KEY", "", "sk-or-v1-" + made_up(64, HEX), " is used"),
    ("GITHUB-TOKEN", "git clone with `", "ghp_" + made_up(36), "`"),
    ("GITHUB-TOKEN", "(", "github_pat_" + made_up(22) + "_" + made_up(59), ")"),
    ("GITLAB-TOKEN", "PRIVATE-TOKEN: ", "glpat-" + made_up(20), "\n"),
    ("GOOGLE-KEY", "?key=", "AIza" + made_up(35), "&x=1"),
    ("GOOGLE-KEY", "", "ya29." + made_up(60), ""),
    ("SLACK-TOKEN", "bot ", "xoxb-" + made_up(12, "0123456789") + "-" + made_up(24), ","),
    ("SLACK-TOKEN", "", "xapp-1-A" + made_up(10) + "-" + made_up(30), ""),
    ("SLACK-TOKEN", "post to ", f"https://hooks.slack.com/services/T4{made_up(8)}/B{made_up(9)}/{made_up(24)}", ""),
    ("STRIPE-KEY", "", "sk_live_" + made_up(24), " in production"),
    ("STRIPE-KEY", "", "rk_test_" + made_up(24), ""),
    ("TELEGRAM-TOKEN", "https://api.telegram.org/bot", "8123456789:AA" + made_up(33), "/getMe"),
    ("TELEGRAM-TOKEN", "telegram is ", "8123456789:AA" + made_up(33), ""),
    ("NPM-TOKEN", "", "npm_" + made_up(36), ""),
    ("NPM-TOKEN", "//registry.npmjs.org/:_authToken=", "0f4f0f0f-1111-2222-3333-444444444444", ""),
    ("PYPI-TOKEN", "", "pypi-AgEIcHlwaS5vcmc" + made_up(80), ""),
    ("HUGGINGFACE-TOKEN", "login --with ", "hf_" + made_up(34), ""),
    ("AWS-KEY", "", "AKIA" + made_up(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), ""),
    ("SECRET", "aws_secret_access_key = ", "wJalrXUtnFEMI/K7MDENG/" + made_up(18), "\nregion = x"),
    ("SENDGRID-KEY", "", "SG." + made_up(22) + "." + made_up(43), ""),
    ("DISCORD-TOKEN", "", "M" + made_up(23) + "." + made_up(6) + "." + made_up(27), ""),
    ("MAILCHIMP-KEY", "", made_up(32, HEX) + "-us12", ""),
    ("TWILIO-KEY", "", "SK" + made_up(32, HEX), ""),
    ("ARTIFACTORY-KEY", "use ", "AKC" + made_up(20), " there"),
    ("AZURE-KEY", "", "AccountKey=" + made_up(86) + "==", ";"),
    ("SQUARE-KEY", "", "sq0csp-" + made_up(43), ""),
    ("VAULT-TOKEN", "", "hvs." + made_up(30), ""),
    ("AGE-KEY", "", "AGE-SECRET-KEY-1" + made_up(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"), ""),
    ("DATABRICKS-TOKEN", "", "dapi" + made_up(32, HEX), ""),
    ("SUPABASE-KEY", "", "sbp_" + made_up(40, HEX), ""),
    ("API-KEY", "", "gsk_" + made_up(52), ""),
    ("API-KEY", "", "pcsk_" + made_up(50), ""),
    ("API-KEY", "", "xai-" + made_up(60), ""),
    ("JWT", "Cookie jar: ", JWT, ""),
    ("AUTHORIZATION", "Authorization: Bearer ", made_up(40), "\nAccept: */*"),
    ("AUTHORIZATION", "curl -H 'Authorization: Basic ", "dXNlcjpwYXNzd29yZDQyLXg=", "' https://x.example"),
    ("AUTHORIZATION", '{"authorization": "token ', made_up(30), '"}'),
    ("COOKIE", "Set-Cookie: ", "session=" + made_up(32) + "; HttpOnly", "\n"),
    ("PASSWORD", "postgres://app:", "p4ss%21word", "@db.local:5432/tides"),
    ("PASSWORD", "amqp://guest:", "s3cret!x", "@localhost"),
    ("PASSWORD", "password=", "hunter2", " and more"),
    ("PASSWORD", "DB_PASSWORD=", "correcthorse", "\n"),
    ("PASSWORD", '{"user": "mira", "password": "', "correcthorse", '"}'),
    ("PASSWORD", '{\\"password\\": \\"', "hunter2x", '\\"}'),
    ("PASSWORD", "password: ", "hunter2", "\n"),
    ("PASSWORD", "mysql --password ", "hunter2", " tides"),
    ("PASSWORD", "<password>", "hunter22", "</password>"),
    ("PASSWORD", "my password is ", "hunter22", "."),
    ("PASSWORD", "Das Passwort ist ", "geheim123", "."),
    ("PASSWORD", "Passwort: ", "geheim123", ""),
    ("PASSWORD", "contraseña: ", "gato1234!", ""),
    ("PASSWORD", "mot de passe : ", "chaton99", ""),
    ("PASSWORD", "a senha é ", "gatinho77", ","),
    ("PASSWORD", "пароль: ", "qwerty12", ""),
    ("PASSWORD", "密码：", "qwerty12", ""),
    ("PASSWORD", "curl -u admin:", "s3cret!", " https://x.example"),
    ("PASSWORD", "sshpass -p ", "tr0ub4dor", " ssh host"),
    ("SECRET", 'client_secret="', made_up(24), '"'),
    ("SECRET", "x-api-key: ", made_up(32, HEX), "\n"),
    ("SECRET", "token=", "3c1f7e52-0d0a-4f43-9a57-1f2e3d4c5b01", "&page=2"),
    ("SIGNATURE", "https://x.example/a?se=1&sig=", made_up(40) + "%3D", " expires"),
    ("PRIVATE-KEY", "here:\n", block("RSA PRIVATE KEY"), "\nthat was it"),
    ("PRIVATE-KEY", '"', block("PRIVATE KEY").replace("\n", "\\n"), '\\n"'),
    ("PRIVATE-KEY", "", block("OPENSSH PRIVATE KEY").replace("\n", "\r\n"), ""),
    ("PRIVATE-KEY", "", block("PGP PRIVATE KEY BLOCK"), "\n"),
    ("PRIVATE-KEY", "cut off: ", block("EC PRIVATE KEY").split("\n-----END")[0], "\nand what follows is prose."),
]  # fmt: skip

# Nothing in these is a secret.
PLAIN = [
    "the password is at least 8 characters, base64-encoded, and the token is sha256-hashed",
    "The secret: always test before you ship v2.0.1. The key is patience; the password was changed in 2024.",
    "Password: required. Password: ******** password=<your password> password=$PGPASSWORD token: ${{ secrets.TOKEN }}",
    'password: str = "" \npassword = getpass.getpass("Password: ")\npassword=os.environ["PGPASSWORD"]',
    "connect(user=user, password=password, token=token_value, secret=None, key=lambda item: item[1])",
    "max_tokens: 128000, token_count=4096, tokens used: 12345678, key_size=2048, token_limit: 200000",
    "private_key = Ed25519PrivateKey.generate(); public_key = private_key.public_key(); secret = secrets.token_hex(16)",
    "sort_key=primary_key1 keyboard=qwerty123 monkey=banana12 tokenizer=cl100k_base secretary: Anna99",
    "between `-----BEGIN PRIVATE KEY-----` and `-----END PRIVATE KEY-----` stand lines of base64",
    "commit 3f786850e387550fdab836ed7e6dc881de23001b, tree e83c5163316f89bfbde7d9ab23ca2e25604af290",
    "session 3c1f7e52-0d0a-4f43-9a57-1f2e3d4c5b01 and 019d8bdc-da00-7c3e-8ef2-c5ce4c830be6",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  tides.csv",
    "![chart](data:image/png;base64," + made_up(400, ALNUM + "+/") + ")",
    "/home/mira/work/saltmarsh/src/tides/harmonic_constants_2026-04-14_final-version-2.py:128",
    "C:\\Users\\mira\\AppData\\Local\\Programs\\Python\\Python311\\python.exe -m pytest",
    "[the table](https://example.org/tables/october-2026_high-water-at-figueira-da-foz.html#row-12)",
    "https://host.example:8080/path/a@b, git@github.com:mira/saltmarsh.git, ssh://git@host:2222/x, https://user:password@host",
    "class sk-loading-indicator-wrapper-large { }  hf_tokenizer_from_pretrained_config  npm_config_registry",
    "arn:aws:iam::123456789012:role/deploy, us-east-1, i-0abcd1234efgh5678, toolu_01A09q90qw90lq917835lq9",
    "arn:aws:secretsmanager:*:*:secret:rds-preview-us-east-2!* -debug-pass=Executions last_pass_time: 1219328376.07",
    "passphrase: &#x3C;string>, 'Test2::Event::Pass' => '1.302103', password_changed_at: 2026-04-14T12:00",
    "Authorization: required for admins; the bearer of this letter; Cookie: see below; Basic understanding",
    "sk-ant-xxxxxxxxxxxxxxxxxxxxxxxx and ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx show what one looks like",
    "O ponteiro das marés está certo; a senha foi trocada ontem e o segredo é não ter pressa.",
    "Das Passwort steht im Tresor, das Geheimnis ist Geduld. Der Schlüssel: regelmäßig üben.",
    "La contraseña se cambió ayer; el mot de passe est dans le coffre; hasło jest w sejfie.",
    "Пароль изменён вчера, ключ у соседа. 密码已经更改。パスワードを変更しました。İstanbul'da şifre değişti.",
    "ٱلْمَدّ وَٱلْجَزْر، كلمة السر في الخزنة. ज्वार-भाटा। 조석표의 비밀번호는 금고에 있습니다.",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "secret", "after"), SECRETS)
def test_a_secret_becomes_a_mark_of_its_kind_and_the_rest_stays(kind, before, secret, after):
    found, counts = redact(before + secret + after)
    assert found == f"{before}[REDACTED-{kind}]{after}"
    assert counts == Counter({kind: 1})


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    assert redact(text) == (text, Counter())


@pytest.mark.parametrize("folder", ["replica", "transport", "cli", "docs"])
def test_our_own_code_and_pages_hold_nothing_that_is_taken_for_a_secret(folder):
    own = Path(secrets.__file__)  # shows what some look like
    files = [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".md") and file != own]
    texts = {file.name: file.read_text("utf-8") for file in files}
    assert texts and {name for name, text in texts.items() if redact(text)[0] != text} == set()


def test_an_aws_secret_is_known_by_the_id_beside_it():
    secret = "wJalrXUtnFEMI/K7MDENG/" + made_up(18)
    text = "AKIA" + made_up(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") + " " + secret
    assert redact(text)[0] == "[REDACTED-AWS-KEY] [REDACTED-AWS-SECRET]"
    commit = made_up(40, HEX)
    assert commit in redact(text + " " + commit)[0]
    assert redact(secret)[0] == secret  # alone it could be anything


def test_many_in_one_text_are_counted_by_kind():
    text = " ".join(["ghp_" + made_up(36, seed=1), "and", "ghp_" + made_up(36, seed=2), "password=hunter2"])
    found, counts = redact(text)
    assert found == "[REDACTED-GITHUB-TOKEN] and [REDACTED-GITHUB-TOKEN] password=[REDACTED-PASSWORD]"
    assert counts == Counter({"GITHUB-TOKEN": 2, "PASSWORD": 1})


prose = st.sampled_from(
    ["ok", "the tide", "é\n", "=", ": ", '"', "password", "token", "@", "://", "İ", "\\n", "x" * 30, "-"]
)
pieces = st.one_of(
    prose,
    st.sampled_from(SECRETS).map(lambda one: one[1] + one[2] + one[3]),
    st.sampled_from(SECRETS).map(lambda one: one[2][: len(one[2]) // 2]),
    st.sampled_from(["[REDACTED-PASSWORD]", "[REDACTED-", "]", "[REDACTED-AWS-KEY]"]),
    st.text(max_size=8),
)


@given(st.lists(pieces, max_size=6).map("".join))
@example("password=[REDACTED-PASSWORD]x4x4x4x4")
@example("[REDACTED-" + "ghp_" + made_up(36) + "]")
def test_twice_is_the_same_as_once(text):
    once, counts = redact(text)
    assert redact(once) == (once, Counter())
    assert (once == text) == (not counts)


words = st.lists(st.sampled_from(["the", "tide", "rises", "at", "noon", "a", "maré", "sobe", "às", "doze"]), max_size=8)
words = words.map(" ".join)


@given(words, st.sampled_from([one for one in SECRETS if not one[3].startswith(("\\n", '\\"'))]), words)
def test_words_around_a_secret_stay(left, one, right):
    _, before, secret, after = one
    text = f"{left}\n{before}{secret}{after}\n\n{right}"
    found, _ = redact(text)
    assert secret not in found and found.startswith(left) and found.endswith(right)


def test_of_a_token_no_end_is_left_however_long_it_is():
    for kind, before, secret, _ in SECRETS:
        if kind in ("GITHUB-TOKEN", "SENDGRID-KEY", "DISCORD-TOKEN", "TELEGRAM-TOKEN", "STRIPE-KEY", "SQUARE-KEY"):
            assert redact(before + secret + made_up(30))[0] == f"{before}[REDACTED-{kind}]"


def test_hostile_text_takes_no_long_time():
    for part in (
        "password", "password=", "pass: ", "token ", "-----BEGIN PRIVATE KEY-----", "eyJ", "eyJa.", "AKIA", "sk-", "://a:",
        "_" * 20,
        "a://", "Authorization: ", "curl -u ", "Cookie: a=", "aws key ", "x@y:", "-us1", ":" + "a" * 34, "A" * 40,
        "\\n", "xox",
        "AKIA" + "A" * 16 + " ",
    ):  # fmt: skip
        text = part * (60_000 // len(part))
        start = time.process_time()
        redact(text)
        assert time.process_time() - start < 2, part[:20]


def test_every_rule_of_the_detector_is_used_or_left_out_on_purpose():
    """A new version of it is looked at before it is taken."""
    from detect_secrets import plugins

    left_out = {
        "BasicAuthDetector", "KeywordDetector", "PrivateKeyDetector", "IPPublicDetector", "JwtTokenDetector",
        "IbmCloudIamDetector", "Base64HighEntropyString", "HexHighEntropyString",
    }  # fmt: skip
    there: set[str] = set()
    for module in pkgutil.iter_modules(plugins.__path__):
        found = importlib.import_module(f"detect_secrets.plugins.{module.name}")
        there |= {
            name for name, value in vars(found).items()
            if isinstance(value, type) and value.__module__ == found.__name__ and hasattr(value, "secret_type")
            and isinstance(value.secret_type, str)
        }  # fmt: skip
    used = {one.plugin for one in secrets._DASHED + secrets._PLAIN}
    assert used | left_out == there
    assert not used & left_out


def test_text_without_secrets_does_not_import_the_detector():
    code = (
        "import sys; from replica.sessions.secrets import redact;"
        "redact('The tide rises at noon, see https://example.org/tables and the tokens of the parser.' * 9);"
        "sys.exit('detect_secrets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
