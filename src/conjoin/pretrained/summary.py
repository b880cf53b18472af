"""What a joined model is, on one screen."""

from typing import Any

from conjoin import spec


def summary(model: Any, numbers: int, where: str) -> str:
    """A few lines in place of every layer: halves, sizes, what is fresh.

    Args:
        numbers: Of all parameters, shared ones once.
        where: Dtype and place of the parameters.
    """
    pair: spec.PairSpec = model.spec
    lines = [
        f"{type(model).__name__}: {numbers:,} parameters, {where}",
        f"  encoder  {_stack(pair.encoder)}",
        f"  decoder  {_stack(pair.decoder)}",
    ]
    if pair.share != "none":
        lines.append(f"  share    {pair.share}")
    if fresh := getattr(model.config, "fresh", None):
        lines.append(f"  fresh    {', '.join(fresh)}: to be trained")
    return "\n".join(lines)


def _stack(stack: spec.StackSpec) -> str:
    heads = stack.blocks[0].self_attn.attention.num_heads
    sizes = f"{stack.num_layers} layers, hidden size {stack.hidden_size}, {heads} heads, {stack.vocab_size:,} tokens"
    return f"{stack.family}: {sizes}"
