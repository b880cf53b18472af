"""RMSNorm, gated activations and rotary positions of a CPU in training: what PyTorch's operators give, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu import native, pointwise
from conjoin.torch.model.mlp import GatedMLP
from conjoin.torch.model.norm import RMSNorm
from conjoin.torch.model.positions import rotary_angles, rotate
from kernel_inputs import close, gradients

pytestmark = pytest.mark.skipif(not native.has("float32"), reason="no kernels on this machine")
DTYPES = (torch.float32, torch.bfloat16)
BOUND = {torch.float32: 1e-6, torch.bfloat16: 5e-3}
"""Of the norm of an error, relative to that of what is right: bfloat16 rounds by up to 2^-9."""


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def _errors(ours: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float(((a.double() - b).norm() / b.norm()).detach()) for a, b in zip(ours, exact, strict=True)]


def _is_right(function: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """A function, its kernel's gradients and those that can be differentiated are those of float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    y = function(*leaves)
    dy = torch.randn(y.shape).to(y.dtype)
    exact = gradients(plain(*wide), wide, dy.double())
    bound = max(BOUND[x.dtype] for x in inputs)
    assert max(_errors(gradients(y, leaves, dy), exact)) < bound
    again = torch.autograd.grad(function(*leaves), leaves, dy, create_graph=True)
    assert all(x.requires_grad for x in again)
    assert max(_errors(list(again), exact[1:])) < bound
    if bound > BOUND[torch.float32]:
        return  # PyTorch's operators, which give these, round every step of theirs
    second, right = (
        torch.autograd.grad(sum(g.pow(2).sum() for g in torch.autograd.grad(f(*xs), xs, d, create_graph=True)), xs)
        for f, xs, d in ((function, leaves, dy), (plain, wide, dy.double()))
    )
    assert max(_errors(list(second), list(right))) < 2 * bound


def _norm(size: int, **words: Any) -> RMSNorm:
    norm = RMSNorm(spec.RMSNorm(eps=1e-5, **words), size)
    nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("in_float32", [True, False])
@pytest.mark.parametrize("shape", [(576,), (1, 37), (3, 70, 64), (2, 5, 3, 40)])
def test_rms_norm(dtype: torch.dtype, offset: float, in_float32: bool, shape: tuple[int, ...]) -> None:
    norm, x = _norm(shape[-1], offset=offset, scale_in_float32=in_float32), torch.randn(shape).to(dtype)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight + offset)

    y = norm(x.clone().requires_grad_())
    assert y.grad_fn.name() == "_RMSNormBackward"
    assert y.dtype == norm._by_operators(x, norm.weight).dtype
    _is_right(lambda x, w: pointwise.rms_norm(x, w, norm.kind, norm._by_operators), plain, x, norm.weight)


def test_a_norm_without_gradients_of_its_weight_or_its_input() -> None:
    x, norm = torch.randn(4, 9), _norm(9)
    norm.weight.requires_grad_(False)
    (dx,) = torch.autograd.grad(norm(leaf := x.clone().requires_grad_()).sum(), leaf)
    norm.weight.requires_grad_(True)
    both = torch.autograd.grad(norm(leaf).sum(), [leaf, norm.weight])
    (dweight,) = torch.autograd.grad(norm(x).sum(), norm.weight)
    assert torch.equal(dx, both[0]) and torch.equal(dweight, both[1])


def test_a_norm_of_a_part_of_its_input_and_of_gradients_that_are_no_matrix() -> None:
    norm, base = _norm(8), torch.randn(6, 5, 16, requires_grad=True)
    part = base[:, :, ::2].transpose(0, 1)
    ours = gradients(norm(part), [base], torch.ones(()).expand(5, 6, 8))
    close(ours, gradients(norm._by_operators(part, norm.weight), [base], torch.ones(5, 6, 8)), 1e-6)


def test_a_norm_can_be_changed_in_place_and_its_weight_may_be_a_part_of_another() -> None:
    table, x = torch.randn(8, 2, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    norm = _norm(8)

    def twice(function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        y = function(x, table[:, 0])
        y *= 2
        return gradients(y, [x, table], torch.ones(5, 8))

    ours = twice(lambda x, weight: pointwise.rms_norm(x, weight, norm.kind, norm._by_operators))
    close(ours, twice(norm._by_operators), 1e-6)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_gradient_of_a_norm_s_weight_is_the_same_with_any_number_of_threads(threads: int) -> None:
    norm, x = _norm(100), torch.randn(1000, 100)
    before, sums = torch.get_num_threads(), []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            sums.append(torch.autograd.grad(norm(x).pow(2).sum(), norm.weight)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*sums)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [*native.GATES])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 33), (40, 1000)])
def test_gates(dtype: torch.dtype, activation: spec.Activation, shape: tuple[int, ...]) -> None:
    module = GatedMLP(spec.GatedMLP(intermediate_size=8, activation=activation), 8)
    gate, up = torch.randn(2, *shape).mul(3).to(dtype)
    plain = module._by_operators
    _is_right(lambda g, u: pointwise.gated(activation, g, u, plain), plain, gate, up)


@pytest.mark.parametrize("activation", [*native.GATES])
def test_a_gate_of_large_and_strange_numbers(activation: spec.Activation) -> None:
    gate = torch.tensor([0.0, -0.0, 1e-30, 200.0, -200.0, 1e30, -1e30, float("nan")], requires_grad=True)
    up = torch.full_like(gate, 2.0, requires_grad=True)
    plain = GatedMLP(spec.GatedMLP(intermediate_size=8, activation=activation), 8)._by_operators
    ours = pointwise.gated(activation, gate, up, plain)
    torch.testing.assert_close(ours, plain(gate, up), equal_nan=True)
    usual = slice(0, 5)
    slopes = [torch.autograd.grad(y[usual].sum(), [gate, up]) for y in (ours, plain(gate, up))]
    torch.testing.assert_close(*([g[usual] for g in both] for both in slopes), atol=1e-6, rtol=1e-6)


def test_the_mlp_takes_the_kernel_in_training_only() -> None:
    mlp, x = GatedMLP(spec.GatedMLP(intermediate_size=12, activation="silu"), 8), torch.randn(3, 8)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    used: list[str] = []
    real = native.gated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "gated", lambda *a: used.append("gated") or real(*a))
        trained = mlp(x)
        with torch.no_grad():
            plain = mlp(x)
    assert used == ["gated"]
    close([trained.detach()], [plain], 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [40, 24])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("adjacent", [True, False])
def test_rotary_positions(dtype: torch.dtype, turned: int, rows: int, adjacent: bool) -> None:
    kind, places = spec.Rotary(base=10000.0, rotary_size=turned), torch.randint(0, 300, (rows, 70))
    cos, sin = rotary_angles(kind, places, torch.float32)
    x = torch.randn(3, 70, 5, 40).transpose(1, 2) if adjacent else torch.randn(3, 5, 70, 40)
    leaf, wide = x.to(dtype).requires_grad_(), x.to(dtype).double().requires_grad_()
    y, exact, dy = (
        rotate(leaf, (cos, sin)),
        rotate(wide, (cos.double(), sin.double())),
        torch.randn(3, 5, 70, 40).to(dtype),
    )
    assert y.dtype == dtype and y.grad_fn.name() == "_RotatedBackward"
    ours = torch.autograd.grad(y, leaf, dy, create_graph=True)
    assert ours[0].dtype == dtype
    errors = _errors([y, *ours], [exact, *torch.autograd.grad(exact, wide, dy.double())])
    assert max(errors) < BOUND[dtype]
    close(gradients(y, [leaf], dy)[1:], [ours[0].detach()], 0.0)
