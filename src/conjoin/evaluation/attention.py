"""What the decoder looks at in the source: recorded from a model, drawn by the report."""

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conjoin.checkpoint import replacing_file
from conjoin.evaluation.texts import evaluating, pad_sources, source_limit

if TYPE_CHECKING:
    from conjoin.torch.model import EncoderDecoderModel

FILE = "attention.json"
LONGEST = 60
"""Tokens of a side that are kept: a picture of more cannot be read."""


def record(model: "EncoderDecoderModel", pairs: Iterable[tuple[str, str]], path: str | PathLike[str]) -> None:
    """Write the cross-attention of some pairs: one matrix per layer, the mean of its heads.

    Row t is what the model reads while it predicts token t of the target, with the true tokens before it.

    Args:
        pairs: (source, target) texts; a handful.
        path: A run's `attention.json`.

    Raises:
        FileError: the file cannot be written.
        TokenizerError: the model has no tokenizer.
    """
    with evaluating(model):
        found = [_one(model, source, target) for source, target in pairs]
    with replacing_file(Path(path)) as file:
        json.dump(found, file, ensure_ascii=False)


def _one(model: "EncoderDecoderModel", source: str, target: str) -> dict[str, Any]:
    import torch

    tokenizer: Any = model.tokenizer
    reader, writer = (getattr(tokenizer, side, tokenizer) for side in ("source", "target"))
    room = min(LONGEST, model.decoder.spec.max_positions or LONGEST)
    limit = min(LONGEST, source_limit(model, None) or LONGEST)
    ids = tokenizer([source], truncation=True, max_length=limit)["input_ids"]
    labels = tokenizer(text_target=[target], truncation=True, max_length=room)["input_ids"]
    with torch.inference_mode():
        output: Any = model(
            **pad_sources(model, ids), labels=torch.tensor(labels, device=model.device), output_attentions=True
        )
    layers = [layer[0].float().mean(0).cpu().tolist() for layer in output.cross_attentions or ()]
    return {
        "source": reader.convert_ids_to_tokens(ids[0]),
        "target": writer.convert_ids_to_tokens(labels[0]),
        "layers": [[[round(weight, 4) for weight in row] for row in layer] for layer in layers],
    }
