"""When a run ends, and where in its schedule it is: by steps, by tokens, or by minutes.

Steps and tokens are functions of the run's state. Minutes are measured, so what was measured is written down step by
step: a resumed run repeats the steps that its checkpoint had not saved with the rates that they had.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from conjoin.errors import warn
from conjoin.training.folder.state import TrainerState
from conjoin.training.settings.arguments import TrainingArguments
from conjoin.training.world import World

SHARES = 10_000
"""Parts of a budget of tokens or minutes, which schedules count in place of steps."""
FILE = "clock.txt"
_HEAD = "max_minutes "
LEAST_SHARE = 0.1
"""Part of a budget of minutes that training has at least, or there is a warning."""
monotonic = time.monotonic
"""The clock of budgets, in seconds."""


class Budget(Protocol):
    """What a run may use up.

    Attributes:
        total: Units of its schedule: steps, or parts of the budget.
    """

    total: int

    def is_over(self, state: TrainerState) -> bool:
        """True if no further step is to be taken."""
        ...

    def share(self, state: TrainerState) -> float:
        """Return the part of the budget that is used, from 0 to 1."""
        ...

    def before_step(self, state: TrainerState) -> None:
        """Note when a step begins."""
        ...

    def after_step(self, state: TrainerState) -> None:
        """Count a step that is taken."""
        ...

    def tick(self, state: TrainerState) -> None:
        """Write the time that is used by now into the state."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class Steps:
    """A number of optimizer steps."""

    def __init__(self, total: int) -> None:
        self.total = total

    def is_over(self, state: TrainerState) -> bool:
        """True after the last step."""
        return state.global_step >= self.total

    def share(self, state: TrainerState) -> float:
        """Return the part of the steps that is done."""
        return min(1.0, state.global_step / max(1, self.total))

    def before_step(self, state: TrainerState) -> None:
        """Nothing to note."""

    def after_step(self, state: TrainerState) -> None:
        """Write the part of the budget that is used into the state."""
        state.share, state.minutes = self.share(state), 0.0

    def tick(self, state: TrainerState) -> None:
        """Nothing to write."""

    def close(self) -> None:
        """Nothing to close."""


class Tokens(Steps):
    """A number of source and target tokens, padding not counted: the run is as exactly repeatable as one of steps."""

    def __init__(self, tokens: int) -> None:
        super().__init__(SHARES)
        self._tokens = tokens

    def is_over(self, state: TrainerState) -> bool:
        """True when the tokens are used up."""
        return state.tokens_seen >= self._tokens

    def share(self, state: TrainerState) -> float:
        """Return the part of the tokens that is used."""
        return min(1.0, state.tokens_seen / self._tokens)


class Minutes:
    """Wall time from the start of the command, the time of earlier commands of a resumed run included.

    Training ends early enough for what follows it. A step moves the run by its part of the training time that is left,
    so evaluations and saves in between, and steps that become slower, shorten what follows in proportion: the share
    grows smoothly and reaches 1 with the last step. A run that is resumed with other minutes, or had steps or tokens
    before, is where its time puts it in the new schedule.

    Args:
        started: `monotonic()` at the start of the command.
        reserve: Returns the seconds that evaluating and saving at the end will take, as far as is known.
        folder: The run's folder, where the clock of every step is written.
        world: Processes that must agree; the first one's clock counts.
    """

    def __init__(
        self,
        minutes: float,
        state: TrainerState,
        *,
        started: float,
        reserve: Callable[[], float],
        folder: Path,
        world: World,
    ) -> None:
        self.total = SHARES
        self._seconds, self._reserve, self._world = 60 * minutes, reserve, world
        self._origin = started - state.clock
        self._began, self._left = monotonic(), 0.0
        self._past = _read_record(folder, state.global_step, minutes)
        if state.global_step and state.minutes != minutes:
            state.share = min(1.0, state.clock / self._seconds)
        state.minutes = minutes
        self._record = _open_record(folder, state.global_step, minutes) if world.first else None
        if world.first and not state.global_step and self.left() < LEAST_SHARE * self._seconds:
            warn(
                f"Of max_minutes = {minutes:g}, {max(0.0, self.left()):.0f} s are left for training: "
                f"{self.used():.0f} s are used by now, and the end of the run needs the rest. Give it more minutes."
            )

    def used(self) -> float:
        """Return the seconds that are used by now."""
        return max(0.0, monotonic() - self._origin)

    def left(self) -> float:
        """Return the seconds that are left for training; what follows may take at most half of the budget."""
        return self._seconds - min(self._reserve(), self._seconds / 2) - self.used()

    def is_over(self, state: TrainerState) -> bool:
        """True if another step would take too long; one step is always taken."""
        if state.global_step + 1 in self._past or not state.global_step:
            return False
        return self._world.from_first(state.share >= 1 or self.left() < state.step_s)

    def share(self, state: TrainerState) -> float:
        """Return the part of the training time that is used."""
        return state.share

    def before_step(self, state: TrainerState) -> None:
        """Start to measure a step."""
        self._began, self._left = monotonic(), self.left()

    def after_step(self, state: TrainerState) -> None:
        """Move the run by the time of the step; a step that was recorded before is not measured again."""
        took = max(0.0, monotonic() - self._began)
        state.step_s = took if not state.step_s else 0.9 * state.step_s + 0.1 * took
        recorded = self._past.pop(state.global_step, None)
        if recorded is not None:
            state.share, state.clock = recorded
            self._origin = monotonic() - state.clock
            return
        part = min(1.0, took / self._left) if self._left > 0 else 1.0
        state.share = self._world.from_first(state.share + (1.0 - state.share) * part)
        self.tick(state)
        if self._record is not None:
            self._record.write(f"{state.global_step} {state.share!r} {state.clock!r}\n")

    def tick(self, state: TrainerState) -> None:
        """Write the time that is used by now into the state."""
        state.clock = self.used()

    def close(self) -> None:
        """Close the record."""
        if self._record is not None:
            self._record.close()


def _read_record(folder: Path, step: int, minutes: float) -> dict[int, tuple[float, float]]:
    """Return share and clock of the recorded steps after this one.

    Steps of a budget of other minutes are left out, and lines that a kill cut short.
    """
    found: dict[int, tuple[float, float]] = {}
    same = False
    path = folder / FILE
    for line in path.read_text(encoding="utf-8").splitlines() if step and path.is_file() else []:
        with suppress(ValueError):
            if line.startswith(_HEAD):
                same = float(line.removeprefix(_HEAD)) == minutes
                continue
            number, share, clock = line.split(" ")
            if same and int(number) > step and 0 <= float(share) <= 1 and float(clock) >= 0:
                found[int(number)] = float(share), float(clock)
    return found


def _open_record(folder: Path, step: int, minutes: float) -> IO[str]:
    """Open the record, a new one for a new run, and note what budget its steps are of."""
    record = open(folder / FILE, "a" if step else "w", encoding="utf-8", buffering=1)  # noqa: SIM115  (the run closes it)
    record.write(f"\n{_HEAD}{float(minutes)!r}\n")  # behind a line that a kill cut short
    return record


def position(state: TrainerState, budget: Budget) -> float:
    """Return where the next step is in the schedule, counted from 1; a run that started again has a shorter one."""
    if not state.restarts and isinstance(budget, Steps) and not isinstance(budget, Tokens):
        return state.global_step + 1
    begun = state.restarted_at
    return max(1.0, 1 + budget.total * (budget.share(state) - begun) / max(1e-9, 1 - begun))


def make_budget(
    arguments: TrainingArguments,
    state: TrainerState,
    *,
    started: float,
    reserve: Callable[[], float],
    folder: Path,
    world: World,
) -> Budget:
    """Return the budget that the arguments give a run.

    Args:
        started: When the command started.
        reserve: Seconds that the end of the run will take.
        folder: The run's folder.
    """
    used = state.share
    budget: Budget = Steps(state.max_steps)
    if arguments.max_minutes is not None:
        minutes = arguments.max_minutes
        budget = Minutes(minutes, state, started=started, reserve=reserve, folder=folder, world=world)
    elif arguments.max_tokens is not None:
        budget = Tokens(arguments.max_tokens)
    if state.restarts and used and budget.share(state) != used:  # the restart moves with the run in the new schedule
        state.restarted_at = min(1.0, state.restarted_at * budget.share(state) / used)
    return budget
