"""What commands say to a person, on stderr."""

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

import typer

from conjoin.errors import ConjoinWarning, plain


def say(text: str) -> None:
    """One line of talk; nothing in it steers the terminal."""
    typer.echo(plain(text), err=True)


def take_warnings() -> None:
    """Show our own warnings as one line each, once; others as Python does."""
    warnings.simplefilter("once", ConjoinWarning)
    others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, ConjoinWarning):
            say(f"warning: {message}")
        else:
            others(message, category, filename, lineno, file, line)

    warnings.showwarning = show


@contextmanager
def progress(what: str, total: int | None) -> Generator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal.

    Yields:
        Called with what was just done.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(plain(what)), total=total)
        yield lambda done: bar.advance(task, done)
