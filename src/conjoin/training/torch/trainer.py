"""Seq2SeqTrainer on PyTorch."""

from collections.abc import Sequence
from typing import Any

import torch

from conjoin.errors import ConfigError
from conjoin.torch.cpu.linear_grad import use_products
from conjoin.torch.pair.lora import add_adapters
from conjoin.torch.pair.model import EncoderDecoderModel
from conjoin.training.data.corpus import Corpus
from conjoin.training.loop.trainer import PredictionOutput, Trainer, TrainOutput
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.settings.choices import Machine
from conjoin.training.torch.checkpoints import seed_all
from conjoin.training.torch.choose_objective import build_objective
from conjoin.training.torch.engine import Engine
from conjoin.training.torch.objectives import Objective
from conjoin.training.torch.world import World, join_world


class Seq2SeqTrainer(Trainer[World]):
    """Trains and evaluates an `EncoderDecoderModel`; see conjoin.training.loop.trainer.Trainer."""

    def place(self, model: Any) -> tuple[Any, World]:
        """Join the processes, and put the model on this one's device."""
        world = join_world(use_cpu=self.args.use_cpu)
        if self.args.lora is not None:
            self._add_adapters(model, self.args.lora)
        if self.args.freeze:
            model.freeze(*(part.strip() for part in self.args.freeze.split(",")))
        return model.to(world.device), world

    def _add_adapters(self, model: EncoderDecoderModel, rank: int) -> None:
        """Put adapters into the model, drawn from the run's seed; the caller's random state stays."""
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            add_adapters(
                model,
                rank=rank,
                alpha=self.args.lora_alpha,
                dropout=self.args.lora_dropout,
                dora=self.args.dora,
                targets=[name.strip() for name in self.args.lora_targets.split(",") if name.strip()],
            )

    def make_engine(self, arguments: TrainingArguments, total_steps: int, fresh: Sequence[str]) -> Engine:
        """What trains and evaluates the model."""
        return Engine(self.model, arguments, self.world, total_steps, fresh, self.source_pad, self._objective)

    def _objective(self) -> Objective:
        assert self.train_examples is not None
        examples = self.train_examples
        if self.args.teacher is not None and isinstance(examples, Corpus):
            raise ConfigError(
                f"teacher = {self.args.teacher} with raw text: a teacher goes with pairs.",
                hint="adapt without it, and give it when the adapted model is trained on pairs.",
            )
        return build_objective(self.args, self.model, self.tokenizer, examples)

    def machine(self) -> Machine:
        """Return what computes: bfloat16 pays on GPUs and on processors with instructions for it."""
        device = self.world.device
        if device.type == "cpu":
            names = {"AMX": "_is_amx_tile_supported", "AVX-512": "_is_avx512_bf16_supported"}
            found = (name for name, test in names.items() if getattr(torch.cpu, test, bool)())
            return Machine(bf16=next(found, None), is_gpu=False)
        native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine(bf16=f"the {device.type} device" if native else None, is_gpu=True)

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train (see Trainer.train); how a resumed run computed its products holds until its end."""
        try:
            return super().train(resume_from_checkpoint)
        finally:
            use_products(None)

    def seed(self) -> None:
        """Start every generator."""
        seed_all(self.args.seed, self.world)


__all__ = ["PredictionOutput", "Seq2SeqTrainer", "TrainOutput"]
