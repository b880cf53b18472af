"""BioGPT (Luo et al. 2022, arXiv:2210.10341): a causal LM of BART's decoder, norms first."""

from conjoin import spec
from conjoin.checkpoint import NameTable, Rule
from conjoin.families import bart
from conjoin.families.builders import (
    activation,
    attention,
    head_size,
    lm_head,
    repeat,
    stack_spec,
    warn_no_effect,
    word_embedding,
)
from conjoin.families.config import PretrainedConfig
from conjoin.families.record import HEAD, Role, causal_lm


class BioGptConfig(PretrainedConfig):
    """Fields of a BioGPT config.json. Layer drop is read, warned of and not applied.

    Args:
        layer_norm_eps: Of no effect in transformers, which normalises with 1e-5.
    """

    model_type = "biogpt"
    vocab_size: int = 42384
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 1024
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    scale_embedding: bool = True
    layerdrop: float = 0.0
    activation_dropout: float = 0.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


def block(config: BioGptConfig, role: Role) -> spec.Block:
    """One block: norms before its branches, biases everywhere."""
    heads = attention(
        heads=config.num_attention_heads,
        size=head_size(config),
        bias=True,
        dropout=config.attention_probs_dropout_prob,
    )
    return spec.Block(
        norms=spec.Branch(pre=bart.NORM),
        causal=role == "decoder",
        self_attn=spec.SelfAttention(attention=heads),
        mlp=spec.PlainMLP(
            intermediate_size=config.intermediate_size,
            activation=activation(config, "hidden_act"),
            activation_dropout=config.activation_dropout,
        ),
        dropout=config.hidden_dropout_prob,
    )


def stack(config: BioGptConfig, role: Role) -> spec.StackSpec:
    """BioGPT's stack."""
    warn_no_effect(config, "layerdrop")
    return stack_spec(
        config,
        role,
        embedding=word_embedding(
            config,
            position=spec.Learned(max_positions=config.max_position_embeddings, offset=2),
            scale=config.hidden_size**0.5 if config.scale_embedding else 1.0,
            dropout=config.hidden_dropout_prob,
        ),
        blocks=repeat(block(config, role), config.num_hidden_layers),
        final_norm=bart.NORM,
        head=lm_head(config),
    )


def head(stack: spec.StackSpec) -> NameTable:
    """The name of the head's matrix."""
    return NameTable((Rule("output_projection.weight", HEAD),))


FAMILY = causal_lm(
    BioGptConfig,
    "BioGpt",
    stack,
    bart.body,
    head=head,
    prefixes=("biogpt.",),
    known=("microsoft/biogpt",),
)
