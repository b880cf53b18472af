"""From what the user gives to what the program reads: sources, the decoder's prompt, and the checked request."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from conjoin import spec
from conjoin.errors import GenerationError, ShapeError
from conjoin.families import PretrainedConfig
from conjoin.generation import (
    CallFacts,
    ModelFacts,
    Request,
    Stream,
    Tokens,
    collect,
    resolve_asked,
    resolve_tokens,
)
from conjoin.join import special_tokens
from conjoin.pretrained.settings import WithGenerationConfig

ENCODER_KEYWORDS = ("inputs_embeds", "token_type_ids", "position_ids")
IN_A_PROGRAM = ("attention_mask", "token_type_ids", "position_ids")
"""What generate takes beside ids inside a function that somebody traces."""
NOT_IN_A_PROGRAM = ("inputs_embeds", "encoder_outputs", "decoder_input_ids", "decoder_attention_mask")
_NOT_HERE = ("stopping_criteria", "prefix_allowed_tokens_fn", "assistant_model", "streamer", "tokenizer", "synced_gpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Arrays of a call.

    Args:
        ids, mask: Of the sources, [B, S].
        prefix, prefix_mask: Of the targets, [B, P].
        encoded: The encoder's output, in place of ids.
        keywords: Further inputs of the encoder.
    """

    ids: Any = None
    mask: Any = None
    prefix: Any = None
    prefix_mask: Any = None
    encoded: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def source(self) -> Any:
        """What tells the batch's size."""
        states = None if self.encoded is None else encoder_states(self.encoded)
        return next((x for x in (states, self.ids, self.keywords.get("inputs_embeds")) if x is not None), None)

    def cut(self, limit: int | None) -> Self:
        """Sources no longer than the limit."""
        if limit is None or self.encoded is not None:
            return self
        ids, mask = (None if x is None else x[:, :limit] for x in (self.ids, self.mask))
        return replace(self, ids=ids, mask=mask, keywords={n: x[:, :limit] for n, x in self.keywords.items()})

    def arrays(self) -> dict[str, Any]:
        """What the encoder reads, by its argument's name."""
        return {"input_ids": self.ids, "attention_mask": self.mask, **self.keywords}


def encoder_states(given: Any) -> Any:
    """The states in what transformers accepts as encoder_outputs: an output object, a tuple, or the states.

    Raises:
        ShapeError: none of these.
    """
    match given:
        case dict() if "last_hidden_state" in given:
            return given["last_hidden_state"]
        case tuple() | list():
            return given[0]
        case _ if hasattr(given, "last_hidden_state"):
            return given.last_hidden_state
        case _ if len(getattr(given, "shape", ())) == 3:
            return given
    raise ShapeError(f"encoder_outputs is a {type(given).__name__}; expected what model.encode(...) returns.")


def source_ids(input_ids: Any, keywords: dict[str, Any]) -> Any:
    """The sources, which transformers' users may also name `inputs`.

    Raises:
        GenerationError: both names are given, or a whole batch in the place of ids.
    """
    named = keywords.pop("inputs", None)
    if named is not None and input_ids is not None:
        raise GenerationError("generate() got both inputs and input_ids.", hint="give one of them.")
    ids = named if input_ids is None else input_ids
    if isinstance(ids, Mapping):
        raise GenerationError(
            f"input_ids is a {type(ids).__name__}; expected ids (batch, length).", hint="model.generate(**batch)"
        )
    return ids


def take_inputs(input_ids: Any, keywords: dict[str, Any], backend: str) -> Inputs:
    """Take arrays out of a call's keywords; what stays are settings.

    Args:
        backend: Its name, for errors.

    Raises:
        GenerationError: there is no source, or something is given that this backend does not do.
    """
    refuse(keywords, backend)
    keywords.pop("labels", None)
    names = ("attention_mask", "decoder_input_ids", "decoder_attention_mask")
    mask, prefix, prefix_mask = (_array(keywords.pop(name, None)) for name in names)
    given = Inputs(
        ids=_array(input_ids),
        mask=mask,
        prefix=prefix,
        prefix_mask=prefix_mask,
        encoded=keywords.pop("encoder_outputs", None),
        keywords={name: _array(value) for name in ENCODER_KEYWORDS if (value := keywords.pop(name, None)) is not None},
    )
    source = given.source
    if source is None:
        raise GenerationError(
            "generate() got no source.", hint="model.generate(tokenizer(text, return_tensors='np').input_ids)"
        )
    if source.ndim < 2 or source.shape[0] == 0 or source.shape[1] == 0:
        raise GenerationError(
            f"The source has shape {tuple(source.shape)}; expected (batch, length) with at least one of each."
        )
    if given.ids is not None and given.ids.dtype.kind not in "iu":
        raise GenerationError(
            f"Source ids are {given.ids.dtype}; expected integers.", hint="give embeddings as inputs_embeds."
        )
    return given


def refuse(keywords: dict[str, Any], backend: str) -> None:
    """Take out arguments of generate that only PyTorch has.

    Raises:
        GenerationError: one of them is given; who reads a stream is told, too.
    """
    given = {name: value for name in _NOT_HERE if (value := keywords.pop(name, None))}
    if not given:
        return
    with Stream(given["streamer"]) if "streamer" in given else nullcontext():
        raise GenerationError(
            f"Not possible on {backend}, where generation is one compiled program: {', '.join(given)}.",
            hint="the PyTorch model of the same checkpoint does it.",
        )


def _array(value: Any) -> np.ndarray | None:
    return None if value is None else np.asarray(value)


def read_request(
    model: WithGenerationConfig,
    decoder: spec.StackSpec,
    given: Inputs,
    keywords: dict[str, Any],
    config: Any | None,
) -> tuple[Request, Int[np.ndarray, "B P"], np.ndarray | None]:
    """The checked request, the prompt of every target, and its mask."""
    known = special_tokens(model.config)
    asked = collect(model.generation_config, keywords, config)
    tokens = resolve_tokens(asked, known)
    batch = given.source.shape[0]
    prompt, mask = target_prompt(given.prefix, given.prefix_mask, tokens, batch)
    facts = ModelFacts(vocab_size=decoder.vocab_size, max_positions=decoder.max_positions, tokens=known)
    call = CallFacts(prompt_length=prompt.shape[1], batch_size=batch, source_ids=given.ids is not None)
    return resolve_asked(asked, facts, call), prompt, mask


def padding_id(config: PretrainedConfig) -> int | None:
    """The encoder's pad id, where it can mean nothing else."""
    config = getattr(config, "encoder", config)
    pad, eos = config.pad_token_id, config.eos_token_id
    others = {config.bos_token_id, *(eos if isinstance(eos, list) else [eos])}
    return None if pad in others else pad


def padding_mask(config: PretrainedConfig, ids: Int[np.ndarray, "B S"]) -> np.ndarray | None:
    """Where the encoder's pad id can mean nothing else, 1 at ids that are not it."""
    pad = padding_id(config)
    return None if pad is None or not (ids == pad).any() else (ids != pad).astype(np.int32)


def target_prompt(
    given: Any, mask: Any, tokens: Tokens, batch: int
) -> tuple[Int[np.ndarray, "B P"], np.ndarray | None]:
    """What every target starts with, the start id and then the words that the user gives; and its mask, if any.

    The start id is put before a given prefix unless the rows begin with it already, padding on the left not counted.

    Raises:
        GenerationError: no start id is known, shapes disagree with the batch, or only some rows begin with it.
    """
    if given is not None:
        _check_prefix(given, mask, batch)
        given = given.astype(np.int32)
    if not tokens.start:
        if given is not None and given.shape[1]:
            return given, mask
        raise GenerationError(
            "The first decoder input is not known: decoder_start_token_id is not set.",
            hint="model.config.decoder_start_token_id = tokenizer.cls_token_id  # or bos_token_id, of the targets",
        )
    if len(tokens.start) not in (1, batch):
        raise GenerationError(
            f"decoder_start_token_id has {len(tokens.start)} ids for {batch} sources; expected 1 or {batch}."
        )
    start = np.broadcast_to(np.asarray(tokens.start, np.int32), (batch,))[:, None]
    if given is None:
        return np.ascontiguousarray(start), None
    if given.shape[1] and _begins_with(start, given, mask):
        return given, mask
    whole = None if mask is None else np.concatenate((np.ones_like(mask[:, :1]), mask), 1)
    return np.concatenate((start, given), 1), whole


def _check_prefix(given: np.ndarray, mask: np.ndarray | None, batch: int) -> None:
    if given.ndim != 2 or given.shape[0] != batch or given.dtype.kind not in "iu":
        raise GenerationError(
            f"decoder_input_ids has shape {given.shape} and dtype {given.dtype}; "
            f"expected ({batch}, length) of integers."
        )
    if mask is not None and mask.shape != given.shape:
        raise GenerationError(
            f"decoder_attention_mask has shape {mask.shape}; expected {given.shape}, as decoder_input_ids."
        )


def _begins_with(start: np.ndarray, given: np.ndarray, mask: np.ndarray | None) -> bool:
    first = given[:, :1] if mask is None else np.take_along_axis(given, mask.astype(bool).argmax(1)[:, None], 1)
    begins = (first == start)[:, 0].tolist()
    if any(begins) and not all(begins):
        raise GenerationError(
            f"Rows {[row for row, yes in enumerate(begins) if yes]} of decoder_input_ids begin with "
            "decoder_start_token_id, the others do not.",
            hint="let all of them begin with it, or none; pad on the left and give decoder_attention_mask.",
        )
    return all(begins)
