"""BLOOM (BigScience 2022, arXiv:2211.05100): ALiBi in place of positions, and a norm behind the word table."""

from typing import Any, ClassVar

from conjoin import spec
from conjoin.checkpoint import HeadFused, NameTable, Rule
from conjoin.errors import ConfigError
from conjoin.families.builders import attention, head_size, linears, lm_head, repeat, stack_spec, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import Role, causal_lm


class BloomConfig(PretrainedConfig):
    """Fields of a BLOOM config.json.

    Args:
        n_embed: Older name of hidden_size, which it wins over.
        pretraining_tp, slow_but_exact: Ways to compute the same numbers in slices.
    """

    model_type = "bloom"
    attribute_map: ClassVar[dict[str, str]] = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    vocab_size: int = 250880
    hidden_size: int = 64
    n_embed: int | None = None
    n_layer: int = 2
    n_head: int = 8
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    apply_residual_connection_post_layernorm: bool = False
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    pretraining_tp: int = 1
    slow_but_exact: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**values)
        if self.n_embed is not None:
            self.hidden_size, self.n_embed = self.n_embed, None


def stack(config: BloomConfig, role: Role) -> spec.StackSpec:
    """BLOOM's stack; both ways as an encoder."""
    if config.apply_residual_connection_post_layernorm:
        raise ConfigError(
            "bloom: config.json has apply_residual_connection_post_layernorm = true, which conjoin does not know: no "
            "published BLOOM has it."
        )
    norm, size = spec.LayerNorm(eps=config.layer_norm_epsilon), head_size(config, heads="n_head")
    heads = attention(heads=config.n_head, size=size, bias=True, dropout=config.attention_dropout)
    block = spec.Block(
        norms=spec.Branch(pre=norm),
        causal=role == "decoder",
        self_attn=spec.SelfAttention(attention=heads),
        mlp=spec.PlainMLP(intermediate_size=4 * config.hidden_size, activation="gelu_tanh"),
        dropout=config.hidden_dropout,
    )
    return stack_spec(
        config,
        role,
        embedding=word_embedding(config, padding_id=None, norm=norm),
        blocks=repeat(block, config.n_layer),
        relative_bias=spec.Alibi(),
        final_norm=norm,
        head=lm_head(config),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """BloomModel's names."""
    heads = stack.blocks[0].self_attn.attention
    layer = {
        "input_layernorm": "self_attn_norm",
        "self_attention.dense": "self_attn.o",
        "post_attention_layernorm": "mlp_norm",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
    }
    fused = (
        Rule(
            f"h.{{i}}.self_attention.query_key_value.{kind}",
            tuple(f"blocks.{{i}}.self_attn.{letter}.{kind}" for letter in "qkv"),
            HeadFused(heads.num_heads, heads.head_size),
        )
        for kind in ("weight", "bias")
    )
    return NameTable(
        (
            Rule("word_embeddings.weight", "embed.words.weight"),
            *fused,
            *linears({f"h.{{i}}.{name}": f"blocks.{{i}}.{ours}" for name, ours in layer.items()}),
            *linears({"word_embeddings_layernorm": "embed.norm", "ln_f": "final_norm"}),
        )
    )


FAMILY = causal_lm(
    BloomConfig,
    "Bloom",
    stack,
    body,
    prefixes=("transformer.",),
    known=("bigscience/bloom-560m", "bigscience/bloomz-560m"),
)
