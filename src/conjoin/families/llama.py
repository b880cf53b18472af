"""Llama (Touvron et al. 2023, arXiv:2302.13971) and its layout, which SmolLM2 has too and Mistral and Qwen build on."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families import builders
from conjoin.families.builders import activation, attention, head_size
from conjoin.families.names import layers, linears, weights
from conjoin.families.record import Family, Role, causal_lm
from conjoin.families.rope import RopeFields, Words, rotary


class DecoderFields(RopeFields):
    """Fields of a Llama config.json that the families of its layout have too, whatever their norms."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    attention_dropout: float = 0.0
    rope_theta: float | None = None
    tie_word_embeddings: bool = False


class LlamaFields(DecoderFields):
    """Fields of a Llama config.json that the families built on Llama have too."""

    rms_norm_eps: float = 1e-6


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
    config: DecoderFields,
    role: Role,
    self_attn: Iterable[spec.SelfAttention],
    *,
    mlp: spec.MLP,
    norm: spec.Norm | None = None,
    **more: Any,
) -> spec.StackSpec:
    """Return the stack that Llama and its kin share: no table of positions, no dropout, a norm at the end.

    Args:
        norm: As in `builders.prenorm_stack`; RMSNorm by default, of a config that has its epsilon.
        more: Other arguments of that function.
    """
    return builders.prenorm_stack(config, role, self_attn, mlp=mlp, norm=norm or _rms_norm(config), **more)


def _rms_norm(config: DecoderFields) -> spec.RMSNorm:
    assert isinstance(config, LlamaFields)
    return spec.RMSNorm(eps=config.rms_norm_eps)


def gated_mlp(config: DecoderFields, activation_key: str = "hidden_act", *, bias: bool = False) -> spec.GatedMLP:
    """Return the MLP that Llama and its kin share."""
    return spec.GatedMLP(
        intermediate_size=config.intermediate_size,
        activation=activation(config, activation_key),
        up_bias=bias,
        down_bias=bias,
    )


def rotary_layers(
    config: DecoderFields, heads: spec.Attention, window: Window | None = None, older: Words | None = None
) -> list[spec.SelfAttention]:
    """Return the self-attention of every layer.

    Args:
        window: Layer -> how far it sees; None: every layer sees everything.
        older: What the config's older keys say of the rotation, as in `rope.rotary`.
    """
    rotation = rotary(config, heads.head_size, older=older)
    return [
        spec.SelfAttention(attention=heads, rotary=rotation, window=window(layer) if window else None)
        for layer in range(config.num_hidden_layers)
    ]


def grouped_heads(config: DecoderFields, **more: Any) -> spec.Attention:
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
    return decoder_stack(config, role, rotary_layers(config, heads), mlp=gated_mlp(config, bias=config.mlp_bias))


NORMS = {"input_layernorm": "self_attn_norm", "post_attention_layernorm": "mlp_norm"}
MLP = {f"mlp.{name}_proj": f"mlp.{name}" for name in ("gate", "up", "down")}


def body(stack: spec.StackSpec, norms: Mapping[str, str] = NORMS, mlp: Mapping[str, str] = MLP) -> NameTable:
    """LlamaModel's names; the families built on Llama name other norms, and some another MLP."""
    layer = {
        **{f"self_attn.{letter}_proj": f"self_attn.{letter}" for letter in "qkvo"},
        **{f"self_attn.{letter}_norm": f"self_attn.{letter}_norm" for letter in "qk"},
        **mlp,
        **norms,
    }
    return NameTable(
        (
            *weights({"embed_tokens": "embed.words"}),
            *linears({"norm": "final_norm"}),
            *layers("layers.{i}", layer),
        ),
        ignored=(r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    )


def family(
    config: type[DecoderFields],
    name: str,
    build: Callable[[Any, Role], spec.StackSpec],
    body: Callable[[spec.StackSpec], NameTable] = body,
    *,
    known: tuple[str, ...] = (),
) -> Family:
    """Return a family whose checkpoints are causal LMs in Llama's layout; `name` begins its classes in transformers."""
    causal = f"{name.removesuffix('Text')}ForCausalLM"
    return causal_lm(config, name, build, body, decoder_architecture=causal, known=known)


FAMILY = family(
    LlamaConfig,
    "Llama",
    stack,
    known=(
        "HuggingFaceTB/SmolLM2-135M",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "tiiuae/Falcon3-1B-Base",
        "h2oai/h2o-danube3-500m-base",
        "meta-llama/Llama-3.2-1B",
    ),
)
