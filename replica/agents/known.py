"""The agents that can be connected: where each keeps its configuration, and what we want in there.

An agent gets hooks, which are commands, and the MCP server. Both name the clone; that is how they are known as ours.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from replica.agents.jsontext import END
from replica.errors import UsageError

SERVER = "replica"  # the name of our MCP server, and of OpenClaw's hook, where it is free

# What a hook is told to do. The names are those of `replica hook`.
START, COMPACT, STOP = "session-start", "pre-compact", "session-end"


class Wish(NamedTuple):
    """One thing that we want in a file: `value` at `path`; the last of `path` is END for an element of a list."""

    path: tuple[str | int, ...]
    value: Any


class Target(NamedTuple):
    """One file. `form`: json, toml, or text, which is ours as a whole. `make`: whether to begin the file."""

    file: Path
    form: str
    wishes: tuple[Wish, ...]
    make: bool = True


class Place(NamedTuple):
    """Where to connect: which clone, for which folder the agent works in, and the person's environment."""

    root: Path
    project: Path
    scope: str  # "project" or "user"
    home: Path
    environ: Mapping[str, str]

    def folder(self, variable: str, usual: str) -> Path:
        """The agent's own folder: what the environment says, or else below the home folder."""
        given = self.environ.get(variable)
        return Path(given).expanduser().absolute() if given else self.home / usual


class Agent(NamedTuple):
    """`targets`: what to write. `scopes`: the usual one first. `approve`: what remains to be done by a person."""

    name: str
    title: str
    program: str
    folder: Callable[[Place], Path]
    targets: Callable[[Place, "Commands"], list[Target]]
    scopes: tuple[str, ...]
    approve: Callable[[Place], list[str]]


class Commands(NamedTuple):
    """Command lines, as lists: of a hook, and of the MCP server."""

    hook: Callable[[str], list[str]]
    server: list[str]


def project_of(root: Path, home: Path) -> Path:
    """The folder that an agent works in: the working tree that the clone lies in, or the clone itself.

    Agents look for a project's settings in the working tree's root. A home folder under version control is no project.
    """
    for folder in (root, *root.parents):
        if (folder / ".git").exists() and folder != home:
            return folder
    return root


# --- what is run


def commands(agent: str, root: Path) -> Commands:
    """The command lines for one agent and clone: absolute, since an agent's PATH may be any."""
    place = os.fspath(root)
    return Commands(
        lambda event: [*python("cli.hook"), event, "--agent", agent, "--dir", place],
        [*python("cli.main"), "mcp", "--dir", place],
    )


def python(module: str) -> list[str]:
    """How to run a module of ours from any folder: neither that folder nor PYTHONPATH may put others before it."""
    base = [sys.executable, "-E", "-P"]
    if _installed():
        return [*base, "-m", module]
    ours = os.fspath(Path(__file__).parents[2])
    run = f"import sys, runpy; sys.path.insert(0, {ours!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [*base, "-c", run]


@cache
def _installed() -> bool:
    """Whether the interpreter finds this very package by itself."""
    ask = "import replica.agents; print(replica.agents.__file__)"
    done = subprocess.run(
        [sys.executable, "-E", "-P", "-c", ask], cwd=Path(sys.executable).parent, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    return done.stdout.strip() == os.fspath(Path(__file__).parent / "__init__.py")


def line(words: list[str]) -> str:
    """A command for a shell. Windows' shells agree on double quotes only."""
    if os.name != "nt":
        return shlex.join(words)
    return " ".join(f'"{word}"' if any(char in word for char in " ()&';,=") else word for word in words)


# --- what is ours


def of_clone(words: Any, root: Path) -> bool:
    """Whether a command line names this clone as its own last words, or one that is gone.

    A folder that was moved is connected anew; what it left behind is replaced.
    """
    if not isinstance(words, list) or len(words) < 3 or words[-2] != "--dir" or not isinstance(words[-1], str):
        return False
    return words[-1] == os.fspath(root) or not os.path.isdir(os.path.join(words[-1], ".replica"))


def is_hook(handler: Any, root: Path) -> bool:
    command = handler.get("command") if isinstance(handler, dict) else None
    if not isinstance(command, str) or "--agent" not in command:
        return False
    try:
        words = shlex.split(command, posix=os.name != "nt")
    except ValueError:
        return False
    if os.name == "nt":
        words = [word.strip('"') for word in words]
    events = (START, COMPACT, STOP)
    return len(words) >= 6 and words[-5] in events and words[-4] == "--agent" and of_clone(words, root)


def is_server(server: Any, root: Path) -> bool:
    words = server.get("args") if isinstance(server, dict) else None
    return isinstance(words, list) and "mcp" in words[-3:] and of_clone(words, root)


# --- the agents


def _hooks(run: Commands, limits: Mapping[str, tuple[str, int]], **more: Any) -> list[Wish]:
    """`limits`: for each of our events, the agent's name for it and the time limit in its unit."""
    return [
        Wish(
            ("hooks", name, END),
            {"hooks": [{"type": "command", "command": line(run.hook(event)), "timeout": limit, **more}]},
        )
        for event, (name, limit) in limits.items()
    ]


def _server(run: Commands) -> dict[str, Any]:
    return {"command": run.server[0], "args": run.server[1:]}


def _claude_folder(place: Place) -> Path:
    return place.folder("CLAUDE_CONFIG_DIR", ".claude")


def _claude(place: Place, run: Commands) -> list[Target]:
    # .claude/settings.json and .mcp.json are for the whole team, and belong into version control: paths of one machine
    # do not. The private places of a project are settings.local.json, and a part of .claude.json.
    hooks = _hooks(run, {START: ("SessionStart", 10), COMPACT: ("PreCompact", 10), STOP: ("SessionEnd", 10)})
    server = {"type": "stdio", **_server(run), "env": {}}
    folder = place.environ.get("CLAUDE_CONFIG_DIR")
    state = (_claude_folder(place) if folder else place.home) / ".claude.json"
    if place.scope == "user":
        settings, where = _claude_folder(place) / "settings.json", ("mcpServers", SERVER)
    else:
        settings = place.project / ".claude" / "settings.local.json"
        where = ("projects", Path(os.path.realpath(place.project)).as_posix(), "mcpServers", SERVER)
    return [Target(settings, "json", tuple(hooks)), Target(state, "json", (Wish(where, server),))]


def _claude_approve(place: Place) -> list[str]:
    return ["in Claude Code: restart sessions that are open; /hooks and /mcp show what is connected"]


def _codex_folder(place: Place) -> Path:
    return place.folder("CODEX_HOME", ".codex")


def _codex(place: Place, run: Commands) -> list[Target]:
    folder = _codex_folder(place) if place.scope == "user" else place.project / ".codex"
    # Codex allows 3 seconds at the end of a session at most.
    hooks = _hooks(run, {START: ("SessionStart", 10), COMPACT: ("PreCompact", 10), STOP: ("SessionEnd", 3)})
    return [
        Target(folder / "hooks.json", "json", tuple(hooks)),
        Target(folder / "config.toml", "toml", (Wish(("mcp_servers", SERVER), _server(run)),)),
    ]


def _codex_approve(place: Place) -> list[str]:
    told = ["in Codex: open /hooks and trust the three hooks of replica; until then it passes over them without a word"]
    if place.scope == "project":
        told.append(f"Codex reads {place.project / '.codex'} only where the project is trusted")
    return told


def _gemini_folder(place: Place) -> Path:
    home = place.environ.get("GEMINI_CLI_HOME")
    return (Path(home).expanduser().absolute() if home else place.home) / ".gemini"


def _gemini(place: Place, run: Commands) -> list[Target]:
    folder = _gemini_folder(place) if place.scope == "user" else place.project / ".gemini"
    limits = {START: ("SessionStart", 10_000), COMPACT: ("PreCompress", 10_000), STOP: ("SessionEnd", 10_000)}
    wishes = [*_hooks(run, limits, name=SERVER), Wish(("mcpServers", SERVER), _server(run))]
    return [Target(folder / "settings.json", "json", tuple(wishes))]


def _gemini_approve(place: Place) -> list[str]:
    if place.scope == "user":
        return []
    return ["in Gemini CLI: trust the folder (/permissions); it warns once of a project's new hooks"]


def _openclaw_folder(place: Place) -> Path:
    return place.folder("OPENCLAW_STATE_DIR", ".openclaw")


def _openclaw(place: Place, run: Commands) -> list[Target]:
    from replica.agents import openclaw

    base = _openclaw_folder(place) if place.scope == "user" else place.project
    folder, config = base / "hooks" / SERVER, place.environ.get("OPENCLAW_CONFIG_PATH")
    file = Path(config).expanduser() if config else _openclaw_folder(place) / "openclaw.json"
    return [
        Target(folder / "HOOK.md", "text", (Wish((), openclaw.description(SERVER, place.root)),)),
        Target(folder / "handler.js", "text", (Wish((), openclaw.handler(run.hook, (START, COMPACT, STOP))),)),
        Target(file, "json", (Wish(("mcp", "servers", SERVER), _server(run)),), make=False),
    ]


def _openclaw_approve(place: Place) -> list[str]:
    return [f"run: openclaw hooks enable {SERVER}", "then restart the gateway: openclaw gateway restart"]


AGENTS = {
    agent.name: agent
    for agent in (
        Agent("claude-code", "Claude Code", "claude", _claude_folder, _claude, ("project", "user"), _claude_approve),
        Agent("codex", "Codex", "codex", _codex_folder, _codex, ("project", "user"), _codex_approve),
        # One gateway serves a person; it is no matter of a project.
        Agent("openclaw", "OpenClaw", "openclaw", _openclaw_folder, _openclaw, ("user", "project"), _openclaw_approve),
        Agent("gemini", "Gemini CLI", "gemini", _gemini_folder, _gemini, ("project", "user"), _gemini_approve),
    )
}


def named(name: str) -> Agent:
    """The agent of that name. Raises UsageError: there is none."""
    if name not in AGENTS:
        raise UsageError(f"no agent is called {name!r}", hint=f"it is one of {', '.join(AGENTS)}")
    return AGENTS[name]


def found(agent: Agent, place: Place) -> bool:
    """Whether the agent seems to be on this machine."""
    return agent.folder(place).is_dir() or shutil.which(agent.program, path=place.environ.get("PATH")) is not None


def to_do(agent: Agent, place: Place) -> list[str]:
    """What remains to be done by a person."""
    server = [] if find_spec("mcp") else ["for the MCP server: pip install 'memory-replica[mcp]'"]
    return [*agent.approve(place), *server]


def snippet(target: Target) -> str:
    """What a person would put into the file."""
    if target.form == "text":
        return target.wishes[0].value
    if target.form == "toml":
        from replica.agents import tomltext

        return "".join(tomltext.table(wish.path, wish.value) for wish in target.wishes)
    whole: dict[str, Any] = {}
    for wish in target.wishes:
        here = whole
        for name, after in zip(wish.path, wish.path[1:], strict=False):
            here = here.setdefault(name, [] if after == END else {})
        if wish.path[-1] == END:
            here.append(wish.value)
        else:
            here[wish.path[-1]] = wish.value
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
