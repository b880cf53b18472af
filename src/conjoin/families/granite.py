"""Granite 3 (IBM 2024): Llama whose embedding, scores, branches and logits are each scaled by a factor."""

from conjoin import spec
from conjoin.families import llama
from conjoin.families.builders import lm_head, word_embedding
from conjoin.families.record import Role


class GraniteConfig(llama.LlamaFields):
    """Fields of a Granite config.json.

    Args:
        embedding_multiplier: Factor of the token embeddings.
        attention_multiplier: Factor of the scores, in place of the root of the heads' size.
        residual_multiplier: Factor of what every branch gives, before it is added.
        logits_scaling: What logits are divided by.
    """

    model_type = "granite"
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


def stack(config: GraniteConfig, role: Role) -> spec.StackSpec:
    """Granite's stack."""
    heads = llama.grouped_heads(config, bias=config.attention_bias, scale=config.attention_multiplier)
    return llama.decoder_stack(
        config,
        role,
        llama.rotary_layers(config, heads),
        mlp=llama.gated_mlp(config, bias=config.mlp_bias),
        blocks={"residual_scale": config.residual_multiplier},
        embedding=word_embedding(config, scale=config.embedding_multiplier),
        head=lm_head(config, scale=1 / config.logits_scaling),
    )


FAMILY = llama.family(
    GraniteConfig, "Granite", stack, known=("ibm-granite/granite-3.1-2b-base", "ibm-granite/granite-3.3-2b-instruct")
)
