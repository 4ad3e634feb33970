"""The lines of the generated part that tell of one session: a function of its events of the day, and of nothing else.

What a log says comes onto one line of ours, bounded, with nothing in it that markdown, a terminal or our own reader
would take for more than words.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import tzinfo

from replica.quoting import visible
from replica.sessions import daily
from replica.sessions.base import Aside, Event, Kind
from replica.sessions.daily import Told
from replica.sessions.prose import sentences
from replica.sessions.topics import Call, Exchange, Session, Thread, is_nod, request

# Characters of a piece of text, and lines of a section; of one session.
TITLE, OUTCOME, ASKED, ANSWER, DECISION, COMMAND, ERROR, PATH = 110, 220, 140, 200, 260, 140, 180, 100
MOST_THREADS, MOST_EXCHANGES, MOST_DECISIONS = 8, 24, 12
MOST_COMMANDS, MOST_ERRORS, MOST_FILES, MOST_MODELS = 10, 8, 12, 12
TAKEN_BACK = "(taken back) "
LONGEST_LINE = 1_000  # characters of an output's line that are looked at
MOST_PLAIN = 4  # commands that neither leave something behind nor test or build
FOLDED = 5  # commands not shown that are worth a line


def tell(events: Sequence[Event], zone: tzinfo, folders: tuple[str, ...] = ()) -> Told:
    """All that the day's file says of one session; `messages` 0: nothing that people would say was said."""
    return _Teller(events, zone, folders).told()


class _Teller:
    def __init__(self, events: Sequence[Event], zone: tzinfo, folders: tuple[str, ...]):
        first = min(events, key=lambda event: (event.at, event.order, event.key, event.session))
        self.session, self.zone, self.folders = Session(events), zone, folders
        self.count = len({event.key for event in events})
        self.agent = re.sub(r"[^a-z0-9-]", "", first.agent.casefold()).lstrip("0123456789-")[:31] or "agent"
        self.tag = daily.tag_of(first.agent, first.session)
        self.start = self.clock(first.at)

    def told(self) -> Told:
        kinds = Counter(event.kind for event in self.session.told)
        messages = kinds[Kind.PROMPT] + kinds[Kind.REPLY]
        sections = {
            daily.TOPICS: self.topics, daily.FLOW: self.flow, daily.DECISIONS: self.decisions,
            daily.COMMANDS: self.commands, daily.FILES: self.files, daily.ERRORS: self.errors,
            daily.MODELS: self.models, daily.STATISTICS: lambda: self.statistics(kinds),
            daily.COMPACTIONS: self.compactions,
        }  # fmt: skip
        lines = [
            (section, f"- {line} `{self.tag}`")
            for section, told in sections.items()
            for line in dict.fromkeys(told() if messages else ())
        ]
        return Told(self.tag, self.agent, self.start, messages, self.count, tuple(lines))

    def clock(self, at: int) -> str:
        return daily.when(at, self.zone).strftime("%H:%M")

    def span(self, begin: int, end: int) -> str:
        first, last = self.clock(begin), self.clock(end)
        return first if first == last else f"{first}–{last}"

    def words(self, text: str, most: int) -> str:
        return words(self.near(text), most)

    def near(self, text: str) -> str:
        return near(text, self.folders)

    # --- topics

    def topics(self) -> Iterable[str]:
        threads = [thread for thread in self.session.threads if self.session.name(thread)]
        chosen = sorted(threads, key=lambda thread: (-thread.weight, thread.begin))[:MOST_THREADS]
        for thread in sorted(chosen, key=lambda thread: thread.begin):
            yield self.topic(thread)
        if len(threads) > len(chosen):
            yield f"and {_counted(len(threads) - len(chosen), 'smaller thing', 'smaller things')}"

    def topic(self, thread: Thread) -> str:
        name = self.session.name(thread)
        parts = [
            self.words(self.session.outcome(thread.exchanges, OUTCOME, name), OUTCOME).rstrip("."),
            *self.deeds(thread),
        ]
        outcome = "; ".join(part for part in parts if part)
        mark = TAKEN_BACK if thread.taken_back else ""
        line = f"{mark}**{self.words(name, TITLE).rstrip('.:')}** ({self.span(thread.begin, thread.end)})"
        return f"{line}: {outcome}" if outcome else line

    def deeds(self, thread: Thread) -> Iterable[str]:
        edited = self.edited(thread.calls)
        if edited:
            shown = [f"`{code(name, PATH)}`" for name in edited[:3]]
            more = f" and {len(edited) - 3} more" if len(edited) > 3 else ""
            yield f"edited {', '.join(shown)}{more}"
        commits = [call for call in thread.calls if _COMMIT.search(call.command) and not call.failed]
        for call in commits[-2:]:
            if found := _MESSAGE.search(call.command):
                yield f"committed “{words(found[2], 80)}”"
        said = " ".join(reply.text for exchange in thread.exchanges for reply in exchange.replies)[:40_000]
        numbers = dict.fromkeys(found[1] or found[2] for found in _PULL.finditer(said))
        if numbers:
            yield ", ".join(f"PR #{number}" for number in list(numbers)[:3])

    def edited(self, calls: Iterable[Call]) -> list[str]:
        names = [name for call in calls if not call.failed and tool(call) == "edit" for name in call.event.files]
        return [place for name in dict.fromkeys(names) if (place := self.near(name))]

    # --- flow

    def flow(self) -> Iterable[str]:
        shown = [exchange for exchange in self.session.exchanges if exchange.prompt or exchange.said or exchange.calls]
        if len(shown) > MOST_EXCHANGES:
            ranked = sorted(range(len(shown)), key=lambda at: (-self.weight(shown[at], at, len(shown)), at))
            kept = set(ranked[:MOST_EXCHANGES])
            kept |= {
                at for at in range(len(shown)) if {at - 1, at + 1} <= kept
            }  # to count one is as long as to tell it
        else:
            kept = set(range(len(shown)))
        skipped = 0
        for at, exchange in enumerate(shown):
            if at not in kept:
                skipped += 1
                continue
            if skipped:
                yield f"{self.clock(exchange.begin)} … after {_shorter(skipped)}"
                skipped = 0
            yield self.exchange(exchange)
        if skipped:
            yield f"{self.clock(shown[-1].end)} … and {_shorter(skipped)}"

    def weight(self, exchange: Exchange, at: int, count: int) -> float:
        """What is kept of a long session: its ends, and where most was said or done."""
        telling = self.session.rarity.of(" ".join(exchange.asked[:3])) + self.session.rarity.of(
            " ".join(exchange.said[-3:])
        )
        done = min(4, len(exchange.calls)) / 4 + 2 * any(_rank(call.command) >= 3 for call in exchange.calls)
        return telling + done + 3 * (at in (0, count - 1)) - 2 * is_nod(exchange.asked)

    def exchange(self, exchange: Exchange) -> str:
        line = f"{self.clock(exchange.begin)} {TAKEN_BACK if exchange.taken_back else ''}"
        if exchange.prompt:
            whole = " ".join(exchange.asked)
            asked = whole if is_nod(exchange.asked) or len(whole) <= ASKED else request(exchange.asked)
            line += f"“{self.words(asked, ASKED) or '…'}”"
        answer = self.answer(exchange)
        if answer:
            line += f" → {answer}" if exchange.prompt else answer
        done = folded(exchange.calls)
        if exchange.errors:
            done.append(
                f"model error: {words(exchange.errors[-1].text or exchange.errors[-1].name or 'broken off', 80)}"
            )
        return f"{line} [{', '.join(done)}]" if done else line

    def answer(self, exchange: Exchange) -> str:
        """What the reply comes to."""
        return self.words(self.session.outcome([exchange], ANSWER), ANSWER)

    # --- decisions

    def decisions(self) -> Iterable[str]:
        found = self.session.decisions
        best = sorted(found, key=lambda one: (-one.score, one.at, one.what))[:MOST_DECISIONS]
        for one in sorted(best, key=lambda one: (one.at, one.what)):
            kind = "To remember: " if one.kind == "remember" else ""
            kind = f"{TAKEN_BACK}{kind}" if one.taken_back else kind
            yield f"{self.clock(one.at)} {kind}{self.words(one.what, DECISION)}"

    # --- technical details

    def commands(self) -> Iterable[str]:
        runs = [call for call in self.session.calls if call.command.strip()]
        groups: dict[str, list[Call]] = {}
        for call in runs:
            groups.setdefault(_shape(self.near(call.command)), []).append(call)
        first = {shape: at for at, shape in enumerate(groups)}
        ranked = sorted(
            groups, key=lambda shape: (-max(_rank(c.command) for c in groups[shape]), -len(groups[shape]), first[shape])
        )
        ranks = {shape: max(_rank(call.command) for call in groups[shape]) for shape in ranked}
        plain = [shape for shape in ranked if ranks[shape] == 1][:MOST_PLAIN]
        shown = [*(shape for shape in ranked if ranks[shape] > 1), *plain][:MOST_COMMANDS]
        for shape in shown:
            yield self.command(groups[shape])
        rest = sum(len(groups[shape]) for shape in ranked if shape not in shown)
        if rest >= FOLDED or (rest and not shown):
            programs = Counter(
                program for shape in ranked if shape not in shown for call in groups[shape]
                if (program := _program(call.command))
            )  # fmt: skip
            names = ", ".join(
                f"`{code(name, 20)}`" for name, _ in sorted(programs.items(), key=lambda p: (-p[1], p[0]))[:4]
            )
            what = "other command" if shown else "command to look around"
            yield f"{_counted(rest, what, what.replace('command', 'commands'))}{f' ({names})' if names else ''}"

    def command(self, calls: list[Call]) -> str:
        alike = len({_flat(call.command) for call in calls}) == 1
        line = f"`{code(self.near(_first_line(calls[-1].command)), COMMAND)}`"
        if len(calls) > 1:
            line += f" ×{len(calls)}" if alike else f" and {len(calls) - 1} more like it"
        failed = sum(call.failed for call in calls)
        if failed:
            line += ", failed" if len(calls) == 1 else ", all failed" if failed == len(calls) else f", {failed} failed"
            line += ", the last one passed" if 0 < failed < len(calls) and not calls[-1].failed else ""
        return line

    def files(self) -> Iterable[str]:
        edited = self.edited(self.session.calls)
        names = [name for call in self.session.calls for name in call.event.files if tool(call) != "edit"]
        read = [place for name in dict.fromkeys(names) if (place := self.near(name)) and place not in edited]
        for verb, places in (("edited", edited), ("read", read)):
            if places:
                most = MOST_FILES if verb == "edited" else MOST_FILES // 2
                shown = ", ".join(f"`{code(place, PATH)}`" for place in places[:most])
                yield f"{verb} {shown}{f' and {len(places) - most} more' if len(places) > most else ''}"

    def errors(self) -> Iterable[str]:
        found: dict[str, list[tuple[str, str, bool]]] = {}
        calls = self.session.calls
        last = {_kind_of(call): call for call in calls}
        for call in calls:
            if call.failed:
                text = telling_line(call.error) or "failed"
                where = code(_first_line(self.near(call.command)), 50) if call.command else code(call.event.name, 40)
                passed = not last[_kind_of(call)].failed
                found.setdefault(_error_shape(text), []).append((text, f"`{where}`" if where else "", passed))
        for exchange in self.session.exchanges:
            for event in exchange.errors:
                text = telling_line(event.text) or event.name or "broken off"
                found.setdefault(_error_shape(text), []).append((text, "the model's service", False))
        ranked = sorted(found.values(), key=lambda some: -len(some))
        for some in ranked[:MOST_ERRORS]:
            text, where, passed = some[-1]
            times = f" ×{len(some)}" if len(some) > 1 else ""
            ended = "; passed later" if passed else ""
            yield f"{self.words(text, ERROR)}{f' ({where})' if where else ''}{times}{ended}"
        if len(ranked) > MOST_ERRORS:
            yield f"and {_counted(len(ranked) - MOST_ERRORS, 'other error', 'other errors')}"

    # --- models, statistics

    def models(self) -> Iterable[str]:
        signs: list[tuple[str, str]] = []
        for event in self.session.told:  # a subagent's model is no switch
            model = re.sub(r"[^\w.:@+-]", "", event.model.rpartition("/")[2])[:60]
            if model and not event.model.startswith("<") and (not signs or signs[-1][0] != model):
                signs.append((model, self.clock(event.at)))
        shown = [f"{model} ({at})" for model, at in signs]
        if len(shown) > MOST_MODELS:
            shown = [*shown[: MOST_MODELS // 2], "…", *shown[-MOST_MODELS // 2 :]]
        if shown:
            yield f"{self.agent}: {' → '.join(shown)}"

    def statistics(self, kinds: Counter) -> Iterable[str]:
        spoken = [event for event in self.session.told if event.is_message]
        messages = len(spoken)
        numbers = {
            "prompt": kinds[Kind.PROMPT], "reply": kinds[Kind.REPLY],
            "taken back": sum(event.aside is Aside.TAKEN_BACK for event in spoken), "tool call": kinds[Kind.CALL],
            "failed": sum(call.failed for call in self.session.calls),
            "aside": len(self.session.subagents),
            "model error": sum(len(exchange.errors) for exchange in self.session.exchanges),
            "compaction": sum(event.kind == Kind.COMPACTION for event in self.session.told),
        }  # fmt: skip
        span = self.span(spoken[0].at, spoken[-1].at)
        title = f" — {self.words(self.session.title, 80)}" if self.session.title else ""
        plural = "message" if messages == 1 else "messages"
        yield f"{self.agent} {span}: {messages} {plural} {daily.counts(numbers)}{title}"

    def compactions(self) -> Iterable[str]:
        for event in self.session.told:
            if event.kind == Kind.COMPACTION:
                said = [one for one in sentences(event.text) if len(one) > 3 and not _CONTINUED.match(one)][:2]
                text = self.words(" ".join(said), ANSWER) or "what was said before gave way to a summary"
                yield f"{self.clock(event.at)} {text}"


# --- words of a log on a line of ours

_HTML = re.compile(r"<(?=[A-Za-z/!?])")
_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)")


def words(text: str, most: int) -> str:
    """Words of a log within a line: one line, at most `most` characters, no markup but code."""
    line = " ".join(visible(text).replace("\t", " ").split())
    if len(line) > most:
        cut = line[: most - 1]
        space = cut.rfind(" ")
        line = f"{cut[:space] if space > most * 0.6 else cut}".rstrip(" ,;:–—-(") + "…"
    parts, end = [], 0
    for found in _CODE.finditer(line):
        parts += [_tame(line[end : found.start()]), f"`{found[2].strip().replace('`', chr(39))}`"]
        end = found.end()
    return "".join([*parts, _tame(line[end:])])


def _tame(text: str) -> str:
    """Text outside of code: what would open a tag, an image, a code span or bold type is only a character."""
    text = text.replace("\\", "\\\\") if "\\" in text else text
    text = _HTML.sub(r"\\<", text).replace("![", "!\\[").replace("](", "]\\(").replace("`", "'").replace("**", "*")
    return re.sub(r"(?<!\w)__|__(?!\w)", r"\\_\\_", text)


def code(text: str, most: int) -> str:
    """What stands between backticks on a line of ours."""
    line = " ".join(visible(text).replace("\t", " ").split()).replace("`", "'")
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


_HOME = re.compile(
    r"(?:/(?:home|Users)/[^/\s\"'`:;,)]+|(?<![\w/.~-])/root"
    r"|[A-Za-z]:[\\/]Users[\\/][^\\/\s\"'`:;,)]+)(?=[/\\\s\"'`:;,)]|$)"
)


def near(text: str, folders: Sequence[str] = ()) -> str:
    """Text in which paths are said from the session's folder, or from the home: no user's name, no clone's place."""
    for folder in sorted(folders, key=lambda one: (-len(one), one)):
        place = re.escape(folder.rstrip("/\\"))
        if len(place) > 3 and re.search(place, text):
            text = re.sub(rf"{place}[/\\](?=[^\s\"'`:;,)])", "", text)
            text = re.sub(rf"{place}(?=[\s\"'`:;,)]|$)", ".", text)
    return _HOME.sub("~", text)


def _shorter(number: int) -> str:
    return _counted(number, "shorter exchange", "shorter exchanges")


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


# --- tools and commands

_EDIT = re.compile(r"edit|write|patch|create|replace|insert|notebook|save|append", re.IGNORECASE)
_LOOK = re.compile(r"read|view|open|cat|ls|list|glob|grep|find|search|look|get", re.IGNORECASE)
_WEB = re.compile(r"web|browser|fetch|url|http", re.IGNORECASE)
_OTHERS = re.compile(r"^(?:task|agent|spawn\w*|delegate\w*|sub_?agent\w*|sessions_spawn)$", re.IGNORECASE)


def tool(call: Call) -> str:
    """What kind of tool was used: run, edit, look, web, agent, or other."""
    name = call.event.name
    if call.command.strip():
        return "run"
    if _OTHERS.search(name):
        return "agent"
    if _WEB.search(name):
        return "web"
    if _EDIT.search(name) and "todo" not in name.casefold():
        return "edit"
    return "look" if _LOOK.search(name) else "other"


def folded(calls: Sequence[Call]) -> list[str]:
    """ "ran 4 commands", "edited 2 files", "1 failed"."""
    kinds = Counter(tool(call) for call in calls)
    done = []
    if kinds["run"]:
        done.append(f"ran {_counted(kinds['run'], 'command', 'commands')}")
    for kind, verb in (("edit", "edited"), ("look", "read")):
        files = {name for call in calls if tool(call) == kind for name in call.event.files}
        if kinds[kind]:
            done.append(
                f"{verb} {_counted(max(1, len(files)), 'file', 'files')}"
                if files or kind == "edit"
                else f"looked {_times(kinds[kind])}"
            )
    if kinds["web"]:
        done.append(f"asked the web {_times(kinds['web'])}")
    if kinds["agent"]:
        done.append(_counted(kinds["agent"], "subagent", "subagents"))
    if kinds["other"]:
        done.append(_counted(kinds["other"], "other tool call", "other tool calls"))
    if failed := sum(call.failed for call in calls):
        done.append(f"{failed} failed")
    return done


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


_CONTINUED = re.compile(r"this session is being continued from|the conversation is summarized below", re.IGNORECASE)
_COMMIT = re.compile(r"\bgit\b[^|;&\n]*\bcommit\b")
_MESSAGE = re.compile(r"(?:-[a-z]*m|--message)[ =]*(['\"])(.+?)\1", re.DOTALL)
_PULL = re.compile(r"(?:/(?:pull|merge_requests)/(\d{1,7})\b|\b(?:PR|pull request|MR) ?#(\d{1,7})\b)")

_LASTING = re.compile(
    r"^(?:git (?:\S+ )*?(?:commit|tag|push|merge|rebase|revert|cherry-pick|reset|stash|init|clone|switch -c"
    r"|checkout -b)\b|gh (?:pr|release|issue|repo) (?:create|merge|close|edit)|"
    r"(?:kubectl|helm|oc) (?:apply|delete|rollout|install|upgrade|scale)|terraform (?:apply|destroy)"
    r"|ansible-playbook|docker push|(?:npm|pnpm|yarn|cargo|poetry|uv) publish|twine upload|"
    r"(?:systemctl|service|launchctl|crontab|at)\b|(?:createdb|dropdb|pg_dump|pg_restore|mysqldump"
    r"|sqlite3 \S+ .*(?:insert|update|delete|alter|create|drop))|"
    r"\S*(?:migrate|migration|deploy|release|backup|restore|rollback|seed)\b|(?:make|just|npm run|pnpm|yarn|rake"
    r"|invoke|task|python3? manage\.py|php artisan|bin/\S+|\./\S+|mix|flask|alembic|rails|dotnet ef) \S*(?:migrat"
    r"|deploy|release|publish|upgrade|backup|restore)|"
    r"rm|mv|rsync|scp|mail|sendmail|curl\b.*(?:-X ?(?:POST|PUT|DELETE|PATCH)|--data|-d ))",
    re.IGNORECASE,
)
_CHECKING = re.compile(
    r"^(?:\S*/)?(?:pytest|tox|nox|ruff|mypy|eslint|tsc|jest|vitest|mvn|gradlew?|ctest|cmake|bazel|phpunit|rspec"
    r"|make|just|ninja|docker(?:-compose)?|podman|"
    r"cargo|go (?:test|build|vet|run|mod)|(?:npm|pnpm|yarn|bun)\b|pip3?|pipx|uv|poetry|apt(?:-get)?|brew|dnf|apk"
    r"|python3? -m (?:pytest|unittest|build|pip|mypy)|latexmk|pandoc|R CMD|Rscript)\b",
    re.IGNORECASE,
)
_LOOKING_PROGRAMS = """
ls cat grep egrep rg ag find fd head tail wc pwd cd echo printf which type file stat env printenv date ps df du tree
less more sed awk sort uniq cut tr jq column diff cmp whoami id hostname uname history man true false test sleep
export source set realpath basename dirname nl od xxd strings lsof top
"""
_LOOKING = frozenset(_LOOKING_PROGRAMS.split())
_GIT_LOOKING = re.compile(
    r"^git (?:\S+ )*?(?:status|diff|log|show|branch|remote|blame|ls-files|rev-parse|describe|grep|config)\b"
)
_PREFIX = re.compile(
    r"^(?:(?:sudo(?: -\S+)*|time|nice(?: -n ?\d+)?|nohup|timeout \S+|env|command|exec)\s+"
    r"|[A-Za-z_]\w*=(?:\"[^\"]*\"|'[^']*'|\S*)\s+)+"
)
_SHELL = re.compile(r"^(?:\S*/)?(?:ba|z|da)?sh (?:-\w+ )*-\w*c\s+(['\"]?)(.*)\1$", re.DOTALL)
_PIECES = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'|(&&|\|\||[;|\n])")


def _first_line(command: str) -> str:
    """A command as people would name it: its first line, without the shell around it and the step into a folder."""
    bare = command.strip()
    if found := _SHELL.match(bare):
        bare = found[2].strip()
    bare = re.sub(r"^(?:cd\s+(?:\"[^\"]*\"|'[^']*'|\S+)\s*(?:&&|;)\s*)+", "", bare)
    bare = re.sub(r"^(?:git add [^&;|]*(?:&&|;)\s*)+(?=git )", "", bare)
    first, _, rest = bare.partition("\n")
    return f"{first} …" if rest.strip() else first


def _pieces(command: str) -> list[str]:
    text, parts, begin = _first_line(command)[:4_000], [], 0
    for found in _PIECES.finditer(text):
        if found[1]:
            parts.append(text[begin : found.start()])
            begin = found.end()
    parts.append(text[begin:])
    return [bare for part in parts if (bare := _PREFIX.sub("", part.strip(" ()")))]


def _program(command: str) -> str:
    first = next(iter(_pieces(command)), "").split()
    return first[0].rpartition("/")[2][:30] if first else ""


def _rank(command: str) -> int:
    """3: it leaves something behind; 2: it tests or builds; 1: it does something; 0: it looks around."""
    return max((_rank_piece(piece) for piece in _pieces(command)), default=0)


def _rank_piece(piece: str) -> int:
    if _LASTING.match(piece):
        return 3
    if _CHECKING.match(piece):
        return 2
    program = piece.split()[0].rpartition("/")[2] if piece.split() else ""
    return 0 if program in _LOOKING or _GIT_LOOKING.match(piece) else 1


def _flat(command: str) -> str:
    return " ".join(command.split())


def _shape(command: str) -> str:
    """What makes two commands alike: of tests and builds the program and its first word, else all of it."""
    if _rank(command) == 2:
        best = next(piece for piece in _pieces(command) if _rank_piece(piece) == 2)
        return " ".join(
            [word for word in best.split() if not word.startswith("-")][:2][: 1 if _ONE_WORD.match(best) else 2]
        )
    return _flat(_first_line(command))


_ONE_WORD = re.compile(r"^(?:\S*/)?(?:pytest|tox|nox|ruff|mypy|jest|vitest|tsc|eslint|phpunit|rspec|ctest)\b")


def _kind_of(call: Call) -> tuple:
    """What is equal for calls that are the same thing done again."""
    return (_shape(call.command),) if call.command else (call.event.name, call.event.files)


# --- errors

_TELLING = re.compile(
    r"error|exception|failed|failure|fatal|denied|not found|no such|cannot|can't|refused|timed? ?out|invalid"
    r"|unexpected|assert|panic|conflict",
    re.IGNORECASE,
)


def telling_line(text: str) -> str:
    """The line of an output that says what went wrong: of a traceback the last, else the first that names a fault."""
    lines = [line.strip() for line in text[-20_000:].splitlines() if line.strip()]
    if not lines:
        return ""
    faults = [line for line in lines if _TELLING.search(line) and not line.startswith(("File ", "at ", "#"))]
    if any("Traceback" in line for line in lines) and faults:
        return (faults[-1] if "Traceback" not in faults[-1] else lines[-1])[:LONGEST_LINE]
    return (faults or lines)[0][:LONGEST_LINE]


def _error_shape(text: str) -> str:
    bare = re.sub(r"(['\"`]).*?\1", "'…'", text[:400].casefold())  # a long word takes long
    return re.sub(r"(?:[~.\w-]*[/\\])+[\w.-]+|0x[0-9a-f]+|\b[0-9a-f]{7,}\b|\d+", "#", bare)[:200]
