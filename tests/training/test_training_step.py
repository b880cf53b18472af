"""A step is right: its loss, its gradients, its learning rates, what it trains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conjoin import ConfigError, EncoderDecoderModel, Seq2SeqTrainer, TrainingArguments, TrainingError
from conjoin.errors import ConjoinWarning
from conjoin.training import TrainerCallback
from conjoin.training.loop.engine import Terms
from conjoin.training.loop.schedules import group_of
from conjoin.training.torch.engine import Engine
from conjoin.training.torch.world import World
from lanes import lanes
from training_toys import arguments, halves, toy_model, toy_rows, weights

ALONE = World(0, 1, torch.device("cpu"))
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


class Gradients(Engine):
    """An engine that keeps the gradients of its last step, and updates nothing."""

    found: dict[str, Tensor]

    def _update(self) -> Tensor:
        self.found = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}
        self.model.zero_grad()
        return torch.zeros(())


def gradients(
    model: EncoderDecoderModel, folder: Path, rows: int, terms: Terms | None = None, **changes: Any
) -> dict[str, Tensor]:
    """Gradients of 16 pairs in one step, in batches of so many rows."""
    args = arguments(folder, **changes)
    trainer = Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(16))
    examples = trainer.train_examples
    assert examples is not None
    engine = Gradients(model, args, ALONE, 10)
    engine.terms = terms or engine.terms
    batches = [[[index] for index in range(at, at + rows)] for at in range(0, 16, rows)]
    engine.step(1, examples, batches, int(examples.labels.lengths.sum()))
    return engine.found


def test_steps_without_dropout_are_those_of_a_model_without_it(tmp_path: Path) -> None:
    plain = gradients(toy_model(tmp_path), tmp_path, 8)
    with_dropout = gradients(toy_model(tmp_path, dropout=0.3), tmp_path, 8)
    without = gradients(toy_model(tmp_path, dropout=0.3), tmp_path, 8, terms=Terms(dropout=False))
    assert any(not torch.allclose(with_dropout[name], plain[name], **CLOSE) for name in plain)
    torch.testing.assert_close(without, plain, **CLOSE)


def test_terms_scale_and_place_the_rates(tmp_path: Path) -> None:
    args = arguments(tmp_path, learning_rate=1e-2, encoder_learning_rate=1e-3, warmup_steps=0)
    engine = Engine(toy_model(tmp_path), args, ALONE, 10)
    engine.terms = Terms(position=5.5, rate_scale=0.5)
    assert engine.rates_at(1) == pytest.approx({"encoder": 2.75e-4, "decoder": 2.75e-3, "cross_attention": 2.75e-3})


@pytest.mark.parametrize("rows", [8, 2])
@pytest.mark.parametrize("changes", [{}, {"label_smoothing_factor": 0.1}, {"gradient_checkpointing": True}])
def test_accumulation_changes_no_gradient(rows: int, changes: dict[str, Any], tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    once = gradients(model, tmp_path, 16, **changes)
    torch.testing.assert_close(gradients(model, tmp_path, rows, **changes), once, **CLOSE)


def test_the_loss_of_a_step_is_the_mean_over_its_labels(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    rows = toy_rows(6)
    batch = model.tokenizer(
        [row["source"] for row in rows],
        text_target=[row["target"] for row in rows],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits, labels = model(**batch).logits, batch["labels"]
        expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2).item()
    args = arguments(tmp_path / "run", max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    out = Seq2SeqTrainer(model, args=args.copy(label_smoothing_factor=0.2), train_dataset=rows).train()
    assert out.training_loss == pytest.approx(expected, rel=1e-5)


class Rates(TrainerCallback):
    """Notes the learning rates that every step had."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
        self.found.append({name: value for name, value in logs.items() if name.startswith("lr_")})


def test_liu_and_lapata_s_two_optimizers(tmp_path: Path) -> None:
    rates = Rates()
    args = arguments(tmp_path / "run", two_optimizers=True, max_steps=3, logging_steps=1)
    trainer = Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=toy_rows(24), callbacks=[rates])
    trainer.train()
    for step, found in enumerate(rates.found, 1):
        encoder, decoder = (r * min(step**-0.5, step * w**-1.5) for r, w in ((0.002, 20000), (0.2, 10000)))
        assert found == pytest.approx({"lr_encoder": encoder, "lr_decoder": decoder, "lr_cross_attention": decoder})
    assert {group["betas"] for group in trainer.engine().optimizing.optimizer.param_groups} == {(0.9, 0.999)}


def test_two_optimizers_take_other_rates() -> None:
    args = TrainingArguments(two_optimizers=True, decoder_learning_rate=0.1, encoder_warmup_steps=5)
    assert args.of_group("learning_rate", "cross_attention") == 0.1
    assert args.of_group("warmup_steps", "encoder") == 5
    assert args.of_group("learning_rate", "encoder") == 0.002


def test_every_parameter_is_in_its_part_s_group(tmp_path: Path) -> None:
    model = toy_model()
    trainer = Seq2SeqTrainer(model, args=arguments(tmp_path, weight_decay=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = trainer.engine().optimizing.optimizer.param_groups
    for group in groups:
        for parameter in group["params"]:
            assert group_of(names[id(parameter)]) == group["name"]
            assert group["weight_decay"] == (0.1 if parameter.dim() > 1 else 0.0)
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert group_of("enc_to_dec_proj.weight") == "cross_attention"


class Snapshots(TrainerCallback):
    """Notes which parameters every step changed."""

    def __init__(self, model: EncoderDecoderModel) -> None:
        self.before = weights(model)
        self.changed: list[set[str]] = []

    def on_step_end(self, *_: Any, model: EncoderDecoderModel, **__: Any) -> None:
        now = weights(model)
        self.changed.append({name for name, value in now.items() if not torch.equal(value, self.before[name])})
        self.before = now


def test_fresh_parameters_are_trained_alone_first(tmp_path: Path) -> None:
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(*halves(tmp_path))
    fresh = set(model.join_report.fresh)
    assert {group_of(name) for name in fresh} == {"cross_attention"}
    watch = Snapshots(model)
    args = arguments(tmp_path / "run", fresh_first=2, max_steps=3)
    Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(32), callbacks=[watch]).train()
    assert watch.changed[0] == watch.changed[1] == fresh
    assert watch.changed[2] == {name for name, _ in model.named_parameters()}


def test_fresh_parameters_of_a_joined_folder_are_trained_alone_first(tmp_path: Path) -> None:
    """As `conjoin join` writes it and `conjoin train --model` reads it: config.json says what is fresh."""
    EncoderDecoderModel.from_encoder_decoder_pretrained(*halves(tmp_path)).save_pretrained(tmp_path / "joined")
    model = EncoderDecoderModel.from_pretrained(tmp_path / "joined")
    fresh = {name for name, _ in model.named_parameters() if group_of(name) == "cross_attention"}
    assert set(model.join_report.fresh) == fresh
    watch = Snapshots(model)
    args = arguments(tmp_path / "run", fresh_first=2, max_steps=3)
    Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(32), callbacks=[watch]).train()
    assert watch.changed[0] == watch.changed[1] == fresh
    assert watch.changed[2] == {name for name, _ in model.named_parameters()}
    model.save_pretrained(tmp_path / "trained")
    trained = EncoderDecoderModel.from_pretrained(tmp_path / "trained")
    with pytest.raises(ConfigError, match="no parameter is fresh: the model was loaded whole, or it is trained"):
        Seq2SeqTrainer(trained, args=replace(args, output_dir=str(tmp_path / "b")), train_dataset=toy_rows(8)).train()


def test_fresh_first_of_a_whole_model_is_refused(tmp_path: Path) -> None:
    toy_model(tmp_path).save_pretrained(tmp_path / "model")
    model = EncoderDecoderModel.from_pretrained(tmp_path / "model")
    args = arguments(tmp_path / "run", fresh_first=2)
    with pytest.raises(ConfigError, match="no parameter is fresh"):
        Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(8)).train()


def test_frozen_parts_stay(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    watch = Snapshots(model)
    args = arguments(tmp_path / "run", freeze="encoder, decoder.embedding", max_steps=1)
    Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(8), callbacks=[watch]).train()
    assert not [name for name in watch.changed[0] if name.startswith(("encoder.", "decoder.embed"))]
    assert watch.changed[0]


def test_nothing_to_train_is_refused(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="Every parameter is frozen"):
        Seq2SeqTrainer(model, args=arguments(tmp_path / "run"), train_dataset=toy_rows(8)).train()


def trained(folder: Path, name: str, **changes: Any) -> tuple[EncoderDecoderModel, Seq2SeqTrainer]:
    model = toy_model(folder)
    trainer = Seq2SeqTrainer(model, args=arguments(folder / name, **changes), train_dataset=toy_rows(64))
    trainer.train()
    return model, trainer


def test_gradients_are_clipped(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    args = arguments(tmp_path / "run", max_grad_norm=1e-3, max_steps=1, learning_rate=1.0, adam_epsilon=1e3)
    before = weights(model)
    Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(8)).train()
    after = weights(model)
    # With so large an epsilon, Adam's first step is gradient * rate / epsilon.
    moved = torch.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in before))
    assert moved.item() == pytest.approx(1e-3 * 1.0 / 1e3, rel=0.05)


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path, "plain")
    spared, _ = trained(tmp_path, "spared", gradient_checkpointing=True)
    torch.testing.assert_close(weights(plain), weights(spared), **CLOSE)


@pytest.mark.parametrize("half", lanes(["bf16", "fp16"], "bf16".__eq__))
def test_half_precision_trains_like_full(half: str, tmp_path: Path) -> None:
    _, full = trained(tmp_path, "full", max_steps=20, learning_rate=3e-3)
    model, low = trained(tmp_path, half, max_steps=20, learning_rate=3e-3, **{half: True})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    losses = [trainer.evaluate(toy_rows(16, 1))["eval_loss"] for trainer in (full, low)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_average_is_that_of_the_formula(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    expected = weights(model)

    class Follow(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            decay = min(0.5, (1 + state.global_step) / (10 + state.global_step))
            for name, value in weights(keywords["model"]).items():
                expected[name] = decay * expected[name] + (1 - decay) * value

    args = arguments(tmp_path / "run", ema_decay=0.5, max_steps=5)
    trainer = Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(64), callbacks=[Follow()])
    trainer.train()
    torch.testing.assert_close(weights(model), expected, **CLOSE)
    saved = EncoderDecoderModel.from_pretrained(tmp_path / "run")
    torch.testing.assert_close(weights(saved), expected, **CLOSE)


def test_a_packed_run_does_what_the_padded_one_does(tmp_path: Path) -> None:
    runs: list[EncoderDecoderModel] = []
    for packing in (False, True):
        model = toy_model(tmp_path)
        args = arguments(
            tmp_path / f"{packing}", tokens_per_batch=4000, packing=packing, max_steps=3, max_grad_norm=0.0
        )
        Seq2SeqTrainer(model, args=args, train_dataset=toy_rows(64)).train()
        runs.append(model)
    torch.testing.assert_close(weights(runs[1]), weights(runs[0]), rtol=1e-3, atol=1e-4)


def test_a_model_learns(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    args = arguments(
        tmp_path / "run", max_steps=80, learning_rate=1e-2, warmup_steps=10, tokens_per_batch=600, logging_steps=50
    )
    rows = toy_rows(300, longest=2)
    trainer = Seq2SeqTrainer(model, args=args, train_dataset=rows, eval_dataset=rows[:40])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.85 * before


def test_a_run_whose_warm_up_leaves_it_no_rate_says_so_before_it_starts(tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", max_steps=1, warmup_steps=0.1)
    with pytest.warns(ConjoinWarning, match=r"the run has 1 step, and with warmup_steps = 0\.1"):
        Seq2SeqTrainer(toy_model(tmp_path), args=args, train_dataset=toy_rows(8)).train()
