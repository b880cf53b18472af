"""Which layers read everything and which a window: `layer_types` (transformers 5), or a family's older pattern."""

from collections.abc import Callable
from typing import Literal

from conjoin.errors import ConfigError, listing
from conjoin.families.config import PretrainedConfig

LayerType = Literal["full_attention", "sliding_attention"]
LAYER_TYPES: tuple[LayerType, ...] = ("full_attention", "sliding_attention")


def layer_types(config: PretrainedConfig, slides: Callable[[int], bool]) -> list[LayerType]:
    """The type of every layer.

    Args:
        slides: The older pattern, by layer, for configs without `layer_types`.

    Raises:
        ConfigError: `layer_types` has a word that conjoin does not know, or not one word per layer.
    """
    count, given = config.num_hidden_layers, getattr(config, "layer_types", None)
    if given is None:
        return ["sliding_attention" if slides(layer) else "full_attention" for layer in range(count)]
    unknown = sorted(set(given) - set(LAYER_TYPES))
    if unknown:
        raise ConfigError(
            f"{config.model_type}: layer_types has words that conjoin does not know:\n{listing(unknown)}\n"
            f"Expected: {', '.join(LAYER_TYPES)}."
        )
    if len(given) != count:
        raise ConfigError(
            f"{config.model_type}: layer_types names {len(given)} layers, num_hidden_layers is {count}.",
            hint="change both together.",
        )
    return given


def every_nth(n: int, first: int) -> Callable[[int], bool]:
    """The older pattern in which one layer of `n` reads everything, beginning with number `first`; the others slide.

    Raises:
        ConfigError: `n` is 0.
    """
    if not n:
        raise ConfigError("sliding_window_pattern = 0; expected one layer of so many that reads everything.")
    return lambda layer: layer % n != first
