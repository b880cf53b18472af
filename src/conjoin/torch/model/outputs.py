"""What forward passes return: by attribute, by key, and as a tuple of what is there (transformers' contract)."""

from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

from torch import Tensor
from torch.utils import _pytree as pytree

from conjoin.errors import ShapeError
from conjoin.torch.model.cache import KVCache

Output = TypeVar("Output", bound="ModelOutput")


class ModelOutput(dict[str, Any]):
    """A dataclass whose fields that are not None are also its keys and, in order, its items.

    `output.logits`, `output["logits"]`, `output[1]` and `loss, logits = output.to_tuple()[:2]` all work.
    """

    def __post_init__(self) -> None:
        """Spread a mapping given as the only argument: accelerate rebuilds outputs as `type(output)(mapping)`."""
        names = [f.name for f in fields(self)]  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses
        first = self.__dict__[names[0]]
        if isinstance(first, dict):
            setattr(self, names[0], None)
            for name, value in cast("dict[str, Any]", first).items():
                setattr(self, name, value)

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self.__dict__[key] = value

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if value is not None:
            super().__setitem__(name, value)
        elif name in self:
            super().__delitem__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.__dict__.get(f.name) for f in fields(self))  # pyright: ignore[reportArgumentType]

    def to_tuple(self) -> tuple[Any, ...]:
        """Values that are not None, in the order of the fields."""
        values = (self.__dict__[f.name] for f in fields(self))  # pyright: ignore[reportArgumentType]
        return tuple(value for value in values if value is not None)


def _register(cls: type[Output]) -> type[Output]:
    """Let PyTorch's exporter and transforms look into an output."""

    def flatten(output: Output) -> tuple[list[Any], list[str]]:
        return list(output.values()), list(output)

    def flatten_with_keys(output: Output) -> tuple[list[Any], list[str]]:
        return [(pytree.MappingKey(name), value) for name, value in output.items()], list(output)

    pytree.register_pytree_node(
        cls,
        flatten,
        lambda values, names: cls(**dict(zip(cast(list[str], names), values, strict=True))),
        flatten_with_keys_fn=cast(pytree.FlattenWithKeysFn, flatten_with_keys),
        serialized_type_name=f"{cls.__module__}.{cls.__name__}",
    )
    return cls


@_register
@dataclass(eq=False)
class EncoderOutput(ModelOutput):
    """What an encoder returns (transformers' BaseModelOutput).

    Args:
        last_hidden_state: [B, S, D].
        hidden_states: num_layers + 1 tensors [B, S, D].
        attentions: num_layers tensors [B, H, S, S].
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@_register
@dataclass(eq=False)
class DecoderOutput(ModelOutput):
    """What a decoder returns (transformers' CausalLMOutputWithCrossAttentions, plus last_hidden_state)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None


@_register
@dataclass(eq=False)
class Seq2SeqLMOutput(ModelOutput):
    """What a joined model returns (transformers' class of the same name).

    Args:
        loss: Scalar, float32; mean over labels that are not -100.
        logits: [B, T, V].
        decoder_attentions, cross_attentions: num_layers tensors [B, H, T, T] and [B, H, T, S].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: KVCache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


def as_encoder_output(given: EncoderOutput | tuple[Any, ...] | Any | None) -> EncoderOutput:
    """Accept what transformers accepts as encoder_outputs: an output object, or a tuple of its fields."""
    match given:
        case None:
            return EncoderOutput()
        case EncoderOutput():
            return given
        case Tensor():
            return EncoderOutput(given)
        case tuple() | list():
            return EncoderOutput(*cast("tuple[Any, ...]", given)[:3])
        case _ if hasattr(given, "last_hidden_state"):
            return EncoderOutput(given.last_hidden_state)
        case _:
            pass
    raise ShapeError(f"encoder_outputs is a {type(given).__name__}; expected what model.encoder(...) returns.")
