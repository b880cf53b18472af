"""The end of a run: the final model with its card and recipe, and the report."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from conjoin.checkpoint import Staging, replacing_folder
from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import ConjoinError, warn
from conjoin.training.data.corpus import Corpus
from conjoin.training.folder.metrics_log import is_number, read_log
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.folder.state import TrainerState
from conjoin.training.loop.engine import Engine
from conjoin.training.loop.start import Task
from conjoin.training.report import attention
from conjoin.training.report.report import write_report
from conjoin.training.settings.recipe import RECIPE_FILE

SHOWN = ("learning_rate", "num_train_epochs", "per_device_train_batch_size", "tokens_per_batch", "seed")
_CARD = """---
library_name: conjoin
tags: [encoder-decoder, sequence-to-sequence, conjoin]
---
# {name}

{origin}, fine-tuned with conjoin for {steps} steps on {data}.

```python
from conjoin import EncoderDecoderModel

{use}
print(model.tokenizer.batch_decode(ids, skip_special_tokens=True)[0])
```

## Evaluation

{results}

## Training

{repeat}

{settings}
"""
_OF_TEXTS = """model = EncoderDecoderModel.from_pretrained({load})
batch = model.tokenizer(["A text to read."], return_tensors="pt")
ids = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"])"""
_OF_ARRAYS = """model = EncoderDecoderModel.from_pretrained({load}, encoder=module)  # as it was built for training
ids = model.generate(batch)"""
_REPEAT = "`recipe.yaml` in this folder repeats the run: `conjoin train --config recipe.yaml --out another-folder`."
_REPEAT_IN_PYTHON = "In Python, with `Seq2SeqTrainer`: the encoder is a module of the caller's."


def write_final_model(
    task: Task, state: TrainerState, folder: RunFolder, engine: Engine, average: Callable[[], Mapping[str, float]]
) -> None:
    """Give the model its final weights and write it into the run's folder.

    Args:
        average: Replaces them by a mean of earlier weights, and returns its metrics, if that is better.
    """
    best = next((c for c in folder.checkpoints() if c.step == state.best_step), None)
    if task.args.load_best_model_at_end and best is not None:
        engine.restore(best.folder, best.step)
    engine.use_final_weights()
    metrics = average()
    write_pair = engine.gather_weights()
    task.world.on_first(lambda: _write(task, state, folder, engine, write_pair, metrics))


def _write(
    task: Task,
    state: TrainerState,
    folder: RunFolder,
    engine: Engine,
    write_pair: Callable[[Staging], None],
    metrics: Mapping[str, float],
) -> None:
    with replacing_folder(folder.path) as staging:
        write_pair(staging)
        staging.path("README.md").write_text(_card(task, state, folder, metrics), encoding="utf-8")
        if task.recipe is not None:
            staging.path(RECIPE_FILE).write_text(task.recipe.lasting().to_yaml(), encoding="utf-8")
    _report(task, folder, engine)


def _card(task: Task, state: TrainerState, folder: RunFolder, metrics: Mapping[str, float]) -> str:
    """Return the model card.

    Args:
        metrics: Of the final weights, if they are those of no evaluation in the log.
    """
    step = state.best_step if task.args.load_best_model_at_end else None
    evaluations = [line for line in _evaluations(folder) if step in (None, line["step"])]
    numbers: Mapping[str, Any] = metrics or (evaluations[-1] if evaluations else {})
    settings = {name: getattr(task.args, name) for name in SHOWN}
    unit = "segments" if isinstance(task.examples, Corpus) else "pairs"
    return model_card(
        folder.path,
        origin=_origin(task),
        data=f"{len(task.examples):,} {unit} ({task.examples.name})",
        steps=state.global_step,
        metrics={name: value for name, value in numbers.items() if name.startswith("eval_") and is_number(value)},
        settings={name: value for name, value in settings.items() if value is not None},
        reads_ids=task.model.reads_ids,
    )


def _evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the evaluations in the log; if it was damaged while the run went on, the model is saved without them."""
    try:
        return [line for line in read_log(folder.path) if line["kind"] == "eval"]
    except ConjoinError as error:
        warn(f"The model card says nothing of evaluations: {error}")
        return []


def _origin(task: Task) -> str:
    sources = task.recipe.sources if task.recipe else None
    if sources and sources.encoder:
        return f"{as_code(sources.encoder)} joined to {as_code(str(sources.decoder))}"
    if sources and sources.model:
        return as_code(sources.model)
    config = task.model.config
    if isinstance(config, EncoderDecoderConfig) and not task.model.reads_ids:
        encoder = as_code(task.model.spec.encoder.family)
        return f"A {encoder} of the caller's as encoder, joined to a {config.decoder.model_type} decoder"
    if isinstance(config, EncoderDecoderConfig):
        return f"A {config.encoder.model_type} encoder joined to a {config.decoder.model_type} decoder"
    return f"A {config.model_type} model"


def _report(task: Task, folder: RunFolder, engine: Engine) -> None:
    """Write the report, with the attention of the pairs that samples are shown of.

    The model is saved by now, so a report that cannot be written is a warning.
    """
    texts = task.eval_examples.texts if task.eval_examples is not None else None
    try:
        if texts is not None and task.tokenizer is not None and task.args.fsdp == "none":
            shown = slice(task.args.eval_samples)
            pairs = list(zip(texts.sources[shown], texts.targets[shown], strict=True))
            attention.record(task.model, engine.cross_attention, pairs, folder.path / attention.FILE)
        write_report(folder.path)
    except ConjoinError as error:
        warn(f"The model is saved, but not its report: {error}")


def model_card(
    folder: Path,
    *,
    origin: str,
    data: str,
    steps: int,
    metrics: dict[str, Any],
    settings: dict[str, Any],
    reads_ids: bool = True,
) -> str:
    """Return the README of a trained model; names in it are escaped for Markdown, HTML and Python.

    Args:
        reads_ids: False if its encoder is a module of the caller's, which reads no texts.
    """
    rows = [f"| {as_text(name.removeprefix('eval_'))} | {value:.4g} |" for name, value in metrics.items()]
    table = "\n".join(["| metric | value |", "|---|---|", *rows]) if rows else "Not evaluated."
    name = folder.resolve().name
    load = f'"{name}"' if name.isprintable() and not set('"\\') & set(name) else repr(name)
    return _CARD.format(
        name=as_text(name),
        use=(_OF_TEXTS if reads_ids else _OF_ARRAYS).format(load=load),
        repeat=_REPEAT if reads_ids else _REPEAT_IN_PYTHON,
        origin=origin,
        steps=steps,
        data=as_text(data),
        results=table,
        settings="\n".join(f"- {name}: {as_text(str(value))}" for name, value in settings.items()),
    )


_MARKUP = frozenset("\\`*[]#|~$")
"""Characters that begin markup inside a line; an underscore inside a word begins none."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_text(name: str) -> str:
    """Escape a name for a line of Markdown, so that nothing in it is markup, HTML or a new line."""
    line = " ".join(name.encode(errors="backslashreplace").decode().split())
    escaped = "".join(f"\\{c}" if c in _MARKUP else _ENTITIES.get(c, c) for c in line)
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)
    return "".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in escaped)


def as_code(name: str) -> str:
    """Return a name as a code span, fenced by more backticks than it has in a row."""
    line = " ".join(name.encode(errors="backslashreplace").decode().split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"
