"""Callbacks of a run, with Hugging Face's names."""

from dataclasses import dataclass
from typing import Any

from conjoin.training.folder.state import TrainerState
from conjoin.training.settings.arguments import TrainingArguments


@dataclass
class TrainerControl:
    """What a callback may request: done after the step and then reset, except for should_training_stop."""

    should_training_stop: bool = False
    should_evaluate: bool = False
    should_save: bool = False


class TrainerCallback:
    """Override what you need. `kwargs` holds `model`, and `logs` or `metrics` if there are some."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step, after the doctor."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After every step."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After `logs` were written."""

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After an evaluation gave `metrics`."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a checkpoint is in place."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the last step, before the final model is written."""
