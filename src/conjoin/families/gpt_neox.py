"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia: attention beside the MLP, partial rotary positions."""

from conjoin import spec
from conjoin.checkpoint import HeadFused, NameTable, Rule
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
from conjoin.families.rope import RopeFields, older_words, rotary


class GPTNeoXConfig(RopeFields):
    """Fields of a GPT-NeoX config.json."""

    model_type = "gpt_neox"
    vocab_size: int = 50432
    hidden_size: int = 6144
    num_hidden_layers: int = 44
    num_attention_heads: int = 64
    intermediate_size: int = 24576
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    attention_bias: bool = True
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_parallel_residual: bool = True
    rotary_pct: float = 0.25
    rotary_emb_base: float = 10000.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


def block(config: GPTNeoXConfig, role: Role) -> spec.Block:
    """One block of GPT-NeoX's shape."""
    norm, size = spec.LayerNorm(eps=config.layer_norm_eps), head_size(config)
    older = {"partial_rotary_factor": config.rotary_pct, **older_words(config, "rotary_emb_base")}
    heads = attention(
        heads=config.num_attention_heads, size=size, bias=config.attention_bias, dropout=config.attention_dropout
    )
    return spec.Block(
        norms=spec.Branch(pre=norm),
        parallel=config.use_parallel_residual,
        causal=role == "decoder",
        self_attn=spec.SelfAttention(attention=heads, rotary=rotary(config, size, older=older)),
        mlp=spec.PlainMLP(intermediate_size=config.intermediate_size, activation=activation(config, "hidden_act")),
        dropout=config.hidden_dropout,
    )


def stack(config: GPTNeoXConfig, role: Role) -> spec.StackSpec:
    """GPT-NeoX's stack; both ways as an encoder."""
    return stack_spec(
        config,
        role,
        embedding=word_embedding(config, padding_id=None, dropout=config.hidden_dropout),
        blocks=repeat(block(config, role), config.num_hidden_layers),
        final_norm=spec.LayerNorm(eps=config.layer_norm_eps),
        head=lm_head(config),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """GPTNeoXModel's names."""
    theirs, ours = "layers.{i}", "blocks.{i}"
    heads = stack.blocks[0].self_attn.attention
    layer = {
        "input_layernorm": "self_attn_norm",
        "attention.dense": "self_attn.o",
        "post_attention_layernorm": "mlp_norm",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
    }
    fused = (
        Rule(
            f"{theirs}.attention.query_key_value.{kind}",
            tuple(f"{ours}.self_attn.{letter}.{kind}" for letter in "qkv"),
            HeadFused(heads.num_heads, heads.head_size),
        )
        for kind in ("weight", "bias")
    )
    return NameTable(
        (
            Rule("embed_in.weight", "embed.words.weight"),
            *fused,
            *linears({f"{theirs}.{name}": f"{ours}.{mine}" for name, mine in layer.items()}),
            *linears({"final_layer_norm": "final_norm"}),
        ),
        ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    )


def head(stack: spec.StackSpec) -> NameTable:
    """The vocabulary matrix, where it is not tied; files say embed_out, transformers 5's class says lm_head."""
    return NameTable(tuple(Rule(f"{name}.weight", "head.vocab.weight") for name in ("embed_out", "lm_head")))


FAMILY = causal_lm(
    GPTNeoXConfig,
    "GPTNeoX",
    stack,
    body,
    head=head,
    prefixes=("gpt_neox.",),
    known=("EleutherAI/pythia-160m",),
)
