"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), XLM-RoBERTa (arXiv:1911.02116) and CamemBERT (arXiv:1911.03894).

BERT's stack, with positions that start behind the padding's row, and a head whose activation is always GELU.
"""

from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.errors import ConfigError
from conjoin.families import bert
from conjoin.families.names import twin_biased_head
from conjoin.families.record import Family, Role, masked_lm


class RobertaConfig(bert.BertConfig):
    """Fields of a RoBERTa config.json.

    Args:
        max_position_embeddings: Rows of the position table: pad_token_id + 1 more than a text can have tokens.
    """

    model_type = "roberta"
    vocab_size: int = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2


class XLMRobertaConfig(RobertaConfig):
    """Fields of an XLM-RoBERTa config.json."""

    model_type = "xlm-roberta"
    vocab_size: int = 30522


class CamembertConfig(RobertaConfig):
    """Fields of a CamemBERT config.json."""

    model_type = "camembert"
    vocab_size: int = 30522


def stack(config: RobertaConfig, role: Role) -> spec.StackSpec:
    """RoBERTa's stack.

    Raises:
        ConfigError: no pad_token_id, from which positions are counted.
    """
    pad = config.pad_token_id
    if pad is None:
        raise ConfigError(
            f"{config.model_type}: pad_token_id is not set, but positions are counted from it.",
            hint='add "pad_token_id": 1 (or what tokenizer.pad_token_id says) to config.json.',
        )
    position = spec.LearnedSkippingPads(
        max_positions=config.max_position_embeddings - pad - 1, padding_position=pad, pads="ids", padding_id=pad
    )
    plain = bert.exact_gelu_head(bert.stack(config, role))
    return replace(plain, embedding=replace(plain.embedding, position=position))


def head(stack: spec.StackSpec) -> NameTable:
    """Names of the masked language model's head."""
    return twin_biased_head(stack, "lm_head", dense="dense", norm="layer_norm")


def _family(config: type[RobertaConfig], name: str, *known: str) -> Family:
    return masked_lm(config, name, stack, bert.body, decoder="own", head=head, prefixes=("roberta.",), known=known)


FAMILIES = (
    _family(
        RobertaConfig,
        "Roberta",
        "FacebookAI/roberta-base",
        "distilbert/distilroberta-base",
        "microsoft/codebert-base",
        "microsoft/graphcodebert-base",
        "microsoft/unixcoder-base",
        "vinai/bertweet-base",
        "vinai/phobert-base",
    ),
    _family(
        XLMRobertaConfig,
        "XLMRoberta",
        "FacebookAI/xlm-roberta-base",
        "intfloat/multilingual-e5-base",
        "BAAI/bge-m3",
        "Snowflake/snowflake-arctic-embed-l-v2.0",
    ),
    _family(CamembertConfig, "Camembert", "almanach/camembert-base"),
)
