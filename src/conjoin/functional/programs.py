"""What a joined model computes: pure functions of parameters and arrays, of any framework's operations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from conjoin import spec
from conjoin.functional.beams import beam_search
from conjoin.functional.block import Record
from conjoin.functional.cache import Cache, empty_cache
from conjoin.functional.embedding import score
from conjoin.functional.loss import TargetRules, decoder_inputs, decoder_mask, label_positions, token_loss
from conjoin.functional.ops import Array, Ops
from conjoin.functional.processors import build_processors
from conjoin.functional.reader import Reader
from conjoin.functional.requests import DecodeSettings
from conjoin.functional.sample import Limits, Written, sample
from conjoin.functional.scope import Scope
from conjoin.functional.stack import StackInputs, project, run_stack, source_pairs

Arrays = Mapping[str, Array]
Layers = tuple[Array, ...] | None


@dataclass(frozen=True)
class CompileKey:
    """The model that programs are compiled for.

    Args:
        ties: (parameter, the one that it is).
        dtype: The dtype of the computation; None computes in the parameters' own.
    """

    pair: spec.PairSpec
    ties: tuple[tuple[str, str], ...] = ()
    dtype: str | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.pair, self.ties, self.dtype)))

    def __hash__(self) -> int:
        return self._hash  # a spec is large, and hashed at every call

    def scope(self, ops: Ops, params: Arrays, rng: Array | None = None) -> Scope:
        """The model's parameters, shared ones under every name, in the dtype of the computation."""
        cast = {name: x if self.dtype is None else ops.cast(x, self.dtype) for name, x in params.items()}
        return Scope(ops, cast | {name: cast[same] for name, same in self.ties}, rng=rng)


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """Options of a forward pass; programs are compiled for them, too.

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


class Encoded(NamedTuple):
    """Output of the encoder."""

    last_hidden_state: Array
    hidden_states: Layers = None
    attentions: Layers = None


class Decoded(NamedTuple):
    """Output of the decoder, and the cache with the new positions."""

    logits: Array
    past_key_values: Cache | None
    hidden_states: Layers
    attentions: Layers
    cross_attentions: Layers


def forward(key: CompileKey, options: ForwardOptions, model: Scope, batch: Arrays) -> dict[str, Any]:
    """Encoder and decoder over a batch; pure, so that gradients go through it.

    Args:
        batch: input_ids or inputs_embeds (or encoder_outputs), attention_mask, decoder_input_ids or labels ...

    Returns:
        The fields of a Seq2SeqLMOutput.
    """
    encoded = encode(key, options, model, batch)
    if options.rules is not None:
        batch = {**batch, **inputs_of_labels(model.ops, options.rules, key.pair.decoder, batch)}
    decoded = decode(key, options, model, batch, encoded.last_hidden_state)
    labels, loss = batch.get("labels"), None
    if labels is not None:
        items = batch.get("num_items_in_batch")
        loss = token_loss(model.ops, decoded.logits, labels, num_items=items, label_smoothing=options.smoothing)
    return {
        "loss": loss,
        "logits": decoded.logits if options.output_logits else None,
        "decoder_hidden_states": decoded.hidden_states,
        "decoder_attentions": decoded.attentions,
        "cross_attentions": decoded.cross_attentions,
        "encoder_last_hidden_state": encoded.last_hidden_state,
        "encoder_hidden_states": encoded.hidden_states,
        "encoder_attentions": encoded.attentions,
    }


def encode(key: CompileKey, options: ForwardOptions, model: Scope, batch: Arrays) -> Encoded:
    """Run the encoder, unless its output is in the batch."""
    if "encoder_outputs" in batch:
        return Encoded(batch["encoder_outputs"])
    record = options.record()
    inputs = StackInputs(
        input_ids=batch.get("input_ids"),
        inputs_embeds=_cast(model, batch.get("inputs_embeds")),
        mask=_bool(model.ops, batch.get("attention_mask")),
        position_ids=batch.get("position_ids"),
        token_type_ids=batch.get("token_type_ids"),
        segments=batch.get("segment_ids"),
        record=record,
        recompute=options.recompute,
    )
    states, _ = run_stack(model / "encoder", key.pair.encoder, inputs)
    return Encoded(states, _tuple(record.hidden_states), _tuple(record.attentions))


def decode(
    key: CompileKey,
    options: ForwardOptions,
    model: Scope,
    batch: Arrays,
    states: Array | None,
    cache: Cache | None = None,
) -> Decoded:
    """Run the projection and the decoder; it reads the cache's keys and values in place of `states`."""
    record, decoder = options.record(), key.pair.decoder
    reads_source = cache is None or not cache.cross
    inputs = StackInputs(
        input_ids=batch.get("decoder_input_ids"),
        inputs_embeds=_cast(model, batch.get("decoder_inputs_embeds")),
        mask=_bool(model.ops, batch.get("decoder_attention_mask")),
        position_ids=batch.get("decoder_position_ids"),
        token_type_ids=batch.get("decoder_token_type_ids"),
        source=_source(model, key.pair, states) if reads_source else None,
        source_mask=_bool(model.ops, batch.get("attention_mask")),
        segments=batch.get("decoder_segment_ids"),
        source_segments=batch.get("segment_ids"),
        cache=cache,
        record=record,
        recompute=options.recompute,
    )
    hidden, cache = run_stack(model / "decoder", decoder, inputs)
    assert decoder.head is not None
    layers = (_tuple(each) for each in (record.hidden_states, record.attentions, record.cross_attentions))
    return Decoded(score(model / "decoder", decoder.head, hidden), cache, *layers)


def start_cache(
    key: CompileKey,
    model: Scope,
    rows: Any,
    room: int,
    states: Array,
    source_mask: Array | None = None,
    *,
    padded: bool = True,
) -> Cache:
    """An empty cache that holds the source's keys and values.

    Args:
        source_mask: True at real source tokens, whose positions keys may depend on.
        padded: Whether targets may begin with padding.
    """
    decoder = key.pair.decoder
    cross = source_pairs(model / "decoder", decoder, _source(model, key.pair, states), source_mask)
    return empty_cache(model.ops, decoder, rows, room, _dtype(model), cross, padded=padded)


def generate(key: CompileKey, settings: DecodeSettings, model: Scope, batch: Arrays, rng: Array) -> Written:
    """Encoder and decoding loop.

    Args:
        batch: The sources, or encoder_outputs; prompt [B, P], prompt_mask, max_length.
    """
    ops, prompt = model.ops, batch["prompt"]
    states = encode(key, ForwardOptions(), model, batch).last_hidden_state
    source_mask, prompt_mask = (_bool(ops, batch.get(name)) for name in ("attention_mask", "prompt_mask"))
    padded = prompt_mask is not None
    cache = start_cache(key, model, ops.shape(prompt)[0], settings.room, states, source_mask, padded=padded)
    reader = Reader(model / "decoder", key.pair.decoder, source_mask)
    limits = Limits(room=settings.room, max_length=batch["max_length"], eos=settings.eos, pad=settings.pad)
    process = build_processors(ops, settings.plan, settings.context(ops, batch, source_mask))
    rng = rng if settings.draws else None
    if settings.beams is not None:
        return beam_search(reader, cache, prompt, prompt_mask, limits, settings.beams, process, rng)
    return sample(reader, cache, prompt, prompt_mask, limits, process, rng, settings.copies)


def inputs_of_labels(ops: Ops, rules: TargetRules, decoder: spec.StackSpec, batch: Arrays) -> dict[str, Array]:
    """Return decoder inputs made from the labels of a batch, and their mask and positions if it has none."""
    labels, segments = batch["labels"], batch.get("decoder_segment_ids")
    inputs = {"decoder_input_ids": decoder_inputs(ops, rules, labels, segments)}
    if rules.masked and "decoder_attention_mask" not in batch:
        inputs["decoder_attention_mask"] = decoder_mask(ops, rules, labels, segments)
        positions = label_positions(ops, decoder.embedding.position, labels, segments)
        if positions is not None and "decoder_position_ids" not in batch:
            inputs["decoder_position_ids"] = positions
    return inputs


def _dtype(model: Scope) -> Any:
    return model["decoder.embed.words.weight"].dtype


def _bool(ops: Ops, mask: Array | None) -> Array | None:
    return None if mask is None else ops.cast(mask, "bool")


def _cast(model: Scope, x: Array | None) -> Array | None:
    return None if x is None else model.ops.cast(x, _dtype(model))


def _source(model: Scope, pair: spec.PairSpec, states: Array | None) -> Array:
    """The encoder's output as the decoder reads it."""
    assert states is not None
    return project(model, pair, states if pair.decoder.reads_wide_states else _cast(model, states))


def _tuple(collected: list[Array] | None) -> Layers:
    return None if collected is None else tuple(collected)
