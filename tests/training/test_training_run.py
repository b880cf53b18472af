"""A run evaluates, keeps the right checkpoints, stops when it should, and leaves a folder that tells its story."""

import json
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin import (
    ConfigError,
    ConjoinWarning,
    DataError,
    EncoderDecoderModel,
    FileError,
    Seq2SeqTrainer,
    TrainingError,
)
from conjoin.training import TrainerCallback
from conjoin.training.folder.run_folder import locked
from conjoin.training.loop.evaluator import EvalPrediction
from conjoin.training.world import Alone
from training_toys import arguments, toy_model, toy_rows, weights


def trainer_of(folder: Path, callbacks: Any = (), compute_metrics: Any = None, **changes: Any) -> Seq2SeqTrainer:
    return Seq2SeqTrainer(
        toy_model(folder),
        args=arguments(folder / "run", **changes),
        train_dataset=toy_rows(48),
        eval_dataset=toy_rows(12, 1),
        callbacks=callbacks,
        compute_metrics=compute_metrics,
    )


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def checkpoints(folder: Path) -> list[str]:
    return sorted((path.name for path in (folder / "run").glob("checkpoint-*")), key=lambda name: int(name[11:]))


def with_losses(trainer: Seq2SeqTrainer, losses: list[float]) -> Seq2SeqTrainer:
    left = iter(losses)
    trainer.evaluate = lambda *_: {"eval_loss": next(left)}  # type: ignore[method-assign]
    return trainer


def test_the_folder_of_a_run_has_everything(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path, eval_samples=2, predict_with_generate=True, metrics="bleu,exact_match", report_to="auto", doctor=True
    )
    out = trainer.train()
    run = tmp_path / "run"
    assert out.global_step == 6
    assert {"README.md", "config.json", "model.safetensors", "report.html", "attention.json", "events"} <= {
        path.name for path in run.iterdir()
    }
    train = lines(tmp_path, "train")
    assert [line["step"] for line in train] == [2, 4, 6]
    expected = {"loss", "lr_encoder", "lr_decoder", "lr_cross_attention", "grad_norm", "tokens_per_s"}
    assert all(expected | {"step", "epoch", "time_s", "kind"} == set(line) for line in train)
    (evaluation,) = lines(tmp_path, "eval")
    assert {"eval_loss", "eval_bleu", "eval_exact_match", "eval_runtime"} <= set(evaluation)
    samples = lines(tmp_path, "sample")
    assert [line["source"] for line in samples] == [row["source"] for row in toy_rows(12, 1)[:2]]
    assert all(set(line) == {"step", "kind", "epoch", "time_s", "source", "target", "prediction"} for line in samples)
    assert list((run / "events").iterdir())
    card = (run / "README.md").read_text()
    assert "| bleu |" in card and "48 pairs" in card
    again = EncoderDecoderModel.from_pretrained(run)
    torch.testing.assert_close(weights(again), weights(trainer.model), rtol=0, atol=0)
    assert again.tokenizer.batch_decode([[24, 3]], skip_special_tokens=True) == ["w1"]


def test_the_loss_of_an_evaluation_is_the_mean_over_labels(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, per_device_eval_batch_size=5)
    tokenizer, rows = trainer.tokenizer, toy_rows(12, 1)
    assert tokenizer is not None
    batch = tokenizer(
        [row["source"] for row in rows], text_target=[row["target"] for row in rows], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = trainer.model(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    by_tokens = trainer_of(tmp_path, tokens_per_batch=60)
    assert by_tokens.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_what_sources_tell_is_the_loss_that_others_sources_cost(tmp_path: Path) -> None:
    trainer, rows = trainer_of(tmp_path), toy_rows(12, 1)
    exchanged = [{**row, "source": rows[(place + 6) % 12]["source"]} for place, row in enumerate(rows)]
    own, others = (trainer.evaluate(data) for data in (rows, exchanged))
    assert own["eval_source_gain"] == pytest.approx(others["eval_loss"] - own["eval_loss"], abs=1e-5)
    assert "eval_source_gain" not in trainer.evaluate(rows[:1])


@pytest.mark.parametrize("gain", [0.001, 0.5])
def test_a_model_that_does_not_read_is_told_of(gain: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conjoin.training.loop.run.UNREAD_STEPS", 6)
    trainer = trainer_of(tmp_path)
    trainer.evaluate = lambda *_: {"eval_loss": 1.0, "eval_source_gain": gain}  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.train()
    assert any("does not read its sources" in str(one.message) for one in found) == (gain < 0.01)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_predictions_are_those_of_generate_in_order(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, per_device_eval_batch_size=5, generation_max_length=4)
    rows = toy_rows(12, 1)
    found = trainer.predict(rows)
    tokenizer: Any = trainer.tokenizer
    alone: list[str] = []
    for row in rows:
        ids = trainer.model.generate(tokenizer([row["source"]], return_tensors="pt")["input_ids"], max_new_tokens=4)
        alone += tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert found.predictions == alone
    assert "test_loss" in found.metrics


def test_compute_metrics_gets_ids(tmp_path: Path) -> None:
    def count(given: EvalPrediction) -> dict[str, float]:
        assert given.predictions.shape[0] == given.label_ids.shape[0] == 12
        assert (given.label_ids[:, 0] != -100).all()
        return {"many": 12.0}

    trainer = trainer_of(tmp_path, compute_metrics=count, metric_for_best_model="many", greater_is_better=True)
    trainer.train()
    assert lines(tmp_path, "eval")[0]["eval_many"] == 12.0


def test_the_best_and_the_last_checkpoint_are_kept(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_strategy="steps", eval_steps=1, save_total_limit=2)
    with_losses(trainer, [3.0, 1.0, 2.0, 2.5, 2.0, 2.0]).train()
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-6"]


def test_all_checkpoints_are_kept_without_a_limit(tmp_path: Path) -> None:
    trainer_of(tmp_path, save_steps=2, save_total_limit=None, eval_strategy="no").train()
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_final_model_may_be_the_best(ema: float | None, tmp_path: Path) -> None:
    kept: dict[int, Any] = {}

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            engine = trainer.engine()
            with engine.evaluation_mode():
                kept[state.global_step] = weights(keywords["model"])

    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps"}
    trainer = trainer_of(tmp_path, [Keep()], load_best_model_at_end=True, ema_decay=ema, **settings)
    with_losses(trainer, [3.0, 1.0, 2.0]).train()
    saved = EncoderDecoderModel.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(weights(saved), kept[4], rtol=0, atol=0)


def test_a_run_stops_early(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 20}
    trainer = trainer_of(tmp_path, early_stopping_patience=2, early_stopping_threshold=0.1, **settings)
    out = with_losses(trainer, [3.0, 2.0, 1.95, 1.92, 0.1]).train()
    assert out.global_step == 4


WITH_TEXTS: dict[str, Any] = {"predict_with_generate": True, "metrics": "rouge,bleu"}


@pytest.mark.parametrize(
    "changes", [{"metric_for_best_model": "rougeL"}, {"metric_for_best_model": "chrf"} | WITH_TEXTS]
)
def test_a_metric_that_is_not_computed_is_told_before_the_first_step(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"metric_for_best_model = '\w+' is not among .*: loss, source_gain, .*runtime"
    ):
        trainer_of(tmp_path, **changes).train()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["eval_rougeL", "bleu"])
def test_a_metric_that_is_computed_may_choose_the_best_model(name: str, tmp_path: Path) -> None:
    trainer_of(tmp_path, metric_for_best_model=name, **WITH_TEXTS).train()
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_metric"] == lines(tmp_path, "eval")[-1][f"eval_{name.removeprefix('eval_')}"]


def test_a_metric_of_the_user_s_own_is_looked_for_when_it_is_computed(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, compute_metrics=lambda _: {"many": 1.0}, metric_for_best_model="few")
    with pytest.raises(ConfigError, match=r"metric_for_best_model = 'few' is not among .*: loss, source_gain, many"):
        trainer.train()


@pytest.mark.parametrize(
    "changes", [{"early_stopping_patience": 1}, {"load_best_model_at_end": True}, {"metric_for_best_model": "rougeL"}]
)
def test_settings_that_need_evaluations_are_refused_without(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"No evaluation is made, but it is asked for: {next(iter(changes))}"):
        trainer_of(tmp_path, eval_strategy="no", **changes).train()


def test_a_frozen_model_is_evaluated(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.model.requires_grad_(False)
    assert trainer.evaluate()["eval_loss"] > 0


def test_callbacks_may_ask_for_things(tmp_path: Path) -> None:
    calls: list[str] = []

    class Ask(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            calls.append("begin")

        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            control.should_save = state.global_step == 1
            control.should_evaluate = state.global_step == 2
            control.should_training_stop = state.global_step == 3

        def on_save(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            calls.append(f"save {state.global_step}")

        def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            calls.append(f"evaluate {state.global_step}")

        def on_train_end(self, *_: Any, **__: Any) -> None:
            calls.append("end")

    trainer_of(tmp_path, [Ask()], eval_strategy="no", save_strategy="steps").train()
    assert calls == ["begin", "save 1", "evaluate 2", "save 3", "end"]


def test_the_doctor_stops_a_training_that_is_bound_to_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of(tmp_path, doctor=True)
    with torch.no_grad():
        for block in trainer.model.decoder.blocks:
            block.cross_attn.o.weight.zero_()
    with pytest.raises(TrainingError, match=r"source: .*does not read the encoder"):
        trainer.train()
    assert "cross_attention" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    trainer.args.doctor = False
    trainer.train()


def test_a_start_that_generation_does_not_have_stops_it(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, doctor=True)
    trainer.model.generation_config.decoder_start_token_id = 7
    with pytest.raises(TrainingError, match=r"start: training starts with id 2, generation with 7"):
        trainer.train()


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_pairs(tmp_path: Path) -> None:
    class Spoil(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            if state.global_step == 3:
                with torch.no_grad():
                    keywords["model"].decoder.embed.words.weight.fill_(float("nan"))

    trainer = trainer_of(tmp_path, [Spoil()], save_steps=2)
    with pytest.raises(TrainingError, match=r"at step 4 \(batch: the training data, lines .*checkpoint-2 is whole"):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    assert all(line["step"] < 4 for line in lines(tmp_path, "train"))


def test_out_of_memory_says_what_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(trainer.model.encoder, "forward", fail)
    with pytest.raises(TrainingError, match=r"Out of memory at step 1, with sources of \(8, \d+\)") as caught:
        trainer.train()
    assert "--tokens-per-batch" in str(caught.value)


def test_a_folder_with_a_run_is_not_overwritten_by_mistake(tmp_path: Path) -> None:
    trainer_of(tmp_path, max_steps=1).train()
    with pytest.raises(TrainingError, match=r"holds a run already \(checkpoint-1\)"):
        trainer_of(tmp_path, max_steps=2).train()
    trainer_of(tmp_path, max_steps=2, overwrite_output_dir=True).train()
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    assert [line["step"] for line in lines(tmp_path, "train")] == [2]


@pytest.mark.parametrize("fault", ["batches", "doctor", "engine"])
def test_an_old_run_stays_until_the_new_one_can_start(fault: str, tmp_path: Path) -> None:
    trainer_of(tmp_path, max_steps=1).train()
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    changes = {"batches": {"tokens_per_batch": 2}, "doctor": {"doctor": True}, "engine": {"freeze": "encoder,decoder"}}
    trainer = trainer_of(tmp_path, overwrite_output_dir=True, **changes[fault])
    if fault == "doctor":
        trainer.model.generation_config.decoder_start_token_id = 7
    with pytest.raises((DataError, TrainingError)):
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-1"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, overwrite_output_dir=True)
    with locked(Alone(), tmp_path / "run"), pytest.raises(FileError, match="run: another process is writing it"):
        trainer.train()
    assert not (tmp_path / "run").exists()
    trainer.train()
    with locked(Alone(), tmp_path / "run"), pytest.raises(FileError, match="run: another process is writing it"):
        trainer.train(resume_from_checkpoint=True)
    assert not list(tmp_path.glob(".run.*"))


def test_the_lock_of_a_killed_run_holds_nobody_up(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from conjoin.training.world import Alone
from conjoin.training.folder.run_folder import locked
with locked(Alone(), Path({str(tmp_path / "run")!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / ".run.lock").is_file()
    trainer_of(tmp_path, max_steps=1).train()
    assert not list(tmp_path.glob(".run.*"))


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_folder_that_cannot_be_written_is_told_first(out: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trainer = trainer_of(tmp_path)
    trainer.args.output_dir = str(tmp_path / out)
    with pytest.raises(FileError, match=f"{out}: cannot be written: "):
        trainer.train()


def test_a_model_in_8_bits_is_not_trained(tmp_path: Path) -> None:
    toy_model(tmp_path).quantize().save_pretrained(tmp_path / "small")
    for model in (toy_model(tmp_path).quantize(), EncoderDecoderModel.from_pretrained(tmp_path / "small")):
        trainer = Seq2SeqTrainer(model, args=arguments(tmp_path / "run"), train_dataset=toy_rows(8))
        with pytest.raises(ConfigError, match=r"8 bits, which is for inference only: it cannot be trained"):
            trainer.train()
    assert not (tmp_path / "run").exists()


def test_ids_outside_the_vocabulary_are_told_before_the_run(tmp_path: Path) -> None:
    rows = [{"input_ids": [2, 80, 3], "labels": [7, 3]}]
    with pytest.raises(DataError, match="source ids go from 0 to 80, but the encoder's vocabulary has 25") as caught:
        Seq2SeqTrainer(toy_model(), args=arguments(tmp_path), train_dataset=rows)
    assert "resize_token_embeddings(encoder=" in str(caught.value)


def test_ids_need_no_tokenizer(tmp_path: Path) -> None:
    rows = [{"input_ids": [2, 8, 3, 0], "attention_mask": [1, 1, 1, 0], "labels": [7, 3, -100]}] * 8
    trainer = Seq2SeqTrainer(toy_model(), args=arguments(tmp_path / "run"), train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.predict(rows).predictions.shape[0] == 8


def test_long_pairs_are_cut_with_a_warning(tmp_path: Path) -> None:
    rows = [{"source": "w1 " * 50, "target": "w2 " * 50}]
    with pytest.warns(ConjoinWarning, match="1 of 1 pairs fill or exceed 32 source and 32 target tokens"):
        trainer = Seq2SeqTrainer(toy_model(tmp_path), args=arguments(tmp_path / "run"), train_dataset=rows)
    assert trainer.train_examples is not None
    assert trainer.train_examples.lengths.tolist() == [[32, 32]]
    assert trainer.train_examples.labels[0][-1] == 3


def test_one_tokenizer_for_both_sides_gets_an_end(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    single: Any = model.tokenizer
    trainer = Seq2SeqTrainer(model, single.source, arguments(tmp_path / "run"), train_dataset=toy_rows(4))
    assert trainer.train_examples is not None
    labels = trainer.train_examples.labels
    assert all(labels[row][-1] == 3 and labels[row][0] != 2 for row in range(4))
