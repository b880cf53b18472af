"""Phi-1, 1.5 and 2 (Li et al. 2023, arXiv:2309.05463): attention and MLP side by side behind one norm."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import llama
from conjoin.families.builders import lm_head, plain_mlp, word_embedding
from conjoin.families.names import biased_lm_head, layers, linears
from conjoin.families.record import Role
from conjoin.families.rope import older_words


class PhiConfig(llama.DecoderFields):
    """Fields of a Phi config.json."""

    model_type = "phi"
    vocab_size: int = 51200
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_hidden_layers: int = 24
    resid_pdrop: float = 0.0
    embd_pdrop: float = 0.0
    hidden_act: str = "gelu_new"
    layer_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5
    qk_layernorm: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def stack(config: PhiConfig, role: Role) -> spec.StackSpec:
    """Phi's stack; both ways as an encoder."""
    norm = spec.LayerNorm(eps=config.layer_norm_eps)
    heads = llama.grouped_heads(config, bias=True, qk_norm=spec.QKNorm(norm=norm) if config.qk_layernorm else None)
    older = {"partial_rotary_factor": config.partial_rotary_factor, **older_words(config)}
    return llama.decoder_stack(
        config,
        role,
        llama.rotary_layers(config, heads, older=older),
        mlp=plain_mlp(config),
        norm=norm,
        blocks={"parallel": True, "shared_norm": True, "dropout": config.resid_pdrop},
        embedding=word_embedding(config, dropout=config.embd_pdrop),
        head=lm_head(config, bias="trained"),
    )


LAYER = {
    "input_layernorm": "self_attn_norm",
    "self_attn.dense": "self_attn.o",
    "self_attn.q_layernorm": "self_attn.q_norm",
    "self_attn.k_layernorm": "self_attn.k_norm",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}


def body(stack: spec.StackSpec) -> NameTable:
    """PhiModel's names: Llama's but for these."""
    own = (*linears({"final_layernorm": "final_norm"}), *layers("layers.{i}", LAYER))
    return NameTable(own) + llama.body(stack, norms={}, mlp={})


FAMILY = replace(
    llama.family(PhiConfig, "Phi", stack, body, known=("microsoft/phi-1_5", "microsoft/phi-2")), head=biased_lm_head
)
