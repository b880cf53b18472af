"""What an engine has done so far, and how long it took."""

from conjoin.torch.generation.engine.job import Active
from conjoin.torch.generation.engine.schedule import Expectation


class Meter:
    """Counters of an engine. Written by its thread; others may read.

    Attributes:
        steps: Steps of the decoder.
        row_steps: Rows of all steps.
        tokens: Tokens that were added to hypotheses, those that lost included.
        step_seconds, encode_seconds: Time in steps, and in encoding sources.
        requests: Requests that ran to their end together with others.
    """

    def __init__(self) -> None:
        self.expectation = Expectation()
        self.steps = 0
        self.row_steps = 0
        self.tokens = 0
        self.step_seconds = 0.0
        self.encode_seconds = 0.0
        self.requests = 0

    def saw_steps(self, seconds: float, steps: int, rows: int, grown: int) -> None:
        """Count steps of so many rows, which added so many tokens."""
        self.steps += steps
        self.row_steps += steps * rows
        self.tokens += grown
        self.step_seconds += seconds
        self.expectation.saw_steps(seconds, steps, rows)

    def saw_result(self, active: Active) -> None:
        """Count a request that is done."""
        self.requests += 1
        self.expectation.saw_result(active.run.source_tokens, active.length - active.run.limits.prompt)
