"""What Hugging Face's users write, beyond the plain call: keywords of loading and saving, configs, exporters."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import oracle
import oracle_generation
from conjoin import (
    ConfigError,
    EncoderDecoderModel,
    FileError,
    GenerationConfig,
    GenerationError,
    ShapeError,
    WeightError,
)
from conjoin.torch.pair.halves import Encoder
from pairs import CLOSE, GPT, LLAMA, TARGET, batch, fresh, save_half, stir


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    stir(fresh()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("halves")
    for role in ("encoder", "decoder"):
        save_half(folder / role, "bert", role)
    return folder / "encoder", folder / "decoder"


def inputs() -> dict[str, Any]:
    data = batch()
    labels = data.pop("labels")
    return {**data, "decoder_input_ids": labels.masked_fill(labels == -100, 3)}


def test_gpt2_adds_the_words_of_token_types(tmp_path: Path) -> None:
    theirs = oracle.save_pair("bert", "gpt2", tmp_path).eval()
    ours = EncoderDecoderModel.from_pretrained(tmp_path)
    data = oracle.batch_for("bert", "gpt2")
    ids = data.pop("labels").clamp_min(0)
    types = torch.randint(11, 50, ids.shape, generator=torch.Generator().manual_seed(0))
    given = {**data, "decoder_input_ids": ids, "decoder_token_type_ids": types}
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).logits, theirs(**given).logits, **CLOSE)


def test_token_types_are_refused_where_they_mean_nothing() -> None:
    model = fresh(decoder=LLAMA)
    with pytest.raises(ShapeError, match="has no token types"):
        model(**inputs(), decoder_token_type_ids=torch.zeros_like(inputs()["decoder_input_ids"]))


@pytest.mark.parametrize("device_map", [None, "cpu", {"": "cpu"}])
def test_a_device_map_of_one_device_is_a_device(saved: Path, device_map: Any) -> None:
    assert EncoderDecoderModel.from_pretrained(saved, device_map=device_map).device == torch.device("cpu")


@pytest.mark.parametrize("device_map", ["auto", {"encoder": "cpu", "decoder": "meta"}])
def test_a_device_map_of_several_is_refused(saved: Path, device_map: Any) -> None:
    with pytest.raises(ConfigError, match="a model is on one device"):
        EncoderDecoderModel.from_pretrained(saved, device_map=device_map)


@pytest.mark.parametrize(
    "word", [{"output_loading_info": True}, {"quantization_config": {"bits": 4}}, {"ignore_mismatched_sizes": True}]
)
def test_ways_of_loading_that_are_not_built_are_refused(saved: Path, halves: tuple[Path, Path], word: Any) -> None:
    (name, value), *_ = word.items()
    with pytest.raises(ConfigError, match=f"{name}=.*no such way of loading"):
        EncoderDecoderModel.from_pretrained(saved, **word)
    with pytest.raises(ConfigError, match=f"{name}=.*no such way of loading"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(*halves, **{f"decoder_{name}": value})


def test_what_no_config_can_hold_is_refused_before_anything_is_loaded(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"my_value: config\.json cannot hold a object"):
        EncoderDecoderModel.from_pretrained(saved, my_value=object())


@pytest.mark.parametrize("word", ["encoder_dtype", "decoder_dtype", "decoder_torch_dtype"])
def test_halves_have_one_dtype(halves: tuple[Path, Path], word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word}: both halves of a pair have one dtype"):
        EncoderDecoderModel.from_encoder_decoder_pretrained(*halves, **{word: torch.float16})


@pytest.mark.parametrize("make", [GenerationConfig, oracle_generation.config])
def test_settings_of_generate_may_come_with_the_call_that_loads(saved: Path, tmp_path: Path, make: Any) -> None:
    model = EncoderDecoderModel.from_pretrained(saved, generation_config=make(max_new_tokens=3))
    assert model.generation_config.max_new_tokens == 3
    model.save_pretrained(tmp_path)
    assert EncoderDecoderModel.from_pretrained(tmp_path).generation_config.max_new_tokens == 3


def test_configs_of_transformers_are_taken_for_what_they_say() -> None:
    model, data = stir(fresh()), batch()
    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    few, more = (oracle_generation.config(max_new_tokens=count, min_new_tokens=count) for count in (3, 5))
    assert model.generate(**source, generation_config=few).shape[1] == 4
    model.generation_config = more
    assert isinstance(model.generation_config, GenerationConfig)
    assert model.generate(**source).shape[1] == 6
    assert model.generate(**source, generation_config=few).shape[1] == 4
    assert torch.equal(model.generate(**source, pad_token_id=torch.tensor(3)), model.generate(**source, pad_token_id=3))
    with pytest.raises(GenerationError, match="generation_config is a int"):
        model.generate(**source, generation_config=3)


def test_a_mask_of_the_start_alone_needs_its_shape() -> None:
    model, data = stir(fresh()), batch()
    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(
        model.generate(**source, max_new_tokens=4, decoder_attention_mask=torch.ones(2, 1)),
        model.generate(**source, max_new_tokens=4),
    )
    with pytest.raises(GenerationError, match=r"decoder_attention_mask has shape \(2, 3\)"):
        model.generate(**source, max_new_tokens=4, decoder_attention_mask=torch.ones(2, 3))


def test_a_save_takes_transformers_keywords(saved: Path, tmp_path: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(saved)
    model.save_pretrained(save_directory=tmp_path / "no", is_main_process=False)
    assert not (tmp_path / "no").exists()
    other = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(
        tmp_path / "yes", state_dict=other, save_function=torch.save, safe_serialization=True, push_to_hub=False
    )
    again = EncoderDecoderModel.from_pretrained(tmp_path / "yes")
    assert all(torch.equal(tensor, other[name]) for name, tensor in again.state_dict().items())
    for half in (model.encoder, model.decoder):
        half.save_pretrained(tmp_path / "half", is_main_process=False)
        with pytest.raises(ConfigError, match="safe_serialization=False"):
            half.save_pretrained(tmp_path / "half", safe_serialization=False)
    with pytest.raises(WeightError, match="1 parameters missing, 1 unknown"):
        model.save_pretrained(tmp_path / "no", state_dict={"x": other.popitem()[1], **other})
    for word in ({"push_to_hub": True}, {"variant": "fp16"}):
        with pytest.raises(ConfigError, match="not built here"):
            model.save_pretrained(tmp_path / "no", **word)
    with pytest.raises(TypeError, match="unexpected keyword arguments: shard"):
        model.save_pretrained(tmp_path / "no", shard=1)
    assert {path.name for path in tmp_path.iterdir()} == {"yes"}


def test_a_config_says_what_a_call_returns(saved: Path, tmp_path: Path) -> None:
    model = EncoderDecoderModel.from_pretrained(saved)
    model.config.encoder.output_hidden_states = model.config.decoder.output_attentions = True
    model.save_pretrained(tmp_path)
    model = EncoderDecoderModel.from_pretrained(tmp_path)
    found = model(**inputs())
    assert {"encoder_hidden_states", "decoder_attentions", "cross_attentions"} <= found.keys()
    assert not {"decoder_hidden_states", "encoder_attentions"} & found.keys()
    assert "decoder_attentions" not in model(**inputs(), output_attentions=False)
    model.config.return_dict = False
    assert isinstance(model(**inputs()), tuple)
    assert model(**inputs(), return_dict=True).logits.shape == found.logits.shape
    model.encoder.config.return_dict = False
    assert isinstance(model.encoder(inputs()["input_ids"]), tuple)


def test_a_model_is_exported_as_it_is() -> None:
    model, given = stir(fresh(decoder=GPT)), {**inputs(), "use_cache": False}
    exported = torch.export.export(model, (), given)
    torch.testing.assert_close(exported.module()(**given).logits, model(**given).logits, **CLOSE)


def test_a_model_without_tokenizers_says_so_in_every_way() -> None:
    model = fresh()
    assert not hasattr(model, "tokenizer")
    with pytest.raises(ValueError, match="This model has no tokenizer"):
        _ = model.tokenizer


@pytest.mark.parametrize("every", [1, 2])
def test_blocks_are_recomputed_as_trainers_ask(every: int) -> None:
    model, data = stir(fresh()).train(), batch()
    model(**data).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=None, every_n_layers=every, offload=False)
    assert model.is_gradient_checkpointing
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for block in model.encoder.blocks:
        block.register_forward_pre_hook(count)
    model(**data).loss.backward()
    assert calls == len(model.encoder.blocks) + -(-len(model.encoder.blocks) // every)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, **CLOSE)
    with pytest.raises(ConfigError, match="offload=True"):
        model.gradient_checkpointing_enable(offload=True)


@pytest.mark.parametrize("settings", [{}, {"num_return_sequences": 3}, {"num_beams": 3}])
def test_a_seed_draws_the_same_words_whatever_is_returned(settings: dict[str, Any]) -> None:
    model, data = stir(fresh()), batch()
    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    settings = {**source, **settings, "do_sample": True, "max_new_tokens": 12, "eos_token_id": [*range(10, 22)]}
    for seed in range(8):
        torch.manual_seed(seed)
        plain = model.generate(**settings)
        torch.manual_seed(seed)
        traced = model.generate(**settings, return_dict_in_generate=True, output_scores=True).sequences
        assert torch.equal(plain, traced)


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied")
def test_adapters_take_part_in_every_step() -> None:
    model, data = stir(fresh()), batch()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q", "v"], r=2, init_lora_weights=False))
    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    settings = {**source, "max_new_tokens": 12, "min_new_tokens": 12}
    found = adapted.get_base_model().generate(**settings)
    assert torch.equal(found, adapted.merge_and_unload().generate(**settings))


def test_halves_take_the_words_too(halves: tuple[Path, Path]) -> None:
    assert Encoder.from_pretrained(halves[0], device_map="cpu").device == torch.device("cpu")


@pytest.mark.parametrize("target", [TARGET, LLAMA], ids=["bert", "llama"])
@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}], ids=str
)
def test_generate_goes_on_from_a_cache_and_leaves_it_as_it_is(target: Any, settings: dict[str, Any]) -> None:
    model, data = stir(fresh(decoder=target)), batch()
    source = {name: data[name] for name in ("input_ids", "attention_mask")}
    first = model.generate(**source, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    prefix = {**source, "decoder_input_ids": first.sequences, **settings, "max_new_tokens": 8}
    expected = model.generate(**prefix)
    for _ in range(2):
        assert torch.equal(model.generate(**prefix, past_key_values=first.past_key_values), expected)
    assert first.past_key_values.get_seq_length() == 4
    with pytest.raises(GenerationError, match="past_key_values holds 4 positions of 2 rows"):
        model.generate(**{**prefix, "decoder_input_ids": first.sequences[:, :3]}, past_key_values=first.past_key_values)
    with pytest.raises(GenerationError, match="past_key_values with CopySpeculation"):
        model.generate(
            **source,
            decoder_input_ids=first.sequences,
            past_key_values=first.past_key_values,
            copy_speculation=True,
            max_new_tokens=8,
        )


@pytest.mark.parametrize("side", ["source", "target"])
def test_ids_beyond_the_vocabulary_are_named(side: str) -> None:
    model, given = fresh(), inputs()
    given["input_ids" if side == "source" else "decoder_input_ids"][1, 2] = 99_999
    with pytest.raises(ShapeError, match="to 99999; expected 0 to "):
        model(**given)


def test_weights_without_a_config_say_who_writes_such(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    with pytest.raises(FileError, match=r"no config\.json[\s\S]*SavesPretrained"):
        EncoderDecoderModel.from_pretrained(tmp_path)
