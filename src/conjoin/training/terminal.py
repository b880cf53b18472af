"""Lines, tables and progress on stderr."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console

T = TypeVar("T")


def error_console() -> Console:
    """Return a console on the present sys.stderr, which tests and callers may have replaced."""
    return Console(stderr=True)


def track(items: Iterable[T], description: str, *, shown: bool = True) -> Iterator[T]:
    """Iterate with a progress bar, if stderr is a terminal."""
    from rich.progress import track as rich_track

    console = error_console()
    hidden = not (shown and console.is_terminal)
    yield from rich_track(items, description, console=console, transient=True, disable=hidden)


def show(*renderables: Any) -> None:
    """Print tables or lines."""
    error_console().print(*renderables)


def say(text: str) -> None:
    """Print one line as it is."""
    error_console().print(text, soft_wrap=True, markup=False, highlight=False)
