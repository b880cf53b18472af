"""Linear layers and decoding steps where the kernels must step aside, or say no: odd shapes, tracers, other modes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from conjoin import EncoderDecoderModel, ShapeError
from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear import Linear, _fits
from pairs import GPT, LLAMA, SOURCE, TARGET, batch, fresh, stir

FROM_TORCH = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def layer(bias: Tensor | None = None) -> Linear:
    torch.manual_seed(0)
    made = Linear(64, 64)
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made


def started(model: EncoderDecoderModel, rows: int = 2) -> Any:
    """A cache that holds one position of `rows` rows."""
    data = batch()
    source = {name: data[name][:rows] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model(**source, decoder_input_ids=torch.full((rows, 1), 9), use_cache=True).past_key_values


def test_kernels_take_only_inputs_of_the_layers_width() -> None:
    made, q = layer(), fresh().quantize().encoder.blocks[0].self_attn.q
    with torch.no_grad():
        for width in (48, 64, 80):
            assert _fits(torch.randn(3, width), made.weight, made.bias) == (width == 64)
        for width in (8, SOURCE.hidden_size, 24):
            assert q._is_plain(torch.randn(3, width)) == (width == SOURCE.hidden_size)


@pytest.mark.parametrize("bias", [torch.zeros(1).expand(64), torch.randn(64, 3)[:, 0]])
def test_a_bias_may_lie_in_any_way(bias: Tensor) -> None:
    made, x = layer(bias), torch.randn(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(made(x), F.linear(x, made.weight, bias), rtol=1e-5, atol=1e-5)


@FROM_TORCH
def test_tangents_go_through_without_gradients() -> None:
    made = layer()
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.randn(4, 64), torch.ones(4, 64))
        found, expected = (forward_ad.unpack_dual(f(dual)).tangent for f in (made, nn.Linear.forward.__get__(made)))
    torch.testing.assert_close(found, expected)


def test_tracers_and_transforms_see_ordinary_operators() -> None:
    made, x, other = layer(), torch.randn(3, 64), torch.randn(3, 64)
    with torch.no_grad():
        expected = F.linear(other, made.weight, made.bias)
        graph = make_fx(made)(x)
        mapped = torch.vmap(made)(other)
        for found in (graph(other), mapped):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_numbers_that_are_none_stay_so_in_8_bits() -> None:
    made = fresh().quantize().encoder.blocks[0].self_attn.q
    x = torch.randn(3, SOURCE.hidden_size)
    x[0, 0], x[1, 3] = float("nan"), float("inf")
    with torch.no_grad():
        y = made(x)
    assert y[:2].isnan().all()
    assert y[2].isfinite().all()


def test_a_quantized_model_computes_with_what_was_loaded_last() -> None:
    one, other = (stir(fresh()).quantize() for _ in range(2))
    data = {**batch(), "output_logits": True}
    with torch.no_grad():
        one(**data)  # it has been used
        one.load_state_dict(other.state_dict())
        assert torch.equal(one(**data).logits, other(**data).logits)


@pytest.mark.parametrize("target", [TARGET, GPT, LLAMA], ids=["bert", "gpt2", "llama"])
def test_a_step_of_other_rows_than_the_cache_has_is_refused(target: Any) -> None:
    model = stir(fresh(decoder=target))
    cache = started(model)
    with torch.no_grad(), pytest.raises(ShapeError, match="4 rows, but past_key_values holds 2"):
        model(decoder_input_ids=torch.full((4, 1), 11), past_key_values=cache)


def test_positions_of_a_step_are_broadcast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stir(fresh(decoder=LLAMA))
    step = {"decoder_input_ids": torch.full((2, 3), 11), "decoder_position_ids": torch.tensor([[1]])}
    one, other = (started(model) for _ in range(2))
    with torch.no_grad():
        by_kernels = model(**step, past_key_values=one).logits
        monkeypatch.setattr(native.Steps, "of", lambda stack: None)
        by_bricks = model(**step, past_key_values=other).logits
    torch.testing.assert_close(by_kernels, by_bricks, rtol=1e-4, atol=1e-4)


def test_a_cache_is_continued_with_the_weights_of_the_model_that_continues_it() -> None:
    model, other = stir(fresh()), stir(fresh())
    step = {"decoder_input_ids": torch.full((2, 1), 11)}
    cache, twin = started(model), started(model)
    with torch.no_grad():
        for each in (cache, twin):
            model(**step, past_key_values=each)
        found = other(**step, past_key_values=cache).logits
        hook = other.decoder.blocks[0].register_forward_hook(lambda *_: None)  # now the bricks compute it
        torch.testing.assert_close(found, other(**step, past_key_values=twin).logits, rtol=1e-4, atol=1e-4)
        hook.remove()


def test_a_cache_that_was_used_can_be_copied() -> None:
    model = stir(fresh())
    cache = started(model)
    step = {"decoder_input_ids": torch.full((2, 1), 11)}
    with torch.no_grad():
        model(**step, past_key_values=cache)
        twin = copy.deepcopy(cache)
        assert torch.equal(model(**step, past_key_values=cache).logits, model(**step, past_key_values=twin).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_source_gets_the_same_words_in_a_large_batch(dtype: torch.dtype) -> None:
    model = stir(fresh()).to(dtype)
    ids = torch.randint(5, 60, (20, 9), generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 15, "min_new_tokens": 15}
    alone = torch.cat([model.generate(row[None], **settings) for row in ids])
    assert torch.equal(model.generate(ids, **settings), alone)
