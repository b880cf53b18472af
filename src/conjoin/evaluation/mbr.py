"""Minimum Bayes risk decoding: of many candidates for a source, the one that is most like the others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from conjoin.errors import ConfigError, GenerationError
from conjoin.evaluation.utilities import UTILITIES, Utility, utility_matrix
from conjoin.limits import ROWS_PER_SOURCE

Candidates = Literal["sample", "beam"]
TRUNCATION: Mapping[str, Any] = {"epsilon_cutoff": 0.02, "top_k": 0}
"""How candidates are sampled if nobody says: tokens below 2 % are left out (Freitag et al. 2023, arXiv:2305.09860)."""
_SAMPLING = ("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@dataclass(frozen=True, slots=True, kw_only=True)
class MBR:
    """Minimum Bayes risk decoding (Kumar & Byrne 2004; with samples, Eikema & Aziz 2020, arXiv:2005.10283).

    Args:
        num_candidates: Number of candidates of each source.
        utility: How good a candidate is where another one is the reference.
        candidates: Where they come from: samples of the model, or the hypotheses of beam search.

    Raises:
        ConfigError: fewer than 2 candidates, or names that are unknown.

    Example:
        generate_texts(model, texts, TextSettings(mbr=MBR(num_candidates=32, utility="rouge")))
    """

    num_candidates: int = 32
    utility: Utility = "chrf"
    candidates: Candidates = "sample"

    def __post_init__(self) -> None:
        """Check the values."""
        if not 2 <= self.num_candidates <= ROWS_PER_SOURCE:
            raise ConfigError(
                f"mbr with {self.num_candidates} candidates; expected 2 to {ROWS_PER_SOURCE}: they are compared."
            )
        for name, value, known in (
            ("utility", self.utility, UTILITIES),
            ("candidates", self.candidates, ("sample", "beam")),
        ):
            if value not in known:
                raise ConfigError(f"{name} = {value!r}; expected one of: {', '.join(known)}.")

    def generation(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of `generate` that make the candidates.

        Args:
            settings: Those of the caller. Its `num_return_sequences` is the number of results that are wanted.

        Raises:
            GenerationError: they contradict the way in which candidates are made.
        """
        number, beams = self.num_candidates, settings.get("num_beams")
        if (wanted := results_wanted(settings)) > number:
            raise GenerationError(f"num_return_sequences = {wanted}, but mbr chooses among {number} candidates.")
        if self.candidates == "beam":
            if beams is not None and beams < number:
                raise GenerationError(
                    f"{beams} beams cannot give {number} candidates.", hint="leave num_beams out, or ask for fewer."
                )
            return {**settings, "num_beams": beams or number, "num_return_sequences": number}
        if beams not in (None, 1) or settings.get("do_sample") is False:
            raise GenerationError(
                f"mbr samples its candidates, but {'do_sample is False' if beams in (None, 1) else f'{beams} beams'} "
                "was asked for.",
                hint='take the hypotheses of beam search: --mbr-candidates beam (candidates="beam").',
            )
        is_shaped = any(settings.get(name) is not None for name in _SAMPLING)
        sampled = {"do_sample": True, "num_beams": 1, "num_return_sequences": number}
        return {**({} if is_shaped else TRUNCATION), **settings, **sampled}

    def choose(self, candidates: Sequence[str], results: int = 1) -> tuple[list[str], list[float]]:
        """Return the candidates with the highest expected utility, best first, and these utilities in percent.

        The others stand for what the reference may be, each as often as it occurs. Of equals, the one that occurs more
        often wins, then the one that comes first: of beams, the likelier one.

        Args:
            candidates: All of a source, equal ones included.
            results: Number of different candidates to return; there may be fewer.

        Raises:
            MissingBackend: what computes the utility is not installed.
        """
        counts = Counter(candidates)
        texts, times = list(counts), np.array(list(counts.values()), float)
        utilities = utility_matrix(texts, self.utility)
        expected = (utilities @ times - utilities.diagonal()) / max(len(candidates) - 1, 1)
        order = sorted(range(len(texts)), key=lambda place: (-round(float(expected[place]), 9), -times[place], place))
        return [texts[place] for place in order[:results]], [float(expected[place]) for place in order[:results]]


def results_wanted(settings: Mapping[str, Any]) -> int:
    """Return the number of results of a source that a caller asks for."""
    return int(settings.get("num_return_sequences") or 1)
