"""Settings of odd values and misspelt keywords: refused by name, with what was likely meant."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from conjoin import AutoConfig, BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GenerationConfig, T5Config
from conjoin.errors import ConfigError, ConjoinError, ConjoinWarning, GenerationError
from conjoin.families import GENERATION_KEYS, families
from conjoin.families.bounds import _FIELDS, _RULES
from pairs import fresh

Slip = tuple[dict[str, Any], str]
"""Misspelt keywords, and what was meant."""


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_dropout_prob": 3},
        {"hidden_dropout_prob": float("nan")},
        {"decoder_start_token_id": 2**63},
        {"num_hidden_layers": 10**10},
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 0},
        {"hidden_size": 10**9},
        {"vocab_size": 10**12},
        {"vocab_size": -1},
        {"eos_token_id": [2, 10**9]},
        {"layer_norm_eps": float("inf")},
    ],
    ids=str,
)
def test_numbers_that_no_model_can_have_are_refused_before_anything_is_built(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        BertConfig(**values)


def test_every_number_of_every_family_has_bounds() -> None:
    loose = {"max_window_layers", "sliding_window", "local_attention"}  # how far attention looks: any number will do
    for made in families().values():
        for base in made.config.__mro__:
            for name, hint in vars(base).get("__annotations__", {}).items():
                if str(hint).startswith(("<class 'int'>", "<class 'float'>", "int | None", "float | None")):
                    ruled = name in _FIELDS or any(fits(name) for fits, _ in _RULES)
                    assert ruled or name in loose, name


def test_a_misspelt_keyword_of_a_pair_names_what_was_meant() -> None:
    half = BertConfig()
    joins: tuple[Slip, ...] = (({"shared": "all"}, "share"), ({"cross_attention_int": 1}, "cross_attention_init"))
    for values, meant in joins:
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            EncoderDecoderConfig.from_encoder_decoder_configs(half, half, **values)
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            EncoderDecoderModel.from_encoder_decoder_pretrained("a", "b", **values)
    slips: tuple[Slip, ...] = (
        ({"num_beam": 4}, "num_beams"),
        ({"max_lenght": 9}, "max_length"),
        ({"is_decodr": 1}, "is_decoder"),
    )
    for values, meant in slips:
        for build in (EncoderDecoderConfig, partial(EncoderDecoderConfig.from_dict, {"model_type": "conjoin"})):
            with pytest.raises(ConfigError, match=f"did you mean {meant}"):
                build(**values)
    free = {"task_specific_params": {}, "unk_token_id": 3, "forced_bos_token_id": 4, "my_own": 5}
    assert EncoderDecoderConfig(**free).my_own == 5
    assert EncoderDecoderConfig.from_dict({"model_type": "encoder-decoder", "shared": 1}).shared == 1, "files are kept"


def test_keys_that_hugging_faces_files_carry_are_no_slips_of_the_pen(tmp_path: Path) -> None:
    carried = "_name_or_path _commit_hash _attn_implementation_autoset auto_map gradient_checkpointing output_past"
    carried += " processor_class pruned_heads quantization_config tf_legacy_loss torch_dtype torchscript use_bfloat16"
    carried += " xla_device unk_token_id vocab_size hidden_size max_position_embeddings num_hidden_layers"
    carried += " chunk_size_feed_forward id2label label2id problem_type transformers_version finetuning_task num_labels"
    values = dict.fromkeys(carried.split())
    config = EncoderDecoderConfig(**values)
    assert all(hasattr(config, name) for name in values if name != "torch_dtype")
    EncoderDecoderConfig().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(written | {"num_beam": 4}), encoding="utf-8")
    for read in (AutoConfig, EncoderDecoderConfig):
        assert read.from_pretrained(tmp_path).num_beam == 4, "what a file holds is kept"
        with pytest.raises(ConfigError, match="did you mean num_beams"):
            read.from_pretrained(tmp_path, num_beam=4)


def test_settings_of_generate_are_known_to_every_config() -> None:
    assert sorted(GENERATION_KEYS) == sorted(GenerationConfig.FIELDS)


def test_a_misspelt_keyword_of_a_half_or_of_loading_is_told_and_left_out(tmp_path: Path) -> None:
    model = fresh()
    model.save_pretrained(tmp_path / "pair")
    for half in ("encoder", "decoder"):
        getattr(model, half).save_pretrained(tmp_path / half)
    join, folders = EncoderDecoderModel.from_encoder_decoder_pretrained, (tmp_path / "encoder", tmp_path / "decoder")
    with pytest.warns(ConjoinWarning, match=r"encoder_hiden_size: .*Did you mean encoder_hidden_size\?"):
        joined = join(*folders, encoder_hiden_size=20)
    assert not hasattr(joined.config.encoder, "hiden_size")
    with pytest.warns(ConjoinWarning, match=r"encoder_dtpe: .*Did you mean encoder_dtype\?"):
        join(*folders, encoder_dtpe="float32")
    with pytest.warns(ConjoinWarning, match=r"decoder_start_tokn_id: .*Did you mean decoder_start_token_id\?"):
        EncoderDecoderModel.from_pretrained(tmp_path / "pair", decoder_start_tokn_id=3)
    with pytest.raises(TypeError, match="Did you mean max_shard_size"):
        model.save_pretrained(tmp_path / "out", max_shrd_size="1GB")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"quantization_config": 5}),
        ("config.json", {"conjoin": 5}),
        ("generation_config.json", {"eos_token_id": 1.5}),
        ("generation_config.json", {"pad_token_id": "x"}),
        ("generation_config.json", {"decoder_start_token_id": 2**63}),
        ("generation_config.json", {"decoder_start_token_id": [None]}),
        ("generation_config.json", {"decoder_start_token_id": [[1]]}),
        ("generation_config.json", {"sequence_bias": {"a": 1}}),
        ("generation_config.json", {"decoder_start_token_id": [None]}),
        ("generation_config.json", {"eos_token_id": [2, None]}),
        ("generation_config.json", {"length_penalty": 2**63, "num_beams": 2}),
        ("generation_config.json", {"sequence_bias": {"[" * 3000: 1}}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_odd_values_in_files_are_refused_as_ours(file: str, values: dict[str, Any], tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps({**json.loads((tmp_path / file).read_text()), **values}))
    with pytest.raises(ConjoinError, match=next(iter(values))):
        EncoderDecoderModel.from_pretrained(tmp_path).generate(torch.tensor([[5, 6]]), max_new_tokens=2)


@pytest.mark.parametrize("kind", [BertConfig, EncoderDecoderConfig, GenerationConfig])
def test_no_key_of_a_file_hides_a_part_of_the_class(kind: Any) -> None:
    fields = {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})}
    parts = {*dir(kind)} - (fields - {"FIELDS", "attribute_map"})
    assert {"copy", "to_dict", "__class__"} < parts
    for name in {*parts, "__deepcopy__"}:  # the last is a part of no class, and copy.deepcopy asks every object for it
        with pytest.raises(ConjoinError, match=rf"no value can have the name '{name}'"):
            kind.from_dict({name: 1.5})


@pytest.mark.parametrize("kind", [BertConfig, T5Config, EncoderDecoderConfig, GenerationConfig])
def test_a_key_of_a_file_may_have_the_name_of_an_argument_of_python_s(kind: Any) -> None:
    values = {"self": 1, "cls": 2, "values": 3}
    config = kind.from_dict(values)
    assert values.items() <= config.copy().to_dict().items()


@pytest.mark.parametrize("ours", [5, "zero_gate", [1]], ids=str)
def test_what_a_half_says_of_its_gates_is_an_object(ours: Any) -> None:
    half = {"model_type": "bert"}
    with pytest.raises(ConfigError, match=r"under 'conjoin' stands .*; expected an object"):
        EncoderDecoderConfig.from_dict({"encoder": half, "decoder": half | {"conjoin": ours}})


@pytest.mark.parametrize("values", [{"fresh": 1.5}, {"fresh": [1]}, {"conjoin": {"fresh": "all"}}], ids=str)
def test_what_is_fresh_is_a_list_of_names(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fresh"):
        EncoderDecoderConfig.from_dict(values)


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"])
@pytest.mark.parametrize("value", [[[]], {}, "x", 0.5, True], ids=str)
def test_an_id_of_another_kind_is_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(GenerationError, match=f"{name} = .*: expected an id"):
        fresh().generate(torch.tensor([[5, 6]]), max_new_tokens=2, **{name: value})


ODD: list[Any] = [None, -1, 0, 3, 1e300, 2**63, 10**12, 0.5, "x", "", [], [1.5], {}, {"a": 1}, True, "1", [[]], -2.5]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_random_damage_to_settings_works_or_is_an_error_of_ours(file: str, tmp_path: Path) -> None:
    fresh(num_beams=2, max_length=6, length_penalty=0.5).save_pretrained(tmp_path)
    text = (tmp_path / file).read_text()
    for seed in range(500):
        draw, plain = random.Random(seed), json.loads(text)
        part = draw.choice([plain, *(value for value in plain.values() if isinstance(value, dict))])
        key = draw.choice([*part, "top_k", "eos_token_id", "forced_bos_token_id", "bad_words_ids", "sequence_bias"])
        part[key] = draw.choice(ODD)
        (tmp_path / file).write_text(json.dumps(plain))
        try:
            EncoderDecoderModel.from_pretrained(tmp_path).generate(torch.tensor([[5, 6]]), max_new_tokens=2)
        except ConjoinError:
            continue
        except Exception as error:
            raise AssertionError(f"{seed}: {key} = {part[key]!r}") from error
