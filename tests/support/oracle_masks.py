"""Causal LMs of transformers read in both directions, as an encoder reads (the T5Gemma recipe).

Every family here takes a ready 4-D float mask (0 where a key may be read, the lowest number elsewhere); families whose
layers differ take one such mask per layer type. transformers then builds no causal mask of its own. GPT alone takes no
more than which tokens are real.

A window of w lets a position read |q - k| < w, which is w - 1 to each side and w of the past as the causal model had.
transformers itself disagrees on this: its `sliding_window_bidirectional_overlay` (ModernBERT) has |q - k| <= w with
w = local_attention // 2, and Gemma 3's `use_bidirectional_attention` halves the window first.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

__all__ = ["alibi_of", "bidirectional_mask", "bidirectional_states", "causal_logits"]

# Models that pick one mask per layer by its type; the others have one mask for all layers.
_MASKED_BY_LAYER_TYPE = (
    "qwen2", "qwen3", "gemma2", "gemma3_text", "modernbert-decoder", "smollm3",
    "olmo3", "exaone4", "cohere2", "ministral",
)  # fmt: skip

_HOLDING_MASKS = ("Attention", "GPTNeoSelfAttention")


def bidirectional_states(
    model: Any, input_ids: Tensor, attention_mask: Tensor | None = None, *, every_layer: bool = False
) -> Any:
    """Run a causal LM, or its base model, with every real token in sight of every other.

    Args:
        every_layer: return the tuple of all layers' states, embeddings first, instead of the last one.
    """
    visible = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": _mask_for(model.config, visible)}
    if model.config.model_type == "opt":
        inputs["position_ids"] = visible.cumsum(dim=1) * visible - 1  # OPT counts real tokens, and cannot in 4-D
    base = model.base_model
    with torch.no_grad(), _without_projection(base), _seeing_ahead(base), _alibi_both_ways(base, visible):
        outputs = base(**inputs, use_cache=False, output_hidden_states=every_layer)
    return outputs.hidden_states if every_layer else outputs.last_hidden_state


@contextmanager
def _without_projection(model: Any) -> Iterator[None]:
    """Let an OPT end at its own width: `project_out` makes words of its states, which is the head's work."""
    decoder = getattr(model, "decoder", None)
    projection = getattr(decoder, "project_out", None)
    if projection is None:
        yield
        return
    decoder.project_out = None
    yield
    decoder.project_out = projection


@contextmanager
def _seeing_ahead(model: Any) -> Iterator[None]:
    """Open the masks that GPT's and GPT-Neo's layers hold, of what is before a token, to what is after it."""
    layers = [module for module in model.modules() if type(module).__name__ in _HOLDING_MASKS]
    held = [layer.bias for layer in layers]
    for layer in layers:
        layer.bias = torch.maximum(layer.bias, layer.bias.transpose(-1, -2))
    yield
    for layer, mask in zip(layers, held, strict=True):
        layer.bias = mask


def alibi_of(family: str, heads: int, mask: Tensor) -> Tensor:
    """Return the ALiBi of BLOOM or Falcon by the position of the key, [B, heads, 1, S]."""
    module = import_module(f"transformers.models.{family}.modeling_{family}")
    return module.build_alibi_tensor(mask, heads, torch.float32).unflatten(0, (len(mask), heads))


@contextmanager
def _alibi_both_ways(model: Any, visible: Tensor) -> Iterator[None]:
    """Let BLOOM's and Falcon's bias fall on both sides of a token; theirs rises with the position of the key."""
    module = sys.modules[type(model).__module__]
    original = getattr(module, "build_alibi_tensor", None)
    if original is None:
        yield
        return

    def both_ways(mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        slopes = original(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1]
        places = visible.cumsum(1) - 1
        away = (places[:, :, None] - places[:, None, :]).abs()
        return -(slopes[:, None, None] * away[:, None]).flatten(0, 1).to(dtype)

    module.build_alibi_tensor = both_ways  # pyright: ignore[reportAttributeAccessIssue]
    yield
    module.build_alibi_tensor = original  # pyright: ignore[reportAttributeAccessIssue]


def _mask_for(config: Any, visible: Tensor) -> Tensor | dict[str, Tensor]:
    if config.model_type == "openai-gpt":
        return visible
    window = getattr(config, "sliding_window", None)
    if config.model_type in _MASKED_BY_LAYER_TYPE:
        return {
            "full_attention": bidirectional_mask(visible),
            "sliding_attention": bidirectional_mask(visible, window),
        }
    return bidirectional_mask(visible, window)


def bidirectional_mask(visible: Tensor, window: int | None = None) -> Tensor:
    """Build the additive (B, 1, S, S) mask in which every row reads the real tokens at |q - k| < window."""
    B, S = visible.shape
    allowed = visible.bool()[:, None, None, :].expand(B, 1, S, S)
    if window is not None:
        positions = torch.arange(S)
        allowed = allowed & ((positions[:, None] - positions[None, :]).abs() < window)
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape).masked_fill(~allowed, lowest)


def causal_logits(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Run a masked language model with every position blind to what comes after it."""
    config = model.config
    full = _causal_mask(attention_mask)
    mask: Any = full
    if config.model_type == "modernbert":
        mask = {
            "full_attention": full,
            "sliding_attention": _causal_mask(attention_mask, config.local_attention // 2 + 1),
        }
    with torch.no_grad():
        return model(input_ids=input_ids, attention_mask=mask).logits


def _causal_mask(visible: Tensor, window: int | None = None) -> Tensor:
    """Build the additive (B, 1, S, S) mask in which every row reads the real tokens at 0 <= q - k < window."""
    both_ways = bidirectional_mask(visible, window)
    ahead = torch.ones(both_ways.shape[-2:], dtype=torch.bool).triu(1)
    return both_ways.masked_fill(ahead, torch.finfo(torch.float32).min)
