"""From a user's tensors to what the loops read: encoded sources and the decoder's prompt."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from conjoin.errors import GenerationError, ShapeError
from conjoin.generation import Assisted, Contrastive, CopySpeculation, Mode, Outputs
from conjoin.generation.prompt import ModelInputs, behind_padding, bind_inputs, source_ids
from conjoin.torch.cpu.clock import running, timed
from conjoin.torch.generation.model import Seq2SeqModel
from conjoin.torch.generation.reader import Sources
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.checks import as_states
from conjoin.torch.model.outputs import EncoderOutput, as_encoder_output

_NARROW = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64)


def take_tensors(first: Any, kwargs: dict[str, Any]) -> ModelInputs:
    """Take tensors out of a call's keyword arguments; what stays are settings.

    Raises:
        GenerationError: the source is given twice, not at all or as something else than a tensor; or `synced_gpus` is
            asked for.
    """
    if kwargs.pop("synced_gpus", None):
        raise GenerationError(
            "synced_gpus = True: generate() does not keep GPUs in step that hold shards of one model.",
            hint="gather the parameters before generating, or keep a whole model on each GPU.",
        )
    if kwargs.get("encoder_outputs") is not None:
        kwargs["encoder_outputs"] = as_encoder_output(kwargs["encoder_outputs"])
    cache = kwargs.pop("past_key_values", None)
    return replace(bind_inputs(source_ids(first, kwargs), kwargs, _as_tensors, "pt"), cache=cache)


def _as_tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a call; ids of few bits are widened to what tables take."""
    wrong = [f"{name} is a {type(x).__name__}" for name, x in arrays.items() if not isinstance(x, Tensor)]
    if wrong:
        raise GenerationError(
            f"{'; '.join(wrong)}: expected tensors.", hint="tokenizer(text, return_tensors='pt') makes them."
        )
    ids = ("inputs", "decoder_input_ids")
    return {name: x.long() if name in ids and x.dtype in _NARROW else x for name, x in arrays.items()}


def target_prompt(inputs: ModelInputs, start: np.ndarray | None, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The prompt of every target and its mask: the start ids, if any, and the prefix."""
    prefix, mask = inputs.prefix, inputs.prefix_mask
    if start is None:
        return prefix, mask
    column = torch.from_numpy(start).long().to(device)
    if prefix is None:
        return column, mask
    whole = torch.cat((column, prefix), 1)
    if mask is None:
        return whole, None
    columns = torch.from_numpy(behind_padding(to_numpy(mask != 0))).to(device)
    masks = torch.cat((torch.ones_like(mask[:, :1]), mask), 1)
    return whole.gather(1, columns), masks.to(device).gather(1, columns)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A copy of a tensor on the host."""
    return tensor.cpu().numpy()


@timed("encode")
def encode(
    model: Seq2SeqModel, inputs: ModelInputs, outputs: Outputs, *, truncation: bool
) -> tuple[Sources, EncoderOutput]:
    """Run the encoder, unless its output is given.

    Args:
        outputs: Whether attentions and hidden states are wanted.
        truncation: Cut sources that are longer than the encoder's position table.

    Raises:
        ShapeError: the mask has another shape than the source, or the source is too long.
    """
    limit = model.encoder.spec.max_positions if truncation else None
    inputs = inputs.with_mask(model.encoder.config).cut(limit, to_numpy)
    ids, mask, output = inputs.ids, inputs.mask, inputs.encoded
    if output is None:
        wanted = {"output_attentions": outputs.attentions, "output_hidden_states": outputs.hidden_states}
        output = model.encoder(ids, mask, **inputs.keywords, **wanted)
        _count(model, output, mask)
    assert isinstance(output, EncoderOutput) and output.last_hidden_state is not None
    size, like = model.encoder.spec.output_size, model.decoder.embed.words.weight
    states = as_states(output.last_hidden_state, size, like, wide=model.decoder.spec.reads_wide_states)
    if mask is not None and tuple(mask.shape) != tuple(states.shape[:2]):
        raise ShapeError(
            f"attention_mask has shape {tuple(mask.shape)}; expected {tuple(states.shape[:2])}, as the source."
        )
    projected = model.project(states)
    assert projected is not None
    return Sources(projected, None if mask is None else mask.bool(), ids), output


def _count(model: Seq2SeqModel, output: Any, mask: Tensor | None) -> None:
    """Count encoded tokens where the model's clock runs."""
    clock = running()
    if clock is not None and clock.decoder is model.decoder:
        rows, length = output.last_hidden_state.shape[:2]
        clock.work.count_sources([length] * rows if mask is None else mask.sum(1).tolist())


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
