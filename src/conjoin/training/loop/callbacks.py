"""A user's own code at the turns of a run; Hugging Face's names."""

from dataclasses import dataclass
from typing import Any

from conjoin.training.folder.state import TrainerState
from conjoin.training.settings.arguments import TrainingArguments


@dataclass
class TrainerControl:
    """What a callback may ask for; each is done after the step and then forgotten, but for the first."""

    should_training_stop: bool = False
    should_evaluate: bool = False
    should_save: bool = False


class TrainerCallback:
    """Override what you need. `keywords` holds `model`, and `logs` or `metrics` where there are some."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Before the first step, after the doctor."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """After every step."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any) -> None:
        """After `logs` were written."""

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """After an evaluation gave `metrics`."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any) -> None:
        """After a checkpoint is in place."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """After the last step, before the final model is written."""
