"""Training in PyTorch: what the run of `training/run.py` does there. Read `engine.py` first."""

from conjoin.training.torch.trainer import Seq2SeqTrainer, TrainOutput

__all__ = ["Seq2SeqTrainer", "TrainOutput"]
