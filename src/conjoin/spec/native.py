"""Which bricks the native passes (native/pass.h) lack, told from the spec alone.

A brick that they lack is named here: one that is merely left out there would be computed wrongly.
"""

from conjoin.spec.bricks import Activation, Alibi
from conjoin.spec.stack import Embedding, Head, StackSpec

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "relu", "silu", "quick_gelu", "tanh")
"""Those that C++ knows, in the order of its numbers for them."""


def reason_against(stack: StackSpec) -> str | None:
    """Return what the native passes lack of a stack; None if they compute all of it, from the ids to the logits."""
    reasons = (reason_against_blocks(stack), reason_against_embedding(stack.embedding), reason_against_head(stack.head))
    return next((reason for reason in reasons if reason), None)


def reason_against_blocks(stack: StackSpec) -> str | None:
    """Return what they lack of a stack's blocks; without it, the stack runs as PyTorch modules."""
    if any(block.causal != stack.blocks[0].causal for block in stack.blocks):
        return "some blocks are causal and others are not"
    if isinstance(stack.relative_bias, Alibi) and stack.relative_bias.rounded and not stack.blocks[0].causal:
        return "a bias by positions of keys is read both ways"
    if stack.relative_table is not None:
        return "attention that compares contents with distances"
    return next(filter(None, (_reason_against_activation(block.mlp.activation) for block in stack.blocks)), None)


def reason_against_embedding(embedding: Embedding) -> str | None:
    """Return what they lack of an embedding; without it, PyTorch embeds and they compute the rest."""
    if embedding.norm is not None and embedding.norm_of == "words":
        return "an embedding that is normalised before positions are added"
    return "a table of tasks" if embedding.tasks else None


def reason_against_head(head: Head | None) -> str | None:
    """Return what they lack of an LM head; without it, PyTorch scores the words and they compute the rest."""
    return _reason_against_activation(head.transform.activation) if head and head.transform else None


def _reason_against_activation(name: Activation) -> str | None:
    return None if name in ACTIVATIONS else f"the activation {name}"
