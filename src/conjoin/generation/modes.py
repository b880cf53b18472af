"""The ways to choose the next tokens, each with its own settings."""

from dataclasses import dataclass
from typing import Literal

EarlyStopping = bool | Literal["never"]
Schedule = Literal["constant", "heuristic", "heuristic_transient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """The best token at every step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A token drawn at every step, `num_return_sequences` times per source."""

    num_return_sequences: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Beams:
    """Settings that all beam searches share.

    Args:
        length_penalty: The score of a finished hypothesis is divided by length ** length_penalty.
        early_stopping: True stops at num_beams finished hypotheses, "never" when none can improve, False by heuristic.
    """

    num_beams: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    num_return_sequences: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch(Beams):
    """The best `num_beams` continuations at every step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSampling(Beams):
    """Continuations drawn without replacement from all beams' scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiverseBeams(Beams):
    """Groups of beams that avoid each other's tokens (Vijayakumar et al. 2016, arXiv:1610.02424).

    Args:
        diversity_penalty: Subtracted from a token's score for each beam of earlier groups that chose it at this step.
    """

    num_beam_groups: int
    diversity_penalty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """A sequence of ids that the result must contain."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """Phrases of which the result must contain one (inflections of a word, for instance)."""

    phrases: tuple[Phrase, ...]


Constraint = Phrase | AnyOf


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstrainedBeams(Beams):
    """Beams that must contain given phrases (Post & Vilar 2018, arXiv:1804.06609)."""

    constraints: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive:
    """The likely token that repeats earlier ones least (Su et al. 2022, arXiv:2202.06417)."""

    penalty_alpha: float
    top_k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assisted:
    """A small model drafts, the model verifies (Leviathan et al. 2023, arXiv:2211.17192).

    Args:
        base: Mode that gives the same result (greedy), or the same distribution of results (sampling).
        confidence_threshold: The assistant stops drafting at a token below this probability; 0 disables this.
    """

    base: Greedy | Sampling
    num_assistant_tokens: int = 20
    schedule: Schedule = "constant"
    confidence_threshold: float = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySpeculation:
    """Drafts copy the tokens that followed the last few in the source or the result so far (arXiv:2205.10350).

    Args:
        base: Mode that gives the same result (greedy), or the same distribution of results (sampling).
        num_tokens: Length of the longest draft; None lets the decoding loop adapt it to the acceptance rate.
        max_matching_ngram_size: Length of the longest sequence of tokens to look up.
    """

    base: Greedy | Sampling
    num_tokens: int | None = None
    max_matching_ngram_size: int = 2


BeamMode = BeamSearch | BeamSampling | DiverseBeams | ConstrainedBeams
Mode = Greedy | Sampling | BeamMode | Contrastive | Assisted | CopySpeculation
