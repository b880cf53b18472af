"""Kernels of our own against PyTorch's: the same numbers, whatever the shapes, strides, masks and batch mates."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from conjoin.native import build
from conjoin.torch.cpu import native
from kernel_inputs import numbers, plain_attention

needs_float32 = pytest.mark.skipif(not native.has("float32"), reason="no C++ compiler, or no AVX-512")
needs_bfloat16 = pytest.mark.skipif(not native.has("bfloat16"), reason="no bf16 dot products here")
needs_int8 = pytest.mark.skipif(not native.has("int8"), reason="no int8 dot products here")
ROWS = (1, 2, 3, 5, 6, 7, 13, 64, 65, 300)
SIZES = ((16, 8), (64, 7), (100, 33), (768, 1), (1, 9), (770, 130), (3100, 13))


@needs_float32
@pytest.mark.parametrize(("size", "outputs"), SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_f_linear(size: int, outputs: int, bias: bool) -> None:
    weight, offset = numbers(outputs, size, seed=1), numbers(outputs, seed=2) if bias else None
    for rows in ROWS:
        x = numbers(rows, size, seed=rows)
        expected = F.linear(x.double(), weight.double(), None if offset is None else offset.double())
        assert torch.allclose(native.linear(x, weight, offset).double(), expected, rtol=1e-5, atol=1e-5 * size**0.5)


@needs_bfloat16
@pytest.mark.parametrize(("size", "outputs"), SIZES)
def test_linear_in_bfloat16_rounds_the_sum_once(size: int, outputs: int) -> None:
    weight, offset = (numbers(*shape, seed=1, dtype=torch.bfloat16) for shape in ((outputs, size), (outputs,)))
    for rows in ROWS:
        x = numbers(rows, size, seed=rows, dtype=torch.bfloat16)
        found = native.linear(x, weight, offset)
        assert found.dtype == torch.bfloat16
        expected = F.linear(x.double(), weight.double(), offset.double())
        assert torch.allclose(found.double(), expected, rtol=2**-8, atol=1e-5 * size**0.5)


@needs_float32
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
def test_a_row_gets_the_same_bits_alone_and_in_any_batch(dtype: torch.dtype) -> None:
    weight, x = numbers(70, 770, seed=1, dtype=dtype), numbers(300, 770, dtype=dtype)
    whole = native.linear(x, weight, None)
    for rows in ROWS:
        assert torch.equal(native.linear(x[:rows], weight, None), whole[:rows])


@needs_float32
def test_linear_takes_leading_axes_and_strides() -> None:
    weight = numbers(24, 48)
    wide = numbers(3, 5, 96)
    for x in (wide[..., :48], wide[..., ::2], wide[:, :, :48].transpose(0, 1), wide[0, 0, :48], wide[:1, :1, :48]):
        assert torch.allclose(native.linear(x, weight, None), F.linear(x, weight), rtol=1e-5, atol=1e-4)


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "outputs"), SIZES)
def test_linear_in_8_bits_is_exact_in_its_whole_numbers(size: int, outputs: int, dtype: torch.dtype) -> None:
    weight = torch.randint(-127, 128, (outputs, size), generator=torch.Generator().manual_seed(3), dtype=torch.int8)
    scale, offset = numbers(outputs, seed=4).abs() + 0.1, numbers(outputs, seed=5, dtype=dtype)
    sums = weight.sum(1, dtype=torch.int32)
    for rows in ROWS:
        x = numbers(rows, size, seed=rows, dtype=dtype)
        x[0] = 0
        most = x.float().abs().amax(-1, keepdim=True)
        rounded = torch.where(most > 0, (x.float() * torch.full_like(most, 127).div(most)).round(), 0.0)
        unit = most / 127
        expected = rounded.double() @ weight.double().T * (unit * scale).double() + offset.double()
        found = native.linear_int8(x, weight, scale, sums, offset).double()
        near = 1e-5 if dtype == torch.float32 else 2**-8
        assert torch.allclose(found, expected, rtol=near, atol=1e-4)


@needs_float32
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)])
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("keys", [1, 17, 128, 300])
@pytest.mark.parametrize("size", [8, 64, 80])
def test_attention_is_the_formula(dtype: torch.dtype, beams: int, groups: int, keys: int, size: int) -> None:
    sources, kv_heads, length = 3, 2, 2
    q = numbers(sources * beams, length, kv_heads * groups, size, dtype=dtype).transpose(1, 2)
    # Keys and values are views of larger storage, as a cache's are.
    k, v = (numbers(sources, kv_heads, keys + 5, size, seed=s, dtype=dtype)[:, :, :keys] for s in (1, 2))
    padded = torch.rand(sources, 1, 1, keys, generator=torch.Generator().manual_seed(6)) > 0.3
    padded[1] = False  # a source that is all padding
    causal = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)[None, None]
    bias = numbers(1, kv_heads * groups, length, keys, seed=7)
    cases = ((None, None), (padded, None), (padded & causal, bias), (causal, None), (None, bias[:, :, :1]))
    for allowed, added in cases:
        found = native.attention(q, k, v, 0.3, allowed, added)
        expected = plain_attention(q, k, v, 0.3, None if allowed is None else allowed.expand(sources, 1, -1, -1), added)
        near = 1e-5 if dtype == torch.float32 else 2e-2
        assert torch.allclose(found.double(), expected, rtol=near, atol=near)


@needs_float32
def test_padding_and_batch_mates_change_no_bit_of_attention() -> None:
    q, k, v = numbers(4, 6, 1, 64), numbers(4, 6, 200, 64, seed=1), numbers(4, 6, 200, 64, seed=2)
    allowed = (torch.arange(200) < 150)[None, None, None].expand(4, 1, 1, 200)
    whole = native.attention(q, k, v, 0.125, allowed)
    alone = native.attention(q[2:3], k[2:3, :, :150], v[2:3, :, :150], 0.125)
    assert torch.equal(whole[2:3], alone)


def test_large_scores_do_not_overflow() -> None:
    if not native.has("float32"):
        pytest.skip("no kernels here")
    q, k, v = numbers(1, 1, 1, 16) * 1e4, numbers(1, 1, 9, 16, seed=1) * 1e4, numbers(1, 1, 9, 16, seed=2)
    assert torch.allclose(native.attention(q, k, v, 1.0).double(), plain_attention(q, k, v, 1.0, None, None))


def test_without_a_compiler_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import torch; from conjoin.torch.cpu import native; from conjoin.torch.cpu.linear import linear\n"
        "assert not native.has('float32') and not native.has('int8')\n"
        "with torch.inference_mode():\n"
        "    x, w = torch.randn(3, 8), torch.randn(5, 8)\n"
        "    assert torch.allclose(linear(x, w), x @ w.T, atol=1e-5)\n"
    )
    for name, value in (("CONJOIN_NATIVE", "0"), ("PATH", "/nowhere")):
        monkeypatch.setenv(name, value)
        subprocess.run([sys.executable, "-c", code], check=True)
        monkeypatch.undo()


def test_a_compiler_that_fails_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compiler", lambda: "false")
    assert build.load("kernels.cpp", "-DNEVER_COMPILED_BEFORE") is None
