"""GPT-Neo (Black et al. 2021): GPT-2 whose layers read everything and a window by turns, with unscaled scores."""

from typing import Any, ClassVar, cast

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families.builders import plain_heads, plain_mlp, prenorm_stack, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.names import layers, linears, weights
from conjoin.families.record import Role, causal_lm


class GPTNeoConfig(PretrainedConfig):
    """Fields of a GPT-Neo config.json.

    Args:
        attention_types: Which layers read everything ("global") and which a window ("local"): [[types, times], ...].
    """

    model_type = "gpt_neo"
    attribute_map: ClassVar[dict[str, str]] = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
    vocab_size: int = 50257
    max_position_embeddings: int = 2048
    hidden_size: int = 2048
    num_layers: int = 24
    attention_types: list[Any] | None = None
    num_heads: int = 16
    intermediate_size: int | None = None
    window_size: int = 256
    activation_function: str = "gelu_new"
    resid_dropout: float = 0.0
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256


def _types(config: GPTNeoConfig) -> list[str]:
    """The type of every layer.

    Raises:
        ConfigError: `attention_types` does not name one of two types for each.
    """
    given = config.attention_types or [[["global", "local"], 12]]
    pairs = [cast("list[Any]", each) if isinstance(each, list | tuple) else [] for each in given]
    whole = all(len(pair) == 2 and isinstance(pair[0], list | tuple) and isinstance(pair[1], int) for pair in pairs)
    types = [kind for names, times in pairs for kind in [*names] * times] if whole else []
    if len(types) != config.num_layers or not {*types} <= {"global", "local"}:
        raise ConfigError(
            f"gpt_neo: config.json has attention_types = {given} and num_layers = {config.num_layers}; expected "
            '[[types, times], ...] that make "global" or "local" of each layer.'
        )
    return types


def stack(config: GPTNeoConfig, role: Role) -> spec.StackSpec:
    """GPT-Neo's stack; as an encoder windows open to both sides."""
    heads = plain_heads(config, bias=False, o_bias=True, dropout=config.attention_dropout, scale=1.0)
    windows = (config.window_size if kind == "local" else None for kind in _types(config))
    size = config.intermediate_size or 4 * config.hidden_size
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads, window=window) for window in windows],
        mlp=plain_mlp(config, "activation_function", size=size),
        norm=spec.LayerNorm(eps=config.layer_norm_epsilon),
        blocks={"dropout": config.resid_dropout},
        embedding=word_embedding(
            config,
            position=spec.Learned(max_positions=config.max_position_embeddings),
            padding_id=None,
            token_types="words",
            dropout=config.embed_dropout,
        ),
    )


LAYER = {
    "ln_1": "self_attn_norm",
    **{f"attn.attention.{letter}_proj": f"self_attn.{letter}" for letter in "qkv"},
    "attn.attention.out_proj": "self_attn.o",
    "ln_2": "mlp_norm",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}


def body(stack: spec.StackSpec) -> NameTable:
    """GPTNeoModel's names."""
    tables = weights({"wte": "embed.words", "wpe": "embed.positions"})
    return NameTable(
        (*tables, *layers("h.{i}", LAYER), *linears({"ln_f": "final_norm"})),
        ignored=(r"h\.\d+\.attn\.attention\.(masked_)?bias",),
    )


FAMILY = causal_lm(
    GPTNeoConfig,
    "GPTNeo",
    stack,
    body,
    prefixes=("transformer.",),
    known=("EleutherAI/gpt-neo-125m", "EleutherAI/gpt-neo-1.3B"),
)
