"""Sharing between the halves: declared, saved once, and true after everything that a user does to a model."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import load_file, save_file

import oracle
from conjoin import ConjoinWarning, EncoderDecoderConfig, EncoderDecoderModel, JoinError
from conjoin.join import shared_names
from conjoin.torch.pair.halves import Decoder
from pairs import CLOSE, GPT, SOURCE, TARGET, batch, fresh, stir, with_tokenizer

ONE_LAYER_MORE = SOURCE.copy(num_hidden_layers=3)


def is_tied(model: EncoderDecoderModel) -> bool:
    """Whether every shared parameter is one object."""
    names = shared_names(model.spec)
    return bool(names) and all(model.encoder.get_parameter(name) is model.decoder.get_parameter(name) for name in names)


@pytest.fixture
def shared() -> EncoderDecoderModel:
    """Two halves in one set of weights."""
    return stir(fresh(SOURCE, SOURCE, share="all"))


def test_share_all_is_one_set_of_weights_with_fresh_cross_attention(shared: EncoderDecoderModel) -> None:
    apart = fresh(SOURCE, SOURCE)
    assert is_tied(shared)
    assert shared.num_parameters() == apart.num_parameters() - apart.encoder.num_parameters()
    assert set(shared.join_report.tied) == {f"decoder.{name}" for name, _ in shared.encoder.named_parameters()}


def test_share_embeddings_is_one_word_table_only() -> None:
    model = fresh(SOURCE, ONE_LAYER_MORE, share="embeddings")
    assert model.encoder.embed.words.weight is model.decoder.embed.words.weight
    assert model.encoder.embed.positions.weight is not model.decoder.embed.positions.weight


def test_two_folders_are_joined_shared(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path / "bert", "bert")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, share="all")
    assert is_tied(model)
    assert "tied" in str(model.join_report)


def test_cross_attention_copied_from_shared_self_attention_has_its_numbers(tmp_path: Path) -> None:
    folder = with_tokenizer(tmp_path / "bert", "bert")
    keywords = {"share": "all", "cross_attention_init": "self_attention"}
    for model in (
        EncoderDecoderModel.from_encoder_decoder_pretrained(folder, folder, **keywords),
        fresh(SOURCE, SOURCE, **keywords),
    ):
        for block in model.decoder.blocks:
            for one, other in zip(block.cross_attn.parameters(), block.self_attn.parameters(), strict=True):
                assert one is not other
                assert torch.equal(one, other)
                assert one.isfinite().all()


def test_sharing_survives_casts_copies_and_training(shared: EncoderDecoderModel) -> None:
    assert is_tied(copy.deepcopy(shared))
    model = shared.to(torch.float64).to("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()
    model(**batch(labels=batch()["labels"] % 50)).loss.backward()
    before = model.encoder.embed.words.weight.detach().clone()
    optimizer.step()
    assert is_tied(model)
    assert not torch.equal(model.decoder.embed.words.weight, before)


def test_gradients_of_both_halves_add_up(shared: EncoderDecoderModel, tmp_path: Path) -> None:
    shared.save_pretrained(tmp_path, untied=True)
    apart = EncoderDecoderModel.from_pretrained(tmp_path)
    assert not shared_names(apart.spec)
    for model in (shared, apart):
        model(**batch()).loss.backward()
    for name in shared_names(shared.spec):
        both = apart.encoder.get_parameter(name).grad + apart.decoder.get_parameter(name).grad
        torch.testing.assert_close(shared.encoder.get_parameter(name).grad, both, **CLOSE)


@pytest.mark.parametrize("share", ["all", "embeddings"])
def test_shared_weights_are_saved_once_and_come_back_tied(share: str, tmp_path: Path) -> None:
    model = stir(fresh(SOURCE, SOURCE, share=share))
    model.save_pretrained(tmp_path)
    names = set(safetensors.numpy.load_file(tmp_path / "model.safetensors"))
    assert "encoder.embeddings.word_embeddings.weight" in names
    assert "decoder.bert.embeddings.word_embeddings.weight" not in names
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert is_tied(again)
    assert torch.equal(again(**batch()).logits, model(**batch()).logits)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "conjoin"


def test_saved_untied_transformers_reads_two_copies(shared: EncoderDecoderModel, tmp_path: Path) -> None:
    shared.save_pretrained(tmp_path, untied=True)
    theirs = oracle.reload_pair(tmp_path, allow=["encoder.pooler."])
    made = oracle.batch(enc_pad=4, dec_pad=3)
    expected = oracle.pair_outputs(theirs, made)
    torch.testing.assert_close(shared(**made).logits, expected.logits, **CLOSE)
    assert is_tied(shared)


@pytest.mark.parametrize("kept", ["both", "encoder", "decoder"])
def test_an_old_checkpoint_with_tie_encoder_decoder_is_tied_again(
    kept: str, shared: EncoderDecoderModel, tmp_path: Path
) -> None:
    """transformers 4 wrote the flag, and whichever of the two names its safetensors code kept."""
    shared.save_pretrained(tmp_path, untied=True)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    twins = {name.replace("encoder.", "decoder.bert.", 1): name for name in tensors if name.startswith("encoder.")}
    dropped = {"both": [], "encoder": list(twins), "decoder": list(twins.values())}[kept]
    rest = {name: np.ascontiguousarray(array) for name, array in tensors.items() if name not in dropped}
    safetensors.numpy.save_file(rest, tmp_path / "model.safetensors", {"format": "pt"})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_encoder_decoder": True}))
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert is_tied(again)
    assert torch.equal(again(**batch()).logits, shared(**batch()).logits)
    again.save_pretrained(tmp_path / "again")
    assert is_tied(EncoderDecoderModel.from_pretrained(tmp_path / "again"))


def test_halves_that_transformers_5_trained_apart_under_that_flag_stay_apart(tmp_path: Path) -> None:
    theirs = oracle.save_pair("bert", "bert", tmp_path, tie_encoder_decoder=True)
    data = oracle.batch_for("bert", "bert")
    with pytest.warns(ConjoinWarning, match="stores 3. of them twice with different contents"):
        model = EncoderDecoderModel.from_pretrained(tmp_path)
    assert model.config.share == "none"
    torch.testing.assert_close(model(**data).logits, oracle.pair_outputs(theirs, data).logits, **CLOSE)


@pytest.mark.parametrize(
    ("decoder", "share", "message"),
    [
        (TARGET, "embeddings", r"embed\.words\.weight: encoder \(61, 20\), decoder \(53, 12\)"),
        (ONE_LAYER_MORE, "all", "layers: encoder 2, decoder 3"),
        (GPT, "all", "only in the encoder"),
    ],
)
def test_what_cannot_be_shared_is_named(decoder: object, share: str, message: str) -> None:
    with pytest.raises(JoinError, match=message):
        fresh(SOURCE, decoder, share=share)


def test_the_word_for_sharing_is_kept_in_the_config() -> None:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(SOURCE, SOURCE, share="all")
    assert EncoderDecoderConfig.from_dict(config.to_dict()).share == "all"
    assert EncoderDecoderConfig(tie_encoder_decoder=True).share == "all"


def test_what_transformers_cannot_hold_its_auto_classes_refuse(shared: EncoderDecoderModel, tmp_path: Path) -> None:
    shared.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model type `conjoin`"):
        oracle.reload_whole(tmp_path)


def test_one_half_keeps_a_head_that_its_config_ties(tmp_path: Path) -> None:
    """The file is right: two matrices that differ were trained apart."""
    folder = with_tokenizer(tmp_path / "gpt2", "gpt2")
    state = load_file(folder / "model.safetensors")
    words = next(name for name in state if name.endswith("wte.weight"))
    state["lm_head.weight"] = torch.randn_like(state[words])
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(ConjoinWarning, match="stores two different matrices"):
        half = Decoder.from_pretrained(folder)
    assert torch.equal(half.head.vocab.weight, state["lm_head.weight"]) and not half.config.tie_word_embeddings
    theirs = oracle.reload_decoder(folder)
    ids = torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(half(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)
