"""Processors that look at which tokens and runs of tokens the row or its source holds."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.errors import GenerationError
from conjoin.functional import processors_repetition as rules
from conjoin.generation.ranges import POSITIVE, in_range
from conjoin.torch.generation.processors.calling import (
    RowwiseProcessor,
    RuleProcessor,
    SourceRuleProcessor,
    TokenIds,
    as_tuple,
)

Biases = Mapping[tuple[int, ...], float] | Iterable[Sequence[Sequence[int] | float]]


class RepetitionPenaltyLogitsProcessor(SourceRuleProcessor):
    """Lower the scores of tokens that the row holds already (Keskar et al. 2019, arXiv:1909.05858).

    Args:
        penalty: Positive scores are divided by it, negative ones multiplied.
        prompt_ignore_length: Leading tokens that do not count, for all rows or [B] per source (left padding).
    """

    def __init__(
        self,
        penalty: float,
        prompt_ignore_length: int | Int[Tensor, " B"] | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        self.ignored = prompt_ignore_length
        first = self.ignored[:, None] if isinstance(self.ignored, Tensor) else None
        super().__init__(
            rules.repetition_penalty,
            in_range("penalty", penalty, POSITIVE),
            (first,),
            num_sources=1 if first is None else len(first),
            rows_per_source=rows_per_source,
        )

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """Keep these rows, in this order."""
        if isinstance(self.ignored, Tensor):
            super().select(rows)

    def __call__(self, input_ids: Int[Tensor, "R t"], scores: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        skipped = self.ignored if isinstance(self.ignored, int) else 0
        return super().__call__(input_ids[:, skipped:] if skipped else input_ids, scores)


class EncoderRepetitionPenaltyLogitsProcessor(SourceRuleProcessor):
    """Raise the scores of tokens that the source holds.

    Args:
        penalty: Positive scores are multiplied by it, negative ones divided.
        encoder_input_ids: In the decoder's vocabulary; ids outside it are left out.
        encoder_attention_mask: Where the source is not padding; all of it if missing, as in transformers.
    """

    def __init__(
        self,
        penalty: float,
        encoder_input_ids: Int[Tensor, "B S"],
        encoder_attention_mask: Tensor | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        super().__init__(
            rules.encoder_repetition_penalty,
            in_range("penalty", penalty, POSITIVE),
            (encoder_input_ids, _as_bool(encoder_attention_mask)),
            num_sources=len(encoder_input_ids),
            rows_per_source=rows_per_source,
        )


class NoRepeatNGramLogitsProcessor(RuleProcessor):
    """Let no run of `ngram_size` tokens occur twice in a row."""

    def __init__(self, ngram_size: int) -> None:
        super().__init__(rules.no_repeat_ngram_size, int(in_range("ngram_size", ngram_size, POSITIVE)))


class EncoderNoRepeatNGramLogitsProcessor(SourceRuleProcessor):
    """Let no run of `encoder_ngram_size` tokens of the source occur in the row.

    Args:
        encoder_input_ids: In the decoder's vocabulary; runs with ids outside it cannot occur anyway.
        encoder_attention_mask: Where the source is not padding; all of it if missing, as in transformers.
    """

    def __init__(
        self,
        encoder_ngram_size: int,
        encoder_input_ids: Int[Tensor, "B S"],
        encoder_attention_mask: Tensor | None = None,
        *,
        rows_per_source: int | None = None,
    ) -> None:
        super().__init__(
            rules.encoder_no_repeat_ngram_size,
            int(in_range("encoder_ngram_size", encoder_ngram_size, POSITIVE)),
            (encoder_input_ids, _as_bool(encoder_attention_mask)),
            num_sources=len(encoder_input_ids),
            rows_per_source=rows_per_source,
        )


def _as_bool(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.bool()


class SequenceBiasLogitsProcessor(RuleProcessor):
    """Add a bias to the token that would complete a run of tokens.

    Args:
        sequence_bias: {(id, ...): bias}, or the same as [[[id, ...], bias], ...].

    Raises:
        GenerationError: on the first call, an id is outside the vocabulary.
    """

    def __init__(self, sequence_bias: Biases) -> None:
        pairs = sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias
        biases = {tuple(ids): float(bias) for ids, bias in pairs}  # pyright: ignore[reportArgumentType]
        if not biases or not all(ids and min(ids) >= 0 for ids in biases):
            raise GenerationError(
                f"sequence_bias = {sequence_bias!r}: expected {{(id, ...): bias}}, not empty, ids of at least 0."
            )
        super().__init__(rules.sequence_bias, tuple(biases.items()))


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Forbid runs of tokens.

    Args:
        eos_token_id: A "word" that is such an id alone is left alone.
    """

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: TokenIds | None = None) -> None:
        ends = {(i,) for i in as_tuple(eos_token_id)} if eos_token_id is not None else set()
        super().__init__({tuple(run): -math.inf for run in bad_words_ids if tuple(run) not in ends})


class HammingDiversityLogitsProcessor(RowwiseProcessor):
    """Lower the tokens that earlier groups of beams chose at this step (Vijayakumar et al. 2016, arXiv:1610.02424)."""

    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        self.penalty = in_range("diversity_penalty", diversity_penalty, POSITIVE)
        self.num_beams = num_beams
        self.group_size = num_beams // num_beam_groups

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # LogitsProcessorList looks which it names
        self,
        input_ids: Int[Tensor, "R t"],
        scores: Float[Tensor, "R V"],
        current_tokens: Int[Tensor, " n"],
        beam_group_idx: int,
    ) -> Float[Tensor, "R V"]:
        """Edit the scores of one group, R = sources * group size.

        Args:
            current_tokens: Of all beams of all sources; those of earlier groups are this step's choices, below 0
                where a beam chose nothing, since its group is done.
        """
        earlier = current_tokens.view(-1, self.num_beams)[:, : beam_group_idx * self.group_size]
        taken = earlier.repeat_interleave(self.group_size, 0)
        penalties = torch.where(taken < 0, 0.0, -self.penalty).to(scores.dtype)
        return scores.scatter_add(1, taken.clamp(min=0), penalties)
