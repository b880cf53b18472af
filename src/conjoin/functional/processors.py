"""Logits processors: the one description of their rules, for every style of arrays.

A processor takes the ids of every row [R, L] of which `length` are written, and scores [R, V]; it returns scores. In a
compiled program L is fixed and `length` an array; in PyTorch `length` is the number L itself, and what is known not to
apply is not computed. A function here has the name of the setting that asks for it, and takes its arguments.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from conjoin.errors import GenerationError
from conjoin.functional import processors_repetition as repetition
from conjoin.functional import processors_warpers as warpers
from conjoin.functional.ops import Array, Ops, Processor
from conjoin.generation import CALLERS, ProcessorSpec

_MOST_GROWTH = 1e30
"""Where the exponential of a length penalty stops growing: float32 ends at 3.4e38."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorContext:
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
    if wrong := [spec.name for spec in plan if spec != CALLERS and spec.name not in PROCESSORS]:
        raise GenerationError(
            f"{', '.join(wrong)}: not possible here, where the whole of generation is one compiled program.",
            hint="the PyTorch model of the same checkpoint does it.",
        )


def build_processors(ops: Ops, plan: Sequence[ProcessorSpec], context: ProcessorContext) -> Processor | None:
    """Return the processors of a plan as one, in its order; None where there is nothing to do."""
    built: list[Processor] = []
    for spec in plan:
        if spec == CALLERS:
            built += [_caller(function) for function in context.callers]
        else:
            built.append(PROCESSORS[spec.name](ops, *spec.arguments, *_of_batch(spec, context)))
    if not built:
        return None

    def process(ids: Array, length: Array, scores: Array) -> Array:
        for each in built:
            scores = each(ids, length, scores)
        return scores

    return process


def _caller(function: Callable[..., Array]) -> Processor:
    return lambda ids, length, scores: function(ids, scores, length)


def _of_batch(spec: ProcessorSpec, context: ProcessorContext) -> tuple[Any, ...]:
    """Return the arguments of a processor that are the batch's."""
    match spec.name:
        case "repetition_penalty":
            return (context.first,)
        case "encoder_repetition_penalty" | "encoder_no_repeat_ngram_size":
            if context.source_ids is None:
                raise GenerationError(
                    f"{spec.name} looks at the source, but no source ids are given.",
                    hint="pass input_ids, or leave the encoder_* settings out.",
                )
            return context.source_ids, context.source_mask
        case _:
            return ()


def min_length(ops: Ops, shortest: int, eos: Sequence[int]) -> Processor:
    """Forbid eos before the row, prompt included, has `shortest` tokens."""
    return _when(ops, lambda length: length < shortest, _forbid(ops, eos))


def min_new_tokens(ops: Ops, count: int, prompt: int, eos: Sequence[int]) -> Processor:
    """Forbid eos among the first `count` tokens behind the prompt."""
    return min_length(ops, prompt + count, eos)


def forced_bos_token_id(ops: Ops, token: int) -> Processor:
    """Force the token behind a prompt of one token."""
    return _when(ops, lambda length: length == 1, _force(ops, (token,)))


def forced_eos_token_id(ops: Ops, tokens: Sequence[int], longest: int) -> Processor:
    """Force the last token of a row that reaches its longest length to be one of these."""
    return _when(ops, lambda length: length == longest - 1, _force(ops, tokens))


def suppress_tokens(ops: Ops, tokens: Sequence[int]) -> Processor:
    """Forbid tokens."""
    forbid = _forbid(ops, tokens)
    return lambda ids, length, scores: forbid(length, scores)


def begin_suppress_tokens(ops: Ops, tokens: Sequence[int], begin: int) -> Processor:
    """Forbid tokens where the row has `begin` tokens."""
    return _when(ops, lambda length: length == begin, _forbid(ops, tokens))


def exponential_decay_length_penalty(ops: Ops, start: int, factor: float, eos: Sequence[int]) -> Processor:
    """Raise eos by its absolute score times factor ** (tokens past start) - 1; what is forbidden stays forbidden."""

    def raised(length: Any, scores: Array) -> Array:
        rows, vocab_size = ops.shape(scores)
        columns = _inside(tuple(eos), vocab_size)
        index = ops.broadcast(ops.constant(columns, "int32")[None], (rows, len(columns)))
        own = ops.gather(scores, index, 1)
        gain = ops.where(abs(own) < math.inf, abs(own) * (_growth(ops, factor, length - start) - 1.0), 0.0)
        return ops.put_at(scores, index, own + gain)

    return _when(ops, lambda length: length > start, raised)


def _growth(ops: Ops, factor: float, past: Any) -> Any:
    if isinstance(past, int):
        try:
            return min(factor**past, _MOST_GROWTH)
        except OverflowError:
            return _MOST_GROWTH
    return ops.exp(ops.minimum(ops.cast(past, "float32") * math.log(factor), math.log(_MOST_GROWTH)))


def remove_invalid_values(ops: Ops) -> Processor:
    """Replace nan by 0, and infinities by the largest numbers of their sign."""
    return lambda ids, length, scores: ops.nan_to_num(scores)


def renormalize_logits(ops: Ops) -> Processor:
    """log_softmax; a row whose tokens are all forbidden stays so."""
    return lambda ids, length, scores: ops.where(scores == -math.inf, -math.inf, ops.log_softmax(scores))


def _when(ops: Ops, applies: Callable[[Any], Any], change: Callable[[Any, Array], Array]) -> Processor:
    """Change scores where the row's length says so; where it is known not to, nothing is computed."""

    def process(ids: Array, length: Any, scores: Array) -> Array:
        here = applies(length)
        if isinstance(here, bool):
            return change(length, scores) if here else scores
        return ops.where(here, change(length, scores), scores)

    return process


def _forbid(ops: Ops, tokens: Sequence[int]) -> Callable[[Any, Array], Array]:
    return lambda length, scores: ops.fill_columns(scores, _inside(tuple(tokens), ops.shape(scores)[1]), -math.inf)


def _force(ops: Ops, tokens: Sequence[int]) -> Callable[[Any, Array], Array]:
    def force(length: Any, scores: Array) -> Array:
        rows, vocab_size = ops.shape(scores)
        nothing = ops.full((rows, vocab_size), -math.inf, scores.dtype)
        return ops.fill_columns(nothing, _inside(tuple(tokens), vocab_size), 0.0)

    return force


@lru_cache(maxsize=64)
def _inside(tokens: tuple[int, ...], vocab_size: int) -> Int[np.ndarray, " n"]:
    """Return the tokens that are in the vocabulary: others have no score."""
    return np.array([token for token in tokens if 0 <= token < vocab_size], np.int32)


PROCESSORS: Mapping[str, Callable[..., Processor]] = {
    function.__name__: function
    for function in (
        repetition.sequence_bias,
        repetition.encoder_repetition_penalty,
        repetition.repetition_penalty,
        repetition.no_repeat_ngram_size,
        repetition.encoder_no_repeat_ngram_size,
        repetition.bad_words_ids,
        min_length,
        min_new_tokens,
        forced_bos_token_id,
        forced_eos_token_id,
        remove_invalid_values,
        exponential_decay_length_penalty,
        suppress_tokens,
        begin_suppress_tokens,
        warpers.temperature,
        warpers.top_h,
        warpers.top_k,
        warpers.top_p,
        warpers.min_p,
        warpers.typical_p,
        warpers.epsilon_cutoff,
        warpers.eta_cutoff,
        renormalize_logits,
    )
}
"""Setting -> the function that makes its processor."""
