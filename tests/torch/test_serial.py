"""Copies in the caller's thread are what PyTorch's operators give."""

import pytest
import torch

from conjoin.torch.cpu.serial import converted, joined, rows_where, spread_where

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.int64]


def masked(dtype: torch.dtype, size: tuple[int, int, int] = (7, 50, 300)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(size, generator=generator) * 9).to(dtype)
    return x, torch.rand(size[:2], generator=generator) > 0.3


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_taken_and_put_as_by_a_mask(dtype: torch.dtype) -> None:
    x, real = masked(dtype)
    rows = rows_where(x, real)
    assert rows.dtype == dtype and torch.equal(rows, x[real])
    expected = torch.zeros_like(x)
    expected[real] = x[real]
    out = spread_where(rows, real)
    assert out.dtype == dtype and torch.equal(out, expected)
    assert torch.equal(rows_where(x.transpose(0, 1), real.T), x.transpose(0, 1)[real.T])


def test_nothing_is_real() -> None:
    x, _ = masked(torch.bfloat16, (2, 3, 4))
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert rows_where(x, none).shape == (0, 4)
    assert torch.equal(spread_where(x[none], none), torch.zeros_like(x))


def test_gradients_pass() -> None:
    x, real = masked(torch.float32, (2, 3, 4))
    x.requires_grad_()
    spread_where(rows_where(x, real) * 2, real).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, 2.0 * real[..., None].expand_as(x))
    assert converted(x[0], torch.float64).requires_grad and joined([x[0], x[1]], torch.float64).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 300, 40_000])
def test_parts_are_joined_and_rounded_as_by_pytorch(dtype: torch.dtype, width: int) -> None:
    parts = [torch.randn(rows, width) for rows in (1, 0, 130, 7)]
    assert torch.equal(joined(parts, dtype), torch.cat(parts).to(dtype))
    assert torch.equal(converted(parts[2], dtype), parts[2].to(dtype))
    assert converted(parts[2], torch.float32) is parts[2]
