"""From what the user gives to what the loops read: encoded sources and the decoder's prompt."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError, ShapeError
from conjoin.generation import Tokens
from conjoin.torch.decoding.reader import Sources
from conjoin.torch.outputs import EncoderOutput, as_encoder_output

if TYPE_CHECKING:
    from conjoin.torch.model import EncoderDecoderModel


def source_mask(model: "EncoderDecoderModel", ids: Int[Tensor, "B S"] | None, mask: Tensor | None) -> Tensor | None:
    """The mask given; else, where the encoder's pad id can mean nothing else, True at ids that are not it."""
    if mask is not None or ids is None:
        return mask
    config = model.encoder.config
    pad, eos = config.pad_token_id, config.eos_token_id
    others = {config.bos_token_id, *(eos if isinstance(eos, list) else [eos])}
    if pad is None or pad in others or not bool((ids == pad).any()):
        return None
    return ids != pad


def encode(
    model: "EncoderDecoderModel",
    ids: Int[Tensor, "B S"] | None,
    mask: Tensor | None,
    encoder_outputs: Any | None,
    keywords: dict[str, Any],
    *,
    truncation: bool,
) -> tuple[Sources, EncoderOutput]:
    """Run the encoder, unless its output is given.

    Args:
        keywords: inputs_embeds, token_type_ids, position_ids, output_attentions, output_hidden_states.
        truncation: Cut sources that are longer than the encoder's position table.

    Raises:
        GenerationError: no source is given, or one without a token.
    """
    if encoder_outputs is None:
        given = ids if ids is not None else keywords.get("inputs_embeds")
        if given is None:
            raise GenerationError(
                "generate() got no source.", hint="model.generate(tokenizer(text, return_tensors='pt').input_ids)"
            )
        if given.dim() < 2 or given.shape[0] == 0 or given.shape[1] == 0:
            raise GenerationError(
                f"The source has shape {tuple(given.shape)}; expected (batch, length) with at least one of each."
            )
        limit = model.encoder.spec.max_positions
        if truncation and limit is not None and given.shape[1] > limit:
            ids = None if ids is None else ids[:, :limit]
            mask = None if mask is None else mask[:, :limit]
            longer = ("inputs_embeds", "token_type_ids", "position_ids")
            keywords = {k: v[:, :limit] if k in longer and v is not None else v for k, v in keywords.items()}
        output = model.encoder(ids, mask, **keywords)
    else:
        output = as_encoder_output(encoder_outputs)
    assert isinstance(output, EncoderOutput) and output.last_hidden_state is not None
    states = output.last_hidden_state
    if mask is not None and tuple(mask.shape) != tuple(states.shape[:2]):
        raise ShapeError(
            f"attention_mask has shape {tuple(mask.shape)}; expected {tuple(states.shape[:2])}, as the source."
        )
    projected = model.project(states)
    assert projected is not None
    return Sources(projected, None if mask is None else mask.bool(), ids), output


def target_prompt(
    given: Int[Tensor, "B P"] | None, tokens: Tokens, batch: int, device: torch.device
) -> Int[Tensor, "B P"]:
    """What every target starts with: the start id, then the words that the user gives.

    The start id is put before a given prefix unless every row has it already (as transformers does).

    Raises:
        GenerationError: no start id is known, or shapes disagree with the batch.
    """
    if not tokens.start:
        if given is not None:
            return given
        raise GenerationError(
            "The first decoder input is not known: decoder_start_token_id is not set.",
            hint="model.config.decoder_start_token_id = tokenizer.cls_token_id  # or bos_token_id, of the target's",
        )
    if len(tokens.start) not in (1, batch):
        raise GenerationError(
            f"decoder_start_token_id has {len(tokens.start)} ids for {batch} sources; expected 1 or {batch}."
        )
    start = torch.tensor(tokens.start, device=device).expand(batch)[:, None]
    if given is None:
        return start
    if given.dim() != 2 or given.shape[0] != batch or given.is_floating_point():
        raise GenerationError(
            f"decoder_input_ids has shape {tuple(given.shape)}; expected ({batch}, length) of integers."
        )
    if given.shape[1] and bool((given[:, :1] == start).all()):
        return given
    return torch.cat((start, given), 1)
