"""The command line: parse, call the public API, print. stdout is data, stderr is talk."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from conjoin.cli import _streams, _talk
from conjoin.cli._options import Once
from conjoin.cli.convert import convert_folder
from conjoin.cli.demo import run_demo
from conjoin.cli.evaluate import evaluate_model
from conjoin.cli.families import list_families
from conjoin.cli.generate import generate_targets
from conjoin.cli.inspect import inspect_folder
from conjoin.cli.join import join_halves
from conjoin.cli.train import train
from conjoin.errors import ConjoinError

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 and the signal's number."""

app = typer.Typer(
    name="conjoin",
    help="Join any pretrained encoder to any pretrained decoder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("convert", cls=Once)(convert_folder)
app.command("demo", cls=Once)(run_demo)
app.command("evaluate", cls=Once)(evaluate_model)
app.command("families", cls=Once)(list_families)
app.command("generate", cls=Once)(generate_targets)
app.command("inspect", cls=Once)(inspect_folder)
app.command("join", cls=Once)(join_halves)
app.command("train", cls=Once)(train)


@app.callback()
def settle(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Join any pretrained encoder to any pretrained decoder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run; exit 0, 1 with one message for what goes wrong, 2 for wrong usage, 130 for Ctrl-C.

    `--debug`, anywhere on the line, shows tracebacks.
    """
    if arguments is None:
        _streams.settle_locale()
    _streams.settle_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if problem := None if arguments is not None else _streams.unreadable(words):
        _fail(f"Error: {problem}\n\nhint: give texts and names of files in UTF-8.", code=2)
    with warnings.catch_warnings():
        _talk.take_warnings()
        try:
            _run([word for word in words if word != "--debug"])
        except ConjoinError as error:
            if debug:
                raise
            told = "\n".join([f"{_kind(error)}: {error}", *_notes(error)])
            _fail(told, code=getattr(error, "exit_code", 1))
        except KeyboardInterrupt:
            if debug:
                raise
            _fail("Stopped by Ctrl-C.", code=INTERRUPTED)
        except BrokenPipeError:  # `conjoin generate ... | head`: nobody listens any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if debug:
                raise
            told = "\n".join([f"{type(error).__name__}: {error}", *_notes(error)])
            _fail(f"{told}\n\nhint: conjoin did not expect this; --debug shows where it arose.")


def _notes(error: Exception) -> list[str]:
    """What was added to an error on its way, such as where a run can go on."""
    return getattr(error, "__notes__", [])


def _run(words: Sequence[str]) -> None:
    """Hand the line to typer, which ends Ctrl-C without a word."""
    try:
        app(words)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _talk.say("Stopped by Ctrl-C.")
        raise


def _kind(error: ConjoinError) -> str:
    """The name of an error's class that users know: private ones go by the class that they are of."""
    known = (kind for kind in type(error).__mro__ if kind.__module__ == ConjoinError.__module__)
    return next(known, type(error)).__name__


def _fail(message: str, code: int = 1) -> NoReturn:
    _talk.say(message)
    sys.exit(code)
