"""The model of a recipe."""

from contextlib import nullcontext

import jax

from conjoin.errors import ConfigError
from conjoin.families import parse_indices, parse_layers
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.training.settings.recipe import Recipe


def build_model(recipe: Recipe) -> FlaxEncoderDecoderModel:
    """Load a joined model, or join two checkpoints; fresh parameters are drawn from the run's seed."""
    sources, arguments = recipe.sources, recipe.arguments
    if sources.dtype != "float32":
        raise ConfigError(
            f"dtype = {sources.dtype!r} with framework = jax: weights are trained in float32.",
            hint="--bf16 computes in half precision.",
        )
    with jax.default_device(jax.devices("cpu")[0]) if arguments.use_cpu else nullcontext():
        if sources.model is not None:
            model = FlaxEncoderDecoderModel.from_pretrained(sources.model)
            model.params = model.to_fp32(model.params)
            if sources.source_template is not None:
                model.set_source_template(sources.source_template)
            return model
        return FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(
            sources.encoder,
            sources.decoder,
            share=sources.share,
            cross_attention_init=sources.cross_attention_init,
            encoder_layers=parse_layers(sources.encoder_layers),
            decoder_layers=parse_layers(sources.decoder_layers),
            encoder_attention=sources.encoder_attention,
            source_layers=parse_indices(sources.source_layers),
            source_template=sources.source_template,
            seed=arguments.seed,
        )
