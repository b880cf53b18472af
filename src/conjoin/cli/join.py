"""`conjoin join`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli._outputs import claim_folder
from conjoin.cli._streams import emit


class Share(StrEnum):
    """What the halves share."""

    none = "none"
    embeddings = "embeddings"
    all = "all"


class Init(StrEnum):
    """How fresh cross-attention starts."""

    normal = "normal"
    self_attention = "self_attention"
    zero_gate = "zero_gate"


def join_halves(
    encoder: Annotated[str, typer.Argument(help="Folder or hub id of the encoder.")],
    decoder: Annotated[str, typer.Argument(help="Folder or hub id of the decoder.")],
    out: Annotated[Path, typer.Option(help="Folder to write the pair to.")],
    share: Annotated[Share, typer.Option(help="Parameters that both halves use.")] = Share.none,
    cross_attention_init: Annotated[Init, typer.Option(help="Start of fresh cross-attention.")] = Init.normal,
    dtype: Annotated[str, typer.Option(help="Of the parameters.")] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model in --out; other files there are kept.")
    ] = False,
) -> None:
    """Join two checkpoints into one sequence-to-sequence model, which must then be trained."""
    claim_folder(out, inputs=[encoder, decoder], overwrite=overwrite)
    from rich.console import Console

    from conjoin import EncoderDecoderModel

    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder, decoder, share=share.value, cross_attention_init=cross_attention_init.value, dtype=dtype
    )
    model.save_pretrained(out)
    Console(stderr=True).print(model.join_report)
    emit(str(out))
