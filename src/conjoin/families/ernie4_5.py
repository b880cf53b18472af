"""ERNIE 4.5 without experts (Baidu 2025): Llama, the turning dimensions of its queries and keys stored in pairs."""

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import llama
from conjoin.families.names import paired_projections
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class Ernie4_5Config(llama.LlamaFields):
    """Fields of an ERNIE 4.5 config.json.

    Args:
        attention_dropout: transformers has no such key here, and never drops weights of attention.
    """

    model_type = "ernie4_5"
    vocab_size: int = 103424
    hidden_size: int = 1024
    intermediate_size: int = 3072
    num_hidden_layers: int = 18
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 2
    head_dim: int | None = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    use_bias: bool | None = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def stack(config: Ernie4_5Config, role: Role) -> spec.StackSpec:
    """ERNIE 4.5's stack; both ways as an encoder."""
    bias = bool(config.use_bias)
    layers = llama.rotary_layers(
        config, llama.grouped_heads(config, bias=bias), older=older_words(config, fallback=5e5)
    )
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config, bias=bias))


def body(stack: spec.StackSpec) -> NameTable:
    """Ernie4_5Model's names: Llama's, with rotated dimensions in pairs."""
    return NameTable(paired_projections(stack, "layers.{i}.self_attn")) + llama.body(stack)


FAMILY = llama.family(
    Ernie4_5Config, "Ernie4_5", stack, body, known=("baidu/ERNIE-4.5-0.3B-PT", "baidu/ERNIE-4.5-0.3B-Base-PT")
)
