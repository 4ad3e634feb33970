"""Names of documents: which are safe on every file system, which would clash, and where they are in a folder.

A path may come from a peer, so nothing of it is believed: it stays inside the clone's folder, whatever is there.
"""

import os
import re
import stat
import unicodedata
from pathlib import Path

from replica.errors import UnsafePath

MAX_PATH = 200  # characters: leaves room for the clone's own folder below the 260 of Windows
TOO_LONG = f"it is longer than {MAX_PATH} characters"
MAX_PART = 100  # bytes of UTF-8: half of what file systems take, for the suffixes of files written beside

DAILY = re.compile(r"(?:^|/)\d{4}-\d\d-\d\d\.md$")  # a daily memory file

_FORBIDDEN = re.compile(r'[\\:*?"<>|]')
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # controls, half characters, line and paragraph separators
_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # make a name read as another
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$|clock\$)")
# `.git` and `.replica`, and the short names that Windows keeps for them (CVE-2014-9390).
_OURS = re.compile(r"\.git|\.replica|git~[0-9]+|replic~[0-9]+")
_JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT: a folder of Windows that leads elsewhere


def normal(path: str) -> str:
    """The one spelling of a document's path: relative, "/" between its parts, Unicode in NFC.

    Raises UnsafePath: it leaves the folder, is reserved, or some file system cannot hold it; the message says why.
    """
    # Only then composed: that takes quadratic time on many marks. It may shorten a path to a third.
    reason = _wrong(path := unicodedata.normalize("NFC", path)) if len(path) <= 4 * MAX_PATH else TOO_LONG
    if reason:
        shown = path if len(path) <= MAX_PATH else path[:MAX_PATH] + "…"
        raise UnsafePath(f"unsafe path {ascii(shown) if not shown.isprintable() else repr(shown)}: {reason}")
    return path


def clash_key(path: str) -> str:
    """Equal for two paths that some file system would hold as one: case, composition and invisible marks left out."""
    return _folded(path)


def resolve(root: Path, path: str) -> Path:
    """The place of a document in the clone's folder; nothing on the way there is a link. It need not exist.

    Raises UnsafePath: not a safe path, or a link, a device, or a file in place of a folder stands in the way.
    """
    parts = normal(path).split("/")
    place = Path(root)
    for depth, part in enumerate(parts, 1):
        place = place / part
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            break
        reason = _in_the_way(found, last=depth == len(parts))
        if reason:
            raise UnsafePath(f"unsafe path {path!r}: {'/'.join(parts[:depth])!r} {reason}")
    return Path(root, *parts)


def _wrong(path: str) -> str:
    """Why this path will not do, or ""."""
    if not path:
        return "it is empty"
    if len(path) > MAX_PATH:
        return TOO_LONG
    if any(unicodedata.category(char) in _CONTROL or char in _BIDI for char in path):
        return "it holds a control character"
    if path.startswith("/"):
        return "it is not relative"
    if found := _FORBIDDEN.search(path):
        return f"it holds {found[0]!r}"
    return next((reason for part in path.split("/") if (reason := _wrong_part(part))), "")


def _wrong_part(part: str) -> str:
    if part in ("", ".", ".."):
        return {"": "it has an empty part", ".": "it has a part '.'", "..": "it has a part '..'"}[part]
    if len(part.encode()) > MAX_PART:
        return f"{part!r} is longer than {MAX_PART} bytes"
    if part[-1] == "." or part[-1].isspace():
        return f"{part!r} ends in a dot or a space"
    folded = _folded(part)
    if _OURS.fullmatch(folded):
        return f"{part!r} belongs to git or to replica itself"
    if _DEVICE.fullmatch(folded.split(".")[0].rstrip(" ")):
        return f"{part!r} is the name of a device"
    return ""


def _folded(name: str) -> str:
    # HFS+ leaves format characters (Cf) out of a comparison. Twice, since either step can make work for the other.
    name = "".join(char for char in name if unicodedata.category(char) != "Cf")
    for _ in range(2):
        name = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", name).casefold())
    return name


def _in_the_way(found: os.stat_result, last: bool) -> str:
    if stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", 0) == _JUNCTION:
        return "is a link"
    if not last and not stat.S_ISDIR(found.st_mode):
        return "is not a folder"
    if last and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return "is not a regular file"  # reading a pipe or a device would hang
    return ""
