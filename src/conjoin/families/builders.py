"""Bricks in the forms that most families have, and the stack that is built of them."""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from conjoin import spec
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


def require(config: PretrainedConfig, key: str, *known: Any, hint: str | None = None) -> None:
    """Refuse a config whose key says what conjoin does not compute.

    Args:
        known: Values that it does.

    Raises:
        ConfigError: the key has another value.
    """
    value = getattr(config, key)
    if value not in known:
        names = [each if isinstance(each, str) else json.dumps(each) for each in known]
        raise ConfigError(
            f"{config.model_type}: config.json has {key} = {json.dumps(value)}, which conjoin does not know.\n"
            f"Expected{' one of' if len(names) > 1 else ''}: {', '.join(names)}.",
            hint=hint,
        )


def activation(config: PretrainedConfig, key: str) -> spec.Activation:
    """The activation that a config names.

    Raises:
        ConfigError: conjoin does not know it.
    """
    hint = "if it is an alias of one of these, add it to ACTIVATIONS in families/builders.py and send the config"
    require(config, key, *sorted(ACTIVATIONS), hint=f"{hint} as a test.")
    return ACTIVATIONS[getattr(config, key)]


def head_size(config: PretrainedConfig, heads: str = "num_attention_heads") -> int:
    """hidden_size / num_heads.

    Args:
        heads: Field of the config with the number of heads.

    Raises:
        ConfigError: it is not a whole number.
    """
    hidden, heads = (config.attribute_map.get(name, name) for name in ("hidden_size", heads))
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


def plain_heads(
    config: PretrainedConfig, *, bias: bool, dropout: float, count: str = "num_attention_heads", **more: Any
) -> spec.Attention:
    """The attention of a config whose heads share its width evenly, and have keys and values each.

    Args:
        count: Field of the config with the number of heads.
        more: As in `attention`.
    """
    size = head_size(config, count)
    return attention(heads=getattr(config, count), size=size, bias=bias, dropout=dropout, **more)


def plain_mlp(
    config: PretrainedConfig,
    activation_key: str = "hidden_act",
    *,
    size: int | None = None,
    bias: bool = True,
    dropout: float = 0.0,
) -> spec.PlainMLP:
    """Two layers with an activation between them.

    Args:
        activation_key: Field of the config that names the activation.
        size: Their inner width; the config's `intermediate_size` by default.
        bias: Of both.
        dropout: Of the activation's output.
    """
    return spec.PlainMLP(
        intermediate_size=config.intermediate_size if size is None else size,
        activation=activation(config, activation_key),
        up_bias=bias,
        down_bias=bias,
        activation_dropout=dropout,
    )


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


def masked_head(config: PretrainedConfig, activation: spec.Activation, norm: spec.LayerNorm) -> spec.Head:
    """Return the head of a masked language model in BERT's form: a layer, an activation and a norm before the words."""
    transform = spec.HeadTransform(size=config.hidden_size, activation=activation, norm=norm)
    return lm_head(config, bias="trained", transform=transform)


def stack_spec(config: PretrainedConfig, role: Role, **fields: Any) -> spec.StackSpec:
    """Return a config's stack: an encoder has no head, and new weights are normal unless `init` is given."""
    if role == "encoder":
        fields["head"] = None
    if "init" not in fields:
        fields["init"] = spec.NormalInit(std=config.initializer_range)
    return spec.StackSpec(family=config.model_type, hidden_size=config.hidden_size, **fields)


def prenorm_stack(
    config: PretrainedConfig,
    role: Role,
    self_attn: Iterable[spec.SelfAttention],
    *,
    mlp: spec.MLP,
    norm: spec.Norm,
    norms: spec.Branch | None = None,
    own_cross: bool = False,
    blocks: Mapping[str, Any] | None = None,
    **more: Any,
) -> spec.StackSpec:
    """Return a stack with norms before its branches and one at the end, whose blocks differ in self-attention alone.

    Args:
        self_attn: Of every layer.
        norm: The final norm.
        norms: Of every branch; `norm` before it by default.
        own_cross: The family's own checkpoints hold cross-attention, where the config asks a decoder for it.
        blocks: Fields of every block that differ from the usual.
        more: Fields of the stack that differ from the usual.
    """
    block = partial(
        spec.Block, norms=norms or spec.Branch(pre=norm), causal=role == "decoder", mlp=mlp, **(blocks or {})
    )
    reads_source = own_cross and role == "decoder" and config.add_cross_attention
    layers = tuple(
        block(self_attn=each, cross_attn=_cross_attention(config, each.attention) if reads_source else None)
        for each in self_attn
    )
    usual: dict[str, Any] = {"embedding": word_embedding(config), "head": lm_head(config), "final_norm": norm}
    return stack_spec(config, role, blocks=layers, **{**usual, **more})


def _cross_attention(config: PretrainedConfig, heads: spec.Attention) -> spec.CrossAttention:
    return spec.CrossAttention(attention=heads, source_size=config.hidden_size)


def postnorm_stack(
    config: PretrainedConfig, role: Role, self_attn: Iterable[spec.SelfAttention], *, norm: spec.Norm, **more: Any
) -> spec.StackSpec:
    """Return a stack with norms behind its branches, and so none at the end.

    Args:
        more: As in `prenorm_stack`.
    """
    return prenorm_stack(config, role, self_attn, norm=norm, norms=spec.Branch(post=norm), final_norm=None, **more)


def warn_no_effect(config: PretrainedConfig, key: str) -> None:
    """Warn that a setting which is not 0, nor the family's default (M2M100 has one), changes nothing."""
    if (value := getattr(config, key)) and value != getattr(type(config), key):
        warn(f"{config.model_type}: config.json has {key} = {value}; conjoin never drops layers, so it has no effect.")
