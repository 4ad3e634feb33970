"""What `replica up` shows: a calm table on a terminal, plain lines elsewhere, or JSON events."""

import asyncio
import os
import sys
import time

from cli.common import as_json, cell

REDRAW = 0.5  # seconds between looks at a changing table
KEPT = 8  # lines of what came in lately

# Events that a person wants a line of; the others show in the table or in --json only.
LINES = {
    "listening": "listening on {host}:{port}",
    "connected": "{clone} is here",
    "disconnected": "{clone} has gone",
    "ended": "{clone}: {reason}",
    "received": "{changes} from {clone}: {documents}",
    "files": "{summary}",
    "unreachable": "{message}",
    "diverged": "content differs from {clone}'s in {documents}; rebuilt from the log",
    "healed": "content is equal with {clone} again",
    "refused": "refused: {message}",
    "network_changed": "the network has changed: {addresses}",
    "rejoined": "{message}",
    "error": "error: {message}",
}


class View:
    """Shows a node's events. `tell` takes each one; `draw` runs beside the node until cancelled."""

    def __init__(self, node, *, json: bool):
        self._node, self._json = node, json
        self._lively = not json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._lines: list[str] = []
        self._live = None

    def tell(self, event: dict) -> None:
        if self._json:
            self._print(as_json(event))
            return
        line = _line(event)
        if line is None:
            return
        stamped = f"{time.strftime('%H:%M:%S')}  {cell(line)}"
        if self._lively:
            self._lines = [*self._lines, stamped][-KEPT:]
        else:
            self._print(stamped)

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            # Nobody listens any more; the node goes on.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process

    async def draw(self) -> None:
        if not self._lively:
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(no_color=bool(os.environ.get("NO_COLOR")) or None, highlight=False)
        with Live(console=console, auto_refresh=False, transient=False) as self._live:
            while True:
                self._live.update(self._table(), refresh=True)
                await asyncio.sleep(REDRAW)

    def close(self) -> None:
        """One last picture, so that what stays on the terminal is true."""
        if self._live is not None:
            self._live.stop()

    def _table(self):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        clone = self._node.clone
        peers = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("peer", "state", "waits for them", "waits for us"):
            peers.add_column(title)
        for state in self._node.peer_states() if self._node.started.is_set() else []:
            how = "in step" if state["in_step"] else "exchanging" if state["online"] else "out of reach"
            peers.add_row(Text(cell(state["name"])), how, str(state["behind"] or "-"), str(state["ahead"] or "-"))
        conflicts = len(clone.documents.all_conflicts())
        held = clone.store.value("SELECT count(*) FROM held")
        head = cell(f"{clone.name} in {clone.workspace_name}, port {self._node.port}")
        waits = ", ".join(
            words for count, words in (
                (conflicts, f"{conflicts} open conflicts (`replica conflicts`)"),
                (held, f"{held} files held back (`replica status`)"),
            ) if count
        )  # fmt: skip
        recent = Text("\n".join(self._lines), style="dim")
        return Group(Text(head, style="bold"), peers, *([Text(waits, style="yellow")] if waits else []), recent)


def _line(event: dict) -> str | None:
    template = LINES.get(event["event"])
    if template is None or (event["event"] == "ended" and not event["by_peer"]):
        return None  # what we told others is no news here
    facts = dict(event)
    if event["event"] == "files":
        facts["summary"] = _summary(event)
    if event["event"] == "received":
        if not event["documents"]:
            return None
        facts["changes"] = f"{event['changes']} change" + ("s" if event["changes"] != 1 else "")
    for key in ("documents", "addresses"):
        if isinstance(facts.get(key), list):
            facts[key] = ", ".join(facts[key][:5]) + (" …" if len(facts[key]) > 5 else "")
    line = template.format(**facts)
    return line + (f" ({event['hint']})" if event.get("hint") else "")


def _summary(event: dict) -> str:
    parts = []
    for key, words in (("taken", "took in"), ("written", "wrote"), ("deleted", "deleted"), ("removed", "removed")):
        names = event[key]
        if names:
            parts.append(f"{words} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    parts += [f"holds back {path}: {what}" for path, what in event["held"].items()]
    return "; ".join(parts)
