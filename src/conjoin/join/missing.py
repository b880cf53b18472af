"""A checkpoint that lacks a whole half, or all cross-attention, is no pair: say so, and how to make one of it."""

from collections.abc import Collection

from conjoin.errors import WeightError

_MAKE = "EncoderDecoderModel.from_encoder_decoder_pretrained"
_HINTS = {
    "encoder": f"{_MAKE}(ENCODER, {{folder!r}}) gives it an encoder.",
    "decoder": f"{_MAKE}({{folder!r}}, DECODER) gives it a decoder, whose cross-attention is then to be trained.",
    "cross-attention": f"{_MAKE}(ENCODER, DECODER) joins two checkpoints and starts cross-attention afresh.",
}


def _part(name: str) -> str:
    return "cross-attention" if ".cross_attn" in name else name.split(".", maxsplit=1)[0]


def require_halves(label: str, missing: Collection[str], found: Collection[str]) -> None:
    """Refuse a file that lacks all of one part and has others.

    Args:
        label: The checkpoint's name.
        missing, found: Canonical names of what it lacks and of what it has.

    Raises:
        WeightError: names the part, and the call that joins.
    """
    there = {_part(name) for name in found if not name.endswith((".embed.words.weight", ".head.vocab.weight"))}
    lost = {part: [name for name in missing if _part(name) == part] for part in _HINTS}
    gone = [part for part, names in lost.items() if names and part not in there]
    if not gone or not there:
        return
    what = " and ".join(f"no {part} ({len(lost[part])} tensors)" for part in gone)
    part = next(part for part in gone if part != "cross-attention" or len(gone) == 1)
    raise WeightError(
        f"{label}: the weights do not fit the model: there is {what}.", hint=_HINTS[part].format(folder=label)
    )
