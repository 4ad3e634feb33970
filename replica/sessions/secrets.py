"""Secrets out of text: each becomes `[REDACTED-<KIND>]`, before the text is kept anywhere.

Three sorts of rules: tokens that are known by their form (detect-secrets' rules and ours), values that are known by
their name (`password=…`, `Authorization: …`, `user:password@`), and blocks (PEM). Randomness alone is no reason:
hashes, ids and images are random, too. What was found is counted by kind, and never shown.

Most text holds nothing. So each rule has a door that is cheap to try; behind it stand the exact expressions.
"""

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

_MARK = "[REDACTED-"
_ROUNDS = 20  # one finds nothing new in nearly all texts; two in the others


class Found(NamedTuple):
    """A secret in a text: from `start` up to `end`."""

    start: int
    end: int
    kind: str


class Rule(NamedTuple):
    """`door`: whether it is worth to look at (text, text in lower case). `find`: secrets, not overlapping, in order."""

    door: Callable[[str, str], object]
    find: Callable[[str], Iterator[Found]]


def redact(text: str) -> tuple[str, Counter]:
    """`text` without secrets, and how many of which kind were taken out. Twice is the same as once."""
    counts: Counter = Counter()
    if len(text) < 8:
        return text, counts
    for _ in range(_ROUNDS):  # what was hidden by another secret is found in the next round
        before, low = text, text.lower()
        if not _suspicious(text, low):
            break
        for rule in _rules(_TOKEN_DOOR.search(text) is not None):
            if rule.door(text, low):
                text = _without(text, rule.find(text), counts)
        if text is before:
            break
    return text, counts


# Without one of these no rule finds anything. Searched for one after the other, which is quicker than all at once.
_SIGNS = (
    "key", "token", "pass", "secret", "pwd", "credential", "://", "eyj", "dapi", "eaa", "bearer", "authorization",
    "cookie:", "curl", "kennwort", "contrase", "senha", "wachtwoord",
)  # fmt: skip
_SIGNS_ELSEWHERE = ("hasło", "пароль", "密码", "密碼", "パスワード")


def _suspicious(text: str, low: str) -> bool:
    for sign in _SIGNS:
        if sign in low:
            return True
    if not low.isascii() and any(sign in low for sign in _SIGNS_ELSEWHERE):
        return True
    return bool(_TOKEN_DOOR.search(text)) or any(search(text) for search in _SIGN_SEARCHES)


def _without(text: str, found: Iterator[Found], counts: Counter) -> str:
    """`text` with marks in place of what was found. Returns `text` itself where nothing was."""
    parts, at = [], 0
    for start, end, kind in found:
        if start < at or _MARK in text[start:end]:
            continue  # of something that is replaced already no half may remain
        parts += text[at:start], f"{_MARK}{kind}]"
        counts[kind] += 1
        at = end
    return "".join([*parts, text[at:]]) if parts else text


@cache
def _rules(dashed: bool) -> tuple[Rule, ...]:
    """In this order: what holds others first, what knows the kind before what only knows a name.

    `dashed`: whether the text holds what nearly all tokens have in them.
    """
    return (
        Rule(lambda text, low: "PRIVATE KEY" in text, _private_keys),
        Rule(lambda text, low: "://" in text and "@" in text, _in_urls),
        Rule(lambda text, low: dashed or any(name in text for name in _JOINED), _tokens),
        *([_by_detectors(_DASHED)] if dashed else []),
        _by_detectors(_PLAIN),
        Rule(lambda text, low: "AKIA" in text or "ASIA" in text or "[REDACTED-AWS-KEY]" in text, _aws_secrets),
        Rule(lambda text, low: "authorization" in low or "bearer" in low, _authorizations),
        Rule(lambda text, low: "cookie:" in low, _cookies),
        Rule(_names_in, _named),
        Rule(lambda text, low: "sig=" in low or "signature=" in low, _signatures),
        Rule(lambda text, low: "curl" in low or "sshpass" in low, _arguments),
    )


# --- blocks

_PEM_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_LINE = re.compile(r"[A-Za-z0-9+/]{16}")
_PEM_MOST = 20_000  # characters of one block
# Of a block that was cut off: lines of base64, or of headers, behind breaks that may be escaped once or more often.
_PEM_REST = re.compile(
    r"(?:(?:\\+[nr]|[\s>|])+(?:[A-Za-z0-9+/=]{16,}|(?:Proc-Type|DEK-Info|Version|Comment):[^\\\n]{0,100}))+"
    r"(?:(?:\\+[nr]|\s)+[A-Za-z0-9+/]{1,15}={0,2}(?![\w ]))?"
)


def _private_keys(text: str) -> Iterator[Found]:
    at = 0
    while begin := _PEM_BEGIN.search(text, at):
        at = begin.end()
        ending = _PEM_END.search(text, at, at + _PEM_MOST)
        another = _PEM_BEGIN.search(text, at, ending.end() if ending else at)
        if ending and not another:
            if _PEM_LINE.search(text, at, ending.start()):  # else it is about keys, and none
                yield Found(begin.start(), ending.end(), "PRIVATE-KEY")
                at = ending.end()
        elif (rest := _PEM_REST.match(text, at)) and _PEM_LINE.search(rest[0]):
            yield Found(begin.start(), rest.end(), "PRIVATE-KEY")
            at = rest.end()


# --- tokens that tell by their form

# Of nearly all, the beginning ends with one of these three, and a long rest follows.
_TOKEN_DOOR = re.compile(r"[_.\-][A-Za-z0-9_\-]{16}")
_JOINED = ("AIza", "ATATT", "AGE-SECRET", "dapi", "EAA", "eyJ")  # of the others
_DIGIT = r"(?=[\w.+/=-]{0,200}\d)"  # what has no digit is rather a name in some program

_TOKENS = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    + "|".join(
        f"(?P<{kind}>{form})"
        for kind, form in (
            ("ANTHROPIC_KEY", r"sk-ant-[\w-]{16,}"),
            ("OPENROUTER_KEY", r"sk-or-v1-[\w-]{16,}"),
            ("OPENAI_KEY", rf"sk-(?:proj-|svcacct-|admin-)?{_DIGIT}[\w-]{{20,}}"),
            ("GITHUB_TOKEN", r"github_pat_\w{22,}|gh[pousr]_[A-Za-z0-9]{30,}"),
            ("GITLAB_TOKEN", rf"gl(?:pat|oas|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct)-{_DIGIT}[\w-]{{20,}}"),
            ("GOOGLE_KEY", r"AIza[\w-]{35,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}"),
            ("SLACK_TOKEN", rf"xox[a-z]-{_DIGIT}[\w-]{{10,}}|xapp-\d-{_DIGIT}[\w-]{{10,}}|xoxe\.xox[bp]-[\w-]{{10,}}"),
            ("STRIPE_KEY", rf"[rs]k_(?:live|test)_{_DIGIT}[A-Za-z0-9]{{16,}}|whsec_{_DIGIT}[A-Za-z0-9+/=]{{24,}}"),
            ("NPM_TOKEN", r"npm_[A-Za-z0-9]{30,}"),
            ("PYPI_TOKEN", r"pypi-A[\w-]{30,}"),
            ("HUGGINGFACE_TOKEN", r"(?:hf|api_org)_[A-Za-z0-9]{30,}"),
            ("JWT", r"eyJ[\w-]{10,}={0,2}\.[\w-]{10,}={0,2}(?:\.[\w-]*={0,2})?"),
            ("AGE_KEY", r"AGE-SECRET-KEY-1[0-9A-Z]{30,}"),
            ("ATLASSIAN_TOKEN", r"ATATT3[\w=-]{50,}"),
            ("VAULT_TOKEN", rf"hv[sbr]\.{_DIGIT}[\w-]{{24,}}"),
            ("DATABRICKS_TOKEN", r"dapi[0-9a-f]{32}(?:-\d)?"),
            ("DIGITALOCEAN_TOKEN", r"do[opr]_v1_[0-9a-f]{40,}"),
            ("SHOPIFY_TOKEN", r"shp(?:at|ss|ca|pa)_[0-9a-fA-F]{32,}"),
            ("SENTRY_TOKEN", r"sntry[su]_[\w+/=-]{40,}"),
            ("SUPABASE_KEY", rf"sbp_[0-9a-f]{{40,}}|sb_secret_{_DIGIT}[\w-]{{20,}}"),
            ("TAILSCALE_KEY", rf"tskey-[a-z]{{2,12}}-{_DIGIT}[\w-]{{16,}}"),
            ("DOCKER_TOKEN", rf"dckr_[op]at_{_DIGIT}[\w-]{{20,}}"),
            ("GRAFANA_TOKEN", rf"gl(?:sa|c)_{_DIGIT}[\w+/=]{{32,}}"),
            ("NEWRELIC_KEY", r"NRAK-[A-Z0-9]{27,}"),
            ("POSTMAN_KEY", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
            ("RUBYGEMS_KEY", r"rubygems_[0-9a-f]{48}"),
            ("DOPPLER_TOKEN", r"dp\.[a-z]{2,5}\.[A-Za-z0-9]{40,}"),
            ("FACEBOOK_TOKEN", r"EAA[A-Za-z0-9]{60,}"),
            ("MAILGUN_KEY", r"key-[0-9a-f]{32}"),
            # What services for models and memory have agreed on: some letters, a break, a long rest.
            ("API_KEY", rf"(?:gsk_|xai-|pplx-|r8_|ntn_|pcsk_|tvly-|fw_|m0-|lin_api_|lsv2_[ps][tk]_|figd_|fc-|jina_|"
                        rf"nvapi-|sm_|e2b_|exa_|vck_|secret_|csk-|co_api_){_DIGIT}(?=\w*[A-Za-z])[A-Za-z0-9][\w-]{{27,}}"),
        )
    )
    + ")"
)  # fmt: skip


_TOKEN_REST = re.compile(r"[\w+/=.\-]*")
_LONGEST_BEGINNING = 24  # characters of a token up to its last `_`, `.` or `-` before the long rest


def _tokens(text: str) -> Iterator[Found]:
    done = 0
    for start in sorted(_places(text)):
        if start < done:
            continue
        done = _TOKEN_REST.match(text, start + 1).end()
        for match in _TOKENS.finditer(text, max(0, start - _LONGEST_BEGINNING), done):
            if not _same_throughout(match[0]):
                yield Found(*match.span(), match.lastgroup.replace("_", "-"))


def _places(text: str) -> Iterator[int]:
    """Where tokens may be: only there is the long expression tried."""
    yield from (match.start() for match in _TOKEN_DOOR.finditer(text))
    for name in _JOINED:
        at = text.find(name)
        while at >= 0:
            yield at
            at = text.find(name, at + 1)


def _same_throughout(token: str) -> bool:
    """`sk-ant-xxxxxxxxxxxxxxxxxxxx`: somebody has crossed it out already, or shows what one looks like."""
    beginning = token.rstrip(token[-1])
    return token[-1] in "xX*._-" and len(beginning) <= 16 <= len(token) - len(beginning)


# --- tokens by detect-secrets


class _Detector(NamedTuple):
    """One of its plugins, and what we call what it finds. `group`: what is secret in a match of its expressions.

    A text must hold one of `names`, in any case, or what `form` says.
    """

    module: str
    plugin: str
    kind: str
    names: tuple[str, ...] = ()
    form: str = ""
    group: int = 0


# Not among them: what tells by randomness (Base64HighEntropyString, HexHighEntropyString), by a word nearby
# (KeywordDetector, and IbmCloudIamDetector, for which that is any `key`) or is no secret (IPPublicDetector), and where
# ours take more: the whole block (PrivateKeyDetector), the signature too (JwtTokenDetector), no placeholder
# (BasicAuthDetector).
_DASHED = (
    _Detector("discord", "DiscordBotTokenDetector", "DISCORD-TOKEN", form=r"\.[\w-]{6}\.[\w-]{27}"),
    _Detector("github_token", "GitHubTokenDetector", "GITHUB-TOKEN", form="gh[pousr]_"),
    _Detector("gitlab_token", "GitLabTokenDetector", "GITLAB-TOKEN", form="gl[a-z]{2,5}-"),
    _Detector("openai", "OpenAIDetector", "OPENAI-KEY", form="T3BlbkFJ"),
    _Detector("pypi_token", "PypiTokenDetector", "PYPI-TOKEN", form="pypi-A"),
    _Detector("sendgrid", "SendGridDetector", "SENDGRID-KEY", form=r"SG\."),
    _Detector("slack", "SlackDetector", "SLACK-TOKEN", ("xox",)),
    _Detector("square_oauth", "SquareOAuthDetector", "SQUARE-KEY", form="sq0csp-"),
    _Detector("stripe", "StripeDetector", "STRIPE-KEY", form="k_live_"),
)
_PLAIN = (
    _Detector("artifactory", "ArtifactoryDetector", "ARTIFACTORY-KEY", form=r"A(?:KC|P[\dA-F])[a-zA-Z0-9]{8}"),
    _Detector("aws", "AWSKeyDetector", "AWS-KEY", ("aws",), r"A(?:KIA|SIA|BIA|CCA|3T)[A-Z0-9]{16}"),
    _Detector("azure_storage_key", "AzureStorageKeyDetector", "AZURE-KEY", ("accountkey=",)),
    _Detector("cloudant", "CloudantDetector", "CLOUDANT-KEY", ("cloudant",), group=1),
    _Detector("gitlab_token", "GitLabTokenDetector", "GITLAB-TOKEN", ("gr1348941",)),  # where it is called a token
    _Detector("ibm_cos_hmac", "IbmCosHmacDetector", "IBM-KEY", ("cos_hmac", "cos_secret"), group=1),
    _Detector("mailchimp", "MailchimpDetector", "MAILCHIMP-KEY", form=r"-us\d"),
    _Detector("npm", "NpmDetector", "NPM-TOKEN", ("_authtoken=",), group=1),
    _Detector("slack", "SlackDetector", "SLACK-TOKEN", ("hooks.slack",)),
    _Detector("softlayer", "SoftlayerDetector", "SOFTLAYER-KEY", ("softlayer",), group=1),
    _Detector("telegram_token", "TelegramBotTokenDetector", "TELEGRAM-TOKEN", form=r":[\w-]{35}"),
    _Detector("twilio", "TwilioKeyDetector", "TWILIO-KEY", form="SK[a-f0-9]{32}"),
    _Detector("twilio", "TwilioKeyDetector", "TWILIO-KEY", form="AC[a-f0-9]{32}"),
)


@cache
def _expressions(detector: _Detector) -> tuple[re.Pattern, ...]:
    """What the plugin looks for. Imported when a text first needs it: that takes 0.15 s."""
    module = importlib.import_module(f"detect_secrets.plugins.{detector.module}")
    return tuple(getattr(module, detector.plugin).denylist)


def _by_detectors(detectors: tuple[_Detector, ...]) -> Rule:
    # One after the other is quicker than all in one expression: each has a beginning that is searched for as a whole.
    names = [(name, one) for one in detectors for name in one.names]
    forms = [(re.compile(one.form).search, one) for one in detectors if one.form]

    def opened(text: str, low: str) -> list[_Detector]:
        found = [one for name, one in names if name in low]
        return found + [one for search, one in forms if search(text)]

    def find(text: str) -> list[Found]:
        found = [hit for one in dict.fromkeys(opened(text, text.lower())) for hit in _found_by(one, text)]
        return sorted(found, key=lambda hit: (hit.start, -hit.end))

    return Rule(opened, find)


def _found_by(detector: _Detector, text: str) -> Iterator[Found]:
    for expression in _expressions(detector):
        for match in expression.finditer(text):
            group = detector.group if detector.group <= expression.groups else 0
            if group == 0 and expression.groups == 1 and match[1] and len(match[1]) > 30:
                group = 1  # the name stands before it
            start, end = match.span(group)
            while start < end and text[start] in " \t\r\n\"'=:":
                start += 1  # some take along what stands around
            while start < end and text[end - 1] in " \t\r\n\"'":
                end -= 1
            inside = start and text[start - 1].isalnum() and text[start].isalnum()
            if inside and not text.endswith("/bot", 0, start):  # as in the addresses of Telegram
                continue  # in the middle of a word, of an image for example
            while end < len(text) and (text[end] in "_-" or (text[end].isascii() and text[end].isalnum())):
                end += 1  # the expressions end where the shortest of the kind ends
            if any(map(str.isdigit, text[start:end])) and not _same_throughout(text[start:end]):
                yield Found(start, end, detector.kind)


_SIGN_SEARCHES = (
    re.compile(r"A(?:K|Iza|TATT|P[\dA-F]|SIA|BIA|CCA|3T|C[a-f0-9]{32})").search,
    re.compile("SK[a-f0-9]{32}").search,
    re.compile(r":[\w-]{35}").search,
    re.compile(r"-us\d").search,
)

# --- beside another secret

_AWS_ID = re.compile(r"A(?:KIA|SIA)[A-Z0-9]{16}|\[REDACTED-AWS-KEY\]")
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")
_NEARBY = 400  # characters


def _aws_secrets(text: str) -> Iterator[Found]:
    ids = [match.span() for match in _AWS_ID.finditer(text)]
    for match in _AWS_SECRET.finditer(text):
        if any(start - _NEARBY < match.start() < end + _NEARBY for start, end in ids) and _mixed(match[0]):
            yield Found(*match.span(), "AWS-SECRET")


def _mixed(value: str) -> bool:
    return bool(re.search("[a-z]", value) and re.search("[A-Z]", value) and re.search(r"\d", value))


# --- in addresses, headers, arguments

_IN_URL = re.compile(
    r"""[a-zA-Z][a-zA-Z0-9+.\-]{1,20}://[^\s/:@"'`<>\[\]]{0,100}:([^\s/"'`<>]{1,300})@(?=[\w\[%$*.-])"""
)
_PLACEHOLDER = re.compile(
    r"(?i)[$%{<*x.…]|&\w*[#;]|(?:your|my|the|some|an?)[_ -]|(?:example|change[_-]?me|placeholder|dummy|redacted|secret|"
    r"pass|passwd|password|passphrase|pwd|pw|token|key|api[_-]?key|null|none|nil|undefined|true|false|todo|empty|unset|hidden|"
    r"required|optional|string|str|bytes|bool|boolean|number|text|any|object|missing|invalid|wrong|here|value)\W*$"
)


def _in_urls(text: str) -> Iterator[Found]:
    for match in _IN_URL.finditer(text):
        if not _PLACEHOLDER.match(match[1]):
            yield Found(*match.span(1), "PASSWORD")


_AUTHORIZATION = re.compile(
    r"""(?i)\bauthorization["'\\\]]{0,4}[ \t]{0,4}[:=][ \t]{0,4}["'\\`]{0,3}"""
    r"""(?:(bearer|basic|token|apikey|api-key|digest|negotiate)[ \t]+)?([A-Za-z0-9._~+/=:\-]{8,})"""
    r"""|\bbearer[ \t]+([A-Za-z0-9._~+/=\-]{16,})"""
)


def _authorizations(text: str) -> Iterator[Found]:
    for match in _AUTHORIZATION.finditer(text):
        scheme, value, group = (match[1], match[2], 2) if match[2] else ("bearer", match[3], 3)
        told = scheme and len(re.findall(r"\d", value)) >= 3
        if (told or _random(value)) and not _same_throughout(value):
            yield Found(*match.span(group), "AUTHORIZATION")


_COOKIE = re.compile(r"""(?i)\b(?:set-)?cookie:[ \t]*([^\s=;"']{1,100}=[^\r\n"'`]{1,4000})""")


def _cookies(text: str) -> Iterator[Found]:
    for match in _COOKIE.finditer(text):
        if any(_random(part) and len(part) >= 16 for part in re.split(r"[=;\s]", match[1])):
            yield Found(match.start(1), match.start(1) + len(match[1].rstrip()), "COOKIE")


_SIGNATURE = re.compile(r"(?i)[?&;](?:sig|x-amz-signature|x-goog-signature|signature)=([\w%+/=.~-]{30,})")


def _signatures(text: str) -> Iterator[Found]:
    for match in _SIGNATURE.finditer(text):
        yield Found(*match.span(1), "SIGNATURE")


_ARGUMENT = re.compile(
    r"""\bcurl\b[^\n]{0,300}?[ \t](?:-u|--user|--proxy-user)[ \t=]?["']?[^\s:"'/]{1,100}:([^\s"']{3,200})"""
    r"""|\bsshpass[ \t]+-p[ \t]?["']?([^\s"']{3,200})"""
)


def _arguments(text: str) -> Iterator[Found]:
    for match in _ARGUMENT.finditer(text):
        group = 1 if match[1] else 2
        if not _PLACEHOLDER.match(match[group]):
            yield Found(*match.span(group), "PASSWORD")


# --- by the name before it

# Parts of names, in lower case, as they stand in configurations and in talk. Each begins with a letter that is in none
# of the others, as far as it goes: so the search is quick.
_NAME = re.compile(
    r"pass(?:word|wd|phrase|code|wort|e)?|pwd|secret|token|key|credentials?|kennwort|contrase(?:ñ|n)a|senha|wachtwoord|hasło|"
    r"пароль|密码|密碼|パスワード"
)
_NAMES = (
    "pass", "pwd", "secret", "token", "key", "credential", "kennwort", "contrase", "senha", "wachtwoord", "hasło",
    "пароль", "密码", "密碼", "パスワード",
)  # fmt: skip
_NAMES_ASCII = tuple(name for name in _NAMES if name.isascii())
_SECRETS = ("secret", "token", "credential", "credentials")
_KEYS = tuple(
    kind + between
    for kind in (
        "api", "access", "secret", "private", "encryption", "signing", "auth", "account", "master", "service", "client",
        "storage", "admin", "license", "subscription",
    )
    for between in ("", "_", "-", " ")
)  # fmt: skip
_SHORT = ("pass", "passe", "pwd", "senha")  # also parts of other words
# What follows the name: the rest of it, quotes, a sign that gives a value, the value.
_REST = r"""(?P<rest>[A-Za-z0-9_.\-]{0,30}?)(?P<close>["'`\\\]*]{0,4})"""
_VALUE = r"""(?P<open>\\?["'`]|@")?(?P<value>[^\s"'`<>]{4,512})"""
_GIVEN = re.compile(rf"{_REST}(?P<sign>[ \t]{{0,4}}(?:=>|:=|===?|!==?|=|:|：)[ \t*]{{0,4}}|>(?=[^\s<])){_VALUE}")
_SAID = re.compile(rf"{_REST}(?P<sign>[ \t]+(?:is|was|ist|lautet|war|es|est|è|é)[ \t:]+){_VALUE}")
_ARGUED = re.compile(rf"{_REST}(?P<sign>[ \t]+){_VALUE}")
# Names that end so are about a secret, and hold none.
_ABOUT = re.compile(
    r"(?i)(?:^s\b|s?[_.-]?(?:count|counts|limit|limits|budget|usage|used|type|types|name|names|len|length|size|file|path|dir|url|uri|"
    r"endpoint|field|policy|policies|ttl|age|expiry|expires|expires[_-]?(?:in|at)|expiration|prompt|required|env|manager|store|"
    r"provider|reset|changed|rotation|version|format|regex|pattern|ring|words?|holder|input|label|hint|min|max|per[_-]?\w+|time|times|at|on|"
    r"s))$|^(?:s|less|ize|izer|ized|ization|board|ish)\b"
)
_CODE = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|->|::)[A-Za-z_$][\w$]*)*(?:[(\[{].*)?[;,)\]}]*$")  # os.environ, get_key(…
# A call, an index, an attribute, a name of the environment, a pattern.
_CODE_ALONE = re.compile(
    r"[A-Za-z_$][\w$.:>-]*[(\[]|[(\[]|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\W*$|(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*\W*$"
)
_ALGORITHM = re.compile(
    r"(?i)(?:base|sha|md|aes|utf|rsa|ed|x|ecdsa|hs|rs|es|ps|hmac|oauth|jwt|argon|bcrypt|scrypt|pbkdf|blake|uuid|v|tls|ssl|p|"
    r"curve|chacha|latin|iso|rfc|python|py|node)-?v?\d+(?:[\w.-]*)$"
)
_PATH = re.compile(r"(?:~|\.{1,2}|[A-Za-z]:)?[/\\]|[\w.-]+/[\w./-]*$|\w+://")
_MEASURE = re.compile(r"\d+-?[a-z]+\b")  # 8-character, 12characters
_QUOTES = {'"': '"', "'": "'", "`": "`", '\\"': "\\", "\\'": "\\", '@"': '"'}


def _names_in(text: str, low: str) -> bool:
    return any(name in low for name in (_NAMES_ASCII if low.isascii() else _NAMES))


def _named(text: str) -> Iterator[Found]:
    low = text.lower()
    if len(low) != len(text):  # some letters become two: the places would not be the same
        low = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    for name in _NAME.finditer(low):
        if not _means_a_secret(name, low):
            continue
        password = name[0] not in _SECRETS and name[0] != "key"
        given = _GIVEN.match(text, name.end())
        if not given and password:
            given = _SAID.match(text, name.end())
        if not given and _OPTION.search(text, max(0, name.start() - 30), name.start()):
            given = _ARGUED.match(text, name.end())
        if given and not _ABOUT.search(given["rest"]) and (value := _value(text, name, given, password)):
            start = given.start("value")
            yield Found(start, start + len(value), "PASSWORD" if password else "SECRET")


_OPTION = re.compile(r"(?<!\S)--?[\w-]*$")


def _means_a_secret(name: re.Match, low: str) -> bool:
    start, end = name.span()
    if name[0] == "key":
        return low.endswith(_KEYS, 0, start)
    if low.endswith(("public", "public_", "public-", "publickey"), 0, start):
        return False
    if name[0] in _SHORT:
        if name[0] == "passe":
            return low.endswith(("mot de ", "mot_de_"), 0, start)
        alone = not start or not low[start - 1].isalnum()
        return alone and (name[0] != "pass" or low[end : end + 1] in ("", "=", ":", '"', "'", " ", "_", "\\"))
    return True


def _value(text: str, name: re.Match, given: re.Match, password: bool) -> str:
    """What is given to the name, if it is rather a secret than a word, code, a path, a number; else ""."""
    sign, opened = given["sign"].strip(), given["open"] or ""
    value = given["value"]
    ends = _QUOTES[opened][:1] if opened else ""
    if opened and not value.endswith("\\") and text[given.end() : given.end() + 1] not in ("", ends):
        return ""  # several words in quotes: something that is said to people
    value = value.rstrip("\\") if opened.startswith("\\") else value
    if not opened:
        value = re.split(r"[&;,](?=[\w-]*[=\s]|$)|\\[nrt]", value)[0].rstrip(",;.)]}|*")
    word = value.strip(".,;:!?*()[]{}")
    if len(word) < (4 if password else 8) or _PLACEHOLDER.match(value) or _same(word) or value.startswith(_MARK):
        return ""
    if not opened and _CODE_ALONE.match(value):
        return ""
    if _AWS_SECRET.fullmatch(value) and _mixed(value):
        return value
    if _ALGORITHM.match(word) or _PATH.match(value) or not word.isascii():
        return ""
    digits, letters = bool(re.search(r"\d", word)), bool(re.search("[A-Za-z]", word))
    marks = bool(re.search(r"[!@#$%^&*?~+=]", word))
    if sign in ("", ">") or sign.isalpha() or sign.rstrip(":").isalpha():
        return value if _said(text, name, given, sign, (digits and letters) or marks, password) else ""
    if given["sign"] == ":" and not opened and not password and not _random(word):
        return ""  # a part of a longer name, as in arn:aws:secretsmanager:…:secret:…
    code = not opened and bool(_CODE.match(value))
    if digits and letters:
        if code and not (_random(word) and len(re.findall(r"\d", word)) > 2):
            return value if password and "(" not in value and "." not in value and "_" not in value else ""
        return value if (password and len(word) >= 6) or len(word) >= (12 if sign == ":" and not opened else 8) else ""
    if re.fullmatch(r"\d+(?:\.\d+)+", word):
        return ""  # a version, an address, a time
    if not letters:  # numbers: of tokens they are counts
        return value if password and len(word) >= 6 and ("=" in sign or opened) and not _date(word) else ""
    if marks and password:
        return value if len(word) >= 6 and not code else ""
    # Letters alone: a word, unless it is given in the way that configurations are written.
    if code and not value.isalpha():
        return ""
    if not password or name[0] == "pass" or len(word) < 6 or ("-" in word and opened == "") or "_" in word:
        return (_random(word) and value) or ""
    return value if _configured(text, name, given, sign, opened) else ""


def _said(text: str, name: re.Match, given: re.Match, sign: str, mixed: bool, password: bool) -> bool:
    """Where no sign gives it: `--token abc123`, `<password>…</password>`, `the password is abc123`."""
    before = text[max(0, name.start() - 30) : name.start()]
    if sign == ">":
        ends = text.startswith("</", given.end())
        return ends and bool(re.search(r"<[\w:.-]*$", before)) and (mixed or password)
    if sign == "":
        return bool(re.search(r"(?:^|\s)--?[\w-]*$", before)) and (mixed or _random(given["value"]))
    return (password and mixed and not _MEASURE.match(given["value"])) or _random(given["value"])


def _configured(text: str, name: re.Match, given: re.Match, sign: str, opened: str) -> bool:
    """Whether letters are given to a name as in `DB_PASSWORD=letters`, `"password": "letters"`, `?password=letters`."""
    before = text[max(0, name.start() - 30) : name.start()]
    if re.search(r"[(,]\s*[\w]*$", before) and not opened:
        return False  # an argument: another name stands there
    if opened:
        return "=" in sign or bool(given["close"])
    return "=" in sign and not given["sign"].endswith((" ", "\t")) and not given["sign"].startswith((" ", "\t"))


def _random(value: str) -> bool:
    """Whether no word looks like that: long, of letters and digits that change often."""
    core = re.sub(r"[^A-Za-z0-9]", "", value)
    if len(core) < 12 or not re.search(r"\d", core) or not re.search("[A-Za-z]", core):
        return len(core) >= 20 and len(re.findall("[a-z][A-Z]|[A-Z][a-z]", core)) * 3 > len(core)
    return len(re.findall(r"[A-Za-z]\d|\d[A-Za-z]|[a-z][A-Z]", core)) >= 3 or len(core) >= 24


def _same(word: str) -> bool:
    return len(set(word)) <= 2


def _date(word: str) -> bool:
    return bool(re.match(r"(?:19|20)\d\d[-./]?[01]\d|[\d:]+$(?<=:\d\d)", word))
