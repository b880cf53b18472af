"""What a terminal shows while training; nothing where stderr is no terminal."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def error_console() -> Console:
    """stderr, as it is now: tests and callers may have replaced it."""
    return Console(stderr=True)


class TrainingProgress:
    """A line with step, loss, speed and time left.

    Args:
        shown: False on all processes but the first.
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        console = error_console()
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("train", total=total, completed=done, loss="-", speed="-")
        self._bar.start()

    def step(self) -> None:
        """One more step is done."""
        with suppress(OSError):  # the terminal may be gone, and the run not yet at its end
            self._bar.advance(self._task)

    def log(self, loss: float, tokens_per_s: float) -> None:
        """Show new figures."""
        with suppress(OSError):
            self._bar.update(self._task, loss=f"{loss:.3f}", speed=f"{tokens_per_s:,.0f}")

    def close(self) -> None:
        """Leave the last state on the screen."""
        with suppress(OSError):
            self._bar.stop()


def track(items: Iterable[T], what: str, *, shown: bool = True) -> Iterator[T]:
    """Show how far an iteration with a length is."""
    from rich.progress import track as rich_track

    console = error_console()
    yield from rich_track(items, what, console=console, transient=True, disable=not (shown and console.is_terminal))


def show(*things: Any, shown: bool = True) -> None:
    """Print tables or lines on stderr."""
    if shown:
        error_console().print(*things)


def say(text: str, *, shown: bool = True) -> None:
    """One line on stderr, as it is."""
    if shown:
        error_console().print(text, soft_wrap=True, markup=False, highlight=False)
