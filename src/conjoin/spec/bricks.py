"""The bricks of a transformer stack as dataclasses: no framework, no arrays.

Letters: D hidden, H heads, K kv heads, E head size, F intermediate, V vocab, M encoder width.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "quick_gelu", "tanh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorm:
    """Layer normalisation (Ba et al. 2016, arXiv:1607.06450)."""

    eps: float
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BareLayerNorm:
    """Layer normalisation without weight and bias (OPT's layer_norm_elementwise_affine = false)."""

    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSNorm:
    """Root mean square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467). No mean, no bias.

    Args:
        offset: Added to the stored weight before it scales: 1 in Gemma, whose files hold weight - 1.
        scale_in_float32: Multiply by the weight before casting back to the input's dtype (Gemma), not after (Llama).
    """

    eps: float
    offset: float = 0.0
    scale_in_float32: bool = False


Norm = LayerNorm | BareLayerNorm | RMSNorm
NamedNorm = tuple[str, Norm | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainScaling:
    """Rotary frequencies as published, divided by `factor` ("linear" scaling when it is not 1)."""

    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's scaling: long wavelengths are multiplied by `factor`, short ones kept, those between interpolated."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), with the attention temperature folded into cos and sin.

    Args:
        attention_factor: Factor of cos and sin (1/sqrt(t) in the paper).
        truncate: Round the two correction bounds to whole dimensions.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    attention_factor: float
    truncate: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope:
    """LongRoPE (Ding et al. 2024, arXiv:2402.13753): every frequency is divided by a factor of its own.

    Args:
        factors: One per pair of turning dimensions.
        attention_factor: Factor of cos and sin.
        max_positions: Length of the longest sequence that these factors are for; None for any.
    """

    factors: tuple[float, ...]
    attention_factor: float
    max_positions: int | None = None


RotaryScaling = PlainScaling | Llama3Scaling | YarnScaling | LongRope


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), halves layout.

    Args:
        base: Wavelength base, usually 10000.
        rotary_size: Number of leading dimensions of every head that are rotated; even, at most E.
    """

    base: float
    rotary_size: int
    scaling: RotaryScaling = PlainScaling()

    @property
    def attention_factor(self) -> float:
        """Factor of cos and sin."""
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling | LongRope) else 1.0

    @property
    def max_positions(self) -> int | None:
        """Length of the longest sequence; None for any."""
        return self.scaling.max_positions if isinstance(self.scaling, LongRope) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeBias:
    """Learned bias per head and bucketed distance (Raffel et al. 2020, arXiv:1910.10683, 2.1).

    Args:
        bidirectional: Half of the buckets are for keys after the query; otherwise all such keys share bucket 0.
        per_block: Every block has a table of its own (UMT5); otherwise one serves the stack.
    """

    num_buckets: int
    max_distance: int
    bidirectional: bool
    per_block: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Alibi:
    """A bias of -slope * distance with a slope per head, without parameters (Press et al. 2021, arXiv:2108.12409).

    Args:
        scale: Factor of the bias; Falcon scales it as it scales products.
        rounded: Slopes, positions and their products are rounded to bfloat16, as when Falcon was trained: the bias
            depends on where a key stands. Of causal stacks only.
    """

    scale: float = 1.0
    rounded: bool = False

    def slopes(self, heads: int) -> tuple[float, ...]:
        """Return the slope of every head: a geometric series, and from its middles what a power of two lacks."""
        whole = 1 << (heads.bit_length() - 1)
        first = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
        between = [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(heads - whole)]
        return tuple(first + between)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeTable:
    """A learned vector per distance, one table per stack, with which `Disentangled` attention compares contents.

    Distances q - k of at most span / 2 have rows of their own. Larger ones share rows on a logarithmic scale that ends
    at `max_distance` (He et al. 2021, arXiv:2111.09543), and all that are beyond the table use its ends.

    Args:
        span: Half the number of rows: row span is that of distance 0.
        max_distance: None: no distances share rows, but for those beyond the table. Otherwise span is even, at least 4.
        norm: Applied to every row.
    """

    span: int
    max_distance: int | None = None
    norm: LayerNorm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disentangled:
    """Scores of contents against distances, beside those of contents (He et al. 2020, arXiv:2006.03654, 3.1).

    The score of query i and key j becomes (q_i . k_j + q_i . K[i - j] + k_j . Q[i - j]) * scale, where K and Q are
    projections of the stack's `RelativeTable`.

    Args:
        distance_keys: There is the term with K ("content to position").
        distance_queries: There is the term with Q ("position to content").
        shared: The block's own projections to keys and queries make K and Q; else they have projections of their own.
        key_bias: K's own projection has a bias, as Q's always has. It moves all scores of a query by as much.
        dropout: Dropout rate of the table's vectors.
    """

    distance_keys: bool
    distance_queries: bool
    shared: bool
    key_bias: bool = True
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QKNorm:
    """Normalise queries and keys before they are rotated.

    Args:
        over: "head" normalises every head on its own (Qwen3, Gemma 3), "each_head" too, by weights of its own (Cohere;
            a LayerNorm), "projection" all heads of a token at once (OLMo 2).
    """

    norm: RMSNorm | LayerNorm
    over: Literal["head", "each_head", "projection"] = "head"

    def __post_init__(self) -> None:
        assert self.over != "each_head" or isinstance(self.norm, LayerNorm)

    def size(self, heads: int, head_size: int) -> int:
        """Return the number of weights."""
        return head_size if self.over == "head" else heads * head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Multi-head attention with grouped keys and values (Ainslie et al. 2023, arXiv:2305.13245; K = H is the classic).

    Args:
        scale: Factor of the scores; usually E ** -0.5, 1 in T5.
        q_bias, k_bias, v_bias: True if the projection has a bias; some models have biases on some projections only.
        softcap: Scores become softcap * tanh(scores / softcap) (Gemma 2).
        dropout: Dropout rate of attention probabilities.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    q_bias: bool
    k_bias: bool
    v_bias: bool
    o_bias: bool
    qk_norm: QKNorm | None = None
    softcap: float | None = None
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedSource:
    """The encoder's output, read by self-attention in one softmax with the target (T5Gemma 2, arXiv:2512.14856).

    Keys and values are projected by self-attention's own weights. They have no positions, and windows do not apply.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixSource:
    """A hidden state of the encoder, read by self-attention as if the source stood before the target.

    Keys and values are what the block itself would make of this state: after its first norm, by its own weights, at the
    source's positions. Target positions continue behind the source, and windows and biases count from there.

    Args:
        state: Which of the encoder's `StackSpec.states` is read.
    """

    state: int


class Sides(NamedTuple):
    """How far a window reaches: a query q reads keys k with q - k < before and k - q < ahead."""

    before: int
    ahead: int

    @property
    def least(self) -> int:
        """A sequence of so many tokens is read whole."""
        return min(self)

    def hold(self, away: Any) -> Any:
        """Return where keys are in the window, for an array of distances q - k of any framework."""
        return (away < self.before) & (away > -self.ahead)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAttention:
    """Self-attention of a block.

    Args:
        rotary: Rotary positions of this block, or None.
        window: A query reads keys k with |q - k| < window; None reads all keys.
        window_ahead: The window's other side, where it differs: later keys are read where k - q < window_ahead.
        source: What it reads of the source besides the target; None in encoders and beside cross-attention.
        disentangled: How it reads the stack's `RelativeTable`, where the stack has one.
    """

    attention: Attention
    rotary: Rotary | None = None
    window: int | None = None
    window_ahead: int | None = None
    disentangled: Disentangled | None = None
    source: MergedSource | PrefixSource | None = None

    @property
    def sides(self) -> Sides | None:
        """Both sides of the window; None reads all keys."""
        if self.window is None:
            return None
        return Sides(self.window, self.window if self.window_ahead is None else self.window_ahead)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttention:
    """Attention of a decoder block to the encoder's output.

    Args:
        source_size: Width M of the states from which keys and values are projected.
        gated: Multiply the branch's output by a learned scalar that starts at 0 (`cross_attention_init="zero_gate"`).
            The gate follows the norm `Branch.out`, which would undo any scale before it.
    """

    attention: Attention
    source_size: int
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainMLP:
    """down(activation(up(x)))."""

    intermediate_size: int
    activation: Activation
    up_bias: bool = True
    down_bias: bool = True
    activation_dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    intermediate_size: int
    activation: Activation
    up_bias: bool = False
    down_bias: bool = False
    activation_dropout: float = 0.0


MLP = PlainMLP | GatedMLP


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Norms around a branch f of a block: y = out(f(pre(x))), then x = post(x + scale * dropout(gate * y)).

    Args:
        pre: Applied to the branch's input (GPT-2, Llama); None applies no norm here.
        out: Applied to the branch's output, before it is added (OLMo 2; together with `pre`, Gemma 2).
        post: Applied to the sum (Vaswani et al. 2017, BERT).
    """

    pre: Norm | None = None
    out: Norm | None = None
    post: Norm | None = None

    def named(self, branch: str) -> tuple[NamedNorm, NamedNorm, NamedNorm]:
        """Return `pre`, `out` and `post`, each with its canonical name in the branch called `branch`."""
        post = f"{branch}_norm" if self.pre is None else f"{branch}_sum_norm"
        return (f"{branch}_norm", self.pre), (f"{branch}_post_norm", self.out), (post, self.post)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One transformer block.

    Args:
        norms: Norms around every branch.
        self_attn_norms: Norms around self-attention if they differ: the embedding before ModernBERT's first block is
            already normalised.
        parallel: Every branch reads the block's input, not the sum so far (GPT-NeoX).
        shared_norm: The MLP's first norm is self-attention's (GPT-J, Phi); cross-attention has its own in any case.
        causal: A position reads itself and the positions before it only.
        dropout: Dropout rate of every branch's output, before it is added.
        residual_scale: Factor of every branch's output, before it is added (Granite).
        cross_attn: None in encoders and in decoders that stand alone.
        wide_in_float16: With float16 weights, compute the sum of the branches and the MLP's last projection in float32,
            because the values of a model that was trained in bfloat16 overflow float16.
    """

    norms: Branch
    causal: bool
    self_attn: SelfAttention
    mlp: MLP
    cross_attn: CrossAttention | None = None
    self_attn_norms: Branch | None = None
    parallel: bool = False
    shared_norm: bool = False
    dropout: float = 0.0
    residual_scale: float = 1.0
    wide_in_float16: bool = False

    def norms_of(self, branch: str) -> tuple[NamedNorm, NamedNorm, NamedNorm]:
        """Return the norms of a branch (`pre`, `out`, `post`), each with its canonical name."""
        replaced = self.self_attn_norms if branch == "self_attn" else None
        pre, out, post = (replaced or self.norms).named(branch)
        if branch == "mlp" and self.shared_norm:
            pre = self.norms_of("self_attn")[0]
        return pre, out, post
