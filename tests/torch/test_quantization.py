"""8-bit models: near the float model they come from, saved and loaded without a change."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conjoin import BertConfig, ConfigError, EncoderDecoderConfig, EncoderDecoderModel, WeightError
from conjoin.torch.cpu import native, quantization
from conjoin.torch.cpu.quantization import QuantizedLinear, quantize_rows
from pairs import GPT, SOURCE, TARGET, batch, fresh, stir


def logits(model: EncoderDecoderModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(**batch()).logits


def test_rounded_rows_are_within_half_a_unit() -> None:
    weight = torch.randn(7, 33)
    weight[3] = 0
    whole, scale = quantize_rows(weight)
    assert whole.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert ((whole * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-6).all()
    assert (whole.abs().amax(1)[[0, 1, 2, 4, 5, 6]] == 127).all()


@pytest.mark.parametrize("target", [TARGET, GPT], ids=["bert", "gpt2"])
def test_an_8_bit_model_is_near_the_float_one(target: object) -> None:
    model = stir(fresh(SOURCE, target))
    exact = logits(model)
    assert model.quantize("int8") is model
    near = logits(model)
    assert not torch.equal(near, exact)
    assert (near - exact).norm() < 0.05 * exact.norm()
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4).shape[0] == 1


def quantized(outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> QuantizedLinear:
    torch.manual_seed(0)
    weight, scale = quantize_rows(torch.randn(outputs, inputs))
    frozen = (nn.Parameter(each, requires_grad=False) for each in (weight, scale))
    return QuantizedLinear(*frozen, nn.Parameter(torch.randn(outputs).to(dtype), requires_grad=False))


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_our_kernel_and_plain_pytorch_give_the_same(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    if not (native.has("int8") and quantization._multiplies_bytes()):
        pytest.skip("one of the two products of integers is not there")
    layer, x = quantized(520, 512), torch.randn(rows, 512)
    one = layer(x)
    monkeypatch.setattr(native, "has", lambda kernel: False)
    torch.testing.assert_close(layer(x), one, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs", "has_integers"), [(7, 33, True), (520, 512, False)])
def test_inputs_are_not_rounded_where_integers_gain_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, outputs: int, inputs: int, has_integers: bool
) -> None:
    monkeypatch.setattr(native, "has", lambda kernel: False)
    monkeypatch.setattr(quantization, "_multiplies_bytes", lambda: has_integers)
    layer, x = quantized(outputs, inputs, dtype), torch.randn(2, 3, inputs).to(dtype)
    expected = x.double() @ (layer.weight.double() * layer.scale.double()[:, None]).T + layer.bias.double()
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer(x).double(), expected, rtol=tolerance, atol=tolerance)
    assert layer(x[:, :0]).shape == (2, 0, outputs)


def test_changed_weights_and_scales_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "has", lambda kernel: False)
    layer, x = quantized(7, 33), torch.randn(3, 33)
    with torch.no_grad():
        plain = layer(x) - layer.bias
        layer.scale.mul_(2)
        torch.testing.assert_close(layer(x) - layer.bias, 2 * plain)
        layer.weight.neg_()
        torch.testing.assert_close(layer(x) - layer.bias, -2 * plain)


@pytest.mark.parametrize("share", ["none", "embeddings", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_computes_the_same(tmp_path: Path, share: str, dtype: torch.dtype) -> None:
    model = stir(fresh(SOURCE, SOURCE, share=share)).quantize().to(dtype)
    model.save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert torch.equal(logits(again), logits(model))
    assert again.num_parameters() == model.num_parameters()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "conjoin-int8"
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_shared_weights_are_shared_afterwards() -> None:
    model = stir(fresh(SOURCE, SOURCE, share="all")).quantize()
    one, other = (half.blocks[0].mlp.up for half in (model.encoder, model.decoder))
    assert one.weight is other.weight
    assert one.scale is other.scale


def test_the_file_is_smaller(tmp_path: Path) -> None:
    model = stir(fresh(SOURCE, TARGET))
    linear = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n)
    model.save_pretrained(tmp_path / "float")
    model.quantize().save_pretrained(tmp_path / "bytes")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("float", "bytes")]
    assert sizes[0] - sizes[1] > 2 * linear


def test_units_stay_in_float32_in_a_bfloat16_model() -> None:
    model = stir(fresh(SOURCE, TARGET)).quantize()
    up = model.decoder.blocks[0].mlp.up
    before = up.scale.clone()
    model.to(torch.bfloat16)
    assert up.bias.dtype == torch.bfloat16
    assert torch.equal(up.scale, before)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = stir(fresh(SOURCE, TARGET))
    with pytest.raises(ConfigError, match="int4"):
        model.quantize("int4")
    model.quantize()
    with pytest.raises(ConfigError, match="already"):
        model.quantize()
    with pytest.raises(ConfigError, match="8 bits"):
        model.resize_token_embeddings(encoder=70)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ConfigError, match="gptq"):
        EncoderDecoderModel.from_pretrained(tmp_path)
    config["encoder"]["num_hidden_layers"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightError, match="missing"):
        EncoderDecoderModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_eight_bits_have_as_many_parameters_as_floats(tied: bool) -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
    halves = [BertConfig(**sizes, intermediate_size=24, tie_word_embeddings=tied) for _ in range(2)]
    ids: dict[str, Any] = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    model = EncoderDecoderModel(config=EncoderDecoderConfig.from_encoder_decoder_configs(*halves, **ids))
    counts = [model.num_parameters(), model.num_parameters(exclude_embeddings=True)]
    model.quantize("int8")
    assert [model.num_parameters(), model.num_parameters(exclude_embeddings=True)] == counts
    assert model.num_parameters(only_trainable=True) == 0
