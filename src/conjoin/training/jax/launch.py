"""A recipe's run on JAX: model, loop, final model, card and report."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from conjoin.checkpoint import replacing_folder
from conjoin.errors import ConfigError, ConjoinError, ConjoinWarning
from conjoin.jax.model import FlaxEncoderDecoderModel
from conjoin.jax.saving import write_pair
from conjoin.training.callbacks import TrainerCallback
from conjoin.training.card import model_card
from conjoin.training.jax.checkpoints import restore_checkpoint
from conjoin.training.jax.run import Run
from conjoin.training.jax.trainer import Trainer
from conjoin.training.metrics_log import read_log
from conjoin.training.recipe import Recipe
from conjoin.training.run_folder import RECIPE_FILE, RunFolder

SHOWN = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "tokens_per_batch", "seed")


def launch(recipe: Recipe, train: Any, validation: Any, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Train a recipe's model on pairs.

    Raises:
        ConjoinError: with one message; what was saved is untouched.
    """
    args = recipe.arguments
    if args.use_cpu:
        jax.config.update("jax_default_device", jax.devices("cpu")[0])
    trainer = Trainer(
        build_model(recipe), args, train_data=train, eval_data=validation, callbacks=callbacks, recipe=recipe
    )
    folder = RunFolder(Path(args.output_dir))
    wanted = args.resume_from_checkpoint
    checkpoint = folder.find(wanted) if wanted else None
    if checkpoint is None:
        folder.claim(overwrite=args.overwrite_output_dir)
    folder.sweep()
    run = Run(trainer, folder, checkpoint)
    run.go()
    _write_final_model(trainer, run)


def build_model(recipe: Recipe) -> FlaxEncoderDecoderModel:
    """Load a joined model, or join two checkpoints; fresh parameters are drawn from the run's seed."""
    sources = recipe.sources
    if sources.dtype != "float32":
        raise ConfigError(
            f"dtype = {sources.dtype!r} with framework = jax: weights are trained in float32.",
            hint="--bf16 computes in half precision.",
        )
    if sources.model is not None:
        model = FlaxEncoderDecoderModel.from_pretrained(sources.model)
        model.params = model.to_fp32(model.params)
        return model
    return FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(
        sources.encoder,
        sources.decoder,
        share=sources.share,
        cross_attention_init=sources.cross_attention_init,
        seed=recipe.arguments.seed,
    )


def _write_final_model(trainer: Trainer, run: Run) -> None:
    """Let the model have its final weights and write it, with card, recipe and report, on top of the run's folder."""
    best = next((c for c in run.folder.checkpoints() if c.step == run.state.best_step), None)
    if trainer.args.load_best_model_at_end and best is not None:
        restore_checkpoint(best, run.engine)
    run.engine.give(averaged=True)
    with replacing_folder(run.folder.path) as staging:
        write_pair(trainer.model, staging, trainer.model.all_params())
        staging.path("README.md").write_text(_card(trainer, run), encoding="utf-8")
        if trainer.recipe is not None:
            staging.path(RECIPE_FILE).write_text(trainer.recipe.to_yaml(), encoding="utf-8")
    _report(run)


def _card(trainer: Trainer, run: Run) -> str:
    shown_step = run.state.best_step if trainer.args.load_best_model_at_end else None
    evaluations = [line for line in read_log(run.folder.path) if line["kind"] == "eval"]
    chosen = [line for line in evaluations if shown_step in (None, line["step"])]
    numbers: dict[str, Any] = chosen[-1] if chosen else {}
    words = {name: getattr(trainer.args, name) for name in SHOWN}
    assert trainer.recipe is not None
    sources = trainer.recipe.sources
    joined = f"`{sources.encoder}` joined to `{sources.decoder}`"
    return model_card(
        run.folder.path,
        origin=f"`{sources.model}`" if sources.model else joined,
        data=f"{len(run.examples):,} pairs ({run.examples.name})",
        steps=run.state.global_step,
        metrics={name: value for name, value in numbers.items() if name.startswith("eval_") and value is not None},
        words={name: value for name, value in words.items() if value is not None},
    )


def _report(run: Run) -> None:
    """The evaluation room's page about the run; the model is safe by now, so a failure is a warning."""
    from conjoin.evaluation import report

    try:
        report.write_report(run.folder.path)
    except ConjoinError as error:
        warnings.warn(f"The model is saved, but not its report: {error}", ConjoinWarning, stacklevel=2)
