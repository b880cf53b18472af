"""OLMo 2 (arXiv:2501.00656): Llama with norms on what its branches give, and on queries and keys as a whole."""

from functools import partial

from conjoin import spec
from conjoin.families import llama
from conjoin.families.record import Role


class Olmo2Config(llama.LlamaFields):
    """Fields of an OLMo 2 config.json."""

    model_type = "olmo2"
    vocab_size: int = 50304
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    pad_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 50279


def stack_of(config: Olmo2Config, role: Role, self_attn: list[spec.SelfAttention]) -> spec.StackSpec:
    """The stack of an OLMo, of the self-attention of every layer."""
    norm = rms_norm(config)
    return llama.decoder_stack(
        config, role, self_attn, mlp=llama.gated_mlp(config), norm=norm, norms=spec.Branch(out=norm)
    )


def rms_norm(config: Olmo2Config) -> spec.RMSNorm:
    """OLMo's norm."""
    return spec.RMSNorm(eps=config.rms_norm_eps, scale_in_float32=True)


def heads(config: Olmo2Config) -> spec.Attention:
    """OLMo's heads; queries and keys are normalised as a whole."""
    qk_norm = spec.QKNorm(norm=rms_norm(config), over="projection")
    return llama.grouped_heads(config, bias=config.attention_bias, qk_norm=qk_norm)


def stack(config: Olmo2Config, role: Role) -> spec.StackSpec:
    """OLMo 2's stack."""
    return stack_of(config, role, llama.rotary_layers(config, heads(config)))


NORMS = {"post_attention_layernorm": "self_attn_post_norm", "post_feedforward_layernorm": "mlp_post_norm"}
FAMILY = llama.family(Olmo2Config, "Olmo2", stack, partial(llama.body, norms=NORMS), known=("allenai/OLMo-2-0425-1B",))
