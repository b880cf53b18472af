"""Training: recipes, and the checkpoints that a run goes on from."""

import pickle
import shutil
from dataclasses import fields
from pathlib import Path
from random import Random

import torch

from conjoin import Seq2SeqTrainer
from conjoin.training import TrainingArguments
from conjoin.training.settings.recipe import Recipe, Sources, read_recipe
from fuzz.mutators import change_bytes, change_json, changed, garbled, odd_value, spelled
from fuzz.pickles import change_pickled
from fuzz.runner import Kind
from fuzz.weights import change_safetensors
from training_toys import arguments, toy_model

_RECIPE = {
    "encoder": "bert",
    "decoder": "gpt2",
    "train": "rows.jsonl",
    "learning_rate": 1e-4,
    "num_train_epochs": 3,
    "seed": 1,
}
_WORDS = tuple(each.name for kind in (Sources, TrainingArguments) for each in fields(kind))
_YAML = (
    "a: &a [*a]",
    "seed: 0b_",
    "train: 2001-99-99",
    "a: !!timestamp x",
    "a: !!python/object/apply:os.system ['true']",
    "[" * 2000,
    "seed: 1e400",
    "seed: 0x1F",
    "seed: 1_000",
    "seed: .nan",
    "? [a, b]\n: c",
    "<<: *x",
    "seed: !!binary /w==",
    "seed: 1:30:30",
    "---",
    "\tseed: 3",
    "learning_rate: 1e-4",
    "seed: ~",
    "seed: " + "9" * 5000,
    "seed: !!set {a}",
    "seed: 2001-12-14t21:59:43.10-05:00",
    "%YAML 9.9",
    "a: &x [b,b,b,b,b,b]\nc: &y [*x,*x,*x,*x,*x,*x]\nd: &z [*y,*y,*y,*y,*y,*y]\nseed: [*z,*z,*z,*z,*z,*z]",
)
_TOML = (
    "seed = " + "9" * 5000,
    "seed = 0b_",
    "a = " + "[" * 2000,
    "seed = 1979-05-27T07:32:00Z",
    "seed = inf",
    "seed = nan",
    "seed = 07:32:00",
    "[a.b.c]",
    "a.b = 1\na.b.c = 2",
    "seed = 0xFFFFFFFFFFFFFFFFFFFF",
    'seed = "\\ud800"',
    "seed = {a = 1}",
    "[[seed]]",
    "seed = 1_000",
)


def _text_recipe(values: dict[str, object], toml: bool) -> str:
    separator = " = " if toml else ": "
    return "".join(f"{name}{separator}{spelled(value)}\n" for name, value in values.items())


def _recipe(name: str, toml: bool) -> Kind:
    def build(folder: Path) -> None:
        (folder / name).write_text(_text_recipe(_RECIPE, toml))

    def change(folder: Path, draw: Random) -> None:
        path = folder / name
        if draw.random() < 0.5:
            path.write_bytes(garbled(path.read_bytes(), draw, lines=_TOML if toml else _YAML))
            return
        values = changed(_RECIPE, draw, words=_WORDS)
        values = values if isinstance(values, dict) else {"seed": values}
        values[draw.choice(_WORDS)] = odd_value(draw)
        path.write_text(_text_recipe(values, toml), encoding="utf-8", errors="surrogatepass")

    def use(folder: Path) -> None:
        recipe = Recipe.of(read_recipe(folder / name))
        recipe.sources.require()
        (folder / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        again = Recipe.of(read_recipe(folder / "again.yaml"))
        assert repr(again) == repr(recipe), "written and read again, it is another recipe"

    return Kind("recipe_toml" if toml else "recipe", build, change, use)


def _trainer(folder: Path) -> Seq2SeqTrainer:
    args = arguments(folder / "run", save_steps=2, max_steps=3, ema_decay=0.9)
    return Seq2SeqTrainer(toy_model(dropout=0.1), args=args, train_dataset=_ids())


def _ids() -> list[dict[str, list[int]]]:
    return [{"input_ids": [2, 5 + row, 6, 3], "labels": [6 + row, 7, 3]} for row in range(8)]


def _write_run(folder: Path) -> None:
    _trainer(folder).train()
    run = folder / "run"
    shutil.rmtree(run / "checkpoint-3", ignore_errors=True)
    for path in run.glob("*"):
        if path.is_file() and path.suffix != ".jsonl":
            path.unlink()


def _change_run(folder: Path, draw: Random) -> None:
    checkpoint = folder / "run" / "checkpoint-2"
    for _ in range(draw.choice((1, 1, 2))):
        files = sorted(path for path in (folder / "run").rglob("*") if path.is_file() and not path.name.startswith("."))
        path = draw.choice(files)
        match path.suffix:
            case ".json":
                change_json(path, draw)
            case ".safetensors":
                change_safetensors(path, draw)
            case ".pt" | ".bin":
                change_pickled(path, draw)
            case ".jsonl" | ".yaml" | ".md":
                path.write_bytes(garbled(path.read_bytes(), draw))
            case _:
                change_bytes(path, draw)
    match draw.randrange(12):
        case 0:
            (checkpoint / "shards").mkdir()
            (checkpoint / "shards" / ".metadata").write_bytes(pickle.dumps(_Evil(), 2))
        case 1:
            checkpoint.rename(
                checkpoint.with_name(draw.choice(("checkpoint-²", "checkpoint-99999999999999999999", "checkpoint--1")))
            )
        case 2:
            draw.choice([path for path in checkpoint.iterdir() if path.is_file()]).unlink()
        case _:
            pass


class _Evil:
    """Runs a program where it is unpickled without care."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, ("true",)


def _use_run(folder: Path) -> None:
    trainer = _trainer(folder)
    trainer.train(resume_from_checkpoint=True)
    for name, parameter in trainer.model.named_parameters():
        assert torch.isfinite(parameter).all(), f"{name} of the final model has numbers that are not finite"


KINDS = (
    _recipe("recipe.yaml", toml=False),
    _recipe("recipe.toml", toml=True),
    Kind("trainer", _write_run, _change_run, _use_run),
)
