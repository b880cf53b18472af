"""Read and write the parts of a Rust pipeline as JSON."""

import json
from collections.abc import Callable, Iterator
from typing import Any, cast

from tokenizers import Tokenizer as Backend

Step = dict[str, Any]

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_INNER = ("normalizers", "pretokenizers", "processors", "decoders")
_SMALL: Step = {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}  # small, so that it parses fast


def part_of(backend: Backend, name: str) -> Step | None:
    """Return one part of a pipeline as in tokenizer.json; None if it has none."""
    part: Any = getattr(backend, name)
    return None if part is None else json.loads(part.__getstate__())


def steps(part: Step | None) -> Iterator[Step]:
    """Yield the steps of a part in order, those of a Sequence one by one."""
    if part is None:
        return
    inner = next((part[name] for name in _INNER if part.get("type") == "Sequence" and name in part), None)
    if inner is None:
        yield part
        return
    for step in cast(list[Step], inner):
        yield from steps(step)


def find_step(backend: Backend, part: str, *kinds: str) -> Step | None:
    """Return the first step of a part that has one of these types; None without one."""
    return next((step for step in steps(part_of(backend, part)) if step["type"] in kinds), None)


def change_steps(backend: Backend, part: str, change: Callable[[Step], None]) -> None:
    """Call `change` on every step of a part, and write the part back."""
    document = part_of(backend, part)
    if document is None:
        return
    for step in steps(document):
        change(step)
    put_part(backend, part, document)


def put_part(backend: Backend, part: str, document: Step) -> None:
    """Replace one part of a pipeline by its form in tokenizer.json."""
    written: Step = {"version": "1.0", "added_tokens": [], "model": _SMALL, **dict.fromkeys(PARTS), part: document}
    setattr(backend, part, getattr(Backend.from_str(json.dumps(written)), part))
