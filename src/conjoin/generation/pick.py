"""From settings to the kind of decoding."""

from typing import Any

from conjoin.generation.asked import Asked
from conjoin.generation.facts import Circumstances
from conjoin.generation.modes import (
    AnyOf,
    Assisted,
    BeamMode,
    BeamSampling,
    BeamSearch,
    ConstrainedBeams,
    Constraint,
    Contrastive,
    CopySpeculation,
    DiverseBeams,
    Greedy,
    Mode,
    Phrase,
    Sampling,
)
from conjoin.generation.needs import COPYING


def pick_mode(asked: Asked, circumstances: Circumstances) -> Mode:
    """The kind of decoding that checked settings ask for."""
    if asked.get("num_beams") > 1:
        return _beams(asked)
    if asked.get("penalty_alpha"):
        return Contrastive(penalty_alpha=asked.get("penalty_alpha"), top_k=asked.get("top_k"))
    sampling = Sampling(num_return_sequences=asked.get("num_return_sequences"))
    base = sampling if asked.get("do_sample") else Greedy()
    if circumstances.call.assistant:
        return Assisted(
            base=base,
            num_assistant_tokens=asked.get("num_assistant_tokens"),
            schedule=asked.get("num_assistant_tokens_schedule"),
            confidence_threshold=asked.get("assistant_confidence_threshold"),
        )
    if COPYING.holds(circumstances):
        return CopySpeculation(
            base=base,
            num_tokens=asked.get("prompt_lookup_num_tokens"),
            max_matching_ngram_size=asked.get("max_matching_ngram_size"),
        )
    return base


def constraints_of(asked: Asked) -> tuple[Constraint, ...]:
    """Return what must appear: `constraints` as they are, `force_words_ids` as phrases or as choices of phrases."""
    return (*(asked.get("constraints") or ()), *(_constraint(ids) for ids in asked.get("force_words_ids") or ()))


def _constraint(ids: list[Any]) -> Constraint:
    if isinstance(ids[0], list | tuple):
        return AnyOf(phrases=tuple(Phrase(ids=tuple(each)) for each in ids))
    return Phrase(ids=tuple(ids))


def _beams(asked: Asked) -> BeamMode:
    shared: dict[str, Any] = {
        "num_beams": asked.get("num_beams"),
        "length_penalty": float(asked.get("length_penalty")),
        "early_stopping": asked.get("early_stopping"),
        "num_return_sequences": asked.get("num_return_sequences"),
    }
    if constraints := constraints_of(asked):
        return ConstrainedBeams(**shared, constraints=constraints)
    if (groups := asked.get("num_beam_groups")) > 1:
        return DiverseBeams(**shared, num_beam_groups=groups, diversity_penalty=asked.get("diversity_penalty"))
    if asked.get("do_sample"):
        return BeamSampling(**shared)
    return BeamSearch(**shared)
