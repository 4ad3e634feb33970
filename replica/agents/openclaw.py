"""OpenClaw's hook: a folder with a description and a module that the gateway loads. Both are written by us alone."""

import json
from collections.abc import Callable
from pathlib import Path

_DESCRIPTION = """\
---
name: {name}
description: "Memory from replica: given at the start of a session, kept at its end"
metadata: {metadata}
---

# {name}

Gives the agent the memory of the clone `{root}` when a session begins, and has the session's log taken into
that memory when it ends or is compacted.

Written by `replica connect openclaw`; `replica disconnect openclaw` removes it.
"""

EVENTS = (
    "agent:bootstrap", "command:new", "command:reset", "session:auto-reset", "session:compact:before",
    "gateway:shutdown",
)  # fmt: skip

# OpenClaw sets no time limit: the handler sets its own. The memory of a session is read once, since `agent:bootstrap`
# comes again with every turn, and a context that changes cannot be cached.
_HANDLER = """\
// Written by `replica connect openclaw`; changes here are overwritten.
import { spawn } from "node:child_process";

const RUN = %(run)s;
const PATIENCE = 1500; // milliseconds; the command itself gives up after 1000
const SESSIONS = 64; // remembered at most
const memory = new Map();

function begin(words, input) {
  const child = spawn(words[0], words.slice(1), { stdio: ["pipe", "pipe", "ignore"], windowsHide: true });
  child.on("error", () => {});
  child.stdin.on("error", () => {});
  child.stdin.end(JSON.stringify(input));
  return child;
}

function read(input) {
  return new Promise((resolve) => {
    const child = begin(RUN.start, input);
    let out = "";
    const give = (text) => {
      clearTimeout(timer);
      resolve(text);
    };
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      give("");
    }, PATIENCE);
    child.stdout.setEncoding("utf8");
    child.stdout.on("data", (piece) => {
      out += piece.length + out.length < 65536 ? piece : "";
    });
    child.on("error", () => give(""));
    child.on("close", () => {
      try {
        give(JSON.parse(out).hookSpecificOutput.additionalContext);
      } catch {
        give("");
      }
    });
  });
}

export default async function replica(event) {
  const about = `${event.type}:${event.action}`;
  const key = String(event.sessionKey ?? "");
  const input = { hook_event_name: about, session_id: String(event.context?.sessionId ?? key) };
  if (about === "agent:bootstrap") {
    const files = event.context?.bootstrapFiles;
    if (!Array.isArray(files)) return;
    if (!memory.has(key)) {
      if (memory.size >= SESSIONS) memory.delete(memory.keys().next().value);
      memory.set(key, read(input));
    }
    const content = await memory.get(key);
    if (content) {
      event.context.bootstrapFiles = [...files, { name: "REPLICA.md", path: %(path)s, content, missing: false }];
    }
    return;
  }
  if (about !== "session:compact:before") memory.delete(key);
  const child = begin(about === "session:compact:before" ? RUN.compact : RUN.stop, input);
  child.stdout.destroy();
  child.unref();
}
"""


def description(name: str, root: Path) -> str:
    metadata = json.dumps({"openclaw": {"events": list(EVENTS), "export": "default"}})
    return _DESCRIPTION.format(name=name, metadata=metadata, root=root)


def handler(hook: Callable[[str], list[str]], events: tuple[str, str, str]) -> str:
    start, compact, stop = events
    run = {"start": hook(start), "compact": hook(compact), "stop": hook(stop)}
    path = hook(start)[-1] + "/REPLICA.md"
    return _HANDLER % {"run": json.dumps(run, indent=2), "path": json.dumps(path)}
