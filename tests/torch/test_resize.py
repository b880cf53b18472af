"""Vocabularies grow and shrink on either side; heads, biases, configs and files follow."""

from pathlib import Path
from typing import Any

import pytest
import torch

import oracle
from conjoin import BertConfig, ConfigError, EncoderDecoderModel
from conjoin.errors import ConjoinWarning
from conjoin.join import special_tokens
from pairs import CLOSE, GPT, SOURCE, TARGET, batch, fresh, stir, with_tokenizer

OWN_HEAD = TARGET.copy(tie_word_embeddings=False)


def test_the_encoder_grows_and_known_words_mean_what_they_meant(tmp_path: Path) -> None:
    model, data = stir(fresh()), batch()
    before = model(**data).logits
    table = model.resize_token_embeddings(encoder=70)
    assert table is model.get_input_embeddings()
    assert table.weight.shape == (70, 20) and table.num_embeddings == 70
    assert model.config.encoder.vocab_size == 70 and model.config.decoder.vocab_size == 53
    assert torch.equal(model(**data).logits, before)
    model(input_ids=torch.tensor([[69]]), labels=data["labels"][:1])


@pytest.mark.parametrize("decoder", [TARGET, OWN_HEAD, GPT], ids=["tied", "own head", "gpt2"])
@pytest.mark.parametrize("size", [60, 30])
def test_the_decoder_and_its_head_follow(decoder: Any, size: int, tmp_path: Path) -> None:
    model = stir(fresh(decoder=decoder))
    data = batch(labels=batch()["labels"].clamp(max=29))
    before = model(**data).logits
    model.resize_token_embeddings(decoder=size)
    after = model(**data).logits
    assert after.shape[-1] == size
    kept = min(size, 53)
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert model.config.decoder.vocab_size == size and model.config.encoder.vocab_size == 61
    model.save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert torch.equal(again(**data).logits, after)
    theirs = oracle.reload_pair(tmp_path, allow=["encoder.pooler."])
    assert theirs.decoder.get_output_embeddings().weight.shape[0] == size


def test_new_rows_start_as_the_mean_of_the_old_ones() -> None:
    model = stir(fresh(decoder=OWN_HEAD))
    old = {name: p.detach().clone() for name, p in model.decoder.named_parameters()}
    model.resize_token_embeddings(decoder=55)
    for name in ("embed.words.weight", "head.vocab.weight", "head.bias"):
        new = model.decoder.get_parameter(name)
        torch.testing.assert_close(new[53:], old[name].mean(0).expand_as(new[53:]))
        assert torch.equal(new[:53], old[name])


def test_new_rows_can_be_drawn_as_fresh_ones_are() -> None:
    model = stir(fresh(decoder=OWN_HEAD.copy(initializer_range=0.5)))
    model.resize_token_embeddings(decoder=2000, new_rows="normal")
    assert model.decoder.embed.words.weight[53:].std().item() == pytest.approx(0.5, rel=0.05)
    assert not model.decoder.head.bias[53:].any()


def test_sizes_can_be_rounded_up() -> None:
    model = fresh()
    model.resize_token_embeddings(encoder=61, decoder=53, pad_to_multiple_of=8)
    assert (model.spec.encoder.vocab_size, model.spec.decoder.vocab_size) == (64, 56)


@pytest.mark.parametrize("sizes", [{"new_num_tokens": 66}, {"encoder": 66}, {"decoder": 66}])
def test_a_shared_table_changes_for_both(sizes: dict[str, int], tmp_path: Path) -> None:
    model = stir(fresh(SOURCE, SOURCE, share="all"))
    model.resize_token_embeddings(**sizes)
    assert model.encoder.embed.words.weight is model.decoder.embed.words.weight
    assert model.config.encoder.vocab_size == model.config.decoder.vocab_size == 66
    assert model(**batch()).logits.shape[-1] == 66
    model.save_pretrained(tmp_path)
    assert EncoderDecoderModel.from_pretrained(tmp_path).spec == model.spec


@pytest.mark.parametrize("key", ["bart", "t5"])
def test_a_whole_model_has_one_number(key: str, tmp_path: Path) -> None:
    oracle.save_whole(key, tmp_path / "theirs")
    model = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    data = oracle.batch_for(key)
    before = model(**data).logits
    model.resize_token_embeddings(59)
    assert model.config.vocab_size == 59
    torch.testing.assert_close(model(**data).logits[..., :53], before)
    model.save_pretrained(tmp_path / "ours")
    expected = oracle.pair_outputs(oracle.reload_whole(tmp_path / "ours"), data)
    torch.testing.assert_close(model(**data).logits, expected.logits, **CLOSE)


def test_what_was_frozen_or_cast_stays_so() -> None:
    model = fresh().to(torch.bfloat16).freeze("encoder")
    model.resize_token_embeddings(encoder=70, decoder=60)
    assert not model.encoder.embed.words.weight.requires_grad
    assert model.decoder.embed.words.weight.requires_grad
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_the_report_counts_the_new_size() -> None:
    model = fresh()
    model.resize_token_embeddings(encoder=70)
    rows = {row[0]: row[4] for row in model.join_report.rows()}
    assert rows["encoder.embedding"] == sum(p.numel() for p in model.encoder.embed.parameters())


@pytest.mark.parametrize(
    ("share", "arguments", "message"),
    [
        ("none", {}, "no size is given"),
        ("none", {"new_num_tokens": 60}, r"resize_token_embeddings\(encoder=60\) or decoder=60"),
        ("none", {"new_num_tokens": 60, "encoder": 60}, "Two kinds of size"),
        ("none", {"encoder": 0}, "encoder = 0; expected 1 or more"),
        ("embeddings", {"encoder": 60, "decoder": 70}, "cannot have both 60 and 70 rows"),
    ],
)
def test_unclear_sizes_are_refused(share: str, arguments: dict[str, int], message: str) -> None:
    model = fresh(SOURCE, BertConfig(**{**SOURCE.to_dict()}), share=share)
    with pytest.raises(ConfigError, match=message):
        model.resize_token_embeddings(**arguments)


IN_USE = [
    ("decoder", 9, {"decoder_start_token_id": 9}),
    ("decoder", 7, {"decoder_start_token_id": 9, "eos_token_id": 7}),
    ("decoder", 40, {"forced_bos_token_id": 40}),
    ("decoder", 20, {"eos_token_id": 20}),
    ("encoder", 4, {"config.pad_token_id": 4}),
]


@pytest.mark.parametrize(("role", "size", "named"), IN_USE)
def test_ids_in_use_are_not_cut_off(role: str, size: int, named: dict[str, int]) -> None:
    model = fresh()
    if "forced_bos_token_id" in named:
        model.generation_config.forced_bos_token_id = 40
    if size == 20:
        model.config.eos_token_id = [7, 20]
    with pytest.raises(ConfigError) as caught:
        model.resize_token_embeddings(**{role: size})  # pyright: ignore[reportArgumentType]
    assert all(f"{name} = {index} would have no row" in str(caught.value) for name, index in named.items())
    assert (model.spec.encoder.vocab_size, model.spec.decoder.vocab_size) == (61, 53), "nothing changed"
    model.resize_token_embeddings(**{role: max(named.values()) + 1})  # pyright: ignore[reportArgumentType]


def test_a_smaller_table_says_what_it_drops(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    halves = with_tokenizer(tmp_path / "bert", "bert"), with_tokenizer(tmp_path / "gpt2", "gpt2")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(*halves)
    tokens = len(model.tokenizer.target)  # pyright: ignore[reportAttributeAccessIssue]
    model.resize_token_embeddings(decoder=tokens + 8)
    assert not caplog.text
    model.resize_token_embeddings(decoder=tokens)
    assert f"decoder: the rows of ids {tokens} to {tokens + 7} are dropped" in caplog.text
    last = max(special_tokens(model.config).eos)
    if last < tokens - 1:
        with pytest.warns(ConjoinWarning, match=f"its tokenizer has {tokens} tokens"):
            model.resize_token_embeddings(decoder=tokens - 1)
