"""Settings of `generate` that are written to a model's config: they go to model.generation_config, their one home."""

from collections.abc import Collection, Iterable
from typing import Any

from conjoin.errors import ConfigError


class GenerationWords:
    """Stands between a config that belongs to a model and the generation settings of that model.

    A config that several models were built from speaks to all of them.

    Args:
        every: Names of all settings.
        fields: Fields of the config's family, which stay where they are.
        writes: False for an encoder's config: an encoder writes no tokens, so a setting there means nothing.
    """

    def __init__(self, every: Iterable[str], fields: Collection[str], *, writes: bool) -> None:
        self.every = frozenset(every)
        self.names = self.every - set(fields)
        self.writes = writes
        self._targets: list[Any] = []
        self._said: list[str] = []

    def serve(self, target: Any, instead_of: Any = None) -> None:
        """Speak to these generation settings too, or in place of others."""
        others = [known for known in self._targets if known is not instead_of and known is not target]
        self._targets = [*others, target]

    def note(self, names: Iterable[str]) -> None:
        """Remember which settings the config was given: its dict goes on showing them, with the value that holds."""
        self._said += [name for name in names if name not in self._said]

    def get(self, name: str) -> Any:
        """The value that holds."""
        return getattr(self._targets[-1], name)

    def set(self, config: str, name: str, value: Any) -> None:
        """Honour what is written to a config.

        Raises:
            ConfigError: it is an encoder's.
        """
        if not self.writes:
            raise ConfigError(
                f"{config}.{name} = {value!r}: an encoder writes no tokens, so this would have no effect.",
                hint=f"model.generation_config.{name} = {value!r}",
            )
        self.note([name])
        for target in self._targets:
            setattr(target, name, value)

    def adopt(self, config: Any, *, writes: bool) -> None:
        """Bind the config of a half that takes another one's place."""
        for target in self._targets:
            for name, value in config.bind_generation(self.every, target, writes=writes).items():
                setattr(target, name, value)

    def said(self) -> dict[str, Any]:
        """The settings that the config was given, with the values that hold."""
        found = {name: self.get(name) for name in self._said}
        return {name: value for name, value in found.items() if value is not None}
