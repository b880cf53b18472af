"""Logits processors as native rules: those of conjoin.functional, on rows of float32 scores in place."""

import math
from collections.abc import Sequence
from ctypes import Structure, addressof, c_double, c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.functional.processors_repetition import check_biased_ids
from conjoin.torch.cpu.native.checks import on_cpu, refuse
from conjoin.torch.cpu.native.kernels import compiled_function

_KINDS = (
    "bias",
    "penalty",
    "no_repeat",
    "forbid",
    "force",
    "remove_invalid",
    "decay",
    "temperature",
    "top_k",
    "min_p",
    "epsilon",
    "eta",
    "normalise",
)
"""RuleKind of native/rules.h."""
_ALWAYS = 2**62
"""Longer than any row."""


class _Rule(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("kind", "first", "last", "size", "keep")),
        *((name, c_double) for name in ("value", "fill")),
        ("count", c_int64),
        *((name, c_void_p) for name in ("tokens", "ends", "biases", "source_ids", "source_mask")),
        ("source_length", c_int64),
        ("starts", c_void_p),
    )


Bias = tuple[tuple[int, ...], float]


@dataclass(frozen=True, slots=True)
class Rule:
    """A native rule, and the memory that it reads.

    Args:
        sources: Number of sources that it has ids or starts of; None if it needs none.
        biases: Of runs of tokens, whose ids must be in the vocabulary, of at least `least_vocab_size`.
    """

    fields: _Rule
    tensors: tuple[Tensor, ...]
    sources: int | None
    biases: Sequence[Bias] = ()
    least_vocab_size: int = 0


def rule_of(name: str, arguments: Sequence[Any], known: Sequence[Tensor | None] = (), skipped: int = 0) -> Rule | None:
    """Return the native rule of a processor of conjoin.functional; None if it has none.

    top_p, typical_p and top_h have none, nor has min_p that keeps several tokens: which of equal scores they keep is up
    to PyTorch's sort.

    Args:
        name, arguments: Of a ProcessorSpec.
        known: Tensors with one row per source, as the processor of this name takes them; None for missing ones.
        skipped: Leading tokens of a row that repetition_penalty does not count.
    """
    match name, arguments:
        case "sequence_bias", (biases,):
            return _bias(biases)
        case "bad_words_ids", (runs,):
            return _bias([(run, -math.inf) for run in runs])
        case "repetition_penalty", (penalty,):
            return _rule("penalty", value=penalty, size=skipped, starts=known[0] if known else None)
        case "encoder_repetition_penalty", (penalty,):
            return _rule("penalty", value=1.0 / penalty, source=known)
        case "no_repeat_ngram_size", (size,):
            return _rule("no_repeat", size=size)
        case "encoder_no_repeat_ngram_size", (size,):
            return _rule("no_repeat", size=size, source=known)
        case _:
            return _edit(name, arguments) or _warp(name, arguments)


def _edit(name: str, arguments: Sequence[Any]) -> Rule | None:
    match name, arguments:
        case "min_length", (shortest, eos):
            return _rule("forbid", last=shortest, tokens=eos)
        case "min_new_tokens", (count, prompt, eos):
            return _rule("forbid", last=prompt + count, tokens=eos)
        case "suppress_tokens", (tokens,):
            return _rule("forbid", tokens=tokens)
        case "begin_suppress_tokens", (tokens, begin):
            return _rule("forbid", first=begin, last=begin + 1, tokens=tokens)
        case "forced_bos_token_id", (token,):
            return _rule("force", first=1, last=2, tokens=(token,))
        case "forced_eos_token_id", (tokens, longest):
            return _rule("force", first=longest - 1, last=longest, tokens=tokens)
        case "exponential_decay_length_penalty", (start, factor, eos):
            return _rule("decay", first=start + 1, value=factor, tokens=eos)
        case "remove_invalid_values", ():
            return _rule("remove_invalid")
        case "renormalize_logits", ():
            return _rule("normalise")
        case _:
            return None


def _warp(name: str, arguments: Sequence[Any]) -> Rule | None:
    match name, arguments:
        case "temperature", (temperature,):
            return _rule("temperature", value=temperature)
        case "top_k", (k, *more):
            return _warper("top_k", *more, size=k)
        case "min_p", (share, *more):
            return _warper("min_p", *more, value=share) if more[:1] in ([], [1]) else None
        case "epsilon_cutoff" | "eta_cutoff", (cutoff, *more):
            return _warper(name.removesuffix("_cutoff"), *more, value=cutoff)
        case _:
            return None


def _warper(kind: str, keep: int = 1, fill: float = -math.inf, **numbers: Any) -> Rule:
    return _rule(kind, keep=keep, fill=fill, **numbers)


def _rule(
    kind: str,
    *,
    first: int = 0,
    last: int = _ALWAYS,
    tokens: Sequence[int] = (),
    starts: Tensor | None = None,
    source: Sequence[Tensor | None] = (),
    **numbers: Any,
) -> Rule:
    distinct = torch.tensor([*dict.fromkeys(tokens)], dtype=torch.int64)
    ids, mask = source if source else (None, None)
    ids, starts = (None if each is None else each.cpu().long().contiguous() for each in (ids, starts))
    mask = None if mask is None else mask.cpu().bool().contiguous()
    if ids is not None and mask is not None and ids.shape != mask.shape:
        refuse("process_rows", source_ids=ids, source_mask=mask)
    fields = _Rule(kind=_KINDS.index(kind), first=first, last=last, count=len(distinct), **numbers)
    fields.tokens, fields.starts = distinct.data_ptr(), _pointer(starts)
    fields.source_ids, fields.source_mask = _pointer(ids), _pointer(mask)
    fields.source_length = 0 if ids is None else ids.shape[1]
    held = [each for each in (ids, mask, starts) if each is not None]
    return Rule(fields, (distinct, *held), len(held[0]) if held else None)


def _bias(biases: Sequence[Bias]) -> Rule:
    # A score is added to once: by the token alone first, then by runs in the order of their length.
    ordered = sorted(biases, key=lambda pair: (pair[0][-1], len(pair[0])))
    tokens = torch.tensor([token for run, _ in ordered for token in run], dtype=torch.int64)
    ends = torch.tensor([len(run) for run, _ in ordered], dtype=torch.int64).cumsum(0)
    values = torch.tensor([bias for _, bias in ordered], dtype=torch.float32)
    fields = _Rule(kind=_KINDS.index("bias"), last=_ALWAYS, count=len(ordered))
    fields.tokens, fields.ends, fields.biases = tokens.data_ptr(), ends.data_ptr(), values.data_ptr()
    return Rule(fields, (tokens, ends, values), None, biases, int(tokens.max()) + 1)


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def rule_array(rules: Sequence[Rule], vocab_size: int) -> Any:
    """Return rules as the kernels read them, one behind the other.

    Raises:
        GenerationError: a biased id is outside the vocabulary.
    """
    for rule in rules:
        if rule.least_vocab_size > vocab_size:
            check_biased_ids(rule.biases, vocab_size)
    return (_Rule * max(1, len(rules)))(*(rule.fields for rule in rules))


def process_rows(
    rules: Sequence[Rule], ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"], sources: Int[Tensor, " R"]
) -> None:
    """Edit scores in place by rules that run one after another.

    Args:
        scores: float32, contiguous.
        sources: The source of each row.

    Raises:
        GenerationError: a biased id is outside the vocabulary.
    """
    rows, vocab_size = scores.shape
    ids, sources = ids.long(), sources.long().contiguous()
    ids = ids if ids.stride(1) == 1 or ids.shape[1] <= 1 else ids.contiguous()
    num_sources = min((rule.sources for rule in rules if rule.sources is not None), default=_ALWAYS)
    fits = ids.shape[0] == rows == len(sources) and scores.is_contiguous() and scores.dtype == torch.float32
    if not (fits and on_cpu(ids, scores, sources) and _are_sources(sources, num_sources)):
        refuse("process_rows", ids=ids, scores=scores, sources=sources)
    if not rules or not scores.numel():
        return
    array = rule_array(rules, vocab_size)
    pointer, size = c_void_p, c_int64
    types = (pointer, size, pointer, size, size, pointer, size, size, pointer, c_int)
    compiled_function("conjoin_process_rows", *types)(
        addressof(array),
        len(rules),
        ids.data_ptr(),
        ids.stride(0),
        ids.shape[1],
        scores.data_ptr(),
        rows,
        vocab_size,
        sources.data_ptr(),
        torch.get_num_threads(),
    )


def _are_sources(sources: Tensor, count: int) -> bool:
    if not len(sources):
        return True
    lowest, highest = sources.aminmax()
    return int(lowest) >= 0 and int(highest) < count
