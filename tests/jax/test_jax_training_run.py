"""A run on JAX evaluates, keeps checkpoints, stops and tells as PyTorch's does: the same run over another engine."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_models  # noqa: F401  (the tests' settings of JAX)
from conjoin import ConfigError, ConjoinWarning, EncoderDecoderModel, FlaxEncoderDecoderModel, TrainingError
from conjoin.training import TrainerCallback
from conjoin.training.jax import Seq2SeqTrainer, engine
from conjoin.training.jax.trained import trained_names
from conjoin.training.loop import recovery
from conjoin.training.torch import Seq2SeqTrainer as TorchTrainer
from training_toys import arguments, halves, toy_model, toy_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved toy."""
    folder = tmp_path_factory.mktemp("toy")
    toy_model(folder).save_pretrained(folder / "model")
    return folder / "model"


def trainer_of(model: Path, folder: Path, callbacks: Any = (), **changes: Any) -> Seq2SeqTrainer:
    return Seq2SeqTrainer(
        FlaxEncoderDecoderModel.from_pretrained(model),
        args=arguments(folder / "run", **changes),
        train_dataset=toy_rows(48),
        eval_dataset=toy_rows(12, 1),
        callbacks=callbacks,
    )


def weights(model: FlaxEncoderDecoderModel) -> dict[str, np.ndarray]:
    """Copies: a step gives the arrays away."""
    return {name: np.array(value) for name, value in model.flat_params.items()}


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run").glob("checkpoint-*"))


def test_it_stops_early_and_the_final_model_is_the_best_average(model: Path, tmp_path: Path) -> None:
    live: dict[int, Any] = {}
    kept: dict[int, Any] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            live[state.global_step] = weights(keywords["model"])
            with trainer.engine().evaluation_mode():
                kept[state.global_step] = weights(keywords["model"])

    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_total_limit": 2, "ema_decay": 0.9}
    settings |= {"early_stopping_patience": 2, "load_best_model_at_end": True}
    trainer = trainer_of(model, tmp_path, [Keep()], **settings)
    losses = iter([3.0, 1.0, 2.0, 2.5])
    trainer.evaluate = lambda *_: {"eval_loss": next(losses)}  # type: ignore[method-assign]
    assert trainer.train().global_step == 4
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    name = "decoder.head.dense.weight"
    assert not np.array_equal(live[1][name], live[2][name]) and not np.array_equal(live[2][name], kept[2][name])
    saved = weights(FlaxEncoderDecoderModel.from_pretrained(tmp_path / "run"))
    for name, value in kept[2].items():
        np.testing.assert_array_equal(saved[name], value)
        np.testing.assert_array_equal(trainer.model.flat_params[name], value)


@pytest.mark.slow
def test_callbacks_may_ask_for_things(model: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    class Ask(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            control.should_save = state.global_step == 1
            control.should_evaluate = state.global_step == 2
            control.should_training_stop = state.global_step == 3

        def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            calls.append(f"save {state.global_step}")

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **keywords: Any) -> None:
            calls.append(f"evaluate {state.global_step}")
            assert metrics["eval_loss"] > 0

    trainer_of(model, tmp_path, [Ask()], eval_strategy="no", save_strategy="steps").train()
    assert calls == ["save 1", "evaluate 2", "save 3"]


@pytest.mark.slow
def test_the_doctor_stops_a_training_that_is_bound_to_fail(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(model, tmp_path, doctor=True)
    params = trainer.model.flat_params
    names = [name for name in params if name.endswith("cross_attn.o.weight")]
    trainer.model.params = params | {name: jnp.zeros_like(params[name]) for name in names}
    with pytest.raises(TrainingError, match=r"source: .*does not read the encoder"):
        trainer.train()
    shown = capsys.readouterr().err
    assert "cross_attention" in shown and "gradients" in shown
    assert not checkpoints(tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_pairs(model: Path, tmp_path: Path) -> None:
    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            if state.global_step == 3:
                params = keywords["model"].flat_params
                keywords["model"].params = {name: value * jnp.nan for name, value in params.items()}

    trainer = trainer_of(model, tmp_path, [Spoil()], save_steps=2)
    with pytest.raises(TrainingError, match=r"at step 4 \(batch: the training data, lines .*checkpoint-2 is whole"):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_out_of_memory_says_what_to_change(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")

    monkeypatch.setattr(engine, "gradients_of", fail)
    with pytest.raises(TrainingError, match=r"Out of memory at step 1, with sources of \(8, \d+\)") as caught:
        trainer_of(model, tmp_path).train()
    assert "--tokens-per-batch" in str(caught.value)


def test_predictions_and_losses_are_torchs(model: Path, tmp_path: Path) -> None:
    rows = toy_rows(12, 1)
    settings = {"generation_max_length": 6, "per_device_eval_batch_size": 5}
    ours = trainer_of(model, tmp_path, **settings)
    args = arguments(tmp_path / "torch", **settings)
    theirs = TorchTrainer(EncoderDecoderModel.from_pretrained(model), args=args).predict(rows)
    found = ours.predict(rows)
    assert found.predictions == theirs.predictions
    assert found.metrics["test_loss"] == pytest.approx(theirs.metrics["test_loss"], rel=1e-5)
    np.testing.assert_array_equal(found.label_ids, theirs.label_ids)


def test_frozen_parts_are_named_and_shared_ones_are_frozen_with_a_word(model: Path, tmp_path: Path) -> None:
    toy = FlaxEncoderDecoderModel.from_pretrained(model)
    kept = trained_names(toy, arguments(tmp_path, freeze="encoder, decoder.embedding"))
    assert kept and not [name for name in kept if name.startswith(("encoder.", "decoder.embed"))]
    with pytest.raises(ConfigError, match="No part of this model is called 'encodr'"):
        trained_names(toy, arguments(tmp_path, freeze="encodr"))
    with pytest.raises(TrainingError, match="Every parameter is frozen"):
        trainer_of(model, tmp_path, freeze="encoder, decoder, cross_attention").train()
    twice = FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(*[halves(tmp_path)[0]] * 2, share="all")
    with pytest.warns(ConjoinWarning, match="The halves share parameters: those of encoder.embedding, encoder.layers"):
        assert trained_names(twice, arguments(tmp_path, freeze="decoder")) == []


@pytest.mark.slow
def test_it_goes_back_after_a_number_that_is_not_finite(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step: Any = engine.Engine.step
    kept: dict[int, Any] = {}

    def broken(self: engine.Engine, number: int, *given: Any) -> bool:
        kept[number] = weights(self.model)  # before the step
        finite = step(self, number, *given)
        if number == 5:
            self.model.params = {name: value * jnp.nan for name, value in self.model.flat_params.items()}
        return finite and number != 5

    monkeypatch.setattr(engine.Engine, "step", broken)
    trainer = trainer_of(model, tmp_path, recover=True, max_steps=7, save_steps=3, ema_decay=0.9)
    assert trainer.train().global_step == 7
    for name, value in kept[4].items():  # after step 3, which was saved
        np.testing.assert_array_equal(kept[6][name], value)
    assert all(np.isfinite(value).all() for value in weights(trainer.model).values())


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
def test_it_starts_again_from_its_first_weights(model: Path, tmp_path: Path) -> None:
    trainer = trainer_of(model, tmp_path, recover=True, max_steps=20, learning_rate=0.0, logging_steps=1)
    first = weights(trainer.model)
    assert trainer.train().global_step == 20
    assert "does not read its sources" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert any(not np.array_equal(first[name], value) for name, value in weights(trainer.model).items())


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is judged after a few steps."""
    monkeypatch.setattr(recovery, "UNREAD_STEPS", 2)
