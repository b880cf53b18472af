"""sweep.json: everything that a sweep knows, written after each of its events, so that it goes on after a kill."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from conjoin.checkpoint import read_json, write_json
from conjoin.errors import ConfigError, shown
from conjoin.training.sweep.ladder import Ladder

FILE = "sweep.json"
Status = Literal["waiting", "running", "stopped", "finished", "failed"]


@dataclass(slots=True)
class Trial:
    """One combination of settings.

    Args:
        scores: Score at the end of every rung that it reached.
        steps: Steps that it took.
        problem: What ended it, if it failed.
        step_s, start_s: Measured seconds of a step, and of everything around the steps of a rung; 0 if not measured.
    """

    number: int
    values: dict[str, Any]
    status: Status = "waiting"
    scores: list[float] = field(default_factory=list[float])
    steps: int = 0
    problem: str = ""
    step_s: float = 0.0
    start_s: float = 0.0

    @property
    def folder(self) -> str:
        """Name of its run's folder."""
        return f"trial-{self.number}"


@dataclass(slots=True)
class Journal:
    """The state of a sweep.

    Args:
        asked: What was asked for; a sweep goes on only if this is the same.
        spent_s: Seconds that it took so far.
    """

    asked: dict[str, Any]
    trials: list[Trial] = field(default_factory=list[Trial])
    ladder: Ladder | None = None
    spent_s: float = 0.0

    def write(self, folder: Path) -> None:
        """Write it, atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Journal | None":
        """Read the journal of a folder; None if there is none.

        Raises:
            ConfigError: it is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        plain = read_json(path)
        try:
            rungs = cast("dict[str, Any] | None", plain.get("ladder"))
            return cls(
                asked=dict(plain["asked"]),
                trials=[Trial(**each) for each in plain["trials"]],
                ladder=Ladder(tuple(rungs["trials"]), tuple(rungs["steps"])) if rungs else None,
                spent_s=float(plain["spent_s"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}: holds no sweep: {shown(str(error))}.", hint="start in another folder."
            ) from None
