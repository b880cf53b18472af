"""The parts of a Rust pipeline as JSON: read, changed, and put back."""

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

from tokenizers import Tokenizer as Backend

Step = dict[str, Any]

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
_SMALL: Step = {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}  # parses in no time


def part_of(backend: Backend, name: str) -> Step | None:
    """One part of a pipeline, as tokenizer.json writes it; None where it has none."""
    part: Any = getattr(backend, name)
    return None if part is None else json.loads(part.__getstate__())


def steps(part: Step | None) -> Iterator[Step]:
    """The steps of a part in their order; a Sequence counts as what it holds."""
    if part is None:
        return
    inner = next((part[name] for name in _INNER if part.get("type") == "Sequence" and name in part), None)
    if inner is None:
        yield part
        return
    for step in cast(list[Step], inner):
        yield from steps(step)


def find_step(backend: Backend, part: str, *kinds: str) -> Step | None:
    """The first step of a part that is of one of these types."""
    return next((step for step in steps(part_of(backend, part)) if step["type"] in kinds), None)


def change_steps(backend: Backend, part: str, change: Callable[[Step], None]) -> None:
    """Let `change` write into every step of a part, and put the part back."""
    document = part_of(backend, part)
    if document is None:
        return
    for step in steps(document):
        change(step)
    put_part(backend, part, document)


def put_part(backend: Backend, part: str, document: Step) -> None:
    """Replace one part of a pipeline by what tokenizer.json would say."""
    written: Step = {"version": "1.0", "added_tokens": [], "model": _SMALL, **dict.fromkeys(PARTS), part: document}
    setattr(backend, part, getattr(Backend.from_str(json.dumps(written)), part))
