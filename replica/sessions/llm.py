"""A language model, asked one question at a time: Anthropic's Messages API, or any service that speaks OpenAI's.

The key goes to where the person who runs the command sends it: by a variable or an option, never by a file that other
members can change. Nothing is followed elsewhere, nothing waits without a bound, and no error shows the key.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from replica.errors import ReplicaError

ANTHROPIC_KEY, ANTHROPIC_URL = "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"
OPENAI_KEY, OPENAI_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
ANTHROPIC, OPENAI = "https://api.anthropic.com", "https://api.openai.com/v1"
ANTHROPIC_MODEL, OPENAI_MODEL = "claude-sonnet-5-5", "gpt-5-mini"  # where none is named
TRIES = 5
FIRST_PAUSE = 1.0  # seconds before the second try; doubled before each further one
LONGEST_PAUSE = 60.0  # seconds; who asks for more is not waited for
TIMEOUT = 180.0  # seconds for one answer
AGAIN = frozenset({408, 409, 425, 429})  # and all from 500: the same again after a pause


class Said(NamedTuple):
    """An answer. `ended`: "whole", "cut" (it was longer than it may be) or "refused"."""

    text: str
    ended: str = "whole"


class ModelFailed(ReplicaError):
    """No answer that is of use. `again`: there may be one after a pause; `after`: seconds that the service asks for."""

    def __init__(self, message: str, *, hint: str, again: bool = False, after: float | None = None):
        super().__init__(message, hint=hint)
        self.again, self.after = again, after


class Model(Protocol):
    """`name`: for people. `where`: the host that gets what is asked."""

    name: str
    where: str

    def ask(self, system: str, words: str, tokens: int) -> Said:
        """One try. `tokens`: the most that the answer may have. Raises ModelFailed."""


# --- which one


_NAMED = re.compile(r"(?:(?P<kind>anthropic|openai):)?(?P<model>[^\s@]\S*?)(?:@(?P<url>https?://\S+))?", re.IGNORECASE)


def model_of(named: str | None, env: Mapping[str, str], timeout: float = TIMEOUT) -> Model:
    """The model that `named` means: `anthropic:MODEL`, `openai:MODEL`, either with `@URL`, or a bare name.

    Without one, the service whose key is set. Raises ModelFailed: none is set up, and which variable would do it.
    """
    found = _NAMED.fullmatch(named.strip()) if named is not None else None
    if named is not None and found is None:
        raise ModelFailed(
            f"{named!r} names no model", hint="write anthropic:MODEL or openai:MODEL, with @https://HOST if need be"
        )
    model, url = (found["model"], found["url"]) if found else (None, None)
    kind = (found["kind"] or "").lower() if found else ""
    kind = kind or _kind_by_name(model) or _kind_by_key(env)
    if kind == "anthropic":
        return Anthropic(model or ANTHROPIC_MODEL, url or _set(env, ANTHROPIC_URL) or ANTHROPIC, env, timeout)
    if kind == "openai":
        url = url or _set(env, OPENAI_URL)
        if model is None and url is not None:
            raise ModelFailed(f"which model of {OPENAI_URL} is not said", hint="give --model openai:MODEL")
        return OpenAI(model or OPENAI_MODEL, url or OPENAI, env, timeout)
    raise ModelFailed(
        "a summary needs a language model, and no key for one is set",
        hint=f"set {ANTHROPIC_KEY} or {OPENAI_KEY} (for a server of your own: {OPENAI_URL} and --model openai:MODEL)",
    )


def _kind_by_name(model: str | None) -> str:
    return "anthropic" if model and model.lower().startswith("claude") else "openai" if model else ""


def _kind_by_key(env: Mapping[str, str]) -> str:
    if _set(env, ANTHROPIC_KEY):
        return "anthropic"
    return "openai" if _set(env, OPENAI_KEY) or _set(env, OPENAI_URL) else ""


def _set(env: Mapping[str, str], name: str) -> str | None:
    return env.get(name, "").strip() or None


# --- trying again


def ask(model: Model, system: str, words: str, tokens: int, pause: Callable[[float], Any] = time.sleep) -> Said:
    """An answer, tried again where that can help. Raises ModelFailed."""
    for left in range(TRIES - 1, -1, -1):
        try:
            return model.ask(system, words, tokens)
        except ModelFailed as error:
            if not error.again or not left:
                raise
            if error.after is not None and error.after > LONGEST_PAUSE:
                error.hint = f"it asks to wait {error.after:,.0f} seconds: run it again then"
                raise
            usual = FIRST_PAUSE * 2 ** (TRIES - 1 - left)
            pause(usual if error.after is None else max(error.after, 0.1))
    raise AssertionError("the last try returns or raises")


# --- Anthropic, by its SDK


class Anthropic:
    """The SDK's retries, redirects, tracing and ways to find other credentials are off."""

    def __init__(self, model: str, url: str, env: Mapping[str, str], timeout: float):
        self.name, self._timeout = model, timeout
        self._url = _checked(url, "Anthropic")
        self.where = urlsplit(self._url).hostname or ""
        self._key = _set(env, ANTHROPIC_KEY)
        if self._key is None:
            raise ModelFailed(f"the model {model} needs a key, and there is none", hint=f"set {ANTHROPIC_KEY}")
        self._client: Any = None

    def _sdk(self) -> Any:
        try:
            import anthropic
        except ImportError:
            raise ModelFailed(
                "Anthropic's SDK is not installed",
                hint="pip install 'memory-replica[anthropic]', or use --model openai:MODEL",
            ) from None
        if self._client is None:
            from replica.cloud.http import is_here

            self._client = anthropic.Anthropic(
                api_key=self._key, base_url=self._url, max_retries=0, timeout=self._timeout, open_telemetry=False,
                http_client=anthropic.DefaultHttpxClient(
                    follow_redirects=False, trust_env=not is_here(self.where), timeout=self._timeout
                ),
            )  # fmt: skip
        return anthropic

    def ask(self, system: str, words: str, tokens: int) -> Said:
        sdk = self._sdk()
        try:
            answer = self._client.messages.create(
                model=self.name, max_tokens=tokens, system=system, messages=[{"role": "user", "content": words}],
                extra_headers=dict.fromkeys(_ABOUT_US, sdk.Omit()),
            )  # fmt: skip
        except sdk.APIStatusError as error:
            raise self._refused(error) from None
        except sdk.APIConnectionError as error:
            why = "gave no answer in time" if isinstance(error, sdk.APITimeoutError) else "cannot be reached"
            raise ModelFailed(f"{self.where} {why}", hint=_NETWORK, again=True) from None
        except (sdk.AnthropicError, ValueError, TypeError) as error:
            raise ModelFailed(f"{self.where} answers with what is no answer ({type(error).__name__})", hint=_NETWORK,
                              again=True) from None  # fmt: skip
        return self._said(answer)

    def _said(self, answer: Any) -> Said:
        blocks = getattr(answer, "content", None)
        if not isinstance(blocks, list):
            raise ModelFailed(f"{self.where} answers with what is no answer", hint=_NETWORK, again=True)
        texts = [block.text for block in blocks if getattr(block, "type", "") == "text" and isinstance(block.text, str)]
        ended = getattr(answer, "stop_reason", None)
        if ended == "refusal":
            return Said("", "refused")
        return Said("".join(texts), "cut" if ended in ("max_tokens", "model_context_window_exceeded") else "whole")

    def _refused(self, error: Any) -> ModelFailed:
        from replica.cloud.http import Answer, retry_after, said_in

        status, headers = error.status_code, {k.lower(): v for k, v in error.response.headers.items()}
        said = said_in(Answer(status, headers, error.body if isinstance(error.body, dict) else None, ""), self._key)
        return _failed(self.name, self.where, status, said, retry_after(headers), ANTHROPIC_KEY)


# What the SDK tells of the machine that it runs on.
_ABOUT_US = tuple(
    f"X-Stainless-{what}" for what in ("Lang", "OS", "Arch", "Runtime", "Runtime-Version", "Package-Version", "Async")
)
_NETWORK = "check the network and the service's address, then run it again"


def _failed(name: str, where: str, status: int | None, said: str, after: float | None, key: str) -> ModelFailed:
    message = f"{where} answers {status}" + (f": {said}" if said else "")
    again = status is not None and (status in AGAIN or status >= 500) and "quota" not in said.lower()
    if status in (401, 403):
        hint = f"check {key}"
    elif status == 404:
        hint = f"check the model's name ({name}) and the service's address"
    elif status in (400, 413, 422):
        hint = f"see what the service says of it; --model names another model than {name}"
    else:
        hint = "run it again later" if again else "see the service's plan and usage"
    return ModelFailed(message, hint=hint, again=again, after=after)


# --- OpenAI, and all that speak as it does


class OpenAI:
    """`POST /chat/completions`. A server on this machine needs no key."""

    def __init__(self, model: str, url: str, env: Mapping[str, str], timeout: float):
        from replica.cloud.http import Http, is_here

        self.name = model
        url = _checked(url, "the model's service").removesuffix("/chat/completions")
        url = url if urlsplit(url).path.strip("/") else f"{url}/v1"
        self.where = urlsplit(url).hostname or ""
        self._key = _set(env, OPENAI_KEY)
        if self._key is None and not is_here(self.where):
            raise ModelFailed(f"the model {model} needs a key, and there is none", hint=f"set {OPENAI_KEY}")
        # OpenAI's own models refuse the old name of the bound, other servers do not know the new one.
        self._bound = "max_completion_tokens" if url == OPENAI else "max_tokens"
        self._http = Http(
            url, service=self.where, headers={"authorization": f"Bearer {self._key}"} if self._key else None,
            secret=self._key, timeout=timeout, connections=1,
        )  # fmt: skip

    def ask(self, system: str, words: str, tokens: int) -> Said:
        from replica.cloud.base import SinkError

        messages = [{"role": "system", "content": system}, {"role": "user", "content": words}]
        body = {"model": self.name, "messages": messages, self._bound: tokens}
        try:
            answer = self._http.call("POST", "/chat/completions", body, allow=tuple(range(300, 600)))
        except SinkError as error:
            raise ModelFailed(str(error), hint=_NETWORK, again=True) from None
        if answer.status >= 300:
            from replica.cloud.http import retry_after, said_in

            said = said_in(answer, self._key)
            after = retry_after(answer.headers, answer.body)
            raise _failed(self.name, self.where, answer.status, said, after, OPENAI_KEY)
        return self._said(answer.body)

    def _said(self, body: Any) -> Said:
        choices = body.get("choices") if isinstance(body, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
        message = choice.get("message") if choice is not None else None
        if not isinstance(message, dict):
            raise ModelFailed(f"{self.where} answers with what is no answer", hint=_NETWORK, again=True)
        content, ended = message.get("content"), choice.get("finish_reason")
        if ended == "content_filter" or (message.get("refusal") and not content):
            return Said("", "refused")
        return Said(content if isinstance(content, str) else "", "cut" if ended == "length" else "whole")


def _checked(url: str, service: str) -> str:
    from replica.cloud.base import SinkError
    from replica.cloud.http import safe_url

    try:
        return safe_url(url, service)
    except SinkError as error:
        raise ModelFailed(str(error), hint=error.hint) from None
