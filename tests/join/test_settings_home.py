"""Every setting has one home: what is written to a config about generation is heard, and two files never disagree."""

import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import conjoin
from conjoin import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2Config, T5Config
from conjoin.errors import ConfigError, ConjoinWarning
from conjoin.families import config_from_dict
from conjoin.generation import GenerationConfig
from oracle_tiny import TINY
from pairs import GPT, SOURCE, fresh, stir

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
IDS: dict[str, Any] = {"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
BACKENDS = ("EncoderDecoderModel", "FlaxEncoderDecoderModel", "TFEncoderDecoderModel")
X = [[3, 4, 5, 6]]


def pair_config(**values: Any) -> EncoderDecoderConfig:
    half = BertConfig(vocab_size=40, **SMALL)
    return EncoderDecoderConfig.from_encoder_decoder_configs(half, half, **{**IDS, **values})


def backend(name: str) -> Any:
    if name != "EncoderDecoderModel":
        pytest.importorskip("jax" if name.startswith("Flax") else "tensorflow")
    return getattr(conjoin, name)


def ids_of(model: Any, **settings: Any) -> list[list[int]]:
    x = torch.tensor(X) if isinstance(model, EncoderDecoderModel) else np.array(X, np.int32)
    made = model.generate(x, **settings)
    return np.asarray(getattr(made, "sequences", made)).tolist()


@pytest.mark.parametrize("name", BACKENDS)
def test_generation_words_on_a_config_are_honoured_saved_and_loaded(name: str, tmp_path: Path) -> None:
    kind = backend(name)
    torch.manual_seed(3)
    EncoderDecoderModel(pair_config()).save_pretrained(tmp_path / "start")
    model = kind.from_pretrained(tmp_path / "start")
    plain = ids_of(model, max_new_tokens=8)
    model.config.num_beams = 4
    model.config.max_length = 9
    model.config.decoder.no_repeat_ngram_size = 1
    assert model.generation_config.num_beams == model.config.num_beams == 4
    written = ids_of(model)
    assert written != plain
    assert written == ids_of(
        kind.from_pretrained(tmp_path / "start"), num_beams=4, max_length=9, no_repeat_ngram_size=1
    )
    model.save_pretrained(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert (said["num_beams"], said["max_length"], said["no_repeat_ngram_size"]) == (4, 9, 1)
    assert not any(word in (tmp_path / "saved" / "config.json").read_text() for word in ("num_beams", "no_repeat"))
    assert ids_of(kind.from_pretrained(tmp_path / "saved")) == written


def test_every_way_of_writing_to_a_config_reaches_generate() -> None:
    model = EncoderDecoderModel(pair_config(num_beams=2))
    assert model.generation_config.num_beams == 2
    halves = model.config.encoder, model.config.decoder
    model.config.update({"num_beams": 3, "max_length": 11})
    assert (model.config.encoder, model.config.decoder) == halves
    assert model.config.decoder is model.decoder.config, "an update keeps the objects that it does not change"
    assert (model.generation_config.num_beams, model.generation_config.max_length) == (3, 11)
    setattr(model.config.decoder, "length_penalty", 0.5)  # noqa: B010
    assert model.generation_config.length_penalty == 0.5
    model.config.decoder.update({"num_beams": 5})
    assert model.config.num_beams == 5
    model.generation_config.num_beams = 6
    assert model.config.num_beams == model.config.to_dict()["num_beams"] == 6
    model.generation_config = GenerationConfig(num_beams=7)
    assert model.config.num_beams == 7
    model.config.num_beams = 8
    assert model.generation_config.num_beams == 8
    del model.config.num_beams
    assert model.generation_config.num_beams is None and not hasattr(model.config, "num_beams")
    model.config = pair_config(num_beams=9)
    assert model.generation_config.num_beams == 9


def test_an_encoder_refuses_what_only_a_decoder_can_do() -> None:
    model = EncoderDecoderModel(pair_config())
    with pytest.raises(ConfigError, match=r"num_beams = 4: an encoder writes no tokens[\s\S]*model.generation_config"):
        model.config.encoder.num_beams = 4
    model.config.encoder.hidden_dropout_prob = 0.5
    assert model.config.encoder.hidden_dropout_prob == 0.5


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_has_settings_of_its_own(again: Any) -> None:
    model = EncoderDecoderModel(pair_config(num_beams=2))
    other = again(model)
    other.config.num_beams = 3
    assert (model.generation_config.num_beams, other.generation_config.num_beams) == (2, 3)


def test_models_of_one_config_all_hear_it() -> None:
    config = pair_config(num_beams=2)
    first, second = EncoderDecoderModel(config), EncoderDecoderModel(config)
    assert second.generation_config.num_beams == 2
    config.num_beams = 3
    assert first.generation_config.num_beams == second.generation_config.num_beams == 3


def test_a_whole_models_config_speaks_to_generate_too() -> None:
    config = T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = EncoderDecoderModel(config)
    model.config.forced_bos_token_id = 7
    assert ids_of(model, max_new_tokens=2)[0][1] == 7


def edit(folder: Path, file: str, **values: Any) -> None:
    plain = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**plain, **values}))


def test_old_files_without_generation_config_are_honoured(tmp_path: Path) -> None:
    EncoderDecoderModel(pair_config()).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    edit(tmp_path, "config.json", num_beams=3, max_length=12)
    settings = EncoderDecoderModel.from_pretrained(tmp_path).generation_config
    assert (settings.num_beams, settings.max_length) == (3, 12)


def test_two_files_that_disagree_are_named_and_generation_config_is_followed(tmp_path: Path) -> None:
    EncoderDecoderModel(pair_config(num_beams=2)).save_pretrained(tmp_path)
    edit(tmp_path, "config.json", num_beams=5, length_penalty=0.5)
    words = (
        r"length_penalty: 0.5 in config.json, nothing in generation_config.json\n.*num_beams: 5 in config.json, 2 in"
    )
    with pytest.warns(ConjoinWarning, match=words):
        model = EncoderDecoderModel.from_pretrained(tmp_path)
    assert model.generation_config.num_beams == 2
    model.save_pretrained(tmp_path)
    EncoderDecoderModel.from_pretrained(tmp_path)  # no warning: config.json is silent now
    (tmp_path / "generation_config.json").unlink()
    assert EncoderDecoderModel.from_pretrained(tmp_path).generation_config.num_beams is None


BLENDERBOT = {"forced_eos_token_id": 2, "encoder_no_repeat_ngram_size": 3}


@pytest.mark.parametrize(
    ("decoder", "held", "heard"),
    [
        ("blenderbot", BLENDERBOT, ()),
        ("blenderbot", {**BLENDERBOT, "encoder_no_repeat_ngram_size": 4}, ("encoder_no_repeat_ngram_size",)),
        ("bart", {"forced_eos_token_id": 2}, ()),
        ("bart", {"forced_eos_token_id": 3}, ("forced_eos_token_id",)),
        ("bart", {"encoder_no_repeat_ngram_size": 3}, ("encoder_no_repeat_ngram_size",)),
        ("gpt2", {"forced_eos_token_id": 2}, ("forced_eos_token_id",)),
    ],
)
def test_what_a_decoders_class_has_by_default_is_no_disagreement(
    decoder: str, held: dict[str, Any], heard: tuple[str, ...], tmp_path: Path
) -> None:
    half = config_from_dict({"model_type": decoder, **TINY[decoder], "is_decoder": True, "add_cross_attention": True})
    pair = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(vocab_size=40, **SMALL), half, **IDS)
    EncoderDecoderModel(pair).save_pretrained(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    edit(tmp_path, "config.json", decoder={**plain["decoder"], **held})
    edit(tmp_path, "generation_config.json", forced_eos_token_id=7, encoder_no_repeat_ngram_size=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EncoderDecoderModel.from_pretrained(tmp_path)
    told = "\n".join(str(each.message) for each in caught)
    assert {name for name in BLENDERBOT if f"{name}:" in told} == {*heard}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_keyword_of_loading_wins_over_both_files(name: str, tmp_path: Path) -> None:
    EncoderDecoderModel(pair_config(num_beams=2)).save_pretrained(tmp_path)
    assert backend(name).from_pretrained(tmp_path, num_beams=3).generation_config.num_beams == 3


def test_generation_settings_answer_with_the_models_ids() -> None:
    model = EncoderDecoderModel(pair_config())
    model.generation_config.pad_token_id = model.generation_config.eos_token_id
    assert model.generation_config.pad_token_id == 2 and model.config.pad_token_id == 0


def test_an_id_that_generation_is_told_apart_survives_a_save(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = EncoderDecoderModel(pair_config())
    model.generation_config.decoder_start_token_id = 9
    written = ids_of(model, max_new_tokens=5)
    assert written[0][0] == 9
    model.save_pretrained(tmp_path)
    with pytest.warns(ConjoinWarning, match="training uses the first, generate the second"):
        again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert ids_of(again, max_new_tokens=5) == written


ID_FIELDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "sep_token_id", "cls_token_id")


@pytest.mark.parametrize("value", [-1, -100, [-1], [-1, -2]])
@pytest.mark.parametrize("kind", [BertConfig, GPT2Config, T5Config, EncoderDecoderConfig])
def test_a_negative_id_means_none(kind: Any, value: Any) -> None:
    names = ID_FIELDS if isinstance(value, int) else ("eos_token_id",)
    config = kind(**dict.fromkeys(names, value))
    assert all(getattr(config, name) is None for name in names)
    for name in names:
        setattr(config, name, value)
        assert getattr(config, name) is None
    assert kind(eos_token_id=[-1, 7]).eos_token_id == [7]
    settings = GenerationConfig.from_dict({"forced_bos_token_id": -1, "eos_token_id": [-1, 7], "pad_token_id": -1})
    assert settings.set_values() == {"eos_token_id": [7]}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_negative_pad_in_files_is_as_good_as_none(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    EncoderDecoderModel(pair_config(pad_token_id=2)).save_pretrained(tmp_path)
    expected = EncoderDecoderModel.from_pretrained(tmp_path)
    plain = json.loads((tmp_path / "config.json").read_text())
    for values in (plain, plain["encoder"], plain["decoder"]):
        values.update(dict.fromkeys(("pad_token_id", "bos_token_id", "sep_token_id"), -1))
    (tmp_path / "config.json").write_text(json.dumps(plain))
    edit(tmp_path, "generation_config.json", pad_token_id=-1, bos_token_id=-1, forced_bos_token_id=-1)
    model = backend(name).from_pretrained(tmp_path)
    assert model.config.pad_token_id == 2, "it falls back to eos, as null does"
    assert ids_of(model, max_new_tokens=6) == ids_of(expected, max_new_tokens=6)


def test_a_join_with_a_decoder_of_negative_ids_generates_and_learns(tmp_path: Path) -> None:
    fresh(SOURCE, GPT).encoder.save_pretrained(tmp_path / "encoder")
    fresh(SOURCE, GPT).decoder.save_pretrained(tmp_path / "decoder")
    for half in ("encoder", "decoder"):
        edit(tmp_path / half, "config.json", pad_token_id=-1, bos_token_id=-1)
    edit(tmp_path / "decoder", "config.json", eos_token_id=2, decoder_start_token_id=1)
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")
    assert (model.config.pad_token_id, model.config.bos_token_id) == (2, None)
    labels = torch.tensor([[7, 8, 2], [2, -100, -100]])
    loss = stir(model)(input_ids=torch.ones(2, 2, dtype=torch.long), labels=labels).loss
    assert torch.isfinite(loss)
    batch = {"input_ids": torch.tensor([[5, 6], [8, 9]]), "labels": labels}
    assert model.doctor(batch)["ids"].status == model.doctor(batch)["start"].status == "ok"
    assert ids_of(model, max_new_tokens=2)[0][0] == 1
