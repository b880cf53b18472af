"""An evaluation can neither lose a run nor change it, and its numbers may be of any library."""

import json
import math
import random
import subprocess
import sys
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conjoin import ConfigError, ConjoinWarning, EncoderDecoderModel, Seq2SeqTrainer, T5Config
from conjoin.training import TrainerCallback
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.loop.metric_numbers import plain_numbers
from conjoin.training.torch.groups import build_optimizing
from pairs import stir
from training_toys import arguments, toy_model, toy_rows, weights


def trainer_of(folder: Path, compute_metrics: Any = None, callbacks: Any = (), **changes: Any) -> Seq2SeqTrainer:
    return Seq2SeqTrainer(
        toy_model(folder, dropout=0.1),
        args=arguments(folder / "run", **{"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4} | changes),
        train_dataset=toy_rows(48),
        eval_dataset=toy_rows(6, 1),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


class Broken(Exception):
    """What a user's own code raises."""


def breaks(_: Any) -> dict[str, float]:
    raise Broken("a bug of mine")


class BreaksAfter(TrainerCallback):
    """An on_evaluate that raises."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        raise Broken("a bug of mine")


@pytest.mark.parametrize("strategy", ["auto", "steps", "no"])
@pytest.mark.parametrize("where", ["compute_metrics", "on_evaluate"])
def test_a_step_is_saved_before_it_is_evaluated(where: str, strategy: str, tmp_path: Path) -> None:
    given = (breaks, ()) if where == "compute_metrics" else (None, [BreaksAfter()])
    with pytest.raises(Broken, match="a bug of mine") as caught:
        trainer_of(tmp_path, *given, save_strategy=strategy).train()
    assert [each.step for each in RunFolder(tmp_path / "run").checkpoints()] == [2]
    (note,) = caught.value.__notes__
    assert "checkpoint-2 was saved before it" in note and "--resume" in note
    whole, resumed = (trainer_of(tmp_path / name, lambda _: {"f": 0.5}) for name in ("whole", "."))
    whole.train()
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=0, atol=0)
    assert [line["step"] for line in lines(tmp_path, "eval")] == [2, 4]
    assert [line["step"] for line in lines(tmp_path, "train")] == [2, 4]


def test_a_run_whose_evaluation_fails_goes_on_without_evaluations(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        trainer_of(tmp_path, breaks, max_steps=2).train()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    trainer_of(tmp_path, breaks, max_steps=2, eval_strategy="no").train(resume_from_checkpoint=True)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_the_outcome_of_an_evaluation_is_in_the_checkpoint_of_its_step(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, save_total_limit=None)
    left = iter([1.0, 2.0])
    trainer.evaluate = lambda *_: {"eval_loss": next(left)}  # type: ignore[method-assign]
    trainer.train()
    states = [each.state() for each in RunFolder(tmp_path / "run").checkpoints()]
    assert [(each.best_step, each.evaluations_without_progress, each.evaluation_due) for each in states] == [
        (2, 0, False),
        (2, 1, False),
    ]


def test_an_evaluation_that_failed_halfway_counts_once(tmp_path: Path) -> None:
    """on_evaluate raises after the best metric was noted and the line was written."""
    settings: dict[str, Any] = {"early_stopping_patience": 2, "max_steps": 8, "save_total_limit": None}
    with pytest.raises(Broken):
        trainer_of(tmp_path, None, [BreaksAfter()], **settings).train()
    state = RunFolder(tmp_path / "run").checkpoints()[0].state()
    assert (state.best_step, state.evaluation_due) == (None, True)
    resumed = trainer_of(tmp_path, **settings)
    losses = iter([1.0, 2.0, 3.0])
    resumed.evaluate = lambda *_: {"eval_loss": next(losses)}  # type: ignore[method-assign]
    assert resumed.train(resume_from_checkpoint=True).global_step == 6
    assert [line["eval_loss"] for line in lines(tmp_path, "eval")] == [1.0, 2.0, 3.0]


def test_the_checkpoint_that_was_the_best_waits_for_the_evaluation_of_the_next(tmp_path: Path) -> None:
    there: list[list[int]] = []

    class Look(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            there.append([each.step for each in RunFolder(tmp_path / "run").checkpoints()])

    trainer_of(tmp_path, None, [Look()], max_steps=6, save_total_limit=1).train()
    assert there[1] == [2, 4] and there[2][-2:] == [4, 6]


def test_what_an_evaluation_draws_changes_nothing(tmp_path: Path) -> None:
    def draws(_: Any) -> dict[str, float]:
        return {"f": random.random() + np.random.rand() + float(torch.rand(()))}

    without, drawing = trainer_of(tmp_path / "without", eval_strategy="no"), trainer_of(tmp_path / "with", draws)
    without.train()
    drawing.train()
    torch.testing.assert_close(weights(drawing.model), weights(without.model), rtol=0, atol=0)


NUMBERS: dict[str, tuple[Any, float]] = {
    "float": (0.5, 0.5),
    "int": (3, 3),
    "bool": (True, 1),
    "np.float16": (np.float16(0.5), 0.5),
    "np.float32": (np.float32(0.5), 0.5),
    "np.longdouble": (np.longdouble(0.5), 0.5),
    "np.int64": (np.int64(3), 3),
    "np.uint8": (np.uint8(3), 3),
    "np.bool": (np.bool_(True), 1),
    "0-d": (np.array(0.5), 0.5),
    "1 element": (np.array([[0.5]]), 0.5),
    "tensor": (torch.tensor(0.5, requires_grad=True), 0.5),
    "bfloat16": (torch.tensor([0.5], dtype=torch.bfloat16), 0.5),
    "Decimal": (Decimal("0.5"), 0.5),
    "Fraction": (Fraction(1, 2), 0.5),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_any_type_are_numbers(kind: str) -> None:
    given, expected = NUMBERS[kind]
    found = plain_numbers({"f": given}, "compute_metrics")
    assert found == {"f": expected} and type(found["f"]) in (int, float)


def test_numbers_of_jax_and_ml_dtypes_are_numbers() -> None:
    jnp = pytest.importorskip("jax.numpy")
    import ml_dtypes

    found = plain_numbers({"a": jnp.float32(0.5), "b": jnp.array([2]), "c": ml_dtypes.bfloat16(1.5)}, "compute_metrics")
    assert found == {"a": 0.5, "b": 2, "c": 1.5}


def test_nested_metrics_get_names_with_a_slash() -> None:
    assert plain_numbers({"rouge": {"1": 0.5, "l": {"f": 1}}, 2: 3}, "compute_metrics") == {
        "rouge/1": 0.5,
        "rouge/l/f": 1,
        "2": 3,
    }


ODD: dict[str, Any] = {
    "odd list": [0.5],
    "odd text": "good",
    "odd None": None,
    "odd complex": 1j,
    "odd array": np.zeros(2),
    "odd tensor": torch.zeros(2),
    "odd huge": 10**400,
    "odd signalling": Decimal("sNaN"),
    "odd object": object(),
    "odd empty": np.zeros(0),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_number_is_left_out_with_a_warning(kind: str) -> None:
    with pytest.warns(ConjoinWarning, match="compute_metrics gave what is no number, and it is left out: 'odd' is of"):
        assert plain_numbers({"odd": ODD[kind], "f": 1}, "compute_metrics") == {"f": 1}


def circle() -> dict[str, Any]:
    found: dict[str, Any] = {}
    return found | {"f": found.setdefault("inner", found)}


@pytest.mark.parametrize("given", [None, 0.5, [("f", 1)], circle()])
def test_metrics_that_are_no_mapping_of_numbers_are_told(given: Any) -> None:
    with pytest.warns(ConjoinWarning):
        assert not plain_numbers(given, "compute_metrics")


def test_a_run_with_metrics_of_every_kind_ends_with_its_model(tmp_path: Path) -> None:
    given = {kind: value for kind, (value, _) in NUMBERS.items()} | ODD
    given |= {"rouge": {"1": np.float32(0.25)}, "nan": np.float32("nan"), "eval_f": 0.5, "a|b<\n\ud800": 1}
    with pytest.warns(ConjoinWarning, match="left out"):
        trainer_of(tmp_path, lambda _: given, metric_for_best_model="f", report_to="auto").train()
    (*_, line) = lines(tmp_path, "eval")
    assert {name.removeprefix("eval_"): line[f"eval_{name}"] for name in NUMBERS} == {
        name: expected for name, (_, expected) in NUMBERS.items()
    }
    assert line["eval_rouge/1"] == 0.25 and line["eval_f"] == 0.5 and line["eval_nan"] is None
    assert not any(f"eval_{name}" in line for name in ODD)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| rouge/1 | 0.25 |" in card and "a\\|b&lt;" in card
    assert (tmp_path / "run" / "model.safetensors").is_file() and (tmp_path / "run" / "report.html").is_file()
    state = RunFolder(tmp_path / "run").checkpoints()[-1].state()
    assert (state.best_metric, state.best_step) == (0.5, 2)


@pytest.mark.slow
def test_jax_takes_numbers_of_any_type_and_saves_before_it_evaluates(tmp_path: Path) -> None:
    jnp = pytest.importorskip("jax.numpy")
    from conjoin import FlaxEncoderDecoderModel
    from conjoin.training.jax.trainer import Seq2SeqTrainer as OnJax

    toy_model(tmp_path).save_pretrained(tmp_path / "model")

    def jax_trainer(compute_metrics: Any) -> Any:
        return OnJax(
            FlaxEncoderDecoderModel.from_pretrained(tmp_path / "model"),
            args=arguments(tmp_path / "run", max_steps=2, metric_for_best_model="f"),
            train_dataset=toy_rows(16),
            eval_dataset=toy_rows(4, 1),
            compute_metrics=compute_metrics,
        )

    with pytest.raises(Broken):
        jax_trainer(breaks).train()
    jax_trainer(lambda _: {"eval_f": jnp.float32(0.5), "r": {"1": np.int64(2)}}).train(resume_from_checkpoint=True)
    (line,) = lines(tmp_path, "eval")
    assert line["eval_f"] == 0.5 and line["eval_r/1"] == 2


def test_no_number_is_never_the_best(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=6)
    left = iter([math.nan, 2.0, math.nan])
    trainer.evaluate = lambda *_: {"eval_loss": next(left)}  # type: ignore[method-assign]
    trainer.train()
    state = RunFolder(tmp_path / "run").checkpoints()[-1].state()
    assert (state.best_metric, state.best_step, state.evaluations_without_progress) == (2.0, 4, 1)


def test_a_metric_that_was_left_out_cannot_choose_the_best_model(tmp_path: Path) -> None:
    with (
        warnings.catch_warnings(),
        pytest.raises(ConfigError, match="'f' is not among the metrics of an evaluation") as caught,
    ):
        warnings.simplefilter("ignore", ConjoinWarning)
        trainer_of(tmp_path, lambda _: {"f": "good"}, metric_for_best_model="f").train()
    assert "checkpoint-2 was saved before it" in "".join(caught.value.__notes__)


def test_tensorboard_does_not_load_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code = f"""
import sys
from pathlib import Path
from conjoin.training.folder.recorder import open_sinks
from conjoin.training.folder.state import TrainerState
for sink in open_sinks(Path({str(tmp_path)!r}), TrainerState(), "tensorboard"):
    sink.write("train", 1, {{"loss": 0.5}})
    sink.close()
assert not {{"tensorflow", "tensorboard.compat.notf"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not done.stderr
    (events,) = (tmp_path / "events").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_an_evaluation_reads_the_relative_biases_of_its_step(tmp_path: Path) -> None:
    """They are tabulated once, and must be again after a step of the fused optimizer, which counts no versions."""
    size = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = stir(EncoderDecoderModel(config=T5Config(**size, decoder_start_token_id=0))).eval()
    ids = torch.randint(5, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model.encoder(ids).last_hidden_state.clone()
    parameters = {name: p for name, p in model.named_parameters() if "relative_bias" in name}
    assert parameters
    optimizing = build_optimizing(parameters, arguments(tmp_path, learning_rate=1.0), 4)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter).normal_()
    optimizing.set_rates(dict.fromkeys(optimizing.rates, 1.0))
    optimizing.optimizer.step()
    with torch.inference_mode():
        after = model.encoder(ids).last_hidden_state
        fresh = EncoderDecoderModel(config=model.config).eval()
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(after, fresh.encoder(ids).last_hidden_state, rtol=0, atol=0)
    assert (after - before).abs().max() > 1e-3
