"""Seq2SeqTrainer on PyTorch."""

from collections.abc import Sequence
from typing import Any

from conjoin.torch.cpu.linear_grad import use_products
from conjoin.training.loop.trainer import PredictionOutput, Trainer, TrainOutput
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.torch.checkpoints import seed_all
from conjoin.training.torch.engine import Engine
from conjoin.training.torch.world import World, join_world


class Seq2SeqTrainer(Trainer[World]):
    """Trains and evaluates an `EncoderDecoderModel`; see conjoin.training.loop.trainer.Trainer."""

    def place(self, model: Any) -> tuple[Any, World]:
        """Join the processes, and put the model on this one's device."""
        world = join_world(use_cpu=self.args.use_cpu)
        if self.args.freeze:
            model.freeze(*(part.strip() for part in self.args.freeze.split(",")))
        return model.to(world.device), world

    def make_engine(self, arguments: TrainingArguments, total_steps: int, fresh: Sequence[str]) -> Engine:
        """What trains and evaluates the model."""
        return Engine(self.model, arguments, self.world, total_steps, fresh, self.source_pad)

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
