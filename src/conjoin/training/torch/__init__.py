"""The training loop in PyTorch."""

from conjoin.training.torch.trainer import Seq2SeqTrainer, TrainOutput

__all__ = ["Seq2SeqTrainer", "TrainOutput"]
