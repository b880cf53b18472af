"""What the model's calls return: by attribute, by key, and as a tuple of what is there (transformers' contract).

They are pytrees, so a jitted function of the user's may take and return them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import jax

from conjoin.functional.cache import Cache

Arrays = tuple[jax.Array, ...]


class ModelOutput:
    """A dataclass whose fields that are not None are also its keys and, in order, its items."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are not None."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(f"{key}; this output has {', '.join(self.keys())}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def get(self, key: str, default: Any = None) -> Any:
        """The field, `default` where it is None or no field."""
        return getattr(self, key) if key in self.keys() else default

    def values(self) -> tuple[Any, ...]:
        """Values that are not None, in the order of the fields."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and values of the fields that are not None."""
        return tuple(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """Values that are not None, in the order of the fields."""
        return self.values()

    def replace(self, **changes: Any) -> Self:
        """The same output with some fields changed."""
        return cast(Any, replace)(self, **changes)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class EncoderOutput(ModelOutput):
    """What `encode` returns (transformers' FlaxBaseModelOutput).

    Args:
        last_hidden_state: [B, S, D].
        hidden_states: num_layers + 1 arrays [B, S, D].
        attentions: num_layers arrays [B, H, S, S].
    """

    last_hidden_state: jax.Array | None = None
    hidden_states: Arrays | None = None
    attentions: Arrays | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DecoderOutput(ModelOutput):
    """What `decode` returns (transformers' FlaxCausalLMOutputWithCrossAttentions)."""

    logits: jax.Array | None = None
    past_key_values: Cache | None = None
    hidden_states: Arrays | None = None
    attentions: Arrays | None = None
    cross_attentions: Arrays | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Seq2SeqLMOutput(ModelOutput):
    """What a call of the model returns (transformers' FlaxSeq2SeqLMOutput, and the loss).

    Args:
        loss: Scalar, float32; mean over labels that are not -100.
        logits: [B, T, V].
        decoder_attentions, cross_attentions: num_layers arrays [B, H, T, T] and [B, H, T, S].
    """

    loss: jax.Array | None = None
    logits: jax.Array | None = None
    past_key_values: Cache | None = None
    decoder_hidden_states: Arrays | None = None
    decoder_attentions: Arrays | None = None
    cross_attentions: Arrays | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: Arrays | None = None
    encoder_attentions: Arrays | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class GenerateOutput(ModelOutput):
    """What `generate` returns (transformers' FlaxGreedySearchOutput and its kin).

    Args:
        sequences: [R, t], prompt included; the pad id behind the end.
        scores: [R], log-probability / length ** length_penalty; beams only.
        results_per_source: [B], where a source has fewer results than were asked for; else missing.
    """

    sequences: jax.Array | None = None
    scores: jax.Array | None = None
    results_per_source: jax.Array | None = None
