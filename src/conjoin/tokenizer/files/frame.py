"""What a tokenizer puts around a text: found out, and changed where a caller asks for it."""

from typing import Any

from conjoin.errors import warn
from conjoin.tokenizer.files.sample import SAMPLE
from conjoin.tokenizer.parts import Step, part_of, put_part, steps
from conjoin.tokenizer.pipeline import Pipeline

ENDS = {"add_bos_token": "bos_token", "add_eos_token": "eos_token"}
"""The settings that speak about the two ends of a text, and the tokens that stand there."""


def ends_of(tokenizer: Pipeline) -> dict[str, bool]:
    """Whether a text gets bos in front and eos at its end."""
    encoding = tokenizer.backend.encode(SAMPLE[0])
    ids: list[int | None] = list(encoding.ids)
    own = [part is None for part in encoding.sequence_ids]
    if not ids:
        return dict.fromkeys(ENDS, False)
    return {
        "add_bos_token": own[0] and ids[0] == tokenizer.bos_token_id,
        "add_eos_token": own[-1] and ids[-1] == tokenizer.eos_token_id,
    }


def honour_ends(tokenizer: Pipeline) -> None:
    """Put bos and eos around texts, or leave them out, as the caller asked; a wish that cannot be met warns."""
    options = tokenizer.settings.options
    asked = {name: bool(options[name]) for name in ENDS if name in tokenizer.settings.asked}
    if not asked:
        return
    now = ends_of(tokenizer)
    if now | asked != now and _is_bos_eos(tokenizer):
        options |= now | asked
        tokenizer.set_bos_eos_template()
        now = ends_of(tokenizer)
    options |= now
    missed = [name for name, value in asked.items() if now[name] != value]
    if missed:
        said = " and ".join(f"{name}={asked[name]}" for name in missed)
        lacking = [ENDS[name] for name in missed if getattr(tokenizer, ENDS[name]) is None]
        why = f"the tokenizer has no {' and no '.join(lacking)}" if lacking else "texts have a frame of another kind"
        warn(f"{said} has no effect: {why}.")


def _is_bos_eos(tokenizer: Pipeline) -> bool:
    """Whether nothing but bos and eos stands around a text."""
    encoding = tokenizer.backend.encode(SAMPLE[0])
    frame = {index for index, part in zip(encoding.ids, encoding.sequence_ids, strict=True) if part is None}
    return frame <= {tokenizer.bos_token_id, tokenizer.eos_token_id}


def rename_in_frame(tokenizer: Pipeline, old: str, new: str) -> None:
    """Let `new` stand wherever `old` stands around a text."""
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
