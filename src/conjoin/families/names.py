"""Tensor names in the forms that many families have: rules for layers, for fused matrices and for heads."""

from collections.abc import Mapping

from conjoin import spec
from conjoin.checkpoint import Fused, HeadFused, Layout, NameTable, PairedRotary, Rule, Same
from conjoin.families.record import HEAD, LM_HEAD

QKV = ("self_attn.q", "self_attn.k", "self_attn.v")
"""Projections that one matrix of a checkpoint often holds."""
_BIAS = "head.bias"
_KINDS = ("weight", "bias")


def weights(pairs: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for tables and matrices without a bias."""
    return tuple(Rule(f"{theirs}.weight", f"{ours}.weight") for theirs, ours in pairs.items())


def linears(pairs: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for the weight and the bias of layers that are named alike on both sides.

    Norms called LayerNorm are read under TensorFlow's words, gamma and beta, too: bert-base-uncased has them so.
    """
    plain = [Rule(f"{theirs}.{kind}", f"{ours}.{kind}") for theirs, ours in pairs.items() for kind in _KINDS]
    older = [
        Rule(f"{theirs}.{old}", f"{ours}.{kind}")
        for theirs, ours in pairs.items()
        if theirs.endswith("LayerNorm")
        for old, kind in (("gamma", "weight"), ("beta", "bias"))
    ]
    return (*plain, *older)


def layers(place: str, pairs: Mapping[str, str]) -> tuple[Rule, ...]:
    """`linears` of every block.

    Args:
        place: What their names begin with, and `{i}` for the block's number.
        pairs: Their names behind that, and ours in a block.
    """
    return linears({f"{place}.{theirs}": f"blocks.{{i}}.{ours}" for theirs, ours in pairs.items()})


def fused(place: str, pairs: Mapping[str, tuple[str, ...]]) -> tuple[Rule, ...]:
    """Rules for linear layers of every block that hold several of ours, one behind the other."""
    return tuple(_in_one(f"{place}.{theirs}", ours, kind, Fused()) for theirs, ours in pairs.items() for kind in _KINDS)


def grouped_qkv(stack: spec.StackSpec, theirs: str) -> tuple[Rule, ...]:
    """Rules for a linear layer of every block with each head of keys, its values, and before them its queries."""
    heads = stack.blocks[0].self_attn.attention
    layout = HeadFused(heads.num_kv_heads, heads.head_size, shared=heads.num_heads // heads.num_kv_heads)
    return tuple(_in_one(theirs, QKV, kind, layout) for kind in _KINDS)


def megatron_layers(
    stack: spec.StackSpec,
    place: str,
    attention: str,
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
) -> tuple[Rule, ...]:
    """Rules for blocks in Megatron's words (GPT-NeoX, BLOOM, Falcon): queries, keys and values are one, head by head.

    Args:
        place: As in `layers`.
        attention: What the attention is called.
        norms: Those of the attention and of the MLP.
    """
    others = {
        norms[0]: "self_attn_norm",
        f"{attention}.dense": "self_attn.o",
        norms[1]: "mlp_norm",
        "mlp.dense_h_to_4h": "mlp.up",
        "mlp.dense_4h_to_h": "mlp.down",
    }
    return (*grouped_qkv(stack, f"{place}.{attention}.query_key_value"), *layers(place, others))


def _in_one(theirs: str, ours: tuple[str, ...], kind: str, layout: Layout) -> Rule:
    return Rule(f"{theirs}.{kind}", tuple(f"blocks.{{i}}.{name}.{kind}" for name in ours), layout)


def rotary_pairs(stack: spec.StackSpec) -> PairedRotary:
    """Return the layout of queries and keys whose rotated dimensions are stored in pairs.

    Layers that turn nothing are read alike: queries and keys in one order have the same products in any.
    """
    turning = next((block.self_attn.rotary for block in stack.blocks if block.self_attn.rotary), None)
    return PairedRotary(stack.blocks[0].self_attn.attention.head_size, turning.rotary_size if turning else 0)


def paired_projections(stack: spec.StackSpec, layer: str) -> tuple[Rule, ...]:
    """Rules for projections called q_proj, k_proj and v_proj whose rotated dimensions are stored in pairs.

    Args:
        layer: Where their names begin.
    """
    layouts: dict[str, Layout] = {"q": rotary_pairs(stack), "k": rotary_pairs(stack), "v": Same()}
    return tuple(
        Rule(f"{layer}.{letter}_proj.{kind}", f"blocks.{{i}}.self_attn.{letter}.{kind}", layout)
        for letter, layout in layouts.items()
        for kind in _KINDS
    )


def biased_lm_head(stack: spec.StackSpec) -> NameTable:
    """Return the usual names of a vocabulary matrix with a bias."""
    return LM_HEAD + NameTable((Rule("lm_head.bias", _BIAS),))


def biased_head(matrix: str, transform: Mapping[str, str]) -> NameTable:
    """Return the names of a vocabulary layer with a bias, and of the transform before it."""
    return NameTable((Rule(f"{matrix}.weight", HEAD), Rule(f"{matrix}.bias", _BIAS), *linears(transform)))


def twin_biased_head(stack: spec.StackSpec, place: str, **transform: str) -> NameTable:
    """Return the names of a head whose bias transformers holds twice.

    The head has one of its own and one in the vocabulary layer, and adds the latter. Where words are tied the two are
    one; else they differ, and files written by transformers 4 have only the first.

    Args:
        place: What its names begin with.
        transform: Names behind that of the transform's `dense` and `norm`.
    """
    own, decoder = f"{place}.bias", f"{place}.decoder.bias"
    biases = (Rule(decoder, _BIAS, copies=(own,)), Rule(own, _BIAS))
    if stack.head is None or stack.head.tied:
        biases = (Rule(own, _BIAS), Rule(decoder, _BIAS))
    inner = {f"{place}.{theirs}": f"head.{ours}" for ours, theirs in transform.items()}
    return NameTable((*biases, Rule(f"{place}.decoder.weight", HEAD), *linears(inner)))
