"""Logits processors on arrays whose shapes never change: the plan's entries as functions.

A processor takes the ids of every row [R, L] of which `length` are written, and scores [R, V]; it returns scores.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int

from conjoin.errors import GenerationError
from conjoin.functional import processors_repetition as repetition
from conjoin.functional import processors_warpers as warpers
from conjoin.functional.ops import Array, Ops
from conjoin.generation import ProcessorSpec
from conjoin.generation import plan as p

Processor = Callable[[Array, Array, Array], Array]

_LARGEST = 3.4028234663852886e38
"""float32's largest number."""
_MOST_GROWTH = 1e30
"""Where the exponential of a length penalty stops growing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What processors know besides their settings; one row per row of the scores.

    Args:
        source_ids, source_mask: [R, S], where source ids are at hand.
        first: [R, 1], where the prompt's padding on the left ends.
        callers: The caller's own, called with (ids, scores, length) as transformers' Flax processors are.
    """

    source_ids: Int[Array, "R S"] | None = None
    source_mask: Bool[Array, "R S"] | None = None
    first: Int[Array, "R 1"] | None = None
    callers: Sequence[Callable[..., Array]] = ()


def check_plan(plan: Sequence[ProcessorSpec]) -> None:
    """Refuse what cannot be computed on static shapes.

    Raises:
        GenerationError: naming all of them.
    """
    asked = {
        "watermarking_config": any(isinstance(spec, p.Watermark) for spec in plan),
        "prefix_allowed_tokens_fn": any(isinstance(spec, p.PrefixAllowed) for spec in plan),
        "diversity_penalty": any(isinstance(spec, p.HammingDiversity) for spec in plan),
    }
    if wrong := [name for name, found in asked.items() if found]:
        raise GenerationError(
            f"{', '.join(wrong)}: not possible here, where the whole of generation is one compiled program.",
            hint="the PyTorch model of the same checkpoint does it.",
        )


def build_processors(ops: Ops, plan: Sequence[ProcessorSpec], around: Around) -> Processor | None:
    """The processors of a plan as one, in its order; None where there is nothing to do."""
    built: list[Processor] = []
    for spec in plan:
        if isinstance(spec, p.Callers):
            built += [_callers(function) for function in around.callers]
        else:
            built.append(_build(ops, spec, around))
    if not built:
        return None

    def process(ids: Array, length: Array, scores: Array) -> Array:
        for each in built:
            scores = each(ids, length, scores)
        return scores

    return process


def _callers(function: Callable[..., Array]) -> Processor:
    return lambda ids, length, scores: function(ids, scores, length)


def _build(ops: Ops, spec: ProcessorSpec, around: Around) -> Processor:
    match spec:
        case p.SequenceBias(biases=biases):
            return repetition.sequence_bias(ops, biases)
        case p.NoBadWords(words=words, eos=eos):
            left = tuple((word, -math.inf) for word in words if word not in {(i,) for i in eos})
            return repetition.sequence_bias(ops, left)
        case p.RepetitionPenalty(penalty=penalty):
            return repetition.repetition_penalty(ops, penalty, around.first)
        case p.NoRepeatNGram(size=size):
            return repetition.no_repeat_ngram(ops, size)
        case p.EncoderRepetitionPenalty() | p.EncoderNoRepeatNGram():
            return _source_processor(ops, spec, around)
        case p.InfNanRemove():
            return lambda ids, length, scores: _finite(ops, scores)
        case p.Renormalize():
            return lambda ids, length, scores: ops.where(scores == -math.inf, scores, ops.log_softmax(scores))
        case p.Temperature() | p.TopH() | p.TopK() | p.TopP() | p.MinP() | p.TypicalP() | p.Epsilon() | p.Eta():
            return warpers.warper(ops, spec)
        case _:
            return _by_position(ops, spec)


def _source_processor(ops: Ops, spec: p.EncoderRepetitionPenalty | p.EncoderNoRepeatNGram, around: Around) -> Processor:
    if around.source_ids is None:
        raise GenerationError(
            f"{type(spec).__name__} looks at the source, but no source ids are given.",
            hint="pass input_ids, or leave the encoder_* settings out.",
        )
    if isinstance(spec, p.EncoderRepetitionPenalty):
        return repetition.source_penalty(ops, spec.penalty, around.source_ids, around.source_mask)
    return repetition.no_source_ngram(ops, spec.size, around.source_ids, around.source_mask)


def _by_position(ops: Ops, spec: ProcessorSpec) -> Processor:
    match spec:
        case p.MinLength(length=shortest, eos=eos):
            return _when(ops, lambda length: length < shortest, eos, force=False)
        case p.MinNewTokens(prompt_length=prompt, count=count, eos=eos):
            return _when(ops, lambda length: length < prompt + count, eos, force=False)
        case p.ForcedBOS(token=token):
            return _when(ops, lambda length: length == 1, (token,), force=True)
        case p.ForcedEOS(max_length=longest, tokens=tokens):
            return _when(ops, lambda length: length == longest - 1, tokens, force=True)
        case p.Suppress(tokens=tokens):
            return _when(ops, lambda length: length >= 0, tokens, force=False)
        case p.SuppressAtBegin(tokens=tokens, begin=begin):
            return _when(ops, lambda length: length == begin, tokens, force=False)
        case p.ExponentialDecay():
            return _decay(ops, spec)
    raise AssertionError(spec)


def _finite(ops: Ops, scores: Float[Array, "R V"]) -> Float[Array, "R V"]:
    """nan becomes 0, infinities the largest numbers of their sign."""
    clipped = ops.minimum(ops.maximum(scores, -_LARGEST), _LARGEST)
    return ops.where((scores > 0) | (scores <= 0), clipped, 0.0)


def _among(ops: Ops, scores: Float[Array, "R V"], tokens: Sequence[int]) -> Bool[Array, " V"]:
    """Which words are among a few ids; ids outside the vocabulary are none of them."""
    words = ops.arange(ops.shape(scores)[1])
    return ops.any(words[:, None] == ops.constant(list(tokens), "int32")[None], 1)


def _when(ops: Ops, applies: Callable[[Array], Array], tokens: Sequence[int], *, force: bool) -> Processor:
    """Forbid tokens, or force one of them, where the row's length says so."""

    def process(ids: Array, length: Array, scores: Array) -> Array:
        hit = _among(ops, scores, tokens)
        changed = ops.where(hit, 0.0, -math.inf)[None] if force else ops.where(hit, -math.inf, scores)
        return ops.where(applies(length), changed, scores)

    return process


def _decay(ops: Ops, spec: p.ExponentialDecay) -> Processor:
    def process(ids: Array, length: Array, scores: Array) -> Array:
        past = ops.cast(length - spec.start, "float32")
        growth = ops.exp(ops.minimum(past * math.log(spec.factor), math.log(_MOST_GROWTH)))
        finite = abs(scores) <= _LARGEST
        gain = ops.where(finite, abs(ops.where(finite, scores, 0.0)) * (growth - 1.0), 0.0)
        return ops.where((past > 0) & _among(ops, scores, spec.eos), scores + gain, scores)

    return process
