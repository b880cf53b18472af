"""From settings to the kind of decoding."""

from typing import Any

from conjoin.generation.asked import Asked
from conjoin.generation.facts import CallFacts
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
    Warpers,
)


def pick_mode(asked: Asked, call: CallFacts) -> Mode:
    """The kind of decoding that checked settings ask for."""
    if asked.get("num_beams") > 1:
        return _beams(asked)
    if asked.get("penalty_alpha"):
        return Contrastive(penalty_alpha=asked.get("penalty_alpha"), top_k=asked.get("top_k"))
    base = _sampling(asked) if asked.get("do_sample") else Greedy()
    if call.assistant:
        return _assisted(asked, base)
    if wants_copying(asked):
        return CopySpeculation(
            base=base,
            num_tokens=asked.get("prompt_lookup_num_tokens"),
            max_matching_ngram_size=asked.get("max_matching_ngram_size"),
        )
    return base


def wants_copying(asked: Asked) -> bool:
    """Whether drafts shall come from the source; transformers' prompt lookup asks for the same."""
    return asked.get("copy_speculation") or asked.get("prompt_lookup_num_tokens") is not None


def constraints_of(asked: Asked) -> tuple[Constraint, ...]:
    """Words that must appear: `constraints` as they are, `force_words_ids` as phrases or as choices of phrases."""
    return (*(asked.get("constraints") or ()), *(_constraint(word) for word in asked.get("force_words_ids") or ()))


def _constraint(word: list[Any]) -> Constraint:
    if isinstance(word[0], list | tuple):
        return AnyOf(phrases=tuple(Phrase(ids=tuple(ids)) for ids in word))
    return Phrase(ids=tuple(word))


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
        return BeamSampling(**shared, warpers=_warpers(asked))
    return BeamSearch(**shared)


def _sampling(asked: Asked) -> Sampling:
    return Sampling(warpers=_warpers(asked), num_return_sequences=asked.get("num_return_sequences"))


def _warpers(asked: Asked) -> Warpers:
    names = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
    return Warpers(**{name: asked.get(name) for name in names})


def _assisted(asked: Asked, base: Greedy | Sampling) -> Assisted:
    return Assisted(
        base=base,
        num_assistant_tokens=asked.get("num_assistant_tokens"),
        schedule=asked.get("num_assistant_tokens_schedule"),
        confidence_threshold=asked.get("assistant_confidence_threshold"),
    )
