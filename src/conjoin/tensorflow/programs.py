"""What a model computes: pure functions of parameters and tensors, run eagerly or traced by whoever calls them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from conjoin import spec
from conjoin.functional.block import Record
from conjoin.functional.cache import Cache, empty_cache
from conjoin.functional.embedding import score
from conjoin.functional.loss import TargetRules, decoder_inputs, decoder_mask, token_loss
from conjoin.functional.ops import Array, Ops
from conjoin.functional.scope import Scope
from conjoin.functional.stack import StackInputs, project, run_stack, source_pairs
from conjoin.tensorflow.ops import OPS
from conjoin.tensorflow.outputs import EncoderOutput, Seq2SeqLMOutput

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Net:
    """What a model computes.

    Args:
        ties: (parameter, the one that it is).
    """

    pair: spec.PairSpec
    ties: tuple[tuple[str, str], ...] = ()

    def scope(self, params: Mapping[str, Any], dtype: Any = None, rng: Array | None = None, ops: Ops = OPS) -> Scope:
        """The model's parameters, shared ones under every name, in the dtype of the computation.

        Args:
            params: Variables, or tensors.
        """
        read = {name: tf.convert_to_tensor(value) for name, value in params.items()}
        read = read if dtype is None else {name: tf.cast(value, dtype) for name, value in read.items()}
        return Scope(ops, read | {name: read[same] for name, same in self.ties}, rng=rng)


@dataclass(frozen=True, kw_only=True)
class How:
    """How a pass is made.

    Args:
        rules: How decoder inputs are made of labels; None where they are given.
    """

    hidden_states: bool = False
    attentions: bool = False
    rules: TargetRules | None = None

    def record(self) -> Record:
        """A record that collects what is wanted."""
        return Record.of(hidden_states=self.hidden_states, attentions=self.attentions)


def forward(net: Net, how: How, model: Scope, batch: Arrays) -> Seq2SeqLMOutput:
    """Encoder and decoder over a batch.

    Args:
        batch: input_ids or inputs_embeds (or encoder_outputs), attention_mask, decoder_input_ids or labels ...
    """
    encoded = encode(net, how, model, batch)
    if how.rules is not None:
        batch = {**batch, **_inputs_of_labels(how.rules, batch)}
    decoded, _ = decode(net, how, model, batch, encoded.last_hidden_state)
    labels = batch.get("labels")
    return Seq2SeqLMOutput(
        loss=None if labels is None else token_loss(OPS, decoded.logits, labels),
        encoder_last_hidden_state=encoded.last_hidden_state,
        encoder_hidden_states=encoded.hidden_states,
        encoder_attentions=encoded.attentions,
        **decoded,
    )


def encode(net: Net, how: How, model: Scope, batch: Arrays) -> EncoderOutput:
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
    )
    states, _ = run_stack(model / "encoder", net.pair.encoder, inputs)
    return EncoderOutput(
        last_hidden_state=states, hidden_states=_tuple(record.hidden_states), attentions=_tuple(record.attentions)
    )


def decode(
    net: Net, how: How, model: Scope, batch: Arrays, states: Array | None, cache: Cache | None = None
) -> tuple[Seq2SeqLMOutput, Cache | None]:
    """The decoder, and the projection before it; reads the cache's keys and values in place of `states`.

    Returns:
        The decoder's part of the output, and the cache with the new positions.
    """
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
    )
    hidden, cache = run_stack(model / "decoder", decoder, inputs)
    assert decoder.head is not None
    output = Seq2SeqLMOutput(
        logits=score(model / "decoder", decoder.head, hidden),
        decoder_hidden_states=_tuple(record.hidden_states),
        decoder_attentions=_tuple(record.attentions),
        cross_attentions=_tuple(record.cross_attentions),
    )
    return output, cache


def start_cache(net: Net, rows: Any, room: int, model: Scope, states: Array, *, padded: bool) -> Cache:
    """An empty cache that holds the source's keys and values.

    Args:
        padded: Whether targets begin with padding.
    """
    decoder = net.pair.decoder
    cross = source_pairs(model / "decoder", decoder, project(model, net.pair, _cast(model, states)))
    return empty_cache(OPS, decoder, rows, room, _dtype(model), cross, padded=padded)


def _inputs_of_labels(rules: TargetRules, batch: Arrays) -> dict[str, Array]:
    labels, segments = batch["labels"], batch.get("decoder_segment_ids")
    made = {"decoder_input_ids": decoder_inputs(OPS, rules, labels, segments)}
    if rules.masked and "decoder_attention_mask" not in batch:
        made["decoder_attention_mask"] = decoder_mask(OPS, rules, labels, segments)
    return made


def _dtype(model: Scope) -> Any:
    return model["decoder.embed.words.weight"].dtype


def _bool(mask: Array | None) -> Array | None:
    return None if mask is None else tf.cast(mask, tf.bool)


def _cast(model: Scope, x: Array | None) -> Array | None:
    return None if x is None else tf.cast(x, _dtype(model))


def _tuple(collected: list[Any] | None) -> tuple[Any, ...] | None:
    return None if collected is None else tuple(collected)
