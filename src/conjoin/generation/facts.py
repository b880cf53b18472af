"""Records that a request is checked against: the model's limits, and what the call brings along."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conjoin.join import SpecialTokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What generation must know of a model.

    Args:
        vocab_size: Of the decoder.
        max_positions: Longest target that the decoder's position table holds; None where there is no table.
        source_positions: Positions of that table that the source takes, where the target continues it.
        tokens: The ids that the model's config holds.
    """

    vocab_size: int
    max_positions: int | None
    tokens: SpecialTokens
    source_positions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What the call brings besides settings.

    Args:
        prompt_length: Decoder tokens that every row starts with, the start token included.
        batch_size: Number of sources.
        source_ids: True where the sources are at hand as ids of the decoder's vocabulary.
        tokenizer, assistant, prefix_allowed_tokens_fn, streamer: True where the call has one.
    """

    prompt_length: int = 1
    batch_size: int = 1
    source_ids: bool = True
    tokenizer: bool = False
    assistant: bool = False
    prefix_allowed_tokens_fn: bool = False
    streamer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of a row of ids, prompt included.

    Args:
        prompt: Decoder tokens that the row starts with, the start token included.
        longest: The row ends at this length; that of the prompt if nothing is to be generated.
        shortest: No eos before this length (`min_length`); 0 for no such bound.
        min_new_tokens: No eos among this many tokens behind the prompt.
    """

    prompt: int
    longest: int
    shortest: int = 0
    min_new_tokens: int = 0

    @property
    def max_new_tokens(self) -> int:
        """Tokens that may follow the prompt."""
        return self.longest - self.prompt


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What decides whether a setting has an effect.

    Args:
        get: A setting's value by name; its default where nobody set it.
        eos: Ids that end a result.
    """

    get: Callable[[str], Any]
    call: CallFacts
    eos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProcessorFacts(Circumstances):
    """What a processor's arguments are made of, besides its setting."""

    lengths: Lengths

    @property
    def kept(self) -> int:
        """Tokens that a warper must keep: beams need one that is no eos to go on with, besides each eos."""
        return max(2, 1 + len(self.eos)) if self.get("num_beams") > 1 else 1
