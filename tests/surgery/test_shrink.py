"""Fewer layers: which are kept, files and joined models against transformers' with layers taken out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import oracle
from command_line import run_fixture  # noqa: F401  (a fixture)
from conjoin import (
    AlbertConfig,
    BartConfig,
    BertConfig,
    ConfigError,
    ConjoinWarning,
    EncoderDecoderModel,
    FileError,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    JoinError,
    ModernBertConfig,
    Qwen2Config,
    SmolLM3Config,
    T5Config,
    shrink,
)
from conjoin.families import keep_layers, parse_layers, spread
from conjoin.torch.pair.halves import Decoder, Encoder
from conjoin.torch.pair.pretrained import plain_state
from oracle_layers import drop_layers, save_deep
from pairs import CLOSE, SOURCE, TARGET_LIKE_SOURCE, batch, fresh, joined, stir, with_tokenizer

IDS = torch.tensor([[11, 12, 13, 14, 15, 16], [17, 18, 19, 20, 21, 22]])


@pytest.mark.parametrize(
    ("total", "count", "kept"),
    [
        (12, 3, (0, 6, 11)),
        (12, 6, (0, 2, 4, 7, 9, 11)),
        (12, 9, (0, 1, 3, 4, 6, 7, 8, 10, 11)),
        (12, 4, (0, 4, 7, 11)),
        (6, 1, (0,)),
        (6, 2, (0, 5)),
        (5, 5, (0, 1, 2, 3, 4)),
    ],
)
def test_layers_are_spread_from_the_first_to_the_last(total: int, count: int, kept: tuple[int, ...]) -> None:
    assert spread(total, count) == kept


def test_every_choice_is_ascending_and_ends_with_the_last_layer() -> None:
    for total in range(1, 40):
        for count in range(2, total + 1):
            kept = spread(total, count)
            steps = np.diff(kept)
            assert kept[0] == 0 and kept[-1] == total - 1 and len(kept) == count
            assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("text, layers", [("6", 6), (6, 6), ("0,2,5", [0, 2, 5]), ("0,", [0]), (None, None)])
def test_an_option_is_a_number_or_indices(text: Any, layers: Any) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "x", "1,x", ",", "1.5", "-1"])
def test_any_other_option_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a number of layers such as 6, or indices"):
        parse_layers(text)


@pytest.mark.parametrize("layers", [0, 6, True, [], [0, 0], [2, 1], [5], [-1], ["0"], "01"])
def test_layers_that_are_not_there_are_refused(layers: Any) -> None:
    with pytest.raises(ConfigError, match="expected"):
        keep_layers(BertConfig(num_hidden_layers=5), "encoder", layers)


def test_patterns_of_layers_are_written_out() -> None:
    config = ModernBertConfig(num_hidden_layers=7, global_attn_every_n_layers=3)
    kept = keep_layers(config, "encoder", [0, 2, 3, 5])
    full, sliding = "full_attention", "sliding_attention"
    assert kept.config.layer_types == [full, sliding, full, sliding]
    assert kept.config.num_hidden_layers == 4
    gemma = keep_layers(Gemma3TextConfig(num_hidden_layers=12, sliding_window_pattern=6), "decoder", 3)
    assert gemma.layers == (0, 6, 11) and gemma.config.layer_types == [sliding, sliding, full]
    qwen = Qwen2Config(num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2)
    assert keep_layers(qwen, "decoder", [1, 3]).config.layer_types == [full, sliding]
    smol = keep_layers(SmolLM3Config(num_hidden_layers=8), "decoder", [2, 3, 7])
    assert smol.config.no_rope_layers == [1, 0, 0]
    neo = GPTNeoConfig(
        num_layers=4, attention_types=[[["global", "local"], 2]], attention_layers=["global", "local"] * 2
    )
    kept = keep_layers(neo, "decoder", [1, 2, 3]).config
    assert kept.attention_types == [[["local", "global", "local"], 1]]
    assert kept.attention_layers == ["local", "global", "local"]


def test_layers_that_depend_on_their_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="layers 2 of this encoder"):
        keep_layers(ModernBertConfig(num_hidden_layers=5), "encoder", [2, 4])
    with pytest.raises(ConfigError, match="scale_attn_by_inverse_layer_idx"):
        keep_layers(GPT2Config(n_layer=4, scale_attn_by_inverse_layer_idx=True), "decoder", 2)


def test_shared_layers_keep_their_groups() -> None:
    config = AlbertConfig(num_hidden_layers=6, num_hidden_groups=2)
    both, first = keep_layers(config, "encoder", 2), keep_layers(config, "encoder", [0, 2])
    assert both.config.num_hidden_groups == 2 and both.blocks == {0: 0, 1: 1}
    assert first.config.num_hidden_groups == 1 and first.blocks == {0: 0}
    assert keep_layers(config, "encoder", [3, 5]).blocks == {1: 0}
    with pytest.raises(ConfigError, match="groups of equal size"):
        keep_layers(config, "encoder", [0, 1, 2, 5])


def test_t5s_decoder_does_not_follow_the_encoder() -> None:
    assert keep_layers(T5Config(num_layers=4), "decoder", 2).config.num_decoder_layers == 2
    assert keep_layers(BartConfig(), "decoder", 3).config.decoder_layers == 3


SINGLE = [
    ("bert", "base", "encoder.layer", {"num_hidden_layers": 5}),
    ("distilbert", "base", "transformer.layer", {"n_layers": 5}),
    ("modernbert", "base", "layers", {"num_hidden_layers": 5, "layer_types": None}),
    ("gpt2", "causal", "transformer.h", {"n_layer": 5}),
    ("gemma2", "causal", "model.layers", {"num_hidden_layers": 5, "layer_types": None}),
    ("llama", "causal", "model.layers", {"num_hidden_layers": 5}),
]


@pytest.mark.parametrize(("key", "kind", "place", "changes"), SINGLE, ids=lambda value: value if value else None)
def test_a_single_model_is_what_transformers_computes_without_these_layers(
    tmp_path: Path, key: str, kind: Any, place: str, changes: dict[str, Any]
) -> None:
    theirs = save_deep(key, kind, tmp_path / "deep", **changes)
    drop_layers(theirs, place, [0, 2, 4])
    side = "encoder_layers" if kind == "base" else "decoder_layers"
    change = shrink(tmp_path / "deep", tmp_path / "small", **{side: 3})
    assert change.numbers[1] < change.numbers[0] and "layers 0, 2, 4 of 5 are kept" in str(change)
    if kind == "base":
        expected = oracle.encoder_states(theirs, IDS)
        ours = Encoder.from_pretrained(tmp_path / "small")(IDS).last_hidden_state
        again = oracle.encoder_states(oracle.reload_encoder(tmp_path / "small"), IDS)
    else:
        expected = oracle.decoder_logits(theirs, IDS)
        ours = Decoder.from_pretrained(tmp_path / "small")(IDS).logits
        again = oracle.decoder_logits(oracle.reload_decoder(tmp_path / "small"), IDS)
    torch.testing.assert_close(again, expected, **CLOSE)
    torch.testing.assert_close(ours.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "encoder", "decoder", "changes"),
    [
        ("bart", "model.encoder.layers", "model.decoder.layers", {"encoder_layers": 4, "decoder_layers": 5}),
        ("t5", "encoder.block", "decoder.block", {"num_layers": 4, "num_decoder_layers": None}),
    ],
)
def test_a_whole_model_is_what_transformers_computes_without_these_layers(
    tmp_path: Path, key: str, encoder: str, decoder: str, changes: dict[str, Any]
) -> None:
    theirs = save_deep(key, "whole", tmp_path / "deep", **changes)
    drop_layers(theirs, encoder, [0, 1, 3])
    drop_layers(theirs, decoder, [0, 3])
    shrink(tmp_path / "deep", tmp_path / "small", encoder_layers=[0, 1, 3], decoder_layers=[0, 3])
    inputs = oracle.batch_for(key)
    expected = oracle.pair_outputs(theirs, inputs).logits
    model = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    torch.testing.assert_close(model(**inputs).logits.detach(), expected, rtol=1e-4, atol=1e-4)
    again = oracle.pair_outputs(oracle.reload_whole(tmp_path / "small"), inputs).logits
    torch.testing.assert_close(again, expected, **CLOSE)


def test_only_the_encoder_of_a_t5_may_lose_layers(tmp_path: Path) -> None:
    save_deep("t5", "whole", tmp_path / "deep", num_layers=4, num_decoder_layers=None)
    shrink(tmp_path / "deep", tmp_path / "small", encoder_layers=2)
    spec = EncoderDecoderModel.from_pretrained(tmp_path / "small").spec
    assert (spec.encoder.num_layers, spec.decoder.num_layers) == (2, 4)


def deep_pair(**values: Any) -> EncoderDecoderModel:
    layers = {"num_hidden_layers": 5}
    return stir(fresh(SOURCE.copy(**layers), TARGET_LIKE_SOURCE.copy(**layers), **values))


def of_layers(model: EncoderDecoderModel, encoder: list[int], decoder: list[int]) -> EncoderDecoderModel:
    """Build a pair of the kept layers by copying each one's parameters."""
    sizes = ({"num_hidden_layers": len(encoder)}, {"num_hidden_layers": len(decoder)})
    small = fresh(SOURCE.copy(**sizes[0]), TARGET_LIKE_SOURCE.copy(**sizes[1]))
    state = model.state_dict()
    with torch.no_grad():
        for name, parameter in small.state_dict().items():
            side, _, rest = name.partition(".blocks.")
            number, _, leaf = rest.partition(".")
            old = {"encoder": encoder, "decoder": decoder}[side][int(number)] if rest else None
            parameter.copy_(state[f"{side}.blocks.{old}.{leaf}" if rest else name])
    return small


def test_a_pair_is_the_pair_of_its_kept_layers(tmp_path: Path) -> None:
    model = deep_pair()
    model.save_pretrained(tmp_path / "deep")
    (tmp_path / "deep" / "metrics.jsonl").write_text("{}\n")
    shrink(tmp_path / "deep", tmp_path / "small", encoder_layers=4, decoder_layers=[1, 4])
    small, expected = EncoderDecoderModel.from_pretrained(tmp_path / "small"), of_layers(model, [0, 1, 3, 4], [1, 4])
    assert small.config.encoder.num_hidden_layers == 4 and small.config.decoder.num_hidden_layers == 2
    torch.testing.assert_close(small(**batch()).logits, expected(**batch()).logits, rtol=0, atol=0)
    theirs = oracle.reload_pair(tmp_path / "small", allow=["encoder.pooler"])
    inputs = {**batch(), "decoder_input_ids": small.prepare_decoder_input_ids_from_labels(batch()["labels"])}
    torch.testing.assert_close(oracle.pair_outputs(theirs, inputs).logits, small(**inputs).logits.detach(), **CLOSE)
    assert not (tmp_path / "small" / "metrics.jsonl").exists()
    assert (tmp_path / "small" / "generation_config.json").exists()


def test_untrained_parts_stay_recorded_under_new_numbers(tmp_path: Path) -> None:
    model = joined(tmp_path, "bert", "gpt2")
    model.save_pretrained(tmp_path / "deep")
    path = tmp_path / "deep" / "config.json"
    config = json.loads(path.read_text())
    config["conjoin"]["fresh"] = ["decoder.blocks.0.cross_attn.q.weight", "decoder.blocks.2.cross_attn.q.weight"]
    path.write_text(json.dumps(config))
    shrink(tmp_path / "deep", tmp_path / "small", decoder_layers=[1, 2])
    kept = json.loads((tmp_path / "small" / "config.json").read_text())
    assert kept["conjoin"]["fresh"] == ["decoder.blocks.1.cross_attn.q.weight"]


def test_halves_that_share_everything_lose_the_same_layers(tmp_path: Path) -> None:
    model = deep_pair(share="all")
    model.save_pretrained(tmp_path / "deep")
    with pytest.raises(JoinError, match="keep the same layers"):
        shrink(tmp_path / "deep", tmp_path / "small", encoder_layers=[0, 1], decoder_layers=[0, 4])
    with pytest.raises(JoinError, match=r"keep layers \[0, 1, 2, 3, 4\], the decoder \[0, 4\]"):
        shrink(tmp_path / "deep", tmp_path / "small", decoder_layers=2)
    assert not (tmp_path / "small").exists()
    shrink(tmp_path / "deep", tmp_path / "small", encoder_layers=2, decoder_layers=2)
    small = EncoderDecoderModel.from_pretrained(tmp_path / "small")
    assert small.encoder.blocks[1].mlp.up.weight is small.decoder.blocks[1].mlp.up.weight
    torch.testing.assert_close(
        small(**batch()).logits, of_layers(model, [0, 4], [0, 4])(**batch()).logits, rtol=0, atol=0
    )


def test_what_cannot_be_shrunk_is_refused(tmp_path: Path) -> None:
    model = deep_pair()
    model.save_pretrained(tmp_path / "deep")
    with pytest.raises(FileError, match="the model that is read"):
        shrink(tmp_path / "deep", tmp_path / "deep", decoder_layers=2)
    with pytest.raises(ConfigError, match="No layers are given"):
        shrink(tmp_path / "deep", tmp_path / "small")
    save_deep("gpt2", "causal", tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="one stack of layers"):
        shrink(tmp_path / "gpt2", tmp_path / "small", encoder_layers=1, decoder_layers=1)
    (tmp_path / "deep" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds an adapter"):
        shrink(tmp_path / "deep", tmp_path / "small", decoder_layers=2)
    model.quantize("int8").save_pretrained(tmp_path / "int8")
    with pytest.raises(ConfigError, match="quantised"):
        shrink(tmp_path / "int8", tmp_path / "small", decoder_layers=2)


@pytest.mark.parametrize("half", [Encoder, Decoder, EncoderDecoderModel])
@pytest.mark.parametrize("kind", ["quantised", "an adapter"])
def test_halves_whose_weights_are_not_their_own_are_refused(
    tmp_path: Path, halves: tuple[Path, Path], half: Any, kind: str
) -> None:
    """Scales and adapters would be left out, and the values beside them read as if they were the weights."""
    for folder in halves:
        if kind == "quantised":
            config = json.loads((folder / "config.json").read_text())
            config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
            (folder / "config.json").write_text(json.dumps(config))
        else:
            (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"bert (is|holds) {kind}" if half is not Decoder else f"(is|holds) {kind}"):
        if half is EncoderDecoderModel:
            half.from_encoder_decoder_pretrained(*halves)
        else:
            half.from_pretrained(halves[half is Decoder])


def test_an_older_adapter_is_not_left_beside_new_weights(tmp_path: Path) -> None:
    """Loading would merge it into them."""
    deep_pair().save_pretrained(tmp_path / "deep")
    shrink(tmp_path / "deep", tmp_path / "small", decoder_layers=2)
    for name in ("adapter_config.json", "adapter_model.safetensors", "target_vocab.json"):
        (tmp_path / "small" / name).write_text("{}")
    (tmp_path / "small" / "metrics.jsonl").write_text("{}\n")
    shrink(tmp_path / "deep", tmp_path / "small", decoder_layers=3)
    left = {path.name for path in (tmp_path / "small").iterdir()}
    assert not left & {"adapter_config.json", "adapter_model.safetensors", "target_vocab.json"}
    assert "metrics.jsonl" in left
    assert EncoderDecoderModel.from_pretrained(tmp_path / "small").spec.decoder.num_layers == 3


def test_a_vocabulary_of_targets_goes_with_the_model(tmp_path: Path) -> None:
    """Marian's, where sources and targets have one each."""
    deep_pair().save_pretrained(tmp_path / "deep")
    for name in ("target_vocab.json", "vocab.json"):
        (tmp_path / "deep" / name).write_text("{}")
    shrink(tmp_path / "deep", tmp_path / "small", decoder_layers=2)
    assert {"target_vocab.json", "vocab.json"} <= {path.name for path in (tmp_path / "small").iterdir()}


def test_tensors_without_a_use_stay_unless_they_may_belong_to_a_layer(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_deep("bert", "base", tmp_path / "deep", num_hidden_layers=3)
    path = tmp_path / "deep" / "model.safetensors"
    tensors = load_file(path)
    extra = {"classifier.weight": np.ones((2, 2), np.float32), "adapters.1.weight": np.ones(3, np.float32)}
    save_file({**tensors, **extra}, path, metadata={"format": "pt"})
    with pytest.warns(ConjoinWarning, match=r"1 tensors .* adapters\.1\.weight"):
        shrink(tmp_path / "deep", tmp_path / "small", encoder_layers=2)
    names = set(load_file(tmp_path / "small" / "model.safetensors"))
    assert "classifier.weight" in names and "adapters.1.weight" not in names


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    with_tokenizer(tmp_path / "bert", "bert", num_hidden_layers=4)
    return tmp_path / "bert", with_tokenizer(tmp_path / "gpt2", "gpt2", n_layer=5)


def test_a_join_of_some_layers_is_the_join_of_smaller_checkpoints(tmp_path: Path, halves: tuple[Path, Path]) -> None:
    join = EncoderDecoderModel.from_encoder_decoder_pretrained
    shrink(halves[0], tmp_path / "e", encoder_layers=3)
    shrink(halves[1], tmp_path / "d", decoder_layers=[0, 4])
    model, expected = join(*halves, encoder_layers=3, decoder_layers=[0, 4]), join(tmp_path / "e", tmp_path / "d")
    assert (model.config.encoder.num_hidden_layers, model.config.decoder.n_layer) == (3, 2)
    assert model.join_report.copied == expected.join_report.copied
    state, other = plain_state(model), plain_state(expected)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in model.join_report.copied)
    unused = next(names for label, names in model.join_report.unused.items() if "gpt2" in label)
    assert any("h.1.attn" in name for name in unused) and not any("h.4." in name for name in unused)


def test_halves_in_memory_lose_layers_without_a_copy(halves: tuple[Path, Path]) -> None:
    encoder, decoder = Encoder.from_pretrained(halves[0]), Decoder.from_pretrained(halves[1])
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder_model=encoder, decoder_model=decoder, encoder_layers=[1, 3], decoder_layers=1
    )
    assert model.encoder.blocks[1].mlp.up.weight is encoder.blocks[3].mlp.up.weight
    assert len(model.decoder.blocks) == 1


def test_halves_that_share_everything_join_with_the_same_layers_only(halves: tuple[Path, Path]) -> None:
    join = EncoderDecoderModel.from_encoder_decoder_pretrained
    with pytest.raises(JoinError, match="keep the same layers"):
        join(halves[0], halves[0], share="all", encoder_layers=[0, 1], decoder_layers=[0, 3])
    assert join(halves[0], halves[0], share="all", encoder_layers=2, decoder_layers=2).spec.decoder.num_layers == 2


def test_jax_and_tensorflow_join_the_same_layers(halves: tuple[Path, Path]) -> None:
    from conjoin import FlaxEncoderDecoderModel, TFEncoderDecoderModel

    layers: dict[str, Any] = {"encoder_layers": [0, 2], "decoder_layers": 3}
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(*halves, **layers)
    state = plain_state(model)
    for kind in (FlaxEncoderDecoderModel, TFEncoderDecoderModel):
        params = kind.from_encoder_decoder_pretrained(*halves, **layers).all_params()
        assert params.keys() == state.keys()
        for name in model.join_report.copied:
            np.testing.assert_array_equal(np.asarray(params[name]), state[name].detach().numpy())


def test_the_command_prints_what_is_kept_and_the_folder(tmp_path: Path, run: Any) -> None:
    deep_pair().save_pretrained(tmp_path / "deep")
    result = run("shrink", tmp_path / "deep", "--decoder-layers", "3", "--out", tmp_path / "small")
    assert result.out.strip() == str(tmp_path / "small")
    assert "decoder: layers 0, 2, 4 of 5 are kept" in result.err and "parameters:" in result.err
    assert EncoderDecoderModel.from_pretrained(tmp_path / "small").spec.decoder.num_layers == 3
    assert run("shrink", tmp_path / "deep", "--out", tmp_path / "other").code == 2
    wrong = run("shrink", tmp_path / "deep", "--decoder-layers", "9", "--out", tmp_path / "other")
    assert wrong.code == 1 and "expected 1 to 5" in wrong.err


def test_join_and_train_take_layers(tmp_path: Path, halves: tuple[Path, Path], run: Any) -> None:
    from conjoin.training.launch import launch
    from conjoin.training.settings.recipe import Recipe

    run("join", *halves, "--decoder-layers", "0,4", "--encoder-layers", "2", "--out", tmp_path / "pair")
    assert EncoderDecoderModel.from_pretrained(tmp_path / "pair").spec.decoder.num_layers == 2
    data = tmp_path / "train.jsonl"
    data.write_text(json.dumps({"source": "a b", "target": "b a"}) + "\n")
    settings: dict[str, Any] = {"encoder": str(halves[0]), "decoder": str(halves[1]), "train": str(data)}
    settings |= {"out": str(tmp_path / "run"), "max_steps": 1, "doctor": False, "report_to": "none"}
    recipe = Recipe.of({**settings, "encoder_layers": 2, "decoder_layers": [0, 2, 4]})
    assert recipe.sources.decoder_layers == "0,2,4,"
    trained = EncoderDecoderModel.from_pretrained(launch(recipe))
    assert (trained.spec.encoder.num_layers, trained.spec.decoder.num_layers) == (2, 3)
    with pytest.raises(ConfigError, match="conjoin shrink"):
        Recipe.of({"model": "x", "train": "y", "decoder_layers": 3}).sources.require()


def test_a_t5gemma2_that_loses_layers_keeps_its_vision_tower_for_transformers(tmp_path: Path) -> None:
    """conjoin reads none of it; a layer of it has a number, which is no number of a layer that is dropped."""
    oracle.save_whole("t5gemma2", tmp_path / "whole")
    shrink(tmp_path / "whole", tmp_path / "small", encoder_layers=[1], decoder_layers=[0, 2])
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "small"))
    vision = [name for name in before if "vision_tower" in name or "multi_modal_projector" in name]
    assert len(vision) > 30 and all(torch.equal(before[name], after[name]) for name in vision)
    theirs = oracle.reload_whole(tmp_path / "small")
    assert all(torch.equal(before[name], theirs.state_dict()[name]) for name in vision)
    data = oracle.batch_for("t5gemma2")
    with torch.no_grad():
        expected = theirs(**data).logits
        found = EncoderDecoderModel.from_pretrained(tmp_path / "small")(**data).logits
    torch.testing.assert_close(found, expected, **CLOSE)
