"""Several settings tried within a time: successive halving over a validation metric, on one machine."""

from conjoin._lazy import public_dir
from conjoin.training.sweep.space import Choices, Interval, parse_over
from conjoin.training.sweep.sweep import Sweep, SweepResult

__all__ = ["Choices", "Interval", "Sweep", "SweepResult", "parse_over"]

__dir__ = public_dir(__all__)
