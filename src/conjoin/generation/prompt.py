"""A call of generate: its arrays, of any framework, the decoder's prompt, and the checked request."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from conjoin import spec
from conjoin.errors import GenerationError, ShapeError
from conjoin.families import PretrainedConfig
from conjoin.generation.config import GenerationConfig
from conjoin.generation.facts import CallFacts, ModelFacts
from conjoin.generation.request import Request, resolve_settings
from conjoin.generation.streams import Stream
from conjoin.generation.user_settings import Tokens, collect, resolve_tokens
from conjoin.join import special_tokens

ENCODER_KEYWORDS = ("inputs_embeds", "token_type_ids", "position_ids")
_WHILE_TRACED = ("attention_mask", "token_type_ids", "position_ids")
_NOT_WHILE_TRACED = ("inputs_embeds", "encoder_outputs", "decoder_input_ids", "decoder_attention_mask")
_PYTORCH_ONLY = (
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "assistant_model",
    "streamer",
    "tokenizer",
    "synced_gpus",
)


Gather = Callable[[Any, np.ndarray], Any]


def columns_at(x: Any, columns: np.ndarray) -> Any:
    """The columns of an array or tensor that an index [B, n] names."""
    return x[np.arange(len(columns))[:, None], columns]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """Arrays of a call.

    Args:
        ids, mask: Of the sources, [B, S].
        prefix, prefix_mask: Of the targets, [B, P].
        encoded: The encoder's output, in place of ids.
        cache: What an earlier call kept of the prefix; PyTorch.
        keywords: Further inputs of the encoder.
    """

    ids: Any = None
    mask: Any = None
    prefix: Any = None
    prefix_mask: Any = None
    encoded: Any = None
    cache: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def source(self) -> Any:
        """The array that tells the number of sources."""
        if self.encoded is not None:
            return encoder_states(self.encoded)
        return self.keywords.get("inputs_embeds") if self.ids is None else self.ids

    @property
    def batch_size(self) -> int:
        """Number of sources."""
        return self.source.shape[0]

    def longest_source(self, to_numpy: Callable[[Any], np.ndarray]) -> int:
        """Number of tokens of the longest source."""
        return self.source.shape[1] if self.mask is None else int((to_numpy(self.mask) != 0).sum(1).max())

    def cut(
        self, limit: int | None, to_numpy: Callable[[Any], np.ndarray] = np.asarray, gather: Gather = columns_at
    ) -> Self:
        """Sources of the first tokens up to the limit, padding on the left not counted.

        Args:
            gather: Returns the columns of an array that an index [B, limit] names.
        """
        if limit is None or self.encoded is not None or self.source.shape[1] <= limit:
            return self
        columns = None if self.mask is None else _first_tokens(to_numpy(self.mask) != 0, limit)

        def first(x: Any) -> Any:
            return x[:, :limit] if columns is None else gather(x, columns)

        ids, mask = (None if x is None else first(x) for x in (self.ids, self.mask))
        return replace(self, ids=ids, mask=mask, keywords={name: first(x) for name, x in self.keywords.items()})

    def with_mask(self, config: PretrainedConfig) -> Self:
        """The same inputs; without a mask, ids that are the pad id are masked where it can mean nothing else."""
        pad = padding_id(config)
        if self.mask is not None or self.ids is None or pad is None or not bool((self.ids == pad).any()):
            return self
        return replace(self, mask=self.ids != pad)

    def arrays(self) -> dict[str, Any]:
        """The inputs of the encoder, by name."""
        inputs = {"input_ids": self.ids, "attention_mask": self.mask, **self.keywords}
        return {name: x for name, x in inputs.items() if x is not None}


def _first_tokens(real: np.ndarray, limit: int) -> np.ndarray | None:
    """The columns of each row's first tokens, [B, limit]; None where they are the first columns."""
    if not (real[:, limit:] & ~real[:, :limit].all(1, keepdims=True)).any():
        return None
    return np.argsort(~real, axis=1, kind="stable")[:, :limit]


def encoder_states(encoded: Any) -> Any:
    """The states in what transformers accepts as encoder_outputs: an output object, a tuple, or the states.

    Raises:
        ShapeError: none of these.
    """
    kind = cast("type[Any]", type(encoded))
    if issubclass(kind, dict) and "last_hidden_state" in encoded:
        return encoded["last_hidden_state"]
    if issubclass(kind, tuple | list):
        return encoded[0]
    if hasattr(encoded, "last_hidden_state"):
        return encoded.last_hidden_state
    if len(getattr(encoded, "shape", ())) == 3:
        return encoded
    raise ShapeError(f"encoder_outputs is a {type(encoded).__name__}; expected what model.encode(...) returns.")


def source_ids(first: Any, kwargs: dict[str, Any]) -> Any:
    """The sources: the first argument of generate, or the keyword `input_ids` or `inputs`.

    Raises:
        GenerationError: two of these are given, or a whole batch in the place of ids.
    """
    given = [x for x in (first, kwargs.pop("inputs", None), kwargs.pop("input_ids", None)) if x is not None]
    if len(given) > 1:
        raise GenerationError("generate() got both inputs and input_ids.", hint="give one of them.")
    ids = given[0] if given else None
    if isinstance(ids, Mapping):
        kind = type(cast("Any", ids)).__name__
        raise GenerationError(f"inputs is a {kind}; expected ids (batch, length).", hint="model.generate(**batch)")
    return ids


def bind_inputs(
    ids: Any, kwargs: dict[str, Any], convert: Callable[[dict[str, Any]], dict[str, Any]], tensors: str
) -> ModelInputs:
    """Take arrays out of a call's keyword arguments; what stays are settings.

    Args:
        convert: Turns a call's arrays, by name, into the backend's.
        tensors: The backend's name in tokenizers' `return_tensors`.

    Raises:
        GenerationError: there is no source, or one of another shape or dtype.
    """
    kwargs.pop("labels", None)  # transformers' Seq2SeqTrainer hands whole batches on
    named = {"inputs": ids}
    for name in ("attention_mask", "decoder_input_ids", "decoder_attention_mask", *ENCODER_KEYWORDS):
        named[name] = kwargs.pop(name, None)
    arrays = convert({name: x for name, x in named.items() if x is not None})
    inputs = ModelInputs(
        ids=arrays.get("inputs"),
        mask=arrays.get("attention_mask"),
        prefix=arrays.get("decoder_input_ids"),
        prefix_mask=arrays.get("decoder_attention_mask"),
        encoded=kwargs.pop("encoder_outputs", None),
        keywords={name: arrays[name] for name in ENCODER_KEYWORDS if name in arrays},
    )
    source = inputs.source
    if source is None:
        raise GenerationError(
            "generate() got no source.", hint=f"model.generate(tokenizer(text, return_tensors='{tensors}').input_ids)"
        )
    if len(source.shape) < 2 or 0 in tuple(source.shape)[:2]:
        raise GenerationError(
            f"The source has shape {tuple(source.shape)}; expected (batch, length) with at least one of each."
        )
    if inputs.ids is not None and not _is_integer(inputs.ids):
        raise GenerationError(
            f"Source ids are {inputs.ids.dtype}; expected integers.", hint="give embeddings as inputs_embeds."
        )
    return inputs


def as_numpy(arrays: dict[str, Any]) -> dict[str, Any]:
    """A call's arrays as numpy's: those of JAX and TensorFlow go into their programs from there."""
    return {name: np.asarray(x) for name, x in arrays.items()}


def reject_pytorch_only(kwargs: dict[str, Any], backend: str) -> None:
    """Take out arguments of generate that only PyTorch has.

    Raises:
        GenerationError: one of them is given; who reads a stream is told, too.
    """
    given = {name: value for name in _PYTORCH_ONLY if (value := kwargs.pop(name, None))}
    if not given:
        return
    with Stream(given["streamer"]) if "streamer" in given else nullcontext():
        raise GenerationError(
            f"Not possible on {backend}, where generation is one compiled program: {', '.join(given)}.",
            hint="the PyTorch model of the same checkpoint does it.",
        )


def bind_traced_inputs(
    ids: Any, kwargs: dict[str, Any], place: str, is_traced: Callable[[Any], bool]
) -> dict[str, Any]:
    """Take arrays out of the keyword arguments of a call inside a function that the user compiles.

    Args:
        place: That function, for errors.

    Raises:
        GenerationError: there is no source, or something is given that must be known before the function runs.
    """
    arrays = {"input_ids": ids} | {n: x for n in _WHILE_TRACED if (x := kwargs.pop(n, None)) is not None}
    if wrong := [n for n, x in kwargs.items() if x is not None and (n in _NOT_WHILE_TRACED or is_traced(x))]:
        raise GenerationError(
            f"{place}, generate takes input_ids, {', '.join(_WHILE_TRACED)}; it got {', '.join(wrong)}.",
            hint="call model.generate(...) outside of it: it is compiled by itself.",
        )
    if ids is None:
        raise GenerationError("generate() got no source.", hint="model.generate(input_ids)")
    return arrays


def read_request(
    inputs: ModelInputs,
    decoder: spec.StackSpec,
    config: PretrainedConfig,
    defaults: GenerationConfig,
    kwargs: dict[str, Any],
    own: Any | None,
    *,
    to_numpy: Callable[[Any], np.ndarray] = np.asarray,
    **facts: Any,
) -> tuple[Request, np.ndarray | None]:
    """The checked request, and the start ids that go before the prefix; see `start_column`.

    Args:
        config, defaults: The model's.
        kwargs: Settings of the call by name.
        own: The call's generation_config.
        facts: More of what the call brings, as of CallFacts.
    """
    known = special_tokens(config)
    settings = collect(defaults, kwargs, own)
    start = start_column(inputs, resolve_tokens(settings, known), to_numpy)
    prefix = 0 if inputs.prefix is None else inputs.prefix.shape[1]
    call = CallFacts(
        prompt_length=prefix + (start is not None),
        batch_size=inputs.batch_size,
        source_ids=inputs.ids is not None,
        **facts,
    )
    taken = inputs.longest_source(to_numpy) if decoder.continues_source and decoder.max_positions else 0
    model = ModelFacts(
        vocab_size=decoder.vocab_size, max_positions=decoder.max_positions, tokens=known, source_positions=taken
    )
    return resolve_settings(settings, model, call), start


def padding_id(config: PretrainedConfig) -> int | None:
    """The encoder's pad id, where it can mean nothing else."""
    config = getattr(config, "encoder", config)
    pad, eos = config.pad_token_id, config.eos_token_id
    others = {config.bos_token_id, *(eos if isinstance(eos, list) else [eos])}
    return None if pad in others else pad


def start_column(
    inputs: ModelInputs, tokens: Tokens, to_numpy: Callable[[Any], np.ndarray] = np.asarray
) -> np.ndarray | None:
    """The start id of every target, [B, 1]; None where the prefixes begin with it already, left padding not counted.

    Raises:
        GenerationError: no start id is known, shapes disagree with the batch, or only some rows begin with it.
    """
    batch, prefix, mask = inputs.batch_size, inputs.prefix, inputs.prefix_mask
    _check_prefix(prefix, mask, batch)
    if not tokens.start:
        if prefix is not None and prefix.shape[1]:
            return None
        raise GenerationError(
            "The first decoder input is not known: decoder_start_token_id is not set.",
            hint="model.config.decoder_start_token_id = tokenizer.cls_token_id  # or bos_token_id, of the targets\n"
            "On the command line: --set decoder_start_token_id=ID.",
        )
    if len(tokens.start) not in (1, batch):
        raise GenerationError(
            f"decoder_start_token_id has {len(tokens.start)} ids for {batch} sources; expected 1 or {batch}."
        )
    start = np.broadcast_to(np.asarray(tokens.start, np.int32), (batch,))[:, None].copy()
    if prefix is None or not prefix.shape[1]:
        return start
    ids = to_numpy(prefix)
    real = np.ones(ids.shape, bool) if mask is None else to_numpy(mask != 0)
    if (ends := ~real[:, -1]).any():
        raise GenerationError(
            f"Rows {ends.nonzero()[0].tolist()} of decoder_input_ids end in padding, behind which no token can follow.",
            hint="pad on the left.",
        )
    first = real.argmax(1)
    begins = ids[np.arange(batch), first] == start[:, 0]
    if begins.any() and not begins.all():
        raise GenerationError(
            f"Rows {begins.nonzero()[0].tolist()} of decoder_input_ids begin with "
            "decoder_start_token_id, the others do not.",
            hint="let all of them begin with it, or none; pad on the left and give decoder_attention_mask.",
        )
    return None if begins.all() else start


def _check_prefix(prefix: Any, mask: Any, batch: int) -> None:
    if prefix is None:
        if mask is not None and tuple(mask.shape) != (batch, 1):
            raise GenerationError(
                f"decoder_attention_mask has shape {tuple(mask.shape)}, and decoder_input_ids is missing; "
                f"expected {(batch, 1)}, of the start ids alone.",
                hint="give decoder_input_ids, or leave it out.",
            )
        return
    if len(prefix.shape) != 2 or prefix.shape[0] != batch or not _is_integer(prefix):
        raise GenerationError(
            f"decoder_input_ids has shape {tuple(prefix.shape)} and dtype {prefix.dtype}; "
            f"expected ({batch}, length) of integers."
        )
    if mask is not None and tuple(mask.shape) != tuple(prefix.shape):
        raise GenerationError(
            f"decoder_attention_mask has shape {tuple(mask.shape)}; "
            f"expected {tuple(prefix.shape)}, as decoder_input_ids."
        )


def numpy_prompt(inputs: ModelInputs, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The prompt of every target and its mask: the start ids, if any, and the prefix."""
    prefix = None if inputs.prefix is None else inputs.prefix.astype(np.int32)
    mask = inputs.prefix_mask
    if start is None or prefix is None:
        return (start if prefix is None else prefix), mask  # pyright: ignore[reportReturnType]  # one of them is there
    whole = np.concatenate((start, prefix), 1)
    if mask is None:
        return whole, None
    columns = behind_padding(mask != 0)
    masks = np.concatenate((np.ones_like(mask[:, :1]), mask), 1)
    return np.take_along_axis(whole, columns, 1), np.take_along_axis(masks, columns, 1)


def behind_padding(real: np.ndarray) -> np.ndarray:
    """The columns that put a first column behind each row's padding on the left: [B, P + 1] of start and prefix.

    Args:
        real: [B, P], True where the prefix is no padding.
    """
    pads = cast("NDArray[np.int64]", real.argmax(1)[:, None])
    places = cast("NDArray[np.int64]", np.arange(real.shape[1] + 1)[None])
    return np.where(places < pads, places + 1, np.where(places == pads, 0, places))


def _is_integer(ids: Any) -> bool:
    """True for whole numbers of any framework, but not for truth values."""
    return "int" in str(ids.dtype)
