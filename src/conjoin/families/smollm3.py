"""SmolLM3 (Bakouch et al. 2025): Llama whose every fourth layer has no positions (arXiv:2501.18795)."""

from dataclasses import replace

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import llama
from conjoin.families.layer_types import layer_types
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class SmolLM3Config(llama.LlamaFields):
    """Fields of a SmolLM3 config.json.

    Args:
        no_rope_layers: 1 for every layer that turns queries and keys, 0 for every layer that does not.
        no_rope_layer_interval: Without this list, one layer of so many does not turn them.
    """

    model_type = "smollm3"
    vocab_size: int = 128256
    hidden_size: int = 2048
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 4
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    use_sliding_window: bool = False
    sliding_window: int | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: int = 4
    layer_types: list[str] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 128004
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001


def _turns(config: SmolLM3Config) -> list[bool]:
    """Which layers have rotary positions."""
    count, given = config.num_hidden_layers, config.no_rope_layers
    if given is None:
        return [(layer + 1) % config.no_rope_layer_interval != 0 for layer in range(count)]
    if len(given) < count:
        raise ConfigError(f"smollm3: no_rope_layers has {len(given)} entries for {count} layers.")
    return [bool(turns) for turns in given[:count]]


def stack(config: SmolLM3Config, role: Role) -> spec.StackSpec:
    """SmolLM3's stack; without `layer_types`, layers without positions may slide."""
    heads, turns = llama.grouped_heads(config, bias=config.attention_bias), _turns(config)
    size = config.sliding_window
    slide = config.use_sliding_window and size is not None
    types = layer_types(config, lambda layer: slide and not turns[layer])
    layers = llama.rotary_layers(
        config,
        heads,
        lambda layer: size if types[layer] == "sliding_attention" else None,
        older=older_words(config, fallback=2e6),
    )
    layers = [each if turns[i] else replace(each, rotary=None) for i, each in enumerate(layers)]
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config, bias=config.mlp_bias))


FAMILY = llama.family(SmolLM3Config, "SmolLM3", stack, known=("HuggingFaceTB/SmolLM3-3B",))
