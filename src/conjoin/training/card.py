"""README.md of a trained model: what it is, what it was trained on, how good it is, how to use it."""

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

model = EncoderDecoderModel.from_pretrained("{name}")
batch = model.tokenizer(["{example}"], return_tensors="pt")
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
    """The card's text."""
    results = [f"| {name.removeprefix('eval_')} | {value:.4g} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *results]) if results else "Not evaluated."
    settings = "\n".join(f"- {name}: {value}" for name, value in words.items())
    return _CARD.format(
        name=folder.resolve().name,
        origin=origin,
        steps=steps,
        data=data,
        example="A text to read.",
        results=table,
        settings=settings,
    )
