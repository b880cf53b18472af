"""The word table of a seq2seq checkpoint is found under whichever name its file kept, for a half as for the whole."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import oracle
from conjoin import EncoderDecoderModel
from conjoin.errors import ConjoinWarning, WeightError
from conjoin.torch.pair.halves import Decoder, Encoder
from pairs import fresh

PREFIX = {"bart": "model.", "mbart": "model.", "t5": "", "mt5": "", "umt5": ""}
NAMES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
FAMILIES = tuple(next(key for key in oracle.WHOLE_KEYS if oracle.model_type(key) == name) for name in PREFIX)


def keep(key: str, folder: Path, kept: str, **tensors: Tensor) -> Tensor:
    """Save the oracle's whole checkpoint with its word table under one name only; returns the table."""
    oracle.save_whole(key, folder)
    prefix = PREFIX[oracle.model_type(key)]
    stored = load_file(folder / "model.safetensors")
    names = [name if name.startswith("lm_head") else prefix + name for name in NAMES]
    table = next(stored[name] for name in names if name in stored)
    rest = {name: tensor for name, tensor in stored.items() if name not in names}
    save_file(rest | {name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    if kept:
        name = kept if kept.startswith("lm_head") else prefix + kept
        save_file({**rest, name: table}, folder / "model.safetensors")
    return table


@pytest.mark.parametrize("kept", NAMES)
@pytest.mark.parametrize("key", FAMILIES)
def test_a_half_finds_its_words_under_every_name(key: str, kept: str, tmp_path: Path) -> None:
    table = keep(key, tmp_path, kept)
    for half in (Encoder, Decoder):
        assert torch.equal(half.from_pretrained(tmp_path).embed.words.weight, table)
    assert torch.equal(EncoderDecoderModel.from_pretrained(tmp_path).encoder.embed.words.weight, table)


@pytest.mark.parametrize("kept", NAMES)
@pytest.mark.parametrize("key", [FAMILIES[0], FAMILIES[2]])
def test_such_a_half_joins_another_on_either_side(key: str, kept: str, tmp_path: Path) -> None:
    table = keep(key, tmp_path / "whole", kept)
    oracle.save_encoder("bert", tmp_path / "bert")
    oracle.save_decoder("gpt2", tmp_path / "gpt2")
    join = EncoderDecoderModel.from_encoder_decoder_pretrained
    assert torch.equal(join(tmp_path / "whole", tmp_path / "gpt2").encoder.embed.words.weight, table)
    assert torch.equal(join(tmp_path / "bert", tmp_path / "whole").decoder.embed.words.weight, table)


def test_a_pickled_file_and_shards_of_one_name_only_are_read_alike(tmp_path: Path) -> None:
    table = keep("bart", tmp_path, "lm_head.weight")
    stored = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(stored, tmp_path / "pytorch_model.bin")
    assert torch.equal(Encoder.from_pretrained(tmp_path).embed.words.weight, table)
    (tmp_path / "pytorch_model.bin").unlink()
    index = {name: f"model-{number:05}-of-00002.safetensors" for number, name in enumerate(stored, 1) if number < 3}
    where = {name: index.get(name, "model-00002-of-00002.safetensors") for name in stored}
    for file in set(where.values()):
        save_file({name: t for name, t in stored.items() if where[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert torch.equal(Encoder.from_pretrained(tmp_path).embed.words.weight, table)


def test_a_head_that_is_not_tied_is_no_word_table(tmp_path: Path) -> None:
    keep("t5", tmp_path, "lm_head.weight")
    plain = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**plain, "tie_word_embeddings": False}))
    for read in (Encoder.from_pretrained, Decoder.from_pretrained, EncoderDecoderModel.from_pretrained):
        with pytest.raises(WeightError, match=r"embed\.words\.weight"):
            read(tmp_path)


def test_a_tied_causal_model_may_keep_its_head_alone(tmp_path: Path) -> None:
    oracle.save_decoder("gpt2", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = next(name for name in stored if name.endswith("wte.weight"))
    table = stored.pop(name)
    save_file({**stored, "lm_head.weight": table}, tmp_path / "model.safetensors")
    assert torch.equal(Decoder.from_pretrained(tmp_path).embed.words.weight, table)


@pytest.mark.parametrize("key", FAMILIES)
def test_copies_of_the_words_that_differ_are_named_and_the_encoders_is_taken(key: str, tmp_path: Path) -> None:
    table = keep(key, tmp_path, "shared.weight")
    prefix = PREFIX[oracle.model_type(key)]
    stored = load_file(tmp_path / "model.safetensors")
    own = torch.randn_like(table)
    save_file({**stored, f"{prefix}encoder.embed_tokens.weight": own}, tmp_path / "model.safetensors")
    words = rf"{prefix}shared\.weight should be copies of {prefix}encoder\.embed_tokens\.weight"
    for read in (Encoder.from_pretrained, EncoderDecoderModel.from_pretrained):
        with pytest.warns(ConjoinWarning, match=words):
            model = read(tmp_path)
        assert torch.equal(getattr(model, "encoder", model).embed.words.weight, own)


@pytest.mark.parametrize(
    ("part", "gone", "said"),
    [
        ("encoder", "encoder.", "there is no encoder"),
        ("decoder", "decoder.", "there is no decoder"),
        ("cross", "crossattention", "there is no cross-attention"),
    ],
)
def test_a_file_without_a_half_names_the_call_that_joins(part: str, gone: str, said: str, tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    kept = {n: t for n, t in stored.items() if not (n.startswith(gone) if part != "cross" else gone in n)}
    assert 0 < len(kept) < len(stored)
    save_file(kept, tmp_path / "model.safetensors")
    with pytest.raises(WeightError) as caught:
        EncoderDecoderModel.from_pretrained(tmp_path)
    text = str(caught.value)
    assert said in text and "from_encoder_decoder_pretrained(" in text and "blocks" not in text
    assert len(text.splitlines()) <= 4


def test_an_encoder_file_of_a_whole_family_says_what_it_lacks(tmp_path: Path) -> None:
    oracle.save_whole("t5", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in stored.items() if not n.startswith("decoder.")}, tmp_path / "model.safetensors")
    with pytest.raises(WeightError, match=r"no decoder \(\d+ tensors\) and no cross-attention[\s\S]*DECODER\)"):
        EncoderDecoderModel.from_pretrained(tmp_path)
