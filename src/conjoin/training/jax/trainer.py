"""Seq2SeqTrainer on JAX."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from conjoin.errors import ConfigError
from conjoin.join.diagnosis import Diagnosis
from conjoin.training.data.candidates import RankedExamples
from conjoin.training.jax.engine import Engine
from conjoin.training.jax.trained import trained_names
from conjoin.training.loop.trainer import PredictionOutput, Trainer, TrainOutput
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.settings.choices import Machine
from conjoin.training.world import Alone


class Seq2SeqTrainer(Trainer[Alone]):
    """Trains and evaluates a `FlaxEncoderDecoderModel`; see conjoin.training.loop.trainer.Trainer."""

    def place(self, model: Any) -> tuple[Any, Alone]:
        """Refuse what only PyTorch does, and put the model on the CPU where that is asked for."""
        _check(self.args)
        if self.args.use_cpu:
            devices = cast("list[Any]", jax.devices("cpu"))
            model.params = jax.device_put(model.flat_params, devices[0])
        return model, Alone()

    def make_engine(self, arguments: TrainingArguments, total_steps: int, fresh: Sequence[str]) -> Engine:
        """What trains and evaluates the model."""
        if isinstance(self.train_examples, RankedExamples):
            raise ConfigError("framework = jax cannot rank candidates.", hint="--framework torch does.")
        return Engine(self.model, arguments, total_steps, fresh, self.source_pad)

    def seed(self) -> None:
        """Nothing: there are keys in place of generators, made of the seed and the step."""

    def machine(self) -> Machine:
        """Return what computes: XLA's bfloat16 pays on GPUs and TPUs, not on CPUs."""
        kind = "cpu" if self.args.use_cpu else jax.default_backend()
        return Machine(bf16=None if kind == "cpu" else f"the {kind} device", is_gpu=kind != "cpu")

    def diagnose(self, batch: Mapping[str, NDArray[np.int64]]) -> Diagnosis:
        """The doctor's findings on a batch; what is frozen is said by the arguments."""
        return self.model.doctor(batch, trained=trained_names(self.model, self.args))


def _check(args: TrainingArguments) -> None:
    """Refuse arguments that would have no effect."""
    fixes = {
        "fp16": "bf16 computes in half precision and needs no scaled loss.",
        "torch_compile": "leave it out: JAX compiles every step.",
        "teacher": "train with --framework torch, or on the teacher's texts (--pseudo-labels).",
        "lora": "train with --framework torch.",
        "r_drop": "train with --framework torch.",
        "fsdp": "leave it out; conjoin.jax.sharding spreads a model over devices, in a loop of your own.",
    }
    wrong = [name for name in fixes if getattr(args, name) not in (None, False, 0, "none")]
    if wrong:
        raise ConfigError(
            f"Not possible with framework = jax: {', '.join(wrong)}.", hint=" ".join(fixes[name] for name in wrong)
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"framework = jax trains in one process, and a launcher started {os.environ['WORLD_SIZE']}.",
            hint="start conjoin train without torchrun or accelerate, or train with --framework torch.",
        )


__all__ = ["PredictionOutput", "Seq2SeqTrainer", "TrainOutput"]
