"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama whose every layer reads a sliding window."""

from conjoin import spec
from conjoin.families import llama
from conjoin.families.record import Role


class MistralConfig(llama.LlamaFields):
    """Fields of a Mistral config.json."""

    model_type = "mistral"
    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def stack(config: MistralConfig, role: Role) -> spec.StackSpec:
    """Mistral's stack; as an encoder the window opens to both sides."""
    heads = llama.grouped_heads(config, bias=False)
    layers = llama.rotary_layers(config, heads, lambda layer: config.sliding_window)
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config))


FAMILY = llama.family(
    MistralConfig, "Mistral", stack, known=("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-Small-3.1-24B-Base-2503")
)
