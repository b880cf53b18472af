"""BLOOM (BigScience 2022, arXiv:2211.05100): ALiBi in place of positions, and a norm behind the word table."""

from typing import Any, ClassVar

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families.builders import plain_heads, prenorm_stack, require, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import linears, megatron_layers, weights
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
    """BLOOM's stack; both ways as an encoder.

    Raises:
        ConfigError: branches read around their norms.
    """
    require(config, "apply_residual_connection_post_layernorm", False, hint="no published BLOOM has it.")
    norm = spec.LayerNorm(eps=config.layer_norm_epsilon)
    heads = plain_heads(config, bias=True, dropout=config.attention_dropout)
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.n_layer,
        mlp=spec.PlainMLP(intermediate_size=4 * config.hidden_size, activation="gelu_tanh"),
        norm=norm,
        blocks={"dropout": config.hidden_dropout},
        embedding=word_embedding(config, padding_id=None, norm=norm),
        relative_bias=spec.Alibi(),
    )


def body(stack: spec.StackSpec) -> NameTable:
    """BloomModel's names."""
    return NameTable(
        (
            *weights({"word_embeddings": "embed.words"}),
            *megatron_layers(stack, "h.{i}", "self_attention"),
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
