"""The compiled programs of a model: pure functions of parameters and arrays, one compilation per set of shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from conjoin import spec
from conjoin.functional.block import Record
from conjoin.functional.cache import Cache, empty_cache
from conjoin.functional.embedding import score
from conjoin.functional.loss import TargetRules, decoder_inputs, decoder_mask, token_loss
from conjoin.functional.ops import Ops
from conjoin.functional.scope import Scope
from conjoin.functional.stack import StackInputs, project, run_stack, source_pairs
from conjoin.jax.ops import OPS
from conjoin.jax.outputs import DecoderOutput, EncoderOutput, Seq2SeqLMOutput

Arrays = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Net:
    """What a model computes; programs are compiled for it.

    Args:
        ties: (parameter, the one that it is).
        dtype: What numbers are computed in; None leaves parameters as they are.
    """

    pair: spec.PairSpec
    ties: tuple[tuple[str, str], ...] = ()
    dtype: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.pair, self.ties, self.dtype)))

    def __hash__(self) -> int:
        return self._hash  # pyright: ignore[reportAttributeAccessIssue]  # a spec is large, and hashed at every call

    def scope(self, params: Arrays, rng: jax.Array | None = None, ops: Ops = OPS) -> Scope:
        """The model's parameters, shared ones under every name, in the dtype of the computation."""
        dtype = self.dtype
        cast = {name: value if dtype is None else value.astype(dtype) for name, value in params.items()}
        return Scope(ops, cast | {name: cast[same] for name, same in self.ties}, rng=rng)


@dataclass(frozen=True, kw_only=True)
class How:
    """How a pass is made.

    Args:
        rules: How decoder inputs are made of labels; None where they are given.
        recompute: Gradient checkpointing.
    """

    hidden_states: bool = False
    attentions: bool = False
    recompute: bool = False
    rules: TargetRules | None = None
    smoothing: float = 0.0
    output_logits: bool = True

    def record(self) -> Record:
        """A record that collects what is wanted."""
        return Record.of(hidden_states=self.hidden_states, attentions=self.attentions)


def forward(net: Net, how: How, params: Arrays, batch: Arrays, rng: jax.Array | None) -> Seq2SeqLMOutput:
    """Encoder and decoder over a batch; pure, so that gradients go through it.

    Args:
        batch: input_ids or inputs_embeds (or encoder_outputs), attention_mask, decoder_input_ids or labels ...
        rng: Random state of dropout; None leaves it out.
    """
    model = net.scope(params, rng)
    encoded = encode_with(model, net, how, batch)
    if how.rules is not None:
        batch = {**batch, **_inputs_of_labels(how.rules, batch)}
    decoded = _decode(model, net, how, batch, encoded.last_hidden_state, None)
    labels, loss = batch.get("labels"), None
    if labels is not None:
        items = batch.get("num_items_in_batch")
        loss = token_loss(OPS, decoded.logits, labels, num_items=items, label_smoothing=how.smoothing)
    return Seq2SeqLMOutput(
        loss=loss,
        logits=decoded.logits if how.output_logits else None,
        decoder_hidden_states=decoded.hidden_states,
        decoder_attentions=decoded.attentions,
        cross_attentions=decoded.cross_attentions,
        encoder_last_hidden_state=encoded.last_hidden_state,
        encoder_hidden_states=encoded.hidden_states,
        encoder_attentions=encoded.attentions,
    )


def encode(net: Net, how: How, params: Arrays, batch: Arrays, rng: jax.Array | None) -> EncoderOutput:
    """The encoder alone."""
    return encode_with(net.scope(params, rng), net, how, batch)


def decode(
    net: Net,
    how: How,
    params: Arrays,
    batch: Arrays,
    states: jax.Array | None,
    cache: Cache | None,
    rng: jax.Array | None,
) -> DecoderOutput:
    """The decoder, and the projection before it; reads the cache's keys and values in place of `states`."""
    return _decode(net.scope(params, rng), net, how, batch, states, cache)


def start_cache(net: Net, rows: int, room: int, params: Arrays, states: jax.Array) -> Cache:
    """An empty cache that holds the source's keys and values."""
    model = net.scope(params)
    decoder = net.pair.decoder
    cross = source_pairs(model / "decoder", decoder, project(model, net.pair, states))
    dtype = model["decoder.embed.words.weight"].dtype
    return empty_cache(OPS, decoder, rows, room, dtype, cross)


forward_jit = partial(jax.jit, static_argnums=(0, 1))(forward)
encode_jit = partial(jax.jit, static_argnums=(0, 1))(encode)
decode_jit = partial(jax.jit, static_argnums=(0, 1))(decode)
start_cache_jit = partial(jax.jit, static_argnums=(0, 1, 2))(start_cache)


def encode_with(model: Scope, net: Net, how: How, batch: Arrays) -> EncoderOutput:
    """The encoder, unless its output is in the batch."""
    if "encoder_outputs" in batch:
        return EncoderOutput(last_hidden_state=batch["encoder_outputs"])
    record = how.record()
    inputs = StackInputs(
        input_ids=batch.get("input_ids"),
        inputs_embeds=_cast(model, batch.get("inputs_embeds")),
        mask=_bool(batch.get("attention_mask")),
        position_ids=batch.get("position_ids"),
        token_type_ids=batch.get("token_type_ids"),
        segments=batch.get("segment_ids"),
        record=record,
        recompute=how.recompute,
    )
    states, _ = run_stack(model / "encoder", net.pair.encoder, inputs)
    return EncoderOutput(
        last_hidden_state=states, hidden_states=_tuple(record.hidden_states), attentions=_tuple(record.attentions)
    )


def _decode(
    model: Scope, net: Net, how: How, batch: Arrays, states: jax.Array | None, cache: Cache | None
) -> DecoderOutput:
    record, decoder = how.record(), net.pair.decoder
    reads = cache is None or not cache.cross
    inputs = StackInputs(
        input_ids=batch.get("decoder_input_ids"),
        inputs_embeds=_cast(model, batch.get("decoder_inputs_embeds")),
        mask=_bool(batch.get("decoder_attention_mask")),
        position_ids=batch.get("decoder_position_ids"),
        token_type_ids=batch.get("decoder_token_type_ids"),
        source=project(model, net.pair, _cast(model, states)) if reads else None,
        source_mask=_bool(batch.get("attention_mask")),
        segments=batch.get("decoder_segment_ids"),
        source_segments=batch.get("segment_ids"),
        cache=cache,
        record=record,
        recompute=how.recompute,
    )
    hidden, cache = run_stack(model / "decoder", decoder, inputs)
    assert decoder.head is not None
    return DecoderOutput(
        logits=score(model / "decoder", decoder.head, hidden),
        past_key_values=cache,
        hidden_states=_tuple(record.hidden_states),
        attentions=_tuple(record.attentions),
        cross_attentions=_tuple(record.cross_attentions),
    )


def _inputs_of_labels(rules: TargetRules, batch: Arrays) -> dict[str, jax.Array]:
    labels, segments = batch["labels"], batch.get("decoder_segment_ids")
    made = {"decoder_input_ids": decoder_inputs(OPS, rules, labels, segments)}
    if rules.masked and "decoder_attention_mask" not in batch:
        made["decoder_attention_mask"] = decoder_mask(OPS, rules, labels, segments)
    return made


def _bool(mask: jax.Array | None) -> jax.Array | None:
    return None if mask is None else mask.astype(jnp.bool_)


def _cast(model: Scope, x: Any) -> Any:
    return None if x is None else x.astype(model["decoder.embed.words.weight"].dtype)


def _tuple(collected: list[Any] | None) -> tuple[Any, ...] | None:
    return None if collected is None else tuple(collected)
