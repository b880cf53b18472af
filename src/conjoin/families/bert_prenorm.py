"""BERTs that normalise before each branch: Megatron-BERT (Shoeybi et al. 2019, arXiv:1909.08053), XLM-RoBERTa-XL
(Goyal et al. 2021, arXiv:2105.00572) and RoBERTa-PreLayerNorm (Wettig et al. 2022, arXiv:2202.08005).

Megatron-BERT's cross-attention is grafted: that of transformers' class takes sources as long as the target only.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from conjoin import spec
from conjoin.checkpoint import NameTable
from conjoin.families import bert, roberta
from conjoin.families.builders import linears
from conjoin.families.record import Family, Role


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
    norms = {f"{branch}.{attention_norm}": name for branch, name in _ATTENTION_NORMS.items()}
    layer = {theirs: ours for theirs, ours in bert.LAYER.items() if "LayerNorm" not in theirs}
    layers = {
        f"encoder.layer.{{i}}.{theirs}": f"blocks.{{i}}.{ours}"
        for theirs, ours in {**layer, **norms, mlp_norm: "mlp_norm"}.items()
    }
    table = NameTable((*bert.EMBEDDING, *linears({**layers, final_norm: "final_norm"})), bert.BUFFERS)
    return lambda stack: table


_ATTENTION_NORMS: Mapping[str, str] = {"attention": "self_attn_norm", "crossattention": "cross_attn_norm"}


def _family(config: type[bert.BertConfig], name: str, prefix: str, **fields: Any) -> Family:
    return Family(
        config=config,
        encoder="native",
        encoder_architecture=f"{name}Model",
        decoder_architecture=f"{name}ForCausalLM",
        prefixes=(prefix,),
        **fields,
    )


_MEGATRON = {
    "decoder": "grafted",
    "build": megatron_stack,
    "body": _body("ln", "ln", "encoder.ln"),
    "head": bert.head,
    "known": ("UFNLP/gatortron-base",),
}
_XL = {
    "decoder": "own",
    "build": xl_stack,
    "body": _body("self_attn_layer_norm", "LayerNorm", "encoder.LayerNorm"),
    "head": roberta.head,
    "known": ("facebook/xlm-roberta-xl",),
}
_PRE = {
    "decoder": "own",
    "build": prelayernorm_stack,
    "body": _body("LayerNorm", "intermediate.LayerNorm", "LayerNorm"),
    "head": roberta.head,
    "known": ("andreasmadsen/efficient_mlm_m0.40",),
}
FAMILIES = (
    _family(MegatronBertConfig, "MegatronBert", "bert.", **_MEGATRON),
    _family(XLMRobertaXLConfig, "XLMRobertaXL", "roberta.", **_XL),
    _family(RobertaPreLayerNormConfig, "RobertaPreLayerNorm", "roberta_prelayernorm.", **_PRE),
)
