"""EXAONE 4 (LG AI Research 2025, arXiv:2507.11407): norms on what branches give; only sliding layers have positions."""

from dataclasses import replace
from functools import partial

from conjoin import spec
from conjoin.errors import ConfigError
from conjoin.families import llama
from conjoin.families.layer_types import layer_types
from conjoin.families.olmo2 import NORMS
from conjoin.families.record import Role


class Exaone4Config(llama.LlamaFields):
    """Fields of an EXAONE 4 config.json.

    Args:
        sliding_window_pattern: Without `layer_types`, 4 or "LLLG": three layers slide, the fourth reads everything.
    """

    model_type = "exaone4"
    vocab_size: int = 102400
    intermediate_size: int = 16384
    num_key_value_heads: int | None = 32
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = 4096
    sliding_window_pattern: str | int | None = 4
    layer_types: list[str] | None = None
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


def _slides(config: Exaone4Config, layer: int) -> bool:
    """The older pattern; in one of letters the last layer reads everything."""
    pattern = config.sliding_window_pattern
    if config.sliding_window is None or not pattern:
        return False
    if isinstance(pattern, int):
        return (layer + 1) % pattern != 0
    if not {*pattern} <= {"L", "G"}:
        raise ConfigError(f'exaone4: sliding_window_pattern = "{pattern}"; expected letters L (window) and G (all).')
    return pattern[layer % len(pattern)] == "L" and layer + 1 < config.num_hidden_layers


def stack(config: Exaone4Config, role: Role) -> spec.StackSpec:
    """EXAONE 4's stack; without windows every layer has positions."""
    norm, size = spec.RMSNorm(eps=config.rms_norm_eps), config.sliding_window
    heads = llama.grouped_heads(config, bias=False, qk_norm=spec.QKNorm(norm=norm))
    types = layer_types(config, lambda layer: _slides(config, layer))
    layers = [
        each if size is None or kind == "sliding_attention" else replace(each, rotary=None, window=None)
        for each, kind in zip(llama.rotary_layers(config, heads, lambda layer: size), types, strict=True)
    ]
    return llama.decoder_stack(
        config, role, layers, mlp=llama.gated_mlp(config), norm=norm, norms=spec.Branch(out=norm)
    )


FAMILY = llama.family(
    Exaone4Config, "Exaone4", stack, partial(llama.body, norms=NORMS), known=("LGAI-EXAONE/EXAONE-4.0-1.2B",)
)
