"""FlaxEncoderDecoderModel: the files, losses, gradients and pieces of the PyTorch model."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import oracle
from conjoin import BartConfig, EncoderDecoderConfig, EncoderDecoderModel, FlaxEncoderDecoderModel
from conjoin.errors import ConfigError, ShapeError, WeightError
from jax_models import assert_close, inputs
from pairs import GPT, IDS, LLAMA, SOURCE, TARGET_LIKE_SOURCE, batch, fresh, joined, stir


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncoderDecoderModel, FlaxEncoderDecoderModel]:
    """One pair, of BERT's with a projection between them, in both frameworks."""
    folder = tmp_path_factory.mktemp("twins")
    torch.manual_seed(0)
    model = stir(fresh())
    model.save_pretrained(folder)
    return model, FlaxEncoderDecoderModel.from_pretrained(folder)


def both(
    theirs: EncoderDecoderModel, ours: FlaxEncoderDecoderModel, given: dict[str, Any], **more: Any
) -> tuple[Any, Any]:
    """What both make of one batch."""
    with torch.no_grad():
        expected = theirs(**given, **more)
    return ours(**inputs(given), **more), expected


def test_a_batch_gives_torchs_logits_loss_states_and_attentions(twins: Any) -> None:
    theirs, ours = twins
    given = batch()
    found, expected = both(theirs, ours, given, output_hidden_states=True, output_attentions=True)
    assert_close(found.loss, expected.loss)
    assert_close(found.logits, expected.logits)
    assert found.keys() == tuple(key for key in expected if key != "past_key_values")
    for name in ("decoder_hidden_states", "decoder_attentions", "cross_attentions", "encoder_attentions"):
        assert len(found[name]) == len(expected[name])
        for mine, other in zip(found[name], expected[name], strict=True):
            assert_close(mine, other)


def test_lengths_in_a_bucket_give_what_exact_lengths_give(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, given = twins[1], inputs(batch())
    wide = ours(**given)
    monkeypatch.setattr(ours, "bucket_size", 1)
    exact = ours(**given)
    assert wide.logits.shape == exact.logits.shape
    np.testing.assert_allclose(wide.logits, exact.logits, atol=1e-5)
    np.testing.assert_allclose(wide.loss, exact.loss, rtol=1e-6)
    with jax.disable_jit():
        np.testing.assert_allclose(ours(**given).logits, exact.logits, atol=1e-5)


def test_labels_are_smoothed_and_divided_as_in_torch(twins: Any) -> None:
    found, expected = both(*twins, batch(), smoothing=0.1, num_items_in_batch=3, output_logits=False)
    assert_close(found.loss, expected.loss)
    assert found.logits is None


def test_packed_rows_do_not_see_each_other(twins: Any) -> None:
    segments = {"segment_ids": [[1, 1, 1, 2, 2, 2, 2]] * 2, "decoder_segment_ids": [[1] * 4 + [2] * 6 + [0]] * 2}
    given = batch() | {name: torch.tensor(ids) for name, ids in segments.items()}
    found, expected = both(*twins, given)
    assert_close(found.loss, expected.loss)
    with pytest.raises(ShapeError, match="one side only"):
        twins[1](**inputs({name: x for name, x in given.items() if name != "segment_ids"}))


def test_gradients_are_torchs(twins: Any) -> None:
    theirs, ours = twins
    given = batch()
    theirs.zero_grad()
    theirs(**given).loss.backward()
    arrays = inputs(given)

    @jax.jit
    def gradients(params: Any, recompute: jax.Array) -> Any:
        return jax.grad(lambda p: ours(**arrays, params=p).loss)(params)

    @jax.jit
    def recomputed(params: Any) -> Any:
        return jax.grad(lambda p: ours(**arrays, params=p, gradient_checkpointing=True).loss)(params)

    plain = gradients(ours.flat_params, jnp.zeros(()))
    again = recomputed(ours.flat_params)
    for name, parameter in theirs.named_parameters():
        assert_close(plain[name], parameter.grad, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(again[name], plain[name], rtol=1e-4, atol=1e-6)


def test_encode_and_decode_step_by_step_give_the_whole(twins: Any) -> None:
    theirs, ours = twins
    given = oracle.batch(enc_pad=4, dec_pad=3)
    arrays = inputs(given)
    with torch.no_grad():
        expected = theirs(given["input_ids"], given["attention_mask"], given["decoder_input_ids"]).logits
    encoded = ours.encode(arrays["input_ids"], arrays["attention_mask"])
    ids, mask = arrays["decoder_input_ids"], arrays["attention_mask"]
    assert_close(ours.decode(ids, encoded, mask).logits, expected)
    cache = ours.init_cache(2, 12, encoded)
    for start, end in ((0, 3), (3, 4), (4, 5)):
        step = ours.decode(ids[:, start:end], None, mask, past_key_values=cache)
        cache = step.past_key_values
        assert_close(step.logits, expected[:, start:end])
    with pytest.raises(ShapeError, match="room for 12"):
        ours.decode(ids, None, mask, past_key_values=cache)


def test_dropout_needs_a_key_and_changes_with_it(twins: Any, tmp_path: Path) -> None:
    twins[0].save_pretrained(tmp_path)
    model = FlaxEncoderDecoderModel.from_pretrained(tmp_path)
    for half in ("encoder", "decoder"):
        config = getattr(model.config, half)
        config.hidden_dropout_prob = 0.5
    noisy = FlaxEncoderDecoderModel(model.config)
    given = inputs(batch())
    losses = [float(noisy(**given, train=True, dropout_rng=jax.random.key(seed)).loss) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert float(noisy(**given).loss) not in losses
    with pytest.raises(ShapeError, match="dropout_rng"):
        noisy(**given, train=True)


@pytest.mark.parametrize("share", ["none", "embeddings", "all"])
def test_what_is_saved_here_is_torchs_model_again(share: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = stir(fresh(SOURCE, TARGET_LIKE_SOURCE, share=share))
    first.save_pretrained(tmp_path / "torch")
    model = FlaxEncoderDecoderModel.from_pretrained(tmp_path / "torch")
    assert model.num_parameters() == first.num_parameters()
    model.save_pretrained(tmp_path / "jax")
    written = {p.name: p.read_bytes() for p in (tmp_path / "torch").iterdir()}
    assert written == {p.name: p.read_bytes() for p in (tmp_path / "jax").iterdir()}
    found, expected = both(first, model, batch())
    assert_close(found.loss, expected.loss)


def test_halves_are_joined_with_fresh_cross_attention(tmp_path: Path) -> None:
    torch_model = joined(tmp_path, "bert", "llama")
    names = (tmp_path / "encoder", tmp_path / "decoder")
    model = FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(
        *names, encoder_from_pt=True, decoder_start_token_id=oracle.START_ID, cross_attention_init="self_attention"
    )
    assert model.join_report.fresh == torch_model.join_report.fresh
    given = inputs(oracle.batch_for("bert", "llama"))
    model.save_pretrained(tmp_path / "out")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        expected = again(**oracle.batch_for("bert", "llama"))
    assert_close(model(**given).loss, expected.loss)
    taken = FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(names[0], decoder_model=model)
    assert np.array_equal(
        taken.flat_params["decoder.head.vocab.weight"], model.flat_params["decoder.head.vocab.weight"]
    )


def test_bfloat16_parameters_compute_in_bfloat16(twins: Any, tmp_path: Path) -> None:
    ours = twins[1]
    ours.save_pretrained(tmp_path, params=ours.to_bf16(ours.params))
    model = FlaxEncoderDecoderModel.from_pretrained(tmp_path)
    given = inputs(batch())
    found = model(**given)
    assert model.flat_params["encoder.embed.words.weight"].dtype == found.logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.logits.astype(jnp.float32), ours(**given).logits, atol=5e-2)
    wide = FlaxEncoderDecoderModel.from_pretrained(tmp_path, dtype=jnp.float32)
    assert wide(**given).logits.dtype == jnp.float32
    back = EncoderDecoderModel.from_pretrained(tmp_path)
    assert back.dtype == torch.bfloat16


def test_params_are_nested_and_checked(twins: Any) -> None:
    ours = twins[1]
    params = ours.params
    assert params["encoder"]["blocks"]["0"]["self_attn"]["q"]["weight"].shape == (20, 20)
    ours.params = params
    del params["encoder"]["embed"]
    with pytest.raises(WeightError, match="weight: missing"):
        ours.params = params
    masked = ours.to_fp16(ours.flat_params, {name: "norm" not in name for name in ours.flat_params})
    assert {str(value.dtype) for name, value in masked.items() if "norm" in name} == {"float32"}


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(SOURCE, GPT, **IDS)
    one, same, other = (FlaxEncoderDecoderModel(config, seed=seed) for seed in (3, 3, 4))
    name = "decoder.blocks.0.mlp.up.weight"
    assert np.array_equal(one.flat_params[name], same.flat_params[name])
    assert not np.array_equal(one.flat_params[name], other.flat_params[name])
    std = float(one.flat_params[name].std())
    assert 0.015 < std < 0.025
    drawn = one.init_weights(jax.random.key(0), params={"decoder": {"final_norm": one.params["decoder"]["final_norm"]}})
    assert set(drawn) == set(one.params)


def test_wrong_calls_say_what_to_do(twins: Any) -> None:
    ours, given = twins[1], inputs(batch())
    with pytest.raises(ShapeError, match="Neither decoder_input_ids nor labels"):
        ours(given["input_ids"])
    with pytest.raises(ShapeError, match="position table has 64"):
        ours(jnp.zeros((1, 65), jnp.int32), labels=given["labels"][:1])
    with pytest.raises(ShapeError, match="batch, length"):
        ours(given["input_ids"][0], labels=given["labels"])
    with pytest.raises(ShapeError, match="input_ids: 61 to 61, but bert's vocabulary has 61"):
        ours(jnp.full((1, 2), 61), labels=given["labels"][:1])
    with pytest.raises(ConfigError, match="_do_init"):
        FlaxEncoderDecoderModel(ours.config, _do_init=False)
    with pytest.raises(ConfigError, match="JAX places arrays"):
        FlaxEncoderDecoderModel.from_pretrained("somewhere", device="cpu")
    with pytest.raises(TypeError, match="takes no attention"):
        ours(**given, attention=1)


def test_norms_in_float32_write_as_the_forward_pass_reads(tmp_path: Path) -> None:
    """Keys of such a model are wider than its cache."""
    stir(fresh(SOURCE, LLAMA)).save_pretrained(tmp_path)
    ours = FlaxEncoderDecoderModel.from_pretrained(tmp_path)
    ours.params = ours.to_bf16(ours.flat_params, {name: "norm" not in name for name in ours.flat_params})
    given = inputs(batch())
    row = ours.generate(given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=3, min_new_tokens=3)
    assert np.asarray(row.sequences).shape[1] == 4


def test_halves_of_whole_models_and_of_other_dtypes_are_joined(tmp_path: Path) -> None:
    bart = {"d_model": 20, "encoder_ffn_dim": 9, "decoder_ffn_dim": 9, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    EncoderDecoderModel(config=BartConfig(vocab_size=61, **bart, **heads)).save_pretrained(tmp_path / "bart")
    fresh().save_pretrained(tmp_path / "pair")
    whole = FlaxEncoderDecoderModel.from_pretrained(tmp_path / "bart")
    narrow = FlaxEncoderDecoderModel.from_pretrained(tmp_path / "pair")
    narrow.params = narrow.to_bf16(narrow.flat_params)
    joint = FlaxEncoderDecoderModel.from_encoder_decoder_pretrained(encoder_model=whole, decoder_model=narrow)
    assert joint.config.encoder.model_type == "bart" and joint.config.decoder.model_type == "bert"
    assert {str(value.dtype) for value in joint.flat_params.values()} == {"float32"}
