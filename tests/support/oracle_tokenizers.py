"""The oracle of the tokenizer tests: transformers' own tokenizers over the same files."""

import logging
import warnings
from pathlib import Path
from typing import Any

import transformers

transformers.utils.logging.set_verbosity(logging.CRITICAL)


def load(folder: Path, class_name: str = "AutoTokenizer", **overrides: Any) -> Any:
    """Load with transformers' class of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, class_name).from_pretrained(str(folder), **overrides)


def merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """The BPE merges that transformers rebuilds from a SentencePiece vocabulary."""
    return transformers.tokenization_utils_base.generate_merges(vocab)


def call(tokenizer: Any, *texts: Any, **options: Any) -> dict[str, Any]:
    """Call it; a plain dict of lists comes back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(tokenizer(*texts, **options))
