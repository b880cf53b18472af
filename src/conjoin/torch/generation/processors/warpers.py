"""Processors that shape the distribution before a token is drawn."""

import math
from collections.abc import Callable
from typing import Any

import torch

from conjoin.errors import GenerationError
from conjoin.functional import processors_warpers as rules
from conjoin.generation.ranges import POSITIVE, SHARE, SHARE_ABOVE_0, SHARE_INSIDE, in_range
from conjoin.torch.generation.processors.calling import RuleProcessor


class TemperatureLogitsWarper(RuleProcessor):
    """Divide scores: below 1 sharpens, above 1 flattens."""

    def __init__(self, temperature: float) -> None:
        if not POSITIVE.holds(temperature):
            raise GenerationError(f"temperature = {temperature!r}: expected a number above 0; 0 is do_sample=False.")
        super().__init__(rules.temperature, float(temperature))


class _Filter(RuleProcessor):
    """Drops tokens by giving them `filter_value`."""

    def __init__(self, rule: Callable[..., Any], value: Any, min_tokens_to_keep: int, filter_value: float) -> None:
        if min_tokens_to_keep < 1:
            raise GenerationError(f"min_tokens_to_keep = {min_tokens_to_keep!r}: expected at least 1.")
        super().__init__(rule, value, min_tokens_to_keep, filter_value)


class TopKLogitsWarper(_Filter):
    """Keep the k likeliest tokens, and those that tie with the last of them."""

    def __init__(self, top_k: int, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        if top_k < 1:
            raise GenerationError(f"top_k = {top_k!r}: expected at least 1.")
        super().__init__(rules.top_k, top_k, min_tokens_to_keep, filter_value)


class TopPLogitsWarper(_Filter):
    """Keep the likeliest tokens that together reach p (Holtzman et al. 2019, arXiv:1904.09751)."""

    def __init__(self, top_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(rules.top_p, float(in_range("top_p", top_p, SHARE)), min_tokens_to_keep, filter_value)


class MinPLogitsWarper(_Filter):
    """Keep tokens of at least p times the best one's probability (Nguyen et al. 2024, arXiv:2407.01082)."""

    def __init__(self, min_p: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(rules.min_p, in_range("min_p", min_p, SHARE), min_tokens_to_keep, filter_value)


class TypicalLogitsWarper(_Filter):
    """Keep the tokens nearest to the expected surprise that together reach `mass` (arXiv:2202.00666)."""

    def __init__(self, mass: float = 0.9, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(
            rules.typical_p, float(in_range("typical_p", mass, SHARE_INSIDE)), min_tokens_to_keep, filter_value
        )


class EpsilonLogitsWarper(_Filter):
    """Keep tokens above a probability (Hewitt et al. 2022, arXiv:2210.15191)."""

    def __init__(self, epsilon: float, filter_value: float = -math.inf, min_tokens_to_keep: int = 1) -> None:
        cutoff = float(in_range("epsilon_cutoff", epsilon, SHARE_INSIDE))
        super().__init__(rules.epsilon_cutoff, cutoff, min_tokens_to_keep, filter_value)


class EtaLogitsWarper(_Filter):
    """Keep tokens above a probability that falls as entropy grows (Hewitt et al. 2022, arXiv:2210.15191)."""

    def __init__(
        self,
        epsilon: float,
        filter_value: float = -math.inf,
        min_tokens_to_keep: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        cutoff = float(in_range("eta_cutoff", epsilon, SHARE_INSIDE))
        super().__init__(rules.eta_cutoff, cutoff, min_tokens_to_keep, filter_value)


class TopHLogitsWarper(RuleProcessor):
    """Keep the likeliest tokens within a share of the entropy (Potraghloo et al. 2025, arXiv:2509.02510).

    Only the 100 likeliest are looked at, as in transformers.
    """

    def __init__(self, top_h: float, filter_value: float = -math.inf) -> None:
        super().__init__(rules.top_h, in_range("top_h", top_h, SHARE_ABOVE_0), filter_value)
