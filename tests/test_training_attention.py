"""Attention and dropout of a CPU in training: what PyTorch's give, with masks that are drawn faster."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch import attention_grad
from conjoin.torch.attention import Mask, attend
from conjoin.torch.attention_grad import Attending, attend_in_training, attend_plainly
from conjoin.torch.dropout import draw, draws_fast, dropout, keep, scale_of

R, H, K, T, S, E = 5, 6, 2, 7, 11, 8


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at once, so that five rows are three groups."""
    monkeypatch.setattr(attention_grad, "_GROUP_SCORES", 2 * H * T * S)
    torch.manual_seed(0)


def _given(kv_heads: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    shapes = ((R, T, H, E), (R, S, kv_heads, E), (R, S, kv_heads, E))
    return [torch.randn(shape).to(dtype).transpose(1, 2).requires_grad_() for shape in shapes]


def _masks() -> Iterator[Any]:
    padding = torch.ones(R, 1, 1, S, dtype=torch.bool)
    padding[1, ..., 5:] = padding[4, ..., :3] = False
    segments = torch.rand(R, 1, T, S) > 0.4
    segments[..., 0] = True
    dead = segments.clone()
    dead[2, :, 3] = dead[3] = False
    yield pytest.param(None, id="nothing")
    yield pytest.param(padding, id="padding")
    yield pytest.param(torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None], id="causal")
    yield pytest.param(segments, id="segments")
    yield pytest.param(dead, id="queries that read nothing")


def _bias() -> Tensor:
    return torch.randn(1, H, T, S).requires_grad_()


def _gradients(y: Tensor, given: list[Tensor], dy: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, given, dy)]


def _close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("allowed", [*_masks()])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kv_heads", [H, K])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_attention_and_its_gradients_are_those_of_plain_steps(
    allowed: Tensor | None, biased: bool, kv_heads: int, rate: float
) -> None:
    given, how, dy = _given(kv_heads), Attending(0.3, rate), torch.randn(R, H, T, E)
    bias = _bias() if biased else None
    wanted = given if bias is None else [*given, bias]
    found = attend_in_training(*given, allowed, bias, how)
    mask = found.grad_fn.saved_tensors[6]
    expected = attend_plainly(*given, allowed, bias, how, mask)
    if allowed is not None and not allowed.any(-1).all():
        assert not found[3].any() and not found[2, :, 3].any()
    _close(_gradients(found, wanted, dy), _gradients(expected, wanted, dy), 1e-5)


@pytest.mark.parametrize("allowed", [*_masks()])
def test_without_dropout_it_is_pytorch_s_attention(allowed: Tensor | None) -> None:
    given, dy = _given(H), torch.randn(R, H, T, E)
    found = attend_in_training(*given, allowed, None, Attending(0.3, 0.0))
    expected = F.scaled_dot_product_attention(*given, attn_mask=allowed, scale=0.3)
    _close(_gradients(found, given, dy), _gradients(expected, given, dy), 1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_bfloat16_is_as_near_to_float32_as_pytorch_s(rate: float) -> None:
    given, dy = _given(H, torch.bfloat16), torch.randn(R, H, T, E)
    wide = [x.detach().float().requires_grad_() for x in given]
    how = Attending(0.3, rate)
    y = attend_in_training(*given, None, None, how)
    exact = _gradients(attend_plainly(*wide, None, None, how, y.grad_fn.saved_tensors[6]), wide, dy)
    errors = [
        float((a.float() - b).norm() / b.norm())
        for a, b in zip(_gradients(y, given, dy.bfloat16()), exact, strict=True)
    ]
    assert max(errors) < 1e-2
    if not rate:
        theirs = _gradients(F.scaled_dot_product_attention(*given, scale=0.3), given, dy.bfloat16())
        others = [float((a.float() - b).norm() / b.norm()) for a, b in zip(theirs, exact, strict=True)]
        assert max(errors) < 2 * max(others)


def test_the_gradient_of_attention_can_be_differentiated_again() -> None:
    given, how = _given(K), Attending(0.3, 0.3)
    y = attend_in_training(*given, None, None, how)
    plain = attend_plainly(*given, None, None, how, y.grad_fn.saved_tensors[6])
    found, expected = (
        torch.autograd.grad(
            sum(first.pow(2).sum() for first in torch.autograd.grad(each.pow(2).sum(), given, create_graph=True)), given
        )
        for each in (y, plain)
    )
    _close(list(found), list(expected), 1e-4)


BIASES = {f"{name}_bias": False for name in "qkvo"}
KIND = spec.Attention(num_heads=H, num_kv_heads=K, head_size=E, scale=0.3, dropout=0.1, **BIASES)


def test_training_with_dropout_and_bfloat16_take_it_and_nothing_else_does() -> None:
    given = _given(K)
    half = [x.detach().bfloat16().requires_grad_() for x in given]

    def taken(given: list[Tensor], **settings: Any) -> bool:
        out, _ = attend(*given, Mask(), KIND, **settings)
        return out.grad_fn is not None and out.grad_fn.name() == "_AttentionBackward"

    assert taken(given, dropout=0.1) and taken(half, dropout=0.1) and taken(half)
    assert not taken(given)
    assert not taken(given, dropout=1e-6)
    assert not taken([x.detach() for x in given], dropout=0.1)
    assert not taken([x.detach().double().requires_grad_() for x in given], dropout=0.1)
    with torch.no_grad():
        assert not taken(half)
    with torch.autocast("cpu", torch.bfloat16):
        assert taken(given)
        assert attend(*given, Mask(), KIND)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("causal", [False, True])
def test_attend_gives_the_same_by_either_way(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = _given(K)
    k, v = k[:, :, :T], v[:, :, :T]
    bias, dy = torch.randn(1, H, T, T).requires_grad_(), torch.randn(R, H, T, E)
    wanted = [q, k, v, bias]
    results = []
    for way in (True, False):
        monkeypatch.setattr("conjoin.torch.attention.trains_fast", lambda *_, way=way: way)
        results.append(_gradients(attend(q, k, v, Mask(causal=causal), KIND, bias=bias)[0], wanted, dy))
    _close(*results, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype, rate: float) -> None:
    x = torch.ones(1000, 301, dtype=dtype).requires_grad_()
    y = dropout(x, rate)
    assert y.grad_fn.name() == "_DropoutBackward"
    kept = y != 0
    share = float(kept.float().mean())
    assert abs(share - (1 - rate)) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    torch.testing.assert_close(y[kept].float(), torch.full((int(kept.sum()),), 1 / (1 - rate)), rtol=1e-2, atol=0)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(slope, y)


def test_draws_are_independent_along_every_axis() -> None:
    mask = -draw([64, 64, 64], 0.3).float() - 0.7
    for axis in range(3):
        for step in (1, 2, 3, 4, 5, 8):
            apart = (mask * mask.roll(step, axis)).mean() / 0.21
            assert abs(float(apart)) < 5 / mask.numel() ** 0.5


def test_seeds_decide_draws_and_a_restored_state_goes_on() -> None:
    x = torch.ones(33, 3)
    torch.manual_seed(3)
    first, state, second = dropout(x, 0.5), torch.get_rng_state(), dropout(x, 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), second)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.5), first)


def test_dropout_s_gradient_can_be_differentiated_again() -> None:
    x = torch.randn(7, 5).requires_grad_()
    y = dropout(x, 0.5)
    (first,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x)[0], 8.0 * (y != 0))


def test_what_is_not_exact_enough_or_not_ordinary_is_pytorch_s() -> None:
    x = torch.randn(7, 5)
    assert draws_fast(x, 0.1) and not draws_fast(x, 1e-5) and not draws_fast(x, 1.0) and not draws_fast(x, 0.0)
    assert not draws_fast(x.double(), 0.1) and not draws_fast(x[:0], 0.1)
    assert dropout(x, 0.1, training=False) is x
    assert not dropout(x, 1.0).any()
    assert torch.equal(dropout(x, 0.0), x)


def test_a_dropped_infinity_is_zero_and_a_slice_is_kept_as_such() -> None:
    x = torch.tensor([[1.0, float("inf")], [float("nan"), 2.0]]).t()
    mask = torch.tensor([[-1, 0], [0, -1]], dtype=torch.int16)
    assert torch.equal(keep(x, mask), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert scale_of(0.5) == 2.0
