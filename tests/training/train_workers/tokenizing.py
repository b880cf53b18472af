"""Tokenize a file into the cache and print what was made; with a number, die at that part."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from conjoin import TrainingArguments
from conjoin.training.data import tokenizing
from conjoin.training.data.datasets import Making, to_examples
from training_toys import tokenizers, toy_model

path, folder, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calls: list[int] = []
tokenize = tokenizing._tokenize


def count(*arguments: Any) -> Any:
    """Tokenize a part, or die."""
    calls.append(1)
    if len(calls) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return tokenize(*arguments)


tokenizing._tokenize = count
making = Making(
    TrainingArguments(max_source_length=14, max_target_length=13), toy_model().spec, tokenizers(folder), shown=False
)
print(json.dumps({"fingerprint": to_examples(path, "the data", making).fingerprint(), "parts": len(calls)}))
