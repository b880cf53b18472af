"""Falcon (Almazrouei et al. 2023, arXiv:2311.16867): one key head or few, attention and MLP side by side."""

from conjoin import spec
from conjoin.checkpoint import HeadFused, NameTable, Rule
from conjoin.errors import ConfigError
from conjoin.families.builders import (
    activation,
    attention,
    head_size,
    linears,
    lm_head,
    repeat,
    stack_spec,
    word_embedding,
)
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


def block(config: FalconConfig, role: Role) -> spec.Block:
    """One block of Falcon's shape."""
    size, heads, new = head_size(config), config.num_attention_heads, config.new_decoder_architecture
    kv_heads = (config.num_kv_heads or heads) if new else 1 if config.multi_query else heads
    ours = attention(heads=heads, kv_heads=kv_heads, size=size, bias=config.bias, dropout=config.attention_dropout)
    return spec.Block(
        norms=spec.Branch(pre=spec.LayerNorm(eps=config.layer_norm_epsilon)),
        parallel=config.parallel_attn,
        shared_norm=config.parallel_attn and (config.num_ln_in_parallel_attn or 1 + new) == 1,
        causal=role == "decoder",
        self_attn=spec.SelfAttention(attention=ours, rotary=None if config.alibi else rotary(config, size)),
        mlp=spec.PlainMLP(
            intermediate_size=config.ffn_hidden_size or 4 * config.hidden_size,
            activation=activation(config, "activation"),
            up_bias=config.bias,
            down_bias=config.bias,
        ),
        dropout=config.hidden_dropout,
    )


def _alibi(config: FalconConfig, role: Role) -> spec.Alibi:
    """Scaled like the products, and in the bfloat16 that it was trained in; read both ways there are true distances."""
    return spec.Alibi(scale=head_size(config) ** -0.5, rounded=role == "decoder")


def stack(config: FalconConfig, role: Role) -> spec.StackSpec:
    """Falcon's stack; both ways as an encoder."""
    _require_known(config)
    return stack_spec(
        config,
        role,
        embedding=word_embedding(config, padding_id=None),
        blocks=repeat(block(config, role), config.num_hidden_layers),
        relative_bias=_alibi(config, role) if config.alibi else None,
        final_norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        head=lm_head(config),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """FalconModel's names; those of the norms depend on their number."""
    theirs, ours, block = "h.{i}", "blocks.{i}", stack.blocks[0]
    heads = block.self_attn.attention
    layout = HeadFused(heads.num_kv_heads, heads.head_size, shared=heads.num_heads // heads.num_kv_heads)
    two = block.parallel and not block.shared_norm
    layer = {
        "ln_attn" if two else "input_layernorm": "self_attn_norm",
        "ln_mlp" if two else "post_attention_layernorm": "mlp_norm",
        "self_attention.dense": "self_attn.o",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
    }
    fused = (
        Rule(
            f"{theirs}.self_attention.query_key_value.{kind}",
            tuple(f"{ours}.self_attn.{letter}.{kind}" for letter in "qkv"),
            layout,
        )
        for kind in ("weight", "bias")
    )
    return NameTable(
        (
            Rule("word_embeddings.weight", "embed.words.weight"),
            *fused,
            *linears({f"{theirs}.{name}": f"{ours}.{mine}" for name, mine in layer.items()}),
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
