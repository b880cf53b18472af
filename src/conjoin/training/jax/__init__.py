"""Training on JAX: the same data, arguments, order of events and run folder as on PyTorch. Read `engine.py` first."""

from conjoin._lazy import public_dir
from conjoin.training.jax.trainer import Seq2SeqTrainer, TrainOutput

__all__ = ["Seq2SeqTrainer", "TrainOutput"]

__dir__ = public_dir(__all__)
