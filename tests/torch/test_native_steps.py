"""Whole decoding steps by our kernels against the same steps brick by brick, over the decoders that they know."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from conjoin import EncoderDecoderModel
from conjoin.families import MODULES
from conjoin.torch.cpu import native
from conjoin.torch.cpu.native import Steps
from conjoin.torch.model import route
from conjoin.torch.model.route import steps_of
from conjoin.torch.pair.halves import Encoder
from kernel_inputs import DECODERS, source
from lanes import lanes_of_keys
from pairs import joined, stir

pytestmark = pytest.mark.skipif(not native.has("float32"), reason="no C++ compiler, or no AVX-512")


def step_logits(
    model: EncoderDecoderModel, rows: int, widths: tuple[int, ...], **inputs: Any
) -> tuple[list[Tensor], bool]:
    """Logits of a prefix and of `widths` tokens at a time behind it; and whether the kernels ran."""
    ids = torch.randint(10, 50, (rows, 3 + sum(widths)), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = model(**inputs, decoder_input_ids=ids[:, :3], use_cache=True)
        logits, at = [out.logits], 3
        for width in widths:
            known = {"past_key_values": out.past_key_values, "attention_mask": inputs["attention_mask"]}
            out = model(decoder_input_ids=ids[:, at : at + width], use_cache=True, **known)
            logits.append(out.logits)
            at += width
    return logits, steps_of(out.past_key_values) is not None


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_kernels_compute_what_the_bricks_do(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stir(joined(tmp_path, "bert", decoder)).eval()
    for beams, widths in ((1, (1, 1, 3, 1)), (4, (1, 2, 1))):
        by_kernels, ran = step_logits(model, 3 * beams, widths, **source(3))
        assert ran
        with monkeypatch.context() as patch:
            patch.setattr(Steps, "of", lambda stack: None)
            by_bricks, ran = step_logits(model, 3 * beams, widths, **source(3))
        assert not ran
        for one, other in zip(by_kernels, by_bricks, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("decoder", ["bert", "llama"])
@pytest.mark.parametrize("form", ["bfloat16", "int8", "int8 in bfloat16"])
def test_smaller_weights_too(decoder: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (native.has("bfloat16") and native.has("int8")):
        pytest.skip("no bf16 or int8 dot products here")
    model = stir(joined(tmp_path, "bert", decoder)).eval()
    exact, _ = step_logits(model, 3, (1, 1, 1), **source(3))
    model = model.quantize() if form.startswith("int8") else model
    model = model.to(torch.bfloat16) if form.endswith("bfloat16") else model
    by_kernels, ran = step_logits(model, 3, (1, 1, 1), **source(3))
    assert ran
    monkeypatch.setattr(Steps, "of", lambda stack: None)
    by_bricks, _ = step_logits(model, 3, (1, 1, 1), **source(3))
    for one, other, right in zip(by_kernels, by_bricks, exact, strict=True):
        size = right.norm()
        assert (one.float() - right).norm() < 0.1 * size
        # The kernels round less often than the bricks do, so they are no farther from the exact numbers.
        assert (one.float() - right).norm() < 1.5 * (other.float() - right).norm() + 1e-3 * size


def test_a_hook_is_still_called(tmp_path: Path) -> None:
    model = stir(joined(tmp_path, "bert", "gpt2")).eval()
    calls: list[int] = []
    model.decoder.blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    _, ran = step_logits(model, 3, (1, 1), **source(3))
    assert not ran
    assert len(calls) == 3


def test_what_is_collected_or_padded_goes_brick_by_brick(tmp_path: Path) -> None:
    model = stir(joined(tmp_path, "bert", "gpt2")).eval()
    with torch.inference_mode():
        out = model(**source(3), decoder_input_ids=torch.full((3, 2), 9), use_cache=True)
        known = {"past_key_values": out.past_key_values, "attention_mask": source(3)["attention_mask"]}
        out = model(decoder_input_ids=torch.full((3, 1), 9), output_attentions=True, use_cache=True, **known)
    assert out.decoder_attentions[0].shape[-1] == 3
    assert steps_of(out.past_key_values) is None


def test_threads_change_no_bit(tmp_path: Path) -> None:
    model = stir(joined(tmp_path, "bert", "llama")).eval()
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(step_logits(model, 3, (1, 1), **source(3))[0][-1])
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], found[2], atol=1e-5)


FAMILIES = [key for key in oracle.TINY if oracle.model_type(key) in MODULES and not key.endswith("/dynamic")]


@pytest.mark.parametrize("key", lanes_of_keys(FAMILIES))
def test_the_kernels_encode_what_the_bricks_do(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle.save_encoder(key, tmp_path)
    encoder = stir(Encoder.from_pretrained(tmp_path))
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(oracle.FIRST_ORDINARY_ID, 50, (4, 53), generator=generator)
    right = torch.arange(53) < torch.tensor([53, 20, 1, 37])[:, None]
    inputs: list[dict[str, Any]] = [{}, {"attention_mask": right}, {"attention_mask": right.flip(1)}]
    if encoder.spec.embedding.type_rows > 1:
        inputs.append({"token_type_ids": torch.randint(0, 2, ids.shape, generator=generator)})
    calls: list[int] = []
    for more in inputs:
        with torch.inference_mode():
            by_kernels = encoder(ids, **more).last_hidden_state
            with monkeypatch.context() as patch:
                patch.setattr(route, "kernels_of", lambda *_: calls.append(1))
                by_bricks = encoder(ids, **more).last_hidden_state
        real = more.get("attention_mask", torch.ones_like(ids)).bool()
        size = float(by_bricks[real].abs().max())
        assert torch.allclose(by_kernels[real], by_bricks[real], rtol=1e-4, atol=1e-4 * size)
    is_causal = any(block.causal for block in encoder.spec.blocks)
    assert len(calls) == (0 if is_causal else len(inputs))


def test_a_wrapped_or_changed_module_is_noticed(tmp_path: Path) -> None:
    model = stir(joined(tmp_path, "bert", "gpt2")).eval()
    ids = torch.tensor([[11, 12, 13]])
    before = model.generate(ids, max_new_tokens=6)
    mlp = model.decoder.blocks[0].mlp

    class Doubled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inner(x)

    with torch.inference_mode():
        plain = model(ids, decoder_input_ids=ids).logits
        mlp.up = Doubled(mlp.up)
        wrapped = model(ids, decoder_input_ids=ids).logits
        assert not torch.allclose(plain, wrapped)
        found = model.generate(ids, max_new_tokens=6, output_logits=True, return_dict_in_generate=True)
        stepwise = model.generate(ids, max_new_tokens=6)
        assert torch.equal(found.sequences, stepwise)
        mlp.up = mlp.up.inner
    assert torch.equal(model.generate(ids, max_new_tokens=6), before)
