"""A pair whose encoder is a module of the caller's, trained by the trainer on rows that a data set computes."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from conjoin import ConfigError, ConjoinWarning, DataError, EncoderDecoderModel, Seq2SeqTrainer, TrainingError
from conjoin.cli import app
from conjoin.training import RawText, TrainerCallback, TrainingArguments
from conjoin.training.torch.snapshots import put_back, take
from training_toys import arguments, halves

IDS: dict[str, Any] = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
COLOURS = {"w1 w4": (1.0, 0.0, 0.0), "w2": (0.0, 1.0, 0.0), "w3 w5 w6": (0.0, 0.0, 1.0)}
Rows = list[dict[str, Any]]


class Cnn(nn.Module):
    """Pictures of 8 x 8 to a map of 2 x 2."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.Dropout(0.1), nn.Conv2d(width, width, 1)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.layers(pictures)


class Sounds(nn.Module):
    """Sounds of any length to a state for every four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 10)

    def forward(self, sounds: Tensor) -> Tensor:
        return self.layer(sounds.unflatten(1, (-1, 4)))


def picture(colour: tuple[float, ...], draw: np.random.Generator) -> Tensor:
    """A colour, and some noise."""
    plain = torch.tensor(colour)[:, None, None].expand(3, 8, 8)
    return plain + torch.from_numpy(draw.normal(0, 0.1, (3, 8, 8)).astype(np.float32))


def pictures(count: int, seed: int = 0) -> Rows:
    """Pictures and what they show."""
    draw, names = np.random.default_rng(seed), list(COLOURS)
    shown = [names[int(draw.integers(len(names)))] for _ in range(count)]
    return [{"pixel_values": picture(COLOURS[name], draw), "target": name} for name in shown]


class Augmented:
    """Pictures that are computed when they are asked for, each time otherwise, by all three generators."""

    def __init__(self, count: int) -> None:
        self.rows, self.asked = pictures(count), list[int]()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.asked.append(number)
        row = self.rows[number]
        moved = torch.roll(row["pixel_values"], random.randrange(3), -1) * np.random.uniform(0.9, 1.1)
        return {**row, "pixel_values": (moved + torch.randn(3, 8, 8) / 10).float()}


class Stop(TrainerCallback):
    """Raises at the end of a step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def model_of(folder: Path, encoder: nn.Module | None = None, seed: int = 1, **more: Any) -> Any:
    """A module joined to a decoder of words."""
    decoder = halves(folder)[1]
    torch.manual_seed(seed)
    return EncoderDecoderModel(encoder=encoder or Cnn(), decoder=decoder, encoder_width=10, **IDS, **more)


def state_of(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def log_of(run: Path) -> Rows:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_what_pictures_show_and_comes_back_with_its_encoder(tmp_path: Path) -> None:
    args = arguments(
        tmp_path / "run",
        max_steps=60,
        learning_rate=3e-2,
        gradient_accumulation_steps=2,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=20,
        doctor=True,
        predict_with_generate=True,
        metrics="exact_match",
        metric_for_best_model="exact_match",
        load_best_model_at_end=True,
        early_stopping_patience=9,
        eval_samples=2,
    )
    model = model_of(tmp_path)
    before = state_of(model)
    unseen = pictures(12, seed=5)
    trainer = Seq2SeqTrainer(model=model, args=args, train_dataset=pictures(48), eval_dataset=unseen)
    trainer.train()
    log = log_of(tmp_path / "run")
    losses = [line["loss"] for line in log if line["kind"] == "train"]
    assert losses[-1] < losses[0] / 4
    last = [line for line in log if line["kind"] == "eval"][-1]
    assert last["eval_exact_match"] == 100.0
    assert last["eval_source_gain"] > 1
    samples = [line for line in log if line["kind"] == "sample"][-2:]
    assert [line["source"] for line in samples] == ["the validation data, row 1", "the validation data, row 2"]
    assert [line["prediction"] for line in samples] == [row["target"] for row in unseen[:2]]
    assert not torch.equal(before["encoder.module.layers.0.weight"], state_of(model)["encoder.module.layers.0.weight"])

    again: Any = EncoderDecoderModel.from_pretrained(tmp_path / "run", encoder=Cnn())
    torch.testing.assert_close(state_of(again), state_of(model), rtol=0, atol=0)
    batch = torch.stack([row["pixel_values"] for row in unseen])
    written = again.tokenizer.batch_decode(again.generate(batch, max_new_tokens=6), skip_special_tokens=True)
    assert written == [row["target"] for row in unseen]
    assert trainer.predict(unseen).predictions == written
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'from_pretrained("run", encoder=module)' in card
    assert "A `Cnn` of the caller's as encoder" in card
    assert "recipe.yaml" not in card


VARIANTS: list[dict[str, Any]] = [
    {"eval_strategy": "steps", "eval_steps": 3, "gradient_accumulation_steps": 2},
    {"ema_decay": 0.9, "train_sampling_strategy": "random", "r_drop": 0.5, "bf16": True},
    {"fresh_first": 3, "freeze": "encoder", "doctor": True, "recover": True},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: next(iter(changes)))
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    def trainer_of(folder: Path, callbacks: Any = (), seed: int = 1) -> Seq2SeqTrainer:
        args = arguments(folder / "run", save_steps=2, max_steps=9, per_device_train_batch_size=5, **changes)
        rows = {"train_dataset": Augmented(18), "eval_dataset": Augmented(7) if "eval_strategy" in changes else None}
        return Seq2SeqTrainer(model_of(folder, seed=seed), args=args, callbacks=callbacks, **rows)

    whole = trainer_of(tmp_path / "whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "cut", [Stop()]).train()
    resumed = trainer_of(tmp_path / "cut", seed=8)
    resumed.train(resume_from_checkpoint=True)
    torch.testing.assert_close(state_of(resumed.model), state_of(whole.model), rtol=0, atol=0)


def test_a_row_is_computed_once_in_every_pass(tmp_path: Path) -> None:
    rows = Augmented(10)
    args = arguments(tmp_path / "run", max_steps=6, per_device_train_batch_size=4)
    trainer = Seq2SeqTrainer(model_of(tmp_path), args=args, train_dataset=rows)
    rows.asked.clear()
    trainer.train()
    assert [sorted(rows.asked[at : at + 10]) for at in (0, 10)] == [list(range(10))] * 2
    assert rows.asked[:10] != rows.asked[10:]


def test_rows_may_come_many_at_once_and_from_a_data_set_of_the_hub(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = [{"pixel_values": row["pixel_values"].tolist(), "target": row["target"]} for row in pictures(9)]
    args = arguments(tmp_path / "run", max_steps=2)
    both = [model_of(tmp_path) for _ in range(2)]
    of_hub = datasets.Dataset.from_list(plain).with_format("torch")
    for model, rows in zip(both, (of_hub, pictures(9)), strict=True):
        Seq2SeqTrainer(model, args=args.copy(overwrite_output_dir=True), train_dataset=rows).train()
    torch.testing.assert_close(state_of(both[0]), state_of(both[1]))


def sounds(count: int) -> Rows:
    """Sounds of different lengths, with labels in ids of the decoder's."""
    draw = np.random.default_rng(2)
    return [
        {"input_features": draw.normal(0, 1, 4 * (1 + n % 3)).astype(np.float32), "labels": [6 + n % 4, 9, 3][n % 2 :]}
        for n in range(count)
    ]


def padded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """A collator of the caller's: padding, its mask, and decoder inputs."""
    values = [torch.from_numpy(row["input_features"]) for row in rows]
    labels = nn.utils.rnn.pad_sequence([torch.tensor(row["labels"]) for row in rows], True, -100)
    inputs = torch.cat((torch.full_like(labels[:, :1], 4), labels[:, :-1].clamp(min=0)), 1)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(value) // 4) for value in values], True)
    return {
        "input_features": nn.utils.rnn.pad_sequence(values, True),
        "attention_mask": mask.long(),
        "decoder_input_ids": inputs,
        "labels": labels,
    }


def test_a_collator_of_the_callers_pads_as_it_likes(tmp_path: Path) -> None:
    model = model_of(tmp_path, Sounds(), encoder_input="input_features")
    args = arguments(tmp_path / "run", max_steps=4, predict_with_generate=True, per_device_eval_batch_size=3)
    rows = sounds(8)
    trainer = Seq2SeqTrainer(model, args=args, train_dataset=rows, eval_dataset=rows, data_collator=padded)
    counted = sum(len(row["labels"]) for row in rows)
    with torch.no_grad():
        sums = [model(**padded([row]), num_items_in_batch=1).loss.item() for row in rows]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(sum(sums) / counted, rel=1e-5)
    alone = [model.generate(torch.from_numpy(row["input_features"])[None], max_new_tokens=3) for row in rows]
    texts = [model.tokenizer.batch_decode(ids, skip_special_tokens=True)[0] for ids in alone]
    assert trainer.predict(rows).predictions == texts
    trainer.train()
    last = log_of(tmp_path / "run")[-1]
    assert last["kind"] == "eval"
    assert last["eval_loss"] < sum(sums) / counted


def test_what_compute_metrics_gets_are_ids_and_labels(tmp_path: Path) -> None:
    seen: list[Any] = []

    def count(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"rows": float(len(prediction.predictions))}

    rows = [{**row, "labels": [7, 3]} for row in pictures(3)]
    trainer = Seq2SeqTrainer(
        model_of(tmp_path), args=arguments(tmp_path / "run"), eval_dataset=rows, compute_metrics=count
    )
    assert trainer.evaluate()["eval_rows"] == 3
    assert seen[0].label_ids.tolist() == [[7, 3]] * 3


def test_a_weight_of_0_leaves_a_row_out(tmp_path: Path) -> None:
    rows = pictures(6)
    args = arguments(tmp_path / "run")
    trainer = Seq2SeqTrainer(model_of(tmp_path), args=args, eval_dataset=rows[:3])
    weighted = [{**row, "weight": float(number < 3)} for number, row in enumerate(rows)]
    found = trainer.evaluate(weighted)["eval_loss"]
    assert found == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)


def test_a_run_chooses_what_it_can_know_and_keeps_to_its_minutes(tmp_path: Path) -> None:
    given: dict[str, Any] = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none"}
    args = TrainingArguments.chosen(**given, max_minutes=0.05)
    rows = pictures(30)
    trainer = Seq2SeqTrainer(model_of(tmp_path), args=args, train_dataset=rows, eval_dataset=rows[:8])
    assert "learning_rate" in trainer.reasons
    assert not {"tokens_per_batch", "max_source_length", "dropout_from_epoch"} & set(trainer.reasons)
    assert trainer.args.tokens_per_batch is None
    trainer.train()
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_adapters_train_the_decoder_beside_a_frozen_encoder(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = model_of(tmp_path)
    before = state_of(model)
    args = arguments(tmp_path / "run", lora=2, lora_merge=False, max_steps=4, save_steps=2)
    Seq2SeqTrainer(model, args=args, train_dataset=pictures(8)).train()
    again: Any = EncoderDecoderModel.from_pretrained(tmp_path / "run", encoder=Cnn())
    for name, parameter in again.encoder.module.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[f"encoder.module.{name}"], rtol=0, atol=0)
    batch = model.collate([{**row, "labels": [7, 3]} for row in pictures(2)])
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    resumed = Seq2SeqTrainer(model_of(tmp_path), args=args.copy(max_steps=6), train_dataset=pictures(8))
    assert resumed.train(resume_from_checkpoint=True).global_step == 6


def test_going_back_to_a_step_restores_what_the_encoder_counts(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    engine: Any = Seq2SeqTrainer(model, args=arguments(tmp_path / "run"), train_dataset=pictures(4)).engine()
    before, snapshot = state_of(model), take(engine)
    assert snapshot is not None
    model.encoder.module.layers[1].running_mean.fill_(float("nan"))
    model.encoder.module.layers[1].num_batches_tracked += 3
    put_back(engine, snapshot)
    torch.testing.assert_close(state_of(model), before, rtol=0, atol=0)


def test_another_encoder_does_not_resume(tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", max_steps=2, save_steps=1)
    Seq2SeqTrainer(model_of(tmp_path), args=args, train_dataset=pictures(8)).train()
    smaller = Cnn()
    smaller.layers[3] = nn.Conv2d(10, 10, 1, bias=False)
    for other, words in (
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), r"saved with a .*Cnn as encoder"),
        (smaller, r"tensors that do not fit the model:\n.*layers\.3\.bias"),
    ):
        trainer = Seq2SeqTrainer(model_of(tmp_path, other), args=args.copy(max_steps=3), train_dataset=pictures(8))
        with pytest.raises(TrainingError, match=rf"(?s)holds another model than the one to be trained\. .*{words}"):
            trainer.train(resume_from_checkpoint=True)


SETTINGS: dict[str, Any] = {
    "tokens_per_batch": 64,
    "max_tokens": 100,
    "max_source_length": 8,
    "source_prefix": "say: ",
    "drop_empty": True,
    "teacher": "some/model",
    "dropout_from_epoch": 1.0,
    "average_checkpoints": 2,
    "fsdp": "full",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_for_ids_are_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", **({"max_steps": -1} if name == "max_tokens" else {}), **{name: SETTINGS[name]})
    with pytest.raises(ConfigError, match=rf"{name} = .*: needs sources that are ids, .* a Cnn\.\n\nhint: leave out"):
        Seq2SeqTrainer(model_of(tmp_path), args=args, train_dataset=pictures(4))


class Unsized:
    """An iterable data set."""

    def __iter__(self) -> Any:
        return iter(pictures(3))


GOOD = pictures(3)
DATA: dict[str, tuple[Any, str]] = {
    "a file": ("train.jsonl", r"a str, but the model's encoder, a Cnn, reads pixel_values. Expected a map-style data"),
    "raw text": (RawText(["a b"]), "a RawText, but the model's encoder"),
    "columns": ({"pixel_values": [1], "labels": [2]}, "a dict, but the model's encoder"),
    "an iterable": (Unsized(), r"a Unsized, but .*\n\nhint: anything that has len\(\) and \[number\]"),
    "nothing": ([], "the training data is empty; expected rows with pixel_values and labels"),
    "no mapping": ([(1, 2)], "row 1 is a tuple; expected a mapping"),
    "no picture": (
        [{"labels": [5]}],
        r"row 1 has no pixel_values; it has 'labels'\. Expected pixel_values",
    ),
    "no target": ([{"pixel_values": GOOD[0]["pixel_values"]}], "row 1 has no labels; it has 'pixel_values'"),
    "no label": ([{"pixel_values": GOOD[0]["pixel_values"], "labels": [-100]}], "row 1: labels are empty"),
    "a large id": ([{"pixel_values": GOOD[0]["pixel_values"], "labels": [99]}], "row 1: target ids go from 0 to 99"),
    "a weight": ([{**GOOD[0], "weight": -1}], "row 1: weight is -1; expected a number of 0 or more"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used_are_refused_with_their_row(case: str, tmp_path: Path) -> None:
    data, words = DATA[case]
    with pytest.raises(DataError, match=words):
        Seq2SeqTrainer(model_of(tmp_path), args=arguments(tmp_path / "run"), train_dataset=data)


def test_a_bad_row_is_named_when_its_step_comes(tmp_path: Path) -> None:
    args = arguments(tmp_path / "run", train_sampling_strategy="sequential", per_device_train_batch_size=2)
    trainer = Seq2SeqTrainer(model_of(tmp_path), args=args, train_dataset=[*pictures(4), {**GOOD[0], "labels": [99]}])
    with pytest.raises(DataError, match="the training data, row 5: target ids go from 0 to 99"):
        trainer.train()


def test_what_a_collator_returns_is_checked(tmp_path: Path) -> None:
    model, args = model_of(tmp_path), arguments(tmp_path / "run")
    whole = model.collate([{**row, "labels": [7, 3]} for row in pictures(1)])
    returned: dict[str, Any] = {
        "returns no pixel_values, but 'other'": {"other": whole["pixel_values"], "labels": whole["labels"]},
        "returns 'names'; expected tensors alone": {**whole, "names": ["a"]},
        "labels of a batch are none": {"pixel_values": whole["pixel_values"]},
        r"labels of a batch are int64 of shape \(2,\)": {**whole, "labels": torch.tensor([7, 3])},
    }
    for words, batch in returned.items():
        with pytest.raises(DataError, match=words):
            Seq2SeqTrainer(model, args=args, train_dataset=pictures(4), data_collator=lambda rows, b=batch: dict(b))


def test_columns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    rows = [{**row, "photographer": "Ada"} for row in pictures(2)]
    with pytest.warns(ConjoinWarning, match="nothing reads the columns 'photographer'"):
        Seq2SeqTrainer(model_of(tmp_path), args=arguments(tmp_path / "run"), train_dataset=rows)


def test_a_collator_is_for_such_models_alone(tmp_path: Path) -> None:
    encoder, decoder = halves(tmp_path)
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(encoder, decoder)
    with pytest.raises(ConfigError, match="data_collator: the trainer pads texts and ids itself"):
        Seq2SeqTrainer(model, args=arguments(tmp_path / "run"), data_collator=padded)


def test_the_command_line_points_to_python(tmp_path: Path) -> None:
    model_of(tmp_path).save_pretrained(tmp_path / "captions")
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "b"}\n')
    flags = ["--model", tmp_path / "captions", "--train", tmp_path / "train.jsonl", "--out", tmp_path / "run"]
    told = CliRunner().invoke(app, ["train", *map(str, flags)])
    assert isinstance(told.exception, ConfigError), told.output
    assert "the encoder is a module of a user's" in str(told.exception)
    assert "Seq2SeqTrainer(model=model, train_dataset=rows)" in str(told.exception)
