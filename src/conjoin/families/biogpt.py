"""BioGPT (Luo et al. 2022, arXiv:2210.10341): a causal LM of BART's decoder, norms first."""

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bart, bert
from conjoin.families.builders import plain_heads, plain_mlp, prenorm_stack, warn_no_effect, word_embedding
from conjoin.families.names import weights
from conjoin.families.record import Role, causal_lm


class BioGptConfig(bert.BertFields):
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
    max_position_embeddings: int = 1024
    scale_embedding: bool = True
    layerdrop: float = 0.0
    activation_dropout: float = 0.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


def stack(config: BioGptConfig, role: Role) -> spec.StackSpec:
    """BioGPT's stack."""
    warn_no_effect(config, "layerdrop")
    heads = plain_heads(config, bias=True, dropout=config.attention_probs_dropout_prob)
    return prenorm_stack(
        config,
        role,
        [spec.SelfAttention(attention=heads)] * config.num_hidden_layers,
        mlp=plain_mlp(config, dropout=config.activation_dropout),
        norm=bart.NORM,
        blocks={"dropout": config.hidden_dropout_prob},
        embedding=word_embedding(
            config,
            position=spec.Learned(max_positions=config.max_position_embeddings, offset=2),
            scale=config.hidden_size**0.5 if config.scale_embedding else 1.0,
            dropout=config.hidden_dropout_prob,
        ),
    )


def head(stack: spec.StackSpec) -> NameTable:
    """The name of the head's matrix."""
    return NameTable(weights({"output_projection": "head.vocab"}))


FAMILY = causal_lm(
    BioGptConfig,
    "BioGpt",
    stack,
    bart.body,
    head=head,
    prefixes=("biogpt.",),
    known=("microsoft/biogpt",),
)
