"""The kernel of attention in training at sizes that take several blocks, panels and tiles: what plain steps give."""

from typing import Any

import pytest
import torch

from conjoin.spec import Sides
from conjoin.torch.cpu import attention_grad, native
from conjoin.torch.cpu.attention_grad import AttentionOptions, attend_plainly
from kernel_inputs import close, gradients
from lanes import thinned

SPANS = {
    "one of a block": [(7, 11)],
    "many of many blocks": [(300, 300), (1, 1), (190, 190), (64, 64)],
    "targets and sources": [(41, 282), (3, 1100), (0, 5), (130, 0), (9, 64)],
}
READS: list[dict[str, Any]] = [
    {},
    {"causal": True},
    {"window": Sides(70, 70)},
    {"window": Sides(40, 90)},
    {"causal": True, "window": Sides(130, 130)},
]
HEADS = [(64, 4), (24, 2), (80, 1), (128, 4)]
"""Sizes of heads, and how many of keys and values."""


@pytest.mark.skipif(not native.has("float32"), reason="groups take padded rows")
@pytest.mark.parametrize(("reads", "heads", "kind"), thinned(7, READS, HEADS, SPANS))
def test_a_packed_row_attends_as_its_sequences_do(reads: dict[str, Any], heads: tuple[int, int], kind: str) -> None:
    torch.manual_seed(0)
    (size, kv_heads), spans = heads, SPANS[kind]
    sides = [list(side) for side in zip(*spans, strict=True)]
    rows = [torch.randn(1, sum(sides[at > 0]), n, size).transpose(1, 2) for at, n in enumerate((4, kv_heads, kv_heads))]
    q, k, v = (x.requires_grad_() for x in rows)
    bias = torch.randn(1, 4, max(sides[0]), max(sides[1])).requires_grad_()
    begins = [[sum(side[:at]) for at in range(len(side))] for side in sides]
    ordered = torch.tensor([begins[0], sides[0], begins[1], sides[1]]).T.contiguous()
    how = AttentionOptions(size**-0.5, 0.2)
    y = attention_grad.attend_in_training(q, k, v, native.Reads(ordered, **reads), bias, how)
    assert y.grad_fn is not None
    kept = ~y.grad_fn.saved_tensors[-1].signbit()
    expected = torch.zeros_like(y)
    for (query, queries, key, keys), drawn in zip(
        ordered.tolist(), kept.split([4 * n * m for n, m in spans]), strict=True
    ):
        apart = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
        before, ahead = reads.get("window", (10**6, 10**6))
        allowed = (apart < before) & (apart > (-1 if "causal" in reads else -ahead))
        own, read = (..., slice(query, query + queries), slice(None)), (..., slice(key, key + keys), slice(None))
        corner = bias[..., :queries, :keys]
        expected[own] = attend_plainly(q[own], k[read], v[read], allowed, corner, how, drawn.view(1, 4, queries, keys))
    given, dy = [q, k, v, bias], torch.randn_like(y)
    firsts = [torch.autograd.grad(each.pow(2).sum(), given, create_graph=True)[1] for each in (y, expected)]
    close(*([torch.autograd.grad(first.pow(2).sum(), q, retain_graph=True)[0]] for first in firsts), 1e-4)
    close(gradients(y, given, dy), gradients(expected, given, dy), 1e-5)
