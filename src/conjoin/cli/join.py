"""`conjoin join`: join an encoder and a decoder."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from conjoin.cli.options import DecoderLayers, EncoderLayers, OverwriteModel
from conjoin.cli.outputs import claim_folder
from conjoin.cli.streams import emit


class Share(StrEnum):
    """Parameters that encoder and decoder share."""

    none = "none"
    embeddings = "embeddings"
    all = "all"


class Init(StrEnum):
    """Initial values of new cross-attention, or a way to read the source without any."""

    normal = "normal"
    self_attention = "self_attention"
    zero_gate = "zero_gate"
    merged = "merged"
    layerwise = "layerwise"


class Reads(StrEnum):
    """How the encoder reads."""

    bidirectional = "bidirectional"
    causal = "causal"


def join_halves(
    encoder: Annotated[str, typer.Argument(help="Folder or hub id of the encoder.")],
    decoder: Annotated[str, typer.Argument(help="Folder or hub id of the decoder.")],
    out: Annotated[Path, typer.Option(help="Folder to write the joined model to.")],
    share: Annotated[Share, typer.Option(help="Parameters that encoder and decoder share.")] = Share.none,
    cross_attention_init: Annotated[
        Init,
        typer.Option(
            help="Initial values of new cross-attention: random, a copy of self-attention, or random behind a gate "
            "that starts closed. Or no new parameters: merged lets self-attention read the encoder's output, layerwise "
            "each layer what the encoder's layer reads, so that a causal LM joined to itself stays that LM."
        ),
    ] = Init.normal,
    encoder_attention: Annotated[
        Reads | None,
        typer.Option(help="Let the encoder read both ways or causally; causal by default for a causal LM, layerwise."),
    ] = None,
    source_layers: Annotated[
        str | None,
        typer.Option(help="With layerwise: the encoder layer that each decoder layer reads with, such as 0,2,5."),
    ] = None,
    source_template: Annotated[
        str | None,
        typer.Option(
            help="Prompt around every source, saved with the model: text with {source} in it, or chat for the "
            "tokenizer's chat template. Write \\n for a line break."
        ),
    ] = None,
    encoder_layers: EncoderLayers = None,
    decoder_layers: DecoderLayers = None,
    dtype: Annotated[str, typer.Option(help="Data type of the parameters.")] = "float32",
    overwrite: OverwriteModel = False,
) -> None:
    """Join an encoder and a decoder into one sequence-to-sequence model, which must then be trained."""
    claim_folder(out, inputs=[encoder, decoder], overwrite=overwrite)
    from rich.console import Console

    from conjoin import EncoderDecoderModel
    from conjoin.families import parse_indices, parse_layers

    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder,
        decoder,
        share=share.value,
        cross_attention_init=cross_attention_init.value,
        encoder_layers=parse_layers(encoder_layers),
        decoder_layers=parse_layers(decoder_layers),
        encoder_attention=None if encoder_attention is None else encoder_attention.value,
        source_layers=parse_indices(source_layers),
        source_template=source_template,
        dtype=dtype,
    )
    model.save_pretrained(out)
    Console(stderr=True).print(model.join_report)
    emit(str(out))
