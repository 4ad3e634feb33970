"""What each agent's format has of its own: branches, repetitions, and words that nobody said."""

import hashlib
import json
import random
import sqlite3
from pathlib import Path

import pytest

from replica.sessions.base import BEGIN_MEMORY, END_MEMORY, Kind
from replica.sessions.discover import recognised
from replica.sessions.lines import zstd
from tests.sessions.made import (
    Told,
    claude,
    claw,
    claw_header,
    codex,
    codex_said,
    gemini,
    gemini_header,
    lines,
    told,
)

OURS = f"{BEGIN_MEMORY}\nDeploys are frozen on Fridays.\n{END_MEMORY}"


# --- branches


def test_a_branch_that_openclaw_gave_up_later_is_told_again_as_aside(tmp_path):
    path = tmp_path / "s.jsonl"
    made = Told().of(lines(
        path, claw_header(), claw("a", None, "08:00:01", "user", "first"),
        claw("b", "a", "08:00:02", "user", "wrong way"),
    ))  # fmt: skip
    assert made.seen() == [("prompt", "first"), ("prompt", "wrong way")]
    made.of(lines(path, claw("c", "a", "08:00:03", "user", "other way"), add=True), made.place)
    assert made.seen() == [("prompt", "first"), ("-prompt", "wrong way"), ("prompt", "other way")]


def test_where_a_parent_was_lost_with_a_damaged_line_nothing_counts_as_given_up(tmp_path):
    log = lines(
        tmp_path / "s.jsonl", claw_header(), claw("a", None, "08:00:01", "user", "before"),
        b'{"type":"message","id":"b', claw("c", "b", "08:00:03", "user", "after"),
    )  # fmt: skip
    assert told(log).seen() == [("prompt", "before"), ("prompt", "after")]


def test_of_claude_code_a_branch_is_given_up_from_a_prompt_on_and_not_by_tools_side_by_side(tmp_path):
    def call(name, parent, at, tool):
        return claude(name, parent, at, "assistant", [{"type": "tool_use", "id": tool, "name": "Read", "input": {}}])

    def result(name, parent, at, tool):
        return claude(name, parent, at, "user", [{"type": "tool_result", "tool_use_id": tool, "content": "x"}])

    log = lines(
        tmp_path / "c1.jsonl", claude("a", None, "08:00:01", "user", "go"), call("b", "a", "08:00:02", "t1"),
        call("c", "b", "08:00:03", "t2"), result("d", "b", "08:00:04", "t1"), result("e", "c", "08:00:05", "t2"),
        claude("f", "e", "08:00:06", "user", "take this back"),
        claude("g", "f", "08:00:07", "assistant", "said in vain"),
        claude("h", "e", "08:00:08", "user", "rather this"),
    )  # fmt: skip
    asides = [(kind, text) for kind, text in told(log).seen() if kind.startswith("-")]
    assert asides == [("-prompt", "take this back"), ("-reply", "said in vain")]
    assert told(log).seen(Kind.RESULT) == [("result", "Read"), ("result", "Read")]


def test_turns_that_codex_took_back_are_aside_also_when_that_is_heard_of_later(tmp_path):
    path = tmp_path / "rollout.jsonl"
    begun = [codex("08:00:00", "session_meta", id="s", cwd="/w"), codex_said("08:00:01", "user", "one")]
    turn = [codex_said("08:00:02", "user", "two"), codex_said("08:00:03", "assistant", "done two")]
    made = Told().of(lines(path, *begun, *turn))
    assert [kind for kind, _ in made.seen()] == ["prompt", "prompt", "reply"]
    back = [codex("08:00:04", "event_msg", type="thread_rolled_back", num_turns=1), codex_said("08:00:05", "user", "3")]
    made.of(lines(path, *back, add=True), made.place)
    assert made.seen() == [("prompt", "one"), ("-prompt", "two"), ("-reply", "done two"), ("prompt", "3")]


def test_what_gemini_rewound_is_aside(tmp_path):
    path = tmp_path / "session.jsonl"
    made = Told().of(lines(
        path, gemini_header(), gemini("a", "08:00:01", "user", "one"),
        gemini("b", "08:00:02", "gemini", "r1", model="m"),
        gemini("c", "08:00:03", "user", "two"),
    ))  # fmt: skip
    made.of(lines(path, {"$rewindTo": "c"}, gemini("d", "08:00:04", "user", "three"), add=True), made.place)
    assert made.seen() == [("prompt", "one"), ("reply", "r1"), ("-prompt", "two"), ("prompt", "three")]


# --- the same thing told again


def test_a_fork_of_openclaw_tells_nothing_new_whatever_its_ids(tmp_path):
    said = [claw("a", None, "08:00:01", "user", "first"), claw("b", "a", "08:00:02", "assistant", "reply")]
    one = lines(tmp_path / "one.jsonl", claw_header(), *said)
    renamed = [claw("aa", None, "08:00:01", "user", "first"), claw("bb", "aa", "08:00:02", "assistant", "reply")]
    fork = lines(tmp_path / "two.jsonl", claw_header("5e551011-0000-4000-8000-000000000002"), *renamed)
    made = told(one, fork)
    assert (len(made.events), made.count) == (2, 4)


def test_a_fork_of_codex_tells_its_past_once_although_its_times_and_session_are_others(tmp_path):
    def past(at):
        return [
            codex_said(f"{at}:01", "user", "continue"),
            codex(f"{at}:02", "response_item", type="function_call", name="shell", arguments="{}", call_id="k"),
            codex(f"{at}:03", "response_item", type="function_call_output", call_id="k", output="ok"),
            codex_said(f"{at}:04", "assistant", "done"),
            codex_said(f"{at}:05", "user", "continue"),
        ]

    one = lines(tmp_path / "one.jsonl", codex("08:00:00", "session_meta", id="s1", cwd="/w"), *past("08:00"))
    fork = lines(
        tmp_path / "two.jsonl", codex("09:00:00", "session_meta", id="s2", forked_from_id="s1", cwd="/w"),
        codex("09:00:00", "session_meta", id="s1", cwd="/w"), *past("09:00"), codex_said("09:01:00", "user", "more"),
    )  # fmt: skip
    made = told(one, fork)
    assert [text for _, text in made.seen(Kind.PROMPT)] == ["continue", "continue", "more"]
    assert len(made.events) == 6


def test_a_session_of_claude_code_that_was_copied_on_resuming_tells_its_past_once(tmp_path):
    said = [
        claude("a", None, "08:00:01", "user", "go"),
        claude("b", "a", "08:00:02", "assistant", [{"type": "text", "text": "gone"}]),
    ]
    one = lines(tmp_path / "c1.jsonl", *said)
    copy = lines(tmp_path / "c2.jsonl", *[{**record, "sessionId": "c2"} for record in said])
    branched = {**said[0], "uuid": "z", "sessionId": "c3", "forkedFrom": {"sessionId": "c1", "messageUuid": "a"}}
    assert len(told(one, copy, lines(tmp_path / "c3.jsonl", branched)).events) == 2


def test_texts_of_one_message_of_claude_code_are_told_apart_and_a_repeated_one_is_not(tmp_path):
    def block(name, at, words):
        return claude(name, None, at, "assistant", [{"type": "text", "text": words}], message="msg_1")

    path = tmp_path / "c1.jsonl"
    made = Told().of(lines(path, block("a", "08:00:01", "one"), block("b", "08:00:02", "two")))
    made.of(lines(path, block("a", "08:00:01", "one"), block("c", "08:00:03", "three"), add=True), made.place)
    assert sorted(made.events) == ["reply:msg_1:0", "reply:msg_1:1", "reply:msg_1:2"]


def test_a_message_of_gemini_that_grows_is_told_once_and_its_calls_too(tmp_path):
    call = {"id": "t", "name": "run_shell_command", "args": {"command": "make"}, "status": "executing"}
    done = {**call, "status": "error", "result": [{"functionResponse": {"response": {"error": "no rule"}}}]}
    growing = [
        gemini("b", "08:00:02", "gemini", "I try.", model="m"),
        gemini("b", "08:00:02", "gemini", "I try.", model="m", toolCalls=[call]),
        gemini("b", "08:00:02", "gemini", "I try.", model="m", toolCalls=[done]),
    ]
    jsonl = lines(tmp_path / "session.jsonl", gemini_header(), gemini("a", "08:00:01", "user", "build"), *growing)
    made = told(jsonl)
    assert made.seen() == [("prompt", "build"), ("reply", "I try."), ("call", "make"), ("result", "no rule")]
    whole = {**gemini_header(), "messages": [gemini("a", "08:00:01", "user", "build"), growing[-1]]}
    (tmp_path / "session.json").write_text(json.dumps(whole, indent=1))
    older = recognised(tmp_path / "session.json")
    assert older.format == "gemini-json"
    assert set(told(older).events) == set(made.events)


# --- words that nobody said


def test_memory_that_we_gave_is_not_taken_back_from_any_agent(tmp_path):
    reminder = f"<system-reminder>SessionStart hook: {OURS}</system-reminder>"
    logs = [
        lines(
            tmp_path / "claw.jsonl", claw_header(), claw("a", None, "08:00:01", "user", f"{OURS}\nhello"),
            {"type": "custom_message", "id": "x", "parentId": "a", "timestamp": "2026-04-14T08:00:02Z",
             "content": OURS},
        ),
        lines(
            tmp_path / "c1.jsonl",
            claude("a", None, "08:00:01", "user", [{"type": "text", "text": reminder + "hello"}]),
            {"type": "attachment", "uuid": "h", "parentUuid": "a", "timestamp": "2026-04-14T08:00:02Z",
             "attachment": {"type": "hook_success", "stdout": OURS}},
        ),
        lines(
            tmp_path / "rollout.jsonl", codex("08:00:00", "session_meta", id="s"),
            codex_said("08:00:01", "developer", OURS), codex_said("08:00:02", "user", f"{OURS}hello"),
        ),
        lines(
            tmp_path / "session.jsonl", gemini_header(),
            gemini("a", "08:00:01", "user", [{"text": f"<hook_context>{OURS}</hook_context>\nhello"}]),
        ),
    ]  # fmt: skip
    for log in logs:
        assert told(log).seen() == [("prompt", "hello")], log.agent


@pytest.mark.parametrize("tool", ["mcp__replica__search", "mcp__plugin_x_replica__read", "mcp__memory-replica__append"])
def test_calls_of_our_own_tools_and_their_results_are_not_taken(tmp_path, tool):
    use = {"type": "tool_use", "id": "t", "name": tool, "input": {"query": "x"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "memory", "is_error": True}
    path = tmp_path / "c1.jsonl"
    made = Told().of(lines(path, claude("a", None, "08:00:01", "assistant", [use])))
    made.of(lines(path, claude("b", "a", "08:00:02", "user", [result]), add=True), made.place)
    call = {"type": "toolCall", "id": "t", "name": tool, "arguments": {}}
    made.of(lines(
        tmp_path / "claw.jsonl", claw_header(), claw("a", None, "08:00:01", "assistant", [call]),
        claw("b", "a", "08:00:02", "toolResult", "memory", toolName=tool, isError=True, toolCallId="t"),
    ))  # fmt: skip
    made.of(lines(
        tmp_path / "rollout.jsonl", codex("08:00:00", "session_meta", id="s"),
        codex("08:00:01", "response_item", type="function_call", name=tool, arguments="{}", call_id="k"),
        codex("08:00:02", "response_item", type="function_call_output", call_id="k", output="exit code: 1"),
    ))  # fmt: skip
    calls = [{"id": "t", "name": tool, "args": {}, "status": "error"}]
    made.of(lines(tmp_path / "s.jsonl", gemini_header(), gemini("b", "08:00:02", "gemini", "", toolCalls=calls)))
    assert made.seen() == []


def test_other_tools_that_sound_like_ours_are_taken(tmp_path):
    use = {"type": "tool_use", "id": "t", "name": "mcp__db__make_replica", "input": {}}
    log = lines(tmp_path / "c1.jsonl", claude("a", None, "08:00:01", "assistant", [use]))
    assert told(log).seen() == [("call", "m1")]


@pytest.mark.parametrize(
    "words",
    [
        "<command-name>/clear</command-name>", "<local-command-stdout>ok</local-command-stdout>",
        "Caveat: The messages below were generated by the user while running local commands.",
        "<system-reminder>be brief</system-reminder>", "<bash-stdout>x</bash-stdout>",
    ],
)  # fmt: skip
def test_what_claude_code_says_in_the_users_place_is_no_prompt(tmp_path, words):
    assert told(lines(tmp_path / "c1.jsonl", claude("a", None, "08:00:01", "user", words))).seen() == []


def test_what_a_person_typed_to_the_shell_or_to_remember_is_told_as_that(tmp_path):
    log = lines(
        tmp_path / "c1.jsonl", claude("a", None, "08:00:01", "user", "<bash-input>git status</bash-input>"),
        claude("b", "a", "08:00:02", "user", "<user-memory-input>Tabs, not spaces.</user-memory-input>"),
        claude("c", "b", "08:00:03", "user", "[Request interrupted by user]"),
    )  # fmt: skip
    assert told(log).seen() == [("call", "git status"), ("learning", "Tabs, not spaces."), ("error", "interrupted")]


def test_the_turn_in_which_openclaw_saves_notes_is_dropped_with_what_it_was_answered(tmp_path):
    ask = "Pre-compaction memory flush. Store durable memories now. If nothing to store, reply with NO_REPLY."
    log = lines(
        tmp_path / "s.jsonl", claw_header(), claw("a", None, "08:00:01", "user", ask),
        claw("b", "a", "08:00:02", "assistant", [{"type": "text", "text": "Saved three notes."}]),
        claw("c", "b", "08:00:03", "user", "Why was NO_REPLY sent to the customer?"),
        claw("d", "c", "08:00:04", "assistant", [{"type": "text", "text": "A filter was missing."}]),
        claw("e", "d", "08:00:05", "user", "/status"), claw("f", "e", "08:00:06", "user", "/etc/hosts is wrong"),
    )  # fmt: skip
    assert [text for _, text in told(log).seen()] == [
        "Why was NO_REPLY sent to the customer?", "A filter was missing.", "/etc/hosts is wrong",
    ]  # fmt: skip


def test_what_openclaw_puts_around_the_words_of_a_chat_is_not_taken_nor_the_models_that_are_none(tmp_path):
    around = 'Conversation info (untrusted metadata):\n```json\n{"sender": "Mira"}\n```\n\n'
    mirror = claw("b", "a", "08:00:02", "assistant", "Sent.", provider="openclaw", model="delivery-mirror")
    log = lines(tmp_path / "s.jsonl", claw_header(), claw("a", None, "08:00:01", "user", around * 2 + "hello"), mirror)
    made = told(log)
    assert made.seen() == [("prompt", "hello"), ("reply", "Sent.")]
    assert {event.model for event in made.events.values()} == {""}


def test_a_subagent_of_openclaw_is_known_by_its_key(tmp_path):
    log = lines(tmp_path / "s.jsonl", claw_header("5e55-1"), claw("a", None, "08:00:01", "user", "look it up"))
    assert told(log).seen() == [("prompt", "look it up")]
    (tmp_path / "sessions.json").write_text(json.dumps({"agent:main:subagent:9": {"sessionId": "5e55-1"}}))
    assert told(log).seen() == [("~prompt", "look it up")]


# --- calls and failures


def test_of_a_call_the_command_and_the_files_are_told_and_of_a_result_the_failure_alone(tmp_path):
    patch = "*** Begin Patch\n*** Update File: a.py\n@@\n-x\n+y\n*** Add File: b.py\n*** End Patch"
    log = lines(
        tmp_path / "rollout.jsonl", codex("08:00:00", "session_meta", id="s"),
        codex("08:00:01", "response_item", type="function_call", name="shell", call_id="1",
              arguments=json.dumps({"command": ["bash", "-lc", "make test"]})),
        codex("08:00:02", "response_item", type="function_call_output", call_id="1", output="Exit code: 2\nno rule"),
        codex("08:00:03", "response_item", type="custom_tool_call", name="apply_patch", call_id="2", input=patch),
        codex("08:00:04", "response_item", type="custom_tool_call_output", call_id="2",
              output=json.dumps({"output": "done", "metadata": {"exit_code": 0}})),
    )  # fmt: skip
    events = sorted(told(log).events.values(), key=lambda event: event.at)
    assert [(one.command, one.files, one.failed, one.text) for one in events] == [
        ("make test", (), False, ""), ("", (), True, "Exit code: 2\nno rule"), ("", ("a.py", "b.py"), False, ""),
        ("", (), False, ""),
    ]  # fmt: skip


def test_the_folder_of_a_gemini_project_is_found_by_its_hash(tmp_path):
    project = hashlib.sha256(b"/home/mira/work").hexdigest()
    chats = tmp_path / "tmp" / "work" / "chats"
    log = lines(chats / "session.jsonl", gemini_header(projectHash=project), gemini("a", "08:00:01", "user", "hi"))
    assert told(log).folders == set()
    (chats.parent / ".project_root").write_text("/home/mira/work")
    assert told(log).folders == {"/home/mira/work"}


def test_a_broken_document_of_gemini_gives_its_whole_messages(tmp_path):
    whole = {
        **gemini_header(),
        "messages": [gemini("a", "08:00:01", "user", "one"), gemini("b", "08:00:02", "user", "2")],
    }
    text = json.dumps(whole, indent=1)
    (tmp_path / "session.json").write_text(text[: text.rindex('"timestamp"')])
    made = told(recognised(tmp_path / "session.json"))
    assert made.seen() == [("prompt", "one")]
    assert [one.reason[:8] for one in made.damage] == ["not JSON"]


# --- SQLite and packed files


class Store:
    """A store as OpenClaw 2026.8 keeps it, held open by who writes it."""

    def __init__(self, path: Path):
        self.path = path
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute(
            "CREATE TABLE transcript_events(session_id TEXT NOT NULL, seq INTEGER NOT NULL, event_json TEXT,"
            " created_at INTEGER NOT NULL, event_zstd BLOB, PRIMARY KEY(session_id, seq)) STRICT"
        )

    def put(self, session: str, *records: dict | bytes) -> "Store":
        (last,) = self.db.execute("SELECT max(seq) FROM transcript_events WHERE session_id = ?", (session,)).fetchone()
        for seq, one in enumerate(records, 0 if last is None else last + 1):
            plain, packed = (None, one) if isinstance(one, bytes) else (json.dumps(one), None)
            self.db.execute("INSERT INTO transcript_events VALUES(?, ?, ?, 0, ?)", (session, seq, plain, packed))
        return self

    @property
    def log(self):
        found = recognised(self.path)
        assert found is not None and found.format == "openclaw-sqlite"
        return found


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "openclaw-agent.sqlite")
    yield made
    made.db.close()


def packed(record: dict) -> bytes:
    return zstd().compress(json.dumps(record).encode())


def test_a_store_is_read_while_it_is_written_and_then_only_what_is_new(store):
    store.put("s", claw_header("s"), claw("a", None, "08:00:01", "user", "one"))
    made = Told().of(store.log)
    store.put("s", claw("b", "a", "08:00:02", "user", "two")).put("t", claw_header("t"), packed(
        claw("c", None, "08:00:03", "user", "three")
    ))  # fmt: skip
    more = Told().of(store.log, made.place)
    assert more.seen() == [("prompt", "two"), ("prompt", "three")]
    assert {event.session for event in more.events.values()} == {"s", "t"}
    assert more.folders == {"/w"}
    assert Told().of(store.log, more.place).count == 0
    assert store.log.size > store.path.stat().st_size  # what is in the write-ahead log counts


def test_a_branch_that_is_given_up_in_a_store_is_told_again(store):
    store.put(
        "s", claw_header("s"), claw("a", None, "08:00:01", "user", "one"), claw("b", "a", "08:00:02", "user", "no")
    )
    made = Told().of(store.log)
    made.of(store.put("s", claw("c", "a", "08:00:03", "user", "yes")).log, made.place)
    assert made.seen() == [("prompt", "one"), ("-prompt", "no"), ("prompt", "yes")]


def test_a_store_that_was_written_anew_is_read_anew(store):
    store.put("s", claw_header("s"), claw("a", None, "08:00:01", "user", "one"))
    place = Told().of(store.log).place
    store.db.execute("DELETE FROM transcript_events")
    store.put("t", claw_header("t"), claw("b", None, "08:00:02", "user", "two"))
    assert Told().of(store.log, place).seen() == [("prompt", "two")]


def test_damaged_rows_of_a_store_are_told_and_cost_no_others(store):
    whole = packed(claw("x", None, "08:00:02", "user", "lost"))
    store.put(
        "s", claw_header("s"), claw("a", None, "08:00:01", "user", "one"), b"(\xb5/\xfdgarbage", whole[:-6],
        b"\xff\xfe", claw("b", "a", "08:00:03", "user", "two"),
    )  # fmt: skip
    store.db.execute("INSERT INTO transcript_events VALUES('s', 9, NULL, 0, NULL)")
    store.db.execute("INSERT INTO transcript_events VALUES('s', 10, '[1]', 0, NULL)")
    made = Told().of(store.log)
    assert made.seen() == [("prompt", "one"), ("prompt", "two")]
    assert [one.line for one in made.damage] == [3, 4, 5, 7, 8]


def test_sessions_that_a_store_keeps_packed_are_read_once(store):
    store.db.execute(
        "CREATE TABLE session_transcript_archives(session_id TEXT, generation TEXT, archive_blob BLOB NOT NULL)"
    )
    old = b"\n".join(json.dumps(one).encode() for one in (claw_header("o"), claw("a", None, "08:00:01", "user", "old")))
    store.put("s", claw_header("s"))
    for blob in (zstd().compress(old), old, b"(\xb5/\xfd!"):
        store.db.execute("INSERT INTO session_transcript_archives VALUES('o', '1', ?)", (blob,))
    made = Told().of(store.log)
    assert made.seen() == [("prompt", "old")]
    assert len(made.damage) == 1
    assert Told().of(store.log, made.place).seen() == []


def test_a_store_whose_schema_is_damaged_is_damage(store):
    store.put("s", claw_header("s"))
    found = store.log
    store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.db.close()
    data = store.path.read_bytes()
    store.path.write_bytes(data.replace(b"CREATE TABLE trans", b"CREATE T\xd4BLE trans", 1))
    made = told(found)  # the message of SQLite quotes the bytes, which cannot be decoded
    assert (len(made.damage), made.seen()) == (1, [])
    assert recognised(store.path) is None


@pytest.mark.parametrize("seed", [0, 2, 3, 5])
def test_a_store_that_is_read_as_it_grows_tells_what_it_tells_at_once(store, seed):
    chance = random.Random(seed)
    places, parts = {"s": None, "t": None}, Told()
    for session in places:
        store.put(session, claw_header(session))
    for number in range(60):
        session = chance.choice(sorted(places))
        name, kind = f"{session}{number}", chance.choice(["user", "assistant"])
        parent = places[session] if chance.random() < 0.9 else f"{session}{chance.randrange(number + 1)}"
        words = "flush: reply with NO_REPLY" if chance.random() < 0.1 else f"word {number}"
        record = claw(name, parent, f"08:{number:02}:00", kind, [{"type": "text", "text": words}])
        store.put(session, packed(record) if chance.random() < 0.2 else record)
        places[session] = name
        if chance.random() < 0.3:
            parts.of(store.log, parts.place)
    parts.of(store.log, parts.place)
    assert parts.same() == Told().of(store.log).same()
    assert any(parts.aside.values())


def test_a_file_that_only_calls_itself_a_store_is_damage_or_no_log(tmp_path):
    (tmp_path / "a.sqlite").write_bytes(b"SQLite format 3\x00" + b"\xff" * 4000)
    assert recognised(tmp_path / "a.sqlite") is None


def test_a_packed_archive_tells_what_the_plain_one_tells_and_a_cut_one_what_is_whole(tmp_path):
    said = [
        claw(f"{n:04}", f"{n - 1:04}" if n else None, f"08:{n // 60:02}:{n % 60:02}", "user", f"{n}")
        for n in range(900)
    ]
    plain = lines(tmp_path / "s.jsonl.reset.2026-04-14T07-02-11.402Z", claw_header(), *said)
    path = tmp_path / "s.jsonl.deleted.2026-04-14T07-02-11.402Z.zst"
    path.write_bytes(zstd().compress(plain.path.read_bytes()))
    made = told(recognised(path))
    assert made.same() == told(plain).same() and len(made.events) == 900
    assert Told().of(recognised(path), made.place).count == 0
    compressor = zstd().ZstdCompressor()
    data, half = plain.path.read_bytes(), plain.path.stat().st_size // 2
    blocks = compressor.compress(data[:half], compressor.FLUSH_BLOCK) + compressor.compress(data[half:])
    path.write_bytes(blocks + b"junk")
    made = told(recognised(path))
    assert 400 < len(made.events) < 900 and len(made.damage) >= 1
