"""A row of ids is used whole: the trainer's loss is the model's own on that row, whatever columns it has."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from conjoin import (
    BertConfig,
    ConjoinWarning,
    DataError,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    RobertaConfig,
    Seq2SeqTrainer,
    T5Config,
)
from conjoin.training import Examples, TrainerCallback
from conjoin.training.data.tokenized import from_ids
from lanes import lanes
from tiny_models import joined
from training_toys import arguments, toy_model

PLAIN = {"input_ids": [5, 6, 7], "labels": [8, 9, 3]}
ROWS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "ignored at the start": {"input_ids": [5, 6], "labels": [-100, -100, 7, 8, 3]},
    "ignored in the middle": {"input_ids": [5, 6], "labels": [7, -100, -100, 8, 3]},
    "ignored at the end": {"input_ids": [5, 6], "labels": [7, 8, 3, -100, -100]},
    "ignored everywhere": {"input_ids": [5, 6], "labels": [-100, 7, -100, 8, 3, -100]},
    "pads among the labels": {"input_ids": [5, 6], "labels": [7, 0, 0, 8, 3]},
    "pads that count at the end": {"input_ids": [5, 6], "labels": [7, 3, 0, 0, 0]},
    "a hole in the mask": {"input_ids": [5, 6, 9, 7], "attention_mask": [1, 0, 0, 1], "labels": [7, 8, 3]},
    "padding on the left": {"input_ids": [0, 0, 5, 6, 7], "attention_mask": [0, 0, 1, 1, 1], "labels": [7, 8, 3]},
    "padding on the right": {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0], "labels": [7, 8, 3]},
    "own decoder inputs": {"input_ids": [5, 6], "decoder_input_ids": [2, 9, 8], "labels": [7, 8, 3]},
    "own inputs and ignored labels": {
        "input_ids": [5, 6],
        "decoder_input_ids": [2, 9, 9, 8, 0],
        "labels": [-100, -100, 8, 3, -100],
    },
    "a decoder mask": {"input_ids": [5, 6], "decoder_attention_mask": [1, 0, 1, 1], "labels": [7, 8, 9, 3]},
    "a decoder mask of ones": {"input_ids": [5, 6], "decoder_attention_mask": [1, 1, 1, 1], "labels": [7, -100, 9, 3]},
    "token types": {"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "labels": [8, 9, 3]},
    "positions": {"input_ids": [5, 6, 7], "position_ids": [4, 0, 2], "labels": [8, 9, 3]},
    "all of it": {
        "input_ids": [0, 5, 6, 7, 0],
        "attention_mask": [0, 1, 0, 1, 0],
        "token_type_ids": [1, 0, 1, 1, 0],
        "position_ids": [0, 3, 1, 2, 0],
        "decoder_input_ids": [2, 9, 8, 7],
        "decoder_attention_mask": [1, 1, 0, 1],
        "decoder_token_type_ids": [0, 1, 0, 1],
        "decoder_position_ids": [1, 0, 3, 2],
        "labels": [-100, 8, 3, -100],
    },
}
TYPED = ("token_type_ids", "decoder_token_type_ids", "position_ids", "decoder_position_ids")


def roberta_pair() -> EncoderDecoderModel:
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 24, "max_position_embeddings": 40}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "hidden_size": 20, "pad_token_id": 0}
    encoder = RobertaConfig(vocab_size=25, num_attention_heads=5, type_vocab_size=2, **sizes)
    decoder = RobertaConfig(vocab_size=26, num_attention_heads=5, type_vocab_size=2, **sizes)
    ids: dict[str, Any] = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    return EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, **ids))


def t5() -> EncoderDecoderModel:
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
    return EncoderDecoderModel(config=T5Config(vocab_size=30, dropout_rate=0.0, decoder_start_token_id=0, **sizes))


MODELS = {"bert": toy_model, "roberta": roberta_pair, "t5": t5}


def randomised(model: EncoderDecoderModel) -> EncoderDecoderModel:
    """Weights of a size that lets every input be seen in the loss."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return model.eval()


def forward_loss(model: Any, row: dict[str, Any], smoothing: float = 0.0) -> float:
    """What the model says of the row alone."""
    batch = {name: torch.tensor(value)[None] for name, value in row.items() if name != "weight"}
    with torch.no_grad():
        return model(**batch, smoothing=smoothing).loss.item()


def counted(row: dict[str, Any]) -> int:
    return sum(label != -100 for label in row["labels"])


def trainer_for(model: Any, rows: list[dict[str, Any]], folder: Path, **changes: Any) -> Seq2SeqTrainer:
    values: dict[str, Any] = {
        "max_steps": 1,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        **changes,
    }
    return Seq2SeqTrainer(model, args=arguments(folder / "run", **values), train_dataset=rows, eval_dataset=rows)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("kind", ROWS)
def test_the_loss_of_a_row_is_the_models_own(kind: str, family: str, tmp_path: Path) -> None:
    row = ROWS[kind]
    if family == "t5" and any(name in row for name in TYPED):
        pytest.skip("T5 has neither types nor positions.")
    model = randomised(MODELS[family]())
    trainer = trainer_for(model, [row], tmp_path)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(forward_loss(model, row), abs=1e-6)
    if family == "bert":
        assert trainer.train().training_loss == pytest.approx(forward_loss(model, row), abs=1e-6)


def alike(names: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Rows that may stand in one data set: those with these columns that are in every row or in none."""
    free = {"input_ids", "labels", "attention_mask", "token_type_ids", "decoder_token_type_ids", *names}
    return [row for row in ROWS.values() if set(row) <= free and set(names) <= set(row)]


SETS = [(), ("decoder_input_ids",), ("decoder_attention_mask",), ("position_ids",)]


@pytest.mark.parametrize(("native", "smoothing"), [("1", 0.1), ("0", 0.0)])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("names", SETS)
def test_rows_in_batches_have_the_losses_that_they_have_alone(
    names: tuple[str, ...],
    packing: bool,
    smoothing: float,
    native: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONJOIN_NATIVE", native)
    rows, model = alike(names), randomised(toy_model())
    total = sum(counted(row) for row in rows)
    changes: dict[str, Any] = {"tokens_per_batch": 200, "packing": packing, "label_smoothing_factor": smoothing}
    trainer = trainer_for(model, rows, tmp_path, **changes)
    expected = sum(forward_loss(model, row) * counted(row) for row in rows) / total
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)
    smoothed = sum(forward_loss(model, row, smoothing) * counted(row) for row in rows) / total
    assert trainer.train().training_loss == pytest.approx(smoothed, abs=1e-6)


WEIGHED = [{**row, "weight": weight} for row, weight in zip(alike(), (1, 2, 0.5, 3, 0, 1.5, 1, 2, 1, 4), strict=False)]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_row_of_weight_two_counts_as_two_rows(packing: bool, smoothing: float, tmp_path: Path) -> None:
    model = randomised(toy_model())
    changes: dict[str, Any] = {"tokens_per_batch": 200, "packing": packing, "label_smoothing_factor": smoothing}
    trainer = trainer_for(model, WEIGHED, tmp_path, **changes)
    shares = [row["weight"] * counted(row) for row in WEIGHED]
    expected = sum(share * forward_loss(model, row) for share, row in zip(shares, WEIGHED, strict=True)) / sum(shares)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)
    losses = [forward_loss(model, row, smoothing) for row in WEIGHED]
    smoothed = sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares)
    assert trainer.train().training_loss == pytest.approx(smoothed, abs=1e-6)


def test_weights_reach_the_gradient(tmp_path: Path) -> None:
    twice = [PLAIN, PLAIN, {"input_ids": [9, 9], "labels": [4, 3]}]
    weighed = [{**PLAIN, "weight": 2}, {"input_ids": [9, 9], "labels": [4, 3], "weight": 1.0}]
    ends: list[dict[str, torch.Tensor]] = []
    for name, rows in {"twice": twice, "weighed": weighed}.items():
        model = randomised(toy_model())
        trainer_for(model, rows, tmp_path / name, learning_rate=0.1, max_steps=2, adam_epsilon=1.0).train()
        ends.append({key: value.detach().clone() for key, value in model.named_parameters()})
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, atol=1e-5, rtol=1e-4)


def test_what_is_written_goes_by_all_columns_of_the_source(tmp_path: Path) -> None:
    rows, model = alike(), randomised(toy_model())
    trainer = trainer_for(model, rows, tmp_path, predict_with_generate=True, generation_max_length=6)
    found, generate = trainer.predict(rows), cast(Any, model.generate)
    for row, written in zip(rows, found.predictions, strict=True):
        given = {name: torch.tensor(row[name])[None] for name in ("attention_mask", "token_type_ids") if name in row}
        alone = generate(torch.tensor(row["input_ids"])[None], max_new_tokens=6, **given)[0, 1:].tolist()
        assert written[: len(alone)].tolist() == alone
    width = found.label_ids.shape[1]
    for row, labels in zip(rows, found.label_ids.tolist(), strict=True):
        assert labels == (row["labels"] + [-100] * width)[:width]


def test_texts_of_targets_leave_out_what_is_ignored(tmp_path: Path) -> None:
    model = toy_model(tmp_path)
    rows = [{"input_ids": [2, 5, 6, 3], "labels": [-100, 7, -100, 8, 3]}] * 2
    trainer = trainer_for(model, rows, tmp_path, predict_with_generate=True, metrics="exact_match")
    assert "eval_exact_match" in trainer.evaluate()
    (_, target, _), *_ = trainer.samples(from_ids(rows, "rows"), 1)
    assert target == cast(Any, model.tokenizer).target.decode([7, 8])


def test_sources_that_are_exchanged_keep_their_columns() -> None:
    rows = [{"input_ids": [n, n + 1, n], "attention_mask": [1, 0, 1], "labels": [n], "weight": n} for n in range(5, 9)]
    examples = from_ids(rows, "rows")
    own, others = examples.exchanged(4)
    assert others.sources[0].tolist() == [7, 8, 7] and others.columns["attention_mask"][0].tolist() == [1, 0, 1]
    assert others.labels[0].tolist() == [5] and own.weights is not None and others.weights is not None
    assert others.weights.tolist() == own.weights.tolist() == [5, 6, 7, 8]


def test_fingerprints_change_with_every_column() -> None:
    base = {"input_ids": [5, 6, 7], "labels": [7, 8, 3]}
    more: list[dict[str, Any]] = [
        {},
        {"attention_mask": [1, 0, 1]},
        {"token_type_ids": [0, 1, 0]},
        {"decoder_input_ids": [2, 7, 8]},
        {"decoder_attention_mask": [1, 1, 1]},
        {"weight": 2.0},
        {"labels": [-100, 8, 3]},
    ]
    assert len({from_ids([{**base, **one}], "rows").fingerprint() for one in more}) == len(more)


def test_columns_that_say_nothing_cost_nothing() -> None:
    row = {"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "token_type_ids": [0, 0, 0], "labels": [7, 3, -100]}
    examples = from_ids([{**row, "weight": 1}], "rows")
    assert not examples.columns and examples.weights is None
    assert examples.sources.ids.tolist() == [5, 6] and examples.labels.ids.tolist() == [7, 3]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": [5], "decoder_input_ids": [2]}, r"row 2: has no labels; it has 'input_ids', 'decoder_input_ids'"),
    ({"input_ids": [5]}, "row 2: has no labels"),
    ({"labels": [5]}, "row 2: has no input_ids"),
    ({"input_ids": [5], "labels": [6], "decoder_input_ids": [2, 3]}, "row 2: has decoder_input_ids, unlike the rows"),
    ({"input_ids": [5], "labels": [6], "attention_mask": [1, 1]}, "row 2: attention_mask has 2 entries, but input_ids"),
    (
        {"input_ids": [5], "labels": [6], "decoder_token_type_ids": [1, 1]},
        "decoder_token_type_ids has 2 entries, but l",
    ),
    (
        {"input_ids": [5], "labels": [6], "attention_mask": [2]},
        "row 2: attention_mask holds 2; expected 1 at tokens and",
    ),
    ({"input_ids": [5], "labels": [6], "attention_mask": [0]}, "row 2: input_ids are empty: all is masked"),
    ({"input_ids": [], "labels": [6]}, "row 2: input_ids are empty"),
    ({"input_ids": [5], "labels": [-100, -100]}, "row 2: labels are empty: no label counts"),
    (
        {"input_ids": [5.5], "labels": [6]},
        "row 2: input_ids is of numbers with a decimal point, expected a list of whol",
    ),
    (
        {"input_ids": [[5, 6]], "labels": [6]},
        r"row 2: input_ids is of shape \(1, 2\), expected a list of whole numbers",
    ),
    ({"input_ids": [[5, 6], [7]], "labels": [6]}, "row 2: input_ids is of .*, expected a list of whole numbers"),
    ({"input_ids": "w1 w2", "labels": [6]}, "row 2: input_ids is of .*, expected a list of whole numbers"),
    ({"input_ids": [5], "labels": [2**40]}, "row 2: labels holds 1099511627776; expected numbers from"),
    (
        {"input_ids": [5], "labels": [6], "attention_masks": [1]},
        "'attention_masks', which.*Did you mean 'attention_mask'",
    ),
    ({"input_ids": [5], "label": [6]}, "row 2: has 'label', which nothing reads. Did you mean 'labels'"),
    ({"input_ids": [5], "labels": [6], "weights": 2}, "Did you mean 'weight'"),
    (
        {"input_ids": [5], "labels": [6], "inputs_embeds": [[0.0]]},
        "row 2: has inputs_embeds, which the trainer does not",
    ),
    (["input_ids"], "row 2: is a list, expected a mapping"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("row", "told"), BAD)
def test_rows_that_cannot_be_used_whole_are_refused_by_row_and_column(row: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        from_ids([PLAIN, row], "rows")


@pytest.mark.parametrize("weight", [-1, "2", float("nan"), float("inf"), [1]])
def test_weights_are_numbers_of_zero_or_more(weight: Any) -> None:
    with pytest.raises(DataError, match=r"row 1: weight is .*; expected a number of 0 or more"):
        from_ids([{**PLAIN, "weight": weight}], "rows")
    with pytest.raises(DataError, match="every weight is 0"):
        from_ids([{**PLAIN, "weight": 0}] * 3, "rows")


def test_columns_that_nothing_reads_are_named_once() -> None:
    rows = [{**PLAIN, "source": "w1", "id": number} for number in range(3)]
    with pytest.warns(ConjoinWarning, match="nothing reads the columns 'id', 'source'") as caught:
        from_ids(rows, "rows")
    assert len(caught) == 1


def test_ids_outside_of_the_vocabulary_are_named_by_row(tmp_path: Path) -> None:
    for row, told in (
        ({**PLAIN, "labels": [7, -5]}, "row 2: target ids go from -5"),
        ({**PLAIN, "labels": [-100, 80]}, "row 2: target ids go from 0 to 80"),
        ({**PLAIN, "input_ids": [-1]}, "row 2: source ids go from -1"),
    ):
        with pytest.raises(DataError, match=told):
            trainer_for(toy_model(), [PLAIN, row], tmp_path)
    own = {**PLAIN, "decoder_input_ids": [2, 8, 99]}
    with pytest.raises(DataError, match="row 1: decoder_input_ids go from 0 to 99"):
        trainer_for(toy_model(), [own], tmp_path)
    with pytest.raises(DataError, match=r"token_type_ids go up to 7, but the encoder \(bert\) has 2"):
        trainer_for(toy_model(), [{**PLAIN, "token_type_ids": [0, 7, 0]}], tmp_path)
    with pytest.raises(DataError, match=r"position_ids go up to 32, but the encoder \(bert\) has 32"):
        trainer_for(toy_model(), [{**PLAIN, "position_ids": [0, 32, 1]}], tmp_path)


def test_tensors_arrays_and_data_sets_are_rows_too() -> None:
    import datasets

    row = {"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1], "labels": [-100, 8, 3]}
    expected = from_ids([row], "rows").fingerprint()
    made: list[Any] = [
        [{name: torch.tensor(value) for name, value in row.items()}],
        [{name: np.array(value, np.uint8 if name != "labels" else np.int16) for name, value in row.items()}],
        [{**row, "attention_mask": [True, False, True]}],
        datasets.Dataset.from_list([row]),
        datasets.Dataset.from_list([row]).with_format("torch"),
    ]
    for rows in made:
        assert from_ids(rows, "rows").fingerprint() == expected


def test_a_run_goes_on_with_all_columns(tmp_path: Path) -> None:
    rows = [{**row, "weight": 2 - (number % 2)} for number, row in enumerate(alike() * 2)]
    whole = toy_model()
    trainer_for(whole, rows, tmp_path / "whole", max_steps=4, learning_rate=0.01).train()
    for steps in (2, 4):
        model = toy_model()
        args: dict[str, Any] = {"max_steps": 4, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 2}
        trainer = trainer_for(model, rows, tmp_path / "halves", **args)
        if steps == 2:
            trainer.callbacks.append(_Stop())
        trainer.train(resume_from_checkpoint=steps == 4)
    for (name, one), (_, other) in zip(whole.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


class _Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        control.should_training_stop = state.global_step >= 2


def test_the_doctor_sees_the_columns(tmp_path: Path) -> None:
    rows = [{"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1], "decoder_input_ids": [2, 9, 8], "labels": [9, 8, 3]}]
    trainer = trainer_for(randomised(toy_model()), rows * 2, tmp_path, doctor=True)
    assert trainer.train().global_step == 1


def test_examples_hold_plain_pairs_in_two_arrays() -> None:
    examples = from_ids([PLAIN] * 1000, "rows")
    assert isinstance(examples, Examples) and not examples.columns
    assert examples.sources.ids.nbytes == examples.labels.ids.nbytes == 12_000
    assert json.dumps(examples.counted([0, 1])) == "6"


JAX = ["ignored at the start", "ignored in the middle", "a hole in the mask", "own decoder inputs", "a decoder mask"]
JAX += ["a decoder mask of ones", "token types", "all of it", "padding on the left", "pads among the labels"]


@pytest.mark.parametrize("kind", lanes(JAX, lambda kind: kind == "all of it"))
def test_the_loss_of_a_row_is_the_models_own_on_jax(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from conjoin import FlaxEncoderDecoderModel
    from conjoin.training.jax import Seq2SeqTrainer as JaxTrainer

    row = ROWS[kind]
    randomised(toy_model()).save_pretrained(tmp_path / "model")
    model: Any = FlaxEncoderDecoderModel.from_pretrained(tmp_path / "model")
    batch = {name: np.array(value)[None] for name, value in row.items()}
    expected = float(model(**batch).loss)
    assert expected == pytest.approx(
        forward_loss(EncoderDecoderModel.from_pretrained(tmp_path / "model"), row), abs=1e-5
    )
    rows = [{**row, "weight": 3}, {**row, "weight": 0.5}]
    args = arguments(tmp_path / "run", max_steps=1, learning_rate=0.0, logging_steps=1, save_strategy="no")
    trainer = JaxTrainer(model, args=args, train_dataset=rows, eval_dataset=[row])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)
    assert trainer.train().training_loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "loss"), [([-100, -100, 7, 8, 2], 3.9701645), ([7, -100, 8, 2], 4.1136761), ([7, 8, 2, -100], 3.9334056)]
)
def test_labels_keep_their_places_whatever_is_ignored_before_them(
    labels: list[int], loss: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    half = BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    ids = {"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(half, half, **ids))
    row = {"input_ids": [5, 6], "labels": labels}
    assert forward_loss(model, row) == pytest.approx(loss, abs=1e-5)
    trainer = Seq2SeqTrainer(model, args=arguments(tmp_path), eval_dataset=[row] * 2)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("decoder", ["gpt2", "llama", "mistral", "t5", "roberta/small", "opt"])
def test_ignored_labels_move_no_position_in_any_kind_of_decoder(decoder: str) -> None:
    """Positions by index, but where the decoder itself skips padding (RoBERTa, OPT)."""
    model = joined("bert", decoder).eval()
    labels = torch.tensor([[7, 8, -100, -100, -100, 12, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 1]])
    batch = {"input_ids": torch.tensor([[5, 6, 9]]), "labels": labels}
    inputs = model.prepare_decoder_input_ids_from_labels(labels)
    own = {"decoder_input_ids": inputs, "decoder_attention_mask": mask}
    if decoder not in ("roberta/small", "opt"):
        own["decoder_position_ids"] = torch.arange(7)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss, model(**batch, **own).loss)


@pytest.mark.parametrize("packing", lanes([False, True], bool))
def test_a_batch_of_many_kinds_on_jax(packing: bool, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    from conjoin import FlaxEncoderDecoderModel
    from conjoin.training.jax import Seq2SeqTrainer as JaxTrainer

    torch_model = randomised(toy_model())
    torch_model.save_pretrained(tmp_path / "model")
    rows = WEIGHED
    shares = [row["weight"] * counted(row) for row in rows]
    losses = [forward_loss(torch_model, row, 0.1) for row in rows]
    expected = sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares)
    model = FlaxEncoderDecoderModel.from_pretrained(tmp_path / "model")
    args = arguments(
        tmp_path / "run",
        max_steps=1,
        learning_rate=0.0,
        logging_steps=1,
        save_strategy="no",
        label_smoothing_factor=0.1,
        tokens_per_batch=200,
        packing=packing,
    )
    trainer = JaxTrainer(model, args=args, train_dataset=rows)
    assert trainer.train().training_loss == pytest.approx(expected, abs=1e-5)
