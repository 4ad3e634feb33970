"""Sentences out of what was said in a session: markdown off, code and tables left out. Pure, with bounded work."""

import re

LONGEST = 20_000  # characters of one text that are looked at: what is behind is a paste
LONGEST_SENTENCE = 600
MOST = 200  # sentences of one text

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_ENVELOPE = re.compile(r"\A\s*(?:\[[^\]\n]{1,160}\]\s*)+")
_ENVELOPE_END = re.compile(r"(?:\n[ \t]*\[message_id: [^\]\n]*\]\s*)+\Z")
_TABLE = re.compile(r"^\s*\|.*\|\s*$|^\s*[|:+=-]{3,}\s*$")
_HEADING = re.compile(r"^\s*#{1,6}\s")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+(?:\[[ xX]\]\s+)?")
_LINK = re.compile(r"!?\[([^\]\n]{0,300})\]\([^()\s]{0,600}\)")
_STRONG = re.compile(r"(\*\*|__)(?=\S)([^\n]{1,400}?)(?<=\S)\1")
_TAG = re.compile(r"</?[A-Za-z][^<>\n]{0,300}>")

# Where a sentence ends: behind its mark and a space, and what follows is not in small letters.
_END = re.compile(r"(?<=[.!?…])[\"'»”’)\]]*\s+(?=[^a-zà-öø-ÿ\s,;:)])|(?<=[。！？])")
_SHORT = re.compile(
    r"(?:\b(?:e\.g|i\.e|z\.B|d\.h|u\.a|vs|etc|cf|ca|approx|no|nr|fig|dr|mr|mrs|ms|sr|sra|prof|st|p\.ex|inc|jan"
    r"|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec)|\b[A-Z])\.$",
    re.IGNORECASE,
)


def spoken(prompt: str) -> str:
    """A prompt without what a chat channel writes around it."""
    return _ENVELOPE_END.sub("", _ENVELOPE.sub("", prompt[:LONGEST], count=1))


def sentences(text: str) -> list[str]:
    """What a text says, sentence by sentence, each on one line; items of lists are sentences too."""
    text = _FENCE.sub("\n", text[:LONGEST])
    paragraphs: list[str] = []
    goes_on = False
    for line in text.splitlines():
        if not line.strip() or _HEADING.match(line) or _TABLE.match(line):
            goes_on = False
            continue
        item = _ITEM.match(line)
        bare = _plain(line[item.end() :] if item else line.lstrip(" \t>"))
        if not bare:
            continue
        if goes_on and not item:
            paragraphs[-1] += f" {bare}"
        else:
            paragraphs.append(bare)
        goes_on = True
    found: list[str] = []
    for paragraph in paragraphs:
        found += _split(paragraph)
        if len(found) >= MOST:
            break
    return found[:MOST]


def _plain(line: str) -> str:
    line = _LINK.sub(r"\1", line)
    line = _STRONG.sub(r"\2", line)
    line = _TAG.sub(" ", line) if "<" in line and "`" not in line else line
    return " ".join(line.split())


def _split(paragraph: str) -> list[str]:
    parts: list[str] = []
    begin = 0
    for found in _END.finditer(paragraph):
        part = paragraph[begin : found.start()]
        if _SHORT.search(part) or part.count("`") % 2:  # an abbreviation, or within code
            continue
        parts.append(paragraph[begin : found.end()].strip())
        begin = found.end()
    parts.append(paragraph[begin:].strip())
    return [part[:LONGEST_SENTENCE] for part in parts if any(char.isalnum() for char in part)]


def is_question(sentence: str) -> bool:
    return _ASKED.search(sentence[-40:]) is not None


_ASKED = re.compile(r"[?？][^\w]*\Z")


LOW = re.compile(  # an opening that says nothing by itself
    r"(?:hi|hello|hey|thanks?(?: you)?|ok(?:ay)?|great|good|perfect|nice|cool|bom|boa|ótimo|óptimo|perfeito|fixe"
    r"|gut|schön|prima|bom dia|boa (?:tarde|noite)|olá|hallo|danke|obrigad[oa]|guten (?:morgen|tag|abend))"
    r"(?: \w+)?[\s.!,:]*",
    re.IGNORECASE,
)

_WORD = re.compile(r"[^\W_](?:[\w'’-]*\w)?")
_STOP_WORDS = """
a about above actually after again all almost already also always am an and another any anything are as ask asked at
back be because been before being better between both but by call can cannot can't come could did didn't do does
doesn't doing don don't done down each else even ever every few find first for from get gets give go goes going good
got great had has have haven't having he hello help her here hey hi him his how i i'd i'll i'm i've if in instead
into is isn't it it's its just keep know last later left less let let's like little look look's looks made make
makes many may maybe me more most much must my need needs never new next no not nothing now of off ok okay old on
once one only or other our out over own please put quite rather really right same say see seems set shall she should
show since so some something still such sure take than thank thanks that that's the their them then there there's
these they thing things think this those through to today together told too try two under until up us use used uses
using very want wants was way we we'll we're well were what what's when where which while who why will with without
won't work works would yes yet you you'll your o os um uma uns umas de do da dos das no na nos nas em e é que se por
para com não nao mais mas como isto isso já ja também muito tem ser está foi ao à às pelo pela este esta eu tu ele
ela nós der die das den dem des ein eine einen einem einer und oder aber ist sind war wird werden nicht kein keine
mit von zu zum zur im auf für an aus bei nach wie was wenn dass ich du er sie es wir ihr man noch schon nur auch
sich hat haben kann soll muss bitte
"""
_STOP = frozenset(_STOP_WORDS.split())


def content_words(text: str) -> list[str]:
    """The words that carry meaning, small and without endings, so that "tables" and "table" are one."""
    found = []
    for word in _WORD.findall(text[:LONGEST].casefold().replace("’", "'")):
        if word in _STOP or (len(word) < 3 and not word.isdigit() and word.isascii()):
            continue
        found.append(_stem(word))
    return found


def _stem(word: str) -> str:
    if not word.isascii() or not word.isalpha() or len(word) < 5:
        return word
    for ending in ("ations", "ation", "ings", "ing", "edly", "ies", "ied", "ers", "es", "ed", "er", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
