"""GLM-4 (Zeng et al. 2024, arXiv:2406.12793): Llama, half of every head turning; its 2025 generation has more norms."""

from functools import partial

from conjoin import spec
from conjoin.checkpoint import Fused, NameTable, Rule
from conjoin.families import llama
from conjoin.families.names import paired_projections
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class GlmConfig(llama.LlamaFields):
    """Fields of a GLM config.json of the checkpoints before April 2025."""

    model_type = "glm"
    vocab_size: int = 151552
    intermediate_size: int = 13696
    num_hidden_layers: int = 40
    num_key_value_heads: int | None = 2
    head_dim: int | None = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1.5625e-07
    partial_rotary_factor: float = 0.5
    attention_bias: bool = True
    pad_token_id: int | None = 151329


class Glm4Config(GlmConfig):
    """Fields of a GLM-4-0414 config.json."""

    model_type = "glm4"


def _stack(config: GlmConfig, role: Role, norms: spec.Branch) -> spec.StackSpec:
    heads = llama.grouped_heads(config, bias=config.attention_bias, o_bias=False)
    older = {"partial_rotary_factor": config.partial_rotary_factor, **older_words(config)}
    layers = llama.rotary_layers(config, heads, older=older)
    return llama.decoder_stack(config, role, layers, mlp=llama.gated_mlp(config), norms=norms)


def stack(config: GlmConfig, role: Role) -> spec.StackSpec:
    """GLM's stack; both ways as an encoder."""
    return _stack(config, role, spec.Branch(pre=spec.RMSNorm(eps=config.rms_norm_eps)))


def stack4(config: Glm4Config, role: Role) -> spec.StackSpec:
    """The stack of GLM-4-0414, with norms on both sides of every branch."""
    norm = spec.RMSNorm(eps=config.rms_norm_eps)
    return _stack(config, role, spec.Branch(pre=norm, out=norm))


NORMS4 = {
    **llama.NORMS,
    "post_self_attn_layernorm": "self_attn_post_norm",
    "post_mlp_layernorm": "mlp_post_norm",
}


def body(stack: spec.StackSpec, norms: dict[str, str] = llama.NORMS) -> NameTable:
    """GlmModel's names: Llama's, with gate and up in one matrix and rotated dimensions in pairs."""
    mlp = Rule(
        "layers.{i}.mlp.gate_up_proj.weight", ("blocks.{i}.mlp.gate.weight", "blocks.{i}.mlp.up.weight"), Fused()
    )
    own = (*paired_projections(stack, "layers.{i}.self_attn"), mlp)
    return NameTable(own) + llama.body(stack, norms, mlp={"mlp.down_proj": "mlp.down"})


FAMILIES = (
    llama.family(GlmConfig, "Glm", stack, body, known=("zai-org/glm-4-9b-chat-hf", "zai-org/glm-edge-1.5b-chat")),
    llama.family(Glm4Config, "Glm4", stack4, partial(body, norms=NORMS4), known=("zai-org/GLM-4-9B-0414",)),
)
