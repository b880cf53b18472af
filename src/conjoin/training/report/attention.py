"""Record the cross-attention weights of a model for the report, which draws them."""

import json
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from conjoin.checkpoint import replacing_file
from conjoin.errors import FileError
from conjoin.evaluation.texts import source_limit
from conjoin.jsons import JsonError, parse_json

Read = Callable[[Mapping[str, NDArray[np.int64]]], list[NDArray[np.float32]]]
"""Returns the cross-attention weights of every layer, [1, H, T, S], for input_ids and labels of one pair."""

FILE = "attention.json"
LONGEST = 60
"""Maximum number of source and of target tokens; a larger picture would be illegible."""


def record(model: Any, read: Read, pairs: Iterable[tuple[str, str]], path: str | PathLike[str]) -> None:
    """Write the cross-attention of some pairs: one matrix per layer, the mean over heads.

    Row t holds the weights with which token t of the target is predicted, given the true tokens before it.

    Args:
        model: A model of any framework; its tokenizer and sizes are used.
        read: Computes the model's attention weights.
        pairs: A few (source, target) texts.
        path: A run's `attention.json`.

    Raises:
        FileError: the file cannot be written.
        TokenizerError: the model has no tokenizer.
    """
    examples = [_attention_of(model, read, source, target) for source, target in pairs]
    with replacing_file(Path(path)) as file:
        json.dump(examples, file, ensure_ascii=False)


def read(path: Path) -> list[dict[str, Any]]:
    """Read what `record` wrote.

    Raises:
        FileError: the file cannot be read, or holds something else.
    """
    try:
        examples: Any = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JsonError) as error:
        raise FileError(f"{path}: cannot be read: {str(error).removesuffix('.')}.") from None
    for number, example in enumerate(cast("list[Any]", examples) if isinstance(examples, list) else [None], 1):
        if not _is_example(example):
            raise FileError(
                f"{path}: entry {number} is no attention of a pair; expected source, target and one matrix per layer.",
                hint="move the file away; the report is written without it.",
            )
    return cast("list[Any]", examples)


def _is_example(example: Any) -> bool:
    if not isinstance(example, dict):
        return False
    fields = cast("dict[str, Any]", example)
    source: Any = fields.get("source")
    target: Any = fields.get("target")
    layers: Any = fields.get("layers")
    return (
        _is_list_of(source, lambda token: isinstance(token, str))
        and _is_list_of(target, lambda token: isinstance(token, str))
        and _is_list_of(layers, lambda layer: _is_list_of(layer, lambda row: _is_row(row, len(source)), len(target)))
    )


def _is_list_of(values: Any, holds: Callable[[Any], bool], count: int | None = None) -> bool:
    if not isinstance(values, list) or (count is not None and len(cast("list[Any]", values)) != count):
        return False
    return all(map(holds, cast("list[Any]", values)))


def _is_row(row: Any, length: int) -> bool:
    return _is_list_of(row, lambda weight: type(weight) in (int, float) and 0 <= weight <= 1, length)


def _attention_of(model: Any, read: Read, source: str, target: str) -> dict[str, Any]:
    tokenizer = model.tokenizer
    source_tokenizer, target_tokenizer = (getattr(tokenizer, side, tokenizer) for side in ("source", "target"))
    max_target = min(LONGEST, model.spec.decoder.max_positions or LONGEST)
    max_source = min(LONGEST, source_limit(model, None) or LONGEST)
    ids = tokenizer([source], truncation=True, max_length=max_source)["input_ids"]
    labels = tokenizer(text_target=[target], truncation=True, max_length=max_target)["input_ids"]
    layers = read({"input_ids": np.array(ids, np.int64), "labels": np.array(labels, np.int64)})
    return {
        "source": source_tokenizer.convert_ids_to_tokens(ids[0]),
        "target": target_tokenizer.convert_ids_to_tokens(labels[0]),
        "layers": [[[round(weight, 4) for weight in row] for row in layer[0].mean(0).tolist()] for layer in layers],
    }
