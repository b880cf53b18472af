"""TFEncoderDecoderModel: the files, losses, gradients and pieces of the PyTorch model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import torch

from conjoin import EncoderDecoderConfig, EncoderDecoderModel, TFEncoderDecoderModel
from conjoin.errors import ConfigError, ShapeError
from pairs import IDS, SOURCE, TARGET
from tf_models import assert_close, batch, inputs, torch_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="twins", scope="module")
def twins_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderDecoderModel, TFEncoderDecoderModel]:
    folder = tmp_path_factory.mktemp("twins")
    model = torch_model()
    model.save_pretrained(folder)
    return model, TFEncoderDecoderModel.from_pretrained(folder, from_pt=True)


def test_a_batch_gives_torchs_logits_loss_states_and_attentions(twins: Any) -> None:
    theirs, ours = twins
    given, more = batch(), {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        expected = theirs(**given, **more)
    found = ours(**inputs(given), **more)
    assert_close(found.loss, expected.loss)
    assert_close(found.logits, expected.logits)
    assert set(found) == {key for key in expected if key != "past_key_values"}
    for name in ("decoder_hidden_states", "decoder_attentions", "cross_attentions", "encoder_attentions"):
        assert len(found[name]) == len(expected[name])
        for mine, other in zip(found[name], expected[name], strict=True):
            assert_close(mine, other)
    assert found[0] is found.loss and found.to_tuple()[1] is found["logits"]
    numpy = {name: x.numpy() for name, x in given.items()}
    assert_close(ours(numpy).loss, expected.loss)  # a dict, as fit gives it
    loss, logits, _ = ours(**numpy, return_dict=False)
    assert_close(loss, expected.loss)
    encoded = ours.encode(numpy["input_ids"], numpy["attention_mask"])
    again = ours(encoder_outputs=encoded, attention_mask=numpy["attention_mask"], labels=numpy["labels"])
    np.testing.assert_allclose(again.logits, logits, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_traced_call_gives_what_an_eager_one_gives(twins: Any, jit_compile: bool) -> None:
    ours, given = twins[1], inputs(batch())
    traced = tf.function(ours, jit_compile=jit_compile, autograph=False)(given)
    np.testing.assert_allclose(traced.logits, ours(given).logits, atol=1e-5)
    assert type(traced) is type(ours(given))


def test_gradients_are_torchs(twins: Any) -> None:
    theirs, ours = twins
    given = batch()
    theirs.zero_grad()
    theirs(**given).loss.backward()
    table = ours.variables_by_name.table
    with tf.GradientTape() as tape:
        loss = ours(**inputs(given)).loss
    found = dict(zip(table, tape.gradient(loss, [v.value for v in table.values()]), strict=True))
    for name, parameter in theirs.named_parameters():
        assert_close(tf.convert_to_tensor(found[name]), parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", ["none", "all"])
def test_what_is_saved_here_is_torchs_model_again(share: str, tmp_path: Path) -> None:
    first = torch_model("bert-like", share=share)
    first.save_pretrained(tmp_path / "torch")
    model = TFEncoderDecoderModel.from_pretrained(tmp_path / "torch")
    assert model.num_parameters() == first.num_parameters() == model.count_params()
    model.save_pretrained(tmp_path / "tf")
    written = {p.name: p.read_bytes() for p in (tmp_path / "torch").iterdir()}
    assert written == {p.name: p.read_bytes() for p in (tmp_path / "tf").iterdir()}


def test_halves_that_torch_saved_are_joined_and_take_the_pairs_config(tmp_path: Path) -> None:
    """The example in transformers' documentation of its TensorFlow class."""
    model = torch_model()
    model.encoder.save_pretrained(tmp_path / "encoder")
    model.decoder.save_pretrained(tmp_path / "decoder")
    names = tmp_path / "encoder", tmp_path / "decoder"
    tf_model = TFEncoderDecoderModel.from_encoder_decoder_pretrained(*names, encoder_from_pt=True, decoder_from_pt=True)
    tf_model.config = model.config
    given = batch()
    if tf_model.join_report.fresh:  # the projection belongs to neither half
        for name in tf_model.join_report.fresh:
            parameter = dict(model.named_parameters())[name]
            tf_model.variables_by_name.table[name].assign(parameter.detach().numpy())
    with torch.no_grad():
        expected = model(**given)
    assert_close(tf_model(**inputs(given)).logits, expected.logits)
    written = tf_model.generate(given["input_ids"].numpy(), max_new_tokens=5)
    assert written.numpy().tolist() == model.generate(given["input_ids"], max_new_tokens=5).tolist()
    taken = TFEncoderDecoderModel.from_encoder_decoder_pretrained(names[0], decoder_model=tf_model)
    name = "decoder.embed.words.weight"
    assert np.array_equal(taken.all_params()[name], tf_model.all_params()[name])


def test_bfloat16_parameters_stay_and_compute_in_bfloat16(twins: Any, tmp_path: Path) -> None:
    theirs, ours = twins
    theirs.save_pretrained(tmp_path)
    narrow = TFEncoderDecoderModel.from_pretrained(tmp_path, dtype="bfloat16")
    given = inputs(batch())
    assert narrow(**given).logits.dtype == tf.bfloat16
    narrow.save_pretrained(tmp_path / "narrow")
    assert EncoderDecoderModel.from_pretrained(tmp_path / "narrow").dtype == torch.bfloat16
    again = TFEncoderDecoderModel.from_pretrained(tmp_path / "narrow")
    assert again.variable_dtype == again.compute_dtype == "bfloat16"
    mixed = TFEncoderDecoderModel.from_pretrained(tmp_path, dtype="mixed_bfloat16")
    found = mixed(**given).logits
    assert found.dtype == tf.bfloat16 and mixed.variable_dtype == "float32"
    expected = ours(**given).logits
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, atol=0.05 * float(tf.reduce_max(abs(expected))))


def test_fresh_weights_depend_on_the_seed_alone_and_dropout_on_the_state() -> None:
    noisy = {"hidden_dropout_prob": 0.5}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(SOURCE.copy(**noisy), TARGET.copy(**noisy), **IDS)
    one, same, other = (TFEncoderDecoderModel(config, seed=seed) for seed in (3, 3, 4))
    name, given = "decoder.blocks.0.mlp.up.weight", inputs(batch())
    first, second, third = (model.all_params()[name] for model in (one, same, other))
    assert np.array_equal(first, second) and not np.array_equal(first, third)
    losses = [float(model(given, training=True).loss) for model in (one, same, one)]
    assert losses[0] == losses[1] != losses[2]
    assert float(one(given).loss) == float(same(given, training=False).loss)


def test_wrong_calls_say_what_to_do(twins: Any) -> None:
    ours, given = twins[1], inputs(batch())
    with pytest.raises(ShapeError, match="Neither decoder_input_ids nor labels"):
        ours(given["input_ids"])
    with pytest.raises(ShapeError, match="position table has 64"):
        ours(tf.zeros((1, 65), tf.int32), labels=given["labels"][:1])
    with pytest.raises(ShapeError, match="batch, length"):
        ours(given["input_ids"][0], labels=given["labels"])
    with pytest.raises(ShapeError, match="input_ids: 61 to 61, but bert's vocabulary has 61"):
        ours(tf.fill((1, 2), 61), labels=given["labels"][:1])
    with pytest.raises(ConfigError, match="a config alone"):
        TFEncoderDecoderModel()
    with pytest.raises(ConfigError, match="keeps no cache"):
        ours(**given, use_cache=True)
    with pytest.raises(ConfigError, match="TensorFlow places variables"):
        TFEncoderDecoderModel.from_pretrained("somewhere", device="cpu")


def test_keras_on_another_backend_is_refused_in_one_line() -> None:
    code = (
        "import os; os.environ['KERAS_BACKEND'] = 'torch'\n"
        "try:\n    from conjoin import TFEncoderDecoderModel\n"
        "except ImportError as error:\n    print(type(error).__name__, error)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "src", capture_output=True, text=True)
    assert told.stdout.startswith("MissingBackend Keras runs on torch in this process")
    assert "KERAS_BACKEND=tensorflow" in told.stdout


def test_torch_jax_and_tensorflow_compute_the_same_side_by_side(twins: Any, tmp_path: Path) -> None:
    from conjoin import FlaxEncoderDecoderModel

    theirs, ours = twins
    theirs.save_pretrained(tmp_path)
    jax_model, given = FlaxEncoderDecoderModel.from_pretrained(tmp_path), batch()
    numpy = {name: x.numpy() for name, x in given.items()}
    with torch.no_grad():
        expected = theirs(**given)
    assert_close(ours(**numpy).logits, expected.logits)
    assert_close(jax_model(**numpy).logits, expected.logits)
    ids = given["input_ids"]
    written = theirs.generate(ids, max_new_tokens=6).tolist()
    assert ours.generate(ids.numpy(), max_new_tokens=6).numpy().tolist() == written
    assert jax_model.generate(ids.numpy(), max_new_tokens=6).sequences.tolist() == written
