"""`conjoin shrink`: a model with fewer layers."""

from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.options import DecoderLayers, EncoderLayers, MaxShardSize, OverwriteModel
from conjoin.cli.outputs import claim_folder
from conjoin.cli.streams import emit
from conjoin.cli.talk import say


def shrink_model(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder or hub id of a joined model, a whole one (BART, T5) or a single one.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the smaller model to.", show_default=False)],
    encoder_layers: EncoderLayers = None,
    decoder_layers: DecoderLayers = None,
    max_shard_size: MaxShardSize = "5GB",
    overwrite: OverwriteModel = False,
) -> None:
    """Drop layers of a trained model, spread evenly; the result must be fine-tuned: conjoin train --model OUT.

    Needs no framework. A number n keeps layers 0 and last, and equal steps between.
    """
    if encoder_layers is None and decoder_layers is None:
        raise typer.BadParameter("give a number of layers to keep", param_hint="--decoder-layers")
    claim_folder(out, inputs=[model], overwrite=overwrite)
    from conjoin.families import parse_layers
    from conjoin.surgery import shrink

    change = shrink(
        model,
        out,
        encoder_layers=parse_layers(encoder_layers),
        decoder_layers=parse_layers(decoder_layers),
        max_shard_size=max_shard_size,
    )
    say(str(change))
    emit(str(out))
