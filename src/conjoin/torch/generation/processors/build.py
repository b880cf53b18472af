"""The list of processors that a request needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError, warn
from conjoin.generation import CALLERS, ProcessorSpec
from conjoin.torch.generation.processors import named
from conjoin.torch.generation.processors.calling import LogitsProcessor, LogitsProcessorList
from conjoin.torch.generation.processors.watermark import WatermarkLogitsProcessor


def build_processors(
    plan: Sequence[ProcessorSpec],
    *,
    source_ids: Int[Tensor, "B S"] | None = None,
    source_mask: Tensor | None = None,
    prompt_mask: Tensor | None = None,
    num_sources: int | None = None,
    rows_per_source: int = 1,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    custom: Sequence[Any] | None = None,
    device: torch.device | str = "cpu",
) -> LogitsProcessorList:
    """Build the processors of a plan, in its order.

    Args:
        source_ids: In the decoder's vocabulary; needed by the processors that look at the source.
        source_mask: [B, S], where sources are not padding.
        prompt_mask: [B, P], where the decoder's prompt is not padding on the left.
        num_sources: B, where source_ids are not given but a first step may run one row per source.
        rows_per_source: Beams, or results drawn, per source.
        custom: The caller's own, which run before the warpers; one of a class that the plan has too replaces it.

    Raises:
        GenerationError: the plan needs something that is not given.
    """
    sources = len(source_ids) if num_sources is None and source_ids is not None else num_sources

    def build(spec: ProcessorSpec) -> LogitsProcessor:
        match spec.name:
            case "repetition_penalty":
                first = None if prompt_mask is None else prompt_mask.bool().int().argmax(1)
                return named.RepetitionPenaltyLogitsProcessor(spec.arguments[0], first, rows_per_source=rows_per_source)
            case "prefix_allowed_tokens_fn":
                if prefix_allowed_tokens_fn is None:
                    raise GenerationError("The request restricts prefixes, but prefix_allowed_tokens_fn is not given.")
                return named.PrefixConstrainedLogitsProcessor(
                    prefix_allowed_tokens_fn, *spec.arguments, num_sources=sources, rows_per_source=rows_per_source
                )
            case "encoder_repetition_penalty" | "encoder_no_repeat_ngram_size":
                if source_ids is None:
                    raise GenerationError(
                        f"{spec.name} looks at the source, but no source ids are given.",
                        hint="pass input_ids, or leave the encoder_* settings out.",
                    )
                kind = _OF_SOURCE[spec.name]
                return kind(*spec.arguments, source_ids, source_mask, rows_per_source=rows_per_source)
            case "watermarking_config":
                return WatermarkLogitsProcessor(None, device, **spec.arguments[0].to_dict())
            case _:
                return _PROCESSORS[spec.name](*spec.arguments)

    at = plan.index(CALLERS) if CALLERS in plan else len(plan)
    before, behind = ([build(spec) for spec in part] for part in (plan[:at], plan[at + 1 :]))
    return LogitsProcessorList([*_merged(before, list(custom or ())), *behind])


def _merged(built: list[Any], custom: list[Any]) -> list[Any]:
    """The caller's processors behind ours, or in the place of ours of the same class."""
    by_class = {type(processor): processor for processor in reversed(custom)}
    replaced = [type(processor) for processor in built if type(processor) in by_class]
    if replaced:
        warn(
            f"logits_processor holds {', '.join(kind.__name__ for kind in replaced)}, which a generation setting asks "
            "for too: yours is used. Leave one of them out."
        )
    merged = [by_class.get(type(processor), processor) for processor in built]
    return [*merged, *(processor for processor in custom if not any(processor is one for one in merged))]


def _warper(kind: Callable[..., LogitsProcessor]) -> Callable[..., LogitsProcessor]:
    return lambda value, keep: kind(value, min_tokens_to_keep=keep)


_OF_SOURCE: Mapping[str, Callable[..., LogitsProcessor]] = {
    "encoder_repetition_penalty": named.EncoderRepetitionPenaltyLogitsProcessor,
    "encoder_no_repeat_ngram_size": named.EncoderNoRepeatNGramLogitsProcessor,
}
_PROCESSORS: Mapping[str, Callable[..., LogitsProcessor]] = {
    "sequence_bias": named.SequenceBiasLogitsProcessor,
    "diversity_penalty": named.HammingDiversityLogitsProcessor,
    "no_repeat_ngram_size": named.NoRepeatNGramLogitsProcessor,
    "bad_words_ids": named.NoBadWordsLogitsProcessor,
    "min_length": named.MinLengthLogitsProcessor,
    "min_new_tokens": lambda count, prompt, eos: named.MinNewTokensLengthLogitsProcessor(prompt, count, eos),
    "forced_bos_token_id": named.ForcedBOSTokenLogitsProcessor,
    "forced_eos_token_id": lambda tokens, longest: named.ForcedEOSTokenLogitsProcessor(longest, tokens),
    "remove_invalid_values": named.InfNanRemoveLogitsProcessor,
    "exponential_decay_length_penalty": lambda start, factor, eos: named.ExponentialDecayLengthPenalty(
        (start, factor), eos, 0
    ),
    "suppress_tokens": named.SuppressTokensLogitsProcessor,
    "begin_suppress_tokens": named.SuppressTokensAtBeginLogitsProcessor,
    "temperature": named.TemperatureLogitsWarper,
    "top_h": named.TopHLogitsWarper,
    "top_k": _warper(named.TopKLogitsWarper),
    "top_p": _warper(named.TopPLogitsWarper),
    "min_p": _warper(named.MinPLogitsWarper),
    "typical_p": _warper(named.TypicalLogitsWarper),
    "epsilon_cutoff": _warper(named.EpsilonLogitsWarper),
    "eta_cutoff": _warper(named.EtaLogitsWarper),
    "renormalize_logits": named.LogitNormalization,
}
"""Setting -> the class of its processor, by transformers' name; those that need more of the call stand apart."""
