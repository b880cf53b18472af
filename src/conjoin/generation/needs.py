"""What settings need to have an effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conjoin.generation.facts import Circumstances


@dataclass(frozen=True, slots=True)
class Need:
    """What a setting needs to have an effect.

    Args:
        text: What to set, as it stands in a warning.
    """

    text: str
    holds: Callable[[Circumstances], Any]


SAMPLING = Need("do_sample=True", lambda c: c.get("do_sample"))
SAMPLING_OR_CONTRASTIVE = Need("do_sample=True", lambda c: c.get("do_sample") or c.get("penalty_alpha"))
BEAMS = Need("num_beams above 1", lambda c: c.get("num_beams") > 1)
NO_BEAMS = Need("num_beams=1", lambda c: c.get("num_beams") == 1)
BEAM_GROUPS = Need("num_beam_groups above 1", lambda c: c.get("num_beam_groups") > 1)
COPYING = Need(
    "copy_speculation=True", lambda c: c.get("copy_speculation") or c.get("prompt_lookup_num_tokens") is not None
)
ASSISTANT = Need("assistant_model=, an argument of generate() in Python", lambda c: c.call.assistant)
OUTPUTS = Need("return_dict_in_generate=True", lambda c: c.get("return_dict_in_generate"))
QUANTIZED_CACHE = Need("cache_implementation='quantized'", lambda c: c.get("cache_implementation") == "quantized")
EOS = Need("an eos_token_id", lambda c: c.eos)
SOURCE_IDS = Need("input_ids in the decoder's vocabulary", lambda c: c.call.source_ids)
