"""The compiled programs of a model: pure functions of parameters and arrays, one compilation per set of shapes."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import jax

from conjoin.functional import programs
from conjoin.functional.cache import Cache
from conjoin.functional.ops import Ops
from conjoin.functional.programs import CompileKey, ForwardOptions
from conjoin.functional.requests import DecodeSettings
from conjoin.functional.sample import Written
from conjoin.jax.ops import OPS
from conjoin.jax.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput

Arrays = Mapping[str, jax.Array]
F = TypeVar("F", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[F], F]:
    """Return a decorator that is jax.jit with these options, but keeps the function's type."""
    return lambda function: cast(F, jax.jit(function, **options))


def forward(
    key: CompileKey, options: ForwardOptions, params: Arrays, batch: Arrays, rng: jax.Array | None
) -> Seq2SeqLMOutput:
    """Encoder and decoder over a batch; pure, so that gradients go through it.

    Args:
        batch: input_ids or inputs_embeds (or encoder_outputs), attention_mask, decoder_input_ids or labels ...
        rng: Random state of dropout; None leaves it out.
    """
    return Seq2SeqLMOutput(**programs.forward(key, options, key.scope(OPS, params, rng), batch))


def encode(
    key: CompileKey, options: ForwardOptions, params: Arrays, batch: Arrays, rng: jax.Array | None
) -> EncoderOutput:
    """The encoder alone."""
    return EncoderOutput(**programs.encode(key, options, key.scope(OPS, params, rng), batch)._asdict())


def decode(
    key: CompileKey,
    options: ForwardOptions,
    params: Arrays,
    batch: Arrays,
    states: jax.Array | None,
    cache: Cache | None,
    rng: jax.Array | None,
) -> DecoderOutput:
    """The decoder, and the projection before it; reads the cache's keys and values in place of `states`."""
    return DecoderOutput(**programs.decode(key, options, key.scope(OPS, params, rng), batch, states, cache)._asdict())


def start_cache(
    key: CompileKey, rows: int, room: int, params: Arrays, states: jax.Array, source_mask: jax.Array | None
) -> Cache:
    """An empty cache that holds the source's keys and values."""
    return programs.start_cache(key, key.scope(OPS, params), rows, room, states, source_mask)


def generate(
    key: CompileKey, ops: Ops, settings: DecodeSettings, params: Arrays, batch: Arrays, rng: jax.Array
) -> Written:
    """Encoder and decoding loop.

    Args:
        ops: JAX's, or those that call kernels of our own.
    """
    return programs.generate(key, settings, key.scope(ops, params), batch, rng)


forward_jit = compiled(static_argnums=(0, 1))(forward)
encode_jit = compiled(static_argnums=(0, 1))(encode)
decode_jit = compiled(static_argnums=(0, 1))(decode)
start_cache_jit = compiled(static_argnums=(0, 1, 2))(start_cache)
generate_jit = compiled(static_argnums=(0, 1, 2))(generate)
