"""What makes a model the best of a run, and whether evaluations will tell."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from conjoin.errors import ConfigError

if TYPE_CHECKING:
    from conjoin.training.loop.trainer import Trainer

LOSS = "eval_loss"


def _eval_name(metric: str) -> str:
    """A metric as evaluations name it; users may leave the prefix out."""
    return f"eval_{metric.removeprefix('eval_')}"


def check_validation(trainer: "Trainer[Any]") -> None:
    """Check, before a run, that its settings have an effect and that the metric it goes by is computed.

    Raises:
        ConfigError: there is no evaluation, or none that gives the metric.
    """
    args, examples = trainer.args, trainer.eval_examples
    without = examples is None or args.eval_strategy == "no"
    idle = {
        "early_stopping_patience": args.early_stopping_patience is not None,
        "load_best_model_at_end": args.load_best_model_at_end,
        f"metric_for_best_model = {args.metric_for_best_model}": _eval_name(args.metric_for_best_model) != LOSS,
        f"eval_strategy = {args.eval_strategy}": args.eval_strategy in ("steps", "epoch"),
    }
    asked = [name for name, is_set in idle.items() if is_set]
    if without and asked:
        raise ConfigError(
            f"No evaluation is made, but it is asked for: {', '.join(asked)}.",
            hint="give validation data (--validation, eval_dataset=), and leave eval_strategy = no out.",
        )
    if examples is not None and not without:
        names = trainer.metric_names(examples)
        if names is not None:  # otherwise the user's own code has a say in it
            _require(args.metric_for_best_model, names)


def deciding(metrics: Mapping[str, float], wanted: str) -> float:
    """The value that decides which model is the best.

    Raises:
        ConfigError: the evaluation did not give it.
    """
    _require(wanted, [name.removeprefix("eval_") for name in metrics])
    return next(value for name, value in metrics.items() if _eval_name(name) == _eval_name(wanted))


def _require(wanted: str, names: Iterable[str]) -> None:
    if _eval_name(wanted) not in map(_eval_name, names):
        raise ConfigError(
            f"metric_for_best_model = {wanted!r} is not among the metrics of an evaluation: {', '.join(names)}.",
            hint="metrics of texts are computed with --metrics NAME --predict-with-generate.",
        )
