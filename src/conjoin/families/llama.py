"""Llama (Touvron et al. 2023, arXiv:2302.13971) and its layout, which SmolLM2 has too and Mistral and Qwen build on."""

from collections.abc import Callable
from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.errors import ConfigError
from conjoin.families._kit import Family, Role, activation, attention, head_size, linears
from conjoin.families._rope import RopeFields, rotary


class LlamaFields(RopeFields):
    """Fields of a Llama config.json that the families built on Llama have too."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    rope_theta: float | None = None
    tie_word_embeddings: bool = False


class LlamaConfig(LlamaFields):
    """Fields of a Llama config.json."""

    model_type = "llama"
    head_dim: int | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


Window = Callable[[int], int | None]


def decoder_stack(
    config: LlamaFields,
    role: Role,
    heads: spec.Attention,
    *,
    window: Window = lambda layer: None,
    mlp_bias: bool = False,
) -> spec.StackSpec:
    """The shape that Llama, Mistral and Qwen share: pre-norm RMSNorm, rotary, gated MLP, no position table.

    Args:
        window: Layer -> how far it sees.
    """
    norm = spec.RMSNorm(eps=config.rms_norm_eps)
    turning = rotary(config, heads.head_size)
    mlp = spec.GatedMLP(
        intermediate_size=config.intermediate_size,
        activation=activation(config, "hidden_act"),
        up_bias=mlp_bias,
        down_bias=mlp_bias,
    )
    blocks = tuple(
        spec.Block(
            norms=spec.Branch(pre=norm),
            causal=role == "decoder",
            self_attn=spec.SelfAttention(attention=heads, rotary=turning, window=window(layer)),
            mlp=mlp,
        )
        for layer in range(config.num_hidden_layers)
    )
    head = spec.Head(vocab_size=config.vocab_size, size=config.hidden_size, tied=config.tie_word_embeddings)
    return spec.StackSpec(
        family=config.model_type,
        hidden_size=config.hidden_size,
        embedding=spec.Embedding(
            vocab_size=config.vocab_size,
            size=config.hidden_size,
            position=spec.NoPosition(),
            padding_id=config.pad_token_id,
        ),
        blocks=blocks,
        final_norm=norm,
        head=head if role == "decoder" else None,
        init=spec.NormalInit(std=config.initializer_range),
    )


def grouped_heads(config: LlamaFields, **more: Any) -> spec.Attention:
    """The attention of a config with num_key_value_heads and head_dim.

    Args:
        more: `bias`, and fields of the attention that differ from the usual.

    Raises:
        ConfigError: the heads do not fall into groups of equal size.
    """
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    if heads % kv_heads:
        raise ConfigError(
            f"{config.model_type}: num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}."
        )
    size = getattr(config, "head_dim", None) or head_size(config)
    return attention(heads=heads, kv_heads=kv_heads, size=size, dropout=config.attention_dropout, **more)


def stack(config: LlamaConfig, role: Role) -> spec.StackSpec:
    """Llama's stack; both ways as an encoder."""
    heads = grouped_heads(config, bias=config.attention_bias)
    return decoder_stack(config, role, heads, mlp_bias=config.mlp_bias)


def body(stack: spec.StackSpec) -> NameTable:
    """LlamaModel's names."""
    theirs, ours = "layers.{i}", "blocks.{i}"
    layer = {
        **{f"self_attn.{letter}_proj": f"self_attn.{letter}" for letter in "qkvo"},
        **{f"self_attn.{letter}_norm": f"self_attn.{letter}_norm" for letter in "qk"},
        **{f"mlp.{name}_proj": f"mlp.{name}" for name in ("gate", "up", "down")},
        "input_layernorm": "self_attn_norm",
        "post_attention_layernorm": "mlp_norm",
    }
    return NameTable(
        (
            Rule("embed_tokens.weight", "embed.words.weight"),
            Rule("norm.weight", "final_norm.weight"),
            *linears({f"{theirs}.{name}": f"{ours}.{mine}" for name, mine in layer.items()}),
        ),
        ignored=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    )


FAMILY = Family(
    config=LlamaConfig,
    encoder="bidirectional",
    decoder="grafted",
    encoder_architecture="LlamaModel",
    decoder_architecture="LlamaForCausalLM",
    build=stack,
    body=body,
    prefixes=("model.",),
)
