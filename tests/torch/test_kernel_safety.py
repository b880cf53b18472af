"""Kernels read only what they were told of: what does not fit is refused, or PyTorch's own error arises."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn
from torch.nn import functional as F

import pairs
from conjoin import EncoderDecoderModel
from conjoin.errors import ShapeError
from conjoin.functional.kernel_limits import few_queries, say_of_all
from conjoin.torch.cpu import linear as linears
from conjoin.torch.cpu import native
from conjoin.torch.cpu.linear import Linear, linear
from conjoin.torch.cpu.linear_grad import Product
from conjoin.torch.cpu.native import rules
from conjoin.torch.cpu.quantization import QuantizedLinear, quantize_rows
from conjoin.torch.generation.loops.beams import BeamRules, Beams
from lanes import lanes
from pairs import GPT, LLAMA, TARGET, batch, fresh

needs_kernels = pytest.mark.skipif(not native.has("float32"), reason="no C++ compiler, or no AVX-512")
needs_int8 = pytest.mark.skipif(not native.has("int8"), reason="no int8 dot products here")
REFUSED = (ShapeError, TypeCheckError)
bare = inspect.unwrap
"""A function as users have it: under pytest, arrays are checked against their shapes before it is called."""
X, W, B = torch.ones(3, 16), torch.ones(12, 16), torch.ones(12)


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"weight": W.to("meta")},
        {"bias": B[:1]},
        {"bias": B.to("meta")},
        {"bias": B.bfloat16()},
        {"weight": W.T},
        {"weight": W[:, :9]},
        {"weight": W.bfloat16()},
        {"weight": W[0]},
        {"x": X.to("meta")},
        {"bias": torch.ones(24)[::2]},
    ],
    ids=lambda change: f"{next(iter(change))} {tuple(next(iter(change.values())).shape)}",
)
def test_linear_refuses_what_does_not_fit(change: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match=r"The kernel linear was handed tensors that do not fit"):
        bare(native.linear)(**{"x": X, "weight": W, "bias": B, **change})


@torch.inference_mode()
@pytest.mark.parametrize("bias", [B[:5], B.to("meta")])
def test_a_bias_that_does_not_fit_is_pytorchs_error(bias: torch.Tensor) -> None:
    for rows in (1, 3, 300):
        with pytest.raises((RuntimeError, NotImplementedError, TypeCheckError)):
            bare(linear)(torch.ones(rows, 16), W, bias).sum().item()


@torch.inference_mode()
@pytest.mark.parametrize("bias", [False, True])
def test_weights_without_numbers_are_refused(bias: bool) -> None:
    layer = Linear(16, 12, bias=bias).to("meta")
    for x in (X, X[0], X[None], X.bfloat16()):
        with pytest.raises(RuntimeError, match="on the same device"):
            layer(x)
    assert layer(X.to("meta")).is_meta


@needs_int8
@pytest.mark.parametrize(
    "change", [{"scale": B[:2]}, {"scale": B.double()}, {"sums": torch.ones(3, dtype=torch.int32)}, {"bias": B[:7]}]
)
def test_linear_in_8_bits_refuses_what_does_not_fit(change: dict[str, Any]) -> None:
    weight, scale = quantize_rows(W)
    given = {"scale": scale, "sums": weight.sum(1, dtype=torch.int32), "bias": B, **change}
    with pytest.raises(ShapeError, match="The kernel linear_int8 was handed"):
        bare(native.linear_int8)(X, weight, **given)


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [{"scores": torch.ones(2, 9).double()}, {"ids": torch.ones(3, 4)}, {"sources": torch.tensor([0, 2])}],
    ids=lambda change: next(iter(change)),
)
def test_rules_refuse_what_does_not_fit(change: dict[str, torch.Tensor]) -> None:
    source = torch.zeros(2, 5, dtype=torch.long)
    rule = rules.rule_of("encoder_no_repeat_ngram_size", (2,), (source, None))
    assert rule is not None
    ids, scores, sources = torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 9), torch.arange(2)
    bare(rules.process_rows)([rule], ids, scores, sources)
    with pytest.raises(REFUSED):
        bare(rules.process_rows)([rule], **{"ids": ids, "scores": scores, "sources": sources, **change})


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [{"parents": torch.tensor([[0, 3, 1]])}, {"parents": torch.tensor([[0, -1, 1]])}, {"tokens": torch.ones(1, 2)}],
)
def test_beams_refuse_parents_that_are_none(change: dict[str, torch.Tensor]) -> None:
    settings = BeamRules(
        num_beams=3, vocab_size=9, max_length=5, prompt=1, eos=(2,), pad=0, length_penalty=1.0, early_stopping=False
    )
    beams = Beams.start(torch.ones(1, 1, dtype=torch.long), settings)
    given = {"values": torch.zeros(1, 3), "parents": torch.tensor([[0, 1, 2]]), "tokens": torch.ones(1, 3).long()}
    with pytest.raises(REFUSED):
        beams.advance(**{**given, **change})
    beams.advance(**given)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["weight", "scale", "bias"])
@pytest.mark.parametrize("fastest", [F.linear, *linears._alternatives(torch.float32)])
def test_an_8_bit_layer_whose_parts_lie_elsewhere_is_pytorchs_error(
    name: str, fastest: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "_fastest", lambda dtype, size_class: fastest)
    weight, scale = (nn.Parameter(x, requires_grad=False) for x in quantize_rows(W))
    layer = QuantizedLinear(weight, scale, nn.Parameter(B, requires_grad=False))
    layer(X)
    part = nn.Parameter(getattr(layer, name).to("meta"), requires_grad=False)
    setattr(layer, name, part)
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer(X).sum().item()


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        {"k": torch.ones(2, 2, 9, 4)},
        {"v": torch.ones(2, 2, 7, 8)},
        {"k": torch.ones(3, 2, 9, 8), "v": torch.ones(3, 2, 9, 8)},
        {"k": torch.ones(2, 3, 9, 8), "v": torch.ones(2, 3, 9, 8)},
        {"k": torch.ones(2, 2, 9, 8, dtype=torch.int8), "v": torch.ones(2, 2, 9, 8, dtype=torch.int8)},
        {"v": torch.ones(2, 2, 9, 8, device="meta")},
        {"allowed": torch.ones(2, 1, 1, 9)},
        {"allowed": torch.ones(2, 1, 1, 9, dtype=torch.bool, device="meta")},
    ],
)
def test_attention_refuses_what_does_not_fit(change: dict[str, Any]) -> None:
    given = {"q": torch.ones(4, 4, 1, 8), "k": torch.ones(2, 2, 9, 8), "v": torch.ones(2, 2, 9, 8), **change}
    with pytest.raises(ShapeError, match="The kernel attention was handed"):
        bare(native.attention)(scale=1.0, **given)


@needs_kernels
def test_rows_that_a_cache_does_not_have_are_not_moved() -> None:
    store = [torch.ones(3, 2, 5, 4)]
    for to, source in (([3], [0]), ([0], [3]), ([-1], [0]), ([0, 1], [0])):
        with pytest.raises(ShapeError, match="The kernel move_rows was handed"):
            bare(native.move_rows)(store, torch.tensor(to), torch.tensor(source))
    for odd in (torch.ones(2, 2, 5, 4), torch.ones(3, 2, 4, 5).mT, torch.ones(3, 2, 5, 4, device="meta")):
        with pytest.raises(ShapeError, match="The kernel move_rows was handed"):
            bare(native.move_rows)([*store, odd], torch.tensor([0]), torch.tensor([1]))


@needs_kernels
@pytest.mark.parametrize("rows", [[[0, 6, 0, 7]], [[0, 5, 3, 6]], [[-1, 5, 0, 7]], [[0, 5, 0, 7]] * 3])
def test_training_reads_no_tokens_that_are_not_there(rows: list[list[int]]) -> None:
    q, k, v = torch.ones(2, 4, 5, 8), torch.ones(2, 2, 7, 8), torch.ones(2, 2, 7, 8)
    reads = native.Reads(torch.tensor(rows if len(rows) > 1 else rows * 2))
    with pytest.raises(ShapeError, match="The kernel train was handed"):
        native.Call(q, k, v, None, reads, 1.0).forward()


@needs_kernels
def test_training_refuses_what_does_not_fit() -> None:
    q, k, v = torch.ones(2, 4, 5, 8), torch.ones(2, 2, 7, 8), torch.ones(2, 2, 7, 8)
    reads = native.Reads.of_rows(q, k, None)
    bias, mask = torch.ones(1, 4, 5, 6), torch.ones(2, 1, 4, 7, dtype=torch.bool)
    for given in (
        (q[..., :4], k, v, None, reads),
        (q, k[:, :, :6], v, None, reads),
        (q.bfloat16(), k, v, None, reads),
        (q, k, v.to("meta"), None, reads),
        (q, k, v, bias, reads),
        (q, k, v, None, native.Reads(reads.spans, mask)),
    ):
        with pytest.raises(REFUSED):
            native.Call(*given, scale=1.0).forward()
    whole = native.Call(q, k, v, None, reads, 1.0)
    out, weights = whole.forward()
    for dout, held in ((out[..., :3], weights), (out, weights[:9]), (out.to("meta"), weights)):
        with pytest.raises(REFUSED):
            whole.backward(dout, held, of_bias=False)
    for dy, x, into in ((X, X[:2], None), (X, X.T.contiguous().T, None), (X, X, torch.ones(16, 15))):
        with pytest.raises(ShapeError, match="The kernel weight_gradient was handed"):
            bare(native.weight_gradient)(dy, x, into)


@needs_kernels
def test_norms_gates_and_rotations_refuse_what_does_not_fit() -> None:
    x, weight, cos = torch.ones(3, 8), torch.ones(8), torch.ones(1, 1, 5, 6)
    heads = torch.ones(2, 4, 5, 8)
    for call in (
        lambda: native.rms_norm(x.T, weight[:3], 1e-5, 0.0, x.dtype),
        lambda: native.rms_norm(x, weight[:7], 1e-5, 0.0, x.dtype),
        lambda: native.rms_norm(x, weight.double(), 1e-5, 0.0, x.dtype),
        lambda: native.rms_norm(x[None], weight, 1e-5, 0.0, x.dtype),
        lambda: native.rms_norm_backward(x[:2], x, weight, 1e-5, 0.0, of_weight=True),
        lambda: native.rms_norm_backward(x.to("meta"), x, weight, 1e-5, 0.0, of_weight=True),
        lambda: native.gated("silu", x, x[:2]),
        lambda: native.gated("silu", x, x.bfloat16()),
        lambda: native.gated("silu", x[:, ::2], x[:, ::2]),
        lambda: native.gated_backward("silu", x, x, x.to("meta")),
        lambda: native.rotate(heads, cos[:, :, :4], cos[:, :, :4], back=False),
        lambda: native.rotate(heads, cos, cos.double(), back=False),
        lambda: native.rotate(heads[..., :4], cos, cos, back=False),
        lambda: native.rotate(heads, cos[..., :5].contiguous(), cos[..., :5].contiguous(), back=False),
        lambda: native.rotate(heads, cos.expand(3, -1, -1, -1).contiguous(), cos, back=False),
    ):
        with pytest.raises(REFUSED):
            call()


MOVED = """
import sys, torch
sys.path[:0] = [sys.argv[1]]
from pairs import batch, fresh
model, inputs = fresh(), batch()
ids, mask = inputs["input_ids"], inputs["attention_mask"]
if sys.argv[2] == "used":
    model.generate(ids, attention_mask=mask, max_new_tokens=3)
getattr(model, sys.argv[3]).to("meta")
try:
    print(model.generate(ids, attention_mask=mask, max_new_tokens=3))
except (RuntimeError, NotImplementedError) as error:
    print("refused", type(error).__name__)
"""


MOVED_HALVES = [("fresh", "decoder"), ("used", "decoder"), ("used", "encoder")]


@pytest.mark.parametrize(("state", "half"), lanes(MOVED_HALVES, lambda case: case == ("used", "decoder")))
def test_a_half_that_lies_elsewhere_never_ends_the_process(state: str, half: str) -> None:
    command = [sys.executable, "-c", MOVED, str(Path(pairs.__file__).parent), state, half]
    work = subprocess.run(command, check=False, capture_output=True, text=True)
    assert work.returncode == 0, work.stderr[-2000:]
    assert work.stdout.startswith("refused")


def _cache(model: EncoderDecoderModel) -> tuple[Any, Any]:
    out = model(**SOURCE, decoder_input_ids=IDS, use_cache=True)
    return out.past_key_values, out.encoder_last_hidden_state


SOURCE = {name: x for name, x in batch().items() if name != "labels"}
MASK = {"attention_mask": SOURCE["attention_mask"]}
IDS = torch.tensor([[9, 8], [9, 7]])


@torch.inference_mode()
@pytest.mark.parametrize("others", [GPT, LLAMA, TARGET], ids=["gpt2", "llama", "bert"])
def test_a_cache_of_another_model_is_refused_with_both_shapes(others: Any) -> None:
    model, other = fresh(decoder=GPT if others is not GPT else LLAMA).eval(), fresh(decoder=others).eval()
    cache, _ = _cache(other)
    with pytest.raises(ShapeError, match="past_key_values is of another model: its layers hold"):
        model(**SOURCE, decoder_input_ids=IDS, past_key_values=cache)


@torch.inference_mode()
@pytest.mark.parametrize("change", ["keys cut", "values cut", "sources cut", "length", "a layer less", "source heads"])
def test_a_cache_that_was_tampered_with_is_refused(change: str) -> None:
    model = fresh().eval()
    cache, states = _cache(model)
    match change:
        case "keys cut":
            cache.keys[1] = cache.keys[1][:, :, :1]
        case "values cut":
            cache.values[0] = cache.values[0][:1]
        case "sources cut":
            cache.cross[1] = tuple(x[:, :, :2] for x in cache.cross[1][:1]) + cache.cross[1][1:]
        case "length":
            cache.length = 1000
        case "a layer less":
            del cache.keys[1], cache.values[1]
        case _:
            cache.cross = [(k[:, :2], v[:, :2]) for k, v in cache.cross]
    with pytest.raises(ShapeError, match="past_key_values"):
        model(
            decoder_input_ids=IDS,
            past_key_values=cache,
            encoder_outputs=(states,),
            **MASK,
        )


@needs_kernels
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kept_cache_goes_on_with_the_weights_as_they_are_now(dtype: torch.dtype, monkeypatch: Any) -> None:
    if dtype == torch.bfloat16 and not native.has("bfloat16"):
        pytest.skip("no bf16 dot products here")
    model = fresh(decoder=GPT).eval().to(dtype)
    cache, states = _cache(model)
    given = {"encoder_outputs": (states,), **MASK, "use_cache": True}
    step = {"decoder_input_ids": IDS[:, :1], **given}
    cache = model(past_key_values=cache, **step).past_key_values
    block = model.decoder.blocks[1]
    block.mlp_norm.bias.add_(1.0)
    block.mlp.up.weight = nn.Parameter(block.mlp.up.weight.detach() * 3)
    block.self_attn.q.weight.data = block.self_attn.q.weight.detach() * 2
    twin = cache.fork()
    found = model(past_key_values=cache, **step).logits
    monkeypatch.setattr(native.Steps, "of", lambda stack: None)
    expected = model(past_key_values=twin, **step).logits
    near = 1e-4 if dtype == torch.float32 else 0.05
    assert torch.allclose(found.float(), expected.float(), rtol=near, atol=near)


def test_xla_is_handed_no_shapes_that_its_kernels_would_read_beyond() -> None:
    q, k = (4, 4, 1, 8), (2, 2, 9, 8)
    assert few_queries(q, k, k)
    for odd_q, odd_k, odd_v in (
        (q, k, (2, 2, 9, 4)),
        (q, (2, 2, 9, 4), (2, 2, 9, 4)),
        (q, (3, 2, 9, 8), (3, 2, 9, 8)),
        (q, (2, 3, 9, 8), (2, 3, 9, 8)),
    ):
        assert not few_queries(odd_q, odd_k, odd_v)
    for mask, bias in ((None, None), ((2, 1, 1, 9), None), ((1, 1, 1, 9), (1, 4, 1, 9))):
        assert say_of_all(mask, bias, q, k)
    for mask, bias in (((2, 1, 1, 8), None), ((2, 4, 1, 9), None), (None, (1, 1, 1, 9)), (None, (1, 4, 1, 3))):
        assert not say_of_all(mask, bias, q, k)


@needs_kernels
@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8"])
def test_sources_may_be_wider_than_all_that_a_decoder_has(form: str) -> None:
    """Their states become keys and values of a pass that is narrow everywhere else."""
    wide = pairs.SOURCE.copy(hidden_size=512, num_attention_heads=4, intermediate_size=64)
    narrow = LLAMA.copy(hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1)
    model = pairs.stir(fresh(wide, narrow)).eval()
    model = model.quantize() if form == "int8" else model.to(getattr(torch, form))
    ids = torch.randint(5, 30, (6, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = model.generate(ids, max_new_tokens=6, min_new_tokens=6, num_beams=2)
        for row in range(len(ids)):
            alone = model.generate(ids[row : row + 1], max_new_tokens=6, min_new_tokens=6, num_beams=2)
            assert alone[0].equal(together[row])


@needs_kernels
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_pytorchs_default_dtype_is_not_the_kernels(default: torch.dtype) -> None:
    model = pairs.stir(fresh()).eval()
    ids = torch.randint(5, 30, (3, 7), generator=torch.Generator().manual_seed(0))
    states = model.encoder(ids).last_hidden_state.detach()
    settings: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 3}
    expected = model.generate(ids, **settings)
    try:
        torch.set_default_dtype(default)
        assert model.generate(ids, **settings).equal(expected)
        assert model.generate(encoder_outputs=(states,), **settings).equal(expected)
    finally:
        torch.set_default_dtype(torch.float32)


@needs_kernels
def test_many_sources_of_padding_alone() -> None:
    """They are more rows than there are tokens."""
    model = pairs.stir(fresh()).eval()
    ids, mask = torch.full((3000, 4), 7), torch.zeros(3000, 4, dtype=torch.long)
    mask[1, :2] = 1
    with torch.inference_mode():
        states = model.encoder(ids, mask).last_hidden_state
        alone = model.encoder(ids[1:2, :2]).last_hidden_state
    torch.testing.assert_close(states[1, :2], alone[0], rtol=1e-5, atol=1e-5)


def test_ids_are_those_of_a_table_that_was_replaced() -> None:
    model = pairs.stir(fresh()).eval()
    size = model.encoder.spec.hidden_size
    model.encoder.set_input_embeddings(nn.Embedding(20, size))
    with pytest.raises(ShapeError, match="expected 0 to 19"), torch.inference_mode():
        model.encoder(torch.tensor([[3, 25]]))
