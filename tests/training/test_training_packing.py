"""A packed batch has the loss and the gradients of the same pairs padded, in every kind of stack."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conjoin import EncoderDecoderModel, ShapeError
from conjoin.torch.model.segments import check_segments
from conjoin.training.data.arrays import batch_arrays
from conjoin.training.data.batching import Packed, Plan, choose_batching
from conjoin.training.data.examples import Examples, Rows
from conjoin.training.settings.arguments import TrainingArguments
from pairs import CLOSE, batch, fresh, stir
from tiny_models import PAIRS, WHOLE, config, joined, loss_and_gradients

SIZES = [(7, 3), (2, 5), (4, 4), (6, 1), (5, 9)]
ROWS = [[0, 1], [2, 3, 4]]


def examples() -> Examples:
    draw = np.random.default_rng(0)
    rows = ([draw.integers(11, 50, size).tolist() for size in sizes] for sizes in zip(*SIZES, strict=True))
    return Examples(*(Rows.of(side) for side in rows))


def inputs(rows: list[list[int]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch_arrays(examples(), rows, source_pad=4).items()}


def check_equal(model: EncoderDecoderModel, **settings: Any) -> None:
    padded = loss_and_gradients(model, **inputs([[index] for row in ROWS for index in row]), **settings)
    packed = loss_and_gradients(model, **inputs(ROWS), **settings)
    torch.testing.assert_close(packed[0], padded[0], **CLOSE)
    assert packed[1].keys() == padded[1].keys()
    for name, gradient in padded[1].items():
        torch.testing.assert_close(
            packed[1][name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_a_packed_batch_learns_what_the_padded_one_does(encoder: str, decoder: str) -> None:
    check_equal(joined(encoder, decoder))


@pytest.mark.parametrize("key", WHOLE)
def test_a_whole_model_learns_the_same_from_packed_rows(key: str) -> None:
    check_equal(stir(EncoderDecoderModel(config=config(key))))


def test_smoothing_checkpointing_and_loss_without_logits_take_packed_rows() -> None:
    model = joined("roberta", "gpt2").train()
    model.gradient_checkpointing_enable()
    check_equal(model, smoothing=0.1, output_logits=False, num_items_in_batch=5)


def test_open_attention_takes_packed_rows() -> None:
    model, given = joined("bert", "llama"), inputs(ROWS)
    out = model(**given, use_cache=False, output_attentions=True)
    cross, segments = out.cross_attentions[0], given["segment_ids"]
    apart = given["decoder_segment_ids"][:, None, :, None] != segments[:, None, None, :]
    assert not cross[apart.expand_as(cross)].any()


def test_a_row_may_be_longer_than_the_position_table() -> None:
    model = joined("bert", "bert/small")
    long = {name: tensor.repeat(1, 12) for name, tensor in inputs(ROWS).items()}
    for name in ("segment_ids", "decoder_segment_ids"):
        width = long[name].shape[1] // 12
        long[name] = long[name] + torch.arange(12).repeat_interleave(width) * 3
    assert long["input_ids"].shape[1] > 64
    assert model(**long, use_cache=False).loss.isfinite()
    whole = {**long, "segment_ids": torch.ones_like(long["segment_ids"])}
    with pytest.raises(ShapeError, match="position table has 64"):
        model(**whole, use_cache=False)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"segment_ids": torch.ones(2, 7, dtype=torch.long)}, "one side only"),
        ({"decoder_segment_ids": torch.ones(2, 11, dtype=torch.long)}, "one side only"),
    ],
)
def test_segments_that_fit_nothing_are_refused(changes: dict[str, Tensor], text: str) -> None:
    with pytest.raises(ShapeError, match=text):
        fresh()(**batch(), **changes, use_cache=False)


def test_segments_beside_no_tokens_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"segment_ids has shape \(2, 5\); expected \(2, 7\)"):
        check_segments(torch.ones(2, 5, dtype=torch.long), (2, 7), "segment_ids")


def test_segments_and_a_cache_are_refused() -> None:
    with pytest.raises(ShapeError, match="together with a cache"):
        joined("bert", "gpt2")(**inputs(ROWS), use_cache=True)


@pytest.mark.parametrize("decoder", ["bert/small", "gpt2"])
def test_ignored_labels_keep_their_places_in_a_row_longer_than_the_position_table(decoder: str) -> None:
    model, count = joined("bert", decoder), 12
    source, labels = torch.tensor([[12, 20, 31, 44, 17]]), torch.tensor([[12, 20, -100, -100, 31, 7]])
    segments = {
        name: torch.arange(1, count + 1).repeat_interleave(width)[None]
        for name, width in (("segment_ids", 5), ("decoder_segment_ids", 6))
    }
    assert labels.shape[1] * count > model.decoder.spec.max_positions
    with torch.no_grad():
        alone = model(input_ids=source, labels=labels, use_cache=False).loss
        packed = model(
            input_ids=source.repeat(1, count), labels=labels.repeat(1, count), **segments, use_cache=False
        ).loss
    torch.testing.assert_close(packed, alone)


def lengths(count: int) -> np.ndarray:
    """As in translation: target and source are of like length, and there are many short ones."""
    draw = np.random.default_rng(1)
    return np.clip(draw.lognormal(2.0, 0.5, (count, 1)) * draw.normal(1, 0.15, (count, 2)), 1, 40).astype(int)


def test_every_pair_is_packed_once_and_no_row_overflows() -> None:
    arguments = TrainingArguments(tokens_per_batch=400, packing=True)
    sizes = lengths(500)
    batching = choose_batching(arguments, sizes)
    assert isinstance(batching, Packed)
    batches = Plan(lengths=sizes, batching=batching, sampling="random", seed=1, batches_per_step=1).epoch(0)
    assert sorted(index for rows in batches for row in rows for index in row) == list(range(500))
    for rows in batches:
        assert all((sizes[row].sum(0) <= batching.row_tokens).all() for row in rows)
        assert len(rows) * sum(batching.row_tokens) <= 400
    room = sum(len(rows) * sum(batching.row_tokens) for rows in batches)
    assert sizes.sum() / room > 0.9
