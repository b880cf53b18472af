"""The command line: parse, call the public API, print. stdout is data, stderr is talk."""

import sys
from typing import Annotated

import typer

from conjoin.cli.families import list_families
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
app.command("families")(list_families)
app.command("inspect")(inspect_folder)
app.command("join")(join_halves)
app.command("train")(train)


@app.callback()
def settle(debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False) -> None:
    """Join any pretrained encoder to any pretrained decoder."""


def main() -> None:
    """Run; exit 1 with one message for our errors, 2 for wrong usage."""
    try:
        app()
    except ConjoinError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)
