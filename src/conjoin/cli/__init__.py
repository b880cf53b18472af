"""The command line: parse, call the public API, print. stdout is data, stderr is talk."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from conjoin.cli import _talk
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
    """Run; exit 0, 1 with one message for what goes wrong, 2 for wrong usage.

    `--debug`, anywhere on the line, shows tracebacks.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with warnings.catch_warnings():
        _talk.take_warnings()
        try:
            app([word for word in words if word != "--debug"])
        except ConjoinError as error:
            if debug:
                raise
            _fail("\n".join([f"{type(error).__name__}: {error}", *_notes(error)]))
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


def _fail(message: str) -> None:
    typer.echo(message, err=True)
    sys.exit(1)
