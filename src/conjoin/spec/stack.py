"""The spec of one transformer stack, and of a joined pair of stacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from conjoin.errors import ConfigError, ShapeError
from conjoin.spec.bricks import (
    Activation,
    Alibi,
    Attention,
    Block,
    CrossAttention,
    MergedSource,
    Norm,
    PrefixSource,
    RelativeBias,
    RelativeTable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A learned vector per position.

    Args:
        max_positions: Length of the longest sequence.
        offset: Rows of the table before position 0 (2 in BART and OPT).
    """

    max_positions: int
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedPads:
    """Positions are counted over the tokens that are not padding.

    Args:
        padding_position: Table row of every padding token; the first real token has the next row.
        pads: What marks padding: ids equal to `padding_id`, or the attention mask.
    """

    padding_position: int
    pads: Literal["ids", "mask"]
    padding_id: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedSkippingPads(SkippedPads):
    """A learned vector per position, counted over the tokens that are not padding (RoBERTa, OPT)."""

    max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinusoidal:
    """Fixed sines and cosines (Vaswani et al. 2017, arXiv:1706.03762, 3.5) of angles row * frequency.

    A checkpoint's own table is used; one that it lacks is computed.

    Args:
        max_positions: Length of the longest sequence, which is the one that the model was made for. No file limits a
            computed table: a config that says more has more.
        layout: Sine and cosine of a frequency stand side by side ("pairs", as published and in DistilBERT), or all
            sines stand before all cosines ("halves": Marian, Pegasus, M2M100, XGLM).
        style: "vaswani": frequency i of width D is 10000^(-2i / D); "tensor2tensor": 10000^(-i / (D / 2 - 1)), so that
            the last one is 1 / 10000 (M2M100, XGLM).
        counts: Rows of the table before position 0, where every token is counted; or how padding is not (M2M100).
        zero_row: Row of zeros, that of the padding id.
    """

    max_positions: int
    layout: Literal["pairs", "halves"] = "pairs"
    style: Literal["vaswani", "tensor2tensor"] = "vaswani"
    counts: int | SkippedPads = 0
    zero_row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPosition:
    """No position embedding: attention uses positions (rotary, relative bias), or nothing does."""


Position = Learned | LearnedSkippingPads | Sinusoidal | NoPosition


def skipped_pads(position: Position) -> SkippedPads | None:
    """Return how positions are counted that skip padding; None if every token counts."""
    match position:
        case Sinusoidal(counts=SkippedPads() as skipped) | (LearnedSkippingPads() as skipped):
            return skipped
        case _:
            return None


def skips_padding_ids(position: Position) -> bool:
    """True if positions are counted over ids that are not padding; a user's position ids are then rows of the table."""
    skipped = skipped_pads(position)
    return skipped is not None and skipped.pads == "ids"


def padding_of_table(position: Position) -> int:
    """Return the id of padding on which the rows of the position table depend; -1 if they do on none."""
    if isinstance(position, Sinusoidal) and position.zero_row is not None:
        return position.zero_row
    skipped = skipped_pads(position)
    return -1 if skipped is None else skipped.padding_id


def first_row(position: Position) -> int:
    """Return the row of the position table that a user's position 0 means; RoBERTa's users count as its table does."""
    match position:
        case Learned(offset=offset) | Sinusoidal(counts=int() as offset):
            return offset
        case _:
            skipped = skipped_pads(position)
            return skipped.padding_position + 1 if skipped is not None and skipped.pads == "mask" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A linear map of the embedding to the stack's width.

    Args:
        when: "words": before positions are added (OPT); "sum": after norm and dropout (ELECTRA, ALBERT).
    """

    when: Literal["words", "sum"]
    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """The embedding of ids: tokens * scale + positions + token types, then norm, dropout, projection.

    Args:
        size: Width of the token embeddings; differs from hidden_size only if there is a projection.
        round_scale: Round the scale to the weights' dtype before multiplying (Gemma).
        replaced: Id of a token whose embedding is a vector of its own, which is not scaled, instead of its row (the end
            of an image in T5Gemma 2).
        token_types: Rows of the token type table, 0 for none. "words": a type is the id of a token, whose embedding is
            added if types are passed.
        norm_of: The norm is of the sum, or of what stands before positions are added (Blenderbot Small's decoder).
        tasks: Rows of a table of tasks, 0 for none; the first is added to every token (ERNIE).
    """

    vocab_size: int
    size: int
    position: Position = NoPosition()
    padding_id: int | None = None
    scale: float = 1.0
    round_scale: bool = False
    replaced: int | None = None
    token_types: int | Literal["words"] = 0
    tasks: int = 0
    norm: Norm | None = None
    norm_of: Literal["sum", "words"] = "sum"
    projection: Projection | None = None
    dropout: float = 0.0

    @property
    def type_rows(self) -> int:
        """Rows of the token type table; 0 if there is none."""
        return 0 if self.token_types == "words" else self.token_types

    def require_types(self) -> None:
        """Raise ShapeError if token types have no meaning here."""
        if not self.token_types:
            raise ShapeError("token_type_ids: this half has no token types.", hint="leave them out.")

    @property
    def position_rows(self) -> int:
        """Rows of the position table; 0 if there is none."""
        if isinstance(self.position, NoPosition):
            return 0
        skipped = skipped_pads(self.position)
        before = self.first_row if skipped is None else skipped.padding_position + 1
        return self.position.max_positions + before

    @property
    def first_row(self) -> int:
        """Row of the position table that a user's position 0 means; see `first_row`."""
        return first_row(self.position)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTransform:
    """norm(activation(dense(x))) before the vocabulary matrix (BERT's masked language model head)."""

    size: int
    activation: Activation
    norm: Norm
    bias: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalInit:
    """New matrices and embeddings are drawn from N(0, std^2)."""

    std: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class FanInInit:
    """New matrices: N(0, factor^2 / fan_in), token embeddings: N(0, factor^2) (T5; queries are divided by sqrt(E))."""

    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The LM head: hidden states to logits over the vocabulary.

    Args:
        size: Input width of the vocabulary matrix.
        tied: The vocabulary matrix is the token embedding.
        bias: "fixed" is a bias that is stored but never trained (BART's final_logits_bias).
        scale: The head's input is multiplied by this (T5 with tied embeddings: hidden_size ** -0.5).
        softcap: Logits become softcap * tanh(logits / softcap).
        projection: Linear layer without bias from hidden_size to size (OPT's project_out).
    """

    vocab_size: int
    size: int
    tied: bool
    bias: Literal["trained", "fixed"] | None = None
    transform: HeadTransform | None = None
    scale: float = 1.0
    softcap: float | None = None
    projection: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """One transformer stack.

    Args:
        family: model_type of the checkpoint that it comes from; used for messages and names, never for maths.
        blocks: One entry per layer.
        weights_of: `weights_of[i]` is the block whose weights layer i uses; the identity except in ALBERT.
        final_norm: Norm after the last block.
        relative_bias: Added to the scores of every self-attention, by the distance of key and query.
        relative_table: DeBERTa's table, which every self-attention reads as its `disentangled` says.
        head: None for an encoder.
        states: Of an encoder whose output is several hidden states side by side: their indices, 0 for the embedding and
            i for the output of block i - 1. Empty where the output is the last state, after the final norm.

    Raises:
        ConfigError: there are no blocks.
    """

    family: str
    hidden_size: int
    embedding: Embedding
    blocks: tuple[Block, ...]
    weights_of: tuple[int, ...] = ()
    relative_bias: RelativeBias | Alibi | None = None
    relative_table: RelativeTable | None = None
    final_norm: Norm | None = None
    final_dropout: float = 0.0
    head: Head | None = None
    init: NormalInit | FanInInit = NormalInit()
    states: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError(f"{self.family}: the config has no layers; a stack needs at least one.")
        if not self.weights_of:
            object.__setattr__(self, "weights_of", tuple(range(len(self.blocks))))
        assert len(self.weights_of) == len(self.blocks)

    @property
    def num_layers(self) -> int:
        """Number of layers; several may share the weights of one block."""
        return len(self.blocks)

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.embedding.vocab_size

    @property
    def max_positions(self) -> int | None:
        """Length of the longest sequence; None without a position table, and without rotation that ends."""
        if not isinstance(self.embedding.position, NoPosition):
            return self.embedding.position.max_positions
        rotations = (block.self_attn.rotary for block in self.blocks)
        return min((n for each in rotations if each and (n := each.max_positions) is not None), default=None)

    @property
    def output_size(self) -> int:
        """Width of the output: several hidden states side by side if `states` says so."""
        return self.hidden_size * max(1, len(self.states))

    @property
    def has_cross_attention(self) -> bool:
        """True if every block has cross-attention."""
        return bool(self.blocks) and all(block.cross_attn is not None for block in self.blocks)

    @property
    def merges_source(self) -> bool:
        """True if self-attention reads the source, too."""
        return self.blocks[0].self_attn.source is not None

    @property
    def continues_source(self) -> bool:
        """True if positions of the target continue those of the source."""
        return isinstance(self.blocks[0].self_attn.source, PrefixSource)

    @property
    def reads_wide_states(self) -> bool:
        """True if it reads inner states of the encoder, which may overflow float16."""
        return self.continues_source and self.blocks[0].wide_in_float16

    @property
    def reads_source(self) -> bool:
        """True if every block reads an encoder's output."""
        return self.has_cross_attention or self.merges_source

    @property
    def source_size(self) -> int:
        """Width of the states that it reads: the encoder's output, or what a projection makes of it."""
        cross = self.blocks[0].cross_attn
        return self.hidden_size if cross is None else cross.source_size

    @property
    def source_attention(self) -> tuple[Attention, ...]:
        """The attention with which each layer reads the source; empty if none does."""
        if self.merges_source:
            return tuple(block.self_attn.attention for block in self.blocks)
        return tuple(block.cross_attn.attention for block in self.blocks if block.cross_attn is not None)

    def require_length(self, used: int) -> None:
        """Raise ShapeError if a sequence of so many positions is longer than the longest."""
        limit = self.max_positions
        if limit is None or used <= limit:
            return
        hint = (
            f"shorten the input: tokenizer(..., truncation=True, max_length={limit}); on the command line, "
            "--max-source-length or --max-target-length."
        )
        what = "position table"
        if not self.embedding.position_rows:
            what = "rotation"
            hint += " Or load the model with longrope_length=..., the length of its longest sequence."
        raise ShapeError(f"{self.family}: {used} positions, but this checkpoint's {what} has {limit}.", hint=hint)

    def with_vocab_size(self, vocab_size: int) -> Self:
        """Return the stack with another vocabulary size, head included."""
        head = replace(self.head, vocab_size=vocab_size) if self.head else None
        return replace(self, embedding=replace(self.embedding, vocab_size=vocab_size), head=head)

    def with_cross_attention(self, cross: CrossAttention | tuple[CrossAttention | None, ...] | None) -> Self:
        """Return the stack with this cross-attention in every block (one for all, or one per block)."""
        per_block = cross if isinstance(cross, tuple) else (cross,) * len(self.blocks)
        blocks = tuple(replace(block, cross_attn=c) for block, c in zip(self.blocks, per_block, strict=True))
        return replace(self, blocks=blocks)

    def with_source(self, sources: Sequence[MergedSource | PrefixSource]) -> Self:
        """Return the stack whose self-attention reads these sources, one per block, and without cross-attention."""
        blocks = tuple(
            replace(block, cross_attn=None, self_attn=replace(block.self_attn, source=source))
            for block, source in zip(self.blocks, sources, strict=True)
        )
        return replace(self, blocks=blocks)

    def with_states(self, states: tuple[int, ...]) -> Self:
        """Return an encoder whose output is these hidden states side by side, without the layers behind the last."""
        count = max(1, *states)
        return replace(
            self, blocks=self.blocks[:count], weights_of=self.weights_of[:count], final_norm=None, states=states
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSpec:
    """An encoder and a decoder that reads its output.

    Args:
        projection: Linear layer with bias from the encoder's output to the width that the decoder reads
            (`enc_to_dec_proj` in Hugging Face's files).
        share: "embeddings" ties the two token embeddings, "all" also every other parameter that both stacks have
            (Rothe et al. 2020, arXiv:1907.12461, BERTSHARE).
    """

    encoder: StackSpec
    decoder: StackSpec
    projection: bool = False
    share: Literal["none", "embeddings", "all"] = "none"

    def longest_source(self, target: int) -> int | None:
        """Return the length of the longest source, in tokens; None without a position table.

        Args:
            target: Positions to leave for a target that continues its source; half of the table at most.
        """
        limit = self.encoder.max_positions
        return limit - min(target, limit // 2) if limit is not None and self.decoder.continues_source else limit
