"""Logits processors by transformers' names, and the list of them that a request needs.

A row's result depends on that row (and its source) only, whatever else is in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError, warn
from conjoin.generation import plan as p
from conjoin.generation.plan import ProcessorSpec
from conjoin.torch.generation.processors.calling import LogitsProcessor, LogitsProcessorList, RowwiseProcessor
from conjoin.torch.generation.processors.ends import (
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from conjoin.torch.generation.processors.repetition import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    HammingDiversityLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)
from conjoin.torch.generation.processors.warpers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from conjoin.torch.generation.processors.watermark import WatermarkLogitsProcessor

__all__ = [
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "HammingDiversityLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "RowwiseProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "WatermarkLogitsProcessor",
    "build_processors",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """What processors know besides their settings."""

    source_ids: Tensor | None
    source_mask: Tensor | None
    prompt_mask: Tensor | None
    num_sources: int | None
    rows_per_source: int
    prefix_fn: Callable[[int, Tensor], list[int]] | None
    device: torch.device | str


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
    """Make the processors of a plan, in its order.

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
    around = _Around(
        source_ids=source_ids,
        source_mask=source_mask,
        prompt_mask=prompt_mask,
        num_sources=len(source_ids) if num_sources is None and source_ids is not None else num_sources,
        rows_per_source=rows_per_source,
        prefix_fn=prefix_allowed_tokens_fn,
        device=device,
    )
    at = next((i for i, spec in enumerate(plan) if isinstance(spec, p.Callers)), len(plan))
    before = [built for spec in plan[:at] if (built := _build(spec, around)) is not None]
    behind = [built for spec in plan[at + 1 :] if (built := _build(spec, around)) is not None]
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


def _build(spec: ProcessorSpec, around: _Around) -> LogitsProcessor | None:
    match spec:
        case p.Temperature() | p.TopH() | p.TopK() | p.TopP() | p.MinP() | p.TypicalP() | p.Epsilon() | p.Eta():
            return _warper(spec)
        case p.EncoderRepetitionPenalty() | p.EncoderNoRepeatNGram() | p.PrefixAllowed() | p.RepetitionPenalty():
            return _source_processor(spec, around)
        case p.Watermark():
            return WatermarkLogitsProcessor(None, around.device, **spec.config.to_dict())
        case p.Callers():
            return None
        case _:
            return _plain(spec)


def _plain(spec: Any) -> LogitsProcessor | None:
    match spec:
        case p.SequenceBias(biases=biases):
            return SequenceBiasLogitsProcessor(dict(biases))
        case p.HammingDiversity(penalty=penalty, num_beams=beams, num_beam_groups=groups):
            return HammingDiversityLogitsProcessor(penalty, beams, groups)
        case p.NoRepeatNGram(size=size):
            return NoRepeatNGramLogitsProcessor(size)
        case p.NoBadWords(words=words, eos=eos):
            left = [word for word in words if word not in {(i,) for i in eos}]
            return NoBadWordsLogitsProcessor(left) if left else None
        case p.InfNanRemove():
            return InfNanRemoveLogitsProcessor()
        case p.Renormalize():
            return LogitNormalization()
        case _:
            return _by_position(spec)


def _by_position(spec: Any) -> LogitsProcessor:
    match spec:
        case p.MinLength(length=length, eos=eos):
            return MinLengthLogitsProcessor(length, eos)
        case p.MinNewTokens(prompt_length=prompt, count=count, eos=eos):
            return MinNewTokensLengthLogitsProcessor(prompt, count, eos)
        case p.ForcedBOS(token=token):
            return ForcedBOSTokenLogitsProcessor(token)
        case p.ForcedEOS(max_length=length, tokens=tokens):
            return ForcedEOSTokenLogitsProcessor(length, tokens)
        case p.ExponentialDecay(start=start, factor=factor, eos=eos):
            return ExponentialDecayLengthPenalty((start, factor), eos, 0)
        case p.Suppress(tokens=tokens):
            return SuppressTokensLogitsProcessor(tokens)
        case p.SuppressAtBegin(tokens=tokens, begin=begin):
            return SuppressTokensAtBeginLogitsProcessor(tokens, begin)
    raise AssertionError(spec)


def _warper(spec: Any) -> LogitsProcessor:
    match spec:
        case p.Temperature(temperature=temperature):
            return TemperatureLogitsWarper(temperature)
        case p.TopH(share=share):
            return TopHLogitsWarper(share)
        case p.TopK(k=k, keep=keep):
            return TopKLogitsWarper(k, min_tokens_to_keep=keep)
        case p.TopP(p=mass, keep=keep):
            return TopPLogitsWarper(mass, min_tokens_to_keep=keep)
        case p.MinP(p=share, keep=keep):
            return MinPLogitsWarper(share, min_tokens_to_keep=keep)
        case p.TypicalP(p=mass, keep=keep):
            return TypicalLogitsWarper(mass, min_tokens_to_keep=keep)
        case p.Epsilon(cutoff=cutoff, keep=keep):
            return EpsilonLogitsWarper(cutoff, min_tokens_to_keep=keep)
        case p.Eta(cutoff=cutoff, keep=keep):
            return EtaLogitsWarper(cutoff, min_tokens_to_keep=keep)
    raise AssertionError(spec)


def _source_processor(spec: Any, around: _Around) -> LogitsProcessor:
    rows = around.rows_per_source
    if isinstance(spec, p.RepetitionPenalty):
        first = None if around.prompt_mask is None else around.prompt_mask.bool().int().argmax(1)
        return RepetitionPenaltyLogitsProcessor(spec.penalty, first, rows_per_source=rows)
    if isinstance(spec, p.PrefixAllowed):
        if around.prefix_fn is None:
            raise GenerationError("The request restricts prefixes, but prefix_allowed_tokens_fn is not given.")
        return PrefixConstrainedLogitsProcessor(
            around.prefix_fn, spec.num_beams, num_sources=around.num_sources, rows_per_source=rows
        )
    if around.source_ids is None:
        raise GenerationError(
            f"{type(spec).__name__} looks at the source, but no source ids are given.",
            hint="pass input_ids, or leave the encoder_* settings out.",
        )
    ids, mask = around.source_ids, around.source_mask
    if isinstance(spec, p.EncoderRepetitionPenalty):
        return EncoderRepetitionPenaltyLogitsProcessor(spec.penalty, ids, mask, rows_per_source=rows)
    return EncoderNoRepeatNGramLogitsProcessor(spec.size, ids, mask, rows_per_source=rows)
