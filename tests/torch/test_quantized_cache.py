"""Keys and values in 8 bits: how far from the exact ones, in how few bytes, moved like any others."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conjoin import EncoderDecoderModel, GenerationConfig
from conjoin.errors import GenerationError
from conjoin.torch.cpu import native
from conjoin.torch.cpu.attention import attend
from conjoin.torch.cpu.cache_rows import from_bytes, to_bytes
from conjoin.torch.cpu.masks import Mask
from conjoin.torch.cpu.native import Steps
from conjoin.torch.generation.reader import Reader
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.route import steps_of
from generate_models import models, sources
from kernel_inputs import DECODERS, numbers, plain_attention, source
from lanes import lanes
from pairs import joined, stir

needs_kernels = pytest.mark.skipif(not native.has("float32"), reason="no C++ compiler, or no AVX-512")
QUANTIZED = {"cache_implementation": "quantized"}


@settings(deadline=None)
@given(st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16]), st.floats(1e-6, 1e6))
def test_a_number_is_off_by_half_a_unit_at_most(size: int, dtype: torch.dtype, scale: float) -> None:
    x = (numbers(3, 4, size) * scale).to(dtype)
    x[1, 2] = 0
    rows = to_bytes(x)
    assert rows.shape == (3, 4, (size + 3) // 4 * 4 + 4)
    unit = x.float().abs().amax(-1, keepdim=True) / 127
    off = (from_bytes(rows, size, torch.float32) - x.float()).abs()
    assert bool((off <= unit * 0.5001).all())
    assert not from_bytes(rows, size, dtype)[1, 2].any()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("keys", [1, 17, 300])
@pytest.mark.parametrize("size", [5, 64, 80])
def test_the_kernel_computes_the_formula(dtype: torch.dtype, beams: int, keys: int, size: int) -> None:
    q = numbers(3 * beams, 2, 4, size, dtype=dtype).transpose(1, 2)
    k, v = (to_bytes(numbers(3, 2, keys + 5, size, seed=s))[:, :, :keys] for s in (1, 2))
    k_wide, v_wide = (from_bytes(rows, size, torch.float32) for rows in (k, v))
    allowed = torch.rand(3, 1, 1, keys, generator=torch.Generator().manual_seed(6)) > 0.3
    allowed[1] = False
    bias = numbers(1, 4, 2, keys, seed=7)
    # The kernel rounds queries to 16 bits, which moves a score by d at most.
    d = 0.3 * float(k_wide.abs().sum(-1).max()) * float(q.abs().max()) / 65534
    near = float(v_wide.abs().max()) * math.expm1(2 * d) + (1e-5 if dtype == torch.float32 else 1e-2)
    for mask, added in ((None, None), (allowed, None), (allowed, bias)):
        found = native.attention(q, k, v, 0.3, mask, added)
        expected = plain_attention(q.float(), k_wide, v_wide, 0.3, mask, added)
        assert near < 0.05 and torch.allclose(found.double(), expected, rtol=0, atol=near)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_attention_stays_within_what_rounding_explains(
    kernels: bool, beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With scores off by d at most, weights change by a factor between e^-2d and e^2d; values by half a unit."""
    if not kernels:
        monkeypatch.setattr(native, "has", lambda kernel: False)
    model, _ = models("bart")
    kind = model.decoder.spec.blocks[0].self_attn.attention
    heads, size = kind.num_heads, kind.head_size
    q, k, v = (
        numbers(2 * beams, heads, 1, size),
        numbers(2, heads, 40, size, seed=1),
        numbers(2, heads, 40, size, seed=2),
    )
    with torch.no_grad():
        exact, _ = attend(q, k, v, kind, mask=Mask())
        rounded, _ = attend(q, to_bytes(k), to_bytes(v), kind, mask=Mask())
    d = kind.scale * float(q.abs().sum(-1).max()) * float(k.abs().max()) / 254
    bound = float(v.abs().max()) * (1 / 254 + math.expm1(2 * d))
    assert 0 < float((rounded - exact).abs().max()) <= bound < 0.5 * float(v.abs().max())


@needs_kernels
def test_padding_and_batch_mates_change_no_bit() -> None:
    q, k, v = numbers(4, 6, 1, 64), numbers(4, 6, 200, 64, seed=1), numbers(4, 6, 200, 64, seed=2)
    for length in (150, 137, 3):
        allowed = (torch.arange(200) < length)[None, None, None].expand(4, 1, 1, 200)
        for keep in (lambda x: x, to_bytes):
            whole = native.attention(q, keep(k), keep(v), 0.125, allowed)
            alone = native.attention(q[2:3], keep(k[2:3, :, :length]), keep(v[2:3, :, :length]), 0.125)
            assert torch.equal(whole[2:3], alone)


@needs_kernels
@pytest.mark.parametrize("keep", [lambda x: x, torch.Tensor.bfloat16, to_bytes], ids=["float32", "bfloat16", "8 bits"])
@pytest.mark.parametrize("size", [72, 5])
def test_how_many_read_a_source_changes_no_bit(keep: Any, size: int) -> None:
    rows = 71  # many have their values widened for all of them at once, few do not
    q, k, v = numbers(rows, 6, 1, size), numbers(1, 6, 150, size, seed=1), numbers(1, 6, 150, size, seed=2)
    kept = keep(k), keep(v)
    q = q.bfloat16() if kept[0].dtype == torch.bfloat16 else q
    together = native.attention(q, *kept, 0.125)
    assert torch.equal(native.attention(q[:5], *kept, 0.125), together[:5])
    for row in range(rows):
        assert torch.equal(native.attention(q[row : row + 1], *kept, 0.125), together[row : row + 1])


def through(change: Any) -> tuple[KVCache, KVCache]:
    """A cache in 8 bits and a plain one of the same numbers, after the same changes."""
    caches = KVCache(room=3, quantized=True), KVCache(room=3)
    for cache in caches:
        for width, seed in ((2, 1), (3, 3)):
            for layer in range(2):
                k, v = (numbers(6, 2, width, 5, seed=seed + layer + 10 * part) for part in (0, 1))
                if not cache.quantized:
                    k, v = (from_bytes(to_bytes(x), 5, torch.float32) for x in (k, v))
                cache.append(layer, k, v)
            cache.advance(width)
        for layer in range(2):
            k, v = numbers(6, 2, 4, 5, seed=7 + layer), numbers(6, 2, 4, 5, seed=9 + layer)
            if not cache.quantized:
                k, v = (from_bytes(to_bytes(x), 5, torch.float32) for x in (k, v))
            cache.add_source(k, v)
        change(cache)
    return caches


CHANGES = {
    "grown": lambda cache: None,
    "reordered": lambda cache: cache.reorder(torch.tensor([3, 0, 2, 2, 5, 4])),
    "expanded": lambda cache: cache.expand(3),
    "cropped": lambda cache: cache.crop(3),
    "kept in part": lambda cache: cache.keep([5, 1], 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_and_units_move_together(change: str) -> None:
    small, plain = through(CHANGES[change])
    end = plain.length
    for ours, theirs in zip((*small.keys, *small.values), (*plain.keys, *plain.values), strict=True):
        assert torch.equal(from_bytes(ours[:, :, :end], 5, torch.float32), theirs[:, :, :end])
    for ours, theirs in zip(small.cross, plain.cross, strict=True):
        assert all(torch.equal(from_bytes(a, 5, torch.float32), b) for a, b in zip(ours, theirs, strict=True))


def test_head_size_64_takes_a_quarter_and_a_unit_per_row() -> None:
    for quantized, row in ((False, 4 * 64), (True, 64 + 4)):
        cache = KVCache(room=10, quantized=quantized)
        cache.append(0, numbers(3, 2, 4, 64), numbers(3, 2, 4, 64))
        cache.add_source(numbers(3, 2, 7, 64), numbers(3, 2, 7, 64))
        assert cache.self_bytes == 2 * 3 * 2 * 10 * row
        assert cache.cross_bytes == 2 * 3 * 2 * 7 * row


def step_logits(model: EncoderDecoderModel, rows: int, cache: KVCache) -> Tensor:
    """Logits of single steps behind a prefix."""
    ids = torch.randint(10, 50, (rows, 9), generator=torch.Generator().manual_seed(1))
    inputs = source(3)
    with torch.inference_mode():
        model(**inputs, decoder_input_ids=ids[:, :3], past_key_values=cache, use_cache=True)
        known = {"past_key_values": cache, "attention_mask": inputs["attention_mask"], "use_cache": True}
        made = [model(decoder_input_ids=ids[:, at : at + 1], **known).logits for at in range(3, 9)]
    return torch.cat(made, 1)


FAST = {"roberta", "gpt2", "gpt_neox", "qwen3", "modernbert", "opt", "gemma2", "t5"}


@needs_kernels
@pytest.mark.parametrize("decoder", lanes([*DECODERS, "gemma2", "t5"], FAST.__contains__))
def test_steps_stay_near_those_of_a_plain_cache(decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stir(joined(tmp_path, "bert", decoder)).eval()
    for rows in (3, 6):
        plain = step_logits(model, rows, KVCache())
        cache = KVCache(quantized=True)
        by_kernels = step_logits(model, rows, cache)
        assert (steps_of(cache) is not None) == (decoder in DECODERS)
        assert {t.dtype for t in (*cache.keys, *cache.values, *cache.cross[0])} == {torch.int8}
        with monkeypatch.context() as patch:
            patch.setattr(Steps, "of", lambda stack: None)
            patch.setattr(native, "has", lambda kernel: False)
            by_bricks = step_logits(model, rows, KVCache(quantized=True))
        for found in (by_kernels, by_bricks):
            assert (found - plain).norm() < 0.05 * plain.norm()
            assert (found.argmax(-1) == plain.argmax(-1)).float().mean() > 0.8
        # What is off between the two is a number that fell to the other side of a half.
        assert (by_kernels - by_bricks).norm() < 0.02 * plain.norm()


KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "copies": {"copy_speculation": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_takes_it_and_a_source_gets_what_it_gets_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[Reader] = []
    init = Reader.__init__

    def noting(reader: Reader, *given_: Any, **named: Any) -> None:
        readers.append(reader)
        init(reader, *given_, **named)

    monkeypatch.setattr(Reader, "__init__", noting)
    model, _ = models("bart", 1)
    ids, mask = sources("bart", 5, (7, 2, 9))
    asked = {"max_new_tokens": 8, "min_new_tokens": 8, **KINDS[kind], **QUANTIZED}
    torch.manual_seed(0)
    together = model.generate(ids, attention_mask=mask, **asked)
    assert all(reader.cache.keys[0].dtype == torch.int8 for reader in readers) and readers
    if kind == "sampling":
        return
    per_source = len(together) // 3
    for row in range(3):
        real = mask[row].bool()
        alone = model.generate(ids[row : row + 1, real], **asked)
        assert alone.tolist() == together[row * per_source : (row + 1) * per_source].tolist()


@pytest.mark.parametrize("config", [{"nbits": 4}, {"nbits": 8, "backend": "quanto"}, {"residual_length": 0}])
def test_what_cannot_be_honoured_is_an_error(config: dict[str, Any]) -> None:
    model, _ = models("bart")
    ids, _ = sources("bart")
    with pytest.raises(GenerationError, match=r"set cache_config=\{'nbits': 8\}, or leave it out"):
        model.generate(ids, **QUANTIZED, cache_config=config, max_new_tokens=2)


def test_a_file_may_ask_for_it(tmp_path: Path) -> None:
    GenerationConfig(**QUANTIZED, cache_config={"nbits": 8}).save_pretrained(tmp_path)
    model, _ = models("bart")
    ids, mask = sources("bart")
    given_ = {"attention_mask": mask, "max_new_tokens": 5, "return_dict_in_generate": True}
    out = model.generate(ids, generation_config=GenerationConfig.from_pretrained(tmp_path), **given_)
    assert out.past_key_values.quantized
