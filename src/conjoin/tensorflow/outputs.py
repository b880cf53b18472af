"""What the model's calls return: by attribute, by key, and as a tuple of what is there (transformers' contract).

They are dicts, which is what tf.function, tf.distribute and SavedModel take through.
"""

from collections.abc import Iterable
from typing import Any, ClassVar


class ModelOutput(dict[Any, Any]):
    """A dict whose keys are also its attributes; a field that is None is no key."""

    FIELDS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, items: Iterable[tuple[str, Any]] = (), **fields: Any) -> None:
        super().__init__((name, value) for name, value in (*items, *fields.items()) if value is not None)

    def __getattr__(self, name: str) -> Any:
        if name not in self.FIELDS:
            raise AttributeError(f"{type(self).__name__} has no field {name}. Expected: {', '.join(self.FIELDS)}.")
        return self.get(name)

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """Values that are not None, in the order of the fields."""
        return tuple(self[name] for name in self.FIELDS if name in self)


class EncoderOutput(ModelOutput):
    """What `encode` returns (transformers' TFBaseModelOutput).

    Fields: last_hidden_state [B, S, D]; hidden_states, num_layers + 1 of these; attentions, num_layers [B, H, S, S].
    """

    FIELDS = ("last_hidden_state", "hidden_states", "attentions")


class Seq2SeqLMOutput(ModelOutput):
    """What a call of the model returns (transformers' TFSeq2SeqLMOutput).

    Fields: loss, a scalar in float32, the mean over labels that are not -100; logits [B, T, V]; decoder_attentions and
    cross_attentions, num_layers tensors [B, H, T, T] and [B, H, T, S]; and others.
    """

    FIELDS = (
        "loss",
        "logits",
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "encoder_attentions",
    )


class GenerateOutput(ModelOutput):
    """What `generate` returns where return_dict_in_generate asks for it.

    Fields: sequences [R, t], prompt included, the pad id behind their ends; sequences_scores [R], log-probability /
    length ** length_penalty, of beams only; results_per_source [B], where a source has fewer results than were asked
    for.
    """

    FIELDS = ("sequences", "sequences_scores", "results_per_source")
