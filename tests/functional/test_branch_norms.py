"""Every choice of a branch's norms computes the same formula in PyTorch, in our kernels and in the functional core."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from conjoin import spec
from conjoin.torch.cpu import native
from conjoin.torch.model.block import Block
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.route import steps_of
from conjoin.torch.model.stack import Stack
from conjoin.torch.model.stack_inputs import StackInputs

NORMS = [
    spec.Branch(pre=pre, out=out, post=post)
    for pre, out, post in product(
        (None, spec.LayerNorm(eps=0.01)), (None, spec.RMSNorm(eps=0.02)), (None, spec.LayerNorm(eps=0.03, bias=False))
    )
]
"""The second is BERT's placement, the third OLMo 2's, the fifth GPT-2's, the seventh Gemma 2's."""
TOGETHER: dict[str, dict[str, bool]] = {
    "": {},
    "-parallel": {"parallel": True},
    "-parallel-shared": {"parallel": True, "shared_norm": True},
}
"""How branches stand to each other."""
CASES = [(norms, name) for norms, name in product(NORMS, TOGETHER) if norms.pre is not None or "shared" not in name]
IDS = ["+".join(slot for slot in ("pre", "out", "post") if getattr(norms, slot)) + name for norms, name in CASES]
every_case = pytest.mark.parametrize(("norms", "together"), CASES, ids=IDS)
heads = spec.Attention(
    num_heads=3, num_kv_heads=1, head_size=4, scale=0.5, q_bias=True, k_bias=False, v_bias=True, o_bias=True
)


def stack_spec(norms: spec.Branch, together: str) -> spec.StackSpec:
    """Two blocks that read a source; the first has no norms around self-attention."""
    block = spec.Block(
        norms=norms,
        **TOGETHER[together],
        causal=True,
        self_attn=spec.SelfAttention(attention=heads, rotary=spec.Rotary(base=100.0, rotary_size=4)),
        cross_attn=spec.CrossAttention(attention=heads, source_size=20, gated=True),
        mlp=spec.GatedMLP(intermediate_size=17, activation="silu"),
    )
    return spec.StackSpec(
        family="test",
        hidden_size=12,
        embedding=spec.Embedding(vocab_size=53, size=12, position=spec.NoPosition()),
        blocks=(spec.Block(**{**as_fields(block), "self_attn_norms": spec.Branch()}), block),
    )


def as_fields(block: spec.Block) -> dict[str, object]:
    return {name: getattr(block, name) for name in spec.Block.__dataclass_fields__}


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


ids, source = torch.arange(10, 24).reshape(2, 7), numbers(2, 5, 20)


def build(norms: spec.Branch, together: str) -> Stack:
    stack = Stack(stack_spec(norms, together)).eval()
    for number, parameter in enumerate(stack.parameters()):
        nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(number))
    return stack


def run(stack: Stack, ids: Tensor, cache: KVCache | None = None) -> Tensor:
    with torch.inference_mode():
        return stack.run(StackInputs(input_ids=ids, encoder_hidden_states=source, cache=cache))


def in_and_out(block: Block, stack: Stack) -> dict[str, tuple[Tensor, Tensor]]:
    """What goes into and comes out of each module of a block in one pass."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in block.named_modules():
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0], out)}))
    run(stack, ids)
    return seen


@every_case
def test_a_block_computes_the_formula(norms: spec.Branch, together: str) -> None:
    stack = build(norms, together)
    block = stack.blocks[1]
    assert isinstance(block, Block) and block.cross_attn is not None and block.cross_attn.gate is not None
    seen = in_and_out(block, stack)
    start = x = seen[""][0]
    branches = {"self_attn": ("self_attn.q", "self_attn.o"), "cross_attn": ("cross_attn.q", "cross_attn.o")}
    with torch.inference_mode():
        for branch, (first, last) in {**branches, "mlp": ("mlp.up", "mlp.down")}.items():
            pre, out, post = (
                block.get_submodule(name) if kind else nn.Identity() for name, kind in block.kind.norms_of(branch)
            )
            torch.testing.assert_close(seen[first][0], pre(start if block.kind.parallel else x))
            gate = block.cross_attn.gate if branch == "cross_attn" else 1.0
            x = post(x + gate * out(seen[last][1]))
    torch.testing.assert_close(seen[""][1], x)


@every_case
def test_the_parameters_are_those_of_the_table(norms: spec.Branch, together: str) -> None:
    stack = build(norms, together)
    table = spec.stack_parameters(stack.spec)
    assert {name: tuple(p.shape) for name, p in stack.named_parameters()} == {n: p.shape for n, p in table.items()}


@pytest.mark.skipif(not native.has("float32"), reason="no C++ compiler, or no AVX-512")
@every_case
def test_the_step_kernels_compute_what_the_bricks_do(norms: spec.Branch, together: str) -> None:
    stack, cache = build(norms, together), KVCache()
    expected = run(stack, ids)
    run(stack, ids[:, :4], cache)
    by_kernels = torch.cat([run(stack, ids[:, 4:6], cache), run(stack, ids[:, 6:], cache)], 1)
    assert steps_of(cache) is not None
    torch.testing.assert_close(by_kernels, expected[:, 4:], rtol=1e-4, atol=1e-4)


@every_case
def test_the_functional_core_computes_what_the_bricks_do(norms: spec.Branch, together: str) -> None:
    pytest.importorskip("jax")
    from conjoin.functional import stack as functional
    from conjoin.functional.scope import Scope
    from conjoin.jax.ops import OPS
    from jax_models import arrays_of, as_array, assert_close

    stack = build(norms, together)
    inputs = functional.StackInputs(input_ids=as_array(ids), source=as_array(source))
    states, _ = functional.run_stack(Scope(OPS, arrays_of(stack)), stack.spec, inputs)
    assert_close(states, run(stack, ids), atol=1e-4)
