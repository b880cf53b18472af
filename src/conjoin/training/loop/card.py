"""README.md of a trained model: what it is, what it was trained on, how good it is, how to use it."""

import re
from pathlib import Path
from typing import Any

_CARD = """---
library_name: conjoin
tags: [encoder-decoder, sequence-to-sequence, conjoin]
---
# {name}

{origin}, fine-tuned with conjoin for {steps} steps on {data}.

```python
from conjoin import EncoderDecoderModel

model = EncoderDecoderModel.from_pretrained({load})
batch = model.tokenizer(["A text to read."], return_tensors="pt")
ids = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"])
print(model.tokenizer.batch_decode(ids, skip_special_tokens=True)[0])
```

## Evaluation

{results}

## Training

`recipe.yaml` in this folder repeats the run: `conjoin train --config recipe.yaml --out another-folder`.

{settings}
"""


def model_card(
    folder: Path, *, origin: str, data: str, steps: int, metrics: dict[str, Any], words: dict[str, Any]
) -> str:
    """The card's text: whatever names hold, they are read as names by Markdown, HTML and Python."""
    results = [f"| {as_text(name.removeprefix('eval_'))} | {value:.4g} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *results]) if results else "Not evaluated."
    settings = "\n".join(f"- {name}: {as_text(str(value))}" for name, value in words.items())
    name = folder.resolve().name
    return _CARD.format(
        name=as_text(name),
        load=f'"{name}"' if name.isprintable() and not set('"\\') & set(name) else repr(name),
        origin=origin,
        steps=steps,
        data=as_text(data),
        results=table,
        settings=settings,
    )


_MARKUP = frozenset("\\`*[]#|~$")
"""What begins markup inside a line; an underscore inside a word begins none."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_text(name: str) -> str:
    """A name in a line of Markdown: nothing in it is markup, HTML or a new line."""
    line = " ".join(name.encode(errors="backslashreplace").decode().split())
    escaped = "".join(f"\\{c}" if c in _MARKUP else _ENTITIES.get(c, c) for c in line)
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)
    return "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in escaped)


def as_code(name: str) -> str:
    """A name in a code span: fenced by more backticks than it has in a row."""
    line = " ".join(name.encode(errors="backslashreplace").decode().split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"
