"""What a run tells while it goes: metrics.jsonl, TensorBoard and the progress line."""

import time
from typing import Any

from conjoin.training.folder.metrics_log import Sink, open_sinks
from conjoin.training.folder.progress import TrainingProgress
from conjoin.training.folder.run_folder import RunFolder
from conjoin.training.folder.state import TrainerState


class Recorder:
    """Writes the numbers of a run; on all processes but the first it writes nothing.

    Args:
        state: Read at every record for step and time.
    """

    def __init__(self, run: RunFolder, state: TrainerState, report_to: str, *, shown: bool) -> None:
        self.state = state
        self._sinks: list[Sink] = open_sinks(run.path, state, report_to) if shown else []
        self._progress = TrainingProgress(state.max_steps, state.global_step, shown=shown)
        self._clock = time.perf_counter()
        self._logged = (state.tokens_seen, state.seconds)

    def stepped(self) -> None:
        """Count a step and its time."""
        self.tick()
        self._progress.step()

    def tick(self) -> None:
        """Add the time since the last call to the run's."""
        now = time.perf_counter()
        self.state.seconds += max(now - self._clock, 0.0)  # machines that wake up, or are moved, set clocks back
        self._clock = now

    def pause(self) -> None:
        """Leave out the time since the last call: evaluations do not slow training down."""
        self._clock = time.perf_counter()

    def train(self, epoch: float, loss: float, grad_norm: float, rates: dict[str, float]) -> dict[str, Any]:
        """Record a logged step.

        Args:
            rates: Learning rate by part of the model.
        """
        tokens, seconds = self._logged
        self._logged = (self.state.tokens_seen, self.state.seconds)
        speed = (self.state.tokens_seen - tokens) / max(self.state.seconds - seconds, 1e-9)
        logs: dict[str, Any] = {"loss": loss, **{f"lr_{part}": rate for part, rate in rates.items()}}
        logs |= {"grad_norm": grad_norm, "tokens_per_s": round(speed, 1)}
        self._write("train", epoch, logs)
        self._progress.log(loss, speed)
        return logs

    def evaluation(self, epoch: float, metrics: dict[str, float]) -> None:
        """Record an evaluation."""
        self._write("eval", epoch, metrics)

    def sample(self, epoch: float, source: str, target: str, prediction: str) -> None:
        """Record what the model makes of one pair."""
        self._write("sample", epoch, {"source": source, "target": target, "prediction": prediction})

    def _write(self, kind: Any, epoch: float, values: dict[str, Any]) -> None:
        base = {"epoch": round(epoch, 4), "time_s": round(self.state.seconds, 3)}
        for sink in self._sinks:
            sink.write(kind, self.state.global_step, base | values)

    def close(self) -> None:
        """Write what is left."""
        self._progress.close()
        for sink in self._sinks:
            sink.close()
