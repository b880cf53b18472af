"""Servers that share a run: which one gets the next request, which ones rest, and when to give up."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from conjoin.errors import ConjoinError

PATIENCE_S = 600.0
"""Seconds without an answer of any server after which a run gives up."""
LONGEST_WAIT_S = 60.0
"""Seconds after which a server is asked again, however long it wants to be left alone."""
_FIRST_WAIT_S = 0.5


@dataclass(slots=True)
class _Member:
    url: str
    running: int = 0
    rests_until: float = 0.0
    wait_s: float = _FIRST_WAIT_S
    trouble: str = ""


class Fleet:
    """Servers of one model.

    Args:
        urls: Their addresses.
        patience_s: Seconds without an answer after which `take` gives up.
    """

    def __init__(self, urls: Sequence[str], patience_s: float = PATIENCE_S) -> None:
        self._members = {url: _Member(url) for url in urls}
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._last_answer = time.monotonic()
        self._is_closed = False

    def take(self) -> str:
        """Return the server with the fewest requests among those that do not rest; wait for one if all do.

        Raises:
            ConjoinError: no server has answered for too long, or the fleet is closed.
        """
        with self._changed:
            while True:
                now = time.monotonic()
                if self._is_closed:
                    raise ConjoinError("The run is over.")
                awake = [member for member in self._members.values() if member.rests_until <= now]
                if awake:
                    member = min(awake, key=lambda each: each.running)
                    member.running += 1
                    return member.url
                if now - self._last_answer > self._patience_s:
                    raise ConjoinError(f"No server has answered for {self._patience_s:g} seconds.\n{self._troubles()}")
                self._changed.wait(max(0.01, min(member.rests_until for member in self._members.values()) - now))

    def answered(self, url: str) -> None:
        """Note an answer of a server."""
        with self._changed:
            member = self._members[url]
            member.running -= 1
            member.wait_s, member.trouble = _FIRST_WAIT_S, ""
            self._last_answer = time.monotonic()
            self._changed.notify_all()

    def failed(self, url: str, trouble: str, retry_after_s: float | None = None) -> None:
        """Let a server rest: as long as it says, else longer each time."""
        with self._changed:
            member = self._members[url]
            member.running -= 1
            wait_s = member.wait_s if retry_after_s is None else retry_after_s
            member.rests_until = time.monotonic() + min(wait_s, LONGEST_WAIT_S)
            member.wait_s = min(2 * member.wait_s, LONGEST_WAIT_S)
            member.trouble = trouble
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _troubles(self) -> str:
        return "\n".join(f"  {member.url}: {member.trouble}" for member in self._members.values() if member.trouble)
