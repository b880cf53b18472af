"""From a user's call to a compiled program: inputs checked, padded to a bucket, results cut back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from conjoin import spec
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ShapeError, listing
from conjoin.families import PretrainedConfig
from conjoin.functional.cache import Cache
from conjoin.functional.loss import IGNORED, TargetRules
from conjoin.jax import programs
from conjoin.jax.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput
from conjoin.jax.programs import How
from conjoin.join import require_pad, require_start, special_tokens, starts_with_last_label

if TYPE_CHECKING:
    from conjoin.jax.model import FlaxEncoderDecoderModel

Given = dict[str, Any]
Batch = dict[str, Any]
"""Arrays of a call, JAX's or still numpy's."""
Params = Mapping[str, jax.Array]

SOURCE = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "inputs_embeds", "segment_ids")
TARGET = (
    "decoder_input_ids",
    "decoder_attention_mask",
    "decoder_position_ids",
    "decoder_token_type_ids",
    "decoder_inputs_embeds",
    "decoder_segment_ids",
    "labels",
)
_MORE = (
    "inputs_embeds",
    "decoder_inputs_embeds",
    "token_type_ids",
    "decoder_token_type_ids",
    "segment_ids",
    "decoder_segment_ids",
    "num_items_in_batch",
)


def check_words(more: Given) -> None:
    """Refuse keywords of a call that nobody reads."""
    unknown = [name for name in more if name not in _MORE]
    if unknown:
        raise TypeError(f"FlaxEncoderDecoderModel(...) takes no {', '.join(unknown)}. Expected: {', '.join(_MORE)}.")


def dropout(train: bool, rng: jax.Array | None) -> jax.Array | None:
    """The random state of dropout, None outside training.

    Raises:
        ShapeError: training without one.
    """
    if train and rng is None:
        raise ShapeError("train=True needs dropout_rng.", hint="dropout_rng=jax.random.key(0), another at every step.")
    return rng if train else None


def target_rules(config: PretrainedConfig, given: Given) -> TargetRules | None:
    """How labels become decoder inputs; None where these are given.

    Raises:
        ShapeError: neither decoder inputs nor labels are given.
        ConfigError: the start id is not known, or the pad id where it is needed.
    """
    if given.get("decoder_input_ids") is not None or given.get("decoder_inputs_embeds") is not None:
        return None
    labels = given.get("labels")
    if labels is None:
        raise ShapeError(
            "Neither decoder_input_ids nor labels is given.",
            hint="to train, give labels=; to generate, call model.generate(input_ids).",
        )
    tokens, wraps = special_tokens(config), starts_with_last_label(config)
    ignored = not isinstance(labels, Tracer) and bool((np.asarray(labels) == IGNORED).any())
    pad = require_pad(config) if wraps or ignored else tokens.pad
    return TargetRules(
        start=None if wraps else require_start(config),
        pad=0 if pad is None else pad,
        pad_is_padding=tokens.pad is not None and not tokens.pad_is_ambiguous,
        masked=isinstance(config, EncoderDecoderConfig),
    )


def encode(
    model: "FlaxEncoderDecoderModel", how: How, given: Given, params: Params, rng: jax.Array | None
) -> EncoderOutput:
    """The encoder's output."""
    batch, (length, _) = prepared(model, given, params)
    output = programs.encode_jit(model.net, how, params, batch, rng)
    return EncoderOutput(
        last_hidden_state=_cut(output.last_hidden_state, length),
        hidden_states=_each(output.hidden_states, length),
        attentions=_each(output.attentions, length, length),
    )


def decode(
    model: "FlaxEncoderDecoderModel",
    how: How,
    given: Given,
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
    length = _target_length(batch, decoder)
    past = 0 if cache is None or isinstance(cache.length, Tracer) else int(cache.length)
    _check_length(decoder, past + length, batch.get("decoder_position_ids"))
    if cache is not None:
        room = cache.mask.shape[1]
        if past + length > room:
            raise ShapeError(f"{past + length} target positions, but the cache has room for {room}: see init_cache.")
        mask = batch.get("decoder_attention_mask")
        if mask is not None and mask.shape[1] == room != length:
            batch["decoder_attention_mask"] = jax.lax.dynamic_slice_in_dim(mask, cache.length, length, 1)
    return programs.decode_jit(model.net, how, params, batch, states, cache, rng)


def start_cache(
    model: "FlaxEncoderDecoderModel", rows: int, room: int, encoded: EncoderOutput, params: Params
) -> Cache:
    """An empty cache."""
    states = encoded.last_hidden_state
    assert states is not None
    if rows % states.shape[0]:
        raise ShapeError(f"{rows} target rows for {states.shape[0]} sources; expected a multiple.")
    return programs.start_cache_jit(model.net, rows, room, params, states)


def forward(
    model: "FlaxEncoderDecoderModel", how: How, given: Given, params: Params, rng: jax.Array | None
) -> Seq2SeqLMOutput:
    """Encoder, decoder and loss."""
    batch, (source, target) = prepared(model, given, params)
    output = programs.forward_jit(model.net, how, params, batch, rng)
    return output.replace(
        logits=_cut(output.logits, target),
        decoder_hidden_states=_each(output.decoder_hidden_states, target),
        decoder_attentions=_each(output.decoder_attentions, target, target),
        cross_attentions=_each(output.cross_attentions, target, source),
        encoder_last_hidden_state=_cut(output.encoder_last_hidden_state, source),
        encoder_hidden_states=_each(output.encoder_hidden_states, source),
        encoder_attentions=_each(output.encoder_attentions, source, source),
    )


def prepared(
    model: "FlaxEncoderDecoderModel", given: Given, params: Params
) -> tuple[Batch, tuple[int | None, int | None]]:
    """Arrays of a call, checked and padded to the bucket; and the true lengths of source and target.

    Inside the caller's own jit nothing is padded: shapes are the caller's there.
    """
    batch = _arrays(given)
    encoder, decoder = model.spec.encoder, model.spec.decoder
    _check_segments(batch)
    source = target = None
    if "encoder_outputs" in batch:
        source = batch["encoder_outputs"].shape[1]
    elif "input_ids" in batch or "inputs_embeds" in batch or not any(name in batch for name in TARGET):
        source = _length(batch, encoder, "input_ids", "inputs_embeds")
        _check_length(encoder, source, batch.get("position_ids"), batch.get("segment_ids"))
    mask = batch.get("attention_mask")
    if mask is not None and source is not None and mask.shape[1] != source:
        raise ShapeError(f"attention_mask has shape {mask.shape}; expected {source} columns, as the source.")
    if any(name in batch for name in TARGET):
        target = _target_length(batch, decoder)
        _check_length(decoder, target, batch.get("decoder_position_ids"), batch.get("decoder_segment_ids"))
    tracing = any(isinstance(x, Tracer) for x in (*batch.values(), next(iter(params.values()))))
    if not tracing:
        _check_words_of(batch, model.spec)
    if model.bucket_size > 1 and not tracing:
        batch = _padded(model, batch, source, target)
    return {name: jnp.asarray(x) for name, x in batch.items()}, (source, target)


def bucket(length: int, size: int, limit: int | None) -> int:
    """The length that is compiled: a multiple of `size`, no more than the limit, no less than the length."""
    padded = -(-length // size) * size
    return max(length, padded if limit is None else min(padded, limit))


def _padded(model: "FlaxEncoderDecoderModel", batch: Batch, source: int | None, target: int | None) -> Batch:
    encoder, decoder, size = model.spec.encoder, model.spec.decoder, model.bucket_size
    if source is not None and "encoder_outputs" not in batch:
        wide = bucket(source, size, encoder.max_positions)
        rows = batch["input_ids" if "input_ids" in batch else "inputs_embeds"].shape[0]
        if wide > source and "attention_mask" not in batch:
            batch["attention_mask"] = np.ones((rows, source), np.int32)
        fillers = {"input_ids": _padding_id(encoder)}
        batch = {n: _widen(x, wide, fillers.get(n, 0)) if n in SOURCE else x for n, x in batch.items()}
    if target is not None:
        wide = bucket(target, size, decoder.max_positions)
        fillers = {"decoder_input_ids": _padding_id(decoder), "labels": IGNORED}
        batch = {n: _widen(x, wide, fillers.get(n, 0)) if n in TARGET else x for n, x in batch.items()}
    return batch


def _padding_id(kind: spec.StackSpec) -> int:
    """What is written behind the end: where ids tell what positions count, the id that they do not count."""
    position = kind.embedding.position
    if isinstance(position, spec.LearnedSkippingPads) and position.pads == "ids":
        return position.padding_id
    return 0


def _widen(x: Any, length: int, filler: int) -> Any:
    extra = length - x.shape[1]
    return np.pad(np.asarray(x), [(0, 0), (0, extra), *[(0, 0)] * (x.ndim - 2)], constant_values=filler) if extra else x


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


def _arrays(given: Given) -> Batch:
    """What is given, ids as int32. Numpy arrays stay numpy's until the program takes them."""
    batch: Batch = {}
    for name, value in given.items():
        if value is None:
            continue
        array = value if isinstance(value, jax.Array | np.ndarray) else np.asarray(value)
        floats = name.endswith("embeds") or name == "encoder_outputs"
        if name.endswith("ids") and (array.ndim != 2 or jnp.issubdtype(array.dtype, jnp.floating)):
            raise ShapeError(
                f"{name} has shape {tuple(array.shape)} and dtype {array.dtype}. "
                "Expected integers of shape (batch, length).",
                hint="tokenizer(text, return_tensors='np').input_ids has that shape; add [None] to a single row.",
            )
        batch[name] = array if floats else array.astype(np.int32)
    return batch


def _length(batch: Mapping[str, Any], kind: spec.StackSpec, ids: str, embeds: str) -> int:
    if (ids in batch) == (embeds in batch):
        raise ShapeError(f"{kind.family}: expected exactly one of {ids} and {embeds}.")
    return batch[ids if ids in batch else embeds].shape[1]


def _target_length(batch: Mapping[str, Any], decoder: spec.StackSpec) -> int:
    if "decoder_input_ids" not in batch and "decoder_inputs_embeds" not in batch and "labels" in batch:
        return batch["labels"].shape[1]
    return _length(batch, decoder, "decoder_input_ids", "decoder_inputs_embeds")


def _check_length(kind: spec.StackSpec, length: int, position_ids: Any, segments: Any = None) -> None:
    """Refuse positions that the table does not have: JAX itself would return NaN."""
    limit = kind.max_positions
    if limit is not None and length > limit and position_ids is None and segments is None:
        raise ShapeError(
            f"{kind.family}: {length} positions, but this checkpoint's position table has {limit}.",
            hint=f"shorten the input, e.g. tokenizer(..., truncation=True, max_length={limit}).",
        )


def _check_words_of(batch: Mapping[str, Any], pair: spec.PairSpec) -> None:
    """Refuse ids that a vocabulary does not have: JAX itself would return NaN."""
    sides = {"input_ids": pair.encoder, "decoder_input_ids": pair.decoder, "labels": pair.decoder}
    wrong: list[str] = []
    for name, kind in sides.items():
        ids = np.asarray(batch.get(name, 0))
        ids = ids[(ids != IGNORED) | (name != "labels")]
        if ids.size and (ids.min() < 0 or ids.max() >= kind.vocab_size):
            wrong.append(f"{name}: {ids.min()} to {ids.max()}, but {kind.family}'s vocabulary has {kind.vocab_size}")
    if wrong:
        raise ShapeError(f"Ids outside of the vocabulary:\n{listing(wrong)}", hint="use each half's own tokenizer.")


def _check_segments(batch: Mapping[str, Any]) -> None:
    one_sided = ("segment_ids" in batch) != ("decoder_segment_ids" in batch)
    if one_sided:
        raise ShapeError(
            "segment ids are given for one side only.", hint="packed rows need segment_ids and decoder_segment_ids."
        )
