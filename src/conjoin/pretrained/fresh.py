"""A model that knows which of its parameters nobody has trained, and says so once where that matters."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from conjoin.configuration import EncoderDecoderConfig
from conjoin.errors import warn
from conjoin.families import PretrainedConfig
from conjoin.join import FreshStart, JoinReport, first_numbers, fresh_names, part_of, record, recorded


class RemembersFresh:
    """A joined model whose config.json keeps on record what is fresh, until its numbers change."""

    join_report: JoinReport
    _fresh_start: FreshStart | None = None
    _on_record: tuple[str, ...] = ()

    def note_fresh(self, parameters: Mapping[str, Any]) -> None:
        """Remember what fresh parameters start with, once all are filled; the config tells of them.

        Args:
            parameters: By canonical name.
        """
        config, names = _config_of(self), fresh_names(self.join_report)
        if not names or config is None:
            return
        self._on_record = tuple(sorted({*recorded(self.join_report).values()}))
        self._fresh_start = FreshStart(names, _reader(parameters))
        config.fresh = record(self.join_report, names)

    def fresh_record(self, parameters: Mapping[str, Any]) -> list[str]:
        """What of that is fresh still: for config.json."""
        config = _config_of(self)
        if self._fresh_start is None or config is None or not config.fresh:
            return []
        return record(self.join_report, self._fresh_start.untouched(_reader(parameters)))

    def warn_of_fresh(self, parameters: Callable[[], Mapping[str, Any]]) -> None:
        """Tell once, before it writes, that a model that was saved after a join has not been trained since."""
        parts, self._on_record = self._on_record, ()
        if not parts:
            return
        fresh = self.fresh_record(parameters())
        if still := sorted(part for part in parts if any(name == part or part_of(name) == part for name in fresh)):
            warn(
                f"{', '.join(still)}: fresh since the join, and never trained; what this model writes means nothing "
                "yet. Train it; or, if you gave it trained weights, set model.config.fresh = []."
            )


def _config_of(model: Any) -> EncoderDecoderConfig | None:
    config: PretrainedConfig = model.config
    return config if isinstance(config, EncoderDecoderConfig) else None


def _reader(parameters: Mapping[str, Any]) -> Any:
    def read(name: str) -> tuple[np.ndarray, str]:
        value = parameters.get(name)
        if value is None:  # another library took its place
            return np.empty(0, np.float32), ""
        few = first_numbers(value.detach() if hasattr(value, "detach") else np.asarray(value))
        dtype = str(few.dtype).removeprefix("torch.")
        numbers = few.float().cpu().numpy() if hasattr(few, "cpu") else few
        return np.array(numbers, np.float32), dtype  # a copy: training writes over the original

    return read
