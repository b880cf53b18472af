"""Joining two checkpoints: keywords, ids, tokenizers, fresh cross-attention, width projection, and the report."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import rich.console
import torch

import oracle
from conjoin import (
    AutoTokenizer,
    BertConfig,
    ConfigError,
    ConjoinError,
    ConjoinWarning,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    JoinError,
    TokenizerError,
    TokenizerPair,
)
from conjoin.join import part_of, special_tokens
from conjoin.torch.pair.halves import Decoder, Encoder
from pairs import GPT, IDS, SOURCE, TARGET, batch, fresh, joined, save_half, stir, with_tokenizer

join = EncoderDecoderModel.from_encoder_decoder_pretrained


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """A BERT and a wider-tongued GPT-2 with their tokenizers."""
    return with_tokenizer(tmp_path / "bert", "bert"), with_tokenizer(tmp_path / "gpt2", "gpt2")


def test_keywords_go_to_the_half_that_their_prefix_names(halves: tuple[Path, Path]) -> None:
    model = join(*halves, encoder_hidden_dropout_prob=0.3, decoder_resid_pdrop=0.4, decoder_start_token_id=7)
    assert model.config.encoder.hidden_dropout_prob == 0.3
    assert model.encoder.spec.blocks[0].dropout == 0.3
    assert model.config.decoder.resid_pdrop == 0.4
    assert model.config.decoder_start_token_id == 7
    assert model.config.decoder.is_decoder and model.config.decoder.add_cross_attention
    assert not model.config.encoder.is_decoder


def test_a_config_may_be_given_for_either_half(halves: tuple[Path, Path]) -> None:
    config = BertConfig.from_pretrained(halves[0], hidden_act="relu")
    model = join(*halves, encoder_config=config)
    assert model.config.encoder.hidden_act == "relu"
    assert config.is_decoder is False


def test_ready_halves_are_taken_as_they_are(halves: tuple[Path, Path]) -> None:
    encoder, decoder = stir(Encoder.from_pretrained(halves[0])), stir(Decoder.from_pretrained(halves[1]))
    model = join(encoder_model=encoder, decoder_model=decoder)
    assert model.encoder.embed.words.weight is encoder.embed.words.weight
    assert model.decoder.blocks[0].mlp.up.weight is decoder.blocks[0].mlp.up.weight
    assert all(part_of(name) == "decoder.cross_attention" for name in model.join_report.fresh)
    assert len(model.join_report.copied) == len(list(encoder.parameters())) + len(list(decoder.parameters()))


def test_one_ready_half_joins_a_folder(halves: tuple[Path, Path]) -> None:
    encoder = stir(Encoder.from_pretrained(halves[0], dtype=torch.float64))
    model = join(decoder_pretrained_model_name_or_path=halves[1], encoder_model=encoder)
    assert model.encoder.embed.words.weight is encoder.embed.words.weight
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model.config.eos_token_id == 0


def test_the_constructor_takes_ready_halves(halves: tuple[Path, Path]) -> None:
    encoder, decoder = Encoder.from_pretrained(halves[0]), Decoder.from_pretrained(halves[1])
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    assert model.spec.decoder.has_cross_attention
    assert model.encoder.embed.words.weight is encoder.embed.words.weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither a name nor a model"),
        ({"encoder_model": 3}, "encoder_model is a int; expected conjoin's Encoder"),
    ],
)
def test_unusable_halves_say_what_to_give(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(JoinError, match=message):
        join(decoder_pretrained_model_name_or_path="nowhere", **arguments)


def test_a_pair_is_no_half(tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path / "pair")
    with pytest.raises(JoinError, match="holds a joined pair, not one half"):
        join(tmp_path / "pair", tmp_path / "pair")


@pytest.mark.parametrize("halves_given", [0, 1])
def test_the_constructor_says_what_it_needs(halves_given: int) -> None:
    arguments = {"encoder": fresh().encoder} if halves_given else {}
    with pytest.raises(ConfigError, match="give a config, or both an encoder and a decoder"):
        EncoderDecoderModel(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_dtype_is_that_of_every_parameter(halves: tuple[Path, Path], dtype: Any) -> None:
    model = join(*halves, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(halves[0].parent / "out")
    assert EncoderDecoderModel.from_pretrained(halves[0].parent / "out").dtype == torch.bfloat16
    assert EncoderDecoderModel.from_pretrained(halves[0].parent / "out", dtype="float32").dtype == torch.float32


def test_older_and_automatic_words_for_dtype_are_taken(halves: tuple[Path, Path]) -> None:
    assert join(*halves, torch_dtype="bfloat16").dtype == torch.bfloat16
    assert Encoder.from_pretrained(halves[0], torch_dtype=torch.float16).dtype == torch.float16
    assert Encoder.from_pretrained(halves[0], dtype="auto").dtype == torch.float32


def test_values_override_a_config_that_is_given_too(halves: tuple[Path, Path]) -> None:
    config = BertConfig.from_pretrained(halves[0])
    assert Encoder.from_pretrained(halves[0], config=config).config is config
    assert Encoder.from_pretrained(halves[0], config=config, hidden_act="relu").config.hidden_act == "relu"
    assert config.hidden_act == "gelu"


def test_keywords_without_effect_are_told(halves: tuple[Path, Path]) -> None:
    with pytest.warns(ConjoinWarning, match="attn_implementation, trust_remote_code: no effect here"):
        join(*halves, trust_remote_code=True, attn_implementation="sdpa")
    with pytest.warns(ConjoinWarning, match=r"encoder_hiden_size: BertConfig has no such field"):
        join(*halves, encoder_hiden_size=20)
    with pytest.warns(ConjoinWarning, match=r"hiden_act: BertConfig has no such field"):
        Encoder.from_pretrained(halves[0], hiden_act="relu")


def test_a_device_map_is_refused_with_the_word_for_one_device(halves: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match='device="cuda"'):
        join(*halves, device_map="auto")


def test_an_integer_dtype_is_refused(halves: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="expected one of float32, bfloat16"):
        join(*halves, dtype="int8")


def test_device_is_where_every_parameter_goes(halves: tuple[Path, Path]) -> None:
    assert join(*halves, device="cpu").device == torch.device("cpu")


# Ids


def test_ids_come_from_the_decoders_config_and_tokenizer(halves: tuple[Path, Path], tmp_path: Path) -> None:
    gpt = join(*halves)
    assert (gpt.config.decoder_start_token_id, gpt.config.eos_token_id, gpt.config.pad_token_id) == (0, 0, 0)
    tokenizer = AutoTokenizer.from_pretrained(halves[0])
    bert = join(halves[0], halves[0])
    assert bert.config.decoder_start_token_id == tokenizer.cls_token_id
    assert bert.config.eos_token_id == tokenizer.sep_token_id
    assert bert.config.pad_token_id == tokenizer.pad_token_id


def test_ids_are_stored_once_and_survive_saving(halves: tuple[Path, Path], tmp_path: Path) -> None:
    model = join(halves[0], halves[0])
    model.save_pretrained(tmp_path / "out")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert special_tokens(again.config) == special_tokens(model.config)
    theirs = oracle.reload_pair(tmp_path / "out", allow=["encoder.pooler."])
    assert theirs.generation_config.decoder_start_token_id == model.config.decoder_start_token_id
    assert theirs.generation_config.eos_token_id == model.config.eos_token_id


def test_the_decoders_own_start_is_kept(tmp_path: Path) -> None:
    model = joined(tmp_path, "bert", "t5")
    assert special_tokens(model.config).pad == 3
    assert model.config.decoder.decoder_start_token_id == oracle.START_ID


def test_without_any_hint_the_first_use_says_what_to_write(tmp_path: Path) -> None:
    save_half(tmp_path / "e", "bert", "encoder")
    save_half(tmp_path / "d", "bert/small", "decoder")
    model = join(tmp_path / "e", tmp_path / "d", decoder_bos_token_id=None, decoder_eos_token_id=None)
    assert model.config.decoder_start_token_id is None
    with pytest.raises(ConfigError, match=r"model\.config\.decoder_start_token_id = tokenizer\.cls_token_id"):
        model(**batch())
    with pytest.raises(ConjoinError, match="decoder_start_token_id"):
        model.generate(batch()["input_ids"])


def test_loading_asks_the_saved_tokenizers_for_ids_that_the_config_lacks(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    model = join(halves[0], halves[0])
    model.save_pretrained(tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id"):
        config.pop(name, None)
    path.write_text(json.dumps(config))
    (tmp_path / "out" / "generation_config.json").unlink()
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert special_tokens(again.config) == special_tokens(model.config)


# Tokenizers


def test_the_tokenizers_of_both_folders_become_a_pair_that_is_saved(halves: tuple[Path, Path], tmp_path: Path) -> None:
    model = join(*halves)
    assert isinstance(model.tokenizer, TokenizerPair)
    data = model.tokenizer(["a quick fox", "a dog"], text_target=["jumps", "over"], padding=True, return_tensors="pt")
    assert torch.isfinite(model(**data).loss)
    model.save_pretrained(tmp_path / "out")
    again = EncoderDecoderModel.from_pretrained(tmp_path / "out")
    same = again.tokenizer(["a quick fox", "a dog"], text_target=["jumps", "over"], padding=True, return_tensors="pt")
    assert all(torch.equal(data[name], same[name]) for name in data)
    theirs = oracle_tokenizer_ids(tmp_path / "out", "a quick fox")
    assert theirs == model.tokenizer("a quick fox")["input_ids"]


def oracle_tokenizer_ids(folder: Path, text: str) -> list[int]:
    """What transformers' AutoTokenizer reads from a saved pair: the source's ids."""
    import oracle_tokenizers

    return oracle_tokenizers.call(oracle_tokenizers.load(folder), text)["input_ids"]


def test_tokenizers_are_saved_even_if_nobody_asked_for_them(halves: tuple[Path, Path], tmp_path: Path) -> None:
    join(*halves).save_pretrained(tmp_path / "out")
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path / "out"), TokenizerPair)


def test_a_tokenizer_given_by_hand_is_the_one_that_is_saved(halves: tuple[Path, Path], tmp_path: Path) -> None:
    model = join(*halves)
    model.save_pretrained(tmp_path / "out")
    model.tokenizer = AutoTokenizer.from_pretrained(halves[0])
    model.save_pretrained(tmp_path / "out")
    assert not isinstance(AutoTokenizer.from_pretrained(tmp_path / "out"), TokenizerPair)


def test_a_model_without_tokenizers_says_what_to_write(tmp_path: Path) -> None:
    model = joined(tmp_path, "bert", "gpt2")
    with pytest.raises(TokenizerError, match=r"model\.tokenizer = TokenizerPair\(source, target\)"):
        _ = model.tokenizer
    model.save_pretrained(tmp_path / "out")


def test_a_broken_tokenizer_warns_at_the_join_and_does_not_stop_it(halves: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        (halves[1] / name).write_text("{")
    with pytest.warns(ConjoinWarning, match="The decoder's tokenizer cannot be used"):
        model = join(*halves)
    with pytest.warns(ConjoinWarning, match="saved without its tokenizers"):
        model.save_pretrained(tmp_path / "out")


# Cross-attention, projection, report


def test_fresh_cross_attention_is_drawn_as_transformers_draws_it() -> None:
    wide = BertConfig(
        vocab_size=53, hidden_size=120, num_attention_heads=3, num_hidden_layers=1, initializer_range=0.05
    )
    model = fresh(decoder=wide)
    cross = model.decoder.blocks[0].cross_attn
    assert cross.q.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert not cross.q.bias.any()
    assert torch.equal(model.decoder.blocks[0].cross_attn_norm.weight, torch.ones(120))


def test_cross_attention_can_start_as_a_copy_of_self_attention(halves: tuple[Path, Path]) -> None:
    model = join(halves[0], halves[0], cross_attention_init="self_attention")
    for block in model.decoder.blocks:
        for name, parameter in block.cross_attn.named_parameters():
            twin = block.self_attn.get_parameter(name)
            assert torch.equal(parameter, twin) and parameter is not twin


def test_what_is_not_as_wide_as_self_attention_is_drawn(halves: tuple[Path, Path]) -> None:
    model = join(*halves, cross_attention_init="self_attention")
    cross, own = model.decoder.blocks[0].cross_attn, model.decoder.blocks[0].self_attn
    assert model.enc_to_dec_proj is not None  # GPT-2 reads its own width, so that all of it can be copied
    assert torch.equal(cross.k.weight, own.k.weight)


def test_a_zero_gate_starts_as_the_language_model(halves: tuple[Path, Path]) -> None:
    model = join(*halves, cross_attention_init="zero_gate")
    alone = Decoder.from_pretrained(halves[1])
    ids = torch.tensor([[0, 5, 9, 2]])
    source = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(model(source, decoder_input_ids=ids).logits, alone(ids).logits)


def test_an_unknown_init_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match=r"cross_attention_init = 'zeros': expected .*'self_attention', 'zero_gate'"):
        fresh(cross_attention_init="zeros")


def test_other_widths_are_projected_as_transformers_does(tmp_path: Path) -> None:
    theirs = oracle.save_pair("bert", "gpt2", tmp_path / "theirs")
    model = EncoderDecoderModel.from_pretrained(tmp_path / "theirs")
    assert torch.equal(model.enc_to_dec_proj.weight, theirs.enc_to_dec_proj.weight)
    model.save_pretrained(tmp_path / "ours")
    again = oracle.reload_pair(tmp_path / "ours", allow=["encoder.pooler."])
    assert torch.equal(again.enc_to_dec_proj.weight, theirs.enc_to_dec_proj.weight)


def test_a_grafted_decoder_reads_the_encoders_width_directly(tmp_path: Path) -> None:
    model = joined(tmp_path, "bert", "llama")
    assert model.enc_to_dec_proj is None
    assert model.decoder.blocks[0].cross_attn.k.in_features == 20


def test_an_explicit_cross_attention_width_must_be_the_encoders(tmp_path: Path) -> None:
    decoder = TARGET.copy(cross_attention_hidden_size=13)
    with pytest.raises(JoinError, match="cross_attention_hidden_size = 13, but the encoder's hidden_size is 20"):
        EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(SOURCE, decoder))


def test_the_report_names_every_parameter_once_and_every_unused_tensor(tmp_path: Path) -> None:
    model = joined(tmp_path, "bert", "gpt2", share="none")
    report = model.join_report
    assert sorted([*report.copied, *report.tied, *report.fresh]) == sorted(report.origins)
    assert set(report.origins) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert {part_of(name) for name in report.fresh} == {"decoder.cross_attention"}
    unused = [name for names in report.unused.values() for name in names]
    assert unused == ["pooler.dense.bias", "pooler.dense.weight"]


def test_the_report_prints_as_a_table(tmp_path: Path) -> None:
    report = joined(tmp_path, "bert", "gpt2").join_report
    console = rich.console.Console(width=200, record=True, file=io.StringIO())
    console.print(report)
    for text in (str(report), console.export_text()):
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
        assert rows["part"] == ["copied", "tied", "fresh", "numbers"]
        assert rows["decoder.cross_attention"][2] != "0"
        assert "pooler.dense.weight" in text


def test_the_arguments_configs_stay_as_they_were() -> None:
    before = SOURCE.to_dict(), GPT.to_dict()
    fresh(decoder=GPT)
    assert before == (SOURCE.to_dict(), GPT.to_dict())


def test_a_model_from_configs_takes_its_ids_from_them() -> None:
    config = EncoderDecoderConfig.from_encoder_decoder_configs(SOURCE, TARGET.copy(**IDS))
    model = EncoderDecoderModel(config=config)
    assert model.config.decoder_start_token_id == 9
    assert model.config.eos_token_id == 7


# Freezing


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("encoder", {"encoder.embedding", "encoder.layers"}),
        ("embeddings", {"encoder.embedding", "decoder.embedding"}),
        ("decoder.embeddings", {"decoder.embedding"}),
        ("cross_attention", {"decoder.cross_attention"}),
        ("decoder", {"decoder.embedding", "decoder.layers", "decoder.cross_attention", "decoder.head"}),
    ],
)
def test_parts_are_frozen_and_freed_by_name(word: str, parts: set[str]) -> None:
    model = fresh().freeze(word)
    assert set(model.frozen_parts()) == parts
    assert all(p.requires_grad != (part_of(name) in parts) for name, p in model.named_parameters())
    assert model.unfreeze(word).frozen_parts() == []


def test_all_but_one_part_can_be_frozen_and_only_it_is_trained() -> None:
    model = fresh().train_only("cross_attention")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**batch()).loss.backward()
    optimizer.step()
    moved = {part_of(name) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"decoder.cross_attention"}
    assert model.num_parameters(only_trainable=True) < model.num_parameters()


def test_an_unknown_part_lists_the_parts_there_are() -> None:
    with pytest.raises(ConfigError, match=r"No part of this model is called 'attention'.*\n.*decoder\.cross_attention"):
        fresh().freeze("encoder", "attention")


def test_fixed_tables_stay_fixed(tmp_path: Path) -> None:
    model = joined(tmp_path, "distilbert/sinusoidal", "gpt2")
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert fixed == ["encoder.embed.positions.weight"]
    model.freeze("encoder").unfreeze()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == fixed


def test_freezing_what_the_other_half_shares_says_so() -> None:
    model = fresh(SOURCE, SOURCE, share="all")
    with pytest.warns(ConjoinWarning, match=r"those of decoder\.embedding, decoder\.layers are frozen too"):
        model.freeze("encoder")
