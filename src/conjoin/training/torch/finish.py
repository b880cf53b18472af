"""The end of a run: the final model with its card and recipe, and the report."""

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conjoin.checkpoint import replacing_folder
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConjoinError, ConjoinWarning
from conjoin.torch.saving import write_pair
from conjoin.training.card import model_card
from conjoin.training.metrics_log import read_log
from conjoin.training.run_folder import RECIPE_FILE
from conjoin.training.torch.checkpoints import restore_checkpoint
from conjoin.training.torch.sharding import whole_state

if TYPE_CHECKING:
    from conjoin.training.torch.run import Run
    from conjoin.training.torch.trainer import Seq2SeqTrainer

SHOWN = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "tokens_per_batch", "seed")


def write_final_model(trainer: "Seq2SeqTrainer", run: "Run") -> None:
    """Let the model have its final weights and write it on top of the run's folder."""
    best = next((c for c in run.folder.checkpoints() if c.step == run.state.best_step), None)
    if trainer.args.load_best_model_at_end and best is not None:
        restore_checkpoint(best, run.engine)
    if run.engine.average is not None:
        run.engine.average.apply()
    trainer.model.eval()
    weights = whole_state(trainer.model, trainer.world)
    trainer.world.on_first(lambda: _write(trainer, run, weights))


def _write(trainer: "Seq2SeqTrainer", run: "Run", weights: dict[str, Tensor]) -> None:
    with torch.no_grad(), replacing_folder(run.folder.path) as staging:
        write_pair(trainer.model, staging, state=weights)
        staging.path("README.md").write_text(_card(trainer, run), encoding="utf-8")
        if trainer.recipe is not None:
            staging.path(RECIPE_FILE).write_text(trainer.recipe.to_yaml(), encoding="utf-8")
    _report(trainer, run)


def _card(trainer: "Seq2SeqTrainer", run: "Run") -> str:
    shown_step = run.state.best_step if trainer.args.load_best_model_at_end else None
    evaluations = [line for line in read_log(run.folder.path) if line["kind"] == "eval"]
    chosen = [line for line in evaluations if shown_step in (None, line["step"])]
    numbers: dict[str, Any] = chosen[-1] if chosen else {}
    metrics = {name: value for name, value in numbers.items() if name.startswith("eval_") and value is not None}
    words = {name: getattr(trainer.args, name) for name in SHOWN}
    return model_card(
        run.folder.path,
        origin=_origin(trainer),
        data=f"{len(run.examples):,} pairs ({run.examples.name})",
        steps=run.state.global_step,
        metrics=metrics,
        words={name: value for name, value in words.items() if value is not None},
    )


def _origin(trainer: "Seq2SeqTrainer") -> str:
    sources = trainer.recipe.sources if trainer.recipe else None
    if sources and sources.encoder:
        return f"`{sources.encoder}` joined to `{sources.decoder}`"
    if sources and sources.model:
        return f"`{sources.model}`"
    config = trainer.model.config
    if isinstance(config, EncoderDecoderConfig):
        return f"A {config.encoder.model_type} encoder joined to a {config.decoder.model_type} decoder"
    return f"A {config.model_type} model"


def _report(trainer: "Seq2SeqTrainer", run: "Run") -> None:
    """The evaluation room's page about the run, with what the decoder reads in the pairs that samples are shown of.

    The model is safe by now: a page that cannot be written is a warning.
    """
    from conjoin.evaluation import attention, report

    texts = trainer.eval_examples.texts if trainer.eval_examples is not None else None
    try:
        if texts is not None and trainer.tokenizer is not None and trainer.args.fsdp == "none":
            pairs = zip(texts.sources, texts.targets, strict=True)
            attention.record(trainer.model, list(pairs)[: trainer.args.eval_samples], run.folder.path / attention.FILE)
        report.write_report(run.folder.path)
    except ConjoinError as error:
        warnings.warn(f"The model is saved, but not its report: {error}", ConjoinWarning, stacklevel=2)
