"""Trains the same run several times in processes of its own: undisturbed, and killed at given points and resumed.

Usage: python killed_runs.py FOLDER POINT...; every child is forked from this process, which imported everything once.
"""

import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which the first optimizer of a process imports: two seconds for every child

import conjoin.checkpoint.write as weight_files
from conjoin import Seq2SeqTrainer
from conjoin.checkpoint import exchange
from conjoin.training import TrainerCallback
from conjoin.training.folder.metrics_log import MetricsLog
from conjoin.training.folder.run_folder import RunFolder
from training_toys import arguments, toy_model, toy_rows

SETTINGS: dict[str, Any] = {
    "max_steps": 9,
    "tokens_per_batch": 150,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "ema_decay": 0.9,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_steps": 2,
    "seed": 5,
}


def train(run: Path, callbacks: Any = (), **changes: Any) -> None:
    """Begin the run, or go on with it."""
    model = toy_model(run.parent / f"tokenizers-{run.name}", dropout=0.1)
    args = arguments(run, resume_from_checkpoint="latest", **SETTINGS | changes)
    Seq2SeqTrainer(
        model, args=args, train_dataset=toy_rows(80), eval_dataset=toy_rows(8, 1), callbacks=callbacks
    ).train()


def die() -> None:
    """As `kill -9` does: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


class DieAfter(TrainerCallback):
    """Dies at the end of a step, before it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
        if state.global_step == self.step:
            die()


def on_call(count: int, work: Callable[..., Any], before: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, but the call of that number does `before` and dies."""
    calls = iter(range(1, 10**6))

    def called(*given: Any, **named: Any) -> Any:
        if next(calls) == count:
            before(*given, **named)
            die()
        return work(*given, **named)

    return called


def half_of_the_weights(path: Path, *_: Any) -> None:
    Path(path).write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")


def half_of_a_pickle(_: Any, path: Path) -> None:
    Path(path).write_bytes(b"PK\x03\x04")


def half_a_line(log: MetricsLog, *_: Any) -> None:
    log._file.write('{"step": 7, "kind": "tra')
    log._file.flush()


def nothing(*_: Any, **__: Any) -> None:
    pass


def killed(run: Path, point: str) -> None:
    """The run, until a point of it."""
    what, _, number = point.partition(":")
    count = int(number)
    callbacks: list[TrainerCallback] = []
    match what:
        case "step":
            callbacks = [DieAfter(count)]
        case "weights":
            weight_files._write_file = on_call(count, weight_files._write_file, half_of_the_weights)
        case "random-states":
            torch.save = on_call(count, torch.save, half_of_a_pickle)
        case "before-swap":
            exchange.put_in_place = on_call(count, exchange.put_in_place, nothing)
        case "after-swap":
            exchange.put_in_place = on_call(count, exchange.put_in_place, exchange.put_in_place)
        case "rotation":
            RunFolder._discard = on_call(count, RunFolder._discard, hide_the_first)  # type: ignore[method-assign]
        case "log":
            MetricsLog.write = on_call(count, MetricsLog.write, half_a_line)  # type: ignore[method-assign]
        case _:
            raise ValueError(point)
    train(run, callbacks)


def hide_the_first(self: RunFolder, folders: Any) -> None:
    """What a deletion does before it takes time."""
    first = next(iter(folders))
    first.rename(first.with_name(f".discarded-{first.name}"))


def in_child(work: Callable[[], None], kill_after_s: float | None = None) -> int:
    """Run in a forked process; returns its exit code, or minus its signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def again_and_again(run: Path) -> int:
    """Kill the run at random moments, more and more seldom, until it comes through; returns how often."""
    draw, kills = random.Random(3), 0
    while in_child(lambda: train(run, save_steps=1), draw.uniform(0.1, 0.5) * (1 + kills / 4)) != 0:
        kills += 1
    return kills


def main() -> None:
    """Run what the command line names."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    assert in_child(lambda: train(folder / "whole")) == 0
    for point in sys.argv[2:]:
        run = folder / point
        if point == "random":
            print(f"random killed {again_and_again(run)} times", flush=True)
            continue
        assert in_child(lambda run=run, point=point: killed(run, point)) == -signal.SIGKILL, point
        assert in_child(lambda run=run: train(run)) == 0, point


if __name__ == "__main__":
    main()
