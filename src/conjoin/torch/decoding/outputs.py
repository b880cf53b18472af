"""What generate returns when asked for more than ids (transformers' classes of the same names)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from conjoin.torch.cache import KVCache
from conjoin.torch.outputs import ModelOutput

Layers = tuple[Tensor, ...]


@dataclass(eq=False)
class GenerateEncoderDecoderOutput(ModelOutput):
    """Result of decoding without beams.

    Args:
        sequences: [R, t], prompt included; R = sources * num_return_sequences.
        scores, logits: Per step [R, V], after and before the processors.
        decoder_attentions, cross_attentions, decoder_hidden_states: Per step, per layer.
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
        sequences_scores: [R], log-probability / length ** length_penalty.
        beam_indices: [R, t - prompt], the beam row that each token came from; -1 behind the end.
    """

    sequences: Int[Tensor, "R t"] | None = None
    sequences_scores: Float[Tensor, " R"] | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Int[Tensor, "R o"] | None = None
    encoder_attentions: Layers | None = None
    encoder_hidden_states: Layers | None = None
    decoder_attentions: tuple[Layers, ...] | None = None
    cross_attentions: tuple[Layers, ...] | None = None
    decoder_hidden_states: tuple[Layers, ...] | None = None
    past_key_values: KVCache | None = None
