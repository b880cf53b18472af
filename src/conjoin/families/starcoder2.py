"""StarCoder 2 (Lozhkov et al. 2024, arXiv:2402.19173): Llama's attention under layer norms, a plain MLP, biases."""

from functools import partial

from conjoin import spec
from conjoin.families import llama
from conjoin.families.builders import plain_mlp, word_embedding
from conjoin.families.record import Role


class Starcoder2Config(llama.DecoderFields):
    """Fields of a StarCoder 2 config.json."""

    model_type = "starcoder2"
    vocab_size: int = 49152
    hidden_size: int = 3072
    intermediate_size: int = 12288
    num_hidden_layers: int = 30
    num_attention_heads: int = 24
    num_key_value_heads: int | None = 2
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.018042
    norm_epsilon: float = 1e-5
    sliding_window: int | None = None
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0
    use_bias: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256


def stack(config: Starcoder2Config, role: Role) -> spec.StackSpec:
    """StarCoder 2's stack."""
    heads = llama.grouped_heads(config, bias=config.use_bias)
    return llama.decoder_stack(
        config,
        role,
        llama.rotary_layers(config, heads, lambda layer: config.sliding_window),
        mlp=plain_mlp(config, bias=config.use_bias),
        norm=spec.LayerNorm(eps=config.norm_epsilon),
        blocks={"dropout": config.residual_dropout},
        embedding=word_embedding(config, dropout=config.embedding_dropout),
    )


MLP = {"mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
FAMILY = llama.family(
    Starcoder2Config, "Starcoder2", stack, partial(llama.body, mlp=MLP), known=("bigcode/starcoder2-3b",)
)
