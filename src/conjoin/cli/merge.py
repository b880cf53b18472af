"""`conjoin merge`: make one results file of the parts that shards wrote."""

from pathlib import Path
from typing import Annotated

import typer

from conjoin.bulk.outputs import OutputFile
from conjoin.bulk.parts import merge
from conjoin.cli.generate import Format
from conjoin.cli.generating import tell_failed
from conjoin.cli.outputs import claim_file
from conjoin.cli.talk import say


def merge_parts(
    output: Annotated[Path, typer.Argument(help="The --output that the shards had; its parts are beside it.")],
    format: Annotated[
        Format | None, typer.Option(help="Format of the output; by default chosen by its file name, or text.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
) -> None:
    """Join OUTPUT.1-of-N to OUTPUT.N-of-N, which `conjoin generate --shard` wrote, in the order of their input.

    Nothing is written unless all shards are there, finished, and of one run.
    The parts are kept.
    """
    claim_file(output, inputs=[], overwrite=overwrite)
    total, failed = merge(OutputFile.of(output, format.value if format else None))
    say(f"{output}: {total - failed:,} results.")
    tell_failed(failed)
