"""OLMo 3 (Team OLMo 2025, arXiv:2512.13961): OLMo 2 with windows; only layers that read everything are stretched."""

from functools import partial

from conjoin import spec
from conjoin.families import llama, olmo2
from conjoin.families.layer_types import LayerType, every_nth, layer_types
from conjoin.families.record import Role
from conjoin.families.rope import older_words, rotary


class Olmo3Config(olmo2.Olmo2Config):
    """Fields of an OLMo 3 config.json."""

    model_type = "olmo3"
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None


def stack(config: Olmo3Config, role: Role) -> spec.StackSpec:
    """OLMo 3's stack."""
    heads = olmo2.heads(config)
    older = older_words(config, fallback=5e5)
    plain = {"rope_theta": older["rope_theta"]}
    full = rotary(config, heads.head_size, layer_type="full_attention", older=older)
    sliding = rotary(config, heads.head_size, layer_type="sliding_attention", older=plain)
    kinds: dict[LayerType, spec.SelfAttention] = {
        "full_attention": spec.SelfAttention(attention=heads, rotary=full),
        "sliding_attention": spec.SelfAttention(attention=heads, rotary=sliding, window=config.sliding_window),
    }
    layers = [kinds[kind] for kind in layer_types(config, every_nth(4, first=3))]
    return olmo2.stack_of(config, role, layers)


FAMILY = llama.family(
    Olmo3Config, "Olmo3", stack, partial(llama.body, norms=olmo2.NORMS), known=("allenai/Olmo-3-1025-7B",)
)
