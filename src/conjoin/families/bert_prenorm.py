"""BERTs that normalise before each branch: Megatron-BERT (Shoeybi et al. 2019, arXiv:1909.08053), XLM-RoBERTa-XL
(Goyal et al. 2021, arXiv:2105.00572) and RoBERTa-PreLayerNorm (Wettig et al. 2022, arXiv:2202.08005).

Megatron-BERT's cross-attention is grafted: that of transformers' class takes sources as long as the target only.
"""

from collections.abc import Callable
from dataclasses import replace

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert, roberta
from conjoin.families.names import layers, linears
from conjoin.families.record import Role, masked_lm


class MegatronBertConfig(bert.BertConfig):
    """Fields of a Megatron-BERT config.json."""

    model_type = "megatron-bert"
    vocab_size: int = 29056
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096


class XLMRobertaXLConfig(roberta.RobertaConfig):
    """Fields of an XLM-RoBERTa-XL config.json."""

    model_type = "xlm-roberta-xl"
    vocab_size: int = 250880
    hidden_size: int = 2560
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    intermediate_size: int = 10240
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5


class RobertaPreLayerNormConfig(roberta.RobertaConfig):
    """Fields of a RoBERTa-PreLayerNorm config.json."""

    model_type = "roberta-prelayernorm"


def _prenorm(plain: spec.StackSpec, *, embedding_norm: bool) -> spec.StackSpec:
    """The same stack with its norms before the branches, and one at the end."""
    norm = plain.embedding.norm
    blocks = tuple(replace(block, norms=spec.Branch(pre=norm)) for block in plain.blocks)
    embedding = plain.embedding if embedding_norm else replace(plain.embedding, norm=None)
    return replace(plain, embedding=embedding, blocks=blocks, final_norm=norm)


def megatron_stack(config: MegatronBertConfig, role: Role) -> spec.StackSpec:
    """Megatron-BERT's stack."""
    return _prenorm(bert.stack(config, role), embedding_norm=False).with_cross_attention(None)


def xl_stack(config: XLMRobertaXLConfig, role: Role) -> spec.StackSpec:
    """XLM-RoBERTa-XL's stack."""
    return _prenorm(roberta.stack(config, role), embedding_norm=False)


def prelayernorm_stack(config: RobertaPreLayerNormConfig, role: Role) -> spec.StackSpec:
    """RoBERTa-PreLayerNorm's stack; its embedding is normalised, too."""
    return _prenorm(roberta.stack(config, role), embedding_norm=True)


def _body(attention_norm: str, mlp_norm: str, final_norm: str) -> Callable[[spec.StackSpec], NameTable]:
    """BERT's names with the norms called otherwise."""
    norms = {f"attention.{attention_norm}": "self_attn_norm", f"crossattention.{attention_norm}": "cross_attn_norm"}
    layer = {theirs: ours for theirs, ours in bert.LAYER.items() if "LayerNorm" not in theirs}
    blocks = layers("encoder.layer.{i}", {**layer, **norms, mlp_norm: "mlp_norm"})
    table = NameTable((*bert.EMBEDDING, *blocks, *linears({final_norm: "final_norm"})), bert.BUFFERS)
    return lambda stack: table


FAMILIES = (
    masked_lm(
        MegatronBertConfig,
        "MegatronBert",
        megatron_stack,
        _body("ln", "ln", "encoder.ln"),
        decoder="grafted",
        decoder_architecture="MegatronBertForCausalLM",
        head=bert.head,
        prefixes=("bert.",),
        known=("UFNLP/gatortron-base",),
    ),
    masked_lm(
        XLMRobertaXLConfig,
        "XLMRobertaXL",
        xl_stack,
        _body("self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm"),
        decoder="own",
        head=roberta.head,
        prefixes=("roberta.",),
        known=("facebook/xlm-roberta-xl",),
    ),
    masked_lm(
        RobertaPreLayerNormConfig,
        "RobertaPreLayerNorm",
        prelayernorm_stack,
        _body("LayerNorm", "intermediate.LayerNorm", "LayerNorm"),
        decoder="own",
        head=roberta.head,
        prefixes=("roberta_prelayernorm.",),
        known=("andreasmadsen/efficient_mlm_m0.40",),
    ),
)
