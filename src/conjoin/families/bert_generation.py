"""BertGeneration (Rothe et al. 2020, arXiv:1907.12461): BERT without token types, for pairs of two BERTs."""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert
from conjoin.families.names import twin_biased_head
from conjoin.families.record import Role, masked_lm


class BertGenerationConfig(bert.BertConfig):
    """Fields of a BertGeneration config.json.

    Args:
        type_vocab_size: BERT's; BertGeneration has no token types.
    """

    model_type = "bert-generation"
    vocab_size: int = 50358
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1


def stack(config: BertGenerationConfig, role: Role) -> spec.StackSpec:
    """BERT's stack without token types, whose head is a matrix and a bias."""
    plain = bert.stack(config, role)
    head = plain.head and replace(plain.head, transform=None)
    return replace(plain, embedding=replace(plain.embedding, token_types=0), head=head)


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the head."""
    return twin_biased_head(stack, "lm_head")


FAMILY = masked_lm(
    BertGenerationConfig,
    "BertGeneration",
    stack,
    bert.body,
    decoder="own",
    encoder_architecture="BertGenerationEncoder",
    decoder_architecture="BertGenerationDecoder",
    head=head,
    prefixes=("bert.",),
    known=("google/bert_for_seq_generation_L-24_bbc_encoder",),
)
