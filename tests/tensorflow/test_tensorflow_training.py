"""compile and fit on TensorFlow: torch's loss, on dicts and tf.data, in half precision and on two devices."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from conjoin import EncoderDecoderModel, TFEncoderDecoderModel
from conjoin.errors import TrainingError
from tf_models import batch, torch_model
from translation_folders import folders


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    torch_model().save_pretrained(folder)
    return folder


def data(rows: int = 4) -> dict[str, np.ndarray]:
    return {name: x.numpy().astype(np.int32) for name, x in batch(rows).items()}


def compiled(folder: Path, **keywords: Any) -> TFEncoderDecoderModel:
    model = TFEncoderDecoderModel.from_pretrained(folder, **keywords)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def stepped(folder: Path, steps: int) -> tuple[list[float], EncoderDecoderModel]:
    """What PyTorch makes of the same batch: losses before every step, and the model after them."""
    model = EncoderDecoderModel.from_pretrained(folder).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(steps):
        loss = model(**batch(4)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def assert_trained_alike(model: TFEncoderDecoderModel, theirs: EncoderDecoderModel) -> None:
    found = model.all_params()
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(found[name], parameter.detach().numpy(), atol=2e-5, err_msg=name)


def test_fit_on_a_dict_takes_torchs_steps(folder: Path) -> None:
    model = compiled(folder)
    history = model.fit(data(), batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    losses, theirs = stepped(folder, 3)
    np.testing.assert_allclose(history, losses, rtol=1e-4)
    assert_trained_alike(model, theirs)
    evaluated = model.evaluate(data(), batch_size=4, verbose=0)
    assert evaluated == pytest.approx(float(model(data()).loss), rel=1e-5) and evaluated < history[0]
    assert model.predict(data(), batch_size=4, verbose=0)["logits"].shape == (4, 6, 53)


def test_fit_on_tf_data_and_on_pairs(folder: Path) -> None:
    model, given = compiled(folder), data()
    losses, _ = stepped(folder, 1)
    dataset = tf.data.Dataset.from_tensor_slices(given).batch(4)
    assert model.fit(dataset, shuffle=False, verbose=0).history["loss"] == pytest.approx(losses, rel=1e-4)
    model = compiled(folder)
    labels = given.pop("labels")
    pairs = tf.data.Dataset.from_tensor_slices((given, labels)).batch(4)
    assert model.fit(pairs, shuffle=False, verbose=0).history["loss"] == pytest.approx(losses, rel=1e-4)
    with pytest.raises(TrainingError, match="no labels"):
        model.fit({**given, "decoder_input_ids": np.abs(labels)}, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_parameters_in_float32(policy: str, folder: Path) -> None:
    model = compiled(folder, dtype=policy)
    if policy == "mixed_float16":  # the first scale that Keras tries is for losses of real models
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0)
        model.compile(optimizer=scaled, jit_compile=False)
    history = model.fit(data(), batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"]
    losses, _ = stepped(folder, 1)
    assert history[0] == pytest.approx(losses[0], rel=0.05) and history[-1] < history[0]
    assert model.variable_dtype == "float32" and model.all_params()["decoder.head.bias"].dtype == np.float32


def test_two_devices_take_the_steps_of_one(folder: Path) -> None:
    devices = tf.config.list_logical_devices("CPU")
    assert len(devices) == 2
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    with strategy.scope():
        model = compiled(folder)
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(4)
    history = model.fit(dataset, epochs=2, shuffle=False, verbose=0).history["loss"]
    losses, theirs = stepped(folder, 2)
    np.testing.assert_allclose(history, losses, rtol=1e-4)
    assert_trained_alike(model, theirs)


@pytest.mark.parametrize("kind", ["marian", "m2m_100"])
def test_what_is_fixed_is_not_trained(kind: str, tmp_path: Path) -> None:
    """Sinusoids and the bias of the logits, which files hold or do not: a trained model is the one that is saved."""
    folders(kind, tmp_path / "checkpoint")
    model = TFEncoderDecoderModel.from_pretrained(tmp_path / "checkpoint")
    theirs = EncoderDecoderModel.from_pretrained(tmp_path / "checkpoint")
    fixed = {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
    before = model.all_params()
    assert fixed and {v.name for v in model.non_trainable_variables} >= fixed & set(model.variables_by_name.table)
    ids = np.random.default_rng(0).integers(5, 20, (4, 6)).astype(np.int32)
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    model.fit({"input_ids": ids, "labels": ids}, batch_size=4, epochs=2, verbose=0)
    after = model.all_params()
    assert all(np.array_equal(before[name], after[name]) for name in fixed)
    assert any(not np.array_equal(before[name], after[name]) for name in before)
