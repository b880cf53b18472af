"""transformers' trainer with our mixin saves what from_pretrained loads; it resumes, and restores the best model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle_training
from conjoin import EncoderDecoderConfig, EncoderDecoderModel
from conjoin.errors import ShapeError, TrainingError
from conjoin.tokenizer import TokenizerPair
from training_toys import SOURCE_WORDS, decoder_config, encoder_config, tokenizers, toy_model, toy_rows, weights

SHARES = ["none", "embeddings", "all"]


def make(folder: Path, share: str = "none", seed: int = 0) -> EncoderDecoderModel:
    """The toy model, or one whose halves have sizes that can be shared."""
    if share == "none":
        return toy_model(folder, seed)
    torch.manual_seed(seed)
    sizes = {"vocab_size": len(SOURCE_WORDS), "hidden_size": 20, "num_attention_heads": 5}
    ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    pair = (encoder_config(**sizes), decoder_config(**sizes))
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(*pair, **ids, share=share))
    source = tokenizers(folder).source
    model.tokenizer = TokenizerPair(source, source)
    return model


def rows_of(model: EncoderDecoderModel, count: int = 16) -> list[dict[str, list[int]]]:
    rows = toy_rows(count)
    made = model.tokenizer([row["source"] for row in rows], text_target=[row["target"] for row in rows])
    names = ("input_ids", "attention_mask", "labels")
    return [dict(zip(names, row, strict=True)) for row in zip(*(made[name] for name in names), strict=True)]


def trainer_of(model: Any, folder: Path, *, of: EncoderDecoderModel | None = None, **arguments: Any) -> Any:
    """A trainer; with `of`, the model whose tokenizers make the rows."""
    own = model if of is None else of
    return oracle_training.saving_trainer(model, own.tokenizer, rows_of(own), folder, **arguments)


def batch_of(model: EncoderDecoderModel) -> dict[str, Tensor]:
    return oracle_training.collator(model.tokenizer)(rows_of(model, 4))


def check_equal(one: EncoderDecoderModel, other: EncoderDecoderModel) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)


@pytest.mark.parametrize("share", SHARES)
def test_what_it_saves_loads_with_equal_logits_and_tokenizers(share: str, tmp_path: Path) -> None:
    model = make(tmp_path, share)
    trainer = trainer_of(model, tmp_path / "run", max_steps=2)
    trainer.train()
    trainer.save_model()
    batch = batch_of(model)
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        loaded = EncoderDecoderModel.from_pretrained(folder)
        with torch.no_grad():
            assert torch.equal(loaded.eval()(**batch).logits, model.eval()(**batch).logits)
        assert {**loaded.tokenizer("w1 w2", text_target="w3")} == {**model.tokenizer("w1 w2", text_target="w3")}
        assert (folder / "training_args.bin").is_file()
        assert loaded.spec.share == share


@pytest.mark.parametrize("share", SHARES)
def test_a_resumed_run_ends_as_an_uninterrupted_one(share: str, tmp_path: Path) -> None:
    whole = trainer_of(make(tmp_path, share), tmp_path / "run", max_steps=6)
    whole.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")  # as if it had been killed behind step 4
    resumed = trainer_of(make(tmp_path, share, seed=1), tmp_path / "run", max_steps=6)
    resumed.train(resume_from_checkpoint=True)
    check_equal(resumed.model, whole.model)
    losses = [[log["loss"] for log in t.state.log_history if "loss" in log] for t in (resumed, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.parametrize("share", ["none", "all"])
def test_the_best_model_is_restored(share: str, tmp_path: Path) -> None:
    model = make(tmp_path, share)
    diverging = {"optim": "sgd", "learning_rate": 10.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer = trainer_of(model, tmp_path / "run", max_steps=6, **diverging, **best)
    trainer.train()
    assert trainer.state.best_global_step < 6
    check_equal(model, EncoderDecoderModel.from_pretrained(trainer.state.best_model_checkpoint))
    last = weights(EncoderDecoderModel.from_pretrained(tmp_path / "run" / "checkpoint-6"))
    assert any(not torch.equal(value, last[name]) for name, value in weights(model).items())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric)


def test_it_goes_on_from_the_checkpoints_of_a_trainer_without_it(tmp_path: Path) -> None:
    whole = trainer_of(make(tmp_path), tmp_path / "run", max_steps=4, mixed=False)
    whole.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert not (tmp_path / "run" / "checkpoint-2" / "config.json").exists()
    resumed = trainer_of(make(tmp_path, seed=1), tmp_path / "run", max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    check_equal(resumed.model, whole.model)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer_of(make(tmp_path), tmp_path / "run", max_steps=2).train()
    other = make(tmp_path, "embeddings")
    with pytest.raises(TrainingError, match="another model"):
        trainer_of(other, tmp_path / "run", max_steps=4).train(resume_from_checkpoint=True)


def test_a_gathered_state_is_what_is_saved(tmp_path: Path) -> None:
    model = make(tmp_path, "all")
    trainer = trainer_of(model, tmp_path / "run", max_steps=2)
    state = {f"_orig_mod.{name}": value + 1 for name, value in model.state_dict().items()}
    del state["_orig_mod.decoder.embed.words.weight"]  # the encoder's is the same
    trainer._save(str(tmp_path / "saved"), state_dict=state)
    expected = {name: value + 1 for name, value in weights(model).items()}
    torch.testing.assert_close(weights(EncoderDecoderModel.from_pretrained(tmp_path / "saved")), expected)


def test_a_gathered_state_that_lacks_parameters_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path)
    trainer = trainer_of(model, tmp_path / "run", max_steps=2)
    state = model.state_dict()
    state.pop("decoder.blocks.0.cross_attn.q.weight")
    with pytest.raises(TrainingError, match=r"lacks 1 of \d+ parameters[^?]*stage3_gather_16bit_weights_on_model_save"):
        trainer._save(str(tmp_path / "saved"), state_dict=state)
    assert not (tmp_path / "saved").exists()


def test_only_the_writing_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(make(tmp_path), tmp_path / "run", max_steps=2)
    monkeypatch.setattr(type(trainer.args), "should_save", False)
    trainer._save(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def test_the_trainers_tokenizer_is_saved_where_the_model_has_none(tmp_path: Path) -> None:
    model, pair = toy_model(), tokenizers(tmp_path)
    trainer = trainer_of(model, tmp_path / "run", of=make(tmp_path), max_steps=2, processing_class=pair)
    trainer.save_model()
    loaded = EncoderDecoderModel.from_pretrained(tmp_path / "run")
    assert {**loaded.tokenizer("w1 w2", text_target="w3")} == {**pair("w1 w2", text_target="w3")}


def test_a_save_keeps_what_else_is_in_the_folder_and_the_age_of_checkpoints(tmp_path: Path) -> None:
    trainer = trainer_of(make(tmp_path), tmp_path / "run", max_steps=4)
    trainer.train()
    kept = [path for path in (tmp_path / "run").rglob("*.*") if path.name in ("optimizer.pt", "rng_state.pth")]
    files = {path: path.read_bytes() for path in kept}
    age = (tmp_path / "run" / "checkpoint-2").stat().st_mtime_ns
    trainer._save(str(tmp_path / "run" / "checkpoint-4"))
    trainer.save_model()
    assert len(files) == 4 and all(path.read_bytes() == held for path, held in files.items())
    assert (tmp_path / "run" / "checkpoint-2").stat().st_mtime_ns == age


def test_adapters_of_peft_are_saved_resumed_and_restored_by_the_trainer(tmp_path: Path) -> None:
    runs: list[Any] = []
    for seed in (0, 0):
        model = make(tmp_path, seed=seed)
        adapted = oracle_training.lora(model, ["q", "v"], task_type="SEQ_2_SEQ_LM")
        best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
        runs.append(trainer_of(adapted, tmp_path / "run", of=model, max_steps=4, **best))
    whole, resumed = runs
    whole.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed.train(resume_from_checkpoint=True)
    check_equal(resumed.model, whole.model)
    found = oracle_training.with_adapter(make(tmp_path), Path(resumed.state.best_model_checkpoint))
    with torch.no_grad():
        batch = batch_of(make(tmp_path))
        assert torch.equal(found.eval()(**batch).logits, whole.model.eval()(**batch).logits)


@pytest.mark.parametrize("wrapped", [False, True])
def test_label_smoothing_trains_on_batches_of_sources_and_labels(wrapped: bool, tmp_path: Path) -> None:
    """transformers' trainer takes the labels out of the batch; decoder inputs are made of them first."""
    model = make(tmp_path)
    given = oracle_training.lora(model, ["q"], task_type="SEQ_2_SEQ_LM") if wrapped else model
    settings: dict[str, Any] = {
        "label_smoothing_factor": 0.1,
        "max_steps": 1,
        "learning_rate": 0.0,
        "lr_scheduler_type": "constant",
    }
    trainer = trainer_of(given, tmp_path / "run", of=model, **settings, eval_strategy="no")
    seen: list[dict[str, Tensor]] = []
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append(collate(rows)) or seen[-1]
    trainer.train()
    with torch.no_grad():
        expected = model(**seen[0], smoothing=0.1).loss.item()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-4)
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))


def test_without_the_mixin_the_error_says_what_the_batch_must_have(tmp_path: Path) -> None:
    trainer = trainer_of(make(tmp_path), tmp_path / "run", mixed=False, label_smoothing_factor=0.1, max_steps=1)
    with pytest.raises(
        ShapeError, match=r"needs decoder_input_ids in it: model\.prepare_decoder_input_ids_from_labels"
    ):
        trainer.train()
