"""BigBird (Zaheer et al. 2020, arXiv:2007.14062), computed with full attention.

Its cross-attention is grafted: in transformers' class the self-attention of a decoder reads the source in its place.
"""

from dataclasses import replace

from conjoin import spec
from conjoin.errors import warn
from conjoin.families import bert
from conjoin.families.builders import require
from conjoin.families.record import Role, masked_lm


class BigBirdConfig(bert.BertConfig):
    """Fields of a BigBird config.json.

    Args:
        attention_type: "original_full"; "block_sparse" is computed as that, with a warning.
    """

    model_type = "big_bird"
    vocab_size: int = 50358
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 4096
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    sep_token_id: int | None = 66
    attention_type: str = "block_sparse"
    use_bias: bool = True
    rescale_embeddings: bool = False
    block_size: int = 64
    num_random_blocks: int = 3


def _check_attention(config: BigBirdConfig) -> None:
    """Say how far full attention is what the config asks for: transformers, too, reads short texts so."""
    require(config, "attention_type", "original_full", "block_sparse")
    if config.attention_type == "block_sparse":
        reach = (5 + 2 * config.num_random_blocks) * config.block_size
        warn(
            'big_bird: config.json has attention_type = "block_sparse". conjoin reads everything with full '
            f"attention, which is the same up to {reach} tokens ((5 + 2 * num_random_blocks) * block_size); what "
            'longer texts give differs. attention_type = "original_full" says that this is meant.'
        )


def stack(config: BigBirdConfig, role: Role) -> spec.StackSpec:
    """BERT's stack; queries, keys and values may lack biases, and words may be scaled."""
    _check_attention(config)
    plain = bert.stack(config, role)
    scale = config.hidden_size**0.5 if config.rescale_embeddings else 1.0
    return replace(
        plain,
        embedding=replace(plain.embedding, scale=scale),
        blocks=tuple(_biased(block, config.use_bias) for block in plain.blocks),
    )


def _biased(block: spec.Block, bias: bool) -> spec.Block:
    heads = replace(block.self_attn.attention, q_bias=bias, k_bias=bias, v_bias=bias)
    return replace(block, self_attn=replace(block.self_attn, attention=heads), cross_attn=None)


FAMILY = masked_lm(
    BigBirdConfig,
    "BigBird",
    stack,
    bert.body,
    decoder="grafted",
    decoder_architecture="BigBirdForCausalLM",
    head=bert.head,
    prefixes=("bert.",),
    known=("google/bigbird-roberta-base",),
)
