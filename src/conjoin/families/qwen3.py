"""Qwen3 (Yang et al. 2025, arXiv:2505.09388): Qwen2 whose query and key heads are normalised instead of biased."""

from conjoin import spec
from conjoin.families import llama
from conjoin.families.qwen2 import Qwen2Config, window
from conjoin.families.record import Role


class Qwen3Config(Qwen2Config):
    """Fields of a Qwen3 config.json."""

    model_type = "qwen3"
    head_dim: int | None = 128
    attention_bias: bool = False


def stack(config: Qwen3Config, role: Role) -> spec.StackSpec:
    """Qwen3's stack."""
    qk_norm = spec.QKNorm(norm=spec.RMSNorm(eps=config.rms_norm_eps))
    heads = llama.grouped_heads(config, bias=config.attention_bias, qk_norm=qk_norm)
    layers = llama.rotary_layers(config, heads, window(config))
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config))


FAMILY = llama.family(Qwen3Config, "Qwen3", stack, known=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-Embedding-0.6B"))
