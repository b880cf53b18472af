"""Messages, warnings and progress bars for the user, all on stderr."""

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

import typer

from conjoin.errors import ConjoinWarning, plain


def say(text: str) -> None:
    """Print a message, with control characters escaped."""
    typer.echo(plain(text), err=True)


def show_warnings() -> None:
    """Print each ConjoinWarning once, as one line; leave other warnings to Python."""
    warnings.simplefilter("once", ConjoinWarning)
    default = warnings.showwarning

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
            default(message, category, filename, lineno, file, line)

    warnings.showwarning = show


@contextmanager
def progress(label: str, total: int | None) -> Generator[Callable[[int], None]]:
    """Show a progress bar on stderr if that is a terminal.

    Yields:
        A function to call with the number of items just done.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(plain(label)), total=total)
        yield lambda done: bar.advance(task, done)
