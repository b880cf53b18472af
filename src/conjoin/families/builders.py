"""Bricks in the forms that most families have, and the stack that is built of them."""

from collections.abc import Mapping
from typing import Any

from conjoin import spec
from conjoin.checkpoint import Layout, PairedRotary, Rule, Same
from conjoin.errors import ConfigError, warn
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import Role

ACTIVATIONS: dict[str, spec.Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
}


def activation(config: PretrainedConfig, key: str) -> spec.Activation:
    """The activation that a config names.

    Raises:
        ConfigError: conjoin does not know it.
    """
    name = getattr(config, key)
    if name not in ACTIVATIONS:
        known = ", ".join(sorted(set(ACTIVATIONS)))
        raise ConfigError(
            f'{config.model_type}: config.json has {key} = "{name}", which conjoin does not know.\n'
            f"Expected one of: {known}.",
            hint="if it is an alias of one of these, add it to ACTIVATIONS in families/builders.py "
            "and send the config as a test.",
        )
    return ACTIVATIONS[name]


def head_size(config: PretrainedConfig, hidden: str = "hidden_size", heads: str = "num_attention_heads") -> int:
    """hidden_size / num_heads.

    Raises:
        ConfigError: it is not a whole number.
    """
    width, count = getattr(config, hidden), getattr(config, heads)
    if count <= 0 or width % count:
        raise ConfigError(f"{config.model_type}: {hidden} = {width} is not a multiple of {heads} = {count}.")
    return width // count


def attention(
    *, heads: int, size: int, bias: bool, dropout: float, kv_heads: int | None = None, **more: Any
) -> spec.Attention:
    """Attention in its usual form: scaled by size ** -0.5, one bias setting for all projections."""
    fields: dict[str, Any] = {
        "num_heads": heads,
        "num_kv_heads": heads if kv_heads is None else kv_heads,
        "head_size": size,
        "scale": size**-0.5,
        "q_bias": bias,
        "k_bias": bias,
        "v_bias": bias,
        "o_bias": bias,
        "dropout": dropout,
    }
    return spec.Attention(**(fields | more))


def own_cross_attention(config: PretrainedConfig, role: Role, heads: spec.Attention) -> spec.CrossAttention | None:
    """Return the cross-attention that a family's own checkpoints hold, where the config asks a decoder for it."""
    reads = role == "decoder" and config.add_cross_attention
    return spec.CrossAttention(attention=heads, source_size=config.hidden_size) if reads else None


def word_embedding(config: PretrainedConfig, **more: Any) -> spec.Embedding:
    """Return the embedding of the config's vocabulary; `more` are fields that the family adds or changes."""
    usual: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "size": config.hidden_size,
        "padding_id": config.pad_token_id,
    }
    return spec.Embedding(**{**usual, **more})


def lm_head(config: PretrainedConfig, **more: Any) -> spec.Head:
    """Return the head over the config's vocabulary; `more` are fields that the family adds or changes."""
    usual: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "size": config.hidden_size,
        "tied": config.tie_word_embeddings,
    }
    return spec.Head(**{**usual, **more})


def stack_spec(config: PretrainedConfig, role: Role, **fields: Any) -> spec.StackSpec:
    """Return a config's stack: an encoder has no head, and new weights are normal unless `init` is given."""
    if role == "encoder":
        fields["head"] = None
    if "init" not in fields:
        fields["init"] = spec.NormalInit(std=config.initializer_range)
    return spec.StackSpec(family=config.model_type, hidden_size=config.hidden_size, **fields)


def repeat(block: spec.Block, count: int) -> tuple[spec.Block, ...]:
    """The same block `count` times."""
    return (block,) * count


def linears(pairs: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for the weight and the bias of layers that are named alike on both sides.

    Norms called LayerNorm are read under TensorFlow's words, gamma and beta, too: bert-base-uncased has them so.
    """
    plain = [
        Rule(f"{theirs}.{kind}", f"{ours}.{kind}") for theirs, ours in pairs.items() for kind in ("weight", "bias")
    ]
    older = [
        Rule(f"{theirs}.{old}", f"{ours}.{kind}")
        for theirs, ours in pairs.items()
        if theirs.endswith("LayerNorm")
        for old, kind in (("gamma", "weight"), ("beta", "bias"))
    ]
    return (*plain, *older)


def rotary_pairs(stack: spec.StackSpec) -> PairedRotary:
    """Return the layout of queries and keys whose rotated dimensions are stored in pairs."""
    self_attn = stack.blocks[0].self_attn
    assert self_attn.rotary is not None
    return PairedRotary(self_attn.attention.head_size, self_attn.rotary.rotary_size)


def paired_projections(stack: spec.StackSpec, layer: str) -> tuple[Rule, ...]:
    """Rules for projections called q_proj, k_proj and v_proj whose rotated dimensions are stored in pairs.

    Args:
        layer: Where their names begin.
    """
    layouts: dict[str, Layout] = {"q": rotary_pairs(stack), "k": rotary_pairs(stack), "v": Same()}
    return tuple(
        Rule(f"{layer}.{letter}_proj.{kind}", f"blocks.{{i}}.self_attn.{letter}.{kind}", layout)
        for letter, layout in layouts.items()
        for kind in ("weight", "bias")
    )


def warn_no_effect(config: PretrainedConfig, key: str) -> None:
    """Warn that a setting which is not 0, nor the family's default (M2M100 has one), changes nothing."""
    if (value := getattr(config, key)) and value != getattr(type(config), key):
        warn(f"{config.model_type}: config.json has {key} = {value}; conjoin never drops layers, so it has no effect.")
