"""The command line: parse, call the public API, print. Data go to stdout, messages to stderr."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from conjoin.cli import streams, talk
from conjoin.cli.adapt import adapt_model
from conjoin.cli.average import average_models
from conjoin.cli.compare import compare_runs
from conjoin.cli.convert import convert_folder
from conjoin.cli.demo import run_demo
from conjoin.cli.evaluate import evaluate_model
from conjoin.cli.families import list_families
from conjoin.cli.generate import generate_targets
from conjoin.cli.inspect import inspect_folder
from conjoin.cli.join import join_halves
from conjoin.cli.merge import merge_parts
from conjoin.cli.options import Once
from conjoin.cli.serve import serve_models
from conjoin.cli.shrink import shrink_model
from conjoin.cli.sweep import sweep_settings
from conjoin.cli.train import train
from conjoin.cli.trim import trim_model
from conjoin.errors import ConjoinError

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + the signal's number."""

app = typer.Typer(
    name="conjoin",
    help="Join any pretrained encoder to any pretrained decoder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("average", cls=Once)(average_models)
app.command("compare", cls=Once)(compare_runs)
app.command("adapt", cls=Once)(adapt_model)
app.command("convert", cls=Once)(convert_folder)
app.command("demo", cls=Once)(run_demo)
app.command("evaluate", cls=Once)(evaluate_model)
app.command("families", cls=Once)(list_families)
app.command("generate", cls=Once)(generate_targets)
app.command("inspect", cls=Once)(inspect_folder)
app.command("join", cls=Once)(join_halves)
app.command("merge", cls=Once)(merge_parts)
app.command("serve", cls=Once)(serve_models)
app.command("shrink", cls=Once)(shrink_model)
app.command("sweep", cls=Once)(sweep_settings)
app.command("train", cls=Once)(train)
app.command("trim", cls=Once)(trim_model)


@app.callback()
def top_level(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Join any pretrained encoder to any pretrained decoder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 for success, 1 for an error (one message), 2 for wrong usage, 130 for Ctrl-C.

    `--debug`, anywhere on the command line, shows tracebacks.
    """
    if arguments is None:
        streams.restart_in_utf8()
    streams.configure_streams()
    args = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in args
    if problem := None if arguments is not None else streams.not_utf8(args):
        _fail(f"Error: {problem}\n\nhint: pass texts and file names in UTF-8.", code=2)
    with warnings.catch_warnings():
        talk.show_warnings()
        try:
            _run([arg for arg in args if arg != "--debug"])
        except ConjoinError as error:
            if debug:
                raise
            message = "\n".join([f"{_public_name(error)}: {error}", *_notes(error)])
            _fail(message, code=getattr(error, "exit_code", 1))
        except KeyboardInterrupt:
            if debug:
                raise
            _fail("Stopped by Ctrl-C.", code=INTERRUPTED)
        except BrokenPipeError:  # `conjoin generate ... | head`: nobody reads stdout any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if debug:
                raise
            message = "\n".join([f"{type(error).__name__}: {error}", *_notes(error)])
            _fail(f"{message}\n\nhint: this error is unexpected; --debug shows the traceback.")


def _notes(error: Exception) -> list[str]:
    """Return the notes added to an error, such as how to resume a run."""
    return getattr(error, "__notes__", [])


def _run(args: Sequence[str]) -> None:
    """Pass the arguments to typer, which prints nothing on Ctrl-C."""
    try:
        app(args)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            talk.say("Stopped by Ctrl-C.")
        raise


def _public_name(error: ConjoinError) -> str:
    """Return the name of the error's class, or of its public base class if the class is private."""
    public = (cls for cls in type(error).__mro__ if cls.__module__ == ConjoinError.__module__)
    return next(public, type(error)).__name__


def _fail(message: str, code: int = 1) -> NoReturn:
    talk.say(message)
    sys.exit(code)
