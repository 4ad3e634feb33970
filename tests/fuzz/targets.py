"""The fuzz targets: every decoder of bytes from strangers, peers, people and a damaged disk, as a function of bytes.

A target either comes to an end, or raises what it found wrong: any exception at all. The errors that a decoder
documents are caught here, for just the calls that may raise them; what must hold of an accepted value is asserted.
Three drivers use the table: `python -m tests.fuzz` (atheris, or plain mutation), tests/fuzz/test_mutations.py, and, for
cases with a structure, tests/fuzz/test_properties.py.
"""

import asyncio
import copy
import io
import json
import os
import re
import tempfile
import unicodedata
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgpack

from cli import common
from replica import baselines, blocks, changes, config, filetext, history, paths, textdiff, yjs
from replica.changes import Kind
from replica.errors import (
    ConfigError,
    CorruptUpdate,
    InvalidChange,
    PairingError,
    ProtocolError,
    ReplicaError,
    StoreError,
    UnsafePath,
    UsageError,
    WrongCode,
)
from replica.keys import Identity
from replica.places import FOLDER
from replica.sessions import discover as logs
from replica.sessions.base import Damage, Event, LogFile, Progress
from replica.text import Text, client_id, import_update
from tests.fuzz import worlds
from transport import addresses, codes, control, discovery, frames, guesses, inviting, pairing, service, tls, wire
from transport.session import Ack, Baseline, Bye, Changes, Digest, DocumentDigests, Hello, Restart

MOST_READ = 300_000  # bytes of a file: several parsers read it, at 4 µs a block of four bytes
LONGEST = 1_300_000  # bytes of one input: the largest change
NOTHING = b"\xc1\xc1"  # stands between the parts of an input: no msgpack and no UTF-8 has it


class Target(NamedTuple):
    """`run` reads an input; `seeds` makes valid samples; `slow`: an input takes milliseconds, so fewer are tried."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    slow: bool = False


TARGETS: dict[str, Target] = {}


def target(seeds: Callable[[], list[bytes]], *, slow: bool = False):
    def add(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[run.__name__.strip("_")] = Target(run, seeds, slow)
        return run

    return add


def words(data: bytes) -> str:
    """Any bytes as a text, lone surrogates included; what is no UTF-8 letter by letter."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# --- the wire

AUTHOR, OTHER = b"a" * 16, b"b" * 16


def _frames() -> list[bytes]:
    batch = tuple(changes.Signed(body, b"s" * 64) for body in worlds.bodies())
    messages = [
        Hello((1, 2), AUTHOR, {AUTHOR: 7, OTHER: 1}, b"h" * 16, OTHER), Hello((1,), AUTHOR, {}, b"", AUTHOR),
        Baseline("join", b"", 0, 2, b"x" * 40), Baseline("fork", AUTHOR, 1, 2, b""), Restart(),
        Changes(batch), Changes((changes.Signed(batch[0].body, None),)),
        Ack({AUTHOR: 2**40}), Digest({AUTHOR: 1}, b"d" * 32), Bye("the end"),
        DocumentDigests({AUTHOR: 1}, (("notes/a.md", "text", b"d" * 32), ("b.md", "union", b"e" * 32))),
    ]  # fmt: skip
    return [wire.encode(message) for message in messages]


@target(lambda: [*_frames(), *_pairing_frames()])
def frame(data: bytes) -> None:
    for limits in (frames.LIMITS, pairing.LIMITS):
        with suppress(ProtocolError):
            message = frames.decode(data, limits)
            assert type(message[0]) is str
            assert frames.decode(frames.encode(*message), frames.LIMITS) == message or _has_nan(message)


def _has_nan(value) -> bool:
    if isinstance(value, list | dict):
        return any(map(_has_nan, value.values() if isinstance(value, dict) else value))
    return value != value


@target(_frames)
def message(data: bytes) -> None:
    with suppress(ProtocolError):
        read = wire.decode(data)
        assert wire.decode(wire.encode(read)) == read


@target(lambda: worlds.bodies())
def change(data: bytes) -> None:
    try:
        read = changes.decode(data)
    except InvalidChange as error:
        assert len(str(error)) < 1_000, "a refusal is a sentence, whatever was refused"
        return
    assert read.hash == changes.change_hash(data)
    assert 1 <= read.seq <= 2**53 and isinstance(read.kind, Kind)


@target(lambda: [bytes([state]) + NOTHING.join(parts) for state, parts in worlds.sessions()], slow=True)
def session(data: bytes) -> None:
    worlds.session(data[:1], data[1:].split(NOTHING))


@target(lambda: [bytes([who]) + msgpack.packb(fields) for who, fields in worlds.payloads()], slow=True)
def ingest(data: bytes) -> None:
    """A change of a member, signed by it, with any content."""
    try:
        fields = msgpack.unpackb(data[1:], strict_map_key=False)
        msgpack.packb(fields)
    except Exception:  # of the fuzzer's own making: there is no such change to sign
        return
    if type(fields) is list and len(fields) == 4:
        worlds.ingest(data[0] % 2, fields)


@target(
    lambda: [bytes([at]) + damage for at in range(0, 250, 9) for damage in (b"\1", b"\0\0\x80", b"\xff" * 8)], slow=True
)
def stored(data: bytes) -> None:
    """A row that the disk gave back wrong."""
    worlds.damaged(data)


# --- texts


@cache
def _text_state() -> tuple[bytes, str]:
    text = Text.new(client_id(AUTHOR, "a.md"))
    text.apply_import("# Title\n\nSome words 😀 and 𝒜 more.\nعربي 日本語\n")
    text.edit(text.client, "# Title\n\nSome other words 😀 and more.\nعربي 日本語\nEnd\n")
    return text.state(), text.text


def _updates() -> list[bytes]:
    made = []
    for new in ("", "x", "# Title 😀\n", "# Title\n\nSome words 😀 and 𝒜 more.\n" * 3, "日本語" * 40):
        other = Text.load(_text_state()[0], client_id(OTHER, "a.md"))
        made += other.edit(other.client, new)
    return [*made, import_update("# A\n\n- b 😀\n")[1], bytes.fromhex("8080808001"), b"\0\0"]


@target(_updates, slow=True)
def update(data: bytes) -> None:
    """The structural check, and then the engine, which must take in what the check let through."""
    state, before = _text_state()
    text = Text.load(state)
    client = client_id(OTHER, "a.md")
    try:
        checked = yjs.check(data, client, yjs.Known.of_state(state))
    except CorruptUpdate:
        return
    text.apply(data, client)
    if not checked.inserts and not checked.deletes:
        assert text.text == before
    assert Text.load(text.state()).text == text.text
    for other in (checked, yjs.decode(_updates()[1])):
        yjs.overlap(checked, other)


@target(lambda: [_text_state()[0], *_updates()])
def state(data: bytes) -> None:
    for read in (yjs.decode, yjs.decode_state, yjs.decode_vector, yjs.Known.of_state):
        with suppress(CorruptUpdate):
            read(data)


@target(lambda: [_text_state()[0]])
def snapshot(data: bytes) -> None:
    """A stored text that the disk gave back wrong: refused, or a text that can be read."""
    with suppress(CorruptUpdate):
        assert type(Text.load(data).text) is str


@target(
    lambda: [
        _text_state()[1].encode(),
        "a\r\nb\n\n# c\n😀".encode(),
        b"\xef\xbb\xbfx\n",
        "\ud800x".encode("utf-8", "surrogatepass"),
    ],
    slow=True,
)
def edit(data: bytes) -> None:
    """A text made into any other: the same on the clone that hears of it."""
    new = words(data)[:20_000]
    held = _text_state()[0]
    mine, theirs = Text.load(held, client_id(OTHER, "a.md")), Text.load(held)
    with suppress(ValueError):  # a lone surrogate
        for made in mine.edit(mine.client, new):
            theirs.apply(made, mine.client)
        assert mine.text == theirs.text == new


@target(lambda: worlds.folded())
def baseline(data: bytes) -> None:
    """A folded document, as it comes deflated."""
    for packed in (data, zlib.compress(data, 1)):
        with suppress(InvalidChange):
            baselines.unpack(packed)


@target(lambda: [worlds.opened_bundle(), worlds.world().bundle], slow=True)
def bundle_(data: bytes) -> None:
    """What a peer hands to a clone that holds nothing: as it travels, deflated, and with its baselines laid open."""
    for packed in (data, zlib.compress(data, 1), worlds.closed_bundle(data)):
        worlds.take_bundle(packed)


# --- pairing


CODE = "37-harbor-violet-onion"
_KEYS = [Identity(bytes([number]) * 32) for number in (1, 2)]


@cache
def _certificates() -> list[bytes]:
    return [tls.make_certificate(key.private) for key in _KEYS]


class _Guesses:
    """The budget of a clone, without a store. Nobody takes back what was spent on a wrong guess."""

    def __init__(self) -> None:
        self.spent = 0

    def pause(self) -> float:
        return 0.0

    def spend(self) -> None:
        self.spent += 1

    def give_back(self) -> None:
        self.spent -= 1


def _inviter() -> pairing.Inviter:
    invitation = pairing.Invitation(CODE, 1e12)
    return pairing.Inviter(invitation, _certificates()[0], lambda der, name: b"welcome", lambda: 0.0, _Guesses())


@cache
def _run() -> tuple[pairing.Inviter, pairing.Joiner, pairing.Joiner, list[bytes]]:
    """The machines in the middle of a run, and all its messages."""
    inviter, joiner = _inviter(), pairing.Joiner(codes.parse(CODE)[1], _certificates()[1], "desk", _certificates()[0])
    waiting = copy.deepcopy(joiner)
    hi = joiner.open()
    (answer,) = inviter.receive(hi)
    proving = copy.deepcopy(inviter)
    (confirm,) = joiner.receive(answer)
    return proving, waiting, joiner, [hi, answer, confirm, *copy.deepcopy(inviter).receive(confirm)]


def _pairing_frames() -> list[bytes]:
    refusals = [frames.encode("refused", reason) for reason in ("code", "gone", "version", "failed", "else")]
    return [*_run()[3], *refusals]


@target(_pairing_frames)
def inviter(data: bytes) -> None:
    for machine in (_inviter(), copy.deepcopy(_run()[0])):
        admitted = []
        machine._admit = lambda der, name, admitted=admitted: admitted.append(name) or b"welcome"
        for part in (data, data):
            replies = machine.receive(part)
            assert len(replies) <= 1 and all(len(reply) <= pairing.MAX_MESSAGE for reply in replies)
        assert not admitted or data == _run()[3][2], "only who knows the code is admitted"
        assert machine._guesses.spent == (0 if admitted else pairing.TRIES - machine._invitation.tries)


@target(_pairing_frames, slow=True)
def joiner(data: bytes) -> None:
    for machine in _run()[1:3]:
        machine = copy.deepcopy(machine)
        with suppress(PairingError, ProtocolError):
            machine.receive(data)
        assert not machine.welcome or data == _run()[3][3]


@target(lambda: [msgpack.packb({"workspace": AUTHOR, "workspace_name": "team", "name": "desk", "port": 7000})])
def welcome(data: bytes) -> None:
    with suppress(PairingError):
        read = inviting._read_welcome(data)
        assert type(read["workspace"]) is bytes and type(read["port"]) is int and type(read["name"]) is str


@target(
    lambda: [CODE.encode(), b"1-a-b-c", "٣٧-harbor-violet-onion".encode(), b" 999 HARBOR_violet--onion "], slow=True
)
def code(data: bytes) -> None:
    with suppress(WrongCode):
        nameplate, password = codes.parse(words(data))
        assert codes.parse(f"{nameplate}-{password}") == (nameplate, password)


@target(
    lambda: [b"[[], 1.7e9, 500.0]", b"[[0.0, 12.5, 3000], 1750000000, 60]", json.dumps([[0.0] * 10, 1, 2]).encode()]
)
def guesses_(data: bytes) -> None:
    """The record of wrong codes in a store that the disk changed: read, or taken for a spent budget."""
    with suppress(ValueError):
        ages, wall, steady = guesses._read(words(data))
        assert len(ages) <= guesses.MOST and all(0 <= number < 1e15 for number in (*ages, wall, steady))


@target(lambda: list(_certificates()))
def certificate(data: bytes) -> None:
    with suppress(PairingError, ProtocolError):
        public = tls.check_certificate(data)
        assert data in _certificates() and public in [key.public for key in _KEYS], "only its own key makes one"


# --- the neighbourhood


def _announcements() -> list[bytes]:
    name = b"abcdefgh234567ab"
    tagged = discovery.tag(AUTHOR, name.decode()).encode()
    texts = [b"\x03v=1\x12t=" + tagged, b"\x03v=1\x05p=999", b"\x03v=1\x01p", b"\x00", b"\x01=\x02==\x03v=1"]
    return [NOTHING.join([name, text, b"\x1b\x58", b"\x0a\x00\x00\x01" * 2]) for text in texts]


@target(_announcements)
def announcement(data: bytes) -> None:
    """A service as a neighbour announces it: name, TXT record, port, addresses."""
    from zeroconf import ServiceInfo

    name, text, port, places = [*data.split(NOTHING), b"", b"", b"", b""][:4]
    found: list = []
    finder = discovery.Discovery(AUTHOR, interfaces=["127.0.0.1"])
    finder.on_found(lambda where, instance: found.append((where, instance)))
    instance = words(name)[:40]
    info = ServiceInfo(discovery.SERVICE, f"x.{discovery.SERVICE}", port=int.from_bytes(port[:3]), properties=text)
    listed = [".".join(map(str, places[at : at + 4])) for at in range(0, len(places) - 3, 4)][:100]
    dialable = discovery._dialable(listed, info.port)
    assert len(dialable) <= discovery.MAX_ADDRESSES
    if re.fullmatch("[a-z2-7]{16}", instance):  # others are passed over, as below
        finder._judge(instance, info.properties, dialable)
    for where, _ in found:
        assert info.properties[b"t"] == discovery.tag(AUTHOR, instance).encode() and where == dialable
    for number, where in finder._invitations.values():
        assert 1 <= number <= codes.NAMEPLATES and where
    finder._event(None, discovery.SERVICE, "?" + instance + "." + discovery.SERVICE, None)  # not a name of ours
    assert not finder._lookups


@target(lambda: [b"192.168.1.20:7000", b"[fd00::2]:7000", b"host.local:1", b"127.0.0.1, 10.0.0.1"])
def address(data: bytes) -> None:
    text = words(data)
    with suppress(UsageError):
        host, port = addresses.parse_address(text)
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert addresses.parse_address(shown) == (host, port)
    with suppress(UsageError):
        addresses._address(text)


# --- between processes of one machine


@target(lambda: [
    json.dumps({"token": "secret", "request": what, **more}).encode() + b"\n"
    for what, more in (("poke", {}), ("status", {"peers": []}), ("nothing", {}), ("sync", {"seconds": 1}))
])  # fmt: skip
def request(data: bytes) -> None:
    asyncio.run(_asked(data)) if data.count(b"\n") <= 1 else None


async def _asked(data: bytes) -> None:
    reader = asyncio.StreamReader(limit=1 << 16)
    reader.feed_data(data)
    reader.feed_eof()
    asked = await service._Service(None, "secret")._read(reader)
    assert asked is None or (type(asked) is dict and "token" not in asked)


class _Connection:
    def __init__(self, data: bytes):
        self._data = data

    def makefile(self, _mode: str):
        return io.BytesIO(self._data)


@target(
    lambda: [b'{"ok": true}\n{"event": "code"}\n', b'{"error": "no", "hint": "yes"}\n', b"HTTP/1.1 400 Bad\r\n\r\n"]
)
def answer(data: bytes) -> None:
    with suppress(ReplicaError, ValueError):  # `stream` takes a ValueError for: nobody of ours is there
        for said in control._answers(_Connection(data)):
            assert type(said) is dict


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="replica-fuzz-", dir=worlds.MEMORY))
    worlds.at_exit(folder)
    (folder / FOLDER).mkdir()
    (folder / "there").mkdir()
    (folder / "link").symlink_to("/")
    return folder


@target(lambda: [b'{"pid": 1, "control": 7000, "token": "x", "port": 1}', b'{"control": 99999999999, "token": ""}'])
def node_json(data: bytes) -> None:
    (_folder() / FOLDER / control.FILE).write_bytes(data)
    place = control.read(_folder())
    assert place is None or (0 < place["control"] < 65536 and type(place["token"]) is str)


@target(lambda: [b"11" * 32 + b"\n", b"00" * 32])
def identity(data: bytes) -> None:
    file = _folder() / "identity"
    file.write_bytes(data)
    with suppress(StoreError):
        assert len(Identity.load(file).id) == 16


# --- files


PLACES = ["a.md", "notes/a.md", "a" * 100 + ".md", "/".join("a" * 100), "a/b/c/d/e/f/SESSION_LOG.md", ".git/config"]


TOML = """\
exclude = ["**/a*b*c/**"]
[[documents]]
glob = "**/*/**/x*.md"
policy = "union"
level = 0
harvest = {lines = 3, into = "b/"}
[limits]
document = "2MiB"
[guard]
share = 0.1
[workspace]
name = "x"
[sinks.a.b]
c = 1979-05-27T07:32:00Z
d = [[[[1.5, 0xff]]]]
"""


@target(lambda: [config.DEFAULT.encode(), TOML.encode(), b"a.b.c.d.e = 1\n", b"[limits]\ndocument = 0xffff\n"])
def replica_toml(data: bytes) -> None:
    try:
        read = config.load(words(data))
    except ConfigError as error:
        assert "replica.toml" in str(error) and len(str(error)) < 2_000
        return
    for path in PLACES:
        rule = read.rule(path)
        assert rule is None or rule.policy in config.POLICIES


@target(lambda: [
    path.encode() for path in ("notes/a.md", "../x", "/etc/passwd", "link/etc", "there/\u202eb", "CON.md", "a\0b",
                               "e\u0301/\ufb01", "A/.GIT/b", "\u1e9e.md", "a:b", "x. ", "\u200d.git")
])  # fmt: skip
def path(data: bytes) -> None:
    text = words(data)
    with suppress(UnsafePath):
        name = paths.normal(text)
        assert paths.normal(name) == name and len(name) <= paths.MAX_PATH
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)
        assert paths.clash_key(name) == paths.clash_key(name.upper()) or name.upper().lower() != name.lower()
        place = os.path.normpath(paths.resolve(_folder(), name))
        assert place.startswith(str(_folder()) + os.sep)
        assert os.path.realpath(place) == place, "no link on the way"


MARKDOWN = """\
---
title: x
---
# Title

Prose *here*.

- one
  deeper
- two
    ```sh
    code
    ```
* three
1. four

## Heading
> quote
<!-- comment
-->
***
2026-03-01 did a thing
\tindented
"""


def _files() -> list[bytes]:
    made = [
        MARKDOWN,
        MARKDOWN.replace("\n", "\r\n"),
        "\ufeff" + MARKDOWN,
        "a\rb\r\r\nc\0\n\n\n",
        "- a\n" * 40,
        "```\n- a\n",
    ]
    pairs = [one + "\udcff" + other for one, other in ((MARKDOWN, MARKDOWN.upper()), ("- a\n" * 9, "- b\n- a\n" * 5))]
    return [text.encode() for text in made] + [
        text.encode("utf-8", "surrogateescape").replace(b"\xff", NOTHING) for text in pairs
    ]


@target(_files, slow=True)
def file(data: bytes) -> None:
    """Any bytes: what was parsed is rendered as it was, and written back byte for byte."""
    data = data[:MOST_READ]
    try:
        read = filetext.decode(data)
    except ValueError:
        return
    canonical = filetext.canonical(read.text)
    assert filetext.patch(data, canonical, canonical) == data
    assert filetext.patch(data, read.text, read.text, exact=True) == data
    for policy in ("latest", "union", "log"):
        parsed = blocks.parse(read.text, policy)
        assert blocks.render(parsed) == canonical
        assert blocks.spaced(parsed, policy) == parsed
        assert len(dict(blocks.with_ids(parsed))) == len(parsed)


@target(_files, slow=True)
def save(data: bytes) -> None:
    """One file saved over another."""
    old, _, new = data[:MOST_READ].partition(NOTHING)
    try:
        before, after = filetext.decode(old), filetext.decode(new)
    except ValueError:
        return
    ops = textdiff.diff(before.text, after.text)
    assert textdiff.apply_ops(before.text, ops) == after.text
    assert textdiff.apply_ops(before.text, textdiff.rebase(ops, before.text, before.text)) == after.text
    merged = textdiff.merge_additive(before.text, after.text)
    assert textdiff.merge_additive(merged, before.text) is not None
    was, now = filetext.canonical(before.text), filetext.canonical(after.text)
    assert filetext.canonical(filetext.decode(filetext.patch(old, was, now)).text) == now
    for policy in ("union", "log"):
        one, other = blocks.parse(before.text, policy), blocks.parse(after.text, policy)
        edits = blocks.pair(one, other)
        assert sorted([i for i, _ in edits.kept + edits.replaced] + edits.removed) == list(range(len(one)))
        assert sorted([j for _, j in edits.kept + edits.replaced] + edits.added) == list(range(len(other)))


SAMPLES = Path(__file__).parents[1] / "sessions" / "samples"
FORMATS = ("openclaw-jsonl", "claude-code", "codex", "gemini", "gemini-json", "openclaw-sqlite")
CHAT = b"""{"sessionId":"g","projectHash":"a","startTime":"2026-04-14T08:00:00Z"}
{"id":"a","timestamp":"2026-04-14T08:00:01Z","type":"user","content":[{"text":"one"}]}
{"id":"b","timestamp":"2026-04-14T08:00:02Z","type":"gemini","content":"r","toolCalls":[{"id":"t","name":"x"}]}
{"$set":{"messages":[]}}
{"$rewindTo":"b"}
"""


def _logs() -> list[bytes]:
    kinds = {"openclaw": b"\x00", "claude-code": b"\x01", "codex": b"\x02"}
    lines = [
        kinds[path.relative_to(SAMPLES).parts[0]] + path.read_bytes()[:20_000] for path in SAMPLES.rglob("*.jsonl*")
    ]
    whole = b'{"sessionId":"g","projectHash":"a","messages":[' + CHAT.split(b"\n")[1] + b"]}"
    return [*lines, b"\x03" + CHAT, b"\x04" + whole, b"\x05" + next(SAMPLES.rglob("*.sqlite")).read_bytes()]


@target(_logs, slow=True)
def log(data: bytes) -> None:
    """A session log: nothing in it stops its reading, and what was told is not told again from where it ended."""
    path = _folder() / "there" / "log"
    path.write_bytes(data[1:])
    name = FORMATS[data[0] % len(FORMATS)] if data else "codex"
    found = LogFile(path, name.partition("-json")[0], name, len(data), 0)
    told = list(logs.read(found))
    assert isinstance(told[-1], Progress)
    for one in told:
        if isinstance(one, Damage):
            assert one.reason and "known form" not in one.reason, one
        elif isinstance(one, Event):
            for words in (one.text, one.key, one.session, one.name, one.model, one.command, *one.files):
                assert words.encode() is not None
            assert 0 <= one.at < 2**48
    assert not [one for one in logs.read(found, told[-1].place) if isinstance(one, Event)] or data[-1:] != b"\n"


@target(lambda: [b"2026-03-01", b"2026-03-01T14:30:00+02:00", b"3d ago", b"yesterday", b"99999999w"])
def moment(data: bytes) -> None:
    with suppress(UsageError):
        assert history.parse_time(words(data), 1_750_000_000_000) >= 0


# --- what a person sees


@target(lambda: [b"a\x1b[2Jb", "\x9b31m\u202egnp".encode(), b"one\ntwo\tthree\x7f", b"\xff\x07"])
def terminal(data: bytes) -> None:
    """Whatever somebody called his clone or his file: no byte of it steers the terminal."""
    text = words(data)
    shown = common.harmless(text)
    assert not any(unicodedata.category(char) == "Cc" and char not in "\n\t" for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    cell = common.cell(text)
    assert "\n" not in cell and common.harmless(cell) == cell
    if text.isascii() and text.isprintable():
        assert shown == text
