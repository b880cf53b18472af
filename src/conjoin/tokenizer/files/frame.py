"""The frame of a tokenizer, the special tokens that it adds around a text: read, and changed on request."""

from typing import Any

from conjoin.errors import warn
from conjoin.tokenizer.files.sample import SAMPLE
from conjoin.tokenizer.parts import Step, part_of, put_part, steps
from conjoin.tokenizer.pipeline import Pipeline

ENDS = {"add_bos_token": "bos_token", "add_eos_token": "eos_token"}
"""Settings of the two ends of a text, and the special tokens that they add there."""


def ends_of(tokenizer: Pipeline) -> dict[str, bool]:
    """Return whether texts get bos in front and eos at the end."""
    encoding = tokenizer.backend.encode(SAMPLE[0])
    ids: list[int | None] = list(encoding.ids)
    is_special = [part is None for part in encoding.sequence_ids]
    if not ids:
        return dict.fromkeys(ENDS, False)
    return {
        "add_bos_token": is_special[0] and ids[0] == tokenizer.bos_token_id,
        "add_eos_token": is_special[-1] and ids[-1] == tokenizer.eos_token_id,
    }


def honour_ends(tokenizer: Pipeline) -> None:
    """Add bos and eos to texts, or leave them out, as the caller passed; warn if that is not possible."""
    options = tokenizer.settings.options
    requested = {name: bool(options[name]) for name in ENDS if name in tokenizer.settings.asked}
    if not requested:
        return
    current = ends_of(tokenizer)
    if current | requested != current and _is_bos_eos(tokenizer):
        options |= current | requested
        tokenizer.set_bos_eos_template()
        current = ends_of(tokenizer)
    options |= current
    ignored = [name for name, value in requested.items() if current[name] != value]
    if ignored:
        settings = " and ".join(f"{name}={requested[name]}" for name in ignored)
        missing = [ENDS[name] for name in ignored if getattr(tokenizer, ENDS[name]) is None]
        reason = f"the tokenizer has no {' and no '.join(missing)}" if missing else "texts have a frame of another kind"
        warn(f"{settings} has no effect: {reason}.")


def _is_bos_eos(tokenizer: Pipeline) -> bool:
    """True if the frame has no special tokens but bos and eos."""
    encoding = tokenizer.backend.encode(SAMPLE[0])
    frame = {index for index, part in zip(encoding.ids, encoding.sequence_ids, strict=True) if part is None}
    return frame <= {tokenizer.bos_token_id, tokenizer.eos_token_id}


def rename_in_frame(tokenizer: Pipeline, old: str, new: str) -> None:
    """Replace `old` by `new` in the frame."""
    backend = tokenizer.backend
    document = part_of(backend, "post_processor")
    index = backend.token_to_id(new)
    if document is None or index is None:
        return
    for step in steps(document):
        if step["type"] == "TemplateProcessing":
            _rename_in_template(step, old, new, index)
        for key in ("sep", "cls"):
            if isinstance(step.get(key), list) and step[key][0] == old:
                step[key] = [new, index]
    put_part(backend, "post_processor", document)


def _rename_in_template(step: Step, old: str, new: str, index: int) -> None:
    labels = [label for label, token in step["special_tokens"].items() if token["tokens"] == [old]]
    for label in labels:
        del step["special_tokens"][label]
        step["special_tokens"][new] = {"id": new, "ids": [index], "tokens": [new]}
    items: list[dict[str, Any]] = [*step["single"], *step["pair"]]
    for item in items:
        if item.get("SpecialToken", {}).get("id") in labels:
            item["SpecialToken"]["id"] = new
