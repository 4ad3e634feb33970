"""The sinks of a clone, as replica.toml has them, ready to be used: settings checked, keys found, places approved.

replica.toml is shared, so what stands there may be somebody else's word. A place that another clone has written there
gets nothing from this one, neither memory nor key, until a person here has agreed (`replica sinks test NAME`).
"""

import hashlib
import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from replica import config
from replica.clone import Clone
from replica.cloud.base import Setting, Settings, Sink, SinkError, Trouble
from replica.cloud.guarded import Guarded
from replica.cloud.ledger import Ledger
from replica.cloud.sinks import KINDS, kind
from replica.config import NAME
from replica.errors import ConfigError, NotFound, ReplicaError, UsageError
from replica.places import CONFIG, FOLDER

DEFAULT = "local"  # the sink that there is when none is configured: the embedded Qdrant
KEYRING = "memory-replica"  # the service that keys are kept under in the system's keyring
APPROVALS = 0  # the number of no sink, under which the ledger notes what was approved

# Keys that any sink may have. `type` chooses the others.
COMMON = {
    "type": Setting("what kind of sink it is", required=True),
    "level": Setting("export only entries of this level and above: 1 or 2", int, 1),
    "embedder": Setting("what makes vectors: auto, hash, minilm, or openai:MODEL@URL", str, "auto"),
    "key_env": Setting("the environment variable that holds the key"),
    "timeout": Setting("seconds that one call may take", int, 30),
    "into": Setting("the document that `pull` adds to what it finds new there"),
    "insecure": Setting("true: send the key without TLS to a host that is not this one", bool, False),
}  # fmt: skip
_SECRET_WORDS = ("key", "api_key", "apikey", "token", "secret", "password", "authorization")


class NotApproved(ReplicaError):
    """Another clone has written this place into replica.toml, and nobody here has agreed to it."""


class Configured(NamedTuple):
    """A sink of replica.toml with all its values. `target`: a hash of what makes it the place that it is."""

    name: str
    type: str
    values: dict[str, Any]
    target: str

    @property
    def of(self) -> type[Sink]:
        return kind(self.type)

    @property
    def where(self) -> str:
        """Where it goes, for a person."""
        place = self.values.get("url") or self.values.get("path") or self.values.get("uri")
        return str(place or getattr(self.of, "place", "") or "its own default")


def all_of(clone: Clone) -> dict[str, Configured]:
    """The sinks by name; the embedded one where replica.toml has none. Raises ConfigError."""
    found = clone.config.sinks or {DEFAULT: {"type": "qdrant"}}
    return {name: check(name, keys) for name, keys in found.items()}


def chosen(clone: Clone, names: list[str]) -> list[Configured]:
    """The sinks that are meant: those named, or all. Raises NotFound, ConfigError."""
    if names:
        given = clone.config.sinks or {DEFAULT: {"type": "qdrant"}}
        missing = next((name for name in names if name not in given), None)
        if missing is not None:
            known = f"there are {', '.join(given)}" if clone.config.sinks else "there is none yet"
            raise NotFound(
                f"no sink {missing!r}", hint=f"{known}; add one with `replica sinks add {missing} --type TYPE`"
            )
        return [check(name, given[name]) for name in dict.fromkeys(names)]
    return list(all_of(clone).values())


def check(name: str, keys: Mapping[str, Any]) -> Configured:
    """Raises ConfigError: the keys do not make a sink."""
    where = f"{CONFIG}: [sinks.{name}]"
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{CONFIG}: {name!r} is no name for a sink", hint="use letters, digits, and . _ - between them"
        )
    if not isinstance(keys.get("type"), str) or keys["type"] not in KINDS:
        known = ", ".join(KINDS)
        raise ConfigError(
            f"{where}: `type` must be one of {known}", hint=f"mend {CONFIG}, or `replica sinks remove {name}`"
        )
    allowed = {**COMMON, **kind(keys["type"]).settings_of}
    values: dict[str, Any] = {key: setting.default for key, setting in allowed.items() if setting.default is not None}
    for key, value in keys.items():
        if any(key.lower().replace("-", "_").endswith(word) for word in _SECRET_WORDS) and key not in allowed:
            raise ConfigError(
                f"{where}: a key does not belong into {CONFIG}, which every clone reads: `{key}`",
                hint=f"take it out, consider it known to all members, and {_how_to_give(name, keys['type'], keys)}",
            )
        if key not in allowed:
            raise ConfigError(f"{where}: no such key: `{key}`", hint=f"there are {', '.join(allowed)}")
        values[key] = _checked(f"{where}: `{key}`", allowed[key], value)
    for key, setting in allowed.items():
        if setting.required and key not in values:
            raise ConfigError(f"{where}: `{key}` is missing", hint=f"it is {setting.help}")
    if values["level"] not in (1, 2):
        raise ConfigError(f"{where}: `level` must be 1 or 2", hint="level 0 never leaves its clone")
    _check_url(where, values)
    place = {key: value for key, value in values.items() if key not in COMMON or key == "type"}
    return Configured(name, keys["type"], values, _digest(place))


def _checked(what: str, setting: Setting, value: Any) -> Any:
    if type(value) is not setting.kind or value == "":
        names = {str: "a text in quotes", int: "a whole number", bool: "true or false", dict: "a table"}
        raise ConfigError(f"{what} must be {names[setting.kind]}", hint=f"it is {setting.help}")
    return value


def _check_url(where: str, values: dict[str, Any]) -> None:
    for key in ("url", "controller"):
        if not values.get(key):
            continue
        try:
            parts = urlsplit(values[key])
            right = parts.scheme in ("http", "https") and bool(parts.hostname)
            parts.port  # noqa: B018 - raises where it is none
        except ValueError:
            right = False
        if not right:
            raise ConfigError(
                f"{where}: `{key}` is no address of a service", hint="such as https://host or http://localhost:6333"
            )
        if parts.username or parts.password:
            raise ConfigError(
                f"{where}: `{key}` holds a password", hint="every clone reads replica.toml; use the key instead"
            )


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]


# --- keys


def _how_to_give(name: str, type: str, keys: Mapping[str, Any]) -> str:
    variable = keys.get("key_env") or kind(type).key_name or "the variable that `key_env` names"
    return f"set {variable}, then: replica sinks test {name}"


def key_of(sink: Configured, environment: Mapping[str, str] = os.environ) -> str | None:
    """The sink's key: from the environment, or else the system's keyring. Raises SinkError: it needs one."""
    variable = sink.values.get("key_env") or sink.of.key_name
    found = environment.get(variable, "").strip() if variable else ""
    found = found or _from_keyring(sink.name)
    if found:
        _refuse_plain(sink)
        return found
    if sink.of.key_needed:
        raise SinkError(
            Trouble.AUTH, f"the sink {sink.name} needs a key, and there is none",
            hint=_how_to_give(sink.name, sink.type, sink.values),
        )  # fmt: skip
    return None


def _from_keyring(name: str) -> str:
    try:
        import keyring
    except ImportError:
        return ""
    try:
        return (keyring.get_password(KEYRING, name) or "").strip()
    except Exception:  # no keyring on this machine, or a locked one: as if it were empty
        return ""


def _refuse_plain(sink: Configured) -> None:
    """A key that goes over a network in the clear is everybody's."""
    parts = urlsplit(sink.values.get("url") or "")
    if parts.scheme != "http" or sink.values["insecure"] or is_loopback(parts.hostname or ""):
        return
    raise SinkError(
        Trouble.AUTH, f"the sink {sink.name} would send its key to {parts.hostname} without TLS",
        hint=f"use an https url, or set `insecure = true` in [sinks.{sink.name}] if that network is yours",
    )  # fmt: skip


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


# --- agreement


def approve(clone: Clone, ledger: Ledger, sink: Configured) -> None:
    """A person here agrees that memory goes there."""
    known = ledger.fact(APPROVALS, "approved") or []
    if (mark := _agreed(sink)) not in known:
        ledger.note(APPROVALS, "approved", [*known, mark][-500:])


def require_approval(clone: Clone, ledger: Ledger, sink: Configured) -> None:
    """Raises NotApproved: somebody else has written this place into replica.toml."""
    if sink.name == DEFAULT and not clone.config.sinks:
        return
    if _agreed(sink) in (ledger.fact(APPROVALS, "approved") or []):
        return
    who = _first_written_by(clone, sink)
    if who in own_ids(clone):
        approve(clone, ledger, sink)
        return
    by = "another clone" if who is None else clone.author_name(who)
    raise NotApproved(
        f"the sink {sink.name} ({sink.type}, {goes_to(sink)}) was set by {by}, and nobody has agreed to it here",
        hint=f"if memory of this clone may go there: replica sinks test {sink.name}",
    )


def goes_to(sink: Configured) -> str:
    """All that memory or a key would go to, for a person who is asked to agree."""
    found = [sink.where]
    found += [str(sink.values[key]) for key in ("url", "uri", "controller") if sink.values.get(key)]
    if sink.of.wants_vectors and str(sink.values["embedder"]).startswith("openai:"):
        found.append(f"its words to the embedder {sink.values['embedder']}")
    if sink.values.get("key_env"):
        found.append(f"with the key in {sink.values['key_env']}")
    return ", ".join(dict.fromkeys(found))


def _agreed(sink: Configured) -> str:
    return _digest([sink.name, sink.values])


def own_ids(clone: Clone) -> set[bytes]:
    """The ids that this clone writes under, and wrote under before it came back."""
    from replica import copies

    return {one.id for one in copies.identities(clone)} | {clone.identity.id}


def _first_written_by(clone: Clone, sink: Configured) -> bytes | None:
    """Who first wrote this sink with these values into replica.toml, as far as the history goes. None: not known."""
    rows = clone.store.rows(
        "SELECT a.id, adds.text FROM adds JOIN documents d ON d.n=adds.doc JOIN authors a ON a.n=adds.author"
        " WHERE d.path=? AND d.private=0 ORDER BY adds.n", (CONFIG,),
    )  # fmt: skip
    for author, text in rows:
        try:
            keys = config.load(text).sinks.get(sink.name)
            if keys is not None and _agreed(check(sink.name, keys)) == _agreed(sink):
                return author
        except ReplicaError:
            continue
    return None


# --- ready to be used


def opened(clone: Clone, sink: Configured, *, dimension: int = 0, embedder: str = "", keyless: bool = False) -> Sink:
    """The adapter. Nothing is connected yet. Raises SinkError: a key is needed. `keyless`: nothing will be sent."""
    key = None if keyless else key_of(sink)
    settings = Settings(
        sink.name, sink.values, clone.root, clone.root / FOLDER, clone.workspace.hex(), clone.workspace_name, key,
        dimension, embedder, float(sink.values["timeout"]),
    )  # fmt: skip
    return Guarded(sink.of(settings))


def into(sink: Configured) -> str:
    """The document that gets what is new there."""
    return sink.values.get("into") or f"cloud-{sink.name}-buffer.md"


# --- replica.toml


def with_sink(text: str, name: str, keys: Mapping[str, Any]) -> str:
    """replica.toml with one more sink. Raises UsageError: there is one of that name."""
    if name in config.load(text).sinks:
        raise UsageError(
            f"there is a sink {name!r} already", hint=f"change it in {CONFIG}, or `replica sinks remove {name}` first"
        )
    check(name, keys)
    lines = [f"[sinks.{_bare(name)}]", *(f"{_bare(key)} = {_toml(value)}" for key, value in keys.items())]
    new = text.rstrip("\n") + "\n\n" * bool(text.strip()) + "\n".join(lines) + "\n"
    config.load(new)
    return new


def without_sink(text: str, name: str) -> str:
    """replica.toml without a sink: its table goes, and comments right above it stay. Raises NotFound, UsageError."""
    if name not in config.load(text).sinks:
        raise NotFound(f"no sink {name!r} in {CONFIG}", hint="list them with `replica sinks`")
    lines, kept, inside = text.split("\n"), [], False
    headers = {f"[sinks.{form}" for form in (name, f'"{name}"', f"'{name}'")}
    for line in lines:
        bare = line.split("#", 1)[0].replace(" ", "").strip()
        if bare.startswith("["):
            inside = any(bare == f"{header}]" or bare.startswith(f"{header}.") for header in headers)
        if not inside:
            kept.append(line)
    new = "\n".join(kept).rstrip("\n") + "\n"
    if name in config.load(new).sinks:
        raise UsageError(
            f"the sink {name!r} is written in a way that only a person can take out", hint=f"edit {CONFIG}"
        )
    return new


def _bare(name: str) -> str:
    return (
        name
        if name.replace("-", "").replace("_", "").isalnum() and name.isascii()
        else json.dumps(name, ensure_ascii=False)
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_bare(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)
