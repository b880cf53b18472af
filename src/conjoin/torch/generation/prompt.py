"""From what the user gives to what the loops read: encoded sources and the decoder's prompt."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError, ShapeError
from conjoin.generation import Assisted, Contrastive, CopySpeculation, Mode, Outputs, Tokens
from conjoin.pretrained.prompt import padding_id
from conjoin.torch.generation.reader import Sources
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.outputs import EncoderOutput, as_encoder_output
from conjoin.torch.pair.checks import as_states

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel


_NARROW = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64)
ENCODER_KEYWORDS = ("inputs_embeds", "token_type_ids", "position_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Tensors of a call.

    Args:
        ids, mask: Of the sources, [B, S].
        prefix, prefix_mask: Of the targets, [B, P].
        encoded: The encoder's output, in place of ids.
        cache: What an earlier call kept of the prefix's first words.
        keywords: Further inputs of the encoder.
    """

    ids: Tensor | None = None
    mask: Tensor | None = None
    prefix: Tensor | None = None
    prefix_mask: Tensor | None = None
    encoded: EncoderOutput | None = None
    cache: Any = None
    keywords: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def batch(self) -> int:
        """Number of sources."""
        states = self.encoded.last_hidden_state if self.encoded is not None else None
        first = next((t for t in (states, self.ids, self.keywords.get("inputs_embeds")) if t is not None), None)
        return 1 if first is None or first.dim() < 2 else first.shape[0]


def take_inputs(inputs: Any, keywords: dict[str, Any]) -> Given:
    """Take tensors out of a call's keywords; what stays are settings.

    Raises:
        GenerationError: the source is given twice, not at all or as something else than a tensor; or `synced_gpus` is
            asked for.
    """
    if keywords.pop("synced_gpus", None):
        raise GenerationError(
            "synced_gpus = True: generate() does not keep GPUs in step that hold shards of one model.",
            hint="gather the parameters before generating, or keep a whole model on each GPU.",
        )
    keywords.pop("labels", None)  # transformers' Seq2SeqTrainer hands whole batches on
    ids, encoded = keywords.pop("input_ids", None), keywords.pop("encoder_outputs", None)
    if inputs is not None and ids is not None:
        raise GenerationError("generate() got both inputs and input_ids.", hint="give one of them.")
    names = ("attention_mask", "decoder_input_ids", "decoder_attention_mask")
    ids = ids if inputs is None else inputs
    tensors = {"inputs": ids} | {name: keywords.pop(name, None) for name in names}
    wrong = [f"{name} is a {type(t).__name__}" for name, t in tensors.items() if not isinstance(t, Tensor | None)]
    if wrong:
        raise GenerationError(
            f"{'; '.join(wrong)}: expected tensors.", hint="tokenizer(text, return_tensors='pt') makes them."
        )
    given = Given(
        ids=_widened(ids),
        mask=tensors["attention_mask"],
        prefix=_widened(tensors["decoder_input_ids"]),
        prefix_mask=tensors["decoder_attention_mask"],
        encoded=None if encoded is None else as_encoder_output(encoded),
        cache=keywords.pop("past_key_values", None),
        keywords={name: value for name in ENCODER_KEYWORDS if (value := keywords.pop(name, None)) is not None},
    )
    _check_source(given)
    return given


def _widened(ids: Tensor | None) -> Tensor | None:
    """Whole numbers of few bits as tables take them."""
    return ids.long() if ids is not None and ids.dtype in _NARROW else ids


def _check_source(given: Given) -> None:
    source = given.ids if given.ids is not None else given.keywords.get("inputs_embeds")
    if given.encoded is not None:
        source = given.encoded.last_hidden_state
    if source is None:
        raise GenerationError(
            "generate() got no source.", hint="model.generate(tokenizer(text, return_tensors='pt').input_ids)"
        )
    if source.dim() < 2 or source.shape[0] == 0 or source.shape[1] == 0:
        raise GenerationError(
            f"The source has shape {tuple(source.shape)}; expected (batch, length) with at least one of each."
        )
    if given.ids is not None and given.ids.is_floating_point():
        raise GenerationError(
            f"Source ids are {given.ids.dtype}; expected integers.", hint="give embeddings as inputs_embeds."
        )


def encode(
    model: "EncoderDecoderModel", given: Given, outputs: Outputs, *, truncation: bool
) -> tuple[Sources, EncoderOutput]:
    """Run the encoder, unless its output is given.

    Args:
        outputs: Whether attentions and hidden states are wanted.
        truncation: Cut sources that are longer than the encoder's position table.

    Raises:
        ShapeError: the mask has another shape than the source, or the source is too long.
    """
    limit = model.encoder.spec.max_positions if truncation and given.encoded is None else None
    ids, mask, keywords = _cut(given, limit)
    mask = mask if mask is not None or ids is None else _padding_mask(model, ids)
    if given.encoded is not None:
        output = given.encoded
    else:
        wanted = {"output_attentions": outputs.attentions, "output_hidden_states": outputs.hidden_states}
        output = model.encoder(ids, mask, **keywords, **wanted)
    assert isinstance(output, EncoderOutput) and output.last_hidden_state is not None
    size, like = model.encoder.spec.hidden_size, model.decoder.embed.words.weight
    states = as_states(output.last_hidden_state, size, like)
    if mask is not None and tuple(mask.shape) != tuple(states.shape[:2]):
        raise ShapeError(
            f"attention_mask has shape {tuple(mask.shape)}; expected {tuple(states.shape[:2])}, as the source."
        )
    projected = model.project(states)
    assert projected is not None
    return Sources(projected, None if mask is None else mask.bool(), ids), output


def _cut(given: Given, limit: int | None) -> tuple[Tensor | None, Tensor | None, dict[str, Any]]:
    """Ids, mask and keywords of the encoder, no longer than the limit."""
    if limit is None:
        return given.ids, given.mask, given.keywords
    ids, mask = (None if t is None else t[:, :limit] for t in (given.ids, given.mask))
    return ids, mask, {name: tensor[:, :limit] for name, tensor in given.keywords.items()}


def _padding_mask(model: "EncoderDecoderModel", ids: Int[Tensor, "B S"]) -> Tensor | None:
    """Where the encoder's pad id can mean nothing else, True at ids that are not it."""
    pad = padding_id(model.encoder.config)
    return None if pad is None or not bool((ids == pad).any()) else ids != pad


def target_prompt(
    given: Int[Tensor, "B P0"] | None, mask: Tensor | None, tokens: Tokens, batch: int, device: torch.device
) -> tuple[Int[Tensor, "B P"], Tensor | None]:
    """What every target starts with, the start id and then the words that the user gives; and its mask, if any.

    The start id is put before a given prefix unless the rows begin with it already, padding on the left not counted.

    Args:
        mask: Of the given prefix, [B, P0]; it grows with it.

    Raises:
        GenerationError: no start id is known, shapes disagree with the batch, or only some rows begin with it.
    """
    if given is not None:
        _check_prefix(given, mask, batch)
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
    start = torch.tensor(tokens.start, device=device).expand(batch)[:, None]
    if given is None:
        if mask is not None and mask.shape != start.shape:
            raise GenerationError(
                f"decoder_attention_mask has shape {tuple(mask.shape)}, and decoder_input_ids is missing; "
                f"expected {tuple(start.shape)}, of the start ids alone.",
                hint="give decoder_input_ids, or leave it out.",
            )
        return start, mask
    if given.shape[1] and _begins_with(start, given, mask):
        return given, mask
    return torch.cat((start, given), 1), None if mask is None else torch.cat((torch.ones_like(mask[:, :1]), mask), 1)


def usable_cache(cache: Any, prompt: Int[Tensor, "B P"], mode: Mode) -> KVCache | None:
    """What an earlier call kept, to go on from; that cache itself stays as it is.

    Raises:
        GenerationError: it does not hold the beginning of the prompt, a row per source; or the mode cannot use it.
    """
    if cache is None:
        return None
    if isinstance(mode, Assisted | CopySpeculation | Contrastive):
        raise GenerationError(f"past_key_values with {type(mode).__name__}: not possible.", hint="leave it out.")
    rows = len(cache.keys[0]) if cache.keys else 0
    if rows != len(prompt) or len(cache.cross[0][0] if cache.cross else ()) != rows or cache.length >= prompt.shape[1]:
        raise GenerationError(
            f"past_key_values holds {cache.length} positions of {rows} rows; expected the beginning of "
            f"{prompt.shape[1]} positions, with one left to read at least, of {len(prompt)} sources.",
            hint="give the words that it holds, and more, as decoder_input_ids; a beam search's has a row per beam.",
        )
    return cache.fork()


def _check_prefix(given: Tensor, mask: Tensor | None, batch: int) -> None:
    if given.dim() != 2 or given.shape[0] != batch or given.is_floating_point():
        raise GenerationError(
            f"decoder_input_ids has shape {tuple(given.shape)} and dtype {given.dtype}; "
            f"expected ({batch}, length) of integers."
        )
    if mask is not None and mask.shape != given.shape:
        raise GenerationError(
            f"decoder_attention_mask has shape {tuple(mask.shape)}; "
            f"expected {tuple(given.shape)}, as decoder_input_ids."
        )


def _begins_with(start: Int[Tensor, "B 1"], given: Int[Tensor, "B P0"], mask: Tensor | None) -> bool:
    first = given[:, :1] if mask is None else given.gather(1, mask.bool().int().argmax(1, keepdim=True))
    begins = (first == start).squeeze(1).tolist()
    if any(begins) and not all(begins):
        raise GenerationError(
            f"Rows {[row for row, yes in enumerate(begins) if yes]} of decoder_input_ids begin with "
            "decoder_start_token_id, the others do not.",
            hint="let all of them begin with it, or none; pad on the left and give decoder_attention_mask.",
        )
    return all(begins)
