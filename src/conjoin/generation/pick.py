"""Choose the decoding mode from the settings."""

from typing import Any

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
from conjoin.generation.user_settings import UserSettings


def pick_mode(settings: UserSettings, circumstances: Circumstances) -> Mode:
    """Return the decoding mode that checked settings request."""
    if settings.get("num_beams") > 1:
        return _beams(settings)
    if settings.get("penalty_alpha"):
        return Contrastive(penalty_alpha=settings.get("penalty_alpha"), top_k=settings.get("top_k"))
    sampling = Sampling(num_return_sequences=settings.get("num_return_sequences"))
    base = sampling if settings.get("do_sample") else Greedy()
    if circumstances.call.assistant:
        return Assisted(
            base=base,
            num_assistant_tokens=settings.get("num_assistant_tokens"),
            schedule=settings.get("num_assistant_tokens_schedule"),
            confidence_threshold=settings.get("assistant_confidence_threshold"),
        )
    if COPYING.holds(circumstances):
        return CopySpeculation(
            base=base,
            num_tokens=settings.get("prompt_lookup_num_tokens"),
            max_matching_ngram_size=settings.get("max_matching_ngram_size"),
        )
    return base


def constraints_of(settings: UserSettings) -> tuple[Constraint, ...]:
    """Return what must appear: `constraints` as they are, `force_words_ids` as phrases or as choices of phrases."""
    return (*(settings.get("constraints") or ()), *(_constraint(ids) for ids in settings.get("force_words_ids") or ()))


def _constraint(ids: list[Any]) -> Constraint:
    if isinstance(ids[0], list | tuple):
        return AnyOf(phrases=tuple(Phrase(ids=tuple(each)) for each in ids))
    return Phrase(ids=tuple(ids))


def _beams(settings: UserSettings) -> BeamMode:
    shared: dict[str, Any] = {
        "num_beams": settings.get("num_beams"),
        "length_penalty": float(settings.get("length_penalty")),
        "early_stopping": settings.get("early_stopping"),
        "num_return_sequences": settings.get("num_return_sequences"),
    }
    if constraints := constraints_of(settings):
        return ConstrainedBeams(**shared, constraints=constraints)
    if (groups := settings.get("num_beam_groups")) > 1:
        return DiverseBeams(**shared, num_beam_groups=groups, diversity_penalty=settings.get("diversity_penalty"))
    if settings.get("do_sample"):
        return BeamSampling(**shared)
    return BeamSearch(**shared)
