"""Which objective the arguments of a run ask for."""

from dataclasses import fields, is_dataclass
from typing import Any, cast

from conjoin.errors import ConfigError
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.candidates import RankedExamples
from conjoin.training.data.examples import Examples
from conjoin.training.data.inputs import TrainingData
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.torch.objectives import CrossEntropy, Distillation, Objective, TokenObjective
from conjoin.training.torch.ranking import RankingObjective
from conjoin.training.torch.teacher import load_teacher


def build_objective(
    arguments: TrainingArguments, model: EncoderDecoderModel, tokenizer: Any, examples: TrainingData
) -> Objective:
    """Return what the arguments ask a run to minimise.

    Raises:
        ConfigError: a teacher that does not fit, or R-Drop for a model without dropout.
    """
    smoothing = arguments.label_smoothing_factor
    if isinstance(examples, RankedExamples):
        return _ranking(arguments, model)
    if changed := [name for name in _RANKING if getattr(arguments, name) != getattr(TrainingArguments, name)]:
        raise ConfigError(
            f"{', '.join(changed)} without candidates to rank; it has no effect.",
            hint="--calibrate candidates.jsonl, or train_dataset=candidate_pairs(...) in Python.",
        )
    if arguments.teacher is None and not arguments.r_drop:
        return CrossEntropy(smoothing)
    if arguments.r_drop and not _has_dropout(model.spec):
        raise ConfigError(
            f"r_drop = {arguments.r_drop}, but the model has no dropout: both passes would be the same.",
            hint="leave r_drop out, or join with dropout, such as encoder_hidden_dropout_prob=0.1 in Python.",
        )
    distillation = None
    if arguments.teacher is not None:
        assert isinstance(examples, Examples)
        teacher = load_teacher(arguments, model, tokenizer, examples)
        distillation = Distillation(
            teacher=teacher, alpha=arguments.teacher_alpha, temperature=arguments.teacher_temperature
        )
    return TokenObjective(smoothing=smoothing, distillation=distillation, r_drop=arguments.r_drop)


_RANKING = ("ranking_utility", "ranking_weight", "ranking_likelihood", "ranking_margin", "ranking_length_penalty")


def _ranking(arguments: TrainingArguments, model: EncoderDecoderModel) -> RankingObjective:
    """Return the objective of calibration.

    Raises:
        ConfigError: arguments that it does not go with.
    """
    others = ("teacher", "r_drop", "packing")
    wrong = [name for name in others if getattr(arguments, name)] + (["fsdp"] if arguments.fsdp != "none" else [])
    if wrong:
        raise ConfigError(
            f"Candidates are ranked, but {', '.join(wrong)} is asked for too, which does not go with it.",
            hint="train with it first, and calibrate the trained model afterwards, without it.",
        )
    return RankingObjective(
        model=model,
        smoothing=arguments.label_smoothing_factor,
        weight=arguments.ranking_weight,
        likelihood=arguments.ranking_likelihood,
        margin=arguments.ranking_margin,
        length_penalty=arguments.ranking_length_penalty,
    )


def _has_dropout(brick: Any) -> bool:
    """True if any brick of a spec drops units in training."""
    if isinstance(brick, tuple):
        return any(map(_has_dropout, cast("tuple[Any, ...]", brick)))
    if not is_dataclass(brick):
        return False
    values = [(each.name, getattr(brick, each.name)) for each in fields(brick)]
    return any((name.endswith("dropout") and value) or _has_dropout(value) for name, value in values)
