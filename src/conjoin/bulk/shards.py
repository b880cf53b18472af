"""Shards: every n-th source of an input, so that n processes that share nothing but files divide a run."""

import re
from dataclasses import dataclass
from pathlib import Path

from conjoin.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards: of every `count` sources the one in place `number`, from 1.

    Every n-th source, and no block of them, because a shard of a pipe must not know how many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that `i/n` names.

        Raises:
            ConfigError: it names none.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"{text!r} names no shard; expected i/n, such as 1/4 to 4/4.")
        return cls(int(match[1]), int(match[2]))

    def holds(self, index: int) -> bool:
        """True if a source, by its index from 0, is in this shard."""
        return index % self.count == self.number - 1

    def index(self, at: int) -> int:
        """Return the index in the input of the shard's source at a place."""
        return at * self.count + self.number - 1

    def size(self, total: int) -> int:
        """Return how many of `total` sources are in this shard."""
        return len(range(self.number - 1, total, self.count))

    def part(self, path: Path) -> Path:
        """Return the file of this shard's results; the results file itself if there is one shard."""
        return path if self.count == 1 else path.with_name(f"{path.name}.{self.number}-of-{self.count}")

    def __str__(self) -> str:
        """Return i/n."""
        return f"{self.number}/{self.count}"


WHOLE = Shard(1, 1)
"""All sources."""
