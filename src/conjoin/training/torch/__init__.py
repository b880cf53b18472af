"""Training in PyTorch: what the run of `training/loop/run.py` does there. Read `engine.py` first."""

from conjoin._lazy import public_dir
from conjoin.training.torch.trainer import Seq2SeqTrainer, TrainOutput

__all__ = ["Seq2SeqTrainer", "TrainOutput"]

__dir__ = public_dir(__all__)
