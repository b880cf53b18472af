"""What tests of kernels feed, and the formulas that they compare with."""

import torch
from torch import Tensor


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, allowed: Tensor | None, bias: Tensor | None
) -> Tensor:
    """The formula, in float64, on copied keys: [R, T, H, E]."""
    beams, group = q.shape[0] // k.shape[0], q.shape[1] // k.shape[1]
    k, v = (t.double().repeat_interleave(beams, 0).repeat_interleave(group, 1) for t in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias.double()
    if allowed is not None:
        scores = scores.masked_fill(~allowed.repeat_interleave(beams, 0), float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2)


DECODERS = (
    "bert", "roberta", "electra", "albert", "distilbert", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3",
    "gemma2", "gemma3_text", "granite", "modernbert", "olmo2", "olmo2/grouped", "opt", "bart", "t5",
    "umt5", "bloom", "falcon/alibi_parallel", "cohere/normed",
)  # fmt: skip
"""Between them they have every brick."""


def source(rows: int) -> dict[str, Tensor]:
    ids = torch.randint(10, 50, (rows, 9), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "attention_mask": (torch.arange(9) < torch.tensor([[9], [5], [7]])[:rows]).long()}


def gradients(y: Tensor, given: list[Tensor], dy: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, given, dy)]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).norm() <= tolerance * other.norm()
