"""GPT-NeoX (Black et al. 2022, arXiv:2204.06745) and Pythia: attention beside the MLP, partial rotary positions."""

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families.builders import head_size, plain_heads, plain_mlp, prenorm_stack, word_embedding
from conjoin.families.names import linears, megatron_layers, weights
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


def stack(config: GPTNeoXConfig, role: Role) -> spec.StackSpec:
    """GPT-NeoX's stack; both ways as an encoder."""
    older = {"partial_rotary_factor": config.rotary_pct, **older_words(config, "rotary_emb_base")}
    heads = plain_heads(config, bias=config.attention_bias, dropout=config.attention_dropout)
    reads = spec.SelfAttention(attention=heads, rotary=rotary(config, head_size(config), older=older))
    return prenorm_stack(
        config,
        role,
        [reads] * config.num_hidden_layers,
        mlp=plain_mlp(config),
        norm=spec.LayerNorm(eps=config.layer_norm_eps),
        blocks={"parallel": config.use_parallel_residual, "dropout": config.hidden_dropout},
        embedding=word_embedding(config, padding_id=None, dropout=config.hidden_dropout),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """GPTNeoXModel's names."""
    return NameTable(
        (
            *weights({"embed_in": "embed.words"}),
            *megatron_layers(stack, "layers.{i}", "attention"),
            *linears({"final_layer_norm": "final_norm"}),
        ),
        ignored=(r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",),
    )


def head(stack: spec.StackSpec) -> NameTable:
    """The vocabulary matrix, where it is not tied; files say embed_out, transformers 5's class says lm_head."""
    return NameTable(weights({"embed_out": "head.vocab", "lm_head": "head.vocab"}))


FAMILY = causal_lm(
    GPTNeoXConfig,
    "GPTNeoX",
    stack,
    body,
    head=head,
    prefixes=("gpt_neox.",),
    known=("EleutherAI/pythia-160m",),
)
