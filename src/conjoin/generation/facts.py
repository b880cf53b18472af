"""What a request is checked against: the model's limits and what the call brings along."""

from dataclasses import dataclass

from conjoin.join import SpecialTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What generation must know of a model.

    Args:
        vocab_size: Of the decoder.
        max_positions: Longest target that the decoder's position table holds; None where there is no table.
        tokens: The ids that the model's config holds.
    """

    vocab_size: int
    max_positions: int | None
    tokens: SpecialTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What the call brings besides settings.

    Args:
        prompt_length: Decoder tokens that every row starts with, the start token included.
        batch_size: Number of sources.
        source_ids: Whether the sources are at hand as ids of the decoder's vocabulary.
        tokenizer, assistant, prefix_allowed_tokens_fn, streamer: Whether it was given.
    """

    prompt_length: int = 1
    batch_size: int = 1
    source_ids: bool = True
    tokenizer: bool = False
    assistant: bool = False
    prefix_allowed_tokens_fn: bool = False
    streamer: bool = False
