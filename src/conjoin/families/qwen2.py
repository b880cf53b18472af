"""Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671): Llama with biases on q, k, v; the last layers may slide."""

from conjoin import spec
from conjoin.families import llama
from conjoin.families.layer_types import layer_types
from conjoin.families.record import Role


class Qwen2Config(llama.LlamaFields):
    """Fields of a Qwen2 config.json."""

    model_type = "qwen2"
    vocab_size: int = 151936
    intermediate_size: int = 22016
    num_key_value_heads: int | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[str] | None = None


def window(config: Qwen2Config) -> llama.Window:
    """Layer -> how far it sees; without `use_sliding_window` every layer sees everything."""
    size = config.sliding_window if config.use_sliding_window else None
    types = layer_types(config, lambda layer: layer >= config.max_window_layers)
    return lambda layer: size if types[layer] == "sliding_attention" else None


def stack(config: Qwen2Config, role: Role) -> spec.StackSpec:
    """Qwen2's stack."""
    heads = llama.grouped_heads(config, bias=True, o_bias=False)
    layers = llama.rotary_layers(config, heads, window(config))
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config))


FAMILY = llama.family(Qwen2Config, "Qwen2", stack, known=("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2-0.5B"))
