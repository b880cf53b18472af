"""Lines, tables and progress on stderr."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console

T = TypeVar("T")


def error_console() -> Console:
    """Return a console on the present sys.stderr, which tests and callers may have replaced."""
    return Console(stderr=True)


@contextmanager
def counting(description: str, *, shown: bool = True) -> Generator[Callable[[int], None]]:
    """Show how many pairs are done and how long it takes, if stderr is a terminal; yields what to tell of more."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = error_console()
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TextColumn("{task.completed:,.0f} pairs")
    hidden = not (shown and console.is_terminal)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(description, total=None)
        yield lambda count: progress.advance(task, count)


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
