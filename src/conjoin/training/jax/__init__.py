"""Training on JAX: the same data, arguments, order of events and run folder as on PyTorch. Read `engine.py` first."""

from conjoin.training.jax.trainer import Seq2SeqTrainer, TrainOutput

__all__ = ["Seq2SeqTrainer", "TrainOutput"]
