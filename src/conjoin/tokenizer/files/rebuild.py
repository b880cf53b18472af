"""Check whether transformers, which rebuilds a class's pipeline over the vocabulary of a tokenizer.json, gets ours."""

import base64
import json
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as Backend

from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, text_of
from conjoin.tokenizer.parts import PARTS, Step, part_of, steps
from conjoin.tokenizer.pipeline import GENERIC_CLASS, Pipeline

_FEW = 128  # more than the special tokens that families put first

_FLAGS = (
    *("unk_id", "unk_token", "byte_fallback", "fuse_unk", "ignore_merges", "dropout"),
    *("continuing_subword_prefix", "end_of_word_suffix", "max_input_chars_per_word"),
)


def class_for_transformers(tokenizer: Pipeline, document: Step) -> str:
    """Return the class to save with a tokenizer.json: the family's if it builds this pipeline, else the generic one.

    Args:
        document: the content of the tokenizer.json.
    """
    if tokenizer.kind is None or tokenizer.keeps_class:
        return tokenizer.saved_class
    try:
        rebuilt = _rebuild(tokenizer, document)
    except Exception:  # tokenizers raises bare Exception; transformers could not build it either
        return GENERIC_CLASS
    return tokenizer.saved_class if _is_equal(rebuilt, tokenizer.backend, document["model"]) else GENERIC_CLASS


def _rebuild(tokenizer: Pipeline, document: Step) -> Backend:
    """Build the family's pipeline over the first pieces of this vocabulary; the others would only take time."""
    settings = tokenizer.settings
    vocab: Any = document["model"]["vocab"]
    named = [text_of(token) for token in settings.named.values() if token is not None]
    tables = [step.get("precompiled_charsmap") for step in steps(part_of(tokenizer.backend, "normalizer"))]
    table = next((table for table in tables if table), None)
    ids, scores = dict[str, int](), list[tuple[str, float]]()
    if isinstance(vocab, list):
        scores = [(str(piece), float(score)) for piece, score in cast(list[Any], vocab)[:_FEW]]
        pieces = {piece for piece, _ in scores}
        scores += [(token, 0.0) for token in dict.fromkeys(named) if token not in pieces]
    else:
        ids = {token: index for token, index in vocab.items() if index < _FEW or token in named}
    vocabulary = Vocabulary(
        origin=Path(settings.origin), ids=ids, scores=scores, charsmap=base64.b64decode(table) if table else None
    )
    options = {key: value for key, value in settings.options.items() if key not in tokenizer.not_rebuilt}
    return tokenizer.build(vocabulary, Settings(options=options, named=dict(settings.named)))


def _is_equal(rebuilt: Backend, ours: Backend, model: Step) -> bool:
    """True if all but frame and merges are equal; a flag that is off may be missing."""
    if any(part_of(rebuilt, part) != part_of(ours, part) for part in PARTS if part != "post_processor"):
        return False
    state: Any = rebuilt.model.__getstate__()
    other: Step = json.loads(state)
    flags = [flag for flag in _FLAGS if flag != "unk_token" or not model.get("byte_fallback")]
    return all((model.get(flag) or None) == (other.get(flag) or None) for flag in flags)
