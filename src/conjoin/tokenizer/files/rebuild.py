"""Whether transformers, which builds a class's own pipeline over the vocabulary of a tokenizer.json, gets ours."""

import base64
import json
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer as Backend

from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, text_of
from conjoin.tokenizer.parts import PARTS, Step, part_of, steps
from conjoin.tokenizer.pipeline import GENERIC_CLASS, Pipeline

_FEW = 64  # more than the special tokens that families put first

_FLAGS = (
    *("unk_id", "unk_token", "byte_fallback", "fuse_unk", "ignore_merges", "dropout"),
    *("continuing_subword_prefix", "end_of_word_suffix", "max_input_chars_per_word"),
)


def class_for_transformers(tokenizer: Pipeline, document: Step) -> str:
    """The class to name beside a tokenizer.json: the family's where it builds this pipeline, else the generic one.

    Args:
        document: the content of the tokenizer.json.
    """
    if tokenizer.kind is None or tokenizer.keeps_class:
        return tokenizer.saved_class
    try:
        built = _built(tokenizer, document)
    except Exception:  # tokenizers raises bare Exception; what cannot be built here cannot be built there
        return GENERIC_CLASS
    return tokenizer.saved_class if _alike(built, tokenizer.backend, document["model"]) else GENERIC_CLASS


def _built(tokenizer: Pipeline, document: Step) -> Backend:
    """The pipeline of the family over the first pieces of this vocabulary: the others change no step, and take time."""
    settings = tokenizer.settings
    vocab: Any = document["model"]["vocab"]
    named = [text_of(token) for token in settings.named.values() if token is not None]
    tables = [step.get("precompiled_charsmap") for step in steps(part_of(tokenizer.backend, "normalizer"))]
    table = next((table for table in tables if table), None)
    ids, scores = dict[str, int](), list[tuple[str, float]]()
    if isinstance(vocab, list):
        scores = [(str(piece), float(score)) for piece, score in cast(list[Any], vocab)[:_FEW]]
        have = {piece for piece, _ in scores}
        scores += [(token, 0.0) for token in dict.fromkeys(named) if token not in have]
    else:
        ids = {token: index for token, index in vocab.items() if index < _FEW or token in named}
    vocabulary = Vocabulary(
        origin=Path(settings.origin), ids=ids, scores=scores, charsmap=base64.b64decode(table) if table else None
    )
    options = {key: value for key, value in settings.options.items() if key not in tokenizer.not_rebuilt}
    return tokenizer.build(vocabulary, Settings(options=options, named=dict(settings.named)))


def _alike(built: Backend, ours: Backend, model: Step) -> bool:
    """Whether all but frame and merges is the same; a flag that is off may be left out."""
    if any(part_of(built, part) != part_of(ours, part) for part in PARTS if part != "post_processor"):
        return False
    state: Any = built.model.__getstate__()
    other: Step = json.loads(state)
    flags = [flag for flag in _FLAGS if flag != "unk_token" or not model.get("byte_fallback")]
    return all((model.get(flag) or None) == (other.get(flag) or None) for flag in flags)
