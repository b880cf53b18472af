"""StableLM (Bellagente et al. 2024, arXiv:2402.17834): Llama under layer norms, a part of every head turning."""

from conjoin import spec
from conjoin.families import llama
from conjoin.families.builders import require
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class StableLmConfig(llama.DecoderFields):
    """Fields of a StableLM config.json."""

    model_type = "stablelm"
    vocab_size: int = 50304
    hidden_size: int = 2560
    intermediate_size: int = 6912
    num_key_value_heads: int | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    layer_norm_eps: float = 1e-5
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False
    hidden_dropout: float = 0.0
    partial_rotary_factor: float = 0.25
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0


def _require_known(config: StableLmConfig) -> None:
    """Raise ConfigError for StableLM 2 12B's file of a norm per head, and for a dropout of the MLP's output alone."""
    require(config, "qk_layernorm", False)
    require(config, "hidden_dropout", 0, hint="set it to 0 to load the model.")


def stack(config: StableLmConfig, role: Role) -> spec.StackSpec:
    """StableLM's stack."""
    _require_known(config)
    heads = llama.grouped_heads(config, bias=config.use_qkv_bias, o_bias=False)
    older = {"partial_rotary_factor": config.partial_rotary_factor, **older_words(config)}
    layers = llama.rotary_layers(config, heads, older=older)
    norm = spec.LayerNorm(eps=config.layer_norm_eps)
    together = {"parallel": config.use_parallel_residual, "shared_norm": config.use_parallel_residual}
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config), norm=norm, blocks=together)


FAMILY = llama.family(
    StableLmConfig, "StableLm", stack, known=("stabilityai/stablelm-2-1_6b", "stabilityai/stablelm-3b-4e1t")
)
