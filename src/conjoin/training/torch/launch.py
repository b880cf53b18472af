"""The model of a recipe."""

import torch

from conjoin.families import parse_indices, parse_layers
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.settings.recipe import Recipe


def build_model(recipe: Recipe) -> EncoderDecoderModel:
    """Load a joined model, or join two checkpoints; fresh parameters are drawn from the run's seed."""
    sources = recipe.sources
    if sources.model is not None:
        model = EncoderDecoderModel.from_pretrained(sources.model, dtype=sources.dtype)
        if sources.source_template is not None:
            model.set_source_template(sources.source_template)
        return model
    torch.manual_seed(recipe.arguments.seed)
    return EncoderDecoderModel.from_encoder_decoder_pretrained(
        sources.encoder,
        sources.decoder,
        share=sources.share,
        cross_attention_init=sources.cross_attention_init,
        encoder_layers=parse_layers(sources.encoder_layers),
        decoder_layers=parse_layers(sources.decoder_layers),
        encoder_attention=sources.encoder_attention,
        source_layers=parse_indices(sources.source_layers),
        source_template=sources.source_template,
        dtype=sources.dtype,
    )
