"""What a stack has to compute and to read, counted from its spec."""

from dataclasses import dataclass

from conjoin.spec.bricks import Attention
from conjoin.spec.parameters import stack_parameters
from conjoin.spec.stack import StackSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StackWork:
    """Sizes that the work of a stack follows from.

    Args:
        weights: Numbers in the matrices that a new position is multiplied by, each read once per pass; a tied head is
            the token embedding.
        products: Multiplications with these matrices per new position: more than `weights` if layers share them.
        source_products: Multiplications per source token, once, for the keys and values that the decoder reads.
        self_kept, cross_kept: Numbers kept per position, and per source token: keys and values of all layers.
        self_scores, cross_scores: Multiplications per query and key, of scores and of weighted values, in all layers.
    """

    weights: int
    products: int
    source_products: int
    self_kept: int
    cross_kept: int
    self_scores: int
    cross_scores: int


def stack_work(spec: StackSpec) -> StackWork:
    """Count the work of a stack."""
    sizes = _matrices(spec)
    own = {name: size for name, size in sizes.items() if not _reads_source(name)}
    used = {name: size * _times_used(name, spec) for name, size in sizes.items()}
    blocks = [spec.blocks[index] for index in spec.weights_of]
    self_attn = [block.self_attn.attention for block in blocks]
    source_attn = spec.source_attention
    merged = sum(size for name, size in used.items() if _makes_self_keys(name)) if spec.merges_source else 0
    return StackWork(
        weights=sum(own.values()),
        products=sum(used[name] for name in own),
        source_products=sum(used.values()) - sum(used[name] for name in own) + merged,
        self_kept=sum(map(_kept, self_attn)),
        cross_kept=sum(map(_kept, source_attn)),
        self_scores=sum(map(_scores, self_attn)),
        cross_scores=sum(map(_scores, source_attn)),
    )


def _matrices(spec: StackSpec) -> dict[str, int]:
    """Return the size of every matrix of a linear layer, the head's too."""
    sizes = {name: p.shape[0] * p.shape[1] for name, p in stack_parameters(spec).items() if p.kind == "linear"}
    if spec.head and spec.head.tied:
        sizes["head.vocab.weight"] = spec.head.vocab_size * spec.head.size
    return sizes


def _times_used(name: str, spec: StackSpec) -> int:
    room, _, rest = name.partition(".")
    return spec.weights_of.count(int(rest.partition(".")[0])) if room == "blocks" else 1


def _reads_source(name: str) -> bool:
    return name.endswith(("cross_attn.k.weight", "cross_attn.v.weight"))


def _makes_self_keys(name: str) -> bool:
    return name.endswith(("self_attn.k.weight", "self_attn.v.weight"))


def _kept(attention: Attention) -> int:
    return 2 * attention.num_kv_heads * attention.head_size


def _scores(attention: Attention) -> int:
    return 2 * attention.num_heads * attention.head_size
