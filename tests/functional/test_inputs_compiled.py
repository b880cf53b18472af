"""On JAX and TensorFlow, too, inputs that cannot be are refused with what was given and what was expected."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conjoin import FlaxEncoderDecoderModel, GenerationError, ShapeError, TFEncoderDecoderModel
from pairs import TARGET, fresh

IDS, LABELS = np.array([[15, 16, 17]]), np.array([[18, 7]])


@pytest.fixture(scope="module", params=[FlaxEncoderDecoderModel, TFEncoderDecoderModel])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pair")
    fresh().save_pretrained(folder)
    return request.param.from_pretrained(folder)


def test_states_of_another_encoder_are_refused(model: Any) -> None:
    for shape in ((1, 4, 16), (1, 20), (1, 4, 20, 1)):
        states = np.ones(shape, np.float32)
        for call in (
            lambda s=states: model(encoder_outputs=(s,), labels=LABELS),
            lambda s=states: model.generate(None, encoder_outputs=(s,), max_new_tokens=2),
        ):
            with pytest.raises((ShapeError, GenerationError), match=r"\(1, 4, 16\)|\(1, 20\)|\(1, 4, 20, 1\)"):
                call()


def test_labels_that_do_not_lie_beside_the_inputs_are_refused(model: Any) -> None:
    with pytest.raises(ShapeError, match=r"labels has shape \(1, 2\), the decoder's inputs \(1, 3\)"):
        model(IDS, decoder_input_ids=np.array([[9, 18, 20]]), labels=LABELS)
    with pytest.raises(ShapeError, match=r"labels has shape .* and dtype float"):
        model(IDS, decoder_input_ids=np.array([[9, 18]]), labels=LABELS.astype(np.float32))
    with pytest.raises(ShapeError, match="labels: -1 to 18"):
        model(IDS, labels=np.array([[18, -1]]))


def test_ids_are_whole_numbers_of_any_kind_and_nothing_else(model: Any) -> None:
    expected = np.asarray(model(IDS, labels=LABELS).logits)
    for dtype in (np.uint8, np.int8, np.int16, np.int64):
        assert np.array_equal(np.asarray(model(IDS.astype(dtype), labels=LABELS.astype(dtype)).logits), expected)
    for dtype in (bool, np.float32):
        with pytest.raises(ShapeError, match=r"input_ids has shape .* and dtype"):
            model(IDS.astype(dtype), labels=LABELS)


def test_an_empty_batch_is_refused(model: Any) -> None:
    for shape in ((0, 3), (2, 0)):
        with pytest.raises(ShapeError, match="expected at least one row and one position"):
            model(np.ones(shape, np.int32), labels=LABELS)
        with pytest.raises(ShapeError, match="expected at least one row and one position"):
            model(IDS, decoder_input_ids=np.ones(shape, np.int32))


def test_an_attribute_that_is_not_there_is_named(model: Any) -> None:
    with pytest.raises(AttributeError, match=f"'{type(model).__name__}' object has no attribute 'no_such_thing'"):
        _ = model.no_such_thing
    assert not hasattr(model, "no_such_thing")


def test_what_another_model_kept_is_refused(tmp_path: Path) -> None:
    one = FlaxEncoderDecoderModel(fresh().config)
    other = FlaxEncoderDecoderModel(fresh(decoder=TARGET.copy(num_attention_heads=2)).config)
    cache = other.init_cache(1, 8, other.encode(IDS))
    with pytest.raises(ShapeError, match=r"past_key_values holds \(heads, size\) \[\(2, 6\)"):
        one.decode(LABELS, one.encode(IDS), past_key_values=cache)


def test_a_mask_of_a_prefix_that_is_missing_is_refused(model: Any) -> None:
    with pytest.raises(GenerationError, match=r"decoder_attention_mask has shape \(1, 3\), and decoder_input_ids is"):
        model.generate(IDS, decoder_attention_mask=np.ones((1, 3), np.int32), max_new_tokens=2)
