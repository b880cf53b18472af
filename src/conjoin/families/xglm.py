"""XGLM (Lin et al. 2021, arXiv:2112.10668): a causal LM of M2M100's decoder, without an encoder."""

from typing import ClassVar

from conjoin import spec
from conjoin.families import bart
from conjoin.families.builders import plain_heads, plain_mlp, prenorm_stack, warn_no_effect, word_embedding
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import Family, Role


class XGLMConfig(PretrainedConfig):
    """Fields of an XGLM config.json. Layer drop is read, warned of and not applied.

    Args:
        max_position_embeddings: Length of the longest sequence; no file holds the table, so a larger number gives more.
    """

    model_type = "xglm"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "attention_heads",
        "num_hidden_layers": "num_layers",
        "initializer_range": "init_std",
    }
    vocab_size: int = 256008
    max_position_embeddings: int = 2048
    d_model: int = 1024
    ffn_dim: int = 4096
    num_layers: int = 24
    attention_heads: int = 16
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layerdrop: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2


def stack(config: XGLMConfig, role: Role) -> spec.StackSpec:
    """XGLM's stack; every token counts, from row 2 of a table whose row of the padding id is zero."""
    warn_no_effect(config, "layerdrop")
    position = spec.Sinusoidal(
        max_positions=config.max_position_embeddings,
        layout="halves",
        style="tensor2tensor",
        counts=2,
        zero_row=config.pad_token_id,
    )
    scale = config.d_model**0.5 if config.scale_embedding else 1.0
    heads = plain_heads(config, bias=True, dropout=config.attention_dropout)
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.num_layers,
        mlp=plain_mlp(config, "activation_function", size=config.ffn_dim, dropout=config.activation_dropout),
        norm=bart.NORM,
        own_cross=True,
        blocks={"dropout": config.dropout},
        embedding=word_embedding(config, position=position, scale=scale, dropout=config.dropout),
    )


FAMILY = Family(
    config=XGLMConfig,
    encoder="bidirectional",
    decoder="own",
    encoder_architecture="XGLMModel",
    decoder_architecture="XGLMForCausalLM",
    build=stack,
    body=bart.body_without_positions,
    prefixes=("model.",),
    num_layers={"encoder": "num_layers", "decoder": "num_layers"},
    known=("facebook/xglm-564M",),
)
