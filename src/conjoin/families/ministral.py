"""Ministral (Mistral AI 2024): Mistral of which some layers read everything and some a window."""

from conjoin import spec
from conjoin.families import llama
from conjoin.families.layer_types import layer_types
from conjoin.families.mistral import MistralConfig
from conjoin.families.record import Role


class MinistralConfig(MistralConfig):
    """Fields of a Ministral config.json; without `layer_types` every layer has the window, if there is one."""

    model_type = "ministral"
    layer_types: list[str] | None = None


def stack(config: MinistralConfig, role: Role) -> spec.StackSpec:
    """Ministral's stack; as an encoder the window opens to both sides."""
    types = layer_types(config, lambda layer: config.sliding_window is not None)
    layers = llama.rotary_layers(
        config,
        llama.grouped_heads(config, bias=False),
        lambda layer: config.sliding_window if types[layer] == "sliding_attention" else None,
    )
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config))


FAMILY = llama.family(MinistralConfig, "Ministral", stack, known=("mistralai/Ministral-8B-Instruct-2410",))
