"""A day in a bakery, as four sessions of three agents tell it: invented, and in another domain than the samples.

`bakery.txt`, a line each: `=` a session (agent, id, model), `#` its title, `/` the folder it works in, and with the
time before them `>` a prompt, `<` a reply, `*` a tool call, `!` that the last call failed; `@` another model, `^` an
error of the model's service, `~` a compaction.
"""

import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from replica.sessions.base import Event, Kind

DAY = "2026-05-06"
ZONE = ZoneInfo("Europe/Lisbon")


def day(only: str = "") -> tuple[list[Event], dict[str, tuple[str, ...]]]:
    """All events of the day, or of the agents whose name begins so; and the folders of the sessions."""
    events: list[Event] = []
    folders: dict[str, tuple[str, ...]] = {}
    agent = session = model = title = ""
    at = 0
    for line in (Path(__file__).parent / "bakery.txt").read_text("utf-8").splitlines():
        sign, rest = line[:1], line[1:].strip()
        text, name, more = rest, "", {}
        if not line:
            continue
        if sign == "=":
            agent, session, model = rest.split()
            continue
        if sign == "/":
            folders[session] = (line,)
            continue
        if sign == "@":
            model = rest
            continue
        if sign == "#":
            title = rest
            continue
        if sign == "^":
            kind = Kind.ERROR
        elif sign == "~":
            kind, text = Kind.COMPACTION, rest.replace("\\n", "\n")
        else:
            clock, sign, text = line[:5], line[6], line[8:].replace("\\n", "\n")
            at = int(datetime.fromisoformat(f"{DAY}T{clock}").replace(tzinfo=ZONE).timestamp() * 1000)
            kind = {">": Kind.PROMPT, "<": Kind.REPLY, "*": Kind.CALL, "!": Kind.RESULT}[sign]
        if kind is Kind.CALL:
            name, _, given = text.partition(" ")
            given = json.loads(line[8:].partition(" ")[2])
            text, more = "", {"command": given.get("command", ""), "files": tuple(given.get("files", ()))}
        if kind is Kind.RESULT:
            more = {"failed": True}
        here = model if kind is Kind.REPLY else ""
        number = len(events)
        if title:
            events.append(Event(Kind.TITLE, agent, session, f"e{number}", at, number, title))
            title, number = "", number + 1
        call = events[-1] if events else None
        if call is not None and call.kind is Kind.CALL and kind is not Kind.RESULT and call.session == session:
            # What is not said to have failed has worked.
            events.append(Event(Kind.RESULT, agent, session, f"result:{call.key}", call.at, number, name=call.name))
            number += 1
        key = f"result:{events[-1].key}" if kind is Kind.RESULT else f"e{number}"
        events.append(Event(kind, agent, session, key, at, number, text, name, here, **more))
    return [event for event in events if event.agent.startswith(only)], folders
