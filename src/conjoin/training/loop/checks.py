"""What is checked before the first step, so that a run does not fail, or prove useless, hours later."""

from collections.abc import Iterable, Mapping

from conjoin.errors import ConfigError, TrainingError, warn
from conjoin.join import JoinReport
from conjoin.join.diagnosis import Diagnosis
from conjoin.training.data.batching import Batch
from conjoin.training.loop.engine import Trainable
from conjoin.training.loop.schedules import group_rate
from conjoin.training.settings.arguments import GROUPS, TrainingArguments
from conjoin.training.terminal import show

LOSS = "eval_loss"
DOCTOR_PAIRS = 8
"""Pairs that the doctor gets: its checks need few, and each costs a forward pass."""
FATAL = ("ids", "labels", "start", "future", "source")
"""Checks whose failure makes training useless; the others are shown and may be intended."""


def refuse_quantized(quantization: object) -> None:
    """Refuse a model in 8 bits.

    Args:
        quantization: `quantization_config` of its config, if there is one.

    Raises:
        ConfigError: there is one.
    """
    if quantization:
        raise ConfigError(
            "The model is in 8 bits, which is for inference only: it cannot be trained.",
            hint="train the model that it was made of, then call model.quantize('int8').",
        )


_ONLY_FOR_IDS = {
    "tokens_per_batch": "per_device_train_batch_size counts rows.",
    "packing": "rows of arrays are not packed.",
    "max_tokens": "max_minutes or max_steps ends a run.",
    "max_source_length": "the data set makes arrays of the size that it wants.",
    "source_column": "encoder_input= of the model names what it reads.",
    "source_prefix": "there is no source text.",
    "source_language": "there is no source text.",
    "drop_empty": "leave empty rows out of the data set.",
    "data_cache_dir": "rows are computed when they are read; a data set may keep them itself.",
    "preprocessing_num_workers": "rows are computed when they are read; a data set may use threads in __getitems__.",
    "teacher": "a teacher reads texts.",
    "dropout_from_epoch": "conjoin does not know which layers of the encoder drop units.",
    "average_checkpoints": "ema_decay averages weights too.",
    "fsdp": "conjoin does not know the encoder's layers; several processes without it work.",
}
"""Settings that need sources of ids, or layers of ours -> what to do without them."""


def check_sources(args: TrainingArguments, model: Trainable, *, collates: bool) -> None:
    """Refuse what does not go with the model's sources.

    Args:
        collates: True if the caller gives a data_collator.

    Raises:
        ConfigError: settings for ids, and an encoder that reads arrays; or the other way round.
    """
    if model.reads_ids:
        if collates:
            raise ConfigError(
                "data_collator: the trainer pads texts and ids itself.",
                hint="leave it out; it is for models whose encoder is a module of your own (docs/vision.md).",
            )
        return
    wrong = [name for name in _ONLY_FOR_IDS if getattr(args, name) != getattr(TrainingArguments, name)]
    if wrong:
        settings = ", ".join(f"{name} = {getattr(args, name)}" for name in wrong)
        raise ConfigError(
            f"{settings}: needs sources that are ids, and layers of conjoin; this model's encoder is a "
            f"{model.spec.encoder.family}.",
            hint=f"leave out {', '.join(wrong)}: " + " ".join(_ONLY_FOR_IDS[name] for name in wrong),
        )


def doctor_pairs(batch: Batch) -> Batch:
    """Return the first pairs of a batch, one per row."""
    return [[index] for row in batch for index in row][:DOCTOR_PAIRS]


def require_trainable(report: JoinReport, diagnosis: Diagnosis) -> None:
    """Show where the parameters come from and what the doctor found in the first batch.

    Raises:
        TrainingError: training is bound to fail; with the fixes.
    """
    show(report, diagnosis)
    fatal = [finding for finding in diagnosis.failed if finding.check in FATAL]
    if fatal:
        lines = "\n".join(f"  {finding.check}: {finding.detail}\n    fix: {finding.fix}" for finding in fatal)
        raise TrainingError(
            f"The doctor found what makes this training useless:\n{lines}", hint="--no-doctor trains all the same."
        )


def warn_if_nothing_learns(args: TrainingArguments, steps: int) -> None:
    """Warn that the warm-up, which begins with a rate of 0, leaves no other rate to a run of so few steps."""
    rates = [group_rate(args, group, steps) for group in GROUPS if args.of_group("learning_rate", group) > 0]
    if rates and not any(rate(step) > 0 for rate in rates for step in range(1, min(steps, 2) + 1)):
        warn(
            f"Nothing will be learnt: the run has {steps} step, and with warmup_steps = {args.warmup_steps:g} its "
            "learning rate is 0. Take more steps, or warmup_steps = 0."
        )


def check_evaluation_settings(args: TrainingArguments, metrics: Iterable[str] | None, *, evaluates: bool) -> None:
    """Check that the settings of evaluations have an effect and that metric_for_best_model is computed.

    Args:
        metrics: Names of the metrics of an evaluation; None if only the user's own code knows them.
        evaluates: True if the run has validation data and uses them.

    Raises:
        ConfigError: there is no evaluation, or none that gives the metric.
    """
    requested = {
        "early_stopping_patience": args.early_stopping_patience is not None,
        "load_best_model_at_end": args.load_best_model_at_end,
        f"metric_for_best_model = {args.metric_for_best_model}": _eval_name(args.metric_for_best_model) != LOSS,
        f"eval_strategy = {args.eval_strategy}": args.eval_strategy in ("steps", "epoch"),
    }
    without_effect = [name for name, is_set in requested.items() if is_set]
    if without_effect and not evaluates:
        raise ConfigError(
            f"No evaluation is made, but it is asked for: {', '.join(without_effect)}.",
            hint="give validation data (--validation, eval_dataset=), and leave eval_strategy = no out.",
        )
    if metrics is not None:
        _require_metric(args.metric_for_best_model, metrics)


def best_model_metric(metrics: Mapping[str, float], name: str) -> float:
    """Return the value of the metric that decides which model is the best.

    Raises:
        ConfigError: the evaluation did not compute it.
    """
    _require_metric(name, [metric.removeprefix("eval_") for metric in metrics])
    return next(value for metric, value in metrics.items() if _eval_name(metric) == _eval_name(name))


def _eval_name(metric: str) -> str:
    """Return a metric's name as evaluations write it; users may leave out the prefix."""
    return f"eval_{metric.removeprefix('eval_')}"


def _require_metric(name: str, metrics: Iterable[str]) -> None:
    if _eval_name(name) not in map(_eval_name, metrics):
        raise ConfigError(
            f"metric_for_best_model = {name!r} is not among the metrics of an evaluation: {', '.join(metrics)}.",
            hint="metrics of texts are computed with --metrics NAME --predict-with-generate.",
        )
