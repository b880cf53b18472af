"""Attention and dropout of a CPU in training: what PyTorch's give, with masks that are drawn faster."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conjoin import spec
from conjoin.torch.cpu import attention_grad, native
from conjoin.torch.cpu.attention import attend
from conjoin.torch.cpu.attention_grad import AttentionOptions, attend_plainly
from conjoin.torch.cpu.dropout import draw, dropout, is_exact, keep, scale_of
from conjoin.torch.cpu.masks import Mask
from kernel_inputs import close, gradients

R, H, K, T, S, E = 5, 6, 2, 7, 11, 8


@pytest.fixture(autouse=True, params=["by kernels", "in plain steps"])
def small_groups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at once, so that five rows are three groups; with the kernels, and as where there are none."""
    monkeypatch.setattr(attention_grad, "_GROUP_SCORES", 2 * H * T * S)
    if request.param == "in plain steps":
        monkeypatch.setattr(native, "has", lambda kernel: False)
    elif not native.has("float32"):
        pytest.skip("no kernels on this machine")
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


def attend_in_training(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, bias: Tensor | None, how: AttentionOptions
) -> Tensor:
    """Every row a sequence."""
    return attention_grad.attend_in_training(q, k, v, native.Reads.of_rows(q, k, allowed), bias, how)


def _kept(y: Tensor) -> Tensor:
    """Which weights an attention in training has kept."""
    assert y.grad_fn is not None
    q, k, *_, weights = y.grad_fn.saved_tensors
    return ~weights.signbit().view(*q.shape[:3], k.shape[2])


@pytest.mark.parametrize("allowed", [*_masks()])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kv_heads", [H, K])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_attention_and_its_gradients_are_those_of_plain_steps(
    allowed: Tensor | None, biased: bool, kv_heads: int, rate: float
) -> None:
    given, how, dy = _given(kv_heads), AttentionOptions(0.3, rate), torch.randn(R, H, T, E)
    bias = _bias() if biased else None
    wanted = given if bias is None else [*given, bias]
    found = attend_in_training(*given, allowed, bias, how)
    expected = attend_plainly(*given, allowed, bias, how, _kept(found))
    if allowed is not None and not allowed.any(-1).all():
        assert not found[3].any() and not found[2, :, 3].any()
    close(gradients(found, wanted, dy), gradients(expected, wanted, dy), 1e-5)


@pytest.mark.parametrize("allowed", [*_masks()])
def test_without_dropout_it_is_pytorch_s_attention(allowed: Tensor | None) -> None:
    given, dy = _given(H), torch.randn(R, H, T, E)
    found = attend_in_training(*given, allowed, None, AttentionOptions(0.3, 0.0))
    expected = F.scaled_dot_product_attention(*given, attn_mask=allowed, scale=0.3)
    close(gradients(found, given, dy), gradients(expected, given, dy), 1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_bfloat16_is_as_near_to_float32_as_pytorch_s(rate: float) -> None:
    given, dy = _given(H, torch.bfloat16), torch.randn(R, H, T, E)
    wide = [x.detach().float().requires_grad_() for x in given]
    how = AttentionOptions(0.3, rate)
    y = attend_in_training(*given, None, None, how)
    exact = gradients(attend_plainly(*wide, None, None, how, _kept(y)), wide, dy)
    errors = [
        float((a.float() - b).norm() / b.norm()) for a, b in zip(gradients(y, given, dy.bfloat16()), exact, strict=True)
    ]
    assert max(errors) < 1e-2
    if not rate:
        theirs = gradients(F.scaled_dot_product_attention(*given, scale=0.3), given, dy.bfloat16())
        others = [float((a.float() - b).norm() / b.norm()) for a, b in zip(theirs, exact, strict=True)]
        assert max(errors) < 2 * max(others)


def test_the_gradient_of_attention_can_be_differentiated_again() -> None:
    given, how = _given(K), AttentionOptions(0.3, 0.3)
    y = attend_in_training(*given, None, None, how)
    plain = attend_plainly(*given, None, None, how, _kept(y))
    found, expected = (
        torch.autograd.grad(
            sum(first.pow(2).sum() for first in torch.autograd.grad(each.pow(2).sum(), given, create_graph=True)), given
        )
        for each in (y, plain)
    )
    close(list(found), list(expected), 1e-4)


BIASES = {f"{name}_bias": False for name in "qkvo"}
KIND = spec.Attention(num_heads=H, num_kv_heads=K, head_size=E, scale=0.3, dropout=0.1, **BIASES)


def test_training_with_dropout_and_bfloat16_take_it_and_nothing_else_does() -> None:
    given = _given(K)
    half = [x.detach().bfloat16().requires_grad_() for x in given]

    def taken(given: list[Tensor], **settings: Any) -> bool:
        out, _ = attend(*given, KIND, mask=Mask(), **settings)
        return out.grad_fn is not None and out.grad_fn.name() in ("_ByKernelBackward", "_InGroupsBackward")

    assert taken(given, dropout=0.1) and taken(half, dropout=0.1) and taken(half)
    assert taken(given) == native.has("float32")
    assert not taken(given, dropout=1e-6)
    assert not taken([x.detach() for x in given], dropout=0.1)
    assert not taken([x.detach().double().requires_grad_() for x in given], dropout=0.1)
    with torch.no_grad():
        assert not taken(half)
    with torch.autocast("cpu", torch.bfloat16):
        assert taken(given)
        assert attend(*given, KIND, mask=Mask())[0].dtype == torch.bfloat16


@pytest.mark.parametrize("causal", [False, True])
def test_attend_gives_the_same_by_either_way(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = _given(K)
    k, v = k[:, :, :T], v[:, :, :T]
    bias, dy = torch.randn(1, H, T, T).requires_grad_(), torch.randn(R, H, T, E)
    wanted = [q, k, v, bias]
    results = []
    for way in (True, False):
        monkeypatch.setattr("conjoin.torch.cpu.attention.trains_fast", lambda *_, way=way: way)
        results.append(gradients(attend(q, k, v, KIND, mask=Mask(causal=causal), bias=bias)[0], wanted, dy))
    close(*results, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype, rate: float) -> None:
    x = torch.ones(1000, 301, dtype=dtype).requires_grad_()
    y = dropout(x, rate)
    assert y.grad_fn.name() == ("_SeededBackward" if native.has("float32") else "_DrawnBackward")
    kept = y != 0
    share = float(kept.float().mean())
    assert abs(share - (1 - rate)) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    torch.testing.assert_close(y[kept].float(), torch.full((int(kept.sum()),), 1 / (1 - rate)), rtol=1e-2, atol=0)
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(slope, y)


@pytest.mark.parametrize("what", ["drawn masks", "dropout", "attention"])
def test_draws_are_independent_along_every_axis(what: str) -> None:
    match what:
        case "drawn masks":
            kept = draw([64, 64, 64], 0.3) != 0
        case "dropout":
            kept = dropout(torch.ones(64, 64, 64), 0.3) != 0
        case _:
            q, k, v = (torch.randn(1, 64, 64, 4).requires_grad_() for _ in range(3))
            kept = _kept(attend_in_training(q, k, v, None, None, AttentionOptions(0.3, 0.3)))[0]
    mask = kept.float() - 0.7
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


def test_a_profiler_may_watch_with_shapes() -> None:
    given = _given(K)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True):
        for seed in range(8):
            torch.manual_seed(seed)
            dropout(attend_in_training(*given, None, None, AttentionOptions(0.3, 0.3)), 0.5).sum().backward()


def _philox(counter: list[int], key: int) -> list[int]:
    """Philox4x32-10 as its paper gives it (Salmon et al. 2011, section 3.3, and its table of constants)."""
    low, high = key % 2**32, key >> 32
    for _ in range(10):
        one, two = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(two >> 32) ^ counter[1] ^ low, two % 2**32, (one >> 32) ^ counter[3] ^ high, one % 2**32]
        low, high = (low + 0x9E3779B9) % 2**32, (high + 0xBB67AE85) % 2**32
    return counter


@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_draws_by_philox_whatever_the_threads(threads: int) -> None:
    if not native.has("float32"):
        pytest.skip("no kernels")
    # Random123's file of known answers.
    assert _philox([0] * 4, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _philox([2**32 - 1] * 4, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    seed, kept = 0xFEDCBA9876543210, 40000
    expected = []
    for block in range(3):  # a block is 16 counters, their first words, then their second ones ...
        words = torch.tensor([_philox([counter, block, 0, 0], seed) for counter in range(16)]).T.flatten()
        expected += [words % 2**16, words >> 16]
        expected[-2:] = [torch.stack(expected[-2:], -1).flatten() < kept]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = native.drop(torch.ones(300), kept=kept, seed=seed)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found != 0, torch.cat(expected)[:300])


def test_attention_s_draws_do_not_hang_on_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.has("float32"):
        pytest.skip("a mask is drawn per group")
    given, found = _given(K), []
    for scores in (1, 2 * H * T * S, 2**20):
        monkeypatch.setattr(attention_grad, "_GROUP_SCORES", scores)
        torch.manual_seed(1)
        found.append(attend_in_training(*given, None, None, AttentionOptions(0.3, 0.3)))
    assert _kept(found[0]).equal(_kept(found[1])) and _kept(found[1]).equal(_kept(found[2]))


def test_what_is_no_number_stays_none() -> None:
    q, k, v = _given(K)
    broken = q.detach().clone()
    broken[1, 2, 3] = float("nan")
    y = attend_in_training(broken.requires_grad_(), k, v, None, None, AttentionOptions(0.3, 0.3))
    assert y[1, 2, 3].isnan().all() and int(y.isnan().sum()) == E


def test_dropout_s_gradient_can_be_differentiated_again() -> None:
    x = torch.randn(7, 5).requires_grad_()
    y = dropout(x, 0.5)
    (first,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(first.sum(), x)[0], 8.0 * (y != 0))


def test_what_is_not_exact_enough_or_not_ordinary_is_pytorch_s() -> None:
    x = torch.randn(7, 5)
    assert is_exact(0.1) and not is_exact(1e-5) and not is_exact(1.0) and not is_exact(0.0)
    ours = ("_SeededBackward", "_DrawnBackward")
    for given, rate in ((x, 0.1), (x, 1e-5), (x.double(), 0.1), (x[:0], 0.1)):
        node = dropout(given.clone().requires_grad_(), rate).grad_fn
        assert (node is not None and node.name() in ours) == (given is x and rate == 0.1)
    assert dropout(x, 0.1, training=False) is x
    assert not dropout(x, 1.0).any()
    assert torch.equal(dropout(x, 0.0), x)


def test_a_dropped_infinity_is_zero_and_a_slice_is_kept_as_such() -> None:
    x = torch.tensor([[1.0, float("inf")], [float("nan"), 2.0]]).t()
    mask = torch.tensor([[-1, 0], [0, -1]], dtype=torch.int16)
    assert torch.equal(keep(x, mask), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    assert scale_of(0.5) == 2.0
