"""The end of a run: the final model with its card and recipe, and the report."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from conjoin.checkpoint import Staging, replacing_folder
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConjoinError, warn
from conjoin.training.folder.metrics_log import is_number, read_log
from conjoin.training.folder.run_folder import RECIPE_FILE
from conjoin.training.loop.card import as_code, model_card

if TYPE_CHECKING:
    from conjoin.training.loop.run import Run
    from conjoin.training.loop.trainer import Trainer

SHOWN = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "tokens_per_batch", "seed")


def write_final_model(trainer: "Trainer[Any]", run: "Run") -> None:
    """Let the model have its final weights and write it on top of the run's folder."""
    best = next((c for c in run.folder.checkpoints() if c.step == run.state.best_step), None)
    if trainer.args.load_best_model_at_end and best is not None:
        run.engine.restore(best.folder, best.step)
    run.engine.settle()
    write_pair = run.engine.gathered()
    trainer.world.on_first(lambda: _write(trainer, run, write_pair))


def _write(trainer: "Trainer[Any]", run: "Run", write_pair: Callable[[Staging], None]) -> None:
    with replacing_folder(run.folder.path) as staging:
        write_pair(staging)
        staging.path("README.md").write_text(_card(trainer, run), encoding="utf-8")
        if trainer.recipe is not None:
            staging.path(RECIPE_FILE).write_text(trainer.recipe.lasting().to_yaml(), encoding="utf-8")
    _report(trainer, run)


def _card(trainer: "Trainer[Any]", run: "Run") -> str:
    shown_step = run.state.best_step if trainer.args.load_best_model_at_end else None
    chosen = [line for line in _evaluations(run) if shown_step in (None, line["step"])]
    numbers: dict[str, Any] = chosen[-1] if chosen else {}
    metrics = {name: value for name, value in numbers.items() if name.startswith("eval_") and is_number(value)}
    words = {name: getattr(trainer.args, name) for name in SHOWN}
    return model_card(
        run.folder.path,
        origin=_origin(trainer),
        data=f"{len(run.examples):,} pairs ({run.examples.name})",
        steps=run.state.global_step,
        metrics=metrics,
        words={name: value for name, value in words.items() if value is not None},
    )


def _evaluations(run: "Run") -> list[dict[str, Any]]:
    """What the log says of evaluations; a log that was damaged while the run went on costs no model."""
    try:
        return [line for line in read_log(run.folder.path) if line["kind"] == "eval"]
    except ConjoinError as error:
        warn(f"The model card says nothing of evaluations: {error}")
        return []


def _origin(trainer: "Trainer[Any]") -> str:
    sources = trainer.recipe.sources if trainer.recipe else None
    if sources and sources.encoder:
        return f"{as_code(sources.encoder)} joined to {as_code(str(sources.decoder))}"
    if sources and sources.model:
        return as_code(sources.model)
    config = trainer.model.config
    if isinstance(config, EncoderDecoderConfig):
        return f"A {config.encoder.model_type} encoder joined to a {config.decoder.model_type} decoder"
    return f"A {config.model_type} model"


def _report(trainer: "Trainer[Any]", run: "Run") -> None:
    """The evaluation room's page about the run, with what the decoder reads in the pairs that samples are shown of.

    The model is safe by now: a page that cannot be written is a warning.
    """
    from conjoin.training.report import attention, report

    texts = trainer.eval_examples.texts if trainer.eval_examples is not None else None
    try:
        if texts is not None and trainer.tokenizer is not None and trainer.args.fsdp == "none":
            pairs = list(zip(texts.sources, texts.targets, strict=True))[: trainer.args.eval_samples]
            path = run.folder.path / attention.FILE
            attention.record(trainer.model, run.engine.cross_attention, pairs, path)
        report.write_report(run.folder.path)
    except ConjoinError as error:
        warn(f"The model is saved, but not its report: {error}")
