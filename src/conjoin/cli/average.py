"""`conjoin average`: the mean of several checkpoints' weights."""

from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.options import MaxShardSize, OverwriteModel
from conjoin.cli.outputs import claim_folder
from conjoin.cli.streams import emit
from conjoin.cli.talk import say


def average_models(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Folders or hub ids: checkpoints of one run, or runs from the same start.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the mean to.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(help="Weight of each checkpoint, separated by commas, such as 1,2,1; equal by default."),
    ] = None,
    max_shard_size: MaxShardSize = "5GB",
    overwrite: OverwriteModel = False,
) -> None:
    """Write the mean of several checkpoints' weights as one model. Needs no framework.

    Tokenizers and settings are those of the last checkpoint.
    """
    claim_folder(out, inputs=checkpoints, overwrite=overwrite)
    from conjoin.surgery import average_checkpoints

    change = average_checkpoints(checkpoints, out, weights=_numbers(weights), max_shard_size=max_shard_size)
    say(str(change))
    emit(str(out))


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}; expected numbers separated by commas.", param_hint="--weights") from None
