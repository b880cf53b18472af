"""What generate returns when asked for more than ids (transformers' classes of the same names)."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conjoin.generation import Outputs
from conjoin.torch.generation.loop import Decoded, Trace
from conjoin.torch.generation.reader import Reader
from conjoin.torch.model.cache import KVCache
from conjoin.torch.model.outputs import EncoderOutput, ModelOutput
from conjoin.torch.model.stack_inputs import Record

Layers = tuple[Tensor, ...]


@dataclass(eq=False)
class GenerateEncoderDecoderOutput(ModelOutput):
    """Result of decoding without beams.

    Args:
        sequences: [R, t], prompt included; R = sources * num_return_sequences.
        scores, logits: Per step [R, V], after and before the processors; with drafts, zeros for rows that have ended.
        decoder_attentions, cross_attentions, decoder_hidden_states: Per step, per layer.
        past_key_values: With drafts, the last source's.
    """

    sequences: Int[Tensor, "R t"] | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    encoder_attentions: Layers | None = None
    encoder_hidden_states: Layers | None = None
    decoder_attentions: tuple[Layers, ...] | None = None
    cross_attentions: tuple[Layers, ...] | None = None
    decoder_hidden_states: tuple[Layers, ...] | None = None
    past_key_values: KVCache | None = None


@dataclass(eq=False)
class GenerateBeamEncoderDecoderOutput(ModelOutput):
    """Result of decoding with beams.

    Args:
        sequences: [R, t], prompt included; R = sources * num_return_sequences, or fewer. Behind the end of a hypothesis
            stands the pad id; transformers writes the end id where the pad id is 0.
        sequences_scores: [R], log-probability / length ** length_penalty.
        beam_indices: [R, t - prompt], the beam row that each token came from; -1 behind the end.
        results_per_source: [B], where a source has fewer results than were asked for; else missing.
    """

    sequences: Int[Tensor, "R t"] | None = None
    sequences_scores: Float[Tensor, " R"] | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Int[Tensor, "R o"] | None = None
    results_per_source: Int[Tensor, " B"] | None = None
    encoder_attentions: Layers | None = None
    encoder_hidden_states: Layers | None = None
    decoder_attentions: tuple[Layers, ...] | None = None
    cross_attentions: tuple[Layers, ...] | None = None
    decoder_hidden_states: tuple[Layers, ...] | None = None
    past_key_values: KVCache | None = None


GenerateOutput = GenerateEncoderDecoderOutput | GenerateBeamEncoderDecoderOutput


def output_of(
    outputs: Outputs,
    decoded: Decoded,
    encoded: EncoderOutput,
    traces: list[Trace],
    readers: list[Reader],
    returned: int,
) -> GenerateOutput:
    """Everything that was collected, under transformers' names.

    Args:
        returned: Results that were asked for, per source.
        traces, readers: One for all sources; or one for each, where sources were decoded on their own.
    """
    records = [record for reader in readers for record in reader.records]
    common: dict[str, Any] = {
        "sequences": decoded.sequences,
        "scores": _merged([trace.scores for trace in traces]) if outputs.scores else None,
        "logits": _merged([trace.logits for trace in traces]) if outputs.logits else None,
        "encoder_attentions": encoded.attentions if outputs.attentions else None,
        "encoder_hidden_states": encoded.hidden_states if outputs.hidden_states else None,
        "decoder_attentions": _layers(records, "attentions") if outputs.attentions else None,
        "cross_attentions": _layers(records, "cross_attentions") if outputs.attentions else None,
        "decoder_hidden_states": _layers(records, "hidden_states") if outputs.hidden_states else None,
        "past_key_values": readers[-1].cache if readers else None,
    }
    if decoded.scores is None:
        return GenerateEncoderDecoderOutput(**common)
    scores = decoded.scores if outputs.scores else None
    counts = decoded.counts
    per_source = None if counts is None or len({*counts, returned}) == 1 else torch.tensor(counts)
    return GenerateBeamEncoderDecoderOutput(
        **common, sequences_scores=scores, beam_indices=decoded.origins, results_per_source=per_source
    )


def _merged(collected: list[list[Tensor] | None]) -> tuple[Tensor, ...]:
    """Steps of all sources together; zeros where a source had ended."""
    lists = [steps for steps in collected if steps is not None]
    if len(lists) == 1:
        return tuple(lists[0])
    zeros = torch.zeros_like(lists[0][0])
    return tuple(torch.cat(rows) for rows in zip_longest(*lists, fillvalue=zeros))


def _layers(records: list[Record], name: str) -> tuple[Layers, ...]:
    return tuple(tuple(getattr(record, name) or ()) for record in records)


def compute_transition_scores(
    sequences: Int[Tensor, "R t"],
    scores: tuple[Float[Tensor, "R2 V"], ...],
    beam_indices: Int[Tensor, "R o"] | None = None,
    normalize_logits: bool = False,
) -> Float[Tensor, "R o2"]:
    """The score of every generated token, as transformers computes it; 0 behind the end of a beam's hypothesis."""
    steps = len(scores) if beam_indices is None else int((beam_indices >= 0).sum(1).max())
    stacked = torch.stack(scores[:steps], 1)
    if normalize_logits:
        stacked = stacked.log_softmax(-1)
    places = torch.arange(steps, device=sequences.device).expand(len(sequences), -1)
    if beam_indices is None:
        rows = torch.arange(len(sequences), device=sequences.device)[:, None].expand(-1, steps)
    else:
        rows = beam_indices[:, :steps]
    found = stacked[rows.clamp(min=0), places, sequences[:, sequences.shape[1] - steps :]]
    return found.masked_fill(rows < 0, 0.0)
