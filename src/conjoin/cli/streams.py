"""Text streams of a command, on any terminal and in any locale.

Files and pipes get exact UTF-8. A terminal gets its own encoding: characters that it cannot show, and control
characters, are escaped, as in \\x1b.
"""

import codecs
import os
import sys
from collections.abc import Sequence
from typing import Any

from conjoin.errors import lone_surrogate, plain

UTF8_MODE = "PYTHONUTF8"


def configure_streams() -> None:
    """Make stdout and stderr accept any text."""
    for stream, exact in ((sys.stdout, not _is_terminal(sys.stdout)), (sys.stderr, False)):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is None:
            continue
        if exact and not _is_utf8(stream.encoding):
            reconfigure(encoding="utf-8", errors="strict")
        elif not exact:
            reconfigure(errors="backslashreplace")


def restart_in_utf8() -> None:
    """Restart Python in UTF-8 mode if file names use another encoding, as with LANG=C, which cannot read them all.

    Python chooses the encoding when it starts, so the process is replaced by a new one.
    """
    if _is_utf8(sys.getfilesystemencoding()) or os.environ.get(UTF8_MODE) == "1" or not hasattr(os, "execv"):
        return
    os.environ[UTF8_MODE] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def not_utf8(args: Sequence[str]) -> str | None:
    """Describe the first argument of the command line that is not UTF-8; None if all are."""
    for number, arg in enumerate(args, 1):
        if lone_surrogate(arg) is not None:
            shown = arg.encode("utf-8", "surrogateescape" if _came_from_bytes(arg) else "backslashreplace")
            return f"argument {number} of the command line is not UTF-8: {str(shown)[2:-1]}"
    return None


def emit(text: str, *, end: str = "\n") -> None:
    """Write data to stdout: unchanged, or on a terminal with control characters escaped."""
    sys.stdout.write((plain(text) if _is_terminal(sys.stdout) else text) + end)
    sys.stdout.flush()


def _came_from_bytes(text: str) -> bool:
    return all(not "\ud800" <= char <= "\udfff" or "\udc80" <= char <= "\udcff" for char in text)


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
