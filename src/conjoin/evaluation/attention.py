"""What the decoder looks at in the source: recorded from a model, drawn by the report."""

import json
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import replacing_file
from conjoin.evaluation.texts import source_limit

Read = Callable[[Mapping[str, NDArray[np.int64]]], list[NDArray[np.float32]]]
"""input_ids and labels of one pair -> what the decoder reads, layer by layer: [1, H, T, S]."""

FILE = "attention.json"
LONGEST = 60
"""Tokens of a side that are kept: a picture of more cannot be read."""


def record(model: Any, read: Read, pairs: Iterable[tuple[str, str]], path: str | PathLike[str]) -> None:
    """Write the cross-attention of some pairs: one matrix per layer, the mean of its heads.

    Row t is what the model reads while it predicts token t of the target, with the true tokens before it.

    Args:
        model: Any framework's; its tokenizer and sizes are used.
        read: How that framework looks into it.
        pairs: (source, target) texts; a handful.
        path: A run's `attention.json`.

    Raises:
        FileError: the file cannot be written.
        TokenizerError: the model has no tokenizer.
    """
    found = [_one(model, read, source, target) for source, target in pairs]
    with replacing_file(Path(path)) as file:
        json.dump(found, file, ensure_ascii=False)


def _one(model: Any, read: Read, source: str, target: str) -> dict[str, Any]:
    tokenizer = model.tokenizer
    reader, writer = (getattr(tokenizer, side, tokenizer) for side in ("source", "target"))
    room = min(LONGEST, model.spec.decoder.max_positions or LONGEST)
    limit = min(LONGEST, source_limit(model, None) or LONGEST)
    ids = tokenizer([source], truncation=True, max_length=limit)["input_ids"]
    labels = tokenizer(text_target=[target], truncation=True, max_length=room)["input_ids"]
    layers = read({"input_ids": np.array(ids, np.int64), "labels": np.array(labels, np.int64)})
    return {
        "source": reader.convert_ids_to_tokens(ids[0]),
        "target": writer.convert_ids_to_tokens(labels[0]),
        "layers": [[[round(weight, 4) for weight in row] for row in layer[0].mean(0).tolist()] for layer in layers],
    }
