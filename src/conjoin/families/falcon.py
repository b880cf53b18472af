"""Falcon (Almazrouei et al. 2023, arXiv:2311.16867): one key head or few, attention and MLP side by side."""

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families.builders import attention, head_size, plain_mlp, prenorm_stack, word_embedding
from conjoin.families.names import linears, megatron_layers, weights
from conjoin.families.record import Role, causal_lm
from conjoin.families.rope import RopeFields, rotary


class FalconConfig(RopeFields):
    """Fields of a Falcon config.json.

    Args:
        new_decoder_architecture: Falcon 40B and later: grouped keys, branches in parallel with a norm each.
        num_ln_in_parallel_attn: Norms of the branches in parallel: 1 or 2; by default 2 in the new architecture.
        multi_query: One head of keys and values, in the old architecture.
    """

    model_type = "falcon"
    vocab_size: int = 65024
    hidden_size: int = 4544
    num_hidden_layers: int = 32
    num_attention_heads: int = 71
    num_ln_in_parallel_attn: int | None = None
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    num_kv_heads: int | None = None
    alibi: bool = False
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    max_position_embeddings: int = 2048
    rope_theta: float | None = None
    ffn_hidden_size: int | None = None
    activation: str = "gelu"
    bos_token_id: int | None = 11
    eos_token_id: int | list[int] | None = 11


def _require_known(config: FalconConfig) -> None:
    """Raise ConfigError for combinations of which transformers makes no model."""
    heads, kv_heads, norms = config.num_attention_heads, config.num_kv_heads, config.num_ln_in_parallel_attn
    new = config.new_decoder_architecture
    wrong = {
        "parallel_attn": new and not config.parallel_attn,
        "num_ln_in_parallel_attn": norms not in ((None, 1, 2) if new else (None, 1)),
        "num_kv_heads": kv_heads is not None
        and (heads % kv_heads if new else not config.multi_query and kv_heads != heads),
    }
    if key := next((key for key, is_wrong in wrong.items() if is_wrong), None):
        raise ConfigError(
            f"falcon: config.json has {key} = {getattr(config, key)} with new_decoder_architecture = {new}, "
            f"multi_query = {config.multi_query} and num_attention_heads = {heads}, of which no Falcon is made."
        )


def _self_attn(config: FalconConfig) -> spec.SelfAttention:
    size, heads = head_size(config), config.num_attention_heads
    kv_heads = 1 if config.multi_query else heads
    if config.new_decoder_architecture:
        kv_heads = config.num_kv_heads or heads
    ours = attention(heads=heads, kv_heads=kv_heads, size=size, bias=config.bias, dropout=config.attention_dropout)
    return spec.SelfAttention(attention=ours, rotary=None if config.alibi else rotary(config, size))


def _alibi(config: FalconConfig, role: Role) -> spec.Alibi:
    """Scaled like the products, and in the bfloat16 that it was trained in; read both ways there are true distances."""
    return spec.Alibi(scale=head_size(config) ** -0.5, rounded=role == "decoder")


def stack(config: FalconConfig, role: Role) -> spec.StackSpec:
    """Falcon's stack; both ways as an encoder."""
    _require_known(config)
    norms = config.num_ln_in_parallel_attn or 1 + config.new_decoder_architecture
    together = {"parallel": config.parallel_attn, "shared_norm": config.parallel_attn and norms == 1}
    return prenorm_stack(
        config,
        role,
        [_self_attn(config)] * config.num_hidden_layers,
        mlp=plain_mlp(config, "activation", size=config.ffn_hidden_size or 4 * config.hidden_size, bias=config.bias),
        norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        blocks={**together, "dropout": config.hidden_dropout},
        embedding=word_embedding(config, padding_id=None),
        relative_bias=_alibi(config, role) if config.alibi else None,
    )


def body(stack: spec.StackSpec) -> NameTable:
    """FalconModel's names; those of the norms depend on their number."""
    block = stack.blocks[0]
    norms = {"norms": ("ln_attn", "ln_mlp")} if block.parallel and not block.shared_norm else {}
    return NameTable(
        (
            *weights({"word_embeddings": "embed.words"}),
            *megatron_layers(stack, "h.{i}", "self_attention", **norms),
            *linears({"ln_f": "final_norm"}),
        ),
        ignored=(r"h\.\d+\.self_attention\.rotary_emb\.inv_freq",),
    )


FAMILY = causal_lm(
    FalconConfig,
    "Falcon",
    stack,
    body,
    prefixes=("transformer.",),
    known=("tiiuae/falcon-rw-1b", "tiiuae/falcon-7b", "tiiuae/falcon-11B"),
)
