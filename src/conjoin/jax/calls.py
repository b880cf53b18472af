"""From a user's call to a compiled program: inputs checked, padded to a bucket, results cut back."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from conjoin.errors import ShapeError
from conjoin.families import PretrainedConfig
from conjoin.functional import inputs
from conjoin.functional.cache import Cache
from conjoin.functional.inputs import (
    SOURCE,
    TARGET,
    check_batch,
    check_cache,
    check_companions,
    check_ids,
    check_integers,
    check_length,
    check_mask,
    check_shapes,
    target_length,
    widened,
)
from conjoin.functional.loss import IGNORED, TargetRules
from conjoin.functional.programs import ForwardOptions
from conjoin.jax import programs
from conjoin.jax.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput
from conjoin.jax.params import ParameterModel, Params

Kwargs = dict[str, Any]
Batch = dict[str, Any]
"""Arrays of a call, JAX's or still numpy's."""

_MORE = (
    "inputs_embeds",
    "decoder_inputs_embeds",
    "token_type_ids",
    "decoder_token_type_ids",
    "segment_ids",
    "decoder_segment_ids",
    "num_items_in_batch",
)


def check_kwargs(more: Kwargs) -> None:
    """Refuse keyword arguments that a call does not take."""
    unknown = [name for name in more if name not in _MORE]
    if unknown:
        raise TypeError(f"FlaxEncoderDecoderModel(...) takes no {', '.join(unknown)}. Expected: {', '.join(_MORE)}.")


def dropout(train: bool, rng: Any) -> jax.Array | None:
    """The random state of dropout, None outside training.

    Raises:
        ShapeError: training without one.
    """
    if train and (rng is None or isinstance(rng, int)):
        raise ShapeError(
            "train=True needs dropout_rng, a key.", hint="dropout_rng=jax.random.key(0), another at every step."
        )
    return rng if train else None


def wants_tuple(config: PretrainedConfig, return_dict: bool | None) -> bool:
    """True if a call returns a tuple: as it says, else as the config does."""
    return not (config.return_dict if return_dict is None else return_dict)


def target_rules(config: PretrainedConfig, given: Kwargs) -> TargetRules | None:
    """How labels become decoder inputs; None where these are given. See conjoin.functional.inputs."""
    labels = given.get("labels")
    known = labels is not None and not isinstance(labels, Tracer)
    return inputs.target_rules(config, given, ignored=known and bool((np.asarray(labels) == IGNORED).any()))


def encode(
    model: ParameterModel, options: ForwardOptions, given: Kwargs, params: Params, rng: jax.Array | None
) -> EncoderOutput:
    """The encoder's output."""
    batch, (length, _) = prepared(model, given, params)
    output = programs.encode_jit(model.key, options, params, batch, rng)
    return EncoderOutput(
        last_hidden_state=_cut(output.last_hidden_state, length),
        hidden_states=_each(output.hidden_states, length),
        attentions=_each(output.attentions, length, length),
    )


def decode(
    model: ParameterModel,
    options: ForwardOptions,
    given: Kwargs,
    states: jax.Array | None,
    cache: Cache | None,
    params: Params,
    rng: jax.Array | None,
) -> DecoderOutput:
    """The decoder's output, and the cache behind it. Nothing is padded: a step has the shape that it has."""
    batch = {name: jnp.asarray(x) for name, x in _arrays(given).items()}
    decoder = model.spec.decoder
    if states is None and cache is None:
        raise ShapeError(f"{decoder.family}: this decoder reads an encoder; encoder_outputs is missing.")
    check_shapes(batch if states is None else {**batch, "encoder_outputs": states}, model.spec)
    length = target_length(batch, decoder)
    past = 0 if cache is None or isinstance(cache.length, Tracer) else int(cache.length)
    check_length(decoder, past + length, batch.get("decoder_position_ids"))
    if cache is not None:
        check_cache(cache, decoder)
        room = cache.mask.shape[1]
        if past + length > room:
            raise ShapeError(f"{past + length} target positions, but the cache has room for {room}: see init_cache.")
        mask = batch.get("decoder_attention_mask")
        if mask is not None and mask.shape[1] == room != length:
            batch["decoder_attention_mask"] = jax.lax.dynamic_slice_in_dim(mask, cast(Any, cache.length), length, 1)
        _check_source_mask(batch, cache)
    check_companions(batch if states is None or cache is not None else {**batch, "encoder_outputs": states})
    if not _is_traced(batch, params):
        check_ids(batch, model.spec)
    return programs.decode_jit(model.key, options, params, batch, states, cache, rng)


def _check_source_mask(batch: Batch, cache: Cache) -> None:
    mask = batch.get("attention_mask")
    if mask is not None and cache.cross:
        rows, _, length, _ = cache.cross[0][0].shape
        if tuple(mask.shape) != (rows, length):
            raise ShapeError(
                f"encoder_attention_mask has shape {tuple(mask.shape)}; expected ({rows}, {length}), as the cache."
            )


def _is_traced(batch: Batch, params: Params) -> bool:
    return any(isinstance(x, Tracer) for x in (*batch.values(), next(iter(params.values()))))


def start_cache(
    model: ParameterModel, rows: int, room: int, states: jax.Array, source_mask: jax.Array | None, params: Params
) -> Cache:
    """An empty cache that holds the source's keys and values."""
    check_shapes({"encoder_outputs": states}, model.spec)
    if rows % states.shape[0]:
        raise ShapeError(f"{rows} target rows for {states.shape[0]} sources; expected a multiple.")
    return programs.start_cache_jit(model.key, rows, room, params, states, source_mask)


def forward(
    model: ParameterModel, options: ForwardOptions, given: Kwargs, params: Params, rng: jax.Array | None
) -> Seq2SeqLMOutput:
    """Encoder, decoder and loss."""
    batch, (source, target) = prepared(model, given, params)
    output = programs.forward_jit(model.key, options, params, batch, rng)
    return output.replace(
        logits=_cut(output.logits, target),
        decoder_hidden_states=_each(output.decoder_hidden_states, target),
        decoder_attentions=_each(output.decoder_attentions, target, target),
        cross_attentions=_each(output.cross_attentions, target, source),
        encoder_last_hidden_state=_cut(output.encoder_last_hidden_state, source),
        encoder_hidden_states=_each(output.encoder_hidden_states, source),
        encoder_attentions=_each(output.encoder_attentions, source, source),
    )


def prepared(model: ParameterModel, given: Kwargs, params: Params) -> tuple[Batch, tuple[int | None, int | None]]:
    """Arrays of a call, checked and padded to the bucket; and the true lengths of source and target.

    Inside the caller's own jit nothing is padded: shapes are the caller's there.
    """
    batch = _arrays(given)
    known = not _is_traced(batch, params)
    source, target = check_batch(batch, model.spec, known=known)
    if model.bucket_size > 1 and known:
        if source is not None and "encoder_outputs" not in batch:
            batch = widened(batch, model.spec.encoder, SOURCE, source, model.bucket_size)
        if target is not None:
            batch = widened(batch, model.spec.decoder, TARGET, target, model.bucket_size)
    return {name: jnp.asarray(x) for name, x in batch.items()}, (source, target)


def _cut(x: jax.Array | None, length: int | None) -> Any:
    """The first positions of [B, T, ...]."""
    return x if x is None or length is None or x.shape[1] == length else x[:, :length]


def _each(arrays: tuple[jax.Array, ...] | None, length: int | None, keys: int | None = None) -> Any:
    """The same for every layer; attentions [B, H, T, S] are cut on both sides."""
    if arrays is None:
        return None
    if keys is None:
        return tuple(_cut(x, length) for x in arrays)
    return tuple(x if x.shape[2:] == (length, keys) else x[:, :, :length, :keys] for x in arrays)


def _arrays(given: Kwargs) -> Batch:
    """What is given, ids as int32. Numpy arrays stay numpy's until the program takes them."""
    batch: Batch = {}
    for name, value in given.items():
        if value is None:
            continue
        array: Any = cast(Any, value if isinstance(value, jax.Array | np.ndarray) else np.asarray(value))
        floats = name.endswith("embeds") or name == "encoder_outputs"
        check_integers(name, array.shape, array.dtype)
        if name.endswith("mask") and not isinstance(array, Tracer):
            check_mask(name, array)
        batch[name] = array if floats else array.astype(np.int32)
    return batch
