"""Inputs that cannot be: each is refused with what was given and what was expected, or read as what it means."""

from typing import Any

import pytest
import torch

from conjoin import EncoderDecoderModel, GenerationError, ShapeError
from pairs import GPT, SOURCE, TARGET, fresh, stir

IDS = torch.tensor([[15, 16, 17]])
LABELS = torch.tensor([[18, 7]])


@pytest.fixture(scope="module")
def model() -> EncoderDecoderModel:
    return stir(fresh())


@pytest.mark.parametrize(
    ("states", "found"),
    [
        (torch.randn(1, 4, 16), r"\(1, 4, 16\)"),
        (torch.randn(1, 20), r"\(1, 20\)"),
        (torch.randn(1, 4, 20, 1), r"\(1, 4, 20, 1\)"),
        (torch.ones(1, 4, 20).long(), r"\(1, 4, 20\) and dtype torch.int64"),
    ],
)
def test_states_of_another_encoder_are_refused(model: EncoderDecoderModel, states: torch.Tensor, found: str) -> None:
    for call in (
        lambda: model(encoder_outputs=(states,), labels=LABELS),
        lambda: model.generate(encoder_outputs=(states,), max_new_tokens=2),
    ):
        with pytest.raises(ShapeError, match=rf"encoder_outputs has shape {found}.*\n?.*\(batch, length, 20\)"):
            call()


def test_states_of_other_precision_are_read(model: EncoderDecoderModel) -> None:
    states = torch.randn(1, 4, 20).bfloat16()
    expected = model(encoder_outputs=(states.float(),), labels=LABELS).logits
    assert torch.equal(model(encoder_outputs=(states,), labels=LABELS).logits, expected)
    assert model.generate(encoder_outputs=(states,), max_new_tokens=2).shape[0] == 1


def test_a_batch_of_other_size_is_refused(model: EncoderDecoderModel) -> None:
    with pytest.raises(ShapeError, match="3 target rows for 2 sources"):
        model(encoder_outputs=(torch.randn(2, 4, 20),), labels=LABELS.expand(3, -1))


@pytest.mark.parametrize("decoder_ids", [torch.ones(1, 3).long(), torch.ones(2, 2).long()])
def test_labels_that_do_not_lie_beside_the_inputs_are_refused(
    model: EncoderDecoderModel, decoder_ids: torch.Tensor
) -> None:
    shape = str(tuple(decoder_ids.shape)).replace("(", r"\(").replace(")", r"\)")
    for more in ({}, {"output_logits": False}):
        with pytest.raises(ShapeError, match=rf"labels has shape \(1, 2\), the decoder's inputs {shape}"):
            model(input_ids=IDS, decoder_input_ids=decoder_ids, labels=LABELS, **more)


@pytest.mark.parametrize("label", [53, 1000, -1, -99])
@pytest.mark.parametrize("more", [{}, {"output_logits": False}])
def test_labels_beyond_the_vocabulary_are_refused(model: EncoderDecoderModel, label: int, more: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match=r"labels has ids from .* expected 0 to 52, or -100"):
        model(input_ids=IDS, labels=torch.tensor([[18, label]]), decoder_input_ids=torch.tensor([[9, 18]]), **more)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_whole_numbers_of_any_kind_are_ids(model: EncoderDecoderModel, dtype: torch.dtype) -> None:
    expected = model(input_ids=IDS, decoder_input_ids=torch.tensor([[9, 18]]), labels=LABELS)
    found = model(input_ids=IDS.to(dtype), decoder_input_ids=torch.tensor([[9, 18]]).to(dtype), labels=LABELS.to(dtype))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)
    written = model.generate(IDS.to(dtype), decoder_input_ids=torch.tensor([[9, 18]]).to(dtype), max_new_tokens=3)
    assert torch.equal(written, model.generate(IDS, decoder_input_ids=torch.tensor([[9, 18]]), max_new_tokens=3))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("name", ["input_ids", "decoder_input_ids", "labels"])
def test_what_is_no_number_of_a_word_is_refused(model: EncoderDecoderModel, name: str, dtype: torch.dtype) -> None:
    given = {"input_ids": IDS, "decoder_input_ids": torch.tensor([[9, 18]]), "labels": LABELS}
    with pytest.raises(ShapeError, match=rf"has shape .* and dtype {dtype}"):
        model(**given | {name: given[name].to(dtype)})


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_an_empty_batch_is_refused(model: EncoderDecoderModel, shape: tuple[int, int]) -> None:
    empty = torch.ones(shape).long()
    with pytest.raises(ShapeError, match="expected at least one row and one position"):
        model(input_ids=empty, labels=LABELS)
    with pytest.raises(ShapeError, match="expected at least one row and one position"):
        model(input_ids=IDS, decoder_input_ids=empty)
    with pytest.raises(GenerationError, match="at least one of each"):
        model.generate(empty, max_new_tokens=2)


def kept(model: EncoderDecoderModel) -> Any:
    return model(input_ids=IDS, decoder_input_ids=torch.tensor([[9, 18]]), use_cache=True).past_key_values


OTHERS = {
    "layers": lambda: fresh(SOURCE, TARGET.copy(num_hidden_layers=1)),
    "heads": lambda: fresh(SOURCE, TARGET.copy(num_attention_heads=2)),
    "width": lambda: fresh(SOURCE, TARGET.copy(hidden_size=24)),
    "numbers": lambda: fresh().to(torch.bfloat16),
    "kind": lambda: fresh(SOURCE, GPT),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_another_model_kept_is_refused(model: EncoderDecoderModel, what: str) -> None:
    foreign, ids = kept(OTHERS[what]().eval()), torch.tensor([[9, 18, 20]])
    with pytest.raises(ShapeError, match="past_key_values is of another model: it"):
        model(decoder_input_ids=ids[:, 2:], past_key_values=foreign)
    with pytest.raises(ShapeError, match="past_key_values is of another model: it"):
        model.generate(IDS, decoder_input_ids=ids, past_key_values=kept(OTHERS[what]().eval()), max_new_tokens=2)


def test_a_cache_of_another_library_is_refused(model: EncoderDecoderModel) -> None:
    with pytest.raises(ShapeError, match="past_key_values is a tuple; expected a KVCache"):
        model(decoder_input_ids=LABELS, past_key_values=())
    with pytest.raises(ShapeError, match="past_key_values is a tuple; expected a KVCache"):
        model.generate(IDS, decoder_input_ids=LABELS, past_key_values=(), max_new_tokens=2)


def test_what_the_model_itself_kept_is_read(model: EncoderDecoderModel) -> None:
    ids = torch.tensor([[9, 18, 20]])
    with torch.no_grad():
        whole = model(input_ids=IDS, decoder_input_ids=ids).logits[:, -1]
        step = model(decoder_input_ids=ids[:, 2:], past_key_values=kept(model)).logits[:, -1]
    torch.testing.assert_close(step, whole, rtol=1e-5, atol=1e-5)
