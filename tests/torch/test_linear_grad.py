"""The linear layer that trains on a CPU: oneDNN's products are F.linear's; all else is left to PyTorch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conjoin.torch.cpu import linear_grad, native
from conjoin.torch.cpu.linear import linear
from conjoin.torch.cpu.linear_grad import Products

if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    pytest.skip("this build of torch has no oneDNN linear layer", allow_module_level=True)

ALL = Products(y=True, dx=True, dw=native.has("float32"))
NODE = "_LinearBackward"


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that may goes to oneDNN and the kernel, whatever is faster here."""
    monkeypatch.setattr(linear_grad, "fastest_products", lambda: ALL)


def _leaf(*shape: int, **settings: Any) -> Tensor:
    return torch.randn(*shape, **settings).requires_grad_()


def _gradients(function: Any, given: list[Tensor | None], dy: Tensor) -> list[Tensor]:
    wanted = [tensor for tensor in given if tensor is not None and tensor.requires_grad]
    y = function(*given)
    return [y.detach(), *torch.autograd.grad(y, wanted, dy)]


def _close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("lead", [(), (1,), (7,), (64,), (2, 7), (3, 2, 5), (513,)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("sizes", [(20, 12), (384, 96), (33, 257), (1, 1), (460, 201)])
def test_outputs_and_gradients_are_those_of_pytorch(
    lead: tuple[int, ...], biased: bool, sizes: tuple[int, int]
) -> None:
    inputs, outputs = sizes
    given = [_leaf(*lead, inputs), _leaf(outputs, inputs), _leaf(outputs) if biased else None]
    dy = torch.randn(*lead, outputs)
    assert linear(*given).grad_fn.name() == NODE
    _close(_gradients(linear, given, dy), _gradients(F.linear, given, dy))


def _non_contiguous() -> Iterator[Any]:
    yield pytest.param(lambda: _leaf(20, 7).t(), id="transposed")
    yield pytest.param(lambda: _leaf(7, 40)[:, ::2], id="every second")
    yield pytest.param(lambda: _leaf(1, 20).expand(7, 20), id="expanded")
    yield pytest.param(lambda: _leaf(2, 20, 7).transpose(1, 2), id="heads")


@pytest.mark.parametrize("make", [*_non_contiguous()])
def test_inputs_and_slopes_need_not_be_contiguous(make: Any) -> None:
    x = make().detach().requires_grad_()
    x = make() if x.is_contiguous() else x
    given = [x, _leaf(12, 20), _leaf(12)]
    shape = (*x.shape[:-1], 12)
    for dy in (torch.randn(12, *shape[:-1]).movedim(0, -1), torch.ones(()).expand(shape)):
        _close(_gradients(linear, given, dy), _gradients(F.linear, given, dy))


def test_what_is_frozen_gets_no_gradient_and_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for name in ("to_input", "to_weight"):
        real = getattr(Products, name)
        monkeypatch.setattr(Products, name, lambda *args, real=real, name=name: (made.append(name), real(*args))[1])
    x, weight, bias = torch.randn(7, 20), torch.randn(12, 20), torch.randn(12)
    linear(x.clone().requires_grad_(), weight, bias).sum().backward()
    assert made == ["to_input"]
    made.clear()
    linear(x, weight.clone().requires_grad_(), bias).sum().backward()
    assert made == ["to_weight"]
    made.clear()
    linear(x, weight, bias.clone().requires_grad_()).sum().backward()
    assert not made
    kept = linear(x.clone().requires_grad_(), weight, bias).grad_fn.saved_tensors
    assert [tensor is None for tensor in kept] == [True, False]


def test_a_gradient_of_the_weight_is_taken_over_rather_than_copied() -> None:
    layer = nn.Parameter(torch.randn(12, 20))
    linear(torch.randn(7, 20), layer).sum().backward()
    assert layer.grad is not None and layer.grad.is_contiguous()


def test_an_output_can_be_changed_in_place() -> None:
    x, weight = _leaf(2, 7, 20), _leaf(12, 20)
    linear(x, weight).relu_().sum().backward()
    expected = torch.autograd.grad(F.linear(x, weight).relu().sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected)


def test_a_gradient_can_be_differentiated_again() -> None:
    x, weight, bias = _leaf(7, 20), _leaf(12, 20), _leaf(12)

    def penalty(function: Any) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(function(x, weight, bias).pow(2).sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(each.pow(2).sum() for each in first), (x, weight, bias))

    _close([*penalty(linear)], [*penalty(F.linear)])  # single values may be what is left of large ones


def test_a_changed_weight_is_noticed() -> None:
    x, weight = _leaf(7, 20), _leaf(12, 20)
    y = linear(x, weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


class Sub(Tensor):
    """A subclass, as FSDP's and others'."""


def _others() -> Iterator[Any]:
    for name, given in {
        "float64": (_leaf(7, 20, dtype=torch.float64), _leaf(12, 20, dtype=torch.float64)),
        "bfloat16": (_leaf(7, 20, dtype=torch.bfloat16), _leaf(12, 20, dtype=torch.bfloat16)),
        "no rows": (_leaf(0, 20), _leaf(12, 20)),
        "no gradient": (torch.randn(7, 20), torch.randn(12, 20)),
        "subclass": (_leaf(7, 20), _leaf(12, 20).as_subclass(Sub)),
        "transposed weight": (_leaf(7, 20), _leaf(20, 12).t()),
    }.items():
        yield pytest.param(given, id=name)


@pytest.mark.parametrize("given", [*_others()])
def test_anything_else_is_left_to_pytorch(given: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_grad._Linear, "apply", None)
    torch.testing.assert_close(linear(*given), F.linear(*given))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit.script, which forward mode loads
def test_transforms_autocast_and_compilers_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(7, 20), torch.randn(12, 20)

    def loss(w: Tensor) -> Tensor:
        return linear(x, w).pow(2).sum()

    expected = torch.autograd.grad(F.linear(x, weight.requires_grad_()).pow(2).sum(), weight)[0]
    torch.testing.assert_close(torch.func.grad(loss)(weight.detach()), expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight, torch.ones_like(weight))
        tangent = torch.autograd.forward_ad.unpack_dual(linear(x, dual)).tangent
    torch.testing.assert_close(tangent, F.linear(x, torch.ones_like(weight)))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert linear(x, weight).grad_fn.name() != NODE


def test_gradcheck_in_float64() -> None:
    given = (_leaf(3, 5, dtype=torch.float64), _leaf(4, 5, dtype=torch.float64), _leaf(4, dtype=torch.float64))
    assert torch.autograd.gradcheck(linear, given)
    assert torch.autograd.gradgradcheck(linear, given)


def test_a_wrong_or_missing_operator_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(a, b, bias) * 1.01

    def raising(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        raise RuntimeError("another build")

    monkeypatch.setattr(linear_grad, "_seconds", lambda other, a, b: (2.0, 1.0))
    assert linear_grad._measured() == ALL
    for operator in (wrong, raising):
        monkeypatch.setattr(linear_grad, "onednn", operator)
        assert linear_grad._measured() == Products(dw=ALL.dw)
    monkeypatch.setattr(linear_grad, "_dw_by_kernel", wrong)
    assert linear_grad._measured() == Products()


def test_each_product_goes_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_grad, "_seconds", lambda other, a, b: (2.0, 1.0) if b.is_contiguous() else (1.0, 1.0))
    assert linear_grad._measured() == Products(y=True)


def test_a_machine_measures_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    outcomes = [ALL, Products(dx=True)]
    monkeypatch.setattr(linear_grad, "_measured", lambda: outcomes.pop(0))
    found = []
    for _ in range(2):
        linear_grad.fastest_products.cache_clear()
        found.append(linear_grad.fastest_products())
    linear_grad.fastest_products.cache_clear()
    assert found == [ALL, ALL] and len(outcomes) == 1
    (file,) = (tmp_path / "conjoin").glob("products-*")
    linear_grad._write_first(file, Products())
    assert json.loads(file.read_text()) == {"y": True, "dx": True, "dw": ALL.dw}
    assert [each.name for each in file.parent.iterdir()] == [file.name]
