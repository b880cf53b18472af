"""The processes of a run, in any framework."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class World(Protocol):
    """This process and the other processes of a run."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    @property
    def first(self) -> bool:
        """True for the one process that writes files and prints."""
        ...

    @property
    def many(self) -> bool:
        """True if there are other processes."""
        ...

    def from_first(self, value: T) -> T:
        """Return the first process's value."""
        ...

    def on_first(self, work: Callable[[], object]) -> None:
        """Run `work` in the first process while the others wait; if it fails, all processes raise its error."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """The world of a run in one process."""

    rank: int = 0
    size: int = 1
    first: bool = True
    many: bool = False

    def from_first(self, value: T) -> T:
        """Return the value."""
        return value

    def on_first(self, work: Callable[[], object]) -> None:
        """Run `work`."""
        work()
