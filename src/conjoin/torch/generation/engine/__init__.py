"""Requests that come and go while one model runs: `Engine`, and the `Handle` of each request."""

from conjoin.torch.generation.engine.engine import MOST_ROWS, Engine
from conjoin.torch.generation.engine.handle import Handle
from conjoin.torch.generation.engine.job import Cancelled, Outcome, Progress
from conjoin.torch.generation.engine.schedule import PRIORITIES, Priority
from conjoin.torch.generation.engine.scorer import Details, TokenScore

__all__ = [
    "MOST_ROWS",
    "PRIORITIES",
    "Cancelled",
    "Details",
    "Engine",
    "Handle",
    "Outcome",
    "Priority",
    "Progress",
    "TokenScore",
]
