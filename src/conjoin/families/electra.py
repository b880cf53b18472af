"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): BERT's stack behind an embedding of its own width.

The head is the generator's. Most checkpoints are discriminators, which have no LM head: theirs starts fresh.
"""

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert
from conjoin.families.names import biased_head, linears
from conjoin.families.record import Role, masked_lm


class ElectraConfig(bert.BertConfig):
    """Fields of an ELECTRA config.json.

    Args:
        summary_type, summary_use_proj, summary_activation, summary_last_dropout: Fields of multiple choice
            heads, which conjoin does not have.
    """

    model_type = "electra"
    embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = 0.1


def stack(config: ElectraConfig, role: Role) -> spec.StackSpec:
    """Return ELECTRA's stack; the embedding has no projection if both widths are equal."""
    plain = bert.exact_gelu_head(bert.stack(config, role))
    return bert.factorised(plain, config.embedding_size, projection=config.embedding_size != config.hidden_size)


def body(stack: spec.StackSpec) -> NameTable:
    """Return the names of ElectraModel."""
    return bert.body(stack) + NameTable(linears({"embeddings_project": "embed.projection"}))


def head(stack: spec.StackSpec) -> NameTable:
    """Return the names of the generator's head."""
    transform = {"generator_predictions.dense": "head.dense", "generator_predictions.LayerNorm": "head.norm"}
    return biased_head("generator_lm_head", transform)


FAMILY = masked_lm(
    ElectraConfig,
    "Electra",
    stack,
    body,
    decoder="own",
    head=head,
    prefixes=("electra.",),
    known=("google/electra-base-discriminator",),
)
