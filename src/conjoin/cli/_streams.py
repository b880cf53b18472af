"""What a command reads and writes as text, on any terminal and in any locale.

What goes into a file or a pipe is UTF-8 and exact, wherever it is written. On a terminal, its own encoding holds: what
it cannot show, and what would steer it, is spelled out, as in \\x1b.
"""

import codecs
import os
import sys
from collections.abc import Sequence
from typing import Any

from conjoin.errors import lone_surrogate, plain

UTF8_MODE = "PYTHONUTF8"


def settle_streams() -> None:
    """Let stdout and stderr take any text."""
    for stream, exact in ((sys.stdout, not _is_terminal(sys.stdout)), (sys.stderr, False)):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is None:
            continue
        if exact and not _is_utf8(stream.encoding):
            reconfigure(encoding="utf-8", errors="strict")
        elif not exact:
            reconfigure(errors="backslashreplace")


def settle_locale() -> None:
    """Start again in UTF-8 where names of files are in another encoding, as with LANG=C: nothing else reads them all.

    Python decides on this when it starts, so the process is replaced by one that is told to.
    """
    if _is_utf8(sys.getfilesystemencoding()) or os.environ.get(UTF8_MODE) == "1" or not hasattr(os, "execv"):
        return
    os.environ[UTF8_MODE] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def unreadable(words: Sequence[str]) -> str | None:
    """What is wrong with the first word of a command line that is no text."""
    for number, word in enumerate(words, 1):
        if lone_surrogate(word) is not None:
            shown = word.encode("utf-8", "surrogateescape" if _came_from_bytes(word) else "backslashreplace")
            return f"word {number} of the command line is not UTF-8: {str(shown)[2:-1]}"
    return None


def emit(text: str, *, end: str = "\n") -> None:
    """Write data to stdout: as it is, or on a terminal so that nothing in it steers it."""
    sys.stdout.write((plain(text) if _is_terminal(sys.stdout) else text) + end)
    sys.stdout.flush()


def _came_from_bytes(word: str) -> bool:
    return all(not "\ud800" <= letter <= "\udfff" or "\udc80" <= letter <= "\udcff" for letter in word)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _is_utf8(encoding: str | None) -> bool:
    try:
        return codecs.lookup(encoding or "ascii").name == "utf-8"
    except LookupError:
        return False
