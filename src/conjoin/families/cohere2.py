"""Command R7B and Command A (Cohere 2024): Cohere whose layers slide and turn, or read everything without positions."""

from dataclasses import replace

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import cohere, llama
from conjoin.families.layer_types import every_nth, layer_types
from conjoin.families.record import Role


class Cohere2Config(cohere.CohereFields):
    """Fields of a Cohere 2 config.json.

    Args:
        sliding_window_pattern: Without `layer_types`, one layer of so many reads everything: the last of them.
    """

    model_type = "cohere2"
    sliding_window: int | None = 4096
    sliding_window_pattern: int = 4
    layer_types: list[str] | None = None


def stack(config: Cohere2Config, role: Role) -> spec.StackSpec:
    """Cohere 2's stack; both ways as an encoder."""
    if config.sliding_window is None:
        raise ConfigError("cohere2: sliding_window = None; expected a number: layers without a window do not turn.")
    pattern = config.sliding_window_pattern
    types = layer_types(config, every_nth(pattern, first=pattern - 1))
    heads = llama.grouped_heads(config, bias=config.attention_bias)
    layers = llama.rotary_layers(config, heads, lambda layer: config.sliding_window)
    return cohere.stack_of(
        config,
        role,
        [
            each if kind == "sliding_attention" else replace(each, rotary=None, window=None)
            for each, kind in zip(layers, types, strict=True)
        ],
    )


FAMILY = llama.family(
    Cohere2Config,
    "Cohere2",
    stack,
    cohere.body,
    known=("CohereLabs/c4ai-command-r7b-12-2024", "CohereLabs/c4ai-command-a-03-2025"),
)
