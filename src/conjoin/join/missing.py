"""Explain a checkpoint that lacks a whole half, or all cross-attention, and how to make a pair of it."""

from collections.abc import Collection

from conjoin.errors import WeightError

_MAKE = "EncoderDecoderModel.from_encoder_decoder_pretrained"
_HINTS = {
    "encoder": f"{_MAKE}(ENCODER, {{folder!r}}), or `conjoin join ENCODER {{folder}}`, adds an encoder.",
    "decoder": f"{_MAKE}({{folder!r}}, DECODER), or `conjoin join {{folder}} DECODER`, adds a decoder, whose "
    "cross-attention must then be trained.",
    "cross-attention": f"{_MAKE}(ENCODER, DECODER), or `conjoin join ENCODER DECODER`, joins two checkpoints and adds "
    "new cross-attention.",
}


def _part(name: str) -> str:
    return "cross-attention" if ".cross_attn" in name else name.split(".", maxsplit=1)[0]


def require_halves(label: str, missing: Collection[str], present: Collection[str]) -> None:
    """Raise if a file lacks all of one part and has others.

    Args:
        label: The checkpoint's name.
        missing, present: Canonical names of its missing and present tensors.

    Raises:
        WeightError: names the part, and the call that joins.
    """
    parts = {_part(name) for name in present if not name.endswith((".embed.words.weight", ".head.vocab.weight"))}
    lacking = {part: [name for name in missing if _part(name) == part] for part in _HINTS}
    absent = [part for part, names in lacking.items() if names and part not in parts]
    if not absent or not parts:
        return
    problem = " and ".join(f"no {part} ({len(lacking[part])} tensors)" for part in absent)
    part = next(part for part in absent if part != "cross-attention" or len(absent) == 1)
    raise WeightError(
        f"{label}: the weights do not fit the model: there is {problem}.", hint=_HINTS[part].format(folder=label)
    )
