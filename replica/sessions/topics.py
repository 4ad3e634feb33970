"""What a session was about: its threads, what came of them, what was decided; one session at a time. Pure.

Nothing here counts words to name a topic. A thread is a run of neighbouring requests; it is named by the person's own
sentence and told by what came of it. Rarity of words within the session only chooses among sentences that say
something. All of it follows from one session's events of one day, so every clone that has them says the same.
docs/sessions.md has the rules.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log

from replica.sessions.base import Aside, Event, Kind
from replica.sessions.prose import LOW, content_words, is_question, sentences, spoken

PAUSE = 40 * 60_000  # milliseconds without a word after which a request begins a thread, unless it plainly goes on
GOOD = 1.4  # what a second sentence must be worth
RELATED = 0.22  # share of a request's words, by rarity, that a thread must know for it to go on


LONGEST_COMMAND = 4_000  # characters


@dataclass(slots=True)
class Call:
    """One use of a tool, and how it ended."""

    event: Event
    failed: bool = False
    error: str = ""
    done: bool = False  # a result was seen

    @property
    def command(self) -> str:
        """What was run, as far as it is looked at."""
        return self.event.command[:LONGEST_COMMAND]


@dataclass
class Exchange:
    """One request and all that followed until the next."""

    prompt: Event | None
    replies: list[Event] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    errors: list[Event] = field(default_factory=list)

    @property
    def begin(self) -> int:
        return min(event.at for event in self._events)

    @property
    def end(self) -> int:
        return max(event.at for event in self._events)

    @property
    def taken_back(self) -> bool:
        return all(event.aside for event in self._events)

    @property
    def _events(self) -> list[Event]:
        prompt = [self.prompt] if self.prompt else []
        return [*prompt, *self.replies, *(call.event for call in self.calls), *self.errors]

    @cached_property
    def asked(self) -> list[str]:
        return sentences(spoken(self.prompt.text)) if self.prompt else []

    @cached_property
    def said(self) -> list[str]:
        return [one for reply in self.replies for one in sentences(reply.text)]

    @cached_property
    def words(self) -> Counter[str]:
        found = Counter(content_words(" ".join(self.asked)))
        found.update(found.keys())  # a request counts twice
        found.update(content_words(" ".join(self.said)))
        for call in self.calls:
            found.update(content_words(" ".join(name.rpartition("/")[2] for name in call.event.files)))
        return found


@dataclass
class Thread:
    """Neighbouring requests about one thing."""

    exchanges: list[Exchange]

    @property
    def begin(self) -> int:
        return self.exchanges[0].begin

    @property
    def end(self) -> int:
        return max(exchange.end for exchange in self.exchanges)

    @property
    def taken_back(self) -> bool:
        return all(exchange.taken_back for exchange in self.exchanges)

    @property
    def calls(self) -> list[Call]:
        return [call for exchange in self.exchanges for call in exchange.calls]

    @property
    def weight(self) -> int:
        return sum(2 + len(one.said) + len(one.calls) for one in self.exchanges if one.prompt or one.said)


@dataclass(frozen=True)
class Decision:
    """`at`: when; `what`: in whose words; `by`: "person" or "agent"; `kind`: "decision", or "remember"."""

    at: int
    what: str
    by: str
    kind: str = "decision"
    score: float = 0.0
    taken_back: bool = False


class Session:
    """A session's events of one day, read once."""

    def __init__(self, events: Iterable[Event]):
        ordered = sorted(events, key=lambda event: (event.at, event.order, event.key))
        # What was taken back was said, and may have been done: it is told, and marked.
        self.told = [event for event in ordered if event.aside is not Aside.SUBAGENT]
        self.subagents = [event for event in ordered if event.aside is Aside.SUBAGENT]
        self.exchanges = _exchanges(self.told)
        self.rarity = _Rarity(self.exchanges)

    @cached_property
    def title(self) -> str:
        """What the agent or a person called it: the last name of several words, or else the last.

        The name that a program has for a session (`agent:main:main`) says nothing of what it was about.
        """
        titles = [" ".join(event.text.split()) for event in self.told if event.kind == Kind.TITLE]
        named = [title for title in titles if title and (" " in title or ":" not in title)]
        return next((title for title in reversed(named) if " " in title), named[-1] if named else "")

    @cached_property
    def threads(self) -> list[Thread]:
        return _threads(self.exchanges, self.rarity)

    @cached_property
    def calls(self) -> list[Call]:
        return [call for exchange in self.exchanges for call in exchange.calls]

    @cached_property
    def _titled(self) -> Thread | None:
        """The thread that the session's title means: the only one, or the largest that has words of it."""
        if not self.title or len(self.threads) == 1:
            return self.threads[0] if self.title and self.threads else None
        words = set(content_words(self.title))
        meant = [thread for thread in self.threads if words & {w for one in thread.exchanges for w in one.words}]
        return max(meant, key=lambda thread: (thread.weight, -thread.begin), default=None)

    # --- sentences

    def name(self, thread: Thread) -> str:
        """What the thread was about, in the person's own words where there are any."""
        if thread is self._titled:
            return self.title
        for exchange in thread.exchanges:
            if exchange.prompt and not is_nod(exchange.asked) and (asked := request(exchange.asked)):
                return asked
        said = [one for exchange in thread.exchanges for one in exchange.asked or exchange.said]
        return said[0] if said else self.title

    def outcome(self, exchanges: Sequence[Exchange], most: int = 220, about: str = "") -> str:
        """What came of it, in one or two sentences of the replies, in at most about `most` characters; or "".

        `about`: what was asked for; a sentence that speaks of that tells more.
        """
        ranked = sorted(self._telling(exchanges, set(content_words(about))), key=lambda one: (-one[0], -one[1]))
        chosen: list[tuple[int, str]] = []
        size = 0
        for score, place, sentence in ranked[:6]:
            if chosen and (score < GOOD or size + len(sentence) > most or _alike(sentence, chosen[0][1])):
                continue
            chosen.append((place, sentence))
            size += len(sentence) + 1
            if len(chosen) == 2:
                break
        return " ".join(_closed(sentence) for _, sentence in sorted(chosen)[:-1]) + (
            f" {max(chosen)[1]}" if len(chosen) > 1 else chosen[0][1] if chosen else ""
        )

    def _telling(self, exchanges: Sequence[Exchange], about: set[str]) -> Iterable[tuple[float, int, str]]:
        """The sentences of replies: how much each tells, and its place."""
        number = 0
        for place, exchange in enumerate(exchanges):
            for reply in exchange.replies:
                said = sentences(reply.text)
                for at, one in enumerate(said):
                    number += 1
                    score = _told(one) + 1.6 * self.rarity.of(one) - min(0.6, 0.2 * (len(exchanges) - 1 - place))
                    score += 0.9 * self.rarity.share(about, set(content_words(one))) if about else 0
                    score += 0.3 if at in (0, len(said) - 1) else 0  # what a reply begins or ends with is what it says
                    yield score, number, one

    # --- decisions

    @cached_property
    def decisions(self) -> list[Decision]:
        found: list[Decision] = []
        before: Exchange | None = None
        for exchange in self.exchanges:
            made = _answer(before, exchange) + self._of(exchange)
            found += [replace(one, taken_back=exchange.taken_back) for one in made]
            before = exchange if exchange.said else before
        for event in self.told:
            if event.kind == Kind.COMPACTION:
                found += [Decision(event.at, one, "agent", score=2.6) for one in _listed_decisions(event.text)]
            elif event.kind == Kind.LEARNING and event.text.strip():
                text = (sentences(event.text) or [""])[0]
                found += [Decision(event.at, text, "agent", "remember", 2.5)] if text else []
        return _distinct(found)

    def _of(self, exchange: Exchange) -> list[Decision]:
        found = []
        if exchange.prompt:
            for at, one in enumerate(exchange.asked):
                kind, score = _weighed(one, PERSON)
                if score:
                    what = f"{exchange.asked[at - 1]} {one}" if at and _LEANS.match(one) else _bare(one)
                    found.append(Decision(exchange.prompt.at, what, "person", kind, score + 0.5 * self.rarity.of(one)))
        for reply in exchange.replies:
            for one in sentences(reply.text):
                kind, score = _weighed(one, AGENT)
                if score:
                    found.append(Decision(reply.at, _bare(one), "agent", kind, score + 0.5 * self.rarity.of(one)))
        return found


# --- exchanges and threads


def _exchanges(events: list[Event]) -> list[Exchange]:
    found: list[Exchange] = []
    going = _Going()
    for event in events:
        if event.kind == Kind.PROMPT:
            found.append(Exchange(event))
            continue
        if event.kind not in (Kind.REPLY, Kind.CALL, Kind.RESULT, Kind.ERROR):
            continue
        if not found:
            found.append(Exchange(None))
        now = found[-1]
        if event.kind == Kind.REPLY:
            now.replies.append(event)
        elif event.kind == Kind.ERROR:
            now.errors.append(event)
        elif event.kind == Kind.CALL:
            call = Call(event, event.failed, event.text if event.failed else "")
            now.calls.append(call)
            going.add(call)
        else:
            going.ended(event, now)
    return [exchange for exchange in found if exchange._events]


class _Going:
    """The calls whose result was not seen yet: by id, by name, and all; those that have ended go when they are met."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], list[Call]] = {}

    def add(self, call: Call) -> None:
        for name in (("id", _id(call.event.key)), ("name", call.event.name), ("", "")):
            self._calls.setdefault(name, []).append(call)

    def ended(self, result: Event, now: Exchange) -> None:
        """A result belongs to the call whose id it has; or to the last open one of its name, since only failures may be
        known; or to the last there is."""
        own = self._last("id", _id(result.key)) if _id(result.key) else None
        named = self._last("name", result.name) if result.name else None
        call = own or named or self._last("", "")
        if call is None:
            if result.failed:
                now.errors.append(result)
            return
        call.done = True
        if result.failed:
            call.failed, call.error = True, result.text or call.error

    def _last(self, kind: str, name: str) -> Call | None:
        calls = self._calls.get((kind, name), [])
        while calls and calls[-1].done:
            calls.pop()
        return calls[-1] if calls else None


def _id(key: str) -> str:
    """What a call and its result have in common, where their keys say it."""
    return key.rpartition(":")[2] if ":" in key else ""


def _threads(exchanges: list[Exchange], rarity: "_Rarity") -> list[Thread]:
    threads: list[Thread] = []
    known: set[str] = set()
    for exchange in exchanges:
        if threads and not _begins(exchange, threads[-1], known, rarity):
            threads[-1].exchanges.append(exchange)
        else:
            threads.append(Thread([exchange]))
            known = set()
        known |= exchange.words.keys()
    return threads


def _begins(exchange: Exchange, thread: Thread, known: set[str], rarity: "_Rarity") -> bool:
    """Whether a request is about something else than the thread before it."""
    if exchange.prompt is None or is_nod(exchange.asked) or not exchange.asked:
        return False
    first = next((one for one in exchange.asked if not LOW.fullmatch(one)), exchange.asked[0])
    pause = exchange.begin - thread.end
    words = set(content_words(" ".join(exchange.asked[:4])))
    share = rarity.share(words, known)
    if any(_TURN.match(one) for one in exchange.asked[:2]):
        return True
    if _GOES_ON.match(first) or len(words) < 3 or _POINTS_BACK.search(first[:90]) or _weighed(first, PERSON)[1]:
        return pause > 4 * PAUSE and share < RELATED
    return share < RELATED if pause < PAUSE else share < 2 * RELATED


# A person says that something else comes now, or that it still is about the same.
_TURN = re.compile(
    r"(?:(?:ok|okay|good|great|fine|thanks|so|right|alright)[,.!]? +)?(?:next\b(?! to\b)|another (?:thing|one"
    r"|topic|question)"
    r"|new (?:topic|task|question)|different (?:topic|question|thing)|switching\b|moving on|on to\b|unrelated"
    r"|separately"
    r"|by the way|btw|something else|now (?:for|to|on)\b|let'?s (?:move on|turn to|talk about)|before (?:i"
    r"|we) (?:start|go|forget)"
    r"|late (?:note|check)|(?:one )?last (?:thing|one)|outro assunto|agora (?:vamos|outra)|a seguir|jetzt zu"
    r"|andere[sr]? (?:thema|frage)"
    r"|als nächstes|übrigens)",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"(?:and|but|also|so|then|or|yes|no|ok(?:ay)?|sure|why|how come|what about|it|its|that|this|those|these|same"
    r"|again|still|"
    r"actually|hm+|wait|go on|continue|keep going|e|mas|sim|não|nao|então|isso|und|aber|ja|nein|warum|das|dann|also)\b",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(
    r"^(?:commit|push|merge|deploy|ship|undo|revert|kill|try|use|make|put|do|run|send|show|give)\b.{0,40}"
    r"\b(?:it|this|that|them|these|those|again|please)\b|^(?:commit|push|undo|revert)\b"
    r"|\b(?:that|this) (?:one|too|as well)\b",
    re.IGNORECASE,
)


# --- requests

_NOD = re.compile(
    r"(?:ok(?:ay)?|yes|yep|yeah|yup|sure|no|nope|nah|please|pls|do (?:it|that|so)|go(?: ahead| on| for it)?"
    r"|continue|proceed|keep going|"
    r"(?:sounds|looks|all)? ?(?:good|great|fine|perfect|right|nice|cool)|thanks?(?: you)?(?: a lot| so much)?|thx"
    r"|great work|well done|lgtm|ship it|"
    r"approved?|confirmed?|exactly|correct|agreed|done|next|retry|try again|again|sim|claro|pode ser|força"
    r"|obrigad[oa]|boa|certo|isso|"
    r"ja|genau|gerne?|mach(?: das| mal)?|weiter|passt|danke|gut|super|nein|bitte|sehr|very|much|it|that|then|so"
    r"|now|and|but|"
    r"a|b|c|d|1|2|3|option|the|first|second|third|last|one|both|all|neither|go with)",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"\A(?:(?:hi|hello|hey|good (?:morning|afternoon|evening|night)|morning|bom dia|boa (?:tarde|noite)|olá|ola"
    r"|oi|hallo|guten (?:morgen|tag|abend)"
    r"|moin|servus|salut|bonjour)(?: (?:there|again|all|everyone|team|claude|codex|gemini))?[\s,.!:;—–-]+)+",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"\A(?:(?:ok(?:ay)?|so|well|right|alright|great|good|thanks|perfect|now|then|next|and|also|please|pls"
    r"|hm+)\b[\s,.!:;—–-]*)+",
    re.IGNORECASE,
)
_POLITE = re.compile(r"(?:can|could|would|will) you (?:please )?|i(?:'d| would) like you to |please ", re.IGNORECASE)


def is_nod(asked: Sequence[str]) -> bool:
    """Whether a person only says yes, no, thanks or go on."""
    text = " ".join(asked)
    if len(text) > 60:
        return False
    words = re.sub(r"[^\w' ]+", " ", text).split()
    rest = " ".join(words)
    while rest and (found := _NOD.match(rest)):
        after = rest[found.end() :]
        if not found[0] or (after and not after.startswith(" ")):
            return False
        rest = after.strip()
    return not rest


def request(asked: Sequence[str]) -> str:
    """The sentence of a prompt that asks for something, without its courtesies."""
    best, best_whole, best_score = "", "", float("-inf")
    for place, one in enumerate(asked[:8]):
        bare = _GREETING.sub("", one, count=1).strip()
        if len(content_words(bare)) < 1:
            continue
        score = -0.6 * place
        score += 1.0 if is_question(bare) or _POLITE.search(bare) else 0
        score += 1.0 if _ASKS.match(_LEADING.sub("", bare, count=1)) else 0
        score += 0.9 if _WANTED.search(bare) else 0
        score -= 1.5 if len(content_words(bare)) < 2 else 0
        score -= 1.2 if _LOOKS_PASTED.search(bare) else 0
        if score > best_score:
            best, best_whole, best_score = bare, one, score
    at = list(asked).index(best_whole) if best_whole in asked else len(asked)
    stripped = _LEADING.sub("", _TURNED.sub("", best, count=1), count=1).strip()
    if len(content_words(stripped)) < 3 and at + 1 < len(asked):
        stripped = f"{_closed(stripped)} {asked[at + 1]}"
    stripped = _POLITE.sub("", stripped, count=1) if _POLITE.match(stripped) else stripped
    best = stripped if len(content_words(stripped)) >= 1 else best
    return best[:1].upper() + best[1:]


def _closed(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?", "…", ":", "。")) else f"{sentence}."


_ASKS = re.compile(
    r"(?:add|analy[sz]e|apply|ask|build|bump|change|check|clean|compare|configure|convert|create|debug|delete"
    r"|deploy|design|draft|explain|export|extend|extract|"
    r"figure out|find|fix|generate|give|help|implement|import|improve|install|investigate|list|look|make|merge"
    r"|migrate|move|open|order|plan|prepare|print|propose|"
    r"read|refactor|release|remind|remember|remove|rename|replace|report|research|review|rewrite|rotate|run"
    r"|schedule|search|send|set|show|sort|split|start|stop|suggest|"
    r"summari[sz]e|switch|tag|tell|test|think|track|translate|try|turn|update|upgrade|use|verify|write|why|how"
    r"|what|which|where|when|who|is|are|does|do|did|should|i need|"
    r"i want|we need|there(?:'s| is)|faz|procura|mostra|explica|porque|como|qual|preciso|schreib|zeig|prüfe?"
    r"|erklär|mach|warum|wie|was|welche|ich brauche)\b",
    re.IGNORECASE,
)
_TURNED = re.compile(
    r"\A(?:next|(?:another|new|different|separate) (?:thing|one|topic|task|question)|unrelated|separately"
    r"|by the way|btw|"
    r"(?:one )?last (?:thing|one)|outro assunto|a seguir|übrigens|als nächstes|andere frage)\s*[:,—–-]\s*",
    re.IGNORECASE,
)
_WANTED = re.compile(r"\b(?:should|must|needs? to|have to|want|instead of|broken|wrong|fails?)\b", re.IGNORECASE)
_LOOKS_PASTED = re.compile(
    r"^(?:\d{4}-\d\d-\d\d|\[?\d\d:\d\d|Traceback|File \"|at \w|[{<\[|])|[{}<>|=]{2,}.*[{}<>|=]{2,}"
)


# --- what came of it

_DONE = re.compile(
    r"\b(?:fixed|added|done|tagged|pushed|merged|committed|wrote|written|exported|updated|moved|created|removed"
    r"|deleted|implemented|found|"
    r"caused by|the (?:cause|reason|problem|culprit|fix)|root cause|turns out|so the|now (?:works?|passes?|uses?"
    r"|has|returns?)|works?|pass(?:es|ed)?|green|"
    r"fails?|failed|released|deployed|renamed|replaced|switched|installed|opened|closed|reverted|converted"
    r"|migrated|scheduled|booked|sent|"
    r"refactored|split|reduced|confirmed|verified|dropped|raised|recommend|drafted|saved|ordered|refuses?"
    r"|returns?|shows?|"
    r"corrigi|adicionei|feito|porque|behoben|hinzugefügt|erledigt|weil|liegt (?:an|daran))\b",
    re.IGNORECASE,
)
_PLAN = re.compile(
    r"(?:ok(?:ay)?[,.]? |sure[,.]? |now |first[,]? |next[,]? |good[,.]? )*(?:i(?:'ll| will| am going to"
    r"|'m going to|'m now)|let me|let's (?:look|see|check|start|first)|looking|checking|reading|"
    r"running|searching|we (?:need|should) (?:to )?(?:look|check|see)|vou |ich (?:werde|schaue))",
    re.IGNORECASE,
)
_EMPTY = re.compile(
    r"(?:(?:you'?re (?:absolutely )?right|great|perfect|sure|ok(?:ay)?|certainly|of course|happy to help"
    r"|good (?:question|point|catch|idea)|got it|understood|noted|all done|done)[.!,:]*\s*)*"
    r"(?:here(?:'s| is| are)\b.*:|(?:let me know|anything else|is there anything|hope (?:this|that) helps)\b.*)?",
    re.IGNORECASE,
)

_REASON = re.compile(r"\b(?:because|so that|caused by|instead of|root cause|porque|weil)\b", re.IGNORECASE)
_FORMAL = re.compile(r"(?:committed|pushed|merged) |all \w+ tests|\d+ tests", re.IGNORECASE)  # told as a deed, too
_NODS = re.compile(
    r"(?:understood|noted|fine|ok(?:ay)?|sure|agreed|got it|will do|you(?:'re| are) welcome)\b", re.IGNORECASE
)


def _told(sentence: str) -> float:
    """How much a sentence of a reply tells."""
    words = len(content_words(sentence))
    score = 0.0
    score += 1.4 if _DONE.search(sentence) else 0
    score += 0.4 if _REASON.search(sentence) else 0
    score += 0.4 if re.search(r"\d", sentence) else 0
    score -= 1.6 if _PLAN.match(sentence) else 0
    score -= 2.5 if _EMPTY.fullmatch(sentence) else 0
    score -= 1.0 if is_question(sentence) else 0
    score -= 0.8 if words < 2 else 0.5 if words < 4 else 0
    score -= 1.2 if _NODS.match(sentence) else 0
    score += 0.8 if _best(sentence, AGENT) >= WORTH else 0
    score -= 0.7 if _FORMAL.match(sentence) else 0
    score -= 0.8 if sentence.endswith(":") else 0
    return score


# --- decisions

# What a cue is worth, by who says it. A sentence is taken as a decision from WORTH on.
WORTH = 2.0
ALIKE = 0.6  # share of the shorter one's words from which two sentences say the same
_USE = (
    r"(?:use|go with|keep|make|drop|switch|move|call|name|put|set|store|require|default|stay|stick|avoid|ship"
    r"|release|skip|postpone|split|merge|adopt|"
    r"remove|replace|freeze|treat|build|start with|hold|round|write|limit|cap|pin|raise|book|order|cancel|serve"
    r"|send|plant|pay|offer|leave|stop|wait|defer|retire)"
)
_BOTH = [
    (3.2, r"^(?:final )?(?:decision|décision|decided|agreed|rule|policy|convention|conclusion|decisão|regra"
        r"|entscheidung|beschluss|regel)\s*[:—–-]"),
    (2.6, r"\b(?:decision|rule|policy|convention|decisão|regra|entscheidung|beschluss|regel)\s*:"),
    (2.8, r"\b(?:we|i|they|the team|the club|everyone)(?:'ve| have)? (?:just )?(?:decided|agreed|settled on|chose"
        r"|opted|committed to)\b"),
    (2.8, r"\b(?:decidimos|combinámos|ficou (?:decidido|combinado)|wir haben (?:uns )?(?:entschieden|beschlossen"
        r"|vereinbart)|abgemacht)\b"),
    (2.6, r"\bfrom now on\b|\ba partir de agora\b|\b(?:ab jetzt|von nun an|ab sofort)\b"),
    (2.2, r"\bas (?:agreed|decided)\b"),
    (2.4, rf"\blet'?s (?:just |rather |not |all )?{_USE}\b"),
    (2.4, r"\bvamos (?:usar|manter|ficar com|adiar|mudar|fazer assim)|\b(?:lass uns|wir (?:nehmen|nutzen"
        r"|verwenden|bleiben bei|machen es))\b"),
    (2.1, rf"\bwe(?:'ll| will| are going to|'re going to| shall) (?:not |no longer |always |never |only )?{_USE}\b"),
    (2.3, r"\b(?:going|go|went|stick(?:ing)?) with\b(?!out)(?! the flow)"),
    (2.2, r"\b(?:settled on|opted for|picked|chose)\b"),
    (2.2, r"\bit(?:'s| is) (?:decided|agreed|settled)\b"),
]  # fmt: skip
PERSON = [
    *_BOTH,
    (2.4, r"^(?:please )?(?:do not|don'?t|never|always|nunca|sempre|niemals|nie|immer)\b"),
    (2.3, r"\bno (?:more )?[\w-]+(?: [\w-]+)? (?:before|until|after|without|on|in|for|at|during)\b"),
    (2.2, r"\bshould\b.{3,80}[,;] (?:not|never)\b"),
    (2.4, r"^(?:(?:ok(?:ay)?|yes|then|so|please|good|fine|right)[,.]? )*do (?:that|it|so|this)\s*[:—–-]"),
    (2.6, r"^(?:agreed|deal|settled)\b[,:;. —–-]+\w"),
    (2.1, r"\b(?:must (?:never|always|not|stay|be|go|have)|should (?:never|always|not)|no more|no longer)\b"),
    (2.2, r"\b(?:i|we) (?:want|prefer|would rather|'d rather)\b.*\b(?:instead|over|not|rather|than|only|always"
        r"|never|by default)\b"),
    (2.1, r"\binstead of\b|\brather than\b|\bem vez de\b|\banstatt\b|\bstatt (?:der|die|das|des|dem|den|einer"
        r"|eines)\b"),
    (2.2, rf"^(?:no|yes|ok(?:ay)?|fine|good|right)[,.:;—– -]+(?:then )?{_USE}\b"),
    (2.2, r"\buse \S.{0,60}[,;] not \S"),
    (2.0, r"\b(?:it|that|this|they) (?:stays?|remains?|has to (?:stay|be|wait))\b"),
]  # fmt: skip
AGENT = [
    *_BOTH,
    (2.1, r"\b(?:i|we)(?:'ve| have)? (?:switched|changed|moved|replaced|kept|dropped|chose|picked|made"
        r"|set)\b.*\b(?:because|so that|since|instead of|rather than)\b"),
    (2.0, r"\b(?:must|should) (?:always|never)\b|\bmust (?:use|be|stay|not)\b"),
]  # fmt: skip
_REMEMBER = [
    (2.6, r"\b(?:remember (?:that|to|this)|note (?:for later|to self)|(?<!we )(?<!i )don'?t forget|keep in mind"
        r"|bear in mind|for (?:the|your) memory|para memória)\b"),
    (2.6, r"\b(?:não (?:te )?esque[cç](?:as?|er)|lembra-te|merk dir|nicht vergessen|denk dran)\b"),
    (2.3, r"\b(?:deadline|due (?:on|by)|until|expires?|frozen|offline|closed) (?:on |until |by |from )?(?:mon"
        r"|tues|wednes|thurs|fri|satur|sun)day\b"),
]  # fmt: skip
_COMPILED = {
    id(cues): [(worth, re.compile(pattern, re.IGNORECASE)) for worth, pattern in cues]
    for cues in (PERSON, AGENT, _REMEMBER)
}
_UNDECIDED = re.compile(
    r"\b(?:not (?:yet )?(?:decided|agreed|settled)|n't (?:yet )?(?:decided|agreed)|undecided|(?:should|shall) we"
    r"|whether|if we (?:decide|use|go|keep)|did we decide|what (?:did|do|have) we|"
    r"could (?:also )?(?:use|go|keep)|might (?:use|go|keep)|maybe|perhaps|would you like|do you want|you (?:could"
    r"|can|may) |one option|option [abc123]\b.*\boption|either\b.*\bor\b)",
    re.IGNORECASE,
)
_HABIT = re.compile(
    r"\blet'?s (?:see|look|check|start by|first|go through|try)\b|\bkeep (?:going|in touch)\b|^let me\b", re.IGNORECASE
)


def _weighed(sentence: str, cues: list) -> tuple[str, float]:
    """What kind of decision a sentence is, and how surely; ("", 0) if it is none."""
    if len(content_words(sentence)) < 2 or len(sentence) > 400:
        return "", 0.0
    remember = _best(sentence, _REMEMBER)
    if is_question(sentence) or _UNDECIDED.search(sentence) or _HABIT.search(sentence):
        remember_only = remember if not is_question(sentence) else 0.0
        return ("remember", remember_only) if remember_only >= WORTH else ("", 0.0)
    score = _best(sentence, cues)
    if score >= WORTH and score >= remember:
        return "decision", score
    return ("remember", remember) if remember >= WORTH else ("", 0.0)


def _best(sentence: str, cues: list) -> float:
    return max((worth for worth, pattern in _COMPILED[id(cues)] if pattern.search(sentence)), default=0.0)


_LEANS = re.compile(r"(?:\d+|it|this|that|they|them|these|those|he|she|otherwise|the same|not)\b", re.IGNORECASE)


def _bare(sentence: str) -> str:
    """A decision without the words that only say that it is one."""
    bare = re.sub(
        r"^(?:(?:ok(?:ay)?|good|right|fine|great|perfect|yes|so|and|also|then|well)[,.!]? )*"
        r"(?:(?:final )?(?:decision|decided|agreed|we agreed|decisão|entscheidung|conclusion)\s*[:,—–-]\s*)?"
        r"(?:(?:please )?(?:remember|note|keep in mind|don't forget)(?: for later| to self)?(?:[:,]| that)\s+)?"
        r"(?:do (?:that|it|so|this)\s*[:—–-]\s*)?",
        "", sentence, flags=re.IGNORECASE,
    )  # fmt: skip
    return bare[:1].upper() + bare[1:] if len(content_words(bare)) >= 2 else sentence


_ASKED_YES = re.compile(
    r"(?:shall|should) (?:i|we)|(?:do|would) you (?:want|like|prefer)|want me to|is (?:that|it|this) (?:ok|okay"
    r"|fine|right)|may i|can i|"
    r"which (?:one|option|of|way)|(?:ok|okay)\?|agree|proceed|what do you think|your call|devo|queres"
    r"|soll(?:en)? (?:ich|wir)|möchtest",
    re.IGNORECASE,
)
_PICK = re.compile(
    r"(?:(?:yes|ok(?:ay)?|no|so|then|hm+|let'?s|i'?d|i would|please|we)[,.:;]? )*(?:(?:go|going|do|take|use|pick"
    r"|choose|prefer|with|say) )*(?:for |with )?"
    r"(?:(?:option|variant|plan|number|choice|opção|variante) )?(?:the )?\(?(?P<pick>[a-e]|[1-5]|first|second"
    r"|third|former|latter)\)?"
    r"(?: (?:one|option|variant|please|then))?(?=$|[\s,.;:!—–-])",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?:^|[\s,;:(])(?:\*\*)?(?:option |variant |opção |variante )?\(?(?P<name>[A-Ea-e]|[1-5])(?:\)|[:.](?=\s)"
    r"|(?=\s*[—–]\s))\)?(?:\*\*)?\s*(?P<what>[^\n]+?)"
    r"(?=(?:[\s,;(]|\*\*)+(?:(?:or|and|oder|ou) )?(?:option |variant )?\(?(?:[A-Ea-e]|[1-5])(?:\)|[:.](?=\s)"
    r"|(?=\s*[—–]\s))|[.?!]?\s*$|[.?!]\s|\n)",
    re.MULTILINE,
)
_SUGGESTS = re.compile(
    r"\bi(?:'d| would)? (?:suggest|recommend|propose)\b|\bmy (?:suggestion|recommendation|proposal)\b"
    r"|\bich schlage vor\b|\bsugiro\b",
    re.IGNORECASE,
)
_YES = re.compile(
    r"(?:yes|yep|yeah|sure|ok(?:ay)?|go(?: ahead| for it)?|do (?:it|that)|please do|sounds good|agreed|approved"
    r"|lgtm|exactly|correct|fine|perfect|sim|claro|pode ser|ja|genau|gerne|mach das|passt)\b",
    re.IGNORECASE,
)
_NO = re.compile(r"(?:no|nope|nah|don'?t|rather not|better not|não|nein|lieber nicht)\b", re.IGNORECASE)
_ORDER = {"first": 0, "former": 0, "second": 1, "latter": 1, "third": 2}


def _answer(before: Exchange | None, now: Exchange) -> list[Decision]:
    """An answer to what the agent has proposed, told with what was proposed."""
    if before is None or now.prompt is None or not before.replies or not now.asked:
        return []
    said, last = now.asked[0], before.replies[-1].text
    proposal = sentences(last)
    asked = next((one for one in reversed(proposal) if is_question(one)), "")
    options = {found["name"].lower(): found["what"] for found in _OPTION.finditer(last[-4_000:])}
    picked = _PICK.match(said) if len(options) > 1 and len(said) <= 120 else None
    if picked:
        pick = picked["pick"].lower()
        names = sorted(options)
        name = names[_ORDER[pick]] if pick in _ORDER and _ORDER[pick] < len(names) else pick
        if name in options:
            what = " ".join(sentences(options[name])[:1]) or options[name]
            what = what[:1].upper() + what[1:]
            reason = _rest(said[picked.end() :], now.asked[1:])
            return [
                Decision(
                    now.prompt.at, f"{what.rstrip('.?! ')} (chosen from {len(options)}{reason})", "person", score=3.2
                )
            ]
    suggested = [one for one in proposal if _SUGGESTS.search(one) and not is_question(one)]
    asked = asked if _ASKED_YES.search(asked) else (suggested or [""])[-1]
    yes, no = _YES.match(said), _NO.match(said)
    if not asked or not (yes or no) or len(said) > 160:
        return []
    rest = said[(yes or no).end() :].strip(" ,.;:!—–-")
    if rest and any(_best(one, PERSON) >= WORTH for one in (rest, said)):
        return []  # it says itself what holds
    what = _as_statement(asked)
    verb = "Yes" if yes else "No"
    more = _rest(f" {rest}" if rest else "", now.asked[1:])
    return [Decision(now.prompt.at, f"{verb}: {what}{f' ({more[2:]})' if more else ''}", "person", score=2.7)]


def _rest(rest: str, others: Sequence[str]) -> str:
    """The words that a person added to an answer."""
    text = rest.strip(" ,.;:!—–-") or next((one for one in others if not is_nod([one])), "")
    return f"; {text.rstrip('.')}" if len(content_words(text)) >= 2 and len(text) <= 140 else ""


def _as_statement(question: str) -> str:
    """ "Shall I drop the table?" as what is said yes or no to: "drop the table"."""
    bare = re.sub(
        r"^.*?\b(?:(?:shall|should|may|can) (?:i|we)|(?:do|would) you (?:want|like)(?: me)?(?: to)?|want me to"
        r"|soll(?:en)? (?:ich|wir)|queres que|devo|i(?:'d| would)? (?:suggest|recommend|propose)(?: to| that we"
        r"| we)?|my (?:suggestion|recommendation|proposal)(?: is|:)(?: to)?)\s+(?:go ahead and |now |also "
        r"|then )?",
        "", question, flags=re.IGNORECASE,
    )  # fmt: skip
    return bare.rstrip("?!. ") if len(content_words(bare)) >= 2 else question.rstrip("?!. ")


def _listed_decisions(summary: str) -> list[str]:
    """What a compaction's summary lists below a heading for decisions."""
    found, inside = [], False
    for line in summary[:40_000].splitlines():
        heading = re.match(r"\s*(?:#{1,6}\s*(.+)|\*\*([^*]+?):?\*\*:?\s*$)", line)
        if heading:
            inside = bool(
                re.search(
                    r"decision|decided|agreed|constraint|rule|convention|entscheid|decis",
                    heading[1] or heading[2],
                    re.IGNORECASE,
                )
            )
        elif inside and (item := re.match(r"\s*(?:[-*+]|\d+[.)])\s+(.+)", line)):
            found.append(" ".join(sentences(item[1])[:2]))
    return [one for one in found if len(content_words(one)) >= 2]


def _alike(one: str, other: str) -> bool:
    """Whether two sentences are of nearly the same words."""
    a, b = set(content_words(one)), set(content_words(other))
    return len(a & b) >= ALIKE * min(len(a), len(b))


def _distinct(found: list[Decision]) -> list[Decision]:
    """Each decision once: of those in nearly the same words the one that says it most surely. In time order."""
    kept: list[tuple[Decision, set[str]]] = []
    for one in sorted(found, key=lambda one: (-one.score, one.at, one.what)):
        words = set(content_words(one.what))
        if all(len(words & other) < ALIKE * min(len(words), len(other)) for _, other in kept):
            kept.append((one, words))
    return sorted((one for one, _ in kept), key=lambda one: (one.at, one.what))


# --- rarity


class _Rarity:
    """How telling words are within one session: those that few exchanges have. Only chooses among sentences."""

    def __init__(self, exchanges: list[Exchange]):
        self._count = len(exchanges)
        self._in = Counter(word for exchange in exchanges for word in exchange.words)

    def weight(self, word: str) -> float:
        return log(1 + self._count / (self._in[word] or 0.5))

    def of(self, sentence: str) -> float:
        """0 (nothing of its own) to 1, for a sentence of usual length."""
        words = set(content_words(sentence))
        most = log(1 + self._count / 0.5)
        return min(1.0, sum(self.weight(word) for word in words) / (most * 10)) if words else 0.0

    def share(self, words: set[str], known: set[str]) -> float:
        """How much of `words`, by their weight, is among `known`."""
        whole = sum(self.weight(word) for word in words)
        return sum(self.weight(word) for word in words & known) / whole if whole else 1.0
